//! Giving back the space of large values that nobody can read any more: their ranges of the extent files become holes,
//! and files without any range left are removed. By the compactor, between its rounds.
//!
//! A range belongs to one key for as long as it exists, and is never used again. It is given back only if
//!
//! - the key's slot names no record with this range. It never will again: a record that keeps a range is written on
//!   the condition that the slot has not changed;
//! - a note in the log, itself on the disk, says that everything which made this so is on the disk;
//! - no snapshot is open, and nobody holds the value. Who looks a value up takes a lease on its range first and then
//!   looks again whether the slot still names it;
//! - the file has one name: what a backup has linked is never changed. The range is owed until the backup is gone.
//!
//! Ranges that were dead before the store was opened are found by a walk over the index, once; not while a damaged record
//! might name them, nor in a life whose recovery missed records.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use super::core::Core;
use super::error::Result;
use super::hash::Hash;
use super::index::{Entry, size_bound};
use super::options::Severity;
use super::piece::{self, Piece, Range};
use super::record::{Fields, Kind};

/// Values whose space may wait for more to come with them.
const FEW: usize = 16;

/// What is to be given back, as far as this life of the store made it so.
pub(crate) struct Reclaim {
    queue: Mutex<Vec<Item>>,
    sweep: Mutex<Sweep>,
    /// That a damaged record keeps the sweep from being done was told.
    told: AtomicBool,
}

/// What becomes of the ranges that were dead before the store was opened.
#[derive(Clone, Copy)]
enum Sweep {
    Due,
    /// It could not be done; each attempt is a walk over the index.
    NotBefore(Instant),
    /// They were given back, or are left to a later life.
    Over,
}

/// A large value that its key has no more.
#[derive(Clone, Copy)]
enum Item {
    /// The record that named it; it may be the range's next record that counts.
    Record(Entry),
    Range(Hash, Range),
}

impl Reclaim {
    /// `incomplete`: recovery did not find all records. Those that are missing may name anything.
    pub fn new(incomplete: bool) -> Reclaim {
        let sweep = Mutex::new(if incomplete { Sweep::Over } else { Sweep::Due });
        Reclaim { queue: Mutex::default(), sweep, told: AtomicBool::new(false) }
    }
}

impl Core {
    /// The index names this record no more. The caller holds its stripe.
    pub fn note_dead(&self, entry: &Entry) {
        if entry.large {
            let mut queue = super::lock(&self.reclaim.queue);
            queue.push(Item::Record(*entry));
            if queue.len().is_multiple_of(FEW) {
                self.compaction.bell.ring();
            }
        }
        self.log.segments.note_dead(entry);
    }

    /// Gives back what can be given back by now; if `all` is not asked for, only if that is worth a sync.
    pub fn reclaim(&self, all: bool) -> Result<()> {
        if self.is_pinned() {
            return Ok(());
        }
        if let Sweep::Due = self.sweep_if_due()? {
            return Ok(());
        }
        if all {
            self.punch_owed();
            self.extents.remove_empty()?;
        }
        if super::lock(&self.reclaim.queue).len() < if all { 1 } else { FEW } {
            return Ok(());
        }
        let items = std::mem::take(&mut *super::lock(&self.reclaim.queue));
        let (mut ranges, mut later) = (Vec::new(), Vec::new());
        for item in items {
            match self.abandoned_by(&item) {
                Some(abandoned) => ranges.extend(abandoned),
                None => later.push(item),
            }
        }
        super::lock(&self.reclaim.queue).extend(later);
        if ranges.is_empty() {
            return Ok(());
        }
        let done = self.give_back(&mut ranges);
        let left = ranges.into_iter().map(|(hash, range)| Item::Range(hash, range));
        super::lock(&self.reclaim.queue).extend(left);
        done
    }

    /// Gives back what can be, and takes it off the list: what is left is to be tried again.
    fn give_back(&self, ranges: &mut Vec<(Hash, Range)>) -> Result<()> {
        self.settle_log()?;
        let mut at = 0;
        while let Some(&(_, range)) = ranges.get(at) {
            // A backup that begins meanwhile is told before it takes the lock.
            let _files = super::lock(&self.maintenance);
            match !self.is_pinned() && self.extents.give_back(range)? {
                true => drop(ranges.swap_remove(at)),
                false => at += 1,
            }
        }
        Ok(())
    }

    /// Gives back what a backup that is gone by now had linked, or what could not be given back for another reason.
    fn punch_owed(&self) {
        for file in self.extents.owing() {
            let _files = super::lock(&self.maintenance);
            if !self.is_pinned() {
                file.punch_owed();
            }
        }
    }

