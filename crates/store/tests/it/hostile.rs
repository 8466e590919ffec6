//! Documents that somebody else wrote into the store.

use crate::{new_store, publish};
use freehold_base::Digest;
use freehold_store::{Store, StoreError, validate_file_path, validate_name};
use std::fs;

const CONFIG_TYPE: &str = "application/vnd.cncf.model.config.v1+json";

#[test]
fn a_broken_index_is_an_error_and_stays_as_it_is() {
    let nested = format!("{{\"schemaVersion\":2,\"manifests\":[],\"x\":{}", "[".repeat(200_000));
    let huge = format!("{{\"schemaVersion\":2,\"manifests\":[],\"x\":\"{}\"}}", "a".repeat(33 << 20));
    let entry = |digest: &str| {
        format!(r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"x","digest":"{digest}","size":1}}]}}"#)
    };
    for text in [
        "",
        "[]",
        "{\"schemaVersion\":2,\"manif",
        "{\"schemaVersion\":1,\"manifests\":[]}",
        &entry("sha256:../../../../etc/passwd"),
        &entry("sha512:aa"),
        &entry(&"a".repeat(64)),
        &entry(&format!("sha256:{}", "g".repeat(64))),
        r#"{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":1,"size":-1}]}"#,
        &nested,
        &huge,
    ] {
        let (_directory, store) = new_store();
        let index = store.root().join("index.json");
        fs::write(&index, text).unwrap();
        let store = Store::open(store.root()).unwrap();
        let start = &text[..text.len().min(60)];
        assert!(matches!(store.list(), Err(StoreError::Malformed { .. })), "{start}");
        assert!(matches!(store.resolve("m"), Err(StoreError::Malformed { .. })), "{start}");
        assert!(matches!(store.clean(), Err(StoreError::Malformed { .. })), "{start}");
        assert_eq!(fs::read_to_string(&index).unwrap(), text, "{start}");
    }
}

#[test]
fn a_broken_manifest_is_an_error_that_names_the_field() {
    let config = Digest::of(b"{\"modelfs\":{\"type\":\"layers\"}}");
    let manifest = |config_type: &str, layers: &str| {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{config_type}","digest":"{config}","size":29}},"layers":[{layers}]}}"#
        )
    };
    let layer = |media_type: &str, path: &str| {
        format!(
            r#"{{"mediaType":"{media_type}","digest":"{config}","size":29,"annotations":{{"org.cncf.model.filepath":"{path}"}}}}"#
        )
    };
    let weight = "application/vnd.cncf.model.weight.v1.raw";
    let good = layer(weight, "a.gguf");
    for (text, message) in [
        ("{".to_owned(), "EOF"),
        ("{}".to_owned(), "missing field"),
        (manifest("application/vnd.oci.image.config.v1+json", &good), "config.mediaType"),
        (manifest(CONFIG_TYPE, "{}"), "missing field"),
        (manifest(CONFIG_TYPE, &layer("application/vnd.cncf.model.weight.v1.tar", "a.gguf")), "layers[0].mediaType"),
        (manifest(CONFIG_TYPE, &layer(weight, "../a.gguf")), "../a.gguf"),
        (manifest(CONFIG_TYPE, &layer(weight, "/etc/passwd")), "/etc/passwd"),
        (manifest(CONFIG_TYPE, &layer(weight, "a\\\\b")), "backslash"),
        (manifest(CONFIG_TYPE, &format!("{good},{good}")), "layers[1] names `a.gguf` a second time"),
        (manifest(CONFIG_TYPE, &good.replace("org.cncf.model.filepath", "x")), "layers[0] has no"),
        (format!("{{\"x\":\"{}\"}}", "a".repeat(4 << 20)), "larger"),
    ] {
        let (_directory, store) = new_store();
        publish(&store, "good", &[("good.gguf", b"good")]);
        let ingest = store.ingest().unwrap();
        ingest.put_bytes(b"{\"modelfs\":{\"type\":\"layers\"}}").unwrap();
        let blob = ingest.put_bytes(text.as_bytes()).unwrap();
        drop(ingest);
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":1,"annotations":{{"org.opencontainers.image.ref.name":"bad"}}}}]}}"#,
            blob.digest
        );
        fs::write(store.root().join("index.json"), index).unwrap();
        let error = store.resolve("bad").unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        assert_eq!(store.list().unwrap().len(), 1);
        assert!(store.remove("bad").is_ok(), "a bad model can be removed: {message}");
    }
}

#[test]
fn a_manifest_whose_bytes_changed_is_not_believed() {
    let (_directory, store) = new_store();
    let model = publish(&store, "m", &[("m.gguf", b"weights")]);
    let path = store.blob_path(&model.digest);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("m.gguf", "n.gguf")).unwrap();
    assert!(matches!(store.resolve("m"), Err(StoreError::Damaged { .. })));
    // What its files are is no longer known, so nothing may be deleted.
    assert!(matches!(store.clean(), Err(StoreError::Damaged { .. })));
    assert!(store.has(&Digest::of(b"weights")));
}

#[test]
fn another_layout_is_refused() {
    for text in ["", "{}", "{\"imageLayoutVersion\":\"2.0.0\"}", "{\"imageLayoutVersion\":1}"] {
        let (_directory, store) = new_store();
        fs::write(store.root().join("oci-layout"), text).unwrap();
        assert!(matches!(Store::open(store.root()), Err(StoreError::Malformed { .. })), "{text}");
    }
}

#[test]
fn names_and_paths() {
    for name in ["smollm2:135m", "org/model-1.5", "a", "A_b+c"] {
        assert!(validate_name(name).is_ok(), "{name}");
    }
    let long = "a".repeat(201);
    for name in ["", "a b", "a@b", "../a", "a/", "-a", "sha256:aa", "a\n", "ä", &long] {
        assert!(validate_name(name).is_err(), "{name}");
    }
    for path in ["m.gguf", "1_Pooling/config.json", "a b.txt", ".hidden", "..."] {
        assert!(validate_file_path(path).is_ok(), "{path}");
    }
    for path in ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a\\b", "c:a", "a\0b", "a\nb", &"a".repeat(256)] {
        assert!(validate_file_path(path).is_err(), "{path}");
    }
}
