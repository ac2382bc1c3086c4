//! Asking outside witnesses to cosign the log's checkpoints (c2sp.org/tlog-witness).
//!
//! After each new checkpoint every witness with an address is asked, one round at a time and at most once a second, so a slow
//! witness delays the next round by [`PATIENCE`] at most and never an exchange. A witness that knows more of this log than there is has seen
//! another copy of it: that is said loudly, because the folder was rolled back or the log was forked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pingora_core::connectors::http::Connector;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use tokio::sync::watch;

use crate::assemble::alarm::{Alarms, What};
use crate::assemble::audit::Keeper;
use crate::audit::log::{Log, Published};
use crate::audit::note::{Note, SignatureLine};
use crate::audit::policy::WitnessKey;
use crate::audit::tiles::TreeFiles;
use crate::audit::witness::{AddCheckpoint, Asked, PATH, read_reply};
use crate::provider::endpoint::Endpoint;
use crate::telemetry::metrics::METRICS;
use crate::unit::version::VERSION;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The least time between two rounds, and the pause before a log that is not open is looked for again.
const ROUND_EVERY: Duration = Duration::from_secs(1);
/// After so long a witness that did not cosign is asked again, even where nothing new was signed.
const AGAIN: Duration = Duration::from_secs(10);
/// The largest answer: a few cosignatures.
const ANSWER_LIMIT_BYTES: usize = 64 * 1024;

/// Asks until the process stops.
pub async fn run(keeper: Arc<Keeper>, mut stopped: watch::Receiver<bool>) {
    let connector = Connector::new(None);
    let mut known: HashMap<String, u64> = HashMap::new();
    loop {
        let rest = async {
            let Some(log) = keeper.log() else { return tokio::time::sleep(ROUND_EVERY).await };
            let mut sizes = log.sizes();
            let size = *sizes.borrow_and_update();
            let complete = size == 0 || round(&log, &connector, (&mut known, keeper.alarms())).await;
            tokio::time::sleep(ROUND_EVERY).await;
            let next = sizes.wait_for(|now| *now > size);
            // A round that was not complete is tried again; one that was waits for something new.
            if complete {
                drop(next.await);
            } else {
                drop(tokio::time::timeout(AGAIN, next).await);
            }
        };
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = rest => {}
        }
    }
}

/// Asks every witness for the last checkpoint, and keeps what they gave; whether all cosigned.
async fn round(log: &Arc<Log>, connector: &Connector, (known, alarms): (&mut HashMap<String, u64>, &Alarms)) -> bool {
    let (Some(published), _) = log.published() else { return true };
    let policy = log.policy();
    let asked: Vec<&WitnessKey> = policy.witnesses().iter().filter(|witness| witness.url.is_some()).collect();
    let mut lines: Vec<SignatureLine> = Vec::new();
    let mut complete = true;
    for witness in asked {
        let old = known.entry(witness.name.clone()).or_default();
        match ask(log, connector, (witness, &published), (&mut *old, alarms)).await {
            Ok(cosigned) => lines.extend(cosigned),
            Err(reason) => {
                complete = false;
                METRICS.audit_witness_failures.with_label_values(&[&witness.name]).inc();
                tracing::warn!(witness = witness.name, reason, "a witness did not cosign the audit log");
            }
        }
    }
    if !lines.is_empty() {
        keep(log.clone(), &published, lines).await;
    }
    complete
}

/// Keeps cosignatures with the checkpoint.
async fn keep(log: Arc<Log>, published: &Published, lines: Vec<SignatureLine>) {
    let Note { text, signatures } = published.note.clone();
    let mut all = signatures;
    for line in lines {
        if !all.contains(&line) {
            all.push(line);
        }
    }
    let note = Note { text, signatures: all }.to_string();
    let kept = tokio::task::spawn_blocking(move || log.cosigned(&note)).await;
    if let Ok(Err(error)) = kept {
        tracing::error!(%error, "cosignatures of the audit log could not be kept; witnesses are asked again");
    }
}

/// Asks one witness, from the size that it knows.
async fn ask(
    log: &Arc<Log>,
    connector: &Connector,
    (witness, published): (&WitnessKey, &Published),
    (old, alarms): (&mut u64, &Alarms),
) -> Result<Vec<SignatureLine>, String> {
    // The first question may find out what the witness knows, the second tells it what it wants.
    for _ in 0..2 {
        let (tree, wanted, from) = (log.clone(), published.clone(), *old);
        let made = tokio::task::spawn_blocking(move || {
            let tree = TreeFiles::new(&tree.log_folder(), wanted.checkpoint.size);
            AddCheckpoint::make(&wanted, from, &tree).map(|request| (request.old, request.to_text()))
        });
        let (from, body) = made.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let url = witness.url.as_deref().unwrap_or_default();
        let sent = tokio::time::timeout(PATIENCE, post(connector, url, body.into())).await;
        let (status, text) = sent.map_err(|_| "it did not answer in time".to_owned())??;
        match read_reply(witness, published, from, (status, &text)) {
            Asked::Cosigned(lines) => {
                *old = published.checkpoint.size;
                return Ok(lines);
            }
            Asked::From(size) => *old = size,
            Asked::Ahead(size) => {
                let ours = published.checkpoint.size;
                let cause = format!("the witness {} has cosigned {size} entries, the log has {ours}", witness.name);
                alarms.set(What::Rollback, Some(cause));
                return Err(format!("it has cosigned {size} entries of this log"));
            }
            Asked::Refused(reason) => return Err(reason),
        }
    }
    Err("it changes its mind about the size that it knows".to_owned())
}

/// Posts a text; status and text of the answer.
async fn post(connector: &Connector, url: &str, body: Bytes) -> Result<(u16, String), String> {
    let endpoint = Endpoint::parse(url)?;
    let address = endpoint.address().await.map_err(str::to_owned)?;
    let peer = HttpPeer::new(address, endpoint.tls, endpoint.host.clone());
    let broken = |_| "the connection could not be made, or broke".to_owned();
    let (mut session, _) = connector.get_http_session(&peer).await.map_err(broken)?;
    session.set_read_timeout(Some(PATIENCE));
    session.set_write_timeout(Some(PATIENCE));
    let head = || {
        let path = format!("{}{PATH}", endpoint.prefix);
        let mut head = RequestHeader::build("POST", path.as_bytes(), Some(4))?;
        head.insert_header("host", endpoint.authority.as_str())?;
        head.insert_header("content-type", "text/plain; charset=utf-8")?;
        head.insert_header("content-length", body.len().to_string())?;
        head.insert_header("user-agent", format!("marg/{VERSION}"))?;
        Ok(head)
    };
    session.write_request_header(Box::new(head().map_err(broken)?)).await.map_err(broken)?;
    session.write_request_body(body.clone(), true).await.map_err(broken)?;
    session.finish_request_body().await.map_err(broken)?;
    session.read_response_header().await.map_err(broken)?;
    let status = session.response_header().map_or(0, |head| head.status.as_u16());
    let mut text = Vec::new();
    while let Some(piece) = session.read_response_body().await.map_err(broken)? {
        text.extend_from_slice(&piece);
        if text.len() > ANSWER_LIMIT_BYTES {
            return Err("its answer is too long".to_owned());
        }
    }
    session.shutdown().await;
    Ok((status, String::from_utf8_lossy(&text).into_owned()))
}
