//! Where the server listens, how it says so, how it refuses to start, and how it ends.

use crate::common::server::Plan;
use crate::common::util::{proc_status, random_bytes, wait_until};
use crate::common::{Client, Server};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::process::Command;
use std::time::Duration;

#[test]
fn one_line_says_where() {
    let server = Server::start(&[]);
    let messages = server.messages();
    assert_eq!(messages.lines().count(), 1, "{messages}");
    assert!(messages.contains(&server.address().to_string()), "{messages}");
    assert!(messages.contains(&server.plan().data().display().to_string()), "{messages}");
}

/// With -v the life of connections is told, and what was refused: in one line each, whatever bytes are in it.
#[test]
fn verbose_tells_of_connections() {
    for verbose in [false, true] {
        let server = Server::start(if verbose { &["-v"] } else { &["-t", "1"] });
        let mut c = server.client();
        let port = c.tcp().local_addr().expect("an address").port();
        assert_eq!(c.ask("nonsense \u{1b}[1m"), "ERROR");
        assert_eq!(c.talk("set a 0 0 1\r\nxyz"), b"CLIENT_ERROR bad data chunk\r\n");
        assert!(c.talk(format!("get {}\r\n", "k".repeat(251))).starts_with(b"CLIENT_ERROR"));
        let mut quitter = server.client();
        quitter.send("quit\r\n");
        assert_eq!(quitter.until_closed(), b"");
        drop(c);
        let told = [
            &format!("opened from 127.0.0.1:{port}"),
            "'nonsense \\x1b[1m' refused: ERROR",
            "'a' refused: CLIENT_ERROR bad data chunk",
            "kkk' refused: CLIENT_ERROR bad command line format",
            "closed after its last reply",
            "closed by the client",
        ];
        if verbose {
            wait_until("all is told", || told.iter().all(|line| server.messages().contains(line)));
        } else {
            wait_until("they are gone", || server.client().stat("curr_connections") == 1);
            assert_eq!(server.messages().lines().count(), 1, "{}", server.messages());
        }
    }
}

#[test]
fn ipv4_ipv6_and_unix_together() {
    let plan = Plan::new(&[]);
    let socket = plan.root().join("socket");
    let path = socket.to_str().expect("UTF-8");
    let plan = plan.listen(&["-p", "0", "-l", "127.0.0.1", "-l", "::1", "-s", path, "-a", "0640"]);
    let server = plan.start();
    wait_until("both addresses are told", || server.messages().contains("::1"));
    let port = server.address().port();
    let mut four = Client::connect(([127, 0, 0, 1], port).into());
    let six_address = server.addresses().iter().find(|address| address.is_ipv6()).copied();
    let mut six = Client::connect(six_address.expect("an IPv6 address in the line"));
    let mut unix = Client::connect_unix(&socket);
    four.set("a", "4");
    six.set("b", "6");
    unix.set("c", "u");
    for c in [&mut four, &mut six, &mut unix] {
        assert_eq!(c.talk("get a b c\r\n"), b"VALUE a 0 1\r\n4\r\nVALUE b 0 1\r\n6\r\nVALUE c 0 1\r\nu\r\nEND\r\n");
    }
    let mode = std::fs::metadata(&socket).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    // A socket that a killed server left behind is no obstacle; one that is served is.
    let server = server.kill().start();
    Client::connect_unix(&socket).set("d", "again");
    assert!(server.plan().root().join("socket").exists());
    server.stop();
    assert!(!socket.exists(), "a clean stop takes its socket away");
}

