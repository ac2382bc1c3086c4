//! Counting the tokens of a text, for answers whose provider reported no usage.
//!
//! An estimate: every model is counted with one of two encodings of OpenAI, which is exact for its own models and within some
//! ten percent for others on ordinary text. Encodings are loaded on first use and stay; counting is CPU work for a background
//! task, not for the request path. At most 1 MiB of a text is counted, the rest is inferred from it.

use tiktoken_rs::CoreBPE;

/// As much of a text is counted; beyond it the count grows in proportion.
const COUNTED_LIMIT_BYTES: usize = 1024 * 1024;

/// The number of tokens that a text has for a model; an empty text has none.
///
/// Encodings: `cl100k_base` for GPT-4, GPT-3.5 and the text embeddings, `o200k_base` for GPT-4o and everything later or
/// unknown (source: the model table of OpenAI's `tiktoken`, `tiktoken/model.py`). A provider prefix in the name is ignored.
///
/// Cost: the first call loads its encoding, some tens of milliseconds and megabytes, and keeps it.
pub fn count(model: &str, text: &str) -> u64 {
    if text.is_empty() {
        return 0;
    }
    let counted = text.get(..text.floor_char_boundary(COUNTED_LIMIT_BYTES)).unwrap_or(text);
    let tokens = encoding(model).count_ordinary(counted) as u64;
    if counted.len() == text.len() {
        return tokens;
    }
    let scaled = u128::from(tokens) * text.len() as u128 / counted.len() as u128;
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// Whether a model's own words are known, so that counts are exact: OpenAI's models, by their names.
pub fn is_known(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    let prefixes = ["gpt-", "chatgpt-", "o1", "o3", "o4", "text-embedding-", "computer-use", "codex"];
    prefixes.iter().any(|prefix| name.starts_with(prefix)) && !name.starts_with("gpt-oss")
}

fn encoding(model: &str) -> &'static CoreBPE {
    if is_of_the_age_of_gpt_4(model) {
        tiktoken_rs::cl100k_base_singleton()
    } else {
        tiktoken_rs::o200k_base_singleton()
    }
}

fn is_of_the_age_of_gpt_4(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    name == "gpt-4" || ["gpt-4-", "gpt-3.5", "gpt-35", "text-embedding-"].iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_goes_by_the_model() {
        for old in ["gpt-4", "gpt-4-turbo", "openai/gpt-3.5-turbo", "gpt-35-turbo", "text-embedding-3-small"] {
            assert!(is_of_the_age_of_gpt_4(old), "{old}");
        }
        for new in ["gpt-4o", "gpt-4.1", "openai/gpt-5", "claude-sonnet-4-5", "sim-small", ""] {
            assert!(!is_of_the_age_of_gpt_4(new), "{new}");
        }
    }

    #[test]
    fn known_texts_have_their_known_counts() {
        assert_eq!(count("gpt-4o", ""), 0);
        assert_eq!(count("gpt-4o", "hello world"), 2);
        // The example of OpenAI's cookbook on counting tokens.
        assert_eq!(count("gpt-4o", "antidisestablishmentarianism"), 6);
        assert_eq!(count("gpt-4o", "お誕生日おめでとう"), 8);
    }

    #[test]
    fn a_text_beyond_the_bound_is_scaled() {
        let part = "word ".repeat(COUNTED_LIMIT_BYTES / 5);
        let (one, two) = (count("gpt-4o", &part), count("gpt-4o", &part.repeat(2)));
        assert!(two.abs_diff(2 * one) <= 2, "{one} {two}");
    }

    #[test]
    fn a_bound_inside_a_character_is_no_trouble() {
        let text = format!("{}€uro", "a".repeat(COUNTED_LIMIT_BYTES - 1));
        assert!(count("gpt-4o", &text) > 0);
    }
}
