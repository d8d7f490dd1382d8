//! The commands that carry a value: set, add, replace, append, prepend, cas. The value has arrived when they
//! are executed, in memory or, where it is large, in an extent file already.

use super::answer::{Facts, Form, Said};
use super::context::Context;
use super::counters::Counter;
use super::inbox::Composed;
use super::proto::text::Verb;
use super::shared::Shared;
use super::verdict::{Attempt, Basis, Old, Particulars, Source, Supply, Verdict, look, write};
use super::watch;
use kingdb::store::{BINARY_KEY, CHUNK, Expect, Key, Large, Lookup, NewBody, Part, STALE, Uploaded, WON};

/// A storage command without its value.
#[derive(Clone, Copy)]
pub struct Store<'a> {
    pub verb: Verb,
    pub key: &'a [u8],
    pub flags: u32,
    /// Store time; 0 is never.
    pub expires: u64,
    /// What the record's CAS unique must be; 0: anything. Add and set do not ask.
    pub cas: u64,
    pub more: More,
    pub form: Form<'a>,
}

/// What only the meta dialect asks for.
#[derive(Clone, Copy, Default)]
pub struct More {
    /// The new CAS unique.
    pub new_cas: Option<u64>,
    /// The key came in base64.
    pub base64: bool,
    /// A `cas` that is too old stores nevertheless, as a stale value.
    pub invalidate: bool,
    /// append, prepend: make the record if there is none.
    pub vivify: bool,
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

/// Whether a conditional command may store.
enum Ruling {
    Store,
    /// With the old record's deadline and mark.
    StoreStale,
    Refuse(Said),
}

impl Store<'_> {
    /// Executes the command. The caller has checked that writes may be executed now.
    #[inline]
    pub fn execute(&self, value: Value<'_>, supply: Option<Box<Supply>>, ctx: &mut Context) -> Attempt {
        ctx.value.clear();
        let key = ctx.db.key(self.key);
        let attempt = match self.verb {
            Verb::Set => {
                let cas = self.put(key, value, self.expires, self.marks(), Expect::Anything, ctx)?;
                Ok(stored(cas, value.len()))
            }
            Verb::Add | Verb::Replace | Verb::Cas => self.put_if(key, value, &supply, ctx),
            Verb::Append | Verb::Prepend => self.join(key, value, supply, ctx),
            Verb::Part => return Ok(self.part(value, ctx)),
        };
        if let Ok(Verdict::Say(said, _)) = &attempt {
            ctx.count(Counter::CmdSet);
            if ctx.observed != 0 {
                self.observe(*said, value.len(), ctx);
            }
        }
        attempt
    }

    #[cold]
    fn observe(&self, said: Said, size: u64, ctx: &Context) {
        let status = match said {
            Said::Stored => "stored",
            Said::Exists => "exists",
            Said::NotFound => "not_found",
            Said::TooLarge => "too_large",
            _ => "not_stored",
        };
        let command = match self.verb {
            Verb::Set => "set",
            Verb::Add => "add",
            Verb::Replace => "replace",
            Verb::Append => "append",
            Verb::Prepend => "prepend",
            Verb::Cas => "cas",
            Verb::Part => "part",
        };
        watch::stored(self.key, status, command, self.expires.saturating_sub(ctx.now), size, ctx);
    }

    /// A part of an upload.
    fn part(&self, value: Value<'_>, ctx: &Context) -> Verdict {
        let Value::Uploaded(part) = value else { unreachable!("parts are uploaded") };
        let Shared { multiparts, memory, inboxes, .. } = &*ctx.shared;
        let kept = multiparts.put(self.key, self.cas, part.clone(), ctx.now, memory);
        // Who sees to it that it expires may be asleep.
        inboxes[0].ring();
        Verdict::say(if kept { Said::Stored } else { Said::NoMemory })
    }

    fn marks(&self) -> u8 {
        if self.more.base64 { BINARY_KEY } else { 0 }
    }

    fn put_if(&self, key: Key<'_>, value: Value<'_>, supply: &Option<Box<Supply>>, ctx: &mut Context) -> Attempt {
        loop {
            let (seen, old) = match look(&key, supply, ctx)? {
                Lookup::Hit(seen, old) => (seen, Some(old)),
                Lookup::Miss(seen) => (seen, None),
                Lookup::Cold(read) => return Ok(Verdict::Cold(read)),
            };
            let ruling = self.judge(old.as_ref());
            let (expires, marks) = match (&ruling, &old) {
                (Ruling::Refuse(said), _) => {
                    self.count_cas(&ruling, old.is_some(), ctx);
                    return Ok(Verdict::Say(*said, Facts { size: value.len(), ..Facts::default() }));
                }
                (Ruling::StoreStale, Some(old)) => (old.expires, self.marks() | STALE | old.marks & WON),
                _ => (self.expires, self.marks()),
            };
            let cas = self.put(key, value, expires, marks, Expect::Unchanged(seen), ctx)?;
            if cas.is_some() {
                self.count_cas(&ruling, old.is_some(), ctx);
                return Ok(stored(cas, value.len()));
            }
        }
    }

