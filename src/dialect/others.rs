//! The models besides `model` that a request has run: those that the provider may turn to, and those that its tools and plugins run.
//!
//! Read only when somebody asks, since it walks the body once more. The body was understood before, so it is valid JSON
//! without a key that is given twice.

use std::borrow::Cow;

use crate::dialect::json::Type;
use crate::dialect::openai::Facts;
use crate::dialect::value::Value;

/// The most models besides `model` that a request may name; providers take a few.
pub const MAX_OTHER_MODELS: usize = 16;
/// So many are found, and no more, so that the bound is noticed.
const FULL: usize = MAX_OTHER_MODELS + 1;

/// The lists of models that a provider may turn to by itself.
///
/// *Source*: `models` in <https://openrouter.ai/docs/features/model-routing>; the others in
/// <https://docs.litellm.ai/docs/proxy/reliability>.
const LISTS: [&str; 5] =
    ["models", "fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "default_fallbacks"];

/// Members of tools that hold schemas, descriptions of what an application itself offers, or words for another server: what is called
/// a model in there runs nothing.
const SCHEMAS: [&str; 9] =
    ["function", "custom", "input_schema", "schema", "properties", "$defs", "definitions", "headers", "filters"];

/// A model that a tool or a plugin runs by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolModel<'a> {
    /// The one that it names.
    Named {
        /// Its name.
        name: Cow<'a, str>,
        /// It draws images, so what it costs is reserved by their number.
        draws: bool,
    },
    /// One that the provider chooses, or the model that is asked.
    Chosen,
}

impl Facts {
    /// The models besides `model` that the provider may turn to, as far as the request names them: `models` at OpenRouter,
    /// `fallbacks` and its kin at LiteLLM, and those that tools and plugins write with. At most 17, so that a caller of a bound of
    /// 16 notices. `body` is the body that these facts were read from.
    ///
    /// *Cost*: nothing without such lists and tools; else one walk over the body.
    pub fn other_models(&self, body: &[u8]) -> Vec<String> {
        if !self.lists_models {
            return Vec::new();
        }
        let whole = Value::whole(body);
        let mut found = Fallbacks { asked: self.model.as_deref(), names: Vec::new() };
        for (list, value) in LISTS.into_iter().filter_map(|list| Some((list, whole.present(list)?))) {
            found.look(value, list != "models");
        }
        for model in self.tool_models(body) {
            if let ToolModel::Named { name, draws: false } = model {
                found.take(name);
            }
        }
        found.names.into_iter().map(Cow::into_owned).collect()
    }

    /// The models that tools and plugins of a request run by themselves; beyond the bound of 16 for each of these two members stands
    /// [`ToolModel::Chosen`]. `body` is the body that these facts were read from.
    ///
    /// *Cost*: one walk over the body.
    pub fn tool_models<'a>(&self, body: &'a [u8]) -> Vec<ToolModel<'a>> {
        if !self.is_object() {
            return Vec::new();
        }
        let body = Value::whole(body);
        ["tools", "plugins"].into_iter().filter_map(|list| body.present(list)).flat_map(run_by).collect()
    }
}

/// Whether tools or plugins write with models that they name. `list` is the one member of the request or the other.
pub(super) fn names_models(list: Value<'_>) -> bool {
    run_by(list).iter().any(|model| matches!(model, ToolModel::Named { draws: false, .. }))
}

/// The models that `tools` or `plugins` of a request run.
fn run_by(list: Value<'_>) -> Vec<ToolModel<'_>> {
    let mut inside = Inside { found: Vec::new() };
    inside.look(list, false);
    if inside.is_full() {
        inside.found.push(ToolModel::Chosen);
    }
    inside.found
}

/// What was found inside of tools and plugins: what `model`, `models` and names that end so say, at any depth, as
/// OpenRouter's tools have tools and profiles of their own. Not what stands in the schema of a function.
///
/// *Sources*: `tools.model` of `image_generation` in <https://platform.openai.com/docs/api-reference/responses/create>;
/// `parameters.model`, `.advisors`, `.tools`, `.analysis_models` in
/// <https://openrouter.ai/docs/guides/features/server-tools/advisor>, `/fusion`, `/subagent`;
/// <https://openrouter.ai/docs/guides/features/plugins/fusion>.
struct Inside<'a> {
    found: Vec<ToolModel<'a>>,
}

