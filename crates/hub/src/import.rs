//! Models that other tools have on this machine already: Ollama's store and Hugging Face's cache.

use crate::HubError;
use crate::hugging_face::{DEFAULT_ENDPOINT, HuggingFaceName, is_plain};
use crate::local::{LocalFile, LocalModel, folder_files};
use freehold_base::Digest;
use freehold_store::validate_file_path;
use serde::Deserialize;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

const MANIFEST_LIMIT_BYTES: u64 = 1 << 20;
const MODELS_MAX: usize = 10_000;
const OLLAMA_HOST: &str = "registry.ollama.ai";
const OLLAMA_NAMESPACE: &str = "library";
const MODEL_LAYER: &str = "application/vnd.ollama.image.model";
const LICENSE_LAYER: &str = "application/vnd.ollama.image.license";
const PROJECTOR_LAYER: &str = "application/vnd.ollama.image.projector";
const ADAPTER_LAYER: &str = "application/vnd.ollama.image.adapter";

/// A model that can be taken over.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Importable {
    /// What to give to `import`.
    pub reference: String,
    /// The bytes of its files.
    pub size_bytes: u64,
}

/// Where other tools keep models.
pub(crate) struct Caches<'a> {
    pub(crate) ollama: &'a [PathBuf],
    pub(crate) hugging_face: &'a [PathBuf],
}

/// A model found in a cache.
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) model: LocalModel,
}

impl Caches<'_> {
    /// Finds `ollama:NAME[:TAG]` or `hf:ORG/REPO[@REV][/FILE]`.
    pub(crate) fn find(&self, reference: &str) -> Result<Found, HubError> {
        if let Some(name) = reference.strip_prefix("ollama:") {
            let name = OllamaName::parse(name).ok_or_else(|| {
                HubError::reference(reference, "it must look like ollama:NAME, ollama:NAME:TAG or ollama:USER/NAME:TAG")
            })?;
            return self.find_ollama(reference, &name);
        }
        if let Some(name) = reference.strip_prefix("hf:") {
            return self.find_hugging_face(reference, &HuggingFaceName::parse(name)?);
        }
        Err(HubError::reference(
            reference,
            "what can be imported begins with ollama: or hf:; for a file use `freehold pull file:PATH`",
        ))
    }

    /// All models that could be taken over. What cannot be read is left out.
    pub(crate) fn list(&self) -> Vec<Importable> {
        let mut found = Vec::new();
        for root in self.ollama {
            let manifests = root.join("manifests");
            for host in names(&manifests) {
                for namespace in names(&manifests.join(&host)) {
                    for model in names(&manifests.join(&host).join(&namespace)) {
                        for tag in names(&manifests.join(&host).join(&namespace).join(&model)) {
                            let name = OllamaName {
                                host: host.clone(),
                                namespace: namespace.clone(),
                                model: model.clone(),
                                tag,
                            };
                            let Ok(manifest) = read_ollama_manifest(&name.manifest_path(root)) else { continue };
                            found.push(Importable {
                                reference: format!("ollama:{}", name.text()),
                                size_bytes: manifest.weights().map(|layer| layer.size).fold(0, u64::saturating_add),
                            });
                        }
                    }
                }
            }
        }
        for root in self.hugging_face {
            for directory in names(root) {
                let Some(repository) = directory.strip_prefix("models--") else { continue };
                let name = HuggingFaceName { repository: repository.replace("--", "/"), revision: None, file: None };
                let Ok((snapshot, _)) = snapshot(root, &name) else { continue };
                let directory = root.join(&directory);
                found.extend(importable_of(&name.repository, &snapshot, &directory));
            }
        }
        found.sort();
        found.dedup();
        found.truncate(MODELS_MAX);
        found
    }

    fn find_ollama(&self, reference: &str, name: &OllamaName) -> Result<Found, HubError> {
        let Some(root) = self.ollama.iter().find(|root| name.manifest_path(root).is_file()) else {
            return Err(not_in_cache(reference, "Ollama", self.ollama));
        };
        let manifest_path = name.manifest_path(root);
        let manifest = read_ollama_manifest(&manifest_path)?;
        let layers = |kind: &'static str| manifest.layers.iter().filter(move |layer| layer.media_type == kind);
        if layers(ADAPTER_LAYER).next().is_some() {
            return Err(HubError::local(&manifest_path, "models with an adapter are not supported yet"));
        }
        let mut weights = manifest.weights();
        let (Some(model), None) = (weights.next(), weights.next()) else {
            return Err(HubError::local(&manifest_path, "it does not consist of one GGUF file"));
        };
        let mut files = vec![model.file(root, format!("{}.gguf", name.model))?];
        for (position, license) in layers(LICENSE_LAYER).enumerate() {
            let path = if position == 0 { "LICENSE".to_owned() } else { format!("LICENSE.{}", position + 1) };
            files.push(license.file(root, path)?);
        }
        let mut model = LocalModel::check(files, &manifest_path)?;
        if layers(PROJECTOR_LAYER).next().is_some() {
            model.facts.note = Some("Text only: the part that reads images was left out.".to_owned());
        }
        Ok(Found { name: name.text(), model })
    }

    fn find_hugging_face(&self, reference: &str, name: &HuggingFaceName) -> Result<Found, HubError> {
        let root = self.hugging_face.iter().find(|root| root.join(cache_directory(name)).is_dir());
        let root = root.ok_or_else(|| not_in_cache(reference, "Hugging Face", self.hugging_face))?;
        let (snapshot, revision) = snapshot(root, name)?;
        let repository = root.join(cache_directory(name)).canonicalize().map_err(HubError::io(root))?;
        let mut files = match &name.file {
            Some(file) => {
                let known = gguf_files(&snapshot);
                if !known.contains(file) {
                    let reason = if known.is_empty() {
                        "this revision has no GGUF files".to_owned()
                    } else {
                        format!("it is not among the GGUF files of this revision: {}", known.join(", "))
                    };
                    return Err(HubError::local(&snapshot.join(file), reason));
                }
                vec![one_file(&snapshot, file, &repository)?]
            }
            None if snapshot.join("config.json").is_file() && !folder_has_only_gguf(&snapshot) => {
                folder_files(&snapshot, &repository)?
            }
            None => match gguf_files(&snapshot).as_slice() {
                [file] => vec![one_file(&snapshot, file, &repository)?],
                [] => return Err(HubError::local(&snapshot, "it holds neither safetensors nor GGUF weights")),
                several => {
                    let reason = format!("it holds several models; add one to the reference: /{}", several.join(", /"));
                    return Err(HubError::local(&snapshot, reason));
                }
            },
        };
        for file in &mut files {
            // Files under Large File Storage lie under their SHA-256; the cache itself never checks it.
            file.expected = file.source.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        }
        let mut model = LocalModel::check(files, &snapshot)?;
        model.facts.revision = Some(revision);
        model.facts.upstream_url = Some(format!("{DEFAULT_ENDPOINT}/{}", name.repository));
        if model.facts.title.is_none() {
            model.facts.title = name.repository.rsplit('/').next().map(str::to_owned);
        }
        let name = name.model_name().ok_or_else(|| HubError::NoName { reference: reference.to_owned() })?;
        Ok(Found { name, model })
    }
}

