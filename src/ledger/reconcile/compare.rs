//! Both sides, summed, and what causes the gap between them.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Vendor;
use super::model;
use super::row::{BadRow, DAY, Export, ExportRow, HOUR};
use crate::catalog::Pricing;
use crate::error::StoreError;
use crate::ledger::query::{Filter, LedgerStore, UsageSum};
use crate::unit::clock::Timestamp;
use crate::unit::money::NanoUsd;
use crate::unit::usage::{ServiceTier, Usage};

/// The most spans of time in an answer, the largest gaps first.
const SHOWN_LIMIT: usize = 200;
/// A gap below half a cent is none.
const CENT_NANOS: i64 = 10_000_000;

/// What is compared by name: the classes of tokens in the order of `Usage::counts`, then images.
const CLASSES: [&str; 11] = [
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
    IMAGES,
];

/// The class that counts no tokens.
const IMAGES: &str = "images";

/// What to compare an export with.
#[derive(Clone, Debug)]
pub struct Question {
    /// Who made the export.
    pub vendor: Vendor,
    /// The provider's name in the configuration, whose records are meant.
    pub provider: String,
    /// Rows that begin at that time or later; left out, all.
    pub since: Option<Timestamp>,
    /// Rows that end by that time; left out, all.
    pub until: Option<Timestamp>,
}

/// How the ledger and an export differ. A gap is what the provider says beyond the ledger: positive means that the provider
/// charges more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Reconciliation {
    /// The span that the export covers; null if it has no row.
    pub since: Option<String>,
    /// Its end, excluded.
    pub until: Option<String>,
    /// How finely both sides were compared: `hour`, `day` or `whole`.
    pub grain: String,
    /// Rows of the export that were compared.
    pub rows: u64,
    /// Rows about something else than models.
    pub other_rows: u64,
    /// Rows that cannot be read.
    pub bad_rows: u64,
    /// The first hundred of them.
    pub bad: Vec<BadRow>,
    /// Everything together.
    pub total: Gap,
    /// By model, the largest gaps first.
    pub models: Vec<Gap>,
    /// By span of time and model, the largest gaps first, at most 200; without those that have none.
    pub spans: Vec<Gap>,
}

/// One line of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Gap {
    /// When the span begins; null for a line over all of them.
    pub from: Option<String>,
    /// The model in the ledger's words, else in the export's; null for a line over all.
    pub model: Option<String>,
    /// What the provider charges, in nano-dollars; null if the export does not say.
    pub export_nano_usd: Option<i64>,
    /// What the ledger says.
    pub ledger_nano_usd: i64,
    /// The gap in cents, with two decimals: of money where the export has it, else what the missing tokens cost by the price in
    /// force.
    pub gap_cents: String,
    /// The requests that the export counts.
    pub export_requests: Option<u64>,
    /// The records of the ledger.
    pub ledger_records: u64,
    /// How many of those broke off or were left by their caller.
    pub cut_records: u64,
    /// How many were counted by Marg, because the provider reported nothing.
    pub estimated_records: u64,
    /// How many have no price.
    pub unpriced_records: u64,
    /// The classes whose counts differ, the dearest difference first.
    pub classes: Vec<ClassGap>,
    /// What causes it: the name of a class of tokens, or `requests`, `unpriced`, `price`, `cost_only`; null without a gap.
    pub cause: Option<String>,
    /// The cause in words.
    pub detail: Option<String>,
}

/// How the counts of one class differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ClassGap {
    /// The class of tokens, or `images`, of which the figures are images then.
    pub class: String,
    /// Tokens in the export.
    pub export_tokens: u64,
    /// Tokens in the ledger.
    pub ledger_tokens: u64,
    /// What the difference costs by the price in force, in nano-dollars; null if the model has no price.
    pub worth_nano_usd: Option<i64>,
}

