//! The shape of answers.

use crate::client::{Reply, Server};
use crate::scripted::{Script, Scripted};
use freehold_engine::{FinishReason, Sampling, SubmitError};
use freehold_gateway::{ModelInfo, Options};
use serde_json::{Value, json};

/// The body with what differs from run to run replaced.
fn stable(reply: &Reply) -> String {
    let first = reply.body.strip_prefix("data: ").unwrap_or(&reply.body);
    let first: Value = serde_json::from_str(first.lines().next().unwrap()).unwrap();
    let id = first["id"].as_str().unwrap();
    assert_eq!(id.len(), "chatcmpl-".len() + 32);
    let created = format!("\"created\":{}", first["created"]);
    reply.body.replace(id, "ID").replace(&created, "\"created\":SECONDS")
}

#[tokio::test]
async fn whole() {
    let server = Server::friendly().await;
    let reply = server.chat(json!({})).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("x-freehold-model-digest"), Some(&*format!("sha256:{}", "0123456789abcdef".repeat(4))));
    assert_eq!(reply.header("x-freehold-numerics"), Some("cpu-1/kv-f16"));
    assert!(reply.header("x-request-id").unwrap().starts_with("req_"));
    insta::assert_snapshot!(stable(&reply));
}

#[tokio::test]
async fn streamed() {
    let server = Server::friendly().await;
    let reply = server.chat(json!({"stream": true})).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    assert_eq!(reply.header("cache-control"), Some("no-cache"));
    assert_eq!(reply.header("x-freehold-numerics"), Some("cpu-1/kv-f16"));
    insta::assert_snapshot!(stable(&reply));
}

#[tokio::test]
async fn streamed_with_usage_and_logprobs() {
    let server = Server::friendly().await;
    let fields =
        json!({"stream": true, "stream_options": {"include_usage": true}, "logprobs": true, "top_logprobs": 3});
    insta::assert_snapshot!(stable(&server.chat(fields).await));
}

#[tokio::test]
async fn logprobs() {
    let server = Server::friendly().await;
    for (top, expected) in [
        (json!(null), json!([])),
        (
            json!(2),
            json!([{"token": "\u{fffd}", "logprob": -0.5, "bytes": [0xc3]},
                   {"token": "\u{0}", "logprob": -9999.0, "bytes": [0]}]),
        ),
    ] {
        let reply = server.chat(json!({"logprobs": true, "top_logprobs": top})).await.json();
        let logprobs = &reply["choices"][0]["logprobs"];
        assert_eq!(logprobs["refusal"], Value::Null);
        assert_eq!(logprobs["content"].as_array().unwrap().len(), 3);
        for token in logprobs["content"].as_array().unwrap() {
            let expected = json!({"token": "\u{fffd}", "logprob": -0.5, "bytes": [0xc3], "top_logprobs": expected});
            assert_eq!(*token, expected);
        }
    }
}

