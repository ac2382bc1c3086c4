//! Tokens for the admin side, and their roles.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::token::{self, HashKey, Minted, TokenHash, TokenStyle};
use crate::error::{Error, Kind, Result, StoreError};
use crate::unit::clock::Timestamp;
use crate::unit::id;

/// The most admin tokens, ended ones included; all are held in memory.
pub const MAX_ADMIN_TOKENS: usize = 1_000;
/// The longest label, in characters.
pub const MAX_LABEL_CHARS: usize = 128;

/// What the holder of an admin token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Everything, admin tokens included.
    Admin,
    /// Everything but admin tokens.
    Operator,
    /// Reads everything, the record of who did what included; changes nothing.
    Auditor,
    /// Reads what is needed to watch the gateway; changes nothing.
    ReadOnly,
}

impl Role {
    /// All roles, the most powerful first.
    pub const ALL: [Self; 4] = [Self::Admin, Self::Operator, Self::Auditor, Self::ReadOnly];

    /// The word for it, as in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::ReadOnly => "read-only",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|role| role.as_str() == text);
        known.ok_or_else(|| "a role is admin, operator, auditor or read-only".to_owned())
    }
}

/// An admin token as stored; the token itself is nowhere, only its keyed hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdminToken {
    /// `adm_` and 26 characters; never changes.
    pub id: Arc<str>,
    /// Whose it is, for people: 1 to [`MAX_LABEL_CHARS`] characters.
    pub label: String,
    /// What the holder may do.
    pub role: Role,
    /// The beginning and the end of the token.
    pub hint: String,
    /// The keyed BLAKE3 hash of the token. It never leaves the process.
    #[serde(skip)]
    pub hash: TokenHash,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused, if ever.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// When it was revoked; a revoked token never works again.
    #[serde(default)]
    pub revoked_at: Option<Timestamp>,
}

impl AdminToken {
    /// Makes an admin token.
    ///
    /// # Errors
    /// `invalid_request` when the label is empty, too long or holds control characters, or the expiry does not lie ahead;
    /// `internal_error` when the operating system has no random numbers.
    pub fn mint(
        label: &str,
        role: Role,
        expires_at: Option<Timestamp>,
        hash_key: &HashKey,
        now: Timestamp,
    ) -> Result<(Self, Minted)> {
        if label.trim().is_empty() || label.chars().count() > MAX_LABEL_CHARS || label.chars().any(char::is_control) {
            let text = format!("`label` has 1 to {MAX_LABEL_CHARS} characters, none of them a control character.");
            return Err(Error::new(Kind::InvalidRequest, text).param("label"));
        }
        if expires_at.is_some_and(|end| end <= now) {
            return Err(Error::new(Kind::InvalidRequest, "An expiry lies in the future.").param("expires_at"));
        }
        let minted = token::mint(TokenStyle::Admin)?;
        let token = Self {
            id: id::mint("adm").into(),
            label: label.to_owned(),
            role,
            hint: minted.hint.clone(),
            hash: hash_key.hash(minted.token.expose()),
            created_at: now,
            expires_at,
            revoked_at: None,
        };
        Ok((token, minted))
    }

    /// Whether the token is good at that time.
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

/// Where admin tokens are kept. Every write moves the generation on (`KeyStore::generation`), in the same transaction.
///
/// All methods do I/O. All fail with [`StoreError::Away`] when the database cannot be reached and with
/// [`StoreError::Corrupt`] when a row cannot be read.
#[async_trait]
pub trait AdminTokenStore: Send + Sync {
    /// Stores a new token. [`StoreError::Conflict`] when its id or hash is there already, or there are [`MAX_ADMIN_TOKENS`].
    async fn insert(&self, token: &AdminToken) -> Result<(), StoreError>;

    /// Replaces label, role and expiry, and sets a revocation; one that is set stays. [`StoreError::NotFound`] when there is no
    /// such token.
    async fn update(&self, token: &AdminToken) -> Result<(), StoreError>;

    /// Removes a token. [`StoreError::NotFound`] when there is no such token.
    async fn delete(&self, id: &str) -> Result<(), StoreError>;

    /// The token of that id.
    async fn get(&self, id: &str) -> Result<Option<AdminToken>, StoreError>;

    /// The token of that hash, whether it is good or not.
    async fn find(&self, hash: &TokenHash) -> Result<Option<AdminToken>, StoreError>;

    /// All tokens, newest first; at most [`MAX_ADMIN_TOKENS`].
    async fn all(&self) -> Result<Vec<AdminToken>, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    #[test]
    fn a_bad_label_and_a_past_expiry_are_refused_by_name() {
        let hash_key = HashKey::generate().unwrap();
        let field = |label: &str, expires_at| {
            let error = AdminToken::mint(label, Role::Admin, expires_at, &hash_key, NOW).unwrap_err();
            error.field().unwrap().to_owned()
        };
        assert_eq!(field("", None), "label");
        assert_eq!(field(&"x".repeat(129), None), "label");
        assert_eq!(field("a\nb", None), "label");
        assert_eq!(field("ops", Some(NOW)), "expires_at");
    }

    #[test]
    fn a_token_ends_at_its_expiry_or_its_revocation() {
        let hash_key = HashKey::generate().unwrap();
        let end = Timestamp(NOW.0 + 10);
        let (mut token, minted) = AdminToken::mint("ops", Role::ReadOnly, Some(end), &hash_key, NOW).unwrap();
        assert_eq!(token.hash, hash_key.hash(minted.token.expose()));
        assert!(token.is_active(NOW) && !token.is_active(end));
        token.revoked_at = Some(NOW);
        assert!(!token.is_active(NOW));
    }

    #[test]
    fn roles_are_written_in_kebab_case_everywhere() {
        for role in Role::ALL {
            assert_eq!(serde_json::to_string(&role).unwrap(), format!("\"{role}\""));
            assert_eq!(role.as_str().parse::<Role>().unwrap(), role);
        }
        assert!("root".parse::<Role>().is_err());
    }
}
