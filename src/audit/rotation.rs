//! The statement by which a log goes over to new keys: signed by the old and by the new ones, so that whoever trusts the old
//! keys can trust the new ones, and nobody can give keys away that he does not hold.
//!
//! It is a signed note: a first line that no checkpoint has, the origin, the two old and the two new verifier keys.

use std::io;
use std::path::Path;

use crate::audit::key::{KeyError, SigningKeys};
use crate::audit::note::{Algorithm, Malformed, Note, PublicKey};
use crate::audit::policy::{Policy, PolicyError};
use crate::audit::tiles;

/// The first line. No log may have it as its origin.
pub const HEADER: &str = "marg-audit-rotation/v1";

/// The file with the notes of all rotations, oldest first, beside the checkpoint: a JSON list. The entries in the log say the
/// same; the file stays when they are past their retention.
pub const FILE: &str = "rotations";

/// The largest such file; a note has about 25 KiB.
const LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// Reads that file; without one there was no rotation.
///
/// # Errors
/// When it cannot be read or has another form.
pub fn load(folder: &Path) -> io::Result<Vec<String>> {
    match tiles::read_file(&folder.join(FILE), LIMIT_BYTES) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Applies those of the statements that continue what the policy trusts; gives the first that does not. A verifier who trusts
/// only later keys need not believe the earlier statements.
pub fn apply_all(policy: &mut Policy, origin: &str, notes: &[String]) -> Option<RotationError> {
    let mut refused = None;
    for note in notes {
        if let Err(error) = apply(policy, origin, note) {
            refused.get_or_insert(error);
        }
    }
    refused
}

/// Why a rotation is not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotationError {
    /// It cannot be read.
    #[error("the rotation is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// It is another log's.
    #[error("the rotation is of the log {0:?}, not of {1:?}")]
    Origin(String, String),
    /// The old keys are not trusted, or did not sign.
    #[error("the rotation is not signed by keys that are trusted: {0}")]
    Old(#[source] PolicyError),
    /// The new keys did not sign.
    #[error("the rotation is not signed by the new keys: {0}")]
    New(#[source] PolicyError),
}

/// Makes the statement.
///
/// # Errors
/// When the names differ or the library refuses.
pub fn make(old: &SigningKeys, new: &SigningKeys) -> Result<String, KeyError> {
    if old.name() != new.name() {
        return Err(KeyError::Malformed(format!("the new key is for {:?}, the log is {:?}", new.name(), old.name())));
    }
    let mut text = format!("{HEADER}\n{}\n", old.name());
    for (word, keys) in [("old", old), ("new", new)] {
        for key in keys.public() {
            text.push_str(&format!("{word} {key}\n"));
        }
    }
    let signatures = [old.sign(&text)?, new.sign(&text)?].concat();
    Ok(Note { text, signatures }.to_string())
}

fn malformed() -> Malformed {
    Malformed("it does not name two old and two new keys".to_owned())
}

/// What a statement says: the log, its old and its new keys.
fn parse(note: &Note) -> Result<(String, [[PublicKey; 2]; 2]), Malformed> {
    let lines: Vec<&str> = note.text.lines().collect();
    let [HEADER, origin, old_1, old_2, new_1, new_2] = lines.as_slice() else { return Err(malformed()) };
    let key = |word: &str, line: &str| line.strip_prefix(word).map(PublicKey::parse).ok_or_else(malformed)?;
    let both = [[key("old ", old_1)?, key("old ", old_2)?], [key("new ", new_1)?, key("new ", new_2)?]];
    let right = |keys: &[PublicKey; 2]| {
        keys.iter().map(PublicKey::algorithm).eq([Algorithm::Ed25519, Algorithm::MlDsa65])
            && keys.iter().all(|key| key.name() == *origin)
    };
    if both.iter().all(right) { Ok(((*origin).to_owned(), both)) } else { Err(malformed()) }
}

/// The old and the new keys that a statement names; whether it is signed is not asked.
///
/// # Errors
/// When it is malformed.
pub fn keys(note: &str) -> Result<[[PublicKey; 2]; 2], Malformed> {
    parse(&Note::parse(note.as_bytes())?).map(|(_, both)| both)
}

/// Checks a statement and lets the policy trust the new keys; gives them.
///
/// # Errors
/// When it is malformed, another log's, or not signed as it must be. Then the policy is unchanged.
pub fn apply(policy: &mut Policy, origin: &str, note: &str) -> Result<[PublicKey; 2], RotationError> {
    let note = Note::parse(note.as_bytes())?;
    let (named, [old, new]) = parse(&note)?;
    if named != origin {
        return Err(RotationError::Origin(named, origin.to_owned()));
    }
    let known = policy.generations(origin).into_iter().any(|generation| {
        let has = |trusted: &Option<PublicKey>, key| trusted.as_ref().is_none_or(|trusted| trusted == key);
        (generation.classic.is_some() || generation.quantum.is_some())
            && has(&generation.classic, &old[0])
            && has(&generation.quantum, &old[1])
    });
    // Signatures by keys that the statement itself names prove nothing; they must be those that are trusted already.
    policy.signed(&note, origin, 0).map_err(RotationError::Old)?;
    if !known {
        let unknown = Policy::of_log(&old).signed(&Note { text: note.text.clone(), signatures: Vec::new() }, origin, 0);
        return Err(RotationError::Old(unknown.err().unwrap_or(PolicyError::Malformed(malformed()))));
    }
    Policy::of_log(&new).signed(&note, origin, 0).map_err(RotationError::New)?;
    policy.trust(&new);
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::key::Purpose;
    use crate::unit::clock::Timestamp;

    fn keys(name: &str) -> SigningKeys {
        SigningKeys::create(Purpose::Log, name, Timestamp(0)).unwrap()
    }

    #[test]
    fn trust_goes_from_old_to_new_keys_and_nowhere_else() {
        let (first, second, third, thief) = (keys("l"), keys("l"), keys("l"), keys("l"));
        let mut policy = Policy::of_log(first.public());
        apply(&mut policy, "l", &make(&first, &second).unwrap()).unwrap();
        apply(&mut policy, "l", &make(&second, &third).unwrap()).unwrap();
        assert_eq!(policy.generations("l").len(), 3);
        let stolen = make(&thief, &keys("l")).unwrap();
        assert!(matches!(apply(&mut policy, "l", &stolen), Err(RotationError::Old(_))));
        assert!(matches!(apply(&mut policy, "other", &make(&first, &second).unwrap()), Err(RotationError::Origin(..))));
        assert!(make(&first, &keys("other")).is_err());
    }

    #[test]
    fn a_statement_without_one_of_its_four_signatures_is_refused() {
        let (old, new) = (keys("l"), keys("l"));
        let whole = Note::parse(make(&old, &new).unwrap().as_bytes()).unwrap();
        for at in 0..4 {
            let mut note = whole.clone();
            note.signatures.remove(at);
            let mut policy = Policy::of_log(old.public());
            assert!(apply(&mut policy, "l", &note.to_string()).is_err(), "signature {at}");
            assert_eq!(policy.generations("l").len(), 1);
        }
        let foreign = keys("l");
        let edited = whole.to_string().replace(&new.public()[0].to_string(), &foreign.public()[0].to_string());
        assert!(apply(&mut Policy::of_log(old.public()), "l", &edited).is_err());
    }
}
