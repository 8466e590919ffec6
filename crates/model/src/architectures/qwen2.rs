//! Qwen2 and Qwen2.5 (arXiv 2407.10671): biases on q, k and v, which every projection loads where they are.

use super::Architecture;
use crate::decoder::Variant;
use freehold_kernels::RopeStyle;

pub(super) static QWEN2: Architecture =
    Architecture { names: &["qwen2"], variant: |_| Ok(Variant { rope_style: RopeStyle::Halves, head_norms: false }) };
