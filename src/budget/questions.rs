//! How seldom a process asks its authority, and for how long it waits for one that is dead.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::bench::{Bench, amounts, key, limit, payer, refused};
use super::limit::{Limit, Scope, Unit, Window};
use super::memory::Memory;
use super::*;
use crate::key::Key;

#[tokio::test]
async fn a_process_that_works_steadily_asks_its_authority_once_in_a_hundred_calls() {
    let memory = Arc::new(Memory::default());
    let settings = BudgetSettings { authority_timeout: Duration::from_secs(5), ..BudgetSettings::default() };
    let budget = Budget::new(memory.clone(), "a".to_owned(), settings);
    budget.set_limits(vec![limit("daily", Scope::Key, Unit::Tokens, 1_000_000_000_000)]);
    let (stop, stopped) = watch::channel(false);
    let running = crate::telemetry::task::spawn("test", budget.clone().run(stopped));
    let key = key("k");
    for number in 0..100_000 {
        let reservation = budget.reserve(&payer(&key), &amounts(500 + number % 1_000), true).await.unwrap();
        memory.apply("a", &reservation.settle(&amounts(400 + number % 600)));
        if number % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    stop.send_replace(true);
    running.await.unwrap();
    println!("100,000 admissions took {} acquires", memory.acquires());
    assert!(memory.acquires() <= 1_000, "{}", memory.acquires());
}

/// The one timer on the way of a call is `authority_timeout` (5 ms for Redis unless set otherwise). It runs once for all who wait
/// at that moment; whoever comes later is answered where it asks, without giving way even once.
#[tokio::test]
async fn a_dead_authority_is_waited_for_once_and_then_by_nobody() {
    let memory = Arc::new(Memory::default());
    let settings = BudgetSettings::default();
    assert_eq!(settings.authority_timeout, Duration::from_millis(5));
    let budget = Budget::new(memory.clone(), "a".to_owned(), settings);
    budget.set_limits(vec![limit("daily", Scope::Key, Unit::Requests, 100)]);
    memory.set_away(true);
    let keys: Vec<Key> = (0..100).map(|number| key(&format!("k{number}"))).collect();
    let first = budget.reserve(&payer(&keys[0]), &amounts(1), true).await;
    assert!(matches!(first, Err(Refusal::Away(_))), "{first:?}");
    let asked = memory.acquires();
    for key in &keys {
        let (payer, need) = (payer(key), amounts(1));
        let mut call = std::pin::pin!(budget.reserve(&payer, &need, true));
        let answer = call.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        assert!(matches!(answer, std::task::Poll::Ready(Err(Refusal::Away(_)))), "it is refused at once");
    }
    assert_eq!(memory.acquires(), asked, "nobody asks");
}

/// Steady work on each unit and window by itself: so many calls, one in ten milliseconds, and how often the authority was asked.
async fn steady(window: Window, unit: Unit) -> (u64, u64) {
    const CALLS: u64 = 4_000;
    let bench = Bench::new();
    let amount = 60 * 1_000 * 1_000;
    let budget = bench.process("a", &[Limit { window, ..limit("steady", Scope::Key, unit, amount) }]);
    let (stop, stopped) = watch::channel(false);
    let running = crate::telemetry::task::spawn("test", budget.clone().run(stopped));
    let key = key("k");
    for number in 0..CALLS {
        let need = 50 + i64::try_from(number % 100).unwrap();
        let used = Amounts { usd: Some(need), input_tokens: need, output_tokens: need };
        let reservation = budget.reserve(&payer(&key), &used, true).await.unwrap();
        bench.memory.apply("a", &reservation.settle(&used));
        bench.micros.fetch_add(10_000, Ordering::SeqCst);
        if number % 16 == 0 {
            tokio::task::yield_now().await;
        }
    }
    stop.send_replace(true);
    running.await.unwrap();
    (CALLS, bench.memory.acquires())
}

#[tokio::test]
async fn of_each_unit_and_window_a_hundred_calls_take_at_most_one_question() {
    let utc = || "UTC".to_owned();
    let windows = [
        Window::Minute,
        // As much as flows in within ten seconds.
        Window::Paced { burst: 10_000_000 },
        Window::Hour,
        Window::Day { timezone: utc() },
        Window::Month { timezone: utc() },
        Window::Total,
    ];
    let mut measured = Vec::new();
    for unit in [Unit::Usd, Unit::InputTokens, Unit::OutputTokens, Unit::Tokens, Unit::Requests] {
        for window in &windows {
            measured.push((unit, window.clone(), steady(window.clone(), unit).await));
        }
    }
    measured.push((Unit::Concurrent, Window::Now, steady(Window::Now, Unit::Concurrent).await));
    for (unit, window, (calls, asked)) in measured {
        println!("{unit:?} {window:?}: {asked} questions for {calls} calls");
        assert!(asked * 100 <= calls, "{unit:?} {window:?}: {asked} questions for {calls} calls");
    }
}

/// Strict spacing cannot be leased ahead: a place in time that is given out and not used is lost to everybody.
#[tokio::test]
async fn strict_spacing_asks_for_each_call() {
    let bench = Bench::new();
    let strict = Limit { window: Window::Paced { burst: 1 }, ..limit("strict", Scope::Key, Unit::Requests, 600) };
    let (budget, key) = (bench.process("a", &[strict]), key("k"));
    for _ in 0..20 {
        let asked = bench.memory.acquires();
        drop(budget.reserve(&payer(&key), &amounts(1), false).await.unwrap().settle(&amounts(1)));
        assert_eq!(bench.memory.acquires(), asked + 1);
        refused(budget.reserve(&payer(&key), &amounts(1), false).await);
        bench.micros.fetch_add(100_001, Ordering::SeqCst);
    }
}

/// Not a test of anything but speed: `cargo test --release --lib budget::questions::speed -- --ignored --nocapture`.
#[test]
#[ignore = "it measures; run it alone, in a release build"]
fn speed() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for rows in [1_usize, 8] {
        let memory = Arc::new(Memory::default());
        let settings = BudgetSettings { authority_timeout: Duration::from_secs(5), ..BudgetSettings::default() };
        let budget = Budget::new(memory, "a".to_owned(), settings);
        let scopes = [Scope::Key, Scope::Team, Scope::Org, Scope::Gateway];
        let mut limits: Vec<Limit> = (0..10_000)
            .map(|n| Limit {
                subject: Some(format!("s{n}").into()),
                ..limit(&format!("n{n}"), Scope::Key, Unit::Usd, 9)
            })
            .collect();
        for row in 0..rows {
            let unit = if row < 4 { Unit::Tokens } else { Unit::Usd };
            limits.push(limit(&format!("row{row}"), scopes[row % 4], unit, 1_000_000_000_000_000));
        }
        budget.set_limits(limits);
        let key = key("key_01jd3c");
        let once = || drop(budget.reserve_now(&payer(&key), &amounts(1_000)).map(|held| held.settle(&amounts(900))));
        let warm = runtime.block_on(budget.reserve(&payer(&key), &amounts(1_000_000_000), false)).unwrap();
        drop(warm);
        let tick = crate::unit::clock::Tick::now();
        for _ in 0..200_000 {
            once();
        }
        println!("{rows} rows of 10,000: {:?} a reserve and settle", tick.elapsed() / 200_000);
        let tick = crate::unit::clock::Tick::now();
        for _ in 0..200_000 {
            drop(budget.reserve_now(&payer(&key), &amounts(1_000)));
        }
        println!("{rows} rows of 10,000: {:?} a reserve and drop", tick.elapsed() / 200_000);
    }
}
