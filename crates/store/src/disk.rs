//! Durable file operations: what returns from here has reached the disk.

use crate::StoreError;
use crate::error::io_error;
use freehold_base::{Digest, Hasher};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// Bytes per read while hashing or copying.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// Bytes that an unprivileged user may still write on the file system of `path`; `None` where that is unknown.
#[cfg(unix)]
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    // The file itself may not exist yet; an ancestor does.
    let existing = path.ancestors().find(|ancestor| ancestor.exists())?;
    let stat = rustix::fs::statvfs(existing).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

#[cfg(not(unix))]
pub(crate) fn free_bytes(_path: &Path) -> Option<u64> {
    None
}

/// Makes the creations, renames and removals inside `directory` durable.
#[cfg(unix)]
pub(crate) fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    File::open(directory).and_then(|handle| handle.sync_all()).map_err(io_error("sync", directory))
}

#[cfg(not(unix))]
pub(crate) fn sync_directory(_directory: &Path) -> Result<(), StoreError> {
    Ok(())
}

/// Replaces `path` by `bytes`: readers see the old content or the new, never a part. `scratch` lies on the same file
/// system; the caller holds a lock that keeps others from it.
pub(crate) fn replace(path: &Path, scratch: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut file = File::create(scratch).map_err(io_error("create", scratch))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io_error("write", scratch))?;
    fs::rename(scratch, path).map_err(io_error("replace", path))?;
    match path.parent() {
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

/// Reads a whole small file, refusing more than `limit` bytes before they are in memory.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, StoreError> {
    let file = File::open(path).map_err(io_error("read", path))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(StoreError::Malformed {
            path: path.to_owned(),
            reason: format!("it is larger than the {limit} bytes that such a file may have"),
        });
    }
    Ok(bytes)
}

/// Removes a file; that it is gone already is as good.
pub(crate) fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Hashes the next `length` bytes of `file`, or all of them; `progress` gets the bytes done so far.
pub(crate) fn hash(
    file: &mut File,
    path: &Path,
    length: Option<u64>,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<(Hasher, u64), StoreError> {
    let mut hasher = Hasher::new();
    let done = for_each_chunk(file, path, length, |bytes, done| {
        hasher.update(bytes);
        if progress(done).is_break() { Err(StoreError::Cancelled) } else { Ok(()) }
    })?;
    Ok((hasher, done))
}

/// Hands the next `length` bytes of `file`, or all of them, to `take` in chunks, with the count including the chunk.
pub(crate) fn for_each_chunk(
    file: &mut File,
    path: &Path,
    length: Option<u64>,
    mut take: impl FnMut(&[u8], u64) -> Result<(), StoreError>,
) -> Result<u64, StoreError> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut done = 0;
    loop {
        let left = length.map_or(u64::MAX, |length| length - done);
        let wanted = left.min(CHUNK_BYTES as u64) as usize;
        let count = match file.read(&mut buffer[..wanted]) {
            Ok(0) => return Ok(done),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(io_error("read", path)(error)),
        };
        done += count as u64;
        take(&buffer[..count], done)?;
    }
}

/// What changes when a file's bytes are written to: its size and time of change, as text. `None` if it cannot be told.
pub(crate) fn stamp(path: &Path, digest: &Digest) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!("{digest} {} {}\n", metadata.len(), modified.as_nanos()))
}
