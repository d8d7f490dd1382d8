//! Long answers that the disk lane makes: dumps of all keys, the removal of all keys with a prefix. The work is done in
//! bounded pieces. A piece is asked for when the one before it is on its way to the client, so that a client that reads
//! slowly holds up nobody. But what is removed meanwhile keeps its disk space: who takes nothing of a piece for as long as a
//! request may take is sent away.

use super::answer;
use super::context::{Context, Step, Waiting};
use super::inbox::{Answer, Census, Letter};
use super::proto::base64;
use super::reply;
use kingdb::store::{BINARY_KEY, Item, Iter, Position, View};
use kingdb::{Db, Error};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A piece's text ends beyond this. Bytes.
const PIECE: usize = 32 * 1024;
/// What one holds: a window of the log and what was found in it, the positions of a part of the index, a piece's text. Bytes.
pub const HOLDS: usize = 400 << 10;
/// A piece looks at so many records at most.
const RECORDS: usize = 4096;

/// Which records a dump or a removal is about, and what is to be said or done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `lru_crawler metadump`
    Metadump,
    /// `lru_crawler mgdump`
    Mgdump,
    /// `stats cachedump`, of so many records yet.
    Cachedump { left: u64 },
    /// `delete_prefix`
    Remove { noreply: bool },
}

/// The work, between two pieces.
pub struct Work {
    db: Arc<Db>,
    kind: Kind,
    prefix: Box<[u8]>,
    /// `None`: it has not begun.
    records: Option<Iter>,
    removed: u64,
    /// The reply waits for this place in the log.
    depends: Position,
    text: Vec<u8>,
    over: bool,
}

/// See the module's head.
pub enum Errand {
    /// The next piece is to be asked for.
    Next(Box<Work>),
    Away,
    /// A piece came.
    Came(Box<Work>),
}

impl Errand {
    /// Of the records whose keys begin with `prefix`.
    pub fn new(kind: Kind, prefix: &[u8], db: Arc<Db>) -> Box<Self> {
        let (records, text) = (None, Vec::new());
        let depends = Position::default();
        let work = Work { db, kind, prefix: prefix.into(), records, removed: 0, depends, text, over: false };
        Box::new(Self::Next(Box::new(work)))
    }

    /// All workers are asked for their connections. `None`: they are being asked already.
    pub fn census(ctx: &Context) -> Option<Box<Self>> {
        if ctx.shared.census.swap(true, Ordering::Relaxed) {
            return None;
        }
        let inboxes = &ctx.shared.inboxes;
        let census = Arc::new(Census {
            token: ctx.token,
            inbox: ctx.inbox.clone(),
            shared: ctx.shared.clone(),
            db: ctx.db.clone(),
            text: Mutex::default(),
            missing: AtomicUsize::new(inboxes.len()),
        });
        for inbox in inboxes {
            inbox.post(Letter { token: ctx.token, answer: Answer::Census(census.clone()) });
        }
        Some(Box::new(Self::Away))
    }

    /// The lane's answer.
    pub fn came(&mut self, work: Box<Work>) {
        *self = Self::Came(work);
    }

    /// Says the piece that came, and asks for the next one.
    pub fn step(&mut self, ctx: &mut Context) -> Step {
        match std::mem::replace(self, Self::Away) {
            Self::Away => Step::Wait(Waiting::Lane),
            Self::Next(mut work) => {
                let answer = ctx.answer_later();
                ctx.db.submit_scan(Box::new(move || {
                    work.run();
                    answer(Answer::Piece(work));
                }));
                Step::Wait(Waiting::Lane)
            }
            Self::Came(mut work) => {
                ctx.say(&work.text);
                ctx.depend(work.depends);
                if work.over {
                    return Step::Done;
                }
                work.text.clear();
                *self = Self::Next(work);
                Step::Wait(Waiting::Turn)
            }
        }
    }
}

impl Work {
    /// One that is done and came to this text.
    pub fn done(db: Arc<Db>, text: Vec<u8>) -> Box<Work> {
        let (kind, prefix, depends) = (Kind::Mgdump, Box::default(), Position::default());
        Box::new(Self { db, kind, prefix, records: None, removed: 0, depends, text, over: true })
    }

    /// One piece. On the lane.
    fn run(&mut self) {
        if let Err(error) = self.advance() {
            answer::note_damage(&error);
            reply::store_error(&mut self.text, &error);
            self.over = true;
        }
        if let Kind::Remove { noreply } = self.kind {
            // The worker writes for those who say something.
            self.db.write_out();
            if noreply {
                self.text.clear();
            }
        }
    }

