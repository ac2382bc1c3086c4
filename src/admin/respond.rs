//! How the admin side reads requests and writes answers.
//!
//! Everything that is read is strict: one JSON object with known fields only, known query parameters only, well-formed ids;
//! whatever is not so is a 4xx in the one error shape. A body has at most [`BODY_LIMIT_BYTES`] and [`BODY_TIMEOUT`] to
//! arrive. Defects answer with a fixed sentence; their cause goes to the log.

use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_path_to_error::{Segment as Part, Track};
use utoipa::{IntoParams, ToSchema};

use crate::admin::State;
use crate::error::{Error, Fault, Kind};
use crate::unit::object::object;

/// The largest body that is read: 2 MiB.
pub const BODY_LIMIT_BYTES: usize = 2 * 1024 * 1024;

/// The time for a whole body to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The shape of every error.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorAnswer {
    /// What happened.
    pub error: ErrorBody,
}

/// What happened, for programs and for people.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// A short code from a closed list, such as `invalid_request` or `not_found`.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// The field or parameter at fault, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub param: Option<String>,
}

/// An [`Error`] on its way out as an answer.
#[derive(Debug)]
pub struct Refusal {
    error: Error,
    status: StatusCode,
}

impl Refusal {
    /// The request cannot be understood; `param` names the field.
    pub fn invalid(param: &'static str, text: impl Into<String>) -> Self {
        Error::new(Kind::InvalidRequest, text.into()).param(param).into()
    }

    /// There is no such thing.
    pub fn missing(what: &str) -> Self {
        Error::new(Kind::NotFound, format!("There is no such {what}.")).into()
    }

    /// The request contradicts what is there.
    pub fn conflict(text: impl Into<String>) -> Self {
        Error::new(Kind::Conflict, text.into()).into()
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = StatusCode::from_u16(error.kind().status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { error, status }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { error, status } = self;
        if error.kind().fault() == Fault::Marg {
            tracing::error!(error = ?error, "the admin side could not answer");
        }
        let body = ErrorAnswer {
            error: ErrorBody {
                code: error.kind().code().to_owned(),
                message: error.text().to_owned(),
                param: error.field().map(str::to_owned),
            },
        };
        let mut answer = (status, Json(body)).into_response();
        if let Some(seconds) = error.retry_after_seconds() {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"marg\""));
        }
        answer
    }
}

/// An answer of 200 with a JSON body.
pub fn ok<T: Serialize>(body: &T) -> Response {
    Json(body).into_response()
}

/// An answer of 201 with a JSON body.
pub fn created<T: Serialize>(body: &T) -> Response {
    (StatusCode::CREATED, Json(body)).into_response()
}

/// An answer of 204.
pub fn nothing() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

/// A JSON body of a known shape.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<State> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &State) -> Result<Self, Refusal> {
        if !is_json(request.headers()) {
            let error = Error::new(Kind::InvalidRequest, "The body must be JSON; send content-type: application/json.");
            return Err(Refusal { error, status: StatusCode::UNSUPPORTED_MEDIA_TYPE });
        }
        let body = collect(request.into_body()).await?;
        read(&body).map(Self)
    }
}

/// Reads one JSON object.
///
/// # Errors
/// `InvalidRequest` that says what is wrong and, where it is a field, names it.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let mut track = Track::new();
    let value = object(serde_path_to_error::Deserializer::new(&mut reader, &mut track));
    value.and_then(|value| reader.end().map(|()| value)).map_err(|error| {
        let text = format!("The body is not what this endpoint takes: {}.", in_plain_words(&error.to_string()));
        let path = track.path();
        let field = path.iter().find_map(|part| match part {
            Part::Map { key } => Some(key.clone()),
            _ => None,
        });
        let field = field.or_else(|| named(&text));
        let error = Error::new(Kind::InvalidRequest, text);
        match field {
            Some(field) => error.param(short(&field)).into(),
            None => error.into(),
        }
    })
}

/// The field that is missing or there twice, if that is what the reader says.
fn named(text: &str) -> Option<String> {
    let (_, rest) = ["missing field `", "duplicate field `"].iter().find_map(|words| text.split_once(words))?;
    rest.split_once('`').map(|(name, _)| name.to_owned())
}

