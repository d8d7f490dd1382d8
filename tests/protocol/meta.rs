//! The meta dialect, command by command, byte for byte. The expectations are those of memcached 1.6.45, but for what is
//! marked as ours.

use crate::common::Server;
use crate::common::dialogue::{BAD, BAD_CHUNK, NON_NUMERIC, TOO_LARGE, all};

const DUPLICATE: &str = "CLIENT_ERROR duplicate flag\r\n";
const INVALID: &str = "CLIENT_ERROR invalid flag\r\n";
const TOKEN: &str = "CLIENT_ERROR bad token in command line format\r\n";

#[test]
fn fetching_reflects_flags_in_their_order() {
    let server = Server::start(&[]);
    all(
        &mut server.client(),
        &[
            ("mn\r\n", "MN\r\n"),
            ("mg a\r\n", "EN\r\n"),
            ("mg a v q\r\n", ""),
            ("mg a k O1 v\r\n", "EN ka O1\r\n"),
            ("ms a 2 F5 T100 E77\r\nhi\r\n", "HD\r\n"),
            ("mg a\r\n", "HD\r\n"),
            ("mg a v\r\n", "VA 2\r\nhi\r\n"),
            ("mg a s k f c t Oq v P1 L2\r\n", "VA 2 s2 ka f5 c77 t100 Oq\r\nhi\r\n"),
            ("mg a q v\r\n", "VA 2\r\nhi\r\n"),
            ("mg a C77 v\r\n", "HD\r\n"),
            ("mg a C78 v\r\n", "VA 2\r\nhi\r\n"),
            ("mg a t T0\r\n", "HD t100\r\n"),
            ("mg a T0 t\r\n", "HD t-1\r\n"),
            ("mg a c t\r\n", "HD c77 t-1\r\n"),
            ("get a\r\n", "VALUE a 5 2\r\nhi\r\nEND\r\n"),
            ("me nokey\r\n", "EN\r\n"),
        ],
    );
}

#[test]
fn what_was_fetched_before_is_known_of_cached_records() {
    let server = Server::start(&[]);
    all(
        &mut server.client(),
        &[
            ("ms a 1\r\nx\r\n", "HD\r\n"),
            ("mg a h u\r\n", "HD h0\r\n"),
            ("mg a h\r\n", "HD h0\r\n"),
            ("mg a h u\r\n", "HD h1\r\n"),
            ("mg a l h\r\n", "HD l0 h1\r\n"),
            ("ms a 1\r\nx\r\n", "HD\r\n"),
            ("get a\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n"),
            ("mg a h\r\n", "HD h1\r\n"),
        ],
    );
}

#[test]
fn storing_in_all_modes() {
    let server = Server::start(&[]);
    all(
        &mut server.client(),
        &[
            ("ms a 1 MR\r\nx\r\n", "NS\r\n"),
            ("ms a 1 MA\r\nx\r\n", "NS\r\n"),
            ("ms a 1 ME s k Oo\r\nx\r\n", "HD s1 ka Oo\r\n"),
            ("ms a 1 ME c\r\ny\r\n", "NS c0\r\n"),
            ("ms a 2 MA s\r\nyz\r\n", "HD s3\r\n"),
            ("ms a 1 MP s\r\nw\r\n", "HD s4\r\n"),
            ("mg a v\r\n", "VA 4\r\nwxyz\r\n"),
            ("ms a 1 MR E9 c\r\nr\r\n", "HD c9\r\n"),
            ("ms a 1 MA C8\r\ns\r\n", "EX\r\n"),
            ("ms a 1 MA C9 E10\r\ns\r\n", "HD\r\n"),
            ("ms a 1 C9 c s\r\nt\r\n", "EX c0 s1\r\n"),
            ("ms a 1 C10 E11 c\r\nt\r\n", "HD c11\r\n"),
            ("ms nokey 1 C10\r\nt\r\n", "NF\r\n"),
            ("ms b 2 MA N30 s\r\nab\r\n", "HD s2\r\n"),
            ("mg b v t\r\n", "VA 2 t30\r\nab\r\n"),
            ("ms b 2 MP N60 s q\r\nab\r\n", ""),
            ("mg b v t\r\n", "VA 4 t30\r\nabab\r\n"),
        ],
    );
}

#[test]
fn stale_values_and_the_right_to_renew_them() {
    let server = Server::start(&[]);
    let mut c = server.client();
    all(
        &mut c,
        &[
            ("mg a N30 t v\r\n", "VA 0 t30 W\r\n\r\n"),
            ("mg a N30 t v\r\n", "VA 0 t30 Z\r\n\r\n"),
            ("mg a q N30 s\r\n", "HD s0 Z\r\n"),
            ("ms a 1 T100 E50\r\nx\r\n", "HD\r\n"),
            ("mg a R30 v\r\n", "VA 1\r\nx\r\n"),
            ("mg a R200 v\r\n", "VA 1 W\r\nx\r\n"),
            ("mg a R200 v\r\n", "VA 1 Z\r\nx\r\n"),
            ("md a I T40 C49\r\n", "EX\r\n"),
            ("md a I T40 E60\r\n", "HD\r\n"),
            ("mg a v t c\r\n", "VA 1 t40 c60 X W\r\nx\r\n"),
            ("mg a v t c\r\n", "VA 1 t40 c60 Z X\r\nx\r\n"),
            // Too old, but told to store nevertheless: still stale, and the deadline stays.
            ("ms a 1 I C59 T900 E70\r\ny\r\n", "HD\r\n"),
            ("mg a v t c\r\n", "VA 1 t40 c70 Z X\r\ny\r\n"),
            ("ms a 1 I C80\r\nz\r\n", "EX\r\n"),
        ],
    );
    // Who has won is not forgotten over a restart.
    drop(c);
    let server = server.restart();
    all(
        &mut server.client(),
        &[
            ("mg a v c\r\n", "VA 1 c70 Z X\r\ny\r\n"),
            ("ms a 1 C70\r\nz\r\n", "HD\r\n"),
            ("mg a v\r\n", "VA 1\r\nz\r\n"),
            ("md a x F7\r\n", "HD\r\n"),
            ("mg a v f t\r\n", "VA 0 f7 t-1\r\n\r\n"),
            ("md a q\r\n", ""),
            ("md a k O3\r\n", "NF ka O3\r\n"),
        ],
    );
}

