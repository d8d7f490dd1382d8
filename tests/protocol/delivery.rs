//! How bytes arrive must not matter: whole sessions one byte at a time, cut at every position, pipelined by the
//! hundred thousand, longer than any buffer, or with the FIN right behind them. And values of every size around the
//! limits of chunks.

use std::io::Write as _;

use crate::common::client::storage;
use crate::common::server::peer;
use crate::common::util::{FNV, Random, fnv, random_bytes, text_bytes, tier};
use crate::common::{Client, Server};

/// A session that visits most states of a connection, each line with its data.
const SESSION: &[u8] = b"set a 1 0 5\r\nv\r\nlu\r\nget a\r\nadd a 0 0 1\r\nx\r\nappend a 0 0 2\r\n\r\n\r\nget a b a\r\n\
    set n 0 0 1 noreply\r\n9\r\nincr n 1\r\ndecr n 3\r\nset c 0 0 2\r\nxyz\r\nnonsense\r\ndelete n\r\ndelete n\r\n\
    gat 0 a\r\ntouch a 100\r\nreplace a 0 0 0\r\n\r\nget a\r\nset a 0 0 3 noreply\r\nabc\r\nget a\r\nincr a 1\r\nget\r\n\
    verbosity 0\r\nflush_all 1000\r\ndelete a\r\n";

/// Lets one turn of the server's only worker pass: this connection is answered in the same turn as what was sent
/// before, or later.
fn one_turn(pacer: &mut Client) {
    assert!(pacer.ask("version").starts_with("VERSION"));
}

#[test]
fn one_byte_at_a_time() {
    let server = Server::start(&["-t", "1"]);
    let (mut c, mut pacer) = (server.client(), server.client());
    let wanted = c.talk(SESSION);
    for byte in [SESSION, b"version\r\n"].concat() {
        c.send([byte]);
        one_turn(&mut pacer);
    }
    let got = c.until_version();
    assert_eq!(got.escape_ascii().to_string(), wanted.escape_ascii().to_string());
}

#[test]
fn cut_at_every_position() {
    let server = Server::start(&["-t", "1"]);
    let (mut c, mut pacer) = (server.client(), server.client());
    let wanted = c.talk(SESSION);
    for cut in 1..SESSION.len() {
        c.send(&SESSION[..cut]);
        one_turn(&mut pacer);
        let got = c.talk(&SESSION[cut..]);
        assert_eq!(got.escape_ascii().to_string(), wanted.escape_ascii().to_string(), "cut at {cut}");
    }
}

#[test]
fn large_values_cut_at_the_edges() {
    let server = Server::start(&["-t", "1"]);
    let (mut c, mut pacer) = (server.client(), server.client());
    for len in [65_535, 65_536, 65_537, 131_072] {
        let value = random_bytes(len as u64, len);
        let command = storage(&format!("set a 0 0 {len}"), &value);
        let head = command.len() - len - 2;
        let cuts =
            [1, head - 1, head, head + 1, head + 65_535, head + 65_536, head + 65_537, head + len, head + len + 1];
        for cut in cuts.into_iter().filter(|cut| *cut < command.len()) {
            c.send(&command[..cut]);
            one_turn(&mut pacer);
            c.send(&command[cut..]);
            assert_eq!(c.line(), "STORED", "{len} bytes cut at {cut}");
            assert!(c.get("a").as_ref() == Some(&value), "{len} bytes cut at {cut}");
            assert_eq!(c.ask("delete a"), "DELETED");
        }
    }
}

/// Whatever of a value one read brings, and wherever it ends, with the next commands behind it.
#[test]
fn large_values_read_by_any_number_of_bytes() {
    for budget in ["4096", "65537", "256k", "1m"] {
        let server = Server::start(&["-t", "1", &format!("--server.bytes-per-turn={budget}")]);
        let mut c = server.client();
        let mut sent = Vec::new();
        let values: Vec<_> = (0..24).map(|n| random_bytes(n, 65_535 + 29_127 * n as usize)).collect();
        for (number, value) in values.iter().enumerate() {
            sent.extend(storage(&format!("set k{number} 0 0 {}", value.len()), value));
            sent.extend(b"mn\r\n");
        }
        let mut writer = c.tcp().try_clone().expect("clone the socket");
        let feeder = std::thread::spawn(move || writer.write_all(&sent));
        for number in 0..values.len() {
            assert_eq!((c.line(), c.line()), ("STORED".into(), "MN".into()), "value {number}, {budget} bytes per turn");
        }
        feeder.join().expect("the feeder ends").expect("all is sent");
        for (number, value) in values.iter().enumerate() {
            assert!(c.get(&format!("k{number}")).as_ref() == Some(value), "value {number}, {budget} bytes per turn");
        }
    }
}

