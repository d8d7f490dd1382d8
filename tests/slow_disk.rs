//! A disk that is slow or dies: strace delays the log's writes, or fails them. Writers wait; readers do not. What
//! was acknowledged meanwhile is there after a kill.

mod common;

use common::client::storage;
use common::strace::Tracer;
use common::util::{random_bytes, tier, wait_until};
use common::{Client, Server};
use std::time::Duration;

const SLOW: [&str; 4] =
    ["-e", "trace=pwrite64,pwritev,pwritev2", "-e", "inject=pwrite64,pwritev,pwritev2:delay_enter=400000"];

/// Gets that were answered while the reply to one set was outstanding.
fn gets_beside_a_slow_set(writer: &mut Client, reader: &mut Client, value: &[u8]) -> usize {
    writer.send(storage(&format!("set w 0 0 {}", value.len()), value));
    let mut gets = 0;
    loop {
        if writer.answers_within(Duration::from_micros(1)) {
            return gets;
        }
        assert_eq!(reader.get("a").as_deref(), Some(&b"x"[..]));
        gets += 1;
    }
}

/// One worker, so that the reader shares it with the writer.
#[test]
fn readers_do_not_wait_for_the_log() {
    let server = Server::start(&["-t", "1"]);
    let (mut writer, mut reader) = (server.client(), server.client());
    reader.set("a", "x");
    let tracer = Tracer::attach(server.pid(), &SLOW);
    // The first slow write may hold up the loop: it is how the slowness is found out.
    for i in 0..3 {
        writer.set("w", format!("warm up {i}"));
    }
    let best =
        (0..5).map(|i| gets_beside_a_slow_set(&mut writer, &mut reader, &random_bytes(i, 100))).max().unwrap_or(0);
    println!("{best} gets were answered while one set waited for the log");
    // A loop that waits with the writer answers one.
    assert!(best >= 10, "only {best} gets were answered while a set waited for the log");
    // Misses and reads of what is being written, too: they depend on the log, and are answered when it is written.
    writer.send("set new 0 0 1\r\ny\r\n");
    let _ = reader.get("a");
    let seen = reader.get("new");
    assert!(seen.is_none() || seen.as_deref() == Some(b"y"));
    assert_eq!(writer.line(), "STORED");
    assert_eq!(reader.get("new").as_deref(), Some(&b"y"[..]));
    drop(tracer);
    // When the disk recovers, so do the writers.
    for i in 0..2000 {
        writer.set("w", format!("{i}"));
    }
}

/// The same for a large value: its chunks are written by the loop until one of them is slow.
#[test]
fn readers_do_not_wait_for_large_values() {
    let server = Server::start(&["-t", "1", "--db.sync=none"]);
    let (mut writer, mut reader) = (server.client(), server.client());
    reader.set("a", "x");
    writer.set("w", random_bytes(0, 1 << 20));
    let delay = ["-e", "trace=pwrite64", "-e", "inject=pwrite64:delay_enter=100000"];
    let tracer = Tracer::attach(server.pid(), &delay);
    let best = (1..4).map(|i| gets_beside_a_slow_set(&mut writer, &mut reader, &random_bytes(i, 1 << 20))).max();
    println!("{best:?} gets were answered while a large value was written");
    // Of 16 chunks, a loop that wrote them itself would sleep in each, with a turn between two.
    assert!(best >= Some(40), "only {best:?} gets were answered while a large value was written");
    drop(tracer);
    assert!(writer.get("w").unwrap() == random_bytes(3, 1 << 20));
}

/// While the lane writes the log, the syncer must still hear of it: under `always` no reply leaves before.
#[test]
fn writers_are_answered_under_always() {
    let server = Server::start(&["--db.sync=always"]);
    let mut c = server.client();
    let tracer = Tracer::attach(server.pid(), &SLOW);
    for i in 0..6 {
        c.set("a", format!("{i}"));
    }
    drop(tracer);
    for i in 0..200 {
        c.set("a", format!("{i}"));
    }
}

