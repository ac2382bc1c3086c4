//! The gate: judges a call by a set of policies, in its mode.
//!
//! Default deny; a forbid wins over every permit; a policy in observe mode neither refuses nor permits; a forbid that cannot
//! be evaluated refuses. Nothing here locks or waits: slices of the set are kept in atomic slots, and a reload makes a new
//! gate. Cost: about 1 µs where no policy that applies reads the context, or where what they read is as in one of the latest
//! calls; else some µs plus 1 µs for each that reads it.

use std::fmt;
use std::sync::Arc;

use cedar_policy::Authorizer;
use jiff::tz::TimeZone;

use crate::kavach::call::{Action, Call, Caller, Target};
use crate::kavach::config::{Mode, Reveal};
use crate::kavach::context::{self, Fields};
use crate::kavach::policy::PolicySet;
use crate::kavach::rule::{Rule, Then};
use crate::kavach::schema::Cast;
use crate::kavach::slice::{Outcome, Slice};
use crate::kavach::slots::Slots;
use crate::kavach::verdict::{Decision, Failed, Ground, Judgement, Permit, Verdict};
use crate::key::Key;

/// Judges calls. Share it behind an `Arc`; a reload makes a new one.
pub struct Gate {
    mode: Mode,
    reveal: Reveal,
    zone: TimeZone,
    set: Option<Arc<PolicySet>>,
    authorizer: Authorizer,
    slices: Slots<Entry>,
    callers: Slots<(Arc<Key>, Caller)>,
    set_name: Arc<str>,
    silent: Arc<Judgement>,
    counts_input: bool,
}

/// How a gate works, besides its policies.
#[derive(Clone, Debug)]
pub struct GateSettings {
    /// Whether it refuses, only observes, or is off.
    pub mode: Mode,
    /// What a caller that is refused may read.
    pub reveal: Reveal,
    /// The time zone of `context.time`.
    pub zone: TimeZone,
    /// How many slices are kept: one for each caller, action and target. About 6 KB each.
    pub cache_entries: usize,
}

impl Default for GateSettings {
    fn default() -> Self {
        Self { mode: Mode::Off, reveal: Reveal::IdAndReason, zone: TimeZone::UTC, cache_entries: 8_192 }
    }
}

/// A slice, for whom it is, and the judgement where no policy that reads the context has anything to say.
struct Entry {
    caller: Caller,
    action: Action,
    target: Target,
    slice: Slice,
    settled: Arc<Judgement>,
    /// What was said of the latest contexts.
    memos: Slots<Memo>,
}

/// What was said of a context; Cedar is a function of it, so it holds for the next one that is the same.
struct Memo {
    print: Vec<u8>,
    judgement: Arc<Judgement>,
}

/// How many there are; enough for the few kinds of calls that one application makes.
const MEMOS: usize = 4;
/// Every memo of a slice may be anywhere among its few.
const MEMO: u64 = 0;

impl fmt::Debug for Gate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Gate").field("mode", &self.mode).field("set", &self.set_hash()).finish_non_exhaustive()
    }
}

impl Gate {
    /// A gate that lets everything pass.
    pub fn off() -> Self {
        Self::build(None, GateSettings { cache_entries: 0, ..GateSettings::default() })
    }

    /// A gate of that set.
    pub fn new(set: Arc<PolicySet>, settings: GateSettings) -> Self {
        Self::build(Some(set), settings)
    }

    fn build(set: Option<Arc<PolicySet>>, settings: GateSettings) -> Self {
        let GateSettings { mode, reveal, zone, cache_entries } = settings;
        let authorizer = Authorizer::new();
        let silent = Arc::new(Judgement::allowing());
        let counted = Fields::default().with("estimated_input_tokens").with("estimated_cost_nano_usd");
        let counts_input = set.iter().flat_map(|set| &set.rules).any(|rule| rule.fields.meets(counted));
        let set_name = set.as_ref().and_then(|set| set.hash().get(..16)).unwrap_or_default().into();
        let (slices, callers) = (Slots::new(cache_entries), Slots::new(cache_entries));
        Self { mode, reveal, zone, set, authorizer, slices, callers, set_name, silent, counts_input }
    }

