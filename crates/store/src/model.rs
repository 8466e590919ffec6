//! Models: what a manifest says, and the files that make it up.

use crate::StoreError;
use crate::ingest::StoredBlob;
use crate::manifest::{
    Descriptor, FILE_PATH_ANNOTATION, FileKind, MANIFEST_LIMIT_BYTES, MANIFEST_MEDIA_TYPE, MODEL_ARTIFACT_TYPE,
    MODEL_CONFIG_TYPE, Manifest, ModelConfig, ModelDescriptor, ModelFileSystem, ModelTechnical, NOTE_ANNOTATION,
    validate_file_path,
};
use freehold_base::Digest;
use std::collections::BTreeSet;
use std::path::Path;

/// What is known about a model besides its files. All of it is part of the manifest and so of the model's digest.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Facts {
    /// For people: `SmolLM2 135M Instruct`.
    pub title: Option<String>,
    /// One sentence.
    pub description: Option<String>,
    /// SPDX expressions, or the name of the terms.
    pub licenses: Vec<String>,
    /// What to know about the terms or the origin.
    pub note: Option<String>,
    /// Where the model was first published.
    pub upstream_url: Option<String>,
    /// The upstream revision.
    pub revision: Option<String>,
    /// When it was made, RFC 3339, if the source says so. Never the time of the pull.
    pub created_at: Option<String>,
}

/// A model to be published: facts, and files that are blobs of the store already.
#[derive(Clone, Debug)]
pub struct NewModel {
    /// What is known about it.
    pub facts: Facts,
    /// Its files; their order does not matter.
    pub files: Vec<NewFile>,
}

/// A file of a model to be published.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct NewFile {
    /// Its name inside the model, with `/` between parts.
    pub path: String,
    /// Its blob.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
}

/// A model in the store.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its name in this store, if it was found by name or has one.
    pub name: Option<String>,
    /// The digest of its manifest: its identity.
    pub digest: Digest,
    /// What is known about it.
    pub facts: Facts,
    /// Its files, sorted by path.
    pub files: Vec<ModelFile>,
    /// The reference that this copy was fetched from.
    pub source: Option<String>,
}

/// One file of a model.
#[derive(Clone, Debug)]
pub struct ModelFile {
    /// Its name inside the model.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Its blob.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
}

impl Model {
    /// The sizes of all files together.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).fold(0, u64::saturating_add)
    }

    /// The name, or the digest of a model without one.
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.digest.to_string())
    }
}

impl NewModel {
    /// The manifest digest that publishing this model gives.
    ///
    /// # Errors
    /// A file's path is not allowed, or occurs twice.
    pub fn digest(&self) -> Result<Digest, StoreError> {
        Ok(Digest::of(&self.documents()?.manifest))
    }

    /// The configuration and manifest blobs. They depend on nothing but `self`.
    pub(crate) fn documents(&self) -> Result<Documents, StoreError> {
        let mut files = self.files.clone();
        files.sort();
        let mut seen = BTreeSet::new();
        for file in &files {
            validate_file_path(&file.path)?;
            if !seen.insert(&file.path) {
                return Err(StoreError::InvalidFilePath { path: file.path.clone(), reason: "it occurs twice" });
            }
        }
        let has = |extension: &str| files.iter().any(|file| file.path.ends_with(extension));
        let format = match () {
            () if has(".gguf") => Some("gguf"),
            () if has(".safetensors") => Some("safetensors"),
            () => None,
        };
        let facts = &self.facts;
        let config = ModelConfig {
            descriptor: ModelDescriptor {
                created_at: facts.created_at.clone(),
                title: facts.title.clone(),
                description: facts.description.clone(),
                source_url: facts.upstream_url.clone(),
                revision: facts.revision.clone(),
                licenses: facts.licenses.clone(),
            },
            config: ModelTechnical { format: format.map(str::to_owned) },
            modelfs: ModelFileSystem {
                r#type: "layers".to_owned(),
                diff_ids: files.iter().map(|file| file.digest.to_string()).collect(),
            },
        };
        let config = to_json(&config);
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST_MEDIA_TYPE.to_owned(),
            artifact_type: MODEL_ARTIFACT_TYPE.to_owned(),
            config: Descriptor::new(MODEL_CONFIG_TYPE, Digest::of(&config), config.len() as u64),
            layers: files
                .iter()
                .map(|file| {
                    Descriptor::new(FileKind::of_path(&file.path).media_type(), file.digest, file.size_bytes)
                        .with_annotation(FILE_PATH_ANNOTATION, &file.path)
                })
                .collect(),
            annotations: facts.note.iter().map(|note| (NOTE_ANNOTATION.to_owned(), note.clone())).collect(),
        };
        Ok(Documents { manifest: to_json(&manifest), config })
    }
}

