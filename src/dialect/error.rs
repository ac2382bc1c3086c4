//! Errors in OpenAI's shape: Marg's own, and those that providers gave.
//!
//! *Source*: the error object and its types, <https://platform.openai.com/docs/guides/error-codes>; the official SDKs
//! choose their exception class by status and read `message`, `type`, `param` and `code` from `error`.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

use crate::dialect::clean::Confidential;
use crate::dialect::json::{self, Text, Type, Visit};
use crate::dialect::openai::cut;
use crate::dialect::redact::redact;
use crate::dialect::value::{Value, escape_into};
use crate::error::Error;

/// The most that is read of a provider's error.
const BODY_LIMIT_BYTES: usize = 64 * 1024;
/// The longest sentence that is passed on when a body is rewritten.
const MESSAGE_LIMIT_BYTES: usize = 4096;
/// The longest of the short fields.
const WORD_LIMIT_BYTES: usize = 256;

/// The body of an error answer: `{"error":{"message","type","param","code"}}`, where `code` is the code of the kind. A refusal
/// by a limit has a fifth member, `limit`, which says for programs what the message says for people; SDKs pass it on unread.
pub fn error_body(error: &Error) -> Bytes {
    let kind = error.kind();
    let plain = body(error.text(), type_of(kind.status()), error.field(), Some(kind.code()));
    let (Some(limit), Some(open)) = (error.limit_object(), plain.strip_suffix(b"}}")) else { return plain };
    Bytes::from([open, b",\"limit\":", limit.as_bytes(), b"}}"].concat())
}

/// The body for the caller of an error that a provider gave with a status of 400 or above.
///
/// A body that has OpenAI's shape and is clean stays as it is. Any other (another vendor's JSON, a page, text, nothing,
/// bytes that are not UTF-8) becomes OpenAI's shape with the message, type, param and code that it has. The provider's secrets,
/// words that look like credentials and addresses that name one of its hosts are replaced by `[redacted]`, also
/// where JSON escapes hide them. At most 64 KiB are read.
pub fn upstream_error_body(status: u16, body: &[u8], keeper: &dyn Confidential) -> Bytes {
    let (secrets, hosts) = (&*keeper.secrets(), &*keeper.hosts());
    let whole = body.len() <= BODY_LIMIT_BYTES;
    let read = if whole { body } else { cut_before_secret(body.get(..BODY_LIMIT_BYTES).unwrap_or(body), secrets) };
    let clean = |text: &str| matches!(redact(text, secrets, hosts), Cow::Borrowed(_));
    if whole && has_openai_shape(read) && every_string(read, &clean) {
        return Bytes::copy_from_slice(read);
    }
    let found = Found::from(read, status);
    let tidy = |text: &str, limit| cut(&redact(text, secrets, hosts), limit).to_owned();
    let message = tidy(&found.message, MESSAGE_LIMIT_BYTES);
    let word = |text: Option<Cow<'_, str>>| text.map(|text| tidy(&text, WORD_LIMIT_BYTES));
    let kind = word(found.kind).unwrap_or_else(|| type_of(status).to_owned());
    self::body(&message, &kind, word(found.param).as_deref(), word(found.code).as_deref())
}

/// A body that was cut, without the beginning of a secret that the cut may have left at its end.
fn cut_before_secret<'a>(body: &'a [u8], secrets: &[&str]) -> &'a [u8] {
    let left = secrets.iter().filter_map(|secret| {
        (1..secret.len()).rev().find(|length| secret.as_bytes().get(..*length).is_some_and(|part| body.ends_with(part)))
    });
    let longest = left.max().unwrap_or(0);
    body.get(..body.len() - longest).unwrap_or(body)
}

/// The word that OpenAI uses as `type` for a status.
fn type_of(status: u16) -> &'static str {
    match status {
        429 => "rate_limit_error",
        503 => "service_unavailable_error",
        500.. => "server_error",
        // Also 401: OpenAI tells a bad key by `code`.
        _ => "invalid_request_error",
    }
}

