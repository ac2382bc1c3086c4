//! Why a document is refused.

use std::fmt;

use crate::dialect::json::DEPTH_LIMIT;
use crate::error::{Error, Kind};

/// Why a document is refused, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// The byte at which it stops being acceptable.
    pub offset: usize,
    /// What is wrong there.
    pub fault: Fault,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Something else was expected.
    Expected(&'static str),
    /// A byte is not UTF-8.
    NotUtf8,
    /// A control character stands unescaped in a string.
    ControlCharacter,
    /// A backslash begins no escape.
    BadEscape,
    /// Half of a surrogate pair.
    LoneSurrogate,
    /// A string does not end.
    OpenString,
    /// A number breaks the grammar.
    BadNumber,
    /// More containers are open than allowed.
    TooDeep,
    /// A key stands twice in one object; its first 64 characters.
    TwiceKey(String),
    /// Something follows the document.
    Trailing,
    /// The document is larger than the scanner takes.
    TooLong,
}

impl fmt::Display for JsonError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.offset;
        match &self.fault {
            Fault::Expected(what) => write!(out, "expected {what} at byte {at}"),
            Fault::NotUtf8 => write!(out, "the text is not UTF-8 at byte {at}"),
            Fault::ControlCharacter => write!(out, "a string holds a control character at byte {at}"),
            Fault::BadEscape => write!(out, "a string holds an invalid escape at byte {at}"),
            Fault::LoneSurrogate => write!(out, "a string holds half of a surrogate pair at byte {at}"),
            Fault::OpenString => write!(out, "the string that begins at byte {at} does not end"),
            Fault::BadNumber => write!(out, "invalid number at byte {at}"),
            Fault::TooDeep => write!(out, "nested deeper than {DEPTH_LIMIT} levels (byte {at})"),
            Fault::TwiceKey(key) => write!(out, "the key \"{key}\" appears twice (byte {at})"),
            Fault::Trailing => write!(out, "something follows the document at byte {at}"),
            Fault::TooLong => write!(out, "the document is larger than 2 GiB"),
        }
    }
}

impl std::error::Error for JsonError {}

impl From<JsonError> for Error {
    fn from(fault: JsonError) -> Self {
        let error = Error::new(Kind::InvalidRequest, format!("the body is not valid JSON: {fault}"));
        match fault.fault {
            Fault::TwiceKey(key) => error.param(key),
            _ => error,
        }
    }
}
