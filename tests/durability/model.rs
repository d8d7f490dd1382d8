//! Random operation sequences against a map that does the same, over the wire and across restarts and kills.

use crate::common::recipe::{Value, cases, value};
use crate::common::server::Plan;
use crate::common::util::tier;
use crate::common::{Client, Server};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// One step of a sequence. Keys are few, so that steps meet.
#[derive(Clone, Debug)]
enum Step {
    Store(&'static str, u8, u32, Value),
    /// With the right unique, or with a wrong one.
    Cas(u8, bool, Value),
    Get(u8),
    GetAll,
    Delete(u8),
    Incr(u8, u64),
    Decr(u8, u64),
    /// To a far deadline, to none, or into the past.
    Touch(u8, i64),
    Gat(u8, i64),
    FlushAll,
    Restart,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..5u8;
    let verb = prop_oneof![4 => Just("set"), 1 => Just("add"), 1 => Just("replace"), 2 => Just("append"), 1 => Just("prepend")];
    let expiry = prop_oneof![Just(0), Just(100_000), Just(-1)];
    prop_oneof![
        12 => (verb, key.clone(), any::<u32>(), value()).prop_map(|(verb, key, flags, value)| Step::Store(verb, key, flags, value)),
        3 => (key.clone(), any::<bool>(), value()).prop_map(|(key, right, value)| Step::Cas(key, right, value)),
        3 => key.clone().prop_map(Step::Get),
        2 => Just(Step::GetAll),
        3 => key.clone().prop_map(Step::Delete),
        3 => (key.clone(), 0..1000u64).prop_map(|(key, by)| Step::Incr(key, by)),
        2 => (key.clone(), 0..1000u64).prop_map(|(key, by)| Step::Decr(key, by)),
        2 => (key.clone(), expiry.clone()).prop_map(|(key, expiry)| Step::Touch(key, expiry)),
        1 => (key, expiry).prop_map(|(key, expiry)| Step::Gat(key, expiry)),
        1 => Just(Step::FlushAll),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
    ]
}

/// What a server should hold: flags and value by key.
type Model = BTreeMap<String, (u32, Vec<u8>)>;

/// A server and what it should hold.
struct Pair {
    server: Option<Server>,
    client: Client,
    model: Model,
}

impl Pair {
    fn new(plan: &Plan) -> Pair {
        let server = plan.start();
        let client = server.client();
        Pair { server: Some(server), client, model: Model::new() }
    }

    fn again(&mut self, end: fn(Server) -> Plan) {
        let server = end(self.server.take().expect("a server")).start();
        self.client = server.client();
        self.server = Some(server);
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Store(verb, key, flags, value) => self.store(verb, &name(*key), *flags, value.bytes()),
            Step::Cas(key, right, value) => self.cas(&name(*key), *right, value.bytes()),
            Step::Get(key) => self.get(&name(*key)),
            Step::GetAll => self.get_all(),
            Step::Delete(key) => self.delete(&name(*key)),
            Step::Incr(key, by) => self.count("incr", &name(*key), *by, u64::wrapping_add),
            Step::Decr(key, by) => self.count("decr", &name(*key), *by, u64::saturating_sub),
            Step::Touch(key, expiry) => self.touch(&name(*key), *expiry),
            Step::Gat(key, expiry) => self.gat(&name(*key), *expiry),
            Step::FlushAll => self.flush_all(),
            Step::Restart => self.again(Server::stop),
            Step::Kill => self.again(Server::kill),
        }
    }

    fn store(&mut self, verb: &str, key: &str, flags: u32, value: Vec<u8>) {
        let old = self.model.get(key).cloned();
        let new = match (verb, old) {
            ("add", Some(_)) | ("replace" | "append" | "prepend", None) => None,
            ("append", Some((flags, old))) => Some((flags, [old, value.clone()].concat())),
            ("prepend", Some((flags, old))) => Some((flags, [value.clone(), old].concat())),
            _ => Some((flags, value.clone())),
        };
        // Sequences that append without end would meet the limit of a value, which is another test's.
        if new.as_ref().is_some_and(|(_, value)| value.len() > 1_000_000) {
            return;
        }
        let wanted = if new.is_some() { "STORED" } else { "NOT_STORED" };
        assert_eq!(self.client.store(verb, key, flags, 0, value), wanted, "{verb} {key}");
        if let Some(new) = new {
            self.model.insert(key.to_string(), new);
        }
    }

