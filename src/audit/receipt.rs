//! Receipts: one entry with everything that proves it, in one file that needs nobody's server.
//!
//! A receipt is a JSON object: the entry's text, a proof in the form of c2sp.org/tlog-proof (index, inclusion proof, checkpoint
//! with all its signatures and cosignatures), and the rotations by which the log came to the keys that signed.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::audit::checkpoint::Checkpoint;
use crate::audit::entry::canonical;
use crate::audit::log::{Log, LogError};
use crate::audit::merkle::{self, Hash, leaf_hash, root_of_inclusion};
use crate::audit::note::{Malformed, NOTE_LIMIT_BYTES};
use crate::audit::policy::{Policy, Standing};
use crate::audit::rotation;
use crate::audit::tiles::{self, Row, TreeFiles, WIDTH};
use crate::audit::verify::Fault;
use crate::unit::commit::{Commitment, Salt};

/// What a receipt says it is.
const TYPE: &str = "marg-audit-receipt/v1";

/// The first line of a proof. Source: c2sp.org/tlog-proof.
const PROOF: &str = "c2sp.org/tlog-proof@v1";

/// The largest receipt that is read: an entry, a note and some rotations.
const LIMIT_BYTES: usize = 4 * 1024 * 1024;

/// One of the two texts of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The request's body, as the caller sent it.
    Prompt,
    /// The answer's body, as the caller got it.
    Answer,
}

impl Which {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Answer => "answer",
        }
    }
}

/// One entry and its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The entry, as it was logged.
    pub entry: String,
    /// Its place in the log, from 0.
    pub index: u64,
    /// The proof that it is in the tree, from its neighbour up.
    pub proof: Vec<Hash>,
    /// The checkpoint with its signatures.
    pub checkpoint: String,
    /// The notes of the rotations before that checkpoint, oldest first.
    pub rotations: Vec<String>,
    /// The salt of the entry's commitments, if it was put in: whoever has it can show which prompt and answer they are of.
    pub salt: Option<Salt>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "type")]
    kind: String,
    entry: String,
    proof: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rotations: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    salt: Option<Salt>,
}

/// What an entry commits to.
#[derive(Deserialize)]
struct Committed {
    #[serde(default)]
    bytes_in: u64,
    #[serde(default)]
    bytes_out: u64,
    prompt: Option<Commitment>,
    answer: Option<Commitment>,
}

impl Receipt {
    /// The receipt of an entry: under the last witnessed checkpoint that holds it, else under the last one.
    ///
    /// # Errors
    /// [`LogError::Missing`] when there is no such entry, it is not under a checkpoint yet, or it was pruned;
    /// [`LogError::Contradiction`] when a file was changed, so that the receipt would prove nothing.
    pub fn make(log: &Log, index: u64) -> Result<Self, LogError> {
        let (last, witnessed) = log.published();
        let holds = |size: u64| index < size;
        let published =
            witnessed.filter(|one| holds(one.checkpoint.size)).or(last.filter(|one| holds(one.checkpoint.size)));
        let published = published.ok_or_else(|| {
            LogError::Missing(format!("entry {index} is not under a checkpoint yet; ask again in a second"))
        })?;
        if index < log.status().pruned {
            return Err(LogError::Missing(format!("entry {index} is past its retention and was deleted")));
        }
        let before = log.rotations().into_iter().filter(|rotation| *rotation < published.checkpoint.size).count();
        Self::build(&log.log_folder(), index, (published.checkpoint.size, published.note.to_string()), before)
    }

    /// The receipt of an entry from the public files alone, under the checkpoint that is among them.
    ///
    /// # Errors
    /// [`LogError::Missing`] when there is no such entry under the checkpoint, or its bundle is gone.
    pub fn from_files(folder: &Path, index: u64) -> Result<Self, LogError> {
        let bytes = tiles::read_file(&folder.join("checkpoint"), NOTE_LIMIT_BYTES).map_err(LogError::Disk)?;
        let (checkpoint, note) =
            Checkpoint::from_note(&bytes).map_err(|error| LogError::Contradiction(format!("checkpoint: {error}")))?;
        if index >= checkpoint.size {
            let size = checkpoint.size;
            return Err(LogError::Missing(format!("there is no entry {index} under the checkpoint of size {size}")));
        }
        Self::build(folder, index, (checkpoint.size, note.to_string()), usize::MAX)
    }

    fn build(folder: &Path, index: u64, (size, checkpoint): (u64, String), most: usize) -> Result<Self, LogError> {
        let proof = merkle::inclusion(index, size, &TreeFiles::new(folder, size))?.unwrap_or_default();
        let mut rotations = rotation::load(folder).map_err(LogError::Disk)?;
        rotations.truncate(most);
        let entry = entry(folder, index, size)?;
        let signed = Checkpoint::from_note(checkpoint.as_bytes()).ok().map(|(checkpoint, _)| checkpoint.root);
        if signed != root_of_inclusion(index, size, leaf_hash(entry.as_bytes()), &proof) {
            let text = format!(
                "entry {index} ({}) is not what was logged, or a tile is not: the checkpoint of size {size} does not hold it",
                tiles::path(Row::Entries, index / WIDTH, tiles::width(Row::Entries, index / WIDTH, size))
            );
            return Err(LogError::Contradiction(text));
        }
        Ok(Self { entry, index, proof, checkpoint, rotations, salt: None })
    }

    /// Its file.
    pub fn to_text(&self) -> String {
        let file = File {
            kind: TYPE.to_owned(),
            entry: self.entry.clone(),
            proof: self.to_proof(),
            rotations: self.rotations.clone(),
            salt: self.salt,
        };
        // Texts alone can always be written.
        serde_json::to_string_pretty(&file).unwrap_or_default() + "\n"
    }