impl<'a> Inside<'a> {
    /// Goes as deep as documents may be nested (`json::DEPTH_LIMIT`).
    fn look(&mut self, value: Value<'a>, draws: bool) {
        if self.is_full() {
            return;
        }
        if value.kind() != Type::Object {
            return value
                .elements()
                .filter(|element| is_nested(*element))
                .for_each(|element| self.look(element, draws));
        }
        let kind = value.present("type").and_then(Value::string).unwrap_or_default();
        let draws = draws || kind.ends_with("image_generation");
        if chooses(value, &kind) {
            self.found.push(ToolModel::Chosen);
        }
        let is_own = matches!(&*kind, "function" | "custom");
        for (name, member) in value.members() {
            let name = name.decode();
            if is_model(&name) {
                self.found.extend(named(member).take(FULL).map(|name| ToolModel::Named { name, draws }));
            }
            if !is_own && is_nested(member) && !SCHEMAS.contains(&&*name) {
                self.look(member, draws);
            }
        }
    }

    fn is_full(&self) -> bool {
        self.found.len() >= FULL
    }
}

fn is_nested(value: Value<'_>) -> bool {
    matches!(value.kind(), Type::Object | Type::Array)
}

/// Whether a member of that name names models: `model`, `judge_model`, `analysis_models`, `judgeModel`.
fn is_model(name: &str) -> bool {
    let one = name.strip_suffix(['s', 'S']).unwrap_or(name);
    one.len().checked_sub(5).and_then(|at| one.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case("model"))
}

/// The models that a value names: a name, or a list of names or of objects with an `id`; such with `model` are found by themselves.
fn named<'a>(value: Value<'a>) -> impl Iterator<Item = Cow<'a, str>> {
    let one = |value: Value<'a>| value.string().or_else(|| value.present("id")?.string());
    one(value).into_iter().chain(value.elements().filter_map(one))
}

/// Whether a tool or a plugin runs models that the request does not name: OpenRouter's advisor asks whom the model calls for, a panel has
/// members of its own, and a painter is a model of its own, where they are not told. A judge or a worker that is not told is the
/// model that is asked, but for that of the plugin.
///
/// *Source*: as of [`Inside`].
fn chooses(tool: Value<'_>, kind: &str) -> bool {
    let has = |of: Value<'_>, name: &str| {
        of.present(name).is_some_and(|value| value.string().is_some() || value.elements().next().is_some())
    };
    let settings = || tool.present("parameters");
    let is_told = |name: &str| settings().is_some_and(|settings| has(settings, name));
    match kind {
        "openrouter:advisor" => {
            let profiles = settings().and_then(|settings| settings.present("advisors"));
            let mut profiles = profiles.into_iter().flat_map(Value::elements).peekable();
            !is_told("model") && (profiles.peek().is_none() || !profiles.all(|profile| has(profile, "model")))
        }
        "openrouter:subagent" | "openrouter:image_generation" => !is_told("model"),
        "openrouter:fusion" => !is_told("analysis_models"),
        // A plugin has an id instead.
        "" => {
            let is_on = || tool.present("enabled").and_then(Value::boolean) != Some(false);
            let is_panel = tool.present("id").and_then(Value::string).as_deref() == Some("fusion");
            is_panel && is_on() && !(has(tool, "analysis_models") && has(tool, "model"))
        }
        _ => false,
    }
}

/// What was found of lists of models to turn to: names, objects with `model`, and, in LiteLLM's own form, objects that say for each
/// model which to take instead of it.
struct Fallbacks<'a> {
    asked: Option<&'a str>,
    names: Vec<Cow<'a, str>>,
}

