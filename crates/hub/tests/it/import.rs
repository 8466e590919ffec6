//! Taking over from Ollama and Hugging Face.

use crate::local::write_folder;
use crate::{Home, assert_says, content, gguf, quiet};
use freehold_base::Digest;
use freehold_hub::{HubError, Pulled};
use std::fs;
use std::ops::ControlFlow;

fn import(home: &Home, reference: &str) -> Result<Pulled, HubError> {
    home.hub().import(reference, None, &mut quiet)
}

pub(crate) fn write_ollama(home: &Home, model: &str, layers: &[(&str, &[u8])]) {
    let layers: Vec<_> = layers
        .iter()
        .map(|(kind, bytes)| {
            let digest = Digest::of(bytes);
            home.write(&format!("ollama/blobs/sha256-{}", digest.hex()), bytes);
            serde_json::json!({
                "mediaType": format!("application/vnd.ollama.image.{kind}"),
                "digest": digest.to_string(),
                "size": bytes.len(),
            })
        })
        .collect();
    let manifest = serde_json::json!({"schemaVersion": 2, "config": {}, "layers": layers});
    home.write(&format!("ollama/manifests/{model}"), manifest.to_string());
}

#[test]
fn ollama_models_are_taken_over() {
    let home = Home::new();
    let bytes = gguf("Tiny", 1000);
    let layers: [(&str, &[u8]); 4] =
        [("model", &bytes), ("template", b"{{ .Prompt }}"), ("license", b"MIT text"), ("license", b"more terms")];
    write_ollama(&home, "registry.ollama.ai/library/tiny/latest", &layers);
    write_ollama(&home, "registry.ollama.ai/someone/tiny/1b", &layers[..1]);
    write_ollama(&home, "example.org/x/y/z", &layers[..1]);
    let references: Vec<_> =
        home.hub().importable().into_iter().map(|item| (item.reference, item.size_bytes)).collect();
    let size = bytes.len() as u64;
    assert_eq!(
        references,
        [
            ("ollama:example.org/x/y:z".to_owned(), size),
            ("ollama:someone/tiny:1b".to_owned(), size),
            ("ollama:tiny:latest".to_owned(), size)
        ]
    );
    let model = import(&home, "ollama:tiny").unwrap().model;
    assert_eq!(model.name.as_deref(), Some("tiny:latest"));
    let files: Vec<_> = model.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(files, ["LICENSE", "LICENSE.2", "tiny.gguf"]);
    assert!(import(&home, "ollama:tiny").unwrap().was_present);
    for (reference, _) in &references[..2] {
        import(&home, reference).unwrap();
    }
    assert_eq!(content(&home.hub(), "someone/tiny:1b"), bytes);
}

#[test]
fn broken_ollama_stores_are_refused() {
    let home = Home::new();
    let bytes = gguf("Tiny", 1000);
    let library = "registry.ollama.ai/library";
    write_ollama(&home, &format!("{library}/adapted/1"), &[("model", &bytes), ("adapter", b"x")]);
    write_ollama(&home, &format!("{library}/tensors/1"), &[("tensor", b"x")]);
    write_ollama(&home, &format!("{library}/text/1"), &[("model", b"no model")]);
    home.write(&format!("ollama/manifests/{library}/broken/1"), "{");
    let traversal =
        r#"{"layers":[{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:../../x","size":1}]}"#;
    home.write(&format!("ollama/manifests/{library}/traversal/1"), traversal);
    let missing = format!(
        r#"{{"layers":[{{"mediaType":"application/vnd.ollama.image.model","digest":"{}","size":1}}]}}"#,
        Digest::of(b"absent")
    );
    home.write(&format!("ollama/manifests/{library}/missing/1"), missing);
    for (reference, part) in [
        ("ollama:adapted:1", "adapter"),
        ("ollama:tensors:1", "one GGUF file"),
        ("ollama:text:1", "is no model"),
        ("ollama:broken:1", "as a manifest"),
        ("ollama:traversal:1", "a digest that is none"),
        ("ollama:missing:1", "is missing there"),
        ("ollama:absent:1", "is not in Ollama's cache"),
        ("ollama:../../etc:1", "must look like"),
        ("ollama:a/b/c/d", "must look like"),
        ("ollama:", "must look like"),
        ("smollm2:135m", "begins with ollama: or hf:"),
    ] {
        assert_says(import(&home, reference), &[part]);
    }
    // The bytes behind a digest are not what it says: found by hashing.
    write_ollama(&home, &format!("{library}/rotten/1"), &[("model", &bytes)]);
    let blob = home.path(&format!("ollama/blobs/sha256-{}", Digest::of(&bytes).hex()));
    fs::write(&blob, gguf("Evil", 1000)).unwrap();
    assert_says(import(&home, "ollama:rotten:1"), &["wrong content"]);
    assert!(home.hub().store().list().unwrap().is_empty());
}

#[cfg(unix)]
mod hugging_face {
    use super::*;
    use std::os::unix::fs::symlink;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba98";

