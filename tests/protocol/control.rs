//! Who may come in, and what operators ask: authentication, key dumps, deleting by prefix, watching, shutdown.

use crate::common::dialogue::{BAD, all, any};
use crate::common::util::wait_until;
use crate::common::{Client, Server};
use std::fs;

const UNKNOWN: &str = "CLIENT_ERROR unauthenticated\r\n";
const FAILURE: &str = "CLIENT_ERROR authentication failure\r\n";

fn login(c: &mut Client, token: &str) -> String {
    c.send(format!("set any 0 0 {}\r\n{token}\r\n", token.len()));
    c.line()
}

fn sasl(opcode: u8, mechanism: &[u8], message: &[u8]) -> Vec<u8> {
    let body = (mechanism.len() + message.len()) as u32;
    let mut bytes = vec![0x80, opcode, 0, mechanism.len() as u8, 0, 0, 0, 0];
    bytes.extend(body.to_be_bytes());
    bytes.extend([0; 12]);
    [&bytes, mechanism, message].concat()
}

/// Status and body.
fn response(c: &mut Client) -> (u8, Vec<u8>) {
    let header = c.bytes(24);
    let len = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    (header[7], c.bytes(len as usize))
}

#[test]
fn nothing_is_done_for_who_is_not_known() {
    let dir = tempfile::tempdir().expect("make a directory");
    let file = dir.path().join("users");
    fs::write(&file, "alice:wonder land\nbob:builder\n").expect("write the users");
    let server = Server::start(&["-Y", file.to_str().expect("a path in ASCII")]);
    let mut c = server.client();
    for line in ["version", "get any", "stats", "flush_all", "mg any v", "mn much", "shutdown"] {
        assert_eq!(c.ask(line) + "\r\n", UNKNOWN, "{line}");
    }
    // What is refused is not looked at: it could be another attempt.
    let block = format!("set any 0 0 16\r\nalice wonder land\r\n{}", "x".repeat(99_999 - 34));
    c.send(format!("set any 0 0 {}\r\n{block}\r\n", block.len()));
    assert_eq!(c.line(), "CLIENT_ERROR auth token too long");
    assert_eq!(c.ask("settle any 0 0 16") + "\r\n", UNKNOWN);
    c.send("set any 0 0 3 noreply\r\na b\r\n");
    assert_eq!(c.line() + "\r\n", FAILURE);
    assert_eq!(login(&mut c, "alice") + "\r\n", "CLIENT_ERROR bad authentication token format\r\n");
    for token in ["alice wonder", "alice wonder land ", "bob wonder land", " ", "bob builde"] {
        assert_eq!(login(&mut c, token) + "\r\n", FAILURE, "{token}");
    }
    assert_eq!(login(&mut c, "alice wonder land"), "STORED");
    all(&mut c, &[("get any\r\n", "END\r\n"), ("set any 0 0 1\r\nx\r\n", "STORED\r\n")]);
    assert_eq!((c.stat("auth_cmds"), c.stat("auth_errors")), (7, 6));
    // What cannot be an attempt is not answered.
    for line in ["get\r\n".to_string(), "x".repeat(5000)] {
        let mut stranger = server.client();
        stranger.send(line);
        assert_eq!(stranger.until_closed(), b"");
    }
    // The binary dialect has the same users.
    let mut b = server.client();
    b.send(sasl(0x20, b"", b""));
    assert_eq!(response(&mut b), (0, b"PLAIN".to_vec()));
    for message in [&b"\0alice\0wonder"[..], b"alice\0wonder land", b"\0\0", b"\0bob\0wonder land"] {
        b.send(sasl(0x21, b"PLAIN", message));
        assert_eq!(response(&mut b), (0x20, b"Auth failure.".to_vec()), "{}", message.escape_ascii());
    }
    b.send(sasl(0x22, b"PLAIN", b"\0bob\0builder"));
    assert_eq!(response(&mut b).0, 0x20, "a step before the first one");
    b.send(sasl(0x21, b"PLAIN", b""));
    assert_eq!(response(&mut b), (0x21, vec![]));
    b.send(sasl(0x22, b"PLAIN", b"\0bob\0builder"));
    assert_eq!(response(&mut b), (0, b"Authenticated".to_vec()));
    b.send(sasl(0x00, b"any", b""));
    assert_eq!(response(&mut b), (0, b"\0\0\0\0x".to_vec()));
    let mut b = server.client();
    b.send(sasl(0x00, b"any", b""));
    assert_eq!(response(&mut b).0, 0x20);
    assert_eq!(b.until_closed(), b"");
    // The file is read again on SIGHUP, and one that is of no use changes nothing.
    fs::write(&file, "carol:x\n").expect("write the users");
    server.signal("HUP");
    wait_until("the users are read again", || server.messages().contains("read again"));
    let mut c = server.client();
    assert_eq!(login(&mut c, "bob builder") + "\r\n", FAILURE);
    assert_eq!(login(&mut c, "carol x"), "STORED");
    fs::write(&file, "nonsense\n").expect("write the users");
    server.signal("HUP");
    wait_until("the file is refused", || server.messages().contains("users:1: "));
    assert_eq!(login(&mut server.client(), "carol x"), "STORED");
}

