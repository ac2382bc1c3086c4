//! Rebuilds the counters when Redis has lost them, from those that the database keeps along.
//!
//! One process does it, for all. The first start is the same with nothing to rebuild, and so is the change from the database
//! to Redis as the authority. The old counters, if there are any left, go afterwards.

use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use deadpool_redis::redis::Script;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::Redis;
use crate::error::StoreError;
use crate::store::shadow::{Shadow, Snapshot};
use crate::telemetry::task;

static BEGIN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/begin.lua")));
static REBUILD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/rebuild.lua")));
static COMMIT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/commit.lua")));
static DROP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/drop.lua")));

/// For how long nothing is leased after a loss: eight heartbeats, in which processes declare what they hold.
const HOLD: Duration = Duration::from_secs(2);
/// The most counters' parts, or positions, in one call.
const STEP: usize = 500;
/// The pause between attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// Asks for a rebuilding.
#[derive(Default)]
pub(super) struct Rebuilder {
    asked: Notify,
}

impl Rebuilder {
    /// Asks the task; at most one works at a time.
    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }
}

/// Begins to rebuild whenever it is asked, for as long as `owner` lives.
pub(super) fn start<T: Send + Sync + 'static>(
    redis: Redis,
    owner: Weak<T>,
    rebuilder: fn(&T) -> &Rebuilder,
    shadow: Arc<dyn Shadow>,
) {
    drop(task::spawn("rebuild counters", async move {
        loop {
            let Some(strong) = owner.upgrade() else { return };
            let asked = timeout(Duration::from_secs(1), rebuilder(&strong).asked.notified()).await.is_ok();
            drop(strong);
            if !asked {
                continue;
            }
            if let Err(cause) = rebuild(&redis, &*shadow).await {
                tracing::warn!(%cause, "the counters in Redis cannot be rebuilt yet");
                sleep(PAUSE).await;
            }
        }
    }));
}

async fn rebuild(redis: &Redis, shadow: &dyn Shadow) -> Result<(), StoreError> {
    let random = getrandom::u64().map_err(|cause| StoreError::Away(cause.to_string().into()))?;
    let epoch = format!("{random:016x}");
    let begun = redis.run(&BEGIN, std::slice::from_ref(&epoch), redis.background_limit()).await?;
    if begun.first().map(String::as_str) != Some("OK") {
        // They are there again, or another process is at it.
        return Ok(());
    }
    let snapshot = shadow.snapshot().await?;
    fill(redis, &epoch, &snapshot).await?;
    let hold = if snapshot.is_empty() { Duration::ZERO } else { HOLD };
    step(redis, &COMMIT, vec![epoch, hold.as_micros().to_string()]).await?;
    if !snapshot.is_empty() {
        tracing::warn!(
            counters = snapshot.spent.len(),
            "the counters in Redis were lost and are rebuilt from the database"
        );
    }
    if let Some(old) = begun.get(1).filter(|old| !old.is_empty()) {
        while step(redis, &DROP, vec![old.clone()]).await?.get(1).is_some_and(|gone| gone != "0") {}
    }
    Ok(())
}

/// Puts the snapshot into the space of the epoch.
async fn fill(redis: &Redis, epoch: &str, snapshot: &Snapshot) -> Result<(), StoreError> {
    let parts: Vec<[String; 3]> = snapshot
        .spent
        .iter()
        .flat_map(|(id, parts)| {
            parts.iter().map(move |(second, amount)| [id.to_string(), second.to_string(), amount.to_string()])
        })
        .collect();
    for some in parts.chunks(STEP) {
        let mut arguments = vec![epoch.to_owned(), some.len().to_string()];
        arguments.extend(some.iter().flatten().cloned());
        step(redis, &REBUILD, arguments).await?;
    }
    for some in snapshot.positions.chunks(STEP) {
        let mut arguments = vec![epoch.to_owned(), "0".to_owned()];
        arguments.extend(some.iter().flat_map(|(segment, byte)| [segment.clone(), byte.to_string()]));
        step(redis, &REBUILD, arguments).await?;
    }
    Ok(())
}

async fn step(redis: &Redis, script: &Script, arguments: Vec<String>) -> Result<Vec<String>, StoreError> {
    let answer = redis.run(script, &arguments, redis.background_limit()).await?;
    if answer.first().map(String::as_str) != Some("OK") {
        return Err(StoreError::Away("another process rebuilds the counters".into()));
    }
    Ok(answer)
}
