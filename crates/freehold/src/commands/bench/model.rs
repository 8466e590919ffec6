//! How fast a model runs on this machine, and what holds it back.

use super::buffer;
use crate::cli::ComputeOptions;
use crate::home::Home;
use crate::output::UsageError;
use crate::{models, output};
use anyhow::Result;
use freehold_base::Dtype;
use freehold_base::units::format_bytes;
use freehold_engine::numerics_id;
use freehold_engine::speed::{MANY_TOKENS, Trial, any_tokens, product_rate, read_rate};
use freehold_kernels::{Compute, KV_BLOCK, KvType};
use freehold_model::{Cost, Model};
use serde_json::{Value, json};

/// What is timed.
#[derive(clap::Args)]
pub(super) struct Workload {
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    prefill: u32,
    /// Tokens decoded one by one, after each depth.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    decode: u32,
    /// Tokens before those that are decoded.
    #[arg(long, value_delimiter = ',', default_value = "1,1024", value_parser = clap::value_parser!(u32).range(1..))]
    depths: Vec<u32>,
    /// Sequences that are decoded together.
    #[arg(long, value_delimiter = ',', default_value = "4,16", value_parser = clap::value_parser!(u32).range(1..=1024))]
    streams: Vec<u32>,
}

/// The share of the limit above which nothing but the limit is worth naming.
const NEAR: f64 = 0.7;

/// What this machine does in a second, when it does nothing else.
struct Limits {
    /// Bytes read from a buffer as large as the model's weights.
    read_rate: f64,
    /// Products of each of the model's types.
    product_rates: Vec<(Dtype, f64)>,
}

/// The least time that a step can take.
struct Bound {
    reading: f64,
    multiplying: f64,
}

impl Limits {
    fn measure(compute: &Compute, cost: &Cost) -> Result<Self> {
        let buffer = buffer(compute, cost.weight_bytes as usize)?;
        let rate = |&(dtype, _): &_| Ok((dtype, product_rate(compute, dtype)?));
        Ok(Self {
            read_rate: read_rate(compute.pool(), buffer.as_slice(), 1),
            product_rates: cost.products.iter().map(rate).collect::<Result<_>>()?,
        })
    }

    fn bound(&self, cost: &Cost, cache_bytes: u64) -> Bound {
        let multiplying = cost.products.iter().map(|(dtype, products)| {
            let rate = self.product_rates.iter().find(|(of, _)| of == dtype).map_or(f64::INFINITY, |(_, rate)| *rate);
            *products as f64 / rate
        });
        Bound { reading: (cost.weight_bytes + cache_bytes) as f64 / self.read_rate, multiplying: multiplying.sum() }
    }
}

impl Bound {
    fn seconds(&self) -> f64 {
        self.reading.max(self.multiplying)
    }

    fn name(&self) -> &'static str {
        if self.reading > self.multiplying { "reading" } else { "products" }
    }
}

/// Something timed.
struct Figure {
    /// For people.
    name: String,
    /// For programs: what was run.
    workload: Value,
    tokens_per_second: f64,
    /// Tokens a second by [`Bound`].
    limit: f64,
    bound: &'static str,
}

impl Figure {
    fn share(&self) -> f64 {
        self.tokens_per_second / self.limit
    }
}

impl Workload {
    pub(super) fn run(&self, home: &Home, model: &str, options: &ComputeOptions, json: bool) -> Result<()> {
        let opened = models::open(home, Some(model))?;
        let compute = options.start()?;
        let model = opened.weights(&compute)?;
        let deepest =
            self.depths.iter().map(|&depth| depth.saturating_add(self.decode)).max().unwrap_or(1).max(self.prefill);
        let made_for = model.config().context_length;
        if deepest as usize > made_for {
            let text = format!(
                "{} was made for {made_for} tokens, not {deepest}: lower --prefill or --depths",
                opened.label()
            );
            return Err(UsageError(text).into());
        }

        let bar = output::count_bar((2 + self.depths.len() + self.streams.len()) as u64, "Measuring".to_owned());
        let of_token = model.cost(1, 1);
        let limits = Limits::measure(&compute, &of_token)?;
        bar.inc(1);
        let figures = self.measure(&model, &compute, options.kv, &limits, &|| bar.inc(1))?;
        bar.finish_and_clear();

        let weight_bytes = of_token.weight_bytes;
        let all_weight_bytes = model.cost(MANY_TOKENS, 1).weight_bytes;
        if json {
            let figure = |figure: &Figure| {
                json!({
                    "workload": figure.workload,
                    "tokens_per_second": figure.tokens_per_second,
                    "limit_tokens_per_second": figure.limit,
                    "bound_by": figure.bound,
                })
            };
            let rates = limits.product_rates.iter().map(|(dtype, rate)| (dtype.to_string(), json!(rate)));
            return output::print_json(&json!({
                "model": opened.label(),
                "numerics": numerics_id(options.kv),
                "isa": compute.isa().to_string(),
                "threads": compute.pool().threads(),
                "weight_bytes_per_token": weight_bytes,
                "weight_bytes": all_weight_bytes,
                "read_bytes_per_second": limits.read_rate,
                "products_per_second": rates.collect::<serde_json::Map<_, _>>(),
                "figures": figures.iter().map(figure).collect::<Vec<_>>(),
            }));
        }
        output::print_line(&format!(
            "{}, {}, {}, {} threads",
            opened.label(),
            numerics_id(options.kv),
            compute.isa(),
            compute.pool().threads()
        ))?;
        // Of a model with experts, a token needs the chosen ones only.
        let of_all = if all_weight_bytes > weight_bytes {
            format!(" of the model's {}", format_bytes(all_weight_bytes))
        } else {
            String::new()
        };
        output::print_line(&format!(
            "A token needs {} of weights{of_all}; of a buffer that large this machine reads {} a second.\n",
            format_bytes(weight_bytes),
            format_bytes(limits.read_rate as u64)
        ))?;
        let rows: Vec<Vec<String>> = figures
            .iter()
            .map(|figure| {
                vec![
                    figure.name.clone(),
                    format!("{:.1}", figure.tokens_per_second),
                    format!("{:.1}", figure.limit),
                    format!("{:.0} %", 100.0 * figure.share()),
                    figure.bound.to_owned(),
                ]
            })
            .collect();
        output::print_line(&output::table(&["", "TOKENS/S", "LIMIT", "REACHED", "LIMITED BY"], &rows))?;
        output::print_line(&format!("\n{}", advice(&figures)))
    }

