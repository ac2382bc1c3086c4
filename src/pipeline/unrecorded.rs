//! Records that the journal did not take: exchanges that were running when the disk filled up. They wait in memory, within a bound,
//! and are offered again until the disk takes them; of those beyond the bound the journal is told how many there were.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ledger::{Gap, Journal, JournalError, Line, Record};
use crate::unit::clock::Timestamp;

/// The most records that wait: a few MiB. New exchanges are refused as soon as one waits, so these are those that ran.
const LIMIT: usize = 4_096;

/// Records that wait for the journal.
#[derive(Default)]
pub struct Unrecorded(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    records: VecDeque<Record>,
    beyond: u64,
}

impl Unrecorded {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Single calls change it, none of which panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a record that the journal did not take.
    pub fn keep(&self, record: &Record) {
        let mut waiting = self.waiting();
        if waiting.records.len() < LIMIT {
            waiting.records.push_back(record.clone());
        } else {
            waiting.beyond += 1;
        }
    }

    /// Offers what waits to the journal again. Costs a lock where nothing does.
    ///
    /// # Errors
    /// When the journal still does not take it; it goes on waiting.
    pub fn offer(&self, journal: &Journal) -> Result<(), JournalError> {
        let mut waiting = self.waiting();
        while let Some(record) = waiting.records.front() {
            match journal.append_record(record) {
                // These will never be taken.
                Err(JournalError::TooLong { .. } | JournalError::Encode(_)) => waiting.beyond += 1,
                other => drop(other?),
            }
            waiting.records.pop_front();
        }
        if waiting.beyond > 0 {
            let detail = format!("{} exchanges were answered, and their records are lost", waiting.beyond);
            let gap = Gap { at: Timestamp::now(), reason: "journal_refused".to_owned(), detail };
            journal.append(&Line::Gap(gap))?;
            waiting.beyond = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::JournalSettings;
    use crate::ledger::journal::tests::record;

    #[test]
    fn what_the_journal_did_not_take_is_offered_again_and_what_is_lost_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let full = JournalSettings { segment_bytes: 2_000, max_bytes: 10 };
        let journal = Journal::open(folder.path(), full).unwrap();
        let unrecorded = Unrecorded::default();
        for number in 0..LIMIT + 2 {
            let record = record(&format!("/{number}"));
            assert!(journal.append_record(&record).is_err());
            unrecorded.keep(&record);
        }
        assert!(unrecorded.offer(&journal).is_err());
        journal.configure(JournalSettings { segment_bytes: 64 << 20, max_bytes: 512 << 20 });
        unrecorded.offer(&journal).unwrap();
        let bytes = journal.held_bytes();
        unrecorded.offer(&journal).unwrap();
        assert_eq!(journal.held_bytes(), bytes, "nothing comes twice");
        let text: String = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
            .collect();
        assert_eq!(text.matches("\"path\":").count(), LIMIT);
        assert!(text.contains("2 exchanges were answered"));
    }
}
