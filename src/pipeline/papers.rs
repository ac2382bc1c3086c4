//! **Papers**: the permit of an attempt as others read it, where the operator wants them to.
//!
//! Made for each attempt of the bytes that this target gets, after they are encoded and before its head is; so a retry, another
//! target and another model have permits of their own, each with an id that no other has. Where nobody gets permits this is
//! one look at a pointer.

use crate::error::{Error, Kind, Result};
use crate::kavach::config::Mode;
use crate::kavach::permits::Occasion;
use crate::pipeline::exchange::Exchange;
use crate::telemetry::metrics::METRICS;
use crate::unit::clock::Timestamp;

impl Exchange {
    /// Makes the permits of the current attempt, for the body that it sends.
    ///
    /// # Errors
    /// `Unavailable` when one cannot be made and the gate enforces: what is not permitted on paper is not asked for. A gate
    /// that does not enforce goes on without.
    pub fn put_on_paper(&mut self, body: &[u8]) -> Result<()> {
        if self.live.permits.header().is_none() {
            return Ok(());
        }
        self.papers = None;
        let Some(current) = &self.current else { return Ok(()) };
        let (gate, exchange) = (self.live.gate.mode(), self.record.id.to_string());
        let occasion = Occasion { exchange: &exchange, number: self.papers_made, body, gate, at: Timestamp::now() };
        match self.live.permits.issue(&current.permit, &occasion) {
            Ok(papers) => {
                self.papers = papers;
                self.papers_made += 1;
                METRICS.permits.with_label_values(&["made"]).inc();
                Ok(())
            }
            Err(error) => {
                METRICS.permits.with_label_values(&["failed"]).inc();
                tracing::error!(%error, id = exchange, mode = gate.name(), "a permit could not be made");
                if gate != Mode::Enforce {
                    return Ok(());
                }
                // It asks nobody, so it is no attempt.
                self.current = None;
                Err(Error::new(Kind::Unavailable, "The gateway cannot sign the permit that this call needs."))
            }
        }
    }
}
