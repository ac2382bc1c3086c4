//! `marg requests`.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Response};
use clap::{Args, Subcommand, ValueEnum};
use http_body_util::BodyExt;
use serde_json::Value;

use crate::cli::door::{Door, with_query};
use crate::cli::failure::{Exit, Failure, Result};
use crate::cli::keys::more;
use crate::cli::output::{self, Column, Format};
use crate::cli::{span, until_interrupted};
use crate::unit::clock::Timestamp;

/// What to read from the request log.
#[derive(Debug, Subcommand)]
pub enum Requests {
    /// Print the latest records, then new ones as they come, until interrupted.
    Tail(Tail),
    /// List records, newest first.
    List(List),
    /// Write every record that matches, oldest first, to a file or the standard output.
    Export(Export),
}

/// Which records; everything given must match.
#[derive(Debug, Args)]
pub struct Which {
    /// Started at that time or later: RFC 3339, seconds since 1970, or a span such as 2h for that long ago.
    #[arg(long, value_name = "TIME", value_parser = span::past)]
    since: Option<Timestamp>,
    /// Started before that time.
    #[arg(long, value_name = "TIME", value_parser = span::past)]
    until: Option<Timestamp>,
    /// Made with this key.
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// Made for this organisation.
    #[arg(long)]
    org: Option<String>,
    /// Made for this team.
    #[arg(long)]
    team: Option<String>,
    /// Made for this user.
    #[arg(long)]
    user: Option<String>,
    /// Asked for, or served by, a model of this pattern, such as gpt-4*.
    #[arg(long, value_name = "PATTERN")]
    model: Option<String>,
    /// Answered by this provider.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// With this status, such as 429, or of this class, such as 4xx.
    #[arg(long)]
    status: Option<String>,
    /// Not answered well.
    #[arg(long)]
    errors_only: bool,
}

/// Which records to follow.
#[derive(Debug, Args)]
pub struct Tail {
    #[command(flatten)]
    which: Which,
    /// How many of the latest records to print first.
    #[arg(long, short = 'n', default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1000), value_name = "COUNT")]
    lines: u32,
}

/// Which records to list.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    which: Which,
    /// The most records to list.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "COUNT")]
    limit: u32,
    /// Go on where an earlier list ended.
    #[arg(long)]
    cursor: Option<String>,
}

/// What to export and where to.
#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    which: Which,
    /// The format.
    #[arg(long, value_enum, default_value_t)]
    format: ExportFormat,
    /// The file to write; it must not be there yet. Left out, the standard output.
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,
}

/// The format of an export.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum ExportFormat {
    /// One JSON object a line.
    #[default]
    Jsonl,
    /// RFC 4180, with a heading.
    Csv,
}

/// The columns, each with the width that it has while rows come one by one.
const COLUMNS: &[(Column, usize)] = &[
    (("STARTED", "/started_at"), 27),
    (("STATUS", "/status"), 6),
    (("OUTCOME", "/outcome"), 15),
    (("TEAM", "/team"), 12),
    (("MODEL", "/model_requested"), 24),
    (("PROVIDER", "/provider"), 12),
    (("IN", "/tokens_in"), 8),
    (("OUT", "/tokens_out"), 8),
    (("USD", "/cost_usd"), 12),
    (("MS", "/ms"), 8),
    (("ID", "/id"), 36),
];

/// How long a server that ended the stream is left alone before it is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// Runs one of the commands.
pub async fn run(command: Requests, door: &Door, format: Format) -> Result {
    match command {
        Requests::List(list) => {
            let mut answer = door.ask(Method::GET, &list.path(), None).await?;
            if format == Format::Table {
                let rows = answer.get_mut("requests").and_then(Value::as_array_mut);
                rows.into_iter().flatten().for_each(sum_up);
            }
            let columns: Vec<Column> = COLUMNS.iter().map(|(column, _)| *column).collect();
            output::list(format, &answer, "/requests", &columns)?;
            more(format, &answer)
        }
        Requests::Export(export) => export.run(door).await,
        Requests::Tail(tail) => until_interrupted(follow(tail, door, format)).await,
    }
}

async fn follow(tail: Tail, door: &Door, format: Format) -> Result {
    // Connected before the list is read, so that nothing falls between the two.
    let path = with_query("/admin/requests/tail", &tail.which.pairs());
    let mut stream = door.follow(&path, None).await?;
    if format == Format::Table {
        let headings: Vec<String> = COLUMNS.iter().map(|((heading, _), _)| (*heading).to_owned()).collect();
        output::raw(output::aligned(&headings, &widths()).as_bytes())?;
    }
    let mut printed = Printed { format, latest: VecDeque::new() };
    if tail.lines > 0 {
        let mut pairs = tail.which.pairs();
        pairs.push(("limit", Some(tail.lines.to_string())));
        let mut answer = door.ask(Method::GET, &with_query("/admin/requests", &pairs), None).await?;
        let rows = answer.get_mut("requests").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
        rows.into_iter().rev().try_for_each(|row| printed.row(row))?;
    }
    let mut events = Events::default();
    loop {
        let mut body = stream.into_body();
        while let Some(Ok(frame)) = body.frame().await {
            for row in events.feed(frame.data_ref().map(AsRef::as_ref).unwrap_or_default()) {
                printed.row(row)?;
            }
        }
        stream = again(door, &path, &mut events).await?;
    }
}

/// Goes on where the stream ended, once the server is back: a restart is no reason to stop watching it.
async fn again(door: &Door, path: &str, events: &mut Events) -> Result<Response<Body>> {
    eprintln!("The server ended the stream; going on as soon as it is back.");
    events.begin();
    loop {
        tokio::time::sleep(AGAIN).await;
        match door.follow(path, events.last.as_deref()).await {
            Err(failure) if failure.exit == Exit::Unreachable => {}
            other => return other,
        }
    }
}

