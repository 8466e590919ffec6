//! What every file must hold to: length, nothing left over, `unsafe` in its places, no math library, no ties to one
//! machine, live links.

use super::source::{code_only, functions, line_number, without_tests, word_positions};
use super::{Problem, Tree};

/// Lines of a Rust file without its unit tests: an enforced bound, and one from which `cargo xtask tidy` remarks on it.
const FILE_LINES_MAX: usize = 1000;
const FILE_LINES_REMARKED: usize = 400;
const FUNCTION_LINES_REMARKED: usize = 70;

/// Where `unsafe` may stand: SIMD and the thread pool, the one memory map, and the allocator that counts what parsers take
/// in tests, which cannot be written without it.
const UNSAFE_PLACES: [&str; 3] =
    ["crates/kernels/", "crates/formats/src/mmap.rs", "crates/formats/tests/it/allocator.rs"];

/// The crates whose numbers reach a result.
const NUMERIC_PLACES: [&str; 5] =
    ["crates/base/src/", "crates/kernels/src/", "crates/formats/src/", "crates/model/src/", "crates/engine/src/"];

/// What `f32` and `f64` take from the platform's math library: the bits differ from one to the next (`docs/numerics.md`).
const LIBM: [&str; 29] = [
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "cos", "cosh", "exp", "exp2", "exp_m1",
    "gamma", "hypot", "ln", "ln_1p", "ln_gamma", "log", "log10", "log2", "powf", "powi", "sin", "sin_cos", "sinh",
    "tan", "tanh", "erf",
];

/// Marks of unfinished work. Spelled in halves, as this file is checked too.
const LEFTOVERS: [&str; 6] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("db", "g!("),
    concat!("#[ig", "nore"),
];

/// Package registries: their clients know where they are, and users may have mirrors.
const REGISTRY_HOSTS: [&str; 6] = [
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("python", "hosted.org"),
    concat!("npm", "js.org"),
    concat!("npm", "js.com"),
    concat!("deb.deb", "ian.org"),
];

/// Beginnings of paths that exist on one machine only.
const MACHINE_PATHS: [&str; 4] =
    [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];

pub(super) fn check(tree: &Tree, problems: &mut Vec<Problem>) {
    for (path, text) in tree.ending("") {
        let is_data =
            ["tests/data/", "fuzz/corpus/"].iter().any(|data| path.starts_with(data)) || path.contains("/tests/data/");
        if is_data {
            continue;
        }
        if path == "Cargo.lock" || path.ends_with("/Cargo.lock") {
            check_lock(path, text, problems);
            continue;
        }
        check_words(path, text, problems);
        if path.ends_with(".rs") {
            check_rust(path, text, problems);
        }
        if path.ends_with(".md") {
            check_links(tree, path, text, problems);
        }
    }
}

fn check_lock(path: &str, text: &str, problems: &mut Vec<Problem>) {
    for (at, _) in text.match_indices("source = \"git+") {
        problems.push(Problem::new(path, line_number(text, at), "a dependency from git: use a published version"));
    }
}

