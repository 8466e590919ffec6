//! The elementary functions of the contract, in f32: the same operations on every path, never the platform's libm.
//!
//! Every step is one IEEE operation (`mul_add` is the fused one). Coefficients come from `scripts/polynomials.py`. Over
//! all f32 inputs (run once; the tests take samples) the errors are at most 0.91 ulp for exp, 0.83 for ln, 1.37 for tanh,
//! and 2.49 for sigmoid where it is above 1e−37, and AVX2 has the same bits as this code.

/// log2(e), rounded.
pub(crate) const LOG2_E: f32 = f32::from_bits(0x3fb8_aa3b);
/// The high part of ln 2: nine trailing zero bits, so that its product with an exponent is exact.
pub(crate) const LN_2_HIGH: f32 = f32::from_bits(0x3f31_7200);
/// ln 2 − [`LN_2_HIGH`], rounded.
pub(crate) const LN_2_LOW: f32 = f32::from_bits(0x35bf_be8e);
/// 1.5·2²³: adding it rounds to an integer, to even on ties, and leaves that integer in the low bits.
pub(crate) const ROUND: f32 = 12_582_912.0;
/// Below it, exp is below 2^−126 and returns +0.
pub(crate) const EXP_LOW: f32 = f32::from_bits(0xc2ae_ac4f);
/// Above it, exp rounds to infinity.
pub(crate) const EXP_HIGH: f32 = f32::from_bits(0x42b1_7217);
/// q in e^r ≈ 1 + r + r²·q(r) for |r| ≤ ln(2)/2, lowest degree first.
pub(crate) const EXP: [f32; 5] = [
    0.5,
    f32::from_bits(0x3e2a_aa46),
    f32::from_bits(0x3d2a_aa72),
    f32::from_bits(0x3c09_1e82),
    f32::from_bits(0x3ab6_a8a6),
];
/// h in ln(1 + f) ≈ f − f²/2 + f³·h(f) for √½ ≤ 1 + f < √2, lowest degree first.
pub(crate) const LN: [f32; 9] = [
    f32::from_bits(0x3eaa_aaa3),
    -0.25,
    f32::from_bits(0x3e4c_d2a3),
    f32::from_bits(0xbe2a_af8b),
    f32::from_bits(0x3e11_97f4),
    f32::from_bits(0xbdfd_e0f3),
    f32::from_bits(0x3df3_7a77),
    f32::from_bits(0xbdf0_251d),
    f32::from_bits(0x3d8b_5d5e),
];
/// Below it tanh is a polynomial; from it on `1 − 2 / (exp(2x) + 1)` loses nothing to cancellation.
pub(crate) const TANH_SMALL: f32 = 0.625;
/// t in tanh(x) ≈ x + x³·t(x²) for |x| < [`TANH_SMALL`], lowest degree first.
pub(crate) const TANH: [f32; 5] = [
    f32::from_bits(0xbeaa_aa99),
    f32::from_bits(0x3e08_8384),
    f32::from_bits(0xbd5c_1caf),
    f32::from_bits(0x3ca9_0ba2),
    f32::from_bits(0xbbba_d4c8),
];
/// 2·√(2/π), rounded: [`gelu`]'s factor of x.
pub(crate) const GELU_LINEAR: f32 = f32::from_bits(0x3fcc_422a);
/// 2·√(2/π) · 0.044715, rounded: [`gelu`]'s factor of x³.
pub(crate) const GELU_CUBIC: f32 = f32::from_bits(0x3d92_2279);
/// The bits of √½, rounded: where the mantissa's range [√½, √2) begins.
pub(crate) const SQRT_HALF_BITS: u32 = 0x3f35_04f3;

/// e^x. Results below 2^−126 are +0, above the largest f32 +∞; a NaN stays one.
#[inline]
pub fn exp(x: f32) -> f32 {
    if x < EXP_LOW {
        return 0.0;
    }
    if x > EXP_HIGH || x.is_nan() {
        return x + f32::INFINITY;
    }
    let rounded = x.mul_add(LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN_2_HIGH, x);
    let r = n.mul_add(-LN_2_LOW, r);
    let mut p = EXP[4];
    for coefficient in [EXP[3], EXP[2], EXP[1], EXP[0], 1.0, 1.0] {
        p = p.mul_add(r, coefficient);
    }
    // Times 2^n: the sum of the exponents stays in range between the two limits, so this is exact.
    f32::from_bits(p.to_bits().wrapping_add(rounded.to_bits() << 23))
}

