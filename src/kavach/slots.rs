//! A bounded cache without locks: a fixed number of slots, each an atomic pointer.
//!
//! A key may live in one of four neighbouring slots. Reading looks at those; writing replaces an empty one, else one by
//! turns. Two writers at once may lose one of the entries, which costs a second computation and nothing else.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;

const WAYS: usize = 4;

/// The cache. Entries are never changed in place.
pub(super) struct Slots<T> {
    slots: Box<[ArcSwapOption<T>]>,
    hasher: RandomState,
    turn: AtomicUsize,
}

impl<T> Slots<T> {
    /// Room for at least that many entries, rounded up to a power of two; at least four.
    pub(super) fn new(entries: usize) -> Self {
        let size = entries.max(WAYS).next_power_of_two();
        let slots = (0..size).map(|_| ArcSwapOption::empty()).collect();
        Self { slots, hasher: RandomState::new(), turn: AtomicUsize::new(0) }
    }

    /// How many entries there is room for.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Where the entry of a key can be; the hasher is keyed, since callers choose parts of it.
    pub(super) fn place(&self, key: &impl Hash) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The entry at that place that is the one.
    pub(super) fn find(&self, place: u64, is_it: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        self.ways(place).iter().find_map(|slot| {
            let entry = slot.load();
            entry.as_ref().filter(|entry| is_it(entry)).map(Arc::clone)
        })
    }

    /// Keeps an entry at that place.
    pub(super) fn keep(&self, place: u64, entry: Arc<T>) {
        let ways = self.ways(place);
        let free = ways.iter().find(|slot| slot.load().is_none());
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % WAYS;
        if let Some(slot) = free.or_else(|| ways.get(turn)) {
            slot.store(Some(entry));
        }
    }

    fn ways(&self, place: u64) -> &[ArcSwapOption<T>] {
        let mask = self.slots.len() - 1;
        let first = (place as usize & mask) & !(WAYS - 1);
        self.slots.get(first..first + WAYS).unwrap_or_default()
    }
}
