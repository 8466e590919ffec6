//! Numbers to test with: random data hides differences, so the edges of the format are always among them.

use freehold_kernels::Isa;

/// Zeros, subnormals, the edge of underflow, ties, halves' edges, the limits of exp, and the largest.
pub(crate) const ADVERSARIAL: [f32; 27] = [
    0.0,
    -0.0,
    1e-45,
    -1e-45,
    1.175_494_2e-38,
    1.175_494_4e-38,
    -1.175_494_4e-38,
    5.960_464_5e-8,
    -2.980_232_2e-8,
    1.0,
    -1.0,
    0.999_999_94,
    1.000_000_1,
    3.0,
    -88.0,
    -87.336_54,
    -87.336_55,
    88.722_83,
    88.722_84,
    -103.9,
    65_504.0,
    -65_520.0,
    16_777_216.0,
    1e19,
    -1e19,
    3e38,
    f32::MIN,
];

/// The instruction sets of this machine besides the reference.
pub(crate) fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|&isa| isa != Isa::Reference && isa.is_available())
}

/// Numbers spread evenly over ±`spread`.
pub(crate) fn random(seed: u64, length: usize, spread: f32) -> Vec<f32> {
    // SplitMix64 (Steele, Lea, Flood 2014).
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..length).map(|_| ((next() >> 40) as f32 / 8_388_608.0 - 1.0) * spread).collect()
}

/// The same bits everywhere; NaN equals NaN, whose bits are outside the contract.
pub(crate) fn assert_bits(case: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{case}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!(
            got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan()),
            "{case}: element {i} is {got:e} ({:08x}), not {expected:e} ({:08x})",
            got.to_bits(),
            expected.to_bits()
        );
    }
}
