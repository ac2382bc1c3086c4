//! The request log: lists, single records, exports of any size, and live events.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::admin::State;
use crate::admin::auth::{self, Caller};
use crate::admin::live::{Closing, Pen, ReaderGone};
use crate::admin::record::{self, RequestView};
use crate::admin::respond::{self, ErrorAnswer, Params, Params2, Refusal, Segment};
use crate::admin::shape;
use crate::admin::time::Time;
use crate::error::{Error, StoreError};
use crate::ledger::query::{Cursor, Filter, Order, StatusFilter};
use crate::ledger::{Outcome, Record};
use crate::telemetry::task;
use crate::unit::clock::{Tick, Timestamp};
use crate::unit::glob::Glob;
use crate::unit::id::ExchangeId;

/// How many records an export or a look for new ones takes at one time.
const PIECE: usize = 500;
/// How often live events look for new records.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long live events stay silent before a sign of life. The token is looked at again then, and before each piece of events.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// Which records are meant.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct RecordQuery {
    /// Only those that started at that time or later.
    #[param(value_type = Option<Time>)]
    since: Option<Time>,
    /// Only those that started before that time.
    #[param(value_type = Option<Time>)]
    until: Option<Time>,
    /// Only those of this key.
    #[param(pattern = "^key_[0-9a-v]{26}$")]
    key_id: Option<String>,
    /// Only those of this organisation.
    #[param(min_length = 1, max_length = 128)]
    org: Option<String>,
    /// Only those of this team.
    #[param(min_length = 1, max_length = 128)]
    team: Option<String>,
    /// Only those of this user.
    #[param(min_length = 1, max_length = 128)]
    user: Option<String>,
    /// Only those that asked for, or were served by, a model of this pattern.
    #[param(min_length = 1, max_length = 256, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]+$")]
    model: Option<String>,
    /// Only those that this provider answered.
    #[param(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9._-]+$")]
    provider: Option<String>,
    /// Only those with this status, such as 429, or of this class, such as 4xx; 0 is for callers that went away before one.
    #[param(pattern = "^([1-5]xx|0|[1-9][0-9]{2})$")]
    status: Option<String>,
    /// Only those that ended so.
    #[param(inline)]
    outcome: Option<Outcome>,
    /// Only those that were not answered well.
    errors_only: Option<bool>,
    /// Only those of this operation, such as `chat`.
    #[param(min_length = 1, max_length = 64)]
    operation: Option<String>,
}

/// Which piece of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct PieceQuery {
    /// In which order; newest first when left out.
    #[param(inline)]
    order: Option<OrderName>,
    /// The most records in the answer.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<u32>,
    /// Where an earlier page of the same list ended.
    #[param(pattern = "^[0-9]{1,18}[.][0-9]{1,18}$")]
    cursor: Option<String>,
}

/// An order of records by their start.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OrderName {
    /// The latest first.
    Newest,
    /// The earliest first.
    Oldest,
}

/// How an export is written.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExportQuery {
    /// The format.
    #[param(inline)]
    format: ExportFormat,
}

/// The format of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExportFormat {
    /// One JSON object a line.
    Jsonl,
    /// RFC 4180, with a heading.
    Csv,
}

/// A page of the request log.
#[derive(Debug, Serialize, ToSchema)]
pub struct RequestList {
    /// The records in the order asked for.
    pub requests: Vec<RequestView>,
    /// What to pass as `cursor` for the rest; null at the end.
    pub next_cursor: Option<String>,
}

/// Which record.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "it only describes the parameter; `Segment` reads it")]
struct RequestPath {
    /// The id of the exchange.
    #[param(format = "uuid", pattern = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
    id: String,
}

/// Lists records of the request log.
#[utoipa::path(get, path = "/admin/requests", operation_id = "list_requests", tag = "requests",
    params(RecordQuery, PieceQuery), responses(
    (status = 200, description = "A page of records.", body = RequestList),
))]
pub async fn list(state: State, query: Params2<RecordQuery, PieceQuery>) -> Result<Response, Refusal> {
    let Params2(query, piece) = query;
    let filter = piece.apply(query.check()?)?;
    let page = state.ledger.find(&filter).await.map_err(Error::from)?;
    Ok(respond::ok(&RequestList {
        requests: page.records.into_iter().map(RequestView::from).collect(),
        next_cursor: page.next.map(|cursor| cursor.to_string()),
    }))
}

/// Shows a record of the request log.
#[utoipa::path(get, path = "/admin/requests/{id}", operation_id = "get_request", tag = "requests", params(RequestPath),
    responses(
    (status = 200, description = "The record.", body = RequestView),
    (status = 404, description = "There is no such record.", body = ErrorAnswer),
))]
pub async fn show(state: State, id: Segment) -> Result<Response, Refusal> {
    // Other spellings of a UUID are not taken: an id is written in one way everywhere.
    let parsed = id.0.parse::<ExchangeId>().ok().filter(|parsed| parsed.to_string() == id.0);
    let parsed = parsed.ok_or_else(|| Refusal::invalid("id", "The id of an exchange is a UUID in lower case."))?;
    let found = state.ledger.get(parsed).await.map_err(Error::from)?;
    Ok(respond::ok(&RequestView::from(found.ok_or_else(|| Refusal::missing("record"))?)))
}

