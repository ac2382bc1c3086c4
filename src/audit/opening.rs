//! How a log is opened: what is on the disk must be one log, at one size, under our keys, or it is not opened.
//!
//! Partial files are made again, so torn ones mend themselves; a lost state is made again from the checkpoint, and entries that
//! the journal then offers twice are recognised by their hashes. Whatever else does not fit is a contradiction that names the
//! file and the figures. A whole folder put back to an old copy is consistent in itself: only a checkpoint kept elsewhere or a
//! witness can tell.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::audit::checkpoint::Checkpoint;
use crate::audit::disk::Disk;
use crate::audit::index::Seen;
use crate::audit::key::SigningKeys;
use crate::audit::log::{LogError, Published};
use crate::audit::merkle::{self, Hash};
use crate::audit::policy::Policy;
use crate::audit::rotation;
use crate::audit::state::State;
use crate::audit::tail::{LOG, Mended, Tail, WITNESSED};
use crate::audit::tiles::{self, Row, TileError, TreeFiles, WIDTH};

/// So many of the last entries are recognised when a lost state makes the journal offer them again.
const KNOWN_LIMIT: u64 = 1_000_000;

/// An opened log.
pub struct Opened {
    pub state: State,
    pub tail: Tail,
    pub published: Option<Published>,
    /// The last checkpoint that witnesses cosigned, as far as it is of this log.
    pub witnessed: Option<Published>,
    /// Whether the log uses the next keys already.
    pub uses_next: bool,
    /// Partial files at the right edge, below the audit folder.
    pub partials: Vec<PathBuf>,
    pub known: HashSet<u64>,
    pub lock: File,
    /// What to note in the log, if its state was lost.
    pub lost: Option<String>,
}

/// Opens the log in a folder, or begins one.
///
/// # Errors
/// Those of [`super::log::Log::open`].
pub fn open(
    folder: &Path,
    keys: &SigningKeys,
    next: Option<&SigningKeys>,
    disk: &dyn Disk,
) -> Result<Opened, LogError> {
    let scratch = folder.join("tmp");
    disk.create_folders(&scratch).map_err(LogError::Disk)?;
    let lock = lock(folder)?;
    for left in fs::read_dir(&scratch).map_err(LogError::Disk)?.flatten() {
        disk.remove(&left.path()).map_err(LogError::Disk)?;
    }
    let candidates: Vec<&SigningKeys> = [keys].into_iter().chain(next).collect();
    let checkpoint = read(&folder.join(LOG).join("checkpoint"))?;
    let (state, signed, lost) = match read(&folder.join("state"))? {
        Some(bytes) => {
            let parsed = State::parse(&bytes, &candidates);
            let (state, signed) = parsed.map_err(|what| contradiction(folder, "state", &what))?;
            (state, signed, None)
        }
        None => without_state(folder, &candidates, checkpoint.as_deref())?,
    };
    let tail = Tail::load(folder, state.size, state.root());
    let tail = tail.map_err(|error| unreadable(folder, &error))?;
    if state.root() != Some(tail.tree().root()) {
        let text = format!(
            "the tiles of size {} have the root {}, the state says {}: a tile or entry was changed",
            state.size,
            tail.tree().root(),
            state.root
        );
        return Err(contradiction(folder, "log/tile", &text));
    }
    let check = |file: &'static str, bytes: Vec<u8>| checked((folder, file), &bytes, &state, &tail);
    let published = checkpoint.map(|bytes| check("log/checkpoint", bytes)).transpose()?;
    adopt_witnessed(folder, disk)?;
    let witnessed = read(&folder.join("log/witnessed"))?.map(|bytes| check("log/witnessed", bytes)).transpose()?;
    let known = match state.rebuilt {
        Some(size) if state.size < size + KNOWN_LIMIT => known(folder, size)?,
        _ => HashSet::new(),
    };
    let partials = sound(folder, partials(folder, state.size), &tail, disk)?;
    Ok(Opened { state, tail, published, witnessed, uses_next: signed == 1, partials, known, lock, lost })
}

