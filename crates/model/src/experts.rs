//! Mixtures of experts: each token goes to a few of a layer's gated units, and in some models to one that all share.

use crate::Error;
use crate::blocks::{GatedUnit, Linear, Step, UnitTensors};
use crate::inputs::Origin;
use crate::notes::Slab;
use crate::source::{Place, Source};
use freehold_kernels::{Gate, Matrix, Route, RouteShare, route};
use std::sync::Arc;

/// The most experts of a layer, and elements of an expert's inside: far above every known model.
const MAX_EXPERTS: usize = 1 << 14;
pub(crate) const MAX_INNER: usize = 1 << 20;

/// GGUF's numbers of the functions that make weights out of a router's logits, the two that are supported.
const GATING_SOFTMAX: usize = 1;
const GATING_SOFTMAX_OF_CHOSEN: usize = 3;

/// Loads the experts of a layer, given the model's width.
type LoadUnits = fn(&Source<'_>, usize, &ExpertsShape, usize, Gate) -> Result<Vec<GatedUnit>, Error>;

/// What a model says of its mixtures.
pub(crate) struct ExpertsShape {
    /// Experts of a layer.
    count: usize,
    /// Experts that a token goes to.
    used: usize,
    /// Elements of an expert's inside.
    pub(crate) inner: usize,
    /// Of which experts' softmax the weights are shares.
    share: RouteShare,
    /// Elements of the shared expert's inside, where there is one. Its output has a gate of its own.
    pub(crate) shared_inner: Option<usize>,
    /// How a layer's experts are found.
    pub(crate) load_units: LoadUnits,
}

impl ExpertsShape {
    /// `None` where the model has no experts.
    pub(crate) fn load(source: &Source<'_>, inner: usize, share: RouteShare) -> Result<Option<Self>, Error> {
        let count = match source.optional_count("expert_count", "num_local_experts", MAX_EXPERTS)? {
            // What most configurations called it before transformers 5.
            None => source.optional_count("expert_count", "num_experts", MAX_EXPERTS)?,
            count => count,
        };
        let Some(count) = count else { return Ok(None) };
        let share = match source.optional_count("expert_gating_func", None, usize::MAX)? {
            None | Some(GATING_SOFTMAX) => share,
            Some(GATING_SOFTMAX_OF_CHOSEN) => RouteShare::OfChosen,
            Some(function) => {
                let problem = format!("is {function}, which is no softmax; nothing else is supported");
                return Err(Error::Parameter { key: "expert_gating_func".to_owned(), problem });
            }
        };
        let used = source.count("expert_used_count", "num_experts_per_tok", count)?;
        Ok(Some(Self { count, used, inner, share, shared_inner: None, load_units: separate_units }))
    }
}

impl ExpertsShape {
    /// What it says in either form of a model's files: experts, experts of a token, elements of an expert's inside and of
    /// the shared one's, and the shares.
    pub(crate) fn facts(&self) -> (usize, usize, usize, Option<usize>, RouteShare) {
        (self.count, self.used, self.inner, self.shared_inner, self.share)
    }
}

/// The elements of an expert's inside, in models whose dense feed-forwards have another number.
pub(crate) fn inner(source: &Source<'_>) -> Result<usize, Error> {
    source.count("expert_feed_forward_length", "moe_intermediate_size", MAX_INNER)
}

/// What the weights are shares of, by Qwen's setting; `normalised_in_gguf` stands for it in files that do not have it.
pub(crate) fn share(source: &Source<'_>, normalised_in_gguf: bool) -> Result<RouteShare, Error> {
    let normalised =
        if source.is_gguf() { normalised_in_gguf } else { source.optional_bool("norm_topk_prob")?.unwrap_or(false) };
    Ok(if normalised { RouteShare::OfChosen } else { RouteShare::OfAll })
}

/// Refuses Qwen's settings by which some layers have no experts.
pub(crate) fn require_in_every_layer(source: &Source<'_>) -> Result<(), Error> {
    source.refuse_unless("decoder_sparse_step", "`1`", |value| value.as_u64() == Some(1))?;
    source.refuse_unless("mlp_only_layers", "an empty list", |value| value.as_array().is_some_and(Vec::is_empty))
}

/// Experts that are a tensor each in Hugging Face's form.
fn separate_units(
    source: &Source<'_>,
    layer: usize,
    shape: &ExpertsShape,
    width: usize,
    kind: Gate,
) -> Result<Vec<GatedUnit>, Error> {
    let load = |name, rows, cols| {
        let matrices = source.expert_matrices(layer, name, shape.count, rows, cols)?;
        let biases = source.expert_biases(layer, name, shape.count, rows)?;
        Ok::<_, Error>(linears(Place::Layer(layer), name, matrices, biases))
    };
    let gates = load("ffn_gate_exps", shape.inner, width)?;
    let ups = load("ffn_up_exps", shape.inner, width)?;
    let downs = load("ffn_down_exps", width, shape.inner)?;
    Ok(units(gates, ups, downs, kind))
}

/// Gpt-oss in Hugging Face's form: one tensor for all experts, turned over, gate and other half taking turns.
pub(crate) fn interleaved_units(
    source: &Source<'_>,
    layer: usize,
    shape: &ExpertsShape,
    width: usize,
    kind: Gate,
) -> Result<Vec<GatedUnit>, Error> {
    let ExpertsShape { count, inner, .. } = *shape;
    let name = |part: &str| format!("model.layers.{layer}.mlp.experts.{part}");
    let place = Place::Layer(layer);
    let load = |gguf: &str, part: &str, cols: usize, rows: usize, first: usize, step: usize| {
        let tensor = source.require(&name(part), &[count, cols, rows])?;
        let slab = |expert| Slab {
            tensor,
            first: expert * cols * rows + first,
            axes: [(1, 0), (rows / step, step), (cols, rows)],
        };
        source.note(place, gguf, "weight", vec![count, rows / step, cols], || (0..count).map(slab).collect());
        let matrices = (0..count).map(|expert| source.pack_transposed(&tensor, expert, cols, first, step));
        let bias = source.require(&name(&format!("{part}_bias")), &[count, rows])?;
        source.note(place, gguf, "bias", vec![count, rows / step], || {
            vec![Slab { tensor: bias, first, axes: [(1, 0), (count, rows), (rows / step, step)] }]
        });
        let biases = source.numbers(&bias, &[count, rows])?;
        let of_expert = |bias: &[f32]| bias.iter().skip(first).step_by(step).copied().collect();
        let biases = biases.chunks_exact(rows).map(of_expert).collect();
        Ok::<_, Error>(linears(place, gguf, matrices.collect::<Result<_, Error>>()?, Some(biases)))
    };
    let gates = load("ffn_gate_exps", "gate_up_proj", width, 2 * inner, 0, 2)?;
    let ups = load("ffn_up_exps", "gate_up_proj", width, 2 * inner, 1, 2)?;
    let downs = load("ffn_down_exps", "down_proj", inner, width, 0, 1)?;
    Ok(units(gates, ups, downs, kind))
}

/// Granite's mixtures in Hugging Face's form: one tensor for all experts, in which each one's gate lies above its other half.
pub(crate) fn fused_units(
    source: &Source<'_>,
    layer: usize,
    shape: &ExpertsShape,
    width: usize,
    kind: Gate,
) -> Result<Vec<GatedUnit>, Error> {
    let ExpertsShape { count, inner, .. } = *shape;
    let name = |part: &str| format!("model.layers.{layer}.block_sparse_moe.{part}.weight");
    // Of the `of` matrices of each expert that lie one below the other, that of number `index`.
    let load = |gguf: &str, part: &str, rows: usize, cols: usize, index: usize, of: usize| {
        let tensor = source.require(&name(part), &[count, of * rows, cols])?;
        source.note(Place::Layer(layer), gguf, "weight", vec![count, rows, cols], || {
            (0..count).map(|expert| Slab::rows(tensor, (expert * of + index) * rows, rows, cols)).collect()
        });
        let matrices = tensor.bytes.chunks_exact(tensor.bytes.len() / (count * of)).skip(index).step_by(of);
        let matrices = matrices.map(|bytes| source.pack(&tensor, rows, cols, bytes)).collect::<Result<_, Error>>()?;
        Ok::<_, Error>(linears(Place::Layer(layer), gguf, matrices, None))
    };
    let gates = load("ffn_gate_exps", "input_linear", inner, width, 0, 2)?;
    let ups = load("ffn_up_exps", "input_linear", inner, width, 1, 2)?;
    let downs = load("ffn_down_exps", "output_linear", width, inner, 0, 1)?;
    Ok(units(gates, ups, downs, kind))
}

/// Of all experts, out of what GGUF calls `name`.
fn linears(place: Place, name: &str, matrices: Vec<Matrix>, biases: Option<Vec<Vec<f32>>>) -> Vec<Linear> {
    let mut biases = biases.map(Vec::into_iter);
    let (tensor, experts): (Arc<str>, usize) = (place.name_in_gguf(name, "weight").into(), matrices.len());
    let next = |(expert, matrix)| Linear {
        matrix,
        bias: biases.as_mut().and_then(Iterator::next),
        origin: Origin { tensor: Arc::clone(&tensor), expert, experts },
    };
    matrices.into_iter().enumerate().map(next).collect()
}

fn units(gates: Vec<Linear>, ups: Vec<Linear>, downs: Vec<Linear>, kind: Gate) -> Vec<GatedUnit> {
    let unit = |((gate, up), down)| GatedUnit { gate, up, down, kind };
    gates.into_iter().zip(ups).zip(downs).map(unit).collect()
}

/// A layer's mixture.
pub(crate) struct Experts {
    pub(crate) router: Linear,
    pub(crate) units: Vec<GatedUnit>,
    pub(crate) used: usize,
    share: RouteShare,
    pub(crate) shared: Option<Box<Shared>>,
}

/// The expert that every token goes to.
pub(crate) struct Shared {
    /// One output: a sigmoid of it weighs the unit's.
    pub(crate) gate: Linear,
    pub(crate) unit: GatedUnit,
}

impl Experts {
    pub(crate) fn load(
        source: &Source<'_>,
        layer: usize,
        shape: &ExpertsShape,
        width: usize,
        kind: Gate,
    ) -> Result<Self, Error> {
        let place = Place::Layer(layer);
        let shared = |inner| {
            Ok::<_, Error>(Box::new(Shared {
                gate: Linear::load(source, place, "ffn_gate_inp_shexp", 1, width)?,
                unit: GatedUnit::load(source, layer, UnitTensors::Shared, width, inner, kind)?,
            }))
        };
        Ok(Self {
            router: Linear::load(source, place, "ffn_gate_inp", shape.count, width)?,
            units: (shape.load_units)(source, layer, shape, width, kind)?,
            used: shape.used,
            share: shape.share,
            shared: shape.shared_inner.map(shared).transpose()?,
        })
    }

    /// x: (M, C) → (M, C). Each expert runs once, for all the tokens that go to it.
    pub(crate) fn forward(&self, step: &mut Step<'_>, x: &[f32]) -> Vec<f32> {
        let width = self.router.matrix.cols();
        let [logits] = step.project(x, [&self.router]);
        let routes: Vec<Route> =
            logits.chunks_exact(self.units.len()).flat_map(|logits| route(logits, self.used, self.share)).collect();
        // Visits of tokens to experts by expert, then by token.
        let mut visits: Vec<usize> = (0..routes.len()).collect();
        visits.sort_by_key(|&visit| routes[visit].expert);

        let mut inputs = step.buffers.take(routes.len() * width);
        for (input, &visit) in inputs.chunks_exact_mut(width).zip(&visits) {
            input.copy_from_slice(&x[visit / self.used * width..][..width]);
        }
        let mut outputs = step.buffers.take(routes.len() * width);
        let mut first = 0;
        for visits in visits.chunk_by(|&a, &b| routes[a].expert == routes[b].expert) {
            let part = first * width..(first + visits.len()) * width;
            self.units[routes[visits[0]].expert].forward_into(step, &inputs[part.clone()], &mut outputs[part]);
            first += visits.len();
        }

        let mut place_of = vec![0; visits.len()];
        for (place, &visit) in visits.iter().enumerate() {
            place_of[visit] = place;
        }
        let mut out = step.buffers.take(x.len());
        let vector = step.compute.vector();
        step.compute.for_rows(&mut out, width, |token, out| {
            out.fill(0.0);
            for visit in token * self.used..(token + 1) * self.used {
                vector.add_scaled(out, &outputs[place_of[visit] * width..][..width], routes[visit].weight);
            }
        });
        step.give([logits, inputs, outputs]);
        if let Some(shared) = &self.shared {
            let [mut gate] = step.project(x, [&shared.gate]);
            vector.sigmoid(&mut gate);
            let output = shared.unit.forward(step, x);
            step.compute.for_rows(&mut out, width, |token, out| {
                vector.add_scaled(out, &output[token * width..][..width], gate[token]);
            });
            step.give([gate, output]);
        }
        out
    }
}
