//! Deadlines and flushes in the text protocol: negative, relative up to 30 days, absolute beyond; at once and delayed.

use crate::common::Server;
use crate::common::dialogue::{BAD, BAD_EXPTIME, ERROR, all, any, refused_storage};
use crate::common::server::peer;
use crate::common::util::wait_until;

#[test]
fn expiry() {
    let server = Server::start(&[]);
    let mut c = server.client();
    let unix = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    let (past, future) = (unix - 100, unix + 1000);
    all(
        &mut c,
        &[
            // Negative: gone at once, but stored.
            ("set a 0 -1 1\r\nx\r\n", "STORED\r\n"),
            ("get a\r\n", "END\r\n"),
            ("add a 0 0 1\r\ny\r\n", "STORED\r\n"),
            ("touch a -1\r\n", "TOUCHED\r\n"),
            ("get a\r\n", "END\r\n"),
            ("touch a 0\r\n", "NOT_FOUND\r\n"),
            ("incr a 1\r\n", "NOT_FOUND\r\n"),
            ("append a 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
            ("replace a 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
            ("cas a 0 0 1 1\r\nx\r\n", "NOT_FOUND\r\n"),
            ("delete a\r\n", "NOT_FOUND\r\n"),
            // Up to 30 days is relative; one second more is a date in January 1970.
            ("set a 0 2592000 1\r\nx\r\n", "STORED\r\n"),
            ("get a\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n"),
            ("set a 0 2592001 1\r\nx\r\n", "STORED\r\n"),
            ("get a\r\n", "END\r\n"),
            (&format!("set a 0 {past} 1\r\nx\r\n"), "STORED\r\n"),
            ("get a\r\n", "END\r\n"),
            (&format!("set a 0 {future} 1\r\nx\r\n"), "STORED\r\n"),
            ("get a\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n"),
            (&format!("touch a {past}\r\n"), "TOUCHED\r\n"),
            ("get a\r\n", "END\r\n"),
            ("set a 0 0 1\r\nx\r\n", "STORED\r\n"),
            ("gat -1 a\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n"),
            ("get a\r\n", "END\r\n"),
            ("touch nokey 0\r\n", "NOT_FOUND\r\n"),
            ("touch a x\r\n", BAD_EXPTIME),
            ("touch nokey 99999999999999999999\r\n", BAD_EXPTIME),
        ],
    );
    for line in ["touch\r\n", "touch a\r\n"] {
        any(&mut c, line, &[ERROR, BAD]);
    }
    for line in ["set a 0 99999999999999999999 1", "set a 0 x 1", "set a 0 1x 1"] {
        refused_storage(&mut c, line);
    }
}

#[test]
fn expiry_comes_and_can_be_moved() {
    let server = Server::start(&[]);
    let mut c = server.client();
    for key in ["short", "touched", "gatted", "appended", "counted"] {
        assert_eq!(c.store("set", key, 0, 4, "5"), "STORED");
        assert!(c.get(key).is_some(), "{key} is there at first");
    }
    assert_eq!(c.ask("touch touched 1000"), "TOUCHED");
    let _ = c.talk("gat 1000 gatted\r\n");
    // Appending and counting keep the deadline that was.
    assert_eq!(c.store("append", "appended", 0, 0, "6"), "STORED");
    assert_eq!(c.ask("incr counted 1"), "6");
    for key in ["short", "appended", "counted"] {
        wait_until(&format!("{key} expires"), || c.get(key).is_none());
    }
    assert!(c.get("touched").is_some() && c.get("gatted").is_some());
}

#[test]
fn flush_all() {
    let server = Server::start(&[]);
    let mut c = server.client();
    c.set("a", "x");
    all(
        &mut c,
        &[
            ("flush_all\r\n", "OK\r\n"),
            ("get a\r\n", "END\r\n"),
            ("flush_all 0\r\n", "OK\r\n"),
            ("flush_all x\r\n", BAD_EXPTIME),
            ("flush_all noreply\r\n", ""),
            ("flush_all 0 noreply\r\n", ""),
        ],
    );
    // memcached's clock ticks once a second: what is set within the second of a flush is flushed too. Ours has an
    // order.
    if peer().is_none() {
        all(
            &mut c,
            &[(
                "set a 0 0 1\r\nx\r\nflush_all\r\nset b 0 0 1\r\ny\r\nget a b\r\n",
                "STORED\r\nOK\r\nSTORED\r\nVALUE b 0 1\r\ny\r\nEND\r\n",
            )],
        );
        all(&mut c, &[("get b\r\n", "VALUE b 0 1\r\ny\r\nEND\r\n"), ("add a 0 0 1\r\nz\r\n", "STORED\r\n")]);
    }
}

#[test]
fn flush_all_delayed() {
    let server = Server::start(&[]);
    let mut c = server.client();
    c.set("a", "x");
    all(&mut c, &[("flush_all 4\r\n", "OK\r\n"), ("get a\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n")]);
    // What is written before it fires goes too.
    c.set("b", "x");
    wait_until("the flush fires", || c.get("a").is_none());
    assert_eq!(c.get("b"), None);
    wait_until("new values stay", || {
        c.set("a", "new");
        std::thread::sleep(std::time::Duration::from_millis(100));
        c.get("a").is_some()
    });
    // A flush at once cancels one that is pending.
    all(&mut c, &[("flush_all 1000\r\n", "OK\r\n"), ("flush_all 0\r\n", "OK\r\n")]);
}
