use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::audit::disk::System;
use crate::audit::disk::tests::{Fault, Faulty, Loss, Lossy};
use crate::audit::entry::Noun;
use crate::audit::entry::tests::{event, exchange};
use crate::audit::key::Purpose;
use crate::audit::receipt::Receipt;
use crate::audit::tiles;
use crate::audit::verify;

pub const ORIGIN: &str = "marg.example/node-1";

pub fn keys(seed: u8) -> SigningKeys {
    let seed = secrecy::zeroize::Zeroizing::new(vec![seed; 64]);
    SigningKeys::from_seed(Purpose::Log, ORIGIN, seed, Timestamp(0)).unwrap()
}

pub fn now(second: i64) -> Timestamp {
    Timestamp(1_790_000_000_000_000 + second * 1_000_000)
}

pub fn settings(folder: &Path) -> Settings {
    Settings { folder: folder.to_owned(), interval: Duration::from_millis(500), policy: Policy::default() }
}

pub fn open(folder: &Path) -> Log {
    Log::open(settings(folder), keys(1), None, Arc::new(System), now(0)).unwrap()
}

pub fn taken(number: u128) -> Taken {
    Taken::new(&Entry::Exchange(Box::new(exchange(number))), None)
}

/// A log of `count` entries, finished, as somebody else would see it.
pub fn filled(folder: &Path, count: u64) {
    let log = open(folder);
    let entries: Vec<Taken> = (0..u128::from(count)).map(taken).collect();
    log.take(&entries, "s", (0, count)).unwrap();
    log.finish(now(1)).unwrap();
}

fn bytes_of(folder: &Path) -> Vec<Vec<u8>> {
    let log = folder.join(LOG);
    let note = std::fs::read(log.join("checkpoint")).unwrap();
    let size = Checkpoint::from_note(&note).unwrap().0.size;
    (0..size.div_ceil(256)).flat_map(|number| tiles::read_entries(&log, number, size).unwrap()).collect()
}

fn verified(folder: &Path) -> verify::Report {
    verify::log(&folder.join(LOG), &Policy::of_log(keys(1).public()), &[]).unwrap()
}

#[test]
fn a_log_goes_on_after_every_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for (round, count) in [3_u64, 252, 1, 300, 0, 700].into_iter().enumerate() {
        let log = open(folder.path());
        let from = expected.len() as u64;
        assert_eq!(log.position("s"), from);
        let entries: Vec<Taken> = (0..u128::from(count)).map(|at| taken(u128::from(from) + at)).collect();
        log.take(&entries, "s", (from, from + count)).unwrap();
        expected.extend(entries.into_iter().map(|entry| entry.bytes));
        log.finish(now(round as i64)).unwrap();
        drop(log);
        let report = verified(folder.path());
        assert_eq!(report.entries, expected.len() as u64);
        assert_eq!(bytes_of(folder.path()), expected);
    }
}

#[test]
fn a_log_without_entries_is_signed_too() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    assert_eq!(log.finish(now(1)).unwrap().unwrap().checkpoint.size, 0);
    assert_eq!(log.status().failures, 0);
    drop(log);
    assert_eq!(verified(folder.path()).entries, 0);
}

#[test]
fn a_second_writer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _first = open(folder.path());
    let second = Log::open(settings(folder.path()), keys(1), None, Arc::new(System), now(0));
    assert!(matches!(second, Err(LogError::Busy(_))));
}

#[test]
fn a_part_of_a_segment_is_taken_once() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    log.take(&[taken(1)], "s", (0, 10)).unwrap();
    assert!(matches!(log.take(&[taken(1)], "s", (0, 10)), Err(LogError::Position { kept: 10, .. })));
    log.take(&[], "s", (10, 20)).unwrap();
    assert_eq!((log.position("s"), log.status().size), (20, 1));
    log.forget("s");
    assert!(log.segments().is_empty());
}

#[test]
fn what_was_not_committed_is_asked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    log.take(&[taken(1)], "s", (0, 10)).unwrap();
    log.sync().unwrap();
    log.take(&[taken(2)], "s", (10, 20)).unwrap();
    drop(log);
    let log = open(folder.path());
    assert_eq!((log.position("s"), log.status().size), (10, 1));
}

