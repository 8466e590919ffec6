//! Products: every weight type × shape × instruction set bit for bit against the scalar reference, and the reference
//! against a plain f64 product of the dequantised weights.

use crate::numbers::{ADVERSARIAL, assert_bits, available, random};
use freehold_base::Dtype;
use freehold_kernels::{ActivationKind, Activations, Compute, Isa, Matrix, MatrixError, Product, dequantize_vector};
use half::{bf16, f16};

pub(crate) const DTYPES: [Dtype; 26] = [
    Dtype::F32,
    Dtype::F16,
    Dtype::BF16,
    Dtype::Q4_0,
    Dtype::Q4_1,
    Dtype::Q5_0,
    Dtype::Q5_1,
    Dtype::Q8_0,
    Dtype::Q2_K,
    Dtype::Q3_K,
    Dtype::Q4_K,
    Dtype::Q5_K,
    Dtype::Q6_K,
    Dtype::IQ4_NL,
    Dtype::IQ4_XS,
    Dtype::MXFP4,
    Dtype::NVFP4,
    Dtype::IQ1_S,
    Dtype::IQ1_M,
    Dtype::IQ2_XXS,
    Dtype::IQ2_XS,
    Dtype::IQ2_S,
    Dtype::IQ3_XXS,
    Dtype::IQ3_S,
    Dtype::TQ1_0,
    Dtype::TQ2_0,
];

/// Where a block's f16 scales are.
fn scale_offsets(dtype: Dtype) -> &'static [usize] {
    match dtype {
        Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::MXFP4 | Dtype::NVFP4 | Dtype::IQ1_M => &[],
        Dtype::Q4_1 | Dtype::Q5_1 | Dtype::Q4_K | Dtype::Q5_K => &[0, 2],
        Dtype::Q2_K => &[80, 82],
        Dtype::Q3_K => &[108],
        Dtype::Q6_K => &[208],
        Dtype::TQ1_0 => &[52],
        Dtype::TQ2_0 => &[64],
        _ => &[0],
    }
}

/// Weights of any bits, with finite scales: `scale` of the order of magnitude, subnormal ones among them.
fn weights(dtype: Dtype, rows: usize, cols: usize, seed: u64, scale: f32) -> Vec<u8> {
    let numbers = random(seed, rows * cols, 1.0);
    match dtype {
        Dtype::F32 => numbers.iter().flat_map(|x| (x * scale).to_le_bytes()).collect(),
        Dtype::F16 => numbers.iter().flat_map(|x| f16::from_f32(x * scale).to_le_bytes()).collect(),
        Dtype::BF16 => numbers.iter().flat_map(|x| bf16::from_f32(x * scale).to_le_bytes()).collect(),
        _ => {
            let (length, size) = dtype.block();
            let mut bytes: Vec<u8> = (0..rows * cols / length * size)
                .map(|at| (freehold_base::random::uniform(seed, 1, at as u64) * 256.0) as u8)
                .collect();
            for (block, bytes) in bytes.chunks_exact_mut(size).enumerate() {
                for &offset in scale_offsets(dtype) {
                    let d = f16::from_f32(numbers[(block + offset) % numbers.len()] * scale);
                    bytes[offset..offset + 2].copy_from_slice(&d.to_le_bytes());
                }
                match dtype {
                    // Powers of two about `scale`, those that make subnormal numbers among them.
                    Dtype::MXFP4 if bytes[0] < 16 => bytes[0] = 0,
                    Dtype::MXFP4 => bytes[0] = (126 + scale.log2() as i32) as u8 - bytes[0] % 8,
                    // An f16 in four parts, of which the last has the sign and the upper exponent.
                    Dtype::IQ1_M => bytes[55] &= 0xbf,
                    _ => {}
                }
            }
            bytes
        }
    }
}

pub(crate) fn product(compute: &Compute, matrix: &Matrix, x: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let mut activations = Activations::new();
    compute.prepare(ActivationKind::of(matrix.dtype()), x, matrix.cols(), &mut activations);
    let mut out = vec![f32::NAN; activations.rows() * matrix.rows()];
    compute.matmul(&activations, &mut [Product { matrix, bias, out: &mut out }]);
    out
}

