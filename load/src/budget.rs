//! The budgets: what each figure of the gateway may be, relative to the empty pass-through of the same run.
//!
//! They are the promises of the project, written once here. Change one only together with what it promises.

use std::fmt;

use serde::Serialize;

use crate::features::Features;
use crate::memory::{Idle, Keys};
use crate::report::{Report, ScenarioReport};
use crate::statistics::{Comparison, Spread};

/// CPU of a plain request with a key, the ledger, metrics and the log on, as a multiple of the empty pass-through's.
const PLAIN_RATIO: f64 = 1.6;
/// The same with a prompt of 200 KB.
const PROMPT_RATIO: f64 = 1.6;
/// CPU of one paced chunk, as a multiple.
const CHUNK_RATIO: f64 = 1.25;
/// Latency added at low load, in microseconds.
const ADDED_P50_US: f64 = 100.0;
/// The same for the slowest hundredth.
const ADDED_P99_US: f64 = 300.0;
/// Memory at rest, in MiB.
const IDLE_MIB: f64 = 40.0;
/// Memory of 1,000 idle connections, in MiB.
const CONNECTIONS_MIB: f64 = 40.0;
/// Start to first answer, in milliseconds.
const START_MS: f64 = 150.0;
/// Memory of one key of 100,000, in bytes.
const KEY_BYTES: f64 = 1024.0;
/// Throughput with Redis as the owner of the counters, as a part of that with the own database.
const REDIS_RATIO: f64 = 0.9;

/// What the gateway is measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Yardstick {
    /// The empty pass-through, which the promises are about.
    PassThrough,
    /// The same gateway, whose counters are in its own database instead of in Redis.
    OwnCounters,
    /// Another gateway, about which nothing is promised.
    Other,
}

impl Yardstick {
    /// What another copy of Marg is for one with these features.
    pub fn of(features: &Features, against: &Features) -> Self {
        let only_redis = *features == Features { redis: true, ..*against } && features.limits > 0;
        if only_redis && !against.redis { Self::OwnCounters } else { Self::Other }
    }
}

/// One figure and its budget.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// What it is.
    pub figure: &'static str,
    /// What was measured.
    pub measured: f64,
    /// What is allowed.
    pub allowed: f64,
    /// The unit of both.
    pub unit: &'static str,
    /// Whether that is the least that is allowed, instead of the most.
    pub at_least: bool,
}

impl Line {
    /// Whether the figure is within its budget.
    pub fn is_kept(&self) -> bool {
        if self.at_least { self.measured >= self.allowed } else { self.measured <= self.allowed }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { figure, measured, allowed, unit, at_least } = self;
        let least = if *at_least { "at least " } else { "" };
        let verdict = if self.is_kept() { "kept  " } else { "BROKEN" };
        write!(out, "budget {verdict} {figure}: {measured:.2} {unit}, allowed {least}{allowed:.2}")
    }
}

/// The budgets of what was measured; nothing for what was not.
pub fn lines(report: &Report, yardstick: Yardstick) -> Vec<Line> {
    let memory = report.memory.iter().find(|memory| memory.target == "gateway");
    let mut lines: Vec<Line> = memory.and_then(|memory| memory.keys.as_ref()).map(key_line).into_iter().collect();
    match yardstick {
        Yardstick::PassThrough => {
            lines.extend(memory.and_then(|memory| memory.idle.as_ref()).map(idle_lines).unwrap_or_default());
            lines.extend(report.scenarios.iter().flat_map(scenario_lines));
        }
        Yardstick::OwnCounters => {
            let plain = report.scenarios.iter().filter(|scenario| scenario.name == "plain");
            lines.extend(plain.filter_map(|plain| redis_line(&plain.comparison)));
        }
        Yardstick::Other => {}
    }
    lines
}

fn key_line(keys: &Keys) -> Line {
    let measured = keys.bytes_per_key as f64;
    let figure = "memory of a key, of 100,000";
    Line { figure, measured, allowed: KEY_BYTES, unit: "bytes", at_least: false }
}

