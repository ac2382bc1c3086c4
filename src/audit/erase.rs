//! Erasing the link between entries and what people wrote: salts are overwritten, kept texts deleted.
//!
//! The entries stay, and every proof with them; but without its salt a commitment says nothing, not even to whoever guesses the
//! text. What the log says of who asked when stays until its retention ends. Copies of the folder that somebody made are out of reach.

use uuid::Uuid;

use crate::audit::index::{self, Filter, Seen};
use crate::audit::log::{Log, LogError, Status};
use crate::audit::texts::Texts;
use crate::audit::tiles::WIDTH;
use crate::unit::id::ExchangeId;

/// What was erased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// The exchanges that match, whether there was anything to erase or not.
    pub exchanges: u64,
    /// Their salts.
    pub salts: u64,
    /// Those of which texts were kept.
    pub texts: u64,
}

/// Erases the salts and texts of all exchanges that match. Reads 16 KiB for each 256 entries of the log. Stopping half-way does no
/// harm: it can be done again.
///
/// # Errors
/// When the log cannot be read or the disk refuses; some may be erased.
pub fn erase(log: &Log, filter: &Filter) -> Result<Erased, LogError> {
    log.sync()?;
    let Status { pruned, committed, .. } = log.status();
    let texts = Texts::of(log.folder());
    let mut erased = Erased::default();
    for number in pruned / WIDTH..committed.div_ceil(WIDTH) {
        let piece = (pruned.max(number * WIDTH), committed.min((number + 1) * WIDTH));
        let found = index::search((log.folder(), &log.log_folder()), piece, filter, usize::MAX)?;
        let mut indexes: Vec<u64> = Vec::new();
        for (index, entry) in found.iter().rev() {
            let Some(id) = exchange(entry) else { continue };
            indexes.push(*index);
            erased.exchanges += 1;
            erased.texts += u64::from(texts.erase(id).map_err(LogError::Disk)?);
        }
        if !indexes.is_empty() {
            erased.salts += log.erase_salts(&indexes)?;
        }
    }
    if let Some(id) = filter.id {
        // Its entry may be past its retention, or still on its way.
        erased.texts += u64::from(texts.erase(ExchangeId(id)).map_err(LogError::Disk)?);
    }
    Ok(erased)
}

/// The id of the exchange that an entry is of.
fn exchange(entry: &[u8]) -> Option<ExchangeId> {
    let seen = Seen::parse(entry).ok()?;
    let id: Option<Uuid> = seen.id.filter(|_| matches!(&*seen.kind, "exchange" | "refusal"));
    id.map(ExchangeId)
}
