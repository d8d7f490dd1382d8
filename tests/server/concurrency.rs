//! Several connections on several workers at the same keys: every read-modify-write happens once, as if they had
//! come one after the other.

use crate::common::util::{random_bytes, tier};
use crate::common::{Client, Server};
use std::sync::Barrier;

const CONNECTIONS: usize = 8;

/// Runs `work` on each of eight connections at once; gives what they gave.
fn together<T: Send>(server: &Server, work: impl Fn(usize, &mut Client) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(CONNECTIONS);
    std::thread::scope(|scope| {
        let (barrier, work) = (&barrier, &work);
        let spawn = |id| {
            scope.spawn(move || {
                let mut client = server.client();
                barrier.wait();
                work(id, &mut client)
            })
        };
        let threads: Vec<_> = (0..CONNECTIONS).map(spawn).collect();
        threads.into_iter().map(|thread| thread.join().expect("a client")).collect()
    })
}

fn servers() -> [Server; 2] {
    [Server::start(&["-t", "4"]), Server::start(&["-t", "4", "-m", "1", "--db.sync=always"])]
}

#[test]
fn increments_add_up() {
    for server in servers() {
        let each = tier(1000, 5000, 50_000);
        server.client().set("n", "0");
        together(&server, |_, c| {
            c.send("incr n 1\r\n".repeat(each));
            let mut last = 0;
            for _ in 0..each {
                let now = c.line().parse::<u64>().expect("a number");
                assert!(now > last, "a connection's own increments grow: {last}, {now}");
                last = now;
            }
        });
        let total = (CONNECTIONS * each).to_string();
        assert_eq!(server.client().get("n"), Some(total.clone().into_bytes()));
        assert_eq!(server.kill().start().client().get("n"), Some(total.into_bytes()));
    }
}

#[test]
fn cas_loops_add_up() {
    for len in [0, 70_000] {
        let [server, _] = servers();
        let each = tier(50, 300, 3000);
        let tail = random_bytes(1, len);
        let body = |count: u64| [format!("{count:08}").as_bytes(), &tail].concat();
        server.client().set("n", body(0));
        let lost: u64 = together(&server, |_, c| {
            let mut lost = 0;
            for _ in 0..each {
                loop {
                    let item = c.gets("n").expect("it is never deleted");
                    let count: u64 = std::str::from_utf8(&item.value[..8]).expect("digits").parse().expect("a number");
                    assert!(item.value == body(count), "a value of two halves");
                    match c.cas("n", body(count + 1), item.cas).as_str() {
                        "STORED" => break,
                        "EXISTS" => lost += 1,
                        reply => panic!("{reply}"),
                    }
                }
            }
            lost
        })
        .into_iter()
        .sum();
        println!("{lost} lost races with values of {len} bytes");
        assert!(server.client().get("n") == Some(body((CONNECTIONS * each) as u64)));
    }
}

#[test]
fn one_add_wins() {
    for server in servers() {
        let keys = tier(300, 2000, 20_000);
        let wins = together(&server, |id, c| {
            let mut wins = Vec::new();
            for key in 0..keys {
                let len = if key % 10 == 0 { 70_000 } else { 10 };
                match c.store("add", &format!("k{key}"), id as u32, 0, random_bytes(id as u64, len)).as_str() {
                    "STORED" => wins.push(key),
                    reply => assert_eq!(reply, "NOT_STORED"),
                }
            }
            wins
        });
        let mut c = server.client();
        for (id, wins) in wins.iter().enumerate() {
            for key in wins {
                let item = c.gets(&format!("k{key}")).expect("added");
                assert_eq!(item.flags as usize, id, "k{key} is the winner's");
                assert!(item.value == random_bytes(id as u64, item.value.len()), "k{key} is the winner's");
            }
        }
        assert_eq!(wins.iter().map(Vec::len).sum::<usize>(), keys, "one winner per key");
    }
}

#[test]
fn one_delete_wins() {
    for server in servers() {
        let keys = tier(300, 2000, 20_000);
        let mut c = server.client();
        for key in 0..keys {
            // Some with a deadline: those must be looked at before they are deleted.
            assert_eq!(c.store("set", &format!("k{key}"), 0, [0, 10_000][key % 2], "x"), "STORED");
        }
        let wins =
            together(&server, |_, c| (0..keys).filter(|key| c.ask(&format!("delete k{key}")) == "DELETED").count());
        assert_eq!(wins.iter().sum::<usize>(), keys, "one winner per key: {wins:?}");
        assert_eq!(c.stat("curr_items"), 0);
    }
}

#[test]
fn appends_do_not_get_lost() {
    for (each, len) in [(200, 10), (20, 5000)] {
        let [server, _] = servers();
        server.client().set("a", "");
        together(&server, |id, c| {
            for i in 0..each {
                let part = format!("<{id}.{i}{}>", "=".repeat(len));
                let verb = if i % 2 == 0 { "append" } else { "prepend" };
                assert_eq!(c.store(verb, "a", 0, 0, part), "STORED");
            }
        });
        let value = String::from_utf8(server.client().get("a").expect("there")).expect("text");
        let mut parts: Vec<&str> = value.trim_matches(['<', '>']).split("><").collect();
        assert_eq!(parts.len(), CONNECTIONS * each, "parts of {len} bytes");
        parts.sort_unstable();
        parts.dedup();
        assert_eq!(parts.len(), CONNECTIONS * each, "none twice");
    }
}

/// Readers see the one or the other of two values, whole, while they replace each other, a large one and a small one.
#[test]
fn values_are_never_mixed() {
    let [server, _] = servers();
    let values = [vec![b'a'; 100], random_bytes(1, 200_000), random_bytes(2, 66_000), vec![b'b'; 65_536]];
    server.client().set("a", &values[0]);
    let rounds = tier(300, 2000, 20_000);
    together(&server, |id, c| {
        for round in 0..rounds {
            match id % 2 {
                0 => c.set("a", &values[(round + id) % 4]),
                _ => {
                    let got = c.get("a").expect("it is never deleted");
                    assert!(values.contains(&got), "{} bytes of no value", got.len());
                }
            }
        }
    });
}

/// Disjoint keys on connections of all workers do not disturb each other.
#[test]
fn disjoint_keys() {
    for server in servers() {
        together(&server, |id, c| {
            for round in 0..300u64 {
                let (key, value) =
                    (format!("k{id}-{}", round % 20), random_bytes(round, 20 + (round as usize * 7919) % 9000));
                c.set(&key, &value);
                assert!(c.get(&key) == Some(value));
                if round % 3 == 0 {
                    assert_eq!(c.ask(&format!("delete {key}")), "DELETED");
                    assert!(c.get(&key).is_none());
                }
            }
        });
    }
}
