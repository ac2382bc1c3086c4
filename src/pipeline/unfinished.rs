//! **Unfinished**: answers that are given out before they are made (`background` of the Responses API).
//!
//! Nobody knows yet what such an answer will use. So the most that it can use is charged at once, and nothing takes that back but
//! the provider's own count: the first reading of the answer through this process that carries one corrects the amount, once – the
//! ledger by an amendment, the counters by a move that their authority makes at most once, behind the charge itself. What is
//! forgotten (by a restart, by more than [`MOST`] of them) or read elsewhere stays charged in full; so less than what was used is
//! never charged, and nothing twice.
//!
//! *Source*: <https://platform.openai.com/docs/guides/background>.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::budget::limit::Unit;
use crate::budget::{Amounts, Limited, ReservedRow};
use crate::catalog::Cost;
use crate::catalog::prices::PriceQuery;
use crate::dialect::Operation;
use crate::dialect::value::Value;
use crate::ledger::journal::Line;
use crate::ledger::{Amendment, Correction, Outcome};
use crate::pipeline::exchange::{Exchange, Relaying};
use crate::pipeline::settle::signed;
use crate::provider::Provider;
use crate::unit::charge::{Charge, CounterId, WindowId};
use crate::unit::clock::Timestamp;
use crate::unit::id::ExchangeId;
use crate::unit::money::NanoUsd;
use crate::unit::usage::{Images, ServiceTier, Usage, UsageSource};

/// The most answers that are remembered, some 500 bytes each; the oldest make room.
const MOST: usize = 16_384;
/// The most corrections that wait for their counters to be moved; what is beyond stays charged in full.
const WAITING: usize = 1_024;

/// By how much counters are to move, for one answer.
pub type Moves = Vec<(CounterId, i64)>;

/// The answers of this process of which nobody knows yet what they use.
pub struct Unfinished {
    known: Mutex<Known>,
    moves: Sender<Moves>,
    /// Until somebody takes them.
    waiting: Mutex<Option<Receiver<Moves>>>,
}

/// A provider, and an answer as it names it.
type Name = (Arc<str>, String);

#[derive(Default)]
struct Known {
    number: u64,
    /// With the number that it has in the order.
    answers: HashMap<Name, (u64, Charged)>,
    order: VecDeque<(u64, Name)>,
}

/// An answer that is charged in full.
struct Charged {
    exchange: ExchangeId,
    at: Timestamp,
    provider: Arc<Provider>,
    asked: String,
    cost: Option<NanoUsd>,
    charges: Vec<Charge>,
    /// What the counters count.
    units: Vec<(CounterId, Unit)>,
}

/// What a reading says that an answer used.
struct Count {
    usage: Usage,
    served: Option<String>,
    tier: ServiceTier,
    images: Option<Images>,
}

/// The most that an unfinished answer can use, and what its provider calls it.
pub struct AtMost {
    /// So much.
    pub amounts: Amounts,
    /// Its id, if it said one.
    pub id: Option<String>,
}

impl Default for Unfinished {
    fn default() -> Self {
        let (moves, waiting) = channel(WAITING);
        Self { known: Mutex::default(), moves, waiting: Mutex::new(Some(waiting)) }
    }
}

impl Unfinished {
    /// What counters are to move by, for whoever moves them; once.
    pub fn moves(&self) -> Option<Receiver<Moves>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn remember(&self, id: String, charged: Charged) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.number += 1;
        let (number, name) = (known.number, (charged.provider.name.clone(), id));
        // Of two answers with one name the first stays charged in full.
        known.answers.insert(name.clone(), (number, charged));
        known.order.push_back((number, name));
        while known.order.len() > MOST {
            let Some((number, name)) = known.order.pop_front() else { break };
            if known.answers.get(&name).is_some_and(|(latest, _)| *latest == number) {
                known.answers.remove(&name);
            }
        }
    }

    /// The answer of that name, which is forgotten.
    fn take(&self, provider: &Arc<str>, id: &str) -> Option<Charged> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.answers.remove(&(provider.clone(), id.to_owned())).map(|(_, charged)| charged)
    }
}

