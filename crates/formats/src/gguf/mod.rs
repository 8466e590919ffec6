//! GGUF: one file that holds a model's metadata, tokenizer and weights.
//!
//! The layout is that of the GGUF specification, version 3 (and 2, which is the same): magic, version, counts, key-value
//! pairs, tensor descriptions, padding, data; all little-endian. Limits follow the reference implementation: strings up
//! to 1 GiB, arrays up to 2^30 values and not nested, names below 64 bytes, up to 4 dimensions, and tensors in the data
//! one after the other, each padded to the alignment. A file that breaks any of this is refused as a whole.

mod cursor;
mod writer;

pub use writer::{GgufWriter, TensorDescription};

use crate::error::{Error, Result, shown};
use crate::metadata::{Metadata, Value};
use crate::mmap::Mmap;
use crate::tensor::{TENSORS_MAX, TensorTable, TensorView, name_problem};
use cursor::Cursor;
use freehold_base::Dtype;
use std::path::Path;

/// The first four bytes of every GGUF file.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";

/// The version that is written.
const VERSION: u32 = 3;
/// Real files have below a hundred keys.
const KEYS_MAX: usize = 1 << 16;
/// The specification's limit on the length of a key.
const KEY_BYTES_MAX: usize = 65_535;
/// The reference implementation's names end in a zero byte within 64 bytes.
const TENSOR_NAME_BYTES_MAX: usize = 63;
const DIMENSIONS_MAX: u32 = 4;
const ALIGNMENT_KEY: &str = "general.alignment";
const ALIGNMENT_DEFAULT: u32 = 32;
/// Far above what any writer uses; a limit because the padding is that long.
const ALIGNMENT_MAX: u32 = 1 << 20;

/// An opened GGUF file: metadata in memory, weights mapped.
#[derive(Clone, Debug)]
pub struct Gguf {
    /// One file; a list because the tensor table serves sharded formats too.
    files: [Mmap; 1],
    version: u32,
    alignment: u32,
    metadata: Metadata,
    tensors: TensorTable,
}

impl Gguf {
    /// Opens and checks the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be mapped, [`Error::Gguf`] where it breaks the format.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_bytes(Mmap::open(path)?)
    }

    /// Checks a file that is mapped or in memory already.
    ///
    /// # Errors
    /// [`Error::Gguf`] where the bytes break the format.
    pub fn from_bytes(file: impl Into<Mmap>) -> Result<Self> {
        let file = file.into();
        let mut cursor = Cursor::new(&file);
        let (version, tensor_count, key_count) = read_header(&file, &mut cursor)?;
        let metadata = read_metadata(&mut cursor, key_count)?;
        refuse_parts(&metadata)?;
        let alignment = read_alignment(&metadata)?;
        let tensors = read_tensors(&mut cursor, tensor_count, alignment, file.len())?;
        Ok(Self { version, alignment, metadata, tensors, files: [file] })
    }

    /// The version in the header: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The alignment of tensors in the file, in bytes: a power of two.
    pub fn alignment(&self) -> u32 {
        self.alignment
    }

    /// The key-value pairs.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors in file order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorView<'_>> {
        (0..self.tensors.len()).map(|entry| self.tensors.view(entry, &self.files))
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        Some(self.tensors.view(self.tensors.find(name)?, &self.files))
    }

    /// The files that hold the tensors.
    pub(crate) fn files(&self) -> &[Mmap] {
        &self.files
    }
}

fn read_header(file: &[u8], cursor: &mut Cursor<'_>) -> Result<(u32, usize, usize)> {
    let named = |name: &'static str| move || String::from(name);
    if !file.starts_with(&MAGIC) {
        return Err(damaged("magic".into(), "the file does not begin with the letters GGUF".into()));
    }
    cursor.u32(&named("magic"))?;
    let version = cursor.u32(&named("version"))?;
    match version {
        2 | 3 => {}
        // A big-endian file holds its small version number in the other end of the word.
        _ if version != 0 && version.trailing_zeros() >= 16 => {
            return Err(unsupported("version".into(), "the file is for big-endian machines".into()));
        }
        0 | 1 => return Err(unsupported("version".into(), format!("version {version} is older than version 2"))),
        _ => {
            return Err(unsupported("version".into(), format!("version {version} is unknown; 2 and 3 are supported")));
        }
    }
    let tensor_count = cursor.u64(&named("tensor count"))?;
    let key_count = cursor.u64(&named("metadata key count"))?;
    let capped = |count: u64, maximum: usize, field: &str| match usize::try_from(count) {
        Ok(count) if count <= maximum => Ok(count),
        _ => Err(damaged(field.into(), format!("the header claims {count}; at most {maximum} are allowed"))),
    };
    Ok((
        version,
        capped(tensor_count, TENSORS_MAX, "tensor count")?,
        capped(key_count, KEYS_MAX, "metadata key count")?,
    ))
}

