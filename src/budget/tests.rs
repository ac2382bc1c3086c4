//! The tests of [`Budget`] on one process.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::bench::{Bench, START, amounts, key, limit, payer, refused};
use super::limit::{Action, Limit, Scope, Unit, Window};
use super::*;
use crate::unit::charge::CounterId;

#[tokio::test]
async fn a_call_that_does_not_fit_is_refused_with_all_that_its_caller_needs() {
    let bench = Bench::new();
    let budget = bench.process("a", &[limit("daily", Scope::Team, Unit::Usd, 100)]);
    let key = key("k");
    let reservation = budget.reserve(&payer(&key), &amounts(70), false).await.unwrap();
    let charges = reservation.settle(&amounts(60));
    bench.memory.apply("a", &charges);
    let held = budget.reserve(&payer(&key), &amounts(20), false).await.unwrap();
    assert_eq!(held.rows()[0].reserved, 20);
    let refused = refused(budget.reserve(&payer(&key), &amounts(30), false).await);
    assert_eq!((&*refused.limit, &*refused.subject), ("daily", "research"));
    assert_eq!((refused.amount, refused.spent, refused.reserved, refused.remaining), (100, 60, 20, 20));
    let midnight = (START / 86_400 + 1) * 86_400;
    assert_eq!(refused.resets_at, Some(Timestamp(midnight * 1_000_000)));
    assert_eq!(refused.retry_after, Some(Duration::from_secs(1)), "a call in flight may give something back");
}

#[tokio::test]
async fn a_row_that_is_told_to_holds_its_rest_and_every_other_the_whole_need() {
    let bench = Bench::new();
    let limits = [limit("small", Scope::Key, Unit::Usd, 100), limit("large", Scope::Team, Unit::Usd, 1_000)];
    let (budget, key) = (bench.process("a", &limits), key("k"));
    let need = amounts(600);
    let never = match budget.reserve(&payer(&key), &need, false).await.unwrap_err() {
        Refusal::NeverFits(refused) => *refused,
        other => panic!("{other:?}"),
    };
    assert_eq!((&*never.limit, never.remaining), ("small", 100));
    let rests = [never.rest(5)];
    assert_eq!(rests[0].most, 100);
    let mut held = budget.reserve_rest(&payer(&key), &need, &rests, false).await.unwrap();
    let mut rows: Vec<_> = held.rows().iter().map(|row| (row.counter.limit.to_string(), row.reserved)).collect();
    rows.sort();
    assert_eq!(rows, [("large".to_owned(), 600), ("small".to_owned(), 100)]);
    // Nobody else may have what the large limit holds for it, nor a second call the rest of the small one.
    refused(budget.reserve_rest(&payer(&key), &need, &rests, false).await);
    // Where nobody knows what was used, each row is charged what it held.
    let charges = held.charges_unknown(None);
    let mut charged: Vec<i64> = charges.iter().map(|charge| charge.amount).collect();
    charged.sort_unstable();
    assert_eq!(charged, [100, 600]);
    drop(held);
    bench.memory.apply("a", &charges);
    assert_eq!(bench.standing("large").await.0, 600);
    let none_left = Refused { remaining: 0, ..never };
    assert_eq!(none_left.rest(5).most, 5, "at least what is written, and that must fit");
    assert!(budget.reserve_rest(&payer(&key), &amounts(10), &[none_left.rest(5)], false).await.is_err());
}

#[tokio::test]
async fn all_rows_are_taken_or_none() {
    let bench = Bench::new();
    let limits = [limit("team", Scope::Team, Unit::Usd, 100), limit("key", Scope::Key, Unit::Requests, 1)];
    let (budget, key) = (bench.process("a", &limits), key("k"));
    let first = budget.reserve(&payer(&key), &amounts(10), false).await.unwrap();
    assert_eq!(first.rows().len(), 2);
    assert_eq!(&*refused(budget.reserve(&payer(&key), &amounts(10), false).await).limit, "key");
    let reserved = |limit: &str| budget.live().iter().find(|row| &*row.counter.limit == limit).unwrap().reserved;
    assert_eq!((reserved("team"), reserved("key")), (10, 1), "the refused call holds nothing");
    drop(first);
    assert_eq!((reserved("team"), reserved("key")), (0, 0));
}

