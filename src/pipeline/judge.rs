//! **Judge**: whether the gate lets the exchange go on, and to which of its targets.
//!
//! After the ceiling on its output is decided and before money is reserved, so that every figure is the one that the provider
//! gets. Each target of the plan is judged; one that is refused is never asked, and when none is left the caller gets 403. A
//! gate that is off is asked nothing: it waives, which costs one small text. What was said goes into the record, with the
//! facts of the call, so that it can be judged again by other policies.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use serde_json::json;

use crate::dialect::{Facts, Modalities, Operation};
use crate::error::{Error, Kind, Result};
use crate::kavach::call::{self, Action, Call, SessionFigures, Target};
use crate::kavach::config::Mode;
use crate::kavach::drift::geo::Place;
use crate::kavach::drift::{Drift, Settled, Sighting};
use crate::kavach::session::{Said, Sessions};
use crate::kavach::verdict::{Decision, Ground, Verdict};
use crate::kavach::{Gate, Permit, Refusal, Suspension};
use crate::key::{self, Key};
use crate::ledger::{Line, record};
use crate::pipeline::Gateway;
use crate::pipeline::attempt::Step;
use crate::pipeline::estimate::OVERHEAD_TOKENS;
use crate::pipeline::exchange::Exchange;
use crate::pipeline::recall;
use crate::unit::clock::Timestamp;
use crate::unit::event::Event;
use crate::unit::money::NanoUsd;
use crate::unit::usage::Usage;

/// The most policies of a kind that a record names.
const MAX_GROUNDS: usize = 8;
/// Bytes of text to a token, at most, in the languages that models are best at; for figures that no policy looks at.
const BYTES_A_TOKEN: u64 = 4;

impl Exchange {
    /// Asks the gate, leaves out the targets that it refuses, and readies the first attempt.
    ///
    /// # Errors
    /// `PermissionDenied` with the policy and its reason, as far as the operator lets callers know, or for a session that an
    /// operator ended; `LimitExceeded` if every credential on the way rests.
    pub async fn judge(&mut self, headers: &HeaderMap) -> Result<()> {
        let gate = Arc::clone(&self.live.gate);
        if let (Mode::Observe | Mode::Enforce, Some(key)) = (gate.mode(), self.key.clone()) {
            self.judge_plan(&gate, &key, headers).await?;
        } else {
            self.waive(&gate);
        }
        if self.advance() { Ok(()) } else { Err(self.give_up()) }
    }

    /// What the caller reads of the gate; nothing while it is off.
    pub fn gate_headers(&self) -> impl Iterator<Item = (&'static str, HeaderValue)> {
        let mode = self.live.gate.mode();
        let told = self.record.verdict.as_ref().map(|verdict| match &*verdict.verdict {
            "deny" => "deny",
            "would-deny" => "would-deny",
            _ => "allow",
        });
        let both = [Some(("x-kavach-mode", mode.name())), told.map(|told| ("x-kavach-verdict", told))];
        let shown = both.into_iter().flatten().filter(move |_| mode != Mode::Off);
        shown.map(|(name, value)| (name, HeaderValue::from_static(value)))
    }

    /// Tells session and habits what the exchange used; nothing if it was not judged, or nobody knows: of a call that was
    /// refused the habits keep what was estimated, as it is the attempt that is odd.
    pub(super) fn settle_habits(&self) {
        if let (Some(habits), Some(usage)) = (&self.habits, &self.record.usage) {
            habits.settle(usage, self.record.cost);
        }
    }

    fn waive(&mut self, gate: &Gate) {
        let action = self.action();
        let nobody: Arc<str> = Arc::from("");
        let key = self.key.as_ref().map_or(&nobody, |key| &key.id);
        for step in &mut self.plan {
            step.permit = gate.waive(key, action, (&step.provider.name, &step.model));
        }
    }

