//! A record of the request log as operators see it: in JSON, in a row of CSV, and under a filter.

use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::time::Time;
use crate::ledger::query::{Filter, StatusFilter};
use crate::ledger::record::{Verdict, VerdictGround};
use crate::ledger::{Attempt, Outcome, Record};
use crate::unit::money::PriceRef;
use crate::unit::usage::{Images, ServiceTier, Usage, UsageSource};

/// One exchange. What is not known is null.
#[derive(Debug, Serialize, ToSchema)]
pub struct RequestView {
    /// The id of the exchange.
    #[schema(format = "uuid")]
    pub id: String,
    /// When its head had arrived.
    pub started_at: Time,
    /// The caller's own `x-request-id`.
    pub request_id: Option<String>,
    /// What was asked, such as `chat`.
    pub operation: String,
    /// The method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The address of the caller.
    pub address: Option<String>,
    /// The key.
    pub key_id: Option<String>,
    /// The key's organisation.
    pub org: Option<String>,
    /// The key's team.
    pub team: Option<String>,
    /// The key's user.
    pub user: Option<String>,
    /// The model that the caller named.
    pub model_requested: Option<String>,
    /// The model that served.
    pub model_served: Option<String>,
    /// The provider whose answer went to the caller.
    pub provider: Option<String>,
    /// The name of the route.
    pub route: Option<String>,
    /// Whether the caller asked for a stream.
    pub stream: bool,
    /// The status that the caller got; 0 if it went away before one was sent.
    pub status: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// The code of the error.
    pub reason: Option<String>,
    /// What went wrong, in words.
    pub error: Option<String>,
    /// What it consumed; null is not zero.
    pub usage: Option<Usage>,
    /// Who counted.
    pub usage_source: Option<UsageSource>,
    /// The images that it drew; null if it drew none.
    pub images: Option<Images>,
    /// In which tier the provider served it; null if it did not say.
    pub service_tier: Option<ServiceTier>,
    /// What it cost in nano-dollars; null if the model has no price.
    pub cost_nano_usd: Option<i64>,
    /// The same in dollars, with nine decimals.
    pub cost_usd: Option<String>,
    /// The price used.
    pub price: Option<PriceRef>,
    /// Microseconds from the arrival of the head to the last byte handed out.
    pub duration_us: u64,
    /// Microseconds to the first byte of the answer's body.
    pub ttft_us: Option<u64>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// The attempts, in order.
    pub attempts: Vec<Attempt>,
    /// The tags that the caller sent.
    pub tags: Vec<String>,
    /// The session that the caller named.
    pub session: Option<String>,
    /// What the gate said; null if it was not asked.
    pub verdict: Option<VerdictView>,
}

/// What the gate said of an exchange.
#[derive(Debug, Serialize, ToSchema)]
pub struct VerdictView {
    /// The gate's mode: `observe` or `enforce`.
    pub mode: String,
    /// What happened: `allow`, `deny`, or `would-deny` if it passed only because something observes.
    pub verdict: String,
    /// What the policies that enforce say: `allow` or `deny`.
    pub real: String,
    /// The policies that decided; none if nothing permits the call.
    pub deciding: Vec<VerdictGround>,
    /// The policies in observe mode that would refuse it.
    pub would_refuse: Vec<VerdictGround>,
    /// What identifies the set of policies.
    pub set: String,
    /// How many targets the policies left out.
    pub dropped: u32,
}

impl From<Verdict> for VerdictView {
    fn from(verdict: Verdict) -> Self {
        Self {
            mode: verdict.mode.to_string(),
            verdict: verdict.verdict.to_string(),
            real: verdict.real.to_string(),
            deciding: verdict.deciding,
            would_refuse: verdict.would_refuse,
            set: verdict.set.to_string(),
            dropped: verdict.dropped,
        }
    }
}

