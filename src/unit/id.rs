//! Identifiers.

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::unit::clock::Timestamp;

/// The id of one exchange: a UUID of version 7, so ids sort by time. The same in the response header `x-request-id` (unless
/// the caller sent its own), `x-marg-exchange`, the log, the ledger and the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExchangeId(pub Uuid);

impl ExchangeId {
    /// A new id at the present time.
    pub fn new() -> Self {
        let millis = u64::try_from(Timestamp::now().micros() / 1_000).unwrap_or(0);
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &random_tail()).into_uuid())
    }

    /// The time that it begins with, to the millisecond (RFC 9562 section 5.7).
    pub fn time(self) -> Timestamp {
        let millis = i64::try_from(self.0.as_u128() >> 80).unwrap_or(0);
        Timestamp(millis.saturating_mul(1_000))
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

/// Ten random bytes. Each thread fetches them from the system by the hundred, because one call for each id shows in the cost
/// of an exchange.
fn random_tail() -> [u8; 10] {
    const POOL_BYTES: usize = 1_000;
    thread_local! {
        static POOL: RefCell<(usize, [u8; POOL_BYTES])> = const { RefCell::new((POOL_BYTES, [0; POOL_BYTES])) };
    }
    POOL.with_borrow_mut(|(used, pool)| {
        if *used >= POOL_BYTES {
            if getrandom::fill(pool).is_err() {
                // Without the system's randomness ids fall back on what `uuid` finds.
                return Uuid::now_v7().into_bytes().last_chunk().copied().unwrap_or_default();
            }
            *used = 0;
        }
        let tail = pool.get(*used..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        *used += 10;
        tail
    })
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
