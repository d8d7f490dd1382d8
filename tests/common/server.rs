//! One server process: started on a free port with a data directory of its own, ended by its process id.

use super::client::Client;
use super::util::{DEADLINE, wait_until};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A running server. Dropped, it is killed; if the test is failing then, its messages are shown.
pub struct Server {
    child: Child,
    messages: Arc<Mutex<String>>,
    addresses: Vec<SocketAddr>,
    plan: Plan,
}

/// How to start a server; start it again with the same plan and it finds its data.
#[derive(Clone)]
pub struct Plan {
    directory: Arc<TempDir>,
    data: PathBuf,
    args: Vec<String>,
    listen: Vec<String>,
    wrapper: Vec<String>,
}

/// The memcached to test instead of us, if the tests' own expectations are on trial.
pub fn peer() -> Option<PathBuf> {
    std::env::var_os("KINGSERVER_PEER").map(PathBuf::from)
}

/// The binary under test.
pub fn binary() -> PathBuf {
    std::env::var_os("KINGSERVER").map_or_else(|| env!("CARGO_BIN_EXE_kingserver").into(), PathBuf::from)
}

impl Plan {
    /// A fresh data directory and these options, on 127.0.0.1.
    pub fn new(args: &[&str]) -> Plan {
        let directory = tempfile::tempdir().expect("make a temporary directory");
        Plan {
            data: directory.path().join("data"),
            directory: Arc::new(directory),
            args: args.iter().map(|arg| arg.to_string()).collect(),
            listen: ["-p", "0", "-l", "127.0.0.1"].map(String::from).to_vec(),
            wrapper: Vec::new(),
        }
    }

    /// Other options, the same data.
    pub fn args(mut self, args: &[&str]) -> Plan {
        self.args = args.iter().map(|arg| arg.to_string()).collect();
        self
    }

    /// Another data directory.
    pub fn on(mut self, data: PathBuf) -> Plan {
        self.data = data;
        self
    }

    /// Other listening options than one free port of 127.0.0.1.
    pub fn listen(mut self, args: &[&str]) -> Plan {
        self.listen = args.iter().map(|arg| arg.to_string()).collect();
        self
    }

    /// Runs the server under another program, which must turn into it by exec(2) so that the process id is the server's
    /// (`prlimit …`, `strace -D …`).
    pub fn under(mut self, wrapper: &[&str]) -> Plan {
        self.wrapper = wrapper.iter().map(|arg| arg.to_string()).collect();
        self
    }

    /// The directory that holds the data directory; tests may put files of their own there.
    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.data.clone()
    }

    fn command(&self) -> Command {
        let mut words: Vec<String> = self.wrapper.clone();
        match peer() {
            None => {
                words.push(binary().display().to_string());
                words.push(format!("--db.path={}", self.data().display()));
                words.extend(self.listen.iter().cloned());
            }
            Some(memcached) => {
                words.push(memcached.display().to_string());
                words.extend(["-U", "0", "-l", "127.0.0.1", "-u", "nobody", "-m", "1024"].map(String::from));
                words.extend(["-p".to_string(), free_port().to_string()]);
            }
        }
        // memcached has no long names of ours.
        words.extend(self.args.iter().filter(|arg| peer().is_none() || !arg.starts_with("--")).cloned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.current_dir(self.root());
        command
    }

    /// Starts the server and waits until it accepts.
    pub fn start(&self) -> Server {
        let mut server = self.spawn();
        match peer() {
            None => server.await_address(),
            Some(_) => server.await_peer(),
        }
        server
    }

    /// Starts the server and waits until it accepts; or gives the exit status and the messages of one that does not start.
    pub fn try_start(&self) -> Result<Server, (ExitStatus, String)> {
        let mut server = self.spawn();
        let mut status = None;
        wait_until("the server starts or ends", || {
            server.addresses = addresses(&server.messages());
            status = server.child.try_wait().expect("wait for the server");
            status.is_some() || !server.addresses.is_empty()
        });
        let Some(status) = status else {
            return Ok(server);
        };
        wait_until("a message of the failed start", || !server.messages().is_empty());
        // The reader thread may be a line behind the exit.
        std::thread::sleep(Duration::from_millis(20));
        Err((status, server.messages()))
    }

    /// Starts it and does not wait.
    pub fn spawn(&self) -> Server {
        let mut command = self.command();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let messages = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let sink = messages.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut messages = sink.lock().expect("no holder panics");
                *messages += &line;
                *messages += "\n";
            }
        });
        let mut plan = self.clone();
        plan.args = self.args.clone();
        Server { child, messages, addresses: Vec::new(), plan }
    }

    /// A start that must fail: gives the exit status' code and everything that came on stderr.
    pub fn refused(&self) -> (i32, String) {
        let mut server = self.spawn();
        let status = server.await_exit();
        // The reader thread may be a line behind the exit.
        wait_until("a message of the failed start", || !server.messages().is_empty());
        std::thread::sleep(Duration::from_millis(20));
        (status.code().unwrap_or(-1), server.messages())
    }
}

impl Server {
    /// A server with a fresh data directory and these options.
    pub fn start(args: &[&str]) -> Server {
        Plan::new(args).start()
    }

    pub fn plan(&self) -> Plan {
        self.plan.clone()
    }

