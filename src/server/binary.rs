//! The binary dialect's commands, from their header to their execution. A request is taken once its header, extras and
//! key are here, which is at most some 500 bytes; a value is received as in the other dialects.

use super::answer::Form;
use super::auth::{Lock, admits};
use super::command::{self, Next, begin_store, finish};
use super::context::{Context, Waiting};
use super::counters::Counter;
use super::fetch::Fetch;
use super::input::Input;
use super::meta;
use super::proto::binary::{Frame, HEADER, Header, REQUEST, Status, op, version};
use super::proto::text::{self, MAX_KEY, Verb};
use super::reply;
use super::stats;
use super::storage::{More, Store};
use super::update::{Arithmetic, Delete};
use super::verdict::Supply;

/// What a record made by incr or decr does not get: then none is made.
const NOT_MADE: u32 = u32::MAX;
/// Longest name of a SASL mechanism, and longest message. Bytes.
const MAX_MECHANISM: usize = 32;
const MAX_MESSAGE: u64 = 1024;
/// The SASL mechanism there is.
const PLAIN: &[u8] = b"PLAIN";
const AUTHENTICATED: &[u8] = b"Authenticated";
const CONTINUE: u8 = 0x21;

/// A request of which all but the value is here.
struct Request<'a> {
    header: Header,
    extras: &'a [u8],
    key: &'a [u8],
    /// Bytes of all that.
    used: usize,
}

/// Takes one request from the input.
pub fn take(input: &mut Input<'_>, supply: &mut Option<Box<Supply>>, lock: &mut Lock, ctx: &mut Context) -> Next {
    if input.rest().first().is_some_and(|first| *first != REQUEST) {
        return Next::Close { asked: false };
    }
    let Some(bytes) = input.rest().first_chunk::<HEADER>() else {
        return Next::Wait(Waiting::Input);
    };
    let header = match Header::parse(bytes) {
        Ok(header) => header,
        Err((frame, status)) => return give_up(&frame, status, ctx),
    };
    let open = [op::SASL_LIST, op::SASL_AUTH, op::SASL_STEP, op::VERSION];
    if *lock != Lock::Open && !open.contains(&header.op) {
        return give_up(&header.frame, Status::AuthError, ctx);
    }
    if header.key > MAX_KEY {
        return give_up(&header.frame, Status::Invalid, ctx);
    }
    let used = HEADER + header.extras + header.key;
    let Some(head) = input.rest().get(HEADER..used) else {
        return Next::Wait(Waiting::Input);
    };
    let (extras, key) = head.split_at(header.extras);
    let request = Request { header, extras, key, used };
    match request.is_sound() {
        None => {
            input.advance(used);
            header.frame.refuse(&mut ctx.replies, Status::UnknownCommand, Status::UnknownCommand.text());
            swallow(header.value)
        }
        Some(false) => give_up(&header.frame, Status::Invalid, ctx),
        Some(true) => request.execute(input, supply, lock, ctx),
    }
}

/// An error after which the connection is closed.
#[cold]
fn give_up(frame: &Frame, status: Status, ctx: &mut Context) -> Next {
    ctx.refused(b"binary request", status.text());
    frame.refuse(&mut ctx.replies, status, status.text());
    Next::Close { asked: false }
}

fn swallow(value: u64) -> Next {
    if value > 0 { Next::Swallow(value) } else { Next::Command }
}

impl<'a> Request<'a> {
    /// Whether it has what its opcode wants. `None`: there is no such opcode.
    fn is_sound(&self) -> Option<bool> {
        let (extras, key, value) = (self.header.extras, self.header.key > 0, self.header.value > 0);
        Some(match self.header.op {
            op::GET | op::GETK | op::DELETE => extras == 0 && key && !value,
            op::SET | op::ADD | op::REPLACE => extras == 8 && key,
            op::APPEND | op::PREPEND | op::SASL_AUTH | op::SASL_STEP => extras == 0 && key,
            op::INCREMENT | op::DECREMENT => extras == 20 && key && !value,
            op::TOUCH | op::GAT | op::GATK => extras == 4 && key && !value,
            op::FLUSH => matches!(extras, 0 | 4) && !key && !value,
            // Without its extras it is what it is to memcached.
            op::VERBOSITY => return (extras == 4 && !key && !value).then_some(true),
            op::NOOP | op::VERSION | op::QUIT | op::SASL_LIST => extras == 0 && !key && !value,
            op::STAT => extras == 0 && !value,
            _ => return None,
        })
    }

