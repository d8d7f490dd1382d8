//! The index checkpoint: the file `CHECKPOINT`, a copy of the index and of the segment table as they were at some
//! position of the log, so that a start reads only what was appended since. `kingdb.5` has the layout. It is a mere
//! convenience: it holds nothing that the log does not say, whoever doubts it reads the log instead, and it may be
//! removed while the store is closed.
//!
//! The stripes are taken one after the other while writers go on, so the copy is of no single moment. It need not be:
//! an entry that is newer than the copy's position is met again in the log behind that position, and the later record
//! counts, however often it is read. What an entry names is durable before the file gets its name.
//!
//! Written by the compactor between its rounds and by whoever closes the store; read by recovery.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::core::Core;
use super::error::{Error, Result};
use super::header::{VERSION, checksum};
use super::home::FILE_MODE;
use super::index::{Contents, Index, STRIPES};
use super::location::Position;
use super::options::Severity;
use super::page::{Page, SLOT};
use super::record::{le_u32, le_u64};
use super::replay::Facts;
use super::segment::Segment;
use super::usage::Figures;
use crate::sys;

const MAGIC: [u8; 8] = *b"KDBINDEX";
pub(crate) const NAME: &str = "CHECKPOINT";
/// Until it is whole.
const FRESH: &str = "CHECKPOINT.new";
/// See [`remember_loss`] and [`set_aside`].
pub(crate) const LOST: &str = "CHECKPOINT.lost";
const HEADER: usize = 128;
const ROW: usize = 64;
/// Where the header has the second of the flush that is pending.
const DUE: u64 = 56;
/// What precedes a stripe's block: its checksum and its length.
const PREFIX: usize = 8;
/// Bytes of a block before its pages' lengths.
const BLOCK_HEADER: usize = 12;
/// Bytes written at a time, at least.
const PIECE: usize = 1 << 20;

/// Log after which a checkpoint is worth writing, whatever the size of the index. Bytes.
const OFTEN: u64 = 256 << 20;
/// And in sizes of the index, which is written each time.
const RARELY: u64 = 4;
const BYTES_PER_KEY: u64 = 16;
/// So much log is read in no time. Bytes.
const QUICK: u64 = 1 << 20;

/// All but the index.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Head {
    /// Replay goes on from here.
    pub position: Position,
    /// Everything before this was durable when the file was finished.
    pub durable: Position,
    pub facts: Facts,
    pub rows: Vec<Row>,
}

/// A segment that existed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    pub handle: u32,
    pub number: u32,
    pub order: u64,
    pub salt: u32,
    pub compacted: bool,
    /// Not all its records could be read.
    pub damaged: bool,
    pub figures: Figures,
}

impl Row {
    fn of(segment: &Segment, figures: Figures) -> Row {
        let Segment { handle, number, order, salt, compacted, .. } = *segment;
        Row { handle, number, order, salt, compacted, damaged: segment.is_damaged(), figures }
    }

    /// Whether `segment` is the one that was listed, not another that got its number.
    pub fn is(&self, segment: &Segment) -> bool {
        (self.number, self.order, self.salt, self.compacted)
            == (segment.number, segment.order, segment.salt, segment.compacted)
    }

