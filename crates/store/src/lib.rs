//! The store: content-addressed blobs and the models made of them, in a directory that is an OCI image layout.
//!
//! ```text
//! oci-layout, index.json     OCI image layout 1.0; a model's name is its `org.opencontainers.image.ref.name`
//! blobs/sha256/<hex>         weights, tokenizers, licences, and the manifests that name them
//! ingest/                    blobs on their way in, the locks of their writers, and damaged blobs set aside
//! verified/<hex>             size and times of change of a blob when its bytes were last hashed
//! locks/                     `index`: who rewrites index.json; `use`: shared by writers, exclusive for cleaning
//! ```
//!
//! Manifests follow the CNCF ModelPack specification, so other OCI tools can read a store. They hold no clock and no
//! trace of the mirror they came from: the same files under the same facts have the same manifest digest everywhere.
//!
//! A blob appears under its name only when its bytes are hashed and on disk, and a model only when all its blobs are
//! there, so the process may die at any point and what is left is a store that works. No network here: `freehold-hub`
//! fetches.

mod disk;
mod error;
#[cfg(all(test, unix))]
mod faults;
mod ingest;
mod lock;
mod manifest;
mod model;
mod scrub;
mod store;

pub use error::StoreError;
pub use ingest::{BlobWriter, Ingest, IngestLock, Resume, Scratch, Start, StoredBlob, Target};
pub use manifest::{FileKind, validate_file_path, validate_name};
pub use model::{Facts, ManifestBlobs, Model, ModelFile, NewFile, NewModel, parse_manifest};
pub use scrub::{Fault, FaultKind, Scrubbed};
pub use store::{Entry, Freed, Store};
