//! `get`, `gets`, `gat` and `gats`. Keys are taken from the line one by one and answered at once, so a line
//! may be of any length and may arrive in any pieces; with too much unsent the connection pauses between two
//! keys and goes on later. A value that lives in an extent file goes out by up to 16 chunks per turn.

use super::answer::{self, Form};
use super::context::{CHUNKS_OUT, Context, LINE, Waiting};
use super::counters::Counter;
use super::inbox::Answer;
use super::input::Input;
use super::log;
use super::proto::text::scan::spaces;
use super::proto::text::{self, NextKey, Retrieval};
use super::reply;
use super::verdict::Supply;
use super::watch;
use kingdb::Error;
use kingdb::store::{
    Body, CHUNK, Expect, FETCHED, Fetched, Large, Lookup, NewBody, Outcome, Record, Seen, TableBlock, Write,
};
use kingdb::sys::clock;
use std::time::Duration;

/// Keys looked up per turn of a connection: those that are not there take nothing of its bytes.
const KEYS: usize = 1024;

/// In the list of keys of a retrieval.
#[derive(Clone, Copy)]
pub struct Keys {
    with_cas: bool,
    /// gat, gats: the new deadline.
    touch: Option<u64>,
    /// Whether there was a key yet: a line without one is an error.
    any: bool,
}

/// What the list of keys came to.
pub enum KeysStep {
    /// To the line's end: the next command.
    End,
    /// The rest of the line is to be skipped.
    Skip,
    /// A large value is to be streamed first.
    Stream(Box<Streaming>),
    /// See [`Step::Wait`](super::context::Step::Wait).
    Wait(Waiting),
}

/// What one key came to.
enum Found {
    /// Answered, or missed.
    Answered,
    /// Answered with an error: the client takes that for the reply's end.
    Failed,
    /// To be streamed, behind this header.
    Large(Large, Vec<u8>),
    Wait(Waiting),
}

/// What a lookup leaves behind, besides the reply.
struct Hit {
    flags: u32,
    cas: u64,
    marks: u8,
    size: u64,
    large: Option<Large>,
}

impl Keys {
    /// At the first key.
    pub fn new(head: Retrieval, now: u64) -> Self {
        let touch = head.touch.map(|exptime| text::deadline(exptime, now));
        Self { with_cas: head.with_cas, touch, any: false }
    }

    /// Answers keys until the line ends or something is to be waited for. `supply` is for the first of them.
    pub fn step(&mut self, input: &mut Input<'_>, supply: &mut Option<Box<Supply>>, ctx: &mut Context) -> KeysStep {
        // An error takes the place of the whole reply, as far as none of it has left the turn's buffer.
        let start = (!self.any).then_some(ctx.replies.len());
        for _ in 0..KEYS {
            if ctx.unsent() >= ctx.unsent_limit {
                return KeysStep::Wait(Waiting::Peer);
            }
            let (used, key) = match text::next_key(input.rest()) {
                NextKey::Key { used, key } => (used, key),
                NextKey::Incomplete => {
                    input.advance(spaces(input.rest()));
                    return KeysStep::Wait(Waiting::Input);
                }
                NextKey::End { used } => {
                    input.advance(used);
                    ctx.say(if self.any { reply::END } else { reply::BAD_LINE });
                    return KeysStep::End;
                }
                NextKey::Bad => {
                    ctx.refused(input.rest(), reply::BAD_LINE);
                    start.into_iter().for_each(|start| ctx.replies.truncate(start));
                    ctx.say(reply::BAD_LINE);
                    return KeysStep::Skip;
                }
            };
            let found = match self.touch {
                None => self.get(key, supply.take(), ctx),
                Some(deadline) => self.get_and_touch(key, deadline, supply, ctx),
            };
            match found {
                Found::Wait(waiting) => return KeysStep::Wait(waiting),
                Found::Answered => input.advance(used),
                Found::Failed => return KeysStep::Skip,
                Found::Large(large, header) => {
                    input.advance(used);
                    self.any = true;
                    return KeysStep::Stream(Streaming::new(large, header, After::Keys(*self)));
                }
            }
            (self.any, ctx.progressed) = (true, true);
        }
        KeysStep::Wait(Waiting::Turn)
    }

    #[inline]
    fn get(&self, key: &[u8], supply: Option<Box<Supply>>, ctx: &mut Context) -> Found {
        match self.look(key, Supply::fetched(&supply), ctx) {
            Ok(Lookup::Hit(seen, hit)) => {
                self.count(key, Some(hit.size), ctx);
                ctx.depend(seen.depends);
                self.found(key, hit)
            }
            Ok(Lookup::Miss(seen)) => self.miss(key, seen, ctx),
            Ok(Lookup::Cold(read)) => park(read, ctx),
            Err(error) => fail(&error, ctx),
        }
    }

