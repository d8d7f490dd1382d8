//! memcached's classic text protocol, parsed in place.
//!
//! Pure functions over the bytes a connection has received so far: no I/O, no allocation, no store. A command borrows
//! its key from the input. Workers call [`parse`] at the head of a command and, within a retrieval, [`next_key`] until
//! the line ends; a retrieval's line may be of any length and is therefore never required to have arrived whole.
//!
//! Answers are memcached's own, with three differences, all towards safety. Control characters and NUL in keys are
//! refused. A number that does not fit is refused where memcached cuts it to 32 bits. The data block behind a refused
//! storage line is skipped wherever its length could be read and is below 2 GiB, so that data is not taken for
//! commands.

mod parts;
pub mod scan;
#[cfg(test)]
mod tests;

use crate::server::reply::{BAD_LINE, ERROR, TOO_LARGE, decimal};
use scan::{key_len, newline, number, signed, spaces, word_len};

/// Longest key. Bytes.
pub const MAX_KEY: usize = 250;
/// Longest line other than a retrieval's list of keys. Bytes, newline excluded.
pub const MAX_LINE: usize = 2048;
/// The highest number of a part of an upload; the lowest is 1.
pub const MAX_UPLOAD_PARTS: u64 = 10_000;
/// Shortest line that is looked at, its newline included. Bytes.
const MIN_LINE: usize = 4;
/// Longest data block that is swallowed to keep a connection in step: memcached's `INT_MAX - 2`. Bytes.
pub const MAX_SWALLOW: u64 = i32::MAX as u64 - 2;
/// An expiry time above this is a date, not a distance: 30 days. Seconds.
const MAX_RELATIVE: i64 = 60 * 60 * 24 * 30;

const BAD_DELTA: &[u8] = b"CLIENT_ERROR invalid numeric delta argument\r\n";
const BAD_EXPTIME: &[u8] = b"CLIENT_ERROR invalid exptime argument\r\n";

/// What stands at the head of the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Parse<'a> {
    /// No whole line yet, and not too long yet.
    Incomplete,
    /// One whole command line; `used` bytes of input, its newline included.
    Command { used: usize, command: Command<'a> },
    /// One whole line of the meta dialect: what follows `m` and `verb`. `used` as above.
    Meta { used: usize, verb: u8, line: &'a [u8] },
    /// The head of get/gets/gat/gats (verb and, for gat, the exptime): keys follow and are taken with [`next_key`].
    /// `used` covers the head only.
    Retrieval { used: usize, retrieval: Retrieval },
    /// The line is refused. `used` bytes are to be skipped, then `reply` sent (it ends in `\r\n`, or is empty where the
    /// client asked for no reply), then `swallow` bytes of data block (its `\r\n` included) skipped. `close`: then the
    /// connection is closed.
    Refused { used: usize, reply: &'static [u8], swallow: u64, close: bool },
}

/// The head of a retrieval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retrieval {
    /// gets/gats: replies carry the CAS unique.
    pub with_cas: bool,
    /// gat/gats: the new exptime as sent.
    pub touch: Option<i64>,
}

/// What stands at the head of a retrieval's remaining line.
#[derive(Debug, PartialEq, Eq)]
pub enum NextKey<'a> {
    /// A key; `used` covers it and the spaces before it.
    Key { used: usize, key: &'a [u8] },
    /// The end of the line (`used` takes the newline). `END\r\n` is the reply, or, where the line held no key at all,
    /// a `CLIENT_ERROR` (the caller counts).
    End { used: usize },
    /// The key at the end of input is not delimited yet. The spaces before it need not be kept.
    Incomplete,
    /// Key too long or with a control character: `CLIENT_ERROR bad command line format\r\n`; skip to the end of this
    /// line (which may not have arrived yet).
    Bad,
}

/// The commands that a data block follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Set,
    Add,
    Replace,
    Append,
    Prepend,
    Cas,
    /// Of an upload: the key is its name, `cas` the part's number.
    Part,
}

/// A whole, valid command line.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// A data block of `len` bytes and `\r\n` follows. `cas` is 0 for all verbs but `Cas` and `Part`.
    Store {
        verb: Verb,
        key: &'a [u8],
        flags: u32,
        exptime: i64,
        len: u64,
        cas: u64,
        noreply: bool,
    },
    Delete {
        key: &'a [u8],
        noreply: bool,
    },
    Arithmetic {
        key: &'a [u8],
        delta: u64,
        decrement: bool,
        noreply: bool,
    },
    Touch {
        key: &'a [u8],
        exptime: i64,
        noreply: bool,
    },
    /// `delay` as sent, 0 if none was.
    FlushAll {
        delay: i64,
        noreply: bool,
    },
    /// The parts 1 to `parts` of an upload become the value of `key`.
    Commit {
        upload: &'a [u8],
        key: &'a [u8],
        flags: u32,
        exptime: i64,
        parts: u64,
        noreply: bool,
    },
    /// An upload is given up.
    Abort {
        upload: &'a [u8],
        noreply: bool,
    },
    Version,
    Verbosity {
        level: u32,
        noreply: bool,
    },
    /// What follows `stats`, trimmed.
    Stats {
        what: &'a [u8],
    },
    /// One for operators; the line is not looked at any further.
    Control {
        line: &'a [u8],
        noreply: bool,
    },
    Quit,
}

