//! The call of a record, as it was judged, so that other policies can judge it again.
//!
//! A record says most of a call already, so beside it only the rest is kept: members that are as the record says, or that are
//! nothing, are left out (`a_call_is_recalled_as_it_was_judged`). Older records hold the whole call, which reads the same way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::kavach::Call;
use crate::kavach::call::{Action, Facts, PriceClass, Scores};
use crate::ledger::Record;
use crate::unit::clock::Timestamp;
use crate::unit::money::NanoUsd;
use crate::unit::raw::Raw;

/// The largest rest of a call that a record keeps; one with a thousand tools is larger than what anybody replays.
const MAX_BYTES: usize = 16 * 1024;

/// What a record says of its call.
struct Known<'a> {
    key: &'a str,
    org: Option<&'a str>,
    team: Option<&'a str>,
    user: Option<&'a str>,
    action: Action,
    model: &'a str,
    stream: bool,
    address: Option<IpAddr>,
    time: Timestamp,
    session: &'a str,
}

impl<'a> Known<'a> {
    fn of(record: &'a Record) -> Self {
        let action = Action::ALL.iter().find(|action| action.name() == record.operation);
        Self {
            key: record.key_id.as_deref().unwrap_or_default(),
            org: record.org.as_deref(),
            team: record.team.as_deref(),
            user: record.user.as_deref(),
            action: action.copied().unwrap_or(Action::Passthrough),
            model: record.model_requested.as_deref().unwrap_or_default(),
            stream: record.stream,
            address: record.address.as_deref().and_then(|address| address.parse().ok()),
            time: record.started_at,
            session: record.session.as_deref().unwrap_or_default(),
        }
    }
}

/// What is kept of a call. A member that can be absent in itself is written as `null` where the record has one.
#[derive(Serialize)]
struct Kept<'a> {
    #[serde(skip_serializing_if = "KeptCaller::is_empty")]
    caller: KeptCaller<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<Action>,
    target: KeptTarget<'a>,
    context: KeptFacts<'a>,
}

#[derive(Default, PartialEq, Serialize)]
struct KeptCaller<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    org: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    team: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a BTreeMap<String, String>>,
}

#[derive(Serialize)]
struct KeptTarget<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    provider: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    price_class: Option<PriceClass>,
    #[serde(skip_serializing_if = "str::is_empty")]
    region: &'a str,
}

#[derive(Serialize)]
struct KeptFacts<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    requested_model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requested_max_output_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_input_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_cost_nano_usd: Option<NanoUsd>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<&'a BTreeSet<Arc<str>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    modalities: Option<&'a BTreeSet<Arc<str>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<Option<IpAddr>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    country: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    session: KeptSession<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drift: Option<Scores>,
}

#[derive(Serialize)]
struct KeptSession<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_nano_usd: Option<NanoUsd>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
}

impl KeptCaller<'_> {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A value, unless it is that one.
fn unless<T: PartialEq>(value: T, same: T) -> Option<T> {
    (value != same).then_some(value)
}

/// What a record has to keep of its call; `None` if that is too large.
pub fn kept(call: &Call, record: &Record) -> Option<Raw> {
    let known = Known::of(record);
    let Call { caller, action, target, facts } = call;
    let kept = Kept {
        caller: KeptCaller {
            key: unless(&*caller.key, known.key),
            name: &caller.name,
            org: unless(caller.org.as_deref(), known.org),
            team: unless(caller.team.as_deref(), known.team),
            user: unless(caller.user.as_deref(), known.user),
            labels: Some(&*caller.labels).filter(|labels| !labels.is_empty()),
        },
        action: unless(*action, known.action),
        target: KeptTarget {
            provider: &target.provider,
            model: unless(&*target.model, known.model),
            price_class: unless(target.price_class, PriceClass::default()),
            region: &target.region,
        },
        context: KeptFacts::of(facts, &known),
    };
    // A call holds only texts, numbers and lists, which always serialise.
    Raw::of(&kept).ok().filter(|raw| raw.text().len() <= MAX_BYTES)
}

impl<'a> KeptFacts<'a> {
    fn of(facts: &'a Facts, known: &Known<'_>) -> Self {
        let session = &facts.session;
        Self {
            requested_model: Some(&*facts.requested_model).filter(|model| *model != known.model),
            requested_max_output_tokens: facts.requested_max_output_tokens,
            max_output_tokens: facts.max_output_tokens,
            estimated_input_tokens: unless(facts.estimated_input_tokens, 0),
            estimated_cost_nano_usd: facts.estimated_cost,
            stream: unless(facts.stream, known.stream),
            tool_count: unless(facts.tool_count, 0),
            tools: Some(&facts.tools).filter(|tools| !tools.is_empty()),
            tool: facts.tool.as_deref(),
            modalities: Some(&*facts.modalities).filter(|modalities| !modalities.is_empty()),
            address: unless(facts.address, known.address),
            country: facts.country.as_deref(),
            time: unless(facts.time, known.time).map(Timestamp::rfc3339),
            session: KeptSession {
                id: Some(&*session.id).filter(|id| *id != known.session),
                requests: unless(session.requests, 0),
                input_tokens: unless(session.input_tokens, 0),
                output_tokens: unless(session.output_tokens, 0),
                cost_nano_usd: unless(session.cost, NanoUsd::ZERO),
                age_seconds: unless(session.age_seconds, 0),
            },
            drift: unless(facts.drift, Scores::default()),
        }
    }
}

