//! Small disks under load that never ends: compaction makes room in time, or, in cache mode, the oldest values go. On
//! small tmpfs mounts, so as root.

mod common;

use common::client::storage;
use common::server::Plan;
use common::strace::Tracer;
use common::util::{Random, counted, random_bytes, tier, wait_until};
use common::{Client, Server};
use kingdb::{Db, Options};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const FULL: &str = "SERVER_ERROR out of disk space";
const MIB: usize = 1 << 20;

/// A tmpfs as a server's data directory, for as long as this lives.
struct Small(PathBuf);

fn start(mount: &str, args: &[&str]) -> (Server, Small) {
    let plan = Plan::new(args);
    let path = plan.data();
    std::fs::create_dir(&path).expect("make the mount point");
    let small = Small::mount(mount, path);
    (plan.start(), small)
}

impl Small {
    fn mount(options: &str, path: PathBuf) -> Small {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&path).status();
        assert!(mounted.expect("run mount").success(), "mount a tmpfs: this test needs root");
        Small(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn set(c: &mut Client, key: usize, version: u64, len: usize) -> String {
    c.store("set", &format!("key{key}"), 0, 0, random_bytes(version << 20 | key as u64, len))
}

fn assert_newest(c: &mut Client, versions: &[u64], len: usize) {
    for (key, version) in versions.iter().enumerate() {
        assert!(c.get(&format!("key{key}")) == Some(random_bytes(version << 20 | key as u64, len)), "key{key}");
    }
}

/// A board with 64 MB of flash, half of it live data, overwritten again and again at random, with default options.
#[test]
fn a_small_board_is_overwritten_and_never_refuses() {
    for len in [1000, 10_000] {
        let (server, _small) = start("size=64m", &[]);
        let mut c = server.client();
        let (mut random, keys) = (Random::new(7), 32 * MIB / len);
        let mut versions = vec![0; keys];
        for key in 0..keys {
            assert_eq!(set(&mut c, key, 0, len), "STORED", "key{key} of the first {keys}");
        }
        let (mut stored, wanted) = (0, tier(2, 6, 50) * keys);
        for version in 1..=wanted as u64 {
            let key = random.below(keys);
            if set(&mut c, key, version, len) == "STORED" {
                (versions[key], stored) = (version, stored + 1);
            }
        }
        counted(&format!("sets of {len} bytes over 32 MiB of live data on 64 MiB"), stored, wanted);
        let server = server.kill().start();
        assert_newest(&mut server.client(), &versions, len);
    }
}

/// Filled to the brim: what is removed makes room for as much, again and again.
#[test]
fn a_full_disk_recovers_by_itself() {
    for (mount, len) in [("size=8m", 500), ("size=8m,nr_inodes=40", 20_000), ("size=24m", 3000)] {
        let (server, _small) = start(mount, &[]);
        let mut c = server.client();
        for round in 0..tier(3, 5, 30) {
            let mut stored = 0;
            while set(&mut c, stored, round, len) == "STORED" {
                stored += 1;
            }
            println!("{mount}: {stored} values of {len} bytes in round {round}");
            assert!(stored * len > MIB, "{mount}: only {stored} values of {len} bytes in round {round}");
            assert_newest(&mut c, &vec![round; stored.min(100)], len);
            for key in 0..stored {
                assert_eq!(c.ask(&format!("delete key{key}")), "DELETED", "{mount}: key{key} in round {round}");
            }
            wait_until("there is room again", || set(&mut c, 0, round, len) == "STORED");
        }
        let server = server.kill().start();
        assert_eq!(server.client().get("key1"), None);
    }
}

/// Records that just miss a size class: by classes they would take half as much again as they do.
#[test]
fn a_round_takes_the_room_that_its_records_do() {
    let dir = tempfile::tempdir().expect("make a directory");
    let _small = Small::mount("size=12m", dir.path().into());
    let options = Options::new(dir.path())
        .segment_bytes(1 << 20)
        .compression(false)
        .free_space_floor(Some(0))
        .survival_threshold(Some(1200 << 10))
        .polling_interval(Duration::from_millis(20));
    let db = Db::open(options).expect("open the store");
    let put = |key: usize| db.put(format!("{key:08}").as_bytes(), &random_bytes(key as u64, 1450)).expect("put");
    (0..3000).for_each(put);
    (0..3000).step_by(10).for_each(put);
    db.flush().expect("flush");
    assert_eq!(db.stats().compactions, 0, "while there is room, a tenth is not worth it");
    let mut filler = std::fs::File::create(dir.path().join("filler")).expect("make a file");
    while filler.write_all(&[1; 4096]).is_ok() {}
    let full = filler.metadata().expect("ask for the length").len();
    filler.set_len(full - (840 << 10)).expect("leave a little room");
    wait_until("a round finds room", || db.stats().compactions > 0);
}

/// Cache mode: nothing is refused, the newest values are there, and those that are read stay.
#[test]
fn a_cache_gives_up_its_oldest_values() {
    let (server, _small) = start("size=32m", &["--evict", "-m", "4"]);
    let mut c = server.client();
    let (len, hot) = (2000, 50);
    let mut written = 0;
    for key in 0..hot {
        assert_eq!(set(&mut c, key, 0, len), "STORED");
    }
    let wanted = tier(100, 300, 1000) * MIB / len;
    for key in hot..wanted {
        written += usize::from(set(&mut c, key, 0, len) == "STORED");
        if key % 20 == 0 {
            let read = key / 20 % hot;
            c.get(&format!("key{read}"));
        }
    }
    counted("values stored on a disk of a third of their size", written, wanted - hot);
    let (evicted, segments, spared) =
        (c.stat("evictions"), c.stat("db_evicted_segments"), c.stat("db_evictions_spared"));
    println!("{evicted} values of {segments} segments given up, {spared} spared");
    assert!(evicted > 0 && segments > 0 && spared > 0);
    let kept = (0..hot).filter(|key| c.get(&format!("key{key}")).is_some()).count();
    println!("{kept} of {hot} values that are read are there");
    assert!(kept * 10 >= hot * 9, "{kept} of {hot}");
    let newest = (wanted - 2000..wanted).filter(|key| c.get(&format!("key{key}")).is_some()).count();
    assert_eq!(newest, 2000, "the newest ones are there");
    assert_eq!(c.get(&format!("key{}", hot + 1)), None, "an old one that nobody reads is not");
    // What was given up stays so, and what is there is right.
    let server = server.kill().start();
    let mut c = server.client();
    assert_eq!(c.get(&format!("key{}", hot + 1)), None);
    for key in wanted - 100..wanted {
        assert!(c.get(&format!("key{key}")) == Some(random_bytes(key as u64, len)), "key{key}");
    }
    let sum = c.stat("curr_items") as usize;
    assert!(sum > 2000 && sum < wanted, "{sum} values");
    assert_ne!(set(&mut c, 1, 1, len), FULL);
}

/// Large values come and go like small ones: what was overwritten makes room, and in cache mode the oldest go.
#[test]
fn large_values_on_a_small_disk() {
    let len = 200_000;
    let (server, _small) = start("size=48m", &[]);
    let mut c = server.client();
    let (mut versions, wanted) = (vec![0; 100], tier(600, 2000, 10_000));
    let mut stored = 0;
    for version in 1..=wanted as u64 {
        let key = version as usize % versions.len();
        if set(&mut c, key, version, len) == "STORED" {
            (versions[key], stored) = (version, stored + 1);
        }
    }
    counted("sets of 200 kB over 20 MB of live data on 48 MiB", stored, wanted);
    let server = server.kill().start();
    assert_newest(&mut server.client(), &versions, len);

    let (server, _small) = start("size=48m", &["--evict"]);
    let mut c = server.client();
    let stored = (0..wanted).filter(|key| set(&mut c, *key, 0, len) == "STORED").count();
    counted("large values stored in a cache of 48 MiB", stored, wanted);
    let there = (0..wanted).filter(|key| c.get(&format!("key{key}")).is_some()).count();
    println!("{there} are there, {} given up", c.stat("evictions"));
    assert!(there * len > 36 * MIB, "only {there} of them are kept");
    assert!((wanted - 50..wanted).all(|key| c.get(&format!("key{key}")).is_some()), "the newest are there");
}

/// Touched many at a time, which moves their names to the newest segment, and brought in by many at a time: the oldest segment
/// never names so much that the cache is hardly filled once it is given up.
#[test]
fn a_cache_of_large_values_stays_filled() {
    let (server, _small) = start("size=48m", &["--evict"]);
    let mut clients: Vec<Client> = (0..10).map(|_| server.client()).collect();
    let (len, mut keys, mut least) = (200_000, 0_usize, usize::MAX);
    for round in 0..tier(60, 200, 2000) {
        let text = |key| storage(&format!("set key{key} 0 0 {len}"), &random_bytes(key as u64, len));
        let texts: Vec<_> = (keys..keys + 10).map(text).collect();
        clients.iter_mut().zip(&texts).for_each(|(c, text)| c.send(&text[..len]));
        clients.iter_mut().zip(&texts).for_each(|(c, text)| c.send(&text[len..]));
        clients.iter_mut().for_each(|c| assert_eq!(c.line(), "STORED", "in round {round}"));
        keys += 10;
        let c = &mut clients[0];
        let touched = keys.saturating_sub(300)..keys;
        c.send(touched.clone().map(|key| format!("touch key{key} 0\r\n")).collect::<String>());
        touched.for_each(|_| assert!(c.line().ends_with("D"), "touched, or not found, in round {round}"));
        if c.stat("evictions") > 0 {
            least = least.min(c.stat("curr_items") as usize);
        }
    }
    println!("at least {least} of {keys} values of 200 kB are there in a cache of 48 MiB");
    assert!(least * len > 32 * MIB, "{least} values");
}

/// A compactor that takes long over the little that it found makes the room that has come up meanwhile before anything is
/// refused; what can never fit is refused all the same.
#[test]
fn a_slow_compactor_holds_writers_back() {
    let (server, _small) = start("size=48m", &[]);
    let mut c = server.client();
    let (len, few, many) = (200_000, 8, 30);
    let mut keys = 0;
    while c.stat("db_space_left") > 3 * MIB as u64 / 2 {
        assert_eq!(set(&mut c, keys, 0, len), "STORED", "key{keys}");
        keys += 1;
    }
    let inject = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=150000"];
    let slow = Tracer::attach_thread(server.pid(), "compactor", &inject);
    // One at a time comes by each of its turns; then, in the middle of one, as many as there is room for, and more.
    let value = |key: usize, version: u64| random_bytes(version << 20 | key as u64, len);
    let replace = |c: &mut Client, key| set(c, key, 1, len) == "STORED";
    let mut stored = 0;
    for key in 0..few {
        stored += usize::from(replace(&mut c, key));
        std::thread::sleep(Duration::from_millis(50));
    }
    stored += (few..few + many).filter(|&key| replace(&mut c, key)).count();
    counted("values replaced on a full disk", stored, few + many);
    assert!(slow.finish().contains("DELAYED"), "the control: the compactor was slow");
    // The control: nothing is left to be given back.
    let full = (keys..2 * keys).find(|&key| set(&mut c, key, 0, len) == FULL).expect("a disk has an end");
    assert!(full < keys + 20, "{full} values of {len} bytes, of {keys} that fill the disk");
    assert_eq!(c.ask("delete key0"), "DELETED");
    wait_until("there is room again", || set(&mut c, full, 0, len) == "STORED");
    assert!((1..keys).all(|key| c.get(&format!("key{key}")) == Some(value(key, u64::from(key < few + many)))));
}

/// In cache mode a value of almost half the disk makes room for itself, segment by segment; one that can never fit is
/// refused before anything is given up for it.
#[test]
fn a_huge_value_makes_room_in_a_cache() {
    let (server, _small) = start("size=48m", &["--evict", "-t", "2"]);
    let (mut c, mut other) = (server.client(), server.client());
    let (len, small) = (22 * MIB, 100_000);
    let wanted = tier(2, 6, 100);
    for round in 0..wanted {
        (0..300).for_each(|key| assert_eq!(set(&mut c, key, round as u64, small), "STORED", "key{key}"));
        let evicted = c.stat("db_evicted_segments");
        let huge = random_bytes(round as u64, len);
        c.send(storage(&format!("set huge 0 0 {len}"), &huge));
        assert_eq!(set(&mut other, 1000, round as u64, 1000), "STORED", "beside the huge value");
        assert_eq!(c.line(), "STORED", "in round {round}");
        assert!(c.get("huge") == Some(huge));
        assert!(c.stat("db_evicted_segments") > evicted, "older values went");
        let newest = (0..300).rev().take_while(|key| c.get(&format!("key{key}")).is_some()).count();
        println!("{newest} of the newest values are left in round {round}");
        let evicted = c.stat("db_evicted_segments");
        assert_eq!(set(&mut c, 2000, 0, 47 * MIB), FULL);
        assert!(c.stat("db_evicted_segments") <= evicted + 1, "nothing is given up for what never fits");
    }
    counted("values of 22 MiB in a cache of 48 MiB", wanted, tier(2, 6, 100));
    let server = server.kill().start();
    assert!(server.client().get("huge") == Some(random_bytes(wanted as u64 - 1, len)));
}

/// Who replaces one large value again and again gets the space of the older ones soon, even if nothing else asks for it.
#[test]
fn a_large_value_is_replaced_in_a_small_store() {
    let (server, _small) = start("size=200m", &["-t", "1", "--db.max-size=64mb"]);
    let mut c = server.client();
    let wanted = tier(4, 10, 100);
    for len in [15 * MIB, 17 * MIB, 26 * MIB] {
        let mut put =
            |round: usize| wait_until("there is room again", || set(&mut c, 1, round as u64, len) == "STORED");
        let stored = (0..wanted).map(&mut put).count();
        counted(&format!("sets of {len} bytes in a row in a store of 64 MiB"), stored, wanted);
        assert!(c.get("key1") == Some(random_bytes((wanted as u64 - 1) << 20 | 1, len)));
    }
}
