//! **Reserve**: one atomic reservation on every limit that applies, before a provider is asked.
//!
//! Caps on single requests come first: they cost a comparison. Then every row that applies takes the most that the exchange can
//! consume, or none does. A caller that names no ceiling on its output is given one, and a lower one when little is left: a
//! budget that can still pay for a short answer does not refuse. Settlement is in `settle`.

use std::time::Duration;

use crate::budget::{Amounts, Limited, Payer, Refusal, Reservation};
use crate::dialect::{Facts, Runs, Writing};
use crate::error::{Error, Kind, Result};
use crate::pipeline::exchange::Exchange;

/// The lowest ceiling that is reached by steps, in tokens; below it what is left decides (`fit`).
const LEAST_CEILING: u64 = 256;
/// By how much a ceiling is lowered when it does not fit.
const CEILING_STEP: u64 = 4;

/// A reservation, and what it is for.
pub(super) struct Granted {
    reservation: Reservation,
    need: Amounts,
    ceiling: Option<u64>,
}

impl Granted {
    pub(super) fn new(reservation: Reservation, need: Amounts, ceiling: Option<u64>) -> Self {
        Self { reservation, need, ceiling }
    }
}

impl Exchange {
    /// Puts another model in the place of the one that was asked for, where a limit says so because little of it is left.
    pub fn give_way(&mut self) {
        let Some(key) = self.key.clone().filter(|_| self.gateway.budget.has_limits()) else { return };
        // What is stored or deleted of a model is that model's.
        let named = self.runs != Runs::Nothing && self.facts.as_ref().is_some_and(|facts| facts.model.is_some());
        let downgrade = self.gateway.budget.downgrade(&self.payer(&key)).filter(|_| named);
        // A model that this key may not use is no way out.
        self.downgrade = downgrade.filter(|downgrade| self.gateway.ring.allows_model(&key, &downgrade.to));
    }

    /// Decides the ceiling on output tokens that providers are told; one that is short of money may still lower it.
    ///
    /// # Errors
    /// `InvalidRequest` above a cap on single requests.
    pub async fn bound(&mut self) -> Result<()> {
        self.ceiling = self.cap().await?;
        let Some(key) = self.key.clone() else { return Ok(()) };
        self.limited = self.gateway.budget.limited(&self.payer(&key));
        if self.limited != Limited::No {
            self.ceiling = self.ceilings().first().copied().flatten();
        }
        Ok(())
    }

    /// Reserves what the exchange can consume at most, after [`Exchange::bound`].
    ///
    /// # Errors
    /// `LimitExceeded` with the limit, what is left and when it resets;
    /// `PermissionDenied` for a model without a price under a limit in dollars, and for what nobody sees under any limit in dollars
    /// or tokens; `Unavailable` when the counters cannot be asked.
    pub async fn reserve(&mut self) -> Result<()> {
        let budget = self.gateway.budget.clone();
        let Some(key) = self.key.clone() else { return Ok(()) };
        let payer = self.payer(&key);
        if self.runs == Runs::Unseen {
            budget.admits_unseen(&payer).map_err(|refusal| self.refused(&refusal))?;
        }
        if self.limited == Limited::No {
            return Ok(());
        }
        let ceilings = self.ceilings();
        let bound = self.input_bound();
        let need = self.most(bound, ceilings.first().copied().flatten());
        let granted = match budget.reserve_now(&payer, &need) {
            Ok(reservation) => Ok(Granted { reservation, need, ceiling: ceilings.first().copied().flatten() }),
            Err(_short) => self.reserve_patiently(&payer, bound, &ceilings).await,
        };
        let rates = budget.rates(&payer);
        self.rates = Some(rates);
        let granted = granted.map_err(|refusal| self.refused(&refusal))?;
        self.ceiling = granted.ceiling;
        self.reserved = granted.need;
        self.reservation = Some(granted.reservation);
        Ok(())
    }

