//! What is done to a log beside its tree: salts are erased, entries past their retention deleted, rotations listed.

use std::io;

use crate::audit::index::{self, Seen};
use crate::audit::log::{LogError, Writer};
use crate::audit::receipt;
use crate::audit::rotation;
use crate::audit::tail::{LOG, salts_path};
use crate::audit::tiles::{self, Row, WIDTH};

impl Writer {
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

    /// Overwrites the salt of an entry with zeros.
    ///
    /// # Errors
    /// When there is no such entry, or the disk refuses.
    pub(super) fn erase_salt(&mut self, index: u64) -> Result<(), LogError> {
        if index >= self.tail.tree().size() {
            return Err(LogError::Missing(format!("there is no entry {index}")));
        }
        self.tail.erase_salt(index);
        let path = self.folder.join(salts_path(index / WIDTH));
        let mut salts = match std::fs::read(&path) {
            Ok(salts) => salts,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(LogError::Disk(error)),
        };
        let at = usize::try_from(index % WIDTH).unwrap_or(0) * 32;
        if let Some(salt) = salts.get_mut(at..at + 32) {
            salt.fill(0);
        }
        self.put(&[(path, salts.as_slice())])
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
        self.state.pruned = below * WIDTH;
        self.mark();
        self.commit()?;
        for number in from..below {
            let bundle = std::path::Path::new(LOG).join(tiles::path(Row::Entries, number, WIDTH));
            for path in [bundle, index::path(number), salts_path(number)] {
                match self.disk.remove(&self.folder.join(path)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(LogError::Disk(error)),
                    _ => {}
                }
            }
        }
        Ok(self.state.pruned)
    }
}