/// Who waits for the disk is not idle, however silent.
#[test]
fn writers_are_not_idle_while_they_wait() {
    let server = Server::start(&["-t", "1", "-o", "idle_timeout=1"]);
    let mut c = server.client();
    let slow = ["-e", "trace=pwrite64", "-e", "inject=pwrite64:delay_enter=2500000"];
    let _tracer = Tracer::attach(server.pid(), &slow);
    // The first one holds up the loop; the second one waits for the lane beside it.
    c.set("a", "x");
    c.set("b", "y");
    assert_eq!(server.client().stat("idle_kicks"), 0);
}

/// And under `interval` what the lane wrote last is synced soon, though nobody writes again.
#[test]
fn the_last_write_is_synced_under_interval() {
    let server = Server::start(&[]);
    let mut c = server.client();
    let tracer = Tracer::attach(server.pid(), &SLOW);
    for i in 0..4 {
        c.set("a", format!("{i}"));
    }
    // Quiet: what was due is done.
    std::thread::sleep(Duration::from_millis(2500));
    let before = c.stat("db_fsyncs");
    c.set("a", "last");
    wait_until("the last write is synced", || c.stat("db_fsyncs") > before);
    drop(tracer);
}

/// A get that saw a write must not be answered before that write is kept: otherwise a kill would take back what was
/// told.
#[test]
fn what_a_get_told_is_kept() {
    for round in 0..tier(5, 10, 100) {
        let server = Server::start(&["-t", "2"]);
        let (mut writer, mut reader) = (server.client(), server.client());
        writer.set("a", "old");
        let tracer = Tracer::attach(server.pid(), &SLOW);
        for _ in 0..2 {
            writer.set("warm", "up");
        }
        writer.send("set a 0 0 3\r\nnew\r\n");
        // Reads until it either tells the new value or is made to wait for it.
        let mut told = b"old".to_vec();
        reader.tcp().set_read_timeout(Some(Duration::from_millis(20 + 3 * round))).expect("set a timeout");
        for _ in 0..1000 {
            reader.send("get a\r\n");
            match reader.try_items() {
                Ok(items) => told = items[0].1.value.clone(),
                Err(_) => break,
            }
            if told == b"new" {
                break;
            }
        }
        let plan = server.kill();
        drop(tracer);
        let found = plan.start().client().get("a").expect("it was there all the time");
        assert!(told == b"old" || found == b"new", "told {}, kept {}", told.escape_ascii(), found.escape_ascii());
    }
}

/// Some writes delayed, on whichever thread; the process killed in the middle; every connection's acknowledged
/// writes are there.
#[test]
fn killed_with_a_delayed_write_in_flight() {
    let mut total = 0;
    for round in 0..tier(4, 8, 50) {
        let server = Server::start(&["-t", "2"]);
        let address = server.address();
        let inject = format!("inject=pwrite64,pwritev,pwritev2:delay_enter=60000:when={}+3", 1 + round % 3);
        let tracer = Tracer::attach(server.pid(), &["-e", "trace=pwrite64,pwritev,pwritev2", "-e", &inject]);
        let writers: Vec<_> =
            (0..8).map(|id| std::thread::spawn(move || count_up(&mut Client::connect(address), id))).collect();
        std::thread::sleep(Duration::from_millis(700 + 37 * round));
        let plan = server.kill();
        drop(tracer);
        let server = plan.start();
        let mut c = server.client();
        for (id, writer) in writers.into_iter().enumerate() {
            let acknowledged = writer.join().expect("a writer");
            let found = c
                .get(&format!("n{id}"))
                .map_or(0, |value| String::from_utf8(value).expect("digits").parse().expect("a number"));
            assert!(
                found == acknowledged || found == acknowledged + 1,
                "n{id}: acknowledged {acknowledged}, found {found}"
            );
            total += acknowledged;
        }
    }
    println!("{total} acknowledged writes");
    assert!(total >= 8, "too little load to mean anything: {total}");
}

