//! How entries are found: by id, key, principal, model, verdict, time and more.
//!
//! A full bundle has 256 rows of 64 bytes: the time, the id, and four bytes of a checksum of each text that a search may ask for;
//! 64 bundles share a file. A row that may match is compared with the entry itself, so a checksum that is equal by chance finds
//! nothing wrong. The files hold nothing of their own, so they are not forced to the disk: rows that are missing or damaged are
//! made again from their bundle. A search reads 16 KiB for each 256 entries, newest first.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use uuid::Uuid;

use crate::audit::entry::Exchange;
use crate::audit::tiles::{self, TileError, WIDTH};
use crate::unit::clock::Timestamp;

/// The size of a row.
pub const ROW_BYTES: usize = 64;

/// The texts that a search may ask for, in the order of their checksums.
const TEXTS: usize = 9;

/// One row: time (8 bytes), id (16), nine checksums (36), a check over all of it (4).
pub type Row = [u8; ROW_BYTES];

/// What a search looks at.
#[derive(Debug, Deserialize)]
pub struct Seen<'a> {
    /// When, RFC 3339.
    #[serde(borrow)]
    pub at: Cow<'a, str>,
    /// What kind of entry.
    #[serde(borrow)]
    pub kind: Cow<'a, str>,
    /// The id of the exchange.
    pub id: Option<Uuid>,
    /// The id of the key.
    #[serde(borrow)]
    pub key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    org: Option<Cow<'a, str>>,
    #[serde(borrow)]
    team: Option<Cow<'a, str>>,
    #[serde(borrow)]
    user: Option<Cow<'a, str>>,
    #[serde(borrow)]
    model_requested: Option<Cow<'a, str>>,
    #[serde(borrow)]
    model_served: Option<Cow<'a, str>>,
    #[serde(borrow)]
    subject: Option<Cow<'a, str>>,
    #[serde(borrow)]
    outcome: Option<Cow<'a, str>>,
    #[serde(borrow)]
    verdict: Option<SeenVerdict<'a>>,
    /// The note of a rotation.
    #[serde(borrow)]
    pub note: Option<Cow<'a, str>>,
    /// What a prune says.
    pub detail: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct SeenVerdict<'a> {
    #[serde(borrow)]
    effective: Cow<'a, str>,
}

impl<'a> Seen<'a> {
    /// Reads an entry.
    ///
    /// # Errors
    /// When it is no entry.
    pub fn parse(entry: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(entry)
    }

    fn time(&self) -> i64 {
        Timestamp::parse(&self.at).map_or(0, Timestamp::micros)
    }

    fn texts(&self) -> [Option<&str>; TEXTS] {
        [
            self.key.as_deref(),
            self.org.as_deref(),
            self.team.as_deref(),
            self.user.as_deref(),
            self.model_requested.as_deref(),
            self.model_served.as_deref(),
            self.subject.as_deref(),
            Some(&self.kind),
            self.verdict.as_ref().map(|verdict| &*verdict.effective).or(self.outcome.as_deref()),
        ]
    }

    /// The row of this entry.
    pub fn row(&self) -> Row {
        row(self.time(), self.id.unwrap_or(Uuid::nil()), self.texts())
    }
}

/// The row of an exchange's entry, without reading what was just written.
pub(super) fn row_of(exchange: &Exchange) -> Row {
    let texts = [
        exchange.key.as_deref(),
        exchange.org.as_deref(),
        exchange.team.as_deref(),
        exchange.user.as_deref(),
        exchange.model_requested.as_deref(),
        exchange.model_served.as_deref(),
        None,
        Some(exchange.kind()),
        Some(exchange.verdict.as_ref().map_or(&*exchange.outcome, |verdict| &*verdict.effective)),
    ];
    row(exchange.at.micros(), exchange.id.0, texts)
}

/// The row of an entry. One that is no entry of this program gets a row that nothing matches but time.
pub(super) fn row_of_bytes(entry: &[u8]) -> Row {
    Seen::parse(entry).map_or_else(|_| row(0, Uuid::nil(), [None; TEXTS]), |seen| seen.row())
}

fn row(time: i64, id: Uuid, texts: [Option<&str>; TEXTS]) -> Row {
    let mut row = Vec::with_capacity(ROW_BYTES);
    row.extend_from_slice(&time.to_be_bytes());
    row.extend_from_slice(id.as_bytes());
    for text in texts {
        row.extend_from_slice(&text.map_or(0, checksum).to_be_bytes());
    }
    let check = crc32fast::hash(&row);
    row.extend_from_slice(&check.to_be_bytes());
    row.try_into().unwrap_or([0; ROW_BYTES])
}

