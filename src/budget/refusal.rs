//! Why a call was not admitted, in the words that its caller reads.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::lease::Rest;
use super::limit::{Scope, Unit, Window};
use crate::error::{Error, Kind};
use crate::unit::clock::Timestamp;
use crate::unit::money::NanoUsd;

/// Why a call was not admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not fit now.
    Limit(Box<Refused>),
    /// It never fits: what it needs is more than the whole amount.
    NeverFits(Box<Refused>),
    /// A limit in dollars applies, and no price is known.
    Unpriced(Box<Refused>),
    /// A limit in dollars or tokens applies, and what the call runs is not in it.
    Unseen(Box<Refused>),
    /// The authority cannot be reached and the lease of this process is used up.
    Away(Box<Refused>),
    /// A newer version of the program leases from the same counters, and the lease of this process is used up.
    Outdated(Box<Refused>),
    /// This process has as many counters in memory as it may (`BudgetSettings::max_counters`).
    Crowded,
}

/// The limit that refused, and how its counter stands as this process knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The id of the limit.
    pub limit: Arc<str>,
    /// Its name.
    pub name: String,
    /// Whose consumption it counts.
    pub scope: Scope,
    /// Whose exactly; empty for the gateway.
    pub subject: Arc<str>,
    /// What it counts; the unit of all amounts here.
    pub unit: Unit,
    /// Its window.
    pub window: Window,
    /// The most: of a paced limit the most at once, else the amount.
    pub amount: i64,
    /// What the call needs at most.
    pub need: i64,
    /// What is spent in this window.
    pub spent: i64,
    /// What calls in flight hold, here, and elsewhere together with what other processes keep ready.
    pub reserved: i64,
    /// What is left.
    pub remaining: i64,
    /// When the window ends, or when a sliding window has room; by the clock of the authority.
    pub resets_at: Option<Timestamp>,
    /// When trying again may help.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// The limit that refused.
    pub fn limit(&self) -> Option<&Refused> {
        match self {
            Self::Limit(refused)
            | Self::NeverFits(refused)
            | Self::Unpriced(refused)
            | Self::Unseen(refused)
            | Self::Away(refused)
            | Self::Outdated(refused) => Some(refused),
            Self::Crowded => None,
        }
    }

    /// Whether asking for less could help.
    pub fn is_about_amount(&self) -> bool {
        let amount = |refused: &Refused| !matches!(refused.unit, Unit::Requests | Unit::Concurrent);
        match self {
            Self::Limit(refused) | Self::NeverFits(refused) => amount(refused),
            _ => false,
        }
    }

    /// The word for it in metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Limit(_) => "limit",
            Self::NeverFits(_) => "never_fits",
            Self::Unpriced(_) => "unpriced",
            Self::Unseen(_) => "unseen",
            Self::Away(_) => "away",
            Self::Outdated(_) => "outdated",
            Self::Crowded => "crowded",
        }
    }

    /// The error that the caller reads: 429 `LimitExceeded`, 403 `PermissionDenied` without a price or a view of it, 503 `Unavailable` or
    /// `Overloaded`; never 401. `model` is named where its price is missing.
    pub fn to_error(&self, model: Option<&str>) -> Error {
        match self {
            Self::Limit(refused) => {
                let error = Error::new(Kind::LimitExceeded, refused.sentence()).limit(refused.object());
                match refused.retry_after {
                    Some(wait) => error.retry_after(seconds(wait)),
                    None => error,
                }
            }
            Self::NeverFits(refused) => Error::new(Kind::LimitExceeded, refused.never()).limit(refused.object()),
            Self::Unpriced(refused) => {
                let limit = format!("the limit {:?}{} counts dollars", refused.name, refused.whose());
                let Some(model) = model else {
                    let text = format!(
                        "This call names no model, so what it costs is not known, and {limit}. The operator can set a default \
                         price (prices.default)."
                    );
                    return Error::new(Kind::PermissionDenied, text);
                };
                let text = format!(
                    "No price is known for the model {model:?}, and {limit}. Ask for another model; the operator can give it a \
                     price (marg prices set, or the overlay of prices), or set a default price (prices.default)."
                );
                Error::new(Kind::PermissionDenied, text).param("model")
            }
            Self::Unseen(refused) => {
                let counted = if refused.unit == Unit::Usd { "dollars" } else { "tokens" };
                let text = format!(
                    "What this call runs cannot be seen, so what it costs is not known, and the limit {:?}{} counts {counted}. Use a \
                     key without limits in dollars or tokens.",
                    refused.name,
                    refused.whose()
                );
                Error::new(Kind::PermissionDenied, text)
            }
            Self::Away(refused) => {
                let text = format!(
                    "The counter of the limit {:?}{} cannot be reached, and what this gateway had ready of it is used up. \
                     Try again soon.",
                    refused.name,
                    refused.whose()
                );
                Error::new(Kind::Unavailable, text).retry_after(1)
            }
            Self::Outdated(refused) => {
                let text = format!(
                    "A newer version of Marg counts the limit {:?}{}, and this gateway is not upgraded yet. Try again soon; \
                     another gateway may take the call.",
                    refused.name,
                    refused.whose()
                );
                Error::new(Kind::Unavailable, text).retry_after(1)
            }
            Self::Crowded => {
                let text = "The gateway holds as many counters of limits in memory as it may. Try again in a minute.";
                Error::new(Kind::Overloaded, text).retry_after(60)
            }
        }
    }
}

