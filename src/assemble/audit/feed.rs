//! How the log is fed: as one of those who take the journal's lines, and what is missing because a file of the journal is.

use std::sync::Arc;

use async_trait::async_trait;

use super::{CONSUMER, Keeper};
use crate::assemble::alarm::What;
use crate::audit::log::{Log, LogError};
use crate::audit::tail::Taken;
use crate::error::StoreError;
use crate::ledger::journal::{Gap, Journal};
use crate::ledger::query::Position;
use crate::ledger::{Consumer, Line};
use crate::pipeline::attest;
use crate::telemetry::metrics::METRICS;
use crate::unit::clock::Timestamp;

/// Takes the journal's lines into the log.
pub struct Feed(pub Arc<Keeper>);

impl Feed {
    /// Does something with the log where blocking is allowed.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Log) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let Some(log) = self.0.log() else {
            return Err(StoreError::Away(self.0.trouble().unwrap_or_default().into()));
        };
        let done = tokio::task::spawn_blocking(move || work(&log)).await;
        done.map_err(|error| StoreError::Away(Box::new(error)))?.map_err(StoreError::from)
    }
}

#[async_trait]
impl Consumer for Feed {
    fn name(&self) -> &'static str {
        CONSUMER
    }

    async fn position(&self, segment: &str) -> Result<u64, StoreError> {
        let segment = segment.to_owned();
        self.with(move |log| Ok(log.position(&segment))).await
    }

    async fn take(&self, lines: &[Line], position: &Position) -> Result<(), StoreError> {
        for line in lines {
            if let Line::Gap(gap) = line {
                METRICS.audit_gaps.inc();
                self.0.alarms.happened(What::Gap, gap.detail.clone());
            }
        }
        let taken = |line| Some(Taken::new(&attest::entry(line)?, attest::salt(line)));
        let entries: Vec<Taken> = lines.iter().filter_map(taken).collect();
        let (segment, range) = (position.segment.to_string(), (position.from, position.to));
        self.with(move |log| log.take(&entries, &segment, range)).await
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.with(Log::sync).await
    }

    async fn segments(&self) -> Result<Vec<String>, StoreError> {
        self.with(|log| Ok(log.segments())).await
    }

    async fn forget(&self, segment: &str) -> Result<(), StoreError> {
        let segment = segment.to_owned();
        self.with(move |log| {
            log.forget(&segment);
            Ok(())
        })
        .await
    }
}

/// Notes for each segment of the journal that was taken away before its end was known to be in the log that something may be
/// missing.
pub(super) fn note_lost_segments(log: &Log, journal: &Journal) -> std::io::Result<()> {
    let before = log.segments();
    let known = journal.known_segments()?;
    // One that went in order meanwhile has no position any more.
    let after = log.segments();
    for name in before.into_iter().filter(|name| !known.contains(name) && after.contains(name)) {
        let detail = format!(
            "the journal segment {name}, of which {} bytes were taken, is not there any more: what stood behind them is missing",
            log.position(&name)
        );
        let gap = Gap { at: Timestamp::now(), reason: "journal_damaged".to_owned(), detail };
        journal.append(&Line::Gap(gap)).map_err(std::io::Error::other)?;
        log.forget(&name);
    }
    Ok(())
}
