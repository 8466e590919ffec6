//! Bringing back what a scrub found damaged or missing.

use crate::import::write_ollama;
use crate::local::write_folder;
use crate::packages::write_working_pip;
use crate::server::{Reply, Server};
use crate::{Home, gguf, quiet, wheel};
use freehold_base::Digest;
use freehold_hub::{HubError, Repair};
use freehold_store::{FaultKind, Store};
use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// A home with the model `m` from each kind of source.
fn homes(server: &Server, bytes: &[u8], archive: &[u8]) -> Vec<(&'static str, Home)> {
    let digest = Digest::of(bytes);
    let address = format!("{}#sha256={}", server.url("/x.gguf"), digest.hex());
    let size = bytes.len();
    let entry = format!(
        "path = \"t.gguf\"\nsize_bytes = {size}\nsha256 = \"{}\"\nsources = [\"file:/nowhere\", ",
        digest.hex()
    );
    let kinds = ["https", "pypi", "file", "folder", "ollama", "catalogue", "an older catalogue"];
    let mut homes = Vec::new();
    for kind in kinds {
        let home = Home::new();
        let file = home.write("with space/x.gguf", bytes);
        write_folder(&home, "folder");
        write_ollama(&home, "registry.ollama.ai/library/x/latest", &[("model", bytes), ("license", b"MIT")]);
        let wheel = ("a", "1", server.url("/x.whl"), Some(Digest::of(archive)));
        write_working_pip(home.directory.path(), &[wheel]);
        if kind.contains("catalogue") {
            home.catalogue(&format!("{entry}\"{address}\"]"));
        }
        let reference = match kind {
            "https" => address.clone(),
            "pypi" => "pypi:a==1#a/x.gguf".to_owned(),
            "file" => format!("file:{}", file.display()),
            "folder" => format!("file:{}", home.path("folder").display()),
            "ollama" => "ollama:x".to_owned(),
            _ => "test:1".to_owned(),
        };
        match kind {
            "ollama" => home.hub().import(&reference, Some("m"), &mut quiet),
            _ => home.hub().pull(&reference, Some("m"), &mut quiet),
        }
        .unwrap();
        if kind == "an older catalogue" {
            // What is known about the model has changed, its bytes have not.
            let text = fs::read_to_string(home.path("catalogue.toml")).unwrap();
            home.write("catalogue.toml", text.replace("MIT", "ISC"));
        }
        homes.push((kind, home));
    }
    homes
}

