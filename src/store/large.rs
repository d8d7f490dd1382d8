//! Large values as their users see them: [`Large`] to read one, [`Upload`] to bring one in, [`Compose`] to make one
//! out of parts. A value is cut into chunks of [`CHUNK`] bytes, each compressed where that helps and checksummed by
//! itself, each at a fixed place of the extent, so that chunks can be written and read in any order and from the
//! middle.
//!
//! Whatever may sleep is a job for the lane; event loops make the jobs and take the outcomes.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::error::{Error, Result};
use super::extent::{ExtentFile, Extents, Reservation, padded};
use super::lease::Lease;
use super::mend::flipped_bit;
use super::record::{le_u32, le_u64};
use super::{CHUNK, Scratch};
use crate::sys;

/// Table bytes before the first chunk's row.
const TABLE_HEADER: usize = 24;
/// Bytes per chunk in the table.
const ROW: usize = 8;
const COMPRESSED: u32 = 1 << 31;
/// The largest value whose table fits a record. Bytes.
pub(crate) const MAX_LARGE: u64 = ((CHUNK - TABLE_HEADER) / ROW * CHUNK) as u64;

/// A value in an extent: a cheap handle that can be cloned and kept. It stays readable while a clone exists.
#[derive(Clone)]
pub struct Large(Arc<Inner>);

struct Inner {
    file: Arc<ExtentFile>,
    table: Box<[u8]>,
    _lease: Lease,
}

/// Where a large value lies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Range {
    /// Number of the extent file.
    pub file: u32,
    pub base: u64,
    /// Bytes, the last block included.
    pub len: u64,
}

impl Range {
    /// What a table says.
    pub fn of(table: &[u8]) -> Option<Range> {
        let is_table = table.len() >= TABLE_HEADER;
        is_table.then(|| Range { file: le_u32(table, 0), base: le_u64(table, 8), len: padded(le_u64(table, 16)) })
    }

    pub fn place(&self) -> (u32, u64) {
        (self.file, self.base)
    }
}

impl Large {
    /// Understands the body of a commit record.
    pub(crate) fn decode(table: &[u8], extents: &Extents) -> Result<Large> {
        let malformed = || Error::damaged(extents.dir(), 0, "the table of a large value makes no sense");
        if table.len() < TABLE_HEADER + ROW || !(table.len() - TABLE_HEADER).is_multiple_of(ROW) {
            return Err(malformed());
        }
        let file = extents.file(le_u32(table, 0))?;
        let lease = extents.lease(le_u32(table, 0), le_u64(table, 8));
        let large = Large(Arc::new(Inner { file, table: table.into(), _lease: lease }));
        let rows = ((table.len() - TABLE_HEADER) / ROW) as u64;
        if large.chunks() == rows { Ok(large) } else { Err(malformed()) }
    }

    /// The body of a commit record that names this value.
    pub(crate) fn table(&self) -> &[u8] {
        &self.0.table
    }

    /// Bytes.
    #[allow(clippy::len_without_is_empty, reason = "a large value is never empty")]
    pub fn len(&self) -> u64 {
        le_u64(&self.0.table, 16)
    }

    /// How many chunks; all but the last hold [`CHUNK`] bytes.
    pub fn chunks(&self) -> u64 {
        self.len().div_ceil(CHUNK as u64)
    }

