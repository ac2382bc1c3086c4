//! Witnesses (c2sp.org/tlog-witness): somebody else who remembers how large each log was and cosigns only what continues it.
//!
//! Requests and replies are built and read here; who carries them over HTTP is elsewhere. A [`Witness`] keeps the last checkpoint
//! that it cosigned for each log in a file that is on the disk before the cosignature leaves, and refuses every rollback and fork,
//! also where two processes witness from one folder (`two_processes_on_one_folder_cosign_no_fork`). It needs the log's signatures
//! as its policy asks for them, so a log that changes its keys must be made known to it.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustix::fs::{FlockOperation, flock};

use crate::audit::checkpoint::{Checkpoint, verify_cosignature};
use crate::audit::disk::{self, Disk};
use crate::audit::key::SigningKeys;
use crate::audit::log::Published;
use crate::audit::merkle::{self, Hash, is_consistent, sha256};
use crate::audit::note::{Malformed, NOTE_LIMIT_BYTES, SignatureLine};
use crate::audit::policy::{Policy, WitnessKey};
use crate::audit::tiles::{TileError, TreeFiles};
use crate::unit::clock::Timestamp;

/// The path of the one operation, below a witness's submission prefix.
pub const PATH: &str = "/add-checkpoint";

/// The largest request that is read.
pub const REQUEST_LIMIT_BYTES: usize = NOTE_LIMIT_BYTES + 8 * 1024;

/// The most lines of a consistency proof.
const PROOF_LIMIT: usize = 63;

/// A request to cosign a checkpoint; also a consistency proof that stands alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// The size that the witness is thought to know.
    pub old: u64,
    /// The proof from there to the checkpoint.
    pub proof: Vec<Hash>,
    /// The signed note.
    pub checkpoint: String,
}

impl AddCheckpoint {
    /// The request for a checkpoint of ours.
    ///
    /// # Errors
    /// When a tile cannot be read.
    pub fn make(published: &Published, old: u64, tree: &TreeFiles) -> Result<Self, TileError> {
        let new = (published.checkpoint.size, published.note.to_string());
        Self::between(old.min(published.checkpoint.size), new, tree)
    }

    /// The proof from an older size to a newer checkpoint, given as its size and note. An `old` that is larger gives no proof.
    ///
    /// # Errors
    /// When a tile cannot be read.
    pub fn between(old: u64, (size, checkpoint): (u64, String), tree: &TreeFiles) -> Result<Self, TileError> {
        let proof = merkle::consistency(old, size, tree)?.unwrap_or_default();
        Ok(Self { old, proof, checkpoint })
    }

    /// Reads a body.
    ///
    /// # Errors
    /// When it is too long or has another form.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let wrong = |what: &str| Malformed(format!("it is no add-checkpoint request: {what}"));
        if body.len() > REQUEST_LIMIT_BYTES {
            return Err(wrong("it is too long"));
        }
        let text = std::str::from_utf8(body).map_err(|_| wrong("it is not UTF-8"))?;
        let (head, checkpoint) = text.split_once("\n\n").ok_or_else(|| wrong("no empty line before the checkpoint"))?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old "));
        let old = old.and_then(|text| text.parse().ok().filter(|old: &u64| old.to_string() == text));
        let old = old.ok_or_else(|| wrong("its first line is not `old SIZE`"))?;
        let proof: Option<Vec<Hash>> = lines.map(Hash::parse).collect();
        let proof = proof
            .filter(|proof| proof.len() <= PROOF_LIMIT)
            .ok_or_else(|| wrong("its proof is not lines of hashes"))?;
        Ok(Self { old, proof, checkpoint: checkpoint.to_owned() })
    }

    /// The body.
    pub fn to_text(&self) -> String {
        let proof: String = self.proof.iter().map(|hash| format!("{hash}\n")).collect();
        format!("old {}\n{proof}\n{}", self.old, self.checkpoint)
    }
}

/// What a witness answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The content type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl Reply {
    fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() + "\n" }
    }

    fn size(size: u64) -> Self {
        Self { status: 409, content_type: "text/x.tlog.size", body: format!("{size}\n") }
    }
}

