//! Carries the journal to everybody who takes its lines: the ledger's database, and any number of consumers besides. Exactly once.
//!
//! Each taker keeps its own position in each segment, written in one transaction with what it made of the lines, so a crash at
//! any point repeats nothing and loses nothing (`each_record_is_stored_once_whichever_step_the_process_dies_at`). Each is fed
//! by itself: one that is away is tried again at growing pauses, at most five seconds apart, and holds nobody else up. Those
//! who stand at the same place share what is read and decoded. A segment goes when all have passed its end and have forced to
//! their disk what they made of it. Damaged lines and lines that a taker refuses for what they are get skipped, counted and
//! logged. A taker that forgot what it took (Redis after a restart) is asked once more before a segment goes, and fed again from
//! where it stands. When the last segment of a dead process goes, whoever holds something in its name is told before (`OwnerEnd`).

mod outlet;
mod owners;
mod pieces;
mod upkeep;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::{Notify, watch};

use self::outlet::{Outlet, Rows};
use self::pieces::Pieces;
use super::consumer::Consumer;
use super::journal::Journal;
use super::query::LedgerStore;
use crate::error::StoreError;
use crate::unit::clock::Timestamp;

/// How the feeder works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeederSettings {
    /// The most rows in one transaction; 0 counts as 1.
    pub batch_rows: usize,
    /// How long a row may wait for others to share its transaction. Under load it is stretched to up to four times that, but not
    /// beyond [`LONGEST_BATCH_DELAY`], as long as a transaction does not get full.
    pub batch_delay: Duration,
    /// How often the journal is forced to the disk.
    pub sync_interval: Duration,
    /// Records that started longer ago are deleted; `None` keeps them for ever.
    pub retention: Option<Duration>,
}

/// Up to here load may stretch the delay, so that what was answered is in the audit log's tree within a second.
pub const LONGEST_BATCH_DELAY: Duration = Duration::from_millis(200);

/// Who takes the journal's lines.
pub struct Takers {
    /// The ledger's database.
    pub ledger: Arc<dyn LedgerStore>,
    /// Everybody else; at most [`MAX_CONSUMERS`], each with a name of its own.
    pub consumers: Vec<Arc<dyn Consumer>>,
    /// Who is told when a process is over for good.
    pub owner_end: Option<Arc<dyn OwnerEnd>>,
}

/// The most consumers besides the ledger.
pub const MAX_CONSUMERS: usize = 32;

impl Takers {
    /// The ledger's database alone.
    pub fn ledger_only(ledger: Arc<dyn LedgerStore>) -> Self {
        Self { ledger, consumers: Vec::new(), owner_end: None }
    }
}

/// Is told when everybody has everything that a process ever wrote to its journal, and the process is over. So what it held in
/// its own name – leases on counters – can be given to others.
#[async_trait]
pub trait OwnerEnd: Send + Sync {
    /// The owner ([`Journal::owner`]) is over. It may be told more than once; a failure is told again later, at most ten seconds
    /// apart, and by the next process on this folder.
    async fn owner_finished(&self, owner: &str) -> Result<(), StoreError>;
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
    /// Lines that the database or a consumer refused for what they are.
    pub refused_lines: u64,
    /// How the consumers besides the ledger do, in the order in which they were given.
    pub consumers: Vec<ConsumerState>,
}

/// How one consumer does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerState {
    /// Its name.
    pub name: &'static str,
    /// Since when it has not taken lines; `None` while it does.
    pub away_since: Option<Timestamp>,
    /// Why, for operators.
    pub error: Option<String>,
    /// Bytes of the journal that it does not have, as of its last attempt.
    pub backlog_bytes: u64,
}

/// The feeder is gone, so what waits stays in the journal for the next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ledger's feeder has ended")]
pub struct FeederEnded;

/// Carries one journal to its takers. [`Feeder::run`] is the task; [`Feeder::handle`] is for everybody else.
pub struct Feeder {
    shared: Arc<Shared>,
    store: Arc<dyn LedgerStore>,
    owner_end: Option<Arc<dyn OwnerEnd>>,
}

/// Watches a feeder and asks things of it. Cheap to clone.
#[derive(Clone)]
pub struct FeederHandle {
    shared: Arc<Shared>,
}

struct Shared {
    journal: Arc<Journal>,
    settings: ArcSwap<FeederSettings>,
    state: Arc<watch::Sender<FeederState>>,
    rows: Arc<watch::Sender<u64>>,
    /// Who is fed; the ledger first.
    doors: Vec<Door>,
    /// What was read last.
    pieces: Pieces,
    /// Segments that are gone but of which somebody may keep a position; a bit for each door that keeps none.
    gone: Mutex<BTreeMap<String, u64>>,
    /// Dead owners whose last segment went while another process still had one.
    bereft: Mutex<Vec<String>>,
    /// The last segment of a dead owner can go.
    ending: Notify,
    /// The right to let segments go.
    retiring: tokio::sync::Mutex<()>,
}

