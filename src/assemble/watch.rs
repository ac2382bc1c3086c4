//! What this process knows of the store, kept up to date while others write to it.
//!
//! Everything that is kept in memory is read again when the store's generation has moved on: at once where a notification comes,
//! within a quarter of a second otherwise. While the store cannot be asked, what is known stays in force.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::assemble::core::Core;
use crate::error::StoreError;
use crate::pipeline::Gateway;
use crate::telemetry::metrics::METRICS;
use crate::unit::clock::Timestamp;

/// How often the store is asked whether another process has written to it: it costs one look-up, and a revocation elsewhere has
/// a second to arrive even when nobody tells of it.
const WATCH_EVERY: Duration = Duration::from_millis(250);
/// How long that question may take before the store counts as away, which decides between 401 and 503 for unknown keys.
const ASK_FOR: Duration = Duration::from_secs(1);

/// Since when the store has not answered the watch.
#[derive(Debug, Default)]
pub struct Absence(Mutex<Option<Timestamp>>);

impl Absence {
    /// When the first of the questions failed that have failed without an answer between them; `None` while there are answers.
    pub fn since(&self) -> Option<Timestamp> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how a question ended.
    fn note(&self, is_answered: bool) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *since = if is_answered { None } else { since.or_else(|| Some(Timestamp::now())) };
    }
}

/// Notices what other processes – the command line above all – write to the store, and whether it can be asked at all.
pub async fn watch_store(core: Arc<Core>, mut stopped: watch::Receiver<bool>) {
    let store = core.house.store.clone();
    let (mut known, mut complained) = (None, false);
    let mut heard = core.news.as_ref().and_then(|news| news.subscribe().ok());
    let mut own = core.ring.news().listen();
    loop {
        own.mark_unchanged();
        let told = tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = store.changed() => false,
            () = next_news(&mut heard) => true,
            // This process has written itself: the sooner it looks, the sooner it tells the others.
            Ok(()) = own.changed(), if core.news.is_some() => false,
            () = tokio::time::sleep(WATCH_EVERY) => false,
        };
        record_the_rest(&core.gateway);
        if let Err(cause) = store.arrive().await {
            complain(&cause, &mut complained);
            answered(&core, false);
            continue;
        }
        // While the database is away everything that is known stays in force, and /ready says so.
        let Ok(Ok(generation)) = tokio::time::timeout(ASK_FOR, store.generation()).await else {
            answered(&core, false);
            continue;
        };
        if known != Some(generation) {
            match take_changes(&core).await {
                Ok(true) => {
                    // Whoever noticed by itself tells the others; who was told does not, or it would never end.
                    if let Some(news) = core.news.as_ref().filter(|_| known.is_some() && !told) {
                        drop(news.publish().await);
                    }
                    known = Some(generation);
                    core.standby.caught_up();
                }
                Ok(false) => {}
                Err(_) => {
                    answered(&core, false);
                    continue;
                }
            }
        } else if core.ring.is_in_doubt() && core.ring.refresh(&*store).await.is_err() {
            // What was changed here may have overtaken what was read, so it is read once more; soon, if not now.
            answered(&core, false);
            continue;
        }
        answered(&core, true);
    }
}

/// Notes whether the store answers: without it nobody can say whether a key that is not known here exists.
fn answered(core: &Core, is_answered: bool) {
    core.ring.set_stale(!is_answered);
    core.absence.note(is_answered);
}

/// Returns with the next news from other processes; never, where nobody brings any.
async fn next_news(heard: &mut Option<watch::Receiver<u64>>) {
    let ended = match heard {
        Some(news) => news.changed().await.is_err(),
        None => true,
    };
    if ended {
        std::future::pending().await
    }
}

/// Offers what the journal did not take to it again.
pub fn record_the_rest(gateway: &Gateway) {
    if let Err(error) = gateway.journal.offer_kept() {
        tracing::debug!(%error, "the journal still does not take what it refused");
    }
}

/// Reads everything that is kept in memory again; false if a part of it must be tried again.
///
/// # Errors
/// When the keys cannot be read.
async fn take_changes(core: &Core) -> Result<bool, StoreError> {
    core.ring.refresh(&*core.house.store).await?;
    METRICS.keys.set(i64::try_from(core.ring.len()).unwrap_or(i64::MAX));
    if core.ring.parties().refresh(&*core.house.store).await.is_err() || core.tokens.refresh().await.is_err() {
        return Ok(false);
    }
    if core.memory.take_marks(Timestamp::now()).await.is_err() {
        return Ok(false);
    }
    if let Err(error) = core.take_routes().await {
        tracing::error!(%error, "stored routes were changed but cannot be served; those in force stay");
    }
    if core.take_limits().await.is_err() {
        return Ok(false);
    }
    if let Err(error) = core.take_prices().await {
        tracing::error!(%error, "stored prices were changed but cannot be used; those in force stay");
    }
    Ok(true)
}

/// Says once what keeps a database that was away at the start from being used, if it is more than that it is away.
fn complain(cause: &StoreError, complained: &mut bool) {
    if !matches!(cause, StoreError::Away(_)) && !std::mem::replace(complained, true) {
        tracing::error!(%cause, "the database is there but cannot be used; this process lives on its snapshot");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absence_lasts_from_the_first_failure_to_the_next_answer() {
        let absence = Absence::default();
        assert_eq!(absence.since(), None);
        absence.note(false);
        let first = absence.since();
        assert!(first.is_some());
        absence.note(false);
        assert_eq!(absence.since(), first, "a later failure does not make it shorter");
        absence.note(true);
        assert_eq!(absence.since(), None);
    }
}
