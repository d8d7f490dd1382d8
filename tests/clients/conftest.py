"""Servers for the tests of real clients: each with a port and a data directory of its own, ended by process id.

KINGSERVER names the binary. KINGSERVER_PEER=/usr/bin/memcached runs the same tests against memcached, restarts aside."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

DEADLINE = 30

# pylibmc's wheel has a libsasl of its own, which looks for its mechanisms where another distribution has them.
os.environ.setdefault("SASL_PATH", ":".join(map(str, Path("/usr/lib").glob("*/sasl2"))))


def until(what, done):
    """Polls; fails at the deadline: only a hang reaches it."""
    start = time.monotonic()
    while not (result := done()):
        assert time.monotonic() - start < DEADLINE, f"waited in vain: {what}"
        time.sleep(0.01)
    return result


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


class Process:
    """A child whose stderr is kept."""

    def __init__(self, command, cwd):
        self.child = subprocess.Popen(command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                      stderr=subprocess.PIPE, text=True, errors="replace")
        self.messages = ""
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self):
        for line in self.child.stderr:
            self.messages += line

    def running(self):
        assert self.child.poll() is None, f"ended with {self.child.returncode}: {self.messages}"
        return True

    def end(self, how):
        self.child.send_signal(how)
        return self.child.wait(DEADLINE)


class Server:
    """KingServer, which may be killed and started again on the same port and data."""

    peer = os.environ.get("KINGSERVER_PEER")

    def __init__(self, directory, *options):
        self.directory = directory
        self.options = options
        self.socket = Path(directory) / "socket"
        self.port = free_port() if self.peer else 0
        self.start()

    def start(self):
        listen = ["-p", str(self.port), "-l", "127.0.0.1"]
        if self.peer:
            command = [self.peer, *listen, "-U", "0", "-u", "root", "-m", "256"]
        else:
            command = [os.environ["KINGSERVER"], *listen, "-s", str(self.socket), f"--db.path={self.directory}/data"]
        self.process = Process([*command, *self.options], self.directory)
        if not self.port:
            pattern = re.compile(r"127\.0\.0\.1:(\d+)")
            found = until("the line with the address", lambda: self.process.running() and pattern.search(self.process.messages))
            self.port = int(found[1])
        until("the server accepts", lambda: self.process.running() and accepts(self.port))

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def stop(self):
        status = self.process.end(signal.SIGTERM)
        assert status == 0, f"SIGTERM: status {status}: {self.process.messages}"

    def kill(self):
        self.process.end(signal.SIGKILL)


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    yield server
    if server.process.child.poll() is None:
        server.stop()


@pytest.fixture(params=["stop", "kill"])
def restart(request, server):
    """Ends the server in one of the two ways and starts it again."""
    if server.peer:
        pytest.skip("memcached keeps nothing")

    def again():
        getattr(server, request.param)()
        server.start()

    return again


# What is installed below the target directory: tests/setup.
TARGET = Path(sys.prefix).parent
# Clients that only the larger tiers install.
LATER = ["test_async.py", "test_binary_clients.py", "test_django.py", "test_node.py", "test_nutcracker.py", "test_rust.py", "test_sccache.py"]
collect_ignore = LATER if os.environ.get("TIER", "test") == "test" else []


@pytest.fixture
def modules():
    """The environment in which node finds its packages."""
    return {**os.environ, "NODE_PATH": str(TARGET / "npm/node_modules")}
