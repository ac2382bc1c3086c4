use super::*;
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
