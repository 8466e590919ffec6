//! Zip archives (PKWARE APPNOTE 6.3.10) as wheels are: one directory at the end, members plain or deflated.
//!
//! Own code, because an archive comes from strangers. No memory is reserved on its word, every name in it is seen even if
//! it occurs twice, and there is one place where the directory may be, so that no other reader can see another one.

use flate2::Crc;
use flate2::read::DeflateDecoder;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Take};

/// Most files that an archive may list.
const MEMBERS_MAX: u64 = 100_000;
/// Largest directory that is read.
const DIRECTORY_BYTES_MAX: u64 = 16 << 20;
/// Deflate makes at most 258 bytes of two bits (RFC 1951, section 3.2.5).
const DEFLATE_EXPANSION_MAX: u64 = 1032;

// Signatures, and lengths without what varies: sections 4.3.7, 4.3.12 and 4.3.14 to 4.3.16.
const LOCAL_HEADER: u32 = 0x0403_4b50;
const DIRECTORY_ENTRY: u32 = 0x0201_4b50;
const DIRECTORY_END: u32 = 0x0605_4b50;
const DIRECTORY_END_64: u32 = 0x0606_4b50;
const DIRECTORY_END_64_LOCATOR: u32 = 0x0706_4b50;
/// The extra field with what 32 bits cannot hold, section 4.5.3.
const WIDE_FIELD: u16 = 1;

const STORED: u16 = 0;
const DEFLATED: u16 = 8;

const LOCAL_HEADER_BYTES: u64 = 30;
const DIRECTORY_END_BYTES: u64 = 22;
const DIRECTORY_END_64_BYTES: u64 = 56;
const LOCATOR_BYTES: u64 = 20;

/// What is wrong with an archive, for a sentence that names it.
pub(crate) type Reason = String;

/// The directory of an archive.
pub(crate) struct Archive<'a> {
    file: &'a File,
    members: Vec<Member>,
    /// Where the members end.
    directory_start: u64,
}

/// A file in an archive, as the directory describes it.
pub(crate) struct Member {
    /// Any bytes; not to be joined to a path.
    pub(crate) name: Vec<u8>,
    /// Bytes once unpacked, as claimed.
    pub(crate) size_bytes: u64,
    /// Bytes in the archive.
    pub(crate) compressed_bytes: u64,
    /// Neither a directory nor a link.
    pub(crate) is_plain: bool,
    header_start: u64,
    flags: u16,
    method: u16,
    checksum: u32,
}

impl<'a> Archive<'a> {
    /// Reads the directory.
    pub(crate) fn open(file: &'a File) -> Result<Self, Reason> {
        let Directory { start, bytes, members: count } = Directory::find(file)?;
        if count > MEMBERS_MAX {
            return Err(format!("it lists more than {MEMBERS_MAX} files"));
        }
        if bytes > DIRECTORY_BYTES_MAX {
            return Err(format!("its directory is larger than {DIRECTORY_BYTES_MAX} bytes"));
        }
        let directory = read_at(file, start, bytes)?;
        let mut fields = Fields(&directory);
        let mut members = Vec::new();
        for _ in 0..count {
            members.push(Member::read(&mut fields)?);
        }
        if !fields.0.is_empty() {
            return Err("its directory holds more than it lists".to_owned());
        }
        // Bytes that two members share are a way to make a small archive large.
        let mut spans: Vec<(u64, u64)> = members.iter().map(|member| (member.header_start, member.end_min())).collect();
        spans.push((start, u64::MAX));
        spans.sort_unstable();
        if spans.windows(2).any(|pair| pair[0].1 > pair[1].0) {
            return Err("files in it overlap".to_owned());
        }
        Ok(Self { file, members, directory_start: start })
    }

