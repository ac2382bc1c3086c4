//! Several takers: each gets every line once, at its own pace.

use super::*;

/// A consumer that adds up what it is given, and goes wrong on demand.
#[derive(Default)]
struct Counts {
    taken: Mutex<Taken>,
    is_away: watch::Sender<bool>,
    /// As [`Memory::death`], over the calls of both.
    calls: AtomicU64,
    death: Option<(u64, Fault)>,
    /// A record with this path is refused.
    poison: Option<&'static str>,
}

#[derive(Clone, Default)]
struct Taken {
    paths: Vec<String>,
    positions: HashMap<String, u64>,
    batches: u64,
    syncs: u64,
}

impl Counts {
    async fn call<T>(&self, effect: impl FnOnce(&mut Taken) -> T) -> Result<T, StoreError> {
        if *self.is_away.borrow() {
            return Err(away());
        }
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if self.death.is_some_and(|(last, side)| call > last || call == last && side == Fault::Before) {
            pending::<()>().await;
        }
        let done = effect(&mut self.taken.lock().unwrap());
        if self.death == Some((call, Fault::After)) {
            pending::<()>().await;
        }
        Ok(done)
    }

    fn paths(&self) -> Vec<String> {
        let mut paths = self.taken.lock().unwrap().paths.clone();
        paths.sort();
        paths
    }
}

#[async_trait]
impl Consumer for Counts {
    fn name(&self) -> &'static str {
        "counts"
    }
    async fn position(&self, segment: &str) -> Result<u64, StoreError> {
        self.call(|taken| taken.positions.get(segment).copied().unwrap_or(0)).await
    }
    async fn take(&self, lines: &[Line], position: &Position) -> Result<(), StoreError> {
        let poison = self.poison;
        self.call(|taken| {
            if taken.positions.get(&*position.segment).copied().unwrap_or(0) != position.from {
                return Err(StoreError::Conflict("position".into()));
            }
            let paths: Vec<String> = lines
                .iter()
                .filter_map(|line| match line {
                    Line::Record(record) => Some(record.path.clone()),
                    Line::Amend(_) | Line::Event(_) | Line::Charges(_) | Line::Gap(_) => None,
                })
                .collect();
            if paths.iter().any(|path| Some(path.as_str()) == poison) {
                return Err(StoreError::Conflict("poison".into()));
            }
            taken.paths.extend(paths);
            taken.batches += 1;
            taken.positions.insert(position.segment.to_string(), position.to);
            Ok(())
        })
        .await?
    }
    async fn sync(&self) -> Result<(), StoreError> {
        self.call(|taken| taken.syncs += 1).await
    }
    async fn segments(&self) -> Result<Vec<String>, StoreError> {
        self.call(|taken| taken.positions.keys().cloned().collect()).await
    }
    async fn forget(&self, segment: &str) -> Result<(), StoreError> {
        self.call(|taken| taken.positions.remove(segment)).await.map(|_| ())
    }
}

/// Remembers who is over, and fails as often as it is told to.
#[derive(Default)]
struct Owners {
    over: Mutex<Vec<String>>,
    failures: AtomicU64,
    told: Notify,
}

#[async_trait]
impl OwnerEnd for Owners {
    async fn owner_finished(&self, owner: &str) -> Result<(), StoreError> {
        let failing = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if failing.is_ok() {
            return Err(away());
        }
        self.over.lock().unwrap().push(owner.to_owned());
        self.told.notify_one();
        Ok(())
    }
}

fn start_all(folder: &Path, store: Memory, consumers: Vec<Arc<Counts>>, owners: Option<Arc<Owners>>) -> Running {
    let bounds = JournalSettings { segment_bytes: 1_500, max_bytes: 64 << 20 };
    let journal = Arc::new(Journal::open(folder, bounds).unwrap());
    let store = Arc::new(store);
    let takers = Takers {
        ledger: store.clone(),
        consumers: consumers.into_iter().map(|consumer| consumer as Arc<dyn Consumer>).collect(),
        owner_end: owners.map(|owners| owners as Arc<dyn OwnerEnd>),
    };
    let feeder = Feeder::new(journal.clone(), takers, SETTINGS);
    let handle = feeder.handle();
    let (stop, stopped) = watch::channel(false);
    let task = task::spawn("feeder", feeder.run(stopped));
    Running { journal, store, handle, stop, task }
}

