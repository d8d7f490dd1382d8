//! What values on their way hold: memory within a bound that all connections share, and nothing for ever. Uploads in
//! parts, clients that never read or never finish, and what the others notice of them: nothing. Progress is asserted by
//! counts; the clock only ends what hangs.

use crate::common::client::storage;
use crate::common::strace::Tracer;
use crate::common::util::{counted, random_bytes, resident_memory, text_bytes, tier, wait_until};
use crate::common::{Client, Server};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

const CHUNK: usize = 64 * 1024;
const MIB: u64 = 1 << 20;

fn part(client: &mut Client, upload: &str, number: usize, value: &[u8]) -> String {
    client.talk_line(&storage(&format!("part {upload} {number} {}", value.len()), value))
}

#[test]
fn parts_in_any_order_over_any_connection_become_a_value_at_once() {
    let server = Server::start(&["-t", "2"]);
    let mut clients = [server.client(), server.client(), server.client()];
    let parts: Vec<Vec<u8>> = [1, 70_000, CHUNK, 5_000_000, 3, 300_000]
        .into_iter()
        .enumerate()
        .map(
            |(number, len)| {
                if number % 2 == 0 { text_bytes(number as u64, len) } else { random_bytes(number as u64, len) }
            },
        )
        .collect();
    clients[0].set("key", "before");
    for (turn, number) in [3, 0, 5, 1, 4, 2].into_iter().enumerate() {
        let client = &mut clients[turn % 3];
        assert_eq!(part(client, "up", number + 1, b"to be replaced"), "STORED");
        assert_eq!(part(client, "up", number + 1, &parts[number]), "STORED");
        assert_eq!(client.get("key").unwrap(), b"before");
        assert_eq!(client.get("up"), None);
    }
    let client = &mut clients[1];
    for count in [0, 5, 7] {
        assert_eq!(
            client.ask(&format!("commit up key 9 0 {count}")),
            "CLIENT_ERROR the upload has other parts than these"
        );
    }
    assert_eq!(client.ask("commit up key 9 0 6"), "STORED");
    let item = client.gets("key").unwrap();
    assert!(item.value == parts.concat() && item.flags == 9);
    assert_eq!(client.ask("commit up key 9 0 6"), "NOT_FOUND");
    // A small one is a value like any other.
    assert_eq!(part(client, "number", 2, b"7"), "STORED");
    assert_eq!(part(client, "number", 1, b"4"), "STORED");
    assert_eq!(client.ask("commit number n 0 0 2"), "STORED");
    assert_eq!(client.ask("incr n 1"), "48");
    let server = server.restart();
    assert!(server.client().get("key").unwrap() == parts.concat());
}

#[test]
fn parts_that_nobody_commits_leave_nothing() {
    let server = Server::start(&["--server.upload-timeout=1s", "-I", "16m"]);
    let mut client = server.client();
    let value = random_bytes(1, 2 << 20);
    assert_eq!(part(&mut client, "dropped", 1, &value), "STORED");
    assert_eq!(part(&mut client, "left", 1, &value), "STORED");
    assert_eq!(client.ask("abort dropped"), "DELETED");
    assert_eq!(client.ask("abort dropped"), "NOT_FOUND");
    wait_until("the upload expires", || {
        client.ask("commit left key 0 0 2") == "NOT_FOUND" && server.extent_blocks() < 64
    });
    assert_eq!(client.get("key"), None);
    for number in 1..=9 {
        assert_eq!(part(&mut client, "long", number, &value), "STORED");
    }
    assert_eq!(client.ask("commit long key 0 0 9"), "SERVER_ERROR object too large for cache");
    let server = server.kill().start();
    assert_eq!(server.client().ask("abort long"), "NOT_FOUND");
    let plan = server.stop();
    assert!(crate::common::server::command(&plan.data(), &["check"]));
    for (line, reply) in [
        ("part up 0 3", "CLIENT_ERROR bad command line format"),
        ("part up 10001 3", "CLIENT_ERROR bad command line format"),
        ("part up x 3", "CLIENT_ERROR bad command line format"),
        ("part up 1 0", "CLIENT_ERROR bad command line format"),
        ("part up 1 17000000", "SERVER_ERROR object too large for cache"),
        ("part up 1", "CLIENT_ERROR bad command line format"),
    ] {
        let server = plan.start();
        let mut client = server.client();
        let len = line.split(' ').nth(3).map_or(0, |len| len.parse().unwrap());
        let block = if len > 0 || line.ends_with(" 0") {
            storage(line, &vec![b'x'; len])
        } else {
            format!("{line}\r\n").into()
        };
        assert_eq!(client.talk_line(&block), reply, "{line}");
        assert!(client.ask("version").starts_with("VERSION"), "{line}: in step");
        server.stop();
    }
}

