//! The right edge of a log in memory: what the next entry is hashed with, and the partial files that it is written to.
//!
//! Its size is that of one bundle and one tile a level, whatever the size of the log. It can always be made again from the
//! full files left of it and the last entries. Those stand in the file `tail`, which grows in place and is forced to the disk
//! with each commit, so the partial files that are served need not be: nothing of them is believed, and a loss of power may tear
//! them (`a_loss_of_power_at_any_moment_loses_nothing`).

use std::path::{Path, PathBuf};

use crate::audit::index;
use crate::audit::merkle::{Frontier, Hash, Nodes, fold, leaf_hash};
use crate::audit::salts::{self, SALT_BYTES};
use crate::audit::tiles::{self, Row, TileError, TreeFiles, WIDTH};

/// A file that is to be written, below the audit folder.
pub type Pending = (PathBuf, Vec<u8>);

/// What full bundles and tiles left to be written.
#[derive(Debug, Default)]
pub struct Finished {
    /// Tiles and bundles.
    pub files: Vec<Pending>,
    /// The rows of the index, by the number of their bundle.
    pub rows: Vec<(u64, Vec<u8>)>,
}

impl Finished {
    /// Forgets all.
    pub fn clear(&mut self) {
        self.files.clear();
        self.rows.clear();
    }
}

/// Where the public files are, below the audit folder.
pub const LOG: &str = "log";

/// The entries of the unfinished bundle, below the audit folder; what stands behind them is of earlier bundles.
pub const OPEN: &str = "tail";

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
    /// The salts that are not on the disk yet, and the index of the first.
    salts: (u64, Vec<u8>),
}

impl Tail {
    /// Reads the edge of a log of that size and root. Where no copy of the last entries has that root, it is the one that is served,
    /// with another root.
    ///
    /// # Errors
    /// When a file that it needs is missing or malformed.
    pub fn load(audit: &Path, size: u64, root: Option<Hash>) -> Result<Self, TileError> {
        let log = audit.join(LOG);
        let mut edge = Self::default();
        let mut row = 0;
        while tiles::count(Row::Level(row), size) > 0 {
            edge.levels.push(if row == 0 { Vec::new() } else { unfinished(&log, row, size)? });
            row += 1;
        }
        if size.is_multiple_of(WIDTH) {
            return edge.with(&[], size);
        }
        let served = || tiles::read_entries(&log, size / WIDTH, size);
        for copy in [open_entries(audit, size), served().ok(), full_entries(&log, size)].into_iter().flatten() {
            let mut tail = edge.with(&copy, size)?;
            if Some(tail.tree.root()) == root {
                let place = || salts::path(size / WIDTH).display().to_string();
                let mut salts =
                    salts::load(audit, size / WIDTH).map_err(|error| TileError::new(place(), error.to_string()))?;
                salts.resize(copy.len() * SALT_BYTES, 0);
                tail.salts.1 = salts;
                return Ok(tail);
            }
        }
        edge.with(&served()?, size)
    }

    /// This edge of full tiles, with the entries of the unfinished bundle.
    fn with(&self, entries: &[Vec<u8>], size: u64) -> Result<Self, TileError> {
        let mut tail = self.clone();
        if let Some(leaves) = tail.levels.first_mut() {
            leaves.extend(entries.iter().map(|entry| leaf_hash(entry)));
        }
        tail.rows = index::rows(entries.iter().map(Vec::as_slice));
        entries.iter().for_each(|entry| push_entry(&mut tail.bundle, entry));
        // Those of an unfinished bundle are written again: an earlier build has them elsewhere.
        tail.salts.0 = size / WIDTH * WIDTH;
        tail.tree = Frontier::read(size, &Edge(&tail.levels))?;
        Ok(tail)
    }

    /// Adds an entry; the files that it finishes go to `finished`. About 3 µs for 1 KiB.
    pub fn append(&mut self, entry: &Taken, finished: &mut Finished) {
        let number = self.tree.size() / WIDTH;
        let leaf = leaf_hash(&entry.bytes);
        push_entry(&mut self.bundle, &entry.bytes);
        self.rows.extend_from_slice(&entry.row);
        self.salts.1.extend_from_slice(&entry.salt);
        let above = self.tree.append(leaf);
        if self.tree.size().is_multiple_of(WIDTH) {
            // The next one is about as long.
            let next = Vec::with_capacity(self.bundle.len());
            finished.files.push((file(Row::Entries, number, WIDTH), std::mem::replace(&mut self.bundle, next)));
            finished.rows.push((number, std::mem::take(&mut self.rows)));
        }
        let mut number = number;
        for (level, hash) in std::iter::once(leaf).chain(above).enumerate() {
            self.push(level, hash, number, finished);
            number /= WIDTH;
        }
    }

    fn push(&mut self, level: usize, hash: Hash, number: u64, finished: &mut Finished) {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        let Some(tile) = self.levels.get_mut(level) else { return };
        tile.push(hash);
        if tile.len() as u64 == WIDTH {
            finished.files.push((file(row(level), number, WIDTH), tiles::tile(tile)));
            tile.clear();
        }
    }

    /// The entries of the unfinished bundle, as its file has them.
    pub fn bundle(&self) -> &[u8] {
        &self.bundle
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
        }
        files
    }

    /// The salts that are not on the disk yet, and the index of the first.
    pub fn salts(&self) -> (u64, &[u8]) {
        (self.salts.0, &self.salts.1)
    }

    /// Says that all salts are on the disk.
    pub fn salts_are_kept(&mut self) {
        self.salts.0 = self.tree.size();
        self.salts.1.clear();
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

/// The entries of the unfinished bundle, if the file for them holds so many.
fn open_entries(audit: &Path, size: u64) -> Option<Vec<Vec<u8>>> {
    first_entries(&std::fs::read(audit.join(OPEN)).ok()?, size)
}

/// The same from the full bundle, which stands there already when a process died before it said so.
fn full_entries(log: &Path, size: u64) -> Option<Vec<Vec<u8>>> {
    let number = size / WIDTH;
    first_entries(&tiles::read(log, Row::Entries, number, (number + 1) * WIDTH).ok()?, size)
}

fn first_entries(bundle: &[u8], size: u64) -> Option<Vec<Vec<u8>>> {
    Some(tiles::first_entries(bundle, size % WIDTH)?.into_iter().map(<[u8]>::to_vec).collect())
}

/// The hashes of the unfinished tile of a level above the lowest, from the full tiles below it.
fn unfinished(log: &Path, level: u8, size: u64) -> Result<Vec<Hash>, TileError> {
    let count = tiles::count(Row::Level(level), size);
    let below = Row::Level(level.saturating_sub(1));
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
