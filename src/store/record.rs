//! The record: the one thing a segment holds. How it is laid out is `kingdb.5`'s business; this file is its only
//! reader and writer. Pure functions over bytes; any thread.
//!
//! A record is trusted only after its checksum, which is seeded with the segment's salt: bytes inside a user's
//! value can then never pass for a record, nor can a record of a file that once occupied the same disk blocks.

use super::mend::{Flip, flip, flipped_bit};

/// Records start at multiples of this, and their lengths are padded to it. Bytes.
pub(crate) const ALIGNMENT: usize = 8;
/// The part every record has. Bytes.
pub(crate) const HEADER: usize = 24;
/// The longest record there can be. Bytes.
pub(crate) const MAX_RECORD: usize = HEADER + 16 + super::MAX_KEY + super::CHUNK + ALIGNMENT;

const COMPRESSED: u8 = 1;
const EXPIRES: u8 = 2;
const CAS: u8 = 4;
/// A mark of a record ([`super::Record::marks`]): whoever fetches it is told that it is stale.
pub const STALE: u8 = 8;
/// A mark: somebody was told that it is for him to renew the value.
pub const WON: u8 = 16;
/// A mark: the key came as base64 and is told so.
pub const BINARY_KEY: u8 = 32;
/// A mark: fetched since it was written. Known of cached records only.
pub const FETCHED: u8 = 128;
const MARKS: u8 = STALE | WON | BINARY_KEY;
const KNOWN_FLAGS: u8 = COMPRESSED | EXPIRES | CAS | MARKS;

/// What a record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The key has this value.
    Value = 1,
    /// The key has a value that lies in an extent; the body is its table.
    Large = 2,
    /// The key has no value.
    Tombstone = 3,
    /// `flush_all` was told to fire at the time in the body.
    FlushPending = 4,
    /// Everything before this record is gone.
    FlushFired = 5,
    /// Log up to the position in the body was durable, and the store's clock had reached the time in the body.
    Checkpoint = 6,
    /// The segment ends here; the log goes on in the next one.
    Seal = 7,
}

/// A record's fields, borrowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fields<'a> {
    pub kind: Kind,
    pub compressed: bool,
    /// [`STALE`], [`WON`], [`BINARY_KEY`].
    pub marks: u8,
    pub key: &'a [u8],
    pub body: &'a [u8],
    pub client_flags: u32,
    pub sequence: u64,
    /// Equal to `sequence` in most records, and then not stored.
    pub cas: u64,
    /// Store time in seconds; 0: never.
    pub expires: u64,
}

/// Records up to this long are put together before they are appended. Bytes.
const GATHERED: usize = 640;
/// Where a record begins in a [`Head`]: what its checksum covers is then aligned as the processor's instruction wants its
/// operands. Of many short pieces, each anywhere, the checksum takes three times as long.
const START: usize = 4;

/// The beginning of a record, before its key; all of it if it is short.
#[repr(align(8))]
pub(crate) struct Head {
    bytes: [u8; START + GATHERED],
    end: usize,
    whole: bool,
}

impl Head {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    fn record(&self) -> &[u8] {
        &self.bytes[START..self.end]
    }

