//! What the name of a model asks the simulated provider to do: fail, be slow, break off.

use std::time::Duration;

use hyper::StatusCode;

/// The time between two pieces of a stream, so that streaming can be seen.
const PACE: Duration = Duration::from_millis(10);

/// How long `sim-slow` waits before its first byte.
const SLOW: Duration = Duration::from_secs(2);

/// The longest wait that `sim-slow-MILLISECONDS` grants.
const SLOW_LIMIT_MS: u64 = 600_000;

/// How an answer is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Behaviour {
    /// Instead of an answer, this error.
    pub(super) error: Option<StatusCode>,
    /// The wait before the first byte.
    pub(super) delay: Duration,
    /// The wait between two pieces of a stream.
    pub(super) pace: Duration,
    /// How the body ends.
    pub(super) ending: Ending,
}

/// How the body of an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Whole.
    Whole,
    /// Half of it is sent, then the connection breaks.
    Cut,
    /// Half of it is sent, then nothing for ten minutes, then the connection breaks.
    Stall,
}

impl Behaviour {
    /// What a model's name asks for; any name without a meaning of its own is answered normally.
    pub(super) fn of(model: &str) -> Self {
        let normal = Self { error: None, delay: Duration::ZERO, pace: PACE, ending: Ending::Whole };
        match model {
            "sim-fast" => Self { pace: Duration::ZERO, ..normal },
            "sim-slow" => Self { delay: SLOW, ..normal },
            "sim-cut" => Self { ending: Ending::Cut, ..normal },
            "sim-stall" => Self { ending: Ending::Stall, ..normal },
            _ => Self { error: error_status(model), delay: slowness(model), ..normal },
        }
    }
}

fn error_status(model: &str) -> Option<StatusCode> {
    let digits = model.strip_prefix("sim-error-").filter(|digits| digits.len() == 3)?;
    let status = StatusCode::from_bytes(digits.as_bytes()).ok()?;
    (status.is_client_error() || status.is_server_error()).then_some(status)
}

fn slowness(model: &str) -> Duration {
    let milliseconds = model.strip_prefix("sim-slow-").and_then(|digits| digits.parse().ok()).unwrap_or(0);
    Duration::from_millis(SLOW_LIMIT_MS.min(milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_only_looks_like_a_failure_is_answered() {
        for model in
            ["sim-error-", "sim-error-99", "sim-error-200", "sim-error-600", "sim-error-abc", "sim-slow-x", "x"]
        {
            assert_eq!(Behaviour::of(model), Behaviour::of("sim-small"), "{model}");
        }
    }

    #[test]
    fn a_name_asks_for_its_failure() {
        assert_eq!(Behaviour::of("sim-error-429").error, Some(StatusCode::TOO_MANY_REQUESTS));
        assert_eq!(Behaviour::of("sim-slow").delay, SLOW);
        assert_eq!(Behaviour::of("sim-slow-250").delay, Duration::from_millis(250));
        assert_eq!(Behaviour::of("sim-slow-99999999999").delay, Duration::from_millis(SLOW_LIMIT_MS));
        assert_eq!(Behaviour::of("sim-cut").ending, Ending::Cut);
        assert_eq!(Behaviour::of("sim-stall").ending, Ending::Stall);
        assert_eq!(Behaviour::of("sim-fast").pace, Duration::ZERO);
    }
}
