//! Random policies and random calls: the gate against Cedar itself, given every policy and the whole context.

use std::collections::HashSet;
use std::sync::Arc;

use cedar_policy::{Authorizer, Decision as Cedar, Request};
use jiff::tz::TimeZone;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::kavach::call::{Action, Call, Caller, Facts, PriceClass, Scores, SessionFigures, Target};
use crate::kavach::config::Mode;
use crate::kavach::context::{self, Fields};
use crate::kavach::gate::{Gate, GateSettings};
use crate::kavach::policy::PolicySet;
use crate::kavach::schema::{self, Cast};
use crate::kavach::verdict::Decision;
use crate::unit::clock::Timestamp;
use crate::unit::money::NanoUsd;

const PRINCIPALS: &[&str] = &[
    "principal",
    "principal == Key::\"key_0\"",
    "principal == Key::\"key_1\"",
    "principal in Key::\"key_1\"",
    "principal in User::\"ann\"",
    "principal in Team::\"red\"",
    "principal in Team::\"blue\"",
    "principal in Org::\"acme\"",
    "principal in Role::\"admin\"",
    "principal is Key",
    "principal is Key in Team::\"red\"",
];
const ACTIONS: &[&str] = &[
    "action",
    "action == Action::\"chat\"",
    "action == Action::\"images\"",
    "action in Action::\"call\"",
    "action in [Action::\"chat\", Action::\"embeddings\"]",
    "action in [Action::\"images\"]",
];
const RESOURCES: &[&str] = &[
    "resource",
    "resource == Model::\"openai/gpt-4.1\"",
    "resource in Provider::\"openai\"",
    "resource in Provider::\"azure\"",
    "resource in Family::\"gpt\"",
    "resource is Model",
    "resource is Model in Family::\"claude\"",
];
const CONDITIONS: &[&str] = &[
    "",
    "",
    "when { context.max_output_tokens <= 4000 }",
    "when { context.max_output_tokens * 3 > 5000 }",
    "when { context has requested_max_output_tokens && context.requested_max_output_tokens > 100 }",
    "unless { context.stream }",
    "when { context.estimated_cost_nano_usd > 1000000 }",
    "when { context.tools.contains(\"shell\") }",
    "when { context.modalities.containsAny([\"image\", \"audio\"]) }",
    "unless { context has country && context.country == \"IN\" }",
    "when { context has address && context.address.isInRange(ip(\"10.0.0.0/8\")) }",
    "when { context.time.hour >= 9 && context.time.weekday < 6 }",
    "when { context.time.now > datetime(\"2026-06-01\") }",
    "when { context.session.requests * context.session.requests > 10000 }",
    "when { context.session has id && context.drift.geo > 50 }",
    "when { context.session.id == context.requested_model || context.session.age_seconds > 5 }",
    "when { context.drift == {geo: 7, device: 0, session_age: 0, behaviour: 0} }",
    "when { context.time has hour && context.time.minute_of_day > 600 }",
    "when { (if context.stream then context.session else context.session).requests > 100 }",
    "when { resource.price_class == \"high\" }",
    "unless { resource.family like \"cl*\" }",
    "when { principal.hasTag(\"env\") && principal.getTag(\"env\") == \"prod\" }",
    "when { principal in Role::\"admin\" && context.requested_model like \"gpt*\" }",
    "when { principal in Team::\"red\" } unless { resource in Provider::\"openai\" }",
];

fn policies() -> impl Strategy<Value = Vec<(bool, bool, String)>> {
    let one = (
        any::<bool>(),
        prop::bool::weighted(0.2),
        select(PRINCIPALS),
        select(ACTIONS),
        select(RESOURCES),
        select(CONDITIONS),
    );
    let one = one.prop_map(|(forbids, observes, principal, action, resource, condition)| {
        let effect = if forbids { "forbid" } else { "permit" };
        (forbids, observes, format!("{effect}({principal}, {action}, {resource}) {condition};"))
    });
    prop::collection::vec(one, 1..12)
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 1..200u64, 3_900..4_100u64, Just(u64::MAX), Just(i64::MAX as u64), any::<u64>()]
}

fn caller() -> impl Strategy<Value = Caller> {
    let name = |names: &'static [&'static str]| prop::option::of(select(names).prop_map(Arc::<str>::from));
    let labels = subsequence(vec![("env", "prod"), ("role", "admin"), ("roles", "x, admin,")], 0..=3);
    (0..3u8, name(&["acme"]), name(&["red", "blue"]), name(&["ann"]), labels).prop_map(
        |(key, org, team, user, labels)| {
            let labels = labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            Caller { key: format!("key_{key}").into(), name: "k".into(), org, team, user, labels: Arc::new(labels) }
        },
    )
}

