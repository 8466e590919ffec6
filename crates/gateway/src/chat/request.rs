//! From the wire to what the engine takes: every value is checked here, and nothing is ignored that changes the answer.

use crate::backend::{Conversation, ModelInfo};
use crate::refusal::{Refusal, shorten};
use crate::server::Limits;
use freehold_api::openai::{ChatRequest, Content, Message, Role, Stop, ToolCall, ToolChoice};
use freehold_engine::{GenerationRequest, Sampling};
use serde_json::{Map, Value, json};
use std::ops::RangeInclusive;

/// Reads a request, naming the field that does not fit.
pub(super) fn parse<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    // The types would be read from arrays as well.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(not_json("it must be an object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let request = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let reason = shorten(&error.inner().to_string());
        if !error.inner().is_data() {
            return not_json(&reason);
        }
        let path = error.path().to_string();
        let param = (path != ".").then_some(path);
        let place = param.as_ref().map_or("The body".into(), |param| format!("`{param}`"));
        let message = format!("{place} is not right: {reason}.").into();
        Refusal::Invalid { param, code: Some("invalid_type"), message }
    })?;
    reader.end().map_err(|error| not_json(&error.to_string()))?;
    Ok(request)
}

fn not_json(reason: &str) -> Refusal {
    let message = format!("The body is not valid JSON for this path: {reason}.").into();
    Refusal::Invalid { param: None, code: Some("invalid_json"), message }
}

/// Checks a request for `model`. The returned generation request still lacks its prompt, which the conversation gives.
pub(super) fn check(
    request: ChatRequest,
    model: &ModelInfo,
    limits: &Limits,
) -> Result<(Conversation, GenerationRequest), Refusal> {
    check_model(&request, model)?;
    check_unsupported(&request)?;
    let generation = GenerationRequest {
        prompt: Vec::new(),
        max_tokens: Some(max_tokens(&request)?.unwrap_or(limits.answer_tokens).min(model.context_length)),
        sampling: sampling(&request, model)?,
        logprobs: logprobs(&request)?,
        stop: stop(request.stop)?,
        cache_salt: None,
    };
    if request.messages.is_empty() {
        return Err(Refusal::invalid("messages", "`messages` is missing or empty. Send at least one message."));
    }
    let messages = request.messages.into_iter().enumerate();
    let conversation = Conversation {
        messages: messages.map(|(index, message)| template_message(index, message)).collect::<Result<_, _>>()?,
        tools: if use_tools(request.tool_choice)? { request.tools.unwrap_or_default() } else { Vec::new() },
        extra: request.chat_template_kwargs.unwrap_or_default(),
    };
    Ok((conversation, generation))
}

fn check_model(request: &ChatRequest, model: &ModelInfo) -> Result<(), Refusal> {
    if request.model.is_empty() {
        return Err(Refusal::invalid("model", "`model` is missing. `GET /v1/models` lists what is served."));
    }
    if request.model != model.id {
        return Err(Refusal::unknown_model(&request.model));
    }
    Ok(())
}

fn check_unsupported(request: &ChatRequest) -> Result<(), Refusal> {
    if let Some(n) = request.n
        && n != 1
    {
        return Err(Refusal::unsupported(
            "n",
            "`n` must be 1: one answer per request. Send the request several times.",
        ));
    }
    if let Some(format) = &request.response_format
        && format.kind != "text"
    {
        return Err(Refusal::unsupported(
            "response_format",
            "`response_format` must be of the type `text`: answers are not yet held to JSON or a schema.",
        ));
    }
    if request.modalities.as_ref().is_some_and(|kinds| kinds.iter().any(|kind| kind != "text")) {
        return Err(Refusal::unsupported("modalities", "`modalities` may hold only `text`: the model writes text."));
    }
    for (param, present, remedy) in [
        ("audio", request.audio.is_some(), "the model writes text"),
        ("web_search_options", request.web_search_options.is_some(), "this server does not search the web"),
        ("functions", request.functions.is_some(), "send `tools`"),
        ("function_call", request.function_call.is_some(), "send `tool_choice`"),
    ] {
        if present {
            return Err(Refusal::unsupported(param, format!("`{param}` is not supported: {remedy}.")));
        }
    }
    Ok(())
}

