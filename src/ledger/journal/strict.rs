//! The strict mode: a line is on the disk when its append returns, so that a loss of power costs nothing that was answered.
//!
//! Whoever appends waits for the disk, and so does its worker thread, as an answer's last byte waits for it. Appends of several
//! threads share one order to the disk: who comes while one is under way waits for the next, and that covers all who waited
//! (`appends_at_one_time_share_an_order_to_the_disk`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Journal, JournalError};

/// What the strict mode remembers.
#[derive(Debug, Default)]
pub(super) struct Strict {
    on: AtomicBool,
    /// How many of the bytes that ever came in are forced to the disk.
    forced: Mutex<u64>,
}

impl Journal {
    /// Switches the strict mode on or off.
    pub fn set_strict(&self, on: bool) {
        self.strict.on.store(on, Ordering::Relaxed);
    }

    /// In the strict mode, forces what came in so far to the disk, unless somebody else just did.
    ///
    /// # Errors
    /// [`JournalError::Disk`]; the line is with the operating system, but may not be on the disk.
    pub(super) fn force(&self) -> Result<(), JournalError> {
        if !self.strict.on.load(Ordering::Relaxed) {
            return Ok(());
        }
        let wanted = self.arrived.load(Ordering::SeqCst);
        let mut forced = self.strict.forced.lock().unwrap_or_else(PoisonError::into_inner);
        if *forced >= wanted {
            return Ok(());
        }
        let up_to = self.arrived.load(Ordering::SeqCst);
        self.sync().map_err(JournalError::Disk)?;
        *forced = up_to;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ROOMY, frame, line};
    use super::*;

    #[test]
    fn a_strict_append_leaves_nothing_to_force() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path(), ROOMY).unwrap();
        journal.append(&line("/x")).unwrap();
        assert!(journal.needs_sync());
        journal.set_strict(true);
        for _ in 0..3 {
            journal.append(&line("/x")).unwrap();
            assert!(!journal.needs_sync());
        }
        journal.set_strict(false);
        journal.append(&line("/x")).unwrap();
        assert!(journal.needs_sync());
    }

    #[test]
    fn appends_at_one_time_share_an_order_to_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path(), ROOMY).unwrap();
        journal.set_strict(true);
        // While the order is under way, all the others come in and wait.
        let under_way = journal.strict.forced.lock().unwrap();
        std::thread::scope(|scope| {
            let appends: Vec<_> = (0..8).map(|_| scope.spawn(|| journal.append(&line("/x")).unwrap())).collect();
            let all = 8 * frame(&line("/x")).len() as u64;
            while journal.arrived.load(Ordering::SeqCst) < all {
                std::thread::yield_now();
            }
            drop(under_way);
            appends.into_iter().for_each(|append| append.join().unwrap());
        });
        assert!(!journal.needs_sync());
        assert_eq!(*journal.strict.forced.lock().unwrap(), journal.arrived.load(Ordering::SeqCst));
    }
}
