//! Limits in the configuration file: the list `limits`, the section `budget`, and the caps and defaults of keys.
//!
//! A limit of the file is the same thing as one of the admin API, in the same words. Its id is made of what it counts, so that
//! neither its place in the list nor a corrected amount starts its counters anew.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::budget::check::contradictions;
use crate::budget::draft::{DEEDS, Deed, LimitDraft, SCOPES, SPANS, UNITS, quantity};
use crate::budget::limit::{Action, Limit, Scope, Unit, Window};
use crate::budget::{UnseenInput, WhenAway};
use crate::config::decode::Table;
use crate::config::problem::Report;
use crate::config::shape::word;
use crate::config::{Config, suggest};
use crate::key::draft::{KeyDefaults, MAX_LABEL_NAME_CHARS, MAX_LABEL_VALUE_CHARS};
use crate::key::party::RequestCaps;
use crate::provider::config::UrlRef;
use crate::unit::clock::Timestamp;
use crate::unit::glob::Glob;
use crate::unit::money::NanoUsd;
use crate::unit::secret::SecretRef;

/// How limits are held, and who is told.
#[derive(Clone, Debug, PartialEq)]
pub struct BudgetConfig {
    /// Who owns the counters. Needs a restart.
    pub authority: AuthorityConfig,
    /// How long a call waits for amounts that other calls and processes hold, before it is refused.
    pub wait_ms: u64,
    /// What happens to calls when whoever owns the counters cannot be reached and the leases of this process are used up.
    pub when_away: WhenAway,
    /// What happens to the leases of a process that has been silent for `dead_node_after_ms`.
    pub dead_node: DeadNode,
    /// After which silence a process counts as dead.
    pub dead_node_after_ms: u64,
    /// The ceiling on output tokens that is asked for where the caller names none, no cap applies, and a limit in dollars or
    /// tokens has to reserve for the answer.
    pub default_max_output_tokens: u64,
    /// What happens to a call whose model may read more, outside the body, than a whole limit has.
    pub unseen_input: UnseenInput,
    /// Caps on single requests of keys that have none, neither of their own nor by their org, team or user.
    pub default_caps: RequestCaps,
    /// Where events of limits are posted.
    pub webhook_url: Option<UrlRef>,
    /// What those posts are signed with.
    pub webhook_secret: Option<SecretRef>,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self {
            authority: AuthorityConfig::default(),
            wait_ms: 1_000,
            when_away: WhenAway::default(),
            dead_node: DeadNode::default(),
            dead_node_after_ms: 600_000,
            default_max_output_tokens: 4_096,
            unseen_input: UnseenInput::default(),
            default_caps: RequestCaps::NONE,
            webhook_url: None,
            webhook_secret: None,
        }
    }
}

/// Who owns the counters of limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthorityConfig {
    /// The database.
    #[default]
    Store,
    /// Redis; the database keeps count along, so that Redis may lose everything.
    Redis,
}

/// What happens to the leases of a process that does not come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeadNode {
    /// They stay counted as taken until its journal has been applied, or an operator frees them: no limit is exceeded.
    #[default]
    Hold,
    /// They are freed; what it spent on them and could not tell any more is not counted.
    Release,
}

/// The section `budget`.
pub(super) fn budget(table: &mut Table<'_, '_>) -> BudgetConfig {
    const AWAY: &[(&str, WhenAway)] = &[("refuse", WhenAway::Refuse), ("admit", WhenAway::Admit)];
    const UNSEEN: &[(&str, UnseenInput)] = &[("take_rest", UnseenInput::TakeRest), ("refuse", UnseenInput::Refuse)];
    const DEAD: &[(&str, DeadNode)] = &[("hold", DeadNode::Hold), ("release", DeadNode::Release)];
    const AUTHORITIES: &[(&str, AuthorityConfig)] =
        &[("store", AuthorityConfig::Store), ("redis", AuthorityConfig::Redis)];
    let default = BudgetConfig::default();
    BudgetConfig {
        authority: table.text_or("authority", default.authority, |text| word(text, AUTHORITIES)),
        wait_ms: table.number("wait_ms", default.wait_ms),
        when_away: table.text_or("when_away", default.when_away, |text| word(text, AWAY)),
        dead_node: table.text_or("dead_node", default.dead_node, |text| word(text, DEAD)),
        dead_node_after_ms: table.number("dead_node_after_ms", default.dead_node_after_ms),
        default_max_output_tokens: table.number("default_max_output_tokens", default.default_max_output_tokens),
        unseen_input: table.text_or("unseen_input", default.unseen_input, |text| word(text, UNSEEN)),
        default_caps: table.section("default_caps", caps),
        webhook_url: table.text("webhook_url", UrlRef::parse),
        webhook_secret: table.text("webhook_secret", SecretRef::parse),
    }
}

