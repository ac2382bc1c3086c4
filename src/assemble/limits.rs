//! The limits in force – those of the configuration file and those in the store – and how their counters stand.

use std::sync::Arc;

use crate::assemble::core::Core;
use crate::budget::authority::{Authority, Standing};
use crate::budget::limit::Limit;
use crate::budget::store::LimitStore;
use crate::error::{Error, Kind, Result};

/// The most counters that one reset may touch; more are reset one subject at a time.
const MAX_RESET: usize = 100_000;

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

    /// Whoever owns the counters.
    ///
    /// # Errors
    /// `Unavailable` when nobody does.
    pub(super) fn authority(&self) -> Result<Arc<dyn Authority>> {
        Err(Error::new(Kind::Unavailable, "Nobody owns the counters of limits here."))
    }

    /// Puts the limits that are known in force. Costs no I/O.
    pub(super) fn apply_limits(&self) {
        let (loaded, stored) = (self.loaded.load(), self.stored_limits.load());
        let limits: Vec<Limit> = loaded.config.limits.iter().chain(stored.iter()).cloned().collect();
        tracing::debug!(limits = limits.len(), "limits in force");
    }
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
