//! One key looked up, told, and perhaps touched: `mg`, and the binary dialect's get, getk, gat, gatk and touch. Whoever
//! finds a stale value, or one that expires soon, or none, may win the right to renew it, which is a mark that the
//! record keeps.

use super::answer::{self, Facts, Form, Meta, Said};
use super::context::{Context, Waiting};
use super::inbox::Answer;
use super::proto::base64;
use super::proto::binary::{FLAGS, Status};
use super::reply;
use super::retrieve;
use super::streaming::{After, Streaming};
use super::verdict::{Old, Particulars, Source, Supply, look_as, write};
use kingdb::store::{Access, BINARY_KEY, Body, Expect, FETCHED, Large, Lookup, NewBody, STALE, Seen, WON};

/// See the module's head.
pub struct Fetch<'a> {
    pub key: &'a [u8],
    pub form: Form<'a>,
    /// The answer is to have the value.
    pub value: bool,
    /// Nobody is to notice.
    pub peek: bool,
    /// Gives the record this deadline.
    pub touch: Option<u64>,
    /// Makes a record if there is none: the deadline that is told of it, and, if T follows, the one that it gets.
    pub vivify: Option<(u64, u64)>,
    /// A deadline before this one wins the right to renew the record.
    pub recache: Option<u64>,
    /// With this CAS unique the value is not wanted.
    pub cas: Option<u64>,
    /// The CAS unique of a record that is made.
    pub new_cas: Option<u64>,
    /// Of the value, only what stands from this offset on, at most so many bytes.
    pub range: Option<(u64, u64)>,
}

/// What it came to.
pub enum Fetched {
    Done,
    /// The value is to be streamed.
    Large(Box<Streaming>),
    /// See [`Step::Wait`](super::context::Step::Wait).
    Wait(Waiting),
}

/// What a lookup leaves behind, besides the reply's beginning.
struct Hit {
    facts: Facts,
    large: Option<Large>,
    /// The value is wanted.
    value: bool,
    /// The dialect can tell a value of its length.
    told: bool,
}

/// What a change of the record came to.
enum Changed {
    Done,
    Again,
    Wait(Waiting),
    /// There is no telling it: nothing was changed.
    TooLarge,
}

