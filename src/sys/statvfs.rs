//! `statvfs(3)`: how much room a file system has.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The room of one file system.
#[derive(Clone, Copy, Debug)]
pub struct FileSystem {
    /// Bytes that an unprivileged process may still take.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
    /// Files that may still be made. `None`: the file system has no such limit.
    pub free_files: Option<u64>,
}

/// The room of the file system that holds `path`. Asks the file system, not the disk.
pub fn file_system(path: &Path) -> io::Result<FileSystem> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: statvfs64 is plain integers, so all-zero is a valid value.
    let mut found: libc::statvfs64 = unsafe { std::mem::zeroed() };
    // SAFETY: `path` is a string that ends with NUL and `found` a writable statvfs64; both outlive the call, which
    // keeps neither.
    if unsafe { libc::statvfs64(path.as_ptr(), &mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // The types of these fields differ between hosts.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    let (block, free, total) = (found.f_frsize as u64, found.f_bavail as u64, found.f_blocks as u64);
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    let (files, free_files) = (found.f_files as u64, found.f_favail as u64);
    Ok(FileSystem {
        free: block.saturating_mul(free),
        total: block.saturating_mul(total),
        free_files: (files != 0).then_some(free_files),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_has_no_more_room_than_it_is_large() {
        let here = file_system(Path::new("/")).unwrap();
        assert!(here.total > 0 && here.free <= here.total, "{here:?}");
        assert!(file_system(Path::new("/nonexistent")).is_err());
        assert!(file_system(Path::new("with\0nul")).is_err());
    }
}
