//! `freehold tokenize`.

use crate::home::Home;
use crate::{models, output};
use anyhow::{Context as _, Result};
use freehold_formats::SpecialTokens;
use freehold_gateway::unix_seconds;
use serde_json::{Map, Value, json};
use std::io::Read as _;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  echo 'some text' | freehold tokenize smollm2:135m\n  \
    freehold tokenize smollm2:135m --messages chat.json --json")]
pub(crate) struct Options {
    /// A model of the store, or where to fetch it from.
    model: String,
    /// A text; without this and --messages, standard input.
    #[arg(long, conflicts_with = "messages")]
    file: Option<PathBuf>,
    /// Add no beginning-of-text token, and take the names of special tokens as text.
    #[arg(long)]
    no_special: bool,
    /// A JSON array of messages: shows them as the model's chat template renders them, up to the answer.
    #[arg(long)]
    messages: Option<PathBuf>,
    /// A JSON array of tools, for the template.
    #[arg(long, requires = "messages")]
    tools: Option<PathBuf>,
}

impl Options {
    pub(crate) fn run(self, home: &Home, json: bool) -> Result<()> {
        let text_model = models::open(home, Some(&self.model))?.text()?;
        let (text, ids) = if let Some(messages) = &self.messages {
            let messages = read_array(messages)?;
            let tools = self.tools.as_deref().map(read_array).transpose()?;
            let (rendered, ids) = text_model.conversation(&messages, tools.as_deref(), &Map::new(), unix_seconds())?;
            (Some(rendered.text), ids)
        } else {
            let text = read_text(self.file.as_deref())?;
            let tokenizer = text_model.tokenizer();
            let ids = if self.no_special {
                tokenizer.encode(&text, SpecialTokens::AsText)?
            } else {
                tokenizer.encode_prompt(&text, SpecialTokens::Parse)?
            };
            (None, ids)
        };
        if json {
            let mut document = json!({ "ids": ids });
            if let Some(text) = text {
                document["text"] = json!(text);
            }
            return output::print_json(&document);
        }
        if let Some(text) = text {
            output::print_line(&text)?;
        }
        output::print_line(&ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    }
}

fn read_text(file: Option<&Path>) -> Result<String> {
    match file {
        Some(file) => {
            std::fs::read_to_string(file).with_context(|| format!("{} cannot be read as UTF-8 text", file.display()))
        }
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("standard input cannot be read as UTF-8 text")?;
            Ok(text)
        }
    }
}

fn read_array(file: &Path) -> Result<Vec<Value>> {
    let bytes = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is not a JSON array", file.display()))
}
