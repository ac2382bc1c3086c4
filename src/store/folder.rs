//! The data folder: which files are in it, with which modes, and the key that token hashes are keyed with.
//!
//! The folder has mode 0700 and every file in it 0600. The hash key is made once, completely or not at all, whatever number
//! of processes start at the same time. Where a database is but no hash key, none is made: with another key every stored
//! token would be unknown, so somebody must bring the file back.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::key::token::HashKey;
use crate::unit::id;
use crate::unit::secret::Secret;

/// A data folder that exists.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Opens the folder, making it with mode 0700 if it is not there.
    ///
    /// # Errors
    /// `unavailable` when it cannot be made or is not a folder.
    pub fn open(path: &Path) -> Result<Self> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|cause| away(path, "cannot be made", cause))?;
        Ok(Self(path.to_owned()))
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.0.join("marg.db")
    }

    /// The folder of the journal.
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    /// The first admin token, for whoever set the gateway up.
    pub fn admin_token(&self) -> PathBuf {
        self.0.join("admin.token")
    }

    /// The file of the hash key.
    pub fn hash_key_file(&self) -> PathBuf {
        self.0.join("hash.key")
    }

    /// The hash key: the configured one, else the one of this folder, made if there is none and nothing was hashed yet.
    ///
    /// # Errors
    /// `invalid_request` when the key is not 64 hexadecimal digits; `unavailable` when its file cannot be read or made, or is
    /// missing beside a database.
    pub fn hash_key(&self, configured: Option<&Secret>) -> Result<HashKey> {
        if let Some(secret) = configured {
            return HashKey::from_hex(secret);
        }
        let path = self.hash_key_file();
        match fs::read_to_string(&path) {
            Ok(text) => HashKey::from_hex(&Secret::new(text)),
            Err(cause) if cause.kind() != ErrorKind::NotFound => Err(away(&path, "cannot be read", cause)),
            Err(_) if self.database().exists() => {
                let text = format!(
                    "{} is missing beside a database; bring it back, or set keys.hash_key: without it every stored token is \
                     unknown",
                    path.display()
                );
                Err(Error::new(Kind::Unavailable, text))
            }
            Err(_) => self.make_hash_key(&path),
        }
    }

    fn make_hash_key(&self, path: &Path) -> Result<HashKey> {
        let hex = HashKey::generate()?.to_hex();
        write_once(path, &format!("{}\n", hex.expose())).map_err(|cause| away(path, "cannot be made", cause))?;
        // Another process may have been first; what the file holds is the key.
        let text = fs::read_to_string(path).map_err(|cause| away(path, "cannot be read", cause))?;
        HashKey::from_hex(&Secret::new(text))
    }
}

/// Writes a new file with mode 0600, completely or not at all. Whether it was made; a file that is there already stays as it is.
///
/// # Errors
/// Those of the file system.
pub fn write_once(path: &Path, text: &str) -> io::Result<bool> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let draft = folder.join(format!(".{}", id::mint("draft")));
    let written = write(&draft, text).and_then(|()| match fs::hard_link(&draft, path) {
        Ok(()) => Ok(true),
        Err(there) if there.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    });
    let removed = fs::remove_file(&draft);
    let made = written?;
    removed?;
    fs::File::open(folder)?.sync_all()?;
    Ok(made)
}

/// Writes a file with mode 0600 in the place of one that may be there, completely or not at all.
///
/// # Errors
/// Those of the file system.
pub fn write_over(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let draft = folder.join(format!(".{}", id::mint("draft")));
    let written = write(&draft, text).and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        // The first error is the one to tell; a draft that stays behind harms nothing.
        drop(fs::remove_file(&draft));
    }
    written?;
    fs::File::open(folder)?.sync_all()
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn away(path: &Path, what: &str, cause: io::Error) -> Error {
    Error::new(Kind::Unavailable, format!("{} {what}: {cause}", path.display())).because(cause)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_missing_hash_key_beside_a_database_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        fs::write(folder.database(), "").unwrap();
        assert_eq!(folder.hash_key(None).unwrap_err().kind(), Kind::Unavailable);
        assert!(!folder.hash_key_file().exists());
    }

    #[test]
    fn the_hash_key_is_made_once_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(&dir.path().join("a/b")).unwrap();
        let keys: Vec<HashKey> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| folder.hash_key(None).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| key.hash("token") == keys[0].hash("token")));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.hash_key_file()), 0o600);
        assert_eq!(mode(&dir.path().join("a/b")), 0o700);
        assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 1, "no draft stays behind");
    }

    #[test]
    fn a_configured_key_wins_and_makes_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        assert!(folder.hash_key(Some(&Secret::new("xy"))).is_err());
        folder.hash_key(Some(&Secret::new("ab".repeat(32)))).unwrap();
        assert!(!folder.hash_key_file().exists());
    }
}
