//! Replay: what the records of the log come to, read in order. For recovery, on its thread.
//!
//! What a crash leaves behind is cut, what decay leaves behind is reported. The log carries *checkpoint* records that
//! say how far it was durable. A bad record before that point is damage: it is reported, counted and passed over, and
//! the key it was about is pointed at it. The first bad record after that point is a torn tail: no sync had covered it,
//! so nothing that was promised can follow it, and the log ends there; unless it differs from a sound record by one
//! bit that no torn write can have changed. A commit of a large value past that point is checked down to its chunks,
//! by the same rule.

use std::collections::HashSet;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bulk::Bulk;
use super::error::{Error, Result};
use super::extent::Extents;
use super::hash::Seed;
use super::index::{Entry, size_class};
use super::large::Large;
use super::location::{Location, Position};
use super::mend::{SECTOR, has_blank_sector};
use super::options::{Options, Severity};
use super::piece;
use super::reader::Reader;
use super::record::{Fields, HEADER, Kind, le_u64};
use super::segment::Segment;
use super::segments::Segments;

/// Time between two progress messages.
pub(crate) const PROGRESS: Duration = Duration::from_secs(1);
/// Bytes after which the clock is looked at.
const LOOK: u64 = 1 << 20;

/// Where a segment's records lead to.
pub(crate) enum Next {
    /// The next segment.
    Segment,
    /// Nowhere: what follows was not durable.
    LogEnds,
}

/// The state of the store, as far as the log has been read.
pub(crate) struct Replay<'a> {
    options: &'a Options,
    seed: Seed,
    extents: &'a Extents,
    segments: &'a [Arc<Segment>],
    table: &'a Segments,
    /// Segments before which one is missing.
    gaps: Vec<Arc<Segment>>,
    /// Position before which the log is known to have been durable, as far as that was needed yet.
    durable: Option<Position>,
    /// The greatest such position that was told yet.
    pub marked: Position,
    /// See [`super::start::Start`].
    pub lost: Position,
    pub bulk: Bulk,
    /// Extent files that a record names, be it the newest of its key or not.
    pub named: HashSet<u32>,
    pub facts: Facts,
    pub damaged: u64,
    /// There are records that could not be read, or a segment is missing: what they name is not known.
    pub incomplete: bool,
    records: u64,
    progress: Progress,
}

/// What the store knows besides its keys.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Facts {
    /// The greatest version sequence.
    pub sequence: u64,
    /// The greatest store time on record.
    pub time: u64,
    /// End of the last *fired* record; zero: there is none.
    pub flushed: Position,
    /// When the pending flush fires; zero: none is pending.
    pub flush_due: u64,
    /// Segments up to this order may be missing because compaction removed them.
    pub removed: u64,
}

/// How much of the log was read, out of how much. Bytes.
struct Progress {
    total: u64,
    done: u64,
    look: u64,
    said: Instant,
}

/// What bytes that are no sound record are taken for.
enum Verdict {
    /// A write that never came to its end.
    Torn,
    /// Decay, up to this offset.
    Damaged(u64),
}

