//! Reads the log as recovery does, and notes what is wrong with it. What recovery would cut is not damage.

use std::collections::HashMap;
use std::fs::File;

use super::survey::{Source, Survey};
use super::{Checked, Damage, Fate, Fault, Watch};
use crate::store::checkpoint::Head;
use crate::store::error::{Error, Result};
use crate::store::hash::Hash;
use crate::store::index::{Entry, Index, size_class};
use crate::store::location::{Location, MAX_HANDLES, MAX_SEGMENT, Position};
use crate::store::reader::Reader;
use crate::store::record::{Fields, HEADER, Kind, le_u64};
use crate::store::replay::is_decay;
use crate::store::segment::SEGMENT_HEADER;

/// Bytes between two calls of the watcher.
const STEP: u64 = 1 << 20;

/// The log, and what it says of each key.
pub(super) struct Scan {
    pub survey: Survey,
    /// Before it, everything was on the disk.
    pub durable: Position,
    /// Of the index checkpoint, if there is one, or one that was set aside: the log may have been cut since.
    pub head: Head,
    /// Where the last sound record of the log ends.
    pub end: Position,
    /// The greatest store time on record.
    pub time: u64,
    /// From a large value's record to that of the large value it replaced.
    pub replaced: HashMap<Location, Location>,
    index: Index,
    /// Segments up to this order may be missing because compaction removed them.
    removed: u64,
    /// Keys with a damaged record, to notice what comes later.
    hurt: HashMap<(u64, u64), bool>,
}

/// What follows a segment.
enum Next {
    Segment,
    /// The log ends here; what follows was not durable.
    LogEnds,
}

/// A segment that is being read. Its handle is its place among the segments.
#[derive(Clone, Copy)]
struct Segment<'a> {
    source: &'a Source,
    handle: u32,
    /// Whether another segment of the log comes after it.
    followed: bool,
}

impl Scan {
    pub fn new(survey: Survey) -> Scan {
        Scan {
            survey,
            durable: Position(0),
            head: Head::default(),
            end: Position(0),
            time: 0,
            replaced: HashMap::new(),
            index: Index::new(),
            removed: 0,
            hurt: HashMap::new(),
        }
    }

    /// Reads all of it.
    pub fn log(&mut self, checked: &mut Checked, watch: Watch<'_>) -> Result<()> {
        let sources = std::mem::take(&mut self.survey.segments);
        if sources.len() > MAX_HANDLES {
            return Err(Error::other(format!("the store has more than {MAX_HANDLES} segments")));
        }
        // What is promised behind the last segment says nothing of how long that was; only that damage in it is no torn end.
        let newest = sources.iter().rfind(|source| !source.is_compacted()).map(|source| source.header.order);
        let head = Some(self.head.durable).filter(|durable| newest == Some(durable.parts().0));
        self.durable = durable_mark(&sources)?.max(head.unwrap_or_default());
        for (handle, source) in sources.iter().enumerate() {
            let followed = sources[handle + 1..].iter().any(|later| !later.is_compacted());
            let segment = Segment { source, handle: handle as u32, followed };
            if source.is_compacted() {
                self.removed = self.removed.max(source.header.order);
            }
            let before = checked.bytes;
            match self.segment(&segment, checked, watch) {
                Ok(Next::Segment) => {}
                Ok(Next::LogEnds) => break,
                Err(error) => {
                    let what = format!("it cannot be read to its end: {error}");
                    let offset = checked.bytes - before;
                    checked.damages.push(Damage::new(&source.path, offset, what, Fault::Unreadable));
                }
            }
        }
        self.survey.segments = sources;
        // What compaction is known to have removed is not missing, and repair is not to make up for it. By the log alone: of
        // the index checkpoint nothing will be left.
        for mut gap in std::mem::take(&mut self.survey.gaps) {
            if let Fault::Missing { from, to } = &mut gap.fault {
                *from = (*from).max(self.removed + 1);
                if from < to {
                    checked.damages.push(gap);
                }
            }
        }
        Ok(())
    }

    /// How many keys have a value.
    pub fn keys(&self) -> u64 {
        self.index.len()
    }

    /// The records of large values that are their keys' newest, in the order of the log.
    pub fn large(&self) -> Vec<Location> {
        let mut found = Vec::new();
        self.index.each(&mut |entry| found.extend(entry.large.then_some(entry.location)));
        found.sort_unstable_by_key(|location| location.bits());
        found
    }

    fn hash(&self, key: &[u8]) -> Hash {
        self.survey.seed.hash(key)
    }

    fn newest(&self, hash: Hash) -> Option<Location> {
        self.index.stripe(hash).find(hash.tag).map(|entry| entry.location)
    }

