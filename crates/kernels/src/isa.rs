//! Which instruction set runs the kernels. It changes speed, never bits.

use std::fmt;
use std::str::FromStr;

/// An instruction set that kernels are written for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Isa {
    /// Portable scalar code: what defines the bits, and what runs where nothing faster fits.
    Reference,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
    /// That and AMX-TILE, AMX-INT8 and AMX-BF16, where the system lets the process use them.
    Amx,
}

/// The text names no instruction set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no instruction set: use one of reference, avx2, avx512, amx")]
pub struct ParseIsaError(String);

impl Isa {
    /// All of them, slowest first.
    pub const ALL: [Self; 4] = [Self::Reference, Self::Avx2, Self::Avx512, Self::Amx];

    /// Whether this machine can run it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Reference => true,
            #[cfg(x86)]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(x86)]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(x86)]
            Self::Amx => Self::Avx512.is_available() && crate::amx::is_available(),
            #[cfg(not(x86))]
            Self::Avx2 | Self::Avx512 | Self::Amx => false,
        }
    }

    /// The fastest that this machine can run, of those that have been run on a processor: AMX has to be asked for.
    pub fn best() -> Self {
        let proved = |isa: &Self| *isa != Self::Amx && isa.is_available();
        Self::ALL.into_iter().rev().find(proved).expect("the reference is always available")
    }
}

impl FromStr for Isa {
    type Err = ParseIsaError;

    fn from_str(text: &str) -> Result<Self, ParseIsaError> {
        Self::ALL.into_iter().find(|isa| isa.to_string() == text).ok_or_else(|| ParseIsaError(text.to_owned()))
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reference => "reference",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        })
    }
}
