//! Replay: what the records of the log come to, read in order. For recovery, on its thread.
//!
//! What a crash leaves behind is cut, what decay leaves behind is reported. The log carries *checkpoint* records
//! that say how far it was durable. The first bad record past the last checkpoint is a torn tail: no sync had
//! covered it, so nothing that was promised can follow it, and the log ends there. A bad record before that point
//! is damage: it is reported, counted and passed over. A commit of a large value past the last checkpoint is
//! checked down to its chunks and counts as a bad record if they are not all sound.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::{Error, Result};
use super::extent::Extents;
use super::hash::Seed;
use super::index::{Entry, Index, size_class};
use super::large::Large;
use super::location::{Location, Position};
use super::options::{Options, Severity};
use super::reader::Reader;
use super::record::{Fields, Kind, le_u64};
use super::segment::{SEGMENT_HEADER, Segment};

/// Time between two progress messages.
const PROGRESS: Duration = Duration::from_secs(1);

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
    pub durable: Position,
    pub index: Index,
    /// Extent files that a record names, be it the newest of its key or not.
    pub named: HashSet<u32>,
    pub sequence: u64,
    pub time: u64,
    pub flushed: Position,
    pub flush_due: u64,
    records: u64,
    bytes: u64,
    pub damaged: u64,
    said: Instant,
}

