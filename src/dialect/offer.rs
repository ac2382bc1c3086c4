//! What a request says besides what every call needs: the names of the tools that it offers, and its session.
//!
//! Read only when somebody asks, since it walks the body once more. The body was understood before, so it is valid JSON
//! without a key that is given twice.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::dialect::json::Type;
use crate::dialect::openai::Facts;
use crate::dialect::operation::Operation;
use crate::dialect::value::Value;

impl Facts {
    /// The names of the tools and functions that a request offers. A tool that the provider itself runs is named by its type
    /// as well (`web_search`; `openrouter:web_search` under both words), whatever name it bears; one of an MCP server also by the
    /// server's label and the tools that it may use there; one that says nothing of the kind by the names of its members
    /// (`googleSearch`). `web_search_options`, `search_parameters` (xAI) and `enable_search` (DashScope) are `web_search`, a plugin
    /// is its id, `web` also `web_search`, and a stored prompt, which may bring tools along that nobody sees here, is
    /// `stored_prompt`. `body` is the body that these facts were read from.
    ///
    /// *Source*: `tools` and `functions` in <https://platform.openai.com/docs/api-reference/chat/create> (`function.name`,
    /// `custom.name`) and <https://platform.openai.com/docs/api-reference/responses/create> (`name`, `type`;
    /// `server_label` and `allowed_tools` of `mcp`); `mcp_servers` in <https://docs.anthropic.com/en/docs/agents-and-tools/mcp-connector>;
    /// `plugins` in <https://openrouter.ai/docs/features/web-search>.
    ///
    /// *Cost*: nothing without tools; else one walk over the body and one text for each name.
    pub fn tool_names(&self, body: &[u8]) -> BTreeSet<Arc<str>> {
        if self.tools == 0 {
            return BTreeSet::new();
        }
        let body = Value::whole(body);
        let lists = ["tools", "functions"].into_iter().filter_map(|list| body.present(list));
        let mut all: BTreeSet<Arc<str>> = lists.flat_map(Value::elements).flat_map(names).collect();
        let searches = |name: &str| body.present(name).is_some_and(|on| on.boolean() != Some(false));
        if ["web_search_options", "search_parameters", "enable_search"].into_iter().any(searches) {
            all.insert("web_search".into());
        }
        let prompt = body.present("prompt").filter(|_| self.operation == Operation::Responses);
        if prompt.is_some_and(|prompt| prompt.kind() == Type::Object) {
            all.insert("stored_prompt".into());
        }
        let plugins = body.present("plugins").into_iter().flat_map(Value::elements);
        for id in plugins.filter_map(|plugin| plugin.present("id")?.string()) {
            if id == "web" {
                all.insert("web_search".into());
            }
            all.insert(Arc::from(id));
        }
        for server in body.present("mcp_servers").into_iter().flat_map(Value::elements) {
            all.insert("mcp".into());
            all.extend(server.present("name").and_then(Value::string).map(Arc::from));
            all.extend(server.present("tool_configuration").into_iter().flat_map(allowed));
        }
        all
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
    let own = ["name", "server_label"].into_iter().filter_map(|name| tool.present(name)?.string());
    let mut names: Vec<Arc<str>> = inside.chain(own).map(Arc::from).collect();
    let kind = tool.present("type").and_then(Value::string);
    let is_plain = |kind: &str| matches!(kind, "function" | "custom");
    let kind = kind.filter(|kind| names.is_empty() || !is_plain(kind));
    names.extend(kind.as_deref().and_then(|kind| kind.strip_prefix("openrouter:")).map(Arc::from));
    names.extend(kind.map(Arc::from));
    names.extend(allowed(tool));
    if names.is_empty() {
        names.extend(tool.members().map(|(name, _)| Arc::from(&*name.decode())));
    }
    names
}

/// The tools of an MCP server that may be used, where a request lists them: a list, or an object with a list in it.
fn allowed(of: Value<'_>) -> Vec<Arc<str>> {
    let Some(list) = of.present("allowed_tools") else { return Vec::new() };
    let inside = list.present("tool_names").into_iter().flat_map(Value::elements);
    list.elements().chain(inside).filter_map(Value::string).map(Arc::from).collect()
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
        let body = r#"{"model":"m","input":"x","tools":[{"type":"web_search","name":"harmless"},
            {"type":"mcp","server_label":"crm","allowed_tools":["read"]},
            {"type":"mcp","server_label":"ops","allowed_tools":{"tool_names":["restart"]}}]}"#;
        let all = ["crm", "harmless", "mcp", "ops", "read", "restart", "web_search"];
        assert_eq!(offered(Operation::Responses, body), all);
        let body = r#"{"model":"m","messages":[{"role":"user","content":"x"}],"web_search_options":{},
            "plugins":[{"id":"web"}],"mcp_servers":[{"name":"crm","tool_configuration":{"allowed_tools":["read"]}}]}"#;
        assert_eq!(offered(Operation::Chat, body), ["crm", "mcp", "read", "web", "web_search"]);
        let body = r#"{"model":"m","messages":[{"role":"user","content":"\"tools\":[{\"name\":\"x\"}]"}]}"#;
        assert_eq!(offered(Operation::Chat, body), Vec::<String>::new());
    }

    #[test]
    fn what_brings_tools_along_without_naming_them_is_named() {
        let chat = |more: &str| -> &'static str {
            format!(r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}],{more}}}"#).leak()
        };
        for (more, names) in [
            (r#""tools":[{"googleSearch":{}}]"#, vec!["googleSearch"]),
            (r#""search_parameters":{"mode":"on"}"#, vec!["web_search"]),
            (r#""enable_search":true"#, vec!["web_search"]),
            (r#""enable_search":false"#, vec![]),
            (r#""enable_search":"yes""#, vec!["web_search"]),
            (r#""plugins":[{"id":"web"}]"#, vec!["web", "web_search"]),
            (r#""tools":[{"type":"openrouter:web_search"}]"#, vec!["openrouter:web_search", "web_search"]),
            (r#""tools":[{"type":"function","function":{"name":"openrouter:f"}}]"#, vec!["openrouter:f"]),
        ] {
            assert_eq!(offered(Operation::Chat, chat(more)), names, "{more}");
        }
        let body = r#"{"model":"m","input":"x","prompt":{"id":"pmpt_1"}}"#;
        assert_eq!(offered(Operation::Responses, body), ["stored_prompt"]);
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
