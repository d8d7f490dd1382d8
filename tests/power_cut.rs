//! The power goes: a file system of its own stops in the middle of a write load with compaction and loses all that it had not written, and the
//! server finds what is left. Under `always` every acknowledged write is there; under `interval` every one that is older
//! than the interval; and whatever is there is whole. Under `none` something must be lost, or the test sees nothing.

mod common;

use common::client::storage;
use common::disk::Disk;
use common::server::{Plan, command};
use common::util::{Random, counted, random_bytes, tier, wait_until};
use common::writer::{Believes, Writer};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// How many cuts a disk sees before the next one begins with an empty store.
const CUTS_PER_DISK: usize = 5;
const DISK_BYTES: u64 = 4 << 30;
/// What the syncer may take beside its interval. Generous: the load is small.
const SLACK: Duration = Duration::from_millis(1000);
const INTERVAL: Duration = Duration::from_millis(50);

/// A way to run: the policy, how long the load lasts, and what of it must be kept at least until when.
#[derive(Clone, Copy)]
struct Policy {
    name: &'static str,
    load: Duration,
    /// What was acknowledged this long before the cut is kept.
    grace: Duration,
}

const ALWAYS: Policy = Policy { name: "always", load: Duration::from_millis(100), grace: Duration::ZERO };
const INTERVALS: Policy = Policy {
    name: "interval",
    load: Duration::from_millis(400).saturating_add(SLACK),
    grace: INTERVAL.saturating_add(SLACK),
};
const NONE: Policy = Policy { name: "none", load: Duration::from_millis(100), grace: Duration::ZERO };

/// What was seen.
#[derive(Default)]
struct Seen {
    wrong: Vec<String>,
    cuts: usize,
    acknowledged: usize,
    /// Writes that had to be there.
    bound: usize,
    segments: u64,
    /// How often all that could be compacted was.
    compacted: usize,
}

/// Cuts the power `cuts` times under load.
fn cut(kind: &str, policy: Policy, cuts: usize) -> Seen {
    let mut seen = Seen::default();
    let mut random = Random::new(cuts as u64 + policy.name.len() as u64);
    while seen.cuts < cuts {
        let count = CUTS_PER_DISK.min(cuts - seen.cuts);
        one_disk(kind, policy, count, &mut random, &mut seen);
    }
    let Seen { cuts, acknowledged, bound, segments, compacted, wrong } = &seen;
    let (name, lost) = (policy.name, wrong.len());
    println!(
        "{kind}, {name}: {cuts} cuts, {acknowledged} writes acknowledged, {bound} of them to be kept, {lost} lost; {segments} segments begun, {compacted} times compacted"
    );
    seen
}

fn one_disk(kind: &str, policy: Policy, cuts: usize, random: &mut Random, seen: &mut Seen) {
    let disk = Disk::new(kind, DISK_BYTES);
    let (sync, interval) =
        (format!("--db.sync={}", policy.name), format!("--db.sync-interval={}ms", INTERVAL.as_millis()));
    let plan = Plan::new(&[&sync, &interval, "--db.segment-size=1mb"]).on(disk.path().join("data"));
    let mut writers: Vec<Writer> = (0..4).map(Writer::new).collect();
    for _ in 0..cuts {
        let mount = disk.mount();
        let server = plan.start();
        let address = server.address();
        let (failing, compacted) = (AtomicBool::new(false), AtomicUsize::new(0));
        let wait = policy.load.mul_f64(0.5 + random.below(1000) as f64 / 1000.0);
        let now = std::thread::scope(|scope| {
            for (id, writer) in writers.iter_mut().enumerate() {
                let (depth, failing) = ([1, 1, 8, 64][id], &failing);
                scope.spawn(move || writer.run(address, depth, Believes::Replies, failing));
            }
            let (compacted, plan, failing) = (&compacted, &plan, &failing);
            scope.spawn(move || {
                while !failing.load(SeqCst) {
                    compacted.fetch_add(usize::from(command(&plan.data(), &["compact"])), SeqCst);
                }
            });
            std::thread::sleep(wait);
            wait_until("compaction is through once", || compacted.load(SeqCst) > 0);
            std::thread::sleep(wait / 4);
            failing.store(true, SeqCst);
            // What is acknowledged from here on does not count: after a real cut no reply could come, while during this one ext4
            // can end an fdatasync without an error although the transaction that it needs was given up.
            let now = Instant::now();
            mount.cut_power();
            server.kill();
            now
        });
        seen.compacted += compacted.into_inner();
        drop(mount);
        let by = now - policy.grace;
        seen.bound += writers.iter().map(|writer| writer.history.bound(by)).sum::<usize>();
        let _mount = disk.mount();
        seen.segments += segments(&plan);
        let server = plan.start();
        let mut client = server.client();
        for writer in &mut writers {
            let wrong = writer.history.check(&mut client, by);
            seen.wrong.extend(wrong.into_iter().map(|what| format!("cut {}, {what}", seen.cuts)));
        }
        server.stop();
        seen.cuts += 1;
    }
    seen.acknowledged += writers.iter().map(|writer| writer.acknowledged).sum::<usize>();
}

