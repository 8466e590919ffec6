//! Tensors as the containers hold them, and the compact table both containers keep of them.

use freehold_base::Dtype;
use std::ops::Range;

/// The most tensors in one model. The largest published ones have about 150,000.
pub(crate) const TENSORS_MAX: usize = 1 << 18;

/// One tensor of a file, not copied.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// The name in the file, unique there.
    pub name: &'a str,
    /// How the numbers are encoded.
    pub dtype: Dtype,
    /// Outermost dimension first, the last one contiguous (row-major); `[]` is a single number. GGUF writes dimensions
    /// the other way round; they are turned here.
    pub shape: &'a [u64],
    /// The encoded numbers, little-endian, exactly as many bytes as dtype and shape ask for. No alignment is promised.
    pub bytes: &'a [u8],
}

impl TensorView<'_> {
    /// How many numbers the tensor has.
    pub fn numbers(&self) -> u64 {
        // Checked when the file was opened.
        self.shape.iter().product()
    }
}

/// Where a tensor lies. Names and dimensions of all tensors share two arenas, so that a file of many small tensors
/// does not become many small allocations.
#[derive(Clone, Debug)]
struct Entry {
    name: Range<u32>,
    shape: Range<u32>,
    dtype: Dtype,
    file: u32,
    bytes: Range<usize>,
}

/// The tensors of one or more files in file order, found by name in logarithmic time.
#[derive(Clone, Debug, Default)]
pub(crate) struct TensorTable {
    names: String,
    dimensions: Vec<u64>,
    entries: Vec<Entry>,
    by_name: Vec<u32>,
}

impl TensorTable {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a tensor: its bytes are `bytes` of file number `file`. The caller keeps to [`TENSORS_MAX`].
    pub(crate) fn push(&mut self, name: &str, shape: &[u64], dtype: Dtype, file: usize, bytes: Range<usize>) {
        let arena = |length: usize| u32::try_from(length).expect("names and shapes are capped far below 4 GiB");
        let (name_start, shape_start) = (arena(self.names.len()), arena(self.dimensions.len()));
        self.names.push_str(name);
        self.dimensions.extend_from_slice(shape);
        self.entries.push(Entry {
            name: name_start..arena(self.names.len()),
            shape: shape_start..arena(self.dimensions.len()),
            dtype,
            file: arena(file),
            bytes,
        });
    }

    /// Moves every tensor's bytes `distance` further into its file.
    pub(crate) fn shift(&mut self, distance: usize) {
        for entry in &mut self.entries {
            entry.bytes = entry.bytes.start + distance..entry.bytes.end + distance;
        }
    }

    /// Where the bytes of the last tensor end; `None` without tensors.
    pub(crate) fn data_end(&self) -> Option<usize> {
        self.entries.last().map(|entry| entry.bytes.end)
    }

    /// Builds the index by name.
    ///
    /// # Errors
    /// The name that two tensors share.
    pub(crate) fn index(&mut self) -> Result<(), &str> {
        let mut by_name: Vec<u32> = (0..self.entries.len() as u32).collect();
        by_name.sort_unstable_by_key(|&entry| self.name(entry as usize));
        let twice = by_name.windows(2).find(|pair| self.name(pair[0] as usize) == self.name(pair[1] as usize));
        if let Some(pair) = twice {
            return Err(self.name(pair[0] as usize));
        }
        self.by_name = by_name;
        Ok(())
    }

    pub(crate) fn name(&self, entry: usize) -> &str {
        let range = &self.entries[entry].name;
        &self.names[range.start as usize..range.end as usize]
    }

    pub(crate) fn file(&self, entry: usize) -> usize {
        self.entries[entry].file as usize
    }

    /// The number of the tensor called `name`, once [`Self::index`] has run.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        let place = self.by_name.binary_search_by_key(&name, |&entry| self.name(entry as usize)).ok()?;
        Some(self.by_name[place] as usize)
    }

    /// The tensor number `entry`; `files` are those the table was built from.
    pub(crate) fn view<'a, F: AsRef<[u8]>>(&'a self, entry: usize, files: &'a [F]) -> TensorView<'a> {
        let Entry { shape, dtype, file, bytes, .. } = &self.entries[entry];
        TensorView {
            name: self.name(entry),
            dtype: *dtype,
            shape: &self.dimensions[shape.start as usize..shape.end as usize],
            bytes: &files[*file as usize].as_ref()[bytes.clone()],
        }
    }
}

/// Why `name` cannot be a tensor's name or a metadata key, if so. Names are shown, logged and sometimes joined to paths
/// by careless tools, so control characters and anything that walks the file system is refused.
pub(crate) fn name_problem(name: &str, bytes_max: usize) -> Option<String> {
    if name.is_empty() {
        Some("the name is empty".into())
    } else if name.len() > bytes_max {
        Some(format!("the name is {} bytes long; at most {bytes_max} are allowed", name.len()))
    } else if name.chars().any(char::is_control) {
        Some("the name holds a control character".into())
    } else if name.starts_with('/') || name.contains('\\') || name.split('/').any(|part| part == "..") {
        Some("the name is a file system path".into())
    } else {
        None
    }
}
