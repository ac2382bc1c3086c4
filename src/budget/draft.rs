//! What somebody wants a limit to be, in the words of the configuration file, the admin API and the command line.
//!
//! All three say the same flat words – `window: day`, `timezone: Europe/Berlin`, `amount_usd: "12.50"` – and this file turns
//! them into a [`Limit`]. Dollars are read as decimal text, digit by digit; no float is involved. A fault names its field.

use std::sync::Arc;

use super::check::LimitFault;
use super::limit::{Action, Limit, Scope, Unit, Window};
use crate::unit::clock::Timestamp;
use crate::unit::glob::Glob;
use crate::unit::money::NanoUsd;

/// The longest name of a limit, in characters.
const MAX_NAME_CHARS: usize = 128;
/// The longest subject of any scope, in characters: a label of a key (64), `:`, and its value (256).
pub const MAX_SUBJECT_CHARS: usize = 321;

/// The words for scopes.
pub const SCOPES: &[(&str, Scope)] = &[
    ("gateway", Scope::Gateway),
    ("org", Scope::Org),
    ("team", Scope::Team),
    ("user", Scope::User),
    ("key", Scope::Key),
    ("model", Scope::Model),
    ("tag", Scope::Tag),
    ("session", Scope::Session),
];

/// The words for units.
pub const UNITS: &[(&str, Unit)] = &[
    ("usd", Unit::Usd),
    ("input_tokens", Unit::InputTokens),
    ("output_tokens", Unit::OutputTokens),
    ("tokens", Unit::Tokens),
    ("requests", Unit::Requests),
    ("concurrent", Unit::Concurrent),
];

/// The span of a window, before time zone and burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Sliding; paced with a burst.
    Minute,
    /// Of the clock.
    Hour,
    /// In a time zone.
    Day,
    /// In a time zone.
    Month,
    /// For ever.
    Total,
    /// At present.
    Now,
}

/// The words for windows.
pub const SPANS: &[(&str, Span)] = &[
    ("minute", Span::Minute),
    ("hour", Span::Hour),
    ("day", Span::Day),
    ("month", Span::Month),
    ("total", Span::Total),
    ("now", Span::Now),
];

/// What happens when a call does not fit, before its particulars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deed {
    /// It is refused.
    #[default]
    Refuse,
    /// It asks for another model.
    Downgrade,
    /// It passes.
    Warn,
}

/// The words for actions.
pub const DEEDS: &[(&str, Deed)] = &[("refuse", Deed::Refuse), ("downgrade", Deed::Downgrade), ("warn", Deed::Warn)];

/// The value of a word.
pub fn value_of<T: Copy>(words: &[(&str, T)], word: &str) -> Option<T> {
    words.iter().find(|(known, _)| *known == word).map(|(_, value)| *value)
}

/// The word for a value; every value has one.
pub fn word_of<T: Copy + PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    words.iter().find(|(_, known)| *known == value).map_or("", |(word, _)| *word)
}

/// An amount with its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// Money.
    Usd(NanoUsd),
    /// Tokens, requests or exchanges.
    Count(i64),
}

/// What is wrong with a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DraftFault {
    /// The field at fault, as the configuration file and the API call it.
    pub field: &'static str,
    /// What is wrong and what to write instead: a clause in lower case without a full stop.
    pub text: String,
}

fn fault(field: &'static str, text: impl Into<String>) -> DraftFault {
    DraftFault { field, text: text.into() }
}

/// The fields of a limit as somebody wrote them.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitDraft {
    /// A name for people; left out, made of the rest.
    pub name: Option<String>,
    /// Whose consumption.
    pub scope: Scope,
    /// Whose exactly; left out, each one by itself.
    pub subject: Option<String>,
    /// Patterns of models; empty is all.
    pub models: Vec<String>,
    /// What it counts.
    pub unit: Unit,
    /// The span of time.
    pub span: Span,
    /// The IANA name of the zone whose days and months count; UTC when left out.
    pub timezone: Option<String>,
    /// The most at once, for a minute that flows in evenly.
    pub burst: Option<Quantity>,
    /// The most.
    pub amount: Quantity,
    /// What happens when a call does not fit.
    pub deed: Deed,
    /// The model that is asked for instead.
    pub downgrade_to: Option<String>,
    /// The share of the amount that must be left for the model that was asked for.
    pub downgrade_below_percent: Option<u8>,
    /// The shares of the amount at which operators are told, in any order.
    pub warn_at_percent: Vec<u8>,
    /// Whether it is in force.
    pub enabled: bool,
}

