//! What servers answer, read: pure functions over hostile bytes. Each takes memory in proportion to what it is given,
//! which its caller bounds, and refuses what it cannot name a use for.

use crate::HubError;
use crate::secret::Secret;
use freehold_base::Digest;
use freehold_store::validate_file_path;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use std::collections::BTreeSet;
use std::fmt;

/// Most entries of one page of a list of files. Hugging Face sends a thousand.
const PAGE_ENTRIES_MAX: usize = 10_000;
/// Most files that the weights of one model may be spread over.
const SHARDS_MAX: usize = 10_000;

/// A file of a repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ListedFile {
    /// Its name, a plain relative path.
    pub(crate) path: String,
    /// Its size.
    pub(crate) size_bytes: u64,
    /// What its bytes hash to.
    pub(crate) checksum: Checksum,
}

/// What the bytes of a listed file must hash to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Checksum {
    /// SHA-256, for what lies in Large File Storage.
    Sha256(Digest),
    /// Git's name of the bytes, a SHA-1 over their length and themselves, for what lies in Git.
    GitBlob([u8; 20]),
}

/// The commit that a revision of a Hugging Face repository means: 40 hexadecimal digits in lower case.
///
/// # Errors
/// [`HubError::Answer`].
pub(crate) fn parse_revision(bytes: &[u8]) -> Result<String, HubError> {
    #[derive(Deserialize)]
    struct Revision {
        sha: String,
    }
    let wrong = |reason: String| HubError::Answer { what: "the description of the repository", reason };
    let revision: Revision = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    if !is_commit(&revision.sha) {
        return Err(wrong("`sha` is no commit of 40 hexadecimal digits".to_owned()));
    }
    Ok(revision.sha)
}

/// Whether the text is a commit in full.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// One page of the list of a Hugging Face repository's files. Left out are directories and kinds that are neither, and
/// files whose name is no plain relative path: Git allows more, and no model has such.
///
/// # Errors
/// [`HubError::Answer`] where an entry lacks what a file needs or contradicts itself; where there are more than a page
/// holds.
pub(crate) fn parse_tree(bytes: &[u8]) -> Result<Vec<ListedFile>, HubError> {
    let wrong = |reason: String| HubError::Answer { what: "the list of files", reason };
    let page: TreePage = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    page.0
        .into_iter()
        .filter(|entry| entry.kind == "file" && validate_file_path(&entry.path).is_ok())
        .map(|entry| {
            let checksum = match &entry.lfs {
                Some(lfs) if Some(lfs.size) != entry.size => {
                    return Err(wrong(format!("`{}` has two sizes", entry.path)));
                }
                Some(lfs) => {
                    Checksum::Sha256(lfs.oid.parse().map_err(|error| wrong(format!("`{}`: {error}", entry.path)))?)
                }
                None => Checksum::GitBlob(
                    git_blob(&entry.oid).ok_or_else(|| wrong(format!("`{}` has no Git object id", entry.path)))?,
                ),
            };
            let size_bytes = entry.size.ok_or_else(|| wrong(format!("`{}` has no size", entry.path)))?;
            Ok(ListedFile { path: entry.path, size_bytes, checksum })
        })
        .collect()
}

/// The address of the next page, from a `Link` header: `<https://…>; rel="next"`.
pub(crate) fn parse_next_link(header: &str) -> Option<&str> {
    let mut rest = header;
    while let Some((_, from)) = rest.split_once('<') {
        let (address, after) = from.split_once('>')?;
        let parameters = after.split('<').next().unwrap_or(after);
        let is_next = |parameter: &str| {
            parameter
                .trim()
                .trim_end_matches(',')
                .trim()
                .strip_prefix("rel=")
                .is_some_and(|rel| rel.trim_matches('"') == "next")
        };
        if parameters.split(';').any(is_next) {
            return Some(address);
        }
        rest = after;
    }
    None
}

/// The files that an index of sharded safetensors names: `{"weight_map": {"tensor": "file"}}`.
///
/// # Errors
/// [`HubError::Answer`] where it names none, too many, or one that is no plain name.
pub(crate) fn parse_weight_index(bytes: &[u8]) -> Result<BTreeSet<String>, HubError> {
    let wrong = |reason: String| HubError::Answer { what: "the index of the weights", reason };
    let index: WeightIndex = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    for file in &index.weight_map.0 {
        if validate_file_path(file).is_err() || file.contains('/') || !file.ends_with(".safetensors") {
            let shown: String = file.chars().take(80).collect();
            return Err(wrong(format!("`{}` is no name of a file of weights", shown.escape_debug())));
        }
    }
    if index.weight_map.0.is_empty() {
        return Err(wrong("it names no files".to_owned()));
    }
    Ok(index.weight_map.0)
}

