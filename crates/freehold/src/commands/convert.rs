//! `freehold convert`.

use crate::cli::ComputeOptions;
use crate::home::Home;
use crate::output::{self, UsageError};
use crate::{commands::show, models};
use anyhow::{Context as _, Result, anyhow, ensure};
use freehold_base::Dtype;
use freehold_base::units::format_bytes;
use freehold_engine::evaluate;
use freehold_formats::Checkpoint;
use freehold_kernels::{Compute, KvType};
use freehold_model::{Conversion, Encoding, Error};
use serde_json::json;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

/// How many tokens the logits of `--verify` are computed of.
const TOKENS_VERIFIED: usize = 16;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  freehold convert ./Qwen3-0.6B\n  \
    freehold convert qwen3:0.6b qwen3.gguf --type f16 --verify --json")]
pub(crate) struct Options {
    /// A folder in Hugging Face's form, or a model of the store that is one.
    source: String,
    /// The GGUF file to write [default: the source's name, in this directory].
    output: Option<PathBuf>,
    /// How matrices are encoded. Vectors, biases and the routers of experts are F32 in any case.
    #[arg(long, value_enum, default_value_t, value_name = "TYPE")]
    r#type: Type,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
    /// Load both when it is done, and compare their logits.
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    compute: ComputeOptions,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Type {
    /// As they are.
    #[default]
    Source,
    F32,
    F16,
    Bf16,
}

impl Type {
    fn encoding(self) -> Encoding<'static> {
        match self {
            Self::Source => Encoding::Source,
            Self::F32 => Encoding::Float(Dtype::F32),
            Self::F16 => Encoding::Float(Dtype::F16),
            Self::Bf16 => Encoding::Float(Dtype::BF16),
        }
    }
}

impl Options {
    pub(crate) fn run(self, home: &Home, json: bool) -> Result<()> {
        let (name, checkpoint) = open(home, &self.source)?;
        let output = self.output.unwrap_or_else(|| PathBuf::from(format!("{}.gguf", name.replace([':', '/'], "-"))));
        refuse_to_overwrite(&output, self.force)?;
        let compute = self.compute.start()?;
        let total = checkpoint.tensors().map(|tensor| tensor.bytes.len() as u64).sum();
        let bar = output::byte_bar(total, format!("Checking {name}"));
        let mut progress = |bytes| bar.inc(bytes);
        let conversion = Conversion::new(&checkpoint, &name, self.r#type.encoding(), &compute, &mut progress)?;
        bar.finish_and_clear();

        let file = Partial::write(&conversion, &output)?;
        let difference = if self.verify {
            let written = Checkpoint::open(&file.path)?;
            let difference = difference(&checkpoint, &written, &compute, self.compute.kv)?;
            ensure!(
                difference == 0.0 || !conversion.keeps_bits(),
                "the file's logits are not the folder's: they differ by {difference:e} of the largest, where they must \
                 have the same bits. The disk or this program is at fault: nothing is left of the file"
            );
            Some(difference)
        } else {
            None
        };
        file.publish(&output)?;
        report(&conversion, &output, difference, json)
    }
}

/// Refuses to write over a file without `--force`.
pub(crate) fn refuse_to_overwrite(output: &Path, force: bool) -> Result<()> {
    if !force && output.exists() {
        let text = format!("{} is there already: give another OUTPUT, or --force to write over it", output.display());
        return Err(UsageError(text).into());
    }
    Ok(())
}

/// A folder or a file of this machine, else a model of the store; with its name.
pub(crate) fn open(home: &Home, source: &str) -> Result<(String, Checkpoint)> {
    let path = Path::new(source);
    if !path.exists() {
        let opened = models::open(home, Some(source))?;
        return Ok((opened.label(), opened.checkpoint));
    }
    let whole = path.canonicalize().with_context(|| format!("{source} cannot be opened"))?;
    let name = whole.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
    Ok((name, Checkpoint::open(path)?))
}

/// The file while it is being written, beside where it will be; it goes unless it is published.
pub(crate) struct Partial {
    path: PathBuf,
    is_published: bool,
}

impl Partial {
    pub(crate) fn write(conversion: &Conversion<'_>, output: &Path) -> Result<Self> {
        let mut path = output.as_os_str().to_owned();
        path.push(".partial");
        let partial = Self { path: path.into(), is_published: false };
        let failed = |error: &io::Error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => anyhow!(
                "the disk has no room for {}, which takes {}: free some space, or give an OUTPUT elsewhere. Nothing is \
                 left of it",
                output.display(),
                format_bytes(conversion.size_bytes())
            ),
            _ => anyhow!("{} cannot be written: {error}", output.display()),
        };
        let file = File::create(&partial.path).map_err(|error| failed(&error))?;
        let bar = output::byte_bar(conversion.size_bytes(), format!("Writing {}", output.display()));
        let mut out = BufWriter::new(file);
        let written = conversion.write(&mut out, &mut |bytes| bar.inc(bytes));
        let written = written.and_then(|()| Ok(out.flush().and_then(|()| out.get_ref().sync_all())?));
        bar.finish_and_clear();
        match written {
            Ok(()) => Ok(partial),
            Err(Error::Output(error)) => Err(failed(&error)),
            Err(other) => Err(other.into()),
        }
    }