/// A model's name as Ollama splits it.
struct OllamaName {
    host: String,
    namespace: String,
    model: String,
    tag: String,
}

impl OllamaName {
    fn parse(text: &str) -> Option<Self> {
        let (path, tag) = match text.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (text, "latest"),
        };
        let parts: Vec<&str> = path.split('/').collect();
        let (host, namespace, model) = match parts.as_slice() {
            [model] => (OLLAMA_HOST, OLLAMA_NAMESPACE, *model),
            [namespace, model] => (OLLAMA_HOST, *namespace, *model),
            [host, namespace, model] => (*host, *namespace, *model),
            _ => return None,
        };
        [host, namespace, model, tag].into_iter().all(is_plain).then(|| Self {
            host: host.to_owned(),
            namespace: namespace.to_owned(),
            model: model.to_owned(),
            tag: tag.to_owned(),
        })
    }

    /// The shortest form that parses to the same.
    fn text(&self) -> String {
        let Self { host, namespace, model, tag } = self;
        match (host.as_str(), namespace.as_str()) {
            (OLLAMA_HOST, OLLAMA_NAMESPACE) => format!("{model}:{tag}"),
            (OLLAMA_HOST, _) => format!("{namespace}/{model}:{tag}"),
            _ => format!("{host}/{namespace}/{model}:{tag}"),
        }
    }

    fn manifest_path(&self, root: &Path) -> PathBuf {
        root.join("manifests").join(&self.host).join(&self.namespace).join(&self.model).join(&self.tag)
    }
}

#[derive(Deserialize)]
struct OllamaManifest {
    #[serde(default)]
    layers: Vec<OllamaLayer>,
}

#[derive(Deserialize)]
struct OllamaLayer {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
    #[serde(default)]
    size: u64,
}

impl OllamaManifest {
    fn weights(&self) -> impl Iterator<Item = &OllamaLayer> {
        self.layers.iter().filter(|layer| layer.media_type == MODEL_LAYER)
    }
}

