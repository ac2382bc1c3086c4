//! Every metric, in one list.
//!
//! Names follow the OpenTelemetry semantic conventions for generative AI (gen-ai-metrics, 2025) where they have a word, with
//! dots as underscores as Prometheus wants; the rest begins with `marg_`. Labels are bounded: providers, operations, outcomes
//! and reasons come from closed sets, and models are interned up to [`MODEL_LIMIT`], after which they read `other`.

use std::collections::HashSet;
use std::sync::{LazyLock, PoisonError, RwLock};

use prometheus::core::Collector;
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// The most distinct values of a `gen_ai_request_model` label.
pub const MODEL_LIMIT: usize = 200;

/// The metrics of this process.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// Every metric that there is.
pub struct Metrics {
    registry: Registry,
    models: RwLock<HashSet<String>>,
    /// Exchanges that have ended, by operation, provider (`none` if none was asked), outcome and status class.
    pub exchanges: IntCounterVec,
    /// Exchanges that Marg refused, by reason.
    pub refusals: IntCounterVec,
    /// Exchanges now running.
    pub in_flight: IntGauge,
    /// Attempts at providers, by provider and how they ended.
    pub attempts: IntCounterVec,
    /// Seconds from the head of a request to the last byte of its answer, by operation and provider.
    pub duration: HistogramVec,
    /// Seconds to the first token of a streamed answer, by provider.
    pub first_token: HistogramVec,
    /// Tokens, by provider, model and type (input, cache_read, cache_write, output, reasoning).
    pub tokens: IntCounterVec,
    /// Cost in nano-dollars, by provider and model.
    pub cost: IntCounterVec,
    /// Answers whose model has no price, by provider.
    pub unpriced: IntCounterVec,
    /// Permits on paper: those of an attempt that were made, and those that could not be.
    pub permits: IntCounterVec,
    /// Answers whose provider reported no usage, so that Marg counted, by provider.
    pub estimated: IntCounterVec,
    /// Answers whose provider reported counts that cannot be true, by provider.
    pub disbelieved: IntCounterVec,
    /// Credentials now resting, by provider.
    pub resting: IntGaugeVec,
    /// Request-body bytes now held in memory.
    pub buffered_bytes: IntGauge,
    /// Connections now open on the data plane.
    pub connections: IntGauge,
    /// Connections closed at once because of `server.max_connections`.
    pub connections_refused: IntCounter,
    /// Bytes in the journal that the database does not have yet.
    pub journal_backlog_bytes: IntGauge,
    /// Bytes in the journal that a consumer besides the database does not have yet, by its name.
    pub consumer_backlog_bytes: IntGaugeVec,
    /// 1 while a consumer does not take lines, by its name.
    pub consumer_away: IntGaugeVec,
    /// Journal lines that could not be read back.
    pub journal_corrupt: IntCounter,
    /// Seconds that one append to the journal took.
    pub journal_append: Histogram,
    /// Application keys known to this process.
    pub keys: IntGauge,
    /// Calls that limits refused, by scope, unit and why.
    pub limit_refusals: IntCounterVec,
    /// Calls that waited for what others held, by how it ended.
    pub limit_waits: IntCounterVec,
    /// Settlements beyond their reservation, by unit.
    pub limit_overruns: IntCounterVec,
    /// Thresholds passed, by scope.
    pub limit_thresholds: IntCounterVec,
    /// Counters on which this process holds a lease.
    pub limit_leases: IntGauge,
    /// Counters of limits in memory.
    pub limit_counters: IntGauge,
    /// Reservations that have not ended.
    pub reservations: IntGauge,
    /// Reservations that nobody ended in time.
    pub reservations_expired: IntCounter,
    /// Round trips to the authority over limits, by call and result.
    pub authority_calls: IntCounterVec,
    /// 1 while the authority over limits does not answer.
    pub authority_away: IntGauge,
    /// 1 while the process lives on its snapshot, because the database was away at its start.
    pub on_snapshot: IntGauge,
    /// Snapshots for a start without the database, by result (written, failed).
    pub snapshots: IntCounterVec,
    /// Entries of the audit log.
    pub audit_entries: IntGauge,
    /// Entries that are under no checkpoint yet.
    pub audit_unsigned: IntGauge,
    /// Seconds since the last checkpoint was signed; it grows while nothing happens.
    pub audit_checkpoint_age: IntGauge,
    /// The size of the last checkpoint that enough witnesses cosigned.
    pub audit_witnessed: IntGauge,
    /// Failures of a witness to cosign, by witness.
    pub audit_witness_failures: IntCounterVec,
    /// Commits and signatures of the audit log that failed.
    pub audit_failures: IntGauge,
    /// Texts of exchanges that could not be kept, where they are.
    pub audit_text_failures: IntCounter,
    /// 1 for each thing that is wrong with the audit log.
    pub audit_alarm: IntGaugeVec,
    /// Gaps that were noted in the audit log.
    pub audit_gaps: IntCounter,
    /// 1 while the audit log can be written.
    pub audit_working: IntGauge,
    /// Reloads of the configuration, by result.
    pub reloads: IntCounterVec,
    /// Events of limits for the webhook, by what became of them (delivered, failed, lost).
    pub webhook_posts: IntCounterVec,
    /// Log lines dropped because the standard error stream did not keep up.
    pub log_lines_dropped: IntCounter,
    /// Resident memory in bytes, read when asked.
    resident: IntGauge,
    /// Always 1, with the version as label.
    build: GaugeVec,
}

const SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0];

impl Metrics {
    #[allow(clippy::too_many_lines, reason = "a list: one entry for each metric")]
    fn new() -> Self {
        let registry = Registry::new();
        let metrics = Self {
            models: RwLock::new(HashSet::new()),
            exchanges: counters(
                "marg_exchanges_total",
                "Exchanges that have ended.",
                &["gen_ai_operation_name", "gen_ai_provider_name", "outcome", "status"],
            ),
            refusals: counters("marg_refusals_total", "Exchanges that Marg refused.", &["reason"]),
            in_flight: gauge("marg_exchanges_in_flight", "Exchanges now running."),
            attempts: counters("marg_attempts_total", "Attempts at providers.", &["gen_ai_provider_name", "end"]),
            duration: histograms(
                "gen_ai_server_request_duration_seconds",
                "From the head of a request to the last byte of its answer.",
                &["gen_ai_operation_name", "gen_ai_provider_name"],
            ),
            first_token: histograms(
                "gen_ai_server_time_to_first_token_seconds",
                "To the first token of a streamed answer.",
                &["gen_ai_provider_name"],
            ),
            tokens: counters(
                "gen_ai_client_token_usage_total",
                "Tokens by class.",
                &["gen_ai_provider_name", "gen_ai_request_model", "gen_ai_token_type"],
            ),
            cost: counters(
                "marg_cost_nano_usd_total",
                "Cost in nano-dollars.",
                &["gen_ai_provider_name", "gen_ai_request_model"],
            ),
            permits: counters(
                "marg_permits_total",
                "Attempts whose permits were signed, or could not be.",
                &["result"],
            ),
            unpriced: counters("marg_unpriced_total", "Answers whose model has no price.", &["gen_ai_provider_name"]),
            disbelieved: counters(
                "marg_usage_disbelieved_total",
                "Answers whose reported usage cannot be true.",
                &["gen_ai_provider_name"],
            ),
            estimated: counters(
                "marg_usage_estimated_total",
                "Answers without reported usage.",
                &["gen_ai_provider_name"],
            ),
            resting: gauges(
                "marg_credentials_resting",
                "Credentials now resting after a 429 or 401.",
                &["gen_ai_provider_name"],
            ),
            buffered_bytes: gauge("marg_buffered_bytes", "Request-body bytes now held in memory."),
            connections: gauge("marg_connections", "Connections now open on the data plane."),
            connections_refused: counter(
                "marg_connections_refused_total",
                "Connections closed because of server.max_connections.",
            ),
            journal_backlog_bytes: gauge(
                "marg_journal_backlog_bytes",
                "Journal bytes that the database does not have yet.",
            ),
            consumer_backlog_bytes: gauges(
                "marg_consumer_backlog_bytes",
                "Journal bytes that a consumer does not have yet.",
                &["consumer"],
            ),
            consumer_away: gauges("marg_consumer_away", "1 while a consumer does not take lines.", &["consumer"]),
            journal_corrupt: counter("marg_journal_corrupt_lines_total", "Journal lines that could not be read back."),
            journal_append: append_histogram(),
            keys: gauge("marg_keys", "Application keys known to this process."),
            limit_refusals: counters(
                "marg_limit_refusals_total",
                "Calls that limits refused.",
                &["scope", "unit", "why"],
            ),
            limit_waits: counters("marg_limit_waits_total", "Calls that waited for what others held.", &["result"]),
            limit_overruns: counters("marg_limit_overruns_total", "Settlements beyond their reservation.", &["unit"]),
            limit_thresholds: counters("marg_limit_thresholds_total", "Thresholds of limits passed.", &["scope"]),
            limit_leases: gauge("marg_limit_leases", "Counters on which this process holds a lease."),
            limit_counters: gauge("marg_limit_counters", "Counters of limits in memory."),
            reservations: gauge("marg_reservations", "Reservations that have not ended."),
            reservations_expired: counter("marg_reservations_expired_total", "Reservations that nobody ended in time."),
            authority_calls: counters(
                "marg_authority_calls_total",
                "Round trips to the authority over limits.",
                &["call", "result"],
            ),
            authority_away: gauge("marg_authority_away", "1 while the authority over limits does not answer."),
            on_snapshot: gauge("marg_on_snapshot", "1 while the process lives on its snapshot of the database."),
            snapshots: counters("marg_snapshots_total", "Snapshots for a start without the database.", &["result"]),
            audit_entries: gauge("marg_audit_entries", "Entries of the audit log."),
            audit_unsigned: gauge("marg_audit_unsigned_entries", "Entries that are under no checkpoint yet."),
            audit_checkpoint_age: gauge("marg_audit_checkpoint_age_seconds", "Since the last checkpoint was signed."),
            audit_witnessed: gauge("marg_audit_witnessed_entries", "Entries under a witnessed checkpoint."),
            audit_witness_failures: counters(
                "marg_audit_witness_failures_total",
                "Failures of a witness to cosign.",
                &["witness"],
            ),
            audit_text_failures: counter("marg_audit_text_failures_total", "Texts that could not be kept."),
            audit_failures: gauge("marg_audit_append_failures", "Failed writes of the audit log since the start."),
            audit_alarm: gauges("marg_audit_alarm", "1 while that is wrong with the audit log.", &["what"]),
            audit_gaps: counter("marg_audit_gaps_total", "Gaps that were noted in the audit log."),
            audit_working: gauge("marg_audit_working", "1 while the audit log can be written."),
            reloads: counters("marg_reloads_total", "Reloads of the configuration.", &["result"]),
            webhook_posts: counters("marg_webhook_posts_total", "Events of limits for the webhook.", &["result"]),
            log_lines_dropped: counter("marg_log_lines_dropped_total", "Log lines dropped under pressure."),
            resident: gauge("process_resident_memory_bytes", "Resident memory."),
            build: build_info(),
            registry,
        };
        metrics.register();
        metrics
    }

