//! Anonymous memory: `mmap(2)` and `madvise(2)`. For the large arrays of the record cache, which are read at random:
//! with huge pages a read costs one cache miss and not, on top of it, a walk through page tables.
//!
//! And what `malloc(3)` may keep of the memory that was given back to it.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A huge page on most processors. Bytes.
pub const HUGE: usize = 2 << 20;

/// Bounds what `malloc(3)` keeps for itself (`mallopt(3)`). By default it has up to eight arenas per processor, and the
/// first large block that is freed makes it keep as much, in each of them. To be called before there are threads.
#[cfg(target_env = "gnu")]
pub fn bound_malloc() {
    const ARENAS: libc::c_int = 2;
    /// Larger blocks come from the kernel one by one and go back to it. Bytes.
    const LARGE: libc::c_int = 256 << 10;
    /// What an arena keeps at its end, so that chunks of 64 KiB which come and go cost no page faults. Bytes.
    const KEPT: libc::c_int = 1 << 20;
    for (what, value) in [(libc::M_ARENA_MAX, ARENAS), (libc::M_MMAP_THRESHOLD, LARGE), (libc::M_TRIM_THRESHOLD, KEPT)]
    {
        // SAFETY: sets a number inside the allocator, which takes its own lock for it; what is refused changes nothing.
        unsafe { libc::mallopt(what, value) };
    }
}

/// Elsewhere there is nothing to set.
#[cfg(not(target_env = "gnu"))]
pub fn bound_malloc() {}

/// Zeroed memory of fixed length. A page of it takes up RAM from when it is first written to.
pub struct Region {
    mapping: NonNull<u8>,
    mapped: usize,
    /// Bytes between the start of the mapping and the first that is used, for alignment.
    skip: usize,
    len: usize,
}

// SAFETY: a Region owns its mapping alone, as a Box<[u8]> owns its allocation; nothing in it is tied to a thread.
unsafe impl Send for Region {}
// SAFETY: through `&Region` the bytes can only be read; writing takes `&mut Region`.
unsafe impl Sync for Region {}

impl Region {
    /// `len` bytes; with `huge`, in huge pages where the kernel has them to give (`MADV_HUGEPAGE`), and then RAM is
    /// taken up in their size.
    ///
    /// # Errors
    /// The kernel's, when the address space is used up.
    pub fn new(len: usize, huge: bool) -> io::Result<Region> {
        let slack = if huge { HUGE } else { 0 };
        let mapped = len.max(1).checked_add(slack).ok_or(io::ErrorKind::OutOfMemory)?;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: asks for a new mapping wherever the kernel likes; no existing memory is touched.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), mapped, protection, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let Some(mapping) = NonNull::new(address.cast::<u8>()) else { return Err(io::ErrorKind::OutOfMemory.into()) };
        let skip = if huge { mapping.as_ptr().align_offset(HUGE).min(slack) } else { 0 };
        if huge {
            // SAFETY: the range lies inside the mapping made above; advice changes no contents. A refusal only means
            // small pages.
            unsafe { libc::madvise(mapping.as_ptr().add(skip).cast(), len, libc::MADV_HUGEPAGE) };
        }
        Ok(Region { mapping, mapped, skip, len })
    }
}

impl Deref for Region {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `skip + len <= mapped`; the mapping is readable, initialised (anonymous memory is zero) and lives as
        // long as self.
        unsafe { std::slice::from_raw_parts(self.mapping.as_ptr().add(self.skip), self.len) }
    }
}

impl DerefMut for Region {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes this the only way to the bytes.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.as_ptr().add(self.skip), self.len) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`, to which no reference is left.
        unsafe { libc::munmap(self.mapping.as_ptr().cast(), self.mapped) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_zero_and_keeps_what_is_written() {
        for (len, huge) in [(0, false), (5, false), (3 << 20, true), (HUGE, true)] {
            let mut region = Region::new(len, huge).unwrap();
            assert_eq!(region.len(), len);
            assert!(region.iter().all(|&byte| byte == 0));
            region.fill(7);
            assert!(region.iter().all(|&byte| byte == 7));
        }
        assert!(Region::new(usize::MAX - 5, false).is_err());
    }
}
