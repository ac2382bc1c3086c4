//! Policies of the gate: what is in force, who decides a call, what was refused, and what other policies would have done.
//!
//! Audit and replay read the request log piece by piece; they need no running gate and no prompt, since every record of a
//! judged call keeps the facts that were judged.

use std::sync::Arc;

use axum::response::Response;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::admin::State;
use crate::admin::respond::{self, Body, ErrorAnswer, Params, Refusal};
use crate::admin::time::Time;
use crate::error::{Error, Kind};
use crate::kavach::admin::Operation;
use crate::kavach::config::{Mode, Reveal};
use crate::kavach::gate::GateSettings;
use crate::kavach::replay::Replaying;
use crate::kavach::report::{Report, Row};
use crate::kavach::verdict::{Decision, Ground};
use crate::kavach::{Call, Gate, PolicySet};
use crate::ledger::query::{Filter, Order};
use crate::ledger::record::{Record, Verdict, VerdictGround};
use crate::pipeline::recall;
use crate::unit::id::ExchangeId;

/// How many records are read at one time.
const PIECE: usize = 500;
/// The most records that one audit or replay looks at.
const MAX_RECORDS: u64 = 2_000_000;
/// The most rows in an answer.
const MAX_ROWS: usize = 1_000;
/// Slices that a replay keeps: callers, actions and models in use.
const REPLAY_CACHE: usize = 16_384;
const OFF: &str = "No gate is in force here: ask a running gateway whose kavach.policy is set.";

/// The gate in force.
#[derive(Debug, Serialize, ToSchema)]
pub struct PolicyView {
    /// `off`, `observe` or `enforce`.
    pub mode: String,
    /// What identifies the set of policies; null if there are none.
    pub set: Option<String>,
    /// The time zone of the clock in policies.
    pub time_zone: Option<String>,
    /// The policies, in the order of the text.
    pub policies: Vec<RuleView>,
    /// What the validator finds odd, as `file:line:column: policy: text`.
    pub warnings: Vec<String>,
}

/// One policy.
#[derive(Debug, Serialize, ToSchema)]
pub struct RuleView {
    /// Its id.
    pub id: String,
    /// Its reason, if it has one.
    pub reason: Option<String>,
    /// Whether it forbids or permits.
    pub effect: &'static str,
    /// Whether it decides or only observes.
    pub mode: &'static str,
}

/// What to explain: one of the three.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainOrder {
    /// The call, as in a table of cases.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    call: Option<Value>,
    /// An operation of an operator, as in a table of cases.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    operation: Option<Value>,
    /// The id of an exchange whose call was judged.
    #[serde(default)]
    #[schema(format = "uuid")]
    exchange: Option<String>,
}

/// What the policies in force say of a call.
#[derive(Debug, Serialize, ToSchema)]
pub struct PolicyAnswer {
    /// `allow` or `deny`, whatever the mode is.
    pub decision: &'static str,
    /// The policies that decide; none if nothing permits the call.
    pub deciding: Vec<VerdictGround>,
    /// The policies in observe mode that would refuse it.
    pub would_refuse: Vec<VerdictGround>,
    /// The policies in observe mode that would permit it.
    pub would_permit: Vec<VerdictGround>,
    /// The policies that could not be evaluated.
    pub failed: Vec<String>,
    /// The policies whose scope matches, whether or not their conditions do.
    pub scope_matches: Vec<String>,
    /// What identifies the set of policies.
    pub set: String,
}

/// Which records to audit.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// Only those that started at that time or later.
    #[param(value_type = Option<Time>)]
    since: Option<Time>,
    /// Only those that started before that time.
    #[param(value_type = Option<Time>)]
    until: Option<Time>,
}

/// What was refused, and what would have been.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditReport {
    /// The records that were judged.
    pub judged: u64,
    /// Those that were refused.
    pub refused: u64,
    /// Those that passed only because something observes.
    pub would_be_refused: u64,
    /// The refusals, the most frequent first; at most 1,000 rows.
    pub refusals: Vec<RefusalRow>,
    /// The would-be refusals, the most frequent first; at most 1,000 rows.
    pub would_be_refusals: Vec<RefusalRow>,
    /// Whether there are more records than were looked at (2,000,000).
    pub cut_off: bool,
}

