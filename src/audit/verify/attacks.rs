//! What somebody can do who may write every file, who has the keys too, or who shows different people different logs: each is
//! seen, and the message says what and where.

use super::tests::{kept, rewrite, sign};
use super::*;
use crate::audit::disk::System;
use crate::audit::key::{Purpose, SigningKeys};
use crate::audit::log::tests::{ORIGIN, filled, flip, keys, now, settings, taken};
use crate::audit::log::{Log, Published, Settings};
use crate::audit::merkle;
use crate::audit::note::Note;
use crate::audit::policy::WitnessKey;
use crate::audit::tail::LOG;
use crate::audit::tiles::TreeFiles;

/// A log of seven entries, the first five of which a witness cosigned, with one rotation; and whom its verifier trusts.
struct Watched {
    folder: tempfile::TempDir,
    policy: Policy,
    witness: SigningKeys,
    log: Log,
}

fn watched() -> Watched {
    let folder = tempfile::tempdir().unwrap();
    let witness = SigningKeys::create(Purpose::Witness, "w.example", now(0)).unwrap();
    let known = WitnessKey { name: "w".to_owned(), key: witness.public()[0].clone(), url: None };
    let asked = Policy::default().with_witnesses(vec![known.clone()], 1);
    let settings = Settings { policy: asked, ..settings(folder.path()) };
    let log = Log::open(settings, keys(1), None, std::sync::Arc::new(System), now(0)).unwrap();
    log.take(&(0..4).map(taken).collect::<Vec<_>>(), "s", (0, 4)).unwrap();
    log.rotate(keys(2), now(1)).unwrap();
    let mut watched =
        Watched { folder, policy: Policy::of_log(keys(1).public()).with_witnesses(vec![known], 1), witness, log };
    watched.cosign();
    watched.log.take(&(4..6).map(taken).collect::<Vec<_>>(), "s", (4, 6)).unwrap();
    watched.log.finish(now(2)).unwrap();
    watched
}

impl Watched {
    fn cosign(&mut self) {
        let Published { checkpoint, mut note } = self.log.published().0.unwrap();
        note.add(self.witness.cosign(&checkpoint, now(3)).unwrap());
        assert!(self.log.cosigned(&note.to_string()).unwrap());
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(LOG).join(name)
    }

    fn verify(&self) -> Result<Report, Fault> {
        log(&self.folder.path().join(LOG), &self.policy, &[])
    }
}

#[test]
fn a_byte_flipped_in_what_keys_and_witnesses_signed_is_seen() {
    let watched = watched();
    let report = watched.verify().unwrap();
    assert_eq!((report.entries, report.rotations), (7, 1));
    assert_eq!(report.witnessed.unwrap().checkpoint.size, 5);
    // Signatures and keys are long; of each every few bytes.
    for (name, step) in [("checkpoint", 11), ("witnessed", 11), ("rotations", 41)] {
        let length = fs::metadata(watched.path(name)).unwrap().len() as usize;
        for at in (0..length).filter(|at| *at < 150 || at % step == 0) {
            flip(&watched.path(name), at);
            let found = watched.verify();
            flip(&watched.path(name), at);
            // A signature that nobody was asked to trust proves nothing, so nothing depends on it.
            if found.as_ref().is_ok_and(|found| names_a_stranger(&watched, name, at, found)) {
                continue;
            }
            let fault = found.err().unwrap_or_else(|| panic!("{name} at {at} was not seen"));
            assert!(fault.place == name || fault.place.starts_with("checkpoint"), "{name} at {at}: {fault}");
        }
    }
}

