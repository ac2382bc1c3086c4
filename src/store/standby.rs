//! What a process knew, kept beside it for a start while the database is away.
//!
//! A snapshot is a SQLite file with the rows that a gateway holds in memory: keys and admin tokens as hashes, orgs, teams and
//! users, routes, limits, prices. No request, no counter, no journal position: those stay where they are. It is written beside
//! the one before and takes its place whole, so there is always one that can be read. Its name is made of the database's host
//! and name, so that it is never taken for another database's; credentials are no part of it. File mode 0600.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::copy::{BATCH, TABLES, Table};
use super::{Address, Backend, sqlite};
use crate::budget::limit::Limit;
use crate::budget::store::LimitStore;
use crate::catalog::stored::StoredPrice;
use crate::error::StoreError;
use crate::key::Key;
use crate::key::admin::{AdminToken, AdminTokenStore};
use crate::key::party::{Party, PartyStore};
use crate::key::store::KeyStore;
use crate::route::store::{RouteStore, StoredRoute};
use crate::unit::clock::Timestamp;

/// What of a store is in a snapshot.
const KEPT: &[&str] = &["app_key", "admin_token", "party", "stored_route", "spend_limit", "stored_price"];
/// How often a snapshot is begun again because somebody wrote meanwhile. Each row is whole in any case; the last try counts.
const TRIES: usize = 3;

/// Everything that a gateway holds in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// All keys; of tokens only their hashes.
    pub keys: Vec<Arc<Key>>,
    /// Orgs, teams and users that have a row.
    pub parties: Vec<Party>,
    /// Admin tokens; only their hashes.
    pub admin_tokens: Vec<AdminToken>,
    /// Stored routes by position.
    pub routes: Vec<StoredRoute>,
    /// Stored limits.
    pub limits: Vec<Limit>,
    /// Stored prices.
    pub prices: Vec<StoredPrice>,
}

impl Known {
    /// Reads all of it from a store.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn read(store: &dyn Backend) -> Result<Self, StoreError> {
        Ok(Self {
            keys: KeyStore::all(store).await?,
            parties: PartyStore::list(store, None).await?,
            admin_tokens: AdminTokenStore::all(store).await?,
            routes: RouteStore::list(store).await?,
            limits: LimitStore::list(store).await?,
            prices: store.prices().await?,
        })
    }
}

/// Where the snapshot of that database is in a data folder.
pub fn file(folder: &Path, address: &Address) -> PathBuf {
    let url = address.url.expose();
    let place = url.split('?').next().unwrap_or_default();
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    let name = blake3::hash(place.as_bytes()).to_hex();
    folder.join(format!("snapshot-{}.db", name.get(..16).unwrap_or_default()))
}

/// Writes a snapshot of a store to a file, in the place of the one before. Costs about a kilobyte for each key.
///
/// # Errors
/// Those of the store; [`StoreError::Away`] when the file cannot be written. The one before stays then, and nothing else.
pub async fn keep(from: &dyn Backend, path: &Path) -> Result<(), StoreError> {
    let draft = path.with_extension("new");
    let kept = replace(from, &draft, path).await;
    if kept.is_err() {
        // A part of it would only fill a disk further that is full. What goes wrong with this is not what is told.
        drop(remove(&draft));
    }
    kept
}

async fn replace(from: &dyn Backend, draft: &Path, path: &Path) -> Result<(), StoreError> {
    for tried in 1..=TRIES {
        let before = from.generation().await?;
        remove(draft).map_err(unwritable)?;
        let target = sqlite::Store::open(draft).await?;
        let copied = copy(from, &target).await;
        target.close().await;
        copied?;
        if tried == TRIES || from.generation().await? == before {
            break;
        }
    }
    put_in_place(draft, path).map_err(unwritable)
}

async fn copy(from: &dyn Backend, to: &sqlite::Store) -> Result<(), StoreError> {
    let kept = |table: &&Table| KEPT.contains(&table.name);
    for table in TABLES.iter().filter(kept) {
        let mut after = None;
        loop {
            let rows = from.rows().read(table, after.as_deref(), BATCH).await?;
            let Some(last) = rows.last() else { break };
            after = last.get(..table.key).map(<[_]>::to_vec);
            Backend::rows(to).add(table, &rows).await?;
        }
    }
    Ok(())
}

/// Reads a snapshot, and says when it was taken; `None` if there is none.
///
/// # Errors
/// When it is there but cannot be read.
pub async fn read(path: &Path) -> Result<Option<(Known, Timestamp)>, StoreError> {
    let taken_at = match fs::metadata(path).and_then(|found| found.modified()) {
        Ok(time) => time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default(),
        Err(missing) if missing.kind() == ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(StoreError::Away(Box::new(cause))),
    };
    let store = sqlite::Store::open(path).await?;
    let known = Known::read(&store).await;
    store.close().await;
    Ok(Some((known?, Timestamp(i64::try_from(taken_at.as_micros()).unwrap_or(i64::MAX)))))
}

