//! One line of the journal: `⏎ checksum space kind space JSON ⏎`.
//!
//! The checksum is the CRC-32 (IEEE 802.3) of everything between it and the line end, in eight hexadecimal digits. A line brings
//! its own line end on both sides, so a torn line before it (a full disk, a crash) cannot swallow it; readers skip empty lines.
//! JSON holds no raw line end, so a line end always is one.

use std::io::Write;

use serde::{Deserialize, Serialize};

use super::JournalError;
use super::recent::{Recent, Written};
use crate::ledger::record::{Amendment, Record};
use crate::unit::charge::Charge;
use crate::unit::clock::Timestamp;
use crate::unit::event::Event;

/// What the journal carries.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "nearly every line is a record, so a box would cost more than it saves")]
pub enum Line {
    /// An exchange that ended.
    Record(Record),
    /// Something that became known about an exchange afterwards.
    Amend(Amendment),
    /// Something that happened to the gateway itself.
    Event(Event),
    /// What counters are charged without the record of an exchange: reservations that nobody ended.
    Charges(Vec<Charge>),
    /// Something should be here and is not.
    Gap(Gap),
}

/// What is missing from the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// When that was noticed.
    pub at: Timestamp,
    /// Why, in a word: `journal_damaged` (a line cannot be read back), `journal_refused` (lines were never taken).
    pub reason: String,
    /// What is known about it.
    pub detail: String,
}

impl Line {
    /// The id of what the line is about.
    pub fn id(&self) -> uuid::Uuid {
        match self {
            Self::Record(record) => record.id.0,
            Self::Amend(amendment) => amendment.id.0,
            Self::Event(event) => event.id,
            Self::Charges(_) | Self::Gap(_) => uuid::Uuid::nil(),
        }
    }

    /// What it adds to counters of limits.
    pub fn charges(&self) -> &[Charge] {
        match self {
            Self::Record(record) => &record.charges,
            Self::Amend(amendment) => &amendment.charges,
            Self::Event(_) | Self::Gap(_) => &[],
            Self::Charges(charges) => charges,
        }
    }
}

impl Line {
    /// The record, if it is one.
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Record(record) => Some(record),
            Self::Amend(_) | Self::Event(_) | Self::Charges(_) | Self::Gap(_) => None,
        }
    }

    /// The amendment, if it is one.
    pub fn amendment(&self) -> Option<&Amendment> {
        match self {
            Self::Amend(amendment) => Some(amendment),
            Self::Record(_) | Self::Event(_) | Self::Charges(_) | Self::Gap(_) => None,
        }
    }
}

/// The longest line, in bytes. Callers bound the texts of a record far below it.
pub const MAX_LINE_BYTES: usize = 1024 * 1024;

const RECORD: u8 = b'r';
const AMENDMENT: u8 = b'a';
const EVENT: u8 = b'e';
const CHARGES: u8 = b'c';
const GAP: u8 = b'g';
/// The line end, the eight digits and a space.
const HEAD: usize = 10;

/// Writes a line into the buffer, in place of what is there; gives its checksum.
pub(super) fn encode(line: &Line, frame: &mut Vec<u8>) -> Result<Written, JournalError> {
    match line {
        Line::Record(record) => encode_record(record, frame),
        Line::Amend(amendment) => frame_json(AMENDMENT, amendment, frame),
        Line::Event(event) => frame_json(EVENT, event, frame),
        Line::Charges(charges) => frame_json(CHARGES, charges, frame),
        Line::Gap(gap) => frame_json(GAP, gap, frame),
    }
}

/// Writes the line of a record into the buffer, in place of what is there.
pub(super) fn encode_record(record: &Record, frame: &mut Vec<u8>) -> Result<Written, JournalError> {
    frame_json(RECORD, record, frame)
}

fn frame_json<T: Serialize>(kind: u8, value: &T, frame: &mut Vec<u8>) -> Result<Written, JournalError> {
    frame.clear();
    frame.extend_from_slice(b"\n00000000 ");
    frame.extend_from_slice(&[kind, b' ']);
    serde_json::to_writer(&mut *frame, value).map_err(JournalError::Encode)?;
    let checksum = crc32fast::hash(frame.get(HEAD..).unwrap_or_default());
    frame.push(b'\n');
    if frame.len() > MAX_LINE_BYTES {
        return Err(JournalError::TooLong { bytes: frame.len() });
    }
    if let Some(mut digits) = frame.get_mut(1..HEAD) {
        write!(digits, "{checksum:08x}").map_err(JournalError::Disk)?;
    }
    Ok(Written(checksum))
}

/// Reads a line without its line ends; `None` when it is torn, damaged, or of a kind that this program does not know. A record
/// that was just written is taken from there.
pub(super) fn decode(line: &[u8], recent: &Recent) -> Option<Line> {
    let (digits, rest) = line.split_at_checked(8)?;
    let checksum = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    let payload = rest.strip_prefix(b" ")?;
    if crc32fast::hash(payload) != checksum {
        return None;
    }
    // One check for the whole line is cheaper than one for each string in it.
    let (kind, json) = simdutf8::basic::from_utf8(payload).ok()?.split_at_checked(2)?;
    match kind.as_bytes() {
        [RECORD, b' '] => recent.take(checksum, json).or_else(|| serde_json::from_str(json).ok()).map(Line::Record),
        [AMENDMENT, b' '] => serde_json::from_str(json).ok().map(Line::Amend),
        [EVENT, b' '] => serde_json::from_str(json).ok().map(Line::Event),
        [CHARGES, b' '] => serde_json::from_str(json).ok().map(Line::Charges),
        [GAP, b' '] => serde_json::from_str(json).ok().map(Line::Gap),
        _ => None,
    }
}