/// What the reader of JSON says, without the names that types have in Rust.
fn in_plain_words(text: &str) -> String {
    const TYPES: [(&str, &str); 8] = [
        ("expected i64", "expected a whole number"),
        ("expected u64", "expected a whole number from 0 on"),
        ("expected u32", "expected a whole number from 0 on"),
        ("expected u8", "expected a whole number from 0 to 255"),
        ("expected f64", "expected a number"),
        ("expected a sequence", "expected a list"),
        ("expected a map", "expected an object"),
        ("invalid type: map", "invalid type: object"),
    ];
    TYPES.iter().fold(text.to_owned(), |text, (word, plain)| text.replace(word, plain))
}

/// The name of a field, which is the caller's word where the field is unknown.
fn short(name: &str) -> String {
    name.chars().filter(|letter| !letter.is_control()).take(64).collect()
}

/// Reads a body whole.
///
/// # Errors
/// When it is larger than [`BODY_LIMIT_BYTES`], breaks off, or takes longer than [`BODY_TIMEOUT`].
pub async fn collect(body: axum::body::Body) -> Result<Bytes, Refusal> {
    collect_up_to(body, BODY_LIMIT_BYTES).await
}

/// Reads a body of at most so many bytes whole.
///
/// # Errors
/// When it is larger, breaks off, or takes longer than [`BODY_TIMEOUT`].
pub async fn collect_up_to(body: axum::body::Body, limit_bytes: usize) -> Result<Bytes, Refusal> {
    let collected = Limited::new(body, limit_bytes).collect();
    match tokio::time::timeout(BODY_TIMEOUT, collected).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Error::new(Kind::TooLarge, format!("A body has at most {limit_bytes} bytes here.")).into())
        }
        Ok(Err(_)) => Err(Error::new(Kind::InvalidRequest, "The body broke off.").into()),
        Err(_) => Err(Error::new(Kind::RequestTimeout, "The body took too long to arrive.").into()),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let essence = value.to_str().ok().and_then(|text| text.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// The query, with known parameters only, each at most once.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<State> for Params<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &State) -> Result<Self, Refusal> {
        parse_query(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

/// A query of two parts, each with known parameters only: those that `A` names are its own, the rest are `B`'s.
pub struct Params2<A, B>(pub A, pub B);

impl<A: DeserializeOwned + IntoParams, B: DeserializeOwned> FromRequestParts<State> for Params2<A, B> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &State) -> Result<Self, Refusal> {
        let names: Vec<String> = A::into_params(|| None).into_iter().map(|parameter| parameter.name).collect();
        let pairs = parts.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let (first, second): (Vec<&str>, Vec<&str>) = pairs.partition(|pair| {
            let name = pair.split_once('=').map_or(*pair, |(name, _)| name);
            names.iter().any(|known| known == name)
        });
        Ok(Self(parse_query(&first.join("&"))?, parse_query(&second.join("&"))?))
    }
}

fn parse_query<T: DeserializeOwned>(query: &str) -> Result<T, Refusal> {
    let invalid = |why: &str| {
        Refusal::from(Error::new(Kind::InvalidRequest, format!("The query is not what this endpoint takes: {why}.")))
    };
    let uri = Uri::builder().path_and_query(format!("/?{query}")).build().map_err(|_| invalid("it is malformed"))?;
    match Query::<T>::try_from_uri(&uri) {
        Ok(Query(value)) => Ok(value),
        Err(rejection) => {
            let text = rejection.body_text();
            let cause = text.split_once(": ").map_or(text.as_str(), |(_, cause)| cause);
            let refusal = Error::new(
                Kind::InvalidRequest,
                format!("The query is not what this endpoint takes: {}.", in_digits(cause)),
            );
            // The reader begins with the name of the parameter, if one is at fault.
            match cause.split_once(": ").map(|(name, _)| name).filter(|name| is_word(name)) {
                Some(name) => Err(refusal.param(name.to_owned()).into()),
                None => Err(refusal.into()),
            }
        }
    }
}

fn is_word(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// What the reader of numbers says, in words for people.
fn in_digits(cause: &str) -> String {
    cause
        .replace("invalid digit found in string", "write a whole number")
        .replace("number too large to fit in target type", "the number is too large")
        .replace("cannot parse integer from empty string", "write a whole number")
}

/// The one variable segment of the path, decoded.
pub struct Segment(pub String);

impl FromRequestParts<State> for Segment {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Self, Refusal> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) => Ok(Self(text)),
            Err(_) => Err(Error::new(Kind::InvalidRequest, "The path is not valid UTF-8.").into()),
        }
    }
}

