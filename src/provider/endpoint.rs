//! Where a provider is: its base URL taken apart, and the addresses behind its host name.
//!
//! Names are resolved through the system's resolver off the request path: the first request waits, later ones use the last
//! answer while a newer one is fetched in the background. Addresses that belong to cloud metadata services are refused after
//! resolution, so that no name can lead a credential there. Redirects are not followed anywhere. Of several addresses the next
//! is tried beside one that does not answer at once (RFC 8305), and whichever answered is asked first from then on.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::net::TcpStream;

use crate::telemetry::task;
use crate::unit::clock::Tick;

/// How long an answer of the resolver is used before a newer one is fetched.
const FRESH_FOR: Duration = Duration::from_secs(30);
/// How long a resolution may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an address is waited for alone before the next is tried beside it (RFC 8305 section 5 recommends 250 ms).
const HEAD_START: Duration = Duration::from_millis(250);
/// The most addresses that are taken of an answer.
const MOST_ADDRESSES: usize = 16;

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
    fixed: Option<Arc<Answer>>,
    resolved: Arc<Resolved>,
}

#[derive(Debug, Default)]
struct Resolved {
    answer: ArcSwapOption<Answer>,
    busy: AtomicBool,
}

/// What the resolver said.
#[derive(Debug)]
struct Answer {
    addresses: Vec<SocketAddr>,
    /// The place of the one that is tried first.
    first: AtomicUsize,
    at: Tick,
}

/// The addresses behind a name, at the moment when a connection is about to be made: first the one that answered last.
#[derive(Clone, Debug)]
pub struct Addresses {
    answer: Arc<Answer>,
    place: usize,
    first: SocketAddr,
}

impl Endpoint {
    /// Whether a text names it: its authority or its host, in any case. A host that is a single word counts in an address only.
    ///
    /// *Cost*: two walks over the text; no allocation.
    pub fn is_named_in(&self, text: &[u8]) -> bool {
        names(text, &self.authority) || names(text, &self.host)
    }

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
            fixed: fixed.map(|address| Arc::new(Answer::new(vec![address], 0))),
            resolved: Arc::default(),
        })
    }

    /// The addresses to connect to, at least one. Waits for the resolver only if it never answered before.
    ///
    /// # Errors
    /// A sentence without the host, when the name cannot be resolved or leads to a refused address.
    pub async fn addresses(&self) -> Result<Addresses, &'static str> {
        if let Some(answer) = &self.fixed {
            return answer.clone().current();
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
            return answer.current();
        }
        self.resolved.ask(&self.host, self.port).await?.current()
    }

    /// Says that nobody of use listens at an address although it takes connections, so that another is tried first from now on;
    /// whether there is another.
    pub fn pass_over(&self, address: SocketAddr) -> bool {
        let answer = self.resolved.answer.load();
        let Some(answer) = answer.as_ref().filter(|answer| answer.addresses.len() > 1) else { return false };
        if let Some(place) = answer.addresses.iter().position(|known| *known == address) {
            answer.prefer(place, (place + 1) % answer.addresses.len());
        }
        true
    }
}

impl Resolved {
    async fn ask(&self, host: &str, port: u16) -> Result<Arc<Answer>, &'static str> {
        let lookup = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host, port))).await;
        let found = lookup.map_err(|_| "the resolver did not answer in time")?;
        let usable = found
            .map_err(|_| "the provider's host name cannot be resolved")?
            .filter(|address| !is_metadata_service(address.ip()));
        let addresses = in_turns(usable.take(MOST_ADDRESSES).collect());
        if addresses.is_empty() {
            return Err("the provider's host name leads to no address that may be used");
        }
        let first = self.answer.load().as_ref().and_then(|last| last.kept_in(&addresses));
        let answer = Arc::new(Answer::new(addresses, first.unwrap_or(0)));
        self.answer.store(Some(answer.clone()));
        Ok(answer)
    }
}

