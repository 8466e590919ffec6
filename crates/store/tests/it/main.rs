//! The store as its users see it.

mod hostile;
mod ingest;
mod layout;
mod removal;
mod scrub;

use freehold_base::Digest;
use freehold_store::{BlobWriter, Facts, Ingest, Model, NewFile, NewModel, Resume, Start, Store, StoredBlob, Target};
use std::ops::ControlFlow;
use tempfile::TempDir;

fn new_store() -> (TempDir, Store) {
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path().join("store")).unwrap();
    (directory, store)
}

fn quiet(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A writer for a blob that is not there yet.
fn writer<'a>(ingest: &Ingest<'a>, bytes: &[u8], resume: Resume<'_>) -> BlobWriter<'a> {
    match ingest.writer(&Target::Blob(Digest::of(bytes)), Some(bytes.len() as u64), resume, &mut quiet).unwrap() {
        Start::Writer(writer) => writer,
        Start::Present(_) => panic!("the blob is there already"),
    }
}

fn file(path: &str, blob: StoredBlob) -> NewFile {
    NewFile { path: path.to_owned(), digest: blob.digest, size_bytes: blob.size_bytes }
}

/// Publishes a model of the given files.
fn publish(store: &Store, name: &str, files: &[(&str, &[u8])]) -> Model {
    let ingest = store.ingest().unwrap();
    let files = files.iter().map(|(path, bytes)| file(path, ingest.put_bytes(bytes).unwrap())).collect();
    let facts = Facts { title: Some("A test".to_owned()), licenses: vec!["Apache-2.0".to_owned()], ..Facts::default() };
    ingest.publish(name, &NewModel { facts, files }, "test").unwrap()
}