fn facts() -> impl Strategy<Value = Facts> {
    let texts = |all: &'static [&'static str]| {
        subsequence(all, 0..=all.len()).prop_map(|found| found.into_iter().map(Arc::<str>::from).collect())
    };
    let wish = (prop::option::of(number()), prop::option::of(number()), number(), prop::option::of(any::<i64>()));
    let place = (
        prop::option::of(select(vec!["10.1.2.3", "::ffff:10.0.0.1", "2001:db8::1"])),
        prop::option::of(select(vec!["IN", "DE"])),
    );
    let rest =
        (any::<bool>(), texts(&["shell", "search"]), texts(&["text", "image", "audio"]), 0..4_102_444_800_000_000i64);
    (wish, place, rest, number(), 0..=100u8).prop_map(|(wish, place, rest, figure, score)| Facts {
        requested_model: "gpt-4.1".into(),
        requested_max_output_tokens: wish.0,
        max_output_tokens: wish.1,
        estimated_input_tokens: wish.2,
        estimated_cost: wish.3.map(NanoUsd),
        address: place.0.map(|text| text.parse().unwrap()),
        country: place.1.map(Arc::from),
        stream: rest.0,
        tool_count: figure,
        tool: None,
        tools: rest.1,
        modalities: Arc::new(rest.2),
        time: Timestamp(rest.3),
        session: SessionFigures { requests: figure, ..SessionFigures::default() },
        drift: Scores { geo: score, ..Scores::default() },
    })
}

fn call() -> impl Strategy<Value = Call> {
    let target = (select(vec!["openai", "azure"]), select(vec!["gpt-4.1", "claude-4"]), any::<bool>());
    let action = select(vec![Action::Chat, Action::Images, Action::Embeddings, Action::ToolCall]);
    (caller(), action, target, facts()).prop_map(|(caller, action, target, facts)| {
        let price_class = if target.2 { PriceClass::High } else { PriceClass::Low };
        let target = Target { provider: target.0.into(), model: target.1.into(), price_class, region: "".into() };
        Call { caller, action, target, facts }
    })
}

