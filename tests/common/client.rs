//! A small text-protocol client over std's sockets. The plain methods panic with what came instead; the `try_` ones hand
//! errors to tests that kill servers.

use super::util::{DEADLINE, wait_until};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A connection.
pub struct Client {
    input: BufReader<Socket>,
    output: Socket,
    born: Instant,
}

/// One descriptor for both directions: some tests hold thousands.
#[derive(Clone)]
enum Socket {
    Tcp(Arc<TcpStream>),
    Unix(Arc<UnixStream>),
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.as_ref().read(into),
            Socket::Unix(stream) => stream.as_ref().read(into),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.as_ref().write(bytes),
            Socket::Unix(stream) => stream.as_ref().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A value as `gets` tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    pub flags: u32,
    pub cas: u64,
    pub value: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        Client::try_connect(address).expect("connect to the server")
    }

    pub fn try_connect(address: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Client::new(Socket::Tcp(Arc::new(stream))))
    }

    pub fn connect_unix(path: &Path) -> Client {
        let stream = UnixStream::connect(path).expect("connect to the Unix socket");
        stream.set_read_timeout(Some(DEADLINE)).expect("set a timeout");
        Client::new(Socket::Unix(Arc::new(stream)))
    }

    fn new(socket: Socket) -> Client {
        Client { input: BufReader::with_capacity(1 << 10, socket.clone()), output: socket, born: Instant::now() }
    }

    /// Time since it connected.
    pub fn age(&self) -> Duration {
        self.born.elapsed()
    }

    /// The socket itself.
    pub fn tcp(&self) -> &TcpStream {
        match &self.output {
            Socket::Tcp(stream) => stream,
            Socket::Unix(_) => panic!("no TCP connection"),
        }
    }

    /// Sends FIN; replies can still come.
    pub fn half_close(&self) {
        self.tcp().shutdown(Shutdown::Write).expect("shut down the writing half");
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("send to the server");
    }

    /// Waits until all that was sent lies at the server's end of the connection, whether or not it is read there.
    pub fn arrived(&self) {
        let port = format!(":{:04X}", self.tcp().local_addr().expect("an address").port());
        wait_until("what was sent has arrived", || {
            let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
            let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let row = rows.find(|row| row.get(1).is_some_and(|local| local.ends_with(&port)));
            // Bytes that the peer has not acknowledged, and bytes that were not read here.
            row.is_some_and(|row| row[4].starts_with("00000000:"))
        });
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.output.write_all(bytes.as_ref())
    }

    /// One line without its `\r\n`.
    pub fn line(&mut self) -> String {
        self.try_line().unwrap_or_else(|error| panic!("waiting for a line: {error}"))
    }

    pub fn try_line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.input.read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\r\n") {
            Some(text) => Ok(String::from_utf8_lossy(text).into_owned()),
            None if line.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            None => Err(io::Error::other(format!("line without \\r\\n: {}", line.escape_ascii()))),
        }
    }

    /// Whether a line comes within this time; it is taken.
    pub fn answers_within(&mut self, time: Duration) -> bool {
        self.tcp().set_read_timeout(Some(time)).expect("set a timeout");
        let answered = self.try_line().is_ok();
        self.tcp().set_read_timeout(Some(DEADLINE)).expect("set a timeout");
        answered
    }

    /// Exactly `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        self.try_bytes(len).unwrap_or_else(|error| panic!("waiting for {len} bytes: {error}"))
    }

    pub fn try_bytes(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// What comes until the server closes; it must close. A reset counts: bytes of ours may have been unread.
    pub fn until_closed(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.input.read_to_end(&mut bytes) {
            Ok(_) => bytes,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => bytes,
            Err(error) => panic!("the server did not close ({error}); so far: {}", bytes.escape_ascii()),
        }
    }

    /// Everything before `end`, which is taken too.
    pub fn until(&mut self, end: &[u8]) -> Vec<u8> {
        let mut got = Vec::new();
        while !got.ends_with(end) {
            let count = self.input.read_until(b'\n', &mut got).expect("read from the server");
            assert!(count > 0, "closed after {}", got.escape_ascii());
        }
        got.truncate(got.len() - end.len());
        got
    }

    /// Sends `line` (`\r\n` is added) and gives the first line of the reply.
    pub fn ask(&mut self, line: &str) -> String {
        self.try_ask(line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// Sends bytes; the line that answers them.
    pub fn talk_line(&mut self, bytes: &[u8]) -> String {
        self.send(bytes);
        self.line()
    }

    pub fn try_ask(&mut self, line: &str) -> io::Result<String> {
        self.try_send(format!("{line}\r\n"))?;
        self.try_line()
    }

    /// Sends `bytes` and `version`; gives everything that came before the version, so that nothing can hide behind a reply.
    pub fn talk(&mut self, bytes: impl AsRef<[u8]>) -> Vec<u8> {
        self.send(bytes);
        self.send("version\r\n");
        self.until_version()
    }

    /// Everything up to the reply to a `version` that was sent already.
    pub fn until_version(&mut self) -> Vec<u8> {
        let mut got = Vec::new();
        loop {
            let start = got.len();
            match self.input.read_until(b'\n', &mut got) {
                Ok(count) if count > 0 => {}
                end => panic!("{end:?} instead of VERSION, after: {}", got.escape_ascii()),
            }
            if got[start..].starts_with(b"VERSION ") {
                got.truncate(start);
                return got;
            }
        }
    }

    /// `set` with flags 0 and no expiry; the server must store it.
    pub fn set(&mut self, key: &str, value: impl AsRef<[u8]>) {
        let reply = self.store("set", key, 0, 0, value);
        assert_eq!(reply, "STORED", "set {key}");
    }

    /// Any of the storage commands; gives the reply. (`verb` may be `"set"`, …; for `cas` see [`Client::cas`].)
    pub fn store(&mut self, verb: &str, key: &str, flags: u32, expiry: i64, value: impl AsRef<[u8]>) -> String {
        let value = value.as_ref();
        self.send(storage(&format!("{verb} {key} {flags} {expiry} {}", value.len()), value));
        self.line()
    }

    pub fn cas(&mut self, key: &str, value: impl AsRef<[u8]>, unique: u64) -> String {
        let value = value.as_ref();
        self.send(storage(&format!("cas {key} 0 0 {} {unique}", value.len()), value));
        self.line()
    }

    /// The value, if there is one.
    pub fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        self.send(format!("get {key}\r\n"));
        self.items().pop().map(|(name, item)| {
            assert_eq!(name, key, "the key that came back");
            item.value
        })
    }

    /// The value with its flags and CAS unique.
    pub fn gets(&mut self, key: &str) -> Option<Item> {
        self.send(format!("gets {key}\r\n"));
        self.items().pop().map(|(_, item)| item)
    }

    /// `VALUE` blocks up to `END`.
    pub fn items(&mut self) -> Vec<(String, Item)> {
        self.try_items().unwrap_or_else(|error| panic!("waiting for values: {error}"))
    }

    pub fn try_items(&mut self) -> io::Result<Vec<(String, Item)>> {
        let mut items = Vec::new();
        loop {
            let line = self.try_line()?;
            if line == "END" {
                return Ok(items);
            }
            items.push(self.value_block(&line)?);
        }
    }

    /// The rest of a `VALUE` block whose first line was read already.
    pub fn value_block(&mut self, line: &str) -> io::Result<(String, Item)> {
        let unexpected = || io::Error::other(format!("unexpected: {line}"));
        let words: Vec<&str> = line.split(' ').collect();
        if words[0] != "VALUE" || !(4..=5).contains(&words.len()) {
            return Err(unexpected());
        }
        let number = |at: usize| words.get(at).map_or(Some(0), |word| word.parse::<u64>().ok()).ok_or_else(unexpected);
        let mut value = self.try_bytes(number(3)? as usize + 2)?;
        if !value.ends_with(b"\r\n") {
            return Err(io::Error::other(format!("value of {line} does not end in \\r\\n")));
        }
        value.truncate(value.len() - 2);
        Ok((words[1].to_string(), Item { flags: number(2)? as u32, cas: number(4)?, value }))
    }

    /// `stats [what]`.
    pub fn stats(&mut self, what: &str) -> BTreeMap<String, String> {
        self.send(format!("stats {what}").trim_end().to_string() + "\r\n");
        self.stats_now()
    }

    /// What was asked for already.
    pub fn stats_now(&mut self) -> BTreeMap<String, String> {
        let mut stats = BTreeMap::new();
        loop {
            let line = self.line();
            if line == "END" {
                return stats;
            }
            let mut words = line.splitn(3, ' ');
            assert_eq!(words.next(), Some("STAT"), "{line}");
            let name = words.next().expect("a name").to_string();
            assert!(stats.insert(name, words.next().unwrap_or("").to_string()).is_none(), "twice: {line}");
        }
    }

    /// One number of `stats`.
    pub fn stat(&mut self, name: &str) -> u64 {
        let stats = self.stats("");
        let value = stats.get(name).unwrap_or_else(|| panic!("no {name} in stats: {stats:?}"));
        value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}"))
    }
}

/// A storage command's bytes: the line, and the data block.
pub fn storage(line: &str, value: &[u8]) -> Vec<u8> {
    [line.as_bytes(), b"\r\n", value, b"\r\n"].concat()
}
