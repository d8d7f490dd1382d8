//! What is measured: db_bench's workloads, keys and values.

use serde::{Deserialize, Serialize};

/// What is done `count` times, in the order in which it is done. (Named as in LevelDB's db_bench.)
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// All keys in order, into an empty store.
    FillSeq,
    /// Random keys into an empty store. Some come more than once, some never.
    FillRandom,
    /// Random keys into the store that FillRandom left.
    Overwrite,
    /// Gets of random keys. Some are missing.
    ReadRandom,
    /// Everything, record by record.
    ReadSeq,
    /// Gets of random keys out of a hundredth of them.
    ReadHot,
    /// ReadRandom after reopening with a cache of an eighth of the data.
    ReadCold,
    /// FillRandom, each value on the disk before the next.
    FillSync,
    /// No store at all: a loop that gives the kernel as many bytes as KingDB's records have, a call for each.
    Pwrite,
}

impl Workload {
    /// As in tables and in db_bench.
    pub fn name(self) -> &'static str {
        match self {
            Workload::FillSeq => "fillseq",
            Workload::FillRandom => "fillrandom",
            Workload::Overwrite => "overwrite",
            Workload::ReadRandom => "readrandom",
            Workload::ReadSeq => "readseq",
            Workload::ReadHot => "readhot",
            Workload::ReadCold => "readcold",
            Workload::FillSync => "fillsync",
            Workload::Pwrite => "pwrite alone",
        }
    }

    /// In the order of the tables, which is the order in which they run but for the last.
    pub const ALL: [Workload; 9] = [
        Workload::FillSeq,
        Workload::FillRandom,
        Workload::Overwrite,
        Workload::ReadRandom,
        Workload::ReadSeq,
        Workload::ReadHot,
        Workload::ReadCold,
        Workload::FillSync,
        Workload::Pwrite,
    ];

    /// Whether it stores values.
    pub fn writes(self) -> bool {
        use Workload::{FillRandom, FillSeq, FillSync, Overwrite, Pwrite};
        matches!(self, FillSeq | FillRandom | Overwrite | FillSync | Pwrite)
    }
}

/// How much of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Scale {
    /// Bytes of a value.
    pub size: usize,
    /// Keys, and operations of a workload.
    pub count: u64,
    /// Operations of [`Workload::FillSync`].
    pub synced: u64,
    /// Different each round, the same for all stores.
    pub seed: u64,
}

/// Bytes of a key.
pub const KEY: usize = 16;
/// Bytes of the cache that each store gets.
pub const CACHE: u64 = 64 << 20;

impl Scale {
    /// The sizes of the tables. Bounded, so that the data fits in memory and on the disk.
    pub const FULL: [Scale; 4] = [
        Scale { size: 100, count: 300_000, synced: 500, seed: 0 },
        Scale { size: 1_000, count: 300_000, synced: 500, seed: 0 },
        Scale { size: 100_000, count: 2_000, synced: 200, seed: 0 },
        Scale { size: 1_000_000, count: 300, synced: 60, seed: 0 },
    ];

    /// The same for finding out whether it runs.
    pub fn smoke(self) -> Scale {
        Scale { count: (self.count / 100).max(10), synced: 5, ..self }
    }

    /// The cache of [`Workload::ReadCold`]. Bytes.
    pub fn small_cache(&self) -> u64 {
        (self.count * (KEY + self.size) as u64 / 8).max(1 << 20)
    }

    /// For people.
    pub fn title(&self) -> String {
        match self.size {
            size @ 0..1_000 => format!("{size} B"),
            size @ 1_000..1_000_000 => format!("{} KB", size / 1_000),
            size => format!("{} MB", size / 1_000_000),
        }
    }
}

/// The key of a number.
pub fn key(number: u64) -> [u8; KEY] {
    let mut key = [b'0'; KEY];
    let mut rest = number;
    for digit in key.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// Values that compress by half, cut out of one array: nothing to compute while the clock runs.
pub struct Values {
    bytes: Vec<u8>,
    at: usize,
    size: usize,
}

/// Half of a piece repeats the other half. Bytes.
const PIECE: usize = 100;

impl Values {
    /// Values of `size` bytes.
    pub fn new(size: usize, seed: u64) -> Values {
        let mut random = fastrand::Rng::with_seed(seed);
        let len = size.max(1 << 20) * 2;
        let mut bytes = Vec::with_capacity(len + PIECE);
        while bytes.len() < len {
            let half: [u8; PIECE / 2] = std::array::from_fn(|_| random.u8(b' '..=b'~'));
            bytes.extend_from_slice(&half);
            bytes.extend_from_slice(&half);
        }
        Values { bytes, at: 0, size }
    }

    /// The next one.
    pub fn cut(&mut self) -> &[u8] {
        if self.at + self.size > self.bytes.len() {
            self.at = 0;
        }
        self.at += self.size;
        &self.bytes[self.at - self.size..self.at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_numbers_do() {
        assert_eq!(&key(12_345), b"0000000000012345");
        assert!(key(9) < key(10));
    }

    #[test]
    fn values_have_their_size_and_go_round() {
        for size in [100, 1_000, 1_000_000] {
            let mut values = Values::new(size, 1);
            let first = values.cut().to_vec();
            assert_eq!((first.len(), &first[..50]), (size, &first[50..100]));
            assert_ne!(values.cut(), first);
            (0..3 * (1 << 20) / size).for_each(|_| assert_eq!(values.cut().len(), size));
        }
    }
}
