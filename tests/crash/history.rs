//! What a trace promises: the records that the server wrote to its log, in the order of the log; the commands that it received
//! and the replies that it sent; and with these, from when on a crash must leave at least how much.

use super::files::{Change, Edit, Files, Names, parent};
use super::trace::{Call, NEVER};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// A record of the log that changes what keys mean.
pub struct Record {
    /// No key: all of them.
    pub key: Option<String>,
    pub value: Option<Vec<u8>>,
    /// From when on every crash must leave it: it is on the disk, and all before it.
    pub safe: usize,
    /// When the reply that tells of it left.
    pub told: usize,
}

/// A command that changes a key, and its reply.
struct Command {
    key: String,
    value: Option<Vec<u8>>,
    deletes: bool,
    reply: Option<(String, usize)>,
}

/// What a connection received and sent.
struct Connection {
    /// When it received something first.
    begun: usize,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Where the output ended when.
    sent: Vec<(usize, usize)>,
}

/// The connections of a trace.
#[derive(Default)]
pub struct Dialogues {
    /// In the order of their beginnings.
    all: Vec<Connection>,
    /// Which one a descriptor means.
    open: HashMap<i64, usize>,
}

impl Dialogues {
    /// Takes the calls in the order of their effects.
    pub fn apply(&mut self, call: &Call) {
        match call.name.as_str() {
            "accept4" if call.result >= 0 => {
                self.open.insert(call.result, self.all.len());
                self.all.push(Connection::new());
            }
            "fcntl" if call.has_flag(1, "F_DUPFD_CLOEXEC") => {
                if let Some(connection) = self.open.get(&call.number(0)).copied() {
                    self.open.insert(call.result, connection);
                }
            }
            "close" => drop(self.open.remove(&call.number(0))),
            "recvfrom" | "readv" | "read" | "sendto" | "sendmsg" | "write" if call.result >= 0 => self.transfer(call),
            _ => {}
        }
    }

    fn transfer(&mut self, call: &Call) {
        let Some(connection) = self.open.get(&call.number(0)).map(|index| &mut self.all[*index]) else { return };
        let reads = matches!(call.name.as_str(), "recvfrom" | "readv" | "read");
        if reads && call.ended == NEVER {
            return; // Killed in it: the trace has an address where the bytes would be, and nothing came of them.
        }
        let sliced = matches!(call.name.as_str(), "readv" | "sendmsg");
        let mut bytes = if sliced { call.slices() } else { call.bytes(1) };
        // A client may have its reply before the server has come back from sending it, and is killed: clients await all.
        if call.ended != NEVER {
            bytes.truncate(call.result as usize);
        }
        if reads {
            connection.begun = connection.begun.min(call.begun);
            return connection.input.extend(bytes);
        }
        connection.output.extend(bytes);
        connection.sent.push((connection.output.len(), call.begun));
    }

    /// The process ended.
    pub fn end(&mut self) {
        self.open.clear();
    }

    /// When a backup was asked for, and when it was said to be done.
    pub fn backup(&self) -> Option<(usize, usize)> {
        let connection = self.all.iter().find(|connection| connection.input.starts_with(b"backup "))?;
        let done = connection.output.windows(4).any(|bytes| bytes == b"\nok " || connection.output.starts_with(b"ok "));
        assert!(done, "the backup failed: {}", connection.output.escape_ascii());
        Some((connection.begun, connection.sent.last()?.1))
    }

    /// The commands that made records, by key, in order.
    fn effective(&self) -> HashMap<String, VecDeque<Command>> {
        let mut all: HashMap<String, VecDeque<Command>> = HashMap::new();
        let clients = self.all.iter().filter(|connection| !connection.is_admin());
        // What keys have, as far as the connections so far have changed it: each has keys of its own.
        let mut newest = HashMap::new();
        for command in clients.flat_map(|connection| connection.commands(&mut newest)) {
            let reply = command.reply.as_ref().map_or("", |(reply, _)| reply);
            if matches!(reply, "STORED" | "DELETED" | "OK" | "") {
                all.entry(command.key.clone()).or_default().push_back(command);
            }
        }
        all
    }
}

