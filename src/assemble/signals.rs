//! SIGTERM and SIGINT drain; SIGHUP reloads.

use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::assemble::core::Core;
use crate::assemble::doors::Endings;

/// Tells Pingora when to stop: after the exchanges that run have ended, not when the signal comes.
pub struct Signals {
    core: Arc<Core>,
    endings: Endings,
    streams: tokio::sync::Mutex<(Option<Signal>, Option<Signal>)>,
}

impl Signals {
    /// A watch over the signals of the process, from now on, and over services that end by themselves. It needs a runtime around
    /// it that outlives it.
    pub fn new(core: Arc<Core>, endings: Endings) -> Self {
        let streams = (stream(SignalKind::terminate()), stream(SignalKind::interrupt()));
        Self { core, endings, streams: tokio::sync::Mutex::new(streams) }
    }
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let mut streams = self.streams.lock().await;
        let (terminate, interrupt) = &mut *streams;
        tokio::select! {
            () = next(terminate) => tracing::info!("SIGTERM: draining"),
            () = next(interrupt) => tracing::info!("SIGINT: draining"),
            service = self.endings.first() => tracing::error!(service, "draining, because a service is gone"),
        }
        tokio::select! {
            () = self.core.drained() => {}
            () = next(terminate) => tracing::warn!("a second signal: running exchanges are cut off"),
            () = next(interrupt) => tracing::warn!("a second signal: running exchanges are cut off"),
        }
        self.core.gateway.cut_off();
        // Not `FastShutdown`: that leaves the loops that accept connections running, and one whose socket belongs to a thread
        // that has ended already gets an error again and again without ever yielding, so that the process never ends.
        ShutdownSignal::GracefulTerminate
    }
}

/// SIGHUP, noted from the beginning of a start: unwatched it would end the process.
pub struct Hangup(Option<Signal>);

impl Hangup {
    /// Watches from now on. It needs a runtime around it that outlives it.
    pub fn watch() -> Self {
        Self(stream(SignalKind::hangup()))
    }
}

/// Reloads on every SIGHUP, for ever; at once, if one came during the start.
pub async fn reload_on_hangup(core: Arc<Core>, Hangup(mut hangup): Hangup) {
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
