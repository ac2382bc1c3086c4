//! What was probably meant: the nearest name by edit distance, and the names that other gateways use.

/// Names that users bring along, and what they are called here.
const ELSEWHERE: &[(&str, &str)] = &[
    ("api_key", "credentials"),
    ("api_keys", "credentials"),
    ("key", "credentials"),
    ("keys", "credentials"),
    ("token", "credentials"),
    ("api_base", "base_url"),
    ("endpoint", "base_url"),
    ("url", "base_url"),
    ("type", "preset"),
    ("kind", "preset"),
    ("provider", "preset"),
    ("address", "listen"),
    ("bind", "listen"),
    ("host", "listen"),
    ("port", "listen"),
    ("target", "to"),
    ("targets", "split"),
    ("fallbacks", "fallback"),
    ("model", "match"),
    ("when", "match"),
    ("cert", "certificate"),
    ("retention", "retention_days"),
];

/// The longest text that is repeated, in characters.
const MAX_SHOWN: usize = 64;

/// The sentence for a key that nobody reads.
pub(super) fn unknown_key(key: &str, names: &[&'static str]) -> String {
    if key == "<<" {
        return "merge keys are not understood; write the keys out".to_owned();
    }
    match meant(key, names) {
        Some(name) => format!("unknown key {:?}; did you mean `{name}`?", shorten(key)),
        None => format!("unknown key {:?}; known here: {}", shorten(key), names.join(", ")),
    }
}

/// The known key that an unknown one probably stands for.
pub(super) fn meant(key: &str, names: &[&'static str]) -> Option<&'static str> {
    let elsewhere = ELSEWHERE.iter().find(|(theirs, ours)| *theirs == key && names.contains(ours));
    elsewhere.map(|(_, ours)| *ours).or_else(|| nearest(key, names))
}

/// The sentence for a word that is not in a closed list.
pub(super) fn unknown_word(word: &str, words: &[&'static str]) -> String {
    let allowed = words.join(", ");
    match nearest(word, words) {
        Some(near) => format!("{:?} is not known; did you mean {near}? Allowed: {allowed}", shorten(word)),
        None => format!("{:?} is not known. Allowed: {allowed}", shorten(word)),
    }
}

/// The nearest of some names, if it is near enough to be a slip: one edit in three characters, and at most three. Case
/// makes no difference.
pub(super) fn nearest<'a>(word: &str, names: &[&'a str]) -> Option<&'a str> {
    let length = word.chars().count();
    if length > MAX_SHOWN {
        return None;
    }
    let most = (length / 3).min(3);
    names
        .iter()
        .map(|name| (distance(&word.to_lowercase(), &name.to_lowercase()), *name))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= most)
        .map(|(_, name)| name)
}

/// A text cut to a length that can be shown.
pub(super) fn shorten(text: &str) -> String {
    shorten_to(text, MAX_SHOWN)
}

/// A text cut to so many characters.
pub(super) fn shorten_to(text: &str, most: usize) -> String {
    let mut shown: String = text.chars().take(most).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// The least number of insertions, deletions, replacements and swaps of neighbours that lead from one text to the other
/// (optimal string alignment). Cost: the product of the lengths.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    let mut last: Option<char> = None;
    for (row, symbol) in from.chars().enumerate() {
        let mut line = vec![row + 1];
        for (column, other) in to.iter().enumerate() {
            let cell = |cells: &[usize], index: usize| cells.get(index).copied().unwrap_or(usize::MAX - 1);
            let replaced = cell(&above, column) + usize::from(symbol != *other);
            let mut least = replaced.min(cell(&above, column + 1) + 1).min(cell(&line, column) + 1);
            let swapped = column > 0 && last == Some(*other) && to.get(column - 1) == Some(&symbol);
            if swapped {
                least = least.min(cell(&before, column - 1) + 1);
            }
            line.push(least);
        }
        before = std::mem::replace(&mut above, line);
        last = Some(symbol);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_words_are_not_suggested() {
        assert_eq!(nearest("x", &["listen", "enabled"]), None);
        assert_eq!(nearest(&"l".repeat(100), &["listen"]), None);
        assert_eq!(nearest("", &["to"]), None);
    }

    #[test]
    fn slips_are_seen_through() {
        assert_eq!(nearest("lisetn", &["listen", "enabled"]), Some("listen"));
        assert_eq!(nearest("INFO", &["info", "warn"]), Some("info"));
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("ab", "ba"), 1);
    }

    #[test]
    fn names_of_other_gateways_lead_to_ours() {
        assert!(unknown_key("api_key", &["preset", "credentials"]).contains("`credentials`"));
        assert!(unknown_key("api_key", &["listen"]).contains("known here: listen"));
    }
}