impl OllamaLayer {
    fn file(&self, root: &Path, path: String) -> Result<LocalFile, HubError> {
        // Parsed before it is joined: a digest is digits and nothing else.
        let digest: Digest = self
            .digest
            .parse()
            .map_err(|_| HubError::local(root, format!("a manifest there holds a digest that is none for {path}")))?;
        let blobs = root.join("blobs");
        let source = [format!("sha256-{}", digest.hex()), digest.to_string()]
            .into_iter()
            .map(|name| blobs.join(name))
            .find(|path| path.is_file())
            .ok_or_else(|| HubError::local(&blobs, format!("the blob {digest} of {path} is missing there")))?;
        Ok(LocalFile { path, source, expected: Some(digest) })
    }
}

fn read_ollama_manifest(path: &Path) -> Result<OllamaManifest, HubError> {
    let bytes = read_limited(path)?;
    serde_json::from_slice(&bytes).map_err(|error| HubError::local(path, format!("as a manifest: {error}")))
}

fn cache_directory(name: &HuggingFaceName) -> String {
    format!("models--{}", name.repository.replace('/', "--"))
}

/// The folder of the revision that is meant, and its commit.
fn snapshot(root: &Path, name: &HuggingFaceName) -> Result<(PathBuf, String), HubError> {
    let repository = root.join(cache_directory(name));
    let snapshots = repository.join("snapshots");
    let commits = names(&snapshots);
    let wanted = name.revision.as_deref().unwrap_or("main");
    let named = read_limited(&repository.join("refs").join(wanted)).ok();
    let named = named.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
    let commit = commits.iter().find(|commit| named.as_ref() == Some(commit)).or_else(|| match &name.revision {
        Some(revision) => {
            let mut fitting = commits.iter().filter(|commit| commit.starts_with(revision.as_str()));
            fitting.next().filter(|_| fitting.next().is_none())
        }
        None => commits.first().filter(|_| commits.len() == 1),
    });
    match commit {
        Some(commit) => Ok((snapshots.join(commit), commit.clone())),
        None if commits.is_empty() => Err(HubError::local(&repository, "no revision of it is there")),
        None => Err(HubError::local(
            &repository,
            format!("it has no revision `{wanted}`; there are {}", commits.join(", ")),
        )),
    }
}

fn importable_of(repository: &str, snapshot: &Path, root: &Path) -> Vec<Importable> {
    let size = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    if snapshot.join("config.json").is_file() && !folder_has_only_gguf(snapshot) {
        let Some(files) = root.canonicalize().ok().and_then(|root| folder_files(snapshot, &root).ok()) else {
            return Vec::new();
        };
        let weights = files.iter().any(|file| file.path.ends_with(".safetensors"));
        let size_bytes = files.iter().map(|file| size(&file.source)).fold(0, u64::saturating_add);
        return weights.then(|| Importable { reference: format!("hf:{repository}"), size_bytes }).into_iter().collect();
    }
    gguf_files(snapshot)
        .into_iter()
        .map(|file| Importable {
            size_bytes: size(&snapshot.join(&file)),
            reference: format!("hf:{repository}/{file}"),
        })
        .collect()
}

/// Repositories of GGUF files often carry a config.json for show.
fn folder_has_only_gguf(snapshot: &Path) -> bool {
    let names = names(snapshot);
    names.iter().any(|name| name.ends_with(".gguf")) && !names.iter().any(|name| name.ends_with(".safetensors"))
}

fn gguf_files(snapshot: &Path) -> Vec<String> {
    names(snapshot).into_iter().filter(|name| name.ends_with(".gguf") && validate_file_path(name).is_ok()).collect()
}

/// A file of a snapshot; it is a link into the repository's blobs, and may not lead elsewhere.
fn one_file(snapshot: &Path, file: &str, repository: &Path) -> Result<LocalFile, HubError> {
    let path = snapshot.join(file);
    let source = path.canonicalize().map_err(HubError::io(&path))?;
    if !source.starts_with(repository) || !source.is_file() {
        return Err(HubError::local(&path, "it leads out of the repository's cache"));
    }
    Ok(LocalFile { path: file.to_owned(), source, expected: None })
}

fn not_in_cache(reference: &str, tool: &'static str, searched: &[PathBuf]) -> HubError {
    HubError::NotInCache { reference: reference.to_owned(), tool, searched: searched.to_owned() }
}

fn read_limited(path: &Path) -> Result<Vec<u8>, HubError> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(HubError::io(path))?;
    file.take(MANIFEST_LIMIT_BYTES).read_to_end(&mut bytes).map_err(HubError::io(path))?;
    Ok(bytes)
}

/// The plain names in a directory, in order; none if it cannot be read.
fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .take(MODELS_MAX)
        .collect();
    names.sort();
    names
}
