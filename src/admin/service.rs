//! The admin side as a Pingora service: every connection is handed to hyper with the router behind it.
//!
//! Bounds: [`CONNECTIONS`] connections at one time (more are closed at once), [`HEADER_TIMEOUT`] for a head to arrive (it
//! also closes idle and silent connections), [`HEAD_BYTES`] for its size, [`WRITE_TIMEOUT`] for a reader to take something.
//! HTTP/1.1 only: without TLS, telling HTTP/2 apart would mean to wait for bytes without a limit. At shutdown idle
//! connections close, running requests finish, live streams end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
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
use crate::admin::wire::Wire;

/// The most connections at one time.
pub const CONNECTIONS: usize = 256;

/// The time for a request head, and the time that an idle connection is kept.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a reader may take nothing of an answer.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

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
            // Behind a body without a length nothing is read: `Wire` does not look for its end.
            let is_last = request.headers().contains_key(header::TRANSFER_ENCODING);
            let answer = router.clone().oneshot(request);
            async move {
                let mut answer = answer.await?;
                if is_last {
                    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok(answer)
            }
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
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(Wire::new(stream)), service);
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::sync::watch;

    use super::*;
    use crate::admin::tests::House;

    /// A client's end of a connection to an admin side, and the switch that stops it.
    async fn connect() -> (House, DuplexStream, watch::Sender<bool>, tokio::task::JoinHandle<()>) {
        let house = House::new().await;
        let app = Arc::new(AdminApp::new(house.state.clone()));
        let (client, server) = tokio::io::duplex(1 << 20);
        let (stop, stopped) = watch::channel(false);
        let task = crate::telemetry::task::spawn("connection", async move {
            assert!(app.process_new(Box::new(server), &stopped).await.is_none());
        });
        (house, client, stop, task)
    }

    async fn answer(client: &mut DuplexStream) -> String {
        let mut text = Vec::new();
        while !text.ends_with(b"{\"status\":\"ok\"}") {
            text.push(client.read_u8().await.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn a_connection_serves_one_request_after_another() {
        let (_house, mut client, _stop, _task) = connect().await;
        for _ in 0..3 {
            client.write_all(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            assert!(answer(&mut client).await.starts_with("HTTP/1.1 200 OK\r\n"));
        }
    }

    #[tokio::test]
    async fn a_head_that_drips_in_is_given_up() {
        let (_house, mut client, _stop, task) = connect().await;
        tokio::time::pause();
        client.write_all(b"GET /health HTTP/1.1\r\nx: ").await.unwrap();
        task.await.unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_never_says_anything_is_closed() {
        let (_house, mut client, _stop, task) = connect().await;
        tokio::time::pause();
        task.await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_reader_who_takes_nothing_is_given_up() {
        let house = House::new().await;
        let app = Arc::new(AdminApp::new(house.state.clone()));
        let (mut client, server) = tokio::io::duplex(1024);
        let (_stop, stopped) = watch::channel(false);
        let task = crate::telemetry::task::spawn("connection", async move {
            assert!(app.process_new(Box::new(server), &stopped).await.is_none());
        });
        client.write_all(b"GET /admin/openapi.json HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        client.read_u8().await.unwrap();
        tokio::time::pause();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_head_beyond_its_limit_is_refused() {
        let (_house, mut client, _stop, task) = connect().await;
        let head = format!("GET /health HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "a".repeat(2 * HEAD_BYTES));
        client.write_all(head.as_bytes()).await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 431 ") && text.contains("cache-control: no-store"), "{text}");
        assert!(text.ends_with("it has at most 64 KiB and 100 fields.\"}}"), "{text}");
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_request_with_two_lengths_is_refused_and_nothing_of_it_is_done() {
        let both =
            ["content-length: 13\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 13"];
        for (lengths, first) in [(both[0], ""), (both[1], ""), (both[0], "GET /health HTTP/1.1\r\nhost: a\r\n\r\n")] {
            let (house, mut client, _stop, task) = connect().await;
            let token = house.token(crate::key::admin::Role::Admin);
            let head = format!(
                "{first}POST /admin/keys HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\
                 content-type: application/json\r\n{lengths}\r\n\r\nd\r\n{{\"name\":\"ci\"}}\r\n0\r\n\r\n"
            );
            client.write_all(head.as_bytes()).await.unwrap();
            let mut text = String::new();
            client.read_to_string(&mut text).await.unwrap();
            let (_, refusal) = text.rsplit_once("HTTP/1.1 ").unwrap();
            assert!(refusal.starts_with("400 ") && refusal.contains("not both"), "{text}");
            assert_eq!(text.starts_with("HTTP/1.1 200 "), !first.is_empty(), "{text}");
            task.await.unwrap();
            assert_eq!(house.state.keys.count(&crate::key::store::KeyFilter::default()).await.unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn a_body_without_a_length_is_read_and_ends_its_connection() {
        let (house, mut client, _stop, task) = connect().await;
        let token = house.token(crate::key::admin::Role::Admin);
        let head = format!(
            "POST /admin/keys HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
             transfer-encoding: chunked\r\n\r\nd\r\n{{\"name\":\"ci\"}}\r\n0\r\n\r\n"
        );
        client.write_all(head.as_bytes()).await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 201 ") && text.contains("connection: close"), "{text}");
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_stop_closes_idle_connections_and_ends_live_streams() {
        let (_house, mut client, stop, task) = connect().await;
        client.write_all(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        answer(&mut client).await;
        stop.send_replace(true);
        task.await.unwrap();

        let (house, mut client, stop, task) = connect().await;
        let token = house.token(crate::key::admin::Role::Auditor);
        let head = format!("GET /admin/requests/tail HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let mut text = Vec::new();
        while !text.ends_with(b"retry: 2000\nid: 0.0\n\n\r\n") {
            text.push(client.read_u8().await.unwrap());
        }
        stop.send_replace(true);
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert!(rest.ends_with("0\r\n\r\n"), "the stream has a proper end: {rest:?}");
        task.await.unwrap();
    }
}
