use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

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
    let connect_timeout = std::time::Duration::from_millis(300);
    let away = open(&Address { connect_timeout, ..Address::of(url, "node".to_owned()) }).await.err().unwrap();
    assert_eq!(away.to_string(), "the database is away: nothing listens at its address (connection refused)");
}
