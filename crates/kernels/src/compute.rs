//! The operations over whole batches, spread over the threads of a pool.
//!
//! How work is cut into chunks depends on shapes and on the number of threads; no bit does, for each output is computed
//! whole by one chunk.

use crate::activations::{ActivationKind, Activations, RowMut, fill_floats};
use crate::attention::{Attention, AttentionRow, AttentionScratch, AttentionShape, Seen};
use crate::isa::Isa;
use crate::kv::KvLayer;
use crate::matmul::{GROUPS, MatmulTable, Tile};
use crate::matrix::Matrix;
use crate::packed::GROUP;
use crate::pool::{Pool, SharedMut};
use crate::vector::{Gate, VectorKernels};
use crate::zeroed::{Arena, Zeroed};
use std::cell::RefCell;
use std::ops::Range;

/// Kernels of one instruction set on one pool of threads.
pub struct Compute {
    isa: Isa,
    vector: VectorKernels,
    matmul: &'static MatmulTable,
    pool: Pool,
    weights: Arena,
}

/// One matrix of a product, with where its result goes.
pub struct Product<'a> {
    /// N × K.
    pub matrix: &'a Matrix,
    /// Added to each row of the result: N numbers.
    pub bias: Option<&'a [f32]>,
    /// The result, M × N.
    pub out: &'a mut [f32],
}

/// One token of a batch that attends.
#[derive(Clone, Copy, Debug)]
pub struct AttentionInput<'a> {
    /// Its queries, `[heads][k_dim]`.
    pub q: &'a [f32],
    /// Its position in its sequence.
    pub position: usize,
    /// The block table of its sequence. Neighbours in the batch with the same table are worked on together.
    pub blocks: &'a [u32],
}

/// Elementwise work below this many numbers stays on the calling thread: waking others would take longer.
const PARALLEL_ELEMENTS: usize = 16 * 1024;
/// Tokens of one sequence whose attention is one chunk: a block of keys is widened once for all of them.
const ATTENTION_ROWS: usize = 32;

thread_local! {
    static SCRATCH: RefCell<(AttentionScratch, Vec<f32>)> = RefCell::default();
}

impl Compute {
    /// Kernels of `isa` on `threads` threads, the caller's among them.
    ///
    /// # Errors
    /// If the system gives no thread.
    ///
    /// # Panics
    /// If this machine cannot run `isa`: ask [`Isa::is_available`] first.
    pub fn new(isa: Isa, threads: usize) -> std::io::Result<Self> {
        let (vector, matmul) = (VectorKernels::new(isa), MatmulTable::of(isa));
        Ok(Self { isa, vector, matmul, pool: Pool::new(threads)?, weights: Arena::default() })
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The threads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Where matrices lie.
    pub(crate) fn weights(&self) -> &Arena {
        &self.weights
    }

    /// Zeros on the kind of pages that matrices lie on, to measure with; `None` where the system does not give the memory.
    pub fn zeroed(&self, length: usize) -> Option<Zeroed<u64>> {
        self.weights.zeroed(length)
    }

    /// The operations on the calling thread.
    pub fn vector(&self) -> VectorKernels {
        self.vector
    }

    /// Rows of a chunk so that small batches stay on one thread and large ones make a few chunks per thread.
    fn rows_per_chunk(&self, rows: usize, width: usize) -> usize {
        if rows * width < PARALLEL_ELEMENTS { rows } else { rows.div_ceil(self.pool.threads() * 4) }
    }

    /// Root mean square normalisation of each row of `x: [M][weight.len()]` into `out`.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert_eq!(x.len(), out.len(), "rms_norm: lengths differ");
        let width = weight.len();
        let chunk = self.rows_per_chunk(x.len() / width, width);
        self.pool.run_rows(out, width, chunk, |row, out| {
            self.vector.rms_norm(&x[row * width..][..width], weight, eps, out);
        });
    }

    /// `x = fma(y, scale, x)`, rows of `width`.
    pub fn add_scaled(&self, x: &mut [f32], y: &[f32], scale: f32, width: usize) {
        assert_eq!(x.len(), y.len(), "add_scaled: lengths differ");
        self.for_rows(x, width, |row, x| self.vector.add_scaled(x, &y[row * width..][..width], scale));
    }

    /// `x = x · scale`, rows of `width`.
    pub fn scale(&self, x: &mut [f32], scale: f32, width: usize) {
        self.for_rows(x, width, |_, x| x.iter_mut().for_each(|x| *x *= scale));
    }

    /// `x = cap · tanh(x / cap)`, rows of `width`.
    pub fn softcap(&self, x: &mut [f32], cap: f32, width: usize) {
        self.for_rows(x, width, |_, x| self.vector.softcap(x, cap));
    }

