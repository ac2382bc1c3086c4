//! What every test stands on: scripted providers, the gateway's process, small clients.

pub mod answers;
pub mod client;
pub mod cluster;
pub mod marg;
pub mod money;
pub mod raw;
pub mod reply;
pub mod upstream;
mod upstream_h1;
mod upstream_h2;

use std::future::Future;
use std::time::{Duration, Instant};

/// The longest that anything may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What begins every provider credential in these tests; no answer may hold it.
pub const CREDENTIAL: &str = "sk-upstream-";

/// Waits for a future, but not for ever.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    within(PATIENCE, what, future).await
}

/// Waits for a future for a bounded time.
pub async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {limit:?}"),
    }
}

/// Asks again and again until there is an answer.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = ask().await {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
