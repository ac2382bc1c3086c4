//! Whom a verifier trusts: the keys of logs, the keys of witnesses, and how many of them must have signed.
//!
//! A policy is a text in the form of c2sp.org/tlog-policy (`log`, `witness`, `group`, `quorum` lines). Beyond that form, the keys
//! of a log come in pairs: the first Ed25519 key and the first ML-DSA-65 key of an origin are its first generation, and so on,
//! and a checkpoint needs both signatures of one generation unless [`Policy::accept_one`] says otherwise. Rotations that a
//! trusted generation signed add the next one.

use std::collections::BTreeMap;

use crate::audit::checkpoint::{Checkpoint, verify_cosignature};
use crate::audit::note::{Algorithm, Malformed, Note, PublicKey};
use crate::unit::clock::Timestamp;

/// The longest policy that is read.
const LIMIT_BYTES: usize = 512 * 1024;

/// The most keys of logs and of witnesses, and the most groups.
const LIMIT_LINES: usize = 256;

/// The keys of a log that sign as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The Ed25519 key, if there is one.
    pub classic: Option<PublicKey>,
    /// The ML-DSA-65 key, if there is one.
    pub quantum: Option<PublicKey>,
}

impl Generation {
    fn keys(&self) -> impl Iterator<Item = &PublicKey> {
        self.classic.iter().chain(&self.quantum)
    }

    /// Which keys it is, for messages.
    pub fn label(&self) -> String {
        self.keys().map(|key| format!("{} {}", key.algorithm().name(), key.id())).collect::<Vec<_>>().join(" and ")
    }
}

/// A witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessKey {
    /// How the policy calls it.
    pub name: String,
    /// Its key.
    pub key: PublicKey,
    /// Where to ask it, if the policy says: its submission prefix.
    pub url: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    name: String,
    least: usize,
    members: Vec<String>,
}

/// Whom a verifier trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    logs: Vec<PublicKey>,
    witnesses: Vec<WitnessKey>,
    groups: Vec<Group>,
    /// The name of a witness or group; `None` asks for no witness.
    quorum: Option<String>,
    accept_one: bool,
}

/// How far a checkpoint is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The checkpoint itself.
    pub checkpoint: Checkpoint,
    /// Which generation of the log's keys signed it, from 0.
    pub generation: usize,
    /// The algorithms of the log's valid signatures.
    pub algorithms: Vec<Algorithm>,
    /// Who of the policy's witnesses cosigned it, and when.
    pub witnesses: BTreeMap<String, Timestamp>,
    /// Whether that satisfies the quorum; true too when the policy asks for none.
    pub witnessed: bool,
}

/// Why a checkpoint does not stand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// It cannot be read.
    #[error("the checkpoint is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// It is another log's.
    #[error("the checkpoint is of the log {found:?}, the policy knows {known}")]
    Origin {
        /// The origin that it names.
        found: String,
        /// Those that the policy names.
        known: String,
    },
    /// A known key did not make the signature that names it.
    #[error(
        "the {0} signature by {1}+{2} on the checkpoint of size {3} is not valid: the text or the signature was changed"
    )]
    Signature(&'static str, String, String, u64),
    /// A signature that must be there is not.
    #[error("the checkpoint of size {size} has no {missing} signature by a known key of {origin} ({wanted})")]
    Missing {
        /// The size that it names.
        size: u64,
        /// The algorithms without a signature.
        missing: String,
        /// The log.
        origin: String,
        /// The keys that were looked for.
        wanted: String,
    },
    /// Not enough witnesses.
    #[error(
        "the checkpoint of size {size} is not witnessed: {got} of the witnesses cosigned it ({who}), the quorum {quorum} is not reached"
    )]
    Quorum {
        /// The size that it names.
        size: u64,
        /// How many did.
        got: usize,
        /// Their names.
        who: String,
        /// The name of the quorum.
        quorum: String,
    },
}

impl Policy {
    /// A policy that trusts one log's keys and asks for no witness.
    pub fn of_log(keys: &[PublicKey]) -> Self {
        Self { logs: keys.to_vec(), ..Self::default() }
    }