    /// What the caller reads of its limits: `x-ratelimit-*` as OpenAI sends them, and that another model was asked.
    ///
    /// *Source*: <https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers>.
    pub fn limit_headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = Vec::new();
        if let Some(rates) = &self.rates {
            let names = [
                ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
                ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
            ];
            for (rate, (limit, remaining, reset)) in [rates.requests, rates.tokens].into_iter().zip(names) {
                let Some(rate) = rate else { continue };
                headers.push((limit, rate.limit.to_string()));
                headers.push((remaining, rate.remaining.max(0).to_string()));
                headers.extend(rate.reset.map(|left| (reset, seconds(left))));
            }
        }
        if let Some(downgrade) = &self.downgrade {
            headers.push(("x-marg-downgrade", downgrade.limit.to_string()));
        }
        headers
    }

    fn payer<'a>(&'a self, key: &'a crate::key::Key) -> Payer<'a> {
        Payer {
            key,
            model: self.facts.as_ref().and_then(|facts| facts.model.as_deref()),
            tags: &self.record.tags,
            session: self.record.session.as_deref(),
        }
    }

    /// Tries what may take a moment: more leases, then the input counted word by word, then lower ceilings.
    async fn reserve_patiently(
        &self,
        payer: &Payer<'_>,
        bound: u64,
        ceilings: &[Option<u64>],
    ) -> std::result::Result<Granted, Refusal> {
        let first = ceilings.first().copied().flatten();
        let mut refusal = match self.try_reserve(payer, (bound, first), false).await {
            Err(refusal) if refusal.is_about_amount() => refusal,
            // Asking for less does not help here, but waiting for what other calls and processes hold may.
            Err(Refusal::Limit(_)) => {
                let input = self.exact_input().await;
                return self.try_reserve(payer, (input, first), true).await;
            }
            done => return done,
        };
        let input = self.exact_input().await;
        for (index, ceiling) in ceilings.iter().enumerate() {
            let last = index + 1 == ceilings.len();
            match self.try_reserve(payer, (input, *ceiling), last).await {
                Ok(granted) => return Ok(granted),
                Err(next) => refusal = next,
            }
        }
        let lowest = ceilings.last().copied().flatten();
        let refusal = match self.fit_answer(payer, (input, lowest), refusal).await {
            Err(refusal) if matches!(refusal, Refusal::NeverFits(_)) && self.refers() => refusal,
            done => return done,
        };
        self.fit_question(payer, (input, lowest), refusal).await
    }

    pub(super) async fn try_reserve(
        &self,
        payer: &Payer<'_>,
        (input, ceiling): (u64, Option<u64>),
        wait: bool,
    ) -> std::result::Result<Granted, Refusal> {
        let need = self.most(input, ceiling);
        let reservation = self.gateway.budget.reserve(payer, &need, wait).await?;
        Ok(Granted { reservation, need, ceiling })
    }

    fn refused(&self, refusal: &Refusal) -> Error {
        let model = self.facts.as_ref().and_then(|facts| facts.model.as_deref());
        // Where a cheaper model was put in its place, it is that one whose price is missing.
        let asked = self.downgrade.as_ref().map(|downgrade| downgrade.to.as_str()).or(model);
        refusal.to_error(asked)
    }

    /// The ceilings to try: the caller's own or that of a cap alone, else the default and ever lower ones.
    fn ceilings(&self) -> Vec<Option<u64>> {
        let by_output = self.limited == Limited::ByOutput;
        let open = |facts: &&Facts| by_output && facts.max_output_tokens.is_none() && facts.takes_ceiling();
        let Some(facts) = self.facts.as_ref().filter(open) else {
            return vec![self.ceiling];
        };
        let default = self.live.settings.default_max_output_tokens / facts.choices.max(1);
        let mut next = self.ceiling.map_or(default, |cap| cap.min(default)).max(1);
        let mut ceilings = vec![Some(next)];
        while next > LEAST_CEILING {
            next = (next / CEILING_STEP).max(LEAST_CEILING);
            ceilings.push(Some(next));
        }
        ceilings
    }

    /// Checks the caps on single requests; gives the ceiling that the caller must be given because it named none.
    async fn cap(&self) -> Result<Option<u64>> {
        let (Some(key), Some(facts)) = (&self.key, &self.facts) else { return Ok(None) };
        let caps = self.gateway.ring.caps(key).or(self.live.settings.default_caps);
        if let Some(most) = caps.max_input_tokens
            && self.written_bound() > most
        {
            let input = self.input_words().await;
            if input > most {
                let text = format!(
                    "The request has about {input} input tokens; the most for this key is {most} (max_input_tokens). Shorten it."
                );
                return Err(Error::new(Kind::InvalidRequest, text));
            }
        }
        let Some(most) = caps.max_output_tokens else { return Ok(None) };
        cap_output(facts, self.writing, most)
    }
}