impl Segment {
    /// The segment, if it is an id of a noun: its prefix, `_`, and 26 characters of lower-case base 32 (digits first).
    ///
    /// # Errors
    /// `InvalidRequest`, when it is not of that form.
    pub fn id(&self, prefix: &str) -> Result<&str, Refusal> {
        if is_id(prefix, &self.0) {
            return Ok(&self.0);
        }
        Err(Refusal::invalid("id", format!("An id here is {prefix}_ and 26 characters of 0-9 and a-v.")))
    }
}

/// Whether a text has the form that `unit::id::mint` gives ids of a noun.
pub fn is_id(prefix: &str, text: &str) -> bool {
    let tail = text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_'));
    tail.is_some_and(|tail| tail.len() == 26 && tail.bytes().all(|byte| matches!(byte, b'a'..=b'v' | b'0'..=b'9')))
}

/// The answer for a path that leads nowhere.
pub async fn no_such_path() -> Refusal {
    Error::new(Kind::NotFound, "There is nothing at this path; GET /admin/openapi.json lists every path.").into()
}

/// The answer for a method that a path does not take; the router adds `allow`.
pub async fn no_such_method() -> Refusal {
    Error::new(Kind::MethodNotAllowed, "This path does not take that method; the header allow names those it takes.")
        .into()
}

/// The headers that every answer has: it is not kept, not framed, and no other origin reads it.
pub(super) const FIXED_HEADERS: [(&str, &str); 6] = [
    ("cache-control", "no-store"),
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("x-frame-options", "DENY"),
    ("cross-origin-resource-policy", "same-origin"),
];

/// Puts the headers on that every answer carries, whatever made it.
pub async fn harden(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    for (name, value) in FIXED_HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    // The router names the methods of a path on every answer that its fallback gives; only a 405 needs them.
    if answer.status() != StatusCode::METHOD_NOT_ALLOWED {
        answer.headers_mut().remove(ALLOW);
    }
    answer
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Shape {
        #[serde(rename = "amount")]
        _amount: i64,
        #[serde(default, rename = "models")]
        _models: Vec<String>,
    }

    fn refused(body: &str) -> (Option<String>, String) {
        let error = read::<Shape>(body.as_bytes()).unwrap_err().error;
        (error.field().map(str::to_owned), error.text().to_owned())
    }

    #[test]
    fn a_body_that_does_not_fit_names_the_field_in_plain_words() {
        let (field, text) = refused(r#"{"amount":"5"}"#);
        assert_eq!(field.as_deref(), Some("amount"));
        assert!(text.contains("expected a whole number") && !text.contains("i64"), "{text}");
        assert_eq!(refused(r#"{"amount":5,"models":["a",7]}"#).0.as_deref(), Some("models"));
        assert_eq!(refused(r#"{"amount":5,"models":{}}"#).0.as_deref(), Some("models"));
        assert_eq!(refused(r#"{"amount":5,"amuont":7}"#).0.as_deref(), Some("amuont"));
        assert_eq!(refused(r#"{"amount":5,"amount":7}"#).0.as_deref(), Some("amount"));
        assert_eq!(refused(r#"{"amount":1e400}"#).0.as_deref(), Some("amount"));
        assert_eq!(refused("{}").0.as_deref(), Some("amount"));
        for whole in ["", "[]", "{", "null", r#"{"amount":5}x"#] {
            assert_eq!(refused(whole).0, None, "{whole}");
        }
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        #[serde(rename = "limit")]
        _limit: Option<u32>,
    }

    #[test]
    fn a_query_that_does_not_fit_names_the_parameter() {
        for (query, param) in [("limit=abc", Some("limit")), ("limit=-1", Some("limit")), ("limit=", Some("limit"))] {
            let error = parse_query::<Asked>(query).unwrap_err().error;
            assert_eq!(error.field(), param, "{}", error.text());
            assert!(error.text().contains("write a whole number"), "{}", error.text());
        }
        assert_eq!(parse_query::<Asked>("foo=1").unwrap_err().error.field(), Some("foo"));
    }
}
