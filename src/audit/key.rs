//! The private keys of a log and of a witness: how they are made, kept, wrapped and used.
//!
//! A key file is one JSON object: what it is for, its name, its public keys, and 64 secret bytes (an Ed25519 and an ML-DSA
//! seed), bare or wrapped by a passphrase (Argon2id, AES-256-GCM). It is the same text in a file of mode 0600 and behind a
//! secret reference. Secrets are wiped when dropped and in no message.

use std::fmt;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::signature::{KeyPair, ML_DSA_44_SIGNING, ML_DSA_65_SIGNING, PqdsaKeyPair, PqdsaSigningAlgorithm};
use data_encoding::BASE64;
use ed25519_dalek::Signer;
use secrecy::zeroize::Zeroizing;
use serde::{Deserialize, Serialize};

use crate::audit::checkpoint::{Checkpoint, cosigned_message};
use crate::audit::note::{Algorithm, PublicKey, SignatureLine};
use crate::unit::clock::Timestamp;
use crate::unit::file;
use crate::unit::secret::Secret;

/// What wrapping costs: 64 MiB, 3 passes, one lane. Source: RFC 9106 section 4, the second recommended option with one lane.
const WRAP_MEMORY_KIB: u32 = 64 * 1024;
const WRAP_PASSES: u32 = 3;

/// What a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The checkpoints of a log: Ed25519 and ML-DSA-65.
    Log,
    /// Cosignatures of a witness: Ed25519 and ML-DSA-44.
    Witness,
}

