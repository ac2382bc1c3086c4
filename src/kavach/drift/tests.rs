//! Simulated traffic: what is detected, how soon, and what raises no alarm.
//!
//! Stated rates, held by the tests below: steady, diurnal and slowly rising traffic of two weeks raises no alarm in any
//! minute (0 of about 1.5 million calls); fifty times the usual volume is at 90 within 60 seconds, and so is a key that was
//! idle and bursts to 300 calls a minute; impossible travel is at 100 with the first call.

use super::geo::Place;
use super::*;

const START: i64 = 1_800_000_000;

fn drift() -> Drift {
    let config = DriftConfig { geo: true, device: true, session_age: true, behaviour: true, ..DriftConfig::default() };
    Drift::new(config)
}

fn at(seconds: f64) -> Timestamp {
    Timestamp(START * 1_000_000 + (seconds * 1e6) as i64)
}

/// Traffic with exponential gaps, by a rate in calls a minute at each second. Gives the highest score and when it first
/// reached 90.
struct Traffic {
    drift: Drift,
    key: Arc<str>,
    state: u64,
    calls: u64,
}

impl Traffic {
    fn new() -> Self {
        Self { drift: drift(), key: "key_1".into(), state: 7, calls: 0 }
    }

    fn uniform(&mut self) -> f64 {
        // SplitMix64, by Sebastiano Vigna, in the public domain.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn run(&mut self, from: f64, to: f64, rate: impl Fn(f64) -> f64) -> (u8, Option<f64>) {
        let (mut now, mut most, mut alarm) = (from, 0, None);
        loop {
            now += -(1.0 - self.uniform()).ln() * 60.0 / rate(now).max(1e-6);
            if now >= to {
                return (most, alarm);
            }
            let tokens = 500 + (self.uniform() * 1_000.0) as u64;
            let sighting = Sighting { model: "m", tokens, cost: NanoUsd(tokens as i64 * 1_000), ..Sighting::default() };
            let score = self.drift.score(&self.key, &sighting, at(now)).behaviour;
            self.calls += 1;
            most = most.max(score);
            if score >= ALARM && alarm.is_none() {
                alarm = Some(now - from);
            }
        }
    }
}

const HOUR: f64 = 3_600.0;
const DAY: f64 = 24.0 * HOUR;

#[test]
fn steady_traffic_raises_no_alarm() {
    for rate in [0.05, 1.0, 20.0] {
        let mut traffic = Traffic::new();
        let (most, alarm) = traffic.run(0.0, 14.0 * DAY, |_| rate);
        assert_eq!(alarm, None, "{rate}: {most} in {} calls", traffic.calls);
    }
}

#[test]
fn day_and_night_raise_no_alarm() {
    let mut traffic = Traffic::new();
    let rate = |now: f64| 30.0 * (1.0 - (now / DAY * std::f64::consts::TAU).cos()) + 0.5;
    assert_eq!(traffic.run(0.0, 14.0 * DAY, rate).1, None);
}

#[test]
fn a_slow_ramp_raises_no_alarm() {
    // From 2 to 60 calls a minute in ten days.
    let mut traffic = Traffic::new();
    assert_eq!(traffic.run(0.0, 10.0 * DAY, |now| 2.0 * 30f64.powf(now / (10.0 * DAY))).1, None);
}

#[test]
fn fifty_times_the_usual_is_caught_within_a_minute() {
    let mut traffic = Traffic::new();
    assert_eq!(traffic.run(0.0, 3.0 * DAY, |_| 20.0).1, None);
    let (_, alarm) = traffic.run(3.0 * DAY, 3.0 * DAY + 120.0, |_| 1_000.0);
    assert!(alarm.is_some_and(|after| after <= 60.0), "{alarm:?}");
    // The wild hour does not become usual, and calm is calm again.
    assert_eq!(traffic.run(3.0 * DAY + HOUR, 4.0 * DAY, |_| 20.0).1, None);
    let (_, alarm) = traffic.run(4.0 * DAY, 4.0 * DAY + 120.0, |_| 1_000.0);
    assert!(alarm.is_some_and(|after| after <= 60.0), "{alarm:?}");
}

#[test]
fn a_quiet_key_that_bursts_is_caught_within_a_minute() {
    let mut traffic = Traffic::new();
    assert_eq!(traffic.run(0.0, DAY, |_| 1.0 / 60.0).1, None);
    // Five idle days, then a burst: an average over its life would not see it.
    let (_, alarm) = traffic.run(6.0 * DAY, 6.0 * DAY + 120.0, |_| 300.0);
    assert!(alarm.is_some_and(|after| after <= 60.0), "{alarm:?}");
}

#[test]
fn fifty_times_the_tokens_or_the_cost_is_caught_too() {
    for (tokens, cost) in [(2_000_000, 0), (0, 50_000_000_000)] {
        let mut traffic = Traffic::new();
        traffic.run(0.0, 2.0 * DAY, |_| 20.0);
        let sighting = Sighting { model: "m", tokens, cost: NanoUsd(cost), ..Sighting::default() };
        assert!(traffic.drift.score(&traffic.key, &sighting, at(2.0 * DAY + 1.0)).behaviour >= ALARM);
    }
}