/// Compares an export with the ledger.
///
/// # Errors
/// Those of the store.
pub async fn reconcile(
    ledger: &dyn LedgerStore,
    pricing: &Pricing,
    export: Export,
    question: &Question,
) -> Result<Reconciliation, StoreError> {
    let mut found = Reconciliation {
        grain: "whole".to_owned(),
        other_rows: export.other_count,
        bad_rows: export.bad_count,
        bad: export.bad,
        total: Gap { gap_cents: cents(0), ..Gap::default() },
        ..Reconciliation::default()
    };
    let inside = |row: &ExportRow| {
        question.since.is_none_or(|since| row.from >= since) && question.until.is_none_or(|until| row.until <= until)
    };
    let rows: Vec<ExportRow> = export.rows.into_iter().filter(inside).collect();
    let (Some(since), Some(until)) = (rows.iter().map(|row| row.from).min(), rows.iter().map(|row| row.until).max())
    else {
        return Ok(found);
    };
    let (grain, width) = grain(&rows);
    found.grain = grain.to_owned();
    (found.since, found.until, found.rows) = (Some(since.rfc3339()), Some(until.rfc3339()), rows.len() as u64);
    let filter = Filter {
        since: Some(since),
        until: Some(until),
        provider: Some(question.provider.clone()),
        ..Filter::default()
    };
    let sums = ledger.sums(&filter, width).await?;
    let named = rows.iter().any(|row| row.model.is_some());
    let mut sides = Sides { folds: question.vendor.folds(), named, width, ..Sides::default() };
    rows.iter().for_each(|row| sides.add_row(row));
    sums.iter().for_each(|sum| sides.add_sum(sum));
    let judge = Judge { pricing, provider: &question.provider, at: since };
    sides.tell(&judge, &mut found);
    Ok(found)
}

/// How finely the rows tell: the width of a bucket in microseconds.
fn grain(rows: &[ExportRow]) -> (&'static str, i64) {
    let longest = rows.iter().map(|row| row.until.micros() - row.from.micros()).max().unwrap_or(DAY);
    if longest <= HOUR {
        ("hour", HOUR)
    } else if longest <= DAY {
        ("day", DAY)
    } else {
        ("whole", i64::MAX)
    }
}

/// What both sides say about one span and model.
#[derive(Clone, Debug, Default)]
struct Line {
    name: String,
    rows: u64,
    counted: bool,
    export: [u64; 10],
    ledger: [u64; 10],
    /// Images in the export; `None` if it does not count them.
    drawn: Option<u64>,
    images: u64,
    charged: Option<i64>,
    cost: i64,
    requests: Option<u64>,
    records: u64,
    cut: u64,
    estimated: u64,
    unpriced: u64,
}

/// Both sides by span and model.
#[derive(Default)]
struct Sides {
    folds: [usize; 10],
    named: bool,
    width: i64,
    lines: BTreeMap<(i64, String), Line>,
}

impl Sides {
    fn line(&mut self, at: Timestamp, name: &str) -> &mut Line {
        let bucket = if self.width == i64::MAX { 0 } else { at.micros() - at.micros().rem_euclid(self.width) };
        let key = if self.named { model::key(name) } else { String::new() };
        self.lines.entry((bucket, key)).or_default()
    }

    fn folded(&self, usage: &Usage) -> [u64; 10] {
        let mut folded = [0_u64; 10];
        for (class, count) in usage.counts().into_iter().enumerate() {
            let to = self.folds.get(class).copied().unwrap_or(class);
            if let Some(sum) = folded.get_mut(to) {
                *sum = sum.saturating_add(count);
            }
        }
        folded
    }

    fn add_row(&mut self, row: &ExportRow) {
        let name = row.model.as_deref().unwrap_or_default();
        let folded = row.usage.as_ref().map(|usage| self.folded(usage));
        let line = self.line(row.from, name);
        line.rows += 1;
        if line.name.is_empty() {
            line.name = name.to_owned();
        }
        if let Some(folded) = folded {
            line.counted = true;
            add(&mut line.export, &folded);
        }
        line.charged = sum(line.charged, row.cost.map(NanoUsd::nanos), i64::saturating_add);
        line.requests = sum(line.requests, row.requests, u64::saturating_add);
        line.drawn = sum(line.drawn, row.images, u64::saturating_add);
    }

    fn add_sum(&mut self, of: &UsageSum) {
        let folded = self.folded(&of.usage);
        let line = self.line(of.from, &of.model);
        line.name = of.model.clone();
        add(&mut line.ledger, &folded);
        line.images = line.images.saturating_add(of.images);
        line.cost = line.cost.saturating_add(of.cost.nanos());
        line.records += of.records;
        line.cut += of.cut;
        line.estimated += of.estimated;
        line.unpriced += of.unpriced;
    }

    fn tell(self, judge: &Judge<'_>, found: &mut Reconciliation) {
        let (mut total, mut models) = (Line::default(), BTreeMap::<String, Line>::new());
        for ((_, key), line) in &self.lines {
            total.merge(line);
            models.entry(key.clone()).or_default().merge(line);
        }
        let mut spans: Vec<Gap> = self
            .lines
            .iter()
            .map(|((bucket, _), line)| {
                let from = (self.width != i64::MAX).then(|| Timestamp(*bucket).rfc3339());
                Gap { from, ..judge.gap(line) }
            })
            .filter(|gap| gap.cause.is_some())
            .collect();
        let mut models: Vec<Gap> = models.values().map(|line| judge.gap(line)).collect();
        spans.sort_by_key(size);
        models.sort_by_key(size);
        found.total = judge.total(&total, &models);
        spans.truncate(SHOWN_LIMIT);
        models.truncate(SHOWN_LIMIT);
        (found.models, found.spans) = (models, spans);
    }
}

