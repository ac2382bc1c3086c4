//! **Settle**: the single exit of every exchange, whatever its end.
//!
//! Usage becomes cost, the record goes to the journal – into the operating system's hands before the caller has the last
//! byte – and the figures are counted. Settling twice does nothing the second time.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::budget::{Amounts, Reservation};
use crate::catalog::prices::PriceQuery;
use crate::dialect::unpack::Coding;
use crate::dialect::usage::{Missing, Report};
use crate::dialect::{self, AnswerReader, Operation, Runs};
use crate::error::Kind;
use crate::ledger::journal::{Line, Written};
use crate::ledger::{AttemptEnd, Outcome, Record};
use crate::pipeline::attempt::micros;
use crate::pipeline::count::Uncounted;
use crate::pipeline::exchange::{Exchange, Relaying};
use crate::pipeline::unfinished::AtMost;
use crate::telemetry::metrics::METRICS;
use crate::unit::clock::Tick;
use crate::unit::money::NanoUsd;
use crate::unit::usage::{Images, Usage, UsageSource};

impl Exchange {
    /// Ends the exchange.
    pub fn settle(&mut self, outcome: Outcome) {
        if self.settled {
            return;
        }
        self.settled = true;
        let cut_off = self.gateway.cut_off.load(Ordering::Acquire);
        let outcome = match outcome {
            Outcome::ClientGone | Outcome::UpstreamCut if cut_off => Outcome::Interrupted,
            other => other,
        };
        self.record.outcome = outcome;
        if self.record.operation.is_empty() {
            // Nothing ever arrived: a connection that was closed before a whole head.
            return;
        }
        self.close_attempt(outcome);
        let uncounted = self.close_answer();
        self.record.duration_us = micros(self.started.elapsed());
        self.price();
        let rows = self.at_most.as_ref().zip(self.reservation.as_ref()).map(|(_, held)| held.rows());
        let reservation = self.charge(uncounted.is_some());
        if uncounted.is_none() {
            self.settle_habits();
        }
        self.commit();
        let written = self.journal();
        self.remember_unfinished(rows.unwrap_or_default());
        count(&self.record);
        tell(&self.record);
        if let Some(mut uncounted) = uncounted {
            uncounted.reservation = reservation;
            uncounted.booked = self.record.cost;
            uncounted.habits = self.habits.take();
            self.gateway.counter.hand(uncounted);
        }
        self.held = None;
        if let Some(written) = written {
            self.hand_over(written);
        }
    }

    /// Charges what the exchange used to the limits that it reserved on; gives the reservation back if that is not known yet.
    /// Without a provider that was asked nothing is charged and everything free again.
    fn charge(&mut self, counted_later: bool) -> Option<Reservation> {
        let mut reservation = self.reservation.take()?;
        let asked = self.record.attempts.iter().any(|attempt| attempt.end != AttemptEnd::NoCredential);
        if counted_later {
            reservation.stop_running();
            return Some(reservation);
        }
        if !asked {
            return None;
        }
        // An answer that is still being made uses what was reserved, as far as anybody can say.
        self.record.charges = match self.used() {
            _ if self.at_most.is_some() => reservation.charges_unknown(None),
            Some(used) => reservation.charges(&used),
            None => reservation.charges_unknown(self.record.cost.map(NanoUsd::nanos)),
        };
        // The record is handed to the journal before the reservation ends by being dropped: what is in neither is free.
        self.ended = Some(reservation);
        None
    }

    /// What was used. `None` for an answer that was served without anybody counting it: it used what was reserved, as absent is
    /// not zero.
    fn used(&self) -> Option<Amounts> {
        if self.runs == Runs::Nothing {
            return Some(Amounts { usd: Some(0), ..Amounts::default() });
        }
        let served = matches!(self.record.status, 200..=299);
        match &self.record.usage {
            Some(usage) => Some(Amounts {
                usd: self.record.cost.map(NanoUsd::nanos),
                input_tokens: signed(usage.input_total()),
                output_tokens: signed(usage.output_total()),
            }),
            None if served => None,
            None => Some(Amounts { usd: Some(0), ..Amounts::default() }),
        }
    }