/// Looks at the head of `input`. `max_value`: the longest data block that is accepted, in bytes.
pub fn parse(input: &[u8], max_value: u64) -> Parse<'_> {
    if let Some(head) = retrieval(input) {
        return head;
    }
    let Some(newline) = newline(&input[..input.len().min(MAX_LINE + 1)]) else {
        return unfinished(input);
    };
    let used = newline + 1;
    if used < MIN_LINE {
        return Parse::Refused { used, reply: BAD_LINE, swallow: 0, close: false };
    }
    let text = match &input[..newline] {
        [text @ .., b'\r'] => text,
        text => text,
    };
    if let [b'm', verb, line @ ..] = text
        && matches!(verb, b'g' | b's' | b'd' | b'a' | b'e' | b'n')
        && matches!(line, [] | [b' ', ..])
    {
        return Parse::Meta { used, verb: *verb, line };
    }
    match command(&Line::split(text), max_value) {
        Ok(command) => Parse::Command { used, command },
        Err(Refusal { reply, swallow, close }) => Parse::Refused { used, reply, swallow, close },
    }
}

/// Takes the next key of a retrieval's line; `input` starts where the head or the key before ended.
pub fn next_key(input: &[u8]) -> NextKey<'_> {
    let start = spaces(input);
    let rest = &input[start..];
    let len = key_len(&rest[..rest.len().min(MAX_KEY + 1)]);
    match &rest[len..] {
        _ if len > MAX_KEY => NextKey::Bad,
        [] | [b'\r'] => NextKey::Incomplete,
        [b'\n', ..] if len == 0 => NextKey::End { used: start + 1 },
        [b'\r', b'\n', ..] if len == 0 => NextKey::End { used: start + 2 },
        [b' ' | b'\n', ..] | [b'\r', b'\n', ..] => NextKey::Key { used: start + len, key: &rest[..len] },
        _ => NextKey::Bad,
    }
}

/// memcached's `realtime()`: 0 is never, negative is already gone, up to 30 days counts from `now`, more is Unix time.
/// `now` is store time in seconds, which counts from 1970 too. Returns the store time at which the item is gone: 0 is
/// never, 1 is already. libmemcached says 2^32 - 1 for -1, and whoever uses it (PHP, Django) means "gone" by that.
pub fn deadline(exptime: i64, now: u64) -> u64 {
    match u64::try_from(exptime) {
        Err(_) => 1,
        Ok(minus_one) if minus_one == u64::from(u32::MAX) => 1,
        Ok(0) => 0,
        Ok(distance) if exptime <= MAX_RELATIVE => now.saturating_add(distance),
        Ok(date) if date <= now => 1,
        Ok(date) => date,
    }
}

/// The outcome of [`arithmetic`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// The new number in decimal, in the first `len` bytes.
    pub digits: [u8; 20],
    /// How many of `digits` count.
    pub len: usize,
    /// The same number.
    pub value: u64,
    /// The new value's length: the digits, padded on the right with spaces to the old value's length.
    pub padded: usize,
}

/// incr and decr on the bytes of a value: unsigned 64 bits, incr wraps, decr stops at 0. `None`: not a number. White
/// space around the digits and zeros before them are allowed, as with memcached; whatever else it would overlook is
/// not, since the new value overwrites it.
pub fn arithmetic(value: &[u8], delta: u64, decrement: bool) -> Option<Number> {
    let old = number(value.trim_ascii())?;
    let new = if decrement { old.saturating_sub(delta) } else { old.wrapping_add(delta) };
    let (digits, len) = decimal(new);
    Some(Number { digits, len, value: new, padded: len.max(value.len()) })
}

/// A line that is not executed: what to answer and how to stay in step.
struct Refusal {
    reply: &'static [u8],
    swallow: u64,
    close: bool,
}

/// Refuses a line. A client that asked for no reply must not find one before its next command's.
fn refuse<T>(reply: &'static [u8], noreply: bool) -> Result<T, Refusal> {
    let reply = if noreply { b"" } else { reply };
    Err(Refusal { reply, swallow: 0, close: false })
}

