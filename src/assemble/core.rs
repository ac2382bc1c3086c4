//! The core: what outlives every reload, and the runtime that carries what is not Pingora's.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};

use crate::admin::{self, Control};
use crate::assemble::audit::{self, Keeper};
use crate::assemble::doors::Addresses;
use crate::assemble::house::{self, House, Opened};
use crate::assemble::peers::Peers;
use crate::assemble::signals::Hangup;
use crate::assemble::standby::{self, Standby, Tokens};
use crate::assemble::watch::Absence;
use crate::assemble::{Source, banner, discovery, events, limits, live, permits, protection, signals, witnesses};
use crate::budget::Budget;
use crate::budget::authority::Authority;
use crate::budget::limit::Limit;
use crate::catalog::stored::StoredPrice;
use crate::config::Config;
use crate::config::load::Loaded;
use crate::error::StoreError;
use crate::kavach::memory::Memory;
use crate::key::Key;
use crate::key::party::Party;
use crate::key::ring::Ring;
use crate::ledger::Consumer;
use crate::ledger::feeder::{Feeder, FeederHandle, FeederSettings, Takers};
use crate::ledger::journal::{Journal, JournalSettings};
use crate::pipeline::Gateway;
use crate::pipeline::count::Counter;
use crate::provider::simulated;
use crate::route::store::{RouteStore, StoredRoute};
use crate::store::redis::Changes;
use crate::telemetry::metrics::METRICS;
use crate::telemetry::task;
use crate::unit::clock::Timestamp;

/// How long the feeder may take to empty the journal at the end. What is left then waits in the journal for the next start. With
/// what follows – two seconds for the store's connections, one for the runtime, as much for Pingora's – it stays below the 25 s
/// that operators are told to add to `server.drain_timeout_ms`.
const LAST_FEED: Duration = Duration::from_secs(18);

/// What there is from the first moment of a start: the threads of what is not Pingora's, and a watch over SIGHUP.
pub struct Start {
    runtime: Runtime,
    hangup: Hangup,
}

impl Start {
    /// Begins.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn new() -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let hangup = {
            let _inside = runtime.enter();
            Hangup::watch()
        };
        Ok(Self { runtime, hangup })
    }
}

