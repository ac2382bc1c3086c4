//! The context of a judgement: the facts of a call as Cedar values, only those that somebody reads.
//!
//! Making all of them takes about 4 µs, so `Fields` says which the policies of a slice read, down to the members of records.
//! A figure that is not known, or
//! that does not fit, is the largest number, so that no cap is passed by it.

use std::net::IpAddr;

use cedar_policy::{Context, RestrictedExpression};
use jiff::Zoned;
use jiff::tz::TimeZone;

use crate::kavach::call::{Facts, Scores, SessionFigures};
use crate::unit::clock::Timestamp;

/// Every figure that a policy can read; a dot stands before a member of a field that is a record. Fewer than 32.
const NAMES: &[&str] = &[
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
    "time.now",
    "time.hour",
    "time.minute_of_day",
    "time.weekday",
    "session.id",
    "session.requests",
    "session.input_tokens",
    "session.output_tokens",
    "session.cost_nano_usd",
    "session.age_seconds",
    "drift.geo",
    "drift.device",
    "drift.session_age",
    "drift.behaviour",
];

/// The fields that are records.
const RECORDS: [&str; 3] = ["time", "session", "drift"];

/// A set of figures of the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields(u32);

impl Fields {
    pub(super) const ALL: Self = Self((1 << NAMES.len()) - 1);

    /// The set with one more: a field, all members of one that is a record, or one member, as in `session.requests`. A name that
    /// is none of these adds all of them.
    pub(super) fn with(self, name: &str) -> Self {
        let is_of = |known: &str| known == name || known.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
        let found = NAMES.iter().enumerate().filter(|(_, known)| is_of(known));
        match found.fold(0, |found, (index, _)| found | 1 << index) {
            0 => Self::ALL,
            found => Self(self.0 | found),
        }
    }

    pub(super) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether both have a figure.
    pub(super) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its figures; each with the name of the record that it is in, or none.
    fn names(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let known = NAMES.iter().enumerate().filter(move |(index, _)| self.0 & (1 << index) != 0);
        known.map(|(_, name)| name.split_once('.').unwrap_or(("", name)))
    }
}

/// The context of a call with those figures. `Err` only if Cedar refuses a value, which no fact can bring about.
pub(super) fn context(
    facts: &Facts,
    fields: Fields,
    zone: &TimeZone,
) -> Result<Context, Box<cedar_policy::ContextCreationError>> {
    let plain = fields.names().filter(|(record, _)| record.is_empty());
    let plain = plain.filter_map(|(_, name)| Some((name.to_owned(), field(facts, name)?)));
    let records = RECORDS.into_iter().filter_map(|name| {
        let members: Vec<&str> =
            fields.names().filter(|(record, _)| *record == name).map(|(_, member)| member).collect();
        (!members.is_empty()).then(|| (name.to_owned(), members_of(facts, name, &members, zone)))
    });
    Context::from_pairs(plain.chain(records)).map_err(Box::new)
}

/// The longest print; what is longer, such as the names of many tools, hardly ever comes twice.
const MAX_PRINT_BYTES: usize = 256;

/// What those figures are, as bytes: two calls have the same only if their contexts are the same, so that what was said of the
/// one holds for the other (`what_was_said_of_a_context_holds_for_the_same_one_alone`). `None` if they never come twice (the moment
/// itself) or are too long.
pub(super) fn print(facts: &Facts, fields: Fields, zone: &TimeZone) -> Option<Vec<u8>> {
    let mut print = Vec::with_capacity(MAX_PRINT_BYTES);
    let mut local = None;
    for (index, name) in NAMES.iter().enumerate().filter(|(index, _)| fields.0 & (1 << index) != 0) {
        if *name == "time.now" || print.len() > MAX_PRINT_BYTES {
            return None;
        }
        // Its number comes before each that is there, and its length before each that has none of its own.
        let start = print.len();
        print.push(index as u8);
        if print_one(facts, name, &mut print).is_none() {
            match name.strip_prefix("time.") {
                Some(member) => {
                    let local = local.get_or_insert_with(|| moment(facts.time).to_zoned(zone.clone()));
                    print.extend(member_of_day(local, member).to_le_bytes());
                }
                None => print.truncate(start),
            }
        }
    }
    (print.len() <= MAX_PRINT_BYTES).then_some(print)
}