    /// Adds witnesses, each of another name, of which at least `least` must cosign; 0 asks for none. Keys of the same name are one
    /// witness, which counts once, and only where all of them cosigned.
    pub fn with_witnesses(mut self, witnesses: Vec<WitnessKey>, least: usize) -> Self {
        let mut members = Vec::new();
        for one in &witnesses {
            let same = witnesses.iter().filter(|other| other.key.name() == one.key.name());
            let same: Vec<String> = same.map(|other| other.name.clone()).collect();
            match same.as_slice() {
                [alone] => members.push(alone.clone()),
                [first, ..] if *first == one.name => {
                    // No name of the configuration holds a colon, so it is new.
                    let name = format!("{}:all", one.key.name());
                    members.push(name.clone());
                    self.groups.push(Group { name, least: same.len(), members: same });
                }
                _ => {}
            }
        }
        self.witnesses = witnesses;
        if least > 0 {
            let name = format!("witnesses:{least}-of-{}", members.len());
            self.groups.push(Group { name: name.clone(), least, members });
            self.quorum = Some(name);
        }
        self
    }

    /// Whether it asks for witnesses at all.
    pub fn asks_for_witnesses(&self) -> bool {
        self.quorum.is_some()
    }

    /// Lets one signature of the log suffice where the policy holds only one kind of key, or one was not made.
    pub fn accept_one(mut self) -> Self {
        self.accept_one = true;
        self
    }

