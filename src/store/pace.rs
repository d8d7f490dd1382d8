//! How fast compaction may go, so that it leaves the disk and the processor to those who wait for answers: a base rate,
//! or a multiple of what is appended to the log, whichever is more; without limit where space is short.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use super::core::Core;
use super::error::{Error, Result};

/// Bytes between two looks at the clock.
const LOOK: u64 = 256 << 10;
/// Longest sleep without looking whether the store is being closed.
const NAP: Duration = Duration::from_millis(20);
/// Bytes that compaction may read for each byte that is appended. A byte that is overwritten costs two or three, since
/// sources are half dead.
const PER_APPENDED: u64 = 4;

/// The account of one round.
pub(crate) struct Pace {
    /// Bytes a second; `None`: no limit.
    rate: Option<u64>,
    began: Instant,
    appended: u64,
    spent: u64,
    unseen: u64,
    /// For each of the second number of bytes spent, writers may append the first.
    gain: (u64, u64),
}

impl Pace {
    /// From now on, `rate` bytes a second; `None`: no limit.
    pub fn start(core: &Core, rate: Option<u64>) -> Pace {
        Pace { rate, began: Instant::now(), appended: core.log.bytes.load(Relaxed), spent: 0, unseen: 0, gain: (0, 1) }
    }

    /// Lets writers that wait for the round go on as it proceeds: it gives back `gain.0` bytes in all and spends `gain.1`.
    pub fn giving_back(self, gain: (u64, u64)) -> Pace {
        Pace { gain, ..self }
    }

    /// Another `bytes` were read; sleeps if that was too fast.
    ///
    /// # Errors
    /// The store is being closed: the round is to be given up.
    pub fn spend(&mut self, core: &Core, bytes: u64) -> Result<()> {
        self.unseen += bytes;
        if self.unseen < LOOK {
            return Ok(());
        }
        let spent = std::mem::take(&mut self.unseen);
        self.spent += spent;
        core.compaction.pressure.credit(spent * self.gain.0 / self.gain.1);
        // Who waits for the round appends nothing that would allow more.
        while let Some(ahead) = self.ahead(core).filter(|_| !core.is_behind()) {
            self.check(core)?;
            std::thread::sleep(ahead.min(NAP));
        }
        self.check(core)
    }

    /// An error if the store is being closed.
    pub fn check(&self, core: &Core) -> Result<()> {
        match core.compaction.stopping.load(SeqCst) {
            true => Err(Error::other("the store is being closed")),
            false => Ok(()),
        }
    }

    /// How long to wait until what was spent is allowed; `None`: it is.
    fn ahead(&self, core: &Core) -> Option<Duration> {
        let rate = self.rate?;
        let over = self.spent.checked_sub(self.allowed(core, rate)).filter(|&over| over > 0)?;
        Some(Duration::from_secs_f64(over as f64 / rate as f64))
    }

    fn allowed(&self, core: &Core, rate: u64) -> u64 {
        let appended = core.log.bytes.load(Relaxed) - self.appended;
        let base = (self.began.elapsed().as_secs_f64() * rate as f64) as u64;
        base.max(PER_APPENDED * appended)
    }
}
