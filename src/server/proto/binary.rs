//! The binary dialect: frames of 24 bytes of header, extras, key and value. Here are a request's header and a response's
//! making. Every length of a header is compared with the others in 64 bits before anything is done with it: memcached's
//! CVE-2016-8704, -8705, -8706 and the extras of its 1.6.0 were sums that wrapped, or were not looked at.

use crate::server::reply;

/// The first byte of every binary request.
pub const REQUEST: u8 = 0x80;
/// Length of a request's and a response's header. Bytes.
pub const HEADER: usize = 24;

/// Length of the extras of a response to a retrieval. Bytes.
pub const FLAGS: usize = 4;

const RESPONSE: u8 = 0x81;

/// What there is to do: an opcode, without whether its answer is wanted.
pub mod op {
    pub const GET: u8 = 0x00;
    pub const SET: u8 = 0x01;
    pub const ADD: u8 = 0x02;
    pub const REPLACE: u8 = 0x03;
    pub const DELETE: u8 = 0x04;
    pub const INCREMENT: u8 = 0x05;
    pub const DECREMENT: u8 = 0x06;
    pub const QUIT: u8 = 0x07;
    pub const FLUSH: u8 = 0x08;
    pub const NOOP: u8 = 0x0a;
    pub const VERSION: u8 = 0x0b;
    pub const GETK: u8 = 0x0c;
    pub const APPEND: u8 = 0x0e;
    pub const PREPEND: u8 = 0x0f;
    pub const STAT: u8 = 0x10;
    pub const VERBOSITY: u8 = 0x1b;
    pub const TOUCH: u8 = 0x1c;
    pub const GAT: u8 = 0x1d;
    pub const SASL_LIST: u8 = 0x20;
    pub const SASL_AUTH: u8 = 0x21;
    pub const SASL_STEP: u8 = 0x22;
    pub const GATK: u8 = 0x23;
}

/// What a response says of its request's success.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Status {
    NotFound = 0x01,
    Exists = 0x02,
    TooLarge = 0x03,
    Invalid = 0x04,
    NotStored = 0x05,
    NotANumber = 0x06,
    AuthError = 0x20,
    UnknownCommand = 0x81,
    NoMemory = 0x82,
    Internal = 0x84,
}

impl Status {
    /// In words, as memcached's.
    pub fn text(self) -> &'static [u8] {
        match self {
            Status::NotFound => b"Not found",
            Status::Exists => b"Data exists for key.",
            Status::TooLarge => b"Too large.",
            Status::Invalid => b"Invalid arguments",
            Status::NotStored => b"Not stored.",
            Status::NotANumber => b"Non-numeric server-side value for incr or decr",
            Status::AuthError => b"Auth failure.",
            Status::UnknownCommand => b"Unknown command",
            Status::NoMemory => b"Out of memory",
            Status::Internal => b"Internal error",
        }
    }
}

/// A request's header.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub frame: Frame,
    /// One of [`op`], or unknown.
    pub op: u8,
    /// Bytes of extras, key and value.
    pub extras: usize,
    pub key: usize,
    pub value: u64,
    pub cas: u64,
}

/// What of a request its response repeats.
#[derive(Clone, Copy, Default, Debug)]
pub struct Frame {
    opcode: u8,
    op: u8,
    /// Only what is not as it should be is answered; of retrievals, only what is found.
    pub quiet: bool,
    opaque: [u8; 4],
}

impl Header {
    /// Reads a header whose lengths fit together. `Err`: they do not: what to answer, after which the connection is
    /// closed, for there is no telling where the next request begins.
    pub fn parse(bytes: &[u8; HEADER]) -> Result<Header, (Frame, Status)> {
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (key, extras) = (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), usize::from(bytes[4]));
        let body = u64::from(word(8));
        let (op, quiet) = split(bytes[1]);
        let opaque = [bytes[12], bytes[13], bytes[14], bytes[15]];
        let frame = Frame { opcode: bytes[1], op, quiet, opaque };
        let Some(value) = body.checked_sub((key + extras) as u64) else {
            return Err((frame, Status::UnknownCommand));
        };
        let cas = u64::from(word(16)) << 32 | u64::from(word(20));
        Ok(Header { frame, op, extras, key, value, cas })
    }
}

/// An opcode as one of [`op`], and whether it is quiet.
fn split(opcode: u8) -> (u8, bool) {
    match opcode {
        0x09 => (op::GET, true),
        0x0d => (op::GETK, true),
        0x11..=0x18 => (opcode - 0x10, true),
        0x19 | 0x1a => (opcode - 0x0b, true),
        0x1e => (op::GAT, true),
        0x24 => (op::GATK, true),
        _ => (opcode, false),
    }
}

impl Frame {
    /// The response's header; the parts of the body are to follow. `false`: they are longer than a header can tell, and
    /// there is none.
    pub fn header(&self, out: &mut Vec<u8>, status: u8, extras: usize, key: usize, value: u64, cas: u64) -> bool {
        let Ok(body) = u32::try_from((extras + key) as u64 + value) else { return false };
        let mut header = [0; HEADER];
        header[..2].copy_from_slice(&[RESPONSE, self.opcode]);
        header[2..4].copy_from_slice(&(key as u16).to_be_bytes());
        header[4] = extras as u8;
        header[7] = status;
        header[8..12].copy_from_slice(&body.to_be_bytes());
        header[12..16].copy_from_slice(&self.opaque);
        header[16..].copy_from_slice(&cas.to_be_bytes());
        out.extend_from_slice(&header);
        true
    }

