//! `freehold quantize`.

mod choice;
mod report;

use crate::cli::ThreadOptions;
use crate::commands::convert::{self, Partial};
use crate::commands::{perplexity, show};
use crate::home::Home;
use crate::models;
use crate::output::{self, UsageError};
use anyhow::{Context as _, Result, ensure};
use choice::Choice;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use freehold_base::Dtype;
use freehold_base::units::format_bytes;
use freehold_engine::{TextModel, Windows, calibrate};
use freehold_formats::{Checkpoint, Gguf, ImportanceMatrix};
use freehold_kernels::{Compute, Isa, KvType};
use freehold_model::{Conversion, Encoding, Mix, Model, Quantization};
use report::Report;
use serde_json::{Value, json};
use std::cell::Cell;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

/// Tokens of the windows that texts are cut into, or as many as the model was made for.
const CONTEXT: usize = 512;

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  freehold quantize ./Qwen3-0.6B qwen3-q4.gguf --type q4_k_m --calibrate texts.txt --report\n  \
    freehold quantize qwen3.gguf small.gguf --type iq4_xs --tensor-type 'ffn_down=q5_k'\n\n\
    Types mean what they mean to llama.cpp: the same tensors have more bits than most."
)]
pub(crate) struct Options {
    /// A folder in Hugging Face's form, a GGUF file, or a model of the store.
    source: String,
    /// The GGUF file to write.
    output: PathBuf,
    /// How matrices are encoded. Vectors, biases and the routers of experts stay as they are.
    #[arg(long, value_name = "TYPE", ignore_case = true, value_parser = mixes())]
    r#type: Mix,
    /// The type of those matrices whose names in GGUF the regular expression finds, whatever --type says: `ffn_down=q6_k`,
    /// `^output=q8_0` for the output head, `token_embd=q8_0`. The first that finds one counts.
    #[arg(long, value_name = "PATTERN=TYPE")]
    tensor_type: Vec<Choice>,
    /// Run the model over a text first, and spend the errors where its numbers are small: an importance matrix. The text
    /// should be like those that the model is for; some 100,000 words are plenty.
    #[arg(long, value_name = "TEXTFILE", conflicts_with = "imatrix")]
    calibrate: Option<PathBuf>,
    /// Use an importance matrix that was kept: by --save-imatrix, or by llama.cpp in its GGUF form.
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Keep what --calibrate found, in llama.cpp's form.
    #[arg(long, value_name = "FILE", requires = "calibrate")]
    save_imatrix: Option<PathBuf>,
    /// Load both when it is done, and compare size, predictions and speed.
    #[arg(long)]
    report: bool,
    /// Compare their predictions on this text, not on the one that comes with the program. It should not be that of
    /// --calibrate.
    #[arg(long, value_name = "TEXTFILE", requires = "report")]
    report_text: Option<PathBuf>,
    /// Quantise again what is quantised already, which adds the errors of both.
    #[arg(long)]
    requantize: bool,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    threads: ThreadOptions,
}

fn mixes() -> impl clap::builder::TypedValueParser<Value = Mix> {
    PossibleValuesParser::new(Mix::ALL.map(|mix| mix.name))
        .map(|name| Mix::named(&name).expect("it is one of the names"))
}

/// What is quantised.
struct Source {
    name: String,
    checkpoint: Checkpoint,
    /// Its weights, if it has been run over a text.
    model: Option<Model>,
}

