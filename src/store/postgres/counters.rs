//! The authority over counters in PostgreSQL, and the consumer that carries charges to it.
//!
//! A counter is a row that holds the whole [`Counter`] as JSON. What callers wait for are functions in the database, one round
//! trip each (`calls`); what operators and the background need goes through the arithmetic of `budget::counter` here. Both
//! lock the rows of the counters that they name in one order for all, so that calls on the same counters follow each other and
//! none can block another for ever. The clock is the server's, read after the locks, so that time goes forward from call to
//! call on a counter.

mod calls;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;

use super::super::value::{Row, json};
use super::{Store, Work};
use crate::budget::authority::{Answer, Authority, Beat, Standing, Want};
use crate::budget::counter::Counter;
use crate::error::StoreError;
use crate::ledger::query::Position;
use crate::ledger::{Consumer, LedgerStore, Line, owner_of};
use crate::store::shadow::{Shadow, Snapshot, sums};
use crate::unit::charge::CounterId;
use crate::unit::clock::Timestamp;

/// For how long a counter is kept after its window.
const KEPT: Duration = Duration::from_secs(86_400);

/// The counters that are there, locked in the order of their ids.
const LOCK: &str = "SELECT id, state FROM counter WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE";
const NOW: &str = "SELECT marg_now() AS now";

macro_rules! write {
    ($conflict:literal) => {
        concat!(
            "INSERT INTO counter (id, limit_id, kind, until, spent, wanted_until, changed_at, state) ",
            "SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], ",
            "$7::bigint[], $8::text[]) ON CONFLICT (id) DO ",
            $conflict
        )
    };
}

/// Writes counters over those that are there.
const OVER: &str = write!(
    "UPDATE SET spent = excluded.spent, wanted_until = excluded.wanted_until, changed_at = excluded.changed_at, \
     state = excluded.state"
);
/// Makes counters, and leaves those that are there.
const BESIDE: &str = write!("NOTHING");

/// The counters of a database. Cheap to clone.
#[derive(Clone)]
pub struct Counters(pub(super) Store);

/// Some counters, locked until the end of the transaction.
struct Book {
    work: Work,
    now: Timestamp,
    /// As they are stored; none for one that is not there.
    before: BTreeMap<CounterId, Counter>,
    after: BTreeMap<CounterId, Counter>,
}

