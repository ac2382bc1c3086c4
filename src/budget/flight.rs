//! What is said to the authority: wants of all waiters in one call at a time, and what goes back.
//!
//! A caller that is short puts its want into the queue; one flight at a time takes all that wait there. The flight runs by
//! itself, so that a caller who leaves, or whose time is up, loses no answer. An authority that does not answer in time counts
//! as away: from then on nobody waits for it, until an answer or a heartbeat comes.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::account::{Account, Period};
use super::authority::{Answer, Want};
use super::lease::{self, Need, Rest};
use super::settings::{ANSWER_GIVEN_UP, ASK_AGAIN, BATCH, CONTENDED, REFUSED_FOR, SETTLED_AFTER, WhenAway};
use super::time::span;
use super::{Amounts, Budget, Payer, Refusal, Refused, Reservation, Short, ShortRow, window};
use crate::error::StoreError;
use crate::telemetry::metrics::METRICS;
use crate::telemetry::task;
use crate::unit::clock::Timestamp;

/// The queue to the authority.
#[derive(Default)]
pub(super) struct Flights {
    queue: Mutex<Queue>,
    /// Held by whoever talks to the authority about leases, so that what it says is heard in order.
    pub(super) talk: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Queue {
    asks: HashMap<usize, Ask>,
    batch: Arc<Batch>,
    flying: bool,
    /// Counters whose free part is to go back.
    back: Vec<(Arc<Period>, Arc<Account>)>,
}

/// What waiters want of one counter.
struct Ask {
    account: Arc<Account>,
    period: Arc<Period>,
    /// What the least of them needs; nobody waits for a refill ahead.
    least: Option<i64>,
    /// What all of them need.
    all: i64,
}

/// One flight, for those who wait for it.
#[derive(Default)]
struct Batch {
    state: AtomicU8,
    ended: Notify,
}

/// How often a caller asks again at once, because others took what was granted.
const TRIES: u32 = 16;

const ANSWERED: u8 = 1;
const FAILED: u8 = 2;

/// How the authority took a question.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Answered,
    Away,
}

impl Batch {
    fn end(&self, state: u8) {
        self.state.store(state, Ordering::SeqCst);
        self.ended.notify_waiters();
    }

    async fn wait(&self) -> Asked {
        loop {
            let mut ended = pin!(self.ended.notified());
            ended.as_mut().enable();
            match self.state.load(Ordering::SeqCst) {
                0 => ended.await,
                ANSWERED => return Asked::Answered,
                _ => return Asked::Away,
            }
        }
    }
}

impl Flights {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a refill ahead into the queue.
    pub(super) fn refill(&self, account: &Arc<Account>, period: &Arc<Period>) {
        self.queue().add(account, period, None);
    }

    /// Notes counters whose free part is to go back.
    pub(super) fn give_back(&self, counters: impl Iterator<Item = (Arc<Period>, Arc<Account>)>) {
        self.queue().back.extend(counters);
    }

    /// The counters whose free part is to go back.
    pub(super) fn to_give_back(&self) -> Vec<(Arc<Period>, Arc<Account>)> {
        std::mem::take(&mut self.queue().back)
    }
}

impl Queue {
    fn add(&mut self, account: &Arc<Account>, period: &Arc<Period>, missing: Option<i64>) {
        let fresh = || Ask { account: account.clone(), period: period.clone(), least: None, all: 0 };
        let ask = self.asks.entry(Arc::as_ptr(period) as usize).or_insert_with(fresh);
        ask.least = [ask.least, missing].into_iter().flatten().min();
        ask.all = ask.all.saturating_add(missing.unwrap_or(0));
    }
}

impl Budget {
    /// Reserves like [`Budget::reserve_now`]; where leases do not suffice it asks the authority, and where only calls in flight
    /// or other processes hold what is missing, and `wait` is set, it waits for `BudgetSettings::wait` at most.
    ///
    /// # Errors
    /// A [`Refusal`] that names the limit.
    ///
    /// # Cost
    /// A round trip to the authority, shared with all who wait at the same time; none while the authority is away, or while it
    /// is known that everything is spent.
    pub async fn reserve(
        self: &Arc<Self>,
        payer: &Payer<'_>,
        need: &Amounts,
        wait: bool,
    ) -> Result<Reservation, Refusal> {
        self.reserve_rest(payer, need, &[], wait).await
    }

