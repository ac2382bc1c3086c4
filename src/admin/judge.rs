//! Operations of operators before the policies: what the roles let pass may still be forbidden.
//!
//! Whoever works on the store itself (the command line without `--server`) is not asked. What is refused, or would be if it did
//! not only observe, is written to the journal: the trail of changes never sees it. In the mode `off` nothing is judged.

use axum::extract::Request;
use axum::http::Method;
use serde_json::json;
use uuid::Uuid;

use crate::admin::State;
use crate::admin::auth::{self, Caller};
use crate::admin::trail;
use crate::error::{Error, Kind};
use crate::kavach::admin::Operation;
use crate::kavach::config::Mode;
use crate::kavach::verdict::{Decision, Judgement};
use crate::ledger::Line;
use crate::unit::clock::Timestamp;
use crate::unit::event::{Event, Phase};

/// Whether the policies let an operation pass.
///
/// # Errors
/// `PermissionDenied` with the policy and its reason; operators may read both.
pub fn judge(state: &State, caller: &Caller, request: &Request) -> Result<(), Error> {
    let (Some(token), Some(guard)) = (&caller.token, state.control.guard()) else { return Ok(()) };
    let mode = guard.gate.mode();
    if mode == Mode::Off {
        return Ok(());
    }
    let (noun, subject, verb) = trail::meaning(request.method().as_str(), request.uri().path());
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let operation = Operation {
        token: token.as_str().into(),
        role: caller.role,
        verb: if reads { "read".to_owned() } else { verb },
        noun,
        subject,
        address: auth::peer(request),
        time: Timestamp::now(),
    };
    let judgement = guard.gate.weigh_operation(&operation);
    let refused = judgement.decision == Decision::Deny && mode == Mode::Enforce;
    if refused || judgement.decision == Decision::Deny || !judgement.would_refuse.is_empty() {
        note(state, &operation, &judgement, refused);
    }
    if refused { Err(refusal(&judgement)) } else { Ok(()) }
}

fn refusal(judgement: &Judgement) -> Error {
    const BARE: &str = "The gateway's policy refuses this operation";
    let text = match judgement.deciding.first() {
        Some(ground) => match &ground.reason {
            Some(reason) => format!("{BARE}: {reason} (policy {}).", ground.policy),
            None => format!("{BARE} (policy {}).", ground.policy),
        },
        None => format!("{BARE}."),
    };
    Error::new(Kind::PermissionDenied, text)
}

/// Writes down who was refused what, or would have been.
fn note(state: &State, operation: &Operation, judgement: &Judgement, refused: bool) {
    let grounds = judgement.deciding.iter().chain(&judgement.would_refuse);
    let policies: Vec<&str> = grounds.map(|ground| &*ground.policy).collect();
    let verdict = if refused { "deny" } else { "would-deny" };
    tracing::warn!(
        token = &*operation.token,
        verb = operation.verb,
        noun = operation.noun,
        verdict,
        ?policies,
        "a policy speaks of an operation"
    );
    let event = Event {
        id: Uuid::now_v7(),
        at: operation.time,
        actor: operation.token.clone(),
        noun: operation.noun.clone(),
        verb: operation.verb.clone(),
        subject: operation.subject.clone(),
        phase: if refused { Phase::Done } else { Phase::Begun },
        status: refused.then_some(Kind::PermissionDenied.status()),
        detail: json!({"verdict": verdict, "policies": policies, "role": operation.role.as_str()}),
    };
    if let Some(Err(error)) = state.journal.as_ref().map(|journal| journal.append(&Line::Event(event))) {
        tracing::error!(%error, "what a policy says of an operation could not be written down");
    }
}
