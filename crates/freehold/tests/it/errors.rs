//! What users are told when something is wrong: one sentence with what to do next, and the exit code.

use crate::program::{Gguf, Home, PROGRAM, TINY};
use insta::assert_snapshot;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

#[test]
fn called_wrongly() {
    let home = Home::with_tiny();
    let mut transcript = home.transcript(&[
        &["frobnicate"],
        &["run"],
        &["key", "shw"],
        &["rm"],
        &["completions", "cmd"],
        &["run", "tiny", "Who?", "--temperature", "-1"],
        &["run", "tiny", "Who?", "--temperature", "nan"],
        &["run", "tiny", "Who?", "--top-p", "2"],
        &["run", "tiny", "Who?", "--repetition-penalty", "0"],
        &["run", "tiny", "Who?", "--max-tokens", "0"],
        &["run", "tiny", "Who?", "--threads", "0"],
        &["run", "tiny", "Who?", "--kv", "f8"],
        &["run", "tiny", "Who?", "--stop", ""],
        &["run", "tiny", "Who?", "--stop", "1", "--stop", "2", "--stop", "3", "--stop", "4", "--stop", "5"],
        &["run", "tiny", "Who?", "--context", "0"],
        &["run", "tiny", "Who?", "--context", "513"],
        &["run", "tiny"],
        &["logits", "tiny", "--tokens", "one"],
        &["bench"],
        &["bench", "tiny", "--machine"],
        &["bench", "tiny", "--depths", "4096"],
        &["up", "tiny", "--address", "localhost"],
    ]);
    for line in transcript.split("exit code ").skip(1) {
        assert!(line.starts_with('2'), "{transcript}");
    }
    // Which instruction sets there are is another matter.
    let isa = home.run(&["run", "tiny", "Who?", "--isa", "sse"]).failed(2);
    assert!(isa.contains("`sse` is no instruction set: use one of reference"), "{isa}");
    let nothing = home.run(&[]);
    assert!(nothing.code == Some(2) && nothing.stderr.contains("Usage: freehold"), "{}", nothing.stderr);
    transcript.truncate(transcript.trim_end().len());
    assert_snapshot!(transcript);
}

#[test]
fn no_such_model() {
    let home = Home::with_tiny();
    assert_snapshot!(home.transcript(&[
        &["run", "nosuch", "Who?"],
        &["run", "smollm2", "Who?"],
        &["run", "Bad Name", "Who?"],
        &["run", "hf:acme/tiny", "Who?"],
        &["run", "file:nosuch.gguf", "Who?"],
        &["run", "file:", "Who?"],
        &["run", "https://example.org/model.gguf", "Who?"],
        &["run", "http://example.org/model.gguf", "Who?"],
        &["run", "pypi:acme#model.gguf", "Who?"],
        &["run", "sha256:0123456", "Who?"],
        &["run", "tiny@sha256:0123", "Who?"],
        &["rm", "nosuch"],
        &["import", "tiny"],
        &["import", "hf:acme/tiny"],
        &["pull", &format!("file:{TINY}"), "--name", "../tiny"],
    ]));
}

#[test]
fn models_that_cannot_be_used() {
    let home = Home::new();
    let changed = |change: fn(Gguf) -> Gguf| change(Gguf::tiny()).0;
    let cases: [(&str, Vec<u8>); 10] = [
        ("text", b"It is no model.".into()),
        ("empty", Vec::new()),
        ("cut", Gguf::tiny().0[..300_000].into()),
        ("architecture", changed(|gguf| gguf.rename("llama", "lemur"))),
        ("unknown-type", changed(|gguf| gguf.tensor_type("blk.0.attn_q.weight", 99))),
        // I32, as long as F32.
        ("unsupported-type", changed(|gguf| gguf.tensor_type("output_norm.weight", 26))),
        ("missing-tensor", changed(|gguf| gguf.rename("blk.1.ffn_up.weight", "blk.1.ffn_xx.weight"))),
        ("wrong-shape", changed(|gguf| gguf.number("llama.feed_forward_length", 128))),
        ("heads", changed(|gguf| gguf.number("llama.attention.head_count", 0))),
        ("nan", changed(|gguf| gguf.last_weight(f32::NAN))),
    ];
    let mut transcript = String::new();
    for (name, bytes) in cases {
        let path = home.file(&format!("{name}.gguf"), bytes);
        transcript += &home.transcript(&[&["run", &format!("file:{path}"), "Who?"]]);
    }
    fs::create_dir(home.path("folder")).unwrap();
    home.file("folder/pytorch_model.bin", "");
    transcript += &home.transcript(&[&["run", "file:folder", "Who?"]]);
    assert_snapshot!(transcript);
}

#[test]
fn draft_models_that_cannot_be_used() {
    let home = Home::with_tiny();
    let foreign = home.file("foreign.gguf", Gguf::tiny().rename("<|im_start|>", "<|we_begin|>").0);
    let larger = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/gguf/gemma3.gguf");
    for (name, path) in [("foreign", foreign.as_str()), ("larger", larger)] {
        home.run(&["pull", &format!("file:{path}"), "--name", name]).succeeded();
    }
    let transcript = home.transcript(&[
        &["run", "tiny", "Who?", "--draft-model", "nosuch"],
        &["run", "tiny", "Who?", "--draft-model", "foreign"],
        &["run", "tiny", "Who?", "--draft-model", "larger"],
        &["run", "tiny", "Who?", "--draft-model", "tiny", "--draft-max", "0"],
    ]);
    assert_snapshot!(transcript);
}

