//! One connection: what it has received and not executed, what it has said and not sent, and a state that
//! owns what its next step needs. It never calls the loop; the loop calls it, at most once per turn to run,
//! and then to send.
//!
//! Readiness is edge-triggered. `inbound` and `writable` are set by events and cleared here alone: on
//! `EAGAIN`, on a short write, and on a short read *unless the peer's shutdown has been announced*. A short
//! read alone would be proof enough that the socket is drained, since whatever comes later comes with a new
//! edge; but data and FIN that arrive together come with one edge, and then the end of the stream is still to
//! be read. So an unpipelined request costs one recv(2), not two.

use super::auth::{self, Lock};
use super::binary;
use super::buffer::{Pool, Queue};
use super::command::{self, Next};
use super::context::{Context, LITTLE, Step, Waiting};
use super::counters::Counter;
use super::errand::{self, Errand};
use super::inbox::Answer;
use super::input::Input;
use super::memory::Holds;
use super::proto::binary::REQUEST;
use super::receive::{Came, Gathering, Uploading};
use super::reply;
use super::retrieve::{Keys, KeysStep};
use super::settings::Dialect;
use super::streaming::{After, StreamStep, Streaming};
use super::verdict::Supply;
use super::watch;
use kingdb::store::{CHUNK, Position};
use kingdb::sys::epoll::Event;
use kingdb::sys::socket::Stream;
use std::io::{ErrorKind, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

mod steps;
mod telling;

/// Slices of one sendmsg(2): a full queue's chunks and the turn's replies.
const SLICES: usize = 16;

/// What the next byte of input is.
enum State {
    /// The connection's first: it tells the dialect.
    First,
    /// A command's first.
    Command,
    /// A binary request's first.
    Request,
    /// A command's first, of a client that is not known yet.
    Login,
    /// In the list of keys of a retrieval.
    Keys(Keys),
    /// In a refused line's rest.
    SkipLine,
    /// In a refused data block of which so many bytes are to come.
    Swallow(u64),
    /// In a data block.
    Gather(Box<Gathering>),
    /// In a large data block.
    Upload(Box<Uploading>),
    /// Not looked at: a large value is going out first.
    Stream(Box<Streaming>),
    /// Not looked at: a long answer is being made first.
    Errand(Box<Errand>),
    /// Thrown away: a watcher says nothing.
    Watch(Arc<watch::Stream>),
    /// Never looked at: the connection is being closed.
    Closing,
}

/// See the module's head.
pub struct Connection {
    stream: Stream,
    inbound: Inbound,
    writable: bool,
    /// Whether it stands on the worker's ready list.
    pub queued: bool,
    /// Whether its unsent output waits for the log; then it executes nothing.
    pub corked: bool,
    waiting: Waiting,
    /// Received and not executed.
    held: Held,
    /// Said and not sent.
    output: Queue,
    /// How much of `output` may be sent; the rest waits for the log.
    free: usize,
    /// Where the log must be written up to for all of `output` to be sent.
    depends: Position,
    /// What the disk lane brought for the command that waits for it.
    supply: Option<Box<Supply>>,
    pub ledger: Ledger,
    state: State,
    lock: Lock,
    /// It speaks the binary dialect.
    binary: bool,
    /// It asked to be closed.
    quits: bool,
    /// The second in which it was last worked on: store time, less what does not fit.
    active: u32,
}

/// What reading will find.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inbound {
    /// Nothing, until an event tells otherwise.
    Drained,
    /// Something, perhaps.
    Readable,
    /// The peer's shutdown was announced: what came before it, perhaps, and then the end.
    Ending,
    /// The end was read.
    Ended,
}

/// Input of a connection that does not get on. Empty, it holds no memory.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    start: usize,
}

/// What the worker has noted of a connection.
#[derive(Clone, Copy, Default)]
pub struct Ledger {
    /// Memory it held after its last turn.
    pub holds: Holds,
    /// Whether the rest of something is expected of its peer.
    pub midway: bool,
    /// Second in which that began, or last got on. Until the peer has said who he is: in which he came.
    pub since: u32,
    /// What the peer had not taken when that was looked at last. Bytes.
    pub untaken: usize,
}

