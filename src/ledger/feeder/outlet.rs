//! Feeds one taker: in order, exactly once, at its own pace.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::sleep;

use super::upkeep::Retry;
use super::{Door, FeederSettings, FeederState, LONGEST_BATCH_DELAY, Shared, stopped};
use crate::error::StoreError;
use crate::ledger::consumer::Consumer;
use crate::ledger::journal::{Line, Piece, Segment};
use crate::ledger::query::{LedgerStore, Position};
use crate::unit::clock::Timestamp;

/// How long a taker with nothing to do sleeps at most.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// Below so many lines in a delay nothing is gained by waiting for more.
const BUSY_LINES: f64 = 16.0;

/// Why a pass over the journal stopped.
#[derive(Debug, thiserror::Error)]
pub(super) enum Halt {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the journal cannot be read: {0}")]
    Journal(#[from] std::io::Error),
}

/// The feeding of one taker.
pub(super) struct Outlet<'a> {
    shared: &'a Shared,
    door: &'a Door,
    /// Its place among the takers; 0 is the ledger.
    number: usize,
    /// Somebody wants to know of the end of owners.
    tells_owners: bool,
    progress: HashMap<Arc<str>, Progress>,
    /// The lines that were handed over since the last rest.
    lines: usize,
    /// How long that rest was.
    rested: Duration,
}

/// How far one segment has come for this taker.
#[derive(Clone, Copy)]
struct Progress {
    fed: u64,
    /// The taker must be asked how far it has come.
    in_doubt: bool,
}

impl<'a> Outlet<'a> {
    pub(super) fn new(shared: &'a Shared, number: usize, tells_owners: bool) -> Self {
        #[allow(clippy::indexing_slicing, reason = "the only callers count the doors")]
        let door = &shared.doors[number];
        Self { shared, door, number, tells_owners, progress: HashMap::new(), lines: 0, rested: Duration::ZERO }
    }

    /// Feeds until `stop`; whether it has everything by then.
    pub(super) async fn feed(mut self, mut stop: watch::Receiver<bool>) -> bool {
        let mut retry = Retry::default();
        loop {
            // All are asked before the pass, so that the pass covers what was appended before them.
            let stopping = *stop.borrow() || stop.has_changed().is_err();
            let ticket = self.door.tickets.load(Ordering::SeqCst);
            let arrived = self.shared.journal.arrived();
            let began = Timestamp::now();
            match self.pass().await {
                Ok(()) => {
                    if self.number == 0 {
                        self.shared.journal.caught_up(began);
                    }
                    self.back();
                    retry = Retry::default();
                    self.door.served.send_replace(Some(ticket));
                    if stopping {
                        return true;
                    }
                    self.rest(&mut stop, ticket, arrived).await;
                }
                Err(halt) => {
                    self.away(&halt);
                    if stopping {
                        return false;
                    }
                    tokio::select! {
                        () = sleep(retry.pause()) => {}
                        () = stopped(&mut stop) => {}
                    }
                }
            }
        }
    }

    /// Waits for work, then a moment longer for more of it.
    async fn rest(&mut self, stop: &mut watch::Receiver<bool>, served: u64, arrived: u64) {
        let lines = std::mem::take(&mut self.lines);
        self.rested = delay(&self.shared.settings.load(), lines, self.rested);
        tokio::select! {
            () = self.shared.journal.wait_beyond(arrived) => {}
            () = self.door.wake.notified() => return,
            () = sleep(LONGEST_REST) => return self.shared.pieces.clear(),
            () = stopped(stop) => return,
        }
        if self.door.tickets.load(Ordering::SeqCst) > served {
            return;
        }
        tokio::select! {
            () = sleep(self.rested) => {}
            () = self.door.wake.notified() => {}
            () = stopped(stop) => {}
        }
    }

    /// Feeds everything that was in the journal when it began.
    pub(super) async fn pass(&mut self) -> Result<(), Halt> {
        if self.door.has_lost.swap(false, Ordering::SeqCst) {
            self.progress.values_mut().for_each(|progress| progress.in_doubt = true);
        }
        let mut unreadable = Ok(());
        let queue = self.shared.journal.queue();
        for segment in &queue {
            match self.feed_segment(segment).await {
                Err(Halt::Journal(cause)) => {
                    tracing::error!(%cause, segment = %segment.name(), "a journal segment cannot be read; the others go on");
                    unreadable = Err(Halt::Journal(cause));
                }
                Err(halt) => {
                    // It may have come further than is known here.
                    self.progress_mut(segment).in_doubt = true;
                    return Err(halt);
                }
                Ok(()) => {}
            }
        }
        self.progress.retain(|name, _| queue.iter().any(|segment| segment.name() == name));
        if self.shared.doors.len() == 1 {
            self.shared.pieces.clear();
        }
        self.shared.retire(self.tells_owners).await?;
        self.forget_gone().await?;
        unreadable
    }

