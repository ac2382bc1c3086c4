//! The right edge of a log in memory: what the next entry is hashed with, and the partial files that it is written to.
//!
//! Its size is that of one bundle and one tile a level, whatever the size of the log. It can always be made again from the
//! full files left of it and the last entries; nothing of a partial hash tile is believed.

use std::path::{Path, PathBuf};

use crate::audit::index;
use crate::audit::merkle::{Frontier, Hash, Nodes, fold, leaf_hash};
use crate::audit::salts::{self, SALT_BYTES};
use crate::audit::tiles::{self, Row, TileError, TreeFiles, WIDTH};

/// A file that is to be written, below the audit folder.
pub type Pending = (PathBuf, Vec<u8>);

/// Where the public files are, below the audit folder.
pub const LOG: &str = "log";

/// The last checkpoint that enough witnesses cosigned, beside the checkpoint.
pub const WITNESSED: &str = "witnessed";

/// An entry on its way into the log.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The salt of its commitments; zeros if it has none.
    pub salt: [u8; SALT_BYTES],
    /// Its row in the index.
    pub row: index::Row,
}

/// The right edge of a log.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    tree: Frontier,
    /// The hashes of the unfinished tile of each level.
    levels: Vec<Vec<Hash>>,
    bundle: Vec<u8>,
    rows: Vec<u8>,
    salts: Vec<u8>,
}

impl Tail {
    /// Reads the edge of a log of that size.
    ///
    /// # Errors
    /// When a file that it needs is missing or malformed.
    pub fn load(audit: &Path, size: u64) -> Result<Self, TileError> {
        let log = audit.join(LOG);
        let mut tail = Self::default();
        let mut row = 0;
        while tiles::count(Row::Level(row), size) > 0 {
            tail.levels.push(unfinished(&log, row, size)?);
            row += 1;
        }
        if !size.is_multiple_of(WIDTH) {
            let entries = tiles::read_entries(&log, size / WIDTH, size)?;
            tail.rows = index::rows(entries.iter().map(Vec::as_slice));
            entries.iter().for_each(|entry| push_entry(&mut tail.bundle, entry));
            let place = || salts::path(size / WIDTH).display().to_string();
            tail.salts =
                salts::load(audit, size / WIDTH).map_err(|error| TileError::new(place(), error.to_string()))?;
            tail.salts.resize(entries.len() * SALT_BYTES, 0);
        }
        tail.tree = Frontier::read(size, &Edge(&tail.levels))?;
        Ok(tail)
    }

    /// Adds an entry; the files that it finishes go to `finished`. About 3 µs for 1 KiB.
    pub fn append(&mut self, entry: &Taken, finished: &mut Vec<Pending>) {
        let number = self.tree.size() / WIDTH;
        let leaf = leaf_hash(&entry.bytes);
        push_entry(&mut self.bundle, &entry.bytes);
        self.rows.extend_from_slice(&entry.row);
        self.salts.extend_from_slice(&entry.salt);
        self.tree.append(leaf);
        if self.tree.size().is_multiple_of(WIDTH) {
            finished.push((file(Row::Entries, number, WIDTH), std::mem::take(&mut self.bundle)));
            finished.push((index::path(number), std::mem::take(&mut self.rows)));
            let salts = std::mem::take(&mut self.salts);
            finished.extend(salts::any(&salts).then(|| (salts::path(number), salts)));
        }
        self.push(0, leaf, number, finished);
    }

    fn push(&mut self, level: usize, hash: Hash, number: u64, finished: &mut Vec<Pending>) {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        let Some(tile) = self.levels.get_mut(level) else { return };
        tile.push(hash);
        if tile.len() as u64 == WIDTH {
            let full = std::mem::take(tile);
            finished.push((file(row(level), number, WIDTH), tiles::tile(&full)));
            if let Some(above) = fold(&full) {
                self.push(level + 1, above, number / WIDTH, finished);
            }
        }
    }

