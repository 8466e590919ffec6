//! The test vectors of the contract, `tests/data/cpu-1`, which `scripts/cpu_1` wrote from `docs/numerics.md` alone: the bits
//! change with the contract's id or not at all.

use crate::matmul::{DTYPES, product};
use crate::numbers::assert_bits;
use freehold_base::Dtype;
use freehold_kernels::{
    AttentionRow, AttentionScratch, AttentionShape, Compute, Gate, Isa, KV_BLOCK, KvLayer, KvShape, KvType, Matrix,
    RopeFrequencies, RopeScaling, RopeStyle, RopeTable, RouteShare, VectorKernels, math, route,
};
use serde_json::Value;

fn vectors(file: &str) -> Value {
    let path = format!("{}/../../tests/data/cpu-1/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn count(value: &Value) -> usize {
    value.as_u64().expect("a count") as usize
}

/// Numbers of binary32, eight hexadecimal digits each.
fn numbers(value: &Value) -> Vec<f32> {
    text(value).split(' ').map(|word| f32::from_bits(u32::from_str_radix(word, 16).unwrap())).collect()
}

fn number(value: &Value) -> f32 {
    numbers(value)[0]
}

fn optional<T>(value: &Value, read: impl Fn(&Value) -> T) -> Option<T> {
    (!value.is_null()).then(|| read(value))
}

fn bytes(value: &Value) -> Vec<u8> {
    let digits = text(value).as_bytes().chunks_exact(2);
    digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

#[test]
fn functions() {
    let vectors = vectors("functions.json");
    let scalar = |name: &str, function: fn(f32) -> f32| {
        let got: Vec<f32> = numbers(&vectors[name]["x"]).into_iter().map(function).collect();
        assert_bits(name, &got, &numbers(&vectors[name]["out"]));
    };
    scalar("exp", math::exp);
    scalar("sigmoid", math::sigmoid);
    scalar("tanh", math::tanh);
    scalar("gelu", math::gelu);
    scalar("ln", math::ln);
    for isa in isas() {
        let kernels = VectorKernels::new(isa);
        let check = |name: &str, case: &Value, function: &dyn Fn(&mut [f32])| {
            let mut x = numbers(&case["x"]);
            function(&mut x);
            assert_bits(&format!("{name} on {isa}"), &x, &numbers(&case["out"]));
        };
        check("exp", &vectors["exp"], &|x| kernels.exp(x));
        check("sigmoid", &vectors["sigmoid"], &|x| kernels.sigmoid(x));
        check("tanh", &vectors["tanh"], &|x| kernels.softcap(x, 1.0));
        for (name, gate) in [("silu", Gate::Silu), ("gelu", Gate::Gelu)] {
            check(name, &vectors[name], &|x| {
                let gates = x.to_vec();
                kernels.gate_mul(gate, &gates, &vec![1.0; gates.len()], x);
            });
        }
        for case in list(&vectors["softcap"]) {
            check("softcap", case, &|x| kernels.softcap(x, number(&case["cap"])));
        }
        for case in list(&vectors["units"]) {
            let unit = match text(&case["unit"]) {
                "silu" => Gate::Silu,
                "gelu" => Gate::Gelu,
                _ => Gate::ClampedSilu { alpha: number(&case["alpha"]), limit: number(&case["limit"]) },
            };
            let expected = numbers(&case["out"]);
            let mut out = vec![0.0; expected.len()];
            kernels.gate_mul(unit, &numbers(&case["gate"]), &numbers(&case["up"]), &mut out);
            assert_bits(&format!("{unit:?} on {isa}"), &out, &expected);
        }
    }
}

#[test]
fn sums() {
    let vectors = vectors("sums.json");
    for isa in isas() {
        let kernels = VectorKernels::new(isa);
        for (index, case) in list(&vectors["rms_norm"]).iter().enumerate() {
            let x = numbers(&case["x"]);
            let mut out = vec![0.0; x.len()];
            kernels.rms_norm(&x, &numbers(&case["weight"]), number(&case["eps"]), &mut out);
            assert_bits(&format!("norm {index} on {isa}"), &out, &numbers(&case["out"]));
        }
        for (index, case) in list(&vectors["log_sum_exp"]).iter().enumerate() {
            let got = kernels.log_sum_exp(&numbers(&case["x"]));
            assert_bits(&format!("logarithm {index} on {isa}"), &[got], &numbers(&case["out"]));
        }
        for (index, case) in list(&vectors["residual"]).iter().enumerate() {
            let mut x = numbers(&case["x"]);
            kernels.add_scaled(&mut x, &numbers(&case["y"]), optional(&case["scale"], number).unwrap_or(1.0));
            assert_bits(&format!("residual {index} on {isa}"), &x, &numbers(&case["out"]));
        }
    }
}

/// A matrix that gives activations back as a product takes them: 1 on the diagonal, else 0.
fn identity(dtype: Dtype, size: usize, compute: &Compute) -> Matrix {
    let mut bytes = Vec::new();
    for (row, column) in (0..size).flat_map(|row| (0..size).map(move |column| (row, column))) {
        let is_one = row == column;
        match dtype {
            Dtype::BF16 => bytes.extend(half::bf16::from_f32(f32::from(u8::from(is_one))).to_le_bytes()),
            // A scale of 1, then 32 signed bytes.
            Dtype::Q8_0 => {
                if column % 32 == 0 {
                    bytes.extend(half::f16::ONE.to_le_bytes());
                }
                bytes.push(u8::from(is_one));
            }
            // TQ2_0: 64 bytes with codes of 0 to 2 for −1 to 1, each byte for k, k + 32, k + 64 and k + 96, then the scale.
            Dtype::TQ2_0 => {
                assert_eq!(size, 256, "one block");
                if column % 256 == 0 {
                    let mut block = [0b01_01_01_01; 64];
                    block[row / 128 * 32 + row % 32] += 1 << (row / 32 % 4 * 2);
                    bytes.extend(block);
                    bytes.extend(half::f16::ONE.to_le_bytes());
                }
            }
            _ => unreachable!("{dtype} has no activations of its own"),
        }
    }
    Matrix::pack(dtype, size, size, &bytes, compute).unwrap()
}

#[test]
fn activations() {
    let vectors = vectors("activations.json");
    for isa in isas() {
        let compute = Compute::new(isa, 1).unwrap();
        let matrices =
            [(32, Dtype::Q8_0), (256, Dtype::TQ2_0)].map(|(block, dtype)| (block, identity(dtype, 256, &compute)));
        for case in list(&vectors["int8"]) {
            let block = count(&case["block"]);
            let (_, matrix) = matrices.iter().find(|(size, _)| *size == block).unwrap();
            let (x, d) = (numbers(&case["x"]), numbers(&case["d"]));
            let quants = list(&case["q"]).iter().map(|q| q.as_i64().unwrap() as f32);
            // 1 · d · q in the block itself, and 0 · d in the others: NaN where their d is.
            let others = d.iter().sum::<f32>() * 0.0;
            let expected: Vec<f32> = quants.enumerate().map(|(i, q)| d[i / block] * q + others).collect();
            assert_bits(&format!("{} on {isa}", case["name"]), &product(&compute, matrix, &x, None), &expected);
        }
        for case in list(&vectors["bf16"]) {
            let x = numbers(&case["x"]);
            let matrix = identity(Dtype::BF16, x.len(), &compute);
            // Alone: 0 times an infinity beside it would be NaN.
            for (i, expected) in numbers(&case["out"]).into_iter().enumerate() {
                let row: Vec<f32> = (0..x.len()).map(|k| if k == i { x[k] } else { 0.0 }).collect();
                let got = product(&compute, &matrix, &row, None)[i];
                // A chain begins with +0, so a zero has lost its sign.
                assert_bits(&format!("{} {i} as bf16 on {isa}", case["name"]), &[got], &[expected + 0.0]);
            }
        }
    }
}

#[test]
fn products() {
    let vectors = vectors("products.json");
    let cases = list(&vectors["products"]);
    assert_eq!(cases.len(), DTYPES.len());
    for case in cases {
        let dtype = DTYPES.into_iter().find(|dtype| dtype.to_string() == text(&case["type"])).unwrap();
        let (n, k) = (count(&case["n"]), count(&case["k"]));
        let names: Vec<&str> = list(&case["x"]).iter().map(text).collect();
        let x: Vec<f32> = names.iter().flat_map(|name| numbers(&vectors["x"][k.to_string()][*name])).collect();
        // The rows four times, for kernels that take many at once.
        let (weights, bias) = (bytes(&case["weights"]).repeat(4), numbers(&case["bias"]).repeat(4));
        for isa in isas() {
            let compute = Compute::new(isa, 1).unwrap();
            let matrix = Matrix::pack(dtype, 4 * n, k, &weights, &compute).unwrap();
            for (out, bias) in [("out", None), ("out_with_bias", Some(&bias[..]))] {
                let together = product(&compute, &matrix, &x, bias);
                for (row, name) in names.iter().enumerate() {
                    let case_name = format!("{dtype}, {name}, {out} on {isa}");
                    let expected = numbers(&case[out][row]).repeat(4);
                    assert_bits(&case_name, &together[row * 4 * n..][..4 * n], &expected);
                    assert_bits(&case_name, &product(&compute, &matrix, &x[row * k..][..k], bias), &expected);
                }
            }
            let mut decoded = vec![0.0; 2 * k];
            matrix.dequantize_row(0, &mut decoded[..k]);
            matrix.dequantize_row(4, &mut decoded[k..]);
            assert_bits(&format!("{dtype} decoded"), &decoded, &numbers(&case["decoded_rows_0_and_4"]));
        }
    }
}

fn scaling(case: &Value) -> RopeScaling {
    let scaling = &case["scaling"];
    let given = |name: &str| scaling[name].as_f64();
    let wanted = |name: &str| given(name).unwrap_or_else(|| panic!("no {name} in {scaling}"));
    match text(&scaling["type"]) {
        "none" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: wanted("factor") },
        "llama3" => RopeScaling::Llama3 {
            factor: wanted("factor"),
            low_frequency_factor: wanted("low"),
            high_frequency_factor: wanted("high"),
            original_context: wanted("context"),
        },
        "yarn" => RopeScaling::Yarn {
            factor: wanted("factor"),
            original_context: wanted("context"),
            beta_fast: given("beta_fast").unwrap_or(32.0),
            beta_slow: given("beta_slow").unwrap_or(1.0),
            truncate: scaling["truncate"].as_bool().unwrap_or(true),
            attention_factor: given("attention_factor"),
            attention_multiplier: given("gguf_attention_factor").unwrap_or(1.0),
            mscale: given("mscale"),
            mscale_all_dim: given("mscale_all_dim"),
        },
        "factors" => RopeScaling::Factors(numbers(&case["factors"])),
        "longrope" => RopeScaling::LongRope {
            factors: numbers(&case["factors"]),
            factor: wanted("factor"),
            original_context: wanted("context"),
            attention_factor: given("attention_factor"),
        },
        other => panic!("a scaling {other}"),
    }
}

#[test]
fn rope() {
    for case in list(&vectors("rope.json")) {
        let name = format!("θ {}, {} of {}", case["theta"], case["scaling"], case["d"]);
        let d = count(&case["d"]);
        let frequencies = RopeFrequencies::new(case["theta"].as_f64().unwrap(), d, &scaling(case)).unwrap();
        assert_bits(&name, frequencies.inverse(), &numbers(&case["inverse_frequencies"]));
        assert_bits(&name, &[frequencies.attention_factor()], &numbers(&case["attention_factor"]));
        let heads: Vec<f32> = list(&case["heads"]).iter().flat_map(numbers).collect();
        for turned in list(&case["turned"]) {
            let position = count(&turned["position"]);
            let table = RopeTable::new(&frequencies, [position]);
            let (cos, sin) = table.row(0);
            assert_bits(&name, cos, &numbers(&turned["cos"]));
            assert_bits(&name, sin, &numbers(&turned["sin"]));
            for isa in isas() {
                let mut x = heads.clone();
                VectorKernels::new(isa).rope(&mut x, heads.len() / 2, cos, sin, RopeStyle::Halves);
                assert_bits(&format!("{name} at {position} on {isa}"), &x, &numbers(&turned["out"]));
            }
        }
    }
}

#[test]
fn attention() {
    let vectors = vectors("attention.json");
    for (index, case) in list(&vectors["cases"]).iter().enumerate() {
        let cache = &vectors["caches"][text(&case["cache"])];
        let (kv_heads, length) = (count(&cache["kv_heads"]), count(&cache["length"]));
        let kv_type: KvType = text(&case["kv"]).parse().unwrap();
        let shape = KvShape { kv_type, kv_heads, k_dim: length, v_dim: length };
        let mut layer = KvLayer::new(shape, 3).unwrap();
        let (k, v) = (numbers(&cache["k"]), numbers(&cache["v"]));
        for (position, (k, v)) in k.chunks(kv_heads * length).zip(v.chunks(kv_heads * length)).enumerate() {
            layer.write((position / KV_BLOCK) as u32, position % KV_BLOCK, k, v);
        }
        let shape = AttentionShape {
            heads: count(&case["heads"]),
            kv_heads,
            k_dim: length,
            v_dim: length,
            scale: number(&case["scale"]),
            window: optional(&case["window"], count),
            softcap: optional(&case["softcap"], number),
            sinks: optional(&case["sinks"], numbers),
        };
        let (q, expected) = (numbers(&case["q"]), numbers(&case["out"]));
        let row = AttentionRow { q: &q, position: count(&case["position"]) };
        for isa in isas() {
            let mut out = vec![0.0; expected.len()];
            for (kv_head, out) in out.chunks_mut(shape.group() * length).enumerate() {
                let scratch = &mut AttentionScratch::default();
                VectorKernels::new(isa).attend(&layer, &shape, kv_head, &[row], &[0, 1, 2], out, scratch);
            }
            assert_bits(&format!("attention {index} on {isa}, {kv_type}, {shape:?}"), &out, &expected);
        }
    }
}

#[test]
fn routing() {
    for case in list(&vectors("routing.json")) {
        let share = match text(&case["share"]) {
            "of all" => RouteShare::OfAll,
            _ => RouteShare::OfChosen,
        };
        let routes = route(&numbers(&case["logits"]), count(&case["count"]), share);
        let name = format!("{share:?} of {}, {}", case["count"], case["logits"]);
        let experts: Vec<usize> = routes.iter().map(|route| route.expert).collect();
        assert_eq!(experts, list(&case["experts"]).iter().map(count).collect::<Vec<_>>(), "{name}");
        let weights: Vec<f32> = routes.iter().map(|route| route.weight).collect();
        assert_bits(&name, &weights, &numbers(&case["weights"]));
    }
}
