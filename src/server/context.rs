//! What the commands of one worker share: the store, the turn's replies, reusable buffers, and notes about
//! the connection that is being worked on. A command is executed with a `&mut Context` and a connection's
//! state, and with nothing else of the worker.

use super::counters::{Counter, Counters};
use super::inbox::{Answer, Inbox, Letter};
use super::input::Input;
use super::log::{self, Level};
use super::memory::Line;
use super::settings::Settings;
use super::shared::Shared;
use super::table::Token;
use kingdb::Db;
use kingdb::store::{Position, Scratch};
use std::sync::Arc;

/// Input read at once where memory is tight, and so much at least of what is thrown away is progress. Bytes.
pub const LITTLE: usize = 4096;
/// A line of the processor's cache. Bytes.
pub const LINE: usize = 64;
/// A connection with this much unsent stops executing until it could send. Bytes.
pub const UNSENT_LIMIT: usize = 64 * 1024;
/// The turn buffer's capacity, but for the chunks that end a turn. Bytes.
const TURN_BUFFER: usize = 512 * 1024;
/// The most one connection can add to it in a turn: it stops at `UNSENT_LIMIT`, after at most one more value
/// or one more `stats`. Bytes.
const ONE_CONNECTION: usize = UNSENT_LIMIT + kingdb::store::CHUNK + 32 * 1024;
/// Log records appended per worker and turn. Bytes.
const APPEND_LIMIT: usize = 1024 * 1024;
/// Chunks of a large value that a worker sends per turn, with as few sends as the socket allows. The fewer these are, the seldomer
/// is the peer woken, as long as the processor's cache has the chunks when they are sent.
pub const CHUNKS_OUT: usize = 16;
/// Chunks of large values that a worker receives per turn, and writes if the disk is fast: that takes 0.1 to 0.2 ms,
/// longer where they can be compressed. (Who may write any may write four: a turn receives seven at most.)
const CHUNK_LIMIT: usize = 4;

/// What a connection waits for before it goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waiting {
    /// More input.
    Input,
    /// Its next turn: the budget of this one is used up.
    Turn,
    /// The peer to read: too much is unsent.
    Peer,
    /// Room in the log.
    Room,
    /// An answer from the disk lane.
    Lane,
    /// Its turn to take memory for a transfer.
    Memory,
    /// Nothing: once its output is sent it is closed.
    Close,
}

/// What became of one step of a connection.
pub enum Step {
    /// It got on; take the next step.
    Done,
    /// It cannot get on, and has consumed nothing it would need again.
    Wait(Waiting),
}

/// See the module's head.
pub struct Context {
    pub db: Arc<Db>,
    pub settings: Arc<Settings>,
    pub shared: Arc<Shared>,
    /// This worker's number.
    pub worker: usize,
    pub inbox: Arc<Inbox>,
    /// The store's reusable buffers.
    pub scratch: Scratch,
    /// Who waits for memory.
    pub line: Line,
    /// A value being computed.
    pub value: Vec<u8>,
    /// Replies of all connections of this turn, one after the other.
    pub replies: Vec<u8>,
    /// Store time of this turn, in seconds.
    pub now: u64,
    /// Bytes appended to the log in this turn.
    pub appended: usize,
    /// Chunks of large values received in this turn. One that goes out counts for all that there may be.
    pub chunks: usize,
    /// The buffer of the last one, for the next: it is in the processor's cache.
    pub chunk: Vec<u8>,
    /// The buffer of those that come at once.
    pub batch: Vec<u8>,
    /// The connection being worked on is one that something has come for in this turn.
    pub is_news: bool,
    /// The connection being worked on.
    pub token: Token,
    /// The log must be written up to here before that connection's replies may leave.
    pub depends: Position,
    /// Its descriptor's number.
    pub fd: u64,
    /// What is observed, see [`super::watch`].
    pub observed: u32,
    /// Whether its client has just named himself wrongly.
    pub denied: bool,
    /// Whether that connection got on with what its peer has begun to send.
    pub progressed: bool,
    /// With so much unsent it stops executing. Bytes.
    pub unsent_limit: usize,
    /// Where its replies begin, less what it had unsent before.
    unsent_base: isize,
}

impl Context {
    /// A context for worker number `worker`.
    pub fn new(worker: usize, shared: Arc<Shared>, db: Arc<Db>) -> Self {
        Self {
            db,
            settings: shared.settings.clone(),
            inbox: shared.inboxes[worker].clone(),
            shared,
            worker,
            scratch: Scratch::default(),
            line: Line::default(),
            value: Vec::new(),
            replies: Vec::with_capacity(TURN_BUFFER + CHUNKS_OUT * kingdb::store::CHUNK),
            now: 0,
            appended: 0,
            chunks: 0,
            chunk: Vec::new(),
            batch: Vec::new(),
            is_news: false,
            token: Token::reserved(0),
            depends: Position::default(),
            fd: 0,
            observed: 0,
            denied: false,
            progressed: false,
            unsent_limit: UNSENT_LIMIT,
            unsent_base: 0,
        }
    }

    /// A new turn.
    pub fn start_turn(&mut self, now: u64) {
        self.replies.clear();
        self.value.shrink_to(kingdb::store::CHUNK);
        (self.now, self.appended, self.chunks) = (now, 0, 0);
        self.observed = self.shared.watch.observed();
    }

