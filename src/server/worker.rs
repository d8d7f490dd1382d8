//! The loop. Each worker thread has its own epoll instance, its own listening sockets and its own
//! connections, which live and die on it; it shares the store and little else, and never sleeps but in
//! `epoll_wait(2)`.
//!
//! A turn has three phases. (1) Events become readiness flags, and every ready connection reads and executes
//! within its budget; replies are only collected, in one buffer that all connections of the turn share. (2)
//! The log is written out to its tail, once for all of them, whoever appended. (3) Replies are sent, but a
//! reply leaves only when the log's mark has passed everything that it tells of: what was written, what was
//! read, what was found absent. (Phases 2 and 3 come twice where news is followed by what goes on: its replies do not wait
//! for that, most of which is large.) The others are *corked*: their connections execute nothing until the store
//! wakes the worker. So nothing that could still be lost in a crash is ever acknowledged, at one write per
//! turn, or two; and under `--db.sync=always` the same waiting is group commit.
//!
//! An edge does not come twice: a connection that used up its budget stands on the ready list, and epoll is
//! then only asked, not waited for.

use super::buffer::Pool;
use super::command::FLUSH;
use super::conn::{Connection, Fate, Ledger, last_words};
use super::context::{Context, Waiting};
use super::counters::Counter;
use super::inbox::{Answer, Census, Letter};
use super::listen::{Accepted, Door};
use super::log::{self, Level};
use super::memory::Holds;
use super::reply;
use super::shared::Shared;
use super::table::{Table, Token};
use super::watch::{CONNEVENTS, connected};
use kingdb::Db;
use kingdb::store::{Position, Waiter};
use kingdb::sys::clock;
use kingdb::sys::epoll::{Epoll, Event, Interest};
use kingdb::sys::socket::{Stream, StreamOptions};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

mod last;
mod patience;

/// Events taken per wait.
const EVENTS: usize = 512;
/// The read buffer all connections of a worker share. Bytes.
const SCRATCH: usize = 64 * 1024;
/// Reserved tokens: the inbox, and from `DOOR` on the listening sockets.
const INBOX: u32 = 0;
const DOOR: u32 = 1;
/// How often the least recently active connection is looked at.
const IDLE_CHECK: Duration = Duration::from_secs(1);
/// How often it is looked whether another worker has given memory back.
const MEMORY_LOOK: Duration = Duration::from_millis(10);

/// Replies of one connection, collected in phase 1.
struct Leaving {
    token: Token,
    /// Where they lie in the turn's buffer.
    start: usize,
    end: usize,
    /// Where the log must be written up to for the connection to say them.
    depends: Position,
}

/// See the module's head.
pub struct Worker {
    epoll: Epoll,
    door: Door,
    table: Table<Connection>,
    ctx: Context,
    scratch: Box<[u8]>,
    pool: Pool,
    /// Connections that have something to do.
    ready: VecDeque<Token>,
    /// How many of them, at the head, an event of this turn made ready.
    news: usize,
    /// In the turn before, the turn was over before any of the others was run.
    behind: bool,
    leaving: Vec<Leaving>,
    /// Connections whose output waits for the log.
    corked: Vec<Token>,
    /// The nearest place in the log that a corked connection waits for, if the store was asked to tell.
    awaited: Option<Position>,
    waiter: Waiter,
    /// Connections that wait for room in the log.
    roomless: Vec<Token>,
    letters: Vec<Letter>,
    /// The turn's store time in seconds, less what does not fit, and that of the last look at who is slow.
    second: u32,
    watched: u32,
    /// Connections of whose peers the rest of something is expected.
    midway: usize,
    idle_timeout: Option<u32>,
    request_timeout: Option<u32>,
    /// Second of store time at which [`Worker::watch_log`] looked last, and whether the log was slow then.
    log_seen: (u64, bool),
    stream_options: StreamOptions,
}

