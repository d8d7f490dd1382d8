//! How a store is opened.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// When a write counts as done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sync {
    /// When the page cache has it; the kernel decides when the disk does. Survives the end of the process.
    None,
    /// When the page cache has it; `fdatasync` follows within the interval. Survives the end of the process; a
    /// power cut may take the last interval.
    Interval,
    /// When the disk has it. Survives a power cut. Writers that wait at the same time share one `fdatasync` (group
    /// commit).
    Always,
}

/// How grave a message is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// How things go on.
    Info,
    /// Something was lost or is amiss, and the store has dealt with it.
    Warning,
    /// The store cannot do what it should.
    Error,
}

/// Receives messages about recovery and failures, a line each; called from any thread.
pub type Report = Arc<dyn Fn(Severity, &str) + Send + std::marker::Sync>;

/// Options of [`super::Db::open`]: start from [`Options::new`] and change what should be otherwise.
///
/// ```
/// use kingdb::{Options, Sync};
/// let options = Options::new("data").sync(Sync::Always).cache_bytes(256 << 20).compression(false);
/// assert_eq!(options.lane_threads, 2);
/// ```
#[derive(Clone)]
pub struct Options {
    /// The directory; made if absent.
    pub path: PathBuf,
    /// When a write counts as done. Default: `Interval`.
    pub sync: Sync,
    /// Time between `fdatasync`s under `Interval`. Default: 500 ms.
    pub sync_interval: Duration,
    /// RAM for whole records. Bytes; 0 turns the cache off. Default: 64 MiB.
    pub cache_bytes: u64,
    /// Snappy where it saves at least an eighth. Default: on.
    pub compression: bool,
    /// Threads that do what may sleep. Default: 2.
    pub lane_threads: usize,
    /// Largest segment file. Bytes, 1 MiB to 64 MiB. A store of less than 32 of them has smaller ones. Default: 64 MiB.
    pub segment_bytes: u64,
    /// Longest time between two rounds of compaction, if there is anything worth it. Default: 5 minutes.
    pub compaction_interval: Duration,
    /// What compaction may read even where little is written; it may also read four times what is appended to the log.
    /// Bytes per second; 0: no limit. Default: 16 MiB.
    pub compaction_rate: u64,
    /// Memory for what open snapshots have and the index does not any more. Bytes. When it is used up, snapshots become
    /// unreadable; writers go on. Never more than the index has at 16 bytes per key. Default: 64 MiB.
    pub snapshot_bytes: u64,
    /// Appended bytes that may wait to be written before writers must wait. Bytes, at least 1 MiB. Default: 8 MiB.
    pub write_buffer: usize,
    /// Most bytes of keys and values that come in per second, on average; writers are slowed down to it. 0: no limit,
    /// the default.
    pub incoming_rate: u64,
    /// Most bytes that the store's files may take on the disk, at least 8 MiB. 0: no limit, the default.
    pub max_size: u64,
    /// With less than this free on the file system, values are refused. Bytes. Default: a 32nd of the file system,
    /// from 2 MiB to 192 MiB.
    pub free_space_floor: Option<u64>,
    /// Cache mode: where values would be refused, the oldest ones are given up instead. Default: off.
    pub evict: bool,
    /// With less than this free, on the file system or below `max_size`, compaction hurries. Bytes. Default: an eighth
    /// of either, at most 2 GiB.
    pub survival_threshold: Option<u64>,
    /// With less than this free, on the file system or below `max_size`, nothing is compacted: not even on demand. Bytes.
    /// Default: 0, compaction makes do with what there is.
    pub compaction_free_space: u64,
    /// How often the free space is looked at while the store is written to. Default: 5 s.
    pub polling_interval: Duration,
    /// Where messages go. Default: nowhere.
    pub report: Report,
    #[cfg(test)]
    pub(crate) clocks: super::time::Clocks,
}

/// How many segments a store should have, at least.
pub(crate) const SEGMENTS: u64 = 32;
/// Smallest segment. Bytes.
pub(crate) const LEAST_SEGMENT: u64 = 1 << 20;

impl Options {
    /// Size of a new segment of a store whose records have `live` bytes.
    pub(crate) fn segment_size(&self, live: u64) -> u64 {
        (live / SEGMENTS).next_multiple_of(64 << 10).clamp(LEAST_SEGMENT, self.segment_bytes)
    }

