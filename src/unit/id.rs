//! Identifiers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The id of one exchange: a UUID of version 7, so ids sort by time. The same in the response header `x-request-id` (unless
/// the caller sent its own), `x-marg-exchange`, the log, the ledger and the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExchangeId(pub Uuid);

impl ExchangeId {
    /// A new id at the present time.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl Default for ExchangeId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for ExchangeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(out)
    }
}

impl FromStr for ExchangeId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A new opaque id with a prefix that names its noun, as in `key_01jd3c…`: 26 characters of lower-case base 32 (the
/// alphabet with digits first, RFC 4648 section 7, so that the order of texts is the order of creation) after it.
pub fn mint(prefix: &str) -> String {
    let bytes = Uuid::now_v7().into_bytes();
    format!("{prefix}_{}", data_encoding::BASE32HEX_NOPAD.encode(&bytes).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minted_ids_sort_by_time_of_creation() {
        let ids: Vec<String> = (0..2_000).map(|_| mint("key")).collect();
        assert!(ids.is_sorted());
        assert!(ids.iter().all(|id| id.len() == 30 && id.starts_with("key_")));
    }
}
