//! Values and rows, as every backend can bind and read them.
//!
//! What a noun looks like as a row is written once (`record`, and the tables that `copy` moves); a backend says only how it
//! binds a value and how it reads a column.

use std::borrow::Cow;
use std::future::poll_fn;
use std::pin::Pin;

use futures_core::Stream;
use serde::de::DeserializeOwned;

use crate::error::StoreError;
use crate::unit::clock::Timestamp;

/// A value of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'v> {
    /// A whole number.
    Integer(Option<i64>),
    /// Text.
    Text(Option<Cow<'v, str>>),
    /// Bytes.
    Bytes(Option<Cow<'v, [u8]>>),
    /// Yes or no.
    Flag(bool),
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A whole number of 64 bits.
    Integer,
    /// Text.
    Text,
    /// Bytes.
    Bytes,
    /// Yes or no; SQLite keeps it as 0 or 1.
    Flag,
}

impl<'v> Value<'v> {
    pub fn text(text: &'v str) -> Self {
        Self::Text(Some(Cow::Borrowed(text)))
    }

    pub fn maybe(text: Option<&'v str>) -> Self {
        Self::Text(text.map(Cow::Borrowed))
    }

    pub fn owned(text: Option<String>) -> Self {
        Self::Text(text.map(Cow::Owned))
    }
}

/// Reads rows one by one, as they come: a row in the database's form takes several kilobytes, and of all keys there may be a
/// hundred thousand.
pub async fn gather<R, T>(
    mut rows: Pin<Box<dyn Stream<Item = Result<R, sqlx::Error>> + Send + '_>>,
    failed: fn(sqlx::Error) -> StoreError,
    read: fn(&R) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut found = Vec::new();
    while let Some(row) = poll_fn(|context| rows.as_mut().poll_next(context)).await {
        found.push(read(&row.map_err(failed)?)?);
    }
    Ok(found)
}

/// A row that a query gave. Every method fails with [`StoreError::Corrupt`] when there is no such column or it holds something
/// else.
pub trait Row {
    fn integer(&self, column: &str) -> Result<Option<i64>, StoreError>;
    fn text(&self, column: &str) -> Result<Option<String>, StoreError>;
    fn bytes(&self, column: &str) -> Result<Option<Vec<u8>>, StoreError>;
    fn flag(&self, column: &str) -> Result<bool, StoreError>;

    /// Text that is never missing.
    fn word(&self, column: &str) -> Result<String, StoreError> {
        self.text(column)?.ok_or_else(|| missing(column))
    }

    /// A number that is never missing.
    fn number(&self, column: &str) -> Result<i64, StoreError> {
        self.integer(column)?.ok_or_else(|| missing(column))
    }

    /// A number that is never negative.
    fn count(&self, column: &str) -> Result<Option<u64>, StoreError> {
        let count = self.integer(column)?.map(u64::try_from).transpose();
        count.map_err(|_| StoreError::Corrupt(format!("column {column} is negative").into()))
    }

    /// A column of JSON text; the default of its type when there is nothing.
    fn json<T: DeserializeOwned + Default>(&self, column: &str) -> Result<T, StoreError> {
        let Some(text) = self.text(column)? else { return Ok(T::default()) };
        serde_json::from_str(&text).map_err(|cause| StoreError::Corrupt(format!("column {column}: {cause}").into()))
    }

    /// A column of JSON text that is never missing.
    fn parsed<T: DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        serde_json::from_str(&self.word(column)?)
            .map_err(|cause| StoreError::Corrupt(format!("column {column}: {cause}").into()))
    }

    /// A point in time, in microseconds.
    fn time(&self, column: &str) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.integer(column)?.map(Timestamp))
    }

    /// A column as a value, for moving rows from one backend to another.
    fn value(&self, column: &str, holds: Type) -> Result<Value<'static>, StoreError> {
        Ok(match holds {
            Type::Integer => Value::Integer(self.integer(column)?),
            Type::Text => Value::owned(self.text(column)?),
            Type::Bytes => Value::Bytes(self.bytes(column)?.map(Cow::Owned)),
            Type::Flag => Value::Flag(self.flag(column)?),
        })
    }
}

fn missing(column: &str) -> StoreError {
    StoreError::Corrupt(format!("column {column} is empty").into())
}

/// A value as JSON text.
pub fn json(value: &(impl serde::Serialize + ?Sized)) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|cause| StoreError::Conflict(cause.to_string().into()))
}
