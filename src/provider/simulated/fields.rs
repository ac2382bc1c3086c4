//! Reading the fields of a request, with the refusals that OpenAI's API gives for wrong ones.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::provider::simulated::wire::Refusal;

/// The longest name of a tool.
const NAME_LIMIT_BYTES: usize = 256;

/// The fields of a request.
pub(super) type Fields = Map<String, Value>;

/// A field that is true or false; left out or null, it is false.
pub(super) fn flag(fields: &Fields, name: &'static str) -> Result<bool, Refusal> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(Refusal::invalid(name, format!("`{name}` is true or false"))),
    }
}

/// A field that is a whole number in a range; `None` if left out or null.
pub(super) fn whole(fields: &Fields, name: &'static str, range: RangeInclusive<u64>) -> Result<Option<u64>, Refusal> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_u64().filter(|number| range.contains(number)).map(Some).ok_or_else(|| {
            let (from, to) = (range.start(), range.end());
            Refusal::invalid(name, format!("`{name}` is a whole number from {from} to {to}"))
        }),
    }
}

/// A field that is a number in a range, and is only checked.
pub(super) fn check_number(fields: &Fields, name: &'static str, range: RangeInclusive<f64>) -> Result<(), Refusal> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(()),
        Some(value) if value.as_f64().is_some_and(|number| range.contains(&number)) => Ok(()),
        Some(_) => {
            let (from, to) = (range.start(), range.end());
            Err(Refusal::invalid(name, format!("`{name}` is a number from {from} to {to}")))
        }
    }
}

/// A field that is a list of at most `limit` values; empty if left out or null.
pub(super) fn list<'a>(fields: &'a Fields, name: &'static str, limit: usize) -> Result<&'a [Value], Refusal> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) if items.len() <= limit => Ok(items),
        Some(_) => Err(Refusal::invalid(name, format!("`{name}` is a list of at most {limit} values"))),
    }
}

/// The name of a tool: not empty, and short, since answers repeat it.
pub(super) fn tool_name(tool: &Value) -> Option<&str> {
    tool.get("name")?.as_str().filter(|name| (1..=NAME_LIMIT_BYTES).contains(&name.len()))
}

/// The texts at which an answer stops: one, or a list of at most four.
pub(super) fn stops(fields: &Fields) -> Result<Vec<&str>, Refusal> {
    let wrong = || Refusal::invalid("stop", "`stop` is a text or a list of at most 4 texts");
    match fields.get("stop") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(stop)) => Ok(vec![stop]),
        Some(Value::Array(stops)) if stops.len() <= 4 => {
            stops.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(wrong)
        }
        Some(_) => Err(wrong()),
    }
}
