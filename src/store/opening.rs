//! Opening a store: options checked, files recovered, the parts put together, the threads started. Once, on the opener's
//! thread.

use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::cache::Cache;
use super::compactor::{Compaction, Compactor};
use super::core::{Core, Counters};
use super::error::{Error, Result, is_full};
use super::extent::Extents;
use super::flush::Flushes;
use super::header::VERSION;
use super::home::Home;
use super::lane::Lane;
use super::location::MAX_SEGMENT;
use super::log::{self, Log};
use super::options::{Options, Severity};
use super::reach::REMOVALS;
use super::reclaim::Reclaim;
use super::recovery::{Recovered, recover};
use super::segment::{SEGMENT_HEADER, Segment};
use super::space::Space;
use super::syncer::{Bell, Syncer};
use super::throttle::Throttle;
use super::time::StoreTime;
use crate::sys;

/// An interval that a clock can be set by.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

pub(super) fn check(options: &Options) -> Result<()> {
    match options.segment_bytes {
        0x10_0000..=0x400_0000 => {}
        bytes => return Err(Error::Invalid(format!("a segment has 1 MiB to 64 MiB, not {bytes} bytes").into())),
    }
    if options.write_buffer < 1 << 20 {
        return Err(Error::Invalid("the write buffer needs at least 1 MiB".into()));
    }
    let intervals = [options.sync_interval, options.compaction_interval, options.polling_interval];
    if intervals.iter().any(|interval| *interval > LONGEST) {
        return Err(Error::Invalid("an interval of a store is at most a hundred years".into()));
    }
    match options.max_size {
        0 | 0x80_0000.. => Ok(()),
        bytes => Err(Error::Invalid(format!("a store needs at least 8 MiB of disk space, not {bytes} bytes").into())),
    }
}

/// The first records of this life of the store, and its syncer.
pub(super) fn start(core: &Arc<Core>) -> Result<Vec<JoinHandle<()>>> {
    // Recovery made all of it durable. Said at once, so that a crash is never judged by an older checkpoint.
    core.append_checkpoint(core.log.end())?;
    core.measure_space();
    match core.tick(core.time.now()) {
        // The first turn that finds room fires it, and nothing is executed before that.
        Err(Error::Full(_)) | Ok(_) => {}
        Err(failed) => return Err(failed),
    }
    core.log.write_all();
    let (urgent, mut threads) = Lane::start("urgent", 1).map_err(|error| no_thread(&error))?;
    let (syncer, compactor) = (Syncer::new(core.clone()), Compactor::new(core.clone(), urgent.clone()));
    let syncer = spawn("syncer", || syncer.run()).inspect_err(|_| urgent.close())?;
    let ended = |_: &Error| {
        urgent.close();
        core.bell.stop();
    };
    threads.extend([syncer, spawn("compactor", || compactor.run()).inspect_err(ended)?]);
    Ok(threads)
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.into()).stack_size(256 << 10).spawn(body);
    thread.map_err(|error| no_thread(&error))
}

pub(super) fn no_thread(error: &std::io::Error) -> Error {
    Error::other(format!("cannot start a thread: {error}"))
}

pub(super) fn open_core(options: Options, home: Home, lane: &Lane) -> Result<Arc<Core>> {
    let (space, throttle) = (Arc::new(Space::new(&options)), Arc::new(Throttle::new(options.incoming_rate)));
    let limits = (space.clone(), throttle.clone());
    let extents = Arc::new(Extents::open(&options, home.store, lane.clone(), limits)?);
    // Where a setting asks for too much, that shows before what the index checkpoint knew of a lost end of the log is given up.
    let cache = Cache::new(options.cache_bytes).map_err(|error| {
        Error::other(format!("cannot get {} bytes for the record cache: {error}", options.cache_bytes))
    })?;
    let recovered = recover(&options, &home, &extents)?;
    let (active, offset) = first_segment(&recovered, &options, home.store)?;
    let Recovered { segments, index, facts, damaged, incomplete, replayed, .. } = recovered;
    index.copies.limit(options.snapshot_bytes);
    extents.sync_all()?;
    let bell = Arc::new(Bell::default());
    let log = Log::new(active, offset, &options, segments, lane.clone(), bell.clone());
    let counters = Counters {
        recovered: index.inserted(),
        replayed,
        damaged_records: AtomicU64::new(damaged),
        ..Counters::default()
    };
    Ok(Arc::new(Core {
        time: StoreTime::start(facts.time, options.clocks()),
        index,
        cache,
        log: Arc::new(log),
        extents,
        flushes: Flushes::new(facts.flushed, facts.flush_due),
        lane: lane.clone(),
        bell,
        space,
        throttle,
        sequence: AtomicU64::new(facts.sequence),
        counters,
        evicted: std::sync::OnceLock::new(),
        compaction: Compaction::default(),
        reclaim: Reclaim::new(incomplete),
        snapshots: AtomicUsize::new(0),
        removed: AtomicU64::new(facts.removed),
        maintenance: Mutex::default(),
        home,
        options,
    }))
}