impl Exchange {
    /// Whether the answer was given out before it is made, and then the most that it can use. After the reader has read all.
    pub(super) fn at_most(&self) -> Option<AtMost> {
        let Relaying::Passing { reader, .. } = &self.relaying else { return None };
        let is_answer = self.operation() == Operation::Responses && matches!(self.record.status, 200..=299);
        if !is_answer || reader.usage().is_some() || reader.finish_reason().is_some() {
            return None;
        }
        // Whatever becomes of the stream of such an answer, its making goes on.
        let asked = || self.asks_for_later();
        let broken = reader.is_event_stream() || self.record.outcome != Outcome::Answered;
        let is_made_later = (reader.is_running() && !reader.is_event_stream()) || (broken && asked());
        let id = reader.response_id().map(str::to_owned);
        is_made_later.then(|| AtMost { amounts: self.most_of_unfinished(), id })
    }

    /// The most that an answer can use that is made whether anybody waits for it or not. For who has left before it said a word.
    pub(super) fn at_most_unheard(&self) -> Option<AtMost> {
        let asked = self.operation() == Operation::Responses && self.asks_for_later();
        asked.then(|| AtMost { amounts: self.most_of_unfinished(), id: None })
    }

    fn asks_for_later(&self) -> bool {
        Value::whole(&self.body).get("background").is_some_and(|value| value.raw() == b"true")
    }

    /// What is reserved, or would be under a limit.
    fn most_of_unfinished(&self) -> Amounts {
        if self.limited == Limited::ByOutput {
            return self.reserved;
        }
        let choices = self.facts.as_ref().map_or(1, |facts| facts.choices.max(1));
        let default = self.live.settings.default_max_output_tokens / choices;
        self.most(self.input_bound(), self.ceiling.or(Some(default)))
    }

    /// Notes what was charged for an unfinished answer, to be corrected by a reading of it. `rows` is what was reserved.
    pub(super) fn remember_unfinished(&mut self, rows: Vec<ReservedRow>) {
        let (Some(AtMost { id: Some(id), .. }), Some(current)) = (self.at_most.take(), &self.current) else { return };
        let charged = Charged {
            exchange: self.record.id,
            at: self.record.started_at,
            provider: current.step.provider.clone(),
            asked: self.priced_as(&current.step).to_owned(),
            cost: self.record.cost,
            charges: self.record.charges.clone(),
            units: rows.into_iter().map(|row| (row.counter, row.unit)).collect(),
        };
        self.gateway.unfinished.remember(id, charged);
    }

    /// Corrects what an unfinished answer was charged, if this is the first reading of it that says what it used.
    pub(super) fn correct(&self) {
        let (Relaying::Passing { reader, .. }, Some(current), Some(place)) =
            (&self.relaying, &self.current, &self.place)
        else {
            return;
        };
        let Some(id) = place.stored_response().filter(|_| self.record.method == "GET") else { return };
        let whole = self.record.status == 200 && self.record.outcome == Outcome::Answered && reader.is_read_whole();
        let ended = reader.finish_reason().is_some() && !reader.is_running() && reader.missing() == Default::default();
        if !whole || !ended || reader.response_id() != Some(id) {
            return;
        }
        let Some(usage) = reader.usage().filter(|usage| self.believes(usage, reader.delivered_bytes())) else { return };
        let Some(charged) = self.gateway.unfinished.take(&current.step.provider.name, id) else { return };
        self.gateway.contexts.remember(id, usage.input_total().saturating_add(usage.output_total()));
        let (size, quality) = reader.image_kind();
        let kind = |count| Images { count, size: size.map(str::to_owned), quality: quality.map(str::to_owned) };
        let count = Count {
            usage,
            served: reader.model().map(str::to_owned),
            tier: reader.service_tier().unwrap_or_default(),
            images: reader.images().filter(|count| *count > 0).map(kind),
        };
        self.book(&charged, &count);
    }