    /// Reads a policy.
    ///
    /// # Errors
    /// The first fault with its line.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        if text.len() > LIMIT_BYTES {
            return Err(Malformed(format!("a policy has at most {LIMIT_BYTES} bytes")));
        }
        let mut policy = Self::default();
        let mut quorum = None;
        for (number, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
            policy
                .line(&words, &mut quorum)
                .map_err(|error| Malformed(format!("line {} of the policy: {}", number + 1, error.0)))?;
        }
        let quorum =
            quorum.ok_or_else(|| Malformed("the policy has no quorum line; `quorum none` asks for none".to_owned()))?;
        policy.quorum = (quorum != "none").then_some(quorum);
        Ok(policy)
    }

    fn line(&mut self, words: &[&str], quorum: &mut Option<String>) -> Result<(), Malformed> {
        let wrong = |text: String| Err(Malformed(text));
        if self.logs.len() + self.witnesses.len() + self.groups.len() > LIMIT_LINES {
            return wrong(format!("a policy names at most {LIMIT_LINES} keys and groups"));
        }
        match words {
            [] => {}
            [comment, ..] if comment.starts_with('#') => {}
            ["log", key] | ["log", key, _] => {
                let key = PublicKey::parse(key)?;
                if !matches!(key.algorithm(), Algorithm::Ed25519 | Algorithm::MlDsa65) || self.logs.contains(&key) {
                    return wrong(format!("{key:?} is a witness's key or was named before"));
                }
                self.logs.push(key);
            }
            ["witness", name, key, rest @ ..] if rest.len() < 2 => {
                let key = PublicKey::parse(key)?;
                let cosigns = matches!(key.algorithm(), Algorithm::CosignatureEd25519 | Algorithm::CosignatureMlDsa44);
                if !cosigns || self.knows(name) || self.witnesses.iter().any(|other| other.key == key) {
                    return wrong(format!("{name} is named before, or its key is a log's or another witness's"));
                }
                let url = rest.first().map(|url| (*url).to_owned());
                self.witnesses.push(WitnessKey { name: (*name).to_owned(), key, url });
            }
            ["group", name, least, members @ ..] => self.group(name, least, members)?,
            ["quorum", name] if quorum.is_none() => {
                if *name != "none" && !self.knows(name) {
                    return wrong(format!("{name} is no witness or group of a line above"));
                }
                *quorum = Some((*name).to_owned());
            }
            [word, ..] => return wrong(format!("{word:?} is no line of a policy, has too many words, or comes twice")),
        }
        Ok(())
    }

    fn group(&mut self, name: &str, least: &str, members: &[&str]) -> Result<(), Malformed> {
        let least = match least {
            "any" => Some(1),
            "all" => Some(members.len()),
            number => number.parse().ok(),
        };
        let taken = |member: &&str| self.groups.iter().any(|group| group.members.iter().any(|other| other == member));
        let least = least.filter(|least| (1..=members.len()).contains(least));
        let repeated = (1..members.len()).any(|at| members.iter().take(at).any(|one| members.get(at) == Some(one)));
        match least {
            Some(least)
                if !self.knows(name)
                    && !repeated
                    && members.iter().all(|one| self.knows(one) && *one != "none" && !taken(one)) =>
            {
                let members = members.iter().map(|member| (*member).to_owned()).collect();
                self.groups.push(Group { name: name.to_owned(), least, members });
                Ok(())
            }
            _ => Err(Malformed(format!(
                "the group {name} needs a new name, a number from 1 to that of its members (or any, all), and members of \
                 lines above that are in no other group"
            ))),
        }
    }

    fn knows(&self, name: &str) -> bool {
        name == "none"
            || self.witnesses.iter().any(|witness| witness.name == name)
            || self.groups.iter().any(|group| group.name == name)
    }

    /// The text of the policy; reading it gives the same policy.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for key in &self.logs {
            text.push_str(&format!("log {key}\n"));
        }
        for WitnessKey { name, key, url } in &self.witnesses {
            let url = url.as_ref().map(|url| format!(" {url}")).unwrap_or_default();
            text.push_str(&format!("witness {name} {key}{url}\n"));
        }
        for Group { name, least, members } in &self.groups {
            text.push_str(&format!("group {name} {least} {}\n", members.join(" ")));
        }
        text + &format!("quorum {}\n", self.quorum.as_deref().unwrap_or("none"))
    }

    /// The origins of the logs that it knows, each once.
    pub fn origins(&self) -> Vec<String> {
        let names: std::collections::BTreeSet<&str> = self.logs.iter().map(PublicKey::name).collect();
        names.into_iter().map(str::to_owned).collect()
    }

    /// The generations of a log's keys, oldest first.
    pub fn generations(&self, origin: &str) -> Vec<Generation> {
        let of = |algorithm| {
            let ours = move |key: &&PublicKey| key.name() == origin && key.algorithm() == algorithm;
            self.logs.iter().filter(ours).cloned().collect::<Vec<PublicKey>>()
        };
        let (classic, quantum) = (of(Algorithm::Ed25519), of(Algorithm::MlDsa65));
        let count = classic.len().max(quantum.len());
        (0..count)
            .map(|at| Generation { classic: classic.get(at).cloned(), quantum: quantum.get(at).cloned() })
            .collect()
    }

    /// Trusts another generation of a log's keys.
    pub fn trust(&mut self, keys: &[PublicKey]) {
        for key in keys {
            if !self.logs.contains(key) {
                self.logs.push(key.clone());
            }
        }
    }

    /// A policy that trusts these keys alone, as strictly as this one, and asks for no witness.
    pub fn only(&self, keys: &[PublicKey]) -> Self {
        Self { accept_one: self.accept_one, ..Self::of_log(keys) }
    }

    /// The witnesses.
    pub fn witnesses(&self) -> &[WitnessKey] {
        &self.witnesses
    }

    /// Whether a text was signed by one generation of a log's keys, as it must be; which, and with what.
    ///
    /// # Errors
    /// [`PolicyError::Signature`] or [`PolicyError::Missing`]; `size` is what they name.
    pub fn signed(&self, note: &Note, origin: &str, size: u64) -> Result<(usize, Vec<Algorithm>), PolicyError> {
        let generations = self.generations(origin);
        let mut best = None;
        for (number, generation) in generations.iter().enumerate() {
            let mut valid = Vec::new();
            for key in generation.keys() {
                let Some(line) = note.by(key) else { continue };
                if !key.verifies(note.text.as_bytes(), &line.signature) {
                    return Err(invalid(key, size));
                }
                valid.push(key.algorithm());
            }
            let least = if self.accept_one { 1 } else { 2 };
            if valid.len() >= least {
                best = Some((number, valid));
            }
        }
        best.ok_or_else(|| missing(note, &generations, origin, size))
    }

    /// How far a checkpoint is signed.
    ///
    /// # Errors
    /// When the log's signatures do not suffice, or one by a known key is not valid. Too few witnesses is no error here.
    pub fn standing(&self, bytes: &[u8]) -> Result<Standing, PolicyError> {
        let (checkpoint, note) = Checkpoint::from_note(bytes)?;
        if !self.logs.iter().any(|key| key.name() == checkpoint.origin) {
            let mut known: Vec<&str> = self.logs.iter().map(PublicKey::name).collect();
            known.dedup();
            return Err(PolicyError::Origin { found: checkpoint.origin, known: known.join(", ") });
        }
        let (generation, algorithms) = self.signed(&note, &checkpoint.origin, checkpoint.size)?;
        let mut witnesses = BTreeMap::new();
        for witness in &self.witnesses {
            let Some(line) = note.by(&witness.key) else { continue };
            let at = verify_cosignature(&witness.key, &line.signature, &checkpoint);
            witnesses.insert(witness.name.clone(), at.ok_or_else(|| invalid(&witness.key, checkpoint.size))?);
        }
        let witnessed = self.quorum.as_deref().is_none_or(|quorum| self.reached(quorum, &witnesses));
        Ok(Standing { checkpoint, generation, algorithms, witnesses, witnessed })
    }

    /// Like [`Policy::standing`], where too few witnesses are an error.
    ///
    /// # Errors
    /// Those of [`Policy::standing`], and [`PolicyError::Quorum`].
    pub fn check(&self, bytes: &[u8]) -> Result<Standing, PolicyError> {
        let standing = self.standing(bytes)?;
        if standing.witnessed {
            return Ok(standing);
        }
        let who: Vec<&str> = standing.witnesses.keys().map(String::as_str).collect();
        Err(PolicyError::Quorum {
            size: standing.checkpoint.size,
            got: who.len(),
            who: if who.is_empty() { "none".to_owned() } else { who.join(", ") },
            quorum: self.quorum.clone().unwrap_or_default(),
        })
    }

    fn reached(&self, name: &str, cosigned: &BTreeMap<String, Timestamp>) -> bool {
        match self.groups.iter().find(|group| group.name == name) {
            // Groups name only what stands above them, so this ends.
            Some(group) => group.members.iter().filter(|member| self.reached(member, cosigned)).count() >= group.least,
            None => cosigned.contains_key(name),
        }
    }
}

