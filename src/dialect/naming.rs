//! Where a request names the models that it runs, if not in its body: in its query, its path, or nowhere that Marg reads.
//!
//! A key that may use certain models only is held to them by names that Marg sees. So such a key may do what is known to run no
//! model, and what names its model where Marg looks; everything else is refused to it (`Exchange::understand`). The lists here
//! name paths, as their meaning is nowhere in a request.
//!
//! *Source* for paths: <https://platform.openai.com/docs/api-reference>; <https://docs.anthropic.com/en/api> (`messages/batches`);
//! <https://docs.mistral.ai/api/> (`conversations` that run a model).

use std::borrow::Cow;

use crate::dialect::openai::{Facts, model_name};
use crate::dialect::operation::{Operation, Place};
use crate::dialect::urlencoded;
use crate::dialect::value::Value;
use crate::error::{Error, Kind};

/// Where a request names the model that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// In `model`, of its body or of its query.
    Field,
    /// It runs none.
    Nothing,
    /// It runs none if its body holds nothing but these members.
    NothingWith(&'static [&'static str]),
    /// Somewhere that Marg does not read.
    Elsewhere,
}

/// First segments of paths below which no model is run that a caller could choose.
const STORES: &[&str] = &["files", "uploads", "vector_stores", "containers"];
/// Segments of paths whose models are named in a file, inside something that is stored, in a list, or in the path itself.
const ELSEWHERE: &[&str] = &["batches", "evals", "graders", "engines", "deployments"];

/// Where a request to a place names its model.
///
/// *Cost*: one walk over a short path; for keys with a list of models only.
pub fn naming(method: &str, place: &Place) -> Naming {
    if matches!(method, "GET" | "HEAD" | "DELETE") {
        return Naming::Nothing;
    }
    if place.operation != Operation::Passthrough {
        return Naming::Field;
    }
    let path = place.path.trim_matches('/').to_ascii_lowercase();
    let segments: Vec<&str> = path.split('/').collect();
    match segments.as_slice() {
        [.., "cancel"] => Naming::Nothing,
        // A segment that is written otherwise than it reads is none of those below.
        _ if segments.iter().any(|segment| ELSEWHERE.contains(segment)) || path.contains('%') => Naming::Elsewhere,
        // A film is made from another by the model of that one.
        ["videos", _, ..] => Naming::Elsewhere,
        [first, ..] if STORES.contains(first) => Naming::Nothing,
        ["threads", "runs", ..] => Naming::Field,
        ["threads"] | ["threads", _] | ["threads", _, "messages", ..] => Naming::Nothing,
        ["conversations"] | ["conversations", _] | ["conversations", _, "items", ..] => {
            Naming::NothingWith(&["items", "metadata"])
        }
        _ => Naming::Field,
    }
}

/// Whether a path, decoded and in small letters, leads to where Marg sees nothing: sessions that run between the application and
/// the provider, and answers that are credentials of the provider.
///
/// *Source*: `client_secret` in <https://platform.openai.com/docs/api-reference/realtime-sessions> and in
/// <https://platform.openai.com/docs/api-reference/chatkit/sessions>; `transport.sdp` in
/// <https://developers.openai.com/api/reference/python/resources/live/methods/create>; `value` in
/// <https://platform.openai.com/docs/api-reference/admin-api-keys> and of service accounts.
pub(super) fn leads_past(plain: &str) -> bool {
    let mut before = "";
    plain.split('/').map(str::trim).any(|segment| {
        let sessions = before == "chatkit" && segment == "sessions";
        // Deeper it could be a name that somebody gave.
        let live = segment == "live" && matches!(before, "" | "v1");
        before = segment;
        sessions || live || matches!(segment, "realtime" | "client_secrets" | "admin_api_keys" | "service_accounts")
    })
}

impl Facts {
    /// Takes the model from the path or the query of a request whose body names none.
    ///
    /// # Errors
    /// `InvalidRequest` if the query names a model in two ways, another one than the body does, or one that can be none.
    pub fn look_beyond(&mut self, place: &Place, query: Option<&str>) -> Result<(), Error> {
        let in_path = place.model_in_path.clone().filter(|_| self.operation == Operation::Passthrough);
        let asked = match query.and_then(|query| Some((query, urlencoded::model(query.as_bytes()).transpose()?))) {
            Some((query, span)) => {
                let raw = query.as_bytes().get(span?).unwrap_or_default();
                let name = String::from_utf8(urlencoded::decoded(raw).into_owned());
                let text = "the model's name is not UTF-8";
                Some(model_name(&name.map_err(|_| Error::new(Kind::InvalidRequest, text).param("model"))?)?)
            }
            None => None,
        };
        for other in [in_path, asked].into_iter().flatten() {
            match &self.model {
                Some(model) if *model != other => {
                    let text = "The path, the query and the body of a request may not name different models.";
                    return Err(Error::new(Kind::InvalidRequest, text).param("model"));
                }
                Some(_) => {}
                None => self.model = Some(other),
            }
        }
        Ok(())
    }

