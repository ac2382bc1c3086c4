//! Any order of what can happen to two processes keeps the invariant, and the sliding minute holds for any 60 seconds.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::authority::Authority;
use super::bench::{Bench, START, amounts, key, limit, payer};
use super::limit::{Limit, Scope, Unit, Window};
use super::{Budget, Reservation};
use crate::unit::charge::{Charge, WindowId};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const CAP: i64 = 100;

/// One thing that happens to one of the two processes.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Reserve(usize, i64),
    /// Settles the oldest reservation with a part of what it holds, in quarters.
    Settle(usize, i64),
    Drop(usize),
    /// The journal of the process is applied up to now.
    Apply(usize),
    /// Beats, and gives back what is recalled; then the scan.
    Tend(usize),
    /// Loses the answers of the authority for one reservation.
    Lose(usize, i64),
    Pass(i64),
}

fn deed() -> impl Strategy<Value = Deed> {
    let process = 0_usize..2;
    prop_oneof![
        5 => (process.clone(), 1_i64..60).prop_map(|(process, need)| Deed::Reserve(process, need)),
        4 => (process.clone(), 0_i64..5).prop_map(|(process, quarters)| Deed::Settle(process, quarters)),
        1 => process.clone().prop_map(Deed::Drop),
        3 => process.clone().prop_map(Deed::Apply),
        2 => process.clone().prop_map(Deed::Tend),
        1 => (process, 1_i64..60).prop_map(|(process, need)| Deed::Lose(process, need)),
        1 => (0_i64..20).prop_map(Deed::Pass),
        1 => Just(Deed::Pass(86_400)),
    ]
}

struct Process {
    name: &'static str,
    budget: Arc<Budget>,
    held: VecDeque<(Reservation, i64)>,
    journal: Vec<Charge>,
}

impl Process {
    async fn reserve(&mut self, need: i64) {
        let key = key("k");
        if let Ok(reservation) = self.budget.reserve(&payer(&key), &amounts(need), false).await {
            self.held.push_back((reservation, need));
        }
    }

    fn apply(&mut self, bench: &Bench) {
        let mark = self.budget.mark();
        bench.memory.apply(self.name, &self.journal);
        self.journal.clear();
        self.budget.applied(mark);
    }
}

async fn run(deeds: Vec<Deed>) {
    let bench = Bench::new();
    let process = |name| {
        let budget = bench.process(name, &[limit("daily", Scope::Team, Unit::Tokens, CAP)]);
        Process { name, budget, held: VecDeque::new(), journal: Vec::new() }
    };
    let mut processes = [process("a"), process("b")];
    for deed in deeds {
        match deed {
            Deed::Reserve(number, need) => processes[number].reserve(need).await,
            Deed::Settle(number, quarters) => {
                let process = &mut processes[number];
                if let Some((reservation, need)) = process.held.pop_front() {
                    process.journal.extend(reservation.settle(&amounts(need * quarters / 4)));
                }
            }
            Deed::Drop(number) => drop(processes[number].held.pop_back()),
            Deed::Apply(number) => processes[number].apply(&bench),
            Deed::Tend(number) => processes[number].budget.tend().await,
            Deed::Lose(number, need) => {
                bench.memory.lose_answers(true);
                processes[number].reserve(need).await;
                bench.memory.lose_answers(false);
                processes[number].budget.set_away(false);
            }
            Deed::Pass(seconds) => bench.pass(seconds),
        }
        check(&bench).await;
    }
    // When all is settled, applied and given back, what is not spent can be leased.
    for process in &mut processes {
        process.held.clear();
        process.apply(&bench);
    }
    for _ in 0..3 {
        bench.pass(40);
        for process in &mut processes {
            process.apply(&bench);
            process.budget.tend().await;
        }
    }
    for standing in bench.memory.standings(None, 10).await.unwrap() {
        let WindowId::Calendar { until, .. } = standing.counter.window else { panic!("a day") };
        let over = bench.micros.load(Ordering::SeqCst) >= until * 1_000_000;
        assert!(over || standing.leases.is_empty(), "{standing:?}");
    }
}

async fn check(bench: &Bench) {
    for standing in bench.memory.standings(None, 10).await.unwrap() {
        let leased: i64 = standing.leases.iter().map(|(_, lease)| lease).sum();
        assert!(standing.spent + leased <= CAP, "{standing:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_deeds_exceeds_a_cap_or_loses_what_is_unspent(deeds in prop::collection::vec(deed(), 1..60)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(deeds));
    }

    #[test]
    fn a_minute_window_never_admits_more_than_its_amount_within_any_minute(
        steps in prop::collection::vec((0_i64..9_000_000, 0_usize..2, any::<bool>()), 1..80),
    ) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(minutes(steps));
    }
}

/// Requests of two processes at any distance, each of which ends at once or runs on; tended as it happens.
async fn minutes(steps: Vec<(i64, usize, bool)>) {
    let bench = Bench::new();
    let rpm = Limit { window: Window::Minute, ..limit("rpm", Scope::Team, Unit::Requests, 5) };
    let budgets = [bench.process("a", std::slice::from_ref(&rpm)), bench.process("b", std::slice::from_ref(&rpm))];
    let (mut admitted, mut running, key) = (Vec::new(), Vec::new(), key("k"));
    for (micros, number, runs) in steps {
        let now = bench.micros.fetch_add(micros, Ordering::SeqCst) + micros;
        budgets[number].tend().await;
        budgets[1 - number].give_back().await;
        if let Ok(reservation) = budgets[number].reserve(&payer(&key), &amounts(1), false).await {
            admitted.push(now);
            if runs {
                running.push((number, reservation));
            } else {
                bench.memory.apply(["a", "b"][number], &reservation.settle(&amounts(1)));
            }
        }
        let within = admitted.iter().filter(|at| now - **at < 60_000_000).count();
        assert!(within <= 5, "{within} within a minute, {} s after the start", now / 1_000_000 - START);
        if running.len() > 3 {
            let (number, reservation) = running.remove(0);
            bench.memory.apply(["a", "b"][number], &reservation.settle(&amounts(1)));
        }
    }
}