#[test]
fn texts_that_cannot_be_used() {
    let home = Home::with_tiny();
    let long = "word ".repeat(2000);
    home.file("short.txt", "a short text");
    home.file("latin1.txt", b"caf\xe9");
    home.file("object.json", "{}");
    home.file("role.json", r#"[{"content": "Who?"}]"#);
    assert_snapshot!(
        home.transcript(&[
            &["run", "tiny", &long],
            &["tokenize", "tiny", "--file", "nosuch.txt"],
            &["tokenize", "tiny", "--file", "latin1.txt"],
            &["tokenize", "tiny", "--messages", "short.txt"],
            &["tokenize", "tiny", "--messages", "object.json"],
            &["tokenize", "tiny", "--messages", "role.json"],
            &["perplexity", "tiny", "--file", "short.txt", "--context", "64"],
            &["perplexity", "tiny", "--file", "short.txt", "--context", "513"],
            &["perplexity", "tiny", "--file", "nosuch.txt"],
            &["logits", "tiny", "--tokens", "1,359"],
            &["logits", "tiny", "--tokens", &vec!["1"; 513].join(",")],
        ])
        .replace(&long, "LONG ")
        .replace(&vec!["1"; 513].join(","), "LONG")
    );
    let input = home.run_with_input(&["run", "tiny"], b"caf\xe9").failed(1);
    assert_eq!(input, "error: standard input cannot be read as UTF-8 text: stream did not contain valid UTF-8\n");
}

#[test]
fn homes_that_cannot_be_used() {
    let home = Home::with_tiny();
    let file = home.file("file", "");
    let below = format!("{file}/home");
    let mut transcript = home.transcript(&[&["list", "--home", &file], &["list", "--home", &below]]);

    let mut command = home.command(PROGRAM, &["list"]);
    let output = command.env_remove("FREEHOLD_HOME").env_remove("HOME").output().unwrap();
    transcript += &format!("$ freehold list, without HOME\n{}\n", home.read(output).failed(1));

    home.file("home/catalogue.toml", "# mine\n[broken");
    transcript += &home.transcript(&[&["list"]]);
    fs::remove_file(home.path("home/catalogue.toml")).unwrap();

    let key = PathBuf::from(home.file("home/admin.key", "a secret"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    transcript += &home.transcript(&[&["key", "show"]]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    transcript += &home.transcript(&[&["key", "show"]]);

    let shown = home.run(&["show", "tiny", "--json"]).json();
    let digest = shown["files"][0]["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
    let blob = home.path("home/store/blobs/sha256").join(digest);
    fs::remove_file(&blob).unwrap();
    transcript += &home.transcript(&[&["run", "tiny", "Who?"]]);
    fs::write(&blob, Gguf::tiny().last_weight(2.0).0).unwrap();
    transcript += &home.transcript(&[&["run", "tiny", "Who?"]]);
    home.file("home/store/index.json", "{");
    transcript += &home.transcript(&[&["run", "tiny", "Who?"]]);
    assert_snapshot!(transcript);
}

#[test]
fn a_name_that_is_taken() {
    let home = Home::with_tiny();
    let other = home.file("other.gguf", Gguf::tiny().last_weight(2.0).0);
    assert_snapshot!(home.transcript(&[&["pull", &format!("file:{other}"), "--name", "tiny"]]));
}

#[test]
fn no_pip_and_no_network() {
    let home = Home::new();
    // Nobody listens on a port that was free a moment ago.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unreachable = format!("https://{closed}/model.gguf#sha256={}", "0".repeat(64));
    let transcript = home.transcript(&[&["pull", "smollm2:135m"], &["pull", &unreachable]]);
    assert_snapshot!(transcript.replace(&closed.to_string(), "CLOSED"));
}

/// Serves the tiny model to whoever asks, on loopback; the address of its file.
fn serve_tiny() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // The request is short; a client that breaks off is the test's own.
            let _ = stream.read(&mut [0; 4096]);
            let body = Gguf::tiny().0;
            let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    format!("http://{address}/tiny.gguf")
}

#[test]
fn bytes_that_are_not_those_asked_for() {
    let home = Home::new();
    let url = serve_tiny();
    let wrong = format!("{url}#sha256={}", "0".repeat(64));
    assert_snapshot!(home.transcript(&[&["pull", &wrong]]).replace(&url, "URL"));
    assert!(!home.run(&["list"]).succeeded().contains("tiny"));
}

#[test]
fn a_disk_that_is_full() {
    let home = Home::new();
    let sound = format!("{}#sha256=00bf8e3d37a4053e4b650866d38b85b672c887c41e57a92119a0f9a7ba00cfe6", serve_tiny());
    // A limit on the size of files, in units of 512 bytes, stands for the disk's.
    let script = "trap '' XFSZ; ulimit -f 200; exec \"$0\" pull \"$1\"";
    let mut command = home.command("/bin/sh", &["-c", script, PROGRAM, &sound]);
    let error = home.read(command.output().unwrap()).failed(1);
    let (before, rest) = error.split_once("is full: ").unwrap();
    let (_, after) = rest.split_once(" are free; ").unwrap();
    assert_snapshot!(format!("{before}is full: SIZE are free; {after}"));
    home.run(&["pull", &sound]).succeeded();
}

#[test]
fn a_port_that_is_taken() {
    let home = Home::with_tiny();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    // 192.0.2.1 is for documentation (RFC 5737): no machine has it.
    let transcript =
        home.transcript(&[&["up", "tiny", "--address", &address], &["up", "tiny", "--address", "192.0.2.1:4114"]]);
    assert_snapshot!(transcript.replace(&address, "TAKEN"));
    assert_snapshot!(home.transcript(&[&["up", "tiny", "--address", "127.0.0.1:0", "--allow-origin", "chat"]]));
}