#[test]
fn a_new_key_is_learned_and_not_suspected() {
    let mut traffic = Traffic::new();
    assert_eq!(traffic.run(0.0, 2.0 * HOUR, |_| 600.0).0, 0);
}

#[test]
fn an_unusual_hour_and_unusual_models_are_odd_but_no_alarm() {
    let mut traffic = Traffic::new();
    for day in 0..6 {
        let morning = f64::from(day) * DAY;
        traffic.run(morning, morning + 8.0 * HOUR, |_| 5.0);
    }
    let night = 5.0 * DAY + 16.0 * HOUR;
    let score = |model: &str, now: f64| {
        let sighting = Sighting { model, ..Sighting::default() };
        traffic.drift.score(&traffic.key, &sighting, at(now)).behaviour
    };
    assert_eq!(score("m", night), 40);
    let mut last = 0;
    for number in 0..10 {
        last = score("other", night + 10.0 + f64::from(number) * 30.0);
    }
    assert_eq!(last, 70);
}

#[test]
fn impossible_travel_is_caught_with_its_first_call_and_a_flight_is_not() {
    let berlin = Place::parse("DE;city=Berlin;lat=52.52;lon=13.40").unwrap();
    let (munich, sydney) =
        (Place::parse("DE;lat=48.14;lon=11.58").unwrap(), Place::parse("AU;lat=-33.87;lon=151.21").unwrap());
    let drift = drift();
    let key: Arc<str> = "k".into();
    let score =
        |place: Option<Place>, now: f64| drift.score(&key, &Sighting { place, ..Sighting::default() }, at(now)).geo;
    assert_eq!(score(Some(berlin), 0.0), 0);
    assert_eq!(score(Some(berlin), 10.0), 0);
    assert_eq!(score(Some(sydney), HOUR), 100);
    // It is not learned: home is still where it was, and the thief is still a thief.
    assert_eq!(score(Some(berlin), HOUR + 1.0), 0);
    assert_eq!(score(Some(sydney), 2.0 * HOUR), 100);
    assert_eq!(score(Some(munich), 3.0 * HOUR + 1.0), 15);
    let flown = score(Some(sydney), 30.0 * HOUR);
    assert!((50..90).contains(&flown), "{flown}");
    assert_eq!(score(None, 31.0 * HOUR), 40);
}

#[test]
fn two_regions_of_one_service_become_usual() {
    let places = ["US;lat=39.0;lon=-77.5", "IE;lat=53.3;lon=-6.3"].map(|text| Place::parse(text).unwrap());
    let drift = drift();
    let key: Arc<str> = "k".into();
    let score = |place: Place, now: f64| {
        drift.score(&key, &Sighting { place: Some(place), ..Sighting::default() }, at(now)).geo
    };
    for day in 0..6 {
        // By turns with half a day between, which can be travelled.
        score(places[0], f64::from(day) * DAY);
        score(places[1], f64::from(day) * DAY + 12.0 * HOUR);
    }
    assert!(score(places[0], 6.0 * DAY) <= 20);
    assert!(score(places[1], 6.0 * DAY + 1.0) <= 20);
    drift.adopt(&"k".into(), at(DAY), drift.habit("k").forgotten());
    assert_eq!(score(places[0], 6.0 * DAY + 2.0), 0);
    assert_eq!(score(places[1], 6.0 * DAY + 3.0), 100);
}

#[test]
fn a_place_that_is_no_place_is_not_read() {
    for text in
        ["", "D", "DEU", "12", "DE;lat=91;lon=0", "DE;lat=NaN;lon=1", "DE;lat=1;lon=inf", "DE;speed=1", "DE;lat"]
    {
        assert_eq!(Place::parse(text), None, "{text}");
    }
    let place = Place::parse("in; region=MH; lat=19.1; lon=72.9").unwrap();
    assert_eq!((place.country(), place.position), ("IN", Some((19.1, 72.9))));
    assert_eq!(Place::parse("IN").unwrap().position, None);
}

#[test]
fn another_device_and_no_device_are_signals_until_they_are_known() {
    let drift = drift();
    let key: Arc<str> = "k".into();
    let score =
        |device: Option<&str>, now: f64| drift.score(&key, &Sighting { device, ..Sighting::default() }, at(now)).device;
    assert_eq!(score(Some("laptop"), 0.0), 0);
    assert_eq!(score(Some("laptop"), 1.0), 0);
    assert_eq!(score(None, 2.0), 95);
    assert_eq!(score(Some(""), 3.0), 95);
    assert_eq!(score(Some("phone"), 4.0), 95);
    assert_eq!(score(Some("phone"), DAY), 95);
    assert_eq!(score(Some("phone"), 2.0 * DAY), 0);
    for number in 0..100 {
        assert_eq!(score(Some(&format!("stranger {number}")), 2.0 * DAY), 95);
    }
    assert_eq!((score(Some("laptop"), 2.0 * DAY), score(Some("phone"), 2.0 * DAY)), (0, 0));
}