#[test]
fn arithmetic() {
    let server = Server::start(&[]);
    all(
        &mut server.client(),
        &[
            ("ma n\r\n", "NF\r\n"),
            ("ma n k Oo t\r\n", "NF kn Oo\r\n"),
            ("ma n t N30 J13 v\r\n", "VA 2 t-1\r\n13\r\n"),
            ("ma n N30 J13 v t\r\n", "VA 2 t30\r\n14\r\n"),
            ("ma n D6 E5 c v\r\n", "VA 2 c5\r\n20\r\n"),
            ("ma n C4\r\n", "EX\r\n"),
            ("ma n C5 MD D19 v\r\n", "VA 1\r\n1\r\n"),
            ("ma n M- D5 v T0 t\r\n", "VA 1 t-1\r\n0\r\n"),
            ("ma n q\r\n", ""),
            ("get n\r\n", "VALUE n 0 2\r\n1 \r\nEND\r\n"),
            ("ms s 1\r\nx\r\n", "HD\r\n"),
            ("ma s\r\n", NON_NUMERIC),
            ("ma n MX\r\n", "CLIENT_ERROR invalid mode for ma M token\r\n"),
            ("ma n Dx\r\n", "CLIENT_ERROR invalid or duplicate flag\r\n"),
        ],
    );
}

#[test]
fn keys_of_any_bytes() {
    let server = Server::start(&[]);
    let mut c = server.client();
    all(
        &mut c,
        &[
            ("ms AAEgCv8= 2 b k\r\nhi\r\n", "HD kAAEgCv8= b\r\n"),
            ("mg AAEgCv8= b k v\r\n", "VA 2 kAAEgCv8= b\r\nhi\r\n"),
            ("mg AAEgCv8= v\r\n", "EN\r\n"),
            ("ms Zm9v 1 b\r\nx\r\n", "HD\r\n"),
            ("get foo\r\n", "VALUE foo 0 1\r\nx\r\nEND\r\n"),
            ("mg foo k\r\n", "HD kZm9v b\r\n"),
            ("md Zm9v b k\r\n", "HD kZm9v b\r\n"),
            ("mg !! b\r\n", "CLIENT_ERROR error decoding key\r\n"),
        ],
    );
    drop(c);
    let server = server.restart();
    all(&mut server.client(), &[("mg AAEgCv8= b k v\r\n", "VA 2 kAAEgCv8= b\r\nhi\r\n")]);
}

#[test]
fn refusals_leave_the_connection_in_step() {
    let server = Server::start(&["-I", "1k"]);
    let long = "k".repeat(251);
    let big = format!("ms a 2000\r\n{}\r\n", "x".repeat(2000));
    all(
        &mut server.client(),
        &[
            ("mg\r\n", BAD),
            ("ms\r\n", BAD),
            ("ms a\r\n", BAD),
            ("ms a x\r\n", BAD),
            ("mx a\r\n", "ERROR\r\n"),
            (&format!("mg {long}\r\n"), BAD),
            ("mg a s s\r\n", DUPLICATE),
            ("mg a m\r\n", INVALID),
            ("mg a Tx\r\n", TOKEN),
            (&format!("mg a O{}\r\n", "o".repeat(32)), "CLIENT_ERROR opaque token too long\r\n"),
            ("ms a 7 m\r\nversion\r\n", INVALID),
            ("ms a 7 MZ\r\nversion\r\n", "CLIENT_ERROR invalid mode for ms M token\r\n"),
            ("ms a 7 Tx q\r\nversion\r\n", TOKEN),
            (&format!("ms {long} 7\r\nversion\r\n"), BAD),
            (&big, TOO_LARGE),
            ("ms a 1 q\r\nxyzmn\r\n", &format!("{BAD_CHUNK}MN\r\n")),
            ("mg a\r\n", "EN\r\n"),
        ],
    );
}

#[test]
fn large_values_stream_and_are_touched() {
    let server = Server::start(&[]);
    let mut c = server.client();
    let value = crate::common::util::text_bytes(7, 300_000);
    c.send([format!("ms big {} T100 c\r\n", value.len()).as_bytes(), &value, b"\r\nmn\r\n"].concat());
    assert!(c.line().starts_with("HD c"));
    assert_eq!(c.line(), "MN");
    for flags in ["v s", "v s T50", "v s R900", "v s R900"] {
        c.send(format!("mg big {flags}\r\n"));
        assert!(c.line().starts_with("VA 300000 s300000"), "{flags}");
        assert!(c.bytes(300_000) == value && c.bytes(2) == b"\r\n", "{flags}");
    }
    all(&mut c, &[("mg big t s\r\n", "HD t50 s300000 Z\r\n"), ("md big\r\n", "HD\r\n"), ("mg big v\r\n", "EN\r\n")]);
}
