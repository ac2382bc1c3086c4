//! The public keys that are published, and for how long.
//!
//! A key that signs no more stays until the last permit that it can have signed has expired. So that a crash forgets nothing,
//! a key is written down, with how long its permits are good, before it signs the first; when another key is found in its place
//! the end is reckoned from that moment. An exchange that began before a reload may still sign with the old key for as
//! long as its attempts take; [`GRACE`] is for those.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::kavach::permits::jwk::{Jwk, JwkError, JwkSet};
use crate::unit::clock::Timestamp;

/// How much longer than its last permit is good a key stays: for exchanges that began with it, for clocks, for an old process
/// that drains.
pub const GRACE: Duration = Duration::from_secs(3_600);
/// The most keys that are listed, present ones included. More cannot be rotated in before the oldest have ended.
const MAX_LISTED: usize = 64;

/// Why a list of keys cannot be used: a sentence without its first capital.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// The text is no such list.
    #[error("it is no list of the public keys of permits: {0}")]
    Malformed(String),
    /// A key in it is not what it says.
    #[error(transparent)]
    Key(#[from] JwkError),
    /// Too many keys were rotated in while permits of all of them are good.
    #[error("more than {MAX_LISTED} keys signed permits that are still good; wait until the oldest have expired")]
    TooMany,
}

/// A public key, and until when it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    key: Jwk,
    /// The longest that a permit of it was ever good for.
    ttl: Duration,
    /// When it ends; `None` while it signs.
    until: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    key: Value,
    ttl_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

/// The keys that are published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    listed: Vec<Listed>,
    extra: JwkSet,
}

impl Published {
    /// Reads the list that an earlier start wrote.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(text: &str) -> Result<Self, ListError> {
        let malformed = |text: String| ListError::Malformed(text);
        let rows: Vec<Row> = serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
        let listed = rows.into_iter().map(|row| {
            let key = Jwk::read(&row.key)?.ok_or_else(|| malformed("a key is for something else".to_owned()))?;
            let until = row.until.as_deref().map(Timestamp::parse).transpose().map_err(malformed)?;
            Ok(Listed { key, ttl: Duration::from_millis(row.ttl_ms), until })
        });
        Ok(Self { listed: listed.collect::<Result<_, ListError>>()?, extra: JwkSet::default() })
    }

    /// The list as the next start reads it.
    pub fn to_text(&self) -> String {
        let rows: Vec<Row> = self.listed.iter().map(Listed::row).collect();
        // Keys, numbers and times always serialise.
        serde_json::to_string_pretty(&rows).unwrap_or_default() + "\n"
    }

    /// The list once these keys sign permits that are good for so long, and no others do. Those whose end has come are gone.
    ///
    /// # Errors
    /// [`ListError::TooMany`].
    pub fn turn(&self, signing: &[Jwk], ttl: Duration, now: Timestamp) -> Result<Self, ListError> {
        let before = |key: &Jwk| self.listed.iter().find(|listed| listed.key == *key);
        let present = signing.iter().map(|key| {
            let ttl = before(key).map_or(ttl, |listed| listed.ttl.max(ttl));
            Listed { key: key.clone(), ttl, until: None }
        });
        let past = self.listed.iter().filter(|listed| !signing.contains(&listed.key)).map(|listed| {
            let until = listed.until.unwrap_or_else(|| now.plus(listed.ttl).plus(GRACE));
            Listed { until: Some(until), ..listed.clone() }
        });
        let listed: Vec<Listed> = present.chain(past.filter(|listed| listed.is_good(now))).collect();
        if listed.len() > MAX_LISTED {
            return Err(ListError::TooMany);
        }
        Ok(Self { listed, extra: self.extra.clone() })
    }

    /// With further keys, for as long as the configuration names them.
    #[must_use]
    pub fn with(self, extra: JwkSet) -> Self {
        Self { extra, ..self }
    }

    /// The keys of now: those that sign first, then those that did, then the further ones.
    pub fn set(&self, now: Timestamp) -> JwkSet {
        let mut keys: Vec<Jwk> =
            self.listed.iter().filter(|listed| listed.is_good(now)).map(|listed| listed.key.clone()).collect();
        for key in self.extra.keys() {
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        JwkSet::new(keys)
    }

    /// The set of now as it is served.
    pub fn document(&self, now: Timestamp) -> Bytes {
        self.set(now).to_value().to_string().into()
    }
}

impl Listed {
    fn is_good(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    fn row(&self) -> Row {
        let ttl_ms = u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX);
        Row { key: json!(self.key.to_value()), ttl_ms, until: self.until.map(Timestamp::rfc3339) }
    }
}