fn redis_line(comparison: &Comparison) -> Option<Line> {
    let figure = "throughput with Redis as the owner of the counters, against the own database";
    let measured = comparison.throughput_ratio?.median;
    Some(Line { figure, measured, allowed: REDIS_RATIO, unit: "×", at_least: true })
}

fn idle_lines(idle: &Idle) -> Vec<Line> {
    let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
    let connections = mib(idle.rss_connected.saturating_sub(idle.rss_warm));
    vec![
        Line {
            figure: "start to first answer",
            measured: idle.start_ms.median,
            allowed: START_MS,
            unit: "ms",
            at_least: false,
        },
        Line {
            figure: "memory at rest",
            measured: mib(idle.rss_idle),
            allowed: IDLE_MIB,
            unit: "MiB",
            at_least: false,
        },
        Line {
            figure: "memory of 1,000 idle connections",
            measured: connections,
            allowed: CONNECTIONS_MIB,
            unit: "MiB",
            at_least: false,
        },
    ]
}

fn scenario_lines(scenario: &ScenarioReport) -> Vec<Line> {
    let Comparison { cpu_ratio, added_p50_us, added_p99_us, .. } = scenario.comparison;
    let line = |figure, measured: Option<Spread>, allowed, unit| {
        measured.map(|measured| Line { figure, measured: measured.median, allowed, unit, at_least: false })
    };
    let found = match scenario.name {
        "plain" => vec![line("CPU of a plain request", cpu_ratio, PLAIN_RATIO, "×")],
        "prompt" => vec![line("CPU of a request with 200 KB", cpu_ratio, PROMPT_RATIO, "×")],
        "paced" => vec![line("CPU of a paced chunk", cpu_ratio, CHUNK_RATIO, "×")],
        "rate" => vec![
            line("latency added at low load, p50", added_p50_us, ADDED_P50_US, "µs"),
            line("latency added at low load, p99", added_p99_us, ADDED_P99_US, "µs"),
        ],
        _ => Vec::new(),
    };
    found.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_above_its_budget_is_broken() {
        let line = Line { figure: "x", measured: 1.61, allowed: PLAIN_RATIO, unit: "×", at_least: false };
        assert!(!line.is_kept() && line.to_string().contains("BROKEN"));
        assert!(Line { measured: 1.6, ..line }.is_kept());
    }

    #[test]
    fn a_share_below_the_least_that_is_allowed_is_broken() {
        let ratio = |median| Comparison {
            throughput_ratio: Some(Spread { median, least: 0.1, most: 2.0 }),
            ..Comparison::of(&[], &[], crate::scenario::Unit::Request)
        };
        let line = |median| redis_line(&ratio(median));
        assert!(line(0.89).is_some_and(|line| !line.is_kept() && line.to_string().contains("BROKEN")));
        assert!(line(0.9).is_some_and(|line| line.is_kept() && line.to_string().contains("allowed at least 0.90")));
        assert_eq!(redis_line(&Comparison::of(&[], &[], crate::scenario::Unit::Request)), None);
    }

    #[test]
    fn a_key_has_a_budget_in_bytes() {
        let keys = |bytes_per_key| Keys { count: 100_000, rss_before: 0, rss_with: 0, bytes_per_key, start_ms: 0.0 };
        assert!(key_line(&keys(1024)).is_kept() && !key_line(&keys(1025)).is_kept());
    }

    #[test]
    fn only_copies_that_differ_by_redis_alone_are_held_to_its_promise() {
        let of = |features: &str, against: &str| {
            let read = |text: &str| text.parse::<Features>().unwrap_or_default();
            Yardstick::of(&read(features), &read(against))
        };
        assert_eq!(of("limits=4,redis", "limits=4"), Yardstick::OwnCounters);
        for (features, against) in [
            ("limits=4,redis", "limits=8"),
            ("limits=4", "limits=4,redis"),
            ("redis", ""),
            ("limits=4,redis", "limits=4,redis"),
            ("limits=4,redis,no-audit", "limits=4"),
        ] {
            assert_eq!(of(features, against), Yardstick::Other, "{features} {against}");
        }
    }
}
