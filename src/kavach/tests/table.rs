//! Decisions against a table that was written apart from the code, and the order of imported policies.

use std::sync::Arc;

use jiff::tz::TimeZone;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use crate::kavach::call::Call;
use crate::kavach::config::Mode;
use crate::kavach::gate::{Gate, GateSettings};
use crate::kavach::import::{self, Settings};
use crate::kavach::policy::PolicySet;
use crate::kavach::table::Table;
use crate::kavach::verdict::Decision;

const CASES: &str = include_str!("cases.yaml");

#[derive(Deserialize)]
struct Group {
    name: String,
    #[serde(default)]
    toml: Option<String>,
    #[serde(default)]
    cedar: Option<String>,
    zone: String,
    notes: usize,
    cases: Vec<(String, Value)>,
}

fn settings(zone: &str) -> Settings {
    Settings { zone: TimeZone::get(zone).unwrap(), without_rate_limits: false }
}

/// The gate of a group; a text without policies refuses everything, as its original did.
fn gate(group: &Group) -> Gate {
    let text = match (&group.toml, &group.cedar) {
        (Some(toml), _) => {
            let imported = import::import(toml, &settings(&group.zone)).unwrap();
            assert_eq!(imported.notes.len(), group.notes, "{}: {:?}", group.name, imported.notes);
            if imported.policies == 0 { "forbid(principal, action, resource);".to_owned() } else { imported.text }
        }
        (None, cedar) => cedar.clone().unwrap(),
    };
    let set = PolicySet::parse(&group.name, &text).unwrap_or_else(|faults| panic!("{text}\n{faults:#?}"));
    let zone = TimeZone::get(&group.zone).unwrap();
    Gate::new(Arc::new(set), GateSettings { mode: Mode::Enforce, zone, ..GateSettings::default() })
}

#[test]
fn every_case_of_the_table_is_decided_as_written() {
    let groups: Vec<Group> = serde_saphyr::from_str(CASES).unwrap();
    let mut count = 0;
    for group in &groups {
        let gate = gate(group);
        for (expected, call) in &group.cases {
            count += 1;
            let came = match serde_json::from_value::<Call>(call.clone()) {
                Err(_) => "invalid",
                Ok(call) => gate.judge(&call).effective().name(),
            };
            assert_eq!(came, expected, "{}: {call}", group.name);
        }
    }
    assert!(count >= 200, "{count} cases are too few");
}

#[test]
fn what_kavach_does_not_have_is_refused_with_its_place() {
    for (text, says) in [
        ("[[polcy]]\nname = \"a\"\n", "polcy"),
        ("[[policy]]\nname = \"a\"\neffect = \"permit\"\ncondition = []\n", "condition"),
        ("[[policy]]\nname = \"a\"\neffect = \"allow\"\n", "allow"),
        ("[[policy]\n", "line 1"),
    ] {
        let fault = import::import(text, &settings("UTC")).unwrap_err();
        assert!(fault.contains(says), "{fault}");
    }
}

#[test]
fn a_rate_limit_is_left_out_when_the_operator_says_so() {
    let text =
        "[[policy]]\nname = \"a\"\neffect = \"permit\"\nconditions = [{rate_limit = {max = 60, window = \"1m\"}}]\n";
    let strict = import::import(text, &settings("UTC")).unwrap();
    assert_eq!(strict.policies, 0);
    let lenient = import::import(text, &Settings { without_rate_limits: true, ..settings("UTC") }).unwrap();
    assert_eq!((lenient.policies, lenient.notes.len()), (1, 1));
    assert!(PolicySet::parse("p", &lenient.text).is_ok());
}

