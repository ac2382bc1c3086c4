//! CSV with a heading: columns by name, rows one by one, places as line numbers.

use csv::{ByteRecord, ReaderBuilder};

use super::row::{Export, ExportRow};

/// The most lines before the heading (Google writes some about the invoice).
const PREAMBLE_LIMIT: usize = 64;

/// A row by the names of its columns.
pub(super) struct Cells<'a> {
    heading: &'a [String],
    record: &'a ByteRecord,
}

impl<'a> Cells<'a> {
    /// The cell of the first of these columns that the file has; `None` if it has none or the cell is empty.
    pub(super) fn get(&self, names: &[&str]) -> Option<&'a str> {
        let index = names.iter().find_map(|name| self.heading.iter().position(|column| column == name))?;
        let text = std::str::from_utf8(self.record.get(index)?).ok()?.trim();
        (!text.is_empty()).then_some(text)
    }

    /// The same for a cell that is needed.
    pub(super) fn need(&self, names: &[&str]) -> Result<&'a str, String> {
        self.get(names).ok_or_else(|| format!("the column {:?} is missing or empty", names.first().unwrap_or(&"")))
    }

    /// The cell of the first column whose name begins like this.
    pub(super) fn begins(&self, prefix: &str) -> Option<&'a str> {
        let index = self.heading.iter().position(|column| column.starts_with(prefix))?;
        std::str::from_utf8(self.record.get(index)?).ok().map(str::trim).filter(|text| !text.is_empty())
    }
}

/// Reads a file whose heading has one of these sets of columns (names in small letters); lines before it are passed over.
///
/// # Errors
/// When there is no such heading, or a bound is passed.
pub(super) fn read(
    bytes: &[u8],
    headings: &[&[&str]],
    mut row: impl FnMut(&Cells<'_>) -> Result<Option<ExportRow>, String>,
) -> Result<Export, String> {
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    let mut record = ByteRecord::new();
    let mut heading: Option<Vec<String>> = None;
    let mut export = Export::default();
    let mut passed = 0;
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => return Err(format!("The file is not CSV: {error}.")),
        }
        let Some(heading) = &heading else {
            let names: Vec<String> =
                record.iter().map(|cell| String::from_utf8_lossy(cell).trim().to_lowercase()).collect();
            let fits = |columns: &&[&str]| columns.iter().all(|column| names.iter().any(|name| name == column));
            passed += 1;
            if headings.iter().any(fits) {
                heading = Some(names);
            } else if passed > PREAMBLE_LIMIT {
                break;
            }
            continue;
        };
        let line = record.position().map_or(0, |at| line_of(bytes, at));
        let result = match fits(heading.len(), &record) {
            Ok(()) => row(&Cells { heading, record: &record }),
            Err(text) => Err(text),
        };
        export.take(|| format!("line {line}"), result)?;
    }
    match heading {
        Some(_) => Ok(export),
        None => {
            let wanted: Vec<String> = headings.iter().map(|columns| columns.join(", ")).collect();
            let hint = if is_separated_otherwise(bytes) {
                " Columns are separated by commas; take the file as it was downloaded."
            } else {
                ""
            };
            Err(format!("The file has no heading with the columns {}.{hint}", wanted.join("; or ")))
        }
    }
}

/// Whether a row has as many cells as the heading; further ones are empty.
fn fits(columns: usize, record: &ByteRecord) -> Result<(), String> {
    let cells = record.len();
    if cells < columns || record.iter().skip(columns).any(|cell| !cell.trim_ascii().is_empty()) {
        return Err(format!("it has {cells} cells where the heading has {columns}"));
    }
    Ok(())
}

/// The line that a record begins in. What ends the line before, where that is CRLF, and empty lines belong to its position.
fn line_of(bytes: &[u8], at: &csv::Position) -> u64 {
    let rest = usize::try_from(at.byte()).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
    let ends = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).filter(|byte| **byte == b'\n').count();
    at.line().saturating_add(ends as u64)
}

/// Whether the first line has more semicolons or tabs than commas, as spreadsheets write it in some countries.
fn is_separated_otherwise(bytes: &[u8]) -> bool {
    let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let count = |wanted: u8| first.iter().filter(|byte| **byte == wanted).count();
    count(b';').max(count(b'\t')) > count(b',')
}