/// Why a key cannot be used: one sentence without its first capital, and nothing secret in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("the key file {0} cannot be used: {1}")]
    File(String, #[source] std::io::Error),
    /// Others than the owner may read the file.
    #[error("others may read the key file {0} (its mode is {1:o}); make it 0600")]
    Open(String, u32),
    /// The text is no key file.
    #[error("it is no key file: {0}")]
    Malformed(String),
    /// It is for something else.
    #[error("the key is for a {0:?}, not for a {1:?}")]
    Purpose(Purpose, Purpose),
    /// It is wrapped and no passphrase was given.
    #[error("the key is wrapped by a passphrase and none is given")]
    NoPassphrase,
    /// The passphrase is another one, or the file was changed.
    #[error("the passphrase does not open the key, or the file was changed")]
    Passphrase,
    /// The system gave no randomness, or the library refused.
    #[error("the cryptographic library refused: {0}")]
    Library(&'static str),
}

/// A pair of private keys that sign as one.
pub struct SigningKeys {
    purpose: Purpose,
    name: String,
    created_at: Timestamp,
    seed: Zeroizing<Vec<u8>>,
    classic: ed25519_dalek::SigningKey,
    quantum: PqdsaKeyPair,
    public: [PublicKey; 2],
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "SigningKeys({:?} {})", self.purpose, self.name)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    v: u32,
    purpose: Purpose,
    name: String,
    created_at: String,
    public: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seed: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wrapped: Option<Wrapped>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapped {
    kdf: String,
    memory_kib: u32,
    passes: u32,
    salt: String,
    aead: String,
    nonce: String,
    sealed: String,
}

/// What a key file says without its passphrase.
#[derive(Clone, Debug)]
pub struct KeySummary {
    /// What it is for.
    pub purpose: Purpose,
    /// The origin of the log, or the name of the witness.
    pub name: String,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// Whether a passphrase wraps it.
    pub wrapped: bool,
    /// Its public keys as verifier keys, Ed25519 first. Not proved to belong to the secret part until that is opened.
    pub public: Vec<String>,
}

impl SigningKeys {
    /// New keys from the system's randomness. `name` is the log's origin or the witness's name.
    ///
    /// # Errors
    /// When the name cannot name a key, or there is no randomness.
    pub fn create(purpose: Purpose, name: &str, now: Timestamp) -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new(vec![0; 64]);
        aws_lc_rs::rand::fill(&mut seed).map_err(|_| KeyError::Library("no randomness"))?;
        Self::from_seed(purpose, name, seed, now)
    }

    /// The keys of 64 secret bytes: the Ed25519 seed, then the ML-DSA seed (FIPS 204, ξ).
    ///
    /// # Errors
    /// When the name cannot name a key or the size is another.
    pub fn from_seed(
        purpose: Purpose,
        name: &str,
        seed: Zeroizing<Vec<u8>>,
        created_at: Timestamp,
    ) -> Result<Self, KeyError> {
        let (signing, ours): (&'static PqdsaSigningAlgorithm, _) = match purpose {
            Purpose::Log => (&ML_DSA_65_SIGNING, [Algorithm::Ed25519, Algorithm::MlDsa65]),
            Purpose::Witness => (&ML_DSA_44_SIGNING, [Algorithm::CosignatureEd25519, Algorithm::CosignatureMlDsa44]),
        };
        let halves = seed.split_first_chunk::<32>().filter(|(_, rest)| rest.len() == 32);
        let (first, second) =
            halves.ok_or_else(|| KeyError::Malformed("the secret part has not 64 bytes".to_owned()))?;
        let classic = ed25519_dalek::SigningKey::from_bytes(first);
        let quantum = PqdsaKeyPair::from_seed(signing, second).map_err(|_| KeyError::Library("ML-DSA seed"))?;
        let key = |algorithm, bytes: &[u8]| {
            PublicKey::new(name, algorithm, bytes).map_err(|error| KeyError::Malformed(error.0))
        };
        let public = [key(ours[0], classic.verifying_key().as_bytes())?, key(ours[1], quantum.public_key().as_ref())?];
        Ok(Self { purpose, name: name.to_owned(), created_at, classic, quantum, public, seed })
    }

    /// Reads a key file's text.
    ///
    /// # Errors
    /// When it is no key file, is for something else, or the passphrase does not open it. Opening a wrapped key costs about
    /// 0.2 s and 64 MiB.
    pub fn open(text: &str, purpose: Purpose, passphrase: Option<&Secret>) -> Result<Self, KeyError> {
        let file = parse(text)?;
        if file.purpose != purpose {
            return Err(KeyError::Purpose(file.purpose, purpose));
        }
        let seed = match (&file.seed, &file.wrapped) {
            (Some(seed), None) => decode("seed", seed)?,
            (None, Some(wrapped)) => wrapped.open(passphrase.ok_or(KeyError::NoPassphrase)?, &file.name)?,
            _ => return Err(KeyError::Malformed("it holds not exactly one of seed and wrapped".to_owned())),
        };
        let created_at = Timestamp::parse(&file.created_at).map_err(KeyError::Malformed)?;
        let keys = Self::from_seed(purpose, &file.name, seed, created_at)?;
        if !keys.public.iter().map(PublicKey::to_string).eq(file.public.iter().cloned()) {
            return Err(KeyError::Malformed("its public keys are not those of its secret part".to_owned()));
        }
        Ok(keys)
    }

    /// Reads a file of mode 0600.
    ///
    /// # Errors
    /// Those of [`SigningKeys::open`]; when the file cannot be read or others may read it.
    pub fn load(path: &Path, purpose: Purpose, passphrase: Option<&Secret>) -> Result<Self, KeyError> {
        let failed = |error| KeyError::File(path.display().to_string(), error);
        let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Open(path.display().to_string(), mode));
        }
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(failed)?);
        Self::open(&text, purpose, passphrase)
    }

    /// The text of a key file, wrapped if there is a passphrase.
    ///
    /// # Errors
    /// When wrapping fails.
    pub fn to_text(&self, passphrase: Option<&Secret>) -> Result<Zeroizing<String>, KeyError> {
        let wrapped = passphrase.map(|passphrase| Wrapped::seal(&self.seed, passphrase, &self.name)).transpose()?;
        let file = File {
            v: 1,
            purpose: self.purpose,
            name: self.name.clone(),
            created_at: self.created_at.rfc3339(),
            public: self.public.iter().map(PublicKey::to_string).collect(),
            seed: wrapped.is_none().then(|| BASE64.encode(&self.seed)),
            wrapped,
        };
        let text = serde_json::to_string_pretty(&file).map_err(|error| KeyError::Malformed(error.to_string()))?;
        Ok(Zeroizing::new(text + "\n"))
    }

    /// Writes a new file of mode 0600 and forces it to the disk: whole, or none. Never replaces one.
    ///
    /// # Errors
    /// When the file is there already or cannot be written.
    pub fn save(&self, path: &Path, passphrase: Option<&Secret>) -> Result<(), KeyError> {
        let text = self.to_text(passphrase)?;
        match file::create(path, text.as_bytes(), 0o600) {
            Ok(true) => Ok(()),
            Ok(false) => Err(KeyError::File(path.display().to_string(), ErrorKind::AlreadyExists.into())),
            Err(error) => Err(KeyError::File(path.display().to_string(), error)),
        }
    }

    /// The origin of the log, or the name of the witness.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public keys: Ed25519, then ML-DSA.
    pub fn public(&self) -> &[PublicKey; 2] {
        &self.public
    }

    /// Signs a note's text with both keys: Ed25519, then ML-DSA. About 0.3 ms.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn sign(&self, text: &str) -> Result<Vec<SignatureLine>, KeyError> {
        let classic = self.classic(text);
        let mut quantum = vec![0; self.quantum.algorithm().signature_len()];
        self.quantum.sign(text.as_bytes(), &mut quantum).map_err(|_| KeyError::Library("ML-DSA signing"))?;
        Ok(vec![classic, self.public[1].line(quantum)])
    }

    /// Signs a note's text with Ed25519 alone, for what only this log reads again. About 20 µs.
    pub fn classic(&self, text: &str) -> SignatureLine {
        self.public[0].line(self.classic.sign(text.as_bytes()).to_bytes().to_vec())
    }

    /// Cosigns a checkpoint as a witness, with both keys.
    ///
    /// # Errors
    /// When a name is too long for a cosignature, or the library refuses.
    pub fn cosign(&self, checkpoint: &Checkpoint, now: Timestamp) -> Result<Vec<SignatureLine>, KeyError> {
        let seconds = u64::try_from(now.seconds()).unwrap_or(0);
        let message =
            |key| cosigned_message(key, seconds, checkpoint).ok_or(KeyError::Library("a name of more than 255 bytes"));
        let classic = self.classic.sign(&message(&self.public[0])?).to_bytes();
        let mut quantum = vec![0; self.quantum.algorithm().signature_len()];
        let second = message(&self.public[1])?;
        self.quantum.sign(&second, &mut quantum).map_err(|_| KeyError::Library("ML-DSA signing"))?;
        let stamped = |signature: &[u8]| [&seconds.to_be_bytes(), signature].concat();
        Ok(vec![self.public[0].line(stamped(&classic)), self.public[1].line(stamped(&quantum))])
    }
}

