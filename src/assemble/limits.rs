//! The limits in force – those of the configuration file and those in the store – and how their counters stand.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use tokio::sync::watch;

use crate::assemble::core::Core;
use crate::assemble::house::House;
use crate::assemble::webhook;
use crate::budget::BudgetSettings;
use crate::budget::authority::{Authority, Standing};
use crate::budget::limit::{Limit, Unit};
use crate::budget::store::LimitStore;
use crate::config::load::Loaded;
use crate::config::{self, AuthorityConfig, Config, RedisConfig, RedisModeConfig, RedisSecrets};
use crate::error::{Error, Kind, Result, StoreError};
use crate::ledger::feeder::OwnerEnd;
use crate::ledger::reprice::Adjust;
use crate::ledger::{Consumer, Line};
use crate::store::redis::{Changes, Redis, RedisCounters, RedisMode, RedisSettings};
use crate::unit::charge::CounterId;

/// The most counters that one reset may touch; more are reset one subject at a time.
const MAX_RESET: usize = 100_000;
/// How long a call waits for a file that owns the counters: it cannot be away, only busy with another process's write.
const FILE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call waits for a server that owns the counters beyond what a connection may take (`database.connect_timeout_ms`);
/// after that leases carry on until it answers again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the budget is told how far the journal has been applied.
const APPLIED_EVERY: Duration = Duration::from_secs(5);
/// How long a start waits for the owner of the counters, which may have to be filled first, and how often it asks.
const INTRODUCE_FOR: Duration = Duration::from_secs(4);
const INTRODUCE_EVERY: Duration = Duration::from_millis(20);
/// How long pricing again waits for records that are on their way into the database.
const FLUSH_FOR: Duration = Duration::from_secs(10);
/// How often counters are tidied.
const TIDY_EVERY: Duration = Duration::from_secs(30);
/// After which silence what a process had running at one time counts as ended.
const SILENT: Duration = Duration::from_secs(60);

impl Core {
    /// Reads the stored limits again and puts them in force, with those of the configuration file before them.
    ///
    /// # Errors
    /// When they cannot be read; those in force stay.
    pub(super) async fn take_limits(&self) -> Result<()> {
        let _alone = self.replacing.lock().await;
        let stored = LimitStore::list(&*self.house.store).await?;
        self.stored_limits.store(Arc::new(stored));
        self.apply_limits();
        Ok(())
    }

    /// Puts the limits that are known in force. Costs no I/O.
    pub(super) fn apply_limits(&self) {
        self.gateway.budget.set_limits(in_force(&self.loaded.load(), &self.stored_limits.load()));
    }
}

/// The limits of the configuration file, and behind them the stored ones.
pub fn in_force(loaded: &Loaded, stored: &[Limit]) -> Vec<Limit> {
    loaded.config.limits.iter().chain(stored).cloned().collect()
}

/// How limits are held, as the configuration says; `store` is the name of the database's kind.
pub fn settings(config: &Config, store: &str) -> BudgetSettings {
    BudgetSettings {
        wait: Duration::from_millis(config.budget.wait_ms),
        when_away: config.budget.when_away,
        authority_timeout: match config.budget.authority {
            AuthorityConfig::Store if store == "sqlite" => FILE_TIMEOUT,
            AuthorityConfig::Store => Duration::from_millis(config.database.connect_timeout_ms) + ANSWER_TIMEOUT,
            AuthorityConfig::Redis => Duration::from_millis(config.redis.request_timeout_ms),
        },
        ..BudgetSettings::default()
    }
}

/// Whoever owns the counters, in all its parts.
pub struct Counting {
    /// Leases out.
    pub authority: Arc<dyn Authority>,
    /// Charges in: to the authority, and to the database, from which an authority that loses its memory is rebuilt.
    pub charges: Vec<Arc<dyn Consumer>>,
    /// News of changes by way of Redis, if there is one.
    pub news: Option<Changes>,
}

/// Finds whoever owns the counters. Needs a runtime where that is Redis.
///
/// # Errors
/// When Redis cannot be reached as it is written.
pub fn counting(house: &House, loaded: &Loaded) -> anyhow::Result<Counting> {
    let counters = house.store.counters();
    let redis = loaded.redis.as_ref().map(|secrets| redis(&loaded.config.redis, secrets)).transpose()?;
    let news = redis.clone().map(Changes::new);
    match redis.filter(|_| loaded.config.budget.authority == AuthorityConfig::Redis) {
        Some(redis) => {
            let owner = Arc::new(RedisCounters::new(redis, counters.clone()));
            Ok(Counting { authority: owner.clone(), charges: vec![owner, counters], news })
        }
        None => Ok(Counting { authority: counters.clone(), charges: vec![counters], news }),
    }
}

