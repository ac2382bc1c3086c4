//! A permit on paper: what it says, how it is signed, and how it is verified.
//!
//! With one algorithm it is a compact JWS (RFC 7515 section 7.1), with two a JWS in general JSON serialization (section 7.2.1)
//! whose signatures are over the same bytes, so that a reader that knows one algorithm only makes a compact JWS of that
//! part. A permit is read more strictly than a JWS: its head holds `alg`, `kid` and `typ` and nothing else, every signature on it
//! must be good, no member stands twice and nothing follows. Which algorithm verifies is the key's to say, not the token's.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};

use crate::dialect::json::{self, Fault};
use crate::kavach::config::Mode;
use crate::kavach::permits::jwk::{Algorithm, JwkSet};
use crate::kavach::permits::key::{KeyError, PermitKeys};
use crate::kavach::verdict::Permit;
use crate::unit::clock::Timestamp;

/// The longest permit with a classical signature, in bytes, so that it fits where headers do.
pub const MAX_CLASSIC_BYTES: usize = 4_095;
/// The longest permit, in bytes: an ML-DSA-65 signature alone has 4,412 characters.
pub const MAX_BYTES: usize = 8_191;
/// What a permit says it is, so that what was signed for something else is not taken for one (RFC 8725 section 3.11).
pub const TYPE: &str = "marg-permit+jwt";
/// How far the clocks of signer and verifier may be apart, where the verifier names no other span.
pub const LEEWAY: Duration = Duration::from_secs(60);

/// What a permit says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The permit's id, which no other has.
    pub jti: String,
    /// The exchange.
    pub exchange: String,
    /// The key's id.
    pub sub: String,
    /// For whom it is.
    pub aud: String,
    /// When it was signed: seconds since 1970.
    pub iat: i64,
    /// Until when it is good: seconds since 1970.
    pub exp: i64,
    /// What the gate's mode was: only `enforce` says that policies permitted it.
    pub gate: Mode,
    /// What was admitted, as policies name it.
    pub action: String,
    /// The provider's name.
    pub provider: String,
    /// The model that the provider is asked for; empty if it is asked for none.
    pub model: String,
    /// The SHA-256 of the body as it is sent, in lower-case hexadecimal.
    pub body_sha256: String,
}

/// What a permit is bound to besides what was admitted.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    /// The permit's id.
    pub id: &'a str,
    /// The exchange's id.
    pub exchange: &'a str,
    /// The SHA-256 of the body as it is sent, in lower-case hexadecimal.
    pub body_sha256: &'a str,
    /// For whom it is.
    pub audience: &'a str,
    /// The gate's mode.
    pub gate: Mode,
    /// When.
    pub at: Timestamp,
    /// For how long; less than a second counts as one.
    pub ttl: Duration,
}

/// Why a token is no permit, or none can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It has not the form of a permit.
    #[error("this is not a permit: {0}")]
    Malformed(&'static str),
    /// It is longer than permits are.
    #[error("it is longer than the {0} bytes that such a permit has at most")]
    TooLong(usize),
    /// A part of it names a member twice, which two readers could see differently.
    #[error("it names the member {0:?} twice")]
    Twice(String),
    /// Something follows it, or a part of it.
    #[error("something follows where it should end")]
    Trailing,
    /// Its algorithm is `none`.
    #[error("it is not signed (its algorithm is `none`)")]
    Unsigned,
    /// It names an algorithm that permits are not signed with.
    #[error("its algorithm {0:?} is none that permits are signed with (EdDSA, ML-DSA-65)")]
    Algorithm(String),
    /// It was signed for something else.
    #[error("its type is not {TYPE}, so it was signed for something else")]
    Type,
    /// None of the keys has its id.
    #[error("none of the public keys has the id {0:?} that it names")]
    UnknownKey(String),
    /// The key that it names is for another algorithm.
    #[error("the key that it names is for {0}, not for the algorithm that it names")]
    Confusion(Algorithm),
    /// The signature does not fit.
    #[error("its {0} signature is not the key's")]
    Signature(Algorithm),
    /// An algorithm that the verifier insists on has not signed it.
    #[error("it is not signed with {0}")]
    Unsatisfied(Algorithm),
    /// It is for somebody else.
    #[error("it is for the audience {0:?}")]
    Audience(String),
    /// It is past its expiry.
    #[error("it expired at {0}")]
    Expired(String),
    /// It was signed later than now.
    #[error("it was signed at {0}, which is yet to come")]
    TooEarly(String),
    /// It is of another body.
    #[error("it is for another body")]
    Body,
    /// The gate did not enforce.
    #[error("the gate's mode was {0}, so no policy had to permit the call")]
    NotEnforced(&'static str),
    /// It could not be signed.
    #[error("it cannot be signed: {0}")]
    Key(#[from] KeyError),
}

impl TokenError {
    /// The reason in one word, for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::TooLong(_) => "too_long",
            Self::Twice(_) => "duplicate_member",
            Self::Trailing => "trailing_data",
            Self::Unsigned => "unsigned",
            Self::Algorithm(_) => "algorithm",
            Self::Type => "type",
            Self::UnknownKey(_) => "unknown_key",
            Self::Confusion(_) => "algorithm_confusion",
            Self::Signature(_) => "signature",
            Self::Unsatisfied(_) => "algorithm_missing",
            Self::Audience(_) => "audience",
            Self::Expired(_) => "expired",
            Self::TooEarly(_) => "too_early",
            Self::Body => "body",
            Self::NotEnforced(_) => "not_enforced",
            Self::Key(_) => "key",
        }
    }
}

