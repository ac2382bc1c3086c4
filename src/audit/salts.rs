//! The salts of commitments: files of their own, of mode 0600, so that erasing one erases the link between an entry and a text
//! while every proof stays.
//!
//! A file stands beside each bundle and holds 32 bytes for each entry; zeros stand for none, or for one that was erased. It is
//! written with the bundle, so a salt is as durable as its entry.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::audit::tiles::{self, WIDTH};
use crate::unit::commit::Salt;

/// The bytes of one salt.
pub const SALT_BYTES: usize = 32;

/// The path of the salts of a bundle below the audit folder.
pub fn path(number: u64) -> PathBuf {
    PathBuf::from(format!("salts/{}", tiles::number_path(number)))
}

/// The salt of an entry; `None` if it has none, or none any more.
///
/// # Errors
/// Those of the system.
pub fn read(audit: &Path, index: u64) -> io::Result<Option<Salt>> {
    let salts = load(audit, index / WIDTH)?;
    Ok(salts.get(place(index)).and_then(|salt| salt.try_into().ok()).and_then(Salt::from_bytes))
}

/// The file of a bundle; empty if there is none.
///
/// # Errors
/// Those of the system.
pub fn load(audit: &Path, number: u64) -> io::Result<Vec<u8>> {
    match fs::read(audit.join(path(number))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// Where the salt of an entry is in the file of its bundle.
pub fn place(index: u64) -> std::ops::Range<usize> {
    let at = usize::try_from(index % WIDTH).unwrap_or(0) * SALT_BYTES;
    at..at + SALT_BYTES
}

/// Whether a file holds any.
pub fn any(salts: &[u8]) -> bool {
    salts.iter().any(|byte| *byte != 0)
}
