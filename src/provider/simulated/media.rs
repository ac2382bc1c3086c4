//! `POST /v1/moderations` and `POST /v1/images/generations`.

use serde_json::{Map, Value, json};

use crate::provider::simulated::fields::{self, Fields};
use crate::provider::simulated::wire::{Content, Refusal};
use crate::provider::simulated::words;
use crate::unit::clock::Timestamp;

/// A text with this word is flagged.
const FLAG: &str = "flag-me";

/// The categories of OpenAI's moderation (API reference, "Moderations").
const CATEGORIES: [&str; 13] = [
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
];

/// The most inputs that are moderated at once.
const INPUTS_LIMIT: usize = 2_048;

/// The most images that are drawn at once.
const IMAGES_LIMIT: u64 = 10;

/// A PNG of one grey pixel, in base 64.
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCB2kUIOwAAAABJRU5ErkJggg==";

/// Flags the texts that hold the word `flag-me`, for harassment.
pub(super) fn moderate(fields: &Fields, model: &str) -> Result<Content, Refusal> {
    let texts: Vec<&str> = match fields.get("input") {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(items)) if !items.is_empty() && items.len() <= INPUTS_LIMIT => {
            items.iter().map(text_of).collect::<Option<_>>().ok_or_else(wrong_input)?
        }
        _ => return Err(wrong_input()),
    };
    let results: Vec<Value> = texts.into_iter().map(judge).collect();
    Ok(Content::Json(json!({"id": words::unique("modr-"), "model": model, "results": results})))
}

/// A text, or a part of which only the text is looked at.
fn text_of(item: &Value) -> Option<&str> {
    match item {
        Value::String(text) => Some(text),
        Value::Object(part) => Some(part.get("text").and_then(Value::as_str).unwrap_or_default()),
        _ => None,
    }
}

fn wrong_input() -> Refusal {
    Refusal::invalid("input", format!("`input` is a text or a list of 1 to {INPUTS_LIMIT} texts"))
}

fn judge(text: &str) -> Value {
    let flagged = text.contains(FLAG);
    let is_it = |category: &str| flagged && category == "harassment";
    let each = |value: fn(bool) -> Value| -> Map<String, Value> {
        CATEGORIES.iter().map(|category| ((*category).to_owned(), value(is_it(category)))).collect()
    };
    json!({
        "flagged": flagged,
        "categories": each(Value::Bool),
        "category_scores": each(|yes| json!(if yes { 0.99 } else { 0.000_1 })),
        "category_applied_input_types": each(|_| json!(["text"])),
    })
}

/// Draws one grey pixel, as often as asked.
pub(super) fn draw(fields: &Fields, _model: &str) -> Result<Content, Refusal> {
    let Some(prompt) = fields.get("prompt").and_then(Value::as_str).filter(|prompt| !prompt.is_empty()) else {
        return Err(Refusal::invalid("prompt", "`prompt` is a text that is not empty"));
    };
    let number = fields::whole(fields, "n", 1..=IMAGES_LIMIT)?.unwrap_or(1);
    if fields::flag(fields, "stream")? {
        return Err(Refusal::invalid("stream", "the simulated provider does not stream images"));
    }
    let image = match fields.get("response_format").and_then(Value::as_str) {
        Some("url") => json!({"url": format!("data:image/png;base64,{PIXEL}")}),
        _ => json!({"b64_json": PIXEL}),
    };
    let data: Vec<Value> = (0..number).map(|_| image.clone()).collect();
    let input = words::count(prompt);
    Ok(Content::Json(json!({
        "created": Timestamp::now().seconds(),
        "background": "opaque",
        "output_format": "png",
        "quality": "low",
        "size": "1024x1024",
        "data": data,
        "usage": {
            "input_tokens": input,
            "input_tokens_details": {"text_tokens": input, "image_tokens": 0},
            "output_tokens": number,
            "total_tokens": input + number,
        },
    })))
}
