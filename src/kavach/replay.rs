//! The time machine: what a set of policies would have done to calls that were recorded.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::kavach::call::Call;
use crate::kavach::gate::Gate;
use crate::kavach::report::Report;
use crate::kavach::verdict::Decision;

/// What would have been.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Replay {
    /// The calls that were replayed.
    pub calls: u64,
    /// Those that would have been refused.
    pub refused: u64,
    /// Those that passed then and would have been refused.
    pub newly_refused: u64,
    /// Those that were refused then and would have passed.
    pub newly_admitted: u64,
    /// The refusals by policy, key, model and reason.
    pub refusals: Report,
    /// How many refusals each key would have had, the most first; at most 1,000 keys.
    pub by_key: Vec<(String, u64)>,
}

/// The most keys that are told apart; the calls of the others are counted, not named.
const MAX_KEYS: usize = 100_000;
const MAX_SHOWN: usize = 1_000;

/// Replays recorded calls, each with what was decided then, against a gate; its mode does not count.
///
/// *Cost*: as [`Gate::judge`] for each call; memory for at most 100,000 keys and 10,000 rows.
pub fn replay(gate: &Gate, recorded: impl IntoIterator<Item = (Call, Decision)>) -> Replay {
    let mut replaying = Replaying::default();
    for (call, then) in recorded {
        replaying.add(gate, &call, then);
    }
    replaying.finish()
}

/// A replay that is under way: for calls that come in pieces.
#[derive(Debug, Default)]
pub struct Replaying {
    replay: Replay,
    by_key: BTreeMap<String, u64>,
}

impl Replaying {
    /// Replays one more call, with what was decided then.
    pub fn add(&mut self, gate: &Gate, call: &Call, then: Decision) {
        let Self { replay, by_key } = self;
        let judgement = gate.weigh(call);
        let refused = judgement.decision == Decision::Deny;
        replay.calls += 1;
        replay.refused += u64::from(refused);
        replay.newly_refused += u64::from(refused && then == Decision::Allow);
        replay.newly_admitted += u64::from(!refused && then == Decision::Deny);
        if !refused {
            return;
        }
        replay.refusals.count(&call.caller.key, &call.target.model, &judgement.deciding);
        if by_key.len() < MAX_KEYS || by_key.contains_key(&*call.caller.key) {
            *by_key.entry(call.caller.key.to_string()).or_default() += 1;
        }
    }

    /// What would have been.
    pub fn finish(self) -> Replay {
        let Self { mut replay, by_key } = self;
        replay.by_key = by_key.into_iter().collect();
        replay.by_key.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        replay.by_key.truncate(MAX_SHOWN);
        replay
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::kavach::config::Mode;
    use crate::kavach::gate::GateSettings;
    use crate::kavach::policy::PolicySet;

    #[test]
    fn a_replay_counts_what_would_have_been_refused_and_by_whom() {
        let text = "@id(\"all\") permit(principal, action, resource);\n\
                    @id(\"cap\") @reason(\"too long\") forbid(principal, action, resource) when { context.max_output_tokens > 100 };";
        let set = Arc::new(PolicySet::parse("p", text).unwrap());
        let gate = Gate::new(set, GateSettings { mode: Mode::Observe, ..GateSettings::default() });
        let recorded = (0..100u64).map(|number| {
            let mut call = Call::default();
            call.caller.key = format!("key_{}", number % 4).into();
            call.target.model = "m".into();
            call.facts.max_output_tokens = Some(if number % 4 == 3 { 4_000 } else { 10 });
            (call, if number == 0 { Decision::Deny } else { Decision::Allow })
        });
        let replay = replay(&gate, recorded);
        assert_eq!((replay.calls, replay.refused, replay.newly_refused, replay.newly_admitted), (100, 25, 25, 1));
        assert_eq!(replay.by_key, [("key_3".to_owned(), 25)]);
        let rows = replay.refusals.rows();
        assert_eq!((&*rows[0].policy, rows[0].reason.as_deref(), rows[0].count), ("cap", Some("too long"), 25));
    }
}
