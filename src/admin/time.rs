//! A point in time as the admin API writes it: RFC 3339 in UTC, with microseconds.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::unit::clock::Timestamp;

/// A [`Timestamp`] that is read and written as RFC 3339 only, until [`Timestamp::LATEST`]. Times before 1970 read as the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Timestamp);

impl From<Timestamp> for Time {
    fn from(at: Timestamp) -> Self {
        Self(at)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.rfc3339())
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = text.parse::<jiff::Timestamp>().ok().filter(|_| !text.contains('['));
        let time = time.ok_or_else(|| {
            serde::de::Error::custom(format_args!(
                "a time is written in RFC 3339, such as 2026-11-21T09:30:00Z, and is not after {}",
                Timestamp::LATEST
            ))
        })?;
        Ok(Self(Timestamp(time.as_microsecond().max(0))))
    }
}

impl PartialSchema for Time {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .into()
    }
}

impl ToSchema for Time {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_out_of_range_is_told_the_range() {
        let wrong = serde_json::from_str::<Time>("\"9999-12-31T23:59:59Z\"").unwrap_err().to_string();
        assert!(wrong.contains(Timestamp::LATEST), "{wrong}");
        assert!(serde_json::from_str::<Time>(&format!("\"{}\"", Timestamp::LATEST)).is_ok());
    }

    #[test]
    fn only_rfc_3339_is_a_time() {
        for wrong in ["0", "\"0\"", "\"2026-11-21\"", "\"2026-11-21T09:30:00+01:00[Europe/Paris]\"", "\"\"", "12"] {
            assert!(serde_json::from_str::<Time>(wrong).is_err(), "{wrong}");
        }
        let time: Time = serde_json::from_str("\"2026-11-21T10:30:00+01:00\"").unwrap();
        assert_eq!(serde_json::to_string(&time).unwrap(), "\"2026-11-21T09:30:00.000000Z\"");
    }
}