#[tokio::test]
async fn a_need_beyond_the_amount_never_fits_and_a_missing_price_is_told() {
    let bench = Bench::new();
    let (budget, key) = (bench.process("a", &[limit("daily", Scope::Gateway, Unit::Usd, 100)]), key("k"));
    let never = budget.reserve(&payer(&key), &amounts(101), true).await.unwrap_err();
    assert!(matches!(never, Refusal::NeverFits(_)), "{never:?}");
    let unpriced = Amounts { usd: None, ..amounts(1) };
    let unpriced = budget.reserve(&payer(&key), &unpriced, true).await.unwrap_err();
    assert!(matches!(unpriced, Refusal::Unpriced(_)), "{unpriced:?}");
    assert_eq!(bench.memory.acquires(), 0, "neither asks the authority");
}

#[tokio::test]
async fn no_limit_holds_nothing_and_asks_nobody() {
    let bench = Bench::new();
    let (budget, key) = (bench.process("a", &[limit("other", Scope::User, Unit::Usd, 1)]), key("k"));
    assert_eq!(budget.limited(&payer(&key)), Limited::No);
    let reservation = budget.reserve_now(&payer(&key), &amounts(5)).unwrap();
    assert_eq!((reservation.id(), reservation.settle(&amounts(5))), (0, Vec::new()));
    assert_eq!(bench.memory.acquires(), 0);
}

#[tokio::test]
async fn what_a_provider_counts_beyond_the_reservation_is_charged() {
    let bench = Bench::new();
    let (budget, key) = (bench.process("a", &[limit("daily", Scope::Key, Unit::Tokens, 100)]), key("k"));
    let charges = budget.reserve(&payer(&key), &amounts(10), false).await.unwrap().settle(&amounts(130));
    assert_eq!(charges.iter().map(|charge| charge.amount).collect::<Vec<_>>(), [130]);
    bench.memory.apply("a", &charges);
    assert_eq!(refused(budget.reserve(&payer(&key), &amounts(1), true).await).spent, 130);
}

#[tokio::test]
async fn a_price_that_is_unknown_at_the_end_charges_what_was_reserved() {
    let bench = Bench::new();
    let (budget, key) = (bench.process("a", &[limit("daily", Scope::Key, Unit::Usd, 100)]), key("k"));
    let reservation = budget.reserve(&payer(&key), &amounts(10), false).await.unwrap();
    assert_eq!(reservation.settle(&Amounts { usd: None, ..amounts(3) })[0].amount, 10);
}

#[tokio::test]
async fn an_expired_reservation_is_charged_once_and_in_full() {
    let bench = Bench::new();
    let (budget, key) = (bench.process("a", &[limit("daily", Scope::Key, Unit::Tokens, 100)]), key("k"));
    let memory = bench.memory.clone();
    budget.on_expired(move |_, charges| memory.apply("a", &charges));
    let late = budget.reserve(&payer(&key), &amounts(40), false).await.unwrap();
    let later = budget.reserve(&payer(&key), &amounts(10), false).await.unwrap();
    bench.pass(3_601);
    budget.tend().await;
    assert_eq!(bench.standing("daily").await, (50, 0));
    assert_eq!(late.settle(&amounts(30)), [], "less than its full amount corrects nothing");
    let beyond = later.settle(&amounts(15));
    assert_eq!(beyond.iter().map(|charge| charge.amount).collect::<Vec<_>>(), [5]);
    bench.memory.apply("a", &beyond);
    assert_eq!(bench.standing("daily").await.0, 55);
    bench.pass(1);
    budget.applied(budget.mark());
    budget.tend().await;
    assert_eq!(refused(budget.reserve(&payer(&key), &amounts(46), false).await).spent, 55);
    drop(budget.reserve(&payer(&key), &amounts(45), false).await.unwrap());
}

