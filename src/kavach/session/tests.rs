use super::*;

fn sessions(max_sessions: usize) -> Sessions {
    Sessions::new(SessionConfig { max_sessions, ..SessionConfig::default() })
}

fn at(seconds: i64) -> Timestamp {
    Timestamp(1_800_000_000_000_000 + seconds * 1_000_000)
}

const IDLE: Duration = Duration::from_secs(1_800);

/// A store of one: what it knows of each session, as `memory` keeps it.
#[derive(Default)]
struct Kept(HashMap<SessionPlace, Known>);

impl Kept {
    /// Writes what a process counted, and tells it what all counted.
    fn sync(&mut self, sessions: &Sessions) {
        let parts = sessions.collect(usize::MAX);
        let known: Vec<_> = parts.iter().map(|part| self.add(part)).collect();
        sessions.settle_batch(&parts, &known);
    }

    fn add(&mut self, part: &Part) -> Option<Known> {
        let known = Known::with(self.0.remove(&part.place), part, IDLE);
        self.0.extend(known.clone().map(|known| (part.place.clone(), known)));
        known
    }

    /// An operator's act, which all these processes take.
    fn act(&mut self, place: (&str, &str), act: Act, all: &[&Sessions], now: Timestamp) {
        let place = (place.0.into(), place.1.into());
        let known = self.0.remove(&place).unwrap().after(act);
        all.iter().for_each(|sessions| sessions.adopt(std::slice::from_ref(&known), now));
        self.0.insert(place, known);
    }
}

fn known_of(sessions: &Sessions, key: &str) -> usize {
    sessions.shards.iter().map(|shard| shard.lock().unwrap().keys.get(key).map_or(0, HashMap::len)).sum()
}

fn known_in_all(sessions: &Sessions) -> usize {
    sessions.shards.iter().map(|shard| shard.lock().unwrap().count).sum()
}

#[test]
fn the_first_thing_that_a_caller_says_names_its_session() {
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let all = Said { header: Some("h"), metadata: Some("m"), user: Some("u"), traceparent: Some(trace) };
    assert_eq!(all.name().as_deref(), Some("h"));
    assert_eq!(Said { header: Some(""), ..all }.name().as_deref(), Some("metadata:m"));
    assert_eq!(Said { header: None, metadata: None, ..all }.name().as_deref(), Some("user:u"));
    let traced = Said { traceparent: Some(trace), ..Said::default() };
    assert_eq!(traced.name().as_deref(), Some("trace:0af7651916cd43dd8448eb211c80319c"));
    let later = trace.replacen("00", "cc", 1) + "-what-comes";
    assert_eq!(Said { traceparent: Some(&later), ..Said::default() }.name(), traced.name());
    let unsound = [
        trace.replacen("00", "ff", 1),
        trace.replacen("00", "zz", 1),
        trace.to_uppercase(),
        format!("{trace}-more"),
        trace.trim_end_matches("-01").to_owned(),
        trace.replace("b7ad6b7169203331", "0000000000000000"),
    ];
    for text in unsound {
        assert_eq!(Said { traceparent: Some(&text), ..Said::default() }.name(), None, "{text}");
    }
    for text in ["", "00", "00-xyz-b7ad6b7169203331-01", "00-00000000000000000000000000000000-b7ad6b7169203331-01"] {
        assert_eq!(Said { traceparent: Some(text), ..Said::default() }.name(), None, "{text}");
    }
    let long = "x".repeat(1_000_000);
    assert!(Said { header: Some(&long), ..Said::default() }.name().unwrap().len() <= 128);
    assert!(Said { header: Some("a\nb"), ..Said::default() }.name().unwrap().starts_with("blake3:"));
}

#[test]
fn the_same_name_under_two_keys_is_two_sessions() {
    let sessions = sessions(1_000);
    let name: Arc<str> = "s".into();
    assert_eq!(sessions.enter(&"a".into(), Some(&name), at(0)).unwrap().requests, 0);
    assert_eq!(sessions.enter(&"a".into(), Some(&name), at(1)).unwrap().requests, 1);
    assert_eq!(sessions.enter(&"b".into(), Some(&name), at(2)).unwrap().requests, 0);
    sessions.settle(("a", "s", "s"), (10, 20), NanoUsd(30));
    let figures = sessions.enter(&"a".into(), Some(&name), at(60)).unwrap();
    assert_eq!((figures.input_tokens, figures.output_tokens, figures.cost.nanos()), (10, 20, 30));
    assert_eq!((figures.requests, figures.age_seconds), (2, 60));
}

