//! Developers' tasks: `cargo xtask <task>`.

mod bench;
mod conformance;
mod parity;
mod tidy;

use clap::Parser;

/// Developers' tasks.
#[derive(Parser)]
enum Task {
    /// Check the rules of the house; remark on long files and functions.
    Tidy,
    /// The main job on a real model, end to end: fetches it, answers, serves, and compares bits.
    Conformance(conformance::Options),
    /// Pulls from a hub as the Python package `huggingface_hub` does: the same files, bytes and refusals.
    ParityHub(parity::Options),
    /// Converts folders and loads them by llama.cpp: the same logits and tokens.
    ParityConvert(parity::ConvertOptions),
    /// Quantises as llama.cpp does: the same type for each tensor, and a perplexity that is no worse.
    ParityQuantize(parity::QuantizeOptions),
    /// Speed, against peers in the same run.
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(clap::Subcommand)]
enum Bench {
    /// Speed, start and memory against llama.cpp. Build with `--release`: `cargo run --release -p xtask -- bench engine …`.
    Engine(bench::Options),
    /// What `engine` starts for this engine.
    #[command(hide = true)]
    Worker(bench::WorkerOptions),
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Tidy => tidy::run(),
        Task::Conformance(options) => options.run(),
        Task::ParityHub(options) => options.run(),
        Task::ParityConvert(options) => options.run(),
        Task::ParityQuantize(options) => options.run(),
        Task::Bench(Bench::Engine(options)) => options.run(),
        Task::Bench(Bench::Worker(options)) => options.run(),
    }
}