/// Whoever may make links in the socket's directory must not choose whose mode is changed. The system call that makes the
/// socket takes its time, so that there is some for the link.
#[test]
fn unix_mode_is_the_socket_s_alone() {
    let plan = Plan::new(&["-t", "1"]);
    let (socket, victim) = (plan.root().join("socket"), plan.root().join("victim"));
    std::fs::write(&victim, "").expect("write a file");
    std::fs::set_permissions(&victim, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let slow = ["strace", "-D", "-q", "-o", "/dev/null", "-e", "trace=bind", "-e", "inject=bind:delay_exit=1000000"];
    let plan = plan.under(&slow).listen(&["-s", socket.to_str().expect("UTF-8"), "-a", "0666"]);
    let server = plan.spawn();
    wait_until("the socket is there", || socket.exists());
    let mode = |path| std::fs::metadata(path).expect("look at it").permissions().mode() & 0o777;
    let made = mode(&socket);
    std::fs::remove_file(&socket).expect("remove the socket");
    std::os::unix::fs::symlink(&victim, &socket).expect("make a link");
    wait_until("it listens", || server.messages().contains("listening on"));
    assert_eq!((made, mode(&victim)), (0o666, 0o600));
}

#[test]
fn unix_socket_alone() {
    let plan = Plan::new(&["-t", "4"]);
    let socket = plan.root().join("socket");
    let server = plan.listen(&["-s", socket.to_str().expect("UTF-8")]).start();
    assert!(server.addresses().is_empty(), "-s alone means no TCP, as with memcached: {}", server.messages());
    let mut clients: Vec<Client> = (0..100).map(|_| Client::connect_unix(&socket)).collect();
    for (i, c) in clients.iter_mut().enumerate() {
        c.set(&format!("k{i}"), "x");
    }
    assert_eq!(clients[0].stat("curr_items"), 100);
    assert!(std::fs::metadata(&socket).expect("the socket").file_type().is_socket());
}

#[test]
fn socket_path_that_is_something_else() {
    let plan = Plan::new(&[]);
    let socket = plan.root().join("precious");
    std::fs::write(&socket, "do not touch").expect("write a file");
    let link = plan.root().join("link");
    std::os::unix::fs::symlink(&socket, &link).expect("make a link");
    let data = plan.data();
    // The plan owns the directory: it has to outlive the looks at what is left there.
    for path in [&socket, &link, &plan.root().to_path_buf()] {
        let path = path.to_str().expect("UTF-8");
        let (status, messages) = plan.clone().listen(&["-s", path]).refused();
        assert_eq!(status, 1, "{messages}");
        assert_eq!(messages.lines().count(), 1, "{messages}");
        assert!(messages.contains(path) && messages.contains("not a socket"), "{messages}");
        assert_eq!(std::fs::read(&socket).expect("still there"), b"do not touch");
        assert!(link.is_symlink() && !data.exists());
    }
}

#[test]
fn unix_socket_in_use() {
    let plan = Plan::new(&[]);
    let socket = plan.root().join("socket");
    let path = socket.to_str().expect("UTF-8");
    let _first = plan.listen(&["-s", path]).start();
    let (status, messages) = Plan::new(&[]).listen(&["-s", path]).refused();
    assert_eq!(status, 1, "{messages}");
    assert_eq!(messages.lines().count(), 1, "{messages}");
    Client::connect_unix(&socket).set("a", "the first one still serves");
}

/// SO_REUSEPORT would let a second server of the same user in, and the kernel would deal out the clients.
#[test]
fn port_in_use() {
    let first = Server::start(&[]);
    let port = first.address().port().to_string();
    let (status, messages) = Plan::new(&[]).listen(&["-p", &port, "-l", "127.0.0.1"]).refused();
    assert_eq!(status, 1, "{messages}");
    assert_eq!(messages.lines().count(), 1, "{messages}");
    assert!(messages.contains(&port), "the line names the port: {messages}");
    for _ in 0..20 {
        first.client().set("a", "the first one still serves");
    }
    // A port is free again at once, its old connections in TIME_WAIT or not.
    let clients: Vec<Client> = (0..20).map(|_| first.client()).collect();
    let plan = first.stop().listen(&["-p", &port, "-l", "127.0.0.1"]);
    let second = plan.start();
    drop(clients);
    assert_eq!(second.address().port().to_string(), port);
    assert!(second.client().get("a").is_some());
}

#[test]
fn address_of_another_host() {
    let (status, messages) = Plan::new(&[]).listen(&["-p", "0", "-l", "192.0.2.1"]).refused();
    assert_eq!(status, 1, "{messages}");
    assert_eq!(messages.lines().count(), 1, "{messages}");
    assert!(messages.contains("192.0.2.1"), "{messages}");
}

#[test]
fn wrong_options() {
    for args in
        [&["--no-such-option"][..], &["-p", "70000"], &["-p", "x"], &["-t", "0"], &["word"], &["--db.sync=perhaps"]]
    {
        let (status, messages) = Plan::new(args).refused();
        assert_eq!(status, 2, "{args:?}: {messages}");
        assert_eq!(messages.lines().count(), 1, "{args:?}: {messages}");
    }
}

#[test]
fn signals_that_end_it() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::start(&[]);
        let mut idle = server.client();
        let mut c = server.client();
        c.set("a", signal);
        server.signal(signal);
        let status = server.await_exit();
        assert_eq!(status.code(), Some(0), "SIG{signal}: {}", server.messages());
        assert_eq!(idle.until_closed(), b"");
        let server = server.plan().start();
        assert_eq!(server.client().get("a"), Some(signal.as_bytes().to_vec()));
    }
}

