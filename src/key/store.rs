//! What keys need from storage.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Key, KeyState, Suspension};
use crate::error::StoreError;
use crate::unit::clock::Timestamp;

/// Which keys are meant; everything given must match, nothing given matches all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeyFilter {
    /// The organisation, exactly.
    pub org: Option<String>,
    /// The team, exactly.
    pub team: Option<String>,
    /// The user, exactly.
    pub user: Option<String>,
    /// A part of the name, in any case of ASCII letters.
    pub name: Option<String>,
    /// A label with exactly that name and value.
    pub label: Option<(String, String)>,
    /// What it is good for at that time.
    pub state: Option<(KeyState, Timestamp)>,
}

/// A piece of a list: what comes after an item, and how much of it.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyPage {
    /// The id of the last key of the piece before; `None` starts with the newest.
    pub after: Option<String>,
    /// The most keys; values outside 1 to 1,000 count as the nearer end.
    pub limit: usize,
}

impl Default for KeyPage {
    fn default() -> Self {
        Self { after: None, limit: 100 }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyList {
    /// The keys, newest first.
    pub keys: Vec<Key>,
    /// What to pass as `after` for the rest; `None` when this is the end.
    pub next: Option<String>,
}

/// What happened to keys. One that was made and deleted meanwhile is at most among those that are gone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeyChanges {
    /// Those that were made or changed, as they are now, in no particular order; one may be there twice, the later counts.
    pub keys: Vec<Key>,
    /// The ids of those that were deleted.
    pub gone: Vec<Arc<str>>,
}

/// Where keys are kept. Every write also moves the generation on, in the same transaction.
///
/// All methods do I/O. All fail with [`StoreError::Away`] when the database cannot be reached and with
/// [`StoreError::Corrupt`] when a row cannot be read.
#[async_trait]
pub trait KeyStore: Send + Sync {
    /// Stores a new key. [`StoreError::Conflict`] when its id or its token hash is there already.
    async fn insert(&self, key: &Key) -> Result<(), StoreError>;

    /// Lets a key rest, or ends its rest; a rest never shortens one that lasts longer. [`StoreError::NotFound`] when there is no
    /// such key, or it rests for longer already.
    async fn suspend(&self, id: &str, suspension: Option<&Suspension>) -> Result<(), StoreError>;

    /// Replaces the fields of a stored key, its rest apart. Two things only move forward, so that a writer with an old copy cannot undo them:
    /// a revocation stays, and the token with the latest `rotated_at` stays. [`StoreError::NotFound`] when there is no such key.
    async fn update(&self, key: &Key) -> Result<(), StoreError>;

    /// Removes a key. [`StoreError::NotFound`] when there is no such key.
    async fn delete(&self, id: &str) -> Result<(), StoreError>;

    /// The key of that id.
    async fn get(&self, id: &str) -> Result<Option<Key>, StoreError>;

    /// A piece of the keys that match, newest first.
    async fn list(&self, filter: &KeyFilter, page: &KeyPage) -> Result<KeyList, StoreError>;

    /// How many keys match. Unless the store can count, this reads them page by page.
    async fn count(&self, filter: &KeyFilter) -> Result<u64, StoreError> {
        let (mut count, mut page) = (0_u64, KeyPage { after: None, limit: 1_000 });
        loop {
            let found = self.list(filter, &page).await?;
            count += found.keys.len() as u64;
            match found.next {
                Some(next) => page.after = Some(next),
                None => return Ok(count),
            }
        }
    }

    /// All keys, in no particular order, as the ring holds them: a key takes some 300 bytes beside its texts, so a second copy of
    /// a hundred thousand would take 30 MB.
    async fn all(&self) -> Result<Vec<Arc<Key>>, StoreError>;

    /// What was written after that generation; `None` if the store cannot tell: then [`KeyStore::all`] says what is. Costs as
    /// much as what changed.
    async fn changed_after(&self, generation: u64) -> Result<Option<KeyChanges>, StoreError>;

    /// A number that grows with every write of a key, a stored route or an admin token, by whatever process. Whoever keeps such
    /// rows in memory reads it once a second (it costs one look-up) and reads the rows again when it differs.
    async fn generation(&self) -> Result<u64, StoreError>;
}
