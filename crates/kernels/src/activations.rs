//! Activations in the form that a weight type's product takes: int8 in blocks with sums, bf16, or plain f32.

use crate::packed::packed_block;
use freehold_base::Dtype;
use half::bf16;

/// The form of activations that a product with a weight type takes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ActivationKind {
    /// As they are: for F32 and F16 weights.
    F32,
    /// Rounded to bf16: for BF16 weights.
    Bf16,
    /// int8 with one scale per 32: for Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4 and NVFP4.
    Int8Block32,
    /// int8 with one scale per 256: for the K-quants and the other types with blocks of 256.
    Int8Block256,
}

impl ActivationKind {
    /// The form for weights of type `dtype`.
    pub fn of(dtype: Dtype) -> Self {
        match (dtype, packed_block(dtype)) {
            (Dtype::BF16, _) => Self::Bf16,
            (_, Some((256, _))) => Self::Int8Block256,
            (_, Some((32 | 64, _))) => Self::Int8Block32,
            _ => Self::F32,
        }
    }

    fn block(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 | Self::Int8Block32 => 32,
            Self::Int8Block256 => 256,
        }
    }
}

/// M rows of K activations in one of the forms. Kept and refilled, so that a step allocates nothing.
#[derive(Default)]
pub struct Activations {
    kind: Option<ActivationKind>,
    rows: usize,
    /// K padded to whole blocks.
    padded: usize,
    /// The int8 forms: M × K.
    pub(crate) quants: Vec<i8>,
    /// Scales, M × K / block.
    pub(crate) scales: Vec<f32>,
    /// Block32: scale times the block's sum of quants, rounded once; M × K / 32.
    pub(crate) scaled_sums: Vec<f32>,
    /// Sums of 32 quants, M × K / 32.
    pub(crate) sums32: Vec<i16>,
    /// Block256: sums of 16 quants, M × K / 16.
    pub(crate) sums16: Vec<i16>,
    /// The float forms: M × padded K; for `Bf16` rounded to bf16 and widened again.
    pub(crate) floats: Vec<f32>,
    /// `Bf16`, in their place where the kernels take bf16: M × padded K.
    pub(crate) bf16s: Vec<bf16>,
}

/// One row of the forms, to be filled.
pub(crate) struct RowMut<'a> {
    pub(crate) quants: &'a mut [i8],
    pub(crate) scales: &'a mut [f32],
    pub(crate) scaled_sums: &'a mut [f32],
    pub(crate) sums32: &'a mut [i16],
    pub(crate) sums16: &'a mut [i16],
    pub(crate) floats: &'a mut [f32],
    pub(crate) bf16s: &'a mut [bf16],
}

impl Activations {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The form they are in; `None` before the first filling.
    pub fn kind(&self) -> Option<ActivationKind> {
        self.kind
    }

    /// M.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// K as the kernels see it.
    pub(crate) fn padded(&self) -> usize {
        self.padded
    }

    /// Makes room for `rows` × `cols` activations; the contents are stale until every row was filled. `takes_bf16` is what
    /// the instruction set's table says.
    ///
    /// # Panics
    /// If an int8 form is asked for and `cols` is no whole number of blocks: the weights' shape rules that out.
    pub(crate) fn prepare(&mut self, kind: ActivationKind, rows: usize, cols: usize, takes_bf16: bool) {
        let block = kind.block();
        let int8 = matches!(kind, ActivationKind::Int8Block32 | ActivationKind::Int8Block256);
        assert!(!int8 || cols.is_multiple_of(block), "{cols} activations are no whole number of blocks of {block}");
        self.kind = Some(kind);
        self.rows = rows;
        self.padded = cols.next_multiple_of(block);
        let block32 = kind == ActivationKind::Int8Block32;
        let resize = |wanted: bool, per_row: usize| if wanted { rows * per_row } else { 0 };
        self.quants.resize(resize(int8, cols), 0);
        self.scales.resize(resize(int8, cols / block), 0.0);
        self.scaled_sums.resize(resize(block32, cols / 32), 0.0);
        self.sums32.resize(resize(int8, cols / 32), 0);
        self.sums16.resize(resize(int8 && !block32, cols / 16), 0);
        let bf16 = takes_bf16 && kind == ActivationKind::Bf16;
        self.floats.resize(resize(!int8 && !bf16, self.padded), 0.0);
        self.bf16s.resize(resize(bf16, self.padded), bf16::ZERO);
    }
}

/// Blocks whose largest magnitude is below this become zeros: the reciprocal would overflow soon after.
pub(crate) const SMALLEST_AMAX: f32 = f32::from_bits(27 << 23); // 2^−100

/// Scalar reference: fills one row in an int8 form.
pub(crate) unsafe fn quantize_row(kind: ActivationKind, x: &[f32], row: &mut RowMut<'_>) {
    let block = kind.block();
    for (index, (x, quants)) in x.chunks_exact(block).zip(row.quants.chunks_exact_mut(block)).enumerate() {
        // Compared as integers, so that a NaN is the largest: it makes the scale, and with it the outputs, NaN.
        let amax = f32::from_bits(x.iter().fold(0, |amax, x| amax.max(x.abs().to_bits())));
        let (d, id) = if amax < SMALLEST_AMAX { (0.0, 0.0) } else { (amax / 127.0, 127.0 / amax) };
        for (quant, x) in quants.iter_mut().zip(x) {
            // A NaN (also infinity times the zero reciprocal of infinity) converts to 0.
            *quant = (x * id).round_ties_even() as i8;
        }
        row.scales[index] = d;
    }
    finish_sums(kind, row);
}

/// The sums of the quants of one row, from its quants and scales.
pub(crate) fn finish_sums(kind: ActivationKind, row: &mut RowMut<'_>) {
    let sum = |quants: &[i8]| quants.iter().map(|&quant| i16::from(quant)).sum::<i16>();
    for (sums, quants) in row.sums32.iter_mut().zip(row.quants.chunks_exact(32)) {
        *sums = sum(quants);
    }
    for (sums, quants) in row.sums16.iter_mut().zip(row.quants.chunks_exact(16)) {
        *sums = sum(quants);
    }
    if kind == ActivationKind::Int8Block32 {
        for ((scaled, sum), d) in row.scaled_sums.iter_mut().zip(&*row.sums32).zip(&*row.scales) {
            *scaled = d * f32::from(*sum);
        }
    }
}

/// f32 → bf16 as `vcvtneps2bf16` does it: to nearest even, subnormal inputs become zeros of their sign. Widened again.
pub(crate) fn round_bf16(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { bf16::from_f32(x).to_f32() }
}

/// Fills one row in a float form, in which one of floats and bf16s is empty.
pub(crate) fn fill_floats(kind: ActivationKind, x: &[f32], row: &mut RowMut<'_>) {
    let padded = || x.iter().copied().chain(std::iter::repeat(0.0));
    for (float, x) in row.floats.iter_mut().zip(padded()) {
        *float = if kind == ActivationKind::Bf16 { round_bf16(x) } else { x };
    }
    for (bf16, x) in row.bf16s.iter_mut().zip(padded()) {
        *bf16 = bf16::from_f32(round_bf16(x));
    }
}
