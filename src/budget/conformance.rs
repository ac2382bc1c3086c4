//! What every authority must do, whatever keeps its counters: one suite for memory, SQLite, PostgreSQL and Redis.
//!
//! `conformance(authority, apply)` runs it. `apply(owner, charges)` takes charges as the consumer `limits` of the journal does.
//! The suite uses the authority's own clock and waits for nothing; it makes fresh limits and owners, but it closes and tidies,
//! so it wants a database of its own.

use std::sync::Arc;
use std::time::Duration;

use super::authority::{Authority, Grant, Pace, Want};
use crate::unit::charge::{Charge, CounterId, WindowId};
use crate::unit::clock::Timestamp;
use crate::unit::id::mint;

/// The authority, and the way that charges take to it.
struct Bench<'a, F> {
    authority: &'a dyn Authority,
    apply: &'a F,
}

/// Runs every check; panics with a sentence at the first that fails.
pub(crate) async fn conformance<F>(authority: Arc<dyn Authority>, apply: F)
where
    F: AsyncFn(String, Vec<Charge>),
{
    let bench = Bench { authority: &*authority, apply: &apply };
    bench.leases_and_charges_never_pass_the_cap().await;
    bench.a_grant_shrinks_near_the_cap_and_is_never_between_nothing_and_the_need().await;
    bench.a_want_of_nothing_at_all_is_answered().await;
    bench.several_wants_are_answered_each_by_itself_and_in_order().await;
    bench.what_is_released_is_free_again_and_never_more_than_the_lease().await;
    bench.a_charge_beyond_the_lease_is_spent_all_the_same().await;
    bench.the_latest_cap_counts().await;
    bench.a_closed_owner_frees_its_leases_and_keeps_what_it_spent().await;
    bench.a_refused_need_recalls_what_others_hold().await;
    bench.a_calendar_window_must_hold_the_present().await;
    bench.charges_reach_a_window_that_is_over().await;
    bench.a_sliding_window_forgets_by_the_time_of_the_charge().await;
    bench.a_paced_window_spends_at_grant_and_flows_back_at_release().await;
    bench.what_runs_at_present_is_leased_and_never_spent().await;
    bench.an_operator_sees_and_adjusts_counters().await;
    bench.owners_are_known_by_their_leases().await;
    bench.tidying_ends_what_silent_owners_run_and_nothing_else().await;
    bench.subjects_may_hold_any_character().await;
    bench.racing_acquires_never_pass_the_cap().await;
}

fn counter(window: WindowId) -> CounterId {
    CounterId { limit: mint("lim").into(), window, subject: "somebody".into() }
}

fn want(counter: &CounterId, cap: i64, need: i64, wish: i64) -> Want {
    Want { counter: counter.clone(), cap, pace: None, need, wish, ahead: 0 }
}

fn owner() -> String {
    mint("own")
}

