//! `oci://HOST/NAME[:TAG|@DIGEST]`.

use crate::HubError;
use freehold_base::Digest;
use std::fmt;
use url::Url;

const SCHEME: &str = "oci://";
const PLAIN_SCHEME: &str = "oci+http://";
/// Docker's registry: what it is called, what else it is called, and the host that answers.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_OTHER: [&str; 2] = ["index.docker.io", DOCKER_HUB_HOST];
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// A model in an OCI registry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegistryName {
    /// The registry's host, with its port if it has one.
    pub host: String,
    /// The repository in it: `team/model`.
    pub repository: String,
    /// Which of its manifests.
    pub version: Version,
    /// `oci+http://`: without TLS, which only this machine itself gets unasked.
    pub is_plain_http: bool,
}

/// Which manifest of a repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Version {
    /// The one that has the tag now.
    Tag(String),
    /// The one with the digest.
    Digest(Digest),
}

impl RegistryName {
    /// Whether the text begins as one.
    pub(crate) fn is_meant(text: &str) -> bool {
        text.starts_with("oci:") || text.starts_with(PLAIN_SCHEME)
    }

    /// Reads `oci://HOST/NAME`, with `:TAG` or `@sha256:DIGEST`; without either, the tag `latest` is meant. At
    /// `docker.io` a name of one part is one of `library/`, as Docker has it.
    ///
    /// # Errors
    /// [`HubError::Reference`].
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let wrong = |reason: &str| HubError::reference(text, reason);
        let form = "it must look like oci://HOST/NAME:TAG or oci://HOST/NAME@sha256:DIGEST";
        let (rest, is_plain_http) = match (text.strip_prefix(SCHEME), text.strip_prefix(PLAIN_SCHEME)) {
            (Some(rest), _) => (rest, false),
            (None, Some(rest)) => (rest, true),
            (None, None) => return Err(wrong(form)),
        };
        let (host, path) = rest.split_once('/').ok_or_else(|| wrong(form))?;
        let (repository, version) = match (path.split_once('@'), path.rsplit_once(':')) {
            (Some((repository, digest)), _) => {
                let digest = digest.strip_prefix("sha256:").and_then(|hex| hex.parse().ok());
                let digest = digest.ok_or_else(|| wrong("after `@` comes `sha256:` and 64 hexadecimal digits"))?;
                (repository, Version::Digest(digest))
            }
            (None, Some((repository, tag))) => (repository, Version::Tag(tag.to_owned())),
            (None, None) => (path, Version::Tag("latest".to_owned())),
        };
        if repository.len() > 255 || !repository.split('/').all(is_component) {
            return Err(wrong("a repository's name has lower-case letters and digits, with . _ - between them, and /"));
        }
        if let Version::Tag(tag) = &version
            && !is_tag(tag)
        {
            return Err(wrong("a tag has up to 128 letters, digits and . _ -"));
        }
        let host = registry_of(host);
        let is_short = host == DOCKER_HUB && !repository.contains('/');
        let repository = if is_short { format!("library/{repository}") } else { repository.to_owned() };
        let name = Self { host: host.to_owned(), repository, version, is_plain_http };
        let url = name.base().ok_or_else(|| wrong(form))?;
        // What is more than a host and a port has been read as something else: a user, a path.
        let host_alone = url.username().is_empty() && url.password().is_none() && url.path() == "/";
        let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
        if host_alone && plain { Ok(name) } else { Err(wrong(form)) }
    }

    /// The registry's address.
    pub(crate) fn base(&self) -> Option<Url> {
        let host = if self.host == DOCKER_HUB { DOCKER_HUB_HOST } else { &self.host };
        let secure = Url::parse(&format!("https://{host}/")).ok()?;
        if self.is_plain_http || crate::reference::is_loopback(&secure) {
            return Url::parse(&format!("http://{host}/")).ok();
        }
        Some(secure)
    }

    /// The same with a manifest's digest in place of the tag.
    pub(crate) fn pinned(&self, digest: Digest) -> Self {
        Self { version: Version::Digest(digest), ..self.clone() }
    }

    /// The name that its model gets in a store.
    pub(crate) fn model_name(&self) -> String {
        let name = self.repository.rsplit('/').next().unwrap_or(&self.repository);
        match &self.version {
            Version::Tag(tag) => format!("{name}:{tag}"),
            Version::Digest(_) => name.to_owned(),
        }
    }

    /// The error that it cannot be had.
    pub(crate) fn refused(&self, reason: impl Into<String>) -> HubError {
        HubError::Refused { reference: self.to_string(), reason: reason.into() }
    }
}

impl fmt::Display for RegistryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_plain_http { PLAIN_SCHEME } else { SCHEME };
        write!(f, "{scheme}{}/{}", self.host, self.repository)?;
        let separator = if matches!(self.version, Version::Tag(_)) { ':' } else { '@' };
        write!(f, "{separator}{}", self.version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => write!(f, "{digest}"),
        }
    }
}

/// The registry that a host stands for: Docker's has several names.
pub(super) fn registry_of(host: &str) -> &str {
    if DOCKER_HUB_OTHER.contains(&host) { DOCKER_HUB } else { host }
}

/// As the distribution specification has it: runs of letters and digits, parted by `.`, `_`, `__` or dashes.
fn is_component(text: &str) -> bool {
    let is_run = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let separators = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|part| !part.is_empty());
    text.bytes().next().is_some_and(is_run)
        && text.bytes().next_back().is_some_and(is_run)
        && separators.into_iter().all(|part| matches!(part, "." | "_" | "__") || part.bytes().all(|byte| byte == b'-'))
}

fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&text.len())
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|byte| is_word(byte) || b".-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::RegistryName;

    /// Which host is asked cannot be seen from outside without a network.
    #[test]
    fn the_registry_that_answers() {
        for (text, base) in [
            ("oci://docker.io/model", "https://registry-1.docker.io/"),
            ("oci://index.docker.io/team/model", "https://registry-1.docker.io/"),
            ("oci://ghcr.io/team/model", "https://ghcr.io/"),
            ("oci://localhost:5000/model", "http://localhost:5000/"),
            ("oci+http://registry.example/model", "http://registry.example/"),
        ] {
            assert_eq!(RegistryName::parse(text).unwrap().base().unwrap().as_str(), base, "{text}");
        }
    }
}
