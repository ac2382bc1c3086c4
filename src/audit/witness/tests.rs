use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::audit::disk::System;
use crate::audit::key::Purpose;
use crate::audit::log::Log;
use crate::audit::log::tests::{filled, keys, now, open, settings, taken};
use crate::audit::receipt::Receipt;
use crate::audit::verify;

fn witness(folder: &Path, name: &str) -> Witness {
    let keys_ = SigningKeys::create(Purpose::Witness, name, now(0)).unwrap();
    Witness::new(keys_, Policy::of_log(keys(1).public()), folder.join(name), Arc::new(System)).unwrap()
}

fn key(witness: &Witness, at: usize) -> WitnessKey {
    WitnessKey { name: witness.keys().name().to_owned(), key: witness.keys().public()[at].clone(), url: None }
}

fn publish(log: &Log, numbers: std::ops::Range<u64>) -> Published {
    let entries: Vec<_> = numbers.clone().map(|number| taken(u128::from(number))).collect();
    log.take(&entries, "s", (numbers.start, numbers.end)).unwrap();
    log.finish(now(numbers.end as i64)).unwrap().unwrap()
}

fn ask(witness: &Witness, log: &Log, published: &Published, old: u64) -> Reply {
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
    publish(&log, 0..5);
    let published = publish(&log, 5..9);
    let mut note = published.note.clone();
    for (number, (one, key)) in three.iter().zip(&known).take(2).enumerate() {
        let first = ask(one, &log, &published, 5);
        assert_eq!(read_reply(key, &published, 5, (first.status, &first.body)), Asked::From(0));
        let reply = ask(one, &log, &published, 0);
        let Asked::Cosigned(lines) = read_reply(key, &published, 0, (reply.status, &reply.body)) else {
            panic!("{reply:?}")
        };
        add_signatures(&mut note, lines);
        assert_eq!(log.cosigned(&note.to_string()).unwrap(), number == 1);
    }
    assert_eq!(log.status().witnessed, 9);
    publish(&log, 9..12);
    let receipt = Receipt::make(&log, 7).unwrap();
    let standing = receipt.verify(&log.policy()).unwrap();
    assert_eq!((standing.checkpoint.size, standing.witnesses.len(), standing.witnessed), (9, 2, true));
    let report = verify::log(&log.log_folder(), &log.policy(), &[]).unwrap();
    assert!(!report.standing.witnessed, "the newest checkpoint is not witnessed yet, and the report says so");
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
        read_reply(&key(&one, 0), &small, 5, (back.status, &back.body)),
        Asked::Ahead(9),
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
        let asked = read_reply(&key(witness, 0), published, 8, (reply.status, &reply.body));
        assert!(matches!(asked, Asked::Refused(text) if text.contains("forked")));
    }
    // So no view can be witnessed by both.
    let known = vec![key(&one, 0), key(&two, 0)];
    let policy = Policy::of_log(keys(1).public()).with_witnesses(known, 2);
    assert!(policy.check(first.note.to_string().as_bytes()).is_err());
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
