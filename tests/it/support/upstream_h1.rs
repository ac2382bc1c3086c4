//! The HTTP/1.1 side of a scripted provider, on the bare socket, so that it can misbehave in every way.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::support::reply::{Answer, Body, End, Fed, What, When};
use crate::support::upstream::{Seen, State};

struct Connection {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    buffer: BytesMut,
    state: Arc<State>,
}

/// How a request's body is framed.
enum Framing {
    Length(usize),
    Chunked,
}

/// Serves requests until one side ends the connection.
pub async fn serve(stream: TcpStream, number: usize, state: Arc<State>) -> io::Result<()> {
    let (read, write) = stream.into_split();
    let mut connection = Connection { read, write, buffer: BytesMut::new(), state: state.clone() };
    while let Some((seen, framing)) = connection.head(number).await? {
        let (place, reply) = state.begin(seen);
        let body = match (reply.when, framing) {
            (When::AtOnce, _) => Bytes::new(),
            (When::Midway, Framing::Length(length)) => connection.take(length / 2).await?,
            (When::Midway, Framing::Chunked) => connection.one_chunk().await?.unwrap_or_default(),
            (When::Afterwards, Framing::Length(length)) => connection.take(length).await?,
            (When::Afterwards, Framing::Chunked) => connection.chunks().await?,
        };
        let whole = reply.when == When::Afterwards;
        let seen = state.body(place, body, whole);
        let answer = match reply.what {
            What::Answer(answer) => answer,
            What::Computed(compute) => compute(&seen),
            What::Raw(bytes) => {
                connection.write.write_all(&bytes).await?;
                return connection.leave().await;
            }
            What::Hang => return connection.until_closed().await,
            What::Close => return Ok(()),
        };
        connection.answer(answer, &seen.method).await?;
        if !whole {
            return connection.leave().await;
        }
    }
    Ok(())
}

impl Connection {
    async fn more(&mut self) -> io::Result<bool> {
        Ok(self.read.read_buf(&mut self.buffer).await? > 0)
    }

    /// The next request's head; nothing if the other side ended the connection.
    async fn head(&mut self, connection: usize) -> io::Result<Option<(Seen, Framing)>> {
        let end = loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                break end;
            }
            if !self.more().await? {
                return Ok(None);
            }
        };
        let head = self.buffer.split_to(end + 4);
        let text = String::from_utf8_lossy(&head[..end]).into_owned();
        let mut lines = text.split("\r\n");
        let mut request = lines.next().unwrap_or_default().split(' ');
        let (method, path) = (request.next().unwrap_or_default(), request.next().unwrap_or_default());
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(':').expect("a header has a colon"))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let mut seen = Seen {
            connection,
            case: String::new(),
            method: method.to_owned(),
            path: path.to_owned(),
            headers,
            body: Bytes::new(),
            whole: false,
        };
        seen.case = seen.header("x-case").unwrap_or_default().to_owned();
        let framing = match (seen.header("transfer-encoding"), seen.header("content-length")) {
            (Some(_), Some(_)) => panic!("the gateway sent both a length and chunks: {seen:?}"),
            (Some(_), None) => Framing::Chunked,
            (None, length) => Framing::Length(length.map_or(0, |length| length.parse().unwrap())),
        };
        Ok(Some((seen, framing)))
    }

    async fn take(&mut self, length: usize) -> io::Result<Bytes> {
        while self.buffer.len() < length {
            if !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.split_to(length).freeze())
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.advance(end + 2);
                return Ok(line);
            }
            if !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn one_chunk(&mut self) -> io::Result<Option<Bytes>> {
        let line = self.line().await?;
        let length = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)
            .map_err(|_| io::Error::other("a chunk's length"))?;
        let chunk = self.take(length).await?;
        self.line().await?;
        Ok((length > 0).then_some(chunk))
    }

    async fn chunks(&mut self) -> io::Result<Bytes> {
        let mut body = BytesMut::new();
        while let Some(chunk) = self.one_chunk().await? {
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    async fn answer(&mut self, answer: Answer, method: &str) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Scripted\r\n", answer.status);
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match &answer.body {
            Body::Whole(_) if answer.status == 204 => head.push_str("\r\n"),
            Body::Whole(bytes) => head.push_str(&format!("content-length: {}\r\n\r\n", bytes.len())),
            _ => head.push_str("transfer-encoding: chunked\r\n\r\n"),
        }
        self.write.write_all(head.as_bytes()).await?;
        if method == "HEAD" {
            return Ok(());
        }
        let end = match answer.body {
            Body::Whole(bytes) => return self.write.write_all(&bytes).await,
            Body::Pieces(pieces, end) => {
                for piece in pieces {
                    self.piece(&piece).await?;
                }
                end
            }
            Body::Repeated(piece, times) => {
                for _ in 0..times {
                    self.piece(&piece).await?;
                }
                End::Clean
            }
            Body::Fed(feed) => {
                let receiver = feed.lock().unwrap().take().expect("a feed is used once");
                self.feed(receiver).await?
            }
        };
        match end {
            End::Clean => self.write.write_all(b"0\r\n\r\n").await,
            End::Cut => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    async fn piece(&mut self, piece: &[u8]) -> io::Result<()> {
        let mut framed = format!("{:x}\r\n", piece.len()).into_bytes();
        framed.extend_from_slice(piece);
        framed.extend_from_slice(b"\r\n");
        self.write.write_all(&framed).await?;
        self.state.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    async fn feed(&mut self, mut receiver: tokio::sync::mpsc::Receiver<Fed>) -> io::Result<End> {
        loop {
            tokio::select! {
                fed = receiver.recv() => match fed {
                    Some(Fed::Piece(piece)) => self.piece(&piece).await?,
                    Some(Fed::Cut) => return Ok(End::Cut),
                    None => return Ok(End::Clean),
                },
                more = self.read.read_buf(&mut self.buffer) => if more? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                },
            }
        }
    }

    /// Ends the connection in a friendly way: the other side gets to read everything first.
    async fn leave(mut self) -> io::Result<()> {
        self.write.shutdown().await?;
        self.until_closed().await
    }

    async fn until_closed(mut self) -> io::Result<()> {
        while self.more().await? {
            self.buffer.clear();
        }
        Ok(())
    }
}
