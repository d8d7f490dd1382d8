//! Steps of the binary dialect: each frame is sent, and after it a no-op whose answer ends its replies.

use super::pair::{Pair, Side};
use super::text;
use proptest::prelude::*;
use std::fmt::Write;

const NOOP: u8 = 0x0a;
const FENCE: u32 = 0xfeed_f00d;

/// A request.
#[derive(Clone)]
pub struct Frame {
    opcode: u8,
    extras: Vec<u8>,
    key: Vec<u8>,
    value: Vec<u8>,
    cas: Cas,
    /// Added to the header's lengths of extras and key; its data type.
    skew: (i8, i16, u8),
    /// The connection is half-closed behind it: it may lack what it announces.
    last: bool,
}

#[derive(Clone, Copy, Debug)]
enum Cas {
    /// Any.
    None,
    /// What a get tells just before.
    Right,
    Wrong(u64),
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cas = match self.cas {
            Cas::None => String::new(),
            Cas::Right => " the right cas".to_string(),
            Cas::Wrong(cas) => format!(" cas {cas}"),
        };
        let value = self.value[..self.value.len().min(60)].escape_ascii();
        let (extras, key) = (self.extras.escape_ascii(), self.key[..self.key.len().min(60)].escape_ascii());
        write!(f, "{:#04x} extras '{extras}' key '{key}' value '{value}' ({}){cas}", self.opcode, self.value.len())?;
        match self.skew {
            (0, 0, 0) => Ok(()),
            skew => write!(f, " skewed {skew:?}"),
        }
    }
}

impl Frame {
    fn bytes(&self, cas: u64, opaque: u32) -> Vec<u8> {
        let body = (self.extras.len() + self.key.len() + self.value.len()) as u32;
        let keylen = (self.key.len() as u16).wrapping_add_signed(self.skew.1);
        let mut bytes = vec![0x80, self.opcode];
        bytes.extend(keylen.to_be_bytes());
        bytes.extend([(self.extras.len() as u8).wrapping_add_signed(self.skew.0), self.skew.2, 0, 0]);
        bytes.extend(body.to_be_bytes());
        bytes.extend(opaque.to_be_bytes());
        bytes.extend(cas.to_be_bytes());
        [&bytes, &self.extras[..], &self.key, &self.value].concat()
    }
}

/// Sends the frames to both and compares what comes.
pub fn run(pair: &mut Pair, frames: &[Frame]) -> Result<(), String> {
    let (mut theirs, mut ours) = pair.connect();
    let mut sent = String::new();
    for (opaque, frame) in (1..).zip(frames) {
        let _ = writeln!(sent, "  {frame:?}");
        let (wanted, got) = (take(&mut theirs, frame, opaque), take(&mut ours, frame, opaque));
        let refused = frame.last && got.as_ref().is_ok_and(Replies::refused);
        if (wanted != got && !refused) || wanted.is_err() {
            return Err(format!("sent:\n{sent}memcached: {}\n     ours: {}", show(&wanted), show(&got)));
        }
        if wanted.is_ok_and(|replies| replies.closed) {
            break;
        }
    }
    Ok(())
}

/// Every frame up to the no-op's answer, with the CAS by its number among those seen, or up to the connection's end.
#[derive(PartialEq, Eq)]
struct Replies {
    frames: Vec<(Header, Option<usize>, Vec<u8>)>,
    closed: bool,
}

impl Replies {
    /// A request whose parts do not fit: we tell so and close, where memcached does not always look and then loses its place.
    fn refused(&self) -> bool {
        const REASONS: [u8; 2] = [0x04, 0x81];
        self.closed && self.frames.len() == 1 && self.frames[0].0[6] == 0 && REASONS.contains(&self.frames[0].0[7])
    }
}

