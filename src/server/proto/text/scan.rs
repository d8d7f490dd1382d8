//! Finding the ends of words and reading numbers, eight bytes at a time where it pays.

/// Digits only; `None` if there are none, or the number does not fit.
pub fn number(word: &[u8]) -> Option<u64> {
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0u64, |n, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        n.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// The same with an optional minus sign.
pub fn signed(word: &[u8]) -> Option<i64> {
    match word {
        [b'-', digits @ ..] => 0i64.checked_sub_unsigned(number(digits)?),
        digits => i64::try_from(number(digits)?).ok(),
    }
}

/// How many spaces `bytes` starts with.
pub fn spaces(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| **byte == b' ').count()
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = ONES << 7;

/// The high bit of every zero byte of `word`. Exact up to and including the lowest one; beyond that a borrow may add
/// more.
fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGHS
}

/// How many bytes stand before the first for which `hit` is true; `hits` says the same of eight at once (lowest one
/// exact).
#[inline(always)]
fn span(bytes: &[u8], hits: impl Fn(u64) -> u64, hit: impl Fn(u8) -> bool) -> usize {
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let found = hits(u64::from_le_bytes(*word));
        if found != 0 {
            return index * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let tail_start = bytes.len() - tail.len();
    tail.iter().position(|byte| hit(*byte)).map_or(bytes.len(), |at| tail_start + at)
}

/// Where the first newline is.
pub fn newline(bytes: &[u8]) -> Option<usize> {
    let at = span(bytes, |word| zero_bytes(word ^ (ONES * u64::from(b'\n'))), |byte| byte == b'\n');
    (at < bytes.len()).then_some(at)
}

/// Length of the word that `bytes` starts with: up to the first space.
pub fn word_len(bytes: &[u8]) -> usize {
    span(bytes, |word| zero_bytes(word ^ (ONES * u64::from(b' '))), |byte| byte == b' ')
}

/// How many bytes at the start may stand in a key: neither space nor control character.
pub fn key_len(bytes: &[u8]) -> usize {
    let below_or_space = |word: u64| word.wrapping_sub(ONES * 0x21) & !word & HIGHS;
    let delete = |word: u64| zero_bytes(word ^ (ONES * 0x7f));
    span(bytes, |word| below_or_space(word) | delete(word), |byte| byte <= b' ' || byte == 0x7f)
}
