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

/// Sends `send`; the answer must be one of `wanted`, with nothing before or after it, and the next command must be understood.
pub fn any(client: &mut Client, send: impl AsRef<[u8]>, wanted: &[&str]) {
    let send = send.as_ref();
    let got = client.talk(send).escape_ascii().to_string();
    let found = wanted.iter().any(|wanted| wanted.as_bytes().escape_ascii().to_string() == got);
    let sent = &send[..send.len().min(300)];
    assert!(found, "sent: {}\n got: {got}\nwanted: {wanted:?}", sent.escape_ascii());
}

/// Sends the first of each pair; the second must be the answer.
pub fn all(client: &mut Client, dialogue: &[(&str, &str)]) {
    for (send, wanted) in dialogue {
        any(client, send, &[wanted]);
    }
}

/// A malformed storage command: refused, and its data block taken for one, or for a line of its own (memcached did both).
pub fn refused_storage(client: &mut Client, line: &str) {
    let tails = ["", ERROR, BAD];
    let wanted: Vec<String> =
        tails.iter().flat_map(|tail| [format!("{BAD}{tail}"), format!("{ERROR}{tail}")]).collect();
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    any(client, storage(line, b"x"), &wanted);
}
