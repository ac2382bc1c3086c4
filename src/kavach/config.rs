//! The section `kavach` of the configuration.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::kavach::gate::{Gate, GateSettings};
use crate::kavach::permits::config::PermitsConfig;
use crate::kavach::policy::{PolicySet, Problem};

/// What the gate does with what the policies say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Nothing is judged.
    #[default]
    Off,
    /// Every call is judged and passes; what would have been refused is recorded.
    Observe,
    /// What the policies do not permit is refused.
    Enforce,
}

impl Mode {
    /// The word for it, as in the configuration and in the header `x-kavach-mode`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        }
    }
}

/// What a caller that is refused may read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reveal {
    /// The policy's id and its reason.
    #[default]
    IdAndReason,
    /// Its reason.
    Reason,
    /// That the policy refuses, no more.
    Nothing,
}

/// The section `kavach`.
#[derive(Clone, Debug, PartialEq)]
pub struct KavachConfig {
    /// Whether calls are judged, and whether that counts.
    pub mode: Mode,
    /// The file or the folder of policies. Needed unless the mode is off; read at load whatever the mode is.
    pub policy: Option<PathBuf>,
    /// What a caller that is refused may read.
    pub reveal: Reveal,
    /// The IANA name of the time zone of `context.time`.
    pub time_zone: String,
    /// How many slices of the policies are kept: one for each key, action and target in use.
    pub cache_entries: usize,
    /// Sessions.
    pub session: SessionConfig,
    /// Drift detection.
    pub drift: DriftConfig,
    /// Permits on paper.
    pub permits: PermitsConfig,
}

impl Default for KavachConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Off,
            policy: None,
            reveal: Reveal::IdAndReason,
            time_zone: "UTC".to_owned(),
            cache_entries: 8_192,
            session: SessionConfig::default(),
            drift: DriftConfig::default(),
            permits: PermitsConfig::default(),
        }
    }
}

/// How sessions are told apart and kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// A session ends when nothing was asked in it for so long.
    pub idle_ms: u64,
    /// How long a session that an operator ended refuses calls.
    pub ended_ms: u64,
    /// The most sessions that are remembered; the one that was idle longest makes room.
    pub max_sessions: usize,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self { idle_ms: 1_800_000, ended_ms: 86_400_000, max_sessions: 100_000 }
    }
}

/// Which signals of drift are on, and what they need. A signal that is off is 0 in the context.
#[derive(Clone, Debug, PartialEq)]
pub struct DriftConfig {
    /// Where a key is used from.
    pub geo: bool,
    /// A database of addresses in MaxMind's format; without it only the header `x-marg-geo` of trusted proxies tells.
    pub geo_database: Option<PathBuf>,
    /// The fastest that anybody travels, in kilometres an hour.
    pub geo_speed_km_h: u64,
    /// Which device a key is used from: the header `x-marg-device`.
    pub device: bool,
    /// How old a session is.
    pub session_age: bool,
    /// The age at which the score is 100.
    pub session_age_ms: u64,
    /// How much a key is used, compared with what is usual for it.
    pub behaviour: bool,
    /// The most keys that are remembered; the one that was idle longest makes room.
    pub max_keys: usize,
}

impl Default for DriftConfig {
    fn default() -> Self {
        Self {
            geo: false,
            geo_database: None,
            geo_speed_km_h: 1_000,
            device: false,
            session_age: false,
            session_age_ms: 86_400_000,
            behaviour: false,
            max_keys: 10_000,
        }
    }
}

impl KavachConfig {
    /// The gate that this asks for. Reads the policies; a gate that is off has them too, so that they can be looked at.
    ///
    /// # Errors
    /// Every fault of the policies, of the time zone, or that there are none although the mode is not off.
    pub fn gate(&self) -> Result<Gate, Vec<Problem>> {
        let fault = |text: String| vec![Problem { file: "kavach".to_owned(), line: 0, column: 0, policy: None, text }];
        let zone =
            TimeZone::get(&self.time_zone).map_err(|_| fault(format!("there is no time zone {:?}", self.time_zone)))?;
        match (&self.policy, self.mode) {
            (None, Mode::Off) => Ok(Gate::off()),
            (None, mode) => Err(fault(format!("mode {} needs a policy", mode.name()))),
            (Some(path), mode) => {
                let set = Arc::new(PolicySet::load(path)?);
                let (reveal, cache_entries) = (self.reveal, self.cache_entries);
                Ok(Gate::new(set, GateSettings { mode, reveal, zone, cache_entries }))
            }
        }
    }
}