/// The file and what SQLite keeps beside it.
fn parts(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|end| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    })
}

fn remove(path: &Path) -> std::io::Result<()> {
    parts(path).iter().try_for_each(|part| match fs::remove_file(part) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    })
}

fn put_in_place(draft: &Path, path: &Path) -> std::io::Result<()> {
    File::open(draft)?.sync_all()?;
    let [_, wal, shm] = parts(path);
    // What a process that died has left beside the old file must not be read into the new one.
    for left in [wal, shm] {
        match fs::remove_file(left) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(draft, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn unwritable(cause: std::io::Error) -> StoreError {
    StoreError::Away(format!("the snapshot cannot be written: {}", cause.kind()).into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::open;
    use crate::store::suite::Place;
    use crate::store::suite::keys::{key, route};
    use crate::unit::secret::Secret;

    #[tokio::test]
    async fn a_snapshot_holds_what_a_gateway_knows_and_takes_the_place_of_the_one_before() {
        let place = Place::postgres();
        let (store, path) = (place.open().await, file(place.folder.path(), &place.address));
        assert_eq!(read(&path).await.unwrap(), None);
        KeyStore::insert(&*store, &key("a")).await.unwrap();
        RouteStore::insert(&*store, &route("r", 0)).await.unwrap();
        keep(&*store, &path).await.unwrap();
        KeyStore::insert(&*store, &key("b")).await.unwrap();
        keep(&*store, &path).await.unwrap();
        let (mut known, taken_at) = read(&path).await.unwrap().unwrap();
        let mut expected = Known::read(&*store).await.unwrap();
        for known in [&mut known, &mut expected] {
            known.keys.sort_by(|a, b| a.id.cmp(&b.id));
        }
        assert_eq!((known.keys.len(), known.routes.len()), (2, 1));
        assert_eq!(known, expected);
        assert!(taken_at.plus(std::time::Duration::from_secs(60)) > Timestamp::now());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let left: Vec<_> = fs::read_dir(place.folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [path], "nothing else stays behind");
    }

    #[tokio::test]
    async fn a_snapshot_that_cannot_be_made_leaves_the_one_before() {
        let place = Place::postgres();
        let (store, path) = (place.open().await, file(place.folder.path(), &place.address));
        keep(&*store, &path).await.unwrap();
        let before = fs::read(&path).unwrap();
        // Where a folder has its name it cannot be put in place.
        let blocked = place.folder.path().join("blocked.db");
        fs::create_dir_all(blocked.join("x")).unwrap();
        assert!(matches!(keep(&*store, &blocked).await, Err(StoreError::Away(_))));
        store.close().await;
        assert!(matches!(keep(&*store, &path).await, Err(StoreError::Away(_))));
        assert_eq!(fs::read(&path).unwrap(), before);
        let mut left: Vec<_> = fs::read_dir(place.folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        left.sort();
        assert_eq!(left, [blocked, path], "no draft stays behind");
    }

    #[test]
    fn the_name_follows_the_database_and_not_the_credentials() {
        let named = |url: &str| {
            let path = file(Path::new("/d"), &Address::of(Secret::new(url), String::new()));
            path.file_name().unwrap().to_owned()
        };
        let one = named("postgres://marg:secret@db:5432/marg?sslmode=require");
        assert_eq!(one, named("postgres://other:p%40ss@db:5432/marg"));
        assert_ne!(one, named("postgres://marg:secret@db:5432/other"));
        assert!(!one.to_string_lossy().contains("db:"));
    }

    #[tokio::test]
    async fn a_database_that_comes_later_is_away_until_it_is_there_and_then_works() {
        let place = Place::postgres();
        let later = crate::store::open_later(&place.address).unwrap().unwrap();
        assert!(matches!(KeyStore::all(&*later).await, Err(StoreError::Away(_))));
        assert!(later.counters().beat("o").await.is_err());
        assert!(!later.arrive().await.unwrap().is_empty(), "the schema is made when it arrives");
        assert_eq!(later.arrive().await.unwrap(), []);
        KeyStore::insert(&*later, &key("a")).await.unwrap();
        assert!(later.counters().beat("o").await.is_ok());
        assert!(crate::store::open_later(&Address::sqlite("/nowhere/x.db")).unwrap().is_none());
        drop(open(&place.address).await.unwrap());
    }
}
