//! The gate in the running gateway: its settings, and that a change of it is written down.

use serde_json::json;

use crate::kavach::Gate;
use crate::kavach::config::KavachConfig;
use crate::ledger::journal::{Journal, Line};
use crate::pipeline::Gateway;
use crate::unit::event::Event;

/// Applies the settings of sessions and drift; what is remembered stays.
pub(super) fn configure(gateway: &Gateway, config: &KavachConfig) {
    gateway.sessions.configure(config.session);
    gateway.drift.configure(config.drift.clone());
}

/// Writes down that another gate is in force.
pub(super) fn note_change(journal: &Journal, before: &Gate, after: &Gate) {
    if before.is_like(after) {
        return;
    }
    let told = |gate: &Gate| {
        json!({
            "mode": gate.mode().name(), "set": gate.set_hash(),
            "policies": gate.set().map_or(0, |set| set.rules().len()),
        })
    };
    tracing::warn!(from = before.mode().name(), to = after.mode().name(), set = after.set_hash(), "the gate changed");
    let event = Event { noun: "policy".to_owned(), ..Event::of_gateway("reload", json!({"from": told(before), "to": told(after)})) };
    if let Err(error) = journal.append(&Line::Event(event)) {
        tracing::error!(%error, "that the gate changed could not be written down");
    }
}
