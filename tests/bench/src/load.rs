//! The load generator: one thread, one epoll instance, any number of connections in groups.
//!
//! A *closed* group keeps one batch under way on each of its connections: it measures how much work a server does when
//! it is never without. An *open* group sends at times fixed beforehand, round-robin over its connections and without
//! waiting for earlier replies, and measures from the intended time: a server that stalls can not make the load wait
//! politely for it, so no delay is left out (no "coordinated omission").
//!
//! Every reply is checked: its beginning, its length, its end; one in [`EXACT`] batches is compared byte for byte (but
//! for the CAS of binary frames). A
//! wrong reply, a closed connection or [`PATIENCE`] without a byte ends the run with an error. epoll is used
//! level-triggered here: one recv per event, and nothing can be missed.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::sys;
use crate::wire::{Keys, Wire};

/// One batch in so many is compared in full.
pub const EXACT: u64 = 64;
/// Silence for so long, with replies due, is an error.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Connections that are opened before the last of them is asked for a sign of life, so that no backlog overflows.
const CONNECT_BURST: usize = 64;
/// See [`Load::is_enough`].
const ENOUGH: f64 = 2.0;
const SCRATCH: usize = 256 * 1024;

/// When batches are sent.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Arrival {
    /// The next one as soon as the reply is there.
    Closed,
    /// So many per second over the whole group, whatever the replies do.
    Open(f64),
    /// None: the connections are only there.
    Idle,
}

/// What a group of connections is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The work.
    pub wire: Wire,
    /// On which keys.
    pub keys: Keys,
    /// At what times.
    pub arrival: Arrival,
    /// Over how many connections.
    pub connections: usize,
    /// Whether replies hold the key's own value. (The null server's do not.)
    pub exact: bool,
}

/// What a group has done since the last [`Load::reset`].
#[derive(Debug)]
pub struct Done {
    /// Operations, one per key. Parts of batches count, so that large replies do not distort short runs.
    pub ops: f64,
    /// Time from the intended sending of a batch to the end of its reply. Nanoseconds.
    pub latency: Histogram<u64>,
    /// Batches that were not answered when waiting ended; their age is in `latency`.
    pub unanswered: u64,
}

/// Connections under load.
pub struct Load {
    epoll: Epoll,
    groups: Vec<Group>,
    connections: Vec<Connection>,
    scratch: Vec<u8>,
    clock: Instant,
    heard: u64,
    stopping: bool,
}

impl Load {
    /// Opens all connections; each has got its answer to nothing yet, the server has accepted all but the last few.
    pub fn connect(address: SocketAddr, plans: Vec<Plan>) -> Result<Load> {
        let mut load = Load {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll_create1")?,
            groups: Vec::new(),
            connections: Vec::new(),
            scratch: vec![0; SCRATCH],
            clock: Instant::now(),
            heard: 0,
            stopping: false,
        };
        for plan in plans {
            load.connect_group(address, plan)?;
        }
        load.reset();
        Ok(load)
    }

    fn connect_group(&mut self, address: SocketAddr, plan: Plan) -> Result<()> {
        let first = self.connections.len();
        let mut group = Group::new(plan, first);
        for index in first..first + group.plan.connections {
            let stream = TcpStream::connect_timeout(&address, PATIENCE)
                .with_context(|| format!("cannot open connection {index} to {address}"))?;
            let mut connection = Connection::new(stream, self.groups.len())?;
            if index % CONNECT_BURST == CONNECT_BURST - 1 {
                connection.say_hello(&mut group)?;
            }
            connection.stream.set_nonblocking(true)?;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
            self.epoll.add(&connection.stream, event).context("epoll_ctl")?;
            self.connections.push(connection);
        }
        self.groups.push(group);
        Ok(())
    }

    /// Puts the load on for a time. Batches under way at the end stay under way.
    pub fn run(&mut self, time: Duration) -> Result<()> {
        self.stopping = false;
        self.heard = self.now();
        self.start_closed()?;
        let end = self.now() + nanos(time);
        let spin = self.groups.iter().any(|group| matches!(group.plan.arrival, Arrival::Open(_)));
        while self.now() < end {
            self.send_due()?;
            self.turn(if spin { 0 } else { 10 })?;
        }
        Ok(())
    }

    /// Forgets what was done so far, and what an open group was late with.
    pub fn reset(&mut self) {
        let now = self.now();
        self.groups.iter_mut().for_each(|group| group.reset(now));
    }

    /// Sends nothing more and waits for the replies that are due, at most `patience`.
    pub fn drain(&mut self, patience: Duration) -> Result<()> {
        self.stopping = true;
        let end = self.now() + nanos(patience);
        while self.connections.iter().any(|connection| !connection.waiting.is_empty()) {
            let now = self.now();
            if now >= end {
                self.give_up(now);
                break;
            }
            self.turn(10)?;
        }
        Ok(())
    }

    /// One batch on every connection, whatever the plans say about times, and all replies.
    pub fn once(&mut self) -> Result<()> {
        for index in 0..self.connections.len() {
            self.send(index, self.now())?;
        }
        self.drain(PATIENCE)
    }

