//! Permits on paper: a signed token that says what the gate admitted, for the provider or for the caller.
//!
//! A compact JWS (RFC 7515) with Ed25519 (RFC 8037), bound to the exchange, the key, the model, the body's hash, an audience
//! and an expiry, always below 4 KiB. It can only be made of a [`Permit`]. Anybody verifies it offline with the keys that are
//! published as a JWK set (RFC 7517); `tests/permit/verify.py` does it in Python. Only `EdDSA` is accepted, whatever a token
//! says of itself.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::kavach::verdict::Permit;
use crate::unit::clock::Timestamp;

/// The longest token, in bytes, so that it fits where headers do.
pub const MAX_BYTES: usize = 4_095;
/// What a token says it is, so that one that was signed for something else is not taken for a permit.
const TYPE: &str = "marg-permit+jwt";
/// How far the clocks of signer and verifier may be apart.
const LEEWAY_SECONDS: i64 = 60;

/// What a permit says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The exchange.
    pub jti: String,
    /// The key's id.
    pub sub: String,
    /// For whom it is.
    pub aud: String,
    /// When it was signed: seconds since 1970.
    pub iat: i64,
    /// Until when it is good: seconds since 1970.
    pub exp: i64,
    /// What was admitted, as policies name it.
    pub action: String,
    /// The provider's name.
    pub provider: String,
    /// The model.
    pub model: String,
    /// The SHA-256 of the body as it is sent, in lower-case hexadecimal.
    pub body_sha256: String,
}

/// What a permit is bound to besides what was admitted.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    /// The exchange's id.
    pub exchange: &'a str,
    /// The body as it is sent.
    pub body: &'a [u8],
    /// For whom it is.
    pub audience: &'a str,
    /// When.
    pub at: Timestamp,
    /// For how long; less than a second counts as one.
    pub ttl: Duration,
}

/// Why a token is no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not a compact JWS of at most 4,095 bytes with the claims of a permit.
    #[error("this is not a permit")]
    Malformed,
    /// It names another algorithm or another type.
    #[error("the token is not signed with EdDSA or is of another type than {TYPE}")]
    Kind,
    /// None of the keys has its id.
    #[error("no key has the id that the token names")]
    UnknownKey,
    /// The signature does not fit.
    #[error("the signature is not that of the key")]
    Signature,
    /// It is for somebody else.
    #[error("the permit is for another audience")]
    Audience,
    /// It is past its expiry.
    #[error("the permit has expired")]
    Expired,
    /// It was signed later than now.
    #[error("the permit is not good yet")]
    TooEarly,
    /// It is of another body.
    #[error("the permit is for another body")]
    Body,
    /// It would be longer than 4,095 bytes.
    #[error("the permit would be longer than {MAX_BYTES} bytes")]
    TooLong,
}

/// The key that signs permits. It shows nowhere.
pub struct PermitKey {
    key: SigningKey,
    id: String,
}

impl std::fmt::Debug for PermitKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("PermitKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl PermitKey {
    /// The key of a seed of 32 secret, random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        Self { id: thumbprint(&key.verifying_key()), key }
    }

    /// Its id: the thumbprint of RFC 7638.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Signs a permit.
    ///
    /// # Errors
    /// [`TokenError::TooLong`].
    ///
    /// *Cost*: a hash of the body and about 20 µs.
    pub fn sign(&self, permit: &Permit, bound: &Bound<'_>) -> Result<String, TokenError> {
        let ttl = i64::try_from(bound.ttl.as_secs().max(1)).unwrap_or(i64::MAX);
        let claims = Claims {
            jti: bound.exchange.to_owned(),
            sub: permit.key().to_string(),
            aud: bound.audience.to_owned(),
            iat: bound.at.seconds(),
            exp: bound.at.seconds().saturating_add(ttl),
            action: permit.action().name().to_owned(),
            provider: permit.provider().to_string(),
            model: permit.model().to_string(),
            body_sha256: body_hash(bound.body),
        };
        let header = format!("{{\"alg\":\"EdDSA\",\"kid\":\"{}\",\"typ\":\"{TYPE}\"}}", self.id);
        let claims = serde_json::to_vec(&claims).map_err(|_| TokenError::Malformed)?;
        let encode = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        let signed = format!("{}.{}", encode(header.as_bytes()), encode(&claims));
        let signature = self.key.sign(signed.as_bytes());
        let token = format!("{signed}.{}", encode(&signature.to_bytes()));
        if token.len() > MAX_BYTES { Err(TokenError::TooLong) } else { Ok(token) }
    }

    /// The public key as a JWK set. Sets of several keys are made by joining their lists.
    pub fn jwks(&self) -> Value {
        let x = BASE64URL_NOPAD.encode(self.key.verifying_key().as_bytes());
        json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.id, "x": x }] })
    }
}

