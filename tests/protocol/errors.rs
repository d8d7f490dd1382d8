//! What a client may get wrong in the classic text protocol: refused with memcached's words, the connection in step
//! afterwards or closed, and never anything stored, counted or removed that was not said.

use crate::common::Server;
use crate::common::client::storage;
use crate::common::dialogue::{BAD, BAD_CHUNK, ERROR, TOO_LARGE, any, refused_storage};
use crate::common::server::peer;
use crate::common::util::random_bytes;

#[test]
fn keys_of_250_and_251_bytes() {
    let server = Server::start(&[]);
    let mut c = server.client();
    let (longest, longer) = ("k".repeat(250), "k".repeat(251));
    c.set(&longest, "x");
    assert_eq!(c.get(&longest).as_deref(), Some(&b"x"[..]));
    assert_eq!(c.ask(&format!("touch {longest} 0")), "TOUCHED");
    assert_eq!(c.store("append", &longest, 0, 0, "y"), "STORED");
    assert_eq!(c.ask(&format!("delete {longest}")), "DELETED");
    for verb in ["set", "add", "replace", "append", "prepend"] {
        refused_storage(&mut c, &format!("{verb} {longer} 0 0 1"));
    }
    refused_storage(&mut c, &format!("cas {longer} 0 0 1 1"));
    // Newer memcacheds add an empty line to the refusal of a retrieval; a client would be out of step by it.
    let twice = if peer().is_some() { format!("{BAD}\r\n") } else { BAD.to_string() };
    for line in ["get", "gets", "gat 0", "gats 0", "get a", "gat 0 a b"] {
        any(&mut c, format!("{line} {longer}\r\n"), &[BAD, &twice]);
        any(&mut c, format!("{line} {longer} {longest}\r\n"), &[BAD, &twice]);
    }
    for line in [
        format!("delete {longer}"),
        format!("touch {longer} 0"),
        format!("incr {longer} 1"),
        format!("decr {longer} 1"),
    ] {
        any(&mut c, line + "\r\n", &[BAD]);
    }
    // A key much longer than a line may be: with get, it is a refusal too.
    any(&mut c, format!("get {}\r\n", "k".repeat(3000)), &[BAD, &twice]);
}

/// A hit before a bad key: what was found may or may not have been sent, but the connection stays in step.
#[test]
fn bad_key_behind_a_hit() {
    let server = Server::start(&[]);
    let mut c = server.client();
    c.set("a", "x");
    let longer = "k".repeat(251);
    let hit = format!("VALUE a 0 1\r\nx\r\n{BAD}");
    let mut wanted = vec![BAD, &hit];
    let (twice, hit_twice) = (format!("{BAD}\r\n"), format!("{hit}\r\n"));
    if peer().is_some() {
        wanted.extend([&twice[..], &hit_twice]);
    }
    any(&mut c, format!("get a {longer} a\r\n"), &wanted);
}

#[test]
fn control_characters_in_keys() {
    if peer().is_some() {
        return; // memcached takes all but blanks; refusing them is ours, see the table of differences.
    }
    let server = Server::start(&[]);
    let mut c = server.client();
    for byte in (0..0x20).chain([0x7F]).filter(|byte| *byte != b'\n') {
        let key = [b'a', byte, b'b'];
        let key = String::from_utf8_lossy(&key);
        refused_storage(&mut c, &format!("set {key} 0 0 1"));
        any(&mut c, format!("get {key}\r\n"), &[BAD]);
        any(&mut c, format!("gat 0 {key}\r\n"), &[BAD]);
        for line in [format!("delete {key}"), format!("touch {key} 0"), format!("incr {key} 1")] {
            any(&mut c, line + "\r\n", &[BAD]);
        }
    }
    assert_eq!(c.stat("curr_items"), 0, "nothing was stored");
}

#[test]
fn bytes_above_ascii_in_keys() {
    let server = Server::start(&[]);
    let mut c = server.client();
    for key in [&b"\x80\xff"[..], "käse".as_bytes(), b"\xf0", b"%!'\"\\"] {
        let line = [b"set ", key, b" 0 0 1\r\nx\r\n"].concat();
        any(&mut c, line, &["STORED\r\n"]);
        let got = c.talk([b"get ", key, b"\r\n"].concat());
        assert_eq!(got, [b"VALUE ", key, b" 0 1\r\nx\r\nEND\r\n"].concat(), "{}", key.escape_ascii());
    }
}