#[test]
fn checkpoints_are_no_more_frequent_than_the_interval() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    let at = |millis: i64| Timestamp(now(0).micros() + millis * 1_000);
    let mut signed = 0;
    for step in 0..100 {
        log.take(&[taken(step)], "s", (step as u64, step as u64 + 1)).unwrap();
        signed += usize::from(log.tend(at(step as i64 * 20)).unwrap().is_some());
    }
    assert_eq!(signed, 4, "100 entries in two seconds");
    assert!(log.tend(at(2_500)).unwrap().is_some());
    assert!(log.tend(at(9_000)).unwrap().is_none(), "nothing new, nothing signed");
    let status = log.status();
    assert_eq!((status.size, status.published), (100, 100));
}

#[test]
fn a_clock_that_goes_back_holds_up_no_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    for (number, second) in [(0, 5_000), (1, 10), (2, 9), (3, 9_000)] {
        log.take(&[taken(number)], "s", (number as u64, number as u64 + 1)).unwrap();
        assert!(log.tend(now(second)).unwrap().is_some(), "{second}");
        assert!(log.tend(now(second)).unwrap().is_none(), "and none is signed twice");
    }
    drop(log);
    assert_eq!(verified(folder.path()).entries, 4);
}

/// Every operation of the disk goes wrong in every way while a log is written; whoever feeds it does what the journal does: asks
/// for the position and offers again. In the end every entry is there once and in order, each with its salt.
#[test]
fn no_fault_of_the_disk_loses_or_doubles_an_entry() {
    let salted = |number: u128| Taken { salt: [number as u8 | 1; 32], ..taken(number) };
    let all: Vec<Taken> = (0..280).map(salted).collect();
    let expected: Vec<Vec<u8>> = all.iter().map(|entry| entry.bytes.clone()).collect();
    for fault in [Fault::Fails, Fault::Torn, Fault::Dies, Fault::DiesAfter] {
        let mut operation = 0;
        loop {
            let folder = tempfile::tempdir().unwrap();
            let faulty = Arc::new(Faulty::after(operation, fault));
            let dead = feed(folder.path(), faulty.clone(), &all);
            if dead {
                assert!(!feed(folder.path(), Arc::new(System), &all));
            }
            let report = verified(folder.path());
            assert_eq!(report.entries, 280, "{fault:?} at operation {operation}");
            assert!(bytes_of(folder.path()) == expected, "{fault:?} at operation {operation}");
            for (index, entry) in (0..).zip(&all) {
                let salt = salts::read(folder.path(), index).unwrap().map(|salt| *salt.expose());
                assert_eq!(salt, Some(entry.salt), "{fault:?} at operation {operation}, entry {index}");
            }
            if !faulty.struck() {
                break;
            }
            operation += 1;
        }
        assert!(operation > 30, "the faults struck");
    }
}

/// The same where the power goes with the process, and what was not forced to the disk is gone, empty, half or other bytes.
#[test]
fn a_loss_of_power_at_any_moment_loses_nothing() {
    let salted = |number: u128| Taken { salt: [number as u8 | 1; 32], ..taken(number) };
    let all: Vec<Taken> = (0..280).map(salted).collect();
    let expected: Vec<Vec<u8>> = all.iter().map(|entry| entry.bytes.clone()).collect();
    for loss in [Loss::Gone, Loss::Empty, Loss::Half, Loss::Other, Loss::Kept] {
        for operations in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let lossy = Arc::new(Lossy::after(operations));
            let dead = feed(folder.path(), lossy.clone(), &all);
            lossy.lose_power(loss);
            drop(Log::open(settings(folder.path()), keys(1), None, Arc::new(System), now(2)).unwrap());
            if folder.path().join("log/checkpoint").exists() {
                // What was signed before the loss is whole, too.
                drop(verified(folder.path()));
            }
            assert!(!feed(folder.path(), Arc::new(System), &all), "{loss:?} after {operations}");
            assert_eq!(verified(folder.path()).entries, 280, "{loss:?} after {operations}");
            assert!(bytes_of(folder.path()) == expected, "{loss:?} after {operations}");
            for (index, entry) in (0..).zip(&all) {
                let salt = salts::read(folder.path(), index).unwrap().map(|salt| *salt.expose());
                assert_eq!(salt, Some(entry.salt), "{loss:?} after {operations}, entry {index}");
            }
            if !dead && !lossy.struck() {
                assert!(operations > 30, "the losses struck");
                break;
            }
        }
    }
}

