//! Large values on their way in, chunk by chunk. A chunk is written by whoever has received it, into the page cache;
//! while the disk is slow, chunks are jobs for the lane, several at a time and in any order; and see [`super::run`]. Each
//! notes its row, and whoever brings the last row of a block of the table writes that block. So the memory of an upload is
//! its chunks in flight, or a run, and a block or two, however long the value is.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use super::CHUNK;
use super::error::{Error, Result};
use super::extent::{AT_ONCE, Extents, Reservation};
use super::large::{Large, Span};
use super::piece::{self, BLOCK, BLOCK_ROWS, INLINE_ROWS, MAX_LEN, Piece, ROW};
use super::record::Kind;
use super::run::{Direct, Run, RunWrite, RunWritten};

/// Of a value whose last chunk could not be compressed, so many bytes of the next chunk are tried before all of it is...
const SAMPLE: usize = 1024;
/// ... but for one chunk in so many.
const TRIED_WHOLE: u64 = 64;

/// A large value on its way in. Dropped unfinished, it gives its space back, and nothing of it is ever visible.
pub struct Upload {
    target: Arc<Target>,
    /// Chunks handed out as jobs, and those whose outcome came back.
    started: u64,
    done: u64,
}

/// A piece that is being written.
pub(crate) struct Target {
    reservation: Reservation,
    len: u64,
    table: Mutex<Table>,
    /// The chunk that was written last could not be compressed, or none is to be.
    stubborn: AtomicBool,
}

enum Table {
    /// The rows, for the record.
    Rows(Vec<u8>),
    /// The blocks that lack some of their rows.
    Blocks(Vec<Block>),
}

struct Block {
    number: u64,
    missing: u64,
    bytes: Box<[u8; BLOCK]>,
}

impl Upload {
    /// For a value, or a part of one, of `len` bytes.
    pub(crate) fn new(extents: &Arc<Extents>, len: u64) -> Result<Upload> {
        if len == 0 || len > MAX_LEN {
            return Err(Error::Invalid(format!("a large value has 1 to {MAX_LEN} bytes, not {len}").into()));
        }
        let chunks = len.div_ceil(CHUNK as u64);
        let table = match chunks <= INLINE_ROWS {
            true => Table::Rows(vec![0; chunks as usize * ROW]),
            false => Table::Blocks(Vec::new()),
        };
        let reservation = extents.reserve(piece::range_len(len, chunks > INLINE_ROWS))?;
        let stubborn = AtomicBool::new(!reservation.compression);
        let target = Arc::new(Target { reservation, len, table: Mutex::new(table), stubborn });
        Ok(Upload { target, started: 0, done: 0 })
    }

    /// Whether [`Upload::write_now`] may be expected not to sleep: the file is there, and the disk has been fast of late.
    pub fn is_fast(&self) -> bool {
        self.target.reservation.is_fast()
    }

    /// Whether the file is there. If not, the first chunk's job makes it, and others had better not wait for that on the
    /// lane.
    pub fn has_file(&self) -> bool {
        self.target.reservation.has_file()
    }

    /// How many chunks had best be written at once next, up to [`AT_ONCE`]: as many as can lie in one folio of the page
    /// cache, but few where each is likely to be compressed, which takes its time.
    pub fn at_once(&self) -> usize {
        let place = self.target.offset(self.started) / CHUNK as u64;
        let fitting = AT_ONCE - (place % AT_ONCE as u64) as usize;
        if self.target.stubborn.load(Relaxed) { fitting } else { fitting.min(2) }
    }

    /// Compresses, checksums and writes the next chunks here and now. Every one but the value's last must have exactly
    /// [`CHUNK`] bytes.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Other`]. The upload is then to be dropped.
    pub fn write_now(&mut self, bytes: &[u8]) -> Result<()> {
        let first = self.started;
        for chunk in bytes.chunks(CHUNK) {
            self.begin(chunk);
        }
        self.target.write_chunks(first, bytes, &[])?;
        self.done += self.started - first;
        Ok(())
    }

    /// The same as a job. Several may be in flight.
    pub fn chunk(&mut self, bytes: Vec<u8>) -> ChunkWrite {
        ChunkWrite { index: self.begin(&bytes), target: self.target.clone(), bytes }
    }

    /// An empty run for what comes next, if that is to be written past the page cache: what can be compressed is not.
    pub fn begin_run(&self) -> Option<Run> {
        if self.may_run() { Run::new() } else { None }
    }

    fn may_run(&self) -> bool {
        let left = self.target.len.saturating_sub(self.started * CHUNK as u64);
        let (reservation, is_long) = (&self.target.reservation, left >= Run::SIZE as u64);
        let may_come = is_long && reservation.extents.throttle.allows_at_once(Run::SIZE);
        may_come && self.target.stubborn.load(Relaxed) && reservation.direct.is_open()
    }

