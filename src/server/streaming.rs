//! A large value, or a part of one, on its way out, by up to 16 chunks per turn of the worker that has the connection. Between two
//! turns nothing of it is in memory, or one chunk that the disk lane has brought.
//!
//! Every chunk is read and its checksum compared. As a rule it is then sent from where it was read to. A value that has a file
//! alone, and is not compressed, is *lent*: it is read only to be looked at, each chunk into the same memory, which stays in the
//! processor's cache, and leaves by sendfile(2) straight from the page cache. That costs the same however far apart the
//! processors of server and client are, where a copy costs up to twice as much. (What the page cache had when it was looked at is
//! what is sent, unless the kernel gives it up in the same turn and reads it from the disk again.) The store sees to it that
//! what was lent is never changed; see `ExtentFile::may_lend`.

use super::answer::{self, Form};
use super::context::{CHUNKS_OUT, Context, LINE, Waiting};
use super::counters::Counter;
use super::inbox::Answer;
use super::log;
use super::reply;
use super::retrieve::Keys;
use kingdb::Error;
use kingdb::store::{CHUNK, Large, TableBlock};
use kingdb::sys::clock;
use kingdb::sys::socket::Stream;
use std::io::ErrorKind;
use std::time::Duration;

/// What a large value belongs to.
#[derive(Clone, Copy)]
pub enum After {
    /// A list of keys, which goes on afterwards.
    Keys(Keys),
    /// A command on one key.
    Command(Form<'static>),
}

impl After {
    fn form(&self) -> Form<'static> {
        match self {
            After::Keys(_) => Form::Text { noreply: false },
            After::Command(form) => *form,
        }
    }
}

/// A large value, or a part of one, on its way out. Of any length: between two turns at most one chunk of it is in memory.
pub struct Streaming {
    large: Large,
    /// Offset in the value of the next byte to go out, and where it ends.
    next: u64,
    end: u64,
    /// Sent before the first byte: until that one is there, an error can still be told.
    header: Vec<u8>,
    source: Source,
    /// The part of the value's table that was read last.
    block: TableBlock,
    /// Chunks of the next turn at most: one more after a send that the socket took whole, half as many after another one,
    /// for what it does not take was read in vain.
    most: usize,
    /// Bytes of the value at the end of the turn's replies.
    said: usize,
    /// Bytes from `next` on that were looked at in this turn and are to leave straight from the page cache.
    lent: usize,
    /// Whether more may be lent: not after the kernel could not send from the file.
    lends: bool,
    after: After,
}

/// Memory of a chunk that comes from the lane, packed and unpacked. Bytes.
const FETCH: usize = 2 * CHUNK;

/// Chunks of a value's first turn; see [`Streaming::take_back`] for the others.
const CHUNKS: usize = 4;
/// After so long none is added to a chunk of a turn: out of memory that the processor has not seen for long, or never, one may
/// take ten times as long as it does else.
const QUICK: Duration = Duration::from_micros(300);

/// While more follows, bytes leave by so many or a little more: as the loopback device's largest packet has them, less a line
/// of the processor's cache or two. What a send has beyond whole packets would be one of its own, and the peer be woken for it.
const PACKET: usize = CHUNK - 3 * LINE;

/// Where the next chunk comes from.
enum Source {
    /// It is read here and now, if that cannot sleep.
    Here,
    /// It was asked of the disk lane.
    Asked,
    /// The lane's answer.
    Came(kingdb::store::Result<Vec<u8>>),
}

/// What a step of a large value came to.
pub enum StreamStep {
    /// All of it is out.
    End(After),
    /// An error was told in its place.
    Failed(After),
    /// Some of it is out and the rest cannot follow: nothing the client would understand can be said any more.
    Broken,
    /// See [`Step::Wait`](super::context::Step::Wait).
    Wait(Waiting),
}

impl Streaming {
    /// All of `large`, behind `header`.
    pub fn new(large: Large, header: Vec<u8>, after: After) -> Box<Self> {
        let part = (0, large.len());
        Self::part(large, part, header, after)
    }