/// What outlives every reload.
pub struct Core {
    /// The gateway.
    pub gateway: Arc<Gateway>,
    /// Where the configuration comes from.
    pub(super) source: Source,
    pub(super) simulated_address: Option<String>,
    /// The configuration that the process started with: what needs a restart is still as it says.
    pub(super) first: Loaded,
    /// The configuration in force.
    pub(super) loaded: ArcSwap<Loaded>,
    /// The stored routes in force.
    pub(super) stored: ArcSwap<Vec<StoredRoute>>,
    /// News of changes by way of Redis.
    pub(super) news: Option<Changes>,
    /// Whoever owns the counters of limits.
    pub(super) authority: Arc<dyn Authority>,
    /// The stored limits in force.
    pub(super) stored_limits: ArcSwap<Vec<Limit>>,
    /// The stored prices in force.
    pub(super) prices: ArcSwap<Vec<StoredPrice>>,
    /// The audit log, if there is to be one.
    pub(super) keeper: Option<Arc<Keeper>>,
    /// The witness of other logs, if there is to be one.
    pub(super) peers: Peers,
    /// What the gate remembers.
    pub(super) memory: Arc<Memory>,
    pub(super) house: House,
    /// The snapshot for a start without the database.
    pub(super) standby: Standby,
    /// Who may administer.
    pub(super) tokens: Arc<Tokens>,
    pub(super) ring: Arc<Ring>,
    /// Since when the store is away, as the watch over it sees it.
    pub(super) absence: Absence,
    pub(super) feeder: FeederHandle,
    pub(super) started_at: Timestamp,
    /// Held by whoever replaces what is live, so that two replacements cannot cross.
    pub(super) replacing: tokio::sync::Mutex<()>,
    /// Rung when a reload has been applied.
    pub(super) reloaded: tokio::sync::Notify,
    stop: watch::Sender<bool>,
    runtime: Mutex<Option<Runtime>>,
    feeding: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Core {
    /// Opens the data folder, reads keys and routes, and starts what is not Pingora's.
    ///
    /// # Errors
    /// What keeps the gateway from starting.
    pub fn start(
        Start { runtime, hangup }: Start,
        loaded: Loaded,
        source: Source,
        address: Option<String>,
        simulated: Option<simulated::Listener>,
    ) -> anyhow::Result<Arc<Self>> {
        let (stop, stopped) = watch::channel(false);
        let Opened { house, known, generation, living_on } = runtime.block_on(house::open_or_stand_by(&loaded))?;
        let standby = Standby::new(house.snapshot.clone(), living_on);
        let ring = Arc::new(fill_ring(&house, known.keys, known.parties, generation)?);
        let tokens = Arc::new(Tokens::new(house.store.clone(), known.admin_tokens));
        let (stored, prices, stored_limits) = (known.routes, known.prices, known.limits);
        let live = live::build(&loaded, &house.folder, &stored, &prices, None)
            .map_err(|faults| anyhow::anyhow!(faults.join("\n")))?;
        warm(&live, &loaded);
        let journal = Arc::new(open_journal(&loaded.config, house.folder.join("journal"))?);
        let limits::Counting { authority, charges, news } = {
            let _inside = runtime.enter();
            limits::counting(&house, &loaded)?
        };
        let keeper = Keeper::start(&loaded)?;
        let peers = Peers::start(&loaded, audit::origin(keeper.as_deref(), &loaded.config)?)?;
        let takers = takers(&house, keeper.clone(), (charges, authority.clone()));
        if loaded.config.budget.authority == crate::config::AuthorityConfig::Redis {
            runtime.block_on(limits::introduce(&*authority, &journal.owner()));
        }
        let feeder = Feeder::new(journal.clone(), takers, feeder_settings(&loaded.config));
        let handle = feeder.handle();
        let counter = Counter::start(journal.clone()).context("cannot start the counting thread")?;
        let budget =
            Budget::new(authority.clone(), journal.owner(), limits::settings(&loaded.config, house.store.name()));
        budget.set_limits(limits::in_force(&loaded, &stored_limits));
        let gateway = Arc::new(Gateway::new(live, ring.clone(), budget, (journal, counter)));
        protection::configure(&gateway, &loaded.config.kavach);
        let memory = memory_of(&gateway, &house);
        runtime.block_on(recall(&memory, &house, living_on)).context("cannot read sessions and habits of keys")?;
        events::begin(&gateway, &source, &loaded.config, keeper.as_deref());
        permits::note_change(&gateway.journal, "gateway", (None, &gateway.live.load().permits));
        let feeding = runtime.spawn_named("feeder", feeder.run(stopped.clone()));
        if let Some(listener) = simulated {
            runtime.spawn_named("simulated provider", listener.serve(stopped.clone()));
        }
        let core = Arc::new(Self {
            gateway,
            source,
            simulated_address: address,
            first: loaded.clone(),
            loaded: ArcSwap::from_pointee(loaded),
            stored: ArcSwap::from_pointee(stored),
            stored_limits: ArcSwap::from_pointee(stored_limits),
            news,
            authority,
            prices: ArcSwap::from_pointee(prices),
            keeper,
            peers,
            memory,
            house,
            standby,
            tokens,
            ring,
            absence: Absence::default(),
            feeder: handle,
            started_at: Timestamp::now(),
            replacing: tokio::sync::Mutex::new(()),
            reloaded: tokio::sync::Notify::new(),
            stop,
            feeding: Mutex::new(Some(feeding)),
            runtime: Mutex::new(None),
        });
        core.attend(&runtime, hangup, stopped);
        *core.runtime.lock().unwrap_or_else(PoisonError::into_inner) = Some(runtime);
        Ok(core)
    }

    /// Starts what works in the background until the end.
    fn attend(self: &Arc<Self>, runtime: &Runtime, hangup: Hangup, stopped: watch::Receiver<bool>) {
        runtime.spawn_named("reload on SIGHUP", signals::reload_on_hangup(self.clone(), hangup));
        runtime.spawn_named("limits", limits::hold(self.clone(), stopped.clone()));
        runtime.spawn_named("memory of the gate", protection::remember(self.clone(), stopped.clone()));
        runtime.spawn_named("suspensions", protection::keep_suspensions(self.clone(), stopped.clone()));
        if let Some(keeper) = self.keeper.clone() {
            if self.first.config.audit.witnesses.iter().any(|witness| witness.url.is_some()) {
                runtime.spawn_named("audit witnesses", witnesses::run(keeper.clone(), stopped.clone()));
            }
            runtime.spawn_named("audit", audit::hold(self.clone(), keeper, stopped.clone()));
        }
        runtime.spawn_named("snapshot", standby::keep(self.clone(), stopped.clone()));
        runtime.spawn_named("store watch", super::watch::watch_store(self.clone(), stopped.clone()));
        runtime.spawn_named("model discovery", discovery::keep_asking(self.clone(), stopped));
    }

    /// The configuration in force.
    pub fn config(&self) -> Config {
        self.loaded.load().config.clone()
    }

    /// What the admin side works with.
    pub fn admin_state(self: &Arc<Self>) -> admin::State {
        let store = self.house.store.clone();
        admin::State {
            keys: store.clone(),
            ring: self.ring.clone(),
            hash_key: self.house.hash_key.clone(),
            tokens: self.tokens.clone(),
            routes: store.clone(),
            limits: store.clone(),
            parties: store.clone(),
            prices: store.clone(),
            repricing: store.clone(),
            adjust: Arc::new(limits::Correcting(self.clone())),
            memory: store.clone(),
            ledger: store,
            journal: Some(self.gateway.journal.clone()),
            control: self.clone() as Arc<dyn Control>,
            prefix_style: self.loaded.load().config.keys.prefix_style,
            started_at: self.started_at,
            guesses: Arc::default(),
            turn: Arc::default(),
        }
    }

    /// Runs what needs a runtime around it, in that of the core.
    pub(super) fn entered<T>(&self, work: impl FnOnce() -> T) -> T {
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        let _inside = runtime.as_ref().map(Runtime::enter);
        work()
    }

    /// Says where the gateway is, once all of its services have told that they serve.
    pub fn announce(self: &Arc<Self>, addresses: Addresses, listening: Vec<oneshot::Receiver<()>>) {
        let banner = banner::announce(self.clone(), addresses, listening);
        self.entered(|| task::spawn("banner", banner));
    }

    /// Ends everything, in order; true if every record reached the disk.
    pub fn end(&self) -> bool {
        self.gateway.counter.stop();
        super::watch::record_the_rest(&self.gateway);
        events::note_stop(&self.gateway.journal);
        let synced = self.gateway.journal.sync();
        if let Err(error) = &synced {
            tracing::error!(%error, "the journal could not be forced to the disk");
        }
        self.stop.send_replace(true);
        let feeding = self.feeding.lock().unwrap_or_else(PoisonError::into_inner).take();
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(runtime), Some(feeding)) = (runtime, feeding) {
            // At the same time, or a database that hangs would be waited for twice.
            let last = async { tokio::join!(tokio::time::timeout(LAST_FEED, feeding), protection::write_last(self)) };
            let (fed, ()) = runtime.block_on(last);
            if fed.is_err() {
                tracing::warn!("the database did not take every record; the rest waits in the journal");
            }
            if let Some(keeper) = &self.keeper {
                keeper.finish();
            }
            runtime.block_on(self.house.store.close());
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
        tracing::info!("stopped");
        synced.is_ok()
    }

    /// Reads the stored routes again and puts those in force that can be served.
    ///
    /// # Errors
    /// When they cannot be read; those in force stay.
    pub(super) async fn take_routes(&self) -> crate::error::Result<()> {
        let _alone = self.replacing.lock().await;
        let stored = RouteStore::list(&*self.house.store).await?;
        if **self.stored.load() == stored {
            return Ok(());
        }
        let built = live::with_routes(&self.loaded.load(), &stored, &self.gateway.live.load());
        let live =
            built.map_err(|faults| crate::error::Error::new(crate::error::Kind::InvalidRequest, faults.join(" ")))?;
        self.gateway.live.store(Arc::new(live));
        self.stored.store(Arc::new(stored));
        Ok(())
    }
}

impl Core {
    /// Reads the stored prices again and puts them in force.
    ///
    /// # Errors
    /// When they cannot be read, or make no sense; those in force stay.
    pub(super) async fn take_prices(&self) -> crate::error::Result<()> {
        let _alone = self.replacing.lock().await;
        let prices = self.house.store.prices().await?;
        if **self.prices.load() == prices {
            return Ok(());
        }
        let built = live::with_prices(&self.loaded.load(), &self.stored.load(), &prices, &self.gateway.live.load());
        let live =
            built.map_err(|faults| crate::error::Error::new(crate::error::Kind::InvalidRequest, faults.join(" ")))?;
        self.gateway.live.store(Arc::new(live));
        self.prices.store(Arc::new(prices));
        Ok(())
    }
}

/// Decodes the built-in list of prices before the first call, if any provider is priced by it.
fn warm(live: &crate::pipeline::Live, loaded: &Loaded) {
    // Decoding the built-in list takes memory; a process that never asks it does without.
    let listed = |provider: &crate::provider::config::ProviderSettings| {
        provider.enabled
            && provider.price_provider.as_deref().is_some_and(|list| list != crate::config::demo::SIMULATED)
    };
    if loaded.providers.iter().any(listed) {
        live.catalog.warm();
    }
}

/// The ring of keys as they were at that generation; without one the database cannot say whether a key that is not in it exists.
///
/// # Errors
/// When suspensions that the database does not have yet cannot be looked for.
fn fill_ring(house: &House, keys: Vec<Arc<Key>>, parties: Vec<Party>, generation: Option<u64>) -> anyhow::Result<Ring> {
    let ring = Ring::new((*house.hash_key).clone());
    house.keep_suspensions(&ring)?;
    ring.replace_all(keys, generation);
    ring.parties().replace_all(parties);
    ring.set_stale(generation.is_none());
    METRICS.keys.set(i64::try_from(ring.len()).unwrap_or(i64::MAX));
    Ok(ring)
}

/// The threads of what is not Pingora's.
fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(8)
        .thread_name("core")
        .enable_all()
        .build()
        .context("cannot start the core runtime")
}