/// Ends a feeder as a crash does: at once, wherever it is.
async fn die(running: Running) -> Arc<Memory> {
    running.task.abort();
    drop(running.task.await);
    let segments: Vec<_> = running.journal.queue().iter().map(Arc::downgrade).collect();
    drop((running.journal, running.handle));
    while segments.iter().any(|segment| segment.strong_count() > 0) {
        tokio::task::yield_now().await;
    }
    running.store
}

#[tokio::test]
async fn a_consumer_that_is_away_holds_nobody_up_and_gets_everything_once_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let (slow, good) = (Arc::new(Counts::default()), Arc::new(Counts::default()));
    slow.is_away.send_replace(true);
    let running = start_all(folder.path(), Memory::default(), vec![slow.clone(), good.clone()], None);
    running.append_all(&names(30));
    running.handle.flush().await.unwrap();
    while good.paths().len() < 30 {
        tokio::task::yield_now().await;
    }
    assert_eq!(running.store.paths(), names(30));
    let state = running.until(|state| state.consumers[0].away_since.is_some()).await;
    assert_eq!((state.away_since, state.consumers[1].away_since), (None, None));
    assert!(state.consumers[0].error.as_ref().unwrap().contains("unplugged"));
    assert!(lines(folder.path()) > 0, "its lines were let go");

    slow.is_away.send_replace(false);
    running.handle.flush_everywhere().await.unwrap();
    assert_eq!(running.handle.state().consumers[0].away_since, None);
    assert_eq!(running.journal.queue().len(), 1, "segments that all have passed stay");
    let store = running.stop().await;
    assert_eq!((store.paths(), store.repeated()), (names(30), 0));
    assert_eq!((slow.paths(), good.paths()), (names(30), names(30)));
    assert_eq!(lines(folder.path()), 0);
}

#[tokio::test]
async fn a_database_that_is_away_does_not_hold_up_the_consumers() {
    let folder = tempfile::tempdir().unwrap();
    let store = Memory::default();
    store.faults.lock().unwrap().extend([Fault::Before; 1_000]);
    let counts = Arc::new(Counts::default());
    let running = start_all(folder.path(), store, vec![counts.clone()], None);
    running.append_all(&names(20));
    while counts.paths().len() < 20 {
        tokio::task::yield_now().await;
    }
    assert_eq!(running.store.paths(), Vec::<String>::new());
    running.store.faults.lock().unwrap().clear();
    running.handle.flush_everywhere().await.unwrap();
    assert_eq!((running.store.paths(), counts.paths()), (names(20), names(20)));
    running.stop().await;
}

#[tokio::test]
async fn every_taker_gets_each_line_once_whichever_step_the_process_dies_at() {
    let all = names(8);
    for step in 0.. {
        let mut finished = true;
        for side in [Fault::Before, Fault::After] {
            let folder = tempfile::tempdir().unwrap();
            let counts = Arc::new(Counts { death: Some((step, side)), ..Counts::default() });
            let dying = start_all(folder.path(), Memory::default(), vec![counts.clone()], None);
            dying.append_all(&all);
            finished &= tokio::select! {
                done = dying.handle.flush_everywhere() => done.is_ok(),
                () = async { while counts.calls.load(Ordering::SeqCst) <= step { tokio::task::yield_now().await } } => false,
            };
            let store = die(dying).await;
            let rows = std::mem::take(&mut *store.rows.lock().unwrap());
            let taken = Mutex::new(counts.taken.lock().unwrap().clone());

            let counts = Arc::new(Counts { taken, ..Counts::default() });
            let next = start_all(
                folder.path(),
                Memory { rows: Mutex::new(rows), ..Memory::default() },
                vec![counts.clone()],
                None,
            );
            next.handle.flush_everywhere().await.unwrap();
            let store = next.stop().await;
            assert_eq!((store.paths(), counts.paths()), (all.clone(), all.clone()), "died {side:?} step {step}");
            assert_eq!(store.repeated(), 0);
        }
        if finished && step > 8 {
            return;
        }
        assert!(step < 200, "the feeder never finished");
    }
}

#[tokio::test]
async fn a_line_that_a_consumer_refuses_is_skipped_for_that_consumer_alone() {
    let folder = tempfile::tempdir().unwrap();
    let counts = Arc::new(Counts { poison: Some("/001"), ..Counts::default() });
    let running = start_all(folder.path(), Memory::default(), vec![counts.clone()], None);
    running.append_all(&names(5));
    running.handle.flush_everywhere().await.unwrap();
    assert_eq!(running.handle.state().refused_lines, 1);
    assert_eq!(running.stop().await.paths(), names(5));
    assert_eq!(counts.paths(), ["/000", "/002", "/003", "/004"]);
}

