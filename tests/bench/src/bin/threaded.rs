//! A thread per connection, to compare with: the same store and the same parser as KingServer's, blocking reads and
//! writes, one thread for each client. It knows get, gets, set, delete and version, keeps the same promises (a reply
//! leaves when the log has passed all that it depends on) and answers other commands with an error.
//!
//! `threaded --db.path=DIR -p PORT [-m MiB]`; port 0 takes a free one, which is printed.

// The parser is taken in as source; its own tests run with the server.
#![cfg(not(test))]

use std::io::{Error, ErrorKind, Read, Result, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use kingdb::store::{
    Body, CHUNK, Db, Expect, Fetched, Large, Lookup, NewBody, Outcome, Position, Scratch, TableBlock, Uploaded, Waiter,
    Write,
};
use server::proto::text::{self, Command, NextKey, Parse, Verb};

#[allow(dead_code, unused_imports, missing_docs)]
#[path = "../../../../src/server"]
mod server {
    pub mod proto {
        pub mod text;
    }
    pub mod reply;
}

const MAX_VALUE: u64 = 1024 * 1024;
/// A thread's stack. Bytes, of address space: only what is touched takes memory.
const STACK: usize = 256 * 1024;
/// Replies are sent when so much is collected, or when nothing is left to execute. Bytes.
const SEND: usize = 64 * 1024;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut options = getopts::Options::new();
    options.reqopt("", "db.path", "data directory", "DIR");
    options.optopt("p", "port", "port, 0: a free one", "PORT");
    options.optopt("m", "memory", "RAM cache (default 64)", "MiB");
    let matches = options.parse(std::env::args().skip(1))?;
    let mut store = kingdb::Options::new(matches.opt_str("db.path").unwrap_or_default());
    store.cache_bytes = matches.opt_get_default("memory", 64u64)? << 20;
    let db = Arc::new(Db::open(store)?);
    let listener = TcpListener::bind(("127.0.0.1", matches.opt_get_default("port", 0)?))?;
    println!("threaded: listening on {}", listener.local_addr()?);
    loop {
        let stream = listener.accept()?.0;
        let db = db.clone();
        thread::Builder::new().stack_size(STACK).spawn(move || Session::serve(db, stream))?;
    }
}

/// What has been received and not been used yet.
struct Input {
    stream: TcpStream,
    buffer: Vec<u8>,
    used: usize,
}

impl Input {
    fn rest(&self) -> &[u8] {
        &self.buffer[self.used..]
    }

    /// Waits for at least one more byte. The other side's end is an error.
    fn more(&mut self) -> Result<()> {
        self.buffer.drain(..self.used);
        self.used = 0;
        let have = self.buffer.len();
        self.buffer.resize(have + 16 * 1024, 0);
        let count = self.stream.read(&mut self.buffer[have..]);
        self.buffer.truncate(have + *count.as_ref().unwrap_or(&0));
        if count? == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Waits until `count` bytes are there.
    fn whole(&mut self, count: usize) -> Result<()> {
        while self.rest().len() < count {
            self.more()?;
        }
        Ok(())
    }

    fn skip(&mut self, mut count: u64) -> Result<()> {
        while count > 0 {
            self.whole(1)?;
            let now = count.min(self.rest().len() as u64);
            self.used += now as usize;
            count -= now;
        }
        Ok(())
    }
}

/// One client.
struct Session {
    db: Arc<Db>,
    waiter: Waiter,
    input: Input,
    out: Vec<u8>,
    /// What the collected replies depend on.
    depends: Position,
    scratch: Scratch,
}

impl Session {
    fn serve(db: Arc<Db>, stream: TcpStream) {
        let thread = thread::current();
        let waiter = db.waiter(Box::new(move || thread.unpark()));
        let input = Input { stream, buffer: Vec::new(), used: 0 };
        let (out, scratch) = (Vec::new(), Scratch::default());
        let mut session = Session { db, waiter, input, out, depends: Position::default(), scratch };
        // The client left, or must be left: either way there is nobody to tell.
        let _ = session.run();
        session.db.leave(&session.waiter);
    }

    fn run(&mut self) -> Result<()> {
        self.input.stream.set_nodelay(true)?;
        loop {
            while self.step()? {}
            self.send()?;
            self.input.more()?;
        }
    }