    /// What the groups have done, in the order of their plans.
    pub fn done(&self) -> impl Iterator<Item = &Done> {
        self.groups.iter().map(|group| &group.done)
    }

    /// Whether every closed connection has had [`ENOUGH`] replies on average, and others one between
    /// them.
    pub fn is_enough(&self) -> bool {
        self.groups.iter().all(Group::is_enough)
    }

    fn start_closed(&mut self) -> Result<()> {
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            let closed = self.groups[connection.group].plan.arrival == Arrival::Closed;
            if closed && connection.waiting.is_empty() {
                self.send(index, self.now())?;
            }
        }
        Ok(())
    }

    fn send_due(&mut self) -> Result<()> {
        for number in 0..self.groups.len() {
            while let Some((index, due)) = self.groups[number].take_due(nanos(self.clock.elapsed())) {
                self.send(index, due)?;
            }
        }
        Ok(())
    }

    fn send(&mut self, index: usize, due: u64) -> Result<()> {
        let connection = &mut self.connections[index];
        connection.ask(&mut self.groups[connection.group], due);
        connection.flush(&self.epoll, index)
    }

    /// One wait for events and what they bring.
    fn turn(&mut self, milliseconds: u16) -> Result<()> {
        let mut events = [EpollEvent::empty(); 256];
        let count = match self.epoll.wait(&mut events, EpollTimeout::from(milliseconds)) {
            Err(nix::errno::Errno::EINTR) => 0,
            other => other.context("epoll_wait")?,
        };
        if count == 0 {
            return self.check_patience();
        }
        self.heard = self.now();
        for event in &events[..count] {
            self.ready(event.data() as usize, event.events())?;
        }
        Ok(())
    }

    fn ready(&mut self, index: usize, what: EpollFlags) -> Result<()> {
        let connection = &mut self.connections[index];
        if what.contains(EpollFlags::EPOLLOUT) {
            connection.flush(&self.epoll, index)?;
        }
        if !what.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            return Ok(());
        }
        let group = &mut self.groups[connection.group];
        let count = connection.receive(&mut self.scratch)?;
        let now = nanos(self.clock.elapsed());
        connection.take(&self.scratch[..count], group, now)?;
        let again = group.plan.arrival == Arrival::Closed && connection.waiting.is_empty() && !self.stopping;
        if again { self.send(index, now) } else { Ok(()) }
    }

    fn check_patience(&self) -> Result<()> {
        if self.now() - self.heard < nanos(PATIENCE) {
            return Ok(());
        }
        let stuck = self.connections.iter().find(|connection| !connection.waiting.is_empty());
        match stuck {
            None => Ok(()),
            Some(connection) => bail!("no reply for {PATIENCE:?}; one is due {}", connection.progress()),
        }
    }

    fn give_up(&mut self, now: u64) {
        for connection in &mut self.connections {
            let done = &mut self.groups[connection.group].done;
            for asked in connection.waiting.drain(..) {
                done.latency.saturating_record(now.saturating_sub(asked.due).max(1));
                done.unanswered += 1;
            }
        }
    }

    fn now(&self) -> u64 {
        nanos(self.clock.elapsed())
    }
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

struct Group {
    plan: Plan,
    done: Done,
    ops_per_byte: f64,
    /// First connection's index.
    first: usize,
    /// Batches sent since the schedule began: the next one goes to the next connection, at the next time.
    sent: u64,
    began: u64,
    asked: u64,
}

impl Group {
    fn new(plan: Plan, first: usize) -> Group {
        let ops_per_byte = plan.wire.work.ops() as f64 / plan.wire.reply_len() as f64;
        Group { plan, done: Done::new(), ops_per_byte, first, sent: 0, began: 0, asked: 0 }
    }

    fn reset(&mut self, now: u64) {
        self.done = Done::new();
        self.began = now;
        self.sent = 0;
    }

    fn is_enough(&self) -> bool {
        let batches = self.done.ops / self.plan.wire.work.ops() as f64;
        match self.plan.arrival {
            Arrival::Closed => batches >= ENOUGH * self.plan.connections as f64,
            Arrival::Open(_) => batches >= 1.0,
            Arrival::Idle => true,
        }
    }

    /// The connection that a batch is due on, and since when.
    fn take_due(&mut self, now: u64) -> Option<(usize, u64)> {
        let Arrival::Open(rate) = self.plan.arrival else {
            return None;
        };
        let due = self.began + (self.sent as f64 * 1e9 / rate) as u64;
        if due > now {
            return None;
        }
        let index = self.first + self.sent as usize % self.plan.connections;
        self.sent += 1;
        Some((index, due))
    }
}

impl Done {
    fn new() -> Done {
        let latency = Histogram::new_with_bounds(1, 120_000_000_000, 3).expect("bounds are in order");
        Done { ops: 0.0, latency, unanswered: 0 }
    }
}

/// A batch whose reply is due.
struct Asked {
    due: u64,
    /// Where the random sequence stood, if the reply is to be compared in full.
    keys: Option<Keys>,
}