/// The lines of a dump, without the first and the last.
fn dump(c: &mut Client, command: &str, end: &str) -> Vec<String> {
    assert_eq!(c.ask(command), "OK");
    let text = String::from_utf8(c.until(end.as_bytes())).expect("a dump is text");
    text.lines().map(str::trim_end).map(str::to_owned).collect()
}

#[test]
fn keys_are_told_and_deleted_by_prefix() {
    let server = Server::start(&[]);
    let mut c = server.client();
    let many = 3000;
    for number in 0..many {
        c.send(format!("set many:{number} 7 0 1 noreply\r\nx\r\n"));
    }
    all(
        &mut c,
        &[
            ("set other%1 0 0 1\r\nx\r\n", "STORED\r\n"),
            ("ms AAEg 1 b\r\nx\r\n", "HD\r\n"),
            ("set gone 0 -1 1\r\nx\r\n", "STORED\r\n"),
            ("lru_crawler metadump nonsense\r\n", "BADCLASS invalid class id\r\n"),
            ("lru_crawler metadump\r\n", "ERROR\r\n"),
            ("delete_prefix\r\n", BAD),
            ("delete_prefix many: other\r\n", BAD),
            ("delete_prefix many: noreply other\r\n", BAD),
            ("delete_prefix many: other noreply\r\nset quiet:1 0 0 1\r\nx\r\n", "STORED\r\n"),
            ("delete_prefix quiet: noreply\r\nget quiet:1\r\n", "END\r\n"),
        ],
    );
    let lines = dump(&mut c, "lru_crawler metadump all", "END\r\n");
    assert_eq!(lines.len(), many + 2);
    assert!(
        lines.iter().any(|line| line.starts_with("key=other%251 exp=-1 ") && line.ends_with(" cls=1 size=8 flags=0"))
    );
    assert!(lines.iter().any(|line| line.starts_with("key=%00%01%20 ")));
    let lines = dump(&mut c, "lru_crawler mgdump hash", "EN\r\n");
    assert!(
        lines.len() == many + 2 && lines.contains(&"mg AAEg b".to_owned()) && lines.contains(&"mg other%1".to_owned())
    );
    assert_eq!(dump(&mut c, "lru_crawler mgdump all many:29", "EN\r\n").len(), 111);
    for (limit, lines) in [(0, many + 1), (1, 1), (many, many), (many + 9, many + 1)] {
        c.send(format!("stats cachedump 1 {limit}\r\n"));
        let text = String::from_utf8(c.until(b"END\r\n")).expect("a dump is text");
        assert_eq!(text.matches("ITEM ").count(), lines, "{limit}");
        assert!(lines <= many || text.contains("ITEM other%1 [1 b; 0 s]\r\n"));
    }
    // Any number at once, and from one moment.
    let mut others: Vec<_> = (0..8).map(|_| server.client()).collect();
    others.iter_mut().for_each(|other| other.send("lru_crawler mgdump all many:\r\n"));
    assert_eq!(c.ask("delete_prefix many:1"), "DELETED 1111");
    assert_eq!(c.ask("delete_prefix many:1"), "DELETED 0");
    for mut other in others {
        let text = other.until(b"EN\r\n");
        let lines = text.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"mg many:")).count();
        assert!((many - 1111..=many).contains(&lines), "{lines}");
    }
    all(&mut c, &[("get many:1 many:2\r\n", "VALUE many:2 7 1\r\nx\r\nEND\r\n")]);
    drop(c);
    let server = server.restart();
    assert_eq!(dump(&mut server.client(), "lru_crawler mgdump all many:", "EN\r\n").len(), many - 1111);
}

