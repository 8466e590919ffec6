//! The models known by name: a list that comes with Freehold, and the user's own.

use crate::HubError;
use crate::reference::Source;
use freehold_base::Digest;
use freehold_store::{Facts, NewFile, NewModel, validate_file_path, validate_name};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

const BUILT_IN: &str = include_str!("../catalogue.toml");
const LIMIT_BYTES: u64 = 4 << 20;

/// Models by name, with where they can be had.
#[derive(Clone, Debug)]
pub struct Catalogue {
    /// The model that is used where none is named.
    pub default: String,
    /// All models: the built-in ones, those of known digests first, then the user's.
    pub models: Vec<CatalogueModel>,
}

/// A model of the catalogue.
#[derive(Clone, Debug)]
pub struct CatalogueModel {
    /// `smollm2:135m`.
    pub name: String,
    /// Title, description, licences, note, upstream: what the model's manifest will say.
    pub facts: Facts,
    /// What serving it needs, about.
    pub memory_bytes: Option<u64>,
    /// Whoever wrote the entry has not run the model with Freehold yet.
    pub is_untried: bool,
    /// Its files; none where their digests are not known, and then there is a `source`.
    pub files: Vec<CatalogueFile>,
    /// Where all of it can be had.
    pub source: Option<Source>,
}

/// A file of a catalogue's model.
#[derive(Clone, Debug)]
pub struct CatalogueFile {
    /// Its name inside the model.
    pub path: String,
    /// Its size.
    pub size_bytes: u64,
    /// What its bytes hash to.
    pub digest: Digest,
    /// Where it can be had, in the order to try.
    pub sources: Vec<Source>,
}

impl Catalogue {
    /// The built-in catalogue with the entries of the user's file, if there is one: an entry of the same name replaces
    /// the built-in one.
    ///
    /// # Errors
    /// [`HubError::Catalogue`] says what is wrong with the user's file.
    pub fn load(user_file: Option<&Path>) -> Result<Self, HubError> {
        let mut catalogue = Self::parse(Path::new("built into freehold"), BUILT_IN.as_bytes())?;
        let Some(path) = user_file else { return Ok(catalogue) };
        let wrong = |reason: String| HubError::Catalogue { path: path.to_owned(), reason };
        let mut bytes = Vec::new();
        match fs::File::open(path) {
            Ok(file) => file.take(LIMIT_BYTES + 1).read_to_end(&mut bytes).map_err(|error| wrong(error.to_string()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(catalogue),
            Err(error) => return Err(wrong(error.to_string())),
        };
        let user = Self::parse(path, &bytes)?;
        for model in user.models {
            match catalogue.models.iter_mut().find(|known| known.name == model.name) {
                Some(known) => *known = model,
                None => catalogue.models.push(model),
            }
        }
        if !user.default.is_empty() {
            catalogue.default = user.default;
        }
        if catalogue.find(&catalogue.default).is_none() {
            return Err(wrong(format!("`default` names `{}`, which no entry is called", catalogue.default)));
        }
        Ok(catalogue)
    }

    /// The model of that name.
    pub fn find(&self, name: &str) -> Option<&CatalogueModel> {
        self.models.iter().find(|model| model.name == name)
    }

    /// Names that a user may have meant.
    pub(crate) fn similar(&self, name: &str) -> Vec<String> {
        let family = |name: &str| name.split(':').next().unwrap_or(name).to_ascii_lowercase();
        let wanted = family(name);
        self.models
            .iter()
            .filter(|model| !wanted.is_empty() && family(&model.name).starts_with(&wanted))
            .map(|model| model.name.clone())
            .collect()
    }

    /// Reads a catalogue of at most 4 MiB. `path` is what errors call it.
    ///
    /// # Errors
    /// [`HubError::Catalogue`] says which entry is wrong.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, HubError> {
        let wrong = |reason: String| HubError::Catalogue { path: path.to_owned(), reason };
        if bytes.len() as u64 > LIMIT_BYTES {
            return Err(wrong(format!("it is longer than {LIMIT_BYTES} bytes")));
        }
        let text = str::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".to_owned()))?;
        let file: CatalogueToml = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            wrong(format!("line {}: {}", 1 + before.matches('\n').count(), error.message().replace('\n', " ")))
        })?;
        let mut models: Vec<CatalogueModel> = Vec::with_capacity(file.model.len());
        let mut names = BTreeSet::new();
        for entry in file.model {
            let name = entry.name.clone();
            let model = entry.check().map_err(|error| wrong(format!("model `{name}`: {error}")))?;
            if !names.insert(name.clone()) {
                return Err(wrong(format!("model `{name}` occurs twice")));
            }
            models.push(model);
        }
        Ok(Self { default: file.default, models })
    }
}

