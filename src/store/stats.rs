//! What a store tells of itself in numbers. Any thread.

use std::sync::atomic::Ordering::Relaxed;

use super::db::Db;
use super::space::Level;

impl Db {
    /// Counters and sizes. Walks over locks; not for every request.
    pub fn stats(&self) -> Stats {
        let core = self.core();
        let (hits, misses) = core.cache.counts();
        Stats {
            items: core.index.len(),
            total_items: core.index.inserted() - core.counters.recovered,
            live_bytes: core.index.bytes(),
            cache_bytes: core.cache.used(),
            cache_hits: hits,
            cache_misses: misses,
            cold_reads: core.counters.cold_reads.load(Relaxed),
            log_writes: core.log.writes.load(Relaxed),
            log_bytes: core.log.bytes.load(Relaxed),
            fsyncs: core.counters.fsyncs.load(Relaxed),
            segments: core.log.segments.len(),
            compactions: core.compaction.counters.rounds.load(Relaxed),
            compaction_read: core.compaction.counters.bytes_read.load(Relaxed),
            compaction_written: core.compaction.counters.bytes_written.load(Relaxed),
            compaction_removed: core.compaction.counters.bytes_removed.load(Relaxed),
            damaged_records: core.counters.damaged_records.load(Relaxed),
            log_slow: core.log.is_slow(),
            level: core.space.level(),
            headroom: core.space.headroom(),
            refused: core.space.refused.load(Relaxed),
            evictions: core.counters.evicted.load(Relaxed),
            evicted_segments: core.counters.evicted_segments.load(Relaxed),
            evictions_spared: core.counters.spared.load(Relaxed),
        }
    }
}

/// Counters since the opening, and sizes.
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    /// Keys in the index; some may have expired unseen.
    pub items: u64,
    /// Values written since the opening.
    pub total_items: u64,
    /// Bytes of the newest records of all keys in the log, to within a quarter. Extents do not count.
    pub live_bytes: u64,
    /// Bytes of records in the RAM cache.
    pub cache_bytes: u64,
    /// Lookups that the RAM cache answered.
    pub cache_hits: u64,
    /// Lookups that it did not.
    pub cache_misses: u64,
    /// Lookups that became jobs.
    pub cold_reads: u64,
    /// Writes to the log's files.
    pub log_writes: u64,
    /// Bytes they wrote.
    pub log_bytes: u64,
    /// `fdatasync`s of the log's files.
    pub fsyncs: u64,
    /// Segment files.
    pub segments: u64,
    /// Rounds of compaction.
    pub compactions: u64,
    /// Bytes of records that they read.
    pub compaction_read: u64,
    /// Bytes of the segments that they wrote.
    pub compaction_written: u64,
    /// Bytes of the segments that they removed.
    pub compaction_removed: u64,
    /// Places where damage was found since the opening, by recovery or by the sweep of large values: a run of damaged bytes in
    /// the log, however many records it had, a lost end, a missing file. A reader who meets damage does not count.
    pub damaged_records: u64,
    /// Whether log writes go by way of the lane at present, because the disk is slow.
    pub log_slow: bool,
    /// What the room on the disk allows.
    pub level: Level,
    /// Bytes that may be taken on the disk before values are refused, as it was measured last.
    pub headroom: u64,
    /// Values refused for want of room on the disk.
    pub refused: u64,
    /// Values given up for want of room on the disk.
    pub evictions: u64,
    /// Segments given up for it.
    pub evicted_segments: u64,
    /// Values in such segments that were kept, because they are read.
    pub evictions_spared: u64,
}
