//! **Attempts**: which target is asked next, and how its failure or answer is **weighed**.
//!
//! A target is asked at most once; only its next credential may be tried after a 429 or a 401, and another connection after one
//! that was dead. Another target is asked after
//! a connection that failed, a time-out, a 429, a 401 or a 5xx, and only while nothing has reached the caller. Any other
//! answer is the caller's: a request that one provider calls wrong is not sent to the next.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::dialect::{CeilingField, Operation};
use crate::error::{Error, Kind};
use crate::kavach::Permit;
use crate::ledger::{Attempt, AttemptEnd};
use crate::pipeline::exchange::{Exchange, clip};
use crate::provider::Provider;
use crate::provider::credential::{LEAST_REST_AFTER_429, Pick, REST_AFTER_401, REST_AFTER_429, Why};
use crate::telemetry::metrics::METRICS;
use crate::unit::clock::{Tick, Timestamp};
use crate::unit::secret::Secret;

/// The most credentials of one target that one exchange tries.
const MAX_CREDENTIALS: u32 = 4;

/// One step of a plan.
#[derive(Clone, Debug)]
pub struct Step {
    /// Who is asked.
    pub provider: Arc<Provider>,
    /// For which model; empty if the request names none.
    pub model: String,
    /// The leave to ask it, once it is judged; without one it is not asked.
    pub permit: Option<Permit>,
}

impl Step {
    /// Whether it asks the same provider for the same model.
    pub fn is_same_target(&self, other: &Self) -> bool {
        self.provider.name == other.provider.name && self.model == other.model
    }

    /// The field that bounds the output of an operation at this target.
    pub fn ceiling_field(&self, operation: Operation) -> CeilingField {
        match operation {
            Operation::Responses => CeilingField::MaxOutputTokens,
            Operation::Completions => CeilingField::MaxTokens,
            _ => self.provider.settings.output_ceiling,
        }
    }
}

/// The attempt being made or about to be made.
#[derive(Debug)]
pub struct Current {
    /// Who is asked, for what.
    pub step: Step,
    /// The leave to ask.
    pub permit: Permit,
    /// With which credential: its position and itself.
    pub credential: Option<(u32, Secret)>,
    /// When it began.
    pub started: Tick,
    /// Whether it began anew on a fresh connection, because the one before was of no use.
    pub renewed: bool,
    /// Whether the whole request was handed over to its connection, so that the provider may work on it.
    pub sent: bool,
    /// What speaks against the provider in an answer that the caller gets for want of another.
    pub fault: Option<AttemptEnd>,
}

/// What is to be done with an upstream's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighing {
    /// The caller gets it.
    Serve,
    /// It is dropped, and the next target asked.
    NextTarget,
}

impl Exchange {
    /// Readies the next attempt; false if none is left. A target without a permit is passed over.
    pub fn advance(&mut self) -> bool {
        let now = Tick::now();
        self.current = None;
        while let Some(step) = self.plan.get(self.at).cloned() {
            let Some(permit) = step.permit.clone().filter(|permit| permit.covers(&step.provider.name, &step.model))
            else {
                self.at += 1;
                continue;
            };
            let credential = match step.provider.credentials.pick(&step.model, &self.tried, now) {
                Pick::Use(index, secret) if self.tries_on_step < MAX_CREDENTIALS => Some((index, secret)),
                Pick::NoneNeeded if self.tries_on_step == 0 => None,
                Pick::AllRest(left, why) if self.tries_on_step == 0 => {
                    self.note_rest(&step, left, why);
                    self.at += 1;
                    continue;
                }
                _ => {
                    self.next_step();
                    continue;
                }
            };
            self.tries_on_step += 1;
            let (renewed, sent) = (false, false);
            self.current = Some(Current { step, permit, credential, started: now, renewed, sent, fault: None });
            return true;
        }
        false
    }

    fn next_step(&mut self) {
        self.at += 1;
        self.tries_on_step = 0;
        self.tried.clear();
    }

    /// The error that stands for the failure of every target.
    pub fn give_up(&mut self) -> Error {
        self.last_failure.take().unwrap_or_else(|| Error::new(Kind::UpstreamUnreachable, "No provider could be asked."))
    }

    /// Ends the current attempt as failed, and readies the next; false if none is left, and then the caller gets
    /// [`Exchange::give_up`].
    pub fn fail(&mut self, end: AttemptEnd, text: &str) -> bool {
        let Some(current) = self.current.take() else { return false };
        let name = &current.step.provider.name;
        let error = match end {
            AttemptEnd::ConnectFailed => {
                Error::new(Kind::UpstreamUnreachable, format!("The provider `{name}` cannot be reached."))
            }
            AttemptEnd::TimedOut => {
                Error::new(Kind::UpstreamTimeout, format!("The provider `{name}` did not answer in time."))
            }
            _ => Error::new(
                Kind::UpstreamError,
                format!("The provider `{name}` broke the connection before it answered."),
            ),
        };
        self.last_failure = Some(error);
        current.step.provider.health.failed(Timestamp::now(), text);
        self.end_attempt(&current, end, None, Some(text));
        self.next_step();
        self.advance()
    }

