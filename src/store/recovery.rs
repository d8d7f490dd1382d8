//! Recovery: from the files of a store to its index, by reading the log in order. Runs once, at the opening, on the
//! opener's thread. `start` says where replay begins, `replay` judges the records, `reader` finds them, `bulk` builds
//! the index.
//!
//! Compacted segments stand among those of the log by their order. They were whole and durable before they got their
//! name, so whatever is wrong with one is damage, and they never end the log.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::bulk::Bulk;
use super::checkpoint;
use super::error::{Error, Result, is_full};
use super::extent::Extents;
use super::home::Home;
use super::index::Index;
use super::location::{MAX_SEGMENT, Position};
use super::options::{Options, Severity};
use super::reader::Reader;
use super::replay::{Facts, Next, Replay};
use super::segment::{SEGMENT_HEADER, Segment, files, numbers, remove_uncommitted};
use super::segments::Segments;
use super::start::Start;
use crate::sys;

/// What recovery found.
pub(crate) struct Recovered {
    pub segments: Segments,
    /// The newest segment of the log and where its records end; none in a new store.
    pub newest: Option<(Arc<Segment>, u64)>,
    pub index: Index,
    pub facts: Facts,
    pub damaged: u64,
    /// There are records that could not be read. They may be mended, or found again, and name what no other one does.
    pub incomplete: bool,
    /// How much of the log was read. Bytes.
    pub replayed: u64,
}

/// Reads the log of the store in `options.path`.
pub(crate) fn recover(options: &Options, home: &Home, extents: &Extents) -> Result<Recovered> {
    let began = Instant::now();
    let table = Segments::new(next_number(&options.path)?);
    let mut segments = open_segments(&options.path, home.store)?;
    let (index, start) = Start::find(options, home.store, &mut segments, &table)?;
    let segments: Vec<_> = segments.into_iter().map(Arc::new).collect();
    let total = segments.iter().filter_map(|segment| start.unread(segment)).sum();
    let bulk = Bulk::start(index, segments.iter().map(AsRef::as_ref))?;
    let mut replay = Replay::new(options, home.seed, extents, &segments, &table, bulk, total);
    (replay.facts, replay.marked, replay.lost) = (start.facts, start.durable, start.lost);
    replay.damaged += u64::from(start.lost > Position(0));
    let store = home.mended.then(|| options.path.join("STORE"));
    let headers = segments.iter().filter(|segment| segment.mended).map(|segment| segment.path.clone());
    replay.report_mended(store.into_iter().chain(headers).chain(extents.mended()));
    let newest = read(&mut replay, &segments, &start, &options.path)?;
    // Compaction may explain the gap before the next start, and not what is missing.
    if replay.report_gaps() {
        checkpoint::remember_loss(&options.path)?;
    }
    let last = newest.as_ref().map_or(0, |(last, _)| last.order);
    for segment in segments.iter().filter(|segment| segment.compacted || segment.order <= last) {
        let is_newest = |(last, _): &&(Arc<Segment>, u64)| last.handle == segment.handle;
        let end = newest.as_ref().filter(is_newest).map_or(u64::MAX, |(_, end)| *end);
        make_durable(segment, replay.marked, end)?;
        table.add(segment);
    }
    if start.lost > Position(0) {
        // The log may reach as far one day, with other records.
        checkpoint::remember_loss(&options.path)?;
        checkpoint::remove(&options.path)?;
    }
    let incomplete = start.incomplete || lacks_log(options, &segments, extents)?;
    segments.iter().filter(|segment| start.incomplete && segment.is_damaged()).for_each(|segment| {
        let text = format!("{} is known to be damaged; see kingserver check", segment.path.display());
        (options.report)(Severity::Warning, &text);
    });
    if start.is_beginning() && !replay.incomplete && !incomplete {
        extents.remove_unnamed(|number| replay.named.contains(&number))?;
    }
    let incomplete = incomplete || replay.incomplete;
    let Replay { bulk, facts, damaged, .. } = replay;
    let index = bulk.finish()?;
    table.recount(|each| index.each(each));
    if !segments.is_empty() {
        let (keys, count, mib, ms) = (index.len(), segments.len(), total >> 20, began.elapsed().as_millis());
        let text = format!("recovered {keys} keys in {count} segments from {mib} MiB of log in {ms} ms");
        (options.report)(Severity::Info, &text);
    }
    Ok(Recovered { segments: table, newest, index, facts, damaged, incomplete, replayed: total })
}

/// Whether segments are missing, by what earlier starts have found, or because there are large values and no log.
fn lacks_log(options: &Options, segments: &[Arc<Segment>], extents: &Extents) -> Result<bool> {
    let dir = &options.path;
    let lacks = (segments.is_empty() && extents.any()) || checkpoint::knows_of_loss(dir);
    if lacks {
        checkpoint::remember_loss(dir)?;
        // Not that they could be put back: the log may have gone on under their numbers.
        let text = "segments of the log are missing, or a repair was not finished: no disk space of earlier large \
                    values is given back; restore a backup, or have kingserver check --repair give up what they named";
        (options.report)(Severity::Warning, text);
    }
    Ok(lacks)
}

