//! `kingserver check` on the data of a real server: what it finds, what it says, how it exits, and that a repaired store
//! serves again.

use crate::common::server::{Plan, binary};
use crate::common::util::{random_bytes, text_bytes};
use crate::common::{Client, Server};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Exit status, standard output, standard error.
fn kingserver(words: &[&str]) -> (i32, String, String) {
    let output = Command::new(binary()).args(words).output().expect("run kingserver");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("an exit status"), text(output.stdout), text(output.stderr))
}

fn check(plan: &Plan, more: &[&str]) -> (i32, String, String) {
    let data = plan.data().display().to_string();
    kingserver(&[&["check"], more, &[&data]].concat())
}

/// A store with small values, one overwritten, and large ones, stopped in good order.
fn filled() -> Plan {
    let server = Server::start(&["--db.compression=no", "--db.segment-size=1mb"]);
    let mut c = server.client();
    for i in 0..400_u64 {
        c.set(&format!("small-{i}"), random_bytes(i, 5000));
    }
    c.set("twice", "the old value of a key");
    c.set("twice", "the new value of a key");
    c.set("large", text_bytes(1, 500_000));
    c.set("other", text_bytes(2, 300_000));
    server.stop()
}

fn find(path: &Path, bytes: &[u8]) -> Option<usize> {
    fs::read(path).expect("read a data file").windows(bytes.len()).position(|window| window == bytes)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("read a data file");
    bytes[at] ^= 0x10;
    fs::write(path, bytes).expect("write a data file");
}

fn files(plan: &Plan, suffix: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(plan.data()).expect("list the data").flatten().map(|entry| entry.path());
    let mut found: Vec<_> = all.filter(|path| path.extension().is_some_and(|end| end == suffix)).collect();
    found.sort();
    found
}

/// The file that holds these bytes, and where.
fn place(plan: &Plan, bytes: &[u8]) -> (PathBuf, usize) {
    let mut all = files(plan, "log").into_iter().chain(files(plan, "ext"));
    all.find_map(|path| find(&path, bytes).map(|at| (path, at))).expect("the bytes are in a file")
}

#[test]
fn a_sound_store_is_said_to_be_sound_and_a_used_one_is_left_alone() {
    let plan = filled();
    let (status, out, err) = check(&plan, &[]);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    assert!(out.starts_with("sound: 403 keys, 2 of them with large values;") && out.lines().count() == 1, "{out}");
    let server = plan.start();
    let (status, out, err) = check(&plan, &["--repair"]);
    assert_eq!((status, out.as_str()), (2, ""));
    assert!(err.contains("in use by another server") && err.lines().count() == 1, "{err}");
    drop(server);
    let (status, _, err) = kingserver(&["check", "/nonexistent/place"]);
    assert!(status == 2 && err.contains("/nonexistent/place"), "{status} {err}");
}

/// After `kill -9` the tail may be torn; that is no damage.
#[test]
fn a_killed_server_leaves_no_damage() {
    let server = Server::start(&["--db.sync=none"]);
    server.client().set("key", "value");
    let plan = server.kill();
    let (status, out, err) = check(&plan, &[]);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
}

/// Plants one kind of damage; the check must name the file, the offset and, where it can, the key.
fn expect(what: &str, plant: impl Fn(&Plan) -> (PathBuf, Option<usize>), key: Option<&str>, lost: &[&str]) {
    let plan = filled();
    let (path, offset) = plant(&plan);
    let before: Vec<_> = files(&plan, "log").iter().map(|path| fs::read(path).expect("read")).collect();
    let (status, out, err) = check(&plan, &[]);
    assert_eq!((status, err.as_str()), (1, ""), "{what}: {out}");
    let named = |line: &str| {
        line.starts_with(&path.display().to_string())
            && offset.is_none_or(|offset| line.contains(&format!(" at offset {offset}: ")))
            && key.is_none_or(|key| line.contains(&format!("key \"{key}\"")))
    };
    assert!(out.lines().any(named), "{what}: {out}");
    let after: Vec<_> = files(&plan, "log").iter().map(|path| fs::read(path).expect("read")).collect();
    assert!(before == after, "{what}: a check changes nothing");
    let (status, out, err) = check(&plan, &["--repair"]);
    assert_eq!((status, err.as_str()), (1, ""), "{what}: {out}");
    assert!(out.contains(" repaired; what is left: "), "{what}: {out}");
    let (status, out, _) = check(&plan, &[]);
    assert_eq!(status, 0, "{what}: {out}");
    serves(what, &plan, lost);
}

/// The store opens without complaint and has everything but what was lost.
fn serves(what: &str, plan: &Plan, lost: &[&str]) {
    let server = plan.start();
    let mut c: Client = server.client();
    assert_eq!(c.stat("db_damaged_records"), 0, "{what}: {}", server.messages());
    for i in 0..400_u64 {
        let key = format!("small-{i}");
        let expected = (!lost.contains(&key.as_str())).then(|| random_bytes(i, 5000));
        assert!(lost.contains(&"*") || c.get(&key) == expected, "{what}: {key}");
    }
    let expected = if lost.contains(&"twice") { "the old value of a key" } else { "the new value of a key" };
    assert_eq!(c.get("twice").as_deref(), Some(expected.as_bytes()), "{what}");
    assert!(c.get("other") == Some(text_bytes(2, 300_000)), "{what}");
    assert_eq!(c.get("large").is_none(), lost.contains(&"large"), "{what}");
    c.set("more", "goes on");
    let server = server.restart();
    assert_eq!(server.client().get("more").as_deref(), Some(&b"goes on"[..]), "{what}");
}

