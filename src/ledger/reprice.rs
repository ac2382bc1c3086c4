//! Pricing a part of the ledger again: what rows would cost at the prices now in force for their time.
//!
//! A dry run only tells the difference. An application writes new costs in batches of a page, each in one transaction with what
//! the counters of dollar limits must move by, so that a crash leaves every row either old or new, and a second run goes on
//! where the first was stopped: rows that cost what they should are left alone. A row is changed only if it still has the cost
//! that the new one was worked out from. Counters are moved at most once: a move that was interrupted is told, not repeated.
//! What has no price now keeps the cost that it has. Memory: one page of rows and 10,000 names of each kind.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;

use super::query::{Filter, LedgerStore, MAX_LIMIT, Order};
use super::record::{AttemptEnd, Record};
use crate::catalog::{Cost, PriceQuery, Pricing};
use crate::error::StoreError;
use crate::unit::charge::{Charge, CounterId, WindowId};
use crate::unit::clock::Timestamp;
use crate::unit::id::{self, ExchangeId};
use crate::unit::money::{NanoUsd, PriceRef};

/// The most models, keys, teams and counters whose differences are kept apart; the rest is summed up under `(others)`.
const NAMES_LIMIT: usize = 10_000;
/// The most of them in a report, the largest differences first.
const SHOWN_LIMIT: usize = 100;
/// The name for what is beyond [`NAMES_LIMIT`].
const OTHERS: &str = "(others)";

/// The counters of dollar limits, as far as a corrected price moves them.
#[async_trait]
pub trait Adjust: Send + Sync {
    /// The ids of the limits that count dollars.
    async fn money_limits(&self) -> Result<HashSet<Arc<str>>, StoreError>;

    /// Whether counters can be moved now; asked before anything is written.
    async fn ready(&self) -> Result<(), StoreError>;

    /// Moves what is spent on a counter; never below 0.
    async fn adjust(&self, counter: &CounterId, delta: i64) -> Result<(), StoreError>;
}

/// There are no limits.
pub struct NoLimits;

#[async_trait]
impl Adjust for NoLimits {
    async fn money_limits(&self) -> Result<HashSet<Arc<str>>, StoreError> {
        Ok(HashSet::new())
    }

    async fn ready(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn adjust(&self, _: &CounterId, _: i64) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A row with its new cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Repriced {
    /// The exchange.
    pub id: ExchangeId,
    /// The cost that it has, and must still have.
    pub before: Option<NanoUsd>,
    /// The new cost.
    pub cost: NanoUsd,
    /// The price behind it.
    pub price: PriceRef,
    /// All charges of the row, those of dollar limits moved.
    pub charges: Vec<Charge>,
    /// What counters must move by, where their window has not passed.
    pub moves: Vec<(CounterId, i64)>,
}

/// A move of a counter that is still to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adjustment {
    /// Its number.
    pub number: i64,
    /// The counter.
    pub counter: CounterId,
    /// By how much.
    pub amount: i64,
    /// Whether the authority was asked already, by a process that did not come to note the answer.
    pub sent: bool,
}

/// One application, for the record of who did it.
#[derive(Clone, Debug, PartialEq)]
pub struct Repricing {
    /// `rpc_` and 26 characters.
    pub id: String,
    /// Who did it: the id of an admin token, or `in-process`.
    pub by: String,
    /// When it began.
    pub started_at: Timestamp,
    /// The part of the ledger.
    pub since: Option<Timestamp>,
    /// Its end.
    pub until: Option<Timestamp>,
}

/// What pricing again needs from storage. All methods do I/O and fail with [`StoreError::Away`] when the database cannot be
/// reached.
#[async_trait]
pub trait RepriceStore: Send + Sync {
    /// Notes that a repricing begins.
    async fn begin_repricing(&self, repricing: &Repricing) -> Result<(), StoreError>;

    /// Writes the new costs of those rows that still have the cost before, the sums of their moves as adjustments, and the count
    /// and difference to the repricing; all in one transaction. Returns which rows were changed.
    async fn reprice(&self, repricing: &str, rows: &[Repriced]) -> Result<Vec<ExchangeId>, StoreError>;

    /// Adjustments that are not done, the oldest first, at most 1,000.
    async fn adjustments(&self) -> Result<Vec<Adjustment>, StoreError>;

    /// Notes that the authority is about to be asked. False if somebody else was quicker.
    async fn send_adjustment(&self, number: i64) -> Result<bool, StoreError>;

