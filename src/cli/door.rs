//! The way from a command to the admin API: over the network to a running instance, or inside this process to the store.
//!
//! Both ways go through the same router, so a command behaves the same whether a server runs or not. Inside this process no
//! token is needed: whoever may read the data folder may do everything anyway. A running server notices changes to the store
//! within a second.

use std::path::PathBuf;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tower::ServiceExt;

use crate::admin::auth::Caller;
use crate::cli::failure::{Exit, Failure, Result};
use crate::cli::local;
use crate::unit::secret::Secret;

/// How long to wait for a connection, and how long for the head of an answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The largest answer that is taken whole; exports and live events are streamed instead.
const ANSWER_LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// Where commands go.
#[derive(Clone, Debug)]
pub enum Door {
    /// A running instance.
    Server {
        /// `host:port`.
        authority: String,
        /// The admin token.
        token: Secret,
    },
    /// The store that a configuration names.
    Store {
        /// The configuration file.
        config: PathBuf,
    },
}

impl Door {
    /// The `host:port` of a server, from its URL.
    ///
    /// # Errors
    /// When the URL is not `http://host[:port]`.
    pub fn authority(url: &str) -> Result<String> {
        if url.starts_with("https://") {
            return Err(Failure::usage(
                "The admin API is reached over http on this machine or through a tunnel (ssh -L); https is not supported.",
            ));
        }
        let wrong = || Failure::usage(format!("{url:?} is not a server; write http://127.0.0.1:8081"));
        let host = url.strip_prefix("http://").ok_or_else(wrong)?;
        let host = host.strip_suffix('/').unwrap_or(host);
        let authority = host.parse::<axum::http::uri::Authority>().map_err(|_| wrong())?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(wrong());
        }
        // Only what is left out is 80: a mistyped port must not send the token to whoever listens there.
        let port = match authority.as_str().strip_prefix(authority.host()).ok_or_else(wrong)? {
            "" => 80,
            rest => rest.strip_prefix(':').and_then(port).ok_or_else(|| {
                Failure::usage(format!("{url:?} is not a server: its port is not a number from 1 to 65535"))
            })?,
        };
        Ok(format!("{}:{port}", authority.host()))
    }

    /// The door to a server.
    ///
    /// # Errors
    /// When the token cannot be sent.
    pub fn to_server(authority: String, token: Secret) -> Result<Self> {
        if token.expose().is_empty() || !token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failure::new(Exit::Refused, "The admin token is empty or holds characters that no token has."));
        }
        Ok(Self::Server { authority, token })
    }

    /// Asks for an answer and takes it whole as JSON; an answer without a body is `null`.
    ///
    /// # Errors
    /// What the server refused, or why it could not be asked.
    pub async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let answer = self.open(method, path, body).await?;
        let bytes = whole(answer.into_body()).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|_| Failure::failed("The server's answer is not JSON; is it Marg?"))
    }

    /// Hands a file over and takes the answer whole as JSON.
    ///
    /// # Errors
    /// What the server refused, or why it could not be asked.
    pub async fn hand_over(&self, method: Method, path: &str, file: axum::body::Bytes) -> Result<Value> {
        let request =
            Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/octet-stream");
        let answer =
            self.send(request.body(Body::from(file)).map_err(|error| Failure::usage(error.to_string()))?).await?;
        let bytes = whole(answer.into_body()).await?;
        serde_json::from_slice(&bytes).map_err(|_| Failure::failed("The server's answer is not JSON; is it Marg?"))
    }

    /// Asks for an answer and leaves its body to be read piece by piece.
    ///
    /// # Errors
    /// What the server refused, or why it could not be asked.
    pub async fn open(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response<Body>> {
        let mut request = Request::builder().method(method).uri(path);
        let body = match body {
            Some(value) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Body::from(value.to_string())
            }
            None => Body::empty(),
        };
        self.send(request.body(body).map_err(|error| Failure::usage(error.to_string()))?).await
    }

    /// Asks for a stream of events, behind the last one that an earlier stream gave.
    ///
    /// # Errors
    /// What the server refused, or why it could not be asked.
    pub async fn follow(&self, path: &str, last: Option<&str>) -> Result<Response<Body>> {
        let mut request = Request::builder().method(Method::GET).uri(path);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        self.send(request.body(Body::empty()).map_err(|error| Failure::usage(error.to_string()))?).await
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<Body>> {
        let answer = match self {
            Self::Server { authority, token } => send(authority, token, request).await?,
            Self::Store { config } => inside(config, request).await?,
        };
        if answer.status().is_success() { Ok(answer) } else { Err(refusal(answer).await) }
    }
}

