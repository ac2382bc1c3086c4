//! Lines that the disk did not take: of exchanges that were running when it filled up, and of what was turned away since. They wait
//! in memory, within bounds, and are offered again until the disk takes them; of those beyond the bounds the journal is told how
//! many there were. What reached no provider has a bound of its own: callers can make any number of such exchanges while the disk
//! is full, and none may cost the record of one that was answered. A crash loses what waits.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Gap, Journal, JournalError, Line};
use crate::unit::clock::Timestamp;

/// The most lines of exchanges that reached a provider, and of what else happened: a few MiB. New exchanges are refused as soon as
/// one waits, so these are those that ran.
const LIMIT: usize = 4_096;

/// The most records of exchanges that reached no provider. They cost nothing and look much alike; the first ones tell what happened.
const TURNED_AWAY_LIMIT: usize = 1_024;

/// Lines that wait for the disk.
#[derive(Default)]
pub(super) struct Waiting(Mutex<Queues>);

#[derive(Default)]
struct Queues {
    /// Exchanges that reached a provider, and so may have cost something, what became known of them, and events.
    happened: Queue,
    /// Exchanges that did not.
    turned_away: Queue,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Line>,
    /// How many are lost.
    beyond: u64,
}

impl Queue {
    fn keep(&mut self, line: Line, limit: usize) {
        if self.lines.len() < limit {
            self.lines.push_back(line);
        } else {
            self.beyond += 1;
        }
    }

