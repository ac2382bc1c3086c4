//! What a limit must be before it is stored: every fault is found at write time, with its field.
//!
//! Two rows that count the same thing in the same way for the same subject contradict each other and are refused. A row for a
//! named subject is no contradiction to one for each subject: it replaces it for that subject (`table.rs`).

use std::collections::HashMap;
use std::sync::Arc;

use super::limit::{Action, Limit, Scope, Unit, Window};
use super::window::Spans;
use crate::unit::glob::Glob;

/// The most nano-dollars of a limit: a thousand million dollars.
pub const MOST_USD: i64 = 1_000_000_000_000_000_000;
/// The most tokens of a limit.
pub const MOST_TOKENS: i64 = 1_000_000_000_000_000;
/// The most requests of a limit.
pub const MOST_REQUESTS: i64 = 1_000_000_000_000;
/// The most exchanges at one time of a limit.
pub const MOST_CONCURRENT: i64 = 1_000_000;
/// The most patterns in [`Limit::models`].
pub const MOST_MODELS: usize = 64;
/// The most thresholds in [`Limit::warn_at_percent`].
pub const MOST_THRESHOLDS: usize = 10;
/// The most characters of a name, and of a subject that is a name.
const NAME_CHARS: usize = 128;
/// The most characters of a tag: a label's name, a colon, its value.
const TAG_CHARS: usize = 64 + 1 + 256;
/// The most characters of a session: a key's id, a slash, the caller's word.
const SESSION_CHARS: usize = 30 + 1 + 256;

/// What is wrong with a limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {text}")]
pub struct LimitFault {
    /// The field, as in JSON: `amount`, `window.timezone`.
    pub field: &'static str,
    /// A sentence without a full stop: what is wrong and what is right.
    pub text: String,
}

/// Two limits of which only one can hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limits {first} and {second} have the same scope, subject, unit, window and models; change one, or switch one off"
)]
pub struct Contradiction {
    /// The id of the one that was there first in the list.
    pub first: Arc<str>,
    /// The id of the other.
    pub second: Arc<str>,
}

fn fault<T>(field: &'static str, text: impl Into<String>) -> Result<T, LimitFault> {
    Err(LimitFault { field, text: text.into() })
}

impl Limit {
    /// Whether the limit by itself can be stored and means something.
    ///
    /// # Errors
    /// The first fault, with its field.
    pub fn check(&self) -> Result<(), LimitFault> {
        self.check_words()?;
        self.check_subject()?;
        self.check_models()?;
        self.check_amount()?;
        self.check_window()?;
        self.check_action()?;
        self.check_thresholds()
    }

    /// Whether a stored limit may become this one: id, scope, unit and window stay, because its counters are kept by them;
    /// time zones too. Make a new limit for anything else.
    ///
    /// # Errors
    /// The first field that may not change.
    pub fn check_change(&self, stored: &Limit) -> Result<(), LimitFault> {
        const NEW: &str = "cannot change, because what is counted so far would mean something else; make a new limit";
        if self.id != stored.id {
            return fault("id", "never changes");
        }
        if self.scope != stored.scope {
            return fault("scope", NEW);
        }
        if self.unit != stored.unit {
            return fault("unit", NEW);
        }
        match (&self.window, &stored.window) {
            (Window::Paced { .. }, Window::Paced { .. }) => Ok(()),
            (new, old) if new == old => Ok(()),
            _ => fault("window", NEW),
        }
    }

    fn check_words(&self) -> Result<(), LimitFault> {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
        if self.id.is_empty() || self.id.len() > 64 || !self.id.chars().all(plain) {
            return fault("id", "has 1 to 64 letters, digits, _ and -");
        }
        if self.name.trim().is_empty() || self.name.chars().count() > NAME_CHARS {
            return fault("name", format!("has 1 to {NAME_CHARS} characters"));
        }
        if self.name.chars().any(char::is_control) {
            return fault("name", "may not hold control characters");
        }
        Ok(())
    }