#[test]
fn numbers() {
    let server = Server::start(&[]);
    let mut c = server.client();
    c.set("a", "old");
    for line in [
        "set a -1 0 1",
        "set a 1x 0 1",
        "set a 0x1 0 1",
        "set a noreply 0 1",
        "set a 99999999999999999999999 0 1",
        "set a 0 99999999999999999999 1",
        "set a 0 0 x",
        "set a 0 0 -1",
        "set a 0 0 1x",
        "set a 0 0 2147483647",
        "set a 0 0 18446744073709551615",
        "set a 0 0 18446744073709551616",
        "set a 0 0 18446744073709551617",
        "set a 0 0 99999999999999999999",
        "set a 0 0",
        "set a 0",
        "set a",
        "set",
    ] {
        // Lengths that no buffer could hold may also be called too large, with the bytes to swallow never coming:
        // not here.
        let mut c = server.client();
        refused_storage(&mut c, line);
    }
    assert_eq!(c.get("a").as_deref(), Some(&b"old"[..]), "a refused set leaves the value");
}

/// Numbers that memcached 1.6.18 takes modulo 2^32 without a word.
#[test]
fn numbers_do_not_wrap() {
    if peer().is_some() {
        return;
    }
    let server = Server::start(&[]);
    let mut c = server.client();
    c.set("a", "old");
    for line in ["set a 4294967296 0 1", "set a 4294967297 0 1"] {
        refused_storage(&mut c, line);
    }
    // 2^32+1: a refusal, or an object too large whose bytes are then awaited; never one byte stored.
    for length in ["4294967297", "4294967296", "8589934593"] {
        let mut c = server.client();
        c.send(format!("set a 0 0 {length}\r\nx\r\nversion\r\n"));
        let reply = c.line() + "\r\n";
        assert!([BAD, TOO_LARGE].contains(&reply.as_str()), "length {length}: {reply}");
    }
    for line in ["verbosity 99999999999", "verbosity 18446744073709551616", "flush_all 99999999999999999999"] {
        let reply = c.ask(line);
        assert!(reply.starts_with("CLIENT_ERROR "), "{line}: {reply}");
    }
    assert_eq!(c.get("a").as_deref(), Some(&b"old"[..]));
}

#[test]
fn bad_data_chunk() {
    let server = Server::start(&[]);
    let mut c = server.client();
    c.set("a", "old");
    // One byte too many or too few: the rest of the block is a line of its own, as with memcached.
    let (error, bad) = (format!("{BAD_CHUNK}{ERROR}"), format!("{BAD_CHUNK}{BAD}"));
    any(&mut c, "set a 0 0 1\r\nxyz\r\n", &[&error, &bad, BAD_CHUNK]);
    any(&mut c, "set a 0 0 3\r\nx\r\nabc\r\n", &[&error, &bad, BAD_CHUNK]);
    let then_miss = format!("{BAD_CHUNK}END\r\n");
    any(&mut c, "set a 0 0 1\r\nxyzget nokey\r\n", &[&then_miss, BAD_CHUNK]);
    for verb in ["add", "replace", "append", "prepend"] {
        any(&mut c, format!("{verb} a 0 0 1\r\nxyz\r\n"), &[&error, &bad, BAD_CHUNK]);
    }
    any(&mut c, "cas a 0 0 1 1\r\nxyz\r\n", &[&error, &bad, BAD_CHUNK]);
    let got = c.get("a");
    let whole = got.as_deref() == Some(&b"old"[..]) || peer().is_some();
    assert!(whole, "nothing of a bad chunk may be stored: {got:?}");
    // Large ones too, with the wrong end far away.
    for len in [65_535, 65_536, 65_537, 200_000] {
        let mut block = storage(&format!("set a 0 0 {len}"), &random_bytes(1, len));
        let end = block.len();
        block[end - 2] = b'!';
        // memcached's first fault after the block is the newline that is left.
        any(&mut c, block, &[BAD_CHUNK, &error, &bad]);
    }
    assert!(c.get("a").as_deref() == Some(&b"old"[..]) || peer().is_some());
}

