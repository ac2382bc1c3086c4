//! What may be spent: limits, reservations, leases, settlement.
//!
//! A limit is a row; each of its counters (one a subject and window) is owned by an *authority*: the database, or Redis. For
//! every counter `spent + Σ leases ≤ cap` holds there. A process admits from leases on those counters, in memory, on all rows
//! that apply or on none, without I/O; near the cap a lease shrinks to what one call needs, and what is idle elsewhere is called
//! back, so that the last unit can be spent. What an exchange used becomes charges in its record, which travel through the
//! journal, so exactly once: a crash loses nothing and counts nothing twice.
//!
//! - `limit`, `check`, `store`: the rows, what they must be, where they are kept. `window`: spans of time. `table`, `line`: the
//!   rows in force and which apply. `account`, `lease`, `reservation`: the accounts of this process and what calls hold.
//! - `authority`, `counter`, `memory`: who owns counters, their arithmetic, and one in memory. `conformance` is the suite that
//!   every authority passes; `model` explores the protocol with crashes, lost and late messages; `races` and `properties` drive
//!   [`Budget`] itself.
//! - A caller that is short only of what calls in flight or other processes hold waits, within a bound; one that is short of
//!   what is spent is refused at once. If the authority is away, leases carry on, then calls are refused with 503.
//! - Exact to the unit, except for what a provider counts beyond a reservation: that is charged, and told in a metric.

mod account;
pub mod authority;
#[cfg(test)]
mod bench;
pub mod check;
#[cfg(test)]
pub(crate) mod conformance;
pub mod counter;
pub mod draft;
mod event;
mod flight;
pub mod lease;
pub mod limit;
mod line;
pub mod memory;
#[cfg(test)]
mod model;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod questions;
#[cfg(test)]
mod races;
mod refusal;
mod reservation;
mod settings;
mod shelf;
pub mod store;
mod table;
mod tend;
#[cfg(test)]
mod tests;
mod time;
mod view;
pub mod window;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, broadcast};

use account::{Account, Period};
use authority::Authority;
pub use event::BudgetEvent;
use lease::Need;
pub use lease::{Amounts, Rest};
use limit::{Limit, Scope, Unit};
use line::{Full, Line};
pub use refusal::{Refusal, Refused, scope_word, unit_word};
use reservation::{Part, Registry};
pub use reservation::{Reservation, ReservedRow};
pub use settings::{BudgetSettings, HEARTBEAT, UnseenInput, WhenAway};
pub use table::Payer;
use table::Table;
use time::Clock;
pub use view::{Downgrade, LiveCounter, Rate, Rates};

use crate::telemetry::metrics::METRICS;
use crate::unit::charge::Charge;
use crate::unit::clock::Timestamp;

/// Takes the charges of reservations that nobody ended, so that they reach the journal.
type OnExpired = Box<dyn Fn(u64, Vec<Charge>) + Send + Sync>;

/// The limits in force and this process's leases on their counters.
pub struct Budget {
    authority: Arc<dyn Authority>,
    owner: Arc<str>,
    settings: ArcSwap<BudgetSettings>,
    house: ArcSwap<House>,
    /// Limits that are no longer in force, as long as something is leased on them; also the lock of those who change the house.
    retired: Mutex<Vec<Arc<Line>>>,
    /// Counters whose calendar window is over.
    past: Mutex<Vec<(Arc<Account>, Arc<Period>)>>,
    faces: Vec<RwLock<HashMap<Arc<str>, Arc<Face>>>>,
    registry: Registry,
    clock: Clock,
    flights: flight::Flights,
    events: broadcast::Sender<BudgetEvent>,
    on_expired: OnceLock<OnExpired>,
    /// Asks the background for a refill.
    refill: Notify,
    /// The authority did not answer, and has not since.
    away: AtomicBool,
    /// The rules by which newer processes lease; 0 while nobody does.
    outdated: AtomicI64,
    /// Whether anything is leased.
    holding: AtomicBool,
    /// Whether anything leased is contended.
    contended: AtomicBool,
    accounts: AtomicUsize,
    waiting: AtomicUsize,
    /// All charges that were settled before this reading have been applied.
    applied: AtomicI64,
}

/// The table of limits and its number.
#[derive(Default)]
struct House {
    generation: u64,
    table: Table,
}

