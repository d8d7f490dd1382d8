//! Records and values as programs that embed the store get them: owned, decompressed. Large values stay in their
//! extent until they are read. Any thread; reading may sleep.

use std::io;
use std::sync::Arc;

use super::error::{Error, Result};
use super::extent::Extents;
use super::large::{Large, TableBlock};
use super::lookup::{Body, Record, decompress};
use super::record::{Fields, Kind};
use super::segment::Segment;

/// A record of the store.
pub struct Item {
    /// Its key.
    pub key: Vec<u8>,
    /// The client's opaque flags.
    pub flags: u32,
    /// The CAS unique.
    pub cas: u64,
    /// Store time in seconds from which the record is gone; 0: never.
    pub expires: u64,
    /// [`STALE`](super::STALE), [`WON`](super::WON), [`BINARY_KEY`](super::BINARY_KEY).
    pub marks: u8,
    /// The value.
    pub value: Value,
}

/// A value: all of it, or where it lies.
#[derive(Clone)]
pub enum Value {
    /// At most [`super::CHUNK`] bytes.
    Bytes(Vec<u8>),
    /// More than that. It stays readable for as long as this handle exists.
    Large(Large),
}

impl Item {
    pub(crate) fn of_record(key: &[u8], record: &Record<'_>) -> Item {
        let value = match record.body {
            Body::Inline(value) => Value::Bytes(value.to_vec()),
            Body::Large(large) => Value::Large(large.clone()),
        };
        Item {
            key: key.to_vec(),
            flags: record.flags,
            cas: record.cas,
            expires: record.expires,
            marks: record.marks,
            value,
        }
    }

    /// From a sound record at `offset` of `segment`.
    pub(crate) fn decode(fields: &Fields<'_>, segment: &Segment, offset: u64, extents: &Arc<Extents>) -> Result<Item> {
        let own = |record: Record<'_>| Item::of_record(fields.key, &record);
        show(fields, segment, offset, extents, &mut Vec::new(), own)
    }
}

/// Shows the value of a sound record at `offset` of `segment` to `visit`. `raw` is memory for a decompressed one.
pub(crate) fn show<R>(
    fields: &Fields<'_>,
    segment: &Segment,
    offset: u64,
    extents: &Arc<Extents>,
    raw: &mut Vec<u8>,
    visit: impl FnOnce(Record<'_>) -> R,
) -> Result<R> {
    let Fields { client_flags: flags, cas, expires, marks, .. } = *fields;
    let large = (fields.kind == Kind::Large).then(|| Large::decode(fields.body, extents)).transpose()?;
    let damaged = || Error::damaged(&segment.path, offset, "the value does not decompress");
    let body = match (&large, fields.compressed) {
        (Some(large), _) => Body::Large(large),
        (None, false) => Body::Inline(fields.body),
        (None, true) => Body::Inline(decompress(fields.body, raw).ok_or_else(damaged)?),
    };
    Ok(visit(Record { flags, cas, expires, marks, idle: 0, body }))
}

impl Value {
    /// Bytes.
    #[allow(clippy::len_without_is_empty, reason = "an empty value is a value")]
    pub fn len(&self) -> u64 {
        match self {
            Value::Bytes(bytes) => bytes.len() as u64,
            Value::Large(large) => large.len(),
        }
    }

    /// All of it, in memory.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Other`] where a large value cannot be read.
    pub fn into_bytes(self) -> Result<Vec<u8>> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Large(large) => large.read_all(),
        }
    }

    /// To read it by parts.
    pub fn into_reader(self) -> Reader {
        Reader { value: self, position: 0, start: 0, chunk: Vec::new(), block: TableBlock::default() }
    }
}

/// Reads a value by parts, from the beginning ([`io::Read`]) or from anywhere ([`Reader::read_at`]). It holds at most
/// one chunk ([`super::CHUNK`] bytes) of a large value in memory.
pub struct Reader {
    value: Value,
    position: u64,
    /// The chunk that was read last, and where it begins.
    chunk: Vec<u8>,
    start: u64,
    block: TableBlock,
}

impl Reader {
    /// Bytes of the value.
    #[allow(clippy::len_without_is_empty, reason = "an empty value is a value")]
    pub fn len(&self) -> u64 {
        self.value.len()
    }

    /// Copies what stands at `offset` into `buffer`; tells how much that was: no more than to the end of a chunk, and
    /// 0 at the end of the value.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the bytes on the disk are not what was written, [`Error::Other`] if it cannot be read.
    pub fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        if offset >= self.len() || buffer.is_empty() {
            return Ok(0);
        }
        let rest = match &self.value {
            Value::Bytes(bytes) => &bytes[offset as usize..],
            Value::Large(large) => {
                if offset < self.start || offset - self.start >= self.chunk.len() as u64 {
                    let mut chunk = std::mem::take(&mut self.chunk);
                    self.start = large.read_chunk(offset, &mut self.block, &mut chunk)?;
                    self.chunk = chunk;
                }
                &self.chunk[(offset - self.start) as usize..]
            }
        };
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

impl io::Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.read_at(self.position, buffer).map_err(io::Error::other)?;
        self.position += count as u64;
        Ok(count)
    }
}
