//! Attention: every instruction set and every tiling against the reference, the reference against f64.

use crate::numbers::{ADVERSARIAL, assert_bits, random};
use freehold_kernels::{
    AttentionInput, AttentionRow, AttentionScratch, AttentionShape, Compute, Isa, KV_BLOCK, KvLayer, KvShape, KvType,
    VectorKernels,
};

/// A sequence in a cache, and the queries of all its tokens.
struct Sequence {
    shape: AttentionShape,
    layer: KvLayer,
    blocks: Vec<u32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Sequence {
    fn new(kv_type: KvType, shape: AttentionShape, length: usize, numbers: impl Fn(u64, usize) -> Vec<f32>) -> Self {
        let AttentionShape { heads, kv_heads, k_dim, v_dim, .. } = shape;
        let count = length.div_ceil(KV_BLOCK);
        // The blocks lie in another order in the cache, with one of stale numbers between them.
        let blocks: Vec<u32> = (0..count as u32).rev().map(|block| block + u32::from(block >= 1)).collect();
        let mut layer = KvLayer::new(KvShape { kv_type, kv_heads, k_dim, v_dim }, count + 1).unwrap();
        for block in 0..=count as u32 {
            let stale = |dim: usize| vec![f32::INFINITY; KV_BLOCK * kv_heads * dim];
            layer.write(block, 0, &stale(k_dim), &stale(v_dim));
        }
        let k = numbers(1, length * kv_heads * k_dim);
        let v = numbers(2, length * kv_heads * v_dim);
        for (position, (k, v)) in k.chunks(kv_heads * k_dim).zip(v.chunks(kv_heads * v_dim)).enumerate() {
            layer.write(blocks[position / KV_BLOCK], position % KV_BLOCK, k, v);
        }
        Self { shape, layer, blocks, q: numbers(3, length * heads * k_dim), k, v }
    }

    fn row(&self, position: usize) -> AttentionRow<'_> {
        let length = self.shape.heads * self.shape.k_dim;
        AttentionRow { q: &self.q[position * length..(position + 1) * length], position }
    }

    /// The outputs of `positions`, `[kv_heads][positions][group][v_dim]`, in calls of at most `tile` rows.
    fn attend(&self, isa: Isa, positions: &[usize], tile: usize) -> Vec<f32> {
        let kernels = VectorKernels::new(isa);
        let mut scratch = AttentionScratch::default();
        let row_length = self.shape.group() * self.shape.v_dim;
        let mut out = vec![f32::NAN; self.shape.kv_heads * positions.len() * row_length];
        for (kv_head, out) in out.chunks_mut(positions.len() * row_length).enumerate() {
            for (positions, out) in positions.chunks(tile).zip(out.chunks_mut(tile * row_length)) {
                let rows: Vec<_> = positions.iter().map(|&position| self.row(position)).collect();
                kernels.attend(&self.layer, &self.shape, kv_head, &rows, &self.blocks, out, &mut scratch);
            }
        }
        out
    }
}

fn shape(heads: usize, kv_heads: usize, k_dim: usize, v_dim: usize, window: Option<usize>) -> AttentionShape {
    let scale = 1.0 / (k_dim as f32).sqrt();
    AttentionShape { heads, kv_heads, k_dim, v_dim, scale, window, softcap: None, sinks: None }
}

/// The same with scores kept within ±`cap`.
fn capped(cap: f32, shape: AttentionShape) -> AttentionShape {
    AttentionShape { softcap: Some(cap), ..shape }
}

/// The same with sinks, some far below and some far above any score.
fn with_sinks(mut shape: AttentionShape) -> AttentionShape {
    let sinks = [0.5, -40.0, 90.0, -0.0, 1e-40, f32::MIN, 3.0].iter().cycle().take(shape.heads).copied().collect();
    shape.sinks = Some(sinks);
    shape
}

