//! The framing of event streams.
//!
//! Takes every line end that the standard allows (LF, CRLF, CR), events split anywhere, comments, fields in any order,
//! data on several lines, a byte order mark at the beginning.
//!
//! *Source*: <https://html.spec.whatwg.org/multipage/server-sent-events.html>, section 9.2.6.

use std::borrow::Cow;

/// Finds the ends of events in a stream that arrives in pieces cut anywhere.
#[derive(Clone, Debug, Default)]
pub struct Splitter {
    /// The line that is going on has content.
    line_has_bytes: bool,
    /// The piece before ended in a CR, so a line feed now belongs to it.
    skip_line_feed: bool,
    /// No byte of an event has come since the last one ended.
    between: bool,
}

impl Splitter {
    /// The length of the beginning of `bytes` that ends with the blank line that ends an event; `None` if none ends in
    /// them. Call it with what follows until it says `None`, then with the next piece. A line feed whose CR came in the
    /// piece before stands for itself.
    #[inline]
    pub fn next_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        if self.skip_line_feed && !bytes.is_empty() {
            self.skip_line_feed = false;
            at = usize::from(bytes.first() == Some(&b'\n'));
            if at == 1 && self.between {
                return Some(at);
            }
        }
        self.between &= bytes.is_empty();
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let Some(length) = memchr::memchr2(b'\n', b'\r', rest) else {
                self.line_has_bytes |= !rest.is_empty();
                return None;
            };
            let blank = length == 0 && !self.line_has_bytes;
            let carriage_return = rest.get(length) == Some(&b'\r');
            at += length + 1;
            if carriage_return {
                match bytes.get(at) {
                    Some(b'\n') => at += 1,
                    Some(_) => {}
                    None => self.skip_line_feed = true,
                }
            }
            self.line_has_bytes = false;
            if blank {
                self.between = true;
                return Some(at);
            }
        }
    }
}

/// The data of one event, its lines joined by line feeds; empty for comments and for events without data. Borrowed if
/// the data is on one line, as it is in practice.
pub fn data(event: &[u8]) -> Cow<'_, [u8]> {
    let mut data = Cow::Borrowed(&[][..]);
    let mut found = false;
    for line in lines(event.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(event)) {
        let Some(rest) = line.strip_prefix(b"data") else { continue };
        let value = match rest.split_first() {
            None => &[][..],
            Some((b':', value)) => value.strip_prefix(b" ").unwrap_or(value),
            Some(_) => continue,
        };
        if found {
            let joined = data.to_mut();
            joined.push(b'\n');
            joined.extend_from_slice(value);
        } else {
            data = Cow::Borrowed(value);
            found = true;
        }
    }
    data
}

/// The lines of one event that are no data, without their ends.
pub fn other_lines(event: &[u8]) -> impl Iterator<Item = &[u8]> {
    let is_data =
        |line: &[u8]| line.strip_prefix(b"data").is_some_and(|rest| rest.is_empty() || rest.starts_with(b":"));
    let event = event.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(event);
    lines(event).filter(move |line| !line.is_empty() && !is_data(line))
}

/// One event with other data behind its other lines.
pub fn with_data(event: &[u8], data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(event.len() + 8);
    for line in other_lines(event) {
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    for line in data.split(|byte| *byte == b'\n') {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
    out
}

/// Whether an answer that begins so is an event stream, whatever its type says: its first line is a field or a comment. No JSON
/// begins so. Bytes that are the beginning of such a line count as one.
pub fn begins(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes).trim_ascii_start();
    let fields: [&[u8]; 5] = [b"data:", b"event:", b":", b"id:", b"retry:"];
    !bytes.is_empty() && fields.iter().any(|field| bytes.starts_with(field) || field.starts_with(bytes))
}

/// The data of every event of a body; the last one may be cut off.
pub fn all_data(body: &[u8]) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let mut splitter = Splitter::default();
    let mut rest = body;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let length = splitter.next_end(rest).unwrap_or(rest.len());
        let (event, behind) = rest.split_at_checked(length)?;
        rest = behind;
        Some(data(event))
    })
}

