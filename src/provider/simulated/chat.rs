//! `POST /v1/chat/completions`, plain and streamed.
//!
//! Source: OpenAI API reference, "Chat completions": the completion object, the chunk object, "Create chat completion".

use bytes::Bytes;
use serde_json::{Value, json};

use crate::provider::simulated::fields::{self, Fields};
use crate::provider::simulated::reply::{Choice, Format, Question, Reply, Say, Tokens, Tool, compose};
use crate::provider::simulated::wire::{Content, Refusal, done, event, with};
use crate::provider::simulated::words;
use crate::unit::clock::Timestamp;

/// The most answers to one question.
const ANSWERS_LIMIT: u64 = 16;

/// The most messages and the most tools of one request.
const MESSAGES_LIMIT: usize = 100_000;
const TOOLS_LIMIT: usize = 1_024;

/// The tokens that each message costs beside its words, that an image costs, and that any other part that is not text costs.
const MESSAGE_TOKENS: u64 = 3;
const IMAGE_TOKENS: u64 = 85;
const OTHER_TOKENS: u64 = 50;

/// The name of the build that answers.
pub(super) const FINGERPRINT: &str = "fp_marg_simulated";

/// Answers a conversation.
pub(super) fn answer(fields: &Fields, model: &str) -> Result<Content, Refusal> {
    let question = read(fields, model)?;
    let number = fields::whole(fields, "n", 1..=ANSWERS_LIMIT)?.unwrap_or(1);
    let stream = fields::flag(fields, "stream")?;
    let include_usage = include_usage(fields, stream)?;
    let replies: Vec<Reply> = (0..number).map(|variant| compose(&question, variant)).collect();
    let tokens = Tokens::of(&question, &replies);
    let frame = Frame {
        id: words::unique("chatcmpl-"),
        created: Timestamp::now().seconds(),
        model,
        service_tier: match fields.get("service_tier").and_then(Value::as_str) {
            Some(tier @ ("flex" | "priority" | "scale")) => tier,
            _ => "default",
        },
        logprobs: fields::flag(fields, "logprobs")?,
    };
    Ok(match stream {
        true => Content::Events(frame.chunks(&replies, include_usage.then_some(tokens))),
        false => Content::Json(frame.completion(&replies, tokens)),
    })
}

/// Whether a stream is to end with its usage.
pub(super) fn include_usage(fields: &Fields, stream: bool) -> Result<bool, Refusal> {
    match fields.get("stream_options") {
        None | Some(Value::Null) => Ok(false),
        Some(_) if !stream => Err(Refusal::invalid("stream_options", "`stream_options` is for streams only")),
        Some(Value::Object(options)) => fields::flag(options, "include_usage"),
        Some(_) => Err(Refusal::invalid("stream_options", "`stream_options` is an object")),
    }
}

fn read<'a>(fields: &'a Fields, model: &'a str) -> Result<Question<'a>, Refusal> {
    let messages = fields::list(fields, "messages", MESSAGES_LIMIT)?;
    if messages.is_empty() {
        return Err(Refusal::invalid("messages", "`messages` is a list of at least one message"));
    }
    fields::check_number(fields, "temperature", 0.0..=2.0)?;
    fields::check_number(fields, "top_p", 0.0..=1.0)?;
    fields::check_number(fields, "presence_penalty", -2.0..=2.0)?;
    fields::check_number(fields, "frequency_penalty", -2.0..=2.0)?;
    let max_tokens = fields::whole(fields, "max_tokens", 1..=u64::MAX)?;
    let mut question = Question {
        model,
        tools: tools(fields)?,
        format: format(fields)?,
        max_tokens: fields::whole(fields, "max_completion_tokens", 1..=u64::MAX)?.or(max_tokens),
        stops: fields::stops(fields)?,
        ..Question::default()
    };
    question.choice = choice(fields, &question.tools)?;
    for message in messages {
        let (role, text, tokens) = message_of(message)?;
        question.prompt_tokens += tokens + MESSAGE_TOKENS;
        question.tool_result = None;
        match role {
            "user" => question.user_text = text,
            "tool" | "function" => question.tool_result = Some(text),
            _ => {}
        }
    }
    if let Some(tools) = fields.get("tools") {
        question.prompt_tokens += words::count(&tools.to_string());
    }
    Ok(question)
}

