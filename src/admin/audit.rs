//! The audit log: how it stands, entries, receipts, live entries, and the files that anybody can verify it by.
//!
//! Files are served as they lie on the disk (c2sp.org/tlog-tiles); `audit.open_tiles` decides whether a token is needed. A receipt
//! is asked for by the id of its exchange, and the answer waits until the entry is under a checkpoint.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::admin::State;
use crate::admin::auth::{self, Caller};
use crate::admin::control::{Auditing, WitnessState};
use crate::admin::live::{Closing, Pen, ReaderGone};
use crate::admin::respond::{self, ErrorAnswer, Params, Refusal, Segment};
use crate::admin::shape;
use crate::admin::time::Time;
use crate::audit::index::{self, Filter};
use crate::audit::log::{Log, LogError, Status};
use crate::audit::receipt::Receipt;
use crate::audit::rotation;
use crate::audit::tiles::{self, TreeFiles, WIDTH};
use crate::audit::witness::AddCheckpoint;
use crate::error::{Error, Kind};
use crate::telemetry::task;
use crate::unit::clock::Timestamp;

/// How long a receipt is waited for: an entry is under a checkpoint within a second, unless something is wrong.
const RECEIPT_WITHIN: Duration = Duration::from_secs(5);
/// An exchange that began longer ago has its entry, or none: the longest that one may take in practice.
const RECENT: Duration = Duration::from_secs(3600);
/// How long live entries stay silent before a sign of life. The token is looked at again then, and before each piece of entries.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// How the audit log stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditStatus {
    /// Whether it can be written.
    pub working: bool,
    /// Why not.
    pub trouble: Option<String>,
    /// What is wrong at present: `writing`, `checkpoint`, `witnesses`, `rollback`.
    pub alarms: Vec<&'static str>,
    /// Whether calls are refused while it cannot be written.
    pub enforced: bool,
    /// The name of the log; null while it is not open.
    pub origin: Option<String>,
    /// The verifier keys that signed it, and its witnesses, as `marg audit verify --policy` takes them.
    pub policy: Option<String>,
    /// Its entries, those in memory included.
    pub entries: u64,
    /// Those that are on the disk.
    pub committed: u64,
    /// Those under the last checkpoint.
    pub signed: u64,
    /// When that was signed, or when the process started on it.
    pub signed_at: Option<Time>,
    /// Those under the last checkpoint that enough witnesses cosigned.
    pub witnessed: u64,
    /// Those below this index were deleted; their hashes stay.
    pub pruned: u64,
    /// Writes and signatures that failed since the start.
    pub failures: u64,
    /// How the witnesses that are asked stand.
    pub witnesses: Vec<WitnessState>,
}

/// A piece of the log.
#[derive(Debug, Serialize, ToSchema)]
pub struct EntryList {
    /// The entries that match, newest first.
    pub entries: Vec<EntryView>,
    /// What to pass as `before` for older ones; null at the end.
    pub next_before: Option<u64>,
}

/// One entry.
#[derive(Debug, Serialize, ToSchema)]
pub struct EntryView {
    /// Its place in the log, from 0.
    pub index: u64,
    /// What was logged; docs/schemas/audit has the schema of each kind.
    #[schema(value_type = Object)]
    pub entry: Value,
}

/// Which entries are meant; everything that is given must match.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct EntryQuery {
    /// Only those of this key.
    #[param(min_length = 1, max_length = 256)]
    key: Option<String>,
    /// Only those of this organisation.
    #[param(min_length = 1, max_length = 256)]
    org: Option<String>,
    /// Only those of this team.
    #[param(min_length = 1, max_length = 256)]
    team: Option<String>,
    /// Only those of this user.
    #[param(min_length = 1, max_length = 256)]
    user: Option<String>,
    /// Only those that asked for, or were served by, this model.
    #[param(min_length = 1, max_length = 256)]
    model: Option<String>,
    /// Only events that happened to this.
    #[param(min_length = 1, max_length = 256)]
    subject: Option<String>,
    /// Only those of this kind, such as exchange, refusal, key, policy.
    #[param(min_length = 1, max_length = 256)]
    kind: Option<String>,
    /// Only those with this effective verdict, or this outcome where the gate was not asked.
    #[param(min_length = 1, max_length = 256)]
    verdict: Option<String>,
    /// Only those at that time or later.
    #[param(value_type = Option<Time>)]
    since: Option<Time>,
    /// Only those before that time.
    #[param(value_type = Option<Time>)]
    until: Option<Time>,
}