/// The accounts that a key pays with, whatever it asks for.
struct Face {
    generation: u64,
    principal: crate::key::Principal,
    labels: std::collections::BTreeMap<String, String>,
    accounts: Box<[(Arc<Account>, Arc<Limit>)]>,
    used: AtomicI64,
}

/// Whether limits apply to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    /// None does.
    No,
    /// Some do, whatever the length of its answer.
    Yes,
    /// Some do, among them one in dollars, output tokens or tokens: the length of the answer matters.
    ByOutput,
}

/// Why a call cannot be admitted from leases alone.
#[derive(Debug)]
pub struct Short(Box<Shortage>);

struct Shortage {
    /// Waiting does not help.
    final_refusal: Option<Refusal>,
    /// Where there is too little.
    rows: Vec<ShortRow>,
}

struct ShortRow {
    account: Arc<Account>,
    period: Arc<Period>,
    need: i64,
}

impl std::fmt::Debug for Shortage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "short of {} rows, {:?}", self.rows.len(), self.final_refusal)
    }
}

/// A reading of this process's clock; see [`Budget::applied`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(i64);

/// How many locks share the faces.
const FACE_SHARDS: usize = 16;
/// How many events wait for a slow listener before it misses some.
const EVENTS: usize = 1_024;

impl Budget {
    /// Holds limits for one life of one process. `owner` is the name that its journal segments begin with. There are no limits
    /// yet; [`Budget::run`] must run beside it.
    pub fn new(authority: Arc<dyn Authority>, owner: String, settings: BudgetSettings) -> Arc<Self> {
        Self::with_clock(authority, owner, settings, Clock::system())
    }