/// The role, the text and the tokens of a message.
fn message_of(message: &Value) -> Result<(&str, String, u64), Refusal> {
    let wrong = |sentence: &str| Refusal::invalid("messages", sentence);
    let role = match message.get("role").and_then(Value::as_str) {
        Some(role @ ("system" | "developer" | "user" | "assistant" | "tool" | "function")) => role,
        _ => return Err(wrong("a message has the role system, developer, user, assistant, tool or function")),
    };
    let calls = message.get("tool_calls").map_or(0, |calls| words::count(&calls.to_string()));
    let (text, tokens) = match message.get("content") {
        Some(Value::String(text)) => (text.clone(), words::count(text)),
        Some(Value::Array(parts)) => parts_of(parts)?,
        None | Some(Value::Null) if role == "assistant" => (String::new(), 0),
        _ => return Err(wrong("the content of a message is a text or a list of parts")),
    };
    Ok((role, text, tokens + calls))
}

fn parts_of(parts: &[Value]) -> Result<(String, u64), Refusal> {
    let mut text = String::new();
    let mut tokens = 0;
    for part in parts {
        let kind = part.get("type").and_then(Value::as_str);
        match (kind, part.get("text").or_else(|| part.get("refusal")).and_then(Value::as_str)) {
            (Some("text" | "refusal"), Some(words)) => {
                if !text.is_empty() {
                    text.push('\n');
                }
                text.push_str(words);
                tokens += words::count(words);
            }
            (Some("image_url"), _) if part.get("image_url").is_some() => tokens += IMAGE_TOKENS,
            (Some("input_audio" | "file"), _) => tokens += OTHER_TOKENS,
            _ => {
                let sentence =
                    "a part of a message has the type text, image_url, input_audio, file or refusal, and its content";
                return Err(Refusal::invalid("messages", sentence));
            }
        }
    }
    Ok((text, tokens))
}

fn tools(fields: &Fields) -> Result<Vec<Tool<'_>>, Refusal> {
    let wrong = || Refusal::invalid("tools", "a tool has the type function or custom, and under that key a name");
    let tool = |tool| {
        let kind = Value::as_str(Value::get(tool, "type")?)?;
        let body = tool.get(kind)?;
        let name = fields::tool_name(body)?;
        match kind {
            "function" => Some(Tool { name, parameters: Some(body.get("parameters").unwrap_or(&Value::Null)) }),
            "custom" => Some(Tool { name, parameters: None }),
            _ => None,
        }
    };
    fields::list(fields, "tools", TOOLS_LIMIT)?.iter().map(|value| tool(value).ok_or_else(wrong)).collect()
}

fn choice<'a>(fields: &'a Fields, tools: &[Tool<'_>]) -> Result<Choice<'a>, Refusal> {
    let wrong = |sentence: &str| Refusal::invalid("tool_choice", sentence);
    let choice = match fields.get("tool_choice") {
        None | Some(Value::Null) => return Ok(Choice::Auto),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => Choice::Auto,
            "none" => Choice::None,
            "required" => Choice::Required,
            _ => return Err(wrong("`tool_choice` is none, auto, required or an object")),
        },
        Some(Value::Object(choice)) => match choice.get("type").and_then(Value::as_str) {
            Some("allowed_tools") => Choice::Auto,
            Some(kind @ ("function" | "custom")) => {
                // The Responses API names the tool beside the type, chat completions one level below.
                let name = choice.get(kind).and_then(|tool| tool.get("name")).or(choice.get("name"));
                Choice::Named(name.and_then(Value::as_str).ok_or_else(|| wrong("the tool to call has no name"))?)
            }
            _ => return Err(wrong("the type of `tool_choice` is function, custom or allowed_tools")),
        },
        Some(_) => return Err(wrong("`tool_choice` is none, auto, required or an object")),
    };
    match choice {
        Choice::Named(name) if !tools.iter().any(|tool| tool.name == name) => {
            Err(wrong("`tool_choice` names a tool that is not offered"))
        }
        Choice::Required if tools.is_empty() => Err(wrong("`tool_choice` is required, and no tool is offered")),
        choice => Ok(choice),
    }
}

fn format(fields: &Fields) -> Result<Format<'_>, Refusal> {
    let wrong = |sentence: &str| Refusal::invalid("response_format", sentence);
    let Some(format) = fields.get("response_format").filter(|format| !format.is_null()) else {
        return Ok(Format::Text);
    };
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(Format::Text),
        Some("json_object") => Ok(Format::Json),
        Some("json_schema") => match format.get("json_schema").and_then(|named| named.get("schema")) {
            Some(schema) => Ok(Format::Schema(schema)),
            None => Err(wrong("a json_schema has its schema under `json_schema.schema`")),
        },
        _ => Err(wrong("the type of `response_format` is text, json_object or json_schema")),
    }
}

