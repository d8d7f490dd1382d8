//! Requests and the replies they must get, byte for byte, for the memcached protocols (text, meta, binary) and for RESP
//! (Redis).
//!
//! Keys have a fixed width and all replies of one kind of work have the same length, so the load generator knows a whole
//! reply by counting. What a key's value is follows from its number, so that any reply can be checked in full.

use std::rc::Rc;

/// What a peer speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// The classic memcached text protocol.
    Text,
    /// The memcached meta commands, with no flag but `v`.
    Meta,
    /// The memcached binary protocol. A frame's opaque is the key's number, so that a reply tells what it is for.
    Binary,
    /// The Redis protocol, requests as arrays of bulk strings as every client sends them.
    Resp,
}

/// Read or write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// get, or a multiget where there is more than one key.
    Get,
    /// set.
    Set,
}

/// One kind of work. A *batch* is what a connection sends at once and waits for as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Work {
    /// Read or write.
    pub op: Op,
    /// Requests per batch.
    pub depth: usize,
    /// Keys per request. One for `Set`, and where the dialect is meta or binary.
    pub keys: usize,
    /// Value's length. Bytes.
    pub size: usize,
    /// First key's number.
    pub first: u32,
    /// How many keys there are.
    pub space: u32,
}

impl Work {
    /// A batch of one request for one key.
    pub fn single(op: Op, size: usize, space: u32) -> Work {
        Work { op, depth: 1, keys: 1, size, first: 0, space }
    }

    /// Operations per batch: one per key, in a multiget too.
    pub fn ops(&self) -> usize {
        self.depth * self.keys
    }
}

/// Which keys come next.
#[derive(Clone, Debug)]
pub enum Keys {
    /// Uniformly random ones, the same in every run.
    Random(fastrand::Rng),
    /// Every key once, in order, and around.
    InOrder(u32),
}

impl Keys {
    /// Random keys, the same for the same seed.
    pub fn random(seed: u64) -> Keys {
        Keys::Random(fastrand::Rng::with_seed(seed))
    }

    fn next(&mut self, work: &Work) -> u32 {
        match self {
            Keys::Random(random) => work.first + random.u32(..work.space),
            Keys::InOrder(next) => {
                *next += 1;
                work.first + (*next - 1) % work.space
            }
        }
    }
}

/// Where all values are cut out of: printable, random, and so not compressible by a byte-wise method.
#[derive(Debug)]
pub struct Pool(Vec<u8>);

const STRIDE: usize = 65_521;
const KEY_LEN: usize = 12;

impl Pool {
    /// A pool for values of up to `longest` bytes.
    pub fn new(longest: usize) -> Pool {
        let mut random = fastrand::Rng::with_seed(0x6b69_6e67);
        Pool((0..longest + STRIDE).map(|_| random.alphanumeric() as u8).collect())
    }

    fn value(&self, key: u32, size: usize) -> &[u8] {
        &self.0[key as usize * 97 % STRIDE..][..size]
    }
}

/// One kind of work in one dialect.
#[derive(Clone, Debug)]
pub struct Wire {
    /// What is asked for.
    pub work: Work,
    dialect: Dialect,
    pool: Rc<Pool>,
    reply_len: usize,
}

impl Wire {
    /// `pool` must have been made for at least `work.size`.
    pub fn new(work: Work, dialect: Dialect, pool: Rc<Pool>) -> Wire {
        let has_many = work.op == Op::Get && matches!(dialect, Dialect::Text | Dialect::Resp);
        assert!(work.keys == 1 || has_many, "no {:?} of many keys in {dialect:?}", work.op);
        let mut wire = Wire { work, dialect, pool, reply_len: 0 };
        let mut reply = Vec::new();
        wire.reply(&mut Keys::InOrder(0), &mut reply);
        wire.reply_len = reply.len();
        wire
    }

    /// The length of every batch's reply. Bytes.
    pub fn reply_len(&self) -> usize {
        self.reply_len
    }

