//! What was acknowledged is there after a clean stop and after kill -9: values, flags, CAS uniques, deadlines,
//! flushes. And what a start does with a directory that is not as it should be.

use crate::common::server::Plan;
use crate::common::util::{DEADLINE, random_bytes, text_bytes, wait_until};
use crate::common::{Client, Server};
use std::time::{Duration, Instant};

type End = fn(Server) -> Plan;

/// The two ways to end a server that must make no difference to what it keeps.
const ENDS: [(&str, End); 2] = [("stop", Server::stop), ("kill -9", Server::kill)];

/// Ends the server in the given way and starts it again.
fn again(server: Server, end: End) -> (Server, Client) {
    let server = end(server).start();
    let client = server.client();
    (server, client)
}

#[test]
fn values_flags_and_uniques() {
    for (how, end) in ENDS {
        let server = Server::start(&[]);
        let mut c = server.client();
        let sizes = [0, 1, 100, 4096, 65_535, 65_536, 65_537, 131_072, 200_000, 1_048_576];
        for len in sizes {
            for (kind, value) in [("random", random_bytes(len as u64, len)), ("text", text_bytes(len as u64, len))] {
                let reply = c.store("set", &format!("{kind}-{len}"), len as u32 ^ 0x8000_0001, 0, value);
                assert_eq!(reply, "STORED");
            }
        }
        c.set("deleted", "x");
        assert_eq!(c.ask("delete deleted"), "DELETED");
        c.set("was-large", random_bytes(1, 300_000));
        c.set("was-large", "small now");
        c.set("was-small", "x");
        c.set("was-small", random_bytes(2, 300_000));
        c.set("large-gone", random_bytes(3, 300_000));
        assert_eq!(c.ask("delete large-gone"), "DELETED");
        c.set("n", "9");
        assert_eq!(c.ask("incr n 1"), "10");
        assert_eq!(c.ask("decr n 1"), "9");
        c.set("grown", random_bytes(4, 65_000));
        assert_eq!(c.store("append", "grown", 0, 0, random_bytes(5, 65_000)), "STORED");
        assert_eq!(c.store("prepend", "grown", 0, 0, "head"), "STORED");
        let uniques: Vec<u64> = sizes.map(|len| c.gets(&format!("random-{len}")).expect("stored").cas).to_vec();
        let touched = c.gets("text-131072").expect("stored").cas;
        assert_eq!(c.ask("touch text-131072 5000"), "TOUCHED");
        let highest = c.gets("grown").expect("stored").cas;

        let (server, mut c) = again(server, end);
        for (len, unique) in sizes.into_iter().zip(&uniques) {
            for (kind, value) in [("random", random_bytes(len as u64, len)), ("text", text_bytes(len as u64, len))] {
                let item = c.gets(&format!("{kind}-{len}")).unwrap_or_else(|| panic!("{how}: {kind}-{len} is lost"));
                assert!(item.value == value, "{how}: {kind}-{len} reads differently");
                assert_eq!(item.flags, len as u32 ^ 0x8000_0001, "{how}: flags of {kind}-{len}");
                assert!(kind == "text" || item.cas == *unique, "{how}: unique of {kind}-{len}: {}", item.cas);
            }
        }
        assert_eq!(c.get("deleted"), None, "{how}");
        assert!(c.get("large-gone").is_none(), "{how}");
        assert_eq!(c.get("was-large").as_deref(), Some(&b"small now"[..]), "{how}");
        assert!(c.get("was-small") == Some(random_bytes(2, 300_000)), "{how}");
        assert_eq!(c.get("n").as_deref(), Some(&b"9 "[..]), "{how}");
        let grown = [b"head".to_vec(), random_bytes(4, 65_000), random_bytes(5, 65_000)].concat();
        assert!(c.get("grown") == Some(grown), "{how}");
        assert_eq!(c.gets("text-131072").expect("there").cas, touched, "{how}: touch leaves the unique");
        // Uniques go on from where they were: an old one never fits a new value.
        c.set("new", "x");
        assert!(c.gets("new").expect("stored").cas > highest, "{how}: uniques start over");
        assert_eq!(c.cas("random-100", "new", uniques[2] + 1), "EXISTS", "{how}");
        assert_eq!(c.cas("random-100", "new", uniques[2]), "STORED", "{how}");
        let (_server, mut c) = again(server, end);
        assert_eq!(c.get("random-100").as_deref(), Some(&b"new"[..]), "{how}, twice");
    }
}

