//! What can go wrong in the store.

use freehold_base::Digest;
use freehold_base::units::format_bytes;
use std::io;
use std::path::{Path, PathBuf};

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("could not {action} {}: {error}", .path.display())]
    Io {
        /// A verb: `read`, `rename`.
        action: &'static str,
        /// What it was about.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// No room for the blob.
    #[error("the disk that holds {} is full: {}; free some space and try again, what has arrived is kept", .path.display(), shortage(*.needed_bytes, *.free_bytes))]
    DiskFull {
        /// Where it was to be written.
        path: PathBuf,
        /// Bytes still to be written, where known.
        needed_bytes: Option<u64>,
        /// Bytes free, where known.
        free_bytes: Option<u64>,
    },
    /// The bytes are not those asked for.
    #[error(
        "{what} has the wrong content: expected {expected}, got {got}; it was not kept, so try again or use another source"
    )]
    WrongDigest {
        /// Which bytes.
        what: String,
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        got: Digest,
    },
    /// There are more or fewer bytes than announced.
    #[error("{what} has the wrong size: expected {expected} bytes, got {got}; try again or use another source")]
    WrongSize {
        /// Which bytes.
        what: String,
        /// Bytes announced.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
    /// A blob in the store no longer has the bytes it is named by.
    #[error("blob {digest} in the store is damaged: its bytes now hash to {got}; `freehold scrub` fetches it again")]
    Damaged {
        /// The blob's name.
        digest: Digest,
        /// The digest of its bytes.
        got: Digest,
    },
    /// A manifest names a blob that the store lacks.
    #[error("the store lacks blob {digest}, which {needed_by} needs: `freehold scrub` fetches it again")]
    MissingBlob {
        /// The blob's name.
        digest: Digest,
        /// The model or file that names it.
        needed_by: String,
    },
    /// A file of the layout cannot be understood.
    #[error("{} is not usable: {reason}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Which field, and what is wrong with it.
        reason: String,
    },
    /// No such model.
    #[error(
        "there is no model `{reference}` in the store: `freehold list` shows what is there, `freehold pull` fetches one"
    )]
    NotFound {
        /// What was asked for.
        reference: String,
    },
    /// The name is there, but with another digest.
    #[error(
        "`{name}` is in the store as {found}, not as {expected}: drop the digest to use it, or pull the one you want"
    )]
    OtherDigest {
        /// The model's name.
        name: String,
        /// The manifest digest asked for.
        expected: Digest,
        /// The manifest digest that the name has.
        found: Digest,
    },
    /// A digest prefix fits several models.
    #[error("`{reference}` fits several models: give more of the digest")]
    Ambiguous {
        /// What was asked for.
        reference: String,
    },
    /// Not a name that a model can have.
    #[error("`{name}` cannot be a model's name: {reason}")]
    InvalidName {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Not a name that a file of a model can have.
    #[error("a model cannot hold a file named `{path}`: {reason}")]
    InvalidFilePath {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The caller asked to stop.
    #[error("stopped; what has arrived is kept and the next pull goes on from there")]
    Cancelled,
}

fn shortage(needed_bytes: Option<u64>, free_bytes: Option<u64>) -> String {
    match (needed_bytes, free_bytes) {
        (Some(needed), Some(free)) => format!("{} are needed, {} are free", format_bytes(needed), format_bytes(free)),
        (Some(needed), None) => format!("{} are needed", format_bytes(needed)),
        (None, Some(free)) => format!("{} are free", format_bytes(free)),
        (None, None) => "no space left".to_owned(),
    }
}

/// Turns an I/O error into ours, for `map_err`; a full disk gets its own variant.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            StoreError::DiskFull {
                path: path.to_owned(),
                needed_bytes: None,
                free_bytes: crate::disk::free_bytes(path),
            }
        }
        _ => StoreError::Io { action, path: path.to_owned(), error },
    }
}
