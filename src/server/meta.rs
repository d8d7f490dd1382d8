//! The meta dialect's commands, from their line to their execution.

use super::answer::{Form, Meta};
use super::command::{Next, begin_store, finish};
use super::context::Context;
use super::counters::Counter;
use super::fetch::{self, Fetch, Fetched};
use super::input::Input;
use super::proto::meta::{self, Flags, Request};
use super::proto::text::{self, MAX_KEY, Verb};
use super::reply;
use super::storage::{More, Store};
use super::update::{Arithmetic, Delete};
use super::verdict::Supply;

const NOOP: &[u8] = b"MN\r\n";
const BAD_STORE_MODE: &[u8] = b"CLIENT_ERROR invalid mode for ms M token\r\n";
const BAD_ARITHMETIC_MODE: &[u8] = b"CLIENT_ERROR invalid mode for ma M token\r\n";

/// Takes the command whose line, `used` bytes, stands at the head of the input: `m` and `verb`, and then `line`.
pub fn take(
    verb: u8,
    line: &[u8],
    used: usize,
    input: &mut Input<'_>,
    supply: &mut Option<Box<Supply>>,
    ctx: &mut Context,
) -> Next {
    if verb == b'n' {
        ctx.say(NOOP);
        input.advance(used);
        return Next::Command;
    }
    let mut room = [0; MAX_KEY];
    let request = match meta::parse(verb, line, &mut room, ctx.settings.max_value) {
        Ok(request) => request,
        Err(refusal) => return refuse(refusal.reply, refusal.swallow, used, input, ctx),
    };
    let Flags { text, quiet, base64, value, .. } = request.flags;
    let form = Form::Meta(Meta { verb, flags: text, quiet, base64, value });
    let next = match verb {
        b'g' => after(get(&request, form, ctx.now).execute(supply, ctx), used, input),
        b'e' => after(fetch::debug(request.key, supply, ctx), used, input),
        b's' => set(&request, form, used, input, supply, ctx),
        b'd' => delete(&request, form, used, input, supply, ctx),
        _ => arithmetic(&request, form, used, input, supply, ctx),
    };
    if !matches!(next, Next::Wait(_)) {
        ctx.count(Counter::CmdMeta);
    }
    next
}

fn refuse(reply: &[u8], swallow: u64, used: usize, input: &mut Input<'_>, ctx: &mut Context) -> Next {
    ctx.refused(&input.rest()[..used], reply);
    ctx.say(reply);
    input.advance(used);
    if swallow > 0 { Next::Swallow(swallow) } else { Next::Command }
}

/// What follows a lookup whose command took `used` bytes.
pub fn after(fetched: Fetched, used: usize, input: &mut Input<'_>) -> Next {
    match fetched {
        Fetched::Wait(waiting) => return Next::Wait(waiting),
        Fetched::Done => {}
        Fetched::Large(streaming) => {
            input.advance(used);
            return Next::Stream(streaming);
        }
    }
    input.advance(used);
    Next::Command
}

fn get<'a>(request: &Request<'a>, form: Form<'a>, now: u64) -> Fetch<'a> {
    let deadline = |time: Option<i64>| time.map(|time| text::deadline(time, now));
    let Flags { value, peek, ttl, vivify, made, recache, cas, new_cas, range, .. } = request.flags;
    let (touch, recache) = (deadline(ttl), deadline(recache));
    let vivify = deadline(vivify).zip(deadline(made));
    Fetch { key: request.key, form, value, peek, touch, vivify, recache, cas, new_cas, range }
}

fn set(
    request: &Request<'_>,
    form: Form<'_>,
    used: usize,
    input: &mut Input<'_>,
    supply: &mut Option<Box<Supply>>,
    ctx: &mut Context,
) -> Next {
    let flags = &request.flags;
    let verb = match flags.mode {
        0 | b'S' if flags.cas.is_some() => Verb::Cas,
        0 | b'S' => Verb::Set,
        b'E' => Verb::Add,
        b'A' => Verb::Append,
        b'P' => Verb::Prepend,
        b'R' if flags.cas.is_some() => Verb::Cas,
        b'R' => Verb::Replace,
        _ => return refuse(BAD_STORE_MODE, request.len + reply::LINE_END.len() as u64, used, input, ctx),
    };
    if request.len > ctx.settings.max_value {
        ctx.count(Counter::StoreTooLarge);
        return refuse(reply::TOO_LARGE, request.len + reply::LINE_END.len() as u64, used, input, ctx);
    }
    let joins = matches!(verb, Verb::Append | Verb::Prepend);
    let ttl = if joins { flags.vivify } else { flags.ttl };
    let store = Store {
        verb,
        key: request.key,
        flags: flags.client_flags,
        expires: text::deadline(ttl.unwrap_or(0), ctx.now),
        cas: flags.cas.unwrap_or(0),
        more: More {
            new_cas: flags.new_cas,
            base64: flags.base64,
            invalidate: flags.invalidate,
            vivify: flags.vivify.is_some(),
        },
        form,
    };
    begin_store(&store, request.len, used, input, supply, ctx)
}

fn delete(
    request: &Request<'_>,
    form: Form<'_>,
    used: usize,
    input: &mut Input<'_>,
    supply: &mut Option<Box<Supply>>,
    ctx: &mut Context,
) -> Next {
    if let Err(waiting) = ctx.may_write() {
        return Next::Wait(waiting);
    }
    let Flags { cas, new_cas, invalidate, remove_value, client_flags: flags, ttl, .. } = request.flags;
    let expires = ttl.map(|ttl| text::deadline(ttl, ctx.now));
    let delete = Delete { cas, invalidate, remove_value, new_cas, expires, flags, meta: true };
    finish(delete.execute(request.key, supply.take(), ctx), &form, request.key, used, input, ctx)
}

fn arithmetic(
    request: &Request<'_>,
    form: Form<'_>,
    used: usize,
    input: &mut Input<'_>,
    supply: &mut Option<Box<Supply>>,
    ctx: &mut Context,
) -> Next {
    let Flags { cas, new_cas, ttl, vivify, made, initial, delta, base64, mode, .. } = request.flags;
    let decrement = match mode {
        0 | b'I' | b'+' => false,
        b'D' | b'-' => true,
        _ => return refuse(BAD_ARITHMETIC_MODE, 0, used, input, ctx),
    };
    if let Err(waiting) = ctx.may_write() {
        return Next::Wait(waiting);
    }
    let deadline = |time| text::deadline(time, ctx.now);
    let arithmetic = Arithmetic {
        delta: delta.unwrap_or(1),
        decrement,
        cas: cas.unwrap_or(0),
        new_cas,
        touch: ttl.map(deadline),
        vivify: vivify.zip(made).map(|(time, made)| (initial, deadline(time), deadline(made))),
        base64,
    };
    finish(arithmetic.execute(request.key, supply.take(), ctx), &form, request.key, used, input, ctx)
}
