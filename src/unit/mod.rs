//! Values without I/O that every other room shares: money, token counts, ids, time, secrets, patterns.
//!
//! Nothing here reads a file, the network or the environment; only `clock` reads the time.

pub mod charge;
pub mod clock;
pub mod commit;
pub mod event;
pub mod glob;
pub mod id;
pub mod money;
pub mod object;
pub mod raw;
pub mod secret;
pub mod usage;
pub mod version;
