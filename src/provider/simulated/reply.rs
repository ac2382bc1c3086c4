//! What the simulated provider says: made up from the question alone, the same for the same question.

use serde_json::{Value, json};

use crate::provider::simulated::{schema, words};

/// A prompt of so many tokens is partly reported as read from a cache, in steps of 128 (as OpenAI's are).
const CACHED_FROM_TOKENS: u64 = 1_024;

/// A question, whichever endpoint it came by.
#[derive(Default)]
pub(super) struct Question<'a> {
    /// The model's name.
    pub(super) model: &'a str,
    /// What the user said last.
    pub(super) user_text: String,
    /// What a tool answered, if that is the last message.
    pub(super) tool_result: Option<String>,
    /// The tokens of all that was sent.
    pub(super) prompt_tokens: u64,
    /// The tools on offer.
    pub(super) tools: Vec<Tool<'a>>,
    /// Which tool may or must be called.
    pub(super) choice: Choice<'a>,
    /// The form of a text.
    pub(super) format: Format<'a>,
    /// The most tokens of the answer, reasoning included.
    pub(super) max_tokens: Option<u64>,
    /// The texts at which it stops.
    pub(super) stops: Vec<&'a str>,
}

/// A tool on offer.
pub(super) struct Tool<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// The schema of its arguments; `None` for a tool that takes free text.
    pub(super) parameters: Option<&'a Value>,
}

/// Which tool may or must be called.
#[derive(Default, Clone, Copy, PartialEq)]
pub(super) enum Choice<'a> {
    /// The question decides.
    #[default]
    Auto,
    /// None may.
    None,
    /// One must.
    Required,
    /// This one must.
    Named(&'a str),
}

/// The form of a text.
#[derive(Default, Clone, Copy)]
pub(super) enum Format<'a> {
    /// Prose.
    #[default]
    Text,
    /// Any JSON object.
    Json,
    /// JSON that satisfies this schema.
    Schema(&'a Value),
}

/// An answer.
#[derive(Debug, PartialEq)]
pub(super) struct Reply {
    /// What is said.
    pub(super) say: Say,
    /// Tokens of reasoning that came before.
    pub(super) reasoning_tokens: u64,
    /// Whether it was cut at the most tokens.
    pub(super) truncated: bool,
}

/// What is said.
#[derive(Debug, PartialEq)]
pub(super) enum Say {
    /// A text.
    Text(String),
    /// A call of a tool.
    Call {
        /// The tool.
        name: String,
        /// Its arguments, as JSON text; for a tool that takes free text, the text.
        arguments: String,
        /// Whether it takes free text.
        custom: bool,
    },
}

impl Say {
    /// The tokens of it.
    pub(super) fn tokens(&self) -> u64 {
        match self {
            Self::Text(text) => words::count(text),
            Self::Call { name, arguments, .. } => words::count(name) + words::count(arguments),
        }
    }
}

/// The answer to a question; `variant` counts from 0 the answers to one question.
pub(super) fn compose(question: &Question<'_>, variant: u64) -> Reply {
    let thoughts = if question.model == "sim-reasoner" { 32 + question.prompt_tokens % 64 } else { 0 };
    let reasoning_tokens = thoughts.min(question.max_tokens.unwrap_or(u64::MAX));
    if let Some(say) = call(question) {
        return Reply { say, reasoning_tokens, truncated: false };
    }
    let mut text = text(question, variant);
    if let Some(end) = question.stops.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop)).min() {
        text.truncate(end);
    }
    let room = question.max_tokens.map_or(u64::MAX, |most| most - reasoning_tokens);
    let truncated = words::count(&text) > room;
    if truncated {
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        text = words::tokens(&text).into_iter().take(room).collect();
    }
    Reply { say: Say::Text(text), reasoning_tokens, truncated }
}

fn text(question: &Question<'_>, variant: u64) -> String {
    match question.format {
        Format::Schema(schema) => return schema::example(schema, words::head(&question.user_text)).to_string(),
        Format::Json => {
            let said = words::quote(&question.user_text);
            return json!({"provider": "Marg's simulated provider", "you_said": said}).to_string();
        }
        Format::Text => {}
    }
    let mut text = match &question.tool_result {
        Some(result) => format!("The tool answered: “{}”.", words::quote(result)),
        None if question.user_text.trim().is_empty() => "You said nothing.".to_owned(),
        None => format!("You said: “{}”.", words::quote(&question.user_text)),
    };
    text.push_str(&format!(
        " I am {}, a model of Marg's simulated provider: I echo what you send, so that you can try the gateway without a key \
         of any vendor. Add a real provider to the configuration to get real answers.",
        words::quote(question.model)
    ));
    if variant > 0 {
        text.push_str(&format!(" (This is answer {}.)", variant + 1));
    }
    text
}

