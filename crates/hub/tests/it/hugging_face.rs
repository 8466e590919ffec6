//! Repositories of Hugging Face's hub, from a server that speaks its protocol as the hub's own clients document it.

use crate::local::{CONFIG, MODEL_CARD, safetensors};
use crate::server::{Reply, Request, Server};
use crate::{Home, assert_says, content, gguf, quiet};
use freehold_base::Digest;
use freehold_hub::{HubError, Stage};
use freehold_store::Model;
use serde_json::{Value, json};
use sha1::Digest as _;
use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba98";
const TOKEN: &str = "hf_abcdefghijklmnopqrstuvwxyz01234567";

/// A file, and whether it lies in Large File Storage.
type File = (&'static str, Vec<u8>, bool);

fn entry((path, bytes, is_large): &File) -> Value {
    let git = sha1::Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize();
    let oid: String = git.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut entry = json!({"type": "file", "oid": oid, "size": bytes.len(), "path": path});
    if *is_large {
        entry["lfs"] = json!({"oid": Digest::of(bytes).hex(), "size": bytes.len(), "pointerSize": 130});
    }
    entry
}

fn tree(files: &[File]) -> Value {
    files.iter().map(entry).chain([json!({"type": "directory", "oid": COMMIT, "size": 0, "path": "folder"})]).collect()
}

/// An address as it was before what is not plain was escaped.
fn unescaped(path: &str) -> String {
    let mut parts = path.split('%');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend(part[2..].bytes());
    }
    String::from_utf8(bytes).unwrap()
}

/// The answers of a hub that has `org/repo` at `commit`.
fn answer(request: &Request, commit: &str, files: &[File]) -> Reply {
    let path = &unescaped(request.path.split('?').next().unwrap());
    if path.starts_with("/api/models/org/repo/revision/") {
        return Reply::whole(json!({"id": "org/repo", "sha": commit, "siblings": []}).to_string().as_bytes());
    }
    if *path == format!("/api/models/org/repo/tree/{commit}") {
        return Reply::whole(tree(files).to_string().as_bytes());
    }
    let wanted = path.strip_prefix(&format!("/org/repo/resolve/{commit}/"));
    match files.iter().find(|(path, ..)| wanted == Some(*path)) {
        Some((_, bytes, _)) => Reply::range(request, bytes).header(&format!("X-Repo-Commit: {commit}")),
        None => Reply::status(404).header("X-Error-Code: EntryNotFound"),
    }
}

fn home_for(server: &Server) -> Home {
    let home = Home::new();
    home.write("endpoint", server.url(""));
    home
}

/// A home for a hub with these files.
fn home_with(files: Vec<File>) -> (Home, Server) {
    let server = Server::new(move |request| answer(request, COMMIT, &files));
    (home_for(&server), server)
}

fn folder() -> Vec<File> {
    vec![
        ("README.md", MODEL_CARD.to_vec(), false),
        ("config.json", CONFIG.to_vec(), false),
        ("model.safetensors", safetensors("w", 400_000), true),
        ("tokenizer.json", b"{}".to_vec(), false),
        ("LICENSE", b"terms".to_vec(), false),
        ("pytorch_model.bin", b"pickle".to_vec(), true),
        ("modeling.py", b"code".to_vec(), false),
        ("onnx/model.onnx", b"onnx".to_vec(), true),
        ("original/consolidated.safetensors", b"again".to_vec(), true),
        ("1_Pooling/config.json", b"{}".to_vec(), false),
    ]
}

fn paths(model: &Model) -> Vec<&str> {
    model.files.iter().map(|file| file.path.as_str()).collect()
}

