use std::future::Future as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;

use sqlx::sqlite::LockedSqliteHandle;

use super::*;
use crate::key::store::KeyFilter;
use crate::ledger::Line;
use crate::ledger::journal::tests::record;
use crate::ledger::query::Position;
use crate::store::suite::keys::key;
use crate::store::suite::{Place, run_everywhere};

run_everywhere!(Place::sqlite());

#[tokio::test]
async fn the_database_is_for_the_owner_alone_even_if_it_was_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/data/marg.db");
    let store = Store::open(&path).await.unwrap();
    store.keys().insert(&key("a")).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    for file in std::fs::read_dir(path.parent().unwrap()).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
    store.close().await;
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let _store = Store::open(&path).await.unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn what_is_no_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("marg.db");
    std::fs::write(&path, "this is a letter, not a database, and it is long enough to look like one".repeat(100))
        .unwrap();
    assert!(matches!(Store::open(&path).await.err(), Some(StoreError::Corrupt(_))));
    assert!(matches!(Store::open("/proc/nowhere/marg.db").await.err(), Some(StoreError::Away(_))));
}

/// A key by its number.
async fn store_key(store: &Store, number: usize) -> Result<(), StoreError> {
    store.keys().insert(&key(&format!("key-{number:05}"))).await
}

/// How many keys have that number.
async fn keys_of(store: &Store, number: usize) -> u64 {
    let filter = KeyFilter { name: Some(format!("key-{number:05}")), ..KeyFilter::default() };
    store.keys().count(&filter).await.unwrap()
}

/// Does something to the writing connection's handle.
async fn on_writer(store: &Store, act: impl FnOnce(&mut LockedSqliteHandle<'_>)) {
    let mut writer = store.writer.acquire().await.unwrap();
    act(&mut writer.lock_handle().await.unwrap());
}

/// Says something to the writing connection alone.
async fn to_writer(store: &Store, statement: &'static str) {
    let _ = sqlx::raw_sql(statement).execute(&store.writer).await.unwrap();
}

#[tokio::test]
async fn after_a_full_disk_the_writer_writes_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("marg.db")).await.unwrap();
    // No page more than there are: SQLite says what it says of a full disk, and undoes the transaction by itself.
    to_writer(&store, "PRAGMA max_page_count = 1").await;
    let write = async |byte: u64| {
        let lines = [Line::Record(record("/x"))];
        store.write_batch(&lines, &Position { segment: "s".into(), from: byte, to: byte + 1 }).await
    };
    let mut byte = 0;
    let error = loop {
        match write(byte).await {
            Err(error) => break error,
            Ok(_) => byte += 1,
        }
        assert!(byte < 10_000, "the database never was full");
    };
    assert!(matches!(error, StoreError::Away(_)) && error.to_string().contains("full"), "{error}");
    to_writer(&store, "PRAGMA max_page_count = 100000").await;
    // Nothing of what failed is there, so it is written where it was to be written.
    for more in 0..100 {
        write(byte + more).await.unwrap();
    }
}

#[tokio::test]
async fn after_an_interrupted_statement_the_writer_writes_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("marg.db")).await.unwrap();
    // Lets the transaction begin, and then no statement come to its end.
    let steps = AtomicU32::new(0);
    let is_beginning = move || steps.fetch_add(1, Ordering::Relaxed) < 30;
    on_writer(&store, |handle| handle.set_progress_handler(1, is_beginning)).await;
    let error = store_key(&store, 1).await.unwrap_err();
    assert!(matches!(error, StoreError::Away(_)) && error.to_string().contains("interrupted"), "{error}");
    on_writer(&store, |handle| handle.remove_progress_handler()).await;
    store_key(&store, 2).await.unwrap();
    assert_eq!((keys_of(&store, 1).await, keys_of(&store, 2).await), (0, 1));
}

#[tokio::test]
async fn after_a_commit_that_was_undone_the_writer_writes_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("marg.db")).await.unwrap();
    on_writer(&store, |handle| handle.set_commit_hook(|| false)).await;
    store_key(&store, 1).await.unwrap_err();
    on_writer(&store, |handle| handle.remove_commit_hook()).await;
    store_key(&store, 2).await.unwrap();
    assert_eq!((keys_of(&store, 1).await, keys_of(&store, 2).await), (0, 1));
}

#[tokio::test]
async fn a_call_given_up_at_any_moment_leaves_the_writer_writing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("marg.db")).await.unwrap();
    for polls in 1..60 {
        let mut call = Box::pin(store_key(&store, 2 * polls));
        let mut left = polls;
        // Polled so often, and then dropped, wherever it is.
        let has_ended = std::future::poll_fn(|context| {
            left -= 1;
            match call.as_mut().poll(context) {
                Poll::Pending if left == 0 => Poll::Ready(false),
                polled => polled.map(|done| done.is_ok()),
            }
        })
        .await;
        drop(call);
        store_key(&store, 2 * polls + 1).await.unwrap();
        assert_eq!(keys_of(&store, 2 * polls + 1).await, 1);
        assert!(!has_ended || keys_of(&store, 2 * polls).await == 1);
    }
}

#[tokio::test]
async fn a_reader_whose_reading_was_undone_reads_what_is_new() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("marg.db")).await.unwrap();
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut reader = store.readers.acquire().await.unwrap();
        // What an undoing leaves behind that nobody asked for: sqlx counts a transaction that SQLite does not have.
        std::mem::forget(reader.begin_with("BEGIN").await.unwrap());
        let _ = sqlx::raw_sql("ROLLBACK").execute(&mut *reader).await.unwrap();
        readers.push(reader);
    }
    drop(readers);
    while store.readers.num_idle() < READERS as usize {
        tokio::task::yield_now().await;
    }
    let generation = store.keys().generation().await.unwrap();
    for number in 1..20 {
        store_key(&store, number).await.unwrap();
        let changes = store.keys().changed_after(generation).await.unwrap().unwrap();
        assert_eq!(changes.keys.len(), number);
    }
}

#[tokio::test]
async fn a_file_that_was_taken_away_is_away_until_it_is_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let (path, aside) = (folder.path().join("marg.db"), folder.path().join("aside.db"));
    let store = Store::open(&path).await.unwrap();
    store.keys().insert(&key("a")).await.unwrap();
    std::fs::rename(&path, &aside).unwrap();
    let is_away = |done: Option<StoreError>| matches!(done, Some(StoreError::Away(_)));
    for other in [false, true] {
        if other {
            std::fs::write(&path, "another file").unwrap();
        }
        assert!(is_away(store.keys().insert(&key("b")).await.err()));
        assert!(is_away(store.keys().generation().await.err()));
        assert!(is_away(store.ledger().sync().await.err()), "the journal must keep what it has");
    }
    std::fs::rename(&aside, &path).unwrap();
    store.keys().insert(&key("b")).await.unwrap();
    store.ledger().sync().await.unwrap();
    assert_eq!(store.keys().all().await.unwrap().len(), 2);
}
