//! `marg policy audit` and `marg policy replay`: what the gate refused, and what other policies would have refused.

use std::path::{Path, PathBuf};

use axum::http::Method;
use clap::Args;
use serde_json::{Value, json};

use crate::cli::door::{Door, with_query};
use crate::cli::failure::{Failure, Result};
use crate::cli::output::{self, Column, Format};
use crate::cli::span;
use crate::kavach::policy;
use crate::unit::clock::Timestamp;

const REFUSALS: &[Column] =
    &[("COUNT", "/count"), ("POLICY", "/policy"), ("KEY", "/key_id"), ("MODEL", "/model"), ("REASON", "/reason")];

/// Which records.
#[derive(Debug, Args)]
pub struct Period {
    /// Started at that time or later: RFC 3339, seconds since 1970, or a span such as 24h for that long ago.
    #[arg(long, value_name = "TIME", value_parser = span::past)]
    since: Option<Timestamp>,
    /// Started before that time.
    #[arg(long, value_name = "TIME", value_parser = span::past)]
    until: Option<Timestamp>,
}

/// What to judge again, by what.
#[derive(Debug, Args)]
pub struct Replay {
    #[command(flatten)]
    period: Period,
    /// The proposed policies: a file or a folder.
    #[arg(long, value_name = "POLICY")]
    policy: PathBuf,
    /// The time zone of their clock; left out, that of the running gate, or UTC.
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
}

/// Prints what was refused, and what would have been.
pub async fn audit(period: Period, door: &Door, format: Format) -> Result {
    let time = |at: Option<Timestamp>| at.map(Timestamp::rfc3339);
    let pairs = [("since", time(period.since)), ("until", time(period.until))];
    let answer = door.ask(Method::GET, &with_query("/admin/policy/audit", &pairs), None).await?;
    if format != Format::Table {
        return output::item(format, &answer);
    }
    let number = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or_default();
    output::line(&format!(
        "{} calls were judged: {} were refused, {} would have been",
        number("judged"),
        number("refused"),
        number("would_be_refused")
    ))?;
    section("refused", answer.get("refusals"))?;
    section("would have been refused", answer.get("would_be_refusals"))
}

/// Prints what other policies would have done.
pub async fn replay(replay: Replay, door: &Door, format: Format) -> Result {
    let body = json!({
        "since": replay.period.since.map(Timestamp::rfc3339), "until": replay.period.until.map(Timestamp::rfc3339),
        "policies": text(&replay.policy)?, "time_zone": replay.time_zone,
    });
    let answer = door.ask(Method::POST, "/admin/policy/replay", Some(&body)).await?;
    if format != Format::Table {
        return output::item(format, &answer);
    }
    let number = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or_default();
    output::line(&format!(
        "would have refused {} of {} calls: {} that passed; {} that were refused would have passed",
        number("refused"),
        number("calls"),
        number("newly_refused"),
        number("newly_admitted")
    ))?;
    if number("without_facts") > 0 {
        output::line(&format!("{} calls were not judged then and cannot be now", number("without_facts")))?;
    }
    section("would be refused", answer.get("refusals"))
}

fn section(title: &str, rows: Option<&Value>) -> Result {
    let rows = rows.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        return Ok(());
    }
    output::line(&format!("\n{title}:"))?;
    output::line(output::table(rows, REFUSALS).trim_end())
}

/// The policies of a file or of every file of a folder, as one text.
fn text(path: &Path) -> Result<String> {
    let sources = policy::read(path).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Failure::failed(lines.join("\n"))
    })?;
    // The frames of several files would not frame one text.
    if let [source] = sources.as_slice() {
        return Ok(source.text.clone());
    }
    Ok(sources.iter().map(|source| policy::unframed(&source.text)).collect::<Vec<_>>().join("\n"))
}
