//! Recovery: from the files of a store to its index, by reading the log in order. Runs once, at the opening, on the
//! opener's thread.
//!
//! What a crash leaves behind is cut, what decay leaves behind is reported. The log carries *checkpoint* records
//! that say how far it was durable. The first bad record past the last checkpoint is a torn tail: no sync had
//! covered it, so nothing that was promised can follow it, and the log ends there. A bad record before that point
//! is damage: it is reported, counted and passed over. A commit of a large value past the last checkpoint is
//! checked down to its chunks and counts as a bad record if they are not all sound.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::{Error, Result};
use super::extent::Extents;
use super::hash::Seed;
use super::home::Home;
use super::index::{Entry, Index, size_class};
use super::large::Large;
use super::location::{Location, MAX_SEGMENT, Position};
use super::options::{Options, Severity};
use super::record::{ALIGNMENT, Fields, HEADER, Kind, MAX_RECORD, le_u64};
use super::segment::{SEGMENT_HEADER, Segment, Segments, numbers};
use crate::sys;

/// Bytes read at a time.
const WINDOW: usize = 1 << 20;
/// Time between two progress messages.
const PROGRESS: Duration = Duration::from_secs(1);

/// What recovery found.
pub(crate) struct Recovered {
    pub segments: Segments,
    /// The newest segment and where its records end; none in a new store.
    pub newest: Option<(Arc<Segment>, u64)>,
    pub index: Index,
    pub sequence: u64,
    /// The greatest store time on record.
    pub time: u64,
    pub flushed: Position,
    pub flush_due: u64,
    pub damaged: u64,
}

/// Reads the log of the store in `options.path`.
pub(crate) fn recover(options: &Options, home: &Home, extents: &Extents) -> Result<Recovered> {
    let began = Instant::now();
    let segments = open_segments(&options.path, home.store)?;
    let mut replay = Replay::new(options, home.seed, extents, durable_mark(&segments)?);
    let mut newest: Option<(Arc<Segment>, u64)> = None;
    for (number, segment) in segments.iter().enumerate() {
        replay.say_progress(number, segments.len());
        replay.notice_gap(number.checked_sub(1).map(|before| &segments[before]), segment);
        let (end, next) = replay.segment(segment, segments.get(number + 1))?;
        newest = Some((segment.clone(), end));
        if let Next::LogEnds = next {
            discard(&segments[number + 1..], &options.path)?;
            break;
        }
    }
    let kept =
        segments.iter().take_while(|segment| newest.as_ref().is_some_and(|(last, _)| segment.order <= last.order));
    let table = Segments::default();
    for segment in kept {
        make_durable(segment, replay.durable)?;
        table.add(segment);
    }
    extents.remove_unnamed(|number| replay.named.contains(&number))?;
    replay.summary(began, segments.len());
    Ok(Recovered {
        segments: table,
        newest,
        index: replay.index,
        sequence: replay.sequence,
        time: replay.time,
        flushed: replay.flushed,
        flush_due: replay.flush_due,
        damaged: replay.damaged,
    })
}

/// All segments, in the order of the log. Files that were never completed are removed.
fn open_segments(dir: &Path, store: u64) -> Result<Vec<Arc<Segment>>> {
    let mut found = Vec::new();
    let mut all = numbers(dir)?;
    all.sort_unstable();
    for number in all {
        match Segment::open(dir, store, number, found.len() as u32)? {
            Some(segment) => found.push(Arc::new(segment)),
            None => remove(&super::segment::path_of(dir, number), dir)?,
        }
    }
    found.sort_by_key(|segment| (segment.order, segment.number));
    Ok(found)
}

/// How far the last checkpoint says that the log was durable; found from the end, usually in the last segment.
/// (Every opening writes one.)
fn durable_mark(segments: &[Arc<Segment>]) -> Result<Position> {
    for segment in segments.iter().rev() {
        let (mut reader, mut offset, mut mark) = (Reader::new(segment), SEGMENT_HEADER, Position(0));
        while let Some(found) = reader.next_sound(offset)? {
            let (fields, len) = reader.record(found)?;
            if fields.kind == Kind::Checkpoint && fields.body.len() == 16 {
                mark = mark.max(Position(le_u64(fields.body, 0)));
            }
            offset = found + len as u64;
        }
        if mark > Position(0) {
            return Ok(mark);
        }
    }
    Ok(Position(0))
}

/// What was recovered counts as durable from now on, so it must be: the last life of the store may have ended
/// before its sync.
fn make_durable(segment: &Segment, durable: Position) -> Result<()> {
    if segment.position(MAX_SEGMENT) <= durable {
        return Ok(());
    }
    segment.file.sync_all().map_err(|error| Error::io("sync", &segment.path, &error))
}

