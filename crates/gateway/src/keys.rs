//! The local administrator's key.

use crate::GatewayError;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use subtle::ConstantTimeEq as _;

const PREFIX: &str = "fh-";
const RANDOM_BYTES: usize = 32;
const TEXT_LENGTH: usize = PREFIX.len() + (RANDOM_BYTES * 8).div_ceil(6);

/// The key that may do everything: `fh-` and 32 random bytes in URL-safe base64. It lives in a file that only its owner
/// can read.
#[derive(Clone)]
pub struct AdminKey(String);

impl AdminKey {
    /// Reads the key from `path`, or makes a new one there. The file appears complete and with mode 0600 or not at all,
    /// so of two processes that start together both get the same key.
    ///
    /// # Errors
    /// Where the file cannot be read or created, is open to others, or holds no key.
    pub fn load_or_create(path: &Path) -> Result<Self, GatewayError> {
        match Self::load(path) {
            Err(GatewayError::KeyFile { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        let key = Self::generate()?;
        match key.create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::load(path),
            Err(source) => Err(GatewayError::KeyFile { path: path.into(), source }),
            Ok(()) => Ok(key),
        }
    }

    /// Reads the key from `path`.
    ///
    /// # Errors
    /// Where the file is missing, is open to others, or holds no key.
    pub fn load(path: &Path) -> Result<Self, GatewayError> {
        let failed = |source| GatewayError::KeyFile { path: path.into(), source };
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(GatewayError::KeyFileOpenToOthers { path: path.into(), mode });
        }
        let mut text = String::new();
        // Room for the end of the line, and for one byte too many.
        let malformed = || GatewayError::KeyFileMalformed { path: path.into() };
        match file.take(TEXT_LENGTH as u64 + 3).read_to_string(&mut text) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(malformed()),
            Err(error) => return Err(failed(error)),
            Ok(_) => {}
        }
        let text = text.trim_end();
        let random = text.strip_prefix(PREFIX).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        if random.is_none_or(|bytes| bytes.len() != RANDOM_BYTES) {
            return Err(malformed());
        }
        Ok(Self(text.into()))
    }

    fn generate() -> Result<Self, GatewayError> {
        let mut random = [0; RANDOM_BYTES];
        getrandom::fill(&mut random).map_err(GatewayError::NoRandomness)?;
        Ok(Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random))))
    }

    /// Writes a file beside `path` and links it there, which fails where `path` exists.
    fn create(&self, path: &Path) -> io::Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{:016x}.new", getrandom::u64().map_err(io::Error::other)?));
        let new = Path::new(&name);
        let linked = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
            file.write_all(format!("{}\n", self.0).as_bytes())?;
            file.sync_all()?;
            fs::hard_link(new, path)
        })();
        match fs::remove_file(new) {
            Err(error) if linked.is_ok() => Err(error),
            _ => linked,
        }
    }

    /// The key itself, to show to its owner.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether `candidate` is this key, in a time that does not depend on where they differ.
    pub(crate) fn matches(&self, candidate: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(candidate).into()
    }
}

/// Never shows the key.
impl std::fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminKey(…)")
    }
}
