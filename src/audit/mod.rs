//! A log of what happened that proves itself to somebody who does not trust us.

pub mod archive;
pub mod checkpoint;
pub mod disk;
pub mod entry;
pub mod erase;
pub mod index;
pub mod key;
pub mod log;
pub mod merkle;
pub mod note;
mod opening;
pub mod policy;
pub mod receipt;
pub mod rotation;
pub mod salts;
pub mod state;
pub mod tail;
pub mod texts;
pub mod tiles;
mod upkeep;
pub mod verify;
pub mod witness;
