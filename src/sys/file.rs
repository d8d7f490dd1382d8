//! Files and directories: the calls that `std::fs` lacks (`preadv2(2)`, `fallocate(2)`, `sync_file_range(2)`, `dup3(2)`), on plain
//! [`std::fs::File`]s, and a cheaper `pwrite(2)`. Everything else (`pread`, `fdatasync`, `flock`, `rename`) the callers
//! take from `std`.
//!
//! All offsets are 64 bits wide, also on 32-bit hosts: the `*64` variants of the calls are used throughout.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Reads at `offset` what can be had without sleeping (`preadv2` with `RWF_NOWAIT`). `Ok(None)`: the kernel would have
/// to go to the disk, or this file system cannot tell; read it where sleeping is allowed. A short count means that only
/// the beginning was in the page cache, or that the file ends there.
pub fn read_nowait(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
    let slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: `slice` names exactly the caller's exclusively borrowed buffer, which outlives the call; the kernel
    // writes at most `iov_len` bytes into it and keeps no pointer afterwards.
    let count = unsafe { libc::preadv64v2(file.as_raw_fd(), &slice, 1, to_off64(offset)?, libc::RWF_NOWAIT) };
    match usize::try_from(count) {
        Ok(count) => Ok(Some(count)),
        Err(_) => would_sleep(io::Error::last_os_error()),
    }
}

/// The same, of `len` bytes, behind what `buffer` has; memory that nothing is read into is not touched.
pub fn append_nowait(file: &File, buffer: &mut Vec<u8>, len: usize, offset: u64) -> io::Result<Option<usize>> {
    buffer.reserve(len);
    let slice = libc::iovec { iov_base: buffer.spare_capacity_mut().as_mut_ptr().cast(), iov_len: len };
    // SAFETY: `slice` names spare capacity of the exclusively borrowed buffer, which has room for `len` bytes there; the
    // kernel writes at most so many and keeps no pointer afterwards.
    let count = unsafe { libc::preadv64v2(file.as_raw_fd(), &slice, 1, to_off64(offset)?, libc::RWF_NOWAIT) };
    let Ok(count) = usize::try_from(count) else { return would_sleep(io::Error::last_os_error()) };
    // SAFETY: the kernel has filled the first `count` of them.
    unsafe { buffer.set_len(buffer.len() + count) };
    Ok(Some(count))
}

