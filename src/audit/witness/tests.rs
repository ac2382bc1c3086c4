use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::audit::disk::System;
use crate::audit::disk::tests::{Fault, Faulty};
use crate::audit::key::Purpose;
use crate::audit::log::Log;
use crate::audit::log::tests::{ORIGIN, filled, keys, now, open, settings, taken};
use crate::audit::receipt::Receipt;
use crate::audit::verify;

pub fn witness(folder: &Path, name: &str) -> Witness {
    on_disk(folder, name, Arc::new(System)).unwrap()
}

fn on_disk(folder: &Path, name: &str, disk: Arc<dyn Disk>) -> io::Result<Witness> {
    let keys_ = SigningKeys::create(Purpose::Witness, name, now(0)).unwrap();
    Witness::new(keys_, Policy::of_log(keys(1).public()), folder.join(name), disk)
}

pub fn key(witness: &Witness, at: usize) -> WitnessKey {
    WitnessKey { name: witness.keys().name().to_owned(), key: witness.keys().public()[at].clone(), url: None }
}

pub fn publish(log: &Log, numbers: std::ops::Range<u64>) -> Published {
    let entries: Vec<_> = numbers.clone().map(|number| taken(u128::from(number))).collect();
    log.take(&entries, "s", (numbers.start, numbers.end)).unwrap();
    log.finish(now(numbers.end as i64)).unwrap().unwrap()
}

pub fn ask(witness: &Witness, log: &Log, published: &Published, old: u64) -> Reply {
    let tree = TreeFiles::new(&log.log_folder(), published.checkpoint.size);
    witness.add_checkpoint(AddCheckpoint::make(published, old, &tree).unwrap().to_text().as_bytes(), now(100))
}

#[test]
fn a_log_gets_its_cosignatures_and_a_receipt_carries_them() {
    let folder = tempfile::tempdir().unwrap();
    let three: Vec<Witness> = ["w1", "w2", "w3"].map(|name| witness(folder.path(), name)).into();
    let known: Vec<WitnessKey> = three.iter().enumerate().map(|(at, one)| key(one, at % 2)).collect();
    let policy = Policy::default().with_witnesses(known.clone(), 2);
    let settings = crate::audit::log::Settings { policy, ..settings(&folder.path().join("audit")) };
    let log = Log::open(settings, keys(1), None, Arc::new(System), now(0)).unwrap();
    let first = publish(&log, 0..5);
    let published = publish(&log, 5..9);
    for (number, (one, key)) in three.iter().zip(&known).take(2).enumerate() {
        let first = ask(one, &log, &published, 5);
        assert_eq!(read_reply(&[key], &published, 5, (first.status, &first.body)), Asked::From(0));
        let reply = ask(one, &log, &published, 0);
        let Asked::Cosigned(lines) = read_reply(&[key], &published, 0, (reply.status, &reply.body)) else {
            panic!("{reply:?}")
        };
        // Each answer comes by itself; what came before stays.
        let mut note = published.note.clone();
        note.add(lines);
        assert_eq!(log.cosigned(&note.to_string()).unwrap(), number == 1);
    }
    assert_eq!(log.status().witnessed, 9);
    publish(&log, 9..12);
    let receipt = Receipt::make(&log, 7).unwrap();
    let standing = receipt.verify(&log.policy()).unwrap();
    assert_eq!((standing.checkpoint.size, standing.witnesses.len(), standing.witnessed), (9, 2, true));
    let report = verify::log(&log.log_folder(), &log.policy(), &[]).unwrap();
    assert!(!report.standing.witnessed, "the newest checkpoint is not witnessed yet, and the report says so");
    let last = report.witnessed.unwrap();
    assert_eq!((last.checkpoint.size, last.witnesses.len()), (9, 2), "nor is that forgotten which is");
    // A late answer for an older checkpoint takes nothing back.
    let early = Published::clone(&first);
    let reply = ask(&witness(&folder.path().join("late"), "w3"), &log, &early, 0);
    assert_eq!(reply.status, 200);
    let mut note = early.note.clone();
    note.add(cosigned_by(&[&three[0], &three[1]], &early.checkpoint));
    assert!(log.cosigned(&note.to_string()).unwrap());
    assert_eq!(log.status().witnessed, 9);
}

