//! Hearing of what other processes write.
//!
//! One connection of its own, never a pooled one, listens on `marg_changed`, which the triggers of the schema notify. It is
//! opened again when it breaks, and each opening counts as a change, since something may have been missed meanwhile. It waits for the
//! first connection of the store: where that fails nobody needs to hear anything.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::telemetry::task;

/// The pause before the connection is opened again. The generation is asked four times a second anyway.
const PAUSE: Duration = Duration::from_secs(1);

/// Listens until it is dropped.
pub(super) struct Listener {
    begun: Arc<Notify>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Listener {
    /// Readies to listen; rings at each change from [`Listener::begin`] on.
    pub(super) fn start(options: PgConnectOptions, changed: Arc<Notify>) -> Self {
        let begun: Arc<Notify> = Arc::default();
        let may_begin = Arc::clone(&begun);
        let task = task::spawn("listen", async move {
            may_begin.notified().await;
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
        });
        Self { begun, task: Mutex::new(Some(task)) }
    }

    /// Begins, once the database has been reached.
    pub(super) fn begin(&self) {
        self.begun.notify_one();
    }

    /// Ends, and waits until it has: a look-up that the end of the runtime takes away from it would be called a defect.
    pub(super) async fn end(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
            drop(task.await);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
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