/// The store takes for ever to open: one of its files is a pipe that nobody writes to. Neither the data nor what a
/// start leaves behind suffers.
#[test]
fn signals_that_end_a_start() {
    let plan = Plan::new(&[]);
    let socket = plan.root().join("socket");
    let listen = ["-p", "0", "-l", "127.0.0.1", "-s", socket.to_str().expect("UTF-8"), "-P", "pid"];
    let server = plan.listen(&listen).start();
    server.client().set("a", "kept");
    let plan = server.stop();
    let (file, aside) = (plan.data().join("STORE"), plan.root().join("STORE"));
    for signal in ["TERM", "INT"] {
        std::fs::rename(&file, &aside).expect("put the file aside");
        assert!(Command::new("mkfifo").arg(&file).status().expect("run mkfifo").success());
        let mut server = plan.spawn();
        let pid_file = plan.root().join("pid");
        wait_until("it opens the store", || pid_file.exists() && proc_status(server.pid(), "Threads:") > 1);
        assert!(socket.exists());
        server.signal("HUP");
        server.signal(signal);
        let status = server.await_exit();
        assert_eq!(status.code(), Some(0), "SIG{signal}: {}", server.messages());
        assert!(!server.messages().contains("listening"), "{}", server.messages());
        assert!(!socket.exists() && !pid_file.exists(), "what a start made goes with it");
        std::fs::rename(&aside, &file).expect("put the file back");
    }
    assert_eq!(plan.start().client().get("a").as_deref(), Some(&b"kept"[..]));
}

/// A start that fails late takes away what it made.
#[test]
fn failed_start_leaves_nothing() {
    let first = Server::start(&[]);
    let socket = first.plan().root().join("socket");
    let args = ["-p", "0", "-l", "127.0.0.1", "-s", socket.to_str().expect("UTF-8"), "-P", "pid"];
    let (status, messages) = first.plan().listen(&args).refused();
    assert_eq!(status, 1, "two servers on one directory: {messages}");
    assert_eq!(messages.lines().count(), 1, "{messages}");
    assert!(!socket.exists() && !first.plan().root().join("pid").exists());
    first.client().set("a", "the first one still serves");
}

