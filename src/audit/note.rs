//! Signed notes and the keys that verify them (c2sp.org/signed-note), as checkpoints, cosignatures and rotations are written.
//!
//! A note is a text and signature lines; signatures by unknown keys are carried along and mean nothing. Bounds: a note of at
//! most 512 KiB with at most 132 signatures. ML-DSA-65 has no type byte of its own there, so it uses 0xff and an identifier, as
//! the specification asks: `0xff ‖ "marg-note/ml-dsa-65/v1\n" ‖ public key`.

use std::fmt;

use aws_lc_rs::signature::{ML_DSA_44, ML_DSA_65, UnparsedPublicKey};
use data_encoding::{BASE64, HEXLOWER};

use crate::audit::merkle::sha256;

/// The largest note that is read.
pub const NOTE_LIMIT_BYTES: usize = 512 * 1024;

/// The most signatures of a note: those of the log and of 64 witnesses with two keys. The specification asks for at least 16.
const SIGNATURES_LIMIT: usize = 132;

/// How a signature is made. Source: c2sp.org/signed-note, section "Signature types", and c2sp.org/tlog-cosignature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// Ed25519 over the note's text (type 0x01).
    Ed25519,
    /// ML-DSA-65 with an empty context over the note's text (type 0xff with an identifier).
    MlDsa65,
    /// A timestamped Ed25519 cosignature, `cosignature/v1` (type 0x04).
    CosignatureEd25519,
    /// A timestamped ML-DSA-44 cosignature, `subtree/v1` (type 0x06).
    CosignatureMlDsa44,
}

impl Algorithm {
    const ALL: [Self; 4] = [Self::Ed25519, Self::MlDsa65, Self::CosignatureEd25519, Self::CosignatureMlDsa44];

    /// What stands before the public key in a verifier key and in the hash that gives the key id.
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Ed25519 => &[1],
            Self::MlDsa65 => b"\xffmarg-note/ml-dsa-65/v1\n",
            Self::CosignatureEd25519 => &[4],
            Self::CosignatureMlDsa44 => &[6],
        }
    }

    /// The size of a public key in bytes.
    fn key_bytes(self) -> usize {
        match self {
            Self::Ed25519 | Self::CosignatureEd25519 => 32,
            Self::MlDsa65 => 1952,
            Self::CosignatureMlDsa44 => 1312,
        }
    }

    /// The name that messages use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "Ed25519",
            Self::MlDsa65 => "ML-DSA-65",
            Self::CosignatureEd25519 => "Ed25519 cosignature",
            Self::CosignatureMlDsa44 => "ML-DSA-44 cosignature",
        }
    }
}

/// Why a note, a key or a checkpoint cannot be read: one sentence without its first capital.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

fn malformed<T>(text: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed(text.into()))
}

/// A public key with its name. Its text form is the C2SP verifier key: `name+id+base64(type ‖ key)`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    name: String,
    algorithm: Algorithm,
    bytes: Vec<u8>,
    id: [u8; 4],
}

impl PublicKey {
    /// A key of that name.
    ///
    /// # Errors
    /// When the name holds spaces, plus signs or control characters, or the key has the wrong size.
    pub fn new(name: &str, algorithm: Algorithm, bytes: &[u8]) -> Result<Self, Malformed> {
        if !is_name(name) {
            return malformed(format!("{name:?} is no key name: it is empty or holds spaces, + or control characters"));
        }
        if bytes.len() != algorithm.key_bytes() {
            let (algorithm, right) = (algorithm.name(), algorithm.key_bytes());
            return malformed(format!("a key of {algorithm} has {right} bytes, not {}", bytes.len()));
        }
        let digest = sha256(&[name.as_bytes(), b"\n", algorithm.prefix(), bytes]);
        let id = digest.0.first_chunk().copied().unwrap_or_default();
        Ok(Self { name: name.to_owned(), algorithm, bytes: bytes.to_vec(), id })
    }

