//! What each command prints, for people and as JSON.

use crate::program::{Gguf, Home, PROGRAM, TINY};
use freehold_kernels::Isa;
use insta::assert_snapshot;
use serde_json::{Value, json};
use std::fs;
use std::process::Stdio;

#[test]
fn a_model_comes_is_looked_at_and_goes() {
    let home = Home::new();
    let tiny = format!("file:{TINY}");
    assert_snapshot!(home.transcript(&[
        &["pull", &tiny],
        &["pull", &tiny, "--name", "tiny"],
        &["pull", &tiny, "--name", "tiny", "--json"],
        &["show", "tiny", "--tensors"],
        &["rm", "tiny-llama"],
        &["rm", "tiny", "--json"],
    ]));
}

#[test]
fn show_as_json() {
    let mut shown = Home::with_tiny().run(&["show", "tiny", "--json"]).json();
    let tensors = shown["tensors"].take();
    assert_eq!(tensors.as_array().unwrap().len(), 20);
    assert_eq!(
        tensors[0],
        json!({"name": "token_embd.weight", "dtype": "Q8_0", "shape": [359, 256], "bytes": 359 * 256 / 32 * 34})
    );
    assert_snapshot!(format!("{shown:#}"));
}

#[test]
fn a_store_with_nothing_in_it() {
    let home = Home::new();
    let listed = home.run(&["list"]).succeeded();
    assert!(listed.starts_with("To be fetched with `freehold pull NAME`:\nNAME "), "{listed}");
    assert_eq!(home.run(&["scrub"]).succeeded().trim_end(), "The store is empty.");
}

#[test]
fn list() {
    let home = Home::with_tiny();
    let listed = home.run(&["list"]).succeeded();
    // How wide the columns are depends on the catalogue.
    let words = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let words: Vec<String> = words.collect();
    assert_eq!(
        words[..6],
        [
            "NAME SIZE DIGEST LICENCE",
            "tiny 694.0 kB sha256:4be99dc62922 apache-2.0",
            "",
            "To be fetched with `freehold pull NAME`:",
            "NAME SIZE MEMORY TRIED LICENCE",
            "smollm2:135m 98.4 MB 400.0 MB yes Apache-2.0",
        ]
    );
    assert!(words.iter().any(|line| line == "qwen3:0.6b ? 3.7 GB not yet Apache-2.0"), "{listed}");

    let listed = home.run(&["list", "--json"]).json();
    assert_eq!(listed.as_object().unwrap().keys().collect::<Vec<_>>(), ["models", "catalogue"]);
    let entry = listed["catalogue"].as_array().unwrap().iter().find(|entry| entry["name"] == "smollm2:135m").unwrap();
    assert_eq!(
        entry.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["name", "size_bytes", "memory_bytes", "untried", "licenses"]
    );
    assert_snapshot!(format!("{:#}", listed["models"]));
}

#[test]
fn run() {
    let home = Home::with_tiny();
    let cold = ["run", "tiny", "Who owns the house?", "--temperature", "0", "--max-tokens", "24"];
    let text = home.run(&cold).succeeded();
    let mut answer = home.run(&[&cold[..], &["--json"]].concat()).json();
    assert_eq!(text, format!("{}\n", answer["text"].as_str().unwrap()));
    for rate in ["prefill_tokens_per_second", "decode_tokens_per_second"] {
        assert!(answer[rate].as_f64().unwrap() > 0.0, "{answer}");
        answer[rate] = json!("measured");
    }
    assert_snapshot!(answer);

    // A prompt from a pipe is the same prompt, and so is one computed otherwise.
    let piped = home.run_with_input(&[&["run", "tiny"], &cold[3..]].concat(), b"Who owns the house?\n").succeeded();
    assert_eq!(piped, text);
    let otherwise = ["--threads", "1", "--isa", "reference", "--context", "512", "--draft-max", "0"];
    assert_eq!(home.run(&[&cold[..], &otherwise].concat()).succeeded(), text);

    // Drafts are counted, whoever makes them, and change nothing else.
    let drafted = |more: &[&str]| {
        let common = ["run", "tiny", "the cat sat", "--raw", "--max-tokens", "300", "--json"];
        let answer = home.run(&[&common, more].concat()).json();
        (answer["token_ids"].clone(), answer["accepted_tokens"].as_u64().unwrap())
    };
    let [none, look_up, both] = [&["--draft-max", "0"][..], &[], &["--draft-model", "tiny"]].map(drafted);
    assert!(none.0 == look_up.0 && look_up.0 == both.0, "drafts change the answer");
    assert!(none.1 == 0 && 0 < look_up.1 && look_up.1 < both.1, "{} and {}", look_up.1, both.1);

    let ids = |more: &[&str]| {
        let common = ["run", "tiny", "Who?", "--temperature", "1", "--max-tokens", "24", "--json"];
        let answer = home.run(&[&common, more].concat()).json();
        answer["token_ids"].as_array().unwrap().clone()
    };
    assert_eq!(ids(&["--seed", "7"]), ids(&["--seed", "7"]));
    assert_ne!(ids(&["--seed", "7"]), ids(&["--seed", "8"]));
    assert_ne!(ids(&["--raw"]), ids(&[]));
}

