//! Large values as their readers see them. A value is cut into chunks of [`CHUNK`] bytes, each compressed where that
//! helps and checksummed by itself, each at a fixed place of its extent, so that chunks can be written and read in any
//! order and from the middle. A reader holds one chunk and one block of the table, however long the value is.
//!
//! Whatever may sleep is a job for the lane; event loops make the jobs and take the outcomes. `upload` brings values in,
//! `compose` makes them out of others.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::error::{Error, Result};
use super::extent::{ExtentFile, Extents};
use super::lease::Lease;
use super::piece::{self, BLOCK, BLOCK_ROWS, Chunk, Piece};
use super::{CHUNK, Scratch};
use crate::sys;

/// A value in extents: a cheap handle that can be cloned and kept. It stays readable while a clone exists.
#[derive(Clone)]
pub struct Large(Arc<Inner>);

struct Inner {
    /// Never empty.
    spans: Box<[Leased]>,
    len: u64,
}

struct Leased {
    span: Span,
    /// Where in the value it begins.
    start: u64,
    _lease: Lease,
}

/// A piece and the file it lies in.
#[derive(Clone)]
pub(crate) struct Span {
    pub piece: Piece,
    pub file: Arc<ExtentFile>,
}

/// The block of a value's table that was read last: whoever reads chunk after chunk keeps one. At most 4 KiB.
#[derive(Default)]
pub struct TableBlock {
    place: (u32, u64),
    bytes: Option<Box<[u8; BLOCK]>>,
}

/// A chunk, and where in the value it lies.
struct Found<'a> {
    span: &'a Span,
    /// Its number within the span.
    index: u64,
    /// Offset in the value of its first byte.
    start: u64,
}

impl Large {
    /// Understands the body of a commit record. Where the slot that names it has changed since, an error means nothing.
    pub(crate) fn decode(body: &[u8], extents: &Extents) -> Result<Large> {
        let malformed = || Error::damaged(extents.dir(), 0, "the table of a large value makes no sense");
        Large::of(piece::parse(body).ok_or_else(malformed)?, extents)
    }

    /// Of these pieces.
    pub(crate) fn of(pieces: Vec<Piece>, extents: &Extents) -> Result<Large> {
        let mut len = 0;
        let mut spans = Vec::new();
        for piece in pieces {
            // A file that is found with the lease taken has the range, unless that was given back before.
            let lease = extents.lease(piece.file, piece.base);
            let file = extents.file(piece.file)?;
            let start = len;
            len += piece.len;
            spans.push(Leased { span: Span { piece, file }, start, _lease: lease });
        }
        Ok(Large(Arc::new(Inner { spans: spans.into(), len })))
    }

    /// The body of another record that names this value.
    pub(crate) fn body(&self) -> Vec<u8> {
        let known: Vec<Piece> = self.spans().map(|span| span.piece.known()).collect();
        piece::encode(&known)
    }

    /// Its pieces, in their order.
    pub(crate) fn spans(&self) -> impl Iterator<Item = &Span> {
        self.0.spans.iter().map(|leased| &leased.span)
    }

    /// Bytes.
    #[allow(clippy::len_without_is_empty, reason = "a large value is never empty")]
    pub fn len(&self) -> u64 {
        self.0.len
    }