    fn register(&self) {
        for metric in self.all() {
            #[allow(clippy::expect_used, reason = "names are literals of this file; a test renders them all")]
            self.registry.register(metric).expect("each metric has its own name");
        }
    }

    fn all(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.exchanges.clone()),
            Box::new(self.refusals.clone()),
            Box::new(self.in_flight.clone()),
            Box::new(self.attempts.clone()),
            Box::new(self.duration.clone()),
            Box::new(self.first_token.clone()),
            Box::new(self.tokens.clone()),
            Box::new(self.cost.clone()),
            Box::new(self.permits.clone()),
            Box::new(self.unpriced.clone()),
            Box::new(self.estimated.clone()),
            Box::new(self.disbelieved.clone()),
            Box::new(self.resting.clone()),
            Box::new(self.buffered_bytes.clone()),
            Box::new(self.connections.clone()),
            Box::new(self.connections_refused.clone()),
            Box::new(self.journal_backlog_bytes.clone()),
            Box::new(self.consumer_backlog_bytes.clone()),
            Box::new(self.consumer_away.clone()),
            Box::new(self.journal_corrupt.clone()),
            Box::new(self.journal_append.clone()),
            Box::new(self.keys.clone()),
            Box::new(self.limit_refusals.clone()),
            Box::new(self.limit_waits.clone()),
            Box::new(self.limit_overruns.clone()),
            Box::new(self.limit_thresholds.clone()),
            Box::new(self.limit_leases.clone()),
            Box::new(self.limit_counters.clone()),
            Box::new(self.reservations.clone()),
            Box::new(self.reservations_expired.clone()),
            Box::new(self.authority_calls.clone()),
            Box::new(self.authority_away.clone()),
            Box::new(self.on_snapshot.clone()),
            Box::new(self.snapshots.clone()),
            Box::new(self.audit_entries.clone()),
            Box::new(self.audit_unsigned.clone()),
            Box::new(self.audit_checkpoint_age.clone()),
            Box::new(self.audit_witnessed.clone()),
            Box::new(self.audit_witness_failures.clone()),
            Box::new(self.audit_failures.clone()),
            Box::new(self.audit_text_failures.clone()),
            Box::new(self.audit_alarm.clone()),
            Box::new(self.audit_gaps.clone()),
            Box::new(self.audit_working.clone()),
            Box::new(self.reloads.clone()),
            Box::new(self.webhook_posts.clone()),
            Box::new(self.log_lines_dropped.clone()),
            Box::new(self.resident.clone()),
            Box::new(self.build.clone()),
        ]
    }

    /// The label value of a model: itself for the first [`MODEL_LIMIT`] models seen, then `other`.
    pub fn model_label<'a>(&self, model: &'a str) -> &'a str {
        if self.models.read().unwrap_or_else(PoisonError::into_inner).contains(model) {
            return model;
        }
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        if models.len() < MODEL_LIMIT {
            models.insert(model.to_owned());
        }
        if models.contains(model) { model } else { "other" }
    }

    /// All metrics in Prometheus' text format, version 0.0.4.
    pub fn render(&self) -> String {
        self.resident.set(resident_bytes().unwrap_or(0));
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be written out");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// Resident memory from `/proc/self/statm` (field 2, in pages of 4 KiB); `None` where there is no such file.
fn resident_bytes() -> Option<i64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    statm.split(' ').nth(1)?.parse::<i64>().ok().map(|pages| pages * 4096)
}