    fn judge(&self, old: Option<&Old>) -> Ruling {
        match (self.verb, old) {
            (Verb::Add, Some(_)) | (Verb::Replace, None) => Ruling::Refuse(Said::NotStored),
            (Verb::Cas, None) => Ruling::Refuse(Said::NotFound),
            (Verb::Cas, Some(old)) if self.cas != 0 && self.cas == old.cas => Ruling::Store,
            (Verb::Cas, Some(old)) if self.cas != 0 && self.more.invalidate && self.cas < old.cas => Ruling::StoreStale,
            (Verb::Cas, Some(_)) => Ruling::Refuse(Said::Exists),
            _ => Ruling::Store,
        }
    }

    fn count_cas(&self, ruling: &Ruling, found: bool, ctx: &Context) {
        match (ruling, found) {
            _ if self.verb != Verb::Cas => {}
            (_, false) => ctx.count(Counter::CasMisses),
            (Ruling::Refuse(_), true) => ctx.count(Counter::CasBadval),
            (_, true) => ctx.count(Counter::CasHits),
        }
    }

    #[inline]
    fn put(
        &self,
        key: Key<'_>,
        value: Value<'_>,
        expires: u64,
        marks: u8,
        expect: Expect,
        ctx: &mut Context,
    ) -> Result<Option<u64>, kingdb::Error> {
        let body = match value {
            Value::Bytes(bytes) => NewBody::Inline(bytes),
            Value::Uploaded(uploaded) => NewBody::Uploaded(uploaded),
        };
        let particulars = Particulars { flags: self.flags, expires, marks, cas: self.more.new_cas, expect };
        write(key, particulars, Source::Given(body), ctx)
    }

    /// append, prepend: the old record's flags and deadline stay.
    fn join(&self, key: Key<'_>, value: Value<'_>, supply: Option<Box<Supply>>, ctx: &mut Context) -> Attempt {
        let supply = match supply.map(|supply| *supply) {
            Some(Supply::Composed(composed)) => match self.write_composed(key, composed, ctx)? {
                Some(done) => return Ok(done),
                None => None,
            },
            other => other.map(Box::new),
        };
        loop {
            ctx.value.clear();
            let (seen, old) = match look(&key, &supply, ctx)? {
                Lookup::Hit(seen, old) => (seen, old),
                Lookup::Cold(read) => return Ok(Verdict::Cold(read)),
                Lookup::Miss(seen) if self.more.vivify => {
                    match self.put(key, value, self.expires, self.marks(), Expect::Unchanged(seen), ctx)? {
                        None => continue,
                        cas => return Ok(stored(cas, value.len())),
                    }
                }
                Lookup::Miss(_) => return Ok(not_joined(Said::NotStored, value)),
            };
            if self.cas != 0 && self.cas != old.cas {
                return Ok(not_joined(Said::Exists, value));
            }
            let size = old.len.saturating_add(value.len());
            if size > ctx.settings.max_value {
                ctx.count(Counter::StoreTooLarge);
                return Ok(Verdict::say(Said::TooLarge));
            }
            let basis = Basis { seen: Some(seen), flags: old.flags, expires: old.expires, size };
            match (value, old.large) {
                (Value::Bytes(new), None) if size <= CHUNK as u64 => {
                    let at = if self.verb == Verb::Append { ctx.value.len() } else { 0 };
                    ctx.value.splice(at..at, new.iter().copied());
                }
                (value, large) => return Ok(self.compose(value, large, basis, ctx)),
            }
            if let Some(cas) = write(key, basis.kept(self.more.new_cas, self.marks()), Source::Computed, ctx)? {
                return Ok(stored(Some(cas), size));
            }
        }
    }

    /// What the disk lane joined is written if nothing has changed meanwhile.
    fn write_composed(
        &self,
        key: Key<'_>,
        composed: Composed,
        ctx: &mut Context,
    ) -> Result<Option<Verdict>, kingdb::Error> {
        let Composed { basis, value } = composed;
        basis.seen.into_iter().for_each(|seen| ctx.depend(seen.depends));
        let value = value?;
        let source = Source::Given(NewBody::Uploaded(&value));
        let cas = write(key, basis.kept(self.more.new_cas, self.marks()), source, ctx)?;
        Ok(cas.map(|cas| stored(Some(cas), basis.size)))
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

fn not_joined(said: Said, value: Value<'_>) -> Verdict {
    Verdict::Say(said, Facts { size: value.len(), ..Facts::default() })
}

#[inline]
fn stored(cas: Option<u64>, size: u64) -> Verdict {
    Verdict::Say(Said::Stored, Facts { cas: cas.unwrap_or_default(), size, ..Facts::default() })
}
