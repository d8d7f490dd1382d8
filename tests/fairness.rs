//! Whatever one connection has asked for, the others are served in every turn: per turn of the loop it gets no more than
//! its budget, counted in commands and bytes. And a hundred large values in both directions at once fit into little
//! memory, page cache included.

mod common;

use common::server::Plan;
use common::util::{counted, random_bytes, tier};
use common::{Client, Server};
use std::io::Read;
use std::path::PathBuf;

const CHUNK: u64 = 64 * 1024;

/// What `stats` tells of the only worker.
#[derive(Clone, Copy, Debug)]
struct Counts {
    turns: u64,
    gets: u64,
    read: u64,
    written: u64,
}

impl Counts {
    fn of(client: &mut Client) -> Counts {
        let stats = client.stats("");
        let all = |name: &str| stats[name].parse().expect("a number");
        let (turns, gets) = (all("worker_0_turns"), all("cmd_get"));
        Counts { turns, gets, read: all("bytes_read"), written: all("bytes_written") }
    }
}

/// Lets `heavy` go on beside a light connection, and looks whether between any two replies to the light one the other
/// had more than its budget for each turn. Gives how often it was looked while the heavy one was at work.
fn beside(server: &Server, looks: usize, heavy: impl FnOnce(&Server) + Send) -> usize {
    let mut light = server.client();
    let mut busy = 0;
    std::thread::scope(|scope| {
        let done = scope.spawn(|| heavy(server));
        let mut before = Counts::of(&mut light);
        let mut looked = 0;
        while looked < looks || !done.is_finished() {
            let now = Counts::of(&mut light);
            // The first and the last turn may have begun before, or go on.
            let turns = now.turns - before.turns + 1;
            let (gets, read, written) = (now.gets - before.gets, now.read - before.read, now.written - before.written);
            assert!(gets <= turns * 8192, "{gets} gets in {turns} turns");
            assert!(read <= turns * 6 * CHUNK, "{read} bytes read in {turns} turns");
            assert!(written <= turns * 16 * CHUNK, "{written} bytes written in {turns} turns");
            busy += usize::from(gets + read + written > 8192);
            (before, looked) = (now, looked + 1);
        }
    });
    busy
}

#[test]
fn a_pipelined_flood_leaves_every_turn_to_others() {
    let server = Server::start(&["-t", "1"]);
    server.client().set("a", "x");
    let busy = beside(&server, 20, |server| {
        let mut flood = server.client();
        let mut reader = flood.tcp().try_clone().expect("clone the socket");
        let wanted = 100_000 * "VALUE a 0 1\r\nx\r\nEND\r\n".len();
        let sink = std::thread::spawn(move || {
            let (mut buffer, mut got) = (vec![0; 1 << 16], 0);
            while got < wanted {
                got += reader.read(&mut buffer).expect("replies");
            }
            got
        });
        flood.send("get a\r\n".repeat(100_000));
        assert_eq!(sink.join().expect("the reader"), wanted);
    });
    println!("looked {busy} times beside 100,000 pipelined gets");
}

#[test]
fn a_long_multiget_leaves_every_turn_to_others() {
    let server = Server::start(&["-t", "1"]);
    server.client().set("k7", random_bytes(1, 10_000));
    let keys: String = (0..10_000).map(|number| format!(" k{}", number % 10)).collect();
    let busy = beside(&server, 20, |server| {
        let mut client = server.client();
        for _ in 0..tier(5, 20, 100) {
            client.send(format!("get{keys}\r\n"));
            assert_eq!(client.items().len(), 1000);
        }
    });
    println!("looked {busy} times beside multigets of 10,000 keys");
}

#[test]
fn a_large_value_leaves_every_turn_to_others() {
    let server = Server::start(&["-t", "1"]);
    let value = random_bytes(1, 64 << 20);
    let (value, times) = (&value, tier(1, 3, 10));
    let busy = beside(&server, 20, move |server| {
        let mut client = server.client();
        for _ in 0..times {
            client.set("large", value);
            assert!(client.get("large").unwrap() == *value);
        }
    });
    counted("looks beside a value of 64 MiB on its way", busy, 5);
}

