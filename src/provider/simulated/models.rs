//! `GET /v1/models` and `GET /v1/models/{id}`.

use serde_json::{Value, json};

/// The names that mean something; every other name is answered too.
pub const NAMES: [&str; 10] = [
    "sim-small",
    "sim-large",
    "sim-reasoner",
    "sim-fast",
    "sim-slow",
    "sim-cut",
    "sim-stall",
    "sim-error-429",
    "sim-error-500",
    "sim-error-503",
];

/// When the models were made: 2026-01-01T00:00:00Z.
const CREATED: u64 = 1_767_225_600;

/// What is at a path, if it is one of these two. A slash is part of an id, as in `openai/gpt-4o`, plain or as `%2F`.
pub(super) fn find(path: &str) -> Option<Value> {
    match path.strip_prefix("/models")? {
        "" => Some(json!({"object": "list", "data": NAMES.map(model)})),
        rest => rest.strip_prefix('/').filter(|id| !id.is_empty()).map(|id| model(&decoded(id))),
    }
}

fn model(id: &str) -> Value {
    json!({"id": id, "object": "model", "created": CREATED, "owned_by": "marg-simulated"})
}

/// A path with its percent-encoded bytes (RFC 3986 section 2.1) decoded; what is no such byte stays as it is.
fn decoded(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hexadecimal = after.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match hexadecimal.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_may_hold_encoded_characters_and_stray_percent_signs() {
        let id = |path: &str| find(path).and_then(|model| model["id"].as_str().map(str::to_owned));
        assert_eq!(id("/models/"), None);
        assert_eq!(id("/models/openai%2Fgpt-4o").as_deref(), Some("openai/gpt-4o"));
        assert_eq!(id("/models/openai/gpt-4o").as_deref(), Some("openai/gpt-4o"));
        assert_eq!(id("/models/100%").as_deref(), Some("100%"));
        assert_eq!(id("/models/%zz%4").as_deref(), Some("%zz%4"));
        assert_eq!(id("/models/%ff").as_deref(), Some("\u{fffd}"));
    }
}
