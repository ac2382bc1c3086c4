//! Moving an installation from one backend to another, with nothing lost.
//!
//! Tables are copied row by row in the order of [`TABLES`], in batches, each in a transaction; a row that is there already is left as
//! it is, so a copy that was interrupted is simply begun again. At the end counts and sums of both sides are compared. A target
//! that holds rows which the source does not have is refused before anything is written. Nothing may write to the source
//! meanwhile; what was not yet fed lies in the journal and is stored by the first start on the target.

use async_trait::async_trait;
use serde::Serialize;

use super::value::{Type, Value};
use crate::error::StoreError;
use crate::unit::id::ExchangeId;

/// How many rows are copied in one transaction.
pub(super) const BATCH: usize = 500;

/// A table to copy.
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// The columns that identify a row, first of `columns`, in the order that rows are read in.
    pub key: usize,
    /// What else is unique in the target's key, when it is wider than the source's.
    pub unique: &'static str,
    /// The columns, those of the key first.
    pub columns: &'static [(&'static str, Type)],
    /// The column that is summed up for comparison; empty for none.
    pub sum: &'static str,
}

use Type::{Bytes as B, Flag as F, Integer as I, Text as T};

/// Every table that holds what an installation knows. Left out: the number of changes, which starts anew; the order of arrival,
/// likewise; and which segment belongs to whom, which the target fills by itself.
pub const TABLES: &[Table] = &[
    Table {
        name: "app_key",
        key: 1,
        unique: "",
        columns: &[
            ("id", T),
            ("name", T),
            ("hint", T),
            ("hash", B),
            ("org", T),
            ("team", T),
            ("user", T),
            ("labels", T),
            ("models", T),
            ("addresses", T),
            ("enabled", F),
            ("created_at", I),
            ("expires_at", I),
            ("revoked_at", I),
            ("rotated_at", I),
            ("max_input_tokens", I),
            ("max_output_tokens", I),
            ("suspended_until", I),
            ("suspended_reason", T),
        ],
        sum: "created_at",
    },
    Table {
        name: "admin_token",
        key: 1,
        unique: "",
        columns: &[
            ("id", T),
            ("label", T),
            ("role", T),
            ("hint", T),
            ("hash", B),
            ("created_at", I),
            ("expires_at", I),
            ("revoked_at", I),
        ],
        sum: "created_at",
    },
    Table {
        name: "stored_route",
        key: 1,
        unique: "",
        columns: &[("id", T), ("position", I), ("config", T), ("created_at", I), ("updated_at", I)],
        sum: "position",
    },
    Table {
        name: "spend_limit",
        key: 1,
        unique: "",
        columns: &[
            ("id", T),
            ("name", T),
            ("scope", T),
            ("subject", T),
            ("models", T),
            ("unit", T),
            ("span", T),
            ("amount", I),
            ("action", T),
            ("warn_at_percent", T),
            ("enabled", F),
            ("created_at", I),
            ("updated_at", I),
        ],
        sum: "amount",
    },
    Table {
        name: "party",
        key: 2,
        unique: "",
        columns: &[
            ("kind", T),
            ("name", T),
            ("org", T),
            ("team", T),
            ("description", T),
            ("labels", T),
            ("models", T),
            ("max_input_tokens", I),
            ("max_output_tokens", I),
            ("enabled", F),
            ("created_at", I),
            ("updated_at", I),
        ],
        sum: "created_at",
    },
    Table {
        name: "stored_price",
        key: 1,
        unique: "",
        columns: &[
            ("id", T),
            ("provider", T),
            ("model", T),
            ("effective", T),
            ("config", T),
            ("changed_by", T),
            ("created_at", I),
            ("updated_at", I),
        ],
        sum: "created_at",
    },
    // A mark is a number of changes, which starts anew; whoever starts on the target reads all of it.
    Table {
        name: "gate_memory",
        key: 3,
        unique: "",
        columns: &[("kind", T), ("key_id", T), ("name", T), ("seen_at", I), ("until", I), ("body", T)],
        sum: "seen_at",
    },
    Table {
        name: "repricing",
        key: 1,
        unique: "",
        columns: &[
            ("id", T),
            ("done_by", T),
            ("started_at", I),
            ("since", I),
            ("until", I),
            ("records", I),
            ("difference_nano_usd", I),
        ],
        sum: "difference_nano_usd",
    },
    Table {
        name: "price_adjustment",
        key: 1,
        unique: "",
        columns: &[("number", I), ("repricing", T), ("counter", T), ("amount", I), ("sent", F)],
        sum: "amount",
    },
    Table {
        name: "counter",
        key: 1,
        unique: "",
        columns: &[
            ("id", T),
            ("limit_id", T),
            ("kind", T),
            ("until", I),
            ("spent", I),
            ("wanted_until", I),
            ("changed_at", I),
            ("state", T),
        ],
        sum: "spent",
    },
    Table { name: "counter_lease", key: 2, unique: "", columns: &[("owner", T), ("counter", T)], sum: "" },
    Table { name: "counter_owner", key: 1, unique: "", columns: &[("owner", T), ("heard_at", I)], sum: "heard_at" },
    Table { name: "counter_position", key: 1, unique: "", columns: &[("segment", T), ("byte", I)], sum: "byte" },
    Table {
        name: "exchange",
        key: 1,
        unique: "started_at",
        columns: &[
            ("id", B),
            ("started_at", I),
            ("request_id", T),
            ("operation", T),
            ("method", T),
            ("path", T),
            ("address", T),
            ("key_id", T),
            ("org", T),
            ("team", T),
            ("user", T),
            ("model_requested", T),
            ("model_served", T),
            ("provider", T),
            ("route", T),
            ("stream", F),
            ("status", I),
            ("outcome", T),
            ("reason", T),
            ("error", T),
            ("tokens_input", I),
            ("tokens_cache_read", I),
            ("tokens_cache_write_5m", I),
            ("tokens_cache_write_1h", I),
            ("tokens_input_audio", I),
            ("tokens_input_image", I),
            ("tokens_output", I),
            ("tokens_reasoning", I),
            ("tokens_output_audio", I),
            ("tokens_output_image", I),
            ("usage_source", T),
            ("cost_nano_usd", I),
            ("price_source", T),
            ("price_name", T),
            ("price_effective", T),
            ("duration_us", I),
            ("ttft_us", I),
            ("bytes_in", I),
            ("bytes_out", I),
            ("attempts", T),
            ("tags", T),
            ("session", T),
            ("charges", T),
            ("service_tier", T),
            ("verdict", T),
            ("images", T),
        ],
        sum: "cost_nano_usd",
    },
    // Behind the records: a position says that they are there.
    Table { name: "journal_position", key: 1, unique: "", columns: &[("segment", T), ("byte", I)], sum: "byte" },
];

