//! How much of the last segment is kept for whom, where no other can be made after it: compaction must be able to write
//! its notes, or it could never make room, and removals give it something to do. Plain numbers; for the log.

use super::record::Kind;

/// What is left of a segment where none can be made after it, for notes: compaction needs one to make room. Bytes.
pub(crate) const NOTES: u64 = 4 << 10;
/// The same for removals, which make work for compaction, and notes. Bytes.
pub(crate) const REMOVALS: u64 = 64 << 10;

/// How far a segment may be filled that has none after it: what makes room may go further than what takes it.
#[derive(Clone, Copy)]
pub(crate) enum Reach {
    Values,
    /// Removals, and notes that can wait.
    Notes,
    End,
}

impl Reach {
    pub fn of(kind: Kind) -> Reach {
        match kind {
            Kind::Value | Kind::Large => Reach::Values,
            Kind::Tombstone | Kind::FlushPending | Kind::FlushFired | Kind::Checkpoint | Kind::Seal => Reach::Notes,
        }
    }

    /// Where it ends in a segment that may be filled up to `hard`, and with values up to `values`. Offsets.
    pub fn limit(self, values: u64, hard: u64) -> u64 {
        match self {
            Reach::Values => values,
            Reach::Notes => hard - NOTES,
            Reach::End => hard,
        }
    }
}
