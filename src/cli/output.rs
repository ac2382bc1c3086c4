//! What commands print: a table for people, JSON or YAML for programs. Nothing here panics when the reader goes away.

use std::io::{self, Write};

use clap::ValueEnum;
use serde_json::Value;

use crate::cli::failure::{Failure, Result};

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns.
    #[default]
    Table,
    /// One indented JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// One column of a table: its heading and where its value is (a JSON pointer, RFC 6901).
pub type Column = (&'static str, &'static str);

/// Prints a text and a line end.
///
/// # Errors
/// When the standard output cannot be written.
pub fn line(text: &str) -> Result {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// Prints one of many things that come one by one: a JSON object a line, in YAML one document after another.
///
/// # Errors
/// When the standard output cannot be written.
pub fn entry(format: Format, json: &str) -> Result {
    if format != Format::Yaml {
        return line(json);
    }
    let value: Value = serde_json::from_str(json).map_err(|error| Failure::failed(error.to_string()))?;
    let text = serde_saphyr::to_string(&value).map_err(|error| Failure::failed(error.to_string()))?;
    line(&format!("---\n{}", text.trim_end()))
}

/// Prints bytes as they are.
///
/// # Errors
/// When the standard output cannot be written.
pub fn raw(bytes: &[u8]) -> Result {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Prints a list of rows. JSON and YAML get the whole answer, the table gets `rows` of it.
///
/// # Errors
/// When there is no such list in the answer, because it is not one of Marg's; when the standard output cannot be written.
pub fn list(format: Format, answer: &Value, rows: &str, columns: &[Column]) -> Result {
    let Some(rows) = answer.pointer(rows).and_then(Value::as_array) else {
        return Err(Failure::failed("The server's answer holds no such list; is it Marg?"));
    };
    match format {
        Format::Table => line(table(rows, columns).trim_end()),
        Format::Json | Format::Yaml => document(format, answer),
    }
}

/// Prints one thing, as a table of its fields or as a document.
///
/// # Errors
/// When the standard output cannot be written.
pub fn item(format: Format, answer: &Value) -> Result {
    if format != Format::Table {
        return document(format, answer);
    }
    let mut fields: Vec<(&String, String)> =
        answer.as_object().into_iter().flatten().map(|(name, value)| (name, text(Some(value)))).collect();
    // What people look for first comes first; the rest is in alphabetical order.
    let place = |name: &str| ["id", "name", "label", "status"].iter().position(|first| *first == name).unwrap_or(4);
    fields.sort_by(|(one, _), (other, _)| place(one).cmp(&place(other)).then_with(|| one.cmp(other)));
    let width = fields.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let lines: Vec<String> = fields.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect();
    line(&lines.join("\n"))
}

/// Says that a thing is gone.
///
/// # Errors
/// When the standard output cannot be written.
pub fn deleted(format: Format, id: &str) -> Result {
    match format {
        Format::Table => line(&format!("deleted {}", text(Some(&Value::from(id))))),
        _ => item(format, &serde_json::json!({ "deleted": id })),
    }
}

fn document(format: Format, answer: &Value) -> Result {
    let text = match format {
        Format::Yaml => serde_saphyr::to_string(answer).map_err(|error| Failure::failed(error.to_string()))?,
        _ => serde_json::to_string_pretty(answer).map_err(|error| Failure::failed(error.to_string()))?,
    };
    line(text.trim_end())
}

/// Rows under headings, each column as wide as its widest value.
pub fn table(rows: &[Value], columns: &[Column]) -> String {
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|(_, pointer)| text(row.pointer(pointer))).collect()).collect();
    let headings: Vec<String> = columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
    let all = || std::iter::once(&headings).chain(&cells);
    let widths: Vec<usize> = (0..columns.len())
        .map(|column| all().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    all().map(|row| aligned(row, &widths)).collect()
}

/// One row of a table whose widths are known beforehand, as for rows that come one by one. Ends with a line end.
pub fn aligned(cells: &[String], widths: &[usize]) -> String {
    let padded: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
    format!("{}\n", padded.join("  ").trim_end())
}

/// A value as a cell: `-` for nothing, lists joined, objects as `name=value`. Control characters, with which a value from
/// outside could steer a terminal, become `?`, and so do those that no one sees but that reorder or hide others.
pub fn text(value: Option<&Value>) -> String {
    let plain = match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(true)) => "yes".to_owned(),
        Some(Value::Bool(false)) => "no".to_owned(),
        Some(Value::Array(items)) if items.is_empty() => "-".to_owned(),
        Some(Value::Array(items)) => items.iter().map(|item| text(Some(item))).collect::<Vec<_>>().join(","),
        Some(Value::Object(fields)) if fields.is_empty() => "-".to_owned(),
        Some(Value::Object(fields)) => {
            fields.iter().map(|(name, value)| format!("{name}={}", text(Some(value)))).collect::<Vec<_>>().join(",")
        }
        Some(Value::Number(number)) => number.to_string(),
    };
    plain.chars().map(|symbol| if symbol.is_control() || is_unseen(symbol) { '?' } else { symbol }).collect()
}

/// Marks of direction, line ends and characters without width (Unicode's category Cf, as far as it deceives, Zl and Zp).
fn is_unseen(symbol: char) -> bool {
    matches!(
        symbol,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_steer_the_terminal() {
        assert_eq!(text(Some(&Value::from("a\u{1b}[2Jb\nc"))), "a?[2Jb?c");
        assert_eq!(text(Some(&Value::from("a\u{202e}b\u{200b}c\u{2028}d"))), "a?b?c?d");
        assert_eq!(text(Some(&Value::from("Zoë 日本"))), "Zoë 日本");
    }

    #[test]
    fn an_answer_of_somebody_else_is_no_empty_list() {
        for answer in [serde_json::json!({"hello": 1}), serde_json::json!([]), serde_json::json!({"keys": {}})] {
            for format in [Format::Table, Format::Json, Format::Yaml] {
                assert!(list(format, &answer, "/keys", &[("ID", "/id")]).is_err(), "{answer}");
            }
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_value() {
        let rows = [serde_json::json!({"id": "key_1", "on": true}), serde_json::json!({"id": "k", "on": false})];
        assert_eq!(table(&rows, &[("ID", "/id"), ("ON", "/on")]), "ID     ON\nkey_1  yes\nk      no\n");
    }
}