    /// Reads a verifier key.
    ///
    /// # Errors
    /// When it has another form, its id is not its own, or its type is unknown.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return malformed("a verifier key is written NAME+ID+BASE64");
        };
        let Ok(key) = BASE64.decode(key.as_bytes()) else {
            return malformed(format!("the key of {name} is not base64"));
        };
        let known = Algorithm::ALL.into_iter().find_map(|algorithm| {
            let bytes = key.strip_prefix(algorithm.prefix())?;
            (bytes.len() == algorithm.key_bytes()).then_some((algorithm, bytes))
        });
        let Some((algorithm, bytes)) = known else {
            return malformed(format!("the key of {name} is of a type that this program does not know"));
        };
        let key = Self::new(name, algorithm, bytes)?;
        if HEXLOWER.encode(&key.id) != id {
            let right = HEXLOWER.encode(&key.id);
            return malformed(format!("the key of {name} has the id {right}, but {id} is written: it was edited"));
        }
        Ok(key)
    }

    /// Whose key it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it verifies.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw key.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The key id, as eight hexadecimal digits.
    pub fn id(&self) -> String {
        HEXLOWER.encode(&self.id)
    }

    /// Whether a line names this key.
    pub fn signs(&self, line: &SignatureLine) -> bool {
        self.name == line.name && self.id == line.id
    }

    /// A line for a signature by this key.
    pub fn line(&self, signature: Vec<u8>) -> SignatureLine {
        SignatureLine { name: self.name.clone(), id: self.id, signature }
    }

    /// Whether `signature` is one over `message` by this key, without regard to what the algorithm wraps around a message.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self.algorithm {
            Algorithm::Ed25519 | Algorithm::CosignatureEd25519 => verifies_ed25519(&self.bytes, message, signature),
            Algorithm::MlDsa65 => UnparsedPublicKey::new(&ML_DSA_65, &self.bytes).verify(message, signature).is_ok(),
            Algorithm::CosignatureMlDsa44 => {
                UnparsedPublicKey::new(&ML_DSA_44, &self.bytes).verify(message, signature).is_ok()
            }
        }
    }
}

fn verifies_ed25519(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let key = key.try_into().ok().and_then(|bytes| ed25519_dalek::VerifyingKey::from_bytes(bytes).ok());
    let signature = ed25519_dalek::Signature::from_slice(signature).ok();
    key.zip(signature).is_some_and(|(key, signature)| key.verify_strict(message, &signature).is_ok())
}

impl fmt::Display for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = BASE64.encode(&[self.algorithm.prefix(), &self.bytes].concat());
        write!(out, "{}+{}+{key}", self.name, self.id())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}+{} ({})", self.name, self.id(), self.algorithm.name())
    }
}

/// Whether a text may name a key.
pub fn is_name(name: &str) -> bool {
    let fits = |character: char| !character.is_whitespace() && !character.is_control() && character != '+';
    !name.is_empty() && name.len() <= 255 && name.chars().all(fits)
}

/// One signature of a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureLine {
    /// The name of the key.
    pub name: String,
    /// The key id.
    pub id: [u8; 4],
    /// What the key made.
    pub signature: Vec<u8>,
}

impl SignatureLine {
    /// Reads a line without its end.
    ///
    /// # Errors
    /// When it has another form.
    pub fn parse(line: &str) -> Result<Self, Malformed> {
        let Some((name, blob)) = line.strip_prefix("— ").and_then(|rest| rest.split_once(' ')) else {
            return malformed("a signature line is written `— NAME BASE64`");
        };
        if !is_name(name) {
            return malformed(format!("{name:?} is no key name"));
        }
        let blob = BASE64.decode(blob.as_bytes()).ok();
        match blob.as_deref().and_then(<[u8]>::split_first_chunk) {
            Some((id, signature)) if !signature.is_empty() => {
                Ok(Self { name: name.to_owned(), id: *id, signature: signature.to_vec() })
            }
            _ => malformed(format!("the signature by {name} is not base64 of a key id and a signature")),
        }
    }
}