impl Options {
    pub(crate) fn run(self, home: &Home, json: bool) -> Result<()> {
        let (name, checkpoint) = convert::open(home, &self.source)?;
        for output in [Some(&self.output), self.save_imatrix.as_ref()].into_iter().flatten() {
            convert::refuse_to_overwrite(output, self.force)?;
        }
        let compute = self.threads.start(Isa::best())?;
        let mut source = Source { name, checkpoint, model: None };
        let used: Vec<Cell<bool>> = self.tensor_type.iter().map(|_| Cell::new(false)).collect();
        let choice = |tensor: &str| {
            let (choice, used) = self.tensor_type.iter().zip(&used).find(|(choice, _)| choice.is_of(tensor))?;
            used.set(true);
            Some(choice.dtype())
        };
        let plain = Quantization { mix: self.r#type, choice: &choice, importance: None, requantize: self.requantize };
        if self.calibrate.is_some() {
            // What would be refused is refused before the model runs for long.
            let encoding = Encoding::Quantized(plain);
            Conversion::new(&source.checkpoint, &source.name, encoding, &compute, &mut |_| {})?;
            self.refuse_unused_choices(&used)?;
        }
        let importance = self.importance(&mut source, &compute)?;

        let source_bytes = source.checkpoint.tensors().map(|tensor| tensor.bytes.len() as u64).sum();
        let bar = output::byte_bar(source_bytes, format!("Checking {}", source.name));
        let mut progress = |bytes| bar.inc(bytes);
        let encoding = Encoding::Quantized(Quantization { importance: importance.as_ref(), ..plain });
        let conversion = Conversion::new(&source.checkpoint, &source.name, encoding, &compute, &mut progress)?;
        bar.finish_and_clear();
        self.refuse_unused_choices(&used)?;
        let bits = bits_per_weight(conversion.tensors());
        ensure!(bits.is_finite(), "{} has no tensors", source.name);
        Partial::write(&conversion, &self.output)?.publish(&self.output)?;
        let mut result = Outcome {
            output: self.output.clone(),
            size_bytes: conversion.size_bytes(),
            source_bytes,
            bits,
            types: show::types(conversion.tensors()),
            without_importance: conversion.without_importance(),
            importance: None,
            report: None,
        };
        result.importance = importance;
        if self.report {
            result.report = Some(self.compare(source, &compute)?);
        }
        if json { output::print_json(&result.as_json()) } else { output::print_line(&result.lines()) }
    }

    fn refuse_unused_choices(&self, used: &[Cell<bool>]) -> Result<()> {
        let Some((choice, _)) = self.tensor_type.iter().zip(used).find(|(_, used)| !used.get()) else { return Ok(()) };
        let text = format!("--tensor-type {choice} is of no matrix, or only of such as an earlier one is of");
        Err(UsageError(text).into())
    }

    /// The importance matrix, collected or read.
    fn importance(&self, source: &mut Source, compute: &Compute) -> Result<Option<ImportanceMatrix>> {
        if let Some(path) = &self.imatrix {
            let cannot = || format!("{} cannot be used", path.display());
            return Ok(Some(ImportanceMatrix::from_gguf(&Gguf::open(path)?).with_context(cannot)?));
        }
        let Some(path) = &self.calibrate else { return Ok(None) };
        let text = perplexity::read_text(path)?;
        let (tokens, bos) = TextModel::open(&source.checkpoint)?.document(&text)?;
        let model = source.model.insert(models::load(&source.checkpoint, &source.name, compute)?);
        let windows = Windows { tokens: &tokens, bos, context: CONTEXT.min(model.config().context_length) };
        // Where the file lies is nobody's business who gets the model.
        let dataset = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let bar = output::count_bar(windows.count() as u64, "Calibrating".to_owned());
        let mut progress = |done, _| bar.set_position(done as u64);
        let importance = calibrate(model, compute, KvType::default(), windows, &dataset, &mut progress)?;
        bar.finish_and_clear();
        let importance = importance.with_context(|| too_short(&path.display().to_string(), windows))?;
        if let Some(path) = &self.save_imatrix {
            save(&importance, path).with_context(|| format!("{} cannot be written", path.display()))?;
        }
        Ok(Some(importance))
    }

    /// Loads the result, and compares it with the source.
    fn compare(&self, source: Source, compute: &Compute) -> Result<Report> {
        let result = Checkpoint::open(&self.output)?;
        let text = self
            .report_text
            .as_ref()
            .map_or_else(|| Ok(report::SAMPLE.to_owned()), |path| perplexity::read_text(path))?;
        let name = self.report_text.as_ref().map_or_else(|| "the sample".to_owned(), |path| path.display().to_string());
        let (tokens, bos) = TextModel::open(&result)?.document(&text)?;
        let model = models::load(&result, &self.output.display().to_string(), compute)?;
        let Source { name: source_name, checkpoint, model: source } = source;
        let source = source.map_or_else(|| models::load(&checkpoint, &source_name, compute), Ok)?;
        let windows = Windows { tokens: &tokens, bos, context: CONTEXT.min(model.config().context_length) };
        Report::new([&checkpoint, &result], [&source, &model], compute, windows, &name)
    }
}

/// What was written.
struct Outcome {
    output: PathBuf,
    size_bytes: u64,
    source_bytes: u64,
    bits: f64,
    types: Vec<(String, usize, u64)>,
    importance: Option<ImportanceMatrix>,
    /// Quantised tensors that the importance matrix does not know.
    without_importance: usize,
    report: Option<Report>,
}

impl Outcome {
    fn as_json(&self) -> Value {
        let importance = self.importance.as_ref().map(|importance| {
            json!({
                "datasets": importance.datasets(),
                "chunk_count": importance.chunk_count(),
                "chunk_size": importance.chunk_size(),
                "tensors_without": self.without_importance,
                "experts_unvisited": unvisited(importance),
            })
        });
        json!({
            "file": self.output.to_string_lossy(),
            "size_bytes": self.size_bytes,
            "source_tensor_bytes": self.source_bytes,
            "bits_per_weight": self.bits,
            "tensors": show::types_as_json(&self.types),
            "importance": importance,
            "report": self.report.as_ref().map(Report::as_json),
        })
    }

