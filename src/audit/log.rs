//! The one writer of a log.
//!
//! Entries are taken into memory and made durable by a *commit*: full tiles and bundles, the entries of the unfinished bundle,
//! salts, then the state that names their size and the journal's positions. That is two orders to the disk, one each for new
//! salts and entries, and four more when a bundle is full, whatever their number. Until a commit the journal still holds what was taken, so a crash loses
//! nothing and nothing comes twice (`no_fault_of_the_disk_loses_or_doubles_an_entry`). A *publication* signs a checkpoint over
//! what was committed, at most once in an interval, whatever the load. What waits in memory is bounded by
//! [`PENDING_LIMIT_BYTES`]; beyond it, while the disk refuses, entries are refused. A tree that contradicts its checkpoint or
//! its state is not opened.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::audit::checkpoint::Checkpoint;
use crate::audit::disk::{self, Disk};
use crate::audit::entry::{Entry, Gap, Rotation};
use crate::audit::index;
use crate::audit::key::{KeyError, SigningKeys};
use crate::audit::note::Note;
use crate::audit::opening::{self, Opened};
use crate::audit::policy::Policy;
use crate::audit::rotation;
use crate::audit::salts;
use crate::audit::state::State;
use crate::audit::tail::{Finished, LOG, Pending, Tail, Taken, WITNESSED};
use crate::audit::tiles::TileError;
use crate::error::StoreError;
use crate::unit::clock::Timestamp;
use crate::unit::commit::Salt;

/// What may wait in memory for the next commit: 8 MiB, about ten thousand plain entries.
pub const PENDING_LIMIT_BYTES: usize = 8 * 1024 * 1024;

/// The partial files of so many commits stay, so that a reader of a checkpoint finds what it names.
const KEPT_COMMITS: usize = 8;

/// Where a log is and how it is written.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its folder: `log/` holds what may be served, the rest is the writer's own.
    pub folder: PathBuf,
    /// The least time between two checkpoints.
    pub interval: Duration,
    /// Its witnesses and how many of them must cosign; the log's own keys are added to it.
    pub policy: Policy,
}

/// Why the log did not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Another process writes this log.
    #[error("another process writes the audit log in {0}")]
    Busy(String),
    /// The disk refused; nothing of the call was done, and it may be tried again.
    #[error("the audit log cannot be written: {0}")]
    Disk(#[source] io::Error),
    /// The files contradict each other: somebody changed them, or they are of several copies.
    #[error("the audit log is not opened: {0}")]
    Contradiction(String),
    /// The journal's position is not the one that is kept.
    #[error("the segment {segment} was taken up to byte {kept}, not {from}")]
    Position {
        /// The segment.
        segment: String,
        /// How far it was taken.
        kept: u64,
        /// From where it was offered.
        from: u64,
    },
    /// A key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A file cannot be read.
    #[error("the audit log cannot be read: {0}")]
    Tile(#[from] TileError),
    /// There is no such entry, or it is not under a checkpoint yet.
    #[error("{0}")]
    Missing(String),
}

impl From<LogError> for StoreError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Position { .. } => Self::Conflict(error.to_string().into()),
            LogError::Disk(_) | LogError::Busy(_) => Self::Away(Box::new(error)),
            LogError::Missing(_) => Self::NotFound,
            _ => Self::Corrupt(error.to_string().into()),
        }
    }
}

impl Taken {
    /// Encodes an entry; call it outside the path of an exchange if you can. About 2 µs for an exchange.
    pub fn new(entry: &Entry, salt: Option<Salt>) -> Self {
        let (entry, bytes) = entry.written();
        let row = match entry.as_ref() {
            Entry::Exchange(exchange) => index::row_of(exchange),
            _ => index::row_of_bytes(&bytes),
        };
        Self { bytes, salt: salt.map(|salt| *salt.expose()).unwrap_or_default(), row }
    }
}

/// How a log stands.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Its origin.
    pub origin: String,
    /// The entries taken, those in memory included.
    pub size: u64,
    /// Those that are on the disk.
    pub committed: u64,
    /// Those under the last checkpoint.
    pub published: u64,
    /// When it was signed.
    pub published_at: Option<Timestamp>,
    /// The size of the last checkpoint that its witnesses cosigned as the policy asks; 0 if none.
    pub witnessed: u64,
    /// Entry bundles below this index were deleted.
    pub pruned: u64,
    /// Commits and publications that failed since the start.
    pub failures: u64,
    /// Why the last one failed; `None` while all is well.
    pub failing: Option<String>,
}

