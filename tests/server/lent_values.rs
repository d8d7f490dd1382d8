//! Values that are sent straight from the page cache, as those are that have a file alone: they arrive as they were, whole and
//! in part, and whatever becomes of the value. Each test makes sure that it was that way that they came.

use crate::common::client::storage;
use crate::common::strace::Tracer;
use crate::common::util::{counted, random_bytes, tier, wait_until};
use crate::common::{Client, Server};
use std::os::unix::fs::FileExt;

const CHUNK: usize = 64 * 1024;
/// Enough for a file alone.
const LEN: usize = (17 << 20) + 77;
/// As much as two sockets take.
const REST: usize = 128 << 10;

/// How often something was lent while `work` was done.
fn lent(server: &Server, work: impl FnOnce()) -> usize {
    let tracer = Tracer::attach(server.pid(), &["-e", "trace=sendfile"]);
    work();
    tracer.finish().lines().filter(|line| line.contains("sendfile(")).count()
}

/// Sets it, and has it read: the page cache has all of it then.
fn set(client: &mut Client, key: &str, value: &[u8]) {
    client.set(key, value);
    assert!(client.get(key).is_some_and(|found| found == value));
}

#[test]
fn parts_and_neighbours_of_a_lent_value_are_right() {
    let server = Server::start(&["-t", "1"]);
    let (mut client, value) = (server.client(), random_bytes(1, LEN));
    set(&mut client, "large", &value);
    client.set("small", "0123456789");
    let times = lent(&server, || {
        for from in [0, 1, CHUNK - 1, CHUNK, 3 * CHUNK + 7, LEN - 5 * CHUNK - 1] {
            for len in [4 * CHUNK, 5 * CHUNK + 1, 4 << 20, LEN] {
                let part = &value[from..LEN.min(from + len)];
                client.send(format!("mg large v s r{from},{len}\r\nmg small v\r\n"));
                assert_eq!(client.line(), format!("VA {} s{LEN}", part.len()));
                assert!(client.bytes(part.len()) == part, "{len} bytes from {from}");
                assert_eq!(client.bytes(16), b"\r\nVA 10\r\n0123456");
                assert_eq!(client.bytes(5), b"789\r\n");
            }
        }
        client.send("get large small large\r\n");
        let items = client.items();
        assert!(items.len() == 3 && items[0].1.value == value && items[2].1.value == value);
    });
    println!("{times} times lent");
    assert!(times > 10);
}

#[test]
fn a_value_of_several_pieces_is_lent_in_its_order() {
    let server = Server::start(&["-t", "1"]);
    let mut client = server.client();
    let pieces = [random_bytes(1, LEN), random_bytes(2, 300_000), random_bytes(3, LEN + 1), random_bytes(4, 9)];
    client.set("large", &pieces[0]);
    pieces[1..].iter().for_each(|piece| assert_eq!(client.store("append", "large", 0, 0, piece), "STORED"));
    let whole = pieces.concat();
    assert!(client.get("large").unwrap() == whole);
    let times = lent(&server, || assert!(client.get("large").unwrap() == whole));
    println!("{times} times lent");
    assert!(times > 2);
}

/// A socket takes as much as it has room for, which ends anywhere.
#[test]
fn what_a_socket_does_not_take_comes_later() {
    let server = Server::start(&["-t", "1", "--server.send-buffer=100kb"]);
    let (mut client, value) = (server.client(), random_bytes(1, LEN));
    set(&mut client, "large", &value);
    let mut all = 0;
    let times = lent(&server, || {
        let mut readers: Vec<Client> = (0..4).map(|_| server.client()).collect();
        readers.iter_mut().for_each(|reader| reader.send("get large\r\n"));
        let head = format!("VALUE large 0 {LEN}\r\n").into_bytes();
        let wanted = [&head[..], &value[..], b"\r\nEND\r\n"].concat();
        let mut got = 0;
        while got < wanted.len() {
            let len = (10_000 + all % 7919).min(wanted.len() - got);
            for reader in &mut readers {
                assert!(reader.bytes(len) == wanted[got..got + len], "{len} bytes from {got}");
            }
            (got, all) = (got + len, all + 1);
        }
    });
    println!("{times} times lent");
    assert!(times > LEN / 100_000);
}

