//! One exchange in order; where the nouns meet.
//!
//! Each file is a verb or what a verb works on: an exchange **arrives**, is **identified**, **understood** and **planned**;
//! attempts are made and **weighed**; the answer is **relayed**; and every exchange, whatever its end, is **settled** once.
//! `proxy` calls these verbs from Pingora's phases and knows nothing of keys, routes or money; nothing here knows Pingora.

pub mod answer;
pub mod arrive;
pub mod attempt;
pub mod attest;
pub mod commit;
pub mod context;
pub mod count;
mod estimate;
pub mod exchange;
mod fit;
pub mod identify;
#[cfg(test)]
mod invoices;
pub mod judge;
pub mod label;
pub mod leave;
pub mod local;
pub mod owed;
pub mod papers;
pub mod recall;
pub mod relay;
mod reserve;
pub mod settle;
pub mod understand;
pub mod unfinished;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::sync::Semaphore;

use crate::budget::{Budget, UnseenInput};
use crate::catalog::prices::Catalog;
use crate::kavach::Gate;
use crate::kavach::config::{DriftConfig, SessionConfig};
use crate::kavach::drift::Drift;
use crate::kavach::drift::geo::Places;
use crate::kavach::permits::Permits;
use crate::kavach::session::Sessions;
use crate::key::party::RequestCaps;
use crate::key::ring::Ring;
use crate::ledger::journal::Journal;
use crate::pipeline::attest::AuditGate;
use crate::pipeline::commit::ContentPolicy;
use crate::pipeline::context::Contexts;
use crate::pipeline::count::Counter;
use crate::pipeline::unfinished::Unfinished;
use crate::provider::Provider;
use crate::route::Table;
use crate::telemetry::metrics::METRICS;

/// The most large bodies that are read at one time; the others wait in line.
const LARGE_BODIES: usize = 2;

/// What every exchange shares for as long as the process runs.
pub struct Gateway {
    /// What a reload replaces as a whole; an exchange keeps the one that it began with.
    pub live: ArcSwap<Live>,
    /// The application keys.
    pub ring: Arc<Ring>,
    /// What may be spent.
    pub budget: Arc<Budget>,
    /// What belongs together.
    pub sessions: Arc<Sessions>,
    /// What is usual for each key.
    pub drift: Arc<Drift>,
    /// Where records go first.
    pub journal: Arc<Journal>,
    /// Counts tokens where no provider did.
    pub counter: Counter,
    /// How many tokens stored answers have.
    pub contexts: Contexts,
    /// What was charged for answers that are still being made.
    pub unfinished: Unfinished,
    /// What exchanges must know of the audit log.
    pub audit: AuditGate,
    /// Set once, when the process is to end: nothing new is taken.
    pub draining: AtomicBool,
    /// Places for reading large bodies: callers with none are served on the other cores meanwhile.
    large_bodies: Semaphore,
    cut_off: AtomicBool,
    in_flight: AtomicUsize,
    buffered: AtomicUsize,
}

/// What a reload replaces as a whole.
pub struct Live {
    /// Bounds and switches of the data plane.
    pub settings: Settings,
    /// The providers by name, disabled ones included.
    pub providers: HashMap<Arc<str>, Arc<Provider>>,
    /// Where calls go.
    pub table: Table,
    /// What they cost.
    pub catalog: Arc<Catalog>,
    /// What may be done.
    pub gate: Arc<Gate>,
    /// Where addresses are, if the operator gives a database.
    pub places: Option<Arc<Places>>,
    /// What puts permits on paper.
    pub permits: Arc<Permits>,
}

/// Bounds and switches of the data plane, as the configuration's `server` section has them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Networks whose `x-forwarded-for` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The largest request body.
    pub max_body_bytes: usize,
    /// The largest request head.
    pub max_header_bytes: usize,
    /// The most exchanges at one time.
    pub max_exchanges: usize,
    /// The most request-body bytes in memory at one time.
    pub max_buffered_bytes: usize,
    /// The time between two pieces of a request body.
    pub body_idle_timeout: Duration,
    /// The time for a whole request body.
    pub body_timeout: Duration,
    /// The time for a whole request head.
    pub header_timeout: Duration,
    /// How long an idle connection is kept.
    pub keepalive: Duration,
    /// How long one write to a caller may take.
    pub write_timeout: Duration,
    /// Whether `x-marg-provider` is honoured.
    pub provider_header: bool,
    /// The ceiling on output tokens that a provider is told where the caller names none, no cap applies, and a limit does.
    pub default_max_output_tokens: u64,
    /// What happens to a call whose model may read more, outside the body, than a whole limit has.
    pub unseen_input: UnseenInput,
    /// Whether calls that run are cut when their key is revoked, deleted, disabled or suspended.
    pub cut_running: bool,
    /// Caps on single requests where neither the key nor its org, team or user has any.
    pub default_caps: RequestCaps,
    /// What the audit log is told of prompts and answers.
    pub content: ContentPolicy,
}

impl Settings {
    /// Whether an address is that of a proxy whose word is believed.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }
}

impl Gateway {
    /// A gateway that takes exchanges at once.
    pub fn new(live: Live, ring: Arc<Ring>, budget: Arc<Budget>, records: (Arc<Journal>, Counter)) -> Self {
        let (journal, counter) = records;
        Self {
            live: ArcSwap::from_pointee(live),
            ring,
            budget,
            sessions: Arc::new(Sessions::new(SessionConfig::default())),
            drift: Arc::new(Drift::new(DriftConfig::default())),
            journal,
            counter,
            contexts: Contexts::default(),
            unfinished: Unfinished::default(),
            audit: AuditGate::default(),
            draining: AtomicBool::new(false),
            large_bodies: Semaphore::new(LARGE_BODIES),
            cut_off: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            buffered: AtomicUsize::new(0),
        }
    }

    /// Exchanges now running.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Stops taking exchanges.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Cuts off whatever still runs: from now on a broken connection is this gateway's doing.
    pub fn cut_off(&self) {
        self.cut_off.store(true, Ordering::Release);
    }

    /// Whether the process is about to end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        METRICS.in_flight.inc();
        InFlight(self.clone())
    }

    /// A place to account for request-body bytes; empty at first.
    pub fn hold(self: &Arc<Self>) -> Held {
        Held { gateway: self.clone(), bytes: 0 }
    }
}

/// Counts an exchange as running until dropped.
struct InFlight(Arc<Gateway>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
        METRICS.in_flight.dec();
    }
}

/// Room for request-body bytes, given back when dropped.
pub struct Held {
    gateway: Arc<Gateway>,
    bytes: usize,
}

impl Held {
    /// Takes more room; false when that is more than the whole process may hold. Either way dropping gives all of it back.
    pub fn grow(&mut self, bytes: usize, most: usize) -> bool {
        let before = self.gateway.buffered.fetch_add(bytes, Ordering::AcqRel);
        self.bytes += bytes;
        METRICS.buffered_bytes.add(i64::try_from(bytes).unwrap_or(i64::MAX));
        before.saturating_add(bytes) <= most
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gateway.buffered.fetch_sub(self.bytes, Ordering::AcqRel);
        METRICS.buffered_bytes.sub(i64::try_from(self.bytes).unwrap_or(i64::MAX));
    }
}