    /// The same, where some counters are to hold no more than so much, whatever the call may need: for what may exceed a limit by
    /// the operator's choice. All others hold the whole need.
    ///
    /// # Errors
    /// A [`Refusal`] that names the limit.
    pub async fn reserve_rest(
        self: &Arc<Self>,
        payer: &Payer<'_>,
        need: &Amounts,
        rests: &[Rest],
        wait: bool,
    ) -> Result<Reservation, Refusal> {
        let need = Need { amounts: need, rests };
        match self.try_now(payer, need) {
            Ok(reservation) => Ok(reservation),
            Err(short) => match self.reserve_short(payer, need, (short, wait)).await {
                Ok(reservation) => Ok(reservation),
                Err(refusal) => Err(self.refuse(refusal)),
            },
        }
    }

    async fn reserve_short(
        self: &Arc<Self>,
        payer: &Payer<'_>,
        need: Need<'_>,
        (mut short, wait): (Short, bool),
    ) -> Result<Reservation, Refusal> {
        let mut deadline = pin!(sleep(if wait { self.settings.load().wait } else { Duration::ZERO }));
        let (mut waiter, mut tries) = (None, 0);
        loop {
            self.known_refusal(&short)?;
            if self.ask(&short.0.rows).await == Asked::Away {
                return self.without_authority(payer, need, &short);
            }
            let mut again = pin!(sleep(ASK_AGAIN));
            // Until it is time to ask again, what is given back here may do.
            loop {
                let Some(account) = short.0.rows.first().map(|row| row.account.clone()) else { break };
                let mut freed = pin!(account.freed.notified());
                freed.as_mut().enable();
                let _listening = Listening::to(&account);
                match self.try_now(payer, need) {
                    Ok(reservation) => {
                        self.count_wait(waiter.is_some(), "admitted");
                        return Ok(reservation);
                    }
                    Err(next) => short = next,
                }
                self.spent_refusal(&short)?;
                // Something was granted, but others took it, or it was sized for somebody who needs less.
                if self.may_ask_again(&short) && tries < TRIES {
                    tries += 1;
                    break;
                }
                if !wait {
                    return Err(self.held_refusal(&short));
                }
                if waiter.is_none() {
                    waiter = Some(Waiting::enter(self).ok_or_else(|| self.held_refusal(&short))?);
                }
                tokio::select! {
                    () = &mut freed => {}
                    () = &mut again => break,
                    () = &mut deadline => {
                        self.count_wait(true, "refused");
                        return Err(self.held_refusal(&short));
                    }
                }
            }
        }
    }

    /// Whether the authority has just given something wherever there is too little.
    fn may_ask_again(&self, short: &Short) -> bool {
        let micros = self.clock.micros();
        short.0.rows.iter().all(|row| !row.period.is_refused(micros))
    }

    fn count_wait(&self, waited: bool, result: &str) {
        if waited {
            METRICS.limit_waits.with_label_values(&[result]).inc();
        }
    }

    fn without_authority(
        self: &Arc<Self>,
        payer: &Payer<'_>,
        need: Need<'_>,
        short: &Short,
    ) -> Result<Reservation, Refusal> {
        match (self.settings.load().when_away, short.0.rows.first()) {
            // It is there, and says no: that is not for `when_away` to decide.
            (_, Some(row)) if self.is_outdated() => Err(Refusal::Outdated(Box::new(self.refused_row(row)))),
            (WhenAway::Admit, _) => self.admit(payer, need),
            (WhenAway::Refuse, Some(row)) => Err(Refusal::Away(Box::new(self.refused_row(row)))),
            (WhenAway::Refuse, None) => Err(Refusal::Crowded),
        }
    }

    /// A refusal that asking would not change: for ever, or as the authority said a moment ago.
    fn known_refusal(&self, short: &Short) -> Result<(), Refusal> {
        if let Some(refusal) = &short.0.final_refusal {
            return Err(refusal.clone());
        }
        let micros = self.clock.micros();
        let known = short.0.rows.iter().find(|row| row.period.is_refused(micros) && row.is_spent(micros));
        known.map_or(Ok(()), |row| Err(Refusal::Limit(Box::new(self.refused_row(row)))))
    }

    /// A refusal because of what is spent, which waiting does not change.
    fn spent_refusal(&self, short: &Short) -> Result<(), Refusal> {
        if let Some(refusal) = &short.0.final_refusal {
            return Err(refusal.clone());
        }
        let micros = self.clock.micros();
        let spent = short.0.rows.iter().find(|row| row.is_spent(micros));
        spent.map_or(Ok(()), |row| Err(Refusal::Limit(Box::new(self.refused_row(row)))))
    }

    /// A refusal because of what others hold.
    fn held_refusal(&self, short: &Short) -> Refusal {
        match (&short.0.final_refusal, short.0.rows.first()) {
            (Some(refusal), _) => refusal.clone(),
            (None, Some(row)) => Refusal::Limit(Box::new(self.refused_row(row))),
            (None, None) => Refusal::Crowded,
        }
    }

