//! What a request says besides what every call needs: the names of the tools that it offers, and its session.
//!
//! Read only when somebody asks, since it walks the body once more. The body was understood before, so it is valid JSON
//! without a key that is given twice.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::dialect::openai::Facts;
use crate::dialect::value::Value;

impl Facts {
    /// The names of the tools and functions that a request offers; of a tool without a name, such as one that the provider
    /// itself runs, its type. `body` is the body that these facts were read from.
    ///
    /// *Source*: `tools` and `functions` in <https://platform.openai.com/docs/api-reference/chat/create> (`function.name`,
    /// `custom.name`) and <https://platform.openai.com/docs/api-reference/responses/create> (`name`, `type`).
    ///
    /// *Cost*: nothing without tools; else one walk over the body and one text for each name.
    pub fn tool_names(&self, body: &[u8]) -> BTreeSet<Arc<str>> {
        if self.tools == 0 {
            return BTreeSet::new();
        }
        let body = Value::whole(body);
        let lists = ["tools", "functions"].into_iter().filter_map(|list| body.present(list));
        lists.flat_map(Value::elements).flat_map(names).collect()
    }

    /// The session that a request names in its `metadata`: `session_id`, or `user_id` as Anthropic's requests have it. `body`
    /// is the body that these facts were read from.
    ///
    /// *Cost*: one walk over the body.
    pub fn session_named(&self, body: &[u8]) -> Option<String> {
        if !body.trim_ascii_start().starts_with(b"{") {
            return None;
        }
        let metadata = Value::whole(body).present("metadata")?;
        let name = metadata.present("session_id").or_else(|| metadata.present("user_id"))?.string()?;
        (!name.is_empty()).then(|| name.into_owned())
    }
}

/// Every name that a tool can be called by: which one a provider obeys, if several stand there, is its own affair.
fn names(tool: Value<'_>) -> Vec<Arc<str>> {
    let inside = ["function", "custom"].into_iter().filter_map(|kind| tool.present(kind)?.present("name")?.string());
    let mut names: Vec<Arc<str>> = inside.chain(tool.present("name").and_then(Value::string)).map(Arc::from).collect();
    if names.is_empty() {
        names.extend(tool.present("type").and_then(Value::string).map(Arc::from));
    }
    names
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use crate::dialect::{Operation, understand};

    fn offered(operation: Operation, body: &'static str) -> Vec<String> {
        let body = Bytes::from_static(body.as_bytes());
        let facts = understand(operation, None, &body).unwrap();
        facts.tool_names(&body).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_tool_is_found_under_every_name_that_it_has() {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[
            {"type":"function","function":{"name":"\u0073hell"}},{"type":"custom","custom":{"name":"sql"}},
            {"type":"function","name":"outer","function":{"name":"inner"}}],"functions":[{"name":"old"}]}"#;
        assert_eq!(offered(Operation::Chat, body), ["inner", "old", "outer", "shell", "sql"]);
        let body = r#"{"model":"m","input":"x","tools":[{"type":"web_search"},{"type":"function","name":"f"}]}"#;
        assert_eq!(offered(Operation::Responses, body), ["f", "web_search"]);
        let body = r#"{"model":"m","messages":[{"role":"user","content":"\"tools\":[{\"name\":\"x\"}]"}]}"#;
        assert_eq!(offered(Operation::Chat, body), Vec::<String>::new());
    }

    #[test]
    fn a_session_is_read_off_the_metadata() {
        let named = |body: &'static str| {
            let body = Bytes::from_static(body.as_bytes());
            understand(Operation::Chat, None, &body).unwrap().session_named(&body)
        };
        let with = |metadata: &str| {
            format!(r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}],"metadata":{metadata}}}"#).leak()
        };
        for metadata in ["null", "{}", "7", r#"{"session_id":7}"#, r#"{"session_id":""}"#] {
            assert_eq!(named(with(metadata)), None, "{metadata}");
        }
        assert_eq!(named(with(r#"{"session_id":"s","user_id":"u"}"#)).as_deref(), Some("s"));
        assert_eq!(named(with(r#"{"user_id":"u"}"#)).as_deref(), Some("u"));
    }
}
