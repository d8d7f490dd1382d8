//! What one connection may do to the others: nothing. Floods, clients that never read, clients that vanish, limits
//! of connections and descriptors. Progress is asserted by counts; the clock only ends what hangs.

use crate::common::client::storage;
use crate::common::server::Plan;
use crate::common::strace::Tracer;
use crate::common::util::{anonymous_memory, random_bytes, tier, wait_until};
use crate::common::{Client, Server};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Both connections are ready in the same turn, the flood first: the other one must come to its turn before the
/// flood is through.
#[test]
fn a_flood_gets_one_budget_per_turn() {
    let server = Server::start(&["-t", "1"]);
    let (mut flood, mut other) = (server.client(), server.client());
    flood.set("a", "x");
    let before = other.stat("cmd_get");
    let count = 8000; // 56 KiB: they fit the socket's receive buffer
    server.halt();
    flood.send("get a\r\n".repeat(count));
    other.send("stats\r\n");
    flood.arrived();
    other.arrived();
    server.signal("CONT");
    let mut executed = 0;
    loop {
        let line = other.line();
        if let Some(value) = line.strip_prefix("STAT cmd_get ") {
            executed = value.parse::<u64>().expect("a number") - before;
        }
        if line == "END" {
            break;
        }
    }
    println!("{executed} of the flood's {count} gets were executed before the other connection's command");
    assert!(executed < count as u64 / 2, "{executed} of {count} gets of one connection in one turn");
    for _ in 0..count {
        assert_eq!(flood.items().len(), 1);
    }
}

/// A flood that never ends, replies read as fast as they come; others get a thousand commands done beside it.
#[test]
fn others_are_served_beside_an_endless_flood() {
    let server = Server::start(&["-t", "1"]);
    let mut c = server.client();
    c.set("a", random_bytes(1, 100));
    c.set("big", random_bytes(2, 300_000));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for flood in ["get a\r\n".repeat(100_000), "set f 0 0 1\r\nx\r\n".repeat(50_000), "get big big\r\n".repeat(100)]
        {
            let (server, done) = (&server, &done);
            scope.spawn(move || {
                let c = server.client();
                let mut writer = c.tcp().try_clone().expect("clone the socket");
                let reader = c.tcp().try_clone().expect("clone the socket");
                let sink = std::thread::spawn(move || swallow(reader));
                while !done.load(Ordering::Relaxed) {
                    writer.write_all(flood.as_bytes()).expect("send the flood");
                }
                writer.shutdown(Shutdown::Both).expect("shut down");
                let replies = sink.join().expect("the reader");
                let verb = flood.lines().next().unwrap_or("");
                println!("a flood of {verb} got {replies} bytes of replies");
                assert!(replies > 0, "a flood of {verb} was not served at all");
            });
        }
        for i in 0..1000 {
            c.set("mine", format!("value {i}"));
            assert_eq!(c.get("mine"), Some(format!("value {i}").into_bytes()));
        }
        assert!(c.get("big") == Some(random_bytes(2, 300_000)));
        done.store(true, Ordering::Relaxed);
    });
}

/// Reads until the end; gives the number of bytes.
fn swallow(mut socket: TcpStream) -> usize {
    let mut buffer = vec![0; 1 << 16];
    let mut total = 0;
    while let Ok(count @ 1..) = socket.read(&mut buffer) {
        total += count;
    }
    total
}