fn body(message: &str, kind: &str, param: Option<&str>, code: Option<&str>) -> Bytes {
    let mut out = Vec::with_capacity(message.len() + 128);
    out.extend_from_slice(b"{\"error\":{\"message\":");
    for (text, next) in
        [(Some(message), ",\"type\":"), (Some(kind), ",\"param\":"), (param, ",\"code\":"), (code, "}}")]
    {
        match text {
            Some(text) => {
                out.push(b'"');
                escape_into(text, &mut out);
                out.push(b'"');
            }
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(next.as_bytes());
    }
    Bytes::from(out)
}

fn has_openai_shape(body: &[u8]) -> bool {
    let error = Value::first(body).and_then(|body| body.get("error"));
    error.and_then(|error| error.get("message")).is_some_and(|message| message.kind() == Type::String)
}

/// Whether a document is valid and all its strings and keys, decoded, pass a check.
fn every_string(document: &[u8], check: &dyn Fn(&str) -> bool) -> bool {
    struct Strings<'a> {
        document: &'a [u8],
        check: &'a dyn Fn(&str) -> bool,
        sound: bool,
    }
    impl Strings<'_> {
        fn look(&mut self, text: Option<Text>) {
            self.sound = self.sound && text.is_none_or(|text| (self.check)(&text.decode(self.document)));
        }
    }
    impl Visit for Strings<'_> {
        fn scalar(&mut self, _depth: usize, key: Option<Text>, kind: Type, span: Range<usize>) {
            self.look(key);
            let text = Text { start: span.start + 1, end: span.end.saturating_sub(1), escaped: true };
            self.look((kind == Type::String).then_some(text));
        }
        fn open(&mut self, _depth: usize, key: Option<Text>, _kind: Type, _at: usize) {
            self.look(key);
        }
    }
    let mut strings = Strings { document, check, sound: true };
    json::scan(document, &mut strings).is_ok() && strings.sound
}

/// What a provider's error says.
struct Found<'a> {
    message: Cow<'a, str>,
    kind: Option<Cow<'a, str>>,
    param: Option<Cow<'a, str>>,
    code: Option<Cow<'a, str>>,
}

impl<'a> Found<'a> {
    fn from(body: &'a [u8], status: u16) -> Self {
        let trimmed = body.trim_ascii();
        let plain = || Cow::Owned(format!("the provider answered with status {status}"));
        let bare = |message| Self { message, kind: None, param: None, code: None };
        match trimmed.first() {
            Some(b'{' | b'[') => {
                let Some(mut value) = Value::first(trimmed) else { return bare(plain()) };
                // Google wraps errors of streams in an array.
                if value.kind() == Type::Array
                    && let Some(first) = value.elements().next()
                {
                    value = first;
                }
                Self::from_json(value).unwrap_or_else(|| bare(plain()))
            }
            Some(b'<') => bare(title(trimmed).map_or_else(plain, |title| {
                Cow::Owned(format!("the provider answered with status {status} and a page titled \"{title}\""))
            })),
            Some(_) => {
                let text = String::from_utf8_lossy(trimmed);
                let text: String = text.chars().filter(|c| !c.is_control() || *c == '\n').collect();
                bare(if text.is_empty() { plain() } else { Cow::Owned(text) })
            }
            None => bare(plain()),
        }
    }

    /// Shapes seen: `error` as object or text (OpenAI and most), the fields at the top (Mistral, vLLM, Cohere), `detail` as
    /// text or a list (FastAPI), `errors` as a list (Cloudflare), problem details (RFC 9457).
    fn from_json(value: Value<'a>) -> Option<Self> {
        let error = value.present("error").filter(|error| error.kind() != Type::Bool).unwrap_or(value);
        let from = |key| error.present(key).or_else(|| value.present(key));
        let message = ["message", "error_description", "detail", "details", "errors", "msg", "error_message", "title"]
            .into_iter()
            .find_map(|key| from(key).and_then(sentence))
            .or_else(|| sentence(error).filter(|_| error.kind() == Type::String))?;
        Some(Self {
            message,
            kind: from("type").or_else(|| error.present("status")).and_then(Value::string),
            param: from("param").and_then(word),
            code: from("code").and_then(word),
        })
    }
}