/// A span as OpenAI writes it: `6m0s`, `1.5s`, `12ms`; rounded up to a millisecond, so that nobody comes back too early.
fn seconds(span: Duration) -> String {
    let millis = span.as_nanos().div_ceil(1_000_000);
    let (whole, rest) = (millis / 1_000, millis % 1_000);
    let seconds = match rest {
        0 => (whole % 60).to_string(),
        _ => format!("{}.{rest:03}", whole % 60).trim_end_matches('0').to_owned(),
    };
    match (whole / 3_600, whole / 60 % 60) {
        _ if whole == 0 => format!("{rest}ms"),
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// Holds a request to a cap on its output. What passes through is not changed, so it must name a ceiling itself where it is known in
/// which field; where it is not, none can be asked of it.
fn cap_output(facts: &Facts, writing: Writing, most: u64) -> Result<Option<u64>> {
    if !facts.operation.writes() && writing == Writing::Nothing {
        return Ok(None);
    }
    let (choices, field) = (facts.choices.max(1), writing.field());
    match facts.max_output_tokens {
        Some(asked) if asked.saturating_mul(choices) > most => {
            let text = format!(
                "The request asks for up to {} output tokens; the most for this key is {most} (max_output_tokens). Ask for fewer.",
                asked.saturating_mul(choices)
            );
            Err(Error::new(Kind::InvalidRequest, text).param(field.unwrap_or("max_tokens")))
        }
        Some(_) => Ok(None),
        None if !facts.operation.writes() => match field {
            Some(field) => {
                let text = format!(
                    "The request names no ceiling on its output; the most for this key is {most} (max_output_tokens). Name it in `{field}`."
                );
                Err(Error::new(Kind::InvalidRequest, text).param(field))
            }
            None => Ok(None),
        },
        None if choices > most => {
            let text =
                format!("The request asks for {choices} answers; this key may have {most} output tokens in all.");
            Err(Error::new(Kind::InvalidRequest, text).param("n"))
        }
        None => Ok(facts.takes_ceiling().then_some(most / choices)),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::dialect::{place, runs, understand};

    /// What a cap of 5 tokens makes of a request: the ceiling that is put in, or the field that is at fault.
    fn capped(path: &str, body: &str) -> std::result::Result<Option<u64>, String> {
        let (place, body) = (place("POST", path).unwrap(), Bytes::from(body.to_owned()));
        let mut facts = understand(place.operation, None, &body).unwrap();
        let writing = Writing::at(&place, runs("POST", &place, &facts, &body), &facts, &body);
        facts.heed(&place, writing, &body);
        cap_output(&facts, writing, 5).map_err(|error| error.field().unwrap_or_default().to_owned())
    }

    #[test]
    fn what_passes_through_is_held_to_the_cap_on_its_output_by_its_own_words() {
        for (path, body, field) in [
            ("/v1/messages", r#"{"model":"m","max_tokens":6}"#, "max_tokens"),
            ("/v1/messages", r#"{"model":"m"}"#, "max_tokens"),
            ("/v1/messages", r#"{"model":"m","max_output_tokens":5}"#, "max_tokens"),
            ("/v1/fim/completions", r#"{"model":"m","max_tokens":3,"n":2}"#, "max_tokens"),
            ("/v1/conversations", r#"{"inputs":"x","max_tokens":5}"#, "completion_args.max_tokens"),
            ("/v1/threads/runs", r#"{"assistant_id":"a","stream":true}"#, "max_completion_tokens"),
            ("/v1/responses/compact", r#"{"model":"m","max_output_tokens":6}"#, "max_tokens"),
            ("/v1/anything", r#"{"model":"m","max_output_tokens":6}"#, "max_tokens"),
        ] {
            assert_eq!(capped(path, body), Err(field.to_owned()), "{path} {body}");
        }
        for (path, body) in [
            ("/v1/messages", r#"{"model":"m","max_tokens":5}"#),
            ("/v1/conversations", r#"{"inputs":"x","completion_args":{"max_tokens":5}}"#),
            ("/v1/conversations", r#"{"items":[]}"#),
            ("/v1/messages/count_tokens", r#"{"model":"m","max_tokens":6}"#),
            ("/v1/chat/moderations", r#"{"model":"m"}"#),
            ("/v1/files", "x"),
            // Nobody knows what bounds these.
            ("/v1/responses/compact", r#"{"model":"m"}"#),
            ("/v1/anything", r#"{"model":"m"}"#),
        ] {
            assert_eq!(capped(path, body), Ok(None), "{path} {body}");
        }
    }

    #[test]
    fn a_span_reads_as_openai_writes_it() {
        let spans = [
            (0, "0ms"),
            (12, "12ms"),
            (1_000, "1s"),
            (1_500, "1.5s"),
            (59_999, "59.999s"),
            (360_000, "6m0s"),
            (90_250, "1m30.25s"),
            (7_265_000, "2h1m5s"),
        ];
        for (millis, text) in spans {
            assert_eq!(seconds(Duration::from_millis(millis)), text);
        }
        assert_eq!(seconds(Duration::from_micros(999_001)), "1s");
        assert_eq!(seconds(Duration::from_micros(1)), "1ms");
    }
}
