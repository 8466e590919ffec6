//! The engine of this process as a [`Backend`].

use crate::backend::{Backend, Conversation, ModelInfo, PromptError};
use crate::clock::unix_seconds;
use freehold_engine::{Engine, GenerationRequest, Sink, SubmitError, TextModel};
use freehold_formats::Error;
use std::sync::Arc;

/// One engine with the text side of its model.
pub struct EngineBackend {
    engine: Engine,
    text: Arc<TextModel>,
    info: ModelInfo,
}

impl EngineBackend {
    /// `info` is what clients are told about the model.
    pub fn new(engine: Engine, text: Arc<TextModel>, info: ModelInfo) -> Self {
        Self { engine, text, info }
    }
}

impl Backend for EngineBackend {
    fn model(&self) -> &ModelInfo {
        &self.info
    }

    fn prompt(&self, conversation: &Conversation) -> Result<Vec<u32>, PromptError> {
        let tools = (!conversation.tools.is_empty()).then_some(&conversation.tools[..]);
        match self.text.conversation(&conversation.messages, tools, &conversation.extra, unix_seconds()) {
            Ok((_, ids)) => Ok(ids),
            // The conversation does not suit the template, or is too much for it.
            Err(
                error @ (Error::ChatRefused { .. }
                | Error::ChatInput { .. }
                | Error::Template { .. }
                | Error::TextTooLong { .. }
                | Error::NoTemplate),
            ) => Err(PromptError::Invalid(error.to_string())),
            Err(error) => Err(PromptError::Failed(error.to_string())),
        }
    }

    fn submit(&self, request: GenerationRequest, sink: Sink) -> Result<(), SubmitError> {
        self.engine.submit(request, sink)
    }

    fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.text.tokenizer().token_bytes(id).map(<[u8]>::to_vec).unwrap_or_default()
    }
}
