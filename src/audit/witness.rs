//! Witnesses (c2sp.org/tlog-witness): somebody else who remembers how large each log was and cosigns only what continues it.
//!
//! Requests and replies are built and read here; who carries them over HTTP is elsewhere. A [`Witness`] keeps the last checkpoint
//! that it cosigned for each log in a file that is on the disk before the cosignature leaves, and refuses every rollback and fork.
//! It needs the log's signatures as its policy asks for them, so a log that changes its keys must be made known to it.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::audit::checkpoint::{Checkpoint, verify_cosignature};
use crate::audit::disk::{self, Disk};
use crate::audit::key::SigningKeys;
use crate::audit::log::Published;
use crate::audit::merkle::{self, Hash, is_consistent, sha256};
use crate::audit::note::{Malformed, NOTE_LIMIT_BYTES, Note, SignatureLine};
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
        let old = old.min(published.checkpoint.size);
        let proof = merkle::consistency(old, published.checkpoint.size, tree)?.unwrap_or_default();
        Ok(Self { old, proof, checkpoint: published.note.to_string() })
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
    /// It cosigned: the lines of the key that was asked, verified.
    Cosigned(Vec<SignatureLine>),
    /// It knows this smaller or equal size; ask again from there.
    From(u64),
    /// It has cosigned more of this log than there is: the log is an older copy of itself, or forked.
    Ahead(u64),
    /// It refused; the sentence says why.
    Refused(String),
}

/// Reads what a witness answered to a request for a checkpoint of ours.
pub fn read_reply(witness: &WitnessKey, published: &Published, old: u64, (status, body): (u16, &str)) -> Asked {
    let refused = |text: String| Asked::Refused(format!("the witness {} answered {status}: {text}", witness.name));
    let first: String = body.lines().next().unwrap_or_default().chars().take(200).collect();
    match status {
        200 => {
            let lines = body.lines().filter_map(|line| SignatureLine::parse(line).ok());
            let ours: Vec<SignatureLine> = lines.filter(|line| witness.key.signs(line)).collect();
            let valid = |line: &SignatureLine| {
                verify_cosignature(&witness.key, &line.signature, &published.checkpoint).is_some()
            };
            if ours.is_empty() || !ours.iter().all(valid) {
                return refused(format!("no valid cosignature by {:?} is in it", witness.key));
            }
            Asked::Cosigned(ours)
        }
        409 => match first.parse() {
            Ok(size) if size > published.checkpoint.size => Asked::Ahead(size),
            Ok(size) if size != old => Asked::From(size),
            _ => refused("it knows another log of this size: the log is forked".to_owned()),
        },
        _ => refused(first),
    }
}

/// Puts cosignatures into a note, each key once.
pub fn add_signatures(note: &mut Note, lines: Vec<SignatureLine>) {
    for line in lines {
        note.signatures.retain(|other| (&other.name, other.id) != (&line.name, line.id));
        note.signatures.push(line);
    }
}

/// A witness.
pub struct Witness {
    keys: SigningKeys,
    /// The logs that it knows.
    logs: Policy,
    folder: PathBuf,
    disk: Arc<dyn Disk>,
    /// Held from reading the last checkpoint to writing the next, so that two requests cannot roll a log back between them.
    turn: Mutex<()>,
}

impl Witness {
    /// A witness that keeps what it saw in a folder of its own. `logs` holds the keys of the logs that it knows.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(keys: SigningKeys, logs: Policy, folder: PathBuf, disk: Arc<dyn Disk>) -> io::Result<Self> {
        disk.create_folders(&folder.join("tmp"))?;
        Ok(Self { keys, logs, folder, disk, turn: Mutex::new(()) })
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
        if self.logs.generations(&checkpoint.origin).is_empty() {
            return Reply::text(404, format!("this witness does not know the log {:?}", checkpoint.origin));
        }
        if let Err(error) = self.trusted(&checkpoint.origin).signed(&note, &checkpoint.origin, checkpoint.size) {
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

    /// A log that is known by one key only is believed by that one.
    fn trusted(&self, origin: &str) -> Policy {
        let whole = |key: &crate::audit::policy::Generation| key.classic.is_some() && key.quantum.is_some();
        let policy = self.logs.clone();
        if policy.generations(origin).iter().all(whole) { policy } else { policy.accept_one() }
    }

    fn judge(&self, request: &AddCheckpoint, checkpoint: &Checkpoint, now: Timestamp) -> io::Result<Reply> {
        let path = self.folder.join(sha256(&[checkpoint.origin.as_bytes()]).hex());
        let last = match fs::read(&path) {
            Ok(bytes) => Some(Checkpoint::from_note(&bytes).map_err(|error| io::Error::other(error.0))?.0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let (size, root) = last.map_or((0, merkle::empty_root()), |last| (last.size, last.root));
        if request.old != size {
            return Ok(Reply::size(size));
        }
        if !is_consistent((size, root), (checkpoint.size, checkpoint.root), &request.proof) {
            let text = format!(
                "{}: the checkpoint of size {} does not continue the one of size {size} that this witness cosigned",
                checkpoint.origin, checkpoint.size
            );
            // A contradiction that the log itself signed proves that it misbehaves; keep it.
            tracing::warn!(
                origin = checkpoint.origin,
                size = checkpoint.size,
                known = size,
                note = request.checkpoint,
                "fork"
            );
            return Ok(if size == checkpoint.size && request.proof.is_empty() {
                Reply::size(size)
            } else {
                Reply::text(422, text)
            });
        }
        let lines = self.keys.cosign(checkpoint, now).map_err(io::Error::other)?;
        disk::put(self.disk.as_ref(), &self.folder.join("tmp"), &[(path, request.checkpoint.as_bytes())])?;
        Ok(Reply::text(200, lines.iter().map(ToString::to_string).collect::<String>().trim_end()))
    }
}

#[cfg(test)]
mod tests;