    /// `out` = what `kind` makes of `gate` and `up`, rows of `width`.
    pub fn gate_mul(&self, kind: Gate, gate: &[f32], up: &[f32], out: &mut [f32], width: usize) {
        assert!(gate.len() == up.len() && gate.len() == out.len(), "gate_mul: lengths differ");
        let chunk = self.rows_per_chunk(gate.len() / width, width);
        self.pool.run_rows(out, width, chunk, |row, out| {
            let part = row * width..(row + 1) * width;
            self.vector.gate_mul(kind, &gate[part.clone()], &up[part], out);
        });
    }

    /// Runs `job(row index, row)` for each row of `width` numbers, several threads at a time where it pays.
    pub fn for_rows(&self, data: &mut [f32], width: usize, job: impl Fn(usize, &mut [f32]) + Sync) {
        let chunk = self.rows_per_chunk(data.len() / width, width);
        self.pool.run_rows(data, width, chunk, job);
    }

    /// Adds the squares of each column of `x: [M][sums.len()]` to its sum: one chain for each column, rows ascending, so that
    /// the sums are the same however the rows come. The square of an f32 is exact in f64.
    ///
    /// # Panics
    /// If `x` is no whole number of rows.
    pub fn add_squares(&self, x: &[f32], sums: &mut [f64]) {
        let cols = sums.len();
        assert!(x.len().is_multiple_of(cols), "add_squares: no whole number of rows of {cols}");
        // Columns that are worked on together: up to 64, as many as make whole parts.
        let width = 1 << cols.trailing_zeros().min(6);
        let chunk = self.rows_per_chunk(cols / width, x.len() / cols * width);
        self.pool.run_rows(sums, width, chunk, |part, sums| {
            for row in x.chunks_exact(cols) {
                for (sum, &x) in sums.iter_mut().zip(&row[part * width..]) {
                    *sum += f64::from(x) * f64::from(x);
                }
            }
        });
    }

    /// Brings `x: [M][cols]` into the form that weights of a type take.
    pub fn prepare(&self, kind: ActivationKind, x: &[f32], cols: usize, activations: &mut Activations) {
        assert!(cols > 0 && x.len().is_multiple_of(cols), "activations are no whole number of rows of {cols}");
        let rows = x.len() / cols;
        activations.prepare(kind, rows, cols, self.matmul.takes_bf16);
        let chunk = self.rows_per_chunk(rows, cols);
        // Nothing per row: those forms have no such part.
        let per_row = |len: usize| len.checked_div(rows).unwrap_or(0);
        let (quants, scales) = (per_row(activations.quants.len()), per_row(activations.scales.len()));
        let (scaled_sums, sums32) = (per_row(activations.scaled_sums.len()), per_row(activations.sums32.len()));
        let (sums16, floats) = (per_row(activations.sums16.len()), per_row(activations.floats.len()));
        let bf16s = per_row(activations.bf16s.len());
        let parts = (
            SharedMut(activations.quants.as_mut_ptr()),
            SharedMut(activations.scales.as_mut_ptr()),
            SharedMut(activations.scaled_sums.as_mut_ptr()),
            SharedMut(activations.sums32.as_mut_ptr()),
            SharedMut(activations.sums16.as_mut_ptr()),
            SharedMut(activations.floats.as_mut_ptr()),
            SharedMut(activations.bf16s.as_mut_ptr()),
        );
        let parts = &parts;
        self.pool.run(rows.div_ceil(chunk.max(1)), |index| {
            for row in index * chunk..rows.min((index + 1) * chunk) {
                // SAFETY: the parts of each row are disjoint, inside their vectors, and filled by one chunk; the vectors
                // are borrowed for the whole run.
                let mut row_mut = unsafe {
                    RowMut {
                        quants: std::slice::from_raw_parts_mut(parts.0.get().add(row * quants), quants),
                        scales: std::slice::from_raw_parts_mut(parts.1.get().add(row * scales), scales),
                        scaled_sums: std::slice::from_raw_parts_mut(parts.2.get().add(row * scaled_sums), scaled_sums),
                        sums32: std::slice::from_raw_parts_mut(parts.3.get().add(row * sums32), sums32),
                        sums16: std::slice::from_raw_parts_mut(parts.4.get().add(row * sums16), sums16),
                        floats: std::slice::from_raw_parts_mut(parts.5.get().add(row * floats), floats),
                        bf16s: std::slice::from_raw_parts_mut(parts.6.get().add(row * bf16s), bf16s),
                    }
                };
                let x = &x[row * cols..][..cols];
                match kind {
                    ActivationKind::F32 | ActivationKind::Bf16 => fill_floats(kind, x, &mut row_mut),
                    // SAFETY: the instruction set is available, as `VectorKernels::new` checked.
                    _ => unsafe { (self.matmul.quantize_row)(kind, x, &mut row_mut) },
                }
            }
        });
    }

