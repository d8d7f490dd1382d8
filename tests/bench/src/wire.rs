//! Requests and the replies they must get, byte for byte, for the memcached text protocol and for RESP (Redis).
//!
//! Keys have a fixed width and all replies of one kind of work have the same length, so the load generator knows a whole
//! reply by counting. What a key's value is follows from its number, so that any reply can be checked in full.

use std::rc::Rc;

/// What a peer speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// The classic memcached text protocol.
    Text,
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
    /// Keys per request. One for `Set`.
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

    /// How every reply to a batch begins.
    pub fn begin(&self) -> &'static [u8] {
        match (self.work.op, self.dialect, self.work.keys) {
            (Op::Get, Dialect::Text, _) => b"VALUE key:",
            (Op::Get, Dialect::Resp, 1) => b"$",
            (Op::Get, Dialect::Resp, _) => b"*",
            (Op::Set, Dialect::Text, _) => b"STORED\r\n",
            (Op::Set, Dialect::Resp, _) => b"+OK\r\n",
        }
    }

    /// How every reply to a batch ends.
    pub fn end(&self) -> &'static [u8] {
        match (self.work.op, self.dialect) {
            (Op::Get, Dialect::Text) => b"\r\nEND\r\n",
            (Op::Get, Dialect::Resp) => b"\r\n",
            (Op::Set, Dialect::Text) => b"STORED\r\n",
            (Op::Set, Dialect::Resp) => b"+OK\r\n",
        }
    }

    /// Appends the requests of a batch.
    pub fn request(&self, keys: &mut Keys, out: &mut Vec<u8>) {
        for _ in 0..self.work.depth {
            match (self.work.op, self.dialect) {
                (Op::Get, Dialect::Text) => self.text_get(keys, out),
                (Op::Set, Dialect::Text) => self.text_set(keys, out),
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

/// Twelve bytes: `key:` and eight digits.
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
        let wire = Wire::new(work, dialect, Rc::new(Pool::new(1 << 20)));
        let (mut request, mut reply) = (Vec::new(), Vec::new());
        wire.request(&mut Keys::InOrder(6), &mut request);
        wire.reply(&mut Keys::InOrder(6), &mut reply);
        assert_eq!(reply.len(), wire.reply_len());
        assert!(reply.starts_with(wire.begin()) && reply.ends_with(wire.end()));
        (String::from_utf8(request).unwrap(), String::from_utf8(reply).unwrap())
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
