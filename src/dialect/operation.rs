//! Paths to operations: what is asked, and which path goes upstream.
//!
//! Known endpoints are answered under `/v1/…` and without it; every other path under `/v1/` passes through. A path that
//! could mean something else to the next server (dot segments, encoded or repeated slashes, backslashes, parameters,
//! control characters, at any depth of percent encoding) is refused, so what Marg judged is what the provider gets
//! (`every_escape_is_refused`).

use std::borrow::Cow;

use crate::error::{Error, Kind};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `POST /chat/completions`.
    Chat,
    /// `POST /completions`.
    Completions,
    /// `POST /embeddings`.
    Embeddings,
    /// `GET /models`.
    Models,
    /// `GET /models/{id}`.
    Model,
    /// `POST /responses`.
    Responses,
    /// `POST /images/…`.
    Images,
    /// `POST /audio/…`.
    Audio,
    /// `POST /moderations`.
    Moderations,
    /// `POST /rerank`.
    Rerank,
    /// Any other path under `/v1/`.
    Passthrough,
}

impl Operation {
    /// Its name in records, metrics and traces.
    ///
    /// *Source*: `gen_ai.operation.name` where it has a word (`chat`, `text_completion`, `embeddings`):
    /// <https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai/>; Marg's own words for the others.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "text_completion",
            Self::Embeddings => "embeddings",
            Self::Models => "models",
            Self::Model => "model",
            Self::Responses => "responses",
            Self::Images => "images",
            Self::Audio => "audio",
            Self::Moderations => "moderations",
            Self::Rerank => "rerank",
            Self::Passthrough => "passthrough",
        }
    }
}

/// Where a request belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What is asked.
    pub operation: Operation,
    /// The path upstream, relative to the provider's base URL; begins with `/`, ASCII only, as in `/chat/completions`.
    pub path: String,
    /// The model in the path, decoded; only for `Operation::Model`. Not empty, at most 256 bytes, no control characters.
    pub model_in_path: Option<String>,
}

const PATH_LIMIT_BYTES: usize = 2048;
const MODEL_LIMIT_BYTES: usize = 256;
/// How often a path may be percent-encoded over itself; more is an attack, not a name.
const DECODE_ROUNDS: usize = 4;
const READ: &str = "GET, HEAD";
const WRITE: &str = "POST";
const ANY: &str = "GET, POST, PUT, PATCH, DELETE, HEAD";

/// The known endpoints, without `/v1`, beside `/models/{id}`.
const ENDPOINTS: &[(&str, Operation, &str)] = &[
    ("/chat/completions", Operation::Chat, WRITE),
    ("/completions", Operation::Completions, WRITE),
    ("/embeddings", Operation::Embeddings, WRITE),
    ("/models", Operation::Models, READ),
    ("/responses", Operation::Responses, WRITE),
    ("/images/generations", Operation::Images, WRITE),
    ("/images/edits", Operation::Images, WRITE),
    ("/images/variations", Operation::Images, WRITE),
    ("/audio/speech", Operation::Audio, WRITE),
    ("/audio/transcriptions", Operation::Audio, WRITE),
    ("/audio/translations", Operation::Audio, WRITE),
    ("/moderations", Operation::Moderations, WRITE),
    ("/rerank", Operation::Rerank, WRITE),
];

/// Finds what a request asks from its method and path (without the query).
///
/// `HEAD` counts as `GET`. One slash at the end of a known endpoint is dropped. The model of `/models/{id}` may hold
/// slashes, bare or encoded once (the Node SDK encodes them).
///
/// # Errors
/// `InvalidRequest` for a path that is too long or could escape, `NotFound` for an unknown one, `MethodNotAllowed` for a
/// known one with another verb (`allowed_methods` says which it takes).
///
/// *Cost*: one pass over the path, one allocation.
pub fn place(method: &str, path: &str) -> Result<Place, Error> {
    check_raw(path)?;
    let Some((rest, operation, methods)) = find(path) else {
        return Err(Error::new(Kind::NotFound, not_found_text(path)));
    };
    check_segments(rest, operation)?;
    if !methods.split(", ").any(|allowed| allowed == method) {
        return Err(Error::new(
            Kind::MethodNotAllowed,
            format!("{} does not take this method; it takes {methods}", printable(path)),
        ));
    }
    if operation == Operation::Model {
        return model_place(rest);
    }
    Ok(Place { operation, path: rest.to_owned(), model_in_path: None })
}

/// The methods that a path takes, as for the header `Allow` (RFC 9110 section 10.2.1); `None` if there is nothing there.
pub fn allowed_methods(path: &str) -> Option<&'static str> {
    check_raw(path).ok()?;
    find(path).map(|(_, _, methods)| methods)
}