    fn check_subject(&self) -> Result<(), LimitFault> {
        let Some(subject) = self.subject.as_deref() else { return Ok(()) };
        let most = match self.scope {
            Scope::Gateway => return fault("subject", "must be absent for the gateway: there is only one"),
            Scope::Model => Glob::MAX_CHARS,
            Scope::Tag => TAG_CHARS,
            Scope::Session => SESSION_CHARS,
            Scope::Org | Scope::Team | Scope::User | Scope::Key => NAME_CHARS,
        };
        if subject.trim().is_empty() {
            return fault("subject", "is empty, so it matches nothing; leave it out for a limit on each one by itself");
        }
        if subject.chars().count() > most {
            return fault("subject", format!("has at most {most} characters, so it matches nothing"));
        }
        if subject.chars().any(char::is_control) {
            return fault("subject", "holds control characters, so it matches nothing");
        }
        if self.scope == Scope::Session
            && !subject.split_once('/').is_some_and(|(key, word)| !key.is_empty() && !word.is_empty())
        {
            return fault(
                "subject",
                "of a session is the id of its key, a slash, and the session, as in key_…/chat-17",
            );
        }
        // A tag without a colon is no label of a key, so it must be one that a caller can send in `x-marg-tags`.
        let sent = |letter: char| letter.is_ascii_alphanumeric() || "-_.:/+=@".contains(letter);
        if self.scope == Scope::Tag && !subject.contains(':') && (subject.len() > 64 || !subject.chars().all(sent)) {
            return fault(
                "subject",
                "matches nothing: a tag that callers send has at most 64 letters, digits and -_.:/+=@; a label of a key is \
                 written name:value",
            );
        }
        if self.scope == Scope::Model
            && let Err(text) = Glob::new(subject)
        {
            return fault("subject", text);
        }
        Ok(())
    }

    fn check_models(&self) -> Result<(), LimitFault> {
        if self.models.len() > MOST_MODELS {
            return fault("models", format!("has at most {MOST_MODELS} patterns"));
        }
        if self.scope == Scope::Model && self.subject.is_some() && !self.models.is_empty() {
            return fault("models", "must be empty where the subject is a model; write the pattern as the subject");
        }
        Ok(())
    }

    fn check_amount(&self) -> Result<(), LimitFault> {
        let (most, unit) = match self.unit {
            Unit::Usd => (MOST_USD, "nano-dollars"),
            Unit::InputTokens | Unit::OutputTokens | Unit::Tokens => (MOST_TOKENS, "tokens"),
            Unit::Requests => (MOST_REQUESTS, "requests"),
            Unit::Concurrent => (MOST_CONCURRENT, "exchanges at one time"),
        };
        if !(0..=most).contains(&self.amount) {
            return fault("amount", format!("is 0 to {most} {unit}, not {}", self.amount));
        }
        Ok(())
    }

    fn check_window(&self) -> Result<(), LimitFault> {
        match (self.unit, &self.window) {
            (Unit::Concurrent, Window::Now) => return Ok(()),
            (Unit::Concurrent, _) => return fault("window", "of the unit concurrent is now"),
            (_, Window::Now) => return fault("window", "now is for the unit concurrent only"),
            _ => {}
        }
        if let Window::Paced { burst } = self.window {
            if burst < 1 {
                return fault("window.burst", "is at least 1; otherwise nothing ever passes");
            }
            if burst > self.amount {
                return fault("window.burst", format!("is at most the amount, {}", self.amount));
            }
        }
        match Spans::new(&self.window) {
            Ok(_) => Ok(()),
            Err(text) => fault("window.timezone", text),
        }
    }

    fn check_action(&self) -> Result<(), LimitFault> {
        let Action::Downgrade { to, below_percent } = &self.action else { return Ok(()) };
        if !(1..=99).contains(below_percent) {
            return fault("action.below_percent", format!("is 1 to 99, not {below_percent}"));
        }
        if to.trim().is_empty() || to.chars().count() > Glob::MAX_CHARS || to.chars().any(char::is_control) {
            return fault("action.to", "names a model as a caller would");
        }
        if to.contains(['*', '?']) {
            return fault("action.to", "is one model, not a pattern");
        }
        if self.is_only_for(to) {
            return fault("action.to", "is the very model that the limit is for");
        }
        if self.unit == Unit::Concurrent {
            return fault("action", "downgrade is not for the unit concurrent: another model runs just as long");
        }
        Ok(())
    }

