//! Writing a value by parts: one chunk of a large value is held in memory, not all of it. A writer that is dropped
//! before its end leaves nothing. One thread; may sleep.

use super::db::Db;
use super::error::{Error, Result};
use super::location::Position;
use super::upload::Upload;
use super::write::{Expect, NewBody, Write};
use super::{CHUNK, MAX_KEY};

/// A value on its way in: see [`Db::writer`].
pub struct Writer<'a> {
    db: &'a Db,
    key: Vec<u8>,
    len: u64,
    flags: u32,
    expires: u64,
    /// Bytes that came.
    written: u64,
    state: State,
}

enum State {
    /// All of it so far.
    Inline(Vec<u8>),
    /// Whole chunks are in the extent; the rest is gathered.
    Large(Upload, Vec<u8>),
    /// A chunk could not be written.
    Failed(Error),
}

impl Db {
    /// Begins to give `key` a value of exactly `len` bytes, which come by parts. Nothing changes before
    /// [`Writer::finish`].
    ///
    /// ```
    /// # fn main() -> Result<(), kingdb::Error> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let db = kingdb::Db::open(kingdb::Options::new(dir.path()))?;
    /// let mut writer = db.writer(b"film", 3 << 20)?;
    /// for _ in 0..3 {
    ///     writer.write_part(&[7; 1 << 20])?;
    /// }
    /// writer.finish()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`]: the key is longer than 65,535 bytes. [`Error::Full`]: there is no room for so much.
    pub fn writer(&self, key: &[u8], len: u64) -> Result<Writer<'_>> {
        if key.len() > MAX_KEY {
            return Err(Error::Invalid(format!("a key has at most {MAX_KEY} bytes, not {}", key.len()).into()));
        }
        let state = match len <= CHUNK as u64 {
            true => State::Inline(Vec::with_capacity(len as usize)),
            false => {
                self.wait_for_room();
                State::Large(self.upload(len)?, Vec::with_capacity(CHUNK))
            }
        };
        Ok(Writer { db: self, key: key.to_vec(), len, flags: 0, expires: 0, written: 0, state })
    }
}

impl Writer<'_> {
    /// Sets the client's opaque flags; 0 otherwise.
    pub fn flags(mut self, flags: u32) -> Self {
        self.flags = flags;
        self
    }

    /// Sets the store time in seconds ([`Db::now`]) from which the value is gone; 0, never, otherwise.
    pub fn expires(mut self, expires: u64) -> Self {
        self.expires = expires;
        self
    }

    /// The next bytes of the value, as many as there are.
    ///
    /// # Errors
    /// [`Error::Invalid`]: these are more than were announced. [`Error::Full`], [`Error::Other`]: they cannot be
    /// written; the writer is then of no more use.
    pub fn write_part(&mut self, part: &[u8]) -> Result<()> {
        if part.len() as u64 > self.len - self.written {
            let (len, most) = (self.len, self.len - self.written);
            let text = format!("{} bytes are too many: of the {len} announced, {most} are missing", part.len());
            return Err(Error::Invalid(text.into()));
        }
        let taken = match &mut self.state {
            State::Inline(bytes) => {
                bytes.extend_from_slice(part);
                Ok(())
            }
            State::Large(upload, gathered) => {
                self.db.wait_for_room();
                take(upload, gathered, part)
            }
            State::Failed(error) => Err(error.clone()),
        };
        taken.inspect_err(|error| self.state = State::Failed(error.clone()))?;
        self.written += part.len() as u64;
        Ok(())
    }

    /// Makes the bytes the value of the key. When it returns, that is acknowledged by the store's policy.
    ///
    /// # Errors
    /// [`Error::Invalid`]: bytes are missing. [`Error::Full`], [`Error::ReadOnly`], [`Error::Other`]: it cannot be
    /// written.
    pub fn finish(self) -> Result<()> {
        let db = self.db;
        let depends = self.commit()?;
        db.core.wait_for(depends)
    }

    /// As [`Writer::finish`], but does not wait for the acknowledgement; tells for what to wait.
    pub(super) fn commit(self) -> Result<Position> {
        let missing = self.len - self.written;
        if missing > 0 {
            return Err(Error::Invalid(format!("{missing} bytes of the value are missing").into()));
        }
        let key = self.db.key(&self.key);
        let write = |body| {
            self.db.write_blocking(&Write {
                key,
                flags: self.flags,
                expires: self.expires,
                marks: 0,
                cas: None,
                body,
                expect: Expect::Anything,
            })
        };
        match self.state {
            State::Inline(bytes) => write(NewBody::Inline(&bytes)),
            State::Failed(error) => Err(error),
            State::Large(mut upload, rest) => {
                if !rest.is_empty() {
                    let last = upload.chunk(rest).run();
                    upload.done(last)?;
                }
                write(NewBody::Uploaded(&upload.finish()))
            }
        }
    }
}

