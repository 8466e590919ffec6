//! What the store asks of the file system. Every change to the disk goes through [`change`], so that tests can make each
//! of them fail, or be the last thing that happens.

use crate::StoreError;
use crate::error::io_error;
#[cfg(all(test, unix))]
use crate::faults::change;
use freehold_base::{Digest, Hasher};
use std::fs::{self, File, OpenOptions};
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

/// A change to the disk, as far as a fault depends on what it is.
#[cfg_attr(not(all(test, unix)), expect(dead_code, reason = "only tests look into it"))]
pub(crate) enum Change<'a> {
    /// A name where there may have been none, which takes room.
    Create(&'a Path),
    /// More bytes, which take room.
    Write(&'a File, &'a [u8]),
    /// The bytes of a file, or the names in a directory, become durable.
    Sync(&'a Path),
    /// Anything else.
    Other,
}

/// Makes a change.
#[cfg(not(all(test, unix)))]
fn change<T>(_: &Change<'_>, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    make()
}

/// Creates a directory and those above it, durably, where they are not there.
pub(crate) fn create_directory(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_directory(parent)?;
    match change(&Change::Create(path), || fs::create_dir(path)) {
        // Another process may have been faster.
        Err(error) if !path.is_dir() => return Err(io_error("create", path)(error)),
        _ => {}
    }
    sync_directory(parent)
}

/// Opens a file for reading and writing, and creates it if it is not there.
pub(crate) fn open(path: &Path) -> Result<File, StoreError> {
    change(&Change::Create(path), || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path))
        .map_err(io_error("open", path))
}

/// Writes where the file stands. After an error it is unknown how much has arrived.
pub(crate) fn write(mut file: &File, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    change(&Change::Write(file, bytes), || file.write_all(bytes)).map_err(io_error("write", path))
}

/// Drops what follows the first `length` bytes.
pub(crate) fn truncate(file: &File, path: &Path, length: u64) -> Result<(), StoreError> {
    change(&Change::Other, || file.set_len(length)).map_err(io_error("truncate", path))
}

/// Makes the bytes of `file`, which lies at `path`, durable.
pub(crate) fn sync(file: &File, path: &Path) -> Result<(), StoreError> {
    change(&Change::Sync(path), || wait_for_disk(file)).map_err(io_error("sync", path))
}

fn wait_for_disk(file: &File) -> io::Result<()> {
    // Tests that stop the machine keep their own account of what is durable, and need not wait.
    if cfg!(test) { Ok(()) } else { file.sync_all() }
}

/// Makes the creations, renames and removals inside `directory` durable.
#[cfg(unix)]
pub(crate) fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    change(&Change::Sync(directory), || wait_for_disk(&File::open(directory)?)).map_err(io_error("sync", directory))
}

#[cfg(not(unix))]
pub(crate) fn sync_directory(_directory: &Path) -> Result<(), StoreError> {
    Ok(())
}

/// Gives a file another name, which may be that of a file there is.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    change(&Change::Other, || fs::rename(from, to)).map_err(io_error("rename", from))
}

/// Gives a file a second name; not every file system can.
pub(crate) fn hard_link(original: &Path, link: &Path) -> io::Result<()> {
    change(&Change::Create(link), || fs::hard_link(original, link))
}

/// Removes a file; that it is gone already is as good.
pub(crate) fn remove_file(path: &Path) -> Result<(), StoreError> {
    match change(&Change::Other, || fs::remove_file(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a directory and what is in it.
pub(crate) fn remove_directory(path: &Path) -> Result<(), StoreError> {
    change(&Change::Other, || fs::remove_dir_all(path)).map_err(io_error("remove", path))
}

/// Makes `bytes` a file's content, not yet durably: whoever reads it must bear with a part of them.
pub(crate) fn overwrite(path: &Path, bytes: &[u8]) -> Result<File, StoreError> {
    let file = open(path)?;
    truncate(&file, path, 0)?;
    write(&file, path, bytes)?;
    Ok(file)
}

/// Replaces `path` by `bytes`, durably: readers see the old content or the new, never a part. `scratch` lies on the same
/// file system; the caller holds a lock that keeps others from it.
pub(crate) fn replace(path: &Path, scratch: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    sync(&overwrite(scratch, bytes)?, scratch)?;
    rename(scratch, path)?;
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