impl Worker {
    /// Worker number `number`, with its listening sockets registered.
    pub fn new(number: usize, shared: Arc<Shared>, db: Arc<Db>, mut door: Door) -> io::Result<Self> {
        let epoll = Epoll::new(EVENTS)?;
        let inbox = shared.inboxes[number].clone();
        epoll.add(&*inbox, Interest::EDGE_IN, Token::reserved(INBOX).pack())?;
        door.open(&epoll, DOOR)?;
        let settings = shared.settings.clone();
        let seconds = |time: Duration| u32::try_from(time.as_secs().max(1)).unwrap_or(u32::MAX);
        Ok(Self {
            epoll,
            door,
            table: Table::new(),
            waiter: db.waiter(Box::new(move || inbox.ring())),
            ctx: Context::new(number, shared, db),
            scratch: vec![0; SCRATCH].into_boxed_slice(),
            pool: Pool::new(),
            ready: VecDeque::new(),
            news: 0,
            behind: false,
            leaving: Vec::new(),
            corked: Vec::new(),
            awaited: None,
            roomless: Vec::new(),
            letters: Vec::new(),
            second: 0,
            watched: 0,
            midway: 0,
            idle_timeout: settings.idle_timeout.map(seconds),
            request_timeout: settings.request_timeout.map(seconds),
            log_seen: (0, false),
            stream_options: StreamOptions {
                nodelay: settings.nodelay,
                keepalive: settings.keepalive,
                user_timeout: settings.user_timeout,
                recv_buffer: settings.recv_buffer,
                send_buffer: settings.send_buffer,
            },
        })
    }

    /// Turns until it is told to stop; then sees to it that replies in hand leave, for a bounded time.
    pub fn run(mut self) -> io::Result<()> {
        while !self.ctx.inbox.stopping() {
            self.turn()?;
        }
        self.finish()
    }

    fn turn(&mut self) -> io::Result<()> {
        let timeout = self.timeout();
        let events = self.epoll.wait(timeout)?;
        self.start_turn()?;
        for index in 0..events {
            self.dispatch(self.epoll.event(index))?;
        }
        // Only who has nothing to say, not who waits to be heard, is idle.
        if self.idle_timeout.is_some() && events < EVENTS {
            self.close_idle();
        }
        self.run_ready();
        self.reply();
        self.resume_memoryless();
        Ok(())
    }

    /// How long there is nothing to do unless something happens.
    fn timeout(&mut self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let room = (!self.roomless.is_empty()).then(|| self.ctx.db.room_after());
        let door = if self.door.is_closed() { self.door.closed_for(clock::monotonic()) } else { None };
        let idle = self.idle_timeout.filter(|_| self.table.len() > 0).map(|_| IDLE_CHECK);
        let slow = (self.midway > 0 || self.minds_uploads()).then_some(IDLE_CHECK);
        let memory = (!self.ctx.line.is_empty()).then_some(MEMORY_LOOK);
        [room, door, idle, slow, memory].into_iter().flatten().min()
    }

    fn start_turn(&mut self) -> io::Result<()> {
        self.ctx.start_turn(self.ctx.db.now());
        self.ctx.count(Counter::Turns);
        match self.ctx.db.tick(self.ctx.now) {
            // Then the log is written out although nobody may wait for a reply.
            Ok(fired) => self.ctx.appended += if fired { FLUSH } else { 0 },
            Err(error) => log::error(format_args!("a due flush_all cannot be carried out: {error}")),
        }
        if log::enabled(Level::Debug) {
            self.watch_log();
        }
        if self.door.is_closed() {
            self.reopen_door();
        }
        self.second = self.ctx.now as u32;
        if self.second != self.watched {
            self.watch_second();
        }
        if !self.roomless.is_empty() && self.ctx.db.has_room() {
            self.resume_roomless();
        }
        Ok(())
    }

    /// Tells of the log's slow phases, as seen once a second by the first worker.
    fn watch_log(&mut self) {
        let (second, slow) = self.log_seen;
        if self.ctx.worker != 0 || second == self.ctx.now {
            return;
        }
        self.log_seen = (self.ctx.now, self.ctx.db.stats().log_slow);
        match (slow, self.log_seen.1) {
            (false, true) => log::debug("the disk is slow: the log is written by the disk lane"),
            (true, false) => log::debug("the disk has recovered: the log is written by the workers"),
            _ => {}
        }
    }

