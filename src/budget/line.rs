//! A limit in force, with the accounts of its subjects.
//!
//! A line outlives a change of its limit: its accounts keep their leases when only the amount, the action, the models or the
//! name change. Accounts are made when a call first needs them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use super::account::Account;
use super::authority::Pace;
use super::limit::{Action, Limit, Scope, Unit, Window};
use super::window::{MINUTE_SECONDS, Spans};
use crate::unit::clock::Timestamp;

/// A limit in force.
pub(super) struct Line {
    pub(super) id: Arc<str>,
    pub(super) scope: Scope,
    pub(super) unit: Unit,
    pub(super) spans: Spans,
    /// Whether the window is paced.
    pub(super) paced: bool,
    limit: ArcSwap<Limit>,
    amount: AtomicI64,
    refuses: AtomicBool,
    warns: AtomicBool,
    accounts: Mutex<HashMap<Arc<str>, Arc<Account>>>,
}

/// There are as many accounts as may be.
pub(super) struct Full;

impl Line {
    /// `None` when the time zone is not known, which `Limit::check` refuses.
    pub(super) fn new(limit: Limit) -> Option<Self> {
        let line = Self {
            id: limit.id.clone(),
            scope: limit.scope,
            unit: limit.unit,
            spans: Spans::new(&limit.window).ok()?,
            paced: matches!(limit.window, Window::Paced { .. }),
            amount: AtomicI64::new(0),
            refuses: AtomicBool::new(true),
            warns: AtomicBool::new(false),
            accounts: Mutex::default(),
            limit: ArcSwap::from_pointee(limit.clone()),
        };
        line.change(limit);
        Some(line)
    }

    /// Whether this line's counters mean the same under that limit.
    pub(super) fn fits(&self, limit: &Limit) -> bool {
        let own = self.limit.load();
        let same_window = own.window == limit.window || (self.paced && matches!(limit.window, Window::Paced { .. }));
        self.id == limit.id && self.scope == limit.scope && self.unit == limit.unit && same_window
    }

    /// Takes a changed limit. Says whether less may be spent than before, so that free parts of leases must go back.
    pub(super) fn change(&self, limit: Limit) -> bool {
        let before = self.amount.swap(limit.amount, Relaxed);
        self.refuses.store(limit.action != Action::Warn, Relaxed);
        self.warns.store(!limit.warn_at_percent.is_empty(), Relaxed);
        let lower = limit.amount < before;
        self.limit.store(Arc::new(limit));
        lower
    }

    /// The limit as it is now.
    pub(super) fn limit(&self) -> Arc<Limit> {
        self.limit.load_full()
    }

    pub(super) fn amount(&self) -> i64 {
        self.amount.load(Relaxed)
    }

    /// The most that one call may need.
    pub(super) fn most(&self) -> i64 {
        self.pace().map_or(self.amount(), |pace| pace.burst)
    }

    /// Whether what does not fit is refused, rather than only told.
    pub(super) fn refuses(&self) -> bool {
        self.refuses.load(Relaxed)
    }

    /// Whether it has thresholds.
    pub(super) fn warns(&self) -> bool {
        self.warns.load(Relaxed)
    }

    /// How it flows, if it is paced.
    pub(super) fn pace(&self) -> Option<Pace> {
        if !self.paced {
            return None;
        }
        match self.limit.load().window {
            Window::Paced { burst } => {
                Some(Pace { burst, period: std::time::Duration::from_secs(MINUTE_SECONDS.into()) })
            }
            _ => None,
        }
    }

    /// Whether the limit is for calls of that model.
    pub(super) fn takes_model(limit: &Limit, model: Option<&str>) -> bool {
        limit.models.is_empty() || model.is_some_and(|model| limit.models.iter().any(|glob| glob.matches(model)))
    }

    /// The account of a subject, made if it is not there; `count` is how many accounts there are, `most` how many may be.
    pub(super) fn account(
        self: &Arc<Self>,
        subject: &str,
        (now, micros): (Timestamp, i64),
        (count, most): (&AtomicUsize, usize),
    ) -> Result<Arc<Account>, Full> {
        let mut accounts = self.accounts();
        if let Some(account) = accounts.get(subject) {
            return Ok(account.clone());
        }
        if count.fetch_add(1, Relaxed) >= most {
            count.fetch_sub(1, Relaxed);
            return Err(Full);
        }
        let subject: Arc<str> = subject.into();
        let account = Arc::new(Account::new(self.clone(), subject.clone(), now, micros));
        accounts.insert(subject, account.clone());
        Ok(account)
    }

    /// The account of a subject, if there is one.
    pub(super) fn known(&self, subject: &str) -> Option<Arc<Account>> {
        self.accounts().get(subject).cloned()
    }

    /// All accounts that there are now.
    pub(super) fn all(&self) -> Vec<Arc<Account>> {
        self.accounts().values().cloned().collect()
    }

    /// Forgets accounts that nobody else holds and that `spare` lets go; gives how many. Nobody can take an account meanwhile:
    /// all ways to one that is held here only lead through this lock.
    pub(super) fn forget(&self, spare: impl Fn(&Account) -> bool) -> usize {
        let mut accounts = self.accounts();
        let before = accounts.len();
        accounts.retain(|_, account| Arc::strong_count(account) > 1 || !spare(account));
        if accounts.len() < before / 2 {
            accounts.shrink_to_fit();
        }
        before - accounts.len()
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Account>>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