    /// All that it lists, in the directory's order.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Begins to unpack a member of this archive.
    pub(crate) fn unpack(&self, member: &Member) -> Result<Unpacked<'a>, Reason> {
        let header = read_at(self.file, member.header_start, LOCAL_HEADER_BYTES)?;
        let mut fields = Fields(&header);
        if fields.u32()? != LOCAL_HEADER {
            return Err("it is not where the directory says".to_owned());
        }
        fields.u16()?; // the version needed
        let (flags, method) = (fields.u16()?, fields.u16()?);
        fields.bytes(16)?; // time, checksum and sizes, which need not be known here yet
        let (name_bytes, extra_bytes) = (fields.u16()?, fields.u16()?);
        let name_start = member.header_start + LOCAL_HEADER_BYTES;
        let name = read_at(self.file, name_start, u64::from(name_bytes))?;
        if (name.as_slice(), method) != (&member.name, member.method) {
            return Err("it is described in two ways".to_owned());
        }
        let start = name_start + u64::from(name_bytes) + u64::from(extra_bytes);
        let following =
            self.members.iter().map(|other| other.header_start).filter(|other| *other > member.header_start);
        if start.saturating_add(member.compressed_bytes) > following.min().unwrap_or(self.directory_start) {
            return Err("it overlaps with what follows".to_owned());
        }
        // Bit 0: encrypted.
        if (flags | member.flags) & 1 != 0 {
            return Err("it is encrypted".to_owned());
        }
        let (size, packed) = (member.size_bytes, member.compressed_bytes);
        let is_possible = match method {
            STORED => size == packed,
            DEFLATED => size <= packed.saturating_mul(DEFLATE_EXPANSION_MAX),
            _ => return Err(format!("it is packed by method {method}; only deflate is read")),
        };
        if !is_possible {
            return Err(format!("{packed} bytes cannot unpack to {size}"));
        }
        let mut file = self.file;
        file.seek(SeekFrom::Start(start)).map_err(|error| error.to_string())?;
        let bytes = file.take(packed);
        let packing =
            if method == STORED { Packing::Stored(bytes) } else { Packing::Deflated(DeflateDecoder::new(bytes)) };
        Ok(Unpacked { packing, left_bytes: size, compressed_bytes: packed, sum: Crc::new(), checksum: member.checksum })
    }
}

impl Member {
    fn read(fields: &mut Fields<'_>) -> Result<Self, Reason> {
        if fields.u32()? != DIRECTORY_ENTRY {
            return Err("its directory holds something that is no file".to_owned());
        }
        fields.u32()?; // versions
        let (flags, method) = (fields.u16()?, fields.u16()?);
        fields.u32()?; // time
        let checksum = fields.u32()?;
        let (compressed, size) = (fields.u32()?, fields.u32()?);
        let (name_bytes, extra_bytes, comment_bytes) = (fields.u16()?, fields.u16()?, fields.u16()?);
        fields.u32()?; // disk and internal attributes
        let attributes = fields.u32()?;
        let header_start = fields.u32()?;
        let name = fields.bytes(name_bytes.into())?.to_vec();
        let extra = fields.bytes(extra_bytes.into())?;
        fields.bytes(comment_bytes.into())?;
        let mut wide = Fields(wide_field(extra)?);
        let mut widen = |value| if value == u32::MAX { wide.u64() } else { Ok(u64::from(value)) };
        let (size_bytes, compressed_bytes, header_start) = (widen(size)?, widen(compressed)?, widen(header_start)?);
        // The high half is a Unix mode, if anything: a regular file, or nothing said. Bit 4 of the low half: a directory.
        let is_plain = matches!(attributes >> 28, 0 | 0o10) && attributes & 0x10 == 0 && !name.ends_with(b"/");
        Ok(Self { name, size_bytes, compressed_bytes, is_plain, header_start, flags, method, checksum })
    }

    /// Where it ends at the earliest.
    fn end_min(&self) -> u64 {
        self.header_start.saturating_add(LOCAL_HEADER_BYTES).saturating_add(self.compressed_bytes)
    }
}