impl Fetch<'_> {
    /// Executes the command.
    pub fn execute(&self, supply: &mut Option<Box<Supply>>, ctx: &mut Context) -> Fetched {
        let start = ctx.replies.len();
        loop {
            let (changed, hit) = match self.attempt(supply, ctx) {
                Ok(Lookup::Hit(_, done)) => done,
                Ok(Lookup::Miss(seen)) => {
                    *supply = None;
                    retrieve::count_expired(&seen, ctx);
                    self.say_miss(ctx);
                    return Fetched::Done;
                }
                Ok(Lookup::Cold(read)) => {
                    ctx.submit(move || Answer::Fetched(read.run()));
                    return Fetched::Wait(Waiting::Lane);
                }
                Err(error) => {
                    *supply = None;
                    ctx.replies.truncate(start);
                    answer::fail(&self.form, &error, ctx);
                    return Fetched::Done;
                }
            };
            match changed {
                Changed::Done => {
                    *supply = None;
                    self.count(Some(hit.facts.size), ctx);
                    return self.streamed(hit, start, ctx);
                }
                Changed::Again => ctx.replies.truncate(start),
                Changed::TooLarge => {
                    *supply = None;
                    self.count(Some(hit.facts.size), ctx);
                    answer::tell(&self.form, self.key, Said::TooLarge, &hit.facts, ctx);
                    return Fetched::Done;
                }
                Changed::Wait(waiting) => {
                    ctx.replies.truncate(start);
                    return Fetched::Wait(waiting);
                }
            }
        }
    }

    /// Looks, answers, and writes what is to be written.
    fn attempt(
        &self,
        supply: &Option<Box<Supply>>,
        ctx: &mut Context,
    ) -> kingdb::store::Result<Lookup<(Changed, Hit)>> {
        Ok(match self.look(supply, ctx)? {
            Lookup::Cold(read) => Lookup::Cold(read),
            Lookup::Hit(seen, hit) => {
                ctx.depend(seen.depends);
                Lookup::Hit(seen, (self.change(seen, &hit, ctx)?, hit))
            }
            Lookup::Miss(seen) => {
                ctx.depend(seen.depends);
                match self.vivify {
                    Some(deadlines) => Lookup::Hit(seen, self.make(seen, deadlines, ctx)?),
                    None => Lookup::Miss(seen),
                }
            }
        })
    }

    /// The reply, up to a large value, goes straight into the replies. A small value that must be written again is
    /// copied.
    fn look(&self, supply: &Option<Box<Supply>>, ctx: &mut Context) -> kingdb::store::Result<Lookup<Hit>> {
        let Context { db, replies, scratch, value: copy, now, .. } = ctx;
        let key = db.key(self.key).with(if self.peek { Access::Peek } else { Access::Fetch });
        db.lookup(&key, *now, Supply::fetched(supply), scratch, |record| {
            let value = self.value && self.cas != Some(record.cas);
            let mut facts = Facts {
                cas: record.cas,
                size: record.len(),
                flags: record.flags,
                marks: record.marks,
                idle: record.idle,
                expires: record.expires,
                touch: self.touch,
                recache: self.recache,
                ..Facts::default()
            };
            let told = self.say_head(&mut facts, value, *now, replies);
            let large = match record.body {
                Body::Large(large) => Some(large.clone()),
                Body::Inline(bytes) => {
                    if value {
                        let (from, to) = self.part(facts.size);
                        replies.extend_from_slice(&bytes[from as usize..to as usize]);
                        replies.extend_from_slice(&reply::LINE_END[..self.form.tail()]);
                    }
                    copy.clear();
                    if facts.won || self.touch.is_some() {
                        copy.extend_from_slice(bytes);
                    }
                    None
                }
            };
            Hit { facts, large, value, told }
        })
    }

    /// Writes the record again with its new deadline and mark, if it gets any.
    fn change(&self, seen: Seen, hit: &Hit, ctx: &mut Context) -> kingdb::store::Result<Changed> {
        if !hit.told {
            return Ok(Changed::TooLarge);
        }
        let Facts { flags, cas, won, marks, expires, .. } = hit.facts;
        if !won && self.touch.is_none() {
            return Ok(Changed::Done);
        }
        if let Err(waiting) = ctx.may_write() {
            return Ok(Changed::Wait(waiting));
        }
        let source = hit.large.as_ref().map_or(Source::Computed, |large| Source::Given(NewBody::Same(large)));
        let marks = marks | if won { WON } else { 0 } | if self.peek { 0 } else { FETCHED };
        let expires = self.touch.unwrap_or(expires);
        let particulars = Particulars { flags, expires, marks, cas: Some(cas), expect: Expect::Unchanged(seen) };
        self.written(particulars, source, ctx).map(|cas| cas.map_or(Changed::Again, |_| Changed::Done))
    }

    fn written(
        &self,
        particulars: Particulars,
        source: Source<'_>,
        ctx: &mut Context,
    ) -> kingdb::store::Result<Option<u64>> {
        write(ctx.db.key(self.key), particulars, source, ctx)
    }

    /// Makes an empty record, which whoever asked for it is to renew.
    fn make(
        &self,
        seen: Seen,
        (told, expires): (u64, u64),
        ctx: &mut Context,
    ) -> kingdb::store::Result<(Changed, Hit)> {
        let value = self.value;
        let mut hit = Hit { facts: Facts::default(), large: None, value, told: true };
        if let Err(waiting) = ctx.may_write() {
            return Ok((Changed::Wait(waiting), hit));
        }
        let base64 = matches!(self.form, Form::Meta(Meta { base64: true, .. }));
        let key = if base64 { BINARY_KEY } else { 0 };
        let marks = WON | key | if self.peek { 0 } else { FETCHED };
        let particulars = Particulars { flags: 0, expires, marks, cas: self.new_cas, expect: Expect::Unchanged(seen) };
        let Some(cas) = self.written(particulars, Source::Given(NewBody::Inline(&[])), ctx)? else {
            return Ok((Changed::Again, hit));
        };
        hit.facts = Facts { cas, vivified: Some(told), touch: self.touch, won: true, marks: key, ..Facts::default() };
        let now = ctx.now;
        self.say_head(&mut hit.facts, value, now, &mut ctx.replies);
        if value {
            ctx.say(reply::LINE_END);
        }
        Ok((Changed::Done, hit))
    }

    /// What stands before the value, unless the dialect cannot tell one of that length.
    fn say_head(&self, facts: &mut Facts, value: bool, now: u64, out: &mut Vec<u8>) -> bool {
        match &self.form {
            Form::Meta(meta) => {
                out.extend_from_slice(if value { b"VA " } else { b"HD" });
                if value {
                    let (from, to) = self.part(facts.size);
                    reply::number(out, to - from);
                }
                let told = Meta { base64: facts.marks & BINARY_KEY != 0, ..*meta };
                told.reflect(b"OkstcflhTNR", self.key, facts, now, out);
                let sent = facts.marks & WON != 0;
                let stale = facts.marks & STALE != 0;
                facts.won = !sent && (facts.won || stale);
                for (mark, text) in [(sent, b" Z"), (stale, b" X"), (facts.won, b" W")] {
                    if mark {
                        out.extend_from_slice(text);
                    }
                }
                out.extend_from_slice(reply::LINE_END);
            }
            Form::Binary(frame) => {
                let (key, value) = frame.parts();
                let key = if key { self.key } else { &[] };
                if !frame.header(out, 0, FLAGS, key.len(), if value { facts.size } else { 0 }, facts.cas) {
                    return false;
                }
                out.extend_from_slice(&facts.flags.to_be_bytes());
                out.extend_from_slice(key);
            }
            Form::Text { .. } => unreachable!("text has its own retrieval"),
        }
        true
    }

    /// What is wanted of a value of `size` bytes: from one offset to another.
    fn part(&self, size: u64) -> (u64, u64) {
        let (offset, len) = self.range.unwrap_or((0, size));
        let from = offset.min(size);
        (from, from.saturating_add(len).min(size))
    }

    fn say_miss(&self, ctx: &mut Context) {
        self.count(None, ctx);
        match &self.form {
            Form::Meta(meta) if !meta.quiet => {
                ctx.say(b"EN");
                meta.reflect(b"Ok", self.key, &mut Facts::default(), ctx.now, &mut ctx.replies);
                ctx.say(reply::LINE_END);
            }
            Form::Binary(frame) if !frame.quiet => match frame.parts() {
                (true, _) => {
                    frame.header(&mut ctx.replies, Status::NotFound as u8, 0, self.key.len(), 0, 0);
                    ctx.say(self.key);
                }
                _ => frame.refuse(&mut ctx.replies, Status::NotFound, Status::NotFound.text()),
            },
            _ => {}
        }
    }

    /// A large value's header is told with its first chunk, so that an error can still take its place.
    fn streamed(&self, hit: Hit, start: usize, ctx: &mut Context) -> Fetched {
        match hit.large {
            Some(large) if hit.value => {
                let part = self.part(large.len());
                if part.0 == part.1 {
                    ctx.say(&reply::LINE_END[..self.form.tail()]);
                    return Fetched::Done;
                }
                let header = ctx.replies[start..].to_vec();
                ctx.replies.truncate(start);
                Fetched::Large(Streaming::part(large, part, header, After::Command(self.form.with(&[]))))
            }
            _ => Fetched::Done,
        }
    }

    /// As memcached counts: what touches is no get.
    fn count(&self, hit: Option<u64>, ctx: &Context) {
        retrieve::count(self.key, self.touch.is_some(), hit, ctx);
    }
}