/// Feeds 280 entries in pieces; whether the process died on the way.
fn feed(folder: &Path, disk: Arc<dyn Disk>, all: &[Taken]) -> bool {
    let mut tries = 0;
    let log = loop {
        match Log::open(settings(folder), keys(1), None, disk.clone(), now(0)) {
            Ok(log) => break log,
            Err(LogError::Disk(_)) if tries < 3 => tries += 1,
            Err(LogError::Disk(_)) => return true,
            Err(error) => panic!("{error}"),
        }
    };
    let mut failures = 0;
    loop {
        let from = log.position("s");
        let to = (from + 140).min(280);
        let fed = log.take(&all[from as usize..to as usize], "s", (from, to)).and_then(|()| log.finish(now(1)));
        match fed {
            Ok(_) if to == 280 => return false,
            Ok(_) => failures = 0,
            Err(LogError::Disk(_)) if failures < 3 => failures += 1,
            Err(LogError::Disk(_)) => return true,
            Err(error) => panic!("{error}"),
        }
        if failures == 0 {
            assert_eq!(log.status().failing, None);
        }
    }
}

#[test]
fn an_event_that_could_not_be_recorded_is_not_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    let entry = || Taken::new(&Entry::Event(event(Noun::Key, "key_1")), None);
    for operation in 0..40 {
        let disk = Arc::new(Faulty::after(operation, Fault::Fails));
        let Ok(log) = Log::open(settings(folder.path()), keys(1), None, disk.clone(), now(0)) else { continue };
        let before = log.status().size;
        let recorded = log.record(&[entry()]);
        let after = before + u64::from(recorded.is_ok());
        assert_eq!(log.status().size, after);
        log.finish(now(1)).or_else(|_| log.finish(now(1))).unwrap();
        drop(log);
        assert_eq!(verified(folder.path()).entries, after);
    }
}

#[test]
fn memory_waits_for_the_disk_only_up_to_a_bound() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    let disk = Arc::new(Faulty::after(12, Fault::Dies));
    let log = Log::open(settings(folder.path()), keys(1), None, disk, now(0)).unwrap();
    let entries: Vec<Taken> = (0..100).map(taken).collect();
    let mut at = 0;
    let error = loop {
        match log.take(&entries, "s", (at, at + 1)) {
            Ok(()) => at += 1,
            Err(error) => break error,
        }
        assert!(at < 1_000, "it takes without end");
    };
    assert!(matches!(error, LogError::Disk(_)));
    assert_eq!((log.position("s"), log.status().size), (at, at * 100));
    assert!(log.status().failing.is_some());
}

#[test]
fn a_lost_state_is_made_again_and_nothing_comes_twice() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 300);
    std::fs::remove_file(folder.path().join("state")).unwrap();
    let log = open(folder.path());
    assert_eq!(log.position("s"), 0, "the journal begins again");
    let entries: Vec<Taken> = (0..320).map(taken).collect();
    log.take(&entries, "s", (0, 320)).unwrap();
    log.finish(now(2)).unwrap();
    drop(log);
    let all = bytes_of(folder.path());
    assert_eq!(all.len(), 321, "300, the gap, and 20 new ones");
    assert!(String::from_utf8_lossy(&all[300]).contains("state_lost"));
    assert_eq!(verified(folder.path()).entries, 321);
}

#[test]
fn torn_partial_tiles_mend_themselves() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 300);
    for tile in ["log/tile/0/001.p/44", "log/tile/1/000.p/1", "log/tile/entries/001.p/44"] {
        std::fs::write(folder.path().join(tile), b"torn").unwrap();
        assert!(verify::log(&folder.path().join(LOG), &Policy::of_log(keys(1).public()), &[]).is_err());
        drop(open(folder.path()));
        assert_eq!(verified(folder.path()).entries, 300);
    }
}

