//! Chat templates: a conversation becomes the text that a model was trained on.
//!
//! Templates are Jinja programs from strangers, run as transformers runs them (`apply_chat_template`: `trim_blocks`,
//! `lstrip_blocks`, loop controls, no escaping, `raise_exception`, `strftime_now`, a `tojson` that prints as Python's
//! `json.dumps` does), but on a budget of instructions and bytes, without files, and without a clock.
//!
//! What users write stays text. A special token spelled out inside a message must not become that token, or a message
//! could end its own turn and speak as the system. So no text is a special token but what the template has written itself:
//! [`RenderedPrompt::tokens`] says where; see [`ChatTemplate::render`].

mod environment;
mod marks;
mod methods;
mod operators;
mod python;
mod rewrite;
mod time;

use crate::error::{Error, Result, shown};
use marks::{Author, Converter, SpecialTokens};
use minijinja::value::Value;
use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

/// The longest template. The longest known one has 17 kB. The nesting of long chains (`a|f|f|f…`) grows with it, and
/// with that the stack; and the time to compile some chains with its square.
const SOURCE_BYTES_MAX: usize = 40 << 10;
/// The longest prompt: more than a context of a million tokens, and little enough to hold twice.
const OUTPUT_BYTES_MAX: usize = 12 << 20;
/// Fuel for work that does not depend on the conversation. One unit pays for an instruction, for 64 bytes of new text, or
/// for a look at four values, so that this also bounds memory: to 26 MB of text. Templates with tools need about 20,000 for a short conversation.
const FUEL_BASE: u64 = 400_000;
/// Fuel per value of the input, a message having about three. Known templates need up to 100 per message.
const FUEL_PER_VALUE: u64 = 100;
/// A unit of fuel per so many input bytes. It pays for 64 bytes, so each byte may be copied 16 times.
const INPUT_BYTES_PER_FUEL: u64 = 4;
/// Nested calls of macros, includes and loops; minijinja's own limit. A macro counts as four levels.
const RECURSION_MAX: usize = 500;
/// Templates run on a stack of their own: the parser, the compiler and what frees their trees go down level by level, and
/// a chain in a source of [`SOURCE_BYTES_MAX`] has tens of thousands. Only the part that is used becomes memory.
const STACK_BYTES: usize = 64 << 20;

/// The texts of a vocabulary's special tokens.
#[derive(Clone, Debug, Default)]
pub struct SpecialTexts {
    /// What a template calls `bos_token`; `None`: undefined there.
    pub bos: Option<String>,
    /// What a template calls `eos_token`.
    pub eos: Option<String>,
    /// What a template calls `pad_token`.
    pub pad: Option<String>,
    /// What a template calls `unk_token`.
    pub unk: Option<String>,
    /// Every text that the tokenizer would turn into one token without splitting it first; the four above need not be
    /// repeated.
    pub all: Vec<String>,
}

/// A conversation to render.
#[derive(Clone, Copy, Debug)]
pub struct ChatInput<'a> {
    /// Objects as in OpenAI's chat completions, with `role` and `content`; `arguments` of tool calls as objects where
    /// the template wants them so.
    pub messages: &'a [Json],
    /// Function definitions, as in OpenAI's chat completions; `None` also in the template.
    pub tools: Option<&'a [Json]>,
    /// Whether the prompt shall end with the header of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Further variables, such as `enable_thinking`. None of those above, and no special token.
    pub extra: &'a Map<String, Json>,
    /// What `strftime_now` tells: seconds since 1970-01-01 00:00 in the time zone that the prompt shall show. With
    /// `None` that function is not defined, and most templates then print a date of their own or none.
    pub now: Option<i64>,
}

/// A prompt, ready to be tokenised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RenderedPrompt {
    /// The prompt.
    pub text: String,
    /// Ranges of bytes in `text`, ascending and apart: where the template has written special tokens. Anywhere else the
    /// text of one is ordinary text.
    pub tokens: Vec<Range<usize>>,
}

/// A compiled chat template. It renders from any number of threads.
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: SpecialTokens,
    /// The texts under the names that templates know them by.
    named: Vec<(&'static str, String)>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("named", &self.named).finish_non_exhaustive()
    }
}

