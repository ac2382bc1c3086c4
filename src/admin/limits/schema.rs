//! The schemas of what makes and changes a limit, which derived ones could not say: words, bounds, and money as text.

use serde_json::{Map, Value, json};

use crate::admin::shape::PLAIN;
use crate::budget::check::{MOST_MODELS, MOST_THRESHOLDS, MOST_TOKENS, MOST_USD};
use crate::budget::draft::{DEEDS, MAX_SUBJECT_CHARS, SCOPES, SPANS, UNITS};
use crate::unit::glob::Glob;

/// A text that is not only white space, without control characters.
const TEXT: &str = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$";

fn words<T: Copy>(words: &[(&'static str, T)], description: &str) -> Value {
    let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    json!({ "type": "string", "enum": words, "description": description })
}

fn or_null(mut schema: Value) -> Value {
    if let Some(kind) = schema.get_mut("type") {
        *kind = json!([kind.take(), "null"]);
    }
    schema
}

fn dollars(description: &str) -> Value {
    json!({
        "type": "string", "pattern": r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,9})?$", "description": description,
    })
}

fn count(least: i64, description: &str) -> Value {
    json!({ "type": "integer", "minimum": least, "maximum": MOST_TOKENS, "description": description })
}

/// The fields that a patch may name, too.
fn changeable() -> Map<String, Value> {
    let pattern = json!({ "type": "string", "minLength": 1, "maxLength": Glob::MAX_CHARS, "pattern": PLAIN });
    let share = json!({ "type": "integer", "minimum": 1, "maximum": 100 });
    let fields = json!({
        "name": {
            "type": "string", "minLength": 1, "maxLength": 128, "pattern": TEXT, "description": "A name for people.",
        },
        "models": {
            "type": "array", "items": pattern, "maxItems": MOST_MODELS,
            "description": "Only for models of these patterns, as callers name them; empty is all.",
        },
        "amount": count(0, "The amount, for other units than `usd`."),
        "amount_usd": dollars("The amount in dollars, as decimal text; for the unit `usd`."),
        "amount_nano_usd": {
            "type": "integer", "minimum": 0, "maximum": MOST_USD,
            "description": "The amount in nano-dollars, instead of `amount_usd`.",
        },
        "action": words(DEEDS, "What happens when a call does not fit."),
        "downgrade_to": {
            "type": ["string", "null"], "minLength": 1, "maxLength": Glob::MAX_CHARS, "pattern": PLAIN,
            "description": "The model that is asked for instead; of `downgrade` only.",
        },
        "downgrade_below_percent": {
            "type": ["integer", "null"], "minimum": 1, "maximum": 99,
            "description": "The share of the amount that must be left for the model that was asked for; of `downgrade` only.",
        },
        "warn_at_percent": {
            "type": "array", "items": share, "maxItems": MOST_THRESHOLDS,
            "description": "The shares of the amount at which operators are told.",
        },
        "enabled": { "type": "boolean", "description": "Whether it is in force." },
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// The schema of a new limit.
pub fn create_schema() -> Value {
    let mut fields = changeable();
    for field in ["name", "amount", "amount_usd", "amount_nano_usd", "action"] {
        if let Some(schema) = fields.get_mut(field) {
            // Left out or null: null says the same.
            *schema = match schema.get("enum") {
                Some(_) => json!({ "anyOf": [schema.take(), { "type": "null" }] }),
                None => or_null(schema.take()),
            };
        }
    }
    fields.extend([
        ("scope".to_owned(), words(SCOPES, "Whose consumption.")),
        (
            "subject".to_owned(),
            json!({
                "type": ["string", "null"], "minLength": 1, "maxLength": MAX_SUBJECT_CHARS, "pattern": TEXT,
                "description": "Whose exactly: a name, a key's id, a pattern of models, a label as `name:value` or a tag. Left \
                                out, each one by itself.",
            }),
        ),
        ("unit".to_owned(), words(UNITS, "What it counts.")),
        (
            "window".to_owned(),
            words(SPANS, "The span of time. `minute` slides, or flows in evenly with a burst; `now` is for `concurrent`."),
        ),
        (
            "timezone".to_owned(),
            json!({
                "type": ["string", "null"], "minLength": 1, "maxLength": 64, "examples": ["UTC", "Europe/Berlin"],
                "description": "The time zone of a day or a month, as an IANA name; UTC when left out.",
            }),
        ),
        ("burst".to_owned(), or_null(count(1, "The most at once, of a minute that flows in evenly; 1 is strict spacing."))),
        ("burst_usd".to_owned(), or_null(dollars("The same in dollars, for the unit `usd`."))),
    ]);
    json!({
        "type": "object", "description": "A new limit. An amount is given in one of its three forms.",
        "additionalProperties": false, "required": ["scope", "unit", "window"], "properties": fields,
    })
}

/// The schema of a change.
pub fn patch_schema() -> Value {
    json!({
        "type": "object",
        "description": "What to change about a limit. What is left out stays; null removes. What it counts – scope, subject, unit \
                        and window – stays: that is another limit.",
        "additionalProperties": false, "properties": changeable(),
    })
}
