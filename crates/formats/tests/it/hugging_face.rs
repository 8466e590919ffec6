//! Folders in Hugging Face's style, and what decides how a path is opened.

use crate::allocator::within_limit;
use crate::gguf_builder::Builder;
use freehold_formats::{Checkpoint, Config, Error, HuggingFaceFolder};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const WEIGHTS: &[u8] =
    b"\x36\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}} \x01\x02\x03";
const INDEX: &[u8] = br#"{"weight_map":{"a":"model-00001-of-00001.safetensors"}}"#;

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn refused(result: Result<impl std::fmt::Debug, Error>, words: &[&str]) {
    let text = result.unwrap_err().to_string();
    for word in words {
        assert!(text.contains(word), "`{text}` does not say `{word}`");
    }
}

#[test]
fn the_goldens_open() {
    let goldens = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/golden"));
    for name in ["llama", "mistral", "qwen2", "qwen3"] {
        let checkpoint = Checkpoint::open(&goldens.join(name)).unwrap();
        let embeddings = checkpoint.tensor("model.embed_tokens.weight").unwrap();
        assert_eq!(embeddings.shape, [320, 64], "{name}");
        let Checkpoint::HuggingFace(folder) = checkpoint else { panic!("{name} is a folder") };
        assert_eq!(folder.config().str("model_type").unwrap(), name);
        assert_eq!(folder.config().u32("num_hidden_layers").unwrap(), 2);
        assert!(folder.tokenizer().is_none() && folder.chat_template().is_none());
    }
}