    fn get_and_touch(&self, key: &[u8], deadline: u64, supply: &mut Option<Box<Supply>>, ctx: &mut Context) -> Found {
        if let Err(waiting) = ctx.may_write() {
            return Found::Wait(waiting);
        }
        let supply = supply.take();
        let start = ctx.replies.len();
        loop {
            let (seen, hit) = match self.look(key, Supply::fetched(&supply), ctx) {
                Ok(Lookup::Hit(seen, hit)) => (seen, hit),
                Ok(Lookup::Miss(seen)) => return self.miss(key, seen, ctx),
                Ok(Lookup::Cold(read)) => return park(read, ctx),
                Err(error) => return fail(&error, ctx),
            };
            match self.touch_seen(key, deadline, seen, &hit, start, ctx) {
                Ok(Outcome::Done { depends, .. }) => {
                    self.count(key, Some(hit.size), ctx);
                    ctx.depend(depends.max(seen.depends));
                    return self.found(key, hit);
                }
                Ok(Outcome::Conflict) => ctx.replies.truncate(start),
                Err(error) => {
                    ctx.replies.truncate(start);
                    return fail(&error, ctx);
                }
            }
        }
    }

    /// Writes the record again with its new deadline. A small value is taken from where the reply has it.
    fn touch_seen(
        &self,
        key: &[u8],
        deadline: u64,
        seen: Seen,
        hit: &Hit,
        start: usize,
        ctx: &mut Context,
    ) -> kingdb::store::Result<Outcome> {
        let said = &ctx.replies[start..];
        let body = match &hit.large {
            Some(large) => NewBody::Same(large),
            None => {
                let header = said.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                NewBody::Inline(&said[header..said.len() - reply::LINE_END.len()])
            }
        };
        ctx.appended += key.len() + said.len();
        let write = Write {
            key: ctx.db.key(key),
            flags: hit.flags,
            expires: deadline,
            marks: hit.marks | FETCHED,
            cas: Some(hit.cas),
            body,
            expect: Expect::Unchanged(seen),
        };
        ctx.db.write(&write, &mut ctx.scratch)
    }

    /// Looks the key up; a small value goes straight into the replies.
    #[inline]
    fn look(&self, key: &[u8], supplied: Option<&Fetched>, ctx: &mut Context) -> kingdb::store::Result<Lookup<Hit>> {
        let Context { db, replies, scratch, now, .. } = ctx;
        let with_cas = self.with_cas;
        db.lookup(&db.key(key), *now, supplied, scratch, |record: Record<'_>| {
            let size = record.len();
            let large = match record.body {
                Body::Large(large) => Some(large.clone()),
                Body::Inline(value) => {
                    let cas = with_cas.then_some(record.cas);
                    reply::value_header(replies, key, record.flags, value.len() as u64, cas);
                    replies.extend_from_slice(value);
                    replies.extend_from_slice(reply::LINE_END);
                    None
                }
            };
            Hit { flags: record.flags, cas: record.cas, marks: record.marks, size, large }
        })
    }

    fn found(&self, key: &[u8], hit: Hit) -> Found {
        let Some(large) = hit.large else {
            return Found::Answered;
        };
        let mut header = Vec::with_capacity(key.len() + 80);
        let cas = self.with_cas.then_some(hit.cas);
        reply::value_header(&mut header, key, hit.flags, large.len(), cas);
        Found::Large(large, header)
    }

    fn miss(&self, key: &[u8], seen: Seen, ctx: &mut Context) -> Found {
        self.count(key, None, ctx);
        count_expired(&seen, ctx);
        ctx.depend(seen.depends);
        Found::Answered
    }

    /// As memcached counts: `gat` is a touch that answers, not a get.
    #[inline]
    fn count(&self, key: &[u8], hit: Option<u64>, ctx: &Context) {
        count(key, self.touch.is_some(), hit, ctx);
    }
}

fn park(read: kingdb::store::ColdRead, ctx: &Context) -> Found {
    ctx.submit(move || Answer::Fetched(read.run()));
    Found::Wait(Waiting::Lane)
}

fn fail(error: &Error, ctx: &mut Context) -> Found {
    answer::note_damage(error);
    reply::store_error(&mut ctx.replies, error);
    Found::Failed
}

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
        let said = std::mem::take(&mut self.said);
        let back = unsent.min(said);
        self.next -= back as u64;
        self.most = match back {
            0 => CHUNKS_OUT.min(self.most + usize::from(said > 0)),
            _ => CHUNKS.max(self.most / 2),
        };
        back
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
            Source::Here => self.read(ctx),
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

    fn read(&mut self, ctx: &mut Context) -> kingdb::store::Result<bool> {
        let Context { replies, scratch, .. } = ctx;
        self.large.read_nowait(self.next, &mut self.block, scratch, replies)
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

/// Counts one look at a key, and tells watchers of it: `hit` is the value's length, if there was one.
pub fn count(key: &[u8], touches: bool, hit: Option<u64>, ctx: &Context) {
    if ctx.observed != 0 {
        watch::fetched(key, hit.is_some(), hit.unwrap_or(0), ctx);
    }
    let (command, outcome) = match (touches, hit.is_some()) {
        (false, true) => (Counter::CmdGet, Counter::GetHits),
        (false, false) => (Counter::CmdGet, Counter::GetMisses),
        (true, true) => (Counter::CmdTouch, Counter::TouchHits),
        (true, false) => (Counter::CmdTouch, Counter::TouchMisses),
    };
    ctx.count(command);
    ctx.count(outcome);
}

/// Counts a miss that was a hit until its time came.
pub fn count_expired(seen: &Seen, ctx: &Context) {
    if seen.expired {
        ctx.count(Counter::GetExpired);
    }
}
