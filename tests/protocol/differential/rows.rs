//! What differs on purpose: the table of kingserver-protocol(7), each row held against memcached and against us.

use super::lines::replace;
use super::pair::{Pair, Side};

/// What is sent, what memcached answers until it has seen the end, and what we do. `{long}` stands for a key that is too long,
/// `{large}` for the value that is.
struct Row {
    why: &'static str,
    send: &'static [u8],
    theirs: &'static str,
    ours: &'static str,
}

const ROWS: &[Row] = &[
    Row {
        why: "control characters in a text key",
        send: b"get \t\r\n",
        theirs: r"END\r\n",
        ours: r"CLIENT_ERROR bad command line format\r\n",
    },
    Row {
        why: "cuts numbers to 32 bits",
        send: b"set k 4294967296 0 1\r\nx\r\n",
        theirs: r"STORED\r\n",
        ours: r"CLIENT_ERROR bad command line format\r\n",
    },
    Row {
        why: "a sign before a number",
        send: b"set k +5 0 1\r\nx\r\n",
        theirs: r"STORED\r\n",
        ours: r"CLIENT_ERROR bad command line format\r\n",
    },
    Row {
        why: "the block of some refused lines is taken for commands",
        send: b"ms k 2 \"\r\nab\r\n",
        theirs: r"CLIENT_ERROR bad command line format\r\nERROR\r\n",
        ours: r"CLIENT_ERROR bad command line format\r\n",
    },
    Row {
        why: "words after the key of delete",
        send: b"delete a b c\r\n",
        theirs: r"NOT_FOUND\r\n",
        ours: r"CLIENT_ERROR bad command line format\r\n",
    },
    Row {
        why: "incr reads what precedes a space",
        send: b"set k 0 0 3\r\n9 0\r\nincr k 1\r\n",
        theirs: r"STORED\r\n10\r\n",
        ours: r"STORED\r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
    },
    Row {
        why: "mg has no flag r",
        send: b"set k 0 0 5\r\nabcde\r\nmg k s v r1,3\r\n",
        theirs: r"STORED\r\nCLIENT_ERROR invalid flag\r\n",
        ours: r"STORED\r\nVA 3 s5\r\nbcd\r\n",
    },
    Row {
        why: "the base64 of a key that mg makes is forgotten",
        send: b"mg /w== b N0 k\r\n",
        theirs: r"HD k\xff W\r\n",
        ours: r"HD k/w== b W\r\n",
    },
    Row {
        why: "a key that is too long for get",
        send: b"get {long}\r\n",
        theirs: r"CLIENT_ERROR bad command line format\r\n\r\n",
        ours: r"CLIENT_ERROR bad command line format\r\n",
    },
    Row {
        why: "such a key after others",
        send: b"set k 0 0 1\r\nx\r\nget k {long}\r\n",
        theirs: r"CLIENT_ERROR bad command line format\r\n\r\n",
        ours: r"STORED\r\nCLIENT_ERROR bad command line format\r\n",
    },
    Row { why: "a space before a command", send: b" verbosity 0\r\n", theirs: r"OK\r\n", ours: r"ERROR\r\n" },
    Row {
        why: "a refused set deletes the old value",
        send: b"set k 0 0 1\r\nx\r\nset k 0 0 1100000\r\n{large}\r\nget k\r\n",
        theirs: r"STORED\r\nSERVER_ERROR object too large for cache\r\nEND\r\n",
        ours: r"STORED\r\nSERVER_ERROR object too large for cache\r\nVALUE k 0 1\r\nx\r\nEND\r\n",
    },
    Row {
        why: "after an unknown binary opcode too much is skipped",
        send: b"\x80\x53\0\x01\0\0\0\0\0\0\0\x01opaq\0\0\0\0\0\0\0\0k\x80\x0a\0\0\0\0\0\0\0\0\0\0opaq\0\0\0\0\0\0\0\0",
        theirs: r"\x81S\x00\x00\x00\x00\x00\x81\x00\x00\x00\x0fopaq\x00\x00\x00\x00\x00\x00\x00\x00Unknown command",
        ours: r"\x81S\x00\x00\x00\x00\x00\x81\x00\x00\x00\x0fopaq\x00\x00\x00\x00\x00\x00\x00\x00Unknown command\x81\n\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00opaq\x00\x00\x00\x00\x00\x00\x00\x00",
    },
    Row {
        why: "a value where a binary command has none",
        send: b"\x80\x1c\0\x03\x04\0\0\0\0\0\0\x08opaq\0\0\0\0\0\0\0\0\0\0\0\x01keyx",
        theirs: r"\x81\x1c\x00\x00\x00\x00\x00\x01\x00\x00\x00\topaq\x00\x00\x00\x00\x00\x00\x00\x00Not found",
        ours: r"\x81\x1c\x00\x00\x00\x00\x00\x04\x00\x00\x00\x11opaq\x00\x00\x00\x00\x00\x00\x00\x00Invalid arguments",
    },
];

/// Every row is as the table says.
pub fn hold() {
    let pair = Pair::start();
    for row in ROWS {
        let (mut theirs, mut ours) = pair.connect();
        assert_eq!(answer(&mut theirs, row), row.theirs, "memcached: {}", row.why);
        assert_eq!(answer(&mut ours, row), row.ours, "ours: {}", row.why);
    }
    println!("documented differences: {}", ROWS.len());
}

fn answer(side: &mut Side, row: &Row) -> String {
    let send = replace(row.send, "{long}", &"x".repeat(251));
    side.send(&replace(&send, "{large}", &"z".repeat(1_100_000)));
    side.finish();
    let bytes = side.bytes(1 << 20).unwrap_or_else(|why| panic!("{}: {why}", row.why));
    bytes.escape_ascii().to_string()
}