/// `me`: all that is known of a record but its value.
pub fn debug(key: &[u8], supply: &mut Option<Box<Supply>>, ctx: &mut Context) -> Fetched {
    let supply = supply.take();
    match look_as(Access::Peek, &ctx.db.key(key), &supply, ctx) {
        Ok(Lookup::Cold(read)) => {
            ctx.submit(move || Answer::Fetched(read.run()));
            return Fetched::Wait(Waiting::Lane);
        }
        Ok(Lookup::Hit(_, old)) => say_all(key, &old, ctx.now, &mut ctx.replies),
        Ok(Lookup::Miss(_)) => ctx.say(b"EN\r\n"),
        Err(error) => {
            answer::note_damage(&error);
            reply::store_error(&mut ctx.replies, &error);
        }
    }
    Fetched::Done
}

fn say_all(key: &[u8], old: &Old, now: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"ME ");
    match old.marks & BINARY_KEY {
        0 => out.extend_from_slice(key),
        _ => base64::encode(key, out),
    }
    let mut say = |name: &[u8], value: u64| {
        out.extend_from_slice(name);
        reply::number(out, value);
    };
    match old.expires {
        0 => say(b" exp=-", 1),
        expires => say(b" exp=", expires.saturating_sub(now)),
    }
    say(b" la=", old.idle.into());
    say(b" cas=", old.cas);
    say(if old.marks & FETCHED == 0 { b" fetch=no cls=" } else { b" fetch=yes cls=" }, 1);
    say(b" size=", key.len() as u64 + old.len);
    out.extend_from_slice(reply::LINE_END);
}
