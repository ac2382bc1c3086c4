//! A value that satisfies a JSON schema, for tool arguments and structured answers.
//!
//! It understands what tool definitions and structured outputs use: types, properties, required, items, enum, const, default,
//! examples, the bounds of numbers, lengths and lists, the common formats, `$ref` within the schema, anyOf, oneOf, allOf.
//! Patterns, `not` and conditions are not heeded. The value is bounded, whatever the schema asks for.
//! Source: JSON Schema 2020-12, "Validation".

use serde_json::{Map, Value, json};

/// The largest schema that is followed, in bytes of JSON; a larger one gets an empty object.
const SCHEMA_LIMIT_BYTES: usize = 128 * 1024;

/// The most values that are made for one schema.
const VALUES_LIMIT: usize = 500;

/// A value that the schema itself holds counts as one value for each so many bytes.
const BYTES_A_VALUE: usize = 64;

/// The deepest nesting.
const DEPTH_LIMIT: usize = 16;

/// The longest text and the longest list that a minimum can ask for.
const LENGTH_LIMIT: u64 = 256;

/// Makes a value. `text` is what the user wrote: a choice of an enum that it names is taken, and the last name in it fills
/// texts.
pub(super) fn example(schema: &Value, text: &str) -> Value {
    if schema.to_string().len() > SCHEMA_LIMIT_BYTES {
        return json!({});
    }
    Maker { root: schema, text, subject: subject(text), left: VALUES_LIMIT }.make(schema, "value", 0)
}

struct Maker<'a> {
    root: &'a Value,
    text: &'a str,
    subject: Option<&'a str>,
    left: usize,
}

impl<'a> Maker<'a> {
    fn make(&mut self, schema: &Value, name: &str, depth: usize) -> Value {
        if self.left == 0 || depth > DEPTH_LIMIT {
            return Value::Null;
        }
        self.left -= 1;
        if let Some(value) = self.given(schema) {
            self.left = self.left.saturating_sub(value.to_string().len() / BYTES_A_VALUE);
            return value;
        }
        if let Some(target) = self.referenced(schema) {
            return self.make(target, name, depth + 1);
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(choice) = schema.get(key).and_then(Value::as_array).and_then(|choices| choices.first()) {
                return self.make(&merged([schema, choice]), name, depth + 1);
            }
        }
        if let Some(parts) = schema.get("allOf").and_then(Value::as_array) {
            let parts = parts.iter().map(|part| self.referenced(part).unwrap_or(part));
            return self.make(&merged(std::iter::once(schema).chain(parts)), name, depth + 1);
        }
        match kind(schema) {
            "object" => self.object(schema, depth),
            "array" => self.array(schema, name, depth),
            "integer" => integer(schema),
            "number" => number(schema),
            "boolean" => Value::Bool(true),
            "null" => Value::Null,
            _ => Value::String(self.string(schema, name)),
        }
    }

    /// A value that the schema itself holds.
    fn given(&self, schema: &Value) -> Option<Value> {
        if let Some(value) = schema.get("const") {
            return Some(value.clone());
        }
        if let Some(choices) = schema.get("enum").and_then(Value::as_array) {
            let lower = self.text.to_lowercase();
            let named = |choice: &&Value| {
                choice.as_str().is_some_and(|choice| !choice.is_empty() && lower.contains(&choice.to_lowercase()))
            };
            return choices.iter().find(named).or(choices.first()).cloned();
        }
        let example = schema.get("examples").and_then(Value::as_array).and_then(|examples| examples.first());
        schema.get("default").filter(|value| !value.is_null()).or(example).cloned()
    }

    /// What a schema refers to, within the whole.
    fn referenced(&self, schema: &Value) -> Option<&'a Value> {
        self.root.pointer(schema.get("$ref")?.as_str()?.strip_prefix('#')?)
    }

    /// The required properties, or all of them if none is.
    fn object(&mut self, schema: &Value, depth: usize) -> Value {
        let mut object = Map::new();
        let required: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, property) in properties.into_iter().flatten() {
            if required.is_empty() || required.contains(&name.as_str()) {
                object.insert(name.clone(), self.make(property, name, depth + 1));
            }
        }
        for name in required {
            if !object.contains_key(name) && self.left > 0 {
                self.left -= 1;
                object.insert(name.to_owned(), json!(name));
            }
        }
        Value::Object(object)
    }

    fn array(&mut self, schema: &Value, name: &str, depth: usize) -> Value {
        let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(1);
        let most = schema.get("maxItems").and_then(Value::as_u64).unwrap_or(LENGTH_LIMIT);
        let prefix = schema.get("prefixItems").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let any = json!({"type": "string"});
        let rest = schema.get("items").filter(|items| items.is_object()).unwrap_or(&any);
        let length = least.max(prefix.len() as u64).min(most).min(LENGTH_LIMIT);
        let item = |index: u64| usize::try_from(index).ok().and_then(|index| prefix.get(index)).unwrap_or(rest);
        (0..length).map(|index| self.make(item(index), name, depth + 1)).collect()
    }

    fn string(&self, schema: &Value, name: &str) -> String {
        let formatted = match schema.get("format").and_then(Value::as_str) {
            Some("date") => "2026-01-31",
            Some("date-time") => "2026-01-31T12:00:00Z",
            Some("time") => "12:00:00Z",
            Some("duration") => "PT1H",
            Some("email") => "someone@example.com",
            Some("hostname") => "example.com",
            Some("uri" | "url") => "https://example.com/",
            Some("uuid") => "00000000-0000-4000-8000-000000000000",
            Some("ipv4") => "192.0.2.1",
            Some("ipv6") => "2001:db8::1",
            _ => "",
        };
        if !formatted.is_empty() {
            return formatted.to_owned();
        }
        let mut text = self.subject.unwrap_or(name).to_owned();
        let least = schema.get("minLength").and_then(Value::as_u64).unwrap_or(0).min(LENGTH_LIMIT);
        while (text.chars().count() as u64) < least {
            text.push('.');
        }
        match schema.get("maxLength").and_then(Value::as_u64).and_then(|most| usize::try_from(most).ok()) {
            Some(most) => text.chars().take(most).collect(),
            None => text,
        }
    }
}