impl Book {
    async fn open<'a>(store: &Store, ids: impl Iterator<Item = &'a CounterId>) -> Result<Self, StoreError> {
        let mut work = store.begin().await?;
        let ids: BTreeSet<String> = ids.map(ToString::to_string).collect();
        let ids: Vec<String> = ids.into_iter().collect();
        let mut before = BTreeMap::new();
        if !ids.is_empty() {
            for row in &work.all(work.sql(LOCK).bind(ids)).await? {
                before.insert(identify(&row.word("id")?)?, read(row)?);
            }
        }
        let now = Timestamp(work.one(work.sql(NOW)).await?.number("now")?);
        Ok(Self { work, now, after: before.clone(), before })
    }

    /// Writes what has changed, and ends.
    async fn commit(mut self) -> Result<(), StoreError> {
        let empty = Counter::default();
        let changed = |(id, counter): &(&CounterId, &Counter)| self.before.get(*id).unwrap_or(&empty) != *counter;
        let changed: Vec<(&CounterId, &Counter)> = self.after.iter().filter(changed).collect();
        let (mut rows, mut taken, mut given) = (Columns::default(), (Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        for (id, counter) in changed {
            rows.push(id, counter, self.now)?;
            let held =
                |counter: &Counter| counter.leases().map(|(owner, _)| owner.to_string()).collect::<BTreeSet<_>>();
            let (old, new) = (held(self.before.get(id).unwrap_or(&empty)), held(counter));
            for (owners, list) in [(new.difference(&old), &mut taken), (old.difference(&new), &mut given)] {
                for owner in owners {
                    list.0.push(owner.clone());
                    list.1.push(id.to_string());
                }
            }
        }
        rows.write(&mut self.work, OVER).await?;
        if !taken.0.is_empty() {
            let statement = "INSERT INTO counter_lease (owner, counter) \
                             SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING";
            self.work.execute(self.work.sql(statement).bind(taken.0).bind(taken.1)).await?;
        }
        if !given.0.is_empty() {
            let statement = "DELETE FROM counter_lease USING unnest($1::text[], $2::text[]) AS gone (owner, counter) \
                             WHERE counter_lease.owner = gone.owner AND counter_lease.counter = gone.counter";
            self.work.execute(self.work.sql(statement).bind(given.0).bind(given.1)).await?;
        }
        self.work.commit().await
    }
}

/// Rows of counters, column by column.
#[derive(Default)]
struct Columns {
    ids: Vec<String>,
    limits: Vec<String>,
    kinds: Vec<&'static str>,
    untils: Vec<Option<i64>>,
    spent: Vec<i64>,
    wanted: Vec<i64>,
    changed: Vec<i64>,
    states: Vec<String>,
}

impl Columns {
    fn push(&mut self, id: &CounterId, counter: &Counter, now: Timestamp) -> Result<(), StoreError> {
        let (kind, until) = calls::kind(id.window);
        self.ids.push(id.to_string());
        self.limits.push(id.limit.to_string());
        self.kinds.push(kind);
        self.untils.push(until);
        self.spent.push(counter.spent(id.window, now));
        self.wanted.push(counter.wanted_until().map_or(0, Timestamp::micros));
        self.changed.push(now.micros());
        self.states.push(json(counter)?);
        Ok(())
    }

    /// Writes them, by one of [`OVER`] and [`BESIDE`].
    async fn write(self, work: &mut Work, statement: &'static str) -> Result<(), StoreError> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let statement = work
            .sql(statement)
            .bind(self.ids)
            .bind(self.limits)
            .bind(self.kinds)
            .bind(self.untils)
            .bind(self.spent)
            .bind(self.wanted)
            .bind(self.changed)
            .bind(self.states);
        work.execute(statement).await.map(drop)
    }
}

#[async_trait]
impl Authority for Counters {
    async fn acquire(&self, owner: &str, wants: &[Want]) -> Result<Answer, StoreError> {
        calls::acquire(&self.0, owner, wants).await
    }

    async fn release(&self, owner: &str, parts: &[(CounterId, i64)]) -> Result<(), StoreError> {
        calls::release(&self.0, owner, parts).await
    }

    async fn beat(&self, owner: &str) -> Result<Beat, StoreError> {
        let calls::Heard { now, recalled } = calls::beat(&self.0, owner).await?;
        Ok(Beat { now, recalled })
    }

    async fn close(&self, owner: &str) -> Result<(), StoreError> {
        self.0
            .bounded(async {
                let mut book = Book::open(&self.0, self.leased_by(owner).await?.iter()).await?;
                book.after.values_mut().for_each(|counter| counter.close(owner));
                let statement = "WITH leases AS (DELETE FROM counter_lease WHERE owner = $1) \
                                 DELETE FROM counter_owner WHERE owner = $1";
                book.work.execute(book.work.sql(statement).bind(owner.to_owned())).await?;
                book.commit().await
            })
            .await
    }

    async fn owners(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        self.0
            .bounded(async {
                let mut work = self.0.begin().await?;
                let statement = "SELECT owner, heard_at FROM counter_owner \
                                 WHERE EXISTS (SELECT FROM counter_lease WHERE counter_lease.owner = counter_owner.owner)";
                let rows = work.all(work.sql(statement)).await?;
                rows.iter().map(|row| Ok((row.word("owner")?, Timestamp(row.number("heard_at")?)))).collect()
            })
            .await
    }

    async fn standings(&self, limit: Option<&str>, most: usize) -> Result<Vec<Standing>, StoreError> {
        self.0
            .bounded(async {
                let mut book = Book::open(&self.0, std::iter::empty()).await?;
                let statement = "SELECT id, state FROM counter WHERE $1::text IS NULL OR limit_id = $1::text \
                                 ORDER BY spent DESC LIMIT $2";
                let statement = book.work.sql(statement).bind(limit.map(str::to_owned));
                let statement = statement.bind(i64::try_from(most).unwrap_or(i64::MAX));
                let mut standings = Vec::new();
                for row in book.work.all(statement).await? {
                    let (id, counter) = (identify(&row.word("id")?)?, read(&row)?);
                    standings.push(Standing {
                        cap: counter.cap,
                        spent: counter.spent(id.window, book.now),
                        leases: counter.leases().map(|(owner, amount)| (owner.to_string(), amount)).collect(),
                        counter: id,
                    });
                }
                // What a sliding window holds falls without a write.
                standings.sort_by(|a, b| b.spent.cmp(&a.spent).then_with(|| a.counter.cmp(&b.counter)));
                Ok(standings)
            })
            .await
    }

    async fn adjust(&self, id: &CounterId, delta: i64) -> Result<(), StoreError> {
        self.0
            .bounded(async {
                self.make(id).await?;
                let mut book = Book::open(&self.0, std::iter::once(id)).await?;
                let now = book.now;
                if let Some(counter) = book.after.get_mut(id) {
                    counter.adjust(id.window, delta, now);
                }
                book.commit().await
            })
            .await
    }

    async fn tidy(&self, silent: Duration) -> Result<(), StoreError> {
        self.0
            .bounded(async {
                let now = Book::open(&self.0, std::iter::empty()).await?.now;
                let runs = self.runs_of_silent(now.minus(silent)).await?;
                let mut book = Book::open(&self.0, runs.iter().map(|(_, id)| id)).await?;
                for (owner, id) in &runs {
                    if let Some(counter) = book.after.get_mut(id) {
                        counter.close(owner);
                    }
                }
                book.commit().await?;
                self.delete_old(now.minus(KEPT)).await
            })
            .await
    }
}

impl Counters {
    /// Makes a counter that is not there.
    async fn make(&self, id: &CounterId) -> Result<(), StoreError> {
        let mut work = self.0.begin().await?;
        let mut row = Columns::default();
        row.push(id, &Counter::default(), Timestamp(0))?;
        row.write(&mut work, BESIDE).await?;
        work.commit().await
    }

    /// The counters on which that owner holds a lease.
    async fn leased_by(&self, owner: &str) -> Result<Vec<CounterId>, StoreError> {
        let mut work = self.0.begin().await?;
        let statement = work.sql("SELECT counter FROM counter_lease WHERE owner = $1").bind(owner.to_owned());
        work.all(statement).await?.iter().map(|row| identify(&row.word("counter")?)).collect()
    }

    /// Leases on what runs at present, of owners that were not heard of since that time.
    async fn runs_of_silent(&self, since: Timestamp) -> Result<Vec<(String, CounterId)>, StoreError> {
        let mut work = self.0.begin().await?;
        let statement = "SELECT lease.owner, lease.counter FROM counter_lease AS lease \
                         JOIN counter ON counter.id = lease.counter \
                         LEFT JOIN counter_owner AS owner ON owner.owner = lease.owner \
                         WHERE counter.kind = 'n' AND coalesce(owner.heard_at, 0) <= $1";
        let rows = work.all(work.sql(statement).bind(since.micros())).await?;
        rows.iter().map(|row| Ok((row.word("owner")?, identify(&row.word("counter")?)?))).collect()
    }

    /// Deletes counters whose window was over at that time, those that slide or count what runs and that nobody has touched
    /// since and holds, and owners that were not heard of since and hold nothing.
    async fn delete_old(&self, before: Timestamp) -> Result<(), StoreError> {
        let mut work = self.0.begin().await?;
        for (statement, bound) in [
            ("DELETE FROM counter WHERE kind = 'c' AND until <= $1", before.seconds()),
            (
                "DELETE FROM counter WHERE kind IN ('s', 'n') AND changed_at <= $1 \
                 AND NOT EXISTS (SELECT FROM counter_lease WHERE counter = counter.id)",
                before.micros(),
            ),
            (
                "DELETE FROM counter_lease WHERE $1::bigint IS NOT NULL \
                 AND NOT EXISTS (SELECT FROM counter WHERE id = counter_lease.counter)",
                0,
            ),
            (
                "DELETE FROM counter_owner WHERE heard_at <= $1 \
                 AND NOT EXISTS (SELECT FROM counter_lease WHERE owner = counter_owner.owner)",
                before.micros(),
            ),
        ] {
            work.execute(work.sql(statement).bind(bound)).await?;
        }
        work.commit().await
    }
}

#[async_trait]
impl Consumer for Counters {
    fn name(&self) -> &'static str {
        "limits"
    }

    async fn position(&self, segment: &str) -> Result<u64, StoreError> {
        self.0
            .bounded(async {
                let mut work = self.0.begin().await?;
                let statement = work.sql("SELECT byte FROM counter_position WHERE segment = $1");
                let row = work.optional(statement.bind(segment.to_owned())).await?;
                Ok(row.map(|row| row.count("byte")).transpose()?.flatten().unwrap_or(0))
            })
            .await
    }

    async fn take(&self, lines: &[Line], position: &Position) -> Result<(), StoreError> {
        let owner = owner_of(&position.segment).unwrap_or_default();
        if calls::take(&self.0, owner, &sums(lines), position).await? {
            return Ok(());
        }
        Err(StoreError::Conflict("the journal position is not where the batch begins".into()))
    }

    async fn sync(&self) -> Result<(), StoreError> {
        LedgerStore::sync(&self.0).await
    }

    async fn segments(&self) -> Result<Vec<String>, StoreError> {
        self.0
            .bounded(async {
                let mut work = self.0.begin().await?;
                // Those of other data folders are none of this process's business.
                let statement = work.sql("SELECT segment FROM counter_position WHERE node = $1");
                let rows = work.all(statement.bind(self.0.node.to_string())).await?;
                rows.iter().map(|row| row.word("segment")).collect()
            })
            .await
    }

    async fn forget(&self, segment: &str) -> Result<(), StoreError> {
        self.0
            .bounded(async {
                let mut work = self.0.begin().await?;
                let statement = work.sql("DELETE FROM counter_position WHERE segment = $1");
                work.execute(statement.bind(segment.to_owned())).await?;
                work.commit().await
            })
            .await
    }
}