fn blobs(store: &Store) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        fs::read_dir(store.root().join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Makes the path another file: a blob may share its bytes with the file it came from.
fn overwrite(path: &PathBuf, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

fn scrub(store: &Store) -> Vec<freehold_store::Fault> {
    store.scrub(None, &mut |_, _| ControlFlow::Continue(())).unwrap().faults
}

fn repair(home: &Home) -> Vec<Repair> {
    let hub = home.hub();
    hub.repair(&scrub(hub.store()), &mut quiet).unwrap()
}

#[test]
fn every_blob_of_a_model_is_brought_back_from_every_kind_of_source() {
    let bytes = gguf("Tiny", 1000);
    let archive = wheel(&[("a/x.gguf", &bytes)]);
    let (file, package) = (bytes.clone(), archive.clone());
    let server =
        Server::new(move |request| Reply::range(request, if request.path == "/x.whl" { &package } else { &file }));
    for (kind, home) in homes(&server, &bytes, &archive) {
        let hub = home.hub();
        let store = hub.store();
        let before = store.resolve("m").unwrap();
        for path in blobs(store) {
            // A manifest or a configuration cannot be made from a catalogue that says something else.
            let is_weights = path.ends_with(Digest::of(&bytes).hex());
            let expected = is_weights || kind != "an older catalogue";
            let content = fs::read(&path).unwrap();
            for missing in [false, true] {
                overwrite(&path, b"rotten");
                if missing {
                    fs::remove_file(&path).unwrap();
                }
                let what = format!("{kind}, {}, missing: {missing}", path.display());
                let repairs = repair(&home);
                assert_eq!(repairs.len(), 1, "{what}");
                assert_eq!(repairs[0].model, "m", "{what}");
                match (&repairs[0].result, expected) {
                    (Ok(()), true) => {
                        assert_eq!(scrub(store), [], "{what}");
                        let after = store.resolve("m").unwrap();
                        assert_eq!((after.digest, &after.source), (before.digest, &before.source), "{what}");
                        assert_eq!(fs::read_dir(store.ingest_directory()).unwrap().count(), 0, "{what}");
                    }
                    (Err(error), false) => {
                        assert!(error.to_string().contains("where it came from there is now"), "{what}: {error}");
                        fs::write(&path, &content).unwrap();
                        store.clean().unwrap();
                    }
                    (result, _) => panic!("{what}: {result:?}"),
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_brought_back_gets_one_sentence_and_is_not_replaced() {
    let bytes = gguf("Tiny", 1000);
    let archive = wheel(&[("a/x.gguf", &bytes)]);
    let (file, package) = (bytes.clone(), archive.clone());
    let online = tempfile::NamedTempFile::new().unwrap();
    let switch = online.path().to_owned();
    let server = Server::new(move |request| match (switch.exists(), request.path.as_str()) {
        (false, _) => Reply::status(404),
        (true, "/x.whl") => Reply::range(request, &package),
        (true, _) => Reply::range(request, &file),
    });
    let homes = homes(&server, &bytes, &archive);
    drop(online);
    for (kind, home) in homes {
        let hub = home.hub();
        let store = hub.store();
        let before = store.resolve("m").unwrap();
        // Where it came from, there is something else now, or nothing.
        overwrite(&home.path("with space/x.gguf"), &gguf("Other", 1000));
        overwrite(&home.path("folder/model.safetensors"), b"other");
        fs::remove_dir_all(home.path("ollama")).unwrap();
        let weights =
            before.files.iter().find(|file| file.path.ends_with(".gguf") || file.path.ends_with(".safetensors"));
        let weights = weights.unwrap().digest;
        overwrite(&store.blob_path(&weights), b"rotten");
        let says = match kind {
            "https" | "pypi" => "answered 404",
            "file" | "folder" => "wrong content",
            "ollama" => "nothing is known of where `m` came from",
            _ => "none of the sources of `m` worked",
        };
        let repairs = repair(&home);
        assert_eq!(repairs.len(), 1, "{kind}");
        let error = repairs[0].result.as_ref().unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains('\n'), "{kind}: {error}");
        assert_eq!(store.resolve("m").unwrap().digest, before.digest, "{kind}");
        let faults = scrub(store);
        assert_eq!(faults.len(), 1, "{kind}");
        assert_eq!((faults[0].digest, &faults[0].kind), (weights, &FaultKind::Missing), "{kind}");
        let aside = store.ingest_directory().join(format!("damaged-{}", weights.hex()));
        assert_eq!(fs::read(aside).unwrap(), b"rotten", "{kind}");
    }
}

#[test]
fn what_no_model_needs_is_only_set_aside() {
    let home = Home::new();
    let hub = home.hub();
    let blob = hub.store().ingest().unwrap().put_bytes(b"nobody's").unwrap();
    overwrite(&hub.store().blob_path(&blob.digest), b"rotten");
    assert!(repair(&home).is_empty());
    assert!(!hub.store().has(&blob.digest));
    assert_eq!(scrub(hub.store()), []);
}

/// That the system cannot read a blob may pass. It is neither set aside nor fetched again.
#[test]
fn what_cannot_be_read_stays_as_it_is() {
    let bytes = gguf("Tiny", 1000);
    let body = bytes.clone();
    let server = Server::new(move |request| Reply::range(request, &body));
    let home = Home::new();
    let model = home.pull(&format!("{}#sha256={}", server.url("/x.gguf"), Digest::of(&bytes).hex())).unwrap().model;
    server.take_requests();
    for digest in [model.files[0].digest, model.digest] {
        let path = home.hub().store().blob_path(&digest);
        fs::remove_file(&path).unwrap();
        // Opened like a file, and every read of it fails.
        fs::create_dir(&path).unwrap();
        let repairs = repair(&home);
        assert_eq!(repairs.len(), 1);
        let error = repairs[0].result.as_ref().unwrap_err().to_string();
        assert!(error.contains("cannot be read (") && error.contains("stays as it is: mend that"), "{error}");
        assert!(path.is_dir() && server.take_requests().is_empty());
        // As the error says.
        fs::remove_dir(&path).unwrap();
        repair(&home)[0].result.as_ref().unwrap();
        assert_eq!(scrub(home.hub().store()), []);
        server.take_requests();
    }
}

#[test]
fn beside_what_cannot_be_read_the_rest_is_mended() {
    let home = Home::new();
    write_folder(&home, "folder");
    let model = home.pull(&format!("file:{}", home.path("folder").display())).unwrap().model;
    let store = home.hub().store().clone();
    let blob = |path: &str| store.blob_path(&model.files.iter().find(|file| file.path == path).unwrap().digest);
    overwrite(&blob("README.md"), b"rotten");
    fs::remove_file(blob("model.safetensors")).unwrap();
    fs::create_dir(blob("model.safetensors")).unwrap();
    assert!(matches!(repair(&home)[0].result, Err(HubError::Unreadable { .. })));
    let left = scrub(&store);
    assert_eq!(left.len(), 1);
    assert!(matches!(left[0].kind, FaultKind::Unreadable(_)) && blob("model.safetensors").is_dir());
}
