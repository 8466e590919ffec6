//! Downloads by address: whole, continued, lied to.

use crate::server::{Reply, Server};
use crate::{Home, assert_says, content, gguf, hub, quiet};
use freehold_base::Digest;
use freehold_hub::{HubError, Stage};
use freehold_store::StoreError;
use std::env;
use std::fs;
use std::ops::ControlFlow;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;

const SIZE: usize = 700_000;

fn reference(server: &Server, bytes: &[u8]) -> String {
    format!("{}#sha256={}", server.url("/models/Tiny.gguf"), Digest::of(bytes).hex())
}

#[test]
fn a_file_is_fetched_verified_and_named_after_itself() {
    let bytes = gguf("Tiny", SIZE);
    let body = bytes.clone();
    let server = Server::new(move |request| Reply::range(request, &body));
    let home = Home::new();
    let mut seen = Vec::new();
    let pulled = home
        .hub()
        .pull(&reference(&server, &bytes), None, &mut |status| {
            seen.push((status.stage, status.bytes_done, status.bytes_total));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(pulled.model.name.as_deref(), Some("tiny"));
    assert_eq!(pulled.model.facts.title.as_deref(), Some("Tiny"));
    assert_eq!(pulled.model.facts.licenses, ["MIT"]);
    assert_eq!(content(&home.hub(), "tiny"), bytes);
    assert_eq!(*seen.last().unwrap(), (Stage::Downloading, bytes.len() as u64, Some(bytes.len() as u64)));
    assert!(seen.is_sorted_by_key(|(_, done, _)| *done));
    // Again: nothing to do, and nobody is asked.
    server.take_requests();
    assert!(home.pull(&reference(&server, &bytes)).unwrap().was_present);
    assert!(server.take_requests().is_empty());
}

#[test]
fn a_broken_connection_is_continued_within_one_pull() {
    let bytes = gguf("Tiny", SIZE);
    let body = bytes.clone();
    let turn = AtomicUsize::new(0);
    let server = Server::new(move |request| match turn.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::range(request, &body).header("ETag: \"one\"").cut(300_000),
        1 => Reply::status(503),
        2 => Reply::range(request, &body).cut(0),
        3 => Reply::range(request, &body).cut(100_000),
        _ => Reply::range(request, &body),
    });
    let home = Home::new();
    home.pull(&reference(&server, &bytes)).unwrap();
    assert_eq!(content(&home.hub(), "tiny"), bytes);
    let ranges: Vec<_> = server.take_requests().iter().map(|request| request.range).collect();
    assert_eq!(ranges, [None, Some(300_000), Some(300_000), Some(300_000), Some(400_000)]);
}

/// What the second pull does after the first one broke off for good: (how the server then answers, ranges asked for).
#[test]
fn a_later_pull_goes_on_from_what_is_there() {
    let bytes = gguf("Tiny", SIZE);
    for (case, expected_ranges) in [
        ("well-behaved", vec![Some(300_000)]),
        ("ignores ranges", vec![Some(300_000)]),
        ("sends another range", vec![Some(300_000), None]),
        ("has less now", vec![Some(300_000), None]),
    ] {
        let body = bytes.clone();
        let turn = AtomicUsize::new(0);
        let server = Server::new(move |request| match (turn.fetch_add(1, Ordering::SeqCst), case) {
            (0, _) => Reply::range(request, &body).cut(300_000),
            (1..=4, _) => Reply::range(request, &body).cut(0),
            (_, "ignores ranges") => Reply::whole(&body),
            (5, "sends another range") => Reply::whole(&body[5..])
                .header(&format!("Content-Range: bytes 5-{}/{}", body.len() - 1, body.len()))
                .called_partial(),
            (5, "has less now") => Reply::status(416).header("Content-Range: bytes */10"),
            _ => Reply::range(request, &body),
        });
        let home = Home::new();
        assert_says(home.pull(&reference(&server, &bytes)), &["broke off again and again", "once more"]);
        assert_eq!(server.take_requests().len(), 5, "{case}");
        home.pull(&reference(&server, &bytes)).unwrap();
        assert_eq!(content(&home.hub(), "tiny"), bytes, "{case}");
        let ranges: Vec<_> = server.take_requests().iter().map(|request| request.range).collect();
        assert_eq!(ranges, expected_ranges, "{case}");
    }
}

/// In a process of its own, for its environment.
#[test]
fn no_proxy_stands_before_this_machine_itself() {
    const REFERENCE: &str = "FREEHOLD_TEST_PAST_PROXY";
    if let Ok(reference) = env::var(REFERENCE) {
        Home::new().pull(&reference).unwrap();
        return;
    }
    let bytes = gguf("Tiny", 1000);
    let body = bytes.clone();
    let server = Server::new(move |request| Reply::range(request, &body));
    let proxy = Server::new(|_| Reply::status(404));
    let pull = Command::new(env::current_exe().unwrap())
        .args(["--exact", "https::no_proxy_stands_before_this_machine_itself"])
        .env(REFERENCE, reference(&server, &bytes))
        .envs(["http_proxy", "HTTP_PROXY", "ALL_PROXY"].map(|name| (name, proxy.url(""))))
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .output()
        .unwrap();
    assert!(pull.status.success(), "{}", String::from_utf8_lossy(&pull.stdout));
    assert_eq!((server.take_requests().len(), proxy.take_requests().len()), (1, 0));
}

/// Bytes that come again and again are no progress, nor are a few: such a server is given up like one that sends none.
#[test]
fn a_server_that_sends_the_same_or_little_is_given_up() {
    let bytes = gguf("Tiny", SIZE);
    for case in ["sends another range", "ignores ranges", "sends little"] {
        let body = bytes.clone();
        let turn = AtomicUsize::new(0);
        let server = Server::new(move |request| match (turn.fetch_add(1, Ordering::SeqCst), case) {
            // Much later than it should be asked.
            (50.., _) => Reply::range(request, &body),
            (_, "sends another range") if request.range.is_some() => Reply::whole(&body)
                .header(&format!("Content-Range: bytes 0-{}/{}", body.len() - 1, body.len()))
                .called_partial(),
            (1.., "sends little") => Reply::range(request, &body).cut(1000),
            _ => Reply::whole(&body).cut(100_000),
        });
        assert_says(Home::new().pull(&reference(&server, &bytes)), &["broke off again and again"]);
        assert_eq!(server.take_requests().len(), 5, "{case}");
    }
}

/// A connection that brings next to nothing holds nobody, and what it brought is kept.
#[test]
fn a_server_that_is_silent_or_drips_is_given_up() {
    let bytes = gguf("Tiny", SIZE);
    for (case, parts) in [
        ("silent", &["broke off again and again", "timed out", "once more"][..]),
        ("dripping", &["comes too slowly", "once more", "goes on from where it stopped"]),
    ] {
        let body = bytes.clone();
        let turn = AtomicUsize::new(0);
        let server = Server::new(move |request| match (turn.fetch_add(1, Ordering::SeqCst), case) {
            (0, "silent") => Reply::range(request, &body).silent_after(300_000),
            (0, _) => Reply::range(request, &body).dripping_after(300_000),
            (1..=4, "silent") => Reply::range(request, &body).silent_after(0),
            (1..=4, _) => Reply::range(request, &body).dripping_after(0),
            _ => Reply::range(request, &body),
        });
        let home = Home::new();
        home.write("patience", "400");
        assert_says(home.pull(&reference(&server, &bytes)), parts);
        assert!(server.take_requests().len() <= 5, "{case}");
        home.write("patience", "60000");
        home.pull(&reference(&server, &bytes)).unwrap();
        assert_eq!(content(&home.hub(), "tiny"), bytes, "{case}");
        assert!(server.take_requests()[0].range.is_some(), "{case}");
    }
}

#[test]
fn a_file_whose_size_nobody_tells_has_a_limit() {
    let bytes = gguf("Tiny", SIZE);
    let body = bytes.clone();
    let server = Server::new(move |request| Reply::range(request, &body).without_length());
    let home = Home::new();
    home.write("size-limit", "600000");
    assert_says(
        home.pull(&reference(&server, &bytes)),
        &["does not tell the size of", "more than 600.0 kB came", "`freehold pull file:PATH`"],
    );
    let part = home.hub().store().ingest_directory().join(format!("{}.part", Digest::of(&bytes).hex()));
    assert_eq!(fs::metadata(part).unwrap().len(), 0);
    assert_eq!(server.take_requests().len(), 1);
    home.write("size-limit", bytes.len().to_string());
    home.pull(&reference(&server, &bytes)).unwrap();
    assert_eq!(content(&home.hub(), "tiny"), bytes);
}

/// What of an address may be a secret is used, and neither kept, nor shown, nor told to whom the server leads to.
#[test]
fn secrets_in_an_address_are_not_kept() {
    let bytes = gguf("Tiny", 1000);
    let body = bytes.clone();
    let storage = Arc::new(Server::new(move |request| Reply::range(request, &body)));
    let redirect = Arc::clone(&storage);
    let server = Server::new(move |request| match request.path.as_str() {
        "/Tiny.gguf?token=hidden" if request.authorization.as_deref() == Some("Basic dXNlcjpzZWNyZXQ=") => {
            Reply::status(302).header(&format!("Location: {}", redirect.url("/signed")))
        }
        _ => Reply::status(403),
    });
    let digest = Digest::of(&bytes).hex();
    let address = format!("http://user:secret@{}/Tiny.gguf?token=hidden", server.host());
    let reference = format!("{address}#sha256={digest}");
    let home = Home::new();
    let model = home.pull(&reference).unwrap().model;
    let told = &storage.take_requests()[0];
    assert!(told.authorization.is_none() && told.referer.is_none(), "{told:?}");
    let source = format!("http://…@{}/Tiny.gguf?…#sha256={digest}", server.host());
    assert_eq!(model.source.as_ref(), Some(&source));
    assert!(home.pull(&reference).unwrap().was_present);
    let index = fs::read_to_string(home.hub().store().root().join("index.json")).unwrap();
    assert!(!index.contains("secret") && !index.contains("hidden"), "{index}");

    // So nobody can fetch it again but who has the address.
    let hub = home.hub();
    fs::remove_file(hub.store().blob_path(&Digest::of(&bytes))).unwrap();
    server.take_requests();
    let faults = hub.store().scrub(None, &mut |_, _| ControlFlow::Continue(())).unwrap().faults;
    let repairs = hub.repair(&faults, &mut quiet).unwrap();
    let error = repairs[0].result.as_ref().unwrap_err().to_string();
    assert!(error.contains("is not kept: pull it once more by its whole address"), "{error}");
    assert_says(home.pull(&source), &[&source, "by its whole address"]);
    assert!(server.take_requests().is_empty());
    home.pull(&reference).unwrap();
    assert_eq!(content(&hub, "tiny"), bytes);

    for wrong in [
        address.clone(),
        format!("{address}#sha256=12"),
        format!("{}#sha256={digest}", address.replace("http:", "ftp:")),
        format!("{}#sha256={digest}", address.replace(&server.host(), "example.org")),
        format!("{}#sha256={}", address, Digest::of(b"").hex()),
        format!("{}&x#sha256={digest}", address.replace("Tiny", "Other")),
        "oci://user:secret@example.org/x".to_owned(),
    ] {
        let error = Home::new().pull(&wrong).unwrap_err().to_string();
        assert!(!error.contains("secret") && !error.contains("hidden"), "{error}");
    }
}

#[test]
fn wrong_bytes_are_refused_and_old_wrong_bytes_forgotten() {
    let bytes = gguf("Tiny", SIZE);
    let other = gguf("Evil", SIZE);
    let (right, wrong) = (bytes.clone(), other.clone());
    let turn = AtomicUsize::new(0);
    let server = Server::new(move |request| match turn.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::range(request, &wrong),
        // The other file's beginning stays behind; the right file's end does not make it whole.
        1 => Reply::range(request, &wrong).cut(300_000),
        2..=5 => Reply::range(request, &wrong).cut(0),
        _ => Reply::range(request, &right),
    });
    let home = Home::new();
    let (expected, got) = (Digest::of(&bytes).to_string(), Digest::of(&other).to_string());
    assert_says(home.pull(&reference(&server, &bytes)), &["wrong content", &expected, &got, "another source"]);
    assert!(home.hub().store().list().unwrap().is_empty());
    assert_says(home.pull(&reference(&server, &bytes)), &["broke off"]);
    server.take_requests();
    home.pull(&reference(&server, &bytes)).unwrap();
    assert_eq!(content(&home.hub(), "tiny"), bytes);
    let ranges: Vec<_> = server.take_requests().iter().map(|request| request.range).collect();
    assert_eq!(ranges, [Some(300_000), None]);
}

