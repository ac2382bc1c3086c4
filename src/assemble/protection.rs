//! The gate in the running gateway: its settings, and that a change of it is written down.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;

use crate::assemble::core::Core;
use crate::error::StoreError;
use crate::kavach::Gate;
use crate::kavach::config::KavachConfig;
use crate::key::store::KeyStore;
use crate::ledger::journal::{Journal, Line};
use crate::pipeline::Gateway;
use crate::unit::clock::Timestamp;
use crate::unit::event::Event;

/// Applies the settings of sessions and drift; what is remembered stays.
pub(super) fn configure(gateway: &Gateway, config: &KavachConfig) {
    gateway.sessions.configure(config.session);
    gateway.drift.configure(config.drift.clone());
}

/// How long the store is left alone after it could not take a suspension.
const TRY_EVERY: Duration = Duration::from_millis(500);

/// Carries suspensions of keys to the store, from where every process has them. One that the store cannot take at present is
/// tried again until it can; meanwhile it holds in this process, and in the next one on this folder.
pub(super) async fn keep_suspensions(core: Arc<Core>, mut stopped: watch::Receiver<bool>) {
    let mut is_away = false;
    loop {
        let done = store_suspensions(&core).await;
        if let (Err(error), false) = (&done, is_away) {
            tracing::error!(%error, "suspensions of keys hold in this process only until the store takes them");
        }
        is_away = done.is_err();
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = core.ring.suspension_is_due(), if !is_away => {}
            () = tokio::time::sleep(TRY_EVERY), if is_away => {}
        }
    }
}

async fn store_suspensions(core: &Core) -> Result<(), StoreError> {
    for (key, rest) in core.ring.unstored() {
        let _turn = core.ring.turn_of_suspensions().await;
        // An operator may have released the key while others were stored.
        if !core.ring.unstored().contains(&(Arc::clone(&key), rest.clone())) {
            continue;
        }
        match KeyStore::suspend(&*core.house.store, &key, Some(&rest)).await {
            Ok(()) | Err(StoreError::NotFound) => core.ring.is_stored(&key, &rest),
            Err(error) => {
                // The folder on the disk has what the store does not; it may have been full.
                if let Err(error) = core.ring.write_lacking_suspensions() {
                    tracing::debug!(%error, "a suspension still cannot be written to the disk");
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

/// How often what was counted of sessions is written; figures of other processes lag by it.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whose habits are due to be shared.
const SHARE_EVERY: Duration = Duration::from_secs(5);
/// How long the last writes may take at the end of the process.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// Carries sessions and habits to the store and back until the end. A store that is away changes nothing here.
pub(super) async fn remember(core: Arc<Core>, mut stopped: watch::Receiver<bool>) {
    let (mut shared_at, mut is_away) = (Timestamp::now(), false);
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = tokio::time::sleep(FLUSH_EVERY) => {}
        }
        let now = Timestamp::now();
        let mut done = core.memory.flush(now).await;
        if done.is_ok() && shared_at.plus(SHARE_EVERY) <= now {
            shared_at = now;
            done = core.memory.share_habits(now, false).await;
        }
        if let (Err(error), false) = (&done, is_away) {
            tracing::warn!(%error, "sessions and habits of keys are known to this process only until the store takes them");
        }
        is_away = done.is_err();
    }
}

/// Writes what is left, before the store is closed.
pub(super) async fn write_last(core: &Core) {
    let now = Timestamp::now();
    let all = async {
        core.memory.flush(now).await?;
        core.memory.share_habits(now, true).await
    };
    match tokio::time::timeout(LAST_WRITES, all).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the last figures of sessions are lost"),
        Err(_) => tracing::warn!("the last figures of sessions are lost: the store does not answer"),
    }
}

/// Writes down that another gate is in force, and who wanted it.
pub(super) fn note_change(journal: &Journal, actor: &str, (before, after): (&Gate, &Gate)) {
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
        actor: actor.into(),
        ..Event::of_gateway("reload", json!({"from": told(before), "to": told(after)}))
    };
    if let Err(error) = journal.append_or_keep(Line::Event(event)) {
        tracing::error!(%error, "that the gate changed could not be written down; it is tried again");
    }
}

#[cfg(test)]
mod tests;