#[test]
fn too_large_is_swallowed() {
    let server = Server::start(&["-I", "1m"]);
    let mut c = server.client();
    c.set("a", "old");
    for len in [1_048_577, 2_000_000, 9_999_999] {
        for verb in ["set", "add", "replace", "append", "prepend"] {
            any(&mut c, storage(&format!("{verb} a 0 0 {len}"), &vec![b'\n'; len]), &[TOO_LARGE]);
        }
        any(&mut c, storage(&format!("cas a 0 0 {len} 1"), &vec![b'g'; len]), &[TOO_LARGE]);
        any(&mut c, storage(&format!("set a 0 0 {len} noreply"), &vec![b'g'; len]), &["", TOO_LARGE]);
        // The value's bytes are no commands, whatever they say.
        let mut commands = b"delete a\r\nset a 0 0 1\r\nx\r\n".repeat(len / 20);
        commands.truncate(len);
        any(&mut c, storage(&format!("set a 0 0 {len}"), &commands), &[TOO_LARGE]);
    }
    if peer().is_none() {
        // memcached removes the old value; keeping it is ours, see the table of differences.
        assert_eq!(c.get("a").as_deref(), Some(&b"old"[..]));
    }
    // A sum over the limit.
    c.set("a", vec![b'x'; 600_000]);
    for verb in ["append", "prepend"] {
        let reply = c.store(verb, "a", 0, 0, vec![b'y'; 600_000]);
        assert!(["NOT_STORED", "SERVER_ERROR object too large for cache"].contains(&reply.as_str()), "{verb}: {reply}");
        assert_eq!(c.get("a"), Some(vec![b'x'; 600_000]), "after a refused {verb}");
    }
}

#[test]
fn line_without_end_is_closed() {
    let server = Server::start(&[]);
    for line in ["x".repeat(3000), "set ".to_string() + &"x".repeat(10_000), " ".repeat(5000), "stats ".repeat(2000)] {
        let mut c = server.client();
        c.send(&line);
        let got = c.until_closed();
        let fine = got.is_empty() || got.starts_with(b"ERROR") || got.starts_with(b"CLIENT_ERROR");
        assert!(fine, "{}...: {}", &line[..10], got.escape_ascii());
        assert!(got.is_empty() || got.ends_with(b"\r\n"), "a whole line or nothing: {}", got.escape_ascii());
    }
    // One that goes on for ever must not fill the memory: it is closed while it is sent.
    let mut c = server.client();
    let flood = vec![b'y'; 1 << 20];
    let closed = (0..64).any(|_| c.try_send(&flood).is_err());
    assert!(closed, "64 MiB of one line were taken");
    assert!(server.client().ask("version").starts_with("VERSION"), "others are served");
}

#[test]
fn spaces_before_a_key_may_be_any_number() {
    let server = Server::start(&[]);
    let mut c = server.client();
    c.send(format!("get{}", " ".repeat(100_000)));
    c.send(format!("{}k{}\r\n", " ".repeat(100_000), " ".repeat(100_000)));
    assert_eq!(c.line(), "END");
}

#[test]
fn one_key_without_end_is_closed_or_refused() {
    if peer().is_some() {
        return; // memcached lets a get line grow without bound.
    }
    let server = Server::start(&[]);
    let mut c = server.client();
    let flood = vec![b'k'; 1 << 20];
    c.send("get ");
    // The refusal skips to the end of the line, which may be far: without memory.
    let before = crate::common::util::anonymous_memory(server.pid());
    for _ in 0..32 {
        if c.try_send(&flood).is_err() {
            break;
        }
    }
    let growth = crate::common::util::anonymous_memory(server.pid()).saturating_sub(before);
    assert!(growth < 8 << 20, "a key of 32 MiB takes {growth} bytes of memory");
    assert!(server.client().ask("version").starts_with("VERSION"), "others are served");
}

#[test]
fn the_binary_dialect_begins_with_the_first_byte_only() {
    let server = Server::start(&[]);
    // Less than a header, then silence from the client: a close, never a hang.
    let mut c = server.client();
    c.send([0x80]);
    c.half_close();
    let _ = c.until_closed();
    let mut c = server.client();
    assert!(c.ask("version").starts_with("VERSION"));
    any(&mut c, b"\x80abc\r\n", &[ERROR]);
    let mut c = server.client();
    any(&mut c, b"\x81foo\r\n", &[ERROR, BAD]);
}

#[test]
fn http_gets_no_service() {
    let server = Server::start(&[]);
    let mut c = server.client();
    c.send("GET / HTTP/1.1\r\nHost: localhost\r\nset: a 0 0 1\r\n\r\n");
    c.half_close();
    let got = c.until_closed();
    assert!(!got.windows(6).any(|bytes| bytes == b"STORED"), "{}", got.escape_ascii());
}
