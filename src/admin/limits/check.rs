//! What a limit must keep to beyond its own form: no contradiction with another one, and something that it can match.
//!
//! What the request alone shows is 400; what depends on what is stored or configured is 409. Either names the field.

use crate::admin::State;
use crate::admin::control::Question;
use crate::admin::respond::{self, Refusal};
use crate::budget::check::contradictions;
use crate::budget::limit::{Action, Limit, Scope};
use crate::error::{Error, Kind};
use crate::key::party::PartyKind;
use crate::key::store::{KeyFilter, KeyPage};

/// Checks a limit that is about to be stored.
///
/// # Errors
/// 400 or 409, with the field and the reason.
pub(super) async fn check(state: &State, limit: &Limit) -> Result<(), Refusal> {
    let mut all = super::all(state).await?;
    all.retain(|other| other.id != limit.id);
    all.push(limit.clone());
    if let Some(found) = contradictions(&all).into_iter().find(|found| found.second == limit.id) {
        let name = all.iter().find(|other| other.id == found.first).map_or("", |other| &other.name);
        let text = format!(
            "The limit {} ({name:?}) counts the same already; change or disable that one, or tell them apart by scope, subject, \
             models, unit or window.",
            found.first
        );
        return Err(conflict("subject", text));
    }
    subject(state, limit).await?;
    downgrade(state, limit)
}

/// A named subject must be there, or the limit could match nothing. Tags and sessions come with the calls, and models with
/// the providers.
async fn subject(state: &State, limit: &Limit) -> Result<(), Refusal> {
    let Some(subject) = limit.subject.as_deref() else { return Ok(()) };
    match limit.scope {
        Scope::Key => key(state, limit, subject).await,
        Scope::Org => party(state, PartyKind::Org, subject).await,
        Scope::Team => party(state, PartyKind::Team, subject).await,
        Scope::User => party(state, PartyKind::User, subject).await,
        Scope::Session => session(state, subject).await,
        Scope::Gateway | Scope::Model | Scope::Tag => Ok(()),
    }
}

async fn key(state: &State, limit: &Limit, id: &str) -> Result<(), Refusal> {
    if !respond::is_id("key", id) {
        return Err(Refusal::invalid("subject", "The subject of a limit for a key is its id: key_ and 26 characters."));
    }
    let found = state.keys.get(id).await.map_err(Error::from)?;
    let Some(key) = found else {
        return Err(conflict("subject", "There is no key of this id, so the limit could match nothing."));
    };
    if key.revoked_at.is_some() {
        return Err(conflict("subject", "The key of this id is revoked, so the limit could match nothing."));
    }
    let literal = !limit.models.is_empty() && limit.models.iter().all(|pattern| pattern.is_literal());
    if literal && !limit.models.iter().any(|model| key.allows_model(model.as_str())) {
        return Err(conflict("models", "The key may ask for none of these models, so the limit could match nothing."));
    }
    Ok(())
}

/// The key of a session must be there; the session itself comes with the calls.
async fn session(state: &State, subject: &str) -> Result<(), Refusal> {
    let id = subject.split_once('/').map_or(subject, |(key, _)| key);
    let found = match respond::is_id("key", id) {
        true => state.keys.get(id).await.map_err(Error::from)?,
        false => None,
    };
    if found.is_none_or(|key| key.revoked_at.is_some()) {
        let text = "The subject of a session begins with the id of its key, and there is no such key that works, so the limit \
                    could match nothing.";
        return Err(conflict("subject", text));
    }
    Ok(())
}

async fn party(state: &State, kind: PartyKind, name: &str) -> Result<(), Refusal> {
    if state.parties.get(kind, name).await.map_err(Error::from)?.is_some() {
        return Ok(());
    }
    let filter = acting_for(kind, name);
    let keys = state.keys.list(&filter, &KeyPage { after: None, limit: 1 }).await.map_err(Error::from)?;
    if !keys.keys.is_empty() {
        return Ok(());
    }
    let noun = kind.as_str();
    let text = format!(
        "There is no {noun} of this name and no key acts for one, so the limit could match nothing; make the {noun} first."
    );
    Err(conflict("subject", text))
}

/// The keys that act for an org, a team or a user.
pub(in crate::admin) fn acting_for(kind: PartyKind, name: &str) -> KeyFilter {
    let name = Some(name.to_owned());
    match kind {
        PartyKind::Org => KeyFilter { org: name, ..KeyFilter::default() },
        PartyKind::Team => KeyFilter { team: name, ..KeyFilter::default() },
        PartyKind::User => KeyFilter { user: name, ..KeyFilter::default() },
    }
}

/// The model that a call is downgraded to must lead somewhere. Where no gateway runs that cannot be told.
fn downgrade(state: &State, limit: &Limit) -> Result<(), Refusal> {
    let Action::Downgrade { to, .. } = &limit.action else { return Ok(()) };
    let team = limit.subject.as_deref().filter(|_| limit.scope == Scope::Team).map(str::to_owned);
    match state.control.explain(&Question { model: to.clone(), team }) {
        Err(error) if error.kind() == Kind::ModelNotFound => {
            Err(conflict("downgrade_to", "No route and no default provider takes this model."))
        }
        _ => Ok(()),
    }
}

fn conflict(field: &'static str, text: impl Into<String>) -> Refusal {
    Error::new(Kind::Conflict, text.into()).param(field).into()
}
