//! What the gate does with what the policies say.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Kind;
use crate::kavach::call::{Action, Call, Caller, Target};
use crate::kavach::config::{Mode, Reveal};
use crate::kavach::gate::{Gate, GateSettings};
use crate::kavach::policy::PolicySet;
use crate::kavach::verdict::{Decision, Verdict};
use crate::unit::clock::Timestamp;

pub(super) fn gate(mode: Mode, text: &str) -> Gate {
    let set = PolicySet::parse("policy.cedar", text).unwrap_or_else(|faults| panic!("{faults:#?}"));
    Gate::new(Arc::new(set), GateSettings { mode, ..GateSettings::default() })
}

pub(super) fn call() -> Call {
    let caller = Caller { key: "key_1".into(), name: "one".into(), team: Some("research".into()), ..Caller::default() };
    let mut call = Call { caller, ..Call::default() };
    call.target = Target { provider: "openai".into(), model: "gpt-4.1-mini".into(), ..Target::default() };
    call.facts.requested_model = "gpt-4.1-mini".into();
    call.facts.time = Timestamp::parse("2026-11-21T09:30:00Z").unwrap();
    call
}

fn judge(mode: Mode, text: &str) -> Verdict {
    gate(mode, text).judge(&call())
}

const PERMIT: &str = "@id(\"all\") permit(principal, action, resource);\n";

#[test]
fn nothing_permits_so_nothing_passes() {
    let verdict = judge(Mode::Enforce, "permit(principal in Team::\"sales\", action, resource);");
    assert_eq!((verdict.real(), verdict.effective(), verdict.word()), (Decision::Deny, Decision::Deny, "deny"));
    let error = verdict.admit().unwrap_err().error();
    assert_eq!(error.kind(), Kind::PermissionDenied);
    assert_eq!(error.text(), "the gateway's policy refuses this call: nothing permits it");
}

#[test]
fn a_permit_admits_to_that_target_and_to_no_other() {
    let permit = judge(Mode::Enforce, PERMIT).admit().unwrap();
    assert!(permit.covers("openai", "gpt-4.1-mini"));
    assert!(!permit.covers("openai", "gpt-4.1") && !permit.covers("azure", "gpt-4.1-mini"));
    assert_eq!((&**permit.key(), permit.action()), ("key_1", Action::Chat));
}

#[test]
fn a_forbid_wins_and_says_its_id_and_reason_as_far_as_allowed() {
    let forbid = "@id(\"no\") @reason(\"not today\") forbid(principal, action, resource);";
    for (reveal, text) in [
        (Reveal::IdAndReason, "the gateway's policy refuses this call: not today (policy no)"),
        (Reveal::Reason, "the gateway's policy refuses this call: not today"),
        (Reveal::Nothing, "the gateway's policy refuses this call"),
    ] {
        let set = Arc::new(PolicySet::parse("p", &format!("{PERMIT}{forbid}")).unwrap());
        let gate = Gate::new(set, GateSettings { mode: Mode::Enforce, reveal, ..GateSettings::default() });
        let refusal = gate.judge(&call()).admit().unwrap_err();
        assert_eq!(refusal.error().text(), text);
        assert_eq!(&*refusal.grounds()[0].policy, "no");
    }
}

#[test]
fn a_gate_that_observes_lets_everything_pass_and_says_what_it_would_do() {
    let verdict = judge(Mode::Observe, "@id(\"no\") forbid(principal, action, resource);");
    assert_eq!((verdict.real(), verdict.effective(), verdict.word()), (Decision::Deny, Decision::Allow, "would-deny"));
    assert!(verdict.admit().is_ok());
}

#[test]
fn a_gate_that_is_off_asks_nobody() {
    for verdict in [judge(Mode::Off, "forbid(principal, action, resource);"), Gate::off().judge(&call())] {
        assert_eq!((verdict.real(), verdict.word()), (Decision::Allow, "allow"));
        assert!(verdict.admit().is_ok());
    }
}

#[test]
fn a_forbid_that_observes_refuses_nothing_and_is_named() {
    let verdict =
        judge(Mode::Enforce, &format!("{PERMIT}@id(\"no\") @mode(\"observe\") forbid(principal, action, resource);"));
    assert_eq!((verdict.real(), verdict.word()), (Decision::Allow, "would-deny"));
    assert_eq!(&*verdict.judgement.would_refuse[0].policy, "no");
    assert!(verdict.admit().is_ok());
}

#[test]
fn a_permit_that_observes_permits_nothing() {
    let verdict = judge(Mode::Enforce, "@id(\"yes\") @mode(\"observe\") permit(principal, action, resource);");
    assert_eq!(verdict.effective(), Decision::Deny);
    assert_eq!(&*verdict.judgement.would_permit[0].policy, "yes");
}

#[test]
fn a_forbid_that_cannot_be_evaluated_refuses_and_a_permit_permits_nothing() {
    let overflow = "context.max_output_tokens + 1 > 0";
    let verdict = judge(
        Mode::Enforce,
        &format!("{PERMIT}@id(\"no\") forbid(principal, action, resource) when {{ {overflow} }};"),
    );
    assert_eq!(verdict.effective(), Decision::Deny);
    assert_eq!(&*verdict.judgement.deciding[0].policy, "no");
    assert_eq!(verdict.judgement.failed.len(), 1, "{:?}", verdict.judgement);
    let verdict = judge(Mode::Enforce, &format!("permit(principal, action, resource) when {{ {overflow} }};"));
    assert_eq!((verdict.effective(), verdict.judgement.deciding.len()), (Decision::Deny, 0));
    let observing = format!("{PERMIT}@mode(\"observe\") forbid(principal, action, resource) when {{ {overflow} }};");
    assert_eq!(judge(Mode::Enforce, &observing).word(), "would-deny");
}

