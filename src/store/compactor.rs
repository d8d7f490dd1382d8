//! The compactor: a thread that gives back the space of what was overwritten, removed, flushed or has expired. It
//! decides when a round is worth it; `victims` says over which segments, `round` carries it out, `pace` holds it back.
//!
//! Rung whenever the log moves on to another segment; looks by itself from time to time for what expired.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

use super::backpressure::Backpressure;
use super::core::Core;
use super::error::{Error, Result};
use super::lane::Lane;
use super::options::Severity;
use super::pace::Pace;
use super::round::{Outcome, Round, Step};
use super::segment::Segment;
use super::space::Level;
use super::syncer::Bell;
use super::victims::{Survey, Visited};
use crate::sys;

/// A round is due when this part of the full segments can be given back.
const DUE: (u64, u64) = (1, 5);
/// From here on it takes what it needs.
const LATE: (u64, u64) = (1, 4);
/// From here on writers wait, lest the store take more than half as much again as what lives in it. (The segments that
/// are written to, and a round's output, come on top.)
const BEHIND: (u64, u64) = (27, 100);
/// In small stores they need not wait. Bytes that can be given back.
const SMALL: u64 = 8 << 20;
/// Where there are large values, a segment that takes less than one such part of the usual size was ended to be given up
/// with those that it names.
const FEW: u64 = 4;
/// A cache gives up values for an index checkpoint that takes one in so many bytes of the disk at most.
const INDEX_PART: u64 = 16;
/// Room that a round needs besides its output's records. Bytes.
const MARGIN: u64 = 64 << 10;
/// Pause after a round that failed.
const RETRY: Duration = Duration::from_secs(1);

/// What the compactor shares with the rest of the store.
#[derive(Default)]
pub(crate) struct Compaction {
    pub bell: Bell,
    /// The store is being closed: rounds are given up.
    pub stopping: AtomicBool,
    /// More is overwritten than rounds can give back: writers wait.
    pub pressure: Backpressure,
    /// Held by whoever carries out rounds, or wants none.
    pub rounds: Mutex<Visited>,
    pub counters: CompactionCounters,
}

/// See [`super::Stats`].
#[derive(Default)]
pub(crate) struct CompactionCounters {
    pub rounds: AtomicU64,
    pub bytes_read: AtomicU64,
    pub bytes_written: AtomicU64,
    pub bytes_removed: AtomicU64,
    pub segments_removed: AtomicU64,
}

/// The thread's own memory.
pub(crate) struct Compactor {
    core: Arc<Core>,
    /// A thread that does not step back: for rounds that writers wait for.
    urgent: Lane,
    last_round: Instant,
    /// When everything that large values had to give back was.
    last_reclaim: Instant,
}

impl Compactor {
    pub fn new(core: Arc<Core>, urgent: Lane) -> Compactor {
        Compactor { core, urgent, last_round: Instant::now(), last_reclaim: Instant::now() }
    }

    /// The thread's body.
    pub fn run(mut self) {
        sys::priority::step_back();
        self.core.compaction.pressure.begin();
        while let Some(pause) = self.turn() {
            if !self.core.compaction.bell.wait(Some(Instant::now() + pause)) {
                break;
            }
        }
    }

    /// Does what there is to do; tells how long to sleep then. `None`: there will be nothing more.
    fn turn(&mut self) -> Option<Duration> {
        match self.work() {
            Ok(()) => Some(self.core.options.compaction_interval),
            Err(Error::ReadOnly(_)) => None,
            Err(error) => Some(self.complain(&error)),
        }
    }

    fn complain(&self, error: &Error) -> Duration {
        if !self.core.compaction.stopping.load(SeqCst) {
            (self.core.options.report)(Severity::Warning, &format!("compaction: {error}"));
        }
        RETRY
    }

    /// Rounds, and what large values give back: that may be the very room that rounds lack.
    fn work(&mut self) -> Result<()> {
        let rounds = self.rounds();
        if self.core.is_behind() {
            // More cannot be done at present.
            self.core.compaction.pressure.lift();
        }
        self.reclaim()?;
        rounds?;
        self.core.refresh_checkpoint();
        Ok(())
    }

    /// Rounds, as long as one is due.
    fn rounds(&mut self) -> Result<()> {
        while self.progress()? {
            self.last_round = Instant::now();
        }
        Ok(())
    }

