//! **Attest**: what the audit log says of a line of the journal, and what exchanges must know of that log.
//!
//! Ledger and audit know nothing of each other; here a record becomes an entry. Every line but bare charges gives exactly one
//! (`every_answered_exchange_is_an_entry_whatever_its_end`), so the log is complete when the journal is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::audit::entry::{Actor, Amendment, Attempt, Entry, Event, Exchange, Gap, Noun, Tokens, Verdict};
use crate::audit::texts::Texts;
use crate::ledger::{Line, Outcome, Record};
use crate::unit::commit::Salt;
use crate::unit::event;

/// The largest whole number that every reader of JSON keeps (RFC 8259 section 6).
const SAFE_INTEGER: u64 = 1 << 53;

/// What exchanges must know of the audit log: whether there is one, and whether it lets them in.
#[derive(Debug, Default)]
pub struct AuditGate {
    kept: AtomicBool,
    refusing: AtomicBool,
    texts: OnceLock<Texts>,
}

impl AuditGate {
    /// Says how it stands.
    pub fn set(&self, kept: bool, refusing: bool) {
        self.kept.store(kept, Ordering::Relaxed);
        self.refusing.store(refusing, Ordering::Relaxed);
    }

    /// Says where texts are kept. Once; a second call changes nothing.
    pub fn keep_texts(&self, texts: Texts) {
        self.texts.get_or_init(|| texts);
    }

    /// Where texts are kept, if there is a log.
    pub fn texts(&self) -> Option<&Texts> {
        self.texts.get()
    }

    /// Whether exchanges become entries, so that an answer can name its receipt.
    pub fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }

    /// Whether no exchange may be taken, because the log cannot be written and the operator wants it so.
    pub fn refuses(&self) -> bool {
        self.refusing.load(Ordering::Relaxed)
    }
}

/// The entry of a line; `None` for charges, which are part of what their limits show.
pub fn entry(line: &Line) -> Option<Entry> {
    match line {
        Line::Record(record) => Some(Entry::Exchange(Box::new(exchange(record)))),
        Line::Amend(amendment) => Some(Entry::Amendment(Amendment {
            // Any other than a correction follows its exchange within moments.
            at: amendment.correction.as_ref().map_or_else(|| amendment.id.time(), |correction| correction.at),
            id: amendment.id,
            usage: Tokens::from(amendment.usage),
            usage_source: amendment.usage_source,
            cost_nano_usd: amendment.cost.map(|cost| cost.nanos()),
        })),
        Line::Event(event) => Some(Entry::Event(self::event(event))),
        Line::Gap(gap) => Some(Entry::Gap(Gap { at: gap.at, reason: gap.reason.clone(), detail: gap.detail.clone() })),
        Line::Charges(_) => None,
    }
}

/// The salt of its commitments, if it has any; it goes beside the entry and not into it.
pub fn salt(line: &Line) -> Option<Salt> {
    Some(line.record()?.commitments?.salt)
}

fn exchange(record: &Record) -> Exchange {
    Exchange {
        at: record.started_at,
        refused: record.outcome == Outcome::Refused,
        id: record.id,
        request_id: record.request_id.clone(),
        operation: record.operation.clone(),
        method: record.method.clone(),
        path: record.path.clone(),
        address: record.address.clone(),
        key: record.key_id.clone(),
        org: record.org.clone(),
        team: record.team.clone(),
        user: record.user.clone(),
        session: record.session.clone(),
        tags: record.tags.clone(),
        model_requested: record.model_requested.clone(),
        model_served: record.model_served.clone(),
        provider: record.provider.clone(),
        route: record.route.clone(),
        status: record.status,
        outcome: record.outcome.as_str().to_owned(),
        reason: record.reason.clone(),
        verdict: record.verdict.as_ref().map(verdict),
        attempts: record.attempts.iter().map(attempt).collect(),
        usage: record.usage.map(Tokens::from),
        usage_source: record.usage_source,
        cost_nano_usd: record.cost.map(|cost| cost.nanos()),
        price: record.price.as_ref().map(|price| format!("{}/{}", price.source, price.name)),
        duration_us: record.duration_us,
        ttft_us: record.ttft_us,
        bytes_in: record.bytes_in,
        bytes_out: record.bytes_out,
        prompt: record.commitments.and_then(|both| both.prompt),
        answer: record.commitments.and_then(|both| both.answer),
    }
}

fn attempt(attempt: &crate::ledger::Attempt) -> Attempt {
    Attempt {
        provider: attempt.provider.clone(),
        model: attempt.model.clone(),
        permit: attempt.permit.clone(),
        end: attempt.end.as_str().to_owned(),
        status: attempt.status,
        duration_us: attempt.duration_us,
    }
}

