//! Everything that can be wrong with a file that this crate reads.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// The result of reading a file of one of the formats.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a file was refused. Each variant belongs to one format; its text says which field is wrong, how, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system would not give us the file.
    #[error("cannot read {}: {source}. Check that the file exists and may be read", path.display())]
    Io {
        /// The file asked for.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// The path names nothing that can be a model.
    #[error("{}: {problem}. {remedy}", path.display())]
    Checkpoint {
        /// The file or folder asked for.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        remedy: &'static str,
    },

    /// The files of a model, wherever they lie, make none.
    #[error("{problem}. {remedy}")]
    Files {
        /// What is wrong with them.
        problem: String,
        /// What to do about it.
        remedy: &'static str,
    },

    /// A GGUF file breaks its format, or asks for something that is not supported.
    #[error("GGUF: {field}: {problem}. {remedy}")]
    Gguf {
        /// The header field, metadata key or tensor.
        field: String,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        remedy: &'static str,
    },

    /// A safetensors file or the index of its shards breaks its format, or asks for something that is not supported.
    #[error("safetensors: {field}: {problem}. {remedy}")]
    Safetensors {
        /// The header field, tensor or shard.
        field: String,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        remedy: &'static str,
    },

    /// A file of a Hugging Face style folder other than its weights.
    #[error("{file}: {field}: {problem}. {remedy}")]
    HuggingFace {
        /// The file's name in the folder.
        file: String,
        /// The key in it.
        field: String,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        remedy: &'static str,
    },

    /// A tokenizer, in either format, cannot be used.
    #[error("tokenizer: {field}: {problem}. {remedy}")]
    Tokenizer {
        /// The metadata key or part of `tokenizer.json`.
        field: String,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        remedy: &'static str,
    },

    /// A text is longer than what is encoded at once.
    #[error("the text has {bytes} bytes; at most {bytes_max} are encoded at once. Shorten it or encode it in parts")]
    TextTooLong {
        /// Its length in bytes.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },

    /// A chat template cannot be compiled, or failed on these messages.
    #[error("chat template: {problem}. {remedy}")]
    Template {
        /// What is wrong, with the template's line where there is one.
        problem: String,
        /// What to do about it.
        remedy: &'static str,
    },

    /// A chat template called `raise_exception`: this conversation is not one that the model was trained for.
    #[error("the model's chat template refuses this conversation: {message}. Change the messages accordingly")]
    ChatRefused {
        /// What the template said.
        message: String,
    },

    /// The model has no chat template: it is no chat model.
    #[error("the model has no chat template, so it cannot answer a conversation: give it a text to continue")]
    NoTemplate,

    /// Messages, tools or extra arguments that no chat template may get.
    #[error("chat: {field}: {problem}. {remedy}")]
    ChatInput {
        /// The argument.
        field: String,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        remedy: &'static str,
    },
}

/// An untrusted name or value made fit to be shown: control characters escaped, and no longer than a line.
pub(crate) fn shown(text: &(impl fmt::Display + ?Sized)) -> String {
    shown_within(text, 80)
}

/// The message of a parser, which may quote its input, made fit to be shown.
pub(crate) fn shown_message(message: &(impl fmt::Display + ?Sized)) -> String {
    shown_within(message, 400)
}

fn shown_within(text: &(impl fmt::Display + ?Sized), characters_max: usize) -> String {
    /// Stops the formatting when it has enough, so that the text of a hostile megabyte is never built.
    struct Limited(String, usize);
    impl fmt::Write for Limited {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for character in text.chars() {
                self.1 = self.1.checked_sub(1).ok_or(fmt::Error)?;
                if character.is_control() {
                    self.0.extend(character.escape_default());
                } else {
                    self.0.push(character);
                }
            }
            Ok(())
        }
    }

    let mut limited = Limited(String::new(), characters_max);
    if fmt::write(&mut limited, format_args!("{text}")).is_err() {
        limited.0.push('…');
    }
    limited.0
}
