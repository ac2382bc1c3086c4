//! `marg reconcile`.

use std::path::PathBuf;

use axum::body::Bytes;
use axum::http::Method;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::cli::door::{Door, with_query};
use crate::cli::failure::{Failure, Result};
use crate::cli::output::{self, Column, Format};
use crate::cli::span;
use crate::ledger::reconcile::EXPORT_LIMIT_BYTES;
use crate::unit::clock::Timestamp;

/// What to compare with what.
#[derive(Debug, Args)]
pub struct Reconcile {
    /// Who made the export; whose records are meant, unless --name says otherwise.
    #[arg(long, value_enum)]
    provider: Vendor,
    /// The provider's name in the configuration, if it is another.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The export as it was downloaded, CSV or JSON.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Rows of the export that begin at that time or later: RFC 3339, seconds since 1970, or a span such as 7d.
    #[arg(long, value_name = "TIME", value_parser = span::past)]
    since: Option<Timestamp>,
    /// Rows of the export that end by that time.
    #[arg(long, value_name = "TIME", value_parser = span::past)]
    until: Option<Timestamp>,
}

/// Who made an export.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Vendor {
    /// Usage and costs API as JSON, or the dashboard's CSV.
    Openai,
    /// Usage and cost report as JSON, or the console's CSV.
    Anthropic,
    /// Bedrock in a Cost and Usage Report or a Cost Explorer export, CSV.
    Aws,
    /// The Cloud Billing cost table, CSV.
    Google,
}

const COLUMNS: &[Column] = &[
    ("FROM", "/from"),
    ("MODEL", "/model"),
    ("PROVIDER USD", "/export_usd"),
    ("LEDGER USD", "/ledger_usd"),
    ("GAP CENTS", "/gap_cents"),
    ("REQUESTS", "/export_requests"),
    ("RECORDS", "/ledger_records"),
    ("CAUSE", "/cause"),
    ("DETAIL", "/detail"),
];

/// Runs the command.
pub async fn run(order: Reconcile, door: &Door, format: Format) -> Result {
    let shown = order.file.display();
    let size =
        std::fs::metadata(&order.file).map_err(|error| Failure::failed(format!("{shown} cannot be read: {error}.")))?;
    if size.len() > EXPORT_LIMIT_BYTES as u64 {
        return Err(Failure::failed(format!("{shown} is larger than {EXPORT_LIMIT_BYTES} bytes; cut it by time.")));
    }
    let bytes =
        std::fs::read(&order.file).map_err(|error| Failure::failed(format!("{shown} cannot be read: {error}.")))?;
    let vendor = order.provider.to_possible_value().map(|value| value.get_name().to_owned());
    let pairs = [
        ("vendor", vendor),
        ("provider", order.name.clone()),
        ("since", order.since.map(Timestamp::rfc3339)),
        ("until", order.until.map(Timestamp::rfc3339)),
    ];
    let path = with_query("/admin/reconcile", &pairs);
    let answer = door.hand_over(Method::POST, &path, Bytes::from(bytes)).await?;
    if format != Format::Table {
        return output::item(format, &answer);
    }
    told(&answer)
}

/// The totals first, then the models, then the spans of time, then what could not be read.
fn told(answer: &Value) -> Result {
    let text = |pointer: &str| output::text(answer.pointer(pointer));
    output::line(&format!(
        "{} to {}, by {}: {} rows, {} about other things, {} unreadable",
        text("/since"),
        text("/until"),
        text("/grain"),
        text("/rows"),
        text("/other_rows"),
        text("/bad_rows"),
    ))?;
    let total = answer.get("total").cloned().unwrap_or_default();
    output::line(output::table(&[with_dollars(&total, "(total)")], COLUMNS).trim_end())?;
    for (part, title) in [("models", "By model"), ("spans", "By time, where there is a gap")] {
        let rows = answer.get(part).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if !rows.is_empty() {
            let rows: Vec<Value> = rows.iter().map(|row| with_dollars(row, "-")).collect();
            output::line(&format!("\n{title}\n{}", output::table(&rows, COLUMNS).trim_end()))?;
        }
    }
    for bad in answer.get("bad").and_then(Value::as_array).into_iter().flatten() {
        crate::cli::complain(&format!("{}: {}", output::text(bad.get("place")), output::text(bad.get("text"))));
    }
    Ok(())
}

fn with_dollars(row: &Value, unnamed: &str) -> Value {
    let (export, ledger) = (dollars(row, "export_nano_usd"), dollars(row, "ledger_nano_usd"));
    let mut row = row.clone();
    if let Some(fields) = row.as_object_mut() {
        fields.insert("export_usd".to_owned(), json!(export));
        fields.insert("ledger_usd".to_owned(), json!(ledger));
        if fields.get("model").is_none_or(Value::is_null) {
            fields.insert("model".to_owned(), json!(unnamed));
        }
    }
    row
}

fn dollars(row: &Value, name: &str) -> Option<String> {
    row.get(name).and_then(Value::as_i64).map(|nanos| crate::unit::money::NanoUsd(nanos).to_string())
}
