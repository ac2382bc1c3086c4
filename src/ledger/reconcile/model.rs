//! One name for a model that vendors and callers write in different ways.

/// Words that say who sells a model, where, or in which edition, not which one it is.
const SILENT: [&str; 14] = [
    "anthropic",
    "amazon",
    "google",
    "meta",
    "mistral",
    "us",
    "eu",
    "apac",
    "global",
    "latest",
    "models",
    "preview",
    "instruct",
    "openai",
];

/// The parts of a name that tell models apart, sorted: `anthropic.claude-sonnet-4-5-20250929-v1:0`, `Claude4.5Sonnet` and
/// `claude-sonnet-4-5` are all `4 5 claude sonnet`. Dates, versions of an endpoint and zeros are left out, so dated editions of a
/// model are one.
pub(super) fn key(name: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut last = ' ';
    for symbol in name.to_lowercase().chars() {
        let class = |symbol: char| (symbol.is_alphabetic(), symbol.is_numeric());
        if !symbol.is_alphanumeric() {
            last = ' ';
            continue;
        }
        match words.last_mut() {
            Some(word) if last != ' ' && class(last) == class(symbol) => word.push(symbol),
            _ => words.push(symbol.to_string()),
        }
        last = symbol;
    }
    drop_dates(&mut words);
    drop_endpoint_version(&mut words);
    words.retain(|word| !SILENT.contains(&word.as_str()) && word.trim_start_matches('0') != "");
    words.sort_unstable();
    words.join(" ")
}

/// `20250929`, and `2024 08 06`.
fn drop_dates(words: &mut Vec<String>) {
    let is_year = |word: &String| word.len() == 4 && (word.starts_with("20") || word.starts_with("19"));
    let is_part = |word: Option<&String>| word.is_some_and(|word| word.len() == 2 && word.parse::<u8>().is_ok());
    let mut at = 0;
    while let Some(word) = words.get(at) {
        if word.len() == 8 && word.starts_with("20") && word.parse::<u64>().is_ok() {
            words.remove(at);
        } else if is_year(word) && is_part(words.get(at + 1)) && is_part(words.get(at + 2)) {
            words.drain(at..at + 3);
        } else {
            at += 1;
        }
    }
}

/// The `v1:0` at the end of a name at Bedrock.
fn drop_endpoint_version(words: &mut Vec<String>) {
    let from = words.len().saturating_sub(3);
    if let Some(at) = words.get(from..).and_then(|tail| tail.iter().position(|word| word == "v")) {
        words.truncate(from + at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_model_has_one_key_however_it_is_written() {
        for (names, expected) in [
            (
                &["anthropic.claude-sonnet-4-5-20250929-v1:0", "Claude4.5Sonnet", "claude-sonnet-4-5"][..],
                "4 5 claude sonnet",
            ),
            (&["us.amazon.nova-2-lite-v1:0", "Nova2.0Lite"], "2 lite nova"),
            (&["gpt-4o-2024-08-06", "gpt-4o", "openai/gpt-4o"], "4 gpt o"),
            (&["Gemini 2.5 Pro", "models/gemini-2.5-pro"], "2 5 gemini pro"),
        ] {
            for name in names {
                assert_eq!(key(name), expected, "{name}");
            }
        }
        assert_ne!(key("gpt-4o"), key("gpt-4o-mini"));
        assert_ne!(key("claude-opus-4"), key("claude-opus-4-1"));
        assert_eq!(key(""), "");
    }
}