    /// A number of the extras.
    fn word(&self, at: usize) -> u32 {
        self.extras.get(at..at + 4).map_or(0, |bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn long(&self, at: usize) -> u64 {
        u64::from(self.word(at)) << 32 | u64::from(self.word(at + 4))
    }

    fn deadline(&self, at: usize, ctx: &Context) -> u64 {
        text::deadline(self.word(at).into(), ctx.now)
    }

    fn form(&self) -> Form<'static> {
        Form::Binary(self.header.frame)
    }

    fn execute(
        &self,
        input: &mut Input<'_>,
        supply: &mut Option<Box<Supply>>,
        lock: &mut Lock,
        ctx: &mut Context,
    ) -> Next {
        let frame = self.header.frame;
        match self.header.op {
            op::GET | op::GETK => return meta::after(self.fetch(None).execute(supply, ctx), self.used, input),
            op::TOUCH | op::GAT | op::GATK => {
                let touch = Some(self.deadline(0, ctx));
                return meta::after(self.fetch(touch).execute(supply, ctx), self.used, input);
            }
            op::SET => return self.store(Verb::Set, input, supply, ctx),
            op::ADD => return self.store(Verb::Add, input, supply, ctx),
            op::REPLACE => return self.store(Verb::Replace, input, supply, ctx),
            op::APPEND => return self.store(Verb::Append, input, supply, ctx),
            op::PREPEND => return self.store(Verb::Prepend, input, supply, ctx),
            op::DELETE | op::INCREMENT | op::DECREMENT | op::FLUSH => return self.change(input, supply, ctx),
            op::SASL_AUTH | op::SASL_STEP => return self.authenticate(input, lock, ctx),
            op::SASL_LIST if ctx.shared.users.is_none() => {
                frame.refuse(&mut ctx.replies, Status::UnknownCommand, Status::UnknownCommand.text());
            }
            op::SASL_LIST => frame.say(&mut ctx.replies, PLAIN, 0),
            op::VERSION => frame.say(&mut ctx.replies, version(), 0),
            op::STAT => self.stats(ctx),
            op::VERBOSITY => {
                frame.done(&mut ctx.replies, 0);
                input.advance(self.used);
                return Next::Verbosity(self.word(0));
            }
            op::QUIT => {
                frame.done(&mut ctx.replies, 0);
                return Next::Close { asked: true };
            }
            _ => frame.done(&mut ctx.replies, 0),
        }
        input.advance(self.used);
        Next::Command
    }

    fn fetch(&self, touch: Option<u64>) -> Fetch<'a> {
        let (key, form) = (self.key, self.form());
        let (_, value) = self.header.frame.parts();
        Fetch {
            key,
            form,
            value,
            peek: false,
            touch,
            vivify: None,
            recache: None,
            cas: None,
            new_cas: None,
            range: None,
        }
    }

    fn store(&self, verb: Verb, input: &mut Input<'_>, supply: &mut Option<Box<Supply>>, ctx: &mut Context) -> Next {
        let Header { frame, value, cas, .. } = self.header;
        if value > ctx.settings.max_value {
            ctx.count(Counter::StoreTooLarge);
            frame.refuse(&mut ctx.replies, Status::TooLarge, Status::TooLarge.text());
            input.advance(self.used);
            return swallow(value);
        }
        let joins = matches!(verb, Verb::Append | Verb::Prepend);
        let verb = if cas != 0 && !joins { Verb::Cas } else { verb };
        let (flags, expires) = (self.word(0), self.deadline(4, ctx));
        let store = Store { verb, key: self.key, flags, expires, cas, more: More::default(), form: self.form() };
        begin_store(&store, value, self.used, input, supply, ctx)
    }