    /// A response that is a status and a text.
    pub fn refuse(&self, out: &mut Vec<u8>, status: Status, text: &[u8]) {
        self.header(out, status as u8, 0, 0, text.len() as u64, 0);
        out.extend_from_slice(text);
    }

    /// A response that is this body, said or not.
    pub fn say(&self, out: &mut Vec<u8>, body: &[u8], cas: u64) {
        if !self.quiet {
            self.header(out, 0, 0, 0, body.len() as u64, cas);
            out.extend_from_slice(body);
        }
    }

    /// Success.
    pub fn done(&self, out: &mut Vec<u8>, cas: u64) {
        self.say(out, &[], cas);
    }

    /// The new value of a number.
    pub fn number(&self, out: &mut Vec<u8>, value: u64, cas: u64) {
        self.say(out, &value.to_be_bytes(), cas);
    }

    /// How it is told that a condition was not met.
    pub fn not_stored(&self) -> Status {
        match self.op {
            op::ADD => Status::Exists,
            op::REPLACE => Status::NotFound,
            _ => Status::NotStored,
        }
    }

    /// Whether the response to a retrieval has the key, and whether it has the value.
    pub fn parts(&self) -> (bool, bool) {
        (matches!(self.op, op::GETK | op::GATK), self.op != op::TOUCH)
    }

    /// `STAT name value` lines as a response each; then the one that ends them, unless that was all the text came to.
    pub fn stats(&self, out: &mut Vec<u8>, text: &[u8]) {
        for line in text.split(|byte| *byte == b'\n') {
            let Some(stat) = line.trim_ascii().strip_prefix(b"STAT ") else { continue };
            let at = stat.iter().position(|byte| *byte == b' ').unwrap_or(stat.len());
            let value = stat.get(at + 1..).unwrap_or_default();
            self.stat(out, &stat[..at], value);
        }
        self.done(out, 0);
    }

    /// One of them.
    pub fn stat(&self, out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
        self.header(out, 0, 0, name.len(), value.len() as u64, 0);
        out.extend_from_slice(name);
        out.extend_from_slice(value);
    }
}

/// The version as it is told.
pub fn version() -> &'static [u8] {
    reply::VERSION["VERSION ".len()..].trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(opcode: u8, key: u16, extras: u8, body: u32) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..2].copy_from_slice(&[REQUEST, opcode]);
        bytes[2..4].copy_from_slice(&key.to_be_bytes());
        bytes[4] = extras;
        bytes[8..12].copy_from_slice(&body.to_be_bytes());
        bytes[12..16].copy_from_slice(b"opaq");
        bytes[23] = 7;
        bytes
    }

    #[test]
    fn lengths_that_do_not_fit_together_are_refused() {
        let refused = |key, extras, body| Header::parse(&header(0x01, key, extras, body)).unwrap_err().1;
        assert_eq!(refused(1, 0, 0), Status::UnknownCommand);
        assert_eq!(refused(0xffff, 0xff, 0xffff), Status::UnknownCommand);
        assert_eq!(refused(5, 8, 12), Status::UnknownCommand);
        assert_eq!(Header::parse(&header(0x01, 5, 8, u32::MAX)).unwrap().value, u64::from(u32::MAX) - 13);
        let sound = Header::parse(&header(0x11, 5, 8, 23)).unwrap();
        assert_eq!(
            (sound.op, sound.frame.quiet, sound.extras, sound.key, sound.value, sound.cas),
            (op::SET, true, 8, 5, 10, 7)
        );
    }

    #[test]
    fn every_quiet_opcode_has_its_loud_one() {
        let loud: Vec<_> =
            (0..=0x24).filter(|opcode| split(*opcode).1).map(|opcode| (opcode, split(opcode).0)).collect();
        let expected = [
            (0x09, op::GET),
            (0x0d, op::GETK),
            (0x11, op::SET),
            (0x12, op::ADD),
            (0x13, op::REPLACE),
            (0x14, op::DELETE),
            (0x15, op::INCREMENT),
            (0x16, op::DECREMENT),
            (0x17, op::QUIT),
            (0x18, op::FLUSH),
            (0x19, op::APPEND),
            (0x1a, op::PREPEND),
            (0x1e, op::GAT),
            (0x24, op::GATK),
        ];
        assert_eq!(loud, expected);
    }

    #[test]
    fn a_response_is_no_longer_than_a_header_can_tell() {
        let frame = Header::parse(&header(0x0c, 0, 0, 0)).unwrap().frame;
        let (mut out, most) = (Vec::new(), u64::from(u32::MAX) - FLAGS as u64 - 250);
        assert!(!frame.header(&mut out, 0, FLAGS, 250, most + 1, 0) && out.is_empty());
        assert!(!frame.header(&mut out, 0, FLAGS, 250, u64::MAX >> 1, 0) && out.is_empty());
        assert!(frame.header(&mut out, 0, FLAGS, 250, most, 0));
        assert_eq!(out[8..12], [0xff; 4]);
    }

    #[test]
    fn a_response_echoes_opcode_and_opaque() {
        let frame = Header::parse(&header(0x0b, 0, 0, 0)).unwrap().frame;
        let mut out = Vec::new();
        frame.refuse(&mut out, Status::UnknownCommand, Status::UnknownCommand.text());
        assert_eq!(&out[..8], &[0x81, 0x0b, 0, 0, 0, 0, 0, 0x81]);
        assert_eq!(&out[8..16], b"\0\0\0\x0fopaq");
        assert_eq!(&out[16..], b"\0\0\0\0\0\0\0\0Unknown command");
    }
}
