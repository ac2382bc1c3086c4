//! Verification of a whole log by somebody who does not trust its owner: with the public files, public keys, and checkpoints that
//! he kept, and nothing else.
//!
//! Every entry is hashed, every tile compared, the root computed and compared with the signed checkpoint and with each older one.
//! The first fault ends it and names the file or entry and what does not fit. Entries past their retention may be missing from
//! the beginning on, as far as an entry of kind `prune` says; their hashes are verified all the same. Memory is flat; a million
//! entries take some seconds on one core.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use crate::audit::checkpoint::Checkpoint;
use crate::audit::entry::canonical;
use crate::audit::index::Seen;
use crate::audit::merkle::{Frontier, Hash, fold, is_consistent, leaf_hash};
use crate::audit::note::{NOTE_LIMIT_BYTES, PublicKey};
use crate::audit::policy::{Policy, PolicyError, Standing};
use crate::audit::rotation;
use crate::audit::tail::WITNESSED;
use crate::audit::tiles::{self, Row, WIDTH};
use crate::audit::witness::AddCheckpoint;

/// The largest file of a log: a bundle of the largest entries.
const STALE_LIMIT_BYTES: usize = WIDTH as usize * (tiles::ENTRY_LIMIT_BYTES + 2);

/// What does not fit, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file (below the log's folder), entry or checkpoint.
    pub place: String,
    /// What is wrong with it.
    pub what: String,
}

impl Fault {
    /// A fault.
    pub fn new(place: impl Into<String>, what: impl fmt::Display) -> Self {
        Self { place: place.into(), what: what.to_string() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.place, self.what)
    }
}

impl std::error::Error for Fault {}

impl From<tiles::TileError> for Fault {
    fn from(error: tiles::TileError) -> Self {
        Self { place: error.path, what: error.what }
    }
}

/// A checkpoint that somebody kept, and what he calls it.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its name in messages, such as the path of its file.
    pub name: String,
    /// The signed note.
    pub note: Vec<u8>,
}

/// What was found good.
#[derive(Clone, Debug)]
pub struct Report {
    /// The checkpoint and its signatures.
    pub standing: Standing,
    /// How many entries were read and hashed.
    pub entries: u64,
    /// How many are known by their hashes only.
    pub pruned: u64,
    /// How often the log went over to new keys.
    pub rotations: usize,
    /// The older checkpoints that the log continues, by name and size.
    pub continues: Vec<(String, u64)>,
    /// How far the log is witnessed as the policy asks; `None` if it asks for no witness.
    pub witnessed: Option<Standing>,
}

/// Verifies the log in a folder (the one with `checkpoint` and `tile/`). How far enough witnesses cosigned it is in the report,
/// not an error: the newest checkpoint of a log that is being written is not cosigned yet.
///
/// # Errors
/// The first fault.
pub fn log(folder: &Path, policy: &Policy, kept: &[Kept]) -> Result<Report, Fault> {
    // A log may be written meanwhile: whatever is read before its checkpoint is not newer than that.
    let witnessed = witnessed(folder)?;
    let bytes = tiles::read_file(&folder.join("checkpoint"), NOTE_LIMIT_BYTES)
        .map_err(|error| Fault::new("checkpoint", error))?;
    let (checkpoint, _) = Checkpoint::from_note(&bytes).map_err(|error| Fault::new("checkpoint", error))?;
    let wrong = |error: &PolicyError| Fault::new("checkpoint", error);
    match policy.standing(&bytes) {
        // The keys that signed may be ones that the log went over to.
        Ok(_) | Err(PolicyError::Missing { .. }) => {}
        Err(error) => return Err(wrong(&error)),
    }
    let continued = kept.len();
    let kept: Vec<Kept> = kept.iter().cloned().chain(witnessed).collect();
    let mut marks: Vec<(String, Checkpoint)> = Vec::new();
    for Kept { name, note } in &kept {
        marks.push((name.clone(), mark(name, note, &checkpoint)?));
    }
    let mut walk = Walk::new(folder, &checkpoint, &marks);
    walk.run()?;
    let mut trusted = policy.clone();
    let mut rotations = rotation::load(folder).map_err(|error| Fault::new(rotation::FILE, error))?;
    compare_rotations(&rotations, &walk)?;
    if let Some((_, last)) = walk.rotations.last().filter(|(_, last)| rotations.last() != Some(last)) {
        rotations.push(last.clone());
    }
    is_chain(&rotations)?;
    let refused = rotation::apply_all(&mut trusted, &checkpoint.origin, &rotations);
    let standing = trusted.standing(&bytes).map_err(|error| match refused {
        Some(refused) => Fault::new("checkpoint", format!("{error}; and {refused}")),
        None => wrong(&error),
    })?;
    in_force("checkpoint", &bytes, &trusted, &walk)?;
    let mut standings = vec![standing.clone()];
    for Kept { name, note } in &kept {
        standings.push(trusted.standing(note).map_err(|error| Fault::new(name.clone(), error))?);
        in_force(name, note, &trusted, &walk)?;
    }
    strays(folder, checkpoint.size)?;
    let witnessed = standings.into_iter().filter(|one| trusted.asks_for_witnesses() && one.witnessed);
    let continues = marks.iter().take(continued).map(|(name, mark)| (name.clone(), mark.size)).collect();
    Ok(Report {
        entries: checkpoint.size - walk.pruned,
        pruned: walk.pruned,
        rotations: walk.rotations.len(),
        continues,
        witnessed: witnessed.max_by_key(|one| one.checkpoint.size),
        standing,
    })
}

