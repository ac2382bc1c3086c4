//! A caller that writes bytes, HTTP or not.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::client::{Answer, assert_openai_error};
use crate::support::{soon, within};

/// A bare connection.
pub struct Raw {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Raw {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = soon("a connection", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Writes; false if the other side has closed the connection.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        soon("bytes are taken", self.stream.write_all(bytes.as_ref())).await.is_ok()
    }

    /// Says that nothing more will be written.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Everything until the other side closes the connection, within a limit.
    pub async fn rest(mut self, limit: Duration) -> Vec<u8> {
        // A reset ends the answer as well as a close does; what came before it counts.
        let _reset = within(limit, "the connection is closed", self.stream.read_to_end(&mut self.buffer)).await;
        self.buffer
    }

    /// The next answer on the connection, or nothing if it is closed instead, within a limit.
    pub async fn answer(&mut self, limit: Duration) -> Option<Answer> {
        within(limit, "an answer or the end of the connection", self.read_answer()).await
    }

    /// The status of the next head alone, as of an interim answer; 0 if the connection is closed instead.
    pub async fn interim(&mut self, limit: Duration) -> u16 {
        let head = within(limit, "a head or the end of the connection", self.read_head()).await;
        head.map_or(0, |answer| answer.status)
    }

    async fn more(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.buffer).await, Ok(count) if count > 0)
    }

    async fn read_head(&mut self) -> Option<Answer> {
        let end = loop {
            match memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                Some(end) => break end,
                None if self.more().await => {}
                None => {
                    assert!(self.buffer.is_empty(), "half a head: {:?}", String::from_utf8_lossy(&self.buffer));
                    return None;
                }
            }
        };
        let head = String::from_utf8(self.buffer.drain(..end + 4).collect()).expect("a head is ASCII");
        Some(parse_head(&head))
    }

    async fn read_answer(&mut self) -> Option<Answer> {
        loop {
            let mut answer = self.read_head().await?;
            if answer.status < 200 {
                continue;
            }
            let length: usize = answer.header("content-length").parse().expect("an answer of Marg's own has a length");
            while self.buffer.len() < length {
                assert!(self.more().await, "half a body: {:?}", String::from_utf8_lossy(&self.buffer));
            }
            answer.body = self.buffer.drain(..length).collect::<Vec<u8>>().into();
            answer.assert_clean();
            return Some(answer);
        }
    }
}

fn parse_head(head: &str) -> Answer {
    let mut lines = head.trim_end().split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let mut headers = http::HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("not a header: {line:?}"));
        let name: http::HeaderName = name.parse().unwrap_or_else(|_| panic!("not a header: {line:?}"));
        headers.append(name, value.trim().parse().unwrap());
    }
    Answer {
        status: status.unwrap_or_else(|| panic!("not a status: {status_line:?}")),
        headers,
        body: bytes::Bytes::new(),
    }
}

/// Holds that bytes on a connection of their own are refused: a 4xx in OpenAI's shape, or the end of the connection.
/// Gives the status, 0 for the end of the connection.
pub async fn assert_refused(address: SocketAddr, what: &str, bytes: impl AsRef<[u8]>) -> u16 {
    let mut raw = Raw::connect(address).await;
    raw.write(bytes).await;
    match raw.answer(Duration::from_secs(15)).await {
        Some(answer) => {
            assert!((400..500).contains(&answer.status), "{what}: {answer:?}");
            if !answer.body.is_empty() {
                assert_openai_error(&answer.json());
            }
            answer.status
        }
        None => 0,
    }
}
