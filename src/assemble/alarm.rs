//! The alarm of the audit log: what is wrong with it, told in four ways – the log of the process, `/ready`, a metric, and the
//! webhook of the operator.
//!
//! Each thing that can be wrong is raised and cleared once; what was told is not repeated while it lasts.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::telemetry::metrics::METRICS;
use crate::unit::clock::Timestamp;

/// The most events that wait for the webhook.
const QUEUE: usize = 256;

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// It cannot be opened or written.
    Writing,
    /// Entries wait for a checkpoint for too long.
    Checkpoint,
    /// Too few witnesses have cosigned for too long.
    Witnesses,
    /// A witness has cosigned more of the log than there is, or another history of it.
    Rollback,
    /// Something is missing in it. Told, and not lasting.
    Gap,
}

impl What {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Writing, Self::Checkpoint, Self::Witnesses, Self::Rollback, Self::Gap];

    /// The word for it, in the metric and in the webhook.
    pub fn name(self) -> &'static str {
        match self {
            Self::Writing => "writing",
            Self::Checkpoint => "checkpoint",
            Self::Witnesses => "witnesses",
            Self::Rollback => "rollback",
            Self::Gap => "gap",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::Writing => "ALARM: the audit log cannot be written; the journal keeps its entries",
            Self::Checkpoint => "ALARM: entries of the audit log are not signed",
            Self::Witnesses => "ALARM: too few witnesses cosign the audit log",
            Self::Rollback => {
                "ALARM: a witness has seen another copy of this audit log: it was put back to an older one, or forked"
            }
            Self::Gap => "ALARM: something is missing in the audit log",
        }
    }
}

/// Something began or ceased to be wrong.
#[derive(Clone, Debug)]
pub struct AlarmEvent {
    what: What,
    raised: bool,
    cause: String,
    at: Timestamp,
}

/// What is wrong at present.
pub struct Alarms {
    present: Mutex<BTreeMap<What, String>>,
    events: broadcast::Sender<AlarmEvent>,
}

impl Default for Alarms {
    fn default() -> Self {
        for what in What::ALL {
            METRICS.audit_alarm.with_label_values(&[what.name()]).set(0);
        }
        Self { present: Mutex::default(), events: broadcast::Sender::new(QUEUE) }
    }
}

impl Alarms {
    fn present(&self) -> MutexGuard<'_, BTreeMap<What, String>> {
        // A map stays whole whatever panics while it is held.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how one thing stands: why it is wrong, or `None`. Telling what was told already costs a lock.
    pub fn set(&self, what: What, cause: Option<String>) {
        let mut present = self.present();
        let before = match &cause {
            Some(cause) => present.insert(what, cause.clone()),
            None => present.remove(&what),
        };
        drop(present);
        match (before, cause) {
            (None, Some(cause)) => self.tell(what, true, cause),
            (Some(cause), None) => self.tell(what, false, cause),
            _ => {}
        }
    }

    /// Tells of something that happened and does not last.
    pub fn happened(&self, what: What, cause: String) {
        self.tell(what, true, cause);
    }

    fn tell(&self, what: What, raised: bool, cause: String) {
        if raised {
            tracing::error!(cause, what = what.name(), "{}", what.sentence());
        } else {
            tracing::info!(cause, what = what.name(), "the alarm of the audit log is over");
        }
        if what != What::Gap {
            METRICS.audit_alarm.with_label_values(&[what.name()]).set(i64::from(raised));
        }
        // Nobody listens where there is no webhook.
        drop(self.events.send(AlarmEvent { what, raised, cause, at: Timestamp::now() }));
    }

    /// What is wrong, in words for operators; empty while all is well.
    pub fn words(&self) -> Vec<&'static str> {
        self.present().keys().map(|what| what.name()).collect()
    }

    /// Events as they come.
    pub fn events(&self) -> broadcast::Receiver<AlarmEvent> {
        self.events.subscribe()
    }
}

/// What an event says, as `docs/operations.md` describes it.
pub fn document(AlarmEvent { what, raised, cause, at }: &AlarmEvent) -> Value {
    json!({
        "event": "audit_alarm", "at": at.rfc3339(), "what": what.name(), "raised": raised, "cause": cause,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_alarm_is_told_once_when_it_begins_and_once_when_it_ends() {
        let alarms = Alarms::default();
        let mut events = alarms.events();
        for cause in [None, Some("one"), Some("two"), None, None] {
            alarms.set(What::Checkpoint, cause.map(str::to_owned));
        }
        let told: Vec<Value> = std::iter::from_fn(|| events.try_recv().ok()).map(|event| document(&event)).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!((&told[0]["raised"], &told[1]["raised"]), (&json!(true), &json!(false)));
        assert!(alarms.words().is_empty());
        alarms.happened(What::Gap, "x".to_owned());
        assert!(alarms.words().is_empty(), "a gap is told and does not last");
    }
}