    async fn feed_segment(&mut self, segment: &Arc<Segment>) -> Result<(), Halt> {
        // In this order: the length of a finished segment is final.
        let finished = segment.is_finished();
        let goal = segment.written();
        if segment.passed() & self.bit() != 0 {
            return Ok(());
        }
        if self.progress_mut(segment).in_doubt && goal > 0 {
            let known = self.door.consumer.position(segment.name()).await?;
            self.set_fed(segment, known);
            self.progress_mut(segment).in_doubt = false;
        }
        loop {
            let from = self.progress_mut(segment).fed;
            if from >= goal {
                break;
            }
            let max_lines = self.shared.settings.load().batch_rows.max(1);
            let piece = self.shared.pieces.read(segment, from, max_lines).await?;
            if piece.end <= from {
                // The rest is the beginning of a line that is being written.
                return Ok(());
            }
            self.hand_over(segment, from, &piece).await?;
        }
        if finished {
            self.pass_end(segment).await?;
        }
        Ok(())
    }

    /// Records that this taker needs nothing of a segment any more, once that is on its disk.
    async fn pass_end(&mut self, segment: &Segment) -> Result<(), StoreError> {
        if self.progress_mut(segment).fed > 0 {
            self.door.consumer.sync().await?;
        }
        segment.pass(self.bit());
        Ok(())
    }

    /// Hands a piece over and moves on behind it.
    async fn hand_over(&mut self, segment: &Segment, from: u64, piece: &Piece) -> Result<(), StoreError> {
        self.lines += piece.lines.len();
        let position = Position { segment: segment.name().clone(), from, to: piece.end };
        match self.door.consumer.take(&piece.lines, &position).await {
            Err(StoreError::Conflict(why)) => {
                let stored = self.door.consumer.position(segment.name()).await?;
                if stored != from {
                    // An earlier attempt was committed although it reported a failure.
                    self.set_fed(segment, stored);
                    return Ok(());
                }
                tracing::warn!(%why, taker = self.door.consumer.name(), "a batch is refused; its lines are tried one by one");
                self.hand_over_singly(segment, from, piece).await?;
            }
            done => {
                done?;
                self.set_fed(segment, piece.end);
            }
        }
        if self.number == 0 && piece.skipped > 0 {
            tracing::warn!(segment = %segment.name(), lines = piece.skipped, "torn or damaged journal lines are skipped");
            self.shared.state.send_modify(|state| state.skipped_lines += piece.skipped);
        }
        Ok(())
    }

    /// Hands each line over alone, without those that are refused.
    async fn hand_over_singly(&mut self, segment: &Segment, from: u64, piece: &Piece) -> Result<(), StoreError> {
        let consumer = &self.door.consumer;
        let mut position = Position { segment: segment.name().clone(), from, to: from };
        for (line, end) in piece.lines.iter().zip(&piece.ends) {
            position.to = *end;
            match consumer.take(std::slice::from_ref(line), &position).await {
                Err(StoreError::Conflict(why)) => {
                    let id = line.id();
                    // If it fails because the line was taken after all, the next pass asks for the position.
                    consumer.take(&[], &position).await?;
                    tracing::error!(exchange = %id, %why, taker = consumer.name(), "this line is refused for what it is; it is skipped");
                    self.shared.state.send_modify(|state| state.refused_lines += 1);
                }
                done => done?,
            }
            position.from = *end;
        }
        if position.from < piece.end {
            position.to = piece.end;
            consumer.take(&[], &position).await?;
        }
        self.set_fed(segment, piece.end);
        Ok(())
    }

    /// Forgets the positions of segments that are gone.
    pub(super) async fn forget_gone(&self) -> Result<(), Halt> {
        let bit = self.bit();
        let known: Vec<String> = {
            let gone = self.shared.gone.lock().unwrap_or_else(PoisonError::into_inner);
            gone.iter().filter(|(_, forgotten)| **forgotten & bit == 0).map(|(name, _)| name.clone()).collect()
        };
        if known.is_empty() {
            return Ok(());
        }
        // A segment that came back after a loss of power would be fed again to those who have forgotten it.
        let journal = self.shared.journal.clone();
        tokio::task::spawn_blocking(move || journal.sync_folder()).await.map_err(std::io::Error::other)??;
        for name in known {
            self.door.consumer.forget(&name).await?;
            self.shared.forgotten(&name, bit)?;
        }
        Ok(())
    }

    /// Makes what was taken so far survive a loss of power.
    pub(super) async fn sync(&self) -> Result<(), StoreError> {
        self.door.consumer.sync().await
    }

    fn bit(&self) -> u64 {
        1 << self.number
    }

    fn progress_mut(&mut self, segment: &Segment) -> &mut Progress {
        let fresh = Progress { fed: 0, in_doubt: segment.is_inherited() };
        self.progress.entry(segment.name().clone()).or_insert(fresh)
    }

    fn set_fed(&mut self, segment: &Segment, byte: u64) {
        if self.number == 0 {
            self.shared.journal.set_fed(segment, byte);
        }
        self.progress_mut(segment).fed = byte;
    }

