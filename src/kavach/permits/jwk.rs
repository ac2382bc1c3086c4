//! Public keys of permits: JSON Web Keys, and sets of them.
//!
//! An Ed25519 key is an `OKP` (RFC 8037), an ML-DSA-65 key an `AKP` (RFC 9964); both have the thumbprint of RFC 7638 as their
//! id. So a key cannot be passed off under another's id or algorithm: whoever reads a set computes the id again.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ML_DSA_65, UnparsedPublicKey};
use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::{Signature, VerifyingKey};
use serde_json::{Value, json};

use crate::dialect::json::{self, JsonError};

/// The largest set that is read, in bytes.
pub const MAX_SET_BYTES: usize = 256 * 1024;
/// The most keys of a set that is read.
const MAX_KEYS: usize = 256;

/// What permits are signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Ed25519 (RFC 8032).
    Ed25519,
    /// ML-DSA-65 (FIPS 204), which outlives quantum computers.
    MlDsa65,
}

impl Algorithm {
    /// The word for it, as in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::MlDsa65 => "ml-dsa-65",
        }
    }

    /// The algorithm of a word.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Ed25519, Self::MlDsa65].into_iter().find(|one| one.name() == name)
    }

    /// The value of `alg`. Ed25519 is `EdDSA` (RFC 8037), as every JOSE library knows it; the newer word of RFC 9864 is known
    /// to few.
    pub fn jose(self) -> &'static str {
        match self {
            Self::Ed25519 => "EdDSA",
            Self::MlDsa65 => "ML-DSA-65",
        }
    }

    fn key_bytes(self) -> usize {
        match self {
            Self::Ed25519 => 32,
            Self::MlDsa65 => 1_952,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Why a key or a set of keys is refused: a sentence without its first capital.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwkError {
    /// It is no strict JSON.
    #[error("{0}")]
    Json(JsonError),
    /// It is larger than what is read.
    #[error("a set has at most {MAX_SET_BYTES} bytes and {MAX_KEYS} keys")]
    TooLarge,
    /// It has another form.
    #[error("it is no JWK set: {0}")]
    Malformed(&'static str),
    /// It holds the secret part of a key.
    #[error("the key {0} shows its secret part; make a new one, and publish public keys only")]
    Secret(String),
    /// The id is not the key's thumbprint.
    #[error("the key {0} is not the one that its id names; it was edited, or its id is no thumbprint (RFC 7638)")]
    Id(String),
    /// Two keys have one id.
    #[error("the key {0} is there twice")]
    Twice(String),
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwk {
    algorithm: Algorithm,
    id: String,
    bytes: Vec<u8>,
}

impl Jwk {
    /// A key of its raw bytes.
    ///
    /// # Errors
    /// When there are too many or too few of them.
    pub fn new(algorithm: Algorithm, bytes: &[u8]) -> Result<Self, JwkError> {
        if bytes.len() != algorithm.key_bytes() {
            return Err(JwkError::Malformed("a public key has another size"));
        }
        let encoded = BASE64URL_NOPAD.encode(bytes);
        // RFC 7638 section 3: the members that make the key, in order, without blanks. RFC 8037 section 2, RFC 9964 section 5.
        let canonical = match algorithm {
            Algorithm::Ed25519 => format!("{{\"crv\":\"Ed25519\",\"kty\":\"OKP\",\"x\":\"{encoded}\"}}"),
            Algorithm::MlDsa65 => format!("{{\"alg\":\"ML-DSA-65\",\"kty\":\"AKP\",\"pub\":\"{encoded}\"}}"),
        };
        let id = BASE64URL_NOPAD.encode(digest(&SHA256, canonical.as_bytes()).as_ref());
        Ok(Self { algorithm, id, bytes: bytes.to_vec() })
    }

    /// Reads one key of a set; `None` for one that is not for permits (RFC 7517 section 5 has such keys passed over).
    ///
    /// # Errors
    /// When it is for permits, but shows a secret, or is not what it says.
    pub fn read(value: &Value) -> Result<Option<Self>, JwkError> {
        let field = |name: &str| value.get(name).and_then(Value::as_str);
        let id = || field("kid").unwrap_or("without an id").to_owned();
        let (algorithm, encoded) = match (field("kty"), field("crv"), field("alg")) {
            (Some("OKP"), Some("Ed25519"), None | Some("EdDSA")) => (Algorithm::Ed25519, field("x")),
            (Some("AKP"), _, Some("ML-DSA-65")) => (Algorithm::MlDsa65, field("pub")),
            _ => return Ok(None),
        };
        if value.get("d").is_some() || value.get("priv").is_some() {
            return Err(JwkError::Secret(id()));
        }
        if field("use").is_some_and(|purpose| purpose != "sig") {
            return Ok(None);
        }
        let bytes = encoded.and_then(|text| BASE64URL_NOPAD.decode(text.as_bytes()).ok());
        let bytes = bytes.ok_or(JwkError::Malformed("a public key is not base64url without padding"))?;
        let key = Self::new(algorithm, &bytes)?;
        if field("kid") == Some(&key.id) { Ok(Some(key)) } else { Err(JwkError::Id(id())) }
    }

    /// What it verifies.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its id: the thumbprint of RFC 7638.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The key as others read it.
    pub fn to_value(&self) -> Value {
        let (encoded, alg) = (BASE64URL_NOPAD.encode(&self.bytes), self.algorithm.jose());
        match self.algorithm {
            Algorithm::Ed25519 => {
                json!({"kty": "OKP", "crv": "Ed25519", "alg": alg, "use": "sig", "kid": self.id, "x": encoded})
            }
            Algorithm::MlDsa65 => {
                json!({"kty": "AKP", "alg": alg, "use": "sig", "kid": self.id, "pub": encoded})
            }
        }
    }

    /// Whether a signature is this key's. About 40 µs with Ed25519, 80 µs with ML-DSA-65.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self.algorithm {
            Algorithm::Ed25519 => {
                let key = self.bytes.as_slice().try_into().ok().and_then(|key| VerifyingKey::from_bytes(key).ok());
                let signature = Signature::from_slice(signature).ok();
                key.zip(signature).is_some_and(|(key, signature)| key.verify_strict(message, &signature).is_ok())
            }
            Algorithm::MlDsa65 => UnparsedPublicKey::new(&ML_DSA_65, &self.bytes).verify(message, signature).is_ok(),
        }
    }
}

/// A set of public keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JwkSet(Vec<Jwk>);

impl JwkSet {
    /// A set of these.
    pub fn new(keys: Vec<Jwk>) -> Self {
        Self(keys)
    }

    /// Reads a set (RFC 7517 section 5). Keys that are not for permits are passed over.
    ///
    /// # Errors
    /// When it is no set, names a member twice, is too large, or one of its keys is not what it says.
    pub fn parse(text: &[u8]) -> Result<Self, JwkError> {
        if text.len() > MAX_SET_BYTES {
            return Err(JwkError::TooLarge);
        }
        json::scan(text, &mut ()).map_err(JwkError::Json)?;
        let value: Value = serde_json::from_slice(text).map_err(|_| JwkError::Malformed("it is not JSON"))?;
        let listed = value.get("keys").and_then(Value::as_array).ok_or(JwkError::Malformed("it has no list `keys`"))?;
        if listed.len() > MAX_KEYS {
            return Err(JwkError::TooLarge);
        }
        let mut keys: Vec<Jwk> = Vec::new();
        for key in listed.iter().map(Jwk::read) {
            let Some(key) = key? else { continue };
            if keys.iter().any(|other| other.id == key.id) {
                return Err(JwkError::Twice(key.id));
            }
            keys.push(key);
        }
        Ok(Self(keys))
    }

    /// The key of an id.
    pub fn find(&self, id: &str) -> Option<&Jwk> {
        self.0.iter().find(|key| key.id == id)
    }

    /// Its keys, in their order.
    pub fn keys(&self) -> &[Jwk] {
        &self.0
    }

    /// The set as others read it.
    pub fn to_value(&self) -> Value {
        json!({ "keys": self.0.iter().map(Jwk::to_value).collect::<Vec<_>>() })
    }
}