impl Refused {
    /// All that is left of that counter, or `least` if that is more.
    pub fn rest(&self, least: i64) -> Rest {
        Rest { limit: self.limit.clone(), subject: self.subject.clone(), most: self.remaining.max(least) }
    }

    fn sentence(&self) -> String {
        let state = match self.unit {
            Unit::Concurrent => format!("{} now.", self.shown(self.reserved)),
            _ => format!(
                "{} spent, {} reserved by calls in flight, {} left; this call needs up to {}.",
                self.shown(self.spent),
                self.shown(self.reserved),
                self.shown(self.remaining),
                self.shown(self.need)
            ),
        };
        let advice = match (self.resets_at, self.unit) {
            (_, Unit::Concurrent) => "Wait until a call ends.".to_owned(),
            (Some(at), _) if matches!(self.window, Window::Minute | Window::Paced { .. }) => {
                format!("There is room again at {}.", at.rfc3339())
            }
            (Some(at), _) => format!("It resets at {}.", at.rfc3339()),
            (None, _) if matches!(self.window, Window::Total) => {
                "It does not reset by itself; ask for less, or ask the operator to raise it.".to_owned()
            }
            (None, _) => "Try again soon.".to_owned(),
        };
        format!(
            "The limit {:?}{} of {}{} is reached: {state} {advice}",
            self.name,
            self.whose(),
            self.shown(self.amount),
            self.span()
        )
    }

    fn never(&self) -> String {
        let advice = match self.unit {
            Unit::Requests | Unit::Concurrent => "Ask the operator to raise the limit.",
            Unit::InputTokens => "Ask for less, with a shorter prompt; or ask the operator to raise the limit.",
            Unit::OutputTokens => {
                "Ask for less, with a lower ceiling on the output; or ask the operator to raise the limit."
            }
            Unit::Tokens => {
                "Ask for less: a shorter prompt, or a lower ceiling on the output; or ask the operator to raise the limit."
            }
            Unit::Usd => {
                "Ask for less: a shorter prompt, a lower ceiling on the output, or a cheaper model; or ask the operator to \
                 raise the limit."
            }
        };
        format!(
            "This call needs up to {}, more than the whole limit {:?}{} of {}{}, so it can never pass. {advice}",
            self.shown(self.need),
            self.name,
            self.whose(),
            self.shown(self.amount),
            self.span()
        )
    }

    fn whose(&self) -> String {
        match self.scope {
            Scope::Gateway => " (gateway)".to_owned(),
            scope => format!(" ({} {})", scope_word(scope), self.subject),
        }
    }

    fn span(&self) -> &'static str {
        match self.window {
            Window::Minute => " in 60 seconds",
            Window::Paced { .. } => " at once",
            Window::Hour => " an hour",
            Window::Day { .. } => " a day",
            Window::Month { .. } => " a month",
            Window::Total => " in all",
            Window::Now => "",
        }
    }

    fn shown(&self, amount: i64) -> String {
        let many = if amount == 1 { "" } else { "s" };
        match self.unit {
            Unit::Usd => format!("{} USD", dollars(amount)),
            Unit::InputTokens => format!("{amount} input token{many}"),
            Unit::OutputTokens => format!("{amount} output token{many}"),
            Unit::Tokens => format!("{amount} token{many}"),
            Unit::Requests => format!("{amount} request{many}"),
            Unit::Concurrent => format!("{amount} call{many} at one time"),
        }
    }

    /// The same for programs, in the words of `budget::event`: amounts in the unit of the limit, nano-dollars for `usd`, which
    /// has them as decimal text, too.
    fn object(&self) -> String {
        let mut object = json!({
            "id": self.limit, "name": self.name, "scope": scope_word(self.scope), "unit": unit_word(self.unit),
            "subject": Some(&self.subject).filter(|subject| !subject.is_empty()), "window": self.window_word(),
            "resets_at": self.resets_at.map(Timestamp::rfc3339),
        });
        let amounts = [
            ("amount", self.amount),
            ("needed", self.need),
            ("spent", self.spent),
            ("reserved", self.reserved),
            ("remaining", self.remaining),
        ];
        if let Some(fields) = object.as_object_mut() {
            for (name, amount) in amounts {
                fields.insert(name.to_owned(), amount.into());
                if self.unit == Unit::Usd {
                    fields.insert(format!("{name}_usd"), NanoUsd(amount).to_string().into());
                }
            }
        }
        object.to_string()
    }

    fn window_word(&self) -> &'static str {
        match self.window {
            Window::Minute | Window::Paced { .. } => "minute",
            Window::Hour => "hour",
            Window::Day { .. } => "day",
            Window::Month { .. } => "month",
            Window::Total => "total",
            Window::Now => "now",
        }
    }
}

