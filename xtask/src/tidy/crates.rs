//! The house's plan: which crate may stand on which, and the lints that all of them share.

use super::{Problem, Tree};
use std::collections::BTreeMap;
use toml::{Table, Value};

/// Every crate with its layer. A dependency goes to a lower layer, never sideways.
const LAYERS: [(&str, u8); 11] = [
    ("base", 0),
    ("kernels", 1),
    ("formats", 1),
    ("store", 1),
    ("api", 1),
    ("model", 2),
    ("engine", 3),
    ("hub", 3),
    ("gateway", 4),
    ("freehold", 5),
    ("xtask", 5),
];

/// Downward, but not wanted: what fetches models does not interpret them, and what serves them does not fetch them.
const UNWANTED: [(&str, &str); 2] = [("hub", "model"), ("gateway", "hub")];

/// Crates that may hold `unsafe`, this one in a module of its tests: they spell the workspace's lints out, all but that one.
const OWN_LINTS: [&str; 3] = ["kernels", "formats", "xtask"];

/// What one manifest says.
struct Crate {
    /// Name without the prefix.
    name: String,
    path: String,
    /// Crates of this workspace, without the prefix.
    dependencies: Vec<String>,
    dev_dependencies: Vec<String>,
    lints: Table,
}

/// Edges, names and lints of all crates.
pub(super) fn check(tree: &Tree, problems: &mut Vec<Problem>) {
    let Some(workspace) = parse(tree, "Cargo.toml", problems) else { return };
    let shared_lints = table(&workspace, &["workspace", "lints"]);
    let members = tree.ending("/Cargo.toml").filter_map(|(path, _)| read(tree, path, problems)).collect::<Vec<_>>();
    check_dependencies_are_explained(tree, &workspace, problems);
    for member in &members {
        check_edges(member, &members, problems);
        check_lints(member, &shared_lints, problems);
    }
}

/// A dependency is a decision: ARCHITECTURE.md says what each is for.
fn check_dependencies_are_explained(tree: &Tree, workspace: &Table, problems: &mut Vec<Problem>) {
    let explained = tree.text("ARCHITECTURE.md").unwrap_or_default();
    for name in table(workspace, &["workspace", "dependencies"]).keys().filter(|name| !name.starts_with("freehold-")) {
        if !explained.contains(&format!("`{name}`")) {
            problems.push(Problem::new("Cargo.toml", 1, format!("ARCHITECTURE.md does not say what `{name}` is for")));
        }
    }
}

fn read(tree: &Tree, path: &str, problems: &mut Vec<Problem>) -> Option<Crate> {
    let manifest = parse(tree, path, problems)?;
    // A workspace of its own stands beside the house: the fuzz targets, and a peer for benchmarks.
    if manifest.contains_key("workspace") {
        return None;
    }
    let folder = path.strip_suffix("/Cargo.toml")?;
    let full_name = manifest.get("package")?.get("name")?.as_str()?;
    let name = short(full_name);
    let is_at_home = folder == name || folder.strip_prefix("crates/") == Some(name);
    if !is_at_home || (full_name == name && !matches!(name, "freehold" | "xtask")) {
        problems.push(Problem::new(path, 1, format!("`{full_name}` in `{folder}`: a crate is freehold-X in crates/X")));
    }
    let mut dependencies = Vec::new();
    let mut dev_dependencies = Vec::new();
    let targets = table(&manifest, &["target"]);
    for part in std::iter::once(&manifest).chain(targets.values().filter_map(Value::as_table)) {
        let ours = |key: &str| {
            let names = part.get(key).and_then(Value::as_table).into_iter().flat_map(Table::keys);
            names.filter(|name| name.starts_with("freehold") || *name == "xtask").map(|name| short(name).to_owned())
        };
        dependencies.extend(ours("dependencies").chain(ours("build-dependencies")));
        dev_dependencies.extend(ours("dev-dependencies"));
    }
    Some(Crate {
        name: name.to_owned(),
        path: path.to_owned(),
        dependencies,
        dev_dependencies,
        lints: table(&manifest, &["lints"]),
    })
}

fn check_edges(member: &Crate, members: &[Crate], problems: &mut Vec<Problem>) {
    let mut problem = |text: String| problems.push(Problem::new(&member.path, 1, text));
    let name = member.name.as_str();
    let Some(layer) = layer(name) else {
        return problem(format!("`{name}` has no layer: give it one in xtask/src/tidy/crates.rs and ARCHITECTURE.md"));
    };
    for dependency in &member.dependencies {
        if self::layer(dependency).is_none_or(|below| below >= layer) || UNWANTED.contains(&(name, dependency)) {
            problem(format!("`{name}` must not depend on `{dependency}`: edges go to lower layers (ARCHITECTURE.md)"));
        }
    }
    for dependency in &member.dev_dependencies {
        if dependency == name || reaches(members, dependency, name) {
            problem(format!("`{dependency}` stands on `{name}`, so its tests must not: move them to `{dependency}`"));
        }
    }
}

fn layer(name: &str) -> Option<u8> {
    LAYERS.iter().find(|(known, _)| *known == name).map(|&(_, layer)| layer)
}

