//! A disk that gets full: values are refused with a clear error, what was there stays, removals and reads go on, and
//! writes resume by themselves. On small tmpfs mounts, so as root.

mod common;

use common::client::storage;
use common::server::Plan;
use common::strace::Tracer;
use common::util::{random_bytes, wait_until};
use common::{Client, Server};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const FULL: &str = "SERVER_ERROR out of disk space";
const MIB: u64 = 1 << 20;

/// A tmpfs as a server's data directory, for as long as this lives.
struct Small(PathBuf);

impl Small {
    fn mount(plan: &Plan, options: &str) -> Small {
        let path = plan.data();
        std::fs::create_dir(&path).expect("make the mount point");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&path).status();
        assert!(mount.expect("run mount").success(), "mount a tmpfs: this test needs root");
        Small(path)
    }

    fn file(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, vec![1; bytes as usize]).expect("write a file beside the store");
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A server on a tmpfs with these mount options.
fn start(mount: &str, args: &[&str]) -> (Server, Small) {
    let plan = Plan::new(args);
    let small = Small::mount(&plan, mount);
    (plan.start(), small)
}

fn used(dir: &Path) -> u64 {
    let out = Command::new("du").args(["-s", "-B1"]).arg(dir).output().expect("run du");
    let text = String::from_utf8(out.stdout).expect("a line");
    text.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
}

fn set(c: &mut Client, key: &str, value: &[u8]) -> String {
    c.store("set", key, 0, 0, value)
}

/// Sets keys `prefix0`, `prefix1`, … until one is refused; gives how many were stored.
fn fill(c: &mut Client, prefix: &str, len: usize) -> u64 {
    for i in 0.. {
        let reply = set(c, &format!("{prefix}{i}"), &random_bytes(i, len));
        if reply != "STORED" {
            assert_eq!(reply, FULL, "{prefix}{i}");
            return i;
        }
    }
    unreachable!("a disk has an end")
}

fn assert_there(c: &mut Client, prefix: &str, len: usize, count: u64) {
    for i in 0..count {
        assert!(c.get(&format!("{prefix}{i}")) == Some(random_bytes(i, len)), "{prefix}{i}");
    }
}

fn state(c: &mut Client) -> String {
    c.stats("").remove("db_space").expect("db_space among the statistics")
}

#[test]
fn values_are_refused_and_everything_else_goes_on() {
    for len in [1000, 20_000, 200_000] {
        let plan = Plan::new(&["--db.segment-size=1mb", "--db.storage.minimum-free-space-accept-orders=8mb"]);
        let small = Small::mount(&plan, "size=40m");
        let stranger = small.file("stranger", 12 * MIB);
        let server = plan.start();
        let mut c = server.client();
        c.set("first", "an older value");
        let count = fill(&mut c, "k", len);
        println!("{count} values of {len} bytes");
        assert!(count * len as u64 >= 12 * MIB, "only {count} values of {len} bytes in 20 MiB");
        let left = 40 * MIB - used(&small.0);
        assert!(left >= 6 * MIB, "{left} bytes are left of the 8 MiB that are kept back");
        // Smaller ones may still find a place.
        fill(&mut c, "small", 1000);
        // A refused value leaves the older one.
        assert_eq!(set(&mut c, "first", b"new"), FULL);
        assert_eq!(c.get("first").as_deref(), Some(&b"an older value"[..]));
        for (verb, key) in [("add", "none"), ("replace", "first"), ("append", "first"), ("prepend", "first")] {
            assert_eq!(c.store(verb, key, 0, 0, b"z"), FULL, "{verb}");
        }
        assert_eq!(c.ask("touch first 100"), FULL);
        assert_eq!(c.store("replace", "none", 0, 0, b"z"), "NOT_STORED");
        assert_eq!(c.get("first").as_deref(), Some(&b"an older value"[..]));
        // The connection is in step behind a refused large value.
        c.send(storage("set big 0 0 300000", &random_bytes(1, 300_000)));
        assert_eq!(c.line(), FULL);
        assert_there(&mut c, "k", len, count.min(200));
        for i in 0..count / 2 {
            assert_eq!(c.ask(&format!("delete k{i}")), "DELETED", "delete k{i} of {count}");
        }
        assert_eq!(c.get("k0"), None);
        assert!(server.messages().contains("out of disk space"), "{}", server.messages());
        // Somebody else makes room: writes resume, by themselves.
        std::fs::remove_file(stranger).expect("remove the stranger's file");
        wait_until("writes resume", || set(&mut c, "resumed", b"yes") == "STORED");
        assert_ne!(state(&mut c), "refusing");
        let server = server.restart();
        let mut c = server.client();
        assert_eq!(c.get("k0"), None);
        assert_eq!(c.get("resumed").as_deref(), Some(&b"yes"[..]));
        assert!(c.get(&format!("k{}", count - 1)) == Some(random_bytes(count - 1, len)));
    }
}

