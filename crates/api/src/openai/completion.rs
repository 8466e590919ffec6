//! `POST /v1/chat/completions`: the answer, whole or in chunks.

use serde::Serialize;

/// A whole answer.
#[derive(Clone, Debug, Serialize)]
pub struct Completion {
    /// `chatcmpl-` and random digits.
    pub id: String,
    /// `chat.completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model that answered.
    pub model: String,
    /// One answer per `n`.
    pub choices: Vec<Choice>,
    /// Tokens read and written.
    pub usage: Usage,
    /// Always `default`: there is one tier.
    pub service_tier: &'static str,
    /// What computed the answer: with the same fingerprint, request and seed the answer is the same.
    pub system_fingerprint: String,
}

/// One answer.
#[derive(Clone, Debug, Serialize)]
pub struct Choice {
    /// Its position in `choices`.
    pub index: u32,
    /// What it says.
    pub message: ResponseMessage,
    /// Where they were asked for.
    pub logprobs: Option<Logprobs>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// The text of an answer.
#[derive(Clone, Debug, Serialize)]
pub struct ResponseMessage {
    /// `assistant`.
    pub role: &'static str,
    /// The text.
    pub content: Option<String>,
    /// What was said in place of an answer.
    pub refusal: Option<String>,
    /// Citations; always empty.
    pub annotations: [(); 0],
}

/// A piece of a streamed answer.
#[derive(Clone, Debug, Serialize)]
pub struct Chunk {
    /// The same in all chunks of an answer.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: &'static str,
    /// Seconds since 1970, the same in all chunks of an answer.
    pub created: u64,
    /// The model that answers.
    pub model: String,
    /// Always `default`: there is one tier.
    pub service_tier: &'static str,
    /// As in [`Completion`].
    pub system_fingerprint: String,
    /// One, or none in the chunk that carries the usage.
    pub choices: Vec<ChunkChoice>,
    /// Filled in the last chunk where it was asked for.
    pub usage: Option<Usage>,
}

/// A piece of one answer.
#[derive(Clone, Debug, Serialize)]
pub struct ChunkChoice {
    /// Which answer it belongs to.
    pub index: u32,
    /// What it adds.
    pub delta: Delta,
    /// Of the tokens it adds.
    pub logprobs: Option<Logprobs>,
    /// Filled in the last one of an answer.
    pub finish_reason: Option<FinishReason>,
}

/// What a chunk adds to an answer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Delta {
    /// In the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// More text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// Why an answer ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop text was met.
    Stop,
    /// It reached the most tokens allowed, or the end of the context.
    Length,
}

/// Log-probabilities of an answer's tokens.
#[derive(Clone, Debug, Serialize)]
pub struct Logprobs {
    /// Of each token of the text.
    pub content: Vec<TokenLogprob>,
    /// Of each token of a refusal: there is none.
    pub refusal: Option<Vec<TokenLogprob>>,
}

/// The log-probability of one token, and of the likeliest ones in its place.
#[derive(Clone, Debug, Serialize)]
pub struct TokenLogprob {
    /// Its text; where that is no valid UTF-8, with replacement characters.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// In descending order.
    pub top_logprobs: Vec<TopLogprob>,
}

/// One of the likeliest tokens at a position.
#[derive(Clone, Debug, Serialize)]
pub struct TopLogprob {
    /// As in [`TokenLogprob`].
    pub token: String,
    /// As in [`TokenLogprob`].
    pub logprob: f32,
    /// As in [`TokenLogprob`].
    pub bytes: Vec<u8>,
}

/// Tokens read and written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Usage {
    /// Tokens in the prompt.
    pub prompt_tokens: u64,
    /// Tokens in the answer.
    pub completion_tokens: u64,
    /// Both.
    pub total_tokens: u64,
    /// About the prompt.
    pub prompt_tokens_details: PromptTokensDetails,
    /// About the answer.
    pub completion_tokens_details: CompletionTokensDetails,
}

/// Of the prompt's tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct PromptTokensDetails {
    /// Those that had been computed for an earlier request.
    pub cached_tokens: u64,
    /// Those that stand for sound.
    pub audio_tokens: u64,
}

/// Of the answer's tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct CompletionTokensDetails {
    /// Those of hidden reasoning.
    pub reasoning_tokens: u64,
    /// Those that stand for sound.
    pub audio_tokens: u64,
    /// Those of the client's prediction that were right.
    pub accepted_prediction_tokens: u64,
    /// Those of the client's prediction that were wrong.
    pub rejected_prediction_tokens: u64,
}
