use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::path::Path;

use async_trait::async_trait;
use tokio::task::JoinHandle;

use super::upkeep::Retry;
use super::*;
use crate::ledger::Line;
use crate::ledger::journal::JournalSettings;
use crate::ledger::journal::tests::record;
use crate::ledger::query::{Cursor, Filter, Group, Page, Position, Spender, Summary};
use crate::ledger::record::{Amendment, Record};
use crate::telemetry::task;
use crate::unit::id::ExchangeId;
use crate::unit::usage::{Usage, UsageSource};

/// A database in memory that does what [`LedgerStore`] promises, and goes wrong on demand.
#[derive(Default)]
struct Memory {
    rows: Mutex<Rows>,
    /// What the next writes do; with none left they succeed.
    faults: Mutex<VecDeque<Fault>>,
    calls: AtomicU64,
    /// The call in which the process dies, and on which side of its effect: that call and all later ones never return.
    death: Option<(u64, Fault)>,
}

#[derive(Default)]
struct Rows {
    records: BTreeMap<ExchangeId, Record>,
    positions: HashMap<String, u64>,
    /// Records that were inserted although they were there.
    repeated: u64,
    syncs: u64,
    deletions: Vec<u32>,
    /// Records with this path are refused.
    poison: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// Nothing is stored.
    Before,
    /// It is stored, and yet it fails.
    After,
}

impl Memory {
    async fn call<T>(&self, effect: impl FnOnce(&mut Rows) -> T) -> T {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if self.death.is_some_and(|(last, side)| call > last || call == last && side == Fault::Before) {
            pending::<()>().await;
        }
        let done = effect(&mut self.rows.lock().unwrap());
        if self.death == Some((call, Fault::After)) {
            pending::<()>().await;
        }
        done
    }

    fn paths(&self) -> Vec<String> {
        let mut paths: Vec<String> = self.rows.lock().unwrap().records.values().map(|row| row.path.clone()).collect();
        paths.sort();
        paths
    }

    fn repeated(&self) -> u64 {
        self.rows.lock().unwrap().repeated
    }
}

fn away() -> StoreError {
    StoreError::Away("unplugged".into())
}

impl Rows {
    fn write(&mut self, lines: &[Line], position: &Position) -> Result<u64, StoreError> {
        if self.positions.get(&*position.segment).copied().unwrap_or(0) != position.from {
            return Err(StoreError::Conflict("position".into()));
        }
        let poisoned = |line: &Line| matches!(line, Line::Record(row) if Some(row.path.as_str()) == self.poison);
        if lines.iter().any(poisoned) {
            return Err(StoreError::Conflict("poison".into()));
        }
        self.positions.insert(position.segment.to_string(), position.to);
        let before = self.records.len();
        for line in lines {
            match line {
                Line::Record(row) if self.records.contains_key(&row.id) => self.repeated += 1,
                Line::Record(row) => drop(self.records.insert(row.id, row.clone())),
                Line::Event(_) | Line::Charges(_) | Line::Gap(_) => {}
                Line::Amend(amendment) => {
                    if let Some(row) = self.records.get_mut(&amendment.id) {
                        row.usage = Some(amendment.usage);
                    }
                }
            }
        }
        Ok((self.records.len() - before) as u64)
    }
}