/// Which piece of the log.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct EntryPiece {
    /// The most entries in the answer.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<u32>,
    /// Only entries below this index.
    #[param(minimum = 0)]
    before: Option<u64>,
    /// Only entries at this index or above it.
    #[param(minimum = 0)]
    from: Option<u64>,
}

/// Which exchange.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "it only describes the parameter; `Segment` reads it")]
struct ReceiptPath {
    /// The id of the exchange, or the index of any entry.
    #[param(pattern = "^([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9]{1,18})$")]
    id: String,
}

/// What goes into the receipt.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct ReceiptQuery {
    /// Put in the salt of the entry's commitments: whoever has it can show which prompt and answer the entry is of.
    salt: bool,
}

impl EntryQuery {
    fn filter(self) -> Result<Filter, Refusal> {
        let Self { key, org, team, user, model, subject, kind, verdict, since, until } = self;
        let texts = [&key, &org, &team, &user, &model, &subject, &kind, &verdict];
        if texts.into_iter().flatten().any(|text| text.is_empty() || text.chars().count() > 256) {
            return Err(Refusal::invalid("query", "A text to search for has 1 to 256 characters."));
        }
        let (since, until) = (since.map(|time| time.0), until.map(|time| time.0));
        Ok(Filter { id: None, key, org, team, user, model, subject, kind, verdict, since, until })
    }
}

/// How the audit log stands.
#[utoipa::path(get, path = "/admin/audit", operation_id = "audit_status", tag = "audit", responses(
    (status = 200, description = "Its state.", body = AuditStatus),
    (status = 404, description = "There is no audit log (`audit.enabled`).", body = ErrorAnswer),
))]
pub async fn status(state: State) -> Result<Response, Refusal> {
    let Auditing { log, trouble, alarms, enforced, witnesses, .. } = auditing(&state)?;
    let asked = log.clone();
    let told = blocking(move || Ok(asked.map(|log| (log.policy().to_text(), log.status())))).await?;
    let (policy, status) = told.unzip();
    let Status { origin, size, committed, published, published_at, witnessed, pruned, failures, failing: _ } =
        status.unwrap_or_default();
    Ok(respond::ok(&AuditStatus {
        working: trouble.is_none(),
        trouble,
        alarms,
        enforced,
        origin: log.is_some().then_some(origin),
        policy,
        entries: size,
        committed,
        signed: published,
        signed_at: published_at.map(Into::into),
        witnessed,
        pruned,
        failures,
        witnesses,
    }))
}

/// The last signed checkpoint (c2sp.org/tlog-checkpoint), with cosignatures.
#[utoipa::path(get, path = "/admin/audit/checkpoint", operation_id = "audit_checkpoint", tag = "audit", responses(
    (status = 200, description = "A signed note.", body = String, content_type = "text/plain"),
    (status = 404, description = "There is no audit log, or it has no checkpoint yet.", body = ErrorAnswer),
))]
pub async fn checkpoint(state: State) -> Result<Response, Refusal> {
    let (last, _) = open(&state)?.published();
    let last = last.ok_or_else(|| Refusal::missing("checkpoint yet"))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], last.note.to_string()).into_response())
}

/// From which size.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Since {
    /// The size of the older checkpoint.
    #[param(minimum = 0)]
    since: u64,
}

/// The proof that the newest checkpoint continues an older one.
///
/// A text as c2sp.org/tlog-witness has it: `old SIZE`, the hashes, an empty line, the checkpoint. `marg audit verify --proof FILE
/// --since FILE` checks it offline.
#[utoipa::path(get, path = "/admin/audit/consistency", operation_id = "audit_consistency", tag = "audit", params(Since),
    responses(
    (status = 200, description = "The proof.", body = String, content_type = "text/plain"),
    (status = 404, description = "There is no audit log, or no checkpoint of that size or a larger one.", body = ErrorAnswer),
))]
pub async fn consistency(state: State, Params(Since { since }): Params<Since>) -> Result<Response, Refusal> {
    let log = open(&state)?;
    let (last, _) = log.published();
    let missing = || Refusal::missing("size under a checkpoint");
    let last = last.filter(|last| since <= last.checkpoint.size).ok_or_else(missing)?;
    let proof = blocking(move || {
        let tree = TreeFiles::new(&log.log_folder(), last.checkpoint.size);
        Ok(AddCheckpoint::make(&last, since, &tree)?)
    });
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], proof.await?.to_text()).into_response())
}

