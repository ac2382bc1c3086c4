//! The report: a table for people while the run goes on, a JSON file with every window for machines.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use jiff::Timestamp;
use serde::Serialize;

use crate::budget::Line;
use crate::machine::{Cores, Machine};
use crate::memory::{IDLE_CONNECTIONS, Idle, Keys, SLOW_READERS, Slow};
use crate::proc::Memory;
use crate::run::{Plan, Subject};
use crate::scenario::Unit;
use crate::statistics::{Comparison, Spread, Summary, Times, is_valid};
use crate::window::{Span, Window};

/// Everything that a run found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// When it began, UTC, as in `20260805T101500Z`.
    pub started: String,
    /// Where and of which commit.
    pub machine: Machine,
    /// Who was pinned where.
    pub cores: Cores,
    /// Whether the target had cores of its own.
    pub pinned_apart: bool,
    /// What was compared with the baseline.
    pub subject: String,
    /// Rounds of each scenario.
    pub rounds: usize,
    /// The length of a window.
    pub span: Span,
    /// Starting, resting, idle connections, slow readers.
    pub memory: Vec<MemoryReport>,
    /// The scenarios under load.
    pub scenarios: Vec<ScenarioReport>,
    /// Memory of the targets after all of them, by name.
    pub memory_at_end: Vec<(&'static str, Memory)>,
    /// The figures that have a budget.
    pub budget: Vec<Line>,
}

/// The memory of one target.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryReport {
    /// `baseline` or `gateway`.
    pub target: &'static str,
    /// Starting, resting, idle connections.
    pub idle: Option<Idle>,
    /// Slow readers.
    pub slow: Option<Slow>,
    /// Many keys; of gateways only.
    pub keys: Option<Keys>,
}

/// One scenario under load.
#[derive(Clone, Debug, Serialize)]
pub struct ScenarioReport {
    /// Its name.
    pub name: &'static str,
    /// `request` or `chunk`: what CPU time is divided by.
    pub unit: &'static str,
    /// The empty pass-through.
    pub baseline: Summary,
    /// The gateway, if one was measured.
    pub gateway: Option<Summary>,
    /// The one against the other.
    pub comparison: Comparison,
    /// Every window of the baseline.
    pub baseline_windows: Vec<Window>,
    /// Every window of the gateway.
    pub gateway_windows: Vec<Window>,
}

impl Report {
    /// An empty one.
    #[allow(clippy::disallowed_methods, reason = "a report is dated; nothing is measured with this clock")]
    pub fn begin(machine: Machine, cores: Cores, plan: &Plan) -> Self {
        let subject = match &plan.subject {
            Subject::Nothing => "nothing: the baseline alone".to_owned(),
            Subject::Marg { log_level, features, against, .. } => {
                let against = against.map(|against| format!(", against one with {against}")).unwrap_or_default();
                format!("marg with a key, ledger, metrics, its log at {log_level}, {features}{against}")
            }
            Subject::External(target) => format!("{} (pid {:?}), started by somebody else", target.address, target.pid),
        };
        Self {
            started: Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string(),
            machine,
            pinned_apart: cores.are_apart(),
            cores,
            subject,
            rounds: plan.rounds,
            span: plan.span,
            memory: Vec::new(),
            scenarios: Vec::new(),
            memory_at_end: Vec::new(),
            budget: Vec::new(),
        }
    }

    /// Whether every window of every scenario was valid.
    pub fn is_valid(&self) -> bool {
        self.scenarios
            .iter()
            .all(|scenario| scenario.baseline_windows.iter().chain(&scenario.gateway_windows).all(is_valid))
    }