/// What a registry wants to know before it answers, from a `WWW-Authenticate` header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Challenge {
    /// The user's name and password.
    Basic,
    /// A token.
    Bearer {
        /// Where to get it, an address that is not checked yet.
        realm: String,
        /// What to call the registry there.
        service: Option<String>,
    },
}

/// Reads a challenge; `None` where it is of another kind or malformed (RFC 9110, section 11.6.1).
pub(crate) fn parse_challenge(header: &str) -> Option<Challenge> {
    let (scheme, mut rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service) = (None, None);
    while let Some((key, after)) = rest.trim_start_matches([',', ' ']).split_once('=') {
        let value = match after.strip_prefix('"') {
            // Quoted text with escapes is in no registry's challenge.
            Some(quoted) => {
                let (value, after) = quoted.split_once('"')?;
                rest = after;
                value
            }
            None => {
                let end = after.find(',').unwrap_or(after.len());
                rest = &after[end..];
                after[..end].trim()
            }
        };
        match key.trim().to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value.to_owned()),
            "service" => service = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(Challenge::Bearer { realm: realm?, service })
}

/// The token that a registry's token server gives.
///
/// # Errors
/// [`HubError::Answer`].
pub(crate) fn parse_token(bytes: &[u8]) -> Result<Secret, HubError> {
    #[derive(Deserialize)]
    struct Token {
        token: Option<String>,
        access_token: Option<String>,
    }
    let wrong = |reason: String| HubError::Answer { what: "the token", reason };
    let answer: Token = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    let token = answer.token.or(answer.access_token).and_then(|token| Secret::new(&token));
    token.ok_or_else(|| wrong("there is none".to_owned()))
}

#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    oid: String,
    size: Option<u64>,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    oid: String,
    size: u64,
}

/// Entries up to a number, so that a page of millions is refused before it is held.
struct TreePage(Vec<TreeEntry>);

impl<'de> Deserialize<'de> for TreePage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = TreePage;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of files")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<TreePage, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = sequence.next_element()? {
                    if entries.len() == PAGE_ENTRIES_MAX {
                        return Err(de::Error::custom(format!("a page lists more than {PAGE_ENTRIES_MAX} files")));
                    }
                    entries.push(entry);
                }
                Ok(TreePage(entries))
            }
        }
        deserializer.deserialize_seq(Entries)
    }
}

#[derive(Deserialize)]
struct WeightIndex {
    weight_map: ShardNames,
}

/// The values of a map whose keys are of no interest.
struct ShardNames(BTreeSet<String>);

impl<'de> Deserialize<'de> for ShardNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = ShardNames;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from tensors to files")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ShardNames, A::Error> {
                let mut names = BTreeSet::new();
                while let Some((IgnoredAny, name)) = map.next_entry::<IgnoredAny, String>()? {
                    names.insert(name);
                    if names.len() > SHARDS_MAX {
                        return Err(de::Error::custom(format!("it names more than {SHARDS_MAX} files")));
                    }
                }
                Ok(ShardNames(names))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