/// The call of a tool, if the question asks for one. After a tool has answered it is told in words what it said, so that a
/// loop of calls ends.
fn call(question: &Question<'_>) -> Option<Say> {
    if question.tool_result.is_some() {
        return None;
    }
    let tool = match question.choice {
        Choice::None => None,
        Choice::Named(name) => question.tools.iter().find(|tool| tool.name == name),
        Choice::Required => question
            .tools
            .iter()
            .find(|tool| is_meant(tool, words::head(&question.user_text)))
            .or(question.tools.first()),
        Choice::Auto => question.tools.iter().find(|tool| is_meant(tool, words::head(&question.user_text))),
    }?;
    let arguments = match tool.parameters {
        Some(schema) => schema::example(schema, words::head(&question.user_text)).to_string(),
        None => words::quote(&question.user_text),
    };
    Some(Say::Call { name: tool.name.to_owned(), arguments, custom: tool.parameters.is_none() })
}

/// Whether a text seems to call for a tool: it holds a word of its name, or speaks of tools.
fn is_meant(tool: &Tool<'_>, text: &str) -> bool {
    let text = text.to_lowercase();
    let name = tool.name.to_lowercase();
    let mut words = text.split(|character: char| !character.is_alphanumeric());
    words.any(|word| match word.len() {
        0..=2 => false,
        3 => {
            !["get", "set", "use", "run", "the", "and"].contains(&word)
                && name.split(['_', '-', '.']).any(|part| part == word)
        }
        _ => ["tool", "tools"].contains(&word) || name.contains(word),
    })
}

/// What an answer consumed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tokens {
    /// Of the prompt, the cached ones included.
    pub(super) prompt: u64,
    /// Of the answer, reasoning included.
    pub(super) completion: u64,
    /// Of the reasoning.
    pub(super) reasoning: u64,
}

impl Tokens {
    /// The sum over the answers to one question.
    pub(super) fn of(question: &Question<'_>, replies: &[Reply]) -> Self {
        let reasoning = replies.iter().map(|reply| reply.reasoning_tokens).sum();
        let said: u64 = replies.iter().map(|reply| reply.say.tokens()).sum();
        Self { prompt: question.prompt_tokens, completion: said + reasoning, reasoning }
    }

    /// How many of the prompt's tokens are said to come from a cache: of a long prompt up to a half.
    pub(super) fn cached(&self) -> u64 {
        if self.prompt < CACHED_FROM_TOKENS { 0 } else { self.prompt / 2 / 128 * 128 }
    }

    /// As chat and text completions report it.
    pub(super) fn of_completion(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached(), "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": self.reasoning,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        })
    }

    /// As the Responses API reports it.
    pub(super) fn of_response(&self) -> Value {
        json!({
            "input_tokens": self.prompt,
            "input_tokens_details": {"cached_tokens": self.cached()},
            "output_tokens": self.completion,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": self.prompt + self.completion,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_called_only_where_it_is_meant() {
        let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
        let question = |text: &str, choice| Question {
            user_text: text.to_owned(),
            tools: vec![Tool { name: "get_weather", parameters: Some(&parameters) }],
            choice,
            ..Question::default()
        };
        let calls = |text: &str, choice| matches!(compose(&question(text, choice), 0).say, Say::Call { .. });
        assert!(!calls("Tell me a joke", Choice::Auto));
        assert!(!calls("The weather in Paris?", Choice::None));
        assert!(!calls("The weather in Paris?", Choice::Named("other")));
        assert!(calls("The weather in Paris?", Choice::Auto));
        assert!(calls("Tell me a joke", Choice::Required));
        assert!(calls("Tell me a joke", Choice::Named("get_weather")));
        let mut after = question("The weather in Paris?", Choice::Required);
        after.tool_result = Some("22 degrees".to_owned());
        assert!(matches!(compose(&after, 0).say, Say::Text(text) if text.contains("22 degrees")));
    }

    #[test]
    fn an_answer_keeps_within_its_tokens() {
        for max_tokens in [0, 1, 5, 40, 1_000] {
            let question = |model| Question {
                model,
                user_text: "Hello there, how are you?".to_owned(),
                max_tokens: Some(max_tokens),
                ..Question::default()
            };
            for model in ["sim-small", "sim-reasoner"] {
                let question = question(model);
                let reply = compose(&question, 0);
                let tokens = Tokens::of(&question, &[reply]);
                assert!(tokens.completion <= max_tokens, "{model} {max_tokens} {tokens:?}");
            }
            assert_eq!(compose(&question("sim-small"), 0).truncated, max_tokens < 1_000);
        }
    }

    #[test]
    fn a_stop_is_not_part_of_the_answer() {
        let question =
            Question { user_text: "one two three".to_owned(), stops: vec!["", "three", "two"], ..Question::default() };
        assert_eq!(compose(&question, 0).say, Say::Text("You said: “one ".to_owned()));
    }

    #[test]
    fn a_long_prompt_is_partly_cached() {
        let cached = |prompt| Tokens { prompt, ..Tokens::default() }.cached();
        assert_eq!((cached(1_023), cached(1_024), cached(3_000)), (0, 512, 1_408));
    }
}
