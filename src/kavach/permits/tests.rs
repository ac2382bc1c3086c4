//! Permits made and attacked; the list of published keys through rotations.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use proptest::prelude::*;
use secrecy::zeroize::Zeroizing;
use serde_json::{Value, json};

use super::config::{PermitsConfig, SendTo};
use super::jwk::{Algorithm, Jwk, JwkError, JwkSet};
use super::key::{KeyError, PermitKeys};
use super::published::{GRACE, Published};
use super::token::{
    Bound, Expected, LEEWAY, MAX_BYTES, MAX_CLASSIC_BYTES, TYPE, TokenError, Verified, body_sha256, sign, verify,
};
use super::{Occasion, Permits};
use crate::kavach::call::{Call, Target};
use crate::kavach::config::Mode;
use crate::kavach::verdict::Permit;
use crate::unit::clock::Timestamp;

const ED: &[Algorithm] = &[Algorithm::Ed25519];
const BOTH: &[Algorithm] = &[Algorithm::Ed25519, Algorithm::MlDsa65];
const BODY: &[u8] = b"{\"model\":\"gpt-4.1-mini\"}";
/// The permits of `signed`, also read by `tests/sdk/python/test_permits.py`.
const GOLDEN: &str = include_str!("../../../tests/permit/token.txt");
const GOLDEN_BOTH: &str = include_str!("../../../tests/permit/token-both.json");
const GOLDEN_KEYS: &str = include_str!("../../../tests/permit/jwks.json");

fn now() -> Timestamp {
    Timestamp(1_800_000_000_000_000)
}

fn keys(byte: u8) -> PermitKeys {
    PermitKeys::from_seed(Zeroizing::new(vec![byte; 64]), now()).unwrap()
}

fn set(byte: u8) -> JwkSet {
    JwkSet::new(keys(byte).public().to_vec())
}

fn permit(model: &str) -> Permit {
    let mut call = Call {
        target: Target { provider: "openai".into(), model: model.into(), ..Target::default() },
        ..Call::default()
    };
    call.caller.key = "key_01".into();
    Permit::for_call(&call)
}

fn bound<'a>(audience: &'a str, hash: &'a str) -> Bound<'a> {
    Bound {
        id: "0190-exchange-0",
        exchange: "0190-exchange",
        body_sha256: hash,
        audience,
        gate: Mode::Enforce,
        at: now(),
        ttl: Duration::from_secs(60),
    }
}

fn signed(algorithms: &[Algorithm]) -> String {
    sign(&keys(7), algorithms, &permit("gpt-4.1-mini"), &bound("openai", &body_sha256(BODY))).unwrap()
}

fn expected() -> Expected<'static> {
    Expected { audience: Some("openai"), now: now(), leeway: LEEWAY, algorithms: &[], body: Some(BODY), enforced: true }
}

fn check(token: &str) -> Result<Verified, TokenError> {
    verify(token, &set(7), &expected())
}

fn encode(text: impl AsRef<[u8]>) -> String {
    BASE64URL_NOPAD.encode(text.as_ref())
}

/// A token of any head and claims, rightly signed.
fn forged(algorithm: Algorithm, head: &str, claims: &str) -> String {
    let text = format!("{}.{}", encode(head), encode(claims));
    let signature = keys(7).sign(algorithm, text.as_bytes()).unwrap();
    format!("{text}.{}", encode(signature))
}

fn head(alg: &str, kid: &str) -> String {
    format!("{{\"alg\":\"{alg}\",\"kid\":\"{kid}\",\"typ\":\"{TYPE}\"}}")
}

fn good_head() -> String {
    head("EdDSA", keys(7).public_of(Algorithm::Ed25519).id())
}

fn claims() -> Value {
    let payload = signed(ED).split('.').nth(1).unwrap().to_owned();
    serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap()).unwrap()
}

fn with(name: &str, value: Value) -> String {
    let mut claims = claims();
    claims[name] = value;
    forged(Algorithm::Ed25519, &good_head(), &claims.to_string())
}