/// The SHA-256 of a body, in lower-case hexadecimal. About 0.6 ms for each megabyte.
pub fn body_sha256(body: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, body).as_ref())
}

/// A permit in general JSON serialization.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct General {
    payload: String,
    signatures: Vec<Part>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    protected: String,
    signature: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    alg: String,
    kid: String,
    typ: String,
}

/// Signs a permit with each of the algorithms, of which there is at least one.
///
/// # Errors
/// [`TokenError::TooLong`]; [`TokenError::Key`].
///
/// *Cost*: about 25 µs with Ed25519, 110 µs with ML-DSA-65.
pub fn sign(
    keys: &PermitKeys,
    algorithms: &[Algorithm],
    permit: &Permit,
    bound: &Bound<'_>,
) -> Result<String, TokenError> {
    let (at, ttl) = (bound.at.seconds(), i64::try_from(bound.ttl.as_secs().max(1)).unwrap_or(i64::MAX));
    let claims = Claims {
        jti: bound.id.to_owned(),
        exchange: bound.exchange.to_owned(),
        sub: permit.key().to_string(),
        aud: bound.audience.to_owned(),
        iat: at,
        exp: at.saturating_add(ttl),
        gate: bound.gate,
        action: permit.action().name().to_owned(),
        provider: permit.provider().to_string(),
        model: permit.model().to_string(),
        body_sha256: bound.body_sha256.to_owned(),
    };
    // Texts and numbers always serialise; were it otherwise there would be no permit, not half of one.
    let claims = serde_json::to_vec(&claims).map_err(|_| TokenError::Malformed("its claims cannot be written"))?;
    write(keys, algorithms, &claims)
}

fn write(keys: &PermitKeys, algorithms: &[Algorithm], claims: &[u8]) -> Result<String, TokenError> {
    let payload = BASE64URL_NOPAD.encode(claims);
    let part = |algorithm: &Algorithm| -> Result<Part, TokenError> {
        let (alg, kid) = (algorithm.jose(), keys.public_of(*algorithm).id());
        let head = format!("{{\"alg\":\"{alg}\",\"kid\":\"{kid}\",\"typ\":\"{TYPE}\"}}");
        let protected = BASE64URL_NOPAD.encode(head.as_bytes());
        let signature = keys.sign(*algorithm, format!("{protected}.{payload}").as_bytes())?;
        Ok(Part { protected, signature: BASE64URL_NOPAD.encode(&signature) })
    };
    let signatures = algorithms.iter().map(part).collect::<Result<Vec<_>, _>>()?;
    let token = match signatures.as_slice() {
        [] => return Err(TokenError::Malformed("nothing signs it")),
        [Part { protected, signature }] => format!("{protected}.{payload}.{signature}"),
        _ => serde_json::to_string(&General { payload, signatures })
            .map_err(|_| TokenError::Malformed("it cannot be written"))?,
    };
    let most = most_bytes(algorithms);
    if token.len() > most { Err(TokenError::TooLong(most)) } else { Ok(token) }
}

fn most_bytes(algorithms: &[Algorithm]) -> usize {
    if algorithms.contains(&Algorithm::MlDsa65) { MAX_BYTES } else { MAX_CLASSIC_BYTES }
}

/// What a verifier asks of a permit.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// For whom it has to be; `None` takes one for whomever it is.
    pub audience: Option<&'a str>,
    /// The time to verify it for.
    pub now: Timestamp,
    /// How far the signer's clock may be from that, either way.
    pub leeway: Duration,
    /// The algorithms that have to have signed it; with none, any that permits are signed with will do.
    pub algorithms: &'a [Algorithm],
    /// The body that it has to be for, if that is known.
    pub body: Option<&'a [u8]>,
    /// Whether the gate has to have enforced.
    pub enforced: bool,
}

/// A permit that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// What it says.
    pub claims: Claims,
    /// With what it is signed, and by which key; at least one.
    pub signed: Vec<(Algorithm, String)>,
}

