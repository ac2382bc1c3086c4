//! What the writer keeps about its log beside the tree: how far it is, how far each journal segment was taken, which keys signed.
//!
//! It is a signed note, so an edited file is seen; an old copy of it contradicts the checkpoint. It is replaced as a whole after
//! the files that it speaks of are on the disk, which makes entries and positions one transaction.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::audit::key::SigningKeys;
use crate::audit::merkle::Hash;
use crate::audit::note::{Note, PublicKey};

/// The first line. No log may have it as its origin.
pub const HEADER: &str = "marg-audit-state/v1";

/// The writer's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The number of entries whose files are on the disk.
    pub size: u64,
    /// The root over them, base64.
    pub root: String,
    /// How far each segment of the journal was taken, in bytes.
    pub positions: BTreeMap<String, u64>,
    /// The verifier keys of every generation, oldest first; the last signs.
    pub generations: Vec<[String; 2]>,
    /// Where the rotations between them are.
    pub rotations: Vec<u64>,
    /// Entry bundles below this index were deleted.
    pub pruned: u64,
    /// The version of the program that wrote it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The size at which this state had to be made again, because it was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebuilt: Option<u64>,
}

impl State {
    /// Its text, signed.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn to_text(&self, keys: &SigningKeys) -> Result<String, serde_json::Error> {
        let text = format!("{HEADER}\n{}\n{}\n", keys.name(), serde_json::to_string(self)?);
        let signatures = vec![keys.classic(&text)];
        Ok(Note { text, signatures }.to_string())
    }

    /// Reads a text that one of the given keys signed; gives the position of that key.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(bytes: &[u8], keys: &[&SigningKeys]) -> Result<(Self, usize), String> {
        let note = Note::parse(bytes).map_err(|error| error.0)?;
        let signed = keys.iter().position(|keys| {
            let key = &keys.public()[0];
            note.by(key).is_some_and(|line| key.verifies(note.text.as_bytes(), &line.signature))
        });
        let Some(signed) = signed else {
            let ours: Vec<String> = keys.iter().map(|keys| format!("{:?}", keys.public()[0])).collect();
            return Err(format!(
                "it is not signed by the log's key ({}): it was edited, or the key is another",
                ours.join(", ")
            ));
        };
        let mut lines = note.text.lines();
        let (header, origin, json) = (lines.next(), lines.next(), lines.next().unwrap_or_default());
        if header != Some(HEADER) || origin != keys.get(signed).map(|keys| keys.name()) {
            return Err("it is not the state of this log".to_owned());
        }
        let state: Self = serde_json::from_str(json).map_err(|error| error.to_string())?;
        Ok((state, signed))
    }

    /// The root.
    pub fn root(&self) -> Option<Hash> {
        Hash::parse(&self.root)
    }

    /// Every key that ever signed this log.
    pub fn keys(&self) -> Vec<PublicKey> {
        self.generations.iter().flatten().filter_map(|key| PublicKey::parse(key).ok()).collect()
    }
}
