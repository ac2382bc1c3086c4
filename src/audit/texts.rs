//! The texts of prompts and answers, for operators who choose to keep them: files of their own beside the log, never in it.
//!
//! The texts of one exchange are two files of mode 0600, `texts/<day>/<hour and minute>/<id>.prompt` and `.answer`; the id of an
//! exchange says when it began, so nothing else is needed to find them. They can be deleted one by one and by day. They are
//! with the operating system before the caller has the last byte, but not forced to the disk.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::unit::clock::Timestamp;
use crate::unit::id::ExchangeId;

/// Where they are, below the audit folder.
pub const FOLDER: &str = "texts";

/// The folder of the texts.
#[derive(Clone, Debug)]
pub struct Texts(PathBuf);

/// What is kept of one exchange: the beginnings of its bodies, as far as the operator's bound allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// The request's body.
    pub prompt: Option<Vec<u8>>,
    /// The answer's body.
    pub answer: Option<Vec<u8>>,
}

impl Texts {
    /// Those of the log in an audit folder.
    pub fn of(audit: &Path) -> Self {
        Self(audit.join(FOLDER))
    }

    /// Keeps the texts of an exchange; what is empty gets no file. Two files, about 40 µs.
    ///
    /// # Errors
    /// Those of the system; one of the files may be there.
    pub fn keep(&self, id: ExchangeId, prompt: &[u8], answer: &[u8]) -> io::Result<()> {
        for (name, text) in [("prompt", prompt), ("answer", answer)] {
            if text.is_empty() {
                continue;
            }
            let path = self.path(id, name);
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            let mut file = match options.open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    DirBuilder::new().recursive(true).mode(0o700).create(path.parent().unwrap_or(&self.0))?;
                    options.open(&path)?
                }
                other => other?,
            };
            file.write_all(text)?;
        }
        Ok(())
    }

    /// What is kept of an exchange.
    ///
    /// # Errors
    /// Those of the system.
    pub fn read(&self, id: ExchangeId) -> io::Result<Text> {
        let read = |name| match fs::read(self.path(id, name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        Ok(Text { prompt: read("prompt")?, answer: read("answer")? })
    }

    /// Deletes what is kept of an exchange; whether there was anything.
    ///
    /// # Errors
    /// Those of the system.
    pub fn erase(&self, id: ExchangeId) -> io::Result<bool> {
        let mut erased = false;
        for name in ["prompt", "answer"] {
            match fs::remove_file(self.path(id, name)) {
                Ok(()) => erased = true,
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Err(_) => {}
            }
        }
        Ok(erased)
    }

    /// Deletes the days that ended before a time; how many they were.
    ///
    /// # Errors
    /// Those of the system.
    pub fn prune(&self, before: Timestamp) -> io::Result<usize> {
        let day = day(before);
        let days = match fs::read_dir(&self.0) {
            Ok(days) => days,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut deleted = 0;
        for old in days {
            let old = old?;
            if old.file_name().to_str().is_some_and(|name| is_day(name) && name < day.as_str()) {
                fs::remove_dir_all(old.path())?;
                deleted += 1;
            }
        }
        Ok(deleted)
    }

    fn path(&self, id: ExchangeId, name: &str) -> PathBuf {
        let time = id.time().rfc3339();
        let minute: String = time.chars().skip(11).take(5).filter(char::is_ascii_digit).collect();
        self.0.join(day(id.time())).join(minute).join(format!("{id}.{name}"))
    }
}

/// The day of a time, such as 2026-11-21, in UTC.
fn day(time: Timestamp) -> String {
    time.rfc3339().chars().take(10).collect()
}

fn is_day(name: &str) -> bool {
    name.len() == 10 && name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn texts_are_kept_for_their_owner_only_and_can_be_erased() {
        let folder = tempfile::tempdir().unwrap();
        let (texts, id) = (Texts::of(folder.path()), ExchangeId::new());
        assert_eq!(texts.read(id).unwrap(), Text::default());
        texts.keep(id, b"asked", b"").unwrap();
        assert_eq!(texts.read(id).unwrap(), Text { prompt: Some(b"asked".to_vec()), answer: None });
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let path = texts.path(id, "prompt");
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert!(texts.erase(id).unwrap());
        assert!(!texts.erase(id).unwrap());
        assert_eq!(texts.read(id).unwrap(), Text::default());
    }

    #[test]
    fn whole_days_go_when_they_are_past() {
        let folder = tempfile::tempdir().unwrap();
        let (texts, id) = (Texts::of(folder.path()), ExchangeId::new());
        texts.keep(id, b"asked", b"answered").unwrap();
        assert_eq!(texts.prune(id.time()).unwrap(), 0, "its day has not ended");
        let later = Timestamp(id.time().micros() + 86_400_000_000);
        assert_eq!(texts.prune(later).unwrap(), 1);
        assert_eq!(texts.read(id).unwrap(), Text::default());
    }
}