impl<'a> Fallbacks<'a> {
    /// Goes as deep as documents may be nested (`json::DEPTH_LIMIT`). `maps` if objects may be of LiteLLM's form.
    fn look(&mut self, value: Value<'a>, maps: bool) {
        if self.names.len() >= FULL {
            return;
        }
        if let Some(name) = value.string() {
            self.take(name);
        }
        value.elements().for_each(|element| self.look(element, maps));
        match value.present("model") {
            // The call anew with other members, among which such lists may be again.
            Some(model) => {
                model.string().into_iter().for_each(|name| self.take(name));
                LISTS.into_iter().filter_map(|list| value.present(list)).for_each(|list| self.look(list, maps));
            }
            None if maps => value.members().for_each(|(_, instead)| self.look(instead, maps)),
            None => {}
        }
    }

    fn take(&mut self, name: Cow<'a, str>) {
        if self.asked != Some(&*name) && self.names.len() < FULL {
            self.names.push(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::dialect::{Operation, understand};

    #[track_caller]
    fn others(more: &str) -> Vec<String> {
        let body = Bytes::from(format!(r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}]{more}}}"#));
        understand(Operation::Chat, None, &body).unwrap().other_models(&body)
    }

    /// The models that tools run, `*` for such as nobody names.
    #[track_caller]
    fn run(operation: Operation, more: &str) -> Vec<String> {
        let body = Bytes::from(format!(r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}]{more}}}"#));
        let facts = understand(operation, None, &body).unwrap();
        let name = |model| match model {
            ToolModel::Named { name, .. } => name.into_owned(),
            ToolModel::Chosen => "*".to_owned(),
        };
        facts.tool_models(&body).into_iter().map(name).collect()
    }

    #[test]
    fn other_models_are_found_where_a_provider_would() {
        assert_eq!(others(""), Vec::<String>::new());
        assert_eq!(others(r#","models":["m"]"#), Vec::<String>::new());
        assert_eq!(
            others(r#","models":["m","\u0065vil"],"fallbacks":[{"model":"worse"},"worst",7]"#),
            ["evil", "worse", "worst"]
        );
        assert_eq!(others(&format!(r#","models":{:?}"#, vec!["a"; 99])).len(), 17);
    }

    #[test]
    fn fallbacks_are_found_in_every_form_that_litellm_reads() {
        for more in [
            r#","fallbacks":["evil"]"#,
            r#","fallbacks":"evil""#,
            r#","fallbacks":[{"m":["evil"]}]"#,
            r#","fallbacks":[{"*":["evil"]}]"#,
            r#","fallbacks":{"m":["evil"]}"#,
            r#","fallbacks":[{"other":["m"]},{"m":[{"model":"evil","messages":[{"role":"user","content":"x"}]}]}]"#,
            r#","fallbacks":[{"model":"m","fallbacks":[{"m":["evil"]}]}]"#,
            r#","context_window_fallbacks":[{"m":["evil"]}]"#,
            r#","content_policy_fallbacks":[{"m":["m","evil"]}]"#,
            r#","default_fallbacks":["evil"]"#,
        ] {
            assert_eq!(others(more), ["evil"], "{more}");
        }
        // What a call anew stops at is no model.
        assert_eq!(others(r#","fallbacks":[{"model":"evil","stop":["END"],"temperature":0}]"#), ["evil"]);
    }

    #[test]
    fn models_that_tools_run_are_found() {
        let none = Vec::<String>::new();
        assert_eq!(run(Operation::Responses, ""), none);
        assert_eq!(run(Operation::Responses, r#","tools":[{"type":"function","name":"model"}]"#), none);
        let more =
            r#","tools":[{"type":"image_generation","mod\u0065l":"image"}],"plugins":[{"id":"p","model":"other"}]"#;
        assert_eq!(run(Operation::Responses, more), ["image", "other"]);
        assert_eq!(run(Operation::Passthrough, more), ["image", "other"]);
    }

    #[test]
    fn models_of_tools_are_found_as_deep_as_they_are_hidden() {
        for more in [
            r#","tools":[{"type":"openrouter:advisor","parameters":{"model":"evil"}}]"#,
            r#","tools":[{"type":"openrouter:advisor","p\u0061rameters":{"mod\u0065l":"evil"}}]"#,
            r#","tools":[{"type":"openrouter:advisor","parameters":{"advisors":[{"name":"a","model":"evil"}]}}]"#,
            r#","tools":[{"type":"x","parameters":{"tools":[{"type":"y","parameters":{"model":"evil"}}]}}]"#,
            r#","tools":[{"type":"openrouter:fusion","parameters":{"analysis_models":["evil"]}}]"#,
            r#","tools":[{"type":"x","judge_model":"evil"}]"#,
            r#","tools":[{"type":"x","parameters":{"Model":"evil"}}]"#,
            r#","tools":[{"type":"x","parameters":{"analysisModels":["evil"]}}]"#,
            r#","tools":[{"type":"x","parameters":{"models":[{"model":"evil"}]}}]"#,
            r#","tools":[{"type":"x","parameters":{"models":[{"id":"evil"}]}}]"#,
            r#","plugins":[{"id":"fusion","enabled":false,"analysis_models":["evil"]}]"#,
            r#","plugins":[{"id":"x","config":{"fallback_models":["evil"]}}]"#,
            r#","tools":{"type":"x","model":"evil"}"#,
        ] {
            assert_eq!(run(Operation::Passthrough, more), ["evil"], "{more}");
        }
        let panel = r#","plugins":[{"id":"fusion","analysis_models":["evil","worse"],"model":"worst"}]"#;
        assert_eq!(run(Operation::Chat, panel), ["evil", "worse", "worst"]);
    }

    #[test]
    fn a_parameter_of_a_function_is_no_model() {
        let schema = r#"{"type":"object","properties":{"model":{"type":"string","default":"x"},"a_model":{"enum":["x"]}},
            "required":["model"],"default":{"model":"x"},"model":"x"}"#;
        for tool in [
            format!(r#"{{"type":"function","function":{{"name":"f","parameters":{schema}}}}}"#),
            format!(r#"{{"type":"function","name":"f","parameters":{schema}}}"#),
            format!(r#"{{"type":"custom","name":"f","input_schema":{schema}}}"#),
            format!(r#"{{"name":"f","input_schema":{schema}}}"#),
            format!(r#"{{"function":{{"name":"f","parameters":{schema}}}}}"#),
        ] {
            assert_eq!(run(Operation::Passthrough, &format!(r#","tools":[{tool}]"#)), Vec::<String>::new(), "{tool}");
        }
    }

    #[test]
    fn what_chooses_its_models_itself_is_known() {
        for more in [
            r#","tools":[{"type":"openrouter:advisor"}]"#,
            r#","tools":[{"type":"openrouter:advisor","parameters":{"model":null}}]"#,
            r#","tools":[{"type":"openrouter:advisor","parameters":{"advisors":[{"name":"a"}]}}]"#,
            r#","tools":[{"type":"openrouter:subagent","parameters":{}}]"#,
            r#","tools":[{"type":"openrouter:fusion","parameters":{"analysis_models":[]}}]"#,
            r#","tools":[{"type":"openrouter:image_generation"}]"#,
            r#","plugins":[{"id":"fusion"}]"#,
        ] {
            assert_eq!(run(Operation::Chat, more), ["*"], "{more}");
        }
        for more in [
            r#","tools":[{"type":"openrouter:web_search"},{"type":"web_search"},{"type":"image_generation"}]"#,
            r#","plugins":[{"id":"web"},{"id":"fusion","enabled":false}]"#,
        ] {
            assert_eq!(run(Operation::Passthrough, more), Vec::<String>::new(), "{more}");
        }
    }

    #[test]
    fn models_that_tools_write_with_count_as_others_and_those_that_draw_do_not() {
        let tool = r#","tools":[{"type":"openrouter:advisor","parameters":{"model":"evil"}},{"type":"function","function":{"name":"f"}}]"#;
        assert_eq!(others(tool), ["evil"]);
        assert_eq!(others(r#","plugins":[{"id":"fusion","analysis_models":["evil","m"]}]"#), ["evil"]);
        assert_eq!(others(r#","tools":[{"type":"image_generation","model":"image"}]"#), Vec::<String>::new());
        let many = format!(r#","plugins":[{{"id":"x","models":{:?}}}]"#, vec!["a"; 99]);
        assert_eq!(others(&many).len(), 17);
        assert_eq!(run(Operation::Chat, &many).last().unwrap(), "*");
    }
}
