//! Sizes, times and other words as people write them: `256mb`, `5 seconds`, `yes`.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Bytes: a plain number, or one with a unit. Units are powers of 1024: `64k`, `256mb`, `1 GiB`.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a size: give bytes, or a number and a unit, such as 512k, 256mb or 1gib");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// A size as people write it: in the largest unit of which it is a multiple.
pub fn shown(bytes: u64) -> String {
    let unit = if bytes == 0 { 0 } else { 4.min(bytes.trailing_zeros() / 10) };
    format!("{}{}", bytes >> (10 * unit), ["", "k", "mb", "gb", "tb"][unit as usize])
}

/// A span of time: a plain number of seconds, or one with a unit: `500ms`, `5 seconds`, `2 min`.
pub fn time(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("'{text}' is not a time: give seconds, or a number and a unit, such as 500ms, 5 seconds or 2 min");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let millis = match unit.as_str() {
        "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => 1,
        "" | "s" | "sec" | "secs" | "second" | "seconds" => 1000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
        "h" | "hour" | "hours" => 3_600_000,
        "d" | "day" | "days" => 86_400_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(wrong)
}

/// A span of time as people write it, if it is less than a second or whole ones.
pub fn shown_time(time: Duration) -> String {
    match time.subsec_millis() {
        0 => format!("{}s", time.as_secs()),
        millis => format!("{millis}ms"),
    }
}

/// A plain number within limits.
pub fn number(text: &str, limits: RangeInclusive<u64>) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a number from {} to {}", limits.start(), limits.end());
    let (number, unit) = split(text).ok_or_else(wrong)?;
    if !unit.is_empty() || !limits.contains(&number) {
        return Err(wrong());
    }
    Ok(number)
}

/// Yes or no, in the usual words.
pub fn truth(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "on" | "true" | "1" => Ok(true),
        "no" | "off" | "false" | "0" => Ok(false),
        _ => Err(format!("'{text}' is neither yes nor no")),
    }
}

/// Digits, and the letters behind them in lower case.
fn split(text: &str) -> Option<(u64, String)> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number = text[..digits].parse().ok()?;
    Some((number, text[digits..].trim_start().to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", 0),
            ("1000", 1000),
            ("1b", 1),
            ("64k", 65_536),
            ("64 KB", 65_536),
            ("256mb", 256 << 20),
            ("1 GiB", 1 << 30),
            (" 2t ", 2 << 40),
        ] {
            assert_eq!(size(text), Ok(expected), "{text}");
        }
        for text in ["", "mb", "-1", "1.5g", "1x", "1 m b", "99999999999999999999", "18446744073709551615k"] {
            assert!(size(text).is_err_and(|message| message.contains(text)), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_as_they_are_read() {
        for (bytes, expected) in
            [(0, "0"), (1000, "1000"), (1 << 10, "1k"), (8 << 20, "8mb"), (3 << 29, "1536mb"), (1 << 50, "1024tb")]
        {
            assert_eq!((shown(bytes).as_str(), size(expected)), (expected, Ok(bytes)));
        }
    }

    #[test]
    fn times() {
        for (text, expected) in [
            ("0", 0),
            ("5", 5000),
            ("500ms", 500),
            ("5 seconds", 5000),
            ("1 second", 1000),
            ("2 min", 120_000),
            ("1h", 3_600_000),
            ("1 day", 86_400_000),
        ] {
            assert_eq!(time(text), Ok(Duration::from_millis(expected)), "{text}");
        }
        for text in ["", "s", "-1s", "5 fortnights", "18446744073709551615 d"] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_and_words() {
        assert_eq!(number("7", 1..=7), Ok(7));
        for text in ["8", "0", "7k", "", "-7", "seven"] {
            assert_eq!(number(text, 1..=7), Err(format!("'{text}' is not a number from 1 to 7")));
        }
        assert_eq!((truth("Yes"), truth("off")), (Ok(true), Ok(false)));
        assert!(truth("maybe").is_err());
    }
}