impl From<Record> for RequestView {
    fn from(record: Record) -> Self {
        let owned = |part: Option<std::sync::Arc<str>>| part.as_deref().map(str::to_owned);
        Self {
            id: record.id.to_string(),
            started_at: record.started_at.into(),
            request_id: record.request_id,
            operation: record.operation,
            method: record.method,
            path: record.path,
            address: record.address,
            key_id: owned(record.key_id),
            org: owned(record.org),
            team: owned(record.team),
            user: owned(record.user),
            model_requested: record.model_requested,
            model_served: record.model_served,
            provider: owned(record.provider),
            route: owned(record.route),
            stream: record.stream,
            status: record.status,
            outcome: record.outcome,
            reason: record.reason,
            error: record.error,
            usage: record.usage,
            usage_source: record.usage_source,
            images: record.images,
            service_tier: record.service_tier,
            cost_nano_usd: record.cost.map(crate::unit::money::NanoUsd::nanos),
            cost_usd: record.cost.map(|cost| cost.to_string()),
            price: record.price,
            duration_us: record.duration_us,
            ttft_us: record.ttft_us,
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            attempts: record.attempts,
            tags: record.tags.iter().map(|tag| (**tag).to_owned()).collect(),
            session: owned(record.session),
            verdict: record.verdict.map(VerdictView::from),
        }
    }
}

/// What a column of an export in CSV holds of a record.
type Cell = fn(&RequestView) -> String;

/// The columns of an export in CSV, by the words that they have in JSON: those of `usage` are one column for each of its classes,
/// which never overlap. `attempts` is a number, `verdict` a word, `price` a name; the rest of these is in the other format.
const COLUMNS: &[(&str, Cell)] = &[
    ("id", |view| view.id.clone()),
    ("started_at", |view| view.started_at.0.rfc3339()),
    ("request_id", |view| text(view.request_id.as_ref())),
    ("operation", |view| view.operation.clone()),
    ("method", |view| view.method.clone()),
    ("path", |view| view.path.clone()),
    ("address", |view| text(view.address.as_ref())),
    ("key_id", |view| text(view.key_id.as_ref())),
    ("org", |view| text(view.org.as_ref())),
    ("team", |view| text(view.team.as_ref())),
    ("user", |view| text(view.user.as_ref())),
    ("model_requested", |view| text(view.model_requested.as_ref())),
    ("model_served", |view| text(view.model_served.as_ref())),
    ("provider", |view| text(view.provider.as_ref())),
    ("route", |view| text(view.route.as_ref())),
    ("stream", |view| view.stream.to_string()),
    ("status", |view| view.status.to_string()),
    ("outcome", |view| word(&view.outcome)),
    ("reason", |view| text(view.reason.as_ref())),
    ("error", |view| text(view.error.as_ref())),
    ("input", |view| tokens(view, |usage| usage.input)),
    ("cache_read", |view| tokens(view, |usage| usage.cache_read)),
    ("cache_write_5m", |view| tokens(view, |usage| usage.cache_write_5m)),
    ("cache_write_1h", |view| tokens(view, |usage| usage.cache_write_1h)),
    ("input_audio", |view| tokens(view, |usage| usage.input_audio)),
    ("input_image", |view| tokens(view, |usage| usage.input_image)),
    ("output", |view| tokens(view, |usage| usage.output)),
    ("reasoning", |view| tokens(view, |usage| usage.reasoning)),
    ("output_audio", |view| tokens(view, |usage| usage.output_audio)),
    ("output_image", |view| tokens(view, |usage| usage.output_image)),
    ("usage_source", |view| view.usage_source.as_ref().map(word).unwrap_or_default()),
    ("images", |view| text(view.images.as_ref().map(|images| images.count))),
    ("image_size", |view| text(view.images.as_ref().and_then(|images| images.size.as_ref()))),
    ("image_quality", |view| text(view.images.as_ref().and_then(|images| images.quality.as_ref()))),
    ("service_tier", |view| view.service_tier.as_ref().map(word).unwrap_or_default()),
    ("cost_nano_usd", |view| text(view.cost_nano_usd)),
    ("cost_usd", |view| text(view.cost_usd.as_ref())),
    ("price", |view| text(view.price.as_ref().map(|price| &price.name))),
    ("duration_us", |view| view.duration_us.to_string()),
    ("ttft_us", |view| text(view.ttft_us)),
    ("bytes_in", |view| view.bytes_in.to_string()),
    ("bytes_out", |view| view.bytes_out.to_string()),
    ("attempts", |view| view.attempts.len().to_string()),
    ("tags", |view| view.tags.join(" ")),
    ("session", |view| text(view.session.as_ref())),
    ("verdict", |view| text(view.verdict.as_ref().map(|verdict| &verdict.verdict))),
];

/// The heading of an export in CSV.
pub fn csv_heading() -> String {
    csv_line(COLUMNS.iter().map(|(name, _)| (*name).to_owned()))
}

/// A row of an export in CSV (RFC 4180), in the order of the heading.
pub fn csv_row(view: &RequestView) -> String {
    csv_line(COLUMNS.iter().map(|(_, cell)| csv_cell(&cell(view))))
}

