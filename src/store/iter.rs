//! Iterating over a snapshot: its segments are read from front to back, in the order of the log, through a window, and
//! a record is live if the snapshot's index names exactly its place. So the disk is read sequentially, and every slot
//! of the index is met once: at the end the slots that were met are counted against those that there are, and records
//! that damage has taken are noticed. One thread; may sleep.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::error::{Error, Result};
use super::hash::{Hash, Seed};
use super::item::{self, Item};
use super::location::{Location, MAX_SEGMENT, OFFSET_BITS};
use super::lookup::Record;
use super::reader::WINDOW;
use super::record::{ALIGNMENT, Defect, Fields, Kind};
use super::segment::{SEGMENT_HEADER, Segment};
use super::segments::in_order;
use super::snapshot::Inner;

/// How many records ahead the index is asked to bring its slots near.
const AHEAD: usize = 8;

/// All records of a snapshot, in the order of the log. Where damage has taken records, all others come first, and an
/// [`Error::Damaged`] that tells how many are missing comes last. Other errors end it too.
pub struct Iter {
    snapshot: Arc<Inner>,
    /// Those not begun yet, the next one last.
    segments: Vec<Arc<Segment>>,
    scan: Option<Scan>,
    /// Slots of the index that were met.
    met: u64,
    /// The first place where bytes are no records, or where nothing can be made of one.
    damage: Option<String>,
    ended: bool,
    /// Memory for a decompressed value.
    raw: Vec<u8>,
}

impl Iter {
    pub(crate) fn new(snapshot: Arc<Inner>) -> Iter {
        let mut segments: Vec<_> = snapshot.segments.iter().flatten().cloned().collect();
        segments.retain(|segment| limit(segment, &snapshot) > SEGMENT_HEADER);
        in_order(&mut segments);
        segments.reverse();
        Iter { snapshot, segments, scan: None, met: 0, damage: None, ended: false, raw: Vec::new() }
    }

