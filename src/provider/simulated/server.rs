//! Connections and paths of the simulated provider.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::provider::simulated::behaviour::Behaviour;
use crate::provider::simulated::fields::Fields;
use crate::provider::simulated::wire::{Content, Playback, Refusal, response};
use crate::provider::simulated::{chat, completions, embeddings, media, models, responses, stopped, words};

/// The largest body that is read.
const BODY_LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// The longest model name; every piece of a stream repeats it.
const MODEL_LIMIT_BYTES: usize = 256;

/// The time to send a head.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// The time to send a body.
const BODY_LIMIT: Duration = Duration::from_secs(120);

/// An endpoint: fields in, content out.
type Endpoint = fn(&Fields, &str) -> Result<Content, Refusal>;

/// Serves one connection to its end; on a stop, to the end of its running answer.
pub(super) async fn connection(socket: TcpStream, mut stop: watch::Receiver<bool>) {
    // Without it a paced stream waits for acknowledgements; a socket that refuses it still works.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY on a connection of the simulated provider");
    }
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    let serving = builder.serve_connection(TokioIo::new(socket), service_fn(answer));
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stopped(&mut stop) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        // A client that went away and an answer that was to be cut both end here.
        tracing::debug!(%error, "a connection of the simulated provider broke");
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Playback>, Infallible> {
    let mut answer = respond(request).await.unwrap_or_else(Refusal::into_response);
    if let Ok(id) = HeaderValue::try_from(words::unique("req_")) {
        answer.headers_mut().insert("x-request-id", id);
    }
    Ok(answer)
}

async fn respond(request: Request<Incoming>) -> Result<Response<Playback>, Refusal> {
    let path = request.uri().path().to_owned();
    let path = path.strip_prefix("/v1").filter(|rest| rest.starts_with('/')).unwrap_or(&path);
    if let Some(content) = models::find(path) {
        return match *request.method() {
            Method::GET | Method::HEAD => Ok(response(Content::Json(content), Behaviour::of(""))),
            _ => Ok(wrong_method("GET")),
        };
    }
    let (endpoint, default_model): (Endpoint, &str) = match path {
        "/chat/completions" => (chat::answer, ""),
        "/completions" => (completions::answer, ""),
        "/responses" => (responses::answer, ""),
        "/embeddings" => (embeddings::answer, ""),
        "/moderations" => (media::moderate, "sim-moderation"),
        "/images/generations" => (media::draw, "sim-image"),
        _ => return Err(Refusal::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", words::quote(path)))),
    };
    if request.method() != Method::POST {
        return Ok(wrong_method("POST"));
    }
    let fields = parse(&body(request.into_body()).await?)?;
    let model = match fields.get("model") {
        Some(Value::String(model)) if (1..=MODEL_LIMIT_BYTES).contains(&model.len()) => model.as_str(),
        None if !default_model.is_empty() => default_model,
        None => return Err(Refusal::invalid("model", "you must name a model")),
        Some(_) => {
            let sentence = format!("`model` is a text of 1 to {MODEL_LIMIT_BYTES} bytes");
            return Err(Refusal::invalid("model", sentence));
        }
    };
    play(endpoint, &fields, model).await
}

/// Answers, or fails, as the model's name asks.
async fn play(endpoint: Endpoint, fields: &Fields, model: &str) -> Result<Response<Playback>, Refusal> {
    let behaviour = Behaviour::of(model);
    if let Some(status) = behaviour.error {
        return Err(Refusal::new(
            status,
            format!("the model {model} of the simulated provider always fails like this"),
        ));
    }
    let content = endpoint(fields, model)?;
    if !behaviour.delay.is_zero() {
        tokio::time::sleep(behaviour.delay).await;
    }
    Ok(response(content, behaviour))
}

fn wrong_method(allowed: &'static str) -> Response<Playback> {
    let message = format!("this path takes {allowed} only");
    let mut refused = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message).into_response();
    refused.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    refused
}

async fn body(incoming: Incoming) -> Result<Bytes, Refusal> {
    let reading = Limited::new(incoming, BODY_LIMIT_BYTES).collect();
    match tokio::time::timeout(BODY_LIMIT, reading).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("the body has more than {BODY_LIMIT_BYTES} bytes");
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message))
        }
        Ok(Err(error)) => Err(Refusal::invalid(None, format!("the body cannot be read: {error}"))),
        Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body takes too long to arrive")),
    }
}

fn parse(body: &[u8]) -> Result<Fields, Refusal> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(Refusal::invalid(None, "the body must be a JSON object")),
        Err(error) => Err(Refusal::invalid(None, format!("the body is not valid JSON: {error}"))),
    }
}
