//! Real servers for the tests of this room: one PostgreSQL and one PgBouncer for all that run at a time.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

#[allow(dead_code, reason = "the integration suite uses the rest")]
#[path = "../../tests/support/postgres_server.rs"]
pub mod postgres_server;

#[path = "../../tests/support/redis_server.rs"]
pub mod redis_server;

use std::sync::LazyLock;

use postgres_server::{Pooler, PostgresServer};

use crate::store::Address;
use crate::unit::secret::Secret;

/// The server of this process; it ends with it.
static SERVER: LazyLock<PostgresServer> = LazyLock::new(PostgresServer::start);
static POOLER: LazyLock<Pooler> = LazyLock::new(|| Pooler::start(&SERVER));

/// A new, empty PostgreSQL database.
pub fn database() -> Address {
    address(SERVER.database())
}

/// The same by the way of a PgBouncer in transaction mode.
pub fn pooled_database() -> Address {
    let direct = SERVER.database();
    let listen_url = Some(Secret::new(direct.clone()));
    Address { pooler: true, listen_url, ..address(POOLER.url(&direct)) }
}

fn address(url: String) -> Address {
    Address { connections: 4, ..Address::of(Secret::new(url), "node".to_owned()) }
}