#[tokio::test]
async fn an_answer_that_was_cut_says_so() {
    let server =
        Server::start(Scripted::new(Script::Say(vec!["a", ""], FinishReason::Length)), Options::default()).await;
    assert_eq!(server.chat(json!({})).await.json()["choices"][0]["finish_reason"], "length");
    let reply = server.chat(json!({"stream": true})).await;
    let events = reply.events();
    let last: Value = serde_json::from_str(events[events.len() - 2]).unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn models() {
    let server = Server::friendly().await;
    let headers = ["Host: HOST", "Authorization: Bearer KEY"];
    let list = server.bare("GET /v1/models", &headers).await.json();
    let model = json!({
        "id": "test/model:1", "object": "model", "created": 1_700_000_000, "owned_by": "Tests & Co",
        "context_length": 1 << 20, "digest": format!("sha256:{}", "0123456789abcdef".repeat(4)),
        "numerics": "cpu-1/kv-f16", "licence": "Apache-2.0 <OR> MIT"
    });
    assert_eq!(list, json!({"object": "list", "data": [model]}));
    // The official clients escape the slash of a name, others do not.
    for path in ["/v1/models/test/model:1", "/v1/models/test%2Fmodel:1"] {
        assert_eq!(server.bare(&format!("GET {path}"), &headers).await.json(), model);
    }
    server.bare("GET /v1/models/%ff", &headers).await.assert_error(404, "unknown_url", None);
    server.bare("GET /v1/models/other", &headers).await.assert_error(404, "model_not_found", Some("model"));
}

#[tokio::test]
async fn failures() {
    for (script, status, code, param) in [
        (Script::Refuse(SubmitError::QueueFull), 429, "rate_limit_exceeded", None),
        (Script::Refuse(SubmitError::ShuttingDown), 503, "shutting_down", None),
        (Script::RefusePrompt, 400, "invalid_value", Some("messages")),
        (Script::PanicInPrompt, 500, "internal_error", None),
        (Script::Die, 500, "internal_error", None),
        (Script::Say(vec!["", ""], FinishReason::Cancelled), 503, "shutting_down", None),
    ] {
        let server = Server::start(Scripted::new(script), Options::default()).await;
        let reply = server.chat(json!({})).await;
        reply.assert_error(status, code, param);
        assert_eq!(reply.header("retry-after").is_some(), status == 429);
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_with_an_error() {
    let server = Server::start(Scripted::new(Script::Die), Options::default()).await;
    let reply = server.chat(json!({"stream": true})).await;
    let events = reply.events();
    assert_eq!(events.len(), 3, "{events:?}");
    assert!(events[1].contains("last words"));
    let error: Value = serde_json::from_str(events[2]).unwrap();
    assert_eq!(error["error"]["code"], "internal_error");
}

#[tokio::test]
async fn what_the_engine_is_asked() {
    let server = Server::friendly().await;
    let base = Sampling { top_k: 7, ..ModelInfo::DEFAULT_SAMPLING };
    let cases = [
        (json!({"seed": 0}), base.clone()),
        (
            json!({"seed": -1, "temperature": 0, "top_k": -1}),
            Sampling { seed: u64::MAX, temperature: 0.0, top_k: 0, ..base.clone() },
        ),
        (
            json!({"seed": 5, "temperature": 2, "top_p": 0.5, "min_p": 0, "top_k": 3, "repetition_penalty": 1.5,
                   "presence_penalty": -2, "frequency_penalty": 2, "logit_bias": {"255": -100, "0": 1.5}}),
            Sampling {
                temperature: 2.0,
                top_k: 3,
                top_p: 0.5,
                min_p: 0.0,
                repetition_penalty: 1.5,
                presence_penalty: -2.0,
                frequency_penalty: 2.0,
                logit_bias: vec![(0, 1.5), (255, -100.0)],
                seed: 5,
            },
        ),
    ];
    for (fields, sampling) in cases {
        assert_eq!(server.chat(fields).await.status, 200);
        let request = server.backend.requests.lock().unwrap().pop().unwrap();
        assert_eq!(request.sampling, sampling);
        assert_eq!((request.max_tokens, request.logprobs, request.stop.len()), (Some(4096), None, 0));
    }
    for (fields, max_tokens, stop, logprobs) in [
        (json!({"max_tokens": 5, "stop": "x", "logprobs": true}), 5, vec!["x"], Some(0)),
        (json!({"max_completion_tokens": 6, "stop": ["x", "yz"], "logprobs": false}), 6, vec!["x", "yz"], None),
        (json!({"max_tokens": 7, "max_completion_tokens": 7, "stop": [], "top_logprobs": 0}), 7, vec![], None),
        (json!({"max_tokens": u64::MAX, "stop": null}), 1 << 20, vec![], None),
    ] {
        assert_eq!(server.chat(fields).await.status, 200);
        let request = server.backend.requests.lock().unwrap().pop().unwrap();
        assert_eq!((request.max_tokens, request.logprobs), (Some(max_tokens), logprobs));
        assert_eq!(request.stop, stop);
    }
    let mut seeds = Vec::new();
    for _ in 0..2 {
        server.chat(json!({})).await;
        seeds.push(server.backend.requests.lock().unwrap().pop().unwrap().sampling.seed);
    }
    assert_ne!(seeds[0], seeds[1]);
}

#[tokio::test]
async fn what_the_template_is_given() {
    let server = Server::friendly().await;
    let tool = json!({"type": "function", "function": {"name": "weather", "parameters": {}}});
    let call =
        json!({"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{\"at\": \"Bern\"}"}});
    let broken = json!({"id": "2", "function": {"name": "weather", "arguments": "at Bern"}});
    let messages = json!([
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}, {"type": "text", "text": "In Bern."}], "name": "Ann"},
        {"role": "assistant", "content": null, "tool_calls": [call, broken]},
        {"role": "tool", "tool_call_id": "1", "content": "sun"},
        {"role": "assistant", "content": null, "refusal": "No."}
    ]);
    let expected = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?\nIn Bern.", "name": "Ann"},
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"at": "Bern"}}},
            {"id": "2", "type": "function", "function": {"name": "weather", "arguments": "at Bern"}}]},
        {"role": "tool", "content": "sun", "tool_call_id": "1"},
        {"role": "assistant", "content": "No."}
    ]);
    for (choice, shown) in [(json!(null), true), (json!("auto"), true), (json!("none"), false)] {
        let fields = json!({"messages": messages, "tools": [tool], "tool_choice": choice,
                            "chat_template_kwargs": {"enable_thinking": false}});
        assert_eq!(server.chat(fields).await.status, 200);
        let conversation = server.backend.conversations.lock().unwrap().pop().unwrap();
        assert_eq!(Value::from(conversation.messages), expected);
        assert_eq!(conversation.tools, if shown { vec![tool.clone()] } else { vec![] });
        assert_eq!(Value::from(conversation.extra), json!({"enable_thinking": false}));
    }
}