    fn refused_row(&self, row: &ShortRow) -> Refused {
        self.refused(&row.account, &row.period, row.need)
    }

    /// How a counter stands, for one whom it refuses.
    pub(super) fn refused(&self, account: &Account, period: &Period, need: i64) -> Refused {
        let limit = account.line.limit();
        let micros = self.clock.micros();
        let now = self.clock.early(micros);
        let (amount, spent) = (account.line.most(), account.spent(period, micros));
        // What is paced was spent when it was granted.
        let held = if account.line.paced { 0 } else { period.reserved() };
        let reserved = held.saturating_add(period.elsewhere());
        let left = amount.saturating_sub(spent);
        let resets_at = window::resets_at(period.window).or(period.retry_at().filter(|at| *at > now));
        let until_reset = resets_at.map(|at| super::time::duration(at.micros() - now.micros()));
        let retry_after = if need <= left { Some(Duration::from_secs(1)) } else { until_reset };
        Refused {
            limit: limit.id.clone(),
            name: limit.name.clone(),
            scope: limit.scope,
            subject: account.subject.clone(),
            unit: limit.unit,
            window: limit.window.clone(),
            amount,
            need,
            spent,
            reserved,
            remaining: left.saturating_sub(reserved).max(0),
            resets_at,
            retry_after,
        }
    }

    /// Puts wants into the queue and waits for the flight that carries them.
    async fn ask(self: &Arc<Self>, rows: &[ShortRow]) -> Asked {
        if self.away.load(Ordering::Relaxed) || self.is_outdated() {
            return Asked::Away;
        }
        let batch = {
            let mut queue = self.flights.queue();
            for row in rows {
                let missing = row.need.saturating_sub(row.period.free()).max(1);
                queue.add(&row.account, &row.period, Some(missing));
            }
            queue.batch.clone()
        };
        self.start_flight();
        match timeout(self.settings.load().authority_timeout, batch.wait()).await {
            Ok(asked) => asked,
            Err(_) => {
                self.set_away(true);
                Asked::Away
            }
        }
    }

    /// Lets a flight go if something waits and none is on its way.
    pub(super) fn start_flight(self: &Arc<Self>) {
        let mut queue = self.flights.queue();
        if queue.flying || queue.asks.is_empty() {
            return;
        }
        queue.flying = true;
        drop(queue);
        let budget = self.clone();
        task::spawn("limits-authority", async move {
            let landing = Landing(&budget.flights);
            while let Some((asks, batch)) = budget.board() {
                let state = if budget.fly(asks).await { ANSWERED } else { FAILED };
                batch.end(state);
            }
            std::mem::forget(landing);
        });
    }

    /// Takes what waits, or ends the flights.
    fn board(&self) -> Option<(Vec<Ask>, Arc<Batch>)> {
        let mut queue = self.flights.queue();
        if queue.asks.is_empty() {
            queue.flying = false;
            return None;
        }
        let asks = std::mem::take(&mut queue.asks).into_values().collect();
        Some((asks, std::mem::take(&mut queue.batch)))
    }

    async fn fly(&self, asks: Vec<Ask>) -> bool {
        let _talk = self.flights.talk.lock().await;
        let mut answered = true;
        for asks in asks.chunks(BATCH) {
            let wants: Vec<Want> = asks.iter().map(|ask| self.want(ask)).collect();
            let asked = self.clock.micros();
            match self.acquire(&wants).await {
                Some(answer) => asks.iter().zip(&answer.grants).for_each(|(ask, grant)| {
                    self.take_grant(ask, grant, (asked, answer.now));
                }),
                None => {
                    answered = false;
                    let ripe = self.clock.micros().saturating_add(span(SETTLED_AFTER));
                    for ask in asks {
                        ask.period.doubt(ripe);
                        ask.period.answered();
                    }
                }
            }
        }
        answered
    }

    fn want(&self, ask: &Ask) -> Want {
        let (account, period) = (&ask.account, &ask.period);
        let contended = period.is_contended(self.clock.micros());
        let (pace, need) = (account.line.pace(), ask.least.unwrap_or(1));
        let (wish, ahead) = match pace {
            Some(pace) => {
                account.expire(period, self.clock.micros());
                (ask.all.min(pace.burst).max(need), lease::ahead(pace.burst, account.average(), period.free()))
            }
            None => (lease::wish(ask.all.max(need), account.average(), period.free(), contended), 0),
        };
        Want { counter: account.counter(period), cap: account.line.amount(), pace, need, wish, ahead }
    }

