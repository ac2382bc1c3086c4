//! Logs: one JSON object a line, or text in a terminal, to the standard error stream.
//!
//! Lines go through a bounded buffer that one thread empties, so a reader of the log that stalls cannot stall an exchange:
//! beyond [`BUFFER_BYTES`] lines are dropped and counted (`marg_log_lines_dropped_total`); the ledger, not the log, is the
//! record. Prompts and answers are never logged, nor are credentials. Pingora's own messages are capped at warnings, because
//! its debug lines hold request heads.

mod json;

use std::io::{self, IsTerminal, Write};
use std::mem;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::telemetry::log::json::JsonLines;
use crate::telemetry::metrics::METRICS;

/// The most that waits for the standard error stream.
pub const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// The pause between two writes to the standard error stream.
const LINGER: Duration = Duration::from_millis(20);

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text in a terminal, JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// One line of text.
    Text,
}

static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();
static SINK: Sink = Sink {
    state: Mutex::new(State { lines: Vec::new(), busy: false }),
    filled: Condvar::new(),
    emptied: Condvar::new(),
};

/// Starts logging. A second call only changes the level.
pub fn start(level: LevelFilter, format: Format) {
    if LEVEL.get().is_some() {
        set_level(level);
        return;
    }
    let (filter, handle) = reload::Layer::new(level);
    let quiet = filter_fn(|line| is_worth_a_line(line.target(), *line.level()))
        // Without a hint every debug line of Pingora's would be built up only to be refused here.
        .with_max_level_hint(LevelFilter::TRACE);
    let json = match format {
        Format::Json => true,
        Format::Text => false,
        Format::Auto => !io::stderr().is_terminal(),
    };
    let layer = if json {
        JsonLines::to(|line| SINK.push(line)).boxed()
    } else {
        tracing_subscriber::fmt::layer().with_writer(&SINK).with_ansi(io::stderr().is_terminal()).boxed()
    };
    // Another subscriber may be there already when Marg is used as a library; that one then stays.
    if tracing_subscriber::registry().with(layer.with_filter(filter.and(quiet))).try_init().is_ok() {
        let _kept = LEVEL.set(handle);
        let started = std::thread::Builder::new().name("log".to_owned()).spawn(|| SINK.empty_for_ever());
        if let Err(error) = started {
            eprintln!("cannot start the log thread: {error}");
        }
    }
}

/// The module of Pingora that keeps connections for later.
const POOL: &str = concat!("pingora", "_core::connectors");

/// Whether a line of this target and level may be written at all.
///
/// Pingora's connectors call it an error that a pooled connection was taken by another request in the same moment; the request then
/// takes another or a new one, and nothing else of that module is as severe.
fn is_worth_a_line(target: &str, level: tracing::Level) -> bool {
    let third_party = ["pingora", "h2", "hyper", "sqlx", "rustls", "log"].iter().any(|name| target.starts_with(name));
    let is_harmless = target == POOL && level == tracing::Level::ERROR;
    !is_harmless && (!third_party || level <= tracing::Level::WARN)
}

/// Changes the least severe level that is written.
pub fn set_level(level: LevelFilter) {
    if let Some(handle) = LEVEL.get()
        && let Err(error) = handle.reload(level)
    {
        tracing::warn!(%error, "the log level could not be changed");
    }
}

/// Waits until every line so far has been written, at most one second. Call it before the process ends.
pub fn flush() {
    let state = SINK.state.lock().unwrap_or_else(PoisonError::into_inner);
    let waiting = |state: &mut State| LEVEL.get().is_some() && (state.busy || !state.lines.is_empty());
    drop(SINK.emptied.wait_timeout_while(state, Duration::from_secs(1), waiting));
}

struct Sink {
    state: Mutex<State>,
    filled: Condvar,
    emptied: Condvar,
}

struct State {
    lines: Vec<u8>,
    busy: bool,
}

impl Sink {
    fn push(&self, line: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.lines.len() + line.len() > BUFFER_BYTES {
            METRICS.log_lines_dropped.inc();
            return;
        }
        let was_empty = state.lines.is_empty();
        state.lines.extend_from_slice(line);
        if was_empty && !state.busy {
            self.filled.notify_one();
        }
    }

    fn empty_for_ever(&self) {
        let mut batch = Vec::new();
        loop {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.busy = false;
            if state.lines.is_empty() {
                self.emptied.notify_all();
            }
            let mut state =
                self.filled.wait_while(state, |state| state.lines.is_empty()).unwrap_or_else(PoisonError::into_inner);
            mem::swap(&mut batch, &mut state.lines);
            state.busy = true;
            drop(state);
            // A closed standard error stream leaves nowhere to say so.
            let _unwritable = io::stderr().write_all(&batch);
            batch.clear();
            batch.shrink_to(64 * 1024);
            // Lines gather meanwhile: without this pause nearly every line would wake this thread.
            std::thread::sleep(LINGER);
        }
    }
}

impl<'a> MakeWriter<'a> for &'static Sink {
    type Writer = LineWriter;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter
    }
}

/// Hands whole lines to the sink: the formatter writes each event in one call.
struct LineWriter;

impl Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        SINK.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn other_peoples_chatter_is_left_out_and_their_warnings_are_not() {
        assert!(!is_worth_a_line("pingora::proxy", Level::INFO), "its lines hold heads of requests");
        assert!(!is_worth_a_line(POOL, Level::ERROR), "a connection that somebody else took");
        for (target, level) in [("marg::pipeline", Level::DEBUG), ("pingora::proxy", Level::WARN), (POOL, Level::WARN)]
        {
            assert!(is_worth_a_line(target, level), "{target}");
        }
        assert!(is_worth_a_line(&format!("{POOL}::http"), Level::ERROR));
    }
}
