//! The classic text protocol, command by command: what is answered, byte for byte. The expectations are
//! memcached's: run with `KINGSERVER_PEER=/usr/bin/memcached` they hold for it too, and where two of its versions
//! answer differently both are listed.

use crate::common::Server;
use crate::common::dialogue::{BAD, BAD_DELTA, BAD_EXPTIME, ERROR, NON_NUMERIC, all, any, refused_storage};

#[test]
fn retrieval() {
    let server = Server::start(&[]);
    let mut c = server.client();
    all(
        &mut c,
        &[
            ("get a\r\n", "END\r\n"),
            ("gets a\r\n", "END\r\n"),
            ("get a b c\r\n", "END\r\n"),
            ("set a 5 0 3\r\nabc\r\n", "STORED\r\n"),
            ("set b 4294967295 0 0\r\n\r\n", "STORED\r\n"),
            ("get a\r\n", "VALUE a 5 3\r\nabc\r\nEND\r\n"),
            ("get a\n", "VALUE a 5 3\r\nabc\r\nEND\r\n"),
            ("get  a   \r\n", "VALUE a 5 3\r\nabc\r\nEND\r\n"),
            ("get a nokey b a\r\n", "VALUE a 5 3\r\nabc\r\nVALUE b 4294967295 0\r\n\r\nVALUE a 5 3\r\nabc\r\nEND\r\n"),
            ("gat 0 a\r\n", "VALUE a 5 3\r\nabc\r\nEND\r\n"),
            ("gat 100 nokey b a\r\n", "VALUE b 4294967295 0\r\n\r\nVALUE a 5 3\r\nabc\r\nEND\r\n"),
            ("gat 0 nokey\r\n", "END\r\n"),
            ("gat x a\r\n", BAD_EXPTIME),
            ("gats x a\r\n", BAD_EXPTIME),
            ("gat 99999999999999999999 a\r\n", BAD_EXPTIME),
        ],
    );
    for keyless in ["get", "gets", "get ", "gat", "gats"] {
        any(&mut c, format!("{keyless}\r\n"), &[ERROR, BAD]);
    }
    any(&mut c, "gat 10\r\n", &[ERROR, BAD, "END\r\n"]);
    let unique = c.gets("a").expect("a").cas;
    all(
        &mut c,
        &[
            ("gets a\r\n", &format!("VALUE a 5 3 {unique}\r\nabc\r\nEND\r\n")),
            ("gats 0 a\r\n", &format!("VALUE a 5 3 {unique}\r\nabc\r\nEND\r\n")),
        ],
    );
}