/// Lists entries that match, newest first.
#[utoipa::path(get, path = "/admin/audit/entries", operation_id = "list_audit_entries", tag = "audit",
    params(EntryQuery, EntryPiece), responses(
    (status = 200, description = "A piece of the log.", body = EntryList),
    (status = 404, description = "There is no audit log.", body = ErrorAnswer),
))]
pub async fn entries(state: State, query: respond::Params2<EntryQuery, EntryPiece>) -> Result<Response, Refusal> {
    let respond::Params2(query, EntryPiece { limit, before, from }) = query;
    let (filter, limit) = (query.filter()?, shape::check_limit(limit)?);
    for (name, index) in [("before", before), ("from", from)] {
        if index.is_some_and(|index| i64::try_from(index).is_err()) {
            return Err(Refusal::invalid(name, "An index is below 2^63."));
        }
    }
    let log = open(&state)?;
    let found = blocking(move || {
        let Status { pruned, published, .. } = log.status();
        let before = before.unwrap_or(published).min(published);
        find(&log, (from.unwrap_or(0).max(pruned), before), &filter, limit)
    });
    let found = found.await?;
    let next_before = (found.len() == limit).then(|| found.last().map(|one| one.index)).flatten();
    let next_before = next_before.filter(|index| *index > from.unwrap_or(0));
    Ok(respond::ok(&EntryList { entries: found, next_before }))
}

/// The receipt of an exchange, or of any entry by its index.
///
/// It verifies offline with public keys alone (`marg audit verify --receipt`). The answer waits until the entry is under a
/// checkpoint, which takes less than a second.
#[utoipa::path(get, path = "/admin/audit/receipts/{id}", operation_id = "get_audit_receipt", tag = "audit",
    params(ReceiptPath, ReceiptQuery), responses(
    (status = 200, description = "The receipt.", body = Object),
    (status = 404, description = "There is no such entry, it was deleted, or its salt is wanted and was erased.",
        body = ErrorAnswer),
))]
pub async fn receipt(state: State, id: Segment, Params(wanted): Params<ReceiptQuery>) -> Result<Response, Refusal> {
    let log = open(&state)?;
    let id = id.0;
    let by_index = id.parse::<u64>().ok().filter(|_| id.len() <= 18 && id.bytes().all(|byte| byte.is_ascii_digit()));
    let by_id = id.parse::<Uuid>().ok().filter(|parsed| parsed.to_string() == id);
    if by_index.is_none() && by_id.is_none() {
        return Err(Refusal::invalid("id", "Name an exchange by its UUID in lower case, or an entry by its index."));
    }
    let (waiting, mut sizes) = (log.clone(), log.sizes());
    let waited = tokio::time::timeout(RECEIPT_WITHIN, async {
        loop {
            sizes.mark_unchanged();
            let asked = waiting.clone();
            let made = blocking(move || make(&asked, by_index, by_id)).await?;
            if let Some(receipt) = made {
                return Ok(receipt);
            }
            let comes = by_id.is_some_and(is_recent) || by_index.is_some_and(|index| index < waiting.status().size);
            if !comes || sizes.changed().await.is_err() {
                return Err(Refusal::missing("entry"));
            }
        }
    });
    let mut receipt = waited.await.map_err(|_| Refusal::missing("entry"))??;
    if wanted.salt {
        let index = receipt.index;
        receipt.salt = blocking(move || log.salt(index)).await?;
        if receipt.salt.is_none() {
            return Err(Refusal::missing("salt: the entry commits to nothing, or its salt was erased"));
        }
    }
    Ok(([(header::CONTENT_TYPE, "application/json")], receipt.to_text()).into_response())
}

/// Whether an exchange of that id may have ended so lately that its entry is still on its way (RFC 9562 section 5.7).
fn is_recent(id: Uuid) -> bool {
    let began = i64::try_from(id.as_u128() >> 80).unwrap_or(0).saturating_mul(1_000);
    (Timestamp::now().micros().saturating_sub(began)).unsigned_abs() < RECENT.as_micros() as u64
}

