//! The hub's catalogue, as a user may write one.

use crate::allocator::within_limit;
use crate::damage::{Damage, Edge, damaged};
use arbitrary::Arbitrary;
use freehold_hub::{Catalogue, Source};
use serde_json::json;
use std::fmt::Write;
use std::path::Path;

const NAMES: [&str; 6] = ["smollm2:135m", "a", "../x", "A/b:c", "", "a\u{0}"];
const PATHS: [&str; 6] = ["model.gguf", "a/b.json", "../../etc/x", "/etc/x", "", "con\\x"];
const DIGEST: &str = "abababababababababababababababababababababababababababababababab";
const SOURCES: [&str; 15] = [
    "https://u:p@example.org/x?y#sha256=abababababababababababababababababababababababababababababababab",
    "https://example.org/x",
    "file:/tmp/x",
    "pypi:a==1#b",
    "pypi:a==1,b==2#c",
    "pypi:",
    "https://",
    "http://x",
    "file:",
    "https://u:p@[::1]:99999/%00",
    "ftp://x",
    "hf:a/b@refs/pr/1/c d@e.gguf",
    "hf:../x",
    "oci://docker.io/a:b",
    "oci://[::1]:5000/a@sha256:abababababababababababababababababababababababababababababababab",
];

/// A file: its path, its size, its digest, and its sources: known ones or free texts.
type File = (u8, Edge, Option<String>, Vec<Result<u8, String>>);

/// A model.
#[derive(Arbitrary, Debug)]
pub struct Entry {
    name: u8,
    title: Option<String>,
    licenses: Option<Vec<String>>,
    memory_bytes: Option<Edge>,
    files: Vec<File>,
}

/// A file.
#[derive(Arbitrary, Debug)]
pub struct Input {
    default: Option<u8>,
    models: Vec<Entry>,
    damages: Vec<Damage>,
}

/// Reads it.
pub fn check(input: &Input) {
    let mut text = String::new();
    if let Some(default) = input.default {
        let _ = writeln!(text, "default = {}", json!(NAMES[usize::from(default) % NAMES.len()]));
    }
    for entry in input.models.iter().take(8) {
        let _ = writeln!(text, "[[model]]\nname = {}", json!(NAMES[usize::from(entry.name) % NAMES.len()]));
        if let Some(title) = &entry.title {
            let _ = writeln!(text, "title = {}", json!(title));
        }
        if let Some(licenses) = &entry.licenses {
            let _ = writeln!(text, "licenses = {}", json!(licenses));
        }
        if let Some(bytes) = entry.memory_bytes {
            let _ = writeln!(text, "memory_bytes = {}", bytes.value());
        }
        for (path, size, digest, sources) in entry.files.iter().take(8) {
            let sources: Vec<&str> = (sources.iter().take(8))
                .map(|source| match source {
                    Ok(known) => SOURCES[usize::from(*known) % SOURCES.len()],
                    Err(other) => other.as_str(),
                })
                .collect();
            let _ = writeln!(
                text,
                "[[model.file]]\npath = {}\nsize_bytes = {}\nsha256 = {}\nsources = {}",
                json!(PATHS[usize::from(*path) % PATHS.len()]),
                size.value(),
                json!(digest.as_deref().unwrap_or(DIGEST)),
                json!(sources),
            );
        }
    }
    let bytes = damaged(text.into_bytes(), &input.damages);
    within_limit(bytes.len(), || {
        let Ok(catalogue) = Catalogue::parse(Path::new("catalogue.toml"), &bytes) else { return };
        for model in &catalogue.models {
            model.size_bytes();
            // What is kept of an address has no password, and is read as it is written.
            for source in model.files.iter().flat_map(|file| &file.sources).chain(&model.source) {
                let kept = source.to_string();
                if !matches!(source, Source::File(_) | Source::Pypi { .. }) {
                    let authority = kept.split("://").nth(1).and_then(|rest| rest.split('/').next());
                    let user = authority.and_then(|authority| authority.rsplit_once('@'));
                    assert!(user.is_none_or(|(user, _)| user == "…"), "{kept}");
                    let again = Source::parse(&kept).expect("it was one").expect("it was one");
                    assert_eq!(again.to_string(), kept);
                }
            }
            for file in model.to_new_model().into_iter().flat_map(|model| model.files) {
                let escapes = file.path.split('/').any(|part| part == "..") || file.path.starts_with('/');
                assert!(!escapes, "{}", file.path);
            }
        }
    });
}
