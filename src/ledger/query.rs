//! Asking the ledger, and what the ledger needs from storage.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::journal::Line;
use super::record::{Outcome, Record};
use crate::error::StoreError;
use crate::unit::clock::Timestamp;
use crate::unit::glob::Glob;
use crate::unit::id::ExchangeId;
use crate::unit::money::NanoUsd;
use crate::unit::usage::{Usage, UsageSource};

/// The most records in one page.
pub const MAX_LIMIT: usize = 1_000;

/// Which records are meant; everything given must match, nothing given matches all.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// Started at that time or later.
    pub since: Option<Timestamp>,
    /// Started before that time.
    pub until: Option<Timestamp>,
    /// The key's id.
    pub key_id: Option<String>,
    /// The organisation, exactly.
    pub org: Option<String>,
    /// The team, exactly.
    pub team: Option<String>,
    /// The user, exactly.
    pub user: Option<String>,
    /// The model requested or the model served.
    pub model: Option<Glob>,
    /// The provider whose answer went to the caller.
    pub provider: Option<String>,
    /// The status that the caller got.
    pub status: Option<StatusFilter>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Everything that is not [`Outcome::Answered`].
    pub errors_only: bool,
    /// What was asked.
    pub operation: Option<String>,
    /// In which order.
    pub order: Order,
    /// Where the page before ended, in the same order.
    pub after: Option<Cursor>,
    /// The most records; values outside 1 to [`MAX_LIMIT`] count as the nearer end.
    pub limit: usize,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            since: None,
            until: None,
            key_id: None,
            org: None,
            team: None,
            user: None,
            model: None,
            provider: None,
            status: None,
            outcome: None,
            errors_only: false,
            operation: None,
            order: Order::NewestFirst,
            after: None,
            limit: 100,
        }
    }
}

/// The order of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By start, the latest first.
    #[default]
    NewestFirst,
    /// By start, the earliest first.
    OldestFirst,
    /// As they reached the database. Following a live gateway needs this order: a long exchange starts before and ends after a
    /// short one, so by start it would appear behind a cursor that has passed.
    Arrival,
}

/// One status, or a hundred of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusFilter {
    /// Exactly that status.
    Exact(u16),
    /// All of a class: 4 is 400 to 499.
    Class(u8),
}

impl FromStr for StatusFilter {
    type Err = String;

    /// Parses `429` or `4xx`.
    fn from_str(text: &str) -> Result<Self, String> {
        let sentence = || format!("{text:?} is not a status; write a number such as 429, or a class such as 4xx");
        if let Some(class) = text.strip_suffix("xx").or_else(|| text.strip_suffix("XX")) {
            return class.parse().ok().filter(|class| (1..=5).contains(class)).map(Self::Class).ok_or_else(sentence);
        }
        text.parse()
            .ok()
            .filter(|status| *status == 0 || (100..=999).contains(status))
            .map(Self::Exact)
            .ok_or_else(sentence)
    }
}

/// A place between two records. Text that callers pass back unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// When the record before it started.
    pub started_at: Timestamp,
    /// The number that the database gave that record on arrival.
    pub number: i64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.started_at.0, self.number)
    }
}

impl FromStr for Cursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('.').and_then(|(time, number)| Some((time.parse().ok()?, number.parse().ok()?)));
        let (time, number) = parts.ok_or("the cursor is not one that an earlier page gave")?;
        Ok(Self { started_at: Timestamp(time), number })
    }
}

/// A piece of the ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The records, in the order asked for.
    pub records: Vec<Record>,
    /// What to pass as `after` for the rest: the place behind the last record. `None` when the end was reached, save in
    /// [`Order::Arrival`], where more may come: there it is `None` only when nothing was found and no cursor was given.
    pub next: Option<Cursor>,
}

/// Sums over the records that match a filter (order, cursor and limit do not matter).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many there are.
    pub records: u64,
    /// How many of them are not [`Outcome::Answered`].
    pub errors: u64,
    /// Input tokens of every class, where known.
    pub input_tokens: u64,
    /// Output tokens of every class, where known.
    pub output_tokens: u64,
    /// What they cost, where known.
    pub cost: NanoUsd,
    /// Of how many of them the cost is known.
    pub priced: u64,
    /// How many of them a provider served, or was left by, at a cost that nobody knows. What it refused costs nothing.
    pub unpriced: u64,
}