    #[inline]
    fn dispatch(&mut self, event: Event) -> io::Result<()> {
        let token = Token::unpack(event.token);
        if let Some(connection) = self.table.get(token) {
            connection.note(event);
            self.make_ready_next(token);
            if self.idle_timeout.is_some() {
                self.table.touch(token, self.second);
            }
            return Ok(());
        }
        match token.as_reserved() {
            Some(INBOX) => self.collect(),
            Some(door) => self.accept((door - DOOR) as usize)?,
            // A connection closed earlier in this very batch.
            None => {}
        }
        Ok(())
    }

    #[inline]
    fn make_ready(&mut self, token: Token) {
        if let Some(connection) = self.table.get(token).filter(|connection| !connection.queued) {
            connection.queued = true;
            self.ready.push_back(token);
        }
    }

    /// News goes before what goes on, most of which is large, unless that had to stand back in the turn before. That more
    /// of a large value has come, or may go, is none.
    #[inline]
    fn make_ready_next(&mut self, token: Token) {
        let Some(connection) = self.table.get(token).filter(|connection| !connection.queued) else { return };
        if self.behind || connection.is_amid_large() {
            return self.make_ready(token);
        }
        connection.queued = true;
        self.ready.insert(self.news, token);
        self.news += 1;
    }

    fn collect(&mut self) {
        let mut letters = std::mem::take(&mut self.letters);
        self.ctx.inbox.collect(&mut letters);
        for Letter { token, answer } in letters.drain(..) {
            if let Answer::Census(census) = answer {
                self.tell_all(census);
                continue;
            }
            if let Some(connection) = self.table.get(token) {
                connection.deliver(answer);
                self.make_ready(token);
            }
        }
        self.letters = letters;
    }

    /// Tells of this worker's listening sockets and connections.
    fn tell_all(&mut self, census: Arc<Census>) {
        /// Connections told of at most.
        const MOST: usize = 4096;
        let (mut text, now) = (String::new(), self.ctx.now);
        let unix = self.ctx.settings.unix_socket.as_ref().map_or(String::new(), |path| path.display().to_string());
        self.door.describe(&mut text);
        let tokens: Vec<_> = self.table.tokens().take(MOST).collect();
        for token in tokens {
            if let Some(connection) = self.table.get(token) {
                connection.describe(now, &unix, &mut text);
            }
        }
        census.add(text.as_bytes());
    }

    // ---- phase 1

    /// Runs every connection that was ready when the turn began, as far as the turn reaches.
    fn run_ready(&mut self) {
        let news = std::mem::take(&mut self.news);
        self.behind = false;
        for run in 0..self.ready.len() {
            if run == news && !self.leaving.is_empty() {
                self.reply();
            }
            if !self.ctx.has_turn_left() {
                self.behind = run <= news;
                break;
            }
            let Some(token) = self.ready.pop_front() else {
                break;
            };
            // Alone, news need not stand back either.
            self.ctx.is_news = run < news && !(self.ready.is_empty() && self.leaving.is_empty());
            self.run_one(token);
        }
    }

    #[inline]
    fn run_one(&mut self, token: Token) {
        let Some(connection) = self.table.get(token) else { return };
        connection.queued = false;
        if connection.corked {
            return;
        }
        if connection.is_amid_large() {
            self.ctx.align_replies();
        }
        let (start, before) = (self.ctx.replies.len(), connection.waiting());
        self.ctx.start_connection(token, connection.fd(), connection.unsent());
        let fate = connection.run(&mut self.scratch, &mut self.ctx);
        let end = self.ctx.replies.len();
        if fate == Fate::Closed {
            return self.close(token);
        }
        // What was seen or done in silence is told by what is said next: the rest of a reply, or that all went well.
        let depends = connection.depend(self.ctx.depends);
        let after = connection.waiting();
        if std::mem::take(&mut self.ctx.progressed) && connection.is_known() {
            connection.ledger.since = self.second;
        }
        if after != Waiting::Memory {
            self.ctx.line.pass(token);
        }
        if end > start || connection.has_unsent() {
            self.leaving.push(Leaving { token, start, end, depends });
        }
        match after {
            Waiting::Turn => self.make_ready(token),
            Waiting::Room if before != Waiting::Room => self.roomless.push(token),
            _ => {}
        }
        self.recount(token);
    }

    fn resume_roomless(&mut self) {
        for token in std::mem::take(&mut self.roomless) {
            if let Some(connection) = self.table.get(token) {
                connection.resume(Waiting::Room);
                self.make_ready(token);
            }
        }
    }