/// A checkpoint is signed by the keys that the last rotation in it names: keys that were given up may be in anybody's hands.
fn in_force(name: &str, note: &[u8], trusted: &Policy, walk: &Walk<'_>) -> Result<(), Fault> {
    let (checkpoint, note) = Checkpoint::from_note(note).map_err(|error| Fault::new(name, error))?;
    let Some((index, last)) = walk.rotations.iter().rfind(|(index, _)| *index < checkpoint.size) else { return Ok(()) };
    let [_, keys] = rotation::keys(last).map_err(|error| Fault::new(format!("entry {index}"), error))?;
    let signed = trusted.only(&keys).signed(&note, &checkpoint.origin, checkpoint.size);
    signed.map(drop).map_err(|error| {
        Fault::new(
            name,
            format!("it is signed by keys that the log gave up in entry {index}, not by those after it: {error}"),
        )
    })
}

/// Each rotation goes on from the keys of the one before: those that were given up cannot name others.
fn is_chain(notes: &[String]) -> Result<(), Fault> {
    let mut before: Option<[PublicKey; 2]> = None;
    for (number, note) in notes.iter().enumerate() {
        let [old, new] = rotation::keys(note).map_err(|error| Fault::new(rotation::FILE, error))?;
        if before.is_some_and(|before| before != old) {
            let text =
                format!("rotation {number} is from keys that the log gave up before, not from those that it had");
            return Err(Fault::new(rotation::FILE, text));
        }
        before = Some(new);
    }
    Ok(())
}

/// The list of rotations says what their entries say. The last may be missing from it, as it is written after its entry; the
/// entries of the first may be past their retention.
fn compare_rotations(listed: &[String], walk: &Walk<'_>) -> Result<(), Fault> {
    let is_end = |entries: &[(u64, String)]| {
        let skipped = listed.len().checked_sub(entries.len());
        let listed = skipped.and_then(|skipped| listed.get(skipped..)).unwrap_or_default();
        listed.len() == entries.len() && listed.iter().zip(entries).all(|(listed, (_, note))| listed == note)
    };
    let entries = walk.rotations.as_slice();
    match entries {
        [] => Ok(()),
        _ if is_end(entries) => Ok(()),
        [before @ .., _] if is_end(before) && (walk.pruned > 0 || listed.len() == before.len()) => Ok(()),
        [.., (last, _)] => {
            let text =
                format!("it is not what the log itself says in its rotations, the last of which is entry {last}");
            Err(Fault::new(rotation::FILE, text))
        }
    }
}

/// The last checkpoint that enough witnesses cosigned, if the log has one.
fn witnessed(folder: &Path) -> Result<Option<Kept>, Fault> {
    match tiles::read_file(&folder.join(WITNESSED), NOTE_LIMIT_BYTES) {
        Ok(note) => Ok(Some(Kept { name: WITNESSED.to_owned(), note })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::new(WITNESSED, error)),
    }
}

fn mark(name: &str, note: &[u8], checkpoint: &Checkpoint) -> Result<Checkpoint, Fault> {
    let (mark, _) = Checkpoint::from_note(note).map_err(|error| Fault::new(name, error))?;
    if mark.origin != checkpoint.origin {
        return Err(Fault::new(
            name,
            format!("it is of the log {:?}, this log is {:?}", mark.origin, checkpoint.origin),
        ));
    }
    if mark.size > checkpoint.size {
        let (kept, found) = (mark.size, checkpoint.size);
        let text = format!(
            "the log has {found} entries, but {name} signs {kept}: {} entries were cut off, or an older copy was put back",
            kept - found
        );
        return Err(Fault::new("checkpoint", text));
    }
    Ok(mark)
}