/// Whether the byte is in a cosignature by the key that the policy does not name, or made one of its lines a stranger's.
fn names_a_stranger(watched: &Watched, name: &str, at: usize, found: &Report) -> bool {
    let note = fs::read(watched.path(name)).unwrap();
    let line = note[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let is_cosignature = String::from_utf8_lossy(&note[line..]).starts_with("— w.example ");
    // What it would prove is gone, and the report says so.
    is_cosignature && found.witnessed.as_ref().map_or(0, |last| last.checkpoint.size) <= 5
}

#[test]
fn whoever_has_every_file_but_no_key_can_sign_nothing() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 12);
    let mut all = tiles::read_entries(&folder.path().join(LOG), 0, 12).unwrap();
    all[3] = taken(77).bytes;
    rewrite(folder.path(), &all);
    let tree = TreeFiles::new(&folder.path().join(LOG), 12);
    let text = Checkpoint::new(ORIGIN, 12, merkle::root(12, &tree).unwrap()).to_string();
    let path = folder.path().join("log/checkpoint");
    let verified = |note: &Note| {
        fs::write(&path, note.to_string()).unwrap();
        log(&folder.path().join(LOG), &Policy::of_log(keys(1).public()), &[]).unwrap_err()
    };
    // Keys of his own, under the log's name.
    let fault = verified(&Note { signatures: keys(9).sign(&text).unwrap(), text: text.clone() });
    assert!(fault.what.contains("size 12 has no Ed25519 and no ML-DSA-65 signature by a known key"), "{fault}");
    // The old signatures under the new text.
    let old = Note { signatures: keys(1).sign("another\n").unwrap(), text: text.clone() };
    let fault = verified(&old);
    assert!(fault.what.contains("the Ed25519 signature by marg.example/node-1+"), "{fault}");
    // His signatures, with the ids of the true keys.
    let lines = keys(9).sign(&text).unwrap().into_iter();
    let signatures = keys(1).public().iter().zip(lines).map(|(key, line)| key.line(line.signature)).collect();
    assert!(verified(&Note { signatures, text: text.clone() }).what.contains("is not valid"));
    // A rotation to his keys, which the true ones never signed.
    let stolen = rotation::make(&keys(9), &keys(8)).unwrap();
    fs::write(folder.path().join("log/rotations"), serde_json::to_vec(&[stolen]).unwrap()).unwrap();
    let fault = verified(&Note { signatures: keys(8).sign(&text).unwrap(), text });
    assert!(fault.what.contains("the rotation is not signed by keys that are trusted"), "{fault}");
    // Nor does the gateway go on with such a folder.
    let opened = Log::open(settings(folder.path()), keys(1), None, std::sync::Arc::new(System), now(3));
    assert!(opened.is_err_and(|error| error.to_string().contains("log/")));
}

#[test]
fn whoever_has_the_keys_but_not_the_witnesses_can_rewrite_nothing_that_they_saw() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 10);
    let witness = SigningKeys::create(Purpose::Witness, "w.example", now(0)).unwrap();
    let known = WitnessKey { name: "w".to_owned(), key: witness.public()[1].clone(), url: None };
    let policy = Policy::of_log(keys(1).public()).with_witnesses(vec![known], 1);
    let (checkpoint, mut note) = Checkpoint::from_note(&kept(folder.path()).note).unwrap();
    note.add(witness.cosign(&checkpoint, now(3)).unwrap());
    fs::write(folder.path().join("log/witnessed"), note.to_string()).unwrap();
    let mut all = tiles::read_entries(&folder.path().join(LOG), 0, 10).unwrap();
    all[3] = taken(77).bytes;
    all.push(taken(11).bytes);
    rewrite(folder.path(), &all);
    sign(folder.path(), 11);
    let verified = || log(&folder.path().join(LOG), &policy, &[]);
    let fault = verified().unwrap_err();
    assert!(fault.what.contains("witnessed signs the root") && fault.what.contains("at size 10"), "{fault}");
    // What he takes away, nobody has seen: that is said, too.
    fs::remove_file(folder.path().join("log/witnessed")).unwrap();
    let report = verified().unwrap();
    assert!(!report.standing.witnessed && report.witnessed.is_none());
    // A witness of his own is not one that the verifier trusts.
    let own = SigningKeys::create(Purpose::Witness, "w.example", now(0)).unwrap();
    let (checkpoint, mut note) = Checkpoint::from_note(&kept(folder.path()).note).unwrap();
    note.add(own.cosign(&checkpoint, now(3)).unwrap());
    fs::write(folder.path().join("log/witnessed"), note.to_string()).unwrap();
    assert!(verified().unwrap().witnessed.is_none());
    // Nor do the lines of the true witness fit what it never saw.
    let mut note = Note { signatures: keys(1).sign(&checkpoint.to_string()).unwrap(), text: checkpoint.to_string() };
    let old = Checkpoint { size: 10, ..checkpoint.clone() };
    note.add(witness.cosign(&old, now(3)).unwrap());
    fs::write(folder.path().join("log/witnessed"), note.to_string()).unwrap();
    let fault = verified().unwrap_err();
    assert!(fault.place == "witnessed" && fault.what.contains("ML-DSA-44 cosignature"), "{fault}");
}

