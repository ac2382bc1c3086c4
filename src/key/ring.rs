//! Every key, in memory: admission costs one hash and one look-up, for strangers too.
//!
//! The ring is complete: it holds all stored keys, so a token that is not in it does not exist, and a negative answer needs
//! neither a database nor a cache of its own that a flood of guesses could fill. Readers take no lock: each of 256 shards is an
//! immutable map behind an atomic pointer. A change copies one shard, so it costs a 256th of the keys, and of changes elsewhere
//! only the keys that changed are read (`read`). A key takes about 700 bytes (a short name, a principal, no labels); 100,000 keys
//! about 70 MB (`memory_per_key_stays_bounded`).

mod held;
mod read;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use super::news::News;
use super::parties::{Parties, leaves_out};
use super::party::{PartyKind, RequestCaps};
use super::token::{HashKey, TokenHash, well_formed};
use super::{Key, KeyState, Suspension};
use crate::unit::clock::Timestamp;

/// Why a caller is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// It is no token: wrong prefix, length or checksum. Nothing was looked up.
    #[error("the text is not a key; check for a typo")]
    Malformed,
    /// There is no such key.
    #[error("the key is unknown")]
    Unknown,
    /// There is no such key in memory, and whether there is one in the store cannot be told at present.
    #[error("the key is unknown here, and the database is away")]
    Unsure,
    /// The key was revoked.
    #[error("the key is revoked")]
    Revoked,
    /// The key is past its expiry.
    #[error("the key is expired")]
    Expired,
    /// The key is switched off.
    #[error("the key is disabled")]
    Disabled,
    /// The key rests, until then if that is settled.
    #[error("the key is suspended")]
    Suspended(Option<Timestamp>),
    /// An org, team or user that the key acts for is switched off.
    #[error("the {} of the key is disabled", .0.as_str())]
    Party(PartyKind),
    /// The key may not be used from there.
    #[error("the key may not be used from this address")]
    Address,
}

type Shard = HashMap<TokenHash, Arc<Key>, BuildHasherDefault<Prefix>>;

/// All keys. Share it with an `Arc`.
pub struct Ring {
    hash_key: HashKey,
    parties: Parties,
    shards: Box<[ArcSwap<Shard>]>,
    keys: AtomicUsize,
    stale: AtomicBool,
    writer: Mutex<Writer>,
    held: held::Held,
}

/// What only changes touch.
#[derive(Default)]
struct Writer {
    /// The token hash by key id.
    hashes: HashMap<Arc<str>, TokenHash>,
    /// Counts single changes, so that a reload notices one that it has not seen.
    changes: u64,
    /// Suspensions that the store does not have yet, by key id.
    held: HashMap<Arc<str>, Suspension>,
    /// The generation that the keys are at least as new as; `None` if all of them have to be read.
    generation: Option<u64>,
    /// Keys that were changed here by what was known here, which may be older than what was read since.
    doubted: HashSet<Arc<str>>,
}

impl Writer {
    fn changed_here(&mut self, id: &str) {
        self.changes += 1;
        self.doubted.insert(id.into());
    }
}

impl Ring {
    /// An empty ring for tokens hashed with that key.
    pub fn new(hash_key: HashKey) -> Self {
        let shards = (0..=u8::MAX).map(|_| ArcSwap::from_pointee(Shard::default())).collect();
        Self {
            hash_key,
            parties: Parties::default(),
            shards,
            keys: AtomicUsize::new(0),
            stale: AtomicBool::new(false),
            writer: Mutex::default(),
            held: held::Held::default(),
        }
    }

    /// Finds the key of a token and whether it may be used from there at that time.
    ///
    /// # Errors
    /// The first of: malformed, unknown, revoked, disabled, expired, suspended, a party that is switched off, address. Costs one
    /// hash and up to four look-ups without lock, allocation or I/O.
    pub fn admit(&self, token: &str, address: Option<IpAddr>, now: Timestamp) -> Result<Arc<Key>, Refusal> {
        if !well_formed(token) {
            return Err(Refusal::Malformed);
        }
        let hash = self.hash_key.hash(token);
        let Some(key) = self.shard(&hash).and_then(|shard| shard.load().get(&hash).cloned()) else {
            return Err(if self.stale.load(Ordering::Relaxed) { Refusal::Unsure } else { Refusal::Unknown });
        };
        match key.state(now) {
            KeyState::Revoked => Err(Refusal::Revoked),
            KeyState::Disabled => Err(Refusal::Disabled),
            KeyState::Expired => Err(Refusal::Expired),
            KeyState::Suspended => Err(Refusal::Suspended(key.suspension.as_ref().and_then(|rest| rest.until))),
            KeyState::Active => match self.parties.refuses(&key.principal) {
                Some(kind) => Err(Refusal::Party(kind)),
                None if !key.allows_address(address) => Err(Refusal::Address),
                None => Ok(key),
            },
        }
    }