/// Reads what `start` does not know; tells which segment the log ends in, and where.
fn read(
    replay: &mut Replay<'_>,
    segments: &[Arc<Segment>],
    start: &Start,
    dir: &Path,
) -> Result<Option<(Arc<Segment>, u64)>> {
    let (mut newest, mut log_ended) = (None, false);
    for (number, segment) in segments.iter().enumerate() {
        // What was compacted counts even where the log that it came from, or what came behind it, is lost.
        if log_ended && !segment.compacted {
            continue;
        }
        replay.notice_gap(number.checked_sub(1).map(|before| &segments[before]), segment);
        let Some(offset) = start.offset(segment) else {
            replay.look_at_end(segment);
            continue;
        };
        let following = segments[number + 1..].iter().find(|later| !later.compacted);
        let (end, next) = replay.segment(segment, following, offset)?;
        if !segment.compacted {
            newest = Some((segment.clone(), end));
        }
        if let Next::LogEnds = next {
            discard(&segments[number + 1..], dir)?;
            log_ended = true;
        }
    }
    Ok(newest)
}

/// A number that no file has, be it a segment, what became of one, or what is kept about one.
pub(crate) fn next_number(dir: &Path) -> Result<u32> {
    let mut next = 0;
    for suffix in ["log", "log.new", "log.cut", "log.damaged", "tags"] {
        next = files(dir, suffix)?.into_iter().fold(next, |next, number| next.max(number.saturating_add(1)));
    }
    Ok(next)
}

/// All segments, in the order of replay. Files that were never completed are removed.
fn open_segments(dir: &Path, store: u64) -> Result<Vec<Segment>> {
    remove_uncommitted(dir)?;
    super::tags::remove_orphans(dir)?;
    let mut found = Vec::new();
    let mut all = numbers(dir)?;
    all.sort_unstable();
    for number in all {
        match Segment::open(dir, store, number, found.len() as u32)? {
            Some(segment) => found.push(segment),
            None => remove(&super::segment::path_of(dir, number), dir)?,
        }
    }
    found.sort_unstable_by_key(Segment::place);
    Ok(found)
}

/// What was recovered counts as durable from now on, so it must be: the last life of the store may have ended
/// before its sync; or with one that failed, after which the kernel takes for written what never was. So what was not
/// synced up to `end` is written again first.
fn make_durable(segment: &Segment, durable: Position, end: u64) -> Result<()> {
    if segment.position(MAX_SEGMENT) <= durable {
        return Ok(());
    }
    let done = durable.0.saturating_sub(segment.position(0).0);
    match write_again(&segment.file, done, end) {
        // On a file system that copies what is written.
        Err(error) if is_full(&error) => {}
        again => again.map_err(|error| Error::io("write again", &segment.path, &error))?,
    }
    segment.file.sync_all().map_err(|error| Error::io("sync", &segment.path, &error))
}

/// Gives the kernel what can be read of `file`, from `offset` to `end`, once more.
fn write_again(file: &File, mut offset: u64, end: u64) -> std::io::Result<()> {
    let mut piece = vec![0; 1 << 20];
    while offset < end {
        let most = piece.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
        match file.read_at(&mut piece[..most], offset) {
            Ok(0) => break,
            Ok(count) => {
                file.write_all_at(&piece[..count], offset)?;
                offset += count as u64;
            }
            // What cannot be read was not recovered either.
            Err(_) => offset += most as u64,
        }
    }
    Ok(())
}

/// Takes segments that follow the log's end out of it. Empty ones go; what is in others was never durable in the
/// right order, and stays beside the store as `NNNNNNNN.log.cut` for whoever wants to look.
fn discard(segments: &[Arc<Segment>], dir: &Path) -> Result<()> {
    for segment in segments.iter().filter(|segment| !segment.compacted) {
        if Reader::new(segment).is_blank(SEGMENT_HEADER)? {
            remove(&segment.path, dir)?;
            continue;
        }
        let aside = segment.path.with_extension("log.cut");
        std::fs::rename(&segment.path, &aside).map_err(|error| Error::io("rename", &segment.path, &error))?;
        sys::file::sync_directory(dir).map_err(|error| Error::io("sync directory", dir, &error))?;
    }
    Ok(())
}

pub(super) fn remove(path: &Path, dir: &Path) -> Result<()> {
    std::fs::remove_file(path).map_err(|error| Error::io("remove", path, &error))?;
    sys::file::sync_directory(dir).map_err(|error| Error::io("sync directory", dir, &error))
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
pub(crate) mod tests;
