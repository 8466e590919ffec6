//! safetensors: tensors behind a JSON header, in one file or in shards named by an index.
//!
//! The layout is that of the safetensors format description: the header's length as a u64, the header, the data, with
//! every byte of the data belonging to exactly one tensor. Beyond it, a name may occur once only, dimensions are at most
//! 8 and tensors at most 2^18 over all shards.

use crate::error::{Error, Result, shown, shown_message};
use crate::mmap::Mmap;
use crate::tensor::{TENSORS_MAX, TensorTable, TensorView, name_problem};
use freehold_base::Dtype;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

/// The format allows 100 MB, but the largest published headers have about 1 MB, and a parser that is to stay within
/// 64 MiB beside the file cannot take more.
const HEADER_BYTES_MAX: u64 = 32 << 20;
/// An index of 2^18 tensors with long names is below this.
const INDEX_BYTES_MAX: usize = 64 << 20;
const SHARDS_MAX: usize = 4096;
const DIMENSIONS_MAX: usize = 8;
const NAME_BYTES_MAX: usize = 512;
/// The header's key for text about the file.
const METADATA_KEY: &str = "__metadata__";

/// Opened safetensors files, mapped.
#[derive(Clone, Debug)]
pub struct Safetensors {
    files: Vec<Mmap>,
    tensors: TensorTable,
}

impl Safetensors {
    /// Opens and checks the one file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be mapped, [`Error::Safetensors`] where it breaks the format.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_bytes(Mmap::open(path)?)
    }

    /// Checks one file that is mapped or in memory already.
    ///
    /// # Errors
    /// [`Error::Safetensors`] where the bytes break the format.
    pub fn from_bytes(file: impl Into<Mmap>) -> Result<Self> {
        let file = file.into();
        let mut tensors = TensorTable::default();
        read_file(&file, 0, &mut tensors)?;
        index_names(&mut tensors)?;
        Ok(Self { files: vec![file], tensors })
    }

    /// Checks the shards that `index` (the bytes of a `model.safetensors.index.json`) names; `open` finds a shard by
    /// its name. Every tensor of the index must be in the shard it gives for it, and no shard may hold any other.
    ///
    /// # Errors
    /// [`Error::Safetensors`] where index or shards break the format or disagree, and whatever `open` returns.
    pub fn from_shards(index: &[u8], mut open: impl FnMut(&str) -> Result<Mmap>) -> Result<Self> {
        let WeightMap { shards, mut placed } = read_index(index)?;
        let mut files = Vec::with_capacity(shards.len());
        let mut tensors = TensorTable::default();
        for (number, shard) in shards.iter().enumerate() {
            let file = open(shard)?;
            read_file(&file, number, &mut tensors).map_err(|error| in_shard(shard, error))?;
            files.push(file);
        }
        index_names(&mut tensors)?;
        for entry in 0..tensors.len() {
            let name = tensors.name(entry);
            if placed.remove(name) != Some(tensors.file(entry) as u32) {
                return Err(damaged(
                    format!("tensor `{}`", shown(name)),
                    format!("it is in shard `{}`, where the index does not place it", shards[tensors.file(entry)]),
                ));
            }
        }
        if let Some((name, shard)) = placed.pop_first() {
            return Err(damaged(
                format!("tensor `{}`", shown(&name)),
                format!("the index places it in shard `{}`, which does not hold it", shards[shard as usize]),
            ));
        }
        Ok(Self { files, tensors })
    }

    /// The tensors in the order of the shards and of the data in each.
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

fn in_shard(shard: &str, error: Error) -> Error {
    match error {
        Error::Safetensors { field, problem, remedy } => {
            Error::Safetensors { field: format!("shard `{shard}`, {field}"), problem, remedy }
        }
        other => other,
    }
}

fn index_names(tensors: &mut TensorTable) -> Result<()> {
    tensors.index().map_err(|name| damaged(format!("tensor `{}`", shown(name)), "two tensors have this name".into()))
}

/// Adds the tensors of file number `number` to the table, sorted by where their data lie.
fn read_file(file: &[u8], number: usize, tensors: &mut TensorTable) -> Result<()> {
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(damaged("header length".into(), format!("the file has only {} bytes", file.len())));
    };
    let length = u64::from_le_bytes(*length);
    if !(2..=HEADER_BYTES_MAX).contains(&length) {
        return Err(damaged(
            "header length".into(),
            format!("the file claims {length} bytes; 2 to {HEADER_BYTES_MAX} are allowed"),
        ));
    }
    // At most 10^8, which every usize holds.
    let Some((header, data)) = rest.split_at_checked(length as usize) else {
        return Err(damaged(
            "header length".into(),
            format!("the file claims {length} bytes, but only {} follow", rest.len()),
        ));
    };
    if header[0] != b'{' {
        return Err(damaged("header".into(), "it does not begin with `{`".into()));
    }
    let mut found = TensorList { tensors_left: TENSORS_MAX - tensors.len(), ..TensorList::default() };
    let mut deserializer = serde_json::Deserializer::from_slice(header);
    Header(&mut found)
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end())
        .map_err(|error| damaged("header".into(), shown_message(&error)))?;
    let data_start = file.len() - data.len();
    found.place(data.len() as u64, |name, shape, dtype, range| {
        tensors.push(name, shape, dtype, number, data_start + range.start..data_start + range.end);
    })
}

