//! Answers of OpenAI's form that the scripted providers give.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::reply::{Answer, Body, End, Reply, What};
use crate::support::upstream::Seen;

/// The text that every usual answer says.
pub const TEXT: &str = "Hello there!";

/// The usual answer: a chat completion for the model that was asked, plain or streamed, with usage.
pub fn by_request() -> Reply {
    Reply::afterwards(What::Computed(Arc::new(|seen: &Seen| {
        let body: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let model = body["model"].as_str().unwrap_or("none").to_owned();
        if body["stream"] == true {
            let asks = body["stream_options"]["include_usage"] == true;
            return stream(&model, asks.then(|| usage(9, 3)));
        }
        Answer::json(200, &completion(&model, Some(usage(9, 3))))
    })))
}

/// A usage object.
pub fn usage(input: u64, output: u64) -> Value {
    json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output})
}

/// A chat completion.
pub fn completion(model: &str, usage: Option<Value>) -> Value {
    let mut completion = json!({
        "id": "chatcmpl-it", "object": "chat.completion", "created": 1_700_000_000, "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
    });
    if let Some(usage) = usage {
        completion["usage"] = usage;
    }
    completion
}

/// A streamed chat completion: a role, the text in two pieces, the end, usage if given, `[DONE]`.
pub fn stream(model: &str, usage: Option<Value>) -> Answer {
    let mut events = vec![
        chunk(model, &json!({"role": "assistant", "content": ""}), None),
        chunk(model, &json!({"content": "Hello "}), None),
        chunk(model, &json!({"content": "there!"}), None),
        chunk(model, &json!({}), Some("stop")),
    ];
    if let Some(usage) = usage {
        events.push(usage_chunk(model, usage));
    }
    events.push(Bytes::from_static(b"data: [DONE]\n\n"));
    Answer::event_stream(Body::Pieces(events, End::Clean))
}

/// One event of a streamed chat completion.
pub fn chunk(model: &str, delta: &Value, finish: Option<&str>) -> Bytes {
    let object = json!({
        "id": "chatcmpl-it", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    });
    format!("data: {object}\n\n").into()
}

/// An event with a piece of text.
pub fn text(model: &str, text: &str) -> Bytes {
    chunk(model, &json!({"content": text}), None)
}

/// The event with usage, as OpenAI sends it before `[DONE]`.
pub fn usage_chunk(model: &str, usage: Value) -> Bytes {
    let object = json!({
        "id": "chatcmpl-it", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": model,
        "choices": [], "usage": usage,
    });
    format!("data: {object}\n\n").into()
}

/// The text that the events of a stream say, as a caller would put it together.
pub fn said(stream: &[u8]) -> String {
    events(stream).iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect()
}

/// The JSON objects of a stream's events, `[DONE]` left out.
pub fn events(stream: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(stream).expect("an event stream is UTF-8");
    text.split("\n\n")
        .filter_map(|event| event.lines().find_map(|line| line.strip_prefix("data:")))
        .filter_map(|data| serde_json::from_str(data.trim()).ok())
        .collect()
}
