//! What each instruction set gains over the one below it, on one thread of this machine, at the sizes of real models. The
//! instruction sets take turns, so that what else the machine does meets all of them:
//! `cargo run --release -p freehold-kernels --example ratios [PART OF A NAME]`.

use freehold_base::Dtype;
use freehold_kernels::{
    ActivationKind, Activations, AttentionRow, AttentionScratch, AttentionShape, Compute, Gate, Isa, KV_BLOCK, KvLayer,
    KvShape, KvType, Matrix, Product, RopeFrequencies, RopeScaling, RopeStyle, RopeTable, VectorKernels,
};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// How long each instruction set is measured, in all.
const MEASURED: Duration = Duration::from_millis(150);
/// Turns that each takes.
const TURNS: u32 = 10;

/// Times an operation on every instruction set and prints the shortest of its runs, and their ratios.
struct Ratios {
    isas: Vec<Isa>,
    part: String,
}

impl Ratios {
    fn measure(&self, name: &str, mut run: impl FnMut(Isa)) {
        if !name.contains(&self.part) {
            return;
        }
        let mut shortest = vec![f64::INFINITY; self.isas.len()];
        for _ in 0..TURNS {
            for (&isa, shortest) in self.isas.iter().zip(&mut shortest) {
                let begin = Instant::now();
                while begin.elapsed() < MEASURED / TURNS {
                    let start = Instant::now();
                    run(isa);
                    *shortest = shortest.min(start.elapsed().as_secs_f64());
                }
            }
        }
        print!("{name:<44}");
        for (index, &seconds) in shortest.iter().enumerate() {
            print!("{:>12.2}", seconds * 1e6);
            if index > 0 {
                print!(" {:>5.2}", shortest[index - 1] / seconds);
            }
        }
        println!();
    }
}

/// The k-th of the instruction sets that the tables here are indexed by.
fn index(isa: Isa) -> usize {
    Isa::ALL.into_iter().position(|other| other == isa).expect("it is one of all")
}

fn numbers(length: usize) -> Vec<f32> {
    (0..length).map(|i| ((i * 2_654_435_761) % 65_536) as f32 / 32_768.0 - 1.0).collect()
}

fn main() {
    let isas: Vec<Isa> =
        Isa::ALL.into_iter().filter(|&isa| isa != Isa::Reference && isa != Isa::Amx && isa.is_available()).collect();
    let ratios = Ratios { isas, part: std::env::args().nth(1).unwrap_or_default() };
    print!("{:<44}", "microseconds, and how many times faster");
    for isa in &ratios.isas {
        print!("{:>12}", isa.to_string());
    }
    println!();
    vectors(&ratios);
    attention(&ratios);
    products(&ratios);
}

fn vectors(ratios: &Ratios) {
    // A run is 64 rows, as in a prompt.
    const ROWS: usize = 64;
    for width in [576, 2048] {
        let (x, y, mut out) = (numbers(ROWS * width), numbers(width), vec![0.0; width]);
        ratios.measure(&format!("rms_norm, 64 × {width}"), |isa| {
            for x in x.chunks_exact(width) {
                VectorKernels::new(isa).rms_norm(x, &y, 1e-5, &mut out);
            }
        });
        let mut sum = numbers(width);
        ratios.measure(&format!("add_scaled, 64 × {width}"), |isa| {
            for x in x.chunks_exact(width) {
                VectorKernels::new(isa).add_scaled(&mut sum, x, 1.0);
            }
        });
    }
    for (name, gate) in [
        ("silu_mul", Gate::Silu),
        ("gelu_mul", Gate::Gelu),
        ("clamped_silu_mul", Gate::ClampedSilu { alpha: 1.702, limit: 7.0 }),
    ] {
        let width = 1536;
        let (x, y, mut out) = (numbers(ROWS * width), numbers(width), vec![0.0; width]);
        ratios.measure(&format!("{name}, 64 × {width}"), |isa| {
            for x in x.chunks_exact(width) {
                VectorKernels::new(isa).gate_mul(gate, x, &y, &mut out);
            }
        });
    }
    let logits = numbers(49_152);
    let mut out = logits.clone();
    ratios.measure("softcap, 49152", |isa| {
        out.copy_from_slice(&logits);
        VectorKernels::new(isa).softcap(&mut out, 30.0);
    });
    ratios.measure("exp, 49152", |isa| {
        out.copy_from_slice(&logits);
        VectorKernels::new(isa).exp(&mut out);
    });
    ratios.measure("sigmoid, 49152", |isa| {
        out.copy_from_slice(&logits);
        VectorKernels::new(isa).sigmoid(&mut out);
    });
    ratios.measure("log_sum_exp, 49152", |isa| {
        black_box(VectorKernels::new(isa).log_sum_exp(&logits));
    });
    for (heads, dim) in [(9, 64), (12, 128)] {
        let frequencies = RopeFrequencies::new(10_000.0, dim, &RopeScaling::None).expect("a plain model");
        let table = RopeTable::new(&frequencies, [700]);
        let (cos, sin) = table.row(0);
        for style in [RopeStyle::Halves, RopeStyle::Pairs] {
            let mut x = numbers(heads * dim);
            ratios.measure(&format!("rope {style:?}, 64 × {heads} heads of {dim}"), |isa| {
                for _ in 0..ROWS {
                    VectorKernels::new(isa).rope(&mut x, dim, cos, sin, style);
                }
            });
        }
    }
}

