//! Counts the tokens of answers whose providers reported none, or not all, off the request path.
//!
//! One thread takes jobs from a bounded queue and appends what it counted to the journal as an amendment of the record. When
//! the queue is full the sizes of request and answer are taken for a count, at once.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;

use crate::budget::{Amounts, Reservation};
use crate::catalog::prices::{Catalog, PriceQuery};
use crate::catalog::{Cost, tokens};
use crate::dialect::usage::Report;
use crate::dialect::{self, Operation};
use crate::ledger::Amendment;
use crate::ledger::journal::{Journal, Line};
use crate::pipeline::estimate::words;
use crate::pipeline::judge::Habits;
use crate::pipeline::settle::{count_usage, signed};
use crate::provider::Provider;
use crate::telemetry::metrics::METRICS;
use crate::unit::clock::Timestamp;
use crate::unit::id::ExchangeId;
use crate::unit::money::NanoUsd;
use crate::unit::usage::{Images, ServiceTier, Usage, UsageSource};

/// The most answers that wait to be counted.
const QUEUE: usize = 256;
/// The largest request that is counted word by word; larger ones are estimated at four bytes a token.
const MAX_REQUEST: usize = 1024 * 1024;

/// An answer to be counted.
pub struct Uncounted {
    /// The exchange.
    pub id: ExchangeId,
    /// What was asked.
    pub operation: Operation,
    /// Whether the answer was an event stream.
    pub event_stream: bool,
    /// The request's body, unless it is long.
    pub request: Bytes,
    /// The length of the request's body.
    pub request_bytes: u64,
    /// What its images take at most.
    pub image_tokens: u64,
    /// The most that all of it can have; 0 if nobody knows.
    pub most_input: u64,
    /// The beginning of the answer's body; empty if it cannot be read.
    pub delivered: Bytes,
    /// The length of the whole answer's body.
    pub delivered_bytes: u64,
    /// What the provider reported, if it left something out.
    pub reported: Option<Report>,
    /// Who served it.
    pub provider: Arc<Provider>,
    /// The model that was asked for.
    pub model: String,
    /// The model that the provider says it used: the one that it bills.
    pub served: Option<String>,
    /// When.
    pub at: Timestamp,
    /// In which tier it was served.
    pub tier: ServiceTier,
    /// The images that it drew.
    pub images: Option<Images>,
    /// The cost that is in the record, and in the figures, already: of images, or of the request itself.
    pub booked: Option<NanoUsd>,
    /// The prices that hold.
    pub catalog: Arc<Catalog>,
    /// What the exchange holds of limits until it is counted.
    pub reservation: Option<Reservation>,
    /// Who else is told of the count.
    pub habits: Option<Habits>,
}

/// The thread that counts.
pub struct Counter {
    queue: Mutex<Option<SyncSender<Box<Uncounted>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    journal: Arc<Journal>,
}

impl Counter {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(journal: Arc<Journal>) -> std::io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE);
        let kept = journal.clone();
        let thread = std::thread::Builder::new().name("count".to_owned()).spawn(move || work(&jobs, &journal))?;
        Ok(Self { queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)), journal: kept })
    }

    /// Hands an answer over; never waits.
    pub fn hand(&self, mut job: Uncounted) {
        if job.request.len() > MAX_REQUEST {
            // A large body is not held for a figure that is an estimate anyway.
            job.request = Bytes::new();
        }
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = match queue.as_ref().map(|queue| queue.try_send(Box::new(job))) {
            Some(Ok(())) | None => return,
            Some(Err(TrySendError::Full(job) | TrySendError::Disconnected(job))) => job,
        };
        drop(queue);
        // Too many wait: four bytes a token is an estimate, too, and costs nothing.
        let input = by_size(refused.request_bytes, refused.image_tokens, refused.most_input);
        let usage = Usage { input, output: refused.delivered_bytes / 4, ..Usage::default() };
        finish(*refused, usage, &self.journal);
    }

    /// Counts what waits, then ends the thread.
    pub fn stop(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the counting thread ended by a defect");
        }
    }
}

fn work(jobs: &Receiver<Box<Uncounted>>, journal: &Journal) {
    while let Ok(job) = jobs.recv() {
        let usage = usage(&job);
        finish(*job, usage, journal);
    }
}

/// Prices a count, charges it to the limits that wait for it, and writes it down behind the record.
fn finish(mut job: Uncounted, usage: Usage, journal: &Journal) {
    let usage = beside(job.reported, usage);
    METRICS.estimated.with_label_values(&[&*job.provider.name]).inc();
    count_usage(&job.provider.name, job.served.as_deref().unwrap_or("none"), &usage);
    let cost = bill(&job, &usage);
    count_cost(&job, cost.as_ref().map(|cost| cost.amount));
    let (cost, price) = cost.map_or((None, None), |cost| (Some(cost.amount), Some(cost.price)));
    let used = Amounts {
        usd: cost.map(NanoUsd::nanos),
        input_tokens: signed(usage.input_total()),
        output_tokens: signed(usage.output_total()),
    };
    let mut reservation = job.reservation.take();
    let charges = reservation.as_mut().map(|reservation| reservation.charges(&used)).unwrap_or_default();
    if let Some(habits) = &job.habits {
        habits.settle(&usage, cost);
    }
    let usage_source = UsageSource::Estimated;
    let amendment = Amendment { id: job.id, usage, usage_source, cost, price, charges, correction: None };
    if let Err(error) = journal.append_or_keep(Line::Amend(amendment)) {
        tracing::error!(%error, id = %job.id, "counted tokens could not be recorded; it is tried again");
    }
    // Only now: what is neither reserved nor in the journal is free.
    drop(reservation);
}

