//! `freehold show`.

use super::pull;
use crate::home::Home;
use crate::models::{self, Opened};
use crate::output;
use anyhow::Result;
use freehold_base::Dtype;
use freehold_base::units::format_bytes;
use freehold_engine::TextModel;
use freehold_formats::{Checkpoint, TensorView};
use serde_json::{Map, Value, json};

/// Lists longer than this are shown by their length: vocabularies have their own commands.
const LIST_SHOWN: usize = 8;

#[derive(clap::Args)]
#[command(after_help = "Example: freehold show smollm2:135m --json")]
pub(crate) struct Options {
    /// A model of the store, or where to fetch it from.
    model: String,
    /// List every tensor.
    #[arg(long)]
    tensors: bool,
}

impl Options {
    pub(crate) fn run(self, home: &Home, json: bool) -> Result<()> {
        let opened = models::open(home, Some(&self.model))?;
        let parameters = parameters(&opened.checkpoint);
        let text = opened.text();
        let template = opened.checkpoint.chat_template()?;
        if json {
            let tensor = |tensor: TensorView<'_>| {
                json!({
                    "name": tensor.name,
                    "dtype": tensor.dtype.to_string(),
                    "shape": tensor.shape,
                    "bytes": tensor.bytes.len(),
                })
            };
            let tokenizer = match &text {
                Ok(text) => json!({
                    "vocabulary": text.tokenizer().vocabulary_size(),
                    "bos": text.tokenizer().bos(),
                    "eos": text.tokenizer().eos(),
                    "end_of_generation": text.tokenizer().end_of_generation(),
                }),
                Err(error) => json!({ "error": error.to_string() }),
            };
            let files: Vec<_> = opened.entry.files.iter().map(|file| {
                json!({ "path": file.path, "digest": file.digest.to_string(), "size_bytes": file.size_bytes })
            }).collect();
            return output::print_json(&json!({
                "name": opened.entry.name,
                "digest": opened.entry.digest.to_string(),
                "source": opened.entry.source,
                "licenses": opened.entry.facts.licenses,
                "facts": pull::facts(&opened.entry.facts),
                "files": files,
                "architecture": architecture(&parameters),
                "parameters": parameters,
                "tokenizer": tokenizer,
                "template": template,
                "tensors": opened.checkpoint.tensors().map(tensor).collect::<Vec<_>>(),
            }));
        }
        let mut text = describe(&opened, &parameters, &text, template.is_some());
        if self.tensors {
            let rows: Vec<_> = opened
                .checkpoint
                .tensors()
                .map(|tensor| {
                    let shape = tensor.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(" × ");
                    vec![
                        tensor.name.to_owned(),
                        tensor.dtype.to_string(),
                        format_bytes(tensor.bytes.len() as u64),
                        shape,
                    ]
                })
                .collect();
            text += &format!("\n\n{}", output::table(&["TENSOR", "TYPE", "SIZE", "SHAPE"], &rows));
        }
        output::print_line(&text)
    }
}

/// What is shown to people.
fn describe(opened: &Opened, parameters: &Map<String, Value>, text: &Result<TextModel>, chats: bool) -> String {
    let entry = &opened.entry;
    let mut lines = Vec::new();
    let mut line = |name: &str, value: &str| lines.push(format!("{name:<15}{value}"));
    line("Model", &opened.label());
    if let Some(title) = &entry.facts.title {
        line("Title", title);
    }
    line("Licence", &pull::licences(&entry.facts.licenses));
    if let Some(note) = &entry.facts.note {
        line("Note", note);
    }
    line("Digest", &entry.digest.to_string());
    line("Source", entry.source.as_deref().unwrap_or("unknown"));
    for file in &entry.files {
        line("File", &format!("{} ({}) {}", file.path, format_bytes(file.size_bytes), file.digest));
    }
    line("Architecture", architecture(parameters).unwrap_or("unknown"));
    match text {
        Ok(text) => line("Tokenizer", &format!("{} tokens", text.tokenizer().vocabulary_size())),
        Err(error) => line("Tokenizer", &error.to_string()),
    }
    line("Chat template", if chats { "yes" } else { "none" });
    let tensors = opened.checkpoint.tensors().map(|tensor| (tensor.dtype, tensor.bytes.len() as u64));
    line("Tensors", &described(&types(tensors)));
    lines.push("\nParameters".to_owned());
    lines.extend(parameters.iter().map(|(key, value)| format!("  {key} = {value}")));
    lines.join("\n")
}

/// How many tensors there are of each type, and their bytes, in order of appearance.
pub(crate) fn types(tensors: impl Iterator<Item = (Dtype, u64)>) -> Vec<(String, usize, u64)> {
    let mut types: Vec<(String, usize, u64)> = Vec::new();
    for (dtype, size_bytes) in tensors {
        let name = dtype.to_string();
        match types.iter_mut().find(|(known, _, _)| *known == name) {
            Some((_, count, bytes)) => (*count, *bytes) = (*count + 1, *bytes + size_bytes),
            None => types.push((name, 1, size_bytes)),
        }
    }
    types
}

/// The same for people.
pub(crate) fn described(types: &[(String, usize, u64)]) -> String {
    let described = types.iter().map(|(name, count, bytes)| format!("{count} {name} ({})", format_bytes(*bytes)));
    described.collect::<Vec<_>>().join(", ")
}

/// The same for programs.
pub(crate) fn types_as_json(types: &[(String, usize, u64)]) -> Value {
    types.iter().map(|(name, count, bytes)| json!({ "dtype": name, "count": count, "bytes": bytes })).collect()
}

/// The model's metadata or configuration, with long lists shown by their length.
fn parameters(checkpoint: &Checkpoint) -> Map<String, Value> {
    match checkpoint {
        Checkpoint::Gguf(gguf) => {
            let short = gguf.metadata().iter().filter(|(key, _)| *key != "tokenizer.chat_template");
            short.map(|(key, value)| (key.to_owned(), metadata_value(value))).collect()
        }
        Checkpoint::HuggingFace(folder) => folder.config().values().clone(),
    }
}

fn metadata_value(value: &freehold_formats::Value) -> Value {
    use freehold_formats::Value as Gguf;
    match value {
        Gguf::U8(number) => json!(number),
        Gguf::I8(number) => json!(number),
        Gguf::U16(number) => json!(number),
        Gguf::I16(number) => json!(number),
        Gguf::U32(number) => json!(number),
        Gguf::I32(number) => json!(number),
        Gguf::U64(number) => json!(number),
        Gguf::I64(number) => json!(number),
        Gguf::F32(number) => json!(number),
        Gguf::F64(number) => json!(number),
        Gguf::Bool(truth) => json!(truth),
        Gguf::String(text) => json!(text),
        Gguf::Array(freehold_formats::Array::String(strings)) if strings.len() <= LIST_SHOWN => {
            json!(strings.iter().collect::<Vec<_>>())
        }
        Gguf::Array(array) => json!(format!("({} values)", array.len())),
    }
}

fn architecture(parameters: &Map<String, Value>) -> Option<&str> {
    ["general.architecture", "model_type"].iter().find_map(|key| parameters.get(*key)?.as_str())
}
