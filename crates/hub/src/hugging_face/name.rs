//! `hf:ORG/REPO[@REV][/FILE]`.

use crate::HubError;
use std::fmt;

/// A repository as Hugging Face names it, and what of it is meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HuggingFaceName {
    /// `ORG/REPO`; a few old repositories have no `ORG`.
    pub repository: String,
    /// A branch, a tag or a commit; without one, `main`.
    pub revision: Option<String>,
    /// One file of it; without one, what a model needs.
    pub file: Option<String>,
}

impl HuggingFaceName {
    /// Reads `ORG/REPO`, `ORG/REPO@REV`, `ORG/REPO/FILE` or `ORG/REPO@REV/FILE`.
    ///
    /// # Errors
    /// [`HubError::Reference`].
    pub fn parse(text: &str) -> Result<Self, HubError> {
        Self::read(text).ok_or_else(|| {
            HubError::reference(
                &format!("hf:{text}"),
                "it must look like hf:ORG/REPO, hf:ORG/REPO@REV or hf:ORG/REPO/FILE.gguf",
            )
        })
    }

    fn read(text: &str) -> Option<Self> {
        let (text, revision, mut file) = match text.split_once('@') {
            None => (text, None, None),
            Some((repository, rest)) => match rest.split_once('/') {
                None => (repository, Some(rest.to_owned()), None),
                Some((revision, file)) => (repository, Some(revision.to_owned()), Some(file.to_owned())),
            },
        };
        let mut parts = text.splitn(3, '/');
        let mut repository = parts.next()?.to_owned();
        if let Some(name) = parts.next() {
            repository = format!("{repository}/{name}");
        }
        if let Some(rest) = parts.next() {
            if file.is_some() {
                return None;
            }
            file = Some(rest.to_owned());
        }
        let plain = repository.split('/').all(is_plain)
            && revision.iter().all(|revision| is_plain(revision))
            && file.iter().all(|file| file.split('/').all(is_plain));
        plain.then_some(Self { repository, revision, file })
    }

    /// One file of the same.
    pub(crate) fn with_file(self, path: &str) -> Self {
        Self { file: Some(path.to_owned()), ..self }
    }

    /// The name that its model gets in a store.
    pub(crate) fn model_name(&self) -> String {
        match &self.file {
            Some(file) => format!("{}/{}", self.repository, file.trim_end_matches(".gguf")),
            None => self.repository.clone(),
        }
    }

    /// The error that it cannot be pulled.
    pub(crate) fn refused(&self, reason: impl Into<String>) -> HubError {
        HubError::Refused { reference: format!("hf:{self}"), reason: reason.into() }
    }
}

impl fmt::Display for HuggingFaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        Ok(())
    }
}

/// A part of a name that is safe to join to a path or an address.
pub(crate) fn is_plain(part: &str) -> bool {
    part.len() <= 120
        && part.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}