/// Clients that ask for large values, or for many small ones, and read nothing; clients that send the beginning of a
/// large value. Small requests are served beside them, and all that they hold together is bounded.
#[test]
fn what_is_on_its_way_is_bounded() {
    crate::common::util::raise_descriptor_limit();
    let clients = tier(150, 1000, 1000);
    let server = Server::start(&["-t", "1", "-m", "1", "-c", "4096", "--server.buffer-memory=8mb"]);
    let mut client = server.client();
    let large = random_bytes(1, 4 << 20);
    client.set("large", &large);
    for number in 0..20 {
        client.set(&format!("small{number}"), random_bytes(number, 60_000));
    }
    (0..20).for_each(|number| assert!(client.get(&format!("small{number}")).is_some()));
    let before = resident_memory(server.pid());
    let mut most = 0;
    let mut look = |what: &str, client: &mut Client| {
        for number in 0..100 {
            client.set("mine", format!("{number}"));
            assert_eq!(client.get("mine").unwrap(), format!("{number}").into_bytes());
        }
        let growth = resident_memory(server.pid()).saturating_sub(before);
        println!("{clients} {what}: {} KiB more", growth / 1024);
        most = most.max(growth);
    };
    let line = format!("get{}\r\n", " large".repeat(1000));
    let mut readers: Vec<Client> = (0..clients).map(|_| server.client()).collect();
    readers.iter_mut().for_each(|reader| reader.send(&line));
    look("clients that do not read a large value", &mut client);
    let small: String = (0..20).map(|number| format!("get small{number}\r\n")).collect();
    let mut others: Vec<Client> = (0..clients).map(|_| server.client()).collect();
    others.iter_mut().for_each(|other| other.send(small.repeat(20)));
    look("clients that do not read small ones", &mut client);
    let mut writers: Vec<Client> = (0..clients).map(|_| server.client()).collect();
    for writer in &mut writers {
        writer.send("set other 0 0 1000000000\r\n");
        // Those that wait for memory are not read from: what the kernel takes, it takes.
        writer.tcp().set_nonblocking(true).unwrap();
        let _ = writer.try_send(&large[..150_000]);
    }
    look("clients that send the beginning of a value", &mut client);
    let allowed = 8 * MIB + 8 * MIB + (clients * 64 * 1024) as u64;
    assert!(most <= allowed, "{most} bytes more, {allowed} are allowed");
    drop((others, writers));
    // What was taken back is sent again from the right place.
    for reader in readers.iter_mut().take(3) {
        for _ in 0..3 {
            let item = reader.line();
            assert_eq!(item, format!("VALUE large 0 {}", large.len()));
            assert!(reader.bytes(large.len()) == large);
            assert_eq!(reader.line(), "");
        }
    }
    counted("clients that hold what they are sent", 3 * clients, 450);
}

/// Parts that nobody commits hold an eighth of the memory, and transfers go on in the rest of it.
#[test]
fn parts_leave_transfers_their_memory() {
    let server = Server::start(&["-t", "1", "--server.buffer-memory=1mb"]);
    let mut client = server.client();
    let refused = (1..=1000).find(|number| part(&mut client, "many", *number, b"x") != "STORED");
    let refused = refused.expect("a part that is refused");
    assert!((100..200).contains(&refused), "{refused}");
    let large = random_bytes(1, 300_000);
    for upload in ["many", "another"] {
        assert_eq!(part(&mut client, upload, refused, &large), "SERVER_ERROR out of memory storing object");
    }
    assert_eq!(part(&mut client, "many", 1, b"y"), "STORED", "in the place of another one");
    client.set("large", &large);
    assert!(client.get("large").unwrap() == large);
    assert_eq!(client.ask("abort many"), "DELETED");
    assert_eq!(part(&mut client, "many", refused, b"x"), "STORED");
}

