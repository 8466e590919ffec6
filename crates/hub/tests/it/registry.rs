//! OCI registries, from a server that speaks the parts of the distribution specification that are needed.

use crate::local::write_folder;
use crate::server::{Reply, Request, Server};
use crate::{Home, assert_says, gguf, quiet};
use freehold_base::Digest;
use freehold_hub::{HubError, Pushed, Stage};
use freehold_store::{Model, parse_manifest};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// `user:secret`.
const PASSWORD: &str = "dXNlcjpzZWNyZXQ=";

#[derive(Clone, Copy, PartialEq, Debug)]
enum Door {
    Open,
    Basic,
    /// Tokens for those with the password.
    Bearer,
    /// Tokens for anybody.
    AnonymousBearer,
}

/// What a registry holds, in the repository `team/model`.
#[derive(Default)]
struct Content {
    blobs: BTreeMap<String, Vec<u8>>,
    manifests: BTreeMap<String, Vec<u8>>,
    uploads: Vec<Vec<u8>>,
}

type Shared = Arc<Mutex<Content>>;

fn registry(door: Door) -> (Server, Shared) {
    let content = Shared::default();
    let shared = Arc::clone(&content);
    (Server::new(move |request| answer(request, door, &mut shared.lock().unwrap())), content)
}

fn answer(request: &Request, door: Door, content: &mut Content) -> Reply {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let shown = request.authorization.as_deref();
    let actions = if request.method == "GET" { "pull" } else { "pull,push" };
    if path == "/token" {
        let may = door == Door::AnonymousBearer || shown == Some(&format!("Basic {PASSWORD}"));
        let query = query.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
        return match query.strip_prefix("service=test+registry&scope=repository:team/model:") {
            Some(actions) if may => Reply::whole(json!({ "token": format!("for-{actions}") }).to_string().as_bytes()),
            _ => Reply::status(401),
        };
    }
    let refused = match door {
        Door::Open => None,
        Door::Basic => (shown != Some(&format!("Basic {PASSWORD}"))).then(|| "Basic realm=\"x\"".to_owned()),
        Door::Bearer | Door::AnonymousBearer => {
            let may = shown.is_some_and(|shown| shown.starts_with("Bearer for-") && shown.contains(actions));
            let realm = format!("http://127.0.0.1:{}/token", request.port);
            (!may).then(|| format!("Bearer realm=\"{realm}\",service=\"test registry\",scope=\"x\""))
        }
    };
    if let Some(challenge) = refused {
        return Reply::status(401).header(&format!("WWW-Authenticate: {challenge}"));
    }
    let Some(path) = path.strip_prefix("/v2/team/model/") else { return Reply::status(404) };
    let (kind, what) = path.split_once('/').unwrap();
    match (request.method.as_str(), kind, what) {
        ("POST", "blobs", "uploads/") => {
            content.uploads.push(Vec::new());
            let at = content.uploads.len() - 1;
            Reply::status(202).header(&format!("Location: /v2/team/model/blobs/uploads/{at}?state=a%2Bb"))
        }
        ("PATCH" | "PUT", "blobs", upload) => {
            let at: usize = upload.strip_prefix("uploads/").unwrap().parse().unwrap();
            content.uploads[at].extend(&request.body);
            assert!(query.starts_with("state=a%2Bb"), "{query}");
            if request.method == "PATCH" {
                return Reply::status(202).header(&format!("Location: {}", request.path));
            }
            let digest = query.split_once("digest=").unwrap().1.replace("%3A", ":");
            let bytes = content.uploads[at].clone();
            if Digest::of(&bytes).to_string() != digest {
                return Reply::status(400);
            }
            content.blobs.insert(digest, bytes);
            Reply::status(201)
        }
        ("PUT", "manifests", tag) => {
            let digest = Digest::of(&request.body).to_string();
            content.manifests.insert(tag.to_owned(), request.body.clone());
            content.manifests.insert(digest.clone(), request.body.clone());
            Reply::status(201).header(&format!("Docker-Content-Digest: {digest}"))
        }
        (_, "blobs", digest) => {
            content.blobs.get(digest).map_or(Reply::status(404), |bytes| Reply::range(request, bytes))
        }
        (_, "manifests", tag) => content.manifests.get(tag).map_or(Reply::status(404), |bytes| Reply::whole(bytes)),
        _ => Reply::status(405),
    }
}