    fn with_clock(authority: Arc<dyn Authority>, owner: String, settings: BudgetSettings, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            authority,
            owner: owner.into(),
            settings: ArcSwap::from_pointee(settings),
            house: ArcSwap::default(),
            retired: Mutex::default(),
            past: Mutex::default(),
            faces: (0..FACE_SHARDS).map(|_| RwLock::default()).collect(),
            registry: Registry::new(),
            clock,
            flights: flight::Flights::default(),
            events: broadcast::channel(EVENTS).0,
            on_expired: OnceLock::new(),
            refill: Notify::new(),
            away: AtomicBool::new(false),
            outdated: AtomicI64::new(0),
            holding: AtomicBool::new(false),
            contended: AtomicBool::new(false),
            accounts: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            applied: AtomicI64::new(0),
        })
    }

    /// Takes other settings; they hold for the next call.
    pub fn configure(&self, settings: BudgetSettings) {
        self.settings.store(Arc::new(settings));
    }

    /// Who takes the charges of reservations that expired, to write them to the journal; called once at the start. Without it
    /// they count as taken until the process ends.
    pub fn on_expired(&self, take: impl Fn(u64, Vec<Charge>) + Send + Sync + 'static) {
        if self.on_expired.set(Box::new(take)).is_err() {
            tracing::warn!("somebody takes the charges of expired reservations already; it stays so");
        }
    }

    /// Puts limits in force, all at once. Those that are switched off, and those whose time zone is not known, are left out.
    /// Counters keep their leases where only the amount, the action, the models, the thresholds or the name of a limit change;
    /// where an amount is lowered, what is free goes back, so that the new amount holds at once. Costs no I/O; time is linear in
    /// the number of limits.
    pub fn set_limits(&self, limits: Vec<Limit>) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let house = self.house.load_full();
        let mut lines = Vec::with_capacity(limits.len());
        let mut lowered = Vec::new();
        for limit in limits.into_iter().filter(|limit| limit.enabled) {
            match house.table.line(&limit.id).filter(|line| line.fits(&limit)) {
                Some(line) => {
                    if line.change(limit) {
                        lowered.push(line.clone());
                    }
                    lines.push(line.clone());
                }
                None => lines.extend(Line::new(limit).map(Arc::new)),
            }
        }
        let table = Table::new(lines);
        let gone = house.table.lines().filter(|line| table.line(&line.id).is_none_or(|new| !Arc::ptr_eq(line, new)));
        retired.extend(gone.cloned());
        self.house.store(Arc::new(House { generation: house.generation + 1, table }));
        for line in lowered {
            line.all().iter().for_each(|account| account.last_period().lower());
            self.flights.give_back(line.all().into_iter().map(|account| (account.last_period(), account)));
        }
        self.refill.notify_one();
    }

    /// Whether there are any limits.
    pub fn has_limits(&self) -> bool {
        !self.house.load().table.is_empty()
    }

    /// Whether whoever owns the counters did not answer when it was asked last. Calls live on leases meanwhile.
    pub fn is_away(&self) -> bool {
        self.away.load(Relaxed)
    }

    /// Whether a newer version of the program leases from the same counters, so that this process gets no leases any more. It stays
    /// so until it is started anew.
    pub fn is_outdated(&self) -> bool {
        self.outdated.load(Relaxed) > 0
    }

    /// Whether any limit applies to that payer, and whether the length of its answer matters there. Costs a lookup.
    pub fn limited(&self, payer: &Payer<'_>) -> Limited {
        let house = self.house.load();
        if house.table.is_empty() {
            return Limited::No;
        }
        let counts = |part: &Part| matches!(part.account.line.unit, Unit::Usd | Unit::OutputTokens | Unit::Tokens);
        match self.parts(&house, payer, None, self.clock.micros()) {
            Ok(parts) if parts.is_empty() => Limited::No,
            Ok(parts) if parts.iter().any(counts) => Limited::ByOutput,
            // Where there is no room for another counter, the reservation says so.
            _ => Limited::Yes,
        }
    }

    /// Whether a call may pass of which nobody sees what it runs: not under a limit in dollars or tokens that refuses, be it for
    /// other models than the one that the call names. Costs a lookup; not for every call.
    ///
    /// # Errors
    /// [`Refusal::Unseen`] with the first such limit; [`Refusal::Crowded`].
    pub fn admits_unseen(&self, payer: &Payer<'_>) -> Result<(), Refusal> {
        let house = self.house.load();
        let mut rows: Vec<(Arc<Line>, Arc<str>)> = Vec::new();
        let mut add = |line: &Arc<Line>, subject: &str| {
            if line.unit.is_metered() && line.refuses() {
                rows.push((line.clone(), subject.into()));
            }
        };
        house.table.of_key(payer.key, &mut |row, subject| add(&row.line, subject));
        let session = payer.session.map(|session| format!("{}/{session}", payer.key.id));
        let own = payer.tags.iter().map(|tag| (Scope::Tag, &**tag));
        for (scope, subject) in own.chain(session.iter().map(|session| (Scope::Session, session.as_str()))) {
            house.table.of(scope, subject, &mut |row, subject| add(&row.line, subject));
        }
        let of_models = house.table.lines().filter(|line| line.scope == Scope::Model);
        of_models.for_each(|line| add(line, line.limit().subject.as_deref().unwrap_or_default()));
        // Always the same one of several.
        let Some((line, subject)) = rows.into_iter().min_by(|one, other| one.0.id.cmp(&other.0.id)) else {
            return Ok(());
        };
        let micros = self.clock.micros();
        let account = self.account(&line, &subject, self.clock.early(micros), micros);
        let account = account.map_err(|Full| self.refuse(Refusal::Crowded))?;
        let refused = self.refused(&account, &account.last_period(), 0);
        Err(self.refuse(Refusal::Unseen(Box::new(refused))))
    }

    /// Reserves on all rows that apply, or on none, from leases alone: no I/O, no lock held across rows.
    ///
    /// # Errors
    /// [`Short`] when a lease does not cover the need; [`Budget::reserve`] then asks the authority.
    pub fn reserve_now(self: &Arc<Self>, payer: &Payer<'_>, need: &Amounts) -> Result<Reservation, Short> {
        self.try_now(payer, need.into())
    }

    fn try_now(self: &Arc<Self>, payer: &Payer<'_>, need: Need<'_>) -> Result<Reservation, Short> {
        let house = self.house.load();
        if house.table.is_empty() {
            return Ok(Reservation::none());
        }
        let micros = self.clock.micros();
        let mut parts = match self.parts(&house, payer, Some(need), micros) {
            Ok(parts) => parts,
            Err(Full) => return Err(Short::because(Refusal::Crowded)),
        };
        if parts.is_empty() {
            return Ok(Reservation::none());
        }
        if let Some(refusal) = self.never(&parts, need.amounts) {
            return Err(Short::because(refusal));
        }
        let rows = take(&mut parts, micros);
        if !rows.is_empty() {
            parts.iter_mut().for_each(|part| part.put_back(micros));
            self.return_owed(&parts);
            return Err(Short(Box::new(Shortage { final_refusal: None, rows })));
        }
        for part in &parts {
            part.account.touch(part.need, micros);
            if part.leased && part.period.wants_refill() {
                self.flights.refill(&part.account, &part.period);
                self.refill.notify_one();
            }
        }
        Ok(Reservation::new(self.clone(), parts, micros))
    }

    /// Admits without leases where they do not suffice, because the operator chose so for when the authority is away.
    fn admit(self: &Arc<Self>, payer: &Payer<'_>, need: Need<'_>) -> Result<Reservation, Refusal> {
        let (house, micros) = (self.house.load(), self.clock.micros());
        let mut parts = self.parts(&house, payer, Some(need), micros).map_err(|Full| Refusal::Crowded)?;
        take(&mut parts, micros);
        Ok(Reservation::new(self.clone(), parts, micros))
    }

    /// What a payer's call has to take, row by row.
    fn parts(&self, house: &House, payer: &Payer<'_>, need: Option<Need<'_>>, micros: i64) -> Result<Vec<Part>, Full> {
        let now = self.clock.early(micros);
        let face = self.face(house, payer, micros)?;
        let mut parts = Vec::with_capacity(face.accounts.len() + 2);
        let mut add = |account: &Arc<Account>| {
            let need = need.map_or(0, |need| need.of(account.line.unit, &account.line.id, &account.subject));
            parts.push(Part::new(account.clone(), self.period(account, now), need));
        };
        for (account, limit) in &face.accounts {
            if Line::takes_model(limit, payer.model) {
                add(account);
            }
        }
        let mut full = None;
        let mut own = Vec::new();
        extras(&house.table, payer, &mut |line, subject| match self.account(line, subject, now, micros) {
            Ok(account) => own.push(account),
            Err(error) => full = Some(error),
        });
        if let Some(full) = full {
            return Err(full);
        }
        for (number, account) in own.iter().enumerate() {
            let same = |other: &Arc<Account>| Arc::ptr_eq(other, account);
            // A tag may be a label of the key as well, and may be sent twice.
            if !face.accounts.iter().any(|(other, _)| same(other)) && !own.iter().take(number).any(same) {
                add(account);
            }
        }
        Ok(parts)
    }

    /// The counter of an account now. One whose window is over is kept until what is free of it has gone back.
    fn period(&self, account: &Arc<Account>, now: Timestamp) -> Arc<Period> {
        let (period, past) = account.period(now);
        if let Some(past) = past.filter(|past| past.lease() != 0) {
            self.past.lock().unwrap_or_else(PoisonError::into_inner).push((account.clone(), past));
        }
        period
    }

    fn account(&self, line: &Arc<Line>, subject: &str, now: Timestamp, micros: i64) -> Result<Arc<Account>, Full> {
        line.account(subject, (now, micros), (&self.accounts, self.settings.load().max_counters))
    }

    /// The accounts of a key whatever it asks for, from the cache if its limits, parties and labels are the same as then.
    fn face(&self, house: &House, payer: &Payer<'_>, micros: i64) -> Result<Arc<Face>, Full> {
        let key = payer.key;
        let number = key.id.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let shard = self.faces.get(number % FACE_SHARDS).ok_or(Full)?;
        let labels = house.table.has(Scope::Tag);
        {
            let faces = shard.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(face) = faces.get(&key.id)
                && face.generation == house.generation
                && face.principal == key.principal
                && (!labels || face.labels == key.labels)
            {
                face.used.store(micros, Relaxed);
                return Ok(face.clone());
            }
        }
        let now = self.clock.early(micros);
        let (mut accounts, mut full) = (Vec::new(), None);
        house.table.of_key(key, &mut |row, subject| match self.account(&row.line, subject, now, micros) {
            Ok(account) => accounts.push((account, row.limit.clone())),
            Err(error) => full = Some(error),
        });
        if let Some(full) = full {
            return Err(full);
        }
        let face = Arc::new(Face {
            generation: house.generation,
            principal: key.principal.clone(),
            labels: if labels { key.labels.clone() } else { Default::default() },
            accounts: accounts.into(),
            used: AtomicI64::new(micros),
        });
        let mut faces = shard.write().unwrap_or_else(PoisonError::into_inner);
        if faces.len() >= self.settings.load().max_counters / FACE_SHARDS {
            faces.clear();
        }
        faces.insert(key.id.clone(), face.clone());
        Ok(face)
    }

    /// A refusal that neither an answer nor waiting changes.
    fn never(&self, parts: &[Part], need: &Amounts) -> Option<Refusal> {
        parts.iter().filter(|part| part.leased).find_map(|part| {
            let refused = || Box::new(self.refused(&part.account, &part.period, part.need));
            if part.account.line.unit == Unit::Usd && need.usd.is_none() {
                Some(Refusal::Unpriced(refused()))
            } else if part.need > part.account.line.most() {
                Some(Refusal::NeverFits(refused()))
            } else {
                None
            }
        })
    }

    /// Lets what may no longer be spent here go back: amounts were lowered while it was held.
    fn return_owed(&self, parts: &[Part]) {
        let owing = parts.iter().filter(|part| part.period.owes());
        let counters: Vec<_> = owing.map(|part| (part.period.clone(), part.account.clone())).collect();
        if !counters.is_empty() {
            self.flights.give_back(counters.into_iter());
            self.refill.notify_one();
        }
    }

    /// Looks whether what a reservation did calls for anything.
    fn notice(&self, parts: &[Part], micros: i64) {
        self.return_owed(parts);
        for part in parts {
            if part.account.line.warns() {
                self.tell_thresholds(&part.account, &part.period);
            }
            if part.leased && part.period.is_contended(micros) && part.period.free() > 0 {
                self.contended.store(true, Relaxed);
            }
        }
    }

    /// A reading of this process's clock, for [`Budget::applied`].
    pub fn mark(&self) -> Mark {
        Mark(self.clock.micros())
    }

    /// Says that every charge that was in the journal at that mark has been applied by the authority. It lets the process find
    /// what an authority leased in answers that were lost, and give it back; without it that waits for the end of the process.
    pub fn applied(&self, mark: Mark) {
        self.applied.fetch_max(mark.0, Relaxed);
    }

    /// What happens to limits, once each: for webhooks. A listener that is more than 1,024 events late misses some.
    pub fn events(&self) -> broadcast::Receiver<BudgetEvent> {
        self.events.subscribe()
    }

    fn refuse(&self, refusal: Refusal) -> Refusal {
        let (scope, unit) =
            refusal.limit().map_or(("none", "none"), |row| (scope_word(row.scope), unit_word(row.unit)));
        METRICS.limit_refusals.with_label_values(&[scope, unit, refusal.word()]).inc();
        refusal
    }
}