    async fn judge_plan(&mut self, gate: &Gate, key: &Arc<Key>, headers: &HeaderMap) -> Result<()> {
        let (session, name) = self.enter_session(key, headers)?;
        let session_id = Arc::clone(&session.id);
        let (mut call, estimated) = self.call((gate, key), session, headers).await;
        let mut judged = Judged::default();
        for (number, step) in self.plan.iter().enumerate() {
            call.target = self.target(step);
            if number > 0 {
                call.facts.estimated_cost = self.cost_at(step, &call.facts);
            }
            let (verdict, other) = self.judge_step(gate, &call, step);
            if judged.is_told_by(&verdict) {
                judged.told = Some(self.said(gate, &verdict, other.as_ref().unwrap_or(&call)));
            }
            judged.take(verdict);
        }
        self.habits = Some(Habits {
            sessions: Arc::clone(&self.gateway.sessions),
            drift: Arc::clone(&self.gateway.drift),
            key: Arc::clone(&key.id),
            session: (name, session_id),
            at: self.record.started_at,
            estimated,
        });
        self.keep(judged)
    }

    /// Writes down what was said, and gives each step its leave; refuses if none has one.
    fn keep(&mut self, judged: Judged) -> Result<()> {
        let Judged { told, permits, refusal, dropped } = judged;
        self.record.verdict = told.map(|told| record::Verdict { dropped, ..told });
        for (step, permit) in self.plan.iter_mut().zip(permits) {
            step.permit = permit;
        }
        match refusal {
            Some(refusal) if self.plan.iter().all(|step| step.permit.is_none()) => {
                if let Some(suspension) = &refusal.suspension {
                    self.gateway.suspend(suspension);
                }
                Err(refusal.error())
            }
            _ => Ok(()),
        }
    }

    /// What the gate says of a call, and of the same call of each other model that the provider may turn to by the request's own
    /// words; and that call, if one of these is the worse.
    fn judge_step(&self, gate: &Gate, call: &Call, step: &Step) -> (Verdict, Option<Call>) {
        let (mut verdict, mut worst) = (gate.judge(call), None);
        for step in self.other_steps(step) {
            let mut other = Call { target: self.target(&step), ..call.clone() };
            other.facts.requested_model = step.model.as_str().into();
            other.facts.estimated_cost = self.cost_at(&step, &other.facts);
            let word = verdict.word();
            verdict = verdict.or_worse(gate.judge(&other));
            if verdict.word() != word {
                worst = Some(other);
            }
        }
        (verdict, worst)
    }

    fn action(&self) -> Action {
        self.place.as_ref().and_then(Action::at).unwrap_or(Action::Passthrough)
    }

    /// The call as the gate judges it, without its target but with what it costs at the first, and its tokens and that cost as
    /// drift sees them before it is made; what nobody knows is nothing.
    async fn call(
        &self,
        (gate, key): (&Gate, &Arc<Key>),
        session: SessionFigures,
        headers: &HeaderMap,
    ) -> (Call, (u64, NanoUsd)) {
        let known = self.facts.as_ref();
        let place = self.place_of_caller(headers);
        let input = if gate.counts_input() { self.written_input().await } else { self.rough_input() };
        let mut facts = call::Facts {
            requested_model: known.and_then(|facts| facts.model.as_deref()).unwrap_or_default().into(),
            requested_max_output_tokens: known.and_then(|facts| facts.max_output_tokens),
            max_output_tokens: known.and_then(|facts| self.most_output_told(facts)),
            estimated_input_tokens: input,
            stream: self.wants_stream(),
            tool_count: known.map_or(0, |facts| u64::from(facts.tools)),
            tools: known.map(|facts| facts.tool_names(&self.body)).unwrap_or_default(),
            modalities: known.map(|facts| modalities(facts.modalities)).unwrap_or_default(),
            address: self.record.address.as_deref().and_then(|address| address.parse().ok()),
            country: place.map(|place| place.country().into()),
            time: self.record.started_at,
            session,
            ..call::Facts::default()
        };
        let step = self.plan.first();
        facts.estimated_cost = step.and_then(|step| self.cost_at(step, &facts));
        let tokens = facts.estimated_input_tokens.saturating_add(facts.max_output_tokens.unwrap_or(0));
        let cost = facts.estimated_cost.unwrap_or(NanoUsd::ZERO);
        let sighting = Sighting {
            place,
            device: headers.get("x-marg-device").and_then(|value| value.to_str().ok()),
            session_age: Duration::from_secs(facts.session.age_seconds),
            model: step.map(|step| step.model.as_str()).unwrap_or_default(),
            tokens,
            cost,
        };
        facts.drift = self.gateway.drift.score(&key.id, &sighting, facts.time);
        let call = Call { caller: gate.caller(key), action: self.action(), target: Target::default(), facts };
        (call, (tokens, cost))
    }

