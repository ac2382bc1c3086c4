//! What the gate says of a call, and the two things that come of it: a `Permit` or a `Refusal`.
//!
//! A permit has no other source than a verdict that admits, and getting a target takes one: what was not judged cannot be
//! sent. A verdict keeps what the policies say (`real`) apart from what happens (`effective`).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};
use crate::kavach::call::{Action, Call};
use crate::kavach::config::{Mode, Reveal};
use crate::kavach::rule::Then;
use crate::unit::clock::Timestamp;

/// Yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// The call goes on.
    Allow,
    /// It does not.
    Deny,
}

impl Decision {
    /// The word for it, as in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// A policy that had a part in a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ground {
    /// The policy's id.
    pub policy: Arc<str>,
    /// Its `@reason`, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
}

/// A policy that could not be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The policy's id.
    pub policy: Arc<str>,
    /// What went wrong, in Cedar's words.
    pub text: String,
}

/// What policies say of a call, whatever the gate's mode is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// The decision of the policies that enforce.
    pub decision: Decision,
    /// The policies that decided: the forbids that match or fail, else the permits that match; none if the call is refused
    /// because nothing permits it.
    pub deciding: Vec<Ground>,
    /// The forbids in observe mode that would refuse it.
    pub would_refuse: Vec<Ground>,
    /// The permits in observe mode that would permit it.
    pub would_permit: Vec<Ground>,
    /// The policies that could not be evaluated. A permit that fails permits nothing; a forbid that fails refuses.
    pub failed: Vec<Failed>,
    #[serde(skip)]
    pub(super) then: Then,
}

/// What the gate says of a call.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The gate's mode.
    pub mode: Mode,
    /// What the policies say; [`Decision::Allow`] without a word if the gate is off.
    pub judgement: Arc<Judgement>,
    pub(super) reveal: Reveal,
    pub(super) permit: Permit,
    pub(super) at: Timestamp,
}

impl Verdict {
    /// What the policies say.
    pub fn real(&self) -> Decision {
        self.judgement.decision
    }

    /// What happens.
    pub fn effective(&self) -> Decision {
        if self.mode == Mode::Enforce { self.real() } else { Decision::Allow }
    }

    /// For the header `x-kavach-verdict`: `allow`, `deny`, or `would-deny` if it passes only because something observes.
    pub fn word(&self) -> &'static str {
        let observed = self.real() == Decision::Deny || !self.judgement.would_refuse.is_empty();
        match self.effective() {
            Decision::Deny => "deny",
            Decision::Allow if observed => "would-deny",
            Decision::Allow => "allow",
        }
    }

    /// What is said of a call that the provider may turn into another one: its own permit, and what is said of the other one
    /// where that is worse.
    pub fn or_worse(self, other: Self) -> Self {
        let rank = |verdict: &Self| ["allow", "would-deny", "deny"].iter().position(|word| *word == verdict.word());
        if rank(&other) > rank(&self) { Self { judgement: other.judgement, ..self } } else { self }
    }

    /// The permit, or why there is none.
    ///
    /// # Errors
    /// The refusal, when the policies deny and the gate enforces.
    pub fn admit(self) -> Result<Permit, Refusal> {
        if self.effective() == Decision::Allow {
            return Ok(self.permit);
        }
        let until = match self.judgement.then {
            Then::Refuse => None,
            Then::Suspend(span) => Some(Some(self.at.plus(span))),
            Then::Approval => Some(None),
        };
        let suspension = until.map(|until| Suspension {
            key: Arc::clone(&self.permit.key),
            until,
            reason: self.judgement.deciding.first().map(|ground| ground.reason_or_id()).unwrap_or_default(),
        });
        Err(Refusal { judgement: self.judgement, reveal: self.reveal, suspension })
    }
}

/// The leave to send one call to one target. It cannot be made, only got from a [`Verdict`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    key: Arc<str>,
    action: Action,
    provider: Arc<str>,
    model: Arc<str>,
}

impl Permit {
    pub(super) fn for_call(call: &Call) -> Self {
        Self {
            key: Arc::clone(&call.caller.key),
            action: call.action,
            provider: Arc::clone(&call.target.provider),
            model: Arc::clone(&call.target.model),
        }
    }

    pub(super) fn waived(key: &Arc<str>, action: Action, provider: &Arc<str>, model: &str) -> Self {
        Self { key: Arc::clone(key), action, provider: Arc::clone(provider), model: model.into() }
    }

    /// Whether it is for that provider and model.
    pub fn covers(&self, provider: &str, model: &str) -> bool {
        *self.provider == *provider && *self.model == *model
    }

    /// The key that it is for.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// What it is for.
    pub fn action(&self) -> Action {
        self.action
    }

    /// The provider that it is for.
    pub fn provider(&self) -> &Arc<str> {
        &self.provider
    }

    /// The model that it is for.
    pub fn model(&self) -> &Arc<str> {
        &self.model
    }
}

/// Why a call does not go on.
#[derive(Clone, Debug)]
pub struct Refusal {
    judgement: Arc<Judgement>,
    reveal: Reveal,
    /// What follows for the key; whoever gets the refusal stores it.
    pub suspension: Option<Suspension>,
}

/// A rest for a key. Never for ever: it ends by itself, or by an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// The key's id.
    pub key: Arc<str>,
    /// When it ends by itself; `None` if an operator has to end it.
    pub until: Option<Timestamp>,
    /// Why, for operators.
    pub reason: Arc<str>,
}

impl Refusal {
    /// The policies that refused; none if nothing permits the call.
    pub fn grounds(&self) -> &[Ground] {
        &self.judgement.deciding
    }

    /// The judgement behind it, for the record.
    pub fn judgement(&self) -> &Arc<Judgement> {
        &self.judgement
    }

    /// The refusal as the caller reads it: 403, with the policy's id and reason as far as `kavach.reveal` allows.
    pub fn error(&self) -> Error {
        const BARE: &str = "the gateway's policy refuses this call";
        let Some(ground) = self.judgement.deciding.iter().find(|ground| ground.reason.is_some()) else {
            let text = match (self.reveal, self.judgement.deciding.first()) {
                (Reveal::IdAndReason, Some(ground)) => format!("{BARE} (policy {})", ground.policy),
                (Reveal::IdAndReason | Reveal::Reason, None) => format!("{BARE}: nothing permits it"),
                _ => BARE.to_owned(),
            };
            return Error::new(Kind::PermissionDenied, text);
        };
        let reason = ground.reason.as_deref().unwrap_or_default();
        let text = match self.reveal {
            Reveal::IdAndReason => format!("{BARE}: {reason} (policy {})", ground.policy),
            Reveal::Reason => format!("{BARE}: {reason}"),
            Reveal::Nothing => BARE.to_owned(),
        };
        Error::new(Kind::PermissionDenied, text)
    }
}

impl Ground {
    fn reason_or_id(&self) -> Arc<str> {
        Arc::clone(self.reason.as_ref().unwrap_or(&self.policy))
    }
}
