//! The commands that change a record without bringing a value: delete, incr, decr, touch.

use super::answer::{Facts, Said};
use super::context::Context;
use super::counters::Counter;
use super::proto::text;
use super::reply::decimal;
use super::verdict::{Attempt, Particulars, Source, Supply, Verdict, look, write};
use super::watch;
use kingdb::store::{BINARY_KEY, Expect, FETCHED, Key, Lookup, Removed, STALE, WON};

/// A tombstone, roughly. Bytes.
const TOMBSTONE: usize = 64;

/// `delete`, `md`.
#[derive(Clone, Copy, Default)]
pub struct Delete {
    /// Only a record with this CAS unique.
    pub cas: Option<u64>,
    /// Instead of removing it: marks it as stale.
    pub invalidate: bool,
    /// Instead of removing it: takes its value.
    pub remove_value: bool,
    /// What it gets then: CAS unique, deadline, flags.
    pub new_cas: Option<u64>,
    pub expires: Option<u64>,
    pub flags: u32,
    /// Said in the meta dialect, for watchers.
    pub meta: bool,
}

impl Delete {
    /// Executes the command.
    pub fn execute(&self, key: &[u8], supply: Option<Box<Supply>>, ctx: &mut Context) -> Attempt {
        let attempt = self.attempt(key, &supply, ctx);
        if let Ok(Verdict::Say(said, facts)) = &attempt
            && ctx.observed != 0
        {
            let size = matches!(said, Said::Deleted).then_some(facts.size);
            watch::deleted(key, if self.meta { " cmd=md" } else { " cmd=delete" }, size, self.invalidate, ctx);
        }
        attempt
    }

    /// Blind where the index can tell alone, otherwise after a look; so, too, if somebody watches, who is told the size.
    fn attempt(&self, key: &[u8], supply: &Option<Box<Supply>>, ctx: &mut Context) -> Attempt {
        let key = ctx.db.key(key);
        let keeps = self.invalidate || self.remove_value;
        let blind = self.cas.is_none() && !keeps && ctx.observed & watch::DELETIONS == 0;
        let mut expect = blind.then_some(Expect::Anything);
        let mut facts = Facts::default();
        loop {
            if let Some(said) = expect.map_or(Ok(None), |expect| remove(&key, expect, ctx))? {
                return Ok(Verdict::Say(said, facts));
            }
            ctx.value.clear();
            let (seen, old) = match look(&key, supply, ctx)? {
                Lookup::Hit(seen, old) => (seen, old),
                Lookup::Cold(read) => return Ok(Verdict::Cold(read)),
                Lookup::Miss(_) => {
                    ctx.count(Counter::DeleteMisses);
                    return Ok(Verdict::say(Said::NotFound));
                }
            };
            if self.cas.is_some_and(|cas| cas != old.cas) {
                ctx.count(Counter::DeleteMisses);
                return Ok(Verdict::say(Said::Exists));
            }
            facts.size = old.len;
            if !keeps {
                expect = Some(Expect::Unchanged(seen));
                continue;
            }
            let (source, mut particulars) = match self.remove_value {
                true => {
                    ctx.value.clear();
                    let (flags, expires) = (self.flags, self.expires.unwrap_or(0));
                    let (marks, cas) = (old.marks & BINARY_KEY, self.new_cas.or(Some(old.cas)));
                    (Source::Computed, Particulars { flags, expires, marks, cas, expect: Expect::Unchanged(seen) })
                }
                false => {
                    let expires = self.expires.unwrap_or(old.expires);
                    let (flags, marks, cas) = (old.flags, old.marks, self.new_cas);
                    (old.same(), Particulars { flags, expires, marks, cas, expect: Expect::Unchanged(seen) })
                }
            };
            if self.invalidate {
                particulars.marks = particulars.marks & !WON | STALE;
                particulars.cas = self.new_cas;
            }
            if write(key, particulars, source, ctx)?.is_some() {
                if !self.invalidate {
                    ctx.count(Counter::DeleteHits);
                }
                return Ok(Verdict::Say(Said::Deleted, facts));
            }
        }
    }
}

/// `None`: a look is needed first.
fn remove(key: &Key<'_>, expect: Expect, ctx: &mut Context) -> Result<Option<Said>, kingdb::Error> {
    Ok(match ctx.db.remove(key, expect)? {
        Removed::Done { depends } => {
            ctx.appended += TOMBSTONE + key.bytes().len();
            ctx.depend(depends);
            ctx.count(Counter::DeleteHits);
            Some(Said::Deleted)
        }
        Removed::Absent { depends } => {
            ctx.depend(depends);
            ctx.count(Counter::DeleteMisses);
            Some(Said::NotFound)
        }
        Removed::Unsure | Removed::Conflict => None,
    })
}

