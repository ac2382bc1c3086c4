//! The context of a judgement: the facts of a call as Cedar values, only those that somebody reads.
//!
//! Making all of them takes about 4 µs, so `Fields` says which the policies of a slice read. A figure that is not known, or
//! that does not fit, is the largest number, so that no cap is passed by it.

use std::net::IpAddr;

use cedar_policy::{Context, RestrictedExpression};
use jiff::tz::TimeZone;

use crate::kavach::call::{Facts, Scores, SessionFigures};
use crate::unit::clock::Timestamp;

/// Every field of the context, in the order of [`field`].
pub(super) const NAMES: &[&str] = &[
    "requested_model",
    "requested_max_output_tokens",
    "max_output_tokens",
    "estimated_input_tokens",
    "estimated_cost_nano_usd",
    "stream",
    "tool_count",
    "tools",
    "tool",
    "modalities",
    "address",
    "country",
    "time",
    "session",
    "drift",
];

/// A set of fields of the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields(u32);

impl Fields {
    pub(super) const ALL: Self = Self((1 << NAMES.len()) - 1);

    /// The set with one more; a name that is none of the fields adds all of them.
    pub(super) fn with(self, name: &str) -> Self {
        match NAMES.iter().position(|known| *known == name) {
            Some(index) => Self(self.0 | 1 << index),
            None => Self::ALL,
        }
    }

    pub(super) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether both have a field.
    pub(super) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().enumerate().filter(move |(index, _)| self.0 & (1 << index) != 0).map(|(_, name)| *name)
    }
}

/// The context of a call with those fields. `Err` only if Cedar refuses a value, which no fact can bring about.
pub(super) fn context(
    facts: &Facts,
    fields: Fields,
    zone: &TimeZone,
) -> Result<Context, Box<cedar_policy::ContextCreationError>> {
    let pairs = fields.names().filter_map(|name| Some((name.to_owned(), field(facts, name, zone)?)));
    Context::from_pairs(pairs).map_err(Box::new)
}

fn field(facts: &Facts, name: &str, zone: &TimeZone) -> Option<RestrictedExpression> {
    Some(match name {
        "requested_model" => text(&facts.requested_model),
        "requested_max_output_tokens" => number(facts.requested_max_output_tokens?),
        "max_output_tokens" => number(facts.max_output_tokens.unwrap_or(u64::MAX)),
        "estimated_input_tokens" => number(facts.estimated_input_tokens),
        "estimated_cost_nano_usd" => {
            RestrictedExpression::new_long(facts.estimated_cost.map_or(i64::MAX, |cost| cost.nanos()))
        }
        "stream" => RestrictedExpression::new_bool(facts.stream),
        "tool_count" => number(facts.tool_count),
        "tools" => RestrictedExpression::new_set(facts.tools.iter().map(|name| text(name))),
        "tool" => text(facts.tool.as_deref()?),
        "modalities" => RestrictedExpression::new_set(facts.modalities.iter().map(|name| text(name))),
        "address" => address(facts.address?),
        "country" => text(facts.country.as_deref()?),
        "time" => time(facts.time, zone),
        "session" => session(&facts.session),
        _ => drift(facts.drift),
    })
}

fn text(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

fn number(number: u64) -> RestrictedExpression {
    RestrictedExpression::new_long(i64::try_from(number).unwrap_or(i64::MAX))
}

pub(super) fn address(address: IpAddr) -> RestrictedExpression {
    // An IPv4 address that arrives as IPv6 counts as IPv4, as it does for keys.
    RestrictedExpression::new_ip(address.to_canonical().to_string())
}

fn session(session: &SessionFigures) -> RestrictedExpression {
    record(vec![
        ("id", text(&session.id)),
        ("requests", number(session.requests)),
        ("input_tokens", number(session.input_tokens)),
        ("output_tokens", number(session.output_tokens)),
        ("cost_nano_usd", RestrictedExpression::new_long(session.cost.nanos())),
        ("age_seconds", number(session.age_seconds)),
    ])
}

fn drift(scores: Scores) -> RestrictedExpression {
    let score = |score: u8| RestrictedExpression::new_long(i64::from(score));
    record(vec![
        ("geo", score(scores.geo)),
        ("device", score(scores.device)),
        ("session_age", score(scores.session_age)),
        ("behaviour", score(scores.behaviour)),
    ])
}

pub(super) fn time(now: Timestamp, zone: &TimeZone) -> RestrictedExpression {
    // Years beyond what the calendar holds cannot come from a clock; they count as its last day.
    let moment = jiff::Timestamp::from_microsecond(now.micros()).unwrap_or(jiff::Timestamp::MAX);
    let local = moment.to_zoned(zone.clone());
    let minute_of_day = i64::from(local.hour()) * 60 + i64::from(local.minute());
    let utc = moment.to_zoned(TimeZone::UTC);
    record(vec![
        ("now", RestrictedExpression::new_datetime(utc.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())),
        ("hour", RestrictedExpression::new_long(i64::from(local.hour()))),
        ("minute_of_day", RestrictedExpression::new_long(minute_of_day)),
        ("weekday", RestrictedExpression::new_long(i64::from(local.weekday().to_monday_one_offset()))),
    ])
}

#[allow(
    clippy::expect_used,
    reason = "Cedar refuses only a name that is given twice, and every list here is a literal"
)]
fn record(fields: Vec<(&str, RestrictedExpression)>) -> RestrictedExpression {
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
    RestrictedExpression::new_record(fields).expect("the names differ")
}