    pub(crate) fn publish(mut self, output: &Path) -> Result<()> {
        fs::rename(&self.path, output).with_context(|| format!("{} cannot be written", output.display()))?;
        self.is_published = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_published {
            // Where it cannot be removed either, there is nothing more to be done about it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The largest difference between logits of both, over the largest logit; 0 only where all bits are the same.
fn difference(folder: &Checkpoint, written: &Checkpoint, compute: &Compute, kv_type: KvType) -> Result<f32> {
    let logits = |checkpoint: &Checkpoint, what: &str| {
        let model = models::load(checkpoint, what, compute)?;
        let (vocabulary, count) = (model.config().vocabulary, TOKENS_VERIFIED.min(model.config().context_length));
        // From all over the vocabulary.
        let tokens: Vec<u32> = (0..count).map(|index| (vocabulary * index / count) as u32).collect();
        let mut all = Vec::new();
        evaluate(&model, compute, kv_type, &tokens, count, true, &mut |_, row| {
            all.extend_from_slice(row);
            true
        })?;
        Ok::<_, anyhow::Error>(all)
    };
    let (own, others) = (logits(folder, "the folder")?, logits(written, "the file")?);
    let bits = |logits: &[f32]| logits.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>();
    if bits(&own) == bits(&others) {
        return Ok(0.0);
    }
    let largest = own.iter().fold(f32::MIN_POSITIVE, |largest, logit| largest.max(logit.abs()));
    let difference = own.iter().zip(&others).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
    Ok((difference / largest).max(f32::MIN_POSITIVE))
}

fn report(conversion: &Conversion<'_>, output: &Path, difference: Option<f32>, json: bool) -> Result<()> {
    let metadata = conversion.metadata();
    let architecture = metadata.str("general.architecture")?;
    let tokenizer = metadata.str("tokenizer.ggml.model")?;
    let types = show::types(conversion.tensors());
    if json {
        return output::print_json(&json!({
            "file": output.to_string_lossy(),
            "size_bytes": conversion.size_bytes(),
            "architecture": architecture,
            "tokenizer": tokenizer,
            "tensors": show::types_as_json(&types),
            "keeps_bits": conversion.keeps_bits(),
            "difference": difference,
        }));
    }
    let mut lines = Vec::new();
    let mut line = |name: &str, value: &str| lines.push(format!("{name:<15}{value}"));
    line("File", &format!("{} ({})", output.display(), format_bytes(conversion.size_bytes())));
    line("Architecture", architecture);
    line("Tokenizer", if tokenizer == "none" { "none: the folder has no file of one" } else { tokenizer });
    line("Tensors", &show::described(&types));
    let logits = match difference {
        Some(0.0) => "compared with the folder's: the same bits".to_owned(),
        Some(difference) => format!("compared with the folder's: within {difference:.1e} of the largest"),
        None if conversion.keeps_bits() => "those of the folder, to the bit".to_owned(),
        None => "close to the folder's: some matrices have another type there".to_owned(),
    };
    line("Logits", &logits);
    lines.push(format!("\nTry it:  freehold run file:{}", output.display()));
    output::print_line(&lines.join("\n"))
}
