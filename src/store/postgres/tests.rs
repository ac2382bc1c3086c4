use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::error::StoreError;
use crate::store::suite::{Place, run_everywhere};
use crate::store::testing::database;
use crate::store::{Address, open};
use crate::unit::secret::Secret;

run_everywhere!(Place::postgres());

mod behind_a_pooler {
    use crate::store::suite::{Place, run_everywhere};

    run_everywhere!(Place::postgres_behind_a_pooler());
}

#[tokio::test]
async fn no_failure_tells_the_password_or_the_host() {
    let there = database();
    let url = there.url.expose();
    let port = url.rsplit_once(':').unwrap().1.split_once('/').unwrap().0;
    let name = url.rsplit_once('/').unwrap().1;
    for wrong in [
        url.replace(port, "1"),
        url.replace(name, "nowhere"),
        format!("{url}?sslmode=require"),
        format!("{url}?sslmode=never-shown"),
        format!("{url}?passwrod=never-shown"),
        url.replace("127.0.0.1", "%zz"),
    ] {
        let connect_timeout = Duration::from_millis(300);
        let failed = open(&Address { url: Secret::new(wrong), connect_timeout, ..there.clone() }).await.err().unwrap();
        assert!(matches!(failed, StoreError::Away(_) | StoreError::Conflict(_)), "{failed:?}");
        for hidden in ["never-shown", "127.0.0.1", "%zz"] {
            assert!(!format!("{failed} {failed:?}").contains(hidden), "{failed:?}");
        }
    }
}

#[tokio::test]
async fn an_open_that_only_an_operator_can_mend_is_no_outage_and_says_what_is_wrong() {
    let there = database();
    let url = there.url.expose();
    let name = url.rsplit_once('/').unwrap().1;
    let poor = format!("poor_{name}");
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query(AssertSqlSafe(format!("CREATE ROLE {poor} LOGIN"))).execute(&mut connection).await.unwrap();
    for (wrong, says) in [
        (url.replace("marg:", "nobody_here:"), "the server refuses the user or the password (SQLSTATE 28"),
        (url.replace(name, "nowhere"), "there is no such database (SQLSTATE 3D000)"),
        (url.replace("marg:", &format!("{poor}:")), "the user lacks a right (SQLSTATE 42501)"),
        (format!("{url}?sslmode=verify-full&sslrootcert=/nowhere.pem"), "sslrootcert in the database URL: cannot read"),
    ] {
        let refused = open(&Address { url: Secret::new(wrong), ..there.clone() }).await.err().unwrap();
        assert!(matches!(refused, StoreError::Conflict(_)) && refused.to_string().contains(says), "{refused:?}");
    }
    sqlx::query(AssertSqlSafe(format!("DROP ROLE {poor}"))).execute(&mut connection).await.unwrap();
}

#[tokio::test]
async fn an_address_where_nothing_listens_is_away_and_says_so() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = Secret::new(format!("postgres://marg@{free}/marg"));
    let connect_timeout = Duration::from_millis(300);
    let away = open(&Address { connect_timeout, ..Address::of(url, "node".to_owned()) }).await.err().unwrap();
    assert_eq!(away.to_string(), "the database is away: nothing listens at its address (connection refused)");
}

/// The same database by a way that swallows every byte from the moment when the flag is set.
async fn by_a_way_that_may_be_lost(there: &Address) -> (Address, Arc<AtomicBool>) {
    let url = there.url.expose();
    let (before, after) = url.rsplit_once(':').unwrap();
    let (port, name) = after.split_once('/').unwrap();
    let server = ("127.0.0.1", port.parse::<u16>().unwrap());
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("{before}:{}/{name}", listener.local_addr().unwrap().port());
    let lost = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&lost);
    crate::telemetry::task::spawn("way", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (from_caller, to_caller) = stream.into_split();
            let (from_server, to_server) = TcpStream::connect(server).await.unwrap().into_split();
            for (from, to) in [(from_caller, to_server), (from_server, to_caller)] {
                crate::telemetry::task::spawn("one way", pass_on(from, to, Arc::clone(&flag)));
            }
        }
    });
    (Address { url: Secret::new(url), ..there.clone() }, lost)
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, lost: Arc<AtomicBool>) {
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        if lost.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if to.write_all(&piece[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_close_does_not_wait_for_a_server_that_is_gone_without_a_word() {
    let (address, lost) = by_a_way_that_may_be_lost(&database()).await;
    let (store, _) = open(&Address { call_timeout: Duration::from_secs(3), ..address }).await.unwrap();
    lost.store(true, Ordering::SeqCst);
    assert!(matches!(store.generation().await, Err(StoreError::Away(_))));
    let closed = tokio::time::timeout(Duration::from_secs(60), store.close()).await;
    assert!(closed.is_ok(), "the close waits for ever");
}
