//! The journal: append-only files that take every record before the client gets its last byte.
//!
//! A line is one `write(2)` on a descriptor opened for appending: when `append` has returned, a `kill -9` loses nothing; a loss of
//! power loses at most what came after the last `sync`. Appending takes a shared lock only, so callers do not wait for each
//! other; the exclusive side is held for the swap of a pointer when a segment is full. The files together have a bound; beyond
//! it `append` refuses, and so it does when the disk is full. Torn and damaged lines are told by their checksum and skipped by
//! readers. Each process writes its own files, so two can share the folder during an upgrade. An index was not needed: a segment
//! is read once, front to back, and deleted.

mod line;
mod recent;
mod segment;
mod strict;
mod waiting;

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::fs::{DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::Notify;

pub use line::{Gap, Line, MAX_LINE_BYTES};
pub use recent::Written;
pub use segment::owner as owner_of;
pub(super) use segment::{Piece, Segment};

use self::recent::Recent;
use crate::error::{Error, Kind};
use crate::ledger::record::Record;
use crate::unit::clock::Timestamp;

/// The bounds of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalSettings {
    /// A segment is closed at this size. At most half of `max_bytes` counts.
    pub segment_bytes: u64,
    /// The most that all segments of this process may hold together.
    pub max_bytes: u64,
}

/// Why a line was not taken.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The journal has reached its bound, because the database has been away for long.
    #[error("the journal holds its limit of {limit_bytes} bytes")]
    Full {
        /// The bound.
        limit_bytes: u64,
    },
    /// The operating system did not take the line: a full disk, most likely.
    #[error("the journal cannot be written: {0}")]
    Disk(#[source] io::Error),
    /// The line is longer than [`MAX_LINE_BYTES`].
    #[error("a journal line of {bytes} bytes is too long")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The record cannot be written as JSON.
    #[error("a record cannot be written as JSON: {0}")]
    Encode(#[source] serde_json::Error),
}

impl From<JournalError> for Error {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Full { .. } | JournalError::Disk(_) => {
                Self::new(Kind::Unavailable, "The request log cannot be written. Try again later.").because(error)
            }
            JournalError::TooLong { .. } | JournalError::Encode(_) => {
                Self::new(Kind::Internal, "The exchange cannot be recorded.").because(error)
            }
        }
    }
}

/// An open journal. Share it with an `Arc`; every method may be called from any thread.
pub struct Journal {
    folder: PathBuf,
    started_at: Timestamp,
    nonce: u32,
    segment_bytes: AtomicU64,
    max_bytes: AtomicU64,
    active: RwLock<Arc<Segment>>,
    /// Finished segments that are not wholly fed, in the order of feeding. Locked before `active` wherever both are.
    finished: Mutex<VecDeque<Arc<Segment>>>,
    /// The number of the next segment; its lock is the right to rotate.
    rotation: Mutex<u32>,
    /// Bytes in files.
    held: AtomicU64,
    /// Bytes that have ever come in: appended, or taken over.
    arrived: AtomicU64,
    /// Bytes of these that the database has; signed, because the parts of a sum may arrive out of order.
    fed: AtomicI64,
    torn_writes: AtomicU64,
    /// The last line was not taken by the operating system.
    failing: AtomicBool,
    /// The folder has entries that a loss of power would lose.
    folder_is_dirty: AtomicBool,
    /// When the backlog was last seen empty.
    caught_up_at: AtomicI64,
    /// Somebody waits for the next line.
    readers_sleep: AtomicBool,
    /// Not everybody has what the active segment holds: its file stays behind.
    kept: AtomicBool,
    /// What readers need not parse.
    recent: Arc<Recent>,
    strict: strict::Strict,
    /// What the disk did not take.
    waiting: waiting::Waiting,
    bell: Notify,
}