    /// Puts the value's next bytes into `run`. Tells how many chunks that made whole.
    ///
    /// # Panics
    /// If it has not so much room.
    pub fn fill(&self, run: &mut Run, bytes: &[u8]) -> usize {
        run.add(bytes, |place| {
            let offset = self.target.offset(self.started + place as u64);
            piece::checksum_of_none(self.target.reservation.file.number, offset)
        })
    }

    /// A job that writes the next chunks, with which `run` is full.
    pub fn run(&mut self, run: Run) -> RunWrite {
        let first = self.started;
        for chunk in run.bytes().chunks(CHUNK) {
            self.begin(chunk);
        }
        RunWrite::new(self.target.clone(), first, run)
    }

    /// Takes that job's outcome; gives the run back if it is to be filled again.
    ///
    /// # Errors
    /// As those of [`Upload::done`].
    pub fn run_done(&mut self, written: RunWritten) -> Result<Option<Run>> {
        written.outcome?;
        self.done += (Run::SIZE / CHUNK) as u64;
        Ok(self.may_run().then_some(written.run))
    }

    /// The number of the next chunk, which has these bytes.
    fn begin(&mut self, bytes: &[u8]) -> u64 {
        let left = self.target.len - self.started * CHUNK as u64;
        assert!(bytes.len() as u64 == left.min(CHUNK as u64), "chunks have a fixed size");
        self.target.reservation.extents.throttle.draw(bytes.len());
        self.started += 1;
        self.started - 1
    }

    /// Takes a job's outcome; gives its buffer back, emptied.
    ///
    /// # Errors
    /// What the job met: [`Error::Full`], [`Error::Other`]. The upload is then to be dropped.
    pub fn done(&mut self, written: ChunkWritten) -> Result<Vec<u8>> {
        written.outcome?;
        self.done += 1;
        Ok(written.buffer)
    }

    /// Ready to be written to the log.
    ///
    /// # Panics
    /// If a chunk is missing: callers count.
    pub fn finish(mut self) -> Uploaded {
        assert!(self.done == self.target.len.div_ceil(CHUNK as u64), "every chunk was written");
        // The jobs are done: nobody else has it, and a descriptor is freed before the value's record is written.
        if let Some(target) = Arc::get_mut(&mut self.target) {
            target.reservation.direct = Direct::default();
            target.reservation.taken.end();
        }
        Uploaded::of(vec![Made { piece: self.target.piece(), target: self.target }])
    }
}

impl Target {
    /// Notes the row of a chunk that was written.
    fn note(&self, index: u64, row: [u8; ROW]) -> Result<()> {
        let whole = match &mut *super::lock(&self.table) {
            Table::Rows(rows) => {
                rows[index as usize * ROW..][..ROW].copy_from_slice(&row);
                None
            }
            Table::Blocks(blocks) => self.note_in_block(blocks, index, row),
        };
        whole.map_or(Ok(()), |block| self.write_block(block))
    }

    /// Returns the block of that row if it was the last one to come.
    fn note_in_block(&self, blocks: &mut Vec<Block>, index: u64, row: [u8; ROW]) -> Option<Block> {
        let number = index / BLOCK_ROWS;
        let at = blocks.iter().position(|block| block.number == number).unwrap_or_else(|| {
            let rows = self.len.div_ceil(CHUNK as u64) - number * BLOCK_ROWS;
            blocks.push(Block { number, missing: rows.min(BLOCK_ROWS), bytes: Box::new([0; BLOCK]) });
            blocks.len() - 1
        });
        let block = &mut blocks[at];
        piece::put_row(&mut block.bytes, index, row);
        block.missing -= 1;
        (block.missing == 0).then(|| blocks.swap_remove(at))
    }

    fn write_block(&self, mut block: Block) -> Result<()> {
        let offset = self.piece().block_offset(block.number);
        piece::seal_block(&mut block.bytes, self.reservation.file.number, offset);
        self.reservation.write(&block.bytes[..], offset)
    }

    /// Writes the chunks from number `first` on; those in a row that cannot be compressed in one piece: what the file system
    /// does for each write costs more than the bytes. `rows` may have theirs.
    pub fn write_chunks(&self, first: u64, bytes: &[u8], rows: &[[u8; ROW]]) -> Result<()> {
        ENCODER.with_borrow_mut(|(encoder, space)| {
            let (mut index, mut plain) = (first, 0..0);
            for chunk in bytes.chunks(CHUNK) {
                let end = plain.end + chunk.len();
                if let Some(packed) = self.pack(index, chunk, encoder, space) {
                    self.write_plain(first, bytes, plain, rows)?;
                    let offset = self.offset(index);
                    self.reservation.write(packed, offset)?;
                    self.note(index, piece::row(packed, true, self.reservation.file.number, offset))?;
                    plain = end..end;
                }
                (index, plain.end) = (index + 1, end);
            }
            self.write_plain(first, bytes, plain, rows)
        })
    }