/// A port in digits, without a sign.
fn port(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten().filter(|port| *port != 0)
}

async fn inside(config: &std::path::Path, mut request: Request<Body>) -> Result<Response<Body>> {
    let router = crate::admin::router(local::state(config).await?);
    request.extensions_mut().insert(Caller::in_process());
    match router.oneshot(request).await {
        Ok(answer) => Ok(answer),
        Err(never) => match never {},
    }
}

async fn send(authority: &str, token: &Secret, mut request: Request<Body>) -> Result<Response<Body>> {
    let unreachable = |why: &dyn std::fmt::Display| {
        Failure::new(Exit::Unreachable, format!("The server at {authority} cannot be reached: {why}."))
    };
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(authority)).await;
    let stream = stream.map_err(|_| unreachable(&"it does not answer"))?.map_err(|error| unreachable(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
    crate::telemetry::task::spawn("admin-client", async move {
        // How a connection ends shows in the answer that it carried.
        drop(connection.await);
    });
    let bearer = axum::http::HeaderValue::try_from(format!("Bearer {}", token.expose()));
    let mut bearer = bearer.map_err(|_| Failure::new(Exit::Refused, "The admin token cannot be sent."))?;
    bearer.set_sensitive(true);
    let host = axum::http::HeaderValue::try_from(authority).map_err(|error| unreachable(&error))?;
    request.headers_mut().insert(header::AUTHORIZATION, bearer);
    request.headers_mut().insert(header::HOST, host);
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request)).await;
    let answer = answer.map_err(|_| unreachable(&"it does not answer"))?.map_err(|error| unreachable(&error))?;
    Ok(answer.map(Body::new))
}

async fn whole(body: Body) -> Result<axum::body::Bytes> {
    let collected = Limited::new(body, ANSWER_LIMIT_BYTES).collect().await;
    collected
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| Failure::new(Exit::Unreachable, format!("The answer broke off: {error}.")))
}

async fn refusal(answer: Response<Body>) -> Failure {
    let status = answer.status();
    let body = whole(answer.into_body()).await.unwrap_or_default();
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    let problems = value.pointer("/error/problems").and_then(Value::as_array);
    let mut text = match value.pointer("/error/message").and_then(Value::as_str) {
        Some(message) => message.to_owned(),
        None => format!("The server answered {}.", reason(status)),
    };
    for problem in problems.into_iter().flatten() {
        let field = |name: &str| crate::cli::output::text(problem.get(name));
        text.push_str(&format!("\n{}:{}: {}: {}", field("line"), field("column"), field("path"), field("text")));
    }
    Failure::of_status(status.as_u16(), text)
}

fn reason(status: StatusCode) -> String {
    status.canonical_reason().map_or_else(|| status.to_string(), |reason| format!("{} {reason}", status.as_u16()))
}

/// Percent-encodes a value for a query or a path segment (RFC 3986 section 2.3: all but the unreserved characters).
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A path with a query of the pairs that have a value.
pub fn with_query(path: &str, pairs: &[(&str, Option<String>)]) -> String {
    let given =
        pairs.iter().filter_map(|(name, value)| value.as_ref().map(|value| format!("{name}={}", encode(value))));
    let query = given.collect::<Vec<_>>().join("&");
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_plain_http_without_credentials_in_its_url() {
        for wrong in [
            "https://127.0.0.1:8081",
            "127.0.0.1:8081",
            "http://",
            "http://a@b",
            "http://a b",
            "http://h/p",
            "ftp://a",
            "",
            "http://127.0.0.1:8o81",
            "http://127.0.0.1:99999",
            "http://127.0.0.1:",
            "http://127.0.0.1:0",
            "http://127.0.0.1:+81",
            "http://[::1]:",
        ] {
            assert_eq!(Door::authority(wrong).unwrap_err().exit, Exit::Usage, "{wrong}");
        }
        assert_eq!(Door::authority("http://[::1]:8081/").unwrap(), "[::1]:8081");
        assert_eq!(Door::authority("http://localhost").unwrap(), "localhost:80");
        assert!(Door::to_server("a:1".to_owned(), Secret::new("a b")).is_err());
    }

    #[test]
    fn a_query_value_cannot_add_parameters() {
        let path = with_query("/admin/keys", &[("team", Some("a&b=c d".to_owned())), ("user", None)]);
        assert_eq!(path, "/admin/keys?team=a%26b%3Dc%20d");
    }
}
