//! One condition or invariant of Kavach as a Cedar expression.

use jiff::tz::TimeZone;
use toml::{Table, Value};

use crate::kavach::import::quoted;
use crate::kavach::rule;

/// What becomes of a condition.
pub(super) enum Told {
    /// It holds for every call.
    Always,
    /// It holds when this expression does; perhaps with something to know.
    When(String, Option<String>),
    /// It never held.
    Never(String),
    /// Cedar cannot say it.
    Not(String),
}

fn when(expression: impl Into<String>) -> Told {
    Told::When(expression.into(), None)
}

/// How every action began there.
const PREFIX: &str = "marg.chat.";
const KINDS: &[&str] = &["user", "agent", "service", "scheduler", "external"];

/// A condition: a table of one name and its value.
pub(super) fn told(table: &Table, zone: &TimeZone) -> Told {
    let mut entries = table.iter();
    let (Some((name, value)), None) = (entries.next(), entries.next()) else {
        return Told::Not("a condition is a table of one name and its value".to_owned());
    };
    let text = value.as_str();
    match (name.as_str(), text) {
        ("identity_role", Some(role)) => identity_role(role),
        ("identity_kind", Some(kind)) => Told::When(kind_is(kind), Some(KIND_NOTE.to_owned())),
        ("identity_id", Some(id)) => when(format!("principal == Key::{}", quoted(id))),
        ("action", Some(pattern)) => action(pattern),
        ("resource", Some(_)) => Told::Never("`resource` was never set".to_owned()),
        ("param_max", None) => bound(value, "max", "<="),
        ("param_min", None) => bound(value, "min", ">="),
        ("param_in", None) => param_in(value),
        ("rate_limit", None) => {
            let max = value.get("max").and_then(Value::as_integer).unwrap_or_default();
            let window = value.get("window").and_then(Value::as_str).unwrap_or("1h");
            Told::Not(format!(
                "rate_limit of {max} in {window} needs a ledger; make a limit row of it (requests, per key)"
            ))
        }
        ("session_age_max", Some(span)) => session_age(span),
        ("time_window", Some(window)) => time_window(window, zone),
        _ => Told::Not(format!("there is no condition {name} with such a value")),
    }
}

const KIND_NOTE: &str = "the kind of a key is now its label `kind`; give it to the keys that need it";

fn kind_is(kind: &str) -> String {
    format!("(principal.hasTag(\"kind\") && principal.getTag(\"kind\") == {})", quoted(kind))
}

fn identity_role(role: &str) -> Told {
    if let Some(team) = role.strip_prefix("team:") {
        return when(format!("principal in Team::{}", quoted(team)));
    }
    let named = format!("principal in Role::{}", quoted(role));
    if KINDS.contains(&role) {
        return Told::When(format!("({named} || {})", kind_is(role)), Some(KIND_NOTE.to_owned()));
    }
    let note = "roles are now the words of a key's label `roles`; give it to the keys that need it";
    Told::When(named, Some(note.to_owned()))
}

/// A pattern is exact, or ends in `*` or `.*`, both of which mean the text before them and whatever follows.
fn action(pattern: &str) -> Told {
    let prefix = pattern.strip_suffix(".*").or_else(|| pattern.strip_suffix('*'));
    match prefix {
        Some(prefix) if PREFIX.starts_with(prefix) => Told::Always,
        Some(prefix) => match prefix.strip_prefix(PREFIX) {
            Some(model) => when(format!("context.requested_model like {}", starred(model))),
            None => Told::Never(format!("no action begins with {prefix}")),
        },
        None => match pattern.strip_prefix(PREFIX) {
            Some(model) => when(format!("context.requested_model == {}", quoted(model))),
            None => Told::Never(format!("no action is called {pattern}")),
        },
    }
}

/// A prefix as a pattern of `like`, in which a star of the text itself is escaped.
fn starred(prefix: &str) -> String {
    let pattern = quoted(prefix).replace('*', "\\*");
    format!("{}*\"", pattern.strip_suffix('"').unwrap_or(&pattern))
}

/// The field of the context behind a numeric parameter, and how many of its units one of the parameter is.
fn numeric(field: &str) -> Option<(&'static str, f64)> {
    match field {
        "max_tokens" => Some(("context.max_output_tokens", 1.0)),
        "estimated_cost_usd" => Some(("context.estimated_cost_nano_usd", 1e9)),
        "input_token_count" => Some(("context.estimated_input_tokens", 1.0)),
        "tool_count" => Some(("context.tool_count", 1.0)),
        _ => None,
    }
}

/// The comparison of a numeric parameter with a bound; the bound is rounded so that no more passes than did.
fn compare(value: &Value, bound: &str, operator: &str) -> Result<(String, Option<String>), String> {
    let field = value.get("field").and_then(Value::as_str).unwrap_or_default();
    let number =
        value.get(bound).and_then(|value| value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64)));
    let (Some((name, scale)), Some(number)) = (numeric(field), number) else {
        return Err(format!("no number is called {field}, or {bound} is not one"));
    };
    let scaled = number * scale;
    // A dollar amount in binary is a hair beside what was written.
    let near = if (scaled - scaled.round()).abs() < 1e-3 { scaled.round() } else { scaled };
    let whole = if matches!(operator, "<=" | ">") { near.floor() } else { near.ceil() };
    if !(-9.2e18..=9.2e18).contains(&whole) {
        return Err(format!("{number} is beyond what can be compared"));
    }
    let note = (field == "max_tokens")
        .then(|| "max_tokens is now what the provider gets; none at all is larger than any cap".to_owned());
    Ok((format!("{name} {operator} {}", whole as i64), note))
}

