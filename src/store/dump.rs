//! A store as portable text, and back: [`dump`] and [`load`]. `kingdb.5` has the format, under *DUMP*. Both stream: of
//! a large value they hold one chunk in memory. They sleep, on the disk and on the other side's pipe.

use std::io::{BufRead, Write};

use super::db::Db;
use super::error::{Error, Result};
use super::item::{Item, Reader, Value};
use super::snapshot::{Snapshot, View};
use super::{CHUNK, MAX_KEY};

const FIRST_LINE: &[u8] = b"kingdb-dump 1\n";
/// Longest line there can be, its end included: a key of which every byte is escaped, and numbers. Bytes.
const MAX_LINE: u64 = 3 * MAX_KEY as u64 + 100;

/// How far a dump or a load has come.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    /// Records.
    pub records: u64,
    /// Bytes of the text.
    pub bytes: u64,
}

/// Writes all records of `snapshot` to `out`. `tell` is called after each.
///
/// ```
/// # fn main() -> Result<(), kingdb::Error> {
/// # let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
/// # let db = kingdb::Db::open(kingdb::Options::new(dir.path()))?;
/// # let copy = kingdb::Db::open(kingdb::Options::new(other.path()))?;
/// db.put(b"greeting", b"hello")?;
/// let mut text = Vec::new();
/// kingdb::dump(&db.snapshot()?, &mut text, &mut |_| ())?;
/// kingdb::load(&copy, &mut &text[..], &mut |_| ())?;
/// assert_eq!(copy.get(b"greeting")?.unwrap(), b"hello");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// What reading the snapshot meets, and [`Error::Other`] if `out` refuses. After [`Error::Damaged`] all that could be
/// read was written, but not the last line: loading it ends in an error then, with all of it loaded.
pub fn dump(snapshot: &Snapshot, out: &mut dyn Write, tell: &mut dyn FnMut(Tally)) -> Result<Tally> {
    let mut sink = Sink { out, crc: 0, tally: Tally::default() };
    let done = sink.all(snapshot, tell);
    // Whatever ended it, what was read leaves.
    let flushed = sink.out.flush().map_err(|error| cannot_write(&error));
    done.and(flushed).map(|()| sink.tally)
}

/// Writes all records in the text `input` to `db`, over what it has under the same keys; those that have expired are
/// passed over. `tell` is called after each. When it returns, be it with an error, everything that was loaded is on the
/// disk.
///
/// # Errors
/// [`Error::Invalid`] names the line and the offset where the text is not as it should be; the records before it are
/// loaded. That includes a text that is cut short, or, by its checksum at the end, one that was changed. What writing
/// meets, and [`Error::Other`] if `input` cannot be read.
pub fn load(db: &Db, input: &mut dyn BufRead, tell: &mut dyn FnMut(Tally)) -> Result<Tally> {
    let mut source = Source { input, crc: 0, before_line: 0, line: 0, lines: 0, tally: Tally::default() };
    let done = source.all(db, tell);
    // Whatever ended it, what was loaded stays.
    done.and(db.flush()).map(|()| source.tally)
}

struct Sink<'a> {
    out: &'a mut dyn Write,
    crc: u32,
    tally: Tally,
}

impl Sink<'_> {
    fn all(&mut self, snapshot: &Snapshot, tell: &mut dyn FnMut(Tally)) -> Result<()> {
        self.put(FIRST_LINE)?;
        let mut damaged = None;
        for item in snapshot.iter()? {
            match item.and_then(whole) {
                Ok(item) => self.item(item)?,
                Err(Error::Damaged(why)) => {
                    damaged.get_or_insert(why);
                    continue;
                }
                Err(other) => return Err(other),
            }
            self.tally.records += 1;
            tell(self.tally);
        }
        if let Some(why) = damaged {
            return Err(Error::Damaged(why));
        }
        let last = format!("end {} {:08x}\n", self.tally.records, self.crc);
        self.put(last.as_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|error| cannot_write(&error))?;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.tally.bytes += bytes.len() as u64;
        Ok(())
    }

    fn item(&mut self, item: Item) -> Result<()> {
        let mut line = b"set ".to_vec();
        escape(&item.key, &mut line);
        line.extend_from_slice(format!(" {} {} {}\n", item.flags, item.expires, item.value.len()).as_bytes());
        self.put(&line)?;
        each_part(item.value.into_reader(), &mut |part| self.put(part))?;
        self.put(b"\n")
    }
}

/// Reads a large value for nothing: behind its line all of it must come.
fn whole(item: Item) -> Result<Item> {
    if let Value::Large(_) = item.value {
        each_part(item.value.clone().into_reader(), &mut |_| Ok(()))?;
    }
    Ok(item)
}

fn each_part(mut reader: Reader, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let (mut offset, mut part) = (0, vec![0; reader.len().min(CHUNK as u64) as usize]);
    loop {
        let count = reader.read_at(offset, &mut part)?;
        if count == 0 {
            return Ok(());
        }
        take(&part[..count])?;
        offset += count as u64;
    }
}

/// Bytes that are no printing ASCII, and the percent sign, as % and two digits.
fn escape(key: &[u8], line: &mut Vec<u8>) {
    for &byte in key {
        match byte {
            b'%' | 0..=0x20 | 0x7f.. => line.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            _ => line.push(byte),
        }
    }
}

fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, after) = match byte {
            b'%' => (u8::from_str_radix(std::str::from_utf8(after.get(..2)?).ok()?, 16).ok()?, &after[2..]),
            0x21..=0x7e => (byte, after),
            _ => return None,
        };
        key.push(byte);
        rest = after;
    }
    (key.len() <= MAX_KEY).then_some(key)
}

/// What a line announces.
enum Entry {
    Record(Head),
    End,
}

