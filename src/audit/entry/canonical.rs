//! Whether bytes are JSON in the one spelling that RFC 8785 has for a value.
//!
//! Another spelling hashes like any bytes, but two readers may read two things from it: of members that come twice one takes the
//! first and one the last, and large numbers lose digits. So an entry that is written otherwise proves nothing
//! (`an_entry_in_another_spelling_is_no_proof`). About 1 µs for an entry.

use std::borrow::Cow;

/// The deepest nesting that is read.
const DEPTH_LIMIT: usize = 128;

/// Up to here whole numbers are written with all their digits (RFC 8785 section 3.2.2.3).
const LARGEST: u64 = 1 << 53;

/// Checks the spelling.
///
/// # Errors
/// What is spelled otherwise, and at which byte.
pub fn check(bytes: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("byte {} is not UTF-8", error.valid_up_to()))?;
    let mut reader = Reader { rest: text };
    let done = reader.value(0);
    let done = done.and(if reader.rest.is_empty() { Ok(()) } else { Err("something follows it") });
    done.map_err(|what| format!("{what} at byte {}", text.len() - reader.rest.len()))
}

type Spelled<T> = Result<T, &'static str>;

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn eats(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn needs(&mut self, text: &str, otherwise: &'static str) -> Spelled<()> {
        if self.eats(text) { Ok(()) } else { Err(otherwise) }
    }

    fn value(&mut self, depth: usize) -> Spelled<()> {
        if depth > DEPTH_LIMIT {
            return Err("it is nested too deeply");
        }
        match self.rest.as_bytes().first() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(drop),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ if self.eats("true") || self.eats("false") || self.eats("null") => Ok(()),
            _ => Err("no value stands where one must"),
        }
    }

    fn array(&mut self, depth: usize) -> Spelled<()> {
        self.needs("[", "")?;
        if self.eats("]") {
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            if self.eats("]") {
                return Ok(());
            }
            self.needs(",", "neither `,` nor `]` stands")?;
        }
    }

    fn object(&mut self, depth: usize) -> Spelled<()> {
        self.needs("{", "")?;
        if self.eats("}") {
            return Ok(());
        }
        let mut before: Option<Cow<'a, str>> = None;
        loop {
            let name = self.string()?;
            // Sorted by UTF-16 (RFC 8785 section 3.2.3), each once.
            if before.is_some_and(|before| !before.encode_utf16().lt(name.encode_utf16())) {
                return Err("a member comes twice or is not in its place");
            }
            before = Some(name);
            self.needs(":", "no `:` stands")?;
            self.value(depth + 1)?;
            if self.eats("}") {
                return Ok(());
            }
            self.needs(",", "neither `,` nor `}` stands")?;
        }
    }

    fn string(&mut self) -> Spelled<Cow<'a, str>> {
        self.needs("\"", "no text stands where one must")?;
        let mut text = Cow::Borrowed("");
        loop {
            let special = |byte: &u8| matches!(byte, b'"' | b'\\') || *byte < b' ';
            let stop = self.rest.as_bytes().iter().position(special).ok_or("a text has no end")?;
            let (plain, rest) = self.rest.split_at(stop);
            self.rest = rest;
            if text.is_empty() {
                text = Cow::Borrowed(plain)
            } else {
                text.to_mut().push_str(plain)
            }
            if self.eats("\"") {
                return Ok(text);
            }
            text.to_mut().push(self.escape()?);
        }
    }

    /// The short forms, and the long one for control characters that have no short one (section 3.2.2.2).
    fn escape(&mut self) -> Spelled<char> {
        const SHORT: [(&str, char); 7] = [
            ("\\\"", '"'),
            ("\\\\", '\\'),
            ("\\b", '\u{8}'),
            ("\\f", '\u{c}'),
            ("\\n", '\n'),
            ("\\r", '\r'),
            ("\\t", '\t'),
        ];
        if let Some((_, character)) = SHORT.into_iter().find(|(escaped, _)| self.eats(escaped)) {
            return Ok(character);
        }
        let digits = self.rest.strip_prefix("\\u00").and_then(|rest| rest.get(..2));
        let lower = digits.filter(|digits| digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        let character = lower.and_then(|digits| u8::from_str_radix(digits, 16).ok()).map(char::from);
        let character = character.filter(|one| *one < ' ' && !SHORT.iter().any(|(_, short)| short == one));
        let character = character.ok_or("a character is escaped that need not be, or not as it must be")?;
        self.rest = self.rest.get(6..).unwrap_or_default();
        Ok(character)
    }

    fn number(&mut self) -> Spelled<()> {
        let end = self.rest.find(|one: char| !matches!(one, '0'..='9' | '+' | '-' | '.' | 'e' | 'E'));
        let (number, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        let digits = number.strip_prefix('-').unwrap_or(number);
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
        let small = plain && digits.parse::<u64>().is_ok_and(|number| number <= LARGEST);
        if !small && number != "0" {
            let value: f64 = number.parse().map_err(|_| "a number is none")?;
            let right = serde_json_canonicalizer::to_string(&value).map_err(|_| "a number is none")?;
            if right != number {
                return Err("a number is written otherwise than RFC 8785 asks");
            }
        }
        self.rest = rest;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_the_general_writer_writes_is_canonical_and_nothing_else_of_the_same_value_is(value in any_json()) {
            let canonical = serde_json_canonicalizer::to_vec(&value).unwrap();
            prop_assert_eq!(check(&canonical), Ok(()));
            for other in [serde_json::to_vec(&value).unwrap(), serde_json::to_vec_pretty(&value).unwrap()] {
                prop_assert_eq!(check(&other).is_ok(), other == canonical, "{}", String::from_utf8_lossy(&other));
            }
        }
    }

    #[test]
    fn every_other_spelling_is_refused() {
        for text in [
            r#"{"b":1,"a":2}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"a": 1}"#,
            r#"{"a":1} "#,
            r#"{"a":1.0}"#,
            r#"{"a":1e2}"#,
            r#"{"a":-0}"#,
            r#"{"a":01}"#,
            r#"{"a":9007199254740993}"#,
            r#"{"a":"\u0041"}"#,
            r#"{"a":"\/"}"#,
            r#"{"a":"\u000A"}"#,
            r#"{"a":"\u000a"}"#,
            r#"{"a":"\u001F"}"#,
            "{\"a\":\"\n\"}",
            r#"{"a":"\ud83d\ude00"}"#,
            r#"{"a":tru}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"[1,]"#,
            r#"{"a":1e400}"#,
            r#"{"a":+1}"#,
            r#"{"a"#,
            "",
        ] {
            assert!(check(text.as_bytes()).is_err(), "{text}");
        }
        assert!(check(b"{\"a\":\"\xff\"}").unwrap_err().contains("UTF-8"));
        assert!(check("[".repeat(200).as_bytes()).unwrap_err().contains("deeply"));
        // U+FB33 comes after U+1F600 in UTF-16, though not in UTF-8.
        assert_eq!(check("{\"\u{1f600}\":1,\"\u{fb33}\":2}".as_bytes()), Ok(()));
        assert_eq!(check(br#"{"a":"\u001f\n\"","b":[0,-5,0.1,1e+21,1e-7,9007199254740992]}"#), Ok(()));
    }
}
