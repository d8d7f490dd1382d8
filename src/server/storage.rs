//! The commands that carry a value: set, add, replace, append, prepend, cas. The value has arrived when they
//! are executed, in memory or, where it is large, in an extent file already.

use super::answer::{Facts, Form, Said};
use super::context::Context;
use super::counters::Counter;
use super::inbox::Composed;
use super::proto::text::Verb;
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
    /// In memory. Longer than [`CHUNK`] only for append and prepend.
    Bytes(&'a [u8]),
    /// In an extent file. Never for append and prepend.
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
        };
        watch::stored(self.key, status, command, self.expires.saturating_sub(ctx.now), size, ctx);
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
        let Value::Bytes(new) = value else { unreachable!("append and prepend receive their value in memory") };
        let supply = match supply.map(|supply| *supply) {
            Some(Supply::Composed(composed)) => match self.write_composed(key, composed, ctx)? {
                Some(done) => return Ok(done),
                None => None,
            },
            other => other.map(Box::new),
        };
        loop {
            ctx.value.clear();
            if self.verb == Verb::Prepend {
                ctx.value.extend_from_slice(new);
            }
            let (seen, old) = match look(&key, &supply, ctx)? {
                Lookup::Hit(seen, old) => (seen, old),
                Lookup::Cold(read) => return Ok(Verdict::Cold(read)),
                Lookup::Miss(seen) if self.more.vivify => {
                    if new.len() > CHUNK {
                        let size = new.len() as u64;
                        let basis = Basis { seen, flags: self.flags, expires: self.expires, size };
                        return Ok(Verdict::Compose(ctx.db.compose(vec![Part::Bytes(new.to_vec())]), basis));
                    }
                    match self.put(key, value, self.expires, self.marks(), Expect::Unchanged(seen), ctx)? {
                        None => continue,
                        cas => return Ok(stored(cas, value.len())),
                    }
                }
                Lookup::Miss(_) => return Ok(self.not_joined(Said::NotStored, new)),
            };
            if self.cas != 0 && self.cas != old.cas {
                return Ok(self.not_joined(Said::Exists, new));
            }
            let size = old.len + new.len() as u64;
            if size > ctx.settings.max_value {
                ctx.count(Counter::StoreTooLarge);
                return Ok(Verdict::say(Said::TooLarge));
            }
            if self.verb == Verb::Append && old.large.is_none() {
                ctx.value.extend_from_slice(new);
            }
            let basis = Basis { seen, flags: old.flags, expires: old.expires, size };
            if old.large.is_some() || ctx.value.len() > CHUNK {
                return Ok(self.compose(new, old.large, basis, ctx));
            }
            if let Some(cas) = write(key, basis.kept(self.more.new_cas, self.marks()), Source::Computed, ctx)? {
                return Ok(stored(Some(cas), size));
            }
        }
    }

    fn not_joined(&self, said: Said, new: &[u8]) -> Verdict {
        Verdict::Say(said, Facts { size: new.len() as u64, ..Facts::default() })
    }

    /// What the disk lane joined is written if nothing has changed meanwhile.
    fn write_composed(
        &self,
        key: Key<'_>,
        composed: Composed,
        ctx: &mut Context,
    ) -> Result<Option<Verdict>, kingdb::Error> {
        let Composed { basis, value } = composed;
        ctx.depend(basis.seen.depends);
        let value = value?;
        let source = Source::Given(NewBody::Uploaded(&value));
        let cas = write(key, basis.kept(self.more.new_cas, self.marks()), source, ctx)?;
        Ok(cas.map(|cas| stored(Some(cas), basis.size)))
    }

    /// The result is large: the disk lane writes it out.
    fn compose(&self, new: &[u8], large: Option<Large>, basis: Basis, ctx: &mut Context) -> Verdict {
        let parts = match large {
            None => vec![Part::Bytes(std::mem::take(&mut ctx.value))],
            Some(old) if self.verb == Verb::Append => {
                vec![Part::Large(old), Part::Bytes(new.to_vec())]
            }
            Some(old) => vec![Part::Bytes(new.to_vec()), Part::Large(old)],
        };
        Verdict::Compose(ctx.db.compose(parts), basis)
    }
}

#[inline]
fn stored(cas: Option<u64>, size: u64) -> Verdict {
    Verdict::Say(Said::Stored, Facts { cas: cas.unwrap_or_default(), size, ..Facts::default() })
}