/// The cost of what was counted.
fn bill(job: &Uncounted, usage: &Usage) -> Option<Cost> {
    let query = PriceQuery { served: job.served.as_deref(), ..job.provider.price_query(&job.model, job.at, job.tier) };
    job.catalog.bill(&query, Some(usage), job.images.as_ref())
}

/// Counts what a count costs beyond what is in the figures already.
fn count_cost(job: &Uncounted, cost: Option<NanoUsd>) {
    let provider = &*job.provider.name;
    let Some(cost) = cost else { return METRICS.unpriced.with_label_values(&[provider]).inc() };
    let model = METRICS.model_label(job.served.as_deref().unwrap_or("none"));
    let rest = cost.nanos().saturating_sub(job.booked.map_or(0, NanoUsd::nanos));
    METRICS.cost.with_label_values(&[provider, model]).inc_by(u64::try_from(rest).unwrap_or(0));
}

/// What a provider reported, and, where it left something out, what was counted: never less output than it reported.
fn beside(reported: Option<Report>, counted: Usage) -> Usage {
    let Some(Report { usage, missing }) = reported else { return counted };
    let (input, mut output) = (if missing.input { &counted } else { &usage }, usage);
    if missing.output {
        let more = counted.output_total().saturating_sub(usage.output_total());
        output.output = output.output.saturating_add(more);
    }
    Usage::of_sides(input, &output)
}

fn usage(job: &Uncounted) -> Usage {
    let model = job.served.as_deref().unwrap_or(&job.model);
    let words = if job.request.is_empty() { 0 } else { words(model, job.operation, &job.request) };
    // Of what passes through, or is a form, the text may stand where nobody looks for it.
    let is_odd = words == 0 && matches!(job.operation, Operation::Passthrough | Operation::Images);
    let input = if job.request.is_empty() || is_odd {
        by_size(job.request_bytes, job.image_tokens, job.most_input)
    } else {
        words.saturating_add(job.image_tokens)
    };
    if job.operation == Operation::Audio {
        return Usage { input, output_audio: spoken(&job.request, job.request_bytes), ..Usage::default() };
    }
    let output = if matches!(job.operation, Operation::Embeddings | Operation::Moderations | Operation::Rerank) {
        0
    } else if job.delivered.is_empty() {
        job.delivered_bytes / 4
    } else {
        let kept = tokens::count(model, &dialect::delivered_text(job.operation, job.event_stream, &job.delivered));
        scale(kept, job.delivered.len() as u64, job.delivered_bytes)
    };
    Usage { input, output, ..Usage::default() }
}

/// The tokens of a request that is not read: four bytes each and those of its images, but no more than it can have.
fn by_size(bytes: u64, image_tokens: u64, most: u64) -> u64 {
    let tokens = (bytes / 4).saturating_add(image_tokens);
    if most == 0 { tokens } else { tokens.min(most) }
}

/// The tokens of the speech that a text becomes: 20 a second, and people read some 15 characters a second.
fn spoken(request: &[u8], request_bytes: u64) -> u64 {
    let characters = match request {
        [] => request_bytes,
        body => dialect::request_text(Operation::Audio, body).chars().count() as u64,
    };
    characters.saturating_mul(4).div_ceil(3)
}

/// A count of a beginning, scaled to the whole.
fn scale(count: u64, kept: u64, whole: u64) -> u64 {
    if kept == 0 || whole <= kept {
        return count;
    }
    let scaled = u128::from(count) * u128::from(whole) / u128::from(kept);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::usage::Missing;

    #[test]
    fn speech_is_as_long_as_its_text() {
        assert_eq!(spoken(br#"{"model":"tts","voice":"x","input":"Fifteen letters"}"#, 50), 20);
        assert_eq!(spoken(b"", 150), 200);
    }

    #[test]
    fn a_message_to_a_model_of_openai_has_its_frame() {
        let body = br#"{"messages":[{"role":"user","content":"x"}]}"#;
        assert_eq!(words("gpt-4o", Operation::Chat, body), 8);
        assert_eq!(words("some-llama", Operation::Chat, body), 1, "how others frame it is not known");
        assert_eq!(words("gpt-4o", Operation::Responses, br#"{"input":"x"}"#), 1);
    }

    #[test]
    fn an_image_in_a_long_request_is_not_taken_for_text() {
        assert_eq!(by_size(4_000, 0, 0), 1_000);
        assert_eq!(by_size(4_000, 500, 0), 1_500);
        assert_eq!(by_size(4_000_000, 5_000, 21_000), 21_000);
    }

    #[test]
    fn what_a_provider_left_out_is_counted_and_what_it_reported_stays() {
        let counted = Usage { input: 7, output: 50, ..Usage::default() };
        let reported = |input, output| {
            let usage = Usage { input: 3, cache_read: 7, output: 1, reasoning: 20, ..Usage::default() };
            Some(Report { usage, missing: Missing { input, output } })
        };
        assert_eq!(beside(None, counted), counted);
        let expected = Usage { input: 3, cache_read: 7, output: 30, reasoning: 20, ..Usage::default() };
        assert_eq!(beside(reported(false, true), counted), expected);
        let expected = Usage { input: 7, output: 1, reasoning: 20, ..Usage::default() };
        assert_eq!(beside(reported(true, false), counted), expected);
        let less = Usage { output: 5, ..counted };
        assert_eq!(beside(reported(false, true), less).output_total(), 21, "what it reported it bills");
    }

    #[test]
    fn a_cut_beginning_is_scaled_to_the_whole() {
        assert_eq!(scale(10, 100, 100), 10);
        assert_eq!(scale(10, 100, 250), 25);
        assert_eq!(scale(10, 0, 250), 10);
    }
}
