//! Running the program in a home of its own, and models that are wrong in one place.

use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_freehold");
pub(crate) const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/tiny/tiny-llama.gguf");

/// A directory with a home in it, and nothing of the tester's own environment.
pub(crate) struct Home {
    pub(crate) directory: TempDir,
}

/// What a command did.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Home {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        // A folder without programs: no pip of this machine is found.
        fs::create_dir(directory.path().join("bin")).unwrap();
        Self { directory }
    }

    /// With the tiny model in the store, as `tiny`.
    pub(crate) fn with_tiny() -> Self {
        let home = Self::new();
        home.run(&["pull", &format!("file:{TINY}"), "--name", "tiny"]).succeeded();
        home
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file beside the home; its path.
    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().stdin(Stdio::null());
        command
            .env("HOME", self.directory.path())
            .env("FREEHOLD_HOME", self.path("home"))
            .env("PATH", self.path("bin"))
            // Nothing listens there, and nobody outside is asked.
            .env("HF_ENDPOINT", "http://127.0.0.1:1");
        command.current_dir(self.directory.path());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        self.read(self.command(PROGRAM, arguments).output().unwrap())
    }

    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Run {
        let mut command = self.command(PROGRAM, arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A program that refuses its arguments reads nothing.
        let _ = child.stdin.take().unwrap().write_all(input);
        self.read(child.wait_with_output().unwrap())
    }

    /// With the temporary directory and the checkout written as what they are.
    pub(crate) fn read(&self, output: Output) -> Run {
        let tiny = fs::canonicalize(TINY).unwrap();
        let text = |bytes| {
            let text = String::from_utf8(bytes).unwrap();
            let text = text.replace(tiny.to_str().unwrap(), "TINY").replace(TINY, "TINY").replace(PROGRAM, "freehold");
            let text = text.replace(self.directory.path().to_str().unwrap(), "DIRECTORY");
            // Numbers of errors are the system's own.
            let mut parts = text.split(" (os error ");
            let first = parts.next().unwrap_or_default().to_owned();
            parts.fold(first, |text, part| text + part.split_once(')').map_or(part, |(_, rest)| rest))
        };
        Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Runs the commands one after the other and notes what each says, as a terminal would.
    pub(crate) fn transcript(&self, commands: &[&[&str]]) -> String {
        let mut transcript = String::new();
        for arguments in commands {
            let run = self.run(arguments);
            let shown = arguments.join(" ").replace(self.directory.path().to_str().unwrap(), "DIRECTORY");
            writeln!(transcript, "$ freehold {}", shown.replace(TINY, "TINY")).unwrap();
            writeln!(transcript, "{}{}exit code {}\n", run.stdout, run.stderr, run.code.unwrap()).unwrap();
        }
        transcript
    }
}

impl Run {
    /// Its output, where it worked; in a pipe nothing else is said.
    #[track_caller]
    pub(crate) fn succeeded(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{}", self.stdout);
        self.stdout
    }

    /// Its output as one JSON document, where it worked.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.succeeded()).unwrap()
    }

    /// Its error, where it failed with nothing else said.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!((self.code, self.stdout.as_str()), (Some(code), ""), "{}", self.stderr);
        self.stderr
    }
}

/// The tiny model's file, to be changed in one place.
pub(crate) struct Gguf(pub(crate) Vec<u8>);

impl Gguf {
    pub(crate) fn tiny() -> Self {
        Self(fs::read(TINY).unwrap())
    }

    /// Where the bytes behind `name` begin, its first place in the file being meant.
    fn behind(&self, name: &str) -> usize {
        let name = [&(name.len() as u64).to_le_bytes(), name.as_bytes()].concat();
        self.0.windows(name.len()).position(|window| window == name).unwrap() + name.len()
    }

    /// Another name of the same length, for a key, a value or a tensor.
    pub(crate) fn rename(mut self, from: &str, to: &str) -> Self {
        assert_eq!(from.len(), to.len());
        let end = self.behind(from);
        self.0[end - to.len()..end].copy_from_slice(to.as_bytes());
        self
    }

    /// Another value of a key that holds a `u32`.
    pub(crate) fn number(mut self, key: &str, value: u32) -> Self {
        // The value's type stands before it.
        let at = self.behind(key) + 4;
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
        self
    }

    /// Another type of a tensor, by GGUF's number.
    pub(crate) fn tensor_type(mut self, name: &str, kind: u32) -> Self {
        let rank = self.behind(name);
        let at = rank + 4 + usize::from(self.0[rank]) * 8;
        self.0[at..at + 4].copy_from_slice(&kind.to_le_bytes());
        self
    }

    /// Another last weight of the file: one of the output's norm, F32.
    pub(crate) fn last_weight(mut self, value: f32) -> Self {
        let at = self.0.len() - 4;
        self.0[at..].copy_from_slice(&value.to_le_bytes());
        self
    }
}
