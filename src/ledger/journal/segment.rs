//! One file of the journal.
//!
//! Whoever holds the lock (`flock`) on the file owns it: a running process owns those that it writes, and a lock that is free
//! means that the owner is dead, so the next process takes it over. The lock goes with the file descriptor, so the kernel frees
//! it after a `kill -9` too.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::line::{self, Gap, Line, MAX_LINE_BYTES};
use super::recent::Recent;
use crate::unit::clock::Timestamp;

/// How the names of segments end.
pub(super) const SUFFIX: &str = ".journal";

/// How the names of those that are gone end, in place of [`SUFFIX`].
pub(super) const GONE: &str = ".gone";

/// The most bytes in one read: a line of the largest size and more, wherever the read begins.
const LARGEST_READ: usize = 2 * MAX_LINE_BYTES;

/// One file of the journal, locked by this process.
pub(in crate::ledger) struct Segment {
    name: Arc<str>,
    path: PathBuf,
    file: File,
    /// Bytes in the file.
    written: AtomicU64,
    /// Bytes that an fdatasync has covered.
    synced: AtomicU64,
    /// Bytes that are known to be in the database.
    fed: AtomicU64,
    /// It was there before this process: whoever is fed must be asked how far they have come.
    inherited: bool,
    /// A bit for each of those who are fed and need nothing of it any more.
    passed: AtomicU64,
    /// The size at which the next segment is tried.
    pub(super) rotate_at: AtomicU64,
    /// Nobody writes to it any more.
    finished: AtomicBool,
    /// What of lines this process could not write whole.
    torn: Mutex<Vec<Torn>>,
    /// The records that this process wrote last.
    recent: Arc<Recent>,
}

/// The part of a line that the operating system took, as a reader finds it: how long it is, and its checksum.
type Torn = (usize, u32);

/// The most torn lines that are remembered. A full disk leaves one each time that it fills up.
const TORN_LIMIT: usize = 1_024;

/// What was read from a segment.
#[derive(Debug, Default, PartialEq)]
pub(in crate::ledger) struct Piece {
    /// The lines, in order.
    pub lines: Vec<Line>,
    /// The byte behind each of them.
    pub ends: Vec<u64>,
    /// The byte behind the last one, skipped lines included.
    pub end: u64,
    /// How many lines were damaged, or torn by a process that cannot be asked any more.
    pub skipped: u64,
    /// Nothing is behind it, for now.
    pub is_last: bool,
}

/// A failure with the file that it is about.
fn named(path: &Path, cause: &io::Error) -> io::Error {
    io::Error::new(cause.kind(), format!("{}: {cause}", path.display()))
}

impl Segment {
    /// Creates the file and takes its lock; `None` when another process was faster to take it for an orphan.
    pub(super) fn create(folder: &Path, name: &str, rotate_at: u64, recent: &Arc<Recent>) -> io::Result<Option<Self>> {
        let path = folder.join(name);
        let file = OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(&path)?;
        let segment = Self::over(file, path, name)?;
        Ok(segment.map(|segment| Self { rotate_at: rotate_at.into(), recent: recent.clone(), ..segment }))
    }

