//! A model check of the lease protocol: every order of calls, answers, losses, crashes and clocks, up to a bound.
//!
//! The authority is the real [`Counter`], sizes of leases and settlement are the real functions of `lease`. Nodes acquire,
//! release, admit, settle and crash; a message may take effect and lose its answer, take effect late, or never arrive; an acquire
//! may take effect twice. A charge is in the journal before the node's account moves. The journal is applied in order, exactly
//! once for each line, at any later time, also after the crash; only then is the dead owner closed. A node may believe in the
//! wrong window.
//!
//! Properties: spent and leased never exceed the cap; what was answered never exceeds it; a node never holds more than the
//! authority thinks; and wherever nothing is under way, all that is not spent can be leased.

use stateright::{Checker, Model, Property};

use super::authority::Want;
use super::counter::{Counter, holds};
use super::lease::{leak, settlement, wish};
use crate::unit::charge::{CounterId, WindowId};
use crate::unit::clock::Timestamp;

const CAP: i64 = 4;
/// What a call reserves, and what it may use.
const NEED: i64 = 2;
const USES: [i64; 2] = [1, 2];
/// The two windows that a run may see.
const WINDOWS: [WindowId; 2] = [WindowId::Calendar { from: 0, until: 10 }, WindowId::Calendar { from: 10, until: 20 }];
const OWNERS: [&str; 6] = ["a0", "b0", "c0", "a1", "b1", "c1"];

/// A life of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Node {
    /// Its second life, after a crash.
    reborn: bool,
    /// The window that it believes in.
    window: usize,
    lease: i64,
    free: i64,
    /// Calls in flight, by what they hold.
    held: u8,
    /// A call that is in the journal, but not yet settled here.
    settling: Option<i64>,
    /// Charges of this life in the journal that are not applied: window and amount.
    journal: Vec<(usize, i64)>,
    /// The journal of the life before, until it has been applied and its leases closed.
    dead: Option<Vec<(usize, i64)>>,
    /// The authority may hold more for it than it knows.
    doubt: bool,
}

/// A message that takes effect late: an acquire or a release that its sender has given up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Late {
    Acquire { owner: usize, window: usize },
    Release { owner: usize, window: usize, amount: i64 },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// Whether the authority's clock is in the second window.
    second: bool,
    counters: [Counter; 2],
    nodes: Vec<Node>,
    late: Vec<Late>,
    /// What was answered to callers, by window.
    answered: [i64; 2],
    /// Losses, duplicates and crashes so far.
    troubles: u8,
}

/// How a message fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fate {
    Fine,
    /// It takes effect, but the answer is lost.
    AnswerLost,
    /// It takes effect twice; the first answer is lost.
    Twice,
    /// It is given up, and takes effect later or never.
    Late,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Action {
    Acquire(usize, Fate),
    Release(usize, Fate),
    Admit(usize),
    Journal(usize, i64),
    Settle(usize),
    Drop(usize),
    Apply(usize),
    ApplyDead(usize),
    Crash(usize),
    Reconcile(usize),
    Roll(usize),
    Midnight,
    Arrive(usize),
    Vanish(usize),
}

struct Protocol {
    nodes: usize,
    /// How many losses, duplicates and crashes there may be.
    troubles: u8,
}

fn owner(node: usize, reborn: bool) -> &'static str {
    OWNERS[node + if reborn { 3 } else { 0 }]
}

fn want(window: usize, need: i64, wish: i64) -> Want {
    let counter = CounterId { limit: "l".into(), window: WINDOWS[window], subject: "s".into() };
    Want { counter, cap: CAP, pace: None, need, wish, ahead: 0 }
}

impl State {
    fn now(&self) -> Timestamp {
        Timestamp(if self.second { 10_000_000 } else { 0 })
    }

    fn acquire(&mut self, owner: &str, window: usize, want: &Want) -> super::authority::Grant {
        let now = self.now();
        // Who was asked for is a matter of heartbeats, which the nodes here do not need: they may release at any time.
        let grant = self.counters[window].acquire(owner, want, now);
        self.counters[window].forget_wanted();
        grant
    }

