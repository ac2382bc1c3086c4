//! The built-in simulated provider: a small HTTP/1.1 server on loopback that speaks OpenAI's wire.
//!
//! It lets a new user try everything without a key of any vendor, and it fails on request (`docs/simulated-provider.md`), so
//! that failover can be watched. The gateway proxies to it like to any other provider; nothing in Marg takes a short cut to it.
//! Answers are made up from the request alone: the same request gets the same words. It checks no credential, keeps nothing,
//! and bounds what it takes: connections, body size, the time to send a request. No model is run and no tokenizer loaded.

mod behaviour;
mod chat;
mod completions;
mod embeddings;
mod fields;
mod media;
pub mod models;
mod reply;
mod responses;
mod schema;
mod server;
mod wire;
mod words;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use crate::telemetry::task;

/// Connections that are served at once; more wait in the backlog of the socket.
const CONNECTIONS_LIMIT: u32 = 4_096;

/// How long running answers may take after a stop was asked for.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// How long to wait when the operating system refuses a connection, for want of file descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound socket of the simulated provider. Connections wait in its backlog until it serves.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

/// Binds a free port of 127.0.0.1. Needs no runtime, so that the address is known before one starts.
///
/// # Errors
/// What the operating system said.
pub fn bind() -> std::io::Result<Listener> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    Ok(Listener { socket, address })
}

impl Listener {
    /// Its base URL, as a provider's `base_url` in the configuration: `http://127.0.0.1:PORT/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Serves until `stop` turns true or its sender is gone; then takes nothing new, lets running answers finish for at most
    /// ten seconds, and returns.
    pub async fn serve(self, mut stop: watch::Receiver<bool>) {
        let listener = match tokio::net::TcpListener::from_std(self.socket) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "the simulated provider cannot use its socket");
                return;
            }
        };
        let places = Arc::new(Semaphore::new(CONNECTIONS_LIMIT as usize));
        loop {
            let next = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                next = next => next,
                () = stopped(&mut stop) => break,
            };
            match accepted {
                Ok((socket, _)) => {
                    let stop = stop.clone();
                    task::spawn("simulated-connection", async move {
                        server::connection(socket, stop).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the simulated provider cannot take a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        // The last places come back when the last connections end.
        if tokio::time::timeout(DRAIN_LIMIT, places.acquire_many(CONNECTIONS_LIMIT)).await.is_err() {
            tracing::warn!("the simulated provider stops with answers unfinished");
        }
    }
}

/// Waits until a stop is asked for, or nobody is left to ask.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stopping| *stopping).await.is_err() {
        // The sender is gone: that is a stop too.
    }
}

#[cfg(test)]
mod tests;