    /// The connection of the current attempt was of no use: the same target is asked on another one, once. False if it already was.
    /// `lost` says how the request was lost, where it was sent; that counts as an attempt of its own, because it may have been seen.
    pub fn renew(&mut self, lost: Option<&str>) -> bool {
        let Some(mut current) = self.current.take_if(|current| !current.renewed) else { return false };
        if let Some(text) = lost {
            self.end_attempt(&current, AttemptEnd::Broken, None, Some(text));
            current.started = Tick::now();
        }
        current.renewed = true;
        self.current = Some(current);
        true
    }

    /// The body for the current target is about to be handed over to its connection.
    pub fn begin_sending(&mut self, body: Bytes) {
        self.outgoing = body;
        self.current.iter_mut().for_each(|current| current.sent = false);
    }

    /// Notes whether that has come to the body's end.
    pub fn note_sent(&mut self) {
        let sent = self.outgoing.is_empty();
        self.current.iter_mut().for_each(|current| current.sent = sent);
    }

    /// Weighs the status of an upstream's answer, before anything has reached the caller.
    pub fn weigh(&mut self, status: u16, retry_after: Option<Duration>) -> Weighing {
        let Some(current) = self.current.take() else { return Weighing::Serve };
        let (end, same_target) = match status {
            429 => (AttemptEnd::RateLimited, true),
            401 => (AttemptEnd::BadStatus, true),
            300..=399 | 408 | 500..=599 => (AttemptEnd::BadStatus, false),
            _ => {
                current.step.provider.health.succeeded();
                self.current = Some(current);
                return Weighing::Serve;
            }
        };
        current.step.provider.health.failed(Timestamp::now(), &format!("answered with status {status}"));
        rest(&current, status, retry_after);
        // Whether another target is left is known only by looking; if none is, this attempt is the one that is served.
        let (at, tries) = (self.at, self.tries_on_step);
        if same_target && current.step.provider.credentials.secrets().len() > 1 {
            self.tried.extend(current.credential.as_ref().map(|(index, _)| *index));
        } else {
            self.next_step();
        }
        let attempts = self.record.attempts.len();
        if self.advance() {
            let rests = self.record.attempts.split_off(attempts);
            self.end_attempt(&current, end, Some(status), None);
            self.record.attempts.extend(rests);
            return Weighing::NextTarget;
        }
        self.record.attempts.truncate(attempts);
        (self.at, self.tries_on_step) = (at, tries);
        self.current = Some(Current { fault: Some(end), ..current });
        Weighing::Serve
    }

    /// Writes an attempt down. The metric has no status beside the end, so an answer that speaks against the provider counts there as
    /// what it is, also where it was passed on.
    pub(crate) fn end_attempt(&mut self, current: &Current, end: AttemptEnd, status: Option<u16>, text: Option<&str>) {
        let counted = current.fault.filter(|_| end == AttemptEnd::Served).unwrap_or(end);
        METRICS.attempts.with_label_values(&[&*current.step.provider.name, counted.as_str()]).inc();
        let now = Tick::now();
        self.record.attempts.push(Attempt {
            provider: current.step.provider.name.clone(),
            model: current.step.model.clone(),
            credential: current.credential.as_ref().map(|(index, _)| *index),
            permit: self.papers.take().map(|papers| papers.id),
            end,
            status,
            error: text.map(clip),
            started_us: micros(current.started.since(self.started)),
            duration_us: micros(now.since(current.started)),
        });
    }

    /// How many providers were asked: a target whose credentials all rest was not.
    pub fn attempts_made(&self) -> usize {
        self.record.attempts.iter().filter(|attempt| attempt.end != AttemptEnd::NoCredential).count()
    }

    fn note_rest(&mut self, step: &Step, left: Duration, why: Why) {
        let seconds = left.as_secs() + 1;
        let name = &step.provider.name;
        let error = match why {
            Why::Limited => {
                let text =
                    format!("Every credential of the provider `{name}` rests after a rate limit for {seconds} s more.");
                Error::new(Kind::LimitExceeded, text).retry_after(seconds)
            }
            // Trying again helps no caller until the operator has mended the credential, so none is told when to.
            Why::Refused => {
                let text = format!(
                    "The provider `{name}` refused every credential that this gateway has for it; they are tried again in {seconds} s."
                );
                Error::new(Kind::UpstreamError, text).lasting()
            }
        };
        self.record.attempts.push(Attempt {
            provider: name.clone(),
            model: step.model.clone(),
            credential: None,
            permit: None,
            end: AttemptEnd::NoCredential,
            status: None,
            error: Some(error.text().to_owned()),
            started_us: micros(self.started.elapsed()),
            duration_us: 0,
        });
        METRICS.attempts.with_label_values(&[&**name, AttemptEnd::NoCredential.as_str()]).inc();
        let told = self.last_failure.as_ref().map(Error::retry_after_seconds);
        let is_better = match (why, told) {
            (_, None) => true,
            (Why::Limited, Some(other)) => other.is_none_or(|other| seconds < other),
            (Why::Refused, Some(_)) => false,
        };
        if is_better {
            self.last_failure = Some(error);
        }
    }
}