    /// Takes usage and model out of the answer's reader; gives what must be counted if the provider did not count. Where no model
    /// ran, nothing of it counts: figures of something stored were paid for when it was made, or are a caller's own words.
    fn close_answer(&mut self) -> Option<Uncounted> {
        let Relaying::Passing { reader, .. } = &mut self.relaying else { return self.given_up() };
        reader.finish();
        if self.runs == Runs::Nothing {
            self.record.cost = Some(NanoUsd::ZERO);
            self.correct();
            if let Relaying::Passing { reader, .. } = &self.relaying
                && let Some(error) = reader.stream_error()
            {
                note_stream_error(&mut self.record, error.code.as_deref());
            }
            return None;
        }
        let (reported, delivered) = (reader.usage(), reader.delivered_bytes());
        let usage = reported.filter(|usage| self.believes(usage, delivered));
        self.record.images = self.drawn();
        let Relaying::Passing { reader, .. } = &mut self.relaying else { return None };
        if let Some(model) = reader.model() {
            self.record.model_served = Some(crate::pipeline::exchange::clip(model));
        }
        if let Some(error) = reader.stream_error() {
            note_stream_error(&mut self.record, error.code.as_deref());
        }
        self.record.service_tier = reader.service_tier();
        let operation = self.place.as_ref().map_or(Operation::Passthrough, |place| place.operation);
        let counts = match operation {
            Operation::Chat | Operation::Completions | Operation::Embeddings | Operation::Responses => true,
            Operation::Moderations | Operation::Rerank => true,
            // Speech is told by its text.
            Operation::Audio => self.record.path.ends_with("/speech"),
            _ => false,
        };
        let partial =
            usage.filter(|_| counts).map(|usage| Report { usage, missing: missing(reader, operation, &usage) });
        let partial = partial.filter(|report| report.missing != Missing::default());
        self.record.usage = usage.filter(|_| partial.is_none());
        if let (Some(usage), Some(id), Operation::Responses) = (&self.record.usage, reader.response_id(), operation) {
            self.gateway.contexts.remember(id, usage.input_total().saturating_add(usage.output_total()));
        }
        if self.record.usage.is_some() {
            self.record.usage_source = Some(UsageSource::Reported);
            return None;
        }
        if partial.is_none() {
            self.at_most = self.at_most();
        }
        if self.takes_most() {
            return None;
        }
        if counts { self.uncounted(operation, partial) } else { None }
    }

    /// Whether the answer is made later; then the most that it can use is what it used, as far as anybody can say.
    fn takes_most(&mut self) -> bool {
        let Some(AtMost { amounts, .. }) = &self.at_most else { return false };
        let count = |amount: i64| amount.max(0).unsigned_abs();
        let (input, output) = (count(amounts.input_tokens), count(amounts.output_tokens));
        self.record.usage = Some(Usage { input, output, ..Usage::default() });
        self.record.usage_source = Some(UsageSource::Estimated);
        true
    }

    /// What must be counted of a call that was given up – by its caller, by a withdrawal, by the end of the process – while a provider
    /// had the whole of it and had not begun to answer: the provider reads it and bills that, though nobody hears so.
    fn given_up(&mut self) -> Option<Uncounted> {
        let left = matches!(self.record.outcome, Outcome::ClientGone | Outcome::Withdrawn | Outcome::Interrupted);
        self.current.as_ref().filter(|current| current.sent && left && self.runs != Runs::Nothing)?;
        self.name_provider()?;
        self.at_most = self.at_most_unheard();
        if self.takes_most() {
            return None;
        }
        let facts = self.facts.as_ref().filter(|facts| facts.images_drawn > 0 && facts.operation == Operation::Images);
        self.record.images = facts.map(|facts| Images {
            count: facts.images_drawn,
            size: facts.image_size.clone(),
            quality: facts.image_quality.clone(),
        });
        self.to_count(match self.operation() {
            // Speech is told by its text; what is heard has none.
            Operation::Audio if !self.record.path.ends_with("/speech") => Operation::Passthrough,
            operation => operation,
        })
    }

    /// What must be counted, beside what the provider reported.
    fn uncounted(&self, operation: Operation, reported: Option<Report>) -> Option<Uncounted> {
        let Relaying::Passing { reader, coding, .. } = &self.relaying else { return None };
        let (mut delivered, delivered_bytes) = reader.delivered();
        if matches!(coding, Coding::Opaque) {
            delivered = Bytes::new();
        }
        let event_stream = reader.is_event_stream();
        Some(Uncounted { event_stream, delivered, delivered_bytes, reported, ..self.to_count(operation)? })
    }