fn take(side: &mut Side, frame: &Frame, opaque: u32) -> Result<Replies, String> {
    let cas = match frame.cas {
        Cas::None => 0,
        Cas::Right => ask_cas(side, &frame.key)?,
        Cas::Wrong(cas) => cas,
    };
    side.send(&frame.bytes(cas, opaque));
    side.send(&plain(NOOP, &[]).bytes(0, FENCE));
    if frame.last {
        // Whatever the header says follows is there, and nothing of it makes sense.
        side.send(&[0; 66_000]);
        side.finish();
    }
    let mut frames = Vec::new();
    loop {
        let Some((header, cas, body)) = reply(side)? else {
            return Ok(Replies { frames, closed: true });
        };
        if header[12..16] == FENCE.to_be_bytes() && !frame.last {
            return Ok(Replies { frames, closed: false });
        }
        let cas = (cas != 0).then(|| side.unique(cas));
        frames.push((header, cas, body));
    }
}

/// A response's header up to the CAS.
type Header = Vec<u8>;

/// Header up to the CAS, CAS, body; `None` at the end of the connection.
fn reply(side: &mut Side) -> Result<Option<(Header, u64, Vec<u8>)>, String> {
    let mut header = side.bytes(24)?;
    if header.len() < 24 {
        return if header.is_empty() { Ok(None) } else { Err(format!("half a header: {}", header.escape_ascii())) };
    }
    let cas = u64::from_be_bytes(header[16..24].try_into().expect("eight bytes"));
    let len = u32::from_be_bytes(header[8..12].try_into().expect("four bytes")) as usize;
    if len > 8 << 20 {
        return Err(format!("no header: {}", header.escape_ascii()));
    }
    header.truncate(16);
    Ok(Some((header, cas, side.bytes(len)?)))
}

fn ask_cas(side: &mut Side, key: &[u8]) -> Result<u64, String> {
    side.send(&plain(0x00, key).bytes(0, FENCE));
    Ok(reply(side)?.map_or(1, |(_, cas, _)| cas.max(1)))
}

fn show(replies: &Result<Replies, String>) -> String {
    let Ok(replies) = replies else {
        return replies.as_ref().err().expect("it is").clone();
    };
    let mut text = String::new();
    for (header, cas, body) in &replies.frames {
        let body = body[..body.len().min(100)].escape_ascii();
        let _ = write!(text, "[{} cas {cas:?} '{body}'] ", header.escape_ascii());
    }
    text + if replies.closed { "(closed)" } else { "" }
}

fn plain(opcode: u8, key: &[u8]) -> Frame {
    Frame {
        opcode,
        extras: Vec::new(),
        key: key.to_vec(),
        value: Vec::new(),
        cas: Cas::None,
        skew: (0, 0, 0),
        last: false,
    }
}

/// One request.
pub fn step() -> impl Strategy<Value = Frame> {
    prop_oneof![12 => valid(), 2 => skewed(), 1 => other_parts()]
}

fn valid() -> impl Strategy<Value = Frame> {
    prop_oneof![5 => get(), 5 => store(), 2 => concatenate(), 2 => delete(), 3 => arithmetic(), 3 => touch(), 1 => other()]
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    text::key().prop_map(String::into_bytes)
}

/// And counters, which nothing is appended to: spaces and then digits again are a number to memcached.
fn any_key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => key(), 1 => counter()]
}

fn counter() -> impl Strategy<Value = Vec<u8>> {
    text::counter().prop_map(String::into_bytes)
}

fn cas() -> impl Strategy<Value = Cas> {
    prop_oneof![4 => Just(Cas::None), 2 => Just(Cas::Right), 1 => any::<u64>().prop_map(Cas::Wrong)]
}

/// Seconds: never, far off, in the past.
fn expiry() -> impl Strategy<Value = u32> {
    prop_oneof![4 => Just(0), 2 => Just(500), 1 => Just(2_592_001)]
}

fn get() -> impl Strategy<Value = Frame> {
    (proptest::sample::select(vec![0x00, 0x09, 0x0c, 0x0d]), any_key()).prop_map(|(opcode, key)| plain(opcode, &key))
}