    /// Its mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The time zone of the clock in policies.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Its policies; `None` if it is off without any.
    pub fn set(&self) -> Option<&Arc<PolicySet>> {
        self.set.as_ref()
    }

    /// The hash of its policies; empty if it has none.
    pub fn set_hash(&self) -> &str {
        self.set.as_ref().map_or("", |set| set.hash())
    }

    /// The beginning of that hash: 16 hexadecimal digits, or nothing.
    pub fn set_name(&self) -> &Arc<str> {
        &self.set_name
    }

    /// The caller behind a key, as [`Caller::of`] says; kept for as long as the key stays as it is.
    pub fn caller(&self, key: &Arc<Key>) -> Caller {
        let place = self.callers.place(&key.id);
        if let Some(known) = self.callers.find(place, |(known, _)| Arc::ptr_eq(known, key)) {
            return known.1.clone();
        }
        let caller = Caller::of(key);
        self.callers.keep(place, Arc::new((Arc::clone(key), caller.clone())));
        caller
    }

    /// Whether it would judge every call as the other one does, and show as much.
    pub fn is_like(&self, other: &Self) -> bool {
        let told = |gate: &Self| (gate.mode, gate.reveal, gate.zone.clone(), gate.slices.len());
        told(self) == told(other) && self.set_hash() == other.set_hash() && self.set.is_some() == other.set.is_some()
    }

    /// Whether a policy looks at figures for which the words of the input have to be counted.
    pub fn counts_input(&self) -> bool {
        self.counts_input
    }

    /// The permit of a gate that is off, which asks for no facts; `None` if calls are to be judged.
    pub fn waive(&self, key: &Arc<str>, action: Action, (provider, model): (&Arc<str>, &str)) -> Option<Permit> {
        (self.mode == Mode::Off).then(|| Permit::waived(key, action, provider, model))
    }

    /// Judges a call.
    ///
    /// *Cost*: no I/O, no lock; see the module's head. The first call of a caller to a target costs about 50 µs more.
    pub fn judge(&self, call: &Call) -> Verdict {
        let judgement = if self.mode == Mode::Off { Arc::clone(&self.silent) } else { self.weigh(call) };
        let permit = Permit::for_call(call);
        Verdict { mode: self.mode, judgement, reveal: self.reveal, permit, at: call.facts.time }
    }

    /// What the policies say of a call, whatever the mode is: also for replays, tables of cases and explanations.
    pub fn weigh(&self, call: &Call) -> Arc<Judgement> {
        // `new` is the only way to a mode besides off and takes a set; without one nothing permits.
        let Some(set) = &self.set else { return Arc::new(judgement(&[], Outcome::default())) };
        let (caller, action, target) = (&call.caller, call.action, &call.target);
        // What the hash leaves out is compared below.
        let place = self.slices.place(&(&*caller.key, action, &*target.provider, &*target.model));
        let is_it = |entry: &Entry| entry.action == action && entry.target == *target && entry.caller == *caller;
        let entry = match self.slices.find(place, is_it) {
            Some(entry) => entry,
            None => match self.entry(set, call) {
                Ok(entry) => {
                    self.slices.keep(place, Arc::clone(&entry));
                    entry
                }
                Err(text) => return Arc::new(undescribed(text)),
            },
        };
        if entry.slice.is_settled() {
            return Arc::clone(&entry.settled);
        }
        self.weigh_context(set, &entry, call)
    }