/// What came of asking a witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It cosigned: one line for each of its keys, verified.
    Cosigned(Vec<SignatureLine>),
    /// It knows this smaller or equal size; ask again from there.
    From(u64),
    /// It says that it has cosigned more of this log than there is, or another history: the log was put back to an older copy of
    /// itself, or forked. The sentence says which.
    Contradicted(String),
    /// It refused, or what it gave is worth nothing; the sentence says why.
    Refused(String),
}

/// Reads what a witness answered to a request for a checkpoint of ours. `keys` are the keys by which it is known.
pub fn read_reply(keys: &[&WitnessKey], published: &Published, old: u64, (status, body): (u16, &str)) -> Asked {
    let size = published.checkpoint.size;
    let first: String = body.lines().next().unwrap_or_default().chars().take(200).collect();
    match status {
        200 => {
            let lines: Vec<SignatureLine> = body.lines().filter_map(|line| SignatureLine::parse(line).ok()).collect();
            let mut valid = Vec::new();
            for WitnessKey { key, .. } in keys {
                let line = lines
                    .iter()
                    .find(|line| key.signs(line))
                    .filter(|line| verify_cosignature(key, &line.signature, &published.checkpoint).is_some());
                let Some(line) = line else {
                    return Asked::Refused(format!("it gave no valid cosignature by {key:?} on size {size}"));
                };
                valid.push(line.clone());
            }
            Asked::Cosigned(valid)
        }
        409 => match first.parse() {
            Ok(known) if known > size => {
                Asked::Contradicted(format!("it has cosigned {known} entries of this log, which has {size}"))
            }
            Ok(known) if known != old => Asked::From(known),
            Ok(known) if known == size => Asked::Contradicted(format!("it has cosigned another log of size {size}")),
            _ => Asked::Refused(format!("it answered 409 to its own size {old}: {first}")),
        },
        422 => {
            Asked::Contradicted(format!("it says that size {size} does not continue the size {old} that it cosigned"))
        }
        _ => Asked::Refused(format!("it answered {status}: {first}")),
    }
}

/// A witness.
pub struct Witness {
    keys: SigningKeys,
    /// The logs that it knows.
    logs: RwLock<Policy>,
    folder: PathBuf,
    disk: Arc<dyn Disk>,
    /// Held from reading the last checkpoint to writing the next, so that two requests cannot roll a log back between them.
    turn: Mutex<()>,
}

/// A log as a witness knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its origin.
    pub origin: String,
    /// The size of the last checkpoint that was cosigned; 0 if none was.
    pub size: u64,
}