/// A signed checkpoint.
#[derive(Clone, Debug)]
pub struct Published {
    /// What it says.
    pub checkpoint: Checkpoint,
    /// With its signatures.
    pub note: Note,
}

/// The log. All calls block on the disk; call them where that is allowed.
pub struct Log {
    settings: Settings,
    writer: Mutex<Writer>,
    sizes: watch::Sender<u64>,
}

/// Held while one call works; the tree in it may be ahead of the disk.
pub(super) struct Writer {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) folder: PathBuf,
    pub(super) keys: SigningKeys,
    pub(super) state: State,
    pub(super) tail: Tail,
    finished: Finished,
    pending_bytes: usize,
    dirty: bool,
    kept: VecDeque<(u64, Vec<PathBuf>)>,
    /// The partial files of the last commit of this life: whole, and never to change.
    whole: Vec<PathBuf>,
    /// The number of the bundle whose entries stand in the file `tail`, and how many bytes of them were committed.
    pub(super) open: Option<(u64, usize)>,
    /// The beginnings of leaf hashes that a lost state may make come again.
    known: HashSet<u64>,
    pub(super) published: Option<Published>,
    witnessed: Option<Published>,
    published_at: Option<Timestamp>,
    failures: u64,
    failing: Option<String>,
    /// Locked as long as the log is open.
    _lock: std::fs::File,
}

