//! Large values on their way in, chunk by chunk. The chunks of one value are jobs for the lane, several at a time and in
//! any order; each notes its row, and whoever brings the last row of a block of the table writes that block. So the
//! memory of an upload is its chunks in flight and a block or two, however long the value is.

use std::cell::RefCell;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use super::CHUNK;
use super::error::{Error, Result};
use super::extent::{Extents, Reservation};
use super::large::{Large, Span};
use super::piece::{self, BLOCK, BLOCK_ROWS, INLINE_ROWS, MAX_LEN, Piece, ROW};
use super::record::Kind;

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
        let target = Arc::new(Target { reservation, len, table: Mutex::new(table) });
        Ok(Upload { target, started: 0, done: 0 })
    }

    /// The next chunk, as a job. Every one but the last must have exactly [`CHUNK`] bytes. Several may be in flight.
    pub fn chunk(&mut self, bytes: Vec<u8>) -> ChunkWrite {
        let left = self.target.len - self.started * CHUNK as u64;
        assert_eq!(bytes.len() as u64, left.min(CHUNK as u64), "chunks have a fixed size");
        self.started += 1;
        self.target.reservation.extents.throttle.draw(bytes.len());
        ChunkWrite { target: self.target.clone(), index: self.started - 1, bytes }
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
    pub fn finish(self) -> Uploaded {
        assert_eq!(self.done, self.target.len.div_ceil(CHUNK as u64), "every chunk was written");
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

    fn write_chunk(&self, index: u64, stored: &[u8], compressed: bool) -> Result<()> {
        let offset = self.reservation.base + index * CHUNK as u64;
        self.reservation.write(stored, offset)?;
        self.note(index, piece::row(stored, compressed, self.reservation.file.number, offset))
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
    /// Compression needs a table of 32 KiB; a lane thread keeps its own.
    static ENCODER: RefCell<(snap::raw::Encoder, Vec<u8>)> = RefCell::new((snap::raw::Encoder::new(), Vec::new()));
}

impl ChunkWrite {
    /// Compresses, checksums, writes; may sleep.
    pub fn run(self) -> ChunkWritten {
        let ChunkWrite { target, index, mut bytes } = self;
        let outcome = ENCODER.with_borrow_mut(|(encoder, space)| {
            let packed = target.reservation.compression.then(|| compress(encoder, &bytes, space)).flatten();
            target.write_chunk(index, packed.unwrap_or(&bytes), packed.is_some())
        });
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
