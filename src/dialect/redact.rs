//! Takes credentials and addresses out of texts that providers wrote.
//!
//! Three kinds go: the secrets given, whatever they look like; words that look like credentials of the known vendors; and
//! addresses that name one of the hosts given. Ordinary words stay, so that a provider's sentence keeps its sense.

use std::borrow::Cow;

const MARK: &str = "[redacted]";
/// Shorter secrets and hosts would tear ordinary words apart.
const SHORTEST_BYTES: usize = 4;

/// How the credentials of vendors begin; what follows is at least eight characters, one of them not a small letter.
const TOKEN_PREFIXES: &[&str] = &[
    "sk-",
    "sk_",
    "pk-",
    "pk_",
    "rk_",
    "csk-",
    "gsk_",
    "xai-",
    "hf_",
    "r8_",
    "nvapi-",
    "pplx-",
    "fw_",
    "fw-",
    "tgp_",
    "key_",
    "key-",
    "marg_",
    "AIza",
    "ya29.",
    "AKIA",
    "ASIA",
    "ghp_",
    "gho_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "eyJ",
];

/// The text without what must not be seen; borrowed if nothing had to go.
pub(super) fn redact<'a>(text: &'a str, secrets: &[&str], hosts: &[&str]) -> Cow<'a, str> {
    let mut text = Cow::Borrowed(text);
    let mut known: Vec<&str> = secrets.iter().copied().filter(|secret| secret.len() >= SHORTEST_BYTES).collect();
    // A secret may be the beginning of another one.
    known.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    for secret in known {
        if text.contains(secret) {
            text = Cow::Owned(text.replace(secret, MARK));
        }
    }
    for host in hosts {
        let bare = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
        for name in [Some(*host), bare.map(|(name, _)| name)].into_iter().flatten() {
            if let Some(cleaned) = without_host(&text, name) {
                text = Cow::Owned(cleaned);
            }
        }
    }
    if let Some(cleaned) = without_tokens(&text) {
        text = Cow::Owned(cleaned);
    }
    text
}

/// The text without the addresses that name a host; `None` if there is none.
fn without_host(text: &str, host: &str) -> Option<String> {
    if host.len() < SHORTEST_BYTES {
        return None;
    }
    // Lower case in ASCII keeps every byte where it is.
    let (lower, host) = (text.to_ascii_lowercase(), host.to_ascii_lowercase());
    let mut out = String::new();
    let mut done = 0;
    for (at, _) in lower.match_indices(&host) {
        let end = at + host.len();
        let inside = |character: Option<char>| character.is_some_and(char::is_alphanumeric);
        let before = text.get(..at)?.chars().next_back();
        if at < done || inside(before) || inside(text.get(end..)?.chars().next()) {
            continue;
        }
        let start = text.get(done..at)?.rfind(|character| !is_address(character));
        let start = start.map_or(done, |found| done + found + text.get(done + found..).map_or(0, first_length));
        let behind = text.get(end..)?;
        let length = behind.find(|character| !is_address(character)).unwrap_or(behind.len());
        let kept = behind.get(..length)?.trim_end_matches(['.', ',', ':', ';', '!', '?']).len();
        out.push_str(text.get(done..start)?);
        out.push_str(MARK);
        done = end + kept;
    }
    if done == 0 {
        return None;
    }
    out.push_str(text.get(done..)?);
    Some(out)
}

fn first_length(text: &str) -> usize {
    text.chars().next().map_or(0, char::len_utf8)
}

fn is_address(character: char) -> bool {
    character.is_ascii_alphanumeric() || "-._~:/?#@!$&*+,;=%".contains(character)
}

/// The text without words that look like credentials; `None` if there is none.
fn without_tokens(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut done = 0;
    let mut bearer = false;
    for (start, word) in words(text) {
        let word = word.trim_end_matches('.');
        if looks_like_token(word) || (bearer && looks_random(word)) {
            out.push_str(text.get(done..start)?);
            out.push_str(MARK);
            done = start + word.len();
        }
        bearer = word.eq_ignore_ascii_case("bearer") || word.eq_ignore_ascii_case("basic");
    }
    if done == 0 {
        return None;
    }
    out.push_str(text.get(done..)?);
    Some(out)
}

/// The runs of characters that credentials are made of, with their places.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |character: char| character.is_ascii_alphanumeric() || "-_.*".contains(character);
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = text.get(at..)?;
        let start = at + rest.find(is_word)?;
        let rest = text.get(start..)?;
        let length = rest.find(|character| !is_word(character)).unwrap_or(rest.len());
        at = start + length;
        Some((start, rest.get(..length)?))
    })
}

fn looks_like_token(word: &str) -> bool {
    TOKEN_PREFIXES.iter().any(|prefix| {
        word.strip_prefix(prefix).is_some_and(|rest| {
            rest.len() >= 8
                && rest.bytes().any(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase() || byte == b'*')
        })
    })
}

fn looks_random(word: &str) -> bool {
    word.len() >= 16 || (word.len() >= 8 && word.bytes().any(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_and_sentences_stay() {
        for (text, expected) in [
            ("Incorrect API key provided: sk-proj-abc***xyz9.", "Incorrect API key provided: [redacted]."),
            ("key gsk_A1b2C3d4E5f6 and AIzaSyA1234567890 used", "key [redacted] and [redacted] used"),
            ("Authorization: Bearer abcdef0123456789", "Authorization: Bearer [redacted]"),
            ("{\"authorization\":\"bearer hunter2hunter2\"}", "{\"authorization\":\"bearer [redacted]\"}"),
            ("Bearer authentication is required", "Bearer authentication is required"),
            ("the sk-learn model key-value fw_version", "the sk-learn model key-value fw_version"),
            ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIi.sig", "jwt [redacted]"),
            ("secret is OPENSESAME!", "secret is [redacted]!"),
            ("see https://platform.openai.com/account/api-keys", "see https://platform.openai.com/account/api-keys"),
            ("POST https://API.openai.com/v1/chat failed", "POST [redacted] failed"),
            ("cannot connect to api.openai.com:443.", "cannot connect to [redacted]."),
            ("(api.openai.com), api.openai.com", "([redacted]), [redacted]"),
            ("http://10.0.0.7:8000/v1 and 10.0.0.7", "[redacted] and [redacted]"),
            ("xapi.openai.com.example", "xapi.openai.com.example"),
            ("héhé api.openai.com é", "héhé [redacted] é"),
            ("", ""),
        ] {
            let found = redact(text, &["OPENSESAME", "OPEN", "x", ""], &["api.openai.com", "10.0.0.7:8000", "a"]);
            assert_eq!(found, expected);
            assert_eq!(matches!(found, Cow::Borrowed(_)), text == expected);
        }
    }
}