#[test]
fn a_witness_answers_as_the_specification_says() {
    let folder = tempfile::tempdir().unwrap();
    let one = witness(folder.path(), "w1");
    let log = open(&folder.path().join("audit"));
    let small = publish(&log, 0..5);
    let large = publish(&log, 5..9);
    let status = |body: &str| one.add_checkpoint(body.as_bytes(), now(1)).status;
    let text = |old, published: &Published| {
        let tree = TreeFiles::new(&log.log_folder(), published.checkpoint.size);
        AddCheckpoint::make(published, old, &tree).unwrap().to_text()
    };
    assert_eq!(status("old 05\n\nx"), 400);
    assert_eq!(status(&text(0, &small).replace("node-1", "node-9")), 404);
    assert_eq!(status(&text(0, &small).replacen("\n5\n", "\n4\n", 1)), 403);
    assert_eq!(status(&text(0, &small).replace("old 0", "old 6")), 400);
    assert_eq!(ask(&one, &log, &small, 0).status, 200);
    let behind = ask(&one, &log, &large, 3);
    assert_eq!((behind.status, behind.body.as_str(), behind.content_type), (409, "5\n", "text/x.tlog.size"));
    let forged = text(5, &large).replacen("\n\n", &format!("\n{}\n\n", merkle::empty_root()), 1);
    assert_eq!(status(&forged), 422);
    assert_eq!(ask(&one, &log, &large, 5).status, 200);
    assert_eq!(ask(&one, &log, &large, 9).status, 200, "the same again is no harm");
    let back = ask(&one, &log, &small, 5);
    assert_eq!(back.body, "9\n");
    assert_eq!(
        read_reply(&[&key(&one, 0)], &small, 5, (back.status, &back.body)),
        Asked::Contradicted("it has cosigned 9 entries of this log, which has 5".to_owned()),
        "the log was put back"
    );
}

#[test]
fn a_forked_log_gets_no_second_cosignature_and_two_witnesses_tell_the_fork() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (witness(folder.path(), "w1"), witness(folder.path(), "w2"));
    // Two views of one log by one key: they part after the third entry.
    let views: Vec<Log> = ["a", "b"].map(|name| open(&folder.path().join(name))).into();
    publish(&views[0], 0..8);
    let first = views[0].published().0.unwrap();
    views[1].take(&(0..3).map(taken).collect::<Vec<_>>(), "s", (0, 3)).unwrap();
    views[1].take(&(10..15).map(taken).collect::<Vec<_>>(), "s", (3, 8)).unwrap();
    let second = views[1].finish(now(9)).unwrap().unwrap();
    assert_eq!(ask(&one, &views[0], &first, 0).status, 200);
    assert_eq!(ask(&two, &views[1], &second, 0).status, 200, "the other witness has seen nothing else");
    for (witness, view, published) in [(&one, &views[1], &second), (&two, &views[0], &first)] {
        let reply = ask(witness, view, published, 8);
        assert_eq!(reply.status, 409);
        let asked = read_reply(&[&key(witness, 0)], published, 8, (reply.status, &reply.body));
        assert_eq!(asked, Asked::Contradicted("it has cosigned another log of size 8".to_owned()));
        let evidence = std::fs::read_to_string(witness.path(ORIGIN).with_extension("fork")).unwrap();
        assert_eq!(evidence, published.note.to_string(), "what the log signed twice is kept");
    }
    // So no view can be witnessed by both.
    let known = vec![key(&one, 0), key(&two, 0)];
    let policy = Policy::of_log(keys(1).public()).with_witnesses(known, 2);
    for (published, witness) in [(&first, &one), (&second, &two)] {
        let mut note = published.note.clone();
        note.add(cosigned_by(&[witness], &published.checkpoint));
        let error = policy.check(note.to_string().as_bytes()).unwrap_err().to_string();
        let said = format!("size 8 is not witnessed: 1 of the witnesses cosigned it ({})", witness.keys().name());
        assert!(error.contains(&said), "{error}");
    }
    // Whoever holds the checkpoint of one view sees the other by it.
    let kept = verify::Kept { name: "theirs".to_owned(), note: second.note.to_string().into_bytes() };
    let fault = verify::log(&views[0].log_folder(), &Policy::of_log(keys(1).public()), &[kept]).unwrap_err();
    assert!(fault.what.contains("theirs signs the root") && fault.what.contains("at size 8"), "{fault}");
    // And a longer fork is refused by its proof.
    views[1].take(&[taken(20)], "s", (8, 9)).unwrap();
    let longer = views[1].finish(now(10)).unwrap().unwrap();
    assert_eq!(ask(&one, &views[1], &longer, 8).status, 422);
}