pub(crate) struct Documents {
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

pub(crate) fn to_json<T: serde::Serialize>(document: &T) -> Vec<u8> {
    serde_json::to_vec(document).expect("the documents' types have string keys only, so they serialise")
}

/// The blobs that a model's manifest names.
#[derive(Clone, Debug)]
pub struct ManifestBlobs {
    /// Its configuration.
    pub config: StoredBlob,
    /// Its files, sorted by path.
    pub files: Vec<ModelFile>,
    note: Option<String>,
}

/// Reads the manifest of a model in ModelPack form from anywhere. Memory is in proportion to `bytes`; manifests have at
/// most 4 MiB.
///
/// # Errors
/// [`StoreError::Malformed`] where it is no such manifest, [`StoreError::InvalidFilePath`].
pub fn parse_manifest(bytes: &[u8]) -> Result<ManifestBlobs, StoreError> {
    parse_manifest_at(Path::new("the manifest"), bytes)
}

fn parse_manifest_at(manifest_path: &Path, bytes: &[u8]) -> Result<ManifestBlobs, StoreError> {
    let malformed = |reason: String| StoreError::Malformed { path: manifest_path.to_owned(), reason };
    if bytes.len() as u64 > MANIFEST_LIMIT_BYTES {
        return Err(malformed(format!("it is longer than {MANIFEST_LIMIT_BYTES} bytes")));
    }
    let mut manifest: Manifest =
        serde_json::from_slice(bytes).map_err(|error| malformed(format!("as a model's manifest: {error}")))?;
    if manifest.config.media_type != MODEL_CONFIG_TYPE {
        return Err(malformed(format!(
            "config.mediaType is `{}`, so it is not a model in ModelPack form",
            manifest.config.media_type.chars().take(80).collect::<String>()
        )));
    }
    let mut files = Vec::with_capacity(manifest.layers.len());
    let mut seen = BTreeSet::new();
    for (position, layer) in manifest.layers.iter().enumerate() {
        let kind = FileKind::of_media_type(&layer.media_type).ok_or_else(|| {
            malformed(format!(
                "layers[{position}].mediaType `{}` is not a plain file of a model",
                layer.media_type.chars().take(80).collect::<String>()
            ))
        })?;
        let path = layer
            .annotations
            .get(FILE_PATH_ANNOTATION)
            .ok_or_else(|| malformed(format!("layers[{position}] has no {FILE_PATH_ANNOTATION} annotation")))?;
        validate_file_path(path)?;
        if !seen.insert(path) {
            return Err(malformed(format!("layers[{position}] names `{path}` a second time")));
        }
        files.push(ModelFile { path: path.clone(), kind, digest: layer.digest, size_bytes: layer.size });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let config = StoredBlob { digest: manifest.config.digest, size_bytes: manifest.config.size };
    Ok(ManifestBlobs { config, files, note: manifest.annotations.remove(NOTE_ANNOTATION) })
}

/// Reads a model's manifest and configuration, both untrusted.
pub(crate) fn parse(
    manifest_path: &Path,
    manifest: &[u8],
    read_config: impl FnOnce(&Digest) -> Result<Vec<u8>, StoreError>,
) -> Result<(Facts, Vec<ModelFile>), StoreError> {
    let malformed = |reason: String| StoreError::Malformed { path: manifest_path.to_owned(), reason };
    let ManifestBlobs { config, files, note } = parse_manifest_at(manifest_path, manifest)?;
    let config: ModelConfig = serde_json::from_slice(&read_config(&config.digest)?)
        .map_err(|error| malformed(format!("its configuration: {error}")))?;
    let facts = Facts {
        title: config.descriptor.title,
        description: config.descriptor.description,
        licenses: config.descriptor.licenses,
        note,
        upstream_url: config.descriptor.source_url,
        revision: config.descriptor.revision,
        created_at: config.descriptor.created_at,
    };
    Ok((facts, files))
}
