//! kill -9 in the middle of a write load: every write that was acknowledged is there with its right value; one that
//! was not may be there or not, but whole. The control run counts a write as acknowledged when it is merely sent,
//! and must find losses: so the checker can see one.

mod common;

use common::Server;
use common::client::storage;
use common::server::{Plan, command};
use common::util::{Random, counted, random_bytes, tier};
use common::writer::{Believes, Writer};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Kills the server `kills` times under load; gives what was wrong afterwards, and how many writes were acknowledged.
fn kill_cycles(kills: usize, args: &[&str], believes: Believes) -> (Vec<String>, usize) {
    let plan = Plan::new(args);
    let mut writers: Vec<Writer> = (0..4).map(Writer::new).collect();
    let mut random = Random::new(args.len() as u64 + 5);
    let mut wrong = Vec::new();
    for kill in 0..kills {
        let server = plan.start();
        let address = server.address();
        // Unpipelined, a few in flight, and many.
        let depth = |id: usize| {
            if believes == Believes::Sending { 400 } else { [1, 1, 8, 64][id] }
        };
        let wait = Duration::from_millis(30 + random.below(200) as u64);
        std::thread::scope(|scope| {
            for (id, writer) in writers.iter_mut().enumerate() {
                scope.spawn(move || writer.run(address, depth(id), believes, &AtomicBool::new(false)));
            }
            // Also in the middle of giving back what large values left.
            scope.spawn(|| command(&plan.data(), &["compact"]));
            std::thread::sleep(wait);
            server.kill()
        });
        if kill % 4 == 1 {
            // The next start is killed, too, wherever it is by then.
            let starting = plan.spawn();
            std::thread::sleep(Duration::from_millis(random.below(30) as u64));
            starting.kill();
        }
        let server = plan.start();
        let mut client = server.client();
        for writer in &mut writers {
            let lost = writer.history.check(&mut client, Instant::now());
            wrong.extend(lost.into_iter().map(|what| format!("kill {kill}, {what}")));
        }
        if kill % 2 == 0 {
            server.stop();
        } else {
            server.kill();
        }
    }
    (wrong, writers.iter().map(|writer| writer.acknowledged).sum())
}

fn every_acknowledged_write_is_there(mode: &str, kills: usize) {
    let (wrong, acknowledged) = kill_cycles(kills, &[&format!("--db.sync={mode}")], Believes::Replies);
    assert!(wrong.is_empty(), "--db.sync={mode}: {} of {acknowledged} writes: {wrong:#?}", wrong.len());
    println!("--db.sync={mode}: {acknowledged} acknowledged writes");
    counted("kills", kills, tier(3, 15, 50));
    assert!(acknowledged >= 20 * kills, "too little load to mean anything: {acknowledged} writes");
}

#[test]
fn interval() {
    every_acknowledged_write_is_there("interval", tier(4, 20, 60));
}

#[test]
fn always() {
    every_acknowledged_write_is_there("always", tier(3, 15, 50));
}

#[test]
fn none() {
    every_acknowledged_write_is_there("none", tier(3, 15, 50));
}

#[test]
fn control_that_must_lose() {
    let (wrong, _) = kill_cycles(3, &[], Believes::Sending);
    println!("control: {} losses seen", wrong.len());
    assert!(!wrong.is_empty(), "taking what was sent for kept must lose something, or the checker sees nothing");
}

/// A value that was being received is never visible, not even in part.
#[test]
fn half_a_value_leaves_nothing() {
    for len in [1000, 65_536, 70_000, 500_000, 17_000_000] {
        let server = Server::start(&[]);
        let mut c = server.client();
        c.set("a", "old");
        let command = storage(&format!("set a 0 0 {len}"), &random_bytes(1, len));
        c.send(&command[..command.len() - 1]);
        // Answered after the bytes above were read, most likely; right in any case.
        assert_eq!(server.client().get("a").as_deref(), Some(&b"old"[..]));
        let server = server.kill().start();
        assert_eq!(server.client().get("a").as_deref(), Some(&b"old"[..]), "{len}");
    }
}