impl Log {
    /// Opens a log, or begins one in an empty folder. `next` is the key that a rotation goes over to: if it is given and the log
    /// does not use it yet, the rotation is done now.
    ///
    /// # Errors
    /// [`LogError::Contradiction`] says what does not fit and what to do; [`LogError::Busy`] if another process has it.
    pub fn open(
        settings: Settings,
        keys: SigningKeys,
        next: Option<SigningKeys>,
        disk: Arc<dyn Disk>,
        now: Timestamp,
    ) -> Result<Self, LogError> {
        let Opened { state, tail, published, witnessed, uses_next, partials, known, lock, lost } =
            opening::open(&settings.folder, &keys, next.as_ref(), disk.as_ref())?;
        let (keys, next) = match (next, uses_next) {
            (Some(next), true) => (next, None),
            (next, _) => (keys, next),
        };
        let mut policy = settings.policy.clone();
        policy.trust(&state.keys());
        // Witnesses may have been chosen anew since.
        let witnessed = witnessed.filter(|last| {
            policy.asks_for_witnesses()
                && policy.standing(last.note.to_string().as_bytes()).is_ok_and(|standing| standing.witnessed)
        });
        let published_at = published.as_ref().map(|_| now);
        let size = published.as_ref().map_or(0, |published| published.checkpoint.size);
        let mut writer = Writer {
            disk,
            folder: settings.folder.clone(),
            keys,
            state,
            tail,
            finished: Finished::default(),
            pending_bytes: 0,
            // Partial files may be torn or of another size; the first commit writes them again.
            dirty: true,
            kept: VecDeque::from([(0, partials)]),
            whole: Vec::new(),
            open: None,
            known,
            witnessed,
            published,
            published_at,
            failures: 0,
            failing: None,
            _lock: lock,
        };
        if let Some(detail) = lost {
            writer.append(&Taken::new(&Entry::Gap(Gap { at: now, reason: "state_lost".to_owned(), detail }), None));
        }
        writer.note_version(now);
        writer.commit()?;
        writer.write_rotations()?;
        let log = Self { settings, writer: Mutex::new(writer), sizes: watch::Sender::new(size) };
        if let Some(next) = next {
            log.rotate(next, now)?;
        }
        Ok(log)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic under the lock leaves at most an entry in memory that its caller offers again from the kept position.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far a segment of the journal was taken; 0 if it is not known.
    pub fn position(&self, segment: &str) -> u64 {
        self.writer().state.positions.get(segment).copied().unwrap_or(0)
    }

    /// Takes the entries that a part of a segment gave (none is well too), all or nothing. They survive a loss of power after the
    /// next [`Log::sync`]; until then the journal must keep the segment.
    ///
    /// # Errors
    /// [`LogError::Position`] when the segment was not taken up to `from`; [`LogError::Disk`] when too much waits for a disk that
    /// refuses.
    pub fn take(&self, entries: &[Taken], segment: &str, (from, to): (u64, u64)) -> Result<(), LogError> {
        let mut writer = self.writer();
        let kept = writer.state.positions.get(segment).copied().unwrap_or(0);
        if kept != from {
            return Err(LogError::Position { segment: segment.to_owned(), kept, from });
        }
        writer.make_room()?;
        for entry in entries {
            if !writer.was_known(entry) {
                writer.append(entry);
            }
        }
        writer.state.positions.insert(segment.to_owned(), to);
        writer.dirty = true;
        Ok(())
    }

    /// Records entries that no journal holds, durably; gives the index of the first.
    ///
    /// # Errors
    /// [`LogError::Disk`]; then none of them is in the log.
    pub fn record(&self, entries: &[Taken]) -> Result<u64, LogError> {
        let mut writer = self.writer();
        writer.make_room()?;
        writer.commit()?;
        let (tail, first) = (writer.tail.clone(), writer.tail.tree().size());
        entries.iter().for_each(|entry| writer.append(entry));
        if let Err(error) = writer.commit() {
            writer.roll_back(tail);
            return Err(error);
        }
        Ok(first)
    }

    /// Makes everything taken so far survive a loss of power.
    ///
    /// # Errors
    /// [`LogError::Disk`]; what was taken waits for the next call.
    pub fn sync(&self) -> Result<(), LogError> {
        self.writer().commit()
    }

    /// The segments that have a position.
    pub fn segments(&self) -> Vec<String> {
        self.writer().state.positions.keys().cloned().collect()
    }

    /// Forgets the position of a segment that no longer exists. On the disk with the next commit.
    pub fn forget(&self, segment: &str) {
        let mut writer = self.writer();
        writer.dirty |= writer.state.positions.remove(segment).is_some();
    }

    /// Commits, and signs a checkpoint if there is something unsigned and the interval has passed. Call it several times in an
    /// interval; gives the new checkpoint.
    ///
    /// # Errors
    /// [`LogError::Disk`] or a refusal of the library; the next call tries again.
    pub fn tend(&self, now: Timestamp) -> Result<Option<Published>, LogError> {
        let mut writer = self.writer();
        let due = writer.published_at.is_none_or(|at| at.plus(self.settings.interval) <= now || now < at);
        if due { self.publish(&mut writer, now) } else { Ok(None) }
    }

    /// Commits and signs everything, whatever the interval: at the end of a process.
    ///
    /// # Errors
    /// Those of [`Log::tend`].
    pub fn finish(&self, now: Timestamp) -> Result<Option<Published>, LogError> {
        self.publish(&mut self.writer(), now)
    }

    fn publish(&self, writer: &mut Writer, now: Timestamp) -> Result<Option<Published>, LogError> {
        writer.commit()?;
        let signed = writer.published.as_ref().map(|published| published.checkpoint.size);
        if signed == Some(writer.state.size) {
            return Ok(None);
        }
        let published = writer.publish()?;
        writer.published_at = Some(now);
        self.sizes.send_replace(published.checkpoint.size);
        Ok(Some(published))
    }

    /// Goes over to new keys: the statement of both is the last entry that the old ones commit, and the next checkpoint is signed
    /// by the new ones.
    ///
    /// # Errors
    /// When the new keys have another name, the library refuses, or the disk does; then the old keys stay.
    pub fn rotate(&self, new: SigningKeys, now: Timestamp) -> Result<(), LogError> {
        let mut writer = self.writer();
        let entry = Entry::Rotation(Rotation { at: now, note: rotation::make(&writer.keys, &new)? });
        writer.commit()?;
        let (tail, state) = (writer.tail.clone(), writer.state.clone());
        let index = tail.tree().size();
        writer.append(&Taken::new(&entry, None));
        writer.state.rotations.push(index);
        writer.state.generations.push(new.public().each_ref().map(ToString::to_string));
        let old = std::mem::replace(&mut writer.keys, new);
        if let Err(error) = writer.commit() {
            writer.keys = old;
            writer.roll_back(tail);
            writer.state = state;
            return Err(error);
        }
        writer.write_rotations()?;
        self.publish(&mut writer, now).map(|_| ())
    }

    /// Keeps cosignatures on a checkpoint of ours, beside those that it has; whether it is now witnessed as the policy asks. The
    /// last checkpoint's file carries them from then on; the last witnessed one has a file of its own.
    ///
    /// # Errors
    /// When the note is not ours, or the disk refuses.
    pub fn cosigned(&self, checkpoint: &str) -> Result<bool, LogError> {
        let mut writer = self.writer();
        let mut policy = self.settings.policy.clone();
        policy.trust(&writer.state.keys());
        let contradiction = |error: &dyn std::fmt::Display| LogError::Contradiction(error.to_string());
        policy.standing(checkpoint.as_bytes()).map_err(|error| contradiction(&error))?;
        let (parsed, note) = Checkpoint::from_note(checkpoint.as_bytes()).map_err(|error| contradiction(&error))?;
        let mut published = Published { checkpoint: parsed, note };
        // Witnesses answer at their own time; what others gave stays.
        for last in [&writer.published, &writer.witnessed].into_iter().flatten() {
            if last.checkpoint == published.checkpoint {
                let given = std::mem::replace(&mut published.note, last.note.clone()).signatures;
                published.note.add(given);
            }
        }
        let text = published.note.to_string();
        if writer.published.as_ref().is_some_and(|last| last.checkpoint == published.checkpoint) {
            writer.replace("checkpoint", &text)?;
            writer.published = Some(published.clone());
        }
        let standing = policy.standing(text.as_bytes()).map_err(|error| contradiction(&error))?;
        let known = writer.witnessed.as_ref().map_or(0, |last| last.checkpoint.size);
        if standing.witnessed && policy.asks_for_witnesses() && known <= published.checkpoint.size {
            writer.replace(WITNESSED, &text)?;
            writer.witnessed = Some(published);
        }
        Ok(standing.witnessed)
    }

    /// Erases the salts of entries, given in the order of the log: from then on nobody can show which prompt or answer their
    /// commitments are of. How many there were.
    ///
    /// # Errors
    /// When the disk refuses; call it again.
    pub fn erase_salts(&self, indexes: &[u64]) -> Result<u64, LogError> {
        self.writer().erase_salts(indexes)
    }

    /// Deletes the salts of whole bundles in a range of entries; how many bundles there were.
    ///
    /// # Errors
    /// When the disk refuses; call it again.
    pub fn prune_salts(&self, range: (u64, u64)) -> Result<u64, LogError> {
        self.writer().prune_salts(range)
    }

    /// The salt of an entry; `None` if it commits to nothing, or the salt was erased.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn salt(&self, index: u64) -> Result<Option<Salt>, LogError> {
        salts::read(&self.settings.folder, index).map_err(LogError::Disk)
    }