/// The control of the above: with nothing kept back, more is taken.
#[test]
fn a_floor_of_nothing_lets_the_disk_fill_up() {
    let (server, small) =
        start("size=24m", &["--db.segment-size=1mb", "--db.storage.minimum-free-space-accept-orders=0"]);
    let count = fill(&mut server.client(), "k", 20_000);
    let left = 24 * MIB - used(&small.0);
    assert!(left < 2 * MIB, "{left} bytes are left after {count} values");
}

#[test]
fn a_store_keeps_to_its_own_size() {
    for len in [5000, 150_000] {
        let server = Server::start(&["--db.segment-size=1mb", "--db.max-size=24mb"]);
        let mut c = server.client();
        let count = fill(&mut c, "k", len);
        let size = used(&server.plan().data());
        println!("{count} values of {len} bytes in {size}");
        assert!(size <= 24 * MIB, "{size} bytes");
        assert!(count * len as u64 >= 15 * MIB, "{count} values of {len} bytes");
        assert_there(&mut c, "k", len, count.min(100));
        assert_eq!(c.ask("delete k1"), "DELETED");
        assert!(used(&server.plan().data()) <= 24 * MIB);
        let server = server.restart();
        let mut c = server.client();
        fill(&mut c, "more", len);
        assert!(used(&server.plan().data()) <= 24 * MIB, "a start changes nothing");
        assert_there(&mut c, "k", len, 1);
        assert_eq!(c.get("k1"), None);
    }
}

#[test]
fn inodes_run_out() {
    let (server, small) = start("size=64m,nr_inodes=40", &["--db.segment-size=1mb"]);
    let mut c = server.client();
    c.set("a", "x");
    let strangers: Vec<_> = (0..).map_while(|i| std::fs::write(small.0.join(format!("s{i}")), "").ok()).collect();
    assert!(strangers.len() > 10, "{} files", strangers.len());
    wait_until("values are refused", || set(&mut c, "b", b"y") == FULL);
    assert!(server.messages().contains("inodes"), "{}", server.messages());
    assert_eq!(c.get("a").as_deref(), Some(&b"x"[..]));
    assert_eq!(c.ask("delete a"), "DELETED");
    for i in 0..strangers.len() {
        std::fs::remove_file(small.0.join(format!("s{i}"))).expect("remove a file");
    }
    wait_until("writes resume", || set(&mut c, "b", b"y") == "STORED");
}

/// Everything taken, by others, to the last byte: it starts, reads and removes, and goes on when there is room.
#[test]
fn a_start_on_a_disk_without_any_room() {
    let (server, small) = start("size=16m", &["--db.segment-size=1mb", "--db.sync=always"]);
    let mut c = server.client();
    let count = fill(&mut c, "k", 3000);
    let plan = server.kill();
    let mut stranger = std::fs::File::create(small.0.join("stranger")).expect("make a file");
    while std::io::Write::write_all(&mut stranger, &[1; 4096]).is_ok() {}
    let server = plan.start();
    let mut c = server.client();
    assert_there(&mut c, "k", 3000, count);
    wait_until("values are refused", || set(&mut c, "x", b"y") == FULL);
    assert_eq!(c.ask("delete k0"), "DELETED");
    let server = server.restart();
    let mut c = server.client();
    assert_eq!(c.get("k0"), None);
    std::fs::remove_file(small.0.join("stranger")).expect("remove the file");
    assert_eq!(c.ask("delete k1"), "DELETED");
    let server = server.restart();
    assert_there(&mut server.client(), "none", 0, 0);
    assert_eq!(server.client().get("k1"), None);
}

/// A file system that cannot set room aside meets the full disk in the middle of a log write: that is no failure.
#[test]
fn a_log_write_that_finds_the_disk_full_is_tried_again() {
    for error in ["ENOSPC", "EDQUOT", "EFBIG"] {
        let server = Server::start(&["-t", "1"]);
        let mut c = server.client();
        c.set("a", "x");
        // The first two attempts of each thread fail: a worker's, and then the syncer's, a second apart. The tracer stays to
        // the end: a call that it fails while it lets go fails with ENOSYS, which is no full disk.
        let inject = format!("inject=pwrite64:error={error}:when=1..2");
        let tracer = Tracer::attach(server.pid(), &["-e", "trace=pwrite64", "-e", &inject]);
        let mut waits = server.client();
        waits.send("set b 0 0 1\r\ny\r\n");
        let mut other = server.client();
        wait_until("other values are refused", || {
            other.send("set c 0 0 1\r\nz\r\n");
            // One that came before the refusal waits like the first.
            match other.answers_within(Duration::from_millis(200)) {
                true => true,
                false => {
                    other = server.client();
                    false
                }
            }
        });
        assert_eq!(set(&mut other, "d", b"z"), FULL, "{error}");
        assert_eq!(server.client().get("a").as_deref(), Some(&b"x"[..]), "{error}: reads go on");
        assert_eq!(state(&mut server.client()), "refusing", "{error}");
        assert_eq!(waits.line(), "STORED", "{error}");
        wait_until("writes resume", || set(&mut other, "d", b"z") == "STORED");
        assert_eq!(c.stat("db_read_only"), 0, "{error}");
        let server = server.kill().start();
        drop(tracer);
        let mut c = server.client();
        for (key, value) in [("a", b"x"), ("b", b"y"), ("d", b"z")] {
            assert_eq!(c.get(key).as_deref(), Some(&value[..]), "{error}: {key}");
        }
    }
}

