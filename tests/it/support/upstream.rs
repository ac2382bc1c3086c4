//! A scripted provider on this machine. It writes down every request and answers by script.
//!
//! A test names its requests with the header `x-case`, which passes through the gateway like any unknown header; scripts and
//! what was seen are looked up by it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::support::reply::Reply;
use crate::support::{answers, soon, upstream_h1, upstream_h2};

/// What one request looked like when it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The number of the connection, from 0.
    pub connection: usize,
    /// The value of `x-case`, or nothing.
    pub case: String,
    /// The method.
    pub method: String,
    /// The path with the query.
    pub path: String,
    /// The headers in order; on HTTP/2 `:authority` counts as `host`.
    pub headers: Vec<(String, String)>,
    /// As much of the body as was read.
    pub body: Bytes,
    /// Whether the whole body was read.
    pub whole: bool,
}

impl Seen {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The BLAKE3 hash of the body.
    pub fn hash(&self) -> blake3::Hash {
        blake3::hash(&self.body)
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body that arrived is JSON")
    }
}

type Script = Arc<dyn Fn(usize, &Seen) -> Reply + Send + Sync>;

/// A scripted provider. It stops when dropped.
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    http2: bool,
    pub(super) state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
    _reserved: Option<TcpSocket>,
}

/// What its connections share.
#[derive(Default)]
pub(super) struct State {
    seen: Mutex<Vec<Seen>>,
    scripts: Mutex<HashMap<String, Script>>,
    changed: Notify,
    connections: AtomicUsize,
    pub(super) sent: AtomicU64,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Upstream {
    /// A provider that speaks HTTP/1.1.
    pub async fn http1() -> Self {
        Self::listen(false).await
    }

    /// A provider that speaks HTTP/2 by prior knowledge.
    pub async fn http2() -> Self {
        Self::listen(true).await
    }

    /// A provider whose port refuses connections. The port stays taken, so that nobody else answers there.
    pub fn refusing() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = socket.local_addr().unwrap();
        Self { address, http2: false, state: Arc::default(), accepting: None, _reserved: Some(socket) }
    }

    async fn listen(http2: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<State>::default();
        let accepting = tokio::spawn(accept(listener, state.clone(), http2));
        Self { address, http2, state, accepting: Some(accepting), _reserved: None }
    }

    /// Answers requests of a case by a script, which is given how many came before and the request's head.
    pub fn script(&self, case: &str, script: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static) {
        self.state.scripts.lock().unwrap().insert(case.to_owned(), Arc::new(script));
    }

    /// Answers every request of a case in the same way.
    pub fn answer(&self, case: &str, reply: Reply) {
        self.script(case, move |_, _| reply.clone());
    }

    /// The requests of a case so far, those included whose body was not read to the end.
    pub fn seen(&self, case: &str) -> Vec<Seen> {
        let seen = self.state.seen.lock().unwrap();
        let found: Vec<Seen> = seen.iter().filter(|seen| seen.case == case).cloned().collect();
        for request in &found {
            let text = format!("{:?}", request.headers);
            assert!(!text.contains("marg_live_"), "the caller's credential reached a provider: {text}");
        }
        found
    }

    /// The only request of a case, when it has arrived.
    pub async fn only(&self, case: &str) -> Seen {
        self.wait_for(case, 1).await.pop().unwrap()
    }

    /// Waits until so many requests of a case have arrived, and that no more have.
    pub async fn wait_for(&self, case: &str, count: usize) -> Vec<Seen> {
        let arrived = async {
            loop {
                let changed = self.state.changed.notified();
                let seen = self.seen(case);
                if seen.len() >= count {
                    return seen;
                }
                changed.await;
            }
        };
        let seen = soon("a request at the provider", arrived).await;
        assert_eq!(seen.len(), count, "requests of the case {case:?}");
        seen
    }

    /// Ends every connection at once; new ones are taken.
    pub async fn hang_up(&self) {
        let tasks: Vec<JoinHandle<()>> = self.state.tasks.lock().unwrap().drain(..).collect();
        for task in tasks {
            task.abort();
            // Once the task is gone, so is its socket.
            let _aborted = task.await;
        }
    }

    /// Whether it speaks HTTP/2.
    pub fn speaks_http2(&self) -> bool {
        self.http2
    }

    /// How many requests there have been, the gateway's own questions for the list of models left out.
    pub fn asked(&self) -> usize {
        let seen = self.state.seen.lock().unwrap();
        seen.iter().filter(|seen| !(seen.case.is_empty() && seen.path.ends_with("/models"))).count()
    }

    /// How many connections there are.
    pub fn open(&self) -> usize {
        self.state.tasks.lock().unwrap().iter().filter(|task| !task.is_finished()).count()
    }

    /// How many bytes of bodies without a length have been sent.
    pub fn sent_bytes(&self) -> u64 {
        self.state.sent.load(Ordering::Relaxed)
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
        for task in self.state.tasks.lock().unwrap().drain(..) {
            task.abort();
        }
    }
}

impl State {
    /// Writes a request's head down; gives its place and what to do with it.
    pub(super) fn begin(&self, seen: Seen) -> (usize, Reply) {
        let case = seen.case.clone();
        let mut all = self.seen.lock().unwrap();
        let before = all.iter().filter(|other| other.case == case).count();
        let script = self.scripts.lock().unwrap().get(&case).cloned();
        let reply = script.map_or_else(answers::by_request, |script| script(before, &seen));
        let place = all.len();
        all.push(seen);
        drop(all);
        self.changed.notify_waiters();
        (place, reply)
    }

    /// Writes down what was read of a request's body; gives the request as it now is.
    pub(super) fn body(&self, place: usize, body: Bytes, whole: bool) -> Seen {
        let mut all = self.seen.lock().unwrap();
        let seen = &mut all[place];
        seen.body = body;
        seen.whole = whole;
        let seen = seen.clone();
        drop(all);
        self.changed.notify_waiters();
        seen
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, http2: bool) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        let number = state.connections.fetch_add(1, Ordering::SeqCst);
        let task = tokio::spawn(serve(stream, number, state.clone(), http2));
        let mut tasks = state.tasks.lock().unwrap();
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }
}

async fn serve(stream: TcpStream, number: usize, state: Arc<State>, http2: bool) {
    if http2 {
        upstream_h2::serve(stream, number, state).await;
    } else {
        // A connection that breaks is what many scripts are about.
        let _ended = upstream_h1::serve(stream, number, state).await;
    }
}
