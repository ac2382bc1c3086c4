use fips204::traits::{SerDes, Signer as _, Verifier as _};

use super::*;

fn keys(purpose: Purpose) -> SigningKeys {
    let seed = (0..64).collect::<Vec<u8>>();
    SigningKeys::from_seed(purpose, "example.com/log", Zeroizing::new(seed), Timestamp(1_000_000)).unwrap()
}

#[test]
fn a_second_implementation_verifies_what_we_sign_and_we_what_it_signs() {
    use fips204::ml_dsa_65;
    let ours = keys(Purpose::Log);
    let lines = ours.sign("a text\n").unwrap();
    let bytes: [u8; ml_dsa_65::PK_LEN] = ours.public()[1].bytes().try_into().unwrap();
    let theirs = ml_dsa_65::PublicKey::try_from_bytes(bytes).unwrap();
    let signature: [u8; ml_dsa_65::SIG_LEN] = lines[1].signature.clone().try_into().unwrap();
    assert!(theirs.verify(b"a text\n", &signature, b""));
    assert!(!theirs.verify(b"another\n", &signature, b""));

    let mut xi = [0; 32];
    xi.copy_from_slice(&(32..64).collect::<Vec<u8>>());
    use fips204::traits::KeyGen;
    let (public, secret) = ml_dsa_65::KG::keygen_from_seed(&xi);
    assert_eq!(public.clone().into_bytes().as_slice(), ours.public()[1].bytes(), "one seed, one key");
    let signature = secret.try_sign_with_seed(&[9; 32], b"a text\n", b"").unwrap();
    assert!(ours.public()[1].verifies(b"a text\n", &signature));
}

/// Source: tests/golden/acvp/ml-dsa-keygen.json says it.
#[test]
fn public_keys_are_those_of_the_acvp_vectors() {
    let hex = |value: &serde_json::Value| data_encoding::HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap();
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/golden/acvp/ml-dsa-keygen.json")).unwrap();
    let mut checked = 0;
    for (group, purpose) in vectors["groups"].as_array().unwrap().iter().zip([Purpose::Witness, Purpose::Log]) {
        for test in group["tests"].as_array().unwrap() {
            let seed = [&[7; 32][..], &hex(&test["seed"])].concat();
            let keys = SigningKeys::from_seed(purpose, "acvp", Zeroizing::new(seed), Timestamp(0)).unwrap();
            let digest = crate::audit::merkle::sha256(&[keys.public()[1].bytes()]);
            assert_eq!(digest.0.as_slice(), hex(&test["pk_sha256"]), "{} {}", group["set"], test["id"]);
            checked += 1;
        }
    }
    assert_eq!(checked, 50);
}

/// The accumulated vectors of C2SP's community cryptography test vectors (CC0 1.0), ML-DSA/accumulated: signatures of an empty
/// message with an empty context, which is how notes are signed. The second implementation makes exactly the published ones, as
/// their hash shows, and ours accepts each of them and none that was changed.
#[test]
fn signatures_of_the_c2sp_vectors_are_accepted_and_no_others() {
    use fips204::{ml_dsa_44, ml_dsa_65};
    use sha3::digest::{ExtendableOutput, Update, XofReader};
    macro_rules! accumulated {
        ($set:ident, $purpose:expr, $published:literal) => {
            let (mut seeds, mut all) = (sha3::Shake128::default().finalize_xof(), sha3::Shake128::default());
            for number in 0..100_usize {
                let mut seed = [0; 32];
                seeds.read(&mut seed);
                use fips204::traits::KeyGen;
                let (public, secret) = $set::KG::keygen_from_seed(&seed);
                let mut signature = secret.try_sign_with_seed(&[0; 32], b"", b"").unwrap();
                let public = public.into_bytes();
                all.update(&public);
                all.update(&signature);
                let seed = Zeroizing::new([[7; 32], seed].concat());
                let ours = SigningKeys::from_seed($purpose, "cctv", seed, Timestamp(0)).unwrap();
                let key = &ours.public()[1];
                assert_eq!(key.bytes(), public);
                assert!(key.verifies(b"", &signature), "{number}");
                assert!(!key.verifies(b"x", &signature) && !key.verifies(b"", &signature[1..]));
                let at = number * signature.len() / 100;
                signature[at] ^= 1;
                assert!(!key.verifies(b"", &signature), "{number} at {at}");
            }
            let mut hash = [0; 32];
            all.finalize_xof().read(&mut hash);
            assert_eq!(data_encoding::HEXLOWER.encode(&hash), $published);
        };
    }
    accumulated!(ml_dsa_65, Purpose::Log, "8358a1843220194417cadbc2651295cd8fc65125b5a5c1a239a16dc8b57ca199");
    accumulated!(ml_dsa_44, Purpose::Witness, "d51148e1f9f4fa1a723a6cf42e25f2a99eb5c1b378b3d2dbbd561b1203beeae4");
}

/// What a published vector says of one signature.
struct Signed {
    name: String,
    valid: bool,
    key: Vec<u8>,
    message: Vec<u8>,
    context: Vec<u8>,
    signature: Vec<u8>,
}

/// Reads a file of vectors; they say themselves where they are from.
fn vectors(text: &str) -> Vec<Signed> {
    let file: serde_json::Value = serde_json::from_str(text).unwrap();
    let bytes = |value: &serde_json::Value| BASE64.decode(value.as_str().unwrap().as_bytes()).unwrap();
    let groups = file["groups"].as_array().unwrap().iter();
    let tests = groups.flat_map(|group| group["tests"].as_array().unwrap().iter().map(move |test| (group, test)));
    tests
        .map(|(group, test)| {
            let key = test["key"].as_u64().map_or(&test["key"], |at| &group["keys"][at as usize]);
            Signed {
                name: format!("{} {} {}", group["set"].as_str().unwrap(), test["id"], test["comment"]),
                valid: test["valid"].as_bool().unwrap(),
                key: bytes(key),
                message: bytes(&test["message"]),
                context: bytes(&test["context"]),
                signature: bytes(&test["signature"]),
            }
        })
        .collect()
}