    fn take_grant(&self, ask: &Ask, grant: &super::authority::Grant, (asked, now): (i64, Timestamp)) {
        let (account, period) = (&ask.account, &ask.period);
        period.answered();
        if grant.wrong_window {
            return;
        }
        account.granted(period, (grant, ask.all), (asked, self.clock.micros()), now);
        if grant.granted > 0 {
            self.holding.store(true, Ordering::Relaxed);
        } else {
            let hold = grant.retry_after.unwrap_or(REFUSED_FOR).min(REFUSED_FOR);
            period.refused(self.clock.micros().saturating_add(span(hold)));
        }
        if account.line.warns() {
            self.tell_thresholds(account, period);
        }
        account.wake();
    }

    /// One round trip; `None` if it failed, and may have taken effect all the same.
    pub(super) async fn acquire(&self, wants: &[Want]) -> Option<Answer> {
        let asked = self.clock.micros();
        let answer = match timeout(ANSWER_GIVEN_UP, self.authority.acquire(&self.owner, wants)).await {
            Ok(Ok(answer)) if answer.grants.len() == wants.len() => Some(answer),
            Ok(Ok(_)) => None,
            Ok(Err(error @ StoreError::Outdated { found, .. })) => {
                if self.outdated.swap(found, Ordering::Relaxed) == 0 {
                    tracing::error!(%error, "this process gets no leases any more; calls under limits are refused");
                }
                return None;
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the authority over limits did not lease");
                None
            }
            Err(_) => None,
        };
        if let Some(answer) = &answer {
            self.clock.learn(answer.now, asked);
        }
        self.heard("acquire", answer.is_some());
        answer
    }

    /// Gives back parts of leases; never repeated. They are taken off the accounts while nobody else talks to the authority,
    /// so that no answer counts them still. What was given back without an answer is not taken again: the authority may have given
    /// it to another process by then. Once it answers, what it still holds for this process is found.
    pub(super) async fn release(&self, parts: impl FnOnce() -> Vec<(Arc<Period>, Arc<Account>, i64)>) {
        let _talk = self.flights.talk.lock().await;
        let parts = parts();
        for parts in parts.chunks(BATCH) {
            let amounts: Vec<_> =
                parts.iter().map(|(period, account, amount)| (account.counter(period), *amount)).collect();
            let released = timeout(ANSWER_GIVEN_UP, self.authority.release(&self.owner, &amounts)).await;
            let done = match released {
                Ok(Ok(())) => true,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the authority over limits did not take back");
                    false
                }
                Err(_) => false,
            };
            self.heard("release", done);
            if !done {
                let ripe = self.clock.micros().saturating_add(span(SETTLED_AFTER));
                parts.iter().for_each(|(period, ..)| period.doubt(ripe));
            }
        }
    }

    /// Counts a round trip and notes whether the authority is there.
    pub(super) fn heard(&self, call: &str, answered: bool) {
        METRICS.authority_calls.with_label_values(&[call, if answered { "answered" } else { "failed" }]).inc();
        if !answered {
            tracing::debug!(call, "the authority over limits did not answer");
        }
        self.set_away(!answered);
    }

    pub(super) fn set_away(&self, away: bool) {
        if self.away.swap(away, Ordering::Relaxed) == away {
            return;
        }
        METRICS.authority_away.set(i64::from(away));
        if away {
            tracing::warn!("the authority over limits is away; calls live on leases until it is back");
        } else {
            tracing::info!("the authority over limits is back");
            self.doubt_all();
        }
    }

    /// For an operator: marks a counter as asked for elsewhere, so that its lease covers only what calls need.
    pub(super) fn contend(&self, period: &Period) {
        period.contend(self.clock.micros().saturating_add(span(CONTENDED)));
        self.contended.store(true, Ordering::Relaxed);
    }
}

impl ShortRow {
    /// Whether what is spent alone leaves too little.
    fn is_spent(&self, micros: i64) -> bool {
        let spent = || self.account.spent(&self.period, micros);
        self.period.is_told() && spent().saturating_add(self.need) > self.account.line.most()
    }
}

/// Ends the flights if one breaks, so that the next may go.
struct Landing<'a>(&'a Flights);

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.flying = false;
        std::mem::take(&mut queue.batch).end(FAILED);
    }
}

/// One who listens for what becomes free on an account.
struct Listening<'a>(&'a Account);

impl<'a> Listening<'a> {
    fn to(account: &'a Account) -> Self {
        account.waiting.fetch_add(1, Ordering::SeqCst);
        Self(account)
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One who waits; there is a bound on how many may.
struct Waiting<'a>(&'a Budget);

impl<'a> Waiting<'a> {
    fn enter(budget: &'a Budget) -> Option<Self> {
        let waiting = budget.waiting.fetch_add(1, Ordering::Relaxed);
        let entered = Self(budget);
        (waiting < budget.settings.load().max_waiting).then_some(entered)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