    /// Of `bytes`, which begin with chunk number `first`, writes those of some whole chunks as they are.
    fn write_plain(&self, first: u64, bytes: &[u8], range: Range<usize>, rows: &[[u8; ROW]]) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let (skipped, bytes) = (range.start / CHUNK, &bytes[range]);
        self.reservation.write(bytes, self.offset(first + skipped as u64))?;
        for (place, chunk) in (skipped..).zip(bytes.chunks(CHUNK)) {
            let index = first + place as u64;
            self.note(index, rows.get(place).map_or_else(|| self.row(index, chunk), |row| *row))?;
        }
        Ok(())
    }

    /// The row of a chunk that is not compressed.
    fn row(&self, index: u64, chunk: &[u8]) -> [u8; ROW] {
        piece::row(chunk, false, self.reservation.file.number, self.offset(index))
    }

    fn offset(&self, index: u64) -> u64 {
        self.reservation.base + index * CHUNK as u64
    }

    /// A chunk, compressed, if that helps. Where it did not help, it is found out cheaply that it does not.
    fn pack<'a>(
        &self,
        index: u64,
        bytes: &[u8],
        encoder: &mut snap::raw::Encoder,
        space: &'a mut Vec<u8>,
    ) -> Option<&'a [u8]> {
        if !self.reservation.compression {
            return None;
        }
        if self.stubborn.load(Relaxed) && !index.is_multiple_of(TRIED_WHOLE) {
            let middle = &bytes[bytes.len() / 2..];
            compress(encoder, &middle[..middle.len().min(SAMPLE)], space)?;
        }
        let packed = compress(encoder, bytes, space);
        self.stubborn.store(packed.is_none(), Relaxed);
        packed
    }

    fn piece(&self) -> Piece {
        let rows = match &*super::lock(&self.table) {
            Table::Rows(rows) => rows.as_slice().into(),
            Table::Blocks(_) => Box::default(),
        };
        let (file, base) = (self.reservation.file.number, self.reservation.base);
        Piece { file, base, len: self.len, fresh: true, rows }
    }
}

/// Writing one chunk.
pub struct ChunkWrite {
    target: Arc<Target>,
    index: u64,
    bytes: Vec<u8>,
}

/// The outcome of a [`ChunkWrite`].
pub struct ChunkWritten {
    outcome: Result<()>,
    buffer: Vec<u8>,
}

thread_local! {
    /// Compression needs a table of 32 KiB; each thread that writes chunks keeps its own.
    static ENCODER: RefCell<(snap::raw::Encoder, Vec<u8>)> = RefCell::new((snap::raw::Encoder::new(), Vec::new()));
}

impl ChunkWrite {
    /// Compresses, checksums, writes; may sleep.
    pub fn run(self) -> ChunkWritten {
        let ChunkWrite { target, index, mut bytes } = self;
        let outcome = target.write_chunks(index, &bytes, &[]);
        bytes.clear();
        ChunkWritten { outcome, buffer: bytes }
    }
}

/// `bytes`, compressed, if that saves at least an eighth.
pub(crate) fn compress<'a>(encoder: &mut snap::raw::Encoder, bytes: &[u8], space: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    space.resize(snap::raw::max_compress_len(bytes.len()), 0);
    let count = encoder.compress(bytes, space).ok()?;
    (count <= bytes.len() - bytes.len() / 8).then_some(&space[..count])
}

/// A value that lies in extents but in no record yet. Dropped before [`super::Db::write`] took it, it gives its space
/// back, unless a clone was taken.
#[derive(Clone)]
pub struct Uploaded {
    pub(crate) kind: Kind,
    /// Of the record that will name it.
    pub(crate) body: Vec<u8>,
    len: u64,
    made: Vec<Made>,
    /// Values of which it has pieces: their ranges stay until the record is written.
    _kept: Vec<Large>,
}

/// A piece that was written, and what keeps its range.
#[derive(Clone)]
pub(crate) struct Made {
    pub piece: Piece,
    target: Arc<Target>,
}

impl Made {
    pub fn span(&self) -> Span {
        Span { piece: self.piece.clone(), file: self.target.reservation.file.clone() }
    }
}

impl Uploaded {
    fn of(made: Vec<Made>) -> Uploaded {
        let pieces: Vec<Piece> = made.iter().map(|made| made.piece.clone()).collect();
        Uploaded::joined(&pieces, made, Vec::new())
    }

    /// Of `pieces`, of which some were made for it, and others belong to the values `kept`.
    pub(crate) fn joined(pieces: &[Piece], made: Vec<Made>, kept: Vec<Large>) -> Uploaded {
        let len = pieces.iter().map(|piece| piece.len).sum();
        Uploaded { kind: Kind::Large, body: piece::encode(pieces), len, made, _kept: kept }
    }

    /// Of a value that needs no extent.
    pub(crate) fn small(value: Vec<u8>) -> Uploaded {
        Uploaded { kind: Kind::Value, len: value.len() as u64, body: value, made: Vec::new(), _kept: Vec::new() }
    }

    /// Bytes.
    #[allow(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// What was written for it.
    pub(crate) fn into_made(self) -> Vec<Made> {
        self.made
    }

    /// A record names it now.
    pub(crate) fn keep(&self) {
        self.made.iter().for_each(|made| made.target.reservation.kept.store(true, Relaxed));
    }
}
