//! The hub against a scripted server and a scripted pip. Nothing leaves this machine.

#[cfg(unix)]
mod archives;
mod catalogue;
mod https;
mod hugging_face;
mod import;
#[cfg(unix)]
mod kill;
mod local;
#[cfg(unix)]
mod packages;
mod registry;
#[cfg(unix)]
mod repair;
mod server;

use freehold_base::Digest;
use freehold_hub::{Hub, HubError, Options, Pulled, Secret, Status};
use freehold_store::Store;
use std::fs;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// A home for one test.
struct Home {
    directory: TempDir,
}

impl Home {
    fn new() -> Self {
        Self { directory: TempDir::new().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn hub(&self) -> Hub {
        hub(self.directory.path())
    }

    fn pull(&self, reference: &str) -> Result<Pulled, HubError> {
        self.hub().pull(reference, None, &mut quiet)
    }

    /// Writes a file, and the directories above it.
    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn catalogue(&self, file_lines: &str) {
        let text = format!("[[model]]\nname = \"test:1\"\nlicenses = [\"MIT\"]\n[[model.file]]\n{file_lines}\n");
        self.write("catalogue.toml", text);
    }
}

fn hub(home: &Path) -> Hub {
    let store = Store::open(home.join("store")).unwrap();
    let number = |name| fs::read_to_string(home.join(name)).ok().map(|text| text.parse().unwrap());
    let options = Options {
        pip: Some(home.join("pip")),
        user_catalogue: Some(home.join("catalogue.toml")),
        ollama: vec![home.join("ollama")],
        hugging_face: vec![home.join("hugging-face")],
        registry_credentials: vec![home.join("auth.json")],
        // Nothing listens there; tests of repositories write the address of their server into this file.
        hugging_face_endpoint: fs::read_to_string(home.join("endpoint")).unwrap_or("http://127.0.0.1:1".to_owned()),
        hugging_face_token: fs::read_to_string(home.join("token")).ok().and_then(|token| Secret::new(&token)),
        hugging_face_offline: home.join("offline").exists(),
        retry_wait: Duration::ZERO,
        patience: Duration::from_millis(number("patience").unwrap_or(60_000)),
        unknown_size_limit_bytes: number("size-limit").unwrap_or(1 << 30),
    };
    Hub::new(store, options).unwrap()
}

fn quiet(_: &Status<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The only file of a pulled model, read through the store.
fn content(hub: &Hub, name: &str) -> Vec<u8> {
    let model = hub.store().resolve(name).unwrap();
    let files = hub.store().files(&model, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(files.len(), 1);
    fs::read(files.values().next().unwrap()).unwrap()
}

/// A GGUF file with metadata only, of about `size` bytes that do not compress.
fn gguf(title: &str, size: usize) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    let string = |file: &mut Vec<u8>, bytes: &[u8]| {
        file.extend((bytes.len() as u64).to_le_bytes());
        file.extend(bytes);
    };
    file.extend(3u32.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend(3u64.to_le_bytes());
    for (key, value) in [("general.name", title), ("general.license", "MIT")] {
        string(&mut file, key.as_bytes());
        file.extend(8u32.to_le_bytes());
        string(&mut file, value.as_bytes());
    }
    string(&mut file, b"test.padding");
    file.extend(9u32.to_le_bytes());
    file.extend(0u32.to_le_bytes());
    file.extend((size as u64).to_le_bytes());
    let noise = (0..size.div_ceil(32) as u64).flat_map(|block| *Digest::of(&block.to_le_bytes()).as_bytes());
    file.extend(noise.take(size));
    file
}

/// A wheel with the given files.
fn wheel(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in files {
        archive.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// Checks that an error's one sentence says these things.
#[track_caller]
fn assert_says(result: Result<Pulled, HubError>, parts: &[&str]) {
    let message = match result {
        Ok(pulled) => panic!("worked: {pulled:?}"),
        Err(error) => error.to_string(),
    };
    assert!(!message.contains('\n'), "{message}");
    for part in parts {
        assert!(message.contains(part), "`{message}` does not say `{part}`");
    }
}
