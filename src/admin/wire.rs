//! The edge between a connection of the admin port and hyper, for what hyper cannot be told to do.
//!
//! A request with `content-length` and `transfer-encoding` is refused, as on the port for calls (RFC 9112 section 6.3): hyper would
//! drop the one and go by the other. For that the heads are looked at as they arrive; one with both loses its last byte, so
//! that hyper finds it broken. And what hyper refuses by itself – a head that is too large or broken – gets the one error shape
//! in place of hyper's empty body.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::admin::respond::{ErrorAnswer, ErrorBody, FIXED_HEADERS};
use crate::admin::service::{HEAD_BYTES, HEADER_TIMEOUT, WRITE_TIMEOUT};
use crate::error::Kind;

/// As much of a line of a head as is kept: the names that matter, and a length.
const LINE_BYTES: usize = 128;

/// hyper's own answers are shorter than this.
const OWN_ANSWER_BYTES: usize = 512;

/// A connection. Costs a look at each byte of a head, and none at a body.
pub struct Wire<S> {
    stream: S,
    heads: Heads,
    has_two_lengths: bool,
    /// The last write took all that it was given, so the next one begins something.
    is_between: bool,
    /// What is written in place of an answer of hyper's own, and not written yet.
    answer: Vec<u8>,
    /// Until the first byte: hyper's own time begins with that.
    silent: Option<Pin<Box<Sleep>>>,
    /// While the reader takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Wire<S> {
    /// A connection on which nothing was read.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            heads: Heads::default(),
            has_two_lengths: false,
            is_between: true,
            answer: Vec::new(),
            silent: Some(Box::pin(sleep(HEADER_TIMEOUT))),
            stalled: None,
        }
    }
}

/// Gives a wait up that its clock has ended.
fn in_time<T>(polled: Poll<T>, clock: &mut Option<Pin<Box<Sleep>>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
    if let Poll::Ready(done) = polled {
        return Poll::Ready(Ok(done));
    }
    match clock.as_mut().map(|clock| clock.as_mut().poll(context)) {
        Some(Poll::Ready(())) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        _ => Poll::Pending,
    }
}

impl<S: AsyncWrite + Unpin> Wire<S> {
    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.answer.is_empty() {
            let taken = ready!(Pin::new(&mut self.stream).poll_write(context, &self.answer))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.answer.drain(..taken.min(self.answer.len()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = bytes.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(context, bytes);
        ready!(in_time(polled, &mut this.silent, context))??;
        this.silent = None;
        let new = bytes.filled_mut().get_mut(before..).unwrap_or_default();
        if let Some(last) = this.heads.look(new).and_then(|end| new.get_mut(end)) {
            *last = 0;
            this.has_two_lengths = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_answer(context))?;
        if let Some(answer) = spelled_out(bytes, this.has_two_lengths).filter(|_| this.is_between) {
            this.answer = answer;
            return Poll::Ready(Ok(bytes.len()));
        }
        let polled = Pin::new(&mut this.stream).poll_write(context, bytes);
        if polled.is_pending() && this.stalled.is_none() {
            this.stalled = Some(Box::pin(sleep(WRITE_TIMEOUT)));
        }
        let taken = ready!(in_time(polled, &mut this.stalled, context))??;
        this.stalled = None;
        this.is_between = taken == bytes.len();
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_answer(context))?;
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_answer(context))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

/// The same answer with the one error shape as its body, if it is one of hyper's own: a status of the 4xx class with an empty body
/// and without the headers that every other answer has.
fn spelled_out(answer: &[u8], has_two_lengths: bool) -> Option<Vec<u8>> {
    if answer.len() > OWN_ANSWER_BYTES || !answer.starts_with(b"HTTP/1.1 4") {
        return None;
    }
    let head = std::str::from_utf8(answer).ok()?.strip_suffix("\r\n\r\n")?;
    let (before, after) = head.split_once("\r\ncontent-length: 0")?;
    if head.contains("\r\ncache-control:") || head.contains("\r\n\r\n") {
        return None;
    }
    let message = match StatusCode::from_bytes(head.get(9..12)?.as_bytes()).ok()? {
        StatusCode::BAD_REQUEST if has_two_lengths => {
            "Send content-length or `transfer-encoding: chunked`, once, not both.".to_owned()
        }
        StatusCode::URI_TOO_LONG => "The path is too long.".to_owned(),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            format!("The head of the request is too large: it has at most {} KiB and 100 fields.", HEAD_BYTES / 1024)
        }
        _ => "The request is not well-formed HTTP/1.1.".to_owned(),
    };
    let error = ErrorBody { code: Kind::InvalidRequest.code().to_owned(), message, param: None };
    let body = serde_json::to_string(&ErrorAnswer { error }).ok()?;
    let fixed: String = FIXED_HEADERS.iter().map(|(name, value)| format!("\r\n{name}: {value}")).collect();
    let length = body.len();
    Some(
        format!("{before}{after}\r\ncontent-type: application/json\r\ncontent-length: {length}{fixed}\r\n\r\n{body}")
            .into_bytes(),
    )
}

/// Finds the heads among the bytes of a connection. Where a body has no length the end is not looked for: such a request is
/// the last on its connection.
#[derive(Default)]
struct Heads {
    place: Place,
    /// The beginning of the line that is being read.
    line: Vec<u8>,
    /// The request line was read.
    has_begun: bool,
    is_coded: bool,
    length: Option<u64>,
    /// A length that is no number, or longer than anybody needs.
    has_odd_length: bool,
}

#[derive(Clone, Copy, Default)]
enum Place {
    #[default]
    Head,
    /// So many bytes are left of a body.
    Body(u64),
    /// Nothing that comes is a head.
    Over,
}

impl Heads {
    /// Looks at what has arrived; gives the place of the byte that completes a head with two lengths.
    fn look(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            match self.place {
                Place::Over => return None,
                Place::Body(left) => {
                    let here = (bytes.len() - at).min(usize::try_from(left).unwrap_or(usize::MAX));
                    at += here;
                    let left = left - here as u64;
                    self.place = if left == 0 { Place::Head } else { Place::Body(left) };
                }
                Place::Head => {
                    if *byte == b'\n' && self.end_line() && self.end_head() {
                        return Some(at);
                    }
                    if *byte != b'\n' && self.line.len() < LINE_BYTES {
                        self.line.push(*byte);
                    }
                    at += 1;
                }
            }
        }
        None
    }