#[test]
fn a_caller_that_says_nothing_has_a_session_until_it_pauses() {
    let sessions = sessions(1_000);
    let key: Arc<str> = "a".into();
    let first = sessions.enter(&key, None, at(0)).unwrap();
    assert_eq!(sessions.enter(&key, None, at(1_799)).unwrap().id, first.id);
    assert_eq!(sessions.enter(&key, None, at(1_799 + 1_800)).unwrap().requests, 2);
    let next = sessions.enter(&key, None, at(10_000)).unwrap();
    assert_ne!(next.id, first.id);
    assert_eq!((next.requests, next.age_seconds), (0, 0));
}

#[test]
fn a_session_that_was_ended_refuses_until_its_time_is_over_or_it_is_reset() {
    let (sessions, mut kept) = (sessions(1_000), Kept::default());
    let (key, name): (Arc<str>, Arc<str>) = ("a".into(), "s".into());
    sessions.enter(&key, Some(&name), at(0)).unwrap();
    kept.sync(&sessions);
    let until = at(10 + 86_400);
    kept.act(("a", "s"), Act::EndUntil(until), &[&sessions], at(10));
    assert_eq!(sessions.enter(&key, Some(&name), at(11)), Err(Ended { until }));
    assert_eq!(sessions.enter(&key, Some(&name), at(10 + 86_399)), Err(Ended { until }));
    assert_eq!(sessions.enter(&key, Some(&name), until).unwrap().requests, 0);
    kept.sync(&sessions);
    kept.act(("a", "s"), Act::EndUntil(until.plus(IDLE)), &[&sessions], until);
    assert!(sessions.enter(&key, Some(&name), until).is_err());
    kept.act(("a", "s"), Act::ResetAt(until), &[&sessions], until);
    assert_eq!(sessions.enter(&key, Some(&name), until).unwrap().requests, 0);
    // What was counted in it before is not added again.
    kept.sync(&sessions);
    assert_eq!(sessions.enter(&key, Some(&name), until).unwrap().requests, 1);
}

#[test]
fn a_session_goes_on_where_it_was_after_a_restart_and_one_that_was_ended_stays_ended() {
    let (before, mut kept) = (sessions(1_000), Kept::default());
    let (key, name): (Arc<str>, Arc<str>) = ("a".into(), "s".into());
    for second in 0..3 {
        before.enter(&key, Some(&name), at(second)).unwrap();
        before.enter(&key, None, at(second)).unwrap();
    }
    before.settle(("a", "s", "s"), (10, 20), NanoUsd(30));
    kept.sync(&before);
    kept.act(("a", ""), Act::EndUntil(at(1_000)), &[], at(5));
    let after = sessions(1_000);
    after.adopt(&kept.0.values().cloned().collect::<Vec<_>>(), at(6));
    let figures = after.enter(&key, Some(&name), at(6)).unwrap();
    assert_eq!((figures.requests, figures.input_tokens, figures.cost, figures.age_seconds), (3, 10, NanoUsd(30), 6));
    assert_eq!(after.enter(&key, None, at(7)), Err(Ended { until: at(1_000) }));
}

#[test]
fn processes_know_what_all_together_counted_and_nothing_twice() {
    let (one, other, mut kept) = (sessions(1_000), sessions(1_000), Kept::default());
    let (key, name): (Arc<str>, Arc<str>) = ("a".into(), "s".into());
    let mut calls = 0;
    for round in 0..50_i64 {
        for sessions in [&one, &other] {
            for _ in 0..=(round % 3) {
                let seen = sessions.enter(&key, Some(&name), at(round)).unwrap().requests;
                assert!(seen <= calls, "a call counts twice");
                calls += 1;
            }
            if round % 2 == 0 {
                kept.sync(sessions);
            }
        }
    }
    for sessions in [&one, &other, &one] {
        kept.sync(sessions);
    }
    // One that has nothing to say hears nothing; its next call tells it.
    other.enter(&key, Some(&name), at(50)).unwrap();
    kept.sync(&other);
    assert_eq!(other.enter(&key, Some(&name), at(50)).unwrap().requests, calls + 1);
}