#[test]
fn watchers_are_told() {
    let server = Server::start(&["-t", "1"]);
    let (mut c, mut watcher) = (server.client(), server.client());
    assert_eq!(watcher.ask("watch nonsense"), "ERROR");
    assert_eq!(watcher.ask("watch fetchers mutations deletions connevents"), "OK");
    all(
        &mut c,
        &[
            ("get a#\r\n", "END\r\n"),
            ("set a# 0 0 2\r\nxy\r\n", "STORED\r\n"),
            ("mg a# v\r\n", "VA 2\r\nxy\r\n"),
            ("cas a# 0 0 1 9999\r\nx\r\n", "EXISTS\r\n"),
            ("delete a#\r\n", "DELETED\r\n"),
            ("set b 0 0 2\r\nxy\r\nmd b I\r\nmd b\r\n", "STORED\r\nHD\r\nHD\r\n"),
        ],
    );
    // More than a watcher is told in a turn.
    let keys: Vec<String> = (0..250).map(|i| format!("{i:0200}")).collect();
    assert_eq!(c.ask(&format!("get {}", keys.join(" "))), "END");
    drop(c);
    let told = [
        "type=item_get key=a%23 status=not_found clsid=0 ",
        "type=item_store key=a%23 status=stored cmd=set ttl=0 clsid=1 ",
        "type=item_get key=a%23 status=found clsid=1 ",
        "type=item_store key=a%23 status=exists cmd=cas ",
        "type=deleted key=a%23 cmd=delete clsid=1 size=2",
        "type=item_store key=b status=stored cmd=set ",
        "type=deleted key=b cmd=md clsid=1 size=2",
    ];
    let missed = keys.iter().map(|key| format!("type=item_get key={key} status=not_found "));
    let closed = "type=conn_close rip=127.0.0.1 rport=".to_string();
    for wanted in told.map(String::from).into_iter().chain(missed).chain([closed]) {
        let line = String::from_utf8(watcher.until(b"\n")).expect("a line of text");
        assert!(line.starts_with("ts=") && line.contains(&wanted), "{line} instead of {wanted}");
    }
    drop(watcher);
    wait_until("nobody watches", || server.client().stat("log_watchers") == 0);
}

#[test]
fn what_operators_ask() {
    let mut server = Server::start(&["-A", "-F", "-D", "/"]);
    let mut c = server.client();
    all(
        &mut c,
        &[
            ("flush_all\r\n", "CLIENT_ERROR flush_all not allowed\r\n"),
            ("delete_prefix p\r\n", "CLIENT_ERROR delete_prefix not allowed\r\n"),
            ("cache_memlimit 1\r\n", "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n"),
            ("cache_memlimit 32\r\n", "OK\r\n"),
            ("cache_memlimit x\r\n", "ERROR\r\n"),
            ("verbosity 1\r\n", "OK\r\n"),
            ("set p/1 0 0 1\r\nx\r\n", "STORED\r\n"),
            ("get p/1 p/2 q\r\n", "VALUE p/1 0 1\r\nx\r\nEND\r\n"),
            ("stats detail dump\r\n", "PREFIX p get 2 hit 1 set 1 del 0\r\nEND\r\n"),
            ("stats detail off\r\n", "OK\r\n"),
            ("get p/1\r\n", "VALUE p/1 0 1\r\nx\r\nEND\r\n"),
            ("stats detail dump\r\n", "PREFIX p get 2 hit 1 set 1 del 0\r\nEND\r\n"),
            ("shutdown now\r\n", "CLIENT_ERROR invalid shutdown mode\r\n"),
        ],
    );
    wait_until("the cache has its new size", || c.stat("limit_maxbytes") == 32 << 20);
    let conns = c.stats("conns");
    assert!(
        conns.values().any(|value| value == "conn_listening") && conns.keys().any(|key| key.ends_with(":listen_addr"))
    );
    assert_eq!(c.stats("settings")["shutdown_command"], "yes");
    c.send("shutdown graceful\r\n");
    assert!(server.await_exit().success() && server.messages().contains("shutdown"), "{}", server.messages());
    let mut server = Server::start(&["-X", "-W"]);
    let mut c = server.client();
    any(&mut c, "shutdown\r\n", &["SERVER_ERROR: shutdown not enabled\r\n"]);
    any(&mut c, "watch\r\n", &["CLIENT_ERROR watch commands not allowed\r\n"]);
    any(&mut c, "lru_crawler metadump all\r\n", &["ERROR metadump not allowed\r\n"]);
    any(&mut c, "stats detail dump\r\n", &["CLIENT_ERROR stats detail not allowed\r\n"]);
    any(&mut c, "stats cachedump 1 1\r\n", &["CLIENT_ERROR stats cachedump not allowed\r\n"]);
    server.signal("USR1");
    assert!(server.await_exit().success());
}

/// What a connection says after a removal in silence has the log written that far.
#[test]
fn a_silent_removal_does_not_hold_up_its_connection() {
    let server = Server::start(&["-t", "1", "--db.sync=none"]);
    let (mut client, mut other) = (server.client(), server.client());
    client.set("quiet:1", "x");
    client.send("delete_prefix quiet: noreply\r\n");
    wait_until("the key is gone", || other.stat("curr_items") == 0);
    assert!(client.ask("version").starts_with("VERSION "));
}

#[test]
fn a_silent_removal_is_written_though_nobody_else_writes() {
    let server = Server::start(&["-t", "1", "--db.sync=none"]);
    let mut client = server.client();
    client.set("quiet:1", "x");
    let before = client.stat("db_log_bytes");
    client.send("delete_prefix quiet: noreply\r\n");
    wait_until("the removal is written", || server.client().stat("db_log_bytes") > before);
    assert_eq!(server.client().stat("curr_items"), 0);
    let server = server.kill().start();
    assert_eq!(server.client().get("quiet:1"), None);
}