#[test]
fn more_than_one_segment() {
    for (how, end) in ENDS {
        let server = Server::start(&[]);
        let mut c = server.client();
        let count = 3000; // 150 MB that do not compress
        for i in 0..count {
            c.send(crate::common::client::storage(
                &format!("set k{} 0 0 50000 noreply", i % 2000),
                &random_bytes(i, 50_000),
            ));
        }
        assert!(c.ask("version").starts_with("VERSION"));
        let (_server, mut c) = again(server, end);
        for key in 0..2000 {
            let newest = if key < 1000 { key + 2000 } else { key };
            assert!(c.get(&format!("k{key}")) == Some(random_bytes(newest, 50_000)), "{how}: k{key}");
        }
    }
}

#[test]
fn deadlines() {
    for (how, end) in ENDS {
        let server = Server::start(&[]);
        let mut c = server.client();
        let start = Instant::now();
        for (key, seconds) in [("two", 2), ("six", 6), ("hour", 3600), ("cut", 3600), ("gatcut", 3600), ("extended", 2)]
        {
            assert_eq!(c.store("set", key, 0, seconds, "x"), "STORED");
        }
        assert_eq!(c.store("set", "large", 0, 2, random_bytes(1, 100_000)), "STORED");
        assert_eq!(c.store("set", "large-extended", 0, 2, random_bytes(2, 100_000)), "STORED");
        assert_eq!(c.ask("touch cut 2"), "TOUCHED");
        assert_eq!(c.ask("touch extended 3600"), "TOUCHED");
        assert_eq!(c.ask("touch large-extended 3600"), "TOUCHED");
        let _ = c.talk("gat 2 gatcut\r\n");
        let plan = end(server);
        // Two of them end while nobody serves.
        std::thread::sleep(Duration::from_millis(3100).saturating_sub(start.elapsed()));
        let server = plan.start();
        let mut c = server.client();
        for gone in ["two", "cut", "gatcut", "large"] {
            assert!(c.get(gone).is_none(), "{how}: {gone} came back");
        }
        let six = c.get("six").is_some();
        assert!(six || start.elapsed() > Duration::from_secs(5), "{how}: six was dropped early");
        assert!(c.get("hour").is_some() && c.get("extended").is_some(), "{how}");
        assert!(c.get("large-extended") == Some(random_bytes(2, 100_000)), "{how}");
        wait_until("the deadline from before the restart", || c.get("six").is_none());
        assert_eq!(c.store("add", "two", 0, 0, "y"), "STORED", "{how}");
    }
}

#[test]
fn flush_all() {
    for (how, end) in ENDS {
        let server = Server::start(&[]);
        let mut c = server.client();
        c.set("before", "x");
        c.set("large", random_bytes(1, 200_000));
        assert_eq!(c.ask("flush_all"), "OK");
        c.set("after", "y");
        let (server, mut c) = again(server, end);
        assert_eq!(c.get("before"), None, "{how}");
        assert!(c.get("large").is_none(), "{how}");
        assert_eq!(c.get("after").as_deref(), Some(&b"y"[..]), "{how}");
        c.set("before", "again");
        let (_server, mut c) = again(server, end);
        assert_eq!(c.get("before").as_deref(), Some(&b"again"[..]), "{how}");
    }
}

/// Nobody waits for a reply and nothing else happens: the record of the flush is written all the same.
#[test]
fn flush_all_without_a_reply() {
    let server = Server::start(&["-t", "1"]);
    let mut c = server.client();
    c.set("a", "x");
    c.send("flush_all noreply\r\n");
    // Another connection's `stats` tells of nothing that is in the log: it does not have it written out.
    let mut other = server.client();
    wait_until("it is flushed", || other.stat("cmd_flush") > 0);
    let (_server, mut c) = again(server, Server::kill);
    assert_eq!(c.get("a"), None);
}

#[test]
fn delayed_flush_that_is_pending_at_the_restart() {
    for (how, end) in ENDS {
        let server = Server::start(&[]);
        let mut c = server.client();
        c.set("a", "x");
        let start = Instant::now();
        assert_eq!(c.ask("flush_all 4"), "OK");
        let (server, mut c) = again(server, end);
        let there = c.get("a").is_some();
        assert!(there || start.elapsed() > Duration::from_secs(3), "{how}: flushed too early");
        c.set("b", "before it fires");
        wait_until("the flush from before the restart", || c.get("a").is_none());
        assert_eq!(c.get("b"), None, "{how}");
        c.set("c", "after");
        let (_server, mut c) = again(server, end);
        assert_eq!(c.get("a"), None, "{how}");
        assert_eq!(c.get("b"), None, "{how}");
        assert_eq!(c.get("c").as_deref(), Some(&b"after"[..]), "{how}: it fired once already");
    }
}

