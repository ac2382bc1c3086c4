//! Policies about operators: what they forbid, and that they lock nobody out by accident.

use std::sync::Arc;

use crate::kavach::admin::Operation;
use crate::kavach::config::Mode;
use crate::kavach::gate::{Gate, GateSettings};
use crate::kavach::policy::PolicySet;
use crate::kavach::table::Table;
use crate::kavach::verdict::Decision;
use crate::key::admin::Role;
use crate::unit::clock::Timestamp;

fn gate(policies: &str) -> Gate {
    let set = PolicySet::parse("policy.cedar", policies).unwrap_or_else(|problems| panic!("{problems:?}"));
    Gate::new(Arc::new(set), GateSettings { mode: Mode::Enforce, ..GateSettings::default() })
}

fn operation(role: Role, verb: &str, noun: &str) -> Operation {
    Operation {
        token: "adm_1".into(),
        role,
        verb: verb.to_owned(),
        noun: noun.to_owned(),
        subject: Some("key_1".to_owned()),
        address: Some([10, 0, 0, 7].into()),
        time: Timestamp(1_800_000_000_000_000),
    }
}

fn says(policies: &str, operation: &Operation) -> Decision {
    gate(policies).weigh_operation(operation).decision
}

#[test]
fn a_set_about_calls_locks_no_operator_out() {
    let delete = operation(Role::Operator, "delete", "key");
    assert_eq!(gate("permit(principal, action, resource);").weigh_operation(&delete).decision, Decision::Allow);
    // Every call is stopped; whoever has to mend that is not.
    let stop = "@id(\"stop\") forbid(principal, action, resource);";
    assert_eq!(says(stop, &delete), Decision::Allow);
    assert_eq!(Gate::off().weigh_operation(&delete).decision, Decision::Allow);
}

#[test]
fn a_forbid_takes_away_from_what_a_role_may_do() {
    let policy = "@id(\"no-deletes\") @reason(\"only administrators delete\")
        forbid(principal in Admin::Role::\"operator\", action == Admin::Action::\"delete\", resource);";
    let judgement = gate(policy).weigh_operation(&operation(Role::Operator, "delete", "key"));
    assert_eq!(judgement.decision, Decision::Deny);
    assert_eq!(
        (&*judgement.deciding[0].policy, judgement.deciding[0].reason.as_deref()),
        ("no-deletes", Some("only administrators delete"))
    );
    assert_eq!(says(policy, &operation(Role::Admin, "delete", "key")), Decision::Allow);
    assert_eq!(says(policy, &operation(Role::Operator, "revoke", "key")), Decision::Allow);
    let keys = "forbid(principal, action in Admin::Action::\"change\", resource == Admin::Noun::\"key\")
        unless { context has address && context.address.isInRange(ip(\"10.1.0.0/16\")) };";
    assert_eq!(says(keys, &operation(Role::Admin, "delete", "key")), Decision::Deny);
    assert_eq!(says(keys, &operation(Role::Admin, "read", "key")), Decision::Allow);
    assert_eq!(says(keys, &operation(Role::Admin, "delete", "limit")), Decision::Allow);
    let inside = Operation { address: Some([10, 1, 2, 3].into()), ..operation(Role::Admin, "delete", "key") };
    assert_eq!(says(keys, &inside), Decision::Allow);
    // What no list knows has a name, too, so that nothing new slips by a policy about everything.
    let all = "forbid(principal, action in Admin::Action::\"any\", resource);";
    assert_eq!(says(all, &operation(Role::Admin, "frobnicate", "gadget")), Decision::Deny);
    let subject = "forbid(principal, action in Admin::Action::\"any\", resource) \
        when { context has subject && context.subject == \"key_1\" };";
    assert_eq!(says(subject, &operation(Role::Admin, "rotate", "key")), Decision::Deny);
}

#[test]
fn those_whose_scope_matches_an_operation_can_be_named() {
    let gate = gate(
        "@id(\"calls\") forbid(principal, action, resource);
        @id(\"any\") forbid(principal, action in Admin::Action::\"any\", resource) when { context has subject };
        @id(\"changes\") forbid(principal, action in Admin::Action::\"change\", resource == Admin::Noun::\"key\");
        @id(\"admins\") forbid(principal in Admin::Role::\"admin\", action == Admin::Action::\"read\", resource);",
    );
    let named = |role, verb, noun| {
        let rules = gate.applying_to(&operation(role, verb, noun));
        rules.into_iter().map(|rule| rule.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(named(Role::Operator, "delete", "key"), ["any", "changes"]);
    assert_eq!(named(Role::Admin, "read", "key"), ["any", "admins"]);
    assert_eq!(named(Role::Operator, "frobnicate", "gadget"), ["any"]);
}

#[test]
fn one_that_observes_refuses_nothing_and_says_so() {
    let policy = "@id(\"o\") @mode(\"observe\") forbid(principal, action in Admin::Action::\"any\", resource);";
    let judgement = gate(policy).weigh_operation(&operation(Role::Admin, "delete", "key"));
    assert_eq!((judgement.decision, judgement.would_refuse.len()), (Decision::Allow, 1));
}

#[test]
fn a_policy_about_operators_that_could_not_do_what_it_says_is_a_mistake() {
    for (policy, says) in [
        ("permit(principal, action in Admin::Action::\"any\", resource);", "permits nothing"),
        ("forbid(principal, action in [Admin::Action::\"read\", Action::\"chat\"], resource);", "at once"),
        ("@then(\"approval\") forbid(principal, action == Admin::Action::\"read\", resource);", "@then belongs"),
        ("forbid(principal, action == Admin::Action::\"destroy\", resource);", "unrecognized action"),
        ("forbid(principal, action == Admin::Action::\"read\", resource == Admin::Noun::\"keys\");", "keys"),
        ("forbid(principal in Admin::Role::\"root\", action == Admin::Action::\"read\", resource);", "root"),
        (
            "forbid(principal, action == Admin::Action::\"read\", resource) when { context.max_output_tokens > 1 };",
            "max_output_tokens",
        ),
        ("forbid(principal is Key, action == Admin::Action::\"read\", resource);", "unrecognized entity type `Key`"),
    ] {
        let problems = PolicySet::parse("policy.cedar", policy).expect_err(policy);
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(text.iter().any(|text| text.contains(says)), "{policy}: {text:?}");
    }
}

#[test]
fn a_table_of_cases_asks_about_operators_too() {
    let gate = gate("@id(\"no\") forbid(principal, action == Admin::Action::\"delete\", resource);");
    let table = "cases:
  - name: nobody deletes
    operation: {token: adm_1, role: admin, verb: delete, noun: key, address: 10.0.0.1}
    expect: deny
    policies: [no]
  - name: but revokes
    operation: {token: adm_1, role: operator, verb: revoke, noun: key, time: \"2026-11-21T09:30:00Z\"}
    expect: allow
";
    assert_eq!(Table::parse(table).unwrap().run(&gate).unwrap(), []);
    let wrong = table.replace("expect: allow", "expect: deny");
    assert_eq!(Table::parse(&wrong).unwrap().run(&gate).unwrap().len(), 1);
}
