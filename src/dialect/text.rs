//! The human text of requests and answers, for counting tokens that no provider reported.
//!
//! An estimate's input, so it is generous in what it reads: known fields of every endpoint, wherever they are allowed. It
//! takes bodies that are cut off, never fails, and gives at most 16 MiB. Media are left out: their tokens are not a
//! matter of text. Nothing here belongs on the request path.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::dialect::json::Type;
use crate::dialect::openai::cut;
use crate::dialect::operation::Operation;
use crate::dialect::sse;
use crate::dialect::value::Value;

/// The most text that is given; what a longer body holds beyond it is not.
pub const TEXT_LIMIT_BYTES: usize = 16 * 1024 * 1024;
/// Answers of one stream that are told apart; further ones run together.
const ANSWERS_LIMIT: u64 = 128;

/// The text that a model reads of a request: messages with their parts, reasoning and tool calls, prompts, inputs,
/// instructions, and the definitions of tools and formats as they are written. Pieces are separated by line feeds. Empty
/// for bodies that are not JSON.
pub fn request_text(operation: Operation, body: &[u8]) -> String {
    let mut text = Pieces::default();
    let Some(request) = Value::first(body).filter(|value| value.kind() == Type::Object) else { return text.0 };
    for (name, value) in request.members() {
        match &*name.decode() {
            "messages" | "prompt" | "input" | "inputs" | "documents" => text.contents(value),
            "instructions" | "suffix" | "query" | "system" => text.contents(value),
            "tools" | "functions" | "response_format" => text.raw(value),
            "text" if operation == Operation::Responses => text.raw(value),
            _ => {}
        }
    }
    text.0
}

/// How many tokens a request gives as numbers in the place of text: all numbers in `prompt` and `input`, in lists of any depth that
/// a body may have.
///
/// *Source*: arrays of tokens in <https://platform.openai.com/docs/api-reference/embeddings/create> and
/// <https://platform.openai.com/docs/api-reference/completions/create>.
pub fn tokens_given(body: &[u8]) -> u64 {
    let Some(request) = Value::first(body).filter(|value| value.kind() == Type::Object) else { return 0 };
    let lists = request.members().filter(|(name, _)| name.is("prompt") || name.is("input"));
    lists.map(|(_, value)| numbers_in(value)).sum()
}

/// The tokens that OpenAI's models read of a chat beside its words: three for each message and one for its role, one for a name, and
/// three that begin the answer. None of what is no chat.
///
/// *Source*: <https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken>, section 6.
pub fn frame_tokens(operation: Operation, body: &[u8]) -> u64 {
    let request = Value::first(body).filter(|value| operation == Operation::Chat && value.kind() == Type::Object);
    let Some(messages) = request.and_then(|request| request.get("messages")) else { return 0 };
    let frame = |message: Value<'_>| if message.get("name").is_some() { 5 } else { 4 };
    messages.elements().map(frame).sum::<u64>() + 3
}

fn numbers_in(list: Value<'_>) -> u64 {
    let count = |element: Value<'_>| match element.kind() {
        Type::Number => 1,
        Type::Array => numbers_in(element),
        _ => 0,
    };
    list.elements().map(count).sum()
}

/// The text that a model wrote in an answer, or in the beginning of one: contents, reasoning, refusals, calls of tools,
/// transcripts. Of a stream, the deltas of each answer are joined without separators.
pub fn delivered_text(operation: Operation, event_stream: bool, body: &[u8]) -> String {
    let mut text = Pieces::default();
    if event_stream {
        let mut answers: BTreeMap<u64, String> = BTreeMap::new();
        for data in sse::all_data(body) {
            if let Some(event) = Value::first(&data) {
                read_event(event, &mut answers);
            }
        }
        answers.values().for_each(|answer| text.push(answer));
    } else if let Some(answer) = Value::first(body) {
        read_answer(operation, answer, &mut text);
    }
    text.0
}

