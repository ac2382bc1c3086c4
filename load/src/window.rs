//! One window: load on one target for a warm-up and a measured time, and what came of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use serde::Serialize;
use tokio::runtime::Runtime;

use crate::clock::now_ns;
use crate::drive::Drive;
use crate::exchange::{Meter, Tally};
use crate::histogram::Histogram;
use crate::proc::{CpuReading, Memory};
use crate::request::Request;
use crate::target::Target;

/// How long a window is.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Span {
    /// Load without measuring; longer where the load needs longer to be complete.
    pub warm_up: Duration,
    /// Load with measuring.
    pub measured: Duration,
}

/// What was measured in one window.
#[derive(Clone, Debug, Serialize)]
pub struct Window {
    /// Correct answers within the measured time.
    pub requests: u64,
    /// Stream events within the measured time.
    pub events: u64,
    /// Failures in the whole window, warm-up and end included. A window with any is not used.
    pub failed: u64,
    /// The first failure's words.
    pub failure: Option<String>,
    /// The measured time.
    pub seconds: f64,
    /// CPU nanoseconds of the target process; none if its process is not known.
    pub cpu_ns: Option<u64>,
    /// Nanoseconds in which a thread of the target waited for the core.
    pub waited_ns: Option<u64>,
    /// Resident bytes of the target at the end.
    pub rss: Option<u64>,
    /// Times of whole requests.
    pub latency: Option<Quantiles>,
    /// Times to the first event.
    pub first: Option<Quantiles>,
    /// Times between events.
    pub gap: Option<Quantiles>,
    /// Times of events between mock and load.
    pub delay: Option<Quantiles>,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantiles {
    /// Values counted.
    pub count: u64,
    /// Half of them are not above this.
    pub p50_us: f64,
    /// 90 %.
    pub p90_us: f64,
    /// 99 %.
    pub p99_us: f64,
    /// 99.9 %.
    pub p999_us: f64,
    /// All.
    pub max_us: f64,
}

impl Quantiles {
    fn of(histogram: &Histogram) -> Option<Self> {
        let us = |share| Some(histogram.quantile(share)? as f64 / 1000.0);
        Some(Self {
            count: histogram.total(),
            p50_us: us(0.5)?,
            p90_us: us(0.9)?,
            p99_us: us(0.99)?,
            p999_us: us(0.999)?,
            max_us: histogram.largest() as f64 / 1000.0,
        })
    }
}

/// Runs one window.
///
/// # Errors
/// When the target process cannot be read, most likely because it ended.
pub fn run(target: &Target, request: &Request, drive: Drive, span: Span, runtime: &Runtime) -> anyhow::Result<Window> {
    let meter = Arc::new(Meter::default());
    thread::scope(|scope| {
        let load = scope.spawn(|| drive.run(target, request, &meter, runtime));
        thread::sleep(span.warm_up.max(drive.ramp() + Duration::from_millis(100)));
        meter.measuring.store(true, Ordering::Relaxed);
        let measured = measure(target, &meter, span.measured);
        meter.measuring.store(false, Ordering::Relaxed);
        meter.stopping.store(true, Ordering::Relaxed);
        let tally = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))?;
        Ok(window(measured?, tally, meter.failed.load(Ordering::Relaxed)))
    })
}

/// The readings at one moment; counters and CPU time are read together, so that their quotient is exact.
struct Reading {
    at_ns: u64,
    requests: u64,
    events: u64,
    cpu: Option<CpuReading>,
}

impl Reading {
    fn take(target: &Target, meter: &Meter) -> anyhow::Result<Self> {
        Ok(Self {
            cpu: target.pid.map(CpuReading::take).transpose()?,
            requests: meter.done.load(Ordering::Relaxed),
            events: meter.events.load(Ordering::Relaxed),
            at_ns: now_ns(),
        })
    }
}

struct Measured {
    from: Reading,
    to: Reading,
    rss: Option<u64>,
}

fn measure(target: &Target, meter: &Meter, measured: Duration) -> anyhow::Result<Measured> {
    let from = Reading::take(target, meter)?;
    thread::sleep(measured);
    let to = Reading::take(target, meter)?;
    let rss = target.pid.map(Memory::take).transpose()?.map(|memory| memory.rss);
    Ok(Measured { from, to, rss })
}

fn window(Measured { from, to, rss }: Measured, tally: Tally, failed: u64) -> Window {
    let cpu = to.cpu.as_ref().zip(from.cpu.as_ref()).map(|(to, from)| to.since(from));
    Window {
        requests: to.requests - from.requests,
        events: to.events - from.events,
        failed,
        failure: tally.failure,
        seconds: (to.at_ns - from.at_ns) as f64 / 1e9,
        cpu_ns: cpu.map(|cpu| cpu.busy_ns),
        waited_ns: cpu.map(|cpu| cpu.waited_ns),
        rss,
        latency: Quantiles::of(&tally.latency),
        first: Quantiles::of(&tally.first),
        gap: Quantiles::of(&tally.gap),
        delay: Quantiles::of(&tally.delay),
    }
}
