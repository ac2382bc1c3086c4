//! Log lines as JSON, in the shape that `tracing-subscriber` gives them with flattened fields: `timestamp`, `level`, the
//! fields in their order, `target`.
//!
//! Every exchange writes a line, so its cost counts: the formatter of `tracing-subscriber` needs 2.7 µs for one – each piece
//! passes three adapters and a check for UTF-8 – and this one a third of it. Spans are not written; Marg has none.

use std::cell::Cell;
use std::fmt::{Debug, Write as _};
use std::io::Write as _;

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use crate::unit::clock::Timestamp;

/// A buffer that grew beyond this is given back.
const KEPT_BYTES: usize = 16 * 1024;

thread_local! {
    /// Each thread's buffers. They are taken out while in use, so that a value whose `Debug` logs finds fresh ones.
    static BUFFERS: Cell<Line> = const { Cell::new(Line { bytes: Vec::new(), words: String::new(), target: None }) };
    /// The second that was written last, as text: several lines a second are usual.
    static SECOND: Cell<(i64, [u8; 19])> = const { Cell::new((-1, [0; 19])) };
}

/// Writes each event as one line and hands it to a sink.
pub(super) struct JsonLines {
    sink: fn(&[u8]),
}

impl JsonLines {
    pub(super) fn to(sink: fn(&[u8])) -> Self {
        Self { sink }
    }
}

impl<S: Subscriber> Layer<S> for JsonLines {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut line = BUFFERS.take();
        line.write(event);
        (self.sink)(&line.bytes);
        if line.bytes.capacity() <= KEPT_BYTES && line.words.capacity() <= KEPT_BYTES {
            BUFFERS.set(line);
        }
    }
}

/// A line that is being written.
#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
    /// Where values are put into words before they are escaped.
    words: String,
    /// What a message from the `log` crate says of its origin; its own metadata do not.
    target: Option<String>,
}

impl Line {
    fn write(&mut self, event: &Event<'_>) {
        let metadata = event.metadata();
        self.bytes.clear();
        self.target = None;
        self.bytes.extend_from_slice(b"{\"timestamp\":\"");
        stamp(Timestamp::now(), &mut self.bytes);
        self.bytes.extend_from_slice(b"\",\"level\":\"");
        self.bytes.extend_from_slice(metadata.level().as_str().as_bytes());
        self.bytes.push(b'"');
        event.record(self);
        let target = self.target.take();
        self.entry("target", target.as_deref().unwrap_or(metadata.target()));
        self.bytes.extend_from_slice(b"}\n");
    }

    fn entry<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) {
        self.bytes.push(b',');
        self.value(name);
        self.bytes.push(b':');
        self.value(value);
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) {
        let before = self.bytes.len();
        // Texts and numbers cannot fail to be JSON; if one did, the line should still be whole.
        if serde_json::to_writer(&mut self.bytes, value).is_err() {
            self.bytes.truncate(before);
            self.bytes.extend_from_slice(b"null");
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut words = std::mem::take(&mut self.words);
        words.clear();
        // A value that cannot be put into words is written as far as it came.
        let _cut = write!(words, "{value:?}");
        self.entry(field.name(), words.as_str());
        self.words = words;
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "log.target" {
            self.target = Some(value.to_owned());
        }
        self.entry(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.entry(field.name(), &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.entry(field.name(), &value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.entry(field.name(), &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.entry(field.name(), &value);
    }
}

/// Writes a time as RFC 3339 in UTC with microseconds.
fn stamp(now: Timestamp, out: &mut Vec<u8>) {
    let seconds = now.seconds();
    let (mut second, mut text) = SECOND.get();
    if second != seconds {
        match now.rfc3339().as_bytes().first_chunk() {
            Some(whole) => (second, text) = (seconds, *whole),
            None => return out.extend_from_slice(now.rfc3339().as_bytes()),
        }
        SECOND.set((second, text));
    }
    out.extend_from_slice(&text);
    // Writing to memory does not fail.
    let _written = write!(out, ".{:06}Z", now.micros().rem_euclid(1_000_000));
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::registry::Registry;

    use super::*;

    static WRITTEN: Mutex<Vec<u8>> = Mutex::new(Vec::new());

    #[test]
    fn lines_have_the_shape_of_the_usual_formatter() {
        fn keep(line: &[u8]) {
            WRITTEN.lock().unwrap().extend_from_slice(line);
        }
        let subscriber = Registry::default().with(JsonLines::to(keep));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(
                id = %"a\"b", none = None::<&str>, count = 7_u64, less = -7, share = 0.5, yes = true, list = ?[1, 2], "what\nhappened"
            );
        });
        let line = String::from_utf8(WRITTEN.lock().unwrap().clone()).unwrap();
        let (head, rest) = line.split_at(r#"{"timestamp":"2026-11-21T05:22:17.010704Z"#.len());
        assert!(head.starts_with("{\"timestamp\":\"") && head.ends_with('Z'), "{head}");
        assert_eq!(
            rest,
            concat!(
                r#"","level":"INFO","message":"what\nhappened","id":"a\"b","count":7,"less":-7,"share":0.5,"#,
                r#""yes":true,"list":"[1, 2]","target":"marg::telemetry::log::json::tests"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn times_are_written_to_the_microsecond() {
        for micros in [0, 1, 999_999, 1_000_000, 1_795_240_937_010_704, 1_795_240_937_999_999, 1_795_240_938_000_000] {
            let mut text = Vec::new();
            stamp(Timestamp(micros), &mut text);
            assert_eq!(String::from_utf8(text).unwrap(), Timestamp(micros).rfc3339());
        }
    }
}
