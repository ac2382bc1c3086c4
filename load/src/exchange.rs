//! One request and its answer, seen from the client, and what is counted of it. It owns no socket: the blocking and the
//! asynchronous load feed it with whatever they read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{bail, ensure};

use crate::clock::now_ns;
use crate::histogram::Histogram;
use crate::http1::Response;
use crate::request::Request;
use crate::sse::{Events, stamp_ns};

/// The counters that all connections of a window share.
#[derive(Debug, Default)]
pub struct Meter {
    /// Times are recorded while this is set: after the warm-up, before the end.
    pub measuring: AtomicBool,
    /// No new request is sent once this is set.
    pub stopping: AtomicBool,
    /// Complete and correct answers.
    pub done: AtomicU64,
    /// Events of streams.
    pub events: AtomicU64,
    /// Everything else.
    pub failed: AtomicU64,
}

impl Meter {
    /// Whether times are to be recorded now.
    pub fn is_measuring(&self) -> bool {
        self.measuring.load(Ordering::Relaxed)
    }

    /// Whether the load is to end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// The times that one connection saw, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// From the (intended) start of a request to the last byte of its answer.
    pub latency: Histogram,
    /// From the start of a request to the first event of its stream.
    pub first: Histogram,
    /// Between two events of a stream.
    pub gap: Histogram,
    /// From the making of an event in the mock to its arrival.
    pub delay: Histogram,
    /// What went wrong first.
    pub failure: Option<String>,
}

impl Tally {
    /// Adds what another connection saw.
    pub fn merge(&mut self, other: &Self) {
        self.latency.merge(&other.latency);
        self.first.merge(&other.first);
        self.gap.merge(&other.gap);
        self.delay.merge(&other.delay);
        if self.failure.is_none() {
            self.failure.clone_from(&other.failure);
        }
    }

    /// Counts a failure and keeps the first one's words.
    pub fn fail(&mut self, error: &anyhow::Error, meter: &Meter) {
        meter.failed.fetch_add(1, Ordering::Relaxed);
        self.failure.get_or_insert_with(|| format!("{error:#}"));
    }
}

/// An exchange that is going on.
#[derive(Debug)]
pub struct Exchange {
    response: Response,
    stream: Events,
    /// The beginning of a body that is not what was wanted, for the report.
    excerpt: Vec<u8>,
    started_ns: u64,
    last_event_ns: Option<u64>,
    events: u64,
    expected_events: u64,
}

impl Exchange {
    /// Begins; `started_ns` is when the request was meant to be sent.
    pub fn begin(request: &Request, started_ns: u64) -> Self {
        Self {
            response: Response::default(),
            stream: Events::default(),
            excerpt: Vec::new(),
            started_ns,
            last_event_ns: None,
            events: 0,
            expected_events: request.events,
        }
    }

    /// Takes what was read.
    ///
    /// # Errors
    /// When it is not HTTP.
    pub fn feed(&mut self, input: &[u8], meter: &Meter, tally: &mut Tally) -> anyhow::Result<()> {
        let Self { response, stream, excerpt, .. } = self;
        if self.expected_events == 0 {
            return Ok(response.feed(input, &mut |body| keep(excerpt, body))?);
        }
        let now = now_ns();
        let mut stamps = Arrivals { tally, is_measured: meter.is_measuring(), now, count: 0 };
        let (started, mut last) = (self.started_ns, self.last_event_ns);
        response.feed(input, &mut |body| {
            keep(excerpt, body);
            stream.feed(body, &mut |event| last = Some(stamps.record(event, started, last)));
        })?;
        let count = stamps.count;
        self.last_event_ns = last;
        self.events += count;
        meter.events.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }

    /// The connection ended.
    ///
    /// # Errors
    /// When the answer was not complete.
    pub fn end_of_input(&mut self) -> anyhow::Result<()> {
        Ok(self.response.end_of_input()?)
    }

    /// Whether the whole answer was read.
    pub fn is_done(&self) -> bool {
        self.response.is_done()
    }

    /// Counts the exchange; says whether the connection can be used again.
    ///
    /// # Errors
    /// When the answer is not what was asked for.
    pub fn finish(self, meter: &Meter, tally: &mut Tally) -> anyhow::Result<bool> {
        if self.response.status() != 200 {
            bail!("status {}: {}", self.response.status(), String::from_utf8_lossy(&self.excerpt));
        }
        if self.expected_events > 0 {
            ensure!(self.stream.is_complete(), "a stream ended without [DONE] after {} events", self.events);
            ensure!(self.events == self.expected_events, "{} events instead of {}", self.events, self.expected_events);
        } else {
            ensure!(self.excerpt.first() == Some(&b'{'), "an answer that is no JSON object");
        }
        meter.done.fetch_add(1, Ordering::Relaxed);
        if meter.is_measuring() {
            tally.latency.record(now_ns().saturating_sub(self.started_ns));
        }
        Ok(!self.response.closes())
    }
}

/// Keeps the first 300 bytes of a body.
fn keep(excerpt: &mut Vec<u8>, body: &[u8]) {
    let room = 300usize.saturating_sub(excerpt.len());
    excerpt.extend_from_slice(body.get(..room).unwrap_or(body));
}

/// The events of one piece; all of them arrived at the same time.
struct Arrivals<'a> {
    tally: &'a mut Tally,
    is_measured: bool,
    now: u64,
    count: u64,
}

impl Arrivals<'_> {
    fn record(&mut self, event: &[u8], started_ns: u64, last_ns: Option<u64>) -> u64 {
        self.count += 1;
        if self.is_measured {
            match last_ns {
                None => self.tally.first.record(self.now.saturating_sub(started_ns)),
                Some(last) => self.tally.gap.record(self.now.saturating_sub(last)),
            }
            if let Some(made) = stamp_ns(event) {
                self.tally.delay.record(self.now.saturating_sub(made));
            }
        }
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn outcome(events: u64, answer: &str) -> Result<bool, String> {
        let request = Request { bytes: Bytes::new(), events };
        let meter = Meter::default();
        meter.measuring.store(true, Ordering::Relaxed);
        let mut tally = Tally::default();
        let mut exchange = Exchange::begin(&request, now_ns());
        let ended = exchange.feed(answer.as_bytes(), &meter, &mut tally).and_then(|()| exchange.end_of_input());
        let result = ended.and_then(|()| exchange.finish(&meter, &mut tally)).map_err(|error| error.to_string());
        assert_eq!(meter.done.load(Ordering::Relaxed), u64::from(result.is_ok()));
        assert_eq!(tally.latency.total(), u64::from(result.is_ok()));
        result
    }

    fn answer(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[test]
    fn a_refusal_is_a_failure_and_keeps_its_words() {
        let error = outcome(0, &answer("429 Too Many Requests", "{\"error\":1}")).expect_err("not 200");
        assert!(error.contains("429") && error.contains("{\"error\":1}"), "{error}");
    }

    #[test]
    fn a_stream_with_a_lost_event_is_a_failure() {
        assert!(outcome(2, &answer("200 OK", "data: {}\n\ndata: [DONE]\n\n")).is_err());
    }

    #[test]
    fn a_stream_without_its_end_is_a_failure() {
        assert!(outcome(1, &answer("200 OK", "data: {}\n\n")).is_err());
    }

    #[test]
    fn correct_answers_are_counted() {
        assert_eq!(outcome(0, &answer("200 OK", "{}")), Ok(true));
        assert_eq!(outcome(2, &answer("200 OK", "data: {}\n\ndata: {}\n\ndata: [DONE]\n\n")), Ok(true));
    }
}
