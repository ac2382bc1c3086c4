//! Files that appear whole or not at all, for whoever reads them meanwhile and after a loss of power.
//!
//! The bytes go to a draft in the same folder, which is forced to the disk and then gets the name. A draft is named
//! `.draft_…`; one that a killed process left behind may be deleted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::unit::id;

/// Writes a file in place of one that may be there. `mode` holds for the new file, less the process's umask. A link is replaced,
/// not followed.
///
/// # Errors
/// Those of the system; then the file is the one before.
///
/// *Cost*: two orders to the disk, a few milliseconds.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let draft = Draft::write(path, bytes, mode)?;
    fs::rename(&draft.0, path)?;
    sync_folder_of(path)
}

/// Writes a file unless there is one of that name already; whether it did.
///
/// # Errors
/// Those of the system; then there is no new file.
///
/// *Cost*: two orders to the disk, a few milliseconds.
pub fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<bool> {
    let draft = Draft::write(path, bytes, mode)?;
    match fs::hard_link(&draft.0, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        // Some file systems have no links.
        Err(_) if !path.try_exists()? => fs::rename(&draft.0, path)?,
        linked => linked?,
    }
    // Left behind, it would hold a secret in a place that nobody knows of.
    fs::remove_file(&draft.0).or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
    sync_folder_of(path)?;
    Ok(true)
}

/// A file that has no name of its own yet; it goes with its value, if it is still there.
struct Draft(PathBuf);

impl Draft {
    fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<Self> {
        let draft = Self(path.with_file_name(format!(".{}", id::mint("draft"))));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft.0)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(draft)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Gone if it got its name; the error that brought it here is the one to tell.
        drop(fs::remove_file(&self.0));
    }
}

/// Forces the names in a file's folder to the disk, where the file system knows how: mounted object stores may not.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_that_cannot_be_replaced_stays_and_leaves_no_draft() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "before").unwrap();
        assert!(replace(&path, b"after", 0o600).is_err());
        assert!(!create(&path, b"after", 0o600).unwrap());
        assert!(replace(&folder.path().join("missing/file"), b"after", 0o600).is_err());
        assert_eq!(names(folder.path()), ["taken"]);
        assert_eq!(fs::read(path.join("inside")).unwrap(), b"before");
    }

    #[test]
    fn a_file_is_replaced_whole_with_the_mode_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "something longer that was there before").unwrap();
        replace(&path, b"after", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"after");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn a_file_that_is_there_is_never_overwritten_by_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert!(create(&path, b"first", 0o600).unwrap());
        assert!(!create(&path, b"second", 0o600).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"first");
        // A link that leads nowhere is a name that is taken.
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert!(!create(&link, b"third", 0o600).unwrap());
        assert_eq!(names(folder.path()), ["file", "link"]);
    }
}
