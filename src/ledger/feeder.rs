//! Carries the journal into the database, in batches, exactly once.
//!
//! Rows and the position behind them are written in one transaction, so a crash at any point repeats nothing and loses nothing
//! (`each_record_is_stored_once_whichever_step_the_process_dies_at`).
//! While the database is away the journal waits and the feeder tries again, at most five seconds apart. A finished segment is
//! deleted only after the database has forced its rows to the disk. Damaged lines and rows that the database refuses for what
//! they are get skipped, counted and logged; they never block what is behind them. The same task forces the journal to the disk
//! in groups and deletes records past their retention, all of it off the request path.

mod upkeep;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::journal::{Journal, Line, Piece, Segment};
use super::query::{LedgerStore, Position};
use crate::error::StoreError;
use crate::unit::clock::{Tick, Timestamp};

/// How the feeder works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeederSettings {
    /// The most rows in one transaction; 0 counts as 1.
    pub batch_rows: usize,
    /// How long a row may wait for others to share its transaction.
    pub batch_delay: Duration,
    /// How often the journal is forced to the disk.
    pub sync_interval: Duration,
    /// Records that started longer ago are deleted; `None` keeps them for ever.
    pub retention: Option<Duration>,
}

/// How feeding goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeederState {
    /// Since when the database has not taken rows; `None` while it does.
    pub away_since: Option<Timestamp>,
    /// Why, for operators; no row content.
    pub error: Option<String>,
    /// Records that the database has taken since the start.
    pub rows: u64,
    /// Lines that were torn or damaged.
    pub skipped_lines: u64,
    /// Lines that the database refused for what they are.
    pub refused_lines: u64,
}

/// The feeder is gone, so what waits stays in the journal for the next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ledger's feeder has ended")]
pub struct FeederEnded;

/// Carries one journal into one database. [`Feeder::run`] is the task; [`Feeder::handle`] is for everybody else.
pub struct Feeder {
    shared: Arc<Shared>,
}

/// Watches a feeder and asks things of it. Cheap to clone.
#[derive(Clone)]
pub struct FeederHandle {
    shared: Arc<Shared>,
}

struct Shared {
    journal: Arc<Journal>,
    store: Arc<dyn LedgerStore>,
    settings: ArcSwap<FeederSettings>,
    state: watch::Sender<FeederState>,
    rows: watch::Sender<u64>,
    /// The last ticket drawn by a flush.
    tickets: AtomicU64,
    /// The last ticket served; `None` once the feeder has ended.
    served: watch::Sender<Option<u64>>,
    wake: Notify,
}

impl FeederHandle {
    /// How feeding goes.
    pub fn state(&self) -> FeederState {
        self.shared.state.borrow().clone()
    }

    /// Counts the records that the database has taken since the start; it changes when new rows can be read.
    pub fn rows(&self) -> watch::Receiver<u64> {
        self.shared.rows.subscribe()
    }

    /// Returns when everything appended before the call is in the database. Waits as long as the database is away; the caller
    /// bounds it.
    ///
    /// # Errors
    /// [`FeederEnded`].
    pub async fn flush(&self) -> Result<(), FeederEnded> {
        let mut served = self.shared.served.subscribe();
        let ticket = self.shared.tickets.fetch_add(1, Ordering::SeqCst) + 1;
        self.shared.wake.notify_one();
        let reached = served.wait_for(|last| last.is_none_or(|last| last >= ticket)).await.map_err(|_| FeederEnded)?;
        reached.map(|_| ()).ok_or(FeederEnded)
    }

    /// Changes how the feeder works, from its next batch on.
    pub fn configure(&self, settings: FeederSettings) {
        self.shared.settings.store(Arc::new(settings));
    }
}

