//! Requests that are refused, and why; and those that must not be.

use crate::client::{Server, chat_body, friendly};
use serde_json::json;

#[tokio::test]
async fn wrong_values_are_named() {
    let server = Server::friendly().await;
    // The value is the text of the field's JSON.
    let cases = [
        ("temperature", "-0.1", "invalid_value"),
        ("temperature", "2.1", "invalid_value"),
        ("temperature", "1e300", "invalid_value"),
        ("temperature", "-9223372036854775808", "invalid_value"),
        ("temperature", "\"0.5\"", "invalid_type"),
        ("temperature", "[]", "invalid_type"),
        ("top_p", "0", "invalid_value"),
        ("top_p", "1e-300", "invalid_value"),
        ("top_p", "-1", "invalid_value"),
        ("top_p", "1.5", "invalid_value"),
        ("min_p", "-0.5", "invalid_value"),
        ("min_p", "2", "invalid_value"),
        ("top_k", "-2", "invalid_value"),
        ("top_k", "9223372036854775808", "invalid_type"),
        ("top_k", "1.5", "invalid_type"),
        ("repetition_penalty", "0", "invalid_value"),
        ("repetition_penalty", "-1", "invalid_value"),
        ("presence_penalty", "-2.5", "invalid_value"),
        ("frequency_penalty", "2.5", "invalid_value"),
        ("max_tokens", "0", "invalid_value"),
        ("max_tokens", "-1", "invalid_type"),
        ("max_tokens", "18446744073709551616", "invalid_type"),
        ("max_tokens", "1.0", "invalid_type"),
        ("max_completion_tokens", "0", "invalid_value"),
        ("seed", "9223372036854775808", "invalid_type"),
        ("seed", "1.5", "invalid_type"),
        ("n", "2", "unsupported_value"),
        ("n", "0", "unsupported_value"),
        ("n", "-1", "invalid_type"),
        ("stream", "\"yes\"", "invalid_type"),
        ("top_logprobs", "21", "invalid_value"),
        ("top_logprobs", "1", "invalid_value"),
        ("top_logprobs", "-1", "invalid_type"),
        ("stop", "\"\"", "invalid_value"),
        ("stop", "[\"\"]", "invalid_value"),
        ("stop", "[\"1\",\"2\",\"3\",\"4\",\"5\"]", "invalid_value"),
        ("stop", "7", "invalid_type"),
        ("logit_bias", "{\"256\": 1}", "invalid_value"),
        ("logit_bias", "{\"-1\": 1}", "invalid_value"),
        ("logit_bias", "{\"x\": 1}", "invalid_value"),
        ("logit_bias", "{\"1\": 101}", "invalid_value"),
        ("logit_bias", "{\"1\": -1e999}", "invalid_json"),
        ("logit_bias", "{\"7\": 1, \"07\": 1}", "invalid_value"),
        ("logit_bias", "[]", "invalid_type"),
        ("model", "null", "invalid_type"),
        ("model", "\"\"", "invalid_value"),
        ("model", "\"gpt-9\"", "model_not_found"),
        ("messages", "[]", "invalid_value"),
        ("messages", "null", "invalid_type"),
        ("messages", "\"Hi\"", "invalid_type"),
        ("response_format", "{\"type\": \"json_object\"}", "unsupported_value"),
        ("response_format", "{\"type\": \"json_schema\", \"json_schema\": {}}", "unsupported_value"),
        ("modalities", "[\"text\", \"audio\"]", "unsupported_value"),
        ("audio", "{\"voice\": \"x\"}", "unsupported_value"),
        ("web_search_options", "{}", "unsupported_value"),
        ("functions", "[]", "unsupported_value"),
        ("function_call", "\"auto\"", "unsupported_value"),
        ("tools", "{}", "invalid_type"),
        ("tool_choice", "\"required\"", "unsupported_value"),
        ("tool_choice", "{\"type\": \"function\", \"function\": {\"name\": \"f\"}}", "unsupported_value"),
        ("tool_choice", "\"perhaps\"", "invalid_value"),
        ("chat_template_kwargs", "[]", "invalid_type"),
    ];
    for (param, value, code) in cases {
        let base = chat_body(json!({ param: "PLACE" }));
        let reply = server.chat_text(&base.replace("\"PLACE\"", value)).await;
        let status = if code == "model_not_found" { 404 } else { 400 };
        let param = (code != "invalid_json").then(|| match reply.json()["error"]["param"].as_str() {
            // A value of a map is named with its key.
            Some(found) if found.starts_with(param) => found.to_owned(),
            _ => param.to_owned(),
        });
        reply.assert_error(status, code, param.as_deref());
    }
    assert!(server.backend.requests.lock().unwrap().is_empty(), "a refused request reached the engine");
}

