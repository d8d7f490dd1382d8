//! What executing one command against the store came to, and what follows from it. Commands that depend on
//! what is stored are optimistic: look, compute, and write on condition that nothing changed since; otherwise
//! do it over. Somebody else's write succeeded each time, so this ends. A command that needs the disk is
//! parked and executed again, from its beginning, with what the disk lane fetched.

use super::context::{Context, Waiting};
use super::inbox::{Answer, Composed};
use super::reply;
use kingdb::store::{ColdRead, Compose, Expect, Fetched, Key, Lookup, NewBody, Outcome, Record, Seen, Write};

/// What the disk lane brought for a command that was parked.
pub enum Supply {
    /// The record it needs to see.
    Fetched(Fetched),
    /// The value it made.
    Composed(Composed),
}

impl Supply {
    /// The record, if it is one.
    pub fn fetched(supply: &Option<Box<Supply>>) -> Option<&Fetched> {
        match supply.as_deref() {
            Some(Supply::Fetched(fetched)) => Some(fetched),
            _ => None,
        }
    }
}

/// See the module's head.
pub enum Verdict {
    /// Executed; this is the answer.
    Say(&'static [u8]),
    /// Executed; the answer is a number's digits, the first so many.
    SayNumber([u8; 20], usize),
    /// The record must be read from the disk first.
    Cold(ColdRead),
    /// The new value must be joined on the disk first.
    Compose(Compose, Basis),
}

/// What a joined value is joined from.
#[derive(Clone, Copy)]
pub struct Basis {
    /// `None`: it replaces whatever is there.
    pub seen: Option<Seen>,
    pub flags: u32,
    pub expires: u64,
}

impl Basis {
    /// What a record made from this one keeps of it, on condition that it is still there.
    pub fn kept(&self) -> Particulars {
        let Self { seen, flags, expires } = *self;
        Particulars { flags, expires, cas: None, expect: seen.map_or(Expect::Anything, Expect::Unchanged) }
    }
}

/// An executed command's verdict, or why the store refused it.
pub type Attempt = Result<Verdict, kingdb::Error>;

/// Answers the client, or sends the lane for what is missing. Whether the command is finished.
#[inline]
pub fn conclude(attempt: Attempt, noreply: bool, ctx: &mut Context) -> Result<(), Waiting> {
    match attempt {
        Ok(Verdict::Say(text)) => ctx.answer(text, noreply),
        Ok(Verdict::SayNumber(digits, len)) => {
            ctx.answer(&digits[..len], noreply);
            ctx.answer(reply::LINE_END, noreply);
        }
        Ok(Verdict::Cold(read)) => {
            ctx.submit(move || Answer::Fetched(read.run()));
            return Err(Waiting::Lane);
        }
        Ok(Verdict::Compose(compose, basis)) => {
            ctx.submit(move || Answer::Composed(Composed { basis, value: compose.run() }));
            return Err(Waiting::Lane);
        }
        Err(_) if noreply => {}
        Err(error) => reply::store_error(&mut ctx.replies, &error),
    }
    Ok(())
}

/// `Db::lookup` at this turn's time. What it sees is noted as something the reply depends on.
pub fn look<R>(
    key: &Key<'_>,
    supplied: Option<&Fetched>,
    ctx: &mut Context,
    visit: impl FnOnce(Record<'_>, &mut Vec<u8>) -> R,
) -> Result<Lookup<R>, kingdb::Error> {
    let Context { db, scratch, value, now, .. } = ctx;
    let found = db.lookup(key, *now, supplied, scratch, |record| visit(record, value))?;
    if let Lookup::Hit(seen, _) | Lookup::Miss(seen) = &found {
        ctx.depend(seen.depends);
    }
    Ok(found)
}

/// Whose bytes a write takes.
pub enum Source<'a> {
    /// The command's own.
    Given(NewBody<'a>),
    /// The context's `value`.
    Computed,
}

/// A write's particulars other than the value.
pub struct Particulars {
    pub flags: u32,
    pub expires: u64,
    pub cas: Option<u64>,
    pub expect: Expect,
}

/// `Db::write`. Whether it was done; otherwise something changed since the lookup.
#[inline]
pub fn write(
    key: Key<'_>,
    particulars: Particulars,
    source: Source<'_>,
    ctx: &mut Context,
) -> Result<bool, kingdb::Error> {
    let body = match source {
        Source::Given(body) => body,
        Source::Computed => NewBody::Inline(&ctx.value),
    };
    /// What a record takes beside its key and value, roughly. Bytes.
    const OVERHEAD: usize = 64;
    ctx.appended += OVERHEAD + key.bytes().len() + if let NewBody::Inline(value) = body { value.len() } else { 0 };
    let Particulars { flags, expires, cas, expect } = particulars;
    let write = Write { key, flags, expires, marks: 0, cas, body, expect };
    match ctx.db.write(&write, &mut ctx.scratch)? {
        Outcome::Conflict => Ok(false),
        Outcome::Done { depends, .. } => {
            ctx.depend(depends);
            Ok(true)
        }
    }
}
