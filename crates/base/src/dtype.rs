//! How a tensor's numbers are encoded: plain floats, integers, and the block formats of GGUF.

use std::fmt;

/// The encoding of a tensor. Names, block lengths and sizes are those of the GGUF specification and of safetensors.
#[allow(missing_docs, non_camel_case_types, reason = "the names are the formats' own")]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ1_S,
    IQ1_M,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ3_XXS,
    IQ3_S,
    IQ4_NL,
    IQ4_XS,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
    Q1_0,
    Q2_0,
}

impl Dtype {
    /// (numbers in one block, bytes of one block). Plain types have blocks of one number.
    pub const fn block(self) -> (usize, usize) {
        match self {
            Self::F64 | Self::I64 => (1, 8),
            Self::F32 | Self::I32 => (1, 4),
            Self::F16 | Self::BF16 | Self::I16 => (1, 2),
            Self::I8 | Self::U8 | Self::Bool => (1, 1),
            Self::Q4_0 | Self::IQ4_NL => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q8_1 => (32, 36),
            Self::MXFP4 => (32, 17),
            Self::NVFP4 => (64, 36),
            Self::Q2_K => (256, 84),
            Self::Q3_K | Self::IQ3_S => (256, 110),
            Self::Q4_K => (256, 144),
            Self::Q5_K => (256, 176),
            Self::Q6_K => (256, 210),
            Self::Q8_K => (256, 292),
            Self::IQ1_S => (256, 50),
            Self::IQ1_M => (256, 56),
            Self::IQ2_XXS | Self::TQ2_0 => (256, 66),
            Self::IQ2_XS => (256, 74),
            Self::IQ2_S => (256, 82),
            Self::IQ3_XXS => (256, 98),
            Self::IQ4_XS => (256, 136),
            Self::TQ1_0 => (256, 54),
            Self::Q1_0 => (128, 18),
            Self::Q2_0 => (64, 18),
        }
    }

    /// Bytes of `numbers` consecutive numbers; `None` where they are no whole number of blocks or the size overflows.
    pub fn size_bytes(self, numbers: u64) -> Option<u64> {
        let (length, bytes) = self.block();
        if !numbers.is_multiple_of(length as u64) {
            return None;
        }
        (numbers / length as u64).checked_mul(bytes as u64)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The variants are spelled as the formats spell them.
        fmt::Debug::fmt(self, f)
    }
}