/// A text, or the texts of a list of texts or objects.
fn sentence(value: Value<'_>) -> Option<Cow<'_, str>> {
    match value.kind() {
        Type::String => value.string().filter(|text| !text.trim().is_empty()),
        Type::Object => value.present("message").or_else(|| value.present("msg")).and_then(Value::string),
        Type::Array => {
            let parts: Vec<String> = value
                .elements()
                .take(8)
                .filter_map(|part| {
                    let text = part.string().or_else(|| part.get("message").or_else(|| part.get("msg"))?.string())?;
                    let place: Vec<Cow<'_, str>> =
                        part.get("loc").into_iter().flat_map(Value::elements).filter_map(word).collect();
                    Some(if place.is_empty() { text.into_owned() } else { format!("{}: {text}", place.join(".")) })
                })
                .collect();
            (!parts.is_empty()).then(|| Cow::Owned(parts.join("; ")))
        }
        _ => None,
    }
}

/// A string, or a number as it is written.
fn word(value: Value<'_>) -> Option<Cow<'_, str>> {
    match value.kind() {
        Type::String => value.string(),
        Type::Number => Some(String::from_utf8_lossy(value.raw())),
        _ => None,
    }
}

/// The title of a page, at most 200 bytes.
fn title(page: &[u8]) -> Option<String> {
    let page = String::from_utf8_lossy(page);
    let lower = page.to_ascii_lowercase();
    let start = lower.find("<title")?;
    let start = start + lower.get(start..)?.find('>')? + 1;
    let end = start + lower.get(start..)?.find("</title")?;
    let title: Vec<&str> = page.get(start..end)?.split_whitespace().collect();
    let title = title.join(" ").replace('"', "'");
    (!title.is_empty()).then(|| cut(&title, 200).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::clean::tests::Knows;
    use crate::error::Kind;

    const KEEPER: Knows<'_> = Knows(&["hunter2hunter2"], &["api.upstream.example"]);

    fn upstream(status: u16, body: &str) -> serde_json::Value {
        let out = upstream_error_body(status, body.as_bytes(), &KEEPER);
        let mut tree: serde_json::Value = serde_json::from_slice(&out).unwrap();
        tree["error"].take()
    }

    #[track_caller]
    fn check(status: u16, body: &str, message: &str, kind: &str, code: Option<&str>) {
        let error = upstream(status, body);
        assert_eq!((error["message"].as_str(), error["type"].as_str()), (Some(message), Some(kind)), "{body}");
        assert_eq!(error["code"].as_str(), code, "{body}");
    }

    #[test]
    fn an_error_has_the_shape_that_sdks_read() {
        let error = Error::new(Kind::ModelNotFound, "no \"route\"\n leads \u{1} to é").param("model");
        let expected = "{\"error\":{\"message\":\"no \\\"route\\\"\\n leads \\u0001 to é\",\
            \"type\":\"invalid_request_error\",\"param\":\"model\",\"code\":\"model_not_found\"}}";
        assert_eq!(error_body(&error), expected);
        for (kind, word) in [
            (Kind::InvalidApiKey, "invalid_request_error"),
            (Kind::LimitExceeded, "rate_limit_error"),
            (Kind::Overloaded, "service_unavailable_error"),
            (Kind::UpstreamTimeout, "server_error"),
        ] {
            let tree: serde_json::Value = serde_json::from_slice(&error_body(&Error::new(kind, "x"))).unwrap();
            assert_eq!((tree["error"]["type"].as_str(), tree["error"]["param"].is_null()), (Some(word), true));
        }
    }

    #[test]
    fn a_clean_body_of_openai_stays_as_it_is() {
        let body = "{ \"error\" : {\"message\":\"bad\\u0020thing\",\"type\":\"t\",\"param\":null,\"code\":null,\"more\":[1]} }\n";
        assert_eq!(upstream_error_body(400, body.as_bytes(), &KEEPER), body);
    }

    #[test]
    fn secrets_and_addresses_never_pass_however_they_are_written() {
        for hidden in [
            r"hunter2hunter2",
            r"\u0068unter2hunter2",
            r"https:\/\/api.upstream.example\/v1",
            r"http://API.upstream.example:99/x",
            r"sk-proj-A1b2C3d4E5",
            r"Bearer A1b2C3d4E5F6",
        ] {
            for body in [
                format!(r#"{{"error":{{"message":"x {hidden} y","type":"t","param":"p","code":"c"}}}}"#),
                format!(r#"{{"error":{{"message":"m","type":"t","code":"{hidden}"}}}}"#),
                format!(r#"{{"error":{{"message":"m","more":{{"{hidden}":[1]}}}}}}"#),
                format!(r#"{{"error":"x {hidden}"}}"#),
                format!(r#"{{"message":"{hidden}","error":{{"message":7}}}}"#),
            ] {
                let out = upstream(400, &body).to_string();
                for secret in ["hunter2", "upstream", "A1b2C3"] {
                    assert!(!out.to_lowercase().contains(&secret.to_lowercase()), "{body} gives {out}");
                }
            }
        }
        check(
            400,
            r#"{"error":{"message":"key hunter2hunter2 bad","type":"t","code":"c"}}"#,
            "key [redacted] bad",
            "t",
            Some("c"),
        );
        let page = upstream(502, "<title>hunter2hunter2 at api.upstream.example</title>").to_string();
        assert!(!page.contains("hunter2") && !page.contains("upstream"), "{page}");
        assert!(!upstream(500, "plain hunter2hunter2").to_string().contains("hunter2"));
    }

    #[test]
    fn every_shape_becomes_openais() {
        let bad = "invalid_request_error";
        check(404, r#"{"error":"no such model"}"#, "no such model", bad, None);
        check(
            400,
            r#"{"object":"error","message":"too long","type":"BadRequestError","param":null,"code":400}"#,
            "too long",
            "BadRequestError",
            Some("400"),
        );
        check(
            422,
            r#"{"detail":[{"loc":["body","n",0],"msg":"field required","type":"missing"}]}"#,
            "body.n.0: field required",
            bad,
            None,
        );
        check(401, r#"{"detail":"Unauthorized"}"#, "Unauthorized", bad, None);
        check(
            400,
            r#"[{"error":{"code":400,"message":"bad key","status":"INVALID_ARGUMENT"}}]"#,
            "bad key",
            "INVALID_ARGUMENT",
            Some("400"),
        );
        check(
            400,
            r#"{"success":false,"errors":[{"code":7003,"message":"no route"}],"messages":[]}"#,
            "no route",
            bad,
            None,
        );
        check(400, r#"{"type":"about:blank","title":"Bad Request"}"#, "Bad Request", "about:blank", None);
        check(
            400,
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
            "Overloaded",
            "overloaded_error",
            None,
        );
        check(400, r#"{"error":true,"message":"m"}"#, "m", bad, None);
        check(429, r#"{"ok":false}"#, "the provider answered with status 429", "rate_limit_error", None);
        check(500, "", "the provider answered with status 500", "server_error", None);
        check(500, " \r\n", "the provider answered with status 500", "server_error", None);
        check(
            502,
            "<html><head><TITLE>\n 502 Bad  Gateway</TITLE>",
            "the provider answered with status 502 and a page titled \"502 Bad Gateway\"",
            "server_error",
            None,
        );
        check(502, "<html>no title", "the provider answered with status 502", "server_error", None);
        check(503, "upstream connect error\u{7}", "upstream connect error", "service_unavailable_error", None);
        check(500, "{\"error\":{\"message\":\"cut o", "cut o", "server_error", None);
        let out = upstream_error_body(500, b"\xff\xfe bytes", &KEEPER);
        assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok());
        let huge = format!("{{\"error\":{{\"message\":\"{}\"}}}}", "x".repeat(100_000));
        assert_eq!(upstream(500, &huge)["message"].as_str().map(str::len), Some(MESSAGE_LIMIT_BYTES));
        assert!(upstream(500, &"[".repeat(60_000))["message"].is_string());
        let head = format!("{{\"x\":\"{}\",\"message\":\"", "x".repeat(BODY_LIMIT_BYTES - 34));
        assert_eq!(upstream(500, &format!("{head}it is hunter2hunter2\"}}"))["message"], "it is");
    }
}
