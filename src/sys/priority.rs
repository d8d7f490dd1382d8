//! How much a thread counts beside others: `setpriority(2)` and `ioprio_set(2)`, for threads whose work can wait.

/// Steps of politeness of a thread that others need not wait for. On a busy processor such a one gets a thirtieth of it:
/// whoever depends on it must be made to wait for it.
const NICE: libc::c_int = 15;
/// "Best effort", the lowest of its eight levels: never starved, last in line.
const LAST_IN_LINE: libc::c_int = (2 << 13) | 7;
const THIS_THREAD: libc::c_int = 0;
const IOPRIO_WHO_PROCESS: libc::c_int = 1;

/// Lets other threads have the processor and the disk first. A hint: its failure means nothing.
pub fn step_back() {
    // SAFETY: takes integers and touches no memory. On Linux, zero means the calling thread alone.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, THIS_THREAD as libc::id_t, NICE) };
    // SAFETY: as above; the kernel refuses what it does not know.
    unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, THIS_THREAD, LAST_IN_LINE) };
}
