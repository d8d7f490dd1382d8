//! Requests for cached records: popular keys by Zipf's law, and scans that go once over keys nobody else asks for.

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    /// Zipf's exponent: the key of rank *n* is asked for as often as n^-skew.
    pub skew: f64,
    /// Keys drawn from.
    pub keys: u64,
    /// Requests drawn.
    pub requests: u64,
    /// After so many of them comes a scan; 0: none does.
    pub scan_every: u64,
    /// Requests of a scan.
    pub scan_len: u64,
}

/// One request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// For a key by its popularity.
    Popular(u64),
    /// For the next key of a scan. These numbers follow those of the popular keys.
    Scanned(u64),
}

impl Request {
    /// The key's number.
    pub fn number(self) -> u64 {
        let (Request::Popular(number) | Request::Scanned(number)) = self;
        number
    }
}

impl Trace {
    /// All requests, in order. The same each time.
    pub fn requests(&self) -> impl Iterator<Item = Request> + use<> {
        let Trace { keys, requests, scan_every, scan_len, .. } = *self;
        let (sums, mut random) = (self.sums(), fastrand::Rng::with_seed(1));
        (0..requests).flat_map(move |number| {
            let sum = random.f64() * sums[sums.len() - 1];
            let popular = Request::Popular(sums.partition_point(|&upto| upto < sum) as u64);
            let scans = scan_every != 0 && number % scan_every == scan_every - 1;
            let first = keys + number.checked_div(scan_every).unwrap_or(0) * scan_len % range(keys, scan_len);
            let scan = (0..if scans { scan_len } else { 0 }).map(move |at| Request::Scanned(first + at));
            std::iter::once(popular).chain(scan)
        })
    }

    /// Keys there are, those of the scans included.
    pub fn all_keys(&self) -> u64 {
        self.keys + range(self.keys, self.scan_len) + self.scan_len
    }

    fn sums(&self) -> Vec<f64> {
        let weights = (1..=self.keys).map(|rank| (rank as f64).powf(-self.skew));
        let add = |sum: &mut f64, weight| {
            *sum += weight;
            Some(*sum)
        };
        weights.scan(0.0, add).collect()
    }
}

/// Scans start over after as many keys as there are popular ones: long after any cache has forgotten them.
fn range(keys: u64, scan_len: u64) -> u64 {
    (keys / scan_len.max(1)).max(1) * scan_len.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: Trace = Trace { skew: 1.0, keys: 1_000, requests: 20_000, scan_every: 500, scan_len: 100 };

    #[test]
    fn popularity_follows_the_rank() {
        let mut counts = vec![0_u32; 1_000];
        for request in TRACE.requests() {
            if let Request::Popular(number) = request {
                counts[number as usize] += 1;
            }
        }
        // 20,000 / H(1000) = 2,672 for the first, half of that for the second.
        assert!((2_400..2_950).contains(&counts[0]) && (1_150..1_530).contains(&counts[1]), "{:?}", &counts[..2]);
        assert_eq!(counts.iter().sum::<u32>(), 20_000);
    }

    #[test]
    fn scans_come_in_their_turn_and_keep_to_their_keys() {
        let all: Vec<Request> = TRACE.requests().collect();
        assert_eq!(all.len(), 20_000 + 40 * 100);
        assert!((500..600).all(|at| all[at] == Request::Scanned(1_000 + at as u64 - 500)));
        assert!(all.iter().all(|request| request.number() < TRACE.all_keys()));
        let alone = Trace { scan_every: 0, ..TRACE };
        assert_eq!(alone.requests().count(), 20_000);
    }
}