impl<'a> Replay<'a> {
    /// Will read `total` bytes of `segments`, and count in `table` how much of each is of use.
    pub fn new(
        options: &'a Options,
        seed: Seed,
        extents: &'a Extents,
        segments: &'a [Arc<Segment>],
        table: &'a Segments,
        bulk: Bulk,
        total: u64,
    ) -> Replay<'a> {
        Replay {
            options,
            seed,
            extents,
            segments,
            table,
            gaps: Vec::new(),
            durable: None,
            marked: Position(0),
            lost: Position(0),
            bulk,
            named: HashSet::new(),
            facts: Facts::default(),
            damaged: 0,
            incomplete: false,
            records: 0,
            progress: Progress { total, done: 0, look: LOOK, said: Instant::now() },
        }
    }

    /// Tells of files whose first bytes are not as they were written, but could be understood.
    pub fn report_mended(&mut self, files: impl Iterator<Item = PathBuf>) {
        for path in files {
            self.damaged += 1;
            self.warn(format_args!("{}: a bit of its header had flipped; read as it was before", path.display()));
        }
    }

    /// Segments follow each other without a gap, the first one of all at 1, or compaction has removed one, or a file is
    /// missing.
    pub fn notice_gap(&mut self, before: Option<&Arc<Segment>>, segment: &Arc<Segment>) {
        if before.map_or(0, |before| before.order) + 1 < segment.order {
            self.gaps.push(segment.clone());
        }
        if segment.compacted {
            self.facts.removed = self.facts.removed.max(segment.order);
        }
    }

    /// Tells of the gaps that compaction does not explain, once all its notes were read; and whether there are any.
    pub fn report_gaps(&mut self) -> bool {
        let mut any = false;
        for segment in std::mem::take(&mut self.gaps).iter().filter(|segment| segment.order > self.facts.removed + 1) {
            self.damaged += 1;
            any = true;
            self.warn(format_args!("{}: a segment before this one is missing", segment.path.display()));
        }
        any
    }

    /// A segment that is not read, because an index checkpoint knows it, has been cut if it does not end with its seal, nor
    /// with room that was reserved and not given back.
    pub fn look_at_end(&mut self, segment: &Segment) {
        let mut end = [0; HEADER];
        let len = segment.file.metadata().map_or(0, |file| file.len());
        let read = segment.file.read_exact_at(&mut end, len.saturating_sub(HEADER as u64));
        let is_seal = Fields::decode(&end, segment.salt).is_ok_and(|(fields, _)| fields.kind == Kind::Seal);
        if !segment.is_damaged() && read.is_ok() && (is_seal || end == [0; HEADER]) {
            return;
        }
        self.damaged += 1;
        // What was known before is told of by recovery.
        if !segment.is_damaged() {
            self.incomplete = true;
            segment.note_damage();
            self.warn(format_args!("{}: its end is missing or damaged; see kingserver check", segment.path.display()));
        }
    }

    /// Reads one segment from `offset` on; tells where its records end.
    pub fn segment(
        &mut self,
        segment: &Arc<Segment>,
        following: Option<&Arc<Segment>>,
        offset: u64,
    ) -> Result<(u64, Next)> {
        let before = self.progress.done;
        let read = self.records(segment, following, offset)?;
        self.progress.done = before + segment.file.metadata().map_or(0, |file| file.len().saturating_sub(offset));
        Ok(read)
    }

    fn records(
        &mut self,
        segment: &Arc<Segment>,
        following: Option<&Arc<Segment>>,
        mut offset: u64,
    ) -> Result<(u64, Next)> {
        let mut reader = Reader::new(segment);
        loop {
            let found = reader.next_sound(offset)?;
            if found != Some(offset) {
                match self.judge(&mut reader, segment, following, offset, found)? {
                    Verdict::Torn => return Ok((offset, Next::LogEnds)),
                    Verdict::Damaged(to) => offset = to,
                }
            }
            let Some(found) = found else {
                let leads_on = following.is_some() || segment.compacted;
                return Ok((offset, if leads_on { Next::Segment } else { Next::LogEnds }));
            };
            let (fields, len) = reader.record(found)?;
            if fields.kind == Kind::Seal {
                // Without a segment to go on in, the seal makes way for more records.
                let leads_on = following.is_some() || segment.compacted;
                return Ok(if leads_on { (found + len as u64, Next::Segment) } else { (found, Next::LogEnds) });
            }
            if fields.kind == Kind::Large && !self.has_chunks(segment, found, fields.body)? {
                return Ok((found, Next::LogEnds));
            }
            self.progress.done += found + len as u64 - offset;
            offset = found + len as u64;
            self.apply(&fields, segment, found, len);
            if self.progress.done >= self.progress.look {
                self.say_progress();
            }
        }
    }

    /// Position before which the log is known to have been durable. Found when it is first needed: by the next mark that
    /// replay comes to, usually, all is known to be.
    fn durable(&mut self) -> Result<Position> {
        if self.durable.is_none() {
            self.durable = Some(durable_mark(self.segments)?.max(self.marked));
        }
        Ok(self.durable.unwrap_or(self.marked))
    }

    /// Whether that is known of what stands at `offset`, by what the log says.
    fn was_durable(&mut self, segment: &Segment, offset: u64) -> Result<bool> {
        Ok(segment.compacted || segment.position(offset) < self.durable()?)
    }

    /// What lies between `offset` and the sound record at `found`, or the end.
    fn judge(
        &mut self,
        reader: &mut Reader<'_>,
        segment: &Segment,
        following: Option<&Arc<Segment>>,
        offset: u64,
        found: Option<u64>,
    ) -> Result<Verdict> {
        let path = segment.path.display();
        // Where the log has lost its end, what stands behind this was durable: it is not here that it was cut.
        let goes_on = found.is_some() || following.is_some_and(|following| following.position(0) < self.lost);
        let durable = (goes_on && segment.position(offset) < self.lost) || self.was_durable(segment, offset)?;
        if !durable && !is_decay(reader.bytes(offset)?, segment.salt, offset, found, following.is_some()) {
            if !reader.is_blank(offset)? {
                let was = if segment.position(offset) < self.lost { "was durable" } else { "was never synced" };
                self.warn(format_args!("{path}: cut at offset {offset}: what follows {was} and is not whole"));
            }
            return Ok(Verdict::Torn);
        }
        let to = found.map_or_else(|| reader.content_end(offset), Ok)?;
        self.damaged += 1;
        self.incomplete = true;
        segment.note_damage();
        self.warn(format_args!("{path}: damaged from offset {offset} to {to}; passed over"));
        self.isolate(segment, reader, offset, to)?;
        Ok(Verdict::Damaged(to))
    }

    /// Points the keys that damaged records between `offset` and `end` were about at the damage: reading them is then
    /// an error, and not an older value. Where more than a bit is wrong, what still makes sense is believed.
    fn isolate(&mut self, segment: &Segment, reader: &mut Reader<'_>, mut offset: u64, end: u64) -> Result<()> {
        while offset < end {
            let bytes = reader.bytes(offset)?;
            let mended = Fields::mended(bytes, segment.salt).filter(|record| offset + record.len() as u64 <= end);
            let claim = Fields::claimed(mended.as_deref().unwrap_or(bytes));
            let Some((fields, len)) = claim.filter(|(_, len)| offset + *len as u64 <= end) else { return Ok(()) };
            match fields.kind {
                Kind::Value | Kind::Large | Kind::Tombstone => {
                    // Without an expiry, whatever the record said: then it can be deleted without being read.
                    let entry = Entry { expires: false, ..entry(&fields, Location::new(segment.handle, offset), len) };
                    self.bulk.insert(self.seed.hash(fields.key), entry);
                }
                _ if mended.is_some() => self.apply(&fields, segment, offset, len),
                _ => {}
            }
            offset += len as u64;
        }
        Ok(())
    }

    /// Whether the chunks of a value are all there. Those that a sync had covered are; damage shows when it is read. So it
    /// does in pieces that an earlier record named: had a crash torn one, the log would have ended there, and their files
    /// had their names for good before anything was written to them, whatever the policy.
    fn has_chunks(&mut self, segment: &Segment, offset: u64, table: &[u8]) -> Result<bool> {
        if segment.position(offset) < self.lost || self.was_durable(segment, offset)? {
            return Ok(true);
        }
        let path = segment.path.display();
        let (fresh, known): (Vec<_>, Vec<_>) =
            piece::parse(table).unwrap_or_default().into_iter().partition(|piece| piece.fresh);
        let missing = known.iter().filter(|piece| self.extents.file(piece.file).is_err()).count() as u64;
        match Large::of(fresh, self.extents).and_then(|large| large.verify()) {
            Ok(decayed) if decayed + missing == 0 => Ok(true),
            Ok(decayed) => {
                let decayed = decayed + missing;
                self.damaged += decayed;
                self.warn(format_args!("{path}: the large value at offset {offset} is damaged"));
                Ok(true)
            }
            Err(Error::Damaged(_)) => {
                self.warn(format_args!("{path}: a large value at offset {offset} was not whole; cut"));
                Ok(false)
            }
            Err(other) => Err(other),
        }
    }

    fn apply(&mut self, fields: &Fields<'_>, segment: &Segment, offset: u64, len: usize) {
        let facts = &mut self.facts;
        facts.sequence = facts.sequence.max(fields.sequence);
        self.records += 1;
        let location = Location::new(segment.handle, offset);
        let usage = self.table.usage(segment.handle);
        match fields.kind {
            Kind::Value | Kind::Large => usage.note_value(size_class(len), fields.expires),
            Kind::Tombstone => usage.note_grave(len),
            Kind::FlushFired => usage.note_flush(),
            Kind::FlushPending | Kind::Checkpoint | Kind::Seal => {}
        }
        match fields.kind {
            Kind::Value | Kind::Large => self.insert(fields, location, len),
            Kind::Tombstone => self.bulk.remove(self.seed.hash(fields.key), location),
            Kind::FlushPending if fields.body.len() == 8 => facts.flush_due = le_u64(fields.body, 0).max(1),
            Kind::FlushFired => self.flush(segment.position(offset + len as u64)),
            Kind::Checkpoint if fields.body.len() >= 16 => {
                self.marked = self.marked.max(Position(le_u64(fields.body, 0)));
                facts.time = facts.time.max(le_u64(fields.body, 8));
                if fields.body.len() >= 24 {
                    facts.removed = facts.removed.max(le_u64(fields.body, 16));
                }
            }
            Kind::FlushPending | Kind::Checkpoint | Kind::Seal => {}
        }
    }

    fn insert(&mut self, fields: &Fields<'_>, location: Location, len: usize) {
        if fields.kind == Kind::Large {
            self.named.extend(piece::parse(fields.body).into_iter().flatten().map(|piece| piece.file));
        }
        self.bulk.insert(self.seed.hash(fields.key), entry(fields, location, len));
    }

    fn flush(&mut self, fired: Position) {
        self.bulk.flush(fired);
        self.facts.flushed = fired;
        self.facts.flush_due = 0;
    }

    fn say(&self, text: std::fmt::Arguments<'_>) {
        (self.options.report)(Severity::Info, &text.to_string());
    }

    fn warn(&self, text: std::fmt::Arguments<'_>) {
        (self.options.report)(Severity::Warning, &text.to_string());
    }

    fn say_progress(&mut self) {
        let progress = &mut self.progress;
        progress.look = progress.done + LOOK;
        if progress.said.elapsed() >= PROGRESS {
            progress.said = Instant::now();
            let (percent, total) = (progress.done * 100 / progress.total.max(1), progress.total >> 20);
            self.say(format_args!("reading the log: {percent} % of {total} MiB, {} records", self.records));
        }
    }
}

