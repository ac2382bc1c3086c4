//! An operator's own prices: a YAML file whose rows win over the built-in list.
//!
//! The file is strict: unknown keys, duplicate rows, negative, absurd or missing numbers are refused, all at once, each with
//! its line and column. Which row prices an exchange is decided by the order of the file (see [`Overlay::find`]), so what a
//! reader sees first is what holds. `docs/prices.md` shows the file.

mod reader;

use std::path::Path;

use crate::catalog::card::Card;
use crate::catalog::names;
use crate::catalog::prices::PriceQuery;
use crate::catalog::stored::StoredPrice;
use crate::unit::clock::Timestamp;
use crate::unit::glob::Glob;
use crate::unit::usage::ServiceTier;

/// The largest file that is read.
const FILE_LIMIT_BYTES: u64 = 4 * 1024 * 1024;

/// The dearest price that is believed, in dollars per million tokens.
pub(super) const RATE_LIMIT_USD: f64 = 100_000.0;

/// The rows of the file, grouped by provider and model in the order of their first appearance.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Overlay {
    groups: Vec<Group>,
}

#[derive(Debug, PartialEq)]
struct Group {
    provider: Option<String>,
    model: Glob,
    /// By the time from which they hold, ascending; never empty.
    rows: Vec<Dated>,
}

/// A price during a span of time.
#[derive(Debug, PartialEq)]
struct Dated {
    from: Timestamp,
    until: Option<Timestamp>,
    standard: Card,
    /// Tiers of service with prices of their own.
    tiers: Vec<(ServiceTier, Card)>,
}

/// The price that was found for a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Hit<'a> {
    pub(super) card: &'a Card,
    /// Whether the row names the model, rather than by a pattern.
    pub(super) named: bool,
}

impl Group {
    /// The price in effect at the time, for the tier.
    fn card(&self, query: &PriceQuery<'_>) -> Option<&Card> {
        let holds = |row: &&Dated| row.from <= query.at && row.until.is_none_or(|until| query.at < until);
        let row = self.rows.iter().rev().find(holds)?;
        let own = row.tiers.iter().find(|(tier, _)| *tier == query.tier);
        Some(own.map_or(&row.standard, |(_, card)| card))
    }

    /// How many letters of a name it says.
    fn says(&self) -> usize {
        self.model.as_str().chars().filter(|symbol| !matches!(symbol, '*' | '?')).count()
    }
}

/// One provider and model of a file, for a comparison with what is in force.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Named {
    pub(super) provider: Option<String>,
    pub(super) model: Glob,
    /// A moment at which its latest row holds.
    pub(super) at: Timestamp,
}

impl Overlay {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Every fault, each as `path:line:column: sentence`.
    pub(super) fn load(path: &Path) -> Result<Self, Vec<String>> {
        Self::parse(&path.display().to_string(), &read(path)?)
    }

    /// Checks a text; `source` is what prices and faults name as their origin.
    pub(super) fn parse(source: &str, text: &str) -> Result<Self, Vec<String>> {
        let mut overlay = Self::default();
        let faults = reader::read(source, text, &mut overlay);
        if faults.is_empty() { Ok(overlay) } else { Err(faults) }
    }

    /// Prices that were stored one by one: particular names before patterns, long patterns before short ones, rows of one
    /// provider before those of any.
    pub(super) fn stored(prices: &[StoredPrice]) -> Result<Self, Vec<String>> {
        let mut sorted: Vec<&StoredPrice> = prices.iter().collect();
        sorted.sort_by_key(|price| {
            let model = price.row.model.as_str();
            let is_pattern = model.contains(['*', '?']);
            (is_pattern, price.row.provider.is_none(), std::cmp::Reverse(model.len()), model, price.id.as_ref())
        });
        let (mut overlay, mut faults) = (Self::default(), Vec::new());
        for price in sorted {
            faults.extend(reader::read(&price.id, &price.row.document(), &mut overlay));
        }
        if faults.is_empty() { Ok(overlay) } else { Err(faults) }
    }

    /// The price of a model at a time: the first provider and model of the file that match and have a row in effect; among
    /// their rows the one with the latest date that is not in the future and whose end has not come. A row that names a model
    /// matches the same name with a date or version behind it, too, unless another row names that one itself, or by a pattern
    /// that says more.
    pub(super) fn find(&self, query: &PriceQuery<'_>) -> Option<Hit<'_>> {
        let is_of = |group: &&Group| {
            let own = group.provider.as_deref();
            own.is_none() || own == Some(query.provider_name) || own == query.price_provider
        };
        let undated = names::undated(query.model);
        let mut by_plain_name: Option<(&Group, Hit<'_>)> = None;
        for group in self.groups.iter().filter(is_of) {
            let Some(card) = group.card(query) else { continue };
            let named = group.model.is_literal();
            if group.model.matches(query.model) {
                let beaten = by_plain_name.as_ref().is_some_and(|(plain, _)| group.says() <= plain.says());
                if named || !beaten {
                    return Some(Hit { card, named });
                }
            } else if named && undated == Some(group.model.as_str()) && by_plain_name.is_none() {
                by_plain_name = Some((group, Hit { card, named }));
            }
        }
        by_plain_name.map(|(_, hit)| hit)
    }

    /// Every provider and model that it names, with a moment (`now`, or later if all rows lie ahead) at which it has a price.
    pub(super) fn named(&self, now: Timestamp) -> Vec<Named> {
        let name = |group: &Group| {
            let last = group.rows.last().map_or(now, |row| row.from);
            Named { provider: group.provider.clone(), model: group.model.clone(), at: now.max(last) }
        };
        self.groups.iter().map(name).collect()
    }
}

/// The text of a price file.
///
/// # Errors
/// `path: sentence` when it cannot be read or is too large.
pub(super) fn read(path: &Path) -> Result<String, Vec<String>> {
    let shown = path.display().to_string();
    let unreadable = |reason: String| vec![format!("{shown}: the price file cannot be read: {reason}")];
    let size = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
    if size > FILE_LIMIT_BYTES {
        return Err(unreadable(format!("it has {size} bytes, more than {FILE_LIMIT_BYTES}")));
    }
    std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))
}

#[cfg(test)]
mod tests;
