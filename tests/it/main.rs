//! The integration suite: the real binary, driven through its public doors against scripted providers on this machine.
//!
//! One file per subject; names are sentences. Nothing here reaches beyond 127.0.0.1, and nothing waits for a time where it
//! can wait for a condition. `support` holds the providers, the gateway's process and the clients.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and its helpers are not marked as tests"
)]

mod support;

#[allow(dead_code, reason = "the tests of the library use the rest")]
#[path = "../support/postgres_server.rs"]
mod postgres_server;

#[allow(dead_code, reason = "the tests of the library use the rest")]
#[path = "../support/redis_server.rs"]
mod redis_server;

mod audit;
mod audit_content;
mod audit_folder;
mod audit_upkeep;
mod background;
mod bad_input;
mod cluster;
mod connections;
mod crash;
mod doors;
mod edges;
mod evasion;
mod failover;
mod kavach;
mod layers;
mod leaks;
mod lifecycle;
mod model_lists;
mod models;
mod money;
mod outage;
mod overruns;
mod passthrough;
mod permits;
mod postgres;
mod routes;
mod settlement;
mod slow_readers;
mod streaming;
mod usage;
mod withdrawn;
mod witness;