fn read_answer(operation: Operation, answer: Value<'_>, text: &mut Pieces) {
    for (name, value) in answer.members() {
        match &*name.decode() {
            "choices" => {
                for choice in value.elements() {
                    choice.get("message").into_iter().for_each(|message| text.message(message));
                    choice.get("text").into_iter().for_each(|written| text.contents(written));
                }
            }
            "output" => text.contents(value),
            "text" if operation == Operation::Audio => text.contents(value),
            _ => {}
        }
    }
}

/// Adds the deltas of one event to the answers that they belong to.
fn read_event(event: Value<'_>, answers: &mut BTreeMap<u64, String>) {
    for choice in event.get("choices").into_iter().flat_map(Value::elements) {
        let index = choice.get("index").and_then(Value::u64).unwrap_or(0).min(ANSWERS_LIMIT);
        let answer = answers.entry(index).or_default();
        choice.get("text").into_iter().for_each(|written| append(answer, written));
        let delta = choice.get("delta").or_else(|| choice.get("message"));
        delta.into_iter().for_each(|delta| append_delta(answer, delta));
    }
    // The Responses API names the event; deltas of audio are not text.
    // Source: https://platform.openai.com/docs/api-reference/responses-streaming
    let kind = event.get("type").and_then(Value::string).unwrap_or_default();
    if kind.ends_with(".delta") && !kind.ends_with("audio.delta") {
        let index = event.get("output_index").and_then(Value::u64).unwrap_or(0).min(ANSWERS_LIMIT);
        event.get("delta").into_iter().for_each(|delta| append(answers.entry(index).or_default(), delta));
    }
}

fn append_delta(answer: &mut String, delta: Value<'_>) {
    for (name, value) in delta.members() {
        match &*name.decode() {
            "content" | "reasoning_content" | "reasoning" | "refusal" => append(answer, value),
            "tool_calls" => {
                for call in value.elements() {
                    call.get("function").into_iter().for_each(|function| append_call(answer, function));
                }
            }
            "function_call" => append_call(answer, value),
            "audio" => value.get("transcript").into_iter().for_each(|words| append(answer, words)),
            _ => {}
        }
    }
}

fn append_call(answer: &mut String, function: Value<'_>) {
    ["name", "arguments"].into_iter().filter_map(|key| function.get(key)).for_each(|value| append(answer, value));
}

fn append(answer: &mut String, value: Value<'_>) {
    match value.kind() {
        Type::String => {
            let text = value.string().unwrap_or_default();
            if answer.len() + text.len() <= TEXT_LIMIT_BYTES {
                answer.push_str(&text);
            }
        }
        // Mistral streams content as parts at times, and what it thinks as parts within one
        // (https://docs.mistral.ai/capabilities/reasoning/).
        Type::Array => {
            for part in value.elements() {
                part.get("text").into_iter().for_each(|text| append_text(answer, text));
                let thoughts = part.get("thinking").into_iter().flat_map(Value::elements);
                thoughts.filter_map(|thought| thought.get("text")).for_each(|text| append_text(answer, text));
            }
        }
        _ => {}
    }
}

fn append_text(answer: &mut String, value: Value<'_>) {
    if value.kind() == Type::String {
        append(answer, value);
    }
}

/// Pieces of text, separated by line feeds.
#[derive(Default)]
struct Pieces(String);

impl Pieces {
    fn push(&mut self, piece: &str) {
        // Of what is beyond the limit the beginning counts, or a long text would be none.
        let piece = cut(piece, TEXT_LIMIT_BYTES.saturating_sub(self.0.len() + 1));
        if piece.is_empty() {
            return;
        }
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(piece);
    }

    fn string(&mut self, value: Value<'_>) {
        self.push(&value.string().unwrap_or(Cow::Borrowed("")));
    }

    /// A definition counts as it is written.
    fn raw(&mut self, value: Value<'_>) {
        if !value.is_null() {
            self.push(&String::from_utf8_lossy(value.raw()));
        }
    }

    /// A text, or a list of texts, messages, items or parts.
    fn contents(&mut self, value: Value<'_>) {
        match value.kind() {
            Type::String => self.string(value),
            Type::Array => {
                for element in value.elements() {
                    match element.kind() {
                        Type::String => self.string(element),
                        Type::Object => self.message(element),
                        _ => {}
                    }
                }
            }
            Type::Object => self.message(value),
            _ => {}
        }
    }

