//! Telling somebody else what happens to limits: one POST for each event.
//!
//! Events wait in the budget's own bounded queue; whoever falls behind it loses the oldest, which is logged and counted. A post that
//! fails is tried again with growing pauses, [`TRIES`] times in all, then given up, so that one dead receiver cannot keep events
//! for ever. Posts go only where the configuration says, redirects are not followed, and each carries a signature if a secret is
//! set. `docs/operations.md` describes the document and how to check the signature.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use pingora_http::RequestHeader;
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

use crate::assemble::connector::connector;
use crate::budget::limit::Unit;
use crate::budget::{BudgetEvent, scope_word, unit_word};
use crate::config::load::Webhook;
use crate::provider::endpoint::Endpoint;
use crate::provider::transport::plain_peer;
use crate::telemetry::metrics::METRICS;
use crate::unit::clock::Timestamp;
use crate::unit::id;
use crate::unit::money::NanoUsd;
use crate::unit::version::VERSION;

/// How long one try may take, from the connection to the head of the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a post is tried; with the pauses between them that is about two minutes.
const TRIES: u32 = 8;
/// The first pause; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Why a try did not deliver.
#[derive(Debug, PartialEq, Eq)]
enum Failed {
    /// Trying again may help.
    ForNow(String),
    /// It will not.
    ForGood(String),
}

impl fmt::Display for Failed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::ForNow(reason) | Self::ForGood(reason)) = self;
        out.write_str(reason)
    }
}

