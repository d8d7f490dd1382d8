//! Finds the records of a segment file, from its beginning to its end, also behind damage. Whoever reads it; may sleep.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::error::{Error, Result};
use super::location::Position;
use super::record::{ALIGNMENT, Fields, HEADER, Kind, MAX_RECORD, le_u64, padded};
use super::segment::{SEGMENT_HEADER, Segment};

/// Bytes read at a time.
const WINDOW: usize = 1 << 20;

/// A segment seen through a window of fixed size.
pub(crate) struct Reader<'a> {
    file: &'a File,
    path: &'a Path,
    salt: u32,
    window: Vec<u8>,
    /// Bytes of the window that hold what the file has from `start` on.
    filled: usize,
    start: u64,
}

impl<'a> Reader<'a> {
    pub fn new(segment: &'a Segment) -> Reader<'a> {
        Reader::over(&segment.file, &segment.path, segment.salt)
    }

    /// The records of a file whose header was read already.
    pub fn over(file: &'a File, path: &'a Path, salt: u32) -> Reader<'a> {
        Reader { file, path, salt, window: vec![0; WINDOW], filled: 0, start: 0 }
    }

    /// Offset of the first sound record at or after `offset`.
    pub fn next_sound(&mut self, mut offset: u64) -> Result<Option<u64>> {
        loop {
            let salt = self.salt;
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

    /// How far the checkpoint records here say that the log was durable; zero: there is none.
    pub fn durable_mark(&mut self) -> Result<Position> {
        let (mut offset, mut mark) = (SEGMENT_HEADER, Position(0));
        while let Some(found) = self.next_sound(offset)? {
            let (fields, len) = self.record(found)?;
            if fields.kind == Kind::Checkpoint && fields.body.len() >= 16 {
                mark = mark.max(Position(le_u64(fields.body, 0)));
            }
            offset = found + len as u64;
        }
        Ok(mark)
    }

    /// The record at `offset`, where [`Reader::next_sound`] found one.
    pub fn record(&mut self, offset: u64) -> Result<(Fields<'_>, usize)> {
        let path = self.path;
        // Its checksum was looked at a moment ago.
        Fields::claimed(self.bytes(offset)?).ok_or_else(|| Error::damaged(path, offset, "no record is there"))
    }

    /// Whether nothing was ever written at or after `offset`.
    pub fn is_blank(&mut self, mut offset: u64) -> Result<bool> {
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

    /// End of what was written at or after `offset`: only zeros follow. A multiple of the alignment.
    pub fn content_end(&mut self, mut offset: u64) -> Result<u64> {
        let mut end = offset;
        loop {
            let bytes = self.bytes(offset)?;
            if bytes.is_empty() {
                return Ok(end);
            }
            if let Some(last) = bytes.iter().rposition(|&byte| byte != 0) {
                end = offset + padded(last + 1) as u64;
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
    pub fn bytes(&mut self, offset: u64) -> Result<&[u8]> {
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
                Err(error) => return Err(Error::io(format!("read at offset {offset} of"), self.path, &error)),
            }
        }
        Ok(())
    }
}