    /// How every reply to a batch begins. (A binary frame: from the magic byte to the status.)
    pub fn begin(&self) -> &'static [u8] {
        match (self.work.op, self.dialect, self.work.keys) {
            (Op::Get, Dialect::Text, _) => b"VALUE key:",
            (Op::Get, Dialect::Meta, _) => b"VA ",
            (Op::Get, Dialect::Binary, _) => b"\x81\x00\x00\x00\x04\x00\x00\x00",
            (Op::Get, Dialect::Resp, 1) => b"$",
            (Op::Get, Dialect::Resp, _) => b"*",
            (Op::Set, Dialect::Text, _) => b"STORED\r\n",
            (Op::Set, Dialect::Meta, _) => b"HD\r\n",
            (Op::Set, Dialect::Binary, _) => b"\x81\x01\x00\x00\x00\x00\x00\x00",
            (Op::Set, Dialect::Resp, _) => b"+OK\r\n",
        }
    }

    /// How every reply to a batch ends. (A binary frame: with a value or a CAS, so this is empty.)
    pub fn end(&self) -> &'static [u8] {
        match (self.work.op, self.dialect) {
            (Op::Get, Dialect::Text) => b"\r\nEND\r\n",
            (Op::Get, Dialect::Meta | Dialect::Resp) => b"\r\n",
            (_, Dialect::Binary) => b"",
            (Op::Set, _) => self.begin(),
        }
    }

    /// Zeroes what the server alone can know, the CAS of binary frames, in all replies to a batch. [`Wire::reply`] has zeros
    /// there.
    pub fn blank_cas(&self, replies: &mut [u8]) {
        if self.dialect == Dialect::Binary {
            let each = self.reply_len / self.work.depth;
            replies.chunks_exact_mut(each).for_each(|reply| reply[16..24].fill(0));
        }
    }

    /// Appends the requests of a batch.
    pub fn request(&self, keys: &mut Keys, out: &mut Vec<u8>) {
        for _ in 0..self.work.depth {
            match (self.work.op, self.dialect) {
                (Op::Get, Dialect::Text) => self.text_get(keys, out),
                (Op::Set, Dialect::Text) => self.text_set(keys, out),
                (Op::Get, Dialect::Meta) => self.meta_get(keys, out),
                (Op::Set, Dialect::Meta) => self.meta_set(keys, out),
                (Op::Get, Dialect::Binary) => self.binary_get(keys, out),
                (Op::Set, Dialect::Binary) => self.binary_set(keys, out),
                (Op::Get, Dialect::Resp) => self.resp_get(keys, out),
                (Op::Set, Dialect::Resp) => self.resp_set(keys, out),
            }
        }
    }

    /// Appends the replies that the same keys must get.
    pub fn reply(&self, keys: &mut Keys, out: &mut Vec<u8>) {
        for _ in 0..self.work.depth {
            match (self.work.op, self.dialect) {
                (Op::Get, Dialect::Text) => self.text_values(keys, out),
                (Op::Get, Dialect::Meta) => self.meta_value(keys, out),
                (Op::Get, Dialect::Binary) => self.binary_value(keys, out),
                (Op::Set, Dialect::Binary) => push_frame(self.begin(), 0, keys.next(&self.work), out),
                (Op::Get, Dialect::Resp) => self.resp_values(keys, out),
                (Op::Set, _) => {
                    keys.next(&self.work);
                    out.extend_from_slice(self.begin());
                }
            }
        }
    }

    fn text_get(&self, keys: &mut Keys, out: &mut Vec<u8>) {
        out.extend_from_slice(b"get");
        for _ in 0..self.work.keys {
            out.push(b' ');
            push_key(keys.next(&self.work), out);
        }
        out.extend_from_slice(b"\r\n");
    }

    fn text_set(&self, keys: &mut Keys, out: &mut Vec<u8>) {
        let key = keys.next(&self.work);
        out.extend_from_slice(b"set ");
        push_key(key, out);
        out.extend_from_slice(b" 0 0 ");
        push_number(self.work.size, out);
        out.extend_from_slice(b"\r\n");
        self.push_value(key, out);
    }

    fn text_values(&self, keys: &mut Keys, out: &mut Vec<u8>) {
        for _ in 0..self.work.keys {
            let key = keys.next(&self.work);
            out.extend_from_slice(b"VALUE ");
            push_key(key, out);
            out.extend_from_slice(b" 0 ");
            push_number(self.work.size, out);
            out.extend_from_slice(b"\r\n");
            self.push_value(key, out);
        }
        out.extend_from_slice(b"END\r\n");
    }

    fn meta_get(&self, keys: &mut Keys, out: &mut Vec<u8>) {
        out.extend_from_slice(b"mg ");
        push_key(keys.next(&self.work), out);
        out.extend_from_slice(b" v\r\n");
    }

    fn meta_set(&self, keys: &mut Keys, out: &mut Vec<u8>) {
        let key = keys.next(&self.work);
        out.extend_from_slice(b"ms ");
        push_key(key, out);
        out.push(b' ');
        push_number(self.work.size, out);
        out.extend_from_slice(b"\r\n");
        self.push_value(key, out);
    }

    fn meta_value(&self, keys: &mut Keys, out: &mut Vec<u8>) {
        out.extend_from_slice(b"VA ");
        push_number(self.work.size, out);
        out.extend_from_slice(b"\r\n");
        self.push_value(keys.next(&self.work), out);
    }

    fn binary_get(&self, keys: &mut Keys, out: &mut Vec<u8>) {
        let key = keys.next(&self.work);
        push_frame(b"\x80\x00\x00\x0c\x00\x00\x00\x00", KEY_LEN, key, out);
        push_key(key, out);
    }

    fn binary_set(&self, keys: &mut Keys, out: &mut Vec<u8>) {
        let (key, extras) = (keys.next(&self.work), [0; 8]); // flags, expiration
        let body = extras.len() + KEY_LEN + self.work.size;
        push_frame(b"\x80\x01\x00\x0c\x08\x00\x00\x00", body, key, out);
        out.extend_from_slice(&extras);
        push_key(key, out);
        out.extend_from_slice(self.pool.value(key, self.work.size));
    }

    fn binary_value(&self, keys: &mut Keys, out: &mut Vec<u8>) {
        let (key, extras) = (keys.next(&self.work), [0; 4]); // flags
        push_frame(self.begin(), extras.len() + self.work.size, key, out);
        out.extend_from_slice(&extras);
        out.extend_from_slice(self.pool.value(key, self.work.size));
    }

    fn resp_get(&self, keys: &mut Keys, out: &mut Vec<u8>) {
        push_header(b'*', self.work.keys + 1, out);
        out.extend_from_slice(if self.work.keys == 1 { b"$3\r\nGET\r\n" } else { b"$4\r\nMGET\r\n" });
        for _ in 0..self.work.keys {
            push_resp_key(keys.next(&self.work), out);
        }
    }

    fn resp_set(&self, keys: &mut Keys, out: &mut Vec<u8>) {
        let key = keys.next(&self.work);
        out.extend_from_slice(b"*3\r\n$3\r\nSET\r\n");
        push_resp_key(key, out);
        push_header(b'$', self.work.size, out);
        self.push_value(key, out);
    }

    fn resp_values(&self, keys: &mut Keys, out: &mut Vec<u8>) {
        if self.work.keys > 1 {
            push_header(b'*', self.work.keys, out);
        }
        for _ in 0..self.work.keys {
            push_header(b'$', self.work.size, out);
            self.push_value(keys.next(&self.work), out);
        }
    }

    fn push_value(&self, key: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(self.pool.value(key, self.work.size));
        out.extend_from_slice(b"\r\n");
    }
}