    /// Writes the correction down and has the counters moved.
    fn book(&self, charged: &Charged, count: &Count) {
        let cost = self.bill_unfinished(charged, count);
        if cost.is_none() && charged.cost.is_some() {
            return;
        }
        let (cost, price) = cost.map_or((None, None), |cost| (Some(cost.amount), Some(cost.price)));
        let used = Amounts {
            usd: cost.map(NanoUsd::nanos),
            input_tokens: signed(count.usage.input_total()),
            output_tokens: signed(count.usage.output_total()),
        };
        let now = Timestamp::now();
        let (charges, moves) = corrected(&charged.charges, &charged.units, &used, now);
        let amendment = Amendment {
            id: charged.exchange,
            usage: count.usage,
            usage_source: UsageSource::Reported,
            cost,
            price,
            charges: Vec::new(),
            correction: Some(Correction { at: now, charges }),
        };
        if let Err(error) = self.gateway.journal.append_or_keep(Line::Amend(amendment)) {
            tracing::error!(%error, id = %charged.exchange, "what an answer used in the end could not be recorded; it is tried again");
        }
        if !moves.is_empty() && self.gateway.unfinished.moves.try_send(moves).is_err() {
            tracing::warn!(id = %charged.exchange, "too many corrections wait; the limits of this answer stay charged in full");
        }
    }

    /// What the answer costs, by the price of the time when it was asked for.
    fn bill_unfinished(&self, charged: &Charged, count: &Count) -> Option<Cost> {
        let asked = charged.provider.price_query(&charged.asked, charged.at, count.tier);
        let query = PriceQuery { served: count.served.as_deref(), ..asked };
        self.live.catalog.bill(&query, Some(&count.usage), count.images.as_ref())
    }
}

/// The charges as they are in truth, and by how much the counters must move; `units` is what those count. What slides has forgotten
/// such a charge before long and is left alone, as are windows that are over.
fn corrected(charges: &[Charge], units: &[(CounterId, Unit)], used: &Amounts, now: Timestamp) -> (Vec<Charge>, Moves) {
    let (mut charges, mut moves) = (charges.to_vec(), Vec::new());
    for charge in &mut charges {
        let lasts = match charge.counter.window {
            WindowId::Total => true,
            WindowId::Calendar { until, .. } => now.seconds() < until,
            WindowId::Sliding { .. } | WindowId::Now => false,
        };
        let unit = units.iter().find(|(counter, _)| *counter == charge.counter).map(|(_, unit)| *unit);
        let amount = unit.filter(|unit| lasts && unit.is_metered()).and_then(|unit| used.of(unit));
        if let Some(amount) = amount.filter(|amount| *amount != charge.amount) {
            moves.push((charge.counter.clone(), amount.saturating_sub(charge.amount)));
            charge.amount = amount;
        }
    }
    (charges, moves)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_metered_and_lasts_is_corrected_in_either_direction() {
        let now = Timestamp(1_000_000_000);
        let day = |until| WindowId::Calendar { from: 0, until };
        let (counter, at) = (|limit: &str, window| CounterId { limit: limit.into(), window, subject: "k".into() }, now);
        let rows = [
            ("dollars", WindowId::Total, Unit::Usd, 500),
            ("tokens", day(2_000), Unit::Tokens, 10),
            ("same", day(2_000), Unit::InputTokens, 20),
            ("over", day(1_000), Unit::OutputTokens, 500),
            ("minute", WindowId::Sliding { seconds: 60 }, Unit::Usd, 500),
            ("calls", WindowId::Total, Unit::Requests, 1),
        ];
        let charges: Vec<Charge> = rows
            .iter()
            .map(|(limit, window, _, amount)| Charge { counter: counter(limit, *window), amount: *amount, at })
            .collect();
        let units: Vec<_> = rows.iter().map(|(limit, window, unit, _)| (counter(limit, *window), *unit)).collect();
        let used = Amounts { usd: Some(70), input_tokens: 20, output_tokens: 5 };
        let (charges, moves) = corrected(&charges, &units, &used, now);
        let expected = [(counter("dollars", WindowId::Total), -430), (counter("tokens", day(2_000)), 15)];
        assert_eq!(moves, expected);
        let amounts: Vec<i64> = charges.iter().map(|charge| charge.amount).collect();
        assert_eq!(amounts, [70, 25, 20, 500, 500, 1]);
        // Without a price the dollars stay.
        let unpriced = Amounts { usd: None, ..used };
        assert_eq!(super::corrected(&charges, &units, &unpriced, now).1, []);
    }
}