/// Verifies a permit by public keys, offline.
///
/// # Errors
/// The first thing that is wrong with it; nothing of it may be believed then.
pub fn verify(token: &str, keys: &JwkSet, expected: &Expected<'_>) -> Result<Verified, TokenError> {
    let general = take_apart(token)?;
    let mut signed: Vec<(Algorithm, String)> = Vec::new();
    for part in &general.signatures {
        let (algorithm, id) = check_signature(part, &general.payload, keys)?;
        if signed.iter().any(|(other, _)| *other == algorithm) {
            return Err(TokenError::Malformed("one algorithm signs it twice"));
        }
        signed.push((algorithm, id));
    }
    let algorithms: Vec<Algorithm> = signed.iter().map(|(algorithm, _)| *algorithm).collect();
    if token.len() > most_bytes(&algorithms) {
        return Err(TokenError::TooLong(most_bytes(&algorithms)));
    }
    if let Some(missing) = expected.algorithms.iter().find(|one| !algorithms.contains(one)) {
        return Err(TokenError::Unsatisfied(*missing));
    }
    let claims: Claims = read(&decode(&general.payload)?, "its claims are not those of a permit")?;
    check_claims(&claims, expected)?;
    Ok(Verified { claims, signed })
}

fn take_apart(token: &str) -> Result<General, TokenError> {
    if token.len() > MAX_BYTES {
        return Err(TokenError::TooLong(MAX_BYTES));
    }
    if token.starts_with('{') {
        let general: General = read(token.as_bytes(), "it is no JWS in general JSON serialization")?;
        return match general.signatures.len() {
            1..=2 => Ok(general),
            _ => Err(TokenError::Malformed("a permit has one or two signatures")),
        };
    }
    let mut parts = token.split('.');
    let (Some(protected), Some(payload), Some(signature)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(TokenError::Malformed("it has not the three parts of a compact JWS"));
    };
    if parts.next().is_some() {
        return Err(TokenError::Trailing);
    }
    let part = Part { protected: protected.to_owned(), signature: signature.to_owned() };
    Ok(General { payload: payload.to_owned(), signatures: vec![part] })
}

/// Checks one signature: the algorithm and the id of the key that made it.
fn check_signature(part: &Part, payload: &str, keys: &JwkSet) -> Result<(Algorithm, String), TokenError> {
    let head: serde_json::Value = read(&decode(&part.protected)?, "its head is no JSON")?;
    // Said before anything else, because it is the oldest trick and deserves its name.
    let algorithm = match head.get("alg").and_then(serde_json::Value::as_str) {
        None => return Err(TokenError::Malformed("its head names no algorithm")),
        Some(word) if word.eq_ignore_ascii_case("none") => return Err(TokenError::Unsigned),
        Some("EdDSA") => Algorithm::Ed25519,
        Some("ML-DSA-65") => Algorithm::MlDsa65,
        Some(other) => return Err(TokenError::Algorithm(other.chars().take(32).collect())),
    };
    let head: Head = serde_json::from_value(head)
        .map_err(|_| TokenError::Malformed("its head holds other members than alg, kid and typ"))?;
    if head.typ != TYPE {
        return Err(TokenError::Type);
    }
    let key = keys.find(&head.kid).ok_or_else(|| TokenError::UnknownKey(head.kid.chars().take(64).collect()))?;
    if key.algorithm() != algorithm {
        return Err(TokenError::Confusion(key.algorithm()));
    }
    let signature = decode(&part.signature)?;
    if !key.verifies(format!("{}.{payload}", part.protected).as_bytes(), &signature) {
        return Err(TokenError::Signature(algorithm));
    }
    Ok((algorithm, head.kid))
}

fn check_claims(claims: &Claims, expected: &Expected<'_>) -> Result<(), TokenError> {
    let leeway = i64::try_from(expected.leeway.as_secs()).unwrap_or(i64::MAX);
    let now = expected.now.seconds();
    let told = |seconds: i64| Timestamp(seconds.saturating_mul(1_000_000)).rfc3339();
    if claims.exp <= claims.iat {
        return Err(TokenError::Malformed("it ends before it begins"));
    }
    if expected.audience.is_some_and(|audience| claims.aud != audience) {
        return Err(TokenError::Audience(claims.aud.chars().take(256).collect()));
    }
    if claims.exp.saturating_add(leeway) <= now {
        return Err(TokenError::Expired(told(claims.exp)));
    }
    if claims.iat > now.saturating_add(leeway) {
        return Err(TokenError::TooEarly(told(claims.iat)));
    }
    if expected.enforced && claims.gate != Mode::Enforce {
        return Err(TokenError::NotEnforced(claims.gate.name()));
    }
    match expected.body {
        Some(body) if body_sha256(body) != claims.body_sha256 => Err(TokenError::Body),
        _ => Ok(()),
    }
}

/// Base64url without padding, and without bits that mean nothing.
fn decode(text: &str) -> Result<Vec<u8>, TokenError> {
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes());
    bytes.map_err(|_| TokenError::Malformed("a part of it is not base64url without padding"))
}

/// Strict JSON of a known form.
fn read<T: for<'a> Deserialize<'a>>(text: &[u8], otherwise: &'static str) -> Result<T, TokenError> {
    json::scan(text, &mut ()).map_err(|error| match error.fault {
        Fault::TwiceKey(key) => TokenError::Twice(key),
        Fault::Trailing => TokenError::Trailing,
        _ => TokenError::Malformed(otherwise),
    })?;
    serde_json::from_slice(text).map_err(|_| TokenError::Malformed(otherwise))
}
