//! A round of compaction: what is live in a few segments is copied to another one, and they are removed. For whoever
//! holds `Core::compaction.rounds`: the compactor, or a caller of `Db::compact`.
//!
//! What must hold, whenever the power fails (`kingdb.5` has the argument):
//!
//! - A record is copied only if the index names exactly it: it is its key's newest, and everything newer will stand in
//!   the active segment, whose order is greater than the output's.
//! - The output gets its name when it is whole and on the disk.
//! - Sources go only after everything that superseded anything in them is on the disk. If one holds a tombstone, or what
//!   counts as one, the oldest goes first, each for good before the next: a tombstone never goes before the value that it
//!   hides.
//! - A tombstone, or an expired record, goes only if no older segment that stays may hold a value of its key.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::cache::Cache;
use super::core::Core;
use super::error::{Error, Result};
use super::graves::{Graves, tombstone};
use super::hash::Hash;
use super::index::{Entry, size_class};
use super::location::{Location, MAX_SEGMENT};
use super::options::Severity;
use super::output::Output;
use super::pace::Pace;
use super::reader::Reader;
use super::record::{Fields, Kind};
use super::segment::{SEGMENT_HEADER, Segment};
use super::segments::in_order;
use super::tags;
use super::victims::Holding;
use crate::sys;

/// Pointing the index at the copies costs as much as reading one in so many of their bytes.
pub(crate) const SWAPPED: u64 = 2;

/// Records that are looked at together.
const AHEAD: usize = 16;

/// How far a round has come: for tests, which look at what a crash would leave there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// The output is written, without its name.
    Copied,
    /// It has its name.
    Committed,
    /// The index names the copies.
    Swapped,
    /// Everything newer than the sources is on the disk.
    Settled,
    /// Another source is gone.
    Removed,
}

/// What a round came to.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Outcome {
    /// Bytes of the sources that were read.
    pub read: u64,
    /// Bytes of the output.
    pub written: u64,
    /// Bytes of the sources that are gone.
    pub removed: u64,
    /// Files that are gone.
    pub segments: u64,
}

/// See the module's head.
pub(crate) struct Round<'a> {
    core: &'a Core,
    pace: &'a mut Pace,
    step: &'a dyn Fn(Step),
    /// Oldest first.
    sources: Vec<Arc<Segment>>,
    /// All segments of the log when the round began, in the order of replay.
    all: Vec<Arc<Segment>>,
    /// How many of the sources, from the first on, hold nothing any more that is not in the output.
    consumed: usize,
    output: Option<Output>,
    outcome: Outcome,
    /// Records that expire no later than this are gone.
    now: u64,
    /// No source hides what an older one has: in which order they go does not matter.
    any_order: bool,
}

/// What becomes of a record.
enum Fate {
    Copy,
    Drop,
    /// It hides what older segments may have of its key.
    Grave,
    /// Nothing follows.
    End,
    /// The segment has to stay.
    Stay,
}

/// Records of a segment that follow each other, a few at a time, so that their slots are on the way from memory while the
/// first of them is dealt with.
#[derive(Default)]
struct Run {
    found: Vec<(u64, usize)>,
    hashes: Vec<Hash>,
}

impl Run {
    /// What follows from `offset` on.
    fn look(&mut self, reader: &mut Reader<'_>, offset: u64, core: &Core) -> Result<()> {
        self.found.clear();
        self.hashes.clear();
        reader.sound_run(offset, AHEAD, |at, len, fields| {
            let hash = core.home.seed.hash(fields.key);
            core.index.approach(hash);
            self.found.push((at, len));
            self.hashes.push(hash);
        })?;
        self.hashes.iter().for_each(|&hash| core.index.prefetch(hash));
        Ok(())
    }

    /// Begins to bring near what the cache has of them.
    fn approach(&self, cache: &Cache) {
        self.hashes.iter().for_each(|&hash| drop(cache.spot(hash)));
        // A record that was copied changes its header there and nothing else.
        self.hashes.iter().for_each(|&hash| cache.spot(hash).approach(0));
    }

    /// Offset, length, hash of the key.
    fn records(&self) -> impl Iterator<Item = (u64, usize, Hash)> {
        self.found.iter().zip(&self.hashes).map(|(&(at, len), &hash)| (at, len, hash))
    }
}

