//! The authority over counters in Redis, and the consumer that carries charges to it.
//!
//! Every call is one script, by the clock of the server. Redis may forget: a restart without its last second, a failover to a
//! replica that was behind, `FLUSHALL`. So the counters belong to one life of one server (`run_id`), which every script checks.
//! In another life they are rebuilt from the counters that the database keeps along, together with the positions of that
//! moment, so each charge still counts once. Processes put the leases that they hold back first; for two seconds nothing is
//! leased, so that all of them can. What a process held that died in the same moment is not known until its journal is applied.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use deadpool_redis::redis::Script;

use super::Redis;
use super::rebuild::{self, Rebuilder};
use crate::budget::authority::{Answer, Authority, Beat, Grant, PROTOCOL, Standing, Want};
use crate::error::StoreError;
use crate::ledger::query::Position;
use crate::ledger::{Consumer, Line, owner_of};
use crate::store::shadow::{Shadow, sums};
use crate::unit::charge::CounterId;
use crate::unit::clock::Timestamp;

macro_rules! script {
    ($name:ident, $file:literal) => {
        static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(include_str!("scripts/ground.lua"), include_str!(concat!("scripts/", $file))))
        });
    };
}

script!(ACQUIRE, "acquire.lua");
script!(RELEASE, "release.lua");
script!(BEAT, "beat.lua");
script!(CLOSE, "close.lua");
script!(OWNERS, "owners.lua");
script!(STANDINGS, "standings.lua");
script!(ADJUST, "adjust.lua");
script!(TIDY, "tidy.lua");
script!(TAKE, "take.lua");
script!(POSITION, "position.lua");
script!(DECLARE, "declare.lua");

/// The counters in a Redis. Cheap to clone.
#[derive(Clone)]
pub struct RedisCounters {
    redis: Redis,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// The epoch that this process knows; empty at first.
    epoch: Mutex<Arc<str>>,
    /// The leases of this process's owners, as far as it knows.
    leases: Mutex<HashMap<(Arc<str>, CounterId), i64>>,
    /// Rebuilds when asked.
    rebuilder: Rebuilder,
}

/// How often a call is repeated because the counters were rebuilt meanwhile.
const ATTEMPTS: u32 = 3;

impl RedisCounters {
    /// The counters in that Redis, rebuilt from that database whenever Redis has lost them. Needs a runtime; the rebuilding task
    /// ends with the last clone.
    pub fn new(redis: Redis, shadow: Arc<dyn Shadow>) -> Self {
        let shared = Arc::new(Shared::default());
        rebuild::start(redis.clone(), Arc::downgrade(&shared), |shared| &shared.rebuilder, shadow);
        Self { redis, shared }
    }

    /// Runs a script in the epoch in force, and brings this process into it where necessary.
    async fn call(
        &self,
        script: &Script,
        owner: &str,
        arguments: &[String],
        limit: Duration,
    ) -> Result<Vec<String>, StoreError> {
        for _ in 0..ATTEMPTS {
            let epoch = self.epoch().clone();
            let mut all = Vec::with_capacity(arguments.len() + 2);
            all.extend([epoch.to_string(), owner.to_owned()]);
            all.extend_from_slice(arguments);
            let mut answer = self.redis.run(script, &all, limit).await?;
            match answer.first().map(String::as_str) {
                Some("OK") => {
                    answer.remove(0);
                    return Ok(answer);
                }
                Some("EPOCH") => self.enter(answer.get(1).map_or("", String::as_str), limit).await?,
                Some("LOST") => {
                    self.shared.rebuilder.ask();
                    return Err(StoreError::Away("Redis has lost the counters; they are rebuilt".into()));
                }
                Some("HOLD") => {
                    return Err(StoreError::Away("Redis has lost the counters; leases are declared anew".into()));
                }
                Some("NEWER") => {
                    let found = answer.get(1).map_or(0, |word| number(word));
                    return Err(StoreError::Outdated { found, known: PROTOCOL });
                }
                Some("STALE") => {
                    return Err(StoreError::Conflict("the journal position is not where the batch begins".into()));
                }
                _ => return Err(StoreError::Corrupt("Redis: an answer that no script gives".into())),
            }
        }
        Err(StoreError::Away("Redis: the counters are rebuilt again and again".into()))
    }

