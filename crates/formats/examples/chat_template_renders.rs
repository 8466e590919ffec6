//! Compares every template of a folder with what transformers made of it.
//!
//! `cargo run -p freehold-formats --example chat_template_renders -- FOLDER [TEMPLATE]`, where FOLDER holds templates and a
//! `renders.json` with `conversations`, `tools`, `now`, the special tokens, and `renders` by template and case. With
//! TEMPLATE, both texts are shown.

use freehold_formats::{ChatInput, ChatTemplate, Error, SpecialTexts};
use serde_json::{Map, Value};

const NOW: i64 = 1_768_478_400; // 2026-01-15 12:00, as in renders.json

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().expect("usage: FOLDER [TEMPLATE]");
    let only = arguments.next();
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).expect("a readable file");
    let oracle: Value = serde_json::from_str(&read("renders.json")).expect("JSON");
    let token = |name: &str| oracle[name].as_str().map(str::to_owned);
    let tools = oracle["tools"].as_array().expect("tools");
    let extra = Map::new();
    let (mut equal, mut total) = (0, 0);
    for (name, cases) in oracle["renders"].as_object().expect("renders") {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let special = SpecialTexts {
            bos: token("bos_token"),
            eos: token("eos_token"),
            pad: token("pad_token"),
            unk: token("unk_token"),
            all: vec!["<|im_end|>".into(), "<|im_start|>".into(), "<think>".into()],
        };
        let template = ChatTemplate::new(&read(name), special);
        for (case, expected) in cases.as_object().expect("cases") {
            total += 1;
            let conversation = case.trim_end_matches("+gen");
            let input = ChatInput {
                messages: oracle["conversations"][conversation].as_array().expect("messages"),
                tools: conversation.starts_with("tool").then_some(tools),
                add_generation_prompt: case.ends_with("+gen"),
                extra: &extra,
                now: Some(NOW),
            };
            let rendered = match &template {
                Ok(template) => template.render(&input).map(|prompt| prompt.text),
                Err(error) => Err(Error::Template { problem: error.to_string(), remedy: "" }),
            };
            let same = match (&rendered, expected["ok"].as_str()) {
                (Ok(text), Some(expected)) => text == expected,
                (Err(_), None) => true,
                _ => false,
            };
            equal += usize::from(same);
            if !same {
                println!("{name} {case}: differs");
                match &rendered {
                    Err(error) => println!("    {error}"),
                    Ok(text) if only.is_some() => println!("--- ours\n{text}\n--- expected\n{expected}"),
                    Ok(_) => println!("    {:?}", expected["error"].as_str()),
                }
            }
        }
    }
    println!("{equal} of {total} renders are equal");
}
