//! Where Freehold keeps its things.

use anyhow::{Context as _, Result, anyhow};
use freehold_hub::{Hub, Options as HubOptions};
use freehold_store::Store;
use std::path::{Path, PathBuf};

/// The directory of everything that Freehold keeps.
pub(crate) struct Home {
    directory: PathBuf,
    is_option: bool,
}

impl Home {
    /// `--home`, else `$FREEHOLD_HOME`, else the platform's data directory.
    pub(crate) fn find(option: Option<PathBuf>) -> Result<Self> {
        let is_option = option.is_some();
        let directory = option
            .or_else(|| variable("FREEHOLD_HOME"))
            .or_else(|| variable("XDG_DATA_HOME").map(|data| data.join("freehold")))
            .or_else(|| variable("HOME").map(|home| home.join(DATA_DIRECTORY).join("freehold")))
            .context("no place to keep models is known: set FREEHOLD_HOME to a directory, or use --home")?;
        std::fs::create_dir_all(&directory).map_err(|error| {
            let directory = directory.display();
            anyhow!("models cannot be kept in {directory}: {error}; choose another place with FREEHOLD_HOME or --home")
        })?;
        Ok(Self { directory, is_option })
    }

    pub(crate) fn store(&self) -> Result<Store> {
        Ok(Store::open(self.directory.join("store"))?)
    }

    /// Where models come from, with the store that they go to.
    pub(crate) fn hub(&self) -> Result<Hub> {
        Ok(Hub::new(self.store()?, HubOptions::from_environment(&self.directory))?)
    }

    /// Where `--home` named it: what other commands must be told as well to find it.
    pub(crate) fn option(&self) -> Option<&Path> {
        self.is_option.then_some(&*self.directory)
    }

    /// The file of the server's key.
    pub(crate) fn key_file(&self) -> PathBuf {
        self.directory.join("admin.key")
    }
}

#[cfg(target_os = "macos")]
const DATA_DIRECTORY: &str = "Library/Application Support";
#[cfg(not(target_os = "macos"))]
const DATA_DIRECTORY: &str = ".local/share";

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
