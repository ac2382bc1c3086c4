//! Networks as operators write them.

use std::net::IpAddr;

use ipnet::{AddrParseError, IpNet, Ipv4Net};

/// The bits before the IPv4 address in one that is written as IPv6 (`::ffff:192.0.2.7`, RFC 4291 section 2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// A network, or an address as the network that holds only it. IPv4 written as IPv6 becomes IPv4, as a caller's address does before
/// it is looked for.
///
/// # Errors
/// When the text is neither.
pub fn network(text: &str) -> Result<IpNet, AddrParseError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address.to_canonical()));
    }
    let net = text.parse::<IpNet>()?.trunc();
    let IpNet::V6(six) = net else { return Ok(net) };
    let mapped = six.prefix_len().checked_sub(MAPPED_BITS).zip(six.network().to_ipv4_mapped());
    Ok(mapped.and_then(|(length, four)| Ipv4Net::new(four, length).ok()).map_or(net, IpNet::V4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "10.0.0.0/33", "::/129", "example.com", "10.0.0.1/", " 10.0.0.1", "::ffff:1.2.3.4/130"] {
            assert!(network(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ipv4_written_as_ipv6_is_ipv4() {
        let read = |text: &str| network(text).map(|net| net.to_string()).unwrap_or_default();
        assert_eq!(read("::ffff:203.0.113.0/120"), "203.0.113.0/24");
        assert_eq!(read("::ffff:203.0.113.9/120"), "203.0.113.0/24");
        assert_eq!(read("::ffff:203.0.113.7"), "203.0.113.7/32");
        assert_eq!(read("::ffff:203.0.113.7/128"), "203.0.113.7/32");
        assert_eq!(read("::ffff:0:0/96"), "0.0.0.0/0");
        assert_eq!(read("::/0"), "::/0");
        assert_eq!(read("2001:db8::1/32"), "2001:db8::/32");
        assert_eq!(read("10.1.2.3/8"), "10.0.0.0/8");
        assert_eq!(read("192.0.2.7"), "192.0.2.7/32");
    }
}
