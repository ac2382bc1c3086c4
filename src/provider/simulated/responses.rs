//! `POST /v1/responses`, plain and streamed.
//!
//! Source: OpenAI API reference, "Responses" and "Streaming events". Nothing is stored: `previous_response_id` is accepted and
//! not known, and a response cannot be fetched again.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::provider::simulated::fields::{self, Fields};
use crate::provider::simulated::reply::{Choice, Format, Question, Reply, Say, Tokens, Tool, compose};
use crate::provider::simulated::wire::{Content, Refusal, named_event, with};
use crate::provider::simulated::words;
use crate::unit::clock::Timestamp;

/// The most items of an input, and the most tools.
const ITEMS_LIMIT: usize = 100_000;
const TOOLS_LIMIT: usize = 1_024;

/// The tokens of a part that is not text.
const OTHER_TOKENS: u64 = 85;

/// Answers an input.
pub(super) fn answer(fields: &Fields, model: &str) -> Result<Content, Refusal> {
    let question = read(fields, model)?;
    let reply = compose(&question, 0);
    let tokens = Tokens::of(&question, std::slice::from_ref(&reply));
    let output = output(&reply);
    let frame = Frame { fields, model, id: words::unique("resp_"), created: Timestamp::now().seconds() };
    let (status, incomplete) = match reply.truncated {
        true => ("incomplete", json!({"reason": "max_output_tokens"})),
        false => ("completed", Value::Null),
    };
    let whole = frame.response(status, json!(output), tokens.of_response());
    let whole = with(whole, "incomplete_details", incomplete);
    if !fields::flag(fields, "stream")? {
        return Ok(Content::Json(whole));
    }
    let mut events = Events::default();
    let begun = frame.response("in_progress", json!([]), Value::Null);
    events.push("response.created", json!({"response": begun}));
    events.push("response.in_progress", json!({"response": begun}));
    for (index, item) in output.into_iter().enumerate() {
        events.item(index, item);
    }
    let last = if reply.truncated { "response.incomplete" } else { "response.completed" };
    events.push(last, json!({"response": whole}));
    Ok(Content::Events(events.events))
}

fn read<'a>(fields: &'a Fields, model: &'a str) -> Result<Question<'a>, Refusal> {
    let mut question = Question {
        model,
        tools: tools(fields)?,
        format: format(fields)?,
        max_tokens: fields::whole(fields, "max_output_tokens", 1..=u64::MAX)?,
        ..Question::default()
    };
    question.choice = choice(fields, &question.tools)?;
    for extra in ["instructions", "tools"] {
        if let Some(value) = fields.get(extra).filter(|value| !value.is_null()) {
            question.prompt_tokens += words::count(value.as_str().unwrap_or(&value.to_string()));
        }
    }
    match fields.get("input") {
        Some(Value::String(text)) => {
            question.prompt_tokens += words::count(text);
            question.user_text.clone_from(text);
        }
        Some(Value::Array(items)) if !items.is_empty() && items.len() <= ITEMS_LIMIT => {
            items.iter().try_for_each(|item| read_item(&mut question, item))?;
        }
        _ => return Err(Refusal::invalid("input", "`input` is a text or a list of at least one item")),
    }
    Ok(question)
}

fn read_item(question: &mut Question<'_>, item: &Value) -> Result<(), Refusal> {
    if !item.is_object() {
        return Err(Refusal::invalid("input", "an item of `input` is an object"));
    }
    question.tool_result = None;
    if matches!(item.get("type").and_then(Value::as_str), Some("function_call_output" | "custom_tool_call_output")) {
        let output = item.get("output").map(|output| output.as_str().map_or_else(|| output.to_string(), str::to_owned));
        let output = output.unwrap_or_default();
        question.prompt_tokens += words::count(&output);
        question.tool_result = Some(output);
        return Ok(());
    }
    let mut text = String::new();
    match item.get("content") {
        Some(Value::String(content)) => text.clone_from(content),
        Some(Value::Array(parts)) => {
            for part in parts {
                match part.get("text").and_then(Value::as_str) {
                    Some(words) => text.push_str(words),
                    None => question.prompt_tokens += OTHER_TOKENS,
                }
            }
        }
        // Calls of tools, reasoning and other items have no content of their own.
        _ => question.prompt_tokens += words::count(&item.to_string()),
    }
    question.prompt_tokens += words::count(&text);
    if item.get("role").and_then(Value::as_str) == Some("user") {
        question.user_text = text;
    }
    Ok(())
}

