//! The parts of an open store, shared by its users, the syncer and jobs on the lane.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::cache::Cache;
use super::compactor::Compaction;
use super::error::{Error, Result};
use super::extent::Extents;
use super::flush::Flushes;
use super::home::Home;
use super::index::Index;
use super::lane::Lane;
use super::location::Position;
use super::log::Log;
use super::options::{Options, Severity};
use super::reclaim::Reclaim;
use super::space::Space;
use super::syncer::Bell;
use super::throttle::Throttle;
use super::time::StoreTime;

/// Pause of whoever waits for a record that a full disk keeps from being written.
const STALLED: Duration = Duration::from_millis(10);

/// Takes the key of a record that was given up, and the size of its value. It runs under a lock: it must be short.
pub type Evicted = Box<dyn Fn(&[u8], u64) + Send + Sync>;

/// See the files of the fields' types.
pub(crate) struct Core {
    pub options: Options,
    pub home: Home,
    pub time: StoreTime,
    pub index: Index,
    pub cache: Cache,
    pub log: Arc<Log>,
    pub extents: Arc<Extents>,
    pub flushes: Flushes,
    pub lane: Lane,
    pub bell: Arc<Bell>,
    pub space: Arc<Space>,
    pub throttle: Arc<Throttle>,
    /// The last version sequence that was given out.
    pub sequence: AtomicU64,
    pub counters: Counters,
    /// Is told each record that is given up for want of room.
    pub evicted: std::sync::OnceLock<Evicted>,
    pub compaction: Compaction,
    pub reclaim: Reclaim,
    /// Backups under way: what extents have stays as it is.
    pub snapshots: AtomicUsize,
    /// Segments up to this order may have been removed by compaction.
    pub removed: AtomicU64,
    /// Held while files of the store come and go by compaction, and while a backup links them. Outermost of all locks.
    pub maintenance: Mutex<()>,
}

/// Rare events only: nothing that every request would have to count.
#[derive(Default)]
pub(crate) struct Counters {
    /// Insertions into the index that recovery made.
    pub recovered: u64,
    /// Log that recovery read. Bytes.
    pub replayed: u64,
    /// That, and what was written to the log since, up to the last index checkpoint. Bytes.
    pub checkpointed: AtomicU64,
    /// The same up to the last attempt at one.
    pub checkpoint_tried: AtomicU64,
    pub cold_reads: AtomicU64,
    pub fsyncs: AtomicU64,
    /// Records given up in cache mode, the segments they were in, and the records in these that were kept.
    pub evicted: AtomicU64,
    pub evicted_segments: AtomicU64,
    pub spared: AtomicU64,
    pub damaged_records: AtomicU64,
}

impl Core {
    pub fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Relaxed) + 1
    }

    /// Looks how much room there is for more.
    pub fn measure_space(&self) {
        self.space.measure(&self.log.needs());
    }

    /// Whether writers must wait until there is room on the disk: the compactor is told to make some, and the syncer to look
    /// whether there is some after all.
    pub fn waits_for_space(&self) -> bool {
        let waits = self.space.is_waiting() && self.log.progress.failure().is_none();
        if waits {
            self.bell.ring();
            self.compaction.bell.ring();
        }
        waits
    }

    /// Waits until the store acknowledges `position`. Threads that wait at the same time share one `fdatasync`.
    pub fn wait_for(&self, position: Position) -> Result<()> {
        self.log.write_all();
        while self.log.progress.mark() < position {
            if let Some(why) = self.log.progress.failure() {
                return Err(Error::ReadOnly(why));
            }
            match self.log.stalled() {
                // The record will be written when there is room: an error would say that it is not there.
                Some(_) => std::thread::sleep(STALLED),
                None => self.sync(position)?,
            }
        }
        Ok(())
    }

    /// Makes everything before `position` durable, and all that was written by now with it; sleeps. A failure is final.
    pub fn sync(&self, position: Position) -> Result<()> {
        let _one = super::lock(&self.bell.syncing);
        if self.log.progress.durable() >= position {
            return Ok(());
        }
        // The kernel reports a failed write-back once: the next call would "succeed" without the data.
        if let Some(why) = self.log.progress.failure() {
            return Err(Error::ReadOnly(why));
        }
        let target = self.log.progress.written();
        if let Some(full) = self.log.stalled().filter(|_| target < position) {
            return Err(full);
        }
        self.sync_files().inspect_err(|error| {
            self.log.fail(error);
            (self.options.report)(Severity::Error, &error.to_string());
        })?;
        self.log.synced(target);
        Ok(())
    }

    /// Extents first: a durable record must never name chunks that are not.
    fn sync_files(&self) -> Result<()> {
        self.extents.sync()?;
        for segment in self.log.unsynced() {
            self.counters.fsyncs.fetch_add(1, Relaxed);
            segment.trim()?;
            segment.file.sync_data().map_err(|error| Error::io("fdatasync", &segment.path, &error))?;
        }
        Ok(())
    }
}