fn body_hash(body: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, body).as_ref())
}

/// *Source*: RFC 7638 section 3 and RFC 8037 appendix A.3.
fn thumbprint(key: &VerifyingKey) -> String {
    let x = BASE64URL_NOPAD.encode(key.as_bytes());
    let canonical = format!("{{\"crv\":\"Ed25519\",\"kty\":\"OKP\",\"x\":\"{x}\"}}");
    BASE64URL_NOPAD.encode(digest(&SHA256, canonical.as_bytes()).as_ref())
}

/// Verifies a token by the keys of a JWK set, offline.
///
/// # Errors
/// The first thing that is wrong with it; nothing of it may be believed then.
pub fn verify(token: &str, jwks: &Value, audience: &str, now: Timestamp) -> Result<Claims, TokenError> {
    if token.len() > MAX_BYTES {
        return Err(TokenError::Malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
    let decode = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| TokenError::Malformed);
    let header: Value = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed)?;
    let field = |name: &str| header.get(name).and_then(Value::as_str);
    if field("alg") != Some("EdDSA") || field("typ") != Some(TYPE) || header.get("crit").is_some() {
        return Err(TokenError::Kind);
    }
    let key = find(jwks, field("kid").ok_or(TokenError::UnknownKey)?).ok_or(TokenError::UnknownKey)?;
    let signature = Signature::from_slice(&decode(signature)?).map_err(|_| TokenError::Signature)?;
    key.verify_strict(signed.as_bytes(), &signature).map_err(|_| TokenError::Signature)?;
    let claims: Claims = serde_json::from_slice(&decode(claims)?).map_err(|_| TokenError::Malformed)?;
    if claims.aud != audience {
        return Err(TokenError::Audience);
    }
    if claims.exp <= now.seconds() {
        return Err(TokenError::Expired);
    }
    if claims.iat > now.seconds().saturating_add(LEEWAY_SECONDS) {
        return Err(TokenError::TooEarly);
    }
    Ok(claims)
}

impl Claims {
    /// Whether it is for that body.
    ///
    /// # Errors
    /// [`TokenError::Body`].
    pub fn check_body(&self, body: &[u8]) -> Result<(), TokenError> {
        if self.body_sha256 == body_hash(body) { Ok(()) } else { Err(TokenError::Body) }
    }
}

