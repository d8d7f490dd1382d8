//! From a command line to its execution: what is small is done here, the rest is told to its module. Commands
//! that need no value are finished in one step, or parked whole: then nothing of the input is consumed and
//! the same step is taken again later.

use super::answer::{self, Facts, Form, Said};
use super::context::{Context, Step, Waiting};
use super::control;
use super::counters::Counter;
use super::errand::Errand;
use super::input::Input;
use super::meta;
use super::multipart;
use super::proto::text::{self, Command, Parse, Verb};
use super::receive::{Gathering, UPLOAD, Uploading, store_block};
use super::reply;
use super::retrieve::Keys;
use super::stats;
use super::storage::{More, Store};
use super::streaming::Streaming;
use super::update::{self, Arithmetic, Delete};
use super::verdict::{Attempt, Supply, Verdict, conclude};
use super::watch;
use kingdb::store::CHUNK;
use std::sync::Arc;

/// The record of a flush, roughly. Bytes.
pub const FLUSH: usize = 64;

/// A value of up to this length never waits for memory. Bytes.
const SMALL: usize = 16 * 1024;

/// Where a connection stands after a command line.
pub enum Next {
    /// At the next command.
    Command,
    /// The same; the client wants so many messages.
    Verbosity(u32),
    /// In the list of keys of a retrieval.
    Keys(Keys),
    /// In a data block.
    Gather(Box<Gathering>),
    /// In a large data block.
    Upload(Box<Uploading>),
    /// Before a large value that is to go out first.
    Stream(Box<Streaming>),
    /// In a data block to be thrown away.
    Swallow(u64),
    /// Before a long answer that the disk lane makes.
    Errand(Box<Errand>),
    /// At its last command: from here on it is a watcher.
    Watch(Arc<watch::Stream>),
    /// At its end: what is unsent goes out, then it is closed. `asked`: as the client wants.
    Close { asked: bool },
    /// Where it stood: see [`Step::Wait`].
    Wait(Waiting),
}

/// Takes one command from the input.
#[inline]
pub fn take(input: &mut Input<'_>, supply: &mut Option<Box<Supply>>, ctx: &mut Context) -> Next {
    match text::parse(input.rest(), ctx.settings.max_value) {
        Parse::Incomplete => Next::Wait(Waiting::Input),
        Parse::Retrieval { used, retrieval } => {
            input.advance(used);
            Next::Keys(Keys::new(retrieval, ctx.now))
        }
        Parse::Command { used, command } => execute(command, used, input, supply, ctx),
        Parse::Meta { used, verb, line } => meta::take(verb, line, used, input, supply, ctx),
        Parse::Refused { used, reply, swallow, close } => {
            if reply == reply::TOO_LARGE {
                ctx.count(Counter::StoreTooLarge);
            }
            ctx.refused(&input.rest()[..used], reply);
            input.advance(used);
            ctx.say(reply);
            match close {
                true => Next::Close { asked: false },
                false if swallow > 0 => Next::Swallow(swallow),
                false => Next::Command,
            }
        }
    }
}

#[inline]
fn execute(
    command: Command<'_>,
    used: usize,
    input: &mut Input<'_>,
    supply: &mut Option<Box<Supply>>,
    ctx: &mut Context,
) -> Next {
    match command {
        Command::Store { verb, key, flags, exptime, len, cas, noreply } => {
            let expires = text::deadline(exptime, ctx.now);
            let store = Store { verb, key, flags, expires, cas, more: More::default(), form: Form::Text { noreply } };
            return begin_store(&store, len, used, input, supply, ctx);
        }
        Command::Version => ctx.say(reply::VERSION),
        Command::Verbosity { level, noreply } => {
            ctx.answer(reply::OK, noreply);
            input.advance(used);
            return Next::Verbosity(level);
        }
        Command::Stats { what: b"conns" } => {
            input.advance(used);
            return control::census(ctx);
        }
        Command::Stats { what } if what.starts_with(b"cachedump") => {
            input.advance(used);
            return control::cache_dump(what, ctx);
        }
        Command::Stats { what } => stats::tell(what, ctx),
        Command::Control { line, noreply } => {
            input.advance(used);
            return control::execute(line, noreply, ctx);
        }
        Command::Quit => {
            input.advance(used);
            return Next::Close { asked: true };
        }
        command => return change(command, used, input, supply, ctx),
    }
    input.advance(used);
    Next::Command
}

