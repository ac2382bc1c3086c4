//! What can go wrong between a noun and its storage: four answers that a caller can act on, whatever the database is.

use std::borrow::Cow;
use std::error::Error as StdError;

use super::{Error, Kind};

/// A failure of a store. The texts name no credential and no row content.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The write contradicts what is stored: a duplicate, a stale position, a value that the schema refuses. Repeating it
    /// fails again.
    #[error("{0}")]
    Conflict(Cow<'static, str>),
    /// There is no such row.
    #[error("not found")]
    NotFound,
    /// The database cannot be reached, is locked for too long, or its disk is full. Repeating it may succeed.
    #[error("the database is away: {0}")]
    Away(Box<dyn StdError + Send + Sync>),
    /// What is stored cannot be read: a damaged file, or a value that this program did not write.
    #[error("the database holds something unreadable: {0}")]
    Corrupt(Cow<'static, str>),
    /// The database belongs to a newer version of this program.
    #[error(
        "the database has schema version {found}, this program knows up to {known}; run the newer version of the program"
    )]
    Newer {
        /// The version found in the database.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// Processes of a newer version lease from the same counters, by rules that this one does not know.
    #[error(
        "a newer version of the program leases from the same counters (protocol {found}, this one knows {known}); upgrade \
         this instance"
    )]
    Outdated {
        /// The protocol that is in force.
        found: i64,
        /// The one that this program knows.
        known: i64,
    },
}

impl From<StoreError> for Error {
    /// `Conflict` is the caller's (409), `NotFound` is 404, `Away` is 503 with a hint to try again, the rest are defects.
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(text) => Self::new(Kind::Conflict, text),
            StoreError::NotFound => Self::new(Kind::NotFound, "There is no such item."),
            StoreError::Away(cause) => {
                Self::new(Kind::Unavailable, "The database is away. Try again soon.").retry_after(1).because(cause)
            }
            outdated @ StoreError::Outdated { .. } => Self::new(Kind::Unavailable, outdated.to_string()),
            other => Self::new(Kind::Internal, "The database holds something that cannot be read.").because(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_away_becomes_503_and_hides_the_cause() {
        let error = Error::from(StoreError::Away("unable to open /srv/secret/marg.db".into()));
        assert_eq!(error.kind().status(), 503);
        assert_eq!(error.retry_after_seconds(), Some(1));
        assert!(!error.to_string().contains("/srv"), "{error}");
    }
}