/// The path upstream, the operation and its methods.
fn find(path: &str) -> Option<(&str, Operation, &'static str)> {
    let versioned = path.strip_prefix("/v1").filter(|rest| rest.starts_with('/'));
    let rest = versioned.unwrap_or(path);
    let bare = rest.strip_suffix('/').unwrap_or(rest);
    if let Some((name, operation, methods)) = ENDPOINTS.iter().find(|(name, _, _)| *name == bare) {
        return Some((name, *operation, methods));
    }
    if bare.strip_prefix("/models/").is_some_and(|id| !id.is_empty()) {
        return Some((bare, Operation::Model, READ));
    }
    let twice = rest == "/v1" || rest.starts_with("/v1/");
    (versioned.is_some() && !bare.is_empty() && !twice).then_some((rest, Operation::Passthrough, ANY))
}

fn not_found_text(path: &str) -> Cow<'static, str> {
    if path.starts_with("/v1/v1") {
        return Cow::Borrowed("the path begins with /v1 twice; the client's base URL already ends in /v1");
    }
    Cow::Owned(format!("there is nothing at {}; the API is under /v1/", printable(path)))
}

/// At most 128 bytes of a path whose characters are checked to be printable ASCII.
fn printable(path: &str) -> &str {
    path.get(..128).unwrap_or(path)
}

fn model_place(rest: &str) -> Result<Place, Error> {
    let decoded = decode_once(rest.strip_prefix("/models/").unwrap_or_default().as_bytes());
    let id = String::from_utf8(decoded).map_err(|_| escape("it is not UTF-8"))?;
    if id.len() > MODEL_LIMIT_BYTES {
        return Err(Error::new(Kind::InvalidRequest, "the model's name is longer than 256 bytes").param("model"));
    }
    Ok(Place { operation: Operation::Model, path: rest.to_owned(), model_in_path: Some(id) })
}

fn escape(reason: &'static str) -> Error {
    Error::new(Kind::InvalidRequest, format!("the path is refused: {reason}"))
}

/// Checks what can be seen without decoding.
fn check_raw(path: &str) -> Result<(), Error> {
    if path.len() > PATH_LIMIT_BYTES {
        return Err(Error::new(Kind::InvalidRequest, "the path is longer than 2048 bytes"));
    }
    if !path.starts_with('/') {
        return Err(escape("it does not begin with a slash"));
    }
    if !path.bytes().all(is_path_byte) {
        return Err(escape("it holds a character that must be percent-encoded"));
    }
    if path.contains("//") {
        return Err(escape("it holds an empty segment"));
    }
    let mut rest = path;
    while let Some((_, after)) = rest.split_once('%') {
        if !after.as_bytes().get(..2).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) {
            return Err(escape("it holds an incomplete percent-encoding"));
        }
        rest = after;
    }
    Ok(())
}

/// `pchar` of RFC 3986 section 3.3 and the slash, without `;`, which servers read as parameters.
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@%/".contains(&byte)
}

/// Checks every segment at every depth of encoding.
fn check_segments(path: &str, operation: Operation) -> Result<(), Error> {
    let mut form = Cow::Borrowed(path.as_bytes());
    for round in 0..=DECODE_ROUNDS {
        // Slashes of a model's name may be encoded once: after that they are plain slashes of the name.
        let slashes_may_appear = operation == Operation::Model && round == 1;
        if round > 0 && !slashes_may_appear && slashes(&form) != slashes(path.as_bytes()) {
            if operation != Operation::Model || round > 1 && slashes(&form) != slashes(&decode_once(path.as_bytes())) {
                return Err(escape("it holds an encoded slash"));
            }
        }
        check_decoded(&form)?;
        if !form.contains(&b'%') {
            return Ok(());
        }
        let next = decode_once(&form);
        if next.len() == form.len() {
            return Ok(());
        }
        form = Cow::Owned(next);
    }
    Err(escape("it is percent-encoded too many times"))
}

fn slashes(bytes: &[u8]) -> usize {
    memchr::memchr_iter(b'/', bytes).count()
}

fn check_decoded(form: &[u8]) -> Result<(), Error> {
    let Ok(text) = std::str::from_utf8(form) else {
        return Err(escape("it is not UTF-8"));
    };
    if text.chars().any(char::is_control) {
        return Err(escape("it holds a control character"));
    }
    if text.contains(['\\', ';']) {
        return Err(escape("it holds a backslash or a semicolon"));
    }
    let mut segments = text.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_some() {
            return Err(escape("it holds an empty segment"));
        }
        if matches!(segment.trim(), "." | "..") {
            return Err(escape("it holds a dot segment"));
        }
    }
    Ok(())
}

/// Decodes each complete percent-encoding once and keeps everything else.
fn decode_once(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let pair = after.first_chunk::<2>().filter(|_| *first == b'%');
        let decoded = pair.and_then(|[high, low]| Some((hex(*high)? << 4) | hex(*low)?));
        out.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}
