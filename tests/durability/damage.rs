//! What a start makes of files that are not as they were left: a torn tail is cut, damage is told and stays where
//! it is, a newer format is refused. A wrong value is never served, and never an older one in place of a damaged
//! one.

use crate::common::client::storage;
use crate::common::server::Plan;
use crate::common::util::{random_bytes, wait_until};
use crate::common::{Client, Server};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// All files of the data directory. (A killed server leaves its socket there, too.)
fn files(plan: &Plan) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![plan.data()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("list the data directory").flatten() {
            let kind = entry.file_type().expect("its type");
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found
}

/// A place in a file.
struct Place {
    path: PathBuf,
    offset: u64,
}

/// Where these bytes stand. They must be somewhere, once.
fn find(plan: &Plan, bytes: &[u8]) -> Place {
    let mut places = Vec::new();
    for path in files(plan) {
        let content = std::fs::read(&path).expect("read a data file");
        let hits = content.windows(bytes.len()).enumerate().filter(|(_, window)| *window == bytes);
        places.extend(hits.map(|(offset, _)| Place { path: path.clone(), offset: offset as u64 }));
    }
    assert_eq!(places.len(), 1, "{} is in the files once", bytes[..bytes.len().min(20)].escape_ascii());
    places.pop().expect("one place")
}

fn open(path: &Path) -> std::fs::File {
    std::fs::OpenOptions::new().read(true).write(true).open(path).expect("open a data file")
}

/// Inverts one byte.
fn flip(place: &Place, after: u64) {
    let file = open(&place.path);
    let mut byte = [0];
    file.read_exact_at(&mut byte, place.offset + after).expect("read a byte");
    file.write_all_at(&[!byte[0]], place.offset + after).expect("write a byte");
}

/// `get`: the value, or the error that came instead of one.
fn get(c: &mut Client, key: &str) -> Result<Option<Vec<u8>>, String> {
    c.send(format!("get {key}\r\n"));
    match c.try_items() {
        Ok(mut items) => Ok(items.pop().map(|(_, item)| item.value)),
        Err(error) => Err(error.to_string()),
    }
}

fn small(i: u64) -> Vec<u8> {
    random_bytes(i, 200 + i as usize)
}

type Tear = fn(&Place, u64);

/// Ways to tear a tail, given the file, where the last record's value begins, and its length.
const TEARS: [(&str, Tear); 5] = [
    ("cut in its value", |last, len| open(&last.path).set_len(last.offset + len / 2).expect("cut the file")),
    ("cut in its header", |last, _| open(&last.path).set_len(last.offset - 20).expect("cut the file")),
    ("zeros", |last, len| {
        open(&last.path).write_all_at(&vec![0; len as usize], last.offset + 10).expect("write zeros")
    }),
    ("garbage", |last, len| {
        open(&last.path).write_all_at(&random_bytes(99, len as usize), last.offset + 10).expect("write")
    }),
    ("one bit", |last, len| flip(last, len - 1)),
];

#[test]
fn a_torn_tail_is_cut() {
    for (how, tear) in TEARS {
        let server = Server::start(&["--db.sync=none"]);
        let mut c = server.client();
        for i in 0..200 {
            c.set(&format!("k{i}"), small(i));
        }
        c.set("last", random_bytes(1000, 3000));
        let plan = server.kill();
        tear(&find(&plan, &random_bytes(1000, 3000)), 3000);
        let server = plan.start();
        let mut c = server.client();
        for i in 0..200 {
            assert!(get(&mut c, &format!("k{i}")) == Ok(Some(small(i))), "{how}: k{i}");
        }
        let last = get(&mut c, "last").map(|value| value.map(|value| value.len()));
        assert_eq!(last, Ok(None), "{how}: a torn record never was");
        // And it goes on from there, for good.
        let mut c = server.client();
        c.set("last", "new");
        c.set("more", random_bytes(7, 5000));
        let server = server.kill().start();
        let mut c = server.client();
        assert_eq!(get(&mut c, "last"), Ok(Some(b"new".to_vec())), "{how}");
        assert!(get(&mut c, "more") == Ok(Some(random_bytes(7, 5000))), "{how}");
        assert!(get(&mut c, "k199") == Ok(Some(small(199))), "{how}");
    }
}

/// The control of the above: without a tear, the last record is there.
#[test]
fn an_untorn_tail_is_kept() {
    let server = Server::start(&["--db.sync=none"]);
    server.client().set("last", random_bytes(1000, 3000));
    let plan = server.kill();
    let last = find(&plan, &random_bytes(1000, 3000));
    // Garbage where no record was yet: a write that never came to its end.
    let file = open(&last.path);
    file.write_all_at(&random_bytes(5, 10_000), last.offset + 3000 + 64).expect("write garbage");
    let server = plan.start();
    assert!(get(&mut server.client(), "last") == Ok(Some(random_bytes(1000, 3000))));
}

/// A record inside of a value is never taken for one, wherever the log is cut.
#[test]
fn records_inside_of_values() {
    let server = Server::start(&["--db.sync=none", "--db.compression=no"]);
    let mut c = server.client();
    c.set("victim", "the true value");
    c.set("end", "x");
    let plan = server.kill();
    let record = find(&plan, b"the true value");
    let segment = std::fs::read(&record.path).expect("read the segment");
    let start = (record.offset as usize).saturating_sub(200);
    let copy = segment[start.max(64)..record.offset as usize + 200].to_vec();
    let server = plan.start();
    let mut c = server.client();
    c.set("victim", "a newer value");
    assert_eq!(c.store("set", "copy", 0, 0, &copy), "STORED");
    c.set("after", "y");
    let plan = server.kill();
    let server = plan.start();
    let mut c = server.client();
    assert_eq!(get(&mut c, "victim"), Ok(Some(b"a newer value".to_vec())));
    assert_eq!(get(&mut c, "copy"), Ok(Some(copy)));
    assert_eq!(get(&mut c, "after"), Ok(Some(b"y".to_vec())));
}

/// Decay in what was durable: an error for the key that it hit, never a miss and never the older value; everything
/// else is served.
#[test]
fn damage_is_told_and_stays_where_it_is() {
    let server = Server::start(&["--db.sync=always"]);
    let mut c = server.client();
    c.set("hit", "an older value");
    for i in 0..200 {
        c.set(&format!("k{i}"), small(i));
        if i == 100 {
            c.set("hit", random_bytes(1000, 3000));
        }
    }
    let plan = server.stop();
    flip(&find(&plan, &random_bytes(1000, 3000)), 1500);
    for life in 0..2 {
        let server = plan.start();
        let mut c = server.client();
        for i in 0..200 {
            assert!(get(&mut c, &format!("k{i}")) == Ok(Some(small(i))), "life {life}: k{i}");
        }
        let hit = get(&mut c, "hit");
        assert!(hit.as_ref().is_err_and(|error| error.contains("SERVER_ERROR damaged value")), "life {life}: {hit:?}");
        assert!(server.messages().to_lowercase().contains("damage"), "life {life}: {}", server.messages());
        server.stop();
    }
    // A new value makes it whole.
    let server = plan.start();
    server.client().set("hit", "new");
    let server = server.restart();
    assert_eq!(get(&mut server.client(), "hit"), Ok(Some(b"new".to_vec())));
}

/// Reading many damaged values over and over does not write a message each time.
#[test]
fn damage_is_told_once_a_second_at_most() {
    let server = Server::start(&["--db.sync=always"]);
    let mut c = server.client();
    (0..40).for_each(|i| c.set(&format!("k{i}"), random_bytes(2000 + i, 600)));
    let plan = server.stop();
    (0..40).for_each(|i| flip(&find(&plan, &random_bytes(2000 + i, 600)), 300));
    let server = plan.start();
    let mut c = server.client();
    let begun = std::time::Instant::now();
    for i in 0..800 {
        assert!(get(&mut c, &format!("k{}", i % 40)).is_err_and(|error| error.contains("damaged value")), "{i}");
    }
    let seconds = begun.elapsed().as_secs() as usize;
    let told = server.messages().matches("a client was told of a damaged value").count();
    assert!((1..=seconds + 2).contains(&told), "{told} messages in {seconds} s");
}

/// A damaged chunk of a large value: an error or a closed connection, never wrong bytes; other values are whole.
#[test]
fn damaged_chunks() {
    let server = Server::start(&["--db.sync=always"]);
    let mut c = server.client();
    for i in 0..4 {
        c.set(&format!("big{i}"), random_bytes(i, 300_000));
    }
    c.set("small", "x");
    let plan = server.stop();
    for chunk in [0, 3] {
        let value = random_bytes(2, 300_000);
        let at = chunk * 65_536 + 10;
        let place = find(&plan, &value[at..at + 100]);
        flip(&place, 50);
        let server = plan.start();
        let big = get(&mut server.client(), "big2");
        let told = big.as_ref().is_err_and(|error| error.contains("SERVER_ERROR damaged value"));
        // Once the beginning of a value was sent, all that can be done is to close the connection.
        assert!(
            told || (chunk > 0 && big.is_err()),
            "chunk {chunk}: {:?}",
            big.map(|value| value.map(|value| value.len()))
        );
        let file = place.path.display().to_string();
        wait_until("the operator is told which file", || server.messages().contains(&file));
        // A list of keys ends with the error, and what follows it is answered; in the middle of a value nothing can be.
        let mut c = server.client();
        c.send("get big1 big2 small\r\nget small\r\nquit\r\n");
        let before = [b"VALUE big1 0 300000\r\n", &random_bytes(1, 300_000)[..], b"\r\n"].concat();
        let came = c.until_closed();
        let came = came.strip_prefix(&before[..]).expect("the value before it");
        match chunk {
            0 => {
                let error = came.strip_suffix(b"\r\nVALUE small 0 1\r\nx\r\nEND\r\n").expect("what follows");
                assert!(error.starts_with(b"SERVER_ERROR damaged value") && !error.contains(&b'\n'));
            }
            _ => {
                let sound = [b"VALUE big2 0 300000\r\n", &value[..chunk * 65_536]].concat();
                assert!(sound.starts_with(came), "{} bytes, some of them damaged", came.len());
            }
        }
        let mut c = server.client();
        for i in [0, 1, 3] {
            assert!(get(&mut c, &format!("big{i}")) == Ok(Some(random_bytes(i, 300_000))), "chunk {chunk}: big{i}");
        }
        assert_eq!(get(&mut c, "small"), Ok(Some(b"x".to_vec())));
        server.stop();
        flip(&place, 50);
    }
    let server = plan.start();
    assert!(
        get(&mut server.client(), "big2") == Ok(Some(random_bytes(2, 300_000))),
        "the control: flipped back, it is whole"
    );
}

/// Every file says which format it has; one that a later version wrote is not touched.
#[test]
fn a_newer_format_is_refused() {
    let server = Server::start(&[]);
    let mut c = server.client();
    c.set("a", "x");
    c.set("big", random_bytes(1, 300_000));
    let plan = server.stop();
    let mut versioned = 0;
    for path in files(&plan) {
        let content = std::fs::read(&path).expect("read a data file");
        if !content.starts_with(b"KDB") {
            continue;
        }
        versioned += 1;
        let newer = u32::from_le_bytes(content[8..12].try_into().expect("4 bytes")) + 1;
        let mut head = content[..if content.starts_with(b"KDBSTORE") { 48 } else { 64 }].to_vec();
        head[8..12].copy_from_slice(&newer.to_le_bytes());
        let crc = crc32c::crc32c_append(newer - 1, &head[16..]);
        head[12..16].copy_from_slice(&crc.to_le_bytes());
        open(&path).write_all_at(&head, 0).expect("write a newer header");
        let (status, messages) = plan.refused();
        assert_eq!(status, 1, "{}: {messages}", path.display());
        assert_eq!(messages.lines().count(), 1, "{}: {messages}", path.display());
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(messages.contains(&name), "the line names {name}: {messages}");
        assert!(messages.contains(&newer.to_string()), "the line tells the version: {messages}");
        open(&path).write_all_at(&content[..64.min(content.len())], 0).expect("write the header back");
    }
    assert!(versioned >= 2, "{versioned} files with a version");
    let server = plan.start();
    let mut c = server.client();
    assert_eq!(get(&mut c, "a"), Ok(Some(b"x".to_vec())), "a refused start changed nothing");
    assert!(get(&mut c, "big") == Ok(Some(random_bytes(1, 300_000))));
}

/// Files that a crash may leave half made, and files that are somebody else's, are no obstacle.
#[test]
fn unfinished_and_foreign_files() {
    let server = Server::start(&[]);
    let mut c = server.client();
    c.set("a", "x");
    c.send(storage("set big 0 0 300000", &random_bytes(1, 300_000)));
    assert_eq!(c.line(), "STORED");
    let plan = server.kill();
    std::fs::write(plan.data().join("README"), "not ours").expect("write a file");
    let newest = files(&plan)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|kind| kind == "log"))
        .max()
        .expect("a segment");
    let name = newest.file_stem().expect("a name").to_string_lossy().into_owned();
    // The next segment, made but not yet written to when the process died.
    let next = match u64::from_str_radix(&name, 16) {
        Ok(number) => format!("{:0width$x}.log", number + 1, width = name.len()),
        Err(_) => panic!("segments are numbered: {name}"),
    };
    if !plan.data().join(&next).exists() {
        std::fs::write(newest.with_file_name(&next), "").expect("write an empty file");
    }
    let server = plan.start();
    let mut c = server.client();
    assert_eq!(get(&mut c, "a"), Ok(Some(b"x".to_vec())));
    assert!(get(&mut c, "big") == Ok(Some(random_bytes(1, 300_000))));
    c.set("b", "y");
    let server = server.restart();
    assert_eq!(get(&mut server.client(), "b"), Ok(Some(b"y".to_vec())));
    assert_eq!(std::fs::read(server.plan().data().join("README")).expect("still there"), b"not ours");
}