#[test]
fn the_same_files_open_from_a_folder_and_by_name() {
    let several = br#"{"chat_template":[{"name":"tool_use","template":"T"},{"name":"default","template":"D"}]}"#;
    let files: &[(&str, &[u8])] = &[
        ("config.json", br#"{"hidden_size":64,"sliding_window":null}"#),
        ("model.safetensors.index.json", INDEX),
        ("model-00001-of-00001.safetensors", WEIGHTS),
        ("tokenizer.json", b"{}"),
        ("tokenizer_config.json", several),
        ("generation_config.json", br#"{"eos_token_id":2}"#),
    ];
    let folder = folder(files);
    let by_name = files.iter().enumerate().map(|(number, (name, bytes))| {
        let blob = folder.path().join(format!("blob{number}"));
        fs::write(&blob, bytes).unwrap();
        (String::from(*name), blob)
    });
    let opened =
        [HuggingFaceFolder::open(folder.path()).unwrap(), HuggingFaceFolder::open_files(by_name.collect()).unwrap()];
    for opened in opened {
        assert_eq!(opened.weights().tensor("a").unwrap().bytes, [1, 2, 3]);
        assert_eq!(opened.config().u64("hidden_size").unwrap(), 64);
        assert_eq!(opened.config().optional_u64("sliding_window").unwrap(), None);
        assert_eq!(opened.tokenizer(), Some(&b"{}"[..]));
        assert_eq!(opened.generation_config().unwrap().u32("eos_token_id").unwrap(), 2);
        assert_eq!(opened.chat_template(), Some("D"));
    }
    fs::write(folder.path().join("chat_template.jinja"), "J").unwrap();
    assert_eq!(HuggingFaceFolder::open(folder.path()).unwrap().chat_template(), Some("J"));
    // Some writers add an index beside a single file.
    fs::write(folder.path().join("model.safetensors"), WEIGHTS).unwrap();
    assert!(HuggingFaceFolder::open(folder.path()).unwrap().weights().tensor("a").is_some());
}

#[test]
fn missing_malformed_and_hostile_files_are_named() {
    let config = ("config.json", &b"{}"[..]);
    let weights = ("model.safetensors", WEIGHTS);
    let index = ("model.safetensors.index.json", INDEX);
    let large_template = vec![b'x'; (1 << 20) + 1];
    for (files, words) in [
        (&[weights][..], &["config.json", "missing"][..]),
        (&[config], &["model.safetensors", "missing"]),
        (&[config, index], &["model-00001-of-00001.safetensors", "missing"]),
        (&[("config.json", b"[]"), weights], &["config.json", "not a JSON object"]),
        (&[("config.json", b"{} x"), weights], &["config.json", "trailing"]),
        (&[("config.json", br#"{"a":1,"a":2}"#), weights], &["config.json", "`a` occurs twice"]),
        (&[config, ("model.safetensors", b"")], &["safetensors", "header length"]),
        (
            &[config, ("model.safetensors.index.json", br#"{"weight_map":{"a":"../x"}}"#)],
            &["shard `../x`", "plain name"],
        ),
        (&[config, weights, ("tokenizer_config.json", br#"{"chat_template":1}"#)], &["chat_template", "string"]),
        (&[config, weights, ("tokenizer_config.json", br#"{"chat_template":[]}"#)], &["chat_template", "`default`"]),
        (&[config, weights, ("chat_template.jinja", b"\xff")], &["chat_template.jinja", "utf-8"]),
        (&[config, weights, ("chat_template.jinja", &large_template)], &["chat_template.jinja", "1048577 bytes"]),
    ] {
        refused(HuggingFaceFolder::open(folder(files).path()), words);
    }
}

#[cfg(unix)]
#[test]
fn links_are_not_followed() {
    let outside = folder(&[("secret", WEIGHTS)]);
    let link = |name: &str, files: &[(&str, &[u8])]| {
        let folder = folder(files);
        std::os::unix::fs::symlink(outside.path().join("secret"), folder.path().join(name)).unwrap();
        folder
    };
    let config = ("config.json", &b"{}"[..]);
    refused(HuggingFaceFolder::open(link("config.json", &[]).path()), &["config.json", "symbolic link"]);
    let shard = "model-00001-of-00001.safetensors";
    let linked = link(shard, &[config, ("model.safetensors.index.json", INDEX)]);
    refused(HuggingFaceFolder::open(linked.path()), &[shard, "symbolic link"]);
    let to_itself = folder(&[config]);
    let weights = to_itself.path().join("model.safetensors");
    std::os::unix::fs::symlink(&weights, &weights).unwrap();
    refused(HuggingFaceFolder::open(to_itself.path()), &["model.safetensors", "symbolic link"]);
}

#[test]
fn json_is_bounded() {
    let parse = |text: &str| within_limit(text.len(), || Config::parse("config.json", text.as_bytes()));
    refused(parse(&format!(r#"{{"a":{}"#, "[".repeat(200_000))), &["recursion limit"]);
    refused(parse(&format!(r#"{{"a":{}"#, r#"{"a":"#.repeat(200_000))), &["recursion limit"]);
    refused(parse(&format!(r#"{{"a":[{}0]}}"#, "0,".repeat(4_000_000))), &["more than 200000 values"]);
    refused(parse(&format!(r#"{{"a":"{}"}}"#, "x".repeat(17 << 20))), &["16777216"]);
    let many: Vec<String> = (0..190_000).map(|number| format!(r#""{number}":[]"#)).collect();
    parse(&format!("{{{}}}", many.join(","))).unwrap();
}

#[test]
fn the_content_decides_how_a_path_is_opened() {
    let gguf = Builder::sound().build();
    let folder = folder(&[("model.bin", &gguf), ("other.gguf", b"nothing"), ("config.json", b"{}")]);
    let path = |name: &str| folder.path().join(name);
    assert!(matches!(Checkpoint::open(&path("model.bin")).unwrap(), Checkpoint::Gguf(_)));
    refused(Checkpoint::open(&path("other.gguf")), &["other.gguf", "neither a GGUF file nor a folder"]);
    refused(Checkpoint::open(&path("absent")), &["cannot read", "absent"]);
    refused(Checkpoint::open(folder.path()), &["model.safetensors", "missing"]);

    let named = |names: &[&str]| -> std::collections::BTreeMap<String, PathBuf> {
        names.iter().enumerate().map(|(number, name)| (format!("{number}-{name}"), path(name))).collect()
    };
    let opened = Checkpoint::open_files(named(&["config.json", "model.bin"])).unwrap();
    assert!(opened.chat_template().unwrap().is_none() && opened.tensors().len() == 2);
    refused(Checkpoint::open_files(named(&["other.gguf"])), &["neither a GGUF file nor config.json"]);
    refused(Checkpoint::open_files(named(&[])), &["neither a GGUF file nor config.json"]);
    refused(Checkpoint::open_files(named(&["model.bin", "model.bin"])), &["are GGUF files"]);
}