/// The type of a schema: the first that is not null, or what its other keys imply.
fn kind(schema: &Value) -> &str {
    match schema.get("type") {
        Some(Value::String(kind)) => kind,
        Some(Value::Array(kinds)) => {
            let mut kinds = kinds.iter().filter_map(Value::as_str);
            kinds.find(|kind| *kind != "null").unwrap_or("null")
        }
        _ if schema.get("properties").is_some() => "object",
        _ if schema.get("items").is_some() => "array",
        _ => "string",
    }
}

/// One schema of several: later keys win, properties and required ones are joined. The choices themselves are left out.
fn merged<'a>(schemas: impl IntoIterator<Item = &'a Value>) -> Value {
    let mut whole = Map::new();
    for (key, value) in schemas.into_iter().filter_map(Value::as_object).flatten() {
        match (key.as_str(), whole.get_mut(key), value) {
            ("anyOf" | "oneOf" | "allOf", ..) => {}
            ("properties", Some(Value::Object(known)), Value::Object(more)) => known.extend(more.clone()),
            ("required", Some(Value::Array(known)), Value::Array(more)) => known.extend(more.iter().cloned()),
            _ => {
                whole.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(whole)
}

fn integer(schema: &Value) -> Value {
    let bound = |key: &str| schema.get(key).and_then(Value::as_i64);
    let least = bound("minimum").or(bound("exclusiveMinimum").map(|bound| bound.saturating_add(1)));
    let most = bound("maximum").or(bound("exclusiveMaximum").map(|bound| bound.saturating_sub(1)));
    let step = bound("multipleOf").filter(|step| *step > 0).unwrap_or(1);
    let wished = least.unwrap_or_else(|| most.map_or(1, |most| most.min(1)));
    let rest = wished.rem_euclid(step);
    json!(if rest == 0 { wished } else { wished.saturating_add(step - rest) })
}

fn number(schema: &Value) -> Value {
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
    let least = bound("minimum").or(bound("exclusiveMinimum").map(|bound| bound + 0.5));
    let most = bound("maximum").or(bound("exclusiveMaximum").map(|bound| bound - 0.5));
    match (least, most) {
        (Some(least), Some(most)) => json!(f64::midpoint(least, most)),
        (Some(bound), None) | (None, Some(bound)) => json!(bound),
        (None, None) => json!(1.5),
    }
}

/// What a text is about: its last capitalised word that does not begin it.
fn subject(text: &str) -> Option<&str> {
    let bare = |word: &'_ str| -> bool { word.chars().next().is_some_and(char::is_uppercase) && word.len() <= 64 };
    text.split_whitespace()
        .skip(1)
        .map(|word| word.trim_matches(|character: char| !character.is_alphanumeric()))
        .filter(|word| bare(word))
        .last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_that_asks_for_too_much_gets_a_bounded_value() {
        let endless = json!({"$ref": "#"});
        assert_eq!(example(&endless, ""), Value::Null);
        let tree =
            json!({"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}, "c": {"$ref": "#"}}});
        assert!(example(&tree, "").to_string().len() < 40_000);
        let long =
            json!({"type": "array", "minItems": 1_000_000_000, "items": {"type": "string", "minLength": 1_000_000}});
        assert!(example(&long, "").to_string().len() < 100_000);
        let fat = json!({"$defs": {"a": {"const": "x".repeat(100_000)}}, "type": "array", "minItems": 200, "items": {"$ref": "#/$defs/a"}});
        assert!(example(&fat, "").to_string().len() < 300_000);
        let huge = json!({"type": "string", "description": "x".repeat(SCHEMA_LIMIT_BYTES)});
        assert_eq!(example(&huge, ""), json!({}));
        for odd in [json!(true), json!([]), json!("x"), json!({"type": 7}), json!({"anyOf": []}), json!({"enum": []})] {
            example(&odd, "text");
        }
    }

    #[test]
    fn a_value_satisfies_its_schema() {
        let schema = json!({
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 3, "multipleOf": 5},
                "share": {"type": "number", "minimum": 0, "maximum": 1},
                "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "minItems": 2},
                "when": {"type": ["null", "string"], "format": "date"},
                "place": {"allOf": [{"$ref": "#/$defs/place"}, {"properties": {"z": {"const": 7}}, "required": ["z"]}]},
                "either": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
                "optional": {"type": "string"},
            },
            "required": ["city", "unit", "days", "share", "tags", "when", "place", "either", "undescribed"],
            "$defs": {
                "tag": {"type": "string", "maxLength": 3},
                "place": {"type": "object", "properties": {"x": {"type": "integer", "maximum": -4}}, "required": ["x"]},
            },
        });
        let value = example(&schema, "What is the weather in Paris, in Fahrenheit please?");
        assert_eq!(
            value,
            json!({
                "city": "Fahrenheit", "unit": "fahrenheit", "days": 5, "share": 0.5, "tags": ["Fah", "Fah"],
                "when": "2026-01-31", "place": {"x": -4, "z": 7}, "either": true, "undescribed": "undescribed",
            })
        );
        assert_eq!(example(&json!({"type": "string"}), "The weather in Paris?"), json!("Paris"));
    }
}
