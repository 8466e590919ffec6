//! Writes GGUF files, sound or not: every field can be set to anything.

/// Type ids of metadata values.
pub(crate) const U8: u32 = 0;
pub(crate) const U32: u32 = 4;
pub(crate) const I32: u32 = 5;
pub(crate) const F32: u32 = 6;
pub(crate) const BOOL: u32 = 7;
pub(crate) const STRING: u32 = 8;
pub(crate) const ARRAY: u32 = 9;
pub(crate) const U64: u32 = 10;
pub(crate) const F64: u32 = 12;

#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: Vec<u8>,
    /// As in the file: innermost first.
    pub(crate) dimensions: Vec<u64>,
    pub(crate) rank: u32,
    pub(crate) kind: u32,
    pub(crate) offset: u64,
}

#[derive(Clone)]
pub(crate) struct Builder {
    pub(crate) version: u32,
    pub(crate) tensor_count: Option<u64>,
    pub(crate) key_count: Option<u64>,
    /// Key, type id, encoded value.
    pub(crate) keys: Vec<(Vec<u8>, u32, Vec<u8>)>,
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) alignment: usize,
    pub(crate) data: Vec<u8>,
}

pub(crate) fn string(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

/// An array's value: the type of its elements, how many it claims, and what follows.
pub(crate) fn array(kind: u32, length: u64, elements: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes(), &length.to_le_bytes()[..], elements].concat()
}

impl Builder {
    /// Two tensors, `a` (F32, 3 rows of 8) and `b` (Q8_0, 2 rows of 32), and one key of several types.
    pub(crate) fn sound() -> Self {
        let words = ["the", "", "café"].map(string).concat();
        Self {
            version: 3,
            tensor_count: None,
            key_count: None,
            keys: vec![
                (b"general.architecture".into(), STRING, string("llama")),
                (b"llama.block_count".into(), U32, 2u32.to_le_bytes().into()),
                (b"llama.rope.freq_base".into(), F32, 1e4f32.to_le_bytes().into()),
                (b"truth".into(), BOOL, vec![1]),
                (b"words".into(), ARRAY, array(STRING, 3, &words)),
                (b"numbers".into(), ARRAY, array(I32, 2, &[1i32, -1].map(i32::to_le_bytes).concat())),
            ],
            tensors: vec![
                Tensor { name: b"a".into(), dimensions: vec![8, 3], rank: 2, kind: 0, offset: 0 },
                Tensor { name: b"b".into(), dimensions: vec![32, 2], rank: 2, kind: 8, offset: 96 },
            ],
            alignment: 32,
            data: (0..192).map(|byte| byte as u8).collect(),
        }
    }

    pub(crate) fn key(mut self, key: impl AsRef<[u8]>, kind: u32, value: impl Into<Vec<u8>>) -> Self {
        self.keys.push((key.as_ref().into(), kind, value.into()));
        self
    }

    pub(crate) fn u32(self, key: &str, value: u32) -> Self {
        self.key(key, U32, value.to_le_bytes())
    }

    pub(crate) fn f32(self, key: &str, value: f32) -> Self {
        self.key(key, F32, value.to_le_bytes())
    }

    pub(crate) fn str(self, key: &str, value: &str) -> Self {
        self.key(key, STRING, string(value))
    }

    /// Changes the tensor `a`.
    pub(crate) fn a(mut self, change: impl FnOnce(&mut Tensor)) -> Self {
        change(&mut self.tensors[0]);
        self
    }

    /// Changes the tensor `b`.
    pub(crate) fn b(mut self, change: impl FnOnce(&mut Tensor)) -> Self {
        change(&mut self.tensors[1]);
        self
    }

    pub(crate) fn set(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        file.extend(self.key_count.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.keys {
            file.extend(string(key));
            file.extend(kind.to_le_bytes());
            file.extend(value);
        }
        for tensor in &self.tensors {
            file.extend(string(&tensor.name));
            file.extend(tensor.rank.to_le_bytes());
            file.extend(tensor.dimensions.iter().flat_map(|dimension| dimension.to_le_bytes()));
            file.extend(tensor.kind.to_le_bytes());
            file.extend(tensor.offset.to_le_bytes());
        }
        file.resize(file.len().next_multiple_of(self.alignment), 0);
        file.extend(&self.data);
        file
    }
}