    fn measure(
        &self,
        model: &Model,
        compute: &Compute,
        kv: KvType,
        limits: &Limits,
        step_done: &dyn Fn(),
    ) -> Result<Vec<Figure>> {
        let vocabulary = model.config().vocabulary;
        let trial = |sequences: usize, tokens: usize| {
            Ok::<_, anyhow::Error>(Trial::new(model, compute, kv, (sequences * tokens.div_ceil(KV_BLOCK)) as u32)?)
        };
        let position_bytes = (model.kv_shape(kv).block_bytes() * model.config().layers / KV_BLOCK) as u64;
        let mut figures = Vec::new();
        let mut add = |name: String, workload: Value, tokens: usize, steps: usize, seconds: f64, bound: &Bound| {
            figures.push(Figure {
                name,
                workload,
                tokens_per_second: tokens as f64 / seconds,
                limit: tokens as f64 / (bound.seconds() * steps as f64),
                bound: bound.name(),
            });
            step_done();
        };

        let (prefill, decode) = (self.prefill as usize, self.decode as usize);
        let seconds = trial(1, prefill)?.prefill(&any_tokens(vocabulary, prefill)).as_secs_f64();
        let bound = limits.bound(&model.cost(prefill, 1), 0);
        add(format!("prompt of {prefill}"), json!({ "prefill": prefill }), prefill, 1, seconds, &bound);
        for depth in self.depths.iter().map(|&depth| depth as usize) {
            let tokens = any_tokens(vocabulary, depth + decode);
            let seconds = trial(1, tokens.len())?.decode(&tokens, depth).as_secs_f64();
            let bound = limits.bound(&model.cost(1, 1), position_bytes * (depth + decode / 2) as u64);
            let workload = json!({ "decode": decode, "depth": depth });
            add(format!("decoding after {depth}"), workload, decode, decode, seconds, &bound);
        }
        for streams in self.streams.iter().map(|&streams| streams as usize) {
            let tokens = any_tokens(vocabulary, streams * (decode + 1));
            let sequences: Vec<&[u32]> = tokens.chunks_exact(decode + 1).collect();
            let seconds = trial(streams, decode + 1)?.streams(&sequences).as_secs_f64();
            let bound = limits.bound(&model.cost(streams, streams), position_bytes * (streams * decode / 2) as u64);
            let workload = json!({ "decode": decode, "streams": streams });
            let name = if streams == 1 { "1 stream".to_owned() } else { format!("{streams} streams together") };
            add(name, workload, streams * decode, decode, seconds, &bound);
        }
        Ok(figures)
    }
}

/// What holds decoding back, and what would help.
fn advice(figures: &[Figure]) -> String {
    let Some(decoding) = figures.iter().find(|figure| figure.workload.get("depth").is_some()) else {
        return "Give --depths to see what holds decoding back.".to_owned();
    };
    match (decoding.bound, decoding.share()) {
        ("reading", share) if share >= NEAR => {
            "Decoding is held back by reading the weights: a smaller type or faster memory would help; more threads only as \
             far as they read more."
        }
        ("reading", _) => {
            "Decoding stays below what reading allows: computing, or other work on this machine, holds it back; more cores \
             would help, and so would less other work."
        }
        _ => {
            "Decoding is held back by products: more cores, wider instructions or a type with faster kernels would help."
        }
    }
    .to_owned()
}
