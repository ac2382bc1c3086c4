//! The one clock of the harness: monotonic nanoseconds, the same in every process of this machine.
//!
//! The mock stamps each chunk with it and the load reads the stamp, so the time that a chunk spent inside the target is
//! known exactly instead of being guessed from gaps.

use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the machine started (`CLOCK_MONOTONIC`).
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let rest = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * 1_000_000_000 + rest
}

/// Blocks this thread until `deadline_ns`; returns at once if it has passed.
pub fn sleep_until(deadline_ns: u64) {
    let now = now_ns();
    if deadline_ns > now {
        thread::sleep(Duration::from_nanos(deadline_ns - now));
    }
}
