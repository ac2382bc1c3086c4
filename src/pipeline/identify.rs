//! **Identify**: whose call it is, from the headers alone, before any body is read.
//!
//! A wrong key costs a hash and a look-up in memory. Answers never say whether a key once existed beyond what its holder
//! could know: only a caller with the whole token learns that it is revoked, expired or disabled.

use std::sync::Arc;

use http::HeaderMap;

use crate::error::{Error, Kind, Result};
use crate::key::ring::Refusal;
use crate::pipeline::exchange::Exchange;
use crate::pipeline::leave::Leave;
use crate::unit::clock::Timestamp;

impl Exchange {
    /// Finds the caller's key.
    ///
    /// # Errors
    /// `InvalidApiKey` without a usable key, `PermissionDenied` from an address that the key may not be used from,
    /// `InvalidRequest` if the key stands in the query as well: that goes to the provider.
    pub fn identify(&mut self, headers: &HeaderMap, query: Option<&str>) -> Result<()> {
        let Some(token) = token(headers) else {
            let text = "You did not provide an API key. Send it as `Authorization: Bearer YOUR_KEY`.";
            return Err(Error::new(Kind::InvalidApiKey, text));
        };
        let address = self.record.address.as_deref().and_then(|address| address.parse().ok());
        match self.gateway.ring.admit(token, address, Timestamp::now()) {
            Ok(key) => {
                self.record.key_id = Some(key.id.clone());
                self.record.org.clone_from(&key.principal.org);
                self.record.team.clone_from(&key.principal.team);
                self.record.user.clone_from(&key.principal.user);
                if self.live.settings.cut_running {
                    self.leave = Some(Leave::new(Arc::clone(&self.gateway.ring), Arc::clone(&key)));
                }
                self.key = Some(key);
                if query.is_some_and(|query| memchr::memmem::find(query.as_bytes(), token.as_bytes()).is_some()) {
                    let text =
                        "Your API key is in the query, too, and that goes to the provider; send it in a header alone.";
                    return Err(Error::new(Kind::InvalidRequest, text));
                }
                Ok(())
            }
            Err(refusal) => Err(explain(refusal)),
        }
    }
}

pub(super) fn explain(refusal: Refusal) -> Error {
    let (kind, text) = match refusal {
        Refusal::Malformed => (Kind::InvalidApiKey, "Incorrect API key provided: it is not complete, or mistyped."),
        Refusal::Unknown => (Kind::InvalidApiKey, "Incorrect API key provided: this gateway does not know it."),
        Refusal::Unsure => {
            let text = "This gateway does not know the API key, and its database, which may, is away. Try again soon.";
            return Error::new(Kind::Unavailable, text).retry_after(1);
        }
        Refusal::Revoked => (Kind::InvalidApiKey, "This API key has been revoked."),
        Refusal::Expired => (Kind::InvalidApiKey, "This API key has expired."),
        Refusal::Disabled => (Kind::InvalidApiKey, "This API key is disabled at present."),
        Refusal::Suspended(until) => {
            let text = match until {
                Some(until) => format!("This API key is suspended until {}.", until.rfc3339()),
                None => "This API key is suspended until an operator releases it.".to_owned(),
            };
            return Error::new(Kind::PermissionDenied, text);
        }
        Refusal::Party(kind) => {
            let text = format!("The {} that this API key acts for is disabled at present.", kind.as_str());
            return Error::new(Kind::InvalidApiKey, text);
        }
        Refusal::Address => (Kind::PermissionDenied, "This API key may not be used from your address."),
    };
    Error::new(kind, text)
}

/// The token that a caller sent: `authorization: Bearer …` in any case (RFC 6750 section 2.1), else `x-api-key`, `api-key`
/// or `x-goog-api-key`; the first that is not empty. At most 512 bytes; longer ones are none of ours.
fn token(headers: &HeaderMap) -> Option<&str> {
    let some = |text: &&str| !text.is_empty();
    let bearer = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, token) = value.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(some)
    });
    let read = |name: &&str| headers.get(*name)?.to_str().ok().map(str::trim).filter(some);
    let named = || ["x-api-key", "api-key", "x-goog-api-key"].iter().find_map(read);
    bearer.or_else(named).filter(|token| token.len() <= 512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_wherever_an_sdk_puts_it() {
        let found = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            token(&headers).map(str::to_owned)
        };
        assert_eq!(found("authorization", "Basic abc"), None);
        assert_eq!(found("authorization", "Bearer "), None);
        assert_eq!(found("authorization", "bEaReR  t1 ").as_deref(), Some("t1"));
        for name in ["x-api-key", "api-key", "x-goog-api-key"] {
            assert_eq!(found(name, "t2").as_deref(), Some("t2"));
        }
    }

    #[test]
    fn an_empty_header_does_not_hide_the_token_in_another() {
        for empty in [("authorization", "Bearer "), ("x-api-key", ""), ("x-api-key", " ")] {
            let mut headers = HeaderMap::new();
            headers.insert(empty.0, empty.1.parse().unwrap());
            headers.insert("api-key", "t3".parse().unwrap());
            assert_eq!(token(&headers), Some("t3"), "{empty:?}");
        }
    }
}
