//! The two servers, and what is said to both.

use crate::common::{Peer, Server};
use std::collections::BTreeMap;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than any reply takes. Only a server that owes one reaches it.
const DEADLINE: Duration = Duration::from_secs(2);

/// memcached and us, with the same limits.
pub struct Pair {
    theirs: Peer,
    ours: Server,
}

impl Pair {
    pub fn start() -> Pair {
        Pair {
            theirs: Peer::start(&["-I", "1m", "-m", "256", "-t", "1", "-o", "no_lru_maintainer,no_lru_crawler"]),
            ours: Server::start(&["-I", "1m", "-t", "1"]),
        }
    }

    /// New connections to both, after everything was flushed.
    pub fn connect(&self) -> (Side, Side) {
        self.theirs.client().ask("flush_all");
        self.ours.client().ask("flush_all");
        (Side::new(self.theirs.address()), Side::new(self.ours.address()))
    }
}

/// A connection to one of the two, with what the comparison has to know of it.
pub struct Side {
    input: BufReader<TcpStream>,
    output: TcpStream,
    uniques: BTreeMap<u64, usize>,
}

impl Side {
    fn new(address: SocketAddr) -> Side {
        let output = TcpStream::connect(address).expect("connect");
        output.set_nodelay(true).expect("set an option");
        output.set_read_timeout(Some(DEADLINE)).expect("set a timeout");
        Side { input: BufReader::new(output.try_clone().expect("clone the socket")), output, uniques: BTreeMap::new() }
    }

    /// A server that has closed takes nothing, and reading tells that.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.output.write_all(bytes);
    }

    pub fn finish(&mut self) {
        let _ = self.output.shutdown(Shutdown::Write);
    }

    /// The nth unique that this side showed, whatever its number is.
    pub fn unique(&mut self, unique: u64) -> usize {
        let next = self.uniques.len();
        *self.uniques.entry(unique).or_insert(next)
    }

    /// A line with its newline; what there is, if the connection ends.
    pub fn line(&mut self) -> Result<Vec<u8>, String> {
        let mut line = Vec::new();
        let mut byte = [0];
        while line.last() != Some(&b'\n') && self.read(&mut byte)? == 1 {
            line.push(byte[0]);
        }
        Ok(line)
    }

    /// So many bytes, or fewer if the connection ends.
    pub fn bytes(&mut self, count: usize) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; count];
        let mut done = 0;
        while done < count {
            match self.read(&mut bytes[done..])? {
                0 => break,
                more => done += more,
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    fn read(&mut self, into: &mut [u8]) -> Result<usize, String> {
        match self.input.read(into) {
            Ok(count) => Ok(count),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(0),
            Err(error) => Err(format!("no reply: {error}")),
        }
    }
}
