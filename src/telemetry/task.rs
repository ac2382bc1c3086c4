//! Background tasks with a name.

use std::future::Future;

use tokio::task::JoinHandle;

/// Spawns a task on the current runtime and logs its name if it panics; the handle may be dropped.
#[allow(clippy::disallowed_methods, reason = "this is the one place that spawns")]
pub fn spawn<F>(name: &'static str, task: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        let guard = Named { name, done: false };
        task.await;
        guard.finish();
    })
}

struct Named {
    name: &'static str,
    done: bool,
}

impl Named {
    fn finish(mut self) {
        self.done = true;
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if !self.done && std::thread::panicking() {
            tracing::error!(task = self.name, "a background task ended by a defect");
        }
    }
}
