//! Norms, activations, sums and rope: every instruction set against the reference, the reference against f64.

use crate::numbers::{ADVERSARIAL, assert_bits, available, random};
use freehold_kernels::{Compute, Gate, Isa, RopeFrequencies, RopeScaling, RopeStyle, RopeTable, VectorKernels, math};

/// Lengths that leave every possible tail, and some of real models.
fn lengths() -> impl Iterator<Item = usize> {
    (1..=70).chain([96, 127, 128, 576, 1536, 1537])
}

/// Vectors of one length with every kind of number.
fn inputs(length: usize) -> Vec<(String, Vec<f32>)> {
    let seed = length as u64;
    let mut inputs = vec![
        ("uniform".to_owned(), random(seed, length, 1.0)),
        ("large".to_owned(), random(seed + 1, length, 1e18)),
        ("small".to_owned(), random(seed + 2, length, 1e-18)),
        ("subnormal".to_owned(), random(seed + 3, length, 1e-38)),
        ("tens".to_owned(), random(seed + 4, length, 100.0)),
        ("close together".to_owned(), random(seed + 5, length, 1e-6).iter().map(|x| 3.0 + x).collect()),
        ("zeros".to_owned(), vec![0.0; length]),
        ("negative zeros".to_owned(), vec![-0.0; length]),
    ];
    for start in 0..ADVERSARIAL.len() {
        let values = ADVERSARIAL.iter().cycle().skip(start).take(length).copied().collect();
        inputs.push((format!("adversarial from {start}"), values));
    }
    inputs
}

#[test]
fn bits_are_the_references_on_every_instruction_set() {
    let reference = VectorKernels::new(Isa::Reference);
    for isa in available() {
        let kernels = VectorKernels::new(isa);
        for length in lengths() {
            let inputs = inputs(length);
            for ((name, input), (_, y)) in inputs.iter().zip(inputs.iter().cycle().skip(3)) {
                let case = format!("{isa} on {length} {name} numbers");
                let in_place = |op: &dyn Fn(VectorKernels, &mut [f32])| {
                    let (mut got, mut expected) = (input.clone(), input.clone());
                    op(kernels, &mut got);
                    op(reference, &mut expected);
                    assert_bits(&case, &got, &expected);
                };
                in_place(&|kernels, x| {
                    kernels.add_scaled(x, y, 1.0);
                    assert_bits(&case, x, &input.iter().zip(y).map(|(x, y)| x + y).collect::<Vec<_>>());
                });
                in_place(&|kernels, x| kernels.exp(x));
                in_place(&|kernels, x| kernels.sigmoid(x));
                for gate in [
                    Gate::Silu,
                    Gate::Gelu,
                    Gate::ClampedSilu { alpha: 1.702, limit: 7.0 },
                    Gate::ClampedSilu { alpha: -3.0, limit: 1e-40 },
                ] {
                    in_place(&|kernels, x| kernels.gate_mul(gate, input, y, x));
                }
                for scale in [0.22, -1e-30] {
                    in_place(&|kernels, x| kernels.add_scaled(x, y, scale));
                }
                for cap in [30.0, 0.7, 1e-38] {
                    in_place(&|kernels, x| kernels.softcap(x, cap));
                }
                in_place(&|kernels, x| kernels.rms_norm(input, y, 1e-5, x));
                in_place(&|kernels, x| x[0] = kernels.log_sum_exp(x));
                for style in [RopeStyle::Halves, RopeStyle::Pairs] {
                    // Two heads whose last element is not rotated, if there is one.
                    let head_dim = length.div_ceil(2);
                    let pairs = head_dim / 2;
                    in_place(&|kernels, x| {
                        kernels.rope(
                            &mut x[..length / head_dim * head_dim],
                            head_dim,
                            &y[..pairs],
                            &y[length - pairs..],
                            style,
                        );
                    });
                }
            }
        }
    }
}

