//! Keeping the ring as the store is: the keys that changed since the last look, or all.
//!
//! All are read at first, after the store was away, and when the store cannot tell any more what changed. Both ways lead to the
//! same ring (`a_ring_that_reads_changes_is_like_one_that_reads_all`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Ring, Shard, Writer, shard_of};
use crate::error::StoreError;
use crate::key::Key;
use crate::key::store::{KeyChanges, KeyStore};

/// So many keys that were changed here are looked up one by one; with more of them all keys are read.
const MAX_DOUBTED: usize = 64;

/// What is known of the keys before the store is asked.
struct Before {
    changes: u64,
    generation: Option<u64>,
    doubted: HashSet<Arc<str>>,
}

/// What the store said.
enum Found {
    All(Vec<Arc<Key>>),
    Changed(KeyChanges),
}

impl Ring {
    /// Whether keys should be read although the generation has not moved: some were changed here by what was known here.
    pub fn is_in_doubt(&self) -> bool {
        !self.writer().doubted.is_empty()
    }

    /// Reads what changed in the store – or all keys, see above – and returns the generation that the ring is at least as new as.
    /// A [`Ring::put`] or [`Ring::remove`] that happens meanwhile is not undone.
    ///
    /// # Errors
    /// Those of the store, and [`StoreError::Conflict`] when changes in this process never paused; the ring stays as it was.
    pub async fn refresh(&self, store: &dyn KeyStore) -> Result<u64, StoreError> {
        for _ in 0..16 {
            let before = self.before();
            // The generation first: a write that comes between is then read twice, never missed.
            let generation = store.generation().await?;
            let found = find(store, &before, generation).await?;
            let mut writer = self.writer();
            if writer.changes == before.changes {
                match found {
                    Found::All(keys) => self.install(&mut writer, keys),
                    Found::Changed(changes) => self.apply(&mut writer, changes),
                }
                writer.generation = Some(generation);
                writer.doubted.clear();
                return Ok(generation);
            }
        }
        Err(StoreError::Conflict("the keys change too fast to be read".into()))
    }

    fn before(&self) -> Before {
        let writer = self.writer();
        let Writer { changes, generation, ref doubted, .. } = *writer;
        Before { changes, generation, doubted: doubted.clone() }
    }

    /// Changes those shards that have to, each of them once: a key that moves is in its new place before it leaves the old one.
    fn apply(&self, writer: &mut Writer, changes: KeyChanges) {
        if changes.keys.is_empty() && changes.gone.is_empty() {
            return;
        }
        let mut shards: HashMap<usize, Shard> = HashMap::new();
        let mut left = Vec::new();
        for key in changes.keys {
            let hash = key.hash;
            left.extend(writer.hashes.insert(Arc::clone(&key.id), hash).filter(|old| *old != hash));
            let key = Self::overlaid(&writer.held, Arc::new(key));
            self.copied(&mut shards, shard_of(&hash)).insert(hash, key);
        }
        left.extend(changes.gone.iter().filter_map(|id| writer.hashes.remove(id)));
        self.put_in_place(shards);
        let mut shards: HashMap<usize, Shard> = HashMap::new();
        for hash in left {
            self.copied(&mut shards, shard_of(&hash)).remove(&hash);
        }
        self.put_in_place(shards);
        self.keys.store(writer.hashes.len(), Ordering::Relaxed);
        self.news().tell();
    }

    fn copied<'a>(&self, shards: &'a mut HashMap<usize, Shard>, place: usize) -> &'a mut Shard {
        shards
            .entry(place)
            .or_insert_with(|| self.shards.get(place).map(|shard| Shard::clone(&shard.load())).unwrap_or_default())
    }

    fn put_in_place(&self, shards: HashMap<usize, Shard>) {
        for (place, shard) in shards {
            if let Some(slot) = self.shards.get(place) {
                slot.store(Arc::new(shard));
            }
        }
    }
}

async fn find(store: &dyn KeyStore, before: &Before, generation: u64) -> Result<Found, StoreError> {
    let since = before.generation.filter(|since| *since <= generation && before.doubted.len() <= MAX_DOUBTED);
    let Some(since) = since else { return Ok(Found::All(store.all().await?)) };
    let Some(mut changes) = store.changed_after(since).await? else { return Ok(Found::All(store.all().await?)) };
    for id in &before.doubted {
        match store.get(id).await? {
            Some(key) => changes.keys.push(key),
            None => changes.gone.push(Arc::clone(id)),
        }
    }
    Ok(Found::Changed(changes))
}