/// The receipt, if its entry is under a checkpoint.
fn make(log: &Log, index: Option<u64>, id: Option<Uuid>) -> Result<Option<Receipt>, LogError> {
    let Status { pruned, published, .. } = log.status();
    let mut index = index;
    for kind in ["exchange", "refusal"] {
        if index.is_none() && id.is_some() {
            let filter = Filter { id, kind: Some(kind.to_owned()), ..Filter::default() };
            index = find(log, (pruned, published), &filter, 1)?.first().map(|found| found.index);
        }
    }
    match index {
        Some(index) if index < published => Receipt::make(log, index).map(Some),
        _ => Ok(None),
    }
}

fn find(log: &Log, range: (u64, u64), filter: &Filter, limit: usize) -> Result<Vec<EntryView>, LogError> {
    let found = index::search((log.folder(), &log.log_folder()), range, filter, limit)?;
    let view =
        |(index, bytes): (u64, Vec<u8>)| EntryView { index, entry: serde_json::from_slice(&bytes).unwrap_or_default() };
    Ok(found.into_iter().map(view).collect())
}

/// Sends entries as they come under a checkpoint, as server-sent events.
///
/// Each event is called `entry`; its data is one entry with its index. A client that comes back with `last-event-id` misses
/// nothing. The stream ends when the gateway stops or the admin token does.
#[utoipa::path(get, path = "/admin/audit/tail", operation_id = "tail_audit_entries", tag = "audit", params(EntryQuery),
    responses(
    (status = 200, description = "A stream of events without an end.", body = String, content_type = "text/event-stream"),
    (status = 404, description = "There is no audit log.", body = ErrorAnswer),
))]
pub async fn tail(
    state: State,
    caller: Caller,
    live: Live,
    Params(query): Params<EntryQuery>,
) -> Result<Response, Refusal> {
    let filter = query.filter()?;
    let log = open(&state)?;
    let next = live.after.map_or_else(|| log.status().published, |index| index.saturating_add(1));
    let (pen, body) = Pen::new();
    task::spawn("audit tail", async move {
        tokio::select! {
            // Whoever reads it is gone, the token is over, or the gateway stops: either way there is nothing left to do.
            _ = follow((state, caller), log, filter, next, &pen) => {}
            () = pen.closed() => {}
            () = Closing::wait(live.closing) => {}
        }
    });
    Ok(([(header::CONTENT_TYPE, "text/event-stream")], body).into_response())
}

/// What a live stream needs from its request besides the query.
pub struct Live {
    after: Option<u64>,
    closing: Option<Closing>,
}

impl FromRequestParts<State> for Live {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &State) -> Result<Self, Refusal> {
        let last =
            parts.headers.get("last-event-id").map(|value| value.to_str().ok().and_then(|text| text.parse().ok()));
        let after = match last {
            Some(None) => {
                return Err(Refusal::invalid("last-event-id", "The last event id is not one that this stream gave."));
            }
            Some(index) => index,
            None => None,
        };
        Ok(Self { after, closing: parts.extensions.get::<Closing>().cloned() })
    }
}

async fn follow(
    (state, caller): (State, Caller),
    log: Arc<Log>,
    filter: Filter,
    mut next: u64,
    pen: &Pen,
) -> Result<(), ReaderGone> {
    let mut sizes = log.sizes();
    // The first bytes tell the client at once that it is connected.
    pen.write("retry: 2000\n\n").await?;
    loop {
        let size = *sizes.borrow_and_update();
        while next < size {
            let (to, part, wanted) = (size.min((next / WIDTH + 1) * WIDTH), log.clone(), filter.clone());
            let from = next;
            let found = blocking(move || find(&part, (from, to), &wanted, usize::MAX)).await;
            let mut text = String::new();
            for view in found.unwrap_or_default().iter().rev() {
                let data = serde_json::to_string(view).unwrap_or_default();
                text.push_str(&format!("event: entry\nid: {}\ndata: {data}\n\n", view.index));
            }
            next = to;
            if !text.is_empty() {
                if !auth::still_good(&state, &caller).await {
                    return Ok(());
                }
                pen.write(text).await?;
            }
        }
        match tokio::time::timeout(SIGN_OF_LIFE, sizes.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ok(()),
            Err(_) => {
                if !auth::still_good(&state, &caller).await {
                    return Ok(());
                }
                pen.write(":\n\n").await?;
            }
        }
    }
}

