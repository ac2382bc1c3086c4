//! All limits in force, so indexed that those which apply to one call are found by a few hash lookups.
//!
//! Precedence: a limit for a named subject replaces, for that subject, the limit for each subject by itself that has the same
//! scope, unit, window and models. All others apply together. A limit that is switched off is as if it were not there, so it
//! replaces nothing.

use std::collections::HashMap;
use std::sync::Arc;

use super::check::Meaning;
use super::limit::{Action, Limit, Scope};
use super::line::Line;
use crate::key::Key;
use crate::unit::glob::Glob;

/// Who pays for a call.
#[derive(Clone, Copy, Debug)]
pub struct Payer<'a> {
    /// The key; its org, team and user pay too.
    pub key: &'a Key,
    /// The model, as the caller names it.
    pub model: Option<&'a str>,
    /// The tags that the caller sent; the labels of the key count as tags `name:value` too.
    pub tags: &'a [Arc<str>],
    /// The session that the caller named; its limits know it as `KEY_ID/SESSION`.
    pub session: Option<&'a str>,
}

/// A line in the table.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) line: Arc<Line>,
    pub(super) limit: Arc<Limit>,
    /// Rows of the same meaning have the same number.
    meaning: usize,
}

#[derive(Default)]
struct Rows {
    each: Vec<Row>,
    named: HashMap<Arc<str>, Vec<Row>>,
}

/// All limits in force.
#[derive(Default)]
pub(super) struct Table {
    scopes: [Rows; 8],
    /// Limits for models by pattern.
    patterns: Vec<(Glob, Row)>,
    lines: HashMap<Arc<str>, Arc<Line>>,
    /// Whether any limit puts another model in the place of the one that is asked for.
    pub(super) downgrades: bool,
}

impl Table {
    /// Indexes lines; two of the same id are one.
    pub(super) fn new(lines: Vec<Arc<Line>>) -> Self {
        let mut table = Self::default();
        let mut meanings: HashMap<Meaning, usize> = HashMap::new();
        for line in lines {
            let limit = line.limit();
            let next = meanings.len();
            let meaning = *meanings.entry(limit.meaning()).or_insert(next);
            let row = Row { line: line.clone(), limit: limit.clone(), meaning };
            table.downgrades |= matches!(limit.action, Action::Downgrade { .. });
            table.lines.insert(line.id.clone(), line);
            let pattern = limit.subject.as_deref().filter(|_| limit.scope == Scope::Model);
            match pattern.and_then(|text| Glob::new(text).ok()).filter(|glob| !glob.is_literal()) {
                Some(glob) => table.patterns.push((glob, row)),
                None => table.insert(row),
            }
        }
        table
    }