/// The key of that id, if the set has it and it is what it says.
fn find(jwks: &Value, id: &str) -> Option<VerifyingKey> {
    let keys = jwks.get("keys")?.as_array()?;
    let key = keys.iter().find(|key| key.get("kid").and_then(Value::as_str) == Some(id))?;
    let is = |name: &str, value: &str| key.get(name).and_then(Value::as_str) == Some(value);
    if !is("kty", "OKP") || !is("crv", "Ed25519") {
        return None;
    }
    let bytes = BASE64URL_NOPAD.decode(key.get("x")?.as_str()?.as_bytes()).ok()?;
    VerifyingKey::from_bytes(bytes.as_slice().try_into().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kavach::call::{Call, Target};

    const BODY: &[u8] = b"{\"model\":\"gpt-4.1-mini\"}";
    /// The token of `signed`, also read by `tests/permit/verify.py`.
    const GOLDEN: &str = include_str!("../../tests/permit/token.txt");
    const KEYS: &str = include_str!("../../tests/permit/jwks.json");

    fn now() -> Timestamp {
        Timestamp(1_800_000_000_000_000)
    }

    fn permit(model: &str) -> Permit {
        let mut call = Call {
            target: Target { provider: "openai".into(), model: model.into(), ..Target::default() },
            ..Call::default()
        };
        call.caller.key = "key_01".into();
        Permit::for_call(&call)
    }

    fn signed(audience: &str, ttl: u64) -> String {
        let key = PermitKey::from_seed(&[7; 32]);
        let bound = Bound { exchange: "0190-exchange", body: BODY, audience, at: now(), ttl: Duration::from_secs(ttl) };
        key.sign(&permit("gpt-4.1-mini"), &bound).unwrap()
    }

    fn keys() -> Value {
        PermitKey::from_seed(&[7; 32]).jwks()
    }

    #[test]
    fn a_permit_verifies_with_the_public_key_alone_and_says_what_was_admitted() {
        let token = signed("https://api.example", 60);
        assert!(token.len() < 1_024, "{}", token.len());
        let claims = verify(&token, &keys(), "https://api.example", now()).unwrap();
        assert_eq!((claims.jti.as_str(), claims.sub.as_str()), ("0190-exchange", "key_01"));
        assert_eq!((claims.model.as_str(), claims.provider.as_str()), ("gpt-4.1-mini", "openai"));
        assert_eq!((claims.action.as_str(), claims.exp - claims.iat), ("chat", 60));
        assert_eq!(claims.check_body(BODY), Ok(()));
        assert_eq!(claims.check_body(b"other"), Err(TokenError::Body));
    }

    #[test]
    fn the_token_that_other_languages_are_tested_with_is_the_one_that_is_made() {
        assert_eq!(signed("https://api.example", 60), GOLDEN.trim());
        assert_eq!(keys(), serde_json::from_str::<Value>(KEYS).unwrap());
    }

    #[test]
    fn audience_and_ttl_have_an_effect() {
        let token = signed("a", 30);
        let at = |seconds: u64| now().plus(Duration::from_secs(seconds));
        assert!(verify(&token, &keys(), "a", at(29)).is_ok());
        assert_eq!(verify(&token, &keys(), "a", at(30)), Err(TokenError::Expired));
        assert_eq!(verify(&token, &keys(), "b", at(0)), Err(TokenError::Audience));
        let early = now().minus(Duration::from_secs(61));
        assert_eq!(verify(&token, &keys(), "a", early), Err(TokenError::TooEarly));
    }

    #[test]
    fn every_changed_byte_and_every_trick_is_refused() {
        let token = signed("a", 60);
        for place in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(verify(&changed, &keys(), "a", now()).is_err(), "{place}");
        }
        let parts: Vec<&str> = token.split('.').collect();
        let with = |header: &str| format!("{}.{}.{}", BASE64URL_NOPAD.encode(header.as_bytes()), parts[1], parts[2]);
        let id = PermitKey::from_seed(&[7; 32]).id().to_owned();
        for header in ["{\"alg\":\"none\"}", "{\"alg\":\"HS256\"}", "{}", "{\"alg\":\"EdDSA\",\"typ\":\"JWT\"}"] {
            assert_eq!(verify(&with(header), &keys(), "a", now()), Err(TokenError::Kind), "{header}");
        }
        let header = format!("{{\"alg\":\"EdDSA\",\"typ\":\"{TYPE}\",\"kid\":\"{id}\",\"crit\":[\"x\"]}}");
        assert_eq!(verify(&with(&header), &keys(), "a", now()), Err(TokenError::Kind));
        assert_eq!(verify(&token, &PermitKey::from_seed(&[8; 32]).jwks(), "a", now()), Err(TokenError::UnknownKey));
        for text in ["", ".", "..", "a.b", "a.b.c", &"x".repeat(5_000)] {
            assert_eq!(verify(text, &keys(), "a", now()), Err(TokenError::Malformed), "{text}");
        }
    }

    #[test]
    fn a_token_is_never_longer_than_a_header_may_be() {
        let key = PermitKey::from_seed(&[7; 32]);
        let bound = Bound { exchange: "e", body: BODY, audience: "a", at: now(), ttl: Duration::from_secs(1) };
        assert!(key.sign(&permit(&"m".repeat(256)), &bound).is_ok());
        assert_eq!(key.sign(&permit(&"m".repeat(5_000)), &bound), Err(TokenError::TooLong));
    }
}
