//! Paths to operations: what is asked, and which path goes upstream.
//!
//! Known endpoints are answered under `/v1/…` and without it; every other path under `/v1/` passes through, and so does reading or
//! deleting what a known endpoint keeps. What would lead past Marg is refused (`past::leads_past`). A path that
//! could mean something else to the next server (dot segments, encoded or repeated slashes, backslashes, parameters,
//! control characters, at any depth of percent encoding) is refused, so what Marg judged is what the provider gets
//! (`every_escape_is_refused`).

use std::borrow::Cow;

use crate::dialect::past::leads_past;
use crate::error::{Error, Kind};

/// Anthropic's messages: passed through, but judged as what they are (`kavach::call::Action`).
///
/// *Source*: <https://docs.anthropic.com/en/api/messages>.
pub const MESSAGES: &str = "/messages";

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
    /// Any other path under `/v1/`, or a known one that is only read or deleted from.
    Passthrough,
}

impl Operation {
    /// Whether a model writes the answer, token by token.
    pub fn writes(self) -> bool {
        matches!(self, Self::Chat | Self::Completions | Self::Responses)
    }

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
    /// The model in the path, decoded; only for `Operation::Model`, and where a model is deleted. Not empty, at most 256 bytes, no
    /// control characters.
    pub model_in_path: Option<String>,
}

impl Place {
    /// The id of the stored response that is read, cancelled or deleted here; `None` at any other place.
    pub fn stored_response(&self) -> Option<&str> {
        let id = self.path.strip_prefix("/responses/")?;
        (self.operation == Operation::Passthrough && !id.is_empty() && !id.contains('/')).then_some(id)
    }
}

const PATH_LIMIT_BYTES: usize = 2048;
const MODEL_LIMIT_BYTES: usize = 256;
/// How often a path may be percent-encoded over itself; more is an attack, not a name.
const DECODE_ROUNDS: usize = 4;
const READ: &str = "GET, HEAD";
/// A model is read by Marg and deleted by its provider.
const MODEL: &str = "GET, HEAD, DELETE";
/// Understood as `POST`; the others pass through. Not `PUT` and `PATCH`: a server that does not look at the method closely would
/// take such a body for the call that it is not judged as.
const WRITE: &str = "POST, GET, HEAD, DELETE";
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
    let path = without_alias(path);
    // A known endpoint has nothing in its path that could escape.
    let found = match endpoint(path) {
        Some(found) => found,
        None => find_checked(path)?,
    };
    let (rest, operation, methods) = found;
    if !methods.split(", ").any(|allowed| allowed == method) {
        return Err(Error::new(
            Kind::MethodNotAllowed,
            format!("{} does not take this method; it takes {methods}", printable(path)),
        ));
    }
    let passes = methods == WRITE && method != "POST" || operation == Operation::Model && method == "DELETE";
    let place = match operation {
        Operation::Model => model_place(rest)?,
        _ => Place { operation, path: rest.to_owned(), model_in_path: None },
    };
    Ok(if passes { Place { operation: Operation::Passthrough, ..place } } else { place })
}

/// The methods that a path takes, as for the header `Allow` (RFC 9110 section 10.2.1); `None` if there is nothing there.
pub fn allowed_methods(path: &str) -> Option<&'static str> {
    let path = without_alias(path);
    check_raw(path).ok()?;
    find(path).map(|(_, _, methods)| methods)
}

/// The path without what Groq's SDKs put before it, whatever address they are given
/// (<https://github.com/groq/groq-python>, `/openai/v1/chat/completions`).
fn without_alias(path: &str) -> &str {
    path.strip_prefix("/openai").filter(|rest| rest.starts_with("/v1/")).unwrap_or(path)
}

/// The path upstream, the operation and its methods.
type Found<'a> = (&'a str, Operation, &'static str);

/// The known endpoint that a path names, letter by letter.
fn endpoint(path: &str) -> Option<Found<'static>> {
    let rest = path.strip_prefix("/v1").filter(|rest| rest.starts_with('/')).unwrap_or(path);
    let bare = rest.strip_suffix('/').unwrap_or(rest);
    ENDPOINTS.iter().find(|(name, _, _)| *name == bare).copied()
}

/// What a path that could hold anything stands for.
fn find_checked(path: &str) -> Result<Found<'_>, Error> {
    check_raw(path)?;
    let found = find(path);
    check_segments(path, found.map_or(Operation::Passthrough, |(_, operation, _)| operation))?;
    if let Some((rest, Operation::Passthrough, _)) = found {
        let plain = plain(rest);
        if let Some(name) = disguised(&plain).filter(|name| *name != rest) {
            return Err(escape(format!("write it as /v1{name}")));
        }
        if leads_past(&plain) {
            let text = "Sessions of their own, and the provider's credentials and account, lead past this gateway, where nothing is recorded or limited; it does not open them.";
            return Err(Error::new(Kind::PermissionDenied, text));
        }
    }
    found.ok_or_else(|| Error::new(Kind::NotFound, not_found_text(path)))
}