    /// Declares what this process holds to a new epoch, and then goes by it.
    async fn enter(&self, epoch: &str, limit: Duration) -> Result<(), StoreError> {
        let mut arguments = vec![epoch.to_owned(), String::new()];
        for ((owner, counter), amount) in self.leases().iter() {
            arguments.extend([owner.to_string(), counter.to_string(), amount.to_string()]);
        }
        if arguments.len() > 2 {
            let answer = self.redis.run(&DECLARE, &arguments, limit.max(self.redis.background_limit())).await?;
            if answer.first().map(String::as_str) != Some("OK") {
                // It changed again; the next attempt learns of it.
                return Ok(());
            }
        }
        *self.epoch() = epoch.into();
        Ok(())
    }

    fn epoch(&self) -> MutexGuard<'_, Arc<str>> {
        self.shared.epoch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leases(&self) -> MutexGuard<'_, HashMap<(Arc<str>, CounterId), i64>> {
        self.shared.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lower(&self, owner: &Arc<str>, counter: &CounterId, amount: i64) {
        let mut leases = self.leases();
        let place = (owner.clone(), counter.clone());
        if let Some(lease) = leases.get_mut(&place) {
            *lease = lease.saturating_sub(amount.max(0));
            if *lease <= 0 {
                leases.remove(&place);
            }
        }
    }
}

#[async_trait]
impl Authority for RedisCounters {
    async fn acquire(&self, owner: &str, wants: &[Want]) -> Result<Answer, StoreError> {
        let mut arguments = Vec::with_capacity(wants.len() * 7 + 1);
        arguments.push(PROTOCOL.to_string());
        for want in wants {
            let (burst, period) = want.pace.map_or_else(Default::default, |pace| {
                (pace.burst.to_string(), pace.period.as_micros().max(1).to_string())
            });
            let numbers = [want.cap, want.need, want.wish].map(|number| number.to_string());
            arguments.push(want.counter.to_string());
            arguments.extend(numbers);
            arguments.extend([burst, period, want.ahead.to_string()]);
        }
        let answer = self.call(&ACQUIRE, owner, &arguments, self.redis.request_limit()).await?;
        let (now, numbers) = answer.split_first().ok_or_else(short)?;
        let grants: Vec<Grant> = numbers.chunks_exact(6).map(grant).collect();
        if grants.len() != wants.len() {
            return Err(short());
        }
        let owner: Arc<str> = owner.into();
        let mut leases = self.leases();
        for (want, grant) in wants.iter().zip(&grants) {
            let place = (owner.clone(), want.counter.clone());
            if grant.own > 0 {
                leases.insert(place, grant.own);
            } else {
                leases.remove(&place);
            }
        }
        Ok(Answer { now: Timestamp(number(now)), grants })
    }

    async fn release(&self, owner: &str, parts: &[(CounterId, i64)]) -> Result<(), StoreError> {
        let arguments: Vec<String> =
            parts.iter().flat_map(|(counter, amount)| [counter.to_string(), amount.to_string()]).collect();
        // Before it is known: a lease that is declared too small after a loss is worse than one that is not declared at all,
        // and what is not known to be given back is not used any more.
        let owner_name: Arc<str> = owner.into();
        for (counter, amount) in parts {
            self.lower(&owner_name, counter, *amount);
        }
        self.call(&RELEASE, owner, &arguments, self.redis.background_limit()).await.map(drop)
    }

    async fn beat(&self, owner: &str) -> Result<Beat, StoreError> {
        let answer = self.call(&BEAT, owner, &[], self.redis.background_limit()).await?;
        let (now, counters) = answer.split_first().ok_or_else(short)?;
        let recalled = counters.iter().map(|id| identify(id)).collect::<Result<_, _>>()?;
        Ok(Beat { now: Timestamp(number(now)), recalled })
    }

    async fn close(&self, owner: &str) -> Result<(), StoreError> {
        self.leases().retain(|(other, _), _| &**other != owner);
        self.call(&CLOSE, owner, &[], self.redis.background_limit()).await.map(drop)
    }

    async fn owners(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        let answer = self.call(&OWNERS, "", &[], self.redis.background_limit()).await?;
        let pairs = answer.chunks_exact(2).filter_map(|pair| match pair {
            [owner, heard] => Some((owner.clone(), Timestamp(number(heard)))),
            _ => None,
        });
        Ok(pairs.collect())
    }