fn caps(table: &mut Table<'_, '_>) -> RequestCaps {
    RequestCaps {
        max_input_tokens: table.optional_number("max_input_tokens"),
        max_output_tokens: table.optional_number("max_output_tokens"),
    }
}

/// The part `keys.defaults`.
pub(super) fn key_defaults(table: &mut Table<'_, '_>) -> KeyDefaults {
    KeyDefaults {
        caps: caps(table),
        expires_in: table.text("expires_in", span),
        labels: table.named_texts("labels", label),
        models: table.texts("models", Glob::new),
    }
}

fn label(value: &str) -> Result<String, String> {
    if value.chars().count() > MAX_LABEL_VALUE_CHARS || value.chars().any(char::is_control) {
        return Err(format!(
            "the value of a label has at most {MAX_LABEL_VALUE_CHARS} characters, no control characters"
        ));
    }
    Ok(value.to_owned())
}

/// A span of time: a whole number and `s`, `m`, `h`, `d` or `w`; at most a century.
fn span(text: &str) -> Result<Duration, String> {
    const UNITS: &[(char, u64)] = &[('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400), ('w', 604_800)];
    let seconds = UNITS.iter().find_map(|(letter, each)| {
        let number = text.strip_suffix(*letter).filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))?;
        number.parse::<u64>().ok()?.checked_mul(*each)
    });
    seconds.filter(|seconds| (1..=3_155_760_000).contains(seconds)).map(Duration::from_secs).ok_or_else(|| {
        format!("{:?} is not a span of time; write a number and s, m, h, d or w, such as 90d", suggest::shorten(text))
    })
}

/// One item of the list `limits`.
pub(super) fn limit(table: &mut Table<'_, '_>) -> Option<Limit> {
    let name = table.text("name", |text| Ok(text.to_owned()));
    let scope = table.required("scope", |text| word(text, SCOPES));
    let subject = table.text("subject", |text| Ok(text.to_owned()));
    let models = table.texts("models", |text| Glob::new(text).map(|pattern| pattern.as_str().to_owned()));
    let unit = table.required("unit", |text| word(text, UNITS));
    let span = table.required("window", |text| word(text, SPANS));
    let timezone = table.text("timezone", |text| Ok(text.to_owned()));
    let burst = (table.text("burst_usd", NanoUsd::parse), table.optional_number("burst"));
    let amount = (table.text("amount_usd", NanoUsd::parse), table.optional_number("amount"));
    let deed = table.text_or("action", Deed::default(), |text| word(text, DEEDS));
    let downgrade_to = table.text("downgrade_to", |text| Ok(text.to_owned()));
    let downgrade_below_percent = table.optional_number("downgrade_below_percent");
    let warn_at_percent = table.texts("warn_at_percent", percent);
    let enabled = table.flag("enabled", true);
    let draft = || {
        let burst = if burst == (None, None) { None } else { Some(quantity(burst.0, count(burst.1))) };
        Some(LimitDraft {
            name,
            scope: scope?,
            subject,
            models,
            unit: unit?,
            span: span?,
            timezone,
            burst: burst.transpose().ok()?,
            amount: quantity(amount.0, count(amount.1)).ok()?,
            deed,
            downgrade_to,
            downgrade_below_percent,
            warn_at_percent,
            enabled,
        })
    };
    if amount == (None, None) {
        table.fault("amount", "a limit needs `amount_usd` (for the unit usd) or `amount`");
    } else if amount.0.is_some() && amount.1.is_some() {
        table.fault("amount", "a limit has `amount_usd` or `amount`, not both");
    }
    if burst.0.is_some() && burst.1.is_some() {
        table.fault("burst", "a limit has `burst_usd` or `burst`, not both");
    }
    // The id follows when all limits are known.
    match draft()?.limit("config-".into(), Timestamp::default(), Timestamp::default()) {
        Ok(limit) => Some(limit),
        Err(fault) => {
            table.fault(fault.field, fault.text);
            None
        }
    }
}

fn count(number: Option<u64>) -> Option<i64> {
    number.map(|number| i64::try_from(number).unwrap_or(i64::MAX))
}

fn percent(text: &str) -> Result<u8, String> {
    let share = text.parse().ok().filter(|share| (1..=100).contains(share));
    share.ok_or_else(|| format!("{:?} is not a share; write a whole number from 1 to 100", suggest::shorten(text)))
}

/// Gives the limits of the file their ids, made of what they count.
pub(super) fn name_limits(limits: &mut [Limit]) {
    let mut taken: HashMap<String, usize> = HashMap::new();
    for limit in limits {
        // What the amount, the action, the name and the switch say may change while the counters go on.
        let models: Vec<&str> = limit.models.iter().map(Glob::as_str).collect();
        let counted = format!("{:?}", (limit.scope, &limit.subject, models, limit.unit, &limit.window));
        let hash = blake3::hash(counted.as_bytes()).to_hex();
        let hash = hash.get(..16).unwrap_or_default().to_owned();
        let number = taken.entry(hash.clone()).and_modify(|number| *number += 1).or_insert(1);
        limit.id = if *number == 1 { format!("config-{hash}") } else { format!("config-{hash}-{number}") }.into();
    }
}

