//! Which segments are worth compacting. Pure judgement over figures; for the compactor.

use std::collections::HashMap;
use std::sync::Arc;

use super::core::Core;
use super::round::SWAPPED;
use super::segment::{SEGMENT_HEADER, Segment};
use super::usage::Figures;

/// Part of a segment that must be reclaimable before it is read for that: one in so many bytes.
const WORTH: u64 = 16;

/// What a segment holds. Bytes of its file.
#[derive(Clone)]
pub(crate) struct Holding {
    pub segment: Arc<Segment>,
    pub figures: Figures,
    pub len: u64,
    pub live: u64,
    pub reclaimable: u64,
    /// It may be a source now.
    pub eligible: bool,
}

/// All sealed segments, in the order of replay.
pub(crate) struct Survey {
    pub holdings: Vec<Holding>,
    /// Bytes that may be taken on the disk.
    room: u64,
}

/// For each segment whose graves were looked at: how many older ones there were then.
pub(crate) type Visited = HashMap<u32, usize>;

impl Survey {
    pub fn take(core: &Core, visited: &Visited, now: u64) -> Survey {
        let active = core.log.active_order();
        let sealed = core.log.segments.all().into_iter().filter(|segment| segment.compacted || segment.order < active);
        let mut older_are_dead = true;
        let holdings = sealed.enumerate().map(|(older, segment)| {
            let looked = visited.get(&segment.number).copied();
            let mut holding = Holding::of(core, segment, now, looked.is_none_or(|then| older * 2 <= then));
            // What a `flush_all` in it flushed must go with it.
            holding.eligible &= older_are_dead || !holding.figures.has_flush;
            older_are_dead &= holding.eligible && holding.figures.live() == 0;
            holding
        });
        Survey { holdings: holdings.collect(), room: core.space.room() }
    }

    /// Whether more than this part (numerator, denominator) of the segments can be given back.
    pub fn has(&self, part: (u64, u64)) -> bool {
        let len: u64 = self.holdings.iter().map(|holding| holding.len).sum();
        self.reclaimable() * part.1 > len * part.0
    }

    pub fn reclaimable(&self) -> u64 {
        self.holdings.iter().map(|holding| holding.reclaimable).sum()
    }

    /// What rounds would give back before long: what of it is worth a round by itself. Bytes.
    pub fn worthwhile(&self) -> u64 {
        let soon = |holding: &&Holding| holding.is_worth_it() && !holding.segment.is_damaged();
        self.holdings.iter().filter(soon).map(|holding| holding.reclaimable).sum()
    }

    /// How many bytes may be appended, each over one that was live, before that is this part of all segments.
    pub fn slack(&self, (part, of): (u64, u64)) -> u64 {
        let len: u64 = self.holdings.iter().map(|holding| holding.len).sum();
        (len * part).saturating_sub(self.worthwhile() * of) / (of - part)
    }

    /// What a round over `sources` gives back, and what of reading and writing that takes. Bytes.
    pub fn gain(&self, sources: &[Arc<Segment>]) -> (u64, u64) {
        let is_source = |holding: &&Holding| sources.iter().any(|source| source.number == holding.segment.number);
        self.holdings.iter().filter(is_source).fold((0, 1), |(gain, cost), holding| {
            (gain + holding.reclaimable, cost + holding.len + holding.live / SWAPPED)
        })
    }

    /// The segments that give back most for what must be copied, as many as fill one output of `most` bytes.
    pub fn best(&self, most: u64) -> Vec<Arc<Segment>> {
        let worth = |holding: &&Holding| holding.eligible && holding.is_worth_it();
        let mut ranked: Vec<&Holding> = self.holdings.iter().filter(worth).collect();
        let part = |holding: &Holding| holding.reclaimable * 1000 / holding.len.max(1);
        ranked.sort_unstable_by_key(|holding| (std::cmp::Reverse(part(holding)), holding.segment.place()));
        self.fill(ranked.into_iter(), most)
    }

    /// The oldest segments that have anything to give back, as many as fill one output of `most` bytes.
    pub fn oldest(&self, most: u64) -> Vec<Arc<Segment>> {
        let any = |holding: &&Holding| holding.eligible && holding.has_anything();
        self.fill(self.holdings.iter().filter(any), most)
    }

    fn fill<'a>(&self, ranked: impl Iterator<Item = &'a Holding>, most: u64) -> Vec<Arc<Segment>> {
        let (mut picked, mut room): (Vec<&Holding>, u64) = (Vec::new(), most);
        for holding in ranked {
            let needed = holding.needed();
            // A segment may be larger than those that are made now.
            if needed <= room || (picked.is_empty() && needed <= self.room) {
                room = room.saturating_sub(needed);
                picked.push(holding);
            }
        }
        self.with_what_it_flushed(picked)
    }

    /// A segment with a record of `flush_all` goes only together with all older ones, which are dead by then.
    fn with_what_it_flushed(&self, mut picked: Vec<&Holding>) -> Vec<Arc<Segment>> {
        picked.sort_unstable_by_key(|holding| holding.segment.place());
        let mut older = self.holdings.iter();
        let mut complete = true;
        let mut kept = Vec::new();
        for holding in picked {
            complete &= older.next().is_some_and(|oldest| oldest.segment.number == holding.segment.number);
            if complete || !holding.figures.has_flush {
                kept.push(holding.segment.clone());
            }
        }
        kept
    }
}

impl Holding {
    /// `ask_graves`: its tombstones may be spent.
    pub fn of(core: &Core, segment: Arc<Segment>, now: u64, ask_graves: bool) -> Holding {
        let figures = core.log.segments.usage(segment.handle).figures();
        let len = segment.file.metadata().map_or(0, |file| file.len());
        let records = len.saturating_sub(SEGMENT_HEADER + figures.graves);
        // Figures go by size classes: what counts is their proportion.
        let part = |bytes: u64| (u128::from(records) * u128::from(bytes) / u128::from(figures.total.max(1))) as u64;
        let all_expired = figures.latest_expiry != 0 && figures.latest_expiry <= now;
        let expired = if all_expired { figures.expiring.min(figures.live()) } else { 0 };
        let live = part(figures.live() - expired);
        let graves = if ask_graves { figures.graves } else { 0 };
        let reclaimable = records.saturating_sub(live) + graves;
        Holding { eligible: core.is_eligible(&segment), segment, figures, len, live, reclaimable }
    }

    /// What a round copies of it, at most. Bytes.
    pub fn needed(&self) -> u64 {
        self.live + self.figures.graves
    }

    fn is_worth_it(&self) -> bool {
        self.reclaimable * WORTH >= self.len
    }

    /// Whether looking into it may give back anything at all.
    fn has_anything(&self) -> bool {
        self.figures.dead > 0 || self.figures.graves > 0 || self.figures.expiring > 0 || self.figures.total == 0
    }
}
