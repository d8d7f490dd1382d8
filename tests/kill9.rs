//! kill -9 in the middle of a write load: every write that was acknowledged is there with its right value; one that
//! was not may be there or not, but whole. The control run counts a write as acknowledged when it is merely sent,
//! and must find losses: so the checker can see one.

mod common;

use common::client::storage;
use common::server::Plan;
use common::util::{Random, counted, random_bytes, tier};
use common::{Client, Server};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// What a key may hold: the state after the last acknowledged command, then one state per command that is still
/// unanswered.
type States = Vec<Option<Vec<u8>>>;

/// One connection's share of the load: keys of its own, so that its model is exact.
struct Writer {
    id: usize,
    random: Random,
    keys: BTreeMap<String, States>,
    acknowledged: usize,
}

/// When the client takes a write as kept.
#[derive(Clone, Copy, PartialEq)]
enum Believes {
    Replies,
    /// The control: sending is enough.
    Sending,
}

impl Writer {
    fn new(id: usize) -> Writer {
        Writer { id, random: Random::new(id as u64 + 77), keys: BTreeMap::new(), acknowledged: 0 }
    }

    /// Writes, `depth` commands in flight, until the server is gone.
    fn run(&mut self, address: SocketAddr, depth: usize, believes: Believes) {
        let Ok(mut client) = Client::try_connect(address) else {
            return;
        };
        let mut flying = VecDeque::new();
        loop {
            if depth == 1 && self.random.below(10) == 0 && self.compare_and_swap(&mut client).is_err() {
                return;
            }
            while flying.len() < depth {
                let (key, command, reply) = self.next_command();
                if client.try_send(&command).is_err() {
                    return;
                }
                if believes == Believes::Sending {
                    self.settle(&key);
                }
                flying.push_back((key, command, reply));
            }
            let Ok(reply) = client.try_line() else { return };
            let (key, command, wanted) = flying.pop_front().expect("a command in flight");
            let start = &command[..command.len().min(60)];
            assert_eq!(reply, wanted, "reply to {}", start.escape_ascii());
            if believes == Believes::Replies {
                self.settle_one(&key);
            }
            self.acknowledged += 1;
        }
    }

    /// `gets` and `cas` with the unique that came.
    fn compare_and_swap(&mut self, client: &mut Client) -> std::io::Result<()> {
        let key = format!("k{}-{}", self.id, 8 + self.random.below(32));
        client.try_send(format!("gets {key}\r\n"))?;
        let unique = client.try_items()?.pop().map(|(_, item)| item.cas);
        let states = self.keys.entry(key.clone()).or_insert_with(|| vec![None]);
        assert_eq!(states.len(), 1, "nothing is in flight");
        assert_eq!(unique.is_some(), states[0].is_some(), "gets {key}");
        let value = random_bytes(self.random.next(), 3000);
        states.push(unique.and(Some(value.clone())));
        client.try_send(storage(&format!("cas {key} 0 0 3000 {}", unique.unwrap_or(1)), &value))?;
        let wanted = if unique.is_some() { "STORED" } else { "NOT_FOUND" };
        assert_eq!(client.try_line()?, wanted, "cas {key}");
        self.settle_one(&key);
        self.acknowledged += 1;
        Ok(())
    }

    /// A command, the key it changes and the reply that the model demands. Notes the state that it leads to.
    fn next_command(&mut self) -> (String, Vec<u8>, String) {
        let number = self.random.below(40);
        let key = if number < 8 { format!("n{}-{number}", self.id) } else { format!("k{}-{number}", self.id) };
        let states = self.keys.entry(key.clone()).or_insert_with(|| vec![None]);
        let old = states.last().expect("never empty").clone();
        if let Some(digits) = old.as_ref().filter(|_| number < 8 && self.random.below(20) > 0) {
            let value: u64 = std::str::from_utf8(digits).expect("digits").trim().parse().expect("a number");
            let sum = (value + 7).to_string();
            states.push(Some(sum.clone().into_bytes()));
            return (key.clone(), format!("incr {key} 7\r\n").into_bytes(), sum);
        }
        let len = [0, 10, 100, 1000, 5000, 70_000, 200_000][self.random.below(7)] + self.random.below(100);
        let value = if number < 8 { b"1000".to_vec() } else { random_bytes(self.random.next(), len) };
        let (line, reply, new) = match (self.random.below(10), old) {
            (0 | 1, None) => (format!("delete {key}\r\n"), "NOT_FOUND", None),
            (0 | 1, Some(_)) => (format!("delete {key}\r\n"), "DELETED", None),
            (2 | 3, old) if number >= 8 && old.as_ref().is_none_or(|old| old.len() < 400_000) => match old {
                None => ("append".to_string(), "NOT_STORED", None),
                Some(old) => ("append".to_string(), "STORED", Some([&old[..], &value].concat())),
            },
            (4, Some(old)) => ("add".to_string(), "NOT_STORED", Some(old)),
            (4, None) => ("add".to_string(), "STORED", Some(value.clone())),
            (5, None) => ("replace".to_string(), "NOT_STORED", None),
            (6, Some(old)) => (format!("touch {key} 100000\r\n"), "TOUCHED", Some(old)),
            _ => ("set".to_string(), "STORED", Some(value.clone())),
        };
        states.push(new);
        let command = match line.ends_with('\n') {
            true => line.into_bytes(),
            false => storage(&format!("{line} {key} 0 0 {}", value.len()), &value),
        };
        (key, command, reply.to_string())
    }

