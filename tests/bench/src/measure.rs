//! One measurement: a load on one server for a while, and what that cost the server.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::load::{Arrival, Done, Load, PATIENCE, Plan};
use crate::peer::Server;
use crate::wire::{Keys, Op, Pool, Wire, Work};
use crate::{proc, sys};

/// Connections that fill a store.
const FILLERS: usize = 50;

/// A window without enough operations is extended, up to so many times its length.
const LONGEST: usize = 10;

/// What a load cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// The server's CPU time. Seconds.
    pub cpu: f64,
    /// By the clock. Seconds.
    pub wall: f64,
    /// The server's context switches.
    pub switches: u64,
    /// The server's resident memory at the end, still under load. Bytes.
    pub rss: u64,
}

/// One group of connections in one measurement.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Sample {
    /// The group's operations per second.
    pub rate: f64,
    /// Server CPU per operation of any group. Microseconds.
    pub cpu: f64,
    /// Part of its core that the server was busy.
    pub busy: f64,
    /// Latency of a batch. Microseconds.
    pub p50: f64,
    /// See `p50`.
    pub p99: f64,
    /// See `p50`.
    pub p999: f64,
    /// Context switches per operation.
    pub switches: f64,
    /// Resident memory of the server. Bytes.
    pub rss: f64,
    /// Batches never answered.
    pub unanswered: f64,
}

impl Sample {
    /// `ops` is what the group did within the window. `cost` covers all groups, and so must `all_ops`.
    pub fn new(done: &Done, ops: f64, all_ops: f64, cost: &Cost) -> Sample {
        let at = |quantile| done.latency.value_at_quantile(quantile) as f64 / 1e3;
        Sample {
            rate: ops / cost.wall,
            cpu: cost.cpu * 1e6 / all_ops,
            busy: cost.cpu / cost.wall,
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            switches: cost.switches as f64 / all_ops,
            rss: cost.rss as f64,
            unanswered: done.unanswered as f64,
        }
    }
}

/// Has every connection served once, warms up for a tenth of `window`, then measures for `window`, longer where operations take so long
/// that there would be none to count. One sample per plan.
pub fn measure(server: &Server, plans: Vec<Plan>, window: Duration) -> Result<Vec<Sample>> {
    let name = server.peer.name();
    let mut load = Load::connect(server.address, plans).with_context(|| format!("load on {name}"))?;
    measure_load(server, &mut load, window).with_context(|| format!("load on {name}; it said: {}", server.said()))
}

fn measure_load(server: &Server, load: &mut Load, window: Duration) -> Result<Vec<Sample>> {
    load.once()?;
    load.run(window / 10)?;
    let switches = proc::switches(server.pid())?;
    load.reset();
    let (began, cpu) = (Instant::now(), sys::cpu_time(server.pid())?);
    for _ in 0..LONGEST {
        load.run(window)?;
        if load.is_enough() {
            break;
        }
    }
    let cpu = sys::cpu_time(server.pid())? - cpu;
    let wall = began.elapsed().as_secs_f64();
    let ops: Vec<f64> = load.done().map(|done| done.ops).collect();
    let all_ops: f64 = ops.iter().sum();
    load.drain(PATIENCE)?;
    let switches = proc::switches(server.pid())? - switches;
    let cost = Cost { cpu: cpu.as_secs_f64(), wall, switches, rss: proc::rss(server.pid())? };
    Ok(load.done().zip(ops).map(|(done, ops)| Sample::new(done, ops, all_ops, &cost)).collect())
}

/// Stores every key of `work` once. (Nothing to do for the null server.)
pub fn fill(server: &Server, work: Work, pool: &Rc<Pool>) -> Result<()> {
    if !server.peer.stores() {
        return Ok(());
    }
    // Values of a batch should not exceed a connection's buffers by much.
    let depth = (256 * 1024 / work.size).clamp(1, 16);
    let connections = FILLERS.min(work.space as usize);
    let set = Work { op: Op::Set, depth, keys: 1, ..work };
    let wire = Wire::new(set, server.peer.dialect(), pool.clone());
    let plan = Plan { wire, keys: Keys::InOrder(0), arrival: Arrival::Closed, connections, exact: true };
    let mut load = Load::connect(server.address, vec![plan])?;
    let mut stored = 0.0;
    while stored < f64::from(work.space) {
        load.run(Duration::from_millis(10)).with_context(|| format!("filling {}", server.peer.name()))?;
        stored = load.done().map(|done| done.ops).sum();
    }
    load.drain(PATIENCE)
}