    /// Appends to `out` what the value has from `offset` to the end of the chunk it lies in, checked and decompressed,
    /// if it can be had without sleeping. `Ok(false)`: it cannot, and nothing was appended; use [`Large::fetch`].
    ///
    /// # Errors
    /// [`Error::Damaged`] if its checksum is wrong, [`Error::Other`] if the disk cannot be read. Nothing was appended.
    ///
    /// # Panics
    /// If the value ends before `offset`.
    pub fn read_nowait(
        &self,
        offset: u64,
        block: &mut TableBlock,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<bool> {
        let found = self.find(offset);
        let Some(chunk) = found.span.chunk(found.index, block, &|bytes, at| found.span.load_now(bytes, at))? else {
            return Ok(false);
        };
        let (before, skip) = (out.len(), (offset - found.start) as usize);
        let read = match chunk.compressed {
            true => found.span.unpack_now(&chunk, scratch, out),
            false => found.span.append_now(&chunk, out),
        };
        match read {
            Ok(true) if skip > 0 => drop(out.drain(before..before + skip)),
            Ok(true) => {}
            Ok(false) | Err(_) => out.truncate(before),
        }
        read
    }

    /// Whether the chunk that has `offset` may be sent from its file, behind those from `from` on of which that is known: it is not
    /// compressed, its bytes there never change, and theirs lie before it.
    pub fn may_lend(&self, from: u64, offset: u64, block: &mut TableBlock) -> bool {
        let (found, before) = (self.find(offset), self.find(from));
        let chunk = found.span.chunk(found.index, block, &|bytes, at| found.span.load_now(bytes, at));
        let as_sent = chunk.is_ok_and(|chunk| chunk.is_some_and(|chunk| !chunk.compressed));
        // For what follows in the same turn it need not be asked again.
        let may = || offset > from || found.span.file.may_lend(found.span.piece.base);
        as_sent && std::ptr::eq(found.span, before.span) && may()
    }

    /// The file that has the chunk that has `offset`, and where in it that is.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the file was never made.
    pub fn lend(&self, offset: u64) -> Result<(&File, u64)> {
        let found = self.find(offset);
        let at = found.span.piece.base + found.index * CHUNK as u64 + (offset - found.start);
        Ok((found.span.file.get()?, at))
    }

    /// The same as a job for the lane.
    pub fn fetch(&self, offset: u64) -> ChunkRead {
        ChunkRead { large: self.clone(), offset }
    }

    /// Reads the chunk that has `offset` into `out`, replacing what was there; tells where in the value it begins; may
    /// sleep.
    pub(crate) fn read_chunk(&self, offset: u64, block: &mut TableBlock, out: &mut Vec<u8>) -> Result<u64> {
        let found = self.find(offset);
        found.span.read(found.index, block, out)?;
        Ok(found.start)
    }

    /// All of it; may sleep.
    pub(crate) fn read_all(&self) -> Result<Vec<u8>> {
        let (mut value, mut chunk, mut block) =
            (Vec::with_capacity(self.len() as usize), Vec::new(), Default::default());
        while (value.len() as u64) < self.len() {
            self.read_chunk(value.len() as u64, &mut block, &mut chunk)?;
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
        for span in self.spans() {
            let mut unsound = |offset, by_a_bit| match by_a_bit {
                true => {
                    decayed += 1;
                    Ok(())
                }
                false => Err(Error::damaged(&span.file.path, offset, "a chunk's checksum is wrong")),
            };
            span.piece.survey(&mut |offset, bytes| span.load(bytes, offset).map(drop), &mut unsound)?;
        }
        Ok(decayed)
    }

    fn find(&self, offset: u64) -> Found<'_> {
        assert!(offset < self.len(), "the value ends before");
        let spans = &self.0.spans;
        let Leased { span, start, .. } = &spans[spans.partition_point(|leased| leased.start <= offset) - 1];
        let index = (offset - start) / CHUNK as u64;
        Found { span, index, start: start + index * CHUNK as u64 }
    }
}

impl Span {
    /// Reads chunk `index` into `out`, replacing what was there; may sleep.
    pub fn read(&self, index: u64, block: &mut TableBlock, out: &mut Vec<u8>) -> Result<()> {
        let Some(chunk) = self.chunk(index, block, &|bytes, offset| self.load(bytes, offset))? else {
            unreachable!("whoever sleeps gets the bytes or an error");
        };
        out.resize(chunk.stored, 0);
        self.load(out, chunk.offset)?;
        self.check(&chunk, out)?;
        if chunk.compressed {
            let stored = std::mem::take(out);
            self.unpack(&chunk, &stored, out)?;
        }
        Ok(())
    }

    /// Where chunk `index` is. `load` reads a block of the table; `None`: that would sleep.
    fn chunk(
        &self,
        index: u64,
        block: &mut TableBlock,
        load: &dyn Fn(&mut [u8], u64) -> Result<bool>,
    ) -> Result<Option<Chunk>> {
        let mut table: &[u8] = &[];
        if self.piece.has_blocks() {
            let offset = self.piece.block_offset(index / BLOCK_ROWS);
            match block.get(self, offset, load)? {
                Some(bytes) => table = bytes,
                None => return Ok(None),
            }
        }
        let nonsense = || Error::damaged(&self.file.path, self.piece.base, "a row of a table makes no sense");
        self.piece.chunk(index, table).ok_or_else(nonsense).map(Some)
    }

