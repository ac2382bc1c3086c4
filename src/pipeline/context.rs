//! What stored answers hold: a request that goes on from one (`previous_response_id`) makes the model read it again, though it is
//! not in the body, and its tokens are paid for.
//!
//! Remembers how many tokens each answer had, question included, as its provider counted. Bounded: the oldest make room; about
//! 40 bytes each. Only a bound for reservations comes of it, so two answers that share a hash do no harm worth naming.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

/// The most answers that are remembered.
const MOST: usize = 65_536;

/// How many tokens stored answers have.
#[derive(Default)]
pub struct Contexts {
    hasher: RandomState,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    tokens: HashMap<u64, u64>,
    order: VecDeque<u64>,
}

impl Contexts {
    /// Remembers how many tokens an answer has, with all that came before it.
    pub fn remember(&self, id: &str, tokens: u64) {
        let hash = self.hasher.hash_one(id);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.tokens.insert(hash, tokens).is_none() {
            known.order.push_back(hash);
        }
        if known.order.len() > MOST
            && let Some(oldest) = known.order.pop_front()
        {
            known.tokens.remove(&oldest);
        }
    }

    /// How many tokens that answer has; `None` if this process did not see it, or has forgotten it.
    pub fn recall(&self, id: &str) -> Option<u64> {
        let hash = self.hasher.hash_one(id);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).tokens.get(&hash).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_answers_make_room_and_the_last_word_counts() {
        let contexts = Contexts::default();
        contexts.remember("first", 1);
        contexts.remember("second", 2);
        contexts.remember("second", 3);
        (0..MOST - 1).for_each(|number| contexts.remember(&number.to_string(), 7));
        assert_eq!((contexts.recall("first"), contexts.recall("second")), (None, Some(3)));
        assert_eq!(contexts.recall("never seen"), None);
    }
}
