//! The data folder and what lies in it: database, journal, hash key, the first tokens.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::config::load::Loaded;
use crate::config::{AwayAtStart, DatabaseConfig};
use crate::error::StoreError;
use crate::key::admin::AdminTokenStore;
use crate::key::ring::Ring;
use crate::key::store::KeyStore;
use crate::key::token::HashKey;
use crate::store::standby::{self, Known};
use crate::store::{self, Address, Applied, Backend};
use crate::unit::clock::Timestamp;
use crate::unit::file;
use crate::unit::id::mint;
use crate::unit::secret::Secret;

/// The data folder, opened.
pub struct House {
    /// The folder.
    pub folder: PathBuf,
    /// The database, migrated.
    pub store: Arc<dyn Backend>,
    /// The steps that its schema has just gone.
    pub applied: Vec<Applied>,
    /// What token hashes are keyed with.
    pub hash_key: Arc<HashKey>,
    /// Where the snapshot is, if the database may be away.
    pub snapshot: Option<PathBuf>,
}

impl House {
    /// Lets suspensions that the database does not have yet lie in the folder, and lays those that are there over the keys.
    ///
    /// # Errors
    /// When they cannot be looked for.
    pub fn keep_suspensions(&self, ring: &Ring) -> anyhow::Result<()> {
        let folder = self.folder.join("suspensions");
        ring.keep_suspensions_in(&folder)
            .with_context(|| format!("cannot read the suspensions in {}", folder.display()))
    }
}

/// How often a start that waits for the database looks for it.
const WAIT: Duration = Duration::from_secs(2);

/// Opens the data folder, and makes what is missing: the folder (0700), the hash key (0600), the database.
///
/// # Errors
/// What cannot be made, read or reached, with its path or its setting.
pub async fn open(loaded: &Loaded) -> anyhow::Result<House> {
    make_folder(&loaded.config.data_dir)?;
    let address = address(loaded)?;
    let (store, applied) = store::open(&address).await.with_context(|| unopened(loaded))?;
    furnish(loaded, &address, store, applied).await
}

/// A data folder that a gateway starts from.
pub struct Opened {
    /// It.
    pub house: House,
    /// What the database holds, or held when the snapshot was taken.
    pub known: Known,
    /// The generation of the database before that was read; `None` of a snapshot.
    pub generation: Option<u64>,
    /// When that snapshot was taken; `None` if the database is there.
    pub living_on: Option<Timestamp>,
}

/// Opens the data folder as [`open`] does, and reads what a gateway holds in memory. While a database that is no file cannot be
/// reached, that comes from the snapshot in the folder; `database.away_at_start` says what happens without one.
///
/// # Errors
/// As for [`open`].
pub async fn open_or_stand_by(loaded: &Loaded) -> anyhow::Result<Opened> {
    make_folder(&loaded.config.data_dir)?;
    let address = address(loaded)?;
    loop {
        let cause = match store::open(&address).await {
            Ok((store, applied)) => {
                let house = furnish(loaded, &address, store, applied).await?;
                let (known, generation) = read(&*house.store).await.context("cannot read what the database holds")?;
                return Ok(Opened { house, known, generation: Some(generation), living_on: None });
            }
            Err(cause @ StoreError::Away(_)) => cause,
            Err(cause) => return Err(cause).with_context(|| unopened(loaded)),
        };
        let setting = loaded.config.database.away_at_start;
        let later = store::open_later(&address).with_context(|| unopened(loaded))?;
        let Some(store) = later.filter(|_| setting != AwayAtStart::Refuse) else {
            return Err(cause).with_context(|| unopened(loaded));
        };
        if let Some((known, taken_at)) = remembered(&standby::file(&loaded.config.data_dir, &address)).await {
            tracing::error!(
                %cause, snapshot = taken_at.rfc3339(), keys = known.keys.len(),
                "the database cannot be reached; this process starts from its snapshot: what was changed since is not known \
                 here, unknown keys get 503, and nothing can be changed until the database is there"
            );
            let house = furnish(loaded, &address, store, Vec::new()).await?;
            return Ok(Opened { house, known, generation: None, living_on: Some(taken_at) });
        }
        if setting == AwayAtStart::Snapshot {
            let text = format!(
                "there is no snapshot in {} to start from: one is written while a gateway runs. Start it once while the \
                 database is there, or let it wait with database.away_at_start: wait",
                loaded.config.data_dir.display()
            );
            return Err(anyhow::Error::new(cause).context(text).context(unopened(loaded)));
        }
        tracing::error!(%cause, "the database cannot be reached, and there is no snapshot; waiting (database.away_at_start)");
        tokio::time::sleep(WAIT).await;
    }
}

/// All that is held in memory, and a generation that it is at least as new as.
async fn read(store: &dyn Backend) -> Result<(Known, u64), StoreError> {
    let generation = store.generation().await?;
    Ok((Known::read(store).await?, generation))
}

