//! Who is calling: application keys, their principals, and the ring that answers for them from memory.

pub mod ring;
pub mod token;

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::unit::clock::Timestamp;
use crate::unit::glob::Glob;

/// An application key as stored; the token itself is nowhere, only its keyed hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// `key_` and 26 characters; never changes.
    pub id: Arc<str>,
    /// A name for people; at most 128 bytes, not unique.
    pub name: String,
    /// The beginning and the end of the token, as in `marg_live_ab3d…x9k2`, so that people can recognise it.
    pub hint: String,
    /// The keyed BLAKE3 hash of the token. It never leaves the process.
    #[serde(skip)]
    pub hash: token::TokenHash,
    /// Who pays and who asks.
    #[serde(flatten)]
    pub principal: Principal,
    /// Free labels, at most 32 of at most 64 bytes (name) and 256 bytes (value).
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The models that it may ask for; empty allows all.
    #[serde(default)]
    pub models: Vec<Glob>,
    /// The addresses that it may be used from; empty allows all.
    #[serde(default)]
    pub addresses: Vec<IpNet>,
    /// Off for a while: refused until it is enabled again.
    pub enabled: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused, if ever.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// When it was revoked; a revoked key never works again.
    #[serde(default)]
    pub revoked_at: Option<Timestamp>,
    /// When its token was last replaced.
    #[serde(default)]
    pub rotated_at: Option<Timestamp>,
}

/// Who a key acts for. Every part is optional; names are at most 128 bytes without control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Principal {
    /// The organisation.
    pub org: Option<Arc<str>>,
    /// The team.
    pub team: Option<Arc<str>>,
    /// The person or service.
    pub user: Option<Arc<str>>,
}