#[test]
fn a_session_that_nobody_names_is_one_for_all_processes() {
    let (one, other, mut kept) = (sessions(1_000), sessions(1_000), Kept::default());
    let key: Arc<str> = "a".into();
    let first = one.enter(&key, None, at(0)).unwrap().id;
    kept.sync(&one);
    other.enter(&key, None, at(1)).unwrap();
    kept.sync(&other);
    let figures = other.enter(&key, None, at(2)).unwrap();
    assert_eq!((figures.id, figures.requests, figures.age_seconds), (first, 2, 2));
}

#[test]
fn a_part_of_before_a_reset_or_of_before_a_pause_changes_nothing() {
    let (one, other, mut kept) = (sessions(1_000), sessions(1_000), Kept::default());
    let (key, name): (Arc<str>, Arc<str>) = ("a".into(), "s".into());
    one.enter(&key, Some(&name), at(0)).unwrap();
    kept.sync(&one);
    one.enter(&key, Some(&name), at(1)).unwrap();
    let late = one.collect(10);
    kept.act(("a", "s"), Act::ResetAt(at(2)), &[], at(2));
    assert_eq!(kept.add(&late[0]).unwrap().figures.requests, 0, "a reset was undone");
    other.enter(&key, Some(&name), at(10_000)).unwrap();
    kept.sync(&other);
    let old = Part { epoch: 1, ..late[0].clone() };
    assert_eq!(kept.add(&old).unwrap().figures.requests, 1, "an old part counts in a new session");
}

#[test]
fn a_flood_of_sessions_does_not_reopen_one_that_was_ended() {
    let (sessions, mut kept) = (sessions(4_000), Kept::default());
    let (key, name): (Arc<str>, Arc<str>) = ("a".into(), "s".into());
    sessions.enter(&key, Some(&name), at(0)).unwrap();
    kept.sync(&sessions);
    kept.act(("a", "s"), Act::EndUntil(at(86_400)), &[&sessions], at(0));
    for number in 0..5_000 {
        sessions.enter(&key, Some(&format!("{number}").into()), at(1)).unwrap();
    }
    assert!(known_of(&sessions, "a") <= MAX_PER_KEY);
    assert!(sessions.enter(&key, Some(&name), at(2)).is_err());
    for number in 0..50_000 {
        sessions.enter(&format!("k{number}").into(), Some(&name), at(3)).unwrap();
    }
    assert!(known_in_all(&sessions) <= 4_000 + SHARDS);
    assert!(sessions.enter(&key, Some(&name), at(4)).is_err());
    let waiting: usize = sessions.shards.iter().map(|shard| shard.lock().unwrap().unsaved.len()).sum();
    assert!(waiting <= 2 * 4_000 + 66 * SHARDS, "{waiting} wait for a store that is away");
}

#[test]
fn a_flood_of_sessions_of_one_key_leaves_those_of_others_alone() {
    let sessions = sessions(4_000);
    let quiet: Vec<String> = (0..256).map(|number| format!("quiet{number}")).collect();
    for key in &quiet {
        sessions.enter(&key.as_str().into(), None, at(0)).unwrap();
    }
    for number in 0..5_000 {
        let now = Timestamp(at(1).micros() + number);
        sessions.enter(&"loud".into(), Some(&format!("{number}").into()), now).unwrap();
    }
    let lost: Vec<_> = quiet.iter().filter(|key| known_of(&sessions, key) == 0).collect();
    assert!(lost.is_empty(), "{lost:?} are driven out");
    assert!(known_in_all(&sessions) <= 4_000 + SHARDS);
    assert!(known_of(&sessions, "loud") >= 100, "the loud one keeps what room is left");
}

#[test]
fn calls_at_once_never_get_the_same_count() {
    let sessions = sessions(1_000);
    let key: Arc<str> = "a".into();
    let counts = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let count = sessions.enter(&key, None, at(0)).unwrap().requests;
                    counts.lock().unwrap().push(count);
                }
            });
        }
    });
    let mut counts = counts.into_inner().unwrap();
    counts.sort_unstable();
    assert_eq!(counts, (0..2_000).collect::<Vec<u64>>());
}
