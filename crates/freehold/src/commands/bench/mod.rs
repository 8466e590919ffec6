//! `freehold bench`.

mod machine;
mod model;

use crate::cli::ComputeOptions;
use crate::home::Home;
use crate::output::UsageError;
use anyhow::{Context as _, Result};
use freehold_base::units::format_bytes;
use freehold_engine::speed::read_buffer;
use freehold_kernels::{Compute, Zeroed};

#[derive(clap::Args)]
#[command(after_help = "Examples: freehold bench smollm2:135m, freehold bench --machine\n\n\
    Decoding reads every weight once for each token, so its speed is the speed of reading from memory divided by the size \
    of the model, at best. Prefill computes with each weight many times, so it is bound by products.")]
pub(crate) struct Options {
    /// A model of the store, or where to fetch it from: how fast it runs, and what holds it back.
    model: Option<String>,
    /// Measure this machine without a model: what its threads read and multiply in a second. Takes a few seconds and
    /// 512 MiB.
    #[arg(long, conflicts_with_all = ["model", "prefill", "decode", "depths", "streams", "isa", "threads", "kv"])]
    machine: bool,
    #[command(flatten)]
    workload: model::Workload,
    #[command(flatten)]
    compute: ComputeOptions,
}

impl Options {
    pub(crate) fn run(self, home: &Home, json: bool) -> Result<()> {
        if cfg!(debug_assertions) && (self.machine || self.model.is_some()) {
            eprintln!("This is a debug build: what it measures is too low.");
        }
        match &self.model {
            Some(model) => self.workload.run(home, model, &self.compute, json),
            None if self.machine => machine::run(json),
            None => {
                Err(UsageError("give a model, such as `freehold bench smollm2:135m`, or --machine".to_owned()).into())
            }
        }
    }
}

fn buffer(compute: &Compute, bytes: usize) -> Result<Zeroed<u64>> {
    read_buffer(compute, bytes).with_context(|| format!("{} of memory are needed", format_bytes(bytes as u64)))
}
