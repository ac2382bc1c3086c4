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