/// What every object of one answer has in common.
struct Frame<'a> {
    id: String,
    created: i64,
    model: &'a str,
    service_tier: &'a str,
    logprobs: bool,
}

impl Frame<'_> {
    fn completion(&self, replies: &[Reply], tokens: Tokens) -> Value {
        let choices: Vec<Value> = replies.iter().enumerate().map(|(index, reply)| self.choice(index, reply)).collect();
        json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "usage": tokens.of_completion(),
            "service_tier": self.service_tier,
            "system_fingerprint": FINGERPRINT,
        })
    }

    fn choice(&self, index: usize, reply: &Reply) -> Value {
        let mut message = json!({"role": "assistant", "content": null, "refusal": null, "annotations": []});
        let mut logprobs = Value::Null;
        match &reply.say {
            Say::Text(text) => {
                message = with(message, "content", json!(text));
                logprobs = self.logprobs(&words::tokens(text));
            }
            Say::Call { name, arguments, custom } => {
                message = with(message, "tool_calls", json!([tool_call(name, arguments, *custom)]));
            }
        }
        json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish_reason(reply)})
    }

    fn logprobs(&self, tokens: &[&str]) -> Value {
        if !self.logprobs {
            return Value::Null;
        }
        let entry =
            |token: &&str| json!({"token": token, "logprob": -0.01, "bytes": token.as_bytes(), "top_logprobs": []});
        json!({"content": tokens.iter().map(entry).collect::<Vec<_>>(), "refusal": null})
    }

    /// The chunks of a stream: for each answer its role, its pieces and its end, the answers taking turns; then the usage, if
    /// it was asked for; then the end of the stream.
    fn chunks(&self, replies: &[Reply], usage: Option<Tokens>) -> Vec<Bytes> {
        let mut answers: Vec<_> = replies.iter().map(|reply| self.deltas(reply).into_iter()).collect();
        let mut chunks = Vec::new();
        loop {
            let before = chunks.len();
            for (index, deltas) in answers.iter_mut().enumerate() {
                let Some((delta, logprobs, finish_reason)) = deltas.next() else { continue };
                let choice =
                    json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason});
                chunks.push(event(&self.chunk(&[choice], usage.map(|_| Value::Null))));
            }
            if chunks.len() == before {
                break;
            }
        }
        chunks.extend(usage.map(|tokens| event(&self.chunk(&[], Some(tokens.of_completion())))));
        chunks.push(done());
        chunks
    }

    fn chunk(&self, choices: &[Value], usage: Option<Value>) -> Value {
        let chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "service_tier": self.service_tier,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        });
        match usage {
            Some(usage) => with(chunk, "usage", usage),
            None => chunk,
        }
    }

    /// The deltas of one answer, each with its logprobs and its finish reason.
    fn deltas(&self, reply: &Reply) -> Vec<(Value, Value, Value)> {
        let mut deltas = Vec::new();
        match &reply.say {
            Say::Text(text) => {
                deltas.push((json!({"role": "assistant", "content": "", "refusal": null}), Value::Null, Value::Null));
                for token in words::tokens(text) {
                    deltas.push((json!({"content": token}), self.logprobs(&[token]), Value::Null));
                }
            }
            Say::Call { name, arguments, custom } => {
                let call = with(tool_call(name, "", *custom), "index", json!(0));
                let first = json!({"role": "assistant", "content": null, "tool_calls": [call]});
                deltas.push((first, Value::Null, Value::Null));
                for piece in words::tokens(arguments) {
                    let part = if *custom { json!({"input": piece}) } else { json!({"arguments": piece}) };
                    let kind = if *custom { "custom" } else { "function" };
                    let delta = json!({"tool_calls": [{"index": 0, kind: part}]});
                    deltas.push((delta, Value::Null, Value::Null));
                }
            }
        }
        deltas.push((json!({}), Value::Null, json!(finish_reason(reply))));
        deltas
    }
}

fn tool_call(name: &str, arguments: &str, custom: bool) -> Value {
    let id = words::unique("call_");
    if custom {
        return json!({"id": id, "type": "custom", "custom": {"name": name, "input": arguments}});
    }
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
}

fn finish_reason(reply: &Reply) -> &'static str {
    match reply.say {
        Say::Call { .. } => "tool_calls",
        Say::Text(_) if reply.truncated => "length",
        Say::Text(_) => "stop",
    }
}
