//! The credentials of one provider, used in turn, resting one by one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::unit::clock::Tick;
use crate::unit::secret::Secret;

/// The longest rest that an answer can impose, so that a mistaken `retry-after` does not end a credential's use for a day.
pub const LONGEST_REST: Duration = Duration::from_secs(600);
/// The rest after a 429 that does not say how long.
pub const REST_AFTER_429: Duration = Duration::from_secs(1);
/// The shortest rest after a 429, whatever the provider says, where another credential may be used meanwhile.
pub const LEAST_REST_AFTER_429: Duration = Duration::from_millis(100);
/// The rest after a 401: long enough not to be locked out, short enough to notice that the key was mended.
pub const REST_AFTER_401: Duration = Duration::from_secs(60);
/// The most rests that are remembered for one provider.
const MAX_RESTS: usize = 4_096;

/// The credentials of a provider, in the configuration's order.
#[derive(Debug)]
pub struct Credentials {
    secrets: Vec<Secret>,
    turn: AtomicUsize,
    rests: Mutex<HashMap<Rest, (Tick, Why)>>,
}

/// What rests: a credential for one model, or for all.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Rest {
    credential: u32,
    model: Option<String>,
}

/// Why a credential rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The provider refused it (401).
    Refused,
    /// The provider has had enough for now (429).
    Limited,
}

/// The answer to the question for a credential.
#[derive(Clone, Debug)]
pub enum Pick {
    /// Use this one.
    Use(u32, Secret),
    /// The provider needs none.
    NoneNeeded,
    /// All rest; the first is back after this time. `Limited` if any of them is.
    AllRest(Duration, Why),
}

impl Credentials {
    /// The credentials in order; none at all means that the provider needs none.
    pub fn new(secrets: Vec<Secret>) -> Self {
        Self { secrets, turn: AtomicUsize::new(0), rests: Mutex::default() }
    }

    /// All of them, for redaction.
    pub fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    /// The next one that does not rest for this model, in turn; never one of those that the call has tried, by their positions. The
    /// turn is that of all calls, so without them one call could come to the same one again and again.
    pub fn pick(&self, model: &str, tried: &[u32], now: Tick) -> Pick {
        if self.secrets.is_empty() {
            return match self.rest_left(0, model, now) {
                Some((left, why)) => Pick::AllRest(left, why),
                None => Pick::NoneNeeded,
            };
        }
        let count = self.secrets.len();
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut soonest: Option<(Duration, Why)> = None;
        for step in 0..count {
            let index = start.wrapping_add(step) % count;
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            if tried.contains(&number) {
                continue;
            }
            match (self.rest_left(number, model, now), self.secrets.get(index)) {
                (None, Some(secret)) => return Pick::Use(number, secret.clone()),
                (Some((left, why)), _) => {
                    soonest = Some(soonest.map_or((left, why), |other| (other.0.min(left), other.1.max(why))));
                }
                (None, None) => {}
            }
        }
        let (left, why) = soonest.unwrap_or((Duration::ZERO, Why::Limited));
        Pick::AllRest(left, why)
    }

    /// Lets a credential rest: for one model, or for all. The longer of two rests holds.
    pub fn rest(&self, credential: u32, model: Option<&str>, (span, why): (Duration, Why), now: Tick) {
        let until = now.plus(span.min(LONGEST_REST));
        let mut rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        if rests.len() >= MAX_RESTS {
            rests.retain(|_, (end, _)| *end > now);
        }
        if rests.len() < MAX_RESTS {
            let end = rests.entry(Rest { credential, model: model.map(str::to_owned) }).or_insert((until, why));
            *end = (*end).max((until, why));
        }
    }

    /// For each credential, the longest rest that is left, over all models; `None` if it does not rest.
    pub fn resting(&self, now: Tick) -> Vec<Option<Duration>> {
        let rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        (0..u32::try_from(self.secrets.len()).unwrap_or(u32::MAX))
            .map(|number| {
                let own = rests.iter().filter(|(rest, end)| rest.credential == number && end.0 > now);
                own.map(|(_, end)| end.0.since(now)).max()
            })
            .collect()
    }

    fn rest_left(&self, credential: u32, model: &str, now: Tick) -> Option<(Duration, Why)> {
        let mut rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        if rests.is_empty() {
            return None;
        }
        let all = rests.get(&Rest { credential, model: None }).copied();
        let one = rests.get(&Rest { credential, model: Some(model.to_owned()) }).copied();
        let (end, why) = all.into_iter().chain(one).max()?;
        if end > now {
            return Some((end.since(now), why));
        }
        rests.remove(&Rest { credential, model: None });
        rests.remove(&Rest { credential, model: Some(model.to_owned()) });
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Credentials {
        Credentials::new(vec![Secret::new("one"), Secret::new("two")])
    }

    fn index(pick: Pick) -> Option<u32> {
        match pick {
            Pick::Use(index, _) => Some(index),
            _ => None,
        }
    }

    #[test]
    fn a_resting_credential_is_passed_over_for_its_model_only() {
        let (credentials, now) = (two(), Tick::now());
        credentials.rest(0, Some("m"), (Duration::from_secs(5), Why::Limited), now);
        for _ in 0..4 {
            assert_eq!(index(credentials.pick("m", &[], now)), Some(1));
        }
        let others: Vec<_> = (0..2).map(|_| index(credentials.pick("n", &[], now))).collect();
        assert!(others.contains(&Some(0)));
    }

    #[test]
    fn when_all_rest_the_soonest_is_named_and_time_heals() {
        let (credentials, now) = (two(), Tick::now());
        credentials.rest(0, Some("m"), (Duration::from_secs(5), Why::Limited), now);
        credentials.rest(1, None, (Duration::from_secs(9_999), Why::Refused), now);
        let pick = credentials.pick("m", &[], now);
        assert!(matches!(pick, Pick::AllRest(left, Why::Limited) if left == Duration::from_secs(5)), "{pick:?}");
        credentials.rest(0, None, (Duration::from_secs(9), Why::Refused), now);
        let pick = credentials.pick("m", &[], now);
        assert!(matches!(pick, Pick::AllRest(left, Why::Refused) if left == Duration::from_secs(9)), "{pick:?}");
        assert_eq!(index(credentials.pick("m", &[], now.plus(Duration::from_secs(10)))), Some(0));
        assert!(index(credentials.pick("m", &[], now.plus(LONGEST_REST + Duration::from_secs(1)))).is_some());
    }

    #[test]
    fn a_credential_that_the_call_has_tried_is_passed_over() {
        let (credentials, now) = (two(), Tick::now());
        for _ in 0..4 {
            assert_eq!(index(credentials.pick("m", &[1], now)), Some(0));
        }
        assert_eq!(index(credentials.pick("m", &[0, 1], now)), None);
    }

    #[test]
    fn credentials_take_turns() {
        let (credentials, now) = (two(), Tick::now());
        let seen: Vec<_> = (0..4).filter_map(|_| index(credentials.pick("m", &[], now))).collect();
        assert_eq!(seen, [0, 1, 0, 1]);
    }
}
