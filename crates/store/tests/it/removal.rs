//! Removing and cleaning, also while a pull runs.

use crate::{file, new_store, publish, quiet};
use freehold_base::Digest;
use freehold_store::{Facts, NewModel, StoreError};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn removing_frees_what_no_other_model_needs() {
    let (_directory, store) = new_store();
    publish(&store, "a", &[("a.gguf", b"only in a"), ("LICENSE", b"shared")]);
    publish(&store, "b", &[("b.gguf", b"only in b"), ("LICENSE", b"shared")]);
    publish(&store, "b2", &[("b.gguf", b"only in b"), ("LICENSE", b"shared")]);
    let freed = store.remove("a").unwrap();
    assert_eq!((freed.files, freed.deferred), (3, false), "weights, configuration and manifest");
    assert!(!store.has(&Digest::of(b"only in a")));
    assert!(store.has(&Digest::of(b"shared")));
    assert_eq!(store.remove("b").unwrap().files, 0, "the other name still needs all of it");
    assert!(store.files(&store.resolve("b2").unwrap(), &mut quiet).is_ok());
    assert!(matches!(store.remove("a"), Err(StoreError::NotFound { .. })));
    store.remove("b2").unwrap();
    assert!(!store.has(&Digest::of(b"shared")));
}

#[test]
fn cleaning_keeps_models_and_foreign_files() {
    let (_directory, store) = new_store();
    let model = publish(&store, "kept", &[("kept.gguf", b"kept")]);
    let blobs = store.blob_path(&model.digest).parent().unwrap().to_owned();
    store.ingest().unwrap().put_bytes(b"nobody's").unwrap();
    fs::write(blobs.join("not-a-digest"), b"x").unwrap();
    fs::create_dir(store.ingest_directory().join("folder")).unwrap();
    fs::write(store.ingest_directory().join("folder/file"), b"x").unwrap();
    let freed = store.clean().unwrap();
    assert_eq!((freed.files, freed.bytes, freed.deferred), (1, 8, false));
    assert_eq!(fs::read_dir(store.ingest_directory()).unwrap().count(), 0);
    assert!(blobs.join("not-a-digest").exists());
    assert!(store.files(&store.resolve("kept").unwrap(), &mut quiet).is_ok());
}

#[test]
fn what_a_model_needs_whose_manifest_is_lost_is_not_deleted() {
    let (_directory, store) = new_store();
    let model = publish(&store, "a", &[("a.gguf", b"weights of a")]);
    publish(&store, "b", &[("b.gguf", b"weights of b")]);
    fs::remove_file(store.blob_path(&model.digest)).unwrap();
    assert!(
        matches!(store.clean(), Err(StoreError::MissingBlob { digest, needed_by }) if digest == model.digest && needed_by == "a")
    );
    let freed = store.remove("b").unwrap();
    assert_eq!((freed.files, freed.deferred), (0, true));
    assert!(store.has(&Digest::of(b"weights of a")) && store.has(&Digest::of(b"weights of b")));
    // Once the model is given up, it is.
    assert!(store.remove("a").unwrap().deferred);
    assert_eq!(store.clean().unwrap().files, 5, "all that is left: b, and a but for its manifest");
}

#[test]
fn other_tools_entries_survive_and_hold_their_blobs() {
    let (_directory, store) = new_store();
    publish(&store, "ours", &[("a.gguf", b"ours")]);
    let ingest = store.ingest().unwrap();
    let layer = ingest.put_bytes(b"a layer of an image").unwrap();
    let image = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"{0}","size":19}},"layers":[{{"mediaType":"x","digest":"{0}","size":19}}]}}"#,
        layer.digest
    );
    let image = ingest.put_bytes(image.as_bytes()).unwrap();
    drop(ingest);
    let path = store.root().join("index.json");
    let mut index: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let foreign = serde_json::json!({
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "digest": image.digest.to_string(), "size": image.size_bytes,
        "platform": {"os": "linux", "architecture": "arm64"},
    });
    index["manifests"].as_array_mut().unwrap().push(foreign.clone());
    index["annotations"] = serde_json::json!({"org.example": "kept"});
    fs::write(&path, index.to_string()).unwrap();

    let entries = store.list().unwrap();
    assert_eq!(entries.len(), 2);
    assert!(entries[0].model.is_err() && entries[1].model.is_ok(), "one bad entry must not hide the others");
    store.remove("ours").unwrap();
    assert_eq!(store.clean().unwrap().files, 0);
    assert!(store.has(&layer.digest) && store.has(&image.digest));
    let index: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(index["manifests"], serde_json::json!([foreign]));
    assert_eq!(index["annotations"]["org.example"], "kept");
}

#[test]
fn a_clean_up_during_a_pull_deletes_nothing() {
    let (_directory, store) = new_store();
    publish(&store, "old", &[("old.gguf", b"old")]);
    let ingest = store.ingest().unwrap();
    let blob = ingest.put_bytes(b"new weights").unwrap();
    let clean = store.clean().unwrap();
    let remove = store.remove("old").unwrap();
    assert_eq!((clean.files, clean.deferred, remove.files, remove.deferred), (0, true, 0, true));
    let model = NewModel { facts: Facts::default(), files: vec![file("new.gguf", blob)] };
    ingest.publish("new", &model, "test").unwrap();
    drop(ingest);
    assert_eq!(store.clean().unwrap().files, 3, "the old model's weights, configuration and manifest");
    assert!(store.files(&store.resolve("new").unwrap(), &mut quiet).is_ok());
}

#[test]
fn pulls_and_clean_ups_at_once_lose_nothing() {
    let (_directory, store) = new_store();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let cleaner = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                store.clean().unwrap();
            }
        });
        let pullers: Vec<_> = (0..3)
            .map(|thread| {
                let store = &store;
                scope.spawn(move || {
                    for round in 0..10 {
                        let weights = format!("weights {thread} {round}");
                        let name = format!("model-{thread}-{round}");
                        publish(store, &name, &[("m.gguf", weights.as_bytes()), ("LICENSE", b"shared")]);
                        store.files(&store.resolve(&name).unwrap(), &mut quiet).unwrap();
                        if round % 2 == 0 {
                            store.remove(&name).unwrap();
                        }
                    }
                })
            })
            .collect();
        for puller in pullers {
            puller.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        cleaner.join().unwrap();
    });
    let entries = store.list().unwrap();
    assert_eq!(entries.len(), 15);
    for entry in entries {
        store.files(&entry.model.unwrap(), &mut quiet).unwrap();
    }
}
