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