    /// What `large` has from one offset to another, at most its length, behind `header`.
    pub fn part(large: Large, (next, end): (u64, u64), header: Vec<u8>, after: After) -> Box<Self> {
        assert!(next < end && end <= large.len(), "there is something to send");
        Box::new(Self {
            large,
            next,
            end,
            header,
            source: Source::Here,
            block: TableBlock::default(),
            most: CHUNKS,
            said: 0,
            lent: 0,
            lends: true,
            after,
        })
    }

    /// The lane's answer to a fetch.
    pub fn came(&mut self, chunk: kingdb::store::Result<Vec<u8>>) {
        assert!(matches!(self.source, Source::Asked), "it was asked for");
        self.source = Source::Came(chunk);
    }

    /// Takes back what did not leave of the turn's replies, as far as it was the value's: it is read again when the peer
    /// takes more, and not held meanwhile. Tells how much that is, of `unsent` bytes.
    pub fn take_back(&mut self, unsent: usize) -> usize {
        let (said, lent) = (std::mem::take(&mut self.said), std::mem::take(&mut self.lent));
        let back = unsent.min(said);
        self.next -= back as u64;
        self.most = match back + lent {
            0 => CHUNKS_OUT.min(self.most + usize::from(said > 0)),
            _ => CHUNKS.max(self.most / 2),
        };
        back
    }

    /// Whether something is to leave straight from the page cache, behind the turn's replies.
    pub fn has_lent(&self) -> bool {
        self.lent > 0
    }

    /// Sends what is. Whether the socket may take more. Where the kernel cannot send from this file, or not to this socket, the
    /// rest is copied: so what is wrong with either is found, and told, where it is for all other values.
    pub fn send_lent(&mut self, stream: &Stream, ctx: &Context) -> bool {
        while self.lent > 0 {
            let sent = self.large.lend(self.next).map(|(file, offset)| stream.send_file(file, offset, self.lent));
            match sent {
                Ok(Ok(count @ 1..)) => self.lent_left(count, ctx),
                Ok(Err(error)) if error.kind() == ErrorKind::WouldBlock => return false,
                _ => (self.lent, self.lends) = (0, false),
            }
        }
        true
    }

    fn lent_left(&mut self, count: usize, ctx: &Context) {
        ctx.counters().add(Counter::BytesWritten, count as u64);
        (self.next, self.lent) = (self.next + count as u64, self.lent - count);
        if self.lent == 0 {
            self.most = CHUNKS_OUT.min(self.most + 1);
        }
    }

    /// The peer takes nothing now, for however long: a chunk that came is read again when he does.
    pub fn forget(&mut self) {
        self.source = Source::Here;
    }

    /// Memory it holds, or soon will: for a chunk from the lane, and for as long as the value is on its way. Bytes.
    pub fn holds(&self) -> (usize, usize) {
        (if matches!(self.source, Source::Here) { 0 } else { FETCH }, self.block.holds())
    }

    /// Sends the next chunks. The last one begins a turn: what is not taken of it has to be held, and of others not.
    pub fn step(&mut self, ctx: &mut Context) -> StreamStep {
        let (began, last) = (clock::monotonic(), self.end.saturating_sub(CHUNK as u64));
        let is_last = self.next >= last;
        let begun = self.header.is_empty() && matches!(self.source, Source::Here);
        if begun && self.lends && self.lend(last, began, ctx) {
            return StreamStep::Wait(Waiting::Turn);
        }
        for _ in 0..self.most {
            if let Some(step) = self.step_chunk(ctx) {
                return step;
            }
            if self.next >= last && !is_last {
                return StreamStep::Wait(Waiting::Turn);
            }
            if self.said >= CHUNK && clock::monotonic() - began > QUICK {
                break;
            }
        }
        self.round(ctx);
        StreamStep::Wait(Waiting::Turn)
    }

