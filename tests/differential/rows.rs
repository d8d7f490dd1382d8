//! What differs on purpose: the table of kingserver-protocol(7), each row held against memcached and against us.

use super::pair::{Pair, Side};

/// What is sent after what, what memcached answers, and what we do.
struct Row {
    why: &'static str,
    send: &'static [u8],
    theirs: &'static str,
    ours: &'static str,
}

const ROWS: &[Row] = &[];

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
    side.send(row.send);
    side.finish();
    let bytes = side.bytes(1 << 20).unwrap_or_else(|why| panic!("{}: {why}", row.why));
    bytes.escape_ascii().to_string()
}
