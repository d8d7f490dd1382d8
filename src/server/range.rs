//! A part of a value: `getrange`. The parser of another dialect calls [`find`] and says what came of it in its own
//! words; of a large value nothing is read but the chunks that the part lies in.

use super::context::{Context, Waiting};
use super::counters::Counter;
use super::inbox::Answer;
use super::reply;
use super::retrieve::{After, Streaming};
use super::verdict::Supply;
use kingdb::store::{Body, Large, Lookup, Record};

/// A part of a value that was found.
pub struct Part {
    pub flags: u32,
    /// Length of the whole value.
    pub total: u64,
    /// The part, cut to what there is: from one offset to another.
    pub from: u64,
    pub to: u64,
    pub bytes: Bytes,
}

/// Where a part's bytes are.
pub enum Bytes {
    /// In the context's `value`.
    Here,
    /// In an extent file.
    Large(Large),
}

/// What looking for a part came to.
pub enum Found {
    Part(Part),
    Miss,
    Wait(Waiting),
    Failed(kingdb::Error),
}

/// What a command for a part came to.
pub enum RangeStep {
    /// It is answered.
    Done,
    /// A large part is to be streamed.
    Stream(Box<Streaming>),
    Wait(Waiting),
}

/// Looks for what `key` has from `offset` on, at most `len` bytes; counts it as a get.
pub fn find(key: &[u8], offset: u64, len: u64, supply: Option<Box<Supply>>, ctx: &mut Context) -> Found {
    ctx.value.clear();
    let Context { db, value, scratch, now, .. } = ctx;
    let visit = |record: Record<'_>| {
        let total = record.len();
        let from = offset.min(total);
        let to = from.saturating_add(len).min(total);
        let bytes = match record.body {
            Body::Large(large) => Bytes::Large(large.clone()),
            Body::Inline(bytes) => {
                value.extend_from_slice(&bytes[from as usize..to as usize]);
                Bytes::Here
            }
        };
        Part { flags: record.flags, total, from, to, bytes }
    };
    let (seen, part) = match db.lookup(&db.key(key), *now, Supply::fetched(&supply), scratch, visit) {
        Ok(Lookup::Hit(seen, part)) => (seen, Some(part)),
        Ok(Lookup::Miss(seen)) => (seen, None),
        Ok(Lookup::Cold(read)) => {
            ctx.submit(move || Answer::Fetched(read.run()));
            return Found::Wait(Waiting::Lane);
        }
        Err(error) => return Found::Failed(error),
    };
    ctx.depend(seen.depends);
    ctx.count(Counter::CmdGet);
    ctx.count(if part.is_some() { Counter::GetHits } else { Counter::GetMisses });
    part.map_or(Found::Miss, Found::Part)
}

/// `getrange`: `VALUE <key> <flags> <bytes> <total>`, the bytes, and `END`.
pub fn get(key: &[u8], offset: u64, len: u64, supply: Option<Box<Supply>>, ctx: &mut Context) -> RangeStep {
    let part = match find(key, offset, len, supply, ctx) {
        Found::Part(part) => part,
        Found::Wait(waiting) => return RangeStep::Wait(waiting),
        Found::Miss => {
            ctx.say(reply::END);
            return RangeStep::Done;
        }
        Found::Failed(error) => {
            reply::store_error(&mut ctx.replies, &error);
            return RangeStep::Done;
        }
    };
    let mut header = Vec::with_capacity(key.len() + 80);
    reply::value_header(&mut header, key, part.flags, part.to - part.from, Some(part.total));
    match part.bytes {
        Bytes::Large(large) if part.from < part.to => {
            let after = After::Command(reply::LINE_END_AND_END);
            RangeStep::Stream(Streaming::part(large, (part.from, part.to), header, after))
        }
        Bytes::Large(_) | Bytes::Here => {
            let Context { replies, value, .. } = ctx;
            [&header[..], value, reply::LINE_END_AND_END].into_iter().for_each(|text| replies.extend_from_slice(text));
            RangeStep::Done
        }
    }
}