fn invalid(key: &PublicKey, size: u64) -> PolicyError {
    PolicyError::Signature(key.algorithm().name(), key.name().to_owned(), key.id(), size)
}

fn missing(note: &Note, generations: &[Generation], origin: &str, size: u64) -> PolicyError {
    // The generation that signed most is the one that was meant.
    let signs = |generation: &&Generation| generation.keys().filter(|key| note.by(key).is_some()).count();
    let meant = generations.iter().max_by_key(signs);
    let has = |algorithm| {
        meant.is_some_and(|generation| {
            generation.keys().any(|key| key.algorithm() == algorithm && note.by(key).is_some())
        })
    };
    let lacking = [Algorithm::Ed25519, Algorithm::MlDsa65].into_iter().filter(|algorithm| !has(*algorithm));
    PolicyError::Missing {
        size,
        missing: lacking.map(Algorithm::name).collect::<Vec<_>>().join(" and no "),
        origin: origin.to_owned(),
        wanted: generations.iter().map(Generation::label).collect::<Vec<_>>().join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::key::{Purpose, SigningKeys};
    use crate::audit::merkle::empty_root;

    fn keys(purpose: Purpose, name: &str) -> SigningKeys {
        SigningKeys::create(purpose, name, Timestamp(0)).unwrap()
    }

    fn checkpoint(log: &SigningKeys, witnesses: &[&SigningKeys]) -> String {
        let checkpoint = Checkpoint::new(log.name(), 7, empty_root());
        let text = checkpoint.to_string();
        let mut signatures = log.sign(&text).unwrap();
        for witness in witnesses {
            signatures.extend(witness.cosign(&checkpoint, Timestamp(5_000_000)).unwrap());
        }
        Note { text, signatures }.to_string()
    }

    fn witness(name: &str, keys: &SigningKeys, at: usize) -> WitnessKey {
        WitnessKey { name: name.to_owned(), key: keys.public()[at].clone(), url: None }
    }

    #[test]
    fn one_signature_is_not_enough_unless_the_verifier_says_so() {
        let log = keys(Purpose::Log, "example.com/log");
        let whole = checkpoint(&log, &[]);
        let policy = Policy::of_log(log.public());
        assert_eq!(policy.check(whole.as_bytes()).unwrap().algorithms, [Algorithm::Ed25519, Algorithm::MlDsa65]);
        for (at, name) in [(0, "no ML-DSA-65"), (1, "no Ed25519")] {
            let mut note = Note::parse(whole.as_bytes()).unwrap();
            note.signatures = vec![note.signatures[at].clone()];
            let error = policy.check(note.to_string().as_bytes()).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("size 7"), "{error}");
            assert!(policy.clone().accept_one().check(note.to_string().as_bytes()).is_ok());
        }
        let half = Policy::of_log(&log.public()[..1]);
        assert!(half.check(whole.as_bytes()).is_err(), "a policy that knows one key cannot check both");
    }

    #[test]
    fn signatures_of_two_generations_do_not_add_up() {
        let (old, new) = (keys(Purpose::Log, "l"), keys(Purpose::Log, "l"));
        let text = Checkpoint::new("l", 1, empty_root()).to_string();
        let mixed = vec![old.sign(&text).unwrap()[0].clone(), new.sign(&text).unwrap()[1].clone()];
        let mut policy = Policy::of_log(old.public());
        policy.trust(new.public());
        let note = Note { text, signatures: mixed }.to_string();
        assert!(matches!(policy.check(note.as_bytes()), Err(PolicyError::Missing { .. })));
    }

    #[test]
    fn another_origin_is_named() {
        let policy = Policy::of_log(keys(Purpose::Log, "example.com/log").public());
        let other = checkpoint(&keys(Purpose::Log, "example.com/other"), &[]);
        let error = policy.check(other.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("example.com/other") && error.contains("example.com/log"), "{error}");
    }

    #[test]
    fn witnesses_count_by_the_quorum() {
        let log = keys(Purpose::Log, "l");
        let three: Vec<SigningKeys> = ["w1", "w2", "w3"].map(|name| keys(Purpose::Witness, name)).into();
        let known = three.iter().map(|keys| witness(keys.name(), keys, 1)).collect();
        let policy = Policy::of_log(log.public()).with_witnesses(known, 2);
        assert_eq!(Policy::parse(&policy.to_text()).unwrap(), policy);
        let one = checkpoint(&log, &[&three[1]]);
        let error = policy.check(one.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("1 of the witnesses cosigned it (w2)"), "{error}");
        let two = checkpoint(&log, &[&three[1], &three[2]]);
        let standing = policy.check(two.as_bytes()).unwrap();
        assert_eq!(standing.witnesses.get("w3"), Some(&Timestamp(5_000_000)));
        let moved = two.replacen("7\n", "8\n", 1);
        assert!(matches!(policy.check(moved.as_bytes()), Err(PolicyError::Signature(..))));
    }

    #[test]
    fn two_keys_of_one_witness_are_one_witness() {
        let log = keys(Purpose::Log, "l");
        let (both, other) = (keys(Purpose::Witness, "w1"), keys(Purpose::Witness, "w2"));
        let named = |name: &str, keys: &SigningKeys, at| WitnessKey { name: name.to_owned(), ..witness("", keys, at) };
        let known = vec![named("w1-a", &both, 0), named("w1-b", &both, 1), named("w2", &other, 0)];
        let policy = |least| Policy::of_log(log.public()).with_witnesses(known.clone(), least);
        assert_eq!(Policy::parse(&policy(2).to_text()).unwrap(), policy(2));
        let alone = checkpoint(&log, &[&both]);
        assert!(policy(1).check(alone.as_bytes()).is_ok());
        let error = policy(2).check(alone.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("the quorum witnesses:2-of-2 is not reached"), "{error}");
        assert!(policy(2).check(checkpoint(&log, &[&both, &other]).as_bytes()).is_ok());
        let mut half = Note::parse(alone.as_bytes()).unwrap();
        half.signatures.pop();
        assert!(policy(1).check(half.to_string().as_bytes()).is_err(), "one of its two keys is not enough");
    }

    #[test]
    fn nested_groups_are_understood_and_faults_named_by_line() {
        let w: Vec<String> =
            ["a", "b", "c"].iter().map(|name| keys(Purpose::Witness, name).public()[0].to_string()).collect();
        let lines = format!(
            "# whom we trust\nwitness a {}\nwitness b {}\nwitness c {} https://c.example/\ngroup g any a b\ngroup h all g c\nquorum h\n",
            w[0], w[1], w[2]
        );
        let policy = Policy::parse(&lines).unwrap();
        let at = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), Timestamp(0))).collect();
        assert!(policy.reached("h", &at(&["b", "c"])));
        assert!(!policy.reached("h", &at(&["a", "b"])));
        for (from, to, place) in [
            ("all g c", "all g a", "line 6"),
            ("all g c", "3 g c", "line 6"),
            ("quorum h", "quorum x", "line 7"),
            ("quorum h\n", "", "no quorum"),
            ("group g any", "group a any", "line 5"),
            ("# whom", "whom", "line 1"),
        ] {
            let error = Policy::parse(&lines.replace(from, to)).unwrap_err().0;
            assert!(error.contains(place), "{to}: {error}");
        }
    }
}