#[test]
fn a_damaged_record_is_named_and_isolated() {
    let plant = |plan: &Plan| {
        let (path, at) = place(plan, &random_bytes(7, 5000));
        flip(&path, at + 100);
        (path, Some(at - "small-7".len() - 24))
    };
    expect("a value", plant, Some("small-7"), &["small-7"]);
}

#[test]
fn an_older_version_is_offered_explicitly() {
    let plant = |plan: &Plan| {
        let (path, at) = place(plan, b"the new value of a key");
        flip(&path, at + 3);
        (path, None)
    };
    expect("a newer version", plant, Some("twice"), &["twice"]);
}

#[test]
fn a_damaged_chunk_is_named_and_isolated() {
    let plant = |plan: &Plan| {
        let (path, at) = place(plan, &text_bytes(1, 500_000)[200_000..200_200]);
        flip(&path, at);
        (path, Some(65_536 + 200_000 / 65_536 * 65_536))
    };
    expect("a chunk", plant, Some("large"), &["large"]);
}

#[test]
fn a_missing_extent_or_segment_is_named() {
    let plant = |plan: &Plan| {
        let path = files(plan, "log").remove(1);
        fs::remove_file(&path).expect("remove a segment");
        (files(plan, "log").remove(1), Some(0))
    };
    expect("a segment that is gone", plant, None, &["*"]);
}

#[test]
fn damaged_headers_are_set_right() {
    let plant = |plan: &Plan| {
        let path = files(plan, "log").remove(0);
        flip(&path, 38);
        (path, Some(0))
    };
    expect("a segment's header", plant, None, &[]);
    let plant = |plan: &Plan| {
        let path = files(plan, "ext").remove(0);
        flip(&path, 20);
        (path, Some(0))
    };
    expect("an extent file's header", plant, None, &[]);
    let plant = |plan: &Plan| {
        flip(&plan.data().join("STORE"), 30);
        (plan.data().join("STORE"), Some(0))
    };
    expect("STORE", plant, None, &[]);
    let plant = |plan: &Plan| {
        fs::remove_file(plan.data().join("STORE")).expect("remove STORE");
        (plan.data().join("STORE"), Some(0))
    };
    expect("no STORE", plant, None, &[]);
}

/// What was left out before it could not go on, nobody can find out later.
#[test]
fn a_repair_that_cannot_go_on_tells_what_it_did() {
    let plan = filled();
    let (first, at) = place(&plan, &random_bytes(7, 5000));
    flip(&first, at + 100);
    let second = files(&plan, "log").remove(1);
    flip(&second, 100_000);
    fs::create_dir(second.with_extension("log.new")).expect("be in the way");
    let (status, out, err) = check(&plan, &["--repair"]);
    assert!(status == 2 && err.contains("log.new") && err.lines().count() == 1, "{status} {err}");
    assert!(out.contains("key \"small-7\"") && out.contains(&format!("kept as it was: {}", first.display())), "{out}");
    assert!(out.ends_with("1 place repaired; then it could not go on\n"), "{out}");
}

/// Root repairs a store of another user's: that user can still use all of it.
#[test]
fn files_stay_those_of_the_store_s_owner() {
    let plan = filled();
    let owner = |path: &Path| fs::metadata(path).expect("look at it").uid();
    if owner(&plan.data()) != 0 {
        println!("not root: there is no other user to be");
        return;
    }
    let everything = || fs::read_dir(plan.data()).expect("list").flatten().map(|entry| entry.path());
    everything().chain([plan.data()]).for_each(|path| chown(path, Some(65534), None).expect("give it away"));
    let (path, at) = place(&plan, &random_bytes(7, 5000));
    flip(&path, at);
    fs::remove_file(plan.data().join("STORE")).expect("remove STORE");
    fs::remove_file(&files(&plan, "log")[1]).expect("remove a segment");
    let (status, out, err) = check(&plan, &["--repair"]);
    assert_eq!((status, err.as_str()), (1, ""), "{out}");
    everything().for_each(|path| assert_eq!(owner(&path), 65534, "{}", path.display()));
}

/// On a terminal it shows how far it has come; elsewhere it does not.
#[test]
fn a_terminal_shows_the_progress() {
    let plan = filled();
    let words = format!("'{}' check '{}'", binary().display(), plan.data().display());
    let output = Command::new("script").args(["-qec", &words, "/dev/null"]).output().expect("run script");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && shown.contains("\r\x1b[Kchecking "), "{shown:?}");
    assert!(shown.contains('%') && shown.contains("sound: "), "{shown:?}");
    let (_, out, err) = check(&plan, &[]);
    assert!(!out.contains('%') && err.is_empty(), "{out}");
}

#[test]
fn help_is_there_for_each_command() {
    let (status, general, _) = kingserver(&["help"]);
    assert!(status == 0 && general.contains("check") && general.contains("--db.path"));
    assert!(general.contains("\n  help "), "{general}");
    let (status, text, _) = kingserver(&["check", "--help"]);
    assert!(status == 0 && text.starts_with("Usage: kingserver check") && text.contains("--repair"), "{text}");
    assert_eq!(kingserver(&["help", "check"]).1, text);
    let (status, text, _) = kingserver(&["help", "--help"]);
    assert!(status == 0 && text.starts_with("Usage: kingserver help"), "{text}");
    let (status, _, err) = kingserver(&["check", "a", "b"]);
    assert!(status == 2 && err.contains("one word too many"), "{err}");
}