    /// Takes the line that ends here; whether the head ends with it. hyper takes lines that end without a carriage return, and
    /// skips empty ones before a request.
    fn end_line(&mut self) -> bool {
        let line = std::mem::take(&mut self.line);
        let text = line.strip_suffix(b"\r").unwrap_or(&line);
        if text.is_empty() {
            return self.has_begun;
        }
        if std::mem::replace(&mut self.has_begun, true) {
            let colon = text.iter().position(|byte| *byte == b':').unwrap_or(text.len());
            let (name, value) = text.split_at(colon);
            if name.eq_ignore_ascii_case(b"transfer-encoding") {
                self.is_coded = true;
            } else if name.eq_ignore_ascii_case(b"content-length") {
                let value = std::str::from_utf8(value).ok().and_then(|value| value.get(1..)?.trim().parse().ok());
                self.has_odd_length |= value.is_none() || line.len() == LINE_BYTES;
                self.length = value.or(Some(0));
            }
        }
        false
    }

    /// Goes on behind a head; whether it had two lengths.
    fn end_head(&mut self) -> bool {
        let ended = std::mem::take(self);
        let is_refused = ended.has_odd_length || ended.is_coded && ended.length.is_some();
        self.place = match ended.length {
            _ if is_refused || ended.is_coded => Place::Over,
            Some(length @ 1..) => Place::Body(length),
            _ => Place::Head,
        };
        is_refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a head with two lengths ends, if the bytes arrive in pieces of that size.
    fn found(text: &str, piece: usize) -> Option<usize> {
        let mut heads = Heads::default();
        let pieces = text.as_bytes().chunks(piece).enumerate();
        pieces.filter_map(|(number, bytes)| Some(number * piece + heads.look(bytes)?)).next()
    }

    #[test]
    fn two_lengths_are_found_wherever_they_stand() {
        let good = "POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\na\r\n\r\nGET /b HTTP/1.1\nhost: a\n\n\r\n";
        for bad in [
            "POST /c HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
            "POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\nhost: a\r\nCONTENT-LENGTH:5\r\n\r\n",
            "POST /c HTTP/1.1\ntransfer-encoding:gzip\ncontent-length: 0\n\n",
            "POST /c HTTP/1.1\r\ncontent-length: +x\r\n\r\n",
        ] {
            for piece in 1..200 {
                let text = format!("{good}{bad}0\r\n\r\nGET /d HTTP/1.1\r\n\r\n");
                assert_eq!(found(&text, piece), Some(good.len() + bad.len() - 1), "{bad:?} by {piece}");
                assert_eq!(found(good, piece), None);
            }
        }
    }

    #[test]
    fn what_a_body_holds_is_no_head() {
        let bad = "POST /c HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n";
        let inside = format!("POST /a HTTP/1.1\r\ncontent-length: {}\r\n\r\n{bad}", bad.len());
        assert_eq!(found(&inside, 7), None);
        assert_eq!(found(&format!("POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{bad}"), 7), None);
    }

    #[test]
    fn only_answers_that_hyper_gives_itself_are_spelled_out() {
        let own =
            "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let text = String::from_utf8(spelled_out(own.as_bytes(), false).unwrap()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 431 ") && head.contains("connection: close\r\ndate: x\r\n"), "{head}");
        assert!(head.contains(&format!("content-length: {}\r\ncache-control: no-store", body.len())), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"]["code"], "invalid_request");
        for other in [
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\ncache-control: no-store\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
        ] {
            assert_eq!(spelled_out(other.as_bytes(), false), None, "{other}");
        }
    }
}
