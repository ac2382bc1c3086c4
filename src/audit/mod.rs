//! A log of what happened that proves itself to somebody who does not trust us.

pub mod merkle;
