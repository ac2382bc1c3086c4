//! How the log touches the disk: few operations, so that tests can make each of them fail.
//!
//! A file appears whole or not at all: it is written under another name, forced to the disk, and renamed; then its folder is
//! forced to the disk. What can be made again from such files is not forced ([`place`]), and of the checkpoint only the content
//! ([`replace`]): a loss of power may bring back the one before. Salts and the tail grow in place: nothing that counts is
//! touched there. Reading needs no seam: what is read is checked.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::audit::tail::LOG;

/// The operations that change something.
pub trait Disk: Send + Sync {
    /// Writes a file with that mode, replacing what is there, and forces it to the disk.
    ///
    /// # Errors
    /// Those of the system; a part may have been written, and what was written may be lost.
    fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()>;

    /// Writes a file with that mode, replacing what is there; a loss of power may tear it.
    ///
    /// # Errors
    /// Those of the system; a part may have been written.
    fn write_loosely(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()>;

    /// Writes into a file from a byte on, and forces that to the disk. A file that is not there is made, with that mode.
    ///
    /// # Errors
    /// Those of the system; a part may have been written, and what was written may be lost.
    fn write_at(&self, path: &Path, from: u64, bytes: &[u8], mode: u32) -> io::Result<()>;

    /// Renames a file, replacing what is there.
    ///
    /// # Errors
    /// Those of the system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Forces a folder's names to the disk.
    ///
    /// # Errors
    /// Those of the system; a rename may be lost.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;

    /// Makes a folder and those above it, for their owner only.
    ///
    /// # Errors
    /// Those of the system.
    fn create_folders(&self, path: &Path) -> io::Result<()>;

    /// Deletes a file.
    ///
    /// # Errors
    /// Those of the system.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The system's own file system.
#[derive(Debug)]
pub struct System;

impl Disk for System {
    fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        written(path, bytes, mode)?.sync_data()
    }

    fn write_loosely(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        written(path, bytes, mode).map(drop)
    }

    fn write_at(&self, path: &Path, from: u64, bytes: &[u8], mode: u32) -> io::Result<()> {
        written_at(path, from, bytes, mode)?.sync_data()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn create_folders(&self, path: &Path) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

fn written(path: &Path, bytes: &[u8], mode: u32) -> io::Result<fs::File> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    Ok(file)
}

fn written_at(path: &Path, from: u64, bytes: &[u8], mode: u32) -> io::Result<fs::File> {
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(mode).open(path)?;
    file.write_all_at(bytes, from)?;
    Ok(file)
}

/// Writes into a file that grows in place, for its owner only: on the disk when this returns, with its name.
///
/// # Errors
/// Those of the system; some of it may have been written.
pub fn put_at(disk: &dyn Disk, path: &Path, from: u64, bytes: &[u8]) -> io::Result<()> {
    if path.exists() {
        return disk.write_at(path, from, bytes, 0o600);
    }
    let parent = path.parent().unwrap_or(Path::new("."));
    let made: Vec<&Path> = parent.ancestors().take_while(|folder| !folder.is_dir()).collect();
    disk.create_folders(parent)?;
    disk.write_at(path, from, bytes, 0o600)?;
    let above = made.last().and_then(|highest| highest.parent());
    made.iter().copied().chain(above).chain(made.is_empty().then_some(parent)).try_for_each(|it| disk.sync_folder(it))
}

/// Makes files appear whole: all of them are on the disk when this returns. `scratch` is a folder of the same file system that
/// holds nothing else.
///
/// # Errors
/// Those of the system; some of the files may have appeared, each of them whole.
pub fn put(disk: &dyn Disk, scratch: &Path, files: &[(PathBuf, &[u8])]) -> io::Result<()> {
    let mut folders = BTreeSet::new();
    for (number, (path, bytes)) in files.iter().enumerate() {
        let parent = path.parent().unwrap_or(Path::new("."));
        if !parent.is_dir() {
            disk.create_folders(parent)?;
            // A new folder is a new name in the folders above it.
            let above = parent.ancestors().skip(1).take(4).filter(|above| above.starts_with(common(scratch)));
            folders.extend(above.map(Path::to_path_buf));
        }
        folders.insert(parent.to_path_buf());
        let temporary = scratch.join(number.to_string());
        disk.write(&temporary, bytes, mode(path, scratch))?;
        disk.rename(&temporary, path)?;
    }
    folders.iter().rev().try_for_each(|folder| disk.sync_folder(folder))
}

/// Replaces one file: whole, also after a loss of power, but then it may be the one before.
///
/// # Errors
/// Those of the system; the file is the one before, or the new one.
pub fn replace(disk: &dyn Disk, scratch: &Path, (path, bytes): (&Path, &[u8])) -> io::Result<()> {
    if !path.exists() {
        return put(disk, scratch, &[(path.to_owned(), bytes)]);
    }
    let temporary = scratch.join("0");
    disk.write(&temporary, bytes, mode(path, scratch))?;
    disk.rename(&temporary, path)
}

/// Makes files appear whole that can be made again from others: a loss of power may tear or lose them. A file that is replaced
/// keeps its place for whoever reads it meanwhile.
///
/// # Errors
/// Those of the system; some of the files may have appeared.
pub fn place(disk: &dyn Disk, scratch: &Path, files: &[(PathBuf, &[u8])]) -> io::Result<()> {
    let temporary = scratch.join("0");
    for (path, bytes) in files {
        let parent = path.parent().unwrap_or(Path::new("."));
        if !parent.is_dir() {
            disk.create_folders(parent)?;
        }
        disk.write_loosely(&temporary, bytes, mode(path, scratch))?;
        disk.rename(&temporary, path)?;
    }
    Ok(())
}

/// What may be served is for all to read, as far as the folders above let them; the rest is the writer's own.
fn mode(path: &Path, scratch: &Path) -> u32 {
    if path.starts_with(common(scratch).join(LOG)) { 0o644 } else { 0o600 }
}

fn common(scratch: &Path) -> &Path {
    scratch.parent().unwrap_or(scratch)
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

    use super::*;

    /// What goes wrong at the chosen operation.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub enum Fault {
        /// It fails once and changes nothing.
        Fails,
        /// A write stops in the middle, as on a full disk; other operations fail.
        Torn,
        /// From there on nothing works: the process is dead.
        Dies,
        /// Like `Dies`, but the operation itself is done half (a write) or whole (the rest).
        DiesAfter,
    }

    /// The system's file system, where the nth operation goes wrong. Nothing is really forced to the disk: no power is lost here.
    pub struct Faulty {
        left: AtomicI64,
        fault: Fault,
        dead: AtomicBool,
    }

    impl Faulty {
        pub fn after(operations: i64, fault: Fault) -> Self {
            Self { left: AtomicI64::new(operations), fault, dead: AtomicBool::new(false) }
        }

        /// Whether the fault happened.
        pub fn struck(&self) -> bool {
            self.left.load(Ordering::SeqCst) < 0
        }

        fn step(
            &self,
            whole: impl FnOnce() -> io::Result<()>,
            half: impl FnOnce() -> io::Result<()>,
        ) -> io::Result<()> {
            if self.dead.load(Ordering::SeqCst) {
                return Err(io::Error::other("dead"));
            }
            if self.left.fetch_sub(1, Ordering::SeqCst) != 0 {
                return whole();
            }
            match self.fault {
                Fault::Fails => {}
                Fault::Torn => half()?,
                Fault::Dies => self.dead.store(true, Ordering::SeqCst),
                Fault::DiesAfter => {
                    half()?;
                    self.dead.store(true, Ordering::SeqCst);
                }
            }
            Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device"))
        }
    }

    /// The system's file system, which dies after some operations and then loses its power: of what was not forced to the disk, the
    /// worst is left.
    #[derive(Default)]
    pub struct Lossy {
        left: AtomicI64,
        forced: AtomicI64,
        loose: Mutex<BTreeSet<PathBuf>>,
        /// Names that are not forced to the disk, and what stood there before.
        named: Mutex<Vec<(PathBuf, Option<Vec<u8>>)>>,
    }

    /// What becomes of a file that was not forced to the disk.
    #[derive(Clone, Copy, Debug)]
    pub enum Loss {
        Gone,
        Empty,
        Half,
        Other,
        Kept,
    }

    impl Lossy {
        pub fn after(operations: i64) -> Self {
            Self { left: AtomicI64::new(operations), ..Self::default() }
        }

        /// How often something was forced to the disk.
        pub fn forced(&self) -> i64 {
            self.forced.load(Ordering::SeqCst)
        }

        pub fn lose_power(&self, loss: Loss) {
            for (path, before) in self.named.lock().unwrap().drain(..).rev() {
                match before {
                    Some(bytes) => fs::write(&path, bytes).unwrap(),
                    None => drop(fs::remove_file(&path)),
                }
            }
            for path in &*self.loose.lock().unwrap() {
                let Ok(bytes) = fs::read(path) else { continue };
                match loss {
                    Loss::Gone => fs::remove_file(path).unwrap(),
                    Loss::Empty => fs::write(path, b"").unwrap(),
                    Loss::Half => fs::write(path, &bytes[..bytes.len() / 2]).unwrap(),
                    Loss::Other => fs::write(path, vec![0; bytes.len()]).unwrap(),
                    Loss::Kept => {}
                }
            }
        }

        pub fn struck(&self) -> bool {
            self.left.load(Ordering::SeqCst) < 0
        }

        fn step(&self) -> io::Result<()> {
            match self.left.fetch_sub(1, Ordering::SeqCst) {
                ..=0 => Err(io::Error::other("dead")),
                _ => Ok(()),
            }
        }
    }

    impl Disk for Lossy {
        fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
            self.step()?;
            self.forced.fetch_add(1, Ordering::SeqCst);
            self.loose.lock().unwrap().remove(path);
            written(path, bytes, mode).map(drop)
        }

        fn write_loosely(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
            self.step()?;
            self.loose.lock().unwrap().insert(path.to_owned());
            written(path, bytes, mode).map(drop)
        }

        fn write_at(&self, path: &Path, from: u64, bytes: &[u8], mode: u32) -> io::Result<()> {
            self.step()?;
            self.forced.fetch_add(1, Ordering::SeqCst);
            if !path.exists() {
                self.named.lock().unwrap().push((path.to_owned(), None));
            }
            written_at(path, from, bytes, mode).map(drop)
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.step()?;
            let before = fs::read(to).ok();
            System.rename(from, to)?;
            let mut loose = self.loose.lock().unwrap();
            if loose.remove(from) {
                loose.insert(to.to_owned());
            } else {
                loose.remove(to);
                self.named.lock().unwrap().push((to.to_owned(), before));
            }
            Ok(())
        }

        fn sync_folder(&self, path: &Path) -> io::Result<()> {
            self.step()?;
            self.forced.fetch_add(1, Ordering::SeqCst);
            self.named.lock().unwrap().retain(|(named, _)| named.parent() != Some(path));
            Ok(())
        }

        fn create_folders(&self, path: &Path) -> io::Result<()> {
            self.step()?;
            System.create_folders(path)
        }

        fn remove(&self, path: &Path) -> io::Result<()> {
            self.step()?;
            System.remove(path)
        }
    }

    impl Disk for Faulty {
        fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
            let part = |length: usize| written(path, &bytes[..length], mode).map(drop);
            self.step(|| part(bytes.len()), || part(bytes.len() / 2))
        }

        fn write_at(&self, path: &Path, from: u64, bytes: &[u8], mode: u32) -> io::Result<()> {
            let part = |length: usize| written_at(path, from, &bytes[..length], mode).map(drop);
            self.step(|| part(bytes.len()), || part(bytes.len() / 2))
        }

        fn write_loosely(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
            self.write(path, bytes, mode)
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            let torn = self.fault == Fault::Torn;
            self.step(|| System.rename(from, to), || if torn { Ok(()) } else { System.rename(from, to) })
        }

        fn sync_folder(&self, path: &Path) -> io::Result<()> {
            self.step(|| path.exists().then_some(()).ok_or_else(|| io::ErrorKind::NotFound.into()), || Ok(()))
        }

        fn create_folders(&self, path: &Path) -> io::Result<()> {
            self.step(|| System.create_folders(path), || Ok(()))
        }

        fn remove(&self, path: &Path) -> io::Result<()> {
            self.step(|| System.remove(path), || Ok(()))
        }
    }
}