#[tokio::test]
async fn a_lowered_amount_holds_at_once_and_a_raised_one_too() {
    let bench = Bench::new();
    let daily = limit("daily", Scope::Key, Unit::Requests, 1_000);
    let (budget, key) = (bench.process("a", std::slice::from_ref(&daily)), key("k"));
    for _ in 0..5 {
        let charges = budget.reserve(&payer(&key), &amounts(1), false).await.unwrap().settle(&amounts(1));
        bench.memory.apply("a", &charges);
    }
    assert!(bench.standing("daily").await.1 > 0, "a lease is held");
    budget.set_limits(vec![Limit { amount: 6, ..daily.clone() }]);
    budget.return_lowered().await;
    let charges = budget.reserve(&payer(&key), &amounts(1), false).await.unwrap().settle(&amounts(1));
    bench.memory.apply("a", &charges);
    assert_eq!(refused(budget.reserve(&payer(&key), &amounts(1), false).await).amount, 6);
    budget.set_limits(vec![Limit { amount: 7, ..daily }]);
    drop(budget.reserve(&payer(&key), &amounts(1), false).await.unwrap());
}

#[tokio::test]
async fn a_limit_that_is_gone_refuses_nothing_and_gives_its_lease_back() {
    let bench = Bench::new();
    let (budget, key) = (bench.process("a", &[limit("daily", Scope::Key, Unit::Requests, 1)]), key("k"));
    let held = budget.reserve(&payer(&key), &amounts(1), false).await.unwrap();
    budget.set_limits(Vec::new());
    drop(budget.reserve_now(&payer(&key), &amounts(1)).unwrap());
    drop(held);
    budget.tend().await;
    assert_eq!(bench.standing("daily").await, (0, 0));
}

#[tokio::test]
async fn a_day_ends_and_the_next_starts_anew() {
    let bench = Bench::new();
    let (budget, key) = (bench.process("a", &[limit("daily", Scope::Key, Unit::Requests, 1)]), key("k"));
    let over_midnight = budget.reserve(&payer(&key), &amounts(1), false).await.unwrap();
    refused(budget.reserve(&payer(&key), &amounts(1), false).await);
    bench.pass(86_400);
    let next_day = budget.reserve(&payer(&key), &amounts(1), false).await.unwrap();
    let (old, new) = (over_midnight.settle(&amounts(1)), next_day.settle(&amounts(1)));
    assert_ne!(old[0].counter, new[0].counter, "a call counts in the window that it was admitted in");
    bench.memory.apply("a", &old);
    bench.memory.apply("a", &new);
    assert_eq!(bench.memory.spent_and_leased(&old[0].counter), (1, 0));
}

#[tokio::test]
async fn a_window_is_named_by_the_clock_of_the_authority() {
    let bench = Bench::new();
    let micros = bench.micros.clone();
    // This process believes that it is a day later.
    let clock = Clock::new(Arc::new(move || micros.load(Ordering::SeqCst)), Timestamp((START + 86_400) * 1_000_000));
    let settings = BudgetSettings { authority_timeout: Duration::from_secs(5), ..BudgetSettings::default() };
    let budget = Budget::with_clock(bench.memory.clone(), "a".to_owned(), settings, clock);
    budget.set_limits(vec![limit("daily", Scope::Key, Unit::Requests, 1)]);
    let key = key("k");
    let charges = budget.reserve(&payer(&key), &amounts(1), true).await.unwrap().settle(&amounts(1));
    assert!(counter::holds(charges[0].counter.window, Timestamp(START * 1_000_000)));
}

#[tokio::test]
async fn when_the_authority_is_away_leases_carry_on_and_then_calls_are_refused_or_admitted_as_the_operator_chose() {
    let bench = Bench::new();
    let (budget, key) = (bench.process("a", &[limit("daily", Scope::Key, Unit::Requests, 8)]), key("k"));
    bench.memory.apply("a", &budget.reserve(&payer(&key), &amounts(1), false).await.unwrap().settle(&amounts(1)));
    bench.memory.set_away(true);
    let mut admitted = Vec::new();
    let refusal = loop {
        match budget.reserve(&payer(&key), &amounts(1), true).await {
            Ok(reservation) => admitted.push(reservation),
            Err(refusal) => break refusal,
        }
    };
    assert!(matches!(refusal, Refusal::Away(_)), "{refusal:?}");
    assert!(!admitted.is_empty(), "the lease carried on");
    let asked = bench.memory.acquires();
    budget.reserve(&payer(&key), &amounts(1), true).await.unwrap_err();
    assert_eq!(bench.memory.acquires(), asked, "nobody asks a dead authority again");
    let settings = BudgetSettings { when_away: WhenAway::Admit, ..BudgetSettings::default() };
    budget.configure(settings);
    let uncounted = budget.reserve(&payer(&key), &amounts(1), true).await.unwrap();
    bench.memory.set_away(false);
    assert_eq!(uncounted.settle(&amounts(1)).len(), 1, "what it used is charged all the same");
}

