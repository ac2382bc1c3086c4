//! The **leave** of an exchange to go on running: whether its key is still good, if the operator wants running calls cut.
//!
//! An exchange has one only where `keys.running_calls` is `cut`. A look costs an atomic load as long as nothing about keys or
//! parties has changed; a wait is woken by the change, so that a call whose provider is silent ends as soon as one whose
//! answer flows (`a_stream_of_a_key_that_is_withdrawn_is_cut`, tests/it/withdrawn.rs).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use crate::error::{Error, Kind};
use crate::key::Key;
use crate::key::ring::{Refusal, Ring};
use crate::pipeline::identify::explain;
use crate::unit::clock::Timestamp;

/// The leave of one exchange. Clones are of the same exchange: what one sees, all know.
#[derive(Clone)]
pub struct Leave {
    ring: Arc<Ring>,
    key: Arc<Key>,
    news: watch::Receiver<u64>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    ended: OnceLock<Refusal>,
    torn: AtomicBool,
}

impl Leave {
    /// The leave of what runs with that key.
    pub fn new(ring: Arc<Ring>, key: Arc<Key>) -> Self {
        let news = ring.news().listen();
        Self { ring, key, news, shared: Arc::default() }
    }

    /// Whether it has ended. Once it has, it stays so, whatever becomes of the key.
    pub fn has_ended(&mut self) -> bool {
        if self.shared.ended.get().is_none() && self.news.has_changed().unwrap_or(true) {
            self.news.mark_unchanged();
            if let Err(refusal) = self.ring.still_admits(&self.key, Timestamp::now()) {
                self.shared.ended.get_or_init(|| refusal);
            }
        }
        self.shared.ended.get().is_some()
    }

    /// Returns when it ends.
    pub async fn ends(&mut self) {
        while !self.has_ended() {
            if self.news.changed().await.is_err() {
                // The ring outlives every exchange, so somebody else tells that it is over.
                std::future::pending::<()>().await;
            }
            self.news.mark_changed();
        }
    }

    /// What the caller is told, once it has ended.
    pub fn refusal(&self) -> Option<Error> {
        Some(match self.shared.ended.get()? {
            Refusal::Unknown => Error::new(Kind::InvalidApiKey, "This API key has been deleted."),
            refusal => explain(*refusal),
        })
    }

    /// Notes that it ended while a piece was being written, so that nothing more can be written behind it.
    pub fn tear(&self) {
        self.shared.torn.store(true, Ordering::Relaxed);
    }

    /// Whether nothing more can be written.
    pub fn is_torn(&self) -> bool {
        self.shared.torn.load(Ordering::Relaxed)
    }
}
