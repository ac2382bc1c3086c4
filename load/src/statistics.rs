//! Medians and spreads over rounds, and the comparison of two targets round by round.

use serde::Serialize;

use crate::scenario::Unit;
use crate::window::{Quantiles, Window};

/// A figure over several rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// Of these values; none if there are none.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        let lower = if values.len().is_multiple_of(2) { *values.get(middle - 1)? } else { upper };
        Some(Self { median: f64::midpoint(lower, upper), least, most })
    }
}

/// What a target did in one scenario: medians over its valid windows.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Windows without a failure.
    pub valid: usize,
    /// Windows with failures; they are not in the figures.
    pub invalid: usize,
    /// CPU microseconds of the process for each request or chunk.
    pub cpu_us: Option<Spread>,
    /// Requests a second.
    pub requests_per_second: Option<Spread>,
    /// Chunks a second.
    pub chunks_per_second: Option<Spread>,
    /// The share of one core that the process used.
    pub busy: Option<Spread>,
    /// The time that its threads waited for a core, as a share of the time.
    pub waited: Option<Spread>,
    /// Times of whole requests.
    pub latency: Option<Times>,
    /// Times to the first event of a stream.
    pub first: Option<Times>,
    /// Times between events.
    pub gap: Option<Times>,
    /// Times of events between mock and load.
    pub delay: Option<Times>,
    /// Resident bytes at the end of the first and the last window.
    pub rss: Option<(u64, u64)>,
}

/// Percentiles in microseconds, each a median over the windows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Times {
    /// 50 %.
    pub p50: Spread,
    /// 90 %.
    pub p90: Spread,
    /// 99 %.
    pub p99: Spread,
    /// 99.9 %.
    pub p999: Spread,
}

impl Summary {
    /// Sums up the windows of one target.
    pub fn of(windows: &[Window], unit: Unit) -> Self {
        let valid: Vec<&Window> = windows.iter().filter(|window| is_valid(window)).collect();
        let spread = |figure: &dyn Fn(&Window) -> Option<f64>| {
            Spread::of(valid.iter().filter_map(|window| figure(window)).collect())
        };
        let times = |figure: &dyn Fn(&Window) -> Option<Quantiles>| {
            let part = |part: &dyn Fn(Quantiles) -> f64| spread(&|window| figure(window).map(part));
            Some(Times {
                p50: part(&|times| times.p50_us)?,
                p90: part(&|times| times.p90_us)?,
                p99: part(&|times| times.p99_us)?,
                p999: part(&|times| times.p999_us)?,
            })
        };
        let rss: Vec<u64> = windows.iter().filter_map(|window| window.rss).collect();
        Self {
            valid: valid.len(),
            invalid: windows.len() - valid.len(),
            cpu_us: spread(&|window| cpu_us(window, unit)),
            requests_per_second: spread(&|window| Some(window.requests as f64 / window.seconds)),
            chunks_per_second: spread(&|window| Some(window.events as f64 / window.seconds)),
            busy: spread(&|window| Some(window.cpu_ns? as f64 / 1e9 / window.seconds)),
            waited: spread(&|window| Some(window.waited_ns? as f64 / 1e9 / window.seconds)),
            latency: times(&|window| window.latency),
            first: times(&|window| window.first),
            gap: times(&|window| window.gap),
            delay: times(&|window| window.delay),
            rss: rss.first().copied().zip(rss.last().copied()),
        }
    }
}

/// The gateway against the baseline, from the pairs of windows that ran one after the other.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Comparison {
    /// CPU per request or chunk, as a multiple of the baseline's.
    pub cpu_ratio: Option<Spread>,
    /// Requests a second, as a multiple.
    pub throughput_ratio: Option<Spread>,
    /// Microseconds more for a whole request, p50.
    pub added_p50_us: Option<Spread>,
    /// Microseconds more for a whole request, p99.
    pub added_p99_us: Option<Spread>,
    /// Microseconds more to the first event, p50.
    pub added_first_p50_us: Option<Spread>,
    /// Microseconds more for an event on its way, p50.
    pub added_delay_p50_us: Option<Spread>,
}

