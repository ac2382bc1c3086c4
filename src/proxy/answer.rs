//! Writes an answer that Marg gives itself.

use bytes::Bytes;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::ledger::Outcome;
use crate::pipeline::answer::Answer;
use crate::pipeline::exchange::Exchange;
use crate::proxy::{body, headers};

/// Settles the exchange and sends the answer. A caller that is gone is not an error.
pub async fn send(session: &mut Session, exchange: &mut Exchange, answer: Answer) {
    let head_only = session.req_header().method == http::Method::HEAD;
    exchange.answer_alone(if head_only { &[] } else { &answer.body });
    let outcome = match exchange.record.outcome {
        Outcome::Interrupted => Outcome::Answered,
        other => other,
    };
    exchange.settle(outcome);
    let Ok(response) = head(&answer, exchange) else {
        tracing::error!(id = %exchange.record.id, "an answer could not be written down");
        return;
    };
    // The answer does not wait for what is left of the request's body; the connection ends behind it.
    let early = !session.as_mut().is_body_done();
    if early {
        session.set_keepalive(None);
    }
    let content = if head_only { Bytes::new() } else { answer.body };
    if session.write_response_header(Box::new(response), content.is_empty()).await.is_ok() && !content.is_empty() {
        let _gone = session.write_response_body(Some(content), true).await;
    }
    // Who was too slow is not waited for again.
    if early && answer.status != 408 {
        body::linger(session).await;
    }
}

fn head(answer: &Answer, exchange: &Exchange) -> pingora_error::Result<ResponseHeader> {
    let mut response = ResponseHeader::build(answer.status, Some(8 + answer.headers.len()))?;
    response.insert_header("content-type", answer.content_type)?;
    response.insert_header("content-length", answer.body.len())?;
    response.insert_header("cache-control", "no-store")?;
    headers::name_exchange(&mut response, exchange)?;
    if !exchange.record.attempts.is_empty() {
        response.insert_header("x-marg-attempts", exchange.attempts_made())?;
    }
    for (name, value) in &answer.headers {
        response.insert_header(*name, value.as_str())?;
    }
    Ok(response)
}

/// Whether the head of an answer has gone to the caller, so that no other can.
pub fn has_begun(session: &Session) -> bool {
    session.response_written().is_some_and(|response| !response.status.is_informational())
}