/// A log of a build that had no such file, and one that lost it.
#[test]
fn without_the_file_of_the_last_entries_the_served_ones_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 300);
    for damage in [None, Some(&b"\0\x01x"[..])] {
        std::fs::remove_file(folder.path().join("tail")).unwrap();
        if let Some(bytes) = damage {
            std::fs::write(folder.path().join("tail"), bytes).unwrap();
        }
        assert_eq!(open(folder.path()).status().size, 300);
        assert_eq!(verified(folder.path()).entries, 300);
        let mode = std::fs::metadata(folder.path().join("tail")).unwrap().permissions().mode() & 0o777;
        assert!(damage.is_some() || mode == 0o600);
    }
}

#[test]
fn a_checkpoint_asks_little_of_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Lossy::after(i64::MAX));
    let log = Log::open(settings(folder.path()), keys(1), None, disk.clone(), now(0)).unwrap();
    let mut at = 0;
    let mut orders = |count: u64| {
        let salted = |number: u64| Taken { salt: [7; 32], ..taken(u128::from(number)) };
        let entries: Vec<Taken> = (at..at + count).map(salted).collect();
        let before = disk.forced();
        log.take(&entries, "s", (at, at + count)).unwrap();
        at += count;
        log.finish(now(at as i64)).unwrap().unwrap();
        disk.forced() - before
    };
    orders(3);
    assert_eq!(orders(1), 5, "entries, salts, state and its folder, checkpoint");
    assert_eq!(orders(252), 8, "a full bundle and its tile, with their folders, and no entries behind them");
    assert_eq!(orders(255), 5);
    assert_eq!(orders(200), 9, "a full bundle and its tile, with their folders, and entries behind them");
}

#[test]
fn a_log_that_contradicts_itself_is_not_opened() {
    type Edit = fn(&Path);
    let cases: [(&str, Edit, &str); 7] = [
        (
            "an entry",
            |folder| {
                flip(&folder.join("log/tile/entries/001.p/44"), 40);
                flip(&folder.join("tail"), 40);
            },
            "log/tile",
        ),
        ("an old entry's hash", |folder| flip(&folder.join("log/tile/0/000"), 40), "log/tile"),
        (
            "a missing bundle",
            |folder| {
                std::fs::remove_file(folder.join("log/tile/entries/001.p/44")).unwrap();
                std::fs::remove_file(folder.join("tail")).unwrap();
            },
            "001.p/44",
        ),
        ("an edited state", |folder| replace(&folder.join("state"), "\"s\":300", "\"s\":100"), "state"),
        (
            "an edited checkpoint",
            |folder| replace(&folder.join("log/checkpoint"), "\n300\n", "\n299\n"),
            "log/checkpoint",
        ),
        (
            "no checkpoint, no state",
            |folder| {
                std::fs::remove_file(folder.join("state")).unwrap();
                std::fs::remove_file(folder.join("log/checkpoint")).unwrap();
            },
            "state",
        ),
        (
            "a foreign state",
            |folder| {
                let other = tempfile::tempdir().unwrap();
                filled(other.path(), 200);
                std::fs::copy(other.path().join("state"), folder.join("state")).unwrap();
            },
            "log/",
        ),
    ];
    for (name, edit, place) in cases {
        let folder = tempfile::tempdir().unwrap();
        filled(folder.path(), 300);
        edit(folder.path());
        match Log::open(settings(folder.path()), keys(1), None, Arc::new(System), now(0)) {
            Err(LogError::Contradiction(text)) => assert!(text.contains(place), "{name}: {text}"),
            Err(error) => panic!("{name}: {error}"),
            Ok(_) => panic!("{name} was not seen"),
        }
    }
}

pub fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn keys_rotate_and_every_verifier_follows() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 5);
    let log = open(folder.path());
    let early = Receipt::make(&log, 2).unwrap();
    log.rotate(keys(2), now(5)).unwrap();
    log.take(&[taken(9)], "s", (5, 6)).unwrap();
    log.finish(now(6)).unwrap();
    let late = Receipt::make(&log, 6).unwrap();
    drop(log);
    assert!(matches!(
        Log::open(settings(folder.path()), keys(1), None, Arc::new(System), now(7)),
        Err(LogError::Contradiction(_))
    ));
    for (first, name) in [(1, "old"), (2, "new")] {
        let policy = Policy::of_log(keys(first).public());
        let report = verify::log(&folder.path().join(LOG), &policy, &[]).unwrap();
        assert_eq!((report.entries, report.rotations), (7, 1), "{name}");
        assert!(Receipt::parse(late.to_text().as_bytes()).unwrap().verify(&policy).is_ok(), "{name}");
    }
    assert!(early.verify(&Policy::of_log(keys(1).public())).is_ok());
    assert!(early.verify(&Policy::of_log(keys(2).public())).is_err());
    assert!(late.verify(&Policy::of_log(keys(3).public())).is_err());
}