impl Line {
    fn merge(&mut self, other: &Self) {
        if !other.name.is_empty() {
            self.name.clone_from(&other.name);
        }
        self.rows += other.rows;
        self.counted |= other.counted;
        add(&mut self.export, &other.export);
        add(&mut self.ledger, &other.ledger);
        self.charged = sum(self.charged, other.charged, i64::saturating_add);
        self.cost = self.cost.saturating_add(other.cost);
        self.requests = sum(self.requests, other.requests, u64::saturating_add);
        self.drawn = sum(self.drawn, other.drawn, u64::saturating_add);
        self.images = self.images.saturating_add(other.images);
        self.records += other.records;
        self.cut += other.cut;
        self.estimated += other.estimated;
        self.unpriced += other.unpriced;
    }

    /// The classes whose counts differ, each with its number; none if the export counts no tokens.
    fn differing(&self) -> impl Iterator<Item = (usize, u64, u64)> {
        // Of spans that only the ledger knows the export says 0 by its silence.
        let counts = self.counted || self.rows == 0;
        let pairs = self.export.iter().zip(&self.ledger).enumerate();
        pairs
            .filter(move |(_, (export, ledger))| counts && export != ledger)
            .map(|(class, (export, ledger))| (class, *export, *ledger))
            .chain(
                self.drawn.filter(|drawn| *drawn != self.images).map(|drawn| (CLASSES.len() - 1, drawn, self.images)),
            )
    }
}

/// Prices differences and names causes.
struct Judge<'a> {
    pricing: &'a Pricing,
    provider: &'a str,
    at: Timestamp,
}

impl Judge<'_> {
    fn gap(&self, line: &Line) -> Gap {
        let query = self.pricing.lookup(self.provider, &line.name, self.at, ServiceTier::Standard);
        let price = self.pricing.catalog.rates(&query);
        let worth = |class: usize, count: i128| {
            let (price, name) = (price.as_ref()?, *CLASSES.get(class)?);
            // Nanos for each: a dollar a million tokens is a thousand.
            let each = match name {
                IMAGES => price.per_image_usd * 1e9,
                _ => price.usd_per_million_tokens.get(name)? * 1e3,
            };
            Some((count as f64 * each).round() as i64)
        };
        let class = |(class, export, ledger): (usize, u64, u64)| ClassGap {
            class: CLASSES.get(class).copied().unwrap_or_default().to_owned(),
            export_tokens: export,
            ledger_tokens: ledger,
            worth_nano_usd: worth(class, i128::from(export) - i128::from(ledger)),
        };
        let mut classes: Vec<ClassGap> = line.differing().map(class).collect();
        classes.sort_by_key(|gap| std::cmp::Reverse(gap.weight()));
        let gap = facts(line, classes);
        let nanos = gap.nanos();
        let (cause, detail) = cause(&gap, nanos).unzip();
        Gap { model: Some(line.name.clone()), gap_cents: cents(nanos), cause, detail, ..gap }
    }

    /// Everything together: classes are summed up over the models, since each model has rates of its own.
    fn total(&self, line: &Line, models: &[Gap]) -> Gap {
        let mut worths: BTreeMap<&str, i64> = BTreeMap::new();
        for class in models.iter().flat_map(|model| &model.classes) {
            let sum = worths.entry(&class.class).or_default();
            *sum = sum.saturating_add(class.worth_nano_usd.unwrap_or_default());
        }
        let class = |(class, export_tokens, ledger_tokens): (usize, u64, u64)| {
            let name = CLASSES.get(class).copied().unwrap_or_default();
            ClassGap { class: name.to_owned(), export_tokens, ledger_tokens, worth_nano_usd: worths.get(name).copied() }
        };
        let mut classes: Vec<ClassGap> = line.differing().map(class).collect();
        classes.sort_by_key(|gap| std::cmp::Reverse(gap.weight()));
        let gap = facts(line, classes);
        let nanos = gap.nanos();
        let (cause, detail) = cause(&gap, nanos).unzip();
        Gap { gap_cents: cents(nanos), cause, detail, ..gap }
    }
}