    /// Remembers what records in the segments with these handles named, before they go.
    pub fn remember_ranges(&self, handles: &[u32]) {
        let items = std::mem::take(&mut *super::lock(&self.reclaim.queue));
        let mut kept = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Item::Record(entry) if handles.contains(&entry.location.handle()) => {
                    let named = self.read_ranges(&entry).flatten();
                    kept.extend(
                        named
                            .into_iter()
                            .flat_map(|(hash, ranges)| ranges.into_iter().map(move |range| Item::Range(hash, range))),
                    );
                }
                other => kept.push(other),
            }
        }
        super::lock(&self.reclaim.queue).extend(kept);
    }

    /// The ranges of an item that the key's newest record does not name. `None`: not known yet.
    fn abandoned_by(&self, item: &Item) -> Option<Vec<(Hash, Range)>> {
        let (hash, mut ranges) = match item {
            Item::Range(hash, range) => (*hash, vec![*range]),
            Item::Record(entry) => match self.read_ranges(entry)? {
                Some(named) => named,
                None => return Some(Vec::new()),
            },
        };
        let named = self.named(hash)?;
        ranges.retain(|range| !named.contains(&range.place()));
        Some(ranges.into_iter().map(|range| (hash, range)).collect())
    }

    /// The key and the ranges that a record names. `None`: it is not in its file yet. `Some(None)`: it names none.
    fn read_ranges(&self, entry: &Entry) -> Option<Option<(Hash, Vec<Range>)>> {
        let Some(segment) = self.log.segments.get(entry.location) else { return Some(None) };
        let mut bytes = vec![0; size_bound(entry.size_class)];
        if segment.position(entry.location.offset()) >= self.log.progress.written()
            && !self.log.read_unwritten(entry.location, bytes.len(), &mut bytes)
        {
            return None;
        }
        let in_file = segment.position(entry.location.offset()) < self.log.progress.written();
        if in_file {
            let count = segment.file.read_at(&mut bytes, entry.location.offset()).ok()?;
            bytes.truncate(count);
        }
        let Ok((fields, _)) = Fields::decode(&bytes, segment.salt) else { return Some(None) };
        let pieces = Some(fields.body).filter(|_| fields.kind == Kind::Large).and_then(piece::parse);
        let ranges = |pieces: Vec<Piece>| pieces.iter().map(Piece::range).collect();
        Some(pieces.map(|pieces| (self.home.seed.hash(fields.key), ranges(pieces))))
    }

    /// The places of the ranges that the key's newest record names. `None`: not known yet.
    fn named(&self, hash: Hash) -> Option<HashSet<(u32, u64)>> {
        let entry = self.index.stripe(hash).find(hash.tag);
        let Some(entry) = entry.filter(|entry| entry.large) else { return Some(HashSet::new()) };
        // Where it is damaged, or has just moved on: better luck next time.
        self.read_ranges(&entry)?.map(|(_, ranges)| ranges.iter().map(Range::place).collect())
    }

    /// Makes everything durable that was appended so far, with a durable note that it is: recovery then takes nothing
    /// of it for a torn tail.
    pub fn settle_log(&self) -> Result<()> {
        self.sync_all()?;
        self.append_checkpoint_for_sure(self.log.progress.durable())?;
        self.sync_all()
    }

    fn sweep_if_due(&self) -> Result<Sweep> {
        let mut sweep = super::lock(&self.reclaim.sweep);
        let is_due = match *sweep {
            Sweep::Due => true,
            Sweep::NotBefore(when) => Instant::now() >= when,
            Sweep::Over => false,
        };
        if is_due {
            let is_new = self.counters.recovered == 0 && !self.extents.has_unknown();
            *sweep = if is_new { Sweep::Over } else { self.sweep_extents()? };
        }
        Ok(*sweep)
    }

    /// Finds out which ranges of earlier lives are in use, and gives back the others.
    fn sweep_extents(&self) -> Result<Sweep> {
        let not_yet = || Ok(Sweep::NotBefore(Instant::now() + self.options.compaction_interval));
        let mut entries = Vec::new();
        self.index.each(&mut |entry| entries.extend(Some(*entry).filter(|entry| entry.large)));
        let mut named: HashMap<u32, HashSet<Range>> = HashMap::new();
        // What has expired may have been given back, and its record is still in the log.
        let mut needed: HashSet<u32> = HashSet::new();
        for entry in &entries {
            match self.read_ranges(entry) {
                Some(Some((_, ranges))) => {
                    needed.extend(ranges.iter().map(|range| range.file).filter(|_| !entry.expires));
                    for range in ranges {
                        named.entry(range.file).or_default().insert(range);
                    }
                }
                // It may name any range, and so may an older record of its key, which repair would bring back.
                Some(None) => {
                    self.tell_doubt(entry);
                    return not_yet();
                }
                None => return not_yet(),
            }
        }
        if self.extents.has_unknown() {
            self.settle_log()?;
            let _files = super::lock(&self.maintenance);
            // By somebody who came meanwhile: when he has gone, before all else.
            if self.is_pinned() {
                return Ok(Sweep::Due);
            }
            self.extents.sweep(&named)?;
        }
        for error in needed.iter().filter_map(|&number| self.extents.file(number).err()) {
            self.counters.damaged_records.fetch_add(1, SeqCst);
            (self.options.report)(Severity::Warning, &error.to_string());
        }
        Ok(Sweep::Over)
    }

    fn tell_doubt(&self, entry: &Entry) {
        let Some(segment) = self.log.segments.get(entry.location) else { return };
        if !self.reclaim.told.swap(true, SeqCst) {
            let place = format_args!("{} at offset {}", segment.path.display(), entry.location.offset());
            let text = format!(
                "{place}: the record of a large value is damaged. What earlier lives of the store left of large values is \
                 not given back until its key is written anew or kingserver check --repair has isolated it"
            );
            (self.options.report)(Severity::Warning, &text);
        }
    }

    /// Whether a snapshot or a backup may look at what is dead by now.
    pub fn is_pinned(&self) -> bool {
        self.index.copies.open() > 0 || self.snapshots.load(SeqCst) > 0
    }
}