    fn away(&mut self, halt: &Halt) {
        let backlog_bytes = self.backlog_bytes();
        let taker = self.door.consumer.name();
        self.shared.state.send_modify(|state| {
            let (away_since, error) = match self.number.checked_sub(1) {
                None => (&mut state.away_since, &mut state.error),
                Some(number) => {
                    let Some(consumer) = state.consumers.get_mut(number) else { return };
                    consumer.backlog_bytes = backlog_bytes;
                    (&mut consumer.away_since, &mut consumer.error)
                }
            };
            if away_since.is_none() {
                tracing::warn!(cause = %halt, taker, "the journal's lines are not taken; the journal waits");
                *away_since = Some(Timestamp::now());
            }
            *error = Some(halt.to_string());
        });
    }

    fn back(&self) {
        let taker = self.door.consumer.name();
        self.shared.state.send_if_modified(|state| {
            let (away_since, error) = match self.number.checked_sub(1) {
                None => (&mut state.away_since, &mut state.error),
                Some(number) => {
                    let Some(consumer) = state.consumers.get_mut(number) else { return false };
                    consumer.backlog_bytes = 0;
                    (&mut consumer.away_since, &mut consumer.error)
                }
            };
            let was_away = away_since.take().is_some();
            if was_away {
                tracing::info!(taker, "the journal's lines are taken again");
                *error = None;
            }
            was_away
        });
    }

    fn backlog_bytes(&mut self) -> u64 {
        let queue = self.shared.journal.queue();
        queue.iter().map(|segment| segment.written().saturating_sub(self.progress_mut(segment).fed)).sum()
    }
}

/// How long to wait for more lines, when so many came during the last wait: each transaction, each look and each piece costs the
/// same whatever it holds, so under load they are made fewer and fuller.
fn delay(settings: &FeederSettings, lines: usize, last: Duration) -> Duration {
    let least = settings.batch_delay;
    let most = (least * 4).min(LONGEST_BATCH_DELAY).max(least);
    let rate = lines as f64 / last.max(least).as_secs_f64().max(f64::EPSILON);
    if rate * least.as_secs_f64() < BUSY_LINES {
        return least;
    }
    // A quarter is left for what comes while the transaction is written.
    let full = settings.batch_rows as f64 * 0.75 / rate;
    Duration::try_from_secs_f64(full).unwrap_or(least).clamp(least, most)
}

/// The ledger's database as a taker: it counts what is new.
pub(super) struct Rows {
    store: Arc<dyn LedgerStore>,
    state: Arc<watch::Sender<FeederState>>,
    rows: Arc<watch::Sender<u64>>,
}

impl Rows {
    pub(super) fn new(
        store: Arc<dyn LedgerStore>,
        state: Arc<watch::Sender<FeederState>>,
        rows: Arc<watch::Sender<u64>>,
    ) -> Self {
        Self { store, state, rows }
    }
}

#[async_trait]
impl Consumer for Rows {
    fn name(&self) -> &'static str {
        "ledger"
    }

    async fn position(&self, segment: &str) -> Result<u64, StoreError> {
        self.store.position(segment).await
    }

    async fn take(&self, lines: &[Line], position: &Position) -> Result<(), StoreError> {
        let new = self.store.write_batch(lines, position).await?;
        if new > 0 {
            self.state.send_modify(|state| state.rows += new);
            self.rows.send_modify(|rows| *rows += new);
        }
        Ok(())
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.store.sync().await
    }

    async fn segments(&self) -> Result<Vec<String>, StoreError> {
        self.store.segments().await
    }

    async fn forget(&self, segment: &str) -> Result<(), StoreError> {
        self.store.forget(segment).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: FeederSettings = FeederSettings {
        batch_rows: 1_000,
        batch_delay: Duration::from_millis(50),
        sync_interval: Duration::from_secs(1),
        retention: None,
    };

    /// The delay in milliseconds that a steady rate comes to, and the lines of a batch then.
    fn settled(settings: &FeederSettings, lines_a_second: f64) -> (u128, f64) {
        let mut rested = Duration::ZERO;
        for _ in 0..5 {
            let lines = (lines_a_second * rested.max(settings.batch_delay).as_secs_f64()) as usize;
            rested = delay(settings, lines, rested);
        }
        (rested.as_millis(), lines_a_second * rested.as_secs_f64())
    }

    #[test]
    fn batches_get_fuller_under_load_and_not_too_full() {
        assert_eq!(settled(&SETTINGS, 0.0).0, 50);
        assert_eq!(settled(&SETTINGS, 100.0).0, 50);
        assert_eq!(settled(&SETTINGS, 1_000.0).0, 200, "never longer");
        let (delay, lines) = settled(&SETTINGS, 11_000.0);
        assert!((60..80).contains(&delay) && lines < 1_000.0, "{delay} ms, {lines} lines");
        assert_eq!(settled(&SETTINGS, 1e9).0, 50);
    }

    #[test]
    fn a_delay_that_was_asked_for_is_kept() {
        let slow = FeederSettings { batch_delay: Duration::from_secs(3_600), ..SETTINGS };
        assert_eq!(settled(&slow, 1_000.0).0, 3_600_000);
        let quick = FeederSettings { batch_delay: Duration::from_millis(1), ..SETTINGS };
        assert_eq!(settled(&quick, 1e6).0, 1);
        assert_eq!(settled(&quick, 20_000.0).0, 4);
    }
}