impl Connection {
    fn new() -> Connection {
        Connection { begun: NEVER, input: Vec::new(), output: Vec::new(), sent: Vec::new() }
    }

    /// Whether this is no client's, but a command's.
    fn is_admin(&self) -> bool {
        self.input.starts_with(b"backup ") || self.input.starts_with(b"compact")
    }

    fn commands(&self, newest: &mut HashMap<String, Option<Vec<u8>>>) -> Vec<Command> {
        let mut commands = Vec::new();
        // Of the upload under way: in their order, one upload at a time, without replies.
        let mut parts: Vec<&[u8]> = Vec::new();
        let mut replies = self.replies().into_iter();
        let mut rest = &self.input[..];
        while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
            let line = String::from_utf8_lossy(&rest[..end]).into_owned();
            let words: Vec<&str> = line.split(' ').collect();
            rest = &rest[end + 2..];
            let (key, value) = match words[0] {
                "append" | "prepend" => {
                    let len: usize = words[4].parse().expect("a length");
                    if rest.len() < len + 2 {
                        break;
                    }
                    let added = &rest[..len];
                    rest = &rest[len + 2..];
                    let old = newest.get(words[1]).cloned().flatten();
                    let join = |old: Vec<u8>| match words[0] {
                        "append" => [&old[..], added].concat(),
                        _ => [added, &old[..]].concat(),
                    };
                    (words[1], old.map(join))
                }
                "set" => {
                    let len: usize = words[4].parse().expect("a length");
                    if rest.len() < len + 2 {
                        break;
                    }
                    let value = rest[..len].to_vec();
                    rest = &rest[len + 2..];
                    // One with a deadline is gone when the states are looked at.
                    (words[1], (words[3] == "0").then_some(value))
                }
                "part" => {
                    let len: usize = words[3].parse().expect("a length");
                    if rest.len() < len + 2 {
                        break;
                    }
                    parts.push(&rest[..len]);
                    rest = &rest[len + 2..];
                    continue;
                }
                "commit" => (words[2], Some(std::mem::take(&mut parts).concat())),
                "delete" => (words[1], None),
                "flush_all" => ("", None),
                other => panic!("no rule for the command {other}"),
            };
            let deletes = words[0] == "delete";
            match key {
                "" => newest.clear(),
                key => drop(newest.insert(key.to_string(), value.clone())),
            }
            commands.push(Command { key: key.to_string(), value, deletes, reply: replies.next() });
        }
        commands
    }

    /// Each line, and when its last byte left.
    fn replies(&self) -> Vec<(String, usize)> {
        let mut replies = Vec::new();
        let mut start = 0;
        while let Some(len) = self.output[start..].windows(2).position(|two| two == b"\r\n") {
            let text = String::from_utf8_lossy(&self.output[start..start + len]).into_owned();
            start += len + 2;
            let (_, sent) = self.sent.iter().find(|(end, _)| *end >= start).expect("it was sent");
            replies.push((text, *sent));
        }
        replies
    }
}

/// A record as it lies in a segment.
struct Raw {
    position: (u64, u64),
    kind: u8,
    key: String,
    safe: usize,
}

/// The records in the order of the log, with what the commands say of them.
pub fn records(files: &Files, dialogues: &Dialogues, root: &str) -> Vec<Record> {
    let mut raw: Vec<Raw> = (0..files.inodes.len()).flat_map(|inode| raw_records(files, inode, root)).collect();
    raw.sort_by_key(|record| record.position);
    // A start writes again what was not synced.
    raw.dedup_by_key(|record| record.position);
    let mut commands = dialogues.effective();
    let (mut records, mut safe) = (Vec::new(), 0);
    for raw in raw {
        safe = raw.safe.max(safe);
        // 1 to 3 carry a key, 5 is the flush that fired.
        if !matches!(raw.kind, 1..=3 | 5) {
            continue;
        }
        let command = commands.get_mut(&raw.key).and_then(VecDeque::pop_front);
        let command = command.unwrap_or_else(|| panic!("a record of {:?} that no command asked for", raw.key));
        assert_eq!(raw.kind == 3, command.deletes, "kind of a record of {}", raw.key);
        let told = command.reply.map_or(NEVER, |(_, sent)| sent);
        records.push(Record { key: (raw.kind != 5).then_some(raw.key), value: command.value, safe, told });
    }
    let left: usize = commands.values().flatten().filter(|command| command.reply.is_some()).count();
    assert_eq!(left, 0, "commands were acknowledged without a record in the log");
    records
}

