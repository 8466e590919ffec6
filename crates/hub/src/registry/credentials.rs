//! Passwords for registries, where `docker login`, `podman login` and `oras login` put them.

use super::RegistryName;
use super::name::registry_of;
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

/// `USER:PASSWORD` in base64 from the first file that has it for `name`; where that has several, for the most of its path.
/// A file that cannot be read has none; helper programs are not run.
pub(crate) fn find_credentials(files: &[PathBuf], name: &RegistryName) -> Option<Secret> {
    files.iter().find_map(|path| {
        let mut bytes = Vec::new();
        File::open(path).ok()?.take(LIMIT_BYTES).read_to_end(&mut bytes).ok()?;
        let file: AuthFile = serde_json::from_slice(&bytes).ok()?;
        let fitting = file.auths.iter().filter_map(|(key, auth)| Some((fit(key, name)?, Secret::new(&auth.auth)?)));
        fitting.max_by_key(|(length, _)| *length).map(|(_, secret)| secret)
    })
}

/// How much of the name's path the key has, if it is one for the name: `https://index.docker.io/v1/` and `ghcr.io` are for
/// all of a host, `quay.io/team` is for what lies below that (containers-auth.json(5)).
fn fit(key: &str, name: &RegistryName) -> Option<usize> {
    let address = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let (host, path) = address.unwrap_or(key).split_once('/').unwrap_or((address.unwrap_or(key), ""));
    let path = if address.is_some() { "" } else { path };
    let rest = name.repository.strip_prefix(path)?;
    let is_whole = path.is_empty() || rest.is_empty() || rest.starts_with('/');
    (registry_of(host) == name.host && is_whole).then_some(path.len())
}

#[cfg(test)]
mod tests {
    use super::fit;
    use crate::RegistryName;

    /// `docker login` keeps its own registry's password under a name of old.
    #[test]
    fn the_keys_of_dockers_own_registry() {
        let name = RegistryName::parse("oci://docker.io/team/model").unwrap();
        for (key, expected) in [
            ("https://index.docker.io/v1/", Some(0)),
            ("docker.io", Some(0)),
            ("registry-1.docker.io/team", Some(4)),
            ("https://hub.docker.com/", None),
            ("docker.io.example", None),
        ] {
            assert_eq!(fit(key, &name), expected, "{key}");
        }
    }
}