fn push_resp_key(key: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(b"$12\r\n");
    push_key(key, out);
    out.extend_from_slice(b"\r\n");
}

/// A binary frame's header: `start` is its first eight bytes, `body` counts all that follows the header, CAS is 0.
fn push_frame(start: &[u8], body: usize, opaque: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(start);
    out.extend_from_slice(&(body as u32).to_be_bytes());
    out.extend_from_slice(&opaque.to_be_bytes());
    out.extend_from_slice(&[0; 8]);
}

/// [`KEY_LEN`] bytes: `key:` and eight digits.
fn push_key(key: u32, out: &mut Vec<u8>) {
    let mut text = *b"key:00000000";
    let mut rest = key;
    for digit in text[4..].iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&text);
}

fn push_header(mark: u8, number: usize, out: &mut Vec<u8>) {
    out.push(mark);
    push_number(number, out);
    out.extend_from_slice(b"\r\n");
}

fn push_number(number: usize, out: &mut Vec<u8>) {
    if number >= 10 {
        push_number(number / 10, out);
    }
    out.push(b'0' + (number % 10) as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(work: Work, dialect: Dialect) -> (String, String) {
        let (request, reply) = both_raw(work, dialect);
        (String::from_utf8(request).unwrap(), String::from_utf8(reply).unwrap())
    }

    fn both_raw(work: Work, dialect: Dialect) -> (Vec<u8>, Vec<u8>) {
        let wire = Wire::new(work, dialect, Rc::new(Pool::new(1 << 20)));
        let (mut request, mut reply) = (Vec::new(), Vec::new());
        wire.request(&mut Keys::InOrder(6), &mut request);
        wire.reply(&mut Keys::InOrder(6), &mut reply);
        assert_eq!(reply.len(), wire.reply_len());
        assert!(reply.starts_with(wire.begin()) && reply.ends_with(wire.end()));
        (request, reply)
    }

    fn value(key: u32, size: usize) -> String {
        String::from_utf8(Pool::new(1 << 20).value(key, size).to_vec()).unwrap()
    }

    #[test]
    fn text_requests_and_replies() {
        let get = Work::single(Op::Get, 10, 100);
        let (request, reply) = both(Work { keys: 2, ..get }, Dialect::Text);
        assert_eq!(request, "get key:00000006 key:00000007\r\n");
        let (six, seven) = (value(6, 10), value(7, 10));
        assert_eq!(reply, format!("VALUE key:00000006 0 10\r\n{six}\r\nVALUE key:00000007 0 10\r\n{seven}\r\nEND\r\n"));
        let (request, reply) = both(Work { op: Op::Set, depth: 2, ..get }, Dialect::Text);
        assert_eq!(request, format!("set key:00000006 0 0 10\r\n{six}\r\nset key:00000007 0 0 10\r\n{seven}\r\n"));
        assert_eq!(reply, "STORED\r\nSTORED\r\n");
    }

    #[test]
    fn resp_requests_and_replies() {
        let get = Work::single(Op::Get, 10, 100);
        let (six, seven) = (value(6, 10), value(7, 10));
        let (request, reply) = both(get, Dialect::Resp);
        assert_eq!(request, "*2\r\n$3\r\nGET\r\n$12\r\nkey:00000006\r\n");
        assert_eq!(reply, format!("$10\r\n{six}\r\n"));
        let (request, reply) = both(Work { keys: 2, ..get }, Dialect::Resp);
        assert_eq!(request, "*3\r\n$4\r\nMGET\r\n$12\r\nkey:00000006\r\n$12\r\nkey:00000007\r\n");
        assert_eq!(reply, format!("*2\r\n$10\r\n{six}\r\n$10\r\n{seven}\r\n"));
        let (request, reply) = both(Work { op: Op::Set, ..get }, Dialect::Resp);
        assert_eq!(request, format!("*3\r\n$3\r\nSET\r\n$12\r\nkey:00000006\r\n$10\r\n{six}\r\n"));
        assert_eq!(reply, "+OK\r\n");
    }

    #[test]
    fn meta_requests_and_replies() {
        let get = Work { depth: 2, ..Work::single(Op::Get, 10, 100) };
        let (six, seven) = (value(6, 10), value(7, 10));
        let (request, reply) = both(get, Dialect::Meta);
        assert_eq!(request, "mg key:00000006 v\r\nmg key:00000007 v\r\n");
        assert_eq!(reply, format!("VA 10\r\n{six}\r\nVA 10\r\n{seven}\r\n"));
        let (request, reply) = both(Work { op: Op::Set, ..get }, Dialect::Meta);
        assert_eq!(request, format!("ms key:00000006 10\r\n{six}\r\nms key:00000007 10\r\n{seven}\r\n"));
        assert_eq!(reply, "HD\r\nHD\r\n");
    }

    #[test]
    fn binary_requests_and_replies() {
        let get = Work::single(Op::Get, 10, 100);
        let (six, cas) = (value(6, 10), "\0".repeat(8));
        let (request, reply) = both_raw(get, Dialect::Binary);
        let header = "\0\x0c\0\0\0\0\0\0\0\x0c\0\0\0\x06";
        assert_eq!(request, [b"\x80\0", format!("{header}{cas}key:00000006").as_bytes()].concat());
        let header = "\0\0\x04\0\0\0\0\0\0\x0e\0\0\0\x06";
        assert_eq!(reply, [b"\x81\0", format!("{header}{cas}\0\0\0\0{six}").as_bytes()].concat());
        let (request, reply) = both_raw(Work { op: Op::Set, ..get }, Dialect::Binary);
        let header = "\0\x0c\x08\0\0\0\0\0\0\x1e\0\0\0\x06";
        assert_eq!(
            request,
            [b"\x80\x01", format!("{header}{cas}\0\0\0\0\0\0\0\0key:00000006{six}").as_bytes()].concat()
        );
        assert_eq!(reply, [b"\x81\x01", format!("\0\0\0\0\0\0\0\0\0\0\0\0\0\x06{cas}").as_bytes()].concat());
    }

    #[test]
    fn of_binary_replies_all_but_the_cas_is_fixed() {
        let work = Work { depth: 3, ..Work::single(Op::Get, 10, 100) };
        let wire = Wire::new(work, Dialect::Binary, Rc::new(Pool::new(10)));
        let mut right = Vec::new();
        wire.reply(&mut Keys::InOrder(0), &mut right);
        let mut replies = vec![0xff; right.len()];
        wire.blank_cas(&mut replies);
        let blank: Vec<usize> = (0..replies.len()).filter(|&index| replies[index] == 0).collect();
        let each = right.len() / 3;
        assert_eq!(blank, [0, each, 2 * each].map(|at| at + 16..at + 24).into_iter().flatten().collect::<Vec<_>>());
        assert!(blank.iter().all(|&index| right[index] == 0));
    }

    #[test]
    fn keys_wrap_around_and_repeat_with_their_seed() {
        let work = Work { first: 1000, ..Work::single(Op::Get, 1, 3) };
        let mut keys = Keys::InOrder(0);
        let drawn: Vec<u32> = (0..4).map(|_| keys.next(&work)).collect();
        assert_eq!(drawn, [1000, 1001, 1002, 1000]);
        let draw = |mut keys: Keys| (0..50).map(|_| keys.next(&work)).collect::<Vec<_>>();
        assert_eq!(draw(Keys::random(7)), draw(Keys::random(7)));
        assert!(draw(Keys::random(7)).iter().all(|key| (1000..1003).contains(key)));
    }

    #[test]
    fn numbers_have_no_leading_zero() {
        let text = |number| {
            let mut out = Vec::new();
            push_number(number, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!([text(0), text(10), text(65_536)], ["0", "10", "65536"]);
    }
}