#[test]
fn servers_that_fail_or_lie_get_one_sentence() {
    let bytes = gguf("Tiny", 1000);
    let closed = format!("http://127.0.0.1:1/x.gguf#sha256={}", Digest::of(&bytes).hex());
    assert_says(Home::new().pull(&closed), &["could not reach 127.0.0.1:1:", "check the network"]);
    for (reply, parts) in [
        ((|_| Reply::status(404)) as fn(&[u8]) -> Reply, &["answered 404", "nothing under that address"][..]),
        (|_| Reply::status(401), &["answered 401", "restricted"]),
        (|_| Reply::status(500), &["answered 500", "later"]),
        (|_| Reply::status(302).header("Location: /again"), &["too many redirects"]),
        (|bytes| Reply::whole(&bytes[..500]), &["wrong content"]),
        (|_| Reply::whole(b"<html>Please log in</html>"), &["wrong content"]),
    ] {
        let body = bytes.clone();
        let server = Server::new(move |_| reply(&body));
        assert_says(Home::new().pull(&reference(&server, &bytes)), parts);
    }
    // Right by its digest, but no model.
    let server = Server::new(|_| Reply::whole(b"no model"));
    let home = Home::new();
    assert_says(home.pull(&reference(&server, b"no model")), &["is no model that can be used"]);
    assert!(home.hub().store().list().unwrap().is_empty());
}

