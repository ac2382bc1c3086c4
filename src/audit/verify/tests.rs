use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::audit::disk::System;
use crate::audit::entry::Entry;
use crate::audit::entry::tests::{exchange, salt};
use crate::audit::log::tests::{ORIGIN, filled, flip, keys, now, open, settings, taken};
use crate::audit::log::{Log, Published, Settings};
use crate::audit::merkle;
use crate::audit::note::Note;
use crate::audit::receipt::{Receipt, Which};
use crate::audit::tail::{LOG, Taken};
use crate::audit::tiles::TreeFiles;
use crate::unit::clock::{Tick, Timestamp};

fn policy() -> Policy {
    Policy::of_log(keys(1).public())
}

fn verify(folder: &Path, kept: &[Kept]) -> Result<Report, Fault> {
    log(&folder.join(LOG), &policy(), kept)
}

pub fn kept(folder: &Path) -> Kept {
    Kept { name: "kept.txt".to_owned(), note: fs::read(folder.join("log/checkpoint")).unwrap() }
}

/// Every file that is served.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut folders = vec![folder.join(LOG)];
    let mut files = Vec::new();
    while let Some(here) = folders.pop() {
        for path in fs::read_dir(here).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}

#[test]
fn a_byte_flipped_anywhere_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 3);
    assert!(verify(folder.path(), &[]).is_ok());
    let mut flips = 0;
    for path in files(folder.path()) {
        let name = path.strip_prefix(folder.path().join(LOG)).unwrap().to_str().unwrap().to_owned();
        for at in 0..fs::metadata(&path).unwrap().len() as usize {
            flip(&path, at);
            let fault = verify(folder.path(), &[]).expect_err(&format!("{name} at {at}"));
            let named = fault.place.contains(&name) || fault.place.starts_with("entry") || name.starts_with("tile/0");
            assert!(named, "{name} at {at}: {fault}");
            flip(&path, at);
            flips += 1;
        }
    }
    assert!(flips > 6_000, "{flips}");
    assert!(verify(folder.path(), &[]).is_ok());
}

/// Writes a bundle and its tile anew from entries, as an attacker without the keys can.
pub fn rewrite(folder: &Path, entries: &[Vec<u8>]) {
    let mut bundle = Vec::new();
    for entry in entries {
        bundle.extend_from_slice(&(entry.len() as u16).to_be_bytes());
        bundle.extend_from_slice(entry);
    }
    let leaves: Vec<Hash> = entries.iter().map(|entry| leaf_hash(entry)).collect();
    fs::remove_dir_all(folder.join("log/tile")).unwrap();
    let size = entries.len() as u64;
    for (row, bytes) in [(Row::Entries, bundle), (Row::Level(0), tiles::tile(&leaves))] {
        let path = folder.join(LOG).join(tiles::path(row, 0, size));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn deleted_reordered_duplicated_and_inserted_entries_are_seen() {
    type Attack = fn(&mut Vec<Vec<u8>>);
    let attacks: [(&str, Attack); 5] = [
        ("deleted", |all| drop(all.remove(4))),
        ("reordered", |all| all.swap(2, 7)),
        ("duplicated", |all| all.insert(3, all[3].clone())),
        ("inserted", |all| all.insert(5, taken(99).bytes)),
        ("replaced", |all| all[6] = taken(98).bytes),
    ];
    for (name, attack) in attacks {
        for tiles_too in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            filled(folder.path(), 12);
            let mut all = tiles::read_entries(&folder.path().join(LOG), 0, 12).unwrap();
            attack(&mut all);
            let path = folder.path().join("log/tile/0/000.p/12");
            let tile = fs::read(&path).unwrap();
            // A checkpoint of the old size still needs twelve.
            all.resize(12, b"{\"at\":\"\",\"kind\":\"x\"}".to_vec());
            rewrite(folder.path(), &all);
            if !tiles_too {
                fs::write(&path, tile).unwrap();
            }
            let fault = verify(folder.path(), &[]).expect_err(name);
            let place = if tiles_too { "checkpoint" } else { "entry" };
            assert!(fault.place.starts_with(place), "{name}: {fault}");
        }
    }
}

#[test]
fn a_log_cut_to_any_earlier_length_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 20);
    let whole = kept(folder.path());
    let all = tiles::read_entries(&folder.path().join(LOG), 0, 20).unwrap();
    for size in 1..20 {
        rewrite(folder.path(), &all[..size]);
        fs::write(folder.path().join("log/checkpoint"), &whole.note).unwrap();
        let fault = verify(folder.path(), &[]).unwrap_err();
        assert!(fault.place.contains("tile/"), "{size}: {fault}");
        // Even with the keys: whoever kept a checkpoint sees it.
        sign(folder.path(), size as u64);
        assert!(verify(folder.path(), &[]).is_ok());
        let fault = verify(folder.path(), std::slice::from_ref(&whole)).unwrap_err();
        assert!(fault.what.contains(&format!("{} entries were cut off", 20 - size)), "{fault}");
    }
}