fn raw_records(files: &Files, inode: usize, root: &str) -> Vec<Raw> {
    let edits = &files.inodes[inode].edits;
    let Some((header, header_safe)) = edits.iter().find_map(segment_header) else { return Vec::new() };
    if header[40] & 1 != 0 {
        return Vec::new(); // compacted: copies
    }
    let order = u64::from_le_bytes(header[24..32].try_into().expect("8 bytes"));
    let name = files.names.iter().find(|change| change.what.iter().any(|(_, of)| *of == Some(inode)));
    let name = name.expect("a file has a name");
    if !name.what.iter().any(|(path, _)| parent(path) == root) {
        return Vec::new(); // a backup: copies
    }
    let file_safe = name.safe.max(header_safe);
    let mut found = Vec::new();
    for edit in edits {
        let Edit::Write(start, bytes) = &edit.what else { continue };
        let mut at = if *start < 64 { 64 - *start as usize } else { 0 };
        while at + 24 <= bytes.len() && bytes[at + 4] != 0 {
            let word = |from: usize| u32::from_le_bytes(bytes[at + from..at + from + 4].try_into().expect("4 bytes"));
            let (flags, key_len, body_len) = (bytes[at + 5], (word(4) >> 16) as usize, word(8) as usize);
            let head = 24 + if flags & 2 != 0 { 8 } else { 0 } + if flags & 4 != 0 { 8 } else { 0 };
            if at + head + key_len + body_len > bytes.len() {
                break; // a kill cut the write short
            }
            let key = String::from_utf8_lossy(&bytes[at + head..at + head + key_len]).into_owned();
            let body = &bytes[at + head + key_len..at + head + key_len + body_len];
            let pieces = if bytes[at + 4] == 2 { pieces(body) } else { Vec::new() };
            let value_safe =
                pieces.into_iter().map(|piece| extent_safe(files, name, piece, edit.begun)).max().unwrap_or(0);
            let safe = edit.safe.max(file_safe).max(value_safe);
            found.push(Raw { position: (order, start + at as u64), kind: bytes[at + 4], key, safe });
            at += (head + key_len + body_len).next_multiple_of(8);
        }
    }
    found
}

fn segment_header(edit: &Change<Edit>) -> Option<(&Vec<u8>, usize)> {
    match &edit.what {
        Edit::Write(0, bytes) if bytes.len() >= 64 && bytes.starts_with(b"KDBSEGMT") => Some((bytes, edit.safe)),
        _ => None,
    }
}

/// File, start and length of the ranges that the record of a large value names.
fn pieces(body: &[u8]) -> Vec<(u32, u64, u64)> {
    let word = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().expect("4 bytes"));
    let number = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("8 bytes"));
    let piece = |at: usize| (word(at), number(at + 8), number(at + 16).next_multiple_of(4096));
    if word(4) == 0 {
        return vec![piece(0)];
    }
    let (mut at, mut all) = (16, Vec::new());
    while at < body.len() {
        all.push(piece(at));
        at += 24 + 8 * (word(at + 4) & !(1 << 31)) as usize;
    }
    all
}

/// When the bytes of a range were safe.
fn extent_safe(files: &Files, beside: &Change<Names>, (file, base, len): (u32, u64, u64), before: usize) -> usize {
    let path = format!("{}/{file:08x}.ext", parent(&beside.what[0].0));
    let names = |change: &&Change<Names>| change.what.iter().any(|(name, inode)| *name == path && inode.is_some());
    let name = files.names.iter().find(names).expect("the extent file was made");
    let inode = name.what.iter().find_map(|(_, inode)| *inode).expect("its inode");
    let inside = |change: &&Change<Edit>| {
        change.begun < before
            && matches!(change.what, Edit::Write(at, _) if at == 0 || (base..base + len).contains(&at))
    };
    files.inodes[inode].edits.iter().filter(inside).map(|change| change.safe).fold(name.safe, usize::max)
}

