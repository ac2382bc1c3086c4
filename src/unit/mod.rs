//! Values that every other room shares: money, token counts, ids, time, secrets, patterns, networks.
//!
//! Nothing here reads the network or the environment; only `clock` reads the time, and only `file` touches the disk.

pub mod charge;
pub mod clock;
pub mod commit;
pub mod event;
pub mod file;
pub mod glob;
pub mod id;
pub mod money;
pub mod net;
pub mod object;
pub mod raw;
pub mod secret;
pub mod usage;
pub mod version;
