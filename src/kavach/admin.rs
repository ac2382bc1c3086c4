//! Operations of operators, judged by policies: what of it the roles let pass, policies may forbid.
//!
//! A policy is about operators exactly if its scope names an action of the namespace `Admin`; all others are about calls, so a
//! `forbid (principal, action, resource)` stops every call and locks no operator out. Nothing needs a permit here: a set
//! without such policies changes nothing, and a `permit` among them is a mistake. What comes over the command line on the store
//! is not asked: that is the way back in.

use std::collections::HashSet;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use cedar_policy::{
    ActionConstraint, Authorizer, Context, Entities, Entity, EntityUid, Request, RestrictedExpression, Schema,
};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::kavach::context;
use crate::kavach::gate::Gate;
use crate::kavach::rule::{Rule, Then};
use crate::kavach::schema::Cast;
use crate::kavach::slice;
use crate::kavach::verdict::{Decision, Failed, Ground, Judgement};
use crate::key::admin::Role;
use crate::unit::clock::Timestamp;

/// The schema's text, in Cedar's own notation.
pub const TEXT: &str = include_str!("../../conf/kavach-admin.cedarschema");
/// What stands before every name of it.
const NAMESPACE: &str = "Admin::";
/// The verbs that policies name, as `conf/kavach-admin.cedarschema` has them, without `other`.
const VERBS: &[&str] = &[
    "read", "create", "update", "replace", "delete", "revoke", "rotate", "enable", "disable", "release", "reset",
    "end", "erase", "reload", "reprice", "explain", "replay", "diff",
];
/// The nouns that policies name, likewise.
const NOUNS: &[&str] = &[
    "audit",
    "config",
    "key",
    "limit",
    "metric",
    "org",
    "policy",
    "price",
    "provider",
    "reconcile",
    "request",
    "route",
    "session",
    "spend",
    "status",
    "team",
    "token",
    "user",
    "version",
];
/// What neither list knows.
const OTHER: &str = "other";

/// The schema.
#[allow(clippy::expect_used, reason = "the text is part of the binary and every test reads it")]
pub fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| Schema::from_cedarschema_str(TEXT).expect("the built-in schema is valid").0)
}

/// One operation, after the roles let it pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// The id of the admin token.
    pub token: Arc<str>,
    /// Its role.
    pub role: Role,
    /// What is done: `read` for all that only reads by GET, else as the audit log names it.
    pub verb: String,
    /// What it is about, in the singular.
    pub noun: String,
    /// The id or name of what it is about, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Where it comes from, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// When.
    #[serde(default = "Timestamp::now", with = "crate::kavach::call::moment")]
    pub time: Timestamp,
}

impl Operation {
    /// The verb as policies name it.
    pub fn action(&self) -> &str {
        if VERBS.contains(&self.verb.as_str()) { &self.verb } else { OTHER }
    }

    /// The noun as policies name it.
    pub fn resource(&self) -> &str {
        if NOUNS.contains(&self.noun.as_str()) { &self.noun } else { OTHER }
    }
}

/// Whether a policy is about operators.
///
/// # Errors
/// A sentence, when it is one that cannot be: a permit, one that is also about calls, one with `@then`.
pub(super) fn is_about_operators(rule: &Rule) -> Result<bool, String> {
    let uids: Vec<&EntityUid> = match &rule.action {
        ActionConstraint::Any => Vec::new(),
        ActionConstraint::Eq(uid) => vec![uid],
        ActionConstraint::In(uids) => uids.iter().collect(),
    };
    let is_admin = |uid: &&EntityUid| uid.type_name().to_string().starts_with(NAMESPACE);
    let admin = uids.iter().copied().filter(|uid| is_admin(uid)).count();
    match admin {
        0 => Ok(false),
        _ if admin < uids.len() => Err("it is about operators and about calls at once; make two of it".to_owned()),
        _ if !rule.forbids => {
            Err("a permit for operators permits nothing: their roles do; only a forbid has an effect".to_owned())
        }
        _ if rule.then != Then::Refuse => Err("@then belongs to a policy about calls: it lets a key rest".to_owned()),
        _ => Ok(true),
    }
}