fn read_metadata(cursor: &mut Cursor<'_>, key_count: usize) -> Result<Metadata> {
    let mut pairs = Vec::new();
    for number in 0..key_count {
        let field = || format!("metadata key number {number}");
        let key = cursor.string(&field)?;
        if let Some(problem) = name_problem(key, KEY_BYTES_MAX) {
            return Err(damaged(field(), problem));
        }
        pairs.push((key.to_owned(), cursor.value(key)?));
    }
    Metadata::new(pairs).map_err(|key| damaged(format!("metadata key `{}`", shown(&key)), "it occurs twice".into()))
}

/// One file of several is useless alone, and would only be found out as missing tensors much later.
fn refuse_parts(metadata: &Metadata) -> Result<()> {
    match metadata.optional_u32("split.count")? {
        Some(parts @ 2..) => Err(Error::Gguf {
            field: "metadata key `split.count`".into(),
            problem: format!("the file is one of {parts} parts of a model"),
            remedy: "Join the parts into one file with `llama-gguf-split --merge`",
        }),
        _ => Ok(()),
    }
}

fn read_alignment(metadata: &Metadata) -> Result<u32> {
    let Some(value) = metadata.get(ALIGNMENT_KEY) else {
        return Ok(ALIGNMENT_DEFAULT);
    };
    match *value {
        // The specification asks for a multiple of 8, the reference implementation for a power of two.
        Value::U32(alignment @ 8..=ALIGNMENT_MAX) if alignment.is_power_of_two() => Ok(alignment),
        Value::U32(alignment) => Err(damaged(
            format!("metadata key `{ALIGNMENT_KEY}`"),
            format!("it is {alignment}; it must be a power of two from 8 to {ALIGNMENT_MAX}"),
        )),
        _ => Err(damaged(format!("metadata key `{ALIGNMENT_KEY}`"), "it must be of type u32".into())),
    }
}

/// GGUF's numbers of the types of metadata values.
mod value_type {
    pub(super) const U8: u32 = 0;
    pub(super) const I8: u32 = 1;
    pub(super) const U16: u32 = 2;
    pub(super) const I16: u32 = 3;
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const STRING: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
    pub(super) const U64: u32 = 10;
    pub(super) const I64: u32 = 11;
    pub(super) const F64: u32 = 12;
}

/// What the header says of a tensor: (dtype, offset in the data, size in bytes).
type Description = (Dtype, u64, u64);

fn read_tensors(cursor: &mut Cursor<'_>, count: usize, alignment: u32, file_length: usize) -> Result<TensorTable> {
    let alignment = u64::from(alignment);
    // The shortest description: a name of one byte and one dimension. Checked before a table of that size is made.
    const DESCRIPTION_BYTES_MIN: usize = 8 + 1 + 4 + 8 + 4 + 8;
    if count > cursor.remaining() / DESCRIPTION_BYTES_MIN {
        return Err(damaged(
            "tensor count".into(),
            format!("the header claims {count} tensors, more than the file has room for"),
        ));
    }
    // Descriptions are read before it is known where the data begin; offsets are turned into file positions after.
    let mut tensors = TensorTable::default();
    let mut data_length = 0u64;
    for number in 0..count {
        let field = || format!("tensor number {number}");
        let name = cursor.string(&field)?;
        if let Some(problem) = name_problem(name, TENSOR_NAME_BYTES_MAX) {
            return Err(damaged(field(), problem));
        }
        let field = || format!("tensor `{}`", shown(name));
        let mut dimensions = [0; DIMENSIONS_MAX as usize];
        let dimensions = read_dimensions(cursor, &field, &mut dimensions)?;
        let (dtype, offset, size) = read_description(cursor, &field, dimensions)?;
        if offset != data_length {
            return Err(damaged(
                field(),
                format!("its data begin at offset {offset}, but the tensor before it makes that {data_length}"),
            ));
        }
        let claimed = || damaged(field(), "its data end beyond the end of the file".into());
        let end = offset.checked_add(size).filter(|&end| end <= file_length as u64).ok_or_else(claimed)?;
        // `end` is at most a file's length and the alignment at most 2^20.
        data_length = end.next_multiple_of(alignment);
        tensors.push(name, dimensions, dtype, 0, offset as usize..end as usize);
    }
    let header_end = cursor.position() as u64;
    let data_start = header_end.next_multiple_of(alignment);
    check_length(&tensors, header_end, data_start, data_length, file_length as u64)?;
    tensors.shift(data_start as usize);
    let twice = tensors.index().map_err(shown);
    twice.map_err(|name| damaged(format!("tensor `{name}`"), "two tensors have this name".into()))?;
    Ok(tensors)
}

