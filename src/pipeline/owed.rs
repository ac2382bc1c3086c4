//! What a provider still **owes** an exchange whose caller has left: the usage, which it reports behind the end of the text.
//!
//! Callers leave at `finish_reason`, as many programs do, and the report that Marg asked for comes a moment later; with it
//! comes what was thought in secret. So who leaves then is heard out for [`PATIENCE`]
//! (`a_caller_that_leaves_at_the_end_of_the_text_pays_what_the_provider_reports`, tests/it/streaming.rs). Who leaves before
//! that stops the provider at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a provider is listened to for its report when the caller has left. Reports come within milliseconds of the end,
/// across oceans within tenths of a second; and a connection to a provider is not held for longer by nobody.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// What is owed to one exchange. Clones are of the same exchange: what one sees, all know.
#[derive(Clone, Debug, Default)]
pub struct Owed(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    due: AtomicBool,
    caller_left: AtomicBool,
}

impl Owed {
    /// Whether the provider has said the end of all that it writes, but not yet its usage.
    pub fn is_due(&self) -> bool {
        self.0.due.load(Ordering::Relaxed)
    }

    /// Notes whether it is due.
    pub fn set_due(&self, due: bool) {
        self.0.due.store(due, Ordering::Relaxed);
    }

    /// Whether the caller has left, so that all that still comes is for Marg alone.
    pub fn has_caller_left(&self) -> bool {
        self.0.caller_left.load(Ordering::Relaxed)
    }

    /// Notes that the caller has left.
    pub fn caller_leaves(&self) {
        self.0.caller_left.store(true, Ordering::Relaxed);
    }
}