/// Those who wait hold what they have sent so far, together more than there is memory for: they go on all the same, one
/// after the other if it must be.
#[test]
fn many_who_wait_for_memory_do_not_wait_for_each_other() {
    crate::common::util::raise_descriptor_limit();
    let server = Server::start(&["-t", "1", "--server.buffer-memory=1mb"]);
    let value = random_bytes(1, 100_000);
    let mut clients: Vec<Client> = (0..300).map(|_| server.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send([format!("set key{number} 0 0 100000\r\n").as_bytes(), &value[..10_000]].concat());
    }
    for client in &mut clients {
        client.send(&value[10_000..]);
        client.send("\r\n");
    }
    let stored = clients.iter_mut().filter_map(|client| (client.line() == "STORED").then_some(())).count();
    counted("values of clients who all waited", stored, 300);
}

/// When the memory is spent, transfers wait until others have ended, and then go on.
#[test]
fn transfers_wait_for_memory_and_then_go_on() {
    let server = Server::start(&["-t", "2", "--server.buffer-memory=1mb"]);
    let value = random_bytes(1, 300_000);
    // Twice as many as there is memory for.
    let mut holders: Vec<Client> = (0..10).map(|_| server.client()).collect();
    for holder in &mut holders {
        holder.send("set held 0 0 300000\r\n");
        holder.send(&value[..100_000]);
    }
    let mut client = server.client();
    for number in 0..200 {
        client.set("small", format!("{number}"));
    }
    let value = &value;
    std::thread::scope(|scope| {
        for number in 0..10 {
            let server = &server;
            scope.spawn(move || {
                let mut client = server.client();
                client.set(&format!("large{number}"), value);
                assert!(client.get(&format!("large{number}")).unwrap() == *value);
            });
        }
        // All at once: which of them have their memory is for the workers to say.
        for holder in &mut holders {
            scope.spawn(move || {
                holder.send(&value[100_000..]);
                holder.send("\r\n");
                assert_eq!(holder.line(), "STORED");
            });
        }
    });
}

/// Puts the extent files out of the page cache; tells which they are.
fn cool(server: &Server) -> Vec<PathBuf> {
    let files = std::fs::read_dir(server.plan().data()).expect("the data directory").flatten();
    let files: Vec<PathBuf> =
        files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|end| end == "ext")).collect();
    for file in &files {
        let from = format!("if={}", file.display());
        let sync = std::process::Command::new("sync").arg(file).status();
        let cold = std::process::Command::new("dd").args([&from, "iflag=nocache", "count=0", "status=none"]).status();
        assert!(sync.expect("run sync").success() && cold.expect("run dd").success());
    }
    files
}

/// A value of which the page cache has two chunks of three, on its way to somebody who does not take it at once, arrives as
/// it was.
#[test]
fn a_partly_cold_value_arrives_whole() {
    let server = Server::start(&["-t", "1", "--server.send-buffer=100kb"]);
    let (mut client, value) = (server.client(), random_bytes(1, 16 << 20));
    client.set("large", &value);
    // Where the socket is full, and whether the kernel has read ahead by then, is for chance to say.
    for _ in 0..8 {
        for path in cool(&server) {
            let file = std::fs::File::open(path).expect("open an extent file");
            for group in (0..value.len() / CHUNK / 3).rev() {
                file.read_at(&mut [0; 2 * CHUNK], ((1 + group * 3) * CHUNK) as u64).expect("read an extent file");
            }
        }
        let mut reader = server.client();
        reader.send("get large\r\n");
        wait_until("the socket is full", || client.stats("conns").values().any(|state| state == "conn_mwrite"));
        assert!(reader.items()[0].1.value == value);
    }
}

/// A value that has to come from the disk first is told as late as one that does not: when the record that was seen is durable.
/// This one never is.
#[test]
fn a_cold_value_waits_for_its_record_to_be_durable() {
    let server = Server::start(&["-t", "1", "--db.sync=always"]);
    let (mut writer, mut reader) = (server.client(), server.client());
    writer.set("large", random_bytes(1, 300_000));
    cool(&server);
    let inject = "inject=fdatasync,fsync:error=EIO:delay_enter=1000000";
    let tracer = Tracer::attach(server.pid(), &["-e", "trace=fdatasync,fsync,pread64", "-e", inject]);
    writer.send("touch large 5000\r\n");
    wait_until("the touch is executed", || server.client().stat("cmd_touch") == 1);
    let told = reader.ask("mg large t v");
    assert!(told.starts_with("SERVER_ERROR "), "told of a deadline that was never written: {told}");
    let told = writer.line();
    assert!(told.starts_with("SERVER_ERROR "), "an unsynced touch was acknowledged: {told}");
    assert!(tracer.finish().contains("pread64("), "the lane had nothing to read: the value was not cold");
}