#[tokio::test]
async fn a_lease_whose_answer_was_lost_is_found_and_can_be_spent() {
    let bench = Bench::new();
    let (budget, key) = (bench.process("a", &[limit("daily", Scope::Key, Unit::Tokens, 100)]), key("k"));
    bench.memory.lose_answers(true);
    budget.reserve(&payer(&key), &amounts(60), false).await.unwrap_err();
    bench.memory.lose_answers(false);
    assert_eq!(bench.standing("daily").await.1, 60, "the authority leased what nobody knows of");
    budget.set_away(false);
    let other = bench.process("b", &[limit("daily", Scope::Key, Unit::Tokens, 100)]);
    other.reserve(&payer(&key), &amounts(60), false).await.unwrap_err();
    bench.pass(31);
    budget.tend().await;
    other.reserve(&payer(&key), &amounts(60), false).await.unwrap_err();
    budget.applied(budget.mark());
    budget.tend().await;
    drop(other.reserve(&payer(&key), &amounts(60), false).await.unwrap());
}

#[tokio::test]
async fn idle_leases_go_back_and_idle_counters_are_forgotten() {
    let bench = Bench::new();
    let (budget, key) = (bench.process("a", &[limit("daily", Scope::Key, Unit::Tokens, 1_000)]), key("k"));
    drop(budget.reserve(&payer(&key), &amounts(1), false).await.unwrap());
    assert!(bench.standing("daily").await.1 > 0);
    bench.pass(6);
    budget.tend().await;
    assert_eq!(bench.standing("daily").await.1, 0);
    assert_eq!(budget.live().len(), 1);
    bench.pass(60);
    budget.tend().await;
    assert_eq!(budget.live().len(), 0);
    drop(budget.reserve(&payer(&key), &amounts(1), false).await.unwrap());
}

#[tokio::test]
async fn what_a_process_holds_stays_with_it_while_the_authority_is_away() {
    let bench = Bench::new();
    let (budget, key) = (bench.process("a", &[limit("daily", Scope::Key, Unit::Tokens, 1_000)]), key("k"));
    drop(budget.reserve(&payer(&key), &amounts(1), false).await.unwrap());
    let held = bench.standing("daily").await.1;
    bench.memory.set_away(true);
    budget.set_away(true);
    for _ in 0..9 {
        bench.pass(6);
        budget.tend().await;
    }
    drop(budget.reserve_now(&payer(&key), &amounts(1)).unwrap());
    bench.memory.set_away(false);
    assert_eq!(bench.standing("daily").await.1, held, "the authority still counts it as taken");
    budget.set_away(false);
    bench.pass(6);
    budget.tend().await;
    assert_eq!(bench.standing("daily").await.1, 0, "it goes back as soon as somebody takes it");
}

#[tokio::test]
async fn counters_in_memory_are_bounded() {
    let bench = Bench::new();
    let budget = bench.process("a", &[limit("daily", Scope::Key, Unit::Tokens, 1_000)]);
    budget.configure(BudgetSettings { max_counters: 3, ..BudgetSettings::default() });
    let refusals = (0..5).filter(|number| {
        let key = key(&format!("k{number}"));
        matches!(budget.reserve_now(&payer(&key), &amounts(1)), Err(Short(short)) if short.final_refusal == Some(Refusal::Crowded))
    });
    assert_eq!(refusals.count(), 2);
    let late = key("k4");
    assert_eq!(budget.limited(&payer(&late)), Limited::Yes, "what cannot be counted does not go free");
}