    fn advance(&mut self) -> Result<(), Error> {
        let mut records = match self.records.take() {
            Some(records) => records,
            None => {
                if let Kind::Metadump | Kind::Mgdump = self.kind {
                    self.text.extend_from_slice(reply::OK);
                }
                self.db.iter()?
            }
        };
        let (mut found, mut damage) = (Vec::new(), Ok(()));
        for _ in 0..RECORDS {
            if self.text.len() + found.len() * 64 >= PIECE {
                break;
            }
            let item = match records.next() {
                Some(Ok(item)) => item,
                end => {
                    self.over = true;
                    damage = end.transpose().map(drop);
                    break;
                }
            };
            match &mut self.kind {
                _ if !item.key.starts_with(&self.prefix) => {}
                Kind::Metadump => metadump(&item, &mut self.text),
                Kind::Mgdump => mgdump(&item, &mut self.text),
                Kind::Cachedump { .. } if !is_plain(&item.key) => {}
                Kind::Cachedump { left } => {
                    cachedump(&item, &mut self.text);
                    *left -= 1;
                    self.over = *left == 0;
                    if self.over {
                        break;
                    }
                }
                Kind::Remove { .. } => found.push((item.key, item.cas)),
            }
        }
        for (key, cas) in found {
            if let Some(depends) = self.db.remove_version(&key, cas)? {
                self.removed += 1;
                self.depends = self.depends.max(depends);
            }
        }
        damage?;
        match (self.over, self.kind) {
            (false, _) => self.records = Some(records),
            (true, Kind::Metadump | Kind::Cachedump { .. }) => self.text.extend_from_slice(reply::END),
            (true, Kind::Mgdump) => self.text.extend_from_slice(b"EN\r\n"),
            (true, Kind::Remove { .. }) => {
                self.text.extend_from_slice(b"DELETED ");
                reply::number(&mut self.text, self.removed);
                self.text.extend_from_slice(reply::LINE_END);
            }
        }
        Ok(())
    }
}

/// Whoever gives a dump up, loops among them, need not wait until what only its snapshot kept is gone from the disk.
impl Drop for Work {
    fn drop(&mut self) {
        if let Some(records) = self.records.take() {
            self.db.submit(Box::new(move || drop(records)));
        }
    }
}

fn mgdump(item: &Item, out: &mut Vec<u8>) {
    let key = &item.key;
    out.extend_from_slice(b"mg ");
    if item.marks & BINARY_KEY != 0 || !is_plain(key) {
        base64::encode(key, out);
        out.extend_from_slice(b" b");
    } else {
        out.extend_from_slice(key);
    }
    out.extend_from_slice(reply::LINE_END);
}

/// Whether a key can stand in a line of text as it is.
fn is_plain(key: &[u8]) -> bool {
    key.iter().all(|byte| *byte > b' ' && *byte != 0x7f)
}

fn metadump(item: &Item, out: &mut Vec<u8>) {
    out.extend_from_slice(b"key=");
    say_encoded(&item.key, out);
    out.extend_from_slice(b" exp=");
    match item.expires {
        0 => out.extend_from_slice(b"-1"),
        expires => reply::number(out, expires),
    }
    out.extend_from_slice(b" la=0 cas=");
    reply::number(out, item.cas);
    out.extend_from_slice(b" fetch=no cls=1 size=");
    reply::number(out, item.key.len() as u64 + item.value.len());
    out.extend_from_slice(b" flags=");
    reply::number(out, item.flags.into());
    out.extend_from_slice(b" \n");
}

fn cachedump(item: &Item, out: &mut Vec<u8>) {
    out.extend_from_slice(b"ITEM ");
    out.extend_from_slice(&item.key);
    out.extend_from_slice(b" [");
    reply::number(out, item.value.len());
    out.extend_from_slice(b" b; ");
    reply::number(out, item.expires);
    out.extend_from_slice(b" s]\r\n");
}

/// A key with all but letters, digits and `-._~` as `%` and two digits.
pub fn say_encoded(key: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in key {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(*byte),
            _ => out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kingdb::Options;
    use std::sync::mpsc;

    /// Files that were removed and that this process keeps on the disk, in the directory.
    fn kept(directory: &std::path::Path) -> usize {
        let names = std::fs::read_dir("/proc/self/fd").unwrap().flatten().filter_map(|fd| fd.path().read_link().ok());
        names.filter(|name| name.starts_with(directory) && name.to_string_lossy().ends_with("(deleted)")).count()
    }

    #[test]
    fn a_dump_that_is_given_up_frees_its_snapshot_on_the_lane() {
        let directory = tempfile::tempdir().unwrap();
        let options =
            Options { lane_threads: 1, segment_bytes: 1 << 20, compression: false, ..Options::new(directory.path()) };
        let db = Arc::new(Db::open(options).unwrap());
        let fill = |round: u8| (0..4000u32).for_each(|key| db.put(&key.to_be_bytes(), &[round; 1000]).unwrap());
        fill(1);
        let Errand::Next(mut work) = *Errand::new(Kind::Metadump, b"", db.clone()) else { unreachable!() };
        work.run();
        assert!(work.records.is_some());
        fill(2);
        db.compact().unwrap();
        let before = kept(directory.path());
        assert!(before > 0);
        let (release, released) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        db.submit(Box::new(move || released.recv().unwrap_or_default()));
        drop(work);
        assert_eq!(kept(directory.path()), before, "freed by whoever dropped it");
        release.send(()).unwrap();
        db.submit(Box::new(move || tell.send(()).unwrap()));
        told.recv().unwrap();
        assert_eq!(kept(directory.path()), 0);
    }
}
