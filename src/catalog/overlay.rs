//! An operator's own prices: a YAML file whose rows win over the built-in list.
//!
//! The file is strict: unknown keys, duplicate rows, negative, absurd or missing numbers are refused, all at once, each with
//! its line and column. Which row prices an exchange is decided by the order of the file (see [`Overlay::find`]), so what a
//! reader sees first is what holds. `docs/prices.md` shows the file.

use std::path::Path;
use std::sync::Arc;

use crate::catalog::card::{Card, Rates, nanos};
use crate::catalog::prices::PriceQuery;
use crate::catalog::yaml::{Node, Value};
use crate::unit::clock::Timestamp;
use crate::unit::glob::Glob;
use crate::unit::money::PriceRef;

/// The largest file that is read.
const FILE_LIMIT_BYTES: u64 = 4 * 1024 * 1024;

/// The most rows in a file.
const ROWS_LIMIT: usize = 10_000;

/// The dearest price that is believed, in dollars per million tokens.
pub(super) const RATE_LIMIT_USD: f64 = 100_000.0;

/// The dearest price of one request that is believed, in dollars.
const REQUEST_LIMIT_USD: f64 = 10_000.0;

/// The rows of the file, grouped by provider and model in the order of their first appearance.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Overlay {
    groups: Vec<Group>,
}

#[derive(Debug, PartialEq)]
struct Group {
    provider: Option<String>,
    model: Glob,
    /// The prices by the time from which they hold, ascending; never empty.
    cards: Vec<(Timestamp, Card)>,
}