    /// Removes an adjustment that is done. Not an error if it is gone.
    async fn close_adjustment(&self, number: i64) -> Result<(), StoreError>;
}

/// What to price again.
#[derive(Clone, Debug)]
pub struct Job {
    /// Which rows; order, cursor and limit do not matter.
    pub filter: Filter,
    /// Write it; otherwise only tell the difference.
    pub apply: bool,
    /// Who asks.
    pub by: String,
    /// The present time: windows that ended before it are not moved.
    pub now: Timestamp,
}

/// The difference that pricing again makes or would make.
#[derive(Clone, Debug, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Report {
    /// The id of the application; null for a dry run.
    pub id: Option<String>,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Rows looked at.
    pub records: u64,
    /// Rows whose cost differs.
    pub changed: u64,
    /// Rows that have no price now; they keep the cost that they have.
    pub unpriced: u64,
    /// Rows without token counts whose price, if they have one, is by the token; they keep the cost that they have.
    pub without_usage: u64,
    /// Rows that changed in the meantime and were left alone; run it again.
    pub skipped: u64,
    /// What the rows that differ cost before, in nano-dollars.
    pub before_nano_usd: i64,
    /// What they cost now.
    pub after_nano_usd: i64,
    /// The difference.
    pub difference_nano_usd: i64,
    /// By model, the largest differences first, at most 100.
    pub models: Vec<Difference>,
    /// By key.
    pub keys: Vec<Difference>,
    /// By team.
    pub teams: Vec<Difference>,
    /// By counter of a dollar limit whose window has not passed, written `LIMIT|WINDOW|SUBJECT`.
    pub counters: Vec<Difference>,
    /// Moves of counters that an earlier application did not come to finish, so that nobody knows whether they were made.
    pub uncertain: Vec<Difference>,
}

/// One part of a difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Difference {
    /// Whose.
    pub name: String,
    /// By how many nano-dollars.
    pub difference_nano_usd: i64,
}

/// Prices a part of the ledger again. See the module's promises.
///
/// # Errors
/// Those of the stores and of the authority. What was written until then stays, and running it again goes on there.
pub async fn run(
    ledger: &dyn LedgerStore,
    store: &dyn RepriceStore,
    adjust: &dyn Adjust,
    pricing: &Pricing,
    job: Job,
) -> Result<Report, StoreError> {
    let money = adjust.money_limits().await?;
    let mut tally = Tally { report: Report { dry_run: !job.apply, ..Report::default() }, ..Tally::default() };
    if job.apply {
        adjust.ready().await?;
        let id = id::mint("rpc");
        let (since, until) = (job.filter.since, job.filter.until);
        let repricing = Repricing { id: id.clone(), by: job.by, started_at: job.now, since, until };
        store.begin_repricing(&repricing).await?;
        tally.report.id = Some(id);
    }
    let mut filter = Filter { order: Order::OldestFirst, after: None, limit: MAX_LIMIT, ..job.filter };
    // Rows that arrive while this goes on were priced just now.
    filter.until = Some(filter.until.map_or(job.now, |until| until.min(job.now)));
    loop {
        let page = ledger.find(&filter).await?;
        let mut rows: Vec<(&Record, Repriced)> = Vec::new();
        for record in &page.records {
            rows.extend(tally.look_at(record, pricing, &money, job.now).map(|row| (record, row)));
        }
        if let Some(id) = tally.report.id.clone()
            && !rows.is_empty()
        {
            let plain: Vec<Repriced> = rows.iter().map(|(_, row)| row.clone()).collect();
            let written: HashSet<ExchangeId> = store.reprice(&id, &plain).await?.into_iter().collect();
            tally.report.skipped += rows.len().saturating_sub(written.len()) as u64;
            rows.retain(|(_, row)| written.contains(&row.id));
        }
        rows.iter().for_each(|(record, row)| tally.add(record, row));
        match page.next {
            Some(next) => filter.after = Some(next),
            None => break,
        }
    }
    if job.apply {
        tally.report.uncertain = deliver(store, adjust).await?;
    }
    Ok(tally.finish())
}

/// Moves the counters by what waits; gives the moves of which nobody knows whether they were made.
///
/// # Errors
/// Those of the store and of the authority; what was not sent waits for the next time.
pub async fn deliver(store: &dyn RepriceStore, adjust: &dyn Adjust) -> Result<Vec<Difference>, StoreError> {
    let mut uncertain = Vec::new();
    let mut seen = HashSet::new();
    loop {
        let mut progress = false;
        for waiting in store.adjustments().await? {
            if !seen.insert(waiting.number) {
                continue;
            }
            progress = true;
            if waiting.sent || !store.send_adjustment(waiting.number).await? {
                uncertain.push(Difference { name: waiting.counter.to_string(), difference_nano_usd: waiting.amount });
            } else {
                adjust.adjust(&waiting.counter, waiting.amount).await?;
            }
            store.close_adjustment(waiting.number).await?;
        }
        if !progress {
            return Ok(uncertain);
        }
    }
}

