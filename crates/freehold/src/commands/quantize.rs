//! `freehold quantize`.

use crate::cli::ComputeOptions;
use crate::commands::convert::{self, Partial};
use crate::commands::show;
use crate::home::Home;
use crate::output;
use anyhow::{Result, ensure};
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use freehold_base::units::format_bytes;
use freehold_model::{Conversion, Encoding, Mix};
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
#[command(after_help = "Example: freehold quantize ./Qwen3-0.6B qwen3-q4.gguf --type q4_k_m\n\n\
    Types mean what they mean to llama.cpp: the same tensors have more bits than most.")]
pub(crate) struct Options {
    /// A folder in Hugging Face's form, a GGUF file, or a model of the store.
    source: String,
    /// The GGUF file to write.
    output: PathBuf,
    /// How matrices are encoded. Vectors, biases and the routers of experts stay as they are.
    #[arg(long, value_name = "TYPE", ignore_case = true, value_parser = mixes())]
    r#type: Mix,
    /// Quantise again what is quantised already, which adds the errors of both.
    #[arg(long)]
    requantize: bool,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    compute: ComputeOptions,
}

fn mixes() -> impl clap::builder::TypedValueParser<Value = Mix> {
    PossibleValuesParser::new(Mix::ALL.map(|mix| mix.name))
        .map(|name| Mix::named(&name).expect("it is one of the names"))
}

impl Options {
    pub(crate) fn run(self, home: &Home, json: bool) -> Result<()> {
        let (name, checkpoint) = convert::open(home, &self.source)?;
        convert::refuse_to_overwrite(&self.output, self.force)?;
        let compute = self.compute.start()?;
        let source_bytes = checkpoint.tensors().map(|tensor| tensor.bytes.len() as u64).sum();
        let bar = output::byte_bar(source_bytes, format!("Checking {name}"));
        let mut progress = |bytes| bar.inc(bytes);
        let encoding = Encoding::Mix { mix: self.r#type, requantize: self.requantize };
        let conversion = Conversion::new(&checkpoint, &name, encoding, &compute, &mut progress)?;
        bar.finish_and_clear();
        let bits = bits_per_weight(&conversion);
        ensure!(bits.is_finite(), "{name} has no tensors");
        Partial::write(&conversion, &self.output)?.publish(&self.output)?;
        report(&conversion, &self.output, source_bytes, bits, json)
    }
}

/// Of all numbers of the file, vectors included.
fn bits_per_weight(conversion: &Conversion<'_>) -> f64 {
    let (mut bytes, mut numbers) = (0.0, 0.0);
    for (dtype, size) in conversion.tensors() {
        let (block, block_bytes) = dtype.block();
        bytes += size as f64;
        numbers += size as f64 * block as f64 / block_bytes as f64;
    }
    8.0 * bytes / numbers
}

fn report(conversion: &Conversion<'_>, output: &Path, source_bytes: u64, bits: f64, json: bool) -> Result<()> {
    let types = show::types(conversion.tensors());
    if json {
        return output::print_json(&json!({
            "file": output.to_string_lossy(),
            "size_bytes": conversion.size_bytes(),
            "source_tensor_bytes": source_bytes,
            "bits_per_weight": bits,
            "tensors": show::types_as_json(&types),
        }));
    }
    let size = format_bytes(conversion.size_bytes());
    let lines = [
        format!("{:<15}{} ({size}, from {})", "File", output.display(), format_bytes(source_bytes)),
        format!("{:<15}{}", "Tensors", show::described(&types)),
        format!("{:<15}{bits:.2} per weight", "Bits"),
        format!("\nTry it:  freehold run file:{}", output.display()),
    ];
    output::print_line(&lines.join("\n"))
}