/// The snapshot, if there is one that can be read.
async fn remembered(path: &Path) -> Option<(Known, Timestamp)> {
    standby::read(path).await.unwrap_or_else(|error| {
        tracing::error!(%error, path = %path.display(), "the snapshot cannot be read");
        None
    })
}

fn unopened(loaded: &Loaded) -> String {
    match &loaded.database_url {
        None => format!("cannot open the database in {}", loaded.config.data_dir.display()),
        Some(_) => "cannot open the database of database.url".to_owned(),
    }
}

/// What else is in the folder.
async fn furnish(
    loaded: &Loaded,
    address: &Address,
    store: Arc<dyn Backend>,
    applied: Vec<Applied>,
) -> anyhow::Result<House> {
    let folder = loaded.config.data_dir.clone();
    let hash_key = match &loaded.hash_key {
        Some(secret) => {
            HashKey::from_hex(secret).map_err(|error| anyhow::anyhow!("keys.hash_key: {}", error.text()))?
        }
        None => kept_hash_key(&folder.join("hash.key"), &*store).await?,
    };
    let snapshot = (!address.is_file()).then(|| standby::file(&folder, address));
    Ok(House { folder, store, applied, hash_key: Arc::new(hash_key), snapshot })
}

/// Where the store is.
///
/// # Errors
/// When the name of this node cannot be read or written.
pub fn address(loaded: &Loaded) -> anyhow::Result<Address> {
    let folder = &loaded.config.data_dir;
    let DatabaseConfig {
        url: _,
        listen_url: _,
        pooler,
        connections,
        connect_timeout_ms,
        call_timeout_ms,
        away_at_start: _,
    } = loaded.config.database;
    let node = node(&folder.join("node.id"))?;
    let usual = Address::sqlite(folder.join("marg.db"));
    Ok(Address {
        url: loaded.database_url.clone().unwrap_or(usual.url),
        listen_url: loaded.listen_url.clone(),
        pooler,
        connections,
        connect_timeout: Duration::from_millis(connect_timeout_ms),
        call_timeout: Duration::from_millis(call_timeout_ms),
        node,
    })
}

/// The name of this data folder among those that share a database; made once.
fn node(path: &Path) -> anyhow::Result<String> {
    if read_secret(path)?.is_none() {
        write_secret(path, &Secret::new(mint("node")))?;
    }
    // Another process may have been quicker: what lies there now is the name.
    let kept = read_secret(path)?.context("the name of the node vanished while it was made")?;
    Ok(kept.expose().to_owned())
}

fn make_folder(folder: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("cannot make the data folder {}", folder.display()))?;
    let metadata = fs::metadata(folder).with_context(|| format!("cannot read the data folder {}", folder.display()))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(folder = %folder.display(), "other users may enter the data folder; chmod 0700 it");
    }
    Ok(())
}

/// Makes the data folder if it is missing, and waits until no other process holds what this gives: what is looked for and then
/// made once, such as the first token, is not made twice. Where the file system knows no locks there is no waiting.
///
/// # Errors
/// When the folder cannot be made or opened.
pub fn alone(folder: &Path) -> anyhow::Result<fs::File> {
    make_folder(folder)?;
    let held = fs::File::open(folder).with_context(|| format!("cannot open the data folder {}", folder.display()))?;
    if let Err(error) = held.lock() {
        tracing::debug!(%error, "the data folder cannot be locked");
    }
    Ok(held)
}

async fn kept_hash_key(path: &Path, store: &dyn Backend) -> anyhow::Result<HashKey> {
    match read_secret(path)? {
        Some(secret) => {
            HashKey::from_hex(&secret).map_err(|error| anyhow::anyhow!("{}: {}", path.display(), error.text()))
        }
        None => {
            let used = !KeyStore::all(store).await?.is_empty() || !AdminTokenStore::all(store).await?.is_empty();
            anyhow::ensure!(
                !used,
                "{} is missing, but the database holds keys that were hashed with it; put the file back, or name its content in \
                 keys.hash_key – a new one would make every key unknown",
                path.display()
            );
            let key = HashKey::generate().map_err(|error| anyhow::anyhow!("{}", error.text()))?;
            write_secret(path, &key.to_hex())?;
            // Another process may have been quicker: what lies there now is the key.
            let kept = read_secret(path)?.context("the hash key vanished while it was made")?;
            HashKey::from_hex(&kept).map_err(|error| anyhow::anyhow!("{}: {}", path.display(), error.text()))
        }
    }
}

/// The content of a secret file without its trailing line end; `None` if there is no such file.
///
/// # Errors
/// When the file is there but cannot be read.
pub fn read_secret(path: &Path) -> anyhow::Result<Option<Secret>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(Secret::new(text.trim_end_matches(['\n', '\r'])))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes a secret file with mode 0600, unless there is one already; a reader never sees half of it.
///
/// # Errors
/// When the file cannot be written.
pub fn write_secret(path: &Path, secret: &Secret) -> anyhow::Result<()> {
    let text = Secret::new(format!("{}\n", secret.expose()));
    file::create(path, text.expose().as_bytes(), 0o600).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}