    /// A few values wait until that is worth a sync; but not for ever, and not where room is short.
    fn reclaim(&mut self) -> Result<()> {
        let core = &self.core;
        let long = self.last_reclaim.elapsed() >= core.options.compaction_interval;
        let all = core.space.wanted.swap(false, Relaxed) || long || core.space.level() > Level::Enough;
        let _no_round = core.hold_rounds();
        core.reclaim(all)?;
        if all {
            core.measure_space();
            self.last_reclaim = Instant::now();
        }
        Ok(())
    }

    /// Whether another step is due and something came of it. While values have no room they wait for that; then they are
    /// refused.
    fn progress(&mut self) -> Result<bool> {
        self.core.space.note_attempt();
        let made = match self.round_if_due() {
            // Should it be needed from now on, another turn sees to it.
            Ok(false) if !self.core.needs_room() => return Ok(false),
            Ok(false) => self.core.make_room(),
            made => made,
        };
        if self.core.needs_room() {
            self.core.space.note_progress(matches!(made, Ok(true)));
        }
        made
    }

    /// A round that writers wait for is carried out at their priority.
    fn round_if_due(&mut self) -> Result<bool> {
        let forced = self.last_round.elapsed() >= self.core.options.compaction_interval;
        if !self.core.is_behind() {
            return self.core.round_if_due(forced);
        }
        let (core, (tell, told)) = (self.core.clone(), mpsc::channel());
        self.urgent.submit(Box::new(move || drop(tell.send(core.round_if_due(forced)))));
        told.recv().unwrap_or(Ok(false))
    }
}

/// Also where a panic ends the thread: nobody is to wait for it, nor for the other one.
impl Drop for Compactor {
    fn drop(&mut self) {
        self.core.compaction.pressure.end();
        self.urgent.close();
    }
}

impl Compaction {
    /// Keeps rounds from being carried out.
    #[cfg(test)]
    pub fn hold(&self) -> std::sync::MutexGuard<'_, Visited> {
        super::lock(&self.rounds)
    }
}

/// What a segment's records take.
fn bytes(segment: &Arc<Segment>) -> u64 {
    match segment.end.load(SeqCst) {
        0 => segment.file.metadata().map_or(0, |file| file.len()),
        end => end,
    }
}

/// Whether the file has another name.
fn is_linked(segment: &Arc<Segment>) -> bool {
    segment.file.metadata().is_ok_and(|file| file.nlink() > 1)
}

impl Outcome {
    fn add(&mut self, other: &Outcome) {
        self.read += other.read;
        self.written += other.written;
        self.removed += other.removed;
        self.segments += other.segments;
    }
}

impl Core {
    /// A round over what is most worth it, if one is due or `forced`. Tells whether it gave anything back.
    fn round_if_due(&self, forced: bool) -> Result<bool> {
        let mut visited = super::lock(&self.compaction.rounds);
        let survey = Survey::take(self, &visited, self.time.reclaim());
        self.bound_writers(&survey);
        let in_vain = self.works_in_vain();
        if self.lacks_space() || (in_vain && self.space.level() == Level::Refusing) {
            return Ok(false);
        }
        // A cache would rather lose its oldest values than copy the others again and again.
        let short = self.space.level() > Level::Enough && !self.options.evict && !in_vain;
        if !survey.has(DUE) && !forced && !short {
            return Ok(false);
        }
        let mut sources = survey.best(self.output_bytes());
        if sources.is_empty() {
            // What is worth it may only just have been written.
            self.sync_all()?;
            sources = Survey::take(self, &visited, self.time.reclaim()).best(self.output_bytes());
        }
        if sources.is_empty() {
            self.compaction.pressure.lift();
            return Ok(false);
        }
        let hurry = short || survey.has(LATE);
        let rate = Some(self.options.compaction_rate).filter(|&rate| rate > 0 && !hurry);
        let pace = Pace::start(self, rate).giving_back(survey.gain(&sources));
        let outcome = self.round(sources, &mut visited, pace, &|_| ())?;
        self.measure_space();
        Ok(outcome.removed > outcome.written)
    }

    /// Lets writers go on as long as no more can be given back than is bearable.
    fn bound_writers(&self, survey: &Survey) {
        if self.lacks_space() {
            return self.compaction.pressure.lift();
        }
        let slack = survey.slack(BEHIND).max(SMALL.saturating_sub(survey.worthwhile()));
        self.compaction.pressure.allow(self.log.bytes.load(Relaxed), slack);
    }