/// One who is fed, and how others ask it to hurry.
struct Door {
    consumer: Arc<dyn Consumer>,
    /// The last ticket drawn by a flush.
    tickets: AtomicU64,
    /// The last ticket served; `None` once the feeder has ended.
    served: watch::Sender<Option<u64>>,
    wake: Notify,
    /// It does not have any more what it once took: its positions must be asked again.
    has_lost: AtomicBool,
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
        self.flush_doors(self.shared.doors.iter().take(1)).await
    }

    /// The same, for the database and every consumer.
    ///
    /// # Errors
    /// [`FeederEnded`].
    pub async fn flush_everywhere(&self) -> Result<(), FeederEnded> {
        self.flush_doors(self.shared.doors.iter()).await
    }

    /// The same, for the consumer of that name; at once if there is none.
    ///
    /// # Errors
    /// [`FeederEnded`].
    pub async fn flush_to(&self, consumer: &str) -> Result<(), FeederEnded> {
        let doors = self.shared.doors.iter().skip(1);
        self.flush_doors(doors.filter(|door| door.consumer.name() == consumer)).await
    }

    async fn flush_doors(&self, doors: impl Iterator<Item = &Door>) -> Result<(), FeederEnded> {
        let mut waiting = Vec::new();
        for door in doors {
            let served = door.served.subscribe();
            let ticket = door.tickets.fetch_add(1, Ordering::SeqCst) + 1;
            door.wake.notify_one();
            waiting.push((served, ticket));
        }
        for (mut served, ticket) in waiting {
            let reached = served.wait_for(|last| last.is_none_or(|last| last >= ticket)).await;
            reached.map_err(|_| FeederEnded)?.ok_or(FeederEnded)?;
        }
        Ok(())
    }

    /// Changes how the feeder works, from its next batch on.
    pub fn configure(&self, settings: FeederSettings) {
        self.shared.settings.store(Arc::new(settings));
    }
}

impl Feeder {
    /// A feeder from that journal to those takers.
    pub fn new(journal: Arc<Journal>, takers: Takers, settings: FeederSettings) -> Self {
        let Takers { ledger, consumers, owner_end } = takers;
        debug_assert!(consumers.len() <= MAX_CONSUMERS, "each taker has a bit");
        let consumer_states =
            consumers.iter().map(|consumer| ConsumerState { name: consumer.name(), ..ConsumerState::default() });
        let state = FeederState { consumers: consumer_states.collect(), ..FeederState::default() };
        let state = Arc::new(watch::Sender::new(state));
        let rows = Arc::new(watch::Sender::new(0));
        let first: Arc<dyn Consumer> = Arc::new(Rows::new(ledger.clone(), state.clone(), rows.clone()));
        let doors: Vec<Door> =
            [first].into_iter().chain(consumers.into_iter().take(MAX_CONSUMERS)).map(Door::new).collect();
        let shared = Shared {
            journal,
            settings: ArcSwap::from_pointee(settings),
            state,
            rows,
            pieces: Pieces::new(doors.len()),
            doors,
            gone: Mutex::default(),
            bereft: Mutex::default(),
            ending: Notify::new(),
            retiring: tokio::sync::Mutex::new(()),
        };
        Self { shared: Arc::new(shared), store: ledger, owner_end }
    }

    /// A handle to this feeder.
    pub fn handle(&self) -> FeederHandle {
        FeederHandle { shared: self.shared.clone() }
    }

    /// Feeds until `stop` becomes true (or its sender is gone); then feeds what was appended before that and returns. Whoever is
    /// away by then gets the rest after the next start: it stays in the journal. Either way the journal is on the disk. If
    /// everybody has everything, this process counts as over (`OwnerEnd`).
    pub async fn run(self, stop: watch::Receiver<bool>) {
        self.shared.journal.keep(true);
        self.find_gone();
        let feed_all = self.feed_all(stop.clone());
        let (all_fed, ..) = tokio::join!(
            feed_all,
            self.end_owners_again_and_again(stop.clone()),
            self.adopt_again_and_again(stop.clone()),
            self.sync_in_groups(stop.clone()),
            self.delete_old(stop)
        );
        if let Err(cause) = self.sync().await {
            tracing::error!(%cause, "the journal cannot be forced to the disk");
        }
        self.end(all_fed).await;
    }

    /// Feeds everybody until `stop`; whether everybody has everything.
    async fn feed_all(&self, stop: watch::Receiver<bool>) -> bool {
        let feeds = (0..self.shared.doors.len()).map(|number| {
            let feed: Pin<Box<dyn Future<Output = bool> + Send + '_>> =
                Box::pin(Outlet::new(&self.shared, number, self.owner_end.is_some()).feed(stop.clone()));
            feed
        });
        all(feeds.collect()).await
    }
}

/// Runs all at once on this task; whether all came to a good end.
async fn all(mut feeds: Vec<Pin<Box<dyn Future<Output = bool> + Send + '_>>>) -> bool {
    let mut good = true;
    std::future::poll_fn(move |context| {
        feeds.retain_mut(|feed| match feed.as_mut().poll(context) {
            Poll::Ready(done) => {
                good &= done;
                false
            }
            Poll::Pending => true,
        });
        if feeds.is_empty() { Poll::Ready(good) } else { Poll::Pending }
    })
    .await
}

impl Door {
    fn new(consumer: Arc<dyn Consumer>) -> Self {
        Self {
            consumer,
            tickets: AtomicU64::new(0),
            served: watch::Sender::new(Some(0)),
            wake: Notify::new(),
            has_lost: AtomicBool::new(false),
        }
    }
}

impl Drop for Feeder {
    /// Releases those who wait for a flush.
    fn drop(&mut self) {
        for door in &self.shared.doors {
            door.served.send_replace(None);
        }
    }
}

/// Returns once `stop` is true or its sender is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop as well.
    drop(stop.wait_for(|stop| *stop).await);
}

#[cfg(test)]
mod tests;