impl Summary {
    /// What they cost; `None` where some were served and of none the cost is known, as that is not zero.
    pub fn known_cost(&self) -> Option<NanoUsd> {
        (self.priced > 0 || self.unpriced == 0).then_some(self.cost)
    }
}

/// The most sums that one question is answered with.
pub const MAX_SUMS: usize = 100_000;

/// What the records of one span, provider, model and credential sum up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageSum {
    /// Where the span begins: a multiple of its width since 1970.
    pub from: Timestamp,
    /// The provider whose answer went to the caller.
    pub provider: String,
    /// The model that it said it used, else the one that was requested; empty if neither is known.
    pub model: String,
    /// The position of the credential in the provider's list, if it has one.
    pub credential: Option<u32>,
    /// How many records there are.
    pub records: u64,
    /// How many of them broke off, were left by their caller, or were interrupted.
    pub cut: u64,
    /// How many were counted by Marg, because the provider reported nothing.
    pub estimated: u64,
    /// How many have no cost.
    pub unpriced: u64,
    /// Tokens, where known.
    pub usage: Usage,
    /// Images that were drawn.
    pub images: u64,
    /// What they cost, where known.
    pub cost: NanoUsd,
}

/// Which sum: span, provider, model, credential.
type SumKey = (i64, String, String, Option<u32>);

fn add_to_sums(sums: &mut BTreeMap<SumKey, UsageSum>, record: &Record, width: i64) {
    // What a provider refused it does not charge for.
    let Some(provider) = record.provider.as_deref().filter(|_| record.usage.is_some() || record.status < 400) else {
        return;
    };
    let from = Timestamp(record.started_at.micros() / width * width);
    let model = record.model_served.as_ref().or(record.model_requested.as_ref()).cloned().unwrap_or_default();
    let credential = record.attempts.last().and_then(|attempt| attempt.credential);
    let key = (from.micros(), provider.to_owned(), model.clone(), credential);
    let sum = sums.entry(key).or_insert_with(|| UsageSum {
        from,
        provider: provider.to_owned(),
        model,
        credential,
        ..UsageSum::default()
    });
    sum.records += 1;
    let cut = matches!(
        record.outcome,
        Outcome::ClientGone | Outcome::UpstreamCut | Outcome::Withdrawn | Outcome::Interrupted
    );
    sum.cut += u64::from(cut);
    sum.estimated += u64::from(record.usage_source == Some(UsageSource::Estimated));
    sum.unpriced += u64::from(record.cost.is_none());
    sum.images = sum.images.saturating_add(record.images.as_ref().map_or(0, |images| images.count));
    sum.usage = sum.usage.plus(&record.usage.unwrap_or_default());
    sum.cost = NanoUsd(sum.cost.nanos().saturating_add(record.cost.unwrap_or_default().nanos()));
}

/// What records are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// The key's id.
    Key,
    /// The key's organisation.
    Org,
    /// The key's team.
    Team,
    /// The key's user.
    User,
    /// The model served, or else the model requested.
    Model,
    /// The provider whose answer went to the caller.
    Provider,
    /// The tags that the caller sent; a record with several counts for each, one without any for none.
    Tag,
}

/// What one group of records used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spender {
    /// What the records of the group have in common; `None` for those without it.
    pub name: Option<String>,
    /// The sums over them.
    pub sums: Summary,
}

/// How far one segment of the journal has come: the step that a batch takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The name of the segment; unique for ever.
    pub segment: Arc<str>,
    /// The byte at which the batch begins: what the database must hold for this segment (0 if nothing).
    pub from: u64,
    /// The byte behind the batch: what the database holds afterwards.
    pub to: u64,
}

/// Where records are kept for queries. Every method does I/O and fails with [`StoreError::Away`] when the database cannot be
/// reached.
#[async_trait]
pub trait LedgerStore: Send + Sync {
    /// How far that segment has come; 0 if it is not known.
    async fn position(&self, segment: &str) -> Result<u64, StoreError>;

