//! `freehold convert`: a folder becomes a file that runs as the folder does.

use crate::program::{Home, PROGRAM, TINY};
use insta::assert_snapshot;
use serde_json::{Value, json};
use std::fs;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data");

/// A home with a folder `golden` beside it: a golden checkpoint with a tokenizer of its size and a chat template.
fn with_golden() -> Home {
    let home = Home::new();
    fs::create_dir(home.path("golden")).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(format!("{DATA}/golden/qwen2_moe/{name}"), home.path("golden").join(name)).unwrap();
    }
    // One of the small tokenizers, cut down to its bytes and two merges.
    let tokenizer = fs::read(format!("{DATA}/tokenizers/small/gpt-4o.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_slice(&tokenizer).unwrap();
    let tokens = tokenizer["model"]["vocab"].as_object().unwrap().keys().filter(|text| text.chars().count() == 1);
    let tokens: Vec<String> = tokens.cloned().chain(["he".into(), "the".into()]).collect();
    let mut end = tokenizer["added_tokens"][0].take();
    end["id"] = tokens.len().into();
    tokenizer["added_tokens"] = json!([end]);
    tokenizer["model"]["vocab"] = tokens.into_iter().zip(0..).map(|(text, id)| (text, Value::from(id))).collect();
    tokenizer["model"]["merges"] = json!(["h e", "t he"]);
    home.file("golden/tokenizer.json", tokenizer.to_string());
    let template = "{% for message in messages %}{{ message.content }}<|end|>{% endfor %}";
    home.file("golden/tokenizer_config.json", json!({"eos_token": "<|end|>", "chat_template": template}).to_string());
    home
}

#[test]
fn a_folder_becomes_a_file_that_runs_alike() {
    let home = with_golden();
    assert_snapshot!(home.transcript(&[
        &["convert", "golden"],
        &["convert", "golden"],
        &["convert", "golden", "--force", "--verify"],
        &["convert", "golden", "half.gguf", "--type", "f16", "--verify", "--json"],
    ]));
    assert!(!home.path("golden.gguf.partial").exists());

    for (model, name) in [("file:golden", "stored:tiny"), ("file:golden.gguf", "written")] {
        home.run(&["pull", model, "--name", name]).succeeded();
    }
    let text = home.file("text.txt", "The house <|end|> it's 12345 é\n");
    let messages = home.file("messages.json", r#"[{"role": "user", "content": "Who <|end|>?"}]"#);
    let commands: [&[&str]; 3] = [
        &["logits", "--tokens", "1,2,3,300", "--all", "--digest-only"],
        &["tokenize", "--file", &text],
        &["tokenize", "--messages", &messages],
    ];
    for arguments in commands {
        let of = |model: &str| home.run(&[&arguments[..1], &[model], &arguments[1..]].concat()).succeeded();
        assert_eq!(of("written"), of("stored:tiny"), "{arguments:?}");
    }
    // A model of the store is as good as the folder that it was.
    home.run(&["convert", "stored:tiny"]).succeeded();
    let file = |name: &str| fs::read(home.path(name)).unwrap();
    let (own, stored) = (file("golden.gguf"), file("stored-tiny.gguf"));
    // They differ in the name alone.
    assert_eq!(own[own.len() - 4096..], stored[stored.len() - 4096..]);
}

#[test]
fn what_cannot_be_converted() {
    let home = with_golden();
    let tiny = format!("file:{TINY}");
    fs::create_dir(home.path("empty")).unwrap();
    let refused = &[
        &["convert", "nosuch"][..],
        &["convert", "empty"],
        &["convert", &tiny],
        &["convert", "golden", "nosuch/golden.gguf"],
        &["convert", "golden", "--type", "q4_k"],
    ];
    let mut transcript = home.transcript(refused);
    let settings = home.path("golden/config.json");
    let config: Value = serde_json::from_slice(&fs::read(&settings).unwrap()).unwrap();
    for (key, value) in [("num_hidden_layers", json!(4_294_967_295u32)), ("norm_topk_prob", json!(true))] {
        let mut changed = config.clone();
        changed[key] = value;
        fs::write(&settings, changed.to_string()).unwrap();
        transcript += &home.transcript(&[&["convert", "golden"]]);
    }
    fs::write(&settings, config.to_string()).unwrap();
    home.file("golden/tokenizer_config.json", json!({"eos_token": "<|end|>"}).to_string());
    let tokenizer = fs::read_to_string(home.path("golden/tokenizer.json")).unwrap();
    home.file("golden/tokenizer.json", tokenizer.replacen("\"rstrip\":false", "\"rstrip\":true", 1));
    transcript += &home.transcript(&[&["convert", "golden"]]);
    assert_snapshot!(transcript);
    let left = |name: &str| fs::read_dir(home.path(".")).unwrap().any(|entry| entry.unwrap().file_name() == name);
    assert!(!left("golden.gguf") && !left("golden.gguf.partial"));
}

#[test]
fn a_disk_that_is_full() {
    let home = with_golden();
    // A limit on the size of files, in units of 512 bytes, stands for the disk's.
    let script = "trap '' XFSZ; ulimit -f 200; exec \"$0\" convert golden";
    let error = home.read(home.command("/bin/sh", &["-c", script, PROGRAM]).output().unwrap()).failed(1);
    assert!(error.starts_with("error: the disk has no room for golden.gguf, which takes "), "{error}");
    assert!(!home.path("golden.gguf").exists() && !home.path("golden.gguf.partial").exists());
    home.run(&["convert", "golden"]).succeeded();
}
