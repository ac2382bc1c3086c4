//! What the feeder does beside feeding: it forces the journal to the disk in groups, takes over the segments of processes that
//! died meanwhile, and deletes records past their retention in small batches with pauses. None of it holds up the lines that
//! arrive.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::{Feeder, stopped};
use crate::unit::clock::Timestamp;

/// How often the folder is searched for segments of processes that died meanwhile.
const ADOPT_INTERVAL: Duration = Duration::from_secs(10);
/// How often old records are looked for.
const RETENTION_INTERVAL: Duration = Duration::from_secs(600);
/// How many old records go in one transaction, and the pause before the next, so that feeding is not held up.
const RETENTION_ROWS: u32 = 500;
const RETENTION_PAUSE: Duration = Duration::from_millis(20);

impl Feeder {
    /// Forces the journal to the disk again and again until `stop`.
    pub(super) async fn sync_in_groups(&self, mut stop: watch::Receiver<bool>) {
        let mut failing = false;
        loop {
            tokio::select! {
                () = sleep(self.shared.settings.load().sync_interval) => {}
                () = stopped(&mut stop) => return,
            }
            if !self.shared.journal.needs_sync() {
                continue;
            }
            match self.sync().await {
                Ok(()) => failing = false,
                Err(cause) if !failing => {
                    tracing::error!(%cause, "the journal cannot be forced to the disk; tried again");
                    failing = true;
                }
                Err(_) => {}
            }
        }
    }

    /// Forces the journal to the disk, on a thread that may block.
    pub(super) async fn sync(&self) -> std::io::Result<()> {
        let journal = self.shared.journal.clone();
        tokio::task::spawn_blocking(move || journal.sync()).await.map_err(std::io::Error::other)?
    }

    /// Takes over the segments of processes that die meanwhile, until `stop`.
    pub(super) async fn adopt_again_and_again(&self, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = sleep(ADOPT_INTERVAL) => {}
                () = stopped(&mut stop) => return,
            }
            self.adopt().await;
        }
    }

    pub(super) async fn adopt(&self) {
        let journal = self.shared.journal.clone();
        match tokio::task::spawn_blocking(move || journal.adopt()).await {
            Ok(Ok(0)) => {}
            Ok(Ok(segments)) => tracing::info!(segments, "took over the journal of a process that died"),
            Ok(Err(cause)) => tracing::warn!(%cause, "the journal folder cannot be searched; tried again soon"),
            Err(cause) => tracing::error!(%cause, "the search of the journal folder ended by a defect"),
        }
    }

    /// Deletes records past their retention until `stop`.
    pub(super) async fn delete_old(&self, mut stop: watch::Receiver<bool>) {
        loop {
            let pause = self.delete_some_old().await;
            tokio::select! {
                () = sleep(pause) => {}
                () = stopped(&mut stop) => return,
            }
        }
    }

    /// Deletes a few old records; returns when to go on.
    async fn delete_some_old(&self) -> Duration {
        let before = self.shared.settings.load().retention.map(|retention| Timestamp::now().minus(retention));
        if let Err(cause) = self.store.upkeep(before).await {
            tracing::warn!(%cause, "the database cannot be cared for; tried again later");
            return RETENTION_INTERVAL;
        }
        let Some(before) = before else { return RETENTION_INTERVAL };
        match self.store.delete_before(before, RETENTION_ROWS).await {
            Ok(deleted) if deleted >= u64::from(RETENTION_ROWS) => RETENTION_PAUSE,
            Ok(_) => RETENTION_INTERVAL,
            Err(cause) => {
                tracing::warn!(%cause, "old records cannot be deleted; tried again later");
                RETENTION_INTERVAL
            }
        }
    }
}

/// Growing pauses between attempts: from 100 ms, doubled each time, to 5 s, each shortened by up to a half at random.
#[derive(Default)]
pub(super) struct Retry {
    attempts: u32,
}

impl Retry {
    /// The next pause.
    pub(super) fn pause(&mut self) -> Duration {
        let full = 100_u64.saturating_mul(1 << self.attempts.min(6)).min(5_000);
        self.attempts += 1;
        // Without randomness the pause is merely regular.
        let random = u64::from(getrandom::u32().unwrap_or(0));
        Duration::from_millis(full - full / 2 * random / u64::from(u32::MAX))
    }
}