    fn set_checksum(&mut self, crc: u32) {
        self.bytes[START..START + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Why bytes are no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Defect {
    /// They end before the record does; this many would be enough to tell more.
    Short(usize),
    /// All zero where the header would be: nothing was written here.
    Blank,
    /// The fields contradict the format.
    Malformed,
    /// The checksum does not match.
    Checksum,
}

impl<'a> Fields<'a> {
    /// A record that only the store itself needs.
    pub fn control(kind: Kind, body: &'a [u8], sequence: u64) -> Fields<'a> {
        Fields {
            kind,
            compressed: false,
            marks: 0,
            key: b"",
            body,
            client_flags: 0,
            sequence,
            cas: sequence,
            expires: 0,
        }
    }

    /// Bytes on disk.
    pub fn encoded_len(&self) -> usize {
        let optional = 8 * usize::from(self.expires != 0) + 8 * usize::from(self.cas != self.sequence);
        padded(HEADER + optional + self.key.len() + self.body.len())
    }

    /// The record's beginning up to the key, with the checksum of all of it.
    ///
    /// # Panics
    /// If key or body exceed the format's limits: callers check what users send.
    pub fn head(&self, salt: u32) -> Head {
        assert!(self.key.len() <= super::MAX_KEY && self.body.len() <= super::CHUNK, "out of range");
        let len = self.encoded_len();
        let mut head = Head { bytes: [0; START + GATHERED], end: START + 4, whole: len <= GATHERED };
        head.put(&[self.kind as u8, self.flag_byte()]);
        head.put(&(self.key.len() as u16).to_le_bytes());
        head.put(&(self.body.len() as u32).to_le_bytes());
        head.put(&self.client_flags.to_le_bytes());
        head.put(&self.sequence.to_le_bytes());
        if self.expires != 0 {
            head.put(&self.expires.to_le_bytes());
        }
        if self.cas != self.sequence {
            head.put(&self.cas.to_le_bytes());
        }
        let rest = self.rest(&head);
        if head.whole {
            head.put(self.key);
            head.put(self.body);
            head.end = START + len;
        }
        let crc = checksum(head.record(), salt);
        head.set_checksum(if head.whole { crc } else { rest.into_iter().fold(crc, crc32c::crc32c_append) });
        head
    }

    /// Appends the record to `out`: the one time that a long key and body are copied.
    pub fn put(&self, head: &Head, out: &mut Vec<u8>) {
        out.extend_from_slice(head.record());
        if !head.whole {
            self.rest(head).into_iter().for_each(|part| out.extend_from_slice(part));
        }
    }

    /// What comes after a head that is no more than the record's beginning.
    fn rest(&self, head: &Head) -> [&'a [u8]; 3] {
        let len = head.record().len() + self.key.len() + self.body.len();
        [self.key, self.body, &[0; ALIGNMENT][..padded(len) - len]]
    }

    fn flag_byte(&self) -> u8 {
        (self.marks & MARKS)
            | (COMPRESSED * u8::from(self.compressed))
            | (EXPIRES * u8::from(self.expires != 0))
            | (CAS * u8::from(self.cas != self.sequence))
    }

    /// What bytes that are no sound record claim to be, if their fields make sense. To be believed only as far as
    /// that something is wrong with this key.
    pub fn claimed(bytes: &'a [u8]) -> Option<(Fields<'a>, usize)> {
        let header = Header::parse(bytes).ok()?;
        bytes.get(..header.len).map(|record| (header.fields(record), header.len))
    }

    /// The record at the start of `bytes` as it was before a single bit of it flipped. `None`: that is not what is
    /// wrong. Never to be served, see [`super::mend`].
    pub fn mended(bytes: &[u8], salt: u32) -> Option<Vec<u8>> {
        let fixed = bytes.first_chunk::<HEADER>()?;
        // The bits that say how long the record is, or whether it makes sense: tried, for what they cover depends on
        // them.
        let tried = (32..96).find_map(|bit| {
            let mut fixed = *fixed;
            flip(&mut fixed, bit);
            let header = Header::parse(&fixed).ok()?;
            let rest = bytes.get(HEADER..header.len)?;
            let crc = crc32c::crc32c_append(crc32c::crc32c_append(salt, &fixed[4..]), rest);
            (crc == header.crc).then(|| [&fixed, rest].concat())
        });
        tried.or_else(|| {
            let header = Header::parse(bytes).ok()?;
            let mut record = bytes.get(..header.len)?.to_vec();
            let crc = checksum(&record, salt);
            match flipped_bit(crc ^ header.crc, record.len() - 4)? {
                Flip::Message(bit) => flip(&mut record[4..], bit),
                Flip::Checksum => record[..4].copy_from_slice(&crc.to_le_bytes()),
            }
            Some(record)
        })
    }

    /// Reads the record at the start of `bytes`; also tells its length on disk.
    pub fn decode(bytes: &'a [u8], salt: u32) -> Result<(Fields<'a>, usize), Defect> {
        let header = Header::parse(bytes)?;
        let record = bytes.get(..header.len).ok_or(Defect::Short(header.len))?;
        if checksum(record, salt) != header.crc {
            return Err(Defect::Checksum);
        }
        Ok((header.fields(record), header.len))
    }
}

/// Whether `bytes` are as long as the record at their start says; its checksum is not looked at.
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    match Header::parse(bytes) {
        Ok(header) => bytes.len() >= header.len,
        Err(defect) => !matches!(defect, Defect::Short(_)),
    }
}

/// `len` rounded up to the alignment.
pub(crate) fn padded(len: usize) -> usize {
    len.next_multiple_of(ALIGNMENT)
}

fn checksum(record: &[u8], salt: u32) -> u32 {
    crc32c::crc32c_append(salt, &record[4..])
}

/// The fixed part, checked for sense but not yet trusted.
struct Header {
    crc: u32,
    kind: Kind,
    flags: u8,
    key_len: usize,
    body_len: usize,
    len: usize,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Header, Defect> {
        let fixed = bytes.get(..HEADER).ok_or(Defect::Short(HEADER))?;
        let Some(kind) = kind_of(fixed[4]) else {
            return Err(if fixed.iter().all(|&byte| byte == 0) { Defect::Blank } else { Defect::Malformed });
        };
        let flags = fixed[5];
        let key_len = usize::from(u16::from_le_bytes([fixed[6], fixed[7]]));
        let body_len = le_u32(fixed, 8) as usize;
        if flags & !KNOWN_FLAGS != 0 || body_len > super::CHUNK {
            return Err(Defect::Malformed);
        }
        let optional = 8 * (flags & (EXPIRES | CAS)).count_ones() as usize;
        let len = padded(HEADER + optional + key_len + body_len);
        Ok(Header { crc: le_u32(fixed, 0), kind, flags, key_len, body_len, len })
    }

    fn fields<'a>(&self, record: &'a [u8]) -> Fields<'a> {
        let sequence = le_u64(record, 16);
        let mut at = HEADER;
        let mut optional = |flag: u8, otherwise: u64| match self.flags & flag {
            0 => otherwise,
            _ => {
                at += 8;
                le_u64(record, at - 8)
            }
        };
        let expires = optional(EXPIRES, 0);
        let cas = optional(CAS, sequence);
        let (key, rest) = record[at..].split_at(self.key_len);
        Fields {
            kind: self.kind,
            compressed: self.flags & COMPRESSED != 0,
            marks: self.flags & MARKS,
            key,
            body: &rest[..self.body_len],
            client_flags: le_u32(record, 12),
            sequence,
            cas,
            expires,
        }
    }
}

fn kind_of(byte: u8) -> Option<Kind> {
    use Kind::{Checkpoint, FlushFired, FlushPending, Large, Seal, Tombstone, Value};
    const KINDS: [Kind; 7] = [Value, Large, Tombstone, FlushPending, FlushFired, Checkpoint, Seal];
    let kind = KINDS.get(usize::from(byte).wrapping_sub(1)).copied()?;
    assert!(kind as u8 == byte, "kinds are listed by their numbers");
    Some(kind)
}

/// The little-endian number at `at`. Panics if `bytes` end before it does.
pub(crate) fn le_u32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

/// The little-endian number at `at`. Panics if `bytes` end before it does.
pub(crate) fn le_u64(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(fields: &Fields<'_>, salt: u32) -> Vec<u8> {
        let mut out = Vec::new();
        fields.put(&fields.head(salt), &mut out);
        out
    }

    fn sample<'a>(key: &'a [u8], body: &'a [u8]) -> Fields<'a> {
        let (sequence, cas, expires) = (0x0102_0304_0506_0708, 9, 77);
        Fields {
            kind: Kind::Value,
            compressed: false,
            marks: STALE,
            key,
            body,
            client_flags: 0xdead_beef,
            sequence,
            cas,
            expires,
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut record = encoded(&sample(b"key", b"the value"), 42);
        assert!(Fields::decode(&record, 42).is_ok());
        assert_eq!(Fields::decode(&record, 43), Err(Defect::Checksum));
        for bit in 0..record.len() * 8 {
            record[bit / 8] ^= 1 << (bit % 8);
            assert!(Fields::decode(&record, 42).is_err(), "bit {bit}");
            record[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_flipped_bit_is_undone_whatever_it_hit() {
        let sound = encoded(&sample(b"key", &[7; 1000]), 42);
        let mut file = [&sound[..], &encoded(&sample(b"next", b"one"), 42)].concat();
        assert!(Fields::mended(&file, !42).is_none(), "another salt");
        for bit in 0..sound.len() * 8 {
            flip(&mut file, bit);
            assert_eq!(Fields::mended(&file, 42).as_ref(), Some(&sound), "bit {bit}");
            flip(&mut file, (bit + 77) % (sound.len() * 8));
            assert_eq!(Fields::mended(&file, 42), None, "two bits");
            flip(&mut file, (bit + 77) % (sound.len() * 8));
            flip(&mut file, bit);
        }
    }

    #[test]
    fn a_record_cut_short_says_how_much_is_missing() {
        let record = encoded(&sample(b"key", b"value"), 1);
        assert_eq!(Fields::decode(&record[..HEADER - 1], 1), Err(Defect::Short(HEADER)));
        assert_eq!(Fields::decode(&record[..HEADER], 1), Err(Defect::Short(record.len())));
        assert_eq!(Fields::decode(&[0; 64], 1), Err(Defect::Blank));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            key in proptest::collection::vec(any::<u8>(), 0..300),
            body in proptest::collection::vec(any::<u8>(), 0..3000),
            (sequence, same_cas, expires, compressed, marks, client_flags)
                in any::<(u64, bool, u64, bool, u8, u32)>(),
        ) {
            let (marks, cas) = (marks & MARKS, if same_cas { sequence } else { sequence ^ 5 });
            let fields = Fields {
                kind: Kind::Value, compressed, marks, key: &key, body: &body, client_flags, sequence, cas, expires,
            };
            let record = encoded(&fields, 7);
            prop_assert_eq!(record.len(), fields.encoded_len());
            prop_assert_eq!(Fields::decode(&record, 7), Ok((fields, record.len())));
        }
    }
}
