//! **Reserve**: one atomic reservation on every limit that applies, before a provider is asked.
//!
//! Caps on single requests come first: they cost a comparison. Then every row that applies takes the most that the exchange can
//! consume, or none does. A caller that names no ceiling on its output is given one, and a lower one when little is left: a
//! budget that can still pay for a short answer does not refuse. Settlement is in `settle`.

use crate::budget::{Amounts, Payer, Refusal};
use crate::dialect::{Facts, Operation};
use crate::error::{Error, Kind, Result};
use crate::pipeline::exchange::Exchange;

/// The lowest ceiling that Marg itself puts on an answer when little is left, in tokens.
const LEAST_CEILING: u64 = 256;
/// By how much a ceiling is lowered when it does not fit.
const CEILING_STEP: u64 = 4;

impl Exchange {
    /// Reserves what the exchange can consume at most.
    ///
    /// # Errors
    /// `InvalidRequest` above a cap on single requests; `LimitExceeded` with the limit, what is left and when it resets;
    /// `PermissionDenied` for a model without a price under a limit in dollars; `Unavailable` when the counters cannot be asked.
    pub async fn reserve(&mut self) -> Result<()> {
        self.ceiling = self.cap().await?;
        let budget = self.gateway.budget.clone();
        let Some(key) = self.key.clone() else { return Ok(()) };
        let payer = self.payer(&key);
        if !budget.applies(&payer) {
            return Ok(());
        }
        let ceilings = self.ceilings();
        let bound = self.input_bound();
        let first = ceilings.first().copied().flatten();
        let reserved = match budget.reserve_now(&payer, &self.most(bound, first)) {
            Ok(reservation) => Ok((reservation, first)),
            Err(_short) => self.reserve_patiently(&payer, bound, &ceilings).await,
        };
        let rates = budget.rates(&payer);
        drop(payer);
        self.rates = Some(rates);
        let (reservation, ceiling) = reserved.map_err(|refusal| self.refused(&refusal))?;
        self.ceiling = ceiling;
        self.reservation = Some(reservation);
        Ok(())
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
    ) -> std::result::Result<(crate::budget::Reservation, Option<u64>), Refusal> {
        let budget = &self.gateway.budget;
        let first = ceilings.first().copied().flatten();
        let mut refusal = match budget.reserve(payer, &self.most(bound, first), false).await {
            Ok(reservation) => return Ok((reservation, first)),
            Err(refusal) => refusal,
        };
        if !refusal.is_about_amount() {
            return Err(refusal);
        }
        let input = self.exact_input().await;
        for ceiling in ceilings {
            let last = std::ptr::eq(ceiling, ceilings.last().unwrap_or(ceiling));
            match budget.reserve(payer, &self.most(input, *ceiling), last).await {
                Ok(reservation) => return Ok((reservation, *ceiling)),
                Err(next) => refusal = next,
            }
        }
        Err(refusal)
    }

    fn refused(&self, refusal: &Refusal) -> Error {
        let model = self.facts.as_ref().and_then(|facts| facts.model.as_deref());
        refusal.to_error(model)
    }

    /// The ceilings to try: the caller's own or that of a cap alone, else the default and ever lower ones.
    fn ceilings(&self) -> Vec<Option<u64>> {
        let Some(facts) = self.facts.as_ref().filter(|facts| facts.max_output_tokens.is_none() && facts.takes_ceiling())
        else {
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
        let caps = self.gateway.parties.caps(&key.principal, key.caps, self.live.settings.caps);
        if let Some(most) = caps.max_input_tokens
            && self.input_bound() > most
        {
            let input = self.exact_input().await;
            if input > most {
                let text = format!(
                    "The request has about {input} input tokens; the most for this key is {most} (max_input_tokens). Shorten it."
                );
                return Err(Error::new(Kind::InvalidRequest, text));
            }
        }
        let Some(most) = caps.max_output_tokens else { return Ok(None) };
        cap_output(facts, most)
    }
}

/// Holds a request to a cap on its output.
fn cap_output(facts: &Facts, most: u64) -> Result<Option<u64>> {
    let writes = matches!(facts.operation, Operation::Chat | Operation::Completions | Operation::Responses);
    if !writes {
        return Ok(None);
    }
    let choices = facts.choices.max(1);
    match facts.max_output_tokens {
        Some(asked) if asked.saturating_mul(choices) > most => {
            let text = format!(
                "The request asks for up to {} output tokens; the most for this key is {most} (max_output_tokens). Ask for fewer.",
                asked.saturating_mul(choices)
            );
            Err(Error::new(Kind::InvalidRequest, text).param("max_tokens"))
        }
        Some(_) => Ok(None),
        None if choices > most => {
            let text = format!("The request asks for {choices} answers; this key may have {most} output tokens in all.");
            Err(Error::new(Kind::InvalidRequest, text).param("n"))
        }
        None => Ok(facts.takes_ceiling().then_some(most / choices)),
    }
}
