//! Locks between processes. The system releases them when their holder ends, however it ends.

use crate::StoreError;
use crate::disk::open;
use crate::error::io_error;
use std::fs::{File, TryLockError};
use std::ops::ControlFlow;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// How often a waiter looks again, so that it can show progress and be cancelled.
const POLL: Duration = Duration::from_millis(50);

/// Whether `path` still names `file`: the lock of a finished blob loses its name, and who holds such a lock holds nothing.
#[cfg(unix)]
fn is_named(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Elsewhere the name of an open file cannot be removed.
#[cfg(not(unix))]
fn is_named(_file: &File, _path: &Path) -> bool {
    true
}

/// Waits for the lock that many may share.
pub(crate) fn shared(path: &Path) -> Result<File, StoreError> {
    let file = open(path)?;
    file.lock_shared().map_err(io_error("lock", path))?;
    Ok(file)
}

/// Waits for the lock that one may hold; only for work that is short.
pub(crate) fn exclusive(path: &Path) -> Result<File, StoreError> {
    let file = open(path)?;
    file.lock().map_err(io_error("lock", path))?;
    Ok(file)
}

/// The lock that one may hold, or `None` if somebody has it, or had it and removed its name just now.
pub(crate) fn try_exclusive(path: &Path) -> Result<Option<File>, StoreError> {
    let file = open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(is_named(&file, path).then_some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(io_error("lock", path)(error)),
    }
}

/// Waits for the lock that one may hold, for as long as `waiting` says so.
pub(crate) fn exclusive_with(path: &Path, waiting: &mut dyn FnMut() -> ControlFlow<()>) -> Result<File, StoreError> {
    loop {
        if let Some(file) = try_exclusive(path)? {
            return Ok(file);
        }
        if waiting().is_break() {
            return Err(StoreError::Cancelled);
        }
        thread::sleep(POLL);
    }
}