/// Memory of a command that waits for the disk lane, roughly. Bytes.
const PARKED: usize = 2 * CHUNK;

/// Whether a connection lives on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It lives on.
    Open,
    /// It is to be closed now.
    Closed,
}

/// What is left of a connection's turn.
struct Budget {
    commands: usize,
    bytes: usize,
}

impl Connection {
    /// A connection just accepted. `lock`: whether its client must be known.
    pub fn new(stream: Stream, lock: Lock) -> Self {
        Self {
            stream,
            inbound: Inbound::Drained,
            writable: true,
            queued: false,
            corked: false,
            waiting: Waiting::Input,
            held: Held::default(),
            output: Queue::default(),
            free: 0,
            depends: Position::default(),
            supply: None,
            ledger: Ledger::default(),
            state: State::First,
            lock,
            binary: false,
            quits: false,
            active: 0,
        }
    }

    /// The socket, to be registered.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Notes what epoll told.
    #[inline]
    pub fn note(&mut self, event: Event) {
        self.writable |= event.writable();
        self.inbound = match self.inbound {
            Inbound::Ended => Inbound::Ended,
            _ if event.hung_up() => Inbound::Ending,
            Inbound::Drained if event.readable() => Inbound::Readable,
            before => before,
        };
    }

    /// What it waits for.
    #[inline]
    pub fn waiting(&self) -> Waiting {
        self.waiting
    }

    /// Whether it is the server's turn, so that the peer's silence means nothing.
    pub fn waits_for_server(&self) -> bool {
        self.corked
            || matches!(self.state, State::Watch(_))
            || matches!(self.waiting, Waiting::Turn | Waiting::Room | Waiting::Lane | Waiting::Memory)
    }

    /// Whether it is the peer's turn to send the rest of a command or value, to say who he is, or to read more of a dump,
    /// which keeps the store from giving back what is removed meanwhile.
    pub fn is_midway(&self) -> bool {
        let between = match self.state {
            State::Watch(_) => true,
            State::First | State::Command | State::Request => self.is_known() && self.held.bytes.is_empty(),
            _ => false,
        };
        match self.waiting {
            Waiting::Input => !self.corked && !between,
            Waiting::Peer => !self.corked && matches!(self.state, State::Errand(_)),
            _ => false,
        }
    }

    /// Whether its peer has taken something of a dump since that was asked last: the kernel says that there is room only when
    /// there is much. `second`: now.
    pub fn has_taken_more(&mut self, second: u32) -> bool {
        if self.waiting != Waiting::Peer {
            return false;
        }
        let untaken = self.output.len() + self.stream.untaken() as usize;
        let more = untaken != self.ledger.untaken;
        if more {
            (self.ledger.untaken, self.ledger.since) = (untaken, second);
        }
        more
    }

    /// Whether a large value is on its way in or out.
    pub fn is_amid_large(&self) -> bool {
        matches!(self.state, State::Upload(_) | State::Stream(_))
    }

    /// Whether its client may do more than name a user.
    pub fn is_known(&self) -> bool {
        self.lock == Lock::Open
    }

    /// Memory it holds.
    pub fn holds(&self) -> Holds {
        let (transfer, beside) = match &self.state {
            State::Gather(gathering) => (gathering.holds(), 0),
            State::Upload(uploading) => (uploading.holds(), 0),
            State::Stream(streaming) => streaming.holds(),
            State::Errand(_) => (0, errand::HOLDS),
            _ if self.waiting == Waiting::Lane => (0, PARKED),
            _ => (0, 0),
        };
        Holds { all: self.held.bytes.capacity() + self.output.holds() + transfer + beside, transfer }
    }

    /// Whether there is output, or an end, that [`Connection::send`] has to see to.
    #[inline]
    pub fn has_unsent(&self) -> bool {
        let lends = matches!(&self.state, State::Stream(streaming) if streaming.has_lent());
        !self.output.is_empty() || self.waiting == Waiting::Close || lends
    }

