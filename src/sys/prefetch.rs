//! Asking the processor to bring memory near before it is needed: `prefetcht0` on x86-64, nothing elsewhere.

/// Starts to fetch the cache line at the beginning of `place`. A hint: it reads nothing and cannot fault.
#[inline(always)]
pub fn prefetch<T: ?Sized>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction is part of x86-64's base set and never faults, whatever the address; this one is a live
    // reference's.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