    /// The oldest unanswered command of this key was acknowledged.
    fn settle_one(&mut self, key: &str) {
        self.keys.get_mut(key).expect("it was changed").remove(0);
    }

    /// The newest state is taken for kept.
    fn settle(&mut self, key: &str) {
        let states = self.keys.get_mut(key).expect("it was changed");
        states.drain(..states.len() - 1);
    }

    /// Reads every key; gives the ones with a value that they can not have. What is there is the state to go on from.
    fn check(&mut self, client: &mut Client) -> Vec<String> {
        let mut wrong = Vec::new();
        for (key, states) in &mut self.keys {
            let found = client.get(key).map(|value| match key.starts_with('n') {
                true => value.trim_ascii_end().to_vec(),
                false => value,
            });
            if !states.contains(&found) {
                let len = |state: &Option<Vec<u8>>| state.as_ref().map(Vec::len);
                wrong.push(format!(
                    "{key}: found {:?}, may be {:?}",
                    len(&found),
                    states.iter().map(len).collect::<Vec<_>>()
                ));
            }
            *states = vec![found];
        }
        wrong
    }
}

/// Kills the server `kills` times under load; gives what was wrong afterwards, and how many writes were acknowledged.
fn kill_cycles(kills: usize, args: &[&str], believes: Believes) -> (Vec<String>, usize) {
    let plan = Plan::new(args);
    let mut writers: Vec<Writer> = (0..4).map(Writer::new).collect();
    let mut random = Random::new(args.len() as u64 + 5);
    let mut wrong = Vec::new();
    for kill in 0..kills {
        let server = plan.start();
        let address = server.address();
        // Unpipelined, a few in flight, and many.
        let depth = |id: usize| {
            if believes == Believes::Sending { 400 } else { [1, 1, 8, 64][id] }
        };
        let wait = Duration::from_millis(30 + random.below(200) as u64);
        std::thread::scope(|scope| {
            for (id, writer) in writers.iter_mut().enumerate() {
                scope.spawn(move || writer.run(address, depth(id), believes));
            }
            std::thread::sleep(wait);
            server.kill()
        });
        if kill % 4 == 1 {
            // The next start is killed, too, wherever it is by then.
            let starting = plan.spawn();
            std::thread::sleep(Duration::from_millis(random.below(30) as u64));
            starting.kill();
        }
        let server = plan.start();
        let mut client = server.client();
        for writer in &mut writers {
            wrong.extend(writer.check(&mut client).into_iter().map(|what| format!("kill {kill}, {what}")));
        }
        if kill % 2 == 0 {
            server.stop();
        } else {
            server.kill();
        }
    }
    (wrong, writers.iter().map(|writer| writer.acknowledged).sum())
}

fn every_acknowledged_write_is_there(mode: &str, kills: usize) {
    let (wrong, acknowledged) = kill_cycles(kills, &[&format!("--db.sync={mode}")], Believes::Replies);
    assert!(wrong.is_empty(), "--db.sync={mode}: {} of {acknowledged} writes: {wrong:#?}", wrong.len());
    println!("--db.sync={mode}: {acknowledged} acknowledged writes");
    counted("kills", kills, tier(3, 15, 50));
    assert!(acknowledged >= 20 * kills, "too little load to mean anything: {acknowledged} writes");
}

#[test]
fn interval() {
    every_acknowledged_write_is_there("interval", tier(4, 20, 60));
}

#[test]
fn always() {
    every_acknowledged_write_is_there("always", tier(3, 15, 50));
}

#[test]
fn none() {
    every_acknowledged_write_is_there("none", tier(3, 15, 50));
}

#[test]
fn control_that_must_lose() {
    let (wrong, _) = kill_cycles(3, &[], Believes::Sending);
    println!("control: {} losses seen", wrong.len());
    assert!(!wrong.is_empty(), "taking what was sent for kept must lose something, or the checker sees nothing");
}

/// A value that was being received is never visible, not even in part.
#[test]
fn half_a_value_leaves_nothing() {
    for len in [1000, 65_536, 70_000, 500_000] {
        let server = Server::start(&[]);
        let mut c = server.client();
        c.set("a", "old");
        let command = storage(&format!("set a 0 0 {len}"), &random_bytes(1, len));
        c.send(&command[..command.len() - 1]);
        // Answered after the bytes above were read, most likely; right in any case.
        assert_eq!(server.client().get("a").as_deref(), Some(&b"old"[..]));
        let server = server.kill().start();
        assert_eq!(server.client().get("a").as_deref(), Some(&b"old"[..]), "{len}");
    }
}
