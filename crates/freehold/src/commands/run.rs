//! `freehold run`.

use crate::cli::EngineArguments;
use crate::home::Home;
use crate::output::UsageError;
use crate::{chat, models, output};
use anyhow::{Context as _, Result, ensure};
use freehold_engine::{FinishReason, GenerationRequest, Sampling};
use freehold_formats::SpecialTokens;
use serde_json::json;
use std::io::{IsTerminal as _, Read as _};
use std::time::Duration;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  freehold run smollm2:135m \"What is the capital of France?\" --temperature 0\n  \
    freehold run smollm2:135m            (a chat)\n\n\
    The same model, prompt, settings and seed give the same answer on every machine.")]
pub(crate) struct Options {
    /// A model of the store, or where to fetch it from.
    model: String,
    /// What to answer. Without it: standard input but for its last line end, or a chat where that is a terminal.
    prompt: Option<String>,
    /// The system's message, before the conversation. Empty: the one that the model's template has, if any.
    #[arg(long, default_value = "You are a helpful AI assistant.")]
    system: String,
    /// Give the prompt to the model as it is, without its chat template.
    #[arg(long)]
    raw: bool,
    /// Most tokens of the answer.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// 0: always the most probable token; higher: more varied.
    #[arg(long, default_value_t = 0.7, allow_negative_numbers = true)]
    temperature: f32,
    /// Choose among this many most probable tokens; 0: all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Choose among the fewest tokens whose probabilities reach this sum.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f32,
    /// Drop tokens less probable than this share of the most probable one.
    #[arg(long, default_value_t = 0.05, allow_negative_numbers = true)]
    min_p: f32,
    /// Make tokens seen before less likely; 1: off.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    repetition_penalty: f32,
    /// Subtracted from the logits of tokens in the answer.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f32,
    /// Subtracted likewise, times how often the answer holds the token.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f32,
    /// Seed of the random numbers.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// A text that ends the answer. May be given several times.
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    stop: Vec<String>,
    #[command(flatten)]
    engine: EngineArguments,
}

impl Options {
    pub(crate) fn run(self, home: &Home, json: bool) -> Result<()> {
        let is_chat = self.prompt.is_none() && std::io::stdin().is_terminal() && !json;
        let settings = GenerationRequest {
            prompt: Vec::new(),
            max_tokens: Some(self.max_tokens as usize),
            sampling: Sampling {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                repetition_penalty: self.repetition_penalty,
                presence_penalty: self.presence_penalty,
                frequency_penalty: self.frequency_penalty,
                logit_bias: Vec::new(),
                seed: self.seed,
            },
            stop: self.stop,
            logprobs: None,
            cache_salt: None,
        };
        // Before a model is fetched and loaded for nothing.
        settings.check_settings().map_err(|error| UsageError(error.to_string()))?;
        let question = match &self.prompt {
            Some(prompt) => prompt.clone(),
            None if is_chat => String::new(),
            None => read_question()?,
        };
        let opened = models::open(home, Some(&self.model))?;
        let (engine, text) = self.engine.start(home, &opened)?;
        // Small models answer better to a plain system message than to the one that some templates bring.
        let system = (!self.system.is_empty()).then_some(self.system.as_str());
        chat::catch_interrupts()?;
        if is_chat {
            return chat::converse(&engine, &text, system, &settings);
        }
        let prompt = if self.raw {
            text.tokenizer().encode_prompt(&question, SpecialTokens::Parse)?
        } else {
            let system = system.map(|system| json!({ "role": "system", "content": system }));
            let user = json!({ "role": "user", "content": question });
            chat::prompt(&text, &system.into_iter().chain([user]).collect::<Vec<_>>())?
        };
        let mut show = |text: &str| if json { Ok(()) } else { output::print_part(text) };
        let answer = chat::answer(&engine, GenerationRequest { prompt, ..settings }, &mut show)?;
        let finished = &answer.finished;
        if json {
            output::print_json(&json!({
                "text": answer.text,
                "token_ids": answer.token_ids,
                "prompt_tokens": finished.prompt_tokens,
                "cached_tokens": finished.cached_tokens,
                "completion_tokens": finished.completion_tokens,
                "finish_reason": match finished.reason {
                    FinishReason::Stop => "stop",
                    FinishReason::Length => "length",
                    FinishReason::Cancelled => "cancelled",
                    FinishReason::Overflowed => "overflowed",
                },
                "prefill_tokens_per_second": rate(finished.prompt_tokens - finished.cached_tokens, finished.prefill_time),
                "decode_tokens_per_second": rate(finished.completion_tokens.saturating_sub(1), finished.decode_time),
                "drafted_tokens": finished.drafted_tokens,
                "accepted_tokens": finished.accepted_tokens,
                "model": opened.label(),
                "numerics": engine.numerics(),
            }))?;
        } else {
            output::print_line("")?;
        }
        ensure!(finished.reason != FinishReason::Cancelled, "stopped before the answer had ended");
        ensure!(
            finished.reason != FinishReason::Overflowed,
            "the model's numbers overflowed on this prompt: use `--kv f32`, or another file of the model"
        );
        Ok(())
    }
}

/// Standard input without the line end that shells and editors put behind a text.
fn read_question() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("standard input cannot be read as UTF-8 text")?;
    if text.ends_with('\n') {
        text.truncate(text.len() - if text.ends_with("\r\n") { 2 } else { 1 });
    }
    if text.is_empty() {
        return Err(UsageError("there is nothing to answer: give a PROMPT, or pipe one in".to_owned()).into());
    }
    Ok(text)
}

/// Tokens a second; `None` where nothing was measured.
fn rate(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}
