//! The models known by name: a list that comes with Freehold, and the user's own.

use crate::HubError;
use crate::reference::Source;
use freehold_base::Digest;
use freehold_store::{Facts, NewFile, NewModel, validate_file_path, validate_name};
use serde::Deserialize;
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
    /// All models: the built-in ones in order of size, then the user's.
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
    /// Its files.
    pub files: Vec<CatalogueFile>,
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
        let mut catalogue = Self::parse(Path::new("built into freehold"), BUILT_IN)?;
        let Some(path) = user_file else { return Ok(catalogue) };
        let wrong = |reason: String| HubError::Catalogue { path: path.to_owned(), reason };
        let mut text = String::new();
        match fs::File::open(path) {
            Ok(file) => file.take(LIMIT_BYTES).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(catalogue),
            Err(error) => return Err(wrong(error.to_string())),
        };
        let user = Self::parse(path, &text)?;
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

    fn parse(path: &Path, text: &str) -> Result<Self, HubError> {
        let wrong = |reason: String| HubError::Catalogue { path: path.to_owned(), reason };
        let file: CatalogueToml = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            wrong(format!("line {}: {}", 1 + before.matches('\n').count(), error.message().replace('\n', " ")))
        })?;
        let mut models: Vec<CatalogueModel> = Vec::with_capacity(file.model.len());
        for entry in file.model {
            let name = entry.name.clone();
            let model = entry.check().map_err(|error| wrong(format!("model `{name}`: {error}")))?;
            if models.iter().any(|other| other.name == name) {
                return Err(wrong(format!("model `{name}` occurs twice")));
            }
            models.push(model);
        }
        Ok(Self { default: file.default, models })
    }
}

impl CatalogueModel {
    /// The sizes of its files together: what a pull fetches.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).fold(0, u64::saturating_add)
    }

    /// The model as it will be in the store.
    pub fn to_new_model(&self) -> NewModel {
        let file = |file: &CatalogueFile| NewFile {
            path: file.path.clone(),
            digest: file.digest,
            size_bytes: file.size_bytes,
        };
        NewModel { facts: self.facts.clone(), files: self.files.iter().map(file).collect() }
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
        if self.file.is_empty() {
            return Err("it lists no files".to_owned());
        }
        let files = self
            .file
            .into_iter()
            .map(|file| {
                let path = &file.path;
                validate_file_path(path).map_err(|error| error.to_string())?;
                let digest = file.sha256.parse().map_err(|error| format!("the sha256 of {path} is {error}"))?;
                let sources = file
                    .sources
                    .iter()
                    .map(|source| {
                        Source::parse(source)
                            .map_err(|error| error.to_string())?
                            .ok_or_else(|| format!("source `{source}` does not begin with pypi:, https:// or file:"))
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                if sources.is_empty() {
                    return Err(format!("{path} has no source"));
                }
                Ok(CatalogueFile { path: file.path, size_bytes: file.size_bytes, digest, sources })
            })
            .collect::<Result<_, String>>()?;
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
            files,
        })
    }
}