#[test]
fn a_rotation_is_done_once_whatever_crashes() {
    for operation in (0..60).step_by(2) {
        let folder = tempfile::tempdir().unwrap();
        filled(folder.path(), 5);
        let disk = Arc::new(Faulty::after(operation, Fault::DiesAfter));
        drop(Log::open(settings(folder.path()), keys(1), Some(keys(2)), disk, now(5)));
        let log = Log::open(settings(folder.path()), keys(1), Some(keys(2)), Arc::new(System), now(6)).unwrap();
        assert_eq!(log.rotations().len(), 1, "operation {operation}");
        drop(log);
        let log = Log::open(settings(folder.path()), keys(2), None, Arc::new(System), now(7)).unwrap();
        log.finish(now(8)).unwrap();
        drop(log);
        assert_eq!(verified(folder.path()).rotations, 1);
    }
}

#[test]
fn a_salt_can_be_erased_and_the_proof_stays() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    let salts: BTreeMap<u64, Salt> = (0..300).map(|number| (number, Salt::fresh().unwrap())).collect();
    let entries: Vec<Taken> = salts
        .iter()
        .map(|(number, salt)| Taken::new(&Entry::Exchange(Box::new(exchange(u128::from(*number)))), Some(*salt)))
        .collect();
    log.take(&entries, "s", (0, 1)).unwrap();
    log.finish(now(1)).unwrap();
    let kept = |index: u64| salts::read(folder.path(), index).unwrap();
    assert_eq!([kept(7), kept(299)], [salts.get(&7).copied(), salts.get(&299).copied()]);
    let mode = std::fs::metadata(folder.path().join(salts::path(0))).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(log.erase_salts(&[7, 299, 9_999]).unwrap(), 2);
    assert_eq!([kept(7), kept(299)], [None, None]);
    assert_eq!(log.erase_salts(&[7, 299]).unwrap(), 0);
    log.take(&entries[..1], "s", (1, 2)).unwrap();
    log.finish(now(2)).unwrap();
    assert_eq!(kept(299), None, "a later commit does not bring it back");
    assert_eq!([kept(298), kept(8)], [salts.get(&298).copied(), salts.get(&8).copied()]);
    assert_eq!(log.prune_salts((0, 300)).unwrap(), 1);
    assert_eq!([kept(8), kept(298)], [None, salts.get(&298).copied()]);
    drop(log);
    assert_eq!(verified(folder.path()).entries, 301);
}

#[test]
fn salts_of_an_earlier_build_are_found_and_erased() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 300);
    std::fs::create_dir(folder.path().join("salts")).unwrap();
    for (name, bytes) in [("000", 256 * 32), ("001", 44 * 32)] {
        std::fs::write(folder.path().join("salts").join(name), vec![7; bytes]).unwrap();
    }
    let log = open(folder.path());
    let new = Taken { salt: [9; 32], ..taken(300) };
    log.take(&[new], "s", (300, 301)).unwrap();
    log.finish(now(1)).unwrap();
    let kept = |index: u64| salts::read(folder.path(), index).unwrap().map(|salt| salt.expose()[0]);
    assert_eq!([0, 255, 256, 299, 300].map(kept), [Some(7), Some(7), Some(7), Some(7), Some(9)]);
    assert_eq!(log.erase_salts(&[0, 299]).unwrap(), 2);
    assert_eq!([0, 1, 298, 299].map(kept), [None, Some(7), Some(7), None]);
    let own = |name: &str, at: usize| std::fs::read(folder.path().join("salts").join(name)).unwrap()[at * 32];
    assert_eq!((own("000", 0), own("001", 43)), (0, 0), "no copy of an erased one is left");
    assert_eq!(log.prune_salts((0, 256)).unwrap(), 1);
    assert_eq!([1, 298].map(kept), [None, Some(7)]);
    assert!(!folder.path().join("salts/000").exists());
}