/// Waits until whoever owns the counters leases, within a bound: a Redis that is empty, or was restarted, is first filled from
/// the database, and nobody should be refused because the gateway has just started. One that is away is no reason not to.
pub async fn introduce(authority: &dyn Authority, owner: &str) {
    let answered = async {
        while let Err(cause) = authority.acquire(owner, &[]).await {
            if matches!(cause, StoreError::Outdated { .. }) {
                // Whoever asks next says so; waiting does not change it.
                return;
            }
            tracing::debug!(%cause, "the owner of the counters does not lease yet");
            tokio::time::sleep(INTRODUCE_EVERY).await;
        }
    };
    if tokio::time::timeout(INTRODUCE_FOR, answered).await.is_err() {
        tracing::warn!("the owner of the counters of limits does not answer yet; calls under limits wait for it");
    }
}

fn redis(config: &RedisConfig, secrets: &RedisSecrets) -> anyhow::Result<Redis> {
    let mode = match config.mode {
        RedisModeConfig::Standalone => RedisMode::Standalone,
        RedisModeConfig::Sentinel => RedisMode::Sentinel {
            master: config.sentinel_master.clone().unwrap_or_default(),
            username: config.username.clone(),
            password: secrets.password.clone(),
        },
        RedisModeConfig::Cluster => RedisMode::Cluster,
    };
    let read =
        |path: &PathBuf| std::fs::read(path).with_context(|| format!("redis.ca_file: cannot read {}", path.display()));
    let settings = RedisSettings {
        authorities: config.ca_file.as_ref().map(read).transpose()?,
        urls: secrets.urls.clone(),
        mode,
        prefix: config.key_prefix.clone(),
        request_timeout: Duration::from_millis(config.request_timeout_ms),
        background_timeout: Duration::from_millis(config.background_timeout_ms),
    };
    Redis::open(settings).map_err(|cause| anyhow::anyhow!("redis: {cause}"))
}

/// Frees the leases of processes that are over and whose charges have all been applied.
pub struct Closing(pub Arc<dyn Authority>);

#[async_trait]
impl OwnerEnd for Closing {
    async fn owner_finished(&self, owner: &str) -> std::result::Result<(), StoreError> {
        self.0.close(owner).await
    }
}

/// The ids of the limits that count dollars.
pub fn money<'a>(limits: impl Iterator<Item = &'a Limit>) -> HashSet<Arc<str>> {
    limits.filter(|limit| limit.unit == Unit::Usd).map(|limit| limit.id.clone()).collect()
}

/// Moves counters when prices are corrected; see `ledger::reprice`.
pub struct Correcting(pub Arc<Core>);

#[async_trait]
impl Adjust for Correcting {
    async fn money_limits(&self) -> std::result::Result<HashSet<Arc<str>>, StoreError> {
        Ok(money(in_force(&self.0.loaded.load(), &self.0.stored_limits.load()).iter()))
    }

    async fn ready(&self) -> std::result::Result<(), StoreError> {
        // What waits in the journal is priced, too; and a counter that does not have a charge yet cannot give it back.
        let flushed = tokio::time::timeout(FLUSH_FOR, self.0.feeder.flush_everywhere()).await;
        let flushed = flushed.map_err(|late| StoreError::Away(Box::new(late)))?;
        flushed.map_err(|ended| StoreError::Away(Box::new(ended)))?;
        if self.money_limits().await?.is_empty() {
            return Ok(());
        }
        self.0.authority.owners().await.map(drop)
    }

    async fn adjust(&self, counter: &CounterId, delta: i64) -> std::result::Result<(), StoreError> {
        self.0.authority.adjust(counter, delta).await
    }
}

/// Keeps the counters: heartbeats, refills, what goes back; and what only this room can tell the budget.
pub async fn hold(core: Arc<Core>, stopped: watch::Receiver<bool>) {
    let budget = core.gateway.budget.clone();
    let expired = core.gateway.journal.clone();
    budget.on_expired(move |id, charges| {
        if let Err(error) = expired.append_or_keep(Line::Charges(charges)) {
            tracing::error!(%error, id, "the charges of a reservation that nobody ended could not be written down; it is tried again");
        }
    });
    let applied = tell_what_is_applied(core.clone(), stopped.clone());
    let tidied = tidy(core.clone(), stopped.clone());
    let released = release_dead(core.clone(), stopped.clone());
    let corrected = correct(core.clone(), stopped.clone());
    let hook = move || core.loaded.load().webhook.clone();
    let posted = webhook::run(budget.events(), webhook::document, hook, stopped.clone());
    tokio::join!(budget.clone().run(stopped), applied, tidied, released, corrected, posted);
}