    /// The partial files of the present size.
    pub fn partials(&self) -> Vec<Pending> {
        let size = self.tree.size();
        let mut files = Vec::new();
        for (level, tile) in self.levels.iter().enumerate().filter(|(_, tile)| !tile.is_empty()) {
            let number = tiles::count(row(level), size) / WIDTH;
            files.push((file(row(level), number, tile.len() as u64), tiles::tile(tile)));
        }
        if !self.bundle.is_empty() {
            files.push((file(Row::Entries, size / WIDTH, size % WIDTH), self.bundle.clone()));
            files.extend(salts::any(&self.salts).then(|| (salts::path(size / WIDTH), self.salts.clone())));
        }
        files
    }

    /// Forgets the salt of an entry, if that is in the unfinished bundle.
    pub fn erase_salt(&mut self, index: u64) {
        if index / WIDTH == self.tree.size() / WIDTH
            && let Some(salt) = self.salts.get_mut(salts::place(index))
        {
            salt.fill(0);
        }
    }

    /// The tree.
    pub fn tree(&self) -> &Frontier {
        &self.tree
    }
}

/// The hashes of a tree whose unfinished tiles are taken from memory, as those on the disk may be torn.
pub struct Mended<'a> {
    /// The right edge.
    pub tail: &'a Tail,
    /// The rest.
    pub files: TreeFiles,
}

impl Nodes for Mended<'_> {
    type Error = TileError;

    fn node(&self, level: u8, index: u64) -> Result<Hash, TileError> {
        let (row, inside) = (level / 8, level % 8);
        let unfinished = tiles::count(Row::Level(row), self.tail.tree.size()) / WIDTH;
        if (index << inside) / WIDTH == unfinished {
            Edge(&self.tail.levels).node(level, index)
        } else {
            self.files.node(level, index)
        }
    }
}

fn row(level: usize) -> Row {
    // A tree of 2^64 leaves has 8 levels.
    Row::Level(u8::try_from(level).unwrap_or(u8::MAX))
}

fn file(row: Row, number: u64, width: u64) -> PathBuf {
    Path::new(LOG).join(tiles::path(row, number, width))
}

fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) {
    // `Entry::to_bytes` keeps to this length.
    bundle.extend_from_slice(&u16::try_from(entry.len()).unwrap_or(u16::MAX).to_be_bytes());
    bundle.extend_from_slice(entry);
}

/// The hashes of the unfinished tile of a level, from the full tiles (or the entries) below it.
fn unfinished(log: &Path, level: u8, size: u64) -> Result<Vec<Hash>, TileError> {
    let count = tiles::count(Row::Level(level), size);
    if level == 0 {
        if size.is_multiple_of(WIDTH) {
            return Ok(Vec::new());
        }
        let entries = tiles::read_entries(log, size / WIDTH, size)?;
        return Ok(entries.iter().map(|entry| leaf_hash(entry)).collect());
    }
    let below = Row::Level(level - 1);
    let first = count / WIDTH * WIDTH;
    (first..count)
        .map(|number| {
            let bytes = tiles::read(log, below, number, size)?;
            let hashes = tiles::hashes(&bytes).filter(|hashes| hashes.len() as u64 == WIDTH);
            hashes.as_deref().and_then(fold).ok_or_else(|| {
                let what = format!("it holds {} bytes, not 8192", bytes.len());
                TileError::new(tiles::path(below, number, WIDTH), what)
            })
        })
        .collect()
}

/// The complete subtrees at the right edge are all in the unfinished tiles.
struct Edge<'a>(&'a [Vec<Hash>]);

impl Nodes for Edge<'_> {
    type Error = TileError;

    fn node(&self, level: u8, index: u64) -> Result<Hash, TileError> {
        let (row, inside) = (level / 8, level % 8);
        let first = usize::try_from((index << inside) % WIDTH).unwrap_or(0);
        let hashes = self.0.get(usize::from(row)).and_then(|tile| tile.get(first..first + (1 << inside)));
        hashes.and_then(fold).ok_or_else(|| TileError::new(format!("tile/{row}"), "the edge of the tree has a hole"))
    }
}
