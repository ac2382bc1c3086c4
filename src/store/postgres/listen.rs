//! Hearing of what other processes write.
//!
//! One connection of its own, never a pooled one, listens on `marg_changed`, which the triggers of the schema notify. It is
//! opened again when it breaks, and each opening counts as a change, since something may have been missed meanwhile.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::telemetry::task;

/// The pause before the connection is opened again. The generation is asked four times a second anyway.
const PAUSE: Duration = Duration::from_secs(1);

/// Listens until it is dropped.
pub(super) struct Listener(tokio::task::JoinHandle<()>);

impl Listener {
    /// Begins to listen; rings at each change.
    pub(super) fn start(options: PgConnectOptions, changed: Arc<Notify>) -> Self {
        Self(task::spawn("listen", async move {
            loop {
                // A failure is no news: the store itself says when the database is away.
                if let Ok(mut listener) = connect(options.clone()).await {
                    changed.notify_one();
                    while let Ok(Some(_)) = listener.try_recv().await {
                        changed.notify_one();
                    }
                }
                sleep(PAUSE).await;
            }
        }))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn connect(options: PgConnectOptions) -> Result<PgListener, sqlx::Error> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_secs(5))
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(options);
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    listener.listen("marg_changed").await?;
    Ok(listener)
}
