//! The HTTP/2 side of a scripted provider.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::support::reply::{Answer, Body, End, Fed, What, When};
use crate::support::upstream::{Seen, State};

/// Serves requests until one side ends the connection.
pub async fn serve(stream: TcpStream, number: usize, state: Arc<State>) {
    let service = hyper::service::service_fn(move |request| respond(request, number, state.clone()));
    let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    // A connection that breaks is what many scripts are about.
    let _ended = serving.await;
}

type Served = Response<BoxBody<Bytes, io::Error>>;

async fn respond(request: Request<Incoming>, number: usize, state: Arc<State>) -> io::Result<Served> {
    let (place, reply) = state.begin(head(&request, number));
    let expected =
        request.headers().get("content-length").map_or(0, |length| length.to_str().unwrap().parse().unwrap());
    let mut body = request.into_body();
    let read = match reply.when {
        When::AtOnce => Bytes::new(),
        When::Midway => read(&mut body, expected / 2).await?,
        When::Afterwards => read(&mut body, usize::MAX).await?,
    };
    let seen = state.body(place, read, reply.when == When::Afterwards);
    let answer = match reply.what {
        What::Answer(answer) => answer,
        What::Computed(compute) => compute(&seen),
        What::Hang => std::future::pending().await,
        What::Close => return Err(io::ErrorKind::ConnectionReset.into()),
        What::Raw(_) => panic!("only HTTP/1 can say something that is not HTTP"),
    };
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    Ok(response.body(self::body(answer, state)).unwrap())
}

fn head(request: &Request<Incoming>, connection: usize) -> Seen {
    let authority = request.uri().authority().map(|authority| ("host".to_owned(), authority.to_string()));
    let named = request
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    let mut seen = Seen {
        connection,
        case: String::new(),
        method: request.method().to_string(),
        path: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: authority.into_iter().chain(named).collect(),
        body: Bytes::new(),
        whole: false,
    };
    seen.case = seen.header("x-case").unwrap_or_default().to_owned();
    seen
}

async fn read(body: &mut Incoming, most: usize) -> io::Result<Bytes> {
    let mut read = BytesMut::new();
    while read.len() < most {
        match body.frame().await {
            Some(Ok(frame)) => read.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Some(Err(error)) => return Err(io::Error::other(error)),
            None => break,
        }
    }
    Ok(read.freeze())
}

fn body(answer: Answer, state: Arc<State>) -> BoxBody<Bytes, io::Error> {
    if let Body::Whole(bytes) = answer.body {
        return http_body_util::Full::new(bytes).map_err(|never: Infallible| match never {}).boxed();
    }
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(write(answer.body, sender));
    Pieces(receiver, state).boxed()
}

async fn write(body: Body, sender: mpsc::Sender<io::Result<Bytes>>) {
    let end = match body {
        Body::Whole(_) => unreachable!("is sent with its length"),
        Body::Pieces(pieces, end) => {
            for piece in pieces {
                if sender.send(Ok(piece)).await.is_err() {
                    return;
                }
            }
            end
        }
        Body::Repeated(piece, times) => {
            for _ in 0..times {
                if sender.send(Ok(piece.clone())).await.is_err() {
                    return;
                }
            }
            End::Clean
        }
        Body::Fed(feed) => {
            let mut receiver = feed.lock().unwrap().take().expect("a feed is used once");
            loop {
                let fed = tokio::select! {
                    fed = receiver.recv() => fed,
                    () = sender.closed() => return,
                };
                match fed {
                    Some(Fed::Piece(piece)) if sender.send(Ok(piece.clone())).await.is_ok() => {}
                    Some(Fed::Piece(_)) => return,
                    Some(Fed::Cut) => break End::Cut,
                    None => break End::Clean,
                }
            }
        }
    };
    if end == End::Cut {
        // If nobody waits for it any more, there is nobody to be told.
        let _gone = sender.send(Err(io::ErrorKind::ConnectionReset.into())).await;
    }
}

struct Pieces(mpsc::Receiver<io::Result<Bytes>>, Arc<State>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|piece| {
            if let Some(Ok(bytes)) = &piece {
                self.1.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            piece.map(|piece| piece.map(Frame::data))
        })
    }
}