#[test]
fn a_hundred_thousand_pipelined_commands() {
    let server = Server::start(&[]);
    let mut c = server.client();
    let count = 100_000;
    let mut writer = c.tcp().try_clone().expect("clone the socket");
    let feeder = std::thread::spawn(move || {
        let mut out = std::io::BufWriter::with_capacity(1 << 16, &mut writer);
        for i in 0..count {
            let (key, value) = (i % 1000, format!("value {i}"));
            let command = format!("set k{key} {i} 0 {}\r\n{value}\r\nget k{key}\r\n", value.len());
            std::io::Write::write_all(&mut out, command.as_bytes()).expect("send");
        }
        std::io::Write::flush(&mut out).expect("send");
    });
    for i in 0..count {
        assert_eq!(c.line(), "STORED", "set {i}");
        let items = c.items();
        assert_eq!(items.len(), 1, "get {i}");
        let (key, item) = &items[0];
        assert_eq!((key, item.flags), (&format!("k{}", i % 1000), i));
        assert_eq!(item.value, format!("value {i}").as_bytes());
    }
    feeder.join().expect("the feeder");
}

#[test]
fn multiget_of_ten_thousand_keys() {
    let server = Server::start(&[]);
    let mut c = server.client();
    let count = 10_000;
    for i in 0..count {
        c.send(format!("set key-number-{i} {i} 0 {} noreply\r\n{}\r\n", i % 50, "x".repeat(i % 50)));
    }
    for verb in ["get", "gets", "gat 0", "gats 1000"] {
        let mut line = verb.to_string();
        for i in 0..count {
            line += &format!(" key-number-{i} miss-{i}");
        }
        assert!(line.len() > 200_000);
        let gat_over_2048_is_refused = peer().is_some() && verb.starts_with("gat");
        if gat_over_2048_is_refused {
            continue;
        }
        c.send(line + "\r\n");
        let items = c.items();
        assert_eq!(items.len(), count, "{verb}");
        for (i, (key, item)) in items.iter().enumerate() {
            assert_eq!((key, item.flags as usize), (&format!("key-number-{i}"), i), "{verb}");
            assert_eq!(item.value.len(), i % 50);
            assert_eq!(item.cas != 0, verb.contains('s'), "{verb} tells uniques or not");
        }
    }
    assert!(c.ask("version").starts_with("VERSION"));
}

/// Data and FIN that arrive together give a single edge: the reply must come all the same, then the close.
#[test]
fn half_closed_clients_are_answered() {
    let server = Server::start(&[]);
    server.client().set("a", "x");
    let big = random_bytes(5, 500_000);
    server.client().set("big", &big);
    let big_reply = [b"VALUE big 0 500000\r\n", &big[..], b"\r\nEND\r\n"].concat();
    let stored = storage("set b 0 0 300000", &vec![b'y'; 300_000]);
    let many = (b"get a\r\n".repeat(20_000), b"VALUE a 0 1\r\nx\r\nEND\r\n".repeat(20_000));
    let cases: [(&[u8], &[u8]); 6] = [
        (b"get a\r\n", b"VALUE a 0 1\r\nx\r\nEND\r\n"),
        (b"get big\r\n", &big_reply),
        (&stored, b"STORED\r\n"),
        (&many.0, &many.1),
        (b"", b""),
        (b"get a\r\nget a", b"VALUE a 0 1\r\nx\r\nEND\r\n"),
    ];
    for _ in 0..tier(20, 100, 500) {
        for (send, wanted) in &cases {
            let mut c = server.client();
            c.send(send);
            c.half_close();
            let got = c.until_closed();
            assert!(got == *wanted, "{} bytes instead of {} for {} bytes", got.len(), wanted.len(), send.len());
        }
    }
    // A value that never came whole is no value.
    let mut c = server.client();
    c.send(&stored[..200_000]);
    c.half_close();
    assert_eq!(c.until_closed(), b"");
    assert_eq!(server.client().get("b").map(|value| value.len()), Some(300_000));
}

#[test]
fn values_of_every_size() {
    let server = Server::start(&[]);
    let mut c = server.client();
    let top = if peer().is_some() { 1_048_000 } else { 1_048_576 };
    let sizes = [
        0,
        1,
        2,
        511,
        4095,
        4096,
        4097,
        16_384,
        65_534,
        65_535,
        65_536,
        65_537,
        131_071,
        131_072,
        131_073,
        524_288,
        top - 1,
        top,
    ];
    for len in sizes {
        for (kind, value) in
            [("random", random_bytes(len as u64, len)), ("text", text_bytes(len as u64, len)), ("zero", vec![0; len])]
        {
            let key = format!("{kind}-{len}");
            assert_eq!(c.store("set", &key, 7, 0, &value), "STORED", "{key}");
            let item = c.gets(&key).unwrap_or_else(|| panic!("{key} is gone"));
            assert!(item.value == value && item.flags == 7, "{key}");
        }
    }
    for len in sizes {
        let wanted = random_bytes(len as u64, len);
        assert!(c.get(&format!("random-{len}")) == Some(wanted), "random-{len} after all the others");
    }
    // Commands around a large value: its flags, its unique, its deadline, its end.
    let (key, value) = ("random-131073", random_bytes(131_073, 131_073));
    let before = c.gets(key).expect(key);
    assert_eq!(c.ask(&format!("touch {key} 1000")), "TOUCHED");
    c.send(format!("gats 2000 {key}\r\n"));
    let gat = c.items().pop().expect(key).1;
    assert!(gat == before, "touch and gat leave a large value as it was");
    assert_eq!(c.ask(&format!("incr {key} 1")), "CLIENT_ERROR cannot increment or decrement non-numeric value");
    assert_eq!(c.cas(key, "small", before.cas), "STORED");
    assert_eq!(c.cas(key, &value, before.cas), "EXISTS");
    let small = c.gets(key).expect(key);
    assert_eq!(small.value, b"small");
    assert_eq!(c.cas(key, &value, small.cas), "STORED");
    assert!(c.get(key).as_ref() == Some(&value));
    assert_eq!(c.store("add", key, 0, 0, &value), "NOT_STORED");
    assert_eq!(c.store("replace", key, 9, 0, &value[..70_000]), "STORED");
    assert!(c.get(key).as_deref() == Some(&value[..70_000]));
    assert_eq!(c.ask(&format!("touch {key} -1")), "TOUCHED");
    assert!(c.get(key).is_none());
    assert_eq!(c.ask("delete random-65537"), "DELETED");
    assert!(c.get("random-65537").is_none());
}