impl Witness {
    /// A witness that keeps what it saw in a folder of its own. `logs` holds the keys of the logs that it knows.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(keys: SigningKeys, logs: Policy, folder: PathBuf, disk: Arc<dyn Disk>) -> io::Result<Self> {
        disk.create_folders(&folder.join("tmp"))?;
        Ok(Self { keys, logs: RwLock::new(logs), folder, disk, turn: Mutex::new(()) })
    }

    /// Goes over to other keys of logs. What it cosigned of a log stays known, also while the log is not.
    pub fn know(&self, logs: Policy) {
        // A policy is replaced as a whole.
        *self.logs.write().unwrap_or_else(PoisonError::into_inner) = logs;
    }

    /// The logs that it knows, by origin. Blocks on the disk.
    ///
    /// # Errors
    /// When what it remembers cannot be read.
    pub fn seen(&self) -> io::Result<Vec<Seen>> {
        let logs = self.logs.read().unwrap_or_else(PoisonError::into_inner).origins();
        let seen = |origin: String| Ok(Seen { size: self.last(&origin)?.map_or(0, |last| last.size), origin });
        logs.into_iter().map(seen).collect()
    }

    /// Its public keys.
    pub fn keys(&self) -> &SigningKeys {
        &self.keys
    }

    /// Answers an add-checkpoint request. Blocks on the disk.
    pub fn add_checkpoint(&self, body: &[u8], now: Timestamp) -> Reply {
        let request = match AddCheckpoint::parse(body) {
            Ok(request) => request,
            Err(error) => return Reply::text(400, error.0),
        };
        let (checkpoint, note) = match Checkpoint::from_note(request.checkpoint.as_bytes()) {
            Ok(parsed) => parsed,
            Err(error) => return Reply::text(400, error.0),
        };
        let Some(trusted) = self.trusted(&checkpoint.origin) else {
            return Reply::text(404, format!("this witness does not know the log {:?}", checkpoint.origin));
        };
        if let Err(error) = trusted.signed(&note, &checkpoint.origin, checkpoint.size) {
            return Reply::text(403, error.to_string());
        }
        if request.old > checkpoint.size {
            return Reply::text(400, "the old size is larger than the checkpoint's");
        }
        // Nothing is left half done under this lock.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.judge(&request, &checkpoint, now).unwrap_or_else(|error| {
            tracing::error!(%error, "the witness cannot use its disk");
            Reply::text(500, "the witness cannot use its disk")
        })
    }

    /// Whom to believe about a log; `None` if it is not known. One that is known by one key only is believed by that one.
    fn trusted(&self, origin: &str) -> Option<Policy> {
        let whole = |key: &crate::audit::policy::Generation| key.classic.is_some() && key.quantum.is_some();
        let policy = self.logs.read().unwrap_or_else(PoisonError::into_inner).clone();
        let generations = policy.generations(origin);
        match generations.is_empty() {
            true => None,
            false => Some(if generations.iter().all(whole) { policy } else { policy.accept_one() }),
        }
    }

    fn path(&self, origin: &str) -> PathBuf {
        self.folder.join(sha256(&[origin.as_bytes()]).hex())
    }

    /// The last checkpoint of a log that was cosigned.
    fn last(&self, origin: &str) -> io::Result<Option<Checkpoint>> {
        let path = self.path(origin);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let wrong = |what: &str| io::Error::other(format!("{}: {what}", path.display()));
        let (last, _) = Checkpoint::from_note(&bytes).map_err(|error| wrong(&error.0))?;
        if last.origin != origin { Err(wrong("it is of another log")) } else { Ok(Some(last)) }
    }

    /// Keeps other processes out until it is dropped: during an upgrade two of them witness from one folder.
    fn alone(&self) -> io::Result<File> {
        let file = File::options().create(true).truncate(false).write(true).open(self.folder.join("lock"))?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    }

    fn judge(&self, request: &AddCheckpoint, checkpoint: &Checkpoint, now: Timestamp) -> io::Result<Reply> {
        let _alone = self.alone()?;
        let path = self.path(&checkpoint.origin);
        let last = self.last(&checkpoint.origin)?;
        let (size, root) = last.map_or((0, merkle::empty_root()), |last| (last.size, last.root));
        if request.old != size {
            return Ok(Reply::size(size));
        }
        if !is_consistent((size, root), (checkpoint.size, checkpoint.root), &request.proof) {
            let text = format!(
                "{}: the checkpoint of size {} does not continue the one of size {size} that this witness cosigned",
                checkpoint.origin, checkpoint.size
            );
            if size != checkpoint.size || !request.proof.is_empty() {
                tracing::warn!(origin = checkpoint.origin, size = checkpoint.size, known = size, "a proof was refused");
                return Ok(Reply::text(422, text));
            }
            // Two checkpoints of one size that the log itself signed prove that it misbehaves. The first such pair is kept.
            let evidence = path.with_extension("fork");
            tracing::error!(
                origin = checkpoint.origin,
                size,
                evidence = %evidence.display(),
                "ALARM: a log that this witness knows is forked"
            );
            if !evidence.exists() {
                self.put(evidence, &request.checkpoint)?;
            }
            return Ok(Reply::size(size));
        }
        let lines = self.keys.cosign(checkpoint, now).map_err(io::Error::other)?;
        self.put(path, &request.checkpoint)?;
        Ok(Reply::text(200, lines.iter().map(ToString::to_string).collect::<String>().trim_end()))
    }

    fn put(&self, path: PathBuf, note: &str) -> io::Result<()> {
        disk::put(self.disk.as_ref(), &self.folder.join("tmp"), &[(path, note.as_bytes())])
    }
}

#[cfg(test)]
pub(in crate::audit) mod tests;