fn facts(line: &Line, classes: Vec<ClassGap>) -> Gap {
    Gap {
        export_nano_usd: line.charged.or((line.rows == 0).then_some(0)),
        ledger_nano_usd: line.cost,
        export_requests: line.requests,
        ledger_records: line.records,
        cut_records: line.cut,
        estimated_records: line.estimated,
        unpriced_records: line.unpriced,
        classes,
        ..Gap::default()
    }
}

impl ClassGap {
    /// How much it matters: money, or tokens at a thousandth of a dollar a million where there is no price.
    fn weight(&self) -> u64 {
        let tokens = self.export_tokens.abs_diff(self.ledger_tokens);
        self.worth_nano_usd.map_or(tokens, i64::unsigned_abs)
    }
}

impl Gap {
    /// The gap in nano-dollars.
    fn nanos(&self) -> i64 {
        match self.export_nano_usd {
            Some(charged) => charged.saturating_sub(self.ledger_nano_usd),
            None => self.classes.iter().filter_map(|class| class.worth_nano_usd).fold(0, i64::saturating_add),
        }
    }
}

/// What causes a gap, in a word and in a sentence.
fn cause(gap: &Gap, nanos: i64) -> Option<(String, String)> {
    let dearest = gap.classes.first();
    let worth = dearest.map_or(0, ClassGap::weight);
    if nanos.abs() < CENT_NANOS / 2 && worth < (CENT_NANOS / 2) as u64 {
        return None;
    }
    if gap.unpriced_records > 0 && nanos > 0 && worth * 2 < nanos.unsigned_abs() {
        let text = format!("{} records have no price", gap.unpriced_records);
        return Some(("unpriced".to_owned(), text));
    }
    // A class that is worth less than a tenth of the gap is not what causes it.
    if let Some(class) = dearest.filter(|class| class.weight().saturating_mul(10) >= nanos.unsigned_abs()) {
        return Some((class.class.clone(), words(gap, class)));
    }
    if gap.export_requests.is_none()
        && gap.classes.is_empty()
        && gap.export_nano_usd.is_some()
        && gap.ledger_records > 0
    {
        let text = "the counts are equal or the export has none: the provider charges another price".to_owned();
        return Some(("price".to_owned(), text));
    }
    let (export, ledger) = (gap.export_requests.unwrap_or(0), gap.ledger_records);
    if export != ledger && gap.export_requests.is_some() {
        return Some(("requests".to_owned(), requests(export, ledger)));
    }
    if ledger == 0 {
        return Some(("requests".to_owned(), "the ledger has no record of it".to_owned()));
    }
    Some(("price".to_owned(), "the tokens agree: the provider charges another price".to_owned()))
}

fn words(gap: &Gap, class: &ClassGap) -> String {
    let (more, less) = (class.export_tokens.max(class.ledger_tokens), class.export_tokens.min(class.ledger_tokens));
    let who = if class.export_tokens > class.ledger_tokens { "the provider" } else { "the ledger" };
    let of = if class.class == IMAGES { "more images".to_owned() } else { format!("more tokens of {}", class.class) };
    let mut text = format!("{who} counts {} {of}", more - less);
    if let Some(export) = gap.export_requests.filter(|export| *export != gap.ledger_records) {
        text.push_str("; ");
        text.push_str(&requests(export, gap.ledger_records));
    } else if gap.cut_records > 0 && class.export_tokens > class.ledger_tokens {
        text.push_str(&format!("; {} streams were cut, which the provider may have gone on with", gap.cut_records));
    } else if gap.estimated_records > 0 {
        text.push_str(&format!("; {} records are estimates", gap.estimated_records));
    }
    text
}

fn requests(export: u64, ledger: u64) -> String {
    if export > ledger {
        format!("{} requests are known to the provider only", export - ledger)
    } else {
        format!("{} records are known to the ledger only", ledger - export)
    }
}

/// Sorts the largest first.
fn size(gap: &Gap) -> std::cmp::Reverse<u64> {
    std::cmp::Reverse(gap.nanos().unsigned_abs().max(gap.classes.first().map_or(0, ClassGap::weight)))
}

/// Nano-dollars as cents with two decimals, to the nearest.
fn cents(nanos: i64) -> String {
    let hundredths = (nanos.unsigned_abs() + 50_000) / 100_000;
    let sign = if nanos < 0 && hundredths > 0 { "-" } else { "" };
    format!("{sign}{}.{:02}", hundredths / 100, hundredths % 100)
}

fn add(sums: &mut [u64; 10], more: &[u64; 10]) {
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum = sum.saturating_add(*more);
    }
}

/// The sum of what is known; `None` if nothing is.
fn sum<T>(one: Option<T>, other: Option<T>, add: impl Fn(T, T) -> T) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(add(one, other)),
        (one, other) => one.or(other),
    }
}