    /// Products of the same activations with several matrices, as one job: `out = activations · matrixᵀ + bias`.
    ///
    /// # Panics
    /// If shapes do not fit, or the activations are not in the form of the matrices' types.
    pub fn matmul(&self, activations: &Activations, products: &mut [Product<'_>]) {
        let rows = activations.rows();
        let mut groups_total = 0;
        for product in &*products {
            let matrix = product.matrix;
            let kind = ActivationKind::of(matrix.dtype());
            assert_eq!(activations.kind(), Some(kind), "activations for {}", matrix.dtype());
            let cols = if kind == ActivationKind::Bf16 { matrix.cols().next_multiple_of(32) } else { matrix.cols() };
            assert_eq!(activations.padded(), cols, "columns");
            let as_bf16 = self.matmul.takes_bf16 && kind == ActivationKind::Bf16;
            assert_eq!(activations.bf16s.is_empty(), !as_bf16 || rows == 0, "activations for another instruction set");
            assert_eq!(product.out.len(), rows * matrix.rows(), "output");
            assert!(product.bias.is_none_or(|bias| bias.len() == matrix.rows()), "bias");
            groups_total += matrix.groups();
        }
        if rows == 0 {
            return;
        }
        // A few chunks per thread even out what else the machine does; a chunk's weights stay within the cache.
        let mut per_chunk = groups_total.div_ceil(self.pool.threads() * 8).max(1);
        if rows == 1 && products.iter().any(|product| (self.matmul.groups_kernel)(product.matrix.dtype()).is_some()) {
            per_chunk = per_chunk.next_multiple_of(GROUPS);
        }
        let outs: Vec<SharedMut<f32>> =
            products.iter_mut().map(|product| SharedMut(product.out.as_mut_ptr())).collect();
        let products = &*products;
        self.pool.run(groups_total.div_ceil(per_chunk), |chunk| {
            let (mut first, end) = (chunk * per_chunk, groups_total.min((chunk + 1) * per_chunk));
            let mut before = 0;
            for (product, out) in products.iter().zip(&outs) {
                let groups = product.matrix.groups();
                while first < end && first - before < groups {
                    first += self.group_product(activations, product, first - before, end - first, *out);
                }
                before += groups;
            }
        });
    }

    /// The product with group `group`, and with those after it that its kernel takes with it, `most` in all; how many these are.
    fn group_product(
        &self,
        activations: &Activations,
        product: &Product<'_>,
        group: usize,
        most: usize,
        out: SharedMut<f32>,
    ) -> usize {
        let matrix = product.matrix;
        let (rows, stride, first) = (activations.rows(), matrix.rows(), group * GROUP);
        let several = rows == 1 && most >= GROUPS && first + GROUPS * GROUP <= stride;
        let several = (self.matmul.groups_kernel)(matrix.dtype()).filter(|_| several);
        let groups = several.map_or(1, |_| GROUPS);
        let kernel = several.unwrap_or((self.matmul.kernel)(matrix.dtype()));
        let width = (groups * GROUP).min(stride - first);
        let tile =
            |rows, out, stride| Tile { group: matrix.some_groups(group, groups), activations, rows, out, stride };
        if width == groups * GROUP {
            // SAFETY: the instruction set is available; columns `first` to `first + width` of the output are inside it and
            // belong to these groups alone.
            unsafe { kernel(&tile(0..rows, out.get().add(first), stride)) };
        } else {
            let mut sixteen = [0.0f32; GROUP];
            for row in 0..rows {
                // SAFETY: as above, for one row at a time, of which only the outputs that exist are copied.
                unsafe {
                    kernel(&tile(row..row + 1, sixteen.as_mut_ptr(), GROUP));
                    std::ptr::copy_nonoverlapping(sixteen.as_ptr(), out.get().add(row * stride + first), width);
                }
            }
        }
        if let Some(bias) = product.bias {
            for row in 0..rows {
                // SAFETY: as above: the outputs of these groups, in one row.
                let outputs = unsafe { std::slice::from_raw_parts_mut(out.get().add(row * stride + first), width) };
                for (output, bias) in outputs.iter_mut().zip(&bias[first..]) {
                    *output += bias;
                }
            }
        }
        groups
    }

    /// Attention of a batch of tokens, of one or several sequences, into `out: [tokens][heads · v_dim]`.
    pub fn attend(&self, layer: &KvLayer, shape: &AttentionShape, tokens: &[AttentionInput<'_>], out: &mut [f32]) {
        let width = shape.heads * shape.v_dim;
        assert_eq!(out.len(), tokens.len() * width, "output");
        // Runs of neighbours of one sequence, in pieces.
        let mut pieces: Vec<Range<usize>> = Vec::new();
        for (index, token) in tokens.iter().enumerate() {
            match pieces.last_mut() {
                Some(piece)
                    if std::ptr::eq(tokens[piece.start].blocks, token.blocks) && piece.len() < ATTENTION_ROWS =>
                {
                    piece.end = index + 1;
                }
                _ => pieces.push(index..index + 1),
            }
        }
        if let Some(runs) = self.runs_of_blocks(&pieces, shape.kv_heads) {
            return self.attend_by_blocks(layer, shape, tokens, runs, out);
        }
        let out = SharedMut(out.as_mut_ptr());
        let group_width = shape.group() * shape.v_dim;
        self.pool.run(pieces.len() * shape.kv_heads, |unit| {
            // The longest first: later tokens see more.
            let piece = pieces[pieces.len() - 1 - unit / shape.kv_heads].clone();
            let kv_head = unit % shape.kv_heads;
            let rows: Vec<AttentionRow<'_>> = tokens[piece.clone()]
                .iter()
                .map(|token| AttentionRow { q: token.q, position: token.position })
                .collect();
            SCRATCH.with_borrow_mut(|(scratch, result)| {
                result.resize(rows.len() * group_width, 0.0);
                let blocks = tokens[piece.start].blocks;
                self.vector.attend(layer, shape, kv_head, &rows, blocks, result, scratch);
                for (row, result) in piece.zip(result.chunks_exact(group_width)) {
                    // SAFETY: this unit alone writes the heads of `kv_head` for the tokens of its piece.
                    unsafe {
                        let place = out.get().add(row * width + kv_head * group_width);
                        std::ptr::copy_nonoverlapping(result.as_ptr(), place, group_width);
                    }
                }
            });
        });
    }

    /// Into how many runs the blocks of each token are cut where there are too few heads of too few tokens for all threads.
    fn runs_of_blocks(&self, pieces: &[Range<usize>], kv_heads: usize) -> Option<usize> {
        let (units, threads) = (pieces.len() * kv_heads, self.pool.threads());
        let even = units.is_multiple_of(threads) || units >= 4 * threads;
        let single = pieces.iter().all(|piece| piece.len() == 1);
        (single && !even).then(|| (4 * threads).div_ceil(units))
    }

    /// Attention of single tokens: every block by itself, and when all are there, they are merged in their order.
    fn attend_by_blocks(
        &self,
        layer: &KvLayer,
        shape: &AttentionShape,
        tokens: &[AttentionInput<'_>],
        runs: usize,
        out: &mut [f32],
    ) {
        let (group, v_dim) = (shape.group(), shape.v_dim);
        // The blocks of each token, and how many those before it have.
        let mut count = 0;
        let spans = tokens.iter().map(|token| {
            let span = shape.blocks(token.position);
            count += span.len();
            (count - span.len(), span)
        });
        let spans: Vec<(usize, Range<usize>)> = spans.collect();
        // Of each block, head after head.
        let mut values = vec![0.0; count * shape.heads * v_dim];
        let mut seen = vec![Seen::default(); count * shape.heads];
        let places = (SharedMut(values.as_mut_ptr()), SharedMut(seen.as_mut_ptr()));
        let places = &places;
        self.pool.run(tokens.len() * shape.kv_heads * runs, |unit| {
            let (token, kv_head, run) = (unit / runs / shape.kv_heads, unit / runs % shape.kv_heads, unit % runs);
            let (before, span) = &spans[token];
            let row = [AttentionRow { q: tokens[token].q, position: tokens[token].position }];
            SCRATCH.with_borrow_mut(|(scratch, _)| {
                for nth in span.len() * run / runs..span.len() * (run + 1) / runs {
                    let head = (before + nth) * shape.heads + kv_head * group;
                    // SAFETY: each block of each token and kv head belongs to one unit, and both vectors have room for all.
                    let (values, seen) = unsafe {
                        (
                            std::slice::from_raw_parts_mut(places.0.get().add(head * v_dim), group * v_dim),
                            std::slice::from_raw_parts_mut(places.1.get().add(head), group),
                        )
                    };
                    let attention = Attention::new(layer, shape, kv_head, &row, tokens[token].blocks, values);
                    self.vector.merge_blocks(&attention.of_block(span.start + nth), values, seen, scratch);
                }
            });
        });
        let width = shape.heads * v_dim;
        self.for_rows(out, v_dim, |row, out| {
            let (token, head) = (row / shape.heads, row % shape.heads);
            let (before, span) = &spans[token];
            let blocks = *before..before + span.len();
            let values = |block: usize| &values[block * width + head * v_dim..][..v_dim];
            let seen = blocks.clone().map(|block| seen[block * shape.heads + head]);
            let sink = shape.sinks.as_ref().map(|sinks| sinks[head]);
            self.vector.join_blocks(blocks.map(values).zip(seen), sink, out);
        });
    }
}
