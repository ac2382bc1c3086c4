//! What bounds the output of a request whose body passes through.
//!
//! Nothing is put into such a body, so what it may write is what its own words allow. Of endpoints that are known the field is
//! known by which they bound it; at any other whatever is called a ceiling is believed, and what names none may write text all the
//! same. The lists here name paths, as their meaning is nowhere in a request.

use crate::dialect::naming::Runs;
use crate::dialect::openai::Facts;
use crate::dialect::operation::{Operation, Place};
use crate::dialect::value::Value;

/// What a model writes for a request that passes through, and what bounds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writing {
    /// No text, or what is no affair of this: a request that does not pass through.
    #[default]
    Nothing,
    /// Text, no longer than this field says: a member of the body, or one inside of a member with a dot between them.
    Bounded(&'static str),
    /// Text, however long: the endpoint has no field for it.
    Unbounded,
    /// Perhaps text, no longer than a field says that is called as elsewhere.
    Unknown,
}

/// Last segments of paths whose answers are figures, labels or a copy of the input.
///
/// *Source*: <https://docs.mistral.ai/api/> (`classifications`, `moderations`, `ocr`), <https://api.jina.ai/redoc> (`classify`, `rerank`,
/// `segment`), <https://docs.voyageai.com/reference> (`contextualizedembeddings`, `multimodalembeddings`), `embed` of
/// <https://docs.cohere.com/reference>, and <https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html> (`pooling`, `score`,
/// `tokenize`).
const FIGURES: &[&str] = &[
    "embeddings",
    "embed",
    "contextualizedembeddings",
    "multimodalembeddings",
    "rerank",
    "score",
    "similarity",
    "pooling",
    "classify",
    "classifications",
    "moderations",
    "tokenize",
    "detokenize",
    "segment",
    "ocr",
];

impl Writing {
    /// What a request to a place writes that runs this. `body` is the body that the facts were read from.
    ///
    /// *Source*: `max_tokens` of <https://docs.anthropic.com/en/api/messages>; of `fim/completions` and `agents/completions`, and
    /// `completion_args.max_tokens` of `conversations`, in <https://docs.mistral.ai/api/>; `max_completion_tokens` of
    /// <https://platform.openai.com/docs/api-reference/runs/createRun>;
    /// <https://platform.openai.com/docs/api-reference/responses/compact>, which has none; `assistants` of OpenAI and `agents` of
    /// Mistral, which store a description, and `videos`, whose films have no tokens.
    ///
    /// *Cost*: one walk over a short path.
    pub fn at(place: &Place, runs: Runs, facts: &Facts, body: &[u8]) -> Self {
        let asks_nothing = body.is_empty() && facts.model.is_none();
        if place.operation != Operation::Passthrough || runs != Runs::Model || asks_nothing {
            return Self::Nothing;
        }
        let path = place.path.trim_matches('/').to_ascii_lowercase();
        match path.split('/').collect::<Vec<_>>().as_slice() {
            ["messages"] | ["fim" | "agents", "completions"] => Self::Bounded("max_tokens"),
            ["threads", "runs"] | ["threads", _, "runs"] => Self::Bounded("max_completion_tokens"),
            ["conversations"] | ["conversations", _] | ["conversations", _, "restart"] => {
                Self::Bounded("completion_args.max_tokens")
            }
            ["responses", "compact"] => Self::Unbounded,
            ["assistants" | "agents"] | ["assistants" | "agents", _] | ["videos"] => Self::Nothing,
            [.., last] if FIGURES.contains(last) => Self::Nothing,
            _ => Self::Unknown,
        }
    }

    /// The field that bounds it, as a caller would write it.
    pub fn field(self) -> Option<&'static str> {
        match self {
            Self::Bounded(field) => Some(field),
            _ => None,
        }
    }

    /// The most tokens of one answer, where the request allows so many and one without a word is taken to write `open`.
    pub fn most(self, allowed: Option<u64>, open: u64) -> u64 {
        match self {
            Self::Nothing => allowed.unwrap_or(0),
            Self::Unbounded => allowed.map_or(open, |allowed| allowed.max(open)),
            Self::Bounded(_) | Self::Unknown => allowed.unwrap_or(open),
        }
    }
}

