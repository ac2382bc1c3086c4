//! The canonical JSON of an exchange, written in one go.
//!
//! RFC 8785 sorts the members of an object (section 3.2.3); a general writer gathers and sorts them anew in every entry, which
//! takes longer than all else that the log does with it. Here they are declared in that order, and `serde_json` already writes
//! texts as section 3.2.2.2 asks. Whole numbers beyond 2^53 would be rounded by a general writer; such an exchange is left to it.
//! That both write the same bytes is tested (`an_exchange_has_the_bytes_of_the_general_writer`).

use std::sync::Arc;

use serde::ser::Error;
use serde::{Serialize, Serializer};

use super::{Attempt, Exchange, Tokens, VERSION, Verdict};
use crate::unit::commit::Commitment;
use crate::unit::id::ExchangeId;
use crate::unit::usage::UsageSource;

/// The largest whole number that RFC 8785 writes with all its digits (section 3.2.2.3).
const LARGEST: u64 = 1 << 53;

/// An entry is rarely longer.
const USUAL_BYTES: usize = 1_536;

/// The bytes of an exchange's entry; `None` if a number in it is beyond 2^53.
pub(super) fn bytes(exchange: &Exchange) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(USUAL_BYTES);
    serde_json::to_writer(&mut bytes, &Sorted::of(exchange)).ok()?;
    Some(bytes)
}

/// An exchange with its envelope, sorted.
#[derive(Serialize)]
struct Sorted<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<Commitment>,
    at: String,
    #[serde(skip_serializing_if = "Attempts::is_empty")]
    attempts: Attempts<'a>,
    bytes_in: Whole,
    bytes_out: Whole,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_nano_usd: Option<Whole>,
    duration_us: Whole,
    id: ExchangeId,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    kind: &'static str,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_requested: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_served: Option<&'a str>,
    operation: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    org: Option<&'a str>,
    outcome: &'a str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    price: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<Commitment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    status: u16,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tags: &'a [Arc<str>],
    #[serde(skip_serializing_if = "Option::is_none")]
    team: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttft_us: Option<Whole>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<SortedTokens>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_source: Option<UsageSource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    v: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<SortedVerdict<'a>>,
}

impl<'a> Sorted<'a> {
    #[allow(clippy::too_many_lines, reason = "two lines for each member, and nothing else")]
    fn of(exchange: &'a Exchange) -> Self {
        // Taken apart without `..`, so that a member that is added is missed by the compiler, not in the log.
        let Exchange {
            refused: _,
            address,
            answer,
            at,
            attempts,
            bytes_in,
            bytes_out,
            cost_nano_usd,
            duration_us,
            id,
            key,
            method,
            model_requested,
            model_served,
            operation,
            org,
            outcome,
            path,
            price,
            prompt,
            provider,
            reason,
            request_id,
            route,
            session,
            status,
            tags,
            team,
            ttft_us,
            usage,
            usage_source,
            user,
            verdict,
        } = exchange;
        Self {
            address: address.as_deref(),
            answer: *answer,
            at: at.rfc3339(),
            attempts: Attempts(attempts),
            bytes_in: Whole::of(*bytes_in),
            bytes_out: Whole::of(*bytes_out),
            cost_nano_usd: cost_nano_usd.map(Whole),
            duration_us: Whole::of(*duration_us),
            id: *id,
            key: key.as_deref(),
            kind: exchange.kind(),
            method,
            model_requested: model_requested.as_deref(),
            model_served: model_served.as_deref(),
            operation,
            org: org.as_deref(),
            outcome,
            path,
            price: price.as_deref(),
            prompt: *prompt,
            provider: provider.as_deref(),
            reason: reason.as_deref(),
            request_id: request_id.as_deref(),
            route: route.as_deref(),
            session: session.as_deref(),
            status: *status,
            tags,
            team: team.as_deref(),
            ttft_us: ttft_us.map(Whole::of),
            usage: usage.map(SortedTokens::of),
            usage_source: *usage_source,
            user: user.as_deref(),
            v: VERSION,
            verdict: verdict.as_ref().map(SortedVerdict::of),
        }
    }
}

struct Attempts<'a>(&'a [Attempt]);

impl Attempts<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Attempts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(SortedAttempt::of))
    }
}

#[derive(Serialize)]
struct SortedAttempt<'a> {
    duration_us: Whole,
    end: &'a str,
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    permit: Option<&'a str>,
    provider: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
}

impl<'a> SortedAttempt<'a> {
    fn of(attempt: &'a Attempt) -> Self {
        let Attempt { provider, model, permit, end, status, duration_us } = attempt;
        let permit = permit.as_deref();
        Self { duration_us: Whole::of(*duration_us), end, model, permit, provider, status: *status }
    }
}

#[derive(Serialize)]
struct SortedVerdict<'a> {
    effective: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    policies: &'a [Arc<str>],
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_set: Option<&'a str>,
    real: &'a str,
}

impl<'a> SortedVerdict<'a> {
    fn of(verdict: &'a Verdict) -> Self {
        let Verdict { real, effective, policies, policy_set } = verdict;
        Self { effective, policies, policy_set: policy_set.as_deref(), real }
    }
}