#[test]
fn delayed_flush_that_falls_due_while_down() {
    for (how, end) in ENDS {
        let server = Server::start(&[]);
        let mut c = server.client();
        c.set("a", "x");
        let start = Instant::now();
        assert_eq!(c.ask("flush_all 2"), "OK");
        let plan = end(server);
        std::thread::sleep(Duration::from_millis(3100).saturating_sub(start.elapsed()));
        let server = plan.start();
        let mut c = server.client();
        assert_eq!(c.get("a"), None, "{how}: it was due before the start");
        c.set("b", "after");
        let (_server, mut c) = again(server, end);
        assert_eq!(c.get("a"), None, "{how}");
        assert_eq!(c.get("b").as_deref(), Some(&b"after"[..]), "{how}");
    }
}

/// Nothing may depend on how often it was restarted: many short lives, each adding something.
#[test]
fn many_short_lives() {
    let mut plan = Plan::new(&[]);
    for life in 0..20 {
        let server = plan.start();
        let mut c = server.client();
        for earlier in 0..life {
            let value = c.get(&format!("life-{earlier}"));
            assert_eq!(value, Some(text_bytes(earlier, 100 + 5000 * earlier as usize)), "in life {life}");
        }
        c.set(&format!("life-{life}"), text_bytes(life, 100 + 5000 * life as usize));
        c.set("deleted", "x");
        assert_eq!(c.ask("delete deleted"), "DELETED");
        plan = if life % 3 == 0 { server.kill() } else { server.stop() };
    }
}

#[test]
fn one_server_per_directory() {
    let server = Server::start(&[]);
    let mut c = server.client();
    c.set("a", "x");
    let (status, messages) = server.plan().refused();
    assert_eq!(status, 1, "{messages}");
    assert_eq!(messages.lines().count(), 1, "one line, not: {messages}");
    let data = server.plan().data();
    assert!(messages.contains(&data.display().to_string()), "the line names the directory: {messages}");
    // The first one is none the worse.
    c.set("b", "y");
    assert_eq!(c.get("a").as_deref(), Some(&b"x"[..]));
    // A lock that outlives its owner would be worse than none.
    let server = server.kill().start();
    assert_eq!(server.client().get("b").as_deref(), Some(&b"y"[..]));
}

#[test]
fn impossible_directories() {
    let plan = Plan::new(&[]);
    std::fs::write(plan.data(), "a file where a directory should be").expect("write a file");
    let (status, messages) = plan.refused();
    assert_eq!(status, 1, "{messages}");
    assert_eq!(messages.lines().count(), 1, "one line, not: {messages}");
    assert!(messages.contains("data"), "the line names the directory: {messages}");
}

/// A client that was promised nothing gets nothing: what a stop interrupts is either whole or absent.
#[test]
fn stop_under_load_keeps_what_it_acknowledged() {
    let server = Server::start(&[]);
    let address = server.address();
    let writers: Vec<_> = (0..4)
        .map(|id| {
            std::thread::spawn(move || {
                let mut c = Client::connect(address);
                let mut acknowledged = 0;
                let start = Instant::now();
                while start.elapsed() < DEADLINE {
                    let value = random_bytes(acknowledged, 50 + 997 * (acknowledged as usize % 100));
                    let command = crate::common::client::storage(
                        &format!("set w{id}-{acknowledged} 0 0 {}", value.len()),
                        &value,
                    );
                    match c.try_send(command).and_then(|()| c.try_line()) {
                        Ok(reply) if reply == "STORED" => acknowledged += 1,
                        Ok(reply) => panic!("{reply}"),
                        Err(_) => break,
                    }
                }
                acknowledged
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    let server = server.stop().start();
    let mut c = server.client();
    for (id, writer) in writers.into_iter().enumerate() {
        let acknowledged = writer.join().expect("a writer");
        assert!(acknowledged > 10, "the load was none: {acknowledged}");
        for i in 0..acknowledged {
            let wanted = random_bytes(i, 50 + 997 * (i as usize % 100));
            assert!(c.get(&format!("w{id}-{i}")) == Some(wanted), "w{id}-{i} of {acknowledged}");
        }
    }
}