    /// Writes the JSON file `STARTED.json` into a folder; gives its path.
    ///
    /// # Errors
    /// When the folder or the file cannot be written.
    pub fn write(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let path = folder.join(format!("{}.json", self.started));
        fs::write(&path, serde_json::to_vec_pretty(self)?).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

/// Prints where and what is measured.
pub fn print_head(report: &Report) {
    let Report { machine, cores, rounds, span, .. } = report;
    println!("marg-load {} · commit {}", report.started, machine.commit);
    println!(
        "machine   {} · {} cores · Linux {} · load average {:.2}",
        machine.processor, machine.cores, machine.kernel, machine.load_average
    );
    if report.pinned_apart {
        println!("pinned    target to core {:?}, mock and load to core {:?}", cores.target, cores.load);
    } else {
        println!("pinned    NOT: there is one core, target, mock and load share it; latencies mean little");
    }
    println!("subject   {}", report.subject);
    println!("windows   {rounds} rounds of {:?} after {:?} of warm-up\n", span.measured, span.warm_up);
}

/// Prints what a target does with its memory.
pub fn print_memory(report: &MemoryReport) {
    if let Some(idle) = &report.idle {
        println!("idle · {}", report.target);
        println!(
            "  start to first answer {} ms · at rest {} · {:.0} µs CPU a second · clean exit: {}",
            spread(idle.start_ms, 0),
            mib(idle.rss_idle),
            idle.idle_cpu_us_per_second,
            if idle.clean_exit { "yes" } else { "no" }
        );
        println!(
            "  after {IDLE_CONNECTIONS} requests {} · with {IDLE_CONNECTIONS} idle connections {} ({:.1} KB each) · after them {}",
            mib(idle.rss_warm),
            mib(idle.rss_connected),
            idle.bytes_per_connection as f64 / 1024.0,
            mib(idle.rss_after)
        );
    }
    if let Some(slow) = &report.slow {
        println!("slow · {}", report.target);
        println!(
            "  before {} · {SLOW_READERS} readers stalled {} · most in {:.0} s {} · end {} · after them {}",
            mib(slow.rss_before),
            mib(slow.rss_stalled),
            slow.seconds,
            mib(slow.rss_most),
            mib(slow.rss_end),
            mib(slow.rss_after)
        );
    }
    if let Some(keys) = &report.keys {
        println!("keys · {}", report.target);
        println!(
            "  at rest {} · with {} keys {} ({} bytes each) · start to first answer with them {:.0} ms",
            mib(keys.rss_before),
            keys.count,
            mib(keys.rss_with),
            keys.bytes_per_key,
            keys.start_ms
        );
    }
    println!();
}

/// Prints the rows of one scenario.
pub fn print_scenario(report: &ScenarioReport) {
    println!(
        "{:<10} CPU µs/{:<16} {:>9} {:>9} {:>5} {:>8} {:>8} {:>8} {:>8}  RSS MiB",
        report.name, report.unit, "req/s", "chunks/s", "busy", "p50 µs", "p90", "p99", "p99.9"
    );
    print_summary("baseline", &report.baseline, &report.baseline_windows);
    if let Some(gateway) = &report.gateway {
        print_summary("gateway", gateway, &report.gateway_windows);
        print_comparison(&report.comparison, report.unit == Unit::Chunk.word());
    }
    println!();
}

fn print_summary(name: &str, summary: &Summary, windows: &[Window]) {
    let median = |value: Option<Spread>, digits| value.map_or("-".to_owned(), |value| number(value.median, digits));
    let times = |part: &dyn Fn(Times) -> Spread| median(summary.latency.map(part), 0);
    let rss = summary.rss.map_or("-".to_owned(), |(first, last)| {
        format!("{:.1} → {:.1}", first as f64 / 1_048_576.0, last as f64 / 1_048_576.0)
    });
    println!(
        "  {name:<8} {:<23} {:>9} {:>9} {:>4}% {:>8} {:>8} {:>8} {:>8}  {rss}",
        summary.cpu_us.map_or("-".to_owned(), |cpu| spread(cpu, 1)),
        median(summary.requests_per_second, 0),
        median(summary.chunks_per_second, 0),
        summary.busy.map_or("-".to_owned(), |busy| format!("{:.0}", busy.median * 100.0)),
        times(&|times| times.p50),
        times(&|times| times.p90),
        times(&|times| times.p99),
        times(&|times| times.p999),
    );
    let event_times = [("first event", summary.first), ("event on its way", summary.delay), ("gap", summary.gap)];
    let words: Vec<String> =
        event_times.iter().filter_map(|(label, times)| Some(percentiles(label, (*times)?))).collect();
    if !words.is_empty() {
        println!("           µs: {}", words.join(" · "));
    }
    for window in windows.iter().filter(|window| !is_valid(window)) {
        let words = window.failure.as_deref().unwrap_or("nothing was answered");
        println!("           INVALID window, {} failed; the first: {words}", window.failed);
    }
}

fn percentiles(label: &str, Times { p50, p99, p999, .. }: Times) -> String {
    format!("{label} p50 {:.0} p99 {:.0} p99.9 {:.0}", p50.median, p99.median, p999.median)
}

/// Of streams the times of events are compared: how long a whole one takes is up to the mock's pace.
fn print_comparison(comparison: &Comparison, is_stream: bool) {
    let part = |label: &str, value: Option<Spread>, digits| {
        value.map_or(String::new(), |value| format!(" · {label} {}", spread(value, digits)))
    };
    let ratio = comparison.cpu_ratio.map_or("-".to_owned(), |ratio| format!("{}×", spread(ratio, 2)));
    let throughput = part("throughput ratio", comparison.throughput_ratio, 2);
    let added = if is_stream {
        part("added µs first event p50", comparison.added_first_p50_us, 0)
            + &part("event on its way p50", comparison.added_delay_p50_us, 0)
    } else {
        part("added µs p50", comparison.added_p50_us, 0) + &part("p99", comparison.added_p99_us, 0)
    };
    println!("  CPU ratio {ratio}{throughput}{added}");
}

/// Prints the budget and whether the run counts.
pub fn print_end(report: &Report) {
    for (name, memory) in &report.memory_at_end {
        println!("{name}: {} at the end, {} at most", mib(memory.rss), mib(memory.peak));
    }
    for line in &report.budget {
        println!("{line}");
    }
    if !report.is_valid() {
        println!("NOT VALID: some windows had failed requests");
    }
    let waits = report.scenarios.iter().filter_map(|scenario| Some((scenario.name, scenario.baseline.waited?.median)));
    for (name, wait) in waits.filter(|(_, wait)| *wait > 0.05) {
        let share = wait * 100.0;
        println!("NOISY: in {name} the baseline waited {share:.0} % of the time for its core; others were at work");
    }
}

/// A median with its spread, as in `28.1 (27.9–28.6)`.
fn spread(value: Spread, digits: usize) -> String {
    format!("{} ({}–{})", number(value.median, digits), number(value.least, digits), number(value.most, digits))
}

fn number(value: f64, digits: usize) -> String {
    format!("{value:.digits$}")
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}
