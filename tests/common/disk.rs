//! A file system of its own, in an image behind a loop device, whose power can be cut: the shutdown ioctl stops it as it is, and
//! nothing that was not written yet reaches the image, not even the journal. Needs root.

use super::util::{DEADLINE, wait_until};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// `FS_IOC_SHUTDOWN`.
const SHUTDOWN: u64 = 0x8004_587D;
/// Without flushing the journal first.
const NO_LOG_FLUSH: u32 = 2;

/// An image with a file system in it.
pub struct Disk {
    directory: TempDir,
}

/// The file system in use. Dropped, it is unmounted.
pub struct Mount<'a> {
    disk: &'a Disk,
}

impl Disk {
    /// A new one of this kind (`ext4`, `xfs`) and size. Bytes.
    pub fn new(kind: &str, size: u64) -> Disk {
        // A sync is quick in memory, and the image is sparse.
        let disk = Disk { directory: memory() };
        File::create(disk.image()).and_then(|file| file.set_len(size)).expect("make an image");
        let quietly: &[&str] = if kind == "xfs" { &["-q", "-f"] } else { &["-q", "-F"] };
        run(Command::new(format!("mkfs.{kind}")).args(quietly).arg(disk.image()));
        std::fs::create_dir(disk.path()).expect("make the mount point");
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mount")
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    /// Mounts it; the file system repairs itself if the power was cut.
    pub fn mount(&self) -> Mount<'_> {
        run(Command::new("mount").args(["-o", "loop"]).arg(self.image()).arg(self.path()));
        Mount { disk: self }
    }
}

impl Mount<'_> {
    /// Nothing reaches the disk any more.
    pub fn cut_power(&self) {
        let root = File::open(self.disk.path()).expect("open the mount point");
        // SAFETY: the descriptor is open, and the kernel reads one u32 through the pointer during the call.
        let done = unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN as _, &NO_LOG_FLUSH) };
        assert_eq!(done, 0, "shut the file system down: {}", std::io::Error::last_os_error());
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let unmount = |lazily: &[&str]| Command::new("umount").args(lazily).arg(self.disk.path()).output();
        let unmounted = || unmount(&[]).is_ok_and(|output| output.status.success());
        if std::thread::panicking() {
            if !unmounted() {
                let _ = unmount(&["-l"]);
            }
            return;
        }
        wait_until("the file system is unmounted", unmounted);
    }
}

/// A directory in memory, where that can be had.
pub fn memory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    directory.expect("make a temporary directory")
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error} (tests/setup test installs it)"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {said}(file systems in an image need root and loop devices)");
}