#[test]
fn append_and_prepend_across_chunks() {
    let server = Server::start(&[]);
    let mut c = server.client();
    let mut random = Random::new(3);
    for start in [0, 1, 65_000, 65_535, 65_536, 100_000, 131_072] {
        let mut model = random_bytes(start as u64, start);
        c.set("a", &model);
        for step in [1, 1, 535, 65_536, 1, 100_000, 0] {
            let part = random_bytes(random.next(), step);
            if random.below(2) == 0 {
                assert_eq!(c.store("append", "a", 0, 0, &part), "STORED", "append {step} to {}", model.len());
                model.extend_from_slice(&part);
            } else {
                assert_eq!(c.store("prepend", "a", 0, 0, &part), "STORED", "prepend {step} to {}", model.len());
                model = [part, model].concat();
            }
            assert!(c.get("a").as_ref() == Some(&model), "from {start}, after {step}: {}", model.len());
        }
    }
}

/// Large and small values in one pipeline come back in order, the large ones read and written in many turns.
#[test]
fn large_and_small_pipelined_together() {
    let server = Server::start(&["-t", "1"]);
    let mut c = server.client();
    let sizes: Vec<usize> = (0..40).map(|i| [3, 70_000, 10, 200_000, 0, 65_536, 65_537, 900_000][i % 8]).collect();
    let mut batch = Vec::new();
    for (i, len) in sizes.iter().enumerate() {
        batch.extend(storage(&format!("set k{} {i} 0 {len}", i % 5), &random_bytes(i as u64, *len)));
        batch.extend(format!("get k{}\r\nappend k{} 0 0 1\r\n+\r\ngets k{} nokey\r\n", i % 5, i % 5, i % 5).bytes());
    }
    let mut writer = c.tcp().try_clone().expect("clone the socket");
    let feeder = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &batch).expect("send"));
    for (i, len) in sizes.iter().enumerate() {
        let mut value = random_bytes(i as u64, *len);
        assert_eq!(c.line(), "STORED", "set {i}");
        let item = c.items().pop().expect("a value").1;
        assert!(item.flags as usize == i && item.value == value, "get {i} of {len} bytes");
        assert_eq!(c.line(), "STORED", "append {i}");
        value.push(b'+');
        let item = c.items().pop().expect("a value").1;
        assert!(item.value == value, "gets {i} of {len} bytes");
    }
    feeder.join().expect("the feeder");
}

/// A client that takes its replies in small bites gets every byte, in order.
#[test]
fn slow_reader_gets_everything() {
    let server = Server::start(&[]);
    let mut c = server.client();
    let value = random_bytes(9, 500_000);
    let small = text_bytes(1, 100);
    c.set("big", &value);
    c.set("small", &small);
    let count = tier(200, 200, 2000); // 100 MB
    let mut wanted = FNV;
    let mut total = 0;
    for _ in 0..count {
        for part in [&b"VALUE small 0 100\r\n"[..], &small, b"\r\nVALUE big 0 500000\r\n", &value, b"\r\nEND\r\n"] {
            wanted = fnv(wanted, part);
            total += part.len();
        }
    }
    let mut writer = c.tcp().try_clone().expect("clone the socket");
    let feeder = std::thread::spawn(move || {
        let requests = "get small big\r\n".repeat(count);
        std::io::Write::write_all(&mut writer, requests.as_bytes()).expect("send");
    });
    let (mut got, mut hash, mut random) = (0, FNV, Random::new(1));
    while got < total {
        let bite = [1, 7, 100, 1448, 4096, 60_000][random.below(6)].min(total - got);
        hash = fnv(hash, &c.bytes(bite));
        got += bite;
    }
    feeder.join().expect("the feeder");
    assert_eq!(hash, wanted, "{total} bytes in bites");
    assert!(c.ask("version").starts_with("VERSION"), "nothing is left over");
}
