//! Anthropic's exports.
//!
//! *Sources*: the messages usage report and the cost report of the administration API,
//! <https://platform.claude.com/docs/en/api/admin/usage_report/retrieve_messages> and
//! <https://platform.claude.com/docs/en/api/resources/admin/subresources/usage_and_cost> (all classes are disjoint; `amount` is a
//! decimal text in cents); the console's CSV exports, <https://support.anthropic.com/en/articles/9534590>, whose columns are
//! `usage_date_utc`, `model_version`, `api_key`, `workspace`, `usage_input_tokens_no_cache`,
//! `usage_input_tokens_cache_write_5m`, `…_cache_write_1h`, `…_cache_read`, `usage_output_tokens`; the cost export has
//! `cost_usd` and `model` beside the date and the names.

use serde::Deserialize;

use super::row::{DAY, Export, ExportRow, count, money, pages, span, time};
use super::table::{self, Cells};
use crate::unit::clock::Timestamp;
use crate::unit::usage::Usage;

#[derive(Deserialize)]
struct Bucket {
    starting_at: String,
    ending_at: String,
    results: Vec<Outcome>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Outcome {
    uncached_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation: Option<Creation>,
    output_tokens: Option<u64>,
    model: Option<String>,
    api_key_id: Option<String>,
    workspace_id: Option<String>,
    amount: Option<String>,
    currency: Option<String>,
    cost_type: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Creation {
    ephemeral_5m_input_tokens: u64,
    ephemeral_1h_input_tokens: u64,
}

/// Reads pages of the usage report or of the cost report.
pub(super) fn json(bytes: &[u8]) -> Result<Export, String> {
    let mut export = Export::default();
    for (number, bucket) in pages::<Bucket>(bytes)?.into_iter().enumerate() {
        let spans = time(&bucket.starting_at).and_then(|from| Ok((from, time(&bucket.ending_at)?)));
        for (index, outcome) in bucket.results.into_iter().enumerate() {
            let row = spans.clone().and_then(|(from, until)| outcome.row(from, until));
            export.take(|| format!("bucket {}, result {}", number + 1, index + 1), row)?;
        }
    }
    Ok(export)
}

impl Outcome {
    fn row(self, from: Timestamp, until: Timestamp) -> Result<Option<ExportRow>, String> {
        if self.cost_type.as_deref().is_some_and(|kind| kind != "tokens") {
            return Ok(None);
        }
        if self.currency.as_deref().is_some_and(|currency| !currency.eq_ignore_ascii_case("usd")) {
            return Err("its currency is not USD".to_owned());
        }
        let counts = self.uncached_input_tokens.is_some() || self.output_tokens.is_some();
        let creation = self.cache_creation.unwrap_or_default();
        let usage = counts.then(|| Usage {
            input: self.uncached_input_tokens.unwrap_or(0),
            cache_read: self.cache_read_input_tokens.unwrap_or(0),
            cache_write_5m: creation.ephemeral_5m_input_tokens,
            cache_write_1h: creation.ephemeral_1h_input_tokens,
            output: self.output_tokens.unwrap_or(0),
            ..Usage::default()
        });
        let cost = self.amount.as_deref().map(|amount| money(amount, 100.0)).transpose()?;
        let credential = self.api_key_id.or(self.workspace_id);
        Ok(Some(ExportRow { from, until, model: self.model, credential, usage, images: None, requests: None, cost }))
    }
}

/// Reads an export of the console.
pub(super) fn csv(bytes: &[u8]) -> Result<Export, String> {
    let headings: [&[&str]; 3] =
        [&["usage_date_utc", "usage_input_tokens_no_cache"], &["usage_date_utc", "cost_usd"], &["cost_usd", "model"]];
    table::read(bytes, &headings, row)
}

fn row(cells: &Cells<'_>) -> Result<Option<ExportRow>, String> {
    if cells.get(&["cost_type"]).is_some_and(|kind| !kind.eq_ignore_ascii_case("tokens") && kind != "token") {
        return Ok(None);
    }
    let (from, until) = span(time(cells.need(&["usage_date_utc", "date", "usage_date"])?)?, DAY);
    let number = |name: &str| cells.get(&[name]).map_or(Ok(0), |text| count(text, 1.0));
    let counts = cells.get(&["usage_input_tokens_no_cache"]).is_some() || cells.get(&["usage_output_tokens"]).is_some();
    let usage = Usage {
        input: number("usage_input_tokens_no_cache")?,
        cache_read: number("usage_input_tokens_cache_read")?,
        cache_write_5m: number("usage_input_tokens_cache_write_5m")?
            .saturating_add(number("usage_input_tokens_cache_write")?),
        cache_write_1h: number("usage_input_tokens_cache_write_1h")?,
        output: number("usage_output_tokens")?,
        ..Usage::default()
    };
    Ok(Some(ExportRow {
        from,
        until,
        model: cells.get(&["model_version", "model"]).map(str::to_owned),
        credential: cells.get(&["api_key", "workspace"]).map(str::to_owned),
        usage: counts.then_some(usage),
        images: None,
        requests: None,
        cost: cells.get(&["cost_usd"]).map(|text| money(text, 1.0)).transpose()?,
    }))
}
