//! Checkpoints (c2sp.org/tlog-checkpoint) and cosignatures on them (c2sp.org/tlog-cosignature).
//!
//! A checkpoint says: the log of this origin has this size and this root. It is a signed note; the log signs it with Ed25519
//! and ML-DSA-65, witnesses with the timestamped cosignatures. `policy` decides which signatures suffice.

use std::fmt;

use crate::audit::merkle::Hash;
use crate::audit::note::{Algorithm, Malformed, Note, PublicKey};
use crate::unit::clock::Timestamp;

/// The head of a log at one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// The number of entries.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
    /// Further lines, each with its end; empty in checkpoints of ours.
    pub extension: String,
}

impl Checkpoint {
    /// The head of a log of ours.
    pub fn new(origin: &str, size: u64, root: Hash) -> Self {
        Self { origin: origin.to_owned(), size, root, extension: String::new() }
    }

    /// Reads the text of a note.
    ///
    /// # Errors
    /// When it has another form.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let wrong = |what: &str| Malformed(format!("it is no checkpoint: {what}"));
        let mut lines = text.splitn(4, '\n');
        let (Some(origin), Some(size), Some(root), Some(extension)) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(wrong("it has fewer than three lines"));
        };
        if origin.is_empty() {
            return Err(wrong("its origin is empty"));
        }
        let number = size.parse().ok().filter(|number: &u64| number.to_string() == size);
        let number = number.ok_or_else(|| wrong(&format!("its size {size:?} is no decimal number")))?;
        let root = Hash::parse(root).ok_or_else(|| wrong("its root is not base64 of 32 bytes"))?;
        if !extension.is_empty()
            && (!extension.ends_with('\n') || extension.starts_with('\n') || extension.contains("\n\n"))
        {
            return Err(wrong("it has empty lines"));
        }
        Ok(Self { origin: origin.to_owned(), size: number, root, extension: extension.to_owned() })
    }

    /// Reads a note whose text is a checkpoint.
    ///
    /// # Errors
    /// When either has another form.
    pub fn from_note(bytes: &[u8]) -> Result<(Self, Note), Malformed> {
        let note = Note::parse(bytes)?;
        Ok((Self::parse(&note.text)?, note))
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}\n{}\n{}\n{}", self.origin, self.size, self.root, self.extension)
    }
}

/// What a witness signs. `seconds` is POSIX time. Source: c2sp.org/tlog-cosignature, sections "Ed25519 signed message" and
/// "ML-DSA-44 signed message". `None` when a name is too long for its one length byte.
pub fn cosigned_message(key: &PublicKey, seconds: u64, checkpoint: &Checkpoint) -> Option<Vec<u8>> {
    if key.algorithm() == Algorithm::CosignatureEd25519 {
        return Some(format!("cosignature/v1\ntime {seconds}\n{checkpoint}").into_bytes());
    }
    let mut message = b"subtree/v1\n\0".to_vec();
    message.push(u8::try_from(key.name().len()).ok()?);
    message.extend_from_slice(key.name().as_bytes());
    message.extend_from_slice(&seconds.to_be_bytes());
    message.push(u8::try_from(checkpoint.origin.len()).ok()?);
    message.extend_from_slice(checkpoint.origin.as_bytes());
    message.extend_from_slice(&0_u64.to_be_bytes());
    message.extend_from_slice(&checkpoint.size.to_be_bytes());
    message.extend_from_slice(&checkpoint.root.0);
    Some(message)
}

/// When a cosignature was made, if it is a valid one.
pub fn verify_cosignature(key: &PublicKey, signature: &[u8], checkpoint: &Checkpoint) -> Option<Timestamp> {
    let (seconds, signature) = signature.split_first_chunk()?;
    let seconds = u64::from_be_bytes(*seconds);
    let message = cosigned_message(key, seconds, checkpoint)?;
    let micros = i64::try_from(seconds).ok()?.checked_mul(1_000_000)?;
    key.verifies(&message, signature).then_some(Timestamp(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of c2sp.org/tlog-cosignature, with the keys of its two signatures.
    const EXAMPLE: &str = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";

    #[test]
    fn the_checkpoint_of_the_specification_is_read_and_written() {
        let checkpoint = Checkpoint::parse(EXAMPLE).unwrap();
        assert_eq!((checkpoint.size, checkpoint.to_string().as_str()), (20_852_163, EXAMPLE));
    }

    #[test]
    fn each_spelling_of_a_checkpoint_but_one_is_refused() {
        for (from, to) in [
            ("20852163", "020852163"),
            ("20852163", "+20852163"),
            ("20852163", "20852163 "),
            ("20852163", "99999999999999999999"),
            ("2I=", "2J="),
            ("2I=\n", "2I=\n\nmore\n"),
            ("2I=\n", "2I="),
            ("example.com/behind-the-sofa", ""),
        ] {
            assert!(Checkpoint::parse(&EXAMPLE.replace(from, to)).is_err(), "{to:?}");
        }
        let extended = Checkpoint::parse(&format!("{EXAMPLE}more\n")).unwrap();
        assert_eq!(extended.extension, "more\n");
    }

    #[test]
    fn what_a_witness_signs_is_what_the_specification_says() {
        let checkpoint = Checkpoint::parse(EXAMPLE).unwrap();
        let plain = PublicKey::new("w.example/1", Algorithm::CosignatureEd25519, &[7; 32]).unwrap();
        let message = cosigned_message(&plain, 1_679_315_147, &checkpoint).unwrap();
        assert_eq!(message, format!("cosignature/v1\ntime 1679315147\n{EXAMPLE}").into_bytes());
        let quantum = PublicKey::new("w.example/1", Algorithm::CosignatureMlDsa44, &[7; 1312]).unwrap();
        let message = cosigned_message(&quantum, 1_679_315_147, &checkpoint).unwrap();
        assert_eq!(message.len(), 12 + 1 + 11 + 8 + 1 + 27 + 8 + 8 + 32);
        assert_eq!(&message[..14], b"subtree/v1\n\0\x0bw");
    }
}