/// Lets the credential rest as the answer asks. One that is a provider's only one rests only when the answer says for how
/// long: without that, asking again is better than refusing.
fn rest(current: &Current, status: u16, retry_after: Option<Duration>) {
    let credentials = &current.step.provider.credentials;
    let (index, others) = (current.credential.as_ref().map_or(0, |(index, _)| *index), credentials.secrets().len() > 1);
    let now = Tick::now();
    match (status, retry_after) {
        (429, Some(span)) if others => {
            let span = span.max(LEAST_REST_AFTER_429);
            credentials.rest(index, Some(&current.step.model), (span, Why::Limited), now);
        }
        (429, Some(span)) => credentials.rest(index, Some(&current.step.model), (span, Why::Limited), now),
        (429, None) if others => {
            credentials.rest(index, Some(&current.step.model), (REST_AFTER_429, Why::Limited), now)
        }
        (401, _) if others => credentials.rest(index, None, (REST_AFTER_401, Why::Refused), now),
        _ => {}
    }
}

/// The delay that a `retry-after-ms` header, as OpenAI and Azure send it, or else `retry-after` asks for. A date that is over says
/// nothing.
pub fn retry_after(headers: &http::HeaderMap, now: Timestamp) -> Option<Duration> {
    let millis = headers.get("retry-after-ms").and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    let is_number =
        || headers.get("retry-after").is_some_and(|value| value.as_bytes().first().is_some_and(u8::is_ascii_digit));
    // Of a date that is over nobody knows what was meant: the provider's clock may be behind.
    let alone = || retry_after_alone(headers, now).filter(|span| !span.is_zero() || is_number());
    millis.map(Duration::from_millis).or_else(alone)
}

/// The delay that a `retry-after` header asks for: seconds, or a date in any of the three forms of RFC 9110 section 5.6.7. A date
/// that is over asks for none; anything else says nothing.
pub fn retry_after_alone(headers: &http::HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Duration::try_from_secs_f64(text.parse().ok()?).ok();
    }
    let seconds = http_date(text)?.saturating_sub(now.seconds()).max(0);
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

/// A date of HTTP in seconds since 1970: of today's form, of RFC 850, or as asctime wrote it.
fn http_date(text: &str) -> Option<i64> {
    if let Ok(date) = jiff::fmt::rfc2822::parse(text) {
        return Some(date.timestamp().as_second());
    }
    let read = |form: &str| jiff::civil::DateTime::strptime(form, text).ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    let date = read("%A, %d-%b-%y %H:%M:%S GMT").or_else(|| read("%a %b %e %H:%M:%S %Y"))?;
    Some(date.timestamp().as_second())
}

/// Microseconds, saturating.
pub(crate) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_after_is_read_in_every_form() {
        let read = |name: &'static str, value: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            retry_after(&headers, Timestamp(1_000_000_000_000))
        };
        assert_eq!(read("retry-after", "soon"), None);
        assert_eq!(read("retry-after", "-1"), None);
        for nonsense in ["1e300", "30s", "nan", "inf", "+5", "30, 40", "", ".", "99999999999999999999"] {
            assert_eq!(read("retry-after", nonsense), None, "{nonsense}");
        }
        assert_eq!(read("retry-after", "1.5"), Some(Duration::from_millis(1_500)));
        assert_eq!(read("retry-after", "Mon, 12 Jan 1970 13:46:35 GMT"), None, "it is over");
        assert_eq!(read("retry-after", "0"), Some(Duration::ZERO));
        assert_eq!(read("retry-after", "Monday, 12-Jan-70 13:46:45 GMT"), Some(Duration::from_secs(5)));
        assert_eq!(read("retry-after", "Mon Jan 12 13:46:45 1970"), Some(Duration::from_secs(5)));
        assert_eq!(read("retry-after", "Tue Feb  3 13:46:40 1970"), Some(Duration::from_secs(22 * 86_400)));
        assert_eq!(read("retry-after", "7"), Some(Duration::from_secs(7)));
        assert_eq!(read("retry-after-ms", "250"), Some(Duration::from_millis(250)));
        assert_eq!(read("retry-after", "Mon, 12 Jan 1970 13:46:45 GMT"), Some(Duration::from_secs(5)));
    }
}