    async fn standings(&self, limit: Option<&str>, most: usize) -> Result<Vec<Standing>, StoreError> {
        if most == 0 {
            return Ok(Vec::new());
        }
        let arguments = [limit.unwrap_or_default().to_owned(), most.to_string()];
        let answer = self.call(&STANDINGS, "", &arguments, self.redis.background_limit()).await?;
        let mut words = answer.into_iter();
        let mut standings = Vec::new();
        while let Some(id) = words.next() {
            let mut next = || words.next().ok_or_else(short);
            let (cap, spent, count) = (number(&next()?), number(&next()?), number(&next()?));
            let leases = (0..count).map(|_| Ok((next()?, number(&next()?)))).collect::<Result<_, StoreError>>()?;
            standings.push(Standing { counter: identify(&id)?, cap, spent, leases });
        }
        standings.sort_by(|a, b| b.spent.cmp(&a.spent).then_with(|| a.counter.cmp(&b.counter)));
        Ok(standings)
    }

    async fn adjust(&self, counter: &CounterId, delta: i64) -> Result<(), StoreError> {
        // The smallest number has no opposite, which the script needs.
        let arguments = [counter.to_string(), delta.max(-i64::MAX).to_string()];
        self.call(&ADJUST, "", &arguments, self.redis.background_limit()).await.map(drop)
    }

    async fn tidy(&self, silent: Duration) -> Result<(), StoreError> {
        let arguments = [silent.as_micros().to_string()];
        // Each call looks at a thousand counters, so that nobody waits for long in between; a thousand calls are enough for one time.
        for _ in 0..1_000 {
            let answer = self.call(&TIDY, "", &arguments, self.redis.background_limit()).await?;
            if answer.first().is_none_or(|looked_at| number(looked_at) < 1_000) {
                break;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Consumer for RedisCounters {
    fn name(&self) -> &'static str {
        "limits-redis"
    }

    async fn position(&self, segment: &str) -> Result<u64, StoreError> {
        let arguments = ["ask".to_owned(), segment.to_owned()];
        let answer = self.call(&POSITION, "", &arguments, self.redis.background_limit()).await?;
        answer.first().and_then(|byte| byte.parse().ok()).ok_or_else(short)
    }

    async fn take(&self, lines: &[Line], position: &Position) -> Result<(), StoreError> {
        let owner: Arc<str> = owner_of(&position.segment).unwrap_or_default().into();
        let charges = sums(lines);
        let mut arguments = vec![position.segment.to_string(), position.from.to_string(), position.to.to_string()];
        for (counter, amounts) in &charges {
            for (second, amount) in amounts {
                arguments.extend([counter.to_string(), second.to_string(), amount.to_string()]);
            }
        }
        self.call(&TAKE, &owner, &arguments, self.redis.background_limit()).await?;
        for (counter, amounts) in charges {
            self.lower(&owner, counter, amounts.values().fold(0, |sum: i64, amount| sum.saturating_add(*amount)));
        }
        Ok(())
    }

    /// Nothing to do: what Redis loses is rebuilt from the database, with the positions that belong to it.
    async fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn segments(&self) -> Result<Vec<String>, StoreError> {
        let arguments = ["all".to_owned(), String::new()];
        self.call(&POSITION, "", &arguments, self.redis.background_limit()).await
    }

    async fn forget(&self, segment: &str) -> Result<(), StoreError> {
        let arguments = ["forget".to_owned(), segment.to_owned()];
        self.call(&POSITION, "", &arguments, self.redis.background_limit()).await.map(drop)
    }
}

fn grant(words: &[String]) -> Grant {
    let at = |place: usize| words.get(place).map_or(0, |word| number(word));
    Grant {
        granted: at(0),
        spent: at(1),
        leased: at(2),
        own: at(3),
        wrong_window: at(4) == 1,
        retry_after: u64::try_from(at(5)).ok().map(Duration::from_micros),
    }
}

/// A whole number as scripts write it; beyond the range it is the end of the range.
fn number(word: &str) -> i64 {
    let wide = word.parse::<i128>().unwrap_or(0);
    i64::try_from(wide).unwrap_or(if wide > 0 { i64::MAX } else { i64::MIN })
}

fn identify(id: &str) -> Result<CounterId, StoreError> {
    id.parse().map_err(|cause: String| StoreError::Corrupt(cause.into()))
}

fn short() -> StoreError {
    StoreError::Corrupt("Redis: an answer is too short".into())
}