    /// Counts the call in its session; the session's figures and the name that the caller has for it, empty for none.
    fn enter_session(&self, key: &Key, headers: &HeaderMap) -> Result<(SessionFigures, Arc<str>)> {
        let facts = self.facts.as_ref();
        let metadata = match &self.record.session {
            Some(_) => None,
            None => facts.and_then(|facts| facts.session_named(&self.body)),
        };
        let said = Said {
            header: self.record.session.as_deref(),
            metadata: metadata.as_deref(),
            user: facts.and_then(|facts| facts.end_user.as_deref()),
            traceparent: headers.get("traceparent").and_then(|value| value.to_str().ok()),
        };
        let name = said.name();
        match self.gateway.sessions.enter(&key.id, name.as_ref(), self.record.started_at) {
            Ok(figures) => Ok((figures, name.unwrap_or_default())),
            Err(ended) => Err(Error::new(Kind::PermissionDenied, format!("{ended} (until {})", ended.until.rfc3339()))),
        }
    }

    /// Where the caller is: by the word of a trusted proxy, else by the operator's database.
    fn place_of_caller(&self, headers: &HeaderMap) -> Option<Place> {
        // A proxy that adds its word does so at the end; what stands before it may be the caller's.
        let last = || headers.get_all("x-marg-geo").iter().next_back()?.to_str().ok();
        let told = self.by_proxy.then(last).flatten();
        told.and_then(Place::parse).or_else(|| {
            let places = self.live.places.as_ref()?;
            places.find(self.record.address.as_deref()?.parse().ok()?)
        })
    }

    /// The most output tokens that a provider can make of it; `None` if nothing bounds them.
    fn most_output_told(&self, facts: &Facts) -> Option<u64> {
        let bounded = match facts.operation {
            Operation::Chat | Operation::Completions | Operation::Responses | Operation::Passthrough => {
                facts.max_output_tokens.or(self.ceiling).is_some()
            }
            _ => true,
        };
        bounded.then(|| self.most_output(facts, self.ceiling))
    }

    fn target(&self, step: &Step) -> Target {
        Target {
            provider: Arc::clone(&step.provider.name),
            model: step.model.as_str().into(),
            price_class: self.price_class(step),
            region: Arc::clone(&step.provider.settings.region),
        }
    }

    /// What the call costs at most at a target; `None` if that is not bounded, or has no price.
    fn cost_at(&self, step: &Step, facts: &call::Facts) -> Option<NanoUsd> {
        self.most_usd_at(step, self.facts.as_ref()?, facts.estimated_input_tokens, facts.max_output_tokens?)
    }

    /// A verdict as the record keeps it; who was dropped is not known yet.
    fn said(&self, gate: &Gate, verdict: &Verdict, call: &Call) -> record::Verdict {
        let grounds = |all: &[Ground]| {
            let all = all.iter().take(MAX_GROUNDS);
            all.map(|ground| record::VerdictGround {
                policy: Arc::clone(&ground.policy),
                reason: ground.reason.clone(),
            })
            .collect()
        };
        record::Verdict {
            mode: verdict.mode.name().into(),
            verdict: verdict.word().into(),
            real: verdict.real().name().into(),
            deciding: grounds(&verdict.judgement.deciding),
            would_refuse: grounds(&verdict.judgement.would_refuse),
            set: Arc::clone(gate.set_name()),
            dropped: 0,
            call: recall::kept(call, &self.record),
        }
    }

    /// The input's tokens where no policy looks at them: for drift and for the record.
    fn rough_input(&self) -> u64 {
        let Some(facts) = &self.facts else { return 0 };
        let words = facts.input_text_bytes.div_ceil(BYTES_A_TOKEN);
        words.saturating_add(self.image_tokens(facts)).saturating_add(OVERHEAD_TOKENS).min(self.input_bound())
    }
}

