//! Splits a server-sent event stream into events, however the network cut it, and reads the mock's stamps out of them.

/// How the mock writes the time in an event: `"system_fingerprint":"fp_NANOSECONDS"`.
pub const STAMP: &str = "\"fp_";

/// A stream being read.
#[derive(Debug, Default)]
pub struct Events {
    partial: Vec<u8>,
    ended: bool,
}

impl Events {
    /// Reads one piece and calls `event` for each complete event except the closing `[DONE]`.
    pub fn feed(&mut self, mut input: &[u8], event: &mut dyn FnMut(&[u8])) {
        // The blank line may lie across two pieces.
        while let Some(end) = self.end_within(input) {
            let (now, rest) = input.split_at(end);
            if self.partial.is_empty() {
                self.ended |= deliver(now, event);
            } else {
                self.partial.extend_from_slice(now);
                self.ended |= deliver(&self.partial, event);
                self.partial.clear();
            }
            input = rest;
        }
        self.partial.extend_from_slice(input);
    }

    /// Whether `[DONE]` came and nothing was left open.
    pub fn is_complete(&self) -> bool {
        self.ended && self.partial.is_empty()
    }

    fn end_within(&self, input: &[u8]) -> Option<usize> {
        if self.partial.last() == Some(&b'\n') && input.first() == Some(&b'\n') {
            return Some(1);
        }
        memchr::memmem::find(input, b"\n\n").map(|at| at + 2)
    }
}

/// The time that the mock wrote into an event.
pub fn stamp_ns(event: &[u8]) -> Option<u64> {
    let start = memchr::memmem::find(event, STAMP.as_bytes())? + STAMP.len();
    let digits = event.get(start..)?;
    let digits = digits.get(..digits.iter().position(|byte| !byte.is_ascii_digit())?)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Hands one event on; says whether it was the closing one.
fn deliver(text: &[u8], event: &mut dyn FnMut(&[u8])) -> bool {
    let closing = text.trim_ascii() == b"data: [DONE]";
    if !closing {
        event(text);
    }
    closing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_without_done_is_not_complete() {
        let mut events = Events::default();
        events.feed(b"data: {}\n\n", &mut |_| {});
        assert!(!events.is_complete());
        events.feed(b"data: [DONE]\n", &mut |_| {});
        assert!(!events.is_complete());
        events.feed(b"\n", &mut |_| {});
        assert!(events.is_complete());
    }

    #[test]
    fn events_are_the_same_however_they_are_cut() {
        let text = b"data: {\"a\":1}\n\ndata: {\"b\":2}\n\ndata: {\"c\":3}\n\ndata: [DONE]\n\n";
        for size in 1..=text.len() {
            let mut events = Events::default();
            let mut seen = Vec::new();
            for piece in text.chunks(size) {
                events.feed(piece, &mut |event| seen.push(String::from_utf8_lossy(event).trim().to_owned()));
            }
            assert_eq!(seen, ["data: {\"a\":1}", "data: {\"b\":2}", "data: {\"c\":3}"], "in pieces of {size}");
            assert!(events.is_complete());
        }
    }

    #[test]
    fn the_stamp_is_read_from_the_fingerprint() {
        assert_eq!(stamp_ns(br#"data: {"system_fingerprint":"fp_0000000000123456789","x":1}"#), Some(123_456_789));
        assert_eq!(stamp_ns(br#"data: {"system_fingerprint":"fp_"}"#), None);
        assert_eq!(stamp_ns(b"data: {}"), None);
    }
}
