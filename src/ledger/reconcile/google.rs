//! Google's Cloud Billing cost table.
//!
//! *Source*: <https://cloud.google.com/billing/docs/how-to/cost-table>: a CSV file that begins with some lines about the invoice,
//! then a heading (`Service description`, `SKU description`, `Usage start date`, `Usage end date`, `Usage amount`,
//! `Usage unit`, `Cost ($)`, in newer files `Unrounded cost ($)` too). A SKU names the model and the class, as in
//! `Gemini 2.5 Pro Text Input - Predictions`, `… Thinking Text Output …`, `… Input Text Caching`. Days are those of Pacific time,
//! so the edges of a span may differ from the ledger's; usage counts tokens.

use super::row::{DAY, Export, ExportRow, count, money, span, time};
use super::table::{self, Cells};
use crate::unit::usage::Usage;

/// Services that sell models.
const SERVICES: [&str; 4] = ["vertex ai", "gemini api", "generative language api", "agent platform"];

/// Words that end the name of the model in a SKU.
const ENDS: [&str; 11] =
    [" text", " image", " audio", " video", " input", " output", " thinking", " cach", " ga ", " global", " regional"];

/// Reads a cost table.
pub(super) fn csv(bytes: &[u8]) -> Result<Export, String> {
    let headings: [&[&str]; 1] = [&["service description", "sku description", "usage start date"]];
    table::read(bytes, &headings, row)
}

fn row(cells: &Cells<'_>) -> Result<Option<ExportRow>, String> {
    // Behind the rows the table ends with sums, which have no SKU.
    let (Some(service), Some(sku)) = (cells.get(&["service description"]), cells.get(&["sku description"])) else {
        return Ok(None);
    };
    let lower = sku.to_lowercase();
    let service = service.to_lowercase();
    if !SERVICES.iter().any(|known| service.contains(known)) || !lower.contains("gemini") {
        return Ok(None);
    }
    let from = time(cells.need(&["usage start date"])?)?;
    let last = cells.get(&["usage end date"]).map(time).transpose()?.unwrap_or(from);
    let until = span(last, DAY).1;
    let cost = cells.begins("unrounded cost (").or_else(|| cells.begins("cost ("));
    let cost = money(cost.ok_or("the column \"cost ($)\" is missing or empty")?, 1.0)?;
    let is_credit = cells.get(&["credit type"]).is_some();
    let usage = match cells.get(&["usage amount"]) {
        Some(amount) if !is_credit => class(&lower, count(amount, 1.0)?),
        _ => None,
    };
    let credential = cells.get(&["project id", "project name"]).map(str::to_owned);
    Ok(Some(ExportRow {
        from,
        until,
        model: Some(model(sku)),
        credential,
        usage,
        images: None,
        requests: None,
        cost: Some(cost),
    }))
}

/// The model in a SKU: what stands before the first word of the class.
fn model(sku: &str) -> String {
    let lower = sku.to_lowercase();
    let end = ENDS.iter().filter_map(|word| lower.find(word)).min().unwrap_or(sku.len());
    sku.get(..end).unwrap_or(sku).to_owned()
}

/// The class of a SKU; `None` where it counts something else than tokens of the ledger (storage of caches, grounding).
fn class(sku: &str, tokens: u64) -> Option<Usage> {
    let none = Usage::default();
    let has = |word: &str| sku.contains(word);
    if has("storage") || has("grounding") || has("tuning") || has("provisioned") {
        return None;
    }
    if has("output") {
        return Some(match (has("image"), has("audio")) {
            (true, _) if !has("text output") => Usage { output_image: tokens, ..none },
            (_, true) => Usage { output_audio: tokens, ..none },
            _ => Usage { output: tokens, ..none },
        });
    }
    if has("cach") {
        return Some(Usage { cache_read: tokens, ..none });
    }
    has("input").then(|| match (has("image input") || has("video input"), has("audio")) {
        (true, _) => Usage { input_image: tokens, ..none },
        (_, true) => Usage { input_audio: tokens, ..none },
        _ => Usage { input: tokens, ..none },
    })
}
