//! Routes kept in the store: made on the admin side, tried after those of the configuration file.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;

use super::config::RouteConfig;
use crate::error::StoreError;
use crate::unit::clock::Timestamp;
use crate::unit::id;

/// The most stored routes; all are held in memory.
pub const MAX_STORED_ROUTES: usize = 10_000;

/// A stored route.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoredRoute {
    /// `rte_` and 26 characters; never changes.
    pub id: Arc<str>,
    /// Its place among the stored routes, from 0 without gaps.
    pub position: i64,
    /// The route itself; whether its targets exist is known only to the route table.
    pub config: RouteConfig,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed; moving it is no change.
    pub updated_at: Timestamp,
}

impl StoredRoute {
    /// A new route with a new id, to be inserted at that place.
    pub fn new(config: RouteConfig, position: i64, now: Timestamp) -> Self {
        Self { id: id::mint("rte").into(), position, config, created_at: now, updated_at: now }
    }
}

/// Where routes are kept. Every write moves the generation on (`KeyStore::generation`), in the same transaction.
///
/// All methods do I/O. All fail with [`StoreError::Away`] when the database cannot be reached and with
/// [`StoreError::Corrupt`] when a row cannot be read.
#[async_trait]
pub trait RouteStore: Send + Sync {
    /// All routes by position; at most [`MAX_STORED_ROUTES`].
    async fn list(&self) -> Result<Vec<StoredRoute>, StoreError>;

    /// The route of that id.
    async fn get(&self, id: &str) -> Result<Option<StoredRoute>, StoreError>;

    /// Stores a new route at its position and moves those at or behind it one back; a position outside the list counts as the
    /// nearer end. Returns it with the position that it got. [`StoreError::Conflict`] when its id is there already, or there are
    /// [`MAX_STORED_ROUTES`].
    async fn insert(&self, route: &StoredRoute) -> Result<StoredRoute, StoreError>;

    /// Replaces the configuration and `updated_at` of a stored route; its position stays. [`StoreError::NotFound`] when there
    /// is no such route.
    async fn update(&self, route: &StoredRoute) -> Result<(), StoreError>;

    /// Removes a route and moves those behind it one forward. [`StoreError::NotFound`] when there is no such route.
    async fn delete(&self, id: &str) -> Result<(), StoreError>;

    /// Puts the routes into that order. [`StoreError::Conflict`] unless every stored route is named exactly once.
    async fn reorder(&self, ids: &[&str]) -> Result<(), StoreError>;
}