#[test]
fn a_refusal_suspends_the_key_for_a_time_or_until_an_operator_ends_it() {
    let forbid = |then: &str| format!("{PERMIT}@id(\"no\") {then} forbid(principal, action, resource);");
    let suspension = |text: &str| judge(Mode::Enforce, text).admit().unwrap_err().suspension;
    assert_eq!(suspension(&forbid("")), None);
    let until = suspension(&forbid("@then(\"suspend 15m\")")).unwrap().until;
    assert_eq!(until, Some(call().facts.time.plus(Duration::from_secs(900))));
    let rest = suspension(&forbid("@then(\"approval\")")).unwrap();
    assert_eq!((&*rest.key, rest.until, &*rest.reason), ("key_1", None, "no"));
    // The sternest of several counts.
    let both =
        format!("{}@then(\"suspend 2h\") forbid(principal, action, resource);", forbid("@then(\"suspend 15m\")"));
    assert_eq!(suspension(&both).unwrap().until, Some(call().facts.time.plus(Duration::from_secs(7_200))));
}

#[test]
fn a_changed_label_is_another_caller() {
    let gate = gate(Mode::Enforce, "permit(principal in Role::\"engineer\", action, resource);");
    let mut call = call();
    assert_eq!(gate.judge(&call).effective(), Decision::Deny);
    call.caller.labels = Arc::new([("roles".to_owned(), "guest, engineer".to_owned())].into());
    assert_eq!(gate.judge(&call).effective(), Decision::Allow);
}

#[test]
fn a_small_cache_forgets_and_changes_nothing() {
    let set = Arc::new(PolicySet::parse("p", "permit(principal == Key::\"key_7\", action, resource);").unwrap());
    let gate = Gate::new(set, GateSettings { mode: Mode::Enforce, cache_entries: 4, ..GateSettings::default() });
    for round in 0..3 {
        for number in 0..50 {
            let mut call = call();
            call.caller.key = format!("key_{number}").into();
            let allowed = gate.judge(&call).effective() == Decision::Allow;
            assert_eq!(allowed, number == 7, "round {round}, key {number}");
        }
    }
}

#[test]
fn the_family_of_a_model_is_what_people_call_it() {
    for (model, family) in [
        ("gpt-4.1-mini", "gpt"),
        ("o3", "o"),
        ("claude-sonnet-4-5", "claude"),
        ("anthropic.claude-sonnet-4-20250514-v1:0", "claude"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama"),
        ("text-embedding-3-small", "text"),
        ("gemini-2.5-pro", "gemini"),
        ("", ""),
        ("4", ""),
    ] {
        assert_eq!(Target { model: model.into(), ..Target::default() }.family(), family, "{model}");
    }
}

/// A set of many policies of which five apply to `call`; with a context or without one.
fn many(count: usize, condition: &str) -> PolicySet {
    let mut text = String::new();
    for number in 0..count {
        let (effect, team) = (if number == 0 { "permit" } else { "forbid" }, if number < 5 { "research" } else { "t" });
        let suffix = if number < 5 { String::new() } else { number.to_string() };
        let condition = if number == 0 { String::new() } else { format!("when {{ {condition} }}") };
        text += &format!(
            "@id(\"p{number}\") {effect}(principal in Team::\"{team}{suffix}\", action, resource) {condition};\n"
        );
    }
    PolicySet::parse("many", &text).unwrap_or_else(|faults| panic!("{:?}", faults.first()))
}

#[test]
fn a_large_set_is_cut_to_the_policies_that_apply() {
    let set = Arc::new(many(300, "context.max_output_tokens == 1"));
    let gate = Gate::new(set, GateSettings { mode: Mode::Enforce, ..GateSettings::default() });
    let ids: Vec<&str> = gate.applying(&call()).into_iter().map(|rule| &*rule.id).collect();
    assert_eq!(ids, ["p0", "p1", "p2", "p3", "p4"]);
    assert_eq!(gate.judge(&call()).effective(), Decision::Allow);
}

/// Prints medians: `cargo test --release --lib kavach::tests::gate::what_a_judgement_costs -- --ignored --nocapture`.
#[test]
#[ignore = "it prints times, which say something only in a release build"]
fn what_a_judgement_costs() {
    use crate::unit::clock::Tick;
    for (count, condition) in [
        (100, "context.max_output_tokens == 1"),
        (10_000, "context.max_output_tokens == 1"),
        (100, "resource.region == \"mars\""),
        (10_000, "resource.region == \"mars\""),
    ] {
        let set = Arc::new(many(count, condition));
        let gate = Gate::new(set, GateSettings { mode: Mode::Enforce, ..GateSettings::default() });
        for of in [1, 100] {
            // One kind of call after the other, or more kinds than are remembered.
            let calls: Vec<Call> = (0..of)
                .map(|number| {
                    let mut call = call();
                    call.facts.max_output_tokens = Some(200 + number);
                    call
                })
                .collect();
            let mut times: Vec<u128> = calls
                .iter()
                .cycle()
                .take(10_000)
                .map(|call| {
                    let start = Tick::now();
                    assert_eq!(gate.judge(call).effective(), Decision::Allow);
                    start.elapsed().as_nanos()
                })
                .collect();
            times.sort_unstable();
            let (median, p99) = (times[5_000], times[9_900]);
            println!("{count} policies, 5 apply, {condition}, {of} kinds: median {median} ns, p99 {p99} ns");
        }
    }
}