    /// Nothing is under way, and every life that ended has been closed.
    fn is_quiet(&self) -> bool {
        let quiet = |node: &Node| {
            node.held == 0
                && node.settling.is_none()
                && node.journal.is_empty()
                && node.dead.is_none()
                && node.lease == 0
                && !node.doubt
                && node.window == usize::from(self.second)
        };
        self.late.is_empty() && self.nodes.iter().all(quiet)
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let nodes = vec![Node::default(); self.nodes];
        let (counters, late) = (Default::default(), Vec::new());
        vec![State { second: false, counters, nodes, late, answered: [0, 0], troubles: 0 }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let trouble = state.troubles < self.troubles;
        if !state.second {
            actions.push(Action::Midnight);
        }
        for late in 0..state.late.len() {
            actions.extend([Action::Arrive(late), Action::Vanish(late)]);
        }
        for (number, node) in state.nodes.iter().enumerate() {
            let fates = |action: fn(usize, Fate) -> Action, trouble: &[Fate]| {
                let all = [Fate::Fine].into_iter().chain(trouble.iter().copied());
                all.map(move |fate| action(number, fate)).collect::<Vec<_>>()
            };
            let troubles = |fates: &'static [Fate]| if trouble { fates } else { &[] };
            if node.free < NEED {
                actions.extend(fates(Action::Acquire, troubles(&[Fate::AnswerLost, Fate::Twice, Fate::Late])));
            }
            if node.free > 0 {
                actions.extend(fates(Action::Release, troubles(&[Fate::AnswerLost, Fate::Late])));
            }
            if node.free >= NEED && node.held < 2 {
                actions.push(Action::Admit(number));
            }
            if node.held > 0 && node.settling.is_none() {
                actions.extend(USES.map(|used| Action::Journal(number, used)));
                actions.push(Action::Drop(number));
            }
            if node.settling.is_some() {
                actions.push(Action::Settle(number));
            }
            if !node.journal.is_empty() {
                actions.push(Action::Apply(number));
            }
            if node.dead.is_some() {
                actions.push(Action::ApplyDead(number));
            }
            if trouble && !node.reborn {
                actions.push(Action::Crash(number));
            }
            // As `Budget::reconcile`: when all is applied, and nothing that was given up can take effect any more.
            if node.doubt && node.journal.is_empty() && node.settling.is_none() && state.late.is_empty() {
                actions.push(Action::Reconcile(number));
            }
            // A node finds out late that its window is over, or believes so early.
            if node.window == 0 && node.held == 0 && node.settling.is_none() {
                actions.push(Action::Roll(number));
            }
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Midnight => state.second = true,
            Action::Acquire(number, fate) => acquire(&mut state, number, fate),
            Action::Release(number, fate) => release(&mut state, number, fate),
            Action::Arrive(late) => match state.late.remove(late) {
                Late::Acquire { owner, window } => {
                    state.acquire(OWNERS[owner], window, &want(window, NEED, NEED));
                }
                Late::Release { owner, window, amount } => state.counters[window].release(OWNERS[owner], amount),
            },
            Action::Vanish(late) => {
                state.late.remove(late);
            }
            Action::Reconcile(number) => reconcile(&mut state, number),
            Action::ApplyDead(number) => {
                let node = &mut state.nodes[number];
                if node.dead.as_ref().is_some_and(Vec::is_empty) {
                    node.dead = None;
                    // The authority closes an owner on all its counters. What it gave up is over when the next life begins.
                    state.counters.iter_mut().for_each(|counter| counter.close(owner(number, false)));
                } else if let Some((window, amount)) = node.dead.as_mut().map(|dead| dead.remove(0)) {
                    state.counters[window].charge(owner(number, false), WINDOWS[window], amount, Timestamp(0));
                }
            }
            other => step(&mut state, &other),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("spent and leased never exceed the cap", |_, state| {
                let all = |(window, counter): (usize, &Counter)| {
                    counter.spent(WINDOWS[window], Timestamp(0)) + counter.leased() <= CAP
                };
                state.counters.iter().enumerate().all(all)
            }),
            Property::<Self>::always("what was answered never exceeds the cap", |_, state| {
                state.answered.iter().all(|answered| *answered <= CAP)
            }),
            Property::<Self>::always("no node holds more than the authority counts", |_, state| {
                state.nodes.iter().enumerate().all(|(number, node)| {
                    let on_way: i64 =
                        node.journal.iter().filter(|(window, _)| *window == node.window).map(|c| c.1).sum();
                    let counted = state.counters[node.window].lease(owner(number, node.reborn));
                    // What is in the journal and not settled here is counted in both.
                    node.lease + on_way - node.settling.unwrap_or(0) <= counted
                })
            }),
            Property::<Self>::always("where nothing is under way all that is unspent can be leased", |_, state| {
                let window = usize::from(state.second);
                let counter = &state.counters[window];
                let taken = counter.spent(WINDOWS[window], state.now()) + counter.leased();
                !state.is_quiet() || taken == state.answered[window]
            }),
            Property::<Self>::sometimes("all of it is spent", |_, state| state.answered[0] == CAP),
            Property::<Self>::sometimes("a node crashes with spending in its journal", |_, state| {
                state.nodes.iter().any(|node| node.dead.as_ref().is_some_and(|dead| !dead.is_empty()))
            }),
        ]
    }
}

fn acquire(state: &mut State, number: usize, fate: Fate) {
    let node = state.nodes[number].clone();
    let name = owner(number, node.reborn);
    let missing = NEED - node.free;
    let asked = want(node.window, missing, wish(missing, 0, node.free, true));
    state.troubles += u8::from(fate != Fate::Fine);
    if fate == Fate::Late {
        state.late.push(Late::Acquire { owner: number + if node.reborn { 3 } else { 0 }, window: node.window });
        state.nodes[number].doubt = true;
        return;
    }
    let mut grant = state.acquire(name, node.window, &asked);
    if fate == Fate::Twice {
        grant = state.acquire(name, node.window, &asked);
    }
    let node = &mut state.nodes[number];
    node.doubt |= fate != Fate::Fine;
    if fate != Fate::AnswerLost {
        node.lease += grant.granted;
        node.free += grant.granted;
    }
}

fn release(state: &mut State, number: usize, fate: Fate) {
    let node = &mut state.nodes[number];
    let amount = std::mem::take(&mut node.free);
    node.lease -= amount;
    node.doubt |= fate != Fate::Fine;
    state.troubles += u8::from(fate != Fate::Fine);
    let (life, window) = (number + if node.reborn { 3 } else { 0 }, node.window);
    if fate == Fate::Late {
        state.late.push(Late::Release { owner: life, window, amount });
    } else {
        state.counters[window].release(OWNERS[life], amount);
    }
}

fn reconcile(state: &mut State, number: usize) {
    let (window, name) = (state.nodes[number].window, owner(number, state.nodes[number].reborn));
    let grant = state.acquire(name, window, &want(window, 0, 0));
    let node = &mut state.nodes[number];
    let leak = leak(grant.own, node.lease);
    node.doubt = false;
    if leak > 0 {
        state.counters[window].release(name, leak);
    } else {
        node.lease += leak;
        node.free += leak;
    }
}

/// What a node does by itself.
fn step(state: &mut State, action: &Action) {
    match *action {
        Action::Admit(number) => {
            let node = &mut state.nodes[number];
            node.free -= NEED;
            node.held += 1;
        }
        Action::Journal(number, used) => {
            let node = &mut state.nodes[number];
            node.journal.push((node.window, used));
            node.settling = Some(used);
            state.answered[node.window] += used;
        }
        Action::Settle(number) => {
            let node = &mut state.nodes[number];
            let outcome = settlement(NEED, node.settling.take());
            node.held -= 1;
            node.lease -= outcome.consumed;
            node.free += outcome.freed;
        }
        Action::Drop(number) => {
            let node = &mut state.nodes[number];
            node.held -= 1;
            node.free += settlement(NEED, None).freed;
        }
        Action::Apply(number) => {
            let (window, amount) = state.nodes[number].journal.remove(0);
            let name = owner(number, state.nodes[number].reborn);
            state.counters[window].charge(name, WINDOWS[window], amount, Timestamp(0));
        }
        Action::Crash(number) => {
            let node = &mut state.nodes[number];
            let window = usize::from(state.second);
            let dead = Some(std::mem::take(&mut node.journal));
            *node = Node { reborn: true, window, dead, ..Node::default() };
            // What it had sent dies with its connections before its leases are closed.
            state.late.retain(
                |late| !matches!(late, Late::Acquire { owner, .. } | Late::Release { owner, .. } if *owner == number),
            );
            state.troubles += 1;
        }
        Action::Roll(number) => {
            let node = &mut state.nodes[number];
            node.window = 1;
            // What is left of the window that is over goes back; it matters to nobody any more.
            (node.lease, node.free, node.doubt) = (0, 0, false);
        }
        _ => {}
    }
    debug_assert!(WINDOWS.iter().any(|window| holds(*window, state.now())));
}

fn explore(protocol: Protocol, depth: usize) -> usize {
    let nodes = protocol.nodes;
    let checker = protocol.checker().threads(2).target_max_depth(depth).spawn_bfs().join();
    checker.assert_properties();
    println!("{nodes} nodes, depth {depth}: {} states explored", checker.unique_state_count());
    checker.unique_state_count()
}

#[test]
fn two_nodes_with_two_troubles_never_overspend_and_lose_nothing() {
    assert!(explore(Protocol { nodes: 2, troubles: 2 }, 13) > 1_000);
}

#[test]
fn three_nodes_with_a_trouble_never_overspend_and_lose_nothing() {
    assert!(explore(Protocol { nodes: 3, troubles: 1 }, 10) > 1_000);
}