/// When a heavy request and a light one wait at the same time, the light one is answered before the heavy one had more
/// than a turn's budget.
#[test]
fn a_light_request_waits_for_one_budget_at_most() {
    let server = Server::start(&["-t", "1"]);
    let mut light = server.client();
    light.set("a", "x");
    light.set("large", random_bytes(1, 8 << 20));
    let keys = " a".repeat(10_000);
    for (heavy, commands) in [(format!("get{keys}\r\n"), 4096), ("get large large large\r\n".to_string(), 1)] {
        let mut client = server.client();
        assert!(client.ask("version").starts_with("VERSION"));
        let before = Counts::of(&mut light);
        server.halt();
        client.send(&heavy);
        light.send("stats\r\n");
        client.arrived();
        light.arrived();
        server.signal("CONT");
        let stats = light.stats_now();
        let gets: u64 = stats["cmd_get"].parse().expect("a number");
        let written: u64 = stats["bytes_written"].parse().expect("a number");
        println!("{} gets and {} bytes before the light one", gets - before.gets, written - before.written);
        assert!(gets - before.gets <= commands && written - before.written <= 6 * CHUNK, "{:.20}", heavy);
    }
}

/// A memory cgroup (version 1) of its own, page cache included.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(bytes: u64) -> Cgroup {
        let path = PathBuf::from(format!("/sys/fs/cgroup/memory/kingserver-{}", std::process::id()));
        std::fs::create_dir(&path).expect("make a memory cgroup: this test needs root and cgroup version 1");
        std::fs::write(path.join("memory.limit_in_bytes"), bytes.to_string()).expect("set the limit");
        Cgroup(path)
    }

    fn number(&self, file: &str) -> u64 {
        let text = std::fs::read_to_string(self.0.join(file)).expect("read a file of the cgroup");
        text.trim().parse().expect("a number")
    }

    /// How often the kernel ended a process of it for want of memory.
    fn kills(&self) -> u64 {
        let text = std::fs::read_to_string(self.0.join("memory.oom_control")).expect("read oom_control");
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.map_or(0, |count| count.parse().expect("a number"))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The server has ended by then; what is left of it a moment longer.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// Bytes of a value, block by block: nobody holds it.
fn block(value: usize, number: usize) -> Vec<u8> {
    random_bytes((value * 100_000 + number) as u64, CHUNK as usize)
}

fn put(client: &mut Client, value: usize, blocks: usize) {
    client.send(format!("set value{value} 0 0 {}\r\n", blocks * CHUNK as usize));
    (0..blocks).for_each(|number| client.send(block(value, number)));
    client.send("\r\n");
    assert_eq!(client.line(), "STORED");
}

fn fetch(client: &mut Client, value: usize, blocks: usize) {
    client.send(format!("get value{value}\r\n"));
    assert_eq!(client.line(), format!("VALUE value{value} 0 {}", blocks * CHUNK as usize));
    (0..blocks).for_each(|number| assert!(client.bytes(CHUNK as usize) == block(value, number), "block {number}"));
    assert_eq!((client.line(), client.line()), (String::new(), "END".to_string()));
}

#[test]
fn a_hundred_transfers_fit_into_little_memory() {
    const LIMIT: u64 = 192 << 20;
    let (clients, blocks) = (tier(40, 100, 100), tier(16, 64, 1024));
    let cgroup = Cgroup::new(LIMIT);
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", cgroup.0.display());
    let server = Plan::new(&["-t", "2", "-m", "16"]).under(&["sh", "-c", &enter, "sh"]).start();
    for act in [put, fetch] {
        std::thread::scope(|scope| {
            for value in 0..clients {
                let mut client = server.client();
                scope.spawn(move || act(&mut client, value, blocks));
            }
        });
    }
    // Both directions at once.
    std::thread::scope(|scope| {
        for value in 0..clients {
            let mut client = server.client();
            let act = if value % 2 == 0 { put } else { fetch };
            scope.spawn(move || act(&mut client, value, blocks));
        }
    });
    let (most, kills) = (cgroup.number("memory.max_usage_in_bytes"), cgroup.kills());
    println!("{clients} values of {blocks} chunks at once: {} MiB of {} MiB at most", most >> 20, LIMIT >> 20);
    assert_eq!(kills, 0, "the kernel ran out of memory");
    server.stop();
    counted("transfers at once", clients, tier(40, 100, 100));
}