impl CatalogueModel {
    /// The sizes of its files together, where they are known: what a pull fetches.
    pub fn size_bytes(&self) -> Option<u64> {
        let sizes = self.files.iter().map(|file| file.size_bytes);
        (!self.files.is_empty()).then(|| sizes.fold(0, u64::saturating_add))
    }

    /// The model as it will be in the store, where its files are known.
    pub fn to_new_model(&self) -> Option<NewModel> {
        if self.files.is_empty() {
            return None;
        }
        let file = |file: &CatalogueFile| NewFile {
            path: file.path.clone(),
            digest: file.digest,
            size_bytes: file.size_bytes,
        };
        Some(NewModel { facts: self.facts.clone(), files: self.files.iter().map(file).collect() })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogueToml {
    #[serde(default)]
    default: String,
    #[serde(default)]
    model: Vec<ModelToml>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelToml {
    name: String,
    title: Option<String>,
    description: Option<String>,
    #[serde(default)]
    licenses: Vec<String>,
    note: Option<String>,
    upstream_url: Option<String>,
    memory_bytes: Option<u64>,
    #[serde(default)]
    untried: bool,
    source: Option<String>,
    #[serde(default)]
    file: Vec<FileToml>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileToml {
    path: String,
    size_bytes: u64,
    sha256: String,
    sources: Vec<String>,
}

impl ModelToml {
    fn check(self) -> Result<CatalogueModel, String> {
        validate_name(&self.name).map_err(|error| error.to_string())?;
        let source = self.source.as_deref().map(source).transpose()?;
        match (self.file.is_empty(), &source) {
            (true, None) => return Err("it lists no files, and no source of the whole model".to_owned()),
            (false, Some(_)) => return Err("it lists files, so the sources belong to them".to_owned()),
            _ => {}
        }
        let files = self.file.into_iter().map(FileToml::check).collect::<Result<_, String>>()?;
        Ok(CatalogueModel {
            name: self.name,
            facts: Facts {
                title: self.title,
                description: self.description,
                licenses: self.licenses,
                note: self.note,
                upstream_url: self.upstream_url,
                revision: None,
                created_at: None,
            },
            memory_bytes: self.memory_bytes,
            is_untried: self.untried,
            files,
            source,
        })
    }
}

impl FileToml {
    fn check(self) -> Result<CatalogueFile, String> {
        let path = &self.path;
        validate_file_path(path).map_err(|error| error.to_string())?;
        let digest = self.sha256.parse().map_err(|error| format!("the sha256 of {path} is {error}"))?;
        let sources = self.sources.iter().map(|text| source(text)).collect::<Result<Vec<_>, _>>()?;
        if sources.is_empty() {
            return Err(format!("{path} has no source"));
        }
        if sources.iter().any(|source| matches!(source, Source::HuggingFace(name) if name.file.is_none())) {
            return Err(format!("a source of {path} names a repository, not a file of it"));
        }
        Ok(CatalogueFile { path: self.path, size_bytes: self.size_bytes, digest, sources })
    }
}

fn source(text: &str) -> Result<Source, String> {
    let source = Source::parse(text).map_err(|error| error.to_string())?;
    source.ok_or_else(|| format!("source `{text}` does not begin with pypi:, https://, hf:, oci:// or file:"))
}
