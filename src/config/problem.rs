//! What is wrong with a configuration, and where.

use std::fmt;

/// One fault or warning of a configuration. Never holds the value of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where the text comes from: the file as it was named, or `environment`.
    pub origin: String,
    /// The line of the key or value, from 1; 0 means the whole file.
    pub line: u32,
    /// The column in that line, in characters from 1; 0 means the whole file.
    pub column: u32,
    /// The key, as in `routes[2].to`; empty means the whole file.
    pub path: String,
    /// What is wrong, and what to write instead.
    pub text: String,
}

impl fmt::Display for Problem {
    /// `file:line:column: path: text`, without the parts that are not known.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:", self.origin)?;
        if self.line > 0 {
            write!(out, "{}:{}:", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(out, " {}:", self.path)?;
        }
        write!(out, " {}", self.text)
    }
}
