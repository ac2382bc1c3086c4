use super::*;
use crate::ledger::query::{Order, StatusFilter};
use crate::store::suite::ledger::{record, started, varied, write};
use crate::telemetry::task;
use crate::unit::glob::Glob;

#[tokio::test]
async fn a_filter_reads_the_narrow_index_only() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("marg.db")).await.unwrap();
    varied(&store).await;
    for (errors_only, index) in [(false, "exchange_scan"), (true, "exchange_errors")] {
        for order in [Order::NewestFirst, Order::OldestFirst] {
            for after in [None, Some(Cursor { started_at: Timestamp(5), number: 3 })] {
                let filter = Filter {
                    model: Some(Glob::new("gpt-*").unwrap()),
                    user: Some("ann".to_owned()),
                    status: Some(StatusFilter::Class(2)),
                    operation: Some("chat".to_owned()),
                    errors_only,
                    order,
                    after,
                    ..Filter::default()
                };
                let explained = format!("EXPLAIN QUERY PLAN {}", find::page_query(&filter, 10).into_string());
                let rows = sqlx::query(sqlx::AssertSqlSafe(explained)).fetch_all(&store.readers).await.unwrap();
                let plan: Vec<String> = rows.iter().map(|row| sqlx::Row::get(row, "detail")).collect();
                let step = plan.iter().find(|step| step.contains("exchange_")).unwrap();
                assert!(step.contains(&format!("USING COVERING INDEX {index}")), "{plan:?}");
                assert!(after.is_none() || step.starts_with("SEARCH"), "{plan:?}");
                assert!(
                    plan.iter().any(|step| step == "SEARCH exchange USING INTEGER PRIMARY KEY (rowid=?)"),
                    "{plan:?}"
                );
                // One sort, of the page that was found.
                assert!(plan.iter().filter(|step| step.contains("TEMP B-TREE")).count() <= 1, "{plan:?}");
            }
        }
    }
}

#[tokio::test]
async fn readers_go_on_while_another_process_holds_the_write_lock() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("marg.db")).await.unwrap();
    let other = Store::open(folder.path().join("marg.db")).await.unwrap();
    let lock = other.write().await.unwrap();
    assert_eq!(started(&store, Filter::default()).await, Vec::<i64>::new());
    let writing = store.clone();
    let write = task::spawn("write", async move {
        write(&writing, &[record(1)]).await;
    });
    assert_eq!(started(&store, Filter::default()).await, Vec::<i64>::new());
    drop(lock);
    write.await.unwrap();
    assert_eq!(started(&store, Filter::default()).await, [1]);
}