// The constructors below cannot fail: names and labels are literals of this file, and a test renders them all.
const LITERAL: &str = "metric names and labels are valid literals";

#[allow(clippy::expect_used, reason = "see LITERAL")]
fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect(LITERAL)
}

#[allow(clippy::expect_used, reason = "see LITERAL")]
fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::new(name, help).expect(LITERAL)
}

#[allow(clippy::expect_used, reason = "see LITERAL")]
fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::new(name, help).expect(LITERAL)
}

#[allow(clippy::expect_used, reason = "see LITERAL")]
fn gauges(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    IntGaugeVec::new(Opts::new(name, help), labels).expect(LITERAL)
}

#[allow(clippy::expect_used, reason = "see LITERAL")]
fn histograms(name: &str, help: &str, labels: &[&str]) -> HistogramVec {
    HistogramVec::new(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()), labels).expect(LITERAL)
}

#[allow(clippy::expect_used, reason = "see LITERAL")]
fn append_histogram() -> Histogram {
    let buckets = vec![0.000_005, 0.000_01, 0.000_025, 0.000_1, 0.001, 0.01, 0.1, 1.0];
    let options = HistogramOpts::new("marg_journal_append_seconds", "One append to the journal.").buckets(buckets);
    Histogram::with_opts(options).expect(LITERAL)
}

#[allow(clippy::expect_used, reason = "see LITERAL")]
fn build_info() -> GaugeVec {
    let info = GaugeVec::new(Opts::new("marg_build_info", "Always 1."), &["version"]).expect(LITERAL);
    info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_renders_and_models_are_bounded() {
        let metrics = Metrics::new();
        for number in 0..MODEL_LIMIT {
            let name = format!("m{number}");
            assert_eq!(metrics.model_label(&name), name);
        }
        assert_eq!(metrics.model_label("one-more"), "other");
        assert_eq!(metrics.model_label("m7"), "m7");
        assert!(metrics.render().contains("marg_build_info{version="));
    }

    #[test]
    fn every_metric_is_documented_with_its_labels_and_nothing_else_is() {
        let page = include_str!("../../docs/metrics.md");
        let tables = page.split_once("## Labels").unwrap().0;
        let mut documented: HashSet<&str> =
            tables.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |")).map(|row| row.0).collect();
        for metric in Metrics::new().all() {
            for metric in metric.desc() {
                let labels =
                    metric.variable_labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
                let labels = if labels.is_empty() { "–" } else { &labels };
                let row = tables.lines().find(|line| line.starts_with(&format!("| `{}` |", metric.fq_name)));
                let row = row.unwrap_or_else(|| panic!("{} is not in docs/metrics.md", metric.fq_name));
                assert_eq!(row.split(" | ").nth(2), Some(labels), "the labels of {}", metric.fq_name);
                documented.remove(metric.fq_name.as_str());
            }
        }
        assert_eq!(documented, HashSet::new(), "documented but not there");
    }
}
