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

/// What a request runs, for whoever pays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runs {
    /// No model: it reads, stores, deletes, cancels, or only counts.
    Nothing,
    /// What it says.
    #[default]
    Model,
    /// Models, and so many tokens of them, that it does not say: those of a file, of something stored, of a training.
    Unseen,
}

/// First segments of paths below which no model is run that a caller could choose.
const STORES: &[&str] = &["files", "uploads", "vector_stores", "containers"];
/// Segments of paths whose models are named in a file, inside something that is stored, in a list, deeper in the body, or in the path
/// itself.
///
/// *Sources*: `workflows` and `image_generation` of <https://docs.fireworks.ai/api-reference>, `workflows` of
/// <https://docs.mistral.ai/api/>, too; `invocations` of
/// <https://docs.databricks.com/api/workspace/servingendpoints/query>; `async` of
/// <https://docs.perplexity.ai/api-reference/async-chat-completions-post>; `endpoints` of
/// <https://docs.together.ai/reference/createendpoint>, which are models that run until they are stopped; `presets` of
/// <https://openrouter.ai/docs/features/presets>; `predictions` of <https://replicate.com/docs/reference/http>; and `models` in the
/// middle of a path, as in `v2/models/…/infer`.
const ELSEWHERE: &[&str] = &[
    "batches",
    "evals",
    "graders",
    "engines",
    "deployments",
    "workflows",
    "image_generation",
    "invocations",
    "async",
    "endpoints",
    "presets",
    "predictions",
    "models",
];

/// First segments of paths below which models run, or are trained, on a file: by as many tokens as that has.
///
/// *Source*: <https://platform.openai.com/docs/api-reference/fine-tuning>; `batch/jobs` of <https://docs.mistral.ai/api/>; `fine-tunes`
/// of <https://docs.together.ai/reference/post-fine-tunes>.
const ON_FILES: &[&str] = &["fine_tuning", "fine_tunes", "fine-tunes", "batch", "evals"];

/// Where a request to a place names its model.
///
/// *Cost*: one walk over a short path, for what passes through.
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
        // Without a body it cancels.
        ["evals", _, "runs", _] => Naming::NothingWith(&[]),
        ["evals", _] => Naming::NothingWith(&["name", "metadata"]),
        // The description of what is stored, which is answered whole, its usage with it.
        ["chat", "completions", _] | ["threads", _, "runs", _] => Naming::NothingWith(&["metadata"]),
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

/// What a request to a place runs. `body` is the body that the facts were read from.
///
/// *Sources*, beside those of [`naming`]: <https://platform.openai.com/docs/api-reference/responses/input-tokens> and
/// <https://docs.anthropic.com/en/api/messages-count-tokens>, which count and run nothing.
pub fn runs(method: &str, place: &Place, facts: &Facts, body: &[u8]) -> Runs {
    match naming(method, place) {
        Naming::Nothing => Runs::Nothing,
        Naming::NothingWith(names) if body.is_empty() || facts.holds_only(body, names) => Runs::Nothing,
        Naming::Elsewhere => Runs::Unseen,
        Naming::Field | Naming::NothingWith(_) if place.operation != Operation::Passthrough => Runs::Model,
        Naming::Field | Naming::NothingWith(_) => {
            let path = place.path.trim_matches('/').to_ascii_lowercase();
            match path.split('/').collect::<Vec<_>>().as_slice() {
                ["responses", "input_tokens"] | ["messages", "count_tokens"] => Runs::Nothing,
                ["fine_tuning", "jobs", _, "pause"] => Runs::Nothing,
                [first, ..] if ON_FILES.contains(first) => Runs::Unseen,
                // What a run of a thread reads and writes is told to whoever has it streamed, and else only to who reads it later.
                ["threads", "runs", ..] | ["threads", _, "runs", ..] if !facts.stream => Runs::Unseen,
                _ => Runs::Model,
            }
        }
    }
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
            "/v1/workflows/accounts/fireworks/models/m/text_to_image",
            "/v1/image_generation/accounts/fireworks/models/m",
            "/v1/Image_Generation/x",
            "/v1/m/invocations",
            "/v1/async/chat/completions",
            "/v1/v2/models/m/infer",
            "/v1/v1beta/models/m:generateContent",
            "/v1/endpoints",
            "/v1/presets/p/chat/completions",
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
    fn what_runs_no_model_is_known_by_its_path_and_where_it_matters_by_its_body() {
        let runs = |method: &str, path: &str, body: &'static str| {
            let (place, body) = (place(method, path).unwrap(), Bytes::from_static(body.as_bytes()));
            runs(method, &place, &understand(place.operation, None, &body).unwrap(), &body)
        };
        for (path, body) in [
            ("/v1/responses", r#"{"model":"m"}"#),
            ("/v1/anything", "{}"),
            ("/v1/conversations", r#"{"inputs":"x","agent_id":"a"}"#),
            ("/v1/threads/t/runs", r#"{"assistant_id":"a","stream":true}"#),
            ("/v1/threads/t/runs/r/submit_tool_outputs", r#"{"tool_outputs":[],"stream":true}"#),
            ("/v1/chat/completions/c", r#"{"model":"m","metadata":{}}"#),
            ("/v1/responses/compact", r#"{"model":"m"}"#),
        ] {
            assert_eq!(runs("POST", path, body), Runs::Model, "{path} {body}");
        }
        for path in [
            "/v1/batches",
            "/v1/async/chat/completions",
            "/v1/m/invocations",
            "/v1/fine_tuning/jobs",
            "/v1/fine_tuning/jobs/j/resume",
            "/v1/batch/jobs",
            "/v1/evals",
            "/v1/evals/e/runs",
            "/v1/evals/e/runs/r",
            "/v1/threads/runs",
            "/v1/threads/t/runs",
            "/v1/threads/t/runs/r/submit_tool_outputs",
        ] {
            assert_eq!(runs("POST", path, r#"{"model":"m"}"#), Runs::Unseen, "{path}");
        }
        for (method, path, body) in [
            ("GET", "/v1/responses/r", ""),
            ("DELETE", "/v1/responses/r", ""),
            ("POST", "/v1/responses/r/cancel", ""),
            ("POST", "/v1/files", "x"),
            ("POST", "/v1/evals/e/runs/r", ""),
            ("POST", "/v1/fine_tuning/jobs/j/pause", ""),
            ("POST", "/v1/conversations", "{}"),
            ("POST", "/v1/conversations", r#"{"items":[],"metadata":{}}"#),
            ("POST", "/v1/chat/completions/c", r#"{"metadata":{}}"#),
            ("POST", "/v1/threads/t/runs/r", r#"{"metadata":{}}"#),
            ("POST", "/v1/responses/input_tokens", r#"{"model":"m","input":"x"}"#),
            ("POST", "/v1/messages/count_tokens", r#"{"model":"m","messages":[]}"#),
        ] {
            assert_eq!(runs(method, path, body), Runs::Nothing, "{method} {path} {body}");
        }
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
