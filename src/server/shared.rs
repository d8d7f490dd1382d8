//! What the workers of one server share: the settings, the number of connections, and each other's counters
//! and inboxes.

use super::auth::{Lock, Users};
use super::counters::{Counter, Counters, Values, ZERO};
use super::inbox::Inbox;
use super::listen::admissible;
use super::log;
use super::memory::Memory;
use super::multipart::Multiparts;
use super::settings::Settings;
use super::watch::Watch;
use kingdb::sys::clock;
use kingdb::sys::event::EventFd;
use kingdb::sys::resource::descriptor_limit;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Counters that `stats reset` does not touch: they tell what is, not what happened.
const GAUGES: [Counter; 2] = [Counter::Connections, Counter::ConnectionsPeak];

/// See the module's head.
pub struct Shared {
    pub settings: Arc<Settings>,
    /// One per worker.
    pub counters: Vec<Counters>,
    /// One per worker.
    pub inboxes: Vec<Arc<Inbox>>,
    /// What connections hold.
    pub memory: Memory,
    /// Uploads in parts.
    pub multiparts: Multiparts,
    /// When the server started, on the monotonic clock.
    pub started: Duration,
    /// Who may use the server. `None`: anybody.
    pub users: Option<Users>,
    pub watch: Watch,
    /// A client is being told of the connections.
    pub census: AtomicBool,
    /// Rung, it ends the server.
    ended: Arc<EventFd>,
    connections: AtomicUsize,
    /// So many at most: `-c`, or what the limit on descriptors leaves of it.
    pub most: usize,
    failure_told: AtomicBool,
    /// What the counters' sums were at the last `stats reset`: a reset subtracts, so that no worker writes
    /// another's counters.
    baseline: Mutex<Values>,
    /// The same for the store's count of values written.
    items_before: AtomicU64,
}

impl Shared {
    /// For a server that starts now.
    pub fn new(settings: Settings, users: Option<Users>, ended: Arc<EventFd>) -> io::Result<Self> {
        let (workers, detail) = (settings.threads, settings.detail);
        let most = admissible(settings.max_connections, descriptor_limit()?);
        Ok(Self {
            memory: Memory::new(settings.buffer_memory),
            multiparts: Multiparts::new(settings.buffer_memory / 8),
            settings: Arc::new(settings),
            counters: (0..workers).map(|_| Counters::new()).collect(),
            inboxes: (0..workers).map(|_| Inbox::new().map(Arc::new)).collect::<io::Result<_>>()?,
            started: clock::monotonic(),
            users,
            watch: Watch::new(detail),
            census: AtomicBool::new(false),
            ended,
            connections: AtomicUsize::new(0),
            most,
            failure_told: AtomicBool::new(false),
            baseline: Mutex::new(ZERO),
            items_before: AtomicU64::new(0),
        })
    }

    /// A client has the server stop in good order.
    pub fn shut_down(&self) {
        log::info("a client said shutdown");
        self.ended.ring();
    }

    /// What a new connection may do.
    pub fn lock(&self) -> Lock {
        if self.users.is_some() { Lock::Closed } else { Lock::Open }
    }

    /// Takes one of the places that `-c` and the limit on descriptors allow, unless there is none left.
    pub fn admit(&self) -> bool {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        if before < self.most {
            return true;
        }
        self.leave();
        false
    }

    /// Gives a place back.
    pub fn leave(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// The store accepts no writes any more: says so in the messages, once.
    pub fn tell_failure(&self, why: &str) {
        if !self.failure_told.swap(true, Ordering::Relaxed) {
            log::error(format_args!("writes are refused from here on: {why}"));
        }
    }

    /// All counters, summed over the workers, since the last reset.
    pub fn totals(&self) -> Values {
        let baseline = self.baseline.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = self.sum();
        for (value, base) in sum.iter_mut().zip(baseline.iter()) {
            *value = value.wrapping_sub(*base);
        }
        sum
    }

    /// Values written since the last reset, of `total` that the store has counted.
    pub fn items_since_reset(&self, total: u64) -> u64 {
        total.saturating_sub(self.items_before.load(Ordering::Relaxed))
    }

    /// `stats reset`, when the store has counted `total_items` values written.
    pub fn reset(&self, total_items: u64) {
        self.items_before.store(total_items, Ordering::Relaxed);
        let mut sum = self.sum();
        GAUGES.iter().for_each(|gauge| sum[*gauge as usize] = 0);
        *self.baseline.lock().unwrap_or_else(PoisonError::into_inner) = sum;
    }

    fn sum(&self) -> Values {
        let mut sum = ZERO;
        self.counters.iter().for_each(|counters| counters.add_to(&mut sum));
        sum
    }
}