/// Shapes (N, K, M): tails of groups and of row tiles, one block and several. Only whole groups take several rows of
/// activations at once: of 15 they take eight, four, two and one.
fn shapes(dtype: Dtype) -> Vec<(usize, usize, usize)> {
    let block = dtype.block().0;
    let mut shapes = vec![
        (1, block, 1),
        (16, block * 2, 4),
        (33, block * 3, 5),
        (48, block, 3),
        (7, block * 5, 11),
        (16, block * 3, 15),
        // AMX takes 16 rows a tile, and up to 128 before it reads the weights again.
        (16, block * 3, 37),
        (33, block, 146),
    ];
    if block == 1 {
        shapes.extend([(5, 31, 2), (17, 33, 3), (20, 95, 6), (32, 64, 15), (150, 33, 2)]);
    }
    shapes
}

/// Activations for a case: plain, with edges of every kind, and of a spread that makes cancellation.
fn activations(kind: usize, count: usize, seed: u64) -> Vec<f32> {
    let mut x = random(seed, count, 1.0);
    match kind {
        0 => {}
        1 => x.iter_mut().enumerate().for_each(|(i, x)| *x = ADVERSARIAL[i * 7 % ADVERSARIAL.len()]),
        2 => x.iter_mut().enumerate().for_each(|(i, x)| *x *= 10f32.powi((i * 13 % 60) as i32 - 45)),
        _ => x.iter_mut().enumerate().for_each(|(i, x)| *x *= if i % 64 < 32 { 1e-38 } else { 1e-31 }),
    }
    x
}

#[test]
fn every_instruction_set_gives_the_references_bits() {
    for dtype in DTYPES {
        for (shape, (n, k, m)) in shapes(dtype).into_iter().enumerate() {
            for (case, scale) in [(0, 0.1), (1, 0.5), (2, 1e-6), (3, 1e-4), (3, 1e-7), (0, 6e4)] {
                let seed = (shape * 100 + case) as u64;
                let reference = Compute::new(Isa::Reference, 1).unwrap();
                let scale = if dtype == Dtype::BF16 && case == 3 { scale * 1e-4 } else { scale };
                let matrix = Matrix::pack(dtype, n, k, &weights(dtype, n, k, seed, scale), &reference).unwrap();
                let x = activations(case, m * k, seed + 1);
                let bias = random(seed + 2, n, 1.0);
                let expected = product(&reference, &matrix, &x, Some(&bias));
                for isa in available() {
                    for threads in [1, 3] {
                        let compute = Compute::new(isa, threads).unwrap();
                        let name = format!("{dtype} {n}×{k}, {m} rows, case {case}, {isa}, {threads} threads");
                        let all = product(&compute, &matrix, &x, Some(&bias));
                        assert_bits(&name, &all, &expected);
                        // The same rows one by one.
                        let single: Vec<f32> =
                            x.chunks_exact(k).flat_map(|x| product(&compute, &matrix, x, Some(&bias))).collect();
                        assert_bits(&name, &single, &expected);
                    }
                }
            }
        }
    }
}

/// Where a block's integer scales and minima are.
fn sub_scale_range(dtype: Dtype) -> std::ops::Range<usize> {
    match dtype {
        Dtype::Q2_K => 0..16,
        Dtype::Q3_K => 96..108,
        Dtype::Q4_K | Dtype::Q5_K => 4..16,
        Dtype::Q6_K => 192..208,
        Dtype::IQ4_XS => 2..8,
        _ => 0..0,
    }
}