/// Tensors in header order, with their names and dimensions in shared arenas: a hostile header of a hundred million
/// bytes may not become a hundred million small allocations.
#[derive(Default)]
struct TensorList {
    tensors_left: usize,
    names: String,
    dimensions: Vec<u64>,
    tensors: Vec<Listed>,
}

struct Listed {
    name: Range<u32>,
    shape: Range<u32>,
    dtype: Dtype,
    start: u64,
    end: u64,
}

impl TensorList {
    fn push(&mut self, name: &str, tensor: &Description) -> Result<(), String> {
        if let Some(problem) = name_problem(name, NAME_BYTES_MAX) {
            return Err(problem);
        }
        self.tensors_left =
            self.tensors_left.checked_sub(1).ok_or_else(|| format!("more than {TENSORS_MAX} tensors"))?;
        // Both arenas hold less than the header, which is below 10^8 bytes.
        let (name_start, shape_start) = (self.names.len() as u32, self.dimensions.len() as u32);
        self.names.push_str(name);
        self.dimensions.extend_from_slice(tensor.shape());
        self.tensors.push(Listed {
            name: name_start..self.names.len() as u32,
            shape: shape_start..self.dimensions.len() as u32,
            dtype: tensor.dtype,
            start: tensor.start,
            end: tensor.end,
        });
        Ok(())
    }

    /// Checks that the tensors cover the data without overlap or hole, and hands them out in that order.
    fn place(mut self, data_length: u64, mut push: impl FnMut(&str, &[u64], Dtype, Range<usize>)) -> Result<()> {
        self.tensors.sort_by_key(|tensor| (tensor.start, tensor.end));
        let mut position = 0;
        for Listed { name, shape, dtype, start, end } in &self.tensors {
            let name = &self.names[name.start as usize..name.end as usize];
            let wrong = |problem| Err(damaged(format!("tensor `{}`", shown(name)), problem));
            let shape = &self.dimensions[shape.start as usize..shape.end as usize];
            let numbers = shape.iter().try_fold(1u64, |product, &dimension| product.checked_mul(dimension));
            let size = numbers.and_then(|numbers| dtype.size_bytes(numbers));
            if end.checked_sub(*start).is_none_or(|length| Some(length) != size) {
                return wrong(format!("its data_offsets [{start}, {end}] do not fit its shape {shape:?} of {dtype}"));
            }
            if *start != position {
                let how = if *start < position { "overlap those of another tensor" } else { "leave a hole" };
                return wrong(format!("its data begin at {start} and {how}; {position} is expected"));
            }
            if *end > data_length {
                return wrong(format!("its data end at {end}, but the file's data at {data_length}"));
            }
            position = *end;
            // Both are at most the length of a slice.
            push(name, shape, *dtype, *start as usize..*end as usize);
        }
        if position != data_length {
            return Err(damaged(
                "end of file".into(),
                format!("{} bytes follow the last tensor that belong to nothing", data_length - position),
            ));
        }
        Ok(())
    }
}

/// The whole header: an object of tensor descriptions, and text under `__metadata__`, which is checked and passed over.
struct Header<'l>(&'l mut TensorList);

impl<'de> DeserializeSeed<'de> for Header<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Header<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<(), A::Error> {
        let mut metadata_seen = false;
        while let Some(Text(name)) = pairs.next_key()? {
            let wrong = |problem: &dyn fmt::Display| {
                de::Error::custom(format_args!("`{}`: {}", shown(&name), shown_message(problem)))
            };
            if name == METADATA_KEY {
                if std::mem::replace(&mut metadata_seen, true) {
                    return Err(wrong(&"it occurs twice"));
                }
                pairs.next_value::<TextPairs>().map_err(|error| wrong(&error))?;
                continue;
            }
            let tensor = pairs.next_value::<Description>().map_err(|error| wrong(&error))?;
            self.0.push(&name, &tensor).map_err(|problem| wrong(&problem))?;
        }
        Ok(())
    }
}

/// A string, borrowed from the header where it has no escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The value of `__metadata__`: text under text. Nothing reads it, so nothing of it is kept.
struct TextPairs;

