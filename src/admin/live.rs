//! Bodies that are made while they are sent: exports and live events.
//!
//! A producer pushes pieces into a queue of [`QUEUE`]; when the reader is slow the producer waits, and when the reader is
//! gone its next push fails and it ends. So an export of any size holds one page in memory.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::Frame;
use tokio::sync::{mpsc, watch};

/// The most pieces that wait for a slow reader.
const QUEUE: usize = 4;

/// Tells streams without an end that the server is stopping. A request that carries none is never told.
#[derive(Clone)]
pub struct Closing(pub watch::Receiver<bool>);

impl Closing {
    /// Returns once the server is stopping; never, if there is nothing to tell it.
    pub async fn wait(closing: Option<Closing>) {
        match closing {
            // A watch that is gone means that the server is, too.
            Some(Closing(mut watch)) => drop(watch.wait_for(|stopping| *stopping).await),
            None => std::future::pending().await,
        }
    }
}

/// The producer's end of a body.
pub struct Pen(mpsc::Sender<Result<Bytes, BrokenOff>>);

/// The reader is gone, or may not read any more; the producer should end.
#[derive(Debug)]
pub struct ReaderGone;

impl Pen {
    /// A pen and the body that it writes.
    pub fn new() -> (Self, Body) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), Body::new(Pieces(receiver)))
    }

    /// Adds a piece, waiting while the reader is slow.
    ///
    /// # Errors
    /// When the reader is gone.
    pub async fn write(&self, piece: impl Into<Bytes>) -> Result<(), ReaderGone> {
        self.0.send(Ok(piece.into())).await.map_err(|_| ReaderGone)
    }

    /// Ends the body in a way that the reader can tell from its proper end: the connection breaks.
    pub async fn break_off(self) {
        // A reader that is gone needs no telling.
        drop(self.0.send(Err(BrokenOff)).await);
    }

    /// Returns once the reader is gone.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

/// The body could not be made to its end.
#[derive(Debug)]
struct BrokenOff;

impl fmt::Display for BrokenOff {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the answer could not be completed")
    }
}

impl std::error::Error for BrokenOff {}

struct Pieces(mpsc::Receiver<Result<Bytes, BrokenOff>>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
