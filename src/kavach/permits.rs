//! Permits on paper: signed tokens that say what the gate let pass, for the provider, for the caller, or for both.
//!
//! A permit is bound to one attempt: the exchange, the key, the provider and the model that are really asked, the SHA-256 of the
//! bytes that are really sent, an audience and an expiry. It can only be made of a [`Permit`], which only a verdict gives.
//! Anybody verifies it offline (`token::verify`, docs/permits.md) by the public keys that are `published`. Not COSE, because
//! every language has a library for JOSE and header values are text anyway. This room does no I/O and reads no clock.

pub mod config;
pub mod jwk;
pub mod key;
pub mod published;
pub mod token;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use crate::kavach::config::Mode;
use crate::kavach::permits::config::PermitsConfig;
use crate::kavach::permits::key::PermitKeys;
use crate::kavach::permits::published::Published;
use crate::kavach::permits::token::{Bound, TokenError};
use crate::kavach::verdict::Permit;
use crate::unit::clock::Timestamp;

/// What makes permits and publishes their keys, as one configuration asks for it.
#[derive(Debug, Default)]
pub struct Permits {
    config: PermitsConfig,
    keys: Option<PermitKeys>,
    published: Published,
}

/// When and for what a permit is made.
#[derive(Clone, Copy, Debug)]
pub struct Occasion<'a> {
    /// The exchange's id.
    pub exchange: &'a str,
    /// How many permits the exchange made before.
    pub number: u32,
    /// The body as it is sent; all of it, as it is read whole before anybody is asked.
    pub body: &'a [u8],
    /// The gate's mode.
    pub gate: Mode,
    /// When.
    pub at: Timestamp,
}

/// The permits of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Papers {
    /// Their id. That of the caller's ends with `-caller` besides.
    pub id: String,
    /// The provider's, if it gets one.
    pub upstream: Option<HeaderValue>,
    /// The caller's, if it gets one.
    pub caller: Option<HeaderValue>,
}

impl Permits {
    /// Permits as configured. Without keys none are made.
    pub fn new(config: PermitsConfig, keys: Option<PermitKeys>, published: Published) -> Self {
        Self { config, keys, published }
    }

    /// The header that carries permits; `None` while nobody gets any.
    pub fn header(&self) -> Option<&HeaderName> {
        self.keys.as_ref().map(|_| &self.config.header)
    }

    /// The ids of the keys that sign, in the order of the configuration.
    pub fn signing(&self) -> Vec<&str> {
        let of = |keys| self.config.algorithms.iter().map(move |one| PermitKeys::public_of(keys, *one).id());
        self.keys.iter().flat_map(of).collect()
    }

    /// What is configured.
    pub fn config(&self) -> &PermitsConfig {
        &self.config
    }

    /// The public keys of now, as a JWK set.
    pub fn document(&self, now: Timestamp) -> Bytes {
        self.published.document(now)
    }

    /// Makes the permits of one attempt; `None` while nobody gets any.
    ///
    /// # Errors
    /// When one cannot be signed or would be too long.
    ///
    /// *Cost*: a SHA-256 of the body and a signature for each of those who get one (`token::sign`).
    pub fn issue(&self, permit: &Permit, occasion: &Occasion<'_>) -> Result<Option<Papers>, TokenError> {
        let Some(keys) = &self.keys else { return Ok(None) };
        let id = format!("{}-{}", occasion.exchange, occasion.number);
        let body_sha256 = token::body_sha256(occasion.body);
        let sign = |id: &str, audience: &str| -> Result<HeaderValue, TokenError> {
            let bound = Bound {
                id,
                exchange: occasion.exchange,
                body_sha256: &body_sha256,
                audience,
                gate: occasion.gate,
                at: occasion.at,
                ttl: self.config.ttl(),
            };
            let token = token::sign(keys, &self.config.algorithms, permit, &bound)?;
            let mut value =
                HeaderValue::try_from(token).map_err(|_| TokenError::Malformed("it does not fit into a header"))?;
            // Each is another, so that compressing headers (RFC 7541 section 7.1.3) would only fill its table with them.
            value.set_sensitive(true);
            Ok(value)
        };
        let audience = self.config.audience.as_deref().unwrap_or(permit.provider());
        let to = self.config.send_to;
        let upstream = to.upstream().then(|| sign(&id, audience)).transpose()?;
        // The caller's is for somebody else, so that it opens nothing at the provider.
        let caller = to.caller().then(|| sign(&format!("{id}-caller"), &self.config.caller_audience)).transpose()?;
        Ok(Some(Papers { id, upstream, caller }))
    }
}

#[cfg(test)]
mod tests;