impl Answer {
    fn new(addresses: Vec<SocketAddr>, first: usize) -> Self {
        Self { addresses, first: AtomicUsize::new(first), at: Tick::now() }
    }

    fn current(self: Arc<Self>) -> Result<Addresses, &'static str> {
        let place = self.first.load(Ordering::Relaxed);
        let first = *self.addresses.get(place).ok_or("the provider's host name leads to no address")?;
        Ok(Addresses { answer: self, place, first })
    }

    /// Lets another address be tried first, unless somebody has chosen since.
    fn prefer(&self, instead_of: usize, place: usize) {
        // If it is refused, somebody else was quicker.
        let _chosen = self.first.compare_exchange(instead_of, place, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Where in a newer answer the chosen address is. The resolver's own order counts until its first address has failed.
    fn kept_in(&self, newer: &[SocketAddr]) -> Option<usize> {
        let chosen = self.first.load(Ordering::Relaxed);
        let address = self.addresses.get(chosen).filter(|_| chosen > 0)?;
        newer.iter().position(|known| known == address)
    }
}

/// One connection in the making, and the place of its address.
type Try<T> = Pin<Box<dyn Future<Output = (usize, io::Result<T>)> + Send>>;

impl Addresses {
    /// The one that is tried first.
    pub fn first(&self) -> SocketAddr {
        self.first
    }

    /// Whether there is another.
    pub fn are_several(&self) -> bool {
        self.answer.addresses.len() > 1
    }

    /// Connects to whichever address answers first. The next is tried as soon as one refuses, and beside one that says nothing for
    /// [`HEAD_START`]. The one that answered is remembered. Without a limit of its own; dropping it gives all of them up.
    ///
    /// # Errors
    /// The last refusal, when every address has refused.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        self.connect_by(TcpStream::connect).await
    }

    async fn connect_by<T, F>(&self, connect: impl Fn(SocketAddr) -> F) -> io::Result<T>
    where
        T: 'static,
        F: Future<Output = io::Result<T>> + Send + 'static,
    {
        let all = &self.answer.addresses;
        let places = (0..all.len()).map(|step| (self.place + step) % all.len());
        let mut untried = places.filter_map(|place| Some((place, *all.get(place)?))).peekable();
        let mut open: Vec<Try<T>> = Vec::new();
        let mut refusal = io::ErrorKind::AddrNotAvailable.into();
        loop {
            match untried.next() {
                Some((place, address)) => {
                    let connecting = connect(address);
                    open.push(Box::pin(async move { (place, connecting.await) }));
                }
                None if open.is_empty() => return Err(refusal),
                None => {}
            }
            tokio::select! {
                biased;
                (place, tried) = any(&mut open) => match tried {
                    Ok(connected) => {
                        self.answer.prefer(self.place, place);
                        return Ok(connected);
                    }
                    Err(error) => refusal = error,
                },
                () = tokio::time::sleep(HEAD_START), if untried.peek().is_some() => {}
            }
        }
    }
}

/// Waits for the first of several to be done, and takes it out.
async fn any<T>(open: &mut Vec<Try<T>>) -> (usize, io::Result<T>) {
    poll_fn(|context| {
        for at in 0..open.len() {
            let polled = open.get_mut(at).map(|one| one.as_mut().poll(context));
            if let Some(Poll::Ready(done)) = polled {
                drop(open.swap_remove(at));
                return Poll::Ready(done);
            }
        }
        Poll::Pending
    })
    .await
}