    /// Moves a file of a snapshot into `blobs` and leaves a link, as the cache does.
    fn link_into_blobs(home: &Home, repository: &str, commit: &str, file: &str, blob: &str) {
        let root = home.path(&format!("hugging-face/{repository}"));
        fs::create_dir_all(root.join("blobs")).unwrap();
        let path = root.join("snapshots").join(commit).join(file);
        fs::rename(&path, root.join("blobs").join(blob)).unwrap();
        symlink(format!("../../blobs/{blob}"), path).unwrap();
    }

    #[test]
    fn cached_repositories_are_taken_over() {
        let home = Home::new();
        let folder = format!("hugging-face/models--org--smol/snapshots/{COMMIT}");
        write_folder(&home, &folder);
        home.write("hugging-face/models--org--smol/refs/main", COMMIT);
        let weights = fs::read(home.path(&format!("{folder}/model.safetensors"))).unwrap();
        link_into_blobs(&home, "models--org--smol", COMMIT, "model.safetensors", &Digest::of(&weights).hex());
        link_into_blobs(&home, "models--org--smol", COMMIT, "config.json", "aa11");
        let (a, b) = (gguf("A", 1000), gguf("B", 2000));
        home.write(&format!("hugging-face/models--org--two-GGUF/snapshots/{OTHER}/a.gguf"), &a);
        home.write(&format!("hugging-face/models--org--two-GGUF/snapshots/{OTHER}/b.Q4.gguf"), &b);
        home.write(&format!("hugging-face/models--org--two-GGUF/snapshots/{OTHER}/config.json"), "{}");
        home.write("hugging-face/models--org--empty/refs/main", COMMIT);
        let references: Vec<_> = home.hub().importable().into_iter().map(|item| item.reference).collect();
        assert_eq!(references, ["hf:org/smol", "hf:org/two-GGUF/a.gguf", "hf:org/two-GGUF/b.Q4.gguf"]);

        let model = import(&home, "hf:org/smol").unwrap().model;
        assert_eq!(model.name.as_deref(), Some("org/smol"));
        assert_eq!(model.facts.revision.as_deref(), Some(COMMIT));
        assert_eq!(model.facts.licenses, ["apache-2.0"]);
        assert_eq!(model.facts.upstream_url.as_deref(), Some("https://huggingface.co/org/smol"));
        for reference in ["hf:org/smol@main".to_owned(), format!("hf:org/smol@{COMMIT}"), "hf:org/smol@0123".to_owned()]
        {
            assert_eq!(import(&home, &reference).unwrap().model.digest, model.digest, "{reference}");
        }
        import(&home, "hf:org/two-GGUF/b.Q4.gguf").unwrap();
        assert_eq!(content(&home.hub(), "org/two-GGUF/b.Q4"), b);
        for (reference, part) in [
            ("hf:org/two-GGUF", "several models; add one to the reference: /a.gguf, /b.Q4.gguf"),
            ("hf:org/two-GGUF/c.gguf", "not among the GGUF files"),
            ("hf:org/smol@dev", "has no revision `dev`"),
            ("hf:org/empty", "no revision"),
            ("hf:org/absent", "is not in Hugging Face's cache"),
            ("hf:../x", "must look like"),
            ("hf:org/smol/../../x", "must look like"),
        ] {
            assert_says(import(&home, reference), &[part]);
        }
    }

    #[test]
    fn what_is_lost_of_an_import_is_taken_from_the_cache_again() {
        let home = Home::new();
        write_folder(&home, &format!("hugging-face/models--org--smol/snapshots/{COMMIT}"));
        home.write("hugging-face/models--org--smol/refs/main", COMMIT);
        let model = import(&home, "hf:org/smol").unwrap().model;
        // The hub of these tests cannot be reached.
        for lost in [model.digest, model.files[0].digest] {
            let hub = home.hub();
            let blob = hub.store().blob_path(&lost);
            fs::remove_file(&blob).unwrap();
            let faults = hub.store().scrub(None, &mut |_, _| ControlFlow::Continue(())).unwrap().faults;
            for repair in hub.repair(&faults, &mut quiet).unwrap() {
                repair.result.unwrap();
            }
            assert_eq!(hub.store().resolve("org/smol").unwrap().digest, model.digest);
            assert!(blob.is_file());
        }
    }

    #[test]
    fn a_cache_that_lies_is_found_out() {
        let home = Home::new();
        // Large files are named by their SHA-256; the bytes are others.
        home.write(&format!("hugging-face/models--org--bad/snapshots/{COMMIT}/m.gguf"), gguf("Evil", 1000));
        link_into_blobs(&home, "models--org--bad", COMMIT, "m.gguf", &Digest::of(b"good").hex());
        assert_says(import(&home, "hf:org/bad"), &["wrong content", &Digest::of(b"good").to_string()]);
        // A link that leads out of the cache.
        let secret = home.write("secret.gguf", gguf("Secret", 1000));
        fs::create_dir_all(home.path(&format!("hugging-face/models--org--out/snapshots/{COMMIT}"))).unwrap();
        symlink(secret, home.path(&format!("hugging-face/models--org--out/snapshots/{COMMIT}/m.gguf"))).unwrap();
        assert_says(import(&home, "hf:org/out"), &["leads out"]);
        assert!(home.hub().store().list().unwrap().is_empty());
    }
}