    /// The models that it is for, if they are named without wildcards; otherwise none.
    pub fn only_models(&self) -> Vec<&str> {
        let subject = self.subject.as_deref().filter(|_| self.scope == Scope::Model);
        let named: Vec<&str> = subject.into_iter().chain(self.models.iter().map(Glob::as_str)).collect();
        if named.iter().any(|name| name.contains(['*', '?'])) { Vec::new() } else { named }
    }

    /// Whether it is for no other model than this one.
    fn is_only_for(&self, model: &str) -> bool {
        let named = self.only_models();
        !named.is_empty() && named.iter().all(|name| *name == model)
    }

    fn check_thresholds(&self) -> Result<(), LimitFault> {
        let percents = &self.warn_at_percent;
        if percents.len() > MOST_THRESHOLDS {
            return fault("warn_at_percent", format!("has at most {MOST_THRESHOLDS} thresholds"));
        }
        if let Some(wrong) = percents.iter().find(|percent| !(1..=100).contains(*percent)) {
            return fault("warn_at_percent", format!("is 1 to 100, not {wrong}"));
        }
        if !percents.is_sorted_by(|a, b| a < b) {
            return fault("warn_at_percent", "is in ascending order, each once");
        }
        Ok(())
    }

    /// What two rows for the same subject must not have in common.
    pub(super) fn meaning(&self) -> Meaning {
        let mut models: Vec<String> = self.models.iter().map(|model| model.as_str().to_owned()).collect();
        models.sort_unstable();
        models.dedup();
        let window = match &self.window {
            Window::Paced { .. } => "paced".to_owned(),
            other => format!("{other:?}"),
        };
        Meaning { scope: self.scope, unit: self.unit, window, models }
    }
}

/// What a limit counts and how, without for whom and how much.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Meaning {
    scope: Scope,
    unit: Unit,
    window: String,
    models: Vec<String>,
}