#[tokio::test]
async fn thresholds_are_told_once_and_a_limit_that_only_warns_refuses_nothing() {
    let bench = Bench::new();
    let warn = Limit {
        action: Action::Warn,
        warn_at_percent: vec![50, 80, 100],
        ..limit("warn", Scope::Team, Unit::Usd, 100)
    };
    let (budget, key) = (bench.process("a", &[warn]), key("k"));
    let mut events = budget.events();
    let mut percents = Vec::new();
    for _ in 0..15 {
        let charges = budget.reserve(&payer(&key), &amounts(10), false).await.unwrap().settle(&amounts(10));
        bench.memory.apply("a", &charges);
        budget.tend().await;
        while let Ok(BudgetEvent::Threshold { percent, subject, .. }) = events.try_recv() {
            assert_eq!(&*subject, "research");
            percents.push(percent);
        }
    }
    assert_eq!(percents, [50, 80, 100]);
    assert_eq!(bench.standing("warn").await, (150, 0));
    let later = bench.process("b", &[]);
    later.set_limits(vec![Limit { warn_at_percent: vec![50], ..limit("warn", Scope::Team, Unit::Usd, 1_000) }]);
    drop(later.reserve(&payer(&key), &amounts(1), false).await.unwrap());
}

#[tokio::test]
async fn little_left_asks_for_another_model() {
    let bench = Bench::new();
    let action = Action::Downgrade { to: "gpt-mini".into(), below_percent: 30 };
    let (budget, key) = (bench.process("a", &[Limit { action, ..limit("d", Scope::Team, Unit::Usd, 100) }]), key("k"));
    assert_eq!(budget.downgrade(&payer(&key)), None);
    drop(budget.reserve(&payer(&key), &amounts(60), false).await.unwrap().settle(&amounts(60)));
    assert_eq!((budget.downgrade(&payer(&key)), budget.share_left(&payer(&key))), (None, Some(40)));
    let _held = budget.reserve(&payer(&key), &amounts(15), false).await.unwrap();
    let found = budget.downgrade(&payer(&key)).unwrap();
    assert_eq!((&*found.limit, found.to.as_str(), found.left_percent), ("d", "gpt-mini", 25));
}

#[tokio::test]
async fn rates_are_those_of_the_tightest_limit() {
    let bench = Bench::new();
    let limits = [
        Limit { window: Window::Minute, ..limit("rpm", Scope::Key, Unit::Requests, 10) },
        limit("daily", Scope::Team, Unit::Requests, 1_000),
        limit("tokens", Scope::Team, Unit::Tokens, 500),
    ];
    let (budget, key) = (bench.process("a", &limits), key("k"));
    let _held = budget.reserve(&payer(&key), &amounts(100), false).await.unwrap();
    let rates = budget.rates(&payer(&key));
    let minute = Some(Duration::from_secs(60));
    assert_eq!(rates.requests, Some(Rate { limit: 10, remaining: 9, reset: minute }));
    assert_eq!(rates.tokens.map(|rate| (rate.limit, rate.remaining)), Some((500, 400)));
}

#[tokio::test]
async fn tags_sessions_and_models_have_their_own_counters() {
    let bench = Bench::new();
    let limits = [
        limit("tag", Scope::Tag, Unit::Requests, 10),
        limit("session", Scope::Session, Unit::Requests, 10),
        Limit { subject: Some("gpt-*".into()), ..limit("model", Scope::Model, Unit::Requests, 10) },
        Limit { models: vec!["claude".parse_glob()], ..limit("other", Scope::Key, Unit::Requests, 10) },
    ];
    let (budget, key) = (bench.process("a", &limits), key("k"));
    let tags: [Arc<str>; 3] = ["tier:gold".into(), "batch".into(), "batch".into()];
    let payer = Payer { key: &key, model: Some("gpt-4o"), tags: &tags, session: Some("s1") };
    let reservation = budget.reserve(&payer, &amounts(1), false).await.unwrap();
    let mut subjects: Vec<String> =
        reservation.rows().iter().map(|row| format!("{}={}", row.counter.limit, row.counter.subject)).collect();
    subjects.sort();
    assert_eq!(subjects, ["model=gpt-*", "session=k/s1", "tag=batch", "tag=tier:gold"]);
}

