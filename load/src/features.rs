//! What the gateway under test has switched on.

use std::fmt;
use std::str::FromStr;

/// The most limits that a gateway is given; `gateway::LIMITS` names them.
pub const MOST_LIMITS: usize = 8;

/// What is on besides a key, the ledger, metrics and the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// How many limits apply to every call, none of which is ever reached; at most [`MOST_LIMITS`].
    pub limits: usize,
    /// How many policies the gate enforces, of which 5 apply to every call; 0 means that the gate is off.
    pub policies: usize,
    /// Whether the audit log is kept.
    pub audit: bool,
    /// Whether Redis owns the counters of limits, instead of the gateway's own database.
    pub redis: bool,
}

impl Default for Features {
    /// A gateway as it comes.
    fn default() -> Self {
        Self { limits: 0, policies: 0, audit: true, redis: false }
    }
}

impl fmt::Display for Features {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let audit = if self.audit { "the audit log" } else { "no audit log" };
        let owner = if self.redis { "Redis" } else { "its database" };
        match self.limits {
            0 => write!(out, "no limits, {} policies, {audit}", self.policies),
            limits => write!(out, "{limits} limits counted in {owner}, {} policies, {audit}", self.policies),
        }
    }
}

impl FromStr for Features {
    type Err = String;

    /// Reads a list with commas: `limits=N`, `policies=N`, `no-audit`, `redis`; empty for a gateway as it comes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut features = Self::default();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let (name, number) = word.split_once('=').unwrap_or((word, ""));
            let count = || number.parse().map_err(|_| format!("{word:?} wants a number"));
            match name {
                "limits" => features.limits = count()?,
                "policies" => features.policies = count()?,
                "no-audit" => features.audit = false,
                "redis" => features.redis = true,
                _ => return Err(format!("{word:?} is none of limits=N, policies=N, no-audit, redis")),
            }
        }
        if features.limits > MOST_LIMITS {
            return Err(format!("at most {MOST_LIMITS} limits"));
        }
        Ok(features)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_read_from_a_list_of_words() {
        assert!("limit=1".parse::<Features>().is_err());
        assert!("limits=nine".parse::<Features>().is_err());
        assert!("limits=9".parse::<Features>().is_err());
        assert_eq!("".parse(), Ok(Features::default()));
        let all = Features { limits: 4, policies: 100, audit: false, redis: true };
        assert_eq!("limits=4, policies=100,no-audit,redis".parse(), Ok(all));
    }
}
