//! The trail of changes: every request that may change something is written to the journal before it is made and after.
//!
//! It stands in front of every route that is not a reading one, so no handler can forget it. What cannot be written down is
//! not done: the change is refused with 503. What was asked for is kept without secrets, and of the answer only the id of
//! what was made. The command line on the store passes here, too.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::admin::auth::Caller;
use crate::admin::respond::{self, BODY_LIMIT_BYTES, Refusal};
use crate::error::{Error, Kind};
use crate::ledger::journal::{Journal, Line};
use crate::unit::clock::Timestamp;
use crate::unit::event::{Event, MAX_DETAIL_BYTES, Phase};

/// The largest answer to a change; changes answer with one item.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Names of fields whose values are not written down.
const SECRETS: [&str; 6] = ["token", "secret", "password", "passphrase", "credential", "credentials"];

/// What became of a change, besides its status: a handler puts it beside its answer, and it is written down. No secret is in it.
#[derive(Clone, Debug)]
pub struct Outcome(pub Value);

/// Makes a change, and writes down who asked for what and what became of it.
pub async fn follow(journal: Option<Arc<Journal>>, request: Request, next: Next) -> Response {
    let Some(journal) = journal else { return next.run(request).await };
    let (parts, body) = request.into_parts();
    let (detail, body) = if is_small(&parts.headers) {
        match respond::collect(body).await {
            Ok(body) => (detail(&body), Body::from(body)),
            Err(refusal) => return refusal.into_response(),
        }
    } else {
        (json!({"bytes": announced(&parts.headers)}), body)
    };
    let actor = parts.extensions.get::<Caller>().and_then(|caller| caller.token.clone());
    let (noun, subject, verb) = meaning(parts.method.as_str(), parts.uri.path());
    let mut event = Event {
        id: Uuid::now_v7(),
        at: Timestamp::now(),
        actor: actor.as_deref().unwrap_or("in-process").into(),
        noun,
        verb,
        subject,
        phase: Phase::Begun,
        status: None,
        detail,
    };
    if let Err(cause) = journal.append(&Line::Event(event.clone())) {
        let text = "The change cannot be written down, so it is not made; see /ready for what is wrong.";
        return Refusal::from(Error::new(Kind::Unavailable, text).retry_after(5).because(cause)).into_response();
    }
    let answer = next.run(Request::from_parts(parts, body)).await;
    let (answer, id) = keep(answer).await;
    event.at = Timestamp::now();
    event.phase = Phase::Done;
    event.status = Some(answer.status().as_u16());
    event.subject = event.subject.or(id);
    event.detail = answer.extensions().get::<Outcome>().map_or(Value::Null, |outcome| outcome.0.clone());
    if let Err(error) = journal.append_or_keep(Line::Event(event)) {
        tracing::error!(%error, "that a change is done could not be written down; that it was begun is, and it is tried again");
    }
    answer
}

/// Whether a body is of the ordinary size; the few routes that take larger ones announce it.
fn is_small(headers: &HeaderMap) -> bool {
    announced(headers).is_none_or(|bytes| bytes <= BODY_LIMIT_BYTES as u64)
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Noun, subject and verb of a request such as `POST /admin/keys/KEY/revoke`.
pub(super) fn meaning(method: &str, path: &str) -> (String, Option<String>, String) {
    let mut parts = path.trim_start_matches("/admin/").split('/').filter(|part| !part.is_empty());
    let noun = parts.next().unwrap_or_default();
    let noun = noun.strip_suffix("ies").map_or_else(|| singular(noun).to_owned(), |stem| format!("{stem}y"));
    let rest: Vec<&str> = parts.collect();
    let plain = match method {
        "POST" => "create",
        "PUT" => "replace",
        "PATCH" => "update",
        "DELETE" => "delete",
        other => other,
    };
    match (method, rest.as_slice()) {
        (_, []) if noun == "reload" => ("config".to_owned(), None, "reload".to_owned()),
        (_, []) => (noun, None, plain.to_owned()),
        ("POST", [verb]) => (noun, None, (*verb).to_owned()),
        (_, [subject]) => (noun, Some((*subject).to_owned()), plain.to_owned()),
        (_, [subject, .., verb]) => (noun, Some((*subject).to_owned()), (*verb).to_owned()),
    }
}

fn singular(noun: &str) -> &str {
    // `status` is one already.
    noun.strip_suffix('s').filter(|stem| !stem.ends_with('u')).unwrap_or(noun)
}

/// What was asked for, without secrets; its size and hash if it is large or no JSON.
fn detail(body: &Bytes) -> Value {
    if body.is_empty() {
        return Value::Null;
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(mut value) if body.len() <= MAX_DETAIL_BYTES => {
            keep_out_secrets(&mut value);
            value
        }
        _ => json!({"bytes": body.len(), "blake3": blake3::hash(body).to_string()}),
    }
}

fn keep_out_secrets(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if SECRETS.iter().any(|secret| name.eq_ignore_ascii_case(secret)) {
                    *value = Value::from("(kept out)");
                } else {
                    keep_out_secrets(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(keep_out_secrets),
        _ => {}
    }
}

/// The answer again, and the id of what it is about.
async fn keep(answer: Response) -> (Response, Option<String>) {
    let (parts, body) = answer.into_parts();
    let Ok(body) = to_bytes(body, MAX_ANSWER_BYTES).await else {
        let error = Error::new(Kind::Internal, "The answer is too large.");
        return (Refusal::from(error).into_response(), None);
    };
    let id = serde_json::from_slice::<Value>(&body).ok().and_then(|answer| {
        let nested = answer.as_object().and_then(|fields| fields.values().find_map(|field| field.get("id")));
        answer.get("id").or(nested).and_then(Value::as_str).map(str::to_owned)
    });
    (Response::from_parts(parts, Body::from(body)), id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_was_sent_is_not_written_down() {
        let body =
            Bytes::from_static(br#"{"name":"x","auth":{"Token":"t-1","credentials":["c-1"]},"list":[{"secret":"s"}]}"#);
        let kept = detail(&body).to_string();
        for secret in ["t-1", "c-1", "\"s\""] {
            assert!(!kept.contains(secret), "{kept}");
        }
        assert!(kept.contains("\"name\":\"x\""));
    }

    #[test]
    fn a_request_is_named_by_what_it_does_to_what() {
        let read = |method, path| {
            let (noun, subject, verb) = meaning(method, path);
            format!("{verb} {noun} {}", subject.unwrap_or_default())
        };
        assert_eq!(read("POST", "/admin/keys"), "create key ");
        assert_eq!(read("POST", "/admin/keys/key_1/revoke"), "revoke key key_1");
        assert_eq!(read("DELETE", "/admin/limits/lim_1"), "delete limit lim_1");
        assert_eq!(read("POST", "/admin/routes/reorder"), "reorder route ");
        assert_eq!(read("POST", "/admin/reload"), "reload config ");
        assert_eq!(read("PATCH", "/admin/policies/p"), "update policy p");
    }
}