    /// Shows chunk `index`, checked and decompressed, if it can be had without sleeping. `Ok(None)`: it cannot; use
    /// [`Large::fetch`].
    ///
    /// # Errors
    /// [`Error::Damaged`] if its checksum is wrong, [`Error::Other`] if the disk cannot be read.
    pub fn read_nowait(&self, index: u64, scratch: &mut Scratch, visit: impl FnOnce(&[u8])) -> Result<Option<()>> {
        let chunk = self.chunk(index);
        scratch.read.resize(chunk.stored, 0);
        let read = self.0.file.get().and_then(|file| {
            sys::file::read_nowait(file, &mut scratch.read, chunk.offset)
                .map_err(|error| self.cannot_read(&chunk, &error))
        });
        match read? {
            Some(count) if count == chunk.stored => {
                chunk.open(&scratch.read, &mut scratch.raw, &self.0.file).map(visit).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Reading chunk `index`, as a job for the lane.
    pub fn fetch(&self, index: u64) -> ChunkRead {
        ChunkRead { large: self.clone(), index }
    }

    /// Reads chunk `index` into `out`, replacing what was there; may sleep.
    pub(crate) fn read(&self, index: u64, out: &mut Vec<u8>) -> Result<()> {
        self.read_with(index, out, &mut Vec::new())
    }

    /// The same, with memory for the stored bytes.
    fn read_with(&self, index: u64, out: &mut Vec<u8>, stored: &mut Vec<u8>) -> Result<()> {
        let chunk = self.chunk(index);
        self.read_stored(&chunk, stored)?;
        if chunk.compressed {
            chunk.open(stored, out, &self.0.file)?;
        } else {
            chunk.check(stored, &self.0.file)?;
            std::mem::swap(out, stored);
        }
        Ok(())
    }

    /// All of it; may sleep.
    pub(crate) fn read_all(&self) -> Result<Vec<u8>> {
        let (mut value, mut chunk, mut stored) = (Vec::with_capacity(self.len() as usize), Vec::new(), Vec::new());
        for index in 0..self.chunks() {
            self.read_with(index, &mut chunk, &mut stored)?;
            value.extend_from_slice(&chunk);
        }
        Ok(value)
    }

    /// Reads every chunk and throws it away. Tells how many differ from sound ones by a single bit, as decay has it.
    ///
    /// # Errors
    /// [`Error::Damaged`] if more than a bit of one is wrong.
    pub(crate) fn verify(&self) -> Result<u64> {
        let mut decayed = 0;
        for index in 0..self.chunks() {
            let chunk = self.chunk(index);
            let stored = self.stored(&chunk)?;
            let syndrome = checksum(&stored, self.0.file.number, chunk.offset) ^ chunk.crc;
            match syndrome {
                0 => {}
                _ if flipped_bit(syndrome, stored.len()).is_some() => decayed += 1,
                _ => chunk.check(&stored, &self.0.file)?,
            }
        }
        Ok(decayed)
    }

    fn stored(&self, chunk: &Chunk) -> Result<Vec<u8>> {
        let mut stored = Vec::new();
        self.read_stored(chunk, &mut stored).map(|()| stored)
    }

    fn read_stored(&self, chunk: &Chunk, stored: &mut Vec<u8>) -> Result<()> {
        stored.resize(chunk.stored, 0);
        let file = self.0.file.get()?;
        file.read_exact_at(stored, chunk.offset).map_err(|error| self.cannot_read(chunk, &error))
    }

    fn chunk(&self, index: u64) -> Chunk {
        assert!(index < self.chunks());
        let row = TABLE_HEADER + index as usize * ROW;
        let stored = le_u32(&self.0.table, row);
        let base = le_u64(&self.0.table, 8);
        Chunk {
            offset: base + index * CHUNK as u64,
            stored: (stored & !COMPRESSED) as usize,
            compressed: stored & COMPRESSED != 0,
            crc: le_u32(&self.0.table, row + 4),
            raw: (self.len() - index * CHUNK as u64).min(CHUNK as u64) as usize,
        }
    }

    fn cannot_read(&self, chunk: &Chunk, error: &std::io::Error) -> Error {
        // A crash can leave a file shorter than what was written to it.
        if error.kind() == ErrorKind::UnexpectedEof {
            return Error::damaged(&self.0.file.path, chunk.offset, "the file ends before this chunk does");
        }
        let attempt = format!("read {} bytes at offset {} of", chunk.stored, chunk.offset);
        Error::io(attempt, &self.0.file.path, error)
    }
}

/// One row of a table, understood.
struct Chunk {
    offset: u64,
    stored: usize,
    compressed: bool,
    crc: u32,
    raw: usize,
}

impl Chunk {
    fn check(&self, stored: &[u8], file: &ExtentFile) -> Result<()> {
        match checksum(stored, file.number, self.offset) == self.crc {
            true => Ok(()),
            false => Err(Error::damaged(&file.path, self.offset, "a chunk's checksum is wrong")),
        }
    }

    /// The chunk's bytes, from what is stored.
    fn open<'a>(&self, stored: &'a [u8], raw: &'a mut Vec<u8>, file: &ExtentFile) -> Result<&'a [u8]> {
        self.check(stored, file)?;
        if !self.compressed {
            return Ok(stored);
        }
        raw.resize(self.raw, 0);
        match snap::raw::Decoder::new().decompress(stored, raw) {
            Ok(count) if count == self.raw => Ok(raw),
            _ => Err(Error::damaged(&file.path, self.offset, "a chunk does not decompress to its length")),
        }
    }
}

/// Seeded with where the chunk lies: a chunk that turns up elsewhere is damage.
fn checksum(stored: &[u8], file: u32, offset: u64) -> u32 {
    crc32c::crc32c_append(file.rotate_left(16) ^ (offset >> 12) as u32, stored)
}

/// Where a chunk lies: for whoever looks at the files without opening the store.
pub(crate) struct StoredChunk {
    /// Number of the extent file.
    pub file: u32,
    pub offset: u64,
    /// Bytes as stored.
    pub len: usize,
    crc: u32,
}

impl StoredChunk {
    /// Whether `bytes` are what was stored.
    pub fn is_sound(&self, bytes: &[u8]) -> bool {
        checksum(bytes, self.file, self.offset) == self.crc
    }

    /// Whether a single bit of `bytes` is not what was stored, as decay has it.
    pub fn is_decayed(&self, bytes: &[u8]) -> bool {
        flipped_bit(checksum(bytes, self.file, self.offset) ^ self.crc, bytes.len()).is_some()
    }
}

/// The chunks that the body of a commit record names. `None`: it makes no sense.
pub(crate) fn stored_chunks(table: &[u8]) -> Option<impl Iterator<Item = StoredChunk> + '_> {
    let rows = table.get(TABLE_HEADER..)?.chunks_exact(ROW);
    let chunks = le_u64(table, 16).div_ceil(CHUNK as u64);
    if rows.len() as u64 != chunks || !rows.remainder().is_empty() || chunks == 0 {
        return None;
    }
    let (file, base) = (le_u32(table, 0), le_u64(table, 8));
    Some(rows.enumerate().map(move |(index, row)| StoredChunk {
        file,
        offset: base + (index * CHUNK) as u64,
        len: (le_u32(row, 0) & !COMPRESSED) as usize,
        crc: le_u32(row, 4),
    }))
}

/// A read of one chunk.
pub struct ChunkRead {
    large: Large,
    index: u64,
}

impl ChunkRead {
    /// The chunk's bytes; may sleep.
    ///
    /// # Errors
    /// As [`Large::read_nowait`].
    pub fn run(self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.large.read(self.index, &mut bytes).map(|()| bytes)
    }
}

/// A large value on its way in. Dropped unfinished, it gives its space back, and nothing of it is ever visible.
pub struct Upload {
    reservation: Arc<Reservation>,
    table: Vec<u8>,
    len: u64,
    /// Chunks handed out as jobs, and those whose outcome came back.
    started: u64,
    done: u64,
}

impl Upload {
    pub(crate) fn new(extents: &Arc<Extents>, len: u64) -> Result<Upload> {
        if len <= CHUNK as u64 || len > MAX_LARGE {
            return Err(Error::Invalid(format!("a large value has {} to {MAX_LARGE} bytes", CHUNK + 1).into()));
        }
        let chunks = len.div_ceil(CHUNK as u64) as usize;
        let reservation = Arc::new(extents.reserve(len)?);
        let mut table = vec![0; TABLE_HEADER + chunks * ROW];
        table[..4].copy_from_slice(&reservation.file.number.to_le_bytes());
        table[8..16].copy_from_slice(&reservation.base.to_le_bytes());
        table[16..24].copy_from_slice(&len.to_le_bytes());
        Ok(Upload { reservation, table, len, started: 0, done: 0 })
    }

    /// The next chunk, as a job. Every one but the last must have exactly [`CHUNK`] bytes. Several may be in flight.
    pub fn chunk(&mut self, bytes: Vec<u8>) -> ChunkWrite {
        let left = self.len - self.started * CHUNK as u64;
        assert_eq!(bytes.len() as u64, left.min(CHUNK as u64), "chunks have a fixed size");
        self.started += 1;
        self.reservation.extents.throttle.draw(bytes.len());
        ChunkWrite { reservation: self.reservation.clone(), index: self.started - 1, bytes }
    }

    /// Takes a job's outcome; gives its buffer back, emptied.
    ///
    /// # Errors
    /// What the job met: [`Error::Full`], [`Error::Other`]. The upload is then to be dropped.
    pub fn done(&mut self, written: ChunkWritten) -> Result<Vec<u8>> {
        let row = written.row?;
        let at = TABLE_HEADER + written.index as usize * ROW;
        self.table[at..at + ROW].copy_from_slice(&row);
        self.done += 1;
        Ok(written.buffer)
    }

    /// Ready to be written to the log.
    ///
    /// # Panics
    /// If a chunk is missing: callers count.
    pub fn finish(self) -> Uploaded {
        assert_eq!(self.done, self.len.div_ceil(CHUNK as u64), "every chunk was written");
        Uploaded { reservation: self.reservation, table: self.table }
    }
}

/// Writing one chunk.
pub struct ChunkWrite {
    reservation: Arc<Reservation>,
    index: u64,
    bytes: Vec<u8>,
}

/// The outcome of a [`ChunkWrite`].
pub struct ChunkWritten {
    index: u64,
    row: Result<[u8; ROW]>,
    buffer: Vec<u8>,
}

thread_local! {
    /// Compression needs a table of 32 KiB; a lane thread keeps its own.
    static ENCODER: RefCell<(snap::raw::Encoder, Vec<u8>)> = RefCell::new((snap::raw::Encoder::new(), Vec::new()));
}

impl ChunkWrite {
    /// Compresses, checksums, writes; may sleep.
    pub fn run(self) -> ChunkWritten {
        let ChunkWrite { reservation, index, mut bytes } = self;
        let row = ENCODER.with_borrow_mut(|(encoder, space)| {
            let packed = reservation.compression.then(|| compress(encoder, &bytes, space)).flatten();
            write_chunk(&reservation, index, packed.unwrap_or(&bytes), packed.is_some())
        });
        bytes.clear();
        ChunkWritten { index, row, buffer: bytes }
    }
}

fn write_chunk(reservation: &Reservation, index: u64, stored: &[u8], compressed: bool) -> Result<[u8; ROW]> {
    let offset = reservation.base + index * CHUNK as u64;
    reservation.write(stored, offset)?;
    let len = stored.len() as u32 | if compressed { COMPRESSED } else { 0 };
    let mut row = [0; ROW];
    row[..4].copy_from_slice(&len.to_le_bytes());
    row[4..].copy_from_slice(&checksum(stored, reservation.file.number, offset).to_le_bytes());
    Ok(row)
}

/// `bytes`, compressed, if that saves at least an eighth.
pub(crate) fn compress<'a>(encoder: &mut snap::raw::Encoder, bytes: &[u8], space: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    space.resize(snap::raw::max_compress_len(bytes.len()), 0);
    let count = encoder.compress(bytes, space).ok()?;
    (count <= bytes.len() - bytes.len() / 8).then_some(&space[..count])
}

/// A large value that lies in its extent but in no record yet. Dropped before [`super::Db::write`] took it, it
/// gives its space back.
pub struct Uploaded {
    reservation: Arc<Reservation>,
    table: Vec<u8>,
}

impl Uploaded {
    /// Bytes.
    #[allow(clippy::len_without_is_empty, reason = "a large value is never empty")]
    pub fn len(&self) -> u64 {
        le_u64(&self.table, 16)
    }