#[test]
fn signatures_of_one_algorithm_removed_and_edited_key_names_are_named() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 3);
    let whole = Note::parse(&kept(folder.path()).note).unwrap();
    let path = folder.path().join("log/checkpoint");
    let verified = |note: &Note| {
        fs::write(&path, note.to_string()).unwrap();
        log(&folder.path().join(LOG), &Policy::of_log(keys(1).public()), &[]).unwrap_err()
    };
    for (removed, name) in [(0, "no Ed25519 signature"), (1, "no ML-DSA-65 signature")] {
        let mut note = whole.clone();
        note.signatures.remove(removed);
        let fault = verified(&note);
        assert!(fault.place == "checkpoint" && fault.what.contains(name), "{fault}");
        assert!(fault.what.contains("size 3") && fault.what.contains("marg.example/node-1"), "{fault}");
        let mut note = whole.clone();
        note.signatures[removed].name = "marg.example/node-2".to_owned();
        let fault = verified(&note);
        assert!(fault.what.contains(name), "the line under another name is no line of the log: {fault}");
        let mut note = whole.clone();
        note.signatures[removed].id[0] ^= 1;
        assert!(verified(&note).what.contains(name));
    }
    let mut note = whole.clone();
    note.signatures.clear();
    assert_eq!(verified(&note).place, "checkpoint");
}

#[test]
fn what_is_of_another_log_is_named() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 3);
    let log_folder = folder.path().join(LOG);
    let policy = Policy::of_log(keys(1).public());
    // A checkpoint that another log truly signed, by whom the verifier trusts, too.
    let seed = secrecy::zeroize::Zeroizing::new(vec![5; 64]);
    let other = SigningKeys::from_seed(Purpose::Log, "marg.example/node-2", seed, now(0)).unwrap();
    let text = Checkpoint::new("marg.example/node-2", 3, merkle::empty_root()).to_string();
    let note = Note { signatures: other.sign(&text).unwrap(), text }.to_string();
    let name = "elsewhere.txt".to_owned();
    let fault = log(&log_folder, &policy, &[Kept { name, note: note.clone().into_bytes() }]).unwrap_err();
    assert_eq!(fault.place, "elsewhere.txt");
    assert!(fault.what.contains("node-2") && fault.what.contains("node-1"), "{fault}");
    fs::write(log_folder.join("checkpoint"), &note).unwrap();
    let fault = log(&log_folder, &policy, &[]).unwrap_err();
    assert!(fault.what.contains("is of the log \"marg.example/node-2\""), "{fault}");
    let mut both = policy.clone();
    both.trust(other.public());
    let fault = log(&log_folder, &both, &[]).unwrap_err();
    assert!(fault.place == "checkpoint" && fault.what.contains("the entries have the root"), "{fault}");
}

/// Keys are given up because somebody else may have them; what they sign from then on is worth nothing.
#[test]
fn keys_that_were_given_up_can_neither_sign_more_nor_name_others() {
    let watched = watched();
    let log_folder = watched.folder.path().join(LOG);
    let mut all = tiles::read_entries(&log_folder, 0, 7).unwrap();
    let policy = Policy::of_log(keys(1).public());
    let attacked = |all: &[Vec<u8>], signer: u8| {
        rewrite(watched.folder.path(), all);
        let (size, tree) = (all.len() as u64, TreeFiles::new(&log_folder, all.len() as u64));
        let text = Checkpoint::new(ORIGIN, size, merkle::root(size, &tree).unwrap()).to_string();
        let signatures = keys(signer).sign(&text).unwrap();
        fs::write(watched.path("checkpoint"), Note { signatures, text }.to_string()).unwrap();
        log(&log_folder, &policy, &[]).unwrap_err()
    };
    all.push(taken(99).bytes);
    let fault = attacked(&all, 1);
    assert!(fault.place == "checkpoint" && fault.what.contains("gave up in entry 4"), "{fault}");
    let note = rotation::make(&keys(1), &keys(9)).unwrap();
    let stolen = crate::audit::entry::Rotation { at: now(9), note: note.clone() };
    all.push(crate::audit::entry::Entry::Rotation(stolen).to_bytes());
    let fault = attacked(&all, 9);
    assert!(fault.place == "rotations" && fault.what.contains("rotation 1 is from keys"), "{fault}");
    // The same with his statement in the list.
    let mut notes = rotation::load(&log_folder).unwrap();
    notes.push(note);
    fs::write(watched.path("rotations"), serde_json::to_vec(&notes).unwrap()).unwrap();
    assert!(attacked(&all, 9).what.contains("rotation 1 is from keys"));
    // Their own checkpoints of before stay good.
    all.truncate(7);
    rewrite(watched.folder.path(), &all);
    let text = watched.log.published().0.unwrap().note.to_string();
    fs::write(watched.path("checkpoint"), text).unwrap();
    notes_of_one(&watched);
    let tree = TreeFiles::new(&log_folder, 7);
    let text = Checkpoint::new(ORIGIN, 4, merkle::root(4, &tree).unwrap()).to_string();
    let note = Note { signatures: keys(1).sign(&text).unwrap(), text }.to_string().into_bytes();
    let report = log(&log_folder, &policy, &[Kept { name: "old.txt".to_owned(), note }]).unwrap();
    assert_eq!(report.continues, [("old.txt".to_owned(), 4)]);
}