    fn encode(&self) -> [u8; ROW] {
        let Figures { total, dead, graves, expiring, latest_expiry, has_flush } = self.figures;
        let mut out = [0; ROW];
        let flags = u32::from(self.compacted) | u32::from(has_flush) << 1 | u32::from(self.damaged) << 2;
        for (at, word) in [(0, self.handle), (4, self.number), (16, self.salt), (20, flags)] {
            out[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        let wide = [(8, self.order), (24, total), (32, dead), (40, graves), (48, expiring), (56, latest_expiry)];
        for (at, word) in wide {
            out[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Row {
        let flags = le_u32(bytes, 20);
        let figures = Figures {
            total: le_u64(bytes, 24),
            dead: le_u64(bytes, 32),
            graves: le_u64(bytes, 40),
            expiring: le_u64(bytes, 48),
            latest_expiry: le_u64(bytes, 56),
            has_flush: flags & 2 != 0,
        };
        Row {
            handle: le_u32(bytes, 0),
            number: le_u32(bytes, 4),
            order: le_u64(bytes, 8),
            salt: le_u32(bytes, 16),
            compacted: flags & 1 != 0,
            damaged: flags & 4 != 0,
            figures,
        }
    }
}

impl Core {
    /// Writes an index checkpoint that replaces the one before. Sleeps. A failure leaves things as they were.
    pub fn write_checkpoint(&self) -> Result<()> {
        // Meanwhile no segment is removed and no record moved.
        let _no_round = self.hold_rounds();
        let dir = &self.options.path;
        let (fresh, path) = (dir.join(FRESH), dir.join(NAME));
        let written = self.write_checkpoint_to(&fresh).and_then(|()| {
            std::fs::rename(&fresh, &path).map_err(|error| Error::io("rename to", &path, &error))?;
            sys::file::sync_directory(dir).map_err(|error| Error::io("sync directory", dir, &error))
        });
        written.inspect_err(|_| drop(std::fs::remove_file(&fresh)))
    }

    /// No flush is pending: a CHECKPOINT that knows of one must not outlive the record that says that it has fired. The
    /// caller holds `compaction.rounds`.
    pub fn forget_pending_flush(&self) -> Result<()> {
        let (dir, mut due) = (&self.options.path, [0; 8]);
        let path = dir.join(NAME);
        match File::open(&path).and_then(|file| file.read_exact_at(&mut due, DUE)) {
            Ok(()) if due == [0; 8] => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            // What cannot be told does not count as none.
            _ => {}
        }
        self.counters.checkpointed.store(0, Relaxed);
        super::recovery::remove(&path, dir)
    }

    fn write_checkpoint_to(&self, path: &Path) -> Result<()> {
        let (position, facts) = self.facts();
        // Whoever appended before that, and has not counted it yet, holds a stripe.
        self.index.settle();
        let bytes = self.to_read();
        // What is appended from here on is counted again by replay.
        let before: Vec<Row> = self.rows().into_iter().filter(|row| row.order == position.parts().0).collect();
        let mut out = Output::create(path)?;
        for number in 0..STRIPES {
            let contents = self.index.stripe_at(number).contents();
            out.stripe(number, &contents)?;
        }
        let mut rows = self.rows();
        for row in &mut rows {
            *row = before.iter().find(|before| before.handle == row.handle).copied().unwrap_or(*row);
        }
        // Entries may name records that are newer than `position`.
        let durable = self.log.end();
        self.log.write_all();
        self.sync(durable)?;
        out.finish(self.home.store, &Head { position, durable, facts, rows })?;
        self.counters.checkpointed.store(bytes, Relaxed);
        Ok(())
    }

    fn rows(&self) -> Vec<Row> {
        let segments = &self.log.segments;
        segments.all().iter().map(|segment| Row::of(segment, segments.usage(segment.handle).figures())).collect()
    }

    /// What recovery read, and what was written to segments since. Bytes.
    fn to_read(&self) -> u64 {
        let compacted = self.compaction.counters.bytes_written.load(Relaxed);
        self.counters.replayed + self.log.bytes.load(Relaxed) + compacted
    }

    /// Of this, what a start would have to read, had the store ended now. Bytes.
    fn unchecked(&self) -> u64 {
        self.to_read().saturating_sub(self.counters.checkpointed.load(Relaxed))
    }

    /// What an index checkpoint will take, if the last one is old enough for another to be worth it; else zero. Bytes.
    pub fn room_for_checkpoint(&self) -> u64 {
        let index = self.index.len() * BYTES_PER_KEY;
        let since = self.to_read().saturating_sub(self.counters.checkpoint_tried.load(Relaxed));
        if since.min(self.unchecked()) > OFTEN.max(index * RARELY) { index } else { 0 }
    }

    /// Writes an index checkpoint if it is worth it: for the compactor, between its rounds.
    pub fn refresh_checkpoint(&self) {
        let room = self.room_for_checkpoint();
        // What is kept back is for compaction.
        if room > 0 && self.space.headroom() > room {
            self.try_checkpoint();
        }
    }

    /// Writes an index checkpoint if a start without it would be noticeably slower: for the clean end.
    pub fn last_checkpoint(&self) {
        if self.unchecked() > QUICK && self.space.room() > self.index.len() * BYTES_PER_KEY {
            self.try_checkpoint();
        }
    }

    /// A checkpoint that cannot be written only makes the next start slower.
    fn try_checkpoint(&self) {
        self.counters.checkpoint_tried.store(self.to_read(), Relaxed);
        if let Err(error) = self.write_checkpoint() {
            (self.options.report)(Severity::Warning, &format!("no index checkpoint: {error}"));
        }
    }
}

/// The file while it is written.
struct Output {
    file: File,
    path: PathBuf,
    /// What was gathered to be written at once.
    gathered: Vec<u8>,
    written: u64,
}

impl Output {
    fn create(path: &Path) -> Result<Output> {
        let open = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(path);
        let file = open.map_err(|error| Error::io("create", path, &error))?;
        Ok(Output { file, path: path.to_owned(), gathered: vec![0; HEADER], written: 0 })
    }

    fn stripe(&mut self, number: usize, contents: &Contents) -> Result<()> {
        let start = self.gathered.len();
        let used = || contents.pages.iter().map(Page::used);
        self.gathered.extend_from_slice(&[0; PREFIX]);
        self.gathered.extend_from_slice(&contents.bytes.to_le_bytes());
        self.gathered.extend_from_slice(&(contents.pages.len() as u32).to_le_bytes());
        used().for_each(|slots| self.gathered.extend_from_slice(&(slots.len() as u16).to_le_bytes()));
        used().for_each(|slots| self.gathered.extend_from_slice(slots.as_flattened()));
        let (prefix, block) = self.gathered[start..].split_at_mut(PREFIX);
        prefix[..4].copy_from_slice(&crc32c::crc32c_append(number as u32, block).to_le_bytes());
        prefix[4..].copy_from_slice(&(block.len() as u32).to_le_bytes());
        if self.gathered.len() >= PIECE { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        let (bytes, offset) = (self.gathered.len() as u64, self.written);
        let written = self.file.write_all_at(&self.gathered, offset);
        written.map_err(|error| Error::io(format!("write {bytes} bytes at offset {offset} of"), &self.path, &error))?;
        // Little by little, so that nobody else's sync waits behind all of it.
        sys::file::start_write_back(&self.file, offset, bytes);
        self.written += bytes;
        self.gathered.clear();
        Ok(())
    }

    /// The header comes last: until then the file is none.
    fn finish(mut self, store: u64, head: &Head) -> Result<()> {
        self.write()?;
        let offset = self.written;
        let table: Vec<u8> = head.rows.iter().flat_map(Row::encode).collect();
        self.gathered.extend_from_slice(&table);
        self.write()?;
        let header = encode_header(store, head, offset, crc32c::crc32c(&table));
        let whole = self.file.write_all_at(&header, 0).and_then(|()| self.file.sync_all());
        whole.map_err(|error| Error::io("finish", &self.path, &error))
    }
}

fn encode_header(store: u64, head: &Head, table: u64, table_crc: u32) -> [u8; HEADER] {
    let Facts { sequence, time, flushed, flush_due, removed } = head.facts;
    let mut out = [0; HEADER];
    out[..8].copy_from_slice(&MAGIC);
    let wide = [store, head.position.0, head.durable.0, sequence, time, flush_due, flushed.0, removed, table];
    for (word, place) in wide.iter().zip(out[16..].chunks_exact_mut(8)) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    for (at, word) in [(8, VERSION), (88, head.rows.len() as u32), (92, table_crc)] {
        out[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    let crc = checksum(&out);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Removes what a crash left of a checkpoint that was being written.
pub(crate) fn remove_unfinished(dir: &Path) {
    // It is in nobody's way: the next one to be written overwrites it.
    let _ = std::fs::remove_file(dir.join(FRESH));
}

/// Whether a start met a log that had lost something, and what it lost was not given up since; or a repair is not done.
pub(crate) fn knows_of_loss(dir: &Path) -> bool {
    dir.join(LOST).exists()
}

/// Sets the index checkpoint aside, if there is one, until a repair is done. As long as that file is there, nothing is given
/// back that records may name which are missing.
pub(crate) fn set_aside(dir: &Path) -> Result<()> {
    let (path, lost) = (dir.join(NAME), dir.join(LOST));
    match std::fs::rename(&path, &lost) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        noted => noted.map_err(|error| Error::io("make", &lost, &error))?,
    }
    make_lost(dir, false)
}

/// Notes that the log lacks something that it had, and goes on without: what was known of it is void.
pub(crate) fn remember_loss(dir: &Path) -> Result<()> {
    make_lost(dir, true)
}

fn make_lost(dir: &Path, void: bool) -> Result<()> {
    let lost = dir.join(LOST);
    let open = OpenOptions::new().write(true).create(true).truncate(void).mode(FILE_MODE).open(&lost);
    open.and_then(|file| file.sync_all()).map_err(|error| Error::io("make", &lost, &error))?;
    sys::file::sync_directory(dir).map_err(|error| Error::io("sync directory", dir, &error))
}

/// Removes the index checkpoint, for good.
pub(crate) fn remove(dir: &Path) -> Result<()> {
    let path = dir.join(NAME);
    std::fs::remove_file(&path).map_err(|error| Error::io("remove", &path, &error))?;
    sys::file::sync_directory(dir).map_err(|error| Error::io("sync directory", dir, &error))
}

/// Reads the index checkpoint of `store` in `dir`; shows `watch` how much of it was read, in percent, now and then.
/// `Ok(None)`: there is none. The error says why it cannot be used.
pub(crate) fn read(dir: &Path, store: u64, watch: &mut dyn FnMut(usize)) -> Result<Option<(Head, Index)>> {
    read_file(dir.join(NAME), store, watch)
}

/// The same of the file at `path`: it may have been set aside.
pub(crate) fn read_file(path: PathBuf, store: u64, watch: &mut dyn FnMut(usize)) -> Result<Option<(Head, Index)>> {
    let file = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| Error::io("open", &path, &error))?,
    };
    let size = file.metadata().map_err(|error| Error::io("look at", &path, &error))?.len();
    let mut input = Input { file, path, size, offset: 0, block: Vec::new() };
    let (mut head, table, rows, table_crc) = input.header(store)?;
    let index = Index::new();
    for number in 0..STRIPES {
        let contents = input.stripe(number)?;
        index.stripe_at(number).load(contents);
        watch(number * 100 / STRIPES);
    }
    if input.offset != table {
        return Err(input.damaged("its table is not where it should be"));
    }
    input.read(rows * ROW)?;
    if crc32c::crc32c(&input.block) != table_crc {
        return Err(input.damaged("the checksum of its table is wrong"));
    }
    head.rows = input.block.chunks_exact(ROW).map(Row::decode).collect();
    Ok(Some((head, index)))
}

/// Whether the index checkpoint in `dir` is another version's: then it is not damaged, though of no use either. The version
/// is part of the checksum, so a flipped bit does not look like it.
pub(crate) fn is_of_another_version(dir: &Path) -> bool {
    let mut header = [0; HEADER];
    let read = File::open(dir.join(NAME)).and_then(|file| file.read_exact_at(&mut header, 0));
    let is_whole = read.is_ok() && header[..8] == MAGIC && checksum(&header) == le_u32(&header, 12);
    is_whole && le_u32(&header, 8) != VERSION
}

/// The file while it is read.
struct Input {
    file: File,
    path: PathBuf,
    size: u64,
    offset: u64,
    /// What was read last.
    block: Vec<u8>,
}

impl Input {
    /// All but the rows, and then: where the table begins, its rows, its checksum.
    fn header(&mut self, store: u64) -> Result<(Head, u64, usize, u32)> {
        self.read(HEADER)?;
        let header = &self.block;
        let word = |at| le_u64(header, at);
        if header[..8] != MAGIC || le_u32(header, 8) != VERSION {
            return Err(self.damaged("it has another format"));
        }
        if checksum(header) != le_u32(header, 12) {
            return Err(self.damaged("the header's checksum is wrong"));
        }
        if word(16) != store {
            return Err(self.damaged("it belongs to another store"));
        }
        let facts = Facts {
            sequence: word(40),
            time: word(48),
            flush_due: word(56),
            flushed: Position(word(64)),
            removed: word(72),
        };
        let head = Head { position: Position(word(24)), durable: Position(word(32)), facts, rows: Vec::new() };
        Ok((head, word(80), le_u32(header, 88) as usize, le_u32(header, 92)))
    }

    fn stripe(&mut self, number: usize) -> Result<Contents> {
        self.read(PREFIX)?;
        let (crc, len) = (le_u32(&self.block, 0), le_u32(&self.block, 4) as usize);
        self.read(len)?;
        if len < BLOCK_HEADER || crc32c::crc32c_append(number as u32, &self.block) != crc {
            return Err(self.damaged("the checksum of its index is wrong"));
        }
        let pages = le_u32(&self.block, 8) as usize;
        let (lengths, mut slots) = self.block[BLOCK_HEADER..].split_at(2 * pages);
        let lengths = lengths.chunks_exact(2).map(|length| usize::from(u16::from_le_bytes([length[0], length[1]])));
        let take = |length| {
            let (page, rest) = slots.split_at(length * SLOT);
            slots = rest;
            Page::from_slots(page.as_chunks().0)
        };
        Ok(Contents { pages: Arc::new(lengths.map(take).collect()), bytes: le_u64(&self.block, 0) })
    }

    fn read(&mut self, len: usize) -> Result<()> {
        if self.size - self.offset < len as u64 {
            return Err(self.damaged("it ends too early"));
        }
        self.block.resize(len, 0);
        let read = self.file.read_exact_at(&mut self.block, self.offset);
        read.map_err(|error| Error::io(format!("read {len} bytes at offset {} of", self.offset), &self.path, &error))?;
        self.offset += len as u64;
        Ok(())
    }

    fn damaged(&self, what: &str) -> Error {
        Error::damaged(&self.path, self.offset, what)
    }
}
