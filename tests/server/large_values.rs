//! Large values over the wire: of any length around what limits there are, whole and in part, appended to and prepended
//! to, and full of what looks like the store's own files.

use crate::common::client::{Client, storage};
use crate::common::server::{Server, command};
use crate::common::util::{Random, random_bytes, text_bytes, tier};

const CHUNK: usize = 64 * 1024;

/// Compressible or not.
fn value(len: usize, seed: u64, noise: bool) -> Vec<u8> {
    if noise { random_bytes(seed, len) } else { text_bytes(seed, len) }
}

/// `mg` with a range: the part, and the length of the whole.
fn range(client: &mut Client, key: &str, offset: u64, len: u64) -> Option<(Vec<u8>, u64)> {
    let reply = client.ask(&format!("mg {key} v s r{offset},{len}"));
    let (found, total) = reply.strip_prefix("VA ")?.split_once(" s").expect("two numbers");
    let part = client.bytes(found.parse().expect("a number"));
    assert_eq!(client.line(), "");
    Some((part, total.parse().expect("a number")))
}

#[test]
fn values_of_all_lengths_come_back_whole_and_in_parts() {
    let server = Server::start(&["-m", "2"]);
    let mut client = server.client();
    let largest = tier(8 << 20, 64 << 20, 256 << 20);
    let lens = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20, largest];
    for (number, len) in lens.into_iter().enumerate() {
        for noise in [false, true] {
            let (key, value) = (format!("{len}-{noise}"), value(len, number as u64, noise));
            client.set(&key, &value);
            assert!(client.get(&key).unwrap() == value, "{key}");
            for at in [0, 1, CHUNK - 1, len / 2, len.saturating_sub(1), len, len + 5] {
                let (from, to) = (at.min(len), (at + CHUNK + 3).min(len));
                let part = range(&mut client, &key, at as u64, CHUNK as u64 + 3).unwrap();
                assert!(part == (value[from..to].to_vec(), len as u64), "{key} from {at}");
            }
            assert_eq!(range(&mut client, &key, u64::MAX, u64::MAX), Some((vec![], len as u64)));
            assert_eq!(range(&mut client, &key, 0, 0), Some((vec![], len as u64)));
        }
    }
    assert_eq!(range(&mut client, "absent", 0, 10), None);
    for range in ["", "5", "-1,5", "0,99999999999999999999", "0,5,"] {
        assert_eq!(client.ask(&format!("mg key v r{range}")), "CLIENT_ERROR bad token in command line format");
    }
    assert_eq!(client.ask("mg 1-true s r0,1"), "HD s1");
}

/// Ranges of small values and of large ones, pipelined with other commands: each answer stands in its place.
/// Values that have a file alone, and end with a run of chunks, or little behind one; what was sent with them is executed.
#[test]
fn what_follows_a_value_that_came_in_runs_is_executed() {
    let server = Server::start(&["-t", "1"]);
    let mut client = server.client();
    let value = random_bytes(1, 260 * CHUNK);
    for chunks in 256..260 {
        for more in [0, 1, CHUNK - 1] {
            let value = &value[..chunks * CHUNK - CHUNK + more];
            client.send(storage(&format!("set key 0 0 {}", value.len()), value));
            client.send(storage("set behind 0 0 1", &[b'0' + more as u8 % 10]));
            assert_eq!((client.line(), client.line()), ("STORED".into(), "STORED".into()));
            assert!(client.get("key").unwrap() == value, "{} bytes", value.len());
            assert_eq!(client.get("behind").unwrap(), [b'0' + more as u8 % 10]);
        }
    }
}

#[test]
fn parts_are_answered_in_their_turn() {
    let server = Server::start(&[]);
    let mut client = server.client();
    let large = random_bytes(1, 5 * CHUNK);
    client.set("large", &large);
    client.set("small", "0123456789");
    client.send("mg small v r2,3\r\nmg large v s r65530,20\r\nget small\r\nmg large k v r0,300000\r\nmg large v r327680,1\r\nmn\r\n");
    let mut wanted = b"VA 3\r\n234\r\nVA 20 s327680\r\n".to_vec();
    wanted.extend_from_slice(&large[65_530..65_550]);
    wanted.extend_from_slice(b"\r\nVALUE small 0 10\r\n0123456789\r\nEND\r\nVA 300000 klarge\r\n");
    wanted.extend_from_slice(&large[..300_000]);
    wanted.extend_from_slice(b"\r\nVA 0\r\n\r\nMN\r\n");
    assert!(client.bytes(wanted.len()) == wanted);
    // With a new deadline: the whole value stays.
    assert_eq!(client.ask("mg small v T100 t r0,1"), "VA 1 t100");
    assert_eq!(client.bytes(3), b"0\r\n");
    assert_eq!(client.get("small").unwrap(), b"0123456789");
    assert_eq!(client.ask("mg large v T100 r327679,9"), "VA 1");
    assert_eq!(client.bytes(3), [large[327_679], b'\r', b'\n']);
    assert!(client.get("large").unwrap() == large);
}

