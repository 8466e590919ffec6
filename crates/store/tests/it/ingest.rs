//! Bringing blobs in: resuming, sharing, verifying, adopting, running out of room.

use crate::{file, new_store, publish, quiet, writer};
use freehold_base::Digest;
use freehold_store::{Facts, NewModel, Resume, Start, Store, StoreError, StoredBlob, Target};
use std::fs;
use std::ops::ControlFlow;

const WHOLE: &[u8] = b"first part, second part, third part";

fn leftovers(store: &Store) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(store.ingest_directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_broken_off_blob_is_continued_where_it_was() {
    let (_directory, store) = new_store();
    let ingest = store.ingest().unwrap();
    for cut in [0, 1, 17, WHOLE.len()] {
        let mut first = writer(&ingest, WHOLE, Resume::Bytes);
        first.restart().unwrap();
        first.write(&WHOLE[..cut]).unwrap();
        drop(first);
        assert_eq!(writer(&ingest, WHOLE, Resume::Bytes).length(), cut as u64);
    }
    let mut last = writer(&ingest, WHOLE, Resume::Bytes);
    last.write(&WHOLE[last.length() as usize..]).unwrap();
    let blob = last.commit().unwrap();
    assert_eq!(fs::read(store.blob_path(&blob.digest)).unwrap(), WHOLE);
    assert_eq!(leftovers(&store), [""; 0]);
}

#[test]
fn finished_pieces_are_kept_and_unfinished_ones_dropped() {
    let labels = |names: [&str; 3]| names.map(str::to_owned);
    // (labels of the second writer, pieces and bytes that it finds)
    for (second, pieces, length) in
        [(labels(["a", "b", "c"]), 2, 24), (labels(["a", "other", "c"]), 1, 12), (labels(["other", "b", "c"]), 0, 0)]
    {
        let (_directory, store) = new_store();
        let ingest = store.ingest().unwrap();
        let mut first = writer(&ingest, WHOLE, Resume::Pieces(&labels(["a", "b", "c"])));
        first.write(&WHOLE[..12]).unwrap();
        first.finish_piece("a").unwrap();
        first.write(&WHOLE[12..24]).unwrap();
        first.finish_piece("b").unwrap();
        first.write(&WHOLE[24..30]).unwrap();
        drop(first);
        let mut writer = writer(&ingest, WHOLE, Resume::Pieces(&second));
        assert_eq!((writer.pieces(), writer.length()), (pieces, length));
        writer.write(&WHOLE[length as usize..]).unwrap();
        assert_eq!(writer.commit().unwrap().digest, Digest::of(WHOLE));
    }
}

/// Whatever a killed process leaves in `ingest/`, the next one ends with the right blob.
#[test]
fn leftovers_of_every_kind_do_no_harm() {
    let hex = Digest::of(WHOLE).hex();
    let names = |extension: &str| format!("{hex}.{extension}");
    let cases: [&[(String, &[u8])]; 7] = [
        &[(names("part"), b"first part,")],
        &[(names("part"), WHOLE)],
        &[(names("part"), b"not the bytes that were asked for at all, and too many of them")],
        &[(names("part"), b""), (names("lock"), b"")],
        &[(names("part"), b"first part, s"), (names("marks"), b"12 a\n24 ")],
        &[(names("part"), b"first part, s"), (names("marks"), b"\xff\xff 12 a 99999999999999999999 b\n-1 a\n")],
        &[(names("marks-new"), b"12"), ("index-new".to_owned(), b"{\"schemaVer"), ("oci-layout-new".to_owned(), b"")],
    ];
    for (case, files) in cases.into_iter().enumerate() {
        for by_pieces in [false, true] {
            let (_directory, store) = new_store();
            for (name, bytes) in files {
                fs::write(store.ingest_directory().join(name), bytes).unwrap();
            }
            let store = Store::open(store.root()).unwrap();
            let ingest = store.ingest().unwrap();
            let labels = ["a".to_owned(), "b".to_owned()];
            let resume = if by_pieces { Resume::Pieces(&labels) } else { Resume::Bytes };
            let mut attempt = writer(&ingest, WHOLE, resume);
            attempt.write(&WHOLE[attempt.length() as usize..]).unwrap();
            let blob = attempt.commit().unwrap();
            let files = vec![file("m.gguf", blob)];
            ingest.publish("m", &NewModel { facts: Facts::default(), files }, "test").unwrap();
            drop(ingest);
            store.clean().unwrap();
            assert_eq!(leftovers(&store), [""; 0], "case {case}");
            assert!(store.files(&store.resolve("m").unwrap(), &mut quiet).is_ok(), "case {case}");
        }
    }
}

#[test]
fn wrong_bytes_never_get_a_name() {
    let (_directory, store) = new_store();
    let ingest = store.ingest().unwrap();
    let wrong = [b'x'; WHOLE.len()];
    let mut same_size = writer(&ingest, WHOLE, Resume::Bytes);
    same_size.write(&wrong).unwrap();
    let error = same_size.commit().unwrap_err();
    assert!(
        matches!(error, StoreError::WrongDigest { expected, got, .. } if expected == Digest::of(WHOLE) && got == Digest::of(&wrong)),
        "{error}"
    );
    assert_eq!(writer(&ingest, WHOLE, Resume::Bytes).length(), 0, "wrong bytes were kept");

    let mut short = writer(&ingest, WHOLE, Resume::Bytes);
    short.write(&WHOLE[..5]).unwrap();
    assert!(matches!(short.commit(), Err(StoreError::WrongSize { expected: 35, got: 5, .. })));
    assert_eq!(writer(&ingest, WHOLE, Resume::Bytes).length(), 5, "right bytes were dropped");

    let mut long = writer(&ingest, WHOLE, Resume::Bytes);
    assert!(matches!(long.write(&[0; 31]), Err(StoreError::WrongSize { expected: 35, got: 36, .. })));
    drop(long);
    assert_eq!(writer(&ingest, WHOLE, Resume::Bytes).length(), 0, "bytes that are too many were kept");
    assert!(!store.has(&Digest::of(WHOLE)));
}

#[test]
fn two_writers_of_one_blob_share_the_work() {
    let (_directory, store) = new_store();
    let ingest = store.ingest().unwrap();
    let mut first = Some(writer(&ingest, WHOLE, Resume::Bytes));
    first.as_mut().unwrap().write(&WHOLE[..10]).unwrap();
    let mut heard = Vec::new();
    // The second hears how far the first is; the first finishes while the second waits.
    let second = ingest
        .writer(&Target::Blob(Digest::of(WHOLE)), Some(WHOLE.len() as u64), Resume::Bytes, &mut |bytes| {
            heard.push(bytes);
            if let Some(mut first) = first.take() {
                first.write(&WHOLE[10..]).unwrap();
                first.commit().unwrap();
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(matches!(second, Start::Present(blob) if blob.digest == Digest::of(WHOLE)));
    assert_eq!(heard[0], 10);

    // If the first gives up, the second goes on from what it left.
    let mut first = Some(writer(&ingest, b"another", Resume::Bytes));
    let target = Target::Blob(Digest::of(b"another"));
    let Start::Writer(second) = ingest
        .writer(&target, Some(7), Resume::Bytes, &mut |_| {
            if let Some(mut first) = first.take() {
                first.write(b"ano").unwrap();
            }
            ControlFlow::Continue(())
        })
        .unwrap()
    else {
        panic!("nobody finished the blob")
    };
    assert_eq!(second.length(), 3);
    // And waiting can be cancelled.
    let cancelled = ingest.writer(&target, Some(7), Resume::Bytes, &mut |_| ControlFlow::Break(()));
    assert!(matches!(cancelled, Err(StoreError::Cancelled)));
}

#[test]
fn work_on_the_same_thing_is_done_by_one_at_a_time() {
    let (_directory, store) = new_store();
    let ingest = store.ingest().unwrap();
    let mut first = Some(ingest.lock("pypi:a==1#b", &mut || ControlFlow::Break(())).unwrap());
    let other = ingest.lock("pypi:a==2#b", &mut || ControlFlow::Break(())).unwrap();
    assert!(matches!(ingest.lock("pypi:a==1#b", &mut || ControlFlow::Break(())), Err(StoreError::Cancelled)));
    let mut turns = 0;
    let second = ingest.lock("pypi:a==1#b", &mut || {
        turns += 1;
        first.take();
        ControlFlow::Continue(())
    });
    assert!(second.is_ok());
    assert!(turns > 0);
    drop((second, other));
    assert_eq!(leftovers(&store), [""; 0]);
}

#[test]
fn a_blob_of_unknown_digest_is_named_by_what_was_written() {
    let (_directory, store) = new_store();
    let ingest = store.ingest().unwrap();
    let target = Target::Unknown("https://example.org/a".to_owned());
    let begin = |resume| match ingest.writer(&target, None, resume, &mut quiet).unwrap() {
        Start::Writer(writer) => writer,
        Start::Present(_) => panic!("nothing can be present"),
    };
    begin(Resume::Bytes).write(b"of no use, for nothing vouches for it").unwrap();
    let labels = ["a".to_owned()];
    let mut writer = begin(Resume::Pieces(&labels));
    assert_eq!(writer.length(), 0);
    writer.write(b"bytes").unwrap();
    writer.finish_piece("a").unwrap();
    writer.write(b"more").unwrap();
    drop(writer);
    let mut writer = begin(Resume::Pieces(&labels));
    assert_eq!(writer.length(), 5);
    writer.write(b"bytes").unwrap();
    assert_eq!(writer.commit().unwrap(), StoredBlob { digest: Digest::of(b"bytesbytes"), size_bytes: 10 });
}

#[test]
fn scratch_files_are_verified_resumed_and_removed() {
    let (_directory, store) = new_store();
    let ingest = store.ingest().unwrap();
    let begin = || match ingest.writer(&Target::Scratch(Digest::of(WHOLE)), None, Resume::Bytes, &mut quiet).unwrap() {
        Start::Writer(writer) => writer,
        Start::Present(_) => panic!("scratch files are never in the store"),
    };
    begin().write(&WHOLE[..9]).unwrap();
    let mut writer = begin();
    assert_eq!(writer.length(), 9);
    assert!(!writer.is_whole());
    writer.write(&WHOLE[9..]).unwrap();
    assert!(writer.is_whole());
    let scratch = writer.into_scratch().unwrap();
    assert_eq!(std::io::read_to_string(&scratch.file).unwrap().as_bytes(), WHOLE);
    scratch.remove().unwrap();
    assert_eq!(leftovers(&store), [""; 0]);
    assert!(!store.has(&Digest::of(WHOLE)));
}

#[test]
fn files_from_elsewhere_are_adopted_and_left_as_they_are() {
    let (directory, store) = new_store();
    let ingest = store.ingest().unwrap();
    let original = directory.path().join("model.gguf");
    fs::write(&original, WHOLE).unwrap();
    let wrong = Digest::of(b"something else");
    let error = ingest.adopt_file(&original, Some(wrong), &mut quiet).unwrap_err();
    assert!(error.to_string().contains("model.gguf has the wrong content"), "{error}");
    assert!(!store.has(&wrong));
    // A process killed in the middle leaves a link to the user's file behind; nothing may be written through it.
    fs::hard_link(&original, store.ingest_directory().join(format!("{}.link", Digest::of(WHOLE).hex()))).unwrap();
    for expected in [None, Some(Digest::of(WHOLE)), None] {
        let blob = ingest.adopt_file(&original, expected, &mut quiet).unwrap();
        assert_eq!(blob, StoredBlob { digest: Digest::of(WHOLE), size_bytes: WHOLE.len() as u64 });
    }
    let cancelled = ingest.adopt_file(&original, Some(wrong), &mut |_| ControlFlow::Break(()));
    assert!(matches!(cancelled, Err(StoreError::Cancelled)));
    drop(ingest);
    store.clean().unwrap();
    assert_eq!(fs::read(&original).unwrap(), WHOLE);
    assert!(!store.has(&Digest::of(WHOLE)), "a blob that no model names outlived the clean-up");
}

#[test]
fn a_model_needs_all_its_blobs() {
    let (_directory, store) = new_store();
    let ingest = store.ingest().unwrap();
    let absent = StoredBlob { digest: Digest::of(b"absent"), size_bytes: 6 };
    let there = ingest.put_bytes(b"there").unwrap();
    let wrong_size = StoredBlob { size_bytes: 4, ..there };
    for blob in [absent, wrong_size] {
        let model = NewModel { facts: Facts::default(), files: vec![file("a.gguf", there), file("b.gguf", blob)] };
        assert!(matches!(ingest.publish("m", &model, "test"), Err(StoreError::MissingBlob { .. })));
    }
    assert_eq!(store.list().unwrap().len(), 0);
}

#[test]
fn a_full_disk_is_said_so_and_loses_nothing() {
    let (_directory, store) = new_store();
    publish(&store, "kept", &[("kept.gguf", b"kept")]);
    let ingest = store.ingest().unwrap();
    let target = Target::Blob(Digest::of(b"huge"));
    let Start::Writer(writer) = ingest.writer(&target, Some(1 << 60), Resume::Bytes, &mut quiet).unwrap() else {
        panic!()
    };
    let error = writer.reserve(1 << 60).unwrap_err().to_string();
    assert!(error.contains("is full: 1.2 EB are needed, "), "{error}");

    #[cfg(target_os = "linux")]
    {
        // The disk fills up while we write: every write to this device fails so.
        let part = store.ingest_directory().join(format!("{}.part", Digest::of(WHOLE).hex()));
        std::os::unix::fs::symlink("/dev/full", &part).unwrap();
        let error = crate::writer(&ingest, WHOLE, Resume::Bytes).write(WHOLE).unwrap_err();
        assert!(matches!(error, StoreError::DiskFull { needed_bytes: Some(35), .. }), "{error}");
        // Room again: the same pull works.
        fs::remove_file(&part).unwrap();
        let mut writer = crate::writer(&ingest, WHOLE, Resume::Bytes);
        writer.write(WHOLE).unwrap();
        writer.commit().unwrap();
    }
    assert!(store.files(&store.resolve("kept").unwrap(), &mut quiet).is_ok());
}
