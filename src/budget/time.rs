//! The clock of the authority, as this process knows it.
//!
//! Each answer says what time it is there. The true time then lies between the answer's time plus what has passed since it came
//! in, and plus what has passed since it was asked for. Windows are named by the earlier of both, so that a window is never
//! named before it begins; charges carry the later, so that a sliding window never forgets them early.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use crate::unit::clock::{Tick, Timestamp};

/// Microseconds on a clock that never goes back.
pub(super) type Micros = Arc<dyn Fn() -> i64 + Send + Sync>;

pub(super) struct Clock {
    micros: Micros,
    early: AtomicI64,
    late: AtomicI64,
}

impl Clock {
    /// The clock of this process, until an authority says better.
    pub(super) fn system() -> Self {
        let start = Tick::now();
        Self::new(Arc::new(move || span(start.elapsed())), Timestamp::now())
    }

    pub(super) fn new(micros: Micros, now: Timestamp) -> Self {
        let offset = now.micros() - micros();
        Self { micros, early: AtomicI64::new(offset), late: AtomicI64::new(offset) }
    }

    /// A reading for spans inside this process.
    pub(super) fn micros(&self) -> i64 {
        (self.micros)()
    }

    /// The authority's time at a reading, or shortly before.
    pub(super) fn early(&self, micros: i64) -> Timestamp {
        Timestamp(micros.saturating_add(self.early.load(Relaxed)))
    }

    /// The authority's time at a reading, or shortly after.
    pub(super) fn late(&self, micros: i64) -> Timestamp {
        Timestamp(micros.saturating_add(self.late.load(Relaxed)))
    }

    /// Takes an answer that was asked for at a reading.
    pub(super) fn learn(&self, answer: Timestamp, asked: i64) {
        self.early.store(answer.micros().saturating_sub(self.micros()), Relaxed);
        self.late.store(answer.micros().saturating_sub(asked), Relaxed);
    }
}

/// A span in microseconds.
pub(super) fn span(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A span from microseconds; nothing if negative.
pub(super) fn duration(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}