    /// Writes the lines and the new position in one transaction: all or nothing, and never twice. A record whose id is there
    /// already is left as it is; an amendment for a record that is not there does nothing. Numbers beyond 2^63-1 are stored as
    /// that. Returns how many records are new.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the stored position is not `position.from`, or the database refuses a row for what it is.
    async fn write_batch(&self, lines: &[Line], position: &Position) -> Result<u64, StoreError>;

    /// Forces everything written so far to the disk, so that the journal may forget it.
    async fn sync(&self) -> Result<(), StoreError>;

    /// The names of the segments that have a position; at most a few thousand.
    async fn segments(&self) -> Result<Vec<String>, StoreError>;

    /// Forgets the position of a segment that no longer exists. Not an error if there is none.
    async fn forget(&self, segment: &str) -> Result<(), StoreError>;

    /// The record of that exchange.
    async fn get(&self, id: ExchangeId) -> Result<Option<Record>, StoreError>;

    /// A page of records. Pages stay stable while records arrive: none appears twice, and none that was there at the first page
    /// is missed.
    async fn find(&self, filter: &Filter) -> Result<Page, StoreError>;

    /// The place behind the record that arrived last, for following what comes from now on with [`Order::Arrival`].
    async fn end(&self) -> Result<Cursor, StoreError>;

    /// Sums over all that match. Reads every matching row.
    async fn summarize(&self, filter: &Filter) -> Result<Summary, StoreError>;

    /// Sums by span (`width` microseconds, at least 1), provider, model and credential, over the records that match and for which
    /// a provider is likely to charge: those with tokens or with a status below 400. In the order of these four.
    ///
    /// Reads every matching row; what this trait does by itself does so page by page, and a store may know better.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when there are more than [`MAX_SUMS`].
    async fn sums(&self, filter: &Filter, width: i64) -> Result<Vec<UsageSum>, StoreError> {
        let mut sums = BTreeMap::new();
        let mut filter = Filter { order: Order::OldestFirst, after: None, limit: MAX_LIMIT, ..filter.clone() };
        loop {
            let page = self.find(&filter).await?;
            page.records.iter().for_each(|record| add_to_sums(&mut sums, record, width.max(1)));
            if sums.len() > MAX_SUMS {
                return Err(StoreError::Conflict(
                    format!("There are more than {MAX_SUMS} sums; ask for less time.").into(),
                ));
            }
            match page.next {
                Some(next) => filter.after = Some(next),
                None => return Ok(sums.into_values().collect()),
            }
        }
    }

    /// Sums by group over all that match, the dearest first, then those with the most records, then by name; at most `limit`
    /// groups (order, cursor and limit of the filter do not matter). Reads every matching row.
    async fn top(&self, filter: &Filter, group: Group, limit: usize) -> Result<Vec<Spender>, StoreError>;

    /// Prepares room for records to come, and drops what is as a whole older than `before`, where the backend keeps records in
    /// pieces that can be dropped. What is left of the older records is for [`LedgerStore::delete_before`]. Called every few
    /// minutes by each process.
    async fn upkeep(&self, _before: Option<Timestamp>) -> Result<(), StoreError> {
        Ok(())
    }

    /// Deletes at most so many of the oldest records that started before that time; how many it were.
    async fn delete_before(&self, before: Timestamp, max_rows: u32) -> Result<u64, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_or_a_class_parses_and_nothing_else_does() {
        assert!(
            ["", "4x", "xx", "9xx", "42", "1000", "-1", "4XXX"]
                .iter()
                .all(|text| text.parse::<StatusFilter>().is_err())
        );
        assert_eq!("429".parse(), Ok(StatusFilter::Exact(429)));
        assert_eq!("5xx".parse(), Ok(StatusFilter::Class(5)));
    }

    #[test]
    fn a_cursor_survives_text() {
        let cursor = Cursor { started_at: Timestamp(17), number: 42 };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        assert!(["", "1", "1.", ".1", "a.b"].iter().all(|text| text.parse::<Cursor>().is_err()));
    }
}