fn check_words(path: &str, text: &str, problems: &mut Vec<Problem>) {
    for word in LEFTOVERS {
        for (at, _) in text.match_indices(word).filter(|&(at, _)| !text[..at].ends_with(is_word)) {
            problems.push(Problem::new(path, line_number(text, at), format!("left over: `{word}`")));
        }
    }
    let lower = text.to_ascii_lowercase();
    for host in REGISTRY_HOSTS {
        for (at, _) in lower.match_indices(host) {
            problems.push(Problem::new(path, line_number(text, at), format!("`{host}` is a package registry's host")));
        }
    }
    for start in MACHINE_PATHS {
        let begins =
            |at: usize| !text[..at].ends_with(|c: char| is_word(c) || matches!(c, '.' | '-' | '/' | '}' | '>'));
        for (at, _) in text.match_indices(start).filter(|&(at, _)| begins(at)) {
            problems.push(Problem::new(path, line_number(text, at), format!("`{start}…` is a path of one machine")));
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn check_rust(path: &str, text: &str, problems: &mut Vec<Problem>) {
    let lines = without_tests(text).lines().count();
    if lines > FILE_LINES_MAX {
        let text = format!("{lines} lines without its unit tests: at most {FILE_LINES_MAX}, so split it by subject");
        problems.push(Problem::new(path, 1, text));
    }
    if !UNSAFE_PLACES.iter().any(|place| path.starts_with(place)) {
        let code = code_only(text);
        for at in word_positions(&code, "unsafe") {
            let text = format!("`unsafe` belongs only in {}", UNSAFE_PLACES.join(" and "));
            problems.push(Problem::new(path, line_number(&code, at), text));
        }
    }
    if NUMERIC_PLACES.iter().any(|place| path.starts_with(place)) {
        let code = code_only(without_tests(text));
        // A field may be called so: only methods that are called count.
        let of_a_float = |at: usize, word: &str| {
            let is_method = code[..at].ends_with('.') && code[at + word.len()..].starts_with('(');
            is_method || ["f32::", "f64::"].iter().any(|before| code[..at].ends_with(before))
        };
        for word in LIBM {
            for at in word_positions(&code, word).filter(|&at| of_a_float(at, word)) {
                let text = format!("`{word}` is the platform's: take the one of `freehold_kernels::math` or `math64`");
                problems.push(Problem::new(path, line_number(&code, at), text));
            }
        }
    }
}

/// Every link of a Markdown file to a place in the tree must lead somewhere.
fn check_links(tree: &Tree, path: &str, text: &str, problems: &mut Vec<Problem>) {
    let mut is_fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_fenced = !is_fenced;
        }
        if is_fenced {
            continue;
        }
        // Between backticks, every second part is code.
        let prose = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for link in prose.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next()) {
            let target = link.split('#').next().unwrap_or_default();
            let is_outside = link.contains("://") || link.starts_with("mailto:");
            if target.is_empty() || is_outside {
                continue;
            }
            if resolve(path, target).is_none_or(|target| !tree.has(&target)) {
                problems.push(Problem::new(path, index + 1, format!("the link to `{link}` leads nowhere")));
            }
        }
    }
}

