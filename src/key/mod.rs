//! Who is calling: application keys, their principals, and the ring that answers for them from memory.

pub mod admin;
pub mod draft;
pub mod news;
pub mod parties;
pub mod party;
pub mod party_draft;
pub mod rests;
pub mod ring;
pub mod store;
pub mod token;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::key::party::{PartyKind, RequestCaps};
use crate::unit::clock::Timestamp;
use crate::unit::glob::Glob;

/// An application key as stored; the token itself is nowhere, only its keyed hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// `key_` and 26 characters; never changes.
    pub id: Arc<str>,
    /// A name for people; at most 128 characters, not unique.
    pub name: String,
    /// The beginning and the end of the token, as in `marg_live_ab3d…x9k2`, so that people can recognise it.
    pub hint: String,
    /// The keyed BLAKE3 hash of the token. It never leaves the process.
    #[serde(skip)]
    pub hash: token::TokenHash,
    /// Who pays and who asks.
    #[serde(flatten)]
    pub principal: Principal,
    /// Free labels, at most 32 of at most 64 characters (name) and 256 characters (value).
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
    /// Caps on its single requests.
    #[serde(default)]
    pub caps: RequestCaps,
    /// That it rests, if it does or did: a suspension that is over stays here until the next one.
    #[serde(default)]
    pub suspension: Option<Suspension>,
}

/// A rest of a key. It ends by itself, or an operator ends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// When it ends; `None` if an operator has to end it.
    pub until: Option<Timestamp>,
    /// Why, for operators.
    pub reason: Arc<str>,
}

impl Suspension {
    /// Whether it ends later than another one; later than none at all.
    pub fn outlasts(&self, other: Option<&Self>) -> bool {
        other.is_none_or(|other| match (self.until, other.until) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(one), Some(other)) => one > other,
        })
    }
}

/// Who a key acts for. Every part is optional; names are at most 128 characters without control characters.
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

impl Principal {
    /// The name of that part of it.
    pub fn party(&self, kind: PartyKind) -> Option<&Arc<str>> {
        match kind {
            PartyKind::Org => self.org.as_ref(),
            PartyKind::Team => self.team.as_ref(),
            PartyKind::User => self.user.as_ref(),
        }
    }
}

/// What a key is good for at a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyState {
    /// It is admitted.
    Active,
    /// Switched off until somebody switches it on.
    Disabled,
    /// Past its expiry.
    Expired,
    /// Resting, by a policy of the gate.
    Suspended,
    /// Ended for ever.
    Revoked,
}

impl KeyState {
    /// The word for it, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Expired => "expired",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
        }
    }
}

impl Key {
    /// What the key is good for at that time. A key that is several of these is revoked first, then disabled, then expired,
    /// then suspended.
    pub fn state(&self, now: Timestamp) -> KeyState {
        if self.revoked_at.is_some() {
            KeyState::Revoked
        } else if !self.enabled {
            KeyState::Disabled
        } else if self.expires_at.is_some_and(|end| end <= now) {
            KeyState::Expired
        } else if self.suspension.as_ref().is_some_and(|rest| rest.until.is_none_or(|until| until > now)) {
            KeyState::Suspended
        } else {
            KeyState::Active
        }
    }

    /// Whether the key may ask for that model. An empty list allows all.
    pub fn allows_model(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|pattern| pattern.matches(model))
    }

    /// Whether the key may be used from that address. An empty list allows all; a list refuses a caller whose address is not
    /// known. An IPv4 address that arrives as IPv6 (`::ffff:10.0.0.1`) counts as IPv4.
    pub fn allows_address(&self, address: Option<IpAddr>) -> bool {
        if self.addresses.is_empty() {
            return true;
        }
        let Some(address) = address.map(|address| address.to_canonical()) else { return false };
        self.addresses.iter().any(|net| net.contains(&address))
    }
}
