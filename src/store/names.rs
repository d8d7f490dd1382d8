//! What the segment that is appended to names of large values. In cache mode it will be given up with all of that, so from
//! some size on it counts as full. The log changes it under its lock; anybody may look.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::piece;
use super::record::Fields;

/// See the module's head.
pub(crate) struct Names {
    /// Bytes of the values.
    named: AtomicU64,
    /// From here on it counts as full.
    most: AtomicU64,
    left: AtomicBool,
}

impl Names {
    pub fn new() -> Names {
        Names { named: AtomicU64::new(0), most: AtomicU64::new(u64::MAX), left: AtomicBool::new(false) }
    }

    /// A segment may name values of so many bytes, and the one that goes beyond.
    pub fn limit(&self, bytes: u64) {
        self.most.store(bytes, Relaxed);
    }

    pub fn most(&self) -> u64 {
        self.most.load(Relaxed)
    }

    /// Whether the segment has come to one such part of the limit.
    pub fn is_at(&self, part: u64) -> bool {
        self.named.load(Relaxed).saturating_mul(part) >= self.most()
    }

    /// A record was appended.
    pub fn add(&self, record: &Fields<'_>) {
        match piece::named(record) {
            0 => {}
            bytes => drop(self.named.fetch_add(bytes, Relaxed)),
        }
    }

    /// A value of so many bytes was counted twice: the segment named it before.
    pub fn take_back(&self, bytes: u64) {
        // Another one may have come meanwhile: it then begins with a little more room.
        let _ = self.named.fetch_update(Relaxed, Relaxed, |named| Some(named.saturating_sub(bytes)));
    }

    /// The log has moved on.
    pub fn begin(&self) {
        self.left.fetch_or(self.is_at(1), Relaxed);
        self.named.store(0, Relaxed);
    }

    /// Whether a segment was left for what it names since this was asked last: more room is reserved for it than it took.
    pub fn was_left(&self) -> bool {
        self.left.swap(false, Relaxed)
    }
}