/// The head of a retrieval, if `input` starts with a delimited one. `None`: something else, or not to be told yet.
fn retrieval(input: &[u8]) -> Option<Parse<'_>> {
    let (verb_end, with_cas, touch) = match input {
        [b'g', b'e', b't', b' ' | b'\r' | b'\n', ..] => (3, false, false),
        [b'g', b'e', b't', b's', b' ' | b'\r' | b'\n', ..] => (4, true, false),
        [b'g', b'a', b't', b' ', ..] => (3, false, true),
        [b'g', b'a', b't', b's', b' ', ..] => (4, true, true),
        _ => return None,
    };
    if !touch {
        return Some(Parse::Retrieval { used: verb_end, retrieval: Retrieval { with_cas, touch: None } });
    }
    let word_start = verb_end + spaces(&input[verb_end..]);
    let word_len = key_len(&input[word_start..]);
    let used = word_start + word_len;
    if word_len == 0 || used > MAX_LINE || used == input.len() {
        return None;
    }
    let touch = Some(signed(&input[word_start..used])?);
    Some(Parse::Retrieval { used, retrieval: Retrieval { with_cas, touch } })
}

/// What to do with a head that has no newline. One that is too long is junk: the connection is closed without a word.
fn unfinished(input: &[u8]) -> Parse<'_> {
    if input.len() <= MAX_LINE {
        return Parse::Incomplete;
    }
    Parse::Refused { used: input.len(), reply: b"", swallow: 0, close: true }
}

/// A line's words, of which no command takes more than seven. A line that begins with a space has none, as with memcached.
struct Line<'a> {
    words: [&'a [u8]; 8],
    /// Words found; stops counting at 8.
    count: usize,
    text: &'a [u8],
}

impl<'a> Line<'a> {
    fn split(text: &'a [u8]) -> Line<'a> {
        let mut line = Line { words: [&[]; 8], count: 0, text };
        let mut rest = if text.starts_with(b" ") { &[] } else { text };
        while !rest.is_empty() && line.count < line.words.len() {
            let (word, after) = rest.split_at(word_len(rest));
            line.words[line.count] = word;
            line.count += 1;
            rest = &after[spaces(after)..];
        }
        line
    }

    /// Whether the last word says `noreply`.
    fn noreply(&self) -> bool {
        match self.count {
            8 => self.text.trim_ascii_end().ends_with(b" noreply"),
            count => self.words[count - 1] == b"noreply",
        }
    }

    /// The key, nearly always the second word.
    fn key(&self, noreply: bool) -> Result<&'a [u8], Refusal> {
        self.key_at(1, noreply)
    }

    fn key_at(&self, index: usize, noreply: bool) -> Result<&'a [u8], Refusal> {
        let key = self.words[index];
        if key.len() > MAX_KEY || key_len(key) < key.len() {
            return refuse(BAD_LINE, noreply);
        }
        Ok(key)
    }

    /// Fails unless there are so many words. More than a command takes are passed over, as memcached does.
    fn want(&self, least: usize) -> Result<(), Refusal> {
        if self.count < least { refuse(BAD_LINE, false) } else { Ok(()) }
    }
}

/// Dispatches on the verb.
fn command<'a>(line: &Line<'a>, max_value: u64) -> Result<Command<'a>, Refusal> {
    match line.words[0] {
        b"set" => store(line, Verb::Set, max_value),
        b"add" => store(line, Verb::Add, max_value),
        b"cas" => store(line, Verb::Cas, max_value),
        b"replace" => store(line, Verb::Replace, max_value),
        b"append" => store(line, Verb::Append, max_value),
        b"prepend" => store(line, Verb::Prepend, max_value),
        b"delete" => delete(line),
        b"incr" => increment(line, false),
        b"decr" => increment(line, true),
        b"touch" => touch(line),
        b"part" => parts::part(line, max_value),
        b"commit" => parts::commit(line),
        b"abort" => parts::abort(line),
        b"gat" | b"gats" => refused_gat(line),
        b"flush_all" => flush_all(line),
        b"version" => Ok(Command::Version),
        b"verbosity" => verbosity(line),
        b"stats" => Ok(Command::Stats { what: line.text.trim_ascii()[b"stats".len()..].trim_ascii() }),
        b"quit" => Ok(Command::Quit),
        b"cache_memlimit" | b"debugtime" | b"delete_prefix" | b"lru" | b"lru_crawler" | b"shutdown" | b"slabs"
        | b"watch" => Ok(Command::Control { line: line.text, noreply: line.noreply() }),
        _ => unknown(line),
    }
}

