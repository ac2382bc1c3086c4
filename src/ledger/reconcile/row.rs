//! The neutral row, and what the parsers share.

use serde::{Deserialize, Serialize};

use crate::unit::clock::Timestamp;
use crate::unit::money::NanoUsd;
use crate::unit::usage::Usage;

/// The most rows of an export.
const ROWS_LIMIT: usize = 1_000_000;
/// The most rows at fault that are told.
const BAD_SHOWN: usize = 100;
/// The most dollars that one row is believed to say.
const AMOUNT_LIMIT_USD: f64 = 1e9;

/// Microseconds of an hour and of a day.
pub(super) const HOUR: i64 = 3_600_000_000;
pub(super) const DAY: i64 = 24 * HOUR;

/// What an export says about one span of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExportRow {
    /// Where it begins.
    pub from: Timestamp,
    /// Where it ends, excluded.
    pub until: Timestamp,
    /// The model, in the vendor's words; `None` if the row is not about one.
    pub model: Option<String>,
    /// The vendor's name or id of the key, project or workspace.
    pub credential: Option<String>,
    /// Tokens, in classes that do not overlap; `None` if the row counts none.
    pub usage: Option<Usage>,
    /// Images that were drawn; `None` if the row counts none.
    pub images: Option<u64>,
    /// Requests, if they are counted.
    pub requests: Option<u64>,
    /// What the vendor charges; `None` if the row does not say.
    pub cost: Option<NanoUsd>,
}

/// A row that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct BadRow {
    /// Where it is, such as `line 7`.
    pub place: String,
    /// What is wrong with it.
    pub text: String,
}

/// An export, read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Export {
    /// Its rows in the order of the file.
    pub rows: Vec<ExportRow>,
    /// Rows that cannot be read, the first hundred.
    pub bad: Vec<BadRow>,
    /// How many those are in all.
    pub bad_count: u64,
    /// Rows about something else than models: other products, taxes, searches.
    pub other_count: u64,
}

impl Export {
    pub(super) fn take(
        &mut self,
        place: impl FnOnce() -> String,
        row: Result<Option<ExportRow>, String>,
    ) -> Result<(), String> {
        match row {
            Ok(Some(row)) if row.from < row.until => self.rows.push(row),
            Ok(Some(_)) => self.fault(place(), "it ends before it begins".to_owned()),
            Ok(None) => self.other_count += 1,
            Err(text) => self.fault(place(), text),
        }
        if self.rows.len() > ROWS_LIMIT {
            return Err(format!("The export has more than {ROWS_LIMIT} rows; cut it by time."));
        }
        Ok(())
    }

    fn fault(&mut self, place: String, text: String) {
        self.bad_count += 1;
        if self.bad.len() < BAD_SHOWN {
            self.bad.push(BadRow { place, text });
        }
    }
}

/// A number without its thousands separators; `None` where a comma stands elsewhere, since it may be a decimal one.
fn without_separators(text: &str) -> Option<String> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let mut groups = whole.split(',');
    let first = groups.next().unwrap_or_default();
    let rest_fits = groups.all(|group| group.len() == 3 && group.bytes().all(|byte| byte.is_ascii_digit()));
    let separated = whole.contains(',');
    let first_fits = !separated || (1..=3).contains(&first.trim_start_matches('-').len());
    (rest_fits && first_fits && !decimals.contains(',')).then(|| text.replace(',', ""))
}

/// A decimal number as text, perhaps with a currency sign and thousands separators, in nano-dollars after division by `per_usd`
/// (100 for cents).
pub(super) fn money(text: &str, per_usd: f64) -> Result<NanoUsd, String> {
    let bare: String = text.chars().filter(|symbol| !matches!(symbol, '$' | ' ')).collect();
    let usd = without_separators(&bare)
        .and_then(|plain| plain.parse::<f64>().ok())
        .map(|amount| amount / per_usd)
        .filter(|usd| usd.abs() <= AMOUNT_LIMIT_USD);
    usd.map(|usd| NanoUsd((usd * 1e9).round() as i64)).ok_or_else(|| format!("{:?} is not an amount", short(text)))
}

/// A count of tokens or requests as text; an empty one is none. Thousands separators are allowed; `scale` is what one stands
/// for.
pub(super) fn count(text: &str, scale: f64) -> Result<u64, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(0);
    }
    let plain = without_separators(text);
    let number = plain.and_then(|plain| plain.parse::<f64>().ok()).map(|number| (number * scale).round());
    let found = number.filter(|number| (0.0..=1e15).contains(number)).map(|number| number as u64);
    found.ok_or_else(|| format!("{:?} is not a count", short(text)))
}

/// A point in time: RFC 3339, a date, a date and a time without a zone (UTC), or seconds since 1970.
pub(super) fn time(text: &str) -> Result<Timestamp, String> {
    let text = text.trim();
    let wrong = || format!("{:?} is not a time", short(text));
    if let Ok(at) = Timestamp::parse(text) {
        return Ok(at);
    }
    let plain = text.trim_end_matches(" UTC").trim_end_matches('Z').replacen(' ', "T", 1);
    let at = match plain.parse::<jiff::civil::DateTime>() {
        Ok(at) => at,
        Err(_) => plain.parse::<jiff::civil::Date>().map_err(|_| wrong())?.to_datetime(jiff::civil::Time::midnight()),
    };
    let micros = at.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| wrong())?.timestamp().as_microsecond();
    if micros < 0 { Err(wrong()) } else { Ok(Timestamp(micros)) }
}

/// A time and the one so many microseconds later.
pub(super) fn span(from: Timestamp, micros: i64) -> (Timestamp, Timestamp) {
    (from, Timestamp(from.micros().saturating_add(micros)))
}

pub(super) fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

/// A page of an API, as both OpenAI and Anthropic answer: buckets of results.
#[derive(Deserialize)]
pub(super) struct Page<B> {
    pub(super) data: Vec<B>,
}

/// Reads pages of an API: one, several one after another (as a shell loop writes them), or a list of them.
pub(super) fn pages<B: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<Vec<B>, String> {
    let wrong = |error: serde_json::Error| format!("The export is not what the API answers: {error}.");
    let reader = serde_json::Deserializer::from_slice(bytes);
    let pages: Vec<Page<B>> = if bytes.trim_ascii_start().starts_with(b"[") {
        let lists: Vec<Vec<Page<B>>> = reader.into_iter().collect::<Result<_, _>>().map_err(wrong)?;
        lists.into_iter().flatten().collect()
    } else {
        reader.into_iter().collect::<Result<_, _>>().map_err(wrong)?
    };
    Ok(pages.into_iter().flat_map(|page| page.data).collect())
}