#[test]
fn bits_are_the_references_on_every_instruction_set_and_tiling() {
    let adversarial = |seed: u64, length: usize| {
        // In reach of each other: huge queries on huge keys would only make infinities.
        let values: Vec<f32> = ADVERSARIAL.iter().copied().filter(|x| x.abs() < 1e5).collect();
        let mut numbers: Vec<f32> = values.iter().cycle().skip(seed as usize).take(length).copied().collect();
        for (number, random) in numbers.iter_mut().zip(random(seed, length, 1.0)) {
            if random < 0.0 {
                *number = random;
            }
        }
        numbers
    };
    let huge = |seed: u64, length: usize| random(seed, length, if seed == 2 { 3e38 } else { 1e9 });
    let tiny = |seed: u64, length: usize| random(seed, length, if seed == 2 { 1e-38 } else { 1e-3 });
    let spread = |seed: u64, length: usize| random(seed, length, if seed == 2 { 1e-30 } else { 12.0 });
    // The largest that q8_0 has a scale for, and such as give a scale of few digits or none.
    let scales = |seed: u64, length: usize| {
        let spreads = if seed == 3 { [1e-7; 3] } else { [8.3e6, 1e-5, 1e-6] };
        let mut numbers = random(seed, length, 1.0);
        for (i, number) in numbers.iter_mut().enumerate() {
            *number *= spreads[i / 32 % 3];
        }
        numbers
    };
    let plain = |seed: u64, length: usize| random(seed, length, 1.0);
    type Numbers<'a> = (&'a str, &'a dyn Fn(u64, usize) -> Vec<f32>);
    let all: [Numbers<'_>; 6] = [
        ("plain", &plain),
        ("adversarial", &adversarial),
        ("huge", &huge),
        ("tiny", &tiny),
        ("spread", &spread),
        ("scales", &scales),
    ];

    let shapes = [
        shape(1, 1, 16, 16, None),
        shape(2, 2, 32, 32, None),
        shape(4, 2, 64, 64, None),
        shape(9, 3, 64, 64, None),
        shape(3, 1, 80, 80, Some(65)),
        shape(8, 1, 96, 96, None),
        shape(2, 1, 128, 128, Some(64)),
        shape(6, 3, 16, 32, Some(1)),
        shape(3, 1, 5, 13, Some(100)),
        shape(1, 1, 64, 40, Some(7)),
        capped(50.0, shape(4, 2, 32, 32, Some(70))),
        capped(0.01, shape(2, 1, 16, 24, None)),
        with_sinks(shape(7, 1, 16, 40, None)),
        with_sinks(capped(30.0, shape(4, 2, 16, 16, Some(64)))),
        with_sinks(capped(0.7, shape(5, 1, 5, 13, Some(65)))),
        with_sinks(capped(1e4, shape(6, 3, 33, 71, Some(1)))),
    ];
    for shape in shapes {
        for kv_type in KvType::ALL {
            for (name, numbers) in all {
                let sequence = Sequence::new(kv_type, shape.clone(), 200, numbers);
                // Around the edges of blocks and windows, in and out of order.
                let positions =
                    [0, 1, 62, 63, 64, 65, 66, 127, 128, 163, 164, 165, 191, 192, 199, 3, 130, 131, 132, 60];
                let expected = sequence.attend(Isa::Reference, &positions, positions.len());
                for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                    for tile in [1, 2, 3, 7, 20] {
                        let got = sequence.attend(isa, &positions, tile);
                        let case = format!("{isa}, {tile} rows at a time, {name} numbers in {kv_type}, {shape:?}");
                        assert_bits(&case, &got, &expected);
                    }
                }
            }
        }
    }
}

