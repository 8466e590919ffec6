//! Folders in Hugging Face's style: `config.json`, safetensors, and the files of the tokenizer.

use crate::error::{Error, Result, shown};
use crate::json;
use crate::mmap::Mmap;
use crate::safetensors::{Safetensors, file_name_problem};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
const TOKENIZER: &str = "tokenizer.json";
const SENTENCEPIECE: &str = "tokenizer.model";
const WORD_LIST: &str = "vocab.txt";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// Real templates are below 20 kB.
const CHAT_TEMPLATE_BYTES_MAX: usize = 1 << 20;
const FILES_MAX: usize = 10_000;

/// An opened folder: its small files parsed, its weights and tokenizer mapped.
#[derive(Clone, Debug)]
pub struct HuggingFaceFolder {
    config: Config,
    weights: Safetensors,
    tokenizer: Option<Mmap>,
    sentencepiece: Option<Mmap>,
    word_list: Option<Mmap>,
    tokenizer_config: Option<Config>,
    generation_config: Option<Config>,
    chat_template: Option<String>,
}

impl HuggingFaceFolder {
    /// Opens a folder of regular files. Symbolic links in it are refused where they are needed: a link could name any
    /// file of this machine.
    ///
    /// # Errors
    /// As [`Self::open_files`].
    pub fn open(folder: &Path) -> Result<Self> {
        let failed = |source| Error::Io { path: folder.to_owned(), source };
        let mut set = FileSet::default();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // A name that is not Unicode is none that is looked for.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_symlink() {
                set.links.insert(name);
            } else if kind.is_file() {
                set.paths.insert(name, entry.path());
            }
            if set.paths.len() + set.links.len() > FILES_MAX {
                return Err(wrong(
                    &folder.display().to_string(),
                    "folder",
                    format!("it holds more than {FILES_MAX} files"),
                ));
            }
        }
        Self::open_set(&set)
    }

    /// Opens files that are named here and may lie anywhere, as those of a store do.
    ///
    /// # Errors
    /// [`Error::Io`] where a file cannot be mapped, [`Error::HuggingFace`] where one is missing or malformed,
    /// [`Error::Safetensors`] for the weights.
    pub fn open_files(files: BTreeMap<String, PathBuf>) -> Result<Self> {
        Self::open_set(&FileSet { paths: files, links: BTreeSet::new() })
    }

    fn open_set(set: &FileSet) -> Result<Self> {
        let config = set.config(CONFIG)?.ok_or_else(|| set.missing(CONFIG))?;
        // Some writers add an index to a single file; the file then says all there is, as in transformers.
        let weights = match (set.map(WEIGHTS)?, set.map(WEIGHTS_INDEX)?) {
            (Some(file), _) => Safetensors::from_bytes(file)?,
            (None, Some(index)) => Safetensors::from_shards(&index, |shard| set.shard(shard))?,
            (None, None) => return Err(set.missing(WEIGHTS)),
        };
        let tokenizer_config = set.config(TOKENIZER_CONFIG)?;
        let chat_template = match set.map(CHAT_TEMPLATE)? {
            Some(file) => Some(template_text(&file)?),
            None => tokenizer_config.as_ref().map(template_of).transpose()?.flatten(),
        };
        Ok(Self {
            config,
            weights,
            tokenizer: set.map(TOKENIZER)?,
            sentencepiece: set.map(SENTENCEPIECE)?,
            word_list: set.map(WORD_LIST)?,
            tokenizer_config,
            generation_config: set.config(GENERATION_CONFIG)?,
            chat_template,
        })
    }

    /// `config.json`: the architecture and its hyper-parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The tensors.
    pub fn weights(&self) -> &Safetensors {
        &self.weights
    }

    /// The bytes of `tokenizer.json`, unparsed.
    pub fn tokenizer(&self) -> Option<&[u8]> {
        self.tokenizer.as_deref()
    }

    /// The bytes of `tokenizer.model`, SentencePiece's own form of a tokenizer.
    pub fn sentencepiece(&self) -> Option<&[u8]> {
        self.sentencepiece.as_deref()
    }

    /// The bytes of `vocab.txt`, the word pieces of BERT.
    pub fn word_list(&self) -> Option<&[u8]> {
        self.word_list.as_deref()
    }

    /// `tokenizer_config.json`.
    pub fn tokenizer_config(&self) -> Option<&Config> {
        self.tokenizer_config.as_ref()
    }

    /// `generation_config.json`: how the publisher samples from the model, and its end tokens.
    pub fn generation_config(&self) -> Option<&Config> {
        self.generation_config.as_ref()
    }

    /// The chat template: `chat_template.jinja`, or else `chat_template` of `tokenizer_config.json` (of several, the one
    /// called `default`).
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }
}

