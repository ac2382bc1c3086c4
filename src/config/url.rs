//! Base URLs: what is accepted, and the one form in which they are handed on.

use crate::provider::config::UrlRef;
use crate::unit::secret::SecretRef;
use std::net::{IpAddr, Ipv6Addr};

use http::Uri;

/// The longest URL.
const MAX_BYTES: usize = 2048;

/// The URL as `scheme://host[:port][/path]`: scheme and host in lower case, the scheme's own port and slashes at the end
/// left out.
///
/// # Errors
/// A sentence that does not repeat the URL, when it is not `http` or `https`, names no host, or holds a user name, a
/// query, a fragment, or a path with empty or dot segments.
pub(super) fn normalise(text: &str) -> Result<String, &'static str> {
    const FORM: &str = "this is not a URL; write one such as https://api.example.com/v1";
    if text.len() > MAX_BYTES {
        return Err("a URL has at most 2048 bytes");
    }
    if text.contains('#') {
        return Err("a base URL may not have a fragment (#…); remove it");
    }
    if text.contains('?') {
        return Err("a base URL may not have a query (?…); remove it");
    }
    let uri: Uri = text.parse().map_err(|_| FORM)?;
    let scheme = uri.scheme_str().unwrap_or_default().to_ascii_lowercase();
    if scheme != "http" && scheme != "https" {
        return Err("a base URL begins with http:// or https://");
    }
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    if authority.contains('@') {
        return Err("a base URL may not have a user name or password; put the secret under `credentials`");
    }
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    if !is_host(&host) {
        return Err("the URL names no host, or one that is neither a name nor an address");
    }
    let port = port(authority.get(host.len()..).unwrap_or_default(), &scheme)?;
    let path = uri.path().trim_end_matches('/');
    let plain = |segment: &str| !matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "" | "." | "..");
    if !path.split('/').skip(1).all(plain) {
        return Err("the URL's path holds an empty segment or one of dots");
    }
    Ok(format!("{scheme}://{host}{port}{path}"))
}

/// Like [`normalise`], for a URL that may have a query, which stays as it is written.
///
/// # Errors
/// As for [`normalise`], and for a query of other than visible ASCII characters.
pub(super) fn with_query(text: &str) -> Result<String, &'static str> {
    if text.contains('#') {
        return Err("the URL may not have a fragment (#…); remove it");
    }
    let (base, query) = text.split_once('?').map_or((text, None), |(base, query)| (base, Some(query)));
    let authority = base.split_once("://").and_then(|(_, rest)| rest.split('/').next()).unwrap_or_default();
    if authority.contains('@') {
        return Err("the URL may not have a user name or password; a token goes into its path or query");
    }
    let base = normalise(base)?;
    match query {
        None => Ok(base),
        Some(query) if query.len() <= MAX_BYTES && query.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(format!("{base}?{query}"))
        }
        Some(_) => Err("the URL's query has at most 2048 visible ASCII characters"),
    }
}

/// A host name (letters, digits, `-`, `_`, dots), an IPv4 address, or an IPv6 address in brackets (RFC 3986 section 3.2.2).
fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[') {
        return inner.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
}

/// The port as it is to be written, with its colon; empty for the scheme's own.
fn port(text: &str, scheme: &str) -> Result<String, &'static str> {
    const RANGE: &str = "the URL's port is not a number from 1 to 65535";
    if text.is_empty() {
        return Ok(String::new());
    }
    let digits = text.strip_prefix(':').filter(|port| port.bytes().all(|byte| byte.is_ascii_digit())).ok_or(RANGE)?;
    let port: u16 = digits.parse().map_err(|_| RANGE)?;
    match (port, scheme) {
        (0, _) => Err(RANGE),
        (80, "http") | (443, "https") => Ok(String::new()),
        _ => Ok(format!(":{port}")),
    }
}

/// Whether a normalised URL leads to this machine, so that nothing travels over a network.
pub(super) fn is_local(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether the address of a database, if it is one of a file, names a file.
///
/// # Errors
/// A sentence that does not repeat the text.
pub(super) fn sqlite(text: &str) -> Result<(), &'static str> {
    let Some(path) = text.strip_prefix("sqlite:") else { return Ok(()) };
    match path.trim_start_matches("//") {
        "" => Err("sqlite: names no file; write sqlite:PATH"),
        ":memory:" => Err("a database in memory would be gone with the process; write sqlite:PATH"),
        path if path.contains('?') => {
            Err("the path of a database may not hold a ?; write sqlite:PATH without parameters")
        }
        _ => Ok(()),
    }
}

/// The address of a database, written out or by reference.
///
/// # Errors
/// A sentence that does not repeat the text; one with a password is refused, so that the file holds none by mistake.
pub(super) fn database(text: &str) -> Result<UrlRef, String> {
    let authority = text.split_once("://").map(|(_, rest)| rest.split(['/', '?']).next().unwrap_or_default());
    match text.split_once(':').map(|(scheme, _)| scheme) {
        Some("sqlite") => sqlite(text).map(|()| UrlRef::Bare(text.to_owned())).map_err(str::to_owned),
        Some("postgres" | "postgresql") => {
            let user = authority.and_then(|authority| authority.rsplit_once('@')).map_or("", |(user, _)| user);
            if user.contains(':') || text.to_ascii_lowercase().contains("password=") {
                return Err("the URL holds a password; write env:NAME or file:PATH and keep it there".to_owned());
            }
            Ok(UrlRef::Bare(text.to_owned()))
        }
        _ => SecretRef::parse(text).map(UrlRef::Ref).map_err(|_| {
            "a database is sqlite:PATH or postgres://USER@HOST/NAME, or is written plain:URL, env:NAME or file:PATH"
                .to_owned()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_hide_something_are_refused() {
        for url in [
            "",
            "https://",
            "https:///v1",
            "ftp://a",
            "a.b/v1",
            "https://user@a",
            "https://u:p@a/v1",
            "https://a?x=1",
            "https://a/v1#f",
            "https://a/v1?",
            "https://a:0",
            "https://a:",
            "https://a:65536",
            "https://a:8x",
            "https://a/../b",
            "https://a/%2E%2e/b",
            "https://a//b",
            "https://a b",
            "https://ä.example",
            "https://[::1",
            "https://[fe80::1%25eth0]",
            "https://.a",
            "https://a..b",
            "https://a/v1\n",
        ] {
            assert!(normalise(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_url_has_one_form() {
        let form = |url: &str| normalise(url).unwrap();
        assert_eq!(form("HTTPS://API.Example.com:443/v1//"), "https://api.example.com/v1");
        assert_eq!(form("http://127.0.0.1:80"), "http://127.0.0.1");
        assert_eq!(form("http://[::1]:8000/"), "http://[::1]:8000");
        assert_eq!(form("https://a.b:8443/x/Y"), "https://a.b:8443/x/Y");
        assert!(is_local("http://localhost:1/v1") && is_local("http://[::1]") && !is_local("http://127.0.0.1.example"));
        assert_eq!(form("http://host_with-marks.:8443"), "http://host_with-marks.:8443");
    }
}