/// Which file.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "it only describes the parameter")]
struct TilePath {
    /// `L/N[.p/W]` or `entries/N[.p/W]`, as c2sp.org/tlog-tiles writes it; its slashes are sent as they are.
    #[param(pattern = "^([0-7]|entries)/(x[0-9]{3}/)*[0-9]{3}(\\.p/[0-9]{1,3})?$")]
    path: String,
}

/// A tile of hashes or a bundle of entries (c2sp.org/tlog-tiles).
#[utoipa::path(get, path = "/admin/audit/tile/{path}", operation_id = "get_audit_tile", tag = "audit", params(TilePath),
    responses(
    (status = 200, description = "The file.", body = Vec<u8>, content_type = "application/octet-stream"),
    (status = 404, description = "There is no such file, or no audit log.", body = ErrorAnswer),
))]
pub async fn tile(state: State, Path(path): Path<String>) -> Result<Response, Refusal> {
    let log = open(&state)?;
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
    if path.len() > 128 || path.contains("..") || !path.split('/').all(plain) {
        return Err(Refusal::missing("tile"));
    }
    let folder = log.log_folder();
    let path = blocking(move || Ok(tiles::locate(&folder, &format!("tile/{path}")))).await?;
    file(path, "application/octet-stream").await
}

/// The last checkpoint that enough witnesses cosigned.
#[utoipa::path(get, path = "/admin/audit/witnessed", operation_id = "audit_witnessed", tag = "audit", responses(
    (status = 200, description = "A signed note.", body = String, content_type = "text/plain"),
    (status = 404, description = "There is no audit log, or no such checkpoint yet.", body = ErrorAnswer),
))]
pub async fn witnessed(state: State) -> Result<Response, Refusal> {
    let (_, witnessed) = open(&state)?.published();
    let last = witnessed.ok_or_else(|| Refusal::missing("witnessed checkpoint"))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], last.note.to_string()).into_response())
}

/// The statements by which the log went over to new keys: a JSON list of signed notes.
#[utoipa::path(get, path = "/admin/audit/rotations", operation_id = "audit_rotations", tag = "audit", responses(
    (status = 200, description = "The statements, oldest first.", body = Vec<String>),
    (status = 404, description = "There is no audit log.", body = ErrorAnswer),
))]
pub async fn rotations(state: State) -> Result<Response, Refusal> {
    let log = open(&state)?;
    if log.rotations().is_empty() {
        return Ok(([(header::CONTENT_TYPE, "application/json")], "[]").into_response());
    }
    file(log.log_folder().join(rotation::FILE), "application/json").await
}

async fn file(path: PathBuf, kind: &'static str) -> Result<Response, Refusal> {
    let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
    match read.map_err(|error| unreadable(&error))? {
        Ok(bytes) => {
            let kind = HeaderValue::from_static(kind);
            Ok(([(header::CONTENT_TYPE, kind)], bytes).into_response())
        }
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory | std::io::ErrorKind::IsADirectory
            ) =>
        {
            Err(Refusal::missing("tile"))
        }
        Err(error) => Err(unreadable(&error)),
    }
}

fn auditing(state: &State) -> Result<Auditing, Refusal> {
    state.control.audit().ok_or_else(|| Refusal::missing("audit log (audit.enabled)"))
}

pub(super) fn open(state: &State) -> Result<Arc<Log>, Refusal> {
    let Auditing { log, .. } = auditing(state)?;
    log.ok_or_else(|| Error::new(Kind::Unavailable, "The audit log is not open; GET /admin/audit says why.").into())
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| unreadable(&error))?;
    done.map_err(|error| match error {
        LogError::Missing(text) => Error::new(Kind::NotFound, format!("{text}.")).into(),
        other => unreadable(&other),
    })
}

fn unreadable(error: &dyn std::fmt::Display) -> Refusal {
    tracing::error!(%error, "the audit log could not be read");
    Error::new(Kind::Internal, "The audit log cannot be read; the log of the gateway says why.").into()
}
