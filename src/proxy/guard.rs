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
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
        let guarded = Guarded {
            stream,
            reading_head: AtomicBool::new(true),
            head_begun: false,
            wake_at: None,
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
        guarded.reading_head.store(false, Ordering::Relaxed);
    }
}

/// The exchange is over: the next head may come.
pub fn head_may_come(session: &Session) {
    if let Some(guarded) = guarded(session) {
        guarded.reading_head.store(true, Ordering::Relaxed);
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

/// A connection that may not drip.
struct Guarded {
    stream: Stream,
    reading_head: AtomicBool,
    head_begun: bool,
    wake_at: Option<Pin<Box<Sleep>>>,
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
        let span = if self.head_begun { self.limits.header } else { self.limits.keepalive };
        let wake_at = self.wake_at.get_or_insert_with(|| Box::pin(sleep(span)));
        wake_at.as_mut().poll(context).is_ready()
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
        if !self.reading_head.load(Ordering::Relaxed) {
            if self.wake_at.is_some() || self.head_begun {
                self.wake_at = None;
                self.head_begun = false;
            }
            return polled;
        }
        match polled {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                if !self.head_begun {
                    self.head_begun = true;
                    self.wake_at = None;
                    return Poll::Ready(Ok(()));
                }
                if self.is_late(context) {
                    Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
                } else {
                    Poll::Ready(Ok(()))
                }
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
            Ok(peeked) => peeked,
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