    /// What those policies of a slice say that read the context: from memory if it is one of the latest.
    fn weigh_context(&self, set: &PolicySet, entry: &Entry, call: &Call) -> Arc<Judgement> {
        let print = context::print(&call.facts, entry.slice.fields, &self.zone);
        if let Some(print) = &print
            && let Some(memo) = entry.memos.find(MEMO, |memo| memo.print == *print)
        {
            return Arc::clone(&memo.judgement);
        }
        let judgement = match context::context(&call.facts, entry.slice.fields, &self.zone) {
            Ok(context) => match entry.slice.outcome(set, &self.authorizer, context) {
                Some(outcome) => Arc::new(judgement(&set.rules, outcome)),
                None => Arc::clone(&entry.settled),
            },
            Err(error) => Arc::new(undescribed(error.to_string())),
        };
        if let Some(print) = print {
            entry.memos.keep(MEMO, Arc::new(Memo { print, judgement: Arc::clone(&judgement) }));
        }
        judgement
    }

    /// The policies whose scope matches a call, whether or not their conditions do.
    pub fn applying(&self, call: &Call) -> Vec<&Rule> {
        let Some(set) = &self.set else { return Vec::new() };
        let Ok(entry) = self.entry(set, call) else { return Vec::new() };
        entry.slice.applying.iter().filter_map(|number| set.rules.get(*number)).collect()
    }

    fn entry(&self, set: &PolicySet, call: &Call) -> Result<Arc<Entry>, String> {
        let cast = Cast::of(&call.caller, call.action, &call.target).map_err(|error| error.to_string())?;
        let slice = Slice::new(set, cast, &self.authorizer);
        let settled = Arc::new(judgement(&set.rules, slice.settled().clone()));
        let (caller, target) = (call.caller.clone(), call.target.clone());
        Ok(Arc::new(Entry { caller, action: call.action, target, slice, settled, memos: Slots::new(MEMOS) }))
    }
}

impl Judgement {
    /// Allow, by nobody's word.
    pub(super) fn allowing() -> Self {
        judgement(&[], Outcome::default()).allowed()
    }

    fn allowed(self) -> Self {
        Self { decision: Decision::Allow, ..self }
    }
}

/// Nothing is known of the call, so nothing permits it.
fn undescribed(text: String) -> Judgement {
    let failed = vec![Failed { policy: Arc::from(""), text }];
    Judgement { failed, ..judgement(&[], Outcome::default()) }
}

/// The decision that follows from what each policy says.
fn judgement(rules: &[Rule], outcome: Outcome) -> Judgement {
    let named = |numbers: &[usize], observes: bool| -> Vec<&Rule> {
        let rules = numbers.iter().filter_map(|number| rules.get(*number));
        rules.filter(|rule| rule.observes == observes).collect()
    };
    let grounds = |rules: &[&Rule]| -> Vec<Ground> {
        rules.iter().map(|rule| Ground { policy: Arc::clone(&rule.id), reason: rule.reason.clone() }).collect()
    };
    // A forbid that fails counts as one that matches: what it was to keep out must not slip in by an overflow.
    let failed_forbids = outcome.failed.iter().map(|(number, _)| *number);
    let failed_forbids = failed_forbids.filter(|number| rules.get(*number).is_some_and(|rule| rule.forbids));
    let mut forbids: Vec<usize> = outcome.forbids.iter().copied().chain(failed_forbids).collect();
    forbids.sort_unstable();
    forbids.dedup();
    let (refusing, permitting) = (named(&forbids, false), named(&outcome.permits, false));
    let decision = if refusing.is_empty() && !permitting.is_empty() { Decision::Allow } else { Decision::Deny };
    let deciding = if refusing.is_empty() { &permitting } else { &refusing };
    let then = refusing.iter().fold(Then::Refuse, |sternest, rule| sternest.max(rule.then));
    let failed = outcome
        .failed
        .into_iter()
        .filter_map(|(number, text)| rules.get(number).map(|rule| Failed { policy: Arc::clone(&rule.id), text }));
    Judgement {
        decision,
        deciding: grounds(deciding),
        would_refuse: grounds(&named(&forbids, true)),
        would_permit: grounds(&named(&outcome.permits, true)),
        failed: failed.collect(),
        then,
    }
}
