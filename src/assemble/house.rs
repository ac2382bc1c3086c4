//! The data folder and what lies in it: database, journal, hash key, the first tokens.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::config::DatabaseConfig;
use crate::config::load::Loaded;
use crate::key::admin::AdminTokenStore;
use crate::key::store::KeyStore;
use crate::key::token::HashKey;
use crate::store::{self, Address, Applied, Backend};
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
}

/// Opens the data folder, and makes what is missing: the folder (0700), the hash key (0600), the database.
///
/// # Errors
/// What cannot be made, read or reached, with its path or its setting.
pub async fn open(loaded: &Loaded) -> anyhow::Result<House> {
    let folder = loaded.config.data_dir.clone();
    make_folder(&folder)?;
    let address = address(loaded)?;
    let (store, applied) = store::open(&address).await.with_context(|| match &loaded.database_url {
        None => format!("cannot open the database in {}", folder.display()),
        Some(_) => "cannot open the database of database.url".to_owned(),
    })?;
    let hash_key = match &loaded.hash_key {
        Some(secret) => {
            HashKey::from_hex(secret).map_err(|error| anyhow::anyhow!("keys.hash_key: {}", error.text()))?
        }
        None => kept_hash_key(&folder.join("hash.key"), &*store).await?,
    };
    Ok(House { folder, store, applied, hash_key: Arc::new(hash_key) })
}

/// Where the store is.
///
/// # Errors
/// When the name of this node cannot be read or written.
pub fn address(loaded: &Loaded) -> anyhow::Result<Address> {
    let folder = &loaded.config.data_dir;
    let DatabaseConfig { url: _, listen_url: _, pooler, connections, connect_timeout_ms, call_timeout_ms } =
        loaded.config.database;
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
    let draft = path.with_extension(format!("{}.new", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(secret.expose().as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        match fs::hard_link(&draft, path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    };
    let written = write();
    let removed = fs::remove_file(&draft);
    written.and(removed).with_context(|| format!("cannot write {}", path.display()))
}
