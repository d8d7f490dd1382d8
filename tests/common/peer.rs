//! The memcached that we are compared with: the newest one, which `tests/setup peer` builds under the target directory.

use super::client::Client;
use super::server::free_port;
use super::util::wait_until;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A running memcached. Dropped, it is killed.
pub struct Peer {
    child: Child,
    address: SocketAddr,
    _directory: TempDir,
}

impl Peer {
    /// Starts it with these options on a free port of 127.0.0.1.
    pub fn start(args: &[&str]) -> Peer {
        let directory = tempfile::tempdir().expect("make a temporary directory");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = Command::new(binary());
        command.args(["-u", "root", "-U", "0", "-l", "127.0.0.1", "-p", &address.port().to_string()]).args(args);
        command.current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // The build counts what it covers, and writes that where it was built unless told otherwise.
        command.env("GCOV_PREFIX", directory.path());
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error} (tests/setup peer builds it)"));
        wait_until("memcached accepts", || TcpStream::connect(address).is_ok());
        Peer { child, address, _directory: directory }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Test programs lie in `debug/deps` or the like of the target directory.
fn binary() -> PathBuf {
    let program = std::env::current_exe().expect("the path of this program");
    let target = program.ancestors().nth(3).expect("the target directory");
    target.join("peer/memcached/memcached-debug")
}
