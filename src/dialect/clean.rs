//! Takes credentials and addresses out of errors that come inside an answer of status 200: an event of a stream, or a JSON
//! answer that is an error.
//!
//! Only what a provider says of an error is touched, never what a model wrote. No text grows, so that an answer whose length
//! has been announced keeps it (`what_is_cleaned_never_grows`).

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use crate::dialect::json::{self, Text, Type, Visit};
use crate::dialect::openai::cut;
use crate::dialect::redact::redact;
use crate::dialect::sse;
use crate::dialect::value::escape_into;

/// Members that hold what a model wrote, or what a caller keeps at a provider.
const CONTENTS: [&str; 8] = ["choices", "output", "data", "delta", "content", "item", "part", "text"];

/// Who knows what must not be seen.
pub trait Confidential: fmt::Debug + Send + Sync {
    /// The credentials.
    fn secrets(&self) -> Vec<&str>;
    /// The addresses: hosts, with a port or without.
    fn hosts(&self) -> Vec<&str>;
}

/// An event that speaks of an error, without what must not be seen; `None` if there is nothing of it.
pub(super) fn event(event: &[u8], keeper: &dyn Confidential) -> Option<Vec<u8>> {
    let cleaned = document(&sse::data(event), keeper)?;
    Some(sse::with_data(event, &cleaned))
}

/// A document that speaks of an error, without what must not be seen, and not longer than it was; `None` if there is nothing
/// of it. What is no JSON is cleaned as a text.
pub(super) fn document(document: &[u8], keeper: &dyn Confidential) -> Option<Vec<u8>> {
    let (secrets, hosts) = (keeper.secrets(), keeper.hosts());
    let mut cleaner = Cleaner {
        document,
        secrets: &secrets,
        hosts: &hosts,
        out: Vec::new(),
        done: 0,
        error: None,
        content: None,
        changed: false,
    };
    if json::scan(document, &mut cleaner).is_err() {
        return match redact(&String::from_utf8_lossy(document), &secrets, &hosts) {
            Cow::Owned(text) => Some(cut(&text, document.len()).as_bytes().to_vec()),
            Cow::Borrowed(_) => None,
        };
    }
    let Cleaner { mut out, done, changed, .. } = cleaner;
    out.extend_from_slice(document.get(done..).unwrap_or_default());
    changed.then_some(out)
}

struct Cleaner<'a> {
    document: &'a [u8],
    secrets: &'a [&'a str],
    hosts: &'a [&'a str],
    /// The document up to `done`, cleaned.
    out: Vec<u8>,
    done: usize,
    /// The depth of the error, while in one.
    error: Option<usize>,
    /// The depth of what a model wrote, while in it.
    content: Option<usize>,
    changed: bool,
}

impl Cleaner<'_> {
    fn clean(&mut self, text: Text) {
        let decoded = text.decode(self.document);
        let Cow::Owned(cleaned) = redact(&decoded, self.secrets, self.hosts) else { return };
        let written = fitting(&cleaned, text.end - text.start);
        self.out.extend_from_slice(self.document.get(self.done..text.start).unwrap_or_default());
        self.out.extend_from_slice(&written);
        self.done = text.end;
        self.changed = true;
    }

    fn name(&mut self, depth: usize, key: Option<Text>, opens: bool) -> bool {
        let Some(key) = key else { return self.content.is_some() };
        let name = key.decode(self.document);
        let (is_error, is_content) = (name == "error", CONTENTS.contains(&&*name));
        if self.error.is_some() {
            self.clean(key);
        } else if opens && is_error {
            self.error = Some(depth);
        } else if opens && is_content && self.content.is_none() {
            self.content = Some(depth);
        }
        !is_error && (is_content || self.content.is_some())
    }
}

impl Visit for Cleaner<'_> {
    fn scalar(&mut self, depth: usize, key: Option<Text>, kind: Type, span: Range<usize>) {
        let is_content = self.name(depth, key, false);
        if kind == Type::String && (self.error.is_some() || !is_content) {
            self.clean(Text { start: span.start + 1, end: span.end.saturating_sub(1), escaped: true });
        }
    }

    fn open(&mut self, depth: usize, key: Option<Text>, _kind: Type, _at: usize) {
        self.name(depth, key, true);
    }

    fn close(&mut self, depth: usize, _kind: Type, _end: usize) {
        self.error.take_if(|from| *from == depth);
        self.content.take_if(|from| *from == depth);
    }
}

