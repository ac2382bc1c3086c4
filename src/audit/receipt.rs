//! Receipts: one entry with everything that proves it, in one file that needs nobody's server.
//!
//! A receipt is a JSON object: the entry's text, a proof in the form of c2sp.org/tlog-proof (index, inclusion proof, checkpoint
//! with all its signatures and cosignatures), and the rotations by which the log came to the keys that signed.

use serde::{Deserialize, Serialize};

use crate::audit::checkpoint::Checkpoint;
use crate::audit::log::{Log, LogError};
use crate::audit::merkle::{self, Hash, leaf_hash, root_of_inclusion};
use crate::audit::note::{Malformed, NOTE_LIMIT_BYTES};
use crate::audit::policy::{Policy, Standing};
use crate::audit::rotation;
use crate::audit::tiles::{self, TreeFiles, WIDTH};
use crate::audit::verify::Fault;

/// What a receipt says it is.
const TYPE: &str = "marg-audit-receipt/v1";

/// The first line of a proof. Source: c2sp.org/tlog-proof.
const PROOF: &str = "c2sp.org/tlog-proof@v1";

/// The largest receipt that is read: an entry, a note and some rotations.
const LIMIT_BYTES: usize = 4 * 1024 * 1024;

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
}

impl Receipt {
    /// The receipt of an entry: under the last witnessed checkpoint that holds it, else under the last one.
    ///
    /// # Errors
    /// [`LogError::Missing`] when there is no such entry, it is not under a checkpoint yet, or it was pruned.
    pub fn make(log: &Log, index: u64) -> Result<Self, LogError> {
        let (last, witnessed) = log.published();
        let holds = |size: u64| index < size;
        let published =
            witnessed.filter(|one| holds(one.checkpoint.size)).or(last.filter(|one| holds(one.checkpoint.size)));
        let published = published.ok_or_else(|| {
            LogError::Missing(format!("entry {index} is not under a checkpoint yet; ask again in a second"))
        })?;
        let (folder, size) = (log.log_folder(), published.checkpoint.size);
        if index < log.status().pruned {
            return Err(LogError::Missing(format!("entry {index} is past its retention and was deleted")));
        }
        let nodes = TreeFiles::new(&folder, size);
        let proof = merkle::inclusion(index, size, &nodes)?.unwrap_or_default();
        let before = log.rotations().into_iter().filter(|rotation| *rotation < size).count();
        let mut rotations = rotation::load(&folder).map_err(LogError::Disk)?;
        rotations.truncate(before);
        let entry = entry(&folder, index, size)?;
        Ok(Self { entry, index, proof, checkpoint: published.note.to_string(), rotations })
    }

    /// Its file.
    pub fn to_text(&self) -> String {
        let file = File {
            kind: TYPE.to_owned(),
            entry: self.entry.clone(),
            proof: self.to_proof(),
            rotations: self.rotations.clone(),
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
        Ok(Self { entry: file.entry, index, proof, checkpoint, rotations: file.rotations })
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
            Some(_) => Ok(standing),
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
pub fn entry(folder: &std::path::Path, index: u64, size: u64) -> Result<String, LogError> {
    let entries = tiles::read_entries(folder, index / WIDTH, size)?;
    let entry = usize::try_from(index % WIDTH).ok().and_then(|at| entries.into_iter().nth(at)).unwrap_or_default();
    String::from_utf8(entry).map_err(|_| LogError::Missing(format!("entry {index} is not text")))
}
