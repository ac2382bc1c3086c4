//! SIGTERM and SIGINT drain; SIGHUP reloads.

use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::assemble::core::Core;

/// Tells Pingora when to stop: after the exchanges that run have ended, not when the signal comes.
pub struct Signals {
    core: Arc<Core>,
}

impl Signals {
    /// A watch over the signals of the process.
    pub fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let (mut terminate, mut interrupt) = (stream(SignalKind::terminate()), stream(SignalKind::interrupt()));
        tokio::select! {
            () = next(&mut terminate) => tracing::info!("SIGTERM: draining"),
            () = next(&mut interrupt) => tracing::info!("SIGINT: draining"),
        }
        tokio::select! {
            () = self.core.drained() => {}
            () = next(&mut terminate) => tracing::warn!("a second signal: running exchanges are cut off"),
            () = next(&mut interrupt) => tracing::warn!("a second signal: running exchanges are cut off"),
        }
        self.core.gateway.cut_off();
        // Not `FastShutdown`: that leaves the loops that accept connections running, and one whose socket belongs to a thread
        // that has ended already gets an error again and again without ever yielding, so that the process never ends.
        ShutdownSignal::GracefulTerminate
    }
}

/// Reloads on every SIGHUP, for ever.
pub async fn reload_on_hangup(core: Arc<Core>) {
    let mut hangup = stream(SignalKind::hangup());
    loop {
        next(&mut hangup).await;
        tracing::info!("SIGHUP: reloading");
        core.reload_now("gateway").await;
    }
}

fn stream(kind: SignalKind) -> Option<Signal> {
    signal(kind).map_err(|error| tracing::error!(%error, "a signal cannot be watched")).ok()
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}
