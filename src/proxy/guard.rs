//! What protects the data plane's connections: how many there are, and how long one may say nothing.
//!
//! Pingora limits each single read, so that a head sent byte by byte could take for ever. Every accepted connection is
//! therefore wrapped: a head must be whole within `server.header_timeout_ms` of its first byte, and between requests a
//! connection may rest for `server.keepalive_ms`. While a body or an answer is under way the wrapper only hands through.
//! HTTP/2 connections have their own idle limit in Pingora.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::apps::ServerApp;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::{SslDigest, TlsRef};
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType,
};
use pingora_core::server::ShutdownWatch;
use pingora_proxy::{HttpProxy, Session};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::proxy::Front;
use crate::telemetry::metrics::METRICS;

/// What every HTTP/2 connection begins with (RFC 9113 section 3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The application that accepts connections for the proxy.
pub struct Door {
    proxy: Arc<HttpProxy<Front>>,
    limits: Limits,
    open: Arc<AtomicUsize>,
}

/// The bounds of connections; they hold until a restart.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most connections at one time.
    pub connections: usize,
    /// The time for a whole head, from its first byte.
    pub header: Duration,
    /// The time between requests, and before the first.
    pub keepalive: Duration,
}

impl Door {
    /// A door in front of a proxy.
    pub fn new(proxy: HttpProxy<Front>, limits: Limits) -> Self {
        Self { proxy: Arc::new(proxy), limits, open: Arc::default() }
    }
}

#[async_trait]
impl ServerApp for Door {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let place = Place::take(&self.open);
        if place.number > self.limits.connections {
            METRICS.connections_refused.inc();
            return None;
        }
        let preface_left = if stream.selected_alpn_proto() == Some(ALPN::H2) { H2_PREFACE.len() } else { 0 };
        let guarded = Guarded {
            stream,
            stage: AtomicU8::new(AWAITING),
            preface_left,
            wake: None,
            limits: self.limits,
            _place: place,
        };
        let stream: Stream = Box::new(guarded);
        self.proxy.process_new(stream, shutdown).await
    }

    async fn cleanup(&self) {
        ServerApp::cleanup(&*self.proxy).await;
    }
}

/// A head has arrived whole: its time no longer counts.
pub fn head_has_arrived(session: &Session) {
    if let Some(guarded) = guarded(session) {
        guarded.stage.store(HANDING_THROUGH, Ordering::Relaxed);
    }
}

/// The exchange is over: the next head may come.
pub fn head_may_come(session: &Session) {
    if let Some(guarded) = guarded(session) {
        guarded.stage.store(AWAITING, Ordering::Relaxed);
    }
}

fn guarded(session: &Session) -> Option<&Guarded> {
    session.as_http1()?;
    session.stream()?.as_any().downcast_ref::<Guarded>()
}

/// One connection's place among all.
struct Place {
    open: Arc<AtomicUsize>,
    number: usize,
}

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        METRICS.connections.inc();
        Self { number: open.fetch_add(1, Ordering::AcqRel) + 1, open: open.clone() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        METRICS.connections.dec();
        self.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// No byte of the next head has come.
const AWAITING: u8 = 0;
/// A head is coming.
const READING: u8 = 1;
/// A body or an answer is under way, or the connection speaks HTTP/2.
const HANDING_THROUGH: u8 = 2;

/// A connection that may not drip.
struct Guarded {
    stream: Stream,
    stage: AtomicU8,
    /// How much of the preface of HTTP/2 is still to come: it counts as the connection's only head.
    preface_left: usize,
    /// When the stage that it was set for has lasted too long.
    wake: Option<(u8, Pin<Box<Sleep>>)>,
    limits: Limits,
    _place: Place,
}

impl fmt::Debug for Guarded {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Guarded").finish_non_exhaustive()
    }
}

impl Guarded {
    /// Whether the time for this head, or for waiting for one, is over.
    fn is_late(&mut self, context: &mut Context<'_>) -> bool {
        let stage = self.stage.load(Ordering::Relaxed);
        let span = match stage {
            AWAITING => self.limits.keepalive,
            READING => self.limits.header,
            _ => {
                self.wake = None;
                return false;
            }
        };
        if self.wake.as_ref().is_none_or(|(of, _)| *of != stage) {
            self.wake = Some((stage, Box::pin(sleep(span))));
        }
        self.wake.as_mut().is_some_and(|(_, wake)| wake.as_mut().poll(context).is_ready())
    }

    /// Bytes have come; whether they are the first of a head.
    fn take_note(&mut self, count: usize) -> bool {
        if self.preface_left > 0 {
            self.preface_left = self.preface_left.saturating_sub(count);
            if self.preface_left == 0 {
                self.stage.store(HANDING_THROUGH, Ordering::Relaxed);
            }
        }
        let first = self.stage.load(Ordering::Relaxed) == AWAITING;
        if first {
            self.stage.store(READING, Ordering::Relaxed);
            self.wake = None;
        }
        first
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let count = buffer.filled().len().saturating_sub(before);
        match polled {
            // Most heads come whole, so no timer is set before a second piece is awaited.
            Poll::Ready(Ok(())) if count > 0 && self.take_note(count) => polled,
            Poll::Ready(Ok(())) if count > 0 && self.is_late(context) => {
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Pending if self.is_late(context) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            other => other,
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for Guarded {
    async fn shutdown(&mut self) {
        self.stream.shutdown().await;
    }
}

#[async_trait]
impl Peek for Guarded {
    async fn try_peek(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        // Pingora waits here for an HTTP/2 preface without a limit of its own.
        match tokio::time::timeout(self.limits.header, self.stream.try_peek(buffer)).await {
            Ok(peeked) => {
                if matches!(peeked, Ok(true)) && buffer == H2_PREFACE {
                    self.preface_left = H2_PREFACE.len();
                }
                peeked
            }
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl UniqueID for Guarded {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl Ssl for Guarded {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.stream.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.selected_alpn_proto()
    }
}

impl GetTimingDigest for Guarded {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_timing_digest()
    }
}

impl GetProxyDigest for Guarded {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }
}

impl GetSocketDigest for Guarded {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }
}