    /// Whether a body is an object that holds nothing but these members. `body` is the body that these facts were read from.
    pub fn holds_only(&self, body: &[u8], names: &[&str]) -> bool {
        self.is_object() && Value::whole(body).members().all(|(name, _)| names.contains(&&*name.decode()))
    }
}

/// The query for a target: the caller's own, with the model's name replaced where it names one and another is asked for.
pub fn query_for<'a>(query: &'a str, model: &str) -> Cow<'a, str> {
    let Ok(Some(span)) = urlencoded::model(query.as_bytes()) else { return Cow::Borrowed(query) };
    let (Some(before), Some(named), Some(behind)) =
        (query.get(..span.start), query.get(span.clone()), query.get(span.end..))
    else {
        return Cow::Borrowed(query);
    };
    if model.is_empty() || *urlencoded::decoded(named.as_bytes()) == *model.as_bytes() {
        return Cow::Borrowed(query);
    }
    Cow::Owned(format!("{before}{}{behind}", urlencoded::encoded(model)))
}

/// The path for a target: the caller's own, but of the model that is asked for where it is one of a model.
pub fn path_for<'a>(place: &'a Place, model: &str) -> Cow<'a, str> {
    match &place.model_in_path {
        Some(named) if named != model && !model.is_empty() => {
            Cow::Owned(format!("/models/{}", urlencoded::encoded(model)))
        }
        _ => Cow::Borrowed(&place.path),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::dialect::{place, understand};

    fn of(method: &str, path: &str) -> Naming {
        naming(method, &place(method, path).unwrap())
    }

    #[test]
    fn what_names_its_model_elsewhere_is_known() {
        for path in [
            "/v1/batches",
            "/v1/messages/batches",
            "/v1/evals/e/runs",
            "/v1/engines/gpt-4/completions",
            "/v1/%65ngines/gpt-4/completions",
            "/v1/Batches",
            "/v1/fine_tuning/alpha/graders/run",
            "/v1/videos/v/remix",
        ] {
            assert_eq!(of("POST", path), Naming::Elsewhere, "{path}");
        }
    }

    #[test]
    fn what_runs_a_model_must_name_it() {
        for path in
            ["/v1/images/generations", "/v1/responses", "/v1/anything", "/v1/threads/t/runs", "/v1/threads/runs"]
        {
            assert_eq!(of("POST", path), Naming::Field, "{path}");
        }
        assert_eq!(of("PUT", "/v1/anything"), Naming::Field);
    }

    #[test]
    fn reads_and_stores_run_none() {
        for (method, path) in [
            ("GET", "/v1/batches"),
            ("DELETE", "/v1/models/m"),
            ("HEAD", "/v1/anything"),
            ("POST", "/v1/files"),
            ("POST", "/v1/uploads/u/parts"),
            ("POST", "/v1/batches/b/cancel"),
            ("POST", "/v1/threads/t/messages"),
        ] {
            assert_eq!(of(method, path), Naming::Nothing, "{method} {path}");
        }
        assert!(matches!(of("POST", "/v1/conversations"), Naming::NothingWith(_)));
    }

    #[test]
    fn a_model_in_the_query_is_taken_where_the_body_names_none() {
        let read = |query: &str, body: &'static str| {
            let place = place("POST", "/v1/images/generations").unwrap();
            let mut facts = understand(place.operation, None, &Bytes::from_static(body.as_bytes())).unwrap();
            facts.look_beyond(&place, Some(query)).map(|()| facts.model)
        };
        assert!(read("model=a", r#"{"model":"b"}"#).is_err());
        assert!(read("model=a&model=a", "{}").is_err());
        assert!(read("model=%0a", "{}").is_err());
        assert_eq!(read("x=1", "{}").unwrap(), None);
        assert_eq!(read("x=1&model=a%2Fb", "{}").unwrap().as_deref(), Some("a/b"));
        assert_eq!(read("model=a", r#"{"model":"a"}"#).unwrap().as_deref(), Some("a"));
    }

    #[test]
    fn a_target_is_asked_for_its_own_model_wherever_it_is_named() {
        assert_eq!(query_for("x=1&model=a&y=2", "b/c"), "x=1&model=b%2Fc&y=2");
        assert_eq!(query_for("model=a%2Fb", "a/b"), "model=a%2Fb");
        assert_eq!(query_for("x=1", "b"), "x=1");
        let place = place("DELETE", "/v1/models/a%2Fb").unwrap();
        assert_eq!(path_for(&place, "a/b"), "/models/a%2Fb");
        assert_eq!(path_for(&place, "c/d"), "/models/c%2Fd");
    }
}