/// One more than the number of the newest segment.
fn segments(plan: &Plan) -> u64 {
    let names =
        std::fs::read_dir(plan.data()).expect("read the data directory").flatten().map(|entry| entry.file_name());
    let numbers = names.filter_map(|name| u64::from_str_radix(name.to_str()?.strip_suffix(".log")?, 16).ok());
    numbers.max().map_or(0, |newest| newest + 1)
}

fn nothing_is_lost(kind: &str, policy: Policy, cuts: usize) {
    let seen = cut(kind, policy, cuts);
    assert!(seen.wrong.is_empty(), "{kind}, {}: {:#?}", policy.name, seen.wrong);
    counted(&format!("{kind}, {}: power cuts", policy.name), seen.cuts, cuts);
    assert!(seen.bound >= 10 * cuts, "too little load to mean anything: {} writes", seen.bound);
    assert!(seen.segments as usize > cuts, "no segment was left for the next one");
}

#[test]
fn ext4_always() {
    nothing_is_lost("ext4", ALWAYS, tier(3, 8, 100));
}

#[test]
fn xfs_always() {
    nothing_is_lost("xfs", ALWAYS, tier(3, 8, 100));
}

#[test]
fn ext4_interval() {
    nothing_is_lost("ext4", INTERVALS, tier(2, 6, 100));
}

#[test]
fn xfs_interval() {
    nothing_is_lost("xfs", INTERVALS, tier(2, 6, 100));
}

/// A cut that comes when all happens to be written loses nothing: one of a few must.
#[test]
fn control_that_must_lose() {
    for kind in ["ext4", "xfs"] {
        let loses = (0..5).any(|_| !cut(kind, NONE, 3).wrong.is_empty());
        assert!(loses, "{kind}: without any sync something must be lost, or this sees nothing");
    }
}

/// Values so large that each has a file: after the cut the acknowledged one is there, or the one that came after it, whole.
fn large_values_are_kept(kind: &str, cuts: usize) {
    let disk = Disk::new(kind, DISK_BYTES);
    let plan = Plan::new(&["--db.sync=always"]).on(disk.path().join("data"));
    for cut in 0..cuts {
        let [old, new] = [0, 1].map(|turn| random_bytes((2 * cut + turn) as u64, 17_000_000 + cut + turn));
        let mount = disk.mount();
        let server = plan.start();
        let mut client = server.client();
        client.set("large", &old);
        let next = storage(&format!("set large 0 0 {}", new.len()), &new);
        client.send(&next[..next.len() * (cut + 1) / cuts]);
        mount.cut_power();
        server.kill();
        drop(mount);
        let _mount = disk.mount();
        let server = plan.start();
        let kept = server.client().get("large").expect("the key is there");
        assert!(kept == old || (cut + 1 == cuts && kept == new), "{kind}, cut {cut}: {} bytes", kept.len());
        server.stop();
    }
    counted(&format!("{kind}: power cuts while a value of 17 MB is replaced"), cuts, cuts);
}

#[test]
fn a_large_value_on_ext4() {
    large_values_are_kept("ext4", tier(2, 4, 50));
}

#[test]
fn a_large_value_on_xfs() {
    large_values_are_kept("xfs", tier(2, 4, 50));
}
