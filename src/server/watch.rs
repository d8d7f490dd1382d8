//! What watchers are told: `watch` turns a connection into one, and lines about fetches, writes, deletions, connections
//! and evictions are queued for it from then on, by whichever thread they happen on. A queue is bounded; what does not
//! fit is counted, and the count told when there is room again. Where nobody watches, an event costs a look at a number
//! that each turn has read once. Beside it stands memcached's other observer, counts by prefix (`stats detail`).

use super::context::Context;
use super::errand::say_encoded;
use super::inbox::{Answer, Inbox, Letter};
use super::proto::meta::words;
use super::reply;
use super::table::Token;
use kingdb::sys::clock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Events, as bits.
pub const FETCHERS: u32 = 1;
pub const MUTATIONS: u32 = 2;
pub const DELETIONS: u32 = 4;
pub const EVICTIONS: u32 = 8;
pub const CONNEVENTS: u32 = 16;
/// Asked for, but never told of.
const NOTHING: u32 = 32;
/// Counts by prefix are kept.
const DETAIL: u32 = 64;

/// More are not admitted.
const MOST: usize = 20;
pub const FULL: &[u8] = b"WATCHER_TOO_MANY log watcher limit reached\r\n";
/// What waits for one watcher at most, and what he gets of it in a turn. Bytes.
const QUEUE: usize = 256 * 1024;
const PIECE: usize = 32 * 1024;
/// So many prefixes are counted.
const PREFIXES: usize = 4096;

/// All watchers, and the counts by prefix.
pub struct Watch {
    observed: AtomicU32,
    /// Lines told so far.
    lines: AtomicU64,
    streams: Mutex<Vec<Weak<Stream>>>,
    prefixes: Mutex<Vec<(Box<[u8]>, Counts)>>,
    /// What ends a prefix.
    delimiter: u8,
}

/// Gets, hits, sets and deletes of one prefix.
type Counts = [u64; 4];

/// One watcher's lines.
pub struct Stream {
    events: u32,
    token: Token,
    inbox: Arc<Inbox>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    text: Vec<u8>,
    skipped: u64,
    /// The watcher's worker knows that there is something.
    told: bool,
}

/// Whether a watcher was admitted.
pub enum Admission {
    Full,
    Stream(Arc<Stream>),
}

/// The events that `watch <event>*` names; none means fetches. `None`: one of them does not exist.
pub fn events(line: &[u8]) -> Option<u32> {
    let mut all = 0;
    for word in words(line).skip(1) {
        all |= match word {
            b"fetchers" => FETCHERS,
            b"mutations" => MUTATIONS,
            b"deletions" => DELETIONS,
            b"evictions" => EVICTIONS,
            b"connevents" => CONNEVENTS,
            b"rawcmds" | b"sysevents" | b"proxyreqs" | b"proxyevents" | b"proxyuser" => NOTHING,
            _ => return None,
        };
    }
    Some(if all == 0 { FETCHERS } else { all })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Nobody watches. `detail`: what ends a prefix, and whether counting begins now.
    pub fn new(detail: (u8, bool)) -> Self {
        Self {
            observed: AtomicU32::new(if detail.1 { DETAIL } else { 0 }),
            lines: AtomicU64::new(0),
            streams: Mutex::default(),
            prefixes: Mutex::default(),
            delimiter: detail.0,
        }
    }

    /// What is observed at all. To be read once per turn.
    pub fn observed(&self) -> u32 {
        self.observed.load(Relaxed)
    }

    /// How many watch.
    pub fn len(&self) -> usize {
        lock(&self.streams).iter().filter(|stream| stream.strong_count() > 0).count()
    }

    /// A new watcher, unless there are too many.
    pub fn admit(&self, events: u32, token: Token, inbox: &Arc<Inbox>) -> Admission {
        let mut streams = lock(&self.streams);
        streams.retain(|stream| stream.strong_count() > 0);
        if streams.len() >= MOST {
            return Admission::Full;
        }
        let stream = Arc::new(Stream { events, token, inbox: inbox.clone(), queue: Mutex::default() });
        streams.push(Arc::downgrade(&stream));
        self.observed.fetch_or(events, Relaxed);
        Admission::Stream(stream)
    }

    /// Tells whoever watches for `event`; `rest` is the line from its type on.
    #[cold]
    pub fn tell(&self, event: u32, rest: &[u8]) {
        let now = clock::wall_time();
        let mut line = b"ts=".to_vec();
        reply::number(&mut line, now.as_secs());
        line.push(b'.');
        reply::number(&mut line, now.subsec_micros().into());
        line.extend_from_slice(b" gid=");
        reply::number(&mut line, self.lines.fetch_add(1, Relaxed) + 1);
        line.extend_from_slice(b" type=");
        line.extend_from_slice(rest);
        line.push(b'\n');
        let mut events = 0;
        let mut streams = lock(&self.streams);
        streams.retain(|stream| {
            let Some(stream) = stream.upgrade() else { return false };
            events |= stream.events;
            if stream.events & event != 0 {
                stream.push(&line);
            }
            true
        });
        // Before anybody else is admitted, whose events these are not.
        self.observed.fetch_and(events | DETAIL, Relaxed);
        drop(streams);
    }

    /// `stats detail on|off`
    pub fn set_detail(&self, on: bool) {
        match on {
            true => self.observed.fetch_or(DETAIL, Relaxed),
            false => self.observed.fetch_and(!DETAIL, Relaxed),
        };
    }

    /// Whether counts by prefix are kept.
    pub fn has_detail(&self) -> bool {
        self.observed() & DETAIL != 0
    }

    /// `stats detail dump`
    pub fn dump_detail(&self, out: &mut Vec<u8>) {
        for (prefix, counts) in lock(&self.prefixes).iter() {
            out.extend_from_slice(b"PREFIX ");
            out.extend_from_slice(prefix);
            for (name, count) in [" get ", " hit ", " set ", " del "].iter().zip(counts) {
                out.extend_from_slice(name.as_bytes());
                reply::number(out, *count);
            }
            out.extend_from_slice(reply::LINE_END);
        }
    }

    /// `stats reset`
    pub fn reset_detail(&self) {
        lock(&self.prefixes).clear();
    }

    fn count(&self, key: &[u8], add: Counts) {
        let Some(end) = key.iter().position(|byte| *byte == self.delimiter) else { return };
        let mut prefixes = lock(&self.prefixes);
        let found = prefixes.binary_search_by(|(prefix, _)| (**prefix).cmp(&key[..end]));
        let at = match found {
            Ok(at) => at,
            Err(_) if prefixes.len() >= PREFIXES => return,
            Err(at) => {
                prefixes.insert(at, (key[..end].into(), Counts::default()));
                at
            }
        };
        prefixes[at].1.iter_mut().zip(add).for_each(|(count, add)| *count += add);
    }
}

