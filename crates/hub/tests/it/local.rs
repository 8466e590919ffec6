//! Models from files of this machine.

use crate::{Home, assert_says, content, gguf, quiet};
use freehold_base::Digest;
use std::fs;

/// A folder in Hugging Face's style with one small tensor.
pub(crate) fn write_folder(home: &Home, folder: &str) {
    home.write(&format!("{folder}/config.json"), CONFIG);
    home.write(&format!("{folder}/model.safetensors"), safetensors("w", 8));
    home.write(&format!("{folder}/README.md"), MODEL_CARD);
}

pub(crate) const CONFIG: &[u8] = b"{\"model_type\":\"llama\"}";
pub(crate) const MODEL_CARD: &[u8] = b"---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n";

/// Weights of one tensor of so many bytes, a multiple of four.
pub(crate) fn safetensors(tensor: &str, size: usize) -> Vec<u8> {
    let mut header = format!(r#"{{"{tensor}":{{"dtype":"F32","shape":[{}],"data_offsets":[0,{size}]}}}}"#, size / 4);
    header += &" ".repeat(8 - header.len() % 8);
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; size]].concat()
}

#[test]
fn a_gguf_file_is_adopted() {
    let home = Home::new();
    let bytes = gguf("Tiny", 1000);
    let path = home.write("models/My Model.gguf", &bytes);
    let reference = format!("file:{}", path.display());
    let pulled = home.pull(&reference).unwrap();
    assert_eq!(pulled.model.name.as_deref(), Some("my-model"));
    assert_eq!((pulled.model.files[0].path.as_str(), pulled.was_present), ("My Model.gguf", false));
    assert!(home.pull(&reference).unwrap().was_present);
    assert_eq!(content(&home.hub(), "my-model"), bytes);
    // The same place with another content is an update, made in a new file as editors do.
    fs::remove_file(&path).unwrap();
    fs::write(&path, gguf("Tiny 2", 1000)).unwrap();
    assert_eq!(home.pull(&reference).unwrap().model.facts.title.as_deref(), Some("Tiny 2"));
    // Another place with another content is another model.
    let other = home.write("other/My Model.gguf", gguf("Other", 1000));
    let reference = format!("file:{}", other.display());
    assert_says(home.pull(&reference), &["another model is already called `my-model`", "--name"]);
    home.hub().pull(&reference, Some("mine:2"), &mut quiet).unwrap();
    assert_eq!(home.hub().store().list().unwrap().len(), 2);
}

#[test]
fn a_folder_is_adopted_without_pickles_and_code() {
    let home = Home::new();
    write_folder(&home, "smol");
    for junk in ["pytorch_model.bin", "modeling.py", ".git/config", "flax_model.msgpack", "a.bin.index.json"] {
        home.write(&format!("smol/{junk}"), "junk");
    }
    home.write("smol/1_Pooling/config.json", "{}");
    let pulled = home.pull(&format!("file:{}/", home.path("smol").display())).unwrap();
    let files: Vec<_> = pulled.model.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(files, ["1_Pooling/config.json", "README.md", "config.json", "model.safetensors"]);
    assert_eq!(pulled.model.name.as_deref(), Some("smol"));
    assert_eq!(pulled.model.facts.licenses, ["apache-2.0"]);
}

#[test]
fn what_is_no_model_is_refused() {
    let home = Home::new();
    home.write("empty/README.md", "nothing");
    home.write("text.gguf", "no model");
    let mut truncated = gguf("Tiny", 1000);
    truncated.truncate(500);
    home.write("truncated.gguf", truncated);
    for (name, part) in [
        ("absent.gguf", "No such file"),
        ("empty", "is no model"),
        ("text.gguf", "is no model"),
        ("truncated.gguf", "is no model"),
    ] {
        assert_says(home.pull(&format!("file:{}", home.path(name).display())), &[name, part]);
    }
    assert!(home.hub().store().list().unwrap().is_empty());
    assert_eq!(home.hub().store().clean().unwrap().files, 0, "something was taken in");
}

#[cfg(unix)]
#[test]
fn links_may_not_lead_out_of_a_folder() {
    let home = Home::new();
    write_folder(&home, "smol");
    let secret = home.write("secret.txt", "secret");
    std::os::unix::fs::symlink(secret, home.path("smol/vocab.txt")).unwrap();
    assert_says(home.pull(&format!("file:{}", home.path("smol").display())), &["vocab.txt", "leads out"]);
    assert!(!home.hub().store().has(&Digest::of(b"secret")));
}