/// How often a policy refused a key a model.
#[derive(Debug, Serialize, ToSchema)]
pub struct RefusalRow {
    /// The policy's id, or `(nothing permits it)`.
    pub policy: String,
    /// The key's id.
    pub key_id: String,
    /// The model.
    pub model: String,
    /// The policy's reason, if it has one.
    pub reason: Option<String>,
    /// How many calls.
    pub count: u64,
}

/// Other policies, and the records to judge by them.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayOrder {
    /// Only records that started at that time or later.
    #[serde(default)]
    since: Option<Time>,
    /// Only those that started before that time.
    #[serde(default)]
    until: Option<Time>,
    /// The proposed policies, in Cedar.
    policies: String,
    /// The time zone of their clock; left out, that of the gate in force, or UTC.
    #[serde(default)]
    time_zone: Option<String>,
}

/// What other policies would have done.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReplayReport {
    /// The calls that were judged again.
    pub calls: u64,
    /// Those that the proposed policies refuse.
    pub refused: u64,
    /// Those that passed then and would be refused.
    pub newly_refused: u64,
    /// Those that were refused then and would pass.
    pub newly_admitted: u64,
    /// Records of calls that were not judged, so that their facts are not known.
    pub without_facts: u64,
    /// The refusals, the most frequent first; at most 1,000 rows.
    pub refusals: Vec<RefusalRow>,
    /// How many calls each key would be refused, the most first; at most 1,000 keys.
    pub keys: Vec<KeyRefusals>,
    /// What identifies the set of proposed policies.
    pub set: String,
    /// Whether there are more records than were looked at (2,000,000).
    pub cut_off: bool,
}

/// How many calls a key would be refused.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyRefusals {
    /// The key's id.
    pub key_id: String,
    /// How many calls.
    pub count: u64,
}

/// Shows the gate in force.
#[utoipa::path(get, path = "/admin/policy", operation_id = "get_policy", tag = "policy", responses(
    (status = 200, description = "The gate, its policies and their warnings.", body = PolicyView),
    (status = 503, description = "No gateway runs here.", body = ErrorAnswer),
))]
pub async fn show(state: State) -> Result<Response, Refusal> {
    let gate = gate(&state)?;
    let rules = gate.set().map(|set| set.rules()).unwrap_or_default();
    let policies = rules.iter().map(|rule| RuleView {
        id: rule.id.to_string(),
        reason: rule.reason.as_deref().map(str::to_owned),
        effect: if rule.forbids { "forbid" } else { "permit" },
        mode: if rule.observes { "observe" } else { "enforce" },
    });
    Ok(respond::ok(&PolicyView {
        mode: gate.mode().name().to_owned(),
        set: gate.set().map(|set| set.hash().to_owned()),
        time_zone: gate.zone().iana_name().map(str::to_owned),
        policies: policies.collect(),
        warnings: gate.set().map(|set| set.warnings().iter().map(ToString::to_string).collect()).unwrap_or_default(),
    }))
}