#[test]
fn a_session_scores_its_share_of_the_age_that_is_allowed() {
    let drift = drift();
    let score = |hours: u64| {
        let sighting = Sighting { session_age: Duration::from_secs(hours * 3_600), ..Sighting::default() };
        drift.score(&"k".into(), &sighting, at(0.0)).session_age
    };
    assert_eq!([0, 6, 12, 18, 24, 1_000].map(score), [0, 25, 50, 75, 100, 100]);
}

#[test]
fn a_signal_that_is_off_is_silent_and_keys_are_bounded() {
    let off = Drift::new(DriftConfig::default());
    let sighting = Sighting { session_age: Duration::from_secs(1 << 30), ..Sighting::default() };
    assert_eq!(off.score(&"k".into(), &sighting, at(0.0)), Scores::default());
    assert!(off.collect(10, at(0.0), true).is_empty());
    let small = Drift::new(DriftConfig { behaviour: true, max_keys: 160, ..DriftConfig::default() });
    for number in 0..10_000 {
        small.score(&format!("k{number}").into(), &Sighting::default(), at(f64::from(number)));
    }
    let known: usize = small.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
    assert!((16..=176).contains(&known), "{known}");
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(geo::Places::open(file.path()).is_err());
    assert!(geo::Places::open(std::path::Path::new("/nowhere.mmdb")).is_err());
}

#[test]
fn habits_join_in_any_order_and_any_number_of_times() {
    let places = ["US;lat=39.0;lon=-77.5", "IE;lat=53.3;lon=-6.3", "IN;lat=19.1;lon=72.9"];
    let learned = |number: usize| {
        let drift = drift();
        for day in 0..4 {
            let place = Place::parse(places[number]);
            let device = ["laptop", "phone", "server"][(number + day) % 3];
            let sighting = Sighting { place, device: Some(device), model: device, tokens: 100, ..Sighting::default() };
            for call in 0..=number {
                drift.score(&"k".into(), &sighting, at(day as f64 * DAY + (number * 600 + call) as f64));
            }
        }
        drift.habit("k")
    };
    let [a, b, c] = [0, 1, 2].map(learned);
    // As they are kept: without the last minute.
    let kept = |habit: &Habit| -> Habit { serde_json::from_str(&serde_json::to_string(habit).unwrap()).unwrap() };
    let [a, b, c] = [kept(&a), kept(&b), kept(&c)];
    let join = |one: &Habit, other: &Habit| kept(&one.clone().join(other));
    let whole = join(&join(&a, &b), &c);
    for other in [join(&join(&c, &a), &b), join(&b, &join(&c, &a)), join(&whole, &b), join(&whole, &whole)] {
        assert_eq!(whole, other);
    }
    let forgotten = whole.clone().forgotten();
    assert_eq!(join(&whole, &forgotten), kept(&forgotten));
    assert_eq!(join(&forgotten, &whole), kept(&forgotten));
}

#[test]
fn what_was_learned_of_a_key_outlives_the_process() {
    let mut traffic = Traffic::new();
    traffic.run(0.0, 2.0 * DAY, |_| 5.0);
    let text = serde_json::to_string(&traffic.drift.habit("key_1")).unwrap();
    assert!(text.len() < 16 * 1024, "{} bytes", text.len());
    let next = drift();
    next.adopt(&"key_1".into(), at(2.0 * DAY), serde_json::from_str(&text).unwrap());
    traffic.drift = next;
    let (most, alarm) = traffic.run(2.0 * DAY, 2.0 * DAY + 120.0, |_| 500.0);
    assert!(most >= ALARM && alarm.is_some_and(|after| after <= 60.0), "{most} after {alarm:?}");
}

#[test]
fn tokens_that_are_counted_late_reach_the_habits() {
    let drift = drift();
    let key: Arc<str> = "k".into();
    let call = |now: f64, used: u64| {
        // Nobody knows how long the answer will be, so only the question is estimated.
        let sighting = Sighting { model: "m", tokens: 100, ..Sighting::default() };
        let score = drift.score(&key, &sighting, at(now)).behaviour;
        let used = Settled { at: at(now), tokens: (100, used), ..Settled::default() };
        drift.settle(&key, &used, at(now + 5.0));
        score
    };
    for hour in 0..30 {
        assert_eq!(call(f64::from(hour) * HOUR, 1_000), 0);
    }
    let later = 30.0 * HOUR;
    // The same number of calls, but answers a thousand times as long.
    let scores: Vec<u8> = (0..3).map(|second| call(later + f64::from(second) * 10.0, 1_000_000)).collect();
    assert_eq!(scores[0], 0);
    assert!(scores[1] >= ALARM && scores[2] >= ALARM, "{scores:?}");
    // An estimate that was too high counts no more either.
    let sighting = Sighting { model: "m", tokens: 10_000_000, ..Sighting::default() };
    assert!(drift.score(&"other".into(), &sighting, at(0.0)).behaviour == 0);
    drift.settle("other", &Settled { at: at(0.0), tokens: (10_000_000, 50), ..Settled::default() }, at(1.0));
    assert_eq!(drift.habit("other").behaviour.unwrap().minute_at(at(2.0))[1], 50);
}
