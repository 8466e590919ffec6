//! What the store does, with a fault at each change to the disk in turn. Whatever is left is a store that works, and the
//! same thing can be done again.

use super::power::Durable;
use super::{Fault, run};
use crate::{Facts, Ingest, NewFile, NewModel, Resume, Start, Store, StoreError, StoredBlob, Target};
use freehold_base::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Something that the store is asked to do, below a home directory of its own.
struct Scenario {
    name: &'static str,
    /// What was done before, undisturbed.
    before: fn(&Path) -> Result<(), StoreError>,
    /// A blob that is damaged then.
    damaged: Option<&'static [u8]>,
    /// What is disturbed. Done again, it comes to the same.
    act: fn(&Path) -> Result<(), StoreError>,
}

const WEIGHTS: &[u8] = b"first piece, second piece, third";

const SCENARIOS: [Scenario; 11] = [
    Scenario { name: "a new store", before: |_| Ok(()), damaged: None, act: |home| open(home).map(drop) },
    Scenario {
        name: "a blob",
        before: |_| Ok(()),
        damaged: None,
        act: |home| {
            let store = open(home)?;
            fetch(&store.ingest()?, &Target::Blob(Digest::of(WEIGHTS)), None, &[WEIGHTS]).map(drop)
        },
    },
    Scenario {
        name: "a blob of unknown digest",
        before: |_| Ok(()),
        damaged: None,
        act: |home| {
            let store = open(home)?;
            let target = Target::Unknown("somewhere".to_owned());
            fetch(&store.ingest()?, &target, Some(&["one", "two"]), &[&WEIGHTS[..13], &WEIGHTS[13..]]).map(drop)
        },
    },
    Scenario {
        name: "a model of several blobs beside another",
        before: |home| publish(&open(home)?, "kept", &[b"kept", b"shared"]),
        damaged: None,
        act: |home| publish(&open(home)?, "new", &[b"weights", b"tokenizer", b"shared"]),
    },
    Scenario {
        name: "a blob broken off in its second piece",
        before: |home| {
            let store = open(home)?;
            let ingest = store.ingest()?;
            let mut writer = match begin(&ingest, &Target::Blob(Digest::of(WEIGHTS)), true)? {
                Start::Writer(writer) => writer,
                Start::Present(_) => unreachable!("nothing was there"),
            };
            writer.write(&WEIGHTS[..13])?;
            writer.finish_piece("one")?;
            writer.write(&WEIGHTS[13..20])
        },
        damaged: None,
        act: |home| {
            let store = open(home)?;
            let ingest = store.ingest()?;
            let pieces = [&WEIGHTS[..13], &WEIGHTS[13..27], &WEIGHTS[27..]];
            let blob = fetch(&ingest, &Target::Blob(Digest::of(WEIGHTS)), Some(&["one", "two", "three"]), &pieces)?;
            name(&ingest, "pieced", &[blob])
        },
    },
    Scenario {
        name: "a name that goes to another model",
        before: |home| publish(&open(home)?, "name", &[b"old weights", b"shared"]),
        damaged: None,
        act: |home| publish(&open(home)?, "name", &[b"new weights", b"shared"]),
    },
    Scenario {
        name: "a model removed",
        before: |home| {
            publish(&open(home)?, "kept", &[b"kept", b"shared"])?;
            publish(&open(home)?, "gone", &[b"gone", b"shared"])
        },
        damaged: None,
        act: |home| match open(home)?.remove("gone") {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        },
    },
    Scenario {
        name: "what nobody needs is cleaned away",
        before: |home| {
            let store = open(home)?;
            publish(&store, "kept", &[b"kept"])?;
            let ingest = store.ingest()?;
            ingest.put_bytes(b"nobody's")?;
            ingest.put_bytes(b"nobody's either")?;
            fs::create_dir(store.ingest_directory().join("pip")).unwrap();
            fs::write(store.ingest_directory().join("pip/x.whl"), b"x").unwrap();
            fs::write(store.ingest_directory().join("left.part"), b"left").unwrap();
            Ok(())
        },
        damaged: None,
        act: |home| open(home)?.clean().map(drop),
    },
    Scenario {
        name: "a file from elsewhere linked",
        before: |home| {
            fs::write(home.join("original"), WEIGHTS).unwrap();
            Ok(())
        },
        damaged: None,
        act: |home| {
            let store = open(home)?;
            let ingest = store.ingest()?;
            let blob = ingest.adopt_file(&home.join("original"), None, &mut go_on)?;
            name(&ingest, "adopted", &[blob])
        },
    },
    Scenario {
        name: "a damaged blob replaced",
        before: |home| {
            publish(&open(home)?, "mended", &[WEIGHTS])?;
            fs::write(open(home)?.blob_path(&Digest::of(WEIGHTS)), b"rotten").unwrap();
            Ok(())
        },
        damaged: Some(WEIGHTS),
        act: |home| {
            let store = open(home)?;
            let ingest = store.ingest()?;
            ingest.set_aside(&Digest::of(WEIGHTS), &mut go_on)?;
            fetch(&ingest, &Target::Blob(Digest::of(WEIGHTS)), None, &[WEIGHTS]).map(drop)
        },
    },
    Scenario {
        name: "a scratch file used and removed",
        before: |home| publish(&open(home)?, "kept", &[b"kept"]),
        damaged: None,
        act: |home| {
            let store = open(home)?;
            let ingest = store.ingest()?;
            let _lock = ingest.lock("work", &mut || ControlFlow::Continue(()))?;
            let mut writer = match begin(&ingest, &Target::Scratch(Digest::of(WEIGHTS)), false)? {
                Start::Writer(writer) => writer,
                Start::Present(_) => unreachable!("scratch files are not of the store"),
            };
            writer.restart()?;
            writer.write(WEIGHTS)?;
            writer.into_scratch()?.remove()
        },
    },
];