#[async_trait]
impl LedgerStore for Memory {
    async fn position(&self, segment: &str) -> Result<u64, StoreError> {
        Ok(self.call(|rows| rows.positions.get(segment).copied().unwrap_or(0)).await)
    }
    async fn write_batch(&self, lines: &[Line], position: &Position) -> Result<u64, StoreError> {
        let fault = self.faults.lock().unwrap().pop_front();
        match fault {
            None => self.call(|rows| rows.write(lines, position)).await,
            Some(Fault::Before) => Err(away()),
            Some(Fault::After) => self.call(|rows| rows.write(lines, position)).await.and(Err(away())),
        }
    }
    async fn sync(&self) -> Result<(), StoreError> {
        self.call(|rows| rows.syncs += 1).await;
        Ok(())
    }
    async fn segments(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.call(|rows| rows.positions.keys().cloned().collect()).await)
    }
    async fn forget(&self, segment: &str) -> Result<(), StoreError> {
        self.call(|rows| rows.positions.remove(segment)).await;
        Ok(())
    }
    async fn get(&self, id: ExchangeId) -> Result<Option<Record>, StoreError> {
        Ok(self.call(|rows| rows.records.get(&id).cloned()).await)
    }
    async fn find(&self, _: &Filter) -> Result<Page, StoreError> {
        Ok(Page { records: Vec::new(), next: None })
    }
    async fn end(&self) -> Result<Cursor, StoreError> {
        Ok(Cursor { started_at: Timestamp(0), number: 0 })
    }
    async fn summarize(&self, _: &Filter) -> Result<Summary, StoreError> {
        Ok(Summary::default())
    }
    async fn top(&self, _: &Filter, _: Group, _: usize) -> Result<Vec<Spender>, StoreError> {
        Ok(Vec::new())
    }
    async fn delete_before(&self, before: Timestamp, max_rows: u32) -> Result<u64, StoreError> {
        let mut rows = self.rows.lock().unwrap();
        rows.deletions.push(max_rows);
        let old: Vec<ExchangeId> = rows
            .records
            .values()
            .filter(|row| row.started_at < before)
            .map(|row| row.id)
            .take(max_rows as usize)
            .collect();
        old.iter().for_each(|id| drop(rows.records.remove(id)));
        Ok(old.len() as u64)
    }
}

/// A feeder at work.
struct Running {
    journal: Arc<Journal>,
    store: Arc<Memory>,
    handle: FeederHandle,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

const SETTINGS: FeederSettings = FeederSettings {
    batch_rows: 3,
    batch_delay: Duration::from_millis(1),
    sync_interval: Duration::from_millis(5),
    retention: None,
};

fn start(folder: &Path, store: Memory, settings: FeederSettings) -> Running {
    // A few records fill a segment, so that rotation and deletion take part.
    let bounds = JournalSettings { segment_bytes: 1_500, max_bytes: 64 << 20 };
    let journal = Arc::new(Journal::open(folder, bounds).unwrap());
    let store = Arc::new(store);
    let feeder = Feeder::new(journal.clone(), Takers::ledger_only(store.clone()), settings);
    let handle = feeder.handle();
    let (stop, stopped) = watch::channel(false);
    let task = task::spawn("feeder", feeder.run(stopped));
    Running { journal, store, handle, stop, task }
}

impl Running {
    fn append(&self, path: &str) -> ExchangeId {
        let record = record(path);
        let id = record.id;
        self.journal.append(&Line::Record(record)).unwrap();
        id
    }

    fn append_all(&self, paths: &[String]) {
        for path in paths {
            self.append(path);
        }
    }

    async fn stop(self) -> Arc<Memory> {
        self.stop.send_replace(true);
        self.task.await.unwrap();
        self.store
    }