    /// The defaults, for the store in directory `path`.
    pub fn new(path: impl Into<PathBuf>) -> Options {
        Options {
            path: path.into(),
            sync: Sync::Interval,
            sync_interval: Duration::from_millis(500),
            cache_bytes: 64 << 20,
            compression: true,
            lane_threads: 2,
            segment_bytes: 64 << 20,
            compaction_interval: Duration::from_secs(300),
            compaction_rate: 16 << 20,
            snapshot_bytes: 64 << 20,
            write_buffer: 8 << 20,
            incoming_rate: 0,
            max_size: 0,
            free_space_floor: None,
            evict: false,
            survival_threshold: None,
            compaction_free_space: 0,
            polling_interval: Duration::from_secs(5),
            report: Arc::new(|_, _| ()),
            #[cfg(test)]
            clocks: super::time::Clocks::Host,
        }
    }
}

/// One method for each field but the path; the fields say what they mean.
impl Options {
    /// Sets [`Options::sync`](#structfield.sync).
    pub fn sync(self, sync: Sync) -> Options {
        Options { sync, ..self }
    }

    /// Sets [`Options::sync_interval`](#structfield.sync_interval).
    pub fn sync_interval(self, sync_interval: Duration) -> Options {
        Options { sync_interval, ..self }
    }

    /// Sets [`Options::cache_bytes`](#structfield.cache_bytes).
    pub fn cache_bytes(self, cache_bytes: u64) -> Options {
        Options { cache_bytes, ..self }
    }

    /// Sets [`Options::compression`](#structfield.compression).
    pub fn compression(self, compression: bool) -> Options {
        Options { compression, ..self }
    }

    /// Sets [`Options::lane_threads`](#structfield.lane_threads).
    pub fn lane_threads(self, lane_threads: usize) -> Options {
        Options { lane_threads, ..self }
    }

    /// Sets [`Options::compaction_interval`](#structfield.compaction_interval).
    pub fn compaction_interval(self, compaction_interval: Duration) -> Options {
        Options { compaction_interval, ..self }
    }

    /// Sets [`Options::compaction_rate`](#structfield.compaction_rate).
    pub fn compaction_rate(self, compaction_rate: u64) -> Options {
        Options { compaction_rate, ..self }
    }

    /// Sets [`Options::segment_bytes`](#structfield.segment_bytes).
    pub fn segment_bytes(self, segment_bytes: u64) -> Options {
        Options { segment_bytes, ..self }
    }

    /// Sets [`Options::snapshot_bytes`](#structfield.snapshot_bytes).
    pub fn snapshot_bytes(self, snapshot_bytes: u64) -> Options {
        Options { snapshot_bytes, ..self }
    }

    /// Sets [`Options::write_buffer`](#structfield.write_buffer).
    pub fn write_buffer(self, write_buffer: usize) -> Options {
        Options { write_buffer, ..self }
    }

    /// Sets [`Options::incoming_rate`](#structfield.incoming_rate).
    pub fn incoming_rate(self, incoming_rate: u64) -> Options {
        Options { incoming_rate, ..self }
    }

    /// Sets [`Options::max_size`](#structfield.max_size).
    pub fn max_size(self, max_size: u64) -> Options {
        Options { max_size, ..self }
    }

    /// Sets [`Options::free_space_floor`](#structfield.free_space_floor).
    pub fn free_space_floor(self, free_space_floor: Option<u64>) -> Options {
        Options { free_space_floor, ..self }
    }

    /// Sets [`Options::survival_threshold`](#structfield.survival_threshold).
    pub fn survival_threshold(self, survival_threshold: Option<u64>) -> Options {
        Options { survival_threshold, ..self }
    }

    /// Sets [`Options::compaction_free_space`](#structfield.compaction_free_space).
    pub fn compaction_free_space(self, compaction_free_space: u64) -> Options {
        Options { compaction_free_space, ..self }
    }

    /// Sets [`Options::polling_interval`](#structfield.polling_interval).
    pub fn polling_interval(self, polling_interval: Duration) -> Options {
        Options { polling_interval, ..self }
    }

    /// Sets where messages go: see [`Report`].
    pub fn report(self, report: impl Fn(Severity, &str) + Send + std::marker::Sync + 'static) -> Options {
        Options { report: Arc::new(report), ..self }
    }
}

impl Options {
    pub(crate) fn clocks(&self) -> super::time::Clocks {
        #[cfg(test)]
        return self.clocks.clone();
        #[cfg(not(test))]
        super::time::Clocks::Host
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Options {{ path: {:?}, sync: {:?}, .. }}", self.path, self.sync)
    }
}