/// Takes all statements but the first out of the list.
fn notes_of_one(watched: &Watched) {
    let notes = rotation::load(&watched.folder.path().join(LOG)).unwrap();
    fs::write(watched.path("rotations"), serde_json::to_vec(&notes[..1]).unwrap()).unwrap();
}

/// Whoever has the keys can log bytes of which two readers read two things.
#[test]
fn an_entry_in_another_spelling_is_no_proof() {
    let plain = String::from_utf8(taken(1).bytes).unwrap();
    let twice = plain.replacen("\"status\":200", "\"status\":200,\"status\":403", 1);
    let spaced = plain.replacen(':', ": ", 1);
    assert!(twice != plain && spaced != plain, "{plain}");
    for entry in [twice, spaced] {
        let folder = tempfile::tempdir().unwrap();
        filled(folder.path(), 1);
        rewrite(folder.path(), &[entry.clone().into_bytes()]);
        sign(folder.path(), 1);
        let log_folder = folder.path().join(LOG);
        let fault = log(&log_folder, &Policy::of_log(keys(1).public()), &[]).unwrap_err();
        assert!(fault.place == "entry 0" && fault.what.contains("RFC 8785"), "{fault}");
        let receipt = crate::audit::receipt::Receipt::from_files(&log_folder, 0).unwrap();
        let fault = receipt.verify(&Policy::of_log(keys(1).public())).unwrap_err();
        assert!(fault.place.contains("entry 0") && fault.what.contains("RFC 8785"), "{fault}");
    }
}

/// A folder that somebody else made may hold anything.
#[test]
fn pipes_endless_files_and_circles_of_links_do_not_hold_up_a_verifier() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 300);
    let log_folder = folder.path().join(LOG);
    let verified = || log(&log_folder, &Policy::of_log(keys(1).public()), &[]);
    std::os::unix::fs::symlink("..", log_folder.join("tile/0/x000")).unwrap();
    std::os::unix::fs::symlink(".", log_folder.join("tile/entries/x001")).unwrap();
    assert!(verified().is_ok(), "links to folders are passed by");
    for name in ["checkpoint", "witnessed", "rotations", "tile/0/000", "tile/entries/001.p/44", "tile/0/000.p/7"] {
        let path = log_folder.join(name);
        let whole = fs::read(&path).ok();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let strange: [&dyn Fn(); 3] = [
            &|| assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success()),
            &|| std::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
            &|| fs::File::create(&path).unwrap().set_len(1 << 40).unwrap(),
        ];
        for make in strange {
            drop(fs::remove_file(&path));
            make();
            let fault = verified().unwrap_err();
            assert!(fault.place.contains(name) || name == "tile/0/000.p/7", "{name}: {fault}");
        }
        fs::remove_file(&path).unwrap();
        if let Some(whole) = whole {
            fs::write(&path, whole).unwrap();
        }
    }
    assert!(verified().is_ok());
}

#[test]
fn a_list_of_rotations_that_differs_from_the_log_is_seen() {
    let watched = watched();
    let text = fs::read_to_string(watched.path("rotations")).unwrap();
    let notes: Vec<String> = serde_json::from_str(&text).unwrap();
    let foreign = rotation::make(&keys(1), &keys(3)).unwrap();
    for list in [vec![foreign.clone()], vec![notes[0].clone(), foreign]] {
        fs::write(watched.path("rotations"), serde_json::to_vec(&list).unwrap()).unwrap();
        let fault = watched.verify().unwrap_err();
        assert!(fault.place == "rotations" && fault.what.contains("entry 4"), "{fault}");
    }
    // A crash may come between the entry and the list.
    fs::remove_file(watched.path("rotations")).unwrap();
    assert!(watched.verify().is_ok());
    let Watched { folder, log, .. } = watched;
    drop(log);
    drop(Log::open(settings(folder.path()), keys(2), None, std::sync::Arc::new(System), now(9)).unwrap());
    assert!(folder.path().join("log/rotations").exists(), "it is made again at the next start");
}
