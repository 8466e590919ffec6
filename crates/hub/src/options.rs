//! What the hub is told about this machine.

use crate::hugging_face::DEFAULT_ENDPOINT;
use crate::secret::Secret;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the hub looks on this machine.
#[derive(Clone, Debug)]
pub struct Options {
    /// The pip to use; `None`: the first that is found.
    pub pip: Option<PathBuf>,
    /// The user's catalogue; it need not exist.
    pub user_catalogue: Option<PathBuf>,
    /// Ollama's model directories, in order.
    pub ollama: Vec<PathBuf>,
    /// Hugging Face's cache directories, in order.
    pub hugging_face: Vec<PathBuf>,
    /// Where Hugging Face's hub is: `HF_ENDPOINT`, else <https://huggingface.co>.
    pub hugging_face_endpoint: String,
    /// The token for it: `HF_TOKEN`, else what `hf auth login` left.
    pub hugging_face_token: Option<Secret>,
    /// `HF_HUB_OFFLINE`: the hub is not asked, and what is in the store has to do.
    pub hugging_face_offline: bool,
    /// Where passwords for registries are looked for, in order: the files of `docker login` and its like.
    pub registry_credentials: Vec<PathBuf>,
    /// Wait before a broken connection is tried again; it doubles with each failure in a row.
    pub retry_wait: Duration,
    /// Longest silence of a server, and longest time for 64 KiB of a file. A small document may take five times as long.
    pub patience: Duration,
    /// Most bytes of a file whose size neither the reference nor the server tells.
    pub unknown_size_limit_bytes: u64,
}

impl Options {
    /// What the environment says. `home` is Freehold's own directory.
    pub fn from_environment(home: &Path) -> Self {
        let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let user_home = env::home_dir();
        let in_home = |path: &str| user_home.as_ref().map(|home| home.join(path));
        let text = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let cache = variable("XDG_CACHE_HOME").or_else(|| in_home(".cache"));
        let hugging_face_home = variable("HF_HOME").or_else(|| cache.map(|cache| cache.join("huggingface")));
        let token_file = || variable("HF_TOKEN_PATH").or_else(|| Some(hugging_face_home.as_ref()?.join("token")));
        Self {
            pip: variable("FREEHOLD_PIP"),
            user_catalogue: Some(home.join("catalogue.toml")),
            // Where the variable is not set: the user's own, and that of the system service.
            ollama: variable("OLLAMA_MODELS").map_or_else(
                || {
                    let system = PathBuf::from("/usr/share/ollama/.ollama/models");
                    in_home(".ollama/models").into_iter().chain([system]).collect()
                },
                |chosen| vec![chosen],
            ),
            registry_credentials: [
                variable("REGISTRY_AUTH_FILE"),
                variable("DOCKER_CONFIG").or_else(|| in_home(".docker")).map(|folder| folder.join("config.json")),
                variable("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")),
            ]
            .into_iter()
            .flatten()
            .collect(),
            hugging_face_endpoint: text("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()),
            hugging_face_token: text("HF_TOKEN")
                .or_else(|| fs::read_to_string(token_file()?).ok())
                .and_then(|token| Secret::new(&token)),
            // The words that Hugging Face's own library takes for yes.
            hugging_face_offline: text("HF_HUB_OFFLINE")
                .is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.trim().to_ascii_uppercase().as_str())),
            hugging_face: variable("HF_HUB_CACHE")
                .or_else(|| hugging_face_home.map(|home| home.join("hub")))
                .into_iter()
                .collect(),
            retry_wait: Duration::from_millis(500),
            patience: Duration::from_secs(60),
            unknown_size_limit_bytes: 64 << 30,
        }
    }
}
