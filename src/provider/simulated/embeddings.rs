//! `POST /v1/embeddings`: unit vectors made from a hash of the input, so the same input has the same vector.
//!
//! Source: OpenAI API reference, "Embeddings". Vectors of different inputs are as good as orthogonal: they say nothing about
//! meaning.

use serde_json::{Value, json};

use crate::provider::simulated::fields::{self, Fields};
use crate::provider::simulated::wire::{Content, Refusal};
use crate::provider::simulated::words;

/// The most inputs, as at OpenAI.
const INPUTS_LIMIT: usize = 2_048;

/// The numbers of a vector if the request names none, and at most.
const DEFAULT_DIMENSIONS: u64 = 1_536;
const DIMENSIONS_LIMIT: u64 = 4_096;

/// The most numbers of all vectors together, some 40 MB of JSON.
const NUMBERS_LIMIT: u64 = 4_000_000;

/// Gives each input a vector.
pub(super) fn answer(fields: &Fields, model: &str) -> Result<Content, Refusal> {
    let dimensions = fields::whole(fields, "dimensions", 1..=DIMENSIONS_LIMIT)?.unwrap_or(DEFAULT_DIMENSIONS);
    let base64 = match fields.get("encoding_format").and_then(Value::as_str) {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(Refusal::invalid("encoding_format", "`encoding_format` is float or base64")),
    };
    let inputs = inputs(fields)?;
    if inputs.len() as u64 * dimensions > NUMBERS_LIMIT {
        let sentence = format!("inputs times dimensions are more than {NUMBERS_LIMIT} numbers");
        return Err(Refusal::invalid("input", sentence));
    }
    let tokens: u64 = inputs.iter().map(|input| input.tokens).sum();
    let embedding = |(index, input): (usize, &Input)| {
        let vector = vector(&input.hash, dimensions);
        let embedding = if base64 { encoded(&vector) } else { json!(vector) };
        json!({"object": "embedding", "index": index, "embedding": embedding})
    };
    let data: Vec<Value> = inputs.iter().enumerate().map(embedding).collect();
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    Ok(Content::Json(json!({"object": "list", "data": data, "model": model, "usage": usage})))
}

struct Input {
    hash: blake3::Hasher,
    tokens: u64,
}

fn inputs(fields: &Fields) -> Result<Vec<Input>, Refusal> {
    let wrong = || {
        Refusal::invalid(
            "input",
            format!("`input` is a text, a list of token ids, or up to {INPUTS_LIMIT} of those; none empty"),
        )
    };
    let of_text = |text: &str| {
        let hash = blake3::Hasher::new().update(text.as_bytes()).clone();
        (!text.is_empty()).then(|| Input { hash, tokens: words::count(text) })
    };
    let of_ids = |ids: &[Value]| {
        let mut hash = blake3::Hasher::new();
        for id in ids {
            hash.update(&id.as_u64()?.to_le_bytes());
        }
        (!ids.is_empty()).then(|| Input { hash, tokens: ids.len() as u64 })
    };
    match fields.get("input") {
        Some(Value::String(text)) => of_text(text).map(|input| vec![input]).ok_or_else(wrong),
        Some(Value::Array(items)) if items.first().is_some_and(Value::is_u64) => {
            of_ids(items).map(|input| vec![input]).ok_or_else(wrong)
        }
        Some(Value::Array(items)) if !items.is_empty() && items.len() <= INPUTS_LIMIT => {
            let one = |item: &Value| match item {
                Value::String(text) => of_text(text),
                Value::Array(ids) => of_ids(ids),
                _ => None,
            };
            items.iter().map(one).collect::<Option<_>>().ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

/// A vector of length 1 from the output stream of the hash.
fn vector(hash: &blake3::Hasher, dimensions: u64) -> Vec<f32> {
    let mut bytes = vec![0; usize::try_from(dimensions).unwrap_or_default() * 2];
    hash.finalize_xof().fill(&mut bytes);
    let numbers: Vec<f32> =
        bytes.as_chunks::<2>().0.iter().map(|pair| f32::from(i16::from_le_bytes(*pair)) + 0.5).collect();
    let length = numbers.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
    numbers.into_iter().map(|number| (f64::from(number) / length) as f32).collect()
}

/// The numbers as little-endian 32-bit floats in base 64, which the SDKs ask for by default.
fn encoded(vector: &[f32]) -> Value {
    let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    json!(data_encoding::BASE64.encode(&bytes))
}