#[test]
fn sizes_are_held_to_the_catalogue() {
    let bytes = gguf("Tiny", SIZE);
    let size = bytes.len();
    for (declares_length, parts) in [(true, &["wrong size", "expected"][..]), (false, &["wrong size"])] {
        let body = [bytes.clone(), vec![0; SIZE]].concat();
        let server = Server::new(move |request| {
            let reply = Reply::range(request, &body);
            if declares_length { reply } else { reply.without_length() }
        });
        let home = Home::new();
        home.catalogue(&format!(
            "path = \"t.gguf\"\nsize_bytes = {size}\nsha256 = \"{}\"\nsources = [\"{}\"]",
            Digest::of(&bytes).hex(),
            reference(&server, &bytes)
        ));
        assert_says(home.pull("test:1"), parts);
    }
}

#[test]
fn the_next_source_is_tried_and_all_reasons_are_given() {
    let bytes = gguf("Tiny", 1000);
    let body = bytes.clone();
    let bad = Server::new(|_| Reply::status(404));
    let good = Server::new(move |request| Reply::range(request, &body));
    let home = Home::new();
    let entry = |sources: [&str; 2]| {
        format!(
            "path = \"t.gguf\"\nsize_bytes = {}\nsha256 = \"{}\"\nsources = {sources:?}",
            bytes.len(),
            Digest::of(&bytes).hex()
        )
    };
    let (bad, good) = (reference(&bad, &bytes), reference(&good, &bytes));
    home.catalogue(&entry([&bad, "file:/nowhere/x.gguf"]));
    assert_says(home.pull("test:1"), &["none of the sources of `test:1` worked", "404", "/nowhere/x.gguf"]);
    home.catalogue(&entry([&bad, &good]));
    let model = home.pull("test:1").unwrap().model;
    assert_eq!(model.source.as_deref(), Some(good.as_str()));
    assert_eq!(model.facts.licenses, ["MIT"]);
    // The mirror is no part of what the model is.
    let other = Home::new();
    let file = other.write("t.bin", &bytes);
    other.catalogue(&entry([&format!("file:{}", file.display()), &bad]));
    assert_eq!(other.pull("test:1").unwrap().model.digest, model.digest);
    assert!(other.pull(&format!("test:1@{}", model.digest)).unwrap().was_present);
    let absent = Digest::of(b"");
    assert_says(other.pull(&format!("test:1@{absent}")), &["the catalogue's `test:1` is", "drop the digest"]);
}

