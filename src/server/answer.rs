//! How a command is answered. All dialects come to the same commands; a command carries the [`Form`] of its answer,
//! and what it came to ([`Said`], [`Facts`]) is put into words here alone.

use super::context::Context;
use super::log;
use super::proto::base64;
use super::proto::binary::{Frame, Status};
use super::proto::meta;
use super::proto::text::Number;
use super::reply;
use kingdb::Error;
use kingdb::store::{FETCHED, WON};

/// In which dialect a command is answered, and what of its line the answer repeats.
#[derive(Clone, Copy, Debug)]
pub enum Form<'a> {
    Text { noreply: bool },
    Meta(Meta<'a>),
    Binary(Frame),
}

/// See [`Form`].
#[derive(Clone, Copy, Debug)]
pub struct Meta<'a> {
    /// The second letter of the command.
    pub verb: u8,
    /// The flags as sent.
    pub flags: &'a [u8],
    pub quiet: bool,
    /// The key came in base64.
    pub base64: bool,
    /// The answer is to have the value.
    pub value: bool,
}

/// What a command came to.
#[derive(Clone, Copy, Debug)]
pub enum Said {
    Stored,
    NotStored,
    Exists,
    NotFound,
    Deleted,
    Touched,
    Ok,
    Number(Number),
    NotANumber,
    TooLarge,
    BadChunk,
    /// An option forbids it.
    NotAllowed,
    NoMemory,
    PartsMissing,
}

/// What may be told of a record.
#[derive(Clone, Copy, Default, Debug)]
pub struct Facts {
    pub cas: u64,
    /// Bytes of the value.
    pub size: u64,
    pub flags: u32,
    pub marks: u8,
    /// Seconds since it was fetched last.
    pub idle: u32,
    /// Its deadline, as yet.
    pub expires: u64,
    /// The command made it, with this deadline.
    pub vivified: Option<u64>,
    /// The command gives it this deadline.
    pub touch: Option<u64>,
    /// A deadline before this one wins the right to renew it.
    pub recache: Option<u64>,
    /// The client has won that right.
    pub won: bool,
}

impl<'a> Form<'a> {
    /// Bytes behind a data block.
    #[inline]
    pub fn tail(&self) -> usize {
        if let Form::Binary(_) = self { 0 } else { reply::LINE_END.len() }
    }

    /// What it borrows, to be owned by whoever keeps it.
    pub fn borrowed(&self) -> &'a [u8] {
        if let Form::Meta(meta) = self { meta.flags } else { &[] }
    }

    /// The same, borrowing from elsewhere.
    pub fn with(self, flags: &[u8]) -> Form<'_> {
        match self {
            Form::Text { noreply } => Form::Text { noreply },
            Form::Meta(Meta { verb, quiet, base64, value, .. }) => {
                Form::Meta(Meta { verb, flags, quiet, base64, value })
            }
            Form::Binary(frame) => Form::Binary(frame),
        }
    }
}

/// Answers a command on `key`.
#[inline]
pub fn tell(form: &Form<'_>, key: &[u8], said: Said, facts: &Facts, ctx: &mut Context) {
    match form {
        Form::Text { noreply: true } => {}
        Form::Text { .. } => text(said, &mut ctx.replies),
        Form::Meta(meta) => meta.tell(key, said, facts, ctx),
        Form::Binary(frame) => binary(frame, said, facts.cas, &mut ctx.replies),
    }
}

/// The store refused a command.
#[cold]
pub fn fail(form: &Form<'_>, error: &Error, ctx: &mut Context) {
    note_damage(error);
    match form {
        Form::Text { noreply: true } => {}
        Form::Text { .. } | Form::Meta(_) => reply::store_error(&mut ctx.replies, error),
        Form::Binary(frame) => {
            let status = if let Error::Full(_) = error { Status::NoMemory } else { Status::Internal };
            let mut line = Vec::new();
            reply::store_error(&mut line, error);
            let text = line.trim_ascii().strip_prefix(b"SERVER_ERROR ").unwrap_or(&line);
            frame.refuse(&mut ctx.replies, status, text);
        }
    }
}

/// The operator is told which file is damaged, and where; the client is not.
#[cold]
pub fn note_damage(error: &Error) {
    static LIMIT: log::Limit = log::Limit::new();
    if let Error::Damaged(why) = error
        && LIMIT.admits()
    {
        log::error(format_args!("a client was told of a damaged value: {why}"));
    }
}

fn text(said: Said, out: &mut Vec<u8>) {
    if let Said::Number(number) = said {
        out.extend_from_slice(&number.digits[..number.len]);
    }
    out.extend_from_slice(line(said));
}