trait ParseGlob {
    fn parse_glob(&self) -> crate::unit::glob::Glob;
}

impl ParseGlob for str {
    fn parse_glob(&self) -> crate::unit::glob::Glob {
        crate::unit::glob::Glob::new(self).unwrap()
    }
}

#[tokio::test]
async fn what_is_held_ahead_of_a_paced_limit_is_left_for_callers() {
    let bench = Bench::new();
    // One a second, 64 at once: 16 are held ahead.
    let paced = Limit { window: Window::Paced { burst: 64 }, ..limit("paced", Scope::Key, Unit::Requests, 60) };
    let (budget, key) = (bench.process("a", &[paced]), key("k"));
    let held = budget.reserve(&payer(&key), &amounts(1), false).await.unwrap();
    let left = || {
        let live = budget.live();
        assert_eq!(live.len(), 1);
        let remaining = budget.rates(&payer(&key)).requests.unwrap().remaining;
        assert_eq!(live[0].spent + remaining, 64, "{live:?}");
        (remaining, live[0].held_ahead)
    };
    let (remaining, ahead) = left();
    assert_eq!(remaining, 63, "one call was made");
    assert!(ahead > 0, "something is held ahead");
    let (spent, _) = bench.standing("paced").await;
    assert_eq!(spent, 1 + ahead, "its authority counts it as spent");
    let reset = budget.rates(&payer(&key)).requests.unwrap().reset;
    assert_eq!(reset, Some(Duration::from_secs(1)), "what is held need not flow in");
    drop(held.settle(&amounts(1)));
    assert_eq!(left().0, 63);
    bench.pass(1);
    assert_eq!(left().0, 64, "it has flowed off, without anybody asking");
    // Whatever is told, so many calls pass at once and no more.
    let calls = async |budget: &Arc<Budget>| {
        let mut passed = 0;
        while let Ok(reservation) = budget.reserve(&payer(&key), &amounts(1), false).await {
            drop(reservation.settle(&amounts(1)));
            passed += 1;
        }
        passed
    };
    let told = left().0;
    assert_eq!(calls(&budget).await, told);
    assert_eq!(left().0, 0);
    bench.pass(10);
    let told = left().0;
    assert_eq!((told, calls(&budget).await), (10, 10));
}

#[tokio::test]
async fn a_paced_limit_spends_when_it_admits_and_flows_back() {
    let bench = Bench::new();
    let paced = Limit { window: Window::Paced { burst: 2 }, ..limit("paced", Scope::Key, Unit::Requests, 60) };
    let (budget, key) = (bench.process("a", &[paced]), key("k"));
    let first = budget.reserve(&payer(&key), &amounts(1), false).await.unwrap();
    assert_eq!(first.settle(&amounts(1)), [], "it is spent already");
    drop(budget.reserve(&payer(&key), &amounts(1), false).await.unwrap().settle(&amounts(1)));
    let refused = refused(budget.reserve(&payer(&key), &amounts(1), true).await);
    assert!(refused.retry_after.is_some_and(|wait| wait <= Duration::from_millis(1_001)), "{refused:?}");
    bench.pass(1);
    let held = budget.reserve(&payer(&key), &amounts(1), false).await.unwrap();
    drop(held);
    bench.pass(2);
    budget.tend().await;
    let (a, b) = (
        budget.reserve(&payer(&key), &amounts(1), false).await,
        budget.reserve(&payer(&key), &amounts(1), false).await,
    );
    assert!(a.is_ok() && b.is_ok());
}

#[tokio::test]
async fn a_request_that_runs_longer_than_a_minute_does_not_hold_up_the_next_minute() {
    let bench = Bench::new();
    let rpm = Limit { window: Window::Minute, ..limit("rpm", Scope::Key, Unit::Requests, 1) };
    let (budget, key) = (bench.process("a", &[rpm]), key("k"));
    let long = budget.reserve(&payer(&key), &amounts(1), false).await.unwrap();
    bench.pass(61);
    refused(budget.reserve(&payer(&key), &amounts(1), false).await);
    bench.pass(2);
    budget.tend().await;
    let next = budget.reserve(&payer(&key), &amounts(1), false).await.unwrap();
    assert_eq!(long.settle(&amounts(1)), [], "that minute is over");
    bench.memory.apply("a", &next.settle(&amounts(1)));
    refused(budget.reserve(&payer(&key), &amounts(1), false).await);
}

