//! Refusals, real or would-be, counted by policy, key, model and reason.

use std::collections::HashMap;

use serde::Serialize;

use crate::kavach::verdict::Ground;

/// The most rows; further ones are counted together.
const MAX_ROWS: usize = 10_000;
/// The policy of a call that is refused because nothing permits it.
const NOTHING_PERMITS: &str = "(nothing permits it)";

/// Counts of refusals. At most 10,000 rows; what goes beyond is in `others`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(into = "Shown")]
pub struct Report {
    counts: HashMap<(Box<str>, Box<str>, Box<str>), (Option<Box<str>>, u64)>,
    others: u64,
}

/// One row of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The policy's id, or `(nothing permits it)`.
    pub policy: Box<str>,
    /// The key's id.
    pub key: Box<str>,
    /// The model.
    pub model: Box<str>,
    /// The policy's reason, if it has one.
    pub reason: Option<Box<str>>,
    /// How many calls.
    pub count: u64,
}

#[derive(Serialize)]
struct Shown {
    rows: Vec<Row>,
    others: u64,
}

impl From<Report> for Shown {
    fn from(report: Report) -> Self {
        Self { rows: report.rows(), others: report.others }
    }
}

impl Report {
    /// Counts one refusal, once for each policy that had a part in it.
    pub fn count(&mut self, key: &str, model: &str, grounds: &[Ground]) {
        if grounds.is_empty() {
            self.add(NOTHING_PERMITS, None, key, model);
        }
        for ground in grounds {
            self.add(&ground.policy, ground.reason.as_deref(), key, model);
        }
    }

    fn add(&mut self, policy: &str, reason: Option<&str>, key: &str, model: &str) {
        let row = (Box::from(policy), Box::from(key), Box::from(model));
        if self.counts.len() >= MAX_ROWS && !self.counts.contains_key(&row) {
            self.others += 1;
            return;
        }
        self.counts.entry(row).or_insert_with(|| (reason.map(Box::from), 0)).1 += 1;
    }

    /// The rows, the most frequent first.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self
            .counts
            .iter()
            .map(|((policy, key, model), (reason, count))| Row {
                policy: policy.clone(),
                key: key.clone(),
                model: model.clone(),
                reason: reason.clone(),
                count: *count,
            })
            .collect();
        rows.sort_by(|one, other| {
            let names = |row: &Row| (row.policy.clone(), row.key.clone(), row.model.clone());
            other.count.cmp(&one.count).then_with(|| names(one).cmp(&names(other)))
        });
        rows
    }

    /// The refusals that no row counts.
    pub fn others(&self) -> u64 {
        self.others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_bounded_and_loses_no_count() {
        let mut report = Report::default();
        for number in 0..12_000 {
            report.count(&format!("key_{number}"), "m", &[]);
        }
        assert_eq!((report.rows().len(), report.others()), (10_000, 2_000));
        report.count("key_1", "m", &[]);
        assert_eq!((&*report.rows()[0].key, report.rows()[0].count), ("key_1", 2));
    }
}
