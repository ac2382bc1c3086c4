//! Records that were just written, as they were before they became JSON.
//!
//! Whoever reads the journal soon after needs not parse what this process has just put into words. The file stays the truth:
//! a record is given only for a line that was read whole, by its id and the checksum of the very bytes, and once. What is not
//! here – after a restart, or when readers are far behind – is parsed (`a_line_reads_the_same_with_and_without_its_record`).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::ledger::record::Record;

/// The most records that are kept, about 4 MB of them. When there are more, readers are behind and all are dropped.
const MOST: usize = 2_048;

/// Proof that the line of a record was written: the checksum in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written(pub(super) u32);

/// The records written last.
#[derive(Default)]
pub(super) struct Recent {
    kept: Mutex<HashMap<Uuid, (Written, Box<Record>)>>,
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

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, (Written, Box<Record>)>> {
        // The map is changed by single calls that do not panic half-way.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
