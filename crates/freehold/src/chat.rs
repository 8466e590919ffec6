//! Asking the engine and waiting for the answer, and the chat in the terminal.

use anyhow::{Context as _, Result, bail};
use freehold_engine::{Engine, Event, FinishReason, Finished, Flow, GenerationRequest, Sampling, TextModel};
use freehold_formats::SpecialTokens;
use rustyline::error::ReadlineError;
use serde_json::{Map, Value, json};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

/// Set by Ctrl-C while an answer is under way.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How an answer is made.
pub(crate) struct AnswerOptions {
    pub(crate) sampling: Sampling,
    pub(crate) max_tokens: Option<usize>,
    pub(crate) stop: Vec<String>,
}

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) token_ids: Vec<u32>,
    pub(crate) finished: Finished,
}

/// The tokens of a conversation; of the last message as it is where the model has no chat template.
pub(crate) fn prompt(text: &TextModel, messages: &[Value]) -> Result<Vec<u32>> {
    if text.template().is_some() {
        return Ok(text.conversation(messages, None, &Map::new())?.1);
    }
    let last = messages.last().and_then(|message| message["content"].as_str()).unwrap_or_default();
    Ok(text.tokenizer().encode_prompt(last, SpecialTokens::AsText)?)
}

/// Has the engine answer a prompt; `show` gets the text as it comes. Ctrl-C ends the answer.
pub(crate) fn answer(
    engine: &Engine,
    prompt: Vec<u32>,
    options: &AnswerOptions,
    show: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Answer> {
    INTERRUPTED.store(false, Ordering::Relaxed);
    let (sender, receiver) = mpsc::channel();
    let request = GenerationRequest {
        prompt,
        max_tokens: options.max_tokens,
        sampling: options.sampling.clone(),
        stop: options.stop.clone(),
        logprobs: None,
    };
    // At most one event per token of the context is ever in this channel.
    let sink = move |event| {
        let last = matches!(event, Event::Finished(_));
        let gone = sender.send(event).is_err();
        if (gone || INTERRUPTED.load(Ordering::Relaxed)) && !last { Flow::Cancel } else { Flow::Continue }
    };
    engine.submit(request, Box::new(sink))?;
    let (mut text, mut token_ids) = (String::new(), Vec::new());
    loop {
        match receiver.recv().context("the engine failed: this is a bug in Freehold")? {
            Event::Prompt { .. } => {}
            Event::Token(token) => {
                token_ids.push(token.id);
                text.push_str(&token.text);
                show(&token.text)?;
            }
            Event::Finished(finished) => {
                text.push_str(&finished.text);
                show(&finished.text)?;
                return Ok(Answer { text, token_ids, finished });
            }
        }
    }
}

/// From now on Ctrl-C ends the answer under way.
pub(crate) fn catch_interrupts() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    std::thread::Builder::new().name("freehold-signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                INTERRUPTED.store(true, Ordering::Relaxed);
            }
        });
    })?;
    Ok(())
}

/// Prints text as it comes.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// A chat: each answer sees all before it. Ctrl-C ends an answer, Ctrl-D the chat.
pub(crate) fn converse(
    engine: &Engine,
    text: &Arc<TextModel>,
    system: Option<&str>,
    options: &AnswerOptions,
) -> Result<()> {
    if text.template().is_none() {
        bail!("this model has no chat template, so it cannot chat: give a PROMPT for it to continue");
    }
    let mut editor = rustyline::DefaultEditor::new()?;
    let beginning: Vec<Value> =
        system.map(|system| json!({ "role": "system", "content": system })).into_iter().collect();
    let mut messages = beginning.clone();
    eprintln!("Ctrl-C stops an answer, Ctrl-D leaves, /clear begins anew.");
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                eprintln!("Ctrl-D leaves.");
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match line.trim() {
            "" => continue,
            "/clear" => {
                messages.clone_from(&beginning);
                continue;
            }
            _ => {}
        }
        // A history that cannot be kept is no reason to stop talking.
        let _ = editor.add_history_entry(&line);
        messages.push(json!({ "role": "user", "content": line }));
        let prompt = prompt(text, &messages)?;
        match answer(engine, prompt, options, &mut print) {
            Ok(answer) => {
                let stopped = if answer.finished.reason == FinishReason::Cancelled { " [stopped]" } else { "" };
                println!("{stopped}");
                messages.push(json!({ "role": "assistant", "content": answer.text }));
            }
            Err(error) => {
                crate::output::print_error(&error);
                messages.pop();
            }
        }
    }
}