impl<'a> Replay<'a> {
    pub fn new(options: &'a Options, seed: Seed, extents: &'a Extents, durable: Position) -> Replay<'a> {
        Replay {
            options,
            seed,
            extents,
            durable,
            index: Index::new(),
            named: HashSet::new(),
            sequence: 0,
            time: 0,
            flushed: Position(0),
            flush_due: 0,
            records: 0,
            bytes: 0,
            damaged: 0,
            said: Instant::now(),
        }
    }

    /// Segments follow each other without a gap, or a file is missing.
    pub fn notice_gap(&mut self, before: Option<&Arc<Segment>>, segment: &Segment) {
        if before.is_some_and(|before| before.order + 1 != segment.order) {
            self.damaged += 1;
            self.warn(format_args!("{}: a segment before this one is missing", segment.path.display()));
        }
    }

    /// Reads one segment; tells where its records end.
    pub fn segment(&mut self, segment: &Arc<Segment>, following: Option<&Arc<Segment>>) -> Result<(u64, Next)> {
        let mut reader = Reader::new(segment);
        let mut offset = SEGMENT_HEADER;
        loop {
            let Some(found) = reader.next_sound(offset)? else {
                return self.unsealed(segment, following, offset, reader.is_blank(offset)?);
            };
            if found > offset && self.is_torn(segment, offset, found) {
                return Ok((offset, Next::LogEnds));
            }
            self.isolate(segment, &mut reader, offset, found)?;
            let (fields, len) = reader.record(found)?;
            if fields.kind == Kind::Seal {
                // Without a segment to go on in, the seal makes way for more records.
                return Ok(following.map_or((found, Next::LogEnds), |_| (found + len as u64, Next::Segment)));
            }
            if fields.kind == Kind::Large && !self.is_whole(segment.position(found), fields.body)? {
                self.warn(format_args!(
                    "{}: a large value at offset {found} was not whole; cut",
                    segment.path.display()
                ));
                return Ok((found, Next::LogEnds));
            }
            self.apply(&fields, segment, found, len);
            offset = found + len as u64;
        }
    }

    /// The records of a segment ended without a seal: it is the last one, or the crash took the rest of it.
    fn unsealed(
        &mut self,
        segment: &Segment,
        following: Option<&Arc<Segment>>,
        offset: u64,
        blank: bool,
    ) -> Result<(u64, Next)> {
        if self.durable > segment.position(offset) {
            self.damaged += 1;
            self.warn(format_args!("{}: damaged from offset {offset} to its end", segment.path.display()));
            return Ok((offset, if following.is_some() { Next::Segment } else { Next::LogEnds }));
        }
        if !blank {
            self.warn(format_args!("{}: cut a torn record at offset {offset}", segment.path.display()));
        }
        Ok((offset, Next::LogEnds))
    }

    /// Bytes between `offset` and the sound record at `found` are no records: a torn tail, or damage.
    fn is_torn(&mut self, segment: &Segment, offset: u64, found: u64) -> bool {
        let path = segment.path.display();
        if segment.position(offset) >= self.durable {
            self.warn(format_args!("{path}: cut at offset {offset}: what follows was never synced and is not whole"));
            return true;
        }
        self.damaged += 1;
        self.warn(format_args!("{path}: damaged from offset {offset} to {found}; passed over"));
        false
    }

    /// Points the keys that damaged records between `offset` and `end` claim to be about at the damage: reading
    /// them is then an error, and not an older value.
    fn isolate(&mut self, segment: &Segment, reader: &mut Reader<'_>, mut offset: u64, end: u64) -> Result<()> {
        while offset < end {
            let Some((fields, len)) = Fields::claimed(reader.bytes(offset)?) else { return Ok(()) };
            if offset + len as u64 > end {
                return Ok(());
            }
            if !fields.key.is_empty() {
                self.insert(&fields, Location::new(segment.handle, offset), len);
            }
            offset += len as u64;
        }
        Ok(())
    }

    /// Whether the chunks of a value that no sync had covered are all there.
    fn is_whole(&mut self, at: Position, table: &[u8]) -> Result<bool> {
        if at < self.durable {
            return Ok(true);
        }
        match Large::decode(table, self.extents).and_then(|large| large.verify()) {
            Ok(()) => Ok(true),
            Err(Error::Damaged(_)) => Ok(false),
            Err(other) => Err(other),
        }
    }

    fn apply(&mut self, fields: &Fields<'_>, segment: &Segment, offset: u64, len: usize) {
        self.sequence = self.sequence.max(fields.sequence);
        self.records += 1;
        self.bytes += len as u64;
        match fields.kind {
            Kind::Value | Kind::Large => self.insert(fields, Location::new(segment.handle, offset), len),
            Kind::Tombstone => self.remove(fields.key),
            Kind::FlushPending if fields.body.len() == 8 => self.flush_due = le_u64(fields.body, 0).max(1),
            Kind::FlushFired => self.flush(segment.position(offset + len as u64)),
            Kind::Checkpoint if fields.body.len() == 16 => self.time = self.time.max(le_u64(fields.body, 8)),
            Kind::FlushPending | Kind::Checkpoint | Kind::Seal => {}
        }
    }

    fn insert(&mut self, fields: &Fields<'_>, location: Location, len: usize) {
        let large = fields.kind == Kind::Large;
        if large && fields.body.len() >= 4 {
            self.named.insert(super::record::le_u32(fields.body, 0));
        }
        let hash = self.seed.hash(fields.key);
        let entry = Entry { location, size_class: size_class(len), expires: fields.expires != 0, large };
        self.index.stripe(hash).insert(hash.tag, entry);
    }

    fn remove(&mut self, key: &[u8]) {
        let hash = self.seed.hash(key);
        self.index.stripe(hash).remove(hash.tag);
    }

    fn flush(&mut self, fired: Position) {
        self.index = Index::new();
        self.flushed = fired;
        self.flush_due = 0;
    }

    fn say(&self, text: std::fmt::Arguments<'_>) {
        (self.options.report)(Severity::Info, &text.to_string());
    }

    fn warn(&self, text: std::fmt::Arguments<'_>) {
        (self.options.report)(Severity::Warning, &text.to_string());
    }

    pub fn say_progress(&mut self, done: usize, of: usize) {
        if self.said.elapsed() >= PROGRESS {
            self.said = Instant::now();
            self.say(format_args!("reading the log: {done} of {of} segments, {} records", self.records));
        }
    }

    pub fn summary(&self, began: Instant, segments: usize) {
        let (keys, mib, ms) = (self.index.len(), self.bytes >> 20, began.elapsed().as_millis());
        if segments > 0 {
            self.say(format_args!("recovered {keys} keys from {segments} segments ({mib} MiB) in {ms} ms"));
        }
    }
}
