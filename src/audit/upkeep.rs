//! What is done to a log beside its tree: the last entries are kept, salts erased, entries past their retention deleted, rotations
//! listed.

use std::io;
use std::path::Path;

use crate::audit::disk;
use crate::audit::entry::{Actor, Entry, Event, Noun};
use crate::audit::index::{self, Seen};
use crate::audit::log::{LogError, Writer};
use crate::audit::receipt;
use crate::audit::rotation;
use crate::audit::salts;
use crate::audit::tail::{LOG, OPEN, Taken};
use crate::audit::tiles::{self, Row, WIDTH};
use crate::unit::clock::Timestamp;
use crate::unit::version::VERSION;

impl Writer {
    /// Keeps the entries of the unfinished bundle; gives its number and how long they are. Those that are committed stay as they are,
    /// and those of the bundle before are in a full one, so a crash in the middle finds one of the two.
    ///
    /// # Errors
    /// When the disk refuses; the next call writes all of them.
    pub(super) fn keep_open(&mut self) -> Result<(u64, usize), LogError> {
        let number = self.tail.tree().size() / WIDTH;
        let from = self.open.take().filter(|(kept, _)| *kept == number).map_or(0, |(_, length)| length);
        let bundle = self.tail.bundle();
        let new = bundle.get(from..).unwrap_or_default();
        if !new.is_empty() {
            disk::put_at(self.disk.as_ref(), &self.folder.join(OPEN), from as u64, new).map_err(LogError::Disk)?;
        }
        Ok((number, bundle.len()))
    }

    /// Writes the file of the unfinished bundle's entries anew, without what stands behind them.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) fn tidy_open(&mut self) -> Result<(), LogError> {
        self.put(&[(self.folder.join(OPEN), self.tail.bundle())])
    }

    /// Replaces one of the signed notes that are served.
    ///
    /// # Errors
    /// When the disk refuses; the note is the one before, or the new one.
    pub(super) fn replace(&self, name: &str, note: &str) -> Result<(), LogError> {
        let path = self.folder.join(LOG).join(name);
        disk::replace(self.disk.as_ref(), &self.folder.join("tmp"), (&path, note.as_bytes())).map_err(LogError::Disk)
    }

    /// Writes the list of rotations, if it is not whole; their entries are still there, as pruning waits for this.
    ///
    /// # Errors
    /// When the disk refuses or an entry cannot be read.
    pub(super) fn write_rotations(&mut self) -> Result<(), LogError> {
        let log = self.folder.join(LOG);
        let mut notes = rotation::load(&log).map_err(LogError::Disk)?;
        if notes.len() >= self.state.rotations.len() {
            return Ok(());
        }
        for index in self.state.rotations.iter().skip(notes.len()) {
            let text = receipt::entry(&log, *index, self.state.size)?;
            let seen = Seen::parse(text.as_bytes()).ok().and_then(|seen| seen.note);
            let note = seen.ok_or_else(|| LogError::Contradiction(format!("entry {index} is no rotation")))?;
            notes.push(note.into_owned());
        }
        let text = serde_json::to_vec_pretty(&notes).map_err(|error| LogError::Disk(error.into()))?;
        self.put(&[(log.join(rotation::FILE), text.as_slice())])
    }

    /// Notes in the log that another version of the program writes it from here on, if that is so. On the disk with the next commit.
    pub(super) fn note_version(&mut self, now: Timestamp) {
        let before = self.state.version.replace(VERSION.to_owned());
        if let Some(before) = before.filter(|before| before != VERSION) {
            let actor = Actor { kind: "system".to_owned(), id: None, label: None, address: None };
            let detail = [("from".to_owned(), before.into()), ("to".to_owned(), VERSION.into())].into_iter().collect();
            let verb = "upgrade".to_owned();
            let event = Event { at: now, actor, noun: Noun::Upgrade, verb, subject: None, detail };
            self.append(&Taken::new(&Entry::Event(event), None));
        }
        self.mark();
    }

    /// Overwrites the salts of entries with zeros; how many there were. Indexes that belong to no entry are passed over.
    ///
    /// # Errors
    /// When the disk refuses; some of them may be erased.
    pub(super) fn erase_salts(&mut self, indexes: &[u64]) -> Result<u64, LogError> {
        // What waits in memory would bring them back.
        self.commit()?;
        let mut erased = 0;
        for same in indexes.chunk_by(|one, other| one / WIDTH == other / WIDTH) {
            erased += salts::erase(self.disk.as_ref(), &self.folder, same).map_err(LogError::Disk)?;
        }
        Ok(erased)
    }

    /// Deletes the files of salts below an index, rounded down; how many there were.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) fn prune_salts(&mut self, (from, below): (u64, u64)) -> Result<u64, LogError> {
        self.commit()?;
        let mut deleted = 0;
        let bundles = from / WIDTH..below.min(self.state.size) / WIDTH;
        for number in bundles.clone() {
            deleted += u64::from(salts::clear(self.disk.as_ref(), &self.folder, number).map_err(LogError::Disk)?);
        }
        salts::tidy(self.disk.as_ref(), &self.folder, bundles).map_err(LogError::Disk)?;
        Ok(deleted)
    }

    /// Deletes the bundles, rows and salts below an index, rounded down; the state knows it first.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) fn prune(&mut self, below: u64) -> Result<u64, LogError> {
        let below = below.min(self.state.size) / WIDTH;
        let from = self.state.pruned / WIDTH;
        if below <= from {
            return Ok(self.state.pruned);
        }
        let log = self.folder.join(LOG);
        if let Some(moved) = tiles::archive(&log) {
            // First, because it may be read-only: then nothing is deleted, and the state does not say so.
            for number in from..below {
                self.delete(&moved.join(tiles::path(Row::Entries, number, WIDTH)))?;
            }
        }
        self.state.pruned = below * WIDTH;
        self.mark();
        self.commit()?;
        for number in from..below {
            self.delete(&log.join(tiles::path(Row::Entries, number, WIDTH)))?;
        }
        index::forget(&self.folder, from..below).map_err(LogError::Disk)?;
        self.prune_salts((from * WIDTH, below * WIDTH))?;
        self.tidy_open()?;
        Ok(self.state.pruned)
    }

    /// Deletes a file, if it is there.
    fn delete(&self, path: &Path) -> Result<bool, LogError> {
        match self.disk.remove(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(LogError::Disk(error)),
        }
    }
}
