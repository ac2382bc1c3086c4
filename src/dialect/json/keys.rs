//! The keys of the objects that a scanner is in, and the search for one that appears twice.

use crate::dialect::json::{Fault, JsonError, Text};

/// The keys of the objects that are open, outermost first.
#[derive(Default)]
pub(super) struct Keys {
    kept: Vec<Key>,
    /// The decoded bytes of keys with escapes.
    decoded: Vec<u8>,
}

/// A key: where its decoded bytes are (`length` has the high bit set if among `Keys::decoded`) and where it stands.
#[derive(Clone, Copy)]
struct Key {
    start: u32,
    length: u32,
    at: u32,
}

/// Up to this many keys are compared one by one; objects with more are sorted when they close.
pub(super) const FEW_KEYS: usize = 24;
const DECODED: u32 = 1 << 31;

/// A position in a document, which `LENGTH_LIMIT` keeps below 2 GiB.
fn short(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

impl Keys {
    pub(super) fn len(&self) -> u32 {
        short(self.kept.len())
    }

    fn bytes<'a>(&'a self, key: Key, document: &'a [u8]) -> &'a [u8] {
        let from = if key.length & DECODED != 0 { self.decoded.as_slice() } else { document };
        let start = key.start as usize;
        from.get(start..start + (key.length & !DECODED) as usize).unwrap_or_default()
    }

    /// Keeps a key of the innermost object; if that object has few keys, compares it with them.
    #[inline]
    pub(super) fn add(&mut self, first: u32, text: Text, document: &[u8]) -> Result<(), JsonError> {
        let at = short(text.start);
        let mut key = Key { start: at, length: short(text.end - text.start), at };
        if text.escaped {
            key.start = short(self.decoded.len());
            self.decoded.extend_from_slice(text.decode(document).as_bytes());
            key.length = (short(self.decoded.len()) - key.start) | DECODED;
        }
        let siblings = self.kept.get(first as usize..).unwrap_or_default();
        if siblings.len() < FEW_KEYS {
            let bytes = self.bytes(key, document);
            if siblings.iter().any(|other| self.bytes(*other, document) == bytes) {
                return Err(twice(bytes, key));
            }
        }
        self.kept.push(key);
        Ok(())
    }

    /// Forgets the keys of the innermost object, after comparing them all if they are many.
    #[inline]
    pub(super) fn close(&mut self, first: u32, document: &[u8]) -> Result<(), JsonError> {
        let siblings = self.kept.get(first as usize..).unwrap_or_default();
        if siblings.len() > FEW_KEYS {
            self.compare_all(siblings, document)?;
        }
        if let Some(key) = siblings.iter().find(|key| key.length & DECODED != 0) {
            self.decoded.truncate(key.start as usize);
        }
        self.kept.truncate(first as usize);
        Ok(())
    }

    /// Sorts by hash, then by bytes: however the hashes collide, time stays `n log n`, so the hash needs no secret.
    #[cold]
    fn compare_all(&self, siblings: &[Key], document: &[u8]) -> Result<(), JsonError> {
        let mut order: Vec<(u64, Key)> = siblings.iter().map(|key| (hash(self.bytes(*key, document)), *key)).collect();
        order.sort_unstable_by(|(left_hash, left), (right_hash, right)| {
            left_hash
                .cmp(right_hash)
                .then_with(|| self.bytes(*left, document).cmp(self.bytes(*right, document)))
                .then_with(|| left.at.cmp(&right.at))
        });
        let again = order.windows(2).filter_map(|pair| match pair {
            [(a, left), (b, right)] if a == b && self.bytes(*left, document) == self.bytes(*right, document) => {
                Some(*right)
            }
            _ => None,
        });
        match again.min_by_key(|key| key.at) {
            Some(key) => Err(twice(self.bytes(key, document), key)),
            None => Ok(()),
        }
    }
}

/// FNV-1a, 64 bits.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cold]
fn twice(bytes: &[u8], key: Key) -> JsonError {
    let name = String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(64).collect();
    // The span begins behind the quote; the sentence points at the quote.
    JsonError { offset: (key.at as usize).saturating_sub(1), fault: Fault::TwiceKey(name) }
}