#[test]
fn large_values_are_appended_to() {
    let server = Server::start(&["-m", "2"]);
    let mut client = server.client();
    let mut random = Random::new(1);
    for start in [10, CHUNK - 10, 5 * CHUNK, 70 * CHUNK] {
        let mut wanted = random_bytes(start as u64, start);
        client.store("set", "key", 7, 0, &wanted);
        for number in 0..tier(40, 200, 2000) {
            let len = match random.below(8) {
                0 => random.below(4 * CHUNK),
                1 => CHUNK - 1 + random.below(3),
                _ => random.below(500),
            };
            let (added, in_front) = (value(len, number, number % 2 == 0), random.below(3) == 0);
            let verb = if in_front { "prepend" } else { "append" };
            assert_eq!(client.store(verb, "key", 0, 0, &added), "STORED");
            let at = if in_front { 0 } else { wanted.len() };
            wanted.splice(at..at, added);
            let (from, to) = (random.below(wanted.len()), random.below(wanted.len() + 1));
            let (from, to) = (from.min(to), from.max(to));
            let part = range(&mut client, "key", from as u64, (to - from) as u64).unwrap();
            assert!(part.0 == wanted[from..to] && part.1 == wanted.len() as u64, "{from} to {to} of {}", wanted.len());
        }
        let item = client.gets("key").unwrap();
        assert!(item.value == wanted && item.flags == 7);
    }
    assert_eq!(client.ask("incr key 1"), "CLIENT_ERROR cannot increment or decrement non-numeric value");
    assert_eq!(client.store("append", "absent", 0, 0, random_bytes(1, 2 * CHUNK)), "NOT_STORED");
    let wanted = client.get("key").unwrap();
    let server = server.restart();
    assert!(server.client().get("key").unwrap() == wanted);
}

/// Two clients append at the same time: neither is lost, whichever of the two has to do it over.
#[test]
fn appends_of_several_clients_are_all_kept() {
    let server = Server::start(&["-t", "2"]);
    let piece = |client: u8, number: u8| [&[client, number][..], &vec![client; 1000 + usize::from(number)]].concat();
    server.client().set("key", vec![0; 2 * CHUNK]);
    let (clients, times) = (3, 40);
    std::thread::scope(|scope| {
        for number in 1..=clients {
            let mut client = server.client();
            scope.spawn(move || {
                for time in 0..times {
                    assert_eq!(client.store("append", "key", 0, 0, piece(number, time)), "STORED");
                }
            });
        }
    });
    let all = server.client().get("key").unwrap();
    let mut rest = &all[2 * CHUNK..];
    let mut next = vec![0; usize::from(clients) + 1];
    while let [client, number, ..] = *rest {
        assert_eq!(number, next[usize::from(client)], "of client {client}");
        next[usize::from(client)] += 1;
        rest = rest.strip_prefix(&piece(client, number)[..]).expect("a piece is whole");
    }
    assert_eq!(next[1..], vec![times; usize::from(clients)]);
}

/// A value that consists of the store's own files, and is taken for none of them, whatever happens.
#[test]
fn values_that_look_like_the_stores_files_are_values() {
    let server = Server::start(&["--db.compression=no"]);
    let mut client = server.client();
    client.set("old", "before");
    client.set("large", random_bytes(3, 3 * CHUNK));
    client.set("old", "after");
    let data = server.plan().data();
    let files = std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|end| end == "log" || end == "ext"));
    let bait: Vec<Vec<u8>> = files
        .map(|path| {
            let mut bytes = std::fs::read(path).unwrap();
            bytes.truncate(1 << 20);
            bytes
        })
        .collect();
    assert!(bait.len() >= 2 && bait.iter().all(|bytes| bytes.len() >= 64));
    for (number, bytes) in bait.iter().enumerate() {
        client.set(&format!("bait-{number}"), bytes);
        // As records lie: at multiples of 8, in the log itself.
        for shift in 0..8 {
            client.set(&format!("bait-{number}-{shift}"), &bytes[shift..CHUNK.min(bytes.len())]);
        }
    }
    let check = |server: &Server| {
        let mut client = server.client();
        assert_eq!(client.get("old").unwrap(), b"after");
        for (number, bytes) in bait.iter().enumerate() {
            assert!(client.get(&format!("bait-{number}")).unwrap() == *bytes);
            for shift in 0..8 {
                let value = client.get(&format!("bait-{number}-{shift}")).unwrap();
                assert!(value == bytes[shift..CHUNK.min(bytes.len())]);
            }
        }
        assert_eq!(client.stat("curr_items"), 2 + 9 * bait.len() as u64);
    };
    check(&server);
    let server = server.kill().start();
    check(&server);
    let server = server.restart();
    check(&server);
    let plan = server.stop();
    assert!(command(&plan.data(), &["check"]));
}