    /// Executes one command. `false`: there is no whole one.
    fn step(&mut self) -> Result<bool> {
        match text::parse(self.input.rest(), MAX_VALUE) {
            Parse::Incomplete => return Ok(false),
            Parse::Command { used, command } => {
                let action = Action::of(command);
                self.input.used += used;
                self.act(action)?;
            }
            Parse::Retrieval { used, retrieval } => {
                self.input.used += used;
                self.retrieve(retrieval.with_cas)?;
            }
            // It speaks the classic text protocol only.
            Parse::Meta { used, .. } => {
                self.input.used += used;
                self.out.extend_from_slice(b"ERROR\r\n");
                self.give_up(false)?;
            }
            Parse::Refused { used, reply, swallow, close } => {
                self.input.used += used;
                self.out.extend_from_slice(reply);
                self.input.skip(swallow)?;
                self.give_up(close)?;
            }
        }
        Ok(true)
    }

    fn give_up(&mut self, close: bool) -> Result<()> {
        if !close {
            return Ok(());
        }
        self.send()?;
        Err(ErrorKind::InvalidData.into())
    }

    fn act(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Set(set) => self.set(&set)?,
            Action::Delete { key, noreply } => self.delete(&key, noreply),
            Action::Skip(len) => {
                self.input.skip(len + 2)?;
                self.out.extend_from_slice(b"SERVER_ERROR not in this server\r\n");
            }
            Action::Version => self.out.extend_from_slice(b"VERSION threaded\r\n"),
            Action::Unknown => self.out.extend_from_slice(b"ERROR\r\n"),
            Action::Quit => return Err(ErrorKind::UnexpectedEof.into()),
        }
        Ok(())
    }

    /// The keys of a get and their values.
    fn retrieve(&mut self, with_cas: bool) -> Result<()> {
        let now = self.db.now();
        loop {
            match text::next_key(self.input.rest()) {
                NextKey::Key { used, key } => {
                    let key = key.to_vec();
                    self.input.used += used;
                    self.value(&key, now, with_cas)?;
                }
                NextKey::End { used } => {
                    self.input.used += used;
                    self.out.extend_from_slice(b"END\r\n");
                    return Ok(());
                }
                NextKey::Incomplete => self.input.more()?,
                NextKey::Bad => return Err(ErrorKind::InvalidData.into()),
            }
        }
    }

