"""Starts the packaged server in a chroot, in a network of its own, and looks that values outlive it.

usage: serve.py ROOT UID CALLS COMMAND...   (CALLS: file that receives the names of the system calls made, one per line)
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

ADDRESS = ("127.0.0.1", 11211)
root, uid, calls, *command = sys.argv[1:]
trace = calls + ".trace"


@contextmanager
def server(ending, status):
    """The server from its first answer until the signal `ending`, upon which it must end with `status`."""
    strace = ["strace", "--follow-forks", "--quiet=all", "--output-append-mode", "--output", trace]
    tracer = subprocess.Popen([*strace, "chroot", f"--userspec={uid}:{uid}", root, *command])
    try:
        wait_for_port(tracer)
        yield
        children = Path(f"/proc/{tracer.pid}/task/{tracer.pid}/children").read_text().split()
        os.kill(int(children[0]), ending)
        assert tracer.wait(30) == status, f"exit status {tracer.returncode} after {ending.name}, not {status}"
    finally:
        tracer.kill()


def wait_for_port(process):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended with status {process.returncode}"
        try:
            return socket.create_connection(ADDRESS, 5).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise TimeoutError("the server does not listen")


def ask(request, answer):
    with socket.create_connection(ADDRESS, 5) as connection:
        connection.sendall(request)
        got = b""
        while len(got) < len(answer) and (more := connection.recv(65536)):
            got += more
    assert got == answer, f"{request[:40]!r}: wanted {answer[:80]!r}, got {got[:80]!r}"


def names_of_calls():
    """System calls after the server's own execve: those of chroot(8) are not the unit's."""
    started, names = False, set()
    for line in Path(trace).read_text(errors="replace").splitlines():
        if f'execve("{command[0]}"' in line:
            started = True
        elif line.split(None, 1)[1].startswith("+++ exited"):
            continue
        elif started and (found := re.match(r"\d+ +(\w+)\(", line)):
            names.add(found[1])
        if 'execve("/usr/sbin/chroot"' in line:
            started = False
    return names


subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
small, large = b"v" * 10, os.urandom(500_000)
with server(signal.SIGTERM, 0):
    ask(b"set small 7 0 10\r\n%s\r\n" % small, b"STORED\r\n")
    ask(b"set large 0 0 500000\r\n%s\r\n" % large, b"STORED\r\n")
    ask(b"set gone 0 0 1\r\nx\r\n", b"STORED\r\n")
    ask(b"delete gone\r\n", b"DELETED\r\n")
with server(signal.SIGKILL, -signal.SIGKILL):
    ask(b"get small\r\n", b"VALUE small 7 10\r\n%s\r\nEND\r\n" % small)
    ask(b"set small 8 0 10\r\n%s\r\n" % small, b"STORED\r\n")
with server(signal.SIGTERM, 0):
    ask(b"get small\r\n", b"VALUE small 8 10\r\n%s\r\nEND\r\n" % small)
    ask(b"get large\r\n", b"VALUE large 0 500000\r\n%s\r\nEND\r\n" % large)
    ask(b"get gone\r\n", b"END\r\n")
Path(calls).write_text("".join(f"{name}\n" for name in sorted(names_of_calls())))