/// Clients that ask for gigabytes and read nothing: each costs its unsent bytes, no more, inside a multiget too.
#[test]
fn clients_that_never_read() {
    crate::common::util::raise_descriptor_limit();
    let clients = tier(100, 1000, 1000);
    let server = Server::start(&["-m", "16", "-c", "4096"]);
    let mut c = server.client();
    for i in 0..20 {
        c.set(&format!("big{i}"), random_bytes(i, 1 << 20));
    }
    c.set("small", "x");
    for i in 0..40 {
        assert!(c.get(&format!("big{}", i % 20)).is_some(), "warm up");
    }
    let before = anonymous_memory(server.pid());
    let mut line = "get".to_string();
    for i in 0..10_000 {
        line += &format!(" big{}", i % 20);
    }
    line += "\r\n";
    let hogs: Vec<Client> = (0..clients)
        .map(|_| {
            let mut hog = server.client();
            hog.send(&line);
            hog
        })
        .collect();
    for i in 0..500 {
        assert_eq!(c.get("small").as_deref(), Some(&b"x"[..]));
        c.set("mine", "y");
        if i % 50 == 0 {
            assert!(c.get("big3") == Some(random_bytes(3, 1 << 20)), "large values are served, too");
        }
    }
    let growth = anonymous_memory(server.pid()).saturating_sub(before);
    println!("{clients} clients that never read: {} KiB each", growth / clients as u64 / 1024);
    let bound = clients as u64 * 200 * 1024 + (16 << 20);
    assert!(growth <= bound, "{growth} bytes more for {clients} clients that never read");
    // One that starts to read gets what it asked for, from the first byte.
    let mut hog = hogs.into_iter().next().expect("a client");
    for i in 0..30 {
        let head = hog.line();
        assert_eq!(head, format!("VALUE big{} 0 {}", i % 20, 1 << 20));
        assert!(hog.bytes(1 << 20) == random_bytes(i % 20, 1 << 20), "value {i}");
        assert_eq!(hog.bytes(2), b"\r\n");
    }
}

/// A writer that never reads: its replies are short, but there may be a million.
#[test]
fn writers_that_never_read() {
    let server = Server::start(&["-t", "1"]);
    let mut c = server.client();
    c.set("a", "x");
    let before = anonymous_memory(server.pid());
    let hog = server.client();
    let mut writer = hog.tcp().try_clone().expect("clone");
    writer.set_write_timeout(Some(Duration::from_millis(300))).expect("set a timeout");
    let flood = "set b 0 0 1\r\nx\r\nnonsense\r\n".repeat(10_000);
    let mut sent = 0;
    while sent < 200 && writer.write_all(flood.as_bytes()).is_ok() {
        sent += 1;
    }
    assert!(sent < 200, "50 MB of commands were taken from a client that reads no reply");
    for _ in 0..100 {
        assert!(c.get("a").is_some());
    }
    let growth = anonymous_memory(server.pid()).saturating_sub(before);
    assert!(growth < 16 << 20, "{growth} bytes more");
}

