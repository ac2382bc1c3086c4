//! **Commit**: what an exchange says of the bodies that passed, so that the audit log can prove them without holding them.
//!
//! The request's body is committed to when the exchange settles, the answer's piece by piece as it goes to the caller, with one
//! fresh salt for both. Both are over the bytes as the caller sent and got them. What the caller sees after the exchange was
//! settled (bytes behind `[DONE]`) is in neither `bytes_out` nor the commitment. Full texts are kept only where the operator asks
//! for them, up to a bound, and apart from the log.

use crate::ledger::record::Commitments;
use crate::pipeline::exchange::Exchange;
use crate::unit::commit::{Committer, Salt};

/// What is kept of prompts and answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContentPolicy {
    /// Nothing.
    None,
    /// Salted commitments.
    #[default]
    Commitments,
    /// Commitments, and the texts themselves up to so many bytes each, apart from the log.
    FullText {
        /// The most that is kept of each.
        limit_bytes: usize,
    },
}

/// What an exchange has committed to so far.
#[derive(Default)]
pub struct Content {
    salt: Option<Salt>,
    /// Boxed, as it is 2 KB that exchanges without an answer do not need.
    answer: Option<Box<Committer>>,
    /// The beginning of the answer, where full texts are kept.
    text: Vec<u8>,
}

impl Exchange {
    /// Notes the whole body of an answer that Marg gives itself, in the place of whatever was to go out before.
    pub fn answer_alone(&mut self, body: &[u8]) {
        if !self.settled {
            self.record.bytes_out = 0;
            self.content.answer = None;
            self.content.text.clear();
            self.deliver(body);
        }
    }

    /// Notes a piece of the answer's body that goes to the caller. Call it before `settle` for the piece that completes the
    /// answer; later pieces change nothing.
    pub(super) fn deliver(&mut self, piece: &[u8]) {
        if self.settled {
            return;
        }
        self.record.bytes_out += piece.len() as u64;
        let Some(salt) = self.salt().filter(|_| !piece.is_empty()) else { return };
        self.content.answer.get_or_insert_with(|| Box::new(Committer::new(&salt))).update(piece);
        if let ContentPolicy::FullText { limit_bytes } = self.live.settings.content {
            let room = limit_bytes.saturating_sub(self.content.text.len()).min(piece.len());
            self.content.text.extend_from_slice(piece.get(..room).unwrap_or_default());
        }
    }

    /// Puts the commitments into the record, and the texts where they are kept.
    pub(super) fn commit(&mut self) {
        let answer = self.content.answer.take().map(|committer| committer.finish());
        if answer.is_none() && self.body.is_empty() {
            return;
        }
        let Some(salt) = self.salt() else { return };
        let prompt = (!self.body.is_empty()).then(|| salt.commit(&self.body));
        self.record.commitments = Some(Commitments { salt, prompt, answer });
        if let (ContentPolicy::FullText { limit_bytes }, Some(texts)) =
            (self.live.settings.content, self.gateway.audit.texts())
        {
            let prompt = self.body.get(..self.body.len().min(limit_bytes)).unwrap_or_default();
            let answer = std::mem::take(&mut self.content.text);
            if let Err(error) = texts.keep(self.record.id, prompt, &answer) {
                crate::telemetry::metrics::METRICS.audit_text_failures.inc();
                tracing::error!(%error, id = %self.record.id, "the text of an exchange could not be kept; its entry is whole");
            }
        }
    }

    /// The salt of this exchange; `None` if nothing is committed to.
    fn salt(&mut self) -> Option<Salt> {
        if self.content.salt.is_none()
            && self.live.settings.content != ContentPolicy::None
            && self.gateway.audit.is_kept()
        {
            match Salt::fresh() {
                Ok(salt) => self.content.salt = Some(salt),
                Err(error) => tracing::error!(%error, "the system gives no randomness, so nothing is committed to"),
            }
        }
        self.content.salt
    }
}
