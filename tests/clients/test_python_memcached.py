"""python-memcached with its own defaults: pickles, and a server that it calls dead at the first fault."""

import memcache
import pytest

from values import OBJECTS, SIZES, noise


@pytest.fixture
def client(server):
    client = memcache.Client([server.address], cache_cas=True, socket_timeout=30)
    yield client
    assert all(host.deaduntil == 0 for host in client.servers), "the client took the server for dead"
    client.disconnect_all()


def test_values_of_every_size(client):
    for size in SIZES:
        assert client.set(f"k{size}", noise(size, size))
    for size in SIZES:
        assert client.get(f"k{size}") == noise(size, size)


def test_objects(client):
    for name, value in OBJECTS.items():
        assert client.set(name, value)
        assert client.get(name) == value


def test_storage_commands(client):
    assert client.get("a") is None
    assert client.add("a", "1")
    assert not client.add("a", "2")
    assert client.replace("a", "3")
    assert not client.replace("b", "4")
    assert client.append("a", ">") and client.prepend("a", "<")
    assert client.get("a") == "<3>"
    assert client.delete("a")
    assert client.get("a") is None


def test_many_at_once(client):
    wanted = {f"key{i}": noise(i, i % 3000) for i in range(3000)}
    assert client.set_multi(wanted) == []
    assert client.get_multi([*wanted, "absent"]) == wanted
    assert client.delete_multi(list(wanted))
    assert client.get_multi(list(wanted)) == {}


def test_cas(server, client):
    client.set("a", 1)
    assert client.gets("a") == 1
    assert client.cas("a", 2)
    other = memcache.Client([server.address])
    client.gets("a")
    other.set("a", 3)
    assert not client.cas("a", 4)
    assert client.get("a") == 3


def test_arithmetic(client):
    client.set("n", 10)
    assert client.incr("n") == 11
    assert client.incr("n", 100) == 111
    assert client.decr("n", 200) == 0
    assert client.incr("absent") is None


def test_expiry_and_flush(client):
    client.set("a", 1, time=100)
    assert client.touch("a", 200)
    assert client.get("a") == 1
    client.flush_all()
    assert client.get("a") is None


def test_stats(server, client):
    (name, stats), = client.get_stats()
    assert server.address in name and stats["curr_items"] == "0"
    (_, settings), = client.get_stats("settings")
    assert settings["maxconns"]


def test_restart(server, restart):
    client = memcache.Client([server.address])
    assert client.set_multi(OBJECTS) == []
    assert client.set("large", noise(1, 1_000_000))
    client.disconnect_all()
    restart()
    client = memcache.Client([server.address])
    assert client.get_multi(list(OBJECTS)) == OBJECTS
    assert client.get("large") == noise(1, 1_000_000)


def test_unix_socket(server):
    if server.peer:
        pytest.skip("memcached listens on one or the other")
    client = memcache.Client([f"unix:{server.socket}"])
    assert client.set("a", 1)
    assert client.get("a") == 1