/// Whether the tools are shown to the model.
fn use_tools(choice: Option<ToolChoice>) -> Result<bool, Refusal> {
    match choice {
        None => Ok(true),
        Some(ToolChoice::Mode(mode)) if mode == "auto" => Ok(true),
        Some(ToolChoice::Mode(mode)) if mode == "none" => Ok(false),
        Some(ToolChoice::Mode(mode)) if mode != "required" => {
            Err(Refusal::invalid("tool_choice", "`tool_choice` must be `auto`, `none`, `required` or name a function."))
        }
        Some(_) => Err(Refusal::unsupported(
            "tool_choice",
            "`tool_choice` may be `auto` or `none`: a call cannot yet be demanded of the model.",
        )),
    }
}

fn max_tokens(request: &ChatRequest) -> Result<Option<usize>, Refusal> {
    let (param, tokens) = match (request.max_completion_tokens, request.max_tokens) {
        (Some(new), Some(old)) if new != old => {
            return Err(Refusal::invalid(
                "max_tokens",
                "`max_tokens` and `max_completion_tokens` differ. Send only `max_completion_tokens`.",
            ));
        }
        (Some(new), _) => ("max_completion_tokens", new),
        (None, Some(old)) => ("max_tokens", old),
        (None, None) => return Ok(None),
    };
    if tokens == 0 {
        return Err(Refusal::invalid(param, format!("`{param}` must be at least 1.")));
    }
    Ok(Some(usize::try_from(tokens).unwrap_or(usize::MAX)))
}

fn logprobs(request: &ChatRequest) -> Result<Option<usize>, Refusal> {
    let wanted = request.logprobs.unwrap_or(false);
    match request.top_logprobs {
        Some(top) if top > GenerationRequest::MAX_TOP_LOGPROBS as u64 => Err(Refusal::invalid(
            "top_logprobs",
            format!("`top_logprobs` must be between 0 and {}.", GenerationRequest::MAX_TOP_LOGPROBS),
        )),
        Some(top) if top > 0 && !wanted => {
            Err(Refusal::invalid("top_logprobs", "`top_logprobs` needs `logprobs` to be true."))
        }
        top => Ok(wanted.then_some(top.unwrap_or(0) as usize)),
    }
}

fn stop(stop: Option<Stop>) -> Result<Vec<String>, Refusal> {
    let texts = match stop {
        None => Vec::new(),
        Some(Stop::One(text)) => vec![text],
        Some(Stop::Many(texts)) => texts,
    };
    let (most_texts, most_bytes) = (GenerationRequest::MAX_STOP_TEXTS, GenerationRequest::MAX_STOP_BYTES);
    if texts.len() > most_texts {
        return Err(Refusal::invalid("stop", format!("`stop` may hold at most {most_texts} texts.")));
    }
    if texts.iter().any(|text| text.is_empty() || text.len() > most_bytes) {
        return Err(Refusal::invalid("stop", format!("Each text of `stop` must have 1 to {most_bytes} bytes.")));
    }
    Ok(texts)
}

fn sampling(request: &ChatRequest, model: &ModelInfo) -> Result<Sampling, Refusal> {
    let default = &model.sampling;
    let number = |param: &str, value: Option<f64>, range: RangeInclusive<f64>, default: f32| match value {
        None => Ok(default),
        // NaN is in no range.
        Some(value) if range.contains(&value) => Ok(value as f32),
        Some(_) => {
            let (low, high) = (range.start(), range.end());
            Err(Refusal::invalid(param, format!("`{param}` must be between {low} and {high}.")))
        }
    };
    let top_p = number("top_p", request.top_p, 0.0..=1.0, default.top_p)?;
    // Also where it is too small for the engine's type.
    if top_p == 0.0 {
        return Err(Refusal::invalid("top_p", "`top_p` must be above 0 and at most 1."));
    }
    let top_k = match request.top_k {
        None => default.top_k,
        Some(-1) => 0,
        Some(top_k) => usize::try_from(top_k)
            .map_err(|_| Refusal::invalid("top_k", "`top_k` must be at least 1, or 0 or -1 to keep all tokens."))?,
    };
    Ok(Sampling {
        temperature: number("temperature", request.temperature, 0.0..=2.0, default.temperature)?,
        top_k,
        top_p,
        min_p: number("min_p", request.min_p, 0.0..=1.0, default.min_p)?,
        repetition_penalty: number(
            "repetition_penalty",
            request.repetition_penalty,
            0.1..=10.0,
            default.repetition_penalty,
        )?,
        presence_penalty: number("presence_penalty", request.presence_penalty, -2.0..=2.0, default.presence_penalty)?,
        frequency_penalty: number(
            "frequency_penalty",
            request.frequency_penalty,
            -2.0..=2.0,
            default.frequency_penalty,
        )?,
        logit_bias: logit_bias(request, model)?,
        seed: match request.seed {
            // Any 64 bits are a seed.
            Some(seed) => seed.cast_unsigned(),
            None => getrandom::u64().map_err(|_| Refusal::Internal)?,
        },
    })
}