    fn value(&mut self, bytes: &[u8], now: u64, with_cas: bool) -> Result<()> {
        let key = self.db.key(bytes);
        let mut fetched: Option<Fetched> = None;
        loop {
            let out = &mut self.out;
            let visit = |record: kingdb::store::Record<'_>| {
                push_head(out, bytes, record.flags, record.len(), with_cas.then_some(record.cas));
                match record.body {
                    Body::Inline(value) => {
                        out.extend_from_slice(value);
                        None
                    }
                    Body::Large(large) => Some(large.clone()),
                }
            };
            match self.db.lookup(&key, now, fetched.as_ref(), &mut self.scratch, visit).map_err(Error::other)? {
                Lookup::Hit(seen, large) => {
                    self.depends = self.depends.max(seen.depends);
                    return self.body(large);
                }
                Lookup::Miss(seen) => {
                    self.depends = self.depends.max(seen.depends);
                    return Ok(());
                }
                Lookup::Cold(job) => fetched = Some(job.run()),
            }
        }
    }

    /// The rest of a value and its newline.
    fn body(&mut self, large: Option<Large>) -> Result<()> {
        let (mut offset, mut block) = (0, TableBlock::default());
        while let Some(large) = large.as_ref().filter(|large| offset < large.len()) {
            let before = self.out.len();
            let read = large.read_nowait(offset, &mut block, &mut self.scratch, &mut self.out);
            if !read.map_err(Error::other)? {
                self.out.extend_from_slice(&large.fetch(offset).run().map_err(Error::other)?);
            }
            offset += (self.out.len() - before) as u64;
            self.send_if_much()?;
        }
        self.out.extend_from_slice(b"\r\n");
        self.send_if_much()
    }

    fn set(&mut self, set: &Set) -> Result<()> {
        let uploaded = if set.len > CHUNK { Some(self.upload(set.len)?) } else { None };
        let block = if uploaded.is_some() { 0 } else { set.len };
        self.input.whole(block + 2)?;
        if !self.input.rest()[block..].starts_with(b"\r\n") {
            self.out.extend_from_slice(b"CLIENT_ERROR bad data chunk\r\n");
            return self.give_up(true);
        }
        self.await_room();
        let inline = NewBody::Inline(&self.input.rest()[..block]);
        let write = Write {
            key: self.db.key(&set.key),
            flags: set.flags,
            expires: text::deadline(set.exptime, self.db.now()),
            marks: 0,
            cas: None,
            body: uploaded.as_ref().map_or(inline, NewBody::Uploaded),
            expect: Expect::Anything,
        };
        let reply = match self.db.write(&write, &mut self.scratch) {
            Ok(Outcome::Done { depends, .. }) => {
                self.depends = self.depends.max(depends);
                "STORED\r\n".to_owned()
            }
            Ok(Outcome::Conflict) => "NOT_STORED\r\n".to_owned(),
            Err(error) => format!("SERVER_ERROR {error}\r\n"),
        };
        self.input.used += block + 2;
        self.reply(&reply, set.noreply);
        Ok(())
    }

    fn upload(&mut self, len: usize) -> Result<Uploaded> {
        let mut upload = self.db.upload(len as u64).map_err(Error::other)?;
        let mut left = len;
        while left > 0 {
            let now = left.min(CHUNK);
            self.input.whole(now)?;
            let written = upload.chunk(self.input.rest()[..now].to_vec()).run();
            upload.done(written).map_err(Error::other)?;
            self.input.used += now;
            left -= now;
        }
        Ok(upload.finish())
    }

    fn delete(&mut self, key: &[u8], noreply: bool) {
        let reply = match self.db.delete(key) {
            Ok(true) => "DELETED\r\n".to_owned(),
            Ok(false) => "NOT_FOUND\r\n".to_owned(),
            Err(error) => format!("SERVER_ERROR {error}\r\n"),
        };
        self.reply(&reply, noreply);
    }

    fn reply(&mut self, text: &str, noreply: bool) {
        if !noreply {
            self.out.extend_from_slice(text.as_bytes());
        }
    }

    fn await_room(&self) {
        while !self.db.has_room() && self.db.failure().is_none() {
            self.db.write_out();
            thread::yield_now();
        }
    }

    fn send_if_much(&mut self) -> Result<()> {
        if self.out.len() < SEND { Ok(()) } else { self.send() }
    }

    /// Sends what is collected, once the log has passed what it depends on.
    fn send(&mut self) -> Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.db.write_out();
        while self.db.mark() < self.depends {
            if let Some(why) = self.db.failure() {
                return Err(Error::other(why.to_string()));
            }
            if self.db.await_mark(&self.waiter, self.depends) {
                thread::park();
            }
        }
        self.input.stream.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }
}

/// A command that no longer borrows from the input.
enum Action {
    Set(Set),
    Delete {
        key: Vec<u8>,
        noreply: bool,
    },
    /// A storage command that is not supported: its data block's length.
    Skip(u64),
    Version,
    Unknown,
    Quit,
}

struct Set {
    key: Vec<u8>,
    flags: u32,
    exptime: i64,
    len: usize,
    noreply: bool,
}

impl Action {
    fn of(command: Command<'_>) -> Action {
        match command {
            Command::Store { verb: Verb::Set, key, flags, exptime, len, noreply, .. } => {
                Action::Set(Set { key: key.to_vec(), flags, exptime, len: len as usize, noreply })
            }
            Command::Store { len, .. } => Action::Skip(len),
            Command::Delete { key, noreply } => Action::Delete { key: key.to_vec(), noreply },
            Command::Version => Action::Version,
            Command::Quit => Action::Quit,
            _ => Action::Unknown,
        }
    }
}

fn push_head(out: &mut Vec<u8>, key: &[u8], flags: u32, len: u64, cas: Option<u64>) {
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(key);
    let written = match cas {
        Some(cas) => write!(out, " {flags} {len} {cas}\r\n"),
        None => write!(out, " {flags} {len}\r\n"),
    };
    written.expect("a vector takes everything");
}