/// The files that may be opened.
#[derive(Default)]
struct FileSet {
    paths: BTreeMap<String, PathBuf>,
    /// Names that are there as symbolic links, for a better error than "missing".
    links: BTreeSet<String>,
}

impl FileSet {
    fn map(&self, name: &str) -> Result<Option<Mmap>> {
        if self.links.contains(name) {
            return Err(wrong_with(
                name,
                "file",
                "it is a symbolic link".into(),
                "Put a copy of the file in its place, or import the model into the store",
            ));
        }
        self.paths.get(name).map(|path| Mmap::open(path)).transpose()
    }

    fn config(&self, name: &str) -> Result<Option<Config>> {
        self.map(name)?.map(|bytes| Config::parse(name, &bytes)).transpose()
    }

    /// A shard that an index names, which is as hostile as the index.
    fn shard(&self, name: &str) -> Result<Mmap> {
        if let Some(problem) = file_name_problem(name) {
            return Err(wrong(WEIGHTS_INDEX, "weight_map", format!("`{}`: {problem}", shown(name))));
        }
        self.map(name)?.ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> Error {
        wrong_with(name, "file", "it is missing".into(), "Fetch it from where the model came from")
    }
}

fn template_text(bytes: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(bytes).map_err(|error| wrong(CHAT_TEMPLATE, "file", error.to_string()))?;
    check_template(CHAT_TEMPLATE, text)?;
    Ok(text.to_owned())
}

/// `chat_template` is a string, or a list of objects with `name` and `template`.
fn template_of(config: &Config) -> Result<Option<String>> {
    const KEY: &str = "chat_template";
    let template = match config.get(KEY) {
        None => return Ok(None),
        Some(Value::String(template)) => template.as_str(),
        Some(Value::Array(templates)) => {
            let default = templates.iter().find(|template| template["name"] == "default");
            default
                .and_then(|template| template["template"].as_str())
                .ok_or_else(|| wrong(&config.file, KEY, "no template in its list is called `default`".into()))?
        }
        Some(_) => return Err(config.wrong_type(KEY, "a string or a list of templates")),
    };
    check_template(&config.file, template)?;
    Ok(Some(template.to_owned()))
}

fn check_template(file: &str, template: &str) -> Result<()> {
    if template.len() > CHAT_TEMPLATE_BYTES_MAX {
        return Err(wrong(
            file,
            "chat template",
            format!("it has {} bytes; at most {CHAT_TEMPLATE_BYTES_MAX} are allowed", template.len()),
        ));
    }
    Ok(())
}

/// A JSON object out of a folder, or one inside it, with getters that name file and key in their error.
///
/// `null` is the same as a missing key, as in the library that writes these files.
#[derive(Clone, Debug)]
pub struct Config {
    file: String,
    /// `rope_scaling.` in an object under that key.
    prefix: String,
    values: Map<String, Value>,
}

impl Config {
    /// Parses the bytes of `file`.
    ///
    /// # Errors
    /// [`Error::HuggingFace`] where they are not one JSON object of reasonable size with distinct keys.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self> {
        let values = json::parse_object(bytes).map_err(|problem| wrong(file, "JSON", problem))?;
        Ok(Self { file: file.to_owned(), prefix: String::new(), values })
    }

