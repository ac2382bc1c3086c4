//! A log of what happened that proves itself to somebody who does not trust us.

pub mod checkpoint;
pub mod key;
pub mod merkle;
pub mod note;
pub mod policy;
