//! The commands that change a record without bringing a value: delete, incr, decr, touch.

use super::context::Context;
use super::counters::Counter;
use super::proto::text;
use super::reply;
use super::verdict::{Attempt, Particulars, Source, Supply, Verdict, look, write};
use kingdb::store::{Body, Expect, Lookup, NewBody, Removed};

/// A tombstone, roughly. Bytes.
const TOMBSTONE: usize = 64;

/// `delete`: blind where the index can tell alone, otherwise after a look.
pub fn delete(key: &[u8], supply: Option<Box<Supply>>, ctx: &mut Context) -> Attempt {
    let key = ctx.db.key(key);
    let mut expect = Expect::Anything;
    loop {
        match ctx.db.remove(&key, expect)? {
            Removed::Done { depends } => {
                ctx.appended += TOMBSTONE + key.bytes().len();
                ctx.depend(depends);
                ctx.count(Counter::DeleteHits);
                return Ok(Verdict::Say(reply::DELETED));
            }
            Removed::Absent { depends } => {
                ctx.depend(depends);
                ctx.count(Counter::DeleteMisses);
                return Ok(Verdict::Say(reply::NOT_FOUND));
            }
            Removed::Unsure | Removed::Conflict => {}
        }
        match look(&key, Supply::fetched(&supply), ctx, |_, _| ())? {
            Lookup::Hit(seen, ()) => expect = Expect::Unchanged(seen),
            Lookup::Cold(read) => return Ok(Verdict::Cold(read)),
            Lookup::Miss(_) => {
                ctx.count(Counter::DeleteMisses);
                return Ok(Verdict::Say(reply::NOT_FOUND));
            }
        }
    }
}

/// `incr` and `decr`.
pub fn arithmetic(key: &[u8], delta: u64, decrement: bool, supply: Option<Box<Supply>>, ctx: &mut Context) -> Attempt {
    let key = ctx.db.key(key);
    let (hits, misses) = match decrement {
        true => (Counter::DecrHits, Counter::DecrMisses),
        false => (Counter::IncrHits, Counter::IncrMisses),
    };
    loop {
        let visit = |record: kingdb::store::Record<'_>, _: &mut Vec<u8>| {
            let number = match record.body {
                Body::Inline(value) => text::arithmetic(value, delta, decrement),
                Body::Large(_) => None,
            };
            (record.flags, record.expires, number)
        };
        let (seen, flags, expires, number) = match look(&key, Supply::fetched(&supply), ctx, visit)? {
            Lookup::Hit(seen, (flags, expires, Some(number))) => (seen, flags, expires, number),
            Lookup::Hit(_, (_, _, None)) => return Ok(Verdict::Say(reply::NOT_A_NUMBER)),
            Lookup::Cold(read) => return Ok(Verdict::Cold(read)),
            Lookup::Miss(_) => {
                ctx.count(misses);
                return Ok(Verdict::Say(reply::NOT_FOUND));
            }
        };
        ctx.value.clear();
        ctx.value.extend_from_slice(&number.digits[..number.len]);
        ctx.value.resize(number.padded, b' ');
        let particulars = Particulars { flags, expires, cas: None, expect: Expect::Unchanged(seen) };
        if write(key, particulars, Source::Computed, ctx)? {
            ctx.count(hits);
            return Ok(Verdict::SayNumber(number.digits, number.len));
        }
    }
}

/// `touch`: the same record with another deadline; its CAS unique stays.
pub fn touch(key: &[u8], expires: u64, supply: Option<Box<Supply>>, ctx: &mut Context) -> Attempt {
    let key = ctx.db.key(key);
    loop {
        ctx.value.clear();
        let visit = |record: kingdb::store::Record<'_>, copy: &mut Vec<u8>| {
            let large = match record.body {
                Body::Large(large) => Some(large.clone()),
                Body::Inline(value) => {
                    copy.extend_from_slice(value);
                    None
                }
            };
            (record.flags, record.cas, large)
        };
        let (seen, flags, cas, large) = match look(&key, Supply::fetched(&supply), ctx, visit)? {
            Lookup::Hit(seen, (flags, cas, large)) => (seen, flags, cas, large),
            Lookup::Cold(read) => return Ok(Verdict::Cold(read)),
            Lookup::Miss(_) => {
                count_touch(Counter::TouchMisses, ctx);
                return Ok(Verdict::Say(reply::NOT_FOUND));
            }
        };
        let source = match &large {
            Some(large) => Source::Given(NewBody::Same(large)),
            None => Source::Computed,
        };
        let particulars = Particulars { flags, expires, cas: Some(cas), expect: Expect::Unchanged(seen) };
        if write(key, particulars, source, ctx)? {
            count_touch(Counter::TouchHits, ctx);
            return Ok(Verdict::Say(reply::TOUCHED));
        }
    }
}

fn count_touch(outcome: Counter, ctx: &Context) {
    ctx.count(Counter::CmdTouch);
    ctx.count(outcome);
}
