//! Takes the usage out of events that Marg asked for and the caller did not.
//!
//! Providers who are asked for usage also write `"usage": null` into every other event, and there are clients that take no null for it
//! if they did not ask.
//!
//! An event with nothing else goes whole. One with something to say of its own, such as `timings` of llama.cpp, goes on byte for
//! byte without its usage. Its list of choices is empty, and callers who did not ask for usage look into every event for a choice;
//! so it gets one that says nothing (`answer::tests::hidden::what_stands_beside_the_usage_is_not_hidden_with_it`).

use std::ops::Range;

use crate::dialect::json::{self, Member};
use crate::dialect::operation::Operation;
use crate::dialect::sse;
use crate::dialect::value::Value;

/// The event as its caller may see it; `None` if nothing is left of it.
///
/// *Cost*: one pass over an event that comes once in a stream.
pub(super) fn usage(operation: Operation, event: &[u8]) -> Option<Vec<u8>> {
    let data = sse::data(event);
    let members = json::members(&data).ok()?;
    let speaks = members.iter().any(|member| {
        let value = data.get(member.value.clone()).map(Value::whole);
        !is_known(&member.key.decode(&data)) && value.is_some_and(says_something)
    });
    if !speaks {
        return None;
    }
    let choice: &[u8] = match operation {
        Operation::Completions => br#"[{"index":0,"text":"","finish_reason":null}]"#,
        _ => br#"[{"index":0,"delta":{},"finish_reason":null}]"#,
    };
    let mut shown = Vec::with_capacity(event.len() + choice.len());
    let mut done = 0;
    for (index, member) in members.iter().enumerate() {
        let (span, text) = match &*member.key.decode(&data) {
            "usage" => (extent(&members, index), &[][..]),
            "choices" if data.get(member.value.start) == Some(&b'[') => (member.value.clone(), choice),
            _ => continue,
        };
        shown.extend_from_slice(data.get(done..span.start).unwrap_or_default());
        shown.extend_from_slice(text);
        done = span.end;
    }
    shown.extend_from_slice(data.get(done..).unwrap_or_default());
    Some(framed(event, &data, &shown))
}

/// The event without a usage that is null; `None` if it has none.
///
/// *Cost*: a search, and one pass over the event if it speaks of usage.
pub(super) fn no_usage(event: &[u8]) -> Option<Vec<u8>> {
    memchr::memmem::find(event, b"\"usage\"")?;
    let data = sse::data(event);
    let members = json::members(&data).ok()?;
    let is_null =
        |member: &Member| data.get(member.value.clone()).map(Value::whole).is_some_and(|value| value.is_null());
    let index = members.iter().position(|member| &*member.key.decode(&data) == "usage" && is_null(member))?;
    let span = extent(&members, index);
    let shown = [data.get(..span.start), data.get(span.end..)].map(Option::unwrap_or_default).concat();
    Some(framed(event, &data, &shown))
}

/// What a member takes up with the comma that goes with it: up to the next one, or, of the last, from the one before.
fn extent(members: &[Member], index: usize) -> Range<usize> {
    let begins = |member: &Member| member.key.start.saturating_sub(1);
    let span = members.get(index).map_or(0..0, |member| begins(member)..member.value.end);
    match (members.get(index + 1), index.checked_sub(1).and_then(|before| members.get(before))) {
        (Some(next), _) => span.start..begins(next),
        (None, Some(before)) => before.value.end..span.end,
        (None, None) => span,
    }
}

/// Whether a member is there in every such event, or means nothing: what frames it, padding against eavesdroppers
/// (`obfuscation` of OpenAI, `p` of Mistral), and Groq's copy of the usage.
fn is_known(name: &str) -> bool {
    matches!(
        name,
        "id" | "object"
            | "created"
            | "model"
            | "choices"
            | "usage"
            | "system_fingerprint"
            | "service_tier"
            | "provider"
            | "x_groq"
            | "obfuscation"
            | "p"
    )
}

fn says_something(value: Value<'_>) -> bool {
    let inside = value.raw().get(1..value.raw().len().saturating_sub(1)).unwrap_or_default();
    match value.raw().first() {
        Some(b'"' | b'[' | b'{') => !inside.trim_ascii().is_empty(),
        _ => !value.is_null(),
    }
}

/// The event with other data: everything around it stays, unless the data was on several lines.
fn framed(event: &[u8], data: &[u8], shown: &[u8]) -> Vec<u8> {
    if let Some(at) = memchr::memmem::find(event, data) {
        let (before, behind) = (event.get(..at), event.get(at + data.len()..));
        return [before.unwrap_or_default(), shown, behind.unwrap_or_default()].concat();
    }
    sse::with_data(event, shown)
}