/// Takes segments that follow the log's end out of it. Empty ones go; what is in others was never durable in the
/// right order, and stays beside the store as `NNNNNNNN.log.cut` for whoever wants to look.
fn discard(segments: &[Arc<Segment>], dir: &Path) -> Result<()> {
    for segment in segments {
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

fn remove(path: &Path, dir: &Path) -> Result<()> {
    std::fs::remove_file(path).map_err(|error| Error::io("remove", path, &error))?;
    sys::file::sync_directory(dir).map_err(|error| Error::io("sync directory", dir, &error))
}

/// Where a segment's records lead to.
enum Next {
    /// The next segment.
    Segment,
    /// Nowhere: what follows was not durable.
    LogEnds,
}

/// The state of the store, as far as the log has been read.
struct Replay<'a> {
    options: &'a Options,
    seed: Seed,
    extents: &'a Extents,
    durable: Position,
    index: Index,
    /// Extent files that a record names, be it the newest of its key or not.
    named: HashSet<u32>,
    sequence: u64,
    time: u64,
    flushed: Position,
    flush_due: u64,
    records: u64,
    bytes: u64,
    damaged: u64,
    said: Instant,
}

impl<'a> Replay<'a> {
    fn new(options: &'a Options, seed: Seed, extents: &'a Extents, durable: Position) -> Replay<'a> {
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
    fn notice_gap(&mut self, before: Option<&Arc<Segment>>, segment: &Segment) {
        if before.is_some_and(|before| before.order + 1 != segment.order) {
            self.damaged += 1;
            self.warn(format_args!("{}: a segment before this one is missing", segment.path.display()));
        }
    }

    /// Reads one segment; tells where its records end.
    fn segment(&mut self, segment: &Arc<Segment>, following: Option<&Arc<Segment>>) -> Result<(u64, Next)> {
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

    fn say_progress(&mut self, done: usize, of: usize) {
        if self.said.elapsed() >= PROGRESS {
            self.said = Instant::now();
            self.say(format_args!("reading the log: {done} of {of} segments, {} records", self.records));
        }
    }

    fn summary(&self, began: Instant, segments: usize) {
        let (keys, mib, ms) = (self.index.len(), self.bytes >> 20, began.elapsed().as_millis());
        if segments > 0 {
            self.say(format_args!("recovered {keys} keys from {segments} segments ({mib} MiB) in {ms} ms"));
        }
    }
}

/// Finds the records of a segment through a window of fixed size.
struct Reader<'a> {
    segment: &'a Segment,
    file: &'a File,
    window: Vec<u8>,
    /// Bytes of the window that hold what the file has from `start` on.
    filled: usize,
    start: u64,
}

impl<'a> Reader<'a> {
    fn new(segment: &'a Segment) -> Reader<'a> {
        Reader { segment, file: &segment.file, window: vec![0; WINDOW], filled: 0, start: 0 }
    }

    /// Offset of the first sound record at or after `offset`.
    fn next_sound(&mut self, mut offset: u64) -> Result<Option<u64>> {
        loop {
            let salt = self.segment.salt;
            let bytes = self.bytes(offset)?;
            if bytes.len() < HEADER {
                return Ok(None);
            }
            if Fields::decode(bytes, salt).is_ok() {
                return Ok(Some(offset));
            }
            offset += self.skip(offset)?;
        }
    }

    /// The record at `offset`, where [`Reader::next_sound`] found one.
    fn record(&mut self, offset: u64) -> Result<(Fields<'_>, usize)> {
        let (path, salt) = (&self.segment.path, self.segment.salt);
        Fields::decode(self.bytes(offset)?, salt)
            .map_err(|_| Error::damaged(path, offset, "the file changed while it was read"))
    }

    /// Whether nothing was ever written at or after `offset`.
    fn is_blank(&mut self, mut offset: u64) -> Result<bool> {
        loop {
            let bytes = self.bytes(offset)?;
            if bytes.is_empty() {
                return Ok(true);
            }
            if bytes.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
            offset += bytes.len() as u64;
        }
    }

    /// How far to go on where no record starts: past zeros in one step.
    fn skip(&mut self, offset: u64) -> Result<u64> {
        let bytes = self.bytes(offset)?;
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        Ok((zeros / ALIGNMENT * ALIGNMENT).max(ALIGNMENT) as u64)
    }

    /// The bytes from `offset` on: at least the longest record, or what is left of the file.
    fn bytes(&mut self, offset: u64) -> Result<&[u8]> {
        let skip = offset.checked_sub(self.start).map_or(usize::MAX, |skip| skip as usize);
        let at_end = self.filled > 0 && self.filled < WINDOW;
        let enough = skip <= self.filled && (at_end || self.filled - skip >= MAX_RECORD);
        if !enough {
            self.fill(offset)?;
        }
        Ok(&self.window[(offset - self.start) as usize..self.filled])
    }

    fn fill(&mut self, offset: u64) -> Result<()> {
        self.start = offset;
        self.filled = 0;
        while self.filled < WINDOW {
            match self.file.read_at(&mut self.window[self.filled..], offset + self.filled as u64) {
                Ok(0) => break,
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(format!("read at offset {offset} of"), &self.segment.path, &error)),
            }
        }
        Ok(())
    }
}