    /// Its descriptor's number.
    pub fn fd(&self) -> u64 {
        u64::from(self.stream.as_fd().as_raw_fd().unsigned_abs())
    }

    /// Bytes unsent.
    pub fn unsent(&self) -> usize {
        self.output.len()
    }

    /// The disk lane answers.
    pub fn deliver(&mut self, answer: Answer) {
        match (answer, &mut self.state) {
            (_, State::Closing) => return,
            (Answer::Fetched(fetched), _) => self.supply = Some(Box::new(Supply::Fetched(fetched))),
            (Answer::Composed(value), _) => self.supply = Some(Box::new(Supply::Composed(value))),
            (Answer::Written(written), State::Upload(upload)) => upload.written(written),
            (Answer::Ran(written), State::Upload(upload)) => upload.ran(written),
            (Answer::Chunk(chunk), State::Stream(stream)) => stream.came(chunk),
            (Answer::Piece(work), State::Errand(errand)) => errand.came(work),
            (Answer::Watched | Answer::Census(_), _) => return,
            (Answer::Written(_) | Answer::Ran(_) | Answer::Chunk(_) | Answer::Piece(_), _) => {
                unreachable!("a state outlives the jobs it started")
            }
        }
        self.resume(Waiting::Lane);
    }

    /// What it waited for is there, if that is what it waited for.
    pub fn resume(&mut self, waited_for: Waiting) {
        if self.waiting == waited_for {
            self.waiting = Waiting::Turn;
        }
    }

    /// Reads and executes within this turn's budget. `scratch` is the worker's read buffer.
    #[inline]
    pub fn run(&mut self, scratch: &mut [u8], ctx: &mut Context) -> Fate {
        if matches!(self.waiting, Waiting::Lane | Waiting::Room | Waiting::Memory | Waiting::Close) {
            return Fate::Open;
        }
        self.active = ctx.now as u32;
        let mut budget = Budget { commands: ctx.settings.commands_per_turn, bytes: ctx.settings.bytes_per_turn };
        let Some(filled) = self.run_held(scratch, &mut budget, ctx) else {
            return Fate::Open;
        };
        self.run_socket(scratch, filled, &mut budget, ctx)
    }

    /// Executes what is held. `None`: it does not get on. Otherwise what is left of it, less than a command,
    /// was moved to the head of `scratch`: so many bytes.
    #[inline]
    fn run_held(&mut self, scratch: &mut [u8], budget: &mut Budget, ctx: &mut Context) -> Option<usize> {
        let mut held = std::mem::take(&mut self.held);
        let mut input = Input::new(&held.bytes[held.start..]);
        self.waiting = self.execute(&mut input, budget, ctx);
        held.start += input.used();
        if self.waiting != Waiting::Input {
            self.held = held.unless_empty();
            return None;
        }
        let rest = &held.bytes[held.start..];
        scratch[..rest.len()].copy_from_slice(rest);
        Some(rest.len())
    }

    /// Reads and executes until there is nothing to read, the budget is used up, or something is to be waited for.
    #[inline]
    fn run_socket(&mut self, scratch: &mut [u8], mut filled: usize, budget: &mut Budget, ctx: &mut Context) -> Fate {
        while self.waiting == Waiting::Input && self.inbound.is_readable() {
            if filled == scratch.len() {
                ctx.refused(scratch, reply::LINE_TOO_LONG);
                ctx.say(reply::LINE_TOO_LONG);
                return self.begin_close();
            }
            if budget.bytes == 0 {
                self.waiting = Waiting::Turn;
                break;
            }
            match self.read(scratch, filled, budget, ctx) {
                Ok(n) => filled += n,
                Err(fate) => return fate,
            }
            let mut input = Input::new(&scratch[..filled]);
            self.waiting = self.execute(&mut input, budget, ctx);
            let used = input.used();
            if used > 0 {
                scratch.copy_within(used..filled, 0);
                filled -= used;
            }
        }
        self.held = Held::copy(&scratch[..filled]);
        if self.waiting == Waiting::Input && self.inbound == Inbound::Ended {
            return self.begin_close();
        }
        Fate::Open
    }