/// Lets the families of addresses take turns, the resolver's first one first (RFC 8305 section 4), so that a whole family that
/// leads nowhere costs one try.
fn in_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().map(SocketAddr::is_ipv6) else { return addresses };
    let (one, other): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == first);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut turns = Vec::new();
    loop {
        let pair = (one.next(), other.next());
        if pair == (None, None) {
            return turns;
        }
        turns.extend(pair.0.into_iter().chain(pair.1));
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

fn names(text: &[u8], host: &str) -> bool {
    let Some(first) = host.as_bytes().first() else { return false };
    let is_word = !host.contains(['.', ':']);
    memchr::memchr2_iter(first.to_ascii_lowercase(), first.to_ascii_uppercase(), text).any(|at| {
        let (before, rest) = text.split_at_checked(at).unwrap_or_default();
        let Some((found, behind)) = rest.split_at_checked(host.len()) else { return false };
        let joins = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        found.eq_ignore_ascii_case(host.as_bytes())
            && !joins(before.last())
            && !joins(behind.first())
            && (!is_word || before.ends_with(b"//"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_found_where_a_text_names_it() {
        let is_named = |url: &str, text: &str| Endpoint::parse(url).unwrap().is_named_in(text.as_bytes());
        for (url, text) in [
            ("https://api.example.com/v1", "xapi.example.com"),
            ("https://api.example.com/v1", "api.example.community"),
            ("https://api.example.com/v1", "api.example"),
            ("https://api.example.com/v1", ""),
            ("http://vllm/v1", "vllm 0.11"),
            ("http://vllm:8000/v1", "vllm:80000"),
        ] {
            assert!(!is_named(url, text), "{url} {text}");
        }
        for (url, text) in [
            ("https://api.example.com/v1", "https://API.example.com/v1/chat"),
            ("https://api.example.com/v1", "api.example.com:443"),
            ("https://api.example.com/v1", "xapi.example.com, api.example.com"),
            ("http://vllm/v1", "http://vllm/v1"),
            ("http://vllm:8000/v1", "at vllm:8000"),
            ("http://10.0.0.7:8000/v1", "10.0.0.7"),
            ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ] {
            assert!(is_named(url, text), "{url} {text}");
        }
    }

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
    fn addresses(all: &[SocketAddr]) -> Addresses {
        Arc::new(Answer::new(all.to_vec(), 0)).current().unwrap()
    }

    /// An address at which nobody listens; it stays taken for as long as the socket is held.
    fn refusing() -> (tokio::net::TcpSocket, SocketAddr) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    #[tokio::test]
    async fn where_every_address_refuses_the_connection_is_refused() {
        let ((_one, first), (_two, second)) = (refusing(), refusing());
        let refused = addresses(&[first, second]).connect().await.map(drop).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn the_next_address_is_tried_at_once_and_then_comes_first() {
        let (_taken, dead) = refusing();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = listener.local_addr().unwrap();
        let known = addresses(&[dead, alive]);
        assert_eq!((known.first(), known.are_several()), (dead, true));
        assert_eq!(known.connect().await.unwrap().peer_addr().unwrap(), alive);
        assert_eq!(known.answer.clone().current().unwrap().first(), alive);
        // Whoever began before and failed later does not take that back.
        known.answer.prefer(0, 0);
        assert_eq!(known.answer.clone().current().unwrap().first(), alive);
    }

    #[tokio::test]
    async fn an_address_that_says_nothing_holds_up_no_other() {
        let all: Vec<SocketAddr> =
            ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"].map(|text| text.parse().unwrap()).into();
        let known = addresses(&all);
        let alive = all[2];
        let connected = known.connect_by(move |address| async move {
            if address == alive { Ok(address) } else { std::future::pending().await }
        });
        assert_eq!(connected.await.unwrap(), alive);
        assert_eq!(known.answer.clone().current().unwrap().first(), alive);
    }

    #[test]
    fn a_newer_answer_keeps_what_worked_and_families_take_turns() {
        let all: Vec<SocketAddr> =
            ["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1"].iter().map(|text| text.parse().unwrap()).collect();
        let turns = in_turns(all.clone());
        assert_eq!(turns, [all[0], all[3], all[1], all[2]]);
        let answer = Answer::new(turns, 0);
        assert_eq!(answer.kept_in(&all), None, "the resolver's order counts");
        answer.prefer(0, 1);
        assert_eq!(answer.kept_in(&all), Some(3));
        assert_eq!(answer.kept_in(&all[..3]), None, "it is gone");
    }
}