#[test]
fn names_and_texts_of_any_kind_become_sound_policies() {
    let text = "[[policy]]\nname = \"a \\\"b\\\"\"\neffect = \"refuse\"\ndescription = \"say \\\"no\\\" \\\\ \\n twice\"\n\
                conditions = [{identity_id = \"x\\\"); permit(principal, action, resource\"}]\n\
                [[policy]]\nname = \"a  b \"\neffect = \"permit\"\n";
    let imported = import::import(text, &settings("UTC")).unwrap();
    let set = PolicySet::parse("p", &imported.text).unwrap_or_else(|faults| panic!("{}\n{faults:#?}", imported.text));
    assert_eq!(set.rules().len(), 2);
    assert_eq!(set.rules()[0].reason.as_deref(), Some("say \"no\" \\   twice"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_policies_is_kept(
        drawn in prop::collection::vec((any::<bool>(), 0..5i64, "[ab]{0,2}", any::<bool>()), 1..7),
        model in "[ab]{0,3}",
    ) {
        let mut text = String::new();
        for (number, (permits, priority, model, prefix)) in drawn.iter().enumerate() {
            let (effect, star) = (if *permits { "permit" } else { "refuse" }, if *prefix { "*" } else { "" });
            text += &format!(
                "[[policy]]\nname = \"p{number}\"\neffect = \"{effect}\"\npriority = {priority}\n\
                 conditions = [{{action = \"marg.chat.{model}{star}\"}}]\n"
            );
        }
        let mut ordered: Vec<_> = drawn.iter().collect();
        ordered.sort_by_key(|policy| policy.1);
        let first = ordered.iter().find(|(_, _, pattern, prefix)| {
            if *prefix { model.starts_with(pattern.as_str()) } else { model == *pattern }
        });
        let allowed = first.is_some_and(|policy| policy.0);
        let imported = import::import(&text, &settings("UTC")).unwrap();
        let set = PolicySet::parse("p", &imported.text);
        // An exact name that ends in nothing is no model and was never matched; such sets may be empty.
        let Ok(set) = set else { return Err(TestCaseError::fail(format!("{:?}", set.unwrap_err()))) };
        let gate = Gate::new(Arc::new(set), GateSettings { mode: Mode::Enforce, ..GateSettings::default() });
        let mut call = super::gate::call();
        call.facts.requested_model = model.as_str().into();
        prop_assert_eq!(gate.judge(&call).effective() == Decision::Allow, allowed, "{}\n{}", text, imported.text);
    }
}

#[test]
fn a_table_of_an_operator_tells_what_goes_otherwise() {
    let gate = super::gate::gate(
        Mode::Observe,
        "@id(\"all\") permit(principal, action, resource);\n\
         @id(\"big\") forbid(principal, action, resource) when { context.max_output_tokens > 100 };\n\
         @id(\"new\") @mode(\"observe\") forbid(principal, action, resource) when { context.stream };",
    );
    let table = Table::parse(
        "base:\n  caller: {key: key_1}\n  context: {max_output_tokens: 10}\n\
         cases:\n\
         - {name: small, expect: allow, policies: [all]}\n\
         - {name: large, call: {context: {max_output_tokens: 101}}, expect: deny, policies: [big]}\n\
         - {name: wrong, call: {context: {max_output_tokens: 101}}, expect: allow}\n\
         - {name: streamed, call: {context: {stream: true}}, expect: allow, would_refuse: [new]}\n\
         - {name: not streamed, expect: allow, would_refuse: [new]}\n\
         - {name: by another, expect: allow, policies: [any]}\n",
    )
    .unwrap();
    let misses = table.run(&gate).unwrap();
    let names: Vec<&str> = misses.iter().map(|miss| miss.case.as_str()).collect();
    assert_eq!(names, ["wrong", "not streamed", "by another"]);
    assert_eq!(misses[0].text, "expected allow, came deny by big");
    for (text, says) in [
        ("cases: []", "0 cases"),
        ("cases: [{name: a, expect: allow, call: {context: {max_tokens: 1}}}]", "max_tokens"),
        ("cases: [{name: a, expect: maybe}]", "maybe"),
        ("cases: [{name: a, expect: allow, colour: red}]", "colour"),
    ] {
        let fault = Table::parse(text).unwrap_err();
        assert!(fault.contains(says), "{fault}");
    }
}