fn csv_line(cells: impl Iterator<Item = String>) -> String {
    cells.collect::<Vec<_>>().join(",") + "\r\n"
}

/// A value that may be unknown: nothing then, which is not zero.
fn text(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn tokens(view: &RequestView, class: fn(&Usage) -> u64) -> String {
    text(view.usage.as_ref().map(class))
}

/// The word that a unit variant is in JSON.
fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// A cell that a spreadsheet shows as text, whatever a caller put into it: one that would begin a formula gets an apostrophe
/// before it (OWASP, CSV Injection), and every cell with a separator, a quote or a line end is quoted.
fn csv_cell(text: &str) -> String {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let formula = !number && text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '|', '%']);
    let safe = if formula { format!("'{text}") } else { text.to_owned() };
    if safe.contains([',', '"', '\r', '\n', '\'', ';', '\t']) {
        return format!("\"{}\"", safe.replace('"', "\"\""));
    }
    safe
}

/// Whether a record is among those that a filter means; order, cursor and limit do not matter.
pub fn matches(filter: &Filter, record: &Record) -> bool {
    let is =
        |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|wanted| found == Some(wanted));
    let model = |pattern: &crate::unit::glob::Glob| {
        [&record.model_requested, &record.model_served].into_iter().flatten().any(|model| pattern.matches(model))
    };
    let status = |wanted: &StatusFilter| match wanted {
        StatusFilter::Exact(status) => record.status == *status,
        StatusFilter::Class(class) => record.status / 100 == u16::from(*class),
    };
    filter.since.is_none_or(|since| record.started_at >= since)
        && filter.until.is_none_or(|until| record.started_at < until)
        && is(&filter.key_id, record.key_id.as_deref())
        && is(&filter.org, record.org.as_deref())
        && is(&filter.team, record.team.as_deref())
        && is(&filter.user, record.user.as_deref())
        && is(&filter.provider, record.provider.as_deref())
        && is(&filter.operation, Some(&record.operation))
        && filter.model.as_ref().is_none_or(model)
        && filter.status.as_ref().is_none_or(status)
        && filter.outcome.is_none_or(|outcome| record.outcome == outcome)
        && (!filter.errors_only || record.outcome != Outcome::Answered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_never_begins_a_formula() {
        for bad in ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "|calc", "%x", "-inf", "-"] {
            let cell = csv_cell(bad);
            assert!(cell.trim_start_matches('"').starts_with('\''), "{cell}");
        }
        assert_eq!(csv_cell("-5"), "-5");
        assert_eq!(csv_cell("a,b"), "\"a,b\"");
        assert_eq!(csv_cell("say \"hi\""), "\"say \"\"hi\"\"\"");
        assert_eq!(csv_cell("gpt-4o"), "gpt-4o");
    }
    #[test]
    fn a_column_means_what_its_word_means_in_json() {
        let usage = Usage {
            input: 1,
            cache_read: 2,
            cache_write_5m: 3,
            cache_write_1h: 4,
            input_audio: 5,
            input_image: 6,
            output: 7,
            reasoning: 8,
            output_audio: 9,
            output_image: 10,
        };
        let record = Record {
            usage: Some(usage),
            usage_source: Some(UsageSource::Reported),
            service_tier: Some(ServiceTier::Standard),
            ..crate::ledger::journal::tests::record("/x")
        };
        let view = RequestView::from(record);
        let json = serde_json::to_value(&view).unwrap();
        let words = json.as_object().unwrap().iter().chain(json["usage"].as_object().unwrap());
        let (mut found, mut classes) = (0, 0);
        for (word, value) in words {
            let Some((_, cell)) = COLUMNS.iter().find(|(name, _)| name == word) else { continue };
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let nested = value.is_array() || value.is_object();
            assert!(nested || cell(&view) == if value.is_null() { String::new() } else { text }, "{word}");
            found += 1;
            classes += usize::from(json["usage"].get(word).is_some());
        }
        assert_eq!(classes, usage.counts().len(), "every class has its column");
        // The two words for the kind of the images are theirs alone, and `usage` has no column of its own.
        assert_eq!(found, COLUMNS.len() - 2);
        let unknown = RequestView::from(Record { usage: None, ..crate::ledger::journal::tests::record("/x") });
        assert_eq!(tokens(&unknown, |usage| usage.input), "", "what is not known is not zero");
    }
}
