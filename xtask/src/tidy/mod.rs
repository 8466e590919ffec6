//! `cargo xtask tidy`: the rules of the house that no compiler knows. The same check runs as a test.

mod crates;
mod files;
mod source;
mod tree;

use anyhow::{Result, ensure};
use std::fmt;
pub(crate) use tree::{Tree, root};

/// A rule that is broken, and where.
struct Problem {
    path: String,
    line: usize,
    text: String,
}

impl Problem {
    fn new(path: &str, line: usize, text: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, text: text.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.text)
    }
}

fn problems(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    crates::check(tree, &mut problems);
    files::check(tree, &mut problems);
    problems
}

/// Prints what could be shorter, and fails where a rule is broken.
pub(crate) fn run() -> Result<()> {
    let tree = Tree::read(&root())?;
    for remark in files::remarks(&tree) {
        println!("{remark}");
    }
    let problems = problems(&tree);
    for problem in &problems {
        println!("{problem}");
    }
    ensure!(problems.is_empty(), "{} broken rules of the house, listed above", problems.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        let tree = Tree::read(&root()).expect("the work tree can be read");
        assert!(tree.text("xtask/src/tidy/mod.rs").is_some(), "this is not the root: {}", root().display());
        let problems: Vec<String> = problems(&tree).iter().map(ToString::to_string).collect();
        assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
    }
}