#[test]
fn exp_has_the_same_bits_all_over_its_range() {
    // A stride that is no power of two, so that every exponent and all kinds of mantissas come up.
    let mut inputs: Vec<f32> = (0..u32::MAX / 6_007).map(|i| f32::from_bits(i * 6_007)).collect();
    inputs.retain(|x| !x.is_nan());
    inputs.extend(ADVERSARIAL);
    inputs.extend([f32::INFINITY, f32::NEG_INFINITY]);
    for limit in [0xc2ae_ac4f_u32, 0x42b1_7217, 0x42b0_c0a5, 0x3eb1_7218, 0xbeb1_7218] {
        inputs.extend((limit - 200..limit + 200).map(f32::from_bits));
    }
    for isa in available() {
        let kernels = VectorKernels::new(isa);
        let mut got = inputs.clone();
        kernels.exp(&mut got);
        assert_bits(&format!("exp on {isa}"), &got, &inputs.iter().map(|&x| math::exp(x)).collect::<Vec<_>>());
        got.clone_from(&inputs);
        kernels.sigmoid(&mut got);
        assert_bits(&format!("sigmoid on {isa}"), &got, &inputs.iter().map(|&x| math::sigmoid(x)).collect::<Vec<_>>());
        got.clone_from(&inputs);
        kernels.softcap(&mut got, 1.0);
        assert_bits(&format!("tanh on {isa}"), &got, &inputs.iter().map(|&x| math::tanh(x)).collect::<Vec<_>>());
        kernels.gate_mul(Gate::Gelu, &inputs, &vec![1.0; inputs.len()], &mut got);
        assert_bits(&format!("gelu on {isa}"), &got, &inputs.iter().map(|&x| math::gelu(x)).collect::<Vec<_>>());
        let mut nan = [f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(0xffff_ffff)];
        kernels.exp(&mut nan);
        assert!(nan.iter().all(|x| x.is_nan()), "exp of NaN on {isa}: {nan:?}");
    }
}

#[test]
fn a_nan_makes_sums_nan_whatever_stands_beside_it() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let kernels = VectorKernels::new(isa);
        for length in [1, 2, 7, 8, 9, 16, 17, 40] {
            for other in [f32::NAN, f32::NEG_INFINITY, f32::INFINITY, 0.0] {
                for place in 0..length {
                    let mut x = vec![other; length];
                    x[place] = f32::NAN;
                    let case = format!("{isa}: NaN at {place} of {length} times {other}");
                    assert!(kernels.log_sum_exp(&x).is_nan(), "log_sum_exp on {case}");
                    let mut out = vec![0.0; length];
                    kernels.rms_norm(&x, &vec![1.0; length], 1e-5, &mut out);
                    assert!(out.iter().all(|x| x.is_nan()), "rms_norm on {case}");
                }
            }
        }
    }
}

#[test]
fn a_nan_goes_through_every_gate() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let kernels = VectorKernels::new(isa);
        for gate in [Gate::Silu, Gate::Gelu, Gate::ClampedSilu { alpha: 1.702, limit: 7.0 }] {
            for nan in [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001)] {
                for (place, length) in [(0, 1), (3, 17), (16, 17), (40, 64)] {
                    let (mut x, y, mut out) = (vec![0.5; length], vec![3.0; length], vec![0.0; length]);
                    x[place] = nan;
                    for (of, gate_values, up) in [("gate", &x, &y), ("other half", &y, &x)] {
                        kernels.gate_mul(gate, gate_values, up, &mut out);
                        let found: Vec<usize> = (0..length).filter(|&i| out[i].is_nan()).collect();
                        assert_eq!(found, [place], "{gate:?} on {isa}: {nan} in the {of}");
                    }
                }
            }
        }
    }
}

#[test]
fn sums_follow_the_written_order() {
    // Sixteen lanes, then the tree: in any other order these sums of squares differ.
    let x = [4096.0, 1.0, 1.0, 1.0, 4096.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 4096.0];
    let mut lanes = [0.0f32; 16];
    for (i, x) in x.iter().enumerate() {
        lanes[i % 16] = f32::mul_add(*x, *x, lanes[i % 16]);
    }
    let pairs: Vec<f32> = (0..8).map(|i| lanes[i] + lanes[i + 8]).collect();
    let fours: Vec<f32> = (0..4).map(|i| pairs[i] + pairs[i + 4]).collect();
    let sum = (fours[0] + fours[2]) + (fours[1] + fours[3]);
    let scale = 1.0 / (sum / 18.0 + 1e-6).sqrt();
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let mut out = [0.0; 18];
        VectorKernels::new(isa).rms_norm(&x, &[3.0; 18], 1e-6, &mut out);
        assert_bits(&format!("rms_norm on {isa}"), &out, &x.map(|x| x * scale * 3.0));
    }
}