/// Dollars with at least two decimals and no zeros behind them.
fn dollars(nanos: i64) -> String {
    let text = NanoUsd(nanos).to_string();
    let point = text.find('.').unwrap_or(0);
    let end = text.trim_end_matches('0').len().max(point + 3);
    text.get(..end).unwrap_or(&text).to_owned()
}

/// Whole seconds, rounded up, at least 1.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// The word for a scope, as in JSON.
pub fn scope_word(scope: Scope) -> &'static str {
    match scope {
        Scope::Gateway => "gateway",
        Scope::Org => "org",
        Scope::Team => "team",
        Scope::User => "user",
        Scope::Key => "key",
        Scope::Model => "model",
        Scope::Tag => "tag",
        Scope::Session => "session",
    }
}

/// The word for a unit, as in JSON.
pub fn unit_word(unit: Unit) -> &'static str {
    match unit {
        Unit::Usd => "usd",
        Unit::InputTokens => "input_tokens",
        Unit::OutputTokens => "output_tokens",
        Unit::Tokens => "tokens",
        Unit::Requests => "requests",
        Unit::Concurrent => "concurrent",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Box<Refused> {
        Box::new(Refused {
            limit: "lim_1".into(),
            name: "daily".into(),
            scope: Scope::Team,
            subject: "research".into(),
            unit: Unit::Usd,
            window: Window::Day { timezone: "UTC".into() },
            amount: 10_000_000_000,
            need: 300_000_000,
            spent: 9_800_000_000,
            reserved: 150_000_000,
            remaining: 50_000_000,
            resets_at: Some(Timestamp(1_795_996_800_000_000)),
            retry_after: Some(Duration::from_millis(1_500)),
        })
    }

    #[test]
    fn a_refusal_says_which_limit_how_it_stands_and_when_it_resets() {
        let error = Refusal::Limit(refused()).to_error(Some("gpt-4o"));
        assert_eq!((error.kind().status(), error.retry_after_seconds()), (429, Some(2)));
        assert_eq!(
            error.text(),
            "The limit \"daily\" (team research) of 10.00 USD a day is reached: 9.80 USD spent, 0.15 USD reserved by calls \
             in flight, 0.05 USD left; this call needs up to 0.30 USD. It resets at 2026-11-30T00:00:00.000000Z."
        );
        assert!(Refusal::NeverFits(refused()).to_error(None).text().contains("can never pass"));
        let object: serde_json::Value = serde_json::from_str(error.limit_object().unwrap()).unwrap();
        let expected = json!({
            "id": "lim_1", "name": "daily", "scope": "team", "subject": "research", "unit": "usd", "window": "day",
            "amount": 10_000_000_000_i64, "amount_usd": "10.000000000", "needed": 300_000_000, "needed_usd": "0.300000000",
            "spent": 9_800_000_000_i64, "spent_usd": "9.800000000", "reserved": 150_000_000, "reserved_usd": "0.150000000",
            "remaining": 50_000_000, "remaining_usd": "0.050000000", "resets_at": "2026-11-30T00:00:00.000000Z",
        });
        assert_eq!(object, expected);
    }

    #[test]
    fn one_of_a_kind_is_told_in_the_singular_and_advice_fits_the_unit() {
        let one =
            |unit| Refusal::NeverFits(Box::new(Refused { unit, need: 1, amount: 0, ..*refused() })).to_error(None);
        assert!(one(Unit::Requests).text().starts_with("This call needs up to 1 request, more than the whole limit"));
        assert!(one(Unit::Requests).text().ends_with("so it can never pass. Ask the operator to raise the limit."));
        assert!(
            one(Unit::OutputTokens).text().contains("1 output token, ")
                && !one(Unit::OutputTokens).text().contains("prompt")
        );
        let nameless = Refusal::Unpriced(refused()).to_error(None);
        assert!(nameless.text().contains("names no model") && nameless.field().is_none(), "{}", nameless.text());
    }

    #[test]
    fn a_missing_price_is_403_and_a_missing_authority_503_never_401() {
        let unpriced = Refusal::Unpriced(refused()).to_error(Some("my-model"));
        assert_eq!(unpriced.kind().status(), 403);
        assert!(unpriced.text().contains("\"my-model\"") && unpriced.text().contains("prices.default"));
        let unseen = Refusal::Unseen(Box::new(Refused { unit: Unit::Tokens, ..*refused() })).to_error(Some("my-model"));
        assert_eq!((unseen.kind().status(), unseen.field()), (403, None));
        assert!(unseen.text().contains("the limit \"daily\" (team research) counts tokens"), "{}", unseen.text());
        let away = Refusal::Away(refused()).to_error(None);
        assert_eq!((away.kind().status(), away.retry_after_seconds()), (503, Some(1)));
        assert_eq!(Refusal::Crowded.to_error(None).kind().status(), 503);
        assert!(!Refusal::Away(refused()).is_about_amount() && Refusal::Limit(refused()).is_about_amount());
    }
}