    /// What must be counted of the request alone.
    fn to_count(&self, operation: Operation) -> Option<Uncounted> {
        let current = self.current.as_ref()?;
        Some(Uncounted {
            id: self.record.id,
            operation,
            event_stream: false,
            request: self.body.clone(),
            request_bytes: self.record.bytes_in,
            image_tokens: self.facts.as_ref().map_or(0, |facts| self.image_tokens(facts)),
            most_input: self.written_bound(),
            delivered: Bytes::new(),
            delivered_bytes: 0,
            reported: None,
            provider: current.step.provider.clone(),
            model: self.priced_as(&current.step).to_owned(),
            served: self.record.model_served.clone(),
            at: self.record.started_at,
            tier: self.record.service_tier.unwrap_or_default(),
            images: self.record.images.clone(),
            booked: None,
            catalog: self.live.catalog.clone(),
            reservation: None,
            habits: None,
        })
    }

    /// The images that the answer holds, or, where it does not say, those that were asked for.
    fn drawn(&self) -> Option<Images> {
        let Relaying::Passing { reader, .. } = &self.relaying else { return None };
        let facts = self.facts.as_ref().filter(|_| matches!(self.record.status, 200..=299))?;
        let asked = if facts.operation == Operation::Images { facts.images_drawn } else { 0 };
        let count = match (reader.images(), self.record.outcome) {
            (Some(count), Outcome::Answered) => count,
            // A stream that ends with an error has drawn no more than it said.
            (found, _) if reader.stream_error().is_some() => found.unwrap_or(0),
            // What was cut the provider may have drawn all the same.
            (found, _) => found.unwrap_or(0).max(asked),
        };
        let (size, quality) = reader.image_kind();
        let named = |of_answer: Option<&str>, of_request: &Option<String>| {
            of_answer.map(str::to_owned).or_else(|| of_request.clone())
        };
        let (size, quality) = (named(size, &facts.image_size), named(quality, &facts.image_quality));
        (count > 0).then_some(Images { count, size, quality })
    }

    fn close_attempt(&mut self, outcome: Outcome) {
        let Some(current) = self.current.take() else { return };
        let answered = self.record.provider.is_some();
        let end = match outcome {
            _ if !answered && self.record.attempts.is_empty() && outcome == Outcome::Refused => return,
            Outcome::ClientGone | Outcome::Withdrawn | Outcome::Interrupted => AttemptEnd::Abandoned,
            Outcome::UpstreamCut => AttemptEnd::Cut,
            _ => AttemptEnd::Served,
        };
        let status = answered.then_some(self.record.status);
        self.end_attempt(&current, end, status, None);
        self.current = Some(current);
    }

    fn price(&mut self) {
        let Some(current) = self.current.as_ref().filter(|_| self.runs != Runs::Nothing) else { return };
        let usage = self.record.usage.as_ref();
        if usage.is_none() && !matches!(self.record.status, 200..=299) {
            return;
        }
        let tier = self.record.service_tier.unwrap_or_default();
        let asked = current.step.provider.price_query(self.priced_as(&current.step), self.record.started_at, tier);
        let query = PriceQuery { served: self.record.model_served.as_deref(), ..asked };
        match self.live.catalog.bill(&query, usage, self.record.images.as_ref()) {
            Some(cost) => {
                self.record.cost = Some(cost.amount);
                self.record.price = Some(cost.price);
            }
            None if usage.is_some() => METRICS.unpriced.with_label_values(&[&*current.step.provider.name]).inc(),
            None => {}
        }
        // The classes that are the dearest are not among the counted ones of an answer that is still being made.
        if let Some(usd) = self.at_most.as_ref().and_then(|most| most.amounts.usd) {
            self.record.cost = self.record.cost.map(|cost| cost.max(NanoUsd(usd)));
        }
    }

    fn journal(&mut self) -> Option<Written> {
        let _ended = self.ended.take();
        let started = Tick::now();
        let written = self.gateway.journal.append_record(&self.record);
        METRICS.journal_append.observe(started.elapsed().as_secs_f64());
        if let Err(error) = &written {
            tracing::error!(%error, id = %self.record.id, "an exchange could not be recorded; it is tried again");
            self.gateway.journal.keep_for_later(Line::Record(self.record.clone()));
        }
        written.ok()
    }