impl Facts {
    /// Takes a ceiling on the output for one only where the field bounds it that the endpoint obeys, and notes that a conversation or
    /// a thread is read which the path names. `body` is the body that these facts were read from.
    ///
    /// *Cost*: one walk over the body where the field is known.
    pub fn heed(&mut self, place: &Place, writing: Writing, body: &[u8]) {
        let path = place.path.trim_matches('/').to_ascii_lowercase();
        let (stored, rest) = path.split_once('/').unwrap_or((&path, ""));
        let reads_stored = matches!(stored, "conversations" | "threads") && !matches!(rest, "" | "runs");
        let Writing::Bounded(field) = writing else { return };
        self.refers |= reads_stored;
        let whole = self.is_object().then(|| Value::whole(body));
        let value = whole.and_then(|whole| field.split('.').try_fold(whole, |value, name| value.present(name)));
        let own = value.and_then(Value::u64).filter(|tokens| *tokens > 0);
        self.max_output_tokens = own.max(self.max_output_tokens.filter(|_| own.is_some()));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::dialect::{place, runs, understand};

    fn read(method: &str, path: &str, body: &str) -> (Writing, Facts) {
        let (place, body) = (place(method, path).unwrap(), Bytes::from(body.to_owned()));
        let mut facts = understand(place.operation, None, &body).unwrap();
        let writing = Writing::at(&place, runs(method, &place, &facts, &body), &facts, &body);
        facts.heed(&place, writing, &body);
        (writing, facts)
    }

    #[test]
    fn what_passes_through_and_may_write_is_taken_to_write_where_it_names_no_ceiling() {
        for path in [
            "/v1/fim/completions",
            "/v1/agents/completions",
            "/v1/messages",
            "/v1/responses/compact",
            "/v1/anything",
            "/v1/embeddings/generate",
            "/v1/assistants/a/chat",
        ] {
            let (writing, facts) = read("POST", path, r#"{"model":"m","prompt":"x"}"#);
            assert_eq!(writing.most(facts.max_output_tokens, 4_096), 4_096, "{path}");
        }
        for body in [r#"{"inputs":"x"}"#, r#"{"model":"m","inputs":[],"items":[]}"#] {
            let (writing, facts) = read("POST", "/v1/conversations/c", body);
            assert_eq!(writing.most(facts.max_output_tokens, 4_096), 4_096, "{body}");
        }
        let (writing, _) = read("POST", "/v1/threads/t/runs", r#"{"assistant_id":"a","stream":true}"#);
        assert_eq!(writing.field(), Some("max_completion_tokens"));
    }

    #[test]
    fn what_goes_on_with_something_stored_that_its_path_names_reads_it() {
        let refers = |path: &str, body: &str| read("POST", path, body).1.refers;
        assert!(refers("/v1/conversations/c", r#"{"inputs":"x"}"#));
        assert!(refers("/v1/conversations/c/restart", r#"{"inputs":"x"}"#));
        assert!(refers("/v1/threads/t/runs", r#"{"assistant_id":"a","stream":true}"#));
        assert!(!refers("/v1/conversations", r#"{"inputs":"x","agent_id":"a"}"#));
        assert!(!refers("/v1/threads/runs", r#"{"assistant_id":"a","stream":true}"#));
        assert!(!refers("/v1/conversations/c/items", r#"{"items":[]}"#));
        assert!(!refers("/v1/messages", r#"{"model":"m"}"#));
    }

    #[test]
    fn what_writes_no_text_is_not_taken_to_write() {
        for (method, path, body) in [
            ("GET", "/v1/anything", ""),
            ("DELETE", "/v1/responses/r", ""),
            ("POST", "/v1/files", "x"),
            ("POST", "/v1/anything", ""),
            ("POST", "/v1/chat/completions", r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#),
            ("POST", "/v1/batches", r#"{"model":"m"}"#),
            ("POST", "/v1/messages/count_tokens", r#"{"model":"m","messages":[]}"#),
            ("POST", "/v1/conversations", r#"{"items":[]}"#),
            ("POST", "/v1/chat/moderations", r#"{"model":"m","input":"x"}"#),
            ("POST", "/v1/multimodalembeddings", r#"{"model":"m","inputs":[]}"#),
            ("POST", "/v1/score", r#"{"model":"m"}"#),
            ("POST", "/v1/assistants", r#"{"model":"m"}"#),
            ("POST", "/v1/agents", r#"{"model":"m"}"#),
            ("POST", "/v1/videos", r#"{"model":"m"}"#),
        ] {
            assert_eq!(read(method, path, body).0, Writing::Nothing, "{method} {path}");
        }
    }

    #[test]
    fn a_ceiling_counts_only_under_the_name_that_the_endpoint_obeys() {
        let most = |path: &str, body: &str| {
            let (writing, facts) = read("POST", path, body);
            writing.most(facts.max_output_tokens, 4_096)
        };
        for (path, body) in [
            ("/v1/messages", r#"{"max_output_tokens":1}"#),
            ("/v1/fim/completions", r#"{"max_completion_tokens":1}"#),
            ("/v1/fim/completions", r#"{"max_tokens":0}"#),
            ("/v1/fim/completions", r#"{"max_tokens":"1"}"#),
            ("/v1/fim/completions", r#"{"max_tokens":null}"#),
            ("/v1/conversations", r#"{"inputs":"x","max_tokens":1}"#),
            ("/v1/conversations", r#"{"inputs":"x","completion_args":{"max_tokens":null}}"#),
            ("/v1/conversations", r#"{"inputs":"x","completion_args":7}"#),
            ("/v1/responses/compact", r#"{"max_output_tokens":1}"#),
            ("/v1/anything", r#"{"max_tokens":"1"}"#),
        ] {
            assert_eq!(most(path, body), 4_096, "{path} {body}");
        }
        for (path, body, tokens) in [
            ("/v1/messages", r#"{"max_tokens":7}"#, 7),
            ("/v1/messages", r#"{"max_tokens":7,"max_output_tokens":9}"#, 9),
            ("/v1/fim/completions", r#"{"max_t\u006fkens":7}"#, 7),
            ("/v1/conversations", r#"{"inputs":"x","completion_args":{"max_tokens":7}}"#, 7),
            ("/v1/responses/compact", r#"{"max_output_tokens":10000}"#, 10_000),
            ("/v1/anything", r#"{"max_completion_tokens":7}"#, 7),
        ] {
            assert_eq!(most(path, body), tokens, "{path} {body}");
        }
    }
}
