//! What the server asks of the kernel, counted by strace: three system calls per request at most, no disk for hot
//! data, one log write per turn, and the log written before the reply leaves.

mod common;

use common::client::storage;
use common::server::Plan;
use common::strace::Tracer;
use common::util::{random_bytes, wait_until};
use common::{Client, Server};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One at a time: the syncs of one test would make the log writes of another slow, and slow ones take another way.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls of each name in a summary of `strace -c`.
fn summary(table: &str) -> BTreeMap<String, u64> {
    let rows = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // % time, seconds, usecs/call, calls, [errors], name
        let calls = words.get(3)?.parse().ok()?;
        Some((words.last()?.to_string(), calls))
    });
    rows.filter(|(name, _)| name != "total").collect()
}

fn total(calls: &BTreeMap<String, u64>) -> u64 {
    calls.values().sum()
}

fn count(calls: &BTreeMap<String, u64>, names: &[&str]) -> u64 {
    names.iter().filter_map(|name| calls.get(*name)).sum()
}

const DISK_READS: [&str; 5] = ["pread64", "preadv", "preadv2", "io_uring_enter", "lseek"];
const LOG_WRITES: [&str; 3] = ["pwrite64", "pwritev", "pwritev2"];

/// Calls that a log write takes on top if the lane does it, which tells the worker by a `write`: it is woken and goes back to
/// sleep, and so is the worker. strace stops each call twice, so where the machine is busy any write may look slow, and
/// then the next ones go that way.
const LANE_CALLS: f64 = 5.0;

/// Counts the server's system calls while `load` runs.
fn counted(server: &Server, load: impl FnOnce()) -> BTreeMap<String, u64> {
    let tracer = Tracer::attach(server.pid(), &["-c"]);
    load();
    let table = tracer.finish();
    println!("{table}");
    summary(&table)
}

fn unpipelined(connections: usize, request: impl Fn(usize) -> Vec<u8>, reply_lines: usize) -> f64 {
    let server = Server::start(&["-t", "1"]);
    let mut clients: Vec<Client> = (0..connections).map(|_| server.client()).collect();
    clients[0].set("a", "one line");
    let requests = 2000;
    let calls = counted(&server, || {
        for i in 0..requests / connections {
            // Each waits for its reply before its next request; all of them are busy at once.
            for c in &mut clients {
                c.send(request(i));
            }
            for c in &mut clients {
                for _ in 0..reply_lines {
                    c.line();
                }
            }
        }
    });
    let all = count(&calls, &LOG_WRITES);
    let by_lane = count(&calls, &["write"]).min(all);
    let each = (total(&calls) as f64 - by_lane as f64 * LANE_CALLS) / requests as f64;
    println!("{connections} connections: {each:.3} system calls per request but for {by_lane} log writes by the lane");
    assert!(each >= 1.0, "fewer calls than requests: nothing was traced");
    // Were it the rule, nothing would be left to count.
    if by_lane <= all / 2 { each } else { f64::INFINITY }
}

/// The best of a few runs: the syncer and others have calls of their own.
fn at_most(limit: f64, run: impl Fn() -> f64) {
    let best = (0..5).map(|_| run()).find(|each| *each <= limit);
    assert!(best.is_some(), "more than {limit} system calls per request, five times");
}

#[test]
fn unpipelined_gets() {
    let _alone = alone();
    for connections in [1, 10] {
        at_most(3.2, || unpipelined(connections, |_| b"get a\r\n".to_vec(), 3));
    }
}

/// A set adds its log write.
#[test]
fn unpipelined_sets() {
    let _alone = alone();
    let set = |i| storage("set a 0 0 100", &random_bytes(i as u64, 100));
    for connections in [1, 10] {
        at_most(4.2, || unpipelined(connections, set, 1));
    }
}

