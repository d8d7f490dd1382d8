//! Copying past the processor's caches: `movntdq` on x86-64, plainly elsewhere. For what this processor will not read again and
//! something else will: the cache keeps what is worth it. And where something else has read the memory before (another processor;
//! the host, on behalf of a disk that is no real one), a plain write of a line waits until that gives it up, and this does not
//! (measured on x86-64, of 1 MB: 0.25 to 0.45 ms against 0.04; where nobody else has the lines, 0.03 against 0.04).

/// Copies `from` to `to`, which is as long.
///
/// # Panics
/// If it is not.
pub fn copy_past_caches(from: &[u8], to: &mut [u8]) {
    assert!(from.len() == to.len(), "out of range");
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
        // SAFETY: any bytes are a valid value of that type, and any such value is valid bytes.
        let (head, middle, tail) = unsafe { to.align_to_mut::<__m128i>() };
        let (first, rest) = from.split_at(head.len());
        let (between, last) = rest.split_at(size_of_val(middle));
        head.copy_from_slice(first);
        for (from, to) in between.as_chunks::<{ size_of::<__m128i>() }>().0.iter().zip(middle) {
            // SAFETY: part of x86-64's base set. Reads as many bytes as there are, however they lie; writes as many, which lie
            // as that type does.
            unsafe { _mm_stream_si128(to, _mm_loadu_si128(from.as_ptr().cast())) };
        }
        tail.copy_from_slice(last);
        // Such writes are ordered with no others, and so with no lock that hands the memory over.
        // SAFETY: part of the base set.
        unsafe { _mm_sfence() };
    }
    #[cfg(not(target_arch = "x86_64"))]
    to.copy_from_slice(from);
}

#[cfg(test)]
mod tests {
    use super::copy_past_caches;

    #[test]
    fn it_copies_all_and_nothing_else_however_it_lies() {
        let from: Vec<u8> = (0..600u32).map(|i| (i % 251) as u8).collect();
        for (len, skip, at) in (0..300).flat_map(|len| [(len, len % 7, len % 19), (len, 0, 16), (len, 3, 1)]) {
            let mut to = [255; 400];
            copy_past_caches(&from[skip..skip + len], &mut to[at..at + len]);
            assert_eq!(to[at..at + len], from[skip..skip + len]);
            assert!(to[..at].iter().chain(&to[at + len..]).all(|&byte| byte == 255), "{len} bytes to {at}");
        }
    }
}
