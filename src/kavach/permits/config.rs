//! The section `kavach.permits` of the configuration.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;

use crate::kavach::permits::jwk::Algorithm;
use crate::unit::secret::SecretRef;

/// The header that carries permits where the operator names no other.
pub const HEADER: HeaderName = HeaderName::from_static("x-marg-permit");

/// Who gets permits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SendTo {
    /// Nobody.
    #[default]
    Nobody,
    /// The provider, in the request's head.
    Upstream,
    /// The caller, in the answer's head.
    Caller,
    /// Each gets one of its own.
    Both,
}

impl SendTo {
    /// Whether the provider gets one.
    pub fn upstream(self) -> bool {
        matches!(self, Self::Upstream | Self::Both)
    }

    /// Whether the caller gets one.
    pub fn caller(self) -> bool {
        matches!(self, Self::Caller | Self::Both)
    }

    /// The word for it, as in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nobody => "none",
            Self::Upstream => "upstream",
            Self::Caller => "caller",
            Self::Both => "both",
        }
    }
}

/// The section `kavach.permits`.
#[derive(Clone, Debug, PartialEq)]
pub struct PermitsConfig {
    /// Who gets them.
    pub send_to: SendTo,
    /// The header that carries them, both ways.
    pub header: HeaderName,
    /// For how long one is good, in milliseconds; what is less than a second of it does not count.
    pub ttl_ms: u64,
    /// For whom the provider's permit is; `None` is the provider's name. At most 256 visible characters.
    pub audience: Option<String>,
    /// For whom the caller's permit is; likewise.
    pub caller_audience: String,
    /// What signs them: one or two, none twice.
    pub algorithms: Vec<Algorithm>,
    /// The text of the key file; `None` is `permit.key` in the data folder, made at the first start that needs it.
    pub key: Option<SecretRef>,
    /// A JWK set of further public keys to publish: those of other nodes, or the next one.
    pub extra_keys: Option<PathBuf>,
}

impl PermitsConfig {
    /// For how long a permit is good.
    pub fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }
}

impl Default for PermitsConfig {
    fn default() -> Self {
        Self {
            send_to: SendTo::Nobody,
            header: HEADER,
            ttl_ms: 300_000,
            audience: None,
            caller_audience: "caller".to_owned(),
            algorithms: vec![Algorithm::Ed25519],
            key: None,
            extra_keys: None,
        }
    }
}