/// What a key file says without opening it.
///
/// # Errors
/// When it is no key file.
pub fn summary(text: &str) -> Result<KeySummary, KeyError> {
    let File { purpose, name, created_at, public, wrapped, .. } = parse(text)?;
    Ok(KeySummary { purpose, name, created_at, public, wrapped: wrapped.is_some() })
}

fn parse(text: &str) -> Result<File, KeyError> {
    // The sentence of the parser may hold a piece of the text, so only its place is told.
    let file: File = serde_json::from_str(text)
        .map_err(|error| KeyError::Malformed(format!("line {}, column {}", error.line(), error.column())))?;
    match file.v {
        1 => Ok(file),
        other => Err(KeyError::Malformed(format!("its version is {other}, this program knows 1"))),
    }
}

fn decode(field: &str, text: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let bytes = BASE64.decode(text.as_bytes());
    bytes.map(Zeroizing::new).map_err(|_| KeyError::Malformed(format!("{field} is not base64")))
}

impl Wrapped {
    fn seal(seed: &[u8], passphrase: &Secret, name: &str) -> Result<Self, KeyError> {
        let mut random = [0; 28];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| KeyError::Library("no randomness"))?;
        let (salt, nonce) = random.split_at(16);
        let mut wrapped = Self {
            kdf: "argon2id".to_owned(),
            memory_kib: WRAP_MEMORY_KIB,
            passes: WRAP_PASSES,
            salt: BASE64.encode(salt),
            aead: "aes-256-gcm".to_owned(),
            nonce: BASE64.encode(nonce),
            sealed: String::new(),
        };
        let mut sealed = Zeroizing::new(seed.to_vec());
        let (key, nonce) = wrapped.key(passphrase)?;
        let tag = key
            .seal_in_place_separate_tag(nonce, Aad::from(name.as_bytes()), &mut sealed)
            .map_err(|_| KeyError::Library("sealing"))?;
        wrapped.sealed = BASE64.encode(&[sealed.as_slice(), tag.as_ref()].concat());
        Ok(wrapped)
    }

    fn open(&self, passphrase: &Secret, name: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        if self.kdf != "argon2id" || self.aead != "aes-256-gcm" {
            return Err(KeyError::Malformed(format!("it is wrapped by {} and {}", self.kdf, self.aead)));
        }
        // A file of somebody else must not make us take all memory.
        if self.memory_kib > 1024 * 1024 || self.passes > 64 {
            return Err(KeyError::Malformed("its wrapping asks for more than 1 GiB or 64 passes".to_owned()));
        }
        let (key, nonce) = self.key(passphrase)?;
        let mut sealed = decode("sealed", &self.sealed)?;
        let opened = key.open_in_place(nonce, Aad::from(name.as_bytes()), &mut sealed);
        opened.map(|seed| Zeroizing::new(seed.to_vec())).map_err(|_| KeyError::Passphrase)
    }

    fn key(&self, passphrase: &Secret) -> Result<(LessSafeKey, Nonce), KeyError> {
        let params = argon2::Params::new(self.memory_kib, self.passes, 1, Some(32))
            .map_err(|_| KeyError::Malformed("its wrapping has impossible costs".to_owned()))?;
        let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let mut key = Zeroizing::new([0; 32]);
        argon
            .hash_password_into(passphrase.expose().as_bytes(), &decode("salt", &self.salt)?, key.as_mut())
            .map_err(|_| KeyError::Malformed("its salt has an impossible size".to_owned()))?;
        let unbound = UnboundKey::new(&AES_256_GCM, key.as_ref()).map_err(|_| KeyError::Library("AES key"))?;
        let nonce = Nonce::try_assume_unique_for_key(&decode("nonce", &self.nonce)?)
            .map_err(|_| KeyError::Malformed("its nonce has not 12 bytes".to_owned()))?;
        Ok((LessSafeKey::new(unbound), nonce))
    }
}

#[cfg(test)]
mod tests;
