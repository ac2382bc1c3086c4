//! What happened to the gateway itself: a change that somebody made, a start, a stop.
//!
//! An event travels through the journal like the record of an exchange, so that none is lost and each comes once to
//! everybody who keeps them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::unit::clock::Timestamp;

/// The largest detail, in bytes of JSON; a larger one is replaced by its size and hash.
pub const MAX_DETAIL_BYTES: usize = 8 * 1024;

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// A UUID of version 7; the two phases of one change share it.
    pub id: Uuid,
    /// When.
    pub at: Timestamp,
    /// Who: the id of an admin token, `in-process` for the command line on the store, `gateway` for the gateway itself.
    pub actor: Arc<str>,
    /// What it is about, in the singular: `key`, `limit`, `route`, `price`, `policy`, `config`, `gateway`.
    pub noun: String,
    /// What was done, as the API names it: `create`, `update`, `revoke`, `start`.
    pub verb: String,
    /// The id or name of what it is about, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// How far it has come.
    pub phase: Phase,
    /// The status that the change was answered with, once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What was asked for; no secret is in it. At most [`MAX_DETAIL_BYTES`].
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub detail: serde_json::Value,
}

/// How far a change has come. A change is written down before it is made and after, so that a crash in between shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is about to be made.
    Begun,
    /// It was made or refused, as its status says.
    Done,
}

impl Event {
    /// Something that the gateway itself did.
    pub fn of_gateway(verb: &str, detail: serde_json::Value) -> Self {
        Self {
            id: Uuid::now_v7(),
            at: Timestamp::now(),
            actor: "gateway".into(),
            noun: "gateway".to_owned(),
            verb: verb.to_owned(),
            subject: None,
            phase: Phase::Done,
            status: None,
            detail,
        }
    }
}