/// Posts events as they come, until the process stops. `webhook` is asked anew for each try, so a reload counts at once; while it
/// gives none, events pass unposted.
pub async fn run<E: Clone>(
    mut events: Receiver<E>,
    document: impl Fn(&E) -> Value,
    webhook: impl Fn() -> Option<Webhook>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let event = tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            event = events.recv() => event,
        };
        match event {
            Ok(_) if webhook().is_none() => {}
            Ok(event) => {
                let post = Post::new(document(&event));
                tokio::select! {
                    _ = stopped.wait_for(|stopped| *stopped) => {
                        tracing::warn!(event = %post.id, "the process stopped before an event of a limit was posted");
                        return;
                    }
                    () = post.deliver(&webhook, FIRST_PAUSE) => {}
                }
            }
            Err(RecvError::Lagged(lost)) => {
                METRICS.webhook_posts.with_label_values(&["lost"]).inc_by(lost);
                tracing::error!(
                    lost,
                    "events of limits came faster than the webhook took them; the oldest were not posted"
                );
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// What an event says, as `docs/operations.md` describes it: times as text, money as decimal text, too.
pub fn document(event: &BudgetEvent) -> Value {
    let BudgetEvent::Threshold { limit, name, scope, subject, unit, percent, spent, amount, window: _, resets_at, at } =
        event;
    let mut document = json!({
        "event": "threshold", "at": at.rfc3339(), "limit": limit, "name": name, "scope": scope_word(*scope),
        "subject": Some(&**subject).filter(|subject| !subject.is_empty()), "unit": unit_word(*unit), "percent": percent,
        "spent": spent, "amount": amount, "resets_at": resets_at.map(Timestamp::rfc3339),
    });
    if let (Unit::Usd, Value::Object(fields)) = (unit, &mut document) {
        fields.insert("spent_usd".to_owned(), NanoUsd(*spent).to_string().into());
        fields.insert("amount_usd".to_owned(), NanoUsd(*amount).to_string().into());
    }
    document
}

/// One event on its way.
struct Post {
    id: String,
    body: Bytes,
}

impl Post {
    fn new(mut document: Value) -> Self {
        let id = id::mint("evt");
        if let Value::Object(fields) = &mut document {
            fields.insert("id".to_owned(), Value::from(id.as_str()));
        }
        Self { id, body: document.to_string().into() }
    }

    /// Tries until it is delivered, or given up.
    async fn deliver(&self, webhook: &impl Fn() -> Option<Webhook>, first_pause: Duration) {
        let mut pause = first_pause;
        for tried in 1..=TRIES {
            let Some(webhook) = webhook() else { return };
            let sent = tokio::time::timeout(PATIENCE, self.send(&webhook)).await;
            let failed = match sent.unwrap_or_else(|_| Err(Failed::ForNow("it did not answer in time".to_owned()))) {
                Ok(()) => {
                    METRICS.webhook_posts.with_label_values(&["delivered"]).inc();
                    return;
                }
                Err(failed) => failed,
            };
            if tried == TRIES || matches!(failed, Failed::ForGood(_)) {
                METRICS.webhook_posts.with_label_values(&["failed"]).inc();
                tracing::error!(event = %self.id, reason = %failed, tried, "an event of a limit could not be posted");
                return;
            }
            tracing::warn!(event = %self.id, reason = %failed, tried, "an event of a limit was not posted yet");
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    async fn send(&self, webhook: &Webhook) -> Result<(), Failed> {
        let url = webhook.url.expose();
        let (base, query) = url.split_once('?').map_or((url, None), |(base, query)| (base, Some(query)));
        let endpoint = Endpoint::parse(base).map_err(|_| Failed::ForGood("the URL cannot be used".to_owned()))?;
        let peer = plain_peer(&endpoint).await.map_err(|reason| Failed::ForNow(reason.to_owned()))?;
        let broken = |_| Failed::ForNow("the connection could not be made, or broke".to_owned());
        let (mut session, _) = connector().get_http_session(&peer).await.map_err(broken)?;
        session.set_read_timeout(Some(PATIENCE));
        session.set_write_timeout(Some(PATIENCE));
        let path = if endpoint.prefix.is_empty() { "/" } else { &endpoint.prefix };
        let path = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
        let head = self.head(&path, &endpoint.authority, webhook).map_err(|_| {
            // Only the operator's own URL can do this.
            Failed::ForGood("the request cannot be written".to_owned())
        })?;
        session.write_request_header(Box::new(head)).await.map_err(broken)?;
        session.write_request_body(self.body.clone(), true).await.map_err(broken)?;
        session.finish_request_body().await.map_err(broken)?;
        session.read_response_header().await.map_err(broken)?;
        let status = session.response_header().map_or(0, |head| head.status.as_u16());
        // The answer's body is of no interest, so the connection is not kept.
        session.shutdown().await;
        judge(status)
    }

    fn head(&self, path: &str, authority: &str, webhook: &Webhook) -> pingora_error::Result<RequestHeader> {
        let mut head = RequestHeader::build("POST", path.as_bytes(), Some(8))?;
        head.insert_header("host", authority)?;
        head.insert_header("content-type", "application/json")?;
        head.insert_header("content-length", self.body.len().to_string())?;
        head.insert_header("user-agent", format!("marg/{VERSION}"))?;
        head.insert_header("x-marg-event", self.id.as_str())?;
        if let Some(secret) = &webhook.secret {
            let signature = signature(secret.expose(), Timestamp::now().seconds(), &self.body);
            head.insert_header("x-marg-signature", signature)?;
        }
        Ok(head)
    }
}

/// `t=SECONDS,v1=HEX`: HMAC-SHA256 (RFC 2104, FIPS 180-4) with the secret over the seconds since 1970, a full stop and the body.
fn signature(secret: &str, seconds: i64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut signing = hmac::Context::with_key(&key);
    signing.update(seconds.to_string().as_bytes());
    signing.update(b".");
    signing.update(body);
    format!("t={seconds},v1={}", data_encoding::HEXLOWER.encode(signing.sign().as_ref()))
}

/// What a status means for a post (RFC 9110 section 15).
fn judge(status: u16) -> Result<(), Failed> {
    match status {
        200..=299 => Ok(()),
        408 | 425 | 429 | 500..=599 => Err(Failed::ForNow(format!("it answered {status}"))),
        300..=399 => Err(Failed::ForGood(format!("it answered {status}, and redirects are not followed"))),
        status => Err(Failed::ForGood(format!("it answered {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::broadcast;

    use super::*;
    use crate::telemetry::task;
    use crate::unit::secret::Secret;

    /// Answers each request with the next status, and keeps what it was sent.
    async fn receiver(statuses: &'static [u16]) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = seen.clone();
        task::spawn("receiver", async move {
            for status in statuses {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"}") {
                    let mut piece = [0; 4096];
                    let read = stream.read(&mut piece).await.unwrap();
                    request.extend_from_slice(&piece[..read]);
                }
                kept.lock().unwrap().push(String::from_utf8(request).unwrap());
                let answer = format!("HTTP/1.1 {status} x\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (url, seen)
    }

    fn webhook(url: &str, secret: Option<&str>) -> impl Fn() -> Option<Webhook> + use<> {
        let webhook = Webhook { url: Secret::new(url), secret: secret.map(Secret::new) };
        move || Some(webhook.clone())
    }

    async fn deliver(statuses: &'static [u16]) -> Vec<String> {
        let (url, seen) = receiver(statuses).await;
        let post = Post::new(json!({"event": "threshold"}));
        post.deliver(&webhook(&url, None), Duration::ZERO).await;
        let seen = seen.lock().unwrap().clone();
        assert!(seen.iter().all(|request| request.ends_with(&*String::from_utf8_lossy(&post.body))));
        seen
    }

    #[tokio::test]
    async fn a_refused_post_is_given_up_and_a_redirect_is_not_followed() {
        for status in [&[400][..], &[404], &[301], &[307], &[410]] {
            assert_eq!(deliver(status).await.len(), 1, "{status:?}");
        }
    }

    #[tokio::test]
    async fn a_post_that_fails_for_now_is_tried_again_with_the_same_id() {
        let seen = deliver(&[503, 429, 200]).await;
        assert_eq!(seen.len(), 3);
        let id = |request: &String| {
            request.lines().find(|line| line.to_ascii_lowercase().starts_with("x-marg-event: evt_")).unwrap().to_owned()
        };
        assert!(seen.iter().all(|request| id(request) == id(&seen[0])));
    }

    #[tokio::test]
    async fn a_receiver_that_never_takes_it_is_given_up_after_so_many_tries() {
        assert_eq!(deliver(&[500; TRIES as usize]).await.len(), TRIES as usize);
    }

    #[tokio::test]
    async fn an_event_arrives_signed_with_its_query_and_nothing_is_posted_without_a_url() {
        let (url, seen) = receiver(&[204]).await;
        let (events, listener) = broadcast::channel(4);
        let (stop, stopped) = watch::channel(false);
        let on = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let asked = on.clone();
        let known = webhook(&format!("{url}?token=hunter2"), Some("hunter3"));
        let running = task::spawn("webhook", async move {
            let webhook = move || known().filter(|_| asked.load(std::sync::atomic::Ordering::Relaxed));
            run(listener, |number: &u32| json!({"event": "threshold", "number": number}), webhook, stopped).await;
        });
        events.send(1).unwrap();
        while !events.is_empty() {
            tokio::task::yield_now().await;
        }
        on.store(true, std::sync::atomic::Ordering::Relaxed);
        events.send(2).unwrap();
        while seen.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        stop.send_replace(true);
        running.await.unwrap();
        let request = seen.lock().unwrap()[0].clone();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /hook?token=hunter2 HTTP/1.1\r\n"), "{head}");
        assert_eq!(serde_json::from_str::<Value>(body).unwrap()["number"], 2);
        let line = head
            .lines()
            .find_map(|line| line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("x-marg-signature")));
        let (_, shown) = line.unwrap();
        let seconds = shown.strip_prefix("t=").unwrap().split_once(',').unwrap().0.parse().unwrap();
        assert_eq!(shown, signature("hunter3", seconds, body.as_bytes()));
    }

    #[test]
    fn a_document_has_times_and_money_as_text() {
        let event = BudgetEvent::Threshold {
            limit: "lim_1".into(),
            name: "a".to_owned(),
            scope: crate::budget::limit::Scope::Gateway,
            subject: "".into(),
            unit: Unit::Usd,
            percent: 80,
            spent: 8_500_000_000,
            amount: 10_000_000_000,
            window: "c1-2".to_owned(),
            resets_at: Some(Timestamp(2_000_000)),
            at: Timestamp(1_000_000),
        };
        let expected = json!({
            "event": "threshold", "at": "1970-01-01T00:00:01.000000Z", "limit": "lim_1", "name": "a", "scope": "gateway",
            "subject": null, "unit": "usd", "percent": 80, "spent": 8_500_000_000_i64, "spent_usd": "8.500000000",
            "amount": 10_000_000_000_i64, "amount_usd": "10.000000000", "resets_at": "1970-01-01T00:00:02.000000Z",
        });
        assert_eq!(document(&event), expected);
    }

    #[test]
    fn a_signature_is_what_others_compute() {
        // `printf '1700000000.{}' | openssl dgst -sha256 -hmac secret`
        let expected = "t=1700000000,v1=b8569b78799ff9e3cbff0fc2d63a33a2b57f3282abd07c37ae5e8e7d79a5f163";
        assert_eq!(signature("secret", 1_700_000_000, b"{}"), expected);
    }
}
