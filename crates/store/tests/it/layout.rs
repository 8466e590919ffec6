//! What is on disk, and finding it again.

use crate::{file, new_store, publish, quiet};
use freehold_base::Digest;
use freehold_store::{Facts, NewModel, Store, StoreError};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

fn read_json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_store_is_an_oci_layout_with_modelpack_manifests() {
    let (_directory, store) = new_store();
    let model = publish(&store, "tiny:1", &[("tiny.gguf", b"weights"), ("LICENSE", b"do what you like")]);
    assert_eq!(read_json(store.root().join("oci-layout")), json!({"imageLayoutVersion": "1.0.0"}));
    let manifest_path = store.blob_path(&model.digest);
    let size = fs::metadata(&manifest_path).unwrap().len();
    assert_eq!(
        read_json(store.root().join("index.json")),
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": model.digest.to_string(),
                "size": size,
                "annotations": {
                    "io.github.freehold-ai.source": "test",
                    "org.opencontainers.image.ref.name": "tiny:1",
                },
            }],
        })
    );
    let manifest = read_json(manifest_path);
    let (license, weights) = (Digest::of(b"do what you like"), Digest::of(b"weights"));
    assert_eq!(manifest["artifactType"], "application/vnd.cncf.model.manifest.v1+json");
    assert_eq!(
        manifest["layers"],
        json!([
            {
                "mediaType": "application/vnd.cncf.model.doc.v1.raw",
                "digest": license.to_string(),
                "size": 16,
                "annotations": {"org.cncf.model.filepath": "LICENSE"},
            },
            {
                "mediaType": "application/vnd.cncf.model.weight.v1.raw",
                "digest": weights.to_string(),
                "size": 7,
                "annotations": {"org.cncf.model.filepath": "tiny.gguf"},
            },
        ])
    );
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.cncf.model.config.v1+json");
    let config: Digest = manifest["config"]["digest"].as_str().unwrap().parse().unwrap();
    assert_eq!(
        read_json(store.blob_path(&config)),
        json!({
            "descriptor": {"title": "A test", "licenses": ["Apache-2.0"]},
            "config": {"format": "gguf"},
            "modelfs": {"type": "layers", "diffIds": [license.to_string(), weights.to_string()]},
        })
    );
}

#[test]
fn the_same_files_and_facts_are_the_same_model_in_every_store() {
    let (_one, first) = new_store();
    let (_two, second) = new_store();
    let a = publish(&first, "a", &[("x.gguf", b"x"), ("README.md", b"y")]);
    let b = publish(&second, "b", &[("README.md", b"y"), ("x.gguf", b"x")]);
    assert_eq!(a.digest, b.digest);
    let files = a.files.iter().map(|file| freehold_store::NewFile {
        path: file.path.clone(),
        digest: file.digest,
        size_bytes: file.size_bytes,
    });
    assert_eq!(NewModel { facts: a.facts.clone(), files: files.collect() }.digest().unwrap(), a.digest);
}

#[test]
fn models_are_found_by_name_and_digest() {
    let (_directory, store) = new_store();
    let old = publish(&store, "one:1", &[("a.gguf", b"old")]);
    let one = publish(&store, "one:1", &[("a.gguf", b"a")]);
    let two = publish(&store, "org/two", &[("b.gguf", b"b")]);
    publish(&store, "again", &[("b.gguf", b"b")]);
    let reopened = Store::open(store.root()).unwrap();
    let found: Vec<_> = reopened.list().unwrap().into_iter().map(|entry| (entry.name.unwrap(), entry.digest)).collect();
    assert_eq!(
        found,
        [("again".to_owned(), two.digest), ("one:1".to_owned(), one.digest), ("org/two".to_owned(), two.digest)]
    );
    let short = &two.digest.to_string()[..19];
    for (reference, digest) in
        [("one:1", one.digest), (&format!("one:1@{}", one.digest), one.digest), (short, two.digest)]
    {
        assert_eq!(reopened.resolve(reference).unwrap().digest, digest, "{reference}");
    }
    for (reference, message) in [
        ("three", "there is no model `three`"),
        ("one", "there is no model `one`"),
        ("one:1@sha256:12", "there is no model"),
        (&format!("one:1@{}", old.digest), "is in the store as"),
        (&old.digest.to_string(), "there is no model"),
        ("sha256:1", "give more of the digest"),
        ("../../etc/passwd", "there is no model"),
    ] {
        let error = reopened.resolve(reference).unwrap_err().to_string();
        assert!(error.contains(message), "{reference}: {error}");
    }
}

