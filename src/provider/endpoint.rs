//! Where a provider is: its base URL taken apart, and the address behind its host name.
//!
//! Names are resolved through the system's resolver off the request path: the first request waits, later ones use the last
//! answer while a newer one is fetched in the background. Addresses that belong to cloud metadata services are refused after
//! resolution, so that no name can lead a credential there. Redirects are not followed anywhere.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::telemetry::task;
use crate::unit::clock::Tick;

/// How long an answer of the resolver is used before a newer one is fetched.
const FRESH_FOR: Duration = Duration::from_secs(30);
/// How long a resolution may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A base URL taken apart.
#[derive(Debug)]
pub struct Endpoint {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// The host without brackets, for SNI and certificate checks.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The value of the `host` header (RFC 9110 section 7.2): with the port unless it is the scheme's own.
    pub authority: String,
    /// The path that every request path is appended to; empty, or begins with a slash and does not end with one.
    pub prefix: String,
    fixed: Option<SocketAddr>,
    resolved: Arc<Resolved>,
}

#[derive(Debug, Default)]
struct Resolved {
    answer: ArcSwapOption<Answer>,
    busy: AtomicBool,
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Answer {
    addresses: Vec<SocketAddr>,
    at: Tick,
}

impl Endpoint {
    /// Takes a URL of the form `http[s]://host[:port][/prefix]` apart.
    ///
    /// # Errors
    /// A sentence without the URL, when it has another form.
    pub fn parse(url: &str) -> Result<Self, String> {
        let uri: http::Uri = url.parse().map_err(|_| "base_url is not a URL".to_owned())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("base_url must begin with http:// or https://".to_owned()),
        };
        let authority = uri.authority().ok_or("base_url has no host")?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err("base_url may hold neither a user name nor a query".to_owned());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let fixed = host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port));
        if fixed.is_some_and(|address| is_metadata_service(address.ip())) {
            return Err("base_url leads to a cloud metadata service".to_owned());
        }
        Ok(Self {
            tls,
            port,
            authority: authority.as_str().to_owned(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            host,
            fixed,
            resolved: Arc::default(),
        })
    }

    /// The address to connect to. Waits for the resolver only if it never answered before.
    ///
    /// # Errors
    /// A sentence without the host, when the name cannot be resolved or leads to a refused address.
    pub async fn address(&self) -> Result<SocketAddr, &'static str> {
        if let Some(address) = self.fixed {
            return Ok(address);
        }
        if let Some(answer) = self.resolved.answer.load_full() {
            if answer.at.elapsed() > FRESH_FOR && !self.resolved.busy.swap(true, Ordering::AcqRel) {
                let (resolved, host, port) = (self.resolved.clone(), self.host.clone(), self.port);
                task::spawn("resolver", async move {
                    if let Err(reason) = resolved.ask(&host, port).await {
                        tracing::warn!(
                            reason,
                            "a provider's name could not be resolved again; the last answer stays in use"
                        );
                    }
                    resolved.busy.store(false, Ordering::Release);
                });
            }
            return self.resolved.pick(&answer);
        }
        let answer = self.resolved.ask(&self.host, self.port).await?;
        self.resolved.pick(&answer)
    }

    /// Says that the last address did not answer, so that another is tried next.
    pub fn address_failed(&self) {
        self.resolved.turn.fetch_add(1, Ordering::Relaxed);
    }
}

impl Resolved {
    async fn ask(&self, host: &str, port: u16) -> Result<Arc<Answer>, &'static str> {
        let lookup = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host, port))).await;
        let found = lookup.map_err(|_| "the resolver did not answer in time")?;
        let addresses: Vec<SocketAddr> = found
            .map_err(|_| "the provider's host name cannot be resolved")?
            .filter(|address| !is_metadata_service(address.ip()))
            .take(16)
            .collect();
        if addresses.is_empty() {
            return Err("the provider's host name leads to no address that may be used");
        }
        let answer = Arc::new(Answer { addresses, at: Tick::now() });
        self.answer.store(Some(answer.clone()));
        Ok(answer)
    }

    fn pick(&self, answer: &Answer) -> Result<SocketAddr, &'static str> {
        let turn = self.turn.load(Ordering::Relaxed) % answer.addresses.len().max(1);
        answer.addresses.get(turn).copied().ok_or("the provider's host name leads to no address")
    }
}

/// Whether an address belongs to the metadata service of a cloud: link-local 169.254.0.0/16 (RFC 3927) and fe80::/10
/// (RFC 4291 section 2.5.6), `fd00:ec2::254` (AWS) and `100.100.100.200` (Alibaba Cloud).
fn is_metadata_service(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local() || v4 == Ipv4Addr::new(100, 100, 100, 200),
        IpAddr::V6(v6) => {
            let [first, second, .., last] = v6.segments();
            (first & 0xffc0) == 0xfe80 || (first == 0xfd00 && second == 0x0ec2 && last == 0x0254)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_could_leak_or_mislead_is_refused() {
        for url in [
            "ftp://x",
            "https://",
            "http://user:secret@host",
            "http://host/?key=1",
            "http://169.254.169.254/latest",
            "http://[fe80::1]/",
        ] {
            let sentence = Endpoint::parse(url).map(|endpoint| endpoint.host).unwrap_err();
            assert!(!sentence.contains("secret"), "{sentence}");
        }
    }

    #[test]
    fn a_url_is_taken_apart() {
        let endpoint = Endpoint::parse("https://api.example.com/v1/").unwrap();
        assert_eq!((endpoint.tls, endpoint.port, endpoint.prefix.as_str()), (true, 443, "/v1"));
        let endpoint = Endpoint::parse("http://[::1]:8000").unwrap();
        assert_eq!(
            (endpoint.host.as_str(), endpoint.authority.as_str(), endpoint.prefix.as_str()),
            ("::1", "[::1]:8000", "")
        );
    }
}