/// The functions and custom tools; tools that OpenAI runs itself are not there to be called.
fn tools(fields: &Fields) -> Result<Vec<Tool<'_>>, Refusal> {
    let mut tools = Vec::new();
    for tool in fields::list(fields, "tools", TOOLS_LIMIT)? {
        let kind = tool.get("type").and_then(Value::as_str);
        let parameters = match kind {
            Some("function") => Some(tool.get("parameters").unwrap_or(&Value::Null)),
            Some("custom") => None,
            Some(_) => continue,
            None => return Err(Refusal::invalid("tools", "a tool has a type")),
        };
        let Some(name) = fields::tool_name(tool) else {
            return Err(Refusal::invalid("tools", "a tool to be called has a name of 1 to 256 bytes"));
        };
        tools.push(Tool { name, parameters });
    }
    Ok(tools)
}

fn choice<'a>(fields: &'a Fields, tools: &[Tool<'_>]) -> Result<Choice<'a>, Refusal> {
    let choice = match fields.get("tool_choice") {
        Some(Value::String(word)) if word == "none" => Choice::None,
        Some(Value::String(word)) if word == "required" => Choice::Required,
        Some(Value::Object(choice)) => match choice.get("name").and_then(Value::as_str) {
            Some(name) => Choice::Named(name),
            None => Choice::Auto,
        },
        _ => Choice::Auto,
    };
    match choice {
        Choice::Named(name) if !tools.iter().any(|tool| tool.name == name) => {
            Err(Refusal::invalid("tool_choice", "`tool_choice` names a tool that is not offered"))
        }
        choice => Ok(choice),
    }
}

fn format(fields: &Fields) -> Result<Format<'_>, Refusal> {
    let Some(format) = fields.get("text").and_then(|text| text.get("format")) else { return Ok(Format::Text) };
    match (format.get("type").and_then(Value::as_str), format.get("schema")) {
        (Some("text"), _) => Ok(Format::Text),
        (Some("json_object"), _) => Ok(Format::Json),
        (Some("json_schema"), Some(schema)) => Ok(Format::Schema(schema)),
        _ => {
            Err(Refusal::invalid("text", "the type of `text.format` is text, json_object or json_schema with a schema"))
        }
    }
}

/// The items of an answer: reasoning, if there was any, then what is said.
fn output(reply: &Reply) -> Vec<Value> {
    let mut items = Vec::new();
    if reply.reasoning_tokens > 0 {
        items.push(json!({"type": "reasoning", "id": words::unique("rs_"), "summary": []}));
    }
    let status = if reply.truncated { "incomplete" } else { "completed" };
    items.push(match &reply.say {
        Say::Text(text) => json!({
            "type": "message",
            "id": words::unique("msg_"),
            "status": status,
            "role": "assistant",
            "content": [text_part(text)],
        }),
        Say::Call { name, arguments, custom: false } => json!({
            "type": "function_call",
            "id": words::unique("fc_"),
            "call_id": words::unique("call_"),
            "status": status,
            "name": name,
            "arguments": arguments,
        }),
        Say::Call { name, arguments, custom: true } => json!({
            "type": "custom_tool_call",
            "id": words::unique("ctc_"),
            "call_id": words::unique("call_"),
            "name": name,
            "input": arguments,
        }),
    });
    items
}

fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

/// What a response repeats of its request.
struct Frame<'a> {
    fields: &'a Fields,
    model: &'a str,
    id: String,
    created: i64,
}

