//! The few policies of a set that can concern a call.
//!
//! Cedar evaluates every policy that it is given, about 1 µs each. A policy whose scope does not match is never satisfied
//! and never fails, so leaving it out changes nothing; one whose condition reads no context is settled once for a caller, an
//! action and a target. Property: `slicing_never_changes_a_decision`. A slice is found through an index of scopes: its cost
//! is that of the policies that name the caller or the model, plus those that name neither.

use std::collections::HashMap;

use cedar_policy::{
    ActionConstraint, Authorizer, Context, Decision, EntityUid, PrincipalConstraint, Request, ResourceConstraint,
};

use crate::kavach::context::Fields;
use crate::kavach::policy::PolicySet;
use crate::kavach::rule::Rule;
use crate::kavach::schema::Cast;

/// Where the policies of a set are, by what their scope names.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_principal: HashMap<EntityUid, Vec<usize>>,
    by_resource: HashMap<EntityUid, Vec<usize>>,
    rest: Vec<usize>,
}

impl Index {
    pub(super) fn of(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (number, rule) in rules.iter().enumerate() {
            let list = match (&rule.principal, &rule.resource) {
                (
                    PrincipalConstraint::Eq(uid) | PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid),
                    _,
                ) => index.by_principal.entry(uid.clone()).or_default(),
                (_, ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid)) => {
                    index.by_resource.entry(uid.clone()).or_default()
                }
                _ => &mut index.rest,
            };
            list.push(number);
        }
        index
    }

    /// The numbers of the policies whose scope matches, ascending.
    fn applying(&self, rules: &[Rule], cast: &Cast) -> Vec<usize> {
        let of_principal = cast.principal_in.iter().filter_map(|uid| self.by_principal.get(uid));
        let of_resource = cast.resource_in.iter().filter_map(|uid| self.by_resource.get(uid));
        let near = of_principal.chain(of_resource).chain([&self.rest]).flatten().copied();
        let mut found: Vec<usize> =
            near.filter(|number| rules.get(*number).is_some_and(|rule| matches(rule, cast))).collect();
        found.sort_unstable();
        found
    }
}

/// Whether a policy's scope matches.
pub(super) fn matches(rule: &Rule, cast: &Cast) -> bool {
    let principal = match &rule.principal {
        PrincipalConstraint::Any => true,
        PrincipalConstraint::Eq(uid) => *uid == cast.principal,
        PrincipalConstraint::In(uid) => cast.principal_in.contains(uid),
        PrincipalConstraint::Is(kind) => kind == cast.principal.type_name(),
        PrincipalConstraint::IsIn(kind, uid) => kind == cast.principal.type_name() && cast.principal_in.contains(uid),
    };
    let action = match &rule.action {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => *uid == cast.action,
        ActionConstraint::In(uids) => uids.iter().any(|uid| cast.action_in.contains(uid)),
    };
    let resource = match &rule.resource {
        ResourceConstraint::Any => true,
        ResourceConstraint::Eq(uid) => *uid == cast.resource,
        ResourceConstraint::In(uid) => cast.resource_in.contains(uid),
        ResourceConstraint::Is(kind) => kind == cast.resource.type_name(),
        ResourceConstraint::IsIn(kind, uid) => kind == cast.resource.type_name() && cast.resource_in.contains(uid),
    };
    principal && action && resource
}

/// Which policies said what. Numbers are places in the set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The forbids that match.
    pub(super) forbids: Vec<usize>,
    /// The permits that match.
    pub(super) permits: Vec<usize>,
    /// The policies that could not be evaluated, and why.
    pub(super) failed: Vec<(usize, String)>,
}

impl Outcome {
    /// Adds what others said. Cedar names policies in no order; the set's own is the same every time.
    fn add(&mut self, other: Self) {
        self.forbids.extend(other.forbids);
        self.permits.extend(other.permits);
        self.failed.extend(other.failed);
        self.forbids.sort_unstable();
        self.permits.sort_unstable();
        self.failed.sort_unstable();
    }
}