    /// Turns to another connection, which has `unsent` bytes waiting already.
    pub fn start_connection(&mut self, token: Token, fd: u64, unsent: usize) {
        (self.token, self.fd) = (token, fd);
        self.depends = Position::default();
        self.progressed = false;
        self.unsent_limit = self.unsent_limit_now();
        self.unsent_base = self.replies.len().cast_signed() - unsent.cast_signed();
    }

    /// Has what is said next begin where a line of the processor's cache does: copying chunks from the page cache to elsewhere
    /// takes up to four times as long (seen on an AMD EPYC).
    pub fn align_replies(&mut self) {
        let over = (self.replies.as_ptr().addr() + self.replies.len()) % LINE;
        self.replies.resize(self.replies.len() + (LINE - over) % LINE, 0);
    }

    /// Bytes that the connection being worked on has unsent.
    #[inline]
    pub fn unsent(&self) -> usize {
        (self.replies.len().cast_signed() - self.unsent_base).cast_unsigned()
    }

    /// How much a connection may have unsent and go on: nothing where memory is tight.
    pub fn unsent_limit_now(&self) -> usize {
        if self.shared.memory.is_tight() { 1 } else { UNSENT_LIMIT }
    }

    /// Whether the connection being worked on may take `bytes` of memory for a transfer.
    pub fn admit(&mut self, bytes: usize) -> Result<(), Waiting> {
        match self.line.admit(self.token, bytes, &self.shared.memory) {
            true => Ok(()),
            false => Err(Waiting::Memory),
        }
    }

    /// Whether the turn buffer has room for whatever one more connection may add.
    fn has_reply_room(&self) -> bool {
        self.replies.len() + ONE_CONNECTION <= TURN_BUFFER
    }

    /// Whether the connection may move chunks of a large value now: what goes on does, in its order, when news is through.
    pub fn may_move_chunks(&self) -> bool {
        !self.is_news && self.chunks < CHUNK_LIMIT
    }

    /// Whether the turn is to go on.
    pub fn has_turn_left(&self) -> bool {
        self.chunks < CHUNK_LIMIT && self.has_reply_room()
    }

    /// Chunks were read to be sent: that comes before all else, while the processor's cache has them.
    pub fn end_turn(&mut self) {
        self.chunks = CHUNK_LIMIT;
    }

    /// Throws away what has come of the next `left` bytes.
    pub fn skip(&mut self, input: &mut Input<'_>, left: &mut u64) {
        let parts = |left: u64| left / LITTLE as u64;
        let before = parts(*left);
        *left -= input.take(usize::try_from(*left).unwrap_or(usize::MAX)).len() as u64;
        self.progressed |= parts(*left) < before;
    }

    /// Adds to the replies.
    #[inline]
    pub fn say(&mut self, text: &[u8]) {
        self.replies.extend_from_slice(text);
    }

    /// Adds to the replies, unless the client wants none.
    #[inline]
    pub fn answer(&mut self, text: &[u8], noreply: bool) {
        if !noreply {
            self.say(text);
        }
    }

    /// The replies tell of this place in the log, and leave only when it may be told.
    #[inline]
    pub fn depend(&mut self, position: Position) {
        self.depends = self.depends.max(position);
    }

    /// Tells whoever debugs a client that its line, or the data block of its key, was refused with this reply.
    #[cold]
    pub fn refused(&self, line: &[u8], reply: &[u8]) {
        /// Of the line and of the reply, what is shown. Bytes.
        const SHOWN: usize = 120;
        if log::enabled(Level::Debug) {
            let shown = |text: &[u8]| text[..text.len().min(SHOWN)].trim_ascii().escape_ascii().to_string();
            let line = shown(line.split(|byte| *byte == b'\n').next().unwrap_or_default());
            log::debug(format_args!("connection {}/{}: '{line}' refused: {}", self.worker, self.token, shown(reply)));
        }
    }

    /// Whether a command that writes may be executed now.
    #[inline]
    pub fn may_write(&self) -> Result<(), Waiting> {
        match self.appended < APPEND_LIMIT {
            false => Err(Waiting::Turn),
            true if self.db.has_room() => Ok(()),
            true => Err(Waiting::Room),
        }
    }

    /// Counts one.
    #[inline]
    pub fn count(&self, counter: Counter) {
        self.counters().add(counter, 1);
    }

    /// This worker's counters.
    #[inline]
    pub fn counters(&self) -> &Counters {
        &self.shared.counters[self.worker]
    }

    /// Runs a job on the disk lane for the connection being worked on; its answer comes to the inbox.
    pub fn submit(&self, job: impl FnOnce() -> Answer + Send + 'static) {
        let answer = self.answer_later();
        self.db.submit(Box::new(move || answer(job())));
    }

    /// The same, of one that takes as long as the disk does for two megabytes.
    pub fn submit_scan(&self, job: impl FnOnce() -> Answer + Send + 'static) {
        let answer = self.answer_later();
        self.db.submit_scan(Box::new(move || answer(job())));
    }

    /// How another thread answers the connection being worked on.
    pub fn answer_later(&self) -> impl FnOnce(Answer) + Send + 'static + use<> {
        let (inbox, token) = (self.inbox.clone(), self.token);
        move |answer| inbox.post(Letter { token, answer })
    }
}