#[test]
fn two_pulls_of_one_model_fetch_it_once() {
    let bytes = gguf("Tiny", SIZE);
    let body = bytes.clone();
    let (second_waits, wait) = mpsc::channel::<()>();
    let wait = Arc::new(Mutex::new(wait));
    let server = Server::new(move |request| {
        // The first has its answer only when the second waits for it.
        wait.lock().unwrap().recv().ok();
        Reply::range(request, &body)
    });
    let home = Home::new();
    let reference = reference(&server, &bytes);
    let path = home.directory.path();
    thread::scope(|scope| {
        let (asked, first_asked) = mpsc::channel();
        let first = scope.spawn({
            let reference = reference.clone();
            move || {
                hub(path).pull(&reference, None, &mut |status| {
                    if status.stage == Stage::Downloading {
                        asked.send(()).ok();
                    }
                    ControlFlow::Continue(())
                })
            }
        });
        first_asked.recv().unwrap();
        let mut stages = Vec::new();
        let second = hub(path)
            .pull(&reference, None, &mut |status| {
                stages.push(status.stage);
                second_waits.send(()).ok();
                ControlFlow::Continue(())
            })
            .unwrap();
        assert!(!first.join().unwrap().unwrap().was_present);
        assert!(second.was_present);
        assert!(stages.contains(&Stage::Waiting) && !stages.contains(&Stage::Downloading), "{stages:?}");
    });
    assert_eq!(server.take_requests().len(), 1);
}

