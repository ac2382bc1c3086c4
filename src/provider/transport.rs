//! How a provider is connected to: time-outs, HTTP version and certificate authorities, as Pingora's peer.
//!
//! Built once for each provider; a request copies it and fills the address in.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use pingora_core::protocols::ALPN;
use pingora_core::upstreams::peer::{HttpPeer, PeerOptions};
use pingora_core::utils::tls::{WrappedX509, parse_x509};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::provider::config::{HttpVersion, ProviderSettings};
use crate::provider::endpoint::Endpoint;

/// How long an unused connection stays in the pool. Below the 60 s after which many servers close theirs, so that few
/// requests meet a connection that was just closed.
const POOL_IDLE: Duration = Duration::from_secs(50);

/// A provider's connections.
#[derive(Debug)]
pub struct Transport {
    options: PeerOptions,
    /// Only peers with the same key share connections.
    group_key: u64,
    tls: bool,
    host: String,
    first_byte_ms: u64,
    idle_ms: u64,
}

impl Transport {
    /// Prepares connections.
    ///
    /// # Errors
    /// A sentence, when the file of certificate authorities cannot be read or holds none.
    pub fn new(settings: &ProviderSettings, endpoint: &Endpoint) -> Result<Self, String> {
        let mut options = PeerOptions::new();
        options.connection_timeout = Some(settings.connect_timeout);
        options.total_connection_timeout = Some(settings.connect_timeout);
        // One limit serves for single reads; where the two differ, `proxy::deadline` holds the shorter one.
        options.read_timeout = Some(settings.first_byte_timeout.max(settings.idle_timeout));
        options.write_timeout = Some(settings.idle_timeout);
        options.idle_timeout = Some(POOL_IDLE);
        options.max_h2_streams = 100;
        options.alpn = match (settings.http, endpoint.tls) {
            (HttpVersion::Http1, _) => ALPN::H1,
            (HttpVersion::Http2, true) => ALPN::H2H1,
            (HttpVersion::Http2, false) => ALPN::H2,
        };
        let authorities = trusted(settings)?;
        let group_key = group_key(settings.http, authorities.as_deref().unwrap_or_default());
        options.ca = authorities.map(|all| all.into_iter().map(|der| WrappedX509::new(der, parse_x509)).collect());
        Ok(Self {
            options,
            group_key,
            tls: endpoint.tls,
            host: endpoint.host.clone(),
            first_byte_ms: millis(settings.first_byte_timeout),
            idle_ms: millis(settings.idle_timeout),
        })
    }

    /// The peer at an address.
    pub fn peer(&self, address: SocketAddr) -> HttpPeer {
        let mut peer = HttpPeer::new(address, self.tls, self.host.clone());
        peer.options = self.options.clone();
        peer.group_key = self.group_key;
        peer
    }

    /// Whether connections under these settings would trust the same authorities and offer the same versions of HTTP. A file that
    /// cannot be read is not the same.
    pub fn trusts_as(&self, settings: &ProviderSettings) -> bool {
        trusted(settings)
            .is_ok_and(|now| group_key(settings.http, now.as_deref().unwrap_or_default()) == self.group_key)
    }

    /// Whether connections of the other one trust the same authorities and offer the same versions of HTTP.
    pub fn is_like(&self, other: &Self) -> bool {
        self.group_key == other.group_key
    }

    /// The time to the first byte and the time between chunks, in milliseconds, if they differ and so must be watched apart.
    pub fn watched(&self) -> Option<(u64, u64)> {
        (self.first_byte_ms != self.idle_ms).then_some((self.first_byte_ms, self.idle_ms))
    }
}

/// What a connection was made under and Pingora does not look at when it takes one from its pool (`HttpPeer::hash` of
/// pingora-core 0.9.1): whose certificates were trusted, and which versions of HTTP were offered. Two providers at one address
/// must not share a connection that only one of them would have made, and neither must a provider before and after a reload.
fn group_key(http: HttpVersion, authorities: &[Vec<u8>]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[u8::from(http == HttpVersion::Http2)]);
    for authority in authorities {
        hasher.update(blake3::hash(authority).as_bytes());
    }
    hasher.finalize().as_bytes().first_chunk().map_or(0, |half| u64::from_le_bytes(*half))
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The authorities to believe instead of the system's, if there is a file of them.
fn trusted(settings: &ProviderSettings) -> Result<Option<Vec<Vec<u8>>>, String> {
    settings.ca_file.as_deref().map(authorities).transpose()
}

/// The certificates in a file, in DER.
fn authorities(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let fault = |what: &str| format!("ca_file {}: {what}", path.display());
    let found = CertificateDer::pem_file_iter(path).map_err(|error| fault(&error.to_string()))?;
    let mut authorities = Vec::new();
    for certificate in found {
        let der = certificate.map_err(|error| fault(&error.to_string()))?.to_vec();
        X509Certificate::from_der(&der).map_err(|_| fault("holds something that is not a certificate"))?;
        authorities.push(der);
    }
    if authorities.is_empty() {
        return Err(fault("holds no certificate"));
    }
    Ok(authorities)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_that_trust_others_or_speak_otherwise_share_no_connections() {
        let (one, other) = (vec![1; 900], vec![2; 900]);
        let every = [
            group_key(HttpVersion::Http1, &[]),
            group_key(HttpVersion::Http2, &[]),
            group_key(HttpVersion::Http1, std::slice::from_ref(&one)),
            group_key(HttpVersion::Http1, std::slice::from_ref(&other)),
            group_key(HttpVersion::Http1, &[one.clone(), other.clone()]),
            group_key(HttpVersion::Http1, &[[one.clone(), other].concat()]),
        ];
        let distinct: std::collections::HashSet<_> = every.into_iter().collect();
        assert_eq!(distinct.len(), every.len());
        assert!(distinct.contains(&group_key(HttpVersion::Http1, &[one])));
    }
}