/// Signs what is there, as an attacker with the keys can.
pub fn sign(folder: &Path, size: u64) {
    let tree = TreeFiles::new(&folder.join(LOG), size);
    let text = Checkpoint::new(ORIGIN, size, merkle::root(size, &tree).unwrap()).to_string();
    let note = Note { signatures: keys(1).sign(&text).unwrap(), text };
    fs::write(folder.join("log/checkpoint"), note.to_string()).unwrap();
}

#[test]
fn a_folder_put_back_to_an_old_copy_is_seen_by_whoever_kept_a_checkpoint() {
    let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    filled(folder.path(), 5);
    filled(copy.path(), 5);
    let log = open(folder.path());
    log.take(&[taken(5), taken(6)], "s", (5, 7)).unwrap();
    log.finish(now(2)).unwrap();
    let later = kept(folder.path());
    let early = kept(copy.path());
    assert!(verify(folder.path(), std::slice::from_ref(&early)).is_ok());
    let fault = verify(copy.path(), &[later]).unwrap_err();
    assert!(fault.what.contains("5 entries, but kept.txt signs 7"), "{fault}");
}

#[test]
fn history_rewritten_with_the_keys_is_seen_by_whoever_kept_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 10);
    let early = kept(folder.path());
    let mut all = tiles::read_entries(&folder.path().join(LOG), 0, 10).unwrap();
    all[3] = taken(77).bytes;
    all.push(taken(11).bytes);
    rewrite(folder.path(), &all);
    sign(folder.path(), 11);
    assert!(verify(folder.path(), &[]).is_ok(), "the keys can sign anything");
    let fault = verify(folder.path(), &[early]).unwrap_err();
    assert!(fault.what.contains("at size 10") && fault.what.contains("rewritten or forked"), "{fault}");
}

#[test]
fn tiles_of_another_log_are_seen() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    filled(one.path(), 600);
    let log = open(other.path());
    let entries: Vec<_> = (1_000..1_600).map(taken).collect();
    log.take(&entries, "s", (0, 600)).unwrap();
    log.finish(now(1)).unwrap();
    for (names, place) in [
        (&["tile/entries/000"][..], "entry 0"),
        (&["tile/0/000"][..], "entry 0"),
        (&["tile/entries/001", "tile/0/001"][..], "tile/1/000.p/2"),
        (&["tile/1/000.p/2"][..], "tile/1/000.p/2"),
        (&["checkpoint"][..], "checkpoint"),
    ] {
        let there = |name: &str| one.path().join(LOG).join(name);
        let saved: Vec<Vec<u8>> = names.iter().map(|name| fs::read(there(name)).unwrap()).collect();
        for name in names {
            fs::copy(other.path().join(LOG).join(name), there(name)).unwrap();
        }
        let fault = verify(one.path(), &[]).unwrap_err();
        assert_eq!(fault.place, place, "{names:?}: {fault}");
        names.iter().zip(saved).for_each(|(name, bytes)| fs::write(there(name), bytes).unwrap());
    }
    assert!(verify(one.path(), &[]).is_ok());
}

#[test]
fn a_foreign_file_and_a_checkpoint_of_another_origin_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 3);
    fs::write(folder.path().join("log/tile/0/x000"), b"").unwrap();
    assert!(verify(folder.path(), &[]).unwrap_err().place.ends_with("x000"));
    fs::remove_file(folder.path().join("log/tile/0/x000")).unwrap();
    let path = folder.path().join("log/checkpoint");
    let text = fs::read_to_string(&path).unwrap().replace("node-1", "node-2");
    fs::write(&path, text).unwrap();
    let fault = verify(folder.path(), &[]).unwrap_err();
    assert!(fault.what.contains("node-2") && fault.what.contains("node-1"), "{fault}");
}