/// How far the last checkpoint says that the log was durable; found from the end, usually in the last segment.
/// (Every opening writes one.) What was compacted had been durable, too.
fn durable_mark(segments: &[Arc<Segment>]) -> Result<Position> {
    let compacted = segments.iter().filter(|segment| segment.compacted).map(|segment| segment.position(0));
    let compacted = compacted.max().unwrap_or_default();
    for segment in segments.iter().rev().filter(|segment| !segment.compacted) {
        let mark = Reader::new(segment).durable_mark()?;
        if mark > Position(0) {
            return Ok(mark.max(compacted));
        }
    }
    Ok(compacted)
}

/// Whether what is wrong with the record at the start of `bytes`, which lie at `offset`, is one bit that no torn write
/// can have changed. Such a write leaves zeros, from some byte on or in whole sectors: it sets no bit, it leaves nothing
/// in its sector behind it, and hardly ever is the next record sound.
pub(crate) fn is_decay(bytes: &[u8], salt: u32, offset: u64, found: Option<u64>, following: bool) -> bool {
    let Some(record) = Fields::mended(bytes, salt) else { return false };
    let is_seal = || Fields::claimed(&record).is_some_and(|(fields, _)| fields.kind == Kind::Seal);
    let followed = found.map_or_else(|| following && is_seal(), |found| found == offset + record.len() as u64);
    let Some(at) = record.iter().zip(bytes).position(|(sound, found)| sound != found) else { return false };
    if has_blank_sector(&bytes[..record.len()], offset) {
        return false;
    }
    let sector = (SECTOR - (offset + at as u64) % SECTOR) as usize;
    followed || bytes[at] & !record[at] != 0 || bytes[at..].iter().take(sector).any(|&byte| byte != 0)
}

fn entry(fields: &Fields<'_>, location: Location, len: usize) -> Entry {
    let (expires, large) = (fields.expires != 0, fields.kind == Kind::Large);
    Entry { location, size_class: size_class(len), expires, large }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
