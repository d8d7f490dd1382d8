//! The commands that carry a value: set, add, replace, append, prepend, cas. The value has arrived when they
//! are executed, in memory or, where it is large, in an extent file already.

use super::context::Context;
use super::counters::Counter;
use super::inbox::Composed;
use super::proto::text::Verb;
use super::reply;
use super::shared::Shared;
use super::verdict::{Attempt, Basis, Particulars, Source, Supply, Verdict, look, write};
use kingdb::store::{Body, CHUNK, Expect, Key, Large, Lookup, NewBody, Part, Record, Uploaded};

/// A storage command without its value.
#[derive(Clone, Copy)]
pub struct Store<'a> {
    pub verb: Verb,
    pub key: &'a [u8],
    pub flags: u32,
    /// Store time; 0 is never.
    pub expires: u64,
    pub cas: u64,
    pub noreply: bool,
}

/// Its value.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// In memory: at most [`CHUNK`] bytes.
    Bytes(&'a [u8]),
    /// In an extent file.
    Uploaded(&'a Uploaded),
}

impl Value<'_> {
    fn len(&self) -> u64 {
        match self {
            Value::Bytes(bytes) => bytes.len() as u64,
            Value::Uploaded(uploaded) => uploaded.len(),
        }
    }
}

impl Store<'_> {
    /// Executes the command. The caller has checked that writes may be executed now.
    #[inline]
    pub fn execute(&self, value: Value<'_>, supply: Option<Box<Supply>>, ctx: &mut Context) -> Attempt {
        ctx.value.clear();
        let key = ctx.db.key(self.key);
        let attempt = match self.verb {
            Verb::Set => {
                self.put(key, value, Expect::Anything, ctx)?;
                Ok(Verdict::Say(reply::STORED))
            }
            Verb::Add | Verb::Replace | Verb::Cas => self.put_if(key, value, &supply, ctx),
            Verb::Append | Verb::Prepend => self.join(key, value, supply, ctx),
            Verb::Part => return Ok(self.part(value, ctx)),
        };
        if matches!(attempt, Ok(Verdict::Say(_))) {
            ctx.count(Counter::CmdSet);
        }
        attempt
    }

    /// A part of an upload.
    fn part(&self, value: Value<'_>, ctx: &Context) -> Verdict {
        let Value::Uploaded(part) = value else { unreachable!("parts are uploaded, however small") };
        let Shared { multiparts, memory, inboxes, .. } = &*ctx.shared;
        let kept = multiparts.put(self.key, self.cas, part.clone(), ctx.now, memory);
        // Who sees to it that it expires may be asleep.
        inboxes[0].ring();
        Verdict::Say(if kept { reply::STORED } else { reply::NO_MEMORY })
    }

    fn put_if(&self, key: Key<'_>, value: Value<'_>, supply: &Option<Box<Supply>>, ctx: &mut Context) -> Attempt {
        loop {
            let (seen, cas) = match look(&key, Supply::fetched(supply), ctx, |record, _| record.cas)? {
                Lookup::Hit(seen, cas) => (seen, Some(cas)),
                Lookup::Miss(seen) => (seen, None),
                Lookup::Cold(read) => return Ok(Verdict::Cold(read)),
            };
            if let Some(refusal) = self.refuses(cas) {
                self.count_cas(cas, ctx);
                return Ok(Verdict::Say(refusal));
            }
            if self.put(key, value, Expect::Unchanged(seen), ctx)? {
                self.count_cas(cas, ctx);
                return Ok(Verdict::Say(reply::STORED));
            }
        }
    }

    /// The answer if the command's condition does not hold. `cas`: that of the record that is there.
    fn refuses(&self, cas: Option<u64>) -> Option<&'static [u8]> {
        match (self.verb, cas) {
            (Verb::Add, Some(_)) | (Verb::Replace, None) => Some(reply::NOT_STORED),
            (Verb::Cas, None) => Some(reply::NOT_FOUND),
            (Verb::Cas, Some(cas)) if cas != self.cas => Some(reply::EXISTS),
            _ => None,
        }
    }

    fn count_cas(&self, cas: Option<u64>, ctx: &Context) {
        match cas {
            _ if self.verb != Verb::Cas => {}
            None => ctx.count(Counter::CasMisses),
            Some(cas) if cas == self.cas => ctx.count(Counter::CasHits),
            Some(_) => ctx.count(Counter::CasBadval),
        }
    }

    #[inline]
    fn put(&self, key: Key<'_>, value: Value<'_>, expect: Expect, ctx: &mut Context) -> Result<bool, kingdb::Error> {
        let body = match value {
            Value::Bytes(bytes) => NewBody::Inline(bytes),
            Value::Uploaded(uploaded) => NewBody::Uploaded(uploaded),
        };
        let particulars = Particulars { flags: self.flags, expires: self.expires, cas: None, expect };
        write(key, particulars, Source::Given(body), ctx)
    }

    /// append, prepend: the old record's flags and deadline stay.
    fn join(&self, key: Key<'_>, value: Value<'_>, supply: Option<Box<Supply>>, ctx: &mut Context) -> Attempt {
        let supply = match supply.map(|supply| *supply) {
            Some(Supply::Composed(composed)) => match self.write_composed(key, composed, ctx)? {
                true => return Ok(Verdict::Say(reply::STORED)),
                false => None,
            },
            other => other.map(Box::new),
        };
        loop {
            ctx.value.clear();
            let visit = |record: Record<'_>, copy: &mut Vec<u8>| {
                let large = match record.body {
                    Body::Large(large) => Some(large.clone()),
                    Body::Inline(old) => {
                        copy.extend_from_slice(old);
                        None
                    }
                };
                (record.flags, record.expires, record.len(), large)
            };
            let (seen, (flags, expires, len, large)) = match look(&key, Supply::fetched(&supply), ctx, visit)? {
                Lookup::Hit(seen, old) => (seen, old),
                Lookup::Miss(_) => return Ok(Verdict::Say(reply::NOT_STORED)),
                Lookup::Cold(read) => return Ok(Verdict::Cold(read)),
            };
            let basis = Basis { seen: Some(seen), flags, expires };
            let sum = len.saturating_add(value.len());
            if sum > ctx.settings.max_value {
                ctx.count(Counter::StoreTooLarge);
                return Ok(Verdict::Say(reply::TOO_LARGE));
            }
            match (value, large) {
                (Value::Bytes(new), None) if sum <= CHUNK as u64 => {
                    let at = if self.verb == Verb::Append { ctx.value.len() } else { 0 };
                    ctx.value.splice(at..at, new.iter().copied());
                }
                (value, large) => return Ok(self.compose(value, large, basis, ctx)),
            }
            if write(key, basis.kept(), Source::Computed, ctx)? {
                return Ok(Verdict::Say(reply::STORED));
            }
        }
    }

    /// What the disk lane joined is written if nothing has changed meanwhile.
    fn write_composed(&self, key: Key<'_>, composed: Composed, ctx: &mut Context) -> Result<bool, kingdb::Error> {
        let Composed { basis, value } = composed;
        basis.seen.into_iter().for_each(|seen| ctx.depend(seen.depends));
        let value = value?;
        write(key, basis.kept(), Source::Given(NewBody::Uploaded(&value)), ctx)
    }

    /// The result is large: the disk lane writes what is not in an extent yet, and joins the two.
    fn compose(&self, value: Value<'_>, large: Option<Large>, basis: Basis, ctx: &mut Context) -> Verdict {
        let old = large.map_or_else(|| Part::Bytes(std::mem::take(&mut ctx.value)), Part::Large);
        let new = match value {
            Value::Bytes(new) => Part::Bytes(new.to_vec()),
            Value::Uploaded(uploaded) => Part::Uploaded(uploaded.clone()),
        };
        let parts = if self.verb == Verb::Append { vec![old, new] } else { vec![new, old] };
        Verdict::Compose(ctx.db.compose(parts), basis)
    }
}