/// Clients that send a long operand up to its last byte but one: some hold the memory for it, the others are not
/// read from. They are all answered in the end.
#[test]
fn operands_that_never_end() {
    let server = Server::start(&["-t", "1", "-m", "16"]);
    let mut c = server.client();
    c.set("a", "x");
    let before = anonymous_memory(server.pid());
    let operand = storage("append none 0 0 1000000", &random_bytes(1, 1_000_000));
    let last = operand.len() - 1;
    let mut clients: Vec<(Client, usize)> = (0..60).map(|_| (server.client(), 0)).collect();
    for (c, _) in &clients {
        c.tcp().set_nonblocking(true).expect("not to block");
    }
    let mut push = |upto: usize| {
        clients.iter_mut().fold(0, |pushed, (c, sent)| {
            let count = c.tcp().write(&operand[*sent..upto]).unwrap_or(0);
            *sent += count;
            pushed + count
        })
    };
    let mut sent = 0;
    loop {
        match push(last) {
            0 => break,
            pushed => sent += pushed,
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(c.get("a").as_deref(), Some(&b"x"[..]), "others are served");
    let growth = anonymous_memory(server.pid()).saturating_sub(before);
    println!("{growth} bytes for 60 operands of a million bytes");
    assert!(growth < 28 << 20, "{growth} bytes for 60 operands of a million bytes");
    wait_until("all is sent", || {
        sent += push(operand.len());
        sent == 60 * operand.len()
    });
    for (c, _) in &mut clients {
        c.tcp().set_nonblocking(false).expect("to block");
        assert_eq!(c.line(), "NOT_STORED");
    }
}

/// SIGPIPE and resets while replies flow.
#[test]
fn clients_that_vanish() {
    let server = Server::start(&[]);
    let mut c = server.client();
    let value = random_bytes(1, 1 << 20);
    c.set("big", &value);
    let half = storage("set half 0 0 900000", &random_bytes(2, 900_000));
    let connections = |c: &mut Client| c.stat("curr_connections");
    let start = connections(&mut c);
    let mut high = 0;
    for round in 0..tier(300, 2000, 10_000) {
        let mut gone = server.client();
        match round % 4 {
            0 => gone.send("get big big big big big big big big\r\n"),
            1 => gone.send(&half[..half.len() / 2]),
            2 => gone.send("get"),
            _ => {
                gone.send("get big\r\n");
                // Unread bytes make the close a reset.
                let _ = gone.bytes(1000);
            }
        }
        drop(gone);
        if round == 100 {
            high = anonymous_memory(server.pid());
        }
    }
    wait_until("their connections are gone", || connections(&mut c) <= start);
    let growth = anonymous_memory(server.pid()).saturating_sub(high);
    assert!(growth < 8 << 20, "{growth} bytes are still held for clients that are gone");
    assert_eq!(c.get("half"), None, "half a value is none");
    assert!(c.get("big") == Some(value));
}

#[test]
fn connection_limit() {
    let server = Server::start(&["-c", "50", "-t", "2"]);
    // The harness' probe and the ones refused below may still be counted for a moment.
    let mut clients = Vec::new();
    wait_until("fifty connections", || {
        let mut c = server.client();
        if c.try_ask("version").is_ok_and(|reply| reply.starts_with("VERSION")) {
            clients.push(c);
        }
        clients.len() == 50
    });
    for _ in 0..50 {
        let mut c = server.client();
        let got = c.until_closed();
        assert_eq!(got.escape_ascii().to_string(), "ERROR Too many open connections\\r\\n");
    }
    for c in &mut clients {
        assert!(c.ask("version").starts_with("VERSION"), "the fifty are served all the time");
    }
    assert!(clients[0].stat("rejected_connections") >= 50);
    assert_eq!(clients[0].stat("curr_connections"), 50);
    assert_eq!(clients[0].stat("max_connections"), 50);
    clients.truncate(45);
    let mut fresh = Vec::new();
    wait_until("five more", || {
        let mut c = server.client();
        if c.try_ask("version").is_ok_and(|reply| reply.starts_with("VERSION")) {
            fresh.push(c);
        }
        fresh.len() == 5
    });
    assert!(server.client().until_closed().starts_with(b"ERROR Too many"));
}

/// Out of descriptors: those who connected already are served when some are free again, with no further SYN to wake
/// the server; and meanwhile it does not spin.
#[test]
fn out_of_descriptors() {
    for threads in ["1", "2"] {
        let server = Plan::new(&["-t", threads]).start();
        let soft = server.descriptors() + 20;
        let limited = std::process::Command::new("prlimit")
            .args([format!("--pid={}", server.pid()), format!("--nofile={soft}:{soft}")])
            .status();
        assert!(limited.expect("run prlimit").success());
        let mut clients: Vec<Client> = (0..60).map(|_| server.client()).collect();
        for c in &mut clients {
            c.send("version\r\n");
        }
        let mut served = Vec::new();
        let mut waiting = Vec::new();
        for mut c in clients {
            // Twenty at most can be in; which ones is the kernel's choice of worker.
            match served.len() < 10 && c.answers_within(Duration::from_millis(300)) {
                true => served.push(c),
                false => waiting.push(c),
            }
        }
        assert_eq!(served.len(), 10, "with {threads} workers");
        let start = server.cpu_ticks();
        std::thread::sleep(Duration::from_millis(500));
        let spent = server.cpu_ticks() - start;
        assert!(spent < 25, "{spent} ticks of CPU in half a second: it spins");
        assert!(served[0].ask("version").starts_with("VERSION"));
        drop(served);
        // Each that is served makes room for the next one by leaving.
        let mut rounds = 0;
        while !waiting.is_empty() {
            rounds += 1;
            assert!(rounds < 100, "{} clients hang with {threads} workers: {}", waiting.len(), server.messages());
            waiting.retain_mut(|c| !c.answers_within(Duration::from_millis(if rounds < 3 { 50 } else { 300 })));
        }
    }
}

/// Both kinds of listening sockets have somebody waiting in the very turn in which the descriptors run out.
#[test]
fn out_of_descriptors_at_two_entrances() {
    let plan = Plan::new(&["-t", "1"]);
    let socket = plan.root().join("socket");
    let path = socket.to_str().expect("UTF-8");
    let mut server = plan.listen(&["-p", "0", "-l", "127.0.0.1", "-s", path]).start();
    let mut inside = server.client();
    inside.set("a", "x");
    wait_until("the harness' probe is gone", || inside.stat("curr_connections") == 1);
    let soft = server.descriptors();
    limit_descriptors(&server, &format!("{soft}:"));
    server.halt();
    let mut waiting = [server.client(), Client::connect_unix(&socket)];
    waiting.iter_mut().for_each(|c| c.send("version\r\n"));
    server.signal("CONT");
    wait_until("it has run out", || inside.stat("listen_disabled_num") > 0);
    assert!(server.is_running(), "{}", server.messages());
    limit_descriptors(&server, &format!("{}:", soft + 10));
    for c in &mut waiting {
        assert!(c.line().starts_with("VERSION"));
    }
}

/// An accept(2) that fails for ever, for whatever reason, is tried again and again, but not as fast as it goes.
#[test]
fn accepting_fails() {
    let server = Server::start(&["-t", "1"]);
    let mut inside = server.client();
    inside.set("a", "x");
    let args = ["-e", "trace=accept4", "-e", "inject=accept4:error=EPERM"];
    let tracer = Tracer::attach(server.pid(), &args);
    let mut outside = server.client();
    outside.send("version\r\n");
    wait_until("it was tried and tried again", || inside.stat("listen_disabled_num") >= 5);
    let tries = tracer.finish().lines().filter(|line| line.contains("EPERM")).count();
    assert!((5..1000).contains(&tries), "{tries} tries in about half a second");
    assert!(outside.line().starts_with("VERSION"));
    let messages = server.messages();
    assert_eq!(messages.lines().filter(|line| line.contains("cannot accept")).count(), 1, "{messages}");
}

/// Sets a running server's limit on descriptors, in prlimit's notation.
fn limit_descriptors(server: &Server, limit: &str) {
    let pid = format!("--pid={}", server.pid());
    let limited = std::process::Command::new("prlimit").args([pid, format!("--nofile={limit}")]).status();
    assert!(limited.expect("run prlimit").success());
}

#[test]
fn connections_spread_over_workers() {
    let server = Server::start(&["-t", "4"]);
    let clients: Vec<Client> = (0..400).map(|_| server.client()).collect();
    let mut c = server.client();
    let mut shares = Vec::new();
    wait_until("all are accepted", || {
        let stats = c.stats("");
        let share = |worker| stats.get(&format!("worker_{worker}_connections")).and_then(|n| n.parse::<u64>().ok());
        shares = (0..8).filter_map(share).collect();
        shares.iter().sum::<u64>() >= 400
    });
    println!("connections per worker: {shares:?}");
    assert_eq!(shares.len(), 4, "{shares:?}");
    // Hashed, the mean is 100 and the deviation 9.
    assert!(shares.iter().all(|share| *share >= 40), "{shares:?}");
    drop(clients);
    wait_until("all are gone", || c.stat("curr_connections") == 1);
}

#[test]
fn idle_connections_are_closed() {
    let server = Server::start(&["-o", "idle_timeout=2"]);
    let (mut idle, mut partial, mut busy) = (server.client(), server.client(), server.client());
    assert!(idle.ask("version").starts_with("VERSION"));
    partial.send("set a 0 0 100\r\nhalf");
    for _ in 0..12 {
        assert!(busy.ask("version").starts_with("VERSION"), "one that is in use stays");
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(idle.until_closed(), b"");
    assert_eq!(partial.until_closed(), b"");
    assert!(busy.ask("version").starts_with("VERSION"));
    // Without the option, nobody is closed: see the other tests' patience.
}

/// Each is told of all connections: of those who ask at the same time, one is, and the others are told to try again.
#[test]
fn all_ask_for_the_connections() {
    let server = Server::start(&["-t", "2"]);
    let mut clients: Vec<Client> = (0..300).map(|_| server.client()).collect();
    for client in &mut clients {
        client.send("stats conns\r\nversion\r\n");
    }
    let mut told = 0;
    for client in &mut clients {
        let reply = String::from_utf8(client.until_version()).expect("UTF-8");
        match reply.contains("STAT ") {
            true => told += usize::from(reply.matches(":state conn_").count() >= 300 && reply.contains("END\r\n")),
            false => {
                assert_eq!(reply.lines().next().map(|line| line.starts_with("SERVER_ERROR another client")), Some(true))
            }
        }
    }
    assert!(told > 0, "nobody was told");
    // Once nobody asks any more, whoever does is told.
    for client in &mut clients[..3] {
        assert!(client.stats("conns").len() >= 300 * 4);
    }
}
