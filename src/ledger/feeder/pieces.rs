//! What was read from the journal last, so that takers who stand at the same place share the reading and the decoding.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use crate::ledger::journal::{Piece, Segment};

/// How many pieces are kept; each is at most about two of the longest lines. Those who are close behind the first find theirs.
const KEPT: usize = 4;

/// A piece that somebody reads or has read.
type Cell = Arc<OnceCell<Arc<Piece>>>;
type Kept = VecDeque<(Place, Cell)>;

/// The pieces that were read last.
#[derive(Default)]
pub(super) struct Pieces {
    kept: Mutex<Kept>,
}

#[derive(Clone, PartialEq)]
struct Place {
    segment: Arc<str>,
    from: u64,
    max_lines: usize,
}

impl Pieces {
    /// The piece of that segment from that byte on, read on a thread that may block unless somebody has just read it. It may be
    /// older than the end of the file; one that holds nothing is never shared.
    pub(super) async fn read(
        &self,
        segment: &Arc<Segment>,
        from: u64,
        max_lines: usize,
    ) -> std::io::Result<Arc<Piece>> {
        let place = Place { segment: segment.name().clone(), from, max_lines };
        let cell = self.cell(&place);
        let read = cell.get_or_try_init(|| async {
            let segment = segment.clone();
            let read = tokio::task::spawn_blocking(move || segment.read(from, max_lines)).await;
            read.map_err(std::io::Error::other)?.map(Arc::new)
        });
        let piece = read.await?.clone();
        if piece.end <= from {
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
