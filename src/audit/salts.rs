//! The salts of commitments: files of their own, of mode 0600, so that erasing one erases the link between an entry and a text
//! while every proof stays.
//!
//! A file holds 32 bytes for each entry of 64 bundles; zeros stand for none, or for one that was erased. It grows in place with
//! each commit, before the state that names the entries, so a salt is as durable as its entry, and one that is erased is
//! overwritten where it is. Logs that were begun earlier have a file for each bundle; those are read and erased as they are
//! (`salts_of_an_earlier_build_are_found_and_erased`).

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::audit::disk::{self, Disk};
use crate::audit::tiles::{self, WIDTH};
use crate::unit::commit::Salt;

/// The bytes of one salt.
pub const SALT_BYTES: usize = 32;

/// So many bundles share a file.
const BUNDLES: u64 = 64;

/// The bytes of the salts of a bundle.
const BUNDLE_BYTES: u64 = WIDTH * SALT_BYTES as u64;

/// The path of the file with the salts of a bundle, below the audit folder.
pub fn path(number: u64) -> PathBuf {
    PathBuf::from(format!("salts/{BUNDLES}/{}", tiles::number_path(number / BUNDLES)))
}

/// The path of the file that an earlier build made for a bundle.
fn own_path(number: u64) -> PathBuf {
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

/// The salts of a bundle, as many as there are; empty if there are none.
///
/// # Errors
/// Those of the system.
pub fn load(audit: &Path, number: u64) -> io::Result<Vec<u8>> {
    let mut salts = Vec::new();
    if let Some(file) = there(fs::File::open(audit.join(path(number))))? {
        let from = number % BUNDLES * BUNDLE_BYTES;
        salts.resize(file.metadata()?.len().saturating_sub(from).min(BUNDLE_BYTES) as usize, 0);
        file.read_exact_at(&mut salts, from)?;
    }
    if any(&salts) {
        return Ok(salts);
    }
    Ok(there(fs::read(audit.join(own_path(number))))?.unwrap_or(salts))
}

fn there<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        done => done.map(Some),
    }
}

/// Writes the salts of the entries from an index on: on the disk when this returns. A file is made only where there is one to
/// keep.
///
/// # Errors
/// Those of the system; some may have been written.
pub fn store(disk: &dyn Disk, audit: &Path, first: u64, salts: &[u8]) -> io::Result<()> {
    let (mut at, mut rest) = (first, salts);
    while !rest.is_empty() {
        let number = at / WIDTH;
        let room = (BUNDLES - number % BUNDLES) * WIDTH - at % WIDTH;
        let length = usize::try_from(room).unwrap_or(usize::MAX).saturating_mul(SALT_BYTES).min(rest.len());
        let (now, later) = rest.split_at(length);
        let file = audit.join(path(number));
        if any(now) || file.exists() {
            disk::put_at(disk, &file, at % (BUNDLES * WIDTH) * SALT_BYTES as u64, now)?;
        }
        at += (now.len() / SALT_BYTES) as u64;
        rest = later;
    }
    Ok(())
}

/// Overwrites the salts of entries of one bundle with zeros; how many there were.
///
/// # Errors
/// Those of the system; some may be erased.
pub fn erase(disk: &dyn Disk, audit: &Path, indexes: &[u64]) -> io::Result<u64> {
    let Some(number) = indexes.first().map(|index| index / WIDTH) else { return Ok(0) };
    let mut salts = load(audit, number)?;
    let mut erased = 0;
    for index in indexes {
        if let Some(salt) = salts.get_mut(place(*index)).filter(|salt| any(salt)) {
            salt.fill(0);
            erased += 1;
        }
    }
    if erased > 0 {
        overwrite(disk, audit, number, &salts)?;
    }
    Ok(erased)
}

/// Overwrites or deletes all salts of a bundle; whether there was anything.
///
/// # Errors
/// Those of the system.
pub fn clear(disk: &dyn Disk, audit: &Path, number: u64) -> io::Result<bool> {
    let salts = load(audit, number)?;
    let own = there(disk.remove(&audit.join(own_path(number))))?.is_some();
    if any(&salts) {
        overwrite(disk, audit, number, &vec![0; salts.len()])?;
    }
    Ok(own || any(&salts))
}

/// Deletes the files whose bundles are all below a number, from the file of another one on.
///
/// # Errors
/// Those of the system.
pub fn tidy(disk: &dyn Disk, audit: &Path, bundles: Range<u64>) -> io::Result<()> {
    for group in bundles.start / BUNDLES..bundles.end / BUNDLES {
        there(disk.remove(&audit.join(path(group * BUNDLES))))?;
    }
    Ok(())
}

/// Writes the salts of a bundle wherever they are.
fn overwrite(disk: &dyn Disk, audit: &Path, number: u64, salts: &[u8]) -> io::Result<()> {
    for (file, from) in [(path(number), number % BUNDLES * BUNDLE_BYTES), (own_path(number), 0)] {
        let file = audit.join(file);
        if file.exists() {
            disk::put_at(disk, &file, from, salts)?;
        }
    }
    Ok(())
}

/// Where the salt of an entry is among those of its bundle.
fn place(index: u64) -> Range<usize> {
    let at = usize::try_from(index % WIDTH).unwrap_or(0) * SALT_BYTES;
    at..at + SALT_BYTES
}

/// Whether there are any.
fn any(salts: &[u8]) -> bool {
    salts.iter().any(|byte| *byte != 0)
}