    fn insert(&mut self, row: Row) {
        let Some(rows) = self.scopes.get_mut(row.limit.scope as usize) else { return };
        match &row.limit.subject {
            Some(subject) => rows.named.entry(subject.clone()).or_default().push(row),
            None => rows.each.push(row),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// All lines, in no order.
    pub(super) fn lines(&self) -> impl Iterator<Item = &Arc<Line>> {
        self.lines.values()
    }

    pub(super) fn line(&self, id: &str) -> Option<&Arc<Line>> {
        self.lines.get(id)
    }

    /// Whether there is any limit of that scope.
    pub(super) fn has(&self, scope: Scope) -> bool {
        let rows = self.scopes.get(scope as usize);
        rows.is_some_and(|rows| !rows.each.is_empty() || !rows.named.is_empty())
            || (scope == Scope::Model && !self.patterns.is_empty())
    }

    /// The rows for a key whatever it asks for: those of the gateway, its org, team, user, its own, and of its labels. Their
    /// models are not looked at.
    pub(super) fn of_key(&self, key: &Key, found: &mut impl FnMut(&Row, &str)) {
        self.of(Scope::Gateway, "", found);
        let principal = &key.principal;
        let parties = [(Scope::Org, &principal.org), (Scope::Team, &principal.team), (Scope::User, &principal.user)];
        for (scope, name) in parties {
            if let Some(name) = name {
                self.of(scope, name, found);
            }
        }
        self.of(Scope::Key, &key.id, found);
        if self.has(Scope::Tag) {
            for (name, value) in &key.labels {
                self.of(Scope::Tag, &format!("{name}:{value}"), found);
            }
        }
    }

    /// The rows for one subject of a scope, and the subject that their counter is for.
    pub(super) fn of(&self, scope: Scope, subject: &str, found: &mut impl FnMut(&Row, &str)) {
        let Some(rows) = self.scopes.get(scope as usize) else { return };
        let named: &[Row] = rows.named.get(subject).map_or(&[], Vec::as_slice);
        let patterns = || {
            let patterns = if scope == Scope::Model { self.patterns.as_slice() } else { &[] };
            patterns.iter().filter(|(glob, _)| glob.matches(subject)).map(|(_, row)| row)
        };
        named.iter().for_each(|row| found(row, subject));
        // All models that a pattern matches share its counter.
        patterns().for_each(|row| found(row, row.limit.subject.as_deref().unwrap_or_default()));
        for row in &rows.each {
            let replaced = |by: &Row| by.meaning == row.meaning;
            if !named.iter().any(replaced) && !patterns().any(replaced) {
                found(row, subject);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Refusal;
    use super::super::bench::{Bench, key, limit, payer};
    use super::super::limit::{Unit, Window};
    use super::*;

    fn named(id: &str, scope: Scope, subject: Option<&str>) -> Limit {
        Limit { subject: subject.map(Into::into), ..limit(id, scope, Unit::Usd, 100) }
    }

    fn found(limits: Vec<Limit>, scope: Scope, subject: &str) -> Vec<(String, String)> {
        let lines = limits.into_iter().filter_map(Line::new).map(Arc::new).collect();
        let mut rows = Vec::new();
        Table::new(lines)
            .of(scope, subject, &mut |row, subject| rows.push((row.line.id.to_string(), subject.to_owned())));
        rows.sort();
        rows
    }

    fn pair(id: &str, subject: &str) -> (String, String) {
        (id.to_owned(), subject.to_owned())
    }

    #[test]
    fn a_row_for_a_named_subject_replaces_the_row_for_each_of_the_same_meaning_only() {
        let limits = || {
            vec![
                named("each", Scope::Team, None),
                Limit { window: Window::Total, ..named("each-total", Scope::Team, None) },
                named("named", Scope::Team, Some("red")),
                named("org", Scope::Org, Some("red")),
            ]
        };
        assert_eq!(found(limits(), Scope::Team, "red"), [pair("each-total", "red"), pair("named", "red")]);
        assert_eq!(found(limits(), Scope::Team, "blue"), [pair("each", "blue"), pair("each-total", "blue")]);
    }

    #[test]
    fn models_that_a_pattern_matches_share_its_counter() {
        let limits = || {
            vec![
                named("each", Scope::Model, None),
                named("gpt", Scope::Model, Some("gpt-*")),
                named("one", Scope::Model, Some("gpt-4")),
            ]
        };
        assert_eq!(found(limits(), Scope::Model, "gpt-4"), [pair("gpt", "gpt-*"), pair("one", "gpt-4")]);
        assert_eq!(found(limits(), Scope::Model, "claude"), [pair("each", "claude")]);
    }

    #[test]
    fn a_key_pays_with_its_parties_and_labels() {
        let lines = [
            named("gateway", Scope::Gateway, None),
            named("org", Scope::Org, None),
            named("team", Scope::Team, Some("research")),
            named("user", Scope::User, None),
            named("key", Scope::Key, None),
            named("tag", Scope::Tag, Some("tier:gold")),
            named("other", Scope::Tag, Some("tier:lead")),
        ];
        let table = Table::new(lines.into_iter().filter_map(Line::new).map(Arc::new).collect());
        let mut rows = Vec::new();
        table.of_key(&key("key_1"), &mut |row, subject| rows.push((row.line.id.to_string(), subject.to_owned())));
        rows.sort();
        assert_eq!(
            rows,
            [
                pair("gateway", ""),
                pair("key", "key_1"),
                pair("org", "acme"),
                pair("tag", "tier:gold"),
                pair("team", "research")
            ]
        );
    }

    #[tokio::test]
    async fn what_nobody_sees_passes_no_limit_in_dollars_or_tokens_whatever_model_it_names() {
        let (bench, key) = (Bench::new(), key("k"));
        let unseen = |limits: &[Limit]| match bench.process("a", limits).admits_unseen(&payer(&key)) {
            Err(Refusal::Unseen(refused)) => Some(refused.limit.to_string()),
            Ok(()) => None,
            other => panic!("{other:?}"),
        };
        for unit in [Unit::Usd, Unit::InputTokens, Unit::OutputTokens, Unit::Tokens] {
            assert_eq!(unseen(&[limit("team", Scope::Team, unit, 100)]).as_deref(), Some("team"), "{unit:?}");
            let other = Limit { models: vec![Glob::new("other").unwrap()], ..limit("other", Scope::Key, unit, 100) };
            assert_eq!(unseen(&[other]).as_deref(), Some("other"), "{unit:?}");
            assert_eq!(unseen(&[limit("model", Scope::Model, unit, 100)]).as_deref(), Some("model"), "{unit:?}");
            let warns =
                Limit { action: Action::Warn, warn_at_percent: vec![50], ..limit("warns", Scope::Key, unit, 100) };
            let nobodys = Limit { subject: Some("lead".into()), ..limit("nobodys", Scope::Team, unit, 100) };
            assert_eq!(unseen(&[warns, nobodys]), None, "{unit:?}");
        }
        let counted = [limit("calls", Scope::Key, Unit::Requests, 1), limit("now", Scope::Key, Unit::Concurrent, 1)];
        assert_eq!(unseen(&counted), None);
        assert_eq!(unseen(&[]), None);
    }
}