#[test]
fn a_repository_is_pulled_at_one_commit() {
    let files = folder();
    let storage_files = files.clone();
    // Large files lie on another server, as they do behind the hub; whoever knows the token there could use it here.
    let storage = Arc::new(Server::new(move |request| {
        let file = storage_files.iter().find(|(path, ..)| request.path == format!("/{path}?signed=1"));
        Reply::range(request, &file.unwrap().1)
    }));
    let redirect = Arc::clone(&storage);
    let server = Server::new(move |request| match request.path.split("/resolve/").nth(1) {
        Some(path) if path.ends_with(".safetensors") => {
            let path = path.split_once('/').unwrap().1;
            Reply::status(302).header(&format!("Location: {}", redirect.url(&format!("/{path}?signed=1"))))
        }
        _ => answer(request, COMMIT, &files),
    });
    let home = home_for(&server);
    home.write("token", format!("{TOKEN}\n"));
    let mut seen = Vec::new();
    let pulled = home.hub().pull("hf:org/repo", None, &mut |status| {
        if status.stage == Stage::Downloading {
            seen.push((status.bytes_done, status.bytes_total.unwrap()));
        }
        ControlFlow::Continue(())
    });
    let model = pulled.unwrap().model;
    assert_eq!(
        paths(&model),
        ["1_Pooling/config.json", "LICENSE", "README.md", "config.json", "model.safetensors", "tokenizer.json"]
    );
    assert_eq!(model.name.as_deref(), Some("org/repo"));
    assert_eq!(model.source.unwrap(), format!("hf:org/repo@{COMMIT}"));
    assert_eq!(model.facts.revision.as_deref(), Some(COMMIT));
    assert_eq!(model.facts.licenses, ["apache-2.0"]);
    assert_eq!(model.facts.title.as_deref(), Some("repo"));
    assert_eq!(model.facts.upstream_url.as_deref(), Some("https://huggingface.co/org/repo"));
    let total = model.files.iter().map(|file| file.size_bytes).sum::<u64>();
    assert_eq!(*seen.last().unwrap(), (total, total));
    assert!(seen.is_sorted());
    // The token went to the hub, every time, and nowhere else.
    assert!(server.take_requests().iter().all(|request| request.authorization == Some(format!("Bearer {TOKEN}"))));
    let stored = storage.take_requests();
    assert!(stored.len() == 1 && stored[0].authorization.is_none(), "{stored:?}");

    // Again: the revision and the list are asked for, the files are not.
    assert!(home.pull("hf:org/repo").unwrap().was_present);
    assert_eq!(server.take_requests().len(), 2);
    // Who only uses the model asks nobody.
    for reference in ["hf:org/repo".to_owned(), format!("hf:org/repo@{COMMIT}")] {
        assert_eq!(home.hub().obtain(&reference, &mut quiet).unwrap().digest, model.digest);
    }
    assert!(server.take_requests().is_empty() && storage.take_requests().is_empty());
}