/// One pass over a log.
struct Walk<'a> {
    folder: &'a Path,
    checkpoint: &'a Checkpoint,
    marks: &'a [(String, Checkpoint)],
    tree: Frontier,
    levels: Vec<Vec<Hash>>,
    pruned: u64,
    allowed: u64,
    rotations: Vec<(u64, String)>,
}

impl<'a> Walk<'a> {
    fn new(folder: &'a Path, checkpoint: &'a Checkpoint, marks: &'a [(String, Checkpoint)]) -> Self {
        let tree = Frontier::default();
        Self { folder, checkpoint, marks, tree, levels: Vec::new(), pruned: 0, allowed: 0, rotations: Vec::new() }
    }

    fn run(&mut self) -> Result<(), Fault> {
        let size = self.checkpoint.size;
        self.compare_marks()?;
        for number in 0..size.div_ceil(WIDTH) {
            self.bundle(number)?;
        }
        for level in 0..self.levels.len() {
            let tile = self.levels.get(level).cloned().unwrap_or_default();
            if !tile.is_empty() {
                self.compare_tile(level, tiles::count(row(level), size) / WIDTH, &tile)?;
            }
        }
        if self.tree.root() != self.checkpoint.root {
            let (signed, found) = (self.checkpoint.root, self.tree.root());
            let text = format!("it signs the root {signed} at size {size}, but the entries have the root {found}");
            return Err(Fault::new("checkpoint", text));
        }
        if self.pruned > self.allowed {
            let (pruned, allowed) = (self.pruned, self.allowed);
            let text = format!("the entries below {pruned} are missing, but the log allows that only below {allowed}");
            return Err(Fault::new(tiles::path(Row::Entries, allowed / WIDTH, WIDTH), text));
        }
        Ok(())
    }

    fn bundle(&mut self, number: u64) -> Result<(), Fault> {
        let size = self.checkpoint.size;
        let width = tiles::width(Row::Entries, number, size);
        let tile = tiles::read(self.folder, Row::Level(0), number, size)?;
        let hashes = tiles::hashes(&tile).unwrap_or_default();
        let (tile_place, place) = (tiles::path(Row::Level(0), number, width), tiles::path(Row::Entries, number, width));
        if (hashes.len() as u64) < width {
            return Err(Fault::new(tile_place, format!("it holds {} bytes, not {}", tile.len(), width * 32)));
        }
        let leaves = match tiles::read_entries(self.folder, number, size) {
            Ok(entries) => Some(entries),
            Err(error) if error.is_missing() && self.pruned == number * WIDTH && width == WIDTH => None,
            Err(error) => return Err(error.into()),
        };
        if leaves.is_none() {
            self.pruned += WIDTH;
        }
        for (at, expected) in hashes.iter().take(usize::try_from(width).unwrap_or(0)).enumerate() {
            let index = self.tree.size();
            if let Some(entry) = leaves.as_ref().and_then(|entries| entries.get(at)) {
                if leaf_hash(entry) != *expected {
                    let text = format!("entry {index} ({place}, number {at}) does not have the hash of {tile_place}");
                    return Err(Fault::new(format!("entry {index}"), text + ": it was changed, moved or replaced"));
                }
                self.read(index, entry)?;
            }
            self.append(*expected)?;
        }
        Ok(())
    }

    fn read(&mut self, index: u64, entry: &[u8]) -> Result<(), Fault> {
        canonical::check(entry).map_err(|what| {
            Fault::new(
                format!("entry {index}"),
                format!("it is not written as RFC 8785 asks, so it may say two things: {what}"),
            )
        })?;
        let seen = Seen::parse(entry)
            .map_err(|error| Fault::new(format!("entry {index}"), format!("it is no entry: {error}")))?;
        match (&*seen.kind, seen.note) {
            ("rotation", Some(note)) => self.rotations.push((index, note.into_owned())),
            ("prune", _) => {
                let below = seen.detail.as_ref().and_then(|detail| detail.get("below")?.as_u64());
                self.allowed = self.allowed.max(below.unwrap_or(0));
            }
            _ => {}
        }
        Ok(())
    }

    fn append(&mut self, leaf: Hash) -> Result<(), Fault> {
        let number = self.tree.size() / WIDTH;
        self.tree.append(leaf);
        self.compare_marks()?;
        self.push(0, leaf, number)
    }

    fn push(&mut self, level: usize, hash: Hash, number: u64) -> Result<(), Fault> {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        let Some(tile) = self.levels.get_mut(level) else { return Ok(()) };
        tile.push(hash);
        if (tile.len() as u64) < WIDTH {
            return Ok(());
        }
        let full = std::mem::take(tile);
        self.compare_tile(level, number, &full)?;
        match fold(&full) {
            Some(above) => self.push(level + 1, above, number / WIDTH),
            None => Ok(()),
        }
    }