#[test]
fn hot_gets_do_not_touch_the_disk() {
    let _alone = alone();
    let server = Server::start(&[]);
    let mut c = server.client();
    for i in 0..1000 {
        c.set(&format!("k{i}"), random_bytes(i, 100 + 3 * i as usize));
    }
    // After a restart the cache is empty: the first reads are the disk's, and show that they are counted.
    let server = server.restart();
    let mut c = server.client();
    let read_all = |c: &mut Client| {
        for i in 0..1000 {
            assert!(c.get(&format!("k{i}")) == Some(random_bytes(i, 100 + 3 * i as usize)));
        }
    };
    let cold = counted(&server, || read_all(&mut c));
    assert!(count(&cold, &DISK_READS) > 0, "the control: cold gets read the disk");
    read_all(&mut c);
    let hot = counted(&server, || read_all(&mut c));
    assert_eq!(count(&hot, &DISK_READS), 0, "hot gets read the disk: {hot:?}");
}

#[test]
fn one_log_write_per_turn() {
    let _alone = alone();
    let server = Server::start(&["-t", "1"]);
    let mut c = server.client();
    let (batches, each) = (100, 64);
    let calls = counted(&server, || {
        for batch in 0..batches {
            let sets: Vec<u8> =
                (0..each).flat_map(|i| storage(&format!("set k{i} 0 0 100"), &random_bytes(batch, 100))).collect();
            c.send(sets);
            for _ in 0..each {
                assert_eq!(c.line(), "STORED");
            }
        }
    });
    let writes = count(&calls, &LOG_WRITES);
    println!("{writes} log writes for {batches} batches of {each} sets");
    assert!(writes >= batches / 2, "too few to be true: {writes}");
    assert!(writes <= batches * 2 + 10, "{writes} log writes for {batches} batches");
}

/// How often the threads of the disk lane have gone to sleep.
fn lane_sleeps(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the server is alive");
    let states =
        tasks.map(|task| std::fs::read_to_string(task.expect("a thread").path().join("status")).expect("it lives"));
    let sleeps = |state: &String| {
        let count = state.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.expect("a count").trim().parse::<u64>().expect("a number")
    };
    states.filter(|state| state.starts_with("Name:\tlane-")).map(|state| sleeps(&state)).sum()
}

/// A value with a file alone, which cannot be compressed, is written by two megabytes.
#[test]
fn a_value_with_a_file_alone_takes_a_write_per_run() {
    let _alone = alone();
    let server = Server::start(&["-t", "1", "--db.sync=none"]);
    let mut c = server.client();
    let value = random_bytes(1, 64 << 20);
    let calls = counted(&server, || c.set("key", &value));
    let writes = count(&calls, &LOG_WRITES);
    println!("{writes} writes for 1024 chunks");
    assert!(writes >= 33, "too few to be true: {writes}");
    assert!(writes <= 33 + 32, "{writes} writes for 64 MiB");
    assert!(c.get("key").is_some_and(|found| found == value));
}

/// What a traced call returned, if it did not fail.
fn returned(line: &str) -> Option<usize> {
    line.rsplit_once(" = ").and_then(|(_, count)| count.parse().ok())
}

/// Bytes of each send while a value that was got before is got, with those of which the socket took all told apart: where it
/// takes less, it has room for no more. Each read is `delayed` by so many microseconds.
fn sends_of_a_get(server: &Server, c: &mut Client, key: &str, len: usize, delayed: u32) -> (Vec<usize>, Vec<usize>) {
    assert!(c.get(key).is_some_and(|value| value.len() == len));
    let slow = format!("inject=preadv2:delay_enter={delayed}");
    let tracer = Tracer::attach(server.pid(), &["-e", "trace=preadv2,sendto,sendmsg", "-e", &slow]);
    assert!(c.get(key).is_some_and(|value| value.len() == len));
    let log = tracer.finish();
    let lines = || log.lines().filter(|line| line.contains("send"));
    let sends: Vec<usize> = lines().filter_map(returned).collect();
    let full = |line: &&str| returned(line).is_some_and(|count| line.contains(&format!(", {count}, MSG_NOSIGNAL")));
    let full: Vec<usize> = lines().filter(full).filter_map(returned).collect();
    println!("{} sends of {len} bytes, {} of them taken whole", sends.len(), full.len());
    assert!(sends.iter().sum::<usize>() > len, "the trace shows every send:\n{log}");
    (sends, full)
}