struct Connection {
    stream: TcpStream,
    group: usize,
    out: Vec<u8>,
    sent: usize,
    wants_out: bool,
    waiting: VecDeque<Asked>,
    /// How much of the first waiting reply is here. Bytes.
    got: usize,
    /// Those bytes, if they are to be compared; otherwise the last few.
    seen: Vec<u8>,
}

impl Connection {
    fn new(stream: TcpStream, group: usize) -> Result<Connection> {
        stream.set_nodelay(true)?;
        sys::reset_on_close(&stream)?;
        let (out, seen) = (Vec::new(), Vec::new());
        Ok(Connection { stream, group, out, sent: 0, wants_out: false, waiting: VecDeque::new(), got: 0, seen })
    }

    /// One batch and its reply, blocking.
    fn say_hello(&mut self, group: &mut Group) -> Result<()> {
        self.stream.set_read_timeout(Some(PATIENCE))?;
        self.ask(group, 0);
        self.stream.write_all(&self.out)?;
        self.out.clear();
        let mut reply = vec![0; group.plan.wire.reply_len()];
        self.stream.read_exact(&mut reply).context("no answer on a new connection")?;
        self.take(&reply, group, 1)
    }

    /// Queues one batch.
    fn ask(&mut self, group: &mut Group, due: u64) {
        let exact = group.plan.exact && group.asked.is_multiple_of(EXACT);
        let keys = exact.then(|| group.plan.keys.clone());
        group.asked += 1;
        group.plan.wire.request(&mut group.plan.keys, &mut self.out);
        self.waiting.push_back(Asked { due, keys });
    }

    fn flush(&mut self, epoll: &Epoll, index: usize) -> Result<()> {
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return self.want_out(true, epoll, index);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot send: {}", self.progress()));
                }
            }
        }
        self.out.clear();
        self.sent = 0;
        self.want_out(false, epoll, index)
    }

    fn want_out(&mut self, want: bool, epoll: &Epoll, index: usize) -> Result<()> {
        if self.wants_out == want {
            return Ok(());
        }
        self.wants_out = want;
        let flags = if want { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
        epoll.modify(&self.stream, &mut EpollEvent::new(flags, index as u64)).context("epoll_ctl")
    }

    fn receive(&mut self, scratch: &mut [u8]) -> Result<usize> {
        match self.stream.read(scratch) {
            Ok(0) => bail!("the server closed a connection: {}", self.progress()),
            Ok(count) => Ok(count),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
            Err(error) => Err(error).with_context(|| format!("cannot receive: {}", self.progress())),
        }
    }

    /// Takes what was received, reply by reply.
    fn take(&mut self, mut data: &[u8], group: &mut Group, now: u64) -> Result<()> {
        group.done.ops += data.len() as f64 * group.ops_per_byte;
        while !data.is_empty() {
            let Some(asked) = self.waiting.front() else {
                bail!("the server sent what nobody asked for: {:?}", head(data));
            };
            let (whole, exact) = (group.plan.wire.reply_len(), asked.keys.is_some());
            let (mine, rest) = data.split_at(data.len().min(whole - self.got));
            self.check_begin(mine, &group.plan.wire)?;
            self.got += mine.len();
            self.remember(mine, exact);
            if self.got == whole {
                self.complete(group, now)?;
            }
            data = rest;
        }
        Ok(())
    }

    fn check_begin(&self, data: &[u8], wire: &Wire) -> Result<()> {
        let begin = wire.begin().get(self.got..).unwrap_or_default();
        let common = begin.len().min(data.len());
        ensure!(begin[..common] == data[..common], "a wrong reply: {:?}", head(data));
        Ok(())
    }

    fn remember(&mut self, data: &[u8], exact: bool) {
        if exact {
            return self.seen.extend_from_slice(data);
        }
        let last = &data[data.len().saturating_sub(16)..];
        if last.len() == 16 || self.seen.len() > 256 {
            self.seen.clear();
        }
        self.seen.extend_from_slice(last);
    }

    fn complete(&mut self, group: &mut Group, now: u64) -> Result<()> {
        let asked = self.waiting.pop_front().context("no reply was due")?;
        let wire = &group.plan.wire;
        ensure!(self.seen.ends_with(wire.end()), "a reply of {} bytes ends in {:?}", self.got, tail(&self.seen));
        if let Some(mut keys) = asked.keys {
            let mut want = Vec::with_capacity(self.got);
            wire.reply(&mut keys, &mut want);
            wire.blank_cas(&mut self.seen);
            ensure!(want == self.seen, "a reply has the right length but a wrong value: {:?}", head(&self.seen));
        }
        self.seen.clear();
        self.got = 0;
        group.done.latency.saturating_record(now.saturating_sub(asked.due).max(1));
        Ok(())
    }

    fn progress(&self) -> String {
        format!("({} bytes of it arrived, the last of them {:?})", self.got, tail(&self.seen))
    }
}

fn head(data: &[u8]) -> String {
    String::from_utf8_lossy(&data[..data.len().min(80)]).into_owned()
}

fn tail(data: &[u8]) -> String {
    String::from_utf8_lossy(&data[data.len().saturating_sub(32)..]).into_owned()
}

#[cfg(test)]
mod tests;