    /// The first in line looks whether others have left it room.
    fn resume_memoryless(&mut self) {
        let Some(token) = self.ctx.line.next(&self.ctx.shared.memory) else { return };
        let Some(connection) = self.table.get(token) else { return };
        match connection.waiting() {
            Waiting::Memory => connection.resume(Waiting::Memory),
            Waiting::Turn => return,
            _ => return self.ctx.line.pass(token),
        }
        self.make_ready(token);
    }

    // ---- phases 2 and 3

    #[inline(never)]
    fn reply(&mut self) {
        self.write_out();
        self.send();
    }

    #[inline]
    fn write_out(&mut self) {
        let mark = self.ctx.db.mark();
        if self.ctx.appended > 0 || self.leaving.iter().any(|leaving| leaving.depends > mark) {
            self.ctx.db.write_out();
        }
    }

    fn send(&mut self) {
        if !self.corked.is_empty() {
            self.uncork();
        }
        let mark = self.ctx.db.mark();
        let mut nearest = None;
        let mut leaving = std::mem::take(&mut self.leaving);
        for Leaving { token, start, end, .. } in leaving.drain(..) {
            let Some(connection) = self.table.get(token) else {
                continue;
            };
            let replies = &self.ctx.replies[start..end];
            let fate = connection.send(replies, mark, &mut self.pool, &self.ctx);
            nearest = min_some(nearest, self.after_send(token, fate));
        }
        self.leaving = leaving;
        self.await_mark(nearest);
    }

    /// Where the log must get for this connection, if that holds it back.
    #[inline]
    fn after_send(&mut self, token: Token, fate: Fate) -> Option<Position> {
        if fate == Fate::Closed {
            self.close(token);
            return None;
        }
        let connection = self.table.get(token)?;
        if let Some(position) = connection.held_back() {
            if !std::mem::replace(&mut connection.corked, true) {
                self.corked.push(token);
            }
            self.recount(token);
            return Some(position);
        }
        connection.resume_if_sent(self.ctx.unsent_limit_now());
        if connection.waiting() == Waiting::Turn {
            self.make_ready(token);
        }
        self.recount(token);
        None
    }

    /// Notes what a connection holds, and whether the rest of something is expected of its peer.
    #[inline]
    fn recount(&mut self, token: Token) {
        let Some(connection) = self.table.get(token) else { return };
        let (holds, midway, before) = (connection.holds(), connection.is_midway(), connection.ledger);
        if holds != before.holds {
            self.ctx.shared.memory.change(before.holds, holds);
        }
        self.midway = self.midway + usize::from(midway) - usize::from(before.midway);
        let since = if midway && !before.midway { self.second } else { before.since };
        connection.ledger = Ledger { holds, midway, since, ..before };
    }

    /// Asks the store to wake this worker when its mark gets to `nearest`, unless it was asked for less already.
    fn await_mark(&mut self, nearest: Option<Position>) {
        let Some(position) = nearest else { return };
        if self.awaited.is_some_and(|awaited| awaited <= position) {
            return;
        }
        self.awaited = Some(position);
        if !self.ctx.db.await_mark(&self.waiter, position) {
            // It got there meanwhile: the next turn comes at once.
            self.ctx.inbox.ring();
        }
    }

    /// Lets go what the log's mark has passed; where it can never pass, says so.
    fn uncork(&mut self) {
        let failure = self.ctx.db.failure();
        let mark = self.ctx.db.mark();
        if let Some(why) = &failure {
            self.ctx.shared.tell_failure(why);
        }
        if failure.is_none() && self.awaited.is_some_and(|awaited| mark < awaited) {
            return;
        }
        self.awaited = None;
        let mut nearest = None;
        for token in std::mem::take(&mut self.corked) {
            let Some(connection) = self.table.get(token) else {
                continue;
            };
            connection.corked = false;
            let mut fate = connection.send(&[], mark, &mut self.pool, &self.ctx);
            if let (Fate::Open, Some(_), Some(why)) = (fate, connection.held_back(), &failure) {
                fate = connection.refuse(why, &mut self.pool, &self.ctx);
            }
            nearest = min_some(nearest, self.after_send(token, fate));
            self.make_ready_if_uncorked(token);
        }
        self.await_mark(nearest);
    }

