//! The meta dialect: `mg ms md ma me` and their flags, parsed in place. A command's line is a part of the text
//! protocol's input; [`super::text`] finds it. Pure functions, no allocation.
//!
//! Which flags there are, what they mean, and which error is told first, is memcached's.

use super::base64;
use super::text::scan::{key_len, number, signed, spaces, word_len};
use super::text::{MAX_KEY, MAX_SWALLOW};
use crate::server::reply::BAD_LINE;

/// Longest line in words: command, key and all.
const MAX_WORDS: usize = 20;
/// Longest opaque, its `O` included. Bytes.
const MAX_OPAQUE: usize = 32;

const TOO_MANY_FLAGS: &[u8] = b"CLIENT_ERROR options flags are too long\r\n";
const DUPLICATE: &[u8] = b"CLIENT_ERROR duplicate flag\r\n";
const INVALID: &[u8] = b"CLIENT_ERROR invalid flag\r\n";
const INVALID_ARITHMETIC: &[u8] = b"CLIENT_ERROR invalid or duplicate flag\r\n";
const BAD_BASE64: &[u8] = b"CLIENT_ERROR error decoding key\r\n";
const BAD_TOKEN: &[u8] = b"CLIENT_ERROR bad token in command line format\r\n";
const BAD_INITIAL: &[u8] = b"CLIENT_ERROR invalid numeric initial value\r\n";
const BAD_DELTA: &[u8] = b"CLIENT_ERROR invalid numeric delta value\r\n";
const LONG_OPAQUE: &[u8] = b"CLIENT_ERROR opaque token too long\r\n";

/// A command of the dialect.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Decoded, if it came in base64.
    pub key: &'a [u8],
    /// ms: bytes of the data block.
    pub len: u64,
    pub flags: Flags<'a>,
}

/// A line that is not executed: what to answer, and how many bytes of data block to skip.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reply: &'static [u8],
    pub swallow: u64,
}

/// The flags, by their letters. Times are as sent.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Flags<'a> {
    /// All of them as sent: the answer repeats some, in their order.
    pub text: &'a [u8],
    /// b
    pub base64: bool,
    /// q
    pub quiet: bool,
    /// v
    pub value: bool,
    /// u
    pub peek: bool,
    /// x
    pub remove_value: bool,
    /// I
    pub invalidate: bool,
    /// T
    pub ttl: Option<i64>,
    /// N
    pub vivify: Option<i64>,
    /// The later one of T and N, which is what a record that is made gets.
    pub made: Option<i64>,
    /// R
    pub recache: Option<i64>,
    /// C
    pub cas: Option<u64>,
    /// E
    pub new_cas: Option<u64>,
    /// F
    pub client_flags: u32,
    /// J
    pub initial: u64,
    /// D
    pub delta: Option<u64>,
    /// M; 0: not given.
    pub mode: u8,
    /// r: of the value, from this offset on, at most so many bytes.
    pub range: Option<(u64, u64)>,
}

/// The words of `text`.
pub fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = &rest[spaces(rest)..];
        let (word, after) = rest.split_at(word_len(rest));
        rest = after;
        (!word.is_empty()).then_some(word)
    })
}

/// Parses what follows the command's name `m` and `verb`. A key in base64 is decoded into `room`.
pub fn parse<'a>(
    verb: u8,
    line: &'a [u8],
    room: &'a mut [u8; MAX_KEY],
    max_value: u64,
) -> Result<Request<'a>, Refusal> {
    let refuse = |reply, swallow| Err(Refusal { reply, swallow });
    let (key, mut text) = word(line);
    if key.is_empty() {
        return refuse(BAD_LINE, 0);
    }
    let (mut len, mut swallow) = (0, 0);
    if verb == b's' {
        let (digits, rest) = word(text);
        text = rest;
        match number(digits) {
            Some(number) if number <= MAX_SWALLOW.max(max_value) => (len, swallow) = (number, number + 2),
            _ => return refuse(BAD_LINE, 0),
        }
    }
    let named = |word: &[u8]| matches!(word[0], b'A'..=b'z' | b'0'..=b'9');
    if !words(text).all(named) {
        return refuse(BAD_LINE, swallow);
    }
    match flags(verb, key, text, room) {
        Ok((flags, decoded)) => {
            let key = if flags.base64 { &room[..decoded] } else { key };
            Ok(Request { key, len, flags })
        }
        // The generic text of ma for whatever is wrong with its flags.
        Err(reply) if verb == b'a' && reply != LONG_OPAQUE => refuse(INVALID_ARITHMETIC, swallow),
        Err(reply) => refuse(reply, swallow),
    }
}

/// The first word, and what follows it.
fn word(text: &[u8]) -> (&[u8], &[u8]) {
    let text = &text[spaces(text)..];
    text.split_at(word_len(text))
}