    /// Lets the feeder have the record of an answer that passed through, so that it needs not read it from the journal. What is
    /// asked of such an exchange afterwards is its id, status and outcome.
    fn hand_over(&mut self, written: Written) {
        if !matches!(self.relaying, Relaying::Passing { .. }) {
            return;
        }
        let Record { id, started_at, status, outcome, .. } = self.record;
        let rest = Record { status, outcome, ..Record::blank(id, started_at) };
        self.gateway.journal.hand_over(written, std::mem::replace(&mut self.record, rest));
    }
}

/// The provider's answer was, or ended in, an error of its own; the caller has seen it as it came.
fn note_stream_error(record: &mut Record, code: Option<&str>) {
    record.reason = Some(Kind::UpstreamError.code().to_owned());
    let place = if record.stream { "in the stream" } else { "in an answer of status 200" };
    record.error = Some(format!("the provider sent an error {place}: {}", code.unwrap_or("no code")));
    if record.outcome == Outcome::Answered {
        record.outcome = Outcome::UpstreamFailed;
    }
}

/// Of what the provider's report says nothing; an output of no tokens is none if there is text.
fn missing(reader: &AnswerReader, operation: Operation, usage: &Usage) -> Missing {
    let missing = reader.missing();
    let written =
        || !dialect::delivered_text(operation, reader.is_event_stream(), &reader.delivered().0).trim().is_empty();
    Missing { output: missing.output || (operation.writes() && usage.output_total() == 0 && written()), ..missing }
}

fn count(record: &Record) {
    let provider = record.provider.as_deref().unwrap_or("none");
    let status = match record.status {
        0 => "none",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    };
    METRICS.exchanges.with_label_values(&[record.operation.as_str(), provider, record.outcome.as_str(), status]).inc();
    METRICS.duration.with_label_values(&[record.operation.as_str(), provider]).observe(record.duration_us as f64 / 1e6);
    if let Some(reason) = record.reason.as_deref().filter(|_| record.outcome == Outcome::Refused) {
        METRICS.refusals.with_label_values(&[reason]).inc();
    }
    if let Some(first) = record.ttft_us.filter(|_| record.stream) {
        METRICS.first_token.with_label_values(&[provider]).observe(first as f64 / 1e6);
    }
    if let Some(usage) = &record.usage {
        count_usage(provider, record.model_served.as_deref().unwrap_or("none"), usage);
    }
    if let Some(cost) = record.cost {
        let model = METRICS.model_label(record.model_served.as_deref().unwrap_or("none"));
        METRICS.cost.with_label_values(&[provider, model]).inc_by(u64::try_from(cost.nanos()).unwrap_or(0));
    }
}

/// A count as limits hold it, saturating.
pub(crate) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Counts tokens by class.
pub(crate) fn count_usage(provider: &str, model: &str, usage: &Usage) {
    let model = METRICS.model_label(model);
    let classes = [
        ("input", usage.input.saturating_add(usage.input_audio).saturating_add(usage.input_image)),
        ("cache_read", usage.cache_read),
        ("cache_write", usage.cache_write_5m.saturating_add(usage.cache_write_1h)),
        ("output", usage.output.saturating_add(usage.output_audio).saturating_add(usage.output_image)),
        ("reasoning", usage.reasoning),
    ];
    for (class, tokens) in classes.into_iter().filter(|(_, tokens)| *tokens > 0) {
        METRICS.tokens.with_label_values(&[provider, model, class]).inc_by(tokens);
    }
}

/// One line in the log for each exchange; no prompt, no answer.
fn tell(record: &Record) {
    tracing::info!(
        id = %record.id,
        request_id = record.request_id.as_deref(),
        operation = record.operation.as_str(),
        path = record.path.as_str(),
        key = record.key_id.as_deref(),
        model = record.model_requested.as_deref(),
        provider = record.provider.as_deref(),
        status = record.status,
        outcome = record.outcome.as_str(),
        reason = record.reason.as_deref(),
        attempts = record.attempts.len(),
        input_tokens = record.usage.as_ref().map(Usage::input_total),
        output_tokens = record.usage.as_ref().map(Usage::output_total),
        cost_nano_usd = record.cost.map(|cost| cost.nanos()),
        duration_us = record.duration_us,
        "exchange"
    );
}