fn open(home: &Path) -> Result<Store, StoreError> {
    Store::open(home.join("store"))
}

fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn begin<'a>(ingest: &Ingest<'a>, target: &Target, by_pieces: bool) -> Result<Start<'a>, StoreError> {
    let labels = ["one", "two", "three"].map(str::to_owned);
    let resume = if by_pieces { Resume::Pieces(&labels) } else { Resume::Bytes };
    ingest.writer(target, Some(WEIGHTS.len() as u64), resume, &mut go_on)
}

/// Brings in the blob as a download would: what is there is gone on from, and if that turns out to be wrong, all of it
/// is fetched once more.
fn fetch(
    ingest: &Ingest<'_>,
    target: &Target,
    labels: Option<&[&str]>,
    pieces: &[&[u8]],
) -> Result<StoredBlob, StoreError> {
    let whole = pieces.concat();
    for _ in 0..2 {
        let mut writer = match begin(ingest, target, labels.is_some())? {
            Start::Present(blob) => return Ok(blob),
            Start::Writer(writer) => writer,
        };
        let resumed = writer.length() > 0;
        match labels {
            Some(labels) => {
                for at in writer.pieces()..pieces.len() {
                    writer.write(pieces[at])?;
                    writer.finish_piece(labels[at])?;
                }
            }
            None => writer.write(&whole[writer.length() as usize..])?,
        }
        match writer.commit() {
            Err(StoreError::WrongDigest { .. }) if resumed => {}
            result => return result,
        }
    }
    panic!("what is fetched from its beginning is right");
}

fn publish(store: &Store, model: &str, files: &[&[u8]]) -> Result<(), StoreError> {
    let ingest = store.ingest()?;
    let blobs = files.iter().map(|bytes| ingest.put_bytes(bytes)).collect::<Result<Vec<_>, _>>()?;
    name(&ingest, model, &blobs)
}

fn name(ingest: &Ingest<'_>, model: &str, blobs: &[StoredBlob]) -> Result<(), StoreError> {
    let file = |(at, blob): (usize, &StoredBlob)| NewFile {
        path: format!("{at}.gguf"),
        digest: blob.digest,
        size_bytes: blob.size_bytes,
    };
    let files = blobs.iter().enumerate().map(file).collect();
    ingest.publish(model, &NewModel { facts: Facts::default(), files }, "test").map(drop)
}

/// What users see of a store.
#[derive(PartialEq, Eq, Debug)]
struct State {
    models: BTreeMap<String, Digest>,
    blobs: BTreeSet<Digest>,
}

/// Reads the store in `home`, and checks that all it says is so, but for a blob that is damaged and refused.
fn inspect(home: &Path, damaged: Option<&[u8]>, what: &str) -> State {
    let damaged = damaged.map(Digest::of);
    let store = open(home).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut blobs = BTreeSet::new();
    for entry in fs::read_dir(store.blobs_directory()).unwrap() {
        let path = entry.unwrap().path();
        let digest: Digest = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let got = Digest::of(&fs::read(path).unwrap());
        if got == digest {
            blobs.insert(digest);
        } else {
            assert_eq!(damaged, Some(digest), "{what}: a blob has other bytes than its name says");
        }
    }
    let mut models = BTreeMap::new();
    for entry in store.list().unwrap_or_else(|error| panic!("{what}: {error}")) {
        let model = entry.model.unwrap_or_else(|error| panic!("{what}: {error}"));
        match store.files(&model, &mut go_on) {
            Ok(_) => {}
            Err(StoreError::Damaged { digest, .. } | StoreError::MissingBlob { digest, .. })
                if damaged == Some(digest) => {}
            Err(error) => panic!("{what}: {error}"),
        }
        models.insert(model.label(), model.digest);
    }
    State { models, blobs }
}

