//! Records that were just written, as they were before they became JSON.
//!
//! Whoever reads the journal soon after needs not parse what this process has just put into words. The file stays the truth:
//! a record is given only for a line that was read whole, by its id and the checksum of the very bytes, and once. What is not
//! here – after a restart, or when readers are far behind – is parsed (`a_line_reads_the_same_with_and_without_its_record`).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::ledger::record::Record;

/// The most records that are kept, about 8 MB of them. When there are more, readers are behind and all are dropped.
const MOST: usize = 4_096;

/// Larger buffers are not kept.
const KEPT_BYTES: usize = 1024 * 1024;

/// Proof that the line of a record was written: the checksum in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written(pub(super) u32);

/// The records written last, and what reading their lines needs.
#[derive(Default)]
pub(super) struct Recent {
    kept: Mutex<HashMap<Uuid, (Written, Box<Record>)>>,
    /// What the last piece was read into: a new one of that size would be cleared by the system page by page.
    buffer: Mutex<Vec<u8>>,
}

impl Recent {
    /// Keeps a record until its line is read.
    pub(super) fn keep(&self, written: Written, record: Record) {
        let record = Box::new(record);
        let mut kept = self.lock();
        let behind = if kept.len() < MOST { HashMap::new() } else { std::mem::take(&mut *kept) };
        kept.insert(record.id.0, (written, record));
        drop(kept);
        // Two thousand records are freed outside the lock.
        drop(behind);
    }

    /// Gives the record of a line with that checksum, whose JSON begins as those of records do.
    pub(super) fn take(&self, checksum: u32, json: &str) -> Option<Record> {
        let id = json.strip_prefix("{\"id\":\"")?.get(..uuid::fmt::Hyphenated::LENGTH)?;
        let id = Uuid::try_parse(id).ok()?;
        let (written, record) = self.lock().remove(&id)?;
        (written == Written(checksum)).then_some(*record)
    }

    /// Lends bytes to read into, at least so many, with anything in them.
    pub(super) fn lend(&self, length: usize) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut *self.buffer.lock().unwrap_or_else(PoisonError::into_inner));
        if bytes.len() < length {
            bytes.resize(length, 0);
        }
        bytes
    }

    /// Takes them back.
    pub(super) fn take_back(&self, bytes: Vec<u8>) {
        if bytes.len() <= KEPT_BYTES {
            *self.buffer.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, (Written, Box<Record>)>> {
        // The map is changed by single calls that do not panic half-way.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