impl<'de> serde::Deserialize<'de> for TextPairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = TextPairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<TextPairs, A::Error> {
                while pairs.next_entry::<Text<'de>, Text<'de>>()?.is_some() {}
                Ok(TextPairs)
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// The description of one tensor.
#[derive(serde::Deserialize)]
#[serde(from = "RawDescription")]
struct Description {
    dtype: Dtype,
    rank: usize,
    dimensions: [u64; DIMENSIONS_MAX],
    start: u64,
    end: u64,
}

impl Description {
    fn shape(&self) -> &[u64] {
        &self.dimensions[..self.rank]
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object of dtype, shape and data_offsets")]
struct RawDescription {
    #[serde(deserialize_with = "dtype")]
    dtype: Dtype,
    shape: Shape,
    data_offsets: [u64; 2],
}

impl From<RawDescription> for Description {
    fn from(raw: RawDescription) -> Self {
        let Shape { rank, dimensions } = raw.shape;
        let [start, end] = raw.data_offsets;
        Self { dtype: raw.dtype, rank, dimensions, start, end }
    }
}

fn dtype<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Dtype, D::Error> {
    struct Name;
    impl Visitor<'_> for Name {
        type Value = Dtype;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the name of a dtype")
        }

        fn visit_str<E: de::Error>(self, name: &str) -> Result<Dtype, E> {
            Ok(match name {
                "F64" => Dtype::F64,
                "F32" => Dtype::F32,
                "F16" => Dtype::F16,
                "BF16" => Dtype::BF16,
                "I64" => Dtype::I64,
                "I32" => Dtype::I32,
                "I16" => Dtype::I16,
                "I8" => Dtype::I8,
                "U8" => Dtype::U8,
                "BOOL" => Dtype::Bool,
                other => return Err(E::custom(format_args!("the dtype `{}` is not supported", shown(other)))),
            })
        }
    }
    deserializer.deserialize_str(Name)
}

/// A shape of at most [`DIMENSIONS_MAX`] dimensions, refused before a longer one takes memory.
struct Shape {
    rank: usize,
    dimensions: [u64; DIMENSIONS_MAX],
}

impl<'de> serde::Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Dimensions;
        impl<'de> Visitor<'de> for Dimensions {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Shape, A::Error> {
                let mut shape = Shape { rank: 0, dimensions: [0; DIMENSIONS_MAX] };
                while let Some(dimension) = sequence.next_element()? {
                    let place = shape.dimensions.get_mut(shape.rank).ok_or_else(|| {
                        de::Error::custom(format_args!("the shape has more than {DIMENSIONS_MAX} dimensions"))
                    })?;
                    *place = dimension;
                    shape.rank += 1;
                }
                Ok(shape)
            }
        }
        deserializer.deserialize_seq(Dimensions)
    }
}

/// Which shard the index gives for each tensor.
struct WeightMap {
    /// The shards' names in order of appearance.
    shards: Vec<String>,
    /// Tensor name to the shard's number.
    placed: BTreeMap<String, u32>,
}

fn read_index(index: &[u8]) -> Result<WeightMap> {
    let wrong = |problem: String| damaged("index of shards".into(), problem);
    if index.len() > INDEX_BYTES_MAX {
        return Err(wrong(format!("it has {} bytes; at most {INDEX_BYTES_MAX} are allowed", index.len())));
    }
    let index: Index = serde_json::from_slice(index).map_err(|error| wrong(shown_message(&error)))?;
    Ok(index.weight_map)
}

/// `model.safetensors.index.json`. What else it holds (`metadata`: the total size) is passed over.
#[derive(serde::Deserialize)]
#[serde(expecting = "an object with a weight_map")]
struct Index {
    weight_map: WeightMap,
}

impl<'de> serde::Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensor and file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<WeightMap, A::Error> {
                let (mut placed, mut numbers) = (BTreeMap::new(), BTreeMap::new());
                let mut shards = Vec::new();
                while let Some((tensor, shard)) = pairs.next_entry::<String, String>()? {
                    if let Some(problem) = file_name_problem(&shard) {
                        return Err(de::Error::custom(format_args!("shard `{}`: {problem}", shown(&shard))));
                    }
                    let number = *numbers.entry(shard).or_insert_with_key(|shard: &String| {
                        shards.push(shard.clone());
                        (shards.len() - 1) as u32
                    });
                    if placed.len() == TENSORS_MAX || shards.len() > SHARDS_MAX {
                        return Err(de::Error::custom(format_args!(
                            "more than {TENSORS_MAX} tensors or {SHARDS_MAX} shards"
                        )));
                    }
                    let name = shown(&tensor);
                    if placed.insert(tensor, number).is_some() {
                        return Err(de::Error::custom(format_args!("the tensor `{name}` occurs twice")));
                    }
                }
                Ok(WeightMap { shards, placed })
            }
        }
        deserializer.deserialize_map(Map)
    }
}

/// Why `name` is not the plain name of a file in the same folder, if it is not.
pub(crate) fn file_name_problem(name: &str) -> Option<&'static str> {
    let plain = !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name.contains(['/', '\\', ':'])
        && !name.chars().any(char::is_control);
    (!plain).then_some("it must be the plain name of a file in the same folder")
}

fn damaged(field: String, problem: String) -> Error {
    Error::Safetensors {
        field,
        problem,
        remedy: "The file is damaged or was made by a faulty tool: fetch it again or use another",
    }
}