impl<'a> Round<'a> {
    /// A round over `sources`, of which each must be eligible: see [`Core::is_eligible`].
    pub fn new(
        core: &'a Core,
        mut sources: Vec<Arc<Segment>>,
        pace: &'a mut Pace,
        step: &'a dyn Fn(Step),
    ) -> Round<'a> {
        in_order(&mut sources);
        let (all, now) = (core.log.segments.all(), core.time.reclaim());
        Round {
            core,
            pace,
            step,
            sources,
            all,
            consumed: 0,
            output: None,
            outcome: Outcome::default(),
            now,
            any_order: true,
        }
    }

    /// Carries it out. After an error everything is as it was, or the sources are left beside their copies, to be
    /// removed by another round.
    pub fn run(mut self) -> Result<Outcome> {
        let copied = self.copy_all();
        if let Err(error) = copied {
            if let Some(output) = self.output.take() {
                output.abandon();
            }
            return Err(error);
        }
        self.commit()?;
        if self.consumed > 0 {
            self.settle()?;
            self.remove_sources()?;
        }
        Ok(self.outcome)
    }

    /// Removes the sources, which must be the oldest segments there are: whatever tombstones are in them, nothing is left for
    /// them to hide. Once their files are gone for good, `forget` is to take what is in them off the index: before, a
    /// removal that found a key missing would be undone by a crash.
    pub fn give_up(mut self, forget: &mut dyn FnMut() -> Result<()>) -> Result<Outcome> {
        self.consumed = self.sources.len();
        self.settle()?;
        let sources = std::mem::take(&mut self.sources);
        let core = self.core;
        // A backup has none of it, or all that is on the index.
        let _files = super::lock(&core.maintenance);
        self.remove_files(&sources)?;
        forget()?;
        self.remember_ranges(&sources);
        self.drop_segments(&sources);
        Ok(self.outcome)
    }

    fn copy_all(&mut self) -> Result<()> {
        // A thread that appended to a segment holds the key's stripe, or the order of flushes, until that is counted: once
        // all of these were free for a moment, the figures of sealed segments are exact.
        self.core.index.settle();
        drop(self.core.flushes.hold());
        for source in self.sources.clone() {
            if !self.was_flushed(&source) && !self.copy(&source)? {
                break;
            }
            self.consumed += 1;
        }
        Ok(())
    }

    /// Whether nothing in a source can be of use, whatever it says. Every other one is read: no figure alone decides that
    /// a segment goes.
    fn was_flushed(&self, source: &Segment) -> bool {
        let flushed = source.position(MAX_SEGMENT) <= self.core.flushes.fired();
        flushed && self.core.log.segments.usage(source.handle).figures().is_dead()
    }

    /// Copies what is live in one source. `false`: it has to stay.
    fn copy(&mut self, source: &Arc<Segment>) -> Result<bool> {
        let (mut reader, mut run, mut graves) = (Reader::new(source), Run::default(), Graves::default());
        let mut offset = SEGMENT_HEADER;
        loop {
            match run.look(&mut reader, offset, self.core) {
                Ok(()) if !run.found.is_empty() => {}
                Ok(()) => return Ok(self.leave(source, format_args!("damaged at offset {offset}"))),
                // Where the disk cannot read one segment, the others are compacted all the same.
                Err(error) => return Ok(self.leave(source, format_args!("{error}"))),
            }
            for (at, len, hash) in run.records() {
                let fields = reader.found(at)?;
                self.any_order &= fields.expires == 0 && !matches!(fields.kind, Kind::Tombstone | Kind::FlushFired);
                let kept = match self.judge(source, at, &fields, hash) {
                    Fate::Copy => self.put(&fields)?,
                    Fate::Drop => true,
                    Fate::Grave => graves.add(hash, &fields) || self.put(&tombstone(fields.key, fields.sequence))?,
                    Fate::End => return self.put_graves(source, graves),
                    Fate::Stay => false,
                };
                if !kept {
                    return Ok(false);
                }
                offset = at + len as u64;
                self.outcome.read += len as u64;
                self.pace.spend(self.core, len as u64)?;
            }
        }
    }

    fn judge(&self, source: &Segment, offset: u64, fields: &Fields<'_>, hash: Hash) -> Fate {
        let flushed = || source.position(offset) < self.core.flushes.fired();
        match fields.kind {
            Kind::Value | Kind::Large => self.judge_value(source, offset, fields, hash),
            Kind::Tombstone if flushed() => Fate::Drop,
            Kind::Tombstone => {
                let superseded = self.core.index.stripe(hash).find(hash.tag).is_some();
                if superseded { Fate::Drop } else { Fate::Grave }
            }
            // What it flushed must be gone before it, unless a later one does the same.
            Kind::FlushFired if self.is_followed(source, offset, fields) || self.is_oldest(source) => Fate::Drop,
            Kind::FlushFired => Fate::Stay,
            Kind::FlushPending | Kind::Checkpoint => Fate::Drop,
            Kind::Seal => Fate::End,
        }
    }

    fn judge_value(&self, source: &Segment, offset: u64, fields: &Fields<'_>, hash: Hash) -> Fate {
        let core = self.core;
        let here = Location::new(source.handle, offset);
        let mut stripe = core.index.stripe(hash);
        let entry = stripe.find(hash.tag);
        let flushed = source.position(offset) < core.flushes.fired();
        let expired = fields.expires != 0 && fields.expires <= self.now;
        match entry {
            Some(entry) if entry.location != here => Fate::Drop,
            Some(_) if !flushed && !expired => Fate::Copy,
            Some(entry) => {
                stripe.remove(hash.tag);
                core.cache.remove(hash);
                core.note_dead(&entry);
                if flushed { Fate::Drop } else { Fate::Grave }
            }
            // It may be the key's newest all the same: what has expired leaves the index when somebody looks at it.
            None if fields.expires != 0 && !flushed => Fate::Grave,
            None => Fate::Drop,
        }
    }

    /// Whether the store was flushed again after this record.
    fn is_followed(&self, source: &Segment, offset: u64, fired: &Fields<'_>) -> bool {
        source.position(offset + fired.encoded_len() as u64) < self.core.flushes.fired()
    }

    /// Whether every older segment is a source that was consumed.
    fn is_oldest(&self, source: &Segment) -> bool {
        self.older(source).is_empty()
    }

    /// The segments before `source` that will stay.
    fn older(&self, source: &Segment) -> Vec<Arc<Segment>> {
        let gone = &self.sources[..self.consumed];
        let stays = |segment: &&Arc<Segment>| !gone.iter().any(|gone| gone.handle == segment.handle);
        self.all.iter().take_while(|segment| segment.place() < source.place()).filter(stays).cloned().collect()
    }

    fn put_graves(&mut self, source: &Segment, mut graves: Graves) -> Result<bool> {
        graves.ask(self.core, &self.older(source), self.pace);
        for tombstone in graves.held() {
            if !self.put(&tombstone)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Puts a record into the output. `false`: that is full.
    fn put(&mut self, fields: &Fields<'_>) -> Result<bool> {
        let output = match self.output.take() {
            Some(output) => output,
            None => self.begin_output()?,
        };
        self.output.insert(output).put(self.core, fields)
    }

    fn begin_output(&self) -> Result<Output> {
        let newest = self.sources.last().map_or(0, |source| source.order);
        let figures = self.sources.iter().map(|source| self.core.log.segments.usage(source.handle).figures());
        let most = figures.map(|figures| figures.live() + figures.graves).sum();
        match Output::begin(self.core, newest, most) {
            // Size classes make more of records than they take; a round is admitted by what they do.
            Err(Error::Full(_)) => Output::begin(self.core, newest, self.estimate()),
            begun => begun,
        }
    }

    /// Bytes that are likely to be copied.
    fn estimate(&self) -> u64 {
        let needed = |source: &Arc<Segment>| Holding::of(self.core, source.clone(), self.now, true).needed();
        self.sources.iter().map(needed).sum()
    }

    fn leave(&self, source: &Segment, why: std::fmt::Arguments<'_>) -> bool {
        source.note_damage();
        let text = format!("{}: {why}; it is not compacted", source.path.display());
        (self.core.options.report)(Severity::Warning, &text);
        false
    }

    /// Gives the output its name, and points the index at it.
    fn commit(&mut self) -> Result<()> {
        let Some(output) = self.output.take() else { return Ok(()) };
        let output = output.finish()?;
        (self.step)(Step::Copied);
        let made = {
            let _files = super::lock(&self.core.maintenance);
            output.commit(self.core)?
        };
        self.outcome.written = made.file.metadata().map_or(0, |file| file.len());
        (self.step)(Step::Committed);
        self.swap(&made)?;
        (self.step)(Step::Swapped);
        Ok(())
    }

    /// Points the index, and the cache, at the copies of what they still name in the sources. Sealed segments do not
    /// change, so whatever is named there is what was copied.
    fn swap(&mut self, made: &Arc<Segment>) -> Result<()> {
        let mut handles: Vec<u32> = self.sources.iter().map(|source| source.handle).collect();
        handles.sort_unstable();
        let (mut reader, mut run, mut offset) = (Reader::new(made), Run::default(), SEGMENT_HEADER);
        loop {
            run.look(&mut reader, offset, self.core)?;
            if run.found.is_empty() {
                made.note_damage();
                return Err(Error::damaged(&made.path, offset, "what was written just now is not what is there"));
            }
            run.approach(&self.core.cache);
            for (at, len, hash) in run.records() {
                let fields = reader.found(at)?;
                match fields.kind {
                    Kind::Seal => return Ok(()),
                    Kind::Value | Kind::Large => self.swap_record(made, at, hash, len, &handles),
                    _ => {}
                }
                offset = at + len as u64;
                self.pace.spend(self.core, len as u64 / SWAPPED)?;
            }
        }
    }

    fn swap_record(&self, made: &Segment, offset: u64, hash: Hash, len: usize, sources: &[u32]) {
        let core = self.core;
        let to = Location::new(made.handle, offset);
        let mut stripe = core.index.stripe(hash);
        match stripe.find(hash.tag) {
            Some(entry) if sources.binary_search(&entry.location.handle()).is_ok() => {
                stripe.relocate(hash.tag, Entry { location: to, ..entry });
                core.cache.spot(hash).relocate(entry.location, to);
                core.log.segments.note_dead(&entry);
            }
            _ => core.log.segments.usage(made.handle).note_dead(size_class(len)),
        }
    }

    /// Makes everything durable that superseded anything in the sources, with a note that it is, so that recovery takes
    /// nothing of it for a torn tail; the note also keeps the greatest version sequence and the pending flush.
    fn settle(&self) -> Result<()> {
        let core = self.core;
        core.sync_all()?;
        let newest = self.sources[..self.consumed].last().map_or(0, |source| source.order);
        core.removed.fetch_max(newest, SeqCst);
        core.append_pending_flush()?;
        core.append_checkpoint_for_sure(core.log.progress.durable())?;
        core.sync_all()?;
        (self.step)(Step::Settled);
        Ok(())
    }

    fn remove_sources(&mut self) -> Result<()> {
        let sources: Vec<_> = self.sources[..self.consumed].to_vec();
        self.remember_ranges(&sources);
        let together = if self.any_order { sources.len() } else { 1 };
        let core = self.core;
        sources.chunks(together).try_for_each(|sources| {
            let files = super::lock(&core.maintenance);
            self.remove_files(sources)?;
            drop(files);
            self.drop_segments(sources);
            Ok(())
        })
    }

    /// What large values had that died in the sources is known from these alone.
    fn remember_ranges(&self, sources: &[Arc<Segment>]) {
        self.core.remember_ranges(&sources.iter().map(|source| source.handle).collect::<Vec<_>>());
    }

    /// The caller holds `maintenance`.
    fn remove_files(&mut self, sources: &[Arc<Segment>]) -> Result<()> {
        let lens = sources.iter().map(|source| source.file.metadata().map_or(0, |file| file.len()));
        self.outcome.removed += lens.sum::<u64>();
        sources.iter().try_for_each(|source| remove(source))?;
        let dir = &self.core.options.path;
        sys::file::sync_directory(dir).map_err(|error| Error::io("sync directory", dir, &error))
    }

    fn drop_segments(&mut self, sources: &[Arc<Segment>]) {
        sources.iter().for_each(|source| self.core.log.segments.remove(source));
        self.outcome.segments += sources.len() as u64;
        (self.step)(Step::Removed);
    }
}

/// Removes a segment's files.
fn remove(segment: &Segment) -> Result<()> {
    tags::remove(segment);
    match std::fs::remove_file(&segment.path) {
        // An earlier round came so far, and then the directory could not be synced.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|error| Error::io("remove", &segment.path, &error)),
    }
}

impl Core {
    /// Whether a segment may be a source: it is full, all of it is on the disk, and nothing in it is damaged.
    pub fn is_eligible(&self, segment: &Segment) -> bool {
        self.is_sealed(segment) && !segment.is_damaged()
    }

    /// Whether a segment is full and all of it on the disk.
    pub fn is_sealed(&self, segment: &Segment) -> bool {
        let sealed = segment.compacted || segment.order < self.log.active_order();
        sealed && segment.position(super::location::MAX_SEGMENT) <= self.log.progress.durable()
    }

    /// Makes durable what was appended so far; sleeps.
    pub fn sync_all(&self) -> Result<()> {
        let end = self.log.end();
        self.log.write_all();
        if let Some(why) = self.log.progress.failure() {
            return Err(Error::ReadOnly(why));
        }
        self.sync(end)
    }
}