#[tokio::test]
async fn takers_at_the_same_place_share_what_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let journal =
        Journal::open(folder.path(), JournalSettings { segment_bytes: 1 << 20, max_bytes: 64 << 20 }).unwrap();
    journal.append(&Line::Record(record("/000"))).unwrap();
    let segment = journal.queue().pop().unwrap();
    let pieces = Pieces::new(3);
    let (one, two) = tokio::join!(pieces.read(&segment, 0, 9), pieces.read(&segment, 0, 9));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert!(Arc::ptr_eq(&one, &two) && one.lines.len() == 1);
    assert!(pieces.read(&segment, one.end, 9).await.unwrap().lines.is_empty());
    journal.append(&Line::Record(record("/001"))).unwrap();
    assert_eq!(pieces.read(&segment, one.end, 9).await.unwrap().lines.len(), 1, "the end is read anew");
}

#[tokio::test]
async fn a_dead_owner_is_over_only_when_everybody_has_its_lines() {
    let folder = tempfile::tempdir().unwrap();
    let bounds = JournalSettings { segment_bytes: 600, max_bytes: 64 << 20 };
    let dead = Journal::open(folder.path(), bounds).unwrap();
    let owner = dead.owner();
    for name in names(9) {
        dead.append(&Line::Record(record(&name))).unwrap();
    }
    drop(dead);

    let (counts, owners) = (Arc::new(Counts::default()), Arc::new(Owners::default()));
    counts.is_away.send_replace(true);
    owners.failures.store(2, Ordering::SeqCst);
    let running = start_all(folder.path(), Memory::default(), vec![counts.clone()], Some(owners.clone()));
    running.handle.flush().await.unwrap();
    running.until(|state| state.consumers[0].away_since.is_some()).await;
    assert!(owners.over.lock().unwrap().is_empty(), "told before its charges were applied");

    counts.is_away.send_replace(false);
    owners.told.notified().await;
    assert_eq!(counts.paths(), names(9));
    assert_eq!(*owners.over.lock().unwrap(), std::slice::from_ref(&owner), "told more than once after it was heard");
    running.handle.flush_everywhere().await.unwrap();

    let own = running.journal.owner();
    running.stop().await;
    assert_eq!(*owners.over.lock().unwrap(), [owner, own], "a clean stop ends this process too");
    assert_eq!(lines(folder.path()), 0);
}

#[tokio::test]
async fn an_owner_that_could_not_be_ended_at_a_stop_is_ended_by_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let owners = Arc::new(Owners::default());
    owners.failures.store(1_000, Ordering::SeqCst);
    let running = start_all(folder.path(), Memory::default(), Vec::new(), Some(owners.clone()));
    let first = running.journal.owner();
    running.append("/000");
    running.stop().await;
    assert!(owners.over.lock().unwrap().is_empty());

    owners.failures.store(0, Ordering::SeqCst);
    let next = start_all(folder.path(), Memory::default(), Vec::new(), Some(owners.clone()));
    owners.told.notified().await;
    assert_eq!(*owners.over.lock().unwrap(), [first]);
    drop(next);
}

#[tokio::test]
async fn a_process_that_died_without_a_line_is_over_too() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("0000000000000001-00000007-00000000.journal"), "").unwrap();
    let owners = Arc::new(Owners::default());
    let running = start_all(folder.path(), Memory::default(), Vec::new(), Some(owners.clone()));
    owners.told.notified().await;
    assert_eq!(*owners.over.lock().unwrap(), ["0000000000000001-00000007"]);
    running.stop().await;
}

#[tokio::test]
async fn a_consumer_that_forgot_what_it_took_is_fed_again_before_a_segment_goes() {
    let folder = tempfile::tempdir().unwrap();
    let store = Memory::default();
    store.faults.lock().unwrap().extend([Fault::Before; 1_000]);
    let counts = Arc::new(Counts::default());
    let running = start_all(folder.path(), store, vec![counts.clone()], None);
    running.append_all(&names(12));
    // It has passed all finished segments, which wait for the database.
    while counts.paths().len() < 12 || counts.taken.lock().unwrap().syncs == 0 {
        tokio::task::yield_now().await;
    }
    *counts.taken.lock().unwrap() = Taken::default();
    running.store.faults.lock().unwrap().clear();
    while counts.paths().len() < 12 {
        running.append("/later");
        running.handle.flush_everywhere().await.unwrap();
    }
    let mut paths = counts.paths();
    paths.retain(|path| path != "/later");
    assert_eq!(paths.len(), paths.iter().collect::<std::collections::BTreeSet<_>>().len(), "given twice");
    running.stop().await;
}
