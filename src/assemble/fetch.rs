//! Fetching one small public document for a command, over http or https. Redirects are not followed.

use std::time::Duration;

use bytes::Bytes;
use pingora_http::RequestHeader;

use crate::assemble::connector::connector;
use crate::provider::endpoint::Endpoint;
use crate::provider::transport::plain_peer;
use crate::unit::version::VERSION;

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Fetches a document of at most so many bytes. A URL without a path gets `usual`.
///
/// # Errors
/// A sentence without its first capital: the URL is none, nobody answers, or the answer is not 200 or too long.
pub async fn document(url: &str, usual: &str, most: usize) -> Result<Bytes, String> {
    let late = || "it does not answer in time".to_owned();
    tokio::time::timeout(PATIENCE, ask(url, usual, most)).await.unwrap_or_else(|_| Err(late()))
}

async fn ask(url: &str, usual: &str, most: usize) -> Result<Bytes, String> {
    let endpoint = Endpoint::parse(url)?;
    let path = if endpoint.prefix.is_empty() { usual } else { &endpoint.prefix };
    let peer = plain_peer(&endpoint).await.map_err(str::to_owned)?;
    let broken = |_| "the connection could not be made, or broke".to_owned();
    let (mut session, _) = connector().get_http_session(&peer).await.map_err(broken)?;
    let head = || {
        let mut head = RequestHeader::build("GET", path.as_bytes(), Some(3))?;
        head.insert_header("host", endpoint.authority.as_str())?;
        head.insert_header("accept", "application/jwk-set+json, application/json")?;
        head.insert_header("user-agent", format!("marg/{VERSION}"))?;
        Ok(head)
    };
    session.write_request_header(Box::new(head().map_err(broken)?)).await.map_err(broken)?;
    session.finish_request_body().await.map_err(broken)?;
    session.read_response_header().await.map_err(broken)?;
    let status = session.response_header().map_or(0, |head| head.status.as_u16());
    if status != 200 {
        return Err(format!("it answered with the status {status}"));
    }
    let mut text = Vec::new();
    while let Some(piece) = session.read_response_body().await.map_err(broken)? {
        text.extend_from_slice(&piece);
        if text.len() > most {
            return Err(format!("its answer is longer than {most} bytes"));
        }
    }
    session.shutdown().await;
    Ok(text.into())
}
