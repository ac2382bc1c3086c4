//! Where things are kept. Implements the traits that the nouns own; nobody above this room knows SQL.

pub mod redis;
pub mod shadow;
pub mod sqlite;
#[cfg(test)]
pub(crate) mod testing;

pub use sqlite::Store;