    /// The same, as things are when the log has moved on to another segment: writers do not depend on when the compactor
    /// comes to run. For the syncer.
    pub fn look_behind(&self) {
        // Whoever carries out a round moves the limit by himself.
        if let Ok(visited) = self.compaction.rounds.try_lock() {
            self.bound_writers(&Survey::take(self, &visited, self.time.reclaim()));
        }
    }

    /// Whether less is free than there must be for compaction.
    fn lacks_space(&self) -> bool {
        self.space.room() < self.options.compaction_free_space
    }

    /// Whether most files that are removed stay on the disk: a snapshot reads them.
    fn works_in_vain(&self) -> bool {
        !self.space.is_own_limit() && self.is_pinned()
    }

    /// Whether the oldest segment had better not be given up: it would stay on the disk, or so would the large values that
    /// are most of what it names.
    pub(super) fn evicts_in_vain(&self) -> bool {
        let all = self.log.segments.all();
        let Some(oldest) = all.first() else { return false };
        let (own, size) = (self.space.is_own_limit(), self.options.segment_size(self.index.bytes()));
        if self.is_pinned() {
            let is_short = || self.extents.any() && bytes(oldest) < size / FEW;
            return !own || !self.is_full(oldest) || is_short();
        }
        // Those that a backup has linked give nothing: only on the way to others that give what is wanted.
        let gives = |segment: &&Arc<Segment>| self.is_full(segment) && !is_linked(segment);
        // Records of large values are short, and tell nothing of what goes with them.
        let bytes = |segment| if self.extents.any() { size } else { bytes(segment) };
        !own && is_linked(oldest) && all.iter().filter(gives).map(bytes).sum::<u64>() < 2 * size
    }

    /// Whether a segment is not the one that is written to.
    fn is_full(&self, segment: &Segment) -> bool {
        segment.compacted || segment.order < self.log.active_order()
    }