/// Exports records of the request log, oldest first.
///
/// The answer is streamed and may be of any size. If it cannot be completed, the connection breaks instead of ending.
#[utoipa::path(get, path = "/admin/requests/export", operation_id = "export_requests", tag = "requests",
    params(RecordQuery, ExportQuery), responses(
    (status = 200, description = "Every record that matches.", content(
        (String = "application/jsonl"), (String = "text/csv"))),
))]
pub async fn export(state: State, query: Params2<RecordQuery, ExportQuery>) -> Result<Response, Refusal> {
    let Params2(query, ExportQuery { format }) = query;
    let mut filter = query.check()?;
    let now = Timestamp::now();
    // What arrives while the export runs is not part of it, or a busy gateway would never let it end.
    filter.until = Some(filter.until.unwrap_or(now));
    filter.order = Order::OldestFirst;
    filter.limit = PIECE;
    // The first piece is read here, so that a store that is away is told with a status.
    let first = state.ledger.find(&filter).await.map_err(Error::from)?;
    let (pen, body) = Pen::new();
    task::spawn("export", async move {
        let mut page = first;
        if format == ExportFormat::Csv && pen.write(record::csv_heading()).await.is_err() {
            return;
        }
        loop {
            let text: String = page.records.into_iter().map(|one| line(one, format)).collect();
            if !text.is_empty() && pen.write(text).await.is_err() {
                return;
            }
            let Some(next) = page.next else { return };
            filter.after = Some(next);
            page = match state.ledger.find(&filter).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::error!(error = %error, "an export broke off");
                    return pen.break_off().await;
                }
            };
        }
    });
    let (kind, extension) = match format {
        ExportFormat::Jsonl => ("application/jsonl", "jsonl"),
        ExportFormat::Csv => ("text/csv; charset=utf-8", "csv"),
    };
    let name = format!("attachment; filename=\"marg-requests-{}.{extension}\"", now.seconds());
    let mut answer = ([(header::CONTENT_TYPE, kind)], body).into_response();
    if let Ok(name) = HeaderValue::try_from(name) {
        answer.headers_mut().insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(answer)
}

fn line(record: Record, format: ExportFormat) -> String {
    let view = RequestView::from(record);
    match format {
        ExportFormat::Csv => record::csv_row(&view),
        // A view holds only texts, numbers and lists, which always serialise.
        ExportFormat::Jsonl => serde_json::to_string(&view).map(|text| text + "\n").unwrap_or_default(),
    }
}

/// Sends records of the request log as they arrive, as server-sent events.
///
/// Each event is called `request`; its data is one record. A client that comes back with `last-event-id` misses nothing. The
/// stream has no end of its own; it ends when the gateway stops or the admin token does.
#[utoipa::path(get, path = "/admin/requests/tail", operation_id = "tail_requests", tag = "requests", params(RecordQuery),
    responses(
    (status = 200, description = "A stream of events without an end.", body = String, content_type = "text/event-stream"),
))]
pub async fn tail(
    state: State,
    caller: Caller,
    live: Live,
    Params(query): Params<RecordQuery>,
) -> Result<Response, Refusal> {
    let filter = query.check()?;
    let cursor = match live.after {
        Some(cursor) => Some(cursor),
        None => newest(&state).await.map_err(Error::from)?,
    };
    let (pen, body) = Pen::new();
    task::spawn("tail", async move {
        let follow = Follow { state, caller, filter, cursor };
        tokio::select! {
            // Whoever reads it is gone, the token is over, or the gateway stops: either way there is nothing left to do.
            _ = follow.run(&pen) => {}
            () = pen.closed() => {}
            () = Closing::wait(live.closing) => {}
        }
    });
    Ok(([(header::CONTENT_TYPE, "text/event-stream")], body).into_response())
}

/// What a live stream needs from its request besides the query.
pub struct Live {
    after: Option<Cursor>,
    closing: Option<Closing>,
}

impl FromRequestParts<State> for Live {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &State) -> Result<Self, Refusal> {
        Ok(Self { after: last_event(&parts.headers)?, closing: parts.extensions.get::<Closing>().cloned() })
    }
}

/// Where an earlier stream ended (HTML Standard, section 9.2.4).
fn last_event(headers: &HeaderMap) -> Result<Option<Cursor>, Refusal> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    match value.to_str().ok().and_then(|text| cursor(text).ok()) {
        Some(cursor) => Ok(Some(cursor)),
        None => Err(Refusal::invalid("last-event-id", "The last event id is not one that this stream gave.")),
    }
}

/// The place behind the newest record.
async fn newest(state: &State) -> Result<Option<Cursor>, StoreError> {
    let page = state.ledger.find(&Filter { limit: 1, ..Filter::default() }).await?;
    Ok(page.next)
}

struct Follow {
    state: State,
    caller: Caller,
    filter: Filter,
    cursor: Option<Cursor>,
}