/// What is seen before the reply can begin holds back the reply, although it says nothing yet; and so does what is done by
/// commands that say nothing.
#[test]
fn what_was_seen_in_silence_is_told_when_it_is_durable() {
    let server = Server::start(&["-t", "1", "--db.sync=always"]);
    let mut writer = server.client();
    writer.set("key", "value");
    let inject = "inject=fdatasync,fsync:error=EIO:delay_enter=1000000";
    let tracer = Tracer::attach(server.pid(), &["-e", "trace=fdatasync,fsync", "-e", inject]);
    writer.send("delete key\r\n");
    wait_until("the removal is executed", || server.client().stat("delete_hits") == 1);
    let halves = [("get key ", "\r\n"), ("mg key q\r\n", "mn\r\n"), ("ms other 1 q\r\nx\r\n", "mn\r\n")];
    let mut clients: Vec<Client> = halves.iter().map(|_| server.client()).collect();
    for (client, (begins, _)) in clients.iter_mut().zip(halves) {
        client.send(begins);
        // Whoever is answered later had his turn later.
        server.client().stat("delete_hits");
    }
    for (client, (begins, ends)) in clients.iter_mut().zip(halves) {
        client.send(ends);
        let told = client.line();
        assert!(told.starts_with("SERVER_ERROR "), "{begins:?} was told {told} before it was written");
    }
    tracer.finish();
}

/// While the disk does not answer, the operator is told who is there.
#[test]
fn a_disk_that_hangs_does_not_hide_the_connections() {
    let server = Server::start(&["-t", "2", "--db.lane-threads=1"]);
    let (mut client, mut dump) = (server.client(), server.client());
    client.set("key", "value");
    let hang = ["-e", "trace=pread64", "-e", "inject=pread64:delay_enter=6000000"];
    let tracer = Tracer::attach_thread(server.pid(), "lane-0", &hang);
    dump.send("lru_crawler metadump all\r\n");
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(client.stats("conns").len() >= 2 * 4);
    assert!(!dump.answers_within(std::time::Duration::from_millis(1)), "they were told when the disk went on");
    drop(tracer);
    assert_eq!(dump.line(), "OK");
}

/// What has left for a client that does not take it yet is that client's, and what is to follow stays, whatever becomes of the
/// value: replaced, removed, its range punched.
#[test]
fn a_value_that_goes_while_it_is_under_way_arrives_whole() {
    let server = Server::start(&["-t", "1"]);
    let mut client = server.client();
    let values: Vec<Vec<u8>> = (0..4).map(|i| random_bytes(i, 200_000)).chain([random_bytes(9, 48 << 20)]).collect();
    values.iter().enumerate().for_each(|(i, value)| client.set(&format!("v{i}"), value));
    let blocks = server.extent_blocks();
    let before = client.stat("bytes_written");
    let mut readers: Vec<Client> = values.iter().map(|_| server.client()).collect();
    readers.iter_mut().enumerate().for_each(|(i, reader)| reader.send(format!("get v{i}\r\n")));
    let mut sent = 0;
    wait_until("all that fits has left", || {
        let more = client.stat("bytes_written") - before;
        std::mem::replace(&mut sent, more) + 20_000 > more && more > 1_000_000
    });
    client.set("v0", random_bytes(7, 100_000));
    (1..values.len()).for_each(|i| assert_eq!(client.ask(&format!("delete v{i}")), "DELETED"));
    assert!(server.command(&["compact"]), "compact");
    let left = server.extent_blocks();
    assert!(
        left < blocks && left > 40 << 11,
        "{left} of {blocks} blocks: those of the value of which more is to be read"
    );
    for (reader, value) in readers.iter_mut().zip(&values) {
        assert!(reader.items()[0].1.value == *value, "{} bytes", value.len());
    }
    assert!(server.command(&["compact"]), "compact");
    assert!(server.extent_blocks() < 1 << 11, "the control: nothing is left of it");
}

