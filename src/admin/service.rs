//! The admin side as a Pingora service: every connection is handed to hyper with the router behind it.
//!
//! Bounds: [`CONNECTIONS`] connections at one time (more are closed at once), [`HEADER_TIMEOUT`] for a head to arrive (it
//! also closes idle connections), [`HEAD_BYTES`] for its size. HTTP/1.1 only: without TLS, telling HTTP/2 apart would mean to
//! wait for bytes without a limit. At shutdown idle connections close, running requests finish, live streams end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use pingora_core::apps::ServerApp;
use pingora_core::protocols::Stream;
use pingora_core::server::ShutdownWatch;
use tokio::sync::Semaphore;
use tower::ServiceExt;

use crate::admin::State;
use crate::admin::auth::Peer;
use crate::admin::live::Closing;

/// The most connections at one time.
pub const CONNECTIONS: usize = 256;

/// The time for a request head, and the time that an idle connection is kept.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(20);

/// The largest request head.
pub const HEAD_BYTES: usize = 64 * 1024;

/// The application behind the admin port. Give it to `pingora_core::services::listening::Service::new`.
pub struct AdminApp {
    router: Router,
    places: Arc<Semaphore>,
}

impl AdminApp {
    /// An application that serves the router of a state.
    pub fn new(state: State) -> Self {
        Self { router: crate::admin::router(state), places: Arc::new(Semaphore::new(CONNECTIONS)) }
    }
}

#[async_trait]
impl ServerApp for AdminApp {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let Ok(_place) = Arc::clone(&self.places).try_acquire_owned() else {
            tracing::warn!(limit = CONNECTIONS, "an admin connection was closed, because too many are open");
            return None;
        };
        let peer = Peer(peer_address(&stream));
        let closing = Closing(shutdown.clone());
        let router = self.router.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(closing.clone());
            router.clone().oneshot(request)
        });
        serve(stream, service, shutdown.clone()).await;
        None
    }
}

fn peer_address(stream: &Stream) -> Option<IpAddr> {
    let digest = stream.get_socket_digest()?;
    digest.peer_addr()?.as_inet().map(|address| address.ip())
}

async fn serve<S>(stream: Stream, service: S, mut shutdown: ShutdownWatch)
where
    S: hyper::service::Service<
            Request<Incoming>,
            Response = axum::response::Response,
            Error = std::convert::Infallible,
            Future: Send,
        > + Send
        + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEAD_BYTES);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        // A closed watch means that the server is gone, which is a shutdown as well.
        () = async { drop(shutdown.wait_for(|stopping| *stopping).await) } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %error, "an admin connection broke");
    }
}