/// An undisturbed run: what there was before, what there is after, and after a clean-up.
struct Expected {
    before: State,
    after: State,
    cleaned: State,
}

/// In memory where there is such a place: a disk is waited for at every rename that replaces a file.
fn directory() -> TempDir {
    let in_memory = Path::new("/dev/shm");
    if in_memory.is_dir() { TempDir::new_in(in_memory) } else { TempDir::new() }.unwrap()
}

impl Scenario {
    fn home(&self) -> (TempDir, PathBuf) {
        let directory = directory();
        let home = directory.path().join("home");
        fs::create_dir(&home).unwrap();
        (self.before)(&home).unwrap();
        (directory, home)
    }

    fn expected(&self) -> Expected {
        let (_directory, home) = self.home();
        let before = if home.join("store").exists() {
            inspect(&home, self.damaged, self.name)
        } else {
            State { models: BTreeMap::new(), blobs: BTreeSet::new() }
        };
        (self.act)(&home).unwrap();
        let after = inspect(&home, None, self.name);
        open(&home).unwrap().clean().unwrap();
        Expected { before, after, cleaned: inspect(&home, None, self.name) }
    }

    /// Checks what is left in `home`; `done` if the store had said that it was done.
    fn check(&self, home: &Path, expected: &Expected, done: bool, what: &str) {
        let found = inspect(home, self.damaged, what);
        let is_old = found.models == expected.before.models && !done;
        assert!(is_old || found.models == expected.after.models, "{what}: {:?}", found.models);
        (self.act)(home).unwrap_or_else(|error| panic!("{what}, again: {error}"));
        let again = inspect(home, None, what);
        assert_eq!(again.models, expected.after.models, "{what}, again");
        assert!(again.blobs.is_superset(&expected.after.blobs), "{what}, again");
        let store = open(home).unwrap();
        assert!(!store.clean().unwrap().deferred, "{what}: a lock was left");
        assert_eq!(inspect(home, None, what), expected.cleaned, "{what}, cleaned");
        let left: Vec<_> = fs::read_dir(store.ingest_directory()).unwrap().collect();
        assert!(left.is_empty(), "{what}: {left:?}");
    }
}

#[test]
fn a_fault_at_each_change_leaves_a_store_that_works() {
    for scenario in &SCENARIOS {
        let expected = scenario.expected();
        for fault in [Fault::Refused, Fault::DiskFull, Fault::Stop] {
            for changes in 0.. {
                let what = format!("{}, {fault:?} after {changes} changes", scenario.name);
                let (_directory, home) = scenario.home();
                let (result, _, happened) = run(Durable::new(&home), fault, changes, || (scenario.act)(&home));
                if !happened {
                    result.unwrap();
                    assert!(changes > 0, "{what}: nothing was disturbed");
                    break;
                }
                match (fault, &result) {
                    (Fault::DiskFull, Err(error)) => {
                        assert!(matches!(error, StoreError::DiskFull { .. }), "{what}: {error}");
                    }
                    // Bytes that a sync failed for are believed by nobody.
                    (Fault::Refused, Err(StoreError::Io { action: "sync", path, .. }))
                        if path.extension() == Some("part".as_ref()) =>
                    {
                        assert_eq!(fs::metadata(path).unwrap().len(), 0, "{what}");
                    }
                    _ => {}
                }
                scenario.check(&home, &expected, result.is_ok(), &what);
            }
        }
    }
}

#[test]
fn a_power_cut_after_each_change_leaves_a_store_that_works() {
    for scenario in &SCENARIOS {
        let expected = scenario.expected();
        let mut seen = BTreeSet::new();
        for changes in 0.. {
            let (_directory, home) = scenario.home();
            let (result, durable, happened) = run(Durable::new(&home), Fault::Stop, changes, || (scenario.act)(&home));
            for (cut, remains) in durable.power_cuts().iter().enumerate() {
                let done = result.is_ok();
                if seen.insert((done, remains.key())) {
                    let directory = directory();
                    remains.write_to(directory.path());
                    let what = format!("{}, power cut {cut} after {changes} changes", scenario.name);
                    scenario.check(directory.path(), &expected, done, &what);
                }
            }
            if !happened {
                break;
            }
        }
    }
}