    /// Reads if that takes no sleep. `false`: it does.
    fn load_now(&self, bytes: &mut [u8], offset: u64) -> Result<bool> {
        let read = sys::file::read_nowait(self.file.get()?, bytes, offset);
        Ok(read.map_err(|error| self.cannot_read(bytes.len(), offset, &error))? == Some(bytes.len()))
    }

    /// Reads; may sleep. Always true.
    fn load(&self, bytes: &mut [u8], offset: u64) -> Result<bool> {
        let read = self.file.get()?.read_exact_at(bytes, offset);
        read.map(|()| true).map_err(|error| self.cannot_read(bytes.len(), offset, &error))
    }

    /// Appends a chunk that is not compressed: the kernel writes it where it is sent from.
    fn append_now(&self, chunk: &Chunk, out: &mut Vec<u8>) -> Result<bool> {
        let before = out.len();
        let read = sys::file::append_nowait(self.file.get()?, out, chunk.stored, chunk.offset);
        let count = read.map_err(|error| self.cannot_read(chunk.stored, chunk.offset, &error))?;
        if count != Some(chunk.stored) {
            return Ok(false);
        }
        self.check(chunk, &out[before..]).map(|()| true)
    }

    fn unpack_now(&self, chunk: &Chunk, scratch: &mut Scratch, out: &mut Vec<u8>) -> Result<bool> {
        scratch.read.resize(chunk.stored, 0);
        if !self.load_now(&mut scratch.read, chunk.offset)? {
            return Ok(false);
        }
        self.check(chunk, &scratch.read)?;
        self.unpack(chunk, &scratch.read, out).map(|()| true)
    }

    /// Appends what was compressed.
    fn unpack(&self, chunk: &Chunk, stored: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let before = out.len();
        out.resize(before + chunk.raw, 0);
        match snap::raw::Decoder::new().decompress(stored, &mut out[before..]) {
            Ok(count) if count == chunk.raw => Ok(()),
            _ => Err(Error::damaged(&self.file.path, chunk.offset, "a chunk does not decompress to its length")),
        }
    }

    fn check(&self, chunk: &Chunk, stored: &[u8]) -> Result<()> {
        match piece::checksum(stored, self.piece.file, chunk.offset) == chunk.crc {
            true => Ok(()),
            false => Err(Error::damaged(&self.file.path, chunk.offset, "a chunk's checksum is wrong")),
        }
    }

    fn cannot_read(&self, len: usize, offset: u64, error: &std::io::Error) -> Error {
        // A crash can leave a file shorter than what was written to it.
        if error.kind() == ErrorKind::UnexpectedEof {
            return Error::damaged(&self.file.path, offset, "the file ends before this chunk does");
        }
        Error::io(format!("read {len} bytes at offset {offset} of"), &self.file.path, error)
    }
}

impl TableBlock {
    /// Memory it holds. Bytes.
    pub fn holds(&self) -> usize {
        if self.bytes.is_some() { BLOCK } else { 0 }
    }

    /// The block at `offset` of the span's file, checked. `None`: that would sleep.
    fn get(
        &mut self,
        span: &Span,
        offset: u64,
        load: &dyn Fn(&mut [u8], u64) -> Result<bool>,
    ) -> Result<Option<&[u8]>> {
        let place = (span.piece.file, offset);
        if self.place != place || self.bytes.is_none() {
            let mut bytes = self.bytes.take().unwrap_or_else(|| Box::new([0; BLOCK]));
            if !load(&mut bytes[..], offset)? {
                return Ok(None);
            }
            if !piece::is_sound_block(&bytes, span.piece.file, offset) {
                return Err(Error::damaged(&span.file.path, offset, "the checksum of a block of a table is wrong"));
            }
            (self.place, self.bytes) = (place, Some(bytes));
        }
        Ok(self.bytes.as_deref().map(|bytes| &bytes[..]))
    }
}

/// A read of one chunk, from some place in it on.
pub struct ChunkRead {
    large: Large,
    offset: u64,
}

impl ChunkRead {
    /// The bytes; may sleep.
    ///
    /// # Errors
    /// As [`Large::read_nowait`].
    pub fn run(self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let start = self.large.read_chunk(self.offset, &mut TableBlock::default(), &mut bytes)?;
        if start < self.offset {
            bytes.drain(..(self.offset - start) as usize);
        }
        Ok(bytes)
    }
}
