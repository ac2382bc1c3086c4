//! The scenarios: what is asked and how, one row each.

use clap::ValueEnum;

use crate::drive::Drive;
use crate::request::Ask;

/// A scenario by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// Chat completions of 1 KB, 32 connections in a closed loop.
    Plain,
    /// Embeddings, 32 connections in a closed loop.
    Embeddings,
    /// Chat completions with a prompt of 200 KB, 8 connections in a closed loop.
    Prompt,
    /// Chat completions of 1 KB, one after the other on one connection.
    Single,
    /// Chat completions of 1 KB at a fixed rate; latency counts from when each was due.
    Rate,
    /// 50 streams with an event every 20 ms.
    Paced,
    /// 16 streams of 64 events as fast as they go.
    Stream,
    /// 200 connections to an upstream that needs 20 ms for each answer (only when named).
    Waiting,
    /// `plain` for long, to see whether memory grows (only when named; see `--seconds`).
    Soak,
    /// Time from start to first answer, idle memory, memory of 1,000 idle connections.
    Idle,
    /// 100 clients that do not read streams of 100 MB: memory must stay flat.
    Slow,
    /// Memory of 100,000 keys; the gateway only.
    Keys,
}

/// What runs when no scenario is named, in this order.
pub const DEFAULT: [Name; 10] = [
    Name::Idle,
    Name::Slow,
    Name::Keys,
    Name::Plain,
    Name::Embeddings,
    Name::Prompt,
    Name::Single,
    Name::Rate,
    Name::Paced,
    Name::Stream,
];

/// A scenario that puts load on both targets in turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scenario {
    /// Its name in tables and reports.
    pub name: &'static str,
    /// What is asked.
    pub ask: Ask,
    /// How.
    pub drive: Drive,
    /// What CPU time is divided by.
    pub unit: Unit,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Answers.
    Request,
    /// Events of streams.
    Chunk,
}

impl Unit {
    /// The word for the table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Chunk => "chunk",
        }
    }
}

impl Name {
    /// The load of a scenario; none for those that look at memory and have no rounds.
    pub fn scenario(self, rate: f64) -> Option<Scenario> {
        let closed = |connections| Drive::Closed { connections, ramp_ms: 20 };
        let chat = |prompt_bytes, delay_ms| Ask::Chat { prompt_bytes, delay_ms };
        let stream = |deltas, pace_ms| Ask::Stream { deltas, pace_ms, size: 12 };
        let (name, ask, drive) = match self {
            Self::Plain => ("plain", chat(900, 0), closed(32)),
            Self::Soak => ("soak", chat(900, 0), closed(32)),
            Self::Waiting => ("waiting", chat(900, 20), closed(200)),
            Self::Embeddings => ("embeddings", Ask::Embedding, closed(32)),
            Self::Prompt => ("prompt", chat(200_000, 0), closed(8)),
            Self::Single => ("single", chat(900, 0), Drive::Single),
            Self::Rate => ("rate", chat(900, 0), Drive::Rate { connections: 16, per_second: rate }),
            Self::Paced => ("paced", stream(50, 20), Drive::Closed { connections: 50, ramp_ms: 1000 }),
            Self::Stream => ("stream", stream(64, 0), closed(16)),
            Self::Idle | Self::Slow | Self::Keys => return None,
        };
        let unit = if matches!(ask, Ask::Stream { .. }) { Unit::Chunk } else { Unit::Request };
        Some(Scenario { name, ask, drive, unit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_memory_scenarios_have_no_load() {
        for name in Name::value_variants() {
            assert_eq!(
                name.scenario(1000.0).is_none(),
                matches!(name, Name::Idle | Name::Slow | Name::Keys),
                "{name:?}"
            );
        }
    }
}