impl Frame<'_> {
    fn response(&self, status: &str, output: Value, usage: Value) -> Value {
        let given = |name: &str, default: Value| {
            self.fields.get(name).filter(|value| !value.is_null()).cloned().unwrap_or(default)
        };
        json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": false,
            "error": null,
            "incomplete_details": null,
            "instructions": given("instructions", Value::Null),
            "max_output_tokens": given("max_output_tokens", Value::Null),
            "metadata": given("metadata", json!({})),
            "model": self.model,
            "output": output,
            "parallel_tool_calls": given("parallel_tool_calls", json!(true)),
            "previous_response_id": given("previous_response_id", Value::Null),
            "reasoning": given("reasoning", json!({"effort": null, "summary": null})),
            "service_tier": "default",
            "store": false,
            "temperature": given("temperature", json!(1.0)),
            "text": given("text", json!({"format": {"type": "text"}})),
            "tool_choice": given("tool_choice", json!("auto")),
            "tools": given("tools", json!([])),
            "top_p": given("top_p", json!(1.0)),
            "truncation": given("truncation", json!("disabled")),
            "usage": usage,
            "user": given("user", Value::Null),
        })
    }
}

/// The events of a stream, numbered from 0.
#[derive(Default)]
struct Events {
    events: Vec<Bytes>,
}

impl Events {
    fn push(&mut self, name: &str, data: Value) {
        let data = with(data, "type", json!(name));
        let data = with(data, "sequence_number", json!(self.events.len()));
        self.events.push(named_event(name, &data));
    }

    /// An item: added while empty, its parts piece by piece, done when whole.
    fn item(&mut self, index: usize, item: Value) {
        let id = item.get("id").cloned().unwrap_or_default();
        let text_of = |name: &str| item.get(name).and_then(Value::as_str).map(str::to_owned);
        let said = item.pointer("/content/0/text").and_then(Value::as_str).map(str::to_owned);
        self.push("response.output_item.added", json!({"output_index": index, "item": begun(&item)}));
        if let Some(text) = said {
            let place = json!({"item_id": id, "output_index": index, "content_index": 0});
            self.text(&place, &text);
        } else if let Some(arguments) = text_of("arguments") {
            let place = json!({"item_id": id, "output_index": index});
            self.pieces("response.function_call_arguments", "arguments", &place, &arguments);
        } else if let Some(input) = text_of("input") {
            let place = json!({"item_id": id, "output_index": index});
            self.pieces("response.custom_tool_call_input", "input", &place, &input);
        }
        self.push("response.output_item.done", json!({"output_index": index, "item": item}));
    }

    fn text(&mut self, place: &Value, text: &str) {
        self.push("response.content_part.added", joined(place, json!({"part": text_part("")})));
        for token in words::tokens(text) {
            self.push("response.output_text.delta", joined(place, json!({"delta": token, "logprobs": []})));
        }
        self.push("response.output_text.done", joined(place, json!({"text": text, "logprobs": []})));
        self.push("response.content_part.done", joined(place, json!({"part": text_part(text)})));
    }

    fn pieces(&mut self, name: &str, field: &str, place: &Value, text: &str) {
        for piece in words::tokens(text) {
            self.push(&format!("{name}.delta"), joined(place, json!({"delta": piece})));
        }
        self.push(&format!("{name}.done"), joined(place, json!({field: text})));
    }
}

/// An item as it is when it begins: in progress and empty.
fn begun(item: &Value) -> Value {
    let mut item = item.clone();
    for (name, empty) in
        [("content", json!([])), ("arguments", json!("")), ("input", json!("")), ("status", json!("in_progress"))]
    {
        if let Some(value) = item.get_mut(name) {
            *value = empty;
        }
    }
    item
}

fn joined(place: &Value, more: Value) -> Value {
    let fields = [place, &more].into_iter().filter_map(Value::as_object).flatten();
    Value::Object(fields.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>())
}