impl Follow {
    async fn run(mut self, pen: &Pen) -> Result<(), ReaderGone> {
        // The first bytes tell the client at once that it is connected, and where it is: before the first record, at the beginning.
        let place = self.cursor.map_or_else(|| "0.0".to_owned(), |cursor| cursor.to_string());
        pen.write(format!("retry: 2000\nid: {place}\n\n")).await?;
        let mut last_sign = Tick::now();
        loop {
            let more = match self.look(pen).await? {
                Ok(more) => more,
                Err(error) => {
                    tracing::warn!(error = %error, "live events cannot read the request log");
                    false
                }
            };
            if last_sign.elapsed() >= SIGN_OF_LIFE {
                last_sign = Tick::now();
                self.ask_token().await?;
                pen.write(":\n\n").await?;
            }
            if !more {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// Whoever lost the right to read counts as gone.
    async fn ask_token(&self) -> Result<(), ReaderGone> {
        if auth::still_good(&self.state, &self.caller).await { Ok(()) } else { Err(ReaderGone) }
    }

    /// Sends what arrived since the last look; whether there may be more already.
    ///
    /// The store is asked for everything and the filter is applied here: a filter that rarely matches would otherwise make it
    /// read the same records again at every look.
    async fn look(&mut self, pen: &Pen) -> Result<Result<bool, StoreError>, ReaderGone> {
        let asked = Filter { order: Order::Arrival, after: self.cursor, limit: PIECE, ..Filter::default() };
        let page = match self.state.ledger.find(&asked).await {
            Ok(page) => page,
            Err(error) => return Ok(Err(error)),
        };
        let more = page.records.len() == PIECE;
        let mut text = String::new();
        for one in page.records {
            if record::matches(&self.filter, &one) {
                text.push_str("event: request\ndata: ");
                text.push_str(&line(one, ExportFormat::Jsonl));
                text.push('\n');
            }
        }
        self.cursor = page.next.or(self.cursor);
        if let (false, Some(cursor)) = (text.is_empty(), self.cursor) {
            // An id alone sets the place to come back to without being an event.
            text.push_str(&format!("id: {cursor}\n\n"));
            self.ask_token().await?;
            pen.write(text).await?;
        }
        Ok(Ok(more))
    }
}

fn cursor(text: &str) -> Result<Cursor, Refusal> {
    let digits = |part: &str| (1..=18).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    let whole = text.split_once('.').is_some_and(|(time, number)| digits(time) && digits(number));
    let parsed = if whole { text.parse().ok() } else { None };
    parsed.ok_or_else(|| Refusal::invalid("cursor", "The cursor is not one that an earlier page gave."))
}

impl PieceQuery {
    fn apply(self, filter: Filter) -> Result<Filter, Refusal> {
        let order = match self.order {
            Some(OrderName::Oldest) => Order::OldestFirst,
            Some(OrderName::Newest) | None => Order::NewestFirst,
        };
        let after = self.cursor.as_deref().map(cursor).transpose()?;
        Ok(Filter { order, after, limit: shape::check_limit(self.limit)?, ..filter })
    }
}

impl RecordQuery {
    pub(super) fn check(self) -> Result<Filter, Refusal> {
        let words = [("org", &self.org), ("team", &self.team), ("user", &self.user)];
        words.into_iter().try_for_each(|(field, word)| shape::check_word(field, word.as_deref()))?;
        if self.key_id.as_deref().is_some_and(|id| !respond::is_id("key", id)) {
            return Err(Refusal::invalid("key_id", "A key's id is key_ and 26 characters of 0-9 and a-v."));
        }
        let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if self.provider.as_deref().is_some_and(|name| !(1..=64).contains(&name.len()) || !name.bytes().all(known)) {
            return Err(Refusal::invalid("provider", "A provider's name is 1 to 64 of a-z A-Z 0-9 . _ -"));
        }
        if self.operation.as_deref().is_some_and(|word| !(1..=64).contains(&word.chars().count())) {
            return Err(Refusal::invalid("operation", "An operation has 1 to 64 characters."));
        }
        let model = self.model.map(|pattern| {
            shape::check_patterns("model", std::slice::from_ref(&pattern))?;
            Glob::new(&pattern).map_err(|sentence| Refusal::invalid("model", sentence))
        });
        Ok(Filter {
            since: self.since.map(|time| time.0),
            until: self.until.map(|time| time.0),
            key_id: self.key_id,
            org: self.org,
            team: self.team,
            user: self.user,
            model: model.transpose()?,
            provider: self.provider,
            status: self.status.as_deref().map(status).transpose()?,
            outcome: self.outcome,
            errors_only: self.errors_only.unwrap_or(false),
            operation: self.operation,
            ..Filter::default()
        })
    }
}

fn status(text: &str) -> Result<StatusFilter, Refusal> {
    let plain = text.len() == 3 || text == "0";
    let lower = !text.contains(['X', '+']);
    text.parse()
        .ok()
        .filter(|_| plain && lower)
        .ok_or_else(|| Refusal::invalid("status", "A status is a number such as 429, or a class such as 4xx."))
}