/// A large value leaves by several chunks at once, and while much of it follows, without a packet of a few bytes behind the large
/// ones: on the loopback device, these carry 65,483 bytes.
#[test]
fn a_large_value_leaves_by_whole_packets() {
    let _alone = alone();
    let server = Server::start(&["-t", "1", "--db.sync=none"]);
    let mut c = server.client();
    c.set("large", random_bytes(1, 15 << 20));
    let (sends, full) = sends_of_a_get(&server, &mut c, "large", 15 << 20, 0);
    assert!(sends.len() <= 120 && full.len() >= sends.len() / 2, "{sends:?}");
    let small = full.iter().filter(|&&count| count > 65_483 && count % 65_483 < 32_768).count();
    println!("{small} with a small packet");
    assert!(small <= 3, "the last ones may end anywhere, others may not: {full:?}");
}

/// A value with a file alone is read into memory to be looked at, and not copied from there to the socket; also after a restart.
#[test]
fn a_value_with_a_file_alone_leaves_from_the_page_cache() {
    let _alone = alone();
    let mut server = Server::start(&["-t", "1", "--db.sync=none"]);
    let value = random_bytes(1, 64 << 20);
    for life in 0..2 {
        let mut c = server.client();
        if life == 0 {
            c.set("large", &value);
        }
        assert!(c.get("large").is_some_and(|found| found == value));
        // What an earlier life has left is looked through in the background first.
        let mut calls = String::new();
        wait_until("it is lent", || {
            let tracer = Tracer::attach(server.pid(), &["-e", "trace=preadv2,sendto,sendmsg,sendfile"]);
            assert!(c.get("large").is_some_and(|found| found == value));
            calls = tracer.finish();
            calls.contains("sendfile(")
        });
        let bytes = |name: &str| calls.lines().filter(|line| line.contains(name)).filter_map(returned).sum::<usize>();
        let (read, sent, lent) = (bytes("preadv2("), bytes("send") - bytes("sendfile("), bytes("sendfile("));
        println!("life {life}: {read} bytes read, {sent} copied, {lent} lent");
        assert_eq!(sent + lent, value.len() + "VALUE large 0 67108864\r\n\r\nEND\r\n".len());
        assert!(read >= value.len() && sent <= 16 * (64 << 10), "a whole value is looked at, and little is copied");
        if life == 0 {
            server = server.restart();
        }
    }
}

/// What the kernel cannot send from a file is copied.
#[test]
fn where_nothing_can_be_lent_it_is_copied() {
    let _alone = alone();
    let server = Server::start(&["-t", "1", "--db.sync=none"]);
    let (mut c, value) = (server.client(), random_bytes(1, 17 << 20));
    c.set("large", &value);
    assert!(c.get("large").is_some_and(|found| found == value));
    for error in ["EINVAL", "EOPNOTSUPP", "EIO"] {
        let inject = format!("inject=sendfile:error={error}");
        let tracer = Tracer::attach(server.pid(), &["-e", "trace=sendfile", "-e", &inject]);
        assert!(c.get("large").is_some_and(|found| found == value));
        let refused = tracer.finish().lines().filter(|line| line.contains("sendfile(")).count();
        println!("{refused} times {error}");
        assert_eq!(refused, 1, "it is tried once for each get");
    }
}

/// The last chunk leaves by itself, and what is before it is not split for the sake of packets.
#[test]
fn a_value_of_two_chunks_leaves_by_two_sends() {
    let _alone = alone();
    let server = Server::start(&["-t", "1", "--db.sync=none"]);
    let mut c = server.client();
    for len in [100_000, 128 << 10] {
        c.set("two", random_bytes(1, len));
        let (sends, _) = sends_of_a_get(&server, &mut c, "two", len, 0);
        // The END may leave by itself.
        let of_value = sends.iter().filter(|&&count| count > 5).count();
        assert_eq!(of_value, 2, "{sends:?}");
    }
}

/// Small pieces that were appended to a large value do not leave one by one, also where reading takes long.
#[test]
fn what_was_appended_leaves_together() {
    let _alone = alone();
    let server = Server::start(&["-t", "1", "--db.sync=none"]);
    let mut c = server.client();
    c.set("grown", random_bytes(1, 300_000));
    for _ in 0..14 {
        assert_eq!(c.store("append", "grown", 0, 0, [b'x'; 100]), "STORED");
    }
    for delayed in [0, 400] {
        let (sends, _) = sends_of_a_get(&server, &mut c, "grown", 301_400, delayed);
        // How the 300,000 bytes leave is their socket's matter.
        let of_pieces = sends.iter().filter(|&&count| count <= 1_400 + b"\r\nEND\r\n".len()).count();
        assert!((1..=3).contains(&of_pieces), "{sends:?}");
    }
}

