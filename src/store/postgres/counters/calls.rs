//! The calls on counters that callers wait for: each one function of the database, so one round trip.
//!
//! A call goes as one simple query with one JSON literal. That is one transaction wherever a pooler sends it, it needs no
//! statement that keeps a name, and nobody holds a lock while this process or the network takes its time. A call that the
//! database undid because another was in its way is sent again; one whose connection broke only if it may take effect twice.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sqlx::AssertSqlSafe;

use super::super::super::value::{Row, json};
use super::super::{Store, failed, millis, storable};
use crate::budget::authority::{Answer, Grant, PROTOCOL, Want};
use crate::error::StoreError;
use crate::ledger::query::Position;
use crate::unit::charge::{CounterId, WindowId};
use crate::unit::clock::Timestamp;

/// How often a call is sent again that another was in the way of. Rows are locked in one order, so it hardly ever is.
const AGAIN: usize = 16;

/// Whether a call may take effect twice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Twice {
    /// It may: it is sent again when its connection broke, such as one that the server closed while it was idle.
    Harmless,
    /// It may not: whoever asked is told that it is not known.
    Never,
}

/// A counter that a call names.
#[derive(Serialize)]
struct Named<'a> {
    id: String,
    line: &'a str,
    kind: &'static str,
    since: i64,
    until: Option<i64>,
    length: u32,
}

impl<'a> Named<'a> {
    fn new(text: String, id: &'a CounterId) -> Self {
        let (since, length) = match id.window {
            WindowId::Calendar { from, .. } => (from, 0),
            WindowId::Sliding { seconds } => (0, seconds),
            WindowId::Total | WindowId::Now => (0, 0),
        };
        let (kind, until) = kind(id.window);
        Self { id: text, line: &id.limit, kind, since, until, length }
    }
}

/// How a window is told apart in a row, and its end.
pub(super) fn kind(window: WindowId) -> (&'static str, Option<i64>) {
    match window {
        WindowId::Calendar { until, .. } => ("c", Some(until)),
        WindowId::Sliding { .. } => ("s", None),
        WindowId::Total => ("t", None),
        WindowId::Now => ("n", None),
    }
}

/// Counters in the order in which rows are locked, and the place of each, from 1.
struct Places<'a> {
    counters: Vec<Named<'a>>,
    places: BTreeMap<&'a CounterId, usize>,
}

impl<'a> Places<'a> {
    fn of(ids: impl Iterator<Item = &'a CounterId>) -> Self {
        // By their text, byte by byte, as the database orders them.
        let sorted: BTreeMap<String, &CounterId> = ids.map(|id| (id.to_string(), id)).collect();
        let places = sorted.values().zip(1..).map(|(id, place)| (*id, place)).collect();
        Self { counters: sorted.into_iter().map(|(text, id)| Named::new(text, id)).collect(), places }
    }

    fn place(&self, id: &CounterId) -> usize {
        self.places.get(id).copied().unwrap_or(0)
    }
}

#[derive(Serialize)]
struct Asked {
    n: usize,
    cap: i64,
    burst: Option<i64>,
    period: Option<u64>,
    need: i64,
    wish: i64,
    ahead: i64,
}

#[derive(Serialize)]
struct Acquire<'a> {
    owner: &'a str,
    counters: Vec<Named<'a>>,
    wants: Vec<Asked>,
}

#[derive(Deserialize)]
struct Leased {
    now: Timestamp,
    grants: Vec<(i64, i64, i64, i64, u8, i64)>,
}

/// Leases on several counters.
pub(super) async fn acquire(store: &Store, owner: &str, wants: &[Want]) -> Result<Answer, StoreError> {
    let places = Places::of(wants.iter().map(|want| &want.counter));
    let asked = |want: &Want| Asked {
        n: places.place(&want.counter),
        cap: want.cap,
        burst: want.pace.map(|pace| pace.burst),
        period: want.pace.map(|pace| u64::try_from(pace.period.as_micros()).unwrap_or(u64::MAX).max(1)),
        need: want.need,
        wish: want.wish,
        ahead: want.ahead,
    };
    let wants = wants.iter().map(asked).collect();
    let call = Acquire { owner, counters: places.counters, wants };
    let leased: Leased = store.leases(&call).await?;
    let grant = |(granted, spent, leased, own, wrong, wait): (i64, i64, i64, i64, u8, i64)| Grant {
        granted,
        spent,
        leased,
        own,
        wrong_window: wrong > 0,
        retry_after: u64::try_from(wait).ok().map(Duration::from_micros),
    };
    Ok(Answer { now: leased.now, grants: leased.grants.into_iter().map(grant).collect() })
}

#[derive(Serialize)]
struct Part {
    n: usize,
    amount: i64,
}

#[derive(Serialize)]
struct Release<'a> {
    owner: &'a str,
    counters: Vec<Named<'a>>,
    parts: Vec<Part>,
}

/// Gives parts of leases back.
pub(super) async fn release(store: &Store, owner: &str, parts: &[(CounterId, i64)]) -> Result<(), StoreError> {
    let places = Places::of(parts.iter().map(|(id, _)| id));
    let parts = parts.iter().map(|(id, amount)| Part { n: places.place(id), amount: *amount }).collect();
    let call = Release { owner, counters: places.counters, parts };
    store.function::<serde::de::IgnoredAny>("marg_release", &call, Twice::Never).await.map(drop)
}

