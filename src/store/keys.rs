//! What both databases know of changes of keys.

/// For so many generations keys that are gone are remembered; the triggers of migration 8 say the same.
const REMEMBERED: u64 = 100_000;

/// Whether what was written after that generation can still be told, in the present one. One that lies ahead is of another
/// database, or of one before a restore.
pub(super) fn is_remembered(generation: u64, now: u64) -> bool {
    generation <= now && now - generation < REMEMBERED
}

/// A generation as databases hold it.
pub(super) fn number(generation: u64) -> i64 {
    i64::try_from(generation).unwrap_or(i64::MAX)
}