    fn offer(&mut self, journal: &Journal) -> Result<(), JournalError> {
        while let Some(line) = self.lines.front() {
            match journal.append(line) {
                // These will never be taken.
                Err(JournalError::TooLong { .. } | JournalError::Encode(_)) => self.beyond += 1,
                other => other?,
            }
            self.lines.pop_front();
        }
        Ok(())
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        // Single calls change it, none of which panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal {
    /// Keeps a line that was not taken, for [`Journal::offer_kept`].
    pub fn keep_for_later(&self, line: Line) {
        let mut waiting = self.waiting.lock();
        let turned_away = line
            .record()
            .is_some_and(|record| record.provider.is_none() && record.attempts.is_empty() && record.charges.is_empty());
        if turned_away {
            waiting.turned_away.keep(line, TURNED_AWAY_LIMIT);
        } else {
            waiting.happened.keep(line, LIMIT);
        }
    }

    /// Appends a line, or keeps it until the disk takes it: for lines whose writer has nobody to refuse. While others wait it stands
    /// in line behind them, so an amendment never comes before its record. Costs a lock beside [`Journal::append`].
    ///
    /// # Errors
    /// Why it is not written yet. A line that is too long never will be.
    pub fn append_or_keep(&self, line: Line) -> Result<(), JournalError> {
        let mut waiting = self.waiting.lock();
        if !waiting.happened.lines.is_empty() {
            waiting.happened.keep(line, LIMIT);
            return Ok(());
        }
        let done = self.append(&line);
        if let Err(JournalError::Full { .. } | JournalError::Disk(_)) = &done {
            waiting.happened.keep(line, LIMIT);
        }
        done
    }

    /// Offers what waits to the disk again, what may have cost something first. Costs a lock where nothing waits.
    ///
    /// # Errors
    /// When the disk still does not take it; it goes on waiting.
    pub fn offer_kept(&self) -> Result<(), JournalError> {
        let mut waiting = self.waiting.lock();
        waiting.happened.offer(self)?;
        waiting.turned_away.offer(self)?;
        let (happened, turned_away) = (waiting.happened.beyond, waiting.turned_away.beyond);
        if happened > 0 || turned_away > 0 {
            let detail = format!(
                "lines are lost that the disk did not take: {happened} of exchanges that reached a provider or of what else \
                 happened, {turned_away} of exchanges that reached none"
            );
            let gap = Gap { at: Timestamp::now(), reason: "journal_refused".to_owned(), detail };
            self.append(&Line::Gap(gap))?;
            (waiting.happened.beyond, waiting.turned_away.beyond) = (0, 0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{read_all, record};
    use super::*;
    use crate::ledger::record::{Amendment, Record};
    use crate::ledger::{JournalSettings, journal};
    use crate::unit::usage::{Usage, UsageSource};

    const FULL: JournalSettings = JournalSettings { segment_bytes: 2_000, max_bytes: 10 };

    /// A journal that takes nothing.
    fn full() -> (tempfile::TempDir, Journal) {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path(), FULL).unwrap();
        (folder, journal)
    }

    fn make_room(journal: &Journal) {
        journal.configure(JournalSettings { segment_bytes: 64 << 20, max_bytes: 512 << 20 });
        journal.offer_kept().unwrap();
    }

    /// All that is there, gaps included, as text.
    fn written(folder: &std::path::Path) -> String {
        let files = std::fs::read_dir(folder).unwrap();
        files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect()
    }

    #[test]
    fn what_the_journal_did_not_take_is_offered_again_and_what_is_lost_is_told() {
        let (folder, journal) = full();
        for number in 0..LIMIT + 2 {
            let record = record(&format!("/{number}"));
            assert!(journal.append_record(&record).is_err());
            journal.keep_for_later(Line::Record(record));
        }
        assert!(journal.offer_kept().is_err());
        make_room(&journal);
        let bytes = journal.held_bytes();
        journal.offer_kept().unwrap();
        assert_eq!(journal.held_bytes(), bytes, "nothing comes twice");
        let text = written(folder.path());
        assert_eq!(text.matches("\"path\":").count(), LIMIT);
        assert!(text.contains("2 of exchanges that reached a provider or"), "what is lost is told");
    }

    #[test]
    fn no_number_of_refusals_costs_the_record_of_an_answer() {
        let (folder, journal) = full();
        for number in 0..LIMIT + TURNED_AWAY_LIMIT {
            let refused = Record { provider: None, ..record(&format!("/refused/{number}")) };
            journal.keep_for_later(Line::Record(refused));
        }
        journal.keep_for_later(Line::Record(record("/answered")));
        make_room(&journal);
        let text = written(folder.path());
        assert!(text.contains("\"path\":\"/answered\""), "the answer is recorded");
        assert_eq!(text.matches("/refused/").count(), TURNED_AWAY_LIMIT);
        assert!(text.contains("4096 of exchanges that reached none"), "those that are lost are told as what they are");
    }

    #[test]
    fn an_amendment_that_the_disk_did_not_take_comes_behind_its_record() {
        let (_folder, journal) = full();
        let record = record("/x");
        let amendment = Amendment {
            id: record.id,
            usage: Usage::default(),
            usage_source: UsageSource::Estimated,
            cost: None,
            price: None,
            charges: Vec::new(),
            correction: None,
        };
        journal.keep_for_later(Line::Record(record.clone()));
        journal.append_or_keep(Line::Amend(amendment.clone())).unwrap();
        // The disk has room again before what waits was offered.
        journal.configure(journal::tests::ROOMY);
        journal.append_or_keep(Line::Amend(amendment.clone())).unwrap();
        assert_eq!(read_all(&journal).0, [], "all stand in line");
        journal.offer_kept().unwrap();
        let amend = Line::Amend(amendment);
        assert_eq!(read_all(&journal).0, [Line::Record(record), amend.clone(), amend.clone()]);
        journal.configure(FULL);
        assert!(journal.append_or_keep(amend.clone()).is_err());
        journal.configure(journal::tests::ROOMY);
        journal.offer_kept().unwrap();
        assert_eq!(read_all(&journal).0.len(), 4, "the first in line is kept, too");
        journal.append_or_keep(amend.clone()).unwrap();
        assert_eq!(read_all(&journal).0.last(), Some(&amend), "nothing waits any more");
    }
}
