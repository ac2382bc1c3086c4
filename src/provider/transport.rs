//! How a provider is connected to: time-outs, HTTP version and certificate authorities, as Pingora's peer.
//!
//! Built once for each provider; a request copies it and fills the address in.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
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
        if let Some(path) = &settings.ca_file {
            options.ca = Some(authorities(path)?);
        }
        Ok(Self {
            options,
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
        peer
    }

    /// The time to the first byte and the time between chunks, in milliseconds, if they differ and so must be watched apart.
    pub fn watched(&self) -> Option<(u64, u64)> {
        (self.first_byte_ms != self.idle_ms).then_some((self.first_byte_ms, self.idle_ms))
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn authorities(path: &Path) -> Result<Arc<[WrappedX509]>, String> {
    let fault = |what: &str| format!("ca_file {}: {what}", path.display());
    let found = CertificateDer::pem_file_iter(path).map_err(|error| fault(&error.to_string()))?;
    let mut authorities = Vec::new();
    for certificate in found {
        let der = certificate.map_err(|error| fault(&error.to_string()))?.to_vec();
        X509Certificate::from_der(&der).map_err(|_| fault("holds something that is not a certificate"))?;
        authorities.push(WrappedX509::new(der, parse_x509));
    }
    if authorities.is_empty() {
        return Err(fault("holds no certificate"));
    }
    Ok(Arc::from(authorities))
}
