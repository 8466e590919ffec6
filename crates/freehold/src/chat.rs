//! Asking the engine and waiting for the answer, and the chat in the terminal.

use crate::output;
use anyhow::{Context as _, Result, bail};
use freehold_engine::{Engine, Event, FinishReason, Finished, Flow, GenerationRequest, SubmitError, TextModel};
use freehold_formats::SpecialTokens;
use freehold_gateway::unix_seconds;
use rustyline::error::ReadlineError;
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

/// Set by Ctrl-C while an answer is under way.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) token_ids: Vec<u32>,
    pub(crate) finished: Finished,
}

/// The tokens of a conversation; of the last message as it is where the model has no chat template.
pub(crate) fn prompt(text: &TextModel, messages: &[Value]) -> Result<Vec<u32>> {
    if text.template().is_some() {
        return Ok(text.conversation(messages, None, &Map::new(), unix_seconds())?.1);
    }
    let last = messages.last().and_then(|message| message["content"].as_str()).unwrap_or_default();
    Ok(text.tokenizer().encode_prompt(last, SpecialTokens::AsText)?)
}

/// Has the engine answer a request; `show` gets the text as it comes. Ctrl-C ends the answer.
pub(crate) fn answer(
    engine: &Engine,
    request: GenerationRequest,
    show: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Answer> {
    INTERRUPTED.store(false, Ordering::Relaxed);
    let (sender, receiver) = mpsc::channel();
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

const COMMANDS: &str = "Ctrl-C stops an answer, Ctrl-D or /exit leaves, /clear begins anew, /help shows this.";

/// A chat: each answer sees all before it, and is made by `settings`, whose prompt is not used.
pub(crate) fn converse(
    engine: &Engine,
    text: &Arc<TextModel>,
    system: Option<&str>,
    settings: &GenerationRequest,
) -> Result<()> {
    if text.template().is_none() {
        bail!("this model has no chat template, so it cannot chat: give a PROMPT for it to continue");
    }
    let mut editor = rustyline::DefaultEditor::new()?;
    let beginning: Vec<Value> =
        system.map(|system| json!({ "role": "system", "content": system })).into_iter().collect();
    let mut messages = beginning.clone();
    eprintln!("{COMMANDS}");
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                eprintln!("Ctrl-D or /exit leaves.");
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // A history that cannot be kept is no reason to stop talking.
        let _ = editor.add_history_entry(&line);
        match line.trim() {
            "" => continue,
            "/exit" => return Ok(()),
            "/help" => {
                eprintln!("{COMMANDS}");
                continue;
            }
            "/clear" => {
                messages.clone_from(&beginning);
                eprintln!("All said so far is forgotten.");
                continue;
            }
            word if is_command(word) => {
                eprintln!("{word} is no command. {COMMANDS}");
                continue;
            }
            _ => {}
        }
        messages.push(json!({ "role": "user", "content": line }));
        let answered = prompt(text, &messages).and_then(|prompt| {
            answer(engine, GenerationRequest { prompt, ..settings.clone() }, &mut output::print_part)
        });
        match answered {
            Ok(answer) => {
                output::print_line(match answer.finished.reason {
                    FinishReason::Stop => "",
                    FinishReason::Length => " [cut: it became too long]",
                    FinishReason::Cancelled => " [stopped]",
                    FinishReason::Overflowed => " [the model's numbers overflowed: try --kv f32]",
                })?;
                messages.push(json!({ "role": "assistant", "content": answer.text }));
            }
            Err(error) => {
                output::print_error(&error);
                if let Some(SubmitError::ContextLengthExceeded { .. }) = error.downcast_ref() {
                    eprintln!("All said so far is part of the prompt: /clear begins anew.");
                }
                messages.pop();
            }
        }
    }
}

/// A single word behind a slash. Paths and sentences are for the model.
fn is_command(line: &str) -> bool {
    line.strip_prefix('/').is_some_and(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase()))
}