fn store() -> impl Strategy<Value = Frame> {
    let opcode = proptest::sample::select(vec![0x01, 0x01, 0x02, 0x03, 0x11, 0x12, 0x13]);
    (opcode, any::<u32>(), expiry(), any_key(), text::data(), cas()).prop_map(
        |(opcode, flags, expiry, key, value, cas)| {
            let extras = [flags.to_be_bytes(), expiry.to_be_bytes()].concat();
            Frame { extras, value, cas, ..plain(opcode, &key) }
        },
    )
}

fn concatenate() -> impl Strategy<Value = Frame> {
    (proptest::sample::select(vec![0x0e, 0x0f, 0x19, 0x1a]), key(), text::data(), cas())
        .prop_map(|(opcode, key, value, cas)| Frame { value, cas, ..plain(opcode, &key) })
}

fn delete() -> impl Strategy<Value = Frame> {
    (proptest::sample::select(vec![0x04, 0x14]), any_key(), cas())
        .prop_map(|(opcode, key, cas)| Frame { cas, ..plain(opcode, &key) })
}

fn arithmetic() -> impl Strategy<Value = Frame> {
    let opcode = proptest::sample::select(vec![0x05, 0x06, 0x15, 0x16]);
    let expiry = prop_oneof![2 => expiry(), 1 => Just(u32::MAX)];
    (opcode, prop_oneof![0..40u64, any::<u64>()], any::<u64>(), expiry, counter(), cas()).prop_map(
        |(opcode, delta, initial, expiry, key, cas)| {
            let extras = [&delta.to_be_bytes()[..], &initial.to_be_bytes(), &expiry.to_be_bytes()].concat();
            Frame { extras, cas, ..plain(opcode, &key) }
        },
    )
}

/// touch, gat, gatq, gatk, gatkq.
fn touch() -> impl Strategy<Value = Frame> {
    (proptest::sample::select(vec![0x1c, 0x1d, 0x1e, 0x23, 0x24]), expiry(), key())
        .prop_map(|(opcode, expiry, key)| Frame { extras: expiry.to_be_bytes().to_vec(), ..plain(opcode, &key) })
}

/// flush and flushq, no-op, quit and quitq, verbosity, and what nobody knows.
fn other() -> impl Strategy<Value = Frame> {
    let unknown = prop_oneof![0x1fu8..0x23, 0x25u8..=0xff];
    prop_oneof![
        2 => Just(plain(0x08, &[])),
        1 => Just(plain(0x18, &[])),
        1 => Just(Frame { extras: vec![0; 4], ..plain(0x08, &[]) }),
        2 => Just(plain(NOOP, &[])),
        1 => prop_oneof![Just(0x07), Just(0x17)].prop_map(|opcode| plain(opcode, &[])),
        2 => unknown.prop_map(|opcode| plain(opcode, &[])),
    ]
}

/// Lengths that do not fit what they measure, though the whole is as long as it says.
fn skewed() -> impl Strategy<Value = Frame> {
    let skew = prop_oneof![
        (-4..5i8).prop_map(|extras| (extras, 0, 0)),
        any::<i8>().prop_map(|extras| (extras, 0, 0)),
        (-4..5i16).prop_map(|key| (0, key, 0)),
        // Beyond that memcached reads no more.
        (0..9000i16).prop_map(|key| (0, key, 0)),
        any::<u8>().prop_map(|kind| (0, 0, kind)),
    ];
    (valid(), skew).prop_map(|(frame, skew)| Frame { skew, last: true, ..frame })
}

/// Parts that the opcode does not have.
fn other_parts() -> impl Strategy<Value = Frame> {
    let part = |longest: usize| proptest::collection::vec(any::<u8>(), 0..longest);
    (prop_oneof![0..0x1bu8, 0x1cu8..0x1e, 0x23u8..0x25], part(24), key(), part(20), any::<bool>())
        // Their bodies tell who is asked.
        .prop_filter("version and stat", |(opcode, ..)| !matches!(opcode, 0x0b | 0x10))
        .prop_map(|(opcode, extras, key, value, keyed)| Frame {
            extras,
            value,
            last: true,
            ..plain(opcode, if keyed { &key } else { &[] })
        })
}