/// The content of the extra field for 64-bit values, which may occur once.
fn wide_field(extra: &[u8]) -> Result<&[u8], Reason> {
    let mut fields = Fields(extra);
    let mut found: Option<&[u8]> = None;
    // Some writers pad with a few bytes that are no field.
    while fields.0.len() >= 4 {
        let (tag, bytes) = (fields.u16()?, fields.u16()?);
        let content = fields.bytes(bytes.into())?;
        if tag == WIDE_FIELD && found.replace(content).is_some() {
            return Err("it gives a file two sizes".to_owned());
        }
    }
    Ok(found.unwrap_or_default())
}

/// Where the directory is, as the archive's end says.
struct Directory {
    start: u64,
    bytes: u64,
    members: u64,
}

impl Directory {
    fn find(file: &File) -> Result<Self, Reason> {
        let length = file.metadata().map_err(|error| error.to_string())?.len();
        // The end is followed by a comment of at most 65,535 bytes, which must reach to the end of the file.
        let tail_start = length.saturating_sub(DIRECTORY_END_BYTES + u64::from(u16::MAX));
        let tail = read_at(file, tail_start, length - tail_start)?;
        let fits = |at: &usize| {
            let mut fields = Fields(&tail[*at..]);
            let is_end = fields.u32() == Ok(DIRECTORY_END) && fields.bytes(16).is_ok();
            is_end && fields.u16().is_ok_and(|comment_bytes| usize::from(comment_bytes) == fields.0.len())
        };
        let at = (0..tail.len()).rev().find(fits).ok_or("there is no directory at its end")?;
        let end = tail_start + at as u64;
        let mut fields = Fields(&tail[at + 4..]);
        let disks = [fields.u16()?, fields.u16()?];
        let members = [fields.u16()?, fields.u16()?];
        let (bytes, start) = (fields.u32()?, fields.u32()?);
        let narrow = Self { start: start.into(), bytes: bytes.into(), members: members[1].into() };
        let (directory, directory_end) = match Self::find_wide(file, end)? {
            None => (narrow, end),
            Some((wide, wide_start)) => {
                // What fits is said twice.
                let agrees = |narrow: u64, full: u32, wide: u64| narrow == u64::from(full) || narrow == wide;
                if !agrees(narrow.members, u16::MAX.into(), wide.members)
                    || !agrees(narrow.bytes, u32::MAX, wide.bytes)
                    || !agrees(narrow.start, u32::MAX, wide.start)
                {
                    return Err("its two ends disagree".to_owned());
                }
                (wide, wide_start)
            }
        };
        if disks.iter().any(|disk| ![0, u16::MAX].contains(disk)) || members[0] != members[1] {
            return Err("it is one part of several".to_owned());
        }
        if directory.start.checked_add(directory.bytes) != Some(directory_end) {
            return Err("its directory is not where it says".to_owned());
        }
        Ok(directory)
    }

    /// The 64-bit form and where it is, if there is one before `end`.
    fn find_wide(file: &File, end: u64) -> Result<Option<(Self, u64)>, Reason> {
        let Some(locator_start) = end.checked_sub(LOCATOR_BYTES) else { return Ok(None) };
        let locator = read_at(file, locator_start, LOCATOR_BYTES)?;
        let mut fields = Fields(&locator);
        if fields.u32()? != DIRECTORY_END_64_LOCATOR {
            return Ok(None);
        }
        fields.u32()?; // disk
        let start = fields.u64()?;
        if start.checked_add(DIRECTORY_END_64_BYTES).is_none_or(|earliest| earliest > locator_start) {
            return Err("its end is not where it says".to_owned());
        }
        let record = read_at(file, start, DIRECTORY_END_64_BYTES)?;
        let mut fields = Fields(&record);
        let (signature, rest_bytes) = (fields.u32()?, fields.u64()?);
        if signature != DIRECTORY_END_64 || (start + 12).checked_add(rest_bytes) != Some(locator_start) {
            return Err("its end is not where it says".to_owned());
        }
        fields.bytes(12)?; // versions and disks
        let members = [fields.u64()?, fields.u64()?];
        if members[0] != members[1] {
            return Err("it is one part of several".to_owned());
        }
        let (bytes, directory_start) = (fields.u64()?, fields.u64()?);
        Ok(Some((Self { start: directory_start, bytes, members: members[0] }, start)))
    }
}

