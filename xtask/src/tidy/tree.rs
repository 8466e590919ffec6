//! The files that tidy looks at.

use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const OURS_THOUGH_HIDDEN: [&str; 2] = [".cargo", ".ci"];

/// The text files of a work tree, by their path from its root with `/` between the parts, and the names of all others.
pub(crate) struct Tree {
    texts: BTreeMap<String, String>,
    others: Vec<String>,
}

impl Tree {
    /// Reads everything below `root` but what git, cargo and editors keep there.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut tree = Self { texts: BTreeMap::new(), others: Vec::new() };
        tree.add(root, "")?;
        Ok(tree)
    }

    /// A tree of these files, for tests.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let texts = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        Self { texts, others: Vec::new() }
    }

    fn add(&mut self, directory: &Path, prefix: &str) -> Result<()> {
        let failed = || format!("{} cannot be read", directory.display());
        for entry in fs::read_dir(directory).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            let kind = entry.file_type().with_context(failed)?;
            if kind.is_dir() {
                let is_built = matches!(prefix, "" | "fuzz/" | "peers/candle/")
                    && (name == "target" || name.starts_with("target-"));
                let is_hidden = name.starts_with('.') && !OURS_THOUGH_HIDDEN.contains(&path.as_str());
                if is_built || is_hidden {
                    continue;
                }
                self.add(&entry.path(), &format!("{path}/"))?;
            } else if kind.is_file() && path != ".git" {
                // That file stands for the directory in further work trees, and names a place on this machine.
                let bytes = fs::read(entry.path()).with_context(|| format!("{path} cannot be read"))?;
                match String::from_utf8(bytes) {
                    Ok(text) => drop(self.texts.insert(path, text)),
                    Err(_) => self.others.push(path),
                }
            }
        }
        Ok(())
    }

    /// The text of a file.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.texts.get(path).map(String::as_str)
    }

    /// Every text file whose name ends so, in the order of paths.
    pub(crate) fn ending<'a>(&'a self, end: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.texts
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
            .filter(move |(path, _)| path.ends_with(end))
    }

    /// Whether there is a file or a directory of this path.
    pub(crate) fn has(&self, path: &str) -> bool {
        let is_it = |known: &str| {
            known.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || path.is_empty())
        };
        self.texts.keys().any(|known| is_it(known)) || self.others.iter().any(|known| is_it(known))
    }
}

/// The root of the workspace this was built from.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}
