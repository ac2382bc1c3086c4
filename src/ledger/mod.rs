//! What an exchange cost and how it went: one [`Record`] for each, whatever its end.
//!
//! A record is handed to the journal (an append-only file, `journal`) before the client gets its last byte; a feeder carries
//! it from there to the database in batches, exactly once (`feeder`). Queries read the database.

pub mod consumer;
pub mod feeder;
pub mod journal;
pub mod query;
pub mod reconcile;
pub mod record;
pub mod reprice;

pub use consumer::Consumer;
pub use feeder::{ConsumerState, Feeder, FeederEnded, FeederHandle, FeederSettings, FeederState, OwnerEnd, Takers};
pub use journal::{Gap, Journal, JournalError, JournalSettings, Line, owner_of};
pub use query::LedgerStore;
pub use record::{Amendment, Attempt, AttemptEnd, Correction, Outcome, Record};