    /// Tells what is left of a damaged record's key, as far as this scan shows.
    pub fn settle(&self, damage: &mut Damage) {
        let (Some(key), Fault::Records { number, start, .. } | Fault::Value { number, start, .. }) =
            (&damage.key, damage.fault)
        else {
            return;
        };
        let hash = self.hash(key);
        let newest = self.newest(hash);
        let here = self.survey.segments.iter().position(|source| source.header.number == number);
        let here = here.map(|handle| (handle as u32, start));
        damage.fate = match newest.map(|location| (location.handle(), location.offset())) {
            _ if self.hurt.get(&(hash.place, hash.tag)) == Some(&true) => Fate::Superseded,
            Some(place) if Some(place) == here => Fate::Unknown,
            Some(place) if Some(place) > here => Fate::Superseded,
            Some(_) => Fate::Older,
            None if damage.fate == Fate::Superseded => Fate::Superseded,
            None => Fate::Gone,
        };
    }

    fn segment(&mut self, segment: &Segment<'_>, checked: &mut Checked, watch: Watch<'_>) -> Result<Next> {
        let path = &segment.source.path;
        let file = File::open(path).map_err(|error| Error::io("open", path, &error))?;
        let mut reader = Reader::over(&file, path, segment.source.header.salt);
        let (before, mut offset, mut told) = (checked.bytes, SEGMENT_HEADER, 0);
        self.note_end(segment.source, offset);
        loop {
            let found = reader.next_sound(offset)?;
            if found != Some(offset) && !self.unsound(segment, &mut reader, offset, found, checked)? {
                return Ok(Next::LogEnds);
            }
            let Some(found) = found else { return Ok(Next::Segment) };
            let (fields, len) = reader.record(found)?;
            offset = found + len as u64;
            self.note_end(segment.source, offset);
            checked.bytes = before + offset;
            checked.records += 1;
            if offset >= told + STEP {
                told = offset;
                watch(checked.bytes, self.survey.bytes);
            }
            if fields.kind == Kind::Seal {
                return Ok(Next::Segment);
            }
            self.apply(&fields, segment.handle, found, len);
        }
    }

    /// The log reaches at least so far. What was compacted is no part of it.
    fn note_end(&mut self, source: &Source, offset: u64) {
        if !source.is_compacted() {
            self.end = source.position(offset);
        }
    }

    /// There is no sound record at `offset`, but at `found`, or none is left. `false`: the log ends here.
    fn unsound(
        &mut self,
        segment: &Segment<'_>,
        reader: &mut Reader<'_>,
        offset: u64,
        found: Option<u64>,
        checked: &mut Checked,
    ) -> Result<bool> {
        let Segment { source, followed, .. } = *segment;
        let position = source.position(offset);
        let mut known = self.durable;
        if found.is_some() || followed {
            known = known.max(self.head.durable);
        }
        let durable = source.is_compacted() || position < known;
        if !durable && !is_decay(reader.bytes(offset)?, source.header.salt, offset, found, followed) {
            // Else the index checkpoint tells that the log has lost its end.
            if position >= self.head.durable && !reader.is_blank(offset)? {
                let path = source.path.display();
                checked.notes.push(format!("{path} at offset {offset}: a torn tail, never durable; a start cuts it"));
            }
            return Ok(false);
        }
        let end = found.map_or_else(|| reader.content_end(offset), Ok)?;
        let rest = self.claims(segment, reader, (offset, end), checked)?;
        match found {
            Some(found) if rest < found => self.anonymous(source, rest, found, checked),
            None => self.tail(segment, rest, end, checked),
            Some(_) => {}
        }
        Ok(true)
    }

    /// Tells damaged bytes record by record, as far as they make sense as records, be it with one bit set right. Returns
    /// where they no longer do.
    fn claims(
        &mut self,
        segment: &Segment<'_>,
        reader: &mut Reader<'_>,
        (mut start, end): (u64, u64),
        checked: &mut Checked,
    ) -> Result<u64> {
        let salt = segment.source.header.salt;
        while start < end {
            let bytes = reader.bytes(start)?;
            let mended = Fields::mended(bytes, salt).filter(|record| start + record.len() as u64 <= end);
            let claim = Fields::claimed(mended.as_deref().unwrap_or(bytes));
            let Some((fields, len)) = claim.filter(|(_, len)| start + *len as u64 <= end) else { return Ok(start) };
            checked.damages.push(match &mended {
                Some(_) => self.one_bit(segment, &fields, start, len),
                None => self.claim(segment.source, &fields, start, len),
            });
            start += len as u64;
        }
        Ok(start)
    }