#[test]
fn every_entry_has_a_receipt_and_no_change_of_it_passes() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 300);
    let log = open(folder.path());
    for index in (0..300).step_by(23) {
        let receipt = Receipt::make(&log, index).unwrap();
        let text = receipt.to_text();
        assert_eq!(Receipt::parse(text.as_bytes()).unwrap(), receipt);
        assert_eq!(receipt.verify(&policy()).unwrap().checkpoint.size, 300);
        let changed = Receipt { entry: receipt.entry.replace("openai", "0penai"), ..receipt.clone() };
        let fault = changed.verify(&policy()).unwrap_err();
        assert!(fault.place.contains(&format!("entry {index}")), "{fault}");
        assert!(Receipt { index: index + 1, ..receipt.clone() }.verify(&policy()).is_err());
        let mut proof = receipt.proof.clone();
        proof.pop();
        assert!(Receipt { proof, ..receipt.clone() }.verify(&policy()).is_err());
        let checkpoint = receipt.checkpoint.replacen("300", "301", 1);
        assert!(Receipt { checkpoint, ..receipt }.verify(&policy()).unwrap_err().what.contains("not valid"));
    }
    assert!(Receipt::make(&log, 300).is_err());
}

#[test]
fn two_checkpoints_are_consistent_by_a_proof_alone() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 300);
    let old = kept(folder.path());
    let log = open(folder.path());
    log.take(&[taken(300), taken(301)], "s", (300, 302)).unwrap();
    let published: Published = log.finish(now(3)).unwrap().unwrap();
    let proof = AddCheckpoint::make(&published, 300, &TreeFiles::new(&log.log_folder(), 302)).unwrap();
    let (before, after) = consistency(&old, proof.to_text().as_bytes(), &policy(), &[]).unwrap();
    assert_eq!((before.checkpoint.size, after.checkpoint.size), (300, 302));
    let mut forged = proof.clone();
    forged.proof[0] = merkle::empty_root();
    assert!(consistency(&old, forged.to_text().as_bytes(), &policy(), &[]).unwrap_err().what.contains("does not show"));
    let shifted = AddCheckpoint { old: 299, ..proof };
    assert!(consistency(&old, shifted.to_text().as_bytes(), &policy(), &[]).unwrap_err().what.contains("size 299"));
}

#[test]
fn no_receipt_is_given_of_an_entry_that_somebody_changed() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 700);
    let log = open(folder.path());
    assert!(Receipt::make(&log, 3).is_ok());
    flip(&folder.path().join("log/tile/entries/000"), 3_000);
    let which = (0..256).filter(|index| Receipt::make(&log, *index).is_err()).collect::<Vec<_>>();
    let [index] = which.as_slice() else { panic!("{which:?}") };
    let error = Receipt::make(&log, *index).unwrap_err().to_string();
    assert!(error.contains(&format!("entry {index} (tile/entries/000) is not what was logged")), "{error}");
    assert!(Receipt::from_files(&log.log_folder(), *index).is_err());
    flip(&folder.path().join("log/tile/0/001"), 3_000);
    assert!(Receipt::make(&log, 300).is_err(), "a tile that was changed gives no proof");
}

#[test]
fn a_checkpoint_after_a_rotation_continues_one_before_it() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 5);
    let old = kept(folder.path());
    let log = open(folder.path());
    log.rotate(keys(2), now(2)).unwrap();
    let published = log.published().0.unwrap();
    let tree = TreeFiles::new(&log.log_folder(), published.checkpoint.size);
    let proof = AddCheckpoint::make(&published, 5, &tree).unwrap().to_text();
    let checked = |notes: &[String]| consistency(&old, proof.as_bytes(), &policy(), notes);
    let notes = rotation::load(&log.log_folder()).unwrap();
    assert_eq!(checked(&notes).unwrap().1.checkpoint.size, 6);
    assert!(checked(&[]).unwrap_err().what.contains("by a known key"));
    assert!(checked(&[rotation::make(&keys(3), &keys(2)).unwrap()]).is_err(), "a stranger's statement");
}

