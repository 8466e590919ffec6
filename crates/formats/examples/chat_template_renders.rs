//! Compares the templates of a folder with what transformers made of them.
//!
//! `cargo run -p freehold-formats --example chat_template_renders -- FOLDER [TEMPLATE]`
//! compares with FOLDER/renders.json where there is one, and shows both texts of TEMPLATE. Without that file it compares
//! with the digests in `tests/data/templates/digests.json`, which has them for templates that may not be copied here.
//!
//! `… -- --record FOLDER` writes those digests anew from FOLDER/renders.json: of transformers' texts, not of ours.
//!
//! `renders.json` holds `conversations`, `tools`, the special tokens, and `renders` by template and case.

use freehold_base::Digest;
use freehold_formats::{ChatInput, ChatTemplate, SpecialTexts};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// 2026-01-15 12:00, as in `renders.json`.
const NOW: i64 = 1_768_478_400;
/// What stands for the digest of a text where transformers refused.
const REFUSED: &str = "refused";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--record", folder] => record(Path::new(folder)),
        [folder] => compare(Path::new(folder), None),
        [folder, template] => compare(Path::new(folder), Some(template)),
        _ => panic!("usage: [--record] FOLDER [TEMPLATE]"),
    }
}

fn committed(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../tests/data/templates", name].iter().collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn digest(text: &str) -> String {
    Digest::of(text.as_bytes()).hex()
}

fn record(folder: &Path) {
    let oracle: Value = serde_json::from_str(&read(&folder.join("renders.json"))).expect("JSON");
    let mut digests = BTreeMap::new();
    for (name, cases) in oracle["renders"].as_object().expect("renders") {
        if committed(name).exists() {
            continue;
        }
        let cases: BTreeMap<_, _> = (cases.as_object().expect("cases").iter())
            .map(|(case, expected)| (case, expected["ok"].as_str().map_or_else(|| REFUSED.into(), digest)))
            .collect();
        digests.insert(digest(&read(&folder.join(name))), json!({"template": name, "renders": cases}));
    }
    let text = serde_json::to_string_pretty(&digests).expect("JSON") + "\n";
    std::fs::write(committed("digests.json"), text).expect("a writable file");
    println!("{} templates recorded", digests.len());
}

fn compare(folder: &Path, only: Option<&str>) {
    let local = folder.join("renders.json");
    let oracle: Value = if local.exists() {
        serde_json::from_str(&read(&local)).expect("JSON")
    } else {
        let mut oracle: Value = serde_json::from_str(&read(&committed("renders.json"))).expect("JSON");
        let digests: Value = serde_json::from_str(&read(&committed("digests.json"))).expect("JSON");
        let present = std::fs::read_dir(folder).expect("a folder").filter_map(|entry| {
            let path = entry.ok()?.path();
            let known = digests.get(digest(&std::fs::read_to_string(&path).ok()?))?;
            Some((path.file_name()?.to_str()?.to_owned(), known["renders"].clone()))
        });
        oracle["renders"] = present.collect::<Map<_, _>>().into();
        oracle
    };
    let (mut equal, mut total) = (0, 0);
    for (name, cases) in oracle["renders"].as_object().expect("renders") {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let token = |name: &str| oracle[name].as_str().map(str::to_owned);
        let special = SpecialTexts {
            bos: token("bos_token"),
            eos: token("eos_token"),
            pad: token("pad_token"),
            unk: token("unk_token"),
            all: like_tokens(&read(&folder.join(name))),
        };
        let template = ChatTemplate::new(&read(&folder.join(name)), special);
        for (case, expected) in cases.as_object().expect("cases") {
            total += 1;
            let rendered = render(&oracle, &template, case);
            let same = match (&rendered, expected.as_str(), expected["ok"].as_str()) {
                (Ok(text), Some(expected), _) => digest(text) == expected,
                (Err(_), Some(expected), _) => expected == REFUSED,
                (Ok(text), None, Some(expected)) => text == expected,
                (Err(_), None, expected) => expected.is_none(),
                (Ok(_), None, None) => false,
            };
            equal += usize::from(same);
            if same {
                continue;
            }
            println!("{name} {case}: differs");
            match rendered {
                Err(error) => println!("    {error}"),
                Ok(text) if only.is_some() => println!("--- ours\n{text}\n--- expected\n{expected}"),
                Ok(_) => println!("    {:?}", expected["error"].as_str()),
            }
        }
    }
    println!("{equal} of {total} renders are equal");
    assert!(equal == total && total > 0, "not all renders are equal");
}

/// Every text of a template that could be a special token, which must not change what the template prints.
fn like_tokens(source: &str) -> Vec<String> {
    let starts = source.match_indices(['<', '[']).map(|(start, _)| &source[start..]);
    let token = |rest: &str| {
        let end = rest.find(if rest.starts_with('<') { '>' } else { ']' })? + 1;
        let text = &rest[..end];
        (3..40)
            .contains(&end)
            .then_some(text)
            .filter(|text| !text.contains([' ', '\n', '\'', '"', '.']))
            .map(str::to_owned)
    };
    starts.filter_map(token).collect()
}

fn render(oracle: &Value, template: &freehold_formats::Result<ChatTemplate>, case: &str) -> Result<String, String> {
    let conversation = case.trim_end_matches("+gen");
    let tools = oracle["tools"].as_array().expect("tools");
    let input = ChatInput {
        messages: oracle["conversations"][conversation].as_array().expect("messages"),
        tools: conversation.starts_with("tool").then_some(tools),
        add_generation_prompt: case.ends_with("+gen"),
        extra: &Map::new(),
        now: Some(NOW),
    };
    let template = template.as_ref().map_err(ToString::to_string)?;
    template.render(&input).map(|prompt| prompt.text).map_err(|error| error.to_string())
}