/// What the second implementation says of it.
fn second(signed: &Signed) -> bool {
    use fips204::{ml_dsa_44, ml_dsa_65};
    macro_rules! verifies {
        ($set:ident) => {{
            let key = <[u8; $set::PK_LEN]>::try_from(signed.key.as_slice()).ok();
            let key = key.and_then(|bytes| $set::PublicKey::try_from_bytes(bytes).ok());
            let signature = <[u8; $set::SIG_LEN]>::try_from(signed.signature.as_slice()).ok();
            let both = key.zip(signature);
            both.is_some_and(|(key, signature)| key.verify(&signed.message, &signature, &signed.context))
        }};
    }
    if signed.name.starts_with("ML-DSA-44") { verifies!(ml_dsa_44) } else { verifies!(ml_dsa_65) }
}

/// Notes are signed with an empty context: a signature that is valid under another one is worth nothing here.
#[test]
fn signatures_of_acvp_and_wycheproof_are_judged_as_they_say() {
    let acvp = vectors(include_str!("../../../tests/golden/acvp/ml-dsa-sigver.json"));
    let wycheproof = vectors(include_str!("../../../tests/golden/wycheproof/ml-dsa-verify.json"));
    let mut counts = [0; 3];
    for signed in acvp.iter().chain(&wycheproof) {
        assert_eq!(second(signed), signed.valid, "{}", signed.name);
        let quantum =
            if signed.name.starts_with("ML-DSA-44") { Algorithm::CosignatureMlDsa44 } else { Algorithm::MlDsa65 };
        let key = PublicKey::new("vectors", quantum, &signed.key);
        let ours = key.is_ok_and(|key| key.verifies(&signed.message, &signed.signature));
        assert_eq!(ours, signed.valid && signed.context.is_empty(), "{}", signed.name);
        counts[if ours { 0 } else { 1 + usize::from(signed.valid) }] += 1;
    }
    assert_eq!((acvp.len(), wycheproof.len()), (20, 89));
    assert_eq!(counts, [42, 57, 10], "accepted, refused as they must be, valid under another context");
}

#[test]
fn a_second_implementation_verifies_a_cosignature() {
    use fips204::ml_dsa_44;
    let ours = keys(Purpose::Witness);
    let checkpoint = Checkpoint::new("example.com/log", 5, crate::audit::merkle::empty_root());
    let lines = ours.cosign(&checkpoint, Timestamp(7_000_000)).unwrap();
    let bytes: [u8; ml_dsa_44::PK_LEN] = ours.public()[1].bytes().try_into().unwrap();
    let theirs = ml_dsa_44::PublicKey::try_from_bytes(bytes).unwrap();
    let signature: [u8; ml_dsa_44::SIG_LEN] = lines[1].signature[8..].try_into().unwrap();
    let message = cosigned_message(&ours.public()[1], 7, &checkpoint).unwrap();
    assert!(theirs.verify(&message, &signature, b""));
    for (key, line) in ours.public().iter().zip(&lines) {
        let verified = crate::audit::checkpoint::verify_cosignature(key, &line.signature, &checkpoint);
        assert_eq!(verified, Some(Timestamp(7_000_000)));
        let other = Checkpoint { size: 6, ..checkpoint.clone() };
        assert_eq!(crate::audit::checkpoint::verify_cosignature(key, &line.signature, &other), None);
    }
}

#[test]
fn a_file_is_for_its_owner_only_and_is_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.key");
    keys(Purpose::Log).save(&path, None).unwrap();
    assert!(SigningKeys::load(&path, Purpose::Log, None).is_ok());
    assert!(matches!(keys(Purpose::Log).save(&path, None), Err(KeyError::File(..))));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing secret is left beside it");
    assert!(matches!(SigningKeys::load(&path, Purpose::Witness, None), Err(KeyError::Purpose(..))));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = SigningKeys::load(&path, Purpose::Log, None).unwrap_err().to_string();
    assert!(error.contains("640") && error.contains("0600"), "{error}");
}

#[test]
fn a_wrapped_key_opens_with_its_passphrase_only() {
    let text = keys(Purpose::Log).to_text(Some(&Secret::new("correct horse"))).unwrap();
    assert!(!text.contains("seed"));
    let opened = SigningKeys::open(&text, Purpose::Log, Some(&Secret::new("correct horse"))).unwrap();
    assert_eq!(opened.public(), keys(Purpose::Log).public());
    let open = |text: &str, word: Option<&str>| {
        SigningKeys::open(text, Purpose::Log, word.map(Secret::new).as_ref()).unwrap_err()
    };
    assert!(matches!(open(&text, Some("wrong")), KeyError::Passphrase));
    assert!(matches!(open(&text, None), KeyError::NoPassphrase));
    let renamed = text.replace("\"name\": \"example.com/log\"", "\"name\": \"example.com/other\"");
    assert!(matches!(open(&renamed, Some("correct horse")), KeyError::Passphrase), "the name is bound to the secret");
    assert!(summary(&text).unwrap().wrapped);
}

#[test]
fn nothing_secret_is_in_a_message() {
    let text = keys(Purpose::Log).to_text(None).unwrap();
    let broken = text.replace("\"v\": 1", "\"v\": x");
    let error = SigningKeys::open(&broken, Purpose::Log, None).unwrap_err();
    assert!(!format!("{error:?}{error}{:?}", keys(Purpose::Log)).contains("AAECAwQF"));
}