/// Figures, not limits: `cargo test --release --lib -- --ignored --nocapture what_a_log_costs`.
#[test]
#[ignore = "measures; run it on an optimised build"]
fn what_a_log_costs() {
    const SECONDS: i64 = 1_000;
    const RATE: u128 = 1_000;
    const EVERY_MS: i64 = 250;
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { interval: Duration::from_millis(EVERY_MS as u64), ..settings(folder.path()) };
    let log = Log::open(settings, keys(1), None, Arc::new(System), now(0)).unwrap();
    let (begun, cpu, mut signed, mut resident) = (Tick::now(), cpu_nanoseconds(), 0, Vec::new());
    let batch = RATE * EVERY_MS as u128 / 1_000;
    let steps = SECONDS * 1_000 / EVERY_MS;
    for step in 0..steps {
        let first = step as u128 * batch;
        let entries: Vec<Taken> = (first..first + batch)
            .map(|number| Taken::new(&Entry::Exchange(Box::new(exchange(number))), None))
            .collect();
        log.take(&entries, "s", (step as u64, step as u64 + 1)).unwrap();
        signed += u64::from(log.tend(Timestamp(now(0).micros() + step * EVERY_MS * 1_000)).unwrap().is_some());
        if step % (steps / 4) == steps / 4 - 1 {
            resident.push(resident_kib());
        }
    }
    log.finish(now(SECONDS)).unwrap();
    let (count, cpu) = (steps as u64 * batch as u64, cpu_nanoseconds() - cpu);
    drop(log);
    let bytes = walk_bytes(folder.path());
    println!("{count} entries of {} bytes, {RATE} a second:", taken(1).bytes.len());
    println!("  {:.2} us of CPU an entry, with hashing, signing and writing", cpu as f64 / count as f64 / 1_000.0);
    println!("  {:.2} signatures a second", signed as f64 / SECONDS as f64);
    println!("  {} bytes on disk an entry, with tiles and index", bytes / count);
    println!("  {resident:?} KiB of memory after each quarter; {:?} on the clock", begun.elapsed());
    let (begun, cpu) = (Tick::now(), cpu_nanoseconds());
    assert_eq!(verify(folder.path(), &[]).unwrap().entries, count);
    println!(
        "  verified in {:.2} s of CPU, {:?} on the clock",
        (cpu_nanoseconds() - cpu) as f64 / 1e9,
        begun.elapsed()
    );
}

/// What this thread has used, of kernel and program.
fn cpu_nanoseconds() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

fn resident_kib() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn walk_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| if entry.path().is_dir() { walk_bytes(&entry.path()) } else { entry.metadata().unwrap().len() })
        .sum()
}

/// What the page on verifying without Marg is tested with (`tests/sdk/python/test_audit.py`). Delete the files to make them anew.
#[test]
fn the_kept_receipt_verifies() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/audit");
    if !golden.exists() {
        let folder = tempfile::tempdir().unwrap();
        filled(folder.path(), 300);
        let log = open(folder.path());
        fs::create_dir_all(&golden).unwrap();
        let receipt = Receipt { salt: Some(salt()), ..Receipt::make(&log, 123).unwrap() };
        fs::write(golden.join("receipt.json"), receipt.to_text()).unwrap();
        fs::write(golden.join("policy.txt"), log.policy().to_text()).unwrap();
    }
    let trusted = Policy::parse(&fs::read_to_string(golden.join("policy.txt")).unwrap()).unwrap();
    let receipt = Receipt::parse(&fs::read(golden.join("receipt.json")).unwrap()).unwrap();
    assert_eq!(receipt.verify(&trusted).unwrap().checkpoint.size, 300);
    assert_eq!(receipt.shows(Which::Prompt, &receipt.salt.unwrap(), b"prompt"), Ok(()));
}

#[test]
fn a_receipt_shows_which_text_it_is_of_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 3);
    let receipt = Receipt::make(&open(folder.path()), 1).unwrap();
    assert_eq!(receipt.salt, None);
    let shows = |which, text: &[u8]| receipt.shows(which, &salt(), text).map_err(|fault| fault.what);
    assert_eq!([shows(Which::Prompt, b"prompt"), shows(Which::Answer, b"answer")], [Ok(()), Ok(())]);
    assert!(shows(Which::Answer, b"prompt").unwrap_err().contains("1024 bytes, this text has 6"));
    let same_length = vec![b'x'; 2_048];
    assert!(shows(Which::Prompt, &same_length).unwrap_err().contains("another prompt"));
    let other = crate::unit::commit::Salt::fresh().unwrap();
    assert!(receipt.shows(Which::Prompt, &other, b"prompt").is_err());
}
