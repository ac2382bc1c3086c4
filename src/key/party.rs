//! Organisations, teams and users: those whom keys act for.
//!
//! A key names its org, team and user by name (`key::Principal`). A name without a row is as good as one with an empty row; a row
//! adds a description, an off switch, models, and caps on single requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::unit::clock::Timestamp;
use crate::unit::glob::Glob;

/// What a party is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PartyKind {
    /// An organisation.
    Org,
    /// A team.
    Team,
    /// A person or service.
    User,
}

impl PartyKind {
    /// All of them, the widest first.
    pub const ALL: [Self; 3] = [Self::Org, Self::Team, Self::User];

    /// The word for it, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Org => "org",
            Self::Team => "team",
            Self::User => "user",
        }
    }
}

/// The most orgs, teams and users together; all are held in memory.
pub const MAX_PARTIES: usize = 100_000;

/// Caps on single requests. Where several parties and the key have one, the smallest counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct RequestCaps {
    /// The most input tokens of one request, as estimated before it is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_input_tokens: Option<u64>,
    /// The most output tokens that one request may ask for; larger wishes are refused, and this is asked for where the caller
    /// names no ceiling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
}

impl RequestCaps {
    /// No caps at all.
    pub const NONE: Self = Self { max_input_tokens: None, max_output_tokens: None };

    /// These caps, and others where there are none.
    pub fn or(self, other: Self) -> Self {
        Self {
            max_input_tokens: self.max_input_tokens.or(other.max_input_tokens),
            max_output_tokens: self.max_output_tokens.or(other.max_output_tokens),
        }
    }

    /// The smaller of both, cap by cap.
    pub fn smallest(self, other: Self) -> Self {
        let least = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Self {
            max_input_tokens: least(self.max_input_tokens, other.max_input_tokens),
            max_output_tokens: least(self.max_output_tokens, other.max_output_tokens),
        }
    }
}

/// An org, a team or a user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Party {
    /// What it is.
    pub kind: PartyKind,
    /// Its name, as keys give it; at most 128 characters without control characters; unique within its kind.
    pub name: Arc<str>,
    /// The org that a team or user belongs to, the team that a user belongs to: for people to read, not for admission.
    #[serde(default)]
    pub org: Option<Arc<str>>,
    /// The team that a user belongs to.
    #[serde(default)]
    pub team: Option<Arc<str>>,
    /// What it is for; at most 1,024 characters.
    #[serde(default)]
    pub description: String,
    /// Free labels, as for keys.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The models that its keys may ask for, besides what the key itself allows; empty allows all.
    #[serde(default)]
    pub models: Vec<Glob>,
    /// Caps on single requests.
    #[serde(default)]
    pub caps: RequestCaps,
    /// Off: every key of it is refused.
    pub enabled: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// Where parties are kept. Every write moves the generation on (`KeyStore::generation`), in the same transaction.
///
/// All methods do I/O. All fail with [`StoreError::Away`] when the database cannot be reached and with
/// [`StoreError::Corrupt`] when a row cannot be read.
#[async_trait]
pub trait PartyStore: Send + Sync {
    /// All parties of a kind, or all, by kind and name.
    async fn list(&self, kind: Option<PartyKind>) -> Result<Vec<Party>, StoreError>;

    /// The party of that name.
    async fn get(&self, kind: PartyKind, name: &str) -> Result<Option<Party>, StoreError>;

    /// Stores a new party. [`StoreError::Conflict`] when its name is there already, or there are [`MAX_PARTIES`].
    async fn insert(&self, party: &Party) -> Result<(), StoreError>;

    /// Replaces a stored party. [`StoreError::NotFound`] when there is none of that name.
    async fn update(&self, party: &Party) -> Result<(), StoreError>;

    /// Removes a party; its keys keep its name. [`StoreError::NotFound`] when there is none of that name.
    async fn delete(&self, kind: PartyKind, name: &str) -> Result<(), StoreError>;
}
