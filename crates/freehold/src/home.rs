//! Where Freehold keeps its things.

use anyhow::{Context as _, Result};
use freehold_hub::{Hub, Options as HubOptions};
use freehold_store::Store;
use std::path::PathBuf;

/// The directory of everything that Freehold keeps.
pub(crate) struct Home(PathBuf);

impl Home {
    /// `--home`, else `$FREEHOLD_HOME`, else the platform's data directory.
    pub(crate) fn find(option: Option<PathBuf>) -> Result<Self> {
        let directory = option
            .or_else(|| variable("FREEHOLD_HOME"))
            .or_else(|| variable("XDG_DATA_HOME").map(|data| data.join("freehold")))
            .or_else(|| variable("HOME").map(|home| home.join(DATA_DIRECTORY).join("freehold")))
            .context("no place to keep models is known: set FREEHOLD_HOME to a directory, or use --home")?;
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("{} cannot be created: choose another with --home", directory.display()))?;
        Ok(Self(directory))
    }

    pub(crate) fn store(&self) -> Result<Store> {
        Ok(Store::open(self.0.join("store"))?)
    }

    /// Where models come from, with the store that they go to.
    pub(crate) fn hub(&self) -> Result<Hub> {
        Ok(Hub::new(self.store()?, HubOptions::from_environment(&self.0))?)
    }

    /// The file of the server's key.
    pub(crate) fn key_file(&self) -> PathBuf {
        self.0.join("admin.key")
    }
}

#[cfg(target_os = "macos")]
const DATA_DIRECTORY: &str = "Library/Application Support";
#[cfg(not(target_os = "macos"))]
const DATA_DIRECTORY: &str = ".local/share";

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
