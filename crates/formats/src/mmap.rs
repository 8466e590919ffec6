//! A file's bytes without reading the file.

use crate::error::{Error, Result};
#[cfg(unix)]
use memmap2::UncheckedAdvice;
use std::fs::{self, File};
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

/// The read-only bytes of a file, mapped into memory, or of a buffer. Cheap to clone: clones share the bytes.
///
/// A mapping shows the file as it is now, not as it was. If another process writes to the file the bytes change under
/// us, and if it cuts the file short, reading past the new end kills this process with SIGBUS. The store's blobs are
/// read-only and named by their content, so neither happens to them; a file opened straight from a user's path is
/// trusted to stay as it is while a model runs from it.
#[derive(Clone)]
pub struct Mmap(Arc<Backing>);

enum Backing {
    File(memmap2::Mmap),
    Memory(Vec<u8>),
}

impl Mmap {
    /// Maps a regular file (a link to one is followed).
    ///
    /// # Errors
    /// [`Error::Io`] where the path is not a regular file or cannot be opened and mapped.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::Io { path: path.to_owned(), source };
        // Asked before the file is opened: opening a named pipe would wait for its writer.
        if !fs::metadata(path).map_err(failed)?.is_file() {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
        }
        let file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.len() == 0 {
            return Ok(Self::from(Vec::new()));
        }
        // SAFETY: the mapping is private to this type, read-only, and lives as long as the slices borrowed from it.
        // What remains is a file that changes under the mapping; the type's documentation says why that is accepted.
        #[allow(unsafe_code, reason = "the one memory map of the product")]
        let mapping = unsafe { memmap2::Mmap::map(&file) }.map_err(failed)?;
        Ok(Self(Arc::new(Backing::File(mapping))))
    }

    /// Gives the memory that `part` of these bytes takes back to the system. What is read again later comes from the file
    /// again: nothing changes but memory and time. Other bytes than these, and those of a buffer, stay as they are.
    pub(crate) fn release(&self, part: &[u8]) {
        let Backing::File(mapping) = &*self.0 else { return };
        let offset = part.as_ptr().addr().wrapping_sub(mapping.as_ptr().addr());
        if offset.checked_add(part.len()).is_none_or(|end| end > mapping.len()) {
            return;
        }
        // SAFETY: the mapping is of a file and nobody writes to it, so its pages show the same bytes when they come back.
        // The range, widened to whole pages, is inside it.
        #[cfg(unix)]
        #[allow(unsafe_code, reason = "of the one memory map of the product")]
        let _only_advice = unsafe { mapping.unchecked_advise_range(UncheckedAdvice::DontNeed, offset, part.len()) };
    }
}

impl From<Vec<u8>> for Mmap {
    /// The same view of bytes that are in memory already.
    fn from(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Backing::Memory(bytes)))
    }
}

impl Deref for Mmap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &*self.0 {
            Backing::File(mapping) => mapping,
            Backing::Memory(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Mmap {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Mmap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mmap({} bytes)", self.len())
    }
}