/// Why a pass over the journal stopped.
#[derive(Debug, thiserror::Error)]
enum Halt {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the journal cannot be read: {0}")]
    Journal(#[from] std::io::Error),
}

/// How often the folder is searched for segments of processes that died meanwhile.
const ADOPT_INTERVAL: Duration = Duration::from_secs(10);

impl Feeder {
    /// A feeder from that journal into that database.
    pub fn new(journal: Arc<Journal>, store: Arc<dyn LedgerStore>, settings: FeederSettings) -> Self {
        let shared = Shared {
            journal,
            store,
            settings: ArcSwap::from_pointee(settings),
            state: watch::Sender::default(),
            rows: watch::Sender::new(0),
            tickets: AtomicU64::new(0),
            served: watch::Sender::new(Some(0)),
            wake: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A handle to this feeder.
    pub fn handle(&self) -> FeederHandle {
        FeederHandle { shared: self.shared.clone() }
    }

    /// Feeds until `stop` becomes true (or its sender is gone); then feeds what was appended before that and returns. If the
    /// database is away by then, the rest stays in the journal for the next start. Either way the journal is on the disk.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        tokio::join!(self.feed(stop.clone()), self.sync_in_groups(stop.clone()), self.delete_old(stop));
        if let Err(cause) = self.sync().await {
            tracing::error!(%cause, "the journal cannot be forced to the disk");
        }
    }

    async fn feed(&self, mut stop: watch::Receiver<bool>) {
        let mut retry = Retry::default();
        let mut adopted_at = Tick::now();
        let mut tidy = false;
        loop {
            // Both are asked before the pass, so that the pass covers what was appended before them.
            let stopping = *stop.borrow() || stop.has_changed().is_err();
            let ticket = self.shared.tickets.load(Ordering::SeqCst);
            let began = Timestamp::now();
            match self.pass(&mut tidy).await {
                Ok(()) => {
                    self.shared.journal.caught_up(began);
                    self.back();
                    retry = Retry::default();
                    self.shared.served.send_replace(Some(ticket));
                    if stopping {
                        return;
                    }
                    self.rest(&mut stop, ticket).await;
                }
                Err(halt) => {
                    self.away(&halt);
                    if stopping {
                        return;
                    }
                    tokio::select! {
                        () = sleep(retry.pause()) => {}
                        () = stopped(&mut stop) => {}
                    }
                }
            }
            if adopted_at.elapsed() >= ADOPT_INTERVAL {
                adopted_at = Tick::now();
                self.adopt().await;
            }
        }
    }

    /// Waits for work, then a moment longer for more of it.
    async fn rest(&self, stop: &mut watch::Receiver<bool>, served: u64) {
        let shared = &self.shared;
        tokio::select! {
            () = shared.journal.wait() => {}
            () = shared.wake.notified() => return,
            () = sleep(ADOPT_INTERVAL) => return,
            () = stopped(stop) => return,
        }
        if shared.tickets.load(Ordering::SeqCst) > served {
            return;
        }
        tokio::select! {
            () = sleep(shared.settings.load().batch_delay) => {}
            () = shared.wake.notified() => {}
            () = stopped(stop) => {}
        }
    }

    /// Feeds everything that was in the journal when it began.
    async fn pass(&self, tidy: &mut bool) -> Result<(), Halt> {
        if !*tidy {
            self.forget_gone_segments().await?;
            *tidy = true;
        }
        let mut unreadable = Ok(());
        for segment in self.shared.journal.queue() {
            match self.feed_segment(&segment).await {
                Err(Halt::Journal(cause)) => {
                    tracing::error!(%cause, segment = %segment.name(), "a journal segment cannot be read; the others go on");
                    unreadable = Err(Halt::Journal(cause));
                }
                done => {
                    done.inspect_err(|_| segment.doubt())?;
                }
            }
        }
        unreadable
    }

    async fn feed_segment(&self, segment: &Arc<Segment>) -> Result<(), Halt> {
        let journal = &self.shared.journal;
        // In this order: the length of a finished segment is final.
        let finished = segment.is_finished();
        let goal = segment.written();
        if segment.is_in_doubt() && goal > 0 {
            journal.set_fed(segment, self.shared.store.position(segment.name()).await?);
            segment.trust();
        }
        loop {
            let from = segment.fed();
            let piece = self.read(segment, from).await?;
            if piece.end > from {
                self.write(segment, from, &piece).await?;
            }
            if piece.is_last && finished && segment.fed() >= goal {
                return self.retire(segment).await;
            }
            if piece.is_last || segment.fed() >= goal {
                return Ok(());
            }
        }
    }

    /// Reads and decodes on a thread that may block.
    async fn read(&self, segment: &Arc<Segment>, from: u64) -> Result<Piece, Halt> {
        let segment = segment.clone();
        let max_lines = self.shared.settings.load().batch_rows.max(1);
        let read = tokio::task::spawn_blocking(move || segment.read(from, max_lines)).await;
        Ok(read.map_err(std::io::Error::other)??)
    }

    /// Writes a piece and moves on behind it.
    async fn write(&self, segment: &Segment, from: u64, piece: &Piece) -> Result<(), Halt> {
        let position = Position { segment: segment.name().clone(), from, to: piece.end };
        let new = match self.shared.store.write_batch(&piece.lines, &position).await {
            Err(StoreError::Conflict(why)) => {
                let stored = self.shared.store.position(segment.name()).await?;
                if stored != from {
                    // An earlier attempt was committed although it reported a failure.
                    self.shared.journal.set_fed(segment, stored);
                    return Ok(());
                }
                tracing::warn!(%why, "the database refused a batch; its rows are tried one by one");
                self.write_singly(&piece.lines, &position).await?
            }
            done => done?,
        };
        self.shared.journal.set_fed(segment, piece.end);
        self.count(segment, new, piece.skipped);
        Ok(())
    }

    /// Writes each line alone, without those that the database refuses, and the position last. A crash in between repeats lines,
    /// which does nothing: their ids are there.
    async fn write_singly(&self, lines: &[Line], position: &Position) -> Result<u64, StoreError> {
        let standing = Position { to: position.from, ..position.clone() };
        let mut new = 0;
        for line in lines {
            match self.shared.store.write_batch(std::slice::from_ref(line), &standing).await {
                Err(StoreError::Conflict(why)) => {
                    let id = line.id();
                    tracing::error!(%id, %why, "the database refuses this row for what it is; it is skipped");
                    self.shared.state.send_modify(|state| state.refused_lines += 1);
                }
                done => new += done?,
            }
        }
        self.shared.store.write_batch(&[], position).await?;
        Ok(new)
    }

    fn count(&self, segment: &Segment, new: u64, skipped: u64) {
        if skipped > 0 {
            tracing::warn!(segment = %segment.name(), lines = skipped, "torn or damaged journal lines are skipped");
        }
        self.shared.state.send_modify(|state| {
            state.rows += new;
            state.skipped_lines += skipped;
        });
        if new > 0 {
            self.shared.rows.send_modify(|rows| *rows += new);
        }
    }

    /// Deletes a segment whose rows are all in the database, and then its position.
    async fn retire(&self, segment: &Arc<Segment>) -> Result<(), Halt> {
        if segment.fed() > 0 {
            self.shared.store.sync().await?;
        }
        self.shared.journal.retire(segment)?;
        self.shared.store.forget(segment.name()).await?;
        Ok(())
    }

    /// Forgets positions that a crash between the deletion of a segment and that of its position has left. A position is younger
    /// than its file, so one without a file is of no use, whichever process it belonged to.
    async fn forget_gone_segments(&self) -> Result<(), StoreError> {
        for name in self.shared.store.segments().await? {
            if !self.shared.journal.exists(&name) {
                self.shared.store.forget(&name).await?;
            }
        }
        Ok(())
    }

    async fn adopt(&self) {
        let journal = self.shared.journal.clone();
        match tokio::task::spawn_blocking(move || journal.adopt()).await {
            Ok(Ok(0)) => {}
            Ok(Ok(segments)) => tracing::info!(segments, "took over the journal of a process that died"),
            Ok(Err(cause)) => tracing::warn!(%cause, "the journal folder cannot be searched; tried again soon"),
            Err(cause) => tracing::error!(%cause, "the search of the journal folder ended by a defect"),
        }
    }

    fn away(&self, halt: &Halt) {
        self.shared.state.send_modify(|state| {
            if state.away_since.is_none() {
                tracing::warn!(cause = %halt, "the database takes no rows; the journal waits");
                state.away_since = Some(Timestamp::now());
            }
            state.error = Some(halt.to_string());
        });
    }

    fn back(&self) {
        self.shared.state.send_if_modified(|state| {
            let was_away = state.away_since.take().is_some();
            if was_away {
                tracing::info!("the database takes rows again");
                state.error = None;
            }
            was_away
        });
    }
}

impl Drop for Feeder {
    /// Releases those who wait for a flush.
    fn drop(&mut self) {
        self.shared.served.send_replace(None);
    }
}

/// Returns once `stop` is true or its sender is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop as well.
    drop(stop.wait_for(|stop| *stop).await);
}

/// Growing pauses between attempts: from 100 ms, doubled each time, to 5 s, each shortened by up to a half at random.
#[derive(Default)]
struct Retry {
    attempts: u32,
}

impl Retry {
    fn pause(&mut self) -> Duration {
        let full = 100_u64.saturating_mul(1 << self.attempts.min(6)).min(5_000);
        self.attempts += 1;
        // Without randomness the pause is merely regular.
        let random = u64::from(getrandom::u32().unwrap_or(0));
        Duration::from_millis(full - full / 2 * random / u64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests;