    /// A message of a chat, or an item of a response.
    fn message(&mut self, message: Value<'_>) {
        for (name, value) in message.members() {
            match &*name.decode() {
                "content" | "output" | "summary" => self.parts(value),
                "text" | "refusal" | "reasoning_content" | "reasoning" | "name" | "arguments" => self.parts(value),
                "tool_calls" => {
                    for call in value.elements() {
                        call.get("function").into_iter().for_each(|function| self.call(function));
                    }
                }
                "function_call" => self.call(value),
                "audio" => value.get("transcript").into_iter().for_each(|words| self.string(words)),
                _ => {}
            }
        }
    }

    /// A text, or the texts of a list of parts.
    fn parts(&mut self, value: Value<'_>) {
        match value.kind() {
            Type::String => self.string(value),
            Type::Array => {
                for part in value.elements() {
                    let written = ["text", "refusal", "content"].into_iter().filter_map(|key| part.get(key));
                    written.for_each(|written| self.string(written));
                    let thoughts = part.get("thinking").into_iter().flat_map(Value::elements);
                    thoughts.filter_map(|thought| thought.get("text")).for_each(|text| self.string(text));
                    if part.kind() == Type::String {
                        self.string(part);
                    }
                }
            }
            _ => {}
        }
    }

    fn call(&mut self, function: Value<'_>) {
        ["name", "arguments"].into_iter().filter_map(|key| function.get(key)).for_each(|value| self.string(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAT: &str = r#"{"model":"m","messages":[
        {"role":"system","content":"one"},
        {"role":"user","content":[{"type":"text","text":"tw\u006f"},{"type":"image_url","image_url":{"url":"data:AAAA"}}]},
        {"role":"assistant","content":null,"reasoning_content":"three","tool_calls":[{"id":"t","function":{"name":"four","arguments":"{\"five\":5}"}}]},
        {"role":"tool","tool_call_id":"t","content":"six"}],
        "tools":[{"type":"function"}],"user":"nobody"}"#;

    #[test]
    fn a_request_gives_what_the_model_reads() {
        let expected = "one\ntwo\nthree\nfour\n{\"five\":5}\nsix\n[{\"type\":\"function\"}]";
        assert_eq!(request_text(Operation::Chat, CHAT.as_bytes()), expected);
        let text = |operation, body: &str| request_text(operation, body.as_bytes());
        assert_eq!(text(Operation::Embeddings, r#"{"input":["a","b"]}"#), "a\nb");
        assert_eq!(text(Operation::Embeddings, r#"{"input":[1,2]}"#), "");
        assert_eq!(text(Operation::Completions, r#"{"prompt":"a","suffix":"b"}"#), "a\nb");
        assert_eq!(text(Operation::Rerank, r#"{"query":"q","documents":["d",{"text":"e"}]}"#), "q\nd\ne");
        let items = r#"{"instructions":"i","input":[{"role":"user","content":[{"type":"input_text","text":"a"}]},
            {"type":"function_call_output","output":"o"},{"type":"function_call","name":"n","arguments":"{}"}]}"#;
        assert_eq!(text(Operation::Responses, items), "i\na\no\nn\n{}");
        assert_eq!(text(Operation::Audio, "--boundary"), "");
    }

    #[test]
    fn tokens_that_are_given_as_numbers_are_counted_and_a_text_beyond_the_limit_is_not_nothing() {
        for (body, tokens) in [
            (r#"{"input":[1,2,3]}"#, 3),
            (r#"{"input":[[1,2],[3],"a",[[4]]],"n":7,"dimensions":256}"#, 4),
            (r#"{"prompt":[1,2],"input":5}"#, 2),
            (r#"{"input":"1 2 3","messages":[1,2]}"#, 0),
            ("[1,2,3]", 0),
            ("", 0),
        ] {
            assert_eq!(tokens_given(body.as_bytes()), tokens, "{body}");
        }
        let body = format!(r#"{{"input":"{}"}}"#, "é".repeat(TEXT_LIMIT_BYTES));
        let text = request_text(Operation::Embeddings, body.as_bytes());
        assert!((TEXT_LIMIT_BYTES - 4..TEXT_LIMIT_BYTES).contains(&text.len()), "{}", text.len());
    }

    #[test]
    fn a_chat_has_a_frame_around_each_message() {
        let frame = |operation, body: &str| frame_tokens(operation, body.as_bytes());
        assert_eq!(frame(Operation::Responses, r#"{"input":"x"}"#), 0);
        assert_eq!(frame(Operation::Chat, "nothing"), 0);
        assert_eq!(frame(Operation::Chat, r#"{"messages":[]}"#), 3);
        assert_eq!(frame(Operation::Chat, r#"{"messages":[{"role":"user","content":"x"}]}"#), 7);
        assert_eq!(frame(Operation::Chat, r#"{"messages":[{"role":"system","name":"n"},{"role":"user"}]}"#), 12);
        assert_eq!(frame(Operation::Chat, CHAT), 19);
    }

    #[test]
    fn a_body_cut_anywhere_gives_a_beginning() {
        let whole = request_text(Operation::Chat, CHAT.as_bytes());
        for end in 0..CHAT.len() {
            let part = request_text(Operation::Chat, &CHAT.as_bytes()[..end]);
            let common = part.bytes().zip(whole.bytes()).take_while(|(one, other)| one == other).count();
            assert!(part.len() - common <= 3, "half of an escape at most: {part:?}");
        }
    }

    #[test]
    fn an_answer_gives_what_the_model_wrote() {
        let text = |operation, stream, body: &str| delivered_text(operation, stream, body.as_bytes());
        let answer = r#"{"choices":[{"message":{"role":"assistant","content":"a","reasoning":"b","tool_calls":[
            {"function":{"name":"c","arguments":"d"}}]}},{"message":{"content":"e"}}]}"#;
        assert_eq!(text(Operation::Chat, false, answer), "a\nb\nc\nd\ne");
        assert_eq!(text(Operation::Chat, false, &answer[..60]), "a");
        assert_eq!(text(Operation::Completions, false, r#"{"choices":[{"text":"a"}]}"#), "a");
        let response = r#"{"instructions":"x","output":[{"type":"reasoning","summary":[{"text":"s"}]},
            {"type":"message","content":[{"type":"output_text","text":"a"}]}]}"#;
        assert_eq!(text(Operation::Responses, false, response), "s\na");
        let thought = r#"{"choices":[{"message":{"content":[
            {"type":"thinking","thinking":[{"type":"text","text":"t"}]},{"type":"text","text":"a"}]}}]}"#;
        assert_eq!(text(Operation::Chat, false, thought), "t\na");
    }

    #[test]
    fn a_stream_gives_its_deltas_joined() {
        let stream = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hel\"}},{\"index\":1,\"delta\":{\"content\":\"B\"}}]}\n\n\
            : keep-alive\n\n\
            data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"lo\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]}}]}\n\n\
            data: {\"choices\":[{\"index\":0,\"text\":\"!\"}]}\n\n\
            data: [DONE]\n\n\
            data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"cut o";
        assert_eq!(delivered_text(Operation::Chat, true, stream.as_bytes()), "hellof{!cut o\nB");
        let thoughts = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":[{\"type\":\"thinking\",\"thinking\":[{\"type\":\"text\",\"text\":\"Hm\"}]}]}}]}\n\n\
            data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"m\"}}]}\n\n\
            data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning\":\".\"}}]}\n\n";
        assert_eq!(delivered_text(Operation::Chat, true, thoughts.as_bytes()), "Hmm.");
        let stream = "event: x\ndata: {\"type\":\"response.output_text.delta\",\"output_index\":0,\"delta\":\"a\"}\n\n\
            data: {\"type\":\"response.output_audio.delta\",\"delta\":\"AAAA\"}\n\n\
            data: {\"type\":\"response.function_call_arguments.delta\",\"output_index\":1,\"delta\":\"b\"}\n\n\
            data: {\"type\":\"response.completed\",\"response\":{\"output\":[{\"content\":[{\"text\":\"a\"}]}]}}\n\n";
        assert_eq!(delivered_text(Operation::Responses, true, stream.as_bytes()), "a\nb");
    }
}