/// The cost of a row at the prices in force for its time.
fn price(record: &Record, pricing: &Pricing) -> Option<Cost> {
    let provider = record.provider.as_deref()?;
    let tier = record.service_tier.unwrap_or_default();
    let asked = record.attempts.iter().rev().find(|attempt| {
        *attempt.provider == *provider && !matches!(attempt.end, AttemptEnd::NoCredential | AttemptEnd::ConnectFailed)
    });
    let served = record.model_served.as_deref();
    let model = asked.map(|attempt| attempt.model.as_str()).or(served)?;
    let query = PriceQuery { served, ..pricing.query(provider, model, record.started_at, tier) };
    pricing.catalog.bill(&query, record.usage.as_ref(), record.images.as_ref())
}

/// Whether a charge still counts in its window.
fn still_counts(charge: &Charge, now: Timestamp) -> bool {
    match charge.counter.window {
        WindowId::Calendar { until, .. } => now.seconds() < until,
        WindowId::Sliding { seconds } => now.seconds() - charge.at.seconds() <= i64::from(seconds),
        WindowId::Total => true,
        WindowId::Now => false,
    }
}

/// Sums up differences.
#[derive(Default)]
struct Tally {
    report: Report,
    models: BTreeMap<String, i64>,
    keys: BTreeMap<String, i64>,
    teams: BTreeMap<String, i64>,
    counters: BTreeMap<String, i64>,
}

impl Tally {
    /// The new cost of a row, if it has one that differs.
    fn look_at(
        &mut self,
        record: &Record,
        pricing: &Pricing,
        money: &HashSet<Arc<str>>,
        now: Timestamp,
    ) -> Option<Repriced> {
        self.report.records += 1;
        if record.usage.is_none() && record.price.is_none() && record.cost == Some(NanoUsd::ZERO) {
            // No model ran.
            return None;
        }
        // What was served without a count of tokens has a price by the request or by the image, or none.
        let counted = record.usage.is_some();
        let found = if counted || matches!(record.status, 200..=299) { price(record, pricing) } else { None };
        let Some(Cost { amount, price }) = found else {
            *(if counted { &mut self.report.unpriced } else { &mut self.report.without_usage }) += 1;
            return None;
        };
        if record.cost == Some(amount) {
            return None;
        }
        let difference = amount.nanos().saturating_sub(record.cost.unwrap_or_default().nanos());
        let (mut charges, mut moves) = (record.charges.clone(), Vec::new());
        for charge in charges.iter_mut().filter(|charge| money.contains(&charge.counter.limit)) {
            let before = charge.amount;
            charge.amount = before.saturating_add(difference).max(0);
            if still_counts(charge, now) && charge.amount != before {
                moves.push((charge.counter.clone(), charge.amount - before));
            }
        }
        Some(Repriced { id: record.id, before: record.cost, cost: amount, price, charges, moves })
    }

    fn add(&mut self, record: &Record, row: &Repriced) {
        let before = row.before.unwrap_or_default().nanos();
        let difference = row.cost.nanos().saturating_sub(before);
        self.report.changed += 1;
        self.report.before_nano_usd = self.report.before_nano_usd.saturating_add(before);
        self.report.after_nano_usd = self.report.after_nano_usd.saturating_add(row.cost.nanos());
        let model = record.model_served.as_deref().or(record.model_requested.as_deref());
        add(&mut self.models, model.unwrap_or("-"), difference);
        add(&mut self.keys, record.key_id.as_deref().unwrap_or("-"), difference);
        add(&mut self.teams, record.team.as_deref().unwrap_or("-"), difference);
        for (counter, by) in &row.moves {
            add(&mut self.counters, &counter.to_string(), *by);
        }
    }

    fn finish(self) -> Report {
        let mut report = self.report;
        report.difference_nano_usd = report.after_nano_usd.saturating_sub(report.before_nano_usd);
        report.models = largest(self.models);
        report.keys = largest(self.keys);
        report.teams = largest(self.teams);
        report.counters = largest(self.counters);
        report
    }
}

fn add(parts: &mut BTreeMap<String, i64>, name: &str, by: i64) {
    let name = if parts.contains_key(name) || parts.len() < NAMES_LIMIT { name } else { OTHERS };
    let part = parts.entry(name.to_owned()).or_default();
    *part = part.saturating_add(by);
}

fn largest(parts: BTreeMap<String, i64>) -> Vec<Difference> {
    let mut list: Vec<Difference> = parts
        .into_iter()
        .map(|(name, difference_nano_usd)| Difference { name, difference_nano_usd })
        .filter(|part| part.difference_nano_usd != 0)
        .collect();
    list.sort_by_key(|part| std::cmp::Reverse(part.difference_nano_usd.unsigned_abs()));
    list.truncate(SHOWN_LIMIT);
    list
}