/// Reads the flags; also tells how long the key is that was decoded. The first fault that ends the reading counts, else
/// the last of the others.
fn flags<'a>(
    verb: u8,
    key: &[u8],
    text: &'a [u8],
    room: &mut [u8; MAX_KEY],
) -> Result<(Flags<'a>, usize), &'static [u8]> {
    if key.len() > MAX_KEY {
        return Err(BAD_LINE);
    }
    let before = if verb == b's' { 3 } else { 2 };
    if words(text).count() + before > MAX_WORDS {
        return Err(TOO_MANY_FLAGS);
    }
    let (mut flags, mut decoded, mut seen, mut fault) = (Flags { text, ..Flags::default() }, 0, 0_u128, None);
    for word in words(text) {
        let (letter, argument) = (word[0], &word[1..]);
        if seen >> letter & 1 != 0 {
            return Err(DUPLICATE);
        }
        seen |= 1 << letter;
        let sound = match letter {
            b'b' => {
                flags.base64 = true;
                base64::decode(key, room).map(|len| decoded = len).ok_or(BAD_BASE64)
            }
            _ => flags.set(letter, argument),
        };
        match sound {
            Err(INVALID) => return Err(INVALID),
            Err(reply) => fault = Some(reply),
            Ok(()) => {}
        }
    }
    match fault {
        Some(reply) => Err(reply),
        None if !flags.base64 && key_len(key) < key.len() => Err(BAD_LINE),
        None if words(text).any(|word| word[0] == b'O' && word.len() > MAX_OPAQUE) => Err(LONG_OPAQUE),
        None => Ok((flags, decoded)),
    }
}

impl Flags<'_> {
    fn set(&mut self, letter: u8, argument: &[u8]) -> Result<(), &'static [u8]> {
        match letter {
            b'O' | b'P' | b'L' | b'k' | b's' | b't' | b'c' | b'f' | b'l' | b'h' => {}
            b'q' => self.quiet = true,
            b'v' => self.value = true,
            b'u' => self.peek = true,
            b'x' => self.remove_value = true,
            b'I' => self.invalidate = true,
            b'M' => self.mode = argument.first().copied().unwrap_or(b' '),
            b'T' | b'N' => {
                self.made = Some(time(argument)?);
                *if letter == b'T' { &mut self.ttl } else { &mut self.vivify } = self.made;
            }
            b'R' => self.recache = Some(time(argument)?),
            b'C' => self.cas = Some(number(argument).ok_or(BAD_TOKEN)?),
            b'E' => self.new_cas = Some(number(argument).ok_or(BAD_TOKEN)?),
            b'F' => {
                self.client_flags = number(argument).and_then(|flags| u32::try_from(flags).ok()).ok_or(BAD_LINE)?;
            }
            b'J' => self.initial = number(argument).ok_or(BAD_INITIAL)?,
            b'r' => self.range = Some(range(argument).ok_or(BAD_TOKEN)?),
            b'D' => self.delta = Some(number(argument).ok_or(BAD_DELTA)?),
            _ => return Err(INVALID),
        }
        Ok(())
    }
}

/// Two numbers with a comma between them.
fn range(argument: &[u8]) -> Option<(u64, u64)> {
    let comma = argument.iter().position(|byte| *byte == b',')?;
    Some((number(&argument[..comma])?, number(&argument[comma + 1..])?))
}

fn time(argument: &[u8]) -> Result<i64, &'static [u8]> {
    signed(argument).filter(|time| i32::try_from(*time).is_ok()).ok_or(BAD_TOKEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn refused(verb: u8, line: &str) -> (&'static [u8], u64) {
        let refusal = parse(verb, line.as_bytes(), &mut [0; MAX_KEY], MIB).unwrap_err();
        (refusal.reply, refusal.swallow)
    }

    #[test]
    fn every_flag_is_read() {
        let mut room = [0; MAX_KEY];
        let line = b" key  77 q v u x I T-1 N30 R5 C7 E8 F9 J10 D11 MA r12,13 Oopaque k";
        let request = parse(b's', line, &mut room, MIB).unwrap();
        assert_eq!((request.key, request.len), (&b"key"[..], 77));
        let flags = Flags {
            text: b" q v u x I T-1 N30 R5 C7 E8 F9 J10 D11 MA r12,13 Oopaque k",
            base64: false,
            quiet: true,
            value: true,
            peek: true,
            remove_value: true,
            invalidate: true,
            ttl: Some(-1),
            vivify: Some(30),
            made: Some(30),
            recache: Some(5),
            cas: Some(7),
            new_cas: Some(8),
            client_flags: 9,
            initial: 10,
            delta: Some(11),
            mode: b'A',
            range: Some((12, 13)),
        };
        assert_eq!(request.flags, flags);
        assert_eq!(parse(b'g', b" Zm9v b", &mut room, MIB).unwrap().key, b"foo");
    }

    #[test]
    fn the_fault_that_counts_is_told_and_the_block_is_skipped() {
        let (long, many) = ("k".repeat(MAX_KEY + 1), " s".repeat(MAX_WORDS));
        for (line, reply) in [
            ("", BAD_LINE),
            (" k !", BAD_LINE),
            (" k\tk", BAD_LINE),
            (&format!(" {long}"), BAD_LINE),
            (&format!(" k{many}"), TOO_MANY_FLAGS),
            (" k s s", DUPLICATE),
            (" k Tx s s", DUPLICATE),
            (" k m", INVALID),
            (" k 1", INVALID),
            (" k Tx", BAD_TOKEN),
            (" k T4294967296", BAD_TOKEN),
            (" k C-1", BAD_TOKEN),
            (" k F4294967296", BAD_LINE),
            (" k Jx", BAD_INITIAL),
            (" k D", BAD_DELTA),
            (" k r5", BAD_TOKEN),
            (" k r5,", BAD_TOKEN),
            (" k r-5,3", BAD_TOKEN),
            (" k r5,3,1", BAD_TOKEN),
            (" !!! b", BAD_BASE64),
            (&format!(" k O{}", "o".repeat(MAX_OPAQUE)), LONG_OPAQUE),
        ] {
            assert_eq!(refused(b'g', line), (reply, 0), "{line}");
        }
        assert_eq!(refused(b'a', " k Tx"), (INVALID_ARITHMETIC, 0));
        assert_eq!(refused(b's', " k 5 m"), (INVALID, 7));
        assert_eq!(refused(b's', " k -5"), (BAD_LINE, 0));
        assert_eq!(refused(b's', " k"), (BAD_LINE, 0));
    }
}