    fn lines(&self) -> String {
        let mut lines = Vec::new();
        let mut line = |name: &str, value: String| lines.push(format!("{name:<15}{value}"));
        let (size, source_size) = (format_bytes(self.size_bytes), format_bytes(self.source_bytes));
        line("File", format!("{} ({size}, from {source_size})", self.output.display()));
        line("Tensors", show::described(&self.types));
        line("Bits", format!("{:.2} per weight", self.bits));
        if let Some(importance) = &self.importance {
            let (chunks, size) = (importance.chunk_count(), importance.chunk_size());
            let mut text = format!("from {chunks} chunks of {size} tokens of {}", importance.datasets().join(", "));
            if self.without_importance > 0 {
                text += &format!("; quantised without: {} of the tensors", self.without_importance);
            }
            let unvisited = unvisited(importance);
            if unvisited > 0 {
                text += &format!("; no token went to {unvisited} matrices of experts: a longer text would reach more");
            }
            line("Importance", text);
        }
        if let Some(report) = &self.report {
            lines.push(format!("\n{}", report.lines()));
        }
        lines.push(format!("\nTry it:  freehold run file:{}", self.output.display()));
        lines.join("\n")
    }
}

/// Matrices that no token went to.
fn unvisited(importance: &ImportanceMatrix) -> usize {
    importance.tensors().map(|(_, importance)| importance.unvisited()).sum()
}

fn too_short(text: &str, windows: Windows<'_>) -> String {
    format!("{text} has {} tokens: give a text of at least {}", windows.tokens.len(), windows.context)
}

fn save(importance: &ImportanceMatrix, path: &Path) -> Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    importance.write::<anyhow::Error>(&mut out)?;
    Ok(out.flush()?)
}

/// Of all numbers of the tensors, vectors included.
fn bits_per_weight(tensors: impl Iterator<Item = (Dtype, u64)>) -> f64 {
    let (mut bytes, mut numbers) = (0.0, 0.0);
    for (dtype, size) in tensors {
        let (block, block_bytes) = dtype.block();
        bytes += size as f64;
        numbers += size as f64 * block as f64 / block_bytes as f64;
    }
    8.0 * bytes / numbers
}