fn lock(folder: &Path) -> Result<File, LogError> {
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(folder.join("lock"));
    let file = file.map_err(LogError::Disk)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(LogError::Busy(folder.display().to_string())),
        Err(error) => Err(LogError::Disk(error.into())),
    }
}

fn contradiction(folder: &Path, file: &str, what: &str) -> LogError {
    LogError::Contradiction(format!("{}: {what}", folder.join(file).display()))
}

/// A file that is missing or malformed, by its whole path.
fn unreadable(folder: &Path, error: &TileError) -> LogError {
    let below =
        if error.path.starts_with("tile/") { Path::new(LOG).join(&error.path) } else { error.path.clone().into() };
    contradiction(folder, &below.display().to_string(), &error.what)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, LogError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(LogError::Disk(error)),
    }
}

/// The first logs kept the last witnessed checkpoint outside of the public files.
fn adopt_witnessed(folder: &Path, disk: &dyn Disk) -> Result<(), LogError> {
    let (old, new) = (folder.join("witnessed"), folder.join(LOG).join(WITNESSED));
    if old.exists() && !new.exists() { disk.rename(&old, &new).map_err(LogError::Disk) } else { Ok(()) }
}

/// A new log, or one whose state was lost.
fn without_state(
    folder: &Path,
    candidates: &[&SigningKeys],
    checkpoint: Option<&[u8]>,
) -> Result<(State, usize, Option<String>), LogError> {
    let public = |keys: &SigningKeys| keys.public().each_ref().map(ToString::to_string);
    let mut state = State { root: merkle::empty_root().to_string(), ..State::default() };
    let Some(bytes) = checkpoint else {
        if folder.join(LOG).join("tile").exists() {
            let text = "there are tiles, but neither a state nor a checkpoint: put the folder back as it was, or begin a new \
                        log under another origin in another folder";
            return Err(contradiction(folder, "state", text));
        }
        state.generations = candidates.first().map(|keys| public(keys)).into_iter().collect();
        return Ok((state, 0, None));
    };
    let signed = candidates.iter().position(|keys| Policy::of_log(keys.public()).check(bytes).is_ok());
    let signed = signed.ok_or_else(|| {
        contradiction(folder, "state", "it is missing, and the checkpoint is not signed by the log's keys")
    })?;
    let (checkpoint, _) =
        Checkpoint::from_note(bytes).map_err(|error| contradiction(folder, "checkpoint", &error.0))?;
    state.size = checkpoint.size;
    state.root = checkpoint.root.to_string();
    state.generations = candidates.get(signed).map(|keys| public(keys)).into_iter().collect();
    remember(folder, &mut state)?;
    state.rebuilt = Some(checkpoint.size);
    let lost =
        format!("the writer's state was lost; it was made again from the checkpoint of size {}", checkpoint.size);
    Ok((state, signed, Some(lost)))
}

/// What the entries themselves say about rotations and pruning.
fn remember(folder: &Path, state: &mut State) -> Result<(), LogError> {
    let log = folder.join(LOG);
    let mut older = Vec::new();
    for number in 0..state.size.div_ceil(WIDTH) {
        if state.pruned == number * WIDTH
            && !tiles::locate(&log, &tiles::path(Row::Entries, number, WIDTH)).exists()
            && state.size >= (number + 1) * WIDTH
        {
            state.pruned += WIDTH;
            continue;
        }
        for (at, entry) in tiles::read_entries(&log, number, state.size)?.iter().enumerate() {
            let Ok(seen) = Seen::parse(entry) else { continue };
            if seen.kind == "rotation" {
                state.rotations.push(number * WIDTH + at as u64);
            }
        }
    }
    for note in rotation::load(&log).map_err(LogError::Disk)? {
        let keys: Vec<String> = note.lines().filter_map(|line| line.strip_prefix("old ").map(str::to_owned)).collect();
        older.extend(<[String; 2]>::try_from(keys));
    }
    older.append(&mut state.generations);
    state.generations = older;
    Ok(())
}