    /// Lends the next chunks, but for the last one, if it may: they are read to be looked at, all into the same memory, and not
    /// sent from there. Whether there are any.
    fn lend(&mut self, last: u64, began: Duration, ctx: &mut Context) -> bool {
        let before = ctx.replies.len();
        for _ in 0..self.most {
            let offset = self.next + self.lent as u64;
            if offset >= last || !self.large.may_lend(self.next, offset, &mut self.block) {
                break;
            }
            // What is wrong with it is told when it is the first.
            let is_sound = self.read(offset, ctx).is_ok_and(|read| read);
            self.lent += ctx.replies.len() - before;
            ctx.replies.truncate(before);
            if !is_sound || clock::monotonic() - began > QUICK {
                break;
            }
        }
        if self.lent > 0 {
            ctx.end_turn();
        }
        self.lent > 0
    }

    /// Takes back what would be a small packet behind whole ones, in lines, so that what comes next begins at one.
    fn round(&mut self, ctx: &mut Context) {
        let bytes = ctx.unsent();
        let over = bytes % PACKET / LINE * LINE;
        if bytes >= PACKET && over <= self.said {
            ctx.replies.truncate(ctx.replies.len() - over);
            (self.said, self.next) = (self.said - over, self.next - over as u64);
        }
    }

    /// Sends the next chunk. `None`: more may follow.
    fn step_chunk(&mut self, ctx: &mut Context) -> Option<StreamStep> {
        let start = ctx.replies.len();
        ctx.replies.extend_from_slice(&self.header);
        let before = ctx.replies.len();
        let sent = match std::mem::replace(&mut self.source, Source::Here) {
            Source::Asked => unreachable!("it waits for the lane"),
            Source::Came(chunk) => chunk.map(|chunk| {
                ctx.say(&chunk);
                true
            }),
            Source::Here => self.read(self.next, ctx),
        };
        match sent {
            Ok(true) => self.sent(before, ctx),
            // Of what was said in this turn some may come back, and then another chunk is the next one.
            Ok(false) | Err(_) if self.said > 0 => {
                ctx.replies.truncate(start);
                Some(StreamStep::Wait(Waiting::Turn))
            }
            Ok(false) => {
                ctx.replies.truncate(start);
                if let Err(waiting) = ctx.admit(FETCH) {
                    return Some(StreamStep::Wait(waiting));
                }
                let fetch = self.large.fetch(self.next);
                ctx.submit(move || Answer::Chunk(fetch.run()));
                self.source = Source::Asked;
                Some(StreamStep::Wait(Waiting::Lane))
            }
            Err(error) => Some(self.fail(&error, start, ctx)),
        }
    }

    fn read(&mut self, offset: u64, ctx: &mut Context) -> kingdb::store::Result<bool> {
        let Context { replies, scratch, .. } = ctx;
        self.large.read_nowait(offset, &mut self.block, scratch, replies)
    }

    /// What the replies have from `before` on is the value's next bytes, and perhaps some too many.
    fn sent(&mut self, before: usize, ctx: &mut Context) -> Option<StreamStep> {
        let left = usize::try_from(self.end - self.next).unwrap_or(usize::MAX);
        ctx.replies.truncate(before.saturating_add(left));
        let sent = ctx.replies.len() - before;
        (self.said, self.next) = (self.said + sent, self.next + sent as u64);
        self.header = Vec::new();
        ctx.end_turn();
        if self.next < self.end {
            return None;
        }
        ctx.say(&reply::LINE_END[..self.after.form().tail()]);
        Some(StreamStep::End(self.after))
    }

    fn fail(&self, error: &Error, start: usize, ctx: &mut Context) -> StreamStep {
        ctx.replies.truncate(start);
        if !self.header.is_empty() {
            answer::fail(&self.after.form(), error, ctx);
            return StreamStep::Failed(self.after);
        }
        log::error(format_args!("a value broke off while it was sent, connection closed: {error}"));
        StreamStep::Broken
    }
}
