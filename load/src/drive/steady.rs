//! Load from threads that block: one thread and one connection each, with or without a schedule.
//!
//! A sleeping thread wakes within a few dozen microseconds (the timer slack is set to 1 ns), a runtime's timer only within a
//! millisecond; for the latency of single requests that difference is everything.

use std::num::NonZeroU64;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rustix::thread::set_current_timer_slack;

use crate::clock::{now_ns, sleep_until};
use crate::exchange::{Meter, Tally};
use crate::request::Request;
use crate::target::{Target, ask};

/// When requests are due.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Connections, each with its own thread.
    pub connections: usize,
    /// Requests a second over all of them; none sends the next as soon as the answer is there.
    pub per_second: Option<f64>,
}

impl Schedule {
    /// The time between two requests of one connection.
    fn interval_ns(self) -> Option<u64> {
        self.per_second.map(|rate| (1e9 * self.connections as f64 / rate.max(0.001)) as u64)
    }

    /// The share of an interval after which connection `index` begins, so that all of them together are evenly spread.
    fn offset_ns(self, index: usize) -> u64 {
        self.interval_ns().unwrap_or(0) * index as u64 / self.connections.max(1) as u64
    }
}

/// Runs the schedule until the meter says stop.
pub fn run(target: &Target, request: &Request, meter: &Meter, schedule: Schedule) -> Tally {
    let start_ns = now_ns();
    let mut all = Tally::default();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..schedule.connections)
            .map(|index| {
                scope.spawn(move || {
                    let due_ns = start_ns + schedule.offset_ns(index);
                    connection(target, request, meter, (due_ns, schedule.interval_ns()))
                })
            })
            .collect();
        for thread in threads {
            match thread.join() {
                Ok(tally) => all.merge(&tally),
                Err(_) => all.fail(&anyhow!("a thread of the load panicked"), meter),
            }
        }
    });
    all
}

fn connection(
    target: &Target,
    request: &Request,
    meter: &Meter,
    (first_due_ns, interval_ns): (u64, Option<u64>),
) -> Tally {
    let mut tally = Tally::default();
    if let Err(error) = set_current_timer_slack(NonZeroU64::new(1)) {
        tally.fail(&anyhow!(error), meter);
        return tally;
    }
    let mut stream = None;
    let mut due_ns = first_due_ns;
    while !meter.is_stopping() {
        let started_ns = match interval_ns {
            Some(interval) => {
                sleep_until(due_ns);
                due_ns += interval;
                due_ns - interval
            }
            None => now_ns(),
        };
        let result = match &mut stream {
            Some(stream) => ask(stream, request, started_ns, meter, &mut tally),
            None => target
                .connect()
                .context("connect")
                .and_then(|opened| ask(stream.insert(opened), request, started_ns, meter, &mut tally)),
        };
        match result {
            Ok(true) => {}
            Ok(false) => stream = None,
            Err(error) => {
                tally.fail(&error, meter);
                stream = None;
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connections_together_make_the_rate_and_are_evenly_spread() {
        let schedule = Schedule { connections: 16, per_second: Some(1000.0) };
        assert_eq!(schedule.interval_ns(), Some(16_000_000));
        let offsets: Vec<u64> = (0..16).map(|index| schedule.offset_ns(index)).collect();
        assert!(offsets.windows(2).all(|pair| pair[1] - pair[0] == 1_000_000), "{offsets:?}");
    }

    #[test]
    fn without_a_rate_nothing_is_waited_for() {
        let schedule = Schedule { connections: 1, per_second: None };
        assert_eq!((schedule.interval_ns(), schedule.offset_ns(0)), (None, 0));
    }
}