    /// Blocks of 512 bytes that large values take up on the disk.
    pub fn extent_blocks(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let files = std::fs::read_dir(self.plan().data()).expect("the data directory").flatten();
        let extents = files.filter(|file| file.path().extension().is_some_and(|end| end == "ext"));
        extents.filter_map(|file| file.metadata().ok()).map(|file| file.blocks()).sum()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to stderr so far.
    pub fn messages(&self) -> String {
        self.messages.lock().expect("no holder panics").clone()
    }

    /// The first TCP address that it listens on.
    pub fn address(&self) -> SocketAddr {
        *self.addresses.first().expect("a TCP address")
    }

    /// All TCP addresses of the line on stderr.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A connection to the first address.
    pub fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// SIGTERM; it must exit with status 0.
    pub fn stop(mut self) -> Plan {
        self.signal("TERM");
        let status = self.await_exit();
        assert!(status.success(), "SIGTERM must end it with status 0, not {status}: {}", self.messages());
        self.plan.clone()
    }

    /// SIGTERM; gives the exit status and the messages.
    pub fn end(mut self) -> (ExitStatus, String) {
        self.signal("TERM");
        let status = self.await_exit();
        (status, self.messages())
    }

    /// kill -9.
    pub fn kill(mut self) -> Plan {
        self.child.kill().expect("kill the server");
        self.await_exit();
        self.plan.clone()
    }

    /// Clean stop and start with the same options and data.
    pub fn restart(self) -> Server {
        self.stop().start()
    }

    /// Sends a signal by name. (The shell's `kill`: std has none but SIGKILL.)
    pub fn signal(&self, name: &str) {
        let done = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.pid())]).status();
        assert!(done.expect("run sh").success(), "kill -{name} of the server");
    }

    /// Stops it where it is, all its threads: a signal takes its time. `signal("CONT")` lets it go on.
    pub fn halt(&self) {
        self.signal("STOP");
        let stands = |task: std::path::PathBuf| {
            let stat = std::fs::read_to_string(task.join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
        };
        let tasks = || std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("the server is alive");
        wait_until("all of it stands", || tasks().all(|task| stands(task.expect("a thread").path())));
    }

    /// A command on its data (`backup DIR`, `compact`), which it executes; tells whether that went well.
    pub fn command(&self, words: &[&str]) -> bool {
        command(&self.plan.data(), words)
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the server is alive").count()
    }

    /// CPU time it took so far, in clock ticks (hundredths of a second).
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the server is alive");
        let fields = stat.rsplit(')').next().expect("fields").split_whitespace();
        fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait for the server").is_none()
    }

    /// Waits until it ended by itself.
    pub fn await_exit(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait for the server") {
                return status;
            }
            assert!(start.elapsed() < DEADLINE, "the server did not end: {}", self.messages());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for the line that says where it listens, and that it accepts there.
    fn await_address(&mut self) {
        let start = Instant::now();
        while self.addresses.is_empty() && !self.says_unix() {
            if let Some(status) = self.child.try_wait().expect("wait for the server") {
                std::thread::sleep(Duration::from_millis(20));
                panic!("the server ended at once with {status}: {}", self.messages());
            }
            assert!(start.elapsed() < DEADLINE, "no line with an address on stderr: {}", self.messages());
            std::thread::sleep(Duration::from_millis(1));
            self.addresses = addresses(&self.messages());
        }
        if let Some(address) = self.addresses.first() {
            wait_until("the server accepts", || TcpStream::connect(address).is_ok());
        }
    }

    /// A server on a Unix socket alone has no address to tell.
    fn says_unix(&self) -> bool {
        let socket = self.plan.listen.iter().skip_while(|arg| *arg != "-s").nth(1);
        let alone = !self.plan.listen.iter().any(|arg| arg == "-l" || arg == "-p");
        alone && socket.is_some_and(|path| std::os::unix::net::UnixStream::connect(path).is_ok())
    }

    fn await_peer(&mut self) {
        let command = std::fs::read(format!("/proc/{}/cmdline", self.pid())).unwrap_or_default();
        let words: Vec<_> = command.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        let port = words.iter().skip_while(|word| *word != "-p").nth(1).and_then(|port| port.parse().ok());
        let address = SocketAddr::from(([127, 0, 0, 1], port.expect("memcached's -p")));
        wait_until("memcached accepts", || TcpStream::connect(address).is_ok());
        self.addresses = vec![address];
    }
}

/// Runs a command on a data directory; tells whether that went well. It must end.
pub fn command(data: &Path, words: &[&str]) -> bool {
    let mut command = Command::new("timeout");
    command.arg(DEADLINE.as_secs().to_string()).arg(binary()).arg(words[0]);
    command.arg(format!("--db.path={}", data.display())).args(&words[1..]);
    let output = command.output().expect("run the binary");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0..=2)), "{words:?}: {}: {said}", output.status);
    output.status.success()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- the server's messages\n{}----", self.messages());
        }
    }
}

/// The addresses with ports in a text.
fn addresses(text: &str) -> Vec<SocketAddr> {
    text.split(|c: char| c.is_whitespace() || c == ',' || c == ';')
        .filter_map(|word| word.trim_end_matches(['.', ':']).parse().ok())
        .collect()
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let probe = TcpListener::bind("127.0.0.1:0").expect("bind a free port");
    probe.local_addr().expect("its address").port()
}
