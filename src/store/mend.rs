//! Single flipped bits, found by what they do to a CRC. A checksum is linear: that of damaged bytes differs from that
//! of the sound ones by a number, the *syndrome*, that depends only on which bits flipped and how far they are from
//! the end. CRC-32C tells all single bits of 256 MiB apart, so a syndrome names one bit at most.
//!
//! What is found so is used to learn whose record was hit, and never served: more than one bit could have flipped and
//! look like another one (one case in 2^32 per bit of length). Pure functions; any thread.

/// The polynomial, its bits in the order in which CRC-32C takes them: the syndrome of a message's last bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// What a disk writes whole. Bytes.
pub(crate) const SECTOR: u64 = 512;

/// A bit that flipped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flip {
    /// In the bytes, counted from the lowest bit of the first one.
    Message(usize),
    /// In the checksum beside them.
    Checksum,
}

/// Which single bit explains that the checksum of `len` bytes differs from the one beside them by `syndrome` (the two,
/// exclusive-or). One step per bit: a millisecond for the longest record.
pub(crate) fn flipped_bit(syndrome: u32, len: usize) -> Option<Flip> {
    if syndrome.is_power_of_two() {
        return Some(Flip::Checksum);
    }
    let mut effect = POLYNOMIAL;
    for bit in (0..len * 8).rev() {
        if effect == syndrome {
            return Some(Flip::Message(bit));
        }
        effect = (effect >> 1) ^ (POLYNOMIAL * (effect & 1));
    }
    None
}

/// Flips a bit of `bytes`.
pub(crate) fn flip(bytes: &mut [u8], bit: usize) {
    bytes[bit / 8] ^= 1 << (bit % 8);
}

/// Whether a whole sector of `bytes`, which lie at `offset` of a file, is zero, as a torn write leaves it: then it is not decay,
/// though it may look like a single bit by its syndrome. (That happens to one torn chunk in 8,000.)
pub(crate) fn has_blank_sector(bytes: &[u8], offset: u64) -> bool {
    let start = (SECTOR - offset % SECTOR) % SECTOR;
    let mut sectors = bytes.get(start as usize..).unwrap_or_default().chunks_exact(SECTOR as usize);
    sectors.any(|sector| sector.iter().all(|&byte| byte == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_sector_is_blank() {
        let mut bytes = vec![1; 3000];
        bytes[100..1123].fill(0);
        assert!(has_blank_sector(&bytes, 0) && has_blank_sector(&bytes, 1));
        assert!(has_blank_sector(&bytes, 412), "it begins at a sector's start");
        assert!(!has_blank_sector(&bytes[..612], 411) && !has_blank_sector(&bytes[200..700], 1));
        assert!(!has_blank_sector(&[], 5) && !has_blank_sector(&[0; 511], 0));
    }

    #[test]
    fn every_single_bit_is_named_and_no_pair_is_taken_for_one() {
        let sound: Vec<u8> = (0..200_u8).map(|byte| byte.wrapping_mul(37)).collect();
        let crc = crc32c::crc32c_append(99, &sound);
        for bit in 0..sound.len() * 8 {
            let mut bytes = sound.clone();
            flip(&mut bytes, bit);
            let syndrome = crc32c::crc32c_append(99, &bytes) ^ crc;
            assert_eq!(flipped_bit(syndrome, bytes.len()), Some(Flip::Message(bit)));
            flip(&mut bytes, (bit * 7 + 3) % (sound.len() * 8));
            let pair = crc32c::crc32c_append(99, &bytes) ^ crc;
            assert!(pair == 0 || flipped_bit(pair, bytes.len()).is_none(), "bit {bit}");
        }
        for bit in 0..32 {
            assert_eq!(flipped_bit(1 << bit, sound.len()), Some(Flip::Checksum));
        }
    }
}
