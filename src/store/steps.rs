//! Work of the kernel on a long range of a file, such as punching a hole, bit by bit and each time after a rest: what it
//! does at one go, it does on the processor of those who write, and under locks that they wait for. Over what is empty, or
//! done already, the steps grow. Threads that may sleep.

use std::time::Duration;

use crate::sys::clock;

/// What is done to a file at one go, and the rest before it. Bytes.
pub(crate) const STEP: u64 = 2 << 20;
pub(crate) const REST: Duration = Duration::from_micros(50);
/// A step that took less found next to nothing to do.
const QUICK: Duration = Duration::from_micros(20);

/// Does `work` on the range of `len` bytes at `base`, told the offset and length of each step. Ends early where it says that
/// it cannot be done.
pub(crate) fn by_steps(base: u64, len: u64, work: &dyn Fn(u64, u64) -> std::io::Result<bool>) -> std::io::Result<()> {
    let (mut offset, mut step) = (base, STEP);
    while offset < base + len {
        std::thread::sleep(REST);
        let (here, before) = (step.min(base + len - offset), clock::monotonic());
        if !work(offset, here)? {
            break;
        }
        offset += here;
        step = if clock::monotonic() - before < QUICK { step * 2 } else { STEP };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const START: u64 = 4096;

    #[test]
    fn steps_leave_nothing_out_and_are_few_where_there_is_nothing_to_do() {
        for len in [1, STEP, STEP + 1, 9 * STEP, 1 << 40] {
            let (end, steps) = (Cell::new(START), Cell::new(0));
            let work = |offset, here| {
                assert_eq!(offset, end.replace(offset + here));
                steps.set(steps.get() + 1);
                Ok(true)
            };
            by_steps(START, len, &work).unwrap();
            assert_eq!(end.get(), START + len);
            assert!(steps.get() <= 1000, "{} steps over {len} bytes", steps.get());
        }
    }
}