    fn cas(&mut self, key: &str, right: bool, value: Vec<u8>) {
        let unique = self.client.gets(key).map(|item| item.cas);
        assert_eq!(unique.is_some(), self.model.contains_key(key), "gets {key}");
        let wanted = match (unique, right) {
            (None, _) => "NOT_FOUND",
            (Some(_), true) => "STORED",
            (Some(_), false) => "EXISTS",
        };
        let sent = unique.unwrap_or(1).wrapping_add(u64::from(!right));
        assert_eq!(self.client.cas(key, &value, sent), wanted, "cas {key}");
        if wanted == "STORED" {
            self.model.insert(key.to_string(), (0, value));
        }
    }

    fn get(&mut self, key: &str) {
        let found = self.client.gets(key).map(|item| (item.flags, item.value));
        assert!(found.as_ref() == self.model.get(key), "get {key}: {}", differ(found.as_ref(), self.model.get(key)));
    }

    fn get_all(&mut self) {
        let line: String = (0..5).map(|key| format!(" {}", name(key))).collect();
        self.client.send(format!("get{line}\r\n"));
        let found: Model = self.client.items().into_iter().map(|(key, item)| (key, (item.flags, item.value))).collect();
        for key in (0..5).map(name) {
            let (found, wanted) = (found.get(&key), self.model.get(&key));
            assert!(found == wanted, "get of all, {key}: {}", differ(found, wanted));
        }
    }

    fn delete(&mut self, key: &str) {
        let wanted = if self.model.remove(key).is_some() { "DELETED" } else { "NOT_FOUND" };
        assert_eq!(self.client.ask(&format!("delete {key}")), wanted, "delete {key}");
    }

    fn count(&mut self, verb: &str, key: &str, by: u64, operation: fn(u64, u64) -> u64) {
        let reply = self.client.ask(&format!("{verb} {key} {by}"));
        let Some((_, value)) = self.model.get_mut(key) else {
            return assert_eq!(reply, "NOT_FOUND");
        };
        let text = std::str::from_utf8(value).unwrap_or("x");
        let Ok(number) = text.trim_end_matches(' ').parse::<u64>() else {
            return assert!(reply.starts_with("CLIENT_ERROR cannot increment"), "{verb} {key}: {reply}");
        };
        let result = operation(number, by).to_string();
        assert_eq!(reply, result, "{verb} {key} {by} of {number}");
        *value = format!("{result:<width$}", width = value.len()).into_bytes();
    }

    fn touch(&mut self, key: &str, expiry: i64) {
        let wanted = if self.model.contains_key(key) { "TOUCHED" } else { "NOT_FOUND" };
        assert_eq!(self.client.ask(&format!("touch {key} {expiry}")), wanted, "touch {key} {expiry}");
        self.expire(key, expiry);
    }

    fn gat(&mut self, key: &str, expiry: i64) {
        self.client.send(format!("gat {expiry} {key}\r\n"));
        let found = self.client.items().pop().map(|(_, item)| (item.flags, item.value));
        assert!(found.as_ref() == self.model.get(key), "gat {key}: {}", differ(found.as_ref(), self.model.get(key)));
        self.expire(key, expiry);
    }

    fn expire(&mut self, key: &str, expiry: i64) {
        if expiry < 0 {
            self.model.remove(key);
        }
    }

    fn flush_all(&mut self) {
        assert_eq!(self.client.ask("flush_all"), "OK");
        self.model.clear();
    }
}

fn name(key: u8) -> String {
    // One of them is long.
    if key == 4 { "k".repeat(250) } else { format!("key{key}") }
}

fn differ(found: Option<&(u32, Vec<u8>)>, wanted: Option<&(u32, Vec<u8>)>) -> String {
    let short = |item: Option<&(u32, Vec<u8>)>| {
        item.map(|(flags, value)| {
            format!("flags {flags}, {} bytes: {}", value.len(), value[..value.len().min(40)].escape_ascii())
        })
    };
    format!("found {:?}, wanted {:?}", short(found), short(wanted))
}

#[test]
fn sequences_over_the_wire() {
    let count = tier(30, 200, 3000);
    let steps = proptest::collection::vec(step(), 1..60);
    cases(count)
        .run(&steps, |steps| {
            let mut pair = Pair::new(&Plan::new(&[]));
            for step in &steps {
                pair.run(step);
            }
            pair.get_all();
            pair.again(Server::kill);
            pair.get_all();
            pair.again(Server::stop);
            pair.get_all();
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    println!("sequences: {count} of {count}");
}