#[derive(Serialize)]
struct SortedTokens {
    #[serde(skip_serializing_if = "Whole::is_zero")]
    cache_read: Whole,
    #[serde(skip_serializing_if = "Whole::is_zero")]
    cache_write_1h: Whole,
    #[serde(skip_serializing_if = "Whole::is_zero")]
    cache_write_5m: Whole,
    #[serde(skip_serializing_if = "Whole::is_zero")]
    input: Whole,
    #[serde(skip_serializing_if = "Whole::is_zero")]
    input_audio: Whole,
    #[serde(skip_serializing_if = "Whole::is_zero")]
    input_image: Whole,
    #[serde(skip_serializing_if = "Whole::is_zero")]
    output: Whole,
    #[serde(skip_serializing_if = "Whole::is_zero")]
    output_audio: Whole,
    #[serde(skip_serializing_if = "Whole::is_zero")]
    output_image: Whole,
    #[serde(skip_serializing_if = "Whole::is_zero")]
    reasoning: Whole,
}

impl SortedTokens {
    fn of(tokens: Tokens) -> Self {
        Self {
            cache_read: Whole::of(tokens.cache_read),
            cache_write_1h: Whole::of(tokens.cache_write_1h),
            cache_write_5m: Whole::of(tokens.cache_write_5m),
            input: Whole::of(tokens.input),
            input_audio: Whole::of(tokens.input_audio),
            input_image: Whole::of(tokens.input_image),
            output: Whole::of(tokens.output),
            output_audio: Whole::of(tokens.output_audio),
            output_image: Whole::of(tokens.output_image),
            reasoning: Whole::of(tokens.reasoning),
        }
    }
}

/// A whole number; one beyond 2^53 is refused when it is written.
struct Whole(i64);

impl Whole {
    fn of(number: u64) -> Self {
        Self(i64::try_from(number).unwrap_or(i64::MAX))
    }

    fn is_zero(&self) -> bool {
        self.0 == 0
    }
}

impl Serialize for Whole {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.unsigned_abs() > LARGEST {
            return Err(S::Error::custom("a number is beyond 2^53"));
        }
        serializer.serialize_i64(self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Entry, canonical, tests::exchange};
    use super::*;
    use crate::audit::index::Seen;
    use crate::audit::tail::Taken;
    use crate::unit::commit::Salt;

    /// An exchange whose texts and numbers are those, and in which what may be absent is there or not.
    fn drawn(text: &str, number: u64, there: bool) -> Exchange {
        let shared: Option<Arc<str>> = there.then(|| text.into());
        let owned = there.then(|| text.to_owned());
        let plain = exchange(u128::from(number));
        let committed = there.then(|| Salt::fresh().unwrap().commit(text.as_bytes()));
        let attempt = Attempt {
            provider: text.into(),
            model: text.to_owned(),
            permit: owned.clone(),
            end: text.to_owned(),
            status: there.then_some(503),
            duration_us: number,
        };
        let verdict = Verdict {
            real: text.to_owned().into(),
            effective: text.to_owned().into(),
            policies: shared.clone().into_iter().collect(),
            policy_set: shared.clone(),
        };
        let [input, cache_read, cache_write_5m, cache_write_1h, input_audio] = [number; 5];
        let [input_image, output, reasoning, output_audio, output_image] = [if there { number } else { 0 }; 5];
        Exchange {
            refused: there,
            request_id: owned.clone(),
            operation: text.to_owned(),
            path: text.to_owned(),
            address: owned.clone(),
            key: shared.clone(),
            org: shared.clone(),
            team: shared.clone(),
            user: shared.clone(),
            session: shared.clone(),
            tags: shared.clone().into_iter().collect(),
            model_requested: owned.clone(),
            model_served: owned.clone(),
            provider: shared.clone(),
            route: shared,
            reason: owned.clone(),
            verdict: there.then_some(verdict),
            attempts: if there { vec![attempt.clone(), attempt] } else { Vec::new() },
            usage: there.then_some(Tokens {
                input,
                cache_read,
                cache_write_5m,
                cache_write_1h,
                input_audio,
                input_image,
                output,
                reasoning,
                output_audio,
                output_image,
            }),
            usage_source: there.then_some(UsageSource::Estimated),
            cost_nano_usd: there.then(|| -i64::try_from(number).unwrap_or(i64::MAX)),
            price: owned.clone(),
            duration_us: number,
            ttft_us: there.then_some(number),
            bytes_in: number,
            bytes_out: number,
            prompt: committed,
            answer: committed,
            ..plain
        }
    }

    proptest! {
        #[test]
        fn an_exchange_has_the_bytes_of_the_general_writer(text in any::<String>(), number in 0..=LARGEST, there: bool) {
            let drawn = drawn(&text, number, there);
            let general = canonical(drawn.at, Some(drawn.kind()), &drawn);
            let written = bytes(&drawn).unwrap();
            prop_assert_eq!(String::from_utf8(written).unwrap(), String::from_utf8(general).unwrap());
        }

        #[test]
        fn an_exchange_has_the_row_that_its_bytes_give(text in any::<String>(), there: bool) {
            let taken = Taken::new(&Entry::Exchange(Box::new(drawn(&text, 1, there))), None);
            prop_assert_eq!(taken.row, Seen::parse(&taken.bytes).unwrap().row());
        }
    }

    #[test]
    fn numbers_that_lose_digits_are_left_to_the_general_writer() {
        for number in [LARGEST + 1, u64::MAX] {
            let large = Exchange { bytes_out: number, ..exchange(1) };
            assert!(bytes(&large).is_none());
            let general = canonical(large.at, Some("exchange"), &large);
            assert_eq!(Entry::Exchange(Box::new(large)).to_bytes(), general);
        }
    }
}
