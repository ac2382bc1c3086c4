use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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
        let connect_timeout = std::time::Duration::from_millis(300);
        let failed = open(&Address { url: Secret::new(wrong), connect_timeout, ..there.clone() }).await.err().unwrap();
        assert!(matches!(failed, StoreError::Away(_) | StoreError::Conflict(_)), "{failed:?}");
        for hidden in ["never-shown", "127.0.0.1", "%zz"] {
            assert!(!format!("{failed} {failed:?}").contains(hidden), "{failed:?}");
        }
    }
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
    let (store, _) = open(&Address { call_timeout: Duration::from_millis(200), ..address }).await.unwrap();
    lost.store(true, Ordering::SeqCst);
    assert!(matches!(store.generation().await, Err(StoreError::Away(_))));
    let closed = tokio::time::timeout(Duration::from_secs(60), store.close()).await;
    assert!(closed.is_ok(), "the close waits for ever");
}
