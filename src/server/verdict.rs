//! What executing one command against the store came to, and what follows from it. Commands that depend on
//! what is stored are optimistic: look, compute, and write on condition that nothing changed since; otherwise
//! do it over. Somebody else's write succeeded each time, so this ends. A command that needs the disk is
//! parked and executed again, from its beginning, with what the disk lane fetched.

use super::answer::{self, Facts, Form, Said};
use super::context::{Context, Waiting};
use super::inbox::{Answer, Composed};
use kingdb::store::{
    Access, Body, ColdRead, Compose, Expect, Fetched, Key, Large, Lookup, NewBody, Outcome, Seen, Write,
};

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
    Say(Said, Facts),
    /// The record must be read from the disk first.
    Cold(ColdRead),
    /// The new value must be joined on the disk first.
    Compose(Compose, Basis),
}

impl Verdict {
    /// An answer without particulars.
    pub fn say(said: Said) -> Verdict {
        Verdict::Say(said, Facts::default())
    }
}

/// What a joined value is joined from, and whether the client compares its CAS unique.
#[derive(Clone, Copy)]
pub struct Basis {
    /// `None`: it replaces whatever is there.
    pub seen: Option<Seen>,
    pub flags: u32,
    pub expires: u64,
    /// Bytes of the joined value.
    pub size: u64,
}

impl Basis {
    /// What a record made from this one keeps of it, on condition that it is still there.
    pub fn kept(&self, cas: Option<u64>, marks: u8) -> Particulars {
        let Self { seen, flags, expires, .. } = *self;
        let expect = seen.map_or(Expect::Anything, Expect::Unchanged);
        Particulars { flags, expires, marks, cas, expect }
    }
}

/// An executed command's verdict, or why the store refused it.
pub type Attempt = Result<Verdict, kingdb::Error>;

/// Answers the client, or sends the lane for what is missing. Whether the command is finished.
#[inline]
pub fn conclude(attempt: Attempt, form: &Form<'_>, key: &[u8], ctx: &mut Context) -> Result<(), Waiting> {
    match attempt {
        Ok(Verdict::Say(said, facts)) => answer::tell(form, key, said, &facts, ctx),
        Ok(Verdict::Cold(read)) => {
            ctx.submit(move || Answer::Fetched(read.run()));
            return Err(Waiting::Lane);
        }
        Ok(Verdict::Compose(compose, basis)) => {
            let answer = ctx.answer_later();
            compose.carry_out(move |value| answer(Answer::Composed(Composed { basis, value })));
            return Err(Waiting::Lane);
        }
        Err(error) => answer::fail(form, &error, ctx),
    }
    Ok(())
}

/// The record that a command finds.
pub struct Old {
    pub flags: u32,
    pub cas: u64,
    pub expires: u64,
    pub marks: u8,
    /// Seconds since it was fetched last.
    pub idle: u32,
    /// Bytes of the value.
    pub len: u64,
    /// The value, if it is a large one.
    pub large: Option<Large>,
}

impl Old {
    /// The value unchanged, for a write: `Source::Computed` must be what [`look`] copied.
    pub fn same(&self) -> Source<'_> {
        match &self.large {
            Some(large) => Source::Given(NewBody::Same(large)),
            None => Source::Computed,
        }
    }
}

/// `Db::lookup` at this turn's time. What it sees is noted as something the reply depends on. The value is appended to
/// the context's `value`, unless it is large.
pub fn look(key: &Key<'_>, supply: &Option<Box<Supply>>, ctx: &mut Context) -> Result<Lookup<Old>, kingdb::Error> {
    look_as(Access::Look, key, supply, ctx)
}

/// The same, counted otherwise by the cache.
pub fn look_as(
    access: Access,
    key: &Key<'_>,
    supply: &Option<Box<Supply>>,
    ctx: &mut Context,
) -> Result<Lookup<Old>, kingdb::Error> {
    let Context { db, scratch, value, now, .. } = ctx;
    let key = key.with(access);
    let found = db.lookup(&key, *now, Supply::fetched(supply), scratch, |record| {
        let len = record.len();
        let large = match record.body {
            Body::Large(large) => Some(large.clone()),
            Body::Inline(bytes) => {
                value.extend_from_slice(bytes);
                None
            }
        };
        let kingdb::store::Record { flags, cas, expires, marks, idle, .. } = record;
        Old { flags, cas, expires, marks, idle, len, large }
    })?;
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
    pub marks: u8,
    pub cas: Option<u64>,
    pub expect: Expect,
}

/// `Db::write`. The record's CAS unique if it was done; otherwise something changed since the lookup.
#[inline]
pub fn write(
    key: Key<'_>,
    particulars: Particulars,
    source: Source<'_>,
    ctx: &mut Context,
) -> Result<Option<u64>, kingdb::Error> {
    let body = match source {
        Source::Given(body) => body,
        Source::Computed => NewBody::Inline(&ctx.value),
    };
    /// What a record takes beside its key and value, roughly. Bytes.
    const OVERHEAD: usize = 64;
    ctx.appended += OVERHEAD + key.bytes().len() + if let NewBody::Inline(value) = body { value.len() } else { 0 };
    let Particulars { flags, expires, marks, cas, expect } = particulars;
    let write = Write { key, flags, expires, marks, cas, body, expect };
    match ctx.db.write(&write, &mut ctx.scratch)? {
        Outcome::Conflict => Ok(None),
        Outcome::Done { cas, depends } => {
            ctx.depend(depends);
            Ok(Some(cas))
        }
    }
}
