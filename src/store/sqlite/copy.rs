//! Rows of any table, in SQLite.

use async_trait::async_trait;
use sqlx::AssertSqlSafe;

use super::super::copy::{Rows, Table};
use super::super::value::{Row, Value};
use super::{Store, bind, failed};
use crate::error::StoreError;

#[async_trait]
impl Rows for Store {
    async fn read(
        &self,
        table: &Table,
        after: Option<&[Value<'static>]>,
        most: usize,
    ) -> Result<Vec<Vec<Value<'static>>>, StoreError> {
        let statement = sqlx::query(AssertSqlSafe(table.select(after.is_some()))).persistent(false);
        let statement = statement.bind(i64::try_from(most).unwrap_or(i64::MAX));
        let statement = after.into_iter().flatten().cloned().fold(statement, bind);
        let rows = statement.fetch_all(&self.readers).await.map_err(failed)?;
        rows.iter().map(|row| table.columns.iter().map(|(name, holds)| row.value(name, *holds)).collect()).collect()
    }

    async fn add(&self, table: &Table, rows: &[Vec<Value<'static>>]) -> Result<u64, StoreError> {
        let (name, list, places) = (table.name, table.list(), Table::places(1, table.columns.len()));
        let text = format!("INSERT INTO {name} ({list}) VALUES ({places}) ON CONFLICT ({}) DO NOTHING", table.keys());
        let mut transaction = self.write().await?;
        let mut new = 0;
        for row in rows {
            let statement = row.iter().cloned().fold(sqlx::query(AssertSqlSafe(text.clone())), bind);
            new += statement.execute(&mut *transaction).await.map_err(failed)?.rows_affected();
        }
        transaction.commit().await.map_err(failed)?;
        Ok(new)
    }

    async fn lock(&self, _: i64) -> Result<Option<Box<dyn Send>>, StoreError> {
        // The command compares files.
        Ok(Some(Box::new(())))
    }

    async fn sums(&self, table: &Table) -> Result<(u64, String), StoreError> {
        let statement = sqlx::query(AssertSqlSafe(table.sums())).persistent(false);
        let row = statement.fetch_one(&self.readers).await.map_err(failed)?;
        Ok((row.count("rows")?.unwrap_or(0), row.word("sum")?))
    }
}