/// The policies that can concern one caller, action and target.
#[derive(Debug)]
pub(super) struct Slice {
    cast: Cast,
    /// What those say that read no context.
    settled: Outcome,
    /// Those that read it.
    forbids: Option<cedar_policy::PolicySet>,
    permits: Option<cedar_policy::PolicySet>,
    /// What they read of it.
    pub(super) fields: Fields,
    /// The policies whose scope matches, ascending.
    pub(super) applying: Vec<usize>,
}

impl Slice {
    /// Finds the slice and settles what needs no context.
    pub(super) fn new(set: &PolicySet, cast: Cast, authorizer: &Authorizer) -> Self {
        let applying = set.index.applying(&set.rules, &cast);
        let chosen = |forbids: bool, reads: bool| {
            let rules = applying.iter().filter_map(|number| set.rules.get(*number));
            group(rules.filter(move |rule| rule.forbids == forbids && rule.fields.is_empty() != reads))
        };
        let (fixed_forbids, fixed_permits) = (chosen(true, false), chosen(false, false));
        let (forbids, permits) = (chosen(true, true), chosen(false, true));
        let fields = applying.iter().filter_map(|number| set.rules.get(*number));
        let fields = fields.fold(Fields::default(), |all, rule| all.union(rule.fields));
        let mut slice = Self { cast, settled: Outcome::default(), forbids, permits, fields, applying };
        let request = slice.request(Context::empty());
        let mut settled = slice.evaluate(set, authorizer, &request, fixed_forbids.as_ref());
        settled.add(slice.evaluate(set, authorizer, &request, fixed_permits.as_ref()));
        slice.settled = settled;
        slice
    }

    /// Whether nothing of it depends on the context.
    pub(super) fn is_settled(&self) -> bool {
        self.forbids.is_none() && self.permits.is_none()
    }

    /// What the policies say that read no context; everything, if the slice is settled.
    pub(super) fn settled(&self) -> &Outcome {
        &self.settled
    }

    /// What the policies say in that context; `None` if those that read it say nothing, so that it is what is settled.
    pub(super) fn outcome(&self, set: &PolicySet, authorizer: &Authorizer, context: Context) -> Option<Outcome> {
        let request = self.request(context);
        let mut said = self.evaluate(set, authorizer, &request, self.forbids.as_ref());
        said.add(self.evaluate(set, authorizer, &request, self.permits.as_ref()));
        if said == Outcome::default() {
            return None;
        }
        let mut outcome = self.settled.clone();
        outcome.add(said);
        Some(outcome)
    }

    #[allow(clippy::expect_used, reason = "only a schema can refuse a request, and none is given")]
    fn request(&self, context: Context) -> Request {
        let Cast { principal, action, resource, .. } = &self.cast;
        // Without the schema: the facts are typed already, and `every_context_keeps_to_the_schema` proves it.
        Request::new(principal.clone(), action.clone(), resource.clone(), context, None).expect("no schema refuses it")
    }

    /// Forbids and permits are evaluated apart, because Cedar names only the ones that decide.
    fn evaluate(
        &self,
        set: &PolicySet,
        authorizer: &Authorizer,
        request: &Request,
        policies: Option<&cedar_policy::PolicySet>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(policies) = policies else { return outcome };
        let response = authorizer.is_authorized(request, policies, &self.cast.entities);
        let number = |id: &cedar_policy::PolicyId| set.by_id.get(id).copied();
        let matched = response.diagnostics().reason().filter_map(number);
        // A set of one effect allows exactly if a permit matches, so what matched is of the kind that was given.
        match response.decision() {
            Decision::Allow => outcome.permits.extend(matched),
            Decision::Deny => outcome.forbids.extend(matched),
        }
        for error in response.diagnostics().errors() {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
            outcome.failed.extend(number(error.policy_id()).map(|number| (number, error.inner().to_string())));
        }
        outcome
    }
}

fn group<'a>(rules: impl Iterator<Item = &'a Rule>) -> Option<cedar_policy::PolicySet> {
    let mut rules = rules.peekable();
    rules.peek()?;
    #[allow(clippy::expect_used, reason = "the ids of a set differ, and that is all that can fail")]
    let set = cedar_policy::PolicySet::from_policies(rules.map(|rule| rule.policy.clone())).expect("ids differ");
    Some(set)
}
