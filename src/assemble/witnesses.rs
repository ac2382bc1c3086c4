//! Asking outside witnesses to cosign the log's checkpoints (c2sp.org/tlog-witness).
//!
//! After each new checkpoint, at most once a second, every witness with an address is asked at the same time. A round ends when
//! all have answered, or a moment after enough of them have; whoever is slower answers in the background and is left out of
//! rounds until then, so neither a slow witness nor one that is away holds up the others, and none ever holds up an exchange
//! (`a_slow_witness_holds_up_nobody`). A witness that has cosigned more of this log than there is, or another history, has seen
//! another copy of it: that is said loudly, because the folder was put back or the log was forked.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pingora_http::RequestHeader;
use tokio::sync::{mpsc, watch};

use crate::admin::control::WitnessState;
use crate::assemble::alarm::What;
use crate::assemble::audit::Keeper;
use crate::assemble::connector::connector;
use crate::audit::log::{Log, Published};
use crate::audit::note::SignatureLine;
use crate::audit::policy::WitnessKey;
use crate::audit::tiles::TreeFiles;
use crate::audit::witness::{AddCheckpoint, Asked, PATH, read_reply};
use crate::provider::endpoint::Endpoint;
use crate::provider::transport::plain_peer;
use crate::telemetry::metrics::METRICS;
use crate::telemetry::task;
use crate::unit::clock::Timestamp;
use crate::unit::version::VERSION;

/// How long a witness has for one checkpoint.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the slower ones are waited for when enough have cosigned.
const GRACE: Duration = Duration::from_millis(500);
/// The least time between two rounds, and the pause before a log that is not open is looked for again.
const ROUND_EVERY: Duration = Duration::from_secs(1);
/// After so long a witness that did not cosign is asked again, even where nothing new was signed.
const AGAIN: Duration = Duration::from_secs(10);
/// So often a witness is asked for one checkpoint: to learn which size it knows, to use that, and once more if another process
/// of this log was quicker.
const QUESTIONS: usize = 3;
/// The largest answer: a few cosignatures.
const ANSWER_LIMIT_BYTES: usize = 64 * 1024;

/// How the witnesses of a log stand, by the names of their keys.
#[derive(Default)]
pub struct Standings(Mutex<BTreeMap<String, WitnessState>>);

impl Standings {
    fn states(&self) -> MutexGuard<'_, BTreeMap<String, WitnessState>> {
        // Each state is replaced as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<WitnessState> {
        self.states().values().cloned().collect()
    }

    /// Notes what came of asking for a checkpoint of that size, and says so where it is news.
    fn note(&self, name: &str, size: u64, came: &Result<(), Trouble>) {
        let mut states = self.states();
        let state = states.entry(name.to_owned()).or_insert_with(|| WitnessState::new(name));
        match came {
            Ok(()) => {
                if state.trouble.take().is_some() {
                    tracing::info!(witness = name, size, "a witness cosigns the audit log again");
                }
                state.cosigned = state.cosigned.max(size);
                state.cosigned_at = Some(Timestamp::now().into());
            }
            Err(trouble) => {
                METRICS.audit_witness_failures.with_label_values(&[name]).inc();
                let reason = trouble.text().to_owned();
                if state.trouble.as_ref() != Some(&reason) {
                    trouble.say(name);
                    state.trouble = Some(reason);
                }
            }
        }
    }
}

/// Why a witness did not cosign.
#[derive(Clone)]
enum Trouble {
    /// It has seen another copy of this log.
    Contradicted(String),
    /// Anything else.
    Refused(String),
}

impl Trouble {
    fn text(&self) -> &str {
        match self {
            Self::Contradicted(text) | Self::Refused(text) => text,
        }
    }

    fn say(&self, witness: &str) {
        tracing::warn!(witness, reason = self.text(), "a witness did not cosign the audit log");
    }
}

/// Whom to ask at one address, and the keys with which they answer.
struct House {
    url: String,
    keys: Vec<WitnessKey>,
}

fn houses(witnesses: &[WitnessKey]) -> Vec<House> {
    let mut houses: Vec<House> = Vec::new();
    for witness in witnesses {
        let Some(url) = &witness.url else { continue };
        match houses.iter_mut().find(|house| house.url == *url) {
            Some(house) => house.keys.push(witness.clone()),
            None => houses.push(House { url: url.clone(), keys: vec![witness.clone()] }),
        }
    }
    houses
}

/// Whoever asks.
struct Asker {
    keeper: Arc<Keeper>,
    /// By address, the size that the witness knows; `None` while it is being asked.
    known: Mutex<HashMap<String, Option<u64>>>,
    /// By address, what a witness has seen that contradicts this log.
    contradictions: Mutex<BTreeMap<String, String>>,
}

/// Asks until the process stops.
pub async fn run(keeper: Arc<Keeper>, mut stopped: watch::Receiver<bool>) {
    let asker = Arc::new(Asker { keeper, known: Mutex::default(), contradictions: Mutex::default() });
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = asker.turn() => {}
        }
    }
}

impl Asker {
    /// One round, and the wait for the next.
    async fn turn(self: &Arc<Self>) {
        let Some(log) = self.keeper.log() else { return tokio::time::sleep(ROUND_EVERY).await };
        let mut sizes = log.sizes();
        let size = *sizes.borrow_and_update();
        let complete = size == 0 || self.round(&log).await;
        tokio::time::sleep(ROUND_EVERY).await;
        let next = sizes.wait_for(|now| *now > size);
        // A round that was not complete is tried again; one that was waits for something new.
        if complete {
            drop(next.await);
        } else {
            drop(tokio::time::timeout(AGAIN, next).await);
        }
    }