/// Whether `from` depends on `to`, directly or not.
fn reaches(members: &[Crate], from: &str, to: &str) -> bool {
    let edges: BTreeMap<_, _> = members.iter().map(|member| (member.name.as_str(), &member.dependencies)).collect();
    let mut seen = Vec::new();
    let mut waiting = vec![from];
    while let Some(next) = waiting.pop() {
        if next == to {
            return true;
        }
        if !seen.contains(&next) {
            seen.push(next);
            waiting
                .extend(edges.get(next).into_iter().flat_map(|dependencies| dependencies.iter().map(String::as_str)));
        }
    }
    false
}

fn check_lints(member: &Crate, shared: &Table, problems: &mut Vec<Problem>) {
    let mut problem = |text: String| problems.push(Problem::new(&member.path, 1, text));
    if member.lints.get("workspace").and_then(Value::as_bool) == Some(true) {
        return;
    }
    if !OWN_LINTS.contains(&member.name.as_str()) {
        return problem("it needs `[lints] workspace = true`".to_owned());
    }
    for (tool, lints) in shared {
        for (lint, level) in lints.as_table().into_iter().flatten().filter(|(lint, _)| *lint != "unsafe_code") {
            if member.lints.get(tool).and_then(|own| own.get(lint)) != Some(level) {
                problem(format!("the workspace's lint `{tool}.{lint} = {level}` is missing"));
            }
        }
    }
}

fn short(name: &str) -> &str {
    name.strip_prefix("freehold-").unwrap_or(name)
}

fn parse(tree: &Tree, path: &str, problems: &mut Vec<Problem>) -> Option<Table> {
    match tree.text(path).unwrap_or_default().parse() {
        Ok(manifest) => Some(manifest),
        Err(error) => {
            problems.push(Problem::new(path, 1, format!("no TOML: {error}")));
            None
        }
    }
}

/// The table at the end of `keys`; an empty one where there is none.
fn table(from: &Table, keys: &[&str]) -> Table {
    let mut at = from;
    for key in keys {
        match at.get(*key).and_then(Value::as_table) {
            Some(next) => at = next,
            None => return Table::new(),
        }
    }
    at.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "[workspace.dependencies]\nfreehold-base = 1\ntoml = 1\n[workspace.lints.rust]\nunsafe_code = \"forbid\"\nmissing_docs = \"warn\"";

    fn manifest(name: &str, rest: &str) -> String {
        format!("[package]\nname = \"{name}\"\n[lints]\nworkspace = true\n{rest}")
    }

    #[test]
    fn crates_stand_where_the_plan_says() {
        let engine = manifest("freehold-engine", "[dependencies]\nfreehold-model = 1");
        let model = manifest("freehold-model", "[dependencies]\nfreehold-kernels = 1");
        let expect = |path: &str, text: &str, complaint: Option<&str>| {
            let files = [
                ("Cargo.toml", ROOT),
                ("ARCHITECTURE.md", "`toml`"),
                ("crates/engine/Cargo.toml", engine.as_str()),
                ("crates/model/Cargo.toml", &model),
                (path, text),
            ];
            let mut problems = Vec::new();
            check(&Tree::of(&files), &mut problems);
            let found: Vec<String> = problems.iter().map(ToString::to_string).collect();
            match complaint {
                Some(complaint) => assert!(found.len() == 1 && found[0].contains(complaint), "{text}\n→ {found:?}"),
                None => assert!(found.is_empty(), "{text}\n→ {found:?}"),
            }
        };
        let gateway = |rest: &str| manifest("freehold-gateway", rest);
        let kernels = |rest: &str| manifest("freehold-kernels", rest);
        let (at_gateway, at_kernels) = ("crates/gateway/Cargo.toml", "crates/kernels/Cargo.toml");
        let cases = [
            (at_gateway, gateway("[dependencies]\nfreehold-engine.workspace = true\ntokio = 1"), None),
            (at_gateway, gateway("[dependencies]\nfreehold-hub = 1"), Some("must not depend on `hub`")),
            (at_gateway, gateway("[build-dependencies]\nfreehold = 1"), Some("must not depend on `freehold`")),
            (at_gateway, gateway("[dependencies]\nfreehold-pool = 1"), Some("must not depend on `pool`")),
            (
                at_kernels,
                kernels("[target.'cfg(unix)'.dependencies]\nfreehold-formats = 1"),
                Some("must not depend on `formats`"),
            ),
            (at_kernels, kernels("[dev-dependencies]\nfreehold-formats = 1"), None),
            (at_kernels, kernels("[dev-dependencies]\nfreehold-engine = 1"), Some("`engine` stands on `kernels`")),
            ("crates/pool/Cargo.toml", manifest("freehold-pool", ""), Some("no layer")),
            ("crates/door/Cargo.toml", gateway(""), Some("freehold-X in crates/X")),
            (at_gateway, manifest("gateway", ""), Some("freehold-X in crates/X")),
            (at_gateway, "[package]\nname = \"freehold-gateway\"".to_owned(), Some("workspace = true")),
            (
                at_kernels,
                "[package]\nname = \"freehold-kernels\"\n[lints.rust]\nmissing_docs = \"warn\"".to_owned(),
                None,
            ),
            (
                at_kernels,
                "[package]\nname = \"freehold-kernels\"\n[lints.rust]\nmissing_docs = \"allow\"".to_owned(),
                Some("rust.missing_docs"),
            ),
            ("ARCHITECTURE.md", "toml".to_owned(), Some("does not say what `toml` is for")),
            (at_gateway, "[package".to_owned(), Some("no TOML")),
        ];
        for (path, text, complaint) in cases {
            expect(path, &text, complaint);
        }
    }
}