    /// The value of `key`, whatever its type; `None` for `null`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// The whole object.
    pub fn values(&self) -> &Map<String, Value> {
        &self.values
    }

    /// The object under `key`, if it is there.
    ///
    /// # Errors
    /// [`Error::HuggingFace`] where the key has another type.
    pub fn optional_object(&self, key: &str) -> Result<Option<Self>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(values)) => Ok(Some(Self {
                file: self.file.clone(),
                prefix: format!("{}{key}.", self.prefix),
                values: values.clone(),
            })),
            Some(_) => Err(self.wrong_type(key, "an object")),
        }
    }

    /// The value of `key`, which must be a string if it is there.
    ///
    /// # Errors
    /// [`Error::HuggingFace`] where the key has another type.
    pub fn optional_str(&self, key: &str) -> Result<Option<&str>> {
        self.get(key).map(|value| value.as_str().ok_or_else(|| self.wrong_type(key, "a string"))).transpose()
    }

    /// The value of `key`, which must be a string.
    ///
    /// # Errors
    /// [`Error::HuggingFace`] where the key is missing or has another type.
    pub fn str(&self, key: &str) -> Result<&str> {
        self.optional_str(key)?.ok_or_else(|| self.missing(key, "a string"))
    }

    fn missing(&self, key: &str, expected: &str) -> Error {
        self.error(key, format!("it is missing; {expected} is needed"))
    }

    fn wrong_type(&self, key: &str, expected: &str) -> Error {
        let found = self.values.get(key).map_or_else(|| "missing".into(), shown);
        self.error(key, format!("it is {found}, but {expected} is needed"))
    }

    /// An error about a value of `key` that may be right, but is not known here.
    pub(crate) fn unsupported(&self, key: &str, problem: String) -> Error {
        let field = format!("{}{key}", self.prefix);
        wrong_with(&self.file, &field, problem, "Such models cannot be run yet; choose another one")
    }

    /// An error about `key`.
    pub(crate) fn error(&self, key: &str, problem: String) -> Error {
        wrong(&self.file, &format!("{}{key}", self.prefix), problem)
    }
}

/// Scalar getters and their optional forms.
macro_rules! getters {
    ($($name:ident, $optional:ident, $type:ty, $expected:literal, $convert:expr;)*) => {
        impl Config {$(
            #[doc = concat!("The value of `key`, which must be ", $expected, ".")]
            ///
            /// # Errors
            /// [`Error::HuggingFace`] where the key is missing or has another type.
            pub fn $name(&self, key: &str) -> Result<$type> {
                self.$optional(key)?.ok_or_else(|| self.missing(key, $expected))
            }

            #[doc = concat!("The value of `key`, which must be ", $expected, " if it is there.")]
            ///
            /// # Errors
            /// [`Error::HuggingFace`] where the key has another type.
            pub fn $optional(&self, key: &str) -> Result<Option<$type>> {
                let convert: fn(&Value) -> Option<$type> = $convert;
                self.get(key).map(|value| convert(value).ok_or_else(|| self.wrong_type(key, $expected))).transpose()
            }
        )*}
    };
}

getters! {
    u32, optional_u32, u32, "an unsigned integer below 2^32", |value| value.as_u64()?.try_into().ok();
    u64, optional_u64, u64, "an unsigned integer", Value::as_u64;
    f64, optional_f64, f64, "a number", |value| value.as_f64().filter(|number| number.is_finite());
    bool, optional_bool, bool, "a boolean", Value::as_bool;
}

fn wrong(file: &str, field: &str, problem: String) -> Error {
    wrong_with(file, field, problem, "Fetch the file again, or correct it by the model's documentation")
}

fn wrong_with(file: &str, field: &str, problem: String, remedy: &'static str) -> Error {
    Error::HuggingFace { file: shown(file), field: shown(field), problem, remedy }
}