/// Who takes the journal's lines: the request log, whoever counts what limits bound, and the audit log.
fn takers(
    house: &House,
    keeper: Option<Arc<Keeper>>,
    (charges, authority): (Vec<Arc<dyn Consumer>>, Arc<dyn Authority>),
) -> Takers {
    let entries = keeper.map(|keeper| Arc::new(audit::Feed(keeper)) as Arc<dyn Consumer>);
    Takers {
        ledger: house.store.clone(),
        consumers: charges.into_iter().chain(entries).collect(),
        owner_end: Some(Arc::new(limits::Closing(authority))),
    }
}

/// What the gate remembers; nothing yet.
fn memory_of(gateway: &Gateway, house: &House) -> Arc<Memory> {
    let habits = (gateway.sessions.clone(), gateway.drift.clone());
    Arc::new(Memory::new(house.store.clone(), habits, gateway.journal.owner().as_str().into()))
}

/// Reads what processes before this one left of sessions and keys, unless the process lives on its snapshot.
async fn recall(memory: &Memory, house: &House, living_on: Option<Timestamp>) -> Result<(), StoreError> {
    if living_on.is_some() {
        return Ok(());
    }
    // The generation first: a word that comes between is then taken twice, never missed.
    let generation = house.store.generation().await?;
    memory.load(generation, Timestamp::now()).await
}