#[test]
fn a_pull_can_be_stopped_and_taken_up() {
    let bytes = gguf("Tiny", SIZE);
    let body = bytes.clone();
    let server = Server::new(move |request| Reply::range(request, &body));
    let home = Home::new();
    let mut kept = 0;
    let stopped = home.hub().pull(&reference(&server, &bytes), None, &mut |status| {
        kept = status.bytes_done;
        if status.bytes_done > 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(stopped, Err(HubError::Store(StoreError::Cancelled))));
    server.take_requests();
    home.pull(&reference(&server, &bytes)).unwrap();
    assert_eq!(server.take_requests()[0].range, Some(kept as usize));
    assert_eq!(content(&home.hub(), "tiny"), bytes);
}

#[test]
fn a_damaged_blob_is_fetched_again() {
    let bytes = gguf("Tiny", 1000);
    let body = bytes.clone();
    let server = Server::new(move |request| Reply::range(request, &body));
    let home = Home::new();
    let reference = reference(&server, &bytes);
    home.pull(&reference).unwrap();
    let blob = home.hub().store().blob_path(&Digest::of(&bytes));
    fs::write(&blob, &bytes[..700]).unwrap();
    assert!(!home.hub().pull(&reference, None, &mut quiet).unwrap().was_present);
    assert_eq!(content(&home.hub(), "tiny"), bytes);
}