/// What many models read at least, in tokens; `prices.md` says how much is reserved for input that is not in the body.
const READS_TOKENS: i64 = 128_000;

/// Notes what the limits and the section `budget` must keep to beyond the types of their keys.
pub(super) fn check(config: &Config, report: &mut Report) {
    let paths = report.items("limits", config.limits.len());
    let limits: Vec<(&str, &Limit)> = paths.iter().map(String::as_str).zip(&config.limits).collect();
    for (path, limit) in &limits {
        if limit.scope == Scope::Key && limit.subject.as_deref().is_some_and(|id| !is_key_id(id)) {
            report.error(
                &format!("{path}.subject"),
                "the subject of a limit for a key is its id, key_ and 26 characters; `marg keys list` shows it",
            );
        }
        let of_key = |subject: &str| subject.split_once('/').is_some_and(|(key, _)| is_key_id(key));
        if limit.scope == Scope::Session && limit.subject.as_deref().is_some_and(|subject| !of_key(subject)) {
            report.error(
                &format!("{path}.subject"),
                "the subject of a session begins with the id of its key, key_ and 26 characters; `marg keys list` shows it",
            );
        }
    }
    let place = |id: &str| limits.iter().find(|(_, limit)| *limit.id == *id).map(|(path, _)| *path);
    for found in contradictions(&config.limits) {
        if let (Some(first), Some(second)) = (place(&found.first), place(&found.second)) {
            let line = report.line(first);
            let text = format!("{first} in line {line} counts the same already; remove one of them, or switch one off");
            report.error(second, text);
        }
    }
    let known = |model: &str| takes(config, model);
    for (path, limit) in &limits {
        if let Action::Downgrade { to, .. } = &limit.action
            && !known(to)
        {
            let text = format!("no route takes {to:?}, nor does the default_provider; stored routes may");
            report.warn(&format!("{path}.downgrade_to"), text);
        }
    }
    for (path, limit) in &limits {
        let asked = limit.only_models();
        if !asked.is_empty() && !asked.iter().any(|model| known(model)) {
            let field = if limit.scope == Scope::Model { "subject" } else { "models" };
            let text = "no route takes such a model, nor does the default_provider, so the limit matches nothing; stored routes may";
            report.warn(&format!("{path}.{field}"), text);
        }
    }
    labels(&config.keys.defaults.labels, report);
    for (path, limit) in &limits {
        let reads = matches!(limit.unit, Unit::InputTokens | Unit::Tokens);
        if reads && limit.enabled && limit.action != Action::Warn && most(limit) < READS_TOKENS {
            let then = match config.budget.unseen_input {
                UnseenInput::TakeRest => "takes all that is left, and may use more than that",
                UnseenInput::Refuse => "is refused",
            };
            let text = format!(
                "a call that refers to files, stored answers or tools of the provider may read {READS_TOKENS} tokens or more; under \
                 this limit it {then} (budget.unseen_input)"
            );
            report.warn(&format!("{path}.amount"), text);
        }
    }
    if config.budget.webhook_secret.is_some() && config.budget.webhook_url.is_none() {
        report.warn("budget.webhook_secret", "there is no budget.webhook_url, so nothing is signed with it");
    }
}

/// The most that one call can have of a limit.
fn most(limit: &Limit) -> i64 {
    match limit.window {
        Window::Paced { burst } => burst,
        _ => limit.amount,
    }
}

fn takes(config: &Config, model: &str) -> bool {
    let by_default = config.default_provider.as_ref().and_then(|name| config.providers.get(name));
    by_default.is_some_and(|it| it.models.is_empty() || it.models.iter().any(|pattern| pattern.matches(model)))
        || config.routes.iter().any(|route| route.matches.model.as_ref().is_none_or(|pattern| pattern.matches(model)))
}

fn labels(labels: &BTreeMap<String, String>, report: &mut Report) {
    let plain = |name: &str| {
        !name.trim().is_empty() && name.chars().count() <= MAX_LABEL_NAME_CHARS && !name.chars().any(char::is_control)
    };
    for name in labels.keys().filter(|name| !plain(name)) {
        let text = format!("the name of a label has 1 to {MAX_LABEL_NAME_CHARS} characters, no control characters");
        report.error(&crate::config::decode::join("keys.defaults.labels", name), text);
    }
}

fn is_key_id(text: &str) -> bool {
    let tail = text.strip_prefix("key_");
    tail.is_some_and(|tail| tail.len() == 26 && tail.bytes().all(|byte| matches!(byte, b'a'..=b'v' | b'0'..=b'9')))
}
