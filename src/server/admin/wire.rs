//! What a command and the server say to each other over a stream: lines, and bytes whose number a line tells.
//!
//! ```text
//! command                       server
//! backup /srv/copy        -->
//!                         <--   progress 1048576 73400320
//!                         <--   ok 12 files linked
//!
//! load                    -->
//! data 65536, bytes       -->
//! data 0                  -->
//!                         <--   ok 1000 records
//!
//! dump                    -->
//!                         <--   data 65536, bytes
//!                         <--   ok 1000 records, or: error why it failed
//! ```
//!
//! Both sides block. A side that reads nonsense ends the conversation.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Longest line. Bytes. A path has at most 4096, each escaped as four at most.
const MAX_LINE: u64 = 20_000;
/// Most bytes behind a line.
pub const MAX_DATA: usize = 64 << 10;

/// What a line says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// Do this.
    Backup(PathBuf),
    Dump,
    Load,
    Compact,
    /// So many bytes follow; none: there are no more.
    Data(usize),
    /// Bytes done, and bytes there are; 0: nobody knows.
    Progress(u64, u64),
    /// It is done.
    Ok(String),
    /// It is not, and why.
    Error(String),
}

impl Said {
    /// For messages.
    pub fn name(&self) -> String {
        match self {
            Said::Backup(target) => format!("backup to {}", target.display()),
            other => other.line().split_whitespace().next().unwrap_or_default().to_owned(),
        }
    }

    fn line(&self) -> String {
        match self {
            Said::Backup(target) => format!("backup {}\n", escape(target)),
            Said::Dump => "dump\n".into(),
            Said::Load => "load\n".into(),
            Said::Compact => "compact\n".into(),
            Said::Data(len) => format!("data {len}\n"),
            Said::Progress(done, total) => format!("progress {done} {total}\n"),
            Said::Ok(text) => format!("ok {}\n", one_line(text)),
            Said::Error(text) => format!("error {}\n", one_line(text)),
        }
    }

    fn parse(line: &str) -> Option<Said> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "backup" => Some(Said::Backup(unescape(rest)?)),
            "dump" => Some(Said::Dump),
            "load" => Some(Said::Load),
            "compact" => Some(Said::Compact),
            "data" => rest.parse().ok().filter(|&len| len <= MAX_DATA).map(Said::Data),
            "progress" => {
                let (done, total) = rest.split_once(' ')?;
                Some(Said::Progress(done.parse().ok()?, total.parse().ok()?))
            }
            "ok" => Some(Said::Ok(rest.into())),
            "error" => Some(Said::Error(rest.into())),
            _ => None,
        }
    }
}

/// One side's end.
pub struct Wire {
    input: BufReader<UnixStream>,
    output: UnixStream,
}

impl Wire {
    pub fn new(stream: UnixStream) -> io::Result<Wire> {
        Ok(Wire { output: stream.try_clone()?, input: BufReader::with_capacity(MAX_DATA, stream) })
    }

    pub fn say(&mut self, said: &Said) -> io::Result<()> {
        self.output.write_all(said.line().as_bytes())
    }

    /// Sends bytes, at most [`MAX_DATA`] of them.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.say(&Said::Data(bytes.len()))?;
        self.output.write_all(bytes)
    }

    /// The next line.
    pub fn hear(&mut self) -> io::Result<Said> {
        let mut line = Vec::new();
        self.input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        let text = line.strip_suffix(b"\n").ok_or(ErrorKind::UnexpectedEof)?;
        let said = std::str::from_utf8(text).ok().and_then(Said::parse);
        said.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("not understood: {}", text.escape_ascii())))
    }

    /// The bytes behind a line.
    pub fn receive(&mut self, len: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
        bytes.resize(len, 0);
        self.input.read_exact(bytes)
    }
}

/// The bytes that the other side sends, until it says that there are no more.
pub struct Incoming<'a> {
    wire: &'a mut Wire,
    bytes: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<'a> Incoming<'a> {
    pub fn new(wire: &'a mut Wire) -> Incoming<'a> {
        Incoming { wire, bytes: Vec::new(), at: 0, ended: false }
    }
}

impl BufRead for Incoming<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.bytes.len() && !self.ended {
            let Said::Data(len) = self.wire.hear()? else { return Err(ErrorKind::InvalidData.into()) };
            self.wire.receive(len, &mut self.bytes)?;
            (self.at, self.ended) = (0, len == 0);
        }
        Ok(&self.bytes[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

impl Read for Incoming<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let found = self.fill_buf()?;
        let count = found.len().min(out.len());
        out[..count].copy_from_slice(&found[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// Bytes to the other side, gathered.
pub struct Outgoing<'a> {
    wire: &'a mut Wire,
    bytes: Vec<u8>,
}

impl<'a> Outgoing<'a> {
    pub fn new(wire: &'a mut Wire) -> Outgoing<'a> {
        Outgoing { wire, bytes: Vec::with_capacity(MAX_DATA) }
    }
}

impl Write for Outgoing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() == MAX_DATA {
            self.flush()?;
        }
        let count = bytes.len().min(MAX_DATA - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        self.wire.send(&self.bytes)?;
        self.bytes.clear();
        Ok(())
    }
}

fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

fn escape(path: &Path) -> String {
    path.as_os_str().as_bytes().escape_ascii().to_string().replace(' ', "\\x20")
}

/// Undoes what [`escape`] did.
fn unescape(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next()? {
                b't' => b'\t',
                b'r' => b'\r',
                b'n' => b'\n',
                b'x' => {
                    let digits = [rest.next()?, rest.next()?];
                    u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
                }
                plain => plain,
            },
            plain => plain,
        });
    }
    (!bytes.is_empty()).then(|| OsString::from_vec(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut here, mut there) = (Wire::new(here).unwrap(), Wire::new(there).unwrap());
        let odd = PathBuf::from(OsString::from_vec(b"/a b\\c\n\xff'\"\t%".to_vec()));
        for said in [
            Said::Backup(odd),
            Said::Dump,
            Said::Load,
            Said::Compact,
            Said::Data(0),
            Said::Progress(1, u64::MAX),
            Said::Ok("done: 1 %".into()),
            Said::Error(String::new()),
        ] {
            here.say(&said).unwrap();
            assert_eq!(there.hear().unwrap(), said);
        }
        here.say(&Said::Error("two\nlines".into())).unwrap();
        assert_eq!(there.hear().unwrap(), Said::Error("two lines".into()));
        for bad in ["\n", "data 65537\n", "backup \n", "nonsense 1\n", "\u{7f}\n", "progress 1\n"] {
            here.output.write_all(bad.as_bytes()).unwrap();
            assert!(there.hear().is_err(), "{bad:?}");
        }
        drop(here);
        assert_eq!(there.hear().unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn bytes_arrive_whole_and_an_end_that_is_missing_is_noticed() {
        let (here, there) = UnixStream::pair().unwrap();
        let bytes: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
        let sent = bytes.clone();
        let sender = std::thread::spawn(move || {
            let mut wire = Wire::new(here).unwrap();
            let mut out = Outgoing::new(&mut wire);
            out.write_all(&sent).unwrap();
            out.flush().unwrap();
            wire.say(&Said::Data(0)).unwrap();
            wire.send(b"cut").unwrap();
        });
        let mut wire = Wire::new(there).unwrap();
        let mut got = Vec::new();
        Incoming::new(&mut wire).read_to_end(&mut got).unwrap();
        assert!(got == bytes);
        assert_eq!(Incoming::new(&mut wire).read_to_end(&mut got).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        sender.join().unwrap();
    }
}