/// All of it is in the sockets: nothing in the server knows any more that it is needed.
#[test]
fn what_was_lent_arrives_when_the_value_is_gone() {
    let server = Server::start(&["-t", "1"]);
    let mut client = server.client();
    let rounds = tier(4, 10, 50);
    for round in 0..rounds {
        let value = random_bytes(round as u64, LEN);
        set(&mut client, "large", &value);
        let mut reader = server.client();
        let before = client.stat("bytes_written");
        let times = lent(&server, || {
            reader.send("get large\r\n");
            assert_eq!(reader.line(), format!("VALUE large 0 {LEN}"));
            assert!(reader.bytes(LEN - REST) == value[..LEN - REST]);
            wait_until("all of it is in the socket", || client.stat("bytes_written") - before > LEN as u64);
        });
        assert!(times > 1);
        assert_eq!(client.ask("delete large"), "DELETED");
        assert!(server.command(&["compact"]), "compact");
        assert!(server.extent_blocks() < 1 << 11, "the control: nothing is left of it");
        // Its memory may be somebody's by now, if it is nobody's.
        set(&mut client, "other", &random_bytes(99, LEN));
        assert_eq!(client.ask("delete other"), "DELETED");
        assert!(reader.bytes(REST) == value[LEN - REST..], "round {round}");
        assert_eq!(reader.bytes(7), b"\r\nEND\r\n");
    }
    counted("values that were gone before they arrived", rounds, tier(4, 10, 50));
}

/// Damage in the middle closes the connection: what came before it is right, and nothing of it or behind it is sent.
#[test]
fn damage_in_a_lent_value_is_not_sent() {
    let server = Server::start(&["-t", "1"]);
    let (mut client, value) = (server.client(), random_bytes(1, LEN));
    set(&mut client, "large", &value);
    let files = std::fs::read_dir(server.plan().data()).expect("the data directory").flatten();
    let path = files.map(|file| file.path()).find(|path| path.extension().is_some_and(|end| end == "ext"));
    let file = std::fs::File::options().read(true).write(true).open(path.expect("a file")).expect("open it");
    for chunk in [5, 100, LEN / CHUNK] {
        // In the file, the value begins at a multiple of a chunk.
        let at = (4 * CHUNK + chunk * CHUNK + 9) as u64;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("read");
        assert_eq!(byte[0], value[chunk * CHUNK + 9], "the value lies where this test thinks");
        file.write_all_at(&[byte[0] ^ 1], at).expect("damage it");
        let mut got = Vec::new();
        let times = lent(&server, || {
            let mut reader = server.client();
            reader.send("get large\r\n");
            assert_eq!(reader.line(), format!("VALUE large 0 {LEN}"));
            got = reader.until_closed();
        });
        println!("{} bytes came, {times} times lent", got.len());
        assert!(got.len() <= chunk * CHUNK && got == value[..got.len()] && got.len() >= (chunk - 1) * CHUNK);
        assert!(times > 0 || chunk == 5);
        file.write_all_at(&byte, at).expect("mend it");
    }
    wait_until("it is logged", || server.messages().contains("a value broke off while it was sent"));
    assert!(client.get("large").unwrap() == value);
}

/// A connection that is closed while it is lent to breaks nothing.
#[test]
fn who_goes_in_the_middle_is_forgotten() {
    let server = Server::start(&["-t", "1"]);
    let (mut client, value) = (server.client(), random_bytes(1, LEN));
    set(&mut client, "large", &value);
    let before = server.descriptors();
    let times = lent(&server, || {
        for number in 0..20 {
            let mut reader = server.client();
            reader.send(storage("set other 0 0 1", b"x"));
            reader.send("get large\r\n");
            reader.bytes(8 + number * 500_000);
        }
    });
    println!("{times} times lent");
    assert!(times > 10);
    wait_until("they are gone", || server.descriptors() <= before);
    assert!(client.get("large").unwrap() == value);
}
