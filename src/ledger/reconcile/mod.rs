//! Holding the ledger against what a provider says it was used for.
//!
//! One parser for each vendor reads its usage and cost exports to one neutral row ([`row::ExportRow`]); `compare` sums both sides
//! by hour, day or the whole span – as finely as the export tells – and by model, and names what causes a gap. The exports that
//! the vendors offer carry no id of a single request, so nothing is matched one by one. Bounds: 64 MiB of export, a million
//! rows, 100,000 sums of the ledger. Rows that cannot be read are counted and told with their place, never guessed.

mod anthropic;
mod aws;
mod compare;
mod google;
mod model;
mod openai;
mod row;
mod table;

pub use compare::{ClassGap, Gap, Question, Reconciliation, reconcile};
pub use row::{BadRow, Export, ExportRow};

use serde::{Deserialize, Serialize};

/// The largest export that is read.
pub const EXPORT_LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// Who made an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Vendor {
    /// OpenAI: the usage API and the costs API (JSON), or the dashboard's exports (CSV).
    Openai,
    /// Anthropic: the usage report and the cost report (JSON), or the console's exports (CSV).
    Anthropic,
    /// Amazon Bedrock in the Cost and Usage Report (CSV, both generations), or in a Cost Explorer export (CSV).
    Aws,
    /// Google: the Cloud Billing cost table (CSV).
    Google,
}

impl Vendor {
    /// Which classes of tokens its exports tell apart: each class of ours, in the order of `Usage`, with the one that it is
    /// counted in there.
    pub fn folds(self) -> [usize; 10] {
        match self {
            // Reasoning is output. Cache writes are one figure.
            Self::Openai => [0, 1, 2, 2, 4, 5, 6, 6, 8, 9],
            // There is nothing but text and the caches.
            Self::Anthropic => [0, 1, 2, 3, 0, 0, 6, 6, 6, 6],
            Self::Aws => [0, 1, 2, 2, 0, 0, 6, 6, 6, 6],
            // Images are a SKU of their own in both directions; thinking is one too, but counts as output.
            Self::Google => [0, 1, 0, 0, 4, 5, 6, 6, 8, 9],
        }
    }
}

/// Reads an export, whichever of the vendor's formats it is in.
///
/// # Errors
/// A sentence when it is none of them, or beyond a bound.
pub fn parse(vendor: Vendor, bytes: &[u8]) -> Result<Export, String> {
    if bytes.len() > EXPORT_LIMIT_BYTES {
        return Err(format!("The export is larger than {EXPORT_LIMIT_BYTES} bytes; cut it by time."));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let otherwise = match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("The file is in UTF-16; save it as UTF-8."),
        [0x1f, 0x8b, ..] | [b'P', b'K', 3, 4, ..] => Some("The file is compressed; unpack it first."),
        _ if bytes.trim_ascii().is_empty() => Some("The file is empty."),
        _ => None,
    };
    if let Some(text) = otherwise {
        return Err(text.to_owned());
    }
    let is_json = matches!(bytes.trim_ascii_start().first(), Some(b'{' | b'['));
    match (vendor, is_json) {
        (Vendor::Openai, true) => openai::json(bytes),
        (Vendor::Openai, false) => openai::csv(bytes),
        (Vendor::Anthropic, true) => anthropic::json(bytes),
        (Vendor::Anthropic, false) => anthropic::csv(bytes),
        (Vendor::Aws, false) => aws::csv(bytes),
        (Vendor::Google, false) => google::csv(bytes),
        (Vendor::Aws | Vendor::Google, true) => Err("Exports of this vendor are read as CSV only.".to_owned()),
    }
}

#[cfg(test)]
mod tests;
