//! A store's `index.json` and the manifests and configurations that it names, as another tool may have left them.

use crate::allocator::within_limit;
use crate::damage::{Damage, Edge, damaged};
use arbitrary::Arbitrary;
use freehold_base::Digest;
use freehold_store::Store;
use serde_json::{Value, json};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

const PATHS: [&str; 6] = ["model.gguf", "a/b.json", "../../etc/x", "/etc/x", "", "model.gguf"];
const KINDS: [&str; 4] = [
    "application/vnd.cncf.model.weight.v1.raw",
    "application/vnd.cncf.model.doc.v1.raw",
    "application/vnd.cncf.model.weight.config.v1.raw",
    "application/octet-stream",
];

/// A layer: its kind, its path, its bytes, a size that may be wrong, and whether its blob is there.
type Layer = (u8, u8, Vec<u8>, Option<Edge>, bool);

/// A model.
#[derive(Arbitrary, Debug)]
pub struct Entry {
    name: Option<u8>,
    layers: Vec<Layer>,
    size: Option<Edge>,
    schema_version: Option<Edge>,
    manifest_damages: Vec<Damage>,
    config_damages: Vec<Damage>,
}

/// A store.
#[derive(Arbitrary, Debug)]
pub struct Input {
    models: Vec<Entry>,
    schema_version: Option<Edge>,
    index_damages: Vec<Damage>,
    marker: Option<Vec<u8>>,
}

fn blob(root: &Path, bytes: &[u8], present: bool) -> Digest {
    let digest = Digest::of(bytes);
    if present {
        fs::write(root.join("blobs/sha256").join(digest.hex()), bytes).expect("room for it");
    }
    digest
}

fn descriptor(kind: &str, digest: Digest, size: u64) -> Value {
    json!({"mediaType": kind, "digest": format!("sha256:{}", digest.hex()), "size": size})
}

/// Opens, lists, resolves, verifies, removes and cleans.
pub fn check(input: &Input) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let root = directory.path();
    fs::create_dir_all(root.join("blobs/sha256")).expect("a writable directory");
    let mut manifests = Vec::new();
    for entry in input.models.iter().take(4) {
        let layers: Vec<Value> = (entry.layers.iter().take(4))
            .map(|(kind, path, bytes, size, present)| {
                let digest = blob(root, bytes, *present);
                let size = size.map_or(bytes.len() as u64, Edge::value);
                let mut layer = descriptor(KINDS[usize::from(*kind) % KINDS.len()], digest, size);
                layer["annotations"] = json!({"org.cncf.model.filepath": PATHS[usize::from(*path) % PATHS.len()]});
                layer
            })
            .collect();
        let ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        let config = json!({"descriptor": {"title": "t"}, "config": {}, "modelfs": {"type": "layers", "diffIds": ids}});
        let config = damaged(config.to_string().into_bytes(), &entry.config_damages);
        let manifest = json!({
            "schemaVersion": entry.schema_version.map_or(2, Edge::value),
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/vnd.cncf.model.manifest.v1+json",
            "config": descriptor(
                "application/vnd.cncf.model.config.v1+json", blob(root, &config, true), config.len() as u64),
            "layers": layers,
        });
        let manifest = damaged(manifest.to_string().into_bytes(), &entry.manifest_damages);
        let digest = blob(root, &manifest, true);
        let size = entry.size.map_or(manifest.len() as u64, Edge::value);
        let mut named = descriptor("application/vnd.oci.image.manifest.v1+json", digest, size);
        if let Some(name) = entry.name {
            named["annotations"] = json!({"org.opencontainers.image.ref.name": format!("m{}", name % 3)});
        }
        manifests.push(named);
    }
    let index = json!({"schemaVersion": input.schema_version.map_or(2, Edge::value), "manifests": manifests});
    fs::write(root.join("index.json"), damaged(index.to_string().into_bytes(), &input.index_damages)).expect("room");
    fs::write(root.join("oci-layout"), input.marker.as_deref().unwrap_or(br#"{"imageLayoutVersion": "1.0.0"}"#))
        .expect("room");
    within_limit(0, || {
        let Ok(store) = Store::open(root) else { return };
        let names: Vec<String> = match store.list() {
            Ok(entries) => entries.into_iter().filter_map(|entry| entry.name).collect(),
            Err(_) => return,
        };
        for name in &names {
            let Ok(model) = store.resolve(name) else { continue };
            for file in &model.files {
                assert!(!file.path.contains("..") && !file.path.starts_with('/'), "{}", file.path);
            }
            if let Ok(files) = store.files(&model, &mut |_| ControlFlow::Continue(())) {
                assert!(files.values().all(|path| path.starts_with(root)));
            }
            let _ = store.remove(name);
        }
        let _ = store.clean();
    });
}