fn git_blob(hex: &str) -> Option<[u8; 20]> {
    if !is_commit(hex) {
        return None;
    }
    let mut bytes = [0; 20];
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{
        Challenge, parse_challenge, parse_next_link, parse_revision, parse_token, parse_tree, parse_weight_index,
    };
    use freehold_base::Digest;
    use serde_json::json;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn what_a_server_answers_is_read_within_bounds() {
        let file = |path: &str| json!([{"type": "file", "oid": COMMIT, "size": 1, "path": path}]).to_string();
        let deep = format!("{}1{}", "[".repeat(200_000), "]".repeat(200_000));
        let many = format!("[{}]", vec![r#"{"type":"file","path":"a","size":1}"#; 1_000_000].join(","));
        for (tree, part) in [
            (json!([{"type": "file", "oid": "../../x", "size": 1, "path": "a"}]).to_string(), "no Git object id"),
            (json!([{"type": "file", "oid": COMMIT, "path": "a"}]).to_string(), "no size"),
            (json!([{"type": "file", "oid": COMMIT, "size": -1, "path": "a"}]).to_string(), "invalid value"),
            (
                json!([{"type": "file", "size": 1, "path": "a", "lfs": {"oid": "x", "size": 1}}]).to_string(),
                "not a SHA-256",
            ),
            (
                json!([{"type": "file", "size": 1, "path": "a", "lfs": {"oid": Digest::of(b"").hex(), "size": 2}}])
                    .to_string(),
                "two sizes",
            ),
            ("{}".to_owned(), "a list of files"),
            ("<html>".to_owned(), "expected value"),
            (deep.clone(), ""),
            (format!(r#"[{{"x":{deep}}}]"#), ""),
            (many, "more than 10000 files"),
        ] {
            let message = parse_tree(tree.as_bytes()).unwrap_err().to_string();
            assert!(message.starts_with("the list of files") && message.contains(part), "{message}");
            assert!(message.len() < 1000);
        }
        // A link in the repository is listed as the file that it is in Git; directories and what is unknown are left out.
        let odd = json!([{"type": "directory", "path": "../x"}, {"type": "submodule", "path": "y"}]).to_string();
        assert_eq!(parse_tree(odd.as_bytes()).unwrap(), []);
        // So are names that no file of a model may have.
        let long = "a".repeat(2000);
        for path in ["", "../x", "a/../../x", "a//b", "/etc/passwd", "a\\b", "a\0b", "C:x", &long] {
            assert_eq!(parse_tree(file(path).as_bytes()).unwrap(), [], "{path:?}");
        }
        for path in [".gitattributes", "_x", "a b (1)+é=.gguf", "a@b/c#d?e%2f.gguf"] {
            assert_eq!(parse_tree(file(path).as_bytes()).unwrap()[0].path, path);
        }

        for text in [
            "",
            "{}",
            "[]",
            r#"{"sha":1}"#,
            r#"{"sha":"main"}"#,
            r#"{"sha":"../../../../../../../../../../../../../x"}"#,
            &deep,
        ] {
            assert!(parse_revision(text.as_bytes()).is_err(), "{text:.80}");
        }
        let shards = |names: &[&str]| {
            let map: serde_json::Map<_, _> =
                names.iter().enumerate().map(|(at, name)| (at.to_string(), json!(name))).collect();
            json!({ "weight_map": map }).to_string()
        };
        for (text, part) in [
            (shards(&["../x.safetensors"]), "no name of a file"),
            (shards(&["/x.safetensors"]), "no name of a file"),
            (shards(&["a/b.safetensors"]), "no name of a file"),
            (shards(&["x.bin"]), "no name of a file"),
            (shards(&["x\0.safetensors"]), "no name of a file"),
            (shards(&[]), "names no files"),
            ("{}".to_owned(), "missing field"),
            (deep.clone(), ""),
        ] {
            let message = parse_weight_index(text.as_bytes()).unwrap_err().to_string();
            assert!(message.starts_with("the index of the weights") && message.contains(part), "{message}");
        }
        let names: Vec<String> = (0..20_000).map(|at| format!("{at}.safetensors")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(parse_weight_index(shards(&names).as_bytes()).unwrap_err().to_string().contains("more than 10000"));

        // RFC 8288, section 3.5.
        for (header, expected) in [
            ("<https://x/y?a=1,2;b>; rel=\"next\"", Some("https://x/y?a=1,2;b")),
            ("<a>; rel=\"prev\", <b>; title=\"t\"; rel=next", Some("b")),
            ("<a>; rel=\"prev\"", None),
            ("a; rel=\"next\"", None),
            ("<a; rel=\"next\"", None),
            ("", None),
        ] {
            assert_eq!(parse_next_link(header), expected, "{header}");
        }
    }

    #[test]
    fn challenges_and_tokens_are_read_within_bounds() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
        };
        for (header, expected) in [
            // The distribution specification's own example.
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:samalba/my-app:pull,push""#,
                bearer("https://auth.docker.io/token", Some("registry.docker.io")),
            ),
            (r#"bearer scope="a,b", realm=https://x/y"#, bearer("https://x/y", None)),
            (r#"Basic realm="x""#, Some(Challenge::Basic)),
            ("Basic", Some(Challenge::Basic)),
            ("Bearer", None),
            (r#"Bearer realm="x"#, None),
            (r#"Negotiate realm="x""#, None),
            ("", None),
            (&"Bearer a=b,".repeat(10_000), None),
        ] {
            assert_eq!(parse_challenge(header), expected, "{header:.80}");
        }
        assert_eq!(
            parse_token(br#"{"token":"a"}"#).unwrap(),
            parse_token(br#"{"access_token":"a","expires_in":1}"#).unwrap()
        );
        for text in ["", "{}", "[]", r#"{"token":""}"#, r#"{"token":1}"#, &"[".repeat(200_000)] {
            assert!(parse_token(text.as_bytes()).is_err(), "{text:.80}");
        }
        let token = parse_token(br#"{"token":"secret"}"#).unwrap();
        assert!(!format!("{token:?}").contains("secret"));
    }
}