impl<F: AsyncFn(String, Vec<Charge>)> Bench<'_, F> {
    async fn ask(&self, owner: &str, want: Want) -> Grant {
        let answer = self.authority.acquire(owner, &[want]).await.expect("an acquire is answered");
        assert_eq!(answer.grants.len(), 1);
        answer.grants[0]
    }

    async fn acquire(&self, owner: &str, counter: &CounterId, cap: i64, need: i64) -> Grant {
        self.ask(owner, want(counter, cap, need, need)).await
    }

    /// How the counter stands, by a want of nothing.
    async fn look(&self, owner: &str, counter: &CounterId, cap: i64) -> Grant {
        let grant = self.acquire(owner, counter, cap, 0).await;
        assert_eq!(grant.granted, 0, "a want of nothing gets nothing");
        grant
    }

    async fn charge(&self, owner: &str, counter: &CounterId, amount: i64, at: Timestamp) {
        (self.apply)(owner.to_owned(), vec![Charge { counter: counter.clone(), amount, at }]).await;
    }

    async fn release(&self, owner: &str, counter: &CounterId, amount: i64) {
        self.authority.release(owner, &[(counter.clone(), amount)]).await.expect("a release is taken");
    }

    async fn now(&self) -> Timestamp {
        self.authority.beat(&owner()).await.expect("a heartbeat is answered").now
    }

    async fn recalled(&self, owner: &str, counter: &CounterId) -> bool {
        self.authority.beat(owner).await.expect("a heartbeat is answered").recalled.contains(counter)
    }

    async fn leases_and_charges_never_pass_the_cap(&self) {
        let (a, b, total) = (owner(), owner(), counter(WindowId::Total));
        assert_eq!(self.acquire(&a, &total, 100, 60).await.granted, 60);
        let refused = self.acquire(&b, &total, 100, 50).await;
        assert_eq!((refused.granted, refused.spent, refused.leased, refused.own), (0, 0, 60, 0));
        assert!(!refused.wrong_window);
        let now = self.now().await;
        self.charge(&a, &total, 25, now).await;
        let seen = self.look(&a, &total, 100).await;
        assert_eq!((seen.spent, seen.leased, seen.own), (25, 35, 35), "a charge moves its amount from lease to spent");
        assert_eq!(self.acquire(&b, &total, 100, 41).await.granted, 0, "60 of 100 are still taken");
        let last = self.acquire(&b, &total, 100, 40).await;
        assert_eq!((last.granted, last.own, last.leased), (40, 40, 75), "the last unit can be leased");
    }

    async fn a_want_of_nothing_at_all_is_answered(&self) {
        let answer = self.authority.acquire(&owner(), &[]).await.expect("an acquire is answered");
        assert!(answer.grants.is_empty() && answer.now > Timestamp(0));
    }

    async fn a_grant_shrinks_near_the_cap_and_is_never_between_nothing_and_the_need(&self) {
        let (a, total) = (owner(), counter(WindowId::Total));
        let (mut held, mut first) = (0, None);
        loop {
            let grant = self.ask(&a, want(&total, 1_000, 7, 400)).await;
            held += grant.granted;
            assert_eq!(grant.own, held);
            assert!(held <= 1_000, "{held}");
            if grant.granted == 0 {
                break;
            }
            assert!((7..=400).contains(&grant.granted), "{}", grant.granted);
            let first = *first.get_or_insert(grant.granted);
            assert!(grant.granted <= first, "leases do not grow towards the cap");
        }
        assert!(first.expect("the first is granted") < 1_000, "one process does not get all");
        assert!(1_000 - held < 7, "{held}");
        assert_eq!(self.acquire(&a, &total, 1_000, 1_000 - held).await.granted, 1_000 - held);
    }

    async fn several_wants_are_answered_each_by_itself_and_in_order(&self) {
        let (a, one, two) = (owner(), counter(WindowId::Total), counter(WindowId::Total));
        let wants = [want(&one, 5, 6, 6), want(&two, 9, 9, 9), want(&one, 5, 5, 5), want(&two, 9, 1, 1)];
        let answer = self.authority.acquire(&a, &wants).await.expect("an acquire is answered");
        assert_eq!(answer.grants.iter().map(|grant| grant.granted).collect::<Vec<_>>(), [0, 9, 5, 0]);
        let none = self.authority.acquire(&a, &[]).await.expect("no want is answered");
        assert!(none.grants.is_empty() && none.now >= answer.now);
    }

    async fn what_is_released_is_free_again_and_never_more_than_the_lease(&self) {
        let (a, b, total) = (owner(), owner(), counter(WindowId::Total));
        self.acquire(&a, &total, 10, 10).await;
        self.release(&a, &total, 4).await;
        assert_eq!(self.acquire(&b, &total, 10, 4).await.granted, 4);
        self.release(&a, &total, 1_000).await;
        let seen = self.look(&b, &total, 10).await;
        assert_eq!((seen.leased, seen.own, seen.spent), (4, 4, 0), "nobody else's lease is touched");
        self.release(&a, &counter(WindowId::Total), 5).await;
    }

    async fn a_charge_beyond_the_lease_is_spent_all_the_same(&self) {
        let (a, b, total) = (owner(), owner(), counter(WindowId::Total));
        self.acquire(&a, &total, 10, 4).await;
        self.acquire(&b, &total, 10, 6).await;
        let now = self.now().await;
        self.charge(&a, &total, 9, now).await;
        let seen = self.look(&b, &total, 10).await;
        assert_eq!((seen.spent, seen.leased, seen.own), (9, 6, 6));
        assert_eq!(self.acquire(&a, &total, 10, 1).await.granted, 0, "what is beyond the cap does not wrap");
    }

    async fn the_latest_cap_counts(&self) {
        let (a, total) = (owner(), counter(WindowId::Total));
        assert_eq!(self.acquire(&a, &total, 10, 10).await.granted, 10);
        assert_eq!(self.acquire(&a, &total, 4, 1).await.granted, 0);
        assert_eq!(self.acquire(&a, &total, 12, 2).await.granted, 2);
        assert_eq!(self.acquire(&a, &counter(WindowId::Total), 0, 1).await.granted, 0, "an amount of 0 admits nothing");
    }

    async fn a_closed_owner_frees_its_leases_and_keeps_what_it_spent(&self) {
        let (a, b, total) = (owner(), owner(), counter(WindowId::Total));
        self.acquire(&a, &total, 10, 8).await;
        self.acquire(&b, &total, 10, 2).await;
        let now = self.now().await;
        self.charge(&a, &total, 3, now).await;
        self.authority.close(&a).await.expect("an owner is closed");
        self.authority.close(&a).await.expect("closing twice is as closing once");
        let seen = self.look(&b, &total, 10).await;
        assert_eq!((seen.spent, seen.leased, seen.own), (3, 2, 2));
        assert_eq!(self.acquire(&b, &total, 10, 5).await.granted, 5);
    }

    async fn a_refused_need_recalls_what_others_hold(&self) {
        let (a, b, total, other) = (owner(), owner(), counter(WindowId::Total), counter(WindowId::Total));
        self.acquire(&a, &total, 10, 10).await;
        self.acquire(&a, &other, 10, 5).await;
        assert!(!self.recalled(&a, &total).await, "nobody was refused");
        self.acquire(&a, &total, 10, 1).await;
        assert!(!self.recalled(&a, &total).await, "an owner does not recall its own");
        self.acquire(&b, &total, 10, 1).await;
        assert!(self.recalled(&a, &total).await);
        assert!(!self.recalled(&a, &other).await, "only that counter");
        assert!(!self.recalled(&b, &total).await, "one who holds nothing has nothing to bring back");
        self.release(&a, &total, 10).await;
        assert!(!self.recalled(&a, &total).await, "it has come back");
    }

    async fn a_calendar_window_must_hold_the_present(&self) {
        let (a, now) = (owner(), self.now().await.seconds());
        let refused = [(now - 7_200, now - 3_600), (now + 3_600, now + 7_200)];
        for (from, until) in refused {
            let grant = self.acquire(&a, &counter(WindowId::Calendar { from, until }), 10, 1).await;
            assert!(grant.wrong_window && grant.granted == 0, "{from} {until}");
        }
        let present = counter(WindowId::Calendar { from: now - 3_600, until: now + 3_600 });
        let grant = self.acquire(&a, &present, 10, 1).await;
        assert!(!grant.wrong_window && grant.granted == 1);
    }

    async fn charges_reach_a_window_that_is_over(&self) {
        let (a, now) = (owner(), self.now().await);
        let over = counter(WindowId::Calendar { from: now.seconds() - 7_200, until: now.seconds() - 60 });
        self.charge(&a, &over, 5, now.minus(Duration::from_secs(100))).await;
        let standings = self.authority.standings(Some(&over.limit), 10).await.expect("standings are told");
        assert_eq!(standings.iter().map(|standing| standing.spent).collect::<Vec<_>>(), [5]);
    }

    async fn a_sliding_window_forgets_by_the_time_of_the_charge(&self) {
        let (a, minute) = (owner(), counter(WindowId::Sliding { seconds: 60 }));
        let ago = async |seconds| self.now().await.minus(Duration::from_secs(seconds));
        assert_eq!(self.acquire(&a, &minute, 10, 10).await.granted, 10);
        self.charge(&a, &minute, 3, ago(90).await).await;
        let seen = self.look(&a, &minute, 10).await;
        assert_eq!((seen.spent, seen.own), (0, 7), "it is forgotten, and its lease is used up");
        self.charge(&a, &minute, 4, ago(30).await).await;
        self.charge(&a, &minute, 3, ago(0).await).await;
        assert_eq!(self.look(&a, &minute, 10).await.spent, 7);
        let refused = self.acquire(&a, &minute, 10, 5).await;
        let wait = refused.retry_after.expect("a sliding window says when");
        assert_eq!(refused.granted, 0);
        assert!((Duration::from_secs(25)..=Duration::from_secs(32)).contains(&wait), "{wait:?}");
        assert_eq!(self.acquire(&a, &minute, 10, 3).await.granted, 3);
    }

    async fn a_paced_window_spends_at_grant_and_flows_back_at_release(&self) {
        let (a, b, paced) = (owner(), owner(), counter(WindowId::Sliding { seconds: 60 }));
        let pace = Some(Pace { burst: 3, period: Duration::from_secs(36_000) });
        let ask = async |owner: &str, need| self.ask(owner, Want { pace, ..want(&paced, 10, need, need) }).await;
        assert_eq!(ask(&a, 2).await.granted, 2);
        assert_eq!(ask(&b, 2).await.granted, 0);
        assert_eq!(ask(&b, 1).await.granted, 1);
        let refused = ask(&b, 1).await;
        let wait = refused.retry_after.expect("a paced window says when");
        assert_eq!(refused.granted, 0);
        assert!(wait > Duration::from_secs(3_500) && wait <= Duration::from_secs(3_601), "{wait:?}");
        let now = self.now().await;
        self.charge(&a, &paced, 2, now).await;
        self.release(&a, &paced, 1).await;
        assert_eq!(ask(&b, 1).await.granted, 1, "the charge is ignored, the release flows back");
        assert_eq!(ask(&b, 1).await.granted, 0);
        self.release(&b, &paced, 1_000_000).await;
        let ahead = self.ask(&b, Want { pace, ahead: 3, ..want(&paced, 10, 1, 1) }).await;
        assert_eq!(ahead.granted, 2, "one that is needed, and one ahead as half of the burst must stay");
        self.release(&b, &paced, 2).await;
        assert_eq!(ask(&a, 4).await.granted, 0, "never more than the burst");
        assert_eq!(ask(&a, 3).await.granted, 3);
    }

    async fn what_runs_at_present_is_leased_and_never_spent(&self) {
        let (a, b, running) = (owner(), owner(), counter(WindowId::Now));
        assert_eq!(self.acquire(&a, &running, 3, 3).await.granted, 3);
        assert_eq!(self.acquire(&b, &running, 3, 1).await.granted, 0);
        self.release(&a, &running, 1).await;
        let grant = self.acquire(&b, &running, 3, 1).await;
        assert_eq!((grant.granted, grant.spent, grant.leased), (1, 0, 3));
    }

    async fn an_operator_sees_and_adjusts_counters(&self) {
        let (a, total, now) = (owner(), counter(WindowId::Total), self.now().await);
        let second = CounterId { subject: "another".into(), ..total.clone() };
        self.acquire(&a, &total, 100, 30).await;
        self.acquire(&a, &second, 100, 40).await;
        self.charge(&a, &total, 10, now).await;
        self.charge(&a, &second, 20, now).await;
        let standings = self.authority.standings(Some(&total.limit), 10).await.expect("standings are told");
        assert_eq!(standings.len(), 2);
        assert_eq!((&standings[0].counter, standings[0].spent, standings[0].cap), (&second, 20, 100));
        assert_eq!((&standings[1].counter, &standings[1].leases), (&total, &vec![(a.clone(), 20)]));
        let most = self.authority.standings(Some(&total.limit), 1).await.expect("standings are told");
        assert_eq!(most.len(), 1, "no more than was asked for");
        for (delta, spent) in [(5, 15), (-3, 12), (-100, 0), (7, 7), (i64::MIN, 0)] {
            self.authority.adjust(&total, delta).await.expect("a counter is adjusted");
            assert_eq!(self.look(&a, &total, 100).await.spent, spent, "{delta}");
        }
        let minute = counter(WindowId::Sliding { seconds: 60 });
        self.charge(&a, &minute, 4, now.minus(Duration::from_secs(20))).await;
        self.charge(&a, &minute, 3, now).await;
        for (delta, spent) in [(2, 9), (-1, 8), (-5, 3), (i64::MIN, 0)] {
            self.authority.adjust(&minute, delta).await.expect("a counter is adjusted");
            assert_eq!(self.look(&a, &minute, 100).await.spent, spent, "{delta}");
        }
    }

    async fn owners_are_known_by_their_leases(&self) {
        let (a, total, before) = (owner(), counter(WindowId::Total), self.now().await);
        let heard = async |name: &str| {
            let owners = self.authority.owners().await.expect("owners are told");
            owners.into_iter().find(|(owner, _)| owner == name).map(|(_, heard)| heard)
        };
        assert_eq!(heard(&a).await, None);
        self.acquire(&a, &total, 10, 1).await;
        let first = heard(&a).await.expect("an acquire makes an owner known");
        assert!(first.plus(Duration::from_secs(1)) >= before);
        self.authority.beat(&a).await.expect("a heartbeat is answered");
        assert!(heard(&a).await.is_some_and(|second| second >= first));
        self.authority.close(&a).await.expect("an owner is closed");
        assert_eq!(heard(&a).await, None);
    }

    async fn tidying_ends_what_silent_owners_run_and_nothing_else(&self) {
        let (a, b, running, total) = (owner(), owner(), counter(WindowId::Now), counter(WindowId::Total));
        self.acquire(&a, &running, 1, 1).await;
        self.acquire(&a, &total, 10, 6).await;
        self.authority.tidy(Duration::from_secs(3_600)).await.expect("tidying works");
        assert_eq!(self.acquire(&b, &running, 1, 1).await.granted, 0, "that owner is not silent");
        self.authority.tidy(Duration::ZERO).await.expect("tidying works");
        assert_eq!(self.acquire(&b, &running, 1, 1).await.granted, 1);
        assert_eq!(self.look(&a, &total, 10).await.own, 6, "money stays with its owner");
        let now = self.now().await.seconds();
        let old = counter(WindowId::Calendar { from: now - 300_000, until: now - 90_000 });
        let recent = CounterId { window: WindowId::Calendar { from: now - 9_000, until: now - 60 }, ..old.clone() };
        self.charge(&a, &old, 1, Timestamp((now - 200_000) * 1_000_000)).await;
        self.charge(&a, &recent, 1, Timestamp((now - 200) * 1_000_000)).await;
        self.authority.tidy(Duration::from_secs(3_600)).await.expect("tidying works");
        let left = self.authority.standings(Some(&old.limit), 10).await.expect("standings are told");
        assert_eq!(left.iter().map(|standing| &standing.counter).collect::<Vec<_>>(), [&recent]);
    }

    async fn subjects_may_hold_any_character(&self) {
        let a = owner();
        for subject in ["", "a|b", "équipe \"1\"; drop table limits; --", "{x}", "a b\\c%_"] {
            let total = CounterId { subject: subject.into(), ..counter(WindowId::Total) };
            assert_eq!(self.acquire(&a, &total, 3, 2).await.granted, 2, "{subject}");
            let now = self.now().await;
            self.charge(&a, &total, 1, now).await;
            let standings = self.authority.standings(Some(&total.limit), 2).await.expect("standings are told");
            assert_eq!(standings.iter().map(|s| (&s.counter, s.spent)).collect::<Vec<_>>(), [(&total, 1)]);
        }
    }

    async fn racing_acquires_never_pass_the_cap(&self) {
        let total = counter(WindowId::Total);
        let race = async || {
            let (racer, mut held) = (owner(), 0);
            for _ in 0..40 {
                held += self.acquire(&racer, &total, 100, 1).await.granted;
            }
            held
        };
        let (a, b, c, d) = tokio::join!(race(), race(), race(), race());
        assert_eq!(a + b + c + d, 100);
    }
}