    /// Asks every witness that is not being asked for the last checkpoint; whether all cosigned.
    async fn round(self: &Arc<Self>, log: &Arc<Log>) -> bool {
        let (Some(published), _) = log.published() else { return true };
        let houses = houses(log.policy().witnesses());
        let (told, mut answers) = mpsc::channel(houses.len().max(1));
        let (mut open, all) = (0, houses.len());
        for house in houses {
            let Some(old) = self.take(&house.url) else { continue };
            open += 1;
            let (asker, log, published, told) = (self.clone(), log.clone(), published.clone(), told.clone());
            task::spawn("audit witness", async move {
                let came = asker.visit(&log, &house, &published, old).await;
                // The round may have gone on without it.
                told.send(came).await.unwrap_or_default();
            });
        }
        let (mut cosigned, mut witnessed) = (0, false);
        while open > 0 {
            let next = answers.recv();
            let answer = if witnessed { tokio::time::timeout(GRACE, next).await.ok() } else { Some(next.await) };
            let Some(Some(came)) = answer else { break };
            open -= 1;
            cosigned += usize::from(came.is_some());
            witnessed |= came == Some(true);
        }
        cosigned == all
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Option<u64>>> {
        // Each size is replaced as a whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The size that a witness knows, unless it is being asked.
    fn take(&self, url: &str) -> Option<u64> {
        self.known().entry(url.to_owned()).or_insert(Some(0)).take()
    }

    /// Asks one witness and keeps what it gives; whether the checkpoint is now witnessed, `None` if this one did not cosign.
    async fn visit(&self, log: &Arc<Log>, house: &House, published: &Published, old: u64) -> Option<bool> {
        let mut known = old;
        let asked = tokio::time::timeout(PATIENCE, self.ask(log, house, published, &mut known)).await;
        let asked = asked.unwrap_or_else(|_| Err(Trouble::Refused("it did not answer in time".to_owned())));
        self.known().insert(house.url.clone(), Some(known));
        let kept = match asked {
            Ok(lines) => keep(log.clone(), published.clone(), lines).await,
            Err(trouble) => Err(trouble),
        };
        let came = kept.as_ref().map(|_| ()).map_err(Trouble::clone);
        self.alarm(house, &came);
        for key in &house.keys {
            self.keeper.witnesses.note(&key.name, published.checkpoint.size, &came);
        }
        kept.ok()
    }

    /// Raises the alarm of a rollback, for as long as any witness contradicts.
    fn alarm(&self, house: &House, came: &Result<(), Trouble>) {
        let mut causes = self.contradictions.lock().unwrap_or_else(PoisonError::into_inner);
        match came {
            Err(Trouble::Contradicted(cause)) => {
                let names: Vec<&str> = house.keys.iter().map(|key| key.name.as_str()).collect();
                causes.insert(house.url.clone(), format!("{}: {cause}", names.join(", ")));
            }
            Ok(()) => drop(causes.remove(&house.url)),
            // Whoever does not answer takes nothing back.
            Err(Trouble::Refused(_)) => {}
        }
        self.keeper.alarms().set(What::Rollback, causes.values().next().cloned());
    }

    /// Asks one witness, from the size that it knows.
    async fn ask(
        &self,
        log: &Arc<Log>,
        house: &House,
        published: &Published,
        known: &mut u64,
    ) -> Result<Vec<SignatureLine>, Trouble> {
        let keys: Vec<&WitnessKey> = house.keys.iter().collect();
        for _ in 0..QUESTIONS {
            let (tree, wanted, from) = (log.clone(), published.clone(), *known);
            let made = tokio::task::spawn_blocking(move || {
                let tree = TreeFiles::new(&tree.log_folder(), wanted.checkpoint.size);
                AddCheckpoint::make(&wanted, from, &tree).map(|request| (request.old, request.to_text()))
            });
            let failed = |error: &dyn std::fmt::Display| Trouble::Refused(format!("no proof could be made: {error}"));
            let (from, body) = made.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
            let (status, text) = post(&house.url, body.into()).await.map_err(Trouble::Refused)?;
            match read_reply(&keys, published, from, (status, &text)) {
                Asked::Cosigned(lines) => {
                    *known = published.checkpoint.size;
                    return Ok(lines);
                }
                Asked::From(size) => *known = size,
                Asked::Contradicted(reason) => return Err(Trouble::Contradicted(reason)),
                Asked::Refused(reason) => return Err(Trouble::Refused(reason)),
            }
        }
        Err(Trouble::Refused("it changes its mind about the size that it knows".to_owned()))
    }
}

/// Keeps cosignatures with the checkpoint; whether it is witnessed now.
async fn keep(log: Arc<Log>, published: Published, lines: Vec<SignatureLine>) -> Result<bool, Trouble> {
    let kept = tokio::task::spawn_blocking(move || {
        let mut note = published.note;
        note.add(lines);
        log.cosigned(&note.to_string())
    });
    let failed =
        |error: &dyn std::fmt::Display| Trouble::Refused(format!("its cosignature could not be kept: {error}"));
    kept.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}

/// Posts a text; status and text of the answer.
async fn post(url: &str, body: Bytes) -> Result<(u16, String), String> {
    let endpoint = Endpoint::parse(url)?;
    let peer = plain_peer(&endpoint).await.map_err(str::to_owned)?;
    let broken = |_| "the connection could not be made, or broke".to_owned();
    let (mut session, _) = connector().get_http_session(&peer).await.map_err(broken)?;
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
