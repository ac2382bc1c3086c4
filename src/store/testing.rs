//! Servers that tests of stores start for themselves.

#[path = "../../tests/support/redis_server.rs"]
pub mod redis_server;