#[test]
fn a_counter_name_is_what_the_authority_knows() {
    let bench = Bench::new();
    let (budget, key) = (bench.process("a", &[limit("daily", Scope::Key, Unit::Tokens, 10)]), key("k"));
    assert!(budget.reserve_now(&payer(&key), &amounts(1)).is_err(), "nothing is leased yet");
    let names: Vec<CounterId> = budget.live().into_iter().map(|row| row.counter).collect();
    assert_eq!(names.len(), 1);
    assert_eq!((&*names[0].limit, &*names[0].subject), ("daily", "k"));
}

#[tokio::test]
async fn a_process_that_is_older_than_others_stops_leasing_and_says_so() {
    let bench = Bench::new();
    let (budget, key) = (bench.process("old", &[limit("daily", Scope::Team, Unit::Usd, 1_000_000)]), key("k"));
    let held = budget.reserve(&payer(&key), &amounts(10), false).await.unwrap();
    assert!(!budget.is_outdated());
    bench.memory.lease_by(crate::budget::authority::PROTOCOL + 1);
    // What it holds it may spend: its authority counts it.
    drop(budget.reserve(&payer(&key), &amounts(10), false).await.unwrap());
    let leased = budget.live()[0].leased;
    let refused = budget.reserve(&payer(&key), &amounts(leased + 1), false).await.unwrap_err();
    assert!(matches!(&refused, Refusal::Outdated(row) if &*row.limit == "daily"), "{refused:?}");
    let error = refused.to_error(None);
    assert_eq!((error.kind().status(), error.retry_after_seconds()), (503, Some(1)));
    assert!(budget.is_outdated() && !budget.is_away(), "it is there, and says no");
    // Whatever is to happen while an authority is away, this is something else; and it is not asked again.
    budget.configure(BudgetSettings { when_away: WhenAway::Admit, ..BudgetSettings::default() });
    let asked = bench.memory.acquires();
    assert!(budget.reserve(&payer(&key), &amounts(leased + 1), true).await.is_err());
    assert_eq!(bench.memory.acquires(), asked);
    let charges = held.settle(&amounts(7));
    bench.memory.apply("old", &charges);
    assert_eq!(bench.standing("daily").await.0, 7, "what it spent is spent");
}

#[tokio::test]
async fn a_lowered_amount_holds_although_calls_hold_more_than_it() {
    let bench = Bench::new();
    let running = Limit { window: Window::Now, ..limit("running", Scope::Key, Unit::Concurrent, 3) };
    let money = limit("money", Scope::Key, Unit::Usd, 10_000);
    let (budget, key) = (bench.process("a", &[running.clone(), money.clone()]), key("k"));
    let held: Vec<Reservation> = {
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(budget.reserve(&payer(&key), &amounts(3_000), false).await.unwrap());
        }
        held
    };
    budget.set_limits(vec![Limit { amount: 1, ..running }, Limit { amount: 100, ..money }]);
    for reservation in held {
        let charges = reservation.settle(&amounts(10));
        bench.memory.apply("a", &charges);
    }
    // 30 of 100 are spent: neither the 8,970 that came free nor the other two places may be used.
    assert!(budget.reserve(&payer(&key), &amounts(60), false).await.is_err(), "it has not gone back yet");
    budget.return_lowered().await;
    let one = budget.reserve(&payer(&key), &amounts(60), false).await.unwrap();
    assert!(budget.reserve(&payer(&key), &amounts(5), false).await.is_err(), "two at one time");
    drop(one.settle(&amounts(0)));
    assert!(budget.reserve(&payer(&key), &amounts(71), false).await.is_err(), "more than is left");
    budget.return_lowered().await;
    let (spent, leased) = bench.standing("money").await;
    assert!(spent + leased <= 100, "{spent} and {leased}");
    drop(budget.reserve(&payer(&key), &amounts(70), false).await.unwrap());
}