/// Opens the journal in the data folder.
///
/// # Errors
/// When it cannot be opened.
pub fn open_journal(config: &Config, folder: PathBuf) -> anyhow::Result<Journal> {
    let journal = Journal::open(&folder, journal_settings(config));
    let journal = journal.map_err(|error| anyhow::anyhow!("{}", error.text()))?;
    journal.set_strict(config.ledger.strict_sync);
    Ok(journal)
}

pub(super) fn journal_settings(config: &Config) -> JournalSettings {
    JournalSettings { segment_bytes: config.ledger.journal_segment_bytes, max_bytes: config.ledger.journal_max_bytes }
}

pub(super) fn feeder_settings(config: &Config) -> FeederSettings {
    let days = config.ledger.retention_days;
    FeederSettings {
        batch_rows: config.ledger.batch_rows,
        batch_delay: Duration::from_millis(config.ledger.batch_delay_ms),
        sync_interval: Duration::from_millis(config.ledger.sync_interval_ms),
        retention: (days > 0).then(|| Duration::from_secs(u64::from(days) * 86_400)),
    }
}

trait SpawnNamed {
    fn spawn_named<F: Future<Output = ()> + Send + 'static>(
        &self,
        name: &'static str,
        task: F,
    ) -> tokio::task::JoinHandle<()>;
}

impl SpawnNamed for Runtime {
    fn spawn_named<F: Future<Output = ()> + Send + 'static>(
        &self,
        name: &'static str,
        task: F,
    ) -> tokio::task::JoinHandle<()> {
        let _entered = self.enter();
        task::spawn(name, task)
    }
}
