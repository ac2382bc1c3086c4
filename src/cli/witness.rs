//! `marg witness`: a small server that cosigns other logs' checkpoints (c2sp.org/tlog-witness).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::audit::disk::System;
use crate::audit::key::{Purpose, SigningKeys};
use crate::audit::witness::{PATH, REQUEST_LIMIT_BYTES, Reply, Witness};
use crate::cli::audit;
use crate::cli::complain;
use crate::cli::failure::{Failure, Result};
use crate::unit::clock::Timestamp;
use crate::unit::secret::Secret;

/// The most connections at one time; more wait to be accepted.
const CONNECTIONS: usize = 64;

/// The time for one connection, whatever is done on it; a log asks twice a second at most and connects again.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// Cosign the checkpoints of known logs, over HTTP, until interrupted.
#[derive(Debug, Args)]
pub struct Run {
    /// Where to listen. Put a TLS proxy before it if it is to be reached from outside.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8082")]
    listen: SocketAddr,
    /// The file with the witness's keys (`marg audit key create --witness`).
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// A file whose content is the passphrase of the keys.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// The logs that it knows: `log` lines, as `marg audit key export-public` prints them, and `quorum none`.
    #[arg(long, value_name = "FILE")]
    logs: PathBuf,
    /// The folder where it remembers what it cosigned.
    #[arg(long, value_name = "FOLDER", default_value = "witness")]
    dir: PathBuf,
}

/// Runs the witness.
pub async fn run(run: Run) -> Result {
    let failed = |error: &dyn std::fmt::Display| Failure::failed(format!("{error}."));
    let passphrase: Option<Secret> = run.passphrase_file.as_deref().map(audit::secret).transpose()?;
    let keys = SigningKeys::load(&run.key, Purpose::Witness, passphrase.as_ref()).map_err(|error| failed(&error))?;
    let logs = audit::policy(&run.logs)?;
    let name = keys.name().to_owned();
    let witness = Arc::new(Witness::new(keys, logs, run.dir, Arc::new(System)).map_err(|error| failed(&error))?);
    let listener = TcpListener::bind(run.listen).await?;
    complain(&format!("marg: the witness {name} listens on http://{}", listener.local_addr()?));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = places.clone().acquire_owned().await.map_err(|error| failed(&error))?;
        // One connection that fails to be accepted says nothing about the next.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let witness = witness.clone();
        crate::telemetry::task::spawn("witness connection", async move {
            let service = service_fn(|request| answer(witness.clone(), request));
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10)).max_buf_size(64 * 1024);
            let connection = server.serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
                tracing::debug!(%error, "a connection to the witness broke");
            }
            drop(place);
        });
    }
}

async fn answer(witness: Arc<Witness>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, http::Error> {
    let plain = |status: StatusCode| Response::builder().status(status).body(Full::default());
    if request.uri().path() != PATH {
        return plain(StatusCode::NOT_FOUND);
    }
    if request.method() != Method::POST {
        return plain(StatusCode::METHOD_NOT_ALLOWED);
    }
    let Ok(body) = Limited::new(request.into_body(), REQUEST_LIMIT_BYTES).collect().await else {
        return plain(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let body = body.to_bytes();
    let judged = tokio::task::spawn_blocking(move || witness.add_checkpoint(&body, Timestamp::now())).await;
    let Ok(Reply { status, content_type, body }) = judged else { return plain(StatusCode::INTERNAL_SERVER_ERROR) };
    Response::builder().status(status).header(header::CONTENT_TYPE, content_type).body(Full::from(body))
}