/// Who waits for memory to read from the disk, and finds then that the page cache has it, holds nobody up.
#[test]
fn who_waits_in_vain_lets_the_others_pass() {
    let server = Server::start(&["-t", "1", "--server.buffer-memory=1mb"]);
    let (mut client, value) = (server.client(), random_bytes(1, 300_000));
    client.set("large", &value);
    let files = cool(&server);
    // They leave less than a chunk takes that comes from the disk.
    let mut holders: Vec<Client> = (0..5).map(|_| server.client()).collect();
    for holder in &mut holders {
        holder.send("set held 0 0 300000\r\n");
        holder.send(&value[..100_000]);
    }
    wait_until("all are received", || {
        client.stats("conns").values().filter(|state| *state == "conn_nread").count() == holders.len()
    });
    let mut reader = server.client();
    reader.send("get large\r\n");
    wait_until("it waits", || client.stats("conns").values().any(|state| state == "conn_io_pending"));
    assert!(files.iter().all(|file| std::fs::read(file).is_ok()));
    for holder in &mut holders {
        holder.send(&value[100_000..]);
        holder.send("\r\n");
        assert_eq!(holder.line(), "STORED");
    }
    assert_eq!(reader.items()[0].1.value, value);
    client.set("after", &value);
}

/// A command or a value that comes a byte at a time does not occupy a connection for ever, and one that comes slowly
/// but gets on does.
#[test]
fn who_never_finishes_is_sent_away() {
    let server = Server::start(&["-t", "1", "--server.request-timeout=2s"]);
    let mut steady = server.client();
    steady.send("set steady 0 0 1000000\r\n");
    let beginnings: [&[u8]; 6] = [
        b"ge",
        b"get key another",
        b"set key 0 0 100\r\nabc",
        b"set key 0 0 1000000\r\nabc",
        b"set key 0 0 0 0 ",
        b"\x00",
    ];
    let mut idle = server.client();
    assert!(idle.ask("version").starts_with("VERSION"));
    let mut slow: Vec<Client> = beginnings
        .iter()
        .map(|beginning| {
            let mut client = server.client();
            client.send(beginning);
            client
        })
        .collect();
    let (mut sent, mut steps) = (0, 0);
    while slow.iter_mut().any(|client| client.try_send(b"x").is_ok()) && steps < 600 {
        std::thread::sleep(std::time::Duration::from_millis(50));
        if sent < 1_000_000 && steps % 10 == 0 {
            steady.send(vec![b'x'; 100_000]);
            sent += 100_000;
        }
        steps += 1;
    }
    assert!(steps < 600, "they are still there");
    steady.send(vec![b'x'; 1_000_000 - sent]);
    steady.send("\r\n");
    assert_eq!(steady.line(), "STORED");
    assert!(idle.ask("version").starts_with("VERSION"), "who has asked for nothing may stay");
    assert_eq!(server.client().stat("idle_kicks"), beginnings.len() as u64);
    counted("slow clients sent away", beginnings.len(), 6);
}

/// Who sends steadily may take longer than a request, although it is all thrown away; and an upload in parts is not given
/// up while its next part is arriving.
#[test]
fn who_gets_on_may_take_his_time() {
    let server = Server::start(&["-t", "1", "-I", "1m", "--server.request-timeout=2s", "--server.upload-timeout=2s"]);
    let (mut refused, mut parts) = (server.client(), server.client());
    assert_eq!(part(&mut parts, "upload", 1, b"one"), "STORED");
    parts.send("part upload 2 500000\r\n");
    refused.send("set refused 0 0 1200000\r\n");
    for step in 0..100 {
        std::thread::sleep(std::time::Duration::from_millis(40));
        refused.send(vec![b'x'; if step < 99 { 1000 } else { 1_200_000 - 99 * 1000 }]);
        parts.send(vec![b'y'; 5_000]);
    }
    refused.send("\r\n");
    parts.send("\r\n");
    assert!(refused.line().starts_with("SERVER_ERROR object too large"));
    assert!(refused.ask("version").starts_with("VERSION"));
    assert_eq!(parts.line(), "STORED");
    assert_eq!(parts.ask("commit upload whole 0 0 2"), "STORED");
    assert_eq!(server.client().get("whole").unwrap().len(), 500_003);
}

