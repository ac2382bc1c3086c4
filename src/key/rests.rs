//! Suspensions that the store does not have yet, as files in the data folder: one for each key.
//!
//! A policy that suspends a key must hold while the database is away, and after a restart as well. So the suspension is on the
//! disk before the call that brought it about is answered, and its file goes only when the store has it
//! (`a_suspension_outlives_the_process_while_postgres_is_away`). A file that cannot be read suspends its key until an operator
//! releases it: damage never widens access. There are at most as many files as keys.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Suspension;
use crate::unit::file;

const SUFFIX: &str = ".json";
/// No file is larger than this; a reason is a policy's `@reason`.
const MAX_BYTES: u64 = 64 * 1024;

/// Keys' ids and their suspensions, in no particular order.
pub type Kept = Vec<(Arc<str>, Suspension)>;

/// The folder of these files. Other processes may use it at the same time.
#[derive(Debug)]
pub struct Rests(PathBuf);

impl Rests {
    /// Makes the folder if it is missing, for its owner only, and reads what is in it.
    ///
    /// # Errors
    /// When the folder cannot be made or listed.
    pub fn open(folder: &Path) -> io::Result<(Self, Kept)> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut all = Vec::new();
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name();
            let Some(key) = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)).filter(|key| is_plain(key)) else {
                continue;
            };
            match read(&folder.join(&name)) {
                Ok(Some(rest)) => all.push((key.into(), rest)),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%error, key, "the file of a suspension cannot be read; the key rests until it is released");
                    let reason = "the file that says why it is suspended cannot be read".into();
                    all.push((key.into(), Suspension { until: None, reason }));
                }
            }
        }
        Ok((Self(folder.to_owned()), all))
    }

    /// Writes the suspension of a key, in place of an earlier one; it is on the disk when this returns. A few milliseconds.
    ///
    /// # Errors
    /// Those of the system, and [`ErrorKind::InvalidInput`] for an id that is no name of a file.
    pub fn keep(&self, key: &str, rest: &Suspension) -> io::Result<()> {
        if !is_plain(key) {
            return Err(io::Error::new(ErrorKind::InvalidInput, "the key's id is no name of a file"));
        }
        file::replace(&self.path(key), &serde_json::to_vec(rest)?, 0o600)
    }

    /// Forgets the suspension of a key, if it is still that one; any, for `None`.
    ///
    /// # Errors
    /// Those of the system. The suspension would be stored again by the next start.
    pub fn forget(&self, key: &str, rest: Option<&Suspension>) -> io::Result<()> {
        let path = self.path(key);
        // Another process on this folder may have written a later one.
        let is_other = |rest: &Suspension| matches!(read(&path), Ok(Some(kept)) if kept != *rest);
        if !is_plain(key) || rest.is_some_and(is_other) {
            return Ok(());
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.0.join(format!("{key}{SUFFIX}"))
    }
}

/// Whether a text is safe as the name of a file. Ids of keys are.
fn is_plain(key: &str) -> bool {
    (1..=64).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The suspension in a file; `None` if the file is gone.
fn read(path: &Path) -> io::Result<Option<Suspension>> {
    let length = match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        metadata => metadata?.len(),
    };
    if length > MAX_BYTES {
        return Err(io::Error::new(ErrorKind::InvalidData, "the file is too large"));
    }
    Ok(Some(serde_json::from_slice(&fs::read(path)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::clock::Timestamp;

    fn rest(until: Option<i64>) -> Suspension {
        Suspension { until: until.map(Timestamp), reason: "odd \"place\"\n".into() }
    }

    #[test]
    fn what_is_kept_is_found_again_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (rests, none) = Rests::open(&folder.path().join("a/b")).unwrap();
        assert_eq!(none, []);
        rests.keep("key_1", &rest(Some(1_700_000_000_123_456))).unwrap();
        rests.keep("key_2", &rest(Some(1))).unwrap();
        rests.keep("key_2", &rest(None)).unwrap();
        let found = || {
            let mut all = Rests::open(&folder.path().join("a/b")).unwrap().1;
            all.sort_by(|one, other| one.0.cmp(&other.0));
            all
        };
        assert_eq!(found(), [("key_1".into(), rest(Some(1_700_000_000_123_456))), ("key_2".into(), rest(None))]);
        rests.forget("key_2", Some(&rest(Some(1)))).unwrap();
        assert_eq!(found().len(), 2, "a later one is not forgotten with an earlier one");
        rests.forget("key_1", None).unwrap();
        rests.forget("key_2", Some(&rest(None))).unwrap();
        rests.forget("key_2", Some(&rest(None))).unwrap();
        assert_eq!(found(), []);
    }

    #[test]
    fn a_damaged_file_suspends_its_key_and_a_strange_name_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let rests = Rests::open(folder.path()).unwrap().0;
        for name in ["key_1.json", "key_2.7.new", "README"] {
            fs::write(folder.path().join(name), "{").unwrap();
        }
        fs::write(folder.path().join("key_3.json"), " ".repeat(70_000)).unwrap();
        let mut all = Rests::open(folder.path()).unwrap().1;
        all.sort_by(|one, other| one.0.cmp(&other.0));
        let told: Vec<(&str, Option<Timestamp>)> = all.iter().map(|(key, rest)| (&**key, rest.until)).collect();
        assert_eq!(told, [("key_1", None), ("key_3", None)]);
        for key in ["", "../key", "key/1", "."] {
            assert_eq!(rests.keep(key, &rest(None)).unwrap_err().kind(), ErrorKind::InvalidInput, "{key}");
            rests.forget(key, None).unwrap();
        }
    }
}