/// The lines of an event, without their ends; empty ones may appear more often than they are.
fn lines(event: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = event;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let length = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        let (line, behind) = rest.split_at_checked(length)?;
        rest = behind.get(1..).unwrap_or_default();
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pieces: &[&str]) -> Vec<String> {
        let mut splitter = Splitter::default();
        let mut events = vec![String::new()];
        for piece in pieces {
            let mut rest = piece.as_bytes();
            while let Some(length) = splitter.next_end(rest) {
                events.last_mut().unwrap().push_str(std::str::from_utf8(&rest[..length]).unwrap());
                events.push(String::new());
                rest = &rest[length..];
            }
            events.last_mut().unwrap().push_str(std::str::from_utf8(rest).unwrap());
        }
        events
    }

    #[test]
    fn every_line_end_ends_a_line() {
        assert_eq!(split(&["data: a\n\ndata: b\n\n"]), ["data: a\n\n", "data: b\n\n", ""]);
        assert_eq!(split(&["data: a\r\n\r\ndata: b\r\n\r\n"]), ["data: a\r\n\r\n", "data: b\r\n\r\n", ""]);
        assert_eq!(split(&["data: a\r\rdata: b\r\r"]), ["data: a\r\r", "data: b\r\r", ""]);
        assert_eq!(split(&["data: a\n\r\ndata: b\r\n\n"]), ["data: a\n\r\n", "data: b\r\n\n", ""]);
        assert_eq!(split(&["data: a\r\ndata: b"]), ["data: a\r\ndata: b"]);
    }

    #[test]
    fn where_a_stream_is_cut_does_not_matter() {
        for stream in ["data: a\n\n: c\n\ndata: b\ndata: c\n\n", "data: a\r\n\r\n: c\r\n\r\ndata: b\r\ndata: c\r\n\r\n"]
        {
            let whole: Vec<String> = split(&[stream]).iter().map(|event| event.replace(['\r', '\n'], "|")).collect();
            for first in 0..stream.len() {
                for second in first..stream.len() {
                    let pieces = [&stream[..first], &stream[first..second], &stream[second..]];
                    let mut found = split(&pieces);
                    assert_eq!(found.concat(), stream);
                    found.retain(|event| event != "\n");
                    assert_eq!(found.len(), whole.len(), "{pieces:?}");
                    for (one, other) in found.iter().zip(&whole) {
                        let data = |event: &str| String::from_utf8(super::data(event.as_bytes()).into_owned()).unwrap();
                        assert_eq!(data(one), data(&other.replace("||", "\n").replace('|', "\n")), "{pieces:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_stream_is_told_by_its_first_bytes() {
        for no in ["", " \n", "{\"data:\":1}", "[1]", "\"data:\"", "12", "true", "ID3", "error: it failed", "dat a"] {
            assert!(!begins(no.as_bytes()), "{no:?}");
        }
        for yes in
            ["data: x", "data:", "\n\ndata: x", ": keep-alive", "event: x", "\u{FEFF}id: 1", "retry: 5", "d", "even"]
        {
            assert!(begins(yes.as_bytes()), "{yes:?}");
        }
    }

    #[test]
    fn data_is_read_as_the_standard_says() {
        for (event, expected) in [
            ("data: a\n\n", "a"),
            ("data:a\n\n", "a"),
            ("data:  a\n\n", " a"),
            ("data\n\n", ""),
            ("event: x\nid: 1\ndata: a\nretry: 5\n\n", "a"),
            ("data: a\ndata: b\ndata:\n\n", "a\nb\n"),
            (": OPENROUTER PROCESSING\n\n", ""),
            ("datax: a\n\n", ""),
            ("\u{FEFF}data: a\n\n", "a"),
            ("\ndata: a\r\r", "a"),
        ] {
            assert_eq!(data(event.as_bytes()), expected.as_bytes(), "{event:?}");
        }
        assert_eq!(all_data(b"data: a\n\n: c\n\ndata: b").collect::<Vec<_>>(), [&b"a"[..], b"", b"b"]);
    }
}