/// Prints one figure besides those of the time; `None` if it is not there.
fn print_one(facts: &Facts, name: &str, print: &mut Vec<u8>) -> Option<()> {
    fn text(print: &mut Vec<u8>, text: &str) {
        print.extend((text.len() as u64).to_le_bytes());
        // More than the bound says that there is no print at all.
        print.extend(text.bytes().take(MAX_PRINT_BYTES + 1));
    }
    fn texts<'a>(print: &mut Vec<u8>, all: impl ExactSizeIterator<Item = &'a str>) {
        print.extend((all.len() as u64).to_le_bytes());
        for one in all {
            if print.len() > MAX_PRINT_BYTES {
                return;
            }
            text(print, one);
        }
    }
    let (session, drift) = (&facts.session, facts.drift);
    let number = match name {
        "requested_max_output_tokens" => facts.requested_max_output_tokens?,
        "max_output_tokens" => facts.max_output_tokens.unwrap_or(u64::MAX),
        "estimated_input_tokens" => facts.estimated_input_tokens,
        "estimated_cost_nano_usd" => facts.estimated_cost.map_or(i64::MAX, |cost| cost.nanos()).cast_unsigned(),
        "stream" => facts.stream.into(),
        "tool_count" => facts.tool_count,
        "session.requests" => session.requests,
        "session.input_tokens" => session.input_tokens,
        "session.output_tokens" => session.output_tokens,
        "session.cost_nano_usd" => session.cost.nanos().cast_unsigned(),
        "session.age_seconds" => session.age_seconds,
        "drift.geo" => drift.geo.into(),
        "drift.device" => drift.device.into(),
        "drift.session_age" => drift.session_age.into(),
        "drift.behaviour" => drift.behaviour.into(),
        _ => {
            match name {
                "requested_model" => text(print, &facts.requested_model),
                "tool" => text(print, facts.tool.as_deref()?),
                "country" => text(print, facts.country.as_deref()?),
                "session.id" => text(print, &session.id),
                "tools" => texts(print, facts.tools.iter().map(|name| &**name)),
                "modalities" => texts(print, facts.modalities.iter().map(|name| &**name)),
                "address" => text(print, &facts.address?.to_canonical().to_string()),
                _ => return None,
            }
            return Some(());
        }
    };
    print.extend(number.to_le_bytes());
    Some(())
}

fn field(facts: &Facts, name: &str) -> Option<RestrictedExpression> {
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
        _ => text(facts.country.as_deref()?),
    })
}

fn members_of(facts: &Facts, name: &str, members: &[&'static str], zone: &TimeZone) -> RestrictedExpression {
    match name {
        "time" => time_with(facts.time, zone, members),
        "session" => record(members.iter().map(|name| (*name, session(&facts.session, name)))),
        _ => record(members.iter().map(|name| (*name, drift(facts.drift, name)))),
    }
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

fn session(session: &SessionFigures, name: &str) -> RestrictedExpression {
    match name {
        "id" => text(&session.id),
        "requests" => number(session.requests),
        "input_tokens" => number(session.input_tokens),
        "output_tokens" => number(session.output_tokens),
        "cost_nano_usd" => RestrictedExpression::new_long(session.cost.nanos()),
        _ => number(session.age_seconds),
    }
}

fn drift(scores: Scores, name: &str) -> RestrictedExpression {
    RestrictedExpression::new_long(i64::from(match name {
        "geo" => scores.geo,
        "device" => scores.device,
        "session_age" => scores.session_age,
        _ => scores.behaviour,
    }))
}

/// The time with all that policies can read of it.
pub(super) fn time(now: Timestamp, zone: &TimeZone) -> RestrictedExpression {
    time_with(now, zone, &["now", "hour", "minute_of_day", "weekday"])
}

fn time_with(now: Timestamp, zone: &TimeZone, members: &[&'static str]) -> RestrictedExpression {
    let moment = moment(now);
    let local = moment.to_zoned(zone.clone());
    let member = |name: &str| match name {
        "now" => {
            let utc = moment.to_zoned(TimeZone::UTC);
            RestrictedExpression::new_datetime(utc.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
        }
        name => RestrictedExpression::new_long(member_of_day(&local, name)),
    };
    record(members.iter().map(|name| (*name, member(name))))
}

fn moment(now: Timestamp) -> jiff::Timestamp {
    // Years beyond what the calendar holds cannot come from a clock; they count as its last day.
    jiff::Timestamp::from_microsecond(now.micros()).unwrap_or(jiff::Timestamp::MAX)
}

fn member_of_day(local: &Zoned, name: &str) -> i64 {
    match name {
        "hour" => i64::from(local.hour()),
        "minute_of_day" => i64::from(local.hour()) * 60 + i64::from(local.minute()),
        _ => i64::from(local.weekday().to_monday_one_offset()),
    }
}

#[allow(
    clippy::expect_used,
    reason = "Cedar refuses only a name that is given twice, and every list here is a literal"
)]
fn record<'a>(fields: impl Iterator<Item = (&'a str, RestrictedExpression)>) -> RestrictedExpression {
    let fields = fields.map(|(name, value)| (name.to_owned(), value));
    RestrictedExpression::new_record(fields).expect("the names differ")
}