#[test]
fn sums_of_the_largest_numbers_are_exact() {
    let reference = Compute::new(Isa::Reference, 1).unwrap();
    let computes: Vec<Compute> = available().map(|isa| Compute::new(isa, 1).unwrap()).collect();
    // A tile of AMX's, and fifteen rows as above.
    let (n, m) = (16, 31);
    for dtype in DTYPES.into_iter().filter(|dtype| dtype.block().0 > 1) {
        let (length, size) = dtype.block();
        let k = length * 2;
        // The largest magnitudes, so that every one of them is 127 or −127 in int8: all alike, or by turns of so many.
        let sign = |row: usize, at: usize| [1.0, -1.0, 1.0 - 2.0 * (at / [1, 2, 4, 16][row % 4] % 2) as f32][row % 3];
        let x: Vec<f32> = (0..m * k).map(|at| sign(at / k, at % k)).collect();
        // Whatever the form, these have the largest and the smallest quants, and scales of either sign.
        for quants in [0x00, 0x77, 0x7f, 0x80, 0x88, 0xff] {
            for sub_scales in [0x00, 0x7f, 0x80, 0xff] {
                for d in [1.0, -65_504.0] {
                    let mut block = vec![quants; size];
                    block[sub_scale_range(dtype)].fill(sub_scales);
                    for &offset in scale_offsets(dtype) {
                        block[offset..offset + 2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
                    }
                    match dtype {
                        Dtype::MXFP4 => block[0] = 128,
                        Dtype::NVFP4 => block[..4].fill(sub_scales),
                        Dtype::IQ1_M => block[55] &= 0xbf,
                        _ => {}
                    }
                    let matrix = Matrix::pack(dtype, n, k, &block.repeat(n * 2), &reference).unwrap();
                    let expected = product(&reference, &matrix, &x, None);
                    let mut row = vec![0.0; k];
                    matrix.dequantize_row(0, &mut row);
                    for (x, outputs) in x.chunks_exact(k).zip(expected.chunks_exact(n)) {
                        let terms = row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                        let (exact, size) = (terms.clone().sum::<f64>(), terms.map(f64::abs).sum::<f64>());
                        let name = format!("{dtype} of {quants:#x}, {sub_scales:#x} and {d}");
                        for &output in outputs {
                            assert!(
                                (f64::from(output) - exact).abs() <= size * 1e-5,
                                "{name}: {output} is not {exact}"
                            );
                        }
                    }
                    for compute in &computes {
                        let name = format!("{dtype} of {quants:#x}, {sub_scales:#x} and {d} on {}", compute.isa());
                        assert_bits(&name, &product(compute, &matrix, &x, None), &expected);
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_not_a_number_reaches_the_outputs() {
    for dtype in DTYPES {
        let (n, k) = (5, 512);
        for isa in available() {
            let compute = Compute::new(isa, 1).unwrap();
            let matrix = Matrix::pack(dtype, n, k, &weights(dtype, n, k, 7, 0.1), &compute).unwrap();
            for number in [f32::NAN, -f32::NAN, f32::INFINITY] {
                // In each place of a register, and after larger and smaller numbers.
                for place in [0, 3, 8, 31, 270, 511] {
                    let mut x = random(8, 2 * k, 1.0);
                    x[place] = number;
                    let result = product(&compute, &matrix, &x, None);
                    let (bad, good) = result.split_at(n);
                    assert!(bad.iter().all(|y| !y.is_finite()), "{dtype}, {isa}: {number} at {place} gave {bad:?}");
                    assert!(good.iter().all(|y| y.is_finite()), "{dtype}, {isa}: the other row");
                }
            }
        }
    }
}

#[test]
fn the_reference_is_close_to_a_product_in_double_precision() {
    let compute = Compute::new(Isa::Reference, 1).unwrap();
    for dtype in DTYPES {
        let (n, k, m) = (19, 512, 3);
        let matrix = Matrix::pack(dtype, n, k, &weights(dtype, n, k, 5, 0.1), &compute).unwrap();
        let x = random(6, m * k, 1.0);
        let result = product(&compute, &matrix, &x, None);
        let mut row = vec![0.0; k];
        for output in 0..n {
            matrix.dequantize_row(output, &mut row);
            for token in 0..m {
                let terms = row.iter().zip(&x[token * k..]).map(|(w, x)| f64::from(*w) * f64::from(*x));
                let exact: f64 = terms.clone().sum();
                let size: f64 = terms.map(f64::abs).sum();
                let error = (f64::from(result[token * n + output]) - exact).abs();
                // int8 activations are good to 1/254 of a block's largest, bf16 to 2^−9.
                assert!(error <= size * 0.01, "{dtype}: {error} of {size}");
            }
        }
    }
}

#[test]
fn dequantised_rows_are_those_of_the_formats_own_implementation() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("../data/quants_golden.json")).unwrap();
    let compute = Compute::new(Isa::Reference, 1).unwrap();
    let mut checked = Vec::new();
    for dtype in DTYPES {
        let Some(case) = golden.get(dtype.to_string()) else { continue };
        checked.push(dtype);
        let decode = |key: &str| {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(case[key].as_str().unwrap()).unwrap()
        };
        let values: Vec<f32> =
            decode("values_f32_b64").chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
        let raw = decode("raw_b64");
        let cols = if dtype.block().0 == 1 { values.len() } else { dtype.block().0 };
        let matrix = Matrix::pack(dtype, values.len() / cols, cols, &raw, &compute).unwrap();
        let mut row = vec![0.0; cols];
        for (index, expected) in values.chunks_exact(cols).enumerate() {
            matrix.dequantize_row(index, &mut row);
            assert_bits(&format!("{dtype} row {index}"), &row, expected);
        }
        assert_bits(&format!("{dtype} as a vector"), &dequantize_vector(dtype, values.len(), &raw).unwrap(), &values);
    }
    assert_eq!(checked.len(), golden.as_object().unwrap().len(), "only {checked:?}");
    assert_eq!(checked.len(), DTYPES.len() - 2, "all but F32 and F16");
}

#[test]
fn what_cannot_be_packed_is_refused() {
    let compute = Compute::new(Isa::Reference, 1).unwrap();
    let check = |dtype, rows, cols, bytes: &[u8], expected: &str| {
        let error = Matrix::pack(dtype, rows, cols, bytes, &compute).err().expect(expected).to_string();
        assert!(error.contains(expected), "{error}");
        if rows == 1 {
            let error = dequantize_vector(dtype, cols, bytes).expect_err(expected).to_string();
            assert!(error.contains(expected), "{dtype} as a vector: {error}");
        }
    };
    check(Dtype::Q8_K, 1, 256, &[0; 292], "Q8_K is not supported");
    check(Dtype::Q4_0, 1, 33, &[0; 18], "do not fit");
    check(Dtype::Q4_0, 2, 32, &[0; 18], "do not fit");
    check(Dtype::F32, usize::MAX, 2, &[0; 8], "do not fit");
    check(Dtype::F32, 1, usize::MAX, &[0; 8], "do not fit");
    check(Dtype::F32, 0, 4, &[], "do not fit");
    check(Dtype::F32, 1, 0, &[], "do not fit");
    check(Dtype::Q8_0, 1, 32, &[0xff; 34], "row 0 holds NaN");
    check(Dtype::BF16, 1, 33, &[0xff; 66], "row 0 holds NaN");
    for dtype in DTYPES {
        let cols = dtype.block().0;
        let size = dtype.block().1;
        let places: &[usize] = if cols == 1 { &[0] } else { scale_offsets(dtype) };
        for &place in places {
            for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut bytes = vec![0; 20 * size];
                let bad = &mut bytes[17 * size + place..];
                match dtype {
                    Dtype::F32 => bad[..4].copy_from_slice(&number.to_le_bytes()),
                    Dtype::BF16 => bad[..2].copy_from_slice(&bf16::from_f32(number).to_le_bytes()),
                    _ => bad[..2].copy_from_slice(&f16::from_f32(number).to_le_bytes()),
                }
                check(dtype, 20, cols, &bytes, "row 17 holds NaN");
            }
        }
    }
    // Scales that are no f16: MXFP4's one NaN, and the f16 that IQ1_M keeps in four parts.
    let mut bytes = [0; 20 * 17];
    bytes[17 * 17] = 0xff;
    check(Dtype::MXFP4, 20, 32, &bytes, "row 17 holds NaN");
    let mut bytes = [0; 20 * 56];
    (bytes[17 * 56 + 53], bytes[17 * 56 + 55]) = (0xc0, 0x70);
    check(Dtype::IQ1_M, 20, 256, &bytes, "row 17 holds NaN");
}

#[test]
fn large_matrices_are_packed_part_by_part() {
    let compute = Compute::new(Isa::Reference, 2).unwrap();
    let (rows, cols) = (40, 300_000);
    let numbers: Vec<f32> = (0..rows * cols).map(|i| i as f32).collect();
    let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let mut parts = Vec::new();
    let matrix =
        Matrix::pack_in_parts(Dtype::F32, rows, cols, &bytes, &compute, |part| parts.push(part.len())).unwrap();
    assert!(parts.len() > 1, "{parts:?}");
    assert_eq!(parts.iter().sum::<usize>(), bytes.len());
    let mut row = vec![0.0; cols];
    for (index, expected) in numbers.chunks_exact(cols).enumerate() {
        matrix.dequantize_row(index, &mut row);
        assert_bits(&format!("row {index}"), &row, expected);
    }

    bytes[(37 * cols + 5) * 4..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let error = Matrix::pack(Dtype::F32, rows, cols, &bytes, &compute).err().unwrap();
    assert_eq!(error, MatrixError::NotFinite { row: 37 });
}
