//! The secret keys that sign permits: how they are made, written down and used.
//!
//! A key file is one JSON object with 64 secret bytes, an Ed25519 and an ML-DSA seed, so that adding an algorithm needs no new
//! key. It is the same text in a file of mode 0600 and behind a secret reference. Secrets are wiped when dropped and in no
//! message.

use std::fmt;

use aws_lc_rs::signature::{KeyPair, ML_DSA_65_SIGNING, PqdsaKeyPair};
use data_encoding::BASE64;
use ed25519_dalek::{Signer, SigningKey};
use secrecy::zeroize::{Zeroize, Zeroizing};
use serde::{Deserialize, Serialize};

use crate::kavach::permits::jwk::{Algorithm, Jwk};
use crate::unit::clock::Timestamp;

const VERSION: u32 = 1;
const PURPOSE: &str = "permit";
const SEED_BYTES: usize = 64;

/// Why keys cannot be used: a sentence without its first capital, and nothing secret in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is no key file.
    #[error("it is no key file for permits: {0}; `marg permit key create` makes one")]
    Malformed(String),
    /// The system gave no randomness, or the library refused.
    #[error("the cryptographic library refused: {0}")]
    Library(&'static str),
}

/// The keys that sign permits.
pub struct PermitKeys {
    created_at: Timestamp,
    seed: Zeroizing<Vec<u8>>,
    classic: SigningKey,
    quantum: PqdsaKeyPair,
    public: [Jwk; 2],
}

impl fmt::Debug for PermitKeys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "PermitKeys({})", self.public[0].id())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    v: u32,
    purpose: String,
    created_at: String,
    kids: Vec<String>,
    seed: String,
}

impl Drop for File {
    fn drop(&mut self) {
        self.seed.zeroize();
    }
}

impl PermitKeys {
    /// New keys from the system's randomness.
    ///
    /// # Errors
    /// When there is none.
    pub fn create(now: Timestamp) -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new(vec![0; SEED_BYTES]);
        aws_lc_rs::rand::fill(&mut seed).map_err(|_| KeyError::Library("no randomness"))?;
        Self::from_seed(seed, now)
    }

    /// The keys of 64 secret bytes: the Ed25519 seed, then the ML-DSA seed (FIPS 204, ξ).
    ///
    /// # Errors
    /// When their number is another.
    pub fn from_seed(seed: Zeroizing<Vec<u8>>, created_at: Timestamp) -> Result<Self, KeyError> {
        let halves = seed.split_first_chunk::<32>().filter(|(_, rest)| rest.len() == SEED_BYTES - 32);
        let (first, second) =
            halves.ok_or_else(|| KeyError::Malformed("the secret part has not 64 bytes".to_owned()))?;
        let classic = SigningKey::from_bytes(first);
        let quantum =
            PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, second).map_err(|_| KeyError::Library("ML-DSA seed"))?;
        let key = |algorithm, bytes: &[u8]| Jwk::new(algorithm, bytes).map_err(|_| KeyError::Library("public key"));
        let public = [
            key(Algorithm::Ed25519, classic.verifying_key().as_bytes())?,
            key(Algorithm::MlDsa65, quantum.public_key().as_ref())?,
        ];
        Ok(Self { created_at, classic, quantum, public, seed })
    }

    /// Reads a key file's text.
    ///
    /// # Errors
    /// When it is none.
    pub fn open(text: &str) -> Result<Self, KeyError> {
        // The sentence of the parser may hold a piece of the text, so only its place is told.
        let file: File = serde_json::from_str(text)
            .map_err(|error| KeyError::Malformed(format!("line {}, column {}", error.line(), error.column())))?;
        if (file.v, file.purpose.as_str()) != (VERSION, PURPOSE) {
            let text = format!("it is for {:?}, version {}", file.purpose, file.v);
            return Err(KeyError::Malformed(text));
        }
        let seed = BASE64.decode(file.seed.as_bytes()).map(Zeroizing::new);
        let seed = seed.map_err(|_| KeyError::Malformed("its secret part is not base64".to_owned()))?;
        let created_at = Timestamp::parse(&file.created_at).map_err(KeyError::Malformed)?;
        let keys = Self::from_seed(seed, created_at)?;
        if !keys.public.iter().map(Jwk::id).eq(file.kids.iter().map(String::as_str)) {
            return Err(KeyError::Malformed("its key ids are not those of its secret part".to_owned()));
        }
        Ok(keys)
    }

    /// The text of a key file.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn to_text(&self) -> Result<Zeroizing<String>, KeyError> {
        let file = File {
            v: VERSION,
            purpose: PURPOSE.to_owned(),
            created_at: self.created_at.rfc3339(),
            kids: self.public.iter().map(|key| key.id().to_owned()).collect(),
            seed: BASE64.encode(&self.seed),
        };
        serde_json::to_string_pretty(&file).map(Zeroizing::new).map_err(|_| KeyError::Library("writing"))
    }

    /// Its public keys: Ed25519, ML-DSA-65.
    pub fn public(&self) -> &[Jwk; 2] {
        &self.public
    }

    /// The public key of an algorithm.
    pub fn public_of(&self, algorithm: Algorithm) -> &Jwk {
        let [classic, quantum] = &self.public;
        match algorithm {
            Algorithm::Ed25519 => classic,
            Algorithm::MlDsa65 => quantum,
        }
    }

    /// Signs a text with one of them. About 20 µs with Ed25519; 100 µs at the median with ML-DSA-65, which tries
    /// until a signature fits (FIPS 204 section 3.4).
    ///
    /// # Errors
    /// When the library refuses.
    pub fn sign(&self, algorithm: Algorithm, text: &[u8]) -> Result<Vec<u8>, KeyError> {
        match algorithm {
            Algorithm::Ed25519 => Ok(self.classic.sign(text).to_bytes().to_vec()),
            Algorithm::MlDsa65 => {
                let mut signature = vec![0; self.quantum.algorithm().signature_len()];
                let written =
                    self.quantum.sign(text, &mut signature).map_err(|_| KeyError::Library("ML-DSA signing"))?;
                signature.truncate(written);
                Ok(signature)
            }
        }
    }
}