/// Four bytes that stand for a text; 0 stands for none.
fn checksum(text: &str) -> u32 {
    crc32fast::hash(text.as_bytes()).max(1)
}

/// What is searched for; every part that is there must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The id of an exchange.
    pub id: Option<Uuid>,
    /// The id of a key.
    pub key: Option<String>,
    /// An organisation.
    pub org: Option<String>,
    /// A team.
    pub team: Option<String>,
    /// A user.
    pub user: Option<String>,
    /// A model, as asked for or as served.
    pub model: Option<String>,
    /// What an event happened to.
    pub subject: Option<String>,
    /// The kind of entry.
    pub kind: Option<String>,
    /// What was done by the gate's verdict, or the outcome where the gate was not asked.
    pub verdict: Option<String>,
    /// At this time or later.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
}

impl Filter {
    fn texts(&self) -> [Option<&str>; TEXTS] {
        [
            self.key.as_deref(),
            self.org.as_deref(),
            self.team.as_deref(),
            self.user.as_deref(),
            None,
            None,
            self.subject.as_deref(),
            self.kind.as_deref(),
            self.verdict.as_deref(),
        ]
    }

    fn in_time(&self, at: i64) -> bool {
        self.since.is_none_or(|since| since.micros() <= at) && self.until.is_none_or(|until| at < until.micros())
    }

    /// Whether the entry of a row may match.
    pub fn may_match(&self, row: &[u8]) -> bool {
        let word =
            |at: usize| row.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes);
        let time = row.first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes));
        let text = |at: usize| word(24 + 4 * at);
        let wanted = self.texts().into_iter().enumerate();
        self.in_time(time)
            && self.id.is_none_or(|id| row.get(8..24) == Some(id.as_bytes()))
            && wanted.filter_map(|(at, wanted)| Some((at, wanted?))).all(|(at, wanted)| text(at) == checksum(wanted))
            && self.model.as_deref().is_none_or(|model| [text(4), text(5)].contains(&checksum(model)))
    }

    /// Whether an entry matches.
    pub fn matches(&self, seen: &Seen<'_>) -> bool {
        let texts = seen.texts();
        let same = |(wanted, found): (Option<&str>, Option<&str>)| wanted.is_none_or(|wanted| found == Some(wanted));
        let model = |model: &str| {
            [&seen.model_requested, &seen.model_served].iter().any(|found| found.as_deref() == Some(model))
        };
        self.in_time(seen.time())
            && self.id.is_none_or(|id| seen.id == Some(id))
            && self.texts().into_iter().zip(texts).all(same)
            && self.model.as_deref().is_none_or(model)
    }
}

/// The rows of entries.
pub fn rows<'a>(entries: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    entries.flat_map(row_of_bytes).collect()
}

/// So many bundles share a file.
const BUNDLES: u64 = 64;

/// The bytes of the rows of a full bundle.
const BUNDLE_BYTES: usize = WIDTH as usize * ROW_BYTES;

/// The path of the file with the rows of a full bundle, below the audit folder.
fn path(number: u64) -> PathBuf {
    PathBuf::from(format!("index/{BUNDLES}/{}", tiles::number_path(number / BUNDLES)))
}

/// Where the rows of a bundle begin in their file.
fn place(number: u64) -> u64 {
    number % BUNDLES * BUNDLE_BYTES as u64
}

/// The rows of a bundle: of its file if that is whole, else made from the entries. A file that was missing is written again; if
/// that fails the next search makes the rows again.
///
/// # Errors
/// When the bundle cannot be read.
pub fn load(audit: &Path, log: &Path, number: u64, size: u64) -> Result<Vec<u8>, TileError> {
    let width = tiles::width(tiles::Row::Entries, number, size);
    if width == WIDTH
        && let Some(rows) = stored(&audit.join(path(number)), number)
    {
        return Ok(rows);
    }
    let entries = tiles::read_entries(log, number, size)?;
    let rows = rows(entries.iter().map(Vec::as_slice));
    if width == WIDTH {
        keep(audit, number, &rows);
    }
    Ok(rows)
}