impl LimitDraft {
    /// The fields of an existing limit, to be edited and checked again.
    pub fn of(limit: &Limit) -> Self {
        let quantity = |amount: i64| match limit.unit {
            Unit::Usd => Quantity::Usd(NanoUsd(amount)),
            _ => Quantity::Count(amount),
        };
        let (span, timezone, burst) = match &limit.window {
            Window::Minute => (Span::Minute, None, None),
            Window::Paced { burst } => (Span::Minute, None, Some(quantity(*burst))),
            Window::Hour => (Span::Hour, None, None),
            Window::Day { timezone } => (Span::Day, Some(timezone.clone()), None),
            Window::Month { timezone } => (Span::Month, Some(timezone.clone()), None),
            Window::Total => (Span::Total, None, None),
            Window::Now => (Span::Now, None, None),
        };
        let (deed, downgrade_to, downgrade_below_percent) = match &limit.action {
            Action::Refuse => (Deed::Refuse, None, None),
            Action::Downgrade { to, below_percent } => (Deed::Downgrade, Some(to.clone()), Some(*below_percent)),
            Action::Warn => (Deed::Warn, None, None),
        };
        Self {
            name: Some(limit.name.clone()),
            scope: limit.scope,
            subject: limit.subject.as_deref().map(str::to_owned),
            models: limit.models.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
            unit: limit.unit,
            span,
            timezone,
            burst,
            amount: quantity(limit.amount),
            deed,
            downgrade_to,
            downgrade_below_percent,
            warn_at_percent: limit.warn_at_percent.clone(),
            enabled: limit.enabled,
        }
    }

    /// The limit, under an id and with the times given.
    ///
    /// # Errors
    /// The first field that is missing, out of bounds, or does not belong to the others.
    pub fn limit(self, id: Arc<str>, created_at: Timestamp, updated_at: Timestamp) -> Result<Limit, DraftFault> {
        let window = self.window()?;
        let action = self.action()?;
        let amount = nanos_or_count("amount", "amount_usd", self.unit, self.amount)?;
        let models = self.models.iter().map(|pattern| Glob::new(pattern)).collect::<Result<Vec<_>, _>>();
        let unnamed = || describe(self.scope, self.subject.as_deref(), self.unit, self.span);
        let limit = Limit {
            id,
            name: self.name.clone().unwrap_or_else(unnamed),
            scope: self.scope,
            subject: self.subject.map(Into::into),
            models: models.map_err(|text| fault("models", text))?,
            unit: self.unit,
            window,
            amount,
            action,
            warn_at_percent: thresholds(self.warn_at_percent, self.deed)?,
            enabled: self.enabled,
            created_at,
            updated_at,
        };
        limit.check().map_err(|fault| flat(fault, self.unit))?;
        Ok(limit)
    }

    fn window(&self) -> Result<Window, DraftFault> {
        if self.timezone.is_some() && !matches!(self.span, Span::Day | Span::Month) {
            return Err(fault("timezone", "only a day and a month have a time zone; remove it"));
        }
        if self.burst.is_some() && self.span != Span::Minute {
            return Err(fault("burst", "only a minute has a burst; remove it, or write `window: minute`"));
        }
        let timezone = zone_name(self.timezone.as_deref().unwrap_or("UTC"));
        Ok(match (self.span, self.burst) {
            (Span::Minute, None) => Window::Minute,
            (Span::Minute, Some(burst)) => {
                Window::Paced { burst: nanos_or_count("burst", "burst_usd", self.unit, burst)? }
            }
            (Span::Hour, _) => Window::Hour,
            (Span::Day, _) => Window::Day { timezone },
            (Span::Month, _) => Window::Month { timezone },
            (Span::Total, _) => Window::Total,
            (Span::Now, _) => Window::Now,
        })
    }

    fn action(&self) -> Result<Action, DraftFault> {
        if self.deed != Deed::Downgrade {
            let superfluous = [
                ("downgrade_to", self.downgrade_to.is_some()),
                ("downgrade_below_percent", self.downgrade_below_percent.is_some()),
            ];
            if let Some((field, _)) = superfluous.iter().find(|(_, given)| *given) {
                return Err(fault(field, "this belongs to `action: downgrade`; remove it, or write that"));
            }
            return Ok(if self.deed == Deed::Warn { Action::Warn } else { Action::Refuse });
        }
        let to = self.downgrade_to.clone().ok_or_else(|| fault("downgrade_to", "`action: downgrade` needs a model"))?;
        let below_percent = self.downgrade_below_percent.ok_or_else(|| {
            fault("downgrade_below_percent", "`action: downgrade` needs the share that must be left, 1 to 99")
        })?;
        Ok(Action::Downgrade { to, below_percent })
    }
}