    /// One read, behind the `filled` bytes of `scratch` or straight to where the value that is being received is gathered.
    #[inline]
    fn read(
        &mut self,
        scratch: &mut [u8],
        filled: usize,
        budget: &mut Budget,
        ctx: &mut Context,
    ) -> Result<usize, Fate> {
        let tight = if ctx.unsent_limit == 1 { LITTLE } else { usize::MAX };
        let most = budget.bytes.min(scratch.len() - filled).min(tight);
        let sink = match &mut self.state {
            State::Gather(gathering) => gathering.sink(),
            State::Upload(uploading) => uploading.sink(ctx),
            _ => None,
        };
        let input = &mut scratch[filled..filled + most];
        let (asked, result) = match sink {
            Some(sink) if filled == 0 => sink.receive(&self.stream, input, budget.bytes),
            _ => (most, self.stream.recv(input).map(Came::to_input)),
        };
        let came = match result {
            Ok(came) => came,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                self.inbound = Inbound::Drained;
                return Ok(0);
            }
            Err(_) => return Err(Fate::Closed),
        };
        let all = came.all();
        if all == 0 {
            self.inbound = Inbound::Ended;
            return Ok(0);
        }
        if let State::Upload(uploading) = &mut self.state {
            uploading.sunk(&came, ctx);
        }
        if all < asked && self.inbound == Inbound::Readable {
            self.inbound = Inbound::Drained;
        }
        budget.bytes = budget.bytes.saturating_sub(all);
        ctx.counters().add(Counter::BytesRead, all as u64);
        Ok(came.input)
    }

    fn begin_close(&mut self) -> Fate {
        self.state = State::Closing;
        self.waiting = Waiting::Close;
        self.held = Held::default();
        Fate::Open
    }

    #[inline]
    fn execute(&mut self, input: &mut Input<'_>, budget: &mut Budget, ctx: &mut Context) -> Waiting {
        loop {
            if ctx.unsent() >= ctx.unsent_limit {
                return Waiting::Peer;
            }
            if budget.commands == 0 {
                ctx.count(Counter::ConnYields);
                return Waiting::Turn;
            }
            match self.step(input, ctx) {
                Step::Done => (budget.commands, ctx.progressed) = (budget.commands - 1, true),
                Step::Wait(waiting) => return waiting,
            }
        }
    }

    /// What it says from here on tells of the log up to `position`. With what it has said: up to where.
    #[inline]
    pub fn depend(&mut self, position: Position) -> Position {
        self.depends = self.depends.max(position);
        self.depends
    }

    /// Takes the replies of this turn, and sends what may leave: all if `mark` has passed what they depend on, else what was
    /// unsent before. Whether it must now be corked is told by [`Connection::held_back`].
    #[inline]
    pub fn send(&mut self, replies: &[u8], mark: Position, pool: &mut Pool, ctx: &Context) -> Fate {
        if self.depends > mark {
            let kept = replies.len() - self.take_back(replies.len());
            self.output.push(&replies[..kept], pool);
            return self.transmit(&[], pool, ctx);
        }
        self.free = self.output.len() + replies.len();
        self.transmit(replies, pool, ctx)
    }

    /// Where the log must get for the output that is held back, if any is.
    pub fn held_back(&self) -> Option<Position> {
        (self.free < self.output.len()).then_some(self.depends)
    }

    /// The log will never get there: what was to be told has not happened. The peer learns why, and the
    /// connection ends.
    pub fn refuse(&mut self, why: &str, pool: &mut Pool, ctx: &Context) -> Fate {
        self.output.truncate(self.free, pool);
        let line = super::answer::refusal(self.binary, why);
        (self.depends, self.corked) = (Position::default(), false);
        self.state = State::Closing;
        self.waiting = Waiting::Close;
        self.send(&line, Position::default(), pool, ctx)
    }

    #[inline]
    fn transmit(&mut self, replies: &[u8], pool: &mut Pool, ctx: &Context) -> Fate {
        let mut rest = replies;
        while self.writable && self.free > 0 {
            let from_queue = self.free - rest.len();
            let (asked, result) = self.send_once(from_queue, rest);
            let n = match result {
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => 0,
                Err(_) => return Fate::Closed,
            };
            ctx.counters().add(Counter::BytesWritten, n as u64);
            self.writable = n == asked;
            self.free -= n;
            let sent_of_queue = n.min(from_queue);
            self.output.consume(sent_of_queue, pool);
            rest = &rest[n - sent_of_queue..];
        }
        if let State::Stream(streaming) = &mut self.state
            && self.writable
            && self.output.is_empty()
            && rest.is_empty()
        {
            self.writable = streaming.send_lent(&self.stream, ctx);
        }
        let back = self.take_back(rest.len());
        self.free -= back;
        self.output.push(&rest[..rest.len() - back], pool);
        match self.waiting == Waiting::Close && self.output.is_empty() {
            true => Fate::Closed,
            false => Fate::Open,
        }
    }

    /// How much of the end of the turn's replies, `unsent` bytes, need not be held.
    fn take_back(&mut self, unsent: usize) -> usize {
        match &mut self.state {
            State::Stream(streaming) => streaming.take_back(unsent),
            _ => 0,
        }
    }

    /// One send of the first `from_queue` bytes of the output and of `replies` after them. Bytes offered, and
    /// what came of it.
    #[inline]
    fn send_once(&self, from_queue: usize, replies: &[u8]) -> (usize, std::io::Result<usize>) {
        if from_queue == 0 {
            return (replies.len(), self.stream.send(&[IoSlice::new(replies)]));
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let (mut used, mut bytes) = self.output.slices(from_queue, &mut slices[..SLICES - 1]);
        if bytes == from_queue && !replies.is_empty() {
            slices[used] = IoSlice::new(replies);
            (used, bytes) = (used + 1, bytes + replies.len());
        }
        (bytes, self.stream.send(&slices[..used]))
    }

    /// After sending: whether it may go on that waited for the peer to read.
    #[inline]
    pub fn resume_if_sent(&mut self, limit: usize) {
        let streams = matches!(self.state, State::Stream(_));
        if self.waiting == Waiting::Peer && self.output.len() < limit && (self.writable || !streams) {
            self.waiting = Waiting::Turn;
        }
    }

    /// Closes the socket of a server that stops: what was sent still arrives, although commands may be waiting unread.
    pub fn leave(self, scratch: &mut [u8]) {
        last_words(&self.stream, scratch);
    }

    /// Gives its memory back to the worker and closes the socket.
    pub fn close(mut self, scratch: &mut [u8], pool: &mut Pool) {
        self.output.truncate(0, pool);
        if matches!(self.state, State::Closing) && self.inbound != Inbound::Ended {
            last_words(&self.stream, scratch);
        }
    }
}

/// Before a socket is closed that may hold unread input: the kernel would answer that with a reset, which can
/// overtake what was said last. So the end is announced and what has arrived so far is read and thrown away,
/// up to a bound.
pub fn last_words(stream: &Stream, scratch: &mut [u8]) {
    const READS: usize = 16;
    if stream.shutdown_write().is_err() {
        return;
    }
    for _ in 0..READS {
        if !matches!(stream.recv(scratch), Ok(1..)) {
            return;
        }
    }
}

impl Inbound {
    #[inline]
    fn is_readable(self) -> bool {
        matches!(self, Inbound::Readable | Inbound::Ending)
    }
}

impl Held {
    #[inline]
    fn copy(bytes: &[u8]) -> Self {
        match bytes {
            [] => Self::default(),
            _ => Self { bytes: bytes.to_vec(), start: 0 },
        }
    }

    fn unless_empty(self) -> Self {
        if self.start == self.bytes.len() { Self::default() } else { self }
    }
}