/// The rows of a full bundle from their file, if they are all there and whole.
fn stored(file: &Path, number: u64) -> Option<Vec<u8>> {
    let mut rows = vec![0; BUNDLE_BYTES];
    fs::File::open(file).and_then(|file| file.read_exact_at(&mut rows, place(number))).ok()?;
    is_whole(&rows).then_some(rows)
}

/// Keeps the rows of a full bundle. If that fails, the next search makes them again.
pub fn keep(audit: &Path, number: u64, rows: &[u8]) {
    if let Err(error) = write(audit, number, rows) {
        tracing::warn!(%error, "the audit index cannot be written; searches make its rows each time");
    }
}

fn write(audit: &Path, number: u64, rows: &[u8]) -> io::Result<()> {
    let path = audit.join(path(number));
    let open = || fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path.parent().unwrap_or(&path))?;
            open()?
        }
        opened => opened?,
    };
    file.write_all_at(rows, place(number))
}

/// Deletes the rows of bundles that are gone.
///
/// # Errors
/// Those of the system.
pub fn forget(audit: &Path, bundles: Range<u64>) -> io::Result<()> {
    for number in bundles {
        let file = audit.join(path(number));
        // An earlier build kept a file for each bundle.
        let own = audit.join("index").join(tiles::number_path(number));
        let gone = |done: io::Result<()>| match done {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        };
        gone(fs::remove_file(own))?;
        match (number + 1) % BUNDLES {
            0 => gone(fs::remove_file(file))?,
            _ if file.exists() => write(audit, number, &[0; BUNDLE_BYTES])?,
            _ => {}
        }
    }
    Ok(())
}

/// Makes the index of the full bundles in a range again from the log itself; how many there were. Works beside a running gateway.
///
/// # Errors
/// When a bundle cannot be read or a file not be written.
pub fn rebuild((audit, log): (&Path, &Path), (from, size): (u64, u64)) -> Result<u64, TileError> {
    let full = from / WIDTH..size / WIDTH;
    for number in full.clone() {
        let entries = tiles::read_entries(log, number, size)?;
        let rows = rows(entries.iter().map(Vec::as_slice));
        write(audit, number, &rows)
            .map_err(|error| TileError::new(path(number).display().to_string(), error.to_string()))?;
    }
    Ok(full.end.saturating_sub(full.start))
}

fn is_whole(rows: &[u8]) -> bool {
    let (rows, rest) = rows.as_chunks::<ROW_BYTES>();
    let fits = |row: &Row| {
        let (data, check) = row.split_at(ROW_BYTES - 4);
        crc32fast::hash(data).to_be_bytes() == check
    };
    rest.is_empty() && rows.len() as u64 == WIDTH && rows.iter().all(fits)
}

/// The newest entries below `before` that match, newest first, at most `limit`, each with its index. Pruned bundles hold none.
///
/// # Errors
/// When a bundle that should be there cannot be read.
pub fn search(
    (audit, log): (&Path, &Path),
    (from, before): (u64, u64),
    filter: &Filter,
    limit: usize,
) -> Result<Vec<(u64, Vec<u8>)>, TileError> {
    let mut found = Vec::new();
    let bundles = (from / WIDTH..before.div_ceil(WIDTH)).rev();
    for number in bundles {
        let rows = load(audit, log, number, before.max(1))?;
        let places = rows.chunks(ROW_BYTES).enumerate().rev();
        let likely: Vec<usize> = places.filter(|(_, row)| filter.may_match(row)).map(|(at, _)| at).collect();
        if likely.is_empty() {
            continue;
        }
        let mut entries = tiles::read_entries(log, number, before)?;
        for at in likely {
            let index = number * WIDTH + at as u64;
            let entry = entries.get_mut(at).map(std::mem::take).unwrap_or_default();
            if index < before && index >= from && Seen::parse(&entry).is_ok_and(|seen| filter.matches(&seen)) {
                found.push((index, entry));
                if found.len() == limit {
                    return Ok(found);
                }
            }
        }
    }
    Ok(found)
}

/// The first index whose bundle holds an entry that is not older than a time: what is below may go, in whole bundles.
///
/// # Errors
/// When a bundle that should be there cannot be read.
pub fn older_than(folders: (&Path, &Path), (first, size): (u64, u64), before: Timestamp) -> Result<u64, TileError> {
    let newer = Filter { since: Some(before), ..Filter::default() };
    let mut below = first;
    while below + WIDTH <= size && search(folders, (below, below + WIDTH), &newer, 1)?.is_empty() {
        below += WIDTH;
    }
    Ok(below)
}
