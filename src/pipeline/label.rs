//! **Label**: what a caller says about its own call, for limits, policy and the request log: tags and a session.
//!
//! Both are the caller's words: bounded, checked, and never taken for an identity. A session belongs to its key, so that no
//! caller can spend or end another's.

use std::sync::Arc;

use http::HeaderMap;

use crate::error::{Error, Kind, Result};
use crate::pipeline::exchange::Exchange;

/// The most tags of one call.
const MAX_TAGS: usize = 16;
/// The longest tag, in bytes.
const MAX_TAG_BYTES: usize = 64;
/// The longest name of a session, in bytes.
const MAX_SESSION_BYTES: usize = 128;

impl Exchange {
    /// Reads `x-marg-tags` (a list with commas) and `x-marg-session`.
    ///
    /// # Errors
    /// `InvalidRequest` when either holds something that is no name.
    pub fn label(&mut self, headers: &HeaderMap) -> Result<()> {
        self.record.tags = tags(headers)?;
        self.record.session = session(headers)?;
        Ok(())
    }
}

fn tags(headers: &HeaderMap) -> Result<Vec<Arc<str>>> {
    let mut tags = Vec::new();
    for value in headers.get_all("x-marg-tags") {
        let text = value.to_str().map_err(|_| wrong("x-marg-tags", MAX_TAG_BYTES))?;
        for tag in text.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
            if tags.len() == MAX_TAGS {
                return Err(Error::new(Kind::InvalidRequest, "The header x-marg-tags holds more than 16 tags."));
            }
            if !is_name(tag, MAX_TAG_BYTES) {
                return Err(wrong("x-marg-tags", MAX_TAG_BYTES));
            }
            tags.push(Arc::from(tag));
        }
    }
    tags.sort_unstable();
    tags.dedup();
    Ok(tags)
}

fn session(headers: &HeaderMap) -> Result<Option<Arc<str>>> {
    let Some(value) = headers.get("x-marg-session") else { return Ok(None) };
    match value.to_str().map(str::trim) {
        Ok("") => Ok(None),
        Ok(name) if is_name(name, MAX_SESSION_BYTES) => Ok(Some(name.into())),
        _ => Err(wrong("x-marg-session", MAX_SESSION_BYTES)),
    }
}

fn is_name(text: &str, most: usize) -> bool {
    text.len() <= most && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte))
}

fn wrong(header: &str, most: usize) -> Error {
    let text = format!("The header {header} takes names of at most {most} letters, digits and -_.:/+=@.");
    Error::new(Kind::InvalidRequest, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let many = (0..17).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
        for value in ["a b", "\"x\"", "a,<b>", &"x".repeat(65), &many] {
            assert!(tags(&with("x-marg-tags", value)).is_err(), "{value}");
        }
        for value in ["a b", "a,b", &"x".repeat(129)] {
            assert!(session(&with("x-marg-session", value)).is_err(), "{value}");
        }
    }

    #[test]
    fn tags_are_sorted_and_counted_once() {
        let found = tags(&with("x-marg-tags", "b, a ,,b")).unwrap();
        assert_eq!(found, ["a".into(), Arc::<str>::from("b")]);
        assert_eq!(session(&with("x-marg-session", " s-1 ")).unwrap().as_deref(), Some("s-1"));
        assert_eq!(session(&with("x-marg-session", "")).unwrap(), None);
    }
}
