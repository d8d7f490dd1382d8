//! How much memory the server takes, whatever is asked of it: the cache, the index, and 16 MiB; and what
//! clients that stop in the middle make their connections hold.

mod common;

use common::client::storage;
use common::util::{proc_status, raise_descriptor_limit, random_bytes, tier, wait_until};
use common::{Client, Server};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const KEYS: u64 = 100_000;
const CACHE: u64 = 16 << 20;
const REST: u64 = 16 << 20;
const BYTES_PER_KEY: u64 = 16;

/// Small, medium and large values, written and read, some of them again and again, by many connections.
fn mix(address: SocketAddr, seed: u64, until: Instant) -> u64 {
    let mut clients: Vec<Client> = (0..40).map(|_| Client::connect(address)).collect();
    let values = [100, 3000, 65_536, 1 << 20].map(|len| random_bytes(seed, len));
    let mut done = 0;
    while Instant::now() < until {
        // All ask before any is answered.
        let turn = |client: usize| (done + client as u64 * 7 + seed) % 37;
        for (client, c) in clients.iter_mut().enumerate() {
            let (which, key) = (turn(client), format!("mix{}", (done * 31 + client as u64) % 400));
            match which {
                0..16 => c.send(storage(&format!("set {key} 0 0 {}", values[0].len()), &values[0])),
                16..20 => c.send(storage(&format!("set {key} 0 0 {}", values[1].len()), &values[1])),
                20..23 => c.send(storage(&format!("set {key} 0 0 {}", values[2].len()), &values[2])),
                23 => c.send(storage(&format!("set {key} 0 0 {}", values[3].len()), &values[3])),
                _ => c.send(format!("get {key}\r\n")),
            }
        }
        for (client, c) in clients.iter_mut().enumerate() {
            match turn(client) {
                0..24 => assert_eq!(c.line(), "STORED"),
                _ => drop(c.items()),
            }
        }
        done += clients.len() as u64;
    }
    done
}

#[test]
fn memory_is_bounded_under_mixed_load() {
    raise_descriptor_limit();
    let server = Server::start(&["-m", "16", "-t", "2", "-c", "4000", "--db.segment-size=4mb"]);
    let address = server.address();
    let rss = |what: &str| {
        let (now, most) = (proc_status(server.pid(), "VmRSS:") >> 10, proc_status(server.pid(), "VmHWM:") >> 10);
        println!("{what}: {now} MiB, at most {most} MiB");
        most << 20
    };
    rss("empty");
    let mut c = server.client();
    for batch in 0..KEYS / 1000 {
        let set = |i| storage(&format!("set key{} 0 0 100 noreply", batch * 1000 + i), &[b'x'; 100]);
        c.talk((0..1000).flat_map(set).collect::<Vec<u8>>());
    }
    let idle: Vec<Client> = (0..1000).map(|_| server.client()).collect();
    rss("with its keys, a full cache and 1,000 idle connections");
    let until = Instant::now() + Duration::from_secs(tier(4, 10, 120));
    let writers: Vec<_> = (0..4).map(|seed| std::thread::spawn(move || mix(address, seed, until))).collect();
    let done: u64 = writers.into_iter().map(|writer| writer.join().expect("the load is carried")).sum();
    let most = rss("under mixed load of 160 connections");
    let keys = c.stat("curr_items");
    let allowed = CACHE + keys * BYTES_PER_KEY + REST;
    println!("{done} commands, {keys} keys: {} MiB, {} allowed", most >> 20, allowed >> 20);
    drop(idle);
    assert!(most <= allowed, "{} MiB, {} allowed", most >> 20, allowed >> 20);
}

/// Values that never come to their end, and replies that nobody takes: each costs its connection's bound, and no more.
#[test]
fn who_stops_in_the_middle_takes_a_bounded_share() {
    const EACH: u64 = 300;
    raise_descriptor_limit();
    let server = Server::start(&["-m", "8", "-t", "2", "-c", "4000"]);
    let mut c = server.client();
    c.set("large", random_bytes(1, 1 << 20));
    c.set("medium", random_bytes(1, 60_000));
    assert_eq!(c.get("large").map(|value| value.len()), Some(1 << 20));
    let before = proc_status(server.pid(), "VmRSS:") << 10;
    let half = storage("set half 0 0 65536", &vec![b'h'; 65_536]);
    let requests = [
        half[..40_000].to_vec(),
        b"get large large large large\r\n".repeat(20),
        format!("get{}\r\n", " medium".repeat(200)).into_bytes(),
    ];
    let stuck: Vec<Client> = (0..3 * EACH)
        .map(|i| {
            let mut c = server.client();
            c.send(&requests[(i % 3) as usize]);
            c
        })
        .collect();
    wait_until("all are served", || c.stat("curr_connections") == 1 + 3 * EACH);
    // All of it, whatever the machine is busy with.
    std::thread::sleep(Duration::from_millis(500));
    let took = (proc_status(server.pid(), "VmHWM:") << 10).saturating_sub(before) / (3 * EACH);
    println!("{} connections that stopped in the middle: {took} bytes each", stuck.len());
    // 64 KiB on their way in, or 64 KiB and a value on their way out.
    assert!(took <= 160 << 10, "{took} bytes each");
}
