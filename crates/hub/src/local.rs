//! Models that lie on this machine as files: a GGUF file, or a folder in Hugging Face's style.

use crate::HubError;
use freehold_base::Digest;
use freehold_formats::Checkpoint;
use freehold_store::{Facts, validate_file_path};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const FILES_MAX: usize = 10_000;
/// Folders of Hugging Face repositories are one level deep in practice: `1_Pooling/config.json`.
const DEPTH_MAX: usize = 3;
const TEXT_LIMIT_CHARS: usize = 500;

/// A file to be taken into the store.
#[derive(Clone, Debug)]
pub(crate) struct LocalFile {
    /// Its name inside the model.
    pub(crate) path: String,
    /// Where it lies.
    pub(crate) source: PathBuf,
    /// What it must hash to, where another tool noted that.
    pub(crate) expected: Option<Digest>,
}

/// A model on this machine, read and found usable.
pub(crate) struct LocalModel {
    pub(crate) files: Vec<LocalFile>,
    pub(crate) facts: Facts,
}

impl LocalModel {
    /// Reads a GGUF file or a folder.
    pub(crate) fn open(path: &Path) -> Result<Self, HubError> {
        let metadata = fs::metadata(path).map_err(HubError::io(path))?;
        let files = if metadata.is_dir() {
            let root = path.canonicalize().map_err(HubError::io(path))?;
            folder_files(path, &root)?
        } else if metadata.is_file() {
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| HubError::local(path, "its name is not Unicode; rename it"))?;
            vec![LocalFile { path: gguf_name(name), source: path.to_owned(), expected: None }]
        } else {
            return Err(HubError::local(path, "it is neither a file nor a folder"));
        };
        Self::check(files, path)
    }

    /// Checks that the files make a model. `origin` is what errors name.
    pub(crate) fn check(files: Vec<LocalFile>, origin: &Path) -> Result<Self, HubError> {
        for file in &files {
            validate_file_path(&file.path)?;
        }
        let paths = files.iter().map(|file| (file.path.clone(), file.source.clone())).collect();
        let facts = facts_of(paths, &origin.display().to_string())?;
        Ok(Self { files, facts })
    }
}

/// Opens a checkpoint, which proves it usable, and gives what it says about itself.
pub(crate) fn facts_of(files: BTreeMap<String, PathBuf>, what: &str) -> Result<Facts, HubError> {
    let readme = files.get("README.md").cloned();
    let checkpoint =
        Checkpoint::open_files(files).map_err(|error| HubError::Format { what: what.to_owned(), error })?;
    let mut facts = Facts::default();
    if let Checkpoint::Gguf(gguf) = &checkpoint {
        let text = |key| gguf.metadata().optional_str(key).ok().flatten().and_then(short_text);
        facts.title = text("general.name");
        facts.licenses = text("general.license").into_iter().collect();
        facts.upstream_url = text("general.source.url").or_else(|| text("general.url"));
    }
    if facts.licenses.is_empty() {
        facts.licenses = readme.and_then(|path| licence_of_model_card(&path)).into_iter().collect();
    }
    Ok(facts)
}

/// A name that says what the file is, whatever its name was.
pub(crate) fn gguf_name(name: &str) -> String {
    let name = name.rsplit('/').next().unwrap_or(name);
    if name.to_ascii_lowercase().ends_with(".gguf") {
        return name.to_owned();
    }
    let stem = name.strip_suffix(".bin").unwrap_or(name);
    format!("{stem}.gguf")
}

/// The files of a folder that belong to a model: weights as safetensors, configuration, tokenizer, template, licence.
/// Pickled weights and code are left out. Links may not lead out of `root`, which is canonical.
pub(crate) fn folder_files(folder: &Path, root: &Path) -> Result<Vec<LocalFile>, HubError> {
    let mut files = Vec::new();
    let mut open = vec![(folder.to_owned(), String::new(), 0)];
    while let Some((directory, prefix, depth)) = open.pop() {
        for entry in fs::read_dir(&directory).map_err(HubError::io(&directory))? {
            let entry = entry.map_err(HubError::io(&directory))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = format!("{prefix}{name}");
            let kind = entry.file_type().map_err(HubError::io(&entry.path()))?;
            if name.starts_with('.') {
                continue;
            }
            if kind.is_dir() {
                if depth + 1 < DEPTH_MAX {
                    open.push((entry.path(), format!("{path}/"), depth + 1));
                }
                continue;
            }
            if !belongs(&name) {
                continue;
            }
            let source = entry.path().canonicalize().map_err(HubError::io(&entry.path()))?;
            if !source.starts_with(root) {
                return Err(HubError::local(
                    &entry.path(),
                    "it is a link that leads out of the folder; copy the file there, or use `freehold import`",
                ));
            }
            if !source.is_file() {
                continue;
            }
            files.push(LocalFile { path, source, expected: None });
            if files.len() > FILES_MAX {
                return Err(HubError::local(folder, format!("it holds more than {FILES_MAX} files")));
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Whether a file of that name says what a model is and may be used for: licence, model card.
pub(crate) fn is_document(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "readme.md" || ["license", "licence", "notice", "use_policy"].iter().any(|start| name.starts_with(start))
}

/// Whether a file of that name belongs to a model of safetensors.
pub(crate) fn belongs(name: &str) -> bool {
    if is_document(name) {
        return true;
    }
    let name = name.to_ascii_lowercase();
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    match extension {
        "json" => !name.ends_with(".index.json") || name.ends_with(".safetensors.index.json"),
        "safetensors" | "jinja" | "txt" | "model" | "md" => true,
        _ => false,
    }
}

/// `license: apache-2.0` in the YAML head of a model card.
fn licence_of_model_card(path: &Path) -> Option<String> {
    use std::io::Read as _;
    let mut text = Vec::new();
    fs::File::open(path).ok()?.take(64 << 10).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines();
    if lines.next()?.trim() != "---" {
        return None;
    }
    lines
        .take_while(|line| line.trim() != "---")
        .find_map(|line| line.strip_prefix("license:"))
        .and_then(|license| short_text(license.trim().trim_matches(['"', '\''])))
}

/// Text from outside that goes into a manifest and onto terminals.
fn short_text(text: &str) -> Option<String> {
    let text: String = text.chars().filter(|c| !c.is_control()).take(TEXT_LIMIT_CHARS).collect();
    (!text.trim().is_empty()).then(|| text.trim().to_owned())
}
