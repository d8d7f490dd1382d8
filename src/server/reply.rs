//! Writing answers of the text protocol into a buffer, by hand: this runs once or more per request, and
//! formatting machinery would cost more than the lookup it reports.

use kingdb::Error;

pub const STORED: &[u8] = b"STORED\r\n";
pub const NOT_STORED: &[u8] = b"NOT_STORED\r\n";
pub const EXISTS: &[u8] = b"EXISTS\r\n";
pub const NOT_FOUND: &[u8] = b"NOT_FOUND\r\n";
pub const DELETED: &[u8] = b"DELETED\r\n";
pub const TOUCHED: &[u8] = b"TOUCHED\r\n";
pub const OK: &[u8] = b"OK\r\n";
pub const END: &[u8] = b"END\r\n";
pub const RESET: &[u8] = b"RESET\r\n";
pub const ERROR: &[u8] = b"ERROR\r\n";
pub const VERSION: &[u8] = concat!("VERSION ", env!("CARGO_PKG_VERSION"), "\r\n").as_bytes();
pub const BAD_LINE: &[u8] = b"CLIENT_ERROR bad command line format\r\n";
pub const BAD_CHUNK: &[u8] = b"CLIENT_ERROR bad data chunk\r\n";
pub const NO_FLUSH: &[u8] = b"CLIENT_ERROR flush_all not allowed\r\n";
pub const LINE_TOO_LONG: &[u8] = b"CLIENT_ERROR line too long\r\n";
pub const NOT_A_NUMBER: &[u8] = b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n";
pub const TOO_LARGE: &[u8] = b"SERVER_ERROR object too large for cache\r\n";
pub const PARTS_MISSING: &[u8] = b"CLIENT_ERROR the upload has other parts than these\r\n";
pub const TIGHT: &[u8] = b"SERVER_ERROR out of memory: replies that clients do not read take it; try again later\r\n";
pub const NO_MEMORY: &[u8] = b"SERVER_ERROR out of memory storing object\r\n";
pub const TOO_MANY: &[u8] = b"ERROR Too many open connections\r\n";
pub const LINE_END: &[u8] = b"\r\n";

/// Longest text of a store's error that a reply carries. Bytes.
const LONGEST_ERROR: usize = 1024;

/// `VALUE <key> <flags> <len>[ <cas>]\r\n`
#[inline]
pub fn value_header(out: &mut Vec<u8>, key: &[u8], flags: u32, len: u64, cas: Option<u64>) {
    // From its end: nobody need count the digits first.
    let mut tail = [0; 3 * 21 + LINE_END.len()];
    let mut start = tail.len() - LINE_END.len();
    tail[start..].copy_from_slice(LINE_END);
    if let Some(cas) = cas {
        start = blank_and_decimal(&mut tail[..start], cas);
    }
    start = blank_and_decimal(&mut tail[..start], len);
    start = blank_and_decimal(&mut tail[..start], u64::from(flags));
    out.extend(*b"VALUE ");
    out.extend_from_slice(key);
    out.extend_from_slice(&tail[start..]);
}

/// Ends `tail` with a blank and `n` in decimal; tells where that begins.
#[inline]
fn blank_and_decimal(tail: &mut [u8], mut n: u64) -> usize {
    let mut at = tail.len();
    loop {
        at -= 1;
        tail[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    at -= 1;
    tail[at] = b' ';
    at
}

/// A number in decimal.
#[inline]
pub fn number(out: &mut Vec<u8>, value: u64) {
    if value < 10 {
        out.push(b'0' + value as u8);
        return;
    }
    let (digits, len) = decimal(value);
    out.extend_from_slice(&digits[..len]);
}

/// `n` in decimal: the first bytes of the array, and how many.
pub fn decimal(mut n: u64) -> ([u8; 20], usize) {
    let mut digits = [0; 20];
    let len = n.checked_ilog10().map_or(1, |log| log as usize + 1);
    for digit in digits[..len].iter_mut().rev() {
        *digit = b'0' + (n % 10) as u8;
        n /= 10;
    }
    (digits, len)
}

/// `SERVER_ERROR <why>\r\n`, whatever bytes `why` has: one line of bounded length.
pub fn server_error(out: &mut Vec<u8>, why: &str) {
    out.extend_from_slice(b"SERVER_ERROR ");
    out.extend(why.bytes().take(LONGEST_ERROR).map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
    out.extend_from_slice(LINE_END);
}

/// What the client is told of a store's error.
pub fn store_error(out: &mut Vec<u8>, error: &Error) {
    match error {
        Error::Damaged(_) => server_error(out, "damaged value"),
        // Where the disk is full is the operator's business, and told in the messages.
        Error::Full(_) => server_error(out, "out of disk space"),
        _ => server_error(out, &error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal() {
        for value in [0, 7, 10, 99, 100, 4_294_967_295, 10_000_000_000, u64::MAX] {
            let mut out = Vec::new();
            number(&mut out, value);
            assert_eq!(out, value.to_string().as_bytes());
        }
    }

    #[test]
    fn a_header_has_a_cas_only_when_asked() {
        let mut out = Vec::new();
        value_header(&mut out, b"key", 5, 100, None);
        value_header(&mut out, b"k", 0, 0, Some(77));
        assert_eq!(out, b"VALUE key 5 100\r\nVALUE k 0 0 77\r\n");
    }

    #[test]
    fn an_error_is_one_line_of_bounded_length() {
        let mut out = Vec::new();
        server_error(&mut out, &"bad\r\n".repeat(1000));
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(out.len(), b"SERVER_ERROR \r\n".len() + LONGEST_ERROR);
    }
}