/// What was said of the steps of a plan, in their order.
#[derive(Default)]
struct Judged {
    told: Option<record::Verdict>,
    permits: Vec<Option<Permit>>,
    /// The first one.
    refusal: Option<Refusal>,
    /// How many steps were refused.
    dropped: u32,
}

impl Judged {
    /// Whether this verdict is the one to tell of: the first, or the first that admits after refusals alone.
    fn is_told_by(&self, verdict: &Verdict) -> bool {
        let admits = verdict.effective() == Decision::Allow;
        self.told.is_none() || (admits && self.refusal.is_some() && self.permits.iter().all(Option::is_none))
    }

    fn take(&mut self, verdict: Verdict) {
        match verdict.admit() {
            Ok(permit) => self.permits.push(Some(permit)),
            Err(denied) => {
                self.dropped += 1;
                self.permits.push(None);
                self.refusal.get_or_insert(denied);
            }
        }
    }
}

/// Who is told what a judged exchange used, once that is known: at its end, or when its tokens are counted after it.
pub struct Habits {
    sessions: Arc<Sessions>,
    drift: Arc<Drift>,
    key: Arc<str>,
    /// Its name, empty for none, and its id.
    session: (Arc<str>, Arc<str>),
    at: Timestamp,
    estimated: (u64, NanoUsd),
}

impl Habits {
    /// Tells them; a cost that is not known is nothing.
    pub fn settle(&self, usage: &Usage, cost: Option<NanoUsd>) {
        let (input, output) = (usage.input_total(), usage.output_total());
        let cost = cost.unwrap_or(NanoUsd::ZERO);
        let (name, id) = &self.session;
        self.sessions.settle((&self.key, name, id), (input, output), cost);
        let (tokens, estimated_cost) = self.estimated;
        let used =
            Settled { at: self.at, tokens: (tokens, input.saturating_add(output)), cost: (estimated_cost, cost) };
        self.drift.settle(&self.key, &used, Timestamp::now());
    }
}

impl Gateway {
    /// Suspends a key from now on: at once in this process, on its disk before anybody is answered, and then in the store, which
    /// tells the others.
    fn suspend(&self, suspension: &Suspension) {
        let Suspension { key, until, reason } = suspension;
        tracing::warn!(key = &**key, reason = &**reason, "a key is suspended by a policy");
        if let Err(error) = self.ring.suspend(key, key::Suspension { until: *until, reason: Arc::clone(reason) }) {
            tracing::error!(%error, key = &**key, "a suspension could not be written to the disk; until the store has it, a restart ends it");
        }
        let detail = json!({ "until": until.map(Timestamp::rfc3339), "reason": reason });
        let event =
            Event { noun: "key".to_owned(), subject: Some(key.to_string()), ..Event::of_gateway("suspend", detail) };
        if let Err(error) = self.journal.append_or_keep(Line::Event(event)) {
            tracing::error!(%error, "that a key is suspended could not be written down; it is tried again");
        }
    }
}

/// The words for what goes in and comes out; every combination is made once.
fn modalities(found: Modalities) -> Arc<BTreeSet<Arc<str>>> {
    const KINDS: [&str; 4] = ["image", "audio", "file", "video"];
    static ALL: LazyLock<Vec<Arc<BTreeSet<Arc<str>>>>> = LazyLock::new(|| {
        let set = |bits: usize| {
            let kinds = KINDS.into_iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0);
            Arc::new(["text"].into_iter().chain(kinds.map(|(_, kind)| kind)).map(Arc::from).collect())
        };
        (0..1 << KINDS.len()).map(set).collect()
    });
    let is_there = [
        found.image_input || found.image_output,
        found.audio_input || found.audio_output,
        found.file_input,
        found.video_input,
    ];
    let bits = is_there.iter().rev().fold(0, |bits, is_there| bits << 1 | usize::from(*is_there));
    ALL.get(bits).map(Arc::clone).unwrap_or_default()
}