/// Reads the number of dimensions and the dimensions, and turns them outermost first.
fn read_dimensions<'d>(
    cursor: &mut Cursor<'_>,
    field: &dyn Fn() -> String,
    dimensions: &'d mut [u64; DIMENSIONS_MAX as usize],
) -> Result<&'d [u64]> {
    let rank = cursor.u32(field)?;
    if !(1..=DIMENSIONS_MAX).contains(&rank) {
        return Err(damaged(field(), format!("it has {rank} dimensions; 1 to {DIMENSIONS_MAX} are allowed")));
    }
    let dimensions = &mut dimensions[..rank as usize];
    for dimension in dimensions.iter_mut().rev() {
        *dimension = cursor.u64(field)?;
        if *dimension == 0 {
            return Err(damaged(field(), "one of its dimensions is 0".into()));
        }
    }
    Ok(dimensions)
}

fn read_description(cursor: &mut Cursor<'_>, field: &dyn Fn() -> String, shape: &[u64]) -> Result<Description> {
    let dtype = dtype_of(cursor.u32(field)?).map_err(|problem| unsupported(field(), problem))?;
    let offset = cursor.u64(field)?;
    let row = shape.last().copied().unwrap_or(1);
    let (block, _) = dtype.block();
    if !row.is_multiple_of(block as u64) {
        return Err(damaged(
            field(),
            format!("its rows have {row} numbers, which are no whole blocks of {block} ({dtype})"),
        ));
    }
    let numbers = shape.iter().try_fold(1u64, |product, &dimension| product.checked_mul(dimension));
    let size = numbers.and_then(|numbers| dtype.size_bytes(numbers));
    let size = size.ok_or_else(|| damaged(field(), format!("its shape {shape:?} is larger than any file")))?;
    Ok((dtype, offset, size))
}

/// The file must end with the last tensor's data or with the padding after them, nowhere before and nowhere behind.
fn check_length(
    tensors: &TensorTable,
    header_end: u64,
    data_start: u64,
    data_length: u64,
    file_length: u64,
) -> Result<()> {
    let padded_end = data_start + data_length;
    let end = tensors.data_end().map_or(header_end, |end| data_start + end as u64);
    if file_length < end {
        return Err(damaged(
            "tensor data".into(),
            format!("the tensors need {end} bytes, but the file has {file_length}; its end is missing"),
        ));
    }
    if file_length > padded_end {
        return Err(damaged(
            "end of file".into(),
            format!("{} bytes follow the last tensor that belong to nothing", file_length - padded_end),
        ));
    }
    Ok(())
}

/// GGUF's number of each encoding.
const DTYPES: [(u32, Dtype); 35] = [
    (0, Dtype::F32),
    (1, Dtype::F16),
    (2, Dtype::Q4_0),
    (3, Dtype::Q4_1),
    (6, Dtype::Q5_0),
    (7, Dtype::Q5_1),
    (8, Dtype::Q8_0),
    (9, Dtype::Q8_1),
    (10, Dtype::Q2_K),
    (11, Dtype::Q3_K),
    (12, Dtype::Q4_K),
    (13, Dtype::Q5_K),
    (14, Dtype::Q6_K),
    (15, Dtype::Q8_K),
    (16, Dtype::IQ2_XXS),
    (17, Dtype::IQ2_XS),
    (18, Dtype::IQ3_XXS),
    (19, Dtype::IQ1_S),
    (20, Dtype::IQ4_NL),
    (21, Dtype::IQ3_S),
    (22, Dtype::IQ2_S),
    (23, Dtype::IQ4_XS),
    (24, Dtype::I8),
    (25, Dtype::I16),
    (26, Dtype::I32),
    (27, Dtype::I64),
    (28, Dtype::F64),
    (29, Dtype::IQ1_M),
    (30, Dtype::BF16),
    (34, Dtype::TQ1_0),
    (35, Dtype::TQ2_0),
    (39, Dtype::MXFP4),
    (40, Dtype::NVFP4),
    (41, Dtype::Q1_0),
    (42, Dtype::Q2_0),
];

/// The encoding with GGUF's number `id`.
fn dtype_of(id: u32) -> Result<Dtype, String> {
    match DTYPES.iter().find(|(number, _)| *number == id) {
        Some((_, dtype)) => Ok(*dtype),
        None if matches!(id, 4 | 5 | 31..=33 | 36..=38) => {
            Err(format!("its type {id} was removed from the GGUF format"))
        }
        None => Err(format!("its type {id} is unknown")),
    }
}

/// The file is not what a GGUF writer leaves behind.
fn damaged(field: String, problem: String) -> Error {
    Error::Gguf {
        field,
        problem,
        remedy: "The file is damaged or was made by a faulty tool: fetch it again or use another",
    }
}

/// The file may be sound, but is of a kind that is not read here.
fn unsupported(field: String, problem: String) -> Error {
    Error::Gguf { field, problem, remedy: "Convert the model to GGUF again with a current converter" }
}
