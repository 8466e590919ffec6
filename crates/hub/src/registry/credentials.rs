//! Passwords for registries, where `docker login`, `podman login` and `oras login` put them.

use crate::secret::Secret;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

const LIMIT_BYTES: u64 = 1 << 20;

#[derive(Deserialize)]
struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(default)]
    auth: String,
}

/// `USER:PASSWORD` in base64 from the first file that has it for `host`. A file that cannot be read has none; helper
/// programs are not run.
pub(crate) fn find_credentials(files: &[PathBuf], host: &str) -> Option<Secret> {
    files.iter().find_map(|path| {
        let mut bytes = Vec::new();
        File::open(path).ok()?.take(LIMIT_BYTES).read_to_end(&mut bytes).ok()?;
        let file: AuthFile = serde_json::from_slice(&bytes).ok()?;
        file.auths.iter().find(|(key, _)| host_of(key) == host).and_then(|(_, auth)| Secret::new(&auth.auth))
    })
}

/// `https://index.docker.io/v1/` and `ghcr.io` both name a host.
fn host_of(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    key.split('/').next().unwrap_or(key)
}
