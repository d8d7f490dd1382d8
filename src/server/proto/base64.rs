//! Base64, as the meta dialect uses it for keys of any bytes (RFC 4648, section 4).

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends `bytes` in base64.
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    for block in bytes.chunks(3) {
        let word = (0..3).fold(0, |word, at| word << 8 | block.get(at).map_or(0, |byte| usize::from(*byte)));
        for at in 0..4 {
            let sextet = word >> (18 - 6 * at) & 63;
            out.push(if at <= block.len() { ALPHABET[sextet] } else { b'=' });
        }
    }
}

/// Decodes `text` into the beginning of `out`; tells how many bytes that were. As memcached does: characters that are
/// none of base64 are passed over, and what follows the padding is not looked at. `None`: not a whole number of blocks,
/// wrong padding, nothing, or more than `out` takes.
pub fn decode(text: &[u8], out: &mut [u8]) -> Option<usize> {
    let (mut word, mut sextets, mut padding, mut len) = (0, 0, 0, 0);
    let known = text.iter().filter(|byte| value(**byte).is_some()).count();
    if known == 0 || known % 4 != 0 {
        return None;
    }
    for byte in text {
        let Some(sextet) = value(*byte) else { continue };
        padding += usize::from(*byte == b'=');
        word = word << 6 | sextet;
        sextets += 1;
        if sextets % 4 == 0 {
            let bytes = u32::to_be_bytes(word);
            let count = 3_usize.checked_sub(padding).filter(|count| *count > 0)?;
            out.get_mut(len..len + count)?.copy_from_slice(&bytes[1..1 + count]);
            len += count;
            if padding > 0 {
                break;
            }
            word = 0;
        }
    }
    Some(len)
}

fn value(byte: u8) -> Option<u32> {
    Some(match byte {
        b'A'..=b'Z' => u32::from(byte - b'A'),
        b'a'..=b'z' => u32::from(byte - b'a') + 26,
        b'0'..=b'9' => u32::from(byte - b'0') + 52,
        b'+' => 62,
        b'/' => 63,
        b'=' => 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        for (bytes, text) in [(&b"f"[..], "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"\xff\0\xfe\x01", "/wD+AQ==")] {
            let (mut encoded, mut room) = (Vec::new(), [0; 10]);
            encode(bytes, &mut encoded);
            assert_eq!(encoded, text.as_bytes());
            assert_eq!(decode(text.as_bytes(), &mut room).map(|len| &room[..len]), Some(bytes));
        }
    }

    #[test]
    fn what_is_no_base64_is_refused() {
        for text in ["", "Z", "Zg", "Zg=", "Z===", "====", "!!!!", "Zm9vZ"] {
            assert_eq!(decode(text.as_bytes(), &mut [0; 10]), None, "{text}");
        }
        assert_eq!(decode(b"Zm9v", &mut [0; 2]), None);
        assert_eq!(decode(b"Z-m-9-v", &mut [0; 3]), Some(3));
    }
}