#[test]
fn a_witness_remembers_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    filled(&folder.path().join("audit"), 5);
    let log = open(&folder.path().join("audit"));
    let published = log.published().0.unwrap();
    assert_eq!(ask(&witness(folder.path(), "w1"), &log, &published, 0).status, 200);
    let reply = ask(&witness(folder.path(), "w1"), &log, &published, 0);
    assert_eq!((reply.status, reply.body.as_str()), (409, "5\n"));
}

/// Cosignatures without asking, as witnesses give them that have seen nothing else.
pub fn cosigned_by(witnesses: &[&Witness], checkpoint: &Checkpoint) -> Vec<SignatureLine> {
    witnesses.iter().flat_map(|witness| witness.keys().cosign(checkpoint, now(200)).unwrap()).collect()
}

/// Two views of one log that part after the third entry, each with checkpoints of 5 and 8 entries.
fn views(folder: &Path) -> [(Log, [Published; 2]); 2] {
    [("a", 0), ("b", 10)].map(|(name, shift)| {
        let log = open(&folder.join(name));
        log.take(&(0..3).map(taken).collect::<Vec<_>>(), "s", (0, 3)).unwrap();
        let rest = |range: std::ops::Range<u64>| {
            let entries: Vec<_> = range.clone().map(|number| taken(u128::from(number + shift))).collect();
            log.take(&entries, "s", (range.start, range.end)).unwrap();
            log.finish(now(range.end as i64)).unwrap().unwrap()
        };
        let published = [rest(3..5), rest(5..8)];
        (log, published)
    })
}

/// Asks as a log does, from whatever size the witness says that it knows; whether it cosigned.
fn cosigns(witness: &Witness, log: &Log, published: &Published) -> bool {
    let first = ask(witness, log, published, 0);
    match (first.status, first.body.trim().parse()) {
        (409, Ok(known)) if known <= published.checkpoint.size => ask(witness, log, published, known).status == 200,
        (status, _) => status == 200,
    }
}

#[test]
fn no_fault_of_the_disk_makes_a_witness_cosign_a_fork() {
    let logs = tempfile::tempdir().unwrap();
    let [(one, [small, large]), (other, forked)] = views(logs.path());
    for fault in [Fault::Fails, Fault::Torn, Fault::Dies, Fault::DiesAfter] {
        let mut operation = 0;
        loop {
            let folder = tempfile::tempdir().unwrap();
            let disk = Arc::new(Faulty::after(operation, fault));
            let answered = match on_disk(folder.path(), "w", disk.clone()) {
                Ok(faulty) => [&small, &large].map(|published| cosigns(&faulty, &one, published)),
                Err(_) => [false; 2],
            };
            // After its restart it may know more than what it said, and never less.
            let again = witness(folder.path(), "w");
            let forks = forked.each_ref().map(|published| cosigns(&again, &other, published));
            let both = answered.contains(&true) && forks.contains(&true);
            assert!(!both, "{fault:?} at operation {operation}: {answered:?}, then {forks:?}");
            let known = again.seen().unwrap();
            if answered.contains(&true) {
                assert!(known[0].size >= if answered[1] { 8 } else { 5 }, "{fault:?} at {operation}: {known:?}");
            }
            if !disk.struck() {
                assert_eq!(answered, [true; 2]);
                break;
            }
            operation += 1;
        }
        assert!(operation > 6, "the faults struck");
    }
}

#[test]
fn two_processes_on_one_folder_cosign_no_fork() {
    let logs = tempfile::tempdir().unwrap();
    let [(one, first), (other, second)] = views(logs.path());
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let pair = [witness(folder.path(), "w"), witness(folder.path(), "w")];
        let cosigned = std::thread::scope(|scope| {
            let sides = [(&pair[0], &one, &first[1]), (&pair[1], &other, &second[1])];
            let asked =
                sides.map(|(witness, log, published)| scope.spawn(|| ask(witness, log, published, 0).status == 200));
            asked.map(|thread| thread.join().unwrap())
        });
        assert!(cosigned[0] ^ cosigned[1], "one of two histories, and not both: {cosigned:?}");
    }
}