    /// How it stands.
    pub fn status(&self) -> Status {
        let writer = self.writer();
        let size = |published: &Option<Published>| published.as_ref().map_or(0, |one| one.checkpoint.size);
        Status {
            origin: writer.keys.name().to_owned(),
            size: writer.tail.tree().size(),
            committed: writer.state.size,
            published: size(&writer.published),
            published_at: writer.published_at,
            witnessed: size(&writer.witnessed),
            pruned: writer.state.pruned,
            failures: writer.failures,
            failing: writer.failing.clone(),
        }
    }

    /// The last checkpoint; `None` before the first. The last witnessed one too, if there is one.
    pub fn published(&self) -> (Option<Published>, Option<Published>) {
        let writer = self.writer();
        (writer.published.clone(), writer.witnessed.clone())
    }

    /// Tells of each new checkpoint by its size.
    pub fn sizes(&self) -> watch::Receiver<u64> {
        self.sizes.subscribe()
    }

    /// What a verifier of this log trusts: its keys, and the witnesses of the policy.
    pub fn policy(&self) -> Policy {
        let mut policy = self.settings.policy.clone();
        policy.trust(&self.writer().state.keys());
        policy
    }

    /// The folder with the public files.
    pub fn log_folder(&self) -> PathBuf {
        self.settings.folder.join(LOG)
    }

    /// The folder with everything.
    pub fn folder(&self) -> &Path {
        &self.settings.folder
    }

    /// Where the rotations are.
    pub fn rotations(&self) -> Vec<u64> {
        self.writer().state.rotations.clone()
    }

    /// Deletes the entry bundles below an index (rounded down to a whole bundle) that an entry of kind `prune` allows: call it
    /// with that entry, which is recorded first. Hashes stay, so proofs stay possible. Gives the index.
    ///
    /// # Errors
    /// When the disk refuses; what is deleted stays deleted.
    pub fn prune(&self, entry: &Taken, below: u64) -> Result<u64, LogError> {
        self.record(std::slice::from_ref(entry))?;
        self.writer().prune(below)
    }
}

impl Writer {
    pub(super) fn append(&mut self, entry: &Taken) {
        self.pending_bytes += entry.bytes.len() + 128;
        self.tail.append(entry, &mut self.finished);
        self.dirty = true;
    }

