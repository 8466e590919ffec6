//! The command line.

use clap::{Args, Parser, Subcommand};
use freehold_base::units::format_bytes;
use freehold_engine::{DraftModel, Engine, EngineOptions, TextModel};
use freehold_kernels::{Compute, Isa, KvType};
use std::path::PathBuf;
use std::sync::Arc;

use crate::commands;
use crate::home::Home;
use crate::models::{self, Opened};
use crate::output::UsageError;

/// Open AI that you own outright: run, inspect and keep open-weight models on your own machines.
#[derive(Parser)]
#[command(version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Where models, keys and settings are kept [default: $FREEHOLD_HOME, else the user's data directory].
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// Print one JSON document (or, for streams, one per line) instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Start the node: fetch the model if it is not there, and serve it over HTTP.
    #[command(visible_alias = "serve")]
    Up(commands::up::Options),
    /// One answer, or a chat in the terminal.
    Run(commands::run::Options),
    /// Fetch a model into the store.
    Pull(commands::pull::Options),
    /// Send a model of the store to a registry.
    Push(commands::push::Options),
    /// Take over models that Ollama or Hugging Face tools have on this machine.
    Import(commands::import::Options),
    /// The models in the store, and those that can be fetched by name.
    List(commands::list::Options),
    /// What a model is: architecture, tensors, tokenizer, template, licence, digests.
    Show(commands::show::Options),
    /// Remove a model from the store.
    Rm(commands::rm::Options),
    /// Check every byte of the store, and fetch again what is damaged or missing.
    Scrub(commands::scrub::Options),
    /// Write a model in Hugging Face's form as one GGUF file.
    Convert(commands::convert::Options),
    /// Write a model as a smaller GGUF file, its matrices in few bits.
    Quantize(commands::quantize::Options),
    /// The key that the HTTP server asks for.
    #[command(subcommand)]
    Key(commands::key::Command),
    /// The token ids of a text or a conversation.
    Tokenize(commands::tokenize::Options),
    /// The logits that a model gives for tokens.
    Logits(commands::logits::Options),
    /// How well a model predicts a text.
    Perplexity(commands::perplexity::Options),
    /// How fast this machine reads and computes.
    Bench(commands::bench::Options),
    /// Print a completion script for a shell.
    Completions(commands::completions::Options),
}

/// How to compute. None of it changes a bit of the result but `--kv`.
#[derive(Args, Clone)]
pub(crate) struct ComputeOptions {
    #[arg(long, help = isa_help())]
    isa: Option<Isa>,
    #[command(flatten)]
    threads: ThreadOptions,
    #[arg(long, default_value_t, help = kv_help())]
    pub(crate) kv: KvType,
}

/// How many threads compute.
#[derive(Args, Clone, Copy)]
pub(crate) struct ThreadOptions {
    /// Threads of the kernels [default: one per core].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

fn isa_help() -> String {
    let names = Isa::ALL.map(|isa| isa.to_string()).join(", ");
    format!("Instruction set of the kernels: {names} [default: the fastest that this machine has]")
}

fn kv_help() -> String {
    let names = KvType::ALL.map(|kv_type| kv_type.to_string()).join(", ");
    format!("How keys and values are cached: {names}. Part of the numerics id")
}

impl ComputeOptions {
    /// The kernels that were asked for.
    pub(crate) fn start(&self) -> anyhow::Result<Compute> {
        let isa = self.isa.unwrap_or_else(Isa::best);
        anyhow::ensure!(isa.is_available(), "this machine has no {isa}: leave out --isa, or use --isa {}", Isa::best());
        self.threads.start(isa)
    }
}

impl ThreadOptions {
    /// Kernels of an instruction set that this machine has.
    pub(crate) fn start(self, isa: Isa) -> anyhow::Result<Compute> {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = self.threads.map_or_else(cores, usize::from);
        Compute::new(isa, threads).map_err(|error| anyhow::anyhow!("{threads} threads cannot be started: {error}"))
    }
}

/// How to serve a model from this process.
#[derive(Args, Clone)]
pub(crate) struct EngineArguments {
    /// Longest prompt and answer together, in tokens [default: what the model was made for, at most 32768].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// Most tokens guessed ahead; 0: none. It changes nothing but the speed.
    #[arg(long, value_name = "TOKENS", default_value_t = EngineOptions::default().draft_max as u8,
          value_parser = clap::value_parser!(u8).range(..=64))]
    draft_max: u8,
    /// A smaller model with the same vocabulary, which guesses where the text does not repeat itself. It changes nothing but
    /// the speed, and pays where it is several times faster and mostly right.
    #[arg(long, value_name = "MODEL", visible_alias = "model-draft")]
    draft_model: Option<String>,
    #[command(flatten)]
    compute: ComputeOptions,
}

impl EngineArguments {
    /// Loads the model, and the one that drafts for it, and starts its engine.
    pub(crate) fn start(&self, home: &Home, opened: &Opened) -> anyhow::Result<(Engine, Arc<TextModel>)> {
        let text = Arc::new(opened.text()?);
        let compute = self.compute.start()?;
        // First the small one: what is wrong with it is known before the large one is loaded.
        let draft = self.draft_model.as_deref();
        let draft = draft.map(|reference| self.draft_model(home, reference, opened, &text, &compute)).transpose()?;
        let model = opened.weights(&compute)?;
        let context_length = self.context.map(|context| context as usize);
        if let Some(context) = context_length {
            opened.check_context(&model, context)?;
        }
        let (kv_type, draft_max) = (self.compute.kv, usize::from(self.draft_max));
        let options = EngineOptions { kv_type, context_length, draft_max, ..EngineOptions::default() };
        let engine = Engine::start(model, Arc::clone(text.tokenizer()), draft, compute, options)?;
        Ok((engine, text))
    }

    fn draft_model(
        &self,
        home: &Home,
        reference: &str,
        served: &Opened,
        text: &TextModel,
        compute: &Compute,
    ) -> anyhow::Result<DraftModel> {
        if self.draft_max == 0 {
            return Err(UsageError(
                "--draft-model drafts nothing with --draft-max 0: leave out one of them".to_owned(),
            )
            .into());
        }
        let draft = models::open(home, Some(reference))?;
        let [size, served_size] = [&draft, served].map(|opened| opened.entry.size_bytes());
        if size > served_size {
            let sizes = [size, served_size].map(format_bytes);
            return Err(UsageError(format!(
                "{} ({}) is larger than {} ({}), for which it is to draft: give a smaller one as --draft-model",
                draft.label(),
                sizes[0],
                served.label(),
                sizes[1],
            ))
            .into());
        }
        DraftModel::new(draft.weights(compute)?, draft.text()?.tokenizer(), text.tokenizer()).map_err(|error| {
            UsageError(format!("{} cannot draft for {}: {error}", draft.label(), served.label())).into()
        })
    }
}