#[test]
fn a_permit_verifies_with_the_public_keys_alone_and_says_what_was_admitted() {
    for (algorithms, most) in [(ED, 1_024), (&[Algorithm::MlDsa65][..], 5_500), (BOTH, 5_800)] {
        let token = signed(algorithms);
        assert!(token.len() < most, "{algorithms:?}: {}", token.len());
        let Verified { claims, signed } = check(&token).unwrap();
        assert_eq!((claims.jti.as_str(), claims.exchange.as_str()), ("0190-exchange-0", "0190-exchange"));
        assert_eq!((claims.sub.as_str(), claims.aud.as_str()), ("key_01", "openai"));
        assert_eq!((claims.model.as_str(), claims.provider.as_str()), ("gpt-4.1-mini", "openai"));
        assert_eq!((claims.action.as_str(), claims.exp - claims.iat, claims.gate), ("chat", 60, Mode::Enforce));
        let with: Vec<Algorithm> = signed.iter().map(|(algorithm, _)| *algorithm).collect();
        assert_eq!(with, algorithms);
    }
}

#[test]
fn the_permits_that_other_languages_are_tested_with_are_those_that_are_made() {
    assert_eq!(signed(ED), GOLDEN.trim());
    assert_eq!(set(7).to_value(), serde_json::from_str::<Value>(GOLDEN_KEYS).unwrap());
    // ML-DSA signatures are drawn anew each time (FIPS 204 section 3.4), so that this one is only verified.
    assert_eq!(check(GOLDEN_BOTH.trim()).unwrap().signed.len(), 2);
}

