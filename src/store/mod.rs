//! Where things are kept. Implements the traits that the nouns own; nobody above this room knows SQL.

pub mod shadow;
pub mod sqlite;

pub use sqlite::Store;
