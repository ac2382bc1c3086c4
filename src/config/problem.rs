//! What is wrong with a configuration, and where.
//!
//! A `Report` collects faults and warnings and knows the position of every key that was read. Checks that come after the
//! decoder name only a key; a fault that merely follows from one that the decoder found is left out.

use std::collections::{HashMap, HashSet};
use std::fmt;

/// The most faults and warnings that are kept; one more says that there are more.
const MAX_PROBLEMS: usize = 1000;

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

/// A position in the text, both from 1; 0, 0 is the whole text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    pub(super) line: u32,
    pub(super) column: u32,
}

/// The faults and warnings found so far.
#[derive(Debug)]
pub(super) struct Report {
    origin: String,
    positions: HashMap<String, Mark>,
    left_out: HashSet<String>,
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
    /// The keys at which or beneath which the decoder found a fault.
    faulty: HashSet<String>,
    /// Whether the text could not be read to its end.
    broken: bool,
}

impl Report {
    pub(super) fn new(origin: &str) -> Self {
        Self {
            origin: origin.to_owned(),
            positions: HashMap::new(),
            left_out: HashSet::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
            faulty: HashSet::new(),
            broken: false,
        }
    }

    /// Remembers where a key is.
    pub(super) fn place(&mut self, path: &str, mark: Mark) {
        self.positions.entry(path.to_owned()).or_insert(mark);
    }

    /// Remembers that an item of a list was at fault and is not in the decoded list.
    pub(super) fn left_out(&mut self, item: &str) {
        self.left_out.insert(item.to_owned());
    }

    /// The paths of the items of a decoded list, in order: those of the text, without the ones that were left out.
    pub(super) fn items(&self, list: &str, count: usize) -> Vec<String> {
        let paths = (0..).map(|index: usize| format!("{list}[{index}]"));
        paths.filter(|path| !self.left_out.contains(path)).take(count).collect()
    }

    /// Adds a fault at a position.
    pub(super) fn error_at(&mut self, mark: Mark, path: &str, text: impl Into<String>) {
        let problem = self.problem(mark, path, text.into());
        push(&mut self.errors, problem);
    }

    /// Adds the fault that ends the reading of the text, so that nothing is known of the rest.
    pub(super) fn broken_at(&mut self, mark: Mark, text: impl Into<String>) {
        self.broken = true;
        self.error_at(mark, "", text);
    }

    /// Whether the text could not be read to its end.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether there is a fault of that key or beneath it so far.
    pub(super) fn has_error(&self, path: &str) -> bool {
        self.errors.iter().any(|problem| is_within(&problem.path, path))
    }

    /// Ends the decoder's part: its faults from here on hide those that follow from them.
    pub(super) fn seal(&mut self) {
        // Asked for each pair of routes, so it must not be searched for among all faults each time.
        for problem in &self.errors {
            let ends = problem.path.match_indices(['.', '[']).map(|(end, _)| end).chain([problem.path.len()]);
            self.faulty.extend(ends.filter_map(|end| problem.path.get(..end)).map(str::to_owned));
        }
    }

    /// Adds a fault of a key, unless the decoder found one at that key or beneath it.
    pub(super) fn error(&mut self, path: &str, text: impl Into<String>) {
        if !self.is_faulty(path) {
            self.error_at(self.position(path), path, text);
        }
    }

    /// Adds a warning about a key, unless the decoder found a fault at that key or beneath it.
    pub(super) fn warn(&mut self, path: &str, text: impl Into<String>) {
        if !self.is_faulty(path) {
            let problem = self.problem(self.position(path), path, text.into());
            push(&mut self.warnings, problem);
        }
    }

    /// Whether the decoder found a fault at that key or beneath it, so that its value is not what was meant.
    pub(super) fn is_faulty(&self, path: &str) -> bool {
        self.faulty.contains(path)
    }

    /// The warnings if there is no fault, else the faults; both in order of position.
    pub(super) fn finish(mut self) -> Result<Vec<Problem>, Vec<Problem>> {
        let by_position = |problem: &Problem| (problem.line, problem.column);
        self.errors.sort_by_key(by_position);
        self.warnings.sort_by_key(by_position);
        if self.errors.is_empty() { Ok(self.warnings) } else { Err(self.errors) }
    }

    /// The line of a key, for texts that point at another one; 0 if it is not known.
    pub(super) fn line(&self, path: &str) -> u32 {
        self.position(path).line
    }

    fn position(&self, path: &str) -> Mark {
        let mut path = path;
        loop {
            if let Some(mark) = self.positions.get(path) {
                return *mark;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = path.get(..end).unwrap_or_default(),
                None => return Mark::default(),
            }
        }
    }

    fn problem(&self, mark: Mark, path: &str, text: String) -> Problem {
        Problem { origin: self.origin.clone(), line: mark.line, column: mark.column, path: path.to_owned(), text }
    }
}

/// Whether a key is that one or beneath it.
fn is_within(key: &str, path: &str) -> bool {
    key.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn push(problems: &mut Vec<Problem>, problem: Problem) {
    if problems.len() < MAX_PROBLEMS {
        problems.push(problem);
    } else if problems.len() == MAX_PROBLEMS {
        let text = format!("there are more than {MAX_PROBLEMS} problems; the rest is not shown");
        // Beyond every real position, so that it stays last after sorting.
        problems.push(Problem { line: u32::MAX, column: 0, path: String::new(), text, ..problem });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_faulty_if_a_fault_lies_at_it_or_beneath_it() {
        let mut report = Report::new("");
        for path in ["routes[2].to", "limits", "providers[\"a b\"].headers"] {
            report.error_at(Mark::default(), path, "");
        }
        assert!(!report.is_faulty("limits"), "only what the decoder found counts");
        report.seal();
        for path in ["routes", "routes[2]", "routes[2].to", "limits", "providers", "providers[\"a b\"]"] {
            assert!(report.is_faulty(path) && report.has_error(path), "{path}");
        }
        for path in ["", "route", "routes[2", "routes[2].t", "routes[20]", "routes[2].to.x", "limits[0]"] {
            assert!(!report.is_faulty(path) && !report.has_error(path), "{path}");
        }
    }
}
