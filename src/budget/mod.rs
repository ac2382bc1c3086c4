//! What may be spent: limits, reservations, leases, settlement.
//!
//! A limit is a row; each of its counters is owned by an *authority* (the database, or Redis). A process admits from leases on
//! those counters, in memory; near the cap a lease shrinks to what one call needs. What an exchange used is told to the
//! authority by its charges, which travel through the journal, so exactly once.

pub mod authority;
#[cfg(test)]
pub(crate) mod conformance;
pub mod counter;
pub mod draft;
pub mod limit;
pub mod memory;
pub mod store;
