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
