//! Whether the database is still the file that was opened.
//!
//! SQLite goes on reading and writing a file whose name was taken away, and everything written there is gone with the process.
//! So each writing transaction first compares what lies at the path with what lay there: one look-up, about a microsecond.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::StoreError;

/// Which file lies at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    number: u64,
}

impl Identity {
    /// What lies at that path, links followed.
    ///
    /// # Errors
    /// [`StoreError::Away`] when nothing can be found there.
    pub(super) fn of(path: &Path) -> Result<Self, StoreError> {
        let metadata = fs::metadata(path).map_err(|cause| away(&format!("{}: {cause}", path.display())))?;
        Ok(Self { device: metadata.dev(), number: metadata.ino() })
    }

    /// Fails unless this file still lies at that path.
    ///
    /// # Errors
    /// [`StoreError::Away`] until it is put back.
    pub(super) fn check(self, path: &Path) -> Result<(), StoreError> {
        if Self::of(path)? == self {
            return Ok(());
        }
        let shown = path.display();
        Err(away(&format!(
            "{shown} is not the file that was opened; put that one back, or start again to use this one"
        )))
    }
}

fn away(text: &str) -> StoreError {
    StoreError::Away(Box::new(io::Error::other(text)))
}