/// Where there are few heads and many threads, the blocks of a token are shared out; where tokens follow each other in a
/// sequence, they are not.
#[test]
fn bits_do_not_depend_on_threads() {
    let shapes = [
        shape(9, 3, 64, 64, None),
        shape(4, 1, 32, 40, Some(150)),
        shape(2, 2, 5, 13, Some(64)),
        with_sinks(capped(30.0, shape(4, 2, 16, 16, None))),
    ];
    for shape in shapes {
        let sequence = Sequence::new(KvType::F16, shape.clone(), 2200, |seed, length| random(seed, length, 1.0));
        for positions in [&[2199][..], &[0, 63, 64, 320], &[130, 131, 132, 133], &[255, 1, 398]] {
            let tables: Vec<Vec<u32>> = positions.iter().map(|_| sequence.blocks.clone()).collect();
            let outputs = |isa, threads, apart: bool| {
                let tokens = positions.iter().zip(&tables).map(|(&position, table)| AttentionInput {
                    q: sequence.row(position).q,
                    position,
                    blocks: if apart { table } else { &sequence.blocks },
                });
                let mut out = vec![f32::NAN; positions.len() * shape.heads * shape.v_dim];
                let compute = Compute::new(isa, threads).unwrap();
                compute.attend(&sequence.layer, &shape, &tokens.collect::<Vec<_>>(), &mut out);
                out
            };
            let expected = outputs(Isa::Reference, 1, false);
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                for threads in [1, 2, 3, 4, 7] {
                    for apart in [false, true] {
                        let case = format!("{isa}, {threads} threads, apart: {apart}, {positions:?}, {shape:?}");
                        assert_bits(&case, &outputs(isa, threads, apart), &expected);
                    }
                }
            }
        }
    }
}

#[test]
fn near_the_exact_values() {
    let cases = [
        shape(6, 2, 64, 64, None),
        shape(4, 4, 32, 48, Some(70)),
        capped(2.0, shape(4, 2, 32, 32, None)),
        with_sinks(shape(7, 1, 16, 16, Some(70))),
        with_sinks(capped(2.0, shape(5, 1, 7, 13, Some(65)))),
    ];
    for shape in cases {
        let length = 150;
        let sequence = Sequence::new(KvType::F32, shape.clone(), length, |seed, length| {
            random(seed, length, if seed == 3 { 4.0 } else { 1.0 })
        });
        let positions: Vec<usize> = (0..length).collect();
        let got = sequence.attend(Isa::Reference, &positions, 16);
        let AttentionShape { heads, kv_heads, k_dim, v_dim, .. } = shape;
        let group = shape.group();
        let mut next = got.iter();
        for kv_head in 0..kv_heads {
            for &position in &positions {
                for head in kv_head * group..(kv_head + 1) * group {
                    let q = &sequence.row(position).q[head * k_dim..(head + 1) * k_dim];
                    let first = shape.window.map_or(0, |window| (position + 1).saturating_sub(window));
                    let weights: Vec<f64> = (first..=position)
                        .map(|key| {
                            let k = &sequence.k[(key * kv_heads + kv_head) * k_dim..][..k_dim];
                            let dot: f64 = q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
                            let score = dot * f64::from(shape.scale);
                            shape.softcap.map(f64::from).map_or(score, |cap| cap * (score / cap).tanh()).exp()
                        })
                        .collect();
                    let sink = shape.sinks.as_ref().map_or(0.0, |sinks| f64::from(sinks[head]).exp());
                    let total: f64 = sink + weights.iter().sum::<f64>();
                    for d in 0..v_dim {
                        let value = |key: usize| f64::from(sequence.v[(key * kv_heads + kv_head) * v_dim + d]);
                        let expected: f64 =
                            weights.iter().zip(first..).map(|(weight, key)| weight * value(key)).sum::<f64>() / total;
                        let got = f64::from(*next.next().expect("one number per dimension"));
                        assert!(
                            (got - expected).abs() < 1e-5,
                            "{got} is not {expected}: {position} {head} {d} of {heads}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn values_are_rounded_when_they_are_written() {
    // One key: the output is its value, as the cache holds it.
    let shape = shape(1, 1, 1, 1, None);
    for (kv_type, expected) in [(KvType::F32, 0.1f32), (KvType::F16, 0.099_975_586), (KvType::Q8_0, 0.099_981_785)] {
        let sequence = Sequence::new(kv_type, shape.clone(), 1, |_, length| vec![0.1; length]);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            assert_eq!(sequence.attend(isa, &[0], 1), [expected], "{isa} {kv_type}");
        }
    }
}