#[test]
fn a_models_files_are_handed_over_by_name() {
    let (_directory, store) = new_store();
    let folder =
        publish(&store, "hf", &[("config.json", b"{}"), ("model.safetensors", b"w"), ("1_Pooling/config.json", b"[]")]);
    let files = store.files(&folder, &mut quiet).unwrap();
    let contents: Vec<_> = files.iter().map(|(name, path)| (name.as_str(), fs::read(path).unwrap())).collect();
    assert_eq!(
        contents,
        [
            ("1_Pooling/config.json", b"[]".to_vec()),
            ("config.json", b"{}".to_vec()),
            ("model.safetensors", b"w".to_vec())
        ]
    );
}

#[test]
fn damage_is_noticed_when_a_model_is_used_and_healed_by_bringing_it_in_again() {
    let (_directory, store) = new_store();
    let model = publish(&store, "m", &[("m.gguf", b"weights")]);
    let digest = Digest::of(b"weights");
    let path = store.blob_path(&digest);
    let touch = |bytes: &[u8]| {
        // A new file, so that neither its size nor its time betrays more than it would on a real disk.
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    };
    touch(b"WEIGHTS");
    assert!(matches!(store.files(&model, &mut quiet), Err(StoreError::Damaged { digest: d, .. }) if d == digest));
    assert!(matches!(store.verify_blob(&digest, &mut quiet), Err(StoreError::Damaged { .. })));
    touch(b"weights");
    assert!(store.files(&model, &mut quiet).is_ok());
    touch(b"weig");
    assert!(store.files(&model, &mut quiet).is_err());
    publish(&store, "m", &[("m.gguf", b"weights")]);
    assert!(store.files(&model, &mut quiet).is_ok());
    fs::remove_file(&path).unwrap();
    assert!(matches!(store.files(&model, &mut quiet), Err(StoreError::MissingBlob { .. })));
}

#[test]
fn what_changes_while_it_is_hashed_is_hashed_again() {
    let old = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let write = |path: &Path, bytes: &[u8]| {
        let mut file = File::options().write(true).open(path).unwrap();
        file.write_all(bytes).unwrap();
    };
    // A blob that is verified.
    let (directory, store) = new_store();
    let model = publish(&store, "m", &[("m.gguf", b"weights")]);
    let path = store.blob_path(&model.files[0].digest);
    File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    let verified = store.verify_blob(&model.files[0].digest, &mut |_| {
        write(&path, b"WEIGHTS");
        ControlFlow::Continue(())
    });
    assert!(verified.is_ok(), "the bytes were right when they were read");
    assert!(matches!(store.files(&model, &mut quiet), Err(StoreError::Damaged { .. })));

    // A file that is adopted: the second reading is that of the link.
    let original = directory.path().join("original.gguf");
    fs::write(&original, b"adopted").unwrap();
    File::options().write(true).open(&original).unwrap().set_modified(old).unwrap();
    let ingest = store.ingest().unwrap();
    let mut readings = 0;
    let blob = ingest
        .adopt_file(&original, None, &mut |_| {
            readings += 1;
            if readings == 2 {
                write(&original, b"ADOPTED");
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    let files = vec![file("a.gguf", blob)];
    let model = ingest.publish("a", &NewModel { facts: Facts::default(), files }, "test").unwrap();
    assert!(matches!(store.files(&model, &mut quiet), Err(StoreError::Damaged { .. })));
}

/// Tools that restore a file's time of change with its content do not hide it.
#[cfg(unix)]
#[test]
fn a_change_with_its_time_set_back_is_noticed() {
    let (_directory, store) = new_store();
    let model = publish(&store, "m", &[("m.gguf", b"weights")]);
    let path = store.blob_path(&model.files[0].digest);
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"WEIGHTS").unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert!(matches!(store.files(&model, &mut quiet), Err(StoreError::Damaged { .. })));
}

/// An empty index in its place would let the next clean-up delete every model.
#[test]
fn an_index_that_is_lost_is_not_made_anew() {
    let (_directory, store) = new_store();
    publish(&store, "m", &[("m.gguf", b"weights")]);
    let root = store.root().to_owned();
    fs::remove_file(root.join("index.json")).unwrap();
    let error = Store::open(&root).unwrap_err().to_string();
    assert!(error.contains("index.json is not usable: it is gone; restore it, or remove"), "{error}");
    assert!(!root.join("index.json").exists());
    // As the error says.
    fs::remove_file(root.join("oci-layout")).unwrap();
    let store = Store::open(&root).unwrap();
    assert!(store.list().unwrap().is_empty() && store.has(&Digest::of(b"weights")));
}