/// Moves counters to what answers used that were charged in full before they were made. Each move is asked for once: one of which
/// nobody knows whether it was made leaves that amount charged, or the part of it that is not in dispute.
async fn correct(core: Arc<Core>, mut stopped: watch::Receiver<bool>) {
    let Some(mut waiting) = core.gateway.unfinished.moves() else { return };
    loop {
        let next = async {
            let moves = waiting.recv().await?;
            // A counter that does not have a charge yet cannot give it back.
            core.feeder.flush_everywhere().await.ok()?;
            Some(moves)
        };
        let moves = tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            moves = next => moves,
        };
        let Some(moves) = moves else { return };
        for (counter, by) in moves {
            if let Err(error) = core.authority.adjust(&counter, by).await {
                tracing::warn!(%error, %counter, by, "a counter could not be moved to what an answer used in the end");
            }
        }
    }
}

/// Tells the budget how far the journal has been applied, as long as it holds anything.
async fn tell_what_is_applied(core: Arc<Core>, mut stopped: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = tokio::time::sleep(APPLIED_EVERY) => {}
        }
        if !core.gateway.budget.has_limits() {
            continue;
        }
        let mark = core.gateway.budget.mark();
        let flushed = tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            flushed = core.feeder.flush_everywhere() => flushed,
        };
        match flushed {
            Ok(()) => core.gateway.budget.applied(mark),
            Err(_ended) => return,
        }
    }
}

/// Lets the authority forget what is long over.
async fn tidy(core: Arc<Core>, mut stopped: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = tokio::time::sleep(TIDY_EVERY) => {}
        }
        if let Err(cause) = core.authority.tidy(SILENT).await {
            tracing::debug!(%cause, "the counters of limits could not be tidied; tried again soon");
        }
    }
}

/// Frees what silent processes hold, if the operator said so; at most half of that silence later.
async fn release_dead(core: Arc<Core>, mut stopped: watch::Receiver<bool>) {
    loop {
        let config = core.config().budget;
        let pause = (Duration::from_millis(config.dead_node_after_ms) / 2).min(TIDY_EVERY);
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = tokio::time::sleep(pause) => {}
        }
        if config.dead_node != config::DeadNode::Release || !core.gateway.budget.has_limits() {
            continue;
        }
        if let Err(cause) = release_silent(&core, Duration::from_millis(config.dead_node_after_ms)).await {
            tracing::debug!(%cause, "the leases of silent processes could not be freed; tried again soon");
        }
    }
}

async fn release_silent(core: &Core, silence: Duration) -> std::result::Result<(), StoreError> {
    let own = core.gateway.journal.owner();
    // Silence is told by the clock of the authority alone: this process's may be hours ahead.
    let oldest = core.authority.beat(&own).await?.now.minus(silence);
    for (owner, heard) in core.authority.owners().await? {
        if heard < oldest && owner != own {
            tracing::warn!(
                owner,
                "this process has been silent for long; its leases are free again (budget.dead_node)"
            );
            core.authority.close(&owner).await?;
        }
    }
    Ok(())
}

/// How counters stand; see `Control::limit_states`.
pub async fn states(authority: &dyn Authority, limit: Option<&str>, most: usize) -> Result<Vec<Standing>> {
    authority.standings(limit, most).await.map_err(away)
}

/// Takes back what is spent on a limit, counter by counter; see `Control::reset_limit`.
pub async fn reset(authority: &dyn Authority, limit: &str, subject: Option<&str>) -> Result<u64> {
    let standings = authority.standings(Some(limit), MAX_RESET).await.map_err(away)?;
    let mut count = 0;
    for standing in standings.iter().filter(|one| subject.is_none_or(|subject| *one.counter.subject == *subject)) {
        authority.adjust(&standing.counter, i64::MIN).await.map_err(away)?;
        count += 1;
    }
    Ok(count)
}

fn away(cause: crate::error::StoreError) -> Error {
    match cause {
        crate::error::StoreError::Away(_) => {
            Error::new(Kind::Unavailable, "The owner of the counters of limits cannot be reached.").because(cause)
        }
        other => other.into(),
    }
}
