//! News for those who run with a key: something about keys or parties may have changed.
//!
//! One number for the whole process. Whoever runs compares it at every piece of an answer (an atomic load) and can wait for
//! it; only after news is the key itself looked at.

use std::sync::Arc;

use tokio::sync::watch;

/// Tells and lets listen. Cheap to clone; clones share the number.
#[derive(Clone, Debug)]
pub struct News(Arc<watch::Sender<u64>>);

impl Default for News {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl News {
    /// Says that something may have changed; call it after the change can be seen.
    pub(super) fn tell(&self) {
        self.0.send_modify(|number| *number += 1);
    }

    /// Listens from now on; what is so already counts as news, so that nothing falls between a look and the first wait.
    pub fn listen(&self) -> watch::Receiver<u64> {
        let mut receiver = self.0.subscribe();
        receiver.mark_changed();
        receiver
    }
}