/// An amount in the unit of its limit: nano-dollars or a count.
fn nanos_or_count(
    count_field: &'static str,
    usd_field: &'static str,
    unit: Unit,
    quantity: Quantity,
) -> Result<i64, DraftFault> {
    match (unit, quantity) {
        (Unit::Usd, Quantity::Usd(usd)) => Ok(usd.nanos()),
        (Unit::Usd, Quantity::Count(_)) => {
            Err(fault(count_field, format!("dollars are written as `{usd_field}`, such as {usd_field}: \"12.50\"")))
        }
        (_, Quantity::Usd(_)) => {
            Err(fault(usd_field, format!("this limit does not count dollars; write `{count_field}`")))
        }
        (_, Quantity::Count(count)) => Ok(count),
    }
}

/// A fault of a limit, by the flat name of its field.
fn flat(found: LimitFault, unit: Unit) -> DraftFault {
    let field = match found.field {
        "amount" if unit == Unit::Usd => "amount_usd",
        "window.burst" if unit == Unit::Usd => "burst_usd",
        "window.burst" => "burst",
        "window.timezone" => "timezone",
        "action.to" => "downgrade_to",
        "action.below_percent" => "downgrade_below_percent",
        field => field,
    };
    fault(field, format!("`{field}` {}", found.text))
}

/// The amount that is given as dollars or as a count.
///
/// # Errors
/// When neither or both are given.
pub fn quantity(usd: Option<NanoUsd>, count: Option<i64>) -> Result<Quantity, DraftFault> {
    match (usd, count) {
        (Some(usd), None) => Ok(Quantity::Usd(usd)),
        (None, Some(count)) => Ok(Quantity::Count(count)),
        (None, None) => Err(fault("amount", "a limit needs `amount_usd` (for the unit usd) or `amount`")),
        (Some(_), Some(_)) => Err(fault("amount", "a limit has `amount_usd` or `amount`, not both")),
    }
}

fn thresholds(mut shares: Vec<u8>, deed: Deed) -> Result<Vec<u8>, DraftFault> {
    shares.sort_unstable();
    shares.dedup();
    if shares.is_empty() && deed == Deed::Warn {
        return Err(fault("warn_at_percent", "a limit that only warns needs shares to warn at, such as [80, 100]"));
    }
    Ok(shares)
}

/// A name for a limit without one, such as `team web: usd a month`.
fn describe(scope: Scope, subject: Option<&str>, unit: Unit, span: Span) -> String {
    let whose = match (scope, subject) {
        (Scope::Gateway, _) => "gateway".to_owned(),
        (scope, Some(subject)) => format!("{} {subject}", word_of(SCOPES, scope)),
        (scope, None) => format!("each {}", word_of(SCOPES, scope)),
    };
    let what = word_of(UNITS, unit).replace('_', " ");
    let when = match span {
        Span::Total => " in total".to_owned(),
        Span::Now => String::new(),
        Span::Hour => " an hour".to_owned(),
        span => format!(" a {}", word_of(SPANS, span)),
    };
    let name = format!("{whose}: {what}{when}");
    name.chars().filter(|symbol| !symbol.is_control()).take(MAX_NAME_CHARS).collect()
}