#[test]
fn shards_are_those_of_the_index_and_pages_are_followed() {
    let index = json!({"metadata": {"total_size": 16}, "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}});
    let files: Vec<File> = vec![
        ("config.json", CONFIG.to_vec(), false),
        ("model.safetensors.index.json", index.to_string().into_bytes(), false),
        ("m-1.safetensors", safetensors("a", 8), true),
        ("m-2.safetensors", safetensors("b", 8), true),
        ("consolidated.safetensors", safetensors("a", 8), true),
    ];
    let server = Server::new(move |request| {
        let Some((path, query)) = request.path.split_once('?') else { return answer(request, COMMIT, &files) };
        let page: usize = query.rsplit_once("cursor=").map_or(0, |(_, page)| page.parse().unwrap());
        let reply = Reply::whole(tree(&files[page..=page]).to_string().as_bytes());
        match page + 1 < files.len() {
            true => reply.header(&format!("Link: <{path}?recursive=true&cursor={}>; rel=\"next\"", page + 1)),
            false => reply,
        }
    });
    let model = home_for(&server).pull("hf:org/repo@main").unwrap().model;
    assert_eq!(paths(&model), ["config.json", "m-1.safetensors", "m-2.safetensors", "model.safetensors.index.json"]);
}

#[test]
fn the_file_that_is_meant_is_picked() {
    let text = || b"{}".to_vec();
    let large = |path: &'static str| (path, gguf(path, 100), true);
    let only = vec![large("a.gguf"), ("config.json", text(), false), large("mmproj-a.gguf")];
    let one_usual = vec![large("x/m-Q4_K_M.gguf"), large("m-Q8_0.gguf"), ("LICENSE", b"terms".to_vec(), false)];
    let two_usual = vec![large("a-Q4_K_M.gguf"), large("b-q4_k_m.gguf")];
    let parts = vec![large("m-Q4_K_M-00001-of-00002.gguf"), large("m-Q4_K_M-00002-of-00002.gguf"), large("m-q8.gguf")];
    for (files, wanted, expected) in [
        (&only, "", Ok("a.gguf")),
        (&only, "/a.gguf", Ok("a.gguf")),
        (&only, "/mmproj-a.gguf", Ok("mmproj-a.gguf")),
        (&only, "/b.gguf", Err("it has no file `b.gguf`; there are /a.gguf")),
        (&only, "/config.json", Err("`config.json` is no GGUF file")),
        (&one_usual, "", Ok("x/m-Q4_K_M.gguf")),
        (&one_usual, "/m-Q8_0.gguf", Ok("m-Q8_0.gguf")),
        (&two_usual, "", Err("several models; add one to the reference: /a-Q4_K_M.gguf, /b-q4_k_m.gguf")),
        (&parts, "", Ok("m-q8.gguf")),
        (&parts, "/m-Q4_K_M-00001-of-00002.gguf", Err("one part of a model in several files")),
        (&vec![("config.json", text(), false)], "", Err("neither safetensors")),
        (&vec![("config.json", text(), false)], "/a.gguf", Err("it has no file `a.gguf`, nor any other in GGUF")),
    ] {
        let (home, _server) = home_with(files.clone());
        let result = home.pull(&format!("hf:org/repo{wanted}"));
        match expected {
            Ok(expected) => {
                let model = result.unwrap().model;
                let weights = model.files.iter().filter(|file| file.path.ends_with(".gguf"));
                assert_eq!(weights.map(|file| &file.path).collect::<Vec<_>>(), [expected]);
                assert_eq!(model.source.unwrap(), format!("hf:org/repo@{COMMIT}/{expected}"));
            }
            Err(part) => assert_says(result, &["`hf:org/repo", part]),
        }
    }
}

#[test]
fn a_break_is_mended_and_a_lie_is_found_out() {
    let files = vec![("m.gguf", gguf("Tiny", 500_000), true), ("README.md", MODEL_CARD.to_vec(), false)];
    let bytes = files[0].1.clone();
    let turn = AtomicUsize::new(0);
    let served = files.clone();
    let server = Server::new(move |request| match request.path.ends_with("m.gguf") {
        true if turn.fetch_add(1, Ordering::SeqCst) < 5 => answer(request, COMMIT, &served).cut(200_000),
        _ => answer(request, COMMIT, &served),
    });
    let home = home_for(&server);
    let model = home.pull("hf:org/repo").unwrap().model;
    assert_eq!(model.files.iter().find(|file| file.path == "m.gguf").unwrap().digest, Digest::of(&bytes));
    let ranges: Vec<_> = server.take_requests().iter().filter_map(|request| request.range).collect();
    assert_eq!(ranges, [200_000, 400_000]);

    // (which file's bytes are others than the list says, whether their number is right, what is said)
    for (path, length, part) in [
        ("m.gguf", 500_000, "wrong content"),
        ("m.gguf", 400_000, "wrong size"),
        ("README.md", 0, "`README.md` has the wrong size"),
        ("README.md", 60_000, "`README.md` has the wrong size"),
        ("README.md", MODEL_CARD.len(), "`README.md` has the wrong content"),
    ] {
        let served = files.clone();
        let other = if path == "m.gguf" { gguf("Evil", length) } else { vec![b'x'; length] };
        let server = Server::new(move |request| match request.path.ends_with(path) {
            true => Reply::range(request, &other),
            false => answer(request, COMMIT, &served),
        });
        let home = home_for(&server);
        assert_says(home.pull("hf:org/repo"), &[path, part]);
        assert!(home.hub().store().list().unwrap().is_empty());
    }
}

#[test]
fn refusals_say_what_to_do() {
    let closed = Home::new();
    assert_says(closed.pull("hf:org/repo"), &["could not reach 127.0.0.1:1:", "check the network"]);
    for (endpoint, part) in [
        ("ftp://127.0.0.1", "must begin with https://"),
        ("http://hub.example", "must begin with https://"),
        ("file:///etc", "must begin with https://"),
        ("here", "it is no address"),
    ] {
        closed.write("endpoint", endpoint);
        assert_says(closed.pull("hf:org/repo"), &["HF_ENDPOINT", part]);
    }
    for (when, status, code, with_token, parts) in [
        ("revision", 401, "RepoNotFound", false, &["has no such repository, or it is private", "set HF_TOKEN"][..]),
        ("revision", 404, "RepoNotFound", true, &["no such repository, or your token may not read it"]),
        ("revision", 401, "", false, &["no such repository, or it is private"]),
        ("revision", 404, "RevisionNotFound", false, &["it has no revision `v9`"]),
        ("resolve", 401, "GatedRepo", false, &["accept its terms", "/org/repo", "set HF_TOKEN"]),
        ("resolve", 403, "GatedRepo", true, &["accept its terms", "/org/repo with the account of your token"]),
        ("resolve", 404, "EntryNotFound", false, &["a file that its list names is not there"]),
        ("revision", 403, "", true, &["refuses the token in HF_TOKEN"]),
        ("tree", 429, "", false, &["answered 429", "later"]),
        ("tree", 500, "", false, &["answered 500", "later"]),
    ] {
        let server = Server::new(move |request| match request.path.contains(&format!("/{when}/")) {
            true => Reply::status(status).header(&format!("X-Error-Code: {code}")),
            false => answer(request, COMMIT, &folder()),
        });
        let home = home_for(&server);
        if with_token {
            home.write("token", TOKEN);
        }
        assert_says(home.pull("hf:org/repo@v9"), parts);
        assert!(home.hub().store().list().unwrap().is_empty());
    }
    // What the endpoint's address may hold besides is shown nowhere.
    let server = Server::new(|_| Reply::status(403).header("X-Error-Code: GatedRepo"));
    let home = Home::new();
    home.write("endpoint", format!("http://user:secret@{}/hub", server.host()));
    let page = format!("do so at http://{}/hub/org/repo,", server.host());
    let message = home.pull("hf:org/repo").unwrap_err().to_string();
    assert!(message.contains(&page) && !message.contains("secret"), "{message}");
    let (home, _server) = home_with(folder());
    home.write("token", "hf_\u{e9}\u{7}x");
    assert_says(home.pull("hf:org/repo"), &["HF_TOKEN is not usable", "characters"]);
}

#[test]
fn hostile_servers_are_refused() {
    let elsewhere = Arc::new(Server::new(|request| answer(request, COMMIT, &folder())));
    let twice = json!([entry(&folder()[0]), entry(&folder()[0])]).to_string();
    let sharded = |shard| -> Vec<File> {
        let index = json!({ "weight_map": { "a": shard } }).to_string().into_bytes();
        vec![("config.json", CONFIG.to_vec(), false), ("model.safetensors.index.json", index, false)]
    };
    let huge =
        json!([{"type": "file", "oid": COMMIT, "size": 1u64 << 60, "path": "model.safetensors"}, entry(&folder()[1])]);
    let away = elsewhere.url("/more");
    type Script = Box<dyn Fn(&Request) -> Option<Reply> + Send + Sync>;
    let on = |part: &'static str, reply: fn() -> Reply| -> Script {
        Box::new(move |request| request.path.contains(part).then(reply))
    };
    let cases: Vec<(Script, &[&str])> = vec![
        (
            Box::new(move |request| request.path.contains("/tree/").then(|| Reply::whole(twice.as_bytes()))),
            &["listed twice"],
        ),
        (
            Box::new(move |request| {
                let link = format!("Link: <{away}>; rel=\"next\"");
                request.path.contains("/tree/").then(|| Reply::whole(b"[]").header(&link))
            }),
            &["its next page lies on another server"],
        ),
        (on("/tree/", || Reply::whole(b"[]").header("Link: <?again>; rel=\"next\"")), &["more than 1000 pages"]),
        (on("/tree/", || Reply::whole(&vec![b' '; 9 << 20])), &["longer than"]),
        (on("/tree/", || Reply::whole(b"[]")), &["neither safetensors"]),
        (
            Box::new(move |request| request.path.contains("/tree/").then(|| Reply::whole(huge.to_string().as_bytes()))),
            &["without a SHA-256"],
        ),
        (
            on("/resolve/", || Reply::status(302).header("Location: file:///etc/passwd")),
            &["answered 302", "not followed"],
        ),
        (on("/revision/", || Reply::whole(br#"{"sha":"main"}"#)), &["no commit"]),
        (
            Box::new(move |request| Some(answer(request, COMMIT, &sharded("x.safetensors")))),
            &["which is not among its files"],
        ),
        (Box::new(move |request| Some(answer(request, COMMIT, &sharded("../x.safetensors")))), &["no name of a file"]),
    ];
    for (script, parts) in cases {
        let server = Server::new(move |request| script(request).unwrap_or_else(|| answer(request, COMMIT, &folder())));
        let home = home_for(&server);
        assert_says(home.pull("hf:org/repo"), parts);
        assert!(home.hub().store().list().unwrap().is_empty());
    }
    assert!(elsewhere.take_requests().is_empty());
}

#[test]
fn a_later_commit_is_an_update_and_another_repository_is_not() {
    let home = Home::new();
    for (commit, title) in [(COMMIT, "One"), (OTHER, "Two")] {
        let files: Vec<File> = vec![("m.gguf", gguf(title, 100), true)];
        let server = Server::new(move |request| answer(request, commit, &files));
        home.write("endpoint", server.url(""));
        let pulled = home.pull("hf:org/repo").unwrap();
        assert!(!pulled.was_present);
        assert_eq!(pulled.model.facts.title.as_deref(), Some(title));
        assert_says(home.hub().pull("hf:org/repo/n.gguf", Some("org/repo"), &mut quiet), &["no file `n.gguf`"]);
    }
    // A commit in full needs no answer about revisions.
    let files: Vec<File> = vec![("m.gguf", gguf("One", 100), true)];
    let server = Server::new(move |request| answer(request, COMMIT, &files));
    home.write("endpoint", server.url(""));
    home.pull(&format!("hf:org/repo@{COMMIT}")).unwrap();
    assert!(!server.take_requests().iter().any(|request| request.path.contains("/revision/")));
    let path = home.write("other/org.gguf", gguf("Local", 100));
    home.hub().pull(&format!("file:{}", path.display()), Some("mine"), &mut quiet).unwrap();
    assert_says(home.hub().pull("hf:org/repo", Some("mine"), &mut quiet), &["another model is already called `mine`"]);
}

#[test]
fn a_catalogue_names_repositories_and_files_of_them() {
    let bytes = gguf("Tiny", 1000);
    let (home, server) = home_with(vec![("m.gguf", bytes.clone(), true)]);
    home.catalogue(&format!(
        "path = \"t.gguf\"\nsize_bytes = {}\nsha256 = \"{}\"\nsources = [\"hf:org/repo/m.gguf\"]",
        bytes.len(),
        Digest::of(&bytes).hex()
    ));
    home.pull("test:1").unwrap();
    assert_eq!(content(&home.hub(), "test:1"), bytes);
    assert!(!server.take_requests().iter().any(|request| request.path.contains("/tree/")));
    assert!(fs::exists(home.hub().store().blob_path(&Digest::of(&bytes))).unwrap());
}

#[test]
fn what_is_lost_of_a_repository_is_brought_back() {
    let (home, _server) = home_with(folder());
    let digest = home.pull("hf:org/repo").unwrap().model.digest;
    // What another tool has of it is less.
    let cached = format!("hugging-face/models--org--repo/snapshots/{COMMIT}");
    home.write(&format!("{cached}/config.json"), CONFIG);
    home.write(&format!("{cached}/model.safetensors"), safetensors("w", 400_000));
    for path in ["model.safetensors", "tokenizer.json", "manifest"] {
        let hub = home.hub();
        let model = hub.store().resolve("org/repo").unwrap();
        let lost = model.files.iter().find(|file| file.path == path).map_or(model.digest, |file| file.digest);
        fs::write(hub.store().blob_path(&lost), "damaged").unwrap();
        let faults = hub.store().scrub(None, &mut |_, _| ControlFlow::Continue(())).unwrap().faults;
        for repair in hub.repair(&faults, &mut quiet).unwrap() {
            repair.result.unwrap();
        }
        assert!(hub.store().scrub(None, &mut |_, _| ControlFlow::Continue(())).unwrap().faults.is_empty(), "{path}");
        assert_eq!(hub.store().resolve("org/repo").unwrap().digest, digest);
    }
}

#[test]
fn names_are_as_free_as_the_hub_has_them() {
    const NAME: &str = "sub folder/My model (1)+é#%2f@x.gguf";
    let files = vec![(NAME, gguf("Tiny", 100), true), (".a:b\\c", b"no file of a model".to_vec(), false)];
    let (home, server) = home_with(files);
    let pulled = home.hub().pull(&format!("hf:org/repo@refs/pr/1/{NAME}"), None, &mut quiet).unwrap();
    assert_eq!(pulled.model.name.as_deref(), Some("org/repo/sub-folder/My-model--1-+---2f-x"));
    assert_eq!(pulled.model.source.unwrap(), format!("hf:org/repo@{COMMIT}/{NAME}"));
    assert!(server.take_requests()[0].path.ends_with("/revision/refs%2Fpr%2F1"));
    // What was kept of its source is enough to bring it back.
    let hub = home.hub();
    fs::write(hub.store().blob_path(&Digest::of(&gguf("Tiny", 100))), "damaged").unwrap();
    let faults = hub.store().scrub(None, &mut |_, _| ControlFlow::Continue(())).unwrap().faults;
    for repair in hub.repair(&faults, &mut quiet).unwrap() {
        repair.result.unwrap();
    }
}

#[test]
fn offline_what_is_stored_has_to_do() {
    let (home, server) = home_with(folder());
    let digest = home.pull("hf:org/repo").unwrap().model.digest;
    server.take_requests();
    home.write("offline", "");
    for reference in ["hf:org/repo".to_owned(), format!("hf:org/repo@{COMMIT}")] {
        let pulled = home.pull(&reference).unwrap();
        assert!(pulled.was_present && pulled.model.digest == digest, "{reference}");
        assert_eq!(home.hub().obtain(&reference, &mut quiet).unwrap().digest, digest);
    }
    let hub = home.hub();
    for reference in ["hf:org/other".to_owned(), format!("hf:org/repo@{OTHER}")] {
        let says = format!("`{reference}` is not whole in the store, and HF_HUB_OFFLINE forbids");
        assert_says(hub.pull(&reference, None, &mut quiet), &[&says, &format!("`freehold import {reference}`")]);
    }
    fs::write(hub.store().blob_path(&Digest::of(CONFIG)), "damaged").unwrap();
    assert_says(home.pull("hf:org/repo"), &["HF_HUB_OFFLINE"]);
    let faults = hub.store().scrub(None, &mut |_, _| ControlFlow::Continue(())).unwrap().faults;
    let repairs = hub.repair(&faults, &mut quiet).unwrap();
    assert!(matches!(repairs[0].result, Err(HubError::Offline { .. })), "{repairs:?}");
    assert!(server.take_requests().is_empty());
}

/// Small documents come whole within a time, or not at all.
#[test]
fn a_hub_that_is_silent_or_drips_is_given_up() {
    for (when, drips, parts) in [
        ("/revision/", true, &["/revision/main comes too slowly"][..]),
        ("/tree/", true, &["comes too slowly"]),
        ("/revision/", false, &["broke off again and again", "timed out"]),
    ] {
        let server = Server::new(move |request| {
            let reply = answer(request, COMMIT, &folder());
            match request.path.contains(when) {
                true if drips => reply.dripping_after(1),
                true => reply.silent_after(1),
                false => reply,
            }
        });
        let home = home_for(&server);
        home.write("patience", "200");
        assert_says(home.pull("hf:org/repo"), parts);
        assert!(server.take_requests().len() <= 5, "{when}");
    }
}

/// A catalogue may call a file otherwise than its repository does, and be gone when the file is.
#[test]
fn what_came_by_a_catalogue_is_brought_back_without_it() {
    let bytes = gguf("Tiny", 1000);
    let (home, _server) = home_with(vec![("m n.gguf", bytes.clone(), true), ("README.md", MODEL_CARD.to_vec(), true)]);
    let file = |path: &str, from: &str, bytes: &[u8]| {
        let (size, digest) = (bytes.len(), Digest::of(bytes).hex());
        format!("path = \"{path}\"\nsize_bytes = {size}\nsha256 = \"{digest}\"\nsources = [\"hf:org/repo/{from}\"]\n")
    };
    let (weights, card) = (file("t.gguf", "m n.gguf", &bytes), file("CARD.md", "README.md", MODEL_CARD));
    for lines in [weights.clone(), format!("{weights}[[model.file]]\n{card}")] {
        home.catalogue(&lines);
        home.pull("test:1").unwrap();
        fs::remove_file(home.path("catalogue.toml")).unwrap();
        let hub = home.hub();
        fs::write(hub.store().blob_path(&Digest::of(&bytes)), "damaged").unwrap();
        let faults = hub.store().scrub(None, &mut |_, _| ControlFlow::Continue(())).unwrap().faults;
        for repair in hub.repair(&faults, &mut quiet).unwrap() {
            repair.result.unwrap();
        }
        assert!(hub.store().scrub(None, &mut |_, _| ControlFlow::Continue(())).unwrap().faults.is_empty());
    }
}