fn attention(ratios: &Ratios) {
    /// Caches that take turns, as in a model: what was read of one is no longer near when it is read again.
    const LAYERS: u32 = 24;
    let heads = [("SmolLM2-135M", 9, 3, 64), ("Qwen2.5-1.5B", 12, 2, 128), ("no groups", 8, 8, 64)];
    for (name, heads, kv_heads, dim) in heads {
        let shape = AttentionShape {
            heads,
            kv_heads,
            k_dim: dim,
            v_dim: dim,
            scale: 0.125,
            window: None,
            softcap: None,
            sinks: None,
        };
        for kv_type in KvType::ALL {
            let count = 8192 / KV_BLOCK as u32 + 1;
            let kv_shape = KvShape { kv_type, kv_heads, k_dim: dim, v_dim: dim };
            let mut layer = KvLayer::new(kv_shape, (LAYERS * count) as usize).unwrap();
            let tokens = numbers(KV_BLOCK * kv_heads * dim);
            for block in 0..LAYERS * count {
                layer.write(block, 0, &tokens, &tokens);
            }
            let tables: Vec<Vec<u32>> =
                (0..LAYERS).map(|layer| (layer * count..(layer + 1) * count).collect()).collect();
            let mut tables = tables.iter().cycle();
            let q = numbers(512 * heads * dim);
            let mut scratch = AttentionScratch::default();
            for (what, positions) in
                [("prefill 512", 0..512), ("decode at 1024", 1024..1025), ("decode at 8192", 8192..8193)]
            {
                // Tiles of 32 tokens, as the threads would share them out.
                let rows: Vec<AttentionRow<'_>> =
                    q.chunks(heads * dim).zip(positions).map(|(q, position)| AttentionRow { q, position }).collect();
                let mut out = vec![0.0; rows.len() * shape.group() * dim];
                ratios.measure(&format!("attend {name}, {kv_type}, {what}"), |isa| {
                    let blocks = tables.next().expect("it goes on for ever");
                    for kv_head in 0..kv_heads {
                        for (rows, out) in rows.chunks(32).zip(out.chunks_mut(32 * shape.group() * dim)) {
                            VectorKernels::new(isa).attend(&layer, &shape, kv_head, rows, blocks, out, &mut scratch);
                        }
                    }
                });
            }
        }
    }
}

fn products(ratios: &Ratios) {
    const DTYPES: [Dtype; 16] = [
        Dtype::F32,
        Dtype::F16,
        Dtype::BF16,
        Dtype::Q4_0,
        Dtype::Q4_1,
        Dtype::Q5_0,
        Dtype::Q5_1,
        Dtype::Q8_0,
        Dtype::IQ4_NL,
        Dtype::MXFP4,
        Dtype::Q2_K,
        Dtype::Q3_K,
        Dtype::Q4_K,
        Dtype::Q5_K,
        Dtype::Q6_K,
        Dtype::IQ4_XS,
    ];
    let computes = Isa::ALL.map(|isa| isa.is_available().then(|| Compute::new(isa, 1).expect("this thread")));
    let compute = |isa: Isa| computes[index(isa)].as_ref().expect("it is available");
    let (n, k) = (1536, 1536);
    for dtype in DTYPES {
        let (block, block_bytes) = dtype.block();
        // Bytes that are finite whatever is read as a scale, and such as make no subnormal numbers: those are slow.
        let first = if dtype == Dtype::MXFP4 { 100 } else { 0 };
        let bytes: Vec<u8> = (0..n * k / block * block_bytes).map(|at| first + (at * 7 % 60) as u8).collect();
        let matrix = Matrix::pack(dtype, n, k, &bytes, compute(Isa::Reference)).expect("finite weights");
        for m in [1, 64] {
            let x = numbers(m * k);
            let mut out = vec![0.0; m * n];
            let mut activations = Activations::new();
            ratios.measure(&format!("{dtype} product, {m} × {k} with {n} × {k}"), |isa| {
                compute(isa).prepare(ActivationKind::of(dtype), &x, k, &mut activations);
                compute(isa).matmul(&activations, &mut [Product { matrix: &matrix, bias: None, out: &mut out }]);
            });
        }
    }
}