fn reference(server: &Server, version: &str) -> String {
    format!("{}/team/model{version}", server.url("").replace("http://", "oci://"))
}

/// A home with one model, a folder, called `smol`.
fn home_with_model() -> (Home, Model) {
    let home = Home::new();
    write_folder(&home, "smol");
    let model = home.pull(&format!("file:{}", home.path("smol").display())).unwrap().model;
    (home, model)
}

fn push(home: &Home, target: &str) -> Result<Pushed, HubError> {
    home.hub().push("smol", target, &mut quiet)
}

/// Checks the one sentence of a push that failed.
#[track_caller]
fn assert_push_says(result: Result<Pushed, HubError>, parts: &[&str]) {
    let message = result.unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part) && !message.contains('\n'), "`{message}` does not say `{part}`");
    }
}

#[test]
fn a_model_goes_out_and_comes_back_the_same() {
    for door in [Door::Open, Door::Basic, Door::Bearer] {
        let (server, content) = registry(door);
        let (home, model) = home_with_model();
        let credentials = json!({"auths": {"other.example": {"auth": "eDp5"}, server.host(): {"auth": PASSWORD}}});
        home.write("auth.json", credentials.to_string());
        let pushed = push(&home, &reference(&server, ":v1")).unwrap();
        assert_eq!(pushed.digest, model.digest);
        assert_eq!(pushed.reference, reference(&server, &format!("@{}", model.digest)));
        let held = content.lock().unwrap().blobs.len();
        assert_eq!(held, model.files.len() + 1, "{door:?}");
        // Again: nothing of it is sent.
        assert_eq!(push(&home, &reference(&server, ":v2")).unwrap().bytes_sent, 0);

        let other = Home::new();
        other.write("auth.json", credentials.to_string());
        let mut last = (0, 0);
        let pulled = other.hub().pull(&reference(&server, ":v1"), None, &mut |status| {
            if status.stage == Stage::Downloading {
                last = (status.bytes_done, status.bytes_total.unwrap());
            }
            ControlFlow::Continue(())
        });
        let pulled = pulled.unwrap().model;
        assert_eq!((pulled.digest, &pulled.facts), (model.digest, &model.facts));
        assert_eq!(pulled.name.as_deref(), Some("model:v1"));
        assert_eq!(pulled.source.unwrap(), pushed.reference);
        assert_eq!(last.0, last.1);
        let files = other
            .hub()
            .store()
            .files(&other.hub().store().resolve("model:v1").unwrap(), &mut |_| ControlFlow::Continue(()));
        for (path, blob) in files.unwrap() {
            assert_eq!(fs::read(blob).unwrap(), fs::read(home.path("smol").join(path)).unwrap());
        }
        server.take_requests();
        assert!(other.pull(&reference(&server, ":v1")).unwrap().was_present);
        let asked = server.take_requests();
        assert!(asked.iter().all(|request| request.path.contains("/manifests/") || request.path.starts_with("/token")));
        // Who only uses it asks nobody, by tag or by digest.
        assert_eq!(other.hub().obtain(&reference(&server, ":v1"), &mut quiet).unwrap().digest, model.digest);
        assert!(server.take_requests().is_empty());
    }
}

