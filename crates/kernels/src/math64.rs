//! Elementary functions in f64, for tables that are made once (rope) and for figures such as a perplexity: IEEE basic
//! operations only, so that they have the same bits on every machine. Relative error around 1e−15.

/// 1.5·2⁵²: adding it rounds to an integer, to even on ties.
const ROUND: f64 = 6_755_399_441_055_744.0;
/// ln 2 in two parts; the high one has 32 significant bits.
const LN_2: [f64; 2] = [f64::from_bits(0x3fe6_2e42_fee0_0000), f64::from_bits(0x3dea_39ef_3579_3c76)];
/// π/2 in three parts, of which the first two end early enough that [`sin_cos`] loses nothing to a number of 25 bits.
const HALF_PI: [f64; 3] = [
    f64::from_bits(0x3ff9_21fb_5440_0000),
    f64::from_bits(0x3dd0_b461_1a00_0000),
    f64::from_bits(0x3bf8_98cc_5170_1b84),
];

/// Σ coefficients[i]·x^i, by Horner's rule from the last one.
fn polynomial<const N: usize>(x: f64, coefficients: [f64; N]) -> f64 {
    coefficients.into_iter().rev().reduce(|sum, coefficient| sum.mul_add(x, coefficient)).unwrap_or(0.0)
}

/// 1/n!, rounded: the factorials up to 20! are exact in u64, up to 18! in f64.
const fn inverse_factorial(n: u64) -> f64 {
    let mut factorial = 1;
    let mut i = 2;
    while i <= n {
        factorial *= i;
        i += 1;
    }
    1.0 / factorial as f64
}

/// e^x. No result is subnormal: from below −708 it is 0. Above 709 it is infinite.
pub fn exp(x: f64) -> f64 {
    if x < -708.0 {
        return 0.0;
    }
    if x > 709.0 {
        return f64::INFINITY;
    }
    let n = (x * std::f64::consts::LOG2_E + ROUND) - ROUND;
    let r = n.mul_add(-LN_2[1], n.mul_add(-LN_2[0], x));
    // Taylor's series: the first term left out is below 4e−18.
    let p = polynomial(
        r,
        const {
            let mut terms = [0.0; 14];
            let mut i = 0;
            while i < 14 {
                terms[i] = inverse_factorial(i as u64);
                i += 1;
            }
            terms
        },
    );
    p * f64::from_bits(((n as i64 + 1023) as u64) << 52)
}

/// The natural logarithm of a positive normal number.
pub fn ln(x: f64) -> f64 {
    const SQRT_HALF_BITS: u64 = 0x3fe6_a09e_667f_3bcd;
    let offset = x.to_bits().wrapping_sub(SQRT_HALF_BITS);
    let e = (offset as i64 >> 52) as f64;
    let m = f64::from_bits((offset & 0x000f_ffff_ffff_ffff) + SQRT_HALF_BITS);
    // ln m = 2·artanh(s) = 2s·Σ s^2k/(2k+1), |s| ≤ 0.172: the first term left out is below 1e−19 of the sum.
    let s = (m - 1.0) / (m + 1.0);
    let series = polynomial(
        s * s,
        const {
            let mut terms = [0.0; 12];
            let mut k = 0;
            while k < 12 {
                terms[k] = 2.0 / (2 * k + 1) as f64;
                k += 1;
            }
            terms
        },
    );
    e.mul_add(LN_2[0], s.mul_add(series, e * LN_2[1]))
}

/// base^exponent for a positive normal base.
pub(crate) fn pow(base: f64, exponent: f64) -> f64 {
    exp(exponent * ln(base))
}