/// Says which of the policies in force decide a call, or an operation of an operator.
#[utoipa::path(post, path = "/admin/policy/explain", operation_id = "explain_policy", tag = "policy",
    request_body = ExplainOrder, responses(
    (status = 200, description = "What the policies say.", body = PolicyAnswer),
    (status = 404, description = "There is no such exchange, or it was not judged.", body = ErrorAnswer),
    (status = 503, description = "No gateway runs here, or it has no policies.", body = ErrorAnswer),
))]
pub async fn explain(state: State, Body(order): Body<ExplainOrder>) -> Result<Response, Refusal> {
    let call = match (order.call, order.operation, order.exchange) {
        (Some(call), None, None) => Asked::Call(Box::new(read_as("call", call)?)),
        (None, Some(operation), None) => Asked::Operation(read_as("operation", operation)?),
        (None, None, Some(id)) => Asked::Call(Box::new(call_of(&state, &id).await?)),
        _ => return Err(Refusal::invalid("call", "Give one of `call`, `operation` and `exchange`.")),
    };
    let gate = gate(&state)?;
    if gate.set().is_none() {
        return Err(Error::new(Kind::Unavailable, OFF).into());
    }
    let (judgement, applying) = match &call {
        Asked::Call(call) => (gate.weigh(call), gate.applying(call)),
        Asked::Operation(operation) => (Arc::new(gate.weigh_operation(operation)), gate.applying_to(operation)),
    };
    Ok(respond::ok(&PolicyAnswer {
        decision: judgement.decision.name(),
        deciding: grounds(&judgement.deciding),
        would_refuse: grounds(&judgement.would_refuse),
        would_permit: grounds(&judgement.would_permit),
        failed: judgement.failed.iter().map(|failed| format!("{}: {}", failed.policy, failed.text)).collect(),
        scope_matches: applying.into_iter().map(|rule| rule.id.to_string()).collect(),
        set: gate.set_hash().to_owned(),
    }))
}

enum Asked {
    Call(Box<Call>),
    Operation(Operation),
}

fn read_as<T: serde::de::DeserializeOwned>(param: &'static str, value: Value) -> Result<T, Refusal> {
    serde_json::from_value(value).map_err(|error| Refusal::invalid(param, format!("The {param}: {error}.")))
}

/// Counts refusals, real and would-be, by policy, key, model and reason.
#[utoipa::path(get, path = "/admin/policy/audit", operation_id = "audit_policy", tag = "policy", params(AuditQuery),
    responses(
    (status = 200, description = "The counts.", body = AuditReport),
))]
pub async fn audit(state: State, Params(query): Params<AuditQuery>) -> Result<Response, Refusal> {
    let (mut judged, mut refused, mut would_be_refused) = (0, 0, 0);
    let (mut refusals, mut observed) = (Report::default(), Report::default());
    let cut_off = read(&state, (query.since, query.until), |record| {
        let Some(verdict) = record.verdict else { return };
        let (key, model) = (record.key_id.as_deref().unwrap_or_default(), record.model_requested.as_deref());
        let model = model.unwrap_or_default();
        judged += 1;
        match &*verdict.verdict {
            "deny" => {
                refused += 1;
                refusals.count(key, model, &told(&verdict.deciding));
            }
            "would-deny" => {
                would_be_refused += 1;
                observed.count(key, model, &observing(&verdict));
            }
            _ => {}
        }
    })
    .await?;
    Ok(respond::ok(&AuditReport {
        judged,
        refused,
        would_be_refused,
        refusals: rows(&refusals),
        would_be_refusals: rows(&observed),
        cut_off,
    }))
}

/// Judges recorded calls by other policies.
///
/// Nothing changes. Figures are those of the time: sessions and drift scores are not made anew.
#[utoipa::path(post, path = "/admin/policy/replay", operation_id = "replay_policy", tag = "policy",
    request_body = ReplayOrder, responses(
    (status = 200, description = "What the proposed policies would have done.", body = ReplayReport),
    (status = 400, description = "The policies have mistakes; the message lists them.", body = ErrorAnswer),
))]
pub async fn replay(state: State, Body(order): Body<ReplayOrder>) -> Result<Response, Refusal> {
    let gate = proposed(&state, &order)?;
    let (mut replaying, mut without_facts) = (Replaying::default(), 0);
    let cut_off = read(&state, (order.since, order.until), |record| {
        let Some(verdict) = &record.verdict else {
            without_facts += u64::from(!record.attempts.is_empty());
            return;
        };
        let Some(call) = recall::call(&record) else {
            without_facts += 1;
            return;
        };
        let then = if &*verdict.verdict == "deny" { Decision::Deny } else { Decision::Allow };
        replaying.add(&gate, &call, then);
    })
    .await?;
    let replay = replaying.finish();
    let keys = replay.by_key.iter().map(|(key, count)| KeyRefusals { key_id: key.clone(), count: *count });
    Ok(respond::ok(&ReplayReport {
        calls: replay.calls,
        refused: replay.refused,
        newly_refused: replay.newly_refused,
        newly_admitted: replay.newly_admitted,
        without_facts,
        refusals: rows(&replay.refusals),
        keys: keys.collect(),
        set: gate.set_hash().to_owned(),
        cut_off,
    }))
}

