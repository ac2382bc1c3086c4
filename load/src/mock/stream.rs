//! The streamed answers of the mock: a body that makes one event at a time, when it is due and when it is taken.
//!
//! Nothing is made ahead, so a reader that does not read holds the stream at what the sockets buffer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::clock::now_ns;
use crate::mock::Behaviour;
use crate::mock::answer::{USAGE, quoted};

/// The body of an answer.
#[derive(Debug)]
pub enum Answer {
    /// All at once.
    Whole(Option<Bytes>),
    /// Event by event.
    Deltas(Box<Deltas>),
}

impl Answer {
    /// An answer of known length.
    pub fn whole(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Deltas(deltas) => deltas.poll(context).map(|event| event.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Deltas(_) => SizeHint::default(),
        }
    }
}

/// A stream that is being answered.
#[derive(Debug)]
pub struct Deltas {
    behaviour: Behaviour,
    /// `data: {…"system_fingerprint":"fp_`
    before_stamp: String,
    /// The rest of an ordinary delta.
    after_stamp: String,
    sent: u64,
    next: Next,
    include_usage: bool,
    due: Option<(Instant, Pin<Box<Sleep>>)>,
}

#[derive(Clone, Copy, Debug)]
enum Next {
    Delta,
    Finish,
    Usage,
    Done,
    Nothing,
}

impl Deltas {
    /// A stream that begins now.
    pub fn new(model: &str, behaviour: Behaviour, include_usage: bool) -> Self {
        let start = Instant::now();
        Self {
            behaviour,
            before_stamp: format!(
                "data: {{\"id\":\"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG\",\"object\":\"chat.completion.chunk\",\
                 \"created\":1741570283,\"model\":{},\"service_tier\":\"default\",\"system_fingerprint\":\"fp_",
                quoted(model)
            ),
            after_stamp: format!(
                "\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{}\"}},\"logprobs\":null,\
                 \"finish_reason\":null}}]}}\n\n",
                " word".repeat(behaviour.size.div_ceil(5)).get(..behaviour.size).unwrap_or(" word")
            ),
            sent: 0,
            next: if behaviour.deltas == 0 { Next::Finish } else { Next::Delta },
            include_usage,
            due: (behaviour.pace_ms > 0).then(|| (start, Box::pin(tokio::time::sleep_until(start)))),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if matches!(self.next, Next::Delta)
            && self.sent > 0
            && let Some((_, sleep)) = &mut self.due
            && sleep.as_mut().poll(context).is_pending()
        {
            return Poll::Pending;
        }
        Poll::Ready(self.make())
    }

    fn make(&mut self) -> Option<Bytes> {
        let (event, next) = match self.next {
            Next::Delta => {
                self.sent += 1;
                if let Some((due, sleep)) = &mut self.due {
                    // From the time it was due, not from now: a late one does not delay those after it.
                    *due += Duration::from_millis(self.behaviour.pace_ms);
                    sleep.as_mut().reset(*due);
                }
                let more = self.sent < self.behaviour.deltas;
                (self.event(&self.after_stamp), if more { Next::Delta } else { Next::Finish })
            }
            Next::Finish => {
                let rest =
                    "\",\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\n";
                (self.event(rest), if self.include_usage { Next::Usage } else { Next::Done })
            }
            Next::Usage => (self.event(&format!("\",\"choices\":[],\"usage\":{USAGE}}}\n\n")), Next::Done),
            Next::Done => (Bytes::from_static(b"data: [DONE]\n\n"), Next::Nothing),
            Next::Nothing => return None,
        };
        self.next = next;
        Some(event)
    }

    fn event(&self, rest: &str) -> Bytes {
        let stamp = format!("{:019}", now_ns());
        let mut event = Vec::with_capacity(self.before_stamp.len() + stamp.len() + rest.len());
        event.extend_from_slice(self.before_stamp.as_bytes());
        event.extend_from_slice(stamp.as_bytes());
        event.extend_from_slice(rest.as_bytes());
        Bytes::from(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::{Events, stamp_ns};
    use http_body_util::BodyExt;

    async fn events(deltas: u64, pace_ms: u64, include_usage: bool) -> Vec<String> {
        let behaviour = Behaviour { deltas, pace_ms, delay_ms: 0, size: 12 };
        let body = Answer::Deltas(Box::new(Deltas::new("mock", behaviour, include_usage)));
        let bytes = body.collect().await.expect("infallible").to_bytes();
        let mut reader = Events::default();
        let mut found = Vec::new();
        reader.feed(&bytes, &mut |event| found.push(String::from_utf8_lossy(event).trim().to_owned()));
        assert!(reader.is_complete());
        found
    }

    #[tokio::test]
    async fn every_event_is_json_with_a_stamp() {
        for event in events(3, 0, true).await {
            assert!(stamp_ns(event.as_bytes()) > Some(0));
            let json = event.strip_prefix("data: ").expect("an event");
            serde_json::from_str::<serde_json::Value>(json).expect("valid JSON");
        }
    }

    #[tokio::test]
    async fn usage_comes_only_when_asked_for() {
        assert_eq!(events(3, 0, false).await.len(), 4);
        let with = events(3, 0, true).await;
        assert_eq!(with.len(), 5);
        assert!(with[4].contains("\"usage\""));
        assert!(!with[..4].concat().contains("\"usage\""));
    }

    #[tokio::test]
    async fn an_empty_stream_still_finishes() {
        assert_eq!(events(0, 0, false).await.len(), 1);
    }

    #[tokio::test]
    async fn the_pace_is_kept_between_deltas_and_not_before_the_first() {
        let stamps: Vec<u64> =
            events(4, 5, false).await.iter().filter_map(|event| stamp_ns(event.as_bytes())).collect();
        for pair in stamps[..4].windows(2) {
            // Never early by more than the timer's step of 1 ms; how late depends on the machine.
            assert!(pair[1] - pair[0] > 3_000_000, "{stamps:?}");
        }
    }
}