/// The call of a record as it was judged; `None` if it was not, or the call was not kept.
pub fn call(record: &Record) -> Option<Call> {
    let mut whole: Map<String, Value> = serde_json::from_str(record.verdict.as_ref()?.call.as_ref()?.text()).ok()?;
    let known = Known::of(record);
    let fill = |whole: &mut Map<String, Value>, part: &str, members: Vec<(&str, Value)>| {
        let part = whole.entry(part).or_insert_with(|| Value::Object(Map::new()));
        for (name, value) in members.into_iter().filter(|(_, value)| !value.is_null()) {
            part.as_object_mut()?.entry(name).or_insert(value);
        }
        Some(())
    };
    let Known { key, org, team, user, action, model, stream, address, time, session } = known;
    let caller = vec![("key", json!(key)), ("org", json!(org)), ("team", json!(team)), ("user", json!(user))];
    fill(&mut whole, "caller", caller)?;
    fill(&mut whole, "target", vec![("model", json!(model))])?;
    let facts = vec![
        ("requested_model", json!(model)),
        ("stream", json!(stream)),
        ("address", json!(address)),
        ("time", json!(time.rfc3339())),
        ("session", json!({})),
    ];
    fill(&mut whole, "context", facts)?;
    fill(whole.get_mut("context")?.as_object_mut()?, "session", vec![("id", json!(session))])?;
    whole.entry("action").or_insert_with(|| json!(action));
    serde_json::from_value(Value::Object(whole)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::record::Verdict;
    use crate::unit::id::ExchangeId;

    fn record() -> Record {
        let mut record = Record::blank(ExchangeId::new(), Timestamp(1_700_000_000_123_456));
        record.operation = "chat".to_owned();
        record.key_id = Some("key_1".into());
        record.team = Some("red".into());
        record.model_requested = Some("m".to_owned());
        record.stream = true;
        record.address = Some("192.0.2.1".to_owned());
        record.session = Some("s".into());
        record
    }

    fn with(call: Option<Raw>) -> Record {
        let verdict = Verdict {
            mode: "enforce".into(),
            verdict: "allow".into(),
            real: "allow".into(),
            deciding: Vec::new(),
            would_refuse: Vec::new(),
            set: "0".into(),
            dropped: 0,
            call,
        };
        Record { verdict: Some(verdict), ..record() }
    }

    /// A call as its record says.
    fn plain() -> Call {
        let mut call = Call::default();
        (call.caller.key, call.caller.team) = ("key_1".into(), Some("red".into()));
        (call.target.provider, call.target.model) = ("p".into(), "m".into());
        call.facts.requested_model = "m".into();
        call.facts.stream = true;
        call.facts.address = Some("192.0.2.1".parse().unwrap());
        call.facts.time = record().started_at;
        call.facts.session.id = "s".into();
        call
    }

    /// One that differs from it in every member.
    fn different() -> Call {
        serde_json::from_value(json!({
            "caller": {"key": "key_2", "name": "n", "org": "o", "user": "u", "labels": {"role": "x"}},
            "action": "images",
            "target": {"provider": "q", "model": "n", "price_class": "high", "region": "eu"},
            "context": {
                "requested_model": "r", "requested_max_output_tokens": 1, "max_output_tokens": 2,
                "estimated_input_tokens": 3, "estimated_cost_nano_usd": 4, "stream": false, "tool_count": 5,
                "tools": ["a"], "tool": "b", "modalities": ["text"], "country": "IN", "time": "2020-01-01T00:00:00Z",
                "session": {
                    "id": "t", "requests": 6, "input_tokens": 7, "output_tokens": 8, "cost_nano_usd": 9,
                    "age_seconds": 10,
                },
                "drift": {"geo": 1},
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_call_is_recalled_as_it_was_judged() {
        for judged in [plain(), different(), Call::default()] {
            let kept = kept(&judged, &record()).unwrap();
            assert_eq!(call(&with(Some(kept.clone()))), Some(judged), "{kept:?}");
        }
        assert_eq!(
            kept(&plain(), &record()).unwrap().text(),
            r#"{"target":{"provider":"p"},"context":{"session":{}}}"#
        );
    }

    #[test]
    fn a_whole_call_as_older_records_hold_it_is_recalled_too() {
        assert_eq!(call(&with(Some(Raw::of(&plain()).unwrap()))), Some(plain()));
        // What such a call does not have, its record does not have either.
        let record = Record { team: None, address: None, ..with(Some(Raw::of(&different()).unwrap())) };
        assert_eq!(call(&record), Some(different()));
    }

    #[test]
    fn what_is_too_large_is_not_kept_and_what_is_damaged_is_not_recalled() {
        let mut large = plain();
        large.facts.tools = (0..5_000).map(|number| format!("tool_{number}").into()).collect();
        assert_eq!(kept(&large, &record()), None);
        assert_eq!(call(&with(None)), None);
        assert_eq!(call(&record()), None);
        for text in ["[]", "{\"caller\":1}", "{\"context\":{\"session\":[]}}", "{\"context\":{\"stream\":7}}"] {
            assert_eq!(call(&with(Some(Raw::parse(text.to_owned()).unwrap()))), None, "{text}");
        }
    }
}
