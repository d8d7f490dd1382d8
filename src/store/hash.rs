//! SipHash-1-3 with a 128-bit result, keyed with a random seed per store, so that nobody outside can choose keys
//! that collide.
//!
//! From J.-P. Aumasson and D. J. Bernstein, "SipHash: a fast short-input PRF" (2012), and the 128-bit output of the
//! authors' reference code. One compression and three finalisation rounds, as in the Rust and Python standard
//! libraries. Pure computation; any thread.

/// The secret of a store: 128 random bits, made when the store is made and kept in its `STORE` file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seed(pub [u64; 2]);

/// A key's hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hash {
    /// Decides the index stripe and the cache shard.
    pub place: u64,
    /// Stands in the index slot.
    pub tag: u64,
}

impl Seed {
    /// Hashes `bytes`.
    pub fn hash(&self, bytes: &[u8]) -> Hash {
        let mut state = State::new(self.0);
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            state.compress(le_word(word));
        }
        state.compress(last_word(words.remainder(), bytes.len()));
        state.finish()
    }
}

struct State([u64; 4]);

impl State {
    fn new([k0, k1]: [u64; 2]) -> State {
        let v = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        State(v)
    }

    #[inline(always)]
    fn compress(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.0[0] ^= word;
    }

    #[inline(always)]
    fn round(&mut self) {
        let [mut v0, mut v1, mut v2, mut v3] = self.0;
        v0 = v0.wrapping_add(v1);
        v1 = v1.rotate_left(13) ^ v0;
        v0 = v0.rotate_left(32);
        v2 = v2.wrapping_add(v3);
        v3 = v3.rotate_left(16) ^ v2;
        v0 = v0.wrapping_add(v3);
        v3 = v3.rotate_left(21) ^ v0;
        v2 = v2.wrapping_add(v1);
        v1 = v1.rotate_left(17) ^ v2;
        v2 = v2.rotate_left(32);
        self.0 = [v0, v1, v2, v3];
    }

    fn finish(mut self) -> Hash {
        self.0[2] ^= 0xee;
        let place = self.squeeze();
        self.0[1] ^= 0xdd;
        let tag = self.squeeze();
        Hash { place, tag: narrowed(tag) }
    }

    #[inline(always)]
    fn squeeze(&mut self) -> u64 {
        for _ in 0..3 {
            self.round();
        }
        self.0[0] ^ self.0[1] ^ self.0[2] ^ self.0[3]
    }
}

/// With the feature `tiny-tags`, 8 bits of tag: collisions everywhere, for tests.
/// One value is left out: the index marks slots that are not in use with it.
fn narrowed(tag: u64) -> u64 {
    let tag = match cfg!(feature = "tiny-tags") {
        true => (tag & 0xff) * 0x0101_0101_0101_0101,
        false => tag,
    };
    tag.min(u64::MAX - 1)
}

fn le_word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

fn last_word(rest: &[u8], len: usize) -> u64 {
    let mut word = [0; 8];
    word[..rest.len()].copy_from_slice(rest);
    word[7] = len as u8;
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_seed_and_every_bit_of_the_key_matter() {
        let mut seen = HashSet::new();
        for seed in [Seed([1, 2]), Seed([1, 3]), Seed([2, 2])] {
            for len in 0..40 {
                for at in 0..len * 8 {
                    let mut key = vec![0_u8; len];
                    key[at / 8] ^= 1 << (at % 8);
                    assert!(seen.insert(seed.hash(&key).place), "length {len}, bit {at}");
                }
            }
        }
    }

    #[test]
    #[cfg(not(feature = "tiny-tags"))]
    fn equals_siphash_1_3_128_as_computed_by_an_independent_implementation() {
        let seed = Seed([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
        let mut reference = reference::Sip13_128::new(seed.0);
        for len in 0..32_u8 {
            let key: Vec<u8> = (0..len).collect();
            let hash = seed.hash(&key);
            assert_eq!((hash.place, hash.tag), reference.hash(&key), "length {len}");
        }
    }

    /// The textbook form, byte by byte, to check the fast one against.
    #[cfg(not(feature = "tiny-tags"))]
    mod reference {
        pub struct Sip13_128 {
            key: [u64; 2],
        }
        impl Sip13_128 {
            pub fn new(key: [u64; 2]) -> Self {
                Self { key }
            }
            pub fn hash(&mut self, bytes: &[u8]) -> (u64, u64) {
                let mut padded = bytes.to_vec();
                while padded.len() % 8 != 7 {
                    padded.push(0);
                }
                padded.push(bytes.len() as u8);
                let mut v = [
                    0x736f6d6570736575 ^ self.key[0],
                    0x646f72616e646f6d ^ self.key[1] ^ 0xee,
                    0x6c7967656e657261 ^ self.key[0],
                    0x7465646279746573 ^ self.key[1],
                ];
                for word in padded.chunks(8) {
                    let m = word.iter().rev().fold(0_u64, |m, &b| m << 8 | u64::from(b));
                    v[3] ^= m;
                    round(&mut v);
                    v[0] ^= m;
                }
                v[2] ^= 0xee;
                (0..3).for_each(|_| round(&mut v));
                let first = v.iter().fold(0, |a, b| a ^ b);
                v[1] ^= 0xdd;
                (0..3).for_each(|_| round(&mut v));
                (first, v.iter().fold(0, |a, b| a ^ b))
            }
        }
        fn round(v: &mut [u64; 4]) {
            v[0] = v[0].wrapping_add(v[1]);
            v[1] = v[1].rotate_left(13);
            v[1] ^= v[0];
            v[0] = v[0].rotate_left(32);
            v[2] = v[2].wrapping_add(v[3]);
            v[3] = v[3].rotate_left(16);
            v[3] ^= v[2];
            v[0] = v[0].wrapping_add(v[3]);
            v[3] = v[3].rotate_left(21);
            v[3] ^= v[0];
            v[2] = v[2].wrapping_add(v[1]);
            v[1] = v[1].rotate_left(17);
            v[1] ^= v[2];
            v[2] = v[2].rotate_left(32);
        }
    }
}
