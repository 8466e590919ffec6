//! `hf:ORG/REPO[@REV][/FILE]`.

use crate::HubError;
use crate::reference::as_name;
use freehold_store::validate_file_path;
use std::fmt;

/// A repository as Hugging Face names it, and what of it is meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HuggingFaceName {
    /// `ORG/REPO`; a few old repositories have no `ORG`.
    pub repository: String,
    /// A branch, a tag, a commit, or a reference of three parts such as `refs/pr/1`; without one, `main`.
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
        // In a file's name, `@` has no meaning.
        let (repository, revision, file) = match text.split_once('@') {
            Some((repository, rest)) if repository.matches('/').count() < 2 => {
                let (revision, file) = split_at_slash(rest, if rest.starts_with("refs/") { 3 } else { 1 });
                (repository, Some(revision), file)
            }
            _ => {
                let (repository, file) = split_at_slash(text, 2);
                (repository, None, file)
            }
        };
        let is_sound = repository.split('/').all(is_plain)
            && revision.is_none_or(|revision| revision.split('/').all(is_plain))
            && file.is_none_or(|file| validate_file_path(file).is_ok());
        is_sound.then(|| Self {
            repository: repository.to_owned(),
            revision: revision.map(str::to_owned),
            file: file.map(str::to_owned),
        })
    }

    /// One file of the same.
    pub(crate) fn with_file(self, path: &str) -> Self {
        Self { file: Some(path.to_owned()), ..self }
    }

    /// The name that its model gets in a store.
    pub(crate) fn model_name(&self) -> Option<String> {
        match &self.file {
            Some(file) => as_name(&format!("{}/{}", self.repository, file.trim_end_matches(".gguf")), "._-+/"),
            None => as_name(&self.repository, "._-+/"),
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

/// The first `parts` parts of a path, and the rest of it, if there is any.
fn split_at_slash(text: &str, parts: usize) -> (&str, Option<&str>) {
    let slash = text.match_indices('/').nth(parts - 1);
    slash.map_or((text, None), |(at, _)| (&text[..at], Some(&text[at + 1..])))
}

/// A part of a name that is safe to join to a path or an address: what Hugging Face and Ollama allow in theirs.
pub(crate) fn is_plain(part: &str) -> bool {
    part.len() <= 120
        && part.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric() || first == b'_')
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}