fn logit_bias(request: &ChatRequest, model: &ModelInfo) -> Result<Vec<(u32, f32)>, Refusal> {
    let Some(biases) = &request.logit_bias else { return Ok(model.sampling.logit_bias.clone()) };
    let mut checked = Vec::with_capacity(biases.len());
    for (token, &bias) in biases {
        let id = token.parse().ok().filter(|&id: &u32| (id as usize) < model.vocabulary_size);
        let Some(id) = id else {
            let last = model.vocabulary_size.saturating_sub(1);
            return Err(Refusal::invalid(
                "logit_bias",
                format!("The keys of `logit_bias` must be token ids, 0 to {last} for this model."),
            ));
        };
        let most = Sampling::MAX_BIAS;
        if !(f64::from(-most)..=f64::from(most)).contains(&bias) {
            return Err(Refusal::invalid(
                "logit_bias",
                format!("The values of `logit_bias` must be between -{most} and {most}."),
            ));
        }
        checked.push((id, bias as f32));
    }
    // "7" and "07" are one token, which must not be biased twice.
    checked.sort_by_key(|&(id, _)| id);
    if checked.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(Refusal::invalid("logit_bias", "`logit_bias` names a token twice."));
    }
    Ok(checked)
}

/// A message as chat templates take it.
fn template_message(index: usize, message: Message) -> Result<Value, Refusal> {
    let calls = message.tool_calls.unwrap_or_default();
    let role = match message.role {
        Role::Developer => Role::System,
        role => role,
    };
    if role == Role::Tool && message.tool_call_id.is_none() {
        let param = format!("messages[{index}].tool_call_id");
        return Err(Refusal::invalid(param, "A message of a tool must have `tool_call_id`."));
    }
    let content = match message.content {
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => {
            let texts = parts.into_iter().enumerate().map(|(position, part)| match part.kind.as_str() {
                "text" => part.text.ok_or_else(|| {
                    let param = format!("messages[{index}].content[{position}].text");
                    Refusal::invalid(param, "A part of the type `text` must have `text`.")
                }),
                "refusal" => Ok(part.refusal.unwrap_or_default()),
                _ => Err(Refusal::unsupported(
                    format!("messages[{index}].content[{position}].type"),
                    "Parts must be of the type `text`: this model reads no images, sound or files.",
                )),
            });
            texts.collect::<Result<Vec<_>, _>>()?.join("\n")
        }
        None if role == Role::Assistant && (!calls.is_empty() || message.refusal.is_some()) => {
            message.refusal.unwrap_or_default()
        }
        None => {
            let param = format!("messages[{index}].content");
            return Err(Refusal::invalid(param, "A message must have `content`."));
        }
    };
    let mut object = Map::new();
    object.insert("role".into(), json!(role));
    object.insert("content".into(), content.into());
    if let Some(name) = message.name {
        object.insert("name".into(), name.into());
    }
    if let Some(id) = message.tool_call_id {
        object.insert("tool_call_id".into(), id.into());
    }
    if !calls.is_empty() {
        object.insert("tool_calls".into(), calls.into_iter().map(template_call).collect());
    }
    Ok(object.into())
}

/// Templates write the arguments of a call as JSON, so they take the object and not its text. A text that is no object
/// goes to them as it is.
fn template_call(call: ToolCall) -> Value {
    let arguments = match serde_json::from_str(&call.function.arguments) {
        Ok(Value::Object(arguments)) => Value::Object(arguments),
        _ => Value::String(call.function.arguments),
    };
    json!({"id": call.id, "type": call.kind, "function": {"name": call.function.name, "arguments": arguments}})
}