#[tokio::test]
async fn wrong_messages_are_named() {
    let server = Server::friendly().await;
    let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}});
    for (message, param, code) in [
        (json!({}), "messages[1]", "invalid_type"),
        (json!({"role": "wizard", "content": "x"}), "messages[1].role", "invalid_type"),
        (json!({"role": "user"}), "messages[1].content", "invalid_value"),
        (json!({"role": "user", "content": null}), "messages[1].content", "invalid_value"),
        (json!({"role": "user", "content": 5}), "messages[1].content", "invalid_type"),
        (json!({"role": "user", "content": [{"text": "x"}]}), "messages[1].content", "invalid_type"),
        (json!({"role": "user", "content": [{"type": "text"}]}), "messages[1].content[0].text", "invalid_value"),
        (
            json!({"role": "user", "content": [{"type": "text", "text": "x"}, image]}),
            "messages[1].content[1].type",
            "unsupported_value",
        ),
        (
            json!({"role": "user", "content": [{"type": "input_audio"}]}),
            "messages[1].content[0].type",
            "unsupported_value",
        ),
        (json!({"role": "assistant", "content": null}), "messages[1].content", "invalid_value"),
        (
            json!({"role": "assistant", "tool_calls": [{"id": "1", "type": "function"}]}),
            "messages[1].tool_calls[0]",
            "invalid_type",
        ),
        (json!({"role": "tool", "content": "x"}), "messages[1].tool_call_id", "invalid_value"),
    ] {
        let reply = server.chat(json!({"messages": [{"role": "user", "content": "Hi"}, message]})).await;
        reply.assert_error(400, code, Some(param));
    }
}

#[tokio::test]
async fn bodies_that_are_no_request() {
    let server = Server::friendly().await;
    let deep = "[".repeat(100_000);
    for (body, code) in [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ("{} {}", "invalid_json"),
        ("{\"temperature\": NaN}", "invalid_json"),
        ("{\"temperature\": 1e999}", "invalid_json"),
        ("{\"temperature\": Infinity}", "invalid_json"),
        (&format!("{{\"tools\": {deep}"), "invalid_json"),
        (&format!("{{\"metadata\": {deep}"), "invalid_json"),
        ("[]", "invalid_json"),
        ("[\"test/model:1\", [{\"role\": \"user\", \"content\": \"Hi\"}]]", "invalid_json"),
        ("7", "invalid_json"),
        ("{\"n\": 1, \"n\": 1}", "invalid_type"),
    ] {
        let reply = server.chat_text(body).await;
        reply.assert_error(400, code, None);
    }
    server.chat_text("{}").await.assert_error(400, "invalid_value", Some("model"));
    // What a client sent comes back shortened.
    let long = server.chat(json!({"temperature": "x".repeat(100_000)})).await;
    long.assert_error(400, "invalid_type", Some("temperature"));
    assert!(long.body.len() < 1000);
}

#[tokio::test]
async fn what_clients_send_without_need_is_accepted() {
    let server = Server::friendly().await;
    for fields in [
        json!({"user": "u", "store": false, "metadata": {"a": "b"}, "service_tier": "auto", "parallel_tool_calls": true}),
        json!({"reasoning_effort": "low", "verbosity": "low", "prompt_cache_key": "k", "prediction": null}),
        json!({"n": 1, "response_format": {"type": "text"}, "modalities": ["text"], "audio": null, "functions": null}),
        json!({"temperature": null, "top_p": null, "max_tokens": null, "stop": null, "tools": null, "stream": null,
               "tool_choice": null, "logit_bias": null, "stream_options": null, "seed": null, "response_format": null}),
        json!({"tools": [], "tool_choice": "auto", "logit_bias": {}, "stream_options": {"include_obfuscation": false}}),
        json!({"something_new": [1, {"x": null}]}),
    ] {
        let reply = server.chat(fields.clone()).await;
        assert_eq!(reply.status, 200, "{fields} {}", reply.body);
    }
}

#[tokio::test]
async fn a_prompt_that_does_not_fit_is_refused() {
    let server = Server::limited(friendly().with_context(100), |_| {}).await;
    for (bytes, fits) in [(90, true), (100, false), (5000, false)] {
        for stream in [false, true] {
            let messages = json!([{"role": "user", "content": "x".repeat(bytes)}]);
            let reply = server.chat(json!({"messages": messages, "stream": stream})).await;
            if fits {
                assert_eq!(reply.status, 200);
            } else {
                reply.assert_error(400, "context_length_exceeded", Some("messages"));
                let message = reply.json()["error"]["message"].as_str().unwrap().to_owned();
                let start = format!(
                    "This model's maximum context length is 100 tokens. However, your messages resulted in {bytes} tokens."
                );
                assert!(message.starts_with(&start), "{message}");
            }
        }
    }
}

#[tokio::test]
async fn bodies_have_a_limit() {
    let server = Server::limited(friendly(), |limits| limits.body_bytes = 1000).await;
    for (bytes, fits) in [(500, true), (1000, false), (1 << 20, false)] {
        let reply = server.chat(json!({"user": "x".repeat(bytes)})).await;
        if fits {
            assert_eq!(reply.status, 200);
        } else {
            reply.assert_error(413, "body_too_large", None);
        }
    }
    // One that does not say how long it is.
    let chunks = format!("{:x}\r\n{}\r\n0\r\n\r\n", 2000, "x".repeat(2000));
    let head = server.chat_bytes("").replace("Content-Length: 0", "Transfer-Encoding: chunked");
    server.raw(&(head + &chunks)).await.assert_error(413, "body_too_large", None);
}