/// What a lenient server may take a path for: decoded, in small letters, without what could be dropped at its end.
fn plain(rest: &str) -> String {
    let mut form = rest.as_bytes().to_vec();
    for _ in 0..DECODE_ROUNDS {
        form = decode_once(&form);
    }
    let text = String::from_utf8_lossy(&form).to_lowercase();
    let bare = text.split(['?', '#']).next().unwrap_or_default();
    bare.trim_end_matches(|end: char| end.is_whitespace() || matches!(end, '/' | '.')).to_owned()
}

/// The known endpoint that a server may take a path for although it is written otherwise. It must not pass as something that is not
/// understood, since that is judged by less.
fn disguised(plain: &str) -> Option<&'static str> {
    ENDPOINTS.iter().map(|(name, ..)| *name).chain([MESSAGES]).find(|name| *name == plain)
}

fn find(path: &str) -> Option<Found<'_>> {
    if let Some(found) = endpoint(path) {
        return Some(found);
    }
    let versioned = path.strip_prefix("/v1").filter(|rest| rest.starts_with('/'));
    let rest = versioned.unwrap_or(path);
    let bare = rest.strip_suffix('/').unwrap_or(rest);
    if bare.strip_prefix("/models/").is_some_and(|id| !id.is_empty()) {
        return Some((bare, Operation::Model, MODEL));
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

fn escape(reason: impl std::fmt::Display) -> Error {
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
    let mut expected = slashes(&form);
    for round in 0..=DECODE_ROUNDS {
        let found = slashes(&form);
        if found != expected {
            // Slashes of a model's name may be encoded once: after that they are plain slashes of the name.
            if operation != Operation::Model || round != 1 {
                return Err(escape("it holds an encoded slash"));
            }
            expected = found;
        }
        check_decoded(&form)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(method: &str, path: &str, kind: Kind) {
        match place(method, path) {
            Err(error) => assert_eq!(error.kind(), kind, "{path}: {error}"),
            Ok(found) => panic!("{path} is let in as {found:?}"),
        }
    }

    #[test]
    fn what_groqs_sdks_put_before_a_path_changes_nothing_but_that() {
        let chat = place("POST", "/openai/v1/chat/completions").unwrap();
        assert_eq!((chat.operation, &*chat.path), (Operation::Chat, "/chat/completions"));
        assert_eq!(place("GET", "/openai/v1/files").unwrap().path, "/files");
        assert_eq!(allowed_methods("/openai/v1/models"), allowed_methods("/v1/models"));
        refused("POST", "/openai/chat/completions", Kind::NotFound);
        refused("POST", "/openai/openai/v1/chat/completions", Kind::NotFound);
        refused("GET", "/openai/v1/../admin", Kind::InvalidRequest);
        refused("POST", "/openai/v1/realtime/sessions", Kind::PermissionDenied);
    }

    #[test]
    fn every_escape_is_refused() {
        for path in [
            "",
            "v1/chat/completions",
            "/v1/../admin",
            "/v1/files/..",
            "/v1/files/../../admin",
            "/v1/./files",
            "/../v1/files",
            "/v1/files/%2e%2e/x",
            "/v1/files/.%2E/x",
            "/v1/files/%252e%252e/x",
            "/v1/files/%25252e%25252e/x",
            "/v1/files/%2525252e%2525252e/x",
            "/v1/files/%252525252525252e/x",
            "/v1/files/..%20/x",
            "/v1/files%2f..%2fx",
            "/v1/files%2Fx",
            "/v1/files%252Fx",
            "/v1/files/a%5cb",
            "/v1/files/a%255cb",
            "/v1/files/a\\b",
            "/v1/files//x",
            "//v1/files",
            "/v1//files",
            "/v1/files/%00",
            "/v1/files/%2500",
            "/v1/files/%0d%0aHost:x",
            "/v1/files/%7f",
            "/v1/files/a;b",
            "/v1/files/..;/x",
            "/v1/files/a%3bb",
            "/v1/files/%",
            "/v1/files/%2",
            "/v1/files/%zz",
            "/v1/files/%c0%ae%c0%ae/x",
            "/v1/files/%ff",
            "/v1/fi les",
            "/v1/files/\u{e9}",
            "/v1/files/a?b",
            "/v1/files/a#b",
            "/v1/files/a\"b",
            "/v1/files/a\u{0}",
            "/v1/models/a%2f..%2fb",
            "/v1/models/..%2fb",
            "/v1/models/a%2f%2fb",
            "/v1/models/a%252fb",
            "/v1/models/%2e%2e",
            "http://other/v1/files",
            "/v1/chat/completion%73",
            "/v1/%63hat/completions",
            "/v1/chat/completion%2573",
            "/v1/Chat/Completions",
            "/v1/chat/completions%20",
            "/v1/chat/completions.",
            "/v1/chat/completions%2e/",
            "/v1/chat/completions%3Fx=1",
            "/v1/chat/completions%23",
            "/v1/RESPONSES",
            "/v1/embedding%53",
        ] {
            refused("GET", path, Kind::InvalidRequest);
        }
        refused("GET", &format!("/v1/{}", "a".repeat(2048)), Kind::InvalidRequest);
        refused("GET", &format!("/v1/models/{}", "a".repeat(257)), Kind::InvalidRequest);
    }

    #[test]
    fn known_endpoints_are_found_with_and_without_version() {
        for (path, methods, operation) in ENDPOINTS.iter().map(|(path, operation, methods)| (path, methods, operation))
        {
            for form in [format!("/v1{path}"), (*path).to_owned(), format!("/v1{path}/")] {
                for method in methods.split(", ") {
                    let found = place(method, &form).unwrap();
                    let understood = *methods == READ || method == "POST";
                    let operation = if understood { *operation } else { Operation::Passthrough };
                    let expected = Place { operation, path: (*path).to_owned(), model_in_path: None };
                    assert_eq!(found, expected, "{method} {form}");
                }
                refused("PUT", &form, Kind::MethodNotAllowed);
                assert_eq!(allowed_methods(&form), Some(*methods));
            }
        }
        refused("PATCH", "/v1/chat/completions", Kind::MethodNotAllowed);
        refused("POST", "/v1/models", Kind::MethodNotAllowed);
        refused("DELETE", "/v1/models", Kind::MethodNotAllowed);
        refused("post", "/v1/chat/completions", Kind::MethodNotAllowed);
    }

    #[test]
    fn a_model_in_the_path_is_decoded() {
        for (path, model) in [
            ("/v1/models/gpt-4o", "gpt-4o"),
            ("/models/gpt-4o/", "gpt-4o"),
            ("/v1/models/meta/llama-3:free", "meta/llama-3:free"),
            ("/v1/models/meta%2Fllama-3%3Afree", "meta/llama-3:free"),
            ("/v1/models/a%20b", "a b"),
        ] {
            let found = place("HEAD", path).unwrap();
            assert_eq!((found.operation, found.model_in_path.as_deref()), (Operation::Model, Some(model)));
            assert!(found.path.starts_with("/models/") && !found.path.ends_with('/'));
        }
        assert_eq!(allowed_methods("/v1/models/x"), Some("GET, HEAD, DELETE"));
        refused("POST", "/v1/models/x", Kind::MethodNotAllowed);
    }

    #[test]
    fn a_model_is_deleted_by_its_provider() {
        let found = place("DELETE", "/v1/models/ft%3Agpt-4o%3Aacme").unwrap();
        assert_eq!((found.operation, found.path.as_str()), (Operation::Passthrough, "/models/ft%3Agpt-4o%3Aacme"));
        assert_eq!(found.model_in_path.as_deref(), Some("ft:gpt-4o:acme"));
    }

    #[test]
    fn other_paths_pass_through_under_the_version_only() {
        for path in [
            "/files",
            "/files/",
            "/files/f-1/content",
            "/chat/completions/id",
            "/a%20b",
            "/100%25",
            "/chat/completions2",
            "/Chat",
        ] {
            for method in ANY.split(", ") {
                let found = place(method, &format!("/v1{path}")).unwrap();
                assert_eq!((found.operation, found.path.as_str()), (Operation::Passthrough, path));
            }
            refused("GET", path, Kind::NotFound);
            refused("TRACE", &format!("/v1{path}"), Kind::MethodNotAllowed);
            assert_eq!(allowed_methods(&format!("/v1{path}")), Some(ANY));
        }
        for path in ["/", "/v1", "/v1/", "/v1x/files", "/v2/files", "/admin", "/v1/v1", "/v1/v1/chat/completions"] {
            refused("GET", path, Kind::NotFound);
            assert_eq!(allowed_methods(path), None);
        }
        assert!(place("POST", "/v1/v1/chat/completions").unwrap_err().text().contains("twice"));
    }
}