impl Overlay {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Every fault, each as `path:line:column: sentence`.
    pub(super) fn load(path: &Path) -> Result<Self, Vec<String>> {
        let shown = path.display().to_string();
        let unreadable = |reason: String| vec![format!("{shown}: the price file cannot be read: {reason}")];
        let size = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
        if size > FILE_LIMIT_BYTES {
            return Err(unreadable(format!("it has {size} bytes, more than {FILE_LIMIT_BYTES}")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        Self::parse(&shown, &text)
    }

    /// Checks a text; `source` is what prices and faults name as their origin.
    pub(super) fn parse(source: &str, text: &str) -> Result<Self, Vec<String>> {
        let mut reader = Reader { source: source.into(), faults: Vec::new(), overlay: Self::default() };
        match Node::parse(text) {
            Ok(root) => reader.root(&root),
            Err((line, column, sentence)) => reader.faults.push(format!("{source}:{line}:{column}: {sentence}")),
        }
        if reader.faults.is_empty() { Ok(reader.overlay) } else { Err(reader.faults) }
    }

    /// The price of a model at a time: the first provider and model of the file that match and have a row in effect; among
    /// their rows the one with the latest date that is not in the future.
    pub(super) fn find(&self, query: &PriceQuery<'_>) -> Option<&Card> {
        let matches = |group: &&Group| {
            let own = group.provider.as_deref();
            (own.is_none() || own == Some(query.provider_name) || own == query.price_provider)
                && group.model.matches(query.model)
        };
        let in_effect = |group: &'_ Group| group.cards.iter().rposition(|(from, _)| *from <= query.at);
        self.groups
            .iter()
            .filter(matches)
            .find_map(|group| in_effect(group).and_then(|index| group.cards.get(index)))
            .map(|(_, card)| card)
    }
}

/// Walks the tree and gathers faults.
struct Reader {
    source: Arc<str>,
    faults: Vec<String>,
    overlay: Overlay,
}

impl Reader {
    fn fault(&mut self, at: &Node, sentence: &str) {
        self.faults.push(format!("{}:{}:{}: {sentence}", self.source, at.line, at.column));
    }

    fn root(&mut self, root: &Node) {
        let Value::Map(entries) = &root.value else {
            self.fault(root, "a price file is a map with the one key `prices`");
            return;
        };
        let mut rows = None;
        for (key, value) in entries {
            match &key.value {
                Value::Text(name) if name == "prices" => rows = Some(value),
                _ => self.fault(key, "unknown key; a price file has the one key `prices`"),
            }
        }
        match rows.map(|node| (node, &node.value)) {
            Some((_, Value::List(rows))) if rows.len() <= ROWS_LIMIT => rows.iter().for_each(|row| self.row(row)),
            Some((node, Value::List(_))) => self.fault(node, &format!("more than {ROWS_LIMIT} rows")),
            Some((node, _)) => self.fault(node, &format!("`prices` is a list of rows, not {}", node.kind())),
            None => self.fault(root, "the key `prices` is missing"),
        }
    }

    fn row(&mut self, node: &Node) {
        let Value::Map(entries) = &node.value else {
            self.fault(node, &format!("a row is a map with `model` and a price, not {}", node.kind()));
            return;
        };
        let faults_before = self.faults.len();
        let mut row = Row::default();
        for (key, value) in entries {
            match &key.value {
                Value::Text(name) => self.field(&mut row, name, key, value),
                _ => self.fault(key, "a key is a text"),
            }
        }
        if row.model.is_none() && self.faults.len() == faults_before {
            self.fault(node, "the row has no `model`; write a name or a pattern such as gpt-4o*");
        }
        if !row.priced && self.faults.len() == faults_before {
            self.fault(node, "the row has no price; write `usd_per_million_tokens`, `per_request_usd` or both");
        }
        if self.faults.len() == faults_before {
            self.take(node, row);
        }
    }

    fn field(&mut self, row: &mut Row, name: &str, key: &Node, value: &Node) {
        match (name, &value.value) {
            ("provider", Value::Text(text)) if !text.is_empty() => row.provider = Some(text.clone()),
            ("provider", _) => self.fault(value, "`provider` is the name of a provider; leave it out for any"),
            ("model", Value::Text(text)) => match Glob::new(text) {
                Ok(model) => row.model = Some(model),
                Err(sentence) => self.fault(value, &sentence),
            },
            ("model", _) => self.fault(value, "`model` is a name or a pattern such as gpt-4o*"),
            ("effective", Value::Text(text)) => match midnight(text) {
                Some(from) => row.effective = Some((from, text.clone())),
                None => self.fault(value, "`effective` is a date since 1970 such as 2026-01-31"),
            },
            ("effective", _) => self.fault(value, "`effective` is a date such as 2026-01-31"),
            ("per_request_usd", _) => {
                row.priced = true;
                row.per_request_nanos = self.price(value, REQUEST_LIMIT_USD).unwrap_or_default();
            }
            ("usd_per_million_tokens", Value::Map(entries)) => {
                row.priced = true;
                row.rates = self.rates(value, entries).unwrap_or_default();
            }
            ("usd_per_million_tokens", _) => {
                self.fault(value, "`usd_per_million_tokens` is a map such as {input: 2.5, output: 10}");
            }
            _ => self.fault(
                key,
                &format!(
                    "unknown key `{}`; a row has provider, model, effective, usd_per_million_tokens, per_request_usd",
                    name.escape_debug()
                ),
            ),
        }
    }

    /// The rates of a row. A class that is left out costs what the class that contains it costs: caches, audio and images of
    /// the input as `input`; reasoning, audio and images of the output as `output`.
    fn rates(&mut self, node: &Node, entries: &[(Node, Node)]) -> Option<Rates> {
        let mut found: [Option<u64>; CLASS_NAMES.len()] = [None; CLASS_NAMES.len()];
        let faults_before = self.faults.len();
        for (key, value) in entries {
            let slot = match &key.value {
                Value::Text(name) => CLASS_NAMES.iter().position(|class| class == name),
                _ => None,
            };
            match slot.and_then(|slot| found.get_mut(slot)) {
                Some(slot) => *slot = self.price(value, RATE_LIMIT_USD),
                None => self.fault(key, &format!("unknown class of tokens; there are {}", CLASS_NAMES.join(", "))),
            }
        }
        let [input, cache_read, write_5m, write_1h, input_audio, input_image, output, reasoning, audio, image] = found;
        let (Some(plain_input), Some(plain_output)) = (input, output) else {
            if self.faults.len() == faults_before {
                self.fault(node, "both `input` and `output` are needed; write 0 for what costs nothing");
            }
            return None;
        };
        let of_input = |price: Option<u64>| price.unwrap_or(plain_input);
        let of_output = |price: Option<u64>| price.unwrap_or(plain_output);
        Some([
            plain_input,
            of_input(cache_read),
            of_input(write_5m),
            write_1h.or(write_5m).unwrap_or(plain_input),
            of_input(input_audio),
            of_input(input_image),
            plain_output,
            of_output(reasoning),
            of_output(audio),
            of_output(image),
        ])
    }

    fn price(&mut self, node: &Node, limit_usd: f64) -> Option<u64> {
        let found = match node.value {
            Value::Number(usd) => nanos(usd, limit_usd),
            _ => None,
        };
        if found.is_none() {
            self.fault(node, &format!("a price is a number of dollars from 0 to {limit_usd}"));
        }
        found
    }

    fn take(&mut self, node: &Node, row: Row) {
        let Some(model) = row.model else { return };
        let (from, date) = row.effective.map_or((Timestamp(0), None), |(from, date)| (from, Some(date)));
        let name = format!("{}/{model}", row.provider.as_deref().unwrap_or("*"));
        let price = PriceRef { source: Arc::clone(&self.source), name, effective: date };
        let card = Card { base: row.rates, tiers: Vec::new(), per_request_nanos: row.per_request_nanos, price };
        let same = |group: &&mut Group| group.provider == row.provider && group.model == model;
        let Some(group) = self.overlay.groups.iter_mut().find(same) else {
            self.overlay.groups.push(Group { provider: row.provider, model, cards: vec![(from, card)] });
            return;
        };
        match group.cards.binary_search_by_key(&from, |(from, _)| *from) {
            Ok(_) => self.fault(node, "another row has the same provider, model and date"),
            Err(index) => group.cards.insert(index, (from, card)),
        }
    }
}

/// The names of the classes in a file, in the order of `card::counts`.
const CLASS_NAMES: [&str; 10] = [
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "input_audio",
    "input_image",
    "output",
    "reasoning",
    "output_audio",
    "output_image",
];

/// What is read of a row so far.
#[derive(Default)]
struct Row {
    provider: Option<String>,
    model: Option<Glob>,
    effective: Option<(Timestamp, String)>,
    rates: Rates,
    per_request_nanos: u64,
    priced: bool,
}

/// The first moment (UTC) of a date written YYYY-MM-DD.
fn midnight(text: &str) -> Option<Timestamp> {
    let date: jiff::civil::Date = (text.len() == 10).then(|| text.parse().ok()).flatten()?;
    let moment = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_microsecond();
    (moment >= 0).then_some(Timestamp(moment))
}

#[cfg(test)]
mod tests;
