//! The servers that are compared: how each is found, started, stopped. A server is tied to one core, listens on a free
//! loopback port, and is ended by its process id: SIGTERM, then a deadline, then SIGKILL, then reaped.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::wire::{Dialect, Work};
use crate::{place, sys};

/// Connections that every server is told to allow.
pub const MOST_CONNECTIONS: u32 = 10_000;
/// Memory for values that every server is told to use, where it can be told. MiB.
pub const MEMORY: u32 = 1024;
const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(30);

/// A kind of server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Peer {
    /// The floor.
    Null,
    /// What this is all about.
    KingServer,
    /// Debian's memcached.
    Memcached,
    /// Debian's redis-server, nothing persisted.
    Redis,
    /// KingServer's store and parser behind a thread per connection.
    Threaded,
}

impl Peer {
    /// Everything that `bench` compares.
    pub const ALL: [Peer; 4] = [Peer::Null, Peer::KingServer, Peer::Memcached, Peer::Redis];

    /// As in tables and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Null => "null",
            Peer::KingServer => "kingserver",
            Peer::Memcached => "memcached",
            Peer::Redis => "redis",
            Peer::Threaded => "threaded",
        }
    }

    /// The peer of a name.
    pub fn named(name: &str) -> Result<Peer> {
        let all = Peer::ALL.into_iter().chain([Peer::Threaded]);
        let names = || Peer::ALL.map(Peer::name).join(", ");
        all.into_iter()
            .find(|peer| peer.name() == name)
            .with_context(|| format!("no peer `{name}`; there are {}", names()))
    }

    /// What it is asked in where nothing else is said.
    pub fn dialect(self) -> Dialect {
        match self {
            Peer::Redis => Dialect::Resp,
            _ => Dialect::Text,
        }
    }

    /// Whether it can be asked in a dialect.
    pub fn speaks(self, dialect: Dialect) -> bool {
        match self {
            Peer::KingServer | Peer::Memcached => dialect != Dialect::Resp,
            _ => dialect == self.dialect(),
        }
    }

    /// Whether it keeps what it is sent.
    pub fn stores(self) -> bool {
        self != Peer::Null
    }

    fn package(self) -> Option<&'static str> {
        match self {
            Peer::Memcached => Some("memcached"),
            Peer::Redis => Some("redis-server"),
            _ => None,
        }
    }
}

/// Where programs and data lie.
#[derive(Clone, Debug)]
pub struct Places {
    /// The kingserver binary.
    pub server: PathBuf,
    /// A memcached binary, if not the installed one.
    pub memcached: Option<PathBuf>,
    /// A directory on a real disk; each server gets one of its own below it.
    pub data: PathBuf,
    /// The core that servers run on.
    pub core: usize,
    /// Whether missing packages are installed.
    pub install: bool,
    /// More words on KingServer's command line.
    pub words: Vec<String>,
    /// The same for memcached.
    pub memcached_words: Vec<String>,
}

impl Places {
    /// The program of a peer, or how to get it.
    pub fn program(&self, peer: Peer) -> Result<PathBuf> {
        match (peer, peer.package(), &self.memcached) {
            (Peer::Memcached, _, Some(path)) => existing(path, "it is what --memcached says"),
            (Peer::KingServer, ..) => existing(&self.server, "run `make build`, or say --server=FILE"),
            (_, Some(package), _) => in_path(package).with_context(|| missing(&[peer])),
            (_, None, _) => {
                let path = std::env::current_exe()?.with_file_name(peer.name());
                existing(&path, "run `cargo build --release --manifest-path tests/bench/Cargo.toml`")
            }
        }
    }

    /// Checks that all peers are there. What is missing is built or, if allowed, installed.
    pub fn check(&self, peers: &[Peer]) -> Result<()> {
        for &peer in peers.iter().filter(|peer| matches!(peer, Peer::Null | Peer::Threaded)) {
            build(peer)?;
        }
        let lacking = |&peer: &Peer| peer.package().is_some() && self.program(peer).is_err();
        let absent: Vec<Peer> = peers.iter().copied().filter(lacking).collect();
        if !absent.is_empty() {
            ensure!(self.install, missing(&absent));
            apt_install(&absent)?;
        }
        peers.iter().try_for_each(|&peer| self.program(peer).map(drop))
    }

    /// Starts a server and waits until it answers connections. `work` tells the null server what to reply.
    pub fn start(&self, peer: Peer, work: Work) -> Result<Server> {
        let mut last = None;
        for _ in 0..3 {
            match self.try_start(peer, work) {
                Ok(server) => return Ok(server),
                Err(error) => last = Some(error), // the port may have been taken meanwhile
            }
        }
        Err(last.context("not started")?)
    }