#[test]
fn squares_of_columns_are_one_chain_each() {
    // With and without parts of many columns, below and above what is spread over threads.
    for (rows, cols) in [(0, 5), (1, 1), (3, 37), (7, 64), (40, 1536), (300, 96)] {
        let x = random(cols as u64, rows * cols, 1e3);
        let expected: Vec<f64> = (0..cols)
            .map(|col| x.iter().skip(col).step_by(cols).fold(1.0, |sum, &x| sum + f64::from(x) * f64::from(x)))
            .collect();
        for threads in [1, 2, 3] {
            let compute = Compute::new(Isa::best(), threads).unwrap();
            for rows_at_once in [1, 5, 1000] {
                let mut sums = vec![1.0; cols];
                x.chunks(rows_at_once * cols).for_each(|x| compute.add_squares(x, &mut sums));
                assert_eq!(sums, expected, "{rows} × {cols}, {threads} threads, {rows_at_once} rows at once");
            }
        }
    }
}

#[test]
fn near_the_exact_values() {
    let kernels = VectorKernels::new(Isa::Reference);
    let near = |name: &str, got: &[f32], expected: &[f64]| {
        for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
            let error = (f64::from(got) - expected).abs();
            assert!(error <= 1e-6 * expected.abs().max(1e-3), "{name}: element {i} is {got:e}, not {expected:e}");
        }
    };
    for length in [1, 17, 576] {
        let (x, y) = (random(1, length, 4.0), random(2, length, 2.0));
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let (x64, y64) = (wide(&x), wide(&y));
        let mut out = vec![0.0; length];

        kernels.rms_norm(&x, &y, 1e-5, &mut out);
        let mean = x64.iter().map(|x| x * x).sum::<f64>() / length as f64;
        near("rms_norm", &out, &x64.iter().zip(&y64).map(|(x, y)| x / (mean + 1e-5).sqrt() * y).collect::<Vec<_>>());

        kernels.gate_mul(Gate::Silu, &x, &y, &mut out);
        near("silu_mul", &out, &x64.iter().zip(&y64).map(|(x, y)| x / (1.0 + (-x).exp()) * y).collect::<Vec<_>>());

        near("log_sum_exp", &[kernels.log_sum_exp(&x)], &[x64.iter().map(|x| x.exp()).sum::<f64>().ln()]);
    }
    assert_eq!(kernels.log_sum_exp(&[]), f32::NEG_INFINITY);
    assert_eq!(kernels.log_sum_exp(&[f32::NEG_INFINITY; 9]), f32::NEG_INFINITY);
    assert_eq!(kernels.log_sum_exp(&[f32::NEG_INFINITY, 2.5]), 2.5);
}

#[test]
fn rope_turns_pairs_and_leaves_the_rest() {
    let frequencies = RopeFrequencies::new(10_000.0, 4, &RopeScaling::None).expect("a plain model");
    let table = RopeTable::new(&frequencies, [0, 3]);
    let (angle, slow) = (3f64, 3f64 * 0.01);
    let turn = |a: f64, b: f64, angle: f64| (a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin());
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let kernels = VectorKernels::new(isa);
        for (style, places) in [(RopeStyle::Halves, [0, 2, 1, 3]), (RopeStyle::Pairs, [0, 1, 2, 3])] {
            let before = [1.0, 2.0, 3.0, 4.0, 5.0];
            let mut x = before;
            kernels.rope(&mut x, 5, table.row(0).0, table.row(0).1, style);
            assert_eq!(x, before, "position 0 turns nothing");
            kernels.rope(&mut x, 5, table.row(1).0, table.row(1).1, style);
            let [a, b, c, d] = places;
            let value = |i: usize| f64::from(before[i]);
            for (i, j, angle) in [(a, b, angle), (c, d, slow)] {
                let (first, second) = turn(value(i), value(j), angle);
                assert!((f64::from(x[i]) - first).abs() < 1e-6 && (f64::from(x[j]) - second).abs() < 1e-6, "{style:?}");
            }
            assert_eq!(x[4], 5.0);
        }
    }
}
