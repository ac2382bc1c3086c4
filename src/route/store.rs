//! Routes kept in the store.