/// `<verb> <key> <flags> <exptime> <bytes> [<cas unique>] [noreply]`
fn store<'a>(line: &Line<'a>, verb: Verb, max_value: u64) -> Result<Command<'a>, Refusal> {
    line.want(5)?;
    let len = block_len(line.words[4], max_value)?;
    let noreply = line.noreply();
    let fields = store_fields(line, verb, noreply);
    let refusal = match fields {
        Ok((key, flags, exptime, cas)) if len <= max_value => {
            return Ok(Command::Store { verb, key, flags, exptime, len, cas, noreply });
        }
        Ok(_) => Refusal { reply: if noreply { b"" } else { TOO_LARGE }, swallow: 0, close: false },
        Err(refusal) => refusal,
    };
    Err(Refusal { swallow: len + 2, ..refusal })
}

/// The length of a data block. One that could neither be stored nor skipped in reasonable time is refused as memcached
/// does: what follows counts as the next line.
fn block_len(word: &[u8], max_value: u64) -> Result<u64, Refusal> {
    match number(word) {
        Some(len) if len <= MAX_SWALLOW.max(max_value) => Ok(len),
        _ => refuse(BAD_LINE, false),
    }
}

/// Key, flags, exptime and CAS unique of a storage line.
fn store_fields<'a>(line: &Line<'a>, verb: Verb, noreply: bool) -> Result<(&'a [u8], u32, i64, u64), Refusal> {
    let key = line.key(noreply)?;
    let flags = number(line.words[2]).and_then(|n| u32::try_from(n).ok());
    let exptime = signed(line.words[3]);
    let cas = if verb == Verb::Cas { number(line.words[5]) } else { Some(0) };
    match (flags, exptime, cas) {
        (Some(flags), Some(exptime), Some(cas)) => Ok((key, flags, exptime, cas)),
        _ => refuse(BAD_LINE, noreply),
    }
}

/// `delete <key> [0] [noreply]`: once a time could stand there, and clients exist that send 0.
fn delete<'a>(line: &Line<'a>) -> Result<Command<'a>, Refusal> {
    line.want(2)?;
    let noreply = line.noreply();
    let known = matches!((line.words[2], line.words[3]), (b"" | b"noreply", _) | (b"0", b"" | b"noreply"));
    if !known || line.count > 4 {
        return refuse(BAD_LINE, noreply);
    }
    Ok(Command::Delete { key: line.key(noreply)?, noreply })
}

/// `incr|decr <key> <delta> [noreply]`
fn increment<'a>(line: &Line<'a>, decrement: bool) -> Result<Command<'a>, Refusal> {
    line.want(3)?;
    let noreply = line.noreply();
    let key = line.key(noreply)?;
    match number(line.words[2]) {
        Some(delta) => Ok(Command::Arithmetic { key, delta, decrement, noreply }),
        None => refuse(BAD_DELTA, noreply),
    }
}

/// `touch <key> <exptime> [noreply]`
fn touch<'a>(line: &Line<'a>) -> Result<Command<'a>, Refusal> {
    line.want(3)?;
    let noreply = line.noreply();
    let key = line.key(noreply)?;
    match signed(line.words[2]) {
        Some(exptime) => Ok(Command::Touch { key, exptime, noreply }),
        None => refuse(BAD_EXPTIME, noreply),
    }
}

/// A whole gat/gats line that [`retrieval`] would not have: its exptime is missing or no number.
fn refused_gat<'a>(line: &Line<'a>) -> Result<Command<'a>, Refusal> {
    line.want(3)?;
    refuse(BAD_EXPTIME, false)
}

/// `flush_all [delay] [noreply]`
fn flush_all<'a>(line: &Line<'a>) -> Result<Command<'a>, Refusal> {
    let noreply = line.noreply();
    let delay = if line.count == 1 + usize::from(noreply) { Some(0) } else { signed(line.words[1]) };
    match delay {
        Some(delay) => Ok(Command::FlushAll { delay, noreply }),
        None => refuse(BAD_EXPTIME, noreply),
    }
}

/// `verbosity <level> [noreply]`
fn verbosity<'a>(line: &Line<'a>) -> Result<Command<'a>, Refusal> {
    let noreply = line.noreply();
    match number(line.words[1]).and_then(|n| u32::try_from(n).ok()) {
        Some(level) => Ok(Command::Verbosity { level, noreply }),
        None => refuse(BAD_LINE, noreply),
    }
}

/// No such command. A web browser, or a web page's script in one, is sent away before its body could be taken for
/// commands.
fn unknown<'a>(line: &Line<'a>) -> Result<Command<'a>, Refusal> {
    match line.words[1..].iter().any(|word| word.starts_with(b"HTTP/")) {
        true => Err(Refusal { reply: b"", swallow: 0, close: true }),
        false => refuse(ERROR, line.count > 0 && line.noreply()),
    }
}
