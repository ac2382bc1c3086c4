//! A fast upstream that speaks OpenAI's wire and validates nothing.
//!
//! Any path, any model, any key. `…/embeddings` answers a vector, `…/models` a list, everything else a chat completion,
//! streamed if the body says `"stream": true`. How it behaves is asked for in the model name, so that one mock serves every
//! scenario through any gateway: `mock-deltas50-pace20-delay5-size200` streams 50 deltas of 200 letters, one every 20 ms, the
//! first after 5 ms. TCP_NODELAY is on, every delta is flushed as it becomes due and carries the time of its making.

mod answer;
mod stream;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, server::conn::http1};
use hyper_util::rt::TokioIo;
use memchr::memmem;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use stream::{Answer, Deltas};

/// What the model name may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// How many deltas a stream has.
    pub deltas: u64,
    /// Milliseconds between two of them; 0 sends them as fast as they are taken.
    pub pace_ms: u64,
    /// Milliseconds before the first byte of any answer.
    pub delay_ms: u64,
    /// Letters in one delta.
    pub size: usize,
}

impl Behaviour {
    /// Reads `deltas50`, `pace20`, `delay5`, `size200` out of a model name; everything else in it means nothing.
    fn of(model: &str, defaults: Self) -> Self {
        let mut found = defaults;
        for part in model.split(['-', '/', ':']) {
            let digits = part.trim_start_matches(|letter: char| letter.is_ascii_alphabetic());
            let (Some(word), Ok(number)) = (part.strip_suffix(digits), digits.parse::<u32>()) else { continue };
            match word {
                "deltas" => found.deltas = u64::from(number),
                "pace" => found.pace_ms = u64::from(number),
                "delay" => found.delay_ms = u64::from(number),
                "size" => found.size = (number as usize).min(64 * 1024),
                _ => {}
            }
        }
        found
    }
}

/// What the mock looks at in a body.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Question {
    model: String,
    stream: bool,
    stream_options: Option<StreamOptions>,
}

/// Bodies up to this length are parsed; of longer ones only the beginning is looked at, because a mock that is slower than
/// what it serves would be measured instead.
const PARSED_BYTES: usize = 16 * 1024;

impl Question {
    /// Reads a whole body and keeps what matters; whatever cannot be understood reads as its default.
    async fn read(mut body: Incoming) -> Self {
        let mut beginning = Vec::new();
        let mut length = 0;
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            let room = PARSED_BYTES - beginning.len();
            beginning.extend_from_slice(data.get(..room).unwrap_or(&data));
            length += data.len();
        }
        if length > beginning.len() { Self::guess(&beginning) } else { Self::parse(&beginning) }
    }

    fn parse(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }

    /// Finds model and stream in the beginning of a body by their usual spelling.
    fn guess(beginning: &[u8]) -> Self {
        let value = |name: &str| {
            let after = beginning.get(memmem::find(beginning, name.as_bytes())? + name.len()..)?.trim_ascii_start();
            after.strip_prefix(b":").map(<[u8]>::trim_ascii_start)
        };
        let model = value("\"model\"").and_then(|text| {
            let text = text.strip_prefix(b"\"")?;
            std::str::from_utf8(text.get(..memchr::memchr(b'"', text)?)?).ok()
        });
        let stream = value("\"stream\"").is_some_and(|text| text.starts_with(b"true"));
        Self { model: model.unwrap_or("").to_owned(), stream, stream_options: None }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StreamOptions {
    include_usage: bool,
}

/// Serves until the process ends; prints the address that it listens on as its first line.
///
/// # Errors
/// When it cannot listen.
pub fn serve(listen: SocketAddr, threads: usize, defaults: Behaviour) -> anyhow::Result<()> {
    crate::machine::runtime(threads)?.block_on(async {
        let listener = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
        println!("{}", listener.local_addr()?);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => { connections.spawn(connection(stream, defaults)); }
                    // Out of descriptors, most likely: let some connections end first.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    })
}

async fn connection(stream: TcpStream, defaults: Behaviour) {
    if stream.set_nodelay(true).is_err() {
        return; // The peer has gone already.
    }
    let service = service_fn(move |request| answer_to(request, defaults));
    // An error here is a peer that hung up; the side that measures counts it.
    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

async fn answer_to(request: Request<Incoming>, defaults: Behaviour) -> Result<Response<Answer>, Infallible> {
    let path = request.uri().path().to_owned();
    let question = Question::read(request.into_body()).await;
    let behaviour = Behaviour::of(&question.model, defaults);
    if behaviour.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(behaviour.delay_ms)).await;
    }
    let (kind, answer) = if path.ends_with("/embeddings") {
        ("application/json", Answer::whole(answer::embedding(&question.model)))
    } else if path.ends_with("/models") {
        ("application/json", Answer::whole(answer::models()))
    } else if question.stream {
        let include_usage = question.stream_options.is_some_and(|options| options.include_usage);
        let deltas = Deltas::new(&question.model, behaviour, include_usage);
        ("text/event-stream", Answer::Deltas(Box::new(deltas)))
    } else {
        ("application/json", Answer::whole(answer::chat(&question.model)))
    };
    let mut response = Response::new(answer);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: Behaviour = Behaviour { deltas: 16, pace_ms: 0, delay_ms: 0, size: 4 };

    #[test]
    fn an_ordinary_model_name_changes_nothing() {
        for model in ["gpt-4o-mini-2024-07-18", "llama3:8b", "", "deltas", "size-99999999999"] {
            assert_eq!(Behaviour::of(model, DEFAULTS), DEFAULTS, "{model}");
        }
    }

    #[test]
    fn a_model_name_sets_the_behaviour_behind_any_prefix() {
        let expected = Behaviour { deltas: 50, pace_ms: 20, delay_ms: 5, size: 200 };
        for model in ["mock-deltas50-pace20-delay5-size200", "provider/deltas50-size200-pace20-delay5"] {
            assert_eq!(Behaviour::of(model, DEFAULTS), expected, "{model}");
        }
    }

    #[test]
    fn a_question_without_the_known_fields_is_answered_plainly() {
        let question: Question =
            serde_json::from_str(r#"{"messages":[1,2],"stream_options":null}"#).expect("all fields have defaults");
        assert!(!question.stream && question.model.is_empty());
    }

    #[test]
    fn a_long_body_is_understood_by_its_beginning() {
        let question = Question::guess(br#"{"model" : "mock-deltas5", "stream": true, "messages":["#);
        assert_eq!((question.model.as_str(), question.stream), ("mock-deltas5", true));
        let question = Question::guess(br#"{"stream":false,"messages":[{"role":"us"#);
        assert_eq!((question.model.as_str(), question.stream), ("", false));
    }
}