#[test]
fn old_entries_go_and_their_proofs_stay() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 1_000);
    let log = open(folder.path());
    let receipt = Receipt::make(&log, 3).unwrap();
    let mut prune = event(Noun::Prune, "entries");
    prune.detail.insert("below".to_owned(), 600.into());
    assert_eq!(log.prune(&Taken::new(&Entry::Event(prune), None), 600).unwrap(), 512);
    log.finish(now(3)).unwrap();
    assert!(matches!(Receipt::make(&log, 3), Err(LogError::Missing(_))));
    assert!(Receipt::make(&log, 600).unwrap().verify(&log.policy()).is_ok());
    assert!(receipt.verify(&log.policy()).is_ok());
    drop(log);
    let kept = std::fs::read(folder.path().join("tail")).unwrap();
    assert_eq!(tiles::entries(&kept).unwrap().len(), 1_001 % 256, "nothing of old entries is left in it");
    let report = verified(folder.path());
    assert_eq!((report.entries, report.pruned), (489, 512));
    std::fs::remove_file(folder.path().join("log/tile/entries/002")).unwrap();
    let fault = verify::log(&folder.path().join(LOG), &Policy::of_log(keys(1).public()), &[]).unwrap_err();
    assert!(fault.to_string().contains("768") && fault.to_string().contains("600"), "{fault}");
    drop(open(folder.path()));
}

/// `tests/golden/audit/node` is the folder of a gateway that an earlier build wrote: 23 entries, a rotation, a witness.
#[test]
fn a_log_of_an_earlier_build_goes_on() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/audit/node");
    let folder = tempfile::tempdir().unwrap();
    let done = std::process::Command::new("cp").arg("-r").arg(golden.join("audit")).arg(folder.path()).status();
    assert!(done.unwrap().success());
    let audit = folder.path().join("audit");
    let text = std::fs::read_to_string(golden.join("audit.key")).unwrap();
    let keys = || SigningKeys::open(&text, Purpose::Log, None).unwrap();
    let trusted = Policy::parse(&std::fs::read_to_string(golden.join("policy.txt")).unwrap()).unwrap();
    let old = std::fs::read(audit.join("log/checkpoint")).unwrap();
    let settings = Settings { policy: trusted.clone(), ..settings(&audit) };
    let log = Log::open(settings, keys(), None, Arc::new(System), now(0)).unwrap();
    let status = log.status();
    assert!(status.size >= 23 && status.origin == "marg.example/golden", "{status:?}");
    assert!(status.witnessed > 0, "the witnessed checkpoint is found where it was");
    log.take(&(0..300).map(taken).collect::<Vec<_>>(), "s", (0, 300)).unwrap();
    log.finish(now(1)).unwrap();
    drop(log);
    let kept = verify::Kept { name: "old".to_owned(), note: old };
    let report = verify::log(&audit.join(LOG), &trusted, &[kept]).unwrap();
    // Whatever this build adds at its start comes after the old entries.
    assert!(report.entries >= 323 && report.rotations == 1, "{report:?}");
    assert_eq!(report.continues, [("old".to_owned(), 23)]);
    assert!(report.witnessed.is_some());
}

#[test]
fn another_version_of_the_program_is_noted_once() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 3);
    let path = folder.path().join("state");
    let (mut state, _) = State::parse(&std::fs::read(&path).unwrap(), &[&keys(1)]).unwrap();
    state.version = Some("0.0.1-before".to_owned());
    std::fs::write(&path, state.to_text(&keys(1)).unwrap()).unwrap();
    for _ in 0..2 {
        open(folder.path()).finish(now(5)).unwrap();
    }
    let entries = bytes_of(folder.path());
    assert_eq!(entries.len(), 4);
    let entry: serde_json::Value = serde_json::from_slice(&entries[3]).unwrap();
    assert_eq!((&entry["kind"], &entry["detail"]["from"]), (&"upgrade".into(), &"0.0.1-before".into()));
    assert_eq!(entry["detail"]["to"], crate::unit::version::VERSION);
}
