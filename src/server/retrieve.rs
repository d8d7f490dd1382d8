//! `get`, `gets`, `gat` and `gats`. Keys are taken from the line one by one and answered at once, so a line
//! may be of any length and may arrive in any pieces; with too much unsent the connection pauses between two
//! keys and goes on later. What lives in an extent file goes out by `streaming`.

use super::answer;
use super::context::{Context, Waiting};
use super::counters::Counter;
use super::inbox::Answer;
use super::input::Input;
use super::proto::text::scan::spaces;
use super::proto::text::{self, NextKey, Retrieval};
use super::reply;
use super::streaming::{After, Streaming};
use super::verdict::Supply;
use super::watch;
use kingdb::Error;
use kingdb::store::{Body, Expect, FETCHED, Fetched, Large, Lookup, NewBody, Outcome, Record, Seen, Write};

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