    fn was_known(&self, entry: &Taken) -> bool {
        !self.known.is_empty() && self.known.contains(&opening::short(&crate::audit::merkle::leaf_hash(&entry.bytes)))
    }

    fn make_room(&mut self) -> Result<(), LogError> {
        if self.pending_bytes < PENDING_LIMIT_BYTES { Ok(()) } else { self.commit() }
    }

    fn roll_back(&mut self, tail: Tail) {
        self.tail = tail;
        self.finished.clear();
        self.pending_bytes = 0;
        self.dirty = true;
        self.open = None;
    }

    /// Everything taken so far, on the disk. On failure all of it waits in memory for the next call, which writes new files.
    pub(super) fn commit(&mut self) -> Result<(), LogError> {
        if !self.dirty {
            return Ok(());
        }
        let result = self.try_commit();
        self.failures += u64::from(result.is_err());
        self.failing = result.as_ref().err().map(ToString::to_string);
        result
    }

    fn try_commit(&mut self) -> Result<(), LogError> {
        let partials = self.tail.partials();
        let new = partials.iter().filter(|(path, _)| !self.whole.contains(path));
        self.put(&below(&self.folder, self.finished.files.iter()))?;
        let (scratch, new) = (self.folder.join("tmp"), below(&self.folder, new));
        disk::place(self.disk.as_ref(), &scratch, &new).map_err(LogError::Disk)?;
        let open = self.keep_open()?;
        let (first, salts) = self.tail.salts();
        salts::store(self.disk.as_ref(), &self.folder, first, salts).map_err(LogError::Disk)?;
        let (size, root) = (self.tail.tree().size(), self.tail.tree().root().to_string());
        let state = State { size, root, ..self.state.clone() };
        let text = state.to_text(&self.keys).map_err(|error| LogError::Disk(io::Error::other(error)))?;
        self.put(&[(self.folder.join("state"), text.as_bytes())])?;
        self.state = state;
        self.open = Some(open);
        self.tail.salts_are_kept();
        // Only now: a row that stands there before its entry would find another one.
        self.finished.rows.iter().for_each(|(number, rows)| index::keep(&self.folder, *number, rows));
        self.finished.clear();
        self.pending_bytes = 0;
        self.dirty = false;
        self.whole = partials.into_iter().map(|(path, _)| path).collect();
        self.tidy(self.whole.clone());
        Ok(())
    }

    pub(super) fn put(&self, files: &[(PathBuf, &[u8])]) -> Result<(), LogError> {
        disk::put(self.disk.as_ref(), &self.folder.join("tmp"), files).map_err(LogError::Disk)
    }

    /// Deletes partial files that neither the last commits nor the last checkpoint need. One that stays is only a bit of space.
    fn tidy(&mut self, partials: Vec<PathBuf>) {
        self.kept.push_back((self.state.size, partials));
        let published = self.published.as_ref().map(|published| published.checkpoint.size);
        while self.kept.len() > KEPT_COMMITS
            && let Some(at) = self.kept.iter().position(|(size, _)| Some(*size) != published)
        {
            let Some((_, paths)) = self.kept.remove(at) else { return };
            for path in paths {
                let needed = self.kept.iter().any(|(_, others)| others.contains(&path));
                let whole = self.folder.join(&path);
                if !needed && self.disk.remove(&whole).is_ok() {
                    // Only an empty folder goes.
                    whole.parent().map(std::fs::remove_dir);
                }
            }
        }
    }

    fn publish(&mut self) -> Result<Published, LogError> {
        let result = self.try_publish();
        self.failures += u64::from(result.is_err());
        self.failing = result.as_ref().err().map(ToString::to_string);
        result
    }

    fn try_publish(&mut self) -> Result<Published, LogError> {
        let checkpoint = Checkpoint::new(self.keys.name(), self.state.size, self.tail.tree().root());
        let text = checkpoint.to_string();
        let note = Note { signatures: self.keys.sign(&text)?, text };
        self.replace("checkpoint", &note.to_string())?;
        let published = Published { checkpoint, note };
        self.published = Some(published.clone());
        Ok(published)
    }

    /// There is something to commit.
    pub(super) fn mark(&mut self) {
        self.dirty = true;
    }
}

/// Files with their paths below a folder.
fn below<'a>(folder: &Path, files: impl Iterator<Item = &'a Pending>) -> Vec<(PathBuf, &'a [u8])> {
    files.map(|(path, bytes)| (folder.join(path), &bytes[..])).collect()
}

#[cfg(test)]
pub(super) mod tests;
