//! Words: how the simulated provider splits, counts and quotes text, and how it makes ids.

use crate::unit::id;

/// The most characters of one token.
const TOKEN_CHARACTERS: usize = 8;

/// The most characters of a user's message that an answer quotes.
const QUOTE_CHARACTERS: usize = 400;

/// Splits a text into what counts as its tokens: words with the white space before them, long words in pieces of eight
/// characters. Together the pieces are the text.
pub(super) fn tokens(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut characters = 0;
    let mut in_word = false;
    for (index, character) in text.char_indices() {
        let ends = in_word && (character.is_whitespace() || characters >= TOKEN_CHARACTERS);
        if ends {
            pieces.extend(text.get(start..index));
            (start, characters, in_word) = (index, 0, false);
        }
        if !character.is_whitespace() {
            in_word = true;
            characters += 1;
        }
    }
    pieces.extend(text.get(start..).filter(|rest| !rest.is_empty()));
    pieces
}

/// How many tokens a text has; like `tokens(text).len()`, without keeping them.
pub(super) fn count(text: &str) -> u64 {
    let in_word = |word: &str| word.chars().count().div_ceil(TOKEN_CHARACTERS) as u64;
    let words: u64 = text.split_whitespace().map(in_word).sum();
    // White space after the last word is a piece of its own.
    words + u64::from(text.chars().next_back().is_some_and(char::is_whitespace))
}

/// The beginning of a text, at most 4,096 bytes: as much of it decides what is answered.
pub(super) fn head(text: &str) -> &str {
    text.get(..text.floor_char_boundary(4_096)).unwrap_or(text)
}

/// The beginning of a text, on one line, in at most 400 characters.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::new();
    let mut characters = 0;
    for word in text.split_whitespace() {
        if !quoted.is_empty() {
            quoted.push(' ');
            characters += 1;
        }
        for character in word.chars() {
            if characters == QUOTE_CHARACTERS {
                quoted.push('…');
                return quoted;
            }
            quoted.push(character);
            characters += 1;
        }
    }
    quoted
}

/// A new id such as `chatcmpl-01jd…`: what stands before is OpenAI's, what follows is unique.
pub(super) fn unique(prefix: &str) -> String {
    let minted = id::mint("id");
    format!("{prefix}{}", minted.trim_start_matches("id_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_together_are_the_text_and_are_counted_right() {
        for text in [
            "",
            " ",
            "one",
            "one two",
            "  one\n two ",
            "incomprehensibilities of it",
            "お誕生日おめでとうございます",
            "a b ",
        ] {
            assert_eq!(tokens(text).concat(), text);
            assert_eq!(tokens(text).len() as u64, count(text), "{text:?} {:?}", tokens(text));
        }
        assert_eq!(tokens("one two"), ["one", " two"]);
        assert_eq!(tokens("incomprehensibilities"), ["incompre", "hensibil", "ities"]);
    }

    #[test]
    fn a_quote_is_bounded_and_has_one_line() {
        assert_eq!(quote(" a\n\n b "), "a b");
        assert_eq!(quote(&"é".repeat(10_000)).chars().count(), QUOTE_CHARACTERS + 1);
    }
}