    /// Events may have come while it was corked.
    fn make_ready_if_uncorked(&mut self, token: Token) {
        if self.table.get(token).is_some_and(|connection| !connection.corked) {
            self.make_ready(token);
        }
    }

    // ---- connections come and go

    fn accept(&mut self, entrance: usize) -> io::Result<()> {
        // Another entrance's event, earlier in this very batch, may have closed the door.
        if self.door.is_closed() {
            return Ok(());
        }
        for _ in 0..self.door.accepts(entrance) {
            match self.door.accept(entrance) {
                Accepted::Stream(stream, tcp) => self.welcome(stream, tcp),
                Accepted::Gone => {}
                Accepted::Nobody => break,
                Accepted::Stuck(why) => {
                    self.ctx.count(Counter::ListenDisabledNum);
                    return self.door.close(&self.epoll, clock::monotonic(), &why);
                }
            }
        }
        Ok(())
    }

    fn welcome(&mut self, stream: Stream, tcp: bool) {
        if !self.ctx.shared.admit() {
            return self.turn_away(&stream);
        }
        // Options are wishes; a peer that is gone already is found out by reading.
        let _ = stream.configure(&self.stream_options, tcp);
        let Some(token) = self.table.insert(Connection::new(stream, self.ctx.shared.lock()), self.second) else {
            return self.ctx.shared.leave();
        };
        let added = self.table.get(token).map(|new| self.epoll.add(new.stream(), Interest::EDGE, token.pack()));
        self.ctx.count(Counter::TotalConnections);
        self.count_connections();
        if log::enabled(Level::Debug) {
            self.tell_opened(token, tcp);
        }
        if self.ctx.observed & CONNEVENTS != 0 {
            self.tell_watchers(token, None);
        }
        if let Some(Err(error)) = added {
            log::warn(format_args!("cannot watch a new connection, closed: {error}"));
            self.close(token);
        }
    }

    fn tell_opened(&mut self, token: Token, tcp: bool) {
        let peer = self.table.get(token).filter(|_| tcp).and_then(|connection| connection.stream().peer().ok());
        let from = peer.map_or("a local socket".to_owned(), |peer| peer.to_string());
        log::debug(format_args!("connection {}/{token}: opened from {from}", self.ctx.worker));
    }

    fn tell_watchers(&mut self, token: Token, reason: Option<&str>) {
        if let Some(connection) = self.table.get(token) {
            connected(connection.stream().peer().ok(), reason, connection.fd(), &self.ctx.shared.watch);
        }
    }

    fn turn_away(&mut self, stream: &Stream) {
        log::debug(format_args!("a connection refused: all {} are in use (-c)", self.ctx.shared.most));
        self.ctx.count(Counter::RejectedConnections);
        // The peer may be gone; there is nobody to tell then.
        let _ = stream.send(&[IoSlice::new(reply::TOO_MANY)]);
        last_words(stream, &mut self.scratch);
    }

    fn close(&mut self, token: Token) {
        if self.ctx.observed & CONNEVENTS != 0 {
            let reason = self.table.get(token).map(|connection| connection.reason());
            self.tell_watchers(token, reason);
        }
        let Some(connection) = self.table.remove(token) else {
            return;
        };
        log::debug(format_args!("connection {}/{token}: {}", self.ctx.worker, connection.ending()));
        self.ctx.shared.memory.change(connection.ledger.holds, Holds::default());
        self.midway -= usize::from(connection.ledger.midway);
        connection.close(&mut self.scratch, &mut self.pool);
        self.ctx.line.leave(token);
        self.ctx.shared.leave();
        self.count_connections();
    }

    fn count_connections(&self) {
        let now = self.table.len() as u64;
        let counters = self.ctx.counters();
        counters.set(Counter::Connections, now);
        counters.set(Counter::ConnectionsPeak, now.max(counters.get(Counter::ConnectionsPeak)));
    }

    fn reopen_door(&mut self) {
        if let Some(closed) = self.door.reopen(&self.epoll, DOOR, clock::monotonic()) {
            let micros = u64::try_from(closed.as_micros()).unwrap_or(u64::MAX);
            self.ctx.counters().add(Counter::ListenDisabledMicros, micros);
        }
    }
}

fn min_some<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    a.into_iter().chain(b).min()
}