/// Pairs of limits that are both switched on and have the same scope, subject, unit, window and models. Time is linear in
/// the number of limits.
pub fn contradictions(limits: &[Limit]) -> Vec<Contradiction> {
    let mut seen: HashMap<(Meaning, Option<&str>), &Limit> = HashMap::with_capacity(limits.len());
    let mut found = Vec::new();
    for limit in limits.iter().filter(|limit| limit.enabled) {
        match seen.entry((limit.meaning(), limit.subject.as_deref())) {
            std::collections::hash_map::Entry::Occupied(first) => {
                found.push(Contradiction { first: first.get().id.clone(), second: limit.id.clone() });
            }
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(limit);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::bench::limit;
    use super::*;

    fn faulty(field: &str, change: impl Fn(&mut Limit)) {
        let mut limit = limit("lim_1", Scope::Team, Unit::Usd, 1_000);
        limit.subject = Some("research".into());
        assert_eq!(limit.check(), Ok(()));
        change(&mut limit);
        let fault = limit.check().unwrap_err();
        assert_eq!(fault.field, field, "{fault}");
    }

    #[test]
    fn a_limit_that_is_absurd_is_refused_with_its_field() {
        faulty("amount", |limit| limit.amount = -1);
        faulty("amount", |limit| limit.amount = i64::MAX);
        faulty("amount", |limit| (limit.unit, limit.amount) = (Unit::Requests, MOST_REQUESTS + 1));
        faulty("id", |limit| limit.id = "a|b".into());
        faulty("name", |limit| limit.name = " ".into());
        faulty("name", |limit| limit.name = "n".repeat(129));
        faulty("subject", |limit| limit.subject = Some("".into()));
        faulty("subject", |limit| limit.subject = Some("a\nb".into()));
        faulty("subject", |limit| limit.subject = Some("x".repeat(129).into()));
        faulty("subject", |limit| limit.scope = Scope::Gateway);
        faulty("subject", |limit| limit.scope = Scope::Session);
        faulty("models", |limit| {
            (limit.scope, limit.models) = (Scope::Model, vec![Glob::new("gpt-*").unwrap()]);
        });
        for tag in ["a b", "a,b", &"x".repeat(65), "é"] {
            faulty("subject", |limit| (limit.scope, limit.subject) = (Scope::Tag, Some(tag.into())));
        }
        faulty("models", |limit| limit.models = vec![Glob::new("gpt-*").unwrap(); 65]);
    }

    #[test]
    fn a_window_or_action_that_cannot_be_is_refused_with_its_field() {
        faulty("window", |limit| limit.window = Window::Now);
        faulty("window", |limit| limit.unit = Unit::Concurrent);
        faulty("window.burst", |limit| limit.window = Window::Paced { burst: 0 });
        faulty("window.burst", |limit| limit.window = Window::Paced { burst: 1_001 });
        for zone in ["Berlin", "", "Europe/Berlin ", "../etc/passwd"] {
            faulty("window.timezone", |limit| limit.window = Window::Day { timezone: zone.into() });
        }
        let to = || "gpt-mini".to_owned();
        faulty("action.below_percent", |limit| limit.action = Action::Downgrade { to: to(), below_percent: 100 });
        faulty("action.below_percent", |limit| limit.action = Action::Downgrade { to: to(), below_percent: 0 });
        faulty("action.to", |limit| limit.action = Action::Downgrade { to: "gpt-*".into(), below_percent: 5 });
        faulty("action.to", |limit| {
            limit.models = vec![Glob::new("small").unwrap()];
            limit.action = Action::Downgrade { to: "small".into(), below_percent: 5 };
        });
        faulty("action.to", |limit| {
            (limit.scope, limit.subject) = (Scope::Model, Some("small".into()));
            limit.action = Action::Downgrade { to: "small".into(), below_percent: 5 };
        });
        faulty("action", |limit| {
            (limit.unit, limit.window) = (Unit::Concurrent, Window::Now);
            limit.action = Action::Downgrade { to: to(), below_percent: 5 };
        });
        faulty("warn_at_percent", |limit| limit.warn_at_percent = vec![80, 50]);
        faulty("warn_at_percent", |limit| limit.warn_at_percent = vec![50, 50]);
        faulty("warn_at_percent", |limit| limit.warn_at_percent = vec![0]);
        faulty("warn_at_percent", |limit| limit.warn_at_percent = vec![101]);
    }

    #[test]
    fn a_change_may_not_give_what_is_counted_another_meaning() {
        let stored = limit("lim_1", Scope::Team, Unit::Usd, 1_000);
        let changed = |change: &dyn Fn(&mut Limit)| {
            let mut limit = stored.clone();
            change(&mut limit);
            limit.check_change(&stored).map_err(|fault| fault.field)
        };
        assert_eq!(changed(&|limit| limit.unit = Unit::Tokens), Err("unit"));
        assert_eq!(changed(&|limit| limit.scope = Scope::Org), Err("scope"));
        assert_eq!(changed(&|limit| limit.window = Window::Minute), Err("window"));
        assert_eq!(changed(&|limit| limit.amount = 3), Ok(()));
    }

    #[test]
    fn two_rows_for_the_same_thing_contradict_each_other_unless_one_is_off() {
        let row = |id: &str, subject: Option<&str>| Limit {
            subject: subject.map(Into::into),
            ..limit(id, Scope::Team, Unit::Usd, 1_000)
        };
        let both = [row("a", Some("x")), Limit { amount: 7, ..row("b", Some("x")) }, row("c", None)];
        let found = contradictions(&both);
        assert_eq!(found, [Contradiction { first: "a".into(), second: "b".into() }]);
        assert!(found[0].to_string().contains("a and b"));
        let off = [row("a", Some("x")), Limit { enabled: false, ..row("b", Some("x")) }];
        assert_eq!(contradictions(&off), []);
        let other = [row("a", None), Limit { models: vec![Glob::new("gpt-*").unwrap()], ..row("b", None) }];
        assert_eq!(contradictions(&other), []);
    }
}