impl Short {
    fn because(refusal: Refusal) -> Self {
        Self(Box::new(Shortage { final_refusal: Some(refusal), rows: Vec::new() }))
    }
}

/// Takes what each part needs where there is enough; gives the rows where there is not.
fn take(parts: &mut [Part], micros: i64) -> Vec<ShortRow> {
    let mut rows = Vec::new();
    for part in parts.iter_mut().filter(|part| part.leased) {
        if part.account.take(&part.period, part.need, micros) {
            part.reserved = part.need;
        } else {
            rows.push(ShortRow { account: part.account.clone(), period: part.period.clone(), need: part.need });
        }
    }
    rows
}

/// The rows that depend on what a call asks for: its model, tags and session.
fn extras(table: &Table, payer: &Payer<'_>, found: &mut impl FnMut(&Arc<Line>, &str)) {
    let mut of = |scope, subject: &str| {
        table.of(scope, subject, &mut |row, subject| {
            if Line::takes_model(&row.limit, payer.model) {
                found(&row.line, subject);
            }
        });
    };
    if let Some(model) = payer.model.filter(|_| table.has(Scope::Model)) {
        of(Scope::Model, model);
    }
    if table.has(Scope::Tag) {
        payer.tags.iter().for_each(|tag| of(Scope::Tag, tag));
    }
    if let Some(session) = payer.session.filter(|_| table.has(Scope::Session)) {
        of(Scope::Session, &format!("{}/{session}", payer.key.id));
    }
}
