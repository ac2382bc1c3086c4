//! What the tests of this room share, and the tests of [`Budget`] on one process.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::limit::{Action, Limit, Scope, Unit, Window};
use super::memory::Memory;
use super::time::Clock;
use super::*;
use crate::key::Key;
use crate::unit::charge::{CounterId, WindowId};

/// A limit for each subject of a scope: a day in UTC for what is spent, the present for what runs.
pub(super) fn limit(id: &str, scope: Scope, unit: Unit, amount: i64) -> Limit {
    Limit {
        id: id.into(),
        name: id.into(),
        scope,
        subject: None,
        models: Vec::new(),
        unit,
        window: if unit == Unit::Concurrent { Window::Now } else { Window::Day { timezone: "UTC".into() } },
        amount,
        action: Action::Refuse,
        warn_at_percent: Vec::new(),
        enabled: true,
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
    }
}

/// A key of team `research` in the org `acme`, labelled `tier:gold`.
pub(super) fn key(id: &str) -> Key {
    let json = serde_json::json!({
        "id": id, "name": id, "hint": "", "org": "acme", "team": "research", "user": null,
        "labels": {"tier": "gold"}, "enabled": true, "created_at": 0,
    });
    serde_json::from_value(json).unwrap()
}