/// Variables that only this crate sets.
const RESERVED: [&str; 8] =
    ["messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "pad_token", "unk_token", "strftime_now"];
/// The name by which the environment knows the one template.
const NAME: &str = "chat";

impl ChatTemplate {
    /// Compiles `source`.
    ///
    /// # Errors
    /// [`Error::Template`] when it is too long, nested too deeply or not Jinja.
    pub fn new(source: &str, special: SpecialTexts) -> Result<Self> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(Error::Template {
                problem: format!("it has {} bytes; at most {SOURCE_BYTES_MAX} are allowed", source.len()),
                remedy: "Give a shorter template",
            });
        }
        let SpecialTexts { bos, eos, pad, unk, all } = special;
        let named: Vec<_> = [("bos_token", bos), ("eos_token", eos), ("pad_token", pad), ("unk_token", unk)]
            .into_iter()
            .filter_map(|(name, text)| Some((name, text?)))
            .collect();
        let names: Vec<String> = named.iter().map(|(_, text)| text.clone()).collect();
        let mut special = SpecialTokens::new(&names, &all);
        let (environment, strings) = on_own_stack(|| {
            let mut environment = environment::new();
            environment.set_recursion_limit(RECURSION_MAX);
            let added = environment::prepared(source, &special).and_then(|(source, strings)| {
                environment.add_template_owned(NAME, source)?;
                Ok(strings)
            });
            added.map(|strings| (environment, strings)).map_err(|error| template_error(&error))
        })?;
        special.note_strings(strings);
        Ok(Self { environment, special, named })
    }

    /// Renders a conversation.
    ///
    /// A special token counts where the template's source spells it out, in the text around its tags or in one string;
    /// where it prints `bos_token` and its like; and where it writes the beginning of one, which the name of a well-known
    /// role goes on with (`'<|' + message.role + '|>'`), or a string of its own that is no word (`'<|user' + suffix`). Nothing of messages, tools and `extra` counts, whatever the
    /// template does with it, but for one exception: an assistant's `content` keeps the markers of its own reasoning and
    /// tool calls (texts with `think`, `reason` or `tool call` in their letters, never bos, eos, pad or unk), because
    /// templates split on them and the model wrote them as tokens.
    ///
    /// To the template, a token that it spells out is not equal to the same text from a user.
    ///
    /// # Errors
    /// [`Error::ChatRefused`] when the template itself refuses the conversation, [`Error::ChatInput`] when the input
    /// cannot be rendered by any template, [`Error::Template`] when the template fails or uses up its budget.
    pub fn render(&self, input: &ChatInput<'_>) -> Result<RenderedPrompt> {
        if let Some(key) = input.extra.keys().find(|key| RESERVED.contains(&key.as_str())) {
            return Err(Error::ChatInput {
                field: key.clone(),
                problem: "this variable cannot be set by a request".into(),
                remedy: "Leave it out of the template's extra arguments",
            });
        }
        let converter = Converter::new(&self.special, input)?;
        let mut variables: BTreeMap<String, Value> = BTreeMap::new();
        // As in transformers, these two are none rather than undefined when absent.
        variables.insert("documents".into(), Value::from(()));
        let tools = match input.tools {
            Some(tools) => tools.iter().map(|tool| converter.value(tool)).collect(),
            None => Value::from(()),
        };
        variables.insert("tools".into(), tools);
        for (name, text) in &self.named {
            variables.insert((*name).into(), Value::from(self.special.marked(text, Author::Template)));
        }
        for (key, value) in input.extra {
            variables.insert(key.clone(), converter.value(value));
        }
        variables.insert("messages".into(), converter.messages(input.messages));
        variables.insert("add_generation_prompt".into(), Value::from(input.add_generation_prompt));
        if let Some(now) = input.now {
            let strftime = move |format: &str| time::strftime(now, format);
            variables.insert("strftime_now".into(), Value::from_function(strftime));
        }
        let fuel = FUEL_BASE
            .saturating_add(FUEL_PER_VALUE.saturating_mul(converter.values()))
            .saturating_add(converter.bytes() / INPUT_BYTES_PER_FUEL);
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        match on_own_stack(move || run(&environment, variables)) {
            Ok(text) => Ok(converter.into_prompt(&text)),
            Err(Error::ChatRefused { message }) => {
                Err(Error::ChatRefused { message: shown(&converter.cleaned(&message)) })
            }
            Err(error) => Err(error),
        }
    }
}

/// Runs the template and frees everything that it built.
fn run(environment: &Environment<'_>, variables: BTreeMap<String, Value>) -> Result<String> {
    let mut output = Output { bytes: Vec::new(), full: false };
    let rendered = environment
        .get_template(NAME)
        .and_then(|template| template.render_captured_to(Value::from(variables), &mut output).map(drop));
    match rendered {
        Err(_) if output.full => Err(Error::Template {
            problem: format!("the prompt is longer than {OUTPUT_BYTES_MAX} bytes"),
            remedy: "Shorten the conversation, or give another template",
        }),
        Err(error) => Err(match environment::raised(&error) {
            Some(message) => Error::ChatRefused { message: message.to_owned() },
            None => template_error(&error),
        }),
        Ok(()) => String::from_utf8(output.bytes).map_err(|_| Error::Template {
            problem: "it printed bytes that are not UTF-8".into(),
            remedy: "Give another template",
        }),
    }
}

/// Takes the prompt up to [`OUTPUT_BYTES_MAX`].
struct Output {
    bytes: Vec<u8>,
    full: bool,
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > OUTPUT_BYTES_MAX - self.bytes.len() {
            self.full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn template_error(error: &minijinja::Error) -> Error {
    let line = error.line().map_or_else(String::new, |line| format!(" in line {line}"));
    if error.kind() == ErrorKind::OutOfFuel {
        return Error::Template {
            problem: format!("it used up its budget of work and memory{line}"),
            remedy: "Shorten the conversation, or give a template that does less",
        };
    }
    let detail = error.detail().map_or_else(String::new, |detail| format!(": {}", shown(detail)));
    Error::Template {
        problem: format!("{}{line}{detail}", error.kind()),
        remedy: "Give a template that transformers renders, or check that the messages have what it needs",
    }
}

/// Runs `work` with [`STACK_BYTES`] of stack, however little the caller has left.
fn on_own_stack<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let failed = |problem: &str| Error::Template {
        problem: problem.into(),
        remedy: "Try again; if it stays, give another template and report this one",
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chat template".into()).stack_size(STACK_BYTES);
        let thread = thread.spawn_scoped(scope, work).map_err(|_| failed("there is no thread to run it on"))?;
        thread.join().unwrap_or_else(|_| Err(failed("it made the template engine panic")))
    })
}