/// Policies that look at what the drawn ones do not, so that each figure decides somewhere.
const EACH_FIGURE: &str = "
    @id(\"f1\") forbid(principal, action, resource) when { context has tool && context.tool == \"shell\" };
    @id(\"f2\") forbid(principal, action, resource) when { context.session.id == \"b\" || context.session.input_tokens == 7 };
    @id(\"f3\") forbid(principal, action, resource) when { context.session.output_tokens == 7 };
    @id(\"f4\") forbid(principal, action, resource) when { context.session.cost_nano_usd == 7 };
    @id(\"f5\") forbid(principal, action, resource) when { context.session.age_seconds == 7 };
    @id(\"f6\") forbid(principal, action, resource) when { context.drift.device == 7 || context.drift.session_age == 7 };
    @id(\"f7\") forbid(principal, action, resource) when { context.drift.behaviour == 7 };
    @id(\"f8\") forbid(principal, action, resource) when { context.tool_count == 0 };
";

/// Facts of which each member is of the one or of the other, as the bits say.
fn mixed(one: &Facts, other: &Facts, bits: u16) -> Facts {
    let of = |bit: u16| if bits & (1 << bit) == 0 { one } else { other };
    let seven = |bit: u16| if bits & (1 << bit) == 0 { 0_i64 } else { 7 };
    let text = |bit: u16| if bits & (1 << bit) == 0 { "a" } else { "b" };
    Facts {
        requested_model: format!("gpt-{}", text(0)).into(),
        requested_max_output_tokens: of(1).requested_max_output_tokens,
        max_output_tokens: of(2).max_output_tokens,
        estimated_input_tokens: of(3).estimated_input_tokens,
        estimated_cost: of(4).estimated_cost,
        stream: of(5).stream,
        tool_count: of(6).tool_count,
        tools: of(7).tools.clone(),
        tool: (bits & 1 << 8 != 0).then(|| "shell".into()),
        modalities: Arc::clone(&of(9).modalities),
        address: of(10).address,
        country: of(11).country.clone(),
        time: of(12).time,
        session: SessionFigures {
            id: text(13).into(),
            requests: of(14).session.requests,
            input_tokens: seven(13).cast_unsigned(),
            output_tokens: seven(14).cast_unsigned(),
            cost: NanoUsd(seven(15)),
            age_seconds: seven(12).cast_unsigned(),
        },
        drift: Scores {
            geo: of(15).drift.geo,
            device: seven(11) as u8,
            session_age: seven(10) as u8,
            behaviour: seven(9) as u8,
        },
    }
}

/// What Cedar says, given all policies of one mode and everything that is known.
fn cedar(policies: &[(bool, bool, String)], call: &Call, zone: &TimeZone) -> (Cedar, HashSet<String>, HashSet<String>) {
    let texts = policies.iter().enumerate().filter(|(_, policy)| !policy.1);
    let texts = texts.map(|(number, policy)| {
        cedar_policy::Policy::parse(Some(cedar_policy::PolicyId::new(number.to_string())), &policy.2).unwrap()
    });
    let set = cedar_policy::PolicySet::from_policies(texts).unwrap();
    let cast = Cast::of(&call.caller, call.action, &call.target).unwrap();
    let context = context::context(&call.facts, Fields::ALL, zone).unwrap();
    let request = Request::new(cast.principal, cast.action, cast.resource, context, Some(schema::schema()))
        .expect("every context keeps to the schema");
    let response = Authorizer::new().is_authorized(&request, &set, &cast.entities);
    let reason = response.diagnostics().reason().map(ToString::to_string).collect();
    let failed = response.diagnostics().errors().map(|error| {
        let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
        error.policy_id().to_string()
    });
    (response.decision(), reason, failed.collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn slicing_never_changes_a_decision(policies in policies(), calls in prop::collection::vec(call(), 1..6)) {
        let text: String = policies.iter().enumerate().map(|(number, (_, observes, policy))| {
            let mode = if *observes { "observe" } else { "enforce" };
            format!("@id(\"{number}\") @mode(\"{mode}\") {policy}\n")
        }).collect();
        // Some draws hold a policy that can never match; those do not load and that is another test's matter.
        let Ok(set) = PolicySet::parse("drawn", &text) else { return Ok(()) };
        let set = Arc::new(set);
        let gate = |mode, cache_entries| {
            Gate::new(Arc::clone(&set), GateSettings { mode, cache_entries, ..GateSettings::default() })
        };
        let (enforcing, observing) = (gate(Mode::Enforce, 8), gate(Mode::Observe, 4));
        for call in calls.iter().chain(&calls) {
            let (decision, reason, failed) = cedar(&policies, call, &TimeZone::UTC);
            let failed_forbids: HashSet<String> =
                failed.iter().filter(|id| policies[id.parse::<usize>().unwrap()].0).cloned().collect();
            let allowed = decision == Cedar::Allow && failed_forbids.is_empty();
            let verdict = enforcing.judge(call);
            prop_assert_eq!(verdict.effective() == Decision::Allow, allowed, "{}\n{:?}", text, call);
            let deciding: HashSet<String> =
                verdict.judgement.deciding.iter().map(|ground| ground.policy.to_string()).collect();
            // Where a forbid failed, it is among those that decided.
            let expected = match (decision, failed_forbids.is_empty()) {
                (_, true) => reason,
                (Cedar::Allow, false) => failed_forbids,
                (Cedar::Deny, false) => reason.union(&failed_forbids).cloned().collect(),
            };
            prop_assert_eq!(deciding, expected);
            // Enforce never passes what the evaluator denied; observe never blocks and says the same.
            prop_assert_eq!(verdict.clone().admit().is_ok(), allowed);
            let observed = observing.judge(call);
            prop_assert_eq!(&observed.judgement, &verdict.judgement);
            prop_assert!(observed.admit().is_ok());
        }
    }

    #[test]
    fn a_recorded_call_is_judged_as_it_was(call in call()) {
        let json = serde_json::to_string(&call).unwrap();
        prop_assert_eq!(serde_json::from_str::<Call>(&json).unwrap(), call);
    }
}

proptest! {
    // Each case makes a gate for each call.
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_said_of_a_context_holds_for_the_same_one_alone(
        policies in policies(),
        call in call(),
        other in facts(),
        mixes in prop::collection::vec(any::<u16>(), 1..10),
    ) {
        let policies = policies.iter().enumerate().map(|(number, (_, observes, policy))| {
            let mode = if *observes { "observe" } else { "enforce" };
            format!("@id(\"{number}\") @mode(\"{mode}\") {policy}\n")
        });
        let text = policies.collect::<String>() + "@id(\"all\") permit(principal, action, resource);\n" + EACH_FIGURE;
        let Ok(set) = PolicySet::parse("drawn", &text) else { return Ok(()) };
        let set = Arc::new(set);
        let gate = || Gate::new(Arc::clone(&set), GateSettings { mode: Mode::Enforce, ..GateSettings::default() });
        let remembering = gate();
        for mix in mixes.iter().chain(&mixes) {
            let call = Call { facts: mixed(&call.facts, &other, *mix), ..call.clone() };
            prop_assert_eq!(remembering.weigh(&call), gate().weigh(&call), "{}\n{:?}", text, call);
        }
    }
}