/// Writes all of `bytes` at `offset` (`pwrite`): the call itself, for the library's function is a point where threads can
/// be cancelled, which costs small writes a tenth of their time.
pub fn write_all(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => (bytes, offset) = (&bytes[count..], offset + count as u64),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(target_pointer_width = "64")]
fn write(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    let (at, offset) = (bytes.as_ptr(), to_off64(offset)?);
    // SAFETY: the arguments are those of pwrite64(2) as a 64-bit kernel takes them, one register each; the kernel reads at
    // most `bytes.len()` bytes of the borrowed slice and keeps no pointer afterwards.
    let count = unsafe { libc::syscall(libc::SYS_pwrite64, file.as_raw_fd(), at, bytes.len(), offset) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// There the offset takes two registers, which ones depends on the architecture.
#[cfg(not(target_pointer_width = "64"))]
fn write(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::write_at(file, bytes, offset)
}

/// Opens a file to be written past the page cache (`O_DIRECT`): from whole pages of memory, at offsets that are multiples of
/// a page. An error may mean that its file system cannot.
pub fn open_direct(path: &Path) -> io::Result<File> {
    File::options().write(true).custom_flags(libc::O_DIRECT).open(path)
}

/// Opens a file to be read and written, made if it is not there and left as it is otherwise, and holds it for this process
/// alone until it is dropped; `false`: another process holds it. Nothing is followed that a symbolic link of that name names
/// (`ELOOP`), and nobody is waited for if it is a pipe.
pub fn hold(path: &Path) -> io::Result<(File, bool)> {
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path)?;
    // Where there are no locks it is nobody's all the same.
    let is_held = !matches!(file.try_lock(), Err(TryLockError::WouldBlock));
    Ok((file, is_held))
}

/// Has `file` be what `other` is, which is closed (`dup3`): at once for all threads, so that nobody waits to write to either.
pub fn replace(file: &File, other: File) -> io::Result<()> {
    // SAFETY: both descriptors are open and stay their owners'; `file` goes on to own its number, which now names another file.
    match unsafe { libc::dup3(other.as_raw_fd(), file.as_raw_fd(), libc::O_CLOEXEC) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reserves disk blocks for `[0, len)` and makes the file that long (`fallocate`). `Ok(false)`: this file system
/// cannot. `ENOSPC` is an error: the point of reserving is to learn it here.
pub fn preallocate(file: &File, len: u64) -> io::Result<bool> {
    supported(fallocate(file, 0, 0, len))
}

/// Gives the blocks of `[offset, offset + len)` back; the range then reads as zeros (`FALLOC_FL_PUNCH_HOLE`).
/// `Ok(false)`: this file system cannot.
pub fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    supported(fallocate(file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, len))
}

/// Starts writing the dirty pages of `[offset, offset + len)` to the disk and does not wait for them. A hint: it makes
/// no promise of durability, and its failure means nothing.
pub fn start_write_back(file: &File, offset: u64, len: u64) {
    let (Ok(offset), Ok(len)) = (to_off64(offset), to_off64(len)) else {
        return;
    };
    // SAFETY: takes no pointers; the descriptor is open for as long as `file` is borrowed.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Makes the directory's entries durable: files created in it, renamed or removed are so after a power cut too.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn fallocate(file: &File, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
    let (offset, len) = (to_off64(offset)?, to_off64(len)?);
    loop {
        // SAFETY: takes no pointers; the descriptor is open for as long as `file` is borrowed.
        if unsafe { libc::fallocate64(file.as_raw_fd(), mode, offset, len) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn supported(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn would_sleep(error: io::Error) -> io::Result<Option<usize>> {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EOPNOTSUPP | libc::ENOSYS | libc::EINTR) => Ok(None),
        _ => Err(error),
    }
}

pub(super) fn to_off64(value: u64) -> io::Result<libc::off64_t> {
    libc::off64_t::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_read_that_need_not_sleep_returns_the_bytes_or_says_that_it_cannot() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let mut buffer = [0; 4];
        if let Some(count) = read_nowait(&file, &mut buffer, 3).unwrap() {
            assert_eq!(&buffer[..count], b"3456");
        }
        assert!(read_nowait(&file, &mut buffer, u64::MAX).is_err());
        let mut bytes = b"ab".to_vec();
        if let Some(count) = append_nowait(&file, &mut bytes, 100, 5).unwrap() {
            assert_eq!((count, &bytes[..]), (5, &b"ab56789"[..]));
        }
    }

    #[test]
    fn a_file_that_is_replaced_is_the_other_one() {
        let directory = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| directory.path().join(name));
        let file = File::create(&one).unwrap();
        (&file).write_all(b"a").unwrap();
        replace(&file, File::create(&two).unwrap()).unwrap();
        (&file).write_all(b"b").unwrap();
        assert_eq!((std::fs::read(one).unwrap(), std::fs::read(two).unwrap()), (b"a".to_vec(), b"b".to_vec()));
    }

    #[test]
    fn a_punched_range_reads_as_zeros_and_the_file_keeps_its_length() {
        let file = tempfile::tempfile().unwrap();
        assert!(preallocate(&file, 16384).unwrap());
        file.write_all_at(&[7; 16384], 0).unwrap();
        assert!(punch_hole(&file, 4096, 8192).unwrap());
        let mut buffer = [1; 16384];
        file.read_exact_at(&mut buffer, 0).unwrap();
        assert!(buffer[4096..12288].iter().all(|&byte| byte == 0));
        assert_eq!((buffer[4095], buffer[12288]), (7, 7));
    }
}
