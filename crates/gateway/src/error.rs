//! What can go wrong before anything is served.

use std::io;
use std::path::PathBuf;

/// Why the gateway cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The key file cannot be read or written.
    #[error("cannot read or create the key file {}: {source}. Check that its folder exists and is yours", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others can read the key file.
    #[error(
        "the key file {} can be read by other users of this machine (mode {mode:03o}). Run `chmod 600` on it, or delete \
         it to get a new key",
        path.display()
    )]
    KeyFileOpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file holds something else.
    #[error("the key file {} does not hold a key (`fh-` and 43 letters, digits, `-` or `_`). Delete it to get a new one", path.display())]
    KeyFileMalformed {
        /// The file.
        path: PathBuf,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers for a new key: {0}")]
    NoRandomness(getrandom::Error),
    /// An allowed origin is none.
    #[error("`{0}` is no origin. Write it as browsers do, such as `https://chat.example.org`, without a path")]
    InvalidOrigin(String),
}
