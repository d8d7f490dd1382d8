//! Who may use the server. The file has memcached's format, `user:password` lines; it is read at the start and again on
//! SIGHUP, and a file that cannot be used then leaves the one before in force. Names and passwords are compared in a time
//! that does not depend on where they differ.
//!
//! A connection is [`Lock::Closed`] until it has named a user. In the text protocol that is a `set` of any key, with
//! `user password` as its data; in the binary protocol it is SASL PLAIN.

use super::context::{Context, Step, Waiting};
use super::counters::Counter;
use super::input::Input;
use super::log;
use super::proto::meta::words;
use super::proto::text::scan::{newline, number};
use super::proto::text::{MAX_LINE, MAX_SWALLOW};
use super::reply::{LINE_END, STORED};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};

/// Longest `user password`. Bytes.
const MAX_TOKEN: u64 = 16 * 1024;
/// Shortest line that can be a `set`. Bytes.
const MIN_LINE: usize = 6;

const UNAUTHENTICATED: &[u8] = b"CLIENT_ERROR unauthenticated\r\n";
const TOO_LONG: &[u8] = b"CLIENT_ERROR auth token too long\r\n";
const BAD_END: &[u8] = b"CLIENT_ERROR bad command line termination\r\n";
const BAD_FORMAT: &[u8] = b"CLIENT_ERROR bad authentication token format\r\n";
const FAILURE: &[u8] = b"CLIENT_ERROR authentication failure\r\n";

/// What a connection may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lock {
    /// Everything.
    Open,
    /// Nothing but name a user.
    Closed,
    /// The same; it said how, and is to say whom.
    Asked,
}

/// See the module's head.
pub struct Users {
    path: PathBuf,
    known: RwLock<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl Users {
    /// Those in the file at `path`. The error is a sentence.
    pub fn read(path: PathBuf) -> Result<Self, String> {
        let users = Self { path, known: RwLock::default() };
        users.read_again()?;
        users.warn_if_open();
        Ok(users)
    }

    /// Passwords are not for everybody. A group may be the server's own, where root owns the file.
    pub fn warn_if_open(&self) {
        if std::fs::metadata(&self.path).is_ok_and(|found| found.mode() & 0o007 != 0) {
            let shown = self.path.display();
            log::warn(format_args!(
                "the users' file {shown} is open to everybody on this host: let the server's user or group alone read it"
            ));
        }
    }

    /// Reads the file again. With an error, a sentence, nothing has changed.
    pub fn read_again(&self) -> Result<(), String> {
        let shown = self.path.display();
        let text =
            std::fs::read(&self.path).map_err(|error| format!("cannot read the users' file {shown}: {error}"))?;
        let mut known = Vec::new();
        for (line, at) in text.trim_ascii_end().split(|byte| *byte == b'\n').zip(1..) {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                if line.trim_ascii().is_empty() && !text.trim_ascii().is_empty() {
                    continue;
                }
                return Err(format!("{shown}:{at}: a line of the users' file is user:password"));
            };
            known.push((line[..colon].to_vec(), line[colon + 1..].to_vec()));
        }
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(())
    }

    /// Whether there is this user with this password.
    pub fn know(&self, user: &[u8], password: &[u8]) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let known = known.iter().map(|(name, secret)| same(name, user) & same(secret, password));
        known.fold(false, |any, this| any | this)
    }
}

/// Compares in a time that depends on the lengths alone.
fn same(a: &[u8], b: &[u8]) -> bool {
    let pairs = a.iter().zip(b);
    let differences = pairs.fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
    a.len() == b.len() && differences == 0
}

/// Whether a user has named himself rightly; it is counted, and noted. Without users nobody can.
pub fn admits(user: &[u8], password: &[u8], ctx: &mut Context) -> bool {
    let known = ctx.shared.users.as_ref().is_some_and(|users| users.know(user, password));
    ctx.count(Counter::AuthCmds);
    ctx.denied = !known;
    if !known {
        ctx.count(Counter::AuthErrors);
    }
    known
}

/// The one command of the text protocol before a user is named; then so many bytes of input are to be thrown away. `Err`:
/// the connection is to be closed. Every answer is sent, `noreply` or not, as by memcached.
pub fn login(input: &mut Input<'_>, ctx: &mut Context) -> Result<(Step, Lock, u64), ()> {
    let rest = input.rest();
    let Some(end) = newline(rest) else {
        return if rest.len() > MAX_LINE { Err(()) } else { Ok((Step::Wait(Waiting::Input), Lock::Closed, 0)) };
    };
    if end < MIN_LINE {
        return Err(());
    }
    let (answer, swallow) = match announced(&rest[..end]) {
        None => (UNAUTHENTICATED, 0),
        Some(len @ MAX_TOKEN..) => (TOO_LONG, len + LINE_END.len() as u64),
        Some(len) => {
            let whole = end + 1 + len as usize + LINE_END.len();
            let Some(block) = rest.get(end + 1..whole) else {
                return Ok((Step::Wait(Waiting::Input), Lock::Closed, 0));
            };
            let answer = judge(block, ctx);
            input.advance(whole);
            ctx.say(answer);
            return Ok((Step::Done, if answer == STORED { Lock::Open } else { Lock::Closed }, 0));
        }
    };
    input.advance(end + 1);
    ctx.say(answer);
    Ok((Step::Done, Lock::Closed, swallow))
}

/// The length of the data block behind a `set`, if it can be skipped in reasonable time.
fn announced(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let len = line.starts_with(b"set ").then(|| words(line).nth(4).and_then(number)).flatten();
    len.filter(|len| *len <= MAX_SWALLOW)
}

fn judge(block: &[u8], ctx: &mut Context) -> &'static [u8] {
    let Some(token) = block.strip_suffix(LINE_END) else { return BAD_END };
    let Some(space) = token.iter().position(|byte| *byte == b' ') else { return BAD_FORMAT };
    if admits(&token[..space], &token[space + 1..], ctx) { STORED } else { FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(text: &str) -> Result<Users, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Users::read(file.path().to_path_buf())
    }

    #[test]
    fn users_are_known_by_their_whole_name_and_password() {
        let users = users("\nalice:wonder land\r\nbob:\n\r\n \nc:d:e").unwrap();
        for (user, password) in [("alice", "wonder land"), ("bob", ""), ("c", "d:e")] {
            assert!(users.know(user.as_bytes(), password.as_bytes()), "{user}");
        }
        for (user, password) in
            [("alice", ""), ("alice", "wonder lan"), ("alice", "wonder landx"), ("", ""), ("bob", "x")]
        {
            assert!(!users.know(user.as_bytes(), password.as_bytes()), "{user}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_changes_nothing() {
        assert!(users("alice").err().unwrap().contains(":1: "));
        assert!(users("").is_err() && users(" \n\n").is_err());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a:b\n").unwrap();
        let users = Users::read(file.path().to_path_buf()).unwrap();
        std::fs::write(file.path(), "c:d\nnonsense\n").unwrap();
        assert!(users.read_again().unwrap_err().contains(":2: "));
        assert!(users.know(b"a", b"b") && !users.know(b"c", b"d"));
        std::fs::write(file.path(), "c:d\n").unwrap();
        users.read_again().unwrap();
        assert!(!users.know(b"a", b"b") && users.know(b"c", b"d"));
    }
}