/// The commands that write.
#[inline]
fn change(
    command: Command<'_>,
    used: usize,
    input: &mut Input<'_>,
    supply: &mut Option<Box<Supply>>,
    ctx: &mut Context,
) -> Next {
    if let Err(waiting) = ctx.may_write() {
        return Next::Wait(waiting);
    }
    let (attempt, key, noreply) = match command {
        Command::Delete { key, noreply } => (Delete::default().execute(key, supply.take(), ctx), key, noreply),
        Command::Arithmetic { key, delta, decrement, noreply } => {
            let arithmetic = Arithmetic { delta, decrement, ..Arithmetic::default() };
            (arithmetic.execute(key, supply.take(), ctx), key, noreply)
        }
        Command::Touch { key, exptime, noreply } => {
            let expires = text::deadline(exptime, ctx.now);
            (update::touch(key, expires, supply.take(), ctx), key, noreply)
        }
        Command::Commit { upload, key, flags, exptime, parts, noreply } => {
            let record = (flags, text::deadline(exptime, ctx.now));
            (multipart::commit(upload, (key, parts), record, supply.take(), ctx), key, noreply)
        }
        Command::Abort { upload, noreply } => (multipart::abort(upload, ctx), upload, noreply),
        Command::FlushAll { delay, noreply } => (flush_all(delay, ctx), &b""[..], noreply),
        _ => unreachable!("matched by the caller"),
    };
    finish(attempt, &Form::Text { noreply }, key, used, input, ctx)
}

/// Answers an executed command; `used` bytes of input are done with unless it waits.
pub fn finish(
    attempt: Attempt,
    form: &Form<'_>,
    key: &[u8],
    used: usize,
    input: &mut Input<'_>,
    ctx: &mut Context,
) -> Next {
    match conclude(attempt, form, key, ctx) {
        Err(waiting) => Next::Wait(waiting),
        Ok(()) => {
            input.advance(used);
            Next::Command
        }
    }
}

pub fn flush_all(delay: i64, ctx: &mut Context) -> Attempt {
    if !ctx.settings.flush {
        ctx.count(Counter::CmdFlush);
        return Ok(Verdict::say(Said::NotAllowed));
    }
    let at = text::deadline(delay, ctx.now);
    let position = ctx.db.flush_all((at > ctx.now).then_some(at))?;
    ctx.appended += FLUSH;
    ctx.depend(position);
    ctx.count(Counter::CmdFlush);
    Ok(Verdict::say(Said::Ok))
}

/// A storage command: executed in place if its data block is here whole; otherwise the block is received first.
#[inline]
pub fn begin_store(
    store: &Store<'_>,
    len: u64,
    used: usize,
    input: &mut Input<'_>,
    supply: &mut Option<Box<Supply>>,
    ctx: &mut Context,
) -> Next {
    if len > CHUNK as u64 || store.verb == Verb::Part {
        return begin_upload(store, len, used, input, ctx);
    }
    let len = len as usize;
    let end = used + len + store.form.tail();
    let Some(block) = input.rest().get(used..end) else {
        if len > SMALL
            && let Err(waiting) = ctx.admit(len)
        {
            return Next::Wait(waiting);
        }
        input.advance(used);
        return Next::Gather(Box::new(Gathering::new(store, len)));
    };
    match store_block(store, block, supply, ctx) {
        Step::Wait(waiting) => Next::Wait(waiting),
        Step::Done => {
            input.advance(end);
            Next::Command
        }
    }
}

fn begin_upload(store: &Store<'_>, len: u64, used: usize, input: &mut Input<'_>, ctx: &mut Context) -> Next {
    if store.verb == Verb::Part && !ctx.shared.multiparts.has_room(store.key, store.cas, ctx.now) {
        input.advance(used);
        answer::tell(&store.form, store.key, Said::NoMemory, &Facts::default(), ctx);
        return Next::Swallow(len + store.form.tail() as u64);
    }
    if let Err(waiting) = ctx.may_write().and_then(|()| ctx.admit(UPLOAD)) {
        return Next::Wait(waiting);
    }
    input.advance(used);
    match Uploading::new(store, len, ctx) {
        Ok(uploading) => Next::Upload(Box::new(uploading)),
        Err(error) => {
            answer::fail(&store.form, &error, ctx);
            Next::Swallow(len + store.form.tail() as u64)
        }
    }
}