/// The second worker can not be started: the first one ends before the store is closed, not with the process.
#[test]
fn failed_start_of_a_worker_ends_the_others() {
    let plan = Plan::new(&["-t", "2"]);
    let trace = plan.root().join("trace");
    let strace = ["strace", "-D", "-f", "-q", "-o", trace.to_str().expect("UTF-8")];
    // The main thread's first epoll waits for the store, the second is that of commands, the next ones are the workers'.
    let inject = ["-e", "trace=prctl,epoll_create1,ftruncate,exit", "-e", "inject=epoll_create1:error=EMFILE:when=4"];
    let (status, messages) = plan.clone().under(&[&strace[..], &inject[..]].concat()).refused();
    assert_eq!(status, 1, "{messages}");
    assert!(messages.lines().last().is_some_and(|line| line.contains("cannot start")), "{messages}");
    let read = || std::fs::read_to_string(&trace).expect("strace's output");
    wait_until("strace has written all", || read().contains("+++ exited with 1 +++"));
    let trace = read();
    let worker = trace.lines().find(|line| line.contains("\"worker-0\"")).expect("the first worker");
    let id = worker.split_whitespace().next().expect("its thread's id");
    let ended = trace.lines().position(|line| line.starts_with(id) && line.contains(" exit("));
    let trimmed = trace.lines().position(|line| line.contains("ftruncate("));
    assert!(ended.is_some() && trimmed.is_some() && ended < trimmed, "{ended:?} {trimmed:?}\n{trace}");
}

#[test]
fn signals_that_do_not() {
    let mut server = Server::start(&[]);
    let mut c = server.client();
    for signal in ["PIPE", "HUP"] {
        server.signal(signal);
        assert!(c.ask("version").starts_with("VERSION"), "after SIG{signal}");
    }
    assert!(server.is_running());
}

/// Replies that are due when the server is told to stop reach whoever reads them, to the last byte, although there
/// are commands behind them that nobody executes any more. Who reads nothing does not hold the end up for ever.
#[test]
fn stop_with_replies_due() {
    let mut server = Server::start(&["-t", "1"]);
    let mut c = server.client();
    let value = random_bytes(1, 1 << 20);
    c.set("big", &value);
    let (mut slow, slow_bytes) = hog(&server, &mut c);
    let (never, _) = hog(&server, &mut c);
    server.signal("TERM");
    wait_until("it is stopping", || server.messages().contains("stopping"));
    let mut got = Vec::new();
    slow.read_to_end(&mut got).expect("an end in good order: a reset would take replies with it");
    println!("{} bytes came, {slow_bytes} had left the server before the signal", got.len());
    // Among what had left are the replies to the looks.
    assert!(
        got.len() as u64 + 65_536 > slow_bytes,
        "{} bytes came, {slow_bytes} were sent before the signal",
        got.len()
    );
    let reply = [format!("VALUE big 0 {}\r\n", value.len()).as_bytes(), &value, b"\r\nEND\r\n"].concat();
    assert!(got.iter().zip(reply.iter().cycle()).all(|(got, wanted)| got == wanted));
    let status = server.await_exit();
    assert_eq!(status.code(), Some(0), "{}", server.messages());
    drop(never);
    assert!(server.plan().start().client().get("big") == Some(value));
}

/// A client that asks for gigabytes and reads nothing, when the server can send no more to it; and how much it has
/// sent.
fn hog(server: &Server, c: &mut Client) -> (TcpStream, u64) {
    let before = c.stat("bytes_written");
    let mut hog = TcpStream::connect(server.address()).expect("connect");
    hog.write_all("get big\r\n".repeat(10_000).as_bytes()).expect("send");
    let mut sent = 0;
    wait_until("its socket is full", || {
        std::thread::sleep(Duration::from_millis(100));
        let last = std::mem::replace(&mut sent, c.stat("bytes_written") - before);
        // The replies to `stat` count, too.
        last > 0 && sent < last + 16_384
    });
    (hog, sent)
}

/// A client in the middle of everything does not hold up the end.
#[test]
fn stop_with_busy_clients() {
    let server = Server::start(&[]);
    let mut c = server.client();
    c.set("big", vec![b'x'; 1 << 20]);
    let mut half = server.client();
    half.send("set half 0 0 100000\r\nhalf");
    let mut hog = server.client();
    hog.send("get big big big big big big big big big big big big\r\n");
    let mut partial = server.client();
    partial.send("get big");
    let server = server.restart();
    let mut c = server.client();
    assert!(c.get("big").is_some());
    assert_eq!(c.get("half"), None);
}