    async fn until(&self, reached: impl FnMut(&FeederState) -> bool) -> FeederState {
        let mut state = self.handle.shared.state.subscribe();
        state.wait_for(reached).await.unwrap().clone()
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("/{n:03}")).collect()
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

/// Bytes in all files of the folder.
fn lines(folder: &Path) -> u64 {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test]
async fn each_record_is_stored_once_whichever_step_the_process_dies_at() {
    let all = names(12);
    let mut steps_survived = 0;
    for step in 0.. {
        for side in [Fault::Before, Fault::After] {
            let folder = tempfile::tempdir().unwrap();
            let dying = start(folder.path(), Memory { death: Some((step, side)), ..Memory::default() }, SETTINGS);
            dying.append_all(&all);
            let finished = tokio::select! {
                done = dying.handle.flush() => done.is_ok(),
                () = async { while dying.store.calls.load(Ordering::SeqCst) <= step { tokio::task::yield_now().await } } => false,
            };
            // The kernel frees the locks of a dead process; here they go with the segments, once no thread reads them.
            dying.task.abort();
            drop(dying.task.await);
            let segments: Vec<_> = dying.journal.queue().iter().map(Arc::downgrade).collect();
            drop((dying.journal, dying.handle));
            while segments.iter().any(|segment| segment.strong_count() > 0) {
                tokio::task::yield_now().await;
            }
            let rows = std::mem::take(&mut *dying.store.rows.lock().unwrap());

            let next = start(folder.path(), Memory { rows: Mutex::new(rows), ..Memory::default() }, SETTINGS);
            next.handle.flush().await.unwrap();
            let store = next.stop().await;
            assert_eq!(store.paths(), all, "died {side:?} step {step}");
            assert_eq!(store.repeated(), 0, "died {side:?} step {step}");
            steps_survived += u64::from(finished);
        }
        if steps_survived > 0 && step > 8 {
            return;
        }
        assert!(step < 200, "the feeder never finished");
    }
}

#[tokio::test]
async fn a_write_that_was_committed_but_reported_as_failed_is_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let store = Memory::default();
    *store.faults.lock().unwrap() = VecDeque::from([Fault::After, Fault::Before, Fault::After]);
    let running = start(folder.path(), store, SETTINGS);
    running.append_all(&names(10));
    running.handle.flush().await.unwrap();
    let store = running.stop().await;
    assert_eq!((store.paths(), store.repeated()), (names(10), 0));
}

#[tokio::test]
async fn a_database_that_goes_away_is_waited_for_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path(), Memory::default(), SETTINGS);
    running.append("/000");
    running.handle.flush().await.unwrap();
    assert_eq!(running.handle.state().away_since, None);

    running.store.faults.lock().unwrap().extend([Fault::Before; 3]);
    running.append_all(&names(9)[1..]);
    let state = running.until(|state| state.away_since.is_some()).await;
    assert!(state.error.unwrap().contains("unplugged"));
    assert!(running.journal.backlog_bytes() > 0 && running.journal.oldest_unfed().is_some());

    running.until(|state| state.away_since.is_none() && state.rows == 9).await;
    running.handle.flush().await.unwrap();
    assert_eq!(running.journal.backlog_bytes(), 0);
    assert_eq!(running.handle.state().error, None);
    let store = running.stop().await;
    assert_eq!((store.paths(), store.repeated()), (names(9), 0));
}

#[tokio::test]
async fn a_stop_stores_everything_and_leaves_an_empty_folder() {
    let folder = tempfile::tempdir().unwrap();
    let slow = FeederSettings { batch_delay: Duration::from_secs(3_600), ..SETTINGS };
    let running = start(folder.path(), Memory::default(), slow);
    running.append_all(&names(20));
    let store = running.stop().await;
    assert_eq!(store.paths(), names(20));
    assert_eq!(lines(folder.path()), 0);
    let rows = store.rows.lock().unwrap();
    // Segments were retired, each after the database was forced to the disk; only the last one's position may remain.
    assert!(rows.syncs > 0 && rows.positions.len() <= 1, "{:?}", rows.positions);
}

#[tokio::test]
async fn a_stop_while_the_database_is_away_leaves_the_journal_to_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let store = Memory::default();
    store.faults.lock().unwrap().extend([Fault::Before; 100]);
    let running = start(folder.path(), store, SETTINGS);
    running.append_all(&names(5));
    running.until(|state| state.away_since.is_some()).await;
    let handle = running.handle.clone();
    assert_eq!(running.stop().await.paths(), Vec::<String>::new());
    assert_eq!(handle.flush().await, Err(FeederEnded));
    drop(handle);
    assert!(files(folder.path()) > 0);

    let next = start(folder.path(), Memory::default(), SETTINGS);
    assert!(next.journal.backlog_bytes() > 0);
    next.handle.flush().await.unwrap();
    assert_eq!(next.stop().await.paths(), names(5));
}

#[tokio::test]
async fn a_row_that_the_database_refuses_is_skipped_and_those_beside_it_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = Memory::default();
    store.rows.lock().unwrap().poison = Some("/001");
    let running = start(folder.path(), store, SETTINGS);
    running.append_all(&names(6));
    running.handle.flush().await.unwrap();
    assert_eq!(running.handle.state().refused_lines, 1);
    assert_eq!(running.stop().await.paths(), ["/000", "/002", "/003", "/004", "/005"]);
}

#[tokio::test]
async fn damaged_lines_are_counted_and_do_not_block() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("0000000000000001-00000007-00000000.journal"), "\ndead beef\n\ntorn").unwrap();
    let running = start(folder.path(), Memory::default(), SETTINGS);
    running.append("/000");
    running.handle.flush().await.unwrap();
    let state = running.handle.state();
    assert_eq!((state.skipped_lines, state.rows), (2, 1));
    assert_eq!(files(folder.path()), 1, "the damaged segment is gone");
    running.stop().await;
}

