//! What limits need from storage.

use async_trait::async_trait;

use super::limit::Limit;
use crate::error::StoreError;

/// The most stored limits; all are held in memory.
pub const MAX_STORED_LIMITS: usize = 100_000;

/// Where limits are kept. Every write moves the generation on (`KeyStore::generation`), in the same transaction.
///
/// All methods do I/O. All fail with [`StoreError::Away`] when the database cannot be reached and with
/// [`StoreError::Corrupt`] when a row cannot be read.
#[async_trait]
pub trait LimitStore: Send + Sync {
    /// All limits by id.
    async fn list(&self) -> Result<Vec<Limit>, StoreError>;

    /// The limit of that id.
    async fn get(&self, id: &str) -> Result<Option<Limit>, StoreError>;

    /// Stores a new limit. [`StoreError::Conflict`] when its id is there already, or there are [`MAX_STORED_LIMITS`].
    async fn insert(&self, limit: &Limit) -> Result<(), StoreError>;

    /// Replaces a stored limit. [`StoreError::NotFound`] when there is none of that id.
    async fn update(&self, limit: &Limit) -> Result<(), StoreError>;

    /// Removes a limit. [`StoreError::NotFound`] when there is none of that id.
    async fn delete(&self, id: &str) -> Result<(), StoreError>;
}
