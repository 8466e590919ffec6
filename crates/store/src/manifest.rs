//! The JSON documents of the layout: OCI image layout and index (image-spec 1.1), and CNCF ModelPack manifests.
//!
//! Own types rather than the `oci-spec` crate's: a digest here is a [`Digest`] from the moment it is parsed, so no text
//! from outside is ever joined to a path, and unknown fields of other tools' index entries survive a rewrite.

use crate::StoreError;
use freehold_base::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(crate) const LAYOUT_VERSION: &str = "1.0.0";
pub(crate) const INDEX_MEDIA_TYPE: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST_MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const MODEL_ARTIFACT_TYPE: &str = "application/vnd.cncf.model.manifest.v1+json";
pub(crate) const MODEL_CONFIG_TYPE: &str = "application/vnd.cncf.model.config.v1+json";
pub(crate) const FILE_PATH_ANNOTATION: &str = "org.cncf.model.filepath";
pub(crate) const NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";
/// Where this copy came from. In the index and not in the manifest, whose digest must not depend on the mirror.
pub(crate) const SOURCE_ANNOTATION: &str = "io.github.freehold-ai.source";
/// What a user should know about the model's terms.
pub(crate) const NOTE_ANNOTATION: &str = "io.github.freehold-ai.note";

/// Largest documents accepted. OCI registries take manifests of at least 4 MiB.
pub(crate) const INDEX_LIMIT_BYTES: u64 = 32 << 20;
pub(crate) const MANIFEST_LIMIT_BYTES: u64 = 4 << 20;

/// `oci-layout`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LayoutMarker {
    pub(crate) image_layout_version: String,
}

/// `index.json`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
    #[serde(flatten)]
    pub(crate) other: serde_json::Map<String, serde_json::Value>,
}

impl Index {
    pub(crate) fn empty() -> Self {
        Self {
            schema_version: 2,
            media_type: Some(INDEX_MEDIA_TYPE.to_owned()),
            manifests: Vec::new(),
            other: serde_json::Map::new(),
        }
    }
}

/// A reference to a blob.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    #[serde(with = "digest_text")]
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(flatten)]
    pub(crate) other: serde_json::Map<String, serde_json::Value>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            annotations: BTreeMap::new(),
            other: serde_json::Map::new(),
        }
    }

    pub(crate) fn with_annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn name(&self) -> Option<&str> {
        self.annotations.get(NAME_ANNOTATION).map(String::as_str)
    }

    /// The name, or the digest of a model without one.
    pub(crate) fn label(&self) -> String {
        self.name().map_or_else(|| self.digest.to_string(), str::to_owned)
    }

    pub(crate) fn source(&self) -> Option<&str> {
        self.annotations.get(SOURCE_ANNOTATION).map(String::as_str)
    }
}

/// An OCI manifest of a model.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: String,
    #[serde(default)]
    pub(crate) artifact_type: String,
    pub(crate) config: Descriptor,
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// The ModelPack configuration blob.
#[derive(Serialize, Deserialize)]
pub(crate) struct ModelConfig {
    #[serde(default)]
    pub(crate) descriptor: ModelDescriptor,
    #[serde(default)]
    pub(crate) config: ModelTechnical,
    pub(crate) modelfs: ModelFileSystem,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ModelDescriptor {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) title: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    #[serde(default, rename = "sourceURL", skip_serializing_if = "Option::is_none")]
    pub(crate) source_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revision: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) licenses: Vec<String>,
}

#[derive(Default, Serialize, Deserialize)]
pub(crate) struct ModelTechnical {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) format: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ModelFileSystem {
    pub(crate) r#type: String,
    #[serde(rename = "diffIds", alias = "diff_ids", default)]
    pub(crate) diff_ids: Vec<String>,
}

/// What a file of a model is, as ModelPack sorts them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FileKind {
    /// Weights: GGUF, safetensors.
    Weight,
    /// What is needed to read them: configuration, tokenizer, template.
    WeightConfig,
    /// Licence, model card.
    Doc,
    /// Code. Kept and shown, never run.
    Code,
    /// Data.
    Dataset,
}

impl FileKind {
    /// The media type of a layer that is the plain file.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Weight => "application/vnd.cncf.model.weight.v1.raw",
            Self::WeightConfig => "application/vnd.cncf.model.weight.config.v1.raw",
            Self::Doc => "application/vnd.cncf.model.doc.v1.raw",
            Self::Code => "application/vnd.cncf.model.code.v1.raw",
            Self::Dataset => "application/vnd.cncf.model.dataset.v1.raw",
        }
    }

    pub(crate) fn of_media_type(media_type: &str) -> Option<Self> {
        [Self::Weight, Self::WeightConfig, Self::Doc, Self::Code, Self::Dataset]
            .into_iter()
            .find(|kind| kind.media_type() == media_type)
    }

    /// The kind of a file, by its name.
    pub fn of_path(path: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        match extension {
            "gguf" | "safetensors" => Self::Weight,
            "txt" if name.starts_with("license") || name.starts_with("notice") => Self::Doc,
            "json" | "jinja" | "model" | "txt" => Self::WeightConfig,
            "py" => Self::Code,
            _ => Self::Doc,
        }
    }
}

/// Checks that `name` can name a model: `smollm2:135m`, `organisation/model`. Names go into index.json and into
/// references, never into a path.
///
/// # Errors
/// [`StoreError::InvalidName`].
pub fn validate_name(name: &str) -> Result<(), StoreError> {
    let invalid = |reason| Err(StoreError::InvalidName { name: name.chars().take(80).collect(), reason });
    if name.is_empty() || name.len() > 200 {
        return invalid("it must have 1 to 200 bytes");
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:/+-".contains(&byte)) {
        return invalid("only letters, digits and . _ : / + - may occur");
    }
    let ends = [name.as_bytes()[0], name.as_bytes()[name.len() - 1]];
    if !ends.iter().all(u8::is_ascii_alphanumeric) {
        return invalid("it must begin and end with a letter or digit");
    }
    if name.starts_with("sha256:") {
        return invalid("it would be read as a digest");
    }
    Ok(())
}

/// Checks that `path` is a plain relative path with `/` between its parts, safe to join to a directory on any system.
///
/// # Errors
/// [`StoreError::InvalidFilePath`].
pub fn validate_file_path(path: &str) -> Result<(), StoreError> {
    let invalid = |reason| Err(StoreError::InvalidFilePath { path: path.chars().take(80).collect(), reason });
    if path.is_empty() || path.len() > 1024 {
        return invalid("it must have 1 to 1024 bytes");
    }
    if path.chars().any(|c| c.is_control() || matches!(c, '\\' | ':')) {
        return invalid("backslashes, colons and control characters are not allowed");
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..") || part.len() > 255) {
        return invalid("it must be relative, and none of its parts empty, `.` or `..`");
    }
    Ok(())
}

/// Digests in JSON: exactly `sha256:` and 64 hexadecimal digits.
mod digest_text {
    use freehold_base::Digest;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(digest)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        if !text.starts_with("sha256:") {
            return Err(de::Error::custom("the digest is not SHA-256"));
        }
        text.parse().map_err(de::Error::custom)
    }
}