/// (sin x, cos x) for an x of binary32, |x| ≤ 2²⁵.
pub(crate) fn sin_cos(x: f64) -> (f64, f64) {
    let n = (x * std::f64::consts::FRAC_2_PI + ROUND) - ROUND;
    // The first step is exact; what the second one rounds off is carried in `low`.
    let first = n.mul_add(-HALF_PI[0], x);
    let second = n.mul_add(-HALF_PI[1], first);
    let low = n.mul_add(-HALF_PI[2], n.mul_add(-HALF_PI[1], first - second));
    let r = second + low;
    let square = r * r;
    // Taylor's series on |r| ≤ π/4: the first terms left out are below 1e−19.
    let sine = polynomial(
        square,
        const {
            let mut terms = [0.0; 8];
            let mut k = 0;
            while k < 8 {
                let sign = if k % 2 == 0 { -1.0 } else { 1.0 };
                terms[k] = sign * inverse_factorial(2 * k as u64 + 3);
                k += 1;
            }
            terms
        },
    );
    let sine = (r * square).mul_add(sine, r);
    let cosine = polynomial(
        square,
        const {
            let mut terms = [0.0; 10];
            let mut k = 0;
            while k < 10 {
                let sign = if k % 2 == 0 { 1.0 } else { -1.0 };
                terms[k] = sign * inverse_factorial(2 * k as u64);
                k += 1;
            }
            terms
        },
    );
    match n as i64 & 3 {
        0 => (sine, cosine),
        1 => (cosine, -sine),
        2 => (-sine, -cosine),
        _ => (-cosine, sine),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // std's functions are only the yardstick here: no result depends on them.
    #[test]
    fn accurate_to_a_few_units_in_the_last_place() {
        let close = |name: &str, x: f64, got: f64, expected: f64| {
            let error = (got - expected).abs() / expected.abs().max(f64::MIN_POSITIVE);
            assert!(got == expected || error < 2e-15, "{name}({x:e}) = {got:e}, not {expected:e}: {error:e}");
        };
        for i in 0..200_000 {
            let unit = f64::from(i) / 200_000.0;
            let x = (unit - 0.5) * 1400.0;
            close("exp", x, exp(x), x.exp());
            let x = unit * 3.0 + 1e-9;
            close("ln", x, ln(x), x.ln());
            let x = (unit * 1e7).exp_m1().min(1e300) + 1e-300;
            close("ln", x, ln(x), x.ln());
            // f32 angles, as rope makes them, over the whole range.
            let x = f64::from((unit * unit * 33_554_432.0) as f32);
            let (sine, cosine) = sin_cos(x);
            close("sin", x, sine, x.sin());
            close("cos", x, cosine, x.cos());
            let (negative, even) = sin_cos(-x);
            assert_eq!((negative, even), (-sine, cosine), "sin and cos of ±{x}");
        }
        for base in [2.0, 500.0, 10_000.0, 1e6, 1e8] {
            for i in 0..=256 {
                let exponent = -f64::from(i) / 256.0;
                let (got, expected): (f64, f64) = (pow(base, exponent), f64::powf(base, exponent));
                assert!((got / expected - 1.0).abs() < 1e-14, "{base}^{exponent} = {got}, not {expected}");
            }
        }
    }

    // What `scripts/cpu_1` made of `docs/numerics.md`.
    #[test]
    fn the_contracts_vectors() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/data/cpu-1/binary64.json")).unwrap();
        let numbers = |function: &str, name: &str| {
            let words = vectors[function][name].as_str().unwrap().split(' ');
            words.map(|word| f64::from_bits(u64::from_str_radix(word, 16).unwrap())).collect::<Vec<_>>()
        };
        let check = |function: &str, results: Vec<f64>| {
            let bits = |numbers: Vec<f64>| numbers.into_iter().map(f64::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(results), bits(numbers(function, "out")), "{function}");
        };
        let of =
            |function: &str, f: fn(f64) -> f64| check(function, numbers(function, "x").into_iter().map(f).collect());
        of("exp", exp);
        of("ln", ln);
        of("sin", |x| sin_cos(x).0);
        of("cos", |x| sin_cos(x).1);
        let powers = numbers("pow", "base").into_iter().zip(numbers("pow", "exponent"));
        check("pow", powers.map(|(base, exponent)| pow(base, exponent)).collect());
    }

    #[test]
    fn exact_cases() {
        assert_eq!((exp(0.0), ln(1.0), sin_cos(0.0), pow(10_000.0, 0.0)), (1.0, 0.0, (0.0, 1.0), 1.0));
        assert_eq!((exp(709.1), exp(f64::INFINITY)), (f64::INFINITY, f64::INFINITY));
        assert_eq!((exp(-708.1), exp(f64::NEG_INFINITY)), (0.0, 0.0));
        assert!(exp(709.0).is_finite() && exp(-708.0).is_normal() && exp(f64::NAN).is_nan());
    }
}
