//! The section `kavach` of the configuration.

use serde::{Deserialize, Serialize};

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