    pub(crate) fn table(&self) -> &[u8] {
        &self.table
    }

    /// A record names it now.
    pub(crate) fn keep(&self) {
        self.reservation.kept.store(true, Relaxed);
    }
}

/// A part of a value to be composed.
pub enum Part {
    /// Bytes in memory.
    Bytes(Vec<u8>),
    /// All of a large value.
    Large(Large),
}

/// Making a large value out of parts.
pub struct Compose {
    pub(crate) extents: Arc<Extents>,
    pub(crate) parts: Vec<Part>,
}

impl Compose {
    /// Reads, joins and writes the parts; may sleep.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the sum is no more than [`CHUNK`], [`Error::Full`], else what reading and writing met.
    pub fn run(self) -> Result<Uploaded> {
        let len = self.parts.iter().map(Part::len).sum();
        let mut upload = Upload::new(&self.extents, len)?;
        let mut gathered = Vec::with_capacity(2 * CHUNK);
        let mut chunk = Vec::new();
        for part in &self.parts {
            for index in 0..part.chunks() {
                gathered.extend_from_slice(part.chunk(index, &mut chunk)?);
                upload.take_whole_chunks(&mut gathered)?;
            }
        }
        if !gathered.is_empty() {
            let last = upload.chunk(gathered).run();
            upload.done(last)?;
        }
        Ok(upload.finish())
    }
}

impl Upload {
    fn take_whole_chunks(&mut self, gathered: &mut Vec<u8>) -> Result<()> {
        while gathered.len() >= CHUNK {
            let rest = gathered.split_off(CHUNK);
            let written = self.chunk(std::mem::replace(gathered, rest)).run();
            self.done(written)?;
        }
        Ok(())
    }
}

impl Part {
    fn len(&self) -> u64 {
        match self {
            Part::Bytes(bytes) => bytes.len() as u64,
            Part::Large(large) => large.len(),
        }
    }

    fn chunks(&self) -> u64 {
        self.len().div_ceil(CHUNK as u64)
    }

    fn chunk<'a>(&'a self, index: u64, space: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        match self {
            Part::Bytes(bytes) => Ok(&bytes[index as usize * CHUNK..bytes.len().min((index as usize + 1) * CHUNK)]),
            Part::Large(large) => large.read(index, space).map(|()| &space[..]),
        }
    }
}
