//! The gate in the running gateway: its settings, and that a change of it is written down.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{mpsc, watch};

use crate::assemble::core::Core;
use crate::error::StoreError;
use crate::kavach::config::KavachConfig;
use crate::kavach::{Gate, Suspension};
use crate::key::{self, store::KeyStore};
use crate::ledger::journal::{Journal, Line};
use crate::pipeline::Gateway;
use crate::unit::event::Event;

/// Applies the settings of sessions and drift; what is remembered stays.
pub(super) fn configure(gateway: &Gateway, config: &KavachConfig) {
    gateway.sessions.configure(config.session);
    gateway.drift.configure(config.drift.clone());
}

/// The most suspensions that wait for the store.
const WAITING: usize = 256;
/// How long the store is left alone after it could not take one.
const TRY_EVERY: Duration = Duration::from_millis(500);

/// Carries suspensions of keys to the store, from where every process has them. One that the store cannot take at present is
/// tried again until it can; meanwhile it holds in this process.
pub(super) async fn keep_suspensions(core: Arc<Core>, mut stopped: watch::Receiver<bool>) {
    let (queue, mut waiting) = mpsc::channel::<Suspension>(WAITING);
    if core.gateway.suspended.set(queue).is_err() {
        return;
    }
    loop {
        let next = tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            next = waiting.recv() => next,
        };
        let Some(Suspension { key, until, reason }) = next else { return };
        let rest = key::Suspension { until, reason };
        loop {
            match KeyStore::suspend(&*core.house.store, &key, Some(&rest)).await {
                Ok(()) | Err(StoreError::NotFound) => break,
                Err(error) => tracing::error!(%error, key = &*key, "a suspension waits for the store"),
            }
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return,
                () = tokio::time::sleep(TRY_EVERY) => {}
            }
        }
        // Somebody may have read the keys again in between, from before it was stored.
        core.ring.suspend(&key, Some(rest));
    }
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
    let event = Event {
        noun: "policy".to_owned(),
        ..Event::of_gateway("reload", json!({"from": told(before), "to": told(after)}))
    };
    if let Err(error) = journal.append(&Line::Event(event)) {
        tracing::error!(%error, "that the gate changed could not be written down");
    }
}