struct Head {
    key: Vec<u8>,
    flags: u32,
    expires: u64,
    len: u64,
}

struct Source<'a> {
    input: &'a mut dyn BufRead,
    crc: u32,
    /// Offset of the line that was read last.
    before_line: u64,
    /// Its number, from 1 on.
    line: u64,
    /// Line ends that were read.
    lines: u64,
    tally: Tally,
}

impl Source<'_> {
    fn all(&mut self, db: &Db, tell: &mut dyn FnMut(Tally)) -> Result<()> {
        self.first_line()?;
        while let Entry::Record(head) = self.entry()? {
            self.record(db, &head)?;
            self.tally.records += 1;
            tell(self.tally);
        }
        Ok(())
    }

    fn first_line(&mut self) -> Result<()> {
        match &self.line()?[..] {
            FIRST_LINE => Ok(()),
            line if line.starts_with(b"kingdb-dump ") => {
                Err(self.bad("its version is unknown: use the kingserver that made it, or a newer one"))
            }
            _ => Err(self.bad("it is no dump: the first line must be \"kingdb-dump 1\"")),
        }
    }

    fn entry(&mut self) -> Result<Entry> {
        let crc = self.crc;
        let line = self.line()?;
        if line.is_empty() {
            return Err(self.bad("it was cut: the last line, \"end\", is missing"));
        }
        let text = line.strip_suffix(b"\n").ok_or_else(|| self.bad("the line is cut or too long"))?;
        let fields: Vec<_> = text.split(|&byte| byte == b' ').collect();
        match fields[..] {
            [b"set", key, flags, expires, len] => self.head(key, [flags, expires, len]).map(Entry::Record),
            [b"end", count, sum] => self.check_end(crc, count, sum).map(|()| Entry::End),
            _ => Err(self.bad("the line is neither \"set KEY FLAGS EXPIRES LENGTH\" nor \"end COUNT CHECKSUM\"")),
        }
    }

    fn head(&self, key: &[u8], numbers: [&[u8]; 3]) -> Result<Head> {
        let key = unescape(key).ok_or_else(|| self.bad("the key is longer than 65,535 bytes or badly escaped"))?;
        let [flags, expires, len] = numbers.map(number);
        let flags = flags.and_then(|flags| u32::try_from(flags).ok()).ok_or_else(|| self.bad("FLAGS is no number"))?;
        let expires = expires.ok_or_else(|| self.bad("EXPIRES is no number"))?;
        let len = len.ok_or_else(|| self.bad("LENGTH is no number"))?;
        Ok(Head { key, flags, expires, len })
    }

    fn check_end(&mut self, crc: u32, count: &[u8], sum: &[u8]) -> Result<()> {
        if number(count) != Some(self.tally.records) {
            return Err(
                self.bad(&format!("there are {} records before it, not as many as it says", self.tally.records))
            );
        }
        if sum != format!("{crc:08x}").as_bytes() {
            return Err(self.bad("the checksum is wrong: what was loaded is not what was dumped"));
        }
        match self.line()?.is_empty() {
            true => Ok(()),
            false => Err(self.bad("something follows the last line")),
        }
    }

    fn record(&mut self, db: &Db, head: &Head) -> Result<()> {
        let in_record = |error| match error {
            Error::Invalid(why) => self.bad(&why),
            other => other,
        };
        let mut writer = db.writer(&head.key, head.len).map_err(in_record)?.flags(head.flags).expires(head.expires);
        let mut left = head.len;
        while left > 0 {
            let part = self.input.fill_buf().map_err(|error| cannot_read(&error))?;
            let part = &part[..part.len().min(CHUNK).min(left.try_into().unwrap_or(CHUNK))];
            if part.is_empty() {
                return Err(self.bad("it was cut inside this record"));
            }
            writer.write_part(part)?;
            let count = part.len();
            left -= count as u64;
            self.crc = crc32c::crc32c_append(self.crc, part);
            self.lines += part.iter().filter(|&&byte| byte == b'\n').count() as u64;
            self.tally.bytes += count as u64;
            self.input.consume(count);
        }
        if self.rest_of_line(1)? != b"\n" {
            return Err(self.bad("the value is not followed by a line end: LENGTH is wrong"));
        }
        match head.expires != 0 && head.expires <= db.now() {
            true => Ok(()),
            false => writer.commit().map(drop),
        }
    }

    /// The next line, its end included, if it has one. Empty: there is no more.
    fn line(&mut self) -> Result<Vec<u8>> {
        (self.before_line, self.line) = (self.tally.bytes, self.lines + 1);
        self.rest_of_line(MAX_LINE)
    }

    fn rest_of_line(&mut self, most: u64) -> Result<Vec<u8>> {
        let mut line = Vec::new();
        std::io::Read::take(&mut *self.input, most)
            .read_until(b'\n', &mut line)
            .map_err(|error| cannot_read(&error))?;
        self.crc = crc32c::crc32c_append(self.crc, &line);
        self.lines += u64::from(line.ends_with(b"\n"));
        self.tally.bytes += line.len() as u64;
        Ok(line)
    }

    fn bad(&self, what: &str) -> Error {
        Error::Invalid(format!("the dump is bad at line {} (offset {}): {what}", self.line, self.before_line).into())
    }
}

fn number(text: &[u8]) -> Option<u64> {
    let is_plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_plain)?.parse().ok()
}

fn cannot_write(error: &std::io::Error) -> Error {
    Error::other(format!("cannot write the dump: {error}"))
}

fn cannot_read(error: &std::io::Error) -> Error {
    Error::other(format!("cannot read the dump: {error}"))
}

#[cfg(test)]
#[path = "dump_tests.rs"]
mod tests;