/// Which records must be there.
#[derive(Clone, Copy)]
pub enum Demands {
    /// Those that the disk has, by the rules.
    Safe,
    /// Those that a reply told of.
    Told,
    Both,
    /// Those that a reply told of by this time.
    ToldBy(usize),
}

/// The numbers of the records after which a key's value changes, and the values.
type Versions<'a> = Vec<(usize, Option<&'a [u8]>)>;

/// What a state of the store may be.
pub struct Expected<'a> {
    pub records: &'a [Record],
    versions: BTreeMap<&'a str, Versions<'a>>,
}

impl<'a> Expected<'a> {
    pub fn new(records: &'a [Record]) -> Expected<'a> {
        let keys = records.iter().filter_map(|record| record.key.as_deref());
        let mut versions: BTreeMap<&str, Versions<'a>> = keys.map(|key| (key, vec![(0, None)])).collect();
        for (index, record) in records.iter().enumerate() {
            match &record.key {
                Some(key) => versions.get_mut(key.as_str()).expect("known").push((index + 1, record.value.as_deref())),
                None => versions.values_mut().for_each(|versions| versions.push((index + 1, None))),
            }
        }
        Expected { records, versions }
    }

    pub fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.versions.keys().copied()
    }

    /// How many records a crash at `time` must leave.
    pub fn least(&self, time: usize, demands: Demands) -> usize {
        let bound = |record: &Record| match demands {
            Demands::Safe => record.safe <= time,
            Demands::Told => record.told <= time,
            Demands::Both => record.safe.min(record.told) <= time,
            Demands::ToldBy(by) => record.told <= by,
        };
        self.records.iter().rposition(bound).map_or(0, |last| last + 1)
    }

    /// The greatest count of records after which the store would be as `found`; or what speaks against there being one of at
    /// least `least`.
    pub fn place(&self, found: &BTreeMap<&str, Option<Vec<u8>>>, least: usize) -> Result<usize, String> {
        let mut agree = vec![0_i32; self.records.len() + 2];
        for (key, versions) in &self.versions {
            let found = found[key].as_deref();
            for (index, (from, value)) in versions.iter().enumerate().filter(|(_, (_, value))| *value == found) {
                let _ = (value, &mut agree[*from]);
                let until = versions.get(index + 1).map_or(self.records.len() + 1, |(next, _)| *next);
                agree[*from] += 1;
                agree[until] -= 1;
            }
        }
        let mut sum = 0;
        let sums: Vec<i32> = agree
            .iter()
            .map(|step| {
                sum += step;
                sum
            })
            .take(self.records.len() + 1)
            .collect();
        let all = self.versions.len() as i32;
        match sums.iter().rposition(|sum| *sum == all) {
            Some(count) if count >= least => Ok(count),
            Some(count) => Err(format!("as after {count} records, {least} had to be there")),
            None => {
                let (best, _) = sums
                    .iter()
                    .enumerate()
                    .skip(least.min(self.records.len()))
                    .max_by_key(|(_, sum)| **sum)
                    .expect("not empty");
                Err(self.difference(found, best))
            }
        }
    }

    fn difference(&self, found: &BTreeMap<&str, Option<Vec<u8>>>, at: usize) -> String {
        let mut text = format!("not the state after any number of records; nearest is after {at}:");
        for (key, versions) in &self.versions {
            let wanted = versions.iter().rfind(|(from, _)| *from <= at).expect("the first is at 0").1;
            let found = found[key].as_deref();
            if found != wanted {
                let which = versions.iter().filter(|(_, value)| *value == found).map(|(from, _)| from);
                let len =
                    |value: Option<&[u8]>| value.map_or("nothing".into(), |value| format!("{} bytes", value.len()));
                text += &format!(
                    " {key}: found {} (its value after {:?}), not {};",
                    len(found),
                    which.collect::<Vec<_>>(),
                    len(wanted)
                );
            }
        }
        text
    }
}
