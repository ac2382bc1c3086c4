//! **Fit**: the last tries of a call that is larger than what is left of a limit.
//!
//! A caller that leaves the length of its answer open gets the longest answer that what is left pays for. A call that refers to
//! something outside its body may read as much as its model can, and that may be more than a whole limit; no rule is right for
//! both sides then, so the operator chooses (`budget.unseen_input`). Everything here is arithmetic on the refusal that came
//! before; each try asks the budget once.

use crate::budget::{Payer, Refusal, Refused, Rest, UnseenInput};
use crate::pipeline::exchange::Exchange;
use crate::pipeline::reserve::Granted;

/// The shortest answer that is offered, in tokens: OpenAI refuses a lower ceiling. A limit that is smaller as a whole may offer
/// less.
///
/// *Source*: <https://platform.openai.com/docs/api-reference/responses/create#responses-create-max_output_tokens>.
const SHORTEST_ANSWER: u64 = 16;
/// How many limits in a row may each leave less than the one before.
const TRIES: usize = 4;
/// How many limits may be too small for what is not in the body, each of which is found by being asked.
const SMALL_ROWS: usize = 16;

impl Exchange {
    /// Asks for the longest answer, below the last ceiling that was tried, that what is left pays for. Gives the refusal that it
    /// came with where the ceiling is not the gateway's to lower, or where not even a short answer fits.
    pub(super) async fn fit_answer(
        &self,
        payer: &Payer<'_>,
        (input, ceiling): (u64, Option<u64>),
        mut refusal: Refusal,
    ) -> Result<Granted, Refusal> {
        let open = self.facts.as_ref().is_some_and(|facts| facts.max_output_tokens.is_none() && facts.takes_ceiling());
        let Some(mut most) = ceiling.filter(|_| open) else { return Err(refusal) };
        for _ in 0..TRIES {
            let Some(refused) = refusal.limit().filter(|_| refusal.is_about_amount()) else { break };
            let need = |ceiling: u64| self.most(input, Some(ceiling)).of(refused.unit);
            let left = refused.amount.saturating_sub(refused.spent);
            let never = need(SHORTEST_ANSWER).is_none_or(|need| need > refused.amount);
            let least = if never { 1 } else { SHORTEST_ANSWER };
            let fits = |ceiling: u64| need(ceiling).is_some_and(|need| need <= left);
            let Some(next) = largest((least, most.saturating_sub(1)), fits) else { break };
            match self.try_reserve(payer, (input, Some(next)), true).await {
                Ok(granted) => return Ok(granted),
                Err(again) => refusal = again,
            }
            most = next;
        }
        Err(refusal)
    }

    /// Lets a call whose unseen input is larger than a whole limit take all that is left of it, if the operator allows that, and at
    /// least what is written in its body. Each limit that has enough holds all that the call may use.
    pub(super) async fn fit_question(
        &self,
        payer: &Payer<'_>,
        (input, ceiling): (u64, Option<u64>),
        mut refusal: Refusal,
    ) -> Result<Granted, Refusal> {
        if self.live.settings.unseen_input == UnseenInput::Refuse {
            return Err(refusal);
        }
        let (most, least) = (self.most(input, ceiling), self.most(self.written_input().await, ceiling));
        let mut rests: Vec<Rest> = Vec::new();
        for _ in 0..SMALL_ROWS {
            // A limit that could hold the whole need is not to be exceeded: the call comes again when it does.
            let small = |refused: &&Refused| most.of(refused.unit).is_some_and(|need| need > refused.amount);
            let Some(refused) = refusal.limit().filter(|_| refusal.is_about_amount()).filter(small) else { break };
            let rest = refused.rest(least.of(refused.unit).unwrap_or(0));
            let same = |other: &Rest| other.limit == rest.limit && other.subject == rest.subject;
            // What is written must fit in any case, and what is refused says then how much that is.
            if rests.iter().any(|other| same(other) && other.most <= rest.most) {
                break;
            }
            rests.retain(|other| !same(other));
            rests.push(rest);
            match self.gateway.budget.reserve_rest(payer, &most, &rests, true).await {
                Ok(reservation) => return Ok(Granted::new(reservation, most, ceiling)),
                Err(again) => refusal = again,
            }
        }
        Err(refusal)
    }
}

/// The largest number of a span that fits, where whatever is smaller than one that fits does, too.
fn largest((least, most): (u64, u64), fits: impl Fn(u64) -> bool) -> Option<u64> {
    if least > most || !fits(least) {
        return None;
    }
    let (mut low, mut high) = (least, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Some(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_that_fits_is_found_at_both_ends_and_between() {
        for (span, limit, found) in [
            ((1, 255), 100, Some(100)),
            ((1, 255), 300, Some(255)),
            ((1, 255), 1, Some(1)),
            ((16, 255), 15, None),
            ((5, 4), 9, None),
            ((0, u64::MAX), u64::MAX, Some(u64::MAX)),
        ] {
            assert_eq!(largest(span, |number| number <= limit), found, "{span:?} {limit}");
        }
    }
}
