"""Values of all sizes through real clients, compared by hash, and what they cost the server: the same memory, whatever the size."""

import hashlib
import os
import random
import re
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pylibmc
import pytest
from pymemcache.client.base import Client

from conftest import Server
from test_nginx import Nginx

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
CHUNK = 64 * KIB
TIER = os.environ.get("TIER", "test")
LARGEST = {"test": 16 * MIB, "ci": 128 * MIB, "full": GIB}[TIER]
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, MIB - 1, MIB, MIB + 1, 4 * MIB + 1, LARGEST]
GROWTH = 8 * MIB


@pytest.fixture
def server(tmp_path):
    """Of any size; a small cache, so that what grows is what transfers take."""
    server = Server(tmp_path, "-m", "1", "-I", "0")
    yield server
    server.stop()


def value(size, compressible):
    if compressible:
        return (b"all work and no play makes jack a dull boy %d. " % size * (size // 40 + 1))[:size]
    noise = random.Random(size)  # which gives less than 256 MiB at once
    return b"".join(noise.randbytes(min(MIB, size - at)) for at in range(0, size, MIB))


def digest(data):
    return hashlib.sha256(data).hexdigest()


class Growth:
    """Resident memory of a process: how much more it was at most."""

    def __init__(self, server):
        self.directory = Path(f"/proc/{server.process.child.pid}")
        (self.directory / "clear_refs").write_text("5")  # the peak counts from here on
        self.before = self.read("VmRSS")

    def read(self, name):
        return int(re.search(rf"{name}:\s+(\d+) kB", (self.directory / "status").read_text())[1]) * KIB

    def check(self, what):
        growth = self.read("VmHWM") - self.before
        print(f"{what}: {growth // KIB} KiB more at most")
        assert growth <= GROWTH, f"{what}: {growth} bytes more"


def warm_up(client):
    for size in (1000, 100_000, 5 * MIB):
        client.set("warm", value(size, False))
        client.get("warm")


@pytest.mark.parametrize("compressible", [False, True])
def test_pymemcache(server, compressible):
    with closing(Client(server.address, timeout=300, default_noreply=False)) as client:
        warm_up(client)
        for size in SIZES:
            sent = value(size, compressible)
            growth = Growth(server)
            assert client.set(f"k{size}", sent)
            assert digest(client.get(f"k{size}")) == digest(sent)
            growth.check(f"{size} bytes by pymemcache")


@pytest.mark.parametrize("compressible", [False, True])
def test_pylibmc(server, compressible):
    client = pylibmc.Client([server.address], behaviors={"receive_timeout": 300_000_000, "send_timeout": 300_000_000})
    warm_up(client)
    for size in SIZES:
        sent = value(size, compressible)
        growth = Growth(server)
        assert client.set(f"k{size}", sent)
        assert digest(client.get(f"k{size}")) == digest(sent)
        growth.check(f"{size} bytes by pylibmc")
    client.disconnect_all()


def test_larger_than_four_gigabytes(server):
    """Block by block, since no client library streams: 8 GiB in tier full."""
    size = {"test": 40 * MIB, "ci": 300 * MIB, "full": 8 * GIB}[TIER] + 5
    blocks = [random.Random(seed).randbytes(MIB) for seed in range(7)]

    def parts():
        sent = 0
        while sent < size:
            block = blocks[sent // MIB * 5 % 7][: size - sent]
            sent += len(block)
            yield block

    growth = Growth(server)
    with socket.create_connection(("127.0.0.1", server.port)) as connection, connection.makefile("rb") as replies:
        connection.sendall(b"set huge 0 0 %d\r\n" % size)
        sent = hashlib.sha256()
        for block in parts():
            connection.sendall(block)
            sent.update(block)
        connection.sendall(b"\r\n")
        assert replies.readline() == b"STORED\r\n"
        connection.sendall(b"get huge\r\n")
        assert replies.readline() == b"VALUE huge 0 %d\r\n" % size
        found, left = hashlib.sha256(), size
        while left:
            block = replies.read(min(left, MIB))
            assert block
            found.update(block)
            left -= len(block)
        assert replies.read(7) == b"\r\nEND\r\n"
        assert found.hexdigest() == sent.hexdigest()
        connection.sendall(b"append huge 0 0 4\r\ntail\r\nmg huge v s r%d,100\r\n" % (size - 1))
        assert replies.readline() == b"STORED\r\n"
        assert replies.readline() == b"VA 5 s%d\r\n" % (size + 4)
        assert replies.read(7)[1:] == b"tail\r\n"
    growth.check(f"{size} bytes by a socket")


def test_nginx_serves_a_large_file_to_a_slow_client(server, tmp_path):
    """The client takes a little, waits, takes the rest slower than it comes: the server holds nothing meanwhile."""
    size = {"test": 24 * MIB, "ci": 100 * MIB, "full": 500 * MIB}[TIER]
    sent = value(size, False)
    with closing(Client(server.address, timeout=300, default_noreply=False)) as client:
        warm_up(client)
        assert client.set("/film", sent)
    nginx = Nginx(tmp_path, server.address)
    try:
        growth = Growth(server)
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
            connection.connect(("127.0.0.1", nginx.port))
            connection.sendall(b"GET /film HTTP/1.0\r\n\r\n")
            found, taken = b"", 0
            body = hashlib.sha256()
            while chunk := connection.recv(MIB):
                if taken == 0:
                    found += chunk
                    if b"\r\n\r\n" not in found:
                        continue
                    head, chunk = found.split(b"\r\n\r\n", 1)
                    assert b" 200 " in head and b"Content-Length: %d" % size in head
                body.update(chunk)
                before, taken = taken, taken + len(chunk)
                if before // (size // 20) != taken // (size // 20):
                    time.sleep(0.02)
        assert taken == size and body.hexdigest() == digest(sent)
        growth.check(f"{size} bytes through nginx")
    finally:
        nginx.process.child.kill()
        nginx.process.child.wait()


def test_the_example_of_the_manual(server):
    page = (Path(__file__).parents[2] / "man/kingserver-protocol.7").read_text()
    example = re.search(r"in Python:\n\.Bd[^\n]*\n(.*?)\.Ed", page, re.S)[1].replace("\\e", "\\")
    assert len(example.splitlines()) <= 11
    program = example.replace("11211", str(server.port))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("b'aabb'\n", "")