#[derive(Serialize)]
struct Alive<'a> {
    owner: &'a str,
}

/// The time there, and the counters of which unused parts should come back.
#[derive(Deserialize)]
pub(super) struct Heard {
    pub(super) now: Timestamp,
    pub(super) recalled: Vec<CounterId>,
}

/// Says that an owner lives.
pub(super) async fn beat(store: &Store, owner: &str) -> Result<Heard, StoreError> {
    store.function("marg_beat", &Alive { owner }, Twice::Harmless).await
}

#[derive(Serialize)]
struct Charged {
    n: usize,
    second: i64,
    amount: i64,
}

#[derive(Serialize)]
struct Take<'a> {
    owner: &'a str,
    segment: &'a str,
    from: u64,
    to: u64,
    node: &'a str,
    counters: Vec<Named<'a>>,
    charges: Vec<Charged>,
}

#[derive(Deserialize)]
struct Taken {
    stale: bool,
}

/// Takes charges, by counter and second, and moves the position; false, and nothing is taken, if that is not where the batch
/// begins.
pub(super) async fn take(
    store: &Store,
    owner: &str,
    charges: &BTreeMap<&CounterId, BTreeMap<i64, i64>>,
    position: &Position,
) -> Result<bool, StoreError> {
    let places = Places::of(charges.keys().copied());
    let charged = |(id, amounts): (&&CounterId, &BTreeMap<i64, i64>)| {
        let n = places.place(id);
        amounts.iter().map(move |(&second, &amount)| Charged { n, second, amount }).collect::<Vec<_>>()
    };
    let charges = charges.iter().flat_map(charged).collect();
    let call = Take {
        owner,
        segment: &position.segment,
        from: position.from,
        to: position.to,
        node: &store.node,
        counters: places.counters,
        charges,
    };
    let taken: Taken = store.function("marg_take", &call, Twice::Never).await?;
    Ok(!taken.stale)
}

impl Store {
    /// Calls a function of the database that takes a JSON object and gives one.
    async fn function<T: DeserializeOwned>(
        &self,
        name: &str,
        call: &impl Serialize,
        twice: Twice,
    ) -> Result<T, StoreError> {
        let text = format!("SELECT {name}({})::text AS answer", literal(&json(call)?));
        let answer = self.bounded(self.ask(&self.limited(&text), twice)).await?;
        serde_json::from_str(&answer).map_err(|cause| StoreError::Corrupt(format!("{name} answered {cause}").into()))
    }

    /// Leases, unless a newer program does: then the number of its rules is all that is answered. One statement, so one round trip.
    async fn leases(&self, call: &Acquire<'_>) -> Result<Leased, StoreError> {
        let text = format!(
            "WITH raised AS (UPDATE counter_protocol SET number = {PROTOCOL} WHERE number < {PROTOCOL}) \
             SELECT CASE WHEN number <= {PROTOCOL} THEN marg_acquire({})::text ELSE number::text END AS answer \
             FROM counter_protocol",
            literal(&json(call)?)
        );
        let answer = self.bounded(self.ask(&self.limited(&text), Twice::Harmless)).await?;
        if let Ok(found) = answer.parse() {
            return Err(StoreError::Outdated { found, known: PROTOCOL });
        }
        serde_json::from_str(&answer)
            .map_err(|cause| StoreError::Corrupt(format!("marg_acquire answered {cause}").into()))
    }

    fn limited(&self, query: &str) -> String {
        format!("SET LOCAL statement_timeout = {}; {query}", millis(self.call_timeout))
    }

    /// Sends a query, again where that is right, and gives the text that it answers.
    async fn ask(&self, text: &str, twice: Twice) -> Result<String, StoreError> {
        let mut tries = 0;
        loop {
            // Whole, so that the connection is clean afterwards.
            let answer = match sqlx::raw_sql(AssertSqlSafe(text.to_owned())).fetch_all(self.pool()?).await {
                Ok(rows) => rows.last().map(|row| row.word("answer")).transpose()?,
                Err(error) if tries < AGAIN && again(&error, twice) => {
                    tries += 1;
                    continue;
                }
                Err(error) => return Err(failed(error)),
            };
            return answer.ok_or_else(|| StoreError::Corrupt("a function answered nothing".into()));
        }
    }
}

/// Whether a call is to be sent again. Codes: PostgreSQL's manual, appendix A.
fn again(error: &sqlx::Error, twice: Twice) -> bool {
    match error {
        // Undone for sure: a serialization failure, a deadlock.
        sqlx::Error::Database(cause) => matches!(cause.code().as_deref(), Some("40001" | "40P01")),
        sqlx::Error::Io(_) => twice == Twice::Harmless,
        _ => false,
    }
}

/// A literal that means the same whatever the server takes backslashes for.
fn literal(text: &str) -> String {
    format!("E'{}'", storable(text).replace('\\', "\\\\").replace('\'', "''"))
}