/// Gathers bytes, and writes each chunk that is whole.
fn take(upload: &mut Upload, gathered: &mut Vec<u8>, mut part: &[u8]) -> Result<()> {
    while !part.is_empty() {
        let (fits, rest) = part.split_at(part.len().min(CHUNK - gathered.len()));
        gathered.extend_from_slice(fits);
        part = rest;
        if gathered.len() == CHUNK {
            let written = upload.chunk(std::mem::take(gathered)).run();
            *gathered = upload.done(written)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Options, View};
    use std::io::Read;

    #[test]
    fn what_is_written_by_parts_is_read_by_parts() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(Options::new(dir.path())).unwrap();
        for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK + 17] {
            let value: Vec<u8> = (0..len).map(|at| (at / 5) as u8 ^ (at >> 9) as u8).collect();
            for part in [1000, CHUNK, 3 * CHUNK + 5] {
                let mut writer = db.writer(b"key", len as u64).unwrap().flags(9).expires(db.now() + 100);
                value.chunks(part).for_each(|part| writer.write_part(part).unwrap());
                assert!(writer.write_part(b"more").is_err());
                writer.finish().unwrap();
                let mut reader = db.reader(b"key").unwrap().unwrap();
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).unwrap();
                assert!(bytes == value && reader.len() == len as u64, "{len} bytes by {part}");
                let mut some = [0; 3];
                let count = reader.read_at(len as u64 / 2, &mut some).unwrap();
                assert_eq!(some[..count], value[len / 2..len / 2 + count]);
                assert_eq!((count > 0, reader.read_at(len as u64, &mut some).unwrap()), (len > 0, 0));
                assert_eq!(db.find(b"key").unwrap().unwrap().flags, 9);
            }
        }
    }

    #[test]
    fn a_writer_that_is_dropped_or_lacks_bytes_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(Options::new(dir.path())).unwrap();
        db.put(b"key", b"old").unwrap();
        for len in [10, 4 * CHUNK as u64] {
            let mut writer = db.writer(b"key", len).unwrap();
            writer.write_part(&vec![1; len as usize - 1]).unwrap();
            drop(writer);
            let mut writer = db.writer(b"key", len).unwrap();
            writer.write_part(&vec![1; len as usize - 1]).unwrap();
            assert!(writer.finish().unwrap_err().to_string().contains("1 bytes of the value are missing"));
            assert_eq!(db.get(b"key").unwrap().unwrap(), b"old");
        }
        assert!(db.writer(b"key", u64::MAX).is_err() && db.writer(&[0; MAX_KEY + 1], 1).is_err());
        db.close().unwrap();
        // The lane has ended, and with it the giving back of what was reserved.
        let extents = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let kept: u64 = extents.filter(|path| path.extension().is_some_and(|end| end == "ext")).map(blocks).sum();
        assert!(kept <= 16, "{kept} blocks of 512 bytes");
    }

    fn blocks(path: std::path::PathBuf) -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(path).unwrap().blocks()
    }
}
