"""nutcracker (twemproxy) in front of two servers, which it holds to be memcached."""

import signal
from contextlib import closing

import pytest
from pymemcache.client.base import Client

from conftest import Process, Server, accepts, free_port, until
from values import SIZES, noise

CONFIGURATION = """
pool:
  listen: 127.0.0.1:{port}
  hash: fnv1a_64
  distribution: ketama
  auto_eject_hosts: false
  timeout: 20000
  servers:
   - {first}:1
   - {second}:1
"""


@pytest.fixture
def servers(tmp_path):
    servers = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        servers.append(Server(tmp_path / name))
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture
def proxy(servers, tmp_path):
    port = free_port()
    configuration = tmp_path / "nutcracker.yml"
    configuration.write_text(CONFIGURATION.format(port=port, first=servers[0].address, second=servers[1].address))
    statistics = free_port()
    process = Process(["nutcracker", "-c", str(configuration), "-a", "127.0.0.1", "-s", str(statistics)], tmp_path)
    until("nutcracker accepts", lambda: process.running() and accepts(port))
    yield port
    process.end(signal.SIGKILL)


def test_through_the_proxy(servers, proxy):
    with closing(Client(("127.0.0.1", proxy), timeout=30)) as client:
        for size in SIZES:
            assert client.set(f"k{size}", noise(size, size), noreply=False)
        for size in SIZES:
            assert client.get(f"k{size}") == noise(size, size)
        wanted = {f"key{i}": noise(i, i % 300) for i in range(1000)}
        client.set_many(wanted, noreply=False)
        assert client.get_many([*wanted, "absent"]) == wanted
        value, unique = client.gets("key1")
        assert client.cas("key1", b"other", unique) is True and client.cas("key1", b"third", unique) is False
        assert client.incr("absent", 1, noreply=False) is None
        client.set("n", b"10", noreply=False)
        assert client.incr("n", 5, noreply=False) == 15 and client.touch("n", 100, noreply=False)
        assert client.delete("n", noreply=False) and not client.delete("n", noreply=False)
    held = []
    for server in servers:
        with closing(Client(server.address)) as client:
            held.append(client.stats()[b"curr_items"])
    assert sum(held) == 1000 + len(SIZES) and all(count > 200 for count in held), "both servers have their share"


def test_server_restarts_behind_it(servers, proxy):
    with closing(Client(("127.0.0.1", proxy), timeout=30)) as client:
        for i in range(200):
            client.set(f"key{i}", noise(i, 100), noreply=False)
    servers[0].kill()
    servers[0].start()

    def whole():
        try:
            with closing(Client(("127.0.0.1", proxy), timeout=30)) as client:
                return all(client.get(f"key{i}") == noise(i, 100) for i in range(200))
        except Exception:  # the proxy tells of its lost connection, once
            return False

    until("everything comes back through the proxy", whole)
