//! A model's text side: its tokenizer and its chat template.

use freehold_formats::{
    ChatInput, ChatTemplate, Checkpoint, Error, RenderedPrompt, SpecialTexts, SpecialTokens, Tokenizer,
};
use serde_json::{Map, Value};
use std::sync::Arc;

/// What turns conversations and texts into tokens and back.
pub struct TextModel {
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
}

impl TextModel {
    /// Reads the tokenizer and the chat template of a checkpoint. A model may have no template.
    ///
    /// # Errors
    /// If there is no tokenizer, or either is damaged or of a kind that is not supported.
    pub fn open(checkpoint: &Checkpoint) -> Result<Self, Error> {
        let tokenizer = Tokenizer::from_checkpoint(checkpoint)?;
        let text_of = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id)).map(str::to_owned);
        let template = checkpoint.chat_template()?.map(|source| {
            let special = SpecialTexts {
                bos: text_of(tokenizer.bos()),
                eos: text_of(tokenizer.eos()),
                pad: text_of(tokenizer.padding()),
                unk: text_of(tokenizer.unknown()),
                all: tokenizer.special_texts().map(str::to_owned).collect(),
            };
            ChatTemplate::new(source, special)
        });
        let template = template.transpose()?;
        Ok(Self { tokenizer: Arc::new(tokenizer), template })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// The chat template, where the model has one.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// The tokens of a whole text, and the token that sequences of the model begin with, where they do.
    ///
    /// # Errors
    /// If the text is too long.
    pub fn document(&self, text: &str) -> Result<(Vec<u32>, Option<u32>), Error> {
        let bos = self.tokenizer.bos().filter(|_| self.tokenizer.adds_bos());
        let mut tokens: Vec<u32> = bos.into_iter().collect();
        tokens.extend(self.tokenizer.encode(text, SpecialTokens::AsText)?);
        Ok((tokens, bos))
    }

    /// The text of a conversation up to where the answer begins, and its tokens. The beginning-of-text token is added
    /// where the tokenizer asks for it and the template does not write it. Some templates write the date: theirs is `now`,
    /// in seconds since 1970-01-01 00:00 UTC, and nothing else tells the time.
    ///
    /// # Errors
    /// If the model has no template, or the conversation does not suit it.
    pub fn conversation(
        &self,
        messages: &[Value],
        tools: Option<&[Value]>,
        extra: &Map<String, Value>,
        now: u64,
    ) -> Result<(RenderedPrompt, Vec<u32>), Error> {
        let template = self.template.as_ref().ok_or(Error::NoTemplate)?;
        let input = ChatInput { messages, tools, add_generation_prompt: true, extra, now: i64::try_from(now).ok() };
        let rendered = template.render(&input)?;
        let mut ids = self.tokenizer.encode_rendered(&rendered.text, &rendered.tokens)?;
        if let Some(bos) = self.tokenizer.bos().filter(|_| self.tokenizer.adds_bos())
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok((rendered, ids))
    }
}