    fn try_start(&self, peer: Peer, work: Work) -> Result<Server> {
        std::fs::create_dir_all(&self.data).with_context(|| format!("cannot create {}", self.data.display()))?;
        let prefix = format!("{}-", peer.name());
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir_in(&self.data).context("no data directory")?;
        let address = free_address()?;
        let mut command = Command::new(self.program(peer)?);
        command.args(arguments(peer, address.port(), dir.path(), work)?);
        command.args(match peer {
            Peer::KingServer => &self.words[..],
            Peer::Memcached => &self.memcached_words,
            _ => &[],
        });
        let log = File::create(dir.path().join("stderr"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        sys::tie(&mut command, self.core)?;
        let child = command.spawn().with_context(|| format!("cannot start {}", peer.name()))?;
        let mut server = Server { peer, address, child, dir };
        server.await_port()?;
        Ok(server)
    }
}

fn existing(path: &Path, remedy: &str) -> Result<PathBuf> {
    ensure!(path.is_file(), "there is no {}: {remedy}", path.display());
    Ok(path.to_owned())
}

/// Builds a server of this package as this program was built; `cargo run` builds only the program that it runs.
fn build(peer: Peer) -> Result<()> {
    let Some(cargo) = std::env::var_os("CARGO") else {
        return Ok(());
    };
    let manifest = place::root().join("tests/bench/Cargo.toml");
    let mut command = Command::new(cargo);
    command.args(["build", "--locked", "--quiet", "--bin", peer.name()]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let status = command.arg("--manifest-path").arg(manifest).status().context("cannot run cargo")?;
    ensure!(status.success(), "cannot build the {} server", peer.name());
    Ok(())
}

/// Says by name what is missing and how to get it.
fn missing(peers: &[Peer]) -> String {
    let names: Vec<&str> = peers.iter().map(|peer| peer.name()).collect();
    let packages: Vec<&str> = peers.iter().filter_map(|peer| peer.package()).collect();
    let (names, packages) = (names.join(" and "), packages.join(" "));
    format!("{names} not installed: run `apt-get install {packages}`, or say --install, or leave it out with --peers")
}

fn apt_install(peers: &[Peer]) -> Result<()> {
    let packages = peers.iter().filter_map(|peer| peer.package());
    let mut command = Command::new("apt-get");
    command.args(["install", "-y", "--no-install-recommends"]).args(packages);
    let status = command.env("DEBIAN_FRONTEND", "noninteractive").status().context("cannot run apt-get")?;
    ensure!(status.success(), "{command:?} failed");
    Ok(())
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").context("no free port")?.local_addr()?)
}

fn arguments(peer: Peer, port: u16, dir: &Path, work: Work) -> Result<Vec<String>> {
    let dir = dir.to_str().context("the data directory's name is not UTF-8")?;
    let line = match peer {
        Peer::Null => format!("{port} {} {}", work.size, work.keys),
        Peer::KingServer => {
            format!("--db.path={dir}/data -l 127.0.0.1 -p {port} -t 1 -m {MEMORY} -c {MOST_CONNECTIONS}")
        }
        Peer::Threaded => format!("--db.path={dir}/data -p {port} -m {MEMORY}"),
        Peer::Memcached => {
            let user = sys::user_name()?;
            format!("-l 127.0.0.1 -p {port} -U 0 -t 1 -m {MEMORY} -c {MOST_CONNECTIONS} -u {user}")
        }
        Peer::Redis => {
            let alone = "--daemonize no --appendonly no --save";
            format!("--bind 127.0.0.1 --port {port} --dir {dir} --maxclients {MOST_CONNECTIONS} {alone}")
        }
    };
    let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    if peer == Peer::Redis {
        words.push(String::new()); // --save "": no snapshots
    }
    Ok(words)
}

/// A running server. Dropped, it is ended and its data removed.
#[derive(Debug)]
pub struct Server {
    /// What it is.
    pub peer: Peer,
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
    dir: TempDir,
}

impl Server {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it from running while others are measured on the same core.
    pub fn pause(&self) -> Result<()> {
        sys::signal(self.pid(), Signal::SIGSTOP)
    }

    /// Lets it run again.
    pub fn resume(&self) -> Result<()> {
        sys::signal(self.pid(), Signal::SIGCONT)
    }

    /// Ends it with SIGTERM. An exit status that tells of trouble, or no exit in time, is an error.
    pub fn stop(mut self) -> Result<()> {
        self.resume()?;
        sys::signal(self.pid(), Signal::SIGTERM)?;
        let end = Instant::now() + STOP;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                // The null and the threaded server have no handler, SIGTERM ends them directly.
                let ended = status.success() || matches!(self.peer, Peer::Null | Peer::Threaded);
                ensure!(ended, "{} ended with {status}: {}", self.peer.name(), self.said());
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("{} did not end within {STOP:?} after SIGTERM: {}", self.peer.name(), self.said())
    }

    fn await_port(&mut self) -> Result<()> {
        let end = Instant::now() + START;
        while TcpStream::connect_timeout(&self.address, START).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status} at its start: {}", self.peer.name(), self.said());
            }
            ensure!(Instant::now() < end, "{} does not listen after {START:?}: {}", self.peer.name(), self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The last of what it printed.
    pub fn said(&self) -> String {
        let text = std::fs::read(self.dir.path().join("stderr")).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail if it has been reaped already, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Op;

    #[test]
    fn names_lead_back_to_peers() {
        for peer in Peer::ALL {
            assert_eq!(Peer::named(peer.name()).unwrap(), peer);
        }
        assert!(Peer::named("mongo").unwrap_err().to_string().contains("memcached"));
    }

    #[test]
    fn each_speaks_its_own_dialect_and_only_some_speak_more() {
        assert!(Peer::ALL.into_iter().all(|peer| peer.speaks(peer.dialect())));
        let all = [Dialect::Text, Dialect::Meta, Dialect::Binary, Dialect::Resp];
        let count = |peer: Peer| all.into_iter().filter(|&dialect| peer.speaks(dialect)).count();
        assert_eq!(Peer::ALL.map(count), [1, 3, 3, 1]);
    }

    #[test]
    fn what_is_missing_is_said_by_name_with_the_remedy() {
        let said = missing(&[Peer::Memcached, Peer::Redis]);
        assert!(said.contains("memcached and redis not installed"));
        assert!(said.contains("apt-get install memcached redis-server"));
    }

    #[test]
    fn redis_is_told_to_save_nothing() {
        let words = arguments(Peer::Redis, 1, Path::new("/x"), Work::single(Op::Get, 1, 1)).unwrap();
        assert_eq!(words[words.len() - 2..], ["--save".to_owned(), String::new()]);
    }
}