    /// Takes over the file of a dead process; `None` when its owner lives or it has just been deleted.
    pub(super) fn adopt(folder: &Path, name: &str) -> io::Result<Option<Self>> {
        let path = folder.join(name);
        let file = match OpenOptions::new().read(true).append(true).open(&path) {
            Err(gone) if gone.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|cause| named(&path, &cause))?,
        };
        let segment = Self::over(file, path, name)?;
        if let Some(segment) = &segment {
            segment.finish();
        }
        Ok(segment)
    }

    fn over(file: File, path: PathBuf, name: &str) -> io::Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(cause)) => return Err(cause),
        }
        let data = file.metadata()?;
        // Between opening and locking, whoever held the lock may have deleted the file.
        if data.nlink() == 0 {
            return Ok(None);
        }
        Ok(Some(Self {
            name: name.into(),
            path,
            file,
            written: AtomicU64::new(data.len()),
            synced: AtomicU64::new(0),
            fed: AtomicU64::new(0),
            inherited: data.len() > 0,
            passed: AtomicU64::new(0),
            rotate_at: AtomicU64::new(u64::MAX),
            finished: AtomicBool::new(false),
            torn: Mutex::default(),
            recent: Arc::default(),
        }))
    }

    /// Hands the frame to the operating system with one `write(2)`; returns how many bytes it took. Of a part it remembers that its
    /// writer knows: the line is written again, or whoever wanted it written is told.
    pub(super) fn write(&self, frame: &[u8]) -> io::Result<u64> {
        loop {
            match (&self.file).write(frame) {
                Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                Err(cause) => return Err(cause),
                Ok(taken) => {
                    if taken < frame.len() {
                        self.remember_torn(frame.get(..taken).unwrap_or_default());
                    }
                    let taken = taken as u64;
                    self.written.fetch_add(taken, Ordering::SeqCst);
                    return Ok(taken);
                }
            }
        }
    }

    fn remember_torn(&self, part: &[u8]) {
        let text = part.strip_prefix(b"\n").unwrap_or(part);
        let mut torn = self.torn();
        if torn.len() < TORN_LIMIT {
            torn.push((text.len(), crc32fast::hash(text)));
        }
    }

    /// Whether a text is what is left of a line that this process could not write whole.
    fn is_torn(&self, text: &[u8]) -> bool {
        let torn = self.torn();
        !torn.is_empty() && torn.contains(&(text.len(), crc32fast::hash(text)))
    }

    fn torn(&self) -> MutexGuard<'_, Vec<Torn>> {
        // Single calls change it, none of which panics half-way.
        self.torn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads whole lines from a byte on: at most `max_lines`, at most about [`MAX_LINE_BYTES`].
    pub(in crate::ledger) fn read(&self, from: u64, max_lines: usize) -> io::Result<Piece> {
        // Most lines are below a kilobyte, and reading more than is used costs as much as using it.
        let usual_bytes = max_lines.saturating_mul(1024).clamp(64 * 1024, LARGEST_READ);
        let piece = self.read_some(from, max_lines, usual_bytes)?;
        if piece.end > from || piece.is_last {
            return Ok(piece);
        }
        self.read_some(from, max_lines, LARGEST_READ)
    }

    fn read_some(&self, from: u64, max_lines: usize, max_bytes: usize) -> io::Result<Piece> {
        // Asked before the file is read: what is read afterwards then includes the last write.
        let finished = self.is_finished();
        let wanted = max_bytes.min(self.unread(from));
        let mut buffer = self.recent.lend(wanted);
        let length = self.fill(buffer.get_mut(..wanted).unwrap_or_default(), from);
        let piece = length.map(|length| {
            let bytes = buffer.get(..length).unwrap_or_default();
            self.parse((from, bytes), max_lines, length < max_bytes, finished)
        });
        self.recent.take_back(buffer);
        piece
    }

    /// The lines of bytes that begin at a place of the file.
    fn parse(&self, (from, bytes): (u64, &[u8]), max_lines: usize, at_end: bool, finished: bool) -> Piece {
        let mut piece = Piece { end: from, ..Piece::default() };
        let mut rest = bytes;
        while piece.lines.len() < max_lines {
            let Some(stop) = memchr::memchr(b'\n', rest) else { break };
            let (text, behind) = rest.split_at(stop);
            piece.take(self, text, 1);
            rest = behind.get(1..).unwrap_or_default();
        }
        let no_line_end = memchr::memchr(b'\n', rest).is_none();
        // The torn end of a finished segment, or a stretch without any line end that no line can be as long as.
        if no_line_end && !rest.is_empty() && (at_end && finished || rest.len() > MAX_LINE_BYTES) {
            piece.take(self, rest, 0);
        }
        piece.is_last = at_end && no_line_end;
        piece
    }

    fn unread(&self, from: u64) -> usize {
        usize::try_from(self.written.load(Ordering::SeqCst).saturating_sub(from)).unwrap_or(usize::MAX)
    }

    fn fill(&self, bytes: &mut [u8], from: u64) -> io::Result<usize> {
        let mut length = 0;
        while let Some(free) = bytes.get_mut(length..).filter(|free| !free.is_empty()) {
            match self.file.read_at(free, from + length as u64) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                Err(cause) => return Err(cause),
            }
        }
        Ok(length)
    }

    /// Forces the file to the disk if it has grown since the last time.
    pub(super) fn sync(&self) -> io::Result<()> {
        let written = self.written();
        if self.needs_sync() {
            self.file.sync_data()?;
            self.synced.fetch_max(written, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Deletes the file; the lock goes with the last reference.
    pub(super) fn delete(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(gone) if gone.kind() == ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Empties the file and gives it the name of one that is gone.
    pub(super) fn retire(&self) -> io::Result<()> {
        match std::fs::rename(&self.path, self.path.with_extension(GONE.trim_start_matches('.'))) {
            Err(gone) if gone.kind() == ErrorKind::NotFound => Ok(()),
            Err(cause) => Err(cause),
            Ok(()) => self.file.set_len(0),
        }
    }

    /// Declares that nobody writes to it any more.
    pub(super) fn finish(&self) {
        self.finished.store(true, Ordering::Release);
    }

    pub(in crate::ledger) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    pub(in crate::ledger) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(in crate::ledger) fn written(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }

    pub(in crate::ledger) fn fed(&self) -> u64 {
        self.fed.load(Ordering::Acquire)
    }

    /// Whether somebody may have been fed from it before this process.
    pub(in crate::ledger) fn is_inherited(&self) -> bool {
        self.inherited
    }

    /// Records that one of those who are fed needs nothing of it any more.
    pub(in crate::ledger) fn pass(&self, bit: u64) {
        self.passed.fetch_or(bit, Ordering::AcqRel);
    }

    /// Records that one of them needs it again.
    pub(in crate::ledger) fn pass_again(&self, bit: u64) {
        self.passed.fetch_and(!bit, Ordering::AcqRel);
    }

    /// Who needs nothing of it any more.
    pub(in crate::ledger) fn passed(&self) -> u64 {
        self.passed.load(Ordering::Acquire)
    }

    /// Whether the file has grown since it was last forced to the disk.
    pub(super) fn needs_sync(&self) -> bool {
        self.synced.load(Ordering::Acquire) < self.written()
    }

    /// Records how far the database has come; returns by how many bytes that moved.
    pub(super) fn set_fed(&self, byte: u64) -> i64 {
        let before = self.fed.swap(byte, Ordering::AcqRel);
        byte.cast_signed().saturating_sub(before.cast_signed())
    }
}

impl Piece {
    /// Takes a text and its line end into the piece; what cannot be read becomes a gap, unless its writer knows of it.
    fn take(&mut self, segment: &Segment, text: &[u8], line_end: u64) {
        let from = self.end;
        self.end += text.len() as u64 + line_end;
        if text.is_empty() {
            return;
        }
        let line = match line::decode(text, &segment.recent) {
            Some(line) => line,
            None if segment.is_torn(text) => return,
            None => {
                self.skipped += 1;
                let (bytes, name) = (text.len(), &segment.name);
                let detail =
                    format!("{bytes} bytes of the journal segment {name}, from byte {from} on, are no whole line");
                Line::Gap(Gap { at: Timestamp::now(), reason: "journal_damaged".to_owned(), detail })
            }
        };
        self.lines.push(line);
        self.ends.push(self.end);
    }
}

/// The name of a segment: the start of the process that writes it, a number against equal starts, and its own number. Names sort
/// in the order of writing within a process.
pub(super) fn name(started_at: Timestamp, nonce: u32, sequence: u32) -> String {
    format!("{}-{sequence:08}{SUFFIX}", owner_name(started_at, nonce))
}

/// Removes the file of a segment that is gone.
pub(super) fn bury(folder: &Path, name: &str) -> io::Result<()> {
    let stem = name.strip_suffix(SUFFIX).unwrap_or(name);
    match std::fs::remove_file(folder.join(format!("{stem}{GONE}"))) {
        Err(gone) if gone.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// What the names of all segments of one process begin with.
pub(super) fn owner_name(started_at: Timestamp, nonce: u32) -> String {
    format!("{:016}-{nonce:08x}", started_at.micros())
}

/// Whose segment it is, by its name; `None` for a file that is none.
pub fn owner(name: &str) -> Option<&str> {
    name.strip_suffix(SUFFIX)?.rsplit_once('-').map(|(owner, _)| owner)
}