impl Stream {
    fn push(&self, line: &[u8]) {
        let mut queue = lock(&self.queue);
        if queue.text.len() + line.len() > QUEUE {
            queue.skipped += 1;
            return;
        }
        if queue.skipped > 0 {
            let skipped = std::mem::take(&mut queue.skipped);
            queue.text.extend_from_slice(b"skipped=");
            reply::number(&mut queue.text, skipped);
            queue.text.push(b'\n');
        }
        queue.text.extend_from_slice(line);
        if !std::mem::replace(&mut queue.told, true) {
            self.inbox.post(Letter { token: self.token, answer: Answer::Watched });
        }
    }

    /// Says some of what there is; whether there is more.
    pub fn say(&self, ctx: &mut Context) -> bool {
        let mut queue = lock(&self.queue);
        let count = queue.text.len().min(PIECE);
        ctx.say(&queue.text[..count]);
        queue.text.drain(..count);
        queue.told = !queue.text.is_empty();
        queue.told
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: u64) {
    out.extend_from_slice(name.as_bytes());
    reply::number(out, value);
}

fn event(name: &str, key: &[u8], status: &str) -> Vec<u8> {
    let mut line = name.as_bytes().to_vec();
    line.extend_from_slice(b" key=");
    say_encoded(key, &mut line);
    line.extend_from_slice(status.as_bytes());
    line
}

/// A key was looked up.
#[cold]
pub fn fetched(key: &[u8], hit: bool, size: u64, ctx: &Context) {
    let watch = &ctx.shared.watch;
    if ctx.observed & DETAIL != 0 {
        watch.count(key, [1, hit.into(), 0, 0]);
    }
    if ctx.observed & FETCHERS != 0 {
        let mut line = event("item_get", key, if hit { " status=found" } else { " status=not_found" });
        field(&mut line, " clsid=", hit.into());
        field(&mut line, " cfd=", ctx.fd);
        field(&mut line, " size=", size);
        watch.tell(FETCHERS, &line);
    }
}

/// A value was stored, or not.
#[cold]
pub fn stored(key: &[u8], status: &str, command: &str, ttl: u64, size: u64, ctx: &Context) {
    let watch = &ctx.shared.watch;
    if ctx.observed & DETAIL != 0 {
        watch.count(key, [0, 0, 1, 0]);
    }
    if ctx.observed & MUTATIONS != 0 {
        let mut line = event("item_store", key, " status=");
        line.extend_from_slice(status.as_bytes());
        line.extend_from_slice(b" cmd=");
        line.extend_from_slice(command.as_bytes());
        field(&mut line, " ttl=", ttl);
        field(&mut line, " clsid=", 1);
        field(&mut line, " cfd=", ctx.fd);
        field(&mut line, " size=", size);
        watch.tell(MUTATIONS, &line);
    }
}

/// A key was to be deleted: `hit` is the length of the value that was, if there was one. One that `stays`, marked as stale,
/// is not told of.
#[cold]
pub fn deleted(key: &[u8], command: &str, hit: Option<u64>, stays: bool, ctx: &Context) {
    let watch = &ctx.shared.watch;
    if ctx.observed & DETAIL != 0 {
        watch.count(key, [0, 0, 0, 1]);
    }
    if let Some(size) = hit.filter(|_| ctx.observed & DELETIONS != 0 && !stays) {
        let mut line = event("deleted", key, command);
        field(&mut line, " clsid=", 1);
        field(&mut line, " size=", size);
        watch.tell(DELETIONS, &line);
    }
}

/// The store gave a record up for want of room.
pub fn evicted(watch: &Watch, key: &[u8], size: u64) {
    if watch.observed() & EVICTIONS != 0 {
        let mut line = event("eviction", key, " fetch=no");
        field(&mut line, " ttl=", 0);
        field(&mut line, " la=", 0);
        field(&mut line, " clsid=", 1);
        field(&mut line, " size=", size);
        watch.tell(EVICTIONS, &line);
    }
}

/// A connection came, or went for this reason.
#[cold]
pub fn connected(peer: Option<std::net::SocketAddr>, reason: Option<&str>, fd: u64, watch: &Watch) {
    let mut line = if reason.is_some() { &b"conn_close"[..] } else { b"conn_new" }.to_vec();
    match peer {
        Some(peer) => {
            line.extend_from_slice(format!(" rip={} rport={} transport=tcp", peer.ip(), peer.port()).as_bytes());
        }
        None => line.extend_from_slice(b" rip=unix rport=0 transport=local"),
    }
    if let Some(reason) = reason {
        line.extend_from_slice(b" reason=");
        line.extend_from_slice(reason.as_bytes());
    }
    field(&mut line, " cfd=", fd);
    watch.tell(CONNEVENTS, &line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_read_is_told_how_much_he_missed() {
        let watch = Watch::new((b':', false));
        let inbox = Arc::new(Inbox::new().unwrap());
        let Admission::Stream(stream) = watch.admit(FETCHERS, Token::reserved(1), &inbox) else {
            panic!("there is room")
        };
        let lines = 2 * QUEUE / 100;
        (0..lines).for_each(|_| watch.tell(FETCHERS, &[b'x'; 100]));
        watch.tell(MUTATIONS, b"not asked for");
        let skipped = lock(&stream.queue).skipped;
        assert!(skipped > 0 && lock(&stream.queue).text.len() <= QUEUE);
        lock(&stream.queue).text.clear();
        watch.tell(FETCHERS, b"after");
        let text = lock(&stream.queue).text.clone();
        assert!(text.starts_with(format!("skipped={skipped}\nts=").as_bytes()), "{}", text.escape_ascii());
        drop(stream);
        watch.tell(FETCHERS, b"nobody");
        assert_eq!(watch.observed(), 0);
    }

    #[test]
    fn a_watcher_names_events_and_there_are_not_too_many() {
        assert_eq!(events(b"watch"), Some(FETCHERS));
        assert_eq!(events(b"watch mutations evictions"), Some(MUTATIONS | EVICTIONS));
        assert_eq!(events(b"watch nonsense"), None);
        let (watch, inbox) = (Watch::new((b':', false)), Arc::new(Inbox::new().unwrap()));
        let admit = || watch.admit(FETCHERS, Token::reserved(1), &inbox);
        let admitted: Vec<_> = (0..MOST).map(|_| admit()).collect();
        assert!(admitted.iter().all(|admission| matches!(admission, Admission::Stream(_))));
        assert!(matches!(admit(), Admission::Full));
        drop(admitted);
        assert!(matches!(admit(), Admission::Stream(_)));
    }

    #[test]
    fn who_is_admitted_while_others_are_told_is_told_from_then_on() {
        let (watch, inbox) = (Watch::new((b':', false)), Arc::new(Inbox::new().unwrap()));
        let over = AtomicU32::new(0);
        let unseen = std::thread::scope(|scope| {
            scope.spawn(|| {
                while over.load(Relaxed) == 0 {
                    watch.tell(MUTATIONS, b"something")
                }
            });
            let unseen = (0..5000).filter(|_| {
                let _stream = watch.admit(FETCHERS, Token::reserved(1), &inbox);
                (0..100).any(|_| watch.observed() & FETCHERS == 0)
            });
            let unseen = unseen.count();
            over.store(1, Relaxed);
            unseen
        });
        assert_eq!(unseen, 0, "of 5000");
    }

    #[test]
    fn prefixes_are_counted() {
        let watch = Watch::new((b'/', true));
        for (key, add) in
            [(&b"b/1"[..], [1, 1, 0, 0]), (b"a/x", [0, 0, 1, 0]), (b"none", [1, 1, 1, 1]), (b"b/2", [1, 0, 0, 1])]
        {
            watch.count(key, add);
        }
        let mut text = Vec::new();
        watch.dump_detail(&mut text);
        assert_eq!(text, b"PREFIX a get 0 hit 0 set 1 del 0\r\nPREFIX b get 2 hit 1 set 0 del 1\r\n");
    }
}