    /// A record of which one bit is wrong. Only a value could not be trusted then.
    fn one_bit(&mut self, segment: &Segment<'_>, fields: &Fields<'_>, start: u64, len: usize) -> Damage {
        let Segment { source, handle, .. } = *segment;
        let (number, end) = (source.header.number, start + len as u64);
        let damage =
            |fault| Damage::new(&source.path, start, format!("one bit of a record of {len} bytes is wrong"), fault);
        if matches!(fields.kind, Kind::Value | Kind::Large) {
            let mut damage = damage(Fault::Records { number, start, end });
            self.note_key(&mut damage, fields.key.to_vec());
            return damage;
        }
        self.apply(fields, handle, start, len);
        let key = (fields.kind == Kind::Tombstone).then(|| fields.key.to_vec());
        Damage { key, fate: Fate::Kept, ..damage(Fault::OneBit { number, start, end }) }
    }

    /// What stands where a record should. What it says of its key is believed.
    fn claim(&mut self, source: &Source, fields: &Fields<'_>, start: u64, len: usize) -> Damage {
        let fault = Fault::Records { number: source.header.number, start, end: start + len as u64 };
        let mut damage = Damage::new(&source.path, start, format!("{len} bytes are no sound record"), fault);
        if matches!(fields.kind, Kind::Value | Kind::Large | Kind::Tombstone) {
            self.note_key(&mut damage, fields.key.to_vec());
        }
        damage
    }

    fn anonymous(&mut self, source: &Source, start: u64, end: u64, checked: &mut Checked) {
        let what = format!("{} bytes are no sound record", end - start);
        let fault = Fault::Records { number: source.header.number, start, end };
        checked.damages.push(Damage::new(&source.path, start, what, fault));
    }

    /// No sound record is left in a segment that had more, its seal at least.
    fn tail(&mut self, segment: &Segment<'_>, start: u64, end: u64, checked: &mut Checked) {
        let Segment { source, followed, .. } = *segment;
        let last = !followed && !source.is_compacted();
        let mut durable = self.durable.0.saturating_sub(Position::new(source.header.order, 0).0);
        if durable >= MAX_SEGMENT {
            // A compacted segment was behind it, which does not tell how long it was.
            durable = end;
        }
        if last && start >= durable {
            return;
        }
        // The log may have gone on since it was known how long it was.
        durable = durable.max(start + HEADER as u64);
        let fault = Fault::Tail { number: source.header.number, start, durable, last };
        let what = format!("damaged or cut from here to its end: {} bytes", end - start);
        checked.damages.push(Damage::new(&source.path, start, what, fault));
    }

    /// The damage is in a record of this key.
    pub fn note_key(&mut self, damage: &mut Damage, key: Vec<u8>) {
        let hash = self.hash(&key);
        self.hurt.insert((hash.place, hash.tag), false);
        damage.key = Some(key);
    }

    fn apply(&mut self, fields: &Fields<'_>, handle: u32, offset: u64, len: usize) {
        let hash = self.hash(fields.key);
        match fields.kind {
            Kind::Value | Kind::Large => {
                let (location, large) = (Location::new(handle, offset), fields.kind == Kind::Large);
                let entry = Entry { location, size_class: size_class(len), expires: fields.expires != 0, large };
                let old = self.index.stripe(hash).insert(hash.tag, entry);
                if let Some(old) = old.filter(|old| large && old.large) {
                    self.replaced.insert(location, old.location);
                }
            }
            Kind::Tombstone => {
                self.index.stripe(hash).remove(hash.tag);
                self.hurt.entry((hash.place, hash.tag)).and_modify(|changed| *changed = true);
            }
            Kind::FlushFired => {
                self.index = Index::new();
                self.hurt.values_mut().for_each(|changed| *changed = true);
            }
            Kind::Checkpoint if fields.body.len() >= 16 => {
                self.time = self.time.max(le_u64(fields.body, 8));
                let removed = if fields.body.len() >= 24 { le_u64(fields.body, 16) } else { 0 };
                self.removed = self.removed.max(removed);
            }
            Kind::FlushPending | Kind::Checkpoint | Kind::Seal => {}
        }
    }
}

/// As recovery finds it: the greatest position in a checkpoint of the last segment that has one. What was compacted had
/// been durable, too.
fn durable_mark(sources: &[Source]) -> Result<Position> {
    let compacted = sources.iter().filter(|source| source.is_compacted()).map(|source| source.position(0));
    let compacted = compacted.max().unwrap_or_default();
    for source in sources.iter().rev().filter(|source| !source.is_compacted()) {
        let file = File::open(&source.path).map_err(|error| Error::io("open", &source.path, &error))?;
        let mark = Reader::over(&file, &source.path, source.header.salt).durable_mark()?;
        if mark > Position(0) {
            return Ok(mark.max(compacted));
        }
    }
    Ok(compacted)
}
