//! The speed of attention, norms and rope on one thread of this machine, for SmolLM2-135M's shapes:
//! `cargo run --release -p freehold-kernels --example attention [ISA]`.

use freehold_kernels::{
    AttentionRow, AttentionScratch, AttentionShape, Gate, Isa, KV_BLOCK, KvLayer, KvShape, KvType, RopeFrequencies,
    RopeScaling, RopeStyle, RopeTable, VectorKernels,
};
use std::time::Instant;

/// The shortest of many runs, in seconds.
fn best(mut run: impl FnMut()) -> f64 {
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    while begin.elapsed().as_secs_f64() < 0.4 {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn numbers(length: usize) -> Vec<f32> {
    (0..length).map(|i| ((i * 2_654_435_761) % 65_536) as f32 / 32_768.0 - 1.0).collect()
}

fn main() {
    let isa = match std::env::args().nth(1).map(|name| name.parse::<Isa>()) {
        None => Isa::best(),
        Some(Ok(isa)) => isa,
        Some(Err(error)) => return eprintln!("{error}"),
    };
    let kernels = VectorKernels::new(isa);
    println!("{isa}, one thread");
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
        for kv_type in [KvType::F32, KvType::F16] {
            let count = 1024 / KV_BLOCK + 1;
            let mut layer = KvLayer::new(KvShape { kv_type, kv_heads, k_dim: dim, v_dim: dim }, count).unwrap();
            let tokens = numbers(KV_BLOCK * kv_heads * dim);
            let write = best(|| layer.write(0, 0, &tokens, &tokens));
            for block in 0..count as u32 {
                layer.write(block, 0, &tokens, &tokens);
            }
            let blocks: Vec<u32> = (0..count as u32).collect();
            let q = numbers(512 * heads * dim);
            let mut scratch = AttentionScratch::default();
            for (what, positions) in [("prefill 512", 0..512), ("decode at 1024", 1024..1025)] {
                // Tiles of 32 tokens, as the threads would share them out.
                let rows: Vec<AttentionRow<'_>> = q
                    .chunks(heads * dim)
                    .zip(positions.clone())
                    .map(|(q, position)| AttentionRow { q, position })
                    .collect();
                let mut out = vec![0.0; rows.len() * shape.group() * dim];
                let seconds = best(|| {
                    for kv_head in 0..kv_heads {
                        for (rows, out) in rows.chunks(32).zip(out.chunks_mut(32 * shape.group() * dim)) {
                            kernels.attend(&layer, &shape, kv_head, rows, &blocks, out, &mut scratch);
                        }
                    }
                });
                let keys: usize = positions.map(|position| position + 1).sum();
                let operations = (4 * keys * heads * dim) as f64;
                println!(
                    "{name}, {kv_type}, {what}: {:.1} us a layer, {:.1} GFLOP/s",
                    seconds * 1e6,
                    operations / seconds / 1e9
                );
            }
            println!("{name}, {kv_type}, write 64 tokens: {:.1} us", write * 1e6);
        }
    }
    let (x, weight, mut out) = (numbers(576), numbers(576), vec![0.0; 576]);
    println!("rms_norm 576: {:.3} us", best(|| kernels.rms_norm(&x, &weight, 1e-5, &mut out)) * 1e6);
    let (gate, up, mut out) = (numbers(1536), numbers(1536), vec![0.0; 1536]);
    println!("silu_mul 1536: {:.3} us", best(|| kernels.gate_mul(Gate::Silu, &gate, &up, &mut out)) * 1e6);
    let frequencies = RopeFrequencies::new(10_000.0, 64, &RopeScaling::None).expect("a plain model");
    println!("rope rows, 64 dimensions: {:.3} us", best(|| drop(RopeTable::new(&frequencies, [700]))) * 1e6);
    let table = RopeTable::new(&frequencies, [700]);
    let (cos, sin) = table.row(0);
    for style in [RopeStyle::Halves, RopeStyle::Pairs] {
        let mut x = numbers(576);
        println!("rope {style:?} 576: {:.3} us", best(|| kernels.rope(&mut x, 64, cos, sin, style)) * 1e6);
    }
    let logits = numbers(49_152);
    println!("log_sum_exp 49152: {:.1} us", best(|| _ = std::hint::black_box(kernels.log_sum_exp(&logits))) * 1e6);
}
