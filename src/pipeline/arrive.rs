//! **Arrive**: the head of a request, before anything is judged.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;

use http::HeaderMap;

use crate::error::{Error, Kind, Result};
use crate::pipeline::Settings;
use crate::pipeline::exchange::{Exchange, clip};

/// What is known from a request's head alone.
pub struct Head<'a> {
    /// The method.
    pub method: &'a str,
    /// The path without the query.
    pub path: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The address of the other end of the connection.
    pub peer: Option<IpAddr>,
}

impl Exchange {
    /// Notes who asks for what, and checks the bounds that hold for any request.
    ///
    /// # Errors
    /// `ShuttingDown` while draining, `Overloaded` above `server.max_exchanges`, `TooLarge` above `server.max_header_bytes`,
    /// `Unavailable` while the journal takes no record, or the audit log cannot be written and must be.
    pub fn arrive(&mut self, head: &Head<'_>) -> Result<()> {
        head.method.clone_into(&mut self.record.method);
        self.record.path = clip(head.path);
        self.record.operation.push_str("unknown");
        self.greet(head.headers);
        self.by_proxy = head.peer.is_some_and(|peer| self.live.settings.trusts(peer.to_canonical()));
        let address = head.peer.and_then(|peer| caller_address(&self.live.settings, peer, head.headers));
        self.record.address = address.map(|address| address.to_string());
        if self.gateway.is_draining() {
            return Err(
                Error::new(Kind::ShuttingDown, "This gateway is stopping; send the request again.").retry_after(1)
            );
        }
        let most = self.live.settings.max_exchanges;
        if self.gateway.in_flight.load(Ordering::Acquire) > most {
            let text = format!("This gateway runs {most} exchanges already (server.max_exchanges); try again shortly.");
            return Err(Error::new(Kind::Overloaded, text).retry_after(1));
        }
        let size = head_size(head);
        if size > self.live.settings.max_header_bytes {
            let most = self.live.settings.max_header_bytes;
            return Err(Error::new(
                Kind::TooLarge,
                format!("The request's head has {size} bytes; the most is {most} (server.max_header_bytes)."),
            ));
        }
        if let Err(error) = self.gateway.journal.ready() {
            let text = "This gateway cannot record exchanges at present, so it takes none; its operator has been told.";
            return Err(Error::new(Kind::Unavailable, text).retry_after(5).because(error));
        }
        if self.gateway.audit.refuses() {
            let text = "The audit log of this gateway cannot be written at present, so it takes no calls (audit.mode); its operator has been told.";
            return Err(Error::new(Kind::Unavailable, text).retry_after(5));
        }
        Ok(())
    }

    /// Takes over the id that the caller has for the request, if it is a sane one.
    pub fn greet(&mut self, headers: &HeaderMap) {
        self.record.request_id = request_id(headers);
    }

    /// The id that the caller reads in `x-request-id`: its own if it sent a sane one, else the exchange's.
    pub fn request_id(&self) -> String {
        self.record.request_id.clone().unwrap_or_else(|| self.record.id.to_string())
    }
}

/// A caller's own `x-request-id`, if it is 1 to 128 letters, digits or `-_.:/+=@`.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("x-request-id")?.to_str().ok()?;
    let sane = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte);
    ((1..=128).contains(&text.len()) && text.bytes().all(sane)).then(|| text.to_owned())
}

/// The caller's address: the connection's, unless that is a trusted proxy's; then the last address of `x-forwarded-for` that
/// is not itself a trusted proxy's, which is the one that the outermost trusted proxy saw. `None` if a trusted proxy says
/// something that is none: taking the proxy's own would let callers in that only the proxy's network may be.
fn caller_address(settings: &Settings, peer: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
    let mut address = peer.to_canonical();
    if settings.trusted_proxies.is_empty() {
        return Some(address);
    }
    let lines: Vec<&str> = headers.get_all("x-forwarded-for").iter().map(|line| line.to_str().unwrap_or("?")).collect();
    let hops = lines.iter().rev().flat_map(|line| line.rsplit(',')).map(str::trim).filter(|hop| !hop.is_empty());
    for hop in hops {
        if !settings.trusts(address) {
            break;
        }
        address = hop_address(hop)?.to_canonical();
    }
    Some(address)
}

/// An address of `x-forwarded-for`, with or without brackets and a port.
///
/// *Source*: `ip:port` is what Azure's Application Gateway appends,
/// <https://learn.microsoft.com/azure/application-gateway/rewrite-http-headers-url#remove-port-information-from-the-x-forwarded-for-header>.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    let plain = bare.parse().ok();
    plain.or_else(|| hop.parse::<SocketAddr>().ok().map(|both| both.ip()))
}

fn head_size(head: &Head<'_>) -> usize {
    let headers: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    head.method.len() + head.path.len() + headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_with_a_port_and_in_brackets() {
        let of = |hop: &str| hop_address(hop).map(|address| address.to_string());
        for (hop, address) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1:443", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
        ] {
            assert_eq!(of(hop).as_deref(), Some(address));
        }
        for hop in ["unknown", "_hidden", "unix:", "192.0.2.1:", "192.0.2.1:99999", "192.0.2", "[192.0.2.1", "?"] {
            assert_eq!(of(hop), None, "{hop}");
        }
    }

    #[test]
    fn a_request_id_that_could_break_a_log_is_not_taken() {
        let id = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-request-id", text.parse().unwrap());
            request_id(&headers)
        };
        assert_eq!(id("a b"), None);
        assert_eq!(id(&"x".repeat(129)), None);
        assert_eq!(id("\"quoted\""), None);
        assert_eq!(id("req-1_a.b").as_deref(), Some("req-1_a.b"));
    }
}
