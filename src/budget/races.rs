//! Many calls at once, on one process and on several, against one authority in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::bench::{amounts, key, limit, payer};
use super::limit::{Limit, Scope, Unit, Window};
use super::memory::Memory;
use super::{Budget, BudgetSettings, Refusal};

/// Processes on one authority, with their background.
struct House {
    memory: Arc<Memory>,
    processes: Vec<(String, Arc<Budget>)>,
    stop: watch::Sender<bool>,
}

impl House {
    fn new(processes: usize, limits: &[Limit], wait: Duration) -> Self {
        let memory = Arc::new(Memory::default());
        let (stop, stopped) = watch::channel(false);
        let settings = BudgetSettings { authority_timeout: Duration::from_secs(20), wait, ..BudgetSettings::default() };
        let process = |number: usize| {
            let owner = format!("p{number}");
            let budget = Budget::new(memory.clone(), owner.clone(), settings);
            budget.set_limits(limits.to_vec());
            crate::telemetry::task::spawn("test", budget.clone().run(stopped.clone()));
            (owner, budget)
        };
        let processes = (0..processes).map(process).collect();
        Self { memory, processes, stop }
    }

    /// Lets so many calls of one key race, each of which needs `need` and uses `used`; gives how many passed.
    async fn race(&self, calls: usize, need: i64, used: i64) -> usize {
        let mut tasks = JoinSet::new();
        for number in 0..calls {
            let (owner, budget) = self.processes[number % self.processes.len()].clone();
            let memory = self.memory.clone();
            #[allow(clippy::disallowed_methods, reason = "a test collects its own tasks")]
            tasks.spawn(async move {
                let key = key("k");
                let Ok(mut reservation) = budget.reserve(&payer(&key), &amounts(need), true).await else { return 0 };
                tokio::task::yield_now().await;
                // As a call does: the charges are told, then applied, then the accounts move.
                memory.apply(&owner, &reservation.charges(&amounts(used)));
                1
            });
        }
        tasks.join_all().await.into_iter().sum()
    }

    async fn spent(&self, limit: &str) -> i64 {
        use super::authority::Authority;
        self.memory.standings(Some(limit), 10).await.unwrap().iter().map(|standing| standing.spent).sum()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_calls_on_a_cap_for_a_hundred_pass_a_hundred_times() {
    for processes in [1, 4] {
        for _ in 0..3 {
            let house =
                House::new(processes, &[limit("usd", Scope::Team, Unit::Usd, 100 * 70)], Duration::from_secs(20));
            assert_eq!(house.race(1_000, 70, 70).await, 100, "{processes} processes");
            assert_eq!(house.spent("usd").await, 7_000);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_levels_at_once_hold_each_by_itself() {
    let limits = [
        limit("gateway", Scope::Gateway, Unit::Requests, 180),
        limit("org", Scope::Org, Unit::Usd, 100 * 7),
        limit("team", Scope::Team, Unit::Tokens, 1_000_000),
        Limit { window: Window::Minute, ..limit("key", Scope::Key, Unit::Requests, 150) },
        limit("running", Scope::Key, Unit::Concurrent, 20),
    ];
    let house = House::new(3, &limits, Duration::from_secs(20));
    assert_eq!(house.race(600, 7, 7).await, 100);
    assert_eq!((house.spent("org").await, house.spent("gateway").await, house.spent("key").await), (700, 100, 100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_wait_get_what_others_give_back() {
    // Each reserves half of the amount and uses a hundredth of it: all fit one after the other, if those who wait are not
    // refused.
    let house = House::new(2, &[limit("usd", Scope::Team, Unit::Usd, 1_000)], Duration::from_secs(20));
    assert_eq!(house.race(50, 500, 10).await, 50);
    assert_eq!(house.spent("usd").await, 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_more_run_at_one_time_than_may() {
    let house = House::new(2, &[limit("running", Scope::Team, Unit::Concurrent, 5)], Duration::from_secs(20));
    let (running, most) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
    let mut tasks = JoinSet::new();
    for number in 0..100 {
        let (_, budget) = house.processes[number % 2].clone();
        let (running, most) = (running.clone(), most.clone());
        #[allow(clippy::disallowed_methods, reason = "a test collects its own tasks")]
        tasks.spawn(async move {
            let key = key("k");
            let reservation = budget.reserve(&payer(&key), &amounts(1), true).await.unwrap();
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            running.fetch_sub(1, Ordering::SeqCst);
            drop(reservation.settle(&amounts(1)));
        });
    }
    tasks.join_all().await;
    assert!((1..=5).contains(&most.load(Ordering::SeqCst)), "{most:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_unit_is_spendable_by_whoever_asks() {
    let house = House::new(2, &[limit("usd", Scope::Team, Unit::Usd, 100)], Duration::from_secs(20));
    let key = key("k");
    // One process holds leases and is idle; the other gets all that is not spent.
    drop(house.processes[0].1.reserve(&payer(&key), &amounts(10), true).await.unwrap());
    let all = house.processes[1].1.reserve(&payer(&key), &amounts(100), true).await.unwrap();
    let refusal = house.processes[0].1.reserve(&payer(&key), &amounts(101), true).await.unwrap_err();
    assert!(matches!(refusal, Refusal::NeverFits(_)), "{refusal:?}");
    drop(all);
    drop(house.processes[0].1.reserve(&payer(&key), &amounts(100), true).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_gives_back_at_its_end_is_free_at_once() {
    let house = House::new(1, &[limit("usd", Scope::Team, Unit::Usd, 1_000)], Duration::from_secs(20));
    let key = key("k");
    drop(house.processes[0].1.reserve(&payer(&key), &amounts(10), true).await.unwrap());
    house.processes[0].1.give_back().await;
    use super::authority::Authority;
    assert_eq!(house.memory.owners().await.unwrap(), []);
}