/// The name of a time zone in its own letters, so that two rows which differ in theirs count the same; one that is not known stays
/// as it is, to be refused.
fn zone_name(name: &str) -> String {
    let known = jiff::tz::TimeZone::get(name).ok();
    known.as_ref().and_then(|zone| zone.iana_name()).unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft() -> LimitDraft {
        LimitDraft {
            name: None,
            scope: Scope::Team,
            subject: Some("web".to_owned()),
            models: Vec::new(),
            unit: Unit::Usd,
            span: Span::Month,
            timezone: None,
            burst: None,
            amount: Quantity::Usd(NanoUsd(5)),
            deed: Deed::Refuse,
            downgrade_to: None,
            downgrade_below_percent: None,
            warn_at_percent: Vec::new(),
            enabled: true,
        }
    }

    fn limit(draft: LimitDraft) -> Result<Limit, DraftFault> {
        draft.limit("lim_1".into(), Timestamp(1), Timestamp(2))
    }

    /// Spoils a draft and says which field was named.
    fn refused(spoil: impl FnOnce(&mut LimitDraft)) -> &'static str {
        let mut draft = draft();
        spoil(&mut draft);
        limit(draft).unwrap_err().field
    }

    #[test]
    fn each_bad_field_is_refused_by_its_name() {
        assert_eq!(refused(|draft| draft.name = Some(" ".to_owned())), "name");
        assert_eq!(refused(|draft| draft.name = Some("x".repeat(129))), "name");
        assert_eq!(refused(|draft| draft.subject = Some("a\nb".to_owned())), "subject");
        assert_eq!(refused(|draft| draft.models = vec![String::new()]), "models");
        assert_eq!(refused(|draft| draft.models = vec!["*".to_owned(); 65]), "models");
        assert_eq!(refused(|draft| draft.amount = Quantity::Count(5)), "amount");
        assert_eq!(refused(|draft| draft.unit = Unit::Tokens), "amount_usd");
        assert_eq!(refused(|draft| draft.amount = Quantity::Usd(NanoUsd(-1))), "amount_usd");
        assert_eq!(refused(|draft| draft.amount = Quantity::Usd(NanoUsd(i64::MAX))), "amount_usd");
        assert_eq!(refused(|draft| draft.span = Span::Now), "window");
        assert_eq!(refused(|draft| draft.timezone = Some("Mars/Base".to_owned())), "timezone");
        assert_eq!(refused(|draft| draft.burst = Some(Quantity::Usd(NanoUsd(1)))), "burst");
        assert_eq!(refused(|draft| draft.deed = Deed::Downgrade), "downgrade_to");
        assert_eq!(refused(|draft| draft.downgrade_below_percent = Some(5)), "downgrade_below_percent");
        assert_eq!(refused(|draft| draft.deed = Deed::Warn), "warn_at_percent");
        assert_eq!(refused(|draft| draft.warn_at_percent = vec![0]), "warn_at_percent");
        assert_eq!(refused(|draft| draft.warn_at_percent = vec![101]), "warn_at_percent");
        let concurrent = LimitDraft { unit: Unit::Concurrent, amount: Quantity::Count(1), ..draft() };
        assert_eq!(limit(concurrent).unwrap_err().field, "window");
        let hour = LimitDraft { span: Span::Hour, timezone: Some("UTC".to_owned()), ..draft() };
        assert_eq!(limit(hour).unwrap_err().field, "timezone");
        let burst = LimitDraft { span: Span::Minute, burst: Some(Quantity::Usd(NanoUsd(0))), ..draft() };
        assert_eq!(limit(burst).unwrap_err().field, "burst_usd");
        assert!(quantity(None, None).is_err() && quantity(Some(NanoUsd(1)), Some(1)).is_err());
    }

    #[test]
    fn a_good_draft_becomes_a_limit_and_comes_back_unchanged() {
        let made = limit(LimitDraft { warn_at_percent: vec![100, 80, 80], ..draft() }).unwrap();
        assert_eq!((made.name.as_str(), made.amount), ("team web: usd a month", 5));
        assert_eq!(made.window, Window::Month { timezone: "UTC".to_owned() });
        let written = |name: &str| LimitDraft { span: Span::Day, timezone: Some(name.to_owned()), ..draft() };
        let shouted = limit(written("EUROPE/berlin")).unwrap();
        assert_eq!(shouted.window, Window::Day { timezone: "Europe/Berlin".to_owned() }, "one zone has one spelling");
        assert_eq!(made.warn_at_percent, [80, 100]);
        for draft in [
            LimitDraft::of(&made),
            LimitDraft {
                name: Some("a".to_owned()),
                scope: Scope::Gateway,
                subject: None,
                models: vec!["gpt-*".to_owned()],
                unit: Unit::Requests,
                span: Span::Minute,
                burst: Some(Quantity::Count(1)),
                amount: Quantity::Count(60),
                deed: Deed::Downgrade,
                downgrade_to: Some("small".to_owned()),
                downgrade_below_percent: Some(20),
                ..draft()
            },
        ] {
            assert_eq!(LimitDraft::of(&limit(draft.clone()).unwrap()), draft);
        }
    }

    #[test]
    fn every_value_has_a_word_and_every_word_is_that_of_json() {
        for (word, scope) in SCOPES {
            assert_eq!(serde_json::to_value(scope).unwrap(), *word);
            assert_eq!((word_of(SCOPES, *scope), value_of(SCOPES, word)), (*word, Some(*scope)));
        }
        for (word, unit) in UNITS {
            assert_eq!(serde_json::to_value(unit).unwrap(), *word);
        }
        assert_eq!(value_of(UNITS, "euro"), None);
    }
}