    /// Keeps rounds from being carried out, and so nobody waiting for one.
    pub fn hold_rounds(&self) -> MutexGuard<'_, Visited> {
        let visited = super::lock(&self.compaction.rounds);
        self.compaction.pressure.lift();
        visited
    }

    /// Compacts everything of which anything can be given back, until nothing is left. Sleeps.
    pub fn compact(&self) -> Result<Outcome> {
        let mut visited = self.hold_rounds();
        if self.lacks_space() {
            return Err(Error::Full("less is free than db.compaction.filesystem.free-space-required".into()));
        }
        match self.seal_active() {
            // Then the active segment is left as it is: it is the others that give room.
            Err(Error::Full(_)) => {}
            sealed => sealed?,
        }
        // What is appended from here on is left alone, or this would never end while others write.
        let last = self.log.active_order();
        let mut total = Outcome::default();
        loop {
            let pass = self.compact_once(&mut visited, last)?;
            total.add(&pass);
            if pass.removed <= pass.written {
                self.reclaim(true)?;
                return Ok(total);
            }
        }
    }

    /// Looks into every segment before `last` that may have something to give back, the oldest first.
    fn compact_once(&self, visited: &mut Visited, last: u64) -> Result<Outcome> {
        let mut total = Outcome::default();
        let mut done: Vec<u32> = Vec::new();
        loop {
            self.sync_all()?;
            let mut survey = Survey::take(self, visited, self.time.reclaim());
            survey.holdings.retain(|holding| holding.segment.order < last);
            survey.holdings.iter_mut().for_each(|holding| holding.eligible &= !done.contains(&holding.segment.number));
            let sources = survey.oldest(self.output_bytes());
            if sources.is_empty() {
                return Ok(total);
            }
            let (newest, picked) = (self.log.segments.last_number(), sources.clone());
            let outcome = self.round(sources, visited, Pace::start(self, None), &|_| ())?;
            // What comes behind one that had to stay gets another round, without that one.
            done.extend(picked.iter().take(outcome.segments as usize + 1).map(|source| source.number));
            done.extend(newest + 1..=self.log.segments.last_number());
            total.add(&outcome);
        }
    }

    /// One round over `sources`; the caller holds `rounds`.
    fn round(
        &self,
        sources: Vec<Arc<Segment>>,
        visited: &mut Visited,
        mut pace: Pace,
        step: &dyn Fn(Step),
    ) -> Result<Outcome> {
        pace.check(self)?;
        let outcome = Round::new(self, sources, &mut pace, step).run()?;
        let all = self.log.segments.all();
        let numbers: std::collections::HashSet<u32> = all.iter().map(|segment| segment.number).collect();
        visited.retain(|number, _| numbers.contains(number));
        all.iter().enumerate().filter(|(_, segment)| segment.compacted).for_each(|(older, segment)| {
            visited.entry(segment.number).or_insert(older);
        });
        self.count(&outcome);
        Ok(outcome)
    }

    fn count(&self, outcome: &Outcome) {
        let counters = &self.compaction.counters;
        counters.rounds.fetch_add(1, Relaxed);
        counters.bytes_read.fetch_add(outcome.read, Relaxed);
        counters.bytes_written.fetch_add(outcome.written, Relaxed);
        counters.bytes_removed.fetch_add(outcome.removed, Relaxed);
        counters.segments_removed.fetch_add(outcome.segments, Relaxed);
    }

    /// Whether values have no room, or the next segments of the log would have none.
    pub(super) fn needs_room(&self) -> bool {
        // In a cache there is never more than that, so what an index checkpoint takes is made room for, if it is not much.
        let most = self.space.capacity() / INDEX_PART;
        let gives = || self.log.segments.all().first().is_none_or(|oldest| !is_linked(oldest));
        let is_worth_it = |room: &u64| 0 < *room && *room <= most && gives();
        // To count the keys takes every stripe of the index: only where it matters.
        let wanted = self.options.evict.then(|| self.room_for_checkpoint());
        let more = wanted.filter(is_worth_it).unwrap_or(0);
        let next = 2 * self.options.segment_size(self.index.bytes()) + more;
        let is_short = self.space.level() != Level::Enough || more > 0;
        // Where there can be no other segment, room is of no use.
        let are_many = self.options.evict && self.log.segments.are_many();
        are_many || is_short && (self.space.headroom() <= next || self.space.level() == Level::Refusing)
    }

    /// Makes room otherwise than by a round: by what is gone of large values, or, in cache mode, by giving up the oldest
    /// segment. Tells whether any came of it.
    fn make_room(&self) -> Result<bool> {
        let _no_round = self.hold_rounds();
        if self.compaction.stopping.load(SeqCst) {
            return Ok(false);
        }
        let before = self.space.room();
        self.reclaim(true)?;
        self.measure_space();
        if self.space.room() > before {
            return Ok(true);
        }
        if !self.options.evict || self.index.len() == 0 || self.evicts_in_vain() {
            return Ok(false);
        }
        let mut evicted = self.evict()?;
        if evicted.is_none() {
            self.seal_active()?;
            evicted = self.evict()?;
        }
        self.reclaim(true)?;
        self.measure_space();
        Ok(evicted.is_some())
    }

    /// Whether writers are to wait until more of what they overwrote was given back.
    pub fn is_behind(&self) -> bool {
        self.compaction.pressure.holds(self.log.bytes.load(Relaxed)) && self.log.progress.failure().is_none()
    }

    /// The same for a writer, who calls for what he waits for.
    pub fn waits_for_compaction(&self) -> bool {
        let waits = self.is_behind();
        if waits {
            self.compaction.bell.ring();
        }
        waits
    }

    /// Gives up the round under way and ends the compactor.
    pub fn stop_compaction(&self) {
        self.compaction.stopping.store(true, SeqCst);
        self.compaction.bell.stop();
    }

    /// Most bytes of a round's output: no more than there is room for.
    fn output_bytes(&self) -> u64 {
        self.options.segment_size(self.index.bytes()).min(self.space.room().saturating_sub(MARGIN))
    }

    /// A round over the segments with these numbers, whatever they are worth; `step` is told how far it has come.
    #[cfg(test)]
    pub fn compact_segments(&self, numbers: &[u32], step: &dyn Fn(Step)) -> Result<Outcome> {
        let mut visited = super::lock(&self.compaction.rounds);
        self.sync_all()?;
        let chosen = |segment: &Arc<Segment>| numbers.contains(&segment.number);
        let sources: Vec<_> = self.log.segments.all().into_iter().filter(chosen).collect();
        assert!(sources.len() == numbers.len() && sources.iter().all(|source| self.is_eligible(source)));
        self.round(sources, &mut visited, Pace::start(self, None), step)
    }
}
