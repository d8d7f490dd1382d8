//! Asking the processor to bring memory near before it is needed: `prefetcht0` and `prefetchw` on x86-64, nothing
//! elsewhere.

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

/// As [`prefetch`], of what is about to be written: where another processor has the line, it gives it up now, and not when
/// the write, or a lock's instruction, comes to wait for it.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block, reason = "the instruction neither reads nor writes what it names")]
pub fn prefetch_to_write<T: ?Sized>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above; a processor that does not know the instruction takes it for one that does nothing.
    unsafe {
        let place = std::ptr::from_ref(place).cast::<u8>();
        std::arch::asm!("prefetchw [{}]", in(reg) place, options(nomem, nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