fn gate(state: &State) -> Result<Arc<Gate>, Refusal> {
    let guard = state.control.guard().ok_or_else(|| Error::new(Kind::Unavailable, OFF))?;
    Ok(guard.gate)
}

fn proposed(state: &State, order: &ReplayOrder) -> Result<Gate, Refusal> {
    let zone = match (&order.time_zone, state.control.guard()) {
        (Some(name), _) => TimeZone::get(name).map_err(|_| {
            Refusal::invalid("time_zone", format!("There is no time zone {name:?}; write an IANA name."))
        })?,
        (None, Some(guard)) => guard.gate.zone().clone(),
        (None, None) => TimeZone::UTC,
    };
    let set = PolicySet::parse("policies", &order.policies).map_err(|problems| {
        let lines: Vec<String> = problems.iter().take(20).map(ToString::to_string).collect();
        Refusal::invalid("policies", lines.join("\n"))
    })?;
    let settings = GateSettings { mode: Mode::Enforce, reveal: Reveal::IdAndReason, zone, cache_entries: REPLAY_CACHE };
    Ok(Gate::new(Arc::new(set), settings))
}

async fn call_of(state: &State, id: &str) -> Result<Call, Refusal> {
    let parsed = id.parse::<ExchangeId>().ok().filter(|parsed| parsed.to_string() == id);
    let parsed =
        parsed.ok_or_else(|| Refusal::invalid("exchange", "The id of an exchange is a UUID in lower case."))?;
    let record = state.ledger.get(parsed).await.map_err(Error::from)?;
    let call = record.and_then(|record| recall::call(&record));
    call.ok_or_else(|| Refusal::missing("exchange that was judged"))
}

/// Gives every record of that time to somebody; says whether there were too many.
async fn read(
    state: &State,
    (since, until): (Option<Time>, Option<Time>),
    mut take: impl FnMut(Record),
) -> Result<bool, Refusal> {
    let (since, until) = (since.map(|time| time.0), until.map(|time| time.0));
    let mut filter = Filter { since, until, order: Order::OldestFirst, limit: PIECE, ..Filter::default() };
    let mut seen = 0;
    loop {
        let page = state.ledger.find(&filter).await.map_err(Error::from)?;
        seen += page.records.len() as u64;
        page.records.into_iter().for_each(&mut take);
        let Some(next) = page.next else { return Ok(false) };
        if seen >= MAX_RECORDS {
            return Ok(true);
        }
        filter.after = Some(next);
        // A piece may take some milliseconds to judge; others have their turn.
        tokio::task::yield_now().await;
    }
}

/// Who would refuse: the policies that observe, and where the whole gate observes, those that decided.
fn observing(verdict: &Verdict) -> Vec<Ground> {
    let mut all = told(&verdict.would_refuse);
    if &*verdict.real == "deny" {
        all.extend(told(&verdict.deciding));
    }
    all
}

fn told(grounds: &[VerdictGround]) -> Vec<Ground> {
    grounds.iter().map(|one| Ground { policy: Arc::clone(&one.policy), reason: one.reason.clone() }).collect()
}

fn grounds(grounds: &[Ground]) -> Vec<VerdictGround> {
    grounds.iter().map(|one| VerdictGround { policy: Arc::clone(&one.policy), reason: one.reason.clone() }).collect()
}

fn rows(report: &Report) -> Vec<RefusalRow> {
    let shown = |row: Row| RefusalRow {
        policy: row.policy.into(),
        key_id: row.key.into(),
        model: row.model.into(),
        reason: row.reason.map(Into::into),
        count: row.count,
    };
    report.rows().into_iter().take(MAX_ROWS).map(shown).collect()
}