/// The inside of a JSON string of at most so many bytes.
fn fitting(text: &str, most: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(most);
    let mut length = text.len().min(most);
    loop {
        escape_into(cut(text, length), &mut out);
        if out.len() <= most {
            return out;
        }
        length = length.saturating_sub(out.len() - most);
        out.clear();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Knows these credentials and these addresses.
    #[derive(Debug)]
    pub struct Knows<'a>(pub &'a [&'a str], pub &'a [&'a str]);

    impl Confidential for Knows<'_> {
        fn secrets(&self) -> Vec<&str> {
            self.0.to_vec()
        }

        fn hosts(&self) -> Vec<&str> {
            self.1.to_vec()
        }
    }

    const KEEPER: Knows<'_> = Knows(&["hunter2hunter2", "sec-a"], &["10.0.0.7:8000"]);

    fn cleaned(text: &str) -> Option<String> {
        document(text.as_bytes(), &KEEPER).map(|out| String::from_utf8(out).unwrap())
    }

    #[test]
    fn an_error_loses_what_must_not_be_seen_wherever_it_stands() {
        for text in [
            r#"{"error":{"message":"upstream http://10.0.0.7:8000/v1 rejected hunter2hunter2","code":null}}"#,
            r#"{"error":"hunter2hunter2 at http:\/\/10.0.0.7:8000\/v1"}"#,
            r#"[{"error":{"details":[{"more":{"\u0068unter2hunter2":"10.0.0.7"}}]}}]"#,
            r#"{"type":"error","message":"hunter2hunter2 at 10.0.0.7"}"#,
            r#"{"choices":[{"delta":{"content":"x"},"error":{"message":"hunter2hunter2"}}],"url":"http://10.0.0.7"}"#,
            r#"{"type":"response.failed","response":{"error":{"message":"sk-proj-A1b2C3d4E5"},"output":[]}}"#,
            "error hunter2hunter2 at http://10.0.0.7:8000/",
            r#"{"error":{"message":"cut off hunter2hunter2"#,
        ] {
            let found = cleaned(text).unwrap_or_else(|| panic!("{text} stays as it is"));
            assert!(!found.contains("hunter2") && !found.contains("10.0.0") && !found.contains("A1b2"), "{found}");
            assert!(found.contains("[redacted]"), "{found}");
        }
    }

    #[test]
    fn what_a_model_wrote_stays() {
        for text in [
            r#"{"error":{"message":"over"},"choices":[{"message":{"content":"try sk-proj-A1b2C3d4E5"}}]}"#,
            r#"{"type":"response.output_text.delta","delta":"sk-proj-A1b2C3d4E5 \"error\""}"#,
            r#"{"error":{"code":"x"},"output":[{"content":[{"text":"sk-proj-A1b2C3d4E5"}]}]}"#,
            r#"{"error":{"message":"the context is too long"}}"#,
        ] {
            assert_eq!(cleaned(text), None);
        }
    }

    #[test]
    fn what_is_cleaned_never_grows() {
        for text in [
            r#"{"error":"sec-a"}"#,
            r#"{"error":"\"\"\"sec-a\u0001\u0001"}"#,
            "sec-a",
            r#"{"error":{"sec-a":"é sec-a é"}}"#,
        ] {
            let found = cleaned(text).unwrap();
            assert!(found.len() <= text.len() && !found.contains("sec-a"), "{found}");
            assert!(!text.starts_with('{') || serde_json::from_str::<serde_json::Value>(&found).is_ok(), "{found}");
        }
    }

    #[test]
    fn an_event_keeps_its_other_lines() {
        let clean = |text: &str| event(text.as_bytes(), &KEEPER).map(|out| String::from_utf8(out).unwrap());
        assert_eq!(
            clean("event: error\r\nid: 7\r\ndata: {\"error\":\r\ndata: \"hunter2hunter2\"}\r\n\r\n").unwrap(),
            "event: error\nid: 7\ndata: {\"error\":\ndata: \"[redacted]\"}\n\n"
        );
        assert_eq!(clean("data: {\"error\":\"over\"}\n\n"), None);
    }
}
