//! Reads HTTP/1.1 responses (RFC 9112) out of whatever pieces the network gives, without owning a socket.
//!
//! The blocking and the asynchronous load share it. It understands what a proxy in front of an API sends: interim answers,
//! `content-length`, chunked, and bodies that end with the connection. It keeps at most 64 KiB of head.

use std::fmt;

/// The largest response head that is read.
const HEAD_LIMIT: usize = 64 * 1024;

/// One response being read.
#[derive(Debug)]
pub struct Response {
    state: State,
    /// The head, or a line of the chunked framing, as far as it came.
    line: Vec<u8>,
    status: u16,
    closes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailer,
    UntilClose,
    Done,
}

/// What came is not HTTP/1.1, or not what this reader knows.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the response is malformed: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

impl Default for Response {
    fn default() -> Self {
        Self { state: State::Head, line: Vec::new(), status: 0, closes: false }
    }
}

impl Response {
    /// Reads one piece; hands pieces of the decoded body to `body`.
    ///
    /// # Errors
    /// When the framing is broken, or bytes follow the end of the response.
    pub fn feed(&mut self, mut input: &[u8], body: &mut dyn FnMut(&[u8])) -> Result<(), Malformed> {
        while !input.is_empty() {
            input = match self.state {
                State::Head => self.head(input)?,
                State::Length(left) => {
                    let (now, rest) = split(input, left);
                    body(now);
                    self.state = State::Length(left - now.len() as u64);
                    self.end_if(self.state == State::Length(0));
                    rest
                }
                State::Chunk(left) => {
                    let (now, rest) = split(input, left);
                    body(now);
                    let left = left - now.len() as u64;
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                    rest
                }
                State::ChunkSize | State::ChunkEnd | State::Trailer => self.framing(input)?,
                State::UntilClose => {
                    body(input);
                    &[]
                }
                State::Done => return Err(Malformed("bytes after its end")),
            };
        }
        Ok(())
    }

    /// The connection ended.
    ///
    /// # Errors
    /// When the response was not complete.
    pub fn end_of_input(&mut self) -> Result<(), Malformed> {
        match self.state {
            State::Done => Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            State::Head if self.line.is_empty() => Err(Malformed("the connection was closed without an answer")),
            _ => Err(Malformed("cut off")),
        }
    }

    /// Whether the whole response was read.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The status; 0 until the head was read.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether the connection cannot be used for another request.
    pub fn closes(&self) -> bool {
        self.closes
    }

    fn end_if(&mut self, ended: bool) {
        if ended {
            self.state = State::Done;
        }
    }

    fn head<'a>(&mut self, input: &'a [u8]) -> Result<&'a [u8], Malformed> {
        // The end of the head may lie across two pieces.
        let searched = self.line.len().saturating_sub(3);
        let before = self.line.len();
        self.line.extend_from_slice(input);
        let found = self.line.get(searched..).and_then(|tail| memchr::memmem::find(tail, b"\r\n\r\n"));
        let Some(end) = found.map(|at| searched + at + 4) else {
            return if self.line.len() > HEAD_LIMIT { Err(Malformed("its head is too long")) } else { Ok(&[]) };
        };
        self.line.truncate(end);
        let head = std::mem::take(&mut self.line);
        self.understand(&head)?;
        Ok(input.get(end - before..).unwrap_or(&[]))
    }

    fn understand(&mut self, head: &[u8]) -> Result<(), Malformed> {
        let head = std::str::from_utf8(head).map_err(|_| Malformed("its head is not text"))?;
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or("");
        let status = first.strip_prefix("HTTP/1.1 ").or_else(|| first.strip_prefix("HTTP/1.0 "));
        let status = status.and_then(|rest| rest.get(..3)).and_then(|digits| digits.parse().ok());
        self.status = status.ok_or(Malformed("no status"))?;
        self.closes = first.starts_with("HTTP/1.0");
        self.state = State::UntilClose;
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                self.state = State::Length(value.parse().map_err(|_| Malformed("its length is no number"))?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
                self.state = State::ChunkSize;
            } else if name.eq_ignore_ascii_case("connection") {
                self.closes = value.eq_ignore_ascii_case("close");
            }
        }
        if (100..200).contains(&self.status) {
            self.state = State::Head;
        }
        self.end_if(self.state == State::Length(0) || matches!(self.status, 204 | 304));
        self.closes |= self.state == State::UntilClose;
        Ok(())
    }

    /// A line of the chunked framing: a size, the end of a chunk, a trailer.
    fn framing<'a>(&mut self, input: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let end = memchr::memchr(b'\n', input);
        let (now, rest) = input.split_at(end.map_or(input.len(), |at| at + 1));
        self.line.extend_from_slice(now);
        if end.is_none() {
            return if self.line.len() > 1024 { Err(Malformed("a chunk line is too long")) } else { Ok(rest) };
        }
        let line = self.line.trim_ascii();
        self.state = match self.state {
            State::ChunkEnd if line.is_empty() => State::ChunkSize,
            State::Trailer if line.is_empty() => State::Done,
            State::Trailer => State::Trailer,
            State::ChunkSize => match chunk_size(line)? {
                0 => State::Trailer,
                size => State::Chunk(size),
            },
            _ => return Err(Malformed("a chunk does not end where it should")),
        };
        self.line.clear();
        Ok(rest)
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or(line).trim_ascii();
    let digits = std::str::from_utf8(digits).map_err(|_| Malformed("a chunk size is no number"))?;
    u64::from_str_radix(digits, 16).map_err(|_| Malformed("a chunk size is no number"))
}

fn split(input: &[u8], at: u64) -> (&[u8], &[u8]) {
    input.split_at(usize::try_from(at).unwrap_or(usize::MAX).min(input.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in pieces of every size and expects the same each time.
    fn check(text: &str, status: u16, body: &str, closes: bool) {
        for size in 1..=text.len() {
            let mut response = Response::default();
            let mut got = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                response.feed(piece, &mut |bytes| got.extend_from_slice(bytes)).expect("well formed");
            }
            response.end_of_input().expect("complete");
            assert_eq!((response.status(), response.closes()), (status, closes), "in pieces of {size}");
            assert_eq!(String::from_utf8_lossy(&got), body, "in pieces of {size}");
        }
    }

    #[test]
    fn a_cut_response_is_an_error() {
        let mut response = Response::default();
        response.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel", &mut |_| {}).expect("well formed so far");
        assert!(!response.is_done());
        assert_eq!(response.end_of_input(), Err(Malformed("cut off")));
    }

    #[test]
    fn bytes_after_the_end_are_an_error() {
        let mut response = Response::default();
        assert!(response.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab", &mut |_| {}).is_err());
    }

    #[test]
    fn a_chunk_longer_than_it_said_is_an_error() {
        let mut response = Response::default();
        let text = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n";
        assert!(response.feed(text, &mut |_| {}).is_err());
    }

    #[test]
    fn a_response_of_known_length() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", false);
        check("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nconnection: close\r\n\r\n", 200, "", true);
    }

    #[test]
    fn a_chunked_response_with_extension_and_trailer() {
        let head = "HTTP/1.1 429 Slow Down\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(
            &format!("{head}5;x=y\r\nhello\r\nA\r\n, world\r\n!\r\n0\r\nx: y\r\n\r\n"),
            429,
            "hello, world\r\n!",
            false,
        );
    }

    #[test]
    fn an_interim_response_is_passed_over() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        check(text, 200, "ok", false);
    }

    #[test]
    fn a_body_without_length_ends_with_the_connection() {
        check("HTTP/1.1 200 OK\r\n\r\nall of it", 200, "all of it", true);
    }
}