fn bound(value: &Value, bound: &str, operator: &str) -> Told {
    match compare(value, bound, operator) {
        Ok((expression, note)) => Told::When(expression, note),
        Err(why) => Told::Never(why),
    }
}

fn param_in(value: &Value) -> Told {
    let field = value.get("field").and_then(Value::as_str).unwrap_or_default();
    let values: Vec<&str> =
        value.get("values").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    if values.is_empty() {
        return Told::Never("the list holds no text".to_owned());
    }
    match field {
        "model" => when(one_of(&values)),
        "team" => {
            let teams: Vec<String> = values.iter().map(|team| format!("principal in Team::{}", quoted(team))).collect();
            when(format!("({})", teams.join(" || ")))
        }
        _ => Told::Never(format!("no text is called {field}")),
    }
}

fn one_of(models: &[&str]) -> String {
    let list: Vec<String> = models.iter().map(|model| quoted(model)).collect();
    format!("[{}].contains(context.requested_model)", list.join(", "))
}

fn session_age(span: &str) -> Told {
    let age = |seconds: u64| format!("context.session.age_seconds <= {seconds}");
    match rule::duration(span) {
        Some(span) => when(age(span.as_secs())),
        None => Told::When(age(86_400), Some(format!("{span:?} is no span of time and counted as 24h; it still does"))),
    }
}

/// `HH:MM-HH:MM` and perhaps an IANA zone, else UTC; both ends belong to it; an end before the beginning is on the next day.
fn time_window(window: &str, zone: &TimeZone) -> Told {
    let (hours, name) = window.trim().split_once(' ').unwrap_or((window.trim(), "UTC"));
    let Some((from, to)) = hours.split_once('-').and_then(|(from, to)| Some((minutes(from)?, minutes(to)?))) else {
        return Told::Never(format!("{window:?} is no window of time"));
    };
    let Ok(wanted) = TimeZone::get(name.trim()) else {
        return Told::Never(format!("{name} is no time zone"));
    };
    let join = if from <= to { "&&" } else { "||" };
    if let Some(seconds) = fixed_offset(&wanted) {
        let now = format!("context.time.now.offset(duration(\"{seconds}s\")).toTime()");
        return when(format!("({now} >= duration(\"{from}m\") {join} {now} <= duration(\"{to}m\"))"));
    }
    if wanted.iana_name() == zone.iana_name() {
        let now = "context.time.minute_of_day";
        let note = "its last minute is no longer part of the window".to_owned();
        return Told::When(format!("({now} >= {from} {join} {now} < {to})"), Some(note));
    }
    Told::Not(format!(
        "the time zone {name} has daylight saving time; set kavach.time_zone to it and import with --time-zone"
    ))
}

fn minutes(clock: &str) -> Option<u32> {
    let (hour, minute) = clock.trim().split_once(':')?;
    let digits = |text: &str| (text.len() == 2).then(|| text.parse::<u32>().ok()).flatten();
    let (hour, minute) = (digits(hour)?, digits(minute)?);
    (hour < 24 && minute < 60).then_some(hour * 60 + minute)
}

/// The offset of a zone that does not change any more after 2026.
fn fixed_offset(zone: &TimeZone) -> Option<i32> {
    let start = jiff::Timestamp::from_second(1_767_225_600).ok()?;
    zone.following(start).next().is_none().then(|| zone.to_offset(start).seconds())
}

/// An invariant, as what it forbids.
pub(super) fn invariant(table: &Table) -> Told {
    const FIELDS: &[&str] = &["name", "kind", "field", "max", "min", "max_seconds", "actions"];
    if let Some(unknown) = table.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        return Told::Not(format!("there is no field {unknown}"));
    }
    let value = Value::Table(table.clone());
    let number = |name: &str| table.get(name).and_then(Value::as_integer).filter(|number| *number >= 0);
    let beyond = |bound: &str, operator: &str| match compare(&value, bound, operator) {
        Ok((expression, note)) => Told::When(expression, note),
        Err(why) => Told::Not(format!("{why}; it passed every call")),
    };
    match table.get("kind").and_then(Value::as_str).unwrap_or_default() {
        "param_max" => beyond("max", ">"),
        "param_min" => beyond("min", "<"),
        "max_actions_per_session" => match number("max") {
            Some(max) => when(format!("context.session.requests >= {max}")),
            None => Told::Not("max is missing".to_owned()),
        },
        "max_session_age" => match number("max_seconds") {
            Some(most) => when(format!("context.session.age_seconds > {most}")),
            None => Told::Not("max_seconds is missing".to_owned()),
        },
        "allowed_actions" => match models(table).as_slice() {
            [] => Told::Always,
            models => when(format!("!{}", one_of(models))),
        },
        "blocked_actions" => match models(table).as_slice() {
            [] => Told::Never("none of its actions exists".to_owned()),
            models => when(one_of(models)),
        },
        kind => Told::Not(format!("there is no invariant {kind}")),
    }
}

/// The models of a list of exact actions.
fn models(table: &Table) -> Vec<&str> {
    let actions = table.get("actions").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    actions.filter_map(|action| action.strip_prefix(PREFIX)).collect()
}
