//! OpenAI's exports.
//!
//! *Sources*: the completions usage object and the costs object of the administration API,
//! <https://platform.openai.com/docs/api-reference/usage/completions_object> and `/usage/costs_object` (`input_tokens` contains
//! `input_cached_tokens`; `input_audio_tokens` and the image tokens are inside where the `…_text_tokens` fields are present, else
//! beside it; `output_tokens` contains reasoning); the dashboard's CSV exports name their columns like the API's fields, with
//! `start_time_iso` or `date` for the time, and in their older form `n_context_tokens_total`, `n_generated_tokens_total`,
//! `n_requests`. The images usage object (`/usage/images_object`) counts `images` by `model` and `size`.

use serde::Deserialize;

use super::row::{DAY, Export, ExportRow, count, money, pages, span, time};
use super::table::{self, Cells};
use crate::unit::clock::Timestamp;
use crate::unit::usage::Usage;

#[derive(Deserialize)]
struct Bucket {
    start_time: i64,
    end_time: i64,
    #[serde(default, alias = "result")]
    results: Vec<Outcome>,
}

/// One result of either API; what only the other has is absent.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Outcome {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    input_cached_tokens: Option<u64>,
    input_cache_write_tokens: Option<u64>,
    input_text_tokens: Option<u64>,
    input_audio_tokens: Option<u64>,
    input_image_tokens: Option<u64>,
    output_text_tokens: Option<u64>,
    output_audio_tokens: Option<u64>,
    output_image_tokens: Option<u64>,
    images: Option<u64>,
    num_model_requests: Option<u64>,
    model: Option<String>,
    api_key_id: Option<String>,
    project_id: Option<String>,
    amount: Option<Amount>,
    line_item: Option<String>,
}

#[derive(Deserialize)]
struct Amount {
    value: serde_json::Value,
    #[serde(default)]
    currency: String,
}

/// Reads pages of the usage API or of the costs API.
pub(super) fn json(bytes: &[u8]) -> Result<Export, String> {
    let mut export = Export::default();
    for (number, bucket) in pages::<Bucket>(bytes)?.into_iter().enumerate() {
        let micros = |seconds: i64| Timestamp(seconds.max(0).saturating_mul(1_000_000));
        let (from, until) = (micros(bucket.start_time), micros(bucket.end_time));
        for (index, outcome) in bucket.results.into_iter().enumerate() {
            let row = outcome.row(from, until);
            export.take(|| format!("bucket {}, result {}", number + 1, index + 1), row)?;
        }
    }
    Ok(export)
}

impl Outcome {
    fn row(self, from: Timestamp, until: Timestamp) -> Result<Option<ExportRow>, String> {
        let cost = self.amount.as_ref().map(|amount| {
            if !amount.currency.eq_ignore_ascii_case("usd") {
                return Err("its currency is not USD".to_owned());
            }
            let text = amount.value.as_str().map_or_else(|| amount.value.to_string(), str::to_owned);
            money(&text, 1.0)
        });
        let counts = self.input_tokens.is_some() || self.output_tokens.is_some();
        let usage = counts.then(|| self.usage());
        // A line item is written `model, input` or `model, cached input`; what names no model is a search or storage.
        let named =
            self.line_item.as_deref().and_then(|item| item.split(',').next()).map(|item| item.trim().to_owned());
        Ok(Some(ExportRow {
            from,
            until,
            model: self.model.or(named).filter(|model| !model.is_empty()),
            credential: self.api_key_id.or(self.project_id),
            usage,
            images: self.images,
            requests: self.num_model_requests,
            cost: cost.transpose()?,
        }))
    }

    fn usage(&self) -> Usage {
        let part = |value: Option<u64>| value.unwrap_or(0);
        let (audio, image) = (part(self.input_audio_tokens), part(self.input_image_tokens));
        let (audio_out, image_out) = (part(self.output_audio_tokens), part(self.output_image_tokens));
        // With the figures of text at hand the total holds everything; without them it holds text alone.
        let inside = if self.input_text_tokens.is_some() { audio + image } else { 0 };
        let inside_out = if self.output_text_tokens.is_some() { audio_out + image_out } else { 0 };
        let text = part(self.input_tokens).saturating_sub(inside);
        let cache_read = part(self.input_cached_tokens).min(text);
        let cache_write_5m = part(self.input_cache_write_tokens).min(text - cache_read);
        Usage {
            input: text - cache_read - cache_write_5m,
            cache_read,
            cache_write_5m,
            input_audio: audio,
            input_image: image,
            output: part(self.output_tokens).saturating_sub(inside_out),
            output_audio: audio_out,
            output_image: image_out,
            ..Usage::default()
        }
    }
}

/// Reads an export of the dashboard.
pub(super) fn csv(bytes: &[u8]) -> Result<Export, String> {
    let headings: [&[&str]; 8] = [
        &["start_time", "input_tokens"],
        &["start_time_iso", "input_tokens"],
        &["start_time", "amount_value"],
        &["start_time_iso", "amount_value"],
        &["date", "input_tokens"],
        &["start_time", "images"],
        &["start_time_iso", "images"],
        &["usage_date", "n_context_tokens_total"],
    ];
    table::read(bytes, &headings, row)
}

fn row(cells: &Cells<'_>) -> Result<Option<ExportRow>, String> {
    let from = time(cells.need(&["start_time_iso", "start_time", "date", "usage_date"])?)?;
    let until = cells.get(&["end_time_iso", "end_time"]).map(time).transpose()?;
    let until = until.unwrap_or(span(from, DAY).1);
    let number = |names: &[&str]| cells.get(names).map(|text| count(text, 1.0)).transpose();
    let outcome = Outcome {
        input_tokens: number(&["input_tokens", "n_context_tokens_total"])?,
        output_tokens: number(&["output_tokens", "n_generated_tokens_total"])?,
        input_cached_tokens: number(&["input_cached_tokens", "n_cached_context_tokens_total"])?,
        input_cache_write_tokens: number(&["input_cache_write_tokens"])?,
        input_text_tokens: number(&["input_text_tokens"])?,
        input_audio_tokens: number(&["input_audio_tokens"])?,
        input_image_tokens: number(&["input_image_tokens"])?,
        output_text_tokens: number(&["output_text_tokens"])?,
        output_audio_tokens: number(&["output_audio_tokens"])?,
        output_image_tokens: number(&["output_image_tokens"])?,
        images: number(&["images", "num_images"])?,
        num_model_requests: number(&["num_model_requests", "n_requests"])?,
        model: cells.get(&["model", "snapshot_id"]).map(str::to_owned),
        api_key_id: cells.get(&["api_key_id", "api_key_name"]).map(str::to_owned),
        project_id: cells.get(&["project_id", "project"]).map(str::to_owned),
        amount: None,
        line_item: cells.get(&["line_item"]).map(str::to_owned),
    };
    let currency = cells.get(&["amount_currency", "currency"]).unwrap_or("usd");
    if !currency.eq_ignore_ascii_case("usd") {
        return Err("its currency is not USD".to_owned());
    }
    let cost = cells.get(&["amount_value", "amount"]).map(|text| money(text, 1.0)).transpose()?;
    Ok(outcome.row(from, until)?.map(|row| ExportRow { cost, ..row }))
}