/// The bytes of a member. Reading to the end checks them: an error if they are more, fewer or others than the directory
/// says.
pub(crate) struct Unpacked<'a> {
    packing: Packing<'a>,
    left_bytes: u64,
    compressed_bytes: u64,
    sum: Crc,
    checksum: u32,
}

enum Packing<'a> {
    Stored(Take<&'a File>),
    Deflated(DeflateDecoder<Take<&'a File>>),
}

impl Read for Unpacked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (count, taken_bytes) = match &mut self.packing {
            Packing::Stored(bytes) => (bytes.read(buffer)?, self.compressed_bytes),
            Packing::Deflated(decoder) => (decoder.read(buffer)?, decoder.total_in()),
        };
        self.left_bytes =
            self.left_bytes.checked_sub(count as u64).ok_or_else(|| io::Error::other("it is longer than it claims"))?;
        self.sum.update(&buffer[..count]);
        if count > 0 || buffer.is_empty() {
            return Ok(count);
        }
        if self.left_bytes > 0 {
            return Err(io::Error::other("it is shorter than it claims"));
        }
        if taken_bytes != self.compressed_bytes {
            return Err(io::Error::other("something follows its end"));
        }
        if self.sum.sum() != self.checksum {
            return Err(io::Error::other("its checksum is wrong"));
        }
        Ok(0)
    }
}

/// Little-endian numbers, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Reason> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or("its directory ends in the middle")?;
        self.0 = rest;
        Ok(bytes)
    }

    fn u16(&mut self) -> Result<u16, Reason> {
        let bytes = self.bytes(2)?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Result<u32, Reason> {
        Ok(u32::from(self.u16()?) | u32::from(self.u16()?) << 16)
    }

    fn u64(&mut self) -> Result<u64, Reason> {
        Ok(u64::from(self.u32()?) | u64::from(self.u32()?) << 32)
    }
}

/// The caller has checked that `bytes` is no more than may be in memory.
fn read_at(mut file: &File, start: u64, bytes: u64) -> Result<Vec<u8>, Reason> {
    let mut buffer = vec![0; bytes as usize];
    let read = file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut buffer));
    read.map(|()| buffer).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::Archive;
    use std::io::{Read as _, Seek as _, Write as _};

    /// The members' bytes; those that cannot be had are left out.
    fn read(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        let archive = Archive::open(&file)?;
        let unpacked = archive.members().iter().filter_map(|member| {
            let mut bytes = Vec::new();
            // More than is claimed is an error before it is in memory.
            archive.unpack(member).ok()?.read_to_end(&mut bytes).ok()?;
            Some(bytes)
        });
        Ok(unpacked.collect())
    }

    #[test]
    fn truncated_or_changed_anywhere() {
        let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default();
        let content = b"the same again and again, the same again and again".to_vec();
        for (name, method) in [("a", zip::CompressionMethod::Stored), ("b", zip::CompressionMethod::Deflated)] {
            writer.start_file(name, options.compression_method(method).large_file(name == "b")).unwrap();
            writer.write_all(&content).unwrap();
        }
        let whole = writer.finish().unwrap().into_inner();
        assert_eq!(read(&whole).unwrap(), [content.clone(), content.clone()]);
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length} bytes of {}", whole.len());
        }
        for at in 0..whole.len() {
            for change in [1, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[at] ^= change;
                // Wrong bytes are never given for right ones.
                for bytes in read(&changed).unwrap_or_default() {
                    assert_eq!(bytes, content, "byte {at}");
                }
            }
        }
    }
}