thread_local! {
    /// Each thread's buffer for the line that it writes.
    static FRAME: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A buffer that grew beyond this is given back.
const KEPT_FRAME_BYTES: usize = 64 * 1024;

/// Whether a process writes to the journal in that folder; false where there is none.
///
/// # Errors
/// When the folder or one of its files cannot be read.
pub fn in_use(folder: &Path) -> io::Result<bool> {
    let files = match std::fs::read_dir(folder) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    for file in files {
        let path = file?.path();
        let is_segment = path.to_str().is_some_and(|name| name.ends_with(segment::SUFFIX));
        // Shared, so that two who only ask do not take each other for a writer.
        if is_segment && matches!(File::open(&path)?.try_lock_shared(), Err(TryLockError::WouldBlock)) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Journal {
    /// Opens the journal in a folder: makes the folder (mode 0700), begins a new segment (mode 0600) and takes over those of dead
    /// processes.
    ///
    /// # Errors
    /// `unavailable` when the folder or a file in it cannot be made, read or locked.
    pub fn open(folder: impl AsRef<Path>, settings: JournalSettings) -> crate::error::Result<Self> {
        Self::try_open(folder.as_ref(), settings).map_err(|cause| {
            let text = format!("The journal folder {} cannot be used: {cause}.", folder.as_ref().display());
            Error::new(Kind::Unavailable, text).because(cause)
        })
    }

    fn try_open(folder: &Path, settings: JournalSettings) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        std::fs::set_permissions(folder, Permissions::from_mode(0o700))?;
        let started_at = Timestamp::now();
        let nonce = getrandom::u32().map_err(|cause| io::Error::other(cause.to_string()))?;
        let mut sequence = 0;
        let segment_bytes = settings.segment_bytes.min(settings.max_bytes / 2);
        let recent = Arc::default();
        let active = begin((folder, &recent), (started_at, nonce), &mut sequence, segment_bytes)?;
        let journal = Self {
            folder: folder.to_owned(),
            started_at,
            nonce,
            segment_bytes: AtomicU64::new(segment_bytes),
            max_bytes: AtomicU64::new(settings.max_bytes),
            active: RwLock::new(Arc::new(active)),
            finished: Mutex::default(),
            rotation: Mutex::new(sequence),
            held: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
            fed: AtomicI64::new(0),
            torn_writes: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            folder_is_dirty: AtomicBool::new(true),
            caught_up_at: AtomicI64::new(started_at.micros()),
            readers_sleep: AtomicBool::new(false),
            kept: AtomicBool::new(false),
            recent,
            strict: strict::Strict::default(),
            waiting: waiting::Waiting::default(),
            bell: Notify::new(),
        };
        journal.adopt()?;
        Ok(journal)
    }

    /// Changes the bounds; the segment that is being written keeps its size.
    pub fn configure(&self, settings: JournalSettings) {
        self.segment_bytes.store(settings.segment_bytes.min(settings.max_bytes / 2), Ordering::Relaxed);
        self.max_bytes.store(settings.max_bytes, Ordering::Relaxed);
    }

    /// Who writes this journal: the name that its segments begin with, unique for ever. One life of one process.
    pub fn owner(&self) -> String {
        segment::owner_name(self.started_at, self.nonce)
    }

    /// Appends a line. When it has returned, the line is with the operating system and survives the death of the process. Costs
    /// one `write(2)`; blocks no longer than that takes. In the strict mode it is on the disk then, and blocks for that.
    ///
    /// # Errors
    /// [`JournalError`]; the line then may or may not appear in the ledger, and later lines are not harmed.
    pub fn append(&self, line: &Line) -> Result<(), JournalError> {
        self.append_frame(|frame| line::encode(line, frame)).map(drop)
    }

    /// Appends the line of a record, like [`Journal::append`]; a record is large, and so is not moved into a `Line` for it. Its
    /// writer can hand it over with [`Journal::hand_over`] once it does not need it any more.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn append_record(&self, record: &Record) -> Result<Written, JournalError> {
        self.append_frame(|frame| line::encode_record(record, frame))
    }

    /// Takes a record that was appended, unchanged since: who reads its line soon needs not parse it. Costs an allocation and a
    /// lock that nobody holds for longer than a look-up.
    pub fn hand_over(&self, written: Written, record: Record) {
        self.recent.keep(written, record);
    }

    fn append_frame(
        &self,
        encode: impl Fn(&mut Vec<u8>) -> Result<Written, JournalError>,
    ) -> Result<Written, JournalError> {
        FRAME.with_borrow_mut(|frame| {
            let done = encode(frame).and_then(|written| {
                self.write(frame)?;
                self.force()?;
                Ok(written)
            });
            let failing = matches!(done, Err(JournalError::Disk(_)));
            if failing != self.failing.load(Ordering::Relaxed) {
                self.failing.store(failing, Ordering::Relaxed);
            }
            if frame.capacity() > KEPT_FRAME_BYTES {
                *frame = Vec::new();
            }
            done
        })
    }

    /// Whether the next line will probably be taken; ask before something is begun that must be recorded. Costs two loads. After
    /// a failure only another append – that of a refusal, say – can find out that the disk takes lines again.
    ///
    /// # Errors
    /// [`JournalError::Full`] when less than a sixteenth of the bound, at most 1 MiB, is left; [`JournalError::Disk`] when the
    /// last line was not taken.
    pub fn ready(&self) -> Result<(), JournalError> {
        let limit_bytes = self.max_bytes.load(Ordering::Relaxed);
        let reserve = (limit_bytes / 16).min(1024 * 1024);
        if self.held.load(Ordering::Relaxed) > limit_bytes - reserve {
            return Err(JournalError::Full { limit_bytes });
        }
        if self.failing.load(Ordering::Relaxed) {
            return Err(JournalError::Disk(io::ErrorKind::StorageFull.into()));
        }
        Ok(())
    }

    fn write(&self, frame: &[u8]) -> Result<(), JournalError> {
        let length = frame.len() as u64;
        let limit_bytes = self.max_bytes.load(Ordering::Relaxed);
        if self.held.load(Ordering::Relaxed).saturating_add(length) > limit_bytes {
            return Err(JournalError::Full { limit_bytes });
        }
        // The operating system may take a part only (the disk is nearly full, or was for a moment). The part stays behind as a
        // torn line, which the segment's readers in this process know; the whole line is tried once more.
        for _ in 0..2 {
            let (taken, segment_is_full) = {
                let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
                let taken = active.write(frame).map_err(JournalError::Disk)?;
                (taken, active.written() >= active.rotate_at.load(Ordering::Relaxed))
            };
            self.held.fetch_add(taken, Ordering::Relaxed);
            self.arrived.fetch_add(taken, Ordering::SeqCst);
            if segment_is_full {
                self.rotate();
            }
            if taken == length {
                self.ring();
                return Ok(());
            }
            self.torn_writes.fetch_add(1, Ordering::Relaxed);
        }
        Err(JournalError::Disk(io::ErrorKind::WriteZero.into()))
    }

    /// Wakes the readers that sleep.
    fn ring(&self) {
        if self.readers_sleep.load(Ordering::SeqCst) && self.readers_sleep.swap(false, Ordering::SeqCst) {
            self.bell.notify_waiters();
        }
    }

    /// Closes the segment that is being written, if there is anything in it, so that its file goes as soon as everybody has what
    /// it holds.
    pub fn turn(&self) {
        let written = {
            let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
            if active.written() > 0 {
                active.rotate_at.store(0, Ordering::Relaxed);
            }
            active.written()
        };
        if written > 0 {
            self.rotate();
        }
    }

    /// Puts a new segment in place of the active one, if that is still full and nobody else does it. If no file can be made, the
    /// old segment goes on for another sixteenth of its size.
    fn rotate(&self) {
        let Ok(mut sequence) = self.rotation.try_lock() else { return };
        let old = self.active.read().unwrap_or_else(PoisonError::into_inner).clone();
        if old.written() < old.rotate_at.load(Ordering::Relaxed) {
            return;
        }
        let segment_bytes = self.segment_bytes.load(Ordering::Relaxed);
        match begin((&self.folder, &self.recent), (self.started_at, self.nonce), &mut sequence, segment_bytes) {
            Ok(new) => {
                let mut finished = self.finished();
                // Whoever holds the shared side writes to the old segment; afterwards nobody does.
                *self.active.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                old.finish();
                finished.push_back(old);
                self.folder_is_dirty.store(true, Ordering::Release);
            }
            Err(cause) => {
                old.rotate_at.store(old.written() + segment_bytes / 16 + 1, Ordering::Relaxed);
                tracing::warn!(%cause, "no new journal segment can be made; the old one grows on");
            }
        }
    }

    /// Forces everything appended so far to the disk. Blocks; call it off the request path, in groups.
    ///
    /// # Errors
    /// The first error of the operating system; all segments are tried.
    pub fn sync(&self) -> io::Result<()> {
        let mut first = Ok(());
        for segment in self.queue() {
            first = first.and(segment.sync());
        }
        first.and(self.sync_folder())
    }

    /// Whether there is anything that [`Journal::sync`] would force to the disk.
    pub fn needs_sync(&self) -> bool {
        self.folder_is_dirty.load(Ordering::Acquire) || self.queue().iter().any(|segment| segment.needs_sync())
    }

    /// Bytes that are not in the database yet.
    pub fn backlog_bytes(&self) -> u64 {
        let arrived = self.arrived.load(Ordering::SeqCst).cast_signed();
        u64::try_from(arrived.saturating_sub(self.fed.load(Ordering::SeqCst))).unwrap_or(0)
    }

    /// Bytes in the files of this process, fed ones included; what `max_bytes` bounds.
    pub fn held_bytes(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Since when at most a line has been waiting for the database; `None` when none waits. Exact to the time between two batches.
    pub fn oldest_unfed(&self) -> Option<Timestamp> {
        (self.backlog_bytes() > 0).then(|| Timestamp(self.caught_up_at.load(Ordering::Relaxed)))
    }

    /// How often the operating system took a part of a line only.
    pub fn torn_writes(&self) -> u64 {
        self.torn_writes.load(Ordering::Relaxed)
    }

    /// Takes over the segments of processes that died; how many they were.
    pub(super) fn adopt(&self) -> io::Result<usize> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            names.extend(name.to_str().filter(|name| name.ends_with(segment::SUFFIX)).map(str::to_owned));
        }
        // Front first into the queue from the front, so the latest first.
        names.sort_unstable_by(|a, b| b.cmp(a));
        let mut adopted = 0;
        for name in names {
            let Some(segment) = Segment::adopt(&self.folder, &name)? else { continue };
            let bytes = segment.written();
            self.held.fetch_add(bytes, Ordering::Relaxed);
            if let Some(start) = name.split('-').next().and_then(|start| start.parse().ok()) {
                self.caught_up_at.fetch_min(start, Ordering::Relaxed);
            }
            self.finished().push_front(Arc::new(segment));
            self.arrived.fetch_add(bytes, Ordering::SeqCst);
            adopted += 1;
        }
        self.ring();
        Ok(adopted)
    }

    /// All segments in the order of feeding; the last is the active one.
    pub(super) fn queue(&self) -> Vec<Arc<Segment>> {
        let finished = self.finished();
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner).clone();
        finished.iter().cloned().chain([active]).collect()
    }

    /// Records that the database holds a segment up to that byte.
    pub(super) fn set_fed(&self, segment: &Segment, byte: u64) {
        self.fed.fetch_add(segment.set_fed(byte), Ordering::SeqCst);
    }

    /// Records that nothing waited at that time.
    pub(super) fn caught_up(&self, at: Timestamp) {
        self.caught_up_at.store(at.micros(), Ordering::Relaxed);
    }

    /// Empties a finished segment that everybody has, and gives its file the name of one that is gone. The file goes with
    /// [`Journal::bury`], once nobody keeps a position of it: until then it says whose positions are of no use any more.
    pub(super) fn retire(&self, segment: &Arc<Segment>) -> io::Result<()> {
        let mut finished = self.finished();
        let before = finished.len();
        segment.retire()?;
        finished.retain(|other| !Arc::ptr_eq(other, segment));
        if finished.len() < before {
            self.held.fetch_sub(segment.written(), Ordering::Relaxed);
        }
        self.folder_is_dirty.store(true, Ordering::Release);
        Ok(())
    }

    /// The names of all segments that are there or have gone in order. One that somebody keeps a position of, and that is not
    /// among them, was taken away by others.
    ///
    /// # Errors
    /// Those of the system.
    pub fn known_segments(&self) -> io::Result<HashSet<String>> {
        // In this order: one that goes meanwhile is found as gone.
        let mut names: HashSet<String> = HashSet::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            names.extend(name.to_str().filter(|name| name.ends_with(segment::SUFFIX)).map(str::to_owned));
        }
        names.extend(self.gone()?);
        Ok(names)
    }

    /// The names of the segments that are gone and not buried.
    pub(super) fn gone(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            names.extend(
                name.to_str()
                    .and_then(|name| name.strip_suffix(segment::GONE))
                    .map(|name| name.to_owned() + segment::SUFFIX),
            );
        }
        Ok(names)
    }

    /// Removes what is left of a segment that is gone.
    pub(super) fn bury(&self, name: &str) -> io::Result<()> {
        segment::bury(&self.folder, name)
    }

    /// Forces the folder to the disk if it has changed, so that a loss of power cannot bring back a file that is gone.
    pub(super) fn sync_folder(&self) -> io::Result<()> {
        if !self.folder_is_dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let done = File::open(&self.folder).and_then(|folder| folder.sync_all());
        if done.is_err() {
            self.folder_is_dirty.store(true, Ordering::Release);
        }
        done
    }

    /// How many bytes have ever come in; grows only.
    pub(super) fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::SeqCst)
    }

    /// Returns when more has come in than that; at once if it has.
    pub(super) async fn wait_beyond(&self, arrived: u64) {
        loop {
            let mut bell = pin!(self.bell.notified());
            bell.as_mut().enable();
            self.readers_sleep.store(true, Ordering::SeqCst);
            if self.arrived() > arrived {
                return;
            }
            bell.await;
        }
    }

    /// Whether the folder holds a segment of that owner other than this one, whichever process has it.
    pub(super) fn has_other_segments(&self, owner: &str, than: &str) -> io::Result<bool> {
        for entry in std::fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            if name.to_str().is_some_and(|name| name != than && segment::owner(name) == Some(owner)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the file of the active segment must outlive this process although the database has all of it.
    pub(super) fn keep(&self, kept: bool) {
        self.kept.store(kept, Ordering::Release);
    }

    fn finished(&self) -> MutexGuard<'_, VecDeque<Arc<Segment>>> {
        // The list is changed by single calls that do not panic half-way.
        self.finished.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Journal {
    /// Leaves no line behind that everybody has. What is not fed stays for the next start.
    fn drop(&mut self) {
        let active = self.active.get_mut().unwrap_or_else(PoisonError::into_inner);
        if active.fed() == active.written()
            && !*self.kept.get_mut()
            && let Err(cause) = if active.written() == 0 { active.delete() } else { active.retire() }
        {
            tracing::warn!(%cause, "the last journal segment cannot be deleted; the next start does it");
        }
    }
}

/// Makes the next segment of a process. A number is skipped when another process takes the new file for an orphan before its
/// lock is held; it then deletes the file.
fn begin(
    (folder, recent): (&Path, &Arc<Recent>),
    owner: (Timestamp, u32),
    sequence: &mut u32,
    segment_bytes: u64,
) -> io::Result<Segment> {
    for _ in 0..16 {
        let name = segment::name(owner.0, owner.1, *sequence);
        *sequence += 1;
        if let Some(segment) = Segment::create(folder, &name, segment_bytes, recent)? {
            return Ok(segment);
        }
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, "other processes take every new segment for an orphan"))
}

#[cfg(test)]
pub(crate) mod tests;