impl fmt::Display for SignatureLine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "— {} {}", self.name, BASE64.encode(&[&self.id, self.signature.as_slice()].concat()))
    }
}

/// A text with signatures, read but not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The text, with its last line end.
    pub text: String,
    /// The signatures, in the order written; those of unknown keys too.
    pub signatures: Vec<SignatureLine>,
}

impl Note {
    /// Reads a note.
    ///
    /// # Errors
    /// When it is too long or has another form.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > NOTE_LIMIT_BYTES {
            return malformed(format!("a note has at most {NOTE_LIMIT_BYTES} bytes"));
        }
        let Ok(text) = std::str::from_utf8(bytes) else { return malformed("it is not UTF-8") };
        if text.chars().any(|character| character < ' ' && character != '\n') {
            return malformed("it holds control characters");
        }
        let Some(end) = text.rfind("\n\n") else {
            return malformed("no empty line parts the text from the signatures");
        };
        let (body, lines) = text.split_at(end + 1);
        let Some(lines) = lines.strip_prefix('\n').and_then(|lines| lines.strip_suffix('\n')) else {
            return malformed("the last signature line has no end");
        };
        let signatures: Vec<SignatureLine> = lines.split('\n').map(SignatureLine::parse).collect::<Result<_, _>>()?;
        if signatures.len() > SIGNATURES_LIMIT {
            return malformed(format!("a note has at most {SIGNATURES_LIMIT} signatures"));
        }
        Ok(Self { text: body.to_owned(), signatures })
    }

    /// Puts signatures in; a later one by the same key takes the place of the earlier.
    pub fn add(&mut self, lines: impl IntoIterator<Item = SignatureLine>) {
        for line in lines {
            self.signatures.retain(|other| (&other.name, other.id) != (&line.name, line.id));
            self.signatures.push(line);
        }
    }

    /// The signature that names a key.
    pub fn by(&self, key: &PublicKey) -> Option<&SignatureLine> {
        self.signatures.iter().find(|line| key.signs(line))
    }
}

impl fmt::Display for Note {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.text)?;
        self.signatures.iter().try_for_each(|line| write!(out, "{line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of golang.org/x/mod/sumdb/note, on which c2sp.org/signed-note builds.
    const VERIFIER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const NOTE: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n\
        \n\
        — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn the_note_of_the_specification_verifies() {
        let key = PublicKey::parse(VERIFIER).unwrap();
        assert_eq!(key.to_string(), VERIFIER);
        let note = Note::parse(NOTE.as_bytes()).unwrap();
        assert_eq!(note.to_string(), NOTE);
        assert!(key.verifies(note.text.as_bytes(), &note.by(&key).unwrap().signature));
        assert!(!key.verifies(b"another text\n", &note.by(&key).unwrap().signature));
    }

    #[test]
    fn an_edited_key_name_or_id_is_named() {
        let renamed = VERIFIER.replace("PeterNeumann", "PeterNewmann");
        assert!(PublicKey::parse(&renamed).unwrap_err().0.contains("it was edited"));
        assert!(PublicKey::parse(&VERIFIER.replace("c74f20a3", "c74f20a4")).unwrap_err().0.contains("it was edited"));
    }

    #[test]
    fn malformed_notes_are_refused() {
        for (text, part) in [
            ("no signature\n", "no empty line"),
            ("text\n\n— name\n", "written"),
            ("text\n\n— name AAAAAA==\n", "not base64 of"),
            ("text\n\n— na+me AAAAAAA=\n", "no key name"),
            ("text\n\n— name AAAAAAA=", "has no end"),
            ("text\r\n\n— name AAAAAAA=\n", "control"),
        ] {
            let error = Note::parse(text.as_bytes()).unwrap_err().0;
            assert!(error.contains(part), "{text:?}: {error}");
        }
        let many = format!("text\n\n{}", "— name AAAAAAA=\n".repeat(133));
        assert!(Note::parse(many.as_bytes()).is_err());
    }
}
