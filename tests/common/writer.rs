//! The load of the crash tests: each writer has one connection and keys of its own, whose history it keeps.

use super::Client;
use super::client::storage;
use super::history::History;
use super::util::{Random, random_bytes};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// A value that is so long is not appended to. Bytes.
const LARGE: usize = 4_500_000;

/// One connection's share of the load.
pub struct Writer {
    id: usize,
    random: Random,
    pub history: History,
    pub acknowledged: usize,
}

/// When a writer takes a write as kept.
#[derive(Clone, Copy, PartialEq)]
pub enum Believes {
    Replies,
    /// For controls: sending is enough.
    Sending,
}

/// A command, the key it changes and the reply that the model demands.
struct Command {
    key: String,
    bytes: Vec<u8>,
    reply: String,
}

impl Writer {
    pub fn new(id: usize) -> Writer {
        Writer { id, random: Random::new(id as u64 + 77), history: History::default(), acknowledged: 0 }
    }

    /// Writes, `depth` commands in flight, until the server is gone or, after `failing` was set, answers with an error.
    pub fn run(&mut self, address: SocketAddr, depth: usize, believes: Believes, failing: &AtomicBool) {
        let Ok(mut client) = Client::try_connect(address) else {
            return;
        };
        let mut flying = VecDeque::new();
        loop {
            if depth == 1 && self.random.below(10) == 0 && self.compare_and_swap(&mut client, failing).is_err() {
                return;
            }
            while flying.len() < depth {
                let command = self.next_command();
                if client.try_send(&command.bytes).is_err() {
                    return;
                }
                if believes == Believes::Sending {
                    self.history.believe(&command.key);
                }
                flying.push_back(command);
            }
            let Ok(reply) = client.try_line() else { return };
            let command = flying.pop_front().expect("a command in flight");
            // A part that failed says nothing; its commit tells that it is missing.
            let lacks_parts = command.bytes.starts_with(b"part ") && reply != command.reply && failing.load(SeqCst);
            if is_end(&reply, failing) || lacks_parts {
                return;
            }
            let start = &command.bytes[..command.bytes.len().min(60)];
            assert_eq!(reply, command.reply, "reply to {}", start.escape_ascii());
            self.history.acknowledge(&command.key);
            self.acknowledged += 1;
        }
    }

    /// `gets` and `cas` with the unique that came.
    fn compare_and_swap(&mut self, client: &mut Client, failing: &AtomicBool) -> std::io::Result<()> {
        let key = format!("k{}-{}", self.id, 8 + self.random.below(32));
        client.try_send(format!("gets {key}\r\n"))?;
        let unique = match client.try_items() {
            Ok(mut items) => items.pop().map(|(_, item)| item.cas),
            Err(error) if failing.load(SeqCst) => return Err(error),
            Err(error) if error.kind() == std::io::ErrorKind::Other => panic!("gets {key}: {error}"),
            Err(error) => return Err(error),
        };
        assert_eq!(unique.is_some(), self.history.newest(&key).is_some(), "gets {key}");
        let value = random_bytes(self.random.next(), 3000);
        self.history.attempt(&key, unique.and(Some(value.clone())));
        client.try_send(storage(&format!("cas {key} 0 0 3000 {}", unique.unwrap_or(1)), &value))?;
        let wanted = if unique.is_some() { "STORED" } else { "NOT_FOUND" };
        let reply = client.try_line()?;
        if is_end(&reply, failing) {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        assert_eq!(reply, wanted, "cas {key}");
        self.history.acknowledge(&key);
        self.acknowledged += 1;
        Ok(())
    }

    /// Notes the state that the command leads to.
    fn next_command(&mut self) -> Command {
        let number = self.random.below(40);
        let key = if number < 8 { format!("n{}-{number}", self.id) } else { format!("k{}-{number}", self.id) };
        let old = self.history.newest(&key).cloned();
        if let Some(digits) = old.as_ref().filter(|_| number < 8 && self.random.below(20) > 0) {
            let value: u64 = std::str::from_utf8(digits).expect("digits").trim().parse().expect("a number");
            let reply = (value + 7).to_string();
            self.history.attempt(&key, Some(reply.clone().into_bytes()));
            return Command { bytes: format!("incr {key} 7\r\n").into_bytes(), key, reply };
        }
        let len = [0, 10, 100, 1000, 5000, 30_000, 70_000, 200_000][self.random.below(8)] + self.random.below(100);
        // Now and then one whose table is not in its record.
        let len = if self.random.below(200) == 0 { LARGE } else { len };
        let value = if number < 8 { b"1000".to_vec() } else { random_bytes(self.random.next(), len) };
        let (line, reply, new) = match (self.random.below(10), old) {
            (0 | 1, None) => (format!("delete {key}\r\n"), "NOT_FOUND", None),
            (0 | 1, Some(_)) => (format!("delete {key}\r\n"), "DELETED", None),
            (2, old) if number >= 8 && old.as_ref().is_none_or(|old| old.len() < LARGE) => match old {
                None => ("append".to_string(), "NOT_STORED", None),
                Some(old) => ("append".to_string(), "STORED", Some([&old[..], &value].concat())),
            },
            (3, old) if number >= 8 && old.as_ref().is_none_or(|old| old.len() < LARGE) => match old {
                None => ("prepend".to_string(), "NOT_STORED", None),
                Some(old) => ("prepend".to_string(), "STORED", Some([&value[..], &old].concat())),
            },
            (4, Some(old)) => ("add".to_string(), "NOT_STORED", Some(old)),
            (4, None) => ("add".to_string(), "STORED", Some(value.clone())),
            (5, None) => ("replace".to_string(), "NOT_STORED", None),
            (6, Some(old)) => (format!("touch {key} 100000\r\n"), "TOUCHED", Some(old)),
            // In a few parts, or in so many that they are joined.
            (7, _) if number >= 8 && value.len() >= 100 => {
                let len = value.len().div_ceil([3, 3, 3, 80][self.random.below(4)]);
                return self.upload(key, value, len);
            }
            _ => ("set".to_string(), "STORED", Some(value.clone())),
        };
        self.history.attempt(&key, new);
        let bytes = match line.ends_with('\n') {
            true => line.into_bytes(),
            false => storage(&format!("{line} {key} 0 0 {}", value.len()), &value),
        };
        Command { key, bytes, reply: reply.to_string() }
    }

    /// The value in parts of `len` bytes, and their commit.
    fn upload(&mut self, key: String, value: Vec<u8>, len: usize) -> Command {
        let parts = value.chunks(len).zip(1..);
        let mut bytes: Vec<u8> = parts
            .flat_map(|(part, number)| storage(&format!("part {key} {number} {} noreply", part.len()), part))
            .collect();
        bytes.extend_from_slice(format!("commit {key} {key} 0 0 {}\r\n", value.len().div_ceil(len)).as_bytes());
        self.history.attempt(&key, Some(value));
        Command { key, bytes, reply: "STORED".to_string() }
    }
}

fn is_end(reply: &str, failing: &AtomicBool) -> bool {
    reply.starts_with("SERVER_ERROR") && failing.load(SeqCst)
}