/// `target` as seen from the file `from`; `None` where it leaves the tree.
fn resolve(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Files and functions that may be worth a second look. Kernels' inner loops are as long as they are.
pub(super) fn remarks(tree: &Tree) -> Vec<String> {
    let mut remarks = Vec::new();
    for (path, text) in tree.ending(".rs") {
        let text = without_tests(text);
        let lines = text.lines().count();
        if lines > FILE_LINES_REMARKED {
            remarks.push(format!("{path}:1: remark: {lines} lines"));
        }
        if path.starts_with("crates/kernels/") {
            continue;
        }
        let code = code_only(text);
        for (name, range) in functions(&code) {
            let lines = code[range.clone()].lines().count();
            if lines > FUNCTION_LINES_REMARKED {
                let line = line_number(&code, range.start);
                remarks.push(format!("{path}:{line}: remark: `{name}` has {lines} lines"));
            }
        }
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(files: &[(&str, &str)]) -> Vec<String> {
        let mut problems = Vec::new();
        check(&Tree::of(files), &mut problems);
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_rule_catches_what_breaks_it() {
        let long = "//\n".repeat(FILE_LINES_MAX + 1);
        let [leftover, host, machine] = [LEFTOVERS[0], REGISTRY_HOSTS[1], MACHINE_PATHS[0]];
        let ignored = format!("#[test]\n{}]", LEFTOVERS[5]);
        let cases = [
            ("crates/x/src/lib.rs", long.clone(), "1001 lines"),
            ("docs/a.md", format!("one\ntwo {leftover}: three"), "docs/a.md:2: left over"),
            ("crates/x/tests/it/main.rs", ignored, ":2: left over"),
            ("crates/x/src/lib.rs", format!("{}1)", LEFTOVERS[4]), "left over"),
            ("README.md", format!("see https://{}/simple", host.to_uppercase()), "registry's host"),
            (".ci/run", format!("cd {machine}main"), "path of one machine"),
            ("crates/x/src/lib.rs", "fn f() { unsafe { g() } }".to_owned(), "`unsafe` belongs only in"),
            ("crates/formats/src/mmap/other.rs", "unsafe fn f() {}".to_owned(), "`unsafe` belongs only in"),
            ("crates/engine/src/a.rs", "fn f(x: f64) -> f64 {\n x.ln() }".to_owned(), "a.rs:2: `ln` is the platform's"),
            ("crates/kernels/src/a.rs", "const F: fn(f32) -> f32 = f32::exp;".to_owned(), "`exp` is the platform's"),
            ("Cargo.lock", "a\nsource = \"git+https://x.y/z\"".to_owned(), "Cargo.lock:2: a dependency from git"),
            ("docs/a.md", "see [b](b.md)".to_owned(), "`b.md` leads nowhere"),
            ("docs/a.md", "see [b](../../b.md#c)".to_owned(), "`../../b.md#c` leads nowhere"),
        ];
        for (path, text, complaint) in cases {
            let found = complaints(&[(path, &text)]);
            assert!(found.len() == 1 && found[0].contains(complaint), "{path}: {complaint}\n→ {found:?}");
        }
    }

    #[test]
    fn what_only_looks_like_it_passes() {
        let long = format!("//\n#[cfg(test)]\nmod tests {{\n{}}}\n", "    //\n".repeat(FILE_LINES_MAX));
        let data = format!("{} {}", LEFTOVERS[0], REGISTRY_HOSTS[0]);
        let relative = format!("crates{}", MACHINE_PATHS[0]);
        let files = [
            ("crates/x/src/lib.rs", long.as_str()),
            ("crates/x/src/policy.rs", "// unsafe\nconst POLICY: &str = \"'unsafe-inline'\"; // unsafe_code"),
            ("crates/kernels/src/pool.rs", "unsafe fn f() {}"),
            (
                "crates/engine/src/a.rs",
                "fn f() { math64::exp(x.sqrt()); a.explain(); } // x.ln()\n#[cfg(test)]\nmod tests {\n    x.exp()\n}\n",
            ),
            ("crates/hub/src/a.rs", "fn f() { x.log2(); }"),
            ("crates/formats/src/mmap.rs", "unsafe fn f() {}"),
            ("tests/data/text.txt", &data),
            ("crates/x/tests/data/text.txt", &data),
            ("docs/paths.txt", &relative),
            (
                "docs/a.md",
                "[b](b.md#c) [c](#c) [d](https://x.y) [e](../docs/) `[f](g)`\n```\n[h](i)\n```\n![j](../README.md)",
            ),
            ("docs/b.md", ""),
            ("README.md", "[docs](docs/a.md) [folder](docs)"),
        ];
        assert_eq!(complaints(&files), Vec::<String>::new());
    }

    #[test]
    fn long_files_and_functions_are_remarked_on() {
        let function = format!("fn long() {{\n{}}}\nfn short() {{}}\n", "    f();\n".repeat(FUNCTION_LINES_REMARKED));
        let file = "//\n".repeat(FILE_LINES_REMARKED + 1);
        let files = [
            ("crates/kernels/src/a.rs", function.as_str()),
            ("crates/x/src/a.rs", &function),
            ("crates/x/src/b.rs", &file),
        ];
        assert_eq!(
            remarks(&Tree::of(&files)),
            ["crates/x/src/a.rs:1: remark: `long` has 72 lines", "crates/x/src/b.rs:1: remark: 401 lines"]
        );
    }
}
