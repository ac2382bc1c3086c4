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

/// What is at a path, if it is one of these two. A slash is part of an id, as in `openai/gpt-4o`.
pub(super) fn find(path: &str) -> Option<Value> {
    match path.strip_prefix("/models")? {
        "" => Some(json!({"object": "list", "data": NAMES.map(model)})),
        rest => rest.strip_prefix('/').filter(|id| !id.is_empty()).map(model),
    }
}

fn model(id: &str) -> Value {
    json!({"id": id, "object": "model", "created": CREATED, "owned_by": "marg-simulated"})
}