#[test]
fn blobs_larger_than_a_piece_are_sent_in_pieces() {
    let (server, content) = registry(Door::Open);
    let home = Home::new();
    let bytes = gguf("Tiny", (17 << 20) + 5);
    let path = home.write("smol.gguf", &bytes);
    home.pull(&format!("file:{}", path.display())).unwrap();
    let mut sent = Vec::new();
    home.hub()
        .push("smol", &reference(&server, ":v1"), &mut |status| {
            if status.stage == Stage::Uploading {
                sent.push(status.bytes_done);
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(content.lock().unwrap().blobs.contains_key(&Digest::of(&bytes).to_string()));
    assert!(sent.is_sorted() && sent.contains(&(8 << 20)) && sent.contains(&(16 << 20)), "{sent:?}");
    let pieces = server.take_requests().into_iter().filter(|request| request.method == "PATCH");
    assert_eq!(
        pieces.map(|request| request.body.len()).collect::<Vec<_>>(),
        [8 << 20, 8 << 20, bytes.len() - (16 << 20)]
    );
}

#[test]
fn the_password_for_the_most_of_the_path_is_used() {
    let (server, _content) = registry(Door::Basic);
    let (home, _model) = home_with_model();
    let key = |path: &str| format!("{}{path}", server.host());
    for (keys, is_let_in) in [
        (vec![(key(""), PASSWORD)], true),
        (vec![(format!("https://{}/v1/", server.host()), PASSWORD)], true),
        (vec![(key("/team"), PASSWORD), (key(""), "eDp5"), (key("/zoo"), "eDp5")], true),
        (vec![(key("/team/model"), PASSWORD), (key("/team"), "eDp5")], true),
        (vec![(key("/te"), PASSWORD)], false),
        (vec![(key("/other"), PASSWORD)], false),
        (vec![(key("/team/model/x"), PASSWORD)], false),
    ] {
        let auths: BTreeMap<&str, Value> = keys.iter().map(|(key, auth)| (&**key, json!({ "auth": auth }))).collect();
        home.write("auth.json", json!({ "auths": auths }).to_string());
        assert_eq!(push(&home, &reference(&server, ":v1")).is_ok(), is_let_in, "{keys:?}");
    }
}

#[test]
fn what_is_removed_while_it_is_sent_is_sent_all_the_same() {
    let (server, content) = registry(Door::Open);
    let (home, model) = home_with_model();
    let store = home.hub().store().clone();
    let mut freed = None;
    home.hub()
        .push("smol", &reference(&server, ":v1"), &mut |status| {
            if status.stage == Stage::Uploading && freed.is_none() {
                store.remove("smol").unwrap();
                freed = Some(store.clean().unwrap());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(freed.unwrap().deferred);
    assert_eq!(content.lock().unwrap().blobs.len(), model.files.len() + 1);
    assert!(store.clean().unwrap().files > 0);
}

#[test]
fn strangers_are_told_what_to_do() {
    for (door, with_password, pull_part, push_part) in [
        (
            Door::Basic,
            false,
            "does not let anybody read it: log in to it with `docker login`",
            "does not let anybody write there",
        ),
        (Door::Bearer, false, "does not let anybody read it", "does not let anybody write there"),
        (Door::Basic, true, "does not let the password that is kept for it read it", "write there"),
        (Door::AnonymousBearer, false, "has no such model", ""),
        (Door::Open, false, "has no such model: check the name and the tag", ""),
    ] {
        let (server, _content) = registry(door);
        let (home, _model) = home_with_model();
        if with_password {
            home.write("auth.json", json!({"auths": {server.host(): {"auth": "eDp5"}}}).to_string());
        }
        assert_says(home.pull(&reference(&server, ":v9")), &[&reference(&server, ":v9"), pull_part]);
        if !push_part.is_empty() {
            assert_push_says(push(&home, &reference(&server, ":v1")), &[push_part]);
        }
    }
    let (home, model) = home_with_model();
    // A web server that has a page for everything, and one that leads to one.
    let page = Server::new(|_| Reply::whole(b"<html>"));
    assert_push_says(push(&home, &reference(&page, ":v1")), &["answered 200", "as no registry does: check the host"]);
    let leading = Server::new(move |request| match request.method.as_str() {
        "PUT" => Reply::status(302).header(&format!("Location: {}", page.url("/page"))),
        _ => Reply::whole(b""),
    });
    assert_push_says(
        push(&home, &reference(&leading, ":v1")),
        &["answered 200", "as no registry does: check the host"],
    );
    assert_says(home.pull("oci://127.0.0.1:1/x"), &["could not reach 127.0.0.1:1:"]);
    assert_push_says(push(&home, "oci://127.0.0.1:1/x"), &["could not reach 127.0.0.1:1:"]);
    assert_push_says(push(&home, "https://127.0.0.1/x"), &["must look like oci://HOST/NAME:TAG"]);
    let (server, _content) = registry(Door::Open);
    let other = reference(&server, &format!("@{}", Digest::of(b"")));
    assert_push_says(push(&home, &other), &[&model.digest.to_string(), "give a tag"]);
    assert_push_says(home.hub().push("none", &other, &mut quiet), &["there is no model `none`"]);
    fs::write(home.hub().store().blob_path(&model.files[0].digest), "damaged").unwrap();
    assert_push_says(push(&home, &reference(&server, ":v1")), &["is damaged"]);
}

#[test]
fn a_token_that_runs_out_is_renewed() {
    let content = Shared::default();
    let shared = Arc::clone(&content);
    let turn = AtomicUsize::new(0);
    // Every fifth request is refused, whatever token comes with it.
    let server = Server::new(move |request| match turn.fetch_add(1, Ordering::SeqCst) % 5 {
        4 if !request.path.starts_with("/token") => answer(
            &Request { authorization: None, ..request.clone() },
            Door::AnonymousBearer,
            &mut shared.lock().unwrap(),
        ),
        _ => answer(request, Door::AnonymousBearer, &mut shared.lock().unwrap()),
    });
    let (home, model) = home_with_model();
    push(&home, &reference(&server, ":v1")).unwrap();
    assert_eq!(Home::new().pull(&reference(&server, ":v1")).unwrap().model.digest, model.digest);
    assert_eq!(content.lock().unwrap().blobs.len(), model.files.len() + 1);
}

#[test]
fn what_a_registry_serves_is_verified() {
    let (good, content) = registry(Door::Open);
    let (home, model) = home_with_model();
    push(&home, &reference(&good, ":v1")).unwrap();
    let manifest: Value = serde_json::from_slice(&content.lock().unwrap().manifests["v1"]).unwrap();
    let weights = model.files.iter().find(|file| file.path == "model.safetensors").unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut manifest = manifest.clone();
        change(&mut manifest);
        manifest.to_string().into_bytes()
    };
    let layer_path =
        |path: &str| with(&|manifest| manifest["layers"][0]["annotations"]["org.cncf.model.filepath"] = json!(path));
    for (bytes, part) in [
        (b"{}".to_vec(), "the manifest is not usable"),
        (b"<html>".to_vec(), "the manifest is not usable"),
        ("[".repeat(200_000).into_bytes(), "the manifest is not usable"),
        (vec![b' '; 5 << 20], "longer than"),
        (
            with(&|manifest| manifest["config"]["mediaType"] = json!("application/vnd.oci.image.config.v1+json")),
            "ModelPack",
        ),
        (
            with(&|manifest| manifest["layers"][0]["mediaType"] = json!("application/vnd.cncf.model.weight.v1.tar")),
            "not a plain file",
        ),
        (with(&|manifest| manifest["layers"][0]["digest"] = json!("sha256:../../x")), "not a SHA-256"),
        (
            with(&|manifest| manifest["layers"][0]["digest"] = json!(format!("sha512:{}", "ab".repeat(64)))),
            "not SHA-256",
        ),
        (with(&|manifest| manifest["layers"][0]["size"] = json!(-1)), "invalid value"),
        (with(&|manifest| manifest["layers"][1] = manifest["layers"][0].clone()), "a second time"),
        (with(&|manifest| manifest["config"]["size"] = json!(1u64 << 40)), "its configuration is longer than any"),
        (layer_path("../x"), "cannot hold a file named"),
        (layer_path("/x"), "cannot hold a file named"),
        (layer_path("a\0b"), "cannot hold a file named"),
    ] {
        content.lock().unwrap().manifests.insert("bad".to_owned(), bytes);
        let home = Home::new();
        assert_says(home.pull(&reference(&good, ":bad")), &[part]);
        assert!(home.hub().store().list().unwrap().is_empty());
    }
    assert!(parse_manifest(&vec![b'['; 5 << 20]).unwrap_err().to_string().contains("longer than"));

    // Under a digest, only the manifest that has it.
    let other = Digest::of(b"other").to_string();
    let bytes = content.lock().unwrap().manifests["v1"].clone();
    content.lock().unwrap().manifests.insert(other.clone(), bytes);
    assert_says(
        Home::new().pull(&reference(&good, &format!("@{other}"))),
        &["the manifest", &other, &model.digest.to_string()],
    );

    // Other bytes for a file; then the right ones again, after what came before them is forgotten.
    let digest = weights.digest.to_string();
    let right = content.lock().unwrap().blobs[&digest].clone();
    let home = Home::new();
    for (bytes, parts) in [
        (vec![0; right.len()], &["`model.safetensors` has the wrong content", &digest][..]),
        (vec![0; right.len() + 1], &["`model.safetensors` has the wrong size"]),
        (right[1..].to_vec(), &["`model.safetensors` has the wrong size"]),
    ] {
        content.lock().unwrap().blobs.insert(digest.clone(), bytes);
        assert_says(home.pull(&reference(&good, ":v1")), parts);
        assert!(home.hub().store().list().unwrap().is_empty());
    }
    content.lock().unwrap().blobs.insert(digest, right);
    home.pull(&reference(&good, ":v1")).unwrap();
}

#[test]
fn passwords_and_uploads_stay_with_the_registry() {
    let elsewhere = Arc::new(Server::new(|_| Reply::whole(br#"{"token":"x"}"#)));
    let (home, _model) = home_with_model();
    let away = Arc::clone(&elsewhere);
    let server = Server::new(move |request| match request.method.as_str() {
        "POST" => Reply::status(202).header(&format!("Location: {}", away.url("/upload"))),
        _ => Reply::status(404),
    });
    assert_push_says(push(&home, &reference(&server, ":v1")), &["the place to upload to", "lies on another server"]);
    for realm in ["ftp://127.0.0.1/token", "file:///etc/passwd", "token", "http://192.0.2.1/token"] {
        let server = Server::new(move |_| {
            Reply::status(401).header(&format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"x\""))
        });
        assert_says(home.pull(&reference(&server, ":v1")), &["the place to get a token"]);
    }
    // A redirect to another server, as registries have for blobs, goes without the password.
    let away = Arc::clone(&elsewhere);
    let server = Server::new(move |request| match &request.authorization {
        None => Reply::status(401).header("WWW-Authenticate: Basic realm=\"x\""),
        Some(_) => Reply::status(307).header(&format!("Location: {}", away.url("/manifest"))),
    });
    home.write("auth.json", json!({"auths": {server.host(): {"auth": PASSWORD}}}).to_string());
    assert_says(home.pull(&reference(&server, ":v1")), &["the manifest is not usable"]);
    let requests = elsewhere.take_requests();
    assert!(requests.len() == 1 && requests[0].authorization.is_none(), "{requests:?}");
}

#[test]
fn what_is_lost_of_a_model_is_brought_back() {
    let (server, _content) = registry(Door::Bearer);
    let (origin, model) = home_with_model();
    let home = Home::new();
    for home in [&origin, &home] {
        home.write("auth.json", json!({"auths": {server.host(): {"auth": PASSWORD}}}).to_string());
    }
    push(&origin, &reference(&server, ":v1")).unwrap();
    home.pull(&reference(&server, ":v1")).unwrap();
    for lost in model.files.iter().map(|file| file.digest).chain([model.digest]) {
        let hub = home.hub();
        fs::write(hub.store().blob_path(&lost), "damaged").unwrap();
        let faults = hub.store().scrub(None, &mut |_, _| ControlFlow::Continue(())).unwrap().faults;
        for repair in hub.repair(&faults, &mut quiet).unwrap() {
            repair.result.unwrap();
        }
        assert!(hub.store().scrub(None, &mut |_, _| ControlFlow::Continue(())).unwrap().faults.is_empty());
        assert_eq!(hub.store().resolve("model:v1").unwrap().digest, model.digest);
    }
}