fn verdict(verdict: &crate::ledger::record::Verdict) -> Verdict {
    let grounds = verdict.deciding.iter().chain(&verdict.would_refuse);
    Verdict {
        real: verdict.real.clone(),
        effective: verdict.verdict.clone(),
        policies: grounds.map(|ground| Arc::clone(&ground.policy)).collect(),
        policy_set: Some(Arc::clone(&verdict.set)),
    }
}

/// The word that a closed list is written with.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

fn event(event: &event::Event) -> Event {
    let noun = noun(event);
    let mut detail = Map::new();
    if noun == Noun::Other {
        detail.insert("noun".to_owned(), Value::from(event.noun.as_str()));
    }
    detail.insert("change".to_owned(), Value::from(event.id.to_string()));
    detail.insert("phase".to_owned(), Value::from(word(&event.phase)));
    if let Some(status) = event.status {
        detail.insert("status".to_owned(), Value::from(status));
    }
    if !event.detail.is_null() {
        let mut asked = event.detail.clone();
        keep_integers(&mut asked);
        detail.insert("detail".to_owned(), asked);
    }
    Event {
        at: event.at,
        actor: actor(&event.actor),
        noun,
        verb: event.verb.clone(),
        subject: event.subject.clone(),
        detail,
    }
}

fn actor(name: &str) -> Actor {
    let (kind, id) = match name {
        "gateway" => ("system", None),
        "in-process" => ("command_line", None),
        token => ("admin_token", Some(token.to_owned())),
    };
    Actor { kind: kind.to_owned(), id, label: None, address: None }
}

fn noun(event: &event::Event) -> Noun {
    match (event.noun.as_str(), event.verb.as_str()) {
        ("gateway", "start") => Noun::Start,
        ("gateway", "stop") => Noun::Stop,
        ("gateway", "upgrade") => Noun::Upgrade,
        ("mode", _) => Noun::Mode,
        ("audit", "erase") => Noun::Erasure,
        ("key", _) => Noun::Key,
        ("limit", _) => Noun::Limit,
        ("route", _) => Noun::Route,
        ("provider", _) => Noun::Provider,
        ("price", _) => Noun::Price,
        ("policy", _) => Noun::Policy,
        // Journals of before the noun was in the singular.
        ("permit" | "permits", _) => Noun::Permit,
        ("config", _) => Noun::Config,
        ("token" | "admin_token", _) => Noun::AdminToken,
        ("session", _) => Noun::Session,
        ("org", _) => Noun::Org,
        ("team", _) => Noun::Team,
        ("user", _) => Noun::User,
        _ => Noun::Other,
    }
}

/// RFC 8785 writes numbers as doubles; whole numbers that would lose digits become texts.
fn keep_integers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let size = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            if size.is_some_and(|size| size > SAFE_INTEGER) {
                *value = Value::from(number.to_string());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(keep_integers),
        Value::Object(fields) => fields.values_mut().for_each(keep_integers),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::unit::event::Phase;

    fn event(noun: &str, detail: Value) -> event::Event {
        let event = event::Event::of_gateway("update", detail);
        event::Event { noun: noun.to_owned(), actor: "adm_1".into(), phase: Phase::Begun, ..event }
    }

    fn logged(line: &Line) -> Value {
        serde_json::from_slice(&entry(line).unwrap().to_bytes()).unwrap()
    }

    #[test]
    fn charges_are_no_entry_of_their_own() {
        assert!(entry(&Line::Charges(Vec::new())).is_none());
    }

    #[test]
    fn a_noun_without_a_kind_of_its_own_is_an_entry_too() {
        let entry = logged(&Line::Event(event("gadget", Value::Null)));
        assert_eq!((&entry["kind"], &entry["detail"]["noun"]), (&json!("other"), &json!("gadget")));
        assert_eq!(entry["actor"], json!({"kind": "admin_token", "id": "adm_1"}));
    }

    #[test]
    fn a_change_of_permits_has_a_kind_of_its_own_and_says_who_made_it() {
        let entry = logged(&Line::Event(event("permit", Value::Null)));
        assert_eq!((&entry["kind"], &entry["detail"]["noun"]), (&json!("permit"), &Value::Null));
        assert_eq!(entry["actor"], json!({"kind": "admin_token", "id": "adm_1"}));
        assert_eq!(logged(&Line::Event(event("permits", Value::Null)))["kind"], "permit");
    }

    #[test]
    fn large_numbers_keep_every_digit() {
        let entry = logged(&Line::Event(event("limit", json!({"amount": 9_007_199_254_740_993_u64, "share": 0.1}))));
        assert_eq!(entry["detail"]["detail"], json!({"amount": "9007199254740993", "share": 0.1}));
    }
}