/// Between two commands, or watching, a connection may be silent for as long as it likes, whatever it speaks.
#[test]
fn who_is_between_commands_may_stay() {
    let server = Server::start(&["-t", "1", "--server.request-timeout=1s"]);
    let noop: Vec<u8> = [0x80, 0x0a].into_iter().chain([0; 22]).collect();
    let (mut binary, mut watcher, mut fresh) = (server.client(), server.client(), server.client());
    binary.send(&noop);
    assert_eq!(binary.bytes(24)[..2], [0x81, 0x0a]);
    assert_eq!(watcher.ask("watch mutations"), "OK");
    // They were silent before this one is, so whatever ends it has let them pass.
    let mut partial = server.client();
    partial.send("get ");
    assert_eq!(partial.until_closed(), b"");
    binary.send(&noop);
    assert_eq!(binary.bytes(24)[..2], [0x81, 0x0a]);
    assert_eq!(fresh.stat("idle_kicks"), 1);
    fresh.set("key", "value");
    assert!(watcher.until(b"\n").starts_with(b"ts="));
}

/// Whoever is to say who he is has the time of one request for it, silent or not.
#[test]
fn who_is_not_known_may_not_stay() {
    let dir = tempfile::tempdir().expect("make a directory");
    let file = dir.path().join("users");
    std::fs::write(&file, "alice:wonderland\n").expect("write the users");
    let server =
        Server::start(&["-t", "1", "--server.request-timeout=1s", "-Y", file.to_str().expect("a path in ASCII")]);
    let mut known = server.client();
    assert_eq!(known.talk_line(&storage("set any 0 0 16", b"alice wonderland")), "STORED");
    let version: Vec<u8> = [0x80, 0x0b].into_iter().chain([0; 22]).collect();
    for beginning in [&b""[..], b"version\r\n", &version] {
        let mut unknown = server.client();
        unknown.send(beginning);
        let reply = unknown.until_closed();
        assert_eq!(reply.is_empty(), beginning.is_empty(), "{}", reply.escape_ascii());
    }
    assert_eq!(known.stat("idle_kicks"), 3);
}

/// Beginnings of dumps that nobody reads take memory, which removals by prefix want as well.
#[test]
fn removals_by_prefix_wait_for_memory_as_dumps_do() {
    // Two hold more than half of this, and one holds less once its socket is full.
    let server = Server::start(&["-t", "1", "--server.buffer-memory=1m", "--server.send-buffer=16k"]);
    let mut c = server.client();
    let set = |number| format!("set {}{number} 0 0 1 noreply\r\nx\r\n", "key".repeat(60));
    c.talk((0..20_000).map(set).collect::<String>());
    c.set("gone", "x");
    let mut slow: Vec<Client> = (0..2).map(|_| server.client()).collect();
    let waits = |c: &mut Client| c.stats("conns").values().filter(|state| *state == "conn_mwrite").count();
    for (before, slow) in slow.iter_mut().enumerate() {
        slow.send("lru_crawler metadump all\r\n");
        wait_until("its socket is full", || waits(&mut c) == before + 1);
    }
    for command in ["delete_prefix gone", "lru_crawler mgdump all"] {
        let told = c.ask(command);
        assert!(told.starts_with("SERVER_ERROR out of memory"), "{command}: {told}");
    }
    assert!(c.ask("delete_prefix gone noreply\r\nversion").starts_with("VERSION "));
    assert_eq!(c.get("gone").as_deref(), Some(&b"x"[..]));
    drop(slow);
    wait_until("their memory is given back", || c.ask("delete_prefix gone") == "DELETED 1");
}

/// What is removed while a dump is read keeps its disk space, so nobody may read none of it for ever.
#[test]
fn who_reads_nothing_of_a_dump_may_not_stay() {
    let server = Server::start(&["-t", "1", "--server.request-timeout=5s", "--server.send-buffer=16k"]);
    let (mut c, mut slow) = (server.client(), server.client());
    let set = |number| format!("set {}{number} 0 0 1 noreply\r\nx\r\n", "key".repeat(60));
    c.talk((0..20_000).map(set).collect::<String>());
    let begun = std::time::Instant::now();
    slow.send("lru_crawler metadump all\r\n");
    wait_until("the dump is given up", || c.stat("idle_kicks") == 1);
    let patience = begun.elapsed().as_secs();
    assert!((5..9).contains(&patience), "after {patience} s");
    let reply = slow.until_closed();
    assert!(reply.starts_with(b"OK\r\nkey=") && !reply.ends_with(b"END\r\n"), "{} bytes", reply.len());
    let mut all = server.client();
    all.send("lru_crawler metadump all\r\n");
    assert_eq!(all.until(b"END\r\n").iter().filter(|byte| **byte == b'\n').count(), 20_001);
}
