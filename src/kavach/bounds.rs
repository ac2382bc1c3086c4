//! Bounds of a policy's text that keep every later step from running out of stack.
//!
//! Cedar's parser, validator and printer go down into an expression as deep as it is, without a bound, and a thread that runs
//! out of stack takes the whole process with it. So brackets and words are counted before anything is parsed, what parses is
//! worked on with much room (`with_room`), and what is deeper than a judgement should be is refused
//! (`a_policy_of_any_depth_is_refused_in_words`).

use std::io;

use serde_json::Value;
use tokio::runtime::{Handle, RuntimeFlavor};

/// How deep brackets may be nested.
const MAX_NESTING: usize = 100;
/// The most words, numbers, texts and signs of one policy. Each level of an expression takes two at least.
const MAX_WORDS: usize = 10_000;
/// How deep an expression may be in Cedar's JSON form, which takes two levels for each operator. Judging goes down as deep on the
/// small stacks of the threads that serve.
const MAX_DEPTH: usize = 1_000;
/// Address space, of which only what is used takes memory.
const STACK_BYTES: usize = 256 * 1024 * 1024;

/// Looks for what is nested too deep or too long in a text of policies; where that is, in bytes, and what to do.
pub(super) fn check(text: &str) -> Result<(), (usize, String)> {
    let (mut nesting, mut words) = (0_usize, 0_usize);
    let mut rest = text.char_indices().peekable();
    while let Some((at, letter)) = rest.next() {
        match letter {
            '"' => {
                while let Some((_, inner)) = rest.next() {
                    match inner {
                        '\\' => drop(rest.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '/' if rest.peek().is_some_and(|(_, next)| *next == '/') => {
                while rest.next_if(|(_, next)| *next != '\n').is_some() {}
                continue;
            }
            ';' => words = 0,
            '(' | '[' | '{' => nesting += 1,
            ')' | ']' | '}' => nesting = nesting.saturating_sub(1),
            _ if letter.is_whitespace() => continue,
            _ if is_of_word(letter) => while rest.next_if(|(_, next)| is_of_word(*next)).is_some() {},
            _ => {}
        }
        words += 1;
        if nesting > MAX_NESTING {
            return Err((at, format!("brackets are nested more than {MAX_NESTING} deep; write it flatter")));
        }
        if words > MAX_WORDS {
            return Err((
                at,
                format!("the policy has more than {MAX_WORDS} words and signs; make several policies of it"),
            ));
        }
    }
    Ok(())
}

fn is_of_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Refuses an expression in Cedar's JSON form that is too deep. Call it with room.
pub(super) fn check_depth(expression: &Value) -> Result<(), String> {
    let mut level: Vec<&Value> = vec![expression];
    for _ in 0..MAX_DEPTH {
        level = level.into_iter().flat_map(children).collect();
        if level.is_empty() {
            return Ok(());
        }
    }
    let most = MAX_DEPTH / 2;
    Err(format!(
        "more than {most} conditions hang together; use a set, as in [\"a\", \"b\"].contains(…), or several policies"
    ))
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Object(members) => members.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => Vec::new(),
    }
}

/// Does something on a thread of its own with a large stack, and waits for it; a runtime goes on with its other work meanwhile,
/// as far as it can.
///
/// # Errors
/// When there is no thread to be had.
pub(super) fn with_room<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let on_thread = || {
        std::thread::scope(|scope| {
            let builder = std::thread::Builder::new().name("policies".to_owned()).stack_size(STACK_BYTES);
            let done = builder.spawn_scoped(scope, work)?.join();
            done.or_else(|panic| std::panic::resume_unwind(panic))
        })
    };
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    if flavor.is_ok_and(|flavor| flavor == RuntimeFlavor::MultiThread) {
        return tokio::task::block_in_place(on_thread);
    }
    on_thread()
}

#[cfg(test)]
mod tests {
    use crate::kavach::policy::{PolicySet, formatted};

    #[test]
    fn a_policy_of_any_depth_is_refused_in_words() {
        let forbid =
            |condition: &str| format!("@id(\"x\") forbid(principal, action, resource) when {{ {condition} }};");
        for (condition, words) in [
            (format!("{}true{}", "(".repeat(3_000), ")".repeat(3_000)), "nested more than 100 deep"),
            (format!("{}true{}", "!(".repeat(200_000), ")".repeat(200_000)), "nested more than 100 deep"),
            (format!("{}true{}", "[".repeat(101), "]".repeat(101)), "nested more than 100 deep"),
            (["context.tool_count == 1"; 5_000].join(" || "), "more than 10000 words and signs"),
            (["context.stream"; 1_500].join(" || "), "more than 500 conditions hang together"),
            (["context.stream"; 1_500].join(" && "), "more than 500 conditions hang together"),
            (
                format!("{} true", "if context.stream then true else".repeat(1_000).replace("elseif", "else if")),
                "more than 500",
            ),
            (format!("1 {} > 2", "+ 1".repeat(3_000)), "more than 500 conditions hang together"),
            (format!("context{}", ".stream".repeat(4_000)), "more than 500 conditions hang together"),
        ] {
            let faults = PolicySet::parse("p.cedar", &forbid(&condition)).unwrap_err();
            let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
            assert!(told.iter().any(|fault| fault.contains(words)), "{words}: {told:.300?}");
            if words.contains("nested") || words.contains("signs") {
                assert!(formatted(&forbid(&condition)).unwrap_err().contains(words));
            }
        }
    }

    #[test]
    fn texts_and_comments_are_no_words_and_a_long_list_is_taken() {
        let brackets = "([{".repeat(150);
        let names: Vec<String> = (0..2_000).map(|number| format!("\"model {number} \\\" {{\"")).collect();
        let text = format!(
            "// {brackets}\n@id(\"a\") @reason(\"{brackets}\") forbid(principal, action, resource) when {{ \
             [{}].contains(context.requested_model) }};\n@id(\"b\") permit(principal, action, resource) when {{ {} }};",
            names.join(", "),
            ["context.stream"; 300].join(" || "),
        );
        assert_eq!(PolicySet::parse("p.cedar", &text).unwrap().rules().len(), 2);
        assert!(formatted(&text).is_ok());
    }
}
