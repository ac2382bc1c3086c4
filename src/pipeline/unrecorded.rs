//! Records that the journal did not take: exchanges that were running when the disk filled up, and what was turned away since.
//! They wait in memory, within bounds, and are offered again until the disk takes them; of those beyond the bounds the journal is
//! told how many there were. What reached no provider has a bound of its own: callers can make any number of such exchanges while
//! the disk is full, and none may cost the record of one that was answered.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ledger::{Gap, Journal, JournalError, Line, Record};
use crate::unit::clock::Timestamp;

/// The most records of exchanges that reached a provider: a few MiB. New exchanges are refused as soon as one waits, so these are
/// those that ran.
const LIMIT: usize = 4_096;

/// The most records of exchanges that reached no provider. They cost nothing and look much alike; the first ones tell what happened.
const TURNED_AWAY_LIMIT: usize = 1_024;

/// Records that wait for the journal.
#[derive(Default)]
pub struct Unrecorded(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// Exchanges that reached a provider, and so may have cost something.
    ran: Queue,
    /// Those that did not.
    turned_away: Queue,
}

#[derive(Default)]
struct Queue {
    records: VecDeque<Record>,
    /// How many are lost.
    beyond: u64,
}

impl Queue {
    fn keep(&mut self, record: &Record, limit: usize) {
        if self.records.len() < limit {
            self.records.push_back(record.clone());
        } else {
            self.beyond += 1;
        }
    }

    fn offer(&mut self, journal: &Journal) -> Result<(), JournalError> {
        while let Some(record) = self.records.front() {
            match journal.append_record(record) {
                // These will never be taken.
                Err(JournalError::TooLong { .. } | JournalError::Encode(_)) => self.beyond += 1,
                other => drop(other?),
            }
            self.records.pop_front();
        }
        Ok(())
    }
}

impl Unrecorded {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Single calls change it, none of which panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a record that the journal did not take.
    pub fn keep(&self, record: &Record) {
        let mut waiting = self.waiting();
        if record.provider.is_some() || !record.attempts.is_empty() || !record.charges.is_empty() {
            waiting.ran.keep(record, LIMIT);
        } else {
            waiting.turned_away.keep(record, TURNED_AWAY_LIMIT);
        }
    }

    /// Offers what waits to the journal again, what may have cost something first. Costs a lock where nothing waits.
    ///
    /// # Errors
    /// When the journal still does not take it; it goes on waiting.
    pub fn offer(&self, journal: &Journal) -> Result<(), JournalError> {
        let mut waiting = self.waiting();
        waiting.ran.offer(journal)?;
        waiting.turned_away.offer(journal)?;
        let (ran, turned_away) = (waiting.ran.beyond, waiting.turned_away.beyond);
        if ran > 0 || turned_away > 0 {
            let detail = format!(
                "records are lost that the disk did not take: {ran} of exchanges that reached a provider, {turned_away} of others"
            );
            let gap = Gap { at: Timestamp::now(), reason: "journal_refused".to_owned(), detail };
            journal.append(&Line::Gap(gap))?;
            (waiting.ran.beyond, waiting.turned_away.beyond) = (0, 0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::JournalSettings;
    use crate::ledger::journal::tests::record;

    const FULL: JournalSettings = JournalSettings { segment_bytes: 2_000, max_bytes: 10 };
    const ROOMY: JournalSettings = JournalSettings { segment_bytes: 64 << 20, max_bytes: 512 << 20 };

    fn written(folder: &std::path::Path) -> String {
        let files = std::fs::read_dir(folder).unwrap();
        files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect()
    }

    #[test]
    fn what_the_journal_did_not_take_is_offered_again_and_what_is_lost_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path(), FULL).unwrap();
        let unrecorded = Unrecorded::default();
        for number in 0..LIMIT + 2 {
            let record = record(&format!("/{number}"));
            assert!(journal.append_record(&record).is_err());
            unrecorded.keep(&record);
        }
        assert!(unrecorded.offer(&journal).is_err());
        journal.configure(ROOMY);
        unrecorded.offer(&journal).unwrap();
        let bytes = journal.held_bytes();
        unrecorded.offer(&journal).unwrap();
        assert_eq!(journal.held_bytes(), bytes, "nothing comes twice");
        let text = written(folder.path());
        assert_eq!(text.matches("\"path\":").count(), LIMIT);
        assert!(text.contains("2 of exchanges that reached a provider, 0 of others"));
    }

    #[test]
    fn no_number_of_refusals_costs_the_record_of_an_answer() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path(), FULL).unwrap();
        let unrecorded = Unrecorded::default();
        for number in 0..LIMIT + TURNED_AWAY_LIMIT {
            unrecorded.keep(&Record { provider: None, ..record(&format!("/refused/{number}")) });
        }
        unrecorded.keep(&record("/answered"));
        journal.configure(ROOMY);
        unrecorded.offer(&journal).unwrap();
        let text = written(folder.path());
        assert!(text.contains("\"path\":\"/answered\""), "the answer is recorded");
        assert_eq!(text.matches("/refused/").count(), TURNED_AWAY_LIMIT);
        assert!(text.contains("0 of exchanges that reached a provider, 4096 of others"));
    }
}
