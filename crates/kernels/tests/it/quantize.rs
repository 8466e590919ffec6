//! Encoding: the bytes of ggml's reference where a format has one, small errors elsewhere, and sound blocks of any numbers.

use crate::numbers::random;
use base64::Engine as _;
use freehold_base::Dtype;
use freehold_kernels::{can_quantize, dequantize_vector, quantize_row};

/// Each with the errors of llama.cpp's encoder on the numbers below, without importance and with it, as
/// `scripts/quantize_errors.py` prints them.
const DTYPES: [(Dtype, [f32; 2]); 12] = [
    (Dtype::Q4_0, [0.08437, 0.07541]),
    (Dtype::Q4_1, [0.07827, 0.06047]),
    (Dtype::Q5_0, [0.04233, 0.03825]),
    (Dtype::Q5_1, [0.03753, 0.03012]),
    (Dtype::Q8_0, [0.00534, 0.00536]),
    (Dtype::Q2_K, [0.29666, 0.22315]),
    (Dtype::Q3_K, [0.15073, 0.12742]),
    (Dtype::Q4_K, [0.07119, 0.06204]),
    (Dtype::Q5_K, [0.03575, 0.03251]),
    (Dtype::Q6_K, [0.01761, 0.01540]),
    (Dtype::IQ4_NL, [0.07638, 0.06837]),
    (Dtype::IQ4_XS, [0.07692, 0.06927]),
];

fn encoded(dtype: Dtype, x: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0xa5; dtype.size_bytes(x.len() as u64).unwrap() as usize];
    quantize_row(dtype, x, importance, &mut out);
    out
}

fn decoded(dtype: Dtype, x: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
    let bytes = encoded(dtype, x, importance);
    dequantize_vector(dtype, x.len(), &bytes).unwrap_or_else(|error| panic!("{dtype}: {error}"))
}

#[test]
fn the_bytes_of_the_reference() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("../data/quants_golden.json")).unwrap();
    let bytes =
        |value: &serde_json::Value| base64::engine::general_purpose::STANDARD.decode(value.as_str().unwrap()).unwrap();
    for dtype in [Dtype::Q4_0, Dtype::Q4_1, Dtype::Q5_0, Dtype::Q5_1, Dtype::Q8_0] {
        let of_type = &golden[dtype.to_string()];
        let numbers = bytes(&of_type["quantize_in_f32_b64"]);
        let numbers: Vec<f32> = numbers.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        assert_eq!(encoded(dtype, &numbers, None), bytes(&of_type["quantize_out_b64"]), "{dtype}");
    }
}

#[test]
fn blocks_of_any_numbers_are_sound() {
    let mut outlier = [0.001; 256];
    outlier[77] = -300.0;
    let spread: Vec<f32> = (0..256).map(|k| (if k % 2 == 0 { 1.0 } else { -1.0 }) * 2f32.powi(k - 140)).collect();
    let rows: [(&str, Vec<f32>); 10] = [
        ("zeros", vec![0.0; 256]),
        ("negative zeros", vec![-0.0; 256]),
        ("one outlier", outlier.to_vec()),
        ("all alike", vec![0.375; 256]),
        ("all alike below 0", vec![-0.375; 256]),
        ("subnormal", vec![1e-40; 256]),
        ("the least", vec![f32::from_bits(1); 256]),
        ("the ends of halves", (0..256).map(|k| if k % 2 == 0 { 65_504.0 } else { -65_504.0 }).collect()),
        ("huge spread", spread),
        ("the ends of f32", (0..256).map(|k| if k % 3 == 0 { f32::MAX } else { f32::MIN }).collect()),
    ];
    for (dtype, _) in DTYPES {
        assert!(can_quantize(dtype), "{dtype}");
        for (name, row) in &rows {
            for importance in [None, Some(vec![0.0; 256]), Some(vec![1.0; 256]), Some(spread_importance())] {
                let decoded = decoded(dtype, row, importance.as_deref());
                assert!(decoded.iter().all(|x| x.is_finite()), "{dtype}, {name}");
                let most = |row: &[f32]| row.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                // Of no type is a number much larger than the largest given.
                assert!(most(&decoded) <= most(row) * 1.3 + 1e-6, "{dtype}, {name}: {} {}", most(&decoded), most(row));
            }
        }
    }
}

fn spread_importance() -> Vec<f32> {
    (0..256).map(|k| if k % 5 == 0 { 1e6 } else { 1e-6 }).collect()
}

/// The squares of differences, each as important as it is, over those of the numbers.
fn error(x: &[f32], found: &[f32], importance: &[f32]) -> f32 {
    let sum = |differences: &mut dyn Iterator<Item = f32>| {
        differences.zip(importance).map(|(difference, importance)| importance * difference * difference).sum::<f32>()
    };
    (sum(&mut x.iter().zip(found).map(|(x, found)| x - found)) / sum(&mut x.iter().copied())).sqrt()
}

#[test]
fn errors_are_about_llama_cpps_or_smaller() {
    // Twelve uniform numbers added up are as good as normal ones.
    let uniform = random(7, 12 * 16 * 256, 1.0);
    let numbers: Vec<f32> = uniform.chunks_exact(12).map(|twelve| twelve.iter().sum::<f32>()).collect();
    let equal = vec![1.0; numbers.len()];
    let importance: Vec<f32> = random(8, numbers.len(), 4.0).iter().map(|x| x.exp2()).collect();
    let mut worse = Vec::new();
    for (dtype, [plain, informed]) in DTYPES {
        for (given, weights, expected) in [(None, &equal, plain), (Some(&importance[..]), &importance, informed)] {
            let found = error(&numbers, &decoded(dtype, &numbers, given), weights);
            // Most are smaller; Q5_K and Q2_K with importance are larger by 2 to 3 %.
            if found > expected * 1.03 {
                worse.push(format!("{dtype}, with importance: {}: {found}, not {expected}", given.is_some()));
            }
        }
    }
    assert!(worse.is_empty(), "{worse:#?}");
}