    fn change(&self, input: &mut Input<'_>, supply: &mut Option<Box<Supply>>, ctx: &mut Context) -> Next {
        if let Err(waiting) = ctx.may_write() {
            return Next::Wait(waiting);
        }
        let cas = self.header.cas;
        let attempt = match self.header.op {
            op::DELETE => {
                let delete = Delete { cas: Some(cas).filter(|cas| *cas != 0), ..Delete::default() };
                delete.execute(self.key, supply.take(), ctx)
            }
            op::FLUSH => command::flush_all(self.word(0).into(), ctx),
            op => {
                let made = self.word(16) != NOT_MADE;
                let deadline = self.deadline(16, ctx);
                let arithmetic = Arithmetic {
                    delta: self.long(0),
                    decrement: op == op::DECREMENT,
                    cas,
                    vivify: made.then(|| (self.long(8), deadline, deadline)),
                    ..Arithmetic::default()
                };
                arithmetic.execute(self.key, supply.take(), ctx)
            }
        };
        finish(attempt, &self.form(), self.key, self.used, input, ctx)
    }

    /// The text protocol's statistics, a response for each.
    fn stats(&self, ctx: &mut Context) {
        let start = ctx.replies.len();
        stats::tell(self.key, ctx);
        let text = ctx.replies[start..].to_vec();
        ctx.replies.truncate(start);
        let frame = self.header.frame;
        match self.key {
            _ if text.starts_with(reply::ERROR) || text.starts_with(b"CLIENT_ERROR") => {
                frame.refuse(&mut ctx.replies, Status::NotFound, Status::NotFound.text());
            }
            b"detail dump" => {
                frame.stat(&mut ctx.replies, b"detailed", &text);
                frame.done(&mut ctx.replies, 0);
            }
            _ => frame.stats(&mut ctx.replies, &text),
        }
    }

    /// SASL PLAIN: the message is an identity to act as, which is not looked at, the user's name, and the password, with
    /// NULs between them. It comes with the first request or with the next one.
    fn authenticate(&self, input: &mut Input<'_>, lock: &mut Lock, ctx: &mut Context) -> Next {
        let Header { frame, op, value, .. } = self.header;
        let status = match ctx.shared.users {
            None => Some(Status::UnknownCommand),
            Some(_) if self.key.len() > MAX_MECHANISM => Some(Status::Invalid),
            Some(_) if value > MAX_MESSAGE => Some(Status::NoMemory),
            Some(_) => None,
        };
        if let Some(status) = status {
            frame.refuse(&mut ctx.replies, status, status.text());
            input.advance(self.used);
            return swallow(value);
        }
        let end = self.used + value as usize;
        let Some(message) = input.rest().get(self.used..end) else {
            return Next::Wait(Waiting::Input);
        };
        input.advance(end);
        let asked = std::mem::replace(lock, Lock::Closed) == Lock::Asked;
        if op == op::SASL_AUTH && self.key == PLAIN && message.is_empty() {
            *lock = Lock::Asked;
            frame.header(&mut ctx.replies, CONTINUE, 0, 0, 0, 0);
            return Next::Command;
        }
        let named = (self.key == PLAIN && (op == op::SASL_AUTH || asked)).then(|| plain(message)).flatten();
        let (user, password) = named.unwrap_or_default();
        if admits(user, password, ctx) && named.is_some() {
            *lock = Lock::Open;
            frame.say(&mut ctx.replies, AUTHENTICATED, 0);
        } else {
            frame.refuse(&mut ctx.replies, Status::AuthError, Status::AuthError.text());
        }
        Next::Command
    }
}

/// User and password.
fn plain(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = message.splitn(3, |byte| *byte == 0);
    let (_, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    Some((user, password))
}