/// `incr`, `decr`, `ma`.
#[derive(Clone, Copy, Default)]
pub struct Arithmetic {
    pub delta: u64,
    pub decrement: bool,
    /// What the record's CAS unique must be; 0: anything.
    pub cas: u64,
    /// The new CAS unique.
    pub new_cas: Option<u64>,
    /// The new deadline.
    pub touch: Option<u64>,
    /// What to make if there is no record: the value, the deadline that is told, and the one that it gets.
    pub vivify: Option<(u64, u64, u64)>,
    /// The key came in base64.
    pub base64: bool,
}

impl Arithmetic {
    pub fn execute(&self, key: &[u8], supply: Option<Box<Supply>>, ctx: &mut Context) -> Attempt {
        let key = ctx.db.key(key);
        let (hits, misses) = match self.decrement {
            true => (Counter::DecrHits, Counter::DecrMisses),
            false => (Counter::IncrHits, Counter::IncrMisses),
        };
        loop {
            ctx.value.clear();
            let (seen, old) = match look(&key, &supply, ctx)? {
                Lookup::Hit(seen, old) => (seen, old),
                Lookup::Cold(read) => return Ok(Verdict::Cold(read)),
                Lookup::Miss(seen) => {
                    let Some(new) = self.vivify else {
                        ctx.count(misses);
                        return Ok(Verdict::say(Said::NotFound));
                    };
                    match self.vivify(&key, new, Expect::Unchanged(seen), ctx)? {
                        Some(made) => return Ok(made),
                        None => continue,
                    }
                }
            };
            let number = match old.large {
                None if self.cas == 0 || self.cas == old.cas || old.len == 0 => {
                    text::arithmetic(&ctx.value, self.delta, self.decrement)
                }
                None => return Ok(Verdict::say(Said::Exists)),
                Some(_) => None,
            };
            let Some(number) = number else { return Ok(Verdict::say(Said::NotANumber)) };
            ctx.value.clear();
            ctx.value.extend_from_slice(&number.digits[..number.len]);
            ctx.value.resize(number.padded, b' ');
            let (flags, expires) = (old.flags, self.touch.unwrap_or(old.expires));
            let (marks, expect) = (old.marks, Expect::Unchanged(seen));
            let particulars = Particulars { flags, expires, marks, cas: self.new_cas, expect };
            if let Some(cas) = write(key, particulars, Source::Computed, ctx)? {
                ctx.count(hits);
                let facts = Facts { cas, expires: old.expires, touch: self.touch, ..Facts::default() };
                return Ok(Verdict::Say(Said::Number(number), facts));
            }
        }
    }

    /// Makes the record. `None`: there is one now.
    fn vivify(
        &self,
        key: &Key<'_>,
        (initial, told, expires): (u64, u64, u64),
        expect: Expect,
        ctx: &mut Context,
    ) -> Result<Option<Verdict>, kingdb::Error> {
        let (digits, len) = decimal(initial);
        ctx.value.extend_from_slice(&digits[..len]);
        let marks = if self.base64 { BINARY_KEY } else { 0 };
        let particulars = Particulars { flags: 0, expires, marks, cas: self.new_cas, expect };
        let made = write(*key, particulars, Source::Computed, ctx)?;
        Ok(made.map(|cas| {
            let facts = Facts { cas, vivified: Some(told), touch: self.touch, ..Facts::default() };
            Verdict::Say(Said::Number(text::Number { digits, len, value: initial, padded: len }), facts)
        }))
    }
}

/// `touch`: the same record with another deadline; its CAS unique stays.
pub fn touch(key: &[u8], expires: u64, supply: Option<Box<Supply>>, ctx: &mut Context) -> Attempt {
    let key = ctx.db.key(key);
    loop {
        ctx.value.clear();
        let (seen, old) = match look(&key, &supply, ctx)? {
            Lookup::Hit(seen, old) => (seen, old),
            Lookup::Cold(read) => return Ok(Verdict::Cold(read)),
            Lookup::Miss(_) => {
                count_touch(Counter::TouchMisses, ctx);
                return Ok(Verdict::say(Said::NotFound));
            }
        };
        let (flags, marks, cas) = (old.flags, old.marks | FETCHED, Some(old.cas));
        let particulars = Particulars { flags, expires, marks, cas, expect: Expect::Unchanged(seen) };
        if write(key, particulars, old.same(), ctx)?.is_some() {
            count_touch(Counter::TouchHits, ctx);
            return Ok(Verdict::say(Said::Touched));
        }
    }
}

fn count_touch(outcome: Counter, ctx: &Context) {
    ctx.count(Counter::CmdTouch);
    ctx.count(outcome);
}
