//! The budgets: what each figure of the gateway may be, relative to the empty pass-through of the same run.
//!
//! They are the promises of the project, written once here. Change one only together with what it promises.

use std::fmt;

use serde::Serialize;

use crate::memory::Idle;
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
}

impl Line {
    /// Whether the figure is within its budget.
    pub fn is_kept(&self) -> bool {
        self.measured <= self.allowed
    }
}

impl fmt::Display for Line {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { figure, measured, allowed, unit } = self;
        let verdict = if self.is_kept() { "kept  " } else { "BROKEN" };
        write!(out, "budget {verdict} {figure}: {measured:.2} {unit}, allowed {allowed:.2}")
    }
}

/// The budgets of what was measured; nothing for what was not.
pub fn lines(report: &Report) -> Vec<Line> {
    let idle = report.memory.iter().find(|memory| memory.target == "gateway").and_then(|memory| memory.idle.as_ref());
    let mut lines = idle.map(idle_lines).unwrap_or_default();
    lines.extend(report.scenarios.iter().flat_map(scenario_lines));
    lines
}

fn idle_lines(idle: &Idle) -> Vec<Line> {
    let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
    let connections = mib(idle.rss_connected.saturating_sub(idle.rss_warm));
    vec![
        Line { figure: "start to first answer", measured: idle.start_ms.median, allowed: START_MS, unit: "ms" },
        Line { figure: "memory at rest", measured: mib(idle.rss_idle), allowed: IDLE_MIB, unit: "MiB" },
        Line {
            figure: "memory of 1,000 idle connections",
            measured: connections,
            allowed: CONNECTIONS_MIB,
            unit: "MiB",
        },
    ]
}

fn scenario_lines(scenario: &ScenarioReport) -> Vec<Line> {
    let Comparison { cpu_ratio, added_p50_us, added_p99_us, .. } = scenario.comparison;
    let line = |figure, measured: Option<Spread>, allowed, unit| {
        measured.map(|measured| Line { figure, measured: measured.median, allowed, unit })
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
        let line = Line { figure: "x", measured: 1.61, allowed: PLAIN_RATIO, unit: "×" };
        assert!(!line.is_kept() && line.to_string().contains("BROKEN"));
        assert!(Line { measured: 1.6, ..line }.is_kept());
    }
}
