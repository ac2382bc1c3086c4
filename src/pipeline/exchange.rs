//! The exchange: one client request with all its upstream attempts.
//!
//! It is Pingora's per-request context. Whatever happens, dropping it settles it: Pingora skips its last phase after a panic
//! and at the end of a shutdown's grace period.

use std::sync::Arc;

use bytes::Bytes;

use crate::budget::{Amounts, Downgrade, Limited, Rates, Reservation};
use crate::dialect::unpack::Coding;
use crate::dialect::{AnswerReader, Facts, Operation, Place, Runs, Writing};
use crate::error::{Error, Kind};
use crate::kavach::permits::Papers;
use crate::key::Key;
use crate::ledger::{Outcome, Record};
use crate::pipeline::attempt::{Current, Step};
use crate::pipeline::commit::Content;
use crate::pipeline::judge::Habits;
use crate::pipeline::leave::Leave;
use crate::pipeline::owed::Owed;
use crate::pipeline::unfinished::AtMost;
use crate::pipeline::{Gateway, Held, InFlight, Live};
use crate::unit::clock::{Tick, Timestamp};
use crate::unit::id::ExchangeId;

/// One exchange.
pub struct Exchange {
    /// The process that it runs in.
    pub gateway: Arc<Gateway>,
    /// The configuration that it began with.
    pub live: Arc<Live>,
    /// When its head had arrived.
    pub started: Tick,
    /// What the ledger will say; filled as things become known.
    pub record: Record,
    /// What was asked for, once understood.
    pub place: Option<Place>,
    /// The key, once identified.
    pub key: Option<Arc<Key>>,
    /// Whether it may go on, once identified; `None` where running calls are never cut.
    pub leave: Option<Leave>,
    /// What the body says, once understood.
    pub facts: Option<Facts>,
    /// What it runs, once understood.
    pub runs: Runs,
    /// What it writes if it passes through, once understood.
    pub writing: Writing,
    /// The body, once read.
    pub body: Bytes,
    /// The body for the current target, until Pingora has taken it.
    pub outgoing: Bytes,
    /// Who is told what it used, once it is judged.
    pub habits: Option<Habits>,
    /// Whether it comes by way of a trusted proxy.
    pub by_proxy: bool,
    /// The ceiling on output tokens that providers are told because the caller named none.
    pub ceiling: Option<u64>,
    /// Whether any limit applies to it, once its ceiling is decided.
    pub limited: Limited,
    /// What it holds of limits, from admission until it is settled.
    pub reservation: Option<Reservation>,
    /// How much that is.
    pub reserved: Amounts,
    /// What it is charged if its answer is given out before it is made.
    pub(super) at_most: Option<AtMost>,
    /// A reservation whose charges are known, until they are in the journal.
    pub(crate) ended: Option<Reservation>,
    /// What is left of limits on requests and tokens, for the answer's head.
    pub rates: Option<Rates>,
    /// The model that a limit puts in the place of the one that was asked for.
    pub downgrade: Option<Downgrade>,
    /// The targets, once planned.
    pub plan: Vec<Step>,
    /// Which step of the plan is next or current.
    pub at: usize,
    /// The attempt being made or about to be made.
    pub current: Option<Current>,
    /// The permits of the current attempt, where the operator wants any.
    pub papers: Option<Papers>,
    /// How many attempts have got permits.
    pub(crate) papers_made: u32,
    /// How many credentials of the present step have been tried.
    pub tries_on_step: u32,
    /// The positions of those that were answered with 429 or 401.
    pub tried: Vec<u32>,
    /// What is done with the answer's body.
    pub relaying: Relaying,
    /// What its provider still owes it, should the caller leave.
    pub owed: Owed,
    /// Whether the answer's bytes are not what their encoding says: then it has broken off.
    pub corrupt: bool,
    /// What it has committed to.
    pub(super) content: Content,
    /// The last failure, for the case that nothing else is left.
    pub last_failure: Option<Error>,
    pub(crate) held: Option<Held>,
    pub(crate) settled: bool,
    _in_flight: InFlight,
}

