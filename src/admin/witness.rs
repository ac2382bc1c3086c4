//! Witnessing the logs of peers (c2sp.org/tlog-witness), and how far each of them is.
//!
//! The operation for peers takes no token, as the protocol has none: what counts is the log's signature on the checkpoint. It is
//! no change that an administrator makes, so it is not in the trail, and it is not in the OpenAPI document. At most
//! [`REQUESTS`] are worked on at one time; more are refused with 503.

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use crate::admin::State;
use crate::admin::respond::{self, ErrorAnswer, Refusal};
use crate::audit::witness::{REQUEST_LIMIT_BYTES, Reply};
use crate::error::{Error, Kind};
use crate::unit::clock::Timestamp;

/// The most requests of peers at one time. Each peer asks about once a second, for some milliseconds.
const REQUESTS: usize = 32;

static PLACES: Semaphore = Semaphore::const_new(REQUESTS);

/// The witness that runs in this gateway.
#[derive(Debug, Serialize, ToSchema)]
pub struct WitnessView {
    /// Its name.
    pub name: String,
    /// Its verifier keys, Ed25519 and ML-DSA-44; a peer puts one or both into `audit.witnesses`.
    pub keys: Vec<String>,
    /// The logs that it witnesses, by origin.
    pub logs: Vec<WitnessedLog>,
}

/// A log of a peer.
#[derive(Debug, Serialize, ToSchema)]
pub struct WitnessedLog {
    /// Its origin.
    pub origin: String,
    /// The size of the last checkpoint that was cosigned; 0 if none was.
    pub size: u64,
}

/// The witness that runs in this gateway, and how far it knows the logs of its peers.
#[utoipa::path(get, path = "/admin/audit/witness", operation_id = "audit_witness", tag = "audit", responses(
    (status = 200, description = "The witness.", body = WitnessView),
    (status = 404, description = "It witnesses no peers (`audit.witness_peers`).", body = ErrorAnswer),
))]
pub async fn show(state: State) -> Result<Response, Refusal> {
    let witness = state.control.witness().ok_or_else(|| Refusal::missing("witness here (audit.witness_peers)"))?;
    let (name, keys) = (witness.keys().name().to_owned(), witness.keys().public().each_ref().map(ToString::to_string));
    let seen = tokio::task::spawn_blocking(move || witness.seen()).await.map_err(|error| unreadable(&error))?;
    let logs = seen.map_err(|error| unreadable(&error))?;
    let logs = logs.into_iter().map(|seen| WitnessedLog { origin: seen.origin, size: seen.size });
    Ok(respond::ok(&WitnessView { name, keys: keys.into(), logs: logs.collect() }))
}

/// A peer asks to cosign its checkpoint: `POST /audit/witness/add-checkpoint`.
pub async fn add_checkpoint(state: State, request: Request<Body>) -> Result<Response, Refusal> {
    let witness = state.control.witness().ok_or_else(|| Refusal::missing("witness here (audit.witness_peers)"))?;
    let busy = || Error::new(Kind::Unavailable, "Too many checkpoints come at one time.").retry_after(1);
    let _place = PLACES.try_acquire().map_err(|_| Refusal::from(busy()))?;
    let body = respond::collect_up_to(request.into_body(), REQUEST_LIMIT_BYTES).await?;
    let judged = tokio::task::spawn_blocking(move || witness.add_checkpoint(&body, Timestamp::now())).await;
    let Reply { status, content_type, body } = judged.map_err(|error| unreadable(&error))?;
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Ok((status, [(CONTENT_TYPE, content_type)], body).into_response())
}

fn unreadable(error: &dyn std::fmt::Display) -> Refusal {
    tracing::error!(%error, "what the witness remembers could not be used");
    Error::new(Kind::Internal, "What the witness remembers cannot be used; the log of the gateway says why.").into()
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use super::*;
    use crate::admin::tests::House;
    use crate::admin::tests::request;
    use crate::key::admin::Role;

    #[tokio::test]
    async fn a_gateway_that_witnesses_nobody_says_so() {
        let house = House::new().await;
        for (method, path) in [(Method::POST, "/audit/witness/add-checkpoint"), (Method::GET, "/admin/audit/witness")] {
            let answer = house.ask_as(Role::Auditor, method, path, None).await;
            assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "not_found"), "{path}");
        }
    }

    #[tokio::test]
    async fn peers_need_no_token_and_a_body_has_a_limit() {
        let house = House::new().await;
        let keys =
            crate::audit::key::SigningKeys::create(crate::audit::key::Purpose::Witness, "w.test", Timestamp::now());
        let folder = tempfile::tempdir().unwrap();
        let witness = crate::audit::witness::Witness::new(
            keys.unwrap(),
            crate::audit::policy::Policy::default(),
            folder.path().join("witness"),
            std::sync::Arc::new(crate::audit::disk::System),
        );
        *house.control.witness.lock().unwrap() = Some(std::sync::Arc::new(witness.unwrap()));
        let ask = |body: String| {
            let mut request = request(None, Method::POST, "/audit/witness/add-checkpoint", None);
            *request.body_mut() = Body::from(body);
            house.send(request)
        };
        let answer =
            ask("old 0\n\nl\n1\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n— l AAAAAAA=\n".to_owned()).await;
        assert_eq!(answer.status, 404, "{}", answer.text);
        assert!(answer.text.contains("does not know the log"), "{}", answer.text);
        assert_eq!(answer.headers[CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(ask("nonsense".to_owned()).await.status, 400);
        assert_eq!(ask("x".repeat(REQUEST_LIMIT_BYTES + 1)).await.status, 413);
        let shown = house.ask_as(Role::Auditor, Method::GET, "/admin/audit/witness", None).await;
        assert_eq!((shown.status.as_u16(), &shown.json()["name"]), (200, &"w.test".into()));
        let stranger = request(None, Method::GET, "/admin/audit/witness", None);
        assert_eq!(house.send(stranger).await.status, 401);
    }
}