#[tokio::test]
async fn an_amendment_reaches_its_record_and_one_without_a_record_is_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path(), Memory::default(), SETTINGS);
    let id = running.append("/000");
    let usage = Usage { output: 42, ..Usage::default() };
    for id in [ExchangeId::new(), id] {
        let amendment = Amendment {
            id,
            usage,
            usage_source: UsageSource::Estimated,
            cost: None,
            price: None,
            charges: Vec::new(),
            correction: None,
        };
        running.journal.append(&Line::Amend(amendment)).unwrap();
    }
    running.handle.flush().await.unwrap();
    assert_eq!(running.store.get(id).await.unwrap().unwrap().usage, Some(usage));
    assert_eq!(running.stop().await.paths(), ["/000"]);
}

#[tokio::test]
async fn whoever_follows_is_told_of_new_rows() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path(), Memory::default(), SETTINGS);
    let mut rows = running.handle.rows();
    assert_eq!(*rows.borrow_and_update(), 0);
    running.append("/000");
    rows.changed().await.unwrap();
    assert_eq!((*rows.borrow_and_update(), running.store.paths().len()), (1, 1));
    running.stop().await;
}

#[tokio::test]
async fn the_journal_of_a_process_that_dies_meanwhile_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let bounds = JournalSettings { segment_bytes: 1 << 20, max_bytes: 64 << 20 };
    let other = Journal::open(folder.path(), bounds).unwrap();
    other.append(&Line::Record(record("/other"))).unwrap();
    let journal = Arc::new(Journal::open(folder.path(), bounds).unwrap());
    let store = Arc::new(Memory::default());
    let feeder = Feeder::new(journal, Takers::ledger_only(store.clone()), SETTINGS);
    let mut outlet = Outlet::new(&feeder.shared, 0, false);
    outlet.pass().await.unwrap();
    assert_eq!(store.paths(), Vec::<String>::new());
    drop(other);
    feeder.adopt().await;
    outlet.pass().await.unwrap();
    assert_eq!(store.paths(), ["/other"]);
}

#[tokio::test]
async fn positions_of_segments_that_are_gone_are_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("0000000000000001-00000001-00000000.gone"), "").unwrap();
    let store = Memory::default();
    store.rows.lock().unwrap().positions.insert("0000000000000001-00000001-00000000.journal".to_owned(), 7);
    let elsewhere = "0000000000000001-00000002-00000000.journal";
    store.rows.lock().unwrap().positions.insert(elsewhere.to_owned(), 9);
    let running = start(folder.path(), store, SETTINGS);
    running.handle.flush().await.unwrap();
    // One of another folder, which this database also serves, is not touched.
    assert_eq!(running.store.rows.lock().unwrap().positions, HashMap::from([(elsewhere.to_owned(), 9)]));
    running.stop().await;
}

#[tokio::test]
async fn old_records_go_in_small_batches() {
    let folder = tempfile::tempdir().unwrap();
    let store = Memory::default();
    for n in 0..1_200 {
        let mut old = record("/old");
        old.started_at = Timestamp(n);
        store.rows.lock().unwrap().records.insert(old.id, old);
    }
    let mut young = record("/young");
    young.started_at = Timestamp::now();
    store.rows.lock().unwrap().records.insert(young.id, young);
    let settings = FeederSettings { retention: Some(Duration::from_secs(3_600)), ..SETTINGS };
    let running = start(folder.path(), store, settings);
    while running.store.paths().len() > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(running.store.rows.lock().unwrap().deletions, [500; 3]);
    assert_eq!(running.stop().await.paths(), ["/young"]);
}

mod several;

#[test]
fn pauses_between_attempts_grow_to_a_bound() {
    let mut retry = Retry::default();
    let pauses: Vec<u64> = (0..40).map(|_| retry.pause().as_millis() as u64).collect();
    assert!((50..=100).contains(&pauses[0]), "{pauses:?}");
    assert!(pauses.iter().skip(6).all(|pause| (2_500..=5_000).contains(pause)), "{pauses:?}");
}
