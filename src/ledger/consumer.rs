//! Who takes the journal's lines besides the ledger's database: an authority over limits that lives elsewhere, the audit log.

use async_trait::async_trait;

use super::journal::Line;
use super::query::Position;
use crate::error::StoreError;

/// Takes every line of the journal exactly once: it keeps its own position in each segment, together with what it made of the
/// lines. A segment is deleted when the ledger and every consumer have passed its end, so a consumer that is away makes the
/// journal wait, within its bound.
#[async_trait]
pub trait Consumer: Send + Sync {
    /// What it is, for logs, metrics and `/ready`: one word.
    fn name(&self) -> &'static str;

    /// How far that segment has come; 0 if it is not known.
    async fn position(&self, segment: &str) -> Result<u64, StoreError>;

    /// Takes the lines and the new position: all or nothing, and never twice.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the kept position is not `position.from`; [`StoreError::Away`] to be asked again later.
    async fn take(&self, lines: &[Line], position: &Position) -> Result<(), StoreError>;

    /// Makes what was taken so far survive a loss of power, so that the journal may forget it.
    async fn sync(&self) -> Result<(), StoreError>;

    /// The names of the segments that have a position.
    async fn segments(&self) -> Result<Vec<String>, StoreError>;

    /// Forgets the position of a segment that no longer exists. Not an error if there is none.
    async fn forget(&self, segment: &str) -> Result<(), StoreError>;
}
