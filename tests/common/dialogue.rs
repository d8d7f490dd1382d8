//! Dialogues of the text protocol: what is sent, and what must come back, to the byte.

use super::Client;
use super::client::storage;

pub const BAD: &str = "CLIENT_ERROR bad command line format\r\n";
pub const ERROR: &str = "ERROR\r\n";
pub const BAD_CHUNK: &str = "CLIENT_ERROR bad data chunk\r\n";
pub const BAD_DELTA: &str = "CLIENT_ERROR invalid numeric delta argument\r\n";
pub const BAD_EXPTIME: &str = "CLIENT_ERROR invalid exptime argument\r\n";
pub const NON_NUMERIC: &str = "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n";
pub const TOO_LARGE: &str = "SERVER_ERROR object too large for cache\r\n";

/// Sends `send`; the answer must be one of `wanted` (see [`is`]), with nothing before or after it, and the next command must be
/// understood.
pub fn any(client: &mut Client, send: impl AsRef<[u8]>, wanted: &[&str]) {
    let send = send.as_ref();
    let got = client.talk(send).escape_ascii().to_string();
    let passed = client.age().as_secs() as i64 + 1;
    let found = wanted.iter().any(|wanted| is(&got, &wanted.as_bytes().escape_ascii().to_string(), passed));
    let sent = &send[..send.len().min(300)];
    assert!(found, "sent: {}\n got: {got}\nwanted: {wanted:?}", sent.escape_ascii());
}

/// Sends the first of each pair; the second must be the answer.
pub fn all(client: &mut Client, dialogue: &[(&str, &str)]) {
    for (send, wanted) in dialogue {
        any(client, send, &[wanted]);
    }
}

/// Whether `got` is `wanted`, but for the time to live that a meta reply tells (`t30`): of that, so many seconds may have `passed` since
/// the value was stored.
fn is(got: &str, wanted: &str, passed: i64) -> bool {
    let time = |token: &str| token.strip_prefix('t').and_then(|seconds| seconds.parse().ok()).unwrap_or(-1);
    let aged =
        |got: &str, wanted: &str| time(wanted) > passed && (time(wanted) - passed..=time(wanted)).contains(&time(got));
    let (got_line, got_rest) = got.split_once("\\r\\n").unwrap_or((got, ""));
    let (line, rest) = wanted.split_once("\\r\\n").unwrap_or((wanted, ""));
    let pairs = got_line.split(' ').zip(line.split(' '));
    got_rest == rest
        && got_line.split(' ').count() == line.split(' ').count()
        && pairs.into_iter().all(|(got, wanted)| got == wanted || aged(got, wanted))
}

/// A malformed storage command: refused, and its data block taken for one, or for a line of its own (memcached did both).
pub fn refused_storage(client: &mut Client, line: &str) {
    let tails = ["", ERROR, BAD];
    let wanted: Vec<String> =
        tails.iter().flat_map(|tail| [format!("{BAD}{tail}"), format!("{ERROR}{tail}")]).collect();
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    any(client, storage(line, b"x"), &wanted);
}