#[test]
fn a_key_has_the_thumbprint_of_the_specification() {
    // RFC 8037 appendix A.3.
    let bytes = BASE64URL_NOPAD.decode(b"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
    assert_eq!(Jwk::new(Algorithm::Ed25519, &bytes).unwrap().id(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
}

#[test]
fn audience_time_body_mode_and_algorithms_have_an_effect() {
    let token = signed(ED);
    let verify = |expected: Expected<'_>| verify(&token, &set(7), &expected).map_err(|error| error.word());
    let base = expected();
    let later = |seconds| Expected { now: now().plus(Duration::from_secs(seconds)), ..base };
    assert!(verify(later(119)).is_ok(), "the clocks may be apart");
    assert_eq!(verify(later(120)), Err("expired"));
    assert!(verify(Expected { leeway: Duration::ZERO, ..later(59) }).is_ok());
    assert_eq!(verify(Expected { leeway: Duration::ZERO, ..later(60) }), Err("expired"));
    let early = |seconds| Expected { now: now().minus(Duration::from_secs(seconds)), ..base };
    assert!(verify(early(60)).is_ok());
    assert_eq!(verify(early(61)), Err("too_early"));
    assert_eq!(verify(Expected { audience: Some("azure"), ..base }), Err("audience"));
    assert!(verify(Expected { audience: None, ..base }).is_ok());
    assert_eq!(verify(Expected { body: Some(b"other"), ..base }), Err("body"));
    assert!(verify(Expected { body: None, ..base }).is_ok());
    assert_eq!(verify(Expected { algorithms: BOTH, ..base }), Err("algorithm_missing"));
    assert!(verify(Expected { algorithms: ED, ..base }).is_ok());
    let observed = with("gate", json!("observe"));
    assert_eq!(check(&observed), Err(TokenError::NotEnforced("observe")));
    assert!(super::token::verify(&observed, &set(7), &Expected { enforced: false, ..base }).is_ok());
}

#[test]
fn every_changed_byte_is_refused() {
    for token in [signed(ED), signed(&[Algorithm::MlDsa65])] {
        for place in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
            assert!(check(&String::from_utf8(bytes).unwrap()).is_err(), "{place}");
        }
    }
}

#[test]
fn every_trick_with_the_head_is_refused_by_its_name() {
    let (ed, ml) = (keys(7).public()[0].id().to_owned(), keys(7).public()[1].id().to_owned());
    let claims = claims().to_string();
    let ed25519 = |head: &str| check(&forged(Algorithm::Ed25519, head, &claims)).map_err(|error| error.word());
    assert!(ed25519(&good_head()).is_ok());
    for (head, word) in [
        ("{}".to_owned(), "malformed"),
        ("[]".to_owned(), "malformed"),
        (head("none", &ed), "unsigned"),
        (head("nOnE", &ed), "unsigned"),
        (head("HS256", &ed), "algorithm"),
        (head("ES256", &ed), "algorithm"),
        (head("Ed25519", &ed), "algorithm"),
        (head("ML-DSA-65", &ed), "algorithm_confusion"),
        (head("EdDSA", &ml), "algorithm_confusion"),
        (head("EdDSA", "other"), "unknown_key"),
        (good_head().replace(TYPE, "JWT"), "type"),
        (good_head().replace("\"kid\"", "\"kidd\""), "malformed"),
        (good_head().replace('}', ",\"crit\":[\"exp\"]}"), "malformed"),
        (good_head().replace('}', ",\"jwk\":{\"kty\":\"OKP\"}}"), "malformed"),
        (good_head().replace('}', ",\"jku\":\"https://evil.example\"}"), "malformed"),
        (good_head().replace('}', ",\"alg\":\"none\"}"), "duplicate_member"),
        (good_head().replace('}', ",\"\\u0061lg\":\"none\"}"), "duplicate_member"),
        (good_head() + "{}", "trailing_data"),
    ] {
        assert_eq!(ed25519(&head).map(drop), Err(word), "{head}");
    }
    let quantum = check(&forged(Algorithm::MlDsa65, &head("EdDSA", &ed), &claims));
    assert_eq!(quantum, Err(TokenError::Signature(Algorithm::Ed25519)));
    let other = verify(&signed(ED), &set(8), &expected());
    assert!(matches!(other, Err(TokenError::UnknownKey(_))), "{other:?}");
}

#[test]
fn every_trick_with_the_claims_is_refused_by_its_name() {
    let text = claims().to_string();
    let signed =
        |claims: &str| check(&forged(Algorithm::Ed25519, &good_head(), claims)).map(drop).map_err(|error| error.word());
    assert_eq!(signed(&text), Ok(()));
    assert_eq!(
        signed(&text.replace("\"aud\":\"openai\"", "\"aud\":\"x\",\"aud\":\"openai\"")),
        Err("duplicate_member")
    );
    assert_eq!(signed(&format!("{text} {{}}")), Err("trailing_data"));
    assert_eq!(signed("null"), Err("malformed"));
    for (name, value, word) in [
        ("exp", json!(9_999_999_999.5), "malformed"),
        ("exp", json!("9999999999"), "malformed"),
        ("exp", Value::Null, "malformed"),
        ("exp", json!(1_800_000_000), "malformed"),
        ("exp", json!(-1), "malformed"),
        ("iat", json!(i64::MAX), "malformed"),
        ("aud", json!(["openai"]), "malformed"),
        ("aud", json!("openai "), "audience"),
        ("body_sha256", json!(body_sha256(BODY).to_uppercase()), "body"),
        ("gate", json!("open"), "malformed"),
    ] {
        assert_eq!(
            check(&with(name, value.clone())).map(drop).map_err(|error| error.word()),
            Err(word),
            "{name} {value}"
        );
    }
    // What a later version adds does not matter to this one.
    assert!(check(&with("more", json!({"a": 1}))).is_ok());
    let edges = Expected { now: Timestamp(i64::MAX), ..expected() };
    assert!(verify(&with("exp", json!(i64::MAX)), &set(7), &edges).is_ok());
}

#[test]
fn what_is_no_permit_at_all_is_refused() {
    let token = signed(ED);
    for (text, word) in [
        (String::new(), "malformed"),
        (".".to_owned(), "malformed"),
        ("..".to_owned(), "malformed"),
        ("a.b".to_owned(), "malformed"),
        ("a.b.c".to_owned(), "malformed"),
        (format!("{token}."), "trailing_data"),
        (format!("{token}.{token}"), "trailing_data"),
        (format!("{token}="), "malformed"),
        (format!("{token} "), "malformed"),
        (format!("Bearer {token}"), "malformed"),
        (format!("{token}, {token}"), "trailing_data"),
        (token.replace('-', "+").replace('_', "/"), "malformed"),
        ("{}".to_owned(), "malformed"),
        ("{\"payload\":\"\",\"signatures\":[]}".to_owned(), "malformed"),
        ("x".repeat(MAX_BYTES + 1), "too_long"),
        ("🦀.🦀.🦀".to_owned(), "malformed"),
    ] {
        assert_eq!(check(&text).map(drop).map_err(|error| error.word()), Err(word), "{text}");
    }
    // Only an ML-DSA signature excuses a length that does not fit everywhere.
    let long = with("more", json!("m".repeat(MAX_CLASSIC_BYTES)));
    assert_eq!(check(&long), Err(TokenError::TooLong(MAX_CLASSIC_BYTES)));
}

#[test]
fn of_two_signatures_both_count_and_one_cannot_be_stripped_unnoticed() {
    let both: Value = serde_json::from_str(&signed(BOTH)).unwrap();
    let word = |value: &Value| check(&value.to_string()).map(drop).map_err(|error| error.word());
    assert_eq!(word(&both), Ok(()));
    for broken in [0, 1] {
        let mut spoiled = both.clone();
        spoiled["signatures"][broken]["signature"] = encode([1; 64]).into();
        assert_eq!(word(&spoiled), Err("signature"), "{broken}");
    }
    let mut twice = both.clone();
    twice["signatures"][1] = both["signatures"][0].clone();
    assert_eq!(word(&twice), Err("malformed"));
    let mut more = both.clone();
    more["signatures"].as_array_mut().unwrap().push(both["signatures"][0].clone());
    assert_eq!(word(&more), Err("malformed"));
    let mut unprotected = both.clone();
    unprotected["signatures"][0]["header"] = json!({"kid": "x"});
    assert_eq!(word(&unprotected), Err("malformed"));
    let text = both.to_string().replacen('{', "{\"payload\":\"e30\",", 1);
    assert_eq!(check(&text), Err(TokenError::Twice("payload".to_owned())));
    // A reader that knows Ed25519 only takes that part for itself; one that insists on ML-DSA sees that it is missing.
    let part = &both["signatures"][0];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let compact = format!("{}.{}.{}", text(&part["protected"]), text(&both["payload"]), text(&part["signature"]));
    assert!(check(&compact).is_ok());
    let strict = Expected { algorithms: &[Algorithm::MlDsa65], ..expected() };
    assert_eq!(verify(&compact, &set(7), &strict), Err(TokenError::Unsatisfied(Algorithm::MlDsa65)));
}

#[test]
fn the_longest_permit_that_a_call_can_ask_for_fits() {
    let (keys, hash) = (keys(7), body_sha256(BODY));
    let audience = "a".repeat(256);
    let call = Call {
        target: Target { provider: "p".repeat(64).into(), model: "\u{1}".repeat(256).into(), ..Target::default() },
        ..Call::default()
    };
    let bound = Bound { id: &"i".repeat(64), exchange: &"e".repeat(36), ..bound(&audience, &hash) };
    let permit = Permit::for_call(&call);
    for algorithms in [ED, BOTH] {
        sign(&keys, algorithms, &permit, &bound).unwrap();
    }
    let token = sign(&keys, ED, &self::permit(&"m".repeat(5_000)), &bound);
    assert_eq!(token, Err(TokenError::TooLong(MAX_CLASSIC_BYTES)));
}

#[test]
fn each_of_those_who_get_a_permit_gets_one_of_its_own() {
    let issue = |send_to, audience: Option<&str>| {
        let audience = audience.map(str::to_owned);
        let config = PermitsConfig { send_to, audience, caller_audience: "me".to_owned(), ..PermitsConfig::default() };
        let permits = Permits::new(config, Some(keys(7)), Published::default());
        let occasion = Occasion { exchange: "0190", number: 3, body: BODY, gate: Mode::Enforce, at: now() };
        permits.issue(&permit("m"), &occasion).unwrap().unwrap()
    };
    let says = |value: &Option<http::HeaderValue>, audience| {
        let token = value.as_ref().unwrap().to_str().unwrap();
        verify(token, &set(7), &Expected { audience: Some(audience), ..expected() }).unwrap().claims.jti
    };
    let both = issue(SendTo::Both, None);
    assert_eq!((says(&both.upstream, "openai"), says(&both.caller, "me")), ("0190-3".into(), "0190-3-caller".into()));
    assert_eq!(both.id, "0190-3");
    let named = issue(SendTo::Upstream, Some("https://inference.internal"));
    assert_eq!((says(&named.upstream, "https://inference.internal"), named.caller), ("0190-3".into(), None));
    assert_eq!(issue(SendTo::Caller, None).upstream, None);
    let off = Permits::default();
    let occasion = Occasion { exchange: "0190", number: 0, body: BODY, gate: Mode::Enforce, at: now() };
    assert_eq!((off.header(), off.issue(&permit("m"), &occasion)), (None, Ok(None)));
}

#[test]
fn a_set_that_is_not_what_it_says_is_refused() {
    let good = set(7).to_value();
    let read = |value: &Value| JwkSet::parse(value.to_string().as_bytes());
    assert_eq!(read(&good), Ok(set(7)));
    let id = good["keys"][0]["kid"].as_str().unwrap().to_owned();
    let spoiled = |member: &str, value: Value| {
        let mut set = good.clone();
        set["keys"][0][member] = value;
        read(&set)
    };
    assert_eq!(spoiled("d", json!("AAAA")), Err(JwkError::Secret(id.clone())));
    assert_eq!(spoiled("priv", json!("AAAA")), Err(JwkError::Secret(id.clone())));
    assert_eq!(spoiled("kid", json!("1")), Err(JwkError::Id("1".to_owned())));
    assert_eq!(spoiled("x", json!(encode([1; 32]))), Err(JwkError::Id(id.clone())));
    assert!(matches!(spoiled("x", json!(encode([1; 31]))), Err(JwkError::Malformed(_))));
    assert!(matches!(spoiled("x", json!("+/=")), Err(JwkError::Malformed(_))));
    // What is for something else is passed over.
    for (member, value) in
        [("kty", json!("RSA")), ("crv", json!("X25519")), ("alg", json!("HS256")), ("use", json!("enc"))]
    {
        assert_eq!(spoiled(member, value.clone()).unwrap().keys().len(), 1, "{member} {value}");
    }
    let mut twice = good.clone();
    twice["keys"][1] = twice["keys"][0].clone();
    assert_eq!(read(&twice), Err(JwkError::Twice(id)));
    let text = good.to_string().replacen("\"kty\":", "\"kty\":\"RSA\",\"kty\":", 1);
    assert!(matches!(JwkSet::parse(text.as_bytes()), Err(JwkError::Json(_))));
    assert!(matches!(JwkSet::parse(b"[]"), Err(JwkError::Malformed(_))));
    assert_eq!(JwkSet::parse(&vec![b' '; 300_000]), Err(JwkError::TooLarge));
}

#[test]
fn a_key_file_reads_as_it_was_written_and_tells_no_secret() {
    let text = keys(7).to_text().unwrap();
    let seed = data_encoding::BASE64.encode(&[7; 64]);
    assert!(text.contains(&seed));
    assert_eq!(PermitKeys::open(&text).unwrap().public(), keys(7).public());
    for spoiled in [
        text.replace(&seed, &data_encoding::BASE64.encode(&[8; 64])),
        text.replace(&seed, &data_encoding::BASE64.encode(&[7; 32])),
        text.replace(&seed, "no base64!"),
        text.replace("\"permit\"", "\"log\""),
        text.replace("\"v\": 1", "\"v\": 2"),
        text.replace("\"v\": 1", "\"v\": 1, \"w\": 1"),
        seed.clone(),
        String::new(),
    ] {
        let error = PermitKeys::open(&spoiled).unwrap_err();
        assert!(matches!(error, KeyError::Malformed(_)) && !error.to_string().contains(&seed), "{error}");
    }
    assert!(!format!("{:?}", keys(7)).contains(&seed));
}

#[test]
fn a_key_stays_published_until_its_last_permit_has_expired() {
    let key = |byte| keys(byte).public()[0].clone();
    let at = |seconds| now().plus(Duration::from_secs(seconds));
    let ids = |list: &Published, seconds| {
        list.set(at(seconds)).keys().iter().map(|key| key.id().to_owned()).collect::<Vec<_>>()
    };
    let (old, new) = (key(1).id().to_owned(), key(2).id().to_owned());
    let first = Published::default().turn(&[key(1)], Duration::from_secs(600), at(0)).unwrap();
    // A shorter life from now on does not shorten that of the permits that are out.
    let first = first.turn(&[key(1)], Duration::from_secs(60), at(10)).unwrap();
    let first = Published::read(&first.to_text()).unwrap();
    let second = first.turn(&[key(2)], Duration::from_secs(60), at(100)).unwrap();
    let second = Published::read(&second.to_text()).unwrap();
    let end = 100 + 600 + GRACE.as_secs();
    assert_eq!(ids(&second, end - 1), [new.clone(), old.clone()]);
    assert_eq!(ids(&second, end), [new.clone()]);
    // A later start does not put the end off, and one after it forgets the key.
    let third = second.turn(&[key(2)], Duration::from_secs(60), at(end - 1)).unwrap();
    assert_eq!(ids(&third, end), [new.clone()]);
    assert!(!third.turn(&[key(2)], Duration::from_secs(60), at(end)).unwrap().to_text().contains(&old));
    // Back to the old one, and off.
    let back = second.turn(&[key(1)], Duration::from_secs(60), at(200)).unwrap();
    assert_eq!(ids(&back, end + 1_000_000), [old.clone()]);
    let off = back.turn(&[], Duration::from_secs(60), at(300)).unwrap();
    assert_eq!(ids(&off, 300).len(), 2);
    assert!(ids(&off, 301 + 600 + GRACE.as_secs()).is_empty());
    let extra = second.with(JwkSet::new(vec![key(2), key(3)]));
    assert_eq!(ids(&extra, end), [new, key(3).id().to_owned()]);
}

#[test]
fn more_rotations_than_can_be_published_are_refused() {
    let mut list = Published::default();
    for byte in 0..64 {
        list = list.turn(&[keys(byte).public()[0].clone()], Duration::from_secs(60), now()).unwrap();
    }
    let next = [keys(64).public()[0].clone()];
    assert!(list.turn(&next, Duration::from_secs(60), now()).is_err());
    let later = now().plus(GRACE).plus(Duration::from_secs(61));
    assert!(list.turn(&next, Duration::from_secs(60), later).is_ok());
}

proptest! {
    #[test]
    fn no_text_makes_the_verifier_panic_or_agree(text in "\\PC{0,200}", parts in prop::collection::vec("[A-Za-z0-9_-]{0,40}", 0..5)) {
        prop_assert!(check(&text).is_err());
        prop_assert!(check(&parts.join(".")).is_err());
        let _any = JwkSet::parse(text.as_bytes());
        prop_assert!(check(&forged(Algorithm::Ed25519, &text, &text)).is_err());
    }
}
