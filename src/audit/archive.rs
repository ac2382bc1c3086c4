//! Moving old files of a log to other storage, such as a mounted bucket or a read-only volume, without cutting the tree.
//!
//! Full tiles of level 0 and full bundles never change, so they may lie elsewhere under the same paths, and any static file server
//! can serve them there. The file `archive` beside the checkpoint names the place; whoever reads the log, a running gateway too,
//! looks there for what is not in the folder. A file is deleted only after its copy was read back.

use std::fs;
use std::io;
use std::path::Path;

use crate::audit::tiles::{self, ARCHIVE, Row, WIDTH};
use crate::unit::file;

/// What may be served is for all to read, as far as the folders above let them.
const OPEN: u32 = 0o644;

/// Moves the full bundles and tiles of level 0 below an index, rounded down; how many files were moved. Works beside a running
/// gateway. Stopping half-way does no harm: it can be done again.
///
/// # Errors
/// Those of the system, or when a copy does not hold what was written to it, or the log's files are elsewhere already.
pub fn move_away(folder: &Path, to: &Path, below: u64) -> io::Result<u64> {
    let to = fs::create_dir_all(to).and_then(|()| to.canonicalize())?;
    if let Some(other) = tiles::archive(folder)
        && other.canonicalize()? != to
    {
        let text = format!("files of this log are in {} already; move them there, too", other.display());
        return Err(io::Error::other(text));
    }
    let name = to.to_str().ok_or_else(|| io::Error::other("the path of the folder is not UTF-8"))?;
    file::replace(&folder.join(ARCHIVE), format!("{name}\n").as_bytes(), OPEN)?;
    let mut moved = 0;
    for number in 0..below / WIDTH {
        for row in [Row::Level(0), Row::Entries] {
            let path = tiles::path(row, number, WIDTH);
            let bytes = match fs::read(folder.join(&path)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            let copy = to.join(&path);
            fs::create_dir_all(copy.parent().unwrap_or(&to))?;
            file::replace(&copy, &bytes, OPEN)?;
            if fs::read(&copy)? != bytes {
                return Err(io::Error::other(format!("{} does not hold what was written to it", copy.display())));
            }
            fs::remove_file(folder.join(&path))?;
            moved += 1;
        }
    }
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::audit::entry::tests::event;
    use crate::audit::entry::{Entry, Noun};
    use crate::audit::log::tests::{filled, keys, now, open};
    use crate::audit::policy::Policy;
    use crate::audit::receipt::Receipt;
    use crate::audit::tail::{LOG, Taken};
    use crate::audit::verify;

    #[test]
    fn a_log_goes_on_while_its_old_files_are_elsewhere_read_only() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        filled(folder.path(), 1_000);
        let log = folder.path().join(LOG);
        let running = open(folder.path());
        assert_eq!(move_away(&log, elsewhere.path(), 800).unwrap(), 6);
        assert_eq!(move_away(&log, elsewhere.path(), 800).unwrap(), 0);
        assert!(!log.join("tile/entries/000").exists() && elsewhere.path().join("tile/entries/000").exists());
        fs::set_permissions(elsewhere.path().join("tile/entries"), fs::Permissions::from_mode(0o500)).unwrap();
        assert!(Receipt::make(&running, 3).unwrap().verify(&running.policy()).is_ok());
        drop(running);
        let again = open(folder.path());
        assert_eq!(again.status().size, 1_000);
        again.finish(now(5)).unwrap();
        let policy = Policy::of_log(keys(1).public());
        assert_eq!(verify::log(&log, &policy, &[]).unwrap().entries, 1_000);
        let mut bytes = fs::read(elsewhere.path().join("tile/entries/001")).unwrap();
        bytes[30] ^= 1;
        fs::set_permissions(elsewhere.path().join("tile/entries"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(elsewhere.path().join("tile/entries/001"), bytes).unwrap();
        let fault = verify::log(&log, &policy, &[]).unwrap_err();
        assert!(fault.place.starts_with("entry 2"), "{fault}");
    }

    #[test]
    fn what_was_moved_away_is_deleted_there_too() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        filled(folder.path(), 700);
        let log = folder.path().join(LOG);
        move_away(&log, elsewhere.path(), 256).unwrap();
        let running = open(folder.path());
        let mut prune = event(Noun::Prune, "entries");
        prune.detail.insert("below".to_owned(), 512.into());
        assert_eq!(running.prune(&Taken::new(&Entry::Event(prune), None), 512).unwrap(), 512);
        running.finish(now(5)).unwrap();
        assert!(!elsewhere.path().join("tile/entries/000").exists() && !log.join("tile/entries/001").exists());
        assert!(elsewhere.path().join("tile/0/000").exists(), "hashes stay");
        drop(running);
        let report = verify::log(&log, &Policy::of_log(keys(1).public()), &[]).unwrap();
        assert_eq!((report.entries, report.pruned), (189, 512));
    }

    #[test]
    fn files_are_not_strewn_over_two_places() {
        let folder = tempfile::tempdir().unwrap();
        filled(folder.path(), 600);
        let log = folder.path().join(LOG);
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        move_away(&log, &one, 256).unwrap();
        assert!(move_away(&log, &other, 512).unwrap_err().to_string().contains("already"));
        assert!(log.join("tile/entries/001").exists());
    }
}