/// Rows that were printed, so that none is printed twice where the list and the stream overlap.
struct Printed {
    format: Format,
    latest: VecDeque<String>,
}

impl Printed {
    fn row(&mut self, mut row: Value) -> Result {
        let id = output::text(row.get("id"));
        if self.latest.contains(&id) {
            return Ok(());
        }
        if self.latest.len() >= 2_000 {
            self.latest.pop_front();
        }
        self.latest.push_back(id);
        match self.format {
            Format::Table => {
                sum_up(&mut row);
                let cells: Vec<String> =
                    COLUMNS.iter().map(|((_, pointer), _)| output::text(row.pointer(pointer))).collect();
                output::raw(output::aligned(&cells, &widths()).as_bytes())
            }
            Format::Json | Format::Yaml => output::entry(self.format, &row.to_string()),
        }
    }
}

fn widths() -> Vec<usize> {
    COLUMNS.iter().map(|(_, width)| *width).collect()
}

/// Adds to a record what the table shows of it: sums of tokens, and milliseconds.
fn sum_up(row: &mut Value) {
    let total = |row: &Value, names: &[&str]| {
        let usage = row.get("usage")?.as_object()?;
        Some(names.iter().filter_map(|name| usage.get(*name)?.as_u64()).fold(0_u64, u64::saturating_add))
    };
    let input = ["input", "cache_read", "cache_write_5m", "cache_write_1h", "input_audio", "input_image"];
    let tokens_in = total(row, &input);
    let tokens_out = total(row, &["output", "reasoning", "output_audio", "output_image"]);
    let ms = row.get("duration_us").and_then(Value::as_u64).map(|us| us / 1_000);
    if let Some(fields) = row.as_object_mut() {
        fields.insert("tokens_in".to_owned(), Value::from(tokens_in));
        fields.insert("tokens_out".to_owned(), Value::from(tokens_out));
        fields.insert("ms".to_owned(), Value::from(ms));
    }
}

/// Takes server-sent events apart (HTML Standard, section 9.2.6), as far as this program's own server writes them.
#[derive(Default)]
struct Events {
    rest: Vec<u8>,
    /// The last id: the place to come back to.
    last: Option<String>,
}

impl Events {
    /// Another stream begins; what was left of the one before is no part of it.
    fn begin(&mut self) {
        self.rest.clear();
    }

    /// The data of every event that is complete now.
    fn feed(&mut self, bytes: &[u8]) -> Vec<Value> {
        self.rest.extend_from_slice(bytes);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let lines: Vec<u8> = self.rest.drain(..=end).collect();
        let lines = || lines.split(|byte| *byte == b'\n');
        if let Some(id) = lines().filter_map(|line| line.strip_prefix(b"id: ")).next_back() {
            self.last = Some(String::from_utf8_lossy(id).into_owned());
        }
        let data = lines().filter_map(|line| line.strip_prefix(b"data: "));
        data.filter_map(|data| serde_json::from_slice(data).ok()).collect()
    }
}

impl Which {
    /// The parameters that the admin API takes for it.
    pub fn pairs(&self) -> Vec<(&'static str, Option<String>)> {
        vec![
            ("since", self.since.map(Timestamp::rfc3339)),
            ("until", self.until.map(Timestamp::rfc3339)),
            ("key_id", self.key.clone()),
            ("org", self.org.clone()),
            ("team", self.team.clone()),
            ("user", self.user.clone()),
            ("model", self.model.clone()),
            ("provider", self.provider.clone()),
            ("status", self.status.clone()),
            ("errors_only", self.errors_only.then(|| "true".to_owned())),
        ]
    }
}

impl List {
    fn path(&self) -> String {
        let mut pairs = self.which.pairs();
        pairs.push(("limit", Some(self.limit.to_string())));
        pairs.push(("cursor", self.cursor.clone()));
        with_query("/admin/requests", &pairs)
    }
}

impl Export {
    async fn run(&self, door: &Door) -> Result {
        let mut pairs = self.which.pairs();
        let format = self.format.to_possible_value().map(|value| value.get_name().to_owned());
        pairs.push(("format", format));
        let answer = door.open(Method::GET, &with_query("/admin/requests/export", &pairs), None).await?;
        match &self.output_file {
            None => copy(answer.into_body(), &mut io::stdout().lock()).await,
            Some(path) => {
                let mut file = create(path)?;
                copy(answer.into_body(), &mut file).await?;
                Ok(file.sync_all()?)
            }
        }
    }
}

/// Creates a file that only its owner may read, since the request log says who asked what.
fn create(path: &Path) -> Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    opened.map_err(|error| Failure::failed(format!("{} cannot be made: {error}.", path.display())))
}

async fn copy(mut body: Body, out: &mut impl Write) -> Result {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Failure::new(Exit::Unreachable, "The export broke off; it is not complete."))?;
        out.write_all(frame.data_ref().map(AsRef::as_ref).unwrap_or_default())?;
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_whole_however_they_are_cut() {
        let text = b"retry: 2000\n\nevent: request\ndata: {\"id\":\"a\"}\n\nid: 1.2\n\n:\n\nevent: request\ndata: {\"id\":\"b\"}\n\n";
        for size in 1..text.len() {
            let mut events = Events::default();
            let rows: Vec<Value> = text.chunks(size).flat_map(|piece| events.feed(piece)).collect();
            assert_eq!(rows, [serde_json::json!({"id": "a"}), serde_json::json!({"id": "b"})], "{size}");
            assert_eq!(events.last.as_deref(), Some("1.2"), "{size}");
        }
    }
}
