//! The ways to put load on a target. All of them keep their connections open and count into one `Meter`.

mod closed;
mod steady;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::exchange::{Meter, Tally};
use crate::request::Request;
use crate::target::Target;

/// How requests follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Drive {
    /// So many connections, each sends its next request when it has the answer (asynchronous, for throughput and CPU).
    Closed {
        /// Connections.
        connections: usize,
        /// The time over which they begin, so that paced streams start and end evenly and not all at once.
        ramp_ms: u64,
    },
    /// One connection on a thread of its own, the next request right after the answer (for the latency of one request).
    Single,
    /// A fixed number of requests a second over so many connections with a thread each. Latency counts from when a request
    /// was due, so a target that stalls cannot hide the requests that it kept from being sent.
    Rate {
        /// Connections; each has its share of the schedule.
        connections: usize,
        /// Requests a second.
        per_second: f64,
    },
}

impl Drive {
    /// How long it takes until every connection has begun.
    pub fn ramp(self) -> Duration {
        match self {
            Self::Closed { ramp_ms, .. } => Duration::from_millis(ramp_ms),
            Self::Single | Self::Rate { .. } => Duration::ZERO,
        }
    }

    /// Puts load on the target until `meter.stopping` is set and every running exchange is over.
    pub fn run(self, target: &Target, request: &Request, meter: &Arc<Meter>, runtime: &Runtime) -> Tally {
        match self {
            Self::Closed { connections, ramp_ms } => {
                runtime.block_on(closed::run(target, request, meter, (connections, ramp_ms)))
            }
            Self::Single => steady::run(target, request, meter, steady::Schedule { connections: 1, per_second: None }),
            Self::Rate { connections, per_second } => {
                steady::run(target, request, meter, steady::Schedule { connections, per_second: Some(per_second) })
            }
        }
    }
}