/// The segment to go on with, and where: the newest one, or, if there is none or it is full, another. Also if a compacted
/// one stands behind it: what is appended would then be older than the copies there.
fn first_segment(recovered: &Recovered, options: &Options, store: u64) -> Result<(Arc<Segment>, u64)> {
    let all = recovered.segments.all();
    let last = all.last().map_or(0, |segment| segment.order);
    let Some((newest, end)) = &recovered.newest else { return begin(recovered, options, store, last + 1) };
    let is_last = all.last().is_some_and(|last| last.handle == newest.handle);
    let size = options.segment_size(recovered.index.bytes());
    newest.size.store(size, Relaxed);
    if *end < newest.soft_limit() && is_last {
        resume(newest, *end, options)?;
        return Ok((newest.clone(), *end));
    }
    let begun = match begin(recovered, options, store, last + 1) {
        // Not even for a new segment: what is left of this one is for removals.
        Err(Error::Full(why)) if is_last => {
            (options.report)(Severity::Warning, &format!("no new log segment: {why}"));
            newest.size.store(last_size(newest, *end, size).min(MAX_SEGMENT), Relaxed);
            resume(newest, *end, options)?;
            return Ok((newest.clone(), *end));
        }
        begun => begun?,
    };
    let seal = || {
        newest.file.set_len(*end)?;
        newest.file.write_all_at(&log::seal_record(newest), *end)?;
        newest.file.sync_all()
    };
    seal().map_err(|error| Error::io(format!("seal at offset {end}"), &newest.path, &error))?;
    Ok(begun)
}

/// Bytes of a segment that usually would have `size` and has records up to `end`, where none can be made after it.
fn last_size(newest: &Segment, end: u64, size: u64) -> u64 {
    if newest.version == VERSION { size.max(end + size / 2) } else { end + REMOVALS }
}

/// Cuts what follows the last record and reserves room for more. A full disk does not keep the store from opening.
fn resume(newest: &Segment, end: u64, options: &Options) -> Result<()> {
    let size = newest.size.load(Relaxed);
    let failed = |error| Error::io(format!("prepare {size} bytes of"), &newest.path, &error);
    newest.file.set_len(end).map_err(failed)?;
    match sys::file::preallocate(&newest.file, size) {
        Err(error) if is_full(&error) => {
            (options.report)(Severity::Warning, &failed(error).to_string());
        }
        prepared => drop(prepared.map_err(failed)?),
    }
    newest.file.sync_all().map_err(failed)
}

fn begin(recovered: &Recovered, options: &Options, store: u64, order: u64) -> Result<(Arc<Segment>, u64)> {
    let segment = super::syncer::next_segment(
        options,
        store,
        &recovered.segments,
        order,
        options.segment_size(recovered.index.bytes()),
    )?;
    Ok((segment, SEGMENT_HEADER))
}

#[cfg(test)]
mod tests {
    use super::super::graves::tombstone;
    use super::super::record::{Fields, Kind};
    use super::super::segment::Plan;
    use super::super::segments::Segments;
    use super::*;

    #[test]
    fn a_segment_of_an_earlier_version_takes_removals_where_none_can_follow_but_no_values() {
        let dir = tempfile::tempdir().unwrap();
        let (options, size) = (Options::new(dir.path()), 1 << 20);
        for (version, takes_values) in [(VERSION, true), (2, false)] {
            let plan = Plan { dir: dir.path(), store: 9, number: version, handle: 0, order: 1, size, compacted: false };
            let segment = Arc::new(Segment { version, ..plan.create().unwrap() });
            segment.size.store(last_size(&segment, SEGMENT_HEADER, size), Relaxed);
            let (lane, threads) = Lane::start("lane", 1).unwrap();
            let bell = Arc::new(Bell::default());
            let log = Log::new(segment, SEGMENT_HEADER, &options, Segments::new(9), lane.clone(), bell);
            let removal = tombstone(b"key", 1);
            let value = Fields { kind: Kind::Value, body: b"value", ..removal };
            for _ in 0..2 {
                assert_eq!(log.append(&value).is_ok(), takes_values);
                assert!(log.append(&removal).is_ok());
                log.set_spare(Err(Error::Full("as a disk may be".into())));
            }
            log.write_all();
            lane.close();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        }
    }
}
