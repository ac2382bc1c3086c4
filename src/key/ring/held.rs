//! Suspensions that a policy ordered here and that the store does not have yet.
//!
//! They lie over whatever is read from the store, so that no reading ends one before the store has it, and, where a folder is
//! given, on the disk ([`Rests`]).

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Mutex, MutexGuard, Notify};

use super::{Ring, Writer};
use crate::key::rests::Rests;
use crate::key::{Key, Suspension};

/// What the ring needs for them beside its writer's lock.
#[derive(Default)]
pub(super) struct Held {
    files: OnceLock<Rests>,
    /// One of them could not be written to its file.
    lacks_file: AtomicBool,
    due: Notify,
    turn: Mutex<()>,
}

impl Ring {
    /// Keeps suspensions that the store does not have in that folder from now on, and takes over those that are there. Call it
    /// before the keys are read and before anybody is admitted.
    ///
    /// # Errors
    /// When the folder cannot be made or listed.
    pub fn keep_suspensions_in(&self, folder: &Path) -> io::Result<()> {
        let (files, found) = Rests::open(folder)?;
        let mut writer = self.writer();
        for (key, rest) in found {
            self.lay_over(&mut writer, &key, rest);
        }
        // Whoever puts a ring together does it once.
        self.held.files.get_or_init(|| files);
        Ok(())
    }

    /// Suspends the key of that id at once and until [`Ring::is_stored`] says that the store has it; one that lasts longer than
    /// the present one, or else the present one stays. It is on the disk when this returns, if a folder was given.
    ///
    /// # Errors
    /// When it could not be written to the disk; it holds in this process all the same.
    pub fn suspend(&self, id: &Arc<str>, suspension: Suspension) -> io::Result<()> {
        // Taken before the disk is touched: whoever comes meanwhile is refused already.
        if !self.lay_over(&mut self.writer(), id, suspension.clone()) {
            return Ok(());
        }
        let kept = self.held.files.get().map_or(Ok(()), |files| files.keep(id, &suspension));
        if kept.is_err() {
            self.held.lacks_file.store(true, Ordering::Release);
        }
        self.held.due.notify_one();
        kept
    }

    /// Writes to the disk what could not be written when it was ordered: the disk may have room again before the store is back. Call
    /// it in the turn of suspensions. Costs a load where nothing is lacking, else some milliseconds for each.
    ///
    /// # Errors
    /// When the disk still does not take it; the next call tries again.
    pub fn write_lacking_suspensions(&self) -> io::Result<()> {
        let Some(files) = self.held.files.get().filter(|_| self.held.lacks_file.swap(false, Ordering::AcqRel)) else {
            return Ok(());
        };
        let written = self.unstored().iter().try_for_each(|(key, rest)| {
            files.keep(key, rest)?;
            // Whoever ordered a longer one meanwhile may have written it before.
            if self.writer().held.get(key).is_some_and(|present| present != rest) {
                self.held.lacks_file.store(true, Ordering::Release);
            }
            Ok(())
        });
        if written.is_err() {
            self.held.lacks_file.store(true, Ordering::Release);
        }
        written
    }

    /// What the store has to be told: keys' ids and their suspensions.
    pub fn unstored(&self) -> Vec<(Arc<str>, Suspension)> {
        self.writer().held.iter().map(|(key, rest)| (Arc::clone(key), rest.clone())).collect()
    }

    /// Returns when there may be more to tell the store.
    pub async fn suspension_is_due(&self) {
        self.held.due.notified().await;
    }

    /// Only one at a time tells the store of suspensions or of their end, or the one could overtake the other on its way.
    pub async fn turn_of_suspensions(&self) -> MutexGuard<'_, ()> {
        self.held.turn.lock().await
    }

    /// The store has that suspension of a key: what it says counts again.
    pub fn is_stored(&self, id: &str, suspension: &Suspension) {
        let mut writer = self.writer();
        if writer.held.get(id) == Some(suspension) {
            // Keys that were read before the store had it are read again.
            writer.changed_here(id);
            writer.held.remove(id);
        }
        self.forget_file(id, Some(suspension));
    }

    /// An operator released a key, and the store has that: what was still to be told of it is not told any more. Puts the key as
    /// the store has it now.
    pub fn release(&self, key: Key) {
        self.writer().held.remove(&key.id);
        self.forget_file(&key.id, None);
        self.put(key);
    }

    /// A key as it is in force: with the suspension that the store does not have yet, if that lasts longer than its own.
    pub(super) fn overlaid(held: &HashMap<Arc<str>, Suspension>, key: Arc<Key>) -> Arc<Key> {
        match held.get(&key.id) {
            Some(rest) if rest.outlasts(key.suspension.as_ref()) => {
                Arc::new(Key { suspension: Some(rest.clone()), ..Key::clone(&key) })
            }
            _ => key,
        }
    }

    /// Whether it lasts longer than the one that was laid over the key before.
    fn lay_over(&self, writer: &mut Writer, id: &Arc<str>, suspension: Suspension) -> bool {
        if !suspension.outlasts(writer.held.get(id)) {
            return false;
        }
        writer.changes += 1;
        writer.held.insert(Arc::clone(id), suspension);
        if let Some(hash) = writer.hashes.get(id).copied() {
            self.change(&hash, |shard| {
                if let Some(key) = shard.get_mut(&hash) {
                    *key = Self::overlaid(&writer.held, Arc::clone(key));
                }
            });
            self.news().tell();
        }
        true
    }

    fn forget_file(&self, id: &str, suspension: Option<&Suspension>) {
        let forgotten = self.held.files.get().map_or(Ok(()), |files| files.forget(id, suspension));
        if let Err(error) = forgotten {
            tracing::error!(%error, key = id, "the file of a suspension stays; a restart would suspend the key again");
        }
    }
}
