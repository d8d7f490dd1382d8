//! The segment that a round of compaction writes.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::core::Core;
use super::error::{Error, Result};
use super::index::size_class;
use super::location::MAX_SEGMENT;
use super::log::seal_record;
use super::lookup::read_fully;
use super::record::{Fields, HEADER, Kind};
use super::segment::{Plan, SEGMENT_HEADER, Segment};
use crate::sys;

/// Bytes written at a time.
const PIECE: usize = 1 << 20;

/// A segment in the making, under its provisional name.
pub(crate) struct Output {
    segment: Segment,
    buffer: Vec<u8>,
    /// Where the buffer goes.
    offset: u64,
    /// Of what was written from the first record on.
    crc: u32,
}

impl Output {
    /// Makes the file, with room for `estimate` bytes of records reserved.
    pub fn begin(core: &Core, order: u64, estimate: u64) -> Result<Output> {
        let (handle, number) = core.log.segments.reserve()?;
        let size = (SEGMENT_HEADER + estimate + HEADER as u64).min(MAX_SEGMENT);
        let (dir, store) = (&core.options.path, core.home.store);
        let segment = Plan { dir, store, number, handle, order, size, compacted: true }.create()?;
        Ok(Output { segment, buffer: Vec::with_capacity(PIECE), offset: SEGMENT_HEADER, crc: 0 })
    }

    /// Adds a record. `false`: there is no room.
    pub fn put(&mut self, core: &Core, fields: &Fields<'_>) -> Result<bool> {
        let len = fields.encoded_len();
        if self.offset + (self.buffer.len() + len + HEADER) as u64 > MAX_SEGMENT {
            return Ok(false);
        }
        fields.put(&fields.head(self.segment.salt), &mut self.buffer);
        let usage = core.log.segments.usage(self.segment.handle);
        match fields.kind {
            Kind::Tombstone => usage.note_grave(len),
            _ => usage.note_value(size_class(len), fields.expires),
        }
        if self.buffer.len() < PIECE {
            return Ok(true);
        }
        let piece = (self.offset, self.buffer.len() as u64);
        self.flush()?;
        sys::file::start_write_back(&self.segment.file, piece.0, piece.1);
        Ok(true)
    }

    fn flush(&mut self) -> Result<()> {
        let attempt = || format!("write {} bytes at offset {} of", self.buffer.len(), self.offset);
        let written = self.segment.file.write_all_at(&self.buffer, self.offset);
        written.map_err(|error| Error::io(attempt(), &self.segment.path, &error))?;
        self.offset += self.buffer.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, &self.buffer);
        self.buffer.clear();
        Ok(())
    }

    /// Ends the segment, checks that it holds what was put in, and makes it durable.
    pub fn finish(mut self) -> Result<Output> {
        match self.try_finish() {
            Ok(()) => Ok(self),
            Err(error) => {
                self.abandon();
                Err(error)
            }
        }
    }

    fn try_finish(&mut self) -> Result<()> {
        self.buffer.extend_from_slice(&seal_record(&self.segment));
        self.flush()?;
        let end = self.segment.file.set_len(self.offset);
        end.map_err(|error| Error::io("cut to its records", &self.segment.path, &error))?;
        self.check()?;
        self.segment.file.sync_all().map_err(|error| Error::io("sync", &self.segment.path, &error))
    }

    fn check(&mut self) -> Result<()> {
        let (mut offset, mut crc) = (SEGMENT_HEADER, 0);
        self.buffer.resize(PIECE, 0);
        while offset < self.offset {
            let piece = &mut self.buffer[..PIECE.min((self.offset - offset) as usize)];
            let count = read_fully(&self.segment, piece, offset)?;
            crc = crc32c::crc32c_append(crc, &piece[..count]);
            offset += count.max(1) as u64;
        }
        match crc == self.crc {
            true => Ok(()),
            false => Err(Error::damaged(&self.segment.path, 0, "what was written just now is not what is there")),
        }
    }

    /// Gives the segment its name, for good, and puts it into the table.
    pub fn commit(self, core: &Core) -> Result<Arc<Segment>> {
        let renamed = std::fs::rename(self.segment.provisional(), &self.segment.path);
        if let Err(error) = renamed {
            let failed = Error::io("rename to", &self.segment.path, &error);
            self.abandon();
            return Err(failed);
        }
        let segment = Arc::new(self.segment);
        core.log.segments.add(&segment);
        let dir = &core.options.path;
        sys::file::sync_directory(dir).map_err(|error| {
            // It is there, and may come back after a crash: it counts, though nothing names it.
            core.log.segments.usage(segment.handle).set_live(0);
            Error::io("sync directory", dir, &error)
        })?;
        Ok(segment)
    }

    /// Removes the file.
    pub fn abandon(self) {
        let _ = std::fs::remove_file(self.segment.provisional());
    }
}