fn line(said: Said) -> &'static [u8] {
    match said {
        Said::Stored => reply::STORED,
        Said::NotStored => reply::NOT_STORED,
        Said::Exists => reply::EXISTS,
        Said::NotFound => reply::NOT_FOUND,
        Said::Deleted => reply::DELETED,
        Said::Touched => reply::TOUCHED,
        Said::Ok => reply::OK,
        Said::Number(_) => reply::LINE_END,
        Said::NotANumber => reply::NOT_A_NUMBER,
        Said::TooLarge => reply::TOO_LARGE,
        Said::BadChunk => reply::BAD_CHUNK,
        Said::NotAllowed => reply::NO_FLUSH,
        Said::NoMemory => reply::NO_MEMORY,
        Said::PartsMissing => reply::PARTS_MISSING,
    }
}

fn binary(frame: &Frame, said: Said, cas: u64, out: &mut Vec<u8>) {
    let status = match said {
        Said::Number(number) => return frame.number(out, number.value, cas),
        Said::Stored | Said::Deleted | Said::Touched | Said::Ok => return frame.done(out, cas),
        Said::NotStored => frame.not_stored(),
        Said::Exists => Status::Exists,
        Said::NotFound => Status::NotFound,
        Said::NotANumber => Status::NotANumber,
        Said::TooLarge => Status::TooLarge,
        Said::NotAllowed => Status::AuthError,
        Said::NoMemory => Status::NoMemory,
        Said::BadChunk | Said::PartsMissing => Status::Invalid,
    };
    frame.refuse(out, status, status.text());
}

impl Meta<'_> {
    fn tell(&self, key: &[u8], said: Said, facts: &Facts, ctx: &mut Context) {
        let code: &[u8] = match said {
            Said::Stored | Said::Deleted | Said::Touched | Said::Ok | Said::Number(_) if self.quiet => return,
            Said::Stored | Said::Deleted | Said::Touched | Said::Ok => b"HD",
            Said::Number(_) if !self.value => b"HD",
            Said::Number(_) => b"VA ",
            Said::NotStored => b"NS",
            Said::Exists => b"EX",
            Said::NotFound => b"NF",
            Said::NotANumber
            | Said::TooLarge
            | Said::BadChunk
            | Said::NotAllowed
            | Said::NoMemory
            | Said::PartsMissing => return ctx.say(line(said)),
        };
        ctx.say(code);
        let number = if let Said::Number(number) = &said { Some(&number.digits[..number.len]) } else { None };
        if let Some(digits) = number.filter(|_| self.value) {
            reply::number(&mut ctx.replies, digits.len() as u64);
        }
        let told: &[u8] = match (self.verb, number) {
            (b's', _) => b"Okcs",
            (_, Some(_)) => b"OkctTN",
            _ => b"Ok",
        };
        self.reflect(told, key, &mut facts.clone(), ctx.now, &mut ctx.replies);
        if let Some(digits) = number.filter(|_| self.value) {
            ctx.say(digits);
            ctx.say(reply::LINE_END);
        }
    }

    /// Repeats and answers the flags whose letters are in `told`, in their order, and ends the line (but for mg, where
    /// more may follow). T, N and R have their effect on `facts` where they stand.
    pub fn reflect(&self, told: &[u8], key: &[u8], facts: &mut Facts, now: u64, out: &mut Vec<u8>) {
        for word in meta::words(self.flags).filter(|word| told.contains(&word[0])) {
            let value = match word[0] {
                b'T' => {
                    facts.expires = facts.touch.unwrap_or(facts.expires);
                    continue;
                }
                b'N' => {
                    facts.expires = facts.vivified.unwrap_or(facts.expires);
                    continue;
                }
                b'R' => {
                    let soon = facts.expires != 0 && facts.recache.is_some_and(|recache| facts.expires < recache);
                    facts.won |= soon && facts.vivified.is_none() && facts.marks & WON == 0;
                    continue;
                }
                b'c' => facts.cas,
                b's' => facts.size,
                b'f' => facts.flags.into(),
                b'l' => facts.idle.into(),
                b'h' => u64::from(facts.marks & FETCHED != 0),
                _ => facts.expires.saturating_sub(now),
            };
            out.extend_from_slice(&[b' ', word[0]]);
            match word[0] {
                b'O' => out.extend_from_slice(&word[1..]),
                b'k' => say_key(key, self.base64, out),
                b't' if facts.expires == 0 => out.extend_from_slice(b"-1"),
                _ => reply::number(out, value),
            }
        }
        if self.verb != b'g' {
            out.extend_from_slice(reply::LINE_END);
        }
    }
}

/// A key as the k flag tells it.
fn say_key(key: &[u8], in_base64: bool, out: &mut Vec<u8>) {
    if !in_base64 {
        return out.extend_from_slice(key);
    }
    base64::encode(key, out);
    out.extend_from_slice(b" b");
}

/// What a client is told before its connection ends, whatever it asked for.
pub fn refusal(binary: bool, why: &str) -> Vec<u8> {
    let mut out = Vec::new();
    match binary {
        true => Frame::default().refuse(&mut out, Status::Internal, why.as_bytes()),
        false => reply::server_error(&mut out, why),
    }
    out
}