    /// Shows the next record to `visit`, which gets its key and the record and copies what it needs: without a copy that
    /// it does not make by itself.
    pub fn next_with<R>(&mut self, visit: impl FnMut(&[u8], Record<'_>) -> R) -> Option<Result<R>> {
        if self.ended {
            return None;
        }
        let shown = self.show_next(visit);
        self.ended = !matches!(shown, Ok(Some(_)));
        shown.transpose()
    }

    fn show_next<R>(&mut self, mut visit: impl FnMut(&[u8], Record<'_>) -> R) -> Result<Option<R>> {
        loop {
            let Some(scan) = &mut self.scan else {
                let Some(segment) = self.segments.pop() else { return self.check_end().map(|()| None) };
                let limit = limit(&segment, &self.snapshot);
                self.scan = Some(Scan::new(segment, limit));
                continue;
            };
            match scan.next_named(&self.snapshot)? {
                Some(at) => {
                    self.met += 1;
                    let Some((offset, fields)) = scan.live(at, &self.snapshot) else { continue };
                    let (extents, raw) = (&self.snapshot.core.extents, &mut self.raw);
                    let visit = |record: Record<'_>| visit(fields.key, record);
                    match item::show(&fields, &scan.segment, offset, extents, raw, visit) {
                        // It counts as one that is missing, and that is told at the end.
                        Err(Error::Damaged(why)) => {
                            self.met -= 1;
                            self.damage.get_or_insert_with(|| why.to_string());
                        }
                        shown => return shown.map(Some),
                    }
                }
                None if scan.is_over() => {
                    self.damage = self.damage.take().or(scan.damage());
                    self.scan = None;
                }
                None => scan.advance(&self.snapshot.core.home.seed)?,
            }
        }
    }

    /// Nothing more comes. Was that all?
    fn check_end(&mut self) -> Result<()> {
        let missing = self.snapshot.index.len() - self.met;
        if missing == 0 {
            return Ok(());
        }
        let place = self.damage.take().unwrap_or_else(|| "the log's files".into());
        Err(Error::Damaged(format!("{place}: {missing} records that the index names cannot be read").into()))
    }
}

impl Iterator for Iter {
    type Item = Result<Item>;

    fn next(&mut self) -> Option<Result<Item>> {
        self.next_with(|key, record| Item::of_record(key, &record))
    }
}

/// Where the snapshot's part of a segment ends.
fn limit(segment: &Segment, snapshot: &Inner) -> u64 {
    snapshot.end.0.saturating_sub(segment.order << OFFSET_BITS).min(MAX_SEGMENT)
}

/// A segment on its way through the window.
struct Scan {
    segment: Arc<Segment>,
    window: Vec<u8>,
    /// Offset of the window in the file.
    start: u64,
    /// Bytes of the window that were read.
    filled: usize,
    /// Bytes of the window that were examined.
    done: usize,
    /// Where the snapshot's part of the segment ends; known better once the last record was met.
    limit: u64,
    /// The records with a key that the window has, and their hashes.
    keyed: Vec<(usize, Hash)>,
    /// How many of these were looked up.
    looked_up: usize,
    /// The first place where bytes are no record.
    bad: Option<u64>,
}

impl Scan {
    fn new(segment: Arc<Segment>, limit: u64) -> Scan {
        let (window, keyed) = (vec![0; WINDOW], Vec::new());
        Scan { segment, window, start: SEGMENT_HEADER, filled: 0, done: 0, limit, keyed, looked_up: 0, bad: None }
    }

    fn is_over(&self) -> bool {
        self.start + self.done as u64 >= self.limit
    }

    /// The next record of the window that the index names.
    fn next_named(&mut self, snapshot: &Inner) -> Result<Option<usize>> {
        while let Some(&(at, hash)) = self.keyed.get(self.looked_up) {
            self.looked_up += 1;
            if let Some(&(_, soon)) = self.keyed.get(self.looked_up + AHEAD) {
                snapshot.index.prefetch(soon);
            }
            let location = Location::new(self.segment.handle, self.start + at as u64);
            if snapshot.index.find(hash)?.is_some_and(|entry| entry.location == location) {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// The record at this place of the window, whose checksum was looked at, and where that is in the segment; `None`: it
    /// had expired or was flushed.
    fn live(&self, at: usize, snapshot: &Inner) -> Option<(u64, Fields<'_>)> {
        let offset = self.start + at as u64;
        let (fields, _) = Fields::claimed(&self.window[at..self.filled])?;
        (!snapshot.is_gone(&fields, &self.segment, offset)).then_some((offset, fields))
    }

    /// Moves the window on, and goes through it.
    fn advance(&mut self, seed: &Seed) -> Result<()> {
        self.window.copy_within(self.done..self.filled, 0);
        self.start += self.done as u64;
        self.filled -= self.done;
        self.done = 0;
        self.fill()?;
        self.looked_up = 0;
        self.keyed.clear();
        self.examine(seed);
        Ok(())
    }

    fn fill(&mut self) -> Result<()> {
        while self.filled < WINDOW {
            let offset = self.start + self.filled as u64;
            let most = (self.limit - offset).min((WINDOW - self.filled) as u64) as usize;
            match self.segment.file.read_at(&mut self.window[self.filled..self.filled + most], offset) {
                Ok(0) => {
                    self.limit = offset;
                    return Ok(());
                }
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(format!("read at offset {offset} of"), &self.segment.path, &error)),
            }
        }
        Ok(())
    }

    /// Finds the records in the window.
    fn examine(&mut self, seed: &Seed) {
        let is_last = self.start + self.filled as u64 >= self.limit;
        while self.done < self.filled {
            match Fields::decode(&self.window[self.done..self.filled], self.segment.salt) {
                Ok((fields, len)) => {
                    if matches!(fields.kind, Kind::Value | Kind::Large) {
                        self.keyed.push((self.done, seed.hash(fields.key)));
                    }
                    let is_end = fields.kind == Kind::Seal;
                    self.done += len;
                    if is_end {
                        self.limit = self.start + self.done as u64;
                        return;
                    }
                }
                Err(Defect::Short(_)) if !is_last => return,
                Err(_) => {
                    self.bad.get_or_insert(self.start + self.done as u64);
                    self.done = (self.done + ALIGNMENT).min(self.filled);
                }
            }
        }
    }

    fn damage(&self) -> Option<String> {
        self.bad.map(|offset| format!("{} at offset {offset}", self.segment.path.display()))
    }
}
