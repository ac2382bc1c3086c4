//! One policy with what its annotations say: `@id`, `@reason`, `@mode`, `@then`.
//!
//! An annotation that is not known is refused: a misspelt `@mode` must not change what a policy does.

use std::sync::Arc;
use std::time::Duration;

use cedar_policy::{ActionConstraint, Effect, Policy, PolicyId, PrincipalConstraint, ResourceConstraint};
use serde_json::Value;

use crate::kavach::bounds;
use crate::kavach::context::Fields;

/// A policy of a set.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its id: what `@id` says, else the file's name and its number in there, as in `policy#3`.
    pub id: Arc<str>,
    /// What the caller may read when it refuses: what `@reason` says.
    pub reason: Option<Arc<str>>,
    /// Whether it forbids (or permits).
    pub forbids: bool,
    /// Whether it only observes: it refuses nothing and permits nothing, and what it would do is reported.
    pub observes: bool,
    /// What follows when it refuses.
    pub then: Then,
    pub(super) principal: PrincipalConstraint,
    pub(super) action: ActionConstraint,
    pub(super) resource: ResourceConstraint,
    /// The fields of the context that it reads.
    pub(super) fields: Fields,
    pub(super) policy: Policy,
    /// It in canonical JSON (RFC 8785).
    pub(super) canonical: String,
    pub(super) source: usize,
    pub(super) offset: usize,
}

impl Rule {
    /// Whether two policies are the same but for their looks, annotations included.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.canonical == other.canonical
    }
}

/// What follows a refusal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Then {
    /// Nothing more.
    #[default]
    Refuse,
    /// The key rests for a time.
    Suspend(Duration),
    /// The key rests until an operator lets it go on.
    Approval,
}

impl Then {
    /// The sterner of two.
    pub(super) fn max(self, other: Self) -> Self {
        match (self, other) {
            (Self::Approval, _) | (_, Self::Approval) => Self::Approval,
            (Self::Suspend(one), Self::Suspend(two)) => Self::Suspend(one.max(two)),
            (Self::Suspend(span), Self::Refuse) | (Self::Refuse, Self::Suspend(span)) => Self::Suspend(span),
            (Self::Refuse, Self::Refuse) => Self::Refuse,
        }
    }
}

/// The longest suspension; longer ones are for an operator to decide.
const LONGEST_SUSPENSION: Duration = Duration::from_secs(30 * 86_400);

/// Reads the annotations of a policy. The fault is a sentence for its author.
pub(super) fn of(policy: &Policy, fallback_id: &str) -> Result<Rule, String> {
    let forbids = policy.effect() == Effect::Forbid;
    let mut rule = Draft { id: fallback_id.to_owned(), ..Draft::default() };
    for (name, value) in policy.annotations() {
        match name {
            "id" => rule.id = id(value)?,
            "reason" => rule.reason = Some(sentence("reason", value)?),
            "mode" => rule.observes = observes(value)?,
            "then" => rule.then = then(value, forbids)?,
            // For people; both are free.
            "owner" | "description" => {}
            _ => {
                return Err(format!(
                    "there is no annotation @{name}; there are @id, @reason, @mode, @then, @owner and @description"
                ));
            }
        }
    }
    let json = policy.to_json().map_err(|error| format!("it has no JSON form: {error}"))?;
    let conditions = json.get("conditions").unwrap_or(&Value::Null);
    bounds::check_depth(conditions)?;
    let canonical = serde_json_canonicalizer::to_string(&json).map_err(|error| error.to_string())?;
    let policy = policy.new_id(PolicyId::new(&rule.id));
    Ok(Rule {
        id: rule.id.into(),
        reason: rule.reason,
        forbids,
        observes: rule.observes,
        then: rule.then,
        principal: policy.principal_constraint(),
        action: policy.action_constraint(),
        resource: policy.resource_constraint(),
        fields: fields(conditions),
        policy,
        canonical,
        source: 0,
        offset: 0,
    })
}

#[derive(Default)]
struct Draft {
    id: String,
    reason: Option<Arc<str>>,
    observes: bool,
    then: Then,
}

fn id(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
    if text.is_empty() || text.len() > 128 || !text.bytes().all(plain) {
        return Err("@id has 1 to 128 of the characters a-z A-Z 0-9 . _ : / -".to_owned());
    }
    Ok(text.to_owned())
}

fn sentence(name: &str, text: &str) -> Result<Arc<str>, String> {
    if text.trim().is_empty() || text.chars().count() > 512 || text.chars().any(char::is_control) {
        return Err(format!("@{name} has 1 to 512 characters, none of them a control character"));
    }
    Ok(Arc::from(text))
}

fn observes(text: &str) -> Result<bool, String> {
    match text {
        "observe" => Ok(true),
        "enforce" => Ok(false),
        _ => Err("@mode is \"observe\" or \"enforce\"".to_owned()),
    }
}

fn then(text: &str, forbids: bool) -> Result<Then, String> {
    const WANTED: &str = "@then is \"refuse\", \"approval\", or \"suspend 15m\" with s, m, h or d, at most 30d";
    if !forbids {
        return Err("@then belongs to a forbid".to_owned());
    }
    match text {
        "refuse" => return Ok(Then::Refuse),
        "approval" => return Ok(Then::Approval),
        _ => {}
    }
    let span = text.strip_prefix("suspend ").and_then(duration).ok_or(WANTED)?;
    if span.is_zero() || span > LONGEST_SUSPENSION {
        return Err(WANTED.to_owned());
    }
    Ok(Then::Suspend(span))
}

/// A span of time as `90s`, `15m`, `24h`, `7d`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (digits, unit) = text.trim().split_at_checked(text.trim().len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(seconds).map(Duration::from_secs)
}

/// The figures of the context that conditions in Cedar's JSON form read; all of them where the context is used as a whole.
///
/// *Source*: <https://docs.cedarpolicy.com/policies/json-format.html>, objects `.`, `has` and `Var`.
fn fields(expression: &Value) -> Fields {
    match expression {
        Value::Object(object) => object.iter().fold(Fields::default(), |found, (operator, inner)| {
            found.union(match operator.as_str() {
                "." | "has" => member(inner).unwrap_or_else(|| fields(inner)),
                "Var" if inner.as_str() == Some("context") => Fields::ALL,
                // A literal is no expression, whatever it looks like.
                "Value" => Fields::default(),
                _ => fields(inner),
            })
        }),
        Value::Array(items) => items.iter().fold(Fields::default(), |found, item| found.union(fields(item))),
        _ => Fields::default(),
    }
}

/// What an access to a member reads, if it is one of the context, as in `context.stream`, or of a record in it, as in
/// `context.session.requests`.
fn member(access: &Value) -> Option<Fields> {
    let is_context = |value: &Value| value.get("Var").and_then(Value::as_str) == Some("context");
    let (left, name) = (access.get("left")?, access.get("attr")?.as_str()?);
    if is_context(left) {
        return Some(Fields::default().with(name));
    }
    let outer = left.get(".")?;
    let record = outer.get("attr")?.as_str().filter(|_| outer.get("left").is_some_and(is_context))?;
    Some(Fields::default().with(&format!("{record}.{name}")))
}
