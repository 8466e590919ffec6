//! Finding damage, and setting it aside.

use crate::{new_store, publish, quiet, writer};
use freehold_base::Digest;
use freehold_store::{FaultKind, Resume, Store, StoreError};
use std::fs::{self, File};
use std::ops::ControlFlow;

/// Other bytes under the blob's name, and nothing that betrays them, as when a disk forgets.
fn rot(store: &Store, digest: &Digest) {
    let path = store.blob_path(digest);
    let changed = fs::metadata(&path).unwrap().modified().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] ^= 1;
    fs::write(&path, bytes).unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(changed).unwrap();
    // No program can set the system's own time of change, so the store's note of it is set instead.
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let note = store.root().join("verified").join(digest.hex());
        let Ok(text) = fs::read_to_string(&note) else { return };
        let metadata = fs::metadata(&path).unwrap();
        let (known, _) = text.rsplit_once(' ').unwrap();
        fs::write(note, format!("{known} {}.{:09}\n", metadata.ctime(), metadata.ctime_nsec())).unwrap();
    }
}

fn faults(store: &Store, model: Option<&str>) -> Vec<(Digest, FaultKind, Vec<String>)> {
    let scrubbed = store.scrub(model, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let mut faults: Vec<_> =
        scrubbed.faults.into_iter().map(|fault| (fault.digest, fault.kind, fault.needed_by)).collect();
    faults.sort_by(|a, b| a.2.cmp(&b.2));
    faults
}

#[test]
fn a_scrub_finds_each_kind_of_damage_and_whom_it_concerns() {
    let (_directory, store) = new_store();
    let a = publish(&store, "a", &[("a.gguf", b"only in a"), ("LICENSE", b"shared")]);
    publish(&store, "b", &[("b.gguf", b"only in b"), ("LICENSE", b"shared")]);
    let unused = store.ingest().unwrap().put_bytes(b"nobody's").unwrap().digest;
    assert_eq!(faults(&store, None), []);
    let mut heard = Vec::new();
    let whole = store
        .scrub(None, &mut |done, total| {
            heard.push((done, total));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(whole.blobs, 8, "two manifests, two configurations, three files, and one of nobody's");
    assert!(heard.is_sorted());
    assert_eq!(*heard.last().unwrap(), (whole.bytes, whole.bytes));

    let [only_a, only_b, shared] = [&b"only in a"[..], b"only in b", b"shared"].map(Digest::of);
    rot(&store, &only_a);
    rot(&store, &shared);
    rot(&store, &unused);
    fs::remove_file(store.blob_path(&only_b)).unwrap();
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let of_a = (only_a, FaultKind::Damaged, names(&["a"]));
    let of_both = (shared, FaultKind::Damaged, names(&["a", "b"]));
    let of_b = (only_b, FaultKind::Missing, names(&["b"]));
    let of_nobody = (unused, FaultKind::Damaged, names(&[]));
    assert!(store.files(&a, &mut quiet).is_ok(), "hidden from all but a scrub");
    assert_eq!(faults(&store, Some("a")), [of_a.clone(), of_both.clone()]);
    assert!(matches!(store.files(&a, &mut quiet), Err(StoreError::Damaged { .. })), "known since the scrub");
    assert_eq!(faults(&store, Some("b")), [of_both.clone(), of_b.clone()]);
    assert_eq!(faults(&store, None), [of_nobody, of_a, of_both, of_b]);
    // A manifest that is damaged: what else the model needs is not known.
    rot(&store, &a.digest);
    assert_eq!(faults(&store, Some("a")), [(a.digest, FaultKind::Damaged, names(&["a"]))]);
    assert!(matches!(store.scrub(Some("c"), &mut |_, _| ControlFlow::Continue(())), Err(StoreError::NotFound { .. })));
    let stopped = store.scrub(None, &mut |_, _| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(StoreError::Cancelled)));
}

#[cfg(unix)]
#[test]
fn what_the_system_cannot_read_does_not_end_a_scrub() {
    let (_directory, store) = new_store();
    publish(&store, "m", &[("m.gguf", b"weights")]);
    let digest = Digest::of(b"weights");
    let path = store.blob_path(&digest);
    fs::remove_file(&path).unwrap();
    // Opened like a file, and every read of it fails.
    fs::create_dir(&path).unwrap();
    let found = faults(&store, None);
    assert!(matches!(found.as_slice(), [(d, FaultKind::Unreadable(_), _)] if *d == digest), "{found:?}");
    // It may be read again a moment later.
    let ingest = store.ingest().unwrap();
    assert!(matches!(ingest.set_aside(&digest, &mut quiet), Err(StoreError::Io { .. })));
    assert!(path.is_dir());
    fs::remove_dir(&path).unwrap();
    ingest.set_aside(&digest, &mut quiet).unwrap();
    ingest.put_bytes(b"weights").unwrap();
    assert_eq!(faults(&store, None), []);
}

#[test]
fn damaged_bytes_are_kept_until_the_blob_is_whole_again() {
    let (_directory, store) = new_store();
    publish(&store, "m", &[("m.gguf", b"weights")]);
    let digest = Digest::of(b"weights");
    let aside = store.ingest_directory().join(format!("damaged-{}", digest.hex()));
    let ingest = store.ingest().unwrap();
    ingest.set_aside(&digest, &mut quiet).unwrap();
    assert!(store.has(&digest), "it was whole");
    rot(&store, &digest);
    assert_eq!(faults(&store, None).len(), 1);
    ingest.set_aside(&digest, &mut quiet).unwrap();
    assert!(!store.has(&digest));
    assert_eq!(fs::read(&aside).unwrap(), b"veights");
    ingest.set_aside(&digest, &mut quiet).unwrap();
    ingest.put_bytes(b"weights").unwrap();
    assert_eq!(faults(&store, None), []);
    assert!(!aside.exists());

    // While one waits to set it aside, another replaces it.
    rot(&store, &digest);
    assert_eq!(faults(&store, None).len(), 1);
    let mut other = Some(writer(&ingest, b"weights", Resume::Bytes));
    ingest
        .set_aside(&digest, &mut |_| {
            if let Some(mut other) = other.take() {
                other.write(b"weights").unwrap();
                other.commit().unwrap();
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(faults(&store, None), []);
    assert_eq!(fs::read_dir(store.ingest_directory()).unwrap().count(), 0);
}

#[test]
fn nothing_is_deleted_during_a_scrub() {
    let (_directory, store) = new_store();
    publish(&store, "m", &[("m.gguf", b"weights")]);
    let mut deferred = Vec::new();
    let scrubbed = store.scrub(None, &mut |_, _| {
        deferred.push(store.clean().unwrap().deferred);
        ControlFlow::Continue(())
    });
    assert_eq!(scrubbed.unwrap().faults, []);
    assert_eq!(deferred, [true; 3]);
}
