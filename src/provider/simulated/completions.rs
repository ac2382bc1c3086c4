//! `POST /v1/completions`, plain and streamed.
//!
//! Source: OpenAI API reference, "Completions" (legacy).

use bytes::Bytes;
use serde_json::{Value, json};

use crate::provider::simulated::chat::{FINGERPRINT, include_usage};
use crate::provider::simulated::fields::{self, Fields};
use crate::provider::simulated::reply::{Question, Reply, Say, Tokens, compose};
use crate::provider::simulated::wire::{Content, Refusal, done, event, with};
use crate::provider::simulated::words;
use crate::unit::clock::Timestamp;

/// The most prompts, and the most answers to each.
const PROMPTS_LIMIT: usize = 128;
const ANSWERS_LIMIT: u64 = 16;

/// The most bytes of all prompts that are repeated.
const ECHO_LIMIT_BYTES: usize = 64 * 1024;

/// The most tokens of an answer that names no number, as at OpenAI.
const DEFAULT_TOKENS: u64 = 16;

/// Continues each prompt.
pub(super) fn answer(fields: &Fields, model: &str) -> Result<Content, Refusal> {
    let number = fields::whole(fields, "n", 1..=ANSWERS_LIMIT)?.unwrap_or(1);
    let max_tokens = fields::whole(fields, "max_tokens", 0..=u64::MAX)?.unwrap_or(DEFAULT_TOKENS);
    let echo = fields::flag(fields, "echo")?;
    let stops = fields::stops(fields)?;
    let prompts = prompts(fields)?;
    if echo && prompts.iter().map(|(prompt, _)| prompt.len()).sum::<usize>() > ECHO_LIMIT_BYTES {
        return Err(Refusal::invalid("echo", format!("prompts of more than {ECHO_LIMIT_BYTES} bytes are not echoed")));
    }
    let mut texts = Vec::new();
    let mut tokens = Tokens::default();
    for (prompt, prompt_tokens) in prompts {
        let question = Question {
            model,
            user_text: prompt,
            prompt_tokens,
            max_tokens: Some(max_tokens),
            stops: stops.clone(),
            ..Question::default()
        };
        let replies: Vec<Reply> = (0..number).map(|variant| compose(&question, variant)).collect();
        let spent = Tokens::of(&question, &replies);
        tokens.prompt += spent.prompt;
        tokens.completion += spent.completion;
        tokens.reasoning += spent.reasoning;
        let before = if echo { question.user_text.as_str() } else { "" };
        texts.extend(replies.into_iter().map(|reply| Continuation::of(before, reply)));
    }
    let stream = fields::flag(fields, "stream")?;
    let include_usage = include_usage(fields, stream)?;
    let frame = json!({
        "id": words::unique("cmpl-"),
        "object": "text_completion",
        "created": Timestamp::now().seconds(),
        "model": model,
        "system_fingerprint": FINGERPRINT,
    });
    Ok(match stream {
        true => Content::Events(chunks(&frame, &texts, include_usage.then_some(tokens))),
        false => Content::Json(completion(frame, &texts, tokens)),
    })
}

/// The text of each prompt and its tokens.
fn prompts(fields: &Fields) -> Result<Vec<(String, u64)>, Refusal> {
    let wrong = || {
        Refusal::invalid(
            "prompt",
            format!("`prompt` is a text, a list of token ids, or up to {PROMPTS_LIMIT} of those"),
        )
    };
    let of_text = |text: &str| (text.to_owned(), words::count(text));
    // Ids of tokens mean nothing here: they are counted and named.
    let of_ids = |ids: &[Value]| {
        let all = !ids.is_empty() && ids.iter().all(Value::is_u64);
        all.then(|| (format!("{} token ids", ids.len()), ids.len() as u64))
    };
    match fields.get("prompt") {
        Some(Value::String(text)) => Ok(vec![of_text(text)]),
        Some(Value::Array(items)) if items.first().is_some_and(Value::is_u64) => {
            of_ids(items).map(|prompt| vec![prompt]).ok_or_else(wrong)
        }
        Some(Value::Array(items)) if !items.is_empty() && items.len() <= PROMPTS_LIMIT => {
            let one = |item: &Value| match item {
                Value::String(text) => Some(of_text(text)),
                Value::Array(ids) => of_ids(ids),
                _ => None,
            };
            items.iter().map(one).collect::<Option<_>>().ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

struct Continuation {
    text: String,
    finish_reason: &'static str,
}

impl Continuation {
    fn of(before: &str, reply: Reply) -> Self {
        let text = match reply.say {
            Say::Text(text) => text,
            Say::Call { arguments, .. } => arguments,
        };
        Self { text: format!("{before}{text}"), finish_reason: if reply.truncated { "length" } else { "stop" } }
    }
}

fn completion(frame: Value, texts: &[Continuation], tokens: Tokens) -> Value {
    let choice = |(index, continuation): (usize, &Continuation)| {
        json!({
            "index": index,
            "text": continuation.text,
            "logprobs": null,
            "finish_reason": continuation.finish_reason,
        })
    };
    let choices = texts.iter().enumerate().map(choice).collect();
    with(with(frame, "choices", choices), "usage", tokens.of_completion())
}

fn chunks(frame: &Value, texts: &[Continuation], usage: Option<Tokens>) -> Vec<Bytes> {
    let chunk = |choices: Value, usage: Option<Value>| {
        let chunk = with(frame.clone(), "choices", choices);
        event(&match usage {
            Some(usage) => with(chunk, "usage", usage),
            None => chunk,
        })
    };
    let mut chunks = Vec::new();
    for (index, continuation) in texts.iter().enumerate() {
        let choice = |text: &str, finish_reason: Value| json!([{"index": index, "text": text, "logprobs": null, "finish_reason": finish_reason}]);
        for token in words::tokens(&continuation.text) {
            chunks.push(chunk(choice(token, Value::Null), usage.map(|_| Value::Null)));
        }
        chunks.push(chunk(choice("", json!(continuation.finish_reason)), usage.map(|_| Value::Null)));
    }
    chunks.extend(usage.map(|tokens| chunk(json!([]), Some(tokens.of_completion()))));
    chunks.push(done());
    chunks
}