/// What a socket does not take is read in vain. A Unix socket takes little, and who reads slowly leaves it little room.
#[test]
fn a_slow_reader_has_little_read_in_vain() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("make a directory");
    let path = directory.path().join("socket");
    let server = Plan::new(&["-t", "1", "--db.sync=none"]).listen(&["-s", path.to_str().expect("UTF-8")]).start();
    let (mut c, value) = (Client::connect_unix(&path), random_bytes(1, 32 << 20));
    c.set("key", &value);
    assert!(c.get("key").is_some());
    let tracer = Tracer::attach(server.pid(), &["-e", "trace=preadv2,sendto,sendmsg,sendfile"]);
    let mut slow = UnixStream::connect(&path).expect("connect");
    slow.write_all(b"get key\r\nquit\r\n").expect("ask");
    let (mut got, mut part) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let count = slow.read(&mut part).expect("read");
        if count == 0 {
            break;
        }
        got.extend_from_slice(&part[..count]);
        std::thread::sleep(Duration::from_millis(1));
    }
    let log = tracer.finish();
    let bytes = |name: &str| log.lines().filter(|line| line.contains(name)).filter_map(returned).sum::<usize>() as f64;
    let (read, sent) = (bytes("preadv2("), bytes("send"));
    println!("{:.2} bytes read per byte sent", read / sent);
    assert_eq!(got, [b"VALUE key 0 33554432\r\n", &value[..], b"\r\nEND\r\n"].concat());
    assert!(sent >= got.len() as f64 && read >= value.len() as f64, "the trace shows every call");
    assert!(read < 3.0 * sent, "{read} bytes read to send {sent}");
}

/// A disk that is fast has the chunks of a large value from the worker that received them. The best of a few: on a busy
/// machine any write may look slow.
#[test]
fn a_large_value_does_not_wake_the_lane() {
    let _alone = alone();
    let server = Server::start(&["-t", "1", "--db.sync=none"]);
    let mut c = server.client();
    let value = random_bytes(1, 15 << 20);
    // The values' file is made by the lane, with its first chunk.
    c.set("first", &value);
    let before = lane_sleeps(server.pid());
    assert!(before > 0, "the control: the lane has worked");
    let mut least = u64::MAX;
    for number in 0..8 {
        let before = lane_sleeps(server.pid());
        c.set(&format!("k{number}"), &value);
        least = least.min(lane_sleeps(server.pid()) - before);
    }
    println!("the lane slept {least} times while 240 chunks came in");
    assert!(least <= 16, "the lane slept {least} times, eight times");
}

/// The order on which "acknowledged is kept" stands: between two replies to writes there is a log write, and under
/// `always` a sync.
#[test]
fn the_log_is_written_before_the_reply() {
    let _alone = alone();
    for (mode, wanted) in [("interval", "pwrite"), ("none", "pwrite"), ("always", "fdatasync")] {
        let server = Server::start(&["-t", "1", &format!("--db.sync={mode}")]);
        let mut c = server.client();
        c.set("a", "x");
        let trace = "trace=pwrite64,pwritev,pwritev2,fdatasync,fsync,sync_file_range,write,writev,sendto,sendmsg";
        let tracer = Tracer::attach(server.pid(), &["-s", "64", "-e", trace]);
        for i in 0..100 {
            c.set("a", random_bytes(i, 100));
        }
        assert_eq!(c.ask("delete a"), "DELETED");
        let log = tracer.finish();
        let mut replies = 0;
        let mut kept = false;
        for line in log.lines() {
            let returned = line.contains(" = ") && !line.contains("= -1");
            kept |= returned && (line.contains(wanted) || (wanted == "fdatasync" && line.contains("fsync")));
            if line.contains("STORED") || line.contains("DELETED") {
                assert!(kept, "{mode}: a reply left before {wanted} returned: {line}");
                (kept, replies) = (false, replies + 1);
            }
        }
        assert_eq!(replies, 101, "{mode}: the trace shows every reply:\n{log}");
    }
}