#[async_trait]
impl Shadow for Counters {
    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.0
            .bounded(async {
                let mut work = self.0.begin().await?;
                work.execute(work.sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")).await?;
                let rows = work.all(work.sql("SELECT segment, byte FROM counter_position")).await?;
                let position = |row: &sqlx::postgres::PgRow| {
                    Ok::<_, StoreError>((row.word("segment")?, row.count("byte")?.unwrap_or(0)))
                };
                let positions = rows.iter().map(position).collect::<Result<_, _>>()?;
                let rows = work.all(work.sql("SELECT id, state FROM counter")).await?;
                let counter =
                    |row: &sqlx::postgres::PgRow| Ok::<_, StoreError>((identify(&row.word("id")?)?, read(row)?));
                Ok(Snapshot::of(rows.iter().map(counter).collect::<Result<_, _>>()?, positions))
            })
            .await
    }
}

fn read(row: &impl Row) -> Result<Counter, StoreError> {
    serde_json::from_str(&row.word("state")?)
        .map_err(|cause| StoreError::Corrupt(format!("a counter cannot be read: {cause}").into()))
}

fn identify(id: &str) -> Result<CounterId, StoreError> {
    id.parse().map_err(|cause: String| StoreError::Corrupt(cause.into()))
}

#[cfg(test)]
mod tests;
