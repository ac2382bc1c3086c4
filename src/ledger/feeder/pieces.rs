//! What was read from the journal last, so that takers who stand at the same place share the reading and the decoding.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use crate::ledger::journal::{Piece, Segment};

/// The most pieces that are kept for those who are behind the first; each is at most about two of the longest lines, and about
/// a megabyte under load. One that all have had is not kept.
const KEPT: usize = 16;

/// A piece that somebody reads or has read.
type Cell = Arc<Shared>;
type Kept = VecDeque<(Place, Cell)>;

#[derive(Default)]
struct Shared {
    piece: OnceCell<Arc<Piece>>,
    /// How often it was given.
    given: AtomicUsize,
}

/// The pieces that were read last.
pub(super) struct Pieces {
    takers: usize,
    kept: Mutex<Kept>,
}

#[derive(Clone, PartialEq)]
struct Place {
    segment: Arc<str>,
    from: u64,
    max_lines: usize,
}

impl Pieces {
    /// None yet, for so many takers.
    pub(super) fn new(takers: usize) -> Self {
        Self { takers, kept: Mutex::default() }
    }

    /// The piece of that segment from that byte on, read on a thread that may block unless somebody has just read it. It may be
    /// older than the end of the file; one that holds nothing is never shared, one that all takers have had is forgotten.
    pub(super) async fn read(
        &self,
        segment: &Arc<Segment>,
        from: u64,
        max_lines: usize,
    ) -> std::io::Result<Arc<Piece>> {
        let place = Place { segment: segment.name().clone(), from, max_lines };
        let cell = self.cell(&place);
        let read = cell.piece.get_or_try_init(|| async {
            let segment = segment.clone();
            let read = tokio::task::spawn_blocking(move || segment.read(from, max_lines)).await;
            read.map_err(std::io::Error::other)?.map(Arc::new)
        });
        let piece = read.await?.clone();
        // A taker that asks again counts twice; then another one may have to read again.
        let given = cell.given.fetch_add(1, Ordering::AcqRel) + 1;
        if piece.end <= from || given >= self.takers {
            self.lock().retain(|(kept, _)| *kept != place);
        }
        Ok(piece)
    }

    fn cell(&self, place: &Place) -> Cell {
        let mut kept = self.lock();
        if let Some((_, cell)) = kept.iter().find(|(kept, _)| kept == place) {
            return cell.clone();
        }
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        let cell = Arc::default();
        kept.push_back((place.clone(), Arc::clone(&cell)));
        cell
    }

    /// Forgets all: nobody needs them once all have come to the end.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
