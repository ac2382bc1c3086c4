//! The files of a log (c2sp.org/tlog-tiles): hash tiles and entry bundles, their paths and how they are read.
//!
//! A full tile holds 256 hashes, a full bundle 256 entries; they never change. The rightmost ones are partial and stand beside
//! (`<N>.p/<W>`). Nothing that is read is believed here: a caller compares it with a root. An entry has at most
//! [`ENTRY_LIMIT_BYTES`], as its length is written in two bytes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::audit::merkle::{Hash, Nodes, fold};

/// The number of hashes in a full tile and of entries in a full bundle.
pub const WIDTH: u64 = 256;

/// The largest entry.
pub const ENTRY_LIMIT_BYTES: usize = 65_535;

/// The most tiles that a reader keeps; a proof needs two for each level at most.
const KEPT_TILES: usize = 64;

/// What is said first of a file that is not there.
const MISSING: &str = "it is missing";

/// A file of a log that is not there or not what it must be.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {what}")]
pub struct TileError {
    /// Its path below the log's folder.
    pub path: String,
    /// What is wrong with it.
    pub what: String,
}

impl TileError {
    /// A fault of the file at `path`.
    pub fn new(path: impl Into<String>, what: impl Into<String>) -> Self {
        Self { path: path.into(), what: what.into() }
    }

    /// Whether the file is not there.
    pub fn is_missing(&self) -> bool {
        self.what.starts_with(MISSING)
    }
}

/// Which row of files: hash tiles of a level from 0, or the entries themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Row {
    /// Entry bundles.
    Entries,
    /// Hash tiles of a level.
    Level(u8),
}

/// The path of a file below the log's folder; `width` below 256 names a partial one.
pub fn path(row: Row, number: u64, width: u64) -> String {
    let row = match row {
        Row::Entries => "entries".to_owned(),
        Row::Level(level) => level.to_string(),
    };
    let partial = if width < WIDTH { format!(".p/{width}") } else { String::new() };
    format!("tile/{row}/{}{partial}", number_path(number))
}

/// A number in groups of three digits, all but the last behind an `x`: 1234067 is `x001/x234/067`.
pub fn number_path(number: u64) -> String {
    let mut text = format!("{:03}", number % 1000);
    let mut rest = number / 1000;
    while rest > 0 {
        text = format!("x{:03}/{text}", rest % 1000);
        rest /= 1000;
    }
    text
}

/// Reads a path as [`path`] writes it, and no other: row, number and width.
pub fn parse(name: &str) -> Option<(Row, u64, u64)> {
    let rest = name.strip_prefix("tile/")?;
    let (row, rest) = rest.split_once('/')?;
    let row = if row == "entries" { Row::Entries } else { Row::Level(row.parse().ok()?) };
    let (number, width) = match rest.split_once(".p/") {
        Some((number, width)) => (number, width.parse().ok()?),
        None => (rest, WIDTH),
    };
    let number = number.split('/').try_fold(0_u64, |sum, group| {
        sum.checked_mul(1000)?.checked_add(group.trim_start_matches('x').parse().ok()?)
    })?;
    (path(row, number, width) == name).then_some((row, number, width))
}

/// The number of things that a tree of `size` leaves has at a tile level.
pub fn count(row: Row, size: u64) -> u64 {
    match row {
        Row::Entries => size,
        Row::Level(level) => size.checked_shr(8 * u32::from(level)).unwrap_or(0),
    }
}

/// How wide the tile of that number is in a tree of that size; 0 if there is none.
pub fn width(row: Row, number: u64, size: u64) -> u64 {
    count(row, size).saturating_sub(number.saturating_mul(WIDTH)).min(WIDTH)
}

/// The entries of a bundle. Source: c2sp.org/tlog-tiles, section "Log entries".
///
/// # Errors
/// A sentence, when lengths and bytes do not fit.
pub fn entries(bundle: &[u8]) -> Result<Vec<&[u8]>, String> {
    let (mut entries, mut rest) = (Vec::new(), bundle);
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<2>().ok_or("it ends in the middle of a length")?;
        let length = usize::from(u16::from_be_bytes(*length));
        let number = entries.len();
        let (entry, after) =
            after.split_at_checked(length).ok_or(format!("it ends in the middle of entry {number}"))?;
        entries.push(entry);
        rest = after;
    }
    Ok(entries)
}