impl Comparison {
    /// Compares round by round, so that what slows the whole machine for a while slows both sides of a pair.
    pub fn of(baseline: &[Window], gateway: &[Window], unit: Unit) -> Self {
        let pairs: Vec<(&Window, &Window)> =
            baseline.iter().zip(gateway).filter(|(one, two)| is_valid(one) && is_valid(two)).collect();
        let spread = |figure: &dyn Fn(&Window, &Window) -> Option<f64>| {
            Spread::of(pairs.iter().filter_map(|(one, two)| figure(one, two)).collect())
        };
        Self {
            cpu_ratio: spread(&|one, two| Some(cpu_us(two, unit)? / cpu_us(one, unit)?)),
            throughput_ratio: spread(&|one, two| {
                Some((two.requests as f64 / two.seconds) / (one.requests as f64 / one.seconds))
            }),
            added_p50_us: spread(&|one, two| Some(two.latency?.p50_us - one.latency?.p50_us)),
            added_p99_us: spread(&|one, two| Some(two.latency?.p99_us - one.latency?.p99_us)),
            added_first_p50_us: spread(&|one, two| Some(two.first?.p50_us - one.first?.p50_us)),
            added_delay_p50_us: spread(&|one, two| Some(two.delay?.p50_us - one.delay?.p50_us)),
        }
    }
}

/// Whether a window counts: nothing failed and something was done.
pub fn is_valid(window: &Window) -> bool {
    window.failed == 0 && window.requests + window.events > 0
}

fn cpu_us(window: &Window, unit: Unit) -> Option<f64> {
    let count = match unit {
        Unit::Request => window.requests,
        Unit::Chunk => window.events,
    };
    (count > 0).then_some(window.cpu_ns? as f64 / 1000.0 / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(requests: u64, failed: u64, cpu_ns: u64) -> Window {
        Window {
            requests,
            events: 0,
            failed,
            failure: None,
            seconds: 1.0,
            cpu_ns: Some(cpu_ns),
            waited_ns: Some(0),
            rss: None,
            latency: None,
            first: None,
            gap: None,
            delay: None,
        }
    }

    #[test]
    fn a_window_with_one_failure_is_not_in_the_figures() {
        let summary = Summary::of(&[window(100, 0, 3_000_000), window(100, 1, 9_000_000)], Unit::Request);
        assert_eq!((summary.valid, summary.invalid), (1, 1));
        assert_eq!(summary.cpu_us.map(|cpu| cpu.most), Some(30.0));
    }

    #[test]
    fn a_window_in_which_nothing_happened_is_invalid() {
        assert!(!is_valid(&window(0, 0, 5)));
    }

    #[test]
    fn a_pair_with_an_invalid_side_is_left_out() {
        let baseline = [window(100, 0, 1_000_000), window(100, 0, 2_000_000)];
        let gateway = [window(100, 7, 9_000_000), window(100, 0, 3_000_000)];
        let ratio = Comparison::of(&baseline, &gateway, Unit::Request).cpu_ratio.expect("one pair is valid");
        assert_eq!((ratio.least, ratio.median, ratio.most), (1.5, 1.5, 1.5));
    }

    #[test]
    fn ratios_are_taken_within_rounds_and_not_between_medians() {
        // Both double in the second round: the ratio stays what it is.
        let baseline = [window(10, 0, 100_000), window(10, 0, 200_000)];
        let gateway = [window(10, 0, 140_000), window(10, 0, 280_000)];
        let ratio = Comparison::of(&baseline, &gateway, Unit::Request).cpu_ratio.expect("both are valid");
        assert!((ratio.most - ratio.least).abs() < 1e-9 && (ratio.median - 1.4).abs() < 1e-9, "{ratio:?}");
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Spread::of(vec![]), None);
        assert_eq!(Spread::of(vec![3.0, 1.0, 9.0]), Some(Spread { median: 3.0, least: 1.0, most: 9.0 }));
        assert_eq!(Spread::of(vec![4.0, 1.0]), Some(Spread { median: 2.5, least: 1.0, most: 4.0 }));
    }
}
