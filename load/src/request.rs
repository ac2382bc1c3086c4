//! The requests: made once, as bytes, so that sending one costs the load a single write.

use bytes::Bytes;

use crate::target::Target;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A chat completion, answered at once.
    Chat {
        /// Bytes of the prompt.
        prompt_bytes: usize,
        /// Milliseconds that the mock waits before it answers.
        delay_ms: u64,
    },
    /// A streamed chat completion.
    Stream {
        /// Deltas in the answer.
        deltas: u64,
        /// Milliseconds between two deltas; 0 means none.
        pace_ms: u64,
        /// Letters in a delta.
        size: usize,
    },
    /// An embedding of a short text.
    Embedding,
}

/// A request for one target, ready to be sent any number of times.
#[derive(Clone, Debug)]
pub struct Request {
    /// Head and body.
    pub bytes: Bytes,
    /// How many events the answer must have before `[DONE]`; 0 if it is no stream.
    pub events: u64,
}

impl Ask {
    /// The request for a target.
    pub fn of(self, target: &Target) -> Request {
        let (path, body) = match self {
            Self::Chat { .. } | Self::Stream { .. } => ("chat/completions", self.chat_body(target)),
            Self::Embedding => (
                "embeddings",
                format!(
                    r#"{{"model":"{}mock","input":"The first word should come as early as without it."}}"#,
                    target.model_prefix
                ),
            ),
        };
        let Target { address, base_path, token, .. } = target;
        let head = format!(
            "POST {base_path}/{path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
             User-Agent: marg-load/0.1\r\nAccept: application/json\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        let events = if let Self::Stream { deltas, .. } = self { deltas + 1 } else { 0 };
        Request { bytes: Bytes::from(head + &body), events }
    }

    fn chat_body(self, target: &Target) -> String {
        let prefix = &target.model_prefix;
        match self {
            Self::Stream { deltas, pace_ms, size } => {
                let model = format!("{prefix}mock-deltas{deltas}-pace{pace_ms}-size{size}");
                format!(r#"{{"model":"{model}","stream":true,"messages":[{}]}}"#, messages(900))
            }
            Self::Chat { prompt_bytes, delay_ms } => {
                let model = if delay_ms == 0 { "mock".to_owned() } else { format!("mock-delay{delay_ms}") };
                format!(r#"{{"model":"{prefix}{model}","temperature":0.2,"messages":[{}]}}"#, messages(prompt_bytes))
            }
            Self::Embedding => String::new(),
        }
    }
}

/// A conversation of about so many bytes, in turns of at most 5,000, with the escapes and the non-ASCII letters of real text.
fn messages(bytes: usize) -> String {
    const PASSAGE: &str = r#"It said: \"the façade is done\".\n\tNext: 3 of 12 items, see §4 — naïve, but it works. "#;
    let mut turns = Vec::new();
    let mut left = bytes;
    while left > 0 || turns.is_empty() {
        let content = PASSAGE.repeat((left.min(5_000) / PASSAGE.len()).max(1));
        let role = if turns.len() % 2 == 0 { "user" } else { "assistant" };
        left = left.saturating_sub(content.len().max(PASSAGE.len()));
        left = if left < PASSAGE.len() { 0 } else { left };
        turns.push(format!(r#"{{"role":"{role}","content":"{content}"}}"#));
    }
    turns.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(ask: Ask) -> (String, serde_json::Value) {
        let target = Target {
            name: "gateway",
            address: ([127, 0, 0, 1], 80).into(),
            base_path: "/v1".to_owned(),
            token: "marg_live_x".to_owned(),
            model_prefix: String::new(),
            pid: None,
        };
        let bytes = ask.of(&target).bytes;
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        (head.to_owned(), serde_json::from_str(body).expect("valid JSON"))
    }

    #[test]
    fn prompts_have_the_size_that_they_should() {
        for bytes in [900, 200_000] {
            let (head, _) = body(Ask::Chat { prompt_bytes: bytes, delay_ms: 0 });
            let length: usize = head.rsplit(' ').next().expect("a length").parse().expect("a number");
            assert!(length.abs_diff(bytes) < 200 + bytes / 50, "{length} instead of {bytes}");
        }
    }

    #[test]
    fn a_stream_says_so_and_tells_the_mock_how() {
        let (head, body) = body(Ask::Stream { deltas: 50, pace_ms: 20, size: 12 });
        assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"));
        assert_eq!(body["stream"], true);
        assert_eq!(body["model"], "mock-deltas50-pace20-size12");
    }

    #[test]
    fn an_embedding_goes_to_its_own_path() {
        assert!(body(Ask::Embedding).0.starts_with("POST /v1/embeddings "));
    }
}