/// The first entries of a bundle that may hold anything behind them; `None` if it does not hold so many.
pub fn first_entries(bundle: &[u8], count: u64) -> Option<Vec<&[u8]>> {
    let mut rest = bundle;
    let next = |_| {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (entry, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        rest = after;
        Some(entry)
    };
    (0..count).map(next).collect()
}

/// The hashes of a tile.
pub fn hashes(tile: &[u8]) -> Option<Vec<Hash>> {
    tile.chunks(32).map(Hash::from_bytes).collect()
}

/// The bytes of a tile.
pub fn tile(hashes: &[Hash]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(hashes.len() * 32);
    hashes.iter().for_each(|hash| bytes.extend_from_slice(&hash.0));
    bytes
}

/// The file beside the checkpoint that names the folder of full files that were moved away: one line, absolute or from the log's
/// folder.
pub const ARCHIVE: &str = "archive";

/// The folder that full files were moved to, if any were.
pub fn archive(folder: &Path) -> Option<PathBuf> {
    let text = String::from_utf8(read_file(&folder.join(ARCHIVE), 64 * 1024).ok()?).ok()?;
    let name = text.trim_end_matches('\n');
    (!name.is_empty()).then(|| folder.join(name))
}

/// Where a file of the log is: in its folder, else among those that were moved away. It need not be there.
pub fn locate(folder: &Path, path: &str) -> PathBuf {
    let here = folder.join(path);
    if here.exists() {
        return here;
    }
    archive(folder).map(|moved| moved.join(path)).filter(|moved| moved.exists()).unwrap_or(here)
}

/// Reads a file that somebody else may have made: no more than `limit` bytes, and no pipe or device, which might have no end.
///
/// # Errors
/// When it is larger or no file, or the system fails.
pub fn read_file(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(limit).min(limit) + 1);
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// The most bytes of a file of that row.
fn limit(row: Row) -> usize {
    match row {
        Row::Entries => WIDTH as usize * (ENTRY_LIMIT_BYTES + 2),
        Row::Level(_) => WIDTH as usize * 32,
    }
}

/// Reads a file of a log as a tree of `size` leaves has it. Where the partial file of that width is gone, the full one or a wider
/// partial one serves, as the specification allows.
///
/// # Errors
/// When none is there, or the system fails.
pub fn read(folder: &Path, row: Row, number: u64, size: u64) -> Result<Vec<u8>, TileError> {
    let width = width(row, number, size);
    let exact = path(row, number, width);
    let failed = |error: io::Error| TileError::new(exact.clone(), error.to_string());
    let full = path(row, number, WIDTH);
    let here = [&exact, &full].map(|path| folder.join(path));
    let moved = || archive(folder).map(|moved| moved.join(&full));
    for candidate in here.into_iter().map(Some).chain(std::iter::once_with(moved)).flatten() {
        match read_file(&candidate, limit(row)) {
            Ok(bytes) => return Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    match wider(folder, row, number, width).map(|path| read_file(&path, limit(row))) {
        Some(bytes) => bytes.map_err(failed),
        None => {
            let moved =
                archive(folder).map(|moved| format!(", also from {}, where old files were moved to", moved.display()));
            Err(TileError::new(exact, format!("{MISSING}{}", moved.unwrap_or_default())))
        }
    }
}

/// The narrowest partial file of at least that width.
fn wider(folder: &Path, row: Row, number: u64, least: u64) -> Option<PathBuf> {
    let full = folder.join(path(row, number, WIDTH));
    let partials = PathBuf::from(format!("{}.p", full.display()));
    let names = fs::read_dir(&partials).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let width = names.filter_map(|name| name.parse().ok()).filter(|width: &u64| *width >= least).min()?;
    Some(partials.join(width.to_string()))
}

/// The entries of a bundle of a tree of that size, neither more nor fewer.
///
/// # Errors
/// When it is missing, malformed or too short.
pub fn read_entries(folder: &Path, number: u64, size: u64) -> Result<Vec<Vec<u8>>, TileError> {
    let bundle = read(folder, Row::Entries, number, size)?;
    let width = width(Row::Entries, number, size);
    let place = || path(Row::Entries, number, width);
    let all = entries(&bundle).map_err(|what| TileError::new(place(), what))?;
    if (all.len() as u64) < width {
        return Err(TileError::new(place(), format!("it holds {} entries, not {width}", all.len())));
    }
    Ok(all.into_iter().zip(0..width).map(|(entry, _)| entry.to_vec()).collect())
}

/// The hashes of a tree, read from its tiles. Keeps a few tiles; not for use by several threads.
#[derive(Debug)]
pub struct TreeFiles {
    folder: PathBuf,
    size: u64,
    kept: RefCell<HashMap<(u8, u64), Vec<Hash>>>,
}

impl TreeFiles {
    /// The tree of that size in a folder.
    pub fn new(folder: &Path, size: u64) -> Self {
        Self { folder: folder.to_owned(), size, kept: RefCell::default() }
    }

    fn hashes(&self, level: u8, number: u64) -> Result<Vec<Hash>, TileError> {
        let bytes = read(&self.folder, Row::Level(level), number, self.size)?;
        let width = width(Row::Level(level), number, self.size);
        let hashes = hashes(&bytes).filter(|hashes| hashes.len() as u64 >= width);
        hashes.ok_or_else(|| {
            let place = path(Row::Level(level), number, width);
            TileError::new(place, format!("it holds {} bytes, not {}", bytes.len(), width * 32))
        })
    }
}

impl Nodes for TreeFiles {
    type Error = TileError;

    fn node(&self, level: u8, index: u64) -> Result<Hash, TileError> {
        let (row, inside) = (level / 8, level % 8);
        let first = index << inside;
        let (number, at) = (first / WIDTH, usize::try_from(first % WIDTH).unwrap_or(0));
        let mut kept = self.kept.borrow_mut();
        if kept.len() > KEPT_TILES {
            kept.clear();
        }
        let hashes = match kept.entry((row, number)) {
            std::collections::hash_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::hash_map::Entry::Vacant(empty) => empty.insert(self.hashes(row, number)?),
        };
        hashes.get(at..at + (1 << inside)).and_then(fold).ok_or_else(|| {
            TileError::new(path(Row::Level(row), number, WIDTH), format!("it has no hashes from {at} on"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        assert_eq!(path(Row::Level(0), 1_234_067, 256), "tile/0/x001/x234/067");
        assert_eq!(path(Row::Entries, 0, 1), "tile/entries/000.p/1");
        assert_eq!(number_path(1000), "x001/000");
    }

    #[test]
    fn a_tree_of_70_000_has_the_tiles_that_the_specification_names() {
        let widths = |level| (0..300).map(|number| width(Row::Level(level), number, 70_000)).collect::<Vec<_>>();
        let full = |level| widths(level).iter().filter(|width| **width == 256).count();
        let partial = |level| widths(level).into_iter().filter(|width| (1..256).contains(width)).collect::<Vec<_>>();
        assert_eq!((full(0), partial(0)), (273, vec![112]));
        assert_eq!((full(1), partial(1)), (1, vec![17]));
        assert_eq!((full(2), partial(2)), (0, vec![1]));
        assert_eq!((full(3), partial(3)), (0, vec![]));
        assert_eq!((width(Row::Level(0), 0, 256), width(Row::Level(1), 0, 256)), (256, 1));
    }

    #[test]
    fn a_bundle_that_is_cut_says_where() {
        assert_eq!(entries(b"\0\x01a\0\0\0\x02bc").unwrap(), [&b"a"[..], b"", b"bc"]);
        assert!(entries(b"\0\x01a\0").unwrap_err().contains("length"));
        assert!(entries(b"\0\x01a\0\x02b").unwrap_err().contains("entry 1"));
    }
}
