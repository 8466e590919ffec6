//! `POST /v1/chat/completions`: the request.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A request for a chat completion. Fields that are absent and fields that are `null` are the same.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ChatRequest {
    /// The model's name; empty where the request has none.
    pub model: String,
    /// The conversation so far; empty where the request has none.
    pub messages: Vec<Message>,
    /// Functions that the model may call, as the client described them.
    pub tools: Option<Vec<Value>>,
    /// Whether it may, must or must not call one.
    pub tool_choice: Option<ToolChoice>,
    /// Softmax temperature.
    pub temperature: Option<f64>,
    /// Nucleus sampling: the probability that the kept tokens reach.
    pub top_p: Option<f64>,
    /// The most tokens to generate (the older name).
    pub max_tokens: Option<u64>,
    /// The most tokens to generate.
    pub max_completion_tokens: Option<u64>,
    /// Texts that end the answer.
    pub stop: Option<Stop>,
    /// Makes sampling repeatable.
    pub seed: Option<i64>,
    /// Whether to report log-probabilities.
    pub logprobs: Option<bool>,
    /// How many of the most probable tokens to report at each position.
    pub top_logprobs: Option<u64>,
    /// Token id, in decimal, to a number added to its logit.
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// Subtracted from logits of tokens that the answer holds.
    pub presence_penalty: Option<f64>,
    /// Subtracted from logits of tokens, times how often the answer holds them.
    pub frequency_penalty: Option<f64>,
    /// How many answers to give.
    pub n: Option<u64>,
    /// Whether the answer comes in pieces, as server-sent events.
    pub stream: Option<bool>,
    /// Settings of the stream.
    pub stream_options: Option<StreamOptions>,
    /// What the answer must look like.
    pub response_format: Option<ResponseFormat>,
    /// Kinds of output wanted: `text`, `audio`.
    pub modalities: Option<Vec<String>>,
    /// Set where spoken output is wanted.
    pub audio: Option<IgnoredAny>,
    /// Set where a search of the web is wanted.
    pub web_search_options: Option<IgnoredAny>,
    /// The older form of `tools`.
    pub functions: Option<IgnoredAny>,
    /// The older form of `tool_choice`.
    pub function_call: Option<IgnoredAny>,

    /// Keep this many most probable tokens; 0 or −1: all. Not OpenAI's; other servers have it.
    pub top_k: Option<i64>,
    /// Drop tokens less probable than this share of the most probable one. Not OpenAI's; other servers have it.
    pub min_p: Option<f64>,
    /// Divides positive and multiplies negative logits of tokens seen so far. Not OpenAI's; other servers have it.
    pub repetition_penalty: Option<f64>,
    /// Further arguments of the chat template. Not OpenAI's; other servers have it.
    pub chat_template_kwargs: Option<Map<String, Value>>,
}

/// One message of a conversation.
#[derive(Clone, Debug, Deserialize)]
pub struct Message {
    /// Who wrote it.
    pub role: Role,
    /// What it says; an assistant's message may hold calls of tools instead.
    pub content: Option<Content>,
    /// The name of its author.
    pub name: Option<String>,
    /// Calls that the assistant asked for.
    pub tool_calls: Option<Vec<ToolCall>>,
    /// The call that a tool's message answers.
    pub tool_call_id: Option<String>,
    /// What an assistant said in place of an answer.
    pub refusal: Option<String>,
}

/// The author of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    System,
    /// Instructions, under the newer name.
    Developer,
    /// The person or program that asks.
    User,
    /// The model.
    Assistant,
    /// The result of a call.
    Tool,
}

/// What a message says.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or an array of parts, each with a `type`")]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Text, images and so on.
    Parts(Vec<Part>),
}

/// A piece of a message. Of pieces that hold no text only the type is kept.
#[derive(Clone, Debug, Deserialize)]
pub struct Part {
    /// `text`, `refusal`, `image_url`, `input_audio`, `file`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Of the type `text`.
    pub text: Option<String>,
    /// Of the type `refusal`.
    pub refusal: Option<String>,
}

/// A call that an assistant asked for.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ToolCall {
    /// What the tool's message refers to.
    pub id: String,
    /// `function`; the other types have no `function`.
    #[serde(rename = "type", default = "function_type")]
    pub kind: String,
    /// The call.
    pub function: FunctionCall,
}

fn function_type() -> String {
    "function".into()
}

/// The function called, and with what.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct FunctionCall {
    /// Its name.
    pub name: String,
    /// Its arguments, as the text of a JSON object.
    pub arguments: String,
}

/// Whether the model may call tools.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected `auto`, `none`, `required` or an object that names a function")]
pub enum ToolChoice {
    /// `auto`, `none` or `required`.
    Mode(String),
    /// A certain function.
    Named(Map<String, Value>),
}

/// Texts that end the answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or an array of strings")]
pub enum Stop {
    /// A single one.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// Settings of a stream.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct StreamOptions {
    /// Whether a last chunk tells how many tokens were used.
    pub include_usage: Option<bool>,
}

/// What an answer must look like.
#[derive(Clone, Debug, Deserialize)]
pub struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    pub kind: String,
}