    /// Level 0 was compared hash by hash.
    fn compare_tile(&self, level: usize, number: u64, computed: &[Hash]) -> Result<(), Fault> {
        let stored = tiles::read(self.folder, row(level), number, self.checkpoint.size)?;
        let computed = tiles::tile(computed);
        if stored.get(..computed.len()) == Some(computed.as_slice()) {
            return Ok(());
        }
        let at =
            stored.iter().zip(&computed).position(|(stored, computed)| stored != computed).unwrap_or(stored.len()) / 32;
        let place = tiles::path(row(level), number, computed.len() as u64 / 32);
        Err(Fault::new(place, format!("hash {at} is not the one of the tile below it: one of the two was changed")))
    }

    fn compare_marks(&self) -> Result<(), Fault> {
        let here = self.marks.iter().filter(|(_, mark)| mark.size == self.tree.size());
        for (name, mark) in here {
            let root = self.tree.root();
            if root != mark.root {
                let text = format!(
                    "{name} signs the root {} at size {}, this log has {root} there: it was rewritten or forked below that size",
                    mark.root, mark.size
                );
                return Err(Fault::new("checkpoint", text));
            }
        }
        Ok(())
    }
}

fn row(level: usize) -> Row {
    // A tree of 2^64 leaves has 8 levels.
    Row::Level(u8::try_from(level).unwrap_or(u8::MAX))
}

/// Partial files of smaller trees must be the beginnings of the present ones, and nothing else may lie about.
fn strays(folder: &Path, size: u64) -> Result<(), Fault> {
    let mut folders = vec![folder.join("tile")];
    while let Some(here) = folders.pop() {
        for entry in fs::read_dir(&here).into_iter().flatten().flatten() {
            let path = entry.path();
            // A link to a folder is not followed: it may lead round in a circle.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
                continue;
            }
            if path.is_dir() {
                continue;
            }
            let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
            let (row, number, width) =
                tiles::parse(&name).ok_or_else(|| Fault::new(&name, "it is no file of a log"))?;
            let present = tiles::width(row, number, size);
            // What is beyond the checkpoint is not signed yet.
            if width < present {
                let stale = tiles::read_file(&path, STALE_LIMIT_BYTES).map_err(|error| Fault::new(&name, error))?;
                let whole = match tiles::read(folder, row, number, size) {
                    Err(error) if row == Row::Entries && error.is_missing() => continue,
                    other => other?,
                };
                if whole.get(..stale.len()) != Some(stale.as_slice()) {
                    return Err(Fault::new(&name, "it is not the beginning of the file that came after it"));
                }
            }
        }
    }
    Ok(())
}

/// Verifies that one checkpoint continues another, by a proof alone. `proof` is the text of a tlog-witness request (`old SIZE`,
/// the hashes, an empty line, the new checkpoint). `rotations` are the statements by which the log went over to new keys between
/// the two, if it did.
///
/// # Errors
/// The first fault.
pub fn consistency(
    old: &Kept,
    proof: &[u8],
    policy: &Policy,
    rotations: &[String],
) -> Result<(Standing, Standing), Fault> {
    let request = AddCheckpoint::parse(proof).map_err(|error| Fault::new("proof", error))?;
    let (named, _) =
        Checkpoint::from_note(request.checkpoint.as_bytes()).map_err(|error| Fault::new("proof", error))?;
    let mut policy = policy.clone();
    is_chain(rotations)?;
    rotation::apply_all(&mut policy, &named.origin, rotations);
    let before = policy.standing(&old.note).map_err(|error| Fault::new(&old.name, error))?;
    let after = policy.standing(request.checkpoint.as_bytes()).map_err(|error| Fault::new("proof", error))?;
    let (first, second) = (&before.checkpoint, &after.checkpoint);
    if first.origin != second.origin {
        return Err(Fault::new(
            "proof",
            format!("it is of the log {:?}, {} of {:?}", second.origin, old.name, first.origin),
        ));
    }
    if request.old != first.size {
        return Err(Fault::new("proof", format!("it begins at size {}, {} has {}", request.old, old.name, first.size)));
    }
    if !is_consistent((first.size, first.root), (second.size, second.root), &request.proof) {
        let (first, second) = (first.size, second.size);
        let text = format!(
            "it does not show that the log of size {second} continues that of size {first}: the log may be forked"
        );
        return Err(Fault::new("proof", text));
    }
    Ok((before, after))
}

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod tests;