/// How much of a table was copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// The table.
    pub table: &'static str,
    /// How many rows both sides have.
    pub rows: u64,
    /// How many of them this run has added.
    pub new: u64,
}

/// Rows of any table, as a backend reads and writes them.
#[async_trait]
pub trait Rows: Send + Sync {
    /// Rows behind a key (all from the beginning for none), in the order of the key; at most so many.
    async fn read(
        &self,
        table: &Table,
        after: Option<&[Value<'static>]>,
        most: usize,
    ) -> Result<Vec<Vec<Value<'static>>>, StoreError>;

    /// Adds those rows that are not there, in one transaction; how many those are.
    async fn add(&self, table: &Table, rows: &[Vec<Value<'static>>]) -> Result<u64, StoreError>;

    /// Takes a lock that there is once in the whole database, until what is returned is dropped. `None` if it is taken. A backend
    /// whose databases are told apart by other means has as many as are wanted.
    async fn lock(&self, number: i64) -> Result<Option<Box<dyn Send>>, StoreError>;

    /// How many rows there are, and the sum of the table's column, as text.
    async fn sums(&self, table: &Table) -> Result<(u64, String), StoreError>;
}

/// Copies everything from one to the other, and compares.
///
/// # Errors
/// Those of the stores; [`StoreError::Conflict`] when both are the same database, when the target holds more than the source, or when
/// it differs at the end.
pub async fn copy(from: &dyn Rows, to: &dyn Rows) -> Result<Vec<Copied>, StoreError> {
    if are_one(from, to).await? {
        return Err(StoreError::Conflict("the database to move to is the one to move from, by another name".into()));
    }
    for table in TABLES {
        let ((here, _), (there, _)) = (from.sums(table).await?, to.sums(table).await?);
        if there > here {
            let text = format!("the target holds {there} rows in {}, the source only {here}: it is in use", table.name);
            return Err(StoreError::Conflict(text.into()));
        }
    }
    let mut all = Vec::new();
    for table in TABLES {
        let (mut after, mut new) = (None, 0);
        loop {
            let rows = from.read(table, after.as_deref(), BATCH).await?;
            let Some(last) = rows.last() else { break };
            after = last.get(..table.key).map(<[_]>::to_vec);
            new += to.add(table, &rows).await?;
        }
        let (here, there) = (from.sums(table).await?, to.sums(table).await?);
        if here != there {
            let text = format!(
                "{}: the source holds {} rows with the sum {}, the target {} with {}; the target is in use, or the source is \
                 still written to",
                table.name, here.0, here.1, there.0, there.1
            );
            return Err(StoreError::Conflict(text.into()));
        }
        all.push(Copied { table: table.name, rows: here.0, new });
    }
    Ok(all)
}

/// Whether both lead to the same database, whatever words and ways lead there: then a lock of one is taken in the other.
async fn are_one(one: &dyn Rows, other: &dyn Rows) -> Result<bool, StoreError> {
    // Nobody else takes a lock of that number.
    let number = ExchangeId::new().0.as_u64_pair().1.cast_signed();
    let held = one.lock(number).await?;
    Ok(held.is_some() && other.lock(number).await?.is_none())
}

impl Table {
    /// The names of the columns, quoted, with commas.
    pub fn list(&self) -> String {
        let quoted: Vec<String> = self.columns.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        quoted.join(", ")
    }

    /// The columns of the key, quoted, with commas.
    pub fn keys(&self) -> String {
        let quoted: Vec<String> = self.columns.iter().take(self.key).map(|(name, _)| format!("\"{name}\"")).collect();
        quoted.join(", ")
    }

    /// Places for values from a number on, with commas.
    pub fn places(from: usize, count: usize) -> String {
        let places: Vec<String> = (from..from + count).map(|place| format!("${place}")).collect();
        places.join(", ")
    }

    /// The statement that counts the rows and sums up a column. Of each number the rest of a division, so that no sum overflows.
    pub fn sums(&self) -> String {
        let sum =
            if self.sum.is_empty() { "0".to_owned() } else { format!("coalesce(sum({} % 1000000007), 0)", self.sum) };
        format!("SELECT count(*) AS \"rows\", CAST({sum} AS TEXT) AS \"sum\" FROM {}", self.name)
    }

    /// The statement that reads a batch.
    pub fn select(&self, is_behind: bool) -> String {
        let (list, keys, name) = (self.list(), self.keys(), self.name);
        let behind =
            if is_behind { format!("WHERE ({keys}) > ({})", Self::places(2, self.key)) } else { String::new() };
        format!("SELECT {list} FROM {name} {behind} ORDER BY {keys} LIMIT $1")
    }
}

#[cfg(test)]
mod tests {
    use crate::error::StoreError;
    use crate::key::store::KeyStore;
    use crate::ledger::LedgerStore;
    use crate::route::store::RouteStore;
    use crate::store::suite::Place;
    use crate::store::suite::keys::{key, route};
    use crate::store::suite::ledger::{record, write};
    use crate::store::{Backend, copy_all};

    async fn fill(store: &dyn Backend) {
        for name in ["a", "b", "c"] {
            KeyStore::insert(store, &key(name)).await.unwrap();
            RouteStore::insert(store, &route(name, 9)).await.unwrap();
        }
        let records: Vec<_> = (0..1_234).map(|n| record(1_700_000_000_000_000 + n)).collect();
        write(store, &records).await;
    }

    #[tokio::test]
    async fn an_installation_moves_with_nothing_lost_and_again_without_harm() {
        let (here, there) = (Place::sqlite(), Place::postgres());
        let source = here.open().await;
        fill(&*source).await;
        let first = copy_all(&here.address, &there.address).await.unwrap();
        let rows = |name: &str| first.iter().find(|copied| copied.table == name).unwrap().clone();
        assert_eq!((rows("exchange").new, rows("app_key").new, rows("stored_route").new), (1_234, 3, 3));
        let again = copy_all(&here.address, &there.address).await.unwrap();
        assert!(again.iter().all(|copied| copied.new == 0));
        let target = there.open().await;
        let (mut old, mut new) = (KeyStore::all(&*source).await.unwrap(), KeyStore::all(&*target).await.unwrap());
        old.sort_by(|a, b| a.id.cmp(&b.id));
        new.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(old, new);
        assert_eq!(RouteStore::list(&*source).await.unwrap(), RouteStore::list(&*target).await.unwrap());
        let all = Default::default();
        let page = LedgerStore::find(&*source, &all).await.unwrap();
        assert_eq!(page.records, LedgerStore::find(&*target, &all).await.unwrap().records);
        assert_eq!(target.segments().await.unwrap(), source.segments().await.unwrap());
    }

    #[tokio::test]
    async fn a_database_is_not_moved_to_itself_however_it_is_spelled() {
        use crate::unit::secret::Secret;
        let place = Place::postgres();
        let source = place.open().await;
        fill(&*source).await;
        let mut again = place.address.clone();
        let separator = if again.url.expose().contains('?') { '&' } else { '?' };
        again.url = Secret::new(format!("{}{separator}application_name=other", again.url.expose()));
        let refused = copy_all(&place.address, &again).await;
        assert!(
            matches!(&refused, Err(StoreError::Conflict(text)) if text.contains("the one to move from")),
            "{refused:?}"
        );
        let other = Place::postgres();
        assert_eq!(copy_all(&place.address, &other.address).await.unwrap().len(), super::TABLES.len());
    }

    #[tokio::test]
    async fn a_target_that_is_in_use_is_refused_and_left_alone() {
        let (here, there) = (Place::sqlite(), Place::postgres());
        let target = there.open().await;
        KeyStore::insert(&*target, &key("foreign")).await.unwrap();
        assert!(matches!(copy_all(&here.address, &there.address).await, Err(StoreError::Conflict(_))));
        KeyStore::insert(&*here.open().await, &key("own")).await.unwrap();
        assert!(matches!(copy_all(&here.address, &there.address).await, Err(StoreError::Conflict(_))));
    }
}