    /// Whether what runs with a key may go on running. An expiry does not end it, nor another token in place of the old one.
    ///
    /// # Errors
    /// Unknown (the key is deleted), revoked, disabled, suspended, or a party that is switched off. One look-up without lock,
    /// unless the token was replaced or the key deleted.
    pub fn still_admits(&self, key: &Key, now: Timestamp) -> Result<(), Refusal> {
        let here = self.shard(&key.hash).and_then(|shard| shard.load().get(&key.hash).cloned());
        let Some(key) = here.or_else(|| self.get(&key.id)) else { return Err(Refusal::Unknown) };
        // An expiry must not hide that the key rests as well.
        let ageless = Key { expires_at: None, ..Key::clone(&key) };
        match ageless.state(now) {
            KeyState::Revoked => Err(Refusal::Revoked),
            KeyState::Disabled => Err(Refusal::Disabled),
            KeyState::Suspended => Err(Refusal::Suspended(key.suspension.as_ref().and_then(|rest| rest.until))),
            KeyState::Active | KeyState::Expired => {
                self.parties.refuses(&key.principal).map_or(Ok(()), |kind| Err(Refusal::Party(kind)))
            }
        }
    }

    /// Where changes of keys and of parties are told.
    pub fn news(&self) -> &News {
        self.parties.news()
    }

    /// Those whom keys act for.
    pub fn parties(&self) -> &Parties {
        &self.parties
    }

    /// Whether a key may ask for that model: by its own list and those of its org, team and user.
    pub fn allows_model(&self, key: &Key, model: &str) -> bool {
        key.allows_model(model) && self.parties.allows_model(&key.principal, model)
    }

    /// Whether there is any model that a key may not ask for, by its own list or those of its org, team and user.
    pub fn restricts_models(&self, key: &Key) -> bool {
        leaves_out(&key.models) || self.parties.restricts_models(&key.principal)
    }

    /// The caps on a single request of a key: the smallest of its own and those of its org, team and user.
    pub fn caps(&self, key: &Key) -> RequestCaps {
        self.parties.caps(&key.principal, key.caps)
    }

    /// Replaces all keys by what a store held at that generation or later; without a generation, the next look reads all keys. A
    /// reader sees each single key as before or as after, never without one that is in both.
    pub fn replace_all(&self, keys: Vec<Arc<Key>>, generation: Option<u64>) {
        let mut writer = self.writer();
        writer.generation = generation;
        self.install(&mut writer, keys);
    }

    /// Adds a key, or replaces the one with its id, at once. Call it after the store has taken the key.
    pub fn put(&self, key: Key) {
        let mut writer = self.writer();
        writer.changed_here(&key.id);
        let key = Self::overlaid(&writer.held, Arc::new(key));
        let hash = key.hash;
        let old = writer.hashes.insert(key.id.clone(), hash);
        self.change(&hash, |shard| drop(shard.insert(hash, key)));
        match old {
            // The token was replaced: the old one goes after the new one is there.
            Some(old) if old != hash => self.change(&old, |shard| drop(shard.remove(&old))),
            _ => {}
        }
        self.keys.store(writer.hashes.len(), Ordering::Relaxed);
        self.news().tell();
    }

    /// Removes the key of that id at once; whether there was one. Call it after the store has removed the key.
    pub fn remove(&self, id: &str) -> bool {
        let mut writer = self.writer();
        writer.changed_here(id);
        let Some(hash) = writer.hashes.remove(id) else { return false };
        self.change(&hash, |shard| drop(shard.remove(&hash)));
        self.keys.store(writer.hashes.len(), Ordering::Relaxed);
        self.news().tell();
        true
    }

    /// The key of that id. Takes the writer's lock: for the admin side, not for admission.
    pub fn get(&self, id: &str) -> Option<Arc<Key>> {
        let hash = *self.writer().hashes.get(id)?;
        self.shard(&hash)?.load().get(&hash).cloned()
    }

    /// Says whether the store can be asked for new keys. While it cannot, a key that is not here may be there; and once it can
    /// again, all keys are read, because it may not be the one that it was.
    pub fn set_stale(&self, stale: bool) {
        self.stale.store(stale, Ordering::Relaxed);
        if stale {
            self.writer().generation = None;
        }
    }

    /// How many keys there are, usable or not.
    pub fn len(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn install(&self, writer: &mut Writer, keys: Vec<Arc<Key>>) {
        let mut shards: Vec<Shard> = self.shards.iter().map(|_| Shard::default()).collect();
        writer.hashes = keys.iter().map(|key| (key.id.clone(), key.hash)).collect();
        for key in keys {
            if let Some(shard) = shards.get_mut(shard_of(&key.hash)) {
                shard.insert(key.hash, Self::overlaid(&writer.held, key));
            }
        }
        for (slot, shard) in self.shards.iter().zip(shards) {
            slot.store(Arc::new(shard));
        }
        self.keys.store(writer.hashes.len(), Ordering::Relaxed);
        self.news().tell();
    }

    /// Changes a copy of one shard and puts it in place. The caller holds the writer's lock, so no change is lost.
    fn change(&self, hash: &TokenHash, change: impl FnOnce(&mut Shard)) {
        if let Some(slot) = self.shard(hash) {
            let mut shard = Shard::clone(&slot.load());
            change(&mut shard);
            slot.store(Arc::new(shard));
        }
    }

    fn shard(&self, hash: &TokenHash) -> Option<&ArcSwap<Shard>> {
        self.shards.get(shard_of(hash))
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic cannot leave the maps half changed in a way that matters: each shard is swapped as a whole.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last byte chooses the shard and the first eight the bucket, so that the two are independent.
fn shard_of(hash: &TokenHash) -> usize {
    let [.., last] = hash.0;
    usize::from(last)
}

/// Takes the first eight bytes of a token hash as they are: a keyed hash is uniform, and nobody outside can choose it.
#[derive(Default)]
struct Prefix(u64);

impl Hasher for Prefix {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    // The length that comes before the bytes of an array; it is always the same.
    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests;