/// The checkpoint, if it is ours and the tiles have its root.
fn checked((folder, file): (&Path, &str), bytes: &[u8], state: &State, tail: &Tail) -> Result<Published, LogError> {
    let wrong = |what: &str| contradiction(folder, file, what);
    let policy = Policy::of_log(&state.keys());
    policy.check(bytes).map_err(|error| wrong(&error.to_string()))?;
    let (checkpoint, note) = Checkpoint::from_note(bytes).map_err(|error| wrong(&error.0))?;
    if checkpoint.size > state.size {
        let text = format!(
            "it signs {} entries, but the state knows {}: the state or the tiles are an older copy",
            checkpoint.size, state.size
        );
        return Err(wrong(&text));
    }
    let tree = Mended { tail, files: TreeFiles::new(&folder.join(LOG), state.size) };
    let root = merkle::root(checkpoint.size, &tree).map_err(|error| unreadable(folder, &error))?;
    if root != checkpoint.root {
        let text = format!("it signs the root {} at size {}, the tiles have {root}", checkpoint.root, checkpoint.size);
        return Err(wrong(&text));
    }
    Ok(Published { checkpoint, note })
}

/// What stands for a leaf hash among those that may come again.
pub fn short(hash: &Hash) -> u64 {
    hash.0.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

fn known(folder: &Path, size: u64) -> Result<HashSet<u64>, LogError> {
    let first = size.saturating_sub(KNOWN_LIMIT) / WIDTH;
    let mut known = HashSet::new();
    for number in first..size.div_ceil(WIDTH) {
        let bytes = tiles::read(&folder.join(LOG), Row::Level(0), number, size)?;
        known.extend(tiles::hashes(&bytes).unwrap_or_default().iter().map(short));
    }
    Ok(known)
}

/// Those of the partial files that are the beginnings of what is there now. A loss of power tears others, as they are not forced to
/// the disk; they go, and whoever asks for one is given a wider one.
fn sound(folder: &Path, partials: Vec<PathBuf>, tail: &Tail, disk: &dyn Disk) -> Result<Vec<PathBuf>, LogError> {
    let size = tail.tree().size();
    let present = tail.partials();
    let mut kept = Vec::new();
    for path in partials {
        let named = path.strip_prefix(LOG).ok().and_then(|name| tiles::parse(name.to_str()?));
        let Some((row, number, width)) = named else { continue };
        let edge = Path::new(LOG).join(tiles::path(row, number, tiles::width(row, number, size)));
        let whole = match present.iter().find(|(path, _)| *path == edge) {
            Some((_, bytes)) => Some(bytes.clone()),
            None => tiles::read(&folder.join(LOG), row, number, size).ok(),
        };
        let beginning = |bytes: Vec<u8>| {
            let long = match row {
                Row::Level(_) => bytes.len() as u64 == width * 32,
                Row::Entries => tiles::entries(&bytes).is_ok_and(|entries| entries.len() as u64 == width),
            };
            long && whole.is_some_and(|whole| whole.starts_with(&bytes))
        };
        if !read(&folder.join(&path))?.is_some_and(beginning) {
            tracing::warn!(file = %path.display(), "a partial file of the audit log is not what it must be; it is made again");
            disk.remove(&folder.join(&path)).map_err(LogError::Disk)?;
        } else {
            kept.push(path);
        }
    }
    Ok(kept)
}

/// The partial files of the tiles at the right edge and left of it, which a crash may have left.
fn partials(folder: &Path, size: u64) -> Vec<PathBuf> {
    let levels = (0..8).map(Row::Level).chain([Row::Entries]);
    let edges = levels.flat_map(|row| {
        let number = tiles::count(row, size) / WIDTH;
        [Some(number), number.checked_sub(1)].into_iter().flatten().map(move |number| (row, number))
    });
    let folders = edges.map(|(row, number)| PathBuf::from(format!("{LOG}/{}.p", tiles::path(row, number, WIDTH))));
    let files = folders.flat_map(|partial| {
        let names = fs::read_dir(folder.join(&partial)).into_iter().flatten().flatten();
        names.map(|name| partial.join(name.file_name())).collect::<Vec<_>>()
    });
    files.collect()
}
