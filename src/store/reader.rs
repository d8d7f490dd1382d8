//! Finds the records of a segment file, from its beginning to its end, also behind damage. Whoever reads it; may sleep.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::error::{Error, Result};
use super::location::Position;
use super::record::{ALIGNMENT, Defect, Fields, HEADER, Kind, MAX_RECORD, is_whole, le_u64, padded};
use super::segment::{SEGMENT_HEADER, Segment};

/// Bytes read at a time: nearly twice the longest record, and little enough to stay in the processor's cache.
pub(crate) const WINDOW: usize = 256 << 10;
const _: () = assert!(WINDOW > MAX_RECORD);

/// A segment seen through a window of fixed size.
pub(crate) struct Reader<'a> {
    file: &'a File,
    path: &'a Path,
    pub salt: u32,
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
        let mut least = HEADER;
        loop {
            let salt = self.salt;
            let bytes = self.at_least(offset, least)?;
            if bytes.len() < HEADER {
                return Ok(None);
            }
            match Fields::decode(bytes, salt) {
                Ok(_) => return Ok(Some(offset)),
                // The window ends in it, and not the file.
                Err(Defect::Short(len)) if bytes.len() >= least => least = len,
                Err(_) => {
                    offset += self.skip(offset)?;
                    least = HEADER;
                }
            }
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

    /// The record at `offset`, of which it is known that it is sound: its checksum is not looked at.
    pub fn record(&mut self, offset: u64) -> Result<(Fields<'_>, usize)> {
        let path = self.path;
        if !is_whole(self.at_least(offset, HEADER)?) {
            self.bytes(offset)?;
        }
        Fields::claimed(self.at_least(offset, HEADER)?)
            .ok_or_else(|| Error::damaged(path, offset, "no record is there"))
    }

    /// Finds the sound records that follow each other from `offset` on, as far as the window has them and at most `most`, and
    /// shows each to `visit`, with its offset and length. None: no sound record is there. Until the window is moved, all of
    /// them can be had by [`Reader::found`].
    pub fn sound_run(
        &mut self,
        offset: u64,
        most: usize,
        mut visit: impl FnMut(u64, usize, &Fields<'_>),
    ) -> Result<()> {
        if self.next_sound(offset)? != Some(offset) {
            return Ok(());
        }
        let mut at = (offset - self.start) as usize;
        for _ in 0..most {
            let Ok((fields, len)) = Fields::decode(&self.window[at..self.filled], self.salt) else { break };
            visit(self.start + at as u64, len, &fields);
            at += len;
            if fields.kind == Kind::Seal {
                break;
            }
        }
        Ok(())
    }

    /// A record that [`Reader::sound_run`] has just found.
    pub fn found(&self, offset: u64) -> Result<Fields<'_>> {
        let claimed = Fields::claimed(&self.window[(offset - self.start) as usize..self.filled]);
        claimed.map(|(fields, _)| fields).ok_or_else(|| Error::damaged(self.path, offset, "no record is there"))
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
        let bytes = self.at_least(offset, HEADER)?;
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        Ok((zeros / ALIGNMENT * ALIGNMENT).max(ALIGNMENT) as u64)
    }

    /// The bytes from `offset` on: at least the longest record, or what is left of the file.
    pub fn bytes(&mut self, offset: u64) -> Result<&[u8]> {
        self.at_least(offset, MAX_RECORD)
    }

    /// The bytes from `offset` on, `least` of them or what is left of the file.
    fn at_least(&mut self, offset: u64, least: usize) -> Result<&[u8]> {
        let at_end = self.filled > 0 && self.filled < WINDOW;
        let has = self.skip_to(offset).is_some_and(|skip| at_end || self.filled - skip >= least);
        if !has {
            self.fill(offset)?;
        }
        Ok(&self.window[(offset - self.start) as usize..self.filled])
    }

    /// Where in the window `offset` is, if it is there.
    fn skip_to(&self, offset: u64) -> Option<usize> {
        offset.checked_sub(self.start).filter(|&skip| skip <= self.filled as u64).map(|skip| skip as usize)
    }

    /// Moves the window to `offset`; what it has already is not read again.
    fn fill(&mut self, offset: u64) -> Result<()> {
        let skip = self.skip_to(offset).unwrap_or(self.filled);
        self.window.copy_within(skip..self.filled, 0);
        self.filled -= skip;
        self.start = offset;
        while self.filled < WINDOW {
            let at = offset + self.filled as u64;
            match self.file.read_at(&mut self.window[self.filled..], at) {
                Ok(0) => break,
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // A window that is not full would pass for the end of the file.
                    self.filled = 0;
                    return Err(Error::io(format!("read at offset {at} of"), self.path, &error));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u32 = 7;

    /// A file of records of the most different lengths, three windows long, and where they are.
    fn file() -> (File, Vec<(u64, usize)>) {
        let (mut bytes, mut places) = (vec![0; SEGMENT_HEADER as usize], Vec::new());
        while bytes.len() < 3 * WINDOW {
            let (key, body) = (vec![b'k'; places.len() * 7919 % 60_000], vec![b'b'; places.len() * 104_729 % 65_536]);
            let number = places.len() as u64 + 1;
            let fields = Fields { key: &key, body: &body, ..Fields::control(Kind::Value, b"", number) };
            places.push((bytes.len() as u64, fields.encoded_len()));
            fields.put(&fields.head(SALT), &mut bytes);
        }
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        (file, places)
    }

    #[test]
    fn records_are_found_whole_wherever_the_window_ends_and_in_any_order() {
        let (file, places) = file();
        let mut reader = Reader::over(&file, Path::new("file"), SALT);
        let sequence = |reader: &mut Reader<'_>, (at, len): (u64, usize)| {
            let (fields, found) = reader.record(at).unwrap();
            assert_eq!(found, len);
            fields.sequence
        };
        for (number, &place) in (1..).zip(&places) {
            assert_eq!(reader.next_sound(place.0).unwrap(), Some(place.0));
            assert_eq!(sequence(&mut reader, place), number);
        }
        let mut order: Vec<usize> = (0..places.len()).collect();
        order.sort_by_key(|number| number * 7 % places.len());
        for number in order.into_iter().rev() {
            assert_eq!(sequence(&mut reader, places[number]), number as u64 + 1);
        }
        let (end, len) = places[places.len() - 1];
        assert_eq!(reader.next_sound(end + len as u64).unwrap(), None);
    }

    #[test]
    fn runs_follow_each_other_without_a_gap() {
        let (file, places) = file();
        let mut reader = Reader::over(&file, Path::new("file"), SALT);
        for most in [1, 3, 1000] {
            let (mut all, mut run, mut offset) = (Vec::new(), Vec::new(), SEGMENT_HEADER);
            loop {
                reader.sound_run(offset, most, |at, len, _| run.push((at, len))).unwrap();
                let Some(&(at, len)) = run.last() else { break };
                assert!(run.len() <= most);
                all.append(&mut run);
                offset = at + len as u64;
            }
            assert_eq!(all, places);
        }
        reader.sound_run(SEGMENT_HEADER + 8, 9, |at, _, _| panic!("no record begins at {at}")).unwrap();
    }
}
