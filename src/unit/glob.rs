//! Patterns with `*` (any run of characters) and `?` (one character), anchored at both ends, case-sensitive.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A pattern of at most [`Glob::MAX_CHARS`] characters. Matching takes time linear in the text for each `*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Glob(String);

impl Glob {
    /// The longest pattern that is accepted.
    pub const MAX_CHARS: usize = 256;

    /// Checks and takes a pattern.
    ///
    /// # Errors
    /// A sentence, when the pattern is empty, too long or holds control characters.
    pub fn new(pattern: &str) -> Result<Self, String> {
        if pattern.is_empty() {
            return Err("a pattern may not be empty; write * to match everything".to_owned());
        }
        if pattern.chars().count() > Self::MAX_CHARS {
            return Err(format!("a pattern has at most {} characters", Self::MAX_CHARS));
        }
        if pattern.chars().any(char::is_control) {
            return Err("a pattern may not hold control characters".to_owned());
        }
        Ok(Self(pattern.to_owned()))
    }

    /// Whether the whole text matches. Allocates nothing.
    pub fn matches(&self, text: &str) -> bool {
        let (mut pattern, mut rest) = (self.0.as_str(), text);
        // Where to go back to: the pattern behind the last star, and the text behind what that star has swallowed.
        let mut star: Option<(&str, &str)> = None;
        loop {
            let mut symbols = pattern.chars();
            match (symbols.next(), rest.chars().next()) {
                (Some('*'), _) => {
                    pattern = symbols.as_str();
                    star = Some((pattern, rest));
                }
                (Some(symbol), Some(letter)) if symbol == '?' || symbol == letter => {
                    pattern = symbols.as_str();
                    rest = behind(rest);
                }
                (None, None) => return true,
                (_, letter) => {
                    // The last star swallows one letter more; if none are left, nothing can match.
                    let Some((behind_star, from)) = star.filter(|(_, from)| letter.is_some() && !from.is_empty())
                    else {
                        return false;
                    };
                    pattern = behind_star;
                    rest = behind(from);
                    star = Some((behind_star, rest));
                }
            }
        }
    }

    /// Whether this pattern certainly matches everything that the other one matches. `false` if that cannot be seen by
    /// laying one over the other, as with `*a*` over `?*a`.
    pub fn covers(&self, other: &Glob) -> bool {
        let this: Vec<char> = self.0.chars().collect();
        // What the other pattern writes is text here: its star can be swallowed by a star only, its `?` by both wildcards.
        let fits = |mine: char, theirs: char| mine == theirs || (mine == '?' && theirs != '*');
        let other: Vec<char> = other.0.chars().collect();
        let (mut p, mut t) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while let Some(theirs) = other.get(t) {
            match this.get(p) {
                Some('*') => {
                    star = Some((p, t));
                    p += 1;
                }
                Some(mine) if fits(*mine, *theirs) => {
                    p += 1;
                    t += 1;
                }
                _ => {
                    let Some((star_p, star_t)) = star else { return false };
                    star = Some((star_p, star_t + 1));
                    p = star_p + 1;
                    t = star_t + 1;
                }
            }
        }
        this.iter().skip(p).all(|symbol| *symbol == '*')
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern has no wildcard, so that it matches exactly one text.
    pub fn is_literal(&self) -> bool {
        !self.0.contains(['*', '?'])
    }
}

/// The text behind its first character.
fn behind(text: &str) -> &str {
    let mut letters = text.chars();
    letters.next();
    letters.as_str()
}

impl fmt::Display for Glob {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Serialize for Glob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Glob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_anchored_and_stars_backtrack() {
        let matches = |pattern: &str, text: &str| Glob::new(pattern).unwrap().matches(text);
        assert!(!matches("gpt-4", "gpt-4o"));
        assert!(matches("gpt-*", "gpt-4o"));
        assert!(matches("*mini*", "gpt-4o-mini-2024"));
        assert!(matches("a*b*c", "aXbYbZc"));
        assert!(!matches("a*b*c", "aXbYbZ"));
        assert!(matches("?pt", "gpt"));
        assert!(matches("*", ""));
        assert!(!matches("a*", ""));
        assert!(!matches("?", ""));
        assert!(matches("*ü?", "grün"));
        assert!(!matches("a**b", "ac"));
    }

    #[test]
    fn a_pattern_covers_only_what_it_matches_whole() {
        let covers = |mine: &str, theirs: &str| Glob::new(mine).unwrap().covers(&Glob::new(theirs).unwrap());
        for (mine, theirs) in [("gpt-4", "gpt-*"), ("?", "*"), ("gpt-?", "gpt-*"), ("a*b", "a*"), ("gpt-4", "gpt-?")] {
            assert!(!covers(mine, theirs), "{mine} {theirs}");
        }
        for (mine, theirs) in
            [("*", "*"), ("*", "gpt-4"), ("gpt-*", "gpt-4*"), ("gpt-*", "gpt-?"), ("a*", "a*b*"), ("?*", "??")]
        {
            assert!(covers(mine, theirs), "{mine} {theirs}");
        }
    }
}