impl Gate {
    /// What the policies say of an operation, whatever the mode is. About 10 µs where a policy is about operators.
    pub fn weigh_operation(&self, operation: &Operation) -> Judgement {
        let mut judgement = Judgement::allowing();
        let Some((set, policies)) = self.set().and_then(|set| Some((set, set.about_operators.as_ref()?))) else {
            return judgement;
        };
        let (request, entities) = match described(operation, self.zone()) {
            Ok(described) => described,
            Err(text) => {
                judgement.decision = Decision::Deny;
                judgement.failed.push(Failed { policy: Arc::from(""), text });
                return judgement;
            }
        };
        let response = Authorizer::new().is_authorized(&request, policies, &entities);
        let rule = |id| set.by_id.get(id).and_then(|number| set.rules.get(*number));
        let mut matched: Vec<&Rule> = response.diagnostics().reason().filter_map(rule).collect();
        for error in response.diagnostics().errors() {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
            // A forbid that cannot be evaluated refuses, as it does for calls.
            matched.extend(rule(error.policy_id()));
            judgement.failed.push(Failed { policy: error.policy_id().to_string().into(), text: error.to_string() });
        }
        matched.sort_by_key(|rule| (rule.source, rule.offset));
        for rule in matched {
            let ground = Ground { policy: Arc::clone(&rule.id), reason: rule.reason.clone() };
            if rule.observes { judgement.would_refuse.push(ground) } else { judgement.deciding.push(ground) }
        }
        if !judgement.deciding.is_empty() {
            judgement.decision = Decision::Deny;
        }
        judgement
    }
}

impl Gate {
    /// The policies about operators whose scope matches an operation, whether or not their conditions do.
    pub fn applying_to(&self, operation: &Operation) -> Vec<&Rule> {
        let (Some(set), Ok(cast)) = (self.set(), cast(operation)) else { return Vec::new() };
        let rules = set.rules.iter().filter(|rule| is_about_operators(rule) == Ok(true));
        rules.filter(|rule| slice::matches(rule, &cast)).collect()
    }
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, String> {
    let kind =
        cedar_policy::EntityTypeName::from_str(&format!("{NAMESPACE}{kind}")).map_err(|error| error.to_string())?;
    Ok(EntityUid::from_type_name_and_id(kind, cedar_policy::EntityId::new(id)))
}

/// An operation in the terms of the schema. `Err` only if Cedar refuses a value, which no operation can bring about.
fn described(operation: &Operation, zone: &TimeZone) -> Result<(Request, Entities), String> {
    let Cast { principal, action, resource, entities, .. } = cast(operation)?;
    let text = |text: &String| RestrictedExpression::new_string(text.clone());
    let subject = operation.subject.as_ref().map(|subject| ("subject".to_owned(), text(subject)));
    let address = operation.address.map(|address| ("address".to_owned(), context::address(address)));
    let time = ("time".to_owned(), context::time(operation.time, zone));
    let context =
        Context::from_pairs(subject.into_iter().chain(address).chain([time])).map_err(|error| error.to_string())?;
    let request = Request::new(principal, action, resource, context, None).map_err(|error| error.to_string())?;
    Ok((request, entities))
}

fn cast(operation: &Operation) -> Result<Cast, String> {
    let (token, role) = (uid("Token", &operation.token)?, uid("Role", operation.role.as_str())?);
    let (action, noun) = (uid("Action", operation.action())?, uid("Noun", operation.resource())?);
    let (any, change) = (uid("Action", "any")?, uid("Action", "change")?);
    let is_read = operation.action() == "read";
    let above = if is_read { any.clone() } else { change.clone() };
    let groups = [Some(any.clone()), (!is_read).then(|| change.clone())];
    let list = vec![
        Entity::new_no_attrs(token.clone(), HashSet::from([role.clone()])),
        Entity::with_uid(role.clone()),
        Entity::with_uid(noun.clone()),
        Entity::new_no_attrs(action.clone(), HashSet::from([above])),
        Entity::new_no_attrs(change, HashSet::from([any.clone()])),
        Entity::with_uid(any),
    ];
    let entities = Entities::from_entities(list, None).map_err(|error| error.to_string())?;
    Ok(Cast {
        principal_in: HashSet::from([token.clone(), role]),
        action_in: groups.into_iter().flatten().chain([action.clone()]).collect(),
        resource_in: HashSet::from([noun.clone()]),
        principal: token,
        action,
        resource: noun,
        entities,
    })
}
