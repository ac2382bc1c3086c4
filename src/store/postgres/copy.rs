//! Rows of any table, in PostgreSQL.

use async_trait::async_trait;
use sqlx::AssertSqlSafe;

use super::super::copy::{Rows, Table};
use super::super::value::{Row, Value};
use super::{Store, bind, failed};
use crate::error::StoreError;

/// Numbers that were copied are not given again.
const NUMBERS: &str = "SELECT setval(pg_get_serial_sequence('price_adjustment', 'number'), \
                       (SELECT greatest(max(number), 1) FROM price_adjustment))";

/// Ends with its transaction.
const LOCK: &str = "SELECT pg_try_advisory_xact_lock($1) AS mine";

#[async_trait]
impl Rows for Store {
    async fn read(
        &self,
        table: &Table,
        after: Option<&[Value<'static>]>,
        most: usize,
    ) -> Result<Vec<Vec<Value<'static>>>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let statement = sqlx::query(AssertSqlSafe(table.select(after.is_some()))).persistent(false);
            let statement = statement.bind(i64::try_from(most).unwrap_or(i64::MAX));
            let rows = work.all(after.into_iter().flatten().cloned().fold(statement, bind)).await?;
            rows.iter().map(|row| table.columns.iter().map(|(name, holds)| row.value(name, *holds)).collect()).collect()
        })
        .await
    }

    async fn add(&self, table: &Table, rows: &[Vec<Value<'static>>]) -> Result<u64, StoreError> {
        // Whose segments these are is known here alone.
        let is_position = table.name.ends_with("_position");
        let (name, mut list, mut width) = (table.name, table.list(), table.columns.len());
        if is_position {
            list.push_str(", node");
            width += 1;
        }
        let places = Table::places(1, width);
        let unique = [table.keys(), table.unique.to_owned()].join(if table.unique.is_empty() { "" } else { ", " });
        let text = format!("INSERT INTO {name} ({list}) VALUES ({places}) ON CONFLICT ({unique}) DO NOTHING");
        let mut work = self.begin().await?;
        let mut new = 0;
        for row in rows {
            let statement = sqlx::query(AssertSqlSafe(text.clone())).persistent(work.named);
            let mut statement = row.iter().cloned().fold(statement, bind);
            if is_position {
                statement = statement.bind(self.node.to_string());
            }
            new += work.execute(statement).await?.rows_affected();
        }
        if name == "price_adjustment" {
            work.one(work.sql(NUMBERS)).await?;
        }
        work.commit().await?;
        Ok(new)
    }

    async fn lock(&self, number: i64) -> Result<Option<Box<dyn Send>>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let row = work.one(work.filled(LOCK, [Value::Integer(Some(number))])).await?;
            let mine = row.flag("mine")?;
            Ok(mine.then(|| Box::new(work) as Box<dyn Send>))
        })
        .await
    }

    async fn sums(&self, table: &Table) -> Result<(u64, String), StoreError> {
        // Without the usual bound: a large table takes its time.
        let mut work = self.begin().await?;
        let unbounded = "SELECT set_config('statement_timeout', '0', true)";
        work.one(work.sql(unbounded)).await?;
        let statement = sqlx::query(AssertSqlSafe(table.sums())).persistent(false);
        let row = statement.fetch_one(work.connection()).await.map_err(failed)?;
        Ok((row.count("rows")?.unwrap_or(0), row.word("sum")?))
    }
}