#[test]
fn run_ends_at_a_stop_text() {
    let home = Home::with_tiny();
    let cold = ["run", "tiny", "Who?", "--temperature", "0", "--max-tokens", "24", "--json"];
    let whole = home.run(&cold).json();
    let whole = whole["text"].as_str().unwrap();
    let stop = whole.chars().nth(6).unwrap().to_string();
    let stopped = home.run(&[&cold[..], &["--stop", &stop]].concat()).json();
    assert_eq!(stopped["text"], whole.split(&stop).next().unwrap());
    assert_eq!(stopped["finish_reason"], "stop");
}

#[test]
fn tokenize() {
    let home = Home::with_tiny();
    let text = home.file("text.txt", "The house <|im_end|> é\n");
    let messages = home.file("messages.json", r#"[{"role": "user", "content": "Who <|im_end|>?"}]"#);
    assert_snapshot!(home.transcript(&[
        &["tokenize", "tiny", "--file", &text],
        &["tokenize", "tiny", "--file", &text, "--no-special"],
        &["tokenize", "tiny", "--file", &text, "--json"],
        &["tokenize", "tiny", "--messages", &messages],
        &["tokenize", "tiny", "--messages", &messages, "--json"],
    ]));
    let text = fs::read(text).unwrap();
    assert_eq!(
        home.run_with_input(&["tokenize", "tiny"], &text).stdout,
        home.run(&["tokenize", "tiny", "--file", "text.txt"]).stdout
    );
}

#[test]
fn logits_and_perplexity() {
    let home = Home::with_tiny();
    let text = home.file("text.txt", "The house stood at the end of the lane, and people lived in it.\n".repeat(20));
    assert_snapshot!(home.transcript(&[
        &["logits", "tiny", "--tokens", "1,2,3", "--digest-only"],
        &["logits", "tiny", "--tokens", "1,2,3", "--digest-only", "--all", "--json"],
        &["logits", "tiny", "--tokens", "1,2,3", "--digest-only", "--kv", "f32", "--json"],
        &["perplexity", "tiny", "--file", &text, "--context", "64"],
        &["perplexity", "tiny", "--file", &text, "--context", "64", "--json"],
    ]));
    let count = |options: &[&str]| {
        let printed = home.run(&[&["logits", "tiny", "--tokens", "1,2,3"], options].concat()).succeeded();
        printed.lines().map(|line| line.split(' ').count()).collect::<Vec<_>>()
    };
    assert_eq!(count(&[]), [359, 2]);
    assert_eq!(count(&["--all", "--chunk", "2"]), [359, 359, 359, 2]);
    let rows = home.run(&["logits", "tiny", "--tokens", "1,2,3", "--json"]).json();
    assert_eq!(rows["logits"].as_array().unwrap().len(), 359);
}

#[test]
fn import() {
    let home = Home::new();
    let snapshot = ".cache/huggingface/hub/models--acme--tiny/snapshots/0123456789abcdef0123456789abcdef01234567";
    let mut transcript = home.transcript(&[&["import"], &["import", "--json"]]);
    fs::create_dir_all(home.path(snapshot)).unwrap();
    fs::create_dir(home.path(".cache/huggingface/hub/models--acme--tiny/refs")).unwrap();
    home.file(".cache/huggingface/hub/models--acme--tiny/refs/main", "0123456789abcdef0123456789abcdef01234567");
    home.file(&format!("{snapshot}/tiny.gguf"), Gguf::tiny().0);
    transcript += &home.transcript(&[
        &["import"],
        &["import", "--json"],
        &["import", "hf:acme/tiny"],
        &["import", "hf:acme/tiny", "--name", "own", "--json"],
    ]);
    assert_snapshot!(transcript);
}

#[test]
fn bench_of_a_model() {
    let home = Home::with_tiny();
    let workload = ["--prefill", "70", "--decode", "2", "--depths", "1,65", "--streams", "1,3", "--threads", "2"];
    // That the build is a slow one is said on standard error.
    let measured: Value =
        serde_json::from_str(&home.run(&[&["bench", "tiny", "--json"][..], &workload].concat()).stdout).unwrap();
    for (key, expected) in [
        ("model", json!("tiny")),
        ("numerics", json!("cpu-1/kv-f16")),
        ("threads", json!(2)),
        ("isa", json!(Isa::best().to_string())),
    ] {
        assert_eq!(measured[key], expected, "{key}");
    }
    assert_eq!(measured["weight_bytes"], measured["weight_bytes_per_token"]);
    for key in ["weight_bytes_per_token", "read_bytes_per_second"] {
        assert!(measured[key].as_f64().unwrap() > 0.0, "{key}: {measured}");
    }
    let figures = measured["figures"].as_array().unwrap();
    let workloads: Vec<&Value> = figures.iter().map(|figure| &figure["workload"]).collect();
    let expected = [
        json!({"prefill": 70}),
        json!({"decode": 2, "depth": 1}),
        json!({"decode": 2, "depth": 65}),
        json!({"decode": 2, "streams": 1}),
        json!({"decode": 2, "streams": 3}),
    ];
    assert_eq!(workloads, expected.iter().collect::<Vec<_>>());
    for figure in figures {
        let rate = |key: &str| figure[key].as_f64().unwrap();
        assert!(rate("tokens_per_second") > 0.0 && rate("limit_tokens_per_second") > 0.0, "{figure}");
        assert!(matches!(figure["bound_by"].as_str(), Some("reading" | "products")), "{figure}");
    }
    let table = home.run(&[&["bench", "tiny"][..], &workload].concat());
    for row in ["prompt of 70", "decoding after 65", "1 stream ", "3 streams together", "Decoding "] {
        assert!(table.stdout.contains(row), "{}{}", table.stdout, table.stderr);
    }
}

#[test]
fn bench_of_the_machine() {
    let output = Home::new().command(PROGRAM, &["bench", "--machine", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let measured: Value = serde_json::from_slice(&output.stdout).unwrap();
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(measured["cores"], cores);
    assert_eq!(measured["isa"], Isa::best().to_string());
    let isas: Vec<Value> =
        Isa::ALL.iter().map(|isa| json!({"name": isa.to_string(), "available": isa.is_available()})).collect();
    assert_eq!(measured["isas"], json!(isas));

    // What is told apart, without the figures, which are of this moment.
    let facts = |list: &str, figure: &str| {
        let facts = measured[list].as_array().unwrap().iter().map(|entry| {
            let mut entry = entry.as_object().unwrap().clone();
            assert!(entry.remove(figure).unwrap().as_f64().unwrap() > 0.0, "{measured}");
            Value::Object(entry)
        });
        facts.collect::<Vec<_>>()
    };
    let mut thread_counts = vec![1, cores];
    thread_counts.dedup();
    let mut reads = Vec::new();
    for &threads in &thread_counts {
        reads.push(json!({"from": "cache", "buffer_bytes": threads * (128 << 10), "threads": threads}));
        reads.push(json!({"from": "memory", "buffer_bytes": 512 << 20, "threads": threads}));
    }
    assert_eq!(facts("reads", "bytes_per_second"), reads);
    let mut products = Vec::new();
    for isa in Isa::ALL.iter().rev().filter(|isa| isa.is_available()) {
        for &threads in &thread_counts {
            let entry = |weights| json!({"isa": isa.to_string(), "weights": weights, "threads": threads});
            products.extend(["Q8_0", "F32"].map(entry));
        }
    }
    assert_eq!(facts("products", "products_per_second"), products);
}

#[test]
fn scrub_and_what_is_unused() {
    let home = Home::with_tiny();
    let own = home.file("own.gguf", Gguf::tiny().last_weight(2.0).0);
    home.run(&["pull", &format!("file:{own}"), "--name", "own"]).succeeded();
    // A new file: a blob may share its bytes with the file that it came from.
    let damage = |model: &str| {
        let shown = home.run(&["show", model, "--json"]).json();
        let digest = shown["files"][0]["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let blob = home.path("home/store/blobs/sha256").join(digest);
        fs::remove_file(&blob).unwrap();
        fs::write(&blob, "damaged").unwrap();
    };
    let mut transcript = home.transcript(&[&["scrub"], &["scrub", "tiny", "--json"], &["scrub", "other"]]);
    damage("tiny");
    transcript += &home.transcript(&[&["scrub", "own"], &["scrub", "--no-repair"], &["scrub"], &["scrub"]]);
    damage("own");
    fs::remove_file(own).unwrap();
    transcript += &home.transcript(&[
        &["scrub", "--no-repair", "--json"],
        &["scrub"],
        &["scrub", "own", "--json"],
        &["rm", "--unused"],
        &["rm", "own", "--unused", "--json"],
        &["scrub"],
    ]);
    assert_snapshot!(transcript);
}

#[test]
fn key_show() {
    let home = Home::new();
    let key = home.run(&["key", "show"]).succeeded();
    assert!(key.starts_with("fh-") && key.len() == "fh-".len() + 43 + 1, "{key}");
    assert_eq!(home.run(&["key", "show"]).succeeded(), key);
    assert_eq!(home.run(&["key", "show", "--json"]).json(), json!({"key": key.trim()}));
    let other = home.path("other");
    assert_ne!(home.run(&["key", "show", "--home", other.to_str().unwrap()]).succeeded(), key);
}

#[test]
fn help() {
    let home = Home::new();
    assert_snapshot!(home.run(&["--help"]).succeeded());
    let help = home.run(&["--help"]).succeeded();
    let listed = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = listed.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<&str> =
        names.filter_map(|line| line.split_whitespace().next()).filter(|&name| name != "help").collect();
    assert!(names.len() > 10, "{names:?}");
    for name in &names {
        let command: &[&str] = if *name == "key" { &["key", "show"] } else { &[name] };
        let help = home.run(&[command, &["--help"]].concat()).succeeded();
        assert!(help.contains("\nExample") && help.contains("freehold ") && help.contains("--json"), "{help}");
    }
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = home.run(&["completions", shell]).succeeded();
        assert!(names.iter().all(|name| script.contains(name)), "{shell}");
    }
    assert_eq!(home.run(&["--version"]).succeeded(), concat!("freehold ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let home = Home::with_tiny();
    let commands: [&[&str]; 10] = [
        &["list"],
        &["list", "--json"],
        &["show", "tiny"],
        &["show", "tiny", "--json"],
        &["key", "show"],
        &["completions", "bash"],
        &["tokenize", "tiny", "--file", TINY_TEXT],
        &["logits", "tiny", "--tokens", "1", "--all"],
        &["logits", "tiny", "--tokens", "1", "--all", "--json"],
        &["run", "tiny", "Who?"],
    ];
    home.file(TINY_TEXT, "text");
    for arguments in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = home.command(PROGRAM, arguments);
        let output =
            command.stdout(Stdio::from(writer)).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        let run = home.read(output);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

const TINY_TEXT: &str = "text.txt";

#[test]
fn json_is_one_line() {
    let home = Home::with_tiny();
    let commands: [&[&str]; 5] =
        [&["list"], &["show", "tiny"], &["key", "show"], &["run", "tiny", "a", "--max-tokens", "3"], &["import"]];
    for arguments in commands {
        let printed = home.run(&[arguments, &["--json"]].concat()).succeeded();
        assert_eq!(printed.lines().count(), 1, "{printed}");
        assert!(serde_json::from_str::<Value>(&printed).unwrap().is_object());
    }
}