/// What is done with the body of an upstream's answer.
pub enum Relaying {
    /// No answer yet.
    Nothing,
    /// It passes through a reader.
    Passing {
        /// Reads usage as it passes.
        reader: Box<AnswerReader>,
        /// How its bytes are encoded.
        coding: Coding,
        /// The length that the upstream announced.
        expected: Option<u64>,
        /// The bytes that have come so far.
        seen: u64,
    },
    /// It is an error body, collected to be rewritten in the caller's dialect.
    Mending {
        /// The upstream's status.
        status: u16,
        /// How its bytes are encoded.
        coding: Coding,
        /// The beginning of the body, at most 64 KiB.
        collected: Vec<u8>,
        /// When its head had come.
        since: Tick,
    },
}

impl Exchange {
    /// An exchange that begins now.
    pub fn begin(gateway: &Arc<Gateway>) -> Self {
        let id = ExchangeId::new();
        Self {
            live: gateway.live.load_full(),
            started: Tick::now(),
            record: Record::blank(id, Timestamp::now()),
            place: None,
            key: None,
            leave: None,
            facts: None,
            runs: Runs::default(),
            writing: Writing::default(),
            body: Bytes::new(),
            outgoing: Bytes::new(),
            habits: None,
            by_proxy: false,
            ceiling: None,
            limited: Limited::No,
            reservation: None,
            reserved: Amounts::default(),
            at_most: None,
            ended: None,
            rates: None,
            downgrade: None,
            plan: Vec::new(),
            at: 0,
            current: None,
            papers: None,
            papers_made: 0,
            tries_on_step: 0,
            tried: Vec::new(),
            relaying: Relaying::Nothing,
            owed: Owed::default(),
            corrupt: false,
            content: Content::default(),
            last_failure: None,
            held: None,
            settled: false,
            _in_flight: gateway.enter(),
            gateway: gateway.clone(),
        }
    }

    /// The operation, `Passthrough` until it is known.
    pub fn operation(&self) -> Operation {
        self.place.as_ref().map_or(Operation::Passthrough, |place| place.operation)
    }

    /// Whether the caller asked for a stream.
    pub fn wants_stream(&self) -> bool {
        self.facts.as_ref().is_some_and(|facts| facts.stream)
    }

    /// Leaves no record: for the pages about the gateway itself, which monitors ask for all the time.
    pub fn forget(&mut self) {
        self.settled = true;
    }

    /// Whether the key was withdrawn while it ran and it is to be cut. What is settled is not cut any more.
    pub fn is_withdrawn(&mut self) -> bool {
        !self.settled && self.leave.as_mut().is_some_and(Leave::has_ended)
    }

    /// The refusal of an exchange whose key was withdrawn before anything reached the caller; `None` if it was not.
    pub fn withdraw(&mut self) -> Option<Error> {
        let error = self.leave.as_ref()?.refusal().filter(|_| !self.settled)?;
        self.refuse(&error);
        self.record.outcome = Outcome::Withdrawn;
        Some(error)
    }

    /// Notes that Marg refuses, and why.
    pub fn refuse(&mut self, error: &Error) {
        self.record.status = error.kind().status();
        self.record.outcome = match error.kind() {
            Kind::UpstreamError | Kind::UpstreamTimeout | Kind::UpstreamUnreachable => Outcome::UpstreamFailed,
            _ => Outcome::Refused,
        };
        self.record.reason = Some(error.kind().code().to_owned());
        self.record.error = Some(clip(error.text()));
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.settled {
            self.settle(Outcome::Interrupted);
        }
    }
}

/// The first 512 bytes of a text, cut between characters.
pub fn clip(text: &str) -> String {
    let mut end = text.len().min(512);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}