/// Sets a key to 1, 2, 3, … until the server is gone; gives the last number that was acknowledged.
fn count_up(c: &mut Client, id: usize) -> u64 {
    let mut acknowledged = 0;
    loop {
        let value = (acknowledged + 1).to_string();
        let command = storage(&format!("set n{id} 0 0 {}", value.len()), value.as_bytes());
        match c.try_send(command).and_then(|()| c.try_line()) {
            Ok(reply) => assert_eq!(reply, "STORED"),
            Err(_) => return acknowledged,
        }
        acknowledged += 1;
    }
}

/// fdatasync that fails is final: writers are told, readers are served, and nothing that was refused appears after
/// a restart.
#[test]
fn a_failed_sync_stops_the_writers() {
    let server = Server::start(&["--db.sync=always"]);
    let mut c = server.client();
    c.set("a", "x");
    let tracer =
        Tracer::attach(server.pid(), &["-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO"]);
    let reply = c.store("set", "b", 0, 0, "y");
    assert!(reply.starts_with("SERVER_ERROR "), "an unsynced write was acknowledged: {reply}");
    drop(tracer);
    // The next sync would succeed, but what it would cover nobody knows.
    for command in [
        "set c 0 0 1\r\nz\r\n",
        "add c 0 0 1\r\nz\r\n",
        "delete a\r\n",
        "touch a 100\r\n",
        "flush_all\r\n",
        "append a 0 0 1\r\nz\r\n",
    ] {
        // The error may be the last thing that a connection hears.
        let mut c = server.client();
        c.send(command);
        let reply = c.line();
        assert!(reply.starts_with("SERVER_ERROR "), "{command}: {reply}");
    }
    let mut c = server.client();
    assert_eq!(c.get("a").as_deref(), Some(&b"x"[..]), "reads go on");
    wait_until("the messages tell it", || server.messages().lines().count() >= 2);
    let server = server.kill().start();
    let mut c = server.client();
    assert_eq!(c.get("a").as_deref(), Some(&b"x"[..]));
    assert_eq!(c.get("c"), None, "what was refused after the failure is not there");
    c.set("c", "after the restart it writes again");
}

/// Under `interval` a write is acknowledged before its sync; the first one after a sync that failed is refused.
#[test]
fn a_failed_sync_in_the_background_stops_the_writers() {
    let server = Server::start(&[]);
    server.client().set("a", "x");
    let inject = "inject=fdatasync,fsync:error=EIO";
    let tracer = Tracer::attach(server.pid(), &["-e", "trace=fdatasync,fsync", "-e", inject]);
    wait_until("a write is refused", || server.client().store("set", "b", 0, 0, "y").starts_with("SERVER_ERROR "));
    drop(tracer);
    let reply = server.client().store("set", "b", 0, 0, "y");
    assert!(reply.starts_with("SERVER_ERROR "), "{reply}: the failure is final");
    assert_eq!(server.client().get("a").as_deref(), Some(&b"x"[..]), "reads go on");
    wait_until("the messages tell it", || server.messages().lines().count() >= 2);
}

/// The same for a log write. (A full disk is another matter: `full_disk.rs`.)
#[test]
fn a_failed_log_write_is_told() {
    let server = Server::start(&[]);
    let mut c = server.client();
    c.set("a", "x");
    let inject = "inject=pwrite64,pwritev,pwritev2:error=EIO";
    let tracer = Tracer::attach(server.pid(), &["-e", "trace=pwrite64,pwritev,pwritev2", "-e", inject]);
    let reply = c.store("set", "b", 0, 0, "y");
    assert!(reply.starts_with("SERVER_ERROR "), "an unwritten value was acknowledged: {reply}");
    let mut c = server.client();
    assert_eq!(c.get("a").as_deref(), Some(&b"x"[..]), "reads go on");
    // What was not written is not told: an error or a miss.
    let b = server.client().ask("get b");
    assert!(b == "END" || b.starts_with("SERVER_ERROR "), "{b}");
    let plan = server.kill();
    drop(tracer);
    let server = plan.start();
    assert_eq!(server.client().get("a").as_deref(), Some(&b"x"[..]));
}