#[test]
fn storage() {
    let server = Server::start(&[]);
    let mut c = server.client();
    all(
        &mut c,
        &[
            ("add a 1 0 1\r\nx\r\n", "STORED\r\n"),
            ("add a 2 0 1\r\ny\r\n", "NOT_STORED\r\n"),
            ("get a\r\n", "VALUE a 1 1\r\nx\r\nEND\r\n"),
            ("replace b 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
            ("append b 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
            ("prepend b 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
            ("get b\r\n", "END\r\n"),
            ("replace a 7 0 2\r\nyz\r\n", "STORED\r\n"),
            ("append a 9 0 2\r\n12\r\n", "STORED\r\n"),
            ("prepend a 9 0 2\r\n34\r\n", "STORED\r\n"),
            ("get a\r\n", "VALUE a 7 6\r\n34yz12\r\nEND\r\n"),
            ("append a 0 0 0\r\n\r\n", "STORED\r\n"),
            ("get a\r\n", "VALUE a 7 6\r\n34yz12\r\nEND\r\n"),
            ("set a 0 0 0\r\n\r\n", "STORED\r\n"),
            ("get a\r\n", "VALUE a 0 0\r\n\r\nEND\r\n"),
            ("set a 0 0 4\r\n\r\n\r\n\r\n", "STORED\r\n"),
            ("get a\r\n", "VALUE a 0 4\r\n\r\n\r\n\r\nEND\r\n"),
            ("set  a  0  0  1  \r\nx\r\n", "STORED\r\n"),
            ("set a 0 0 1\nx\r\n", "STORED\r\n"),
            ("set a 0 0 01\r\nx\r\n", "STORED\r\n"),
            ("set a 0 0 1 norepl\r\nx\r\n", "STORED\r\n"),
            ("set noreply 0 0 1\r\nx\r\n", "STORED\r\n"),
            ("get noreply\r\n", "VALUE noreply 0 1\r\nx\r\nEND\r\n"),
            ("set a 0 0 7\r\na\u{0}b\nc\rd\r\n", "STORED\r\n"),
            ("get a\r\n", "VALUE a 0 7\r\na\u{0}b\nc\rd\r\nEND\r\n"),
        ],
    );
}

#[test]
fn leading_space_is_skipped_or_refused_but_never_misread() {
    let server = Server::start(&[]);
    let mut c = server.client();
    c.set("a", "x");
    any(&mut c, " get a\r\n", &["VALUE a 0 1\r\nx\r\nEND\r\n", ERROR]);
    any(&mut c, "  set a 0 0 1\r\ny\r\n", &["STORED\r\n", &format!("{ERROR}{ERROR}"), &format!("{ERROR}{BAD}")]);
    for empty in ["\r\n", "\n", " \r\n", "   \r\n"] {
        any(&mut c, empty, &[ERROR, BAD]);
    }
}

#[test]
fn cas() {
    let server = Server::start(&[]);
    let mut c = server.client();
    all(&mut c, &[("cas a 0 0 1 1\r\nx\r\n", "NOT_FOUND\r\n"), ("get a\r\n", "END\r\n")]);
    c.set("a", "one");
    let first = c.gets("a").expect("a").cas;
    assert_eq!(c.cas("a", "two", first), "STORED");
    assert_eq!(c.cas("a", "three", first), "EXISTS");
    let second = c.gets("a").expect("a");
    assert_eq!(second.value, b"two");
    assert_ne!(second.cas, first, "a write gives a fresh unique");
    c.set("other", "x");
    assert_eq!(c.gets("a").expect("a").cas, second.cas, "a write elsewhere leaves it");
    // Touching is no change of the value: the unique stays.
    assert_eq!(c.ask("touch a 1000"), "TOUCHED");
    assert_eq!(c.gets("a").expect("a").cas, second.cas, "touch leaves it");
    let _ = c.talk("gat 1000 a\r\n");
    assert_eq!(c.gets("a").expect("a").cas, second.cas, "gat leaves it");
    for change in ["append a 0 0 1\r\n1\r\n", "prepend a 0 0 1\r\n2\r\n", "replace a 0 0 1\r\n3\r\n", "incr a 1\r\n"] {
        let before = c.gets("a").expect("a").cas;
        let _ = c.talk(change);
        assert_ne!(c.gets("a").expect("a").cas, before, "after {change}");
    }
    // Deleted and set again is another value, even if it reads the same.
    let before = c.gets("a").expect("a").cas;
    assert_eq!(c.ask("delete a"), "DELETED");
    assert_eq!(c.cas("a", "x", before), "NOT_FOUND");
    c.set("a", "4");
    assert_eq!(c.cas("a", "x", before), "EXISTS");
    all(
        &mut c,
        &[
            ("cas a 0 0 1 0\r\nx\r\n", "EXISTS\r\n"),
            ("cas a 0 0 1 18446744073709551615\r\nx\r\n", "EXISTS\r\n"),
            ("cas a 0 0 1 1 noreply\r\nx\r\n", ""),
            ("get a\r\n", "VALUE a 0 1\r\n4\r\nEND\r\n"),
        ],
    );
    for line in ["cas a 0 0 1", "cas a 0 0 1 x", "cas a 0 0 1 99999999999999999999", "cas a 0 0 1 -1"] {
        refused_storage(&mut c, line);
    }
    all(&mut c, &[("get a\r\n", "VALUE a 0 1\r\n4\r\nEND\r\n")]);
}

#[test]
fn delete() {
    let server = Server::start(&[]);
    let mut c = server.client();
    c.set("a", "x");
    all(
        &mut c,
        &[
            ("delete a\r\n", "DELETED\r\n"),
            ("delete a\r\n", "NOT_FOUND\r\n"),
            ("get a\r\n", "END\r\n"),
            ("add a 0 0 1\r\nx\r\n", "STORED\r\n"),
            ("delete a 0\r\n", "DELETED\r\n"),
            ("delete a 0\r\n", "NOT_FOUND\r\n"),
        ],
    );
    any(&mut c, "delete\r\n", &[ERROR, BAD]);
    let usage = "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n";
    for line in ["delete a 1\r\n", "delete a x\r\n", "delete a b c\r\n"] {
        any(&mut c, line, &[usage, BAD, "NOT_FOUND\r\n"]);
    }
}

#[test]
fn arithmetic() {
    let server = Server::start(&[]);
    let mut c = server.client();
    let top = "18446744073709551615";
    c.store("set", "n", 3, 0, "10");
    all(
        &mut c,
        &[
            ("incr n 1\r\n", "11\r\n"),
            ("decr n 2\r\n", "9\r\n"),
            ("get n\r\n", "VALUE n 3 2\r\n9 \r\nEND\r\n"),
            ("incr n 1\r\n", "10\r\n"),
            ("decr n 100\r\n", "0\r\n"),
            ("get n\r\n", "VALUE n 3 2\r\n0 \r\nEND\r\n"),
            ("incr n 1234\r\n", "1234\r\n"),
            ("get n\r\n", "VALUE n 3 4\r\n1234\r\nEND\r\n"),
            ("incr n 0\r\n", "1234\r\n"),
            ("set n 0 0 20\r\n18446744073709551614\r\n", "STORED\r\n"),
            ("incr n 1\r\n", "18446744073709551615\r\n"),
            ("incr n 1\r\n", "0\r\n"),
            ("get n\r\n", "VALUE n 0 20\r\n0                   \r\nEND\r\n"),
            ("incr n 18446744073709551615\r\n", "18446744073709551615\r\n"),
            ("incr n 18446744073709551616\r\n", BAD_DELTA),
            ("decr n 18446744073709551616\r\n", BAD_DELTA),
            ("incr n 18446744073709551615\r\n", "18446744073709551614\r\n"),
            ("incr nokey 1\r\n", "NOT_FOUND\r\n"),
            ("decr nokey 1\r\n", "NOT_FOUND\r\n"),
            ("incr n x\r\n", BAD_DELTA),
            ("incr n -1\r\n", BAD_DELTA),
            ("incr n 1x\r\n", BAD_DELTA),
            ("decr n 0x10\r\n", BAD_DELTA),
        ],
    );
    for line in ["incr\r\n", "decr\r\n", "incr n\r\n", "decr n\r\n"] {
        any(&mut c, line, &[ERROR, BAD]);
    }
    for value in ["abc", "", "-10", "18446744073709551616", "1a0", "99999999999999999999999999"] {
        c.set("n", value);
        all(&mut c, &[("incr n 1\r\n", NON_NUMERIC), ("decr n 1\r\n", NON_NUMERIC)]);
        assert_eq!(c.get("n").as_deref(), Some(value.as_bytes()), "a refused incr leaves the value");
    }
    c.set("n", "10 ");
    all(&mut c, &[("incr n 1\r\n", "11\r\n"), ("get n\r\n", "VALUE n 0 3\r\n11 \r\nEND\r\n")]);
    c.set("n", top);
    all(&mut c, &[("decr n 18446744073709551615\r\n", "0\r\n")]);
}

#[test]
fn noreply() {
    let server = Server::start(&[]);
    let mut c = server.client();
    all(
        &mut c,
        &[
            ("set a 1 0 1 noreply\r\nx\r\n", ""),
            ("add a 0 0 1 noreply\r\nn\r\nadd b 2 0 2 noreply\r\n17\r\n", ""),
            ("replace a 1 0 1 noreply\r\nr\r\nreplace c 0 0 1 noreply\r\nn\r\n", ""),
            ("append a 0 0 1 noreply\r\n+\r\nprepend a 0 0 1 noreply\r\n-\r\nappend c 0 0 1 noreply\r\nn\r\n", ""),
            ("incr b 1 noreply\r\ndecr b 2 noreply\r\nincr c 1 noreply\r\n", ""),
            ("touch a 0 noreply\r\ntouch c 0 noreply\r\n", ""),
            ("delete c noreply\r\nverbosity 0 noreply\r\n", ""),
            ("get a b c\r\n", "VALUE a 1 3\r\n-r+\r\nVALUE b 2 2\r\n16\r\nEND\r\n"),
        ],
    );
    let unique = c.gets("a").expect("a").cas;
    all(
        &mut c,
        &[
            (&format!("cas a 0 0 1 {} noreply\r\nn\r\n", unique + 1000), ""),
            ("get a\r\n", "VALUE a 1 3\r\n-r+\r\nEND\r\n"),
            (&format!("cas a 9 0 1 {unique} noreply\r\nc\r\n"), ""),
            ("get a\r\n", "VALUE a 9 1\r\nc\r\nEND\r\n"),
            ("delete a noreply\r\ndelete b 0 noreply\r\n", ""),
            ("get a b\r\n", "END\r\n"),
            // Not a place for it: a key like any other.
            ("get a noreply\r\n", "END\r\n"),
        ],
    );
}

#[test]
fn small_commands() {
    let server = Server::start(&[]);
    let mut c = server.client();
    assert!(c.ask("version").starts_with("VERSION "));
    assert!(c.ask("version ").starts_with("VERSION "));
    all(&mut c, &[("verbosity 0\r\n", "OK\r\n"), ("verbosity 0 noreply\r\n", "")]);
    any(&mut c, "verbosity\r\n", &[ERROR, BAD]);
    any(&mut c, "verbosity x\r\n", &[BAD]);
    for unknown in ["foo", "foo bar", "GET a", "Get a", "gett a", "ge a", "sets a 0 0 1", "set\ta 0 0 1"] {
        any(&mut c, format!("{unknown}\r\n"), &[ERROR]);
    }
    any(&mut c, "\u{7f}\r\n", &[ERROR, BAD]);
    for quit in ["quit\r\n", "quit\n", "quit now\r\n", "get a\r\nquit\r\nget a\r\n"] {
        let mut c = server.client();
        c.send(quit);
        let got = c.until_closed();
        assert_eq!(got, if quit.starts_with("get") { &b"END\r\n"[..] } else { b"" }, "{quit:?}");
    }
}

#[test]
fn stats() {
    let server = Server::start(&[]);
    let mut c = server.client();
    let dialogue = "set a 0 0 1\r\n1\r\nget a\r\nget nokey\r\nget a a a\r\nincr a 1\r\nincr nokey 1\r\ndecr a 1\r\ndecr nokey 1\r\n\
        delete nokey\r\ntouch a 0\r\ntouch nokey 0\r\ncas nokey 0 0 1 1\r\n1\r\ncas a 0 0 1 999999999\r\n1\r\ngat 0 a\r\ngat 0 nokey\r\n\
        set b 0 0 1\r\n1\r\ndelete b\r\n";
    let _ = c.talk(dialogue);
    let stats = c.stats("");
    let wanted = [
        ("cmd_set", 4),    // a, b and two cas
        ("get_misses", 1), // gat counts as a touch
        ("incr_hits", 1),
        ("incr_misses", 1),
        ("decr_hits", 1),
        ("decr_misses", 1),
        ("delete_hits", 1),
        ("delete_misses", 1),
        ("cas_misses", 1),
        ("cas_badval", 1),
        ("cas_hits", 0),
        ("touch_misses", 2),
        ("curr_items", 1),
        ("cmd_flush", 0),
    ];
    for (name, value) in wanted {
        let got = stats.get(name).unwrap_or_else(|| panic!("no {name} in {stats:#?}"));
        assert_eq!(got.parse(), Ok(value), "{name}");
    }
    for name in [
        "pid",
        "uptime",
        "time",
        "version",
        "pointer_size",
        "rusage_user",
        "rusage_system",
        "max_connections",
        "curr_connections",
        "total_connections",
        "rejected_connections",
        "cmd_get",
        "cmd_touch",
        "get_hits",
        "touch_hits",
        "bytes_read",
        "bytes_written",
        "limit_maxbytes",
        "accepting_conns",
        "listen_disabled_num",
        "threads",
        "conn_yields",
        "bytes",
        "total_items",
        "evictions",
    ] {
        assert!(stats.contains_key(name), "no {name} in {stats:#?}");
    }
    assert_eq!(stats["pid"], server.pid().to_string());
    assert_eq!(stats["get_hits"], "4", "gat counts as a touch");
    assert_eq!(stats["touch_hits"], "2", "touch and gat");
    let settings = c.stats("settings");
    for name in ["maxbytes", "maxconns", "tcpport", "verbosity", "num_threads", "item_size_max"] {
        assert!(settings.contains_key(name), "no {name} in {settings:#?}");
    }
    all(&mut c, &[("stats reset\r\n", "RESET\r\n"), ("stats nonsense\r\n", ERROR), ("stats noreply\r\n", ERROR)]);
    let stats = c.stats("");
    for name in ["get_hits", "get_misses", "cmd_set", "incr_hits", "total_items"] {
        assert_eq!(stats[name], "0", "{name} after stats reset");
    }
    assert_eq!(stats["curr_items"], "1", "a gauge is not reset");
}

/// Blanks around a number and zeros before it change nothing, however long it gets by them.
#[test]
fn arithmetic_of_padded_numbers() {
    let server = Server::start(&[]);
    let mut c = server.client();
    let padded = [
        "5 ",
        " 5",
        "5                             ",
        "00000000000000000005",
        "000000000000000000005",
        "0000000000000000000000000000000000000000000005",
    ];
    for value in padded {
        c.set("n", value);
        assert_eq!(c.ask("incr n 2"), "7", "{value:?}");
        let wanted = format!("{:<width$}", 7, width = value.len());
        assert_eq!(c.get("n"), Some(wanted.into_bytes()), "{value:?}");
    }
}