/// The logistic function, `1 / (1 + exp(−x))`.
#[inline]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The hyperbolic tangent.
#[inline]
pub fn tanh(x: f32) -> f32 {
    let size = x.abs();
    let result = if size < TANH_SMALL {
        let square = size * size;
        let mut t = TANH[4];
        for coefficient in [TANH[3], TANH[2], TANH[1], TANH[0]] {
            t = t.mul_add(square, coefficient);
        }
        (size * square).mul_add(t, size)
    } else {
        1.0 - 2.0 / (exp(2.0 * size) + 1.0)
    };
    result.copysign(x)
}

/// GELU in its tanh form (arXiv 1606.08415, section 2): `x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))`, which is
/// `x · sigmoid` of twice the tangent's argument.
#[inline]
pub fn gelu(x: f32) -> f32 {
    let twice = x * (x * x).mul_add(GELU_CUBIC, GELU_LINEAR);
    x / (1.0 + exp(-twice))
}

/// `x` kept within ±`cap` by a tangent: `cap · tanh(x / cap)` (Gemma 2, arXiv 2408.00118, section 2).
#[inline]
pub fn softcap(x: f32, cap: f32) -> f32 {
    cap * tanh(x / cap)
}

/// The natural logarithm: −∞ at ±0, NaN below.
#[inline]
pub fn ln(x: f32) -> f32 {
    if x.is_nan() || x < 0.0 {
        return f32::NAN;
    }
    if x == 0.0 {
        return f32::NEG_INFINITY;
    }
    if x == f32::INFINITY {
        return x;
    }
    // Subnormals are scaled up first; the product is exact.
    let (x, bias) = if x < f32::MIN_POSITIVE { (x * 8_388_608.0, -23.0) } else { (x, 0.0) };
    // x = 2^e · (1 + f) with 1 + f in [√½, √2): the subtraction borrows from the exponent where the mantissa is below.
    let offset = x.to_bits().wrapping_sub(SQRT_HALF_BITS);
    let e = (offset as i32 >> 23) as f32 + bias;
    let f = f32::from_bits((offset & 0x007f_ffff) + SQRT_HALF_BITS) - 1.0;
    let square = f * f;
    let mut h = LN[8];
    for coefficient in [LN[7], LN[6], LN[5], LN[4], LN[3], LN[2], LN[1], LN[0]] {
        h = h.mul_add(f, coefficient);
    }
    let cube = f * square;
    let small = cube.mul_add(h, e * LN_2_LOW);
    let small = square.mul_add(-0.5, small);
    e.mul_add(LN_2_HIGH, f + small)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The distance from `got` to `exact` in units in the last place of f32 at `exact`.
    fn ulps(got: f32, exact: f64) -> f64 {
        let rounded = (exact as f32).abs().max(f32::MIN_POSITIVE);
        let ulp = f64::from(f32::from_bits(rounded.to_bits() + 1)) - f64::from(rounded);
        (f64::from(got) - exact).abs() / ulp
    }

    #[test]
    fn accurate_to_three_halves_of_an_ulp() {
        type Case = (&'static str, fn(f32) -> f32, fn(f64) -> f64, f32, f32);
        let cases: [Case; 8] = [
            ("exp", exp, f64::exp, EXP_LOW, EXP_HIGH),
            ("exp near 0", exp, f64::exp, -1e-3, 1e-3),
            ("sigmoid", sigmoid, |x| 1.0 / (1.0 + (-x).exp()), -80.0, 20.0),
            ("tanh", tanh, f64::tanh, -10.0, 10.0),
            ("tanh near 0", tanh, f64::tanh, -1e-2, 1e-2),
            ("ln", ln, f64::ln, 0.0, 4.0),
            ("ln near 1", ln, f64::ln, 0.99, 1.01),
            ("ln of large numbers", ln, f64::ln, 1.0, f32::MAX),
        ];
        for (name, ours, exact, low, high) in cases {
            let count = 400_000;
            let mut worst = (0.0, 0.0);
            for i in 1..=count {
                let x = (f64::from(low) + (f64::from(high) - f64::from(low)) * f64::from(i) / f64::from(count)) as f32;
                let error = ulps(ours(x), exact(f64::from(x)));
                if error > worst.0 {
                    worst = (error, x);
                }
            }
            // sigmoid adds the roundings of a sum and a division to those of exp.
            let limit = if name == "sigmoid" { 2.5 } else { 1.5 };
            assert!(worst.0 <= limit, "{name}: {} ulp at {:?}", worst.0, worst.1);
        }
        for exponent in -149..=127 {
            let x = 2f64.powi(exponent) as f32;
            assert!(ulps(ln(x), f64::from(x).ln()) <= 1.5, "ln 2^{exponent}");
        }
        for i in -60_000..=60_000 {
            let x = i as f32 / 10_000.0;
            let wide = f64::from(x);
            let exact =
                0.5 * wide * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (wide + 0.044715 * wide.powi(3))).tanh());
            assert!((f64::from(gelu(x)) - exact).abs() <= 2e-7 * wide.abs().max(1e-3), "gelu({x}) = {}", gelu(x));
        }
    }

    #[test]
    fn edges() {
        let below = |x: f32| f32::from_bits(x.to_bits() - 1);
        let above = |x: f32| f32::from_bits(x.to_bits() + 1);
        let cases: [(&str, f32, f32); 25] = [
            ("exp(0)", exp(0.0), 1.0),
            ("exp(-0)", exp(-0.0), 1.0),
            ("exp(subnormal)", exp(1e-45), 1.0),
            ("exp(-inf)", exp(f32::NEG_INFINITY), 0.0),
            ("exp(inf)", exp(f32::INFINITY), f32::INFINITY),
            ("exp(-f32::MAX)", exp(f32::MIN), 0.0),
            ("exp past the high limit", exp(above(EXP_HIGH)), f32::INFINITY),
            ("exp past the low limit", exp(above(EXP_LOW)), 0.0),
            ("sigmoid(-inf)", sigmoid(f32::NEG_INFINITY), 0.0),
            ("sigmoid(inf)", sigmoid(f32::INFINITY), 1.0),
            ("sigmoid(0)", sigmoid(0.0), 0.5),
            ("tanh(-0)", tanh(-0.0), -0.0),
            ("tanh(subnormal)", tanh(-1e-45), -1e-45),
            ("tanh(inf)", tanh(f32::INFINITY), 1.0),
            ("tanh(-f32::MAX)", tanh(f32::MIN), -1.0),
            ("gelu(-0)", gelu(-0.0), -0.0),
            ("gelu(f32::MAX)", gelu(f32::MAX), f32::MAX),
            ("gelu(-f32::MAX)", gelu(f32::MIN), -0.0),
            ("softcap of infinity", softcap(f32::NEG_INFINITY, 30.0), -30.0),
            ("ln(1)", ln(1.0), 0.0),
            ("ln(0)", ln(0.0), f32::NEG_INFINITY),
            ("ln(-0)", ln(-0.0), f32::NEG_INFINITY),
            ("ln(inf)", ln(f32::INFINITY), f32::INFINITY),
            ("ln(f32::MAX)", ln(f32::MAX), 88.722_84),
            ("ln(smallest subnormal)", ln(1e-45), -103.278_93),
        ];
        for (name, got, expected) in cases {
            assert_eq!(got.to_bits(), expected.to_bits(), "{name}: {got} is not {expected}");
        }
        assert!(exp(EXP_HIGH).is_finite() && exp(below(EXP_HIGH)).is_finite());
        assert!(exp(EXP_LOW).is_normal());
        assert!(exp(f32::NAN).is_nan() && ln(f32::NAN).is_nan() && ln(-1.0).is_nan() && sigmoid(f32::NAN).is_nan());
    }
}