#[test]
fn a_checkpoint_without_entries_has_one_root() {
    let folder = tempfile::tempdir().unwrap();
    let one = witness(folder.path(), "w1");
    let text = |root: Hash| {
        let text = Checkpoint::new(ORIGIN, 0, root).to_string();
        let signatures = keys(1).sign(&text).unwrap();
        format!("old 0\n\n{}", crate::audit::note::Note { text, signatures })
    };
    assert_ne!(one.add_checkpoint(text(sha256(&[b"x"])).as_bytes(), now(1)).status, 200);
    assert_eq!(one.add_checkpoint(text(merkle::empty_root()).as_bytes(), now(1)).status, 200);
}

#[test]
fn a_witness_that_lies_gains_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (one, thief) = (witness(folder.path(), "w1"), witness(folder.path(), "w2"));
    let [(log, [small, large]), _] = views(folder.path());
    let key = key(&one, 0);
    let read = |old, status, body: &str| read_reply(&[&key], &large, old, (status, body));
    let lines = |witness: &Witness, published: &Published| {
        let lines = witness.keys().cosign(&published.checkpoint, now(1)).unwrap();
        lines.iter().map(ToString::to_string).collect::<String>()
    };
    let other = Published {
        checkpoint: Checkpoint { root: merkle::empty_root(), ..large.checkpoint.clone() },
        ..large.clone()
    };
    let renamed = lines(&thief, &large).replace("w2", "w1");
    for (what, body) in [
        ("a stranger's key", lines(&thief, &large)),
        ("a stranger's key by its name", renamed),
        ("another size", lines(&one, &small)),
        ("another root", lines(&one, &other)),
        ("nothing", String::new()),
        ("nonsense", "yes\n".to_owned()),
    ] {
        let Asked::Refused(reason) = read(0, 200, &body) else { panic!("{what}") };
        assert!(reason.contains("no valid cosignature by w1+") && reason.contains("size 8"), "{what}: {reason}");
    }
    assert!(matches!(read(0, 200, &lines(&one, &large)), Asked::Cosigned(lines) if lines.len() == 1));
    // What it says about sizes is a claim: at most it raises an alarm.
    assert_eq!(read(0, 409, "5\n"), Asked::From(5));
    assert!(matches!(read(5, 409, "5\n"), Asked::Refused(_)));
    assert!(matches!(read(0, 409, "many\n"), Asked::Refused(_)));
    assert!(matches!(read(0, 409, "99\n"), Asked::Contradicted(_)));
    assert!(matches!(read(5, 422, "no\n"), Asked::Contradicted(_)));
    assert!(matches!(read(0, 503, "later\n"), Asked::Refused(reason) if reason.contains("503: later")));
    // Its lines would not be kept either.
    let mut note = large.note.clone();
    note.add(thief.keys().cosign(&large.checkpoint, now(1)).unwrap());
    let policy = Policy::default().with_witnesses(vec![key], 1);
    let settings = crate::audit::log::Settings { policy, ..settings(&folder.path().join("a")) };
    drop(log);
    let log = Log::open(settings, keys(1), None, Arc::new(System), now(9)).unwrap();
    assert!(!log.cosigned(&note.to_string()).unwrap());
    assert_eq!(log.status().witnessed, 0);
}

#[test]
fn a_log_that_changes_its_keys_is_witnessed_once_they_are_known() {
    let folder = tempfile::tempdir().unwrap();
    let one = witness(folder.path(), "w1");
    let log = open(&folder.path().join("audit"));
    let before = publish(&log, 0..5);
    assert_eq!(ask(&one, &log, &before, 0).status, 200);
    log.rotate(keys(2), now(6)).unwrap();
    let after = log.published().0.unwrap();
    let refused = ask(&one, &log, &after, 5);
    assert_eq!(refused.status, 403, "{}", refused.body);
    one.know(log.policy());
    assert_eq!(ask(&one, &log, &after, 5).status, 200);
    assert_eq!(one.seen().unwrap(), [Seen { origin: ORIGIN.to_owned(), size: 6 }]);
}
