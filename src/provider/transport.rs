//! How a provider is connected to: time-outs, HTTP version and certificate authorities, as Pingora's peer.
//!
//! Built once for each provider; a request copies it and fills the address in.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::ALPN;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::upstreams::peer::{HttpPeer, PeerOptions};
use pingora_core::utils::tls::{WrappedX509, parse_x509};
use pingora_error::{Error, ErrorType};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::provider::config::{HttpVersion, ProviderSettings};
use crate::provider::endpoint::{Addresses, Endpoint};

/// How long an unused connection stays in the pool. Below the 60 s after which many servers close theirs, so that few
/// requests meet a connection that was just closed.
const POOL_IDLE: Duration = Duration::from_secs(50);

/// How often a provider is asked over HTTP/2 whether it is still there (PING, RFC 9113 section 6.7). One that has not answered after
/// 5 s more, which is Pingora's constant, loses the connection with all its streams.
const PING_EVERY: Duration = Duration::from_secs(15);

/// The most calls that share a connection over HTTP/2.
const H2_STREAMS: u32 = 100;

/// How much of one answer a provider may send over HTTP/2 before Marg has taken it: a good megabyte a second from a provider 100 ms away, and the most
/// that a caller which does not read can pile up here.
const H2_STREAM_WINDOW: u32 = 128 * 1024;

/// The same for all answers of a connection. With less than its streams' windows together, callers that do not read would use it up
/// and hold up those that do (RFC 9113 section 5.2.1).
const H2_CONNECTION_WINDOW: u32 = H2_STREAMS * H2_STREAM_WINDOW;

/// A provider's connections.
#[derive(Debug)]
pub struct Transport {
    options: PeerOptions,
    /// Only peers with the same key share connections.
    group_key: u64,
    /// How often the connections over HTTP/2 were given up; it is part of the key.
    generation: AtomicU64,
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
        options.max_h2_streams = usize::try_from(H2_STREAMS).unwrap_or(usize::MAX);
        options.h2_stream_window_size = Some(H2_STREAM_WINDOW);
        options.h2_connection_window_size = Some(H2_CONNECTION_WINDOW);
        options.h2_ping_interval = Some(PING_EVERY);
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
            generation: AtomicU64::new(0),
            tls: endpoint.tls,
            host: endpoint.host.clone(),
            first_byte_ms: millis(settings.first_byte_timeout),
            idle_ms: millis(settings.idle_timeout),
        })
    }

    /// The peer behind these addresses.
    pub fn peer(&self, addresses: &Addresses) -> HttpPeer {
        let mut peer = HttpPeer::new(addresses.first(), self.tls, self.host.clone());
        peer.options = self.options.clone();
        peer.group_key = self.key(self.generation.load(Ordering::Relaxed));
        try_all(&mut peer, addresses);
        peer
    }

    /// Whether connections under these settings would trust the same authorities and offer the same versions of HTTP. A file that
    /// cannot be read is not the same.
    pub fn trusts_as(&self, settings: &ProviderSettings) -> bool {
        trusted(settings)
            .is_ok_and(|now| group_key(settings.http, now.as_deref().unwrap_or_default()) == self.group_key)
    }

    /// Lets no further call use the connections over HTTP/2 that such a peer shares, because one of them may be dead: Pingora marks
    /// a connection only when its own wait for the answer ends (`proxy_h2.rs` of pingora-proxy 0.9.1), neither when Marg's does nor
    /// when a body finds no room. What runs on them goes on, and they close when they have been idle for [`POOL_IDLE`]. Calls that
    /// fail together give them up once, so a provider that is only slow costs one connection for each time-out.
    pub fn give_up(&self, peer: &HttpPeer) {
        let generation = self.generation.load(Ordering::Relaxed);
        if peer.group_key == self.key(generation) {
            // If it is refused, somebody else has done it.
            let next = generation.wrapping_add(1);
            let _done = self.generation.compare_exchange(generation, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    fn key(&self, generation: u64) -> u64 {
        // The keys are hashes, so no small step leads from one to another.
        self.group_key.wrapping_add(generation)
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

/// The peer behind an endpoint that is no provider's, with what Pingora takes for granted.
///
/// # Errors
/// As [`Endpoint::addresses`].
pub async fn plain_peer(endpoint: &Endpoint) -> Result<HttpPeer, &'static str> {
    let addresses = endpoint.addresses().await?;
    let mut peer = HttpPeer::new(addresses.first(), endpoint.tls, endpoint.host.clone());
    try_all(&mut peer, &addresses);
    Ok(peer)
}

/// Lets a new connection go to any of several addresses. Pingora files it under the first, and checks the address before it uses one
/// again, so one that went to another address serves its exchange only and is closed when its time in the pool is over; the next
/// peer names the address that answered.
fn try_all(peer: &mut HttpPeer, addresses: &Addresses) {
    if addresses.are_several() {
        peer.options.custom_l4 = Some(Arc::new(Reach(addresses.clone())));
    }
}

#[derive(Debug)]
struct Reach(Addresses);

#[async_trait]
impl Connect for Reach {
    async fn connect(&self, _first: &SocketAddr) -> pingora_error::Result<Stream> {
        let refused = |error: io::Error| {
            let kind = match error.kind() {
                io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
                io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => ErrorType::ConnectNoRoute,
                _ => ErrorType::ConnectError,
            };
            Error::because(kind, "no address takes a connection", error)
        };
        self.0.connect().await.map(Stream::from).map_err(refused)
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