    /// The proof alone, in the form of c2sp.org/tlog-proof.
    pub fn to_proof(&self) -> String {
        let hashes: String = self.proof.iter().map(|hash| format!("{hash}\n")).collect();
        format!("{PROOF}\nindex {}\n{hashes}\n{}", self.index, self.checkpoint)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it is too large or has another form.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > LIMIT_BYTES {
            return Err(Malformed(format!("a receipt has at most {LIMIT_BYTES} bytes")));
        }
        let file: File =
            serde_json::from_slice(bytes).map_err(|error| Malformed(format!("it is no receipt: {error}")))?;
        if file.kind != TYPE {
            return Err(Malformed(format!("its type is {:?}, not {TYPE:?}", file.kind)));
        }
        let (index, proof, checkpoint) = parse_proof(&file.proof)?;
        Ok(Self { entry: file.entry, index, proof, checkpoint, rotations: file.rotations, salt: file.salt })
    }

    /// Verifies that a text is the prompt, or the answer, that the entry commits to. The receipt itself is not verified by this.
    ///
    /// # Errors
    /// What does not fit: the entry commits to none, or to another text, or by another salt.
    pub fn shows(&self, which: Which, salt: &Salt, text: &[u8]) -> Result<(), Fault> {
        let (place, word) = (format!("entry {} of the receipt", self.index), which.name());
        let fault = |what: String| Fault::new(place.clone(), what);
        let committed: Committed = serde_json::from_str(&self.entry)
            .map_err(|error| fault(format!("it is no entry of an exchange: {error}")))?;
        let (commitment, bytes) = match which {
            Which::Prompt => (committed.prompt, committed.bytes_in),
            Which::Answer => (committed.answer, committed.bytes_out),
        };
        let Some(commitment) = commitment else { return Err(fault(format!("it commits to no {word}"))) };
        if salt.commit(text) == commitment {
            return Ok(());
        }
        if text.len() as u64 != bytes {
            return Err(fault(format!("the {word} had {bytes} bytes, this text has {}", text.len())));
        }
        Err(fault(format!("it commits to another {word}, or the salt is another")))
    }

    /// Verifies it against whom the policy trusts. Whether enough witnesses cosigned is in the standing.
    ///
    /// # Errors
    /// The first fault, with what and where.
    pub fn verify(&self, policy: &Policy) -> Result<Standing, Fault> {
        let checkpoint = Checkpoint::from_note(self.checkpoint.as_bytes());
        let (checkpoint, _) = checkpoint.map_err(|error| Fault::new("checkpoint of the receipt", error))?;
        let mut trusted = policy.clone();
        let refused = rotation::apply_all(&mut trusted, &checkpoint.origin, &self.rotations);
        let standing = trusted.standing(self.checkpoint.as_bytes()).map_err(|error| {
            let text = refused.map_or(error.to_string(), |refused| format!("{error}; and {refused}"));
            Fault::new("checkpoint of the receipt", text)
        })?;
        let root = root_of_inclusion(self.index, checkpoint.size, leaf_hash(self.entry.as_bytes()), &self.proof);
        let place = format!("entry {} of the receipt", self.index);
        match root {
            None => {
                let (steps, size) = (self.proof.len(), checkpoint.size);
                let text = format!("a proof of {steps} hashes does not lead from there to a tree of {size} entries");
                Err(Fault::new(place, text))
            }
            Some(root) if root != checkpoint.root => {
                let text = format!(
                    "it and its proof lead to the root {root}, the checkpoint signs {}: the entry, its index or the proof was \
                     changed",
                    checkpoint.root
                );
                Err(Fault::new(place, text))
            }
            Some(_) => match canonical::check(self.entry.as_bytes()) {
                Ok(()) => Ok(standing),
                Err(what) => Err(Fault::new(
                    place,
                    format!("it is not written as RFC 8785 asks, so it may say two things: {what}"),
                )),
            },
        }
    }
}

fn parse_proof(text: &str) -> Result<(u64, Vec<Hash>, String), Malformed> {
    let wrong = |what: &str| Malformed(format!("its proof is no tlog-proof: {what}"));
    let (head, checkpoint) = text.split_once("\n\n").ok_or_else(|| wrong("no empty line before the checkpoint"))?;
    let mut lines = head.lines();
    if lines.next() != Some(PROOF) {
        return Err(wrong(&format!("its first line is not {PROOF}")));
    }
    let mut lines = lines.skip_while(|line| line.starts_with("extra "));
    let index = lines.next().and_then(|line| line.strip_prefix("index "));
    let index = index.and_then(|text| text.parse().ok().filter(|index: &u64| index.to_string() == text));
    let index = index.ok_or_else(|| wrong("no index"))?;
    let hashes: Option<Vec<Hash>> = lines.map(Hash::parse).collect();
    let hashes =
        hashes.filter(|hashes| hashes.len() <= 64).ok_or_else(|| wrong("a line is no hash, or there are too many"))?;
    if checkpoint.len() > NOTE_LIMIT_BYTES {
        return Err(wrong("its checkpoint is too long"));
    }
    Ok((index, hashes, checkpoint.to_owned()))
}

/// An entry as text.
///
/// # Errors
/// When its bundle cannot be read.
pub fn entry(folder: &Path, index: u64, size: u64) -> Result<String, LogError> {
    let entries = tiles::read_entries(folder, index / WIDTH, size)?;
    let entry = usize::try_from(index % WIDTH).ok().and_then(|at| entries.into_iter().nth(at)).unwrap_or_default();
    String::from_utf8(entry).map_err(|_| LogError::Missing(format!("entry {index} is not text")))
}