/// Appends, parts and their commit in the middle of which the disk gets full: the older value stays, nothing is left.
#[test]
fn appends_and_parts_find_the_disk_full() {
    let (server, small) = start("size=32m", &["--db.segment-size=1mb"]);
    let mut c = server.client();
    let (old, len) = (random_bytes(1, 300_000), 150_000);
    c.set("old", &old);
    let part = |c: &mut Client, upload: &str, number: u64, len: usize| {
        c.talk_line(&storage(&format!("part {upload} {number} {len}"), &random_bytes(number, len)))
    };
    // So many that their commit has to copy them, for which there is no room then.
    let count = (1..).find(|number| part(&mut c, "many", *number, len) != "STORED").expect("a disk has an end") - 1;
    assert!(count > 64, "{count} parts");
    wait_until("values are refused", || set(&mut c, "new", &random_bytes(2, 300_000)) == FULL);
    assert_eq!(c.store("append", "old", 0, 0, random_bytes(2, 200_000)), FULL);
    assert_eq!(c.store("prepend", "old", 0, 0, random_bytes(2, 100)), FULL);
    assert_eq!(
        c.ask(&format!("commit many old 0 0 {}", count + 1)),
        "CLIENT_ERROR the upload has other parts than these"
    );
    assert_eq!(c.ask(&format!("commit many old 0 0 {count}")), FULL);
    assert!(c.get("old") == Some(old.clone()), "the older value stays");
    assert_eq!(c.ask("abort many"), "NOT_FOUND");
    wait_until("the parts give their room back", || used(&small.0) < 8 * MIB);
    wait_until("there is room again", || part(&mut c, "few", 1, len) == "STORED");
    assert_eq!(c.store("append", "old", 0, 0, &old), "STORED");
    assert_eq!(c.ask("commit few new 0 0 1"), "STORED");
    let server = server.kill().start();
    let mut c = server.client();
    assert!(c.get("old") == Some([&old[..], &old].concat()));
    assert!(c.get("new") == Some(random_bytes(1, len)));
}

/// A limit on the size of files is like a full disk, and no signal ends the server.
#[test]
fn a_limit_on_file_sizes() {
    let plan = Plan::new(&["--db.segment-size=1mb", "--db.storage.minimum-free-space-accept-orders=0"]);
    let server = plan.under(&["prlimit", "--fsize=3000000"]).start();
    let mut c = server.client();
    for i in 0..20 {
        // Extent files grow up to the limit, and the next one takes over.
        let mut reply = String::new();
        wait_until("a value finds a file", || {
            reply = set(&mut c, &format!("big{i}"), &random_bytes(i, 700_000));
            reply == "STORED"
        });
    }
    for i in 0..3000 {
        c.set(&format!("k{i}"), random_bytes(i, 1000));
    }
    for i in 0..20 {
        assert!(c.get(&format!("big{i}")) == Some(random_bytes(i, 700_000)), "big{i}");
    }
    assert_there(&mut c, "k", 1000, 3000);
}

/// What comes in is slowed down, not refused, and is never more than the rate allows.
#[test]
fn incoming_bytes_are_limited() {
    const RATE: u64 = 2 << 20;
    let server = Server::start(&["--db.incoming-rate-limit=2mb", "-t", "2"]);
    let address = server.address();
    let start = Instant::now();
    let writers: Vec<_> = [1000, 1000, 60_000, 400_000]
        .into_iter()
        .map(|len| {
            std::thread::spawn(move || {
                let mut c = Client::connect(address);
                let (mut sent, mut i) = (0, 0);
                while start.elapsed() < Duration::from_secs(3) {
                    c.set(&format!("{len}-{i}"), random_bytes(i, len));
                    (sent, i) = (sent + len as u64, i + 1);
                }
                sent
            })
        })
        .collect();
    let total: u64 = writers.into_iter().map(|writer| writer.join().expect("no value is refused")).sum();
    let elapsed = start.elapsed();
    // A tenth of a second's worth in advance, and one command of each connection.
    let allowed = (elapsed.as_secs_f64() * RATE as f64) as u64 + RATE / 10 + 4 * 70_000;
    println!("{total} bytes in {elapsed:?}, {allowed} allowed");
    assert!(total <= allowed, "{total} bytes came in, {allowed} were allowed");
    assert!(total >= RATE, "the limit is not much less than it says: {total} bytes in {elapsed:?}");
    assert_eq!(server.client().get("1000-0").map(|value| value.len()), Some(1000));
}
