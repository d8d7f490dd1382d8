//! `get`, `gets`, `gat` and `gats`. Keys are taken from the line one by one and answered at once, so a line
//! may be of any length and may arrive in any pieces; with too much unsent the connection pauses between two
//! keys and goes on later. A value that lives in an extent file goes out one chunk per turn.

use super::answer::{self, Form};
use super::context::{Context, UNSENT_LIMIT, Waiting};
use super::counters::Counter;
use super::inbox::Answer;
use super::input::Input;
use super::log;
use super::proto::text::{self, NextKey, Retrieval};
use super::reply;
use super::verdict::Supply;
use super::watch;
use kingdb::Error;
use kingdb::store::{Body, Expect, FETCHED, Fetched, Large, Lookup, NewBody, Outcome, Record, Seen, Write};

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
    Large(Box<Streaming>),
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
        loop {
            if ctx.unsent() >= UNSENT_LIMIT {
                return KeysStep::Wait(Waiting::Peer);
            }
            let (used, key) = match text::next_key(input.rest()) {
                NextKey::Key { used, key } => (used, key),
                NextKey::Incomplete => return KeysStep::Wait(Waiting::Input),
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
                Found::Large(streaming) => {
                    input.advance(used);
                    self.any = true;
                    return KeysStep::Stream(streaming.then(*self));
                }
            }
            self.any = true;
        }
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
        Found::Large(Streaming::new(large, header, After::Keys(*self)))
    }

    fn miss(&self, key: &[u8], seen: Seen, ctx: &mut Context) -> Found {
        self.count(key, None, ctx);
        ctx.depend(seen.depends);
        Found::Answered
    }

    /// As memcached counts: `gat` is a touch that answers, not a get.
    #[inline]
    fn count(&self, key: &[u8], hit: Option<u64>, ctx: &Context) {
        if ctx.observed != 0 {
            watch::fetched(key, hit.is_some(), hit.unwrap_or(0), ctx);
        }
        let (command, outcome) = match (self.touch, hit.is_some()) {
            (None, true) => (Counter::CmdGet, Counter::GetHits),
            (None, false) => (Counter::CmdGet, Counter::GetMisses),
            (Some(_), true) => (Counter::CmdTouch, Counter::TouchHits),
            (Some(_), false) => (Counter::CmdTouch, Counter::TouchMisses),
        };
        ctx.count(command);
        ctx.count(outcome);
    }
}

fn park(read: kingdb::store::ColdRead, ctx: &Context) -> Found {
    ctx.submit(move || Answer::Fetched(read.run()));
    Found::Wait(Waiting::Lane)
}

fn fail(error: &Error, ctx: &mut Context) -> Found {
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

/// A large value on its way out.
pub struct Streaming {
    large: Large,
    /// The next chunk to go out.
    next: u64,
    /// Sent before the first chunk: until that one is there, an error can still be told.
    header: Vec<u8>,
    source: Source,
    after: After,
}

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
    /// Of `large`, behind `header`.
    pub fn new(large: Large, header: Vec<u8>, after: After) -> Box<Self> {
        Box::new(Self { large, next: 0, header, source: Source::Here, after })
    }

    fn then(mut self: Box<Self>, keys: Keys) -> Box<Self> {
        self.after = After::Keys(keys);
        self
    }

    /// The lane's answer to a fetch.
    pub fn came(&mut self, chunk: kingdb::store::Result<Vec<u8>>) {
        assert!(matches!(self.source, Source::Asked), "a chunk comes only when asked for");
        self.source = Source::Came(chunk);
    }

    /// Sends the next chunk, at most one per turn.
    pub fn step(&mut self, ctx: &mut Context) -> StreamStep {
        if !ctx.chunk_left {
            return StreamStep::Wait(Waiting::Turn);
        }
        let sent = match std::mem::replace(&mut self.source, Source::Here) {
            Source::Asked => unreachable!("a connection that waits for the lane takes no step"),
            Source::Came(Ok(chunk)) => {
                self.say(&chunk, ctx);
                Ok(Some(()))
            }
            Source::Came(Err(error)) => Err(error),
            Source::Here => self.read(ctx),
        };
        match sent {
            Ok(Some(())) => self.sent(ctx),
            Ok(None) => {
                let fetch = self.large.fetch(self.next);
                ctx.submit(move || Answer::Chunk(fetch.run()));
                self.source = Source::Asked;
                StreamStep::Wait(Waiting::Lane)
            }
            Err(error) if self.next == 0 => {
                answer::fail(&self.after.form(), &error, ctx);
                StreamStep::Failed(self.after)
            }
            Err(error) => {
                log::error(format_args!("a value broke off while it was sent, connection closed: {error}"));
                StreamStep::Broken
            }
        }
    }

    fn read(&self, ctx: &mut Context) -> kingdb::store::Result<Option<()>> {
        let Context { replies, scratch, .. } = ctx;
        let header = if self.next == 0 { &self.header[..] } else { &[] };
        self.large.read_nowait(self.next, scratch, |chunk| {
            replies.extend_from_slice(header);
            replies.extend_from_slice(chunk);
        })
    }

    fn say(&self, chunk: &[u8], ctx: &mut Context) {
        if self.next == 0 {
            ctx.say(&self.header);
        }
        ctx.say(chunk);
    }

    fn sent(&mut self, ctx: &mut Context) -> StreamStep {
        self.next += 1;
        ctx.chunk_left = false;
        if self.next < self.large.chunks() {
            return StreamStep::Wait(Waiting::Turn);
        }
        ctx.say(&reply::LINE_END[..self.after.form().tail()]);
        StreamStep::End(self.after)
    }
}
